//! Messages that are published to many subscribers: how a message says which publication it is.

use super::append_hexadecimal;

/// What a publication's message begins with, before its number.
const MARK: &[u8] = b"c1m publication ";

/// Digits of the number, which are hexadecimal.
const DIGITS: usize = 16;

/// Bytes at the beginning of a message that tell which publication it is. Whatever follows is filling.
pub const LENGTH: usize = MARK.len() + DIGITS;

/// Appends the beginning of a publication's message to `into`. It is text.
pub fn write(number: u64, into: &mut Vec<u8>) {
    into.extend_from_slice(MARK);
    append_hexadecimal(number, into);
}

/// The number of the publication whose message begins with `bytes`; `None` for any other message, and for fewer bytes
/// than `LENGTH`.
pub fn read(bytes: &[u8]) -> Option<u64> {
    let digits = bytes.strip_prefix(MARK)?.get(..DIGITS)?;
    let small = digits.iter().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'));
    if small { u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok() } else { None }
}

/// Whether a message that begins with `bytes` may be a publication's.
pub fn may_be(bytes: &[u8]) -> bool {
    bytes.iter().zip(MARK).all(|(byte, mark)| byte == mark)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_number_is_read_as_it_was_written(number: u64, filling: Vec<u8>) {
            let mut message = Vec::new();
            write(number, &mut message);
            prop_assert_eq!(message.len(), LENGTH);
            prop_assert!((0..LENGTH).all(|cut| read(&message[..cut]).is_none() && may_be(&message[..cut])));
            message.extend(filling);
            prop_assert_eq!(read(&message), Some(number));
        }
    }

    #[test]
    fn other_messages_are_no_publications() {
        assert!(may_be(b"") && !may_be(b"c1m echo"));
        for other in ["c1m publication 000000000000000G", "c1m publication +00000000000000f", "c1m publication"] {
            assert_eq!(read(other.as_bytes()), None, "{other}");
        }
    }
}
