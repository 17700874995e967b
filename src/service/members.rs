//! A set of connections of one shard, as a bitmap.

use std::collections::BTreeMap;
use std::rc::Rc;

use crate::connections::Cursor;
use crate::token::ConnId;

/// Slots of one page of a bitmap: a cache line.
const PAGE: u32 = 512;

/// A bitmap of places. A page exists only if a bit of it is set.
#[derive(Debug, Clone, Default)]
pub(super) struct Bitmap {
    /// By ring and by number of the page within it.
    pages: BTreeMap<(u32, u32), [u64; PAGE as usize / 64]>,
}

/// The page of a place, the word in it, and the bit in that.
fn split(place: Cursor) -> ((u32, u32), usize, u32) {
    let within = place.slot % PAGE;
    ((place.ring as u32, place.slot / PAGE), (within / 64) as usize, within % 64)
}

impl Bitmap {
    pub fn contains(&self, place: Cursor) -> bool {
        let (page, word, bit) = split(place);
        self.pages.get(&page).is_some_and(|words| words[word] >> bit & 1 == 1)
    }

    /// Returns whether the place is new to the set.
    pub fn insert(&mut self, place: Cursor) -> bool {
        let (page, word, bit) = split(place);
        let words = self.pages.entry(page).or_default();
        let before = words[word];
        words[word] |= 1 << bit;
        words[word] != before
    }

    /// Returns whether the place was in the set.
    pub fn remove(&mut self, place: Cursor) -> bool {
        let (page, word, bit) = split(place);
        let Some(words) = self.pages.get_mut(&page) else { return false };
        let before = words[word];
        words[word] &= !(1 << bit);
        let was_there = words[word] != before;
        if words.iter().all(|word| *word == 0) {
            self.pages.remove(&page);
        }
        was_there
    }

    /// The first place of the set at or after `from`.
    pub fn next(&self, from: Cursor) -> Option<Cursor> {
        let (first, word, bit) = split(from);
        for (page, words) in self.pages.range(first..) {
            let (start, mut mask) = if *page == first { (word, u64::MAX << bit) } else { (0, u64::MAX) };
            for (index, bits) in words.iter().enumerate().skip(start) {
                let found = bits & std::mem::replace(&mut mask, u64::MAX);
                if found != 0 {
                    let slot = page.1 * PAGE + index as u32 * 64 + found.trailing_zeros();
                    return Some(Cursor { ring: page.0 as usize, slot });
                }
            }
        }
        None
    }
}

/// Connections of one shard, such as a room's: one bit each, and 64 bytes for each 512 slots that have any. Clones
/// share their memory until one of them changes.
///
/// A set holds the connections' places and not their `ConnId`s. So remove a connection in `Service::closed`, and in
/// `Service::hand_over`, after which `closed` is not called: its place is given to the next connection.
#[derive(Debug, Clone, Default)]
pub struct Members {
    bits: Rc<Bitmap>,
    len: usize,
}

impl Members {
    /// An empty set.
    pub fn new() -> Members {
        Members::default()
    }

    /// Adds a connection. Returns whether it was not in the set.
    ///
    /// Add only a connection that is open. One may have ended since another thread was asked about it: check
    /// `ctx.is_open(conn)` first when the answer comes. Otherwise the next connection in its place becomes a member.
    pub fn insert(&mut self, conn: ConnId) -> bool {
        let new = !self.contains(conn) && Rc::make_mut(&mut self.bits).insert(Cursor::before(conn));
        self.len += usize::from(new);
        new
    }

    /// Removes a connection. Returns whether it was in the set.
    pub fn remove(&mut self, conn: ConnId) -> bool {
        let was_there = self.contains(conn) && Rc::make_mut(&mut self.bits).remove(Cursor::before(conn));
        self.len -= usize::from(was_there);
        was_there
    }

    /// Whether a connection is in the set.
    pub fn contains(&self, conn: ConnId) -> bool {
        self.bits.contains(Cursor::before(conn))
    }

    /// How many connections are in the set.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no connection is in the set.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(super) fn next(&self, from: Cursor) -> Option<Cursor> {
        self.bits.next(from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        /// Compared with a plain set: its members, their number, and the order in which they are found.
        #[test]
        fn members_are_a_set(steps in prop::collection::vec((any::<bool>(), 0usize..4, 0u32..2_000), 0..200)) {
            let (mut members, mut set) = (Members::new(), BTreeSet::new());
            let mut former = None;
            for (insert, ring, slot) in steps {
                let conn = ConnId::new(ring, slot, 9);
                former.get_or_insert_with(|| members.clone());
                if insert {
                    prop_assert_eq!(members.insert(conn), set.insert((ring, slot)));
                } else {
                    prop_assert_eq!(members.remove(conn), set.remove(&(ring, slot)));
                }
                prop_assert_eq!((members.len(), members.is_empty()), (set.len(), set.is_empty()));
            }
            let mut found = Vec::new();
            let mut from = Cursor::START;
            while let Some(place) = members.next(from) {
                found.push((place.ring, place.slot));
                from = Cursor { ring: place.ring, slot: place.slot + 1 };
            }
            prop_assert_eq!(found, set.into_iter().collect::<Vec<_>>());
            prop_assert!(former.is_none_or(|former| former.is_empty()), "a clone changed with the set");
        }
    }
}
