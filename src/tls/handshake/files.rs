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

use super::failure::is_old_version;
use crate::error::{ConfigError, Errno, NotPem, Result, TlsFile, TlsProblem};
use crate::sys::open_without_waiting;

/// What stands in a key with a password: in its label (RFC 7468, 11), or in a line below it (RFC 1421, 4.6.1.1).
const ENCRYPTED: &[u8] = b"ENCRYPTED";

/// Bytes of a file at most. All authorities that browsers trust take some 200,000 bytes.
const LONGEST: usize = 16 << 20;

/// The fault of a text with a line that begins with BEGIN and holds more than a label.
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
        let mut text = match self {
            Pem::File(path) => read(path).map_err(|errno| self.refused(what, TlsProblem::Unreadable(errno)))?,
            Pem::Memory(bytes) => bytes.clone(),
        };
        blank_marks(&mut text);
        Ok(text)
    }

    /// Why it is no PEM. Nothing of the text is shown but a label: a key without its line breaks stands in the line of its
    /// label, and is not to be in any log.
    fn wrong(&self, what: TlsFile, error: &pem::Error, text: &[u8]) -> ConfigError {
        let why = match error {
            pem::Error::NoItemsFound => return self.refused(what, TlsProblem::NotPem(instead_of_pem(text))),
            pem::Error::MissingSectionEnd { end_marker } => match label(end_marker) {
                Some(label) => format!("it ends before END {label}"),
                None => NO_LINES.to_owned(),
            },
            pem::Error::IllegalSectionStart { .. } => NO_LINES.to_owned(),
            pem::Error::Base64Decode(_) => "what stands between BEGIN and END is no Base64".to_owned(),
            other => other.to_string(),
        };
        self.refused(what, TlsProblem::Unusable(why))
    }

    /// The certificates, at least one.
    pub(super) fn certificates(&self, what: TlsFile) -> Result<Vec<CertificateDer<'static>>> {
        let text = self.read(what)?;
        let read: std::result::Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
        let certificates = read.map_err(|error| self.wrong(what, &error, &text))?;
        if certificates.is_empty() {
            return Err(self.wrong(what, &pem::Error::NoItemsFound, &text).into());
        }
        Ok(certificates)
    }

    fn key(&self) -> Result<PrivateKeyDer<'static>> {
        let mut text = self.read(TlsFile::Key)?;
        let key = PrivateKeyDer::from_pem_slice(&text);
        let key = key.map_err(|error| {
            let is_encrypted = text.windows(ENCRYPTED.len()).any(|window| window == ENCRYPTED);
            match is_encrypted {
                true => self.refused(TlsFile::Key, TlsProblem::Encrypted).into(),
                false => self.wrong(TlsFile::Key, &error, &text).into(),
            }
        });
        text.zeroize();
        key
    }

    /// A chain of certificates with the private key of its first one.
    pub(super) fn pair(certificates: &Pem, key: &Pem, provider: &CryptoProvider) -> Result<CertifiedKey> {
        let (chain, secret) = (certificates.certificates(TlsFile::Certificates)?, key.key()?);
        CertifiedKey::from_der(chain, secret, provider).map_err(|error| {
            let refused = match error {
                rustls::Error::InconsistentKeys(_) => key.refused(TlsFile::Key, TlsProblem::OtherKey),
                // Its own text names kinds that it knows in part.
                rustls::Error::General(_) => key.refused(TlsFile::Key, TlsProblem::UnknownKey),
                rustls::Error::InvalidCertificate(problem) if is_old_version(&problem) => {
                    certificates.refused(TlsFile::Certificates, TlsProblem::OldVersion)
                }
                rustls::Error::InvalidCertificate(_) => {
                    certificates.refused(TlsFile::Certificates, TlsProblem::Unusable(why(&error)))
                }
                error => key.refused(TlsFile::Key, TlsProblem::Unusable(why(&error))),
            };
            refused.into()
        })
    }
}

/// Why rustls does not take something.
pub(super) fn why(error: &rustls::Error) -> String {
    match error {
        // The library's own text is about a peer's certificate.
        rustls::Error::InvalidCertificate(problem) => format!("a certificate in it is none ({problem:?})"),
        other => other.to_string(),
    }
}

/// The beginning of a section's first line.
const BEGIN: &[u8] = b"-----BEGIN ";

/// Overwrites byte order marks of UTF-8 in front of a section by ends of lines. Editors write them at the beginning of a
/// file, and files are joined.
fn blank_marks(text: &mut [u8]) {
    const MARK: &[u8] = "\u{feff}".as_bytes();
    for at in 0..text.len() {
        if text[at..].starts_with(MARK) && text[at + MARK.len()..].starts_with(BEGIN) {
            text[at..at + MARK.len()].fill(b'\n');
        }
    }
}

