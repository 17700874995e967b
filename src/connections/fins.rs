//! Connections whose peers have sent a FIN. One alone is closed at once. A peer's process that is killed sends a
//! FIN on each of its connections in a moment, perhaps 100,000 of them, and then three bounds hold as long as
//! other connections talk:
//!
//! - Messages are heard first. A FIN without payload has a board of its own in the filter; without a filter, the
//!   poll tells of it.
//! - So many FINs a second are heard at most. The others wait: in the filter's board, or in a queue here.
//! - A FIN that was heard ends its connection for the driver and for the limits at once. The descriptor is closed
//!   later, in the batches of those that were reset (`connections/reset_reaper.rs`).
//!
//! Newcomers who need the places end the first two bounds.

use std::collections::VecDeque;
use std::time::Instant;

use super::filter_readiness::FilterReadiness;
use super::{CloseMode, CloseReason, Connections, SharedLimit};
use crate::connections::lifecycle::{Action, SlotState};
use crate::constants::{FINS_CLOSED_AT_ONCE, FINS_PER_PASS, FINS_PER_SECOND};
use crate::error::Result;
use crate::pace::TokenBucket;
use crate::sys::Notification;
use crate::token::ConnId;

/// The bounds, and the connections that wait for them.
#[derive(Debug)]
pub(super) struct Fins {
    /// FINs that may be heard.
    heard: TokenBucket,
    /// Descriptors that may be closed at once.
    closed: TokenBucket,
    /// Their polls told of a FIN that is to be heard later.
    pub(super) waiting: VecDeque<ConnId>,
}

impl Fins {
    pub(super) fn new(now: Instant) -> Fins {
        Fins {
            heard: TokenBucket::new(now, FINS_PER_SECOND),
            closed: TokenBucket::new(now, FINS_CLOSED_AT_ONCE),
            waiting: VecDeque::new(),
        }
    }
}

impl<S: Default> Connections<S> {
    /// Whether a FIN may be heard now.
    fn may_take_fin(&mut self, now: Instant) -> bool {
        !self.is_talking(now) || self.is_place_wanted() || self.fins.heard.spend(now).is_ok()
    }

    /// Whether newcomers wait for a place that a FIN may free, or would have to.
    fn is_place_wanted(&self) -> bool {
        let full = || {
            self.counters.live.get() >= self.capacity || self.shared_limit.as_ref().is_some_and(SharedLimit::is_full)
        };
        self.is_pressed() || !self.admission_queue.is_empty() || full()
    }

    /// Whether FINs wait to be heard.
    pub(super) fn has_fins(&mut self) -> bool {
        !self.fins.waiting.is_empty() || self.filter_readiness.as_mut().is_some_and(FilterReadiness::has_fins)
    }

    /// The poll fired, and tells of a FIN: receive what is there, unless that is to wait.
    pub(crate) fn fin_came(&mut self, conn: ConnId, armed: bool, now: Instant) -> Result<()> {
        let next = self.row(conn).map_or(Action::Rest, |row| row.lifecycle.poll_fired(armed));
        if next == Action::Receive && !self.drain_after_reset && !self.may_take_fin(now) {
            self.update(conn, SlotState::wait);
            self.fins.waiting.push_back(conn);
            return Ok(());
        }
        self.perform(conn, next)
    }

    /// Hears of some FINs: those that the filter announced, and those that polls told of. Returns how many.
    pub(super) fn take_fins(&mut self, now: Instant) -> Result<usize> {
        let mut heard = 0;
        while heard < FINS_PER_PASS && self.has_fins() && self.may_take_fin(now) {
            match self.fins.waiting.pop_front() {
                Some(conn) => self.apply(conn, SlotState::resume)?,
                None if self.take(Notification::Fin, 1)? == 0 => break,
                None => {}
            }
            heard += 1;
        }
        if self.fins.waiting.is_empty() {
            // After a storm it is a megabyte.
            self.fins.waiting = VecDeque::new();
        }
        Ok(heard)
    }

    /// A receive found the end of what the peer sends: all that came before it was received and answered.
    pub(crate) fn peer_ended(&mut self, conn: ConnId, now: Instant) -> Result<()> {
        let at_once = self.drain_after_reset || (!self.has_resets() && self.fins.closed.spend(now).is_ok());
        if at_once || !self.is_live(conn) {
            return self.close(conn, CloseMode::Immediate, CloseReason::PeerClosed);
        }
        self.leave(conn, CloseReason::PeerClosed);
        self.enqueue_reset(conn, true);
        Ok(())
    }
}
