//! The documents that `--json` writes, and that can be read back. The field names are an interface: keep them.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::check::Checked;
use super::{
    About, AuditResult, EchoSource, FanoutDocument, HibernationDocument, ServerSummary, ServerTlsDocument,
    ShardSummary, SpokenDocument, StormDocument, Summary, TakeoverDocument, Timeline, TlsDocument,
};
use crate::error::{ConfigError, DocumentProblem, Result};
use crate::failure::Causes;
use crate::host::NetCounters;
use crate::latency::{Latency, PERCENTILES};
use crate::walls::Explained;

/// A histogram: its figures in microseconds, and its counts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LatencyDocument {
    /// Number of latencies recorded.
    pub count: u64,
    /// The smallest; 0 when empty.
    pub min: u64,
    /// The 50th percentile.
    pub p50: u64,
    /// The 90th percentile.
    pub p90: u64,
    /// The 99th percentile.
    pub p99: u64,
    /// The 99.9th percentile.
    pub p999: u64,
    /// The 99.99th percentile.
    pub p9999: u64,
    /// The largest; 0 when empty.
    pub max: u64,
    /// All counts: HdrHistogram's V2 compressed form in base64.
    pub histogram: String,
}

impl LatencyDocument {
    /// The document of a histogram.
    pub fn of(latency: &Latency) -> Result<LatencyDocument> {
        let [p50, p90, p99, p999, p9999] = latency.percentiles();
        let (count, min, max) = (latency.count(), latency.min(), latency.max());
        Ok(LatencyDocument { count, min, p50, p90, p99, p999, p9999, max, histogram: latency.encode()? })
    }

    /// The histogram itself. Returns a `ConfigError` if the text is not a histogram.
    pub fn latency(&self) -> Result<Latency> {
        Latency::decode(&self.histogram).map_err(|why| {
            let name = format!("a histogram of {} latencies", self.count);
            ConfigError::Document { name, problem: DocumentProblem::Histogram(why.to_string()) }.into()
        })
    }

    /// The document of several histograms together. Returns a `ConfigError` if the text of one is not a histogram.
    pub(super) fn merged<'a>(all: impl IntoIterator<Item = &'a LatencyDocument>) -> Result<LatencyDocument> {
        let mut sum = Latency::new()?;
        for one in all {
            sum.merge(&one.latency()?)?;
        }
        LatencyDocument::of(&sum)
    }

    /// The percentiles, in the order of `PERCENTILES`.
    pub fn percentiles(&self) -> [u64; PERCENTILES.len()] {
        [self.p50, self.p90, self.p99, self.p999, self.p9999]
    }

    /// Checks that the figures are those of the histogram.
    pub(super) fn check(&self) -> Checked {
        let latency = Latency::decode(&self.histogram).map_err(|why| format!("its histogram: {why}"))?;
        let same = LatencyDocument::of(&latency).is_ok_and(|ours| {
            let ours = LatencyDocument { histogram: self.histogram.clone(), ..ours };
            ours == *self
        });
        if same { Ok(()) } else { Err("its figures are not those of its histogram".to_owned()) }
    }
}

/// The latencies of a shard, a client, or several clients.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Latencies {
    /// Connects without a retransmission, from the intended start.
    #[serde(rename = "connect_latency_us")]
    pub connect: LatencyDocument,
    /// Connects without a retransmission, from the actual start.
    #[serde(rename = "connect_service_latency_us")]
    pub connect_service: LatencyDocument,
    /// Connects for which a SYN or ACK was retransmitted.
    #[serde(rename = "retransmitted_latency_us")]
    pub retransmitted: LatencyDocument,
    /// Echoes from the intended start.
    #[serde(rename = "echo_latency_us")]
    pub echo: LatencyDocument,
    /// Echoes from the actual start.
    #[serde(rename = "echo_service_latency_us")]
    pub echo_service: LatencyDocument,
}

/// Reads one of the latencies.
pub type LatencyOf = fn(&Latencies) -> &LatencyDocument;

impl Latencies {
    /// All latencies. `make` makes each of them, given the function that reads it from a shard.
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

