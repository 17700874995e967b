//! A TCP segment as it was caught: from the first byte of its TCP header on (RFC 9293, 3.1).

use core::net::{IpAddr, SocketAddr};
use std::ops::Range;

use super::Tuple;

/// The sender has no more to send.
pub const FIN: u8 = 0x01;
/// A connection begins.
pub const SYN: u8 = 0x02;
/// The connection is to be forgotten.
pub const RST: u8 = 0x04;
/// The receiver's program is to have what came so far.
pub const PSH: u8 = 0x08;
/// The acknowledgement number is valid.
pub const ACK: u8 = 0x10;
/// The urgent pointer is valid.
pub const URG: u8 = 0x20;

/// Bytes of a header without options.
pub const HEADER: usize = 20;

/// Bytes of payload that fit a packet of any interface: IPv6 demands 1,280 bytes (RFC 8200, 5), of which 40 are its header
/// and up to 60 that of TCP.
pub const FITS_ANYWHERE: usize = 1_180;

/// Where the flags are in a header.
pub const FLAGS: usize = 13;

/// Where the checksum is in a header.
pub const CHECKSUM: Range<usize> = 16..18;

/// The option that ends the list.
const END: u8 = 0;
/// An option of one byte, which fills up.
pub const NO_OPERATION: u8 = 1;
/// The option that carries timestamps (RFC 7323, 3.2), and how many bytes it has.
pub const TIMESTAMPS: u8 = 8;
pub const TIMESTAMPS_BYTES: u8 = 10;

/// The protocol number of TCP, as it stands in the pseudo header.
const PROTOCOL: u64 = 6;

/// The header of a segment, and how long its payload is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// The sender's port.
    pub source: u16,
    /// The receiver's port.
    pub destination: u16,
    /// The sequence number of the first byte, or of the FIN if there is no byte.
    pub sequence: u32,
    /// The sequence number that the sender expects next. It is valid with `ACK` only.
    pub acknowledgement: u32,
    /// `FIN`, `SYN`, `RST`, `ACK`, `URG`, and bits that this module does not use.
    pub flags: u8,
    /// The window that the sender announces, not yet shifted.
    pub window: u16,
    /// The timestamps option, if there is one.
    pub timestamps: Option<Timestamps>,
    /// Bytes of the header with its options, 20 to 60.
    pub header: usize,
    /// Bytes of payload.
    pub payload: usize,
}

/// The timestamps option (RFC 7323, 3.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timestamps {
    /// The sender's clock.
    pub value: u32,
    /// The last value that the sender got from its peer.
    pub echo: u32,
}

impl Segment {
    /// Reads a segment of `whole` bytes, of which `bytes` were captured. `None` if they do not hold a whole header.
    ///
    /// A segment of which only the beginning was captured is read as this beginning. That is a segment too: its FIN
    /// would come after the last byte and is left out, and the peer sends the rest again.
    ///
    /// Options that cannot be read are skipped, together with all that follow them, as the kernel does
    /// (`tcp_parse_options`).
    pub fn parse(bytes: &[u8], whole: usize) -> Option<Segment> {
        let (fixed, _) = bytes.split_first_chunk::<HEADER>()?;
        let header = usize::from(fixed[12] >> 4) * 4;
        let options = bytes.get(HEADER..header)?;
        let short = |at: usize| u16::from_be_bytes([fixed[at], fixed[at + 1]]);
        let word = |at: usize| u32::from_be_bytes([fixed[at], fixed[at + 1], fixed[at + 2], fixed[at + 3]]);
        let unsure = if bytes.len() < whole { FIN } else { 0 };
        Some(Segment {
            source: short(0),
            destination: short(2),
            sequence: word(4),
            acknowledgement: word(8),
            flags: fixed[FLAGS] & !unsure,
            window: short(14),
            timestamps: timestamps(options),
            header,
            payload: bytes.len() - header,
        })
    }

    /// Whether all of these flags are set.
    pub fn has(&self, flags: u8) -> bool {
        self.flags & flags == flags
    }

    /// Where the payload is in the bytes that were read.
    pub fn payload(&self) -> Range<usize> {
        self.header..self.header + self.payload
    }

    /// What an answer to this segment echoes: its timestamp, or 0 if it has none.
    pub fn echo(&self) -> u32 {
        self.timestamps.map_or(0, |timestamps| timestamps.value)
    }

