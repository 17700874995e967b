//! The results of several machines' clients as one.
//!
//! Summed: connections (requested, live, failed, not tried, ghosts, retransmitted, and those live after the ramp),
//! failures by cause, counters, and the audits of each round over the machines that did that round. Merged, never
//! averaged: the histograms. The longest: ramp, close, and the time of suspension. The connect rate is the number
//! of connections of all ramps divided by the longest ramp; it is the rate of all machines together only if their
//! ramps began together. The merged result is complete if every machine's result is.

use std::collections::BTreeMap;
use std::slice;

use super::document::{ClientDocument, Latencies, LatencyDocument, LatencyOf, MachineDocument};
use super::{AuditResult, EchoSource, HibernationDocument, TlsDocument};
use crate::error::{ConfigError, DocumentProblem, Result};
use crate::failure::Causes;
use crate::host::NetCounters;

/// Merges results, each with the name of its machine. A result that was merged before contributes its machines; where
/// several machines have one name, the name of their merged result comes before it. Without any result the merged result is
/// empty. A storm's result is refused with a `ConfigError`, as the stages of several storms do not coincide, and so is that
/// of a fan-out, as its latencies are measured by one clock.
pub fn merge(results: Vec<MachineDocument>) -> Result<ClientDocument> {
    if let Some(storm) = results.iter().find(|machine| machine.result.storm.is_some()) {
        let name = storm.machine.clone();
        return Err(ConfigError::Document { name, problem: DocumentProblem::Storm }.into());
    }
    if let Some(fanout) = results.iter().find(|machine| machine.result.fanout.is_some()) {
        let name = fanout.machine.clone();
        return Err(ConfigError::Document { name, problem: DocumentProblem::Fanout }.into());
    }
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
        protocol: common(parts.iter().map(|part| part.protocol.as_str())),
        proof: common(parts.iter().map(|part| part.proof.as_str())),
        target: common(parts.iter().map(|part| part.target.as_str())),
        keepalives: sum(|part| part.keepalives),
        goodbyes: sum(|part| part.goodbyes),
        pushes: sum(|part| part.pushes),
        sessions_resumed: sum(|part| part.sessions_resumed),
        suspensions: sum(|part| part.suspensions),
        suspended_seconds: longest(|part| part.suspended_seconds),
        errors: errors(&parts),
        ghosts: sum(|part| part.ghosts),
        retransmitted: sum(|part| part.retransmitted),
        source_ports_passed_over: sum(|part| part.source_ports_passed_over),
        counters: counters(&parts),
        walls: parts.iter().flat_map(|part| part.walls.clone()).collect(),
        ramp_seconds,
        ramped,
        connects_per_second: if ramp_seconds > 0.0 { ramped as f64 / ramp_seconds } else { 0.0 },
        paced: parts.iter().any(|part| part.paced),
        audits: audits(&parts),
        latencies: latencies(&parts)?,
        echo_source: echo_source(&parts),
        shards: Vec::new(),
        close_seconds: longest(|part| part.close_seconds),
        storm: None,
        fanout: None,
        hibernation: hibernation(&parts)?,
        tls: TlsDocument::merged(parts.iter().filter_map(|part| part.tls.as_ref()))?,
        timeline: None,
        about: None,
        machines: machines(results),
    })
}

/// The machines of all results, each with a name of its own.
fn machines(results: Vec<MachineDocument>) -> Vec<MachineDocument> {
    let mut times: BTreeMap<String, usize> = BTreeMap::new();
    for one in &results {
        let own: &[MachineDocument] = &one.result.machines;
        let own = if own.is_empty() { slice::from_ref(one) } else { own };
        own.iter().for_each(|machine| *times.entry(machine.machine.clone()).or_default() += 1);
    }
    let machines = |mut one: MachineDocument| {
        let mut own = std::mem::take(&mut one.result.machines);
        for machine in own.iter_mut().filter(|machine| times[&machine.machine] > 1) {
            machine.machine = format!("{}/{}", one.machine, machine.machine);
        }
        if own.is_empty() { vec![one] } else { own }
    };
    results.into_iter().flat_map(machines).collect()
}

/// Sums numbers from files, which may have any value. A sum that overflows stays at `u64::MAX`.
fn sum(numbers: impl IntoIterator<Item = u64>) -> u64 {
    numbers.into_iter().fold(0, u64::saturating_add)
}

