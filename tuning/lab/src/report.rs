//! What a run came to, for people and as JSON.

use std::collections::BTreeMap;
use std::fmt::Write;

use c1m::error::Result;
use c1m::internal::format::{bytes, count, time};
use c1m::internal::results::document::{ClientDocument, LatencyDocument, MachineDocument, read_client};
use c1m::internal::results::merge;
use serde::Serialize;
use serde_json::Value;

use crate::args::{Plan, Size};
use crate::lead::{Failure, Lab, SERVER};
use crate::machine::{Cache, Machine, Vitals};
use crate::profile::Profile;
use crate::story::{Proof, Story};

/// Free memory that a server must keep through the whole run, in bytes, and as a part of its memory: the smaller one counts.
const LEAST_FREE: (u64, u64) = (64 << 20, 8);

/// Caches below this share of a byte per connection are not shown.
const SHOWN_CACHE: f64 = 1.0;

/// How the machines were made.
#[derive(Debug, Clone, Serialize)]
pub struct Setting {
    /// When the run began, UTC.
    pub started: String,
    /// What served: `c1m`, `reference`, or the name of another program.
    pub programs: String,
    /// `kvm` or `tcg`.
    pub accelerator: &'static str,
    /// The kernel's release.
    pub kernel: String,
    /// The boot parameters' profile.
    pub profile: Profile,
    /// The server's boot command line.
    pub server_command_line: String,
    /// The clients' boot command line.
    pub client_command_line: String,
    /// Size of the server.
    pub server: Size,
    /// Size of each client.
    pub client: Size,
    /// Processors of the host.
    pub host_cores: usize,
}

/// The server's memory, in bytes.
#[derive(Debug, Serialize)]
pub struct Memory {
    /// Behind the audit of all; without one, at last.
    #[serde(flatten)]
    pub peak: Vitals,
    /// The least free memory of the whole run.
    pub least_free: u64,
    /// Growth of each cache from before the ramp to the peak, divided by the live connections.
    pub slab_bytes_per_connection: BTreeMap<String, f64>,
    /// All of them.
    pub slab_bytes_per_connection_in_all: f64,
}

/// Everything.
#[derive(Debug, Serialize)]
pub struct Report {
    /// How the machines were made.
    pub setting: Setting,
    /// Connections asked for.
    pub requested: u64,
    /// Live in the audit of all; without one, on the server when the run ended.
    pub live: u64,
    /// The most that the server held at one time: sockets of its system, looked at four times a second.
    pub most_held: u64,
    /// Connections that the doctor said the server could hold, asked before the ramp, and the wall that
    /// decides.
    pub doctor: Option<(u64, String)>,
    /// Failed, over all clients.
    pub failed: u64,
    /// Whether everything held.
    pub held: bool,
    /// The guest that ran into a wall, if one did.
    pub fallen: Option<String>,
    /// In one line: what held, or which guest ran into which wall.
    pub verdict: String,
    /// The last lines of that guest's logs.
    pub last_lines: Vec<String>,
    /// Notable console lines.
    pub notes: Vec<String>,
    /// Until every guest was ready.
    pub boot_seconds: f64,
    /// From the first connect until every client held.
    pub ramp_seconds: f64,
    /// The audit of all.
    pub audit_seconds: f64,
    /// From the word to close until the last client had, and the server knew.
    pub close_seconds: f64,
    /// All of it.
    pub seconds: f64,
    /// The audit of all.
    pub audit_of_all: Option<Proof>,
    /// Who was killed.
    pub killed: Option<String>,
    /// The audit of the others during the kill.
    pub audit_of_survivors: Option<Proof>,
    /// The server's memory.
    pub memory: Memory,
    /// Each client that was kept to the end, and all merged.
    pub clients: Option<ClientDocument>,
    /// The server's own result.
    pub server: Option<Value>,
}

impl Report {
    /// The report of a run that ended so.
    pub fn of(
        setting: Setting,
        plan: &Plan,
        lab: &Lab,
        story: Story,
        ended: std::result::Result<(), Failure>,
        seconds: f64,
    ) -> Result<Report> {
        let server = &lab.machines[SERVER];
        let live = story.all.as_ref().map_or(server.live, |proof| proof.live);
        let (held, verdict, place) = verdict(plan, lab, &story, &ended);
        Ok(Report {
            setting,
            requested: plan.connections(),
            live,
            // Sleeping connections have no sockets.
            most_held: server.most_held.max(server.most_live),
            doctor: server.doctor.clone(),
            failed: lab.machines.iter().skip(1).map(|client| client.failed).fold(0, u64::saturating_add),
            held,
            fallen: place.map(|place| lab.name(place).to_owned()),
            verdict,
            last_lines: place.map(|place| lab.tail(place)).unwrap_or_default(),
            notes: lab.notes(),
            boot_seconds: story.boot_seconds,
            ramp_seconds: story.ramp_seconds,
            audit_seconds: story.audit_seconds,
            close_seconds: story.close_seconds,
            seconds,
            memory: memory(server, story.peak.unwrap_or(server.vitals), live),
            audit_of_all: story.all,
            killed: story.killed,
            audit_of_survivors: story.survivors,
            clients: clients(lab)?,
            server: server.document.clone(),
        })
    }
}

