//! What every peer is told on its command line, and what it must do before it says `ready`:
//!
//! ```text
//! PEER ADDRESS FIRST_PORT PORTS CORES
//! ```
//!
//! The peer listens on PORTS ports from FIRST_PORT on, echoes what comes, and uses only CORES, a list such
//! as 0,1; it has been started with that affinity already. It says `ready` on standard output as
//! soon as every port listens, and runs until it is killed.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::ops::Range;
use std::path::PathBuf;

use socket2::{Domain, Protocol, Socket, Type};

use crate::sys;

/// Bytes of the buffer of a peer that has one per connection, as in tokio's own example. Messages have 64 bytes, so a
/// larger buffer would only take more memory.
pub const BUFFER_BYTES: usize = 1024;

/// The same for peers that speak TLS, of which some messages fill a record of 16 KiB: a larger one would make idle
/// connections dearer, and a smaller one long messages.
pub const RECORD_BUFFER_BYTES: usize = 4096;

/// The certificate of a peer that speaks TLS and its key, in PEM; the environment names them.
pub struct TlsFiles {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

impl TlsFiles {
    /// The names of the variables, in the order of the fields.
    pub const VARIABLES: [&str; 2] = ["TLS_CERTIFICATE", "TLS_KEY"];

    pub fn from_environment() -> TlsFiles {
        let [certificate, key] = TlsFiles::VARIABLES
            .map(|name| std::env::var_os(name).unwrap_or_else(|| panic!("{name} names no file")).into());
        TlsFiles { certificate, key }
    }
}

/// Where the server listens.
#[derive(Clone, Copy)]
pub struct Target {
    pub address: Ipv4Addr,
    pub first_port: u16,
    pub ports: usize,
}

/// What a peer was told.
pub struct Contract {
    pub address: Ipv4Addr,
    pub first_port: u16,
    pub ports: u16,
    pub cores: Vec<usize>,
}

impl Contract {
    /// What a server at a target is told.
    pub fn new(target: Target, cores: &[usize]) -> Contract {
        let Target { address, first_port, ports } = target;
        let ports = u16::try_from(ports).expect("a port number has 16 bits");
        Contract { address, first_port, ports, cores: cores.to_vec() }
    }

    /// Its words on a command line.
    pub fn words(&self) -> [String; 4] {
        let cores: Vec<String> = self.cores.iter().map(usize::to_string).collect();
        [self.address.to_string(), self.first_port.to_string(), self.ports.to_string(), cores.join(",")]
    }

    /// Reads the command line, and raises the limit of open files as far as it goes.
    pub fn from_command_line() -> Contract {
        Contract::of(&std::env::args().skip(1).collect::<Vec<_>>())
    }

    /// The same from words of a longer command line.
    pub fn of(words: &[String]) -> Contract {
        let read = || {
            let [address, first_port, ports, cores] = words else { return None };
            let cores: Option<Vec<usize>> = cores.split(',').map(|core| core.parse().ok()).collect();
            let (first_port, ports) = (first_port.parse().ok()?, ports.parse().ok()?);
            Some(Contract { address: address.parse().ok()?, first_port, ports, cores: cores? })
        };
        sys::raise_open_files();
        read().unwrap_or_else(|| panic!("expected ADDRESS FIRST_PORT PORTS CORES, such as 127.0.0.1 21000 100 0,1"))
    }

    /// Every port.
    pub fn all_ports(&self) -> Range<u16> {
        self.first_port..self.first_port + self.ports
    }

    /// The ports of the core at `place` in the list, for servers that share nothing between cores.
    pub fn ports_of(&self, place: usize) -> Range<u16> {
        let bound = |place: usize| self.first_port + (usize::from(self.ports) * place / self.cores.len()) as u16;
        bound(place)..bound(place + 1)
    }

    pub fn socket_address(&self, port: u16) -> SocketAddr {
        (self.address, port).into()
    }

    /// A non-blocking listener, its accept queue as long as the kernel allows.
    pub fn listen(&self, port: u16) -> io::Result<TcpListener> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(true)?;
        // Accepted sockets inherit it, which saves a system call on each.
        socket.set_tcp_nodelay(true)?;
        socket.bind(&self.socket_address(port).into())?;
        // The kernel caps the queue at net.core.somaxconn.
        socket.listen(i32::MAX)?;
        Ok(socket.into())
    }

    /// Listens on each of the ports.
    pub fn listen_on(&self, ports: Range<u16>) -> Vec<TcpListener> {
        let listener = |port| self.listen(port).unwrap_or_else(|error| panic!("listening on port {port}: {error}"));
        ports.map(listener).collect()
    }
}

/// Keeps the calling thread on one core.
pub fn pin(core: usize) {
    sys::pin(core).unwrap_or_else(|error| panic!("core {core} cannot be used: {error}"));
}

/// Reports that every port listens.
pub fn ready() {
    println!("ready");
}
