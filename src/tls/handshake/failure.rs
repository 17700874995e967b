//! What rustls calls an error, in words of ours.

use rustls::{AlertDescription, CertificateError, Error};

use crate::error::{Alert, CertificateProblem, TlsFailure};

/// The failure that an error of rustls is. `alert` is the alert that rustls has for the peer, if it has one.
pub(super) fn of(error: &Error, alert: Option<Alert>) -> TlsFailure {
    match error {
        Error::AlertReceived(alert) => TlsFailure::PeerAlert(Alert(u8::from(*alert))),
        Error::NoCertificatesPresented => TlsFailure::Certificate(CertificateProblem::Missing),
        Error::InvalidCertificate(error) => TlsFailure::Certificate(problem(error)),
        other => TlsFailure::OwnAlert(alert.unwrap_or_else(|| alert_for(other))),
    }
}

/// The alert that rustls sends for an error, where it was sent encrypted and cannot be read from the record.
fn alert_for(error: &Error) -> Alert {
    match error {
        Error::InvalidMessage(invalid) => Alert(AlertDescription::from(*invalid).into()),
        Error::InappropriateMessage { .. } | Error::InappropriateHandshakeMessage { .. } => Alert::UNEXPECTED_MESSAGE,
        Error::DecryptError => Alert::BAD_RECORD_MAC,
        Error::PeerSentOversizedRecord => Alert::RECORD_OVERFLOW,
        Error::PeerMisbehaved(_) => Alert::ILLEGAL_PARAMETER,
        Error::PeerIncompatible(_) => Alert::HANDSHAKE_FAILURE,
        Error::NoApplicationProtocol => Alert::NO_APPLICATION_PROTOCOL,
        _ => Alert::INTERNAL_ERROR,
    }
}

fn problem(error: &CertificateError) -> CertificateProblem {
    match error {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => CertificateProblem::Expired,
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => CertificateProblem::NotValidYet,
        // An authority of the issuer's name has a key of another kind than the signature: it is another authority.
        CertificateError::UnknownIssuer | CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => {
            CertificateProblem::UnknownIssuer
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            CertificateProblem::WrongName
        }
        CertificateError::Revoked => CertificateProblem::Revoked,
        CertificateError::BadSignature => CertificateProblem::BadSignature,
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            CertificateProblem::WrongPurpose
        }
        // An error of webpki, whose type rustls does not show.
        CertificateError::Other(other) if other.to_string().contains("CaUsedAsEndEntity") => {
            CertificateProblem::WrongPurpose
        }
        _ => CertificateProblem::Unusable,
    }
}
