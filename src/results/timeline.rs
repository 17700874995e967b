//! The course of a run: samples over time and the latencies of its connects, both bounded in number. When a run
//! has too many samples, it keeps every second one, then every fourth.

use serde::{Deserialize, Serialize};

use super::check::{self, Checked};
use crate::host::{Host, Memory};
use crate::latency::Latency;
use crate::stats::ProgressSnapshot;

/// Samples over time that a result keeps: 75 seconds of four a second, 100 bytes each and as much for
/// each shard. A run that has more keeps every second one, and then every fourth.
const TIMELINE_SAMPLES: usize = 300;

/// Phases that a result keeps; a steered run that has more keeps the first ones and the last.
const PHASES_KEPT: usize = 100;

/// Classes of connect latency for each power of ten.
const CLASSES_PER_DECADE: u32 = 8;

/// Seconds between two samples at first. The interval is short, so that a short run has a course too.
const FIRST_INTERVAL: f64 = 0.25;

/// The shortest time between two samples that a result can have, in seconds.
const SHORTEST_INTERVAL: f64 = 0.1;

/// The latest start of a run, in seconds since 1970: the last second of the year 9999. Later dates cannot be written, and no
/// clock of a kernel goes that far.
const LATEST_BEGIN: f64 = 253_402_300_799.0;

/// The largest bound of a class, as a power of ten in microseconds: 100 s.
const DECADES: u32 = 8;

/// The course of a run. All times are seconds since the run began.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Timeline {
    /// The start of the run in seconds since 1970, by its machine's clock.
    pub began_unix_seconds: f64,
    /// Seconds between two samples. The end of each phase has a sample of its own.
    pub interval_seconds: f64,
    /// The phases in order.
    pub phases: Vec<PhaseSpan>,
    /// The samples in order.
    pub samples: Vec<Sample>,
    /// Upper bounds of the classes of connect latency, in microseconds. One more class is for latencies above the
    /// last bound.
    pub connect_bounds_us: Vec<u64>,
    /// Connects by class over time, including those with a retransmission. Intervals without connects are left out.
    pub connects: Vec<Connects>,
}

/// One phase.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PhaseSpan {
    /// The phase's name.
    pub phase: String,
    /// The start of the phase.
    pub start: f64,
    /// The end of the phase.
    pub end: f64,
}

/// The state of a run at one moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// The moment.
    pub seconds: f64,
    /// The counts of each shard.
    pub shards: Vec<ShardSample>,
    /// The memory and processor time of the client's process.
    pub client: ProcessSample,
    /// The memory and processor time of the server's process, if it is on this host and known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<ProcessSample>,
    /// The host's memory, if it can be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<HostSample>,
}

/// One shard's counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardSample {
    /// Connections that are established and proved.
    pub live: u64,
    /// Connections that failed since the run began.
    pub failed: u64,
    /// Connections that were ever established and proved, including those lost since.
    pub stood: u64,
    /// Echoes received since the run began.
    pub echoes: u64,
    /// Live connections that are asleep. The field is missing where none is.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub asleep: u64,
}

/// The memory and processor time of a process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct ProcessSample {
    /// Resident memory.
    pub resident_bytes: u64,
    /// User processor time since the process began.
    pub cpu_user_seconds: f64,
    /// System processor time since the process began.
    pub cpu_system_seconds: f64,
}

/// The memory of a whole host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostSample {
    /// Memory that could still be used (MemAvailable).
    pub available_bytes: u64,
    /// Memory of kernel objects, sockets among them (Slab).
    pub slab_bytes: u64,
}

/// Connects of one interval by their latency.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connects {
    /// The number of the interval: it begins `interval * interval_seconds` after the start.
    pub interval: u64,
    /// The first class with a count.
    pub first: usize,
    /// The counts of the classes, from `first` on.
    pub counts: Vec<u64>,
}

/// As serde asks whether a field is left out.
fn is_zero(count: &u64) -> bool {
    *count == 0
}

impl ShardSample {
    /// The sample of a shard's counts.
    pub fn of(progress: &ProgressSnapshot) -> ShardSample {
        let ProgressSnapshot { live, closed, failed, stood, echoes, asleep, .. } = *progress;
        // In its last phase a client counts the connections that it closes separately.
        ShardSample { live: live.saturating_sub(closed), failed, stood, echoes, asleep }
    }
}

impl ProcessSample {
    /// The sample of a process of this host; `None` if it is gone.
    pub fn of(host: &Host, pid: u32) -> Option<ProcessSample> {
        let (resident_bytes, _) = host.resident(pid);
        let spent = host.cpu_time(pid).unwrap_or_default();
        (resident_bytes > 0).then_some(ProcessSample {
            resident_bytes,
            cpu_user_seconds: spent.user,
            cpu_system_seconds: spent.system,
        })
    }

