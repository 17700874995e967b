//! What a push server and its clients say to each other. A *publication* is bytes that go to every subscriber as they are;
//! its publisher gets a *receipt*. docs/guide/services.md describes both for users.
//!
//! Over WebSocket a publication is a message on a connection that was opened at [`PUBLISH_PATH`], a receipt is a text, and
//! every other connection is a subscriber. Over plain bytes each of these is a [`Frame`].

mod client;

use std::fmt;

pub use client::Push;

/// Where publishers connect over WebSocket, and where a publication can be posted by HTTP.
pub const PUBLISH_PATH: &str = "/publish";

/// Bytes before the payload of a frame: four of length, which counts what follows it, and the kind.
pub const FRAME_HEADER: usize = 5;

/// What a frame over plain bytes is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// From a client: it subscribes. From the server: it is subscribed. Without a payload.
    Subscribe = b'S',
    /// From a publisher: a publication. From the server, to each subscriber: the same frame.
    Publish = b'P',
    /// From the server: the receipt for a publication, as text.
    Receipt = b'R',
    /// From a client: to be sent back as it is. From the server: that.
    Echo = b'E',
}

/// The header of a frame over plain bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame {
    /// What it is.
    pub kind: Kind,
    /// Bytes of its payload.
    pub length: usize,
}

/// Why bytes are no frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoFrame {
    /// Its length is 0, so that it has no kind.
    Empty,
    /// Its kind is none of those above.
    Kind(u8),
}

impl Frame {
    /// Reads the header at the beginning of `bytes`. `None` if it is not complete.
    pub fn read(bytes: &[u8]) -> Result<Option<Frame>, NoFrame> {
        let Some((length, rest)) = bytes.split_first_chunk() else { return Ok(None) };
        let length = (u32::from_be_bytes(*length) as usize).checked_sub(1).ok_or(NoFrame::Empty)?;
        let kind = match rest.first() {
            None => return Ok(None),
            Some(b'S') => Kind::Subscribe,
            Some(b'P') => Kind::Publish,
            Some(b'R') => Kind::Receipt,
            Some(b'E') => Kind::Echo,
            Some(other) => return Err(NoFrame::Kind(*other)),
        };
        Ok(Some(Frame { kind, length }))
    }

    /// Appends a whole frame to `into`. The payload has less than 4 GiB.
    pub fn append(kind: Kind, payload: &[u8], into: &mut Vec<u8>) {
        into.extend_from_slice(&(payload.len() as u32 + 1).to_be_bytes());
        into.push(kind as u8);
        into.extend_from_slice(payload);
    }
}

/// What the publisher is told of a publication, as text: `taken NUMBER SUBSCRIBERS MISSED`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Receipt {
    /// The publication, counted from 1 on its connection.
    pub number: u64,
    /// To how many subscribers it goes. It is on its way to them, and they may have it later or earlier than the receipt.
    pub subscribers: u64,
    /// How many shards had too much to do and did not take it: their subscribers, which are not among those above, miss
    /// it.
    pub missed: u64,
}

impl fmt::Display for Receipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "taken {} {} {}", self.number, self.subscribers, self.missed)
    }
}

impl Receipt {
    /// The receipt that a text is.
    pub fn read(text: &[u8]) -> Option<Receipt> {
        let mut words = std::str::from_utf8(text).ok()?.strip_prefix("taken ")?.split(' ').map(|word| {
            // No sign, and no zeros before a number: each receipt has one form.
            let number: u64 = word.parse().ok()?;
            (number.to_string() == word).then_some(number)
        });
        let mut next = || words.next().flatten();
        let receipt = Receipt { number: next()?, subscribers: next()?, missed: next()? };
        words.next().is_none().then_some(receipt)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_frame_is_read_as_it_was_written(payload in prop::collection::vec(any::<u8>(), 0..50)) {
            for kind in [Kind::Subscribe, Kind::Publish, Kind::Receipt, Kind::Echo] {
                let mut bytes = Vec::new();
                Frame::append(kind, &payload, &mut bytes);
                prop_assert_eq!(Frame::read(&bytes), Ok(Some(Frame { kind, length: payload.len() })));
                prop_assert_eq!(bytes.len(), FRAME_HEADER + payload.len());
                for cut in 0..FRAME_HEADER {
                    prop_assert_eq!(Frame::read(&bytes[..cut]), Ok(None));
                }
            }
        }

        #[test]
        fn a_receipt_is_read_as_it_was_written(number: u64, subscribers: u64, missed: u64) {
            let receipt = Receipt { number, subscribers, missed };
            prop_assert_eq!(Receipt::read(receipt.to_string().as_bytes()), Some(receipt));
        }

        #[test]
        fn a_receipt_has_one_form(text in "taken( [+0-9]{1,3}){1,4}") {
            if let Some(receipt) = Receipt::read(text.as_bytes()) {
                prop_assert_eq!(receipt.to_string(), text);
            }
        }
    }

    #[test]
    fn what_a_frame_must_not_be() {
        assert_eq!(Frame::read(&[0, 0, 0, 0]), Err(NoFrame::Empty));
        assert_eq!(Frame::read(&[0, 0, 0, 1, b'?']), Err(NoFrame::Kind(b'?')));
    }
}
