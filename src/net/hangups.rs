//! Connections that were reset, by their peers or by us, or whose peers sent a FIN together with many others: half a
//! million may be in a second. Each gives up
//! its place in the limits at once, as newcomers may be waiting for it. What is left of it is dismantled in
//! batches, with rests between them as long as others talk: a storm takes its peers' machine as much work
//! as ours, and where that is the same, or hosts share its processors, both at once would be more than
//! there is.

use std::collections::VecDeque;
use std::time::Instant;

use super::{Level, Net, Why};
use crate::error::Result;
use crate::limits::{
    HANGUPS_FEW, HANGUPS_LOOK, HANGUPS_PATIENCE, HANGUPS_PER_BATCH, HANGUPS_REST, HANGUPS_SHORT_REST, HANGUPS_SILENCE,
    LONGEST_LOOK,
};
use crate::token::{ConnId, Operation};

/// Those that are to be dismantled.
#[derive(Debug, Default)]
pub(super) struct HungUp {
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
        let due = self.looked.is_none_or(|looked| now.saturating_duration_since(looked) >= HANGUPS_LOOK);
        if due && self.times < HANGUPS_PATIENCE {
            self.times = if length > self.length { self.times + 1 } else { 0 };
            (self.looked, self.length) = (Some(now), length);
        }
        self.times >= HANGUPS_PATIENCE
    }
}

impl<S: Default> Net<S> {
    /// The poll tells that both directions are over, as after a RST. What came before it is void (RFC
    /// 9293, 3.10.7.4), and an answer could not be sent: unless the plan wants the last words, it is over
    /// without a receive.
    pub(crate) fn hung_up(&mut self, conn: ConnId, armed: bool) -> Result<()> {
        if self.last_words || !self.is_live(conn) {
            return self.ready(conn, armed);
        }
        self.leave(conn, Why::PeerEnded);
        self.hang(conn, armed);
        Ok(())
    }

    /// Resets one that stands. That ends whatever it has in the kernel, its poll too: finding a poll to remove
    /// it is what closing would spend most of its time on.
    pub(super) fn reset(&mut self, conn: ConnId) -> Result<()> {
        self.lanes[conn.ring()].ring.reset(conn.token(Operation::Reset))?;
        self.hang(conn, true);
        Ok(())
    }

    pub(super) fn hang(&mut self, conn: ConnId, armed: bool) {
        self.tell(conn, |life| life.hang_up(armed));
        self.forget_kept(conn);
        self.hung.queue.push_back(conn);
        self.hung.fresh = true;
    }

    /// Whether there are any.
    pub(crate) fn has_hung_up(&self) -> bool {
        !self.hung.queue.is_empty()
    }

    /// Whether there are any, or FINs that wait to be heard, or were any since this was last asked.
    pub(crate) fn take_hung_up(&mut self) -> bool {
        self.has_hung_up() || self.has_fins() || std::mem::take(&mut self.hung.fresh)
    }

    /// Dismantles a batch of them, unless it is time to rest.
    pub(super) fn dismantle_some(&mut self, now: Instant) -> Result<()> {
        let Some(ring) = self.hung.queue.front().map(|conn| conn.ring()) else { return Ok(()) };
        let resting = self.hung.rest.is_some_and(|until| now < until);
        let endless = self.hung.growth.is_endless(self.hung.queue.len(), now);
        if resting && !endless && self.is_talking(now) && !self.is_pressed() {
            return Ok(());
        }
        let began = Instant::now();
        for _ in 0..HANGUPS_PER_BATCH {
            // Of one ring, which is entered once for all of them.
            let Some(conn) = self.hung.queue.front().copied().filter(|conn| conn.ring() == ring) else { break };
            self.hung.queue.pop_front();
            self.dismantle(conn)?;
        }
        self.enter(ring)?;
        // What took longer was a gap, and no reason for a long rest.
        let few = self.hung.queue.len() < HANGUPS_FEW;
        let took = began.elapsed().min(LONGEST_LOOK);
        self.hung.rest = Some(began + took * if few { HANGUPS_SHORT_REST } else { HANGUPS_REST });
        if self.hung.queue.is_empty() {
            // After a storm it is megabytes.
            (self.hung.queue, self.hung.growth) = (VecDeque::new(), Growth::default());
        }
        Ok(())
    }

    /// Whether anyone said something lately.
    pub(crate) fn is_talking(&mut self, now: Instant) -> bool {
        let messages = self.counters.messages.get();
        if messages != self.hung.messages {
            (self.hung.messages, self.hung.heard) = (messages, Some(now));
        }
        self.hung.heard.is_some_and(|at| now.duration_since(at) < HANGUPS_SILENCE)
    }

    /// Whether newcomers need what those hold that hung up: slots, or memory.
    pub(super) fn is_pressed(&self) -> bool {
        self.first_free >= self.lanes.len() || self.gate.level() != Level::Open
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
                seen |= rising(second) + usize::from(first) >= HANGUPS_PATIENCE as usize;
                let at = began + HANGUPS_LOOK * second as u32;
                prop_assert_eq!(growth.is_endless(length, at), seen);
                prop_assert_eq!(growth.is_endless(usize::MAX, at + HANGUPS_LOOK / 2), seen);
            }
        }
    }
}
