//! Why a connection with TLS failed.

use super::Alert;

/// Why the TLS of a connection failed, in its handshake or later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum TlsFailure {
    /// The peer gave up, with this alert.
    PeerAlert(Alert),
    /// What the peer sent cannot be: this end sent it this alert.
    OwnAlert(Alert),
    /// The peer's certificate is not one to trust, for this reason. The peer was sent an alert.
    Certificate(CertificateProblem),
    /// The handshake was not over in time.
    HandshakeTimeout,
    /// A record was not whole in time after its beginning had come.
    RecordTimeout,
    /// The connection's key has sealed 2^24 records, after which another one is due. There is none in TLS 1.2, so this end
    /// closed the connection in order.
    KeyUsedUp,
    /// More bytes of incomplete records would have to be kept than the shard may keep. It is this end's fault, and the
    /// peer was sent internal_error.
    NoRoom,
}

/// What is wrong with a peer's certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum CertificateProblem {
    /// Its time is over.
    Expired,
    /// Its time has not begun.
    NotValidYet,
    /// No authority that is trusted has signed it.
    UnknownIssuer,
    /// It is for other names than the one that was asked for.
    WrongName,
    /// It was revoked.
    Revoked,
    /// Its signature, or that of the handshake, is wrong.
    BadSignature,
    /// It is not for this end of a connection, or is an authority's own.
    WrongPurpose,
    /// It is not of X.509 version 3.
    OldVersion,
    /// It, or one above it, is signed in a way that is not known here, such as by SHA-1.
    UnknownSignature,
    /// It cannot be read, or is refused for another reason.
    Unusable,
    /// There is none.
    Missing,
}

impl CertificateProblem {
    const ALL: [(CertificateProblem, &str); 11] = [
        (CertificateProblem::Expired, "expired"),
        (CertificateProblem::NotValidYet, "not_valid_yet"),
        (CertificateProblem::UnknownIssuer, "unknown_issuer"),
        (CertificateProblem::WrongName, "wrong_name"),
        (CertificateProblem::Revoked, "revoked"),
        (CertificateProblem::BadSignature, "bad_signature"),
        (CertificateProblem::WrongPurpose, "wrong_purpose"),
        (CertificateProblem::OldVersion, "old_version"),
        (CertificateProblem::UnknownSignature, "unknown_signature"),
        (CertificateProblem::Unusable, "unusable"),
        (CertificateProblem::Missing, "missing"),
    ];

    fn name(self) -> &'static str {
        CertificateProblem::ALL.iter().find(|(problem, _)| *problem == self).map_or("unusable", |(_, name)| name)
    }
}

/// How the names of the causes begin.
const PEER_ALERT: &str = "tls_peer_sent_";
const OWN_ALERT: &str = "tls_sent_";
const CERTIFICATE: &str = "tls_certificate_";
const TIMEOUT: &str = "tls_handshake_timeout";
const RECORD_TIMEOUT: &str = "tls_record_timeout";
const NO_ROOM: &str = "tls_no_room";
const KEY_USED_UP: &str = "tls_key_used_up";

impl TlsFailure {
    /// The name under which reports count it.
    pub fn name(self) -> String {
        match self {
            TlsFailure::PeerAlert(alert) => format!("{PEER_ALERT}{alert}"),
            TlsFailure::OwnAlert(alert) => format!("{OWN_ALERT}{alert}"),
            TlsFailure::Certificate(problem) => format!("{CERTIFICATE}{}", problem.name()),
            TlsFailure::HandshakeTimeout => TIMEOUT.to_owned(),
            TlsFailure::RecordTimeout => RECORD_TIMEOUT.to_owned(),
            TlsFailure::NoRoom => NO_ROOM.to_owned(),
            TlsFailure::KeyUsedUp => KEY_USED_UP.to_owned(),
        }
    }

    /// The failure of which `name` is the name.
    pub fn named(name: &str) -> Option<TlsFailure> {
        if let Some(problem) = name.strip_prefix(CERTIFICATE) {
            let found = CertificateProblem::ALL.iter().find(|(_, name)| *name == problem)?;
            return Some(TlsFailure::Certificate(found.0));
        }
        match name {
            TIMEOUT => Some(TlsFailure::HandshakeTimeout),
            RECORD_TIMEOUT => Some(TlsFailure::RecordTimeout),
            NO_ROOM => Some(TlsFailure::NoRoom),
            KEY_USED_UP => Some(TlsFailure::KeyUsedUp),
            _ => match name.strip_prefix(PEER_ALERT) {
                Some(alert) => Alert::named(alert).map(TlsFailure::PeerAlert),
                None => Alert::named(name.strip_prefix(OWN_ALERT)?).map(TlsFailure::OwnAlert),
            },
        }
    }
}
