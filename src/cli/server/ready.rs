//! What `c1m server` says as an event when it accepts.

use serde_json::{Value, json};

use crate::cli::args::ServerArguments;
use crate::plan::IdleBackend;
use crate::server::Server;
use crate::sys;

/// The event of a server that accepts.
pub fn event<M: Send + 'static>(server: &Server<M>, arguments: &ServerArguments) -> Value {
    let (options, files) = (server.options(), server.raised().files);
    let shards: Vec<_> = server
        .plans()
        .enumerate()
        .map(|(shard, plan)| json!({ "shard": shard, "core": plan.core, "ports": plan.ports, "rings": plan.rings.len(), "slots": plan.slots() }))
        .collect();
    let park = if server.idle_choice().park == IdleBackend::Filter { "filter" } else { "poll" };
    let mut ready = json!({
        "event": "ready", "pid": std::process::id(), "kernel": sys::kernel_release(), "nofile": files.1.soft,
        "backlog": server.backlog(), "park": park, "shards": shards, "metrics": server.metrics_url(),
        "service": arguments.service.service.name(), "protocol": arguments.service.protocol.name(),
    });
    if let (Some(silence), Some(awake)) = (options.hibernate, server.awake()) {
        ready["hibernate_seconds"] = silence.as_secs_f64().into();
        ready["awake"] = awake.into();
    }
    if let Some(handshakes) = server.handshakes() {
        ready["handshakes"] = handshakes.into();
    }
    if let Some(bytes) = server.incomplete_records() {
        ready["incomplete_records_bytes"] = bytes.into();
    }
    if options.takeover.is_some() {
        let (taken_over, lost) = server.taken_over();
        ready["taken_over"] = taken_over.into();
        ready["lost_in_takeover"] = lost.into();
    }
    if let Some(pauses) = server.pauses().filter(|pauses| pauses.count() > 0) {
        let at = |percent| pauses.percentile(percent);
        let (p50, p99, max) = (at(50.0), at(99.0), pauses.max());
        ready["takeover_pause_us"] = json!({ "count": pauses.count(), "p50": p50, "p99": p99, "max": max });
    }
    ready
}
