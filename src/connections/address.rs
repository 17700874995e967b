//! The addresses of a connection. No row keeps one. The kernel is asked when the driver asks; or each accept returns
//! the peer's address, which is kept until the driver was told of the connection, or that has left its slot.

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;

use super::{Connections, Engine, Platform};
use crate::error::Result;
use crate::hibernation::Tuple;
use crate::ring::RingOps;
use crate::token::{ConnId, Operation};

/// The peers' addresses of accepted connections that the driver was not told of yet, by slot.
#[derive(Debug, Default)]
pub(super) struct AcceptedFrom {
    /// Whether accepts return addresses.
    wanted: bool,
    peers: HashMap<ConnId, SocketAddr>,
}

impl AcceptedFrom {
    /// The driver was told of the connection in a slot, or the slot is free.
    pub fn forget(&mut self, conn: ConnId) {
        if self.wanted {
            self.peers.remove(&conn);
        }
    }
}

impl<S: Default, P: Platform> Engine<S, P> {
    /// A connection was accepted, into a plain descriptor or its slot: keeps the peer's address, if that is wanted.
    /// Returns the descriptor.
    pub fn note_peer(&mut self, conn: ConnId, plain: Option<OwnedFd>) -> Option<OwnedFd> {
        if !self.accepted_from.wanted {
            return plain;
        }
        let plain = plain.map(TcpStream::from);
        let peer = match &plain {
            // A peer that has gone already has no address any more.
            Some(plain) => plain.peer_addr().ok(),
            None => self.slots.ring(conn).accepted_from(conn.token(Operation::Accept)),
        };
        self.accepted_from.peers.extend(peer.map(|peer| (conn, peer)));
        plain.map(OwnedFd::from)
    }

    /// The driver was told of a connection.
    pub fn told_of(&mut self, conn: ConnId) {
        self.accepted_from.forget(conn);
    }

    /// Addresses that are kept.
    #[cfg(test)]
    pub fn peers_kept(&self) -> usize {
        self.accepted_from.peers.len()
    }
}

impl<S: Default, P: Platform> Connections<S, P> {
    /// Makes every accept return the peer's address. To be called before `listen`.
    pub fn bring_peer_addresses(&mut self) {
        self.engine.accepted_from.wanted = true;
        self.engine.acceptor.bring_peers();
    }

    /// The address of a connection's peer. The outer error is a failure of the ring, which ends the shard.
    pub fn peer_addr(&mut self, conn: ConnId) -> Result<io::Result<SocketAddr>> {
        let slot = self.engine.find(conn);
        match slot.and_then(|slot| self.engine.accepted_from.peers.get(&slot)) {
            Some(peer) => Ok(Ok(canonical(*peer))),
            None => self.ask(conn, |ends| ends.remote, TcpStream::peer_addr),
        }
    }

    /// The address of a connection's own end. The outer error is a failure of the ring, which ends the shard.
    pub fn local_addr(&mut self, conn: ConnId) -> Result<io::Result<SocketAddr>> {
        self.ask(conn, |ends| ends.local, TcpStream::local_addr)
    }

    /// Asks what is kept of a sleeping connection, or the socket of another one.
    fn ask(
        &mut self,
        conn: ConnId,
        of_sleeper: fn(&Tuple) -> SocketAddr,
        of_socket: fn(&TcpStream) -> io::Result<SocketAddr>,
    ) -> Result<io::Result<SocketAddr>> {
        let engine = &mut self.engine;
        if let Some(ends) = engine.hibernation.as_ref().and_then(|hibernation| hibernation.tuple(conn)) {
            return Ok(Ok(of_sleeper(&ends)));
        }
        let Some(conn) = engine.find(conn).filter(|conn| engine.slots.is_live(*conn)) else {
            return Ok(Err(io::ErrorKind::NotConnected.into()));
        };
        Ok(engine.plain(conn)?.map(TcpStream::from).and_then(|socket| of_socket(&socket)).map(canonical))
    }
}

/// The IPv4 address of an IPv4 peer of an IPv6 socket.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
