//! The certificate of a demo with TLS: made for the run. Its files are gone once the server has read them.

use std::path::PathBuf;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use tempfile::TempDir;

use crate::client::Pem;
use crate::command_error::{CommandError, Result};
use crate::error::Errno;

/// A certificate for 127.0.0.1 with its key, in a folder that only this user can read.
pub(super) struct Certificate {
    folder: TempDir,
    /// It is its own authority.
    chain: String,
}

impl Certificate {
    /// Makes one.
    pub fn new() -> Result<Certificate> {
        let (chain, key) = make()?;
        let refused = |error: String| {
            let saw = format!("write a certificate: {error}");
            CommandError::host(saw, "the demo's server reads it from a file", "look at TMPDIR and its space")
        };
        // tempfile's own errors have no errno, but name the path.
        let folder = tempfile::Builder::new().prefix("c1m-demo-").tempdir().map_err(|e| refused(e.to_string()))?;
        let refused = |error: std::io::Error| refused(Errno::of(&error).to_string());
        let certificate = Certificate { folder, chain };
        std::fs::write(certificate.certificates(), &certificate.chain).map_err(refused)?;
        std::fs::write(certificate.key(), key).map_err(refused)?;
        Ok(certificate)
    }

    /// What a client trusts. The files are removed: a process that is killed leaves none of them.
    pub fn into_authority(self) -> Pem {
        Pem::Memory(self.chain.into_bytes())
    }

    /// The file with the certificate.
    pub fn certificates(&self) -> PathBuf {
        self.folder.path().join("server.pem")
    }

    /// The file with its key.
    pub fn key(&self) -> PathBuf {
        self.folder.path().join("server.key")
    }
}

/// Makes a certificate for 127.0.0.1 and `localhost`, and its key, in PEM.
pub(crate) fn make() -> Result<(String, String)> {
    let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned(), "localhost".to_owned()]);
    let made = made.map_err(|error| CommandError::bug(format!("a certificate: {error}")))?;
    Ok((pem("CERTIFICATE", made.cert.der()), pem("PRIVATE KEY", &made.signing_key.serialize_der())))
}

/// Bytes in PEM, 64 characters a line (RFC 7468).
fn pem(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let lines = text.as_bytes().chunks(64).map(|line| String::from_utf8_lossy(line));
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.collect::<Vec<_>>().join("\n"))
}
