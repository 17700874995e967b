//! The JSON documents. Their names are an interface: keep them.

use std::collections::BTreeMap;
use std::io::Write;

use serde::Serialize;

use super::{ServerSummary, ShardSummary, Summary};
use crate::error::{Error, Result};
use crate::latency::Latency;

/// Percentiles of a histogram, in microseconds.
#[derive(Debug, Serialize)]
pub struct LatencyDocument {
    count: u64,
    min: u64,
    p50: u64,
    p90: u64,
    p99: u64,
    p999: u64,
    p9999: u64,
    max: u64,
}

impl From<&Latency> for LatencyDocument {
    fn from(latency: &Latency) -> LatencyDocument {
        let [p50, p90, p99, p999, p9999] = crate::latency::PERCENTILES.map(|(percent, _)| latency.percentile(percent));
        LatencyDocument { count: latency.count(), min: latency.min(), p50, p90, p99, p999, p9999, max: latency.max() }
    }
}

/// A client's result.
#[derive(Debug, Serialize)]
pub struct ClientDocument {
    requested: u64,
    live: u64,
    failed: u64,
    not_tried: u64,
    complete: bool,
    stopped: bool,
    errors: BTreeMap<String, u64>,
    ghosts: u64,
    retransmitted: u64,
    counters: BTreeMap<String, u64>,
    ramp_seconds: f64,
    connects_per_second: f64,
    audits: Vec<AuditDocument>,
    connect_latency_us: LatencyDocument,
    connect_service_latency_us: LatencyDocument,
    retransmitted_latency_us: LatencyDocument,
    echo_latency_us: LatencyDocument,
    echo_service_latency_us: LatencyDocument,
    echo_source: &'static str,
    shards: Vec<ClientShardDocument>,
    close_seconds: f64,
}

#[derive(Debug, Serialize)]
struct AuditDocument {
    round: u32,
    live: u64,
    lost: u64,
    wrong: u64,
}

#[derive(Debug, Serialize)]
struct ClientShardDocument {
    shard: usize,
    core: usize,
    requested: u64,
    live: u64,
    failed: u64,
    connect_latency_us: LatencyDocument,
    echo_latency_us: LatencyDocument,
}

/// The document of a client run.
pub fn client(summary: &Summary) -> Result<ClientDocument> {
    let (echo_source, echo) = summary.echo_source();
    let merged =
        |which: fn(&ShardSummary) -> &Latency| summary.merged(which).map(|latency| LatencyDocument::from(&latency));
    let shards = summary.shards.iter().enumerate().map(|(index, shard)| ClientShardDocument {
        shard: index,
        core: shard.core,
        requested: shard.requested,
        live: shard.progress.live,
        failed: shard.progress.failed,
        connect_latency_us: (&shard.connect).into(),
        echo_latency_us: echo(shard).into(),
    });
    let retransmitted = summary.merged(|shard| &shard.retransmitted)?;
    Ok(ClientDocument {
        requested: summary.requested,
        live: summary.live(),
        failed: summary.failed(),
        not_tried: summary.not_tried(),
        complete: summary.complete(),
        stopped: summary.stopped,
        errors: summary.causes().iter().map(|(cause, count)| (cause.name(), *count)).collect(),
        ghosts: summary.ghosts(),
        retransmitted: retransmitted.count(),
        counters: summary.counters.clone(),
        ramp_seconds: summary.ramp.as_secs_f64(),
        connects_per_second: summary.connects_per_second(),
        audits: summary
            .audits
            .iter()
            .map(|audit| AuditDocument { round: audit.round, live: audit.live, lost: audit.lost, wrong: audit.wrong })
            .collect(),
        connect_latency_us: merged(|shard| &shard.connect)?,
        connect_service_latency_us: merged(|shard| &shard.connect_service)?,
        retransmitted_latency_us: (&retransmitted).into(),
        echo_latency_us: (&summary.merged(echo)?).into(),
        echo_service_latency_us: merged(if echo_source == "messages" { |shard| &shard.echo_service } else { echo })?,
        echo_source,
        shards: shards.collect(),
        close_seconds: summary.close.as_secs_f64(),
    })
}

/// A server's result.
#[derive(Debug, Serialize)]
pub struct ServerDocument {
    live: u64,
    live_at_stop: u64,
    peak_live: u64,
    accepted: u64,
    closed: u64,
    refused: u64,
    refused_for_memory: u64,
    memory_wall: Option<String>,
    slow_readers: u64,
    messages: u64,
    bytes: u64,
    resident_bytes: u64,
    cpu_user_seconds: f64,
    cpu_system_seconds: f64,
    shards: Vec<ServerShardDocument>,
}

#[derive(Debug, Serialize)]
struct ServerShardDocument {
    shard: usize,
    core: usize,
    ports: Vec<u16>,
    rings: usize,
    slots: u64,
    live: u64,
    accepted: u64,
}

/// The document of a server run.
pub fn server(summary: &ServerSummary) -> ServerDocument {
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
        slow_readers: total.slow_readers,
        messages: total.messages,
        bytes: total.bytes_in,
        resident_bytes: summary.resident_bytes,
        cpu_user_seconds: summary.cpu_seconds.0,
        cpu_system_seconds: summary.cpu_seconds.1,
        shards: shards.collect(),
    }
}

/// Writes any document on lines of its own.
pub fn write(document: &impl Serialize, into: &mut dyn Write) -> Result<()> {
    let text = serde_json::to_string_pretty(document).map_err(|e| Error::bug(format!("JSON: {e}")))?;
    writeln!(into, "{text}").map_err(|e| {
        Error::host(
            format!("write JSON: {e}"),
            "the document is incomplete",
            "free disk space or choose another --json file",
        )
    })
}
