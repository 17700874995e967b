//! Connections whose peers have sent a FIN. A single one is closed at once. A peer's process that is killed sends a
//! FIN on each of its connections in one moment, perhaps 100,000 of them. Then three bounds hold as long as other
//! connections have messages:
//!
//! - Messages are received first. The filter announces a FIN without payload on a bitmap of its own; without a
//!   filter, the poll tells of it.
//! - The shard receives a bounded number of FINs a second. The others wait: on the filter's bitmap, or in this queue.
//! - A FIN that was received ends its connection for the driver and for the limits at once. The descriptor is closed
//!   later, in the same batches as those of reset connections (`reset_reaper.rs`).
//!
//! The first two bounds are lifted while new connections need the places.

use std::collections::VecDeque;
use std::time::Instant;

use crate::pace::TokenBucket;
use crate::token::ConnId;

/// FINs that a shard receives in one pass at most.
pub(super) const FINS_PER_PASS: usize = 32;

/// FINs that a shard receives per second at most while other connections have messages. Each receive takes about 3 us,
/// so FINs take a tenth of the shard's time. The rest waits.
pub(super) const FINS_PER_SECOND: f64 = 32_000.0;

/// Connections per second that a shard closes as soon as it has received their FIN, or the error that has ended them. More
/// than that are a storm: they are closed in batches with rests in between, and those that were reset are not asked.
pub(super) const FINS_CLOSED_AT_ONCE: f64 = 3_000.0;

/// The bounds on FINs, and the connections that wait for them.
#[derive(Debug)]
pub(super) struct FinQueue {
    /// FINs that may be received.
    taken: TokenBucket,
    /// Descriptors that may be closed at once.
    closed: TokenBucket,
    /// Connections whose polls reported a FIN that is to be received later.
    waiting: VecDeque<ConnId>,
}

impl FinQueue {
    /// An empty queue.
    pub fn new(now: Instant) -> FinQueue {
        FinQueue {
            taken: TokenBucket::new(now, FINS_PER_SECOND),
            closed: TokenBucket::new(now, FINS_CLOSED_AT_ONCE),
            waiting: VecDeque::new(),
        }
    }

    /// Whether one more FIN may be received now; counts it.
    pub fn may_take(&mut self, now: Instant) -> bool {
        self.taken.spend(now).is_ok()
    }

    /// Whether one more descriptor may be closed at once; counts it.
    pub fn may_close_at_once(&mut self, now: Instant) -> bool {
        self.closed.spend(now).is_ok()
    }

    /// Whether no connection waits here.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Adds a connection whose FIN is to be received later.
    pub fn push(&mut self, conn: ConnId) {
        self.waiting.push_back(conn);
    }

    /// Takes out the connection that has waited longest.
    pub fn pop(&mut self) -> Option<ConnId> {
        let conn = self.waiting.pop_front();
        if self.waiting.is_empty() {
            // A storm may have grown it to a megabyte.
            self.waiting = VecDeque::new();
        }
        conn
    }
}
