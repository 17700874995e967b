//! The header of a frame (RFC 6455, 5.2).

use super::Violation;

/// Bytes of a header at most: two, eight of length, four of the mask.
pub const LONGEST_HEADER: usize = 14;

/// Bytes of the payload of a close, ping or pong at most.
pub const LONGEST_CONTROL: usize = 125;

/// Which end of a connection. A client masks its frames, a server does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It asked for the upgrade.
    Client,
    /// It was asked.
    Server,
}

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opcode {
    /// A fragment behind the first one of its message.
    Continuation = 0,
    /// A text, or its first fragment.
    Text = 1,
    /// A binary message, or its first fragment.
    Binary = 2,
    /// The end of the connection.
    Close = 8,
    /// A question whether the peer is there.
    Ping = 9,
    /// The answer, with the payload of the ping.
    Pong = 10,
}

impl Opcode {
    pub(super) fn of(bits: u8) -> Option<Opcode> {
        Some(match bits {
            0 => Opcode::Continuation,
            1 => Opcode::Text,
            2 => Opcode::Binary,
            8 => Opcode::Close,
            9 => Opcode::Ping,
            10 => Opcode::Pong,
            _ => return None,
        })
    }

    /// Whether it is a close, ping or pong, which may come between the fragments of a message.
    pub fn is_control(self) -> bool {
        self as u8 >= 8
    }
}

/// The header of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// What the frame is.
    pub opcode: Opcode,
    /// Whether it is the last frame of its message.
    pub last: bool,
    /// The key with which the payload is masked.
    pub mask: Option<[u8; 4]>,
    /// Bytes of the payload, below 2^63.
    pub length: u64,
}

impl Header {
    /// A frame that is a whole message, or a control frame.
    pub fn whole(opcode: Opcode, length: u64, mask: Option<[u8; 4]>) -> Header {
        Header { opcode, last: true, mask, length }
    }

    /// Reads the header at the beginning of `bytes`, which come from a peer of this role: the header and its own length.
    /// `None` if it is not complete. A violation is found as soon as the byte is there that shows it.
    #[inline]
    pub fn read(bytes: &[u8], from: Role) -> Result<Option<(Header, usize)>, Violation> {
        let Some(first) = bytes.first() else { return Ok(None) };
        if first & 0x70 != 0 {
            return Err(Violation::ReservedBits);
        }
        let opcode = Opcode::of(first & 0x0f).ok_or(Violation::ReservedOpcode(first & 0x0f))?;
        let last = first & 0x80 != 0;
        if opcode.is_control() && !last {
            return Err(Violation::FragmentedControl);
        }
        let Some(second) = bytes.get(1) else { return Ok(None) };
        let masked = second & 0x80 != 0;
        match from {
            Role::Client if !masked => return Err(Violation::Unmasked),
            Role::Server if masked => return Err(Violation::Masked),
            _ => {}
        }
        let short = second & 0x7f;
        if opcode.is_control() && usize::from(short) > LONGEST_CONTROL {
            return Err(Violation::LongControl);
        }
        let Some((length, mut end)) = length(short, &bytes[2..])? else { return Ok(None) };
        let mut mask = None;
        if masked {
            let Some(key) = bytes.get(end..).and_then(<[u8]>::first_chunk) else { return Ok(None) };
            mask = Some(*key);
            end += key.len();
        }
        Ok(Some((Header { opcode, last, mask, length }, end)))
    }

    /// Writes the header to the beginning of `into`, and returns its length.
    pub fn write(&self, into: &mut [u8; LONGEST_HEADER]) -> usize {
        into[0] = u8::from(self.last) << 7 | self.opcode as u8;
        let masked = u8::from(self.mask.is_some()) << 7;
        let mut end = match self.length {
            0..126 => {
                into[1] = masked | self.length as u8;
                2
            }
            126..0x1_0000 => {
                into[1] = masked | 126;
                into[2..4].copy_from_slice(&(self.length as u16).to_be_bytes());
                4
            }
            _ => {
                into[1] = masked | 127;
                into[2..10].copy_from_slice(&self.length.to_be_bytes());
                10
            }
        };
        if let Some(key) = self.mask {
            into[end..end + key.len()].copy_from_slice(&key);
            end += key.len();
        }
        end
    }

