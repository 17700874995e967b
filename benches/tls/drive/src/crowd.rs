//! The client's end: connections of rustls on one epoll, by one thread. It checks no certificate and resumes no session, so
//! that it is faster than the servers, and that every handshake is a full one.

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bench_support::contract::Target;
use bench_support::sys::{self, Epoll, READ_WRITE};
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, Error, SignatureScheme, version};
use socket2::SockRef;

use crate::peers::Speaks;

/// Connections that are being opened at once.
const OPENING: usize = 64;

/// How long the servers may say nothing at all before the bench gives up, in milliseconds.
const SILENCE_MS: i32 = 60_000;

/// How long messages flow before they are counted.
const WARM_UP: Duration = Duration::from_millis(500);

/// What is said first on a connection, and how the answer ends.
const GREETING: (&[u8], &[u8]) = (b"greeting\n", b"greeting\n");
const REQUEST: (&[u8], &[u8]) = (b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", b"\r\n\r\ngreeting\n");

/// What the messages of some time came to.
pub struct Echoes {
    pub per_second: f64,
    /// Processor time of the server for each, in seconds.
    pub clock_each: f64,
}

/// Open connections.
pub struct Crowd {
    epoll: Epoll,
    connections: Vec<Connection>,
    incoming: Vec<u8>,
}

/// A connection, and what came of the answer that it awaits.
struct Connection {
    stream: TcpStream,
    tls: ClientConnection,
    answer: Vec<u8>,
}

impl Crowd {
    /// Opens `count` connections over the target's ports in turn. Each has had an answer when this returns.
    pub fn open(target: Target, count: usize, speaks: Speaks) -> io::Result<Crowd> {
        let config = Arc::new(config());
        let (first, ends) = if speaks == Speaks::Http { REQUEST } else { GREETING };
        let mut crowd =
            Crowd { epoll: Epoll::new()?, connections: Vec::with_capacity(count), incoming: vec![0; 1 << 16] };
        let mut greeted = 0;
        while greeted < count {
            while crowd.connections.len() < count.min(greeted + OPENING) {
                let port = target.first_port + (crowd.connections.len() % target.ports) as u16;
                let mut connection = Connection::open(&config, (target.address, port).into())?;
                crowd.epoll.add(connection.stream.as_raw_fd(), READ_WRITE, crowd.connections.len() as u64)?;
                connection.say(first)?;
                crowd.connections.push(connection);
            }
            crowd.turn(|connection, came| {
                let was = connection.answer.ends_with(ends);
                connection.answer.extend_from_slice(came);
                greeted += usize::from(!was && connection.answer.ends_with(ends));
                Ok(())
            })?;
        }
        Ok(crowd)
    }

    /// Watches no connection any more: what the kernel keeps for that is gone.
    pub fn rest(&mut self) -> io::Result<()> {
        self.epoll = Epoll::new()?;
        Ok(())
    }

    /// Keeps one message of `size` bytes in flight on each of the first `active` connections, and compares what comes back.
    /// `clock` is read at the start and the end of `lasting`, which follows a warm-up.
    pub fn echo(
        &mut self,
        active: usize,
        size: usize,
        lasting: Duration,
        clock: impl Fn() -> Duration,
    ) -> io::Result<Echoes> {
        self.rest()?;
        let message: Vec<u8> = (0..size).map(|at| (at * 7) as u8).collect();
        for (number, connection) in self.connections.iter_mut().take(active).enumerate() {
            connection.answer.clear();
            self.epoll.add(connection.stream.as_raw_fd(), READ_WRITE, number as u64)?;
            connection.say(&message)?;
        }
        let (mut echoes, mut in_flight, mut ends) = (0_u64, active, false);
        let mut began = Instant::now() + WARM_UP;
        let (mut counted_from, mut clock_from, mut seen) = (None, Duration::ZERO, None);
        while in_flight > 0 {
            self.turn(|connection, came| {
                let at = connection.answer.len();
                if message.get(at..at + came.len()) != Some(came) {
                    return Err(io::Error::new(ErrorKind::InvalidData, "other bytes came back"));
                }
                connection.answer.extend_from_slice(came);
                if connection.answer.len() == message.len() {
                    connection.answer.clear();
                    echoes += 1;
                    if ends { in_flight -= 1 } else { connection.say(&message)? }
                }
                Ok(())
            })?;
            let now = Instant::now();
            match counted_from {
                None if now >= began => (began, counted_from, clock_from) = (now, Some(echoes), clock()),
                Some(from) if !ends && now >= began + lasting => {
                    let count = (echoes - from) as f64;
                    let clock_each = (clock() - clock_from).as_secs_f64() / count;
                    seen = Some(Echoes { per_second: count / (now - began).as_secs_f64(), clock_each });
                    ends = true;
                }
                _ => {}
            }
        }
        seen.ok_or_else(|| io::Error::other("no message was counted"))
    }

    /// Waits for what comes, and tells the plain bytes of each connection.
    fn turn(&mut self, mut told: impl FnMut(&mut Connection, &[u8]) -> io::Result<()>) -> io::Result<()> {
        let mut events = sys::no_events();
        let came = self.epoll.wait(&mut events, SILENCE_MS)?;
        if came == 0 {
            return Err(io::Error::new(ErrorKind::TimedOut, "nothing came for a minute"));
        }
        for event in &events[..came] {
            // The field lies packed.
            let number = event.u64 as usize;
            self.connections[number].advance(&mut self.incoming, &mut told)?;
        }
        Ok(())
    }

    /// Resets every connection, so that none is left in TIME_WAIT.
    pub fn reset(self) {
        for connection in &self.connections {
            // It fails only for a socket that is gone already.
            let _ = SockRef::from(&connection.stream).set_linger(Some(Duration::ZERO));
        }
    }
}

impl Connection {
    fn open(config: &Arc<ClientConfig>, to: std::net::SocketAddr) -> io::Result<Connection> {
        let stream = TcpStream::connect(to)?;
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        let name = ServerName::try_from("localhost").map_err(io::Error::other)?;
        let tls = ClientConnection::new(config.clone(), name).map_err(io::Error::other)?;
        Ok(Connection { stream, tls, answer: Vec::new() })
    }

    /// Sends bytes; before the handshake is over they wait.
    fn say(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.tls.writer().write_all(bytes)?;
        self.flush()
    }

    fn flush(&mut self) -> io::Result<()> {
        while self.tls.wants_write() {
            match self.tls.write_tls(&mut self.stream) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Takes in all that came, tells its plain bytes, and sends what waits.
    fn advance(
        &mut self,
        incoming: &mut [u8],
        told: &mut impl FnMut(&mut Connection, &[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        loop {
            match self.tls.read_tls(&mut self.stream) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return self.flush(),
                Err(error) => return Err(error),
            }
            let plain = self.tls.process_new_packets().map_err(io::Error::other)?.plaintext_bytes_to_read();
            let mut left = plain;
            while left > 0 {
                let most = incoming.len().min(left);
                let count = self.tls.reader().read(&mut incoming[..most])?;
                left -= count;
                told(self, &incoming[..count])?;
            }
        }
    }
}

/// The suite and the key exchange that all servers have, and nothing that is checked.
fn config() -> ClientConfig {
    let provider = rustls::crypto::CryptoProvider {
        cipher_suites: vec![ring::cipher_suite::TLS13_AES_128_GCM_SHA256],
        kx_groups: vec![ring::kx_group::X25519],
        ..ring::default_provider()
    };
    let builder = ClientConfig::builder_with_provider(Arc::new(provider));
    let builder = builder.with_protocol_versions(&[&version::TLS13]).expect("the suite is one of TLS 1.3");
    let mut config = builder.dangerous().with_custom_certificate_verifier(Arc::new(Anybody)).with_no_client_auth();
    config.resumption = Resumption::disabled();
    config
}

/// Trusts any certificate.
#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.3 alone is spoken".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}
