//! Certificates, keys and names that were given for TLS and cannot be used.

use std::fmt;

use super::Errno;

/// A thing that is given for TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum TlsFile {
    /// A chain of certificates, this end's own first.
    Certificates,
    /// The private key of a certificate.
    Key,
    /// The authorities to trust.
    Authorities,
    /// The name that the peer's certificate must have.
    ServerName,
    /// A protocol that is negotiated in the handshake (ALPN).
    Alpn,
}

/// Why a thing that was given for TLS cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum TlsProblem {
    /// The file cannot be read: what the kernel said.
    Unreadable(Errno),
    /// The file holds nothing of the kind in PEM: what it holds instead.
    NotPem(NotPem),
    /// The key is encrypted with a password.
    Encrypted,
    /// It cannot be used: why.
    Unusable(String),
    /// The first certificate is not of X.509 version 3.
    OldVersion,
    /// The key is damaged, or of a kind that is not known here.
    UnknownKey,
    /// The key is not the certificate's.
    OtherKey,
    /// No pair of a certificate and a key is given.
    NoPair,
    /// The host has no authorities that it trusts.
    NoAuthorities,
    /// It is no DNS name and no address.
    NoName,
    /// A name has 1 to 255 bytes.
    Length,
}

/// The content of a file that should have held something in PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum NotPem {
    /// Nothing but spaces and ends of lines.
    Empty,
    /// Bytes that are no text, as certificates and keys are in DER and PKCS #12.
    Binary,
    /// Text in UTF-16.
    Utf16,
    /// PEM of other kinds, by their labels (`PRIVATE KEY`).
    Others(Vec<String>),
    /// A label that does not begin a line.
    WithinLine,
    /// Other text.
    Text,
}

impl fmt::Display for TlsFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            TlsFile::Certificates => "certificates",
            TlsFile::Key => "private key",
            TlsFile::Authorities => "certificate authorities",
            TlsFile::ServerName => "server name",
            TlsFile::Alpn => "protocol of ALPN",
        })
    }
}

impl TlsProblem {
    pub(super) fn saw(&self, what: TlsFile, name: &str) -> String {
        match self {
            TlsProblem::Unreadable(errno) => format!("read {what} from {name}: {errno}"),
            TlsProblem::NoPair => "TLS without a certificate and its key".to_owned(),
            TlsProblem::NoAuthorities => "no certificate authorities on this host".to_owned(),
            TlsProblem::NotPem(_)
            | TlsProblem::Encrypted
            | TlsProblem::Unusable(_)
            | TlsProblem::OldVersion
            | TlsProblem::UnknownKey
            | TlsProblem::OtherKey => format!("{what} in {name}"),
            TlsProblem::NoName | TlsProblem::Length => format!("{what} {name:?}"),
        }
    }

    pub(super) fn means(&self, what: TlsFile) -> String {
        match self {
            TlsProblem::Unreadable(_) => format!("TLS needs its {what}"),
            TlsProblem::NotPem(instead) => format!("the file holds no {what} in PEM (BEGIN ... END): {instead}"),
            TlsProblem::Encrypted => "it is encrypted with a password, and c1m asks for none".to_owned(),
            TlsProblem::Unusable(why) => format!("it cannot be used: {why}"),
            TlsProblem::OldVersion => {
                "its first certificate is of X.509 version 1, and TLS takes version 3 here".to_owned()
            }
            TlsProblem::UnknownKey => "it is damaged, or of a kind that is not known here".to_owned(),
            TlsProblem::OtherKey => "the key is not the one of the first certificate".to_owned(),
            TlsProblem::NoPair => "a server proves who it is by them".to_owned(),
            TlsProblem::NoAuthorities => "no server's certificate could be trusted".to_owned(),
            TlsProblem::NoName => "it is neither a DNS name nor an IP address".to_owned(),
            TlsProblem::Length => "a name of a protocol has 1 to 255 bytes".to_owned(),
        }
    }
}

impl fmt::Display for NotPem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NotPem::Empty => f.write_str("it is empty"),
            NotPem::Binary => f.write_str("it is no text, but perhaps DER or PKCS #12"),
            NotPem::Utf16 => f.write_str("it is text in UTF-16"),
            NotPem::Others(labels) => write!(f, "it has {}", labels.join(", ")),
            NotPem::WithinLine => f.write_str("something stands before BEGIN on its line"),
            NotPem::Text => f.write_str("it is other text"),
        }
    }
}
