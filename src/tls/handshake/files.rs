//! Certificates and keys in PEM, from files or from memory.

use std::fmt;
use std::path::PathBuf;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

use crate::error::{ConfigError, Errno, Result, TlsFile, TlsProblem};

/// Something in PEM (RFC 7468).
#[derive(Clone, PartialEq, Eq)]
pub enum Pem {
    /// In a file, which is read again on a reload.
    File(PathBuf),
    /// In memory.
    Memory(Vec<u8>),
}

impl From<PathBuf> for Pem {
    fn from(path: PathBuf) -> Pem {
        Pem::File(path)
    }
}

/// A key must not be shown.
impl fmt::Debug for Pem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.name())
    }
}

impl Pem {
    /// Where it is.
    fn name(&self) -> String {
        match self {
            Pem::File(path) => path.display().to_string(),
            Pem::Memory(_) => "memory".to_owned(),
        }
    }

    fn refused(&self, what: TlsFile, problem: TlsProblem) -> ConfigError {
        ConfigError::Tls { what, name: self.name(), problem }
    }

    fn read(&self, what: TlsFile) -> Result<Vec<u8>> {
        match self {
            Pem::File(path) => std::fs::read(path)
                .map_err(|error| self.refused(what, TlsProblem::Unreadable(Errno::of(&error))).into()),
            Pem::Memory(bytes) => Ok(bytes.clone()),
        }
    }

    fn wrong(&self, what: TlsFile, error: &pem::Error) -> ConfigError {
        match error {
            pem::Error::NoItemsFound => self.refused(what, TlsProblem::NotPem),
            other => self.refused(what, TlsProblem::Unusable(other.to_string())),
        }
    }

    /// The certificates, at least one.
    pub(super) fn certificates(&self, what: TlsFile) -> Result<Vec<CertificateDer<'static>>> {
        let text = self.read(what)?;
        let read: std::result::Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
        let certificates = read.map_err(|error| self.wrong(what, &error))?;
        if certificates.is_empty() {
            return Err(self.refused(what, TlsProblem::NotPem).into());
        }
        Ok(certificates)
    }

    fn key(&self) -> Result<PrivateKeyDer<'static>> {
        let mut text = self.read(TlsFile::Key)?;
        let key = PrivateKeyDer::from_pem_slice(&text).map_err(|error| self.wrong(TlsFile::Key, &error).into());
        zeroize::Zeroize::zeroize(&mut text);
        key
    }

    /// A chain of certificates with the private key of its first one.
    pub(super) fn pair(certificates: &Pem, key: &Pem, provider: &CryptoProvider) -> Result<CertifiedKey> {
        let (chain, secret) = (certificates.certificates(TlsFile::Certificates)?, key.key()?);
        CertifiedKey::from_der(chain, secret, provider).map_err(|error| {
            let problem = match error {
                rustls::Error::InconsistentKeys(_) => TlsProblem::OtherKey,
                other => TlsProblem::Unusable(other.to_string()),
            };
            key.refused(TlsFile::Key, problem).into()
        })
    }
}
