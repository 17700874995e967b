//! What a message to a connection's own topic holds: 16 hexadecimal digits of its token, and more of them that follow from
//! it up to its length.

use std::ops::RangeInclusive;

use super::{Exchange, Purpose, digits, mix};

/// Digits of the token: a payload has no fewer bytes.
const SHORTEST: usize = 16;

/// Bytes of a payload. The longest one, with a topic of 4,096 bytes, stays below the 65,535 bytes of a packet of MQTT: up to
/// there a server's limit is known.
pub const LENGTHS: RangeInclusive<usize> = SHORTEST..=60_000;

/// The payload of one message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Payload {
    /// The exchange's token.
    pub token: u64,
    /// Its bytes.
    pub length: usize,
}

impl Payload {
    /// That of an exchange; messages of traffic hold so many bytes, others the token alone.
    pub fn of(exchange: Exchange, traffic: usize) -> Payload {
        let length = if exchange.purpose == Purpose::Message { traffic } else { SHORTEST };
        Payload { token: exchange.token(), length }
    }

    /// The digits that begin at a multiple of 16 bytes.
    fn word(self, nth: usize) -> [u8; 16] {
        digits(if nth == 0 { self.token } else { mix(self.token.wrapping_add(nth as u64)) })
    }

    /// Appends it to `into`.
    pub fn write(self, into: &mut Vec<u8>) {
        let end = into.len() + self.length;
        (0..self.length.div_ceil(16)).for_each(|nth| into.extend_from_slice(&self.word(nth)));
        into.truncate(end);
    }

    /// Whether these bytes are in it from `offset` on.
    pub fn has(self, mut offset: usize, mut bytes: &[u8]) -> bool {
        if offset + bytes.len() > self.length {
            return false;
        }
        while !bytes.is_empty() {
            let word = self.word(offset / 16);
            let (now, later) = bytes.split_at(bytes.len().min(16 - offset % 16));
            if word[offset % 16..][..now.len()] != *now {
                return false;
            }
            (offset, bytes) = (offset + now.len(), later);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_payload_has_its_own_bytes_and_no_others(
            token: u64,
            length in SHORTEST..200,
            from in 0usize..200,
            many in 0usize..200,
            wrong in 0usize..200,
        ) {
            let payload = Payload { token, length };
            let mut bytes = Vec::new();
            payload.write(&mut bytes);
            prop_assert_eq!(bytes.len(), length);
            let digits = format!("{token:016x}");
            prop_assert_eq!(&bytes[..16], digits.as_bytes());
            let from = from.min(length);
            let to = (from + many).min(length);
            prop_assert!(payload.has(from, &bytes[from..to]));
            prop_assert!(!payload.has(from, &[&bytes[from..], b"0"].concat()));
            let wrong = wrong % length;
            bytes[wrong] ^= 1;
            prop_assert_eq!(payload.has(from, &bytes[from..to]), !(from..to).contains(&wrong));
        }
    }
}