    pub(super) fn check(&self) -> Checked {
        let all: [(&str, LatencyOf); 5] = [
            ("connect_latency_us", |all| &all.connect),
            ("connect_service_latency_us", |all| &all.connect_service),
            ("retransmitted_latency_us", |all| &all.retransmitted),
            ("echo_latency_us", |all| &all.echo),
            ("echo_service_latency_us", |all| &all.echo_service),
        ];
        all.iter().try_for_each(|(name, which)| which(self).check().map_err(|why| format!("{name}: {why}")))
    }
}

/// A client's result, or the merged result of several clients.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClientDocument {
    /// Connections requested: `live + failed + not_tried`. With a storm, `requested +
    /// storm.redialed` is `live + failed + storm.closed + not_tried`.
    pub requested: u64,
    /// Connections that were live at the end, before closing.
    pub live: u64,
    /// Connections that failed, at once or later.
    pub failed: u64,
    /// Connections that were never tried, or were given up in flight when the run was stopped.
    pub not_tried: u64,
    /// Whether all requested connections were live to the end; with a storm, those that it left and those that were
    /// dialed in it.
    pub complete: bool,
    /// Whether the run was stopped early.
    pub stopped: bool,
    /// The protocol that was spoken; `mixed` over machines with different ones. Empty in results of an earlier
    /// version, which spoke `raw`.
    #[serde(default)]
    pub protocol: String,
    /// What proved a connection, see `Summary::proof`; `mixed` over machines with different proofs.
    #[serde(default)]
    pub proof: String,
    /// Where the connections went, see `Summary::target`; `mixed` over machines with different targets. Empty in results
    /// of an earlier version.
    #[serde(default)]
    pub target: String,
    /// Keepalives that were answered.
    #[serde(default)]
    pub keepalives: u64,
    /// Goodbyes that were answered before the connection was closed.
    #[serde(default)]
    pub goodbyes: u64,
    /// Messages of subscriptions that came unasked.
    #[serde(default)]
    pub pushes: u64,
    /// Connections for which the server went on with the session of an earlier one (MQTT).
    #[serde(default)]
    pub sessions_resumed: u64,
    /// How often the client's process was suspended: stopped, frozen, or its machine paused.
    #[serde(default)]
    pub suspensions: u64,
    /// Total time of suspension. Scheduled work was put off by that time.
    #[serde(default)]
    pub suspended_seconds: f64,
    /// Failures by cause.
    pub errors: Causes,
    /// Connections that were established for the client and never accepted by the server; they are among the
    /// failed.
    pub ghosts: u64,
    /// Connects that needed a retransmission.
    pub retransmitted: u64,
    /// Source ports passed over because another socket had them.
    #[serde(default)]
    pub source_ports_passed_over: u64,
    /// The increase of the network stack's counters.
    pub counters: NetCounters,
    /// The walls of the client's host that the run met, shown by evidence.
    #[serde(default)]
    pub walls: Vec<Explained>,
    /// Duration of the ramp.
    pub ramp_seconds: f64,
    /// Connections that were live when the ramp ended.
    pub ramped: u64,
    /// `ramped` divided by `ramp_seconds`.
    pub connects_per_second: f64,
    /// Whether the connects were paced, so that intended and actual start differ.
    pub paced: bool,
    /// The completed audits.
    pub audits: Vec<AuditResult>,
    /// The measured latencies.
    #[serde(flatten)]
    pub latencies: Latencies,
    /// The source of the echo latencies.
    pub echo_source: EchoSource,
    /// The result of each shard; empty in a merged result, whose machines have their own.
    pub shards: Vec<ClientShardDocument>,
    /// Duration of the close phase.
    pub close_seconds: f64,
    /// The storm. The field is missing from the result of a client without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storm: Option<StormDocument>,
    /// The fan-out. The field is missing from the result of a client without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fanout: Option<FanoutDocument>,
    /// What became of sleeping connections in the client. The field is missing from the result of a client none of whose
    /// connections may sleep.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hibernation: Option<HibernationDocument>,
    /// The TLS handshakes. The field is missing from the result of a client without TLS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsDocument>,
    /// The course of the run. It is missing from a merged result, whose machines have their own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeline: Option<Timeline>,
    /// The run's machine, version and command line. It is missing from a merged result, whose machines have their
    /// own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub about: Option<About>,
    /// The results that were merged into this one. The field is missing from a single client's result.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub machines: Vec<MachineDocument>,
}

