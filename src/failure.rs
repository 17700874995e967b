//! Why connections fail: the causes, each with the name under which it is counted.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::error::{Errno, TlsFailure};

mod mqtt;
mod nats;

pub use mqtt::{MqttPacket, MqttReason};
pub use nats::NatsError;

/// Why a connection failed. Documents hold its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Cause {
    /// An operation failed with this error of the kernel.
    Errno(Errno),
    /// The connect did not complete in time.
    ConnectTimeout,
    /// The server acknowledged our bytes and answered nothing.
    Silent,
    /// The connection is established for the client, but the server never accepted it.
    Ghost,
    /// A proved connection stopped answering.
    Unanswered,
    /// The server does not read the bytes that the client sends.
    Unread,
    /// Bytes came back that the client did not send.
    WrongEcho,
    /// The answer is not the one that was expected, or is that of another connection or round.
    WrongAnswer,
    /// The answer did not end within the bound on its length.
    AnswerTooLong,
    /// A publication came with other bytes than it was published with, or cut off.
    AlteredPublication,
    /// Bytes came while nothing was asked.
    Unasked,
    /// The bytes are none of the protocol, such as a frame with reserved bits.
    Malformed,
    /// More answers and frames were incomplete at the same time than a client follows.
    TooManyIncomplete,
    /// The server answered a request of HTTP with this status.
    HttpStatus(u16),
    /// A server of HTTP answered, and does not keep the connection.
    NotKept,
    /// The server accepted the connection, and not in the way that the handshake asks for.
    Handshake(HandshakeFault),
    /// The server ended a WebSocket in order, with this code (RFC 6455, 7.4); 1005 is none, 1006 is an end without a
    /// Close.
    CloseCode(u16),
    /// The server closed it.
    ClosedByServer,
    /// The socket is connected to itself or to another dialing socket of this client, because no program listens at
    /// the target.
    ConnectedToItself,
    /// An MQTT server refused something for this reason, or ended the connection.
    Mqtt(MqttReason),
    /// The session that an MQTT connection was to resume is not there.
    NoSession,
    /// An MQTT server demands packets more often than the client sends them.
    ShorterKeepalive,
    /// An MQTT server does not take messages of the quality of service that the client sends.
    LowerQos,
    /// An MQTT server takes only packets that are shorter than the client's.
    ShorterPackets,
    /// A NATS server told this error.
    Nats(NatsError),
    /// Its TLS failed.
    Tls(TlsFailure),
}

/// What is wrong with the answer of a WebSocket server that changes the protocol (RFC 6455, 4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum HandshakeFault {
    /// It does not name the upgrade.
    Upgrade,
    /// `Sec-WebSocket-Accept` does not follow from the client's key.
    Accept,
    /// The server chose an extension that was not offered.
    Extension,
    /// The server chose a subprotocol that was not offered.
    Subprotocol,
}

/// The name of a status or code, before its number.
const HTTP: &str = "http_";
const CLOSE: &str = "close_";

/// Failures by cause.
pub type Causes = BTreeMap<Cause, u64>;

impl From<Cause> for String {
    fn from(cause: Cause) -> String {
        cause.name()
    }
}

impl TryFrom<String> for Cause {
    type Error = String;

    fn try_from(name: String) -> Result<Cause, String> {
        let ours = Cause::OURS.iter().copied().find(|cause| cause.name() == name);
        // Only as `name` writes it, without a sign and without zeros in front.
        let number = |before: &str| name.strip_prefix(before)?.parse().ok();
        let numbered = [number(HTTP).map(Cause::HttpStatus), number(CLOSE).map(Cause::CloseCode)];
        let numbered = numbered.into_iter().flatten().find(|cause| cause.name() == name);
        let known = ours.or(numbered).or_else(|| MqttReason::named(&name).map(Cause::Mqtt));
        let known = known.or_else(|| NatsError::named(&name).map(Cause::Nats));
        let known = known.or_else(|| TlsFailure::named(&name).map(Cause::Tls));
        known.or_else(|| Errno::named(&name).map(Cause::Errno)).ok_or(format!("'{name}' is no cause of a failure"))
    }
}

