//! Connections that were reset, by their peers or by us, or whose peers sent a FIN together with many others: half a
//! million may be reset in a second. Each gives up its place in the limits at once, as new connections may be waiting
//! for it. Its descriptor and its slot are dismantled in batches. As long as other connections have messages there are
//! rests between the batches: a storm takes the peers' machine as much work as ours, and where that is the same
//! machine, or virtual machines share its processors, both at once would be more work than there are processors.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::clock::LONGEST_LOOK;
use crate::token::ConnId;

/// While other connections have messages, a batch is followed by a rest of this many times what the batch took.
/// Dismantling then takes one part in 32 of the time, and goes on at some 8,000 a second and shard. Connections that
/// are not dismantled yet hold their memory, so new ones that need it end the rest.
const REST: u32 = 32;

/// The same while fewer than `FEW` wait: connections that come and go all the time must not pile up.
const SHORT_REST: u32 = 4;

/// Fewer than this are no storm.
const FEW: usize = 2_000;

/// How often the reaper looks whether there are ever more: a storm passes, but where more connections come and go all
/// the time than are dismantled, their memory would be used up.
const GROWTH_PERIOD: Duration = Duration::from_secs(1);

/// When so many looks in a row found more, the reaper takes no rests until none is left.
const GROWTH_PERIODS: u32 = 4;

/// Connections that are to be dismantled.
#[derive(Debug)]
pub(super) struct ResetReaper {
    queue: VecDeque<ConnId>,
    /// Connections of one batch.
    batch: usize,
    /// Whether any came since the shard last asked.
    fresh: bool,
    /// The end of the present rest.
    rest: Option<Instant>,
    growth: Growth,
}

/// Whether the queue grows without end.
#[derive(Debug, Default)]
struct Growth {
    /// When it was last looked at.
    looked: Option<Instant>,
    /// Its length then.
    length: usize,
    /// Looks in a row that found it longer.
    times: u32,
}

impl Growth {
    /// Looks once a `GROWTH_PERIOD`. When `GROWTH_PERIODS` looks in a row found the queue longer, the answer stays
    /// yes.
    fn is_endless(&mut self, length: usize, now: Instant) -> bool {
        let due = self.looked.is_none_or(|looked| now.saturating_duration_since(looked) >= GROWTH_PERIOD);
        if due && self.times < GROWTH_PERIODS {
            self.times = if length > self.length { self.times + 1 } else { 0 };
            (self.looked, self.length) = (Some(now), length);
        }
        self.times >= GROWTH_PERIODS
    }
}

impl ResetReaper {
    /// Dismantles `batch` connections at once.
    pub fn new(batch: usize) -> ResetReaper {
        ResetReaper { queue: VecDeque::new(), batch, fresh: false, rest: None, growth: Growth::default() }
    }

    /// Has a connection wait until it is dismantled.
    pub fn push(&mut self, conn: ConnId) {
        self.queue.push_back(conn);
        self.fresh = true;
    }

    /// Whether no connection waits.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Whether any came since this was last asked.
    pub fn take_fresh(&mut self) -> bool {
        std::mem::take(&mut self.fresh)
    }

    /// Begins a batch, unless it is time to rest. `may_rest` is asked only within a rest. A batch is of one ring, so
    /// that this ring is entered once for all of it; returns that ring.
    pub fn begin_batch(&mut self, now: Instant, may_rest: impl FnOnce() -> bool) -> Option<usize> {
        let ring = self.queue.front()?.ring();
        let resting = self.rest.is_some_and(|until| now < until);
        let endless = self.growth.is_endless(self.queue.len(), now);
        if resting && !endless && may_rest() { None } else { Some(ring) }
    }

    /// The next connection of a batch of this ring that has `done` behind it; `None` when the batch is over.
    pub fn next_of_batch(&mut self, ring: usize, done: usize) -> Option<ConnId> {
        let same_ring = self.queue.front().is_some_and(|conn| conn.ring() == ring);
        if same_ring && done < self.batch { self.queue.pop_front() } else { None }
    }

    /// A batch was dismantled between these instants.
    pub fn batch_ended(&mut self, began: Instant, ended: Instant) {
        // What took longer was a gap, and no reason for a long rest.
        let took = ended.saturating_duration_since(began).min(LONGEST_LOOK);
        self.rest = Some(began + took * if self.queue.len() < FEW { SHORT_REST } else { REST });
        if self.queue.is_empty() {
            // After a storm the queue is megabytes.
            (self.queue, self.growth) = (VecDeque::new(), Growth::default());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Only `GROWTH_PERIODS` looks in a row, each of which found more than the one before, make an end of it, and
        /// looks between the seconds do not count.
        #[test]
        fn a_storm_passes_and_endless_growth_is_seen(lengths in prop::collection::vec(0usize..8, 1..40)) {
            let (mut growth, began) = (Growth::default(), Instant::now());
            let rising = |end: usize| (1..=end).rev().take_while(|at| lengths[*at] > lengths[at - 1]).count();
            let mut seen = false;
            for (second, &length) in lengths.iter().enumerate() {
                let first = lengths[0] > 0 && rising(second) == second;
                seen |= rising(second) + usize::from(first) >= GROWTH_PERIODS as usize;
                let at = began + GROWTH_PERIOD * second as u32;
                prop_assert_eq!(growth.is_endless(length, at), seen);
                prop_assert_eq!(growth.is_endless(usize::MAX, at + GROWTH_PERIOD / 2), seen);
            }
        }
    }
}
