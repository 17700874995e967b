//! The events that a client prints with `--json -`, one per line, read back.

use serde::Deserialize;

use super::AuditResult;
use super::document::ClientDocument;

/// A line of a client's output.
#[derive(Debug)]
pub enum ClientEvent {
    /// The progress of a phase.
    Progress(ClientProgress),
    /// An audit is complete.
    Audit(AuditResult),
    /// The run's result so far.
    Report(Box<ClientDocument>),
    /// The run's final result.
    Result(Box<ClientDocument>),
    /// Any other line.
    Other,
}

/// The progress of a client.
#[derive(Debug, Clone, Deserialize)]
pub struct ClientProgress {
    /// The kind of the current phase.
    pub phase: String,
    /// Whether the phase has ended.
    pub ended: bool,
    /// Connections that are established and proved.
    pub live: u64,
    /// Connections that failed.
    pub failed: u64,
    /// Connections that passed the current audit.
    pub audited: u64,
    /// Messages whose echo arrived.
    pub echoes: u64,
    /// Connections closed in the last phase.
    pub closed: u64,
}

#[derive(Deserialize)]
#[serde(tag = "event", rename_all = "lowercase")]
enum Line {
    Progress(ClientProgress),
    Audit(AuditResult),
    Report { result: Box<ClientDocument> },
}

impl ClientEvent {
    /// Reads a line.
    pub fn read(line: &str) -> ClientEvent {
        match serde_json::from_str(line) {
            Ok(Line::Progress(progress)) => ClientEvent::Progress(progress),
            Ok(Line::Audit(result)) => ClientEvent::Audit(result),
            Ok(Line::Report { result }) => ClientEvent::Report(result),
            Err(_) => serde_json::from_str(line).map_or(ClientEvent::Other, ClientEvent::Result),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_is_read_as_its_event() {
        let progress = r#"{"event":"progress","phase":"ramp","round":null,"ended":true,"seconds":0.1,"live":5,"failed":1,"dropped":0,"redialed":0,"to_go":0,"audited":0,"echoes":5,"closed":0}"#;
        assert!(matches!(
            ClientEvent::read(progress),
            ClientEvent::Progress(ClientProgress { live: 5, ended: true, .. })
        ));
        let audit = r#"{"event":"audit","round":1,"live":5,"lost":1,"wrong":2}"#;
        let ClientEvent::Audit(read) = ClientEvent::read(audit) else { panic!("no audit: {audit}") };
        assert_eq!(read, AuditResult { round: 1, live: 5, lost: 1, wrong: 2, drawn_from: None });
        for other in ["", "{}", "5", r#"{"event":"planned"}"#, r#"{"event":"report"}"#] {
            assert!(matches!(ClientEvent::read(other), ClientEvent::Other), "{other}");
        }
    }
}