/// The result of one shard of a client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientShardDocument {
    /// The shard's number.
    pub shard: usize,
    /// The shard's core.
    pub core: usize,
    /// Connections requested of the shard.
    pub requested: u64,
    /// Connections that were live at the end.
    pub live: u64,
    /// Connections that failed.
    pub failed: u64,
    /// The measured latencies.
    #[serde(flatten)]
    pub latencies: Latencies,
}

/// One machine's part of a merged result: its client's whole result.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MachineDocument {
    /// The machine's name.
    pub machine: String,
    /// The client's result.
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
            protocol: summary.protocol.to_owned(),
            proof: summary.proof.to_owned(),
            target: summary.target.clone(),
            keepalives: summary.sum(|progress| progress.kept_alive),
            goodbyes: summary.sum(|progress| progress.goodbyes),
            pushes: summary.sum(|progress| progress.pushed),
            sessions_resumed: summary.sum(|progress| progress.sessions),
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
            fanout: FanoutDocument::of(summary)?,
            hibernation: summary.hibernation.clone(),
            tls: TlsDocument::of(summary)?,
            timeline: Some(summary.timeline.clone()),
            about: Some(summary.about.clone()),
            machines: Vec::new(),
        })
    }

    /// The parts with measurements of their own, each with its name: the shards of a client, or the machines of a merged
    /// result. Before them the word for one.
    pub fn parts(&self) -> (&'static str, Vec<(String, &Latencies)>) {
        if self.machines.is_empty() {
            ("shard", self.shards.iter().map(|shard| (shard.shard.to_string(), &shard.latencies)).collect())
        } else {
            ("machine", self.machines.iter().map(|one| (one.machine.clone(), &one.result.latencies)).collect())
        }
    }
}

/// The results in a file: a client's, and its server's if the file has it.
#[derive(Debug, Clone, PartialEq)]
pub struct Results {
    /// The result of the client, or the merged result of several.
    pub client: ClientDocument,
    /// The server's result.
    pub server: Option<ServerDocument>,
}

/// Reads a document of `--json`: a client's document, that of a demo or of the lab, or the end of a run's events.
/// `name` is the name of the text's source, for errors. Returns a `ConfigError` if the text is no such document.
pub fn read(text: &[u8], name: &str) -> Result<Results> {
    documents(text).and_then(results).map_err(|problem| ConfigError::Document { name: name.to_owned(), problem }.into())
}

/// The document in a text that is no event. An error may quote the text, and must stay one line.
fn documents(text: &[u8]) -> std::result::Result<Value, DocumentProblem> {
    let mut found = Vec::new();
    for value in serde_json::Deserializer::from_slice(text).into_iter::<Value>() {
        let value = value.map_err(|e| no_result(format!("it is not JSON: {e}")))?;
        found.extend(value.get("event").is_none().then_some(value));
    }
    match found.len() {
        0 | 1 => found.pop().ok_or_else(|| no_result("it holds no document")),
        several => Err(DocumentProblem::Several(several)),
    }
}

fn results(mut value: Value) -> std::result::Result<Results, DocumentProblem> {
    let client = ["client", "clients"].into_iter().find_map(|part| value.get_mut(part).map(Value::take));
    if let (None, Some(other)) = (&client, other_kind(&value)) {
        return Err(no_result(format!("it is {other}, and has no client's figures")));
    }
    // The document of a foreign server has other fields, and is left out.
    let is_ours = |part: &Value| ["accepted", "shards"].into_iter().all(|field| part.get(field).is_some());
    let server = value.get_mut("server").map(Value::take).filter(is_ours);
    let client = client.unwrap_or(value);
    let version = client.pointer("/about/version").and_then(Value::as_str).map(one_line);
    let other_version = version.filter(|version| version != env!("CARGO_PKG_VERSION"));
    let refused = |what: &str, e: serde_json::Error| match &other_version {
        Some(version) => DocumentProblem::OtherVersion { version: version.clone(), why: one_line(&e.to_string()) },
        None => no_result(format!("{what}: {e}")),
    };
    let client: ClientDocument =
        serde_json::from_value(client).map_err(|e| refused("it is not the result of a client", e))?;
    let server: Option<ServerDocument> = server
        .map(serde_json::from_value)
        .transpose()
        .map_err(|e| refused("its server is not the result of a server", e))?;
    client.check().map_err(no_result)?;
    server.as_ref().map_or(Ok(()), ServerDocument::check).map_err(|why| no_result(format!("its server: {why}")))?;
    Ok(Results { client, server })
}

