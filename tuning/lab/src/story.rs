//! What was proved as the run went on: the leader notes it, and the report tells it.

use c1m::internal::results::AuditResult;
use serde::Serialize;

use crate::machine::Vitals;

/// What several clients proved at one time.
#[derive(Debug, Clone, Serialize)]
pub struct Proof {
    /// Connections proved live, in all.
    pub live: u64,
    /// Each client's audit.
    pub audits: Vec<AuditResult>,
    /// What the server counted; only where it must agree.
    pub server: Option<u64>,
}

/// What the leader noted as the run went on.
#[derive(Debug, Default)]
pub struct Story {
    /// Until every guest was ready.
    pub boot_seconds: f64,
    /// Until every client held its connections.
    pub ramp_seconds: f64,
    /// The audit of all.
    pub audit_seconds: f64,
    /// Until every client that was left had closed, and the server knew.
    pub close_seconds: f64,
    /// The audit of all.
    pub all: Option<Proof>,
    /// The audit of the others during the kill.
    pub survivors: Option<Proof>,
    /// The server's memory at the peak.
    pub peak: Option<Vitals>,
    /// The guest that was killed.
    pub killed: Option<String>,
}

impl Story {
    /// Connections live in the audit of all.
    pub fn proved(&self) -> u64 {
        self.all.as_ref().map_or(0, |proof| proof.live)
    }
}
