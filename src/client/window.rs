//! What a client shard waits for: one probe for each connect or message in flight. Their number bounds the memory. A
//! sweep finds the late ones, so no connection has a timer.

use std::time::{Duration, Instant};

use socket2::Socket;

use crate::clock::Mark;
use crate::protocol::{Position, Purpose};
use crate::token::ConnId;

/// What a probe waits for.
#[derive(Debug)]
pub enum Awaited {
    /// A connect. The plain socket stays open to ask TCP about it.
    Connect { socket: Socket, given_up: bool },
    /// An answer. While the connection is opened the plain socket is still there.
    Answer { purpose: Purpose, socket: Option<Socket> },
}

/// One thing in flight.
#[derive(Debug)]
pub struct Probe {
    /// The connection.
    pub conn: ConnId,
    /// What is awaited.
    pub awaited: Awaited,
    /// When it should have started.
    pub intended: Instant,
    /// When it started.
    pub started: Instant,
    /// The same on the shard's own clock, by which it becomes late.
    pub since: Mark,
    /// How far the answer has come.
    pub position: Position,
    /// The round of the message.
    pub round: u32,
}

/// The probes of one shard, each with a key that is never 0.
#[derive(Debug, Default)]
pub struct Window {
    places: Vec<Option<Probe>>,
    free: Vec<u32>,
    used: usize,
}

impl Window {
    /// Adds a probe.
    pub fn add(&mut self, probe: Probe) -> u32 {
        self.used += 1;
        match self.free.pop() {
            Some(key) => {
                self.places[key as usize - 1] = Some(probe);
                key
            }
            None => {
                self.places.push(Some(probe));
                self.places.len() as u32
            }
        }
    }

    /// The probe of a key; `None` for key 0 and for a probe that was removed.
    pub fn get(&mut self, key: u32) -> Option<&mut Probe> {
        self.places.get_mut((key as usize).checked_sub(1)?)?.as_mut()
    }

    /// Takes a probe out.
    pub fn remove(&mut self, key: u32) -> Option<Probe> {
        let probe = self.places.get_mut((key as usize).checked_sub(1)?)?.take()?;
        self.free.push(key);
        self.used -= 1;
        Some(probe)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.used
    }

    /// The connections whose connect is awaited for longer than `connect`, or whose answer is awaited for longer than `reply`.
    /// A connect that was given up is not named again.
    pub fn late(&mut self, now: Mark, connect: Duration, reply: Duration) -> Vec<ConnId> {
        let late = self.places.iter_mut().flatten().filter(|probe| {
            let limit = match &probe.awaited {
                Awaited::Connect { given_up: true, .. } => return false,
                Awaited::Connect { .. } => connect,
                Awaited::Answer { .. } => reply,
            };
            now.since(probe.since) >= limit
        });
        late.map(|probe| probe.conn).collect()
    }
}