/// Whether all held; in words; the guest that did not.
fn verdict(
    plan: &Plan,
    lab: &Lab,
    story: &Story,
    ended: &std::result::Result<(), Failure>,
) -> (bool, String, Option<usize>) {
    if let Err(Failure { guest, wall }) = ended {
        let who = guest.map_or("the lab", |place| lab.name(place));
        return (false, format!("{who}: {wall}"), *guest);
    }
    let server = &lab.machines[SERVER];
    let least = server.least_free.unwrap_or(0);
    let mut short = Vec::new();
    if server.refused_for_memory > 0 {
        short.push(refused(server, story));
    }
    if let Some(all) = &story.all {
        if all.live != plan.connections() {
            short.push(format!(
                "{} of {} connections live in the audit of all",
                count(all.live),
                count(plan.connections())
            ));
        }
        if all.server != Some(all.live) {
            short.push(format!(
                "the server counts {} live, the audits {}",
                count(all.server.unwrap_or(0)),
                count(all.live)
            ));
        }
    }
    if let Some(survivors) = &story.survivors {
        let lost = survivors.audits.iter().flat_map(|audit| [audit.lost, audit.wrong]).fold(0, u64::saturating_add);
        if lost > 0 {
            short.push(format!("{} connections of the others did not survive the kill", count(lost)));
        }
    }
    // Those of the client that is killed later are in what it told before.
    let of_client = |client: &Machine| client.document.as_ref().and_then(|told| told["failed"].as_u64()).unwrap_or(0);
    let failed = lab.machines.iter().skip(1).map(of_client).fold(0, u64::saturating_add);
    if failed > 0 {
        short.push(format!("{} connections failed", count(failed)));
    }
    let wanted = LEAST_FREE.0.min((plan.server.memory_mib << 20) / LEAST_FREE.1);
    if least < wanted {
        short.push(format!("server: only {} were free at the least, {} are wanted", bytes(least), bytes(wanted)));
    }
    if !short.is_empty() {
        return (false, short.join("; "), None);
    }
    (true, format!("held: {} connections live in the audit of all, 0 failed", count(plan.connections())), None)
}

/// That the server stopped accepting to keep memory free, and how far it had got.
fn refused(server: &Machine, story: &Story) -> String {
    let live = count(story.all.as_ref().map_or(server.live, |proof| proof.live));
    let wall = server.document.as_ref().and_then(|document| document["memory_wall"].as_str()).unwrap_or("memory");
    let refused = count(server.refused_for_memory);
    format!("server: out of memory to give: it holds {live} connections and refused {refused} more ({wall})")
}

fn clients(lab: &Lab) -> Result<Option<ClientDocument>> {
    let mut parts = Vec::new();
    for (place, client) in lab.machines.iter().enumerate().skip(1) {
        if let Some(document) = &client.document {
            let result = read_client(document.to_string().as_bytes(), lab.name(place))?;
            parts.push(MachineDocument { machine: lab.name(place).to_owned(), result });
        }
    }
    if parts.is_empty() { Ok(None) } else { merge::merge(parts).map(Some) }
}

fn memory(server: &Machine, peak: Vitals, live: u64) -> Memory {
    let mut growth = BTreeMap::new();
    if let ([before, .., after], true) = (server.caches.as_slice(), live > 0) {
        let sum = |caches: &[Cache], name: &str| {
            caches.iter().filter(|c| c.name == name).map(|c| c.bytes).fold(0, u64::saturating_add)
        };
        for cache in after {
            let grown = sum(after, &cache.name) as f64 - sum(before, &cache.name) as f64;
            growth.insert(cache.name.clone(), grown / live as f64);
        }
    }
    Memory {
        peak,
        least_free: server.least_free.unwrap_or(0),
        slab_bytes_per_connection_in_all: growth.values().sum(),
        slab_bytes_per_connection: growth,
    }
}

