//! The text that an echo service is to send back: a mark, the token of its exchange, and digits that follow from the token
//! up to its length.

use std::ops::RangeInclusive;

use super::{Exchange, Purpose, digits, fill};

/// What it begins with. The token follows, as 16 hexadecimal digits.
pub const MARK: &[u8] = b"c1m echo ";

/// Its bytes: a position counts them in 16 bits.
pub const LENGTHS: RangeInclusive<usize> = MARK.len() + 16..=u16::MAX as usize;

/// Appends that of an exchange to `into`; messages of traffic have so many bytes, others end with the token.
pub fn write(exchange: Exchange, traffic: usize, into: &mut Vec<u8>) {
    let length = if exchange.purpose == Purpose::Message { traffic } else { *LENGTHS.start() };
    let end = into.len() + length;
    into.extend_from_slice(MARK);
    into.extend_from_slice(&digits(exchange.token()));
    fill(exchange.token(), end, into);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bytes are an interface: other programs may check them.
    #[test]
    fn the_bytes_stay_what_they_are() {
        let written = |purpose, round| {
            let mut text = b"before ".to_vec();
            write(Exchange { number: 42, round, purpose }, 60, &mut text);
            String::from_utf8(text).unwrap()
        };
        assert_eq!(written(Purpose::Audit, 2), "before c1m echo 3bdc490f9b0fd99b");
        assert_eq!(written(Purpose::Message, 7), "before c1m echo e2164e166193ef36be8f9b90e22c1c6ae43617c07a231535894");
    }
}
