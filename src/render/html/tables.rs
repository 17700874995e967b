//! The tables and lists of a page.

use maud::{Markup, html};

use super::series;
use crate::format::{bytes, count, measured};
use crate::latency::PERCENTILES;
use crate::render::failures::{refused_in_part, sentence};
use crate::render::fanout as render;
use crate::results::document::{ClientDocument, LatencyDocument, LatencyOf, ServerDocument};
use crate::results::{About, AuditResult, FanoutDocument, HibernationDocument, PublicationDocument, StormDocument};
use crate::walls::Explained;

/// From this number of connections on, the memory of a process without connections hardly counts for each
/// connection.
const LARGE: u64 = 100_000;

/// A time in microseconds, in the unit that reads best.
pub fn time(us: u64) -> String {
    let text = crate::format::time(us);
    let unit = text.find(char::is_alphabetic).unwrap_or(text.len());
    format!("{}\u{a0}{}", &text[..unit], text[unit..].replace('u', "µ"))
}

/// A table in a box of its own, which scrolls if it is too wide. All columns but the first hold numbers.
pub fn table(heads: &[&str], rows: &[Vec<String>]) -> Markup {
    html! {
        div.wide tabindex="0" { table {
            thead { tr { @for head in heads { th scope="col" { (head) } } } }
            tbody { @for row in rows {
                tr.all[row.first().is_some_and(|name| name == "all")] {
                    @for (at, cell) in row.iter().enumerate() {
                        @if at == 0 { th scope="row" { (cell) } } @else { td { (cell) } }
                    }
                }
            } }
        } }
    }
}

/// A list of names with their values.
pub fn facts<'a>(facts: impl IntoIterator<Item = (&'a str, String)>) -> Markup {
    html! { dl.facts { @for (name, value) in facts { dt { (name) } dd { (value) } } } }
}

/// The percentiles of a latency, with a row for each shard or machine and one for all together.
pub fn latencies(document: &ClientDocument, which: LatencyOf) -> Markup {
    let (of, parts) = series::parts(document);
    let rows = parts.into_iter().map(|(name, one)| (name, which(one)));
    percentiles(of, rows.chain([("all".to_owned(), which(&document.latencies))]))
}

/// The percentiles of named latencies.
pub fn percentiles<'a>(of: &str, rows: impl Iterator<Item = (String, &'a LatencyDocument)>) -> Markup {
    let rows: Vec<_> = rows.map(|(name, one)| figures(name, one)).collect();
    table(&heads(&[of]), &rows)
}

/// The heads of columns with the figures of a latency, behind others.
fn heads<'a>(before: &[&'a str]) -> Vec<&'a str> {
    let percentiles = PERCENTILES.map(|(_, name)| name);
    before.iter().copied().chain(["count", "min"]).chain(percentiles).chain(["max"]).collect()
}

fn figures(name: String, latency: &LatencyDocument) -> Vec<String> {
    let all = [latency.min].into_iter().chain(latency.percentiles()).chain([latency.max]);
    [name, count(latency.count)].into_iter().chain(all.map(|us| measured(latency.count, time(us)))).collect()
}

/// The audits.
pub fn audits(document: &ClientDocument) -> Option<Markup> {
    let is_sample = document.audits.iter().any(|audit| audit.drawn_from.is_some());
    let row = |audit: &AuditResult| {
        let counts = [u64::from(audit.round), audit.live, audit.lost, audit.wrong].map(count);
        let drawn_from = is_sample.then(|| audit.drawn_from.map_or_else(|| "all".to_owned(), count));
        counts.into_iter().chain(drawn_from).collect::<Vec<_>>()
    };
    let rows: Vec<_> = document.audits.iter().map(row).collect();
    let mut heads = vec!["audit", "live", "lost", "wrong"];
    heads.extend(is_sample.then_some("drawn from"));
    (!rows.is_empty()).then(|| {
        html! {
            section {
                h2 { "Audits" }
                @if is_sample {
                    p { "In each audit connections that were drawn at random from the live ones had to prove themselves anew." }
                } @else {
                    p { "In each audit every live connection had to prove itself anew." }
                }
                (table(&heads, &rows))
            }
        }
    })
}

/// The machines of a merged result.
pub fn machines(document: &ClientDocument) -> Option<Markup> {
    let row = |name: &str, one: &ClientDocument| {
        let counts = [one.requested, one.live, one.failed, one.not_tried, one.connects_per_second as u64].map(count);
        let times = [one.ramp_seconds, one.close_seconds].map(|seconds| format!("{seconds:.1} s"));
        [vec![name.to_owned()], counts.to_vec(), times.to_vec()].concat()
    };
    let mut rows: Vec<_> = document.machines.iter().map(|one| row(&one.machine, &one.result)).collect();
    rows.push(row("all", document));
    let heads = ["machine", "requested", "live", "failed", "not tried", "connects/s", "ramp", "close"];
    (!document.machines.is_empty()).then(|| html! { section { h2 { "Machines" } (table(&heads, &rows)) } })
}

