//! The server's end: certificates by name, session tickets, and certificates that are read anew.

use std::cell::Cell;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls::ServerConfig;
use rustls::client::verify_server_name;
use rustls::crypto::ring::Ticketer;
use rustls::pki_types::ServerName;
use rustls::server::{ClientHello, ParsedCertificate, ProducesTickets, ResolvesServerCert, UnbufferedServerConnection};
use rustls::sign::CertifiedKey;

use super::files::Pem;
use super::resumption::{provider, versions};
use super::secrets::Catch;
use super::steps::Steps;
use super::{Established, HANDSHAKE_TIMEOUT, Handshake};
use crate::error::{Alert, ConfigError, Error, Result, Timeout, TlsFailure, TlsFile, TlsProblem};
use crate::tls::record::LARGEST_RECORD;
use crate::tls_version::TlsVersion;

/// Bytes of a client's first flight at most. Hellos with keys that resist quantum computers have some 1,800 bytes; a
/// record leaves room for a session ticket too. A client without a certificate sends nothing longer later.
const LONGEST_HELLO: usize = LARGEST_RECORD;

/// How a server speaks TLS: its certificates, and the bounds on its handshakes. `ServerBuilder::tls` takes it.
///
/// ```no_run
/// use c1m::{Echo, Server, TlsConfig};
///
/// # fn main() -> c1m::Result<()> {
/// let tls = TlsConfig::files("server.pem", "server.key").alpn(["http/1.1"]);
/// let server = Server::builder().tls(tls).start(|_shard| Echo)?;
/// # server.stop();
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct TlsConfig {
    pairs: Vec<(Pem, Pem)>,
    alpn: Vec<String>,
    lowest: TlsVersion,
    /// 1.3 but for peers of tests.
    highest: TlsVersion,
    handshakes: Option<u32>,
    incomplete_records: Option<u64>,
    handshake_timeout: Duration,
}

impl TlsConfig {
    /// With a chain of certificates, the server's own first, and the private key of that, each in a file in PEM.
    /// [`Server::reload_certificates`](crate::Server::reload_certificates) reads the files again.
    pub fn files(certificates: impl Into<PathBuf>, key: impl Into<PathBuf>) -> TlsConfig {
        TlsConfig::of(Pem::File(certificates.into()), Pem::File(key.into()))
    }

    /// With the same in memory.
    pub fn pem(certificates: impl Into<Vec<u8>>, key: impl Into<Vec<u8>>) -> TlsConfig {
        TlsConfig::of(Pem::Memory(certificates.into()), Pem::Memory(key.into()))
    }

    fn of(certificates: Pem, key: Pem) -> TlsConfig {
        let version = TlsVersion::default();
        TlsConfig {
            pairs: vec![(certificates, key)],
            alpn: Vec::new(),
            lowest: version,
            highest: version,
            handshakes: None,
            incomplete_records: None,
            handshake_timeout: HANDSHAKE_TIMEOUT,
        }
    }

    /// Adds another pair of files. A client that names a server (SNI) gets the first certificate that is for this name,
    /// and any other client the first of all.
    pub fn and_files(mut self, certificates: impl Into<PathBuf>, key: impl Into<PathBuf>) -> TlsConfig {
        self.pairs.push((Pem::File(certificates.into()), Pem::File(key.into())));
        self
    }

    /// The protocols that the server speaks, the best first (ALPN, RFC 7301), each of 1 to 255 bytes, otherwise
    /// starting fails with [`ConfigError::Tls`]; none by default. A client that offers others alone is refused with the
    /// alert no_application_protocol.
    pub fn alpn<T: Into<String>>(mut self, protocols: impl IntoIterator<Item = T>) -> TlsConfig {
        self.alpn = protocols.into_iter().map(Into::into).collect();
        self
    }

    /// The lowest version that is spoken; 1.3 by default. A client that does not speak it is refused with the alert
    /// protocol_version.
    pub fn lowest_version(mut self, lowest: TlsVersion) -> TlsConfig {
        self.lowest = lowest;
        self
    }

