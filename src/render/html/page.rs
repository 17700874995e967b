//! The page of a run, from its headline to the facts for repeating it.

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::chart::Ink;
use super::figures::{self, OverTime};
use super::{Run, tables};
use crate::error::Result;
use crate::format::{bytes, count};
use crate::render::proof::proof;
use crate::results::document::{ClientDocument, LatencyOf};
use crate::results::{About, EchoSource};

/// The style of the page; the colours of the drawings follow it.
const STYLE: &str = include_str!("style.css");

/// The page of a run.
pub fn page(run: &Run) -> Result<String> {
    let over_time = OverTime::of(run.client).map(|all| all.markup()).transpose()?;
    let body = html! {
        (head(run))
        main {
            (tiles(run))
            @match over_time {
                Some(drawn) => (drawn),
                None => p.note { "This result has no timeline, so nothing is drawn over time." },
            }
            (measured(run.client)?)
            (storm(run.client)?)
            (fanout(run.client)?)
            (tables::failures(run.client, run.server))
            @if let Some(audits) = tables::audits(run.client) { (audits) }
            @if let Some(machines) = tables::machines(run.client) { (machines) }
            @if let Some(slept) = &run.client.hibernation {
                section { (tables::hibernation("Sleeping connections of the client", slept)) }
            }
            @if let Some(server) = run.server { (tables::server(server)) }
            (made(run))
        }
    };
    Ok(whole(&headline(run.client), &body))
}

/// A page with this body, in the style of all pages.
pub fn whole(title: &str, body: &Markup) -> String {
    let style: String = Ink::every().map(Ink::style).collect();
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { "c1m: " (title) }
                style { (PreEscaped(STYLE)) (PreEscaped(style)) }
            }
            body { (body) }
        }
    };
    page.into_string()
}

fn headline(client: &ClientDocument) -> String {
    match (&client.storm, &client.fanout) {
        (Some(storm), _) => format!("{} storm over {} connections", storm.scenario, count(client.requested)),
        (None, Some(fanout)) => {
            format!("{} publications to {} subscribers", count(fanout.published), count(fanout.subscribers))
        }
        (None, None) => format!("{} of {} connections live", count(client.live), count(client.requested)),
    }
}

fn head(run: &Run) -> Markup {
    let (class, verdict) = match run.client {
        ClientDocument { complete: true, storm: Some(_), .. } => {
            ("held", "Every connection that the storm left, and every one that was dialed in it, was live to the end.")
        }
        ClientDocument { complete: true, .. } => ("held", "All requested connections were live to the end."),
        ClientDocument { stopped: true, .. } => ("short", "The run was stopped early."),
        ClientDocument { fanout: Some(fanout), .. } if !fanout.exact => {
            ("short", "Not every subscriber received each publication exactly once.")
        }
        ClientDocument { storm: Some(_), .. } => {
            ("short", "Not every connection that the storm left, or that was dialed in it, was live to the end.")
        }
        _ => ("short", "Not all requested connections were live to the end."),
    };
    html! {
        header {
            h1 { (headline(run.client)) }
            p class=(class) { (verdict) }
            @if let Some(proof) = proof(run.client) { p.proof { (proof) } }
            @if !run.client.target.is_empty() { p.target { "target " (run.client.target) } }
            @if let Some(when) = when(run.client) { p.when { (when) } }
        }
    }
}

/// The time and the host of the run.
fn when(client: &ClientDocument) -> Option<String> {
    let first = std::iter::once(client).chain(client.machines.iter().map(|one| &one.result));
    let (timeline, about) = first.filter_map(|one| Some((one.timeline.as_ref()?, one.about.as_ref()?))).next()?;
    let began = std::time::UNIX_EPOCH + std::time::Duration::from_secs(timeline.began_unix_seconds as u64);
    let stamp = humantime::format_rfc3339_seconds(began).to_string().replace('T', " ").replace('Z', " UTC");
    Some(format!("{stamp}, on {}, Linux {}, c1m {}", about.host, about.kernel, about.version))
}