/// The report for people. Writing to a String cannot fail, so the results of `writeln!` are dropped.
pub fn text(report: &Report) -> String {
    let mut out = String::new();
    let setting = &report.setting;
    let size =
        |size: &Size| format!("{} MiB, {} core{}", size.memory_mib, size.cores, if size.cores == 1 { "" } else { "s" });
    let _ = writeln!(out, "\n{}", report.verdict);
    for line in report.last_lines.iter().chain(&report.notes) {
        let _ = writeln!(out, "  | {line}");
    }
    let _ = writeln!(out, "\nprograms    {}", setting.programs);
    let _ = writeln!(out, "machines    server {}; clients {} each", size(&setting.server), size(&setting.client));
    let _ = writeln!(out, "kernel      {}, {}, {} host cores", setting.kernel, setting.accelerator, setting.host_cores);
    let _ = writeln!(out, "boot line   {}", setting.server_command_line);
    let _ = writeln!(
        out,
        "times       boot {:.1} s, ramp {:.1} s, audit {:.1} s, close {:.1} s, in all {:.1} s",
        report.boot_seconds, report.ramp_seconds, report.audit_seconds, report.close_seconds, report.seconds
    );
    let seen = if report.audit_of_all.is_some() { "live in the audit of all" } else { "live on the server at last" };
    let [requested, live, most, failed] = [report.requested, report.live, report.most_held, report.failed].map(count);
    let _ = writeln!(out, "connections {requested} requested, {live} {seen}, {most} at most, {failed} failed");
    if let Some((holds, wall)) = &report.doctor {
        let _ = writeln!(out, "doctor      the server can hold {}; the wall that decides: {wall}", count(*holds));
    }
    proof(&mut out, "audit", report.audit_of_all.as_ref());
    if let Some(killed) = &report.killed {
        proof(&mut out, &format!("audit while {killed} was killed"), report.audit_of_survivors.as_ref());
    }
    latencies(&mut out, report.clients.as_ref());
    memory_text(&mut out, report);
    out
}

fn proof(out: &mut String, what: &str, proof: Option<&Proof>) {
    let Some(proof) = proof else { return };
    let each: Vec<_> = proof.audits.iter().map(|audit| count(audit.live)).collect();
    let _ = write!(out, "{what}: {} = {} live", each.join(" + "), count(proof.live));
    let _ = match proof.server {
        Some(server) => writeln!(out, "; the server counts {}", count(server)),
        None => writeln!(out),
    };
}

fn latencies(out: &mut String, clients: Option<&ClientDocument>) {
    let Some(all) = clients else { return };
    let _ = writeln!(out, "\nconnect latency");
    let heads = ["min", "p50", "p90", "p99", "p99.9", "p99.99", "max"];
    let _ = writeln!(out, "{:>10} {:>11} {}", "machine", "count", heads.map(|head| format!("{head:>9}")).join(" "));
    let row = |name: &str, latency: &LatencyDocument| {
        let figures = [&[latency.min][..], &latency.percentiles(), &[latency.max]].concat();
        let cells: Vec<_> = figures.into_iter().map(|us| format!("{:>9}", time(us))).collect();
        format!("{name:>10} {:>11} {}", count(latency.count), cells.join(" "))
    };
    for machine in &all.machines {
        let _ = writeln!(out, "{}", row(&machine.machine, &machine.result.latencies.connect));
    }
    let _ = writeln!(out, "{}", row("all", &all.latencies.connect));
    if all.retransmitted > 0 {
        let _ = writeln!(out, "{} more connects needed a retransmission", count(all.retransmitted));
    }
}

fn memory_text(out: &mut String, report: &Report) {
    let memory = &report.memory;
    let _ = writeln!(
        out,
        "\nserver memory at the peak: {} in all, {} free ({} at the least), {} slab, {} resident in the server process",
        bytes(memory.peak.total),
        bytes(memory.peak.free),
        bytes(memory.least_free),
        bytes(memory.peak.slab),
        bytes(memory.peak.resident)
    );
    let mut caches: Vec<_> =
        memory.slab_bytes_per_connection.iter().filter(|(_, each)| **each >= SHOWN_CACHE).collect();
    caches.sort_by(|a, b| b.1.total_cmp(a.1));
    if caches.is_empty() {
        return;
    }
    let _ = writeln!(out, "slab, bytes per connection: {:.0} in all", memory.slab_bytes_per_connection_in_all);
    for (name, each) in caches {
        let _ = writeln!(out, "{each:>8.0}  {name}");
    }
}
