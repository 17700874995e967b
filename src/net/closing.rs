//! Closing the connections of a shard, all or some, a bounded number a pass and at a pace.

use std::time::Instant;

use super::{How, Net, Why};
use crate::error::Result;
use crate::limits::CLOSES_PER_PASS;
use crate::pace::Pace;
use crate::shard::Turn;
use crate::token::ConnId;

/// How far a closing has come.
#[derive(Debug)]
pub struct Closing {
    how: How,
    pace: Pace,
    closed: u64,
    /// Connections from here on are closed; `None` is not begun, or to be looked through again.
    place: Option<usize>,
}

impl Closing {
    /// Closes nothing yet.
    pub fn new(how: How, pace: Pace) -> Closing {
        Closing { how, pace, closed: 0, place: None }
    }

    /// Connections closed so far.
    pub fn closed(&self) -> u64 {
        self.closed
    }

    /// Closes all. `Turn::Done` when nothing is left, also of those that opened meanwhile.
    pub fn turn<S: Default>(&mut self, net: &mut Net<S>, now: Instant) -> Result<Turn> {
        let turn = self.turn_of(net, now, u64::MAX, |_| true)?;
        if turn != Turn::Done {
            return Ok(turn);
        }
        // Who opens while its accept or connect is being cancelled may stand behind.
        self.place = None;
        Ok(if net.in_use() == 0 { Turn::Done } else { Turn::Idle })
    }

    /// Closes those that are chosen and due, the last ones first: their polls were armed last and
    /// are found first. `Turn::Done` when `most` are closed, or all were looked at.
    pub fn turn_of<S: Default>(
        &mut self,
        net: &mut Net<S>,
        now: Instant,
        most: u64,
        chosen: impl Fn(&S) -> bool,
    ) -> Result<Turn> {
        for _ in 0..CLOSES_PER_PASS {
            if self.closed >= most {
                return Ok(Turn::Done);
            }
            let found = net.last_live(self.place.unwrap_or(usize::MAX));
            let Some((conn, place)) = found else { return Ok(Turn::Done) };
            if net.state(conn).is_some_and(|state| chosen(state)) {
                if let Some(at) = self.pace.intended(self.closed, net.clock()).filter(|at| *at > now) {
                    return Ok(Turn::At(at));
                }
                net.close(conn, self.how, Why::Ours)?;
                self.closed += 1;
            }
            self.place = Some(place);
        }
        Ok(Turn::Again)
    }
}

impl<S: Default> Net<S> {
    /// The last live connection before a place, and its own place. Places count through all slots
    /// of all rings, from 0.
    pub fn last_live(&self, place: usize) -> Option<(ConnId, usize)> {
        let mut end: usize = self.lanes.iter().map(|lane| lane.table.slots() as usize).sum();
        for (index, lane) in self.lanes.iter().enumerate().rev() {
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
