//! Connections that were reset, by their peers or by us, or whose peers sent a FIN together with many others: half a
//! million may be in a second. Each gives up
//! its place in the limits at once, as newcomers may be waiting for it. What is left of it is dismantled in
//! batches, with rests between them as long as others talk: a storm takes its peers' machine as much work
//! as ours, and where that is the same, or hosts share its processors, both at once would be more than
//! there is.

use std::collections::VecDeque;
use std::time::Instant;

use super::{AdmissionState, CloseReason, Connections};
use crate::constants::{
    FEW_RESETS, LONGEST_LOOK, QUIET_TIME, REAPING_REST, REAPING_SHORT_REST, RESET_GROWTH_PERIOD, RESET_GROWTH_PERIODS,
    RESETS_PER_BATCH,
};
use crate::error::Result;
use crate::token::{ConnId, Operation};

/// Those that are to be dismantled.
#[derive(Debug, Default)]
pub(super) struct ResetQueue {
    queue: VecDeque<ConnId>,
    /// Whether any came since the shard last asked.
    fresh: bool,
    /// Until when the shard rests from it.
    rest: Option<Instant>,
    /// Messages that the shard had received when it was last looked, and when there were new ones.
    messages: u64,
    heard: Option<Instant>,
    growth: Growth,
}

/// Whether they become ever more.
#[derive(Debug, Default)]
struct Growth {
    looked: Option<Instant>,
    /// How many there were then.
    length: usize,
    /// Looks in a row that found more of them.
    times: u32,
}

impl Growth {
    /// Looks once a second. When there were more so often in a row that patience is at an end, it
    /// stays so.
    fn is_endless(&mut self, length: usize, now: Instant) -> bool {
        let due = self.looked.is_none_or(|looked| now.saturating_duration_since(looked) >= RESET_GROWTH_PERIOD);
        if due && self.times < RESET_GROWTH_PERIODS {
            self.times = if length > self.length { self.times + 1 } else { 0 };
            (self.looked, self.length) = (Some(now), length);
        }
        self.times >= RESET_GROWTH_PERIODS
    }
}

impl<S: Default> Connections<S> {
    /// The poll tells that both directions are over, as after a RST. What came before it is void (RFC
    /// 9293, 3.10.7.4), and an answer could not be sent: unless the plan wants the last words, it is over
    /// without a receive.
    pub(crate) fn reset_seen(&mut self, conn: ConnId, armed: bool) -> Result<()> {
        if self.drain_after_reset || !self.is_live(conn) {
            return self.ready(conn, armed);
        }
        self.leave(conn, CloseReason::PeerReset);
        self.enqueue_reset(conn, armed);
        Ok(())
    }

    /// Resets one that stands. That ends whatever it has in the kernel, its poll too: finding a poll to remove
    /// it is what closing would spend most of its time on.
    pub(super) fn reset(&mut self, conn: ConnId) -> Result<()> {
        self.rings[conn.ring()].ring.reset(conn.token(Operation::Reset))?;
        self.enqueue_reset(conn, true);
        Ok(())
    }

    pub(super) fn enqueue_reset(&mut self, conn: ConnId, armed: bool) {
        self.update(conn, |lifecycle| lifecycle.await_reaping(armed));
        self.forget_kept(conn);
        self.resets.queue.push_back(conn);
        self.resets.fresh = true;
    }

    /// Whether there are any.
    pub(crate) fn has_resets(&self) -> bool {
        !self.resets.queue.is_empty()
    }

    /// Whether there are any, or FINs that wait to be heard, or were any since this was last asked.
    pub(crate) fn take_resets(&mut self) -> bool {
        self.has_resets() || self.has_fins() || std::mem::take(&mut self.resets.fresh)
    }

    /// Dismantles a batch of them, unless it is time to rest.
    pub(super) fn reap_resets(&mut self, now: Instant) -> Result<()> {
        let Some(ring) = self.resets.queue.front().map(|conn| conn.ring()) else { return Ok(()) };
        let resting = self.resets.rest.is_some_and(|until| now < until);
        let endless = self.resets.growth.is_endless(self.resets.queue.len(), now);
        if resting && !endless && self.is_talking(now) && !self.is_pressed() {
            return Ok(());
        }
        let began = Instant::now();
        for _ in 0..RESETS_PER_BATCH {
            // Of one ring, which is entered once for all of them.
            let Some(conn) = self.resets.queue.front().copied().filter(|conn| conn.ring() == ring) else { break };
            self.resets.queue.pop_front();
            self.tear_down(conn)?;
        }
        self.enter(ring)?;
        // What took longer was a gap, and no reason for a long rest.
        let few = self.resets.queue.len() < FEW_RESETS;
        let took = began.elapsed().min(LONGEST_LOOK);
        self.resets.rest = Some(began + took * if few { REAPING_SHORT_REST } else { REAPING_REST });
        if self.resets.queue.is_empty() {
            // After a storm it is megabytes.
            (self.resets.queue, self.resets.growth) = (VecDeque::new(), Growth::default());
        }
        Ok(())
    }

    /// Whether anyone said something lately.
    pub(crate) fn is_talking(&mut self, now: Instant) -> bool {
        let messages = self.counters.messages.get();
        if messages != self.resets.messages {
            (self.resets.messages, self.resets.heard) = (messages, Some(now));
        }
        self.resets.heard.is_some_and(|at| now.duration_since(at) < QUIET_TIME)
    }

    /// Whether newcomers need what those hold that hung up: slots, or memory.
    pub(super) fn is_pressed(&self) -> bool {
        self.first_free >= self.rings.len() || self.gate.level() != AdmissionState::Open
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Only as many looks in a row as patience has, each with more than the one before, make an end of it,
        /// and looks between the seconds do not count.
        #[test]
        fn a_storm_passes_and_endless_growth_is_seen(lengths in prop::collection::vec(0usize..8, 1..40)) {
            let (mut growth, began) = (Growth::default(), Instant::now());
            let rising = |end: usize| (1..=end).rev().take_while(|at| lengths[*at] > lengths[at - 1]).count();
            let mut seen = false;
            for (second, &length) in lengths.iter().enumerate() {
                let first = lengths[0] > 0 && rising(second) == second;
                seen |= rising(second) + usize::from(first) >= RESET_GROWTH_PERIODS as usize;
                let at = began + RESET_GROWTH_PERIOD * second as u32;
                prop_assert_eq!(growth.is_endless(length, at), seen);
                prop_assert_eq!(growth.is_endless(usize::MAX, at + RESET_GROWTH_PERIOD / 2), seen);
            }
        }
    }
}