/// The figures that most readers look for first.
fn tiles(run: &Run) -> Markup {
    let client = run.client;
    let (connect, echo) = (&client.latencies.connect, &client.latencies.echo);
    let mut tiles = vec![
        ("requested", count(client.requested)),
        ("live at the end", count(client.live)),
        ("failed", count(client.failed)),
        ("connects per second", count(client.connects_per_second as u64)),
        ("ramp", format!("{:.1} s", client.ramp_seconds)),
    ];
    if client.not_tried > 0 {
        tiles.insert(3, ("not tried", count(client.not_tried)));
    }
    for (latency, p50, p99) in [(connect, "connect p50", "connect p99"), (echo, "echo p50", "echo p99")]
        .into_iter()
        .filter(|(one, ..)| one.count > 0)
    {
        tiles.extend([(p50, tables::time(latency.p50)), (p99, tables::time(latency.p99))]);
    }
    if let Some(server) = run.server {
        tiles.push(("server, resident at most", bytes(server.resident_bytes)));
    }
    html! { dl.tiles { @for (name, value) in tiles { div { dt { (name) } dd { (value) } } } } }
}

/// The curves and the table of a latency; nothing if none was measured.
fn latency(client: &ClientDocument, title: &'static str, caption: &str, which: LatencyOf) -> Result<Markup> {
    let drawn = figures::curves(client, title, caption, which)?;
    Ok(html! { @if let Some(drawn) = drawn { section { (drawn) (tables::latencies(client, which)) } } })
}

fn measured(client: &ClientDocument) -> Result<Markup> {
    let connects = if client.paced {
        "Connects without a retransmission, from the instant at which each was due."
    } else {
        "Connects without a retransmission, from the submission of the connect to its completion."
    };
    let source = format!("Echoes of {}, from the instant at which each was due.", client.echo_source.name());
    let uncorrected = client.echo_source != EchoSource::Audits;
    let late = "The same from the actual start, so delays before the start do not show here.";
    Ok(html! {
        (latency(client, "Connect latency", connects, |all| &all.connect)?)
        @if client.paced { (latency(client, "Connect latency, uncorrected", late, |all| &all.connect_service)?) }
        (latency(client, "Retransmitted connects", "Connects for which a SYN or ACK was retransmitted.", |all| &all.retransmitted)?)
        (handshakes(client)?)
        (latency(client, "Echo latency", &source, |all| &all.echo)?)
        @if uncorrected { (latency(client, "Echo latency, uncorrected", late, |all| &all.echo_service)?) }
    })
}

/// The TLS handshakes, full ones and resumed ones apart; nothing without TLS.
fn handshakes(client: &ClientDocument) -> Result<Markup> {
    let Some(tls) = &client.tls else { return Ok(html! {}) };
    let kinds = || [("full", &tls.full), ("resumed", &tls.resumed)].map(|(name, one)| (name.to_owned(), one));
    let caption = "TLS handshakes, from the end of the connect: with a certificate, or resuming a session.";
    let drawn = figures::percentiles("TLS handshakes", caption, kinds().to_vec(), None)?;
    Ok(html! {
        @if let Some(drawn) = drawn { section { (drawn) (tables::percentiles("kind", kinds().into_iter())) } }
    })
}

fn storm(client: &ClientDocument) -> Result<Markup> {
    let Some(storm) = &client.storm else { return Ok(html! {}) };
    let drawn = figures::stages(storm)?;
    Ok(html! { section { @if let Some(drawn) = drawn { (drawn) } (tables::storm(storm)) } })
}

fn fanout(client: &ClientDocument) -> Result<Markup> {
    let Some(fanout) = &client.fanout else { return Ok(html! {}) };
    let caption = "From the instant at which each publication was due to its receipt by each subscriber.";
    let all = ("all".to_owned(), &fanout.latency);
    let curve = figures::percentiles("Receipt latency", caption, Vec::new(), Some(all))?;
    let course = figures::publications(fanout)?;
    let lateness = fanout.lateness.iter().map(|late| ("published late by".to_owned(), late));
    let rows = [("receipts".to_owned(), &fanout.latency)].into_iter().chain(lateness);
    Ok(html! { section {
        @for drawn in [curve, course].into_iter().flatten() { (drawn) }
        (tables::percentiles("what", rows))
        (tables::fanout(fanout))
    } })
}

/// The facts that a reader needs to repeat the run.
fn made(run: &Run) -> Markup {
    let own = run.client.about.iter().map(|about| (String::new(), about));
    let others = run.client.machines.iter().filter_map(|one| Some((one.machine.clone(), one.result.about.as_ref()?)));
    let all: Vec<(String, &About)> = own.chain(others).collect();
    html! {
        @if !all.is_empty() || !run.notes.is_empty() {
            section {
                h2 { "How it was made" }
                @if !run.notes.is_empty() {
                    (tables::facts(run.notes.iter().map(|(name, value)| (name.as_str(), value.clone()))))
                }
                @for (name, about) in all {
                    @if !name.is_empty() { h3 { (name) } }
                    (tables::about(about))
                }
            }
        }
    }
}
