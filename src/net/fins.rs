//! Connections whose peers have sent a FIN. One alone is closed at once. A peer's process that is killed sends a
//! FIN on each of its connections in a moment, perhaps 100,000 of them, and then three bounds hold as long as
//! other connections talk:
//!
//! - Messages are heard first. A FIN without payload has a board of its own in the filter; without a filter, the
//!   poll tells of it.
//! - So many FINs a second are heard at most. The others wait: in the filter's board, or in a queue here.
//! - A FIN that was heard ends its connection for the driver and for the limits at once. The descriptor is closed
//!   later, in the batches of those that were reset (`net/hangups.rs`).
//!
//! Newcomers who need the places end the first two bounds.

use std::collections::VecDeque;
use std::time::Instant;

use super::sentry::Sentry;
use super::{Admission, How, Net, Why};
use crate::error::Result;
use crate::life::{Life, Next};
use crate::limits::{FINS_CLOSED_AT_ONCE, FINS_HEARD, FINS_PER_PASS};
use crate::pace::Budget;
use crate::sys::Call;
use crate::token::ConnId;

/// The bounds, and the connections that wait for them.
#[derive(Debug)]
pub(super) struct Fins {
    /// FINs that may be heard.
    heard: Budget,
    /// Descriptors that may be closed at once.
    closed: Budget,
    /// Their polls told of a FIN that is to be heard later.
    pub(super) waiting: VecDeque<ConnId>,
}

impl Fins {
    pub(super) fn new(now: Instant) -> Fins {
        Fins {
            heard: Budget::new(now, FINS_HEARD),
            closed: Budget::new(now, FINS_CLOSED_AT_ONCE),
            waiting: VecDeque::new(),
        }
    }
}

impl<S: Default> Net<S> {
    /// Whether a FIN may be heard now.
    fn may_hear_fin(&mut self, now: Instant) -> bool {
        !self.is_talking(now) || self.is_place_wanted() || self.fins.heard.spend(now).is_ok()
    }

    /// Whether newcomers wait for a place that a FIN may free, or would have to.
    fn is_place_wanted(&self) -> bool {
        let full =
            || self.counters.live.get() >= self.capacity || self.admission.as_ref().is_some_and(Admission::is_full);
        self.is_pressed() || !self.door.is_empty() || full()
    }

    /// Whether FINs wait to be heard.
    pub(super) fn has_fins(&mut self) -> bool {
        !self.fins.waiting.is_empty() || self.sentry.as_mut().is_some_and(Sentry::has_fins)
    }

    /// The poll fired, and tells of a FIN: receive what is there, unless that is to wait.
    pub(crate) fn fin_came(&mut self, conn: ConnId, armed: bool, now: Instant) -> Result<()> {
        let next = self.row(conn).map_or(Next::Rest, |row| row.life.fired(armed));
        if next == Next::Receive && !self.last_words && !self.may_hear_fin(now) {
            self.tell(conn, Life::wait);
            self.fins.waiting.push_back(conn);
            return Ok(());
        }
        self.follow(conn, next)
    }

    /// Hears of some FINs: those that the filter announced, and those that polls told of. Returns how many.
    pub(super) fn hear_fins(&mut self, now: Instant) -> Result<usize> {
        let mut heard = 0;
        while heard < FINS_PER_PASS && self.has_fins() && self.may_hear_fin(now) {
            match self.fins.waiting.pop_front() {
                Some(conn) => self.learn(conn, Life::resume)?,
                None if self.hear(Call::Fin, 1)? == 0 => break,
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
        let at_once = self.last_words || (!self.has_hung_up() && self.fins.closed.spend(now).is_ok());
        if at_once || !self.is_live(conn) {
            return self.close(conn, How::Now, Why::PeerEnded);
        }
        self.leave(conn, Why::PeerEnded);
        self.hang(conn, true);
        Ok(())
    }
}
