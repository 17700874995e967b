//! How rustls is led through a handshake, the same at both ends: it is given one record after the other, so that it never
//! sees a record that is for the record layer.

use std::ops::DerefMut;

use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::kernel::KernelConnection;
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{ConnectionState, EncodeError, EncodeTlsData, UnbufferedConnectionCommon, UnbufferedStatus};
use rustls::{ConnectionTrafficSecrets, Error, ExtractedSecrets, HandshakeKind, InvalidMessage, ProtocolVersion};

use super::secrets::{Secret, Secrets};
use super::{Established, TakesTickets, TlsAgreed, failure};
use crate::error::{Alert, TlsFailure};
use crate::tls::record::{HEADER, LARGEST_RECORD, Side, Suite, tls12_secret};
use crate::tls_version::TlsVersion;

/// What both of rustls' connections can do.
pub(super) trait Machine: Sized + DerefMut<Target = UnbufferedConnectionCommon<Self::Data>> {
    /// The rest of rustls' state when the handshake is over.
    type Data;

    /// The end that this is.
    const SIDE: Side;

    fn process<'c, 'i>(&'c mut self, incoming: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data>;

    fn finish(self) -> Result<(ExtractedSecrets, KernelConnection<Self::Data>), Error>;
}

impl Machine for UnbufferedServerConnection {
    type Data = ServerConnectionData;
    const SIDE: Side = Side::Server;

    fn process<'c, 'i>(&'c mut self, incoming: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, ServerConnectionData> {
        self.process_tls_records(incoming)
    }

    fn finish(self) -> Result<(ExtractedSecrets, KernelConnection<ServerConnectionData>), Error> {
        self.dangerous_into_kernel_connection()
    }
}

impl Machine for UnbufferedClientConnection {
    type Data = ClientConnectionData;
    const SIDE: Side = Side::Client;

    fn process<'c, 'i>(&'c mut self, incoming: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, ClientConnectionData> {
        self.process_tls_records(incoming)
    }

    fn finish(self) -> Result<(ExtractedSecrets, KernelConnection<ClientConnectionData>), Error> {
        self.dangerous_into_kernel_connection()
    }
}

/// A handshake with what it has found out so far. `machine` is `None` once it is over.
pub(super) struct Steps<M> {
    machine: Option<M>,
    secrets: Secrets,
    /// Bytes at the front of what has come that rustls has seen and wants to see again: a message in several records.
    seen: usize,
    /// Bytes of such a message at most.
    longest: usize,
}

/// What is to be done after one call of rustls.
enum Next {
    /// Another call.
    Again,
    /// A call with one more record.
    Blocked,
    /// The handshake is over.
    Over,
    /// The peer gave up.
    Closed,
    Failed(Error),
}

impl<M: Machine> Steps<M> {
    /// A handshake that has not begun, whose peer may send a message of `longest` bytes.
    pub fn new(machine: M, longest: usize) -> Steps<M> {
        Steps { machine: Some(machine), secrets: Secrets::default(), seen: 0, longest }
    }

