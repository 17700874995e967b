//! How a client shard begins.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Instant;

use super::goodbye::Goodbye;
use super::keepalive::Keepalive;
use super::measures::Measures;
use super::storm::Storming;
use super::{ClientConnections, ClientDriver};
use crate::client::incomplete::IncompleteTable;
use crate::client::ports::Ports;
use crate::client::run::Notice;
use crate::client::window::Window;
use crate::client::{Interval, Phase, Workload};
use crate::connections::Cursor;
use crate::error::Result;
use crate::failure::Causes;
use crate::pace::Pace;
use crate::protocol::Scratch;
use crate::results::ShardSummary;
use crate::stats::Progress;

/// What a shard begins with, carried to its thread.
pub struct ShardConfig {
    /// Number of the shard.
    pub index: usize,
    /// Its core.
    pub core: usize,
    /// Shards in all.
    pub shards: u64,
    /// Its connections.
    pub numbers: Range<u64>,
    /// Its part of the connects in flight.
    pub concurrency: usize,
    /// What all shards do.
    pub workload: Arc<Workload>,
    /// The source ports of all shards.
    pub ports: Arc<Ports>,
    /// How far it is.
    pub progress: Arc<Progress>,
    /// Told when a phase is done, and when the shard ends.
    pub notices: mpsc::Sender<Notice>,
    /// Takes what was measured so far, with the shard's number, when that is asked for.
    pub measured: mpsc::Sender<(usize, ShardSummary)>,
    /// Takes what was measured in each interval.
    pub intervals: mpsc::Sender<Interval>,
}

impl ShardConfig {
    /// The driver, on its thread.
    pub fn begin(self, connections: &ClientConnections) -> Result<ClientDriver> {
        let now = Instant::now();
        let (own, shards, index) = (self.numbers.end - self.numbers.start, self.shards, self.index as u64);
        let storm = self.workload.course.storm().map(|storm| Storming::new(*storm, own, shards, index)).transpose()?;
        let mut measures = Measures::new(self.index, self.intervals.clone())?;
        if self.has_tls() {
            measures.measure_handshakes()?;
        }
        Ok(ClientDriver {
            phase: Phase::Ready,
            done: false,
            since: connections.clock().start(now),
            swept: now,
            next: self.numbers.start,
            place: Cursor::START,
            talked: Cursor::START,
            talkers: if storm.is_some() { Cursor::START } else { Cursor::END },
            storm,
            closing: None,
            pace: Pace::UNPACED,
            failures_in_a_row: 0,
            sent: 0,
            round: 0,
            again: VecDeque::new(),
            window: Window::default(),
            scratch: Vec::new(),
            hearing: Scratch::default(),
            incomplete: IncompleteTable::default(),
            keepalive: Keepalive::default(),
            goodbye: Goodbye::default(),
            before_close: None,
            measures,
            causes: Causes::new(),
            config: self,
        })
    }

    /// Whether the connections speak TLS.
    pub fn has_tls(&self) -> bool {
        #[cfg(feature = "tls")]
        return self.workload.tls.is_some();
        #[cfg(not(feature = "tls"))]
        false
    }

    /// The number of a connection over all shards, from that within this one. It decides the route and the source
    /// port, and the protocol knows the connection by it. Connections that a storm dials come after all that were
    /// asked for, the shards' in turn.
    pub fn number(&self, index: u32) -> u64 {
        let (own, index) = (self.numbers.end - self.numbers.start, u64::from(index));
        match index.checked_sub(own) {
            None => self.numbers.start + index,
            Some(anew) => {
                let behind = self.workload.first_number + self.workload.connections;
                behind + anew * self.shards + self.index as u64
            }
        }
    }
}

impl Drop for ShardConfig {
    fn drop(&mut self) {
        // The leader is gone if the run has failed elsewhere.
        let _ = self.notices.send(Notice::ShardEnded(self.index));
    }
}
