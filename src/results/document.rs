//! What `--json` writes, and what can be read back. The names are an interface: keep them.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{About, AuditResult, EchoSource, ServerSummary, ShardSummary, StormDocument, Summary, Timeline};
use crate::error::{ConfigError, DocumentProblem, Result};
use crate::failure::Causes;
use crate::host::NetCounters;
use crate::latency::{Latency, PERCENTILES};
use crate::walls::Explained;

/// A histogram: its figures in microseconds, and all of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LatencyDocument {
    /// How many were recorded.
    pub count: u64,
    /// The smallest; 0 when empty.
    pub min: u64,
    /// What 50 % do not exceed.
    pub p50: u64,
    /// What 90 % do not exceed.
    pub p90: u64,
    /// What 99 % do not exceed.
    pub p99: u64,
    /// What 99.9 % do not exceed.
    pub p999: u64,
    /// What 99.99 % do not exceed.
    pub p9999: u64,
    /// The largest; 0 when empty.
    pub max: u64,
    /// Every count: HdrHistogram's V2 compressed form in base64.
    pub histogram: String,
}

impl LatencyDocument {
    /// The document of a histogram.
    pub fn of(latency: &Latency) -> Result<LatencyDocument> {
        let [p50, p90, p99, p999, p9999] = PERCENTILES.map(|(percent, _)| latency.percentile(percent));
        let (count, min, max) = (latency.count(), latency.min(), latency.max());
        Ok(LatencyDocument { count, min, p50, p90, p99, p999, p9999, max, histogram: latency.encode()? })
    }

    /// The histogram itself. An error if its text is not what `of` writes.
    pub fn latency(&self) -> Result<Latency> {
        Latency::decode(&self.histogram).map_err(|why| {
            let name = format!("a histogram of {} latencies", self.count);
            ConfigError::Document { name, problem: DocumentProblem::Histogram(why.to_string()) }.into()
        })
    }

    /// The percentiles, in the order of `PERCENTILES`.
    pub fn percentiles(&self) -> [u64; PERCENTILES.len()] {
        [self.p50, self.p90, self.p99, self.p999, self.p9999]
    }

    /// Whether the figures are those of the histogram.
    pub(super) fn check(&self) -> std::result::Result<(), String> {
        let latency = Latency::decode(&self.histogram).map_err(|why| format!("its histogram: {why}"))?;
        let same = LatencyDocument::of(&latency).is_ok_and(|ours| {
            let ours = LatencyDocument { histogram: self.histogram.clone(), ..ours };
            ours == *self
        });
        if same { Ok(()) } else { Err("its figures are not those of its histogram".to_owned()) }
    }
}

/// What everyone measures: a shard, a client, several of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Latencies {
    /// Connects without a retransmission, from the intended start.
    #[serde(rename = "connect_latency_us")]
    pub connect: LatencyDocument,
    /// The same from the actual start.
    #[serde(rename = "connect_service_latency_us")]
    pub connect_service: LatencyDocument,
    /// Connects with a SYN or ACK sent again.
    #[serde(rename = "retransmitted_latency_us")]
    pub retransmitted: LatencyDocument,
    /// Echoes from the intended start.
    #[serde(rename = "echo_latency_us")]
    pub echo: LatencyDocument,
    /// The same from the actual start.
    #[serde(rename = "echo_service_latency_us")]
    pub echo_service: LatencyDocument,
}

/// Which of the latencies.
pub type Which = fn(&Latencies) -> &LatencyDocument;

impl Latencies {
    /// Each made by `make`, which is told how to find it in a shard.
    fn of(echo: EchoSource, make: impl Fn(&dyn Fn(&ShardSummary) -> &Latency) -> Result<Latency>) -> Result<Latencies> {
        let one =
            |which: &dyn Fn(&ShardSummary) -> &Latency| make(which).and_then(|latency| LatencyDocument::of(&latency));
        Ok(Latencies {
            connect: one(&|shard| &shard.connect)?,
            connect_service: one(&|shard| &shard.connect_service)?,
            retransmitted: one(&|shard| &shard.retransmitted)?,
            echo: one(&|shard| echo.of(shard).0)?,
            echo_service: one(&|shard| echo.of(shard).1)?,
        })
    }

    fn check(&self) -> std::result::Result<(), String> {
        let all: [(&str, Which); 5] = [
            ("connect_latency_us", |all| &all.connect),
            ("connect_service_latency_us", |all| &all.connect_service),
            ("retransmitted_latency_us", |all| &all.retransmitted),
            ("echo_latency_us", |all| &all.echo),
            ("echo_service_latency_us", |all| &all.echo_service),
        ];
        all.iter().try_for_each(|(name, which)| which(self).check().map_err(|why| format!("{name}: {why}")))
    }
}