    /// See `Handshake::advance`. `tickets` makes what takes tickets of the rest of rustls' state.
    pub fn advance(
        &mut self,
        incoming: &mut Vec<u8>,
        outgoing: &mut Vec<u8>,
        tickets: impl FnOnce(KernelConnection<M::Data>) -> Option<Box<dyn TakesTickets>>,
    ) -> Result<Option<Established>, TlsFailure> {
        let Some(machine) = &mut self.machine else {
            return Err(TlsFailure::OwnAlert(Alert::INTERNAL_ERROR));
        };
        // Where the record begins that rustls was given last.
        let mut last = self.seen;
        loop {
            let UnbufferedStatus { discard, state, .. } = machine.process(&mut incoming[..self.seen]);
            let next = match state {
                Ok(ConnectionState::EncodeTlsData(data)) => append(data, outgoing),
                Ok(ConnectionState::TransmitTlsData(data)) => {
                    data.done();
                    Next::Again
                }
                Ok(ConnectionState::BlockedHandshake) => Next::Blocked,
                Ok(ConnectionState::WriteTraffic(_)) => Next::Over,
                Ok(ConnectionState::PeerClosed | ConnectionState::Closed) => Next::Closed,
                // Data before the end of the handshake. rustls makes errors of it, and early data is not taken.
                Ok(_) => Next::Failed(Error::HandshakeNotComplete),
                Err(error) => Next::Failed(error),
            };
            self.secrets.take_caught();
            incoming.drain(..discard);
            self.seen -= discard;
            last = last.saturating_sub(discard);
            let failed = match next {
                Next::Again => continue,
                Next::Blocked => match behind(&incoming[self.seen..]) {
                    Behind::Record(length) => {
                        last = self.seen;
                        self.seen += length;
                        continue;
                    }
                    Behind::Part if incoming.len() <= self.longest => return Ok(None),
                    Behind::Part => Error::InvalidMessage(InvalidMessage::HandshakePayloadTooLarge),
                    Behind::TooLong => Error::PeerSentOversizedRecord,
                    Behind::NoRecord => Error::InvalidMessage(InvalidMessage::UnknownProtocolVersion),
                },
                Next::Closed => return Err(TlsFailure::PeerAlert(Alert::CLOSE_NOTIFY)),
                Next::Over => return self.finish(tickets).map(Some),
                Next::Failed(error) => error,
            };
            if let Error::AlertReceived(_) = failed {
                return Err(failure::of(&failed, None));
            }
            incoming.truncate(self.seen);
            let alert = tell(machine, incoming, last, outgoing);
            return Err(failure::of(&failed, alert));
        }
    }

