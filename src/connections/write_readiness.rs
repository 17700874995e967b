//! Connections whose socket had no room for all bytes that were sent. The driver is told when the kernel has taken the
//! last of them.

use std::collections::{HashSet, VecDeque};

use crate::token::ConnId;

/// Connections with a send that waits in the kernel, and those whose waiting send is complete.
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

    /// Whether a send of this connection waits, or has waited and the driver was not told yet.
    pub(super) fn is_blocked(&self, conn: ConnId) -> bool {
        !self.blocked.is_empty() && self.blocked.contains(&conn)
    }

    /// The kernel has taken all that the connection had to send.
    pub(super) fn drained(&mut self, conn: ConnId) {
        self.blocked.remove(&conn);
        self.ready.push_back(conn);
    }

    /// The next connection whose waiting send is complete.
    pub(super) fn next_drained(&mut self) -> Option<ConnId> {
        self.ready.pop_front()
    }

    /// Forgets a connection, of which the driver may still have to be told. Tells whether it has.
    pub(super) fn take(&mut self, conn: ConnId) -> bool {
        let ready = self.ready.contains(&conn);
        self.ready.retain(|other| *other != conn);
        self.blocked.remove(&conn) || ready
    }

    /// The connection is gone.
    pub(super) fn forget(&mut self, conn: ConnId) {
        if !self.blocked.is_empty() {
            self.blocked.remove(&conn);
        }
    }
}
