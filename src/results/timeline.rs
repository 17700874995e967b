//! What a run went through: samples over time and the latency of its connects, bounded in number. A
//! run that outlasts them keeps every second sample, and then every fourth.

use serde::{Deserialize, Serialize};

use crate::host::{Host, Memory};
use crate::latency::Latency;
use crate::stats::ProgressSnapshot;

/// Samples over time that a result keeps: 75 seconds of four a second, 100 bytes each and as much for
/// each shard. A longer run keeps every second one, and then every fourth.
const TIMELINE_SAMPLES: usize = 300;

/// Phases that a result keeps; a steered run that has more keeps the first ones and the last.
const PHASES_KEPT: usize = 100;

/// Classes of connect latency for each power of ten.
const CLASSES_PER_DECADE: u32 = 8;

/// Seconds between two samples at first, so that a short run shows its course too.
const FIRST_INTERVAL: f64 = 0.25;

/// The largest bound of a class, as a power of ten in microseconds: 100 s.
const DECADES: u32 = 8;

/// A run over time. All times are seconds since it began.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Timeline {
    /// When the run began, in seconds since 1970, by its machine's clock.
    pub began_unix_seconds: f64,
    /// Seconds between two samples; the ends of phases have samples of their own.
    pub interval_seconds: f64,
    /// The phases in their order.
    pub phases: Vec<PhaseSpan>,
    /// The samples in their order.
    pub samples: Vec<Sample>,
    /// Upper bounds of the classes of connect latency, in microseconds; one more class lies above.
    pub connect_bounds_us: Vec<u64>,
    /// Connects by class over time, those with a retransmission too; intervals without any are left
    /// out.
    pub connects: Vec<Connects>,
}

/// One phase.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PhaseSpan {
    /// What a person calls it.
    pub phase: String,
    /// When it began.
    pub start: f64,
    /// When it ended.
    pub end: f64,
}

/// How things stood at one moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// When.
    pub seconds: f64,
    /// Each shard.
    pub shards: Vec<ShardSample>,
    /// The client's process.
    pub client: ProcessSample,
    /// The server's process, where it is on this host and known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<ProcessSample>,
    /// The host's memory, where it can be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<HostSample>,
}

/// One shard's counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardSample {
    /// Connections that stand.
    pub live: u64,
    /// Connections that failed so far.
    pub failed: u64,
    /// Connections that came to stand so far, whatever became of them.
    pub stood: u64,
    /// Echoes that came so far.
    pub echoes: u64,
}

/// What a process takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct ProcessSample {
    /// Resident memory.
    pub resident_bytes: u64,
    /// Processor time so far.
    pub cpu_user_seconds: f64,
    /// The same in the kernel.
    pub cpu_system_seconds: f64,
}

/// The memory of a whole host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostSample {
    /// What could still be used (MemAvailable).
    pub available_bytes: u64,
    /// Kernel objects, which sockets are (Slab).
    pub slab_bytes: u64,
}

/// Connects of one interval by their latency.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connects {
    /// The number of the interval: it begins `interval * interval_seconds` after the start.
    pub interval: u64,
    /// The first class that has any.
    pub first: usize,
    /// How many each class has, from the first on.
    pub counts: Vec<u64>,
}

impl ShardSample {
    /// The sample of a shard's counts.
    pub fn of(progress: &ProgressSnapshot) -> ShardSample {
        let ProgressSnapshot { live, closed, failed, stood, echoes, .. } = *progress;
        // In its last phase a client keeps count of what it closes apart.
        ShardSample { live: live.saturating_sub(closed), failed, stood, echoes }
    }
}

impl ProcessSample {
    /// The sample of a process of this host; `None` if it is gone.
    pub fn of(host: &Host, pid: u32) -> Option<ProcessSample> {
        let (resident_bytes, _) = host.resident(pid);
        let (cpu_user_seconds, cpu_system_seconds) = host.cpu_seconds(pid);
        (resident_bytes > 0).then_some(ProcessSample { resident_bytes, cpu_user_seconds, cpu_system_seconds })
    }
}

impl HostSample {
    /// The sample of a host's memory.
    pub fn of(memory: &Memory) -> HostSample {
        HostSample { available_bytes: memory.available, slab_bytes: memory.slab }
    }
}

/// The upper bounds of all classes but the last: 8 for each power of ten of microseconds.
fn bounds() -> Vec<u64> {
    let classes = DECADES * CLASSES_PER_DECADE;
    // The lowest classes would share a bound.
    (CLASSES_PER_DECADE..=classes).map(|at| 10f64.powf(f64::from(at) / f64::from(CLASSES_PER_DECADE)) as u64).collect()
}

impl Timeline {
    /// The timeline of a run that begins now, this long after 1970.
    pub fn begin(began_unix_seconds: f64) -> Timeline {
        Timeline {
            began_unix_seconds,
            interval_seconds: FIRST_INTERVAL,
            phases: Vec::new(),
            samples: Vec::new(),
            connect_bounds_us: bounds(),
            connects: Vec::new(),
        }
    }

    /// Whether it is time for another sample.
    pub fn is_due(&self, seconds: f64) -> bool {
        self.samples.last().is_none_or(|last| seconds >= last.seconds + self.interval_seconds)
    }

    /// Adds a sample that is later than all before.
    pub fn add(&mut self, sample: Sample) {
        self.samples.push(sample);
        if self.samples.len() > TIMELINE_SAMPLES {
            self.thin();
        }
    }

