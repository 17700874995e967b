//! Why a connection is closed (RFC 6455, 5.5.1 and 7.4).

use super::{LONGEST_CONTROL, Violation};

/// Bytes of a reason at most: a close has 125 bytes of payload, and a code takes two.
pub const LONGEST_REASON: usize = LONGEST_CONTROL - 2;

/// A code that may be in a close frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CloseCode(u16);

impl CloseCode {
    /// All is done.
    pub const NORMAL: CloseCode = CloseCode(1000);
    /// The server goes down, or the page was left.
    pub const GOING_AWAY: CloseCode = CloseCode(1001);
    /// The peer broke the protocol.
    pub const PROTOCOL_ERROR: CloseCode = CloseCode(1002);
    /// The peer sent a kind of message that is not taken here.
    pub const UNSUPPORTED: CloseCode = CloseCode(1003);
    /// The peer sent a text that is not UTF-8.
    pub const INVALID_DATA: CloseCode = CloseCode(1007);
    /// The peer sent something that is not allowed here.
    pub const POLICY: CloseCode = CloseCode(1008);
    /// The peer sent a message that is too long.
    pub const TOO_LONG: CloseCode = CloseCode(1009);
    /// The server met something unexpected.
    pub const INTERNAL: CloseCode = CloseCode(1011);
    /// The server restarts: come again a little later.
    pub const RESTART: CloseCode = CloseCode(1012);
    /// The server has too much to do: come again later.
    pub const TRY_AGAIN: CloseCode = CloseCode(1013);

    /// The code of this number, if it may be sent: 1000 to 1003 and 1007 to 1014, which IANA has registered, and 3000 to
    /// 4999, which are for libraries and programs (RFC 6455, 7.4.2).
    pub const fn new(number: u16) -> Option<CloseCode> {
        match number {
            1000..=1003 | 1007..=1014 | 3000..=4999 => Some(CloseCode(number)),
            _ => None,
        }
    }

    /// Its number.
    pub const fn number(self) -> u16 {
        self.0
    }
}

/// The payload of a close frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Close<'a> {
    /// The code; `None` for a close without a payload.
    pub code: Option<CloseCode>,
    /// Words for people, at most 123 bytes.
    pub reason: &'a str,
}

impl<'a> Close<'a> {
    /// Reads a payload.
    pub fn read(payload: &'a [u8]) -> Result<Close<'a>, Violation> {
        match payload.split_first_chunk() {
            None if payload.is_empty() => Ok(Close { code: None, reason: "" }),
            None => Err(Violation::ShortClose),
            Some((number, reason)) => {
                let number = u16::from_be_bytes(*number);
                let code = CloseCode::new(number).ok_or(Violation::CloseCode(number))?;
                let reason = std::str::from_utf8(reason).map_err(|_| Violation::CloseReason)?;
                Ok(Close { code: Some(code), reason })
            }
        }
    }

    /// Appends the payload to `into`. Of a long reason as many whole characters as fit; without a code, none.
    pub fn append(&self, into: &mut Vec<u8>) {
        let Some(code) = self.code else { return };
        into.extend_from_slice(&code.number().to_be_bytes());
        let end = (0..=LONGEST_REASON).rev().find(|end| self.reason.is_char_boundary(*end));
        into.extend_from_slice(&self.reason.as_bytes()[..end.unwrap_or(0)]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_code_may_be_sent_or_not() {
        let allowed = |number| CloseCode::new(number).is_some();
        let sent = [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999];
        let not = [0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535];
        assert!(sent.into_iter().all(allowed) && !not.into_iter().any(allowed));
    }

    #[test]
    fn what_a_close_must_not_be() {
        assert_eq!(Close::read(b"\x03"), Err(Violation::ShortClose));
        assert_eq!(Close::read(b"\x03\xed"), Err(Violation::CloseCode(1005)));
        assert_eq!(Close::read(b"\x03\xe8\xff"), Err(Violation::CloseReason));
    }

    proptest! {
        #[test]
        fn a_close_is_read_as_it_was_written_and_never_too_long(number: u16, reason in "\\PC{0,150}") {
            let code = CloseCode::new(number);
            let mut payload = Vec::new();
            Close { code, reason: &reason }.append(&mut payload);
            prop_assert!(payload.len() <= LONGEST_CONTROL);
            let read = Close::read(&payload).unwrap();
            prop_assert_eq!(read.code, code);
            prop_assert!(reason.starts_with(read.reason));
            prop_assert!(code.is_none() || read.reason == reason || read.reason.len() > LONGEST_REASON - 4);
        }
    }
}
