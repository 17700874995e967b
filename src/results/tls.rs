//! What became of TLS.

use serde::{Deserialize, Serialize};

use super::check::Checked;
use super::document::LatencyDocument;
use super::{HandshakeLatencies, Summary};
use crate::error::Result;
use crate::latency::Latency;
use crate::stats::Snapshot;

/// The TLS handshakes of a client. The result of a client without TLS has no such part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TlsDocument {
    /// Handshakes with a certificate, from the end of the connect.
    #[serde(rename = "full_handshake_latency_us")]
    pub full: LatencyDocument,
    /// Handshakes that resumed a session, from the end of the connect.
    #[serde(rename = "resumed_handshake_latency_us")]
    pub resumed: LatencyDocument,
}

impl TlsDocument {
    /// The handshakes of all shards; `None` without TLS.
    pub(super) fn of(summary: &Summary) -> Result<Option<TlsDocument>> {
        let mut shards = summary.shards.iter().filter_map(|shard| shard.handshakes.as_ref()).peekable();
        if shards.peek().is_none() {
            return Ok(None);
        }
        let (mut full, mut resumed) = (Latency::new()?, Latency::new()?);
        for one in shards {
            full.merge(&one.full)?;
            resumed.merge(&one.resumed)?;
        }
        Ok(Some(TlsDocument { full: LatencyDocument::of(&full)?, resumed: LatencyDocument::of(&resumed)? }))
    }

    /// The histograms themselves.
    pub fn latencies(&self) -> Result<HandshakeLatencies> {
        Ok(HandshakeLatencies { full: self.full.latency()?, resumed: self.resumed.latency()? })
    }

    /// The handshakes of several results together; `None` if none has any.
    pub(super) fn merged<'a>(all: impl Iterator<Item = &'a TlsDocument>) -> Result<Option<TlsDocument>> {
        let all: Vec<&TlsDocument> = all.collect();
        if all.is_empty() {
            return Ok(None);
        }
        let merged =
            |which: fn(&TlsDocument) -> &LatencyDocument| LatencyDocument::merged(all.iter().copied().map(which));
        Ok(Some(TlsDocument { full: merged(|one| &one.full)?, resumed: merged(|one| &one.resumed)? }))
    }

    pub(super) fn check(&self) -> Checked {
        let all = [("full_handshake_latency_us", &self.full), ("resumed_handshake_latency_us", &self.resumed)];
        all.iter().try_for_each(|(name, one)| one.check().map_err(|why| format!("{name}: {why}")))
    }
}

/// The TLS of a server. The result of a server without TLS has no such part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ServerTlsDocument {
    /// Handshakes that were completed with a certificate.
    pub handshakes_full: u64,
    /// Handshakes that resumed a session.
    pub handshakes_resumed: u64,
    /// Handshakes of either kind that agreed on TLS 1.2.
    #[serde(default)]
    pub handshakes_tls12: u64,
    /// Handshakes that the peer gave up with an alert.
    pub handshakes_alerted: u64,
    /// Handshakes that the server gave up because of what the peer sent.
    pub handshakes_refused: u64,
    /// Handshakes that were not over in time.
    pub handshakes_timed_out: u64,
    /// Connections that ended before their handshake was over, without a word.
    pub handshakes_abandoned: u64,
    /// Records that were opened.
    pub records_opened: u64,
    /// Records that were sealed, without alerts and KeyUpdates.
    pub records_sealed: u64,
    /// Connections closed because no more bytes of incomplete records could be kept.
    pub records_refused: u64,
    /// Connections closed because an incomplete record was not whole in time.
    pub records_timed_out: u64,
    /// Alerts that ended an established connection, sent by the server.
    pub alerts_sent: u64,
    /// Alerts that ended an established connection, sent by a peer.
    pub alerts_received: u64,
    /// KeyUpdates that the server sent.
    pub key_updates: u64,
}

impl ServerTlsDocument {
    /// What was counted.
    pub fn of(counted: &Snapshot) -> ServerTlsDocument {
        ServerTlsDocument {
            handshakes_full: counted.handshakes_full,
            handshakes_resumed: counted.handshakes_resumed,
            handshakes_tls12: counted.handshakes_tls12,
            handshakes_alerted: counted.handshakes_alerted,
            handshakes_refused: counted.handshakes_refused,
            handshakes_timed_out: counted.handshakes_timed_out,
            handshakes_abandoned: counted.handshakes_abandoned,
            records_opened: counted.records_opened,
            records_sealed: counted.records_sealed,
            records_refused: counted.records_refused,
            records_timed_out: counted.records_timed_out,
            alerts_sent: counted.alerts_sent,
            alerts_received: counted.alerts_received,
            key_updates: counted.key_updates,
        }
    }

    /// The handshakes, and the records with what ended established connections: each part with its name and its counts, in
    /// the order in which they are shown.
    pub fn named(&self) -> [(&'static str, Vec<(&'static str, u64)>); 2] {
        [("TLS handshakes", self.handshakes()), ("TLS records", self.records())]
    }

    fn handshakes(&self) -> Vec<(&'static str, u64)> {
        vec![
            ("full", self.handshakes_full),
            ("resumed", self.handshakes_resumed),
            ("of these TLS 1.2", self.handshakes_tls12),
            ("given up by the peer", self.handshakes_alerted),
            ("refused", self.handshakes_refused),
            ("too slow", self.handshakes_timed_out),
            ("abandoned", self.handshakes_abandoned),
        ]
    }

    fn records(&self) -> Vec<(&'static str, u64)> {
        vec![
            ("opened", self.records_opened),
            ("sealed", self.records_sealed),
            ("without room", self.records_refused),
            ("not whole in time", self.records_timed_out),
            ("alerts sent", self.alerts_sent),
            ("alerts received", self.alerts_received),
            ("key updates", self.key_updates),
        ]
    }
}