/// A client's result, or that of several machines' clients.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClientDocument {
    /// Connections asked for: `live + failed + not_tried`. With a storm, `requested +
    /// storm.redialed` is `live + failed + storm.closed + not_tried`.
    pub requested: u64,
    /// Those that stood at the end, before closing.
    pub live: u64,
    /// Those that failed, at once or later.
    pub failed: u64,
    /// Those never tried, or given up in flight when the run was stopped.
    pub not_tried: u64,
    /// Whether everything that was asked for held to the end.
    pub complete: bool,
    /// Whether the run was stopped early.
    pub stopped: bool,
    /// How often the client's process was suspended: stopped, frozen, or its machine paused.
    #[serde(default)]
    pub suspensions: u64,
    /// How long in all. What was due by a schedule was put off by as much.
    #[serde(default)]
    pub suspended_seconds: f64,
    /// Failures by cause.
    pub errors: Causes,
    /// Connections that only the client believed in; they are among the failed.
    pub ghosts: u64,
    /// Connects that needed a retransmission.
    pub retransmitted: u64,
    /// Source ports that were passed over, because somebody else had them.
    #[serde(default)]
    pub source_ports_passed_over: u64,
    /// How far counters of the network stack moved.
    pub counters: NetCounters,
    /// The walls of its host that the run met, from evidence.
    #[serde(default)]
    pub walls: Vec<Explained>,
    /// How long the ramp took.
    pub ramp_seconds: f64,
    /// Connections that stood when the ramp ended.
    pub ramped: u64,
    /// Those for each second of the ramp.
    pub connects_per_second: f64,
    /// Whether the connects were paced, so that intended and actual start differ.
    pub paced: bool,
    /// The audits that were completed.
    pub audits: Vec<AuditResult>,
    /// What was measured.
    #[serde(flatten)]
    pub latencies: Latencies,
    /// Where the echo latencies come from.
    pub echo_source: EchoSource,
    /// Each shard's part; empty for several machines, which have their own.
    pub shards: Vec<ClientShardDocument>,
    /// How long closing took.
    pub close_seconds: f64,
    /// Its storm; a client that had none has no such name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storm: Option<StormDocument>,
    /// How it went over time; several machines have their own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeline: Option<Timeline>,
    /// Where and how it was made; several machines have their own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub about: Option<About>,
    /// The results that were merged into this one; a single client's has none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub machines: Vec<MachineDocument>,
}

/// One shard's part of a client's result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientShardDocument {
    /// Its number.
    pub shard: usize,
    /// Its core.
    pub core: usize,
    /// Connections it was asked for.
    pub requested: u64,
    /// Those that stood at the end.
    pub live: u64,
    /// Those that failed.
    pub failed: u64,
    /// What it measured.
    #[serde(flatten)]
    pub latencies: Latencies,
}

/// One machine's part of a merged result: all that its client wrote.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MachineDocument {
    /// What it is called.
    pub machine: String,
    /// Its client's result.
    #[serde(flatten)]
    pub result: ClientDocument,
}

impl ClientDocument {
    /// The document of a client run.
    pub fn of(summary: &Summary) -> Result<ClientDocument> {
        let echo_source = summary.echo_source();
        let shard = |(index, shard): (usize, &ShardSummary)| {
            Ok(ClientShardDocument {
                shard: index,
                core: shard.core,
                requested: shard.requested,
                live: shard.progress.live,
                failed: shard.progress.failed,
                latencies: Latencies::of(echo_source, |which| Ok(which(shard).clone()))?,
            })
        };
        let latencies = Latencies::of(echo_source, |which| summary.merged(which))?;
        Ok(ClientDocument {
            requested: summary.requested,
            live: summary.live(),
            failed: summary.failed(),
            not_tried: summary.not_tried(),
            complete: summary.complete(),
            stopped: summary.stopped,
            suspensions: summary.suspended.times,
            suspended_seconds: summary.suspended.time.as_secs_f64(),
            errors: summary.causes(),
            ghosts: summary.ghosts(),
            retransmitted: latencies.retransmitted.count,
            source_ports_passed_over: summary.passed_over(),
            counters: summary.counters.clone(),
            walls: summary.walls.clone(),
            ramp_seconds: summary.ramp.as_secs_f64(),
            ramped: summary.ramped,
            connects_per_second: summary.connects_per_second(),
            paced: summary.paced,
            audits: summary.audits.clone(),
            latencies,
            echo_source,
            shards: summary.shards.iter().enumerate().map(shard).collect::<Result<_>>()?,
            close_seconds: summary.close.as_secs_f64(),
            storm: StormDocument::of(summary)?,
            timeline: Some(summary.timeline.clone()),
            about: Some(summary.about.clone()),
            machines: Vec::new(),
        })
    }
}

/// What a file tells: a client's result, and its server's where the file has that too.
#[derive(Debug, Clone, PartialEq)]
pub struct Results {
    /// The client's, or that of several.
    pub client: ClientDocument,
    /// The server's.
    pub server: Option<ServerDocument>,
}

