//! The client's end: what it trusts, what it offers, and the sessions that it can resume.

use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ClientConnectionData, Resumption, UnbufferedClientConnection, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::kernel::KernelConnection;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use super::files::{Pem, why};
use super::resumption::{Store, provider, versions};
use super::secrets::Catch;
use super::server::alpn;
use super::steps::Steps;
use super::{Established, HANDSHAKE_TIMEOUT, Handshake, TakesTickets};
use crate::error::{Alert, ConfigError, Error, Result, TlsFailure, TlsFile, TlsProblem};
use crate::tls_version::TlsVersion;

/// Bytes of a server's flight at most: a chain of certificates is one message, of 64 KiB at most in rustls.
const LONGEST_FLIGHT: usize = 96 * 1024;

/// Whose certificates a client trusts.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Trust {
    /// Those of the authorities that this host trusts.
    #[default]
    Host,
    /// Those of the authorities in here.
    Authorities(Pem),
    /// Anybody's: the server's certificate and name are not looked at.
    Anyone,
}

/// How a client speaks TLS.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ClientTls {
    /// The name that the server's certificate must have, and that is sent to the server (SNI): a DNS name, or an IP
    /// address, which is not sent. `None` takes the address that the connection goes to.
    pub server_name: Option<String>,
    /// The protocols to offer, the best first (ALPN, RFC 7301), each of 1 to 255 bytes.
    pub alpn: Vec<String>,
    /// The lowest version that is spoken.
    pub lowest_version: TlsVersion,
    /// Whose certificates are trusted.
    pub trust: Trust,
    /// A certificate of the client's own with its private key, for servers that ask for one.
    pub identity: Option<(Pem, Pem)>,
    /// Sessions are resumed where the server has given tickets. Without, each handshake is a full one.
    pub resumption: bool,
    /// How long a handshake may take, and an incomplete record to become whole; 1 ms to 366 days.
    pub handshake_timeout: Duration,
}

impl Default for ClientTls {
    fn default() -> ClientTls {
        ClientTls {
            server_name: None,
            alpn: Vec::new(),
            lowest_version: TlsVersion::default(),
            trust: Trust::Host,
            identity: None,
            resumption: true,
            handshake_timeout: HANDSHAKE_TIMEOUT,
        }
    }
}

impl ClientTls {
    /// The name that is asked for on every connection, if there is one.
    fn name(&self) -> Result<Option<ServerName<'static>>> {
        let Some(name) = &self.server_name else { return Ok(None) };
        ServerName::try_from(name.clone()).map(Some).map_err(|_| {
            let (what, problem) = (TlsFile::ServerName, TlsProblem::NoName);
            ConfigError::Tls { what, name: name.clone(), problem }.into()
        })
    }

    /// Reads what is named. `highest` is 1.3 but for peers of tests.
    fn load(&self, highest: TlsVersion) -> Result<ClientConfig> {
        let provider = provider(self.lowest_version);
        let builder = ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(versions(self.lowest_version, highest))
            .map_err(|error| Error::bug(format!("TLS with ring: {error}")))?;
        let verifier: Arc<dyn ServerCertVerifier> = match &self.trust {
            Trust::Anyone => Arc::new(NoVerifier(provider.clone())),
            trust => WebPkiServerVerifier::builder_with_provider(Arc::new(roots(trust)?), provider.clone())
                .build()
                .map_err(|error| Error::bug(format!("a verifier of certificates: {error}")))?,
        };
        let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
        let mut config = match &self.identity {
            None => builder.with_no_client_auth(),
            Some((certificates, key)) => {
                let pair = Pem::pair(certificates, key, &provider)?;
                builder.with_client_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(pair)))
            }
        };
        config.alpn_protocols = alpn(&self.alpn)?;
        config.key_log = Arc::new(Catch);
        config.enable_secret_extraction = true;
        config.resumption = Resumption::disabled();
        Ok(config)
    }
}

/// The authorities to trust.
fn roots(trust: &Trust) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    let refused = |name: String, problem| ConfigError::Tls { what: TlsFile::Authorities, name, problem };
    match trust {
        Trust::Authorities(pem) => {
            for certificate in pem.certificates(TlsFile::Authorities)? {
                let added = roots.add(certificate);
                added.map_err(|error| refused(format!("{pem:?}"), TlsProblem::Unusable(why(&error))))?;
            }
        }
        // Some of a host's authorities may be in a form that is out of date.
        _ => drop(roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs)),
    }
    if roots.is_empty() {
        return Err(refused(String::new(), TlsProblem::NoAuthorities).into());
    }
    Ok(roots)
}

