//! Messages that are published to many subscribers: how a message says which publication it is, and how a subscriber
//! finds that out of bytes that come in pieces.
//!
//! The payload of a publication is text that may stand in any message, also in JSON: a mark, the publication's
//! [identity](Publication) in 48 hexadecimal digits, and filling up to its length. So a receiver sees without further
//! knowledge whether it has come whole and unchanged.

use super::digits;

/// What a payload begins with. No character of it but the first is a `c`, so nothing but its first character may be the
/// beginning of another one.
const MARK: &[u8; 16] = b"c1m pushes this ";

/// Digits of the identity: run, number, instant, length.
const DIGITS: [usize; 4] = [16, 8, 16, 8];

/// Bytes of a payload at least: the mark and the identity.
pub const LENGTH: usize = MARK.len() + DIGITS[0] + DIGITS[1] + DIGITS[2] + DIGITS[3];

/// What stands behind the identity, again and again: each byte by its place in the payload.
const FILLING: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// The identity of a publication.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Publication {
    /// The run that published it.
    pub run: u64,
    /// Its number within the run, from 0 on.
    pub number: u32,
    /// When it should have been published, in nanoseconds since the run's first publication was due.
    pub instant: u64,
    /// Bytes of its payload, [`LENGTH`] or more.
    pub length: u32,
}

impl Publication {
    /// Appends its payload to `into`.
    pub fn write(&self, into: &mut Vec<u8>) {
        let start = into.len();
        into.extend_from_slice(MARK);
        let fields = [self.run, self.number.into(), self.instant, self.length.into()];
        for (value, width) in fields.into_iter().zip(DIGITS) {
            // The digits of a short field are the last ones of 16.
            into.extend_from_slice(&digits(value)[16 - width..]);
        }
        let end = start + (self.length as usize).max(LENGTH);
        while into.len() < end {
            let offset = (into.len() - start) % FILLING.len();
            let here = (FILLING.len() - offset).min(end - into.len());
            into.extend_from_slice(&FILLING[offset..offset + here]);
        }
    }

    /// Reads the digits behind the mark.
    fn read(digits: &[u8]) -> Option<Publication> {
        let mut rest = digits;
        let mut next = |digits: usize| {
            let (field, behind) = rest.split_at_checked(digits)?;
            rest = behind;
            u64::from_str_radix(std::str::from_utf8(field).ok()?, 16).ok()
        };
        let [run, number, instant, length] = DIGITS.map(&mut next);
        Some(Publication { run: run?, number: number? as u32, instant: instant?, length: length? as u32 })
    }
}

/// A publication came, and not as it was published: it was cut off, or its bytes were changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Altered;

/// Searches the bytes of one message for a publication.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Search {
    /// Bytes of the payload so far, all of them as they should be.
    had: u32,
    is_altered: bool,
    /// The beginning of the payload.
    head: [u8; LENGTH],
}

impl Default for Search {
    fn default() -> Search {
        Search { had: 0, is_altered: false, head: [0; LENGTH] }
    }
}

impl Search {
    /// Bytes that keep a search between two pieces of its message.
    pub const KEPT: usize = size_of::<u32>() + 1 + LENGTH;

    /// The search that was kept in these bytes; one that has found nothing, if there are too few.
    pub fn load(kept: &[u8]) -> Search {
        let Some(([a, b, c, d, altered], rest)) = kept.split_first_chunk() else { return Search::default() };
        let Some(head) = rest.first_chunk() else { return Search::default() };
        Search { had: u32::from_be_bytes([*a, *b, *c, *d]), is_altered: *altered != 0, head: *head }
    }

    /// Keeps the search in the first `KEPT` bytes, which must be there.
    fn store(&self, kept: &mut [u8]) {
        if let Some(([a, b, c, d, altered], rest)) = kept.split_first_chunk_mut() {
            [*a, *b, *c, *d] = self.had.to_be_bytes();
            *altered = self.is_altered.into();
            rest[..LENGTH].copy_from_slice(&self.head);
        }
    }

    /// Begins the search of a message that comes in pieces, in `kept`.
    pub fn begin(kept: &mut Vec<u8>) {
        kept.resize(Search::KEPT, 0);
        Search::default().store(kept);
    }

    /// Goes on with the search in `kept`, which [`Search::begin`] has begun, with the next piece of its message.
    pub fn go_on(kept: &mut [u8], piece: &[u8]) {
        let mut search = Search::load(kept);
        search.take(piece);
        search.store(kept);
    }

    /// Takes the next bytes of the message.
    fn take(&mut self, mut bytes: &[u8]) {
        while let [byte, rest @ ..] = bytes
            && (self.had as usize) < LENGTH
        {
            // A mark is looked for in the fastest way: most bytes of most messages are none of it.
            if self.had == 0 {
                let Some(at) = bytes.iter().position(|byte| *byte == MARK[0]) else { return };
                (self.head[0], self.had, bytes) = (MARK[0], 1, &bytes[at + 1..]);
                continue;
            }
            let at = self.had as usize;
            let is_right = MARK.get(at).map_or(matches!(byte, b'0'..=b'9' | b'a'..=b'f'), |mark| mark == byte);
            self.had = if is_right { self.had + 1 } else { self.begins_anew(*byte) };
            bytes = rest;
            if is_right {
                self.head[at] = *byte;
            }
        }
        self.fill(bytes);
    }

