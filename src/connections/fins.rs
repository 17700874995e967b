//! Connections whose peers have sent a FIN. A single one is closed at once. A peer's process that is killed sends a
//! FIN on each of its connections in one moment, perhaps 100,000 of them. Then three bounds hold as long as other
//! connections have messages:
//!
//! - Messages are received first. The filter announces a FIN without payload on a bitmap of its own; without a
//!   filter, the poll tells of it.
//! - The shard takes a bounded number of FINs a second. The others wait: on the filter's bitmap, or in the queue here.
//! - A FIN that was taken ends its connection for the driver and for the limits at once. The descriptor is closed
//!   later, in the batches of those that were reset (`reset_reaper.rs`).
//!
//! New connections that need the places end the first two bounds.

use std::collections::VecDeque;
use std::time::Instant;

use crate::pace::TokenBucket;
use crate::token::ConnId;

/// FINs that a shard takes in one pass at most.
pub(super) const FINS_PER_PASS: usize = 32;

/// FINs that a shard takes in a second while other connections have messages. Each is a receive that brings nothing,
/// about 3 us, so they take a tenth of the shard's time. The others wait.
pub(super) const FINS_PER_SECOND: f64 = 32_000.0;

/// Connections that a shard closes in a second as soon as it has received their FIN. More are a storm. They are
/// closed in batches with rests between them, as those that were reset.
pub(super) const FINS_CLOSED_AT_ONCE: f64 = 3_000.0;

/// The bounds on FINs, and the connections that wait for them.
#[derive(Debug)]
pub(super) struct FinQueue {
    /// FINs that may be taken.
    taken: TokenBucket,
    /// Descriptors that may be closed at once.
    closed: TokenBucket,
    /// Connections whose polls told of a FIN that is to be received later.
    waiting: VecDeque<ConnId>,
}

impl FinQueue {
    /// No FIN waits.
    pub fn new(now: Instant) -> FinQueue {
        FinQueue {
            taken: TokenBucket::new(now, FINS_PER_SECOND),
            closed: TokenBucket::new(now, FINS_CLOSED_AT_ONCE),
            waiting: VecDeque::new(),
        }
    }

    /// Takes one FIN out of those that may be taken this second, if there is one left.
    pub fn may_take(&mut self, now: Instant) -> bool {
        self.taken.spend(now).is_ok()
    }

    /// Takes one out of the descriptors that may be closed at once, if there is one left.
    pub fn may_close_at_once(&mut self, now: Instant) -> bool {
        self.closed.spend(now).is_ok()
    }

    /// Whether no connection waits here.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Has a connection wait until its FIN may be received.
    pub fn push(&mut self, conn: ConnId) {
        self.waiting.push_back(conn);
    }

    /// The connection that waits for longest.
    pub fn pop(&mut self) -> Option<ConnId> {
        let conn = self.waiting.pop_front();
        if self.waiting.is_empty() {
            // After a storm it is a megabyte.
            self.waiting = VecDeque::new();
        }
        conn
    }
}
