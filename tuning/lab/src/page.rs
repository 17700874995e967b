//! The page of a run: c1m's, of all clients as one, with what only the lab knows.

use c1m::error::Result;
use c1m::internal::format::{bytes, count};
use c1m::internal::render::html;

use crate::args::Size;
use crate::report::Report;
use crate::story::Proof;

/// The page; `None` if no client told what it came to.
pub fn page(report: &Report) -> Result<Option<String>> {
    let Some(client) = &report.clients else { return Ok(None) };
    // The reference's server counts other things.
    let server = report.server.as_ref().and_then(|told| serde_json::from_value(told.clone()).ok());
    html::page(&html::Run { client, server: server.as_ref(), notes: &notes(report) }).map(Some)
}

fn notes(report: &Report) -> Vec<(String, String)> {
    let (setting, memory) = (&report.setting, &report.memory);
    let size = |size: &Size| format!("{} MiB, {} cores", size.memory_mib, size.cores);
    let proof = |proof: &Proof| format!("{} live", count(proof.live));
    let mut notes = vec![
        ("verdict", report.verdict.clone()),
        ("began", setting.started.clone()),
        ("programs", setting.programs.clone()),
        ("machines", format!("server {}; clients {} each", size(&setting.server), size(&setting.client))),
        ("processors", format!("{} on {} cores of the host", setting.accelerator, setting.host_cores)),
        ("kernel", setting.kernel.clone()),
        ("server's boot line", setting.server_command_line.clone()),
        ("clients' boot line", setting.client_command_line.clone()),
        ("live in the audit of all", report.audit_of_all.as_ref().map_or("none".to_owned(), proof)),
        ("server's memory at the peak", format!("{} free of {}", bytes(memory.peak.free), bytes(memory.peak.total))),
        ("at the least", format!("{} free", bytes(memory.least_free))),
        ("kernel objects (slab)", format!("{} at the peak", bytes(memory.peak.slab))),
        ("slab for each connection", format!("{:.0} B", memory.slab_bytes_per_connection_in_all)),
        ("server process", format!("{} resident", bytes(memory.peak.resident))),
    ];
    if let Some(killed) = &report.killed {
        let rest = report.audit_of_survivors.as_ref().map_or("none".to_owned(), proof);
        notes.push(("audit of the others", format!("{rest} while {killed} was killed")));
    }
    notes.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}
