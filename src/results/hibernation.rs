//! What became of sleeping connections.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::check::Checked;
use super::document::LatencyDocument;
use crate::error::Result;
use crate::latency::Latency;
use crate::stats::{Snapshot, WakeCounts};

/// What became of sleeping connections in a run. The result of a run in which none may sleep has no such part.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct HibernationDocument {
    /// Connections asleep at the end, before any was closed.
    pub asleep: u64,
    /// Times that a connection was put to sleep.
    pub hibernated: u64,
    /// Sleeping connections that a segment of their peer woke.
    pub woken_by_peer: u64,
    /// Sleeping connections that were woken because something was to be sent.
    pub woken_by_send: u64,
    /// Of both: connections that were awake for one short message, and had no socket.
    #[serde(default)]
    pub woken_without_socket: u64,
    /// Idle connections that could not be put to sleep: something was in flight, or the table had no place.
    pub stayed_awake: u64,
    /// Segments caught for sleeping connections.
    pub segments_caught: u64,
    /// Segments sent for sleeping connections without waking them.
    pub segments_answered: u64,
    /// Caught segments that were no TCP segment, or had a wrong checksum.
    pub segments_malformed: u64,
    /// Caught segments outside the window, or with an impossible acknowledgement.
    pub segments_outside: u64,
    /// Segments for sleeping connections that were lost for lack of room; the peer sent them again.
    pub segments_dropped: u64,
    /// Wakes by a segment, each from the moment at which the segment was caught until its payload went to the service, or
    /// the segment to the new socket. A figure is at most 7.2 % too high. The field is missing where none was woken so, and
    /// in the events of a run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wake_latency_us: Option<LatencyDocument>,
}

impl HibernationDocument {
    /// What was counted.
    pub fn of(counted: &Snapshot) -> HibernationDocument {
        HibernationDocument {
            asleep: counted.asleep,
            hibernated: counted.hibernated,
            woken_by_peer: counted.woken_by_peer,
            woken_by_send: counted.woken_by_send,
            woken_without_socket: counted.woken_without_socket,
            stayed_awake: counted.stayed_awake,
            segments_caught: counted.segments_caught,
            segments_answered: counted.segments_answered,
            segments_malformed: counted.segments_malformed,
            segments_outside: counted.segments_outside,
            segments_dropped: counted.segments_dropped,
            wake_latency_us: None,
        }
    }

    /// The same with how long wakes took on each shard.
    pub fn with_wakes(self, shards: impl IntoIterator<Item = WakeCounts>) -> Result<HibernationDocument> {
        let mut all = Latency::new()?;
        for (bound, count) in shards.into_iter().flat_map(|counts| counts.buckets().collect::<Vec<_>>()) {
            all.record_many(bound.unwrap_or(Duration::MAX), count);
        }
        let document = (all.count() > 0).then(|| LatencyDocument::of(&all)).transpose()?;
        Ok(HibernationDocument { wake_latency_us: document, ..self })
    }

    /// What became of connections: each count with its name, in the order in which they are shown.
    pub fn connections(&self) -> [(&'static str, u64); 6] {
        [
            ("asleep at the end", self.asleep),
            ("put to sleep", self.hibernated),
            ("woken by their peer", self.woken_by_peer),
            ("woken to send", self.woken_by_send),
            ("of both without a socket", self.woken_without_socket),
            ("stayed awake", self.stayed_awake),
        ]
    }

    /// What became of the segments that came for them, likewise.
    pub fn segments(&self) -> [(&'static str, u64); 5] {
        [
            ("segments caught", self.segments_caught),
            ("answered asleep", self.segments_answered),
            ("malformed", self.segments_malformed),
            ("outside the window", self.segments_outside),
            ("dropped", self.segments_dropped),
        ]
    }

    /// How long wakes by a segment took, in microseconds, each figure with its name; `None` if there was none.
    pub fn wakes(&self) -> Option<[(&'static str, u64); 4]> {
        let wakes = self.wake_latency_us.as_ref()?;
        Some([("p50", wakes.p50), ("p99", wakes.p99), ("p99.9", wakes.p999), ("longest", wakes.max)])
    }

    /// The sum of two. Files may have any counts; a sum that overflows stays at `u64::MAX`.
    pub fn and(&self, other: &HibernationDocument) -> Result<HibernationDocument> {
        let sum = |which: fn(&HibernationDocument) -> u64| which(self).saturating_add(which(other));
        let wakes: Vec<_> = [self, other].into_iter().filter_map(|one| one.wake_latency_us.as_ref()).collect();
        Ok(HibernationDocument {
            asleep: sum(|one| one.asleep),
            hibernated: sum(|one| one.hibernated),
            woken_by_peer: sum(|one| one.woken_by_peer),
            woken_by_send: sum(|one| one.woken_by_send),
            woken_without_socket: sum(|one| one.woken_without_socket),
            stayed_awake: sum(|one| one.stayed_awake),
            segments_caught: sum(|one| one.segments_caught),
            segments_answered: sum(|one| one.segments_answered),
            segments_malformed: sum(|one| one.segments_malformed),
            segments_outside: sum(|one| one.segments_outside),
            segments_dropped: sum(|one| one.segments_dropped),
            wake_latency_us: (!wakes.is_empty()).then(|| LatencyDocument::merged(wakes)).transpose()?,
        })
    }

    pub(super) fn check(&self) -> Checked {
        let checked = self.wake_latency_us.as_ref().map_or(Ok(()), LatencyDocument::check);
        checked.map_err(|why| format!("wake_latency_us: {why}"))
    }
}