/// Failures by cause, counters that increased, and the walls that the run met.
pub fn failures(document: &ClientDocument, server: Option<&ServerDocument>) -> Markup {
    let moved: Vec<_> = document.counters.iter().filter(|(_, delta)| **delta > 0).collect();
    html! {
        section {
            h2 { "Failures" }
            @if document.errors.is_empty() {
                p { "No connection failed." }
            } @else {
                dl.causes { @for (cause, number) in &document.errors {
                    dt { b { (count(*number)) } " " (cause.name()) }
                    dd { (sentence(*cause, &document.protocol)) }
                } }
                @if let Some(remark) = refused_in_part(document) { p { (remark) "." } }
            }
            @if document.retransmitted > 0 {
                p { (count(document.retransmitted)) " connects needed a retransmission: a SYN or an ACK was dropped." }
            }
            @if !moved.is_empty() {
                p { "Counters of the client's network stack that moved: "
                    @for (at, (name, delta)) in moved.iter().enumerate() {
                        @if at > 0 { ", " } code { (name) } " +" (count(**delta))
                    } "."
                }
            }
            (walls("Walls that the client met", &document.walls))
            @if let Some(server) = server { (walls("Walls that the server met", &server.walls)) }
        }
    }
}

fn walls(title: &str, walls: &[Explained]) -> Markup {
    html! {
        @if !walls.is_empty() {
            h3 { (title) }
            dl.causes { @for wall in walls {
                dt { b { (wall.wall) } ": " (wall.saw) }
                dd { (wall.means) "; " (wall.cure) }
            } }
        }
    }
}

/// The server's figures.
pub fn server(server: &ServerDocument) -> Markup {
    let each = server.resident_bytes.checked_div(server.peak_live).filter(|_| server.peak_live >= LARGE);
    let resident = match each {
        Some(each) => format!("{} ({} for each connection)", bytes(server.resident_bytes), bytes(each)),
        None => bytes(server.resident_bytes),
    };
    let cpu = format!("{:.2} s user + {:.2} s system", server.cpu_user_seconds, server.cpu_system_seconds);
    let refused = match &server.memory_wall {
        Some(wall) => format!("{} ({wall})", count(server.refused)),
        None => count(server.refused),
    };
    html! {
        section {
            h2 { "Server" }
            (facts([
                ("most live at once", count(server.peak_live)),
                ("accepted", count(server.accepted)),
                ("closed", count(server.closed)),
                ("refused", refused),
                ("slow readers", count(server.slow_readers)),
                ("silent", count(server.silent)),
                ("messages", count(server.messages)),
                ("received", bytes(server.bytes)),
                ("resident at most", resident),
                ("processor time", cpu),
            ]))
            @if let Some(slept) = &server.hibernation { (hibernation("Sleeping connections of the server", slept)) }
            @if let Some(tls) = &server.tls {
                @for (name, counts) in tls.named() {
                    h3 { (name) " of the server" }
                    (facts(counts.into_iter().map(|(name, number)| (name, count(number)))))
                }
            }
            @for (name, counts) in server.spoken.named() {
                h3 { (name) " of the server" }
                (facts(counts.into_iter().map(|(name, number)| (name, count(number)))))
            }
        }
    }
}

/// What became of sleeping connections.
pub fn hibernation(title: &str, slept: &HibernationDocument) -> Markup {
    html! {
        h3 { (title) }
        (facts(slept.connections().into_iter().chain(slept.segments()).map(|(name, number)| (name, count(number)))))
        @if let Some(wakes) = slept.wakes() {
            p { "From the segment that woke a connection until its payload went to the service:" }
            (facts(wakes.map(|(name, us)| (name, time(us)))))
        }
    }
}

/// The publications of a fan-out.
pub fn fanout(fanout: &FanoutDocument) -> Markup {
    let shown = render::shown(&fanout.publications);
    let rows: Vec<_> = shown.into_iter().map(publication).collect();
    let heads = ["publication", "once", "missed", "twice", "lost", "p50", "p99", "p99.9", "last", "published late by"];
    html! {
        h3 { "Publications" }
        p { (render::heading(fanout)) }
        p { (render::verdict(fanout)) }
        p { (render::counts(&fanout.sum)) }
        @for remark in render::remarks(fanout) { p { (remark) } }
        (table(&heads, &rows))
        @if fanout.publications.len() > rows.len() {
            p.note { "Of " (count(fanout.publications.len() as u64)) " publications those are shown that were not exact, \
                and the slowest ones." }
        }
    }
}

fn publication(one: &PublicationDocument) -> Vec<String> {
    let counts = [one.number.into(), one.receipts.once, one.receipts.missed, one.receipts.twice, one.receipts.lost];
    counts.map(count).into_iter().chain(render::times(one)).collect()
}

/// The figures of a storm.
pub fn storm(storm: &StormDocument) -> Markup {
    let rows = storm.stages().map(|(name, stage)| {
        let mut row = figures(name.to_owned(), &stage.echo);
        row.insert(1, format!("{:.1} s", stage.seconds));
        row
    });
    let absorbed = match storm.absorbed_seconds {
        None => "not known".to_owned(),
        Some(0.0) => "at once".to_owned(),
        Some(seconds) => format!("after {seconds:.2} s"),
    };
    html! {
        (table(&heads(&["stage", "length"]), &rows))
        (facts([
            ("survivors", count(storm.survivors)),
            ("closed", count(storm.closed)),
            ("closed by the server", count(storm.closed_by_server)),
            ("dialed anew", count(storm.redialed)),
            ("of them live", count(storm.stood_anew)),
            ("lost", count(storm.lost)),
            ("wrong", count(storm.wrong)),
            ("absorbed", absorbed),
        ]))
    }
}

/// The run's machine, version and command line.
pub fn about(about: &About) -> Markup {
    let processor = if about.processor.is_empty() { "unknown" } else { &about.processor };
    html! {
        (facts([
            ("host", about.host.clone()),
            ("kernel", about.kernel.clone()),
            ("processor", format!("{processor}, {} cores allowed", about.cores)),
            ("memory", bytes(about.memory_bytes)),
            ("c1m", about.version.clone()),
        ]))
        pre { code { (about.shell_command()) } }
    }
}