    /// How much of a mark there may be where a byte is none of the payload that had begun. `c` and `1`, with which a mark
    /// begins, are digits too.
    fn begins_anew(&self, byte: u8) -> u32 {
        let before = &self.head[..self.had as usize];
        match byte {
            b'm' if before.len() > MARK.len() && before.ends_with(&MARK[..2]) => 3,
            byte if byte == MARK[0] => 1,
            _ => 0,
        }
    }

    /// Takes bytes behind the identity.
    fn fill(&mut self, bytes: &[u8]) {
        let Some(found) = self.identity() else { return };
        let left = found.length.saturating_sub(self.had) as usize;
        let mut bytes = &bytes[..bytes.len().min(left)];
        while !bytes.is_empty() && !self.is_altered {
            let offset = self.had as usize % FILLING.len();
            let (now, later) = bytes.split_at(bytes.len().min(FILLING.len() - offset));
            self.is_altered = FILLING[offset..][..now.len()] != *now;
            // No more than the length that was read, which has 32 bits.
            (self.had, bytes) = (self.had + now.len() as u32, later);
        }
    }

    fn identity(&self) -> Option<Publication> {
        if self.had as usize >= LENGTH { Publication::read(&self.head[MARK.len()..]) } else { None }
    }

    /// The message has ended: the publication that was in it, if there was one.
    pub fn end(&self) -> Option<Result<Publication, Altered>> {
        let found = self.identity()?;
        // A length below the shortest is none that we have written.
        let is_whole = found.length == self.had && !self.is_altered;
        Some(if is_whole { Ok(found) } else { Err(Altered) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn publication() -> impl Strategy<Value = Publication> {
        (any::<u64>(), any::<u32>(), any::<u64>(), LENGTH as u32..400)
            .prop_map(|(run, number, instant, length)| Publication { run, number, instant, length })
    }

    fn written(publication: Publication) -> Vec<u8> {
        let mut payload = Vec::new();
        publication.write(&mut payload);
        payload
    }

    /// What is found in a message that comes in pieces of these lengths, and is kept between them.
    fn found(message: &[u8], pieces: &[usize]) -> Option<Result<Publication, Altered>> {
        let mut kept = Vec::new();
        Search::begin(&mut kept);
        let (mut rest, mut pieces) = (message, pieces.iter().cycle());
        while !rest.is_empty() {
            let (piece, later) = rest.split_at((*pieces.next().unwrap()).min(rest.len()));
            Search::go_on(&mut kept, piece);
            rest = later;
        }
        Search::load(&kept).end()
    }

    proptest! {
        #[test]
        fn a_publication_is_found_wherever_it_stands_and_however_it_is_cut(
            publication in publication(),
            before in "[ -~]{0,40}",
            after in "[ -~]{0,40}",
            pieces in prop::collection::vec(1usize..80, 1..10),
        ) {
            let payload = written(publication);
            prop_assert_eq!(payload.len(), publication.length as usize);
            prop_assert!(payload.iter().all(|byte| matches!(byte, b' '..=b'~') && !b"\"\\".contains(byte)));
            let message = [before.as_bytes(), &payload, after.as_bytes()].concat();
            prop_assert_eq!(found(&message, &pieces), Some(Ok(publication)));
        }

        #[test]
        fn a_publication_that_was_changed_or_cut_off_is_never_taken_for_one(
            publication in publication(),
            at in any::<prop::sample::Index>(),
            to: u8,
            pieces in prop::collection::vec(1usize..80, 1..10),
        ) {
            let payload = written(publication);
            let (cut, mut changed) = (at.index(payload.len()), payload.clone());
            prop_assert_ne!(found(&payload[..cut], &pieces), Some(Ok(publication)));
            changed[cut] = to;
            prop_assert_eq!(found(&changed, &pieces) == Some(Ok(publication)), changed == payload);
        }

        #[test]
        fn other_messages_hold_no_publication(message in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert_eq!(found(&message, &[7]), None);
        }
    }

    #[test]
    fn a_mark_may_begin_within_one_that_failed() {
        let publication = Publication { run: 1, number: 2, instant: 3, length: LENGTH as u32 };
        let message = [b"c1c1m pushc1m pushes this 0c", &written(publication)[..]].concat();
        assert_eq!(found(&message, &[1]), Some(Ok(publication)));
        assert_eq!(found(&message[..message.len() - 1], &[200]), None);
    }

    /// A length that no payload of ours has.
    #[test]
    fn a_short_length_is_an_altered_one() {
        let mut payload = written(Publication { run: 1, number: 2, instant: 3, length: LENGTH as u32 });
        payload[LENGTH - 1] = b'1';
        assert_eq!(found(&payload, &[9]), Some(Err(Altered)));
    }
}
