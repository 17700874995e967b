//! Connections with bytes that had to wait for room in their socket, for a slot or in another process. The driver is
//! told when the kernel has taken the last of them.

use std::collections::{HashSet, VecDeque};

use crate::token::ConnId;

/// Connections whose driver is to be told when the kernel has taken all their bytes, and those that it can be told of
/// now.
#[derive(Debug, Default)]
pub(super) struct WriteReadiness {
    watched: HashSet<ConnId>,
    ready: VecDeque<ConnId>,
}

impl WriteReadiness {
    /// The driver is to be told when the kernel has taken all bytes of a connection.
    pub(super) fn watch(&mut self, conn: ConnId) {
        self.watched.insert(conn);
    }

    /// Whether the driver is to be told of this connection, and its bytes are not known to be taken.
    pub(super) fn is_watched(&self, conn: ConnId) -> bool {
        !self.watched.is_empty() && self.watched.contains(&conn)
    }

    /// The kernel has taken all that the connection had to send.
    pub(super) fn drained(&mut self, conn: ConnId) {
        self.watched.remove(&conn);
        self.ready.push_back(conn);
    }

    /// The next connection that the driver can be told of.
    pub(super) fn next_drained(&mut self) -> Option<ConnId> {
        self.ready.pop_front()
    }

    /// Forgets a connection, of which the driver may still have to be told. Tells whether it has.
    pub(super) fn take(&mut self, conn: ConnId) -> bool {
        let ready = self.ready.contains(&conn);
        self.ready.retain(|other| *other != conn);
        self.watched.remove(&conn) || ready
    }

    /// The connection is gone.
    pub(super) fn forget(&mut self, conn: ConnId) {
        if !self.watched.is_empty() {
            self.watched.remove(&conn);
        }
    }
}
