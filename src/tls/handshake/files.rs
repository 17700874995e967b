//! Certificates and keys in PEM, from files or from memory.

use std::fmt;
use std::io::{self, Read};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use zeroize::{Zeroize, Zeroizing};

use crate::error::{ConfigError, Errno, Result, TlsFile, TlsProblem};
use crate::sys::open_without_waiting;

/// What stands in a key with a password: in its label (RFC 7468, 11), or in a line below it (RFC 1421, 4.6.1.1).
const ENCRYPTED: &[u8] = b"ENCRYPTED";

/// Bytes of a file at most. All authorities that browsers trust take some 200,000 bytes.
const LONGEST: usize = 16 << 20;

/// What is wrong with a text in which more than a label stands in a line that begins with BEGIN.
const NO_LINES: &str = "a line begins with BEGIN and is not that of a label; its line breaks may have been lost";

/// Bytes of a label at most that an error shows.
const LONGEST_LABEL: usize = 40;

/// How long a pipe may take for all that is in it, such as that of a shell's `<(command)`.
const PIPE_TIME: Duration = Duration::from_secs(10);

/// The pause before a pipe is looked at again in which nothing has come.
const PIPE_PAUSE: Duration = Duration::from_millis(10);

/// The label of a section, such as `PRIVATE KEY`, if it is one and no data.
fn label(text: &[u8]) -> Option<&str> {
    let is_label = text.iter().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || *byte == b' ');
    std::str::from_utf8(text).ok().filter(|text| is_label && text.len() <= LONGEST_LABEL)
}

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
            Pem::File(path) => read(path).map_err(|errno| self.refused(what, TlsProblem::Unreadable(errno)).into()),
            Pem::Memory(bytes) => Ok(bytes.clone()),
        }
    }

    /// Why it is no PEM. Nothing of the text is shown but a label: a key without its line breaks stands in the line of its
    /// label, and is not to be in any log.
    fn wrong(&self, what: TlsFile, error: &pem::Error) -> ConfigError {
        let why = match error {
            pem::Error::NoItemsFound => return self.refused(what, TlsProblem::NotPem),
            pem::Error::MissingSectionEnd { end_marker } => match label(end_marker) {
                Some(label) => format!("it ends before END {label}"),
                None => NO_LINES.to_owned(),
            },
            pem::Error::IllegalSectionStart { .. } => NO_LINES.to_owned(),
            other => other.to_string(),
        };
        self.refused(what, TlsProblem::Unusable(why))
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
        let key = PrivateKeyDer::from_pem_slice(&text);
        let is_encrypted = key.is_err() && text.windows(ENCRYPTED.len()).any(|window| window == ENCRYPTED);
        text.zeroize();
        key.map_err(|error| {
            let refused = if is_encrypted {
                self.refused(TlsFile::Key, TlsProblem::Encrypted)
            } else {
                self.wrong(TlsFile::Key, &error)
            };
            refused.into()
        })
    }

    /// A chain of certificates with the private key of its first one.
    pub(super) fn pair(certificates: &Pem, key: &Pem, provider: &CryptoProvider) -> Result<CertifiedKey> {
        let (chain, secret) = (certificates.certificates(TlsFile::Certificates)?, key.key()?);
        CertifiedKey::from_der(chain, secret, provider).map_err(|error| {
            let problem = match error {
                rustls::Error::InconsistentKeys(_) => TlsProblem::OtherKey,
                rustls::Error::General(why) => TlsProblem::Unusable(why),
                other => TlsProblem::Unusable(other.to_string()),
            };
            key.refused(TlsFile::Key, problem).into()
        })
    }
}

/// Reads a file, or a pipe until its end. A reload reads it too, so what never comes must not keep a server from ending:
/// fails with ETIMEDOUT for that, and with EFBIG for more than `LONGEST` bytes.
fn read(path: &Path) -> std::result::Result<Vec<u8>, Errno> {
    let of = |error: io::Error| Errno::of(&error);
    let mut file = open_without_waiting(path).map_err(of)?;
    let found = file.metadata().map_err(of)?;
    let may_wait = found.file_type().is_fifo();
    // A key is not left behind where it does not fit any more.
    let mut text = Vec::with_capacity(LONGEST.min(found.len() as usize));
    let (began, mut piece) = (Instant::now(), Zeroizing::new([0; 16 << 10]));
    loop {
        match file.read(&mut piece[..]) {
            // A pipe that nobody has opened yet for writing looks as if it had ended.
            Ok(0) if !may_wait || !text.is_empty() => return Ok(text),
            Ok(0) => {}
            Ok(more) => {
                text.extend_from_slice(&piece[..more]);
                if text.len() > LONGEST {
                    return Err(Errno::EFBIG);
                }
                continue;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(of(error)),
        }
        if began.elapsed() > PIPE_TIME {
            return Err(Errno::ETIMEDOUT);
        }
        std::thread::sleep(PIPE_PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_pipe_is_read_to_its_end_and_no_file_is_endless() {
        let (read_end, mut write_end) = io::pipe().unwrap();
        let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&read_end));
        let writer = std::thread::spawn(move || {
            for _ in 0..50 {
                write_end.write_all(&[7; 4_000]).unwrap();
                std::thread::yield_now();
            }
        });
        assert_eq!(read(Path::new(&path)).map(|text| text.len()), Ok(200_000));
        writer.join().unwrap();
        assert_eq!(read(Path::new("/dev/zero")), Err(Errno::EFBIG));
        assert_eq!(read(Path::new("/dev/null")), Ok(Vec::new()));
        assert_eq!(read(Path::new("/")), Err(Errno::EISDIR));
    }

    #[test]
    fn a_key_with_a_password_is_told_from_what_is_no_key() {
        let problem = |text: &str| match Pem::Memory(text.as_bytes().to_vec()).key().unwrap_err() {
            crate::error::Error::Config(ConfigError::Tls { problem, .. }) => problem,
            other => panic!("{other}"),
        };
        let labelled = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
        let old = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00\n\nAAAA\n-----END RSA PRIVATE KEY-----\n";
        assert_eq!([labelled, old].map(problem), [TlsProblem::Encrypted, TlsProblem::Encrypted]);
        assert_eq!(problem("a key"), TlsProblem::NotPem);
        let cut = "-----BEGIN PRIVATE KEY-----\nAAAA\n";
        assert_eq!(problem(cut), TlsProblem::Unusable("it ends before END PRIVATE KEY".to_owned()));
    }

    /// One whose line breaks are lost, as in a variable of the environment, stands in the line of its label.
    #[test]
    fn no_error_shows_a_key() {
        let secret = "MIGHAgEAMBMGByqGSM49";
        for text in [
            format!("-----BEGIN PRIVATE KEY-----{secret}-----END PRIVATE KEY-----"),
            format!("-----BEGIN PRIVATE KEY----- {secret}\n-----END PRIVATE KEY-----"),
            format!("-----BEGIN {secret}-----\n"),
            format!("-----BEGIN PRIVATE KEY-----\n{secret}?\n-----END PRIVATE KEY-----\n"),
        ] {
            let error = Pem::Memory(text.into_bytes()).key().unwrap_err().to_string();
            assert!(!error.contains(&secret[..4]), "{error}");
        }
    }
}
