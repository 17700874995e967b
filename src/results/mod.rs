//! What a run came to, as plain data that can be read back. `render` shows it.

mod about;
pub mod compare;
pub mod doctor;
pub mod document;
pub mod events;
pub mod identity;
pub mod logs;
pub mod merge;
mod storm;
mod timeline;

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::Suspended;
use crate::error::Result;
use crate::failure::{Cause, Causes};
use crate::host::NetCounters;
use crate::latency::Latency;
use crate::plan::ShardPlan;
use crate::stats::{ProgressSnapshot, Snapshot};
use crate::walls::Explained;

pub use about::{About, run_id};
pub use storm::{ShardStorm, Stage, StageCost, StormDocument, StormSummary};
pub use timeline::{Connects, HostSample, PhaseSpan, ProcessSample, Sample, ShardSample, Timeline};

/// One audit's result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditResult {
    /// Its number, from 1 on.
    pub round: u32,
    /// Connections proved live in it.
    pub live: u64,
    /// Connections lost in it: closed, reset or unanswered.
    pub lost: u64,
    /// Connections whose answer was wrong; they are not among the lost.
    pub wrong: u64,
}

/// What one client shard measured.
#[derive(Debug, Clone)]
pub struct ShardSummary {
    /// Its core.
    pub core: usize,
    /// Connections it was asked for.
    pub requested: u64,
    /// Its last counts before closing.
    pub progress: ProgressSnapshot,
    /// Connect latencies without a retransmission, from the intended start.
    pub connect: Latency,
    /// The same from the actual start; differs only with a rate.
    pub connect_service: Latency,
    /// Connect latencies with a SYN or ACK sent again.
    pub retransmitted: Latency,
    /// Echo latencies of messages, from the intended start.
    pub echo: Latency,
    /// The same from the actual start.
    pub echo_service: Latency,
    /// Echo latencies of the audits.
    pub audit: Latency,
    /// Why connections failed.
    pub causes: Causes,
    /// What it saw of a storm, if there was one.
    pub storm: Option<ShardStorm>,
}

/// What a client run came to.
#[derive(Debug, Clone)]
pub struct Summary {
    /// Connections asked for.
    pub requested: u64,
    /// The protocol that was spoken.
    pub protocol: &'static str,
    /// What proved a connection: `end-to-end`, `gateway` or `liveness`, how much the protocol's answers prove;
    /// `state` if only FIN and RST were looked for; `none`.
    pub proof: &'static str,
    /// Each shard's part.
    pub shards: Vec<ShardSummary>,
    /// The audits that were completed.
    pub audits: Vec<AuditResult>,
    /// How far counters of the network stack moved during the run.
    pub counters: NetCounters,
    /// The walls of this host that the run met, from evidence.
    pub walls: Vec<Explained>,
    /// How long the ramp took.
    pub ramp: Duration,
    /// Connections that stood when the ramp ended.
    pub ramped: u64,
    /// How long closing took.
    pub close: Duration,
    /// Whether the connects were paced, so that intended and actual start differ.
    pub paced: bool,
    /// Whether the run was stopped early.
    pub stopped: bool,
    /// How often its process was suspended, and how long. What was due by a schedule was put off by as much.
    pub suspended: Suspended,
    /// Its storm, if it had one.
    pub storm: Option<StormSummary>,
    /// How it went over time.
    pub timeline: Timeline,
    /// Where and how it was made.
    pub about: About,
}

impl Summary {
    /// Live connections at the end, before closing.
    pub fn live(&self) -> u64 {
        self.sum(|progress| progress.live)
    }

    /// Connections that failed.
    pub fn failed(&self) -> u64 {
        self.sum(|progress| progress.failed)
    }

    /// Connections never tried, or given up in flight when the run was stopped: what is left of
    /// those asked for and those that a storm dialed, without the live, the failed and those that it
    /// closed.
    pub fn not_tried(&self) -> u64 {
        (self.requested + self.sum(|p| p.redialed))
            .saturating_sub(self.live() + self.failed() + self.sum(|p| p.dropped))
    }

    fn sum(&self, which: impl Fn(&ProgressSnapshot) -> u64) -> u64 {
        self.shards.iter().map(|shard| which(&shard.progress)).sum()
    }