    /// Adds connects that were measured up to a moment.
    pub fn connected(&mut self, seconds: f64, latency: &Latency) {
        let interval = (seconds / self.interval_seconds) as u64;
        let counts = latency.buckets(&self.connect_bounds_us);
        self.connects.push(Connects { interval, first: 0, counts });
        self.gather();
    }

    /// A phase ended.
    pub fn phase(&mut self, phase: String, start: f64, end: f64) {
        if self.phases.len() == PHASES_KEPT {
            self.phases.pop();
        }
        self.phases.push(PhaseSpan { phase, start, end });
    }

    /// Keeps every second sample, and the last.
    fn thin(&mut self) {
        self.interval_seconds *= 2.0;
        let last = self.samples.len() - 1;
        let mut at = 0..;
        self.samples.retain(|_| at.next().is_some_and(|at| at % 2 == 0 || at == last));
        self.connects.iter_mut().for_each(|connects| connects.interval /= 2);
        self.gather();
    }

    /// Makes one of what belongs to the same interval; the shards' are late by less than a second.
    fn gather(&mut self) {
        self.connects.sort_by_key(|connects| connects.interval);
        self.connects.dedup_by(|more, all| {
            let same = more.interval == all.interval;
            if same {
                all.take_in(more);
            }
            same
        });
        self.connects.iter_mut().for_each(Connects::trim);
    }

    /// Whether a document's timeline can be drawn.
    pub(super) fn check(&self) -> std::result::Result<(), String> {
        let sound = |seconds: f64| (0.0..=1e9).contains(&seconds);
        let in_order = self.samples.windows(2).all(|pair| pair[0].seconds <= pair[1].seconds);
        let shards = self.samples.first().map_or(0, |sample| sample.shards.len());
        if !in_order || self.samples.iter().any(|sample| !sound(sample.seconds) || sample.shards.len() != shards) {
            return Err("the samples of its timeline are out of order".to_owned());
        }
        if self.phases.iter().any(|phase| !sound(phase.start) || !sound(phase.end) || phase.end < phase.start) {
            return Err("a phase of its timeline ends before it begins".to_owned());
        }
        if !(0.1..=1e9).contains(&self.interval_seconds) || !(0.0..=1e12).contains(&self.began_unix_seconds) {
            return Err("its timeline has no time".to_owned());
        }
        let classes = self.connect_bounds_us.len() + 1;
        let fits = |connects: &Connects| {
            connects.first.checked_add(connects.counts.len()).is_some_and(|end| end <= classes)
                && sound(connects.interval as f64 * self.interval_seconds)
        };
        if !self.connect_bounds_us.is_sorted() || !self.connects.iter().all(fits) {
            return Err("the classes of its timeline do not fit".to_owned());
        }
        Ok(())
    }
}

impl Connects {
    /// Adds the counts of another.
    fn take_in(&mut self, more: &Connects) {
        let first = self.first.min(more.first);
        let end = (self.first + self.counts.len()).max(more.first + more.counts.len());
        let mut counts = vec![0u64; end - first];
        for part in [&*self, more] {
            for (at, count) in part.counts.iter().enumerate() {
                let sum = &mut counts[part.first - first + at];
                *sum = sum.saturating_add(*count);
            }
        }
        (self.first, self.counts) = (first, counts);
    }

    /// Leaves out the empty classes at both ends.
    fn trim(&mut self) {
        let used = self.counts.iter().rposition(|count| *count > 0).map_or(0, |last| last + 1);
        self.counts.truncate(used);
        let empty = self.counts.iter().take_while(|count| **count == 0).count();
        self.counts.drain(..empty);
        self.first += empty;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;

    fn sample(seconds: f64) -> Sample {
        let (shards, client) = (vec![ShardSample::default()], ProcessSample::default());
        Sample { seconds, shards, client, server: None, host: None }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        /// However long a run is: a bounded number, in order, from the first to the last, and no
        /// connect lost.
        #[test]
        fn a_long_run_is_thinned_out_and_none_lost(seconds in 1usize..5_000, values in prop::collection::vec(1u64..10_000_000, 1..4)) {
            let mut latency = Latency::new().unwrap();
            values.iter().for_each(|us| latency.record(Duration::from_micros(*us)));
            let mut timeline = Timeline::begin(0.0);
            let mut added = 0;
            for second in 0..=seconds {
                if timeline.is_due(second as f64) {
                    timeline.add(sample(second as f64));
                }
                if second % 100 == 0 {
                    timeline.connected(second as f64, &latency);
                    added += values.len() as u64;
                }
            }
            prop_assert!(timeline.samples.len() <= TIMELINE_SAMPLES);
            prop_assert!(timeline.samples.len() >= seconds.min(TIMELINE_SAMPLES) / 2);
            prop_assert_eq!(timeline.check(), Ok(()));
            let last = timeline.samples.last().unwrap().seconds;
            prop_assert!(last + timeline.interval_seconds > seconds as f64, "{last} of {seconds}");
            let counted: u64 = timeline.connects.iter().flat_map(|connects| &connects.counts).sum();
            prop_assert_eq!(counted, added);
            let in_turn = timeline.connects.windows(2).all(|pair| pair[0].interval < pair[1].interval);
            prop_assert!(in_turn);
        }
    }

    #[test]
    fn classes_rise() {
        let bounds = bounds();
        assert!(bounds.windows(2).all(|pair| pair[0] < pair[1]), "{bounds:?}");
        assert_eq!((bounds[0], *bounds.last().unwrap()), (10, 100_000_000));
    }
}
