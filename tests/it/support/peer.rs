//! Sockets of the test itself: a server that misbehaves on purpose, and plain connections.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use c1m::ShardCounters;
use socket2::SockRef;

use super::ports::free_ports;
use super::server::at;
use super::wait::{PATIENCE, eventually};

/// A server of the test's own. It accepts connections until this value is dropped.
pub struct Peer {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Peer {
    /// Calls `serve` for each accepted connection, one after the other. The connection is kept if that returns `true`, and
    /// closed otherwise.
    pub fn start(serve: impl Fn(&mut TcpStream) -> bool + Send + 'static) -> Peer {
        Peer::start_at(Ipv4Addr::LOCALHOST, serve)
    }

    /// The same at another address of this host, or at all of them.
    pub fn start_at(ip: Ipv4Addr, serve: impl Fn(&mut TcpStream) -> bool + Send + 'static) -> Peer {
        let listener = TcpListener::bind((ip, free_ports(1))).unwrap();
        let (address, stop) = (listener.local_addr().unwrap(), Arc::new(AtomicBool::new(false)));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let mut kept = Vec::new();
            for mut stream in listener.incoming().map_while(Result::ok) {
                if stopped.load(Ordering::Acquire) {
                    return;
                }
                if serve(&mut stream) {
                    kept.push(stream);
                }
            }
        });
        Peer { address, stop, thread: Some(thread) }
    }

    /// Has `serve` serve each accepted connection, on a thread of its own.
    pub fn with_threads(serve: impl Fn(TcpStream) + Send + Sync + 'static) -> Peer {
        let serve = Arc::new(serve);
        Peer::start(move |stream| {
            let (stream, serve) = (stream.try_clone().unwrap(), serve.clone());
            std::thread::spawn(move || serve(stream));
            false
        })
    }

    /// The arguments that lead a client to the server.
    pub fn at(&self) -> String {
        at(self.port(), 1)
    }

    /// The server's port.
    pub fn port(&self) -> u16 {
        self.address.port()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        // The thread waits in accept, and reads `stop` after the next connection.
        let _ = TcpStream::connect(self.address);
        let ended = self.thread.take().map(JoinHandle::join);
        assert!(ended.is_none_or(|ended| ended.is_ok()) || std::thread::panicking());
    }
}

/// Sends back what comes on a connection, to its end. `answered` is called after each answer.
pub fn echo(mut stream: TcpStream, answered: impl Fn()) {
    let mut buffer = [0; 1_024];
    while let Ok(len @ 1..) = stream.read(&mut buffer) {
        if stream.write_all(&buffer[..len]).is_err() {
            return;
        }
        answered();
    }
}

/// Reads until what came ends with `end`, and not beyond it.
pub fn read_until(stream: &mut impl Read, end: &[u8]) -> Vec<u8> {
    let mut read = Vec::new();
    while !read.ends_with(end) {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        read.extend(byte);
    }
    read
}

/// What comes until a connection ends, in order or by a RST.
pub fn last_words(stream: &mut impl Read) -> Vec<u8> {
    let mut words = Vec::new();
    if let Err(error) = stream.read_to_end(&mut words) {
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "after {words:?}");
    }
    words
}

/// A connection to `port` of this host, made as soon as there is a listener.
pub fn connected(port: u16) -> TcpStream {
    let mut stream = None;
    eventually("a listener accepts", || {
        stream = TcpStream::connect((IpAddr::V4(Ipv4Addr::LOCALHOST), port)).ok();
        stream.is_some()
    });
    let stream = stream.unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// The words of each line that /proc/net/tcp has for an established connection at a server's port.
pub fn established(port: u16) -> Vec<Vec<String>> {
    /// The state of an established connection (include/net/tcp_states.h), as the file writes it.
    const ESTABLISHED: &str = "01";
    let port = format!(":{port:04X}");
    let table = std::fs::read_to_string("/proc/thread-self/net/tcp").unwrap();
    let lines = table.lines().map(|line| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>());
    lines.filter(|words| words[1].ends_with(&port) && words[3] == ESTABLISHED).collect()
}

/// Waits until the kernel has `count` established connections at a server's port. A FIN or RST of a peer has then
/// reached the server's socket, whatever core was to deliver it.
pub fn wait_for_established(port: u16, count: usize) {
    eventually(&format!("{count} connections are established"), || established(port).len() == count);
}

/// Closes a connection with a RST.
pub fn reset(stream: TcpStream) {
    SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
}

/// Checks that the peer echoes.
pub fn echoes(stream: &mut (impl Read + Write)) {
    let mut back = [0; 5];
    stream.write_all(b"hello").unwrap();
    stream.read_exact(&mut back).unwrap();
    assert_eq!(&back, b"hello");
}

/// Looks in a row at which nothing more was received until it is taken for certain.
const LOOKS: usize = 20;

/// Writes pieces, and reads nothing, until an answer of the server has had to wait for this peer and the server receives nothing
/// more. No answer may have waited for another peer. Returns how many pieces were begun, and what of the last one is not written.
pub fn write_unread(
    stream: &mut TcpStream,
    piece: impl Fn() -> Vec<u8>,
    counters: impl Fn() -> ShardCounters,
) -> (usize, Vec<u8>) {
    stream.set_nonblocking(true).unwrap();
    let (mut pieces, mut rest) = (0, Vec::new());
    let (mut before, mut looks) = ((0, 0), 0);
    eventually("the server receives nothing more", || {
        loop {
            if rest.is_empty() {
                (pieces, rest) = (pieces + 1, piece());
            }
            match stream.write(&rest) {
                Ok(written) => drop(rest.drain(..written)),
                Err(error) => break assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}"),
            }
        }
        let counters = counters();
        let now = (counters.bytes_in, counters.parked);
        let is_still = std::mem::replace(&mut before, now) == now && counters.parked > 0;
        looks = if is_still { looks + 1 } else { 0 };
        looks == LOOKS
    });
    stream.set_nonblocking(false).unwrap();
    (pieces, rest)
}