/// The content of a file without a section of the wanted kind.
fn instead_of_pem(text: &[u8]) -> NotPem {
    /// Labels that an error shows.
    const LABELS: usize = 3;
    let mut labels = Vec::new();
    for line in text.split(|byte| matches!(byte, b'\n' | b'\r')) {
        let rest = line.strip_prefix(BEGIN).map(|rest| rest.trim_ascii_end());
        let found = rest.and_then(|rest| rest.strip_suffix(b"-----")).and_then(label).map(str::to_owned);
        labels.extend(found.filter(|label| !labels.contains(label)));
    }
    labels.truncate(LABELS);
    let has_begin = text.windows(BEGIN.len()).any(|window| window == BEGIN);
    match text {
        _ if !labels.is_empty() => NotPem::Others(labels),
        _ if has_begin => NotPem::WithinLine,
        _ if text.trim_ascii().is_empty() => NotPem::Empty,
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] | [0, b'-', ..] | [b'-', 0, ..] => NotPem::Utf16,
        // No text has the character 0, and DER has lengths and numbers with such bytes.
        _ if text.contains(&0) || std::str::from_utf8(text).is_err() => NotPem::Binary,
        _ => NotPem::Text,
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
            // A pipe that no process has opened yet for writing looks as if it had ended.
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
        assert_eq!(problem("a key"), TlsProblem::NotPem(NotPem::Text));
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

    /// A certificate and its key.
    fn pair() -> (String, String) {
        crate::cli::demo::certificate::make().unwrap()
    }

    fn memory(text: impl AsRef<[u8]>) -> Pem {
        Pem::Memory(text.as_ref().to_vec())
    }

    #[test]
    fn pem_is_read_as_editors_leave_it() {
        let (certificate, key) = pair();
        let provider = rustls::crypto::ring::default_provider();
        let lines = |end: &str| certificate.lines().map(|line| format!("{line}{end}")).collect::<String>();
        for text in [
            format!("\u{feff}{certificate}"),
            lines("\r\n"),
            lines("\r"),
            lines("  \n"),
            format!("\u{feff}{}", lines("\r\n")),
            format!("subject=/CN=localhost\nissuer=/CN=localhost\n{certificate}"),
            certificate.trim_end().to_owned(),
            format!("{key}{certificate}"),
        ] {
            let read = Pem::pair(&memory(&text), &memory(format!("\u{feff}{key}")), &provider);
            assert_eq!(read.unwrap().cert.len(), 1, "{text:?}");
        }
        let joined = memory(format!("{certificate}\u{feff}{certificate}"));
        assert_eq!(joined.certificates(TlsFile::Certificates).unwrap().len(), 2);
    }

    #[test]
    fn what_is_no_pem_is_said() {
        let (certificate, key) = pair();
        let der = memory(&certificate).certificates(TlsFile::Certificates).unwrap()[0].to_vec();
        let others = |label: &str| NotPem::Others(vec![label.to_owned()]);
        let utf16 =
            |text: &str| "\u{feff}".chars().chain(text.chars()).flat_map(|c| (c as u16).to_le_bytes()).collect();
        let request = certificate.replace("CERTIFICATE", "CERTIFICATE REQUEST");
        for (text, seen) in [
            (Vec::new(), NotPem::Empty),
            (b"\r\n \n".to_vec(), NotPem::Empty),
            (der, NotPem::Binary),
            (utf16(&certificate), NotPem::Utf16),
            (key.clone().into(), others("PRIVATE KEY")),
            (request.into(), others("CERTIFICATE REQUEST")),
            (certificate.replace('\n', "\n    ").replacen("---", "    ---", 1).into(), NotPem::WithinLine),
            (b"MIIB".to_vec(), NotPem::Text),
        ] {
            assert_eq!(instead_of_pem(&text), seen);
            let error = memory(&text).certificates(TlsFile::Certificates).unwrap_err().to_string();
            assert!(error.starts_with("certificates in memory: the file holds no certificates in PEM"), "{error}");
        }
        let error = memory(certificate).key().unwrap_err().to_string();
        assert!(error.contains("no private key in PEM (BEGIN ... END): it has CERTIFICATE"), "{error}");
    }

    #[test]
    fn a_certificate_that_is_none_is_not_blamed_on_its_key() {
        let (_, key) = pair();
        let none = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        let provider = rustls::crypto::ring::default_provider();
        let error = Pem::pair(&memory(none), &memory(&key), &provider).unwrap_err().to_string();
        assert!(error.starts_with("certificates in memory: it cannot be used: a certificate in it is none"), "{error}");
        let error = Pem::pair(&memory(pair().0), &memory(none.replace("CERTIFICATE", "PRIVATE KEY")), &provider);
        let error = error.unwrap_err().to_string();
        assert_eq!(error, "private key in memory: it is damaged, or of a kind that is not known here");
        let error = memory(none.replace("AAAA", "****")).certificates(TlsFile::Authorities).unwrap_err().to_string();
        assert!(error.contains("no Base64"), "{error}");
    }
}
