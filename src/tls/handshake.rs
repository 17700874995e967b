//! The handshake of TLS, behind a trait of ours: bytes of the peer go in, bytes for the peer come out, and in the end
//! what the record layer needs. rustls does it; no other module names that crate.
//!
//! A handshake takes some kilobytes, and a connection has one only until it is established. What lives longer at a client
//! is what rustls needs to understand a session ticket (`TakesTickets`), some 1.5 kB, until the ticket has come.

mod client;
mod failure;
mod files;
mod resumption;
mod secrets;
mod server;
mod steps;
#[cfg(test)]
pub(super) mod tests;

use std::time::Duration;

use super::record::{Side, Suite};
use crate::error::TlsFailure;
use crate::tls_version::TlsVersion;

pub use client::{ClientTls, Connector, Trust};
pub use files::Pem;
pub use secrets::Secret;
pub use server::{Acceptor, TlsConfig};

/// How long a handshake may take unless told otherwise. A round trip of a second with one lost segment takes some 5 s.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// A handshake under way, at either end.
pub trait Handshake {
    /// Takes in what has come, whole records only, off the front of `incoming`, and appends what is to be sent to
    /// `outgoing`. `None` while the handshake goes on. When it is over, `incoming` holds what came behind it.
    ///
    /// # Errors
    ///
    /// The handshake has failed. `outgoing` may hold an alert for the peer.
    fn advance(
        &mut self,
        incoming: &mut Vec<u8>,
        outgoing: &mut Vec<u8>,
    ) -> std::result::Result<Option<Established>, TlsFailure>;
}

/// Takes the tickets that a server sends after the handshake.
pub trait TakesTickets {
    /// Takes the body of a NewSessionTicket message. `false` if it cannot be read.
    fn take(&mut self, ticket: &[u8]) -> bool;
}

/// What the record layer needs of a handshake that is over.
pub struct Established {
    /// The end that this is.
    pub side: Side,
    /// What protects the records.
    pub suite: Suite,
    /// The secret with which records are opened, and the sequence number of the next one.
    pub read: (Secret, u64),
    /// The secret with which records are sealed, and the sequence number of the next one.
    pub write: (Secret, u64),
    /// What was agreed on.
    pub agreed: TlsAgreed,
    /// What takes tickets; `None` at a server, and where no ticket is wanted.
    pub tickets: Option<Box<dyn TakesTickets>>,
}

/// What the TLS handshake of a connection has agreed on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TlsAgreed {
    /// The version.
    pub version: TlsVersion,
    /// A session was resumed: there was no certificate.
    pub resumed: bool,
    /// The protocol, where one was negotiated (ALPN, RFC 7301).
    pub alpn: Option<Box<[u8]>>,
    /// At a server: the name of the server that the client sent, if it sent one (SNI, RFC 6066, section 3).
    pub server_name: Option<Box<str>>,
}
