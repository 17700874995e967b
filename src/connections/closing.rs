//! Closing the connections of a shard, all or some, a bounded number a pass and at a pace.

use std::time::Instant;

use super::{CloseMode, CloseReason, Connections};
use crate::constants::CLOSES_PER_PASS;
use crate::error::Result;
use crate::pace::Pace;
use crate::shard::Schedule;
use crate::token::ConnId;

/// How far a closing has come.
#[derive(Debug)]
pub struct Closing {
    how: CloseMode,
    reason: CloseReason,
    pace: Pace,
    closed: u64,
    /// Connections from here on are closed; `None` is not begun, or to be looked through again.
    place: Option<usize>,
}

impl Closing {
    /// Closes nothing yet.
    pub fn new(how: CloseMode, pace: Pace) -> Closing {
        Closing { how, reason: CloseReason::Local, pace, closed: 0, place: None }
    }

    /// Gives the reason that the driver is told for each.
    pub fn because(self, reason: CloseReason) -> Closing {
        Closing { reason, ..self }
    }

    /// Connections closed so far.
    pub fn closed(&self) -> u64 {
        self.closed
    }

    /// Closes all. `Schedule::Finished` when nothing is left, also of those that opened meanwhile.
    pub fn turn<S: Default>(&mut self, net: &mut Connections<S>, now: Instant) -> Result<Schedule> {
        let turn = self.turn_of(net, now, u64::MAX, |_| true)?;
        if turn != Schedule::Finished {
            return Ok(turn);
        }
        // Who opens while its accept or connect is being cancelled may stand behind.
        self.place = None;
        Ok(if net.in_use() == 0 { Schedule::Finished } else { Schedule::OnEvent })
    }

    /// Closes those that are chosen and due, the last ones first: their polls were armed last and
    /// are found first. `Schedule::Finished` when `most` are closed, or all were looked at.
    pub fn turn_of<S: Default>(
        &mut self,
        net: &mut Connections<S>,
        now: Instant,
        most: u64,
        chosen: impl Fn(&S) -> bool,
    ) -> Result<Schedule> {
        for _ in 0..CLOSES_PER_PASS {
            if self.closed >= most {
                return Ok(Schedule::Finished);
            }
            let found = net.last_live(self.place.unwrap_or(usize::MAX));
            let Some((conn, place)) = found else { return Ok(Schedule::Finished) };
            if net.state(conn).is_some_and(|state| chosen(state)) {
                if let Some(at) = self.pace.intended(self.closed, net.clock()).filter(|at| *at > now) {
                    return Ok(Schedule::At(at));
                }
                net.close(conn, self.how, self.reason)?;
                self.closed += 1;
            }
            self.place = Some(place);
        }
        Ok(Schedule::Now)
    }
}

impl<S: Default> Connections<S> {
    /// The last live connection before a place, and its own place. Places count through all slots
    /// of all rings, from 0.
    pub fn last_live(&self, place: usize) -> Option<(ConnId, usize)> {
        let mut end: usize = self.rings.iter().map(|lane| lane.table.slots() as usize).sum();
        for (index, lane) in self.rings.iter().enumerate().rev() {
            let start = end - lane.table.slots() as usize;
            for at in (start..place.min(start + lane.table.used() as usize)).rev() {
                if let Some(conn) = lane.live(index, (at - start) as u32) {
                    return Some((conn, at));
                }
            }
            end = start;
        }
        None
    }
}
