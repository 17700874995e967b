//! The orderly end of a client shard's connections: what the protocol says before they are closed, and the answer to
//! that where there is one.

use std::time::{Duration, Instant};

use super::{ClientConnections, ClientDriver, PROBES_PER_PASS};
use crate::client::window::{Awaited, Due, Probe};
use crate::connections::{CloseMode, CloseReason};
use crate::error::Result;
use crate::pace::Pace;
use crate::protocol::{Protocol, Purpose};
use crate::reactor::Schedule;
use crate::token::ConnId;

/// How long the answer to a goodbye may take, if no answer may take less. A server that closes its connections in the same
/// moment need not answer, and the run shall end.
pub const GOODBYE_TIMEOUT: Duration = Duration::from_secs(5);

/// How far the goodbyes have come.
#[derive(Debug)]
pub struct Goodbye {
    /// The protocol has one.
    is_said: bool,
    /// The server answers it.
    is_awaited: bool,
    pace: Pace,
    said: u64,
}

impl Default for Goodbye {
    fn default() -> Goodbye {
        Goodbye { is_said: false, is_awaited: false, pace: Pace::UNPACED, said: 0 }
    }
}

impl Goodbye {
    /// The goodbyes of this protocol, none of which is said yet. Those that are answered are said at this pace, because
    /// the connections close with the answers.
    pub fn begin(protocol: &Protocol, pace: Pace) -> Goodbye {
        let mut words = Vec::new();
        protocol.goodbye(0, &mut words);
        let is_awaited = protocol.awaits_goodbye();
        let pace = if is_awaited { pace } else { Pace::UNPACED };
        Goodbye { is_said: !words.is_empty(), is_awaited, pace, said: 0 }
    }

    /// Whether bytes are not judged any more, because they may be the answer to a goodbye that awaits none.
    pub fn ends_hearing(&self) -> bool {
        self.is_said && !self.is_awaited
    }
}

impl ClientDriver {
    /// A connection ended: some protocols have no other answer to a goodbye.
    pub(super) fn hear_end(&self, connections: &mut ClientConnections, conn: ConnId, reason: CloseReason) {
        let awaited = self.probe_of(connections, conn).and_then(Probe::purpose);
        let is_answer = awaited == Some(Purpose::Goodbye) && reason == CloseReason::PeerClosed;
        if is_answer && self.config.workload.protocol.is_closed_by_server() {
            self.config.progress.goodbyes.add(1);
        }
    }

    /// Both ends have said goodbye: waits for the server's FIN. The end that closes first keeps the ports in TIME_WAIT, and
    /// that is to be the server (RFC 6455, 7.1.1). A run that leaves nothing behind resets the connection at once.
    pub(super) fn await_end(&mut self, connections: &mut ClientConnections, conn: ConnId) -> Result<()> {
        if self.config.workload.close == CloseMode::Abort {
            return connections.close(conn, CloseMode::Abort, CloseReason::Local);
        }
        let since = connections.clock().now();
        let Some(state) = connections.state(conn) else { return Ok(()) };
        let is_awaited = self.window.change(state.key(), |probe| probe.awaited = Awaited::End);
        if !is_awaited {
            let now = Instant::now();
            let probe =
                Probe { conn, awaited: Awaited::End, due: Due::at(now), started: now, since, round: 0, next: None };
            state.set_key(self.window.add(probe));
        }
        Ok(())
    }

    /// Says goodbye on the next connections, if the protocol has a goodbye. `Schedule::Finished` when it was said on
    /// all, and was answered or is late.
    pub(super) fn say_goodbye(&mut self, connections: &mut ClientConnections, now: Instant) -> Result<Schedule> {
        if !self.goodbye.is_said {
            return Ok(Schedule::Finished);
        }
        let since = connections.clock().now();
        for _ in 0..PROBES_PER_PASS {
            if self.goodbye.is_awaited && self.window.goodbyes() >= self.config.concurrency {
                return Ok(Schedule::OnEvent);
            }
            let Some((conn, next)) = connections.next_live(self.place) else {
                return Ok(if self.window.goodbyes() == 0 { Schedule::Finished } else { Schedule::OnEvent });
            };
            let intended = self.goodbye.pace.intended(self.goodbye.said, connections.clock());
            if let Some(at) = intended.filter(|at| *at > now) {
                return Ok(Schedule::At(at));
            }
            self.place = next;
            let Some(state) = connections.state(conn).filter(|state| state.is_proved()) else { continue };
            self.goodbye.said += 1;
            self.scratch.clear();
            self.config.protocol(state.index).goodbye(self.number(state.index), &mut self.scratch);
            if self.goodbye.is_awaited {
                // The answer to what was in flight is passed over.
                self.window.remove(state.key());
                let awaited = Awaited::Answer { purpose: Purpose::Goodbye, socket: None };
                let probe = Probe { conn, awaited, due: Due::at(now), started: now, since, round: 0, next: None };
                state.set_key(self.window.add(probe));
            }
            connections.send(conn, &self.scratch)?;
        }
        Ok(Schedule::Now)
    }
}