    /// The connection that the segment belongs to, seen by its receiver. The addresses are those of the IP header.
    pub fn tuple(&self, source: IpAddr, destination: IpAddr) -> Tuple {
        Tuple {
            remote: SocketAddr::new(source.to_canonical(), self.source),
            local: SocketAddr::new(destination.to_canonical(), self.destination),
        }
    }
}

/// The timestamps option of a header.
fn timestamps(mut options: &[u8]) -> Option<Timestamps> {
    loop {
        let length = match options {
            [] | [END, ..] => return None,
            [NO_OPERATION, ..] => 1,
            [kind, length, ..] => {
                let option = options.get(..usize::from(*length))?;
                if *kind == TIMESTAMPS && *length == TIMESTAMPS_BYTES {
                    let word = |at: usize| Some(u32::from_be_bytes(*option.get(at..)?.first_chunk()?));
                    return Some(Timestamps { value: word(2)?, echo: word(6)? });
                }
                // A length that does not even cover itself.
                if option.len() < 2 {
                    return None;
                }
                option.len()
            }
            [_] => return None,
        };
        options = options.get(length..)?;
    }
}

/// Whether the checksum is right of a segment of `whole` bytes, of which `bytes` were captured.
///
/// The filter of a socket runs before the kernel has verified the checksum of longer segments, so it must be verified
/// here. A segment that never saw a wire, or that was merged by GRO, carries the sum of its pseudo header instead
/// (`CHECKSUM_PARTIAL`, `tcp_gro_complete`), which is taken as right. The kernel has verified the parts of such a
/// segment, or made them itself.
///
/// This is no weaker against forgery: a forger can write a right checksum as easily. It is weaker against noise:
/// a damaged segment from a wire passes twice as often, once in 32,768 times.
///
/// Of a segment whose end was not captured only the sum of the pseudo header can be told. Segments that are too long to
/// be captured were merged, so they have it.
pub fn checksum_is_right(tuple: &Tuple, bytes: &[u8], whole: usize) -> bool {
    let Some([high, low]) = bytes.get(CHECKSUM) else { return false };
    let pseudo = pseudo_header(tuple, whole);
    u16::from_be_bytes([*high, *low]) == fold(pseudo) || bytes.len() == whole && fold(pseudo + sum(bytes)) == u16::MAX
}

/// The checksum of a whole segment in two parts, the first of which has an even length and 0 in the place of the
/// checksum.
pub fn checksum(tuple: &Tuple, first: &[u8], second: &[u8]) -> u16 {
    !fold(pseudo_header(tuple, first.len() + second.len()) + sum(first) + sum(second))
}

/// Makes a caught segment of `whole` bytes, of which `bytes` were captured, one that can be sent again as it is: its
/// checksum covers the payload, and the beginning of a segment ends without the segment's FIN.
pub fn restore(tuple: &Tuple, bytes: &mut [u8], whole: usize) {
    if bytes.len() < whole
        && let Some(flags) = bytes.get_mut(FLAGS)
    {
        *flags &= !FIN;
    }
    if let Some(field) = bytes.get_mut(CHECKSUM) {
        field.fill(0);
    }
    let sum = checksum(tuple, bytes, &[]);
    if let Some(field) = bytes.get_mut(CHECKSUM) {
        field.copy_from_slice(&sum.to_be_bytes());
    }
}

/// The sum of the pseudo header (RFC 9293, 3.1, and RFC 8200, 8.1). It is the same in both directions.
fn pseudo_header(tuple: &Tuple, length: usize) -> u64 {
    let address = |end: SocketAddr| match end.ip() {
        IpAddr::V4(address) => sum(&address.octets()),
        IpAddr::V6(address) => sum(&address.octets()),
    };
    address(tuple.remote) + address(tuple.local) + PROTOCOL + length as u64
}

/// The sum of 32-bit words. Folded to 16 bits it is the sum of 16-bit words, as 2^32 and 2^16 are both 1 modulo 65,535
/// (RFC 1071).
fn sum(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<4>();
    let mut last = [0; 4];
    last[..rest.len()].copy_from_slice(rest);
    let last = u64::from(u32::from_be_bytes(last));
    words.iter().map(|word| u64::from(u32::from_be_bytes(*word))).sum::<u64>() + last
}

/// A sum in ones' complement of 16 bits.
fn fold(mut sum: u64) -> u16 {
    while sum > u64::from(u16::MAX) {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}