    /// Speaks TLS 1.2 alone, as a peer that c1m may meet.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn only_tls12(mut self) -> TlsConfig {
        (self.lowest, self.highest) = (TlsVersion::Tls12, TlsVersion::Tls12);
        self
    }

    /// Handshakes at once at most, over all shards, of which each may have one in any case; each takes some 12 kB. By
    /// default 64 to 2,048, from a sixteenth of the memory that is left. With 0 starting fails with
    /// [`ConfigError::Handshakes`]. Further connections wait for one to end.
    pub fn handshakes(mut self, most: u32) -> TlsConfig {
        self.handshakes = Some(most);
        self
    }

    /// Bytes that are kept at most of records that have come in part, over all shards, each of which has room for one record in
    /// any case: up to 16.6 kB for each connection that is sending a record. A connection that would need more is closed with
    /// the alert internal_error. By default a sixteenth of the memory that is left, and 16 MiB at least.
    pub fn incomplete_records(mut self, bytes: u64) -> TlsConfig {
        self.incomplete_records = Some(bytes);
        self
    }

    /// The longest time from a connection's accept to its first bytes, from these to the end of its handshake, and from
    /// the beginning of a record until it is whole; 1 ms to 366 days, otherwise starting fails with
    /// [`ConfigError::Timeout`]; 10 s by default. Beyond it the connection is closed.
    pub fn handshake_timeout(mut self, time: Duration) -> TlsConfig {
        self.handshake_timeout = time;
        self
    }

    /// Refuses what cannot be.
    pub(crate) fn check(&self) -> Result<()> {
        if self.handshakes == Some(0) {
            return Err(ConfigError::Handshakes.into());
        }
        Timeout::Handshake.check(self.handshake_timeout)?;
        alpn(&self.alpn).map(drop)
    }

    pub(crate) fn most_handshakes(&self) -> Option<u32> {
        self.handshakes
    }

    pub(crate) fn most_incomplete(&self) -> Option<u64> {
        self.incomplete_records
    }

    pub(crate) fn lowest(&self) -> TlsVersion {
        self.lowest
    }

    pub(crate) fn timeout(&self) -> Duration {
        self.handshake_timeout
    }

    /// Reads the certificates and keys.
    fn load(&self, ticketer: Arc<dyn ProducesTickets>) -> Result<ServerConfig> {
        let provider = provider(self.lowest);
        let pairs = self.pairs.iter().map(|(certificates, key)| Pem::pair(certificates, key, &provider).map(Arc::new));
        let pairs: Vec<_> = pairs.collect::<Result<_>>()?;
        if pairs.is_empty() {
            let (what, name) = (TlsFile::Certificates, String::new());
            return Err(ConfigError::Tls { what, name, problem: TlsProblem::NoPair }.into());
        }
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(versions(self.lowest, self.highest))
            .map_err(|error| Error::bug(format!("TLS with ring: {error}")))?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(Pairs(pairs)));
        config.alpn_protocols = alpn(&self.alpn)?;
        config.ticketer = ticketer;
        config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
        config.key_log = Arc::new(Catch);
        config.enable_secret_extraction = true;
        // The suites whose secrets are short come first here.
        config.ignore_client_order = true;
        Ok(config)
    }
}

/// The protocols as ALPN has them.
pub(super) fn alpn(names: &[String]) -> Result<Vec<Vec<u8>>> {
    if let Some(name) = names.iter().find(|name| name.is_empty() || name.len() > 255) {
        let (what, name) = (TlsFile::Alpn, name.clone());
        return Err(ConfigError::Tls { what, name, problem: TlsProblem::Length }.into());
    }
    Ok(names.iter().map(|name| name.clone().into_bytes()).collect())
}

/// The certificates, by name.
#[derive(Debug)]
struct Pairs(Vec<Arc<CertifiedKey>>);

