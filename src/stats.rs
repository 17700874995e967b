//! Counters of one shard: written by its core alone, read by the reporter at any time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A count that one thread writes and any thread reads.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`. Only the owning shard may call this: there is no read-modify-write, by design.
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    /// Subtracts `n`; as `add`.
    pub fn sub(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_sub(n), Ordering::Relaxed);
    }

    /// Sets it to `n`; as `add`.
    pub fn set(&self, n: u64) {
        self.0.store(n, Ordering::Relaxed);
    }

    /// The value at some moment not long ago.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

macro_rules! counters {
    (
        $(#[$what:meta])* $counters:ident, $snapshot:ident { $($(#[$doc:meta])* $name:ident,)* }
        $($(#[$sum_doc:meta])* $sum:ident = $first:ident + $second:ident;)*
    ) => {
        $(#[$what])*
        /// On cache lines of their own.
        #[derive(Debug, Default)]
        #[repr(align(128))]
        pub struct $counters { $($(#[$doc])* pub $name: Counter,)* }

        /// The counters and their sums, each read at some moment of the same short time. They are not of one
        /// moment: between two reads the shard counts on, so one counter less another need not be what it seems,
        /// nor even positive. What is a part of something else has a counter of its own.
        #[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
        pub struct $snapshot { $($(#[$doc])* pub $name: u64,)* $($(#[$sum_doc])* pub $sum: u64,)* }

        impl $counters {
            /// Reads them all.
            pub fn snapshot(&self) -> $snapshot {
                $(let $name = self.$name.get();)*
                $snapshot { $($name,)* $($sum: $first.wrapping_add($second),)* }
            }
        }

        impl std::ops::Add for $snapshot {
            type Output = $snapshot;
            fn add(self, other: $snapshot) -> $snapshot {
                $snapshot {
                    $($name: self.$name.wrapping_add(other.$name),)*
                    $($sum: self.$sum.wrapping_add(other.$sum),)*
                }
            }
        }

        impl std::iter::Sum for $snapshot {
            fn sum<I: Iterator<Item = $snapshot>>(all: I) -> $snapshot {
                all.fold($snapshot::default(), |sum, one| sum + one)
            }
        }
    };
}

/// The counters of a service's own on one shard, on cache lines of their own.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct OwnCounters(Box<[Counter]>);

impl OwnCounters {
    /// So many, all at 0.
    pub fn new(count: usize) -> OwnCounters {
        OwnCounters((0..count).map(|_| Counter::default()).collect())
    }

    /// Adds `n` to one. Only the owning shard may call this. A number of another server's counter counts nothing.
    pub fn add(&self, index: usize, n: u64) {
        if let Some(counter) = self.0.get(index) {
            counter.add(n);
        }
    }

    /// Their values now.
    pub fn read(&self) -> Vec<u64> {
        self.0.iter().map(Counter::get).collect()
    }
}

/// The counters of a service's own: what they are called, and where each shard counts them.
#[derive(Debug, Clone, Default)]
pub struct OwnMetrics {
    /// Name and explanation of each.
    pub named: Arc<[(String, String)]>,
    /// The values, by shard.
    pub shards: Vec<Arc<OwnCounters>>,
}

/// Upper bounds of the buckets of `Rounds`; a last bucket has what took longer.
pub const ROUND_BOUNDS: [Duration; 12] = [
    Duration::from_micros(50),
    Duration::from_micros(100),
    Duration::from_micros(250),
    Duration::from_micros(500),
    Duration::from_millis(1),
    Duration::from_micros(2_500),
    Duration::from_millis(5),
    Duration::from_millis(10),
    Duration::from_millis(25),
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(250),
];

/// How long the rounds of one shard took, each from one look at its rings to the next while it worked:
/// so long a connection waits for a shard that is awake.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Rounds {
    buckets: [Counter; ROUND_BOUNDS.len() + 1],
    nanoseconds: Counter,
}

impl Rounds {
    /// Counts a round. Only the owning shard may call this.
    pub fn count(&self, took: Duration) {
        let bucket = ROUND_BOUNDS.iter().position(|bound| took <= *bound).unwrap_or(ROUND_BOUNDS.len());
        self.buckets[bucket].add(1);
        self.nanoseconds.add(took.as_nanos() as u64);
    }

    /// How many were in each bucket, and how many seconds they took in all.
    pub fn read(&self) -> ([u64; ROUND_BOUNDS.len() + 1], f64) {
        (std::array::from_fn(|bucket| self.buckets[bucket].get()), self.nanoseconds.get() as f64 / 1e9)
    }
}

counters! {
    /// What happens to the connections of one shard.
    Counters, Snapshot {
    /// Connections that stand now.
    live,
    /// Connections closed because nothing was heard of them for long.
    silent,
    /// Connections accepted or connected so far.
    opened,
    /// Connections that stood and are closed.
    closed,
    /// Connections refused because the shard was full.
    refused_when_full,
    /// Connections refused because memory was short.
    refused_for_memory,
    /// Connections closed because their reader was too slow.
    slow_readers,
    /// Receives that brought bytes.
    messages,
    /// Bytes received.
    bytes_in,
    /// Bytes handed to the kernel for sending.
    bytes_out,
    /// Accepts that the kernel refused for want of memory or files.
    accept_errors,
    /// Times the kernel kept completions back because a completion queue was full.
    overflows,
    /// Completions of a former tenant, dropped.
    stale,
    /// Sends that a slow reader made wait in the kernel.
    parked,
    /// Times the shard slept.
    sleeps,
    /// System calls that entered a ring.
    enters,
    /// Calls that the filter announced.
    calls,
    }
    /// Connections refused, for whatever reason.
    refused = refused_when_full + refused_for_memory;
}

counters! {
    /// How far one shard of a client is. They are read in this order, so that a connection that fails
    /// or is closed meanwhile counts once at most.
    Progress, ProgressSnapshot {
    /// Connections tried.
    tried,
    /// Connections closed by a storm; they are neither live nor failed.
    dropped,
    /// Connections that failed, or were lost after they stood.
    failed,
    /// Connections that are proved and stand.
    live,
    /// Connections that came to stand so far, whatever became of them.
    stood,
    /// Connections that passed the current audit.
    audited,
    /// Connections lost since the current phase began.
    lost,
    /// Connections that echoed something else since the current phase began; not among the lost.
    wrong,
    /// Messages whose echo came.
    echoes,
    /// Connections closed by the client in its last phase.
    closed,
    /// Connections that a storm dialed beside those asked for.
    redialed,
    /// Source ports that were passed over, because somebody else had them.
    passed_over,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;
    use std::thread;

    use super::*;

    /// However often a shard counts while another thread reads: nobody was refused because it was full.
    #[test]
    fn refusals_for_one_cause_are_never_those_for_another() {
        const REFUSALS: u64 = 200_000;
        let (counters, done) = (Counters::default(), AtomicBool::new(false));
        thread::scope(|scope| {
            scope.spawn(|| {
                (0..REFUSALS).for_each(|_| counters.refused_for_memory.add(1));
                done.store(true, Ordering::Release);
            });
            while !done.load(Ordering::Acquire) {
                let both: Snapshot = [counters.snapshot(), counters.snapshot()].into_iter().sum();
                assert_eq!((both.refused_when_full, both.refused), (0, both.refused_for_memory));
            }
        });
        let end = counters.snapshot();
        assert_eq!((end.refused, end.refused_for_memory), (REFUSALS, REFUSALS));
    }
}
