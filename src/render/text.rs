//! Results as text: tables, a histogram, and failures with their sentences.

use std::fmt::Write;

use super::proof::proof;
use super::{failures, fanout, storm};
use crate::error::Result;
use crate::format::{Escaped, bytes, count, measured, time};
use crate::latency::{Latency, PERCENTILES};
use crate::results::document::{ClientDocument, Latencies, LatencyDocument, LatencyOf};
use crate::results::{AuditResult, EchoSource, HibernationDocument, ServerSummary, TakeoverDocument};
use crate::walls::Explained;

/// Width of the longest bar of a histogram, in characters.
const BAR: usize = 40;

/// The most width of the column of names. Names come from files, and formatting panics at a width above 65,535.
const WIDEST_NAME: usize = 64;

/// The result of a client run, or the merged result of several machines. Writing to a String cannot fail, so the
/// results of `writeln!` are dropped.
pub fn client(document: &ClientDocument) -> Result<String> {
    let mut out = String::new();
    let _ = writeln!(out, "\n{}", sum(document));
    let _ = writeln!(out, "{}; {}", ramp(document), close(document));
    if !document.target.is_empty() {
        let _ = writeln!(out, "target {}", Escaped(&document.target));
    }
    if let Some(line) = proof(document) {
        let _ = writeln!(out, "{}", Escaped(&line));
    }
    if let Some(line) = suspended(document) {
        let _ = writeln!(out, "{line}");
    }
    if let Some(slept) = &document.hibernation {
        hibernation(&mut out, slept);
    }
    for machine in &document.machines {
        let name = Escaped(&machine.machine);
        let _ = writeln!(out, "  {name}: {}; {}", sum(&machine.result), ramp(&machine.result));
    }
    for result in &document.audits {
        let _ = writeln!(out, "{}{}", audit(result), auditors(document, result.round));
    }
    if let Some(seen) = &document.storm {
        storm::text(&mut out, seen);
    }
    if let Some(seen) = &document.fanout {
        fanout::text(&mut out, seen);
    }
    latencies(&mut out, document, "connect latency", |all| &all.connect);
    if document.paced {
        let title = "connect latency from the actual start (uncorrected)";
        latencies(&mut out, document, title, |all| &all.connect_service);
    }
    histogram(&mut out, &document.latencies.connect.latency()?);
    if document.retransmitted > 0 {
        let _ = writeln!(
            out,
            "\n{} connects needed a retransmission and are not in the table above: the host dropped a SYN or an ACK",
            count(document.retransmitted)
        );
        latencies(&mut out, document, "retransmitted connects", |all| &all.retransmitted);
    }
    if let Some(tls) = &document.tls {
        let (full, resumed) = (count(tls.full.count), count(tls.resumed.count));
        let _ = writeln!(out, "\nTLS handshakes: {full} full, {resumed} resumed; from the end of the connect");
        let rows = [("full", &tls.full), ("resumed", &tls.resumed)].into_iter().filter(|(_, one)| one.count > 0);
        table(&mut out, "TLS handshakes", "kind", rows.map(|(name, one)| (name.to_owned(), one)).collect());
    }
    let source = document.echo_source;
    latencies(&mut out, document, &format!("echo latency ({})", source.name()), |all| &all.echo);
    if source != EchoSource::Audits {
        let title = "echo latency from the actual start (uncorrected)";
        latencies(&mut out, document, title, |all| &all.echo_service);
    }
    failed(&mut out, document);
    Ok(out)
}

fn sum(document: &ClientDocument) -> String {
    let [requested, live, failed, not_tried] =
        [document.requested, document.live, document.failed, document.not_tried].map(count);
    let (redialed, closed) = document.storm.as_ref().map_or((0, None), |storm| (storm.redialed, Some(storm.closed)));
    let redialed = if redialed > 0 { format!(" + {} dialed in the storm", count(redialed)) } else { String::new() };
    let closed = closed.map(|closed| format!(" + {} closed by the storm", count(closed))).unwrap_or_default();
    format!("{requested} requested{redialed} = {live} live + {failed} failed{closed} + {not_tried} not tried")
}

fn close(document: &ClientDocument) -> String {
    let goodbyes = match document.goodbyes {
        0 => String::new(),
        answered => format!(", {} goodbyes answered", count(answered)),
    };
    let keepalives = match document.keepalives {
        0 => String::new(),
        answered => format!("; {} keepalives answered", count(answered)),
    };
    let pushes = match document.pushes {
        0 => String::new(),
        came => format!("; {} messages of subscriptions came", count(came)),
    };
    let sessions = match document.sessions_resumed {
        0 => String::new(),
        resumed => format!("; {} sessions resumed", count(resumed)),
    };
    format!("close {:.1} s{goodbyes}{keepalives}{pushes}{sessions}", document.close_seconds)
}