impl Pairs {
    fn named(&self, name: &str) -> Option<&Arc<CertifiedKey>> {
        let name = ServerName::try_from(name).ok()?;
        let is_for = |pair: &&Arc<CertifiedKey>| {
            let parsed = pair.end_entity_cert().and_then(ParsedCertificate::try_from);
            parsed.is_ok_and(|certificate| verify_server_name(&certificate, &name).is_ok())
        };
        self.0.iter().find(is_for)
    }
}

thread_local! {
    /// The name that the client of the handshake that this thread has in hand has sent. Between two calls of rustls there
    /// is none.
    static NAME: Cell<Option<Box<str>>> = const { Cell::new(None) };
}

impl ResolvesServerCert for Pairs {
    /// Asked once in each handshake, a resumption included.
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        NAME.set(hello.server_name().map(Box::from));
        let named = hello.server_name().filter(|_| self.0.len() > 1).and_then(|name| self.named(name));
        named.or(self.0.first()).cloned()
    }
}

/// What the shards of a server share to begin handshakes.
#[derive(Debug)]
struct Shared {
    settings: TlsConfig,
    ticketer: Arc<dyn ProducesTickets>,
    config: Mutex<Arc<ServerConfig>>,
    /// Counts the configurations.
    version: AtomicU64,
}

/// Begins the handshakes of a server. Each shard has a clone.
#[derive(Debug, Clone)]
pub struct Acceptor {
    shared: Arc<Shared>,
    config: Arc<ServerConfig>,
    version: u64,
}

impl Acceptor {
    /// Reads the certificates. Fails if one cannot be used.
    pub fn new(settings: &TlsConfig) -> Result<Acceptor> {
        // Its keys change every six hours, and it opens tickets of twelve.
        let ticketer = Ticketer::new().map_err(|error| Error::bug(format!("keys for session tickets: {error}")))?;
        let config = Arc::new(settings.load(ticketer.clone())?);
        let (settings, version) = (settings.clone(), AtomicU64::new(0));
        let shared = Shared { settings, ticketer, config: Mutex::new(config.clone()), version };
        Ok(Acceptor { shared: Arc::new(shared), config, version: 0 })
    }

    /// Reads the certificates again: all handshakes that begin from now on have them. If one cannot be used, those before
    /// stay. Sessions can be resumed with tickets from before.
    pub fn reload(&self) -> Result<()> {
        let config = Arc::new(self.shared.settings.load(self.shared.ticketer.clone())?);
        // What is behind the lock is whole at any time.
        *self.shared.config.lock().unwrap_or_else(PoisonError::into_inner) = config;
        self.shared.version.fetch_add(1, Ordering::Release);
        Ok(())
    }

    /// Begins a handshake.
    pub(crate) fn begin(&mut self) -> std::result::Result<Box<dyn Handshake>, TlsFailure> {
        let version = self.shared.version.load(Ordering::Acquire);
        if version != self.version {
            self.config = self.shared.config.lock().unwrap_or_else(PoisonError::into_inner).clone();
            self.version = version;
        }
        let machine = UnbufferedServerConnection::new(self.config.clone())
            .map_err(|_| TlsFailure::OwnAlert(Alert::INTERNAL_ERROR))?;
        Ok(Box::new(Accepting { steps: Steps::new(machine, LONGEST_HELLO), name: None }))
    }
}

struct Accepting {
    steps: Steps<UnbufferedServerConnection>,
    /// What the client calls the server.
    name: Option<Box<str>>,
}

impl Handshake for Accepting {
    fn advance(
        &mut self,
        incoming: &mut Vec<u8>,
        outgoing: &mut Vec<u8>,
    ) -> std::result::Result<Option<Established>, TlsFailure> {
        let mut established = self.steps.advance(incoming, outgoing, |_| None);
        self.name = NAME.take().or(self.name.take());
        if let Ok(Some(established)) = &mut established {
            established.agreed.server_name = self.name.take();
        }
        established
    }
}