    fn finish(
        &mut self,
        tickets: impl FnOnce(KernelConnection<M::Data>) -> Option<Box<dyn TakesTickets>>,
    ) -> Result<Established, TlsFailure> {
        let machine = self.machine.take().ok_or(OWN_FAULT)?;
        let version = match machine.protocol_version() {
            Some(ProtocolVersion::TLSv1_2) => TlsVersion::Tls12,
            _ => TlsVersion::Tls13,
        };
        let agreed = TlsAgreed {
            version,
            resumed: machine.handshake_kind() == Some(HandshakeKind::Resumed),
            alpn: machine.alpn_protocol().map(Box::from),
            // The server's end adds it.
            server_name: None,
        };
        let (extracted, rest) = machine.finish().map_err(|_| OWN_FAULT)?;
        let numbers = (extracted.rx.0, extracted.tx.0);
        let (suite, read, write, tickets) = match version {
            // Its tickets have come within the handshake.
            TlsVersion::Tls12 => {
                let (suite, read) = tls12(&extracted.rx.1)?;
                (suite, read, tls12(&extracted.tx.1)?.1, None)
            }
            TlsVersion::Tls13 => {
                let client = self.secrets.client.take().ok_or(OWN_FAULT)?;
                let server = self.secrets.server.take().ok_or(OWN_FAULT)?;
                let (read, write) = if M::SIDE == Side::Server { (client, server) } else { (server, client) };
                (tls13(&extracted.tx.1)?, read, write, tickets(rest))
            }
        };
        Ok(Established { side: M::SIDE, suite, read: (read, numbers.0), write: (write, numbers.1), agreed, tickets })
    }
}

/// What cannot be.
const OWN_FAULT: TlsFailure = TlsFailure::OwnAlert(Alert::INTERNAL_ERROR);

/// The suite of TLS 1.3 whose keys these are.
fn tls13(secrets: &ConnectionTrafficSecrets) -> Result<Suite, TlsFailure> {
    match secrets {
        ConnectionTrafficSecrets::Aes128Gcm { .. } => Ok(Suite::Aes128Gcm),
        ConnectionTrafficSecrets::Aes256Gcm { .. } => Ok(Suite::Aes256Gcm),
        ConnectionTrafficSecrets::Chacha20Poly1305 { .. } => Ok(Suite::ChaCha20Poly1305),
        _ => Err(OWN_FAULT),
    }
}

/// The suite of TLS 1.2 whose keys these are, and what its session keeps of them.
fn tls12(secrets: &ConnectionTrafficSecrets) -> Result<(Suite, Secret), TlsFailure> {
    let (suite, key, iv) = match secrets {
        ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (Suite::Tls12Aes128Gcm, key, iv),
        ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (Suite::Tls12Aes256Gcm, key, iv),
        ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (Suite::Tls12ChaCha20Poly1305, key, iv),
        _ => return Err(OWN_FAULT),
    };
    let secret = tls12_secret(key.as_ref(), iv.as_ref()).ok_or(OWN_FAULT)?;
    Ok((suite, Secret::new(&secret[..]).ok_or(OWN_FAULT)?))
}

/// Appends what rustls has to send.
fn append<Data>(mut data: EncodeTlsData<'_, Data>, outgoing: &mut Vec<u8>) -> Next {
    let start = outgoing.len();
    // The first call only tells the size.
    let needed = match data.encode(&mut []) {
        Err(EncodeError::InsufficientSize(size)) => size.required_size,
        _ => 0,
    };
    outgoing.resize(start + needed, 0);
    match data.encode(&mut outgoing[start..]) {
        Ok(written) => {
            outgoing.truncate(start + written);
            Next::Again
        }
        Err(_) => Next::Failed(Error::EncryptError),
    }
}

/// Appends what rustls has for the peer after a failure, an alert at the end, and says which alert it is, if that can be
/// told. `last` is where the record begins that rustls was given last.
fn tell<M: Machine>(machine: &mut M, incoming: &mut Vec<u8>, last: usize, outgoing: &mut Vec<u8>) -> Option<Alert> {
    if let Some(alert) = alert_in(transmit(machine, incoming, outgoing)) {
        return alert;
    }
    // rustls has no alert for some failures, nor for what is refused here. It makes one for what cannot be a record, whether
    // it looks at the last record again or behind it.
    incoming.resize(incoming.len() + HEADER, 0);
    incoming[last..].fill(NO_RECORD);
    for _ in 0..MOST_PASSED_OVER {
        let UnbufferedStatus { discard, state, .. } = machine.process(incoming);
        // A message behind the one at which it failed, in the same record: it fails at each of them before it looks further.
        let looks_on = state.is_err() && !machine.wants_write();
        incoming.drain(..discard);
        if !looks_on {
            break;
        }
    }
    alert_in(transmit(machine, incoming, outgoing)).map(|alert| alert.unwrap_or(Alert::DECODE_ERROR))
}

/// Messages that are passed over at most until rustls makes an alert. A record may have 4,096 of them, and rustls moves all that
/// are left each time.
const MOST_PASSED_OVER: usize = 256;

/// A type of content that there is not.
const NO_RECORD: u8 = 0xff;

/// Appends what rustls has to send. Returns the last record of it.
fn transmit<'o, M: Machine>(machine: &mut M, incoming: &mut [u8], outgoing: &'o mut Vec<u8>) -> &'o [u8] {
    let mut last = outgoing.len();
    // Without anything to send rustls would look at the bytes again, and must not fail a second time.
    while machine.wants_write()
        && let Ok(ConnectionState::EncodeTlsData(data)) = machine.process(incoming).state
    {
        last = outgoing.len();
        append(data, outgoing);
    }
    &outgoing[last..]
}

/// Whether a record that was sent is an alert, and which. That of an encrypted one cannot be read here.
fn alert_in(record: &[u8]) -> Option<Option<Alert>> {
    match record {
        // Header, level, description.
        &[21, _, _, 0, 2, _, description] => Some(Some(Alert(description))),
        // Encrypted by TLS 1.2; and by TLS 1.3, where both are followed by the type and the tag.
        [21, ..] | [23, _, _, 0, 19, ..] => Some(None),
        _ => None,
    }
}

/// What is behind the bytes that rustls has seen.
enum Behind {
    /// A record of this length.
    Record(usize),
    /// A part of a record, or nothing.
    Part,
    /// A record that is too long. rustls would wait for its end.
    TooLong,
    /// What cannot be one. rustls knows the versions of SSL 2 and of DTLS too, and would wait for the end of such records.
    NoRecord,
}

fn behind(bytes: &[u8]) -> Behind {
    let Some(header) = bytes.first_chunk::<{ HEADER }>() else { return Behind::Part };
    let length = HEADER + usize::from(u16::from_be_bytes([header[3], header[4]]));
    if !(20..=24).contains(&header[0]) || header[1] != 3 {
        Behind::NoRecord
    } else if length > LARGEST_RECORD {
        Behind::TooLong
    } else if length > bytes.len() {
        Behind::Part
    } else {
        Behind::Record(length)
    }
}