/// The word that all say, or `mixed`; those that say none are left out.
fn common<'a>(words: impl Iterator<Item = &'a str>) -> String {
    let mut words = words.filter(|word| !word.is_empty());
    let first = words.next().unwrap_or_default();
    if words.all(|word| word == first) { first.to_owned() } else { "mixed".to_owned() }
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

/// Sums the audits of each round, in the order of rounds.
fn audits(parts: &[&ClientDocument]) -> Vec<AuditResult> {
    let mut all: Vec<AuditResult> = Vec::new();
    for audit in parts.iter().flat_map(|part| &part.audits) {
        match all.binary_search_by_key(&audit.round, |total| total.round) {
            Err(at) => all.insert(at, *audit),
            Ok(at) => {
                let total = &mut all[at];
                let asked = |audit: &AuditResult| sum([audit.live, audit.lost, audit.wrong]);
                total.drawn_from = match (total.drawn_from, audit.drawn_from) {
                    (None, None) => None,
                    (one, other) => Some(sum([one.unwrap_or(asked(total)), other.unwrap_or(asked(audit))])),
                };
                total.live = sum([total.live, audit.live]);
                total.lost = sum([total.lost, audit.lost]);
                total.wrong = sum([total.wrong, audit.wrong]);
            }
        }
    }
    all
}

fn latencies(parts: &[&ClientDocument]) -> Result<Latencies> {
    let merged = |which: LatencyOf| LatencyDocument::merged(parts.iter().map(|part| which(&part.latencies)));
    Ok(Latencies {
        connect: merged(|all| &all.connect)?,
        connect_service: merged(|all| &all.connect_service)?,
        retransmitted: merged(|all| &all.retransmitted)?,
        echo: merged(|all| &all.echo)?,
        echo_service: merged(|all| &all.echo_service)?,
    })
}

fn hibernation(parts: &[&ClientDocument]) -> Result<Option<HibernationDocument>> {
    let mut all = parts.iter().filter_map(|part| part.hibernation.as_ref());
    let first = all.next().cloned();
    first.map(|first| all.try_fold(first, |sum, one| sum.and(one))).transpose()
}

/// A machine without echoes does not count for the source.
fn echo_source(parts: &[&ClientDocument]) -> EchoSource {
    let mut sources = parts.iter().filter(|part| part.latencies.echo.count > 0).map(|part| part.echo_source);
    let first = sources.next().unwrap_or(EchoSource::Audits);
    if sources.all(|source| source == first) { first } else { EchoSource::Mixed }
}

#[cfg(all(test, feature = "cli"))]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::error::Errno;
    use crate::failure::Cause;
    use crate::latency::Latency;
    use crate::render::json;
    use crate::render::text;
    use crate::results::document::read_client;
    use proptest::prelude::*;

    fn latency(values: &[u64]) -> LatencyDocument {
        let mut latency = Latency::new().unwrap();
        values.iter().for_each(|us| latency.record(Duration::from_micros(*us)));
        LatencyDocument::of(&latency).unwrap()
    }

    /// An arbitrary result of one machine.
    fn result() -> impl Strategy<Value = ClientDocument> {
        let counts = (0u64..1_000, 0u64..100, 0u64..10, 0u64..1_000);
        let times = (0.0f64..100.0, 0.0f64..100.0);
        let values = || prop::collection::vec(1u64..10_000_000, 0..20);
        let source = prop_oneof![Just(EchoSource::Messages), Just(EchoSource::Audits)];
        let rest = (0usize..3, any::<(bool, bool)>(), source);
        (counts, times, values(), values(), rest).prop_map(|(counts, times, connects, echoes, rest)| {
            let ((live, refused, not_tried, moved), (ramp, close)) = (counts, times);
            let (rounds, (complete, paced), echo_source) = rest;
            let complete = complete && refused + live % 3 + not_tried == 0;
            let errors = [(Cause::Errno(Errno::ECONNREFUSED), refused), (Cause::Ghost, live % 3)];
            ClientDocument {
                requested: live + refused + live % 3 + not_tried,
                live,
                failed: refused + live % 3,
                not_tried,
                complete,
                stopped: !complete,
                protocol: ["", "raw", "send-expect"][rounds].to_owned(),
                proof: ["end-to-end", "liveness"][usize::from(paced)].to_owned(),
                target: ["127.0.0.1 ports 1-2", "a (::1) ports 1-2"][usize::from(paced)].to_owned(),
                keepalives: moved,
                goodbyes: live,
                pushes: moved,
                sessions_resumed: live,
                suspensions: u64::from(!complete),
                suspended_seconds: 1.5,
                errors: errors.into_iter().filter(|(_, count)| *count > 0).collect(),
                ghosts: live % 3,
                retransmitted: 1,
                source_ports_passed_over: refused % 2,
                counters: [("ListenDrops".to_owned(), moved)].into_iter().collect(),
                walls: Vec::new(),
                ramp_seconds: ramp,
                ramped: live,
                connects_per_second: if ramp > 0.0 { live as f64 / ramp } else { 0.0 },
                paced,
                audits: (1..=rounds as u32)
                    .map(|round| {
                        let (lost, wrong) = (live / 2, live / 3);
                        let drawn_from = (live % 2 > 0).then_some(live);
                        AuditResult { round, live: live - lost - wrong, lost, wrong, drawn_from }
                    })
                    .collect(),
                latencies: Latencies {
                    connect: latency(&connects),
                    connect_service: latency(&connects[connects.len() / 2..]),
                    retransmitted: latency(&[3_000_000]),
                    echo: latency(&echoes),
                    echo_service: latency(&echoes[echoes.len() / 2..]),
                },
                echo_source,
                shards: Vec::new(),
                close_seconds: close,
                storm: None,
                fanout: None,
                hibernation: paced.then(|| HibernationDocument {
                    asleep: live,
                    wake_latency_us: (!echoes.is_empty()).then(|| latency(&echoes)),
                    ..HibernationDocument::default()
                }),
                tls: None,
                timeline: None,
                about: None,
                machines: Vec::new(),
            }
        })
    }

    fn named(machine: &str, result: &ClientDocument) -> MachineDocument {
        MachineDocument { machine: machine.to_owned(), result: result.clone() }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// The order and grouping of machines do not change the merged result.
        #[test]
        fn order_and_grouping_do_not_matter(a in result(), b in result(), c in result()) {
            let (a, b, c) = (named("a", &a), named("b", &b), named("c", &c));
            let all = merge(vec![a.clone(), b.clone(), c.clone()]).unwrap();
            let left = named("ab", &merge(vec![a.clone(), b.clone()]).unwrap());
            let right = named("bc", &merge(vec![b.clone(), c.clone()]).unwrap());
            prop_assert_eq!(&merge(vec![left, c.clone()]).unwrap(), &all);
            prop_assert_eq!(&merge(vec![a.clone(), right]).unwrap(), &all);
            let backwards = merge(vec![c, b, a]).unwrap();
            let machines = backwards.machines.iter().rev().cloned().collect();
            prop_assert_eq!(ClientDocument { machines, ..backwards }, all);
        }

        /// One machine merged alone gives its own figures.
        #[test]
        fn one_machine_keeps_its_figures(a in result()) {
            // Without echoes the source of the echoes has no meaning.
            let echo_source = if a.latencies.echo.count > 0 { a.echo_source } else { EchoSource::Audits };
            let a = ClientDocument { echo_source, ..a };
            let merged = merge(vec![named("a", &a)]).unwrap();
            prop_assert_eq!(&merged.machines, &vec![named("a", &a)]);
            prop_assert_eq!(ClientDocument { machines: Vec::new(), ..merged }, a);
        }

        /// A result, merged or not, is read back as it was written. Its histograms equal those of all latencies
        /// together.
        #[test]
        fn a_written_result_is_read_back(a in result(), b in result()) {
            let merged = merge(vec![named("a", &a), named("b", &b)]).unwrap();
            for document in [&a, &merged] {
                let text = json::text(document).unwrap();
                prop_assert_eq!(&read_client(text.as_bytes(), "a file").unwrap(), document);
            }
            prop_assert_eq!(merged.live, a.live + b.live);
            let connects = [&a, &b].map(|part| part.latencies.connect.latency().unwrap());
            let mut together = connects[0].clone();
            together.merge(&connects[1]).unwrap();
            prop_assert_eq!(merged.latencies.connect, LatencyDocument::of(&together).unwrap());
        }

        /// A machine's name comes from a file, and the standard library panics at a column wider than 65,535.
        #[test]
        fn a_long_name_can_be_shown(a in result()) {
            let name = "n".repeat(1 << 16);
            let merged = merge(vec![named(&name, &a)]).unwrap();
            prop_assert!(text::client(&merged).unwrap().contains(&name));
        }

        #[test]
        fn reading_survives_any_file(bytes: Vec<u8>, a in result(), at: prop::sample::Index, byte: u8) {
            prop_assert!(read_client(&bytes, "a file").is_err());
            let mut text = json::text(&a).unwrap().into_bytes();
            // A document without its last newline is still valid.
            prop_assert!(read_client(&text[..at.index(text.len() - 1)], "a file").is_err());
            let at = at.index(text.len());
            text[at] = byte;
            let _ = read_client(&text, "a file");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4))]

        /// Two merged results may each have a machine of one name.
        #[test]
        fn machines_of_one_name_are_told_apart(a in result(), b in result()) {
            let [one, other] = [&a, &b].map(|result| merge(vec![named("a", result), named("own", result)]).unwrap());
            let all = merge(vec![named("one", &one), named("other", &other), named("own", &b), named("c", &b)]).unwrap();
            let names: Vec<&str> = all.machines.iter().map(|machine| machine.machine.as_str()).collect();
            prop_assert_eq!(names, ["one/a", "one/own", "other/a", "other/own", "own", "c"]);
        }
    }
}
