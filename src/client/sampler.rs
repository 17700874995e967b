//! Samples a running client a few times a second, from the leader's thread: counters, processes, and the intervals
//! that its shards hand over. The shards do nothing for it on the data path.

use std::sync::mpsc;
use std::time::{Duration, Instant, SystemTime};

use super::Phase;
use crate::host::Host;
use crate::latency::Latency;
use crate::latency::log::Measure;
use crate::results::{HostSample, ProcessSample, Sample, ShardSample, Timeline};
use crate::stats::ProgressSnapshot;

/// How long a shard measures before it hands over.
pub const INTERVAL: Duration = Duration::from_secs(1);

/// What one shard measured in one interval, or the receipts of one publication.
#[derive(Debug)]
pub struct Interval {
    /// The shard's number, or the publication's.
    pub number: usize,
    /// When the interval began.
    pub from: Instant,
    /// When it ended.
    pub to: Instant,
    /// What was measured; nothing that is empty.
    pub pieces: Vec<(Measure, Latency)>,
}

/// Writes the timeline of a run.
pub struct Sampler {
    /// How the run went so far.
    pub timeline: Timeline,
    began: Instant,
    host: Host,
    server_pid: Option<u32>,
    /// Both ends of what shards hand over.
    intervals: (mpsc::Sender<Interval>, mpsc::Receiver<Interval>),
}

impl Sampler {
    /// Begins the timeline. If the server's process is given, its memory and processor time are sampled too.
    pub fn begin(server_pid: Option<u32>) -> Sampler {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Sampler {
            timeline: Timeline::begin(now.as_secs_f64()),
            began: Instant::now(),
            host: Host::here(),
            server_pid,
            intervals: mpsc::channel(),
        }
    }

    /// Where a shard's intervals go.
    pub fn sender(&self) -> mpsc::Sender<Interval> {
        self.intervals.0.clone()
    }

    /// Takes a sample if it is time for one.
    pub fn look(&mut self, shards: impl Iterator<Item = ProgressSnapshot>) {
        let seconds = self.seconds(Instant::now());
        if self.timeline.is_due(seconds) {
            self.sample(seconds, shards);
        }
    }

    /// A phase lasted from `start` to `end`. What the shards show now is a sample too.
    pub fn ended(
        &mut self,
        phase: Phase,
        (start, end): (Instant, Instant),
        shards: impl Iterator<Item = ProgressSnapshot>,
    ) {
        self.timeline.phase(phase.name(), self.seconds(start), self.seconds(end));
        self.sample(self.seconds(Instant::now()), shards);
    }

    /// Takes the next interval that a shard has handed over, into the timeline too.
    pub fn next_interval(&mut self) -> Option<Interval> {
        let interval = self.intervals.1.try_recv().ok()?;
        let middle = interval.from + interval.to.duration_since(interval.from) / 2;
        for (measure, latency) in &interval.pieces {
            if matches!(measure, Measure::Connect | Measure::Retransmitted) {
                self.timeline.connected(self.seconds(middle), latency);
            }
        }
        Some(interval)
    }

    fn seconds(&self, at: Instant) -> f64 {
        at.saturating_duration_since(self.began).as_secs_f64()
    }

    fn sample(&mut self, seconds: f64, shards: impl Iterator<Item = ProgressSnapshot>) {
        let process = |pid| ProcessSample::of(&self.host, pid);
        self.timeline.add(Sample {
            seconds,
            shards: shards.map(|progress| ShardSample::of(&progress)).collect(),
            client: process(std::process::id()).unwrap_or_default(),
            server: self.server_pid.and_then(process),
            host: self.host.memory().map(|memory| HostSample::of(&memory)),
        });
    }
}