fn ramp(document: &ClientDocument) -> String {
    let longest = if document.machines.len() > 1 { " at the longest" } else { "" };
    let rate = count(document.connects_per_second as u64);
    format!("ramp {:.1} s{longest}, {rate} connects/s", document.ramp_seconds)
}

/// That the client was suspended, if it was.
fn suspended(document: &ClientDocument) -> Option<String> {
    let longest = if document.machines.len() > 1 { " at the longest" } else { "" };
    (document.suspensions > 0).then(|| {
        let (times, seconds) = (count(document.suspensions), document.suspended_seconds);
        format!(
            "suspended {times} times, {seconds:.1} s{longest}: schedules and holds were put off by that time; the latencies of operations in flight contain it, and so do the seconds and rates of phases"
        )
    })
}

/// The number of machines that took part in an audit; empty if all did.
fn auditors(document: &ClientDocument, round: u32) -> String {
    let all = document.machines.len();
    let has = |audits: &[AuditResult]| audits.iter().any(|audit| audit.round == round);
    let did = document.machines.iter().filter(|machine| has(&machine.result.audits)).count();
    if did == all { String::new() } else { format!(", of {did} of {all} machines") }
}

/// One line for an audit.
pub fn audit(audit: &AuditResult) -> String {
    let AuditResult { round, live, lost, wrong, drawn_from } = audit;
    let drawn = drawn_from.map_or(String::new(), |from| format!(", drawn at random from {}", count(from)));
    format!("audit {round}: {} live, {} lost, {} wrong{drawn}", count(*live), count(*lost), count(*wrong))
}

/// The totals of a server.
pub fn server(summary: &ServerSummary) -> String {
    let total = summary.total();
    let mut out = format!(
        "accepted {}, closed {}, refused {}, slow readers {}, silent {}, messages {}, {} received, {} sent\n",
        count(total.opened),
        count(total.closed),
        count(total.refused),
        count(total.slow_readers),
        count(total.silent),
        count(total.messages),
        bytes(total.bytes_in),
        bytes(total.bytes_out),
    );
    let _ = write!(out, "most live at once {}, ", count(summary.peak_live));
    let (user, system) = summary.cpu_seconds;
    let _ = match summary.resident_bytes {
        // Every process has some memory.
        0 => writeln!(out, "resident memory and cpu not readable in /proc"),
        resident => writeln!(out, "resident at most {}, cpu {user:.1} s user + {system:.1} s system", bytes(resident)),
    };
    if let Some(slept) = &summary.hibernation {
        hibernation(&mut out, slept);
    }
    for (name, counts) in summary.spoken.named() {
        let _ = writeln!(out, "{name}: {}", listed(&counts));
    }
    if let Some(tls) = &summary.tls {
        for (title, counts) in [("TLS handshakes", tls.handshakes()), ("TLS records", tls.records())] {
            let _ = writeln!(out, "{title}: {}", listed(&counts));
        }
    }
    if let Some(TakeoverDocument { taken_over, handed_over, lost }) = summary.takeover {
        let _ = writeln!(
            out,
            "taken over {}, handed over {}, lost in a takeover {}",
            count(taken_over),
            count(handed_over),
            count(lost)
        );
    }
    walls(&mut out, &summary.walls);
    out
}

/// Counts with their names.
fn listed(counts: &[(&str, u64)]) -> String {
    counts.iter().map(|(name, number)| format!("{name} {}", count(*number))).collect::<Vec<_>>().join(", ")
}

/// One line for what became of sleeping connections, and one for the segments that came for them.
fn hibernation(out: &mut String, slept: &HibernationDocument) {
    let named = slept.named();
    let (connections, segments) = named.split_at(5);
    let _ = writeln!(out, "sleeping connections: {}", listed(connections));
    let _ = writeln!(out, "for them: {}", listed(segments));
    if let Some(wakes) = slept.wakes() {
        let figures: Vec<_> = wakes.iter().map(|(name, us)| format!("{name} {}", time(*us))).collect();
        let _ = writeln!(out, "from the segment to the wake: {}", figures.join(", "));
    }
}

/// Writes a table with a row for each machine, or for each shard of a single client.
fn latencies(out: &mut String, document: &ClientDocument, title: &str, which: LatencyOf) {
    let (heading, mut rows): (_, Vec<(String, &Latencies)>) = if document.machines.is_empty() {
        ("shard", document.shards.iter().map(|shard| (shard.shard.to_string(), &shard.latencies)).collect())
    } else {
        let name = |name: &str| name.to_owned();
        ("machine", document.machines.iter().map(|one| (name(&one.machine), &one.result.latencies)).collect())
    };
    rows.push(("all".to_owned(), &document.latencies));
    table(out, title, heading, rows.into_iter().map(|(name, latencies)| (name, which(latencies))).collect());
}