    fn check(&self) -> Checked {
        check::cpu_seconds("cpu_user_seconds of its timeline", self.cpu_user_seconds)?;
        check::cpu_seconds("cpu_system_seconds of its timeline", self.cpu_system_seconds)
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
    /// The timeline of a run that begins now, with the present time in seconds since 1970.
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

    /// Whether the next sample is due.
    pub fn is_due(&self, seconds: f64) -> bool {
        self.samples.last().is_none_or(|last| seconds >= last.seconds + self.interval_seconds)
    }

    /// Adds a sample that is later than all earlier samples.
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

    /// Records that a phase has ended.
    pub fn phase(&mut self, phase: String, start: f64, end: f64) {
        if self.phases.len() == PHASES_KEPT {
            self.phases.pop();
        }
        self.phases.push(PhaseSpan { phase, start, end });
    }

    /// Keeps every second sample, and the last one. Where samples at the interval alone would be too many, it doubles: not
    /// where the ends of many phases have added theirs.
    fn thin(&mut self) {
        let last = self.samples.len() - 1;
        let mut at = 0..;
        self.samples.retain(|_| at.next().is_some_and(|at| at % 2 == 0 || at == last));
        let span = self.samples.last().map_or(0.0, |last| last.seconds);
        if span > self.interval_seconds * (TIMELINE_SAMPLES / 2) as f64 {
            self.interval_seconds *= 2.0;
            self.connects.iter_mut().for_each(|connects| connects.interval /= 2);
            self.gather();
        }
    }

    /// Merges the connects of each interval. The shards' connects arrive less than a second late.
    fn gather(&mut self) {
        self.connects.sort_by_key(|connects| connects.interval);
        self.connects.dedup_by(|more, all| {
            let same = more.interval == all.interval;
            if same {
                all.add_counts(more);
            }
            same
        });
        self.connects.iter_mut().for_each(Connects::trim);
    }

    /// Checks that a timeline read from a document can be drawn.
    pub(super) fn check(&self) -> Checked {
        check::within("began_unix_seconds of its timeline", self.began_unix_seconds, LATEST_BEGIN)?;
        check::seconds("interval_seconds of its timeline", self.interval_seconds)?;
        if self.interval_seconds < SHORTEST_INTERVAL {
            let interval = self.interval_seconds;
            return Err(format!("interval_seconds of its timeline is {interval}, less than {SHORTEST_INTERVAL}"));
        }
        self.check_samples()?;
        for PhaseSpan { start, end, .. } in &self.phases {
            check::seconds("start of a phase of its timeline", *start)?;
            check::seconds("end of a phase of its timeline", *end)?;
            if end < start {
                return Err(format!("a phase of its timeline ends at {end} s, and begins at {start} s"));
            }
        }
        self.check_connects()
    }

    fn check_samples(&self) -> Checked {
        for sample in &self.samples {
            check::seconds("seconds of a sample of its timeline", sample.seconds)?;
            sample.client.check()?;
            sample.server.as_ref().map_or(Ok(()), ProcessSample::check)?;
        }
        for pair in self.samples.windows(2) {
            let [before, after] = pair else { continue };
            if after.seconds < before.seconds {
                let (after, before) = (after.seconds, before.seconds);
                return Err(format!("a sample of its timeline at {after} s follows one at {before} s"));
            }
            if after.shards.len() != before.shards.len() {
                let (after, before) = (after.shards.len(), before.shards.len());
                return Err(format!("a sample of its timeline has {after} shards, and the one before it {before}"));
            }
        }
        Ok(())
    }

    fn check_connects(&self) -> Checked {
        if !self.connect_bounds_us.is_sorted() {
            return Err("connect_bounds_us of its timeline are not in order".to_owned());
        }
        let classes = self.connect_bounds_us.len() + 1;
        self.connects.iter().try_for_each(|connects| {
            let Connects { interval, first, ref counts } = *connects;
            check::seconds("a time of connects of its timeline", interval as f64 * self.interval_seconds)?;
            let last = first.saturating_add(counts.len());
            check::at_most("a class of connects of its timeline", last as u64, "its classes are", classes as u64)
        })
    }
}

impl Connects {
    /// Adds the counts of other connects.
    fn add_counts(&mut self, more: &Connects) {
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

    /// Removes the empty classes at both ends.
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

        /// However long a run is, its samples are bounded in number, in order, and reach from the first to the
        /// last; no connect is lost.
        #[test]
        fn a_long_run_is_thinned_out_and_loses_no_connect(seconds in 1usize..5_000, values in prop::collection::vec(1u64..10_000_000, 1..4)) {
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
            let ascending = timeline.connects.windows(2).all(|pair| pair[0].interval < pair[1].interval);
            prop_assert!(ascending);
        }
    }

    /// Each word to a steered run makes two phases, and the end of each has a sample.
    #[test]
    fn many_phases_leave_the_interval_as_long_as_the_run_demands() {
        let mut timeline = Timeline::begin(0.0);
        let end = |phase: u32| f64::from(phase) * 0.5;
        for phase in 1..=6_000 {
            timeline.phase("hold".to_owned(), end(phase - 1), end(phase));
            timeline.add(sample(end(phase)));
        }
        assert_eq!(timeline.check(), Ok(()));
        let longest = 2.0 * end(6_000) / (TIMELINE_SAMPLES / 2) as f64;
        assert!(timeline.interval_seconds <= longest, "{} s", timeline.interval_seconds);
        assert!(timeline.samples.len() <= TIMELINE_SAMPLES);
    }

    #[test]
    fn the_bounds_of_classes_ascend() {
        let bounds = bounds();
        assert!(bounds.windows(2).all(|pair| pair[0] < pair[1]), "{bounds:?}");
        assert_eq!((bounds[0], *bounds.last().unwrap()), (10, 100_000_000));
    }
}
