//! How a shard shares its core with other threads. A thread that never sleeps keeps its core until a clock tick, 4 ms
//! where CONFIG_HZ is 250. In a storm a client and a server on one core are two such threads, and each echo would wait
//! for a tick at either end.

use std::time::{Duration, Instant};

use crate::connections::Platform;

/// How long the shard runs at most before it lets others run.
const SLICE: Duration = Duration::from_micros(100);

/// The same if others wanted the core the last time: connects and echoes of a peer on this core wait for so long.
/// With 0.1 ms the 99th percentile of connects was 0.56 ms, with this 0.43 ms, with less the same. Where nobody wants
/// the core, asking this often would cost a hundredth of it.
const SLICE_WHEN_WANTED: Duration = Duration::from_micros(25);

/// The same while nobody has messages, and slices may be longer for being fewer.
const SLICE_IN_SILENCE: Duration = Duration::from_micros(300);

/// A yield that takes less ran no other thread; it cost only the system call.
const YIELD_COST: Duration = Duration::from_micros(3);

/// Since when a shard has its core, and for how long.
#[derive(Debug)]
pub(super) struct TimeSlice {
    since: Instant,
    length: Duration,
    wanted: bool,
}

impl TimeSlice {
    /// A slice that begins now.
    pub fn new(now: Instant) -> TimeSlice {
        TimeSlice { since: now, length: SLICE, wanted: false }
    }

    /// Sets how long slices are now. In a storm of resets they are long even if the core is wanted: the process that
    /// resets keeps the core for as long when it has it, and an echo must fit in between.
    pub fn set_length(&mut self, traffic: bool, storm: bool) {
        self.length = match (traffic, self.wanted && !storm) {
            (false, _) => SLICE_IN_SILENCE,
            (true, false) => SLICE,
            (true, true) => SLICE_WHEN_WANTED,
        };
    }

    /// Lets others run on this core if the slice is over. Returns the time after that.
    pub fn yield_if_over(&mut self, platform: &impl Platform) -> Instant {
        let now = platform.now();
        if now.saturating_duration_since(self.since) < self.length { now } else { self.yield_at(platform, now) }
    }

    /// Lets others run on this core, even within the slice.
    pub fn yield_now(&mut self, platform: &impl Platform) {
        self.yield_at(platform, platform.now());
    }

    fn yield_at(&mut self, platform: &impl Platform, now: Instant) -> Instant {
        platform.yield_core();
        self.since = platform.now();
        self.wanted = self.since.saturating_duration_since(now) > YIELD_COST;
        self.since
    }

    /// The shard slept until now.
    pub fn slept(&mut self, until: Instant) {
        self.since = until;
    }
}
