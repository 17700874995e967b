//! What a storm came to.

use serde::{Deserialize, Serialize};

use super::document::LatencyDocument;
use super::{ShardSummary, Summary};
use crate::error::Result;
use crate::latency::Latency;

/// A part of a storm's course.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum Stage {
    /// The calm.
    Before = 0,
    /// The storm.
    During = 1,
    /// What comes after it.
    After = 2,
}

/// What one shard saw of a storm.
#[derive(Debug)]
pub struct ShardStorm {
    /// Echo latencies of the survivors' messages from the intended start, by stage: `Before` are
    /// those answered before the storm began, `After` those to be sent after its end.
    pub echo: [Latency; 3],
    /// When the last echo came that was slower than the slowest of the calm, before
    /// `constants::STORM_QUIET` without one, from the storm's start on; zero if there was none.
    pub absorbed: std::time::Duration,
    /// Victims that the server closed.
    pub closed_by_server: u64,
    /// Connections dialed in the storm that came to stand.
    pub stood_anew: u64,
    /// Proved connections that did not answer or broke.
    pub lost: u64,
    /// Connections that echoed something else.
    pub wrong: u64,
}

/// How long a stage took, and what the server spent in it.
#[derive(Debug, Clone, Copy, Default)]
pub struct StageCost {
    /// Its length in seconds.
    pub seconds: f64,
    /// Processor time of the server in seconds, user and system; `None` where it is not known.
    pub server_cpu: Option<(f64, f64)>,
}

/// A storm as its leader saw it.
#[derive(Debug, Clone)]
pub struct StormSummary {
    /// Its scenario.
    pub scenario: &'static str,
    /// Connections it was meant for.
    pub victims: u64,
    /// Whether it does little but close, so that what the server spends in it is for that.
    pub is_closing: bool,
    /// By stage.
    pub costs: [StageCost; 3],
}

/// The storm of a client's result.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StormDocument {
    /// Its scenario.
    pub scenario: String,
    /// Connections that it spared, out of those asked for.
    pub survivors: u64,
    /// Connections it was meant for.
    pub victims: u64,
    /// Connections that it closed; they are neither live nor failed.
    pub closed: u64,
    /// Of these, closed by the server.
    pub closed_by_server: u64,
    /// Connections that it dialed beside those asked for.
    pub redialed: u64,
    /// Of these, proved live.
    pub stood_anew: u64,
    /// Proved connections that did not answer or broke.
    pub lost: u64,
    /// Connections that echoed something else.
    pub wrong: u64,
    /// When the last echo came that was slower than the slowest before the storm, before a second
    /// without one, from the storm's start on; 0 if there was none.
    pub absorbed_seconds: f64,
    /// The calm.
    pub before: StageDocument,
    /// The storm.
    pub during: StageDocument,
    /// What came after it.
    pub after: StageDocument,
    /// Processor time of the server during the storm for each closed connection, in microseconds,
    /// echoes and accepts included; `None` where it is not known, or closing is not what it did most. `killed` has
    /// none: it lasts for a given time, in which echoes cost more than closing.
    pub server_cpu_us_per_closed: Option<f64>,
}

/// One stage of a storm's course.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StageDocument {
    /// Its length.
    pub seconds: f64,
    /// Echo latencies of the survivors' messages from the intended start.
    #[serde(rename = "echo_latency_us")]
    pub echo: LatencyDocument,
    /// Processor time of the server; `None` where it is not known.
    pub server_cpu_user_seconds: Option<f64>,
    /// The same in the kernel.
    pub server_cpu_system_seconds: Option<f64>,
}

impl StormDocument {
    /// The document of a run's storm, if it had one.
    pub fn of(summary: &Summary) -> Result<Option<StormDocument>> {
        let Some(storm) = &summary.storm else { return Ok(None) };
        let seen = || summary.shards.iter().filter_map(|shard| shard.storm.as_ref());
        let sum = |which: fn(&ShardStorm) -> u64| seen().map(which).sum::<u64>();
        let progress = |which: fn(&ShardSummary) -> u64| summary.shards.iter().map(which).sum::<u64>();
        let closed = progress(|shard| shard.progress.dropped);
        let stage = |stage: Stage| -> Result<StageDocument> {
            let mut echo = Latency::new()?;
            for shard in seen() {
                echo.merge(&shard.echo[stage as usize])?;
            }
            let cost = storm.costs[stage as usize];
            Ok(StageDocument {
                seconds: cost.seconds,
                echo: LatencyDocument::of(&echo)?,
                server_cpu_user_seconds: cost.server_cpu.map(|cpu| cpu.0),
                server_cpu_system_seconds: cost.server_cpu.map(|cpu| cpu.1),
            })
        };
        let spent = storm.costs[Stage::During as usize].server_cpu.filter(|_| storm.is_closing && closed > 0);
        Ok(Some(StormDocument {
            scenario: storm.scenario.to_owned(),
            survivors: summary.requested.saturating_sub(storm.victims),
            victims: storm.victims,
            closed,
            closed_by_server: sum(|shard| shard.closed_by_server),
            redialed: progress(|shard| shard.progress.redialed),
            stood_anew: sum(|shard| shard.stood_anew),
            lost: sum(|shard| shard.lost),
            wrong: sum(|shard| shard.wrong),
            absorbed_seconds: seen().map(|shard| shard.absorbed.as_secs_f64()).fold(0.0, f64::max),
            before: stage(Stage::Before)?,
            during: stage(Stage::During)?,
            after: stage(Stage::After)?,
            server_cpu_us_per_closed: spent.map(|(user, system)| (user + system) * 1e6 / closed as f64),
        }))
    }

    /// The stages in their order, each with its name.
    pub fn stages(&self) -> [(&'static str, &StageDocument); 3] {
        [("before", &self.before), ("during", &self.during), ("after", &self.after)]
    }

    /// Whether its histograms are those of its figures.
    pub(super) fn check(&self) -> std::result::Result<(), String> {
        self.stages().into_iter().try_for_each(|(name, stage)| {
            stage.echo.check().map_err(|why| format!("echo_latency_us {name} the storm: {why}"))
        })
    }
}
