//! How a client shard begins.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Instant;

use super::fanning::Fanning;
use super::goodbye::Goodbye;
use super::keepalive::Keepalive;
use super::measures::Measures;
use super::storm::Storming;
use super::{ClientConnections, ClientDriver};
use crate::client::fanout::{Board, Closed, Leading};
use crate::client::incomplete::IncompleteTable;
use crate::client::ports::Ports;
use crate::client::run::{Notice, Part};
use crate::client::window::Window;
use crate::client::{Interval, Phase, Workload};
use crate::connections::Cursor;
use crate::error::Result;
use crate::failure::Causes;
use crate::pace::Pace;
use crate::plan::share;
use crate::protocol::{Protocol, Scratch};
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
    /// Its connections by what they are for, if the course is a fan-out.
    pub fanout: Option<FanoutPart>,
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

/// A shard's part of a fan-out.
pub struct FanoutPart {
    /// The numbers of its subscribers.
    pub subscribers: Range<u64>,
    /// Those of its publishers.
    publishers: Range<u64>,
    /// The number of the run's first publisher.
    behind: u64,
    /// What all shards know together.
    pub board: Arc<Board>,
    /// Takes what is known of publications that the shard has closed.
    pub closed: mpsc::Sender<Closed>,
}

impl ShardConfig {
    /// What is spoken on a connection of this number within the shard.
    pub fn protocol(&self, index: u32) -> &Protocol {
        let Workload { protocol, publisher, .. } = &*self.workload;
        match (&self.fanout, publisher) {
            (Some(part), Some(publisher)) if part.place_of_publisher(index).is_some() => publisher,
            _ => protocol,
        }
    }

    /// The driver, on its thread.
    pub fn begin(self, connections: &ClientConnections) -> Result<ClientDriver> {
        let now = Instant::now();
        let (own, shards, index) = (self.numbers.end - self.numbers.start, self.shards, self.index as u64);
        let storm = self.workload.course.storm().map(|storm| Storming::new(*storm, own, shards, index)).transpose()?;
        let mut measures = Measures::new(self.index, self.intervals.clone())?;
        if self.workload.has_tls() {
            measures.measure_handshakes()?;
        }
        let fanout = self.fanout.as_ref().zip(self.workload.course.fanout());
        let fanout = fanout.map(|(part, fanout)| Fanning::new(*fanout, part, self.index));
        Ok(ClientDriver {
            command: 0,
            phase: Phase::Ready,
            done: false,
            since: connections.clock().start(now),
            swept: now,
            next: self.numbers.start,
            place: Cursor::START,
            drawing: None,
            talked: Cursor::START,
            talkers: if storm.is_some() { Cursor::START } else { Cursor::END },
            storm,
            fanout,
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

    /// The number of a connection over all shards, from that within this one. It decides the route and the source
    /// port, and the protocol knows the connection by it. Connections that a storm dials beside all others come after
    /// those that were asked for, the shards' in turn.
    pub fn number(&self, index: u32) -> u64 {
        if let Some(part) = &self.fanout {
            return part.number(index);
        }
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

impl FanoutPart {
    /// The part of a shard whose connections have these numbers, if connections were numbered shard by shard. Among the
    /// numbers of a run those of all subscribers come before those of all publishers.
    pub fn new(workload: &Workload, (shard, shards): (u64, u64), fanout: &Leading) -> FanoutPart {
        let (all, first, of_all) = (workload.own_connections(), workload.first_number, fanout.publishers());
        let (own, publishers) = (share(all, shards, shard), share(of_all, shards, shard));
        // No share of a smaller number is larger, so there are no more publishers than connections.
        let subscribers = first + own.start - publishers.start..first + own.end - publishers.end;
        let behind = first + all - of_all;
        let publishers = behind + publishers.start..behind + publishers.end;
        FanoutPart { subscribers, publishers, behind, board: fanout.board.clone(), closed: fanout.closed.clone() }
    }

    /// The place of a connection among the shard's publishers, which come last of its connections; `None` for a subscriber.
    fn place_of_publisher(&self, index: u32) -> Option<u64> {
        u64::from(index).checked_sub(self.subscribers.end - self.subscribers.start)
    }

    /// The number of a connection from that within the shard.
    fn number(&self, index: u32) -> u64 {
        match self.place_of_publisher(index) {
            None => self.subscribers.start + u64::from(index),
            Some(place) => self.publishers.start + place,
        }
    }

    /// The shard's publishers among all of the run, from 0 on.
    pub fn publishers(&self) -> Range<u64> {
        self.publishers.start - self.behind..self.publishers.end - self.behind
    }
}

impl Drop for ShardConfig {
    fn drop(&mut self) {
        // The leader is gone if the run has failed elsewhere.
        let _ = self.notices.send(Notice::Ended(Part::Shard(self.index)));
    }
}
