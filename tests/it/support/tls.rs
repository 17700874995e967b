//! Certificates for tests of TLS, and the ends of a foreign implementation.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, StreamOwned,
    SupportedProtocolVersion,
};
use tempfile::TempDir;

use super::peer::connected;

/// The number of the next authority.
static NUMBER: AtomicUsize = AtomicUsize::new(0);

/// A certificate authority, and the folder in which its certificates and those that it signs lie.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    params: CertificateParams,
    dir: TempDir,
}

/// A certificate with its key, in two files.
pub struct Signed {
    pub chain: PathBuf,
    pub key: PathBuf,
    der: (CertificateDer<'static>, Vec<u8>),
}

/// Bytes in PEM.
fn pem(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let lines: Vec<_> = text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

impl Authority {
    pub fn new() -> Authority {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        // Two authorities of one name could not be told apart.
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        params.distinguished_name.push(DnType::CommonName, format!("authority {number}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params.clone(), KeyPair::generate().unwrap()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("ca.pem"), pem("CERTIFICATE", issuer.der())).unwrap();
        Authority { issuer, params, dir }
    }

    /// The file with its own certificate.
    pub fn file(&self) -> String {
        self.dir.path().join("ca.pem").display().to_string()
    }

    /// The file with the certificate of another authority of the same name, which has a key of another kind.
    pub fn namesake(&self) -> String {
        let key = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        let other = self.params.self_signed(&key).unwrap();
        let file = self.dir.path().join("namesake.pem");
        std::fs::write(&file, pem("CERTIFICATE", other.der())).unwrap();
        file.display().to_string()
    }

    /// Signs a certificate for some names. Its files have `label` in their names; the same label replaces them.
    pub fn sign(&self, label: &str, names: &[&str]) -> Signed {
        self.sign_with(label, names, |_| {})
    }

    /// Signs a certificate that is changed first.
    pub fn sign_with(&self, label: &str, names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Signed {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let [chain, secret] = ["pem", "key"].map(|ending| self.dir.path().join(format!("{label}.{ending}")));
        std::fs::write(&chain, pem("CERTIFICATE", certificate.der())).unwrap();
        std::fs::write(&secret, pem("PRIVATE KEY", &key.serialize_der())).unwrap();
        let der = (certificate.der().clone(), key.serialize_der());
        Signed { chain, key: secret, der }
    }

    /// A store with this authority alone.
    pub fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).unwrap();
        roots
    }

    /// A connection to a port of this host, whose server proves by this authority that it is `localhost`.
    pub fn connected(&self, port: u16) -> Secure {
        secure(port, &Arc::new(self.client(None)), "localhost").unwrap()
    }

    /// The configuration of a client of rustls that trusts this authority, with one suite if it is named.
    pub fn client(&self, suite: Option<&str>) -> ClientConfig {
        self.client_of(&rustls::version::TLS13, suite)
    }

    /// The same, which speaks TLS 1.2 alone.
    pub fn old_client(&self, suite: Option<&str>) -> ClientConfig {
        self.client_of(&rustls::version::TLS12, suite)
    }

    fn client_of(&self, version: &'static SupportedProtocolVersion, suite: Option<&str>) -> ClientConfig {
        let mut provider = rustls::crypto::ring::default_provider();
        provider.cipher_suites.retain(|one| suite.is_none_or(|name| format!("{one:?}").contains(name)));
        ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(self.roots())
            .with_no_client_auth()
    }
}

impl Signed {
    /// The arguments that have a server use it.
    pub fn server(&self) -> String {
        format!("--tls-cert {} --tls-key {}", self.chain.display(), self.key.display())
    }

    /// The configuration of a server of rustls with it.
    pub fn foreign_server(&self) -> ServerConfig {
        self.foreign_server_asking(WebPkiClientVerifier::no_client_auth())
    }

    /// The same, which asks clients for a certificate.
    pub fn foreign_server_asking(&self, verifier: Arc<dyn ClientCertVerifier>) -> ServerConfig {
        self.foreign_server_of(&rustls::version::TLS13, verifier)
    }

    /// The configuration of a server of rustls that speaks TLS 1.2 alone.
    pub fn old_foreign_server(&self) -> ServerConfig {
        self.foreign_server_of(&rustls::version::TLS12, WebPkiClientVerifier::no_client_auth())
    }

    fn foreign_server_of(
        &self,
        version: &'static SupportedProtocolVersion,
        verifier: Arc<dyn ClientCertVerifier>,
    ) -> ServerConfig {
        let (certificate, key) = self.der.clone();
        ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_protocol_versions(&[version])
            .unwrap()
            .with_client_cert_verifier(verifier)
            .with_single_cert(vec![certificate], PrivateKeyDer::try_from(key).unwrap())
            .unwrap()
    }
}

/// A connection of rustls' client.
pub type Secure = StreamOwned<ClientConnection, TcpStream>;

/// Connects to a port of this host, with this name of the server. The handshake is over when this returns.
pub fn secure(port: u16, config: &Arc<ClientConfig>, name: &str) -> Result<Secure, std::io::Error> {
    let connection = ClientConnection::new(config.clone(), ServerName::try_from(name.to_owned()).unwrap()).unwrap();
    let mut stream = StreamOwned::new(connection, connected(port));
    while stream.conn.is_handshaking() {
        stream.conn.complete_io(&mut stream.sock)?;
    }
    Ok(stream)
}

/// Serves a connection as rustls' server, on a thread of its own, and echoes. `change` may do something after each read.
pub fn echo_securely(
    stream: &TcpStream,
    config: &Arc<ServerConfig>,
    change: impl Fn(&mut ServerConnection) + Send + 'static,
) {
    let (stream, config) = (stream.try_clone().unwrap(), config.clone());
    std::thread::spawn(move || {
        let mut stream = StreamOwned::new(ServerConnection::new(config).unwrap(), stream);
        let mut bytes = [0; 4096];
        // An error is the client's end, or what the test provokes.
        while let Ok(count @ 1..) = stream.read(&mut bytes) {
            change(&mut stream.conn);
            if stream.write_all(&bytes[..count]).is_err() {
                return;
            }
        }
        stream.conn.send_close_notify();
        let _ = stream.flush();
    });
}

/// A server's end of a connection, over TLS or over plain bytes. One thread reads; any may write.
#[derive(Clone)]
pub struct Link {
    stream: Arc<TcpStream>,
    tls: Option<Arc<Mutex<ServerConnection>>>,
}

impl Link {
    /// Speaks TLS if there is a configuration for it.
    pub fn new(stream: TcpStream, config: Option<&Arc<ServerConfig>>) -> Link {
        stream.set_nodelay(true).unwrap();
        let tls = config.map(|config| Arc::new(Mutex::new(ServerConnection::new(config.clone()).unwrap())));
        Link { stream: Arc::new(stream), tls }
    }

    /// Reads some bytes; 0 at the end, whatever that is.
    pub fn read(&self, bytes: &mut [u8]) -> usize {
        let Some(tls) = &self.tls else { return (&*self.stream).read(bytes).unwrap_or(0) };
        loop {
            let read = tls.lock().unwrap().reader().read(bytes);
            match read {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                read => return read.unwrap_or(0),
            }
            // It is not locked while this waits.
            let mut sealed = [0; 4096];
            let count = (&*self.stream).read(&mut sealed).unwrap_or(0);
            let mut tls = tls.lock().unwrap();
            let mut came = &sealed[..count];
            let heard = loop {
                let taken = tls.read_tls(&mut came);
                if let Err(error) = taken.and_then(|_| tls.process_new_packets().map_err(io::Error::other)) {
                    break Err(error);
                }
                if came.is_empty() {
                    break Ok(());
                }
            };
            let said = self.flush(&mut tls);
            if heard.and(said).is_err() {
                return 0;
            }
        }
    }

    /// Writes bytes in pieces of so many, as long as the client is there. One that is gone is found by its reader.
    pub fn write(&self, bytes: &[u8], piece: usize) {
        let _ = bytes.chunks(piece).try_for_each(|piece| self.write_piece(piece));
    }

    fn write_piece(&self, bytes: &[u8]) -> io::Result<()> {
        let Some(tls) = &self.tls else { return (&*self.stream).write_all(bytes) };
        let mut tls = tls.lock().unwrap();
        tls.writer().write_all(bytes)?;
        self.flush(&mut tls)
    }

    /// Ends the connection in order.
    pub fn close(&self) {
        if let Some(tls) = &self.tls {
            let mut tls = tls.lock().unwrap();
            tls.send_close_notify();
            let _ = self.flush(&mut tls);
        }
        let _ = self.stream.shutdown(Shutdown::Both);
    }

    fn flush(&self, tls: &mut ServerConnection) -> io::Result<()> {
        while tls.wants_write() {
            tls.write_tls(&mut &*self.stream)?;
        }
        Ok(())
    }
}
