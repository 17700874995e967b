//! Connections whose socket had no room for all that was sent: the driver is told when it has taken everything.

use std::collections::{HashSet, VecDeque};

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

    /// The next connection for which that is over.
    pub(super) fn next_drained(&mut self) -> Option<ConnId> {
        self.ready.pop_front()
    }

    /// The connection is gone.
    pub(super) fn forget(&mut self, conn: ConnId) {
        if !self.blocked.is_empty() {
            self.blocked.remove(&conn);
        }
    }
}
