//! Closing the connections of a shard, all or some, a bounded number in each pass and at a pace.

use std::time::Instant;

use super::Schedule;
use crate::connections::{CloseMode, CloseReason, Connections, Cursor, Platform};
use crate::error::Result;
use crate::pace::Pace;
use crate::token::ConnId;

/// Connections closed in one pass, so that closing delays no other connection for long.
const CLOSES_PER_PASS: usize = 16;

/// The progress of closing the connections of a shard.
#[derive(Debug)]
pub struct Closing {
    mode: CloseMode,
    reason: CloseReason,
    pace: Pace,
    closed: u64,
    /// The connections before this place are still to be closed.
    place: Cursor,
    /// Those that could not be told the last word yet. The next turn closes them: a receive that was under way is over by
    /// then.
    untold: Vec<ConnId>,
}

impl Closing {
    /// A closing that has not begun.
    pub fn new(mode: CloseMode, pace: Pace) -> Closing {
        Closing { mode, reason: CloseReason::Local, pace, closed: 0, place: Cursor::END, untold: Vec::new() }
    }

    /// Sets the reason that the driver is told for each connection.
    pub fn because(self, reason: CloseReason) -> Closing {
        Closing { reason, ..self }
    }

    /// Connections closed so far.
    pub fn closed(&self) -> u64 {
        self.closed
    }

    /// Closes all that are due. `Schedule::Finished` when nothing is left, also of those that opened meanwhile.
    pub fn turn<S: Default, P: Platform>(
        &mut self,
        connections: &mut Connections<S, P>,
        now: Instant,
    ) -> Result<Schedule> {
        self.turn_after(connections, now, |_, _| Ok(true))
    }

    /// The same, where each connection has a `last_word` before it is closed, which returns whether the kernel has it.
    pub fn turn_after<S: Default, P: Platform>(
        &mut self,
        connections: &mut Connections<S, P>,
        now: Instant,
        last_word: impl FnMut(&mut Connections<S, P>, ConnId) -> Result<bool>,
    ) -> Result<Schedule> {
        for conn in std::mem::take(&mut self.untold) {
            connections.close(conn, self.mode, self.reason)?;
        }
        // A walk over ten million that are closed already would take the time of many passes.
        if connections.counters().live.get() > 0 {
            let turn = self.close_some(connections, now, u64::MAX, |_| true, last_word)?;
            if !self.untold.is_empty() {
                return Ok(Schedule::Now);
            }
            if turn != Schedule::Finished {
                return Ok(turn);
            }
            // A connection may have opened behind the place, from an accept that was in the kernel.
            self.place = Cursor::END;
        }
        connections.stop_lingering()?;
        Ok(if connections.in_use() == 0 { Schedule::Finished } else { Schedule::OnEvent })
    }

    /// Closes the chosen connections that are due. It begins with the last rows: their polls were armed last, and the
    /// kernel finds such polls first. `Schedule::Finished` when `most` are closed, or every row was visited.
    pub fn turn_of<S: Default, P: Platform>(
        &mut self,
        connections: &mut Connections<S, P>,
        now: Instant,
        most: u64,
        chosen: impl Fn(&S) -> bool,
    ) -> Result<Schedule> {
        self.close_some(connections, now, most, chosen, |_, _| Ok(true))
    }

    fn close_some<S: Default, P: Platform>(
        &mut self,
        connections: &mut Connections<S, P>,
        now: Instant,
        most: u64,
        chosen: impl Fn(&S) -> bool,
        mut last_word: impl FnMut(&mut Connections<S, P>, ConnId) -> Result<bool>,
    ) -> Result<Schedule> {
        for _ in 0..CLOSES_PER_PASS {
            if self.closed >= most {
                return Ok(Schedule::Finished);
            }
            let Some((conn, place)) = connections.last_live(self.place) else { return Ok(Schedule::Finished) };
            if connections.state(conn).is_some_and(|state| chosen(state)) {
                if let Some(at) = self.pace.intended(self.closed, connections.clock()).filter(|at| *at > now) {
                    return Ok(Schedule::At(at));
                }
                if last_word(connections, conn)? {
                    connections.close(conn, self.mode, self.reason)?;
                } else {
                    self.untold.push(conn);
                }
                self.closed += 1;
            }
            self.place = place;
        }
        Ok(Schedule::Now)
    }
}