/// Writes a table of latencies, whose last row is that of all. Writes nothing if that row is empty.
pub(super) fn table(out: &mut String, title: &str, heading: &str, rows: Vec<(String, &LatencyDocument)>) {
    if rows.last().is_none_or(|(_, all)| all.count == 0) {
        return;
    }
    let rows: Vec<_> = rows.into_iter().map(|(name, latency)| (Escaped(&name).to_string(), latency)).collect();
    let longest = rows.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    let width = longest.clamp(heading.len() + 1, WIDEST_NAME);
    let _ = write!(out, "\n{title}\n{heading:>width$}  {:>11}  {:>8}", "count", "min");
    for (_, name) in PERCENTILES {
        let _ = write!(out, "  {name:>8}");
    }
    let _ = writeln!(out, "  {:>8}", "max");
    for (name, latency) in rows {
        let _ = writeln!(out, "{name:>width$}  {}", figures(latency));
    }
}

fn figures(latency: &LatencyDocument) -> String {
    let mut line = format!("{:>11}", count(latency.count));
    for us in [latency.min].into_iter().chain(latency.percentiles()).chain([latency.max]) {
        let _ = write!(line, "  {:>8}", measured(latency.count, time(us)));
    }
    line
}

/// Writes bars between bounds of 1, 2 and 5 times the powers of ten.
fn histogram(out: &mut String, latency: &Latency) {
    let bounds: Vec<u64> = (0..10).flat_map(|power| [1, 2, 5].map(|digit| digit * 10u64.pow(power))).collect();
    let counts = latency.buckets(&bounds);
    let (Some(first), Some(last)) = (counts.iter().position(|n| *n > 0), counts.iter().rposition(|n| *n > 0)) else {
        return;
    };
    let most = counts.iter().copied().max().unwrap_or(1).max(1);
    let _ = writeln!(out);
    for (at, number) in counts.iter().enumerate().take(last + 1).skip(first) {
        let label = match bounds.get(at) {
            Some(bound) => format!("up to {:>6}", time(*bound)),
            None => "more        ".to_owned(),
        };
        let bar = (u128::from(*number) * BAR as u128).div_ceil(u128::from(most)) as usize;
        let share = *number as f64 * 100.0 / latency.count() as f64;
        let _ = writeln!(out, "  {label} {:<BAR$} {share:6.2} %  {}", "█".repeat(bar), count(*number));
    }
}

fn failed(out: &mut String, document: &ClientDocument) {
    if !document.errors.is_empty() {
        let _ = writeln!(out, "\nfailures by cause");
    }
    for (cause, number) in &document.errors {
        let _ = writeln!(
            out,
            "  {:>11}  {}: {}",
            count(*number),
            cause.name(),
            failures::sentence(*cause, &document.protocol)
        );
    }
    if let Some(remark) = failures::refused_in_part(document) {
        let _ = writeln!(out, "\n{remark}");
    }
    if document.source_ports_passed_over > 0 {
        let passed_over = count(document.source_ports_passed_over);
        let _ = writeln!(
            out,
            "\n{passed_over} source ports were passed over: other sockets use them, or they are in TIME_WAIT"
        );
    }
    let moved: Vec<String> = document
        .counters
        .iter()
        .filter(|(_, delta)| **delta > 0)
        .map(|(name, delta)| format!("{} +{}", Escaped(name), count(*delta)))
        .collect();
    if !moved.is_empty() {
        let hosts = if document.machines.len() > 1 { "these hosts" } else { "this host" };
        let _ = writeln!(out, "\ncounters of {hosts} that moved: {}", moved.join(", "));
    }
    walls(out, &document.walls);
}

fn walls(out: &mut String, walls: &[Explained]) {
    if !walls.is_empty() {
        let _ = writeln!(out, "\nwalls met");
    }
    for wall in walls {
        let _ = writeln!(out, "  {}", Escaped(&wall.to_string()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_histogram_shows_each_latency() {
        let mut latency = Latency::new().unwrap();
        [3, 30, 31, 32, 3_000].iter().for_each(|us| latency.record(Duration::from_micros(*us)));
        let mut out = String::new();
        histogram(&mut out, &latency);
        assert!(out.contains("up to    5us") && out.contains("up to   50us") && out.contains("60.00 %  3"), "{out}");
        assert_eq!(out.lines().filter(|line| line.contains('%')).count(), 10, "{out}");
    }
}