/// Makes the list of causes that are ours, and the name of every cause: each stands in one place.
macro_rules! causes {
    ($($cause:ident $(($fault:ident))? => $name:literal,)*) => {
        impl Cause {
            /// Those that are no errors of the kernel, of TLS or of a protocol, and have no number.
            const OURS: &'static [Cause] = &[$(Cause::$cause $((HandshakeFault::$fault))?,)*];

            /// The name under which every report counts the cause.
            pub fn name(self) -> String {
                match self {
                    $(Cause::$cause $((HandshakeFault::$fault))? => $name.to_owned(),)*
                    Cause::Errno(errno) => errno.name(),
                    Cause::HttpStatus(status) => format!("{HTTP}{status}"),
                    Cause::CloseCode(code) => format!("{CLOSE}{code}"),
                    Cause::Mqtt(reason) => reason.name(),
                    Cause::Nats(error) => error.name(),
                    Cause::Tls(failure) => failure.name(),
                }
            }
        }
    };
}

causes! {
    ConnectTimeout => "connect_timeout",
    Silent => "silent",
    Ghost => "ghost",
    Unanswered => "unanswered",
    Unread => "unread",
    WrongEcho => "wrong_echo",
    WrongAnswer => "wrong_answer",
    AnswerTooLong => "answer_too_long",
    AlteredPublication => "altered_publication",
    Unasked => "unasked",
    Malformed => "malformed",
    TooManyIncomplete => "too_many_incomplete",
    NotKept => "not_kept",
    Handshake(Upgrade) => "handshake",
    Handshake(Accept) => "handshake_accept",
    Handshake(Extension) => "handshake_extension",
    Handshake(Subprotocol) => "handshake_subprotocol",
    ClosedByServer => "closed_by_server",
    ConnectedToItself => "connected_to_itself",
    NoSession => "mqtt_no_session",
    ShorterKeepalive => "mqtt_shorter_keepalive",
    LowerQos => "mqtt_lower_qos",
    ShorterPackets => "mqtt_shorter_packets",
}

impl Cause {
    /// Whether the server said something that it should not have said. Such connections count as wrong, and not as
    /// lost.
    pub fn is_wrong(self) -> bool {
        matches!(
            self,
            Cause::WrongEcho
                | Cause::WrongAnswer
                | Cause::AnswerTooLong
                | Cause::AlteredPublication
                | Cause::Unasked
                | Cause::Malformed
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Alert, CertificateProblem};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn each_cause_is_found_by_its_name(number: i32, small in 0..140, code: u16, alert: u8) {
            use MqttPacket::{Connack, Disconnect, Puback, Suback};
            let errnos = [number, small].map(|number| Cause::Errno(Errno(number)));
            let numbered = [Cause::HttpStatus(code), Cause::CloseCode(code)];
            let reason = |packet| Cause::Mqtt(MqttReason { packet, code: code as u8 });
            let reasons = [Connack, Suback, Puback, Disconnect].map(reason);
            let tls = [
                TlsFailure::PeerAlert(Alert(alert)),
                TlsFailure::OwnAlert(Alert(alert)),
                TlsFailure::Certificate(CertificateProblem::WrongName),
                TlsFailure::HandshakeTimeout,
                TlsFailure::RecordTimeout,
                TlsFailure::NoRoom,
                TlsFailure::KeyUsedUp,
            ];
            let all = Cause::OURS.iter().copied().chain(errnos).chain(numbered).chain(reasons);
            let all = all.chain(NatsError::all().map(Cause::Nats));
            for cause in all.chain(tls.map(Cause::Tls)) {
                prop_assert_eq!(Cause::try_from(cause.name()), Ok(cause));
            }
        }

        #[test]
        fn other_words_are_no_causes(word in "[a-z]{1,5}") {
            prop_assert!(Cause::try_from(word).is_err());
        }
    }
}
