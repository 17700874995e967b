//! Connections whose socket had no room for all that was sent: the driver is told when it has taken everything.

use std::collections::{HashSet, VecDeque};

use super::Connections;
use crate::token::ConnId;

/// Connections that have a send waiting in the kernel, and those for which that is over.
#[derive(Debug, Default)]
pub(super) struct WriteReadiness {
    blocked: HashSet<ConnId>,
    ready: VecDeque<ConnId>,
}

impl WriteReadiness {
    /// A send of a connection waits in the kernel.
    pub(super) fn blocked(&mut self, conn: ConnId) {
        self.blocked.insert(conn);
    }

    /// Whether one of a connection did, and it was not told yet that this is over.
    pub(super) fn is_blocked(&self, conn: ConnId) -> bool {
        !self.blocked.is_empty() && self.blocked.contains(&conn)
    }

    /// The kernel has taken all that the connection had to send.
    pub(super) fn drained(&mut self, conn: ConnId) {
        self.blocked.remove(&conn);
        self.ready.push_back(conn);
    }

    /// The connection is gone.
    pub(super) fn forget(&mut self, conn: ConnId) {
        if !self.blocked.is_empty() {
            self.blocked.remove(&conn);
        }
    }
}

impl<S: Default> Connections<S> {
    /// The next connection whose bytes have all been taken by the kernel after some had to wait.
    pub(crate) fn next_writable(&mut self) -> Option<ConnId> {
        while let Some(conn) = self.write_readiness.ready.pop_front() {
            if self.is_live(conn) {
                return Some(conn);
            }
        }
        None
    }

    /// Bytes for a connection that the kernel has not taken: kept here, or of a send that waits there, which counts
    /// whole until it is over.
    pub fn pending_bytes(&self, conn: ConnId) -> usize {
        let kept = if self.pending.is_empty() { 0 } else { self.pending.get(&conn).map_or(0, Vec::len) };
        let ring = self.rings.get(conn.ring());
        kept + ring.map_or(0, |ring| ring.ring.parked_bytes(conn.token(crate::token::Operation::ParkedSend)))
    }
}
