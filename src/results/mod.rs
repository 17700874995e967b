//! Results of runs, as plain data that can be read back. `render` shows them.

mod about;
mod check;
pub mod compare;
pub mod doctor;
pub mod document;
pub mod events;
mod fanout;
mod hibernation;
pub mod identity;
pub mod logs;
pub mod merge;
mod spoken;
mod storm;
mod takeover;
mod timeline;
mod tls;

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::Suspended;
use crate::error::Result;
use crate::failure::{Cause, Causes};
use crate::host::{CpuTime, NetCounters};
use crate::latency::Latency;
use crate::plan::ShardPlan;
use crate::stats::{ProgressSnapshot, Snapshot};
use crate::walls::Explained;

pub use about::{About, run_id};
pub use fanout::{
    FanoutDocument, FanoutSummary, PublicationDocument, Published, Receipts, ReceiptsDocument, ShardFanout,
};
pub use hibernation::HibernationDocument;
pub use spoken::{HttpDocument, PushDocument, SpokenDocument, WebSocketDocument};
pub use storm::{ShardStorm, Stage, StageCost, StormDocument, StormSummary};
pub use takeover::TakeoverDocument;
pub use timeline::{Connects, HostSample, PhaseSpan, ProcessSample, Sample, ShardSample, Timeline};
pub use tls::{ServerTlsDocument, TlsDocument};

/// The result of one audit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditResult {
    /// The audit's number, from 1.
    pub round: u32,
    /// Connections that the audit proved live.
    pub live: u64,
    /// Connections lost in the audit: closed, reset or unanswered.
    pub lost: u64,
    /// Connections whose answer was wrong; they are not among the lost.
    pub wrong: u64,
    /// Live connections from which those asked were drawn at random; `None` if every live connection was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drawn_from: Option<u64>,
}

/// What one client shard measured.
#[derive(Debug, Clone)]
pub struct ShardSummary {
    /// The shard's core.
    pub core: usize,
    /// Connections requested of the shard.
    pub requested: u64,
    /// The shard's last counts before closing.
    pub progress: ProgressSnapshot,
    /// Connect latencies without a retransmission, from the intended start.
    pub connect: Latency,
    /// Connect latencies from the actual start. They differ from `connect` only with a rate.
    pub connect_service: Latency,
    /// Latencies of connects for which a SYN or ACK was retransmitted.
    pub retransmitted: Latency,
    /// Echo latencies of messages, from the intended start.
    pub echo: Latency,
    /// Echo latencies of messages, from the actual start.
    pub echo_service: Latency,
    /// Echo latencies of the audits.
    pub audit: Latency,
    /// TLS handshakes from the end of the connect; `None` without TLS.
    pub handshakes: Option<HandshakeLatencies>,
    /// Failures by cause.
    pub causes: Causes,
    /// The shard's measurements of a storm, if there was one.
    pub storm: Option<ShardStorm>,
    /// What the shard's subscribers received in a fan-out, if there was one.
    pub fanout: Option<ShardFanout>,
}

/// How long TLS handshakes took.
#[derive(Debug, Clone)]
pub struct HandshakeLatencies {
    /// Those with a certificate.
    pub full: Latency,
    /// Those that resumed a session.
    pub resumed: Latency,
}

/// What a client run came to.
#[derive(Debug, Clone)]
pub struct Summary {
    /// Connections requested.
    pub requested: u64,
    /// The protocol that was spoken.
    pub protocol: &'static str,
    /// What proved a connection: `end-to-end`, `gateway` or `liveness`, how much the protocol's answers prove;
    /// `state` if only FIN and RST were looked for; `none`.
    pub proof: &'static str,
    /// Where the connections went: addresses and ports, and the name that the addresses belong to.
    pub target: String,
    /// Each shard's part.
    pub shards: Vec<ShardSummary>,
    /// The completed audits.
    pub audits: Vec<AuditResult>,
    /// The increase of the network stack's counters during the run.
    pub counters: NetCounters,
    /// The walls of this host that the run met, shown by evidence.
    pub walls: Vec<Explained>,
    /// Duration of the ramp.
    pub ramp: Duration,
    /// Connections that were live when the ramp ended.
    pub ramped: u64,
    /// Duration of the close phase.
    pub close: Duration,
    /// Whether the connects were paced, so that intended and actual start differ.
    pub paced: bool,
    /// Whether the run was stopped early.
    pub stopped: bool,
    /// How often the client's process was suspended, and for how long. Scheduled work was put off by that time.
    pub suspended: Suspended,
    /// The storm, if the run had one.
    pub storm: Option<StormSummary>,
    /// The fan-out, if the run had one.
    pub fanout: Option<FanoutSummary>,
    /// What became of sleeping connections in this process; `None` where none may sleep.
    pub hibernation: Option<HibernationDocument>,
    /// The course of the run.
    pub timeline: Timeline,
    /// The run's machine, version and command line.
    pub about: About,
}

impl Summary {
    /// Live connections at the end, before closing.
    pub fn live(&self) -> u64 {
        self.sum(|progress| progress.live)
    }

