//! The schema of results: the exact names of each JSON object.

use std::collections::BTreeSet;
use std::path::Path;

use c1m::internal::results::document::read_client;
use serde_json::Value;

/// A result, or another document in JSON.
pub fn document(path: impl AsRef<Path>) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// A whole number in a JSON object.
pub fn number(document: &Value, name: &str) -> u64 {
    document[name].as_u64().unwrap_or_else(|| panic!("no number {name} in {document}"))
}

/// Checks that an object has exactly these names.
pub fn has_names(document: &Value, names: &[&str]) {
    let found: BTreeSet<&str> = document.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(found, names.iter().copied().collect());
}

const ABOUT_NAMES: &[&str] =
    &["run_id", "version", "command_line", "host", "kernel", "processor", "cores", "memory_bytes"];

const LATENCY_NAMES: &[&str] = &["count", "min", "p50", "p90", "p99", "p999", "p9999", "max", "histogram"];

/// The latencies of a client, and of each of its shards.
const LATENCIES: [&str; 5] = [
    "connect_latency_us",
    "connect_service_latency_us",
    "retransmitted_latency_us",
    "echo_latency_us",
    "echo_service_latency_us",
];

/// Checks the names of a client's result.
pub fn has_client_names(document: &Value) {
    has_client_names_and(document, &["timeline", "about"]);
    has_names(&document["about"], ABOUT_NAMES);
    for shard in shards(document) {
        has_names(shard, &[&["shard", "core", "requested", "live", "failed"], &LATENCIES[..]].concat());
        LATENCIES.iter().for_each(|name| has_names(&shard[name], LATENCY_NAMES));
    }
}

/// Checks the names of a merged result, and of each machine's result in it.
pub fn has_merged_names(document: &Value) {
    has_client_names_and(document, &["machines"]);
    for machine in document["machines"].as_array().unwrap() {
        has_client_names_and(machine, &["machine", "timeline", "about"]);
    }
}

/// Checks the names of a client's result that has `more` names, and that what reads results takes it.
pub fn has_client_names_and(document: &Value, more: &[&str]) {
    const OTHERS: [&str; 29] = [
        "requested",
        "live",
        "failed",
        "not_tried",
        "complete",
        "stopped",
        "protocol",
        "proof",
        "target",
        "keepalives",
        "goodbyes",
        "pushes",
        "sessions_resumed",
        "suspensions",
        "suspended_seconds",
        "errors",
        "ghosts",
        "retransmitted",
        "source_ports_passed_over",
        "counters",
        "walls",
        "ramp_seconds",
        "ramped",
        "connects_per_second",
        "paced",
        "audits",
        "echo_source",
        "shards",
        "close_seconds",
    ];
    let tls: &[&str] = if document.get("tls").is_some() { &["tls"] } else { &[] };
    has_names(document, &[&LATENCIES[..], &OTHERS[..], more, tls].concat());
    LATENCIES.iter().for_each(|name| has_names(&document[name], LATENCY_NAMES));
    for audit in document["audits"].as_array().unwrap() {
        has_names(audit, &["round", "live", "lost", "wrong"]);
    }
    if let Err(error) = read_client(document.to_string().as_bytes(), "the result") {
        panic!("{error}: {document}");
    }
}

/// Checks the names of a server's result.
pub fn has_server_names(document: &Value) {
    has_server_names_and(document, &[]);
}

/// Checks the names of a server's result that has `more` names.
pub fn has_server_names_and(document: &Value, more: &[&str]) {
    let names = [
        "live",
        "live_at_stop",
        "peak_live",
        "accepted",
        "closed",
        "refused",
        "refused_for_memory",
        "memory_wall",
        "walls",
        "slow_readers",
        "silent",
        "messages",
        "bytes",
        "resident_bytes",
        "cpu_user_seconds",
        "cpu_system_seconds",
        "shards",
    ];
    has_names(document, &[&names[..], more].concat());
    for shard in shards(document) {
        has_names(shard, &["shard", "core", "ports", "rings", "slots", "live", "accepted"]);
    }
}

fn shards(document: &Value) -> &[Value] {
    let shards = document["shards"].as_array().unwrap();
    assert!(!shards.is_empty(), "{document}");
    shards
}
