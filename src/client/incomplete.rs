//! Answers and unasked frames that are incomplete: how far each has come. Most connections have none at any time, so
//! their rows have no place for it.

use std::collections::HashMap;

use crate::protocol::{Position, Scratch};

/// Connections of a shard that have one at most, in flight or not. Each takes some 50 bytes, and what is kept of its frame.
const MOST: usize = 131_072;

/// Bytes of memory for the frames and heads that are kept, in all at most.
const MOST_KEPT_IN_ALL: usize = 16 << 20;

/// Connections for which the table keeps its memory.
const FEW: usize = 1_024;

/// What is known of an incomplete answer or frame.
#[derive(Debug, Default)]
struct Incomplete {
    position: Position,
    kept: Vec<u8>,
}

/// The incomplete answers and frames of a shard, by the number of their connection within it.
#[derive(Debug, Default)]
pub struct IncompleteTable {
    all: HashMap<u32, Incomplete>,
    /// Bytes of memory that all these take now.
    kept: usize,
}

impl IncompleteTable {
    /// Takes out what is known of a connection: its position, and into `scratch` the bytes that were kept.
    pub fn take(&mut self, index: u32, scratch: &mut Scratch) -> Position {
        scratch.kept.clear();
        let Some(found) = self.remove(index) else { return Position::default() };
        scratch.kept = found.kept;
        found.position
    }

    /// Keeps the position of a connection, and the bytes that `scratch` keeps of it. `false` if there is no room.
    pub fn put(&mut self, index: u32, position: Position, scratch: &mut Scratch) -> bool {
        if position == Position::default() && scratch.kept.is_empty() {
            return true;
        }
        // A few bytes may follow a long head, whose memory they must not keep.
        scratch.kept.shrink_to_fit();
        let has_room = self.all.len() < MOST && self.kept + scratch.kept.capacity() <= MOST_KEPT_IN_ALL;
        if has_room {
            self.kept += scratch.kept.capacity();
            self.all.insert(index, Incomplete { position, kept: std::mem::take(&mut scratch.kept) });
        }
        has_room
    }

    /// Forgets a connection.
    pub fn forget(&mut self, index: u32) {
        self.remove(index);
    }

    fn remove(&mut self, index: u32) -> Option<Incomplete> {
        // While there are none, which is most of the time, nothing is looked up.
        if self.all.is_empty() {
            return None;
        }
        let found = self.all.remove(&index)?;
        self.kept -= found.kept.capacity();
        if self.all.is_empty() {
            // A crowd of them is over.
            self.all.shrink_to(FEW);
        }
        Some(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What was long and has become short takes little memory, and all that is taken is counted.
    #[test]
    fn memory_is_counted_and_not_lengths() {
        let (mut table, mut scratch) = (IncompleteTable::default(), Scratch::default());
        for index in 0..100 {
            scratch.kept = Vec::with_capacity(16 * 1024);
            scratch.kept.push(7);
            assert!(table.put(index, Position::default(), &mut scratch));
        }
        let taken: usize = table.all.values().map(|incomplete| incomplete.kept.capacity()).sum();
        assert!(table.kept == taken && taken < 16 * 1024, "{} counted, {taken} taken", table.kept);
        table.take(0, &mut scratch);
        assert_eq!(scratch.kept, [7]);
        (0..100).for_each(|index| table.forget(index));
        assert_eq!(table.kept, 0);
    }
}