    /// Appends the header to `into`.
    pub fn append(&self, into: &mut Vec<u8>) {
        let mut bytes = [0; LONGEST_HEADER];
        let length = self.write(&mut bytes);
        into.extend_from_slice(&bytes[..length]);
    }
}

/// The length of a payload, and where the header goes on; `more` is what follows its first two bytes. `None` if that is
/// not complete.
fn length(short: u8, more: &[u8]) -> Result<Option<(u64, usize)>, Violation> {
    let (length, end, least) = match short {
        126 => match more.first_chunk::<2>() {
            Some(bytes) => (u64::from(u16::from_be_bytes(*bytes)), 4, 126),
            None => return Ok(None),
        },
        127 => match more.first_chunk::<8>() {
            Some(bytes) => (u64::from_be_bytes(*bytes), 10, 0x1_0000),
            None => return Ok(None),
        },
        _ => (u64::from(short), 2, 0),
    };
    if length < least || length > i64::MAX as u64 { Err(Violation::Length) } else { Ok(Some((length, end))) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const OPCODES: [Opcode; 6] =
        [Opcode::Continuation, Opcode::Text, Opcode::Binary, Opcode::Close, Opcode::Ping, Opcode::Pong];

    fn header() -> impl Strategy<Value = Header> {
        let lengths = prop_oneof![0u64..300, 0xff00u64..0x1_0100, 0..=i64::MAX as u64];
        let parts = (prop::sample::select(OPCODES.to_vec()), any::<bool>(), any::<Option<[u8; 4]>>(), lengths);
        parts.prop_map(|(opcode, last, mask, length)| match opcode.is_control() {
            true => Header { opcode, last: true, mask, length: length % 126 },
            false => Header { opcode, last, mask, length },
        })
    }

    proptest! {
        /// What is written is read back, and every beginning of it is incomplete and no violation.
        #[test]
        fn a_header_is_read_as_it_was_written_and_a_part_of_it_is_incomplete(
            header in header(), behind in prop::collection::vec(any::<u8>(), 0..4)
        ) {
            let from = if header.mask.is_some() { Role::Client } else { Role::Server };
            let mut bytes = Vec::new();
            header.append(&mut bytes);
            let length = bytes.len();
            bytes.extend(behind);
            prop_assert_eq!(Header::read(&bytes, from), Ok(Some((header, length))));
            for cut in 0..length {
                prop_assert_eq!(Header::read(&bytes[..cut], from), Ok(None));
            }
            let other = if from == Role::Client { Role::Server } else { Role::Client };
            prop_assert!(matches!(Header::read(&bytes, other), Err(Violation::Masked | Violation::Unmasked)));
        }

        /// Whatever bytes are read as a header are the only way to write it.
        #[test]
        fn a_header_has_one_form(bytes in prop::collection::vec(any::<u8>(), 0..16)) {
            for from in [Role::Client, Role::Server] {
                if let Ok(Some((header, length))) = Header::read(&bytes, from) {
                    let mut again = Vec::new();
                    header.append(&mut again);
                    prop_assert_eq!(&again[..], &bytes[..length]);
                }
            }
        }
    }

    #[test]
    fn what_a_header_must_not_be() {
        let read = |bytes: &[u8]| Header::read(bytes, Role::Client).unwrap_err();
        assert_eq!(read(&[0xc1]), Violation::ReservedBits);
        assert_eq!(read(&[0x83]), Violation::ReservedOpcode(3));
        assert_eq!(read(&[0x8b]), Violation::ReservedOpcode(11));
        assert_eq!(read(&[0x09]), Violation::FragmentedControl);
        assert_eq!(read(&[0x89, 0xfe]), Violation::LongControl);
        assert_eq!(read(&[0x81, 0x05]), Violation::Unmasked);
        assert_eq!(read(&[0x81, 0xfe, 0, 125]), Violation::Length);
        assert_eq!(read(&[0x81, 0xff, 0, 0, 0, 0, 0, 0, 0xff, 0xff]), Violation::Length);
        assert_eq!(read(&[0x81, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0]), Violation::Length);
        assert_eq!(Header::read(&[0x81, 0x85], Role::Server), Err(Violation::Masked));
    }
}
