//! Connections that were reset, by their peers or by us, or whose peers sent a FIN together with many others: half a
//! million may be reset in a second. Each gives up its place within the limits at once, because new connections may be
//! waiting for it. Its descriptor and slot are dismantled in batches. As long as other connections have messages, the
//! shard rests between the batches. A storm is as much work for the peers' machine as for this one. If both are the
//! same machine, or virtual machines on one host, doing all of it at once would leave no processor for messages.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::clock::LONGEST_LOOK;
use crate::token::ConnId;

/// While other connections have messages, a batch is followed by a rest of this many times what the batch took.
/// Dismantling then takes one part in 32 of the time, and goes on at some 8,000 a second and shard. Connections that
/// are not dismantled yet hold memory, so the rest ends when new connections need it.
const REST: u32 = 32;

/// The same while fewer than `FEW` wait: connections that come and go all the time must not pile up.
const SHORT_REST: u32 = 4;

/// Fewer than this are no storm.
const FEW: usize = 2_000;

/// How often the reaper checks whether its queue keeps growing. After a storm it does not. But if connections come and
/// go faster than they are dismantled, the queue would use up the memory.
const GROWTH_PERIOD: Duration = Duration::from_secs(1);

/// After so many checks in a row that found the queue longer, the reaper takes no rests until it is empty.
const GROWTH_PERIODS: u32 = 4;

/// Connections that are to be dismantled.
#[derive(Debug)]
pub(super) struct ResetReaper {
    queue: VecDeque<ConnId>,
    /// Connections in one batch.
    batch: usize,
    /// Whether any was added since the shard last asked.
    fresh: bool,
    /// The end of the present rest.
    rest: Option<Instant>,
    growth: Growth,
}

/// Whether the queue grows without end.
#[derive(Debug, Default)]
struct Growth {
    /// When it was last checked.
    looked: Option<Instant>,
    /// Its length then.
    length: usize,
    /// Checks in a row that found it longer.
    times: u32,
}

impl Growth {
    /// Checks once a `GROWTH_PERIOD`. After `GROWTH_PERIODS` checks in a row that found the queue longer, the answer
    /// stays yes.
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

    /// Adds a connection to be dismantled.
    pub fn push(&mut self, conn: ConnId) {
        self.queue.push_back(conn);
        self.fresh = true;
    }

    /// Whether no connection waits.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Whether any was added since this was last asked.
    pub fn take_fresh(&mut self) -> bool {
        std::mem::take(&mut self.fresh)
    }

    /// Begins a batch, unless it is time to rest. `may_rest` is called only within a rest. All connections of a batch
    /// are of one ring, so that the ring is entered once for all of them. Returns that ring.
    pub fn begin_batch(&mut self, now: Instant, may_rest: impl FnOnce() -> bool) -> Option<usize> {
        let ring = self.queue.front()?.ring();
        let resting = self.rest.is_some_and(|until| now < until);
        let endless = self.growth.is_endless(self.queue.len(), now);
        if resting && !endless && may_rest() { None } else { Some(ring) }
    }

    /// The next connection of this ring's batch, of which `done` are dismantled; `None` when the batch is over.
    pub fn next_of_batch(&mut self, ring: usize, done: usize) -> Option<ConnId> {
        let same_ring = self.queue.front().is_some_and(|conn| conn.ring() == ring);
        if same_ring && done < self.batch { self.queue.pop_front() } else { None }
    }

    /// A batch was dismantled between these instants.
    pub fn batch_ended(&mut self, began: Instant, ended: Instant) {
        // If it took longer, the thread was interrupted: no reason for a longer rest.
        let took = ended.saturating_duration_since(began).min(LONGEST_LOOK);
        self.rest = Some(began + took * if self.queue.len() < FEW { SHORT_REST } else { REST });
        if self.queue.is_empty() {
            // A storm may have grown the queue to megabytes.
            (self.queue, self.growth) = (VecDeque::new(), Growth::default());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Rests end only after `GROWTH_PERIODS` checks in a row that each found more than the one before. Checks
        /// within one period do not count.
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
