//! Whom a connection is with. No row keeps an address: the kernel is asked when somebody wants to know, or the accept
//! brings the peer's, which is kept until the driver was told of the connection.

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{OwnedFd, RawFd};

use super::Connections;
use crate::error::Result;
use crate::token::{ConnId, Operation};

/// Peers of connections that were accepted and of which the driver was not told yet.
#[derive(Debug, Default)]
pub(super) struct AcceptedFrom {
    wanted: bool,
    peers: HashMap<ConnId, SocketAddr>,
}

impl AcceptedFrom {
    /// Whether accepts bring addresses at all.
    pub(super) fn is_wanted(&self) -> bool {
        self.wanted
    }

    /// The driver was told of the connection, or it was refused.
    pub(super) fn forget(&mut self, conn: ConnId) {
        if self.wanted {
            self.peers.remove(&conn);
        }
    }
}

impl<S: Default> Connections<S> {
    /// Has every accept from now on bring the peer's address. To be called before `listen`.
    pub fn bring_peer_addresses(&mut self) {
        self.accepted_from.wanted = true;
    }

    /// Queues an accept of a listener.
    pub(super) fn accept(&mut self, listener: RawFd, conn: ConnId) -> Result<()> {
        let (ring, token) = (&mut self.rings[conn.ring()].ring, conn.token(Operation::Accept));
        // A plain descriptor can be asked when it has come.
        let asks = self.accepted_from.is_wanted() && self.filter_readiness.is_none();
        if asks { ring.accept_from(listener, token) } else { ring.accept(listener, token) }
    }

    /// A connection was accepted, into a plain descriptor or its slot: notes its peer, if that is wanted.
    pub(crate) fn note_peer(&mut self, conn: ConnId, plain: Option<&OwnedFd>) {
        if !self.accepted_from.is_wanted() {
            return;
        }
        let peer = match plain {
            // A peer that has gone already has no address any more.
            Some(plain) => peer_of(plain).ok(),
            None => self.rings[conn.ring()].ring.accepted_from(conn.token(Operation::Accept)),
        };
        self.accepted_from.peers.extend(peer.map(|peer| (conn, peer)));
    }

    /// The driver was told of a connection.
    pub(crate) fn told_of(&mut self, conn: ConnId) {
        self.accepted_from.forget(conn);
    }

    /// The address of a connection's peer. The outer error is the ring's end.
    pub fn peer_addr(&mut self, conn: ConnId) -> Result<io::Result<SocketAddr>> {
        match self.accepted_from.peers.get(&conn) {
            Some(peer) => Ok(Ok(canonical(*peer))),
            None => self.ask_socket(conn, TcpStream::peer_addr),
        }
    }

    /// The address of a connection's own end. The outer error is the ring's end.
    pub fn local_addr(&mut self, conn: ConnId) -> Result<io::Result<SocketAddr>> {
        self.ask_socket(conn, TcpStream::local_addr)
    }

    fn ask_socket(
        &mut self,
        conn: ConnId,
        ask: fn(&TcpStream) -> io::Result<SocketAddr>,
    ) -> Result<io::Result<SocketAddr>> {
        if !self.is_live(conn) {
            return Ok(Err(io::ErrorKind::NotConnected.into()));
        }
        self.counters.enters.add(1);
        let copy = self.rings[conn.ring()].ring.copy_descriptor(conn.token(Operation::CopyDescriptor))?;
        Ok(copy.map(TcpStream::from).and_then(|socket| ask(&socket)).map(canonical))
    }
}

fn peer_of(socket: &OwnedFd) -> io::Result<SocketAddr> {
    TcpStream::from(socket.try_clone()?).peer_addr()
}

/// The IPv4 address of an IPv4 peer of an IPv6 socket.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