/// Trusts anyone. The signature of the handshake is still checked: it is the proof that the server has the key of the
/// certificate that it sent. A certificate that cannot be read, such as one of X.509 version 1, has no key to check it with.
#[derive(Debug)]
struct NoVerifier(Arc<CryptoProvider>);

/// What was found of the signature of a handshake, which holds unless it was the certificate that could not be read.
fn unless_unreadable(
    cert: &CertificateDer<'_>,
    verified: std::result::Result<HandshakeSignatureValid, rustls::Error>,
) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
    match verified {
        Err(_) if ParsedCertificate::try_from(cert).is_err() => Ok(HandshakeSignatureValid::assertion()),
        verified => verified,
    }
}

impl ServerCertVerifier for NoVerifier {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> std::result::Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        unless_unreadable(
            cert,
            verify_tls12_signature(message, cert, signed, &self.0.signature_verification_algorithms),
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        unless_unreadable(
            cert,
            verify_tls13_signature(message, cert, signed, &self.0.signature_verification_algorithms),
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// Begins the handshakes of a client. Each shard has a clone with a store of sessions of its own (`for_shard`).
#[derive(Debug, Clone)]
pub struct Connector {
    config: Arc<ClientConfig>,
    name: Option<ServerName<'static>>,
    /// `None` where no session is resumed.
    store: Option<Arc<Store>>,
}

impl Connector {
    /// Reads what the settings name. Fails if something cannot be used.
    pub fn new(settings: &ClientTls) -> Result<Connector> {
        Connector::up_to(settings, TlsVersion::Tls13)
    }

    /// One that speaks TLS 1.2 alone, as a peer that c1m may meet.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn only_tls12(settings: ClientTls) -> Result<Connector> {
        Connector::up_to(&ClientTls { lowest_version: TlsVersion::Tls12, ..settings }, TlsVersion::Tls12)
    }

    fn up_to(settings: &ClientTls, highest: TlsVersion) -> Result<Connector> {
        let store = settings.resumption.then(Arc::default);
        Ok(Connector { config: Arc::new(settings.load(highest)?), name: settings.name()?, store }.for_shard())
    }

    /// The same with an empty store of sessions.
    pub fn for_shard(&self) -> Connector {
        let mut config = ClientConfig::clone(&self.config);
        let store = self.store.as_ref().map(|_| Arc::<Store>::default());
        config.resumption = match &store {
            Some(store) => Resumption::store(store.clone()),
            None => Resumption::disabled(),
        };
        Connector { config: Arc::new(config), name: self.name.clone(), store }
    }

    /// The sessions that can be resumed.
    #[cfg(test)]
    pub(super) fn store(&self) -> Option<&Arc<Store>> {
        self.store.as_ref()
    }

    /// Begins a handshake with the server at an address.
    pub(crate) fn begin(&self, to: std::net::IpAddr) -> std::result::Result<Box<dyn Handshake>, TlsFailure> {
        let name = self.name.clone().unwrap_or_else(|| ServerName::from(to));
        let machine = UnbufferedClientConnection::new(self.config.clone(), name)
            .map_err(|_| TlsFailure::OwnAlert(Alert::INTERNAL_ERROR))?;
        Ok(Box::new(Connecting { steps: Steps::new(machine, LONGEST_FLIGHT), store: self.store.clone() }))
    }
}

struct Connecting {
    steps: Steps<UnbufferedClientConnection>,
    store: Option<Arc<Store>>,
}

impl Handshake for Connecting {
    fn advance(
        &mut self,
        incoming: &mut Vec<u8>,
        outgoing: &mut Vec<u8>,
    ) -> std::result::Result<Option<Established>, TlsFailure> {
        let store = &self.store;
        self.steps.advance(incoming, outgoing, |rest| {
            let wants = store.as_ref().is_some_and(|store| !store.is_full());
            wants.then(|| Box::new(Tickets(rest)) as Box<dyn TakesTickets>)
        })
    }
}

/// Gives tickets to rustls, which puts sessions into the store.
struct Tickets(KernelConnection<ClientConnectionData>);

impl TakesTickets for Tickets {
    fn take(&mut self, ticket: &[u8]) -> bool {
        self.0.handle_new_session_ticket(ticket).is_ok()
    }
}