    /// Connections that failed, at once or later.
    pub fn failed(&self) -> u64 {
        self.sum(|progress| progress.failed)
    }

    /// Connections that were never tried, or were given up in flight when the run was stopped: those requested and
    /// those that a storm dialed, less those that are live, failed or were closed by the storm.
    pub fn not_tried(&self) -> u64 {
        (self.requested + self.sum(|p| p.redialed))
            .saturating_sub(self.live() + self.failed() + self.sum(|p| p.dropped))
    }

    pub(super) fn sum(&self, which: impl Fn(&ProgressSnapshot) -> u64) -> u64 {
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

    /// Source ports passed over because another socket had them.
    pub fn passed_over(&self) -> u64 {
        self.sum(|progress| progress.passed_over)
    }

    /// Connections that were established for the client and never accepted by the server.
    pub fn ghosts(&self) -> u64 {
        self.causes().get(&Cause::Ghost).copied().unwrap_or(0)
    }

    /// Whether all requested connections were live after the ramp, in every audit, and to the end. After a storm
    /// the live connections must be those that it left and those that it dialed and did not close. A fan-out must be exact
    /// too.
    pub fn complete(&self) -> bool {
        let asked_for = self.requested.saturating_add(self.sum(|progress| progress.redialed));
        let left = asked_for.saturating_sub(self.sum(|progress| progress.dropped));
        let should_be = |audit: &AuditResult| match self.storm {
            Some(_) if audit.round > 1 => left,
            _ => self.requested,
        };
        let is_exact = self.fanout.as_ref().is_none_or(|fanout| fanout.is_exact(&self.shards));
        !self.stopped
            && is_exact
            && self.live() == left
            && self.ramped == self.requested
            && self.audits.iter().all(|audit| match audit.drawn_from {
                Some(from) => from == self.requested && audit.lost == 0 && audit.wrong == 0,
                None => audit.live == should_be(audit) && audit.wrong == 0,
            })
    }

    /// Connections established per second of the ramp.
    pub fn connects_per_second(&self) -> f64 {
        let seconds = self.ramp.as_secs_f64();
        if seconds > 0.0 { self.ramped as f64 / seconds } else { 0.0 }
    }

    /// One latency merged over all shards.
    pub fn merged(&self, which: impl Fn(&ShardSummary) -> &Latency) -> Result<Latency> {
        let mut all = Latency::new()?;
        for shard in &self.shards {
            all.merge(which(shard))?;
        }
        Ok(all)
    }

    /// The source of the echo latencies to show: messages if any were echoed, else the audits.
    pub fn echo_source(&self) -> EchoSource {
        let messages = self.shards.iter().any(|shard| shard.echo.count() > 0);
        if messages { EchoSource::Messages } else { EchoSource::Audits }
    }
}

/// The source of echo latencies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EchoSource {
    /// Messages during the hold phase.
    Messages,
    /// Audits. Nothing paces an audit, so intended and actual start are the same.
    Audits,
    /// Messages on some machines, and audits on others.
    Mixed,
}

impl EchoSource {
    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            EchoSource::Messages => "messages",
            EchoSource::Audits => "audits",
            EchoSource::Mixed => "messages and audits",
        }
    }

    /// A shard's latencies from the intended start, and from the actual start.
    pub fn of(self, shard: &ShardSummary) -> (&Latency, &Latency) {
        match self {
            EchoSource::Audits => (&shard.audit, &shard.audit),
            EchoSource::Messages | EchoSource::Mixed => (&shard.echo, &shard.echo_service),
        }
    }
}

/// The plan and the counters of one server shard.
#[derive(Debug, Clone)]
pub struct ServerShard {
    /// The shard's plan.
    pub plan: ShardPlan,
    /// The shard's counters.
    pub counters: Snapshot,
}

/// The result of a server run.
#[derive(Debug, Clone)]
pub struct ServerSummary {
    /// The result of each shard.
    pub shards: Vec<ServerShard>,
    /// Connections that were live when the server was told to stop.
    pub live_at_stop: u64,
    /// The most connections that were live at one moment.
    pub peak_live: u64,
    /// The limit on memory for which the server last refused connections, as a line; `None` if it refused none.
    pub memory_wall: Option<String>,
    /// The walls of this host that the server met, shown by evidence.
    pub walls: Vec<Explained>,
    /// What became of sleeping connections; `None` where none may sleep.
    pub hibernation: Option<HibernationDocument>,
    /// What was said on its connections, as far as it speaks more than bytes.
    pub spoken: SpokenDocument,
    /// What became of TLS; `None` without it.
    pub tls: Option<ServerTlsDocument>,
    /// What went from server to server; `None` where none may take another's place.
    pub takeover: Option<TakeoverDocument>,
    /// The highest resident memory of the process, in bytes (VmHWM).
    pub resident_bytes: u64,
    /// Processor time of the process; zeros when it cannot be read.
    pub cpu_time: CpuTime,
}

impl ServerSummary {
    /// The sum of all shards' counters.
    pub fn total(&self) -> Snapshot {
        self.shards.iter().map(|shard| shard.counters).sum()
    }
}