/// What else c1m writes as JSON, by a field that no client's result has.
const OTHERS: [(&str, &str); 4] = [
    ("accepted", "the result of a server"),
    ("rows", "a verdict of `c1m doctor`"),
    ("changes", "a comparison of two results"),
    ("measures", "the latencies of merged interval logs"),
];

/// What a document seems to be that is no client's result, and no part of one.
fn other_kind(value: &Value) -> Option<&'static str> {
    if ["requested", "about"].into_iter().any(|field| value.get(field).is_some()) {
        return None;
    }
    let other = OTHERS.into_iter().find(|(field, _)| value.get(field).is_some());
    Some(other.map_or("not the result of a run", |(_, what)| what))
}

fn no_result(why: impl AsRef<str>) -> DocumentProblem {
    DocumentProblem::NoResult(one_line(why.as_ref()))
}

fn one_line(text: &str) -> String {
    text.replace(char::is_control, " ")
}

/// Reads the client's document from a text that `read` accepts.
pub fn read_client(text: &[u8], name: &str) -> Result<ClientDocument> {
    read(text, name).map(|results| results.client)
}

/// A server's result.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ServerDocument {
    /// Connections that were live at the very end.
    pub live: u64,
    /// Connections that were live when the server was told to stop.
    pub live_at_stop: u64,
    /// The most at once.
    pub peak_live: u64,
    /// Connections accepted.
    pub accepted: u64,
    /// Connections that were established and are closed.
    pub closed: u64,
    /// Connections refused.
    pub refused: u64,
    /// Connections of `refused` that were refused to keep memory free.
    pub refused_for_memory: u64,
    /// The limit on memory for which the server last refused connections.
    pub memory_wall: Option<String>,
    /// The walls of the server's host that it met, shown by evidence.
    pub walls: Vec<Explained>,
    /// Connections closed because their peer read too slowly.
    pub slow_readers: u64,
    /// Connections closed because their peer was silent for longer than the idle timeout.
    pub silent: u64,
    /// Receives whose bytes were for the service; with TLS, records of data.
    pub messages: u64,
    /// Bytes received, without those that came after a close and were dropped.
    pub bytes: u64,
    /// The highest resident memory of the server's process.
    pub resident_bytes: u64,
    /// What became of sleeping connections. The field is missing from the result of a server none of whose connections
    /// may sleep.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hibernation: Option<HibernationDocument>,
    /// What was said on its connections: a field for each protocol that it speaks.
    #[serde(flatten)]
    pub spoken: SpokenDocument,
    /// What became of TLS. The field is missing from the result of a server without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<ServerTlsDocument>,
    /// What went from server to server. The field is missing from the result of a server that cannot be taken over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub takeover: Option<TakeoverDocument>,
    /// User processor time of the server's process.
    pub cpu_user_seconds: f64,
    /// System processor time of the server's process.
    pub cpu_system_seconds: f64,
    /// The result of each shard.
    pub(super) shards: Vec<ServerShardDocument>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct ServerShardDocument {
    shard: usize,
    core: usize,
    ports: Vec<u16>,
    rings: usize,
    slots: u64,
    pub(super) live: u64,
    pub(super) accepted: u64,
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
            hibernation: summary.hibernation.clone(),
            spoken: summary.spoken,
            tls: summary.tls,
            takeover: summary.takeover,
            cpu_user_seconds: summary.cpu_time.user,
            cpu_system_seconds: summary.cpu_time.system,
            shards: shards.collect(),
        }
    }
}
