//! The listening sockets of a plan: every port of every shard, with SO_REUSEPORT.

use std::net::{Shutdown, SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};

use crate::addresses::Address;
use crate::constants::{AFTERLIFE, LOOK_AGAIN};
use crate::error::{ConfigError, Errno, Error, HostError, HostReason, ListenReason, Result};
use crate::plan::Ports;
use crate::sys;

/// Binds and listens on `bind:port` for each of `ports`. The kernel caps `backlog` silently at net.core.somaxconn. For
/// port 0 it takes a free port. Accepted sockets inherit the BPF program, if there is one.
///
/// Fails with a `ListenReason`, or with `ConfigError::NotThisHost`.
pub fn listen(
    bind: Address,
    ports: &[u16],
    backlog: i32,
    keepalive: Option<Duration>,
    program: Option<BorrowedFd<'_>>,
) -> Result<Vec<TcpListener>> {
    ports.iter().map(|port| listen_one(bind.at(*port), backlog, keepalive, program)).collect()
}

/// Keepalive probes without an answer after which the kernel gives a connection up.
pub const KEEPALIVE_PROBES: u32 = 3;

/// The call that takes a port, by its name in errors.
const BIND: &str = "bind";

/// Checks that no process listens on one of the ports. SO_REUSEPORT would let a second server of the same user share
/// them silently, so the check binds without it. The kernel may hold the ports of a killed server for a moment longer,
/// so the check tries again until `AFTERLIFE` is over.
pub fn check_free(bind: Address, ports: Ports) -> Result<()> {
    let deadline = Instant::now() + AFTERLIFE;
    for index in 0..ports.count() as u64 {
        let address = bind.at(ports.nth(index));
        while let Err(error) = socket(address)?.bind(&address.into()) {
            if Errno::of(&error) != Errno::EADDRINUSE || Instant::now() > deadline {
                return Err(refused(BIND, address, &error));
            }
            std::thread::sleep(LOOK_AGAIN);
        }
    }
    Ok(())
}

/// Stops listening. The kernel resets the connections that wait in the accept queue and refuses new ones, and needs no
/// memory for either. The port stays bound.
pub fn stop_listening(socket: &TcpListener) -> std::io::Result<()> {
    match SockRef::from(socket).shutdown(Shutdown::Read) {
        // The socket did not listen.
        Err(error) if Errno::of(&error) == Errno::ENOTCONN => Ok(()),
        done => done,
    }
}

/// Has the kernel probe the peer after this time of silence, or never.
pub fn set_keepalive(socket: &impl AsFd, time: Option<Duration>) -> std::io::Result<()> {
    let socket = SockRef::from(socket);
    let Some(time) = time else { return socket.set_keepalive(false) };
    let keepalive = TcpKeepalive::new().with_time(time).with_interval(time).with_retries(KEEPALIVE_PROBES);
    socket.set_tcp_keepalive(&keepalive)
}

/// Listens again after `stop_listening`.
pub fn listen_again(socket: &TcpListener, backlog: i32) -> std::io::Result<()> {
    SockRef::from(socket).listen(backlog)
}

fn listen_one(
    address: SocketAddr,
    backlog: i32,
    keepalive: Option<Duration>,
    program: Option<BorrowedFd<'_>>,
) -> Result<TcpListener> {
    let refused = |operation: &'static str, e: std::io::Error| refused(operation, address, &e);
    let socket = socket(address)?;
    socket.set_reuse_port(true).map_err(|e| refused("SO_REUSEPORT on", e))?;
    // Accepted sockets inherit TCP_NODELAY: an answer does not wait for an acknowledgement.
    socket.set_tcp_nodelay(true).map_err(|e| refused("TCP_NODELAY on", e))?;
    // Accepted sockets inherit keepalive too. It takes no memory: each socket has the kernel's timer anyway.
    set_keepalive(&socket, keepalive).map_err(|e| refused("SO_KEEPALIVE on", e))?;
    if let Some(program) = program {
        // Attached before the first accept: a socket that was accepted earlier would never have the filter.
        sys::attach_program(&socket, program).map_err(|e| refused("SO_ATTACH_BPF on", e))?;
    }
    socket.bind(&address.into()).map_err(|e| refused(BIND, e))?;
    socket.listen(backlog).map_err(|e| refused("listen on", e))?;
    Ok(socket.into())
}

fn socket(address: SocketAddr) -> Result<Socket> {
    let refused = |operation: &'static str, e: std::io::Error| refused(operation, address, &e);
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))
        .map_err(|e| refused("socket for", e))?;
    if address.is_ipv6() {
        // `::` takes IPv4 too, whatever net.ipv6.bindv6only says. A host without IPv4 refuses the option.
        let _ = socket.set_only_v6(!address.ip().is_unspecified());
    }
    socket.set_reuse_address(true).map_err(|e| refused("SO_REUSEADDR on", e))?;
    Ok(socket)
}

fn refused(operation: &'static str, address: SocketAddr, error: &std::io::Error) -> Error {
    let errno = Errno::of(error);
    let reason = match errno {
        Errno::EADDRNOTAVAIL => return ConfigError::NotThisHost { operation, address, errno }.into(),
        Errno::EADDRINUSE => ListenReason::PortTaken { port: address.port() }.into(),
        Errno::EACCES if operation == BIND => ListenReason::PrivilegedPort.into(),
        Errno::EACCES => HostReason::Filtered,
        Errno::EMFILE => ListenReason::NoDescriptor.into(),
        _ => ListenReason::Other.into(),
    };
    HostError::new(operation, address.to_string(), errno, reason).into()
}
