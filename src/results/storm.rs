//! The result of a storm.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Summary;
use super::check::{self, Checked};
use super::document::LatencyDocument;
use crate::error::Result;
use crate::host::CpuTime;
use crate::latency::Latency;

/// A part of a storm's course.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum Stage {
    /// The calm before the storm.
    Before = 0,
    /// The storm.
    During = 1,
    /// The time after the storm.
    After = 2,
}

/// What one shard saw of a storm.
#[derive(Debug, Clone)]
pub struct ShardStorm {
    /// Echo latencies of the survivors' messages from the intended start, by stage. `Before` counts messages
    /// answered before the storm began, `After` messages sent after its end.
    pub echo: [Latency; 3],
    /// The time at which the storm was absorbed, from its start: the last echo that was slower than the slowest of
    /// the calm, before a time of `constants::STORM_QUIET` without such an echo. Zero if no echo was slower.
    pub absorbed: Duration,
    /// Victims that the server closed.
    pub closed_by_server: u64,
    /// Connections dialed in the storm that were established and proved.
    pub stood_anew: u64,
    /// Proved connections that broke or did not answer.
    pub lost: u64,
    /// Connections that echoed wrong bytes.
    pub wrong: u64,
}

/// The length of a stage, and the server's processor time in it.
#[derive(Debug, Clone, Copy, Default)]
pub struct StageCost {
    /// Length of the stage in seconds.
    pub seconds: f64,
    /// The server's processor time; `None` where it is not known.
    pub server_cpu: Option<CpuTime>,
}

/// The storm as seen by the shard that leads it.
#[derive(Debug, Clone)]
pub struct StormSummary {
    /// The scenario's name.
    pub scenario: &'static str,
    /// Number of connections that the storm was meant for.
    pub victims: u64,
    /// Whether the storm does little but close connections. The server's processor time is then the cost of
    /// closing.
    pub is_closing: bool,
    /// The cost of each stage.
    pub costs: [StageCost; 3],
}

/// The storm in a client's result.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StormDocument {
    /// The scenario's name.
    pub scenario: String,
    /// Requested connections that the storm spared.
    pub survivors: u64,
    /// Number of connections that the storm was meant for.
    pub victims: u64,
    /// Connections closed in the storm; they are neither live nor failed.
    pub closed: u64,
    /// Connections of `closed` that the server closed.
    pub closed_by_server: u64,
    /// Connections that the storm dialed in addition to those requested.
    pub redialed: u64,
    /// Connections of `redialed` that were proved live.
    pub stood_anew: u64,
    /// Proved connections that broke or did not answer.
    pub lost: u64,
    /// Connections that echoed wrong bytes.
    pub wrong: u64,
    /// The time at which the storm was absorbed, in seconds from its start: the last echo that was slower than the
    /// slowest before the storm, before a second without such an echo. 0 if no echo was slower. `None` where no echo was
    /// measured before the storm, or none since.
    pub absorbed_seconds: Option<f64>,
    /// The calm.
    pub before: StageDocument,
    /// The storm.
    pub during: StageDocument,
    /// The time after the storm.
    pub after: StageDocument,
    /// Processor time of the server during the storm for each closed connection, in microseconds; echoes and
    /// accepts are included. `None` where the time is not known, or closing is not the storm's main work. `killed`
    /// has none: it lasts for a given time, in which echoes cost more than closing.
    pub server_cpu_us_per_closed: Option<f64>,
}

/// One stage of a storm.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StageDocument {
    /// Length of the stage.
    pub seconds: f64,
    /// Echo latencies of the survivors' messages from the intended start.
    #[serde(rename = "echo_latency_us")]
    pub echo: LatencyDocument,
    /// User processor time of the server; `None` where it is not known.
    pub server_cpu_user_seconds: Option<f64>,
    /// System processor time of the server; `None` where it is not known.
    pub server_cpu_system_seconds: Option<f64>,
}

impl StormDocument {
    /// The document of a run's storm, if it had one.
    pub fn of(summary: &Summary) -> Result<Option<StormDocument>> {
        let Some(storm) = &summary.storm else { return Ok(None) };
        let seen = || summary.shards.iter().filter_map(|shard| shard.storm.as_ref());
        let sum = |which: fn(&ShardStorm) -> u64| seen().map(which).sum::<u64>();
        let closed = summary.sum(|progress| progress.dropped);
        let stage = |stage: Stage| -> Result<StageDocument> {
            let mut echo = Latency::new()?;
            for shard in seen() {
                echo.merge(&shard.echo[stage as usize])?;
            }
            let cost = storm.costs[stage as usize];
            Ok(StageDocument {
                seconds: cost.seconds,
                echo: LatencyDocument::of(&echo)?,
                server_cpu_user_seconds: cost.server_cpu.map(|cpu| cpu.user),
                server_cpu_system_seconds: cost.server_cpu.map(|cpu| cpu.system),
            })
        };
        let (before, during, after) = (stage(Stage::Before)?, stage(Stage::During)?, stage(Stage::After)?);
        let compared = before.echo.count > 0 && during.echo.count + after.echo.count > 0;
        let absorbed = seen().map(|shard| shard.absorbed.as_secs_f64()).fold(0.0, f64::max);
        let spent = storm.costs[Stage::During as usize].server_cpu.filter(|_| storm.is_closing && closed > 0);
        Ok(Some(StormDocument {
            scenario: storm.scenario.to_owned(),
            survivors: summary.requested.saturating_sub(storm.victims),
            victims: storm.victims,
            closed,
            closed_by_server: sum(|shard| shard.closed_by_server),
            redialed: summary.sum(|progress| progress.redialed),
            stood_anew: sum(|shard| shard.stood_anew),
            lost: sum(|shard| shard.lost),
            wrong: sum(|shard| shard.wrong),
            absorbed_seconds: compared.then_some(absorbed),
            before,
            during,
            after,
            server_cpu_us_per_closed: spent.map(|cpu| cpu.total() * 1e6 / closed as f64),
        }))
    }

    /// The stages in their order, each with its name.
    pub fn stages(&self) -> [(&'static str, &StageDocument); 3] {
        [("before", &self.before), ("during", &self.during), ("after", &self.after)]
    }

    /// Checks that the figures are those of the histograms, and that the counts add up in a run of `requested` connections.
    pub(super) fn check(&self, requested: u64) -> Checked {
        check::same(
            "storm.survivors",
            self.survivors,
            "requested - storm.victims are",
            requested.checked_sub(self.victims),
        )?;
        check::at_most("storm.closed_by_server", self.closed_by_server, "storm.closed is", self.closed)?;
        check::at_most("storm.stood_anew", self.stood_anew, "storm.redialed is", self.redialed)?;
        self.absorbed_seconds.map_or(Ok(()), |seconds| check::seconds("storm.absorbed_seconds", seconds))?;
        let cost = self.server_cpu_us_per_closed;
        cost.map_or(Ok(()), |us| check::cpu_seconds("storm.server_cpu_us_per_closed", us))?;
        self.stages().into_iter().try_for_each(|(name, stage)| {
            stage.echo.check().map_err(|why| format!("echo_latency_us {name} the storm: {why}"))?;
            check::seconds(&format!("storm.{name}.seconds"), stage.seconds)?;
            let cpu = [stage.server_cpu_user_seconds, stage.server_cpu_system_seconds].into_iter().flatten();
            cpu.into_iter().try_for_each(|cpu| check::cpu_seconds(&format!("the server's CPU time storm.{name}"), cpu))
        })
    }
}
