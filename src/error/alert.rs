//! Alerts: the only thing that one end tells the other about a fault (RFC 8446, section 6).

use std::fmt;

/// The description of an alert. A peer may send any number; the constants are those that RFC 8446, section 6, has for
/// connections that are established, and those that a peer may still send after a handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Alert(pub u8);

impl Alert {
    /// The sender sends nothing more. It is no fault.
    pub const CLOSE_NOTIFY: Alert = Alert(0);
    /// A record of a kind, or a message of a type, that has no place here.
    pub const UNEXPECTED_MESSAGE: Alert = Alert(10);
    /// A record that does not decrypt.
    pub const BAD_RECORD_MAC: Alert = Alert(20);
    /// A record longer than the protocol allows.
    pub const RECORD_OVERFLOW: Alert = Alert(22);
    /// The ends have no suite, group or signature in common.
    pub const HANDSHAKE_FAILURE: Alert = Alert(40);
    /// A field of a message has a value that the protocol forbids.
    pub const ILLEGAL_PARAMETER: Alert = Alert(47);
    /// A message has a wrong length.
    pub const DECODE_ERROR: Alert = Alert(50);
    /// This end cannot go on, for reasons of its own: a bound on memory, or a bug.
    pub const INTERNAL_ERROR: Alert = Alert(80);
    /// No other handshake on this connection (RFC 5246). It is a warning, and has no place in TLS 1.3.
    pub const NO_RENEGOTIATION: Alert = Alert(100);
    /// The ends have no protocol in common (RFC 7301).
    pub const NO_APPLICATION_PROTOCOL: Alert = Alert(120);
    /// The sender gives up without a fault of the protocol. A close_notify should follow.
    pub const USER_CANCELED: Alert = Alert(90);

    /// The level byte of an alert after which a connection may go on, before TLS 1.3.
    pub const WARNING: u8 = 1;

    /// The level byte that belongs to it. With TLS 1.3 a receiver ignores it: all alerts but the two of closure are fatal.
    pub fn level(self) -> u8 {
        match self {
            Alert::CLOSE_NOTIFY | Alert::USER_CANCELED | Alert::NO_RENEGOTIATION => Alert::WARNING,
            _ => FATAL,
        }
    }

    /// The alert of which `name` is the name.
    pub fn named(name: &str) -> Option<Alert> {
        let listed = NAMES.iter().find(|(_, other)| *other == name).map(|(number, _)| Alert(*number));
        listed.or_else(|| name.strip_prefix("alert ")?.parse().ok().map(Alert))
    }

    /// The name that RFC 8446, section 6, or a document that it replaced has for it.
    pub fn name(self) -> Option<&'static str> {
        NAMES.iter().find(|(number, _)| *number == self.0).map(|(_, name)| *name)
    }
}

const FATAL: u8 = 2;

/// The names in the registry of TLS alerts that a peer of TLS 1.2 or 1.3 may send.
const NAMES: [(u8, &str); 28] = [
    (0, "close_notify"),
    (10, "unexpected_message"),
    (20, "bad_record_mac"),
    (22, "record_overflow"),
    (40, "handshake_failure"),
    (42, "bad_certificate"),
    (43, "unsupported_certificate"),
    (44, "certificate_revoked"),
    (45, "certificate_expired"),
    (46, "certificate_unknown"),
    (47, "illegal_parameter"),
    (48, "unknown_ca"),
    (49, "access_denied"),
    (50, "decode_error"),
    (51, "decrypt_error"),
    (70, "protocol_version"),
    (71, "insufficient_security"),
    (80, "internal_error"),
    (86, "inappropriate_fallback"),
    (90, "user_canceled"),
    (100, "no_renegotiation"),
    (109, "missing_extension"),
    (110, "unsupported_extension"),
    (112, "unrecognized_name"),
    (113, "bad_certificate_status_response"),
    (115, "unknown_psk_identity"),
    (116, "certificate_required"),
    (120, "no_application_protocol"),
];

impl fmt::Display for Alert {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => to.write_str(name),
            None => write!(to, "alert {}", self.0),
        }
    }
}
