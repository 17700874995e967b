//! The results of several machines' clients as one.
//!
//! Summed: connections (requested, live, failed, not tried, ghosts, retransmitted, and those that
//! stood after the ramp), failures by cause, counters, and each round's audits over the machines
//! that did it. Merged, never averaged: the histograms. The longest: ramp and close. The rate is
//! what all ramps together brought to stand over the longest of them, so it is the rate of all as
//! far as the ramps began together. Complete is what was complete on every machine.

use super::json::{ClientDocument, Latencies, LatencyDocument, MachineDocument, Which};
use super::{AuditResult, EchoSource};
use crate::causes::Causes;
use crate::error::Result;
use crate::host::NetCounters;
use crate::latency::Latency;

/// Merges results that bear the names of their machines. One that was merged before brings its own
/// machines. No result at all makes an empty one.
pub fn merge(results: Vec<MachineDocument>) -> Result<ClientDocument> {
    let parts: Vec<&ClientDocument> = results.iter().map(|machine| &machine.result).collect();
    let sum = |which: fn(&ClientDocument) -> u64| sum(parts.iter().map(|part| which(part)));
    let longest = |which: fn(&ClientDocument) -> f64| parts.iter().map(|part| which(part)).fold(0.0, f64::max);
    let (ramped, ramp_seconds) = (sum(|part| part.ramped), longest(|part| part.ramp_seconds));
    Ok(ClientDocument {
        requested: sum(|part| part.requested),
        live: sum(|part| part.live),
        failed: sum(|part| part.failed),
        not_tried: sum(|part| part.not_tried),
        complete: parts.iter().all(|part| part.complete),
        stopped: parts.iter().any(|part| part.stopped),
        errors: errors(&parts),
        ghosts: sum(|part| part.ghosts),
        retransmitted: sum(|part| part.retransmitted),
        counters: counters(&parts),
        ramp_seconds,
        ramped,
        connects_per_second: if ramp_seconds > 0.0 { ramped as f64 / ramp_seconds } else { 0.0 },
        paced: parts.iter().any(|part| part.paced),
        audits: audits(&parts),
        latencies: latencies(&parts)?,
        echo_source: echo_source(&parts),
        shards: Vec::new(),
        close_seconds: longest(|part| part.close_seconds),
        machines: results.into_iter().flat_map(machines).collect(),
    })
}

fn machines(mut result: MachineDocument) -> Vec<MachineDocument> {
    let own = std::mem::take(&mut result.result.machines);
    if own.is_empty() { vec![result] } else { own }
}

/// Numbers of a file may be anything; what no count can reach stays at the end of its range.
fn sum(numbers: impl IntoIterator<Item = u64>) -> u64 {
    numbers.into_iter().fold(0, u64::saturating_add)
}

fn errors(parts: &[&ClientDocument]) -> Causes {
    let mut all = Causes::new();
    for (cause, number) in parts.iter().flat_map(|part| &part.errors) {
        let total = all.entry(*cause).or_default();
        *total = sum([*total, *number]);
    }
    all
}

fn counters(parts: &[&ClientDocument]) -> NetCounters {
    let mut all = NetCounters::new();
    for (name, moved) in parts.iter().flat_map(|part| &part.counters) {
        let total = all.entry(name.clone()).or_default();
        *total = sum([*total, *moved]);
    }
    all
}

/// In the order of their rounds.
fn audits(parts: &[&ClientDocument]) -> Vec<AuditResult> {
    let mut all: Vec<AuditResult> = Vec::new();
    for audit in parts.iter().flat_map(|part| &part.audits) {
        match all.binary_search_by_key(&audit.round, |total| total.round) {
            Err(at) => all.insert(at, *audit),
            Ok(at) => {
                let total = &mut all[at];
                total.live = sum([total.live, audit.live]);
                total.lost = sum([total.lost, audit.lost]);
                total.wrong = sum([total.wrong, audit.wrong]);
            }
        }
    }
    all
}

fn latencies(parts: &[&ClientDocument]) -> Result<Latencies> {
    let merged = |which: Which| {
        let mut all = Latency::new()?;
        for part in parts {
            all.merge(&which(&part.latencies).latency()?)?;
        }
        LatencyDocument::of(&all)
    };
    Ok(Latencies {
        connect: merged(|all| &all.connect)?,
        connect_service: merged(|all| &all.connect_service)?,
        retransmitted: merged(|all| &all.retransmitted)?,
        echo: merged(|all| &all.echo)?,
        echo_service: merged(|all| &all.echo_service)?,
    })
}

/// A machine without an echo has none to mix in.
fn echo_source(parts: &[&ClientDocument]) -> EchoSource {
    let mut sources = parts.iter().filter(|part| part.latencies.echo.count > 0).map(|part| part.echo_source);
    let first = sources.next().unwrap_or(EchoSource::Audits);
    if sources.all(|source| source == first) { first } else { EchoSource::Mixed }
}