/// Reads what `--json` wrote: a client's document alone, that of a demo or of the lab, or the end of a
/// run's events. `name` tells in an error where the text comes from.
pub fn read(text: &[u8], name: &str) -> Result<Results> {
    let read = || {
        let mut found = None;
        for value in serde_json::Deserializer::from_slice(text).into_iter::<Value>() {
            let value = value.map_err(|e| format!("it is not JSON: {e}"))?;
            found = value.get("event").is_none().then_some(value).or(found);
        }
        let mut value = found.ok_or("it holds no document")?;
        let client = ["client", "clients"].into_iter().find_map(|part| value.get_mut(part).map(Value::take));
        // A server that is none of ours has counted other things.
        let server = value.get_mut("server").map(Value::take).and_then(|part| serde_json::from_value(part).ok());
        let client: ClientDocument = serde_json::from_value(client.unwrap_or(value))
            .map_err(|e| format!("it is not the result of a client: {e}"))?;
        client.check()?;
        Ok(Results { client, server })
    };
    // What the file says may be quoted there, and an error is one line.
    read().map_err(|why: String| {
        let problem = DocumentProblem::NoResult(why.replace(char::is_control, " "));
        ConfigError::Document { name: name.to_owned(), problem }.into()
    })
}

/// Reads a client's document from what `read` takes.
pub fn read_client(text: &[u8], name: &str) -> Result<ClientDocument> {
    read(text, name).map(|results| results.client)
}

impl ClientDocument {
    /// Whether its numbers add up, and its histograms are those of its figures.
    fn check(&self) -> std::result::Result<(), String> {
        let (redialed, closed) = self.storm.as_ref().map_or((0, 0), |storm| (storm.redialed, storm.closed));
        let sum = [self.failed, self.not_tried, closed].into_iter().try_fold(self.live, u64::checked_add);
        let failures = self.errors.values().try_fold(0, |sum: u64, count| sum.checked_add(*count));
        if sum != self.requested.checked_add(redialed) || failures != Some(self.failed) {
            return Err("its numbers do not add up".to_owned());
        }
        self.latencies.check()?;
        self.storm.as_ref().map_or(Ok(()), StormDocument::check)?;
        self.timeline.as_ref().map_or(Ok(()), Timeline::check)?;
        self.shards.iter().try_for_each(|shard| shard.latencies.check())?;
        self.machines.iter().try_for_each(|machine| machine.result.check())
    }
}

/// A server's result.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ServerDocument {
    /// Connections that stand at last.
    pub live: u64,
    /// Connections that stood when it was told to stop.
    pub live_at_stop: u64,
    /// The most at once.
    pub peak_live: u64,
    /// Connections accepted.
    pub accepted: u64,
    /// Connections that stood and are closed.
    pub closed: u64,
    /// Connections refused.
    pub refused: u64,
    /// Of these, to keep memory free.
    pub refused_for_memory: u64,
    /// The limit on memory for which it last refused.
    pub memory_wall: Option<String>,
    /// The walls of its host that it met, from evidence.
    pub walls: Vec<Explained>,
    /// Connections closed because their reader was too slow.
    pub slow_readers: u64,
    /// Connections closed because nothing was heard of them.
    pub silent: u64,
    /// Receives that brought bytes.
    pub messages: u64,
    /// Bytes received.
    pub bytes: u64,
    /// The highest resident memory of its process.
    pub resident_bytes: u64,
    /// Processor time of its process.
    pub cpu_user_seconds: f64,
    /// The same in the kernel.
    pub cpu_system_seconds: f64,
    /// Each shard's part.
    shards: Vec<ServerShardDocument>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct ServerShardDocument {
    shard: usize,
    core: usize,
    ports: Vec<u16>,
    rings: usize,
    slots: u64,
    live: u64,
    accepted: u64,
}

impl ServerDocument {
    /// The document of a server run.
    pub fn of(summary: &ServerSummary) -> ServerDocument {
        let total = summary.total();
        let shards = summary.shards.iter().enumerate().map(|(index, shard)| ServerShardDocument {
            shard: index,
            core: shard.plan.core,
            ports: shard.plan.ports.clone(),
            rings: shard.plan.rings.len(),
            slots: shard.plan.slots(),
            live: shard.counters.live,
            accepted: shard.counters.opened,
        });
        ServerDocument {
            live: total.live,
            live_at_stop: summary.live_at_stop,
            peak_live: summary.peak_live,
            accepted: total.opened,
            closed: total.closed,
            refused: total.refused,
            refused_for_memory: total.refused_for_memory,
            memory_wall: summary.memory_wall.clone(),
            walls: summary.walls.clone(),
            slow_readers: total.slow_readers,
            silent: total.silent,
            messages: total.messages,
            bytes: total.bytes_in,
            resident_bytes: summary.resident_bytes,
            cpu_user_seconds: summary.cpu_seconds.0,
            cpu_system_seconds: summary.cpu_seconds.1,
            shards: shards.collect(),
        }
    }
}