    /// Failures by cause over all shards.
    pub fn causes(&self) -> Causes {
        let mut causes = Causes::new();
        for (cause, count) in self.shards.iter().flat_map(|shard| &shard.causes) {
            *causes.entry(*cause).or_default() += count;
        }
        causes
    }

    /// Source ports that were passed over, because somebody else had them.
    pub fn passed_over(&self) -> u64 {
        self.sum(|progress| progress.passed_over)
    }

    /// Connections that only the client believed in.
    pub fn ghosts(&self) -> u64 {
        self.causes().get(&Cause::Ghost).copied().unwrap_or(0)
    }

    /// Whether all that were asked for were live after the ramp, in every audit, and to the end; of
    /// a storm those that it left, and those that it dialed and did not close.
    pub fn complete(&self) -> bool {
        let asked_for = self.requested.saturating_add(self.sum(|progress| progress.redialed));
        let left = asked_for.saturating_sub(self.sum(|progress| progress.dropped));
        let should_be = |audit: &AuditResult| match self.storm {
            Some(_) if audit.round > 1 => left,
            _ => self.requested,
        };
        !self.stopped
            && self.live() == left
            && self.ramped == self.requested
            && self.audits.iter().all(|audit| audit.live == should_be(audit) && audit.wrong == 0)
    }

    /// Connects per second of the ramp that came to stand.
    pub fn connects_per_second(&self) -> f64 {
        let seconds = self.ramp.as_secs_f64();
        if seconds > 0.0 { self.ramped as f64 / seconds } else { 0.0 }
    }

    /// One histogram over all shards.
    pub fn merged(&self, which: impl Fn(&ShardSummary) -> &Latency) -> Result<Latency> {
        let mut all = Latency::new()?;
        for shard in &self.shards {
            all.merge(which(shard))?;
        }
        Ok(all)
    }

    /// Where the echo latencies to show come from: messages if any were sent, else the audits.
    pub fn echo_source(&self) -> EchoSource {
        let messages = self.shards.iter().any(|shard| shard.echo.count() > 0);
        if messages { EchoSource::Messages } else { EchoSource::Audits }
    }
}

/// Where echo latencies come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EchoSource {
    /// Messages while holding.
    Messages,
    /// Audits, which nothing paces: intended and actual start are one.
    Audits,
    /// Messages of some machines, and audits of others.
    Mixed,
}

impl EchoSource {
    /// What a person calls it.
    pub fn name(self) -> &'static str {
        match self {
            EchoSource::Messages => "messages",
            EchoSource::Audits => "audits",
            EchoSource::Mixed => "messages and audits",
        }
    }

    /// The latencies of a shard from the intended start, and from the actual one.
    pub fn of(self, shard: &ShardSummary) -> (&Latency, &Latency) {
        match self {
            EchoSource::Audits => (&shard.audit, &shard.audit),
            EchoSource::Messages | EchoSource::Mixed => (&shard.echo, &shard.echo_service),
        }
    }
}

/// One server shard's plan and counts.
#[derive(Debug, Clone)]
pub struct ServerShard {
    /// What it was planned to be.
    pub plan: ShardPlan,
    /// Its counters.
    pub counters: Snapshot,
}

/// What a server run came to.
#[derive(Debug, Clone)]
pub struct ServerSummary {
    /// Each shard's part.
    pub shards: Vec<ServerShard>,
    /// Connections that stood when the server was told to stop.
    pub live_at_stop: u64,
    /// The most connections seen at once, at the end of any stats interval.
    pub peak_live: u64,
    /// The limit on memory for which connections were last refused, as a line; `None` if none was.
    pub memory_wall: Option<String>,
    /// The walls of this host that the server met, from evidence.
    pub walls: Vec<Explained>,
    /// The highest resident memory of the process, in bytes (VmHWM).
    pub resident_bytes: u64,
    /// Processor time of the process in seconds, user and system.
    pub cpu_seconds: (f64, f64),
}

impl ServerSummary {
    /// The sum of all shards' counters.
    pub fn total(&self) -> Snapshot {
        self.shards.iter().map(|shard| shard.counters).sum()
    }
}
