//! WebSocket (RFC 6455) as bytes: frames, masks, close codes and the opening handshake, for both roles and without I/O.
//! No extension is spoken, so the reserved bits of a frame are always zero.
//!
//! | part | what it knows |
//! |---|---|
//! | `frame` | the header of a frame, read from bytes that may be incomplete, and written |
//! | `mask` | masking, eight bytes at a time |
//! | `assembly` | messages out of frames, in the buffer where they lie whole |
//! | `close` | close codes, and the payload of a close frame |
//! | `handshake` | the request for an upgrade and the answer, each written and checked |
//! | `client` | `websocket`, the client's dialect |
//! | `frames` | the frames that a client gets, in pieces |
//! | `talk` | what a client says to subscribe and to publish |

mod assembly;
mod client;
mod close;
mod frame;
mod frames;
mod handshake;
mod mask;
mod talk;
#[cfg(test)]
mod tests;

use std::fmt;

pub use super::utf8::text;
pub use assembly::{Assembly, Event, Rules};
pub use client::WebSocket;
pub use close::{Close, CloseCode, LONGEST_REASON};
pub use frame::{Header, LONGEST_CONTROL, LONGEST_HEADER, Opcode, Role};
pub use handshake::{Accept, Key, Refusal, check_request, check_response, write_accept, write_request_fields};
pub use mask::mask;

/// What a peer did that the protocol forbids, or that a limit does not allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Violation {
    /// A reserved bit of a frame is set, and no extension was agreed on (RFC 6455, 5.2).
    ReservedBits,
    /// The opcode has no meaning (5.2).
    ReservedOpcode(u8),
    /// A close, ping or pong is cut into fragments (5.5).
    FragmentedControl,
    /// A close, ping or pong has more than 125 bytes (5.5).
    LongControl,
    /// A client's frame is not masked (5.1).
    Unmasked,
    /// A server's frame is masked (5.1).
    Masked,
    /// The length of a payload takes more bytes than it needs, or its highest bit is set (5.2).
    Length,
    /// A continuation came, and no message is to be continued (5.4).
    NothingToContinue,
    /// A new message began before the last fragment of the one before (5.4).
    Interrupted,
    /// A text is not UTF-8 (8.1).
    NotUtf8,
    /// A close has a payload of one byte, where a code has two (5.5.1).
    ShortClose,
    /// A close has a code that must not be sent (7.4).
    CloseCode(u16),
    /// The reason of a close is not UTF-8 (5.5.1).
    CloseReason,
    /// A message is longer than the receiver takes.
    TooLong,
}

impl Violation {
    /// The code with which the receiver closes the connection.
    pub fn code(self) -> CloseCode {
        match self {
            Violation::NotUtf8 | Violation::CloseReason => CloseCode::INVALID_DATA,
            Violation::TooLong => CloseCode::TOO_LONG,
            _ => CloseCode::PROTOCOL_ERROR,
        }
    }

    /// The name under which it is counted.
    pub fn name(self) -> &'static str {
        match self {
            Violation::ReservedBits => "reserved_bits",
            Violation::ReservedOpcode(_) => "reserved_opcode",
            Violation::FragmentedControl => "fragmented_control",
            Violation::LongControl => "long_control",
            Violation::Unmasked => "unmasked",
            Violation::Masked => "masked",
            Violation::Length => "length",
            Violation::NothingToContinue => "nothing_to_continue",
            Violation::Interrupted => "interrupted",
            Violation::NotUtf8 => "not_utf8",
            Violation::ShortClose => "short_close",
            Violation::CloseCode(_) => "close_code",
            Violation::CloseReason => "close_reason",
            Violation::TooLong => "too_long",
        }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Violation::ReservedBits => f.write_str("a reserved bit is set, and no extension was agreed on"),
            Violation::ReservedOpcode(opcode) => write!(f, "the opcode {opcode} has no meaning"),
            Violation::FragmentedControl => f.write_str("a control frame is cut into fragments"),
            Violation::LongControl => f.write_str("a control frame has more than 125 bytes"),
            Violation::Unmasked => f.write_str("a client's frame is not masked"),
            Violation::Masked => f.write_str("a server's frame is masked"),
            Violation::Length => f.write_str("the length of a frame takes more bytes than it needs"),
            Violation::NothingToContinue => f.write_str("a continuation came, and no message is to be continued"),
            Violation::Interrupted => f.write_str("a message began before the one before it was complete"),
            Violation::NotUtf8 => f.write_str("a text is not UTF-8"),
            Violation::ShortClose => f.write_str("a close has one byte, where a code has two"),
            Violation::CloseCode(code) => write!(f, "the close code {code} must not be sent"),
            Violation::CloseReason => f.write_str("the reason of a close is not UTF-8"),
            Violation::TooLong => f.write_str("a message is longer than allowed"),
        }
    }
}

impl std::error::Error for Violation {}
