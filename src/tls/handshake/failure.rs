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
        CertificateError::UnsupportedSignatureAlgorithmContext { .. } => CertificateProblem::UnknownSignature,
        error if is_of_webpki(error, "CaUsedAsEndEntity") => CertificateProblem::WrongPurpose,
        error if is_old_version(error) => CertificateProblem::OldVersion,
        _ => CertificateProblem::Unusable,
    }
}

/// Whether a certificate is none of X.509 version 3.
pub(super) fn is_old_version(error: &CertificateError) -> bool {
    is_of_webpki(error, "UnsupportedCertVersion")
}

/// Whether it is the error of webpki of this name, whose type rustls does not show.
fn is_of_webpki(error: &CertificateError, name: &str) -> bool {
    matches!(error, CertificateError::Other(other) if other.to_string().contains(name))
}
