//! Signs of life on all connections of a client shard, by one sweep: no connection has a timer, nor a memory of when it
//! spoke last.

use std::time::{Duration, Instant};

use super::{ClientConnections, ClientDriver, PROBES_IN_FLIGHT, PROBES_PER_PASS, SWEEP};
use crate::client::window::Due;
use crate::client::{Audit, Phase};
use crate::clock::Start;
use crate::connections::Cursor;
use crate::error::Result;
use crate::protocol::{Exchange, Purpose};
use crate::reactor::Schedule;
use crate::token::ConnId;

/// Rows that the sweep looks at in one pass. While few connections are open most rows are empty.
const ROWS_PER_PASS: usize = 4_096;

/// The shortest time between two groups of keepalives. With one group for each pass of the shard, the sweep would wake it
/// for every single connection.
const GROUP: Duration = Duration::from_millis(10);

/// How far the sweep has come. Each lap asks every connection once, evenly, within one interval.
#[derive(Debug, Default)]
pub struct Keepalive {
    /// When this lap began; `None` before the first.
    began: Option<Start>,
    /// The place in the tables that comes next.
    place: Cursor,
    /// Connections of this lap so far.
    visited: u64,
    /// The lap's end is reached.
    complete: bool,
    /// Counts laps, so that no two ask for the same token.
    lap: u32,
}

impl Keepalive {
    /// A lap begins.
    fn begin(&mut self, start: Start) {
        (self.began, self.place, self.visited, self.complete) = (Some(start), Cursor::START, 0, false);
        self.lap = self.lap.wrapping_add(1);
    }
}

impl ClientDriver {
    /// Sends the keepalives that are due, whatever phase it is. A connection that has something in flight, or is not
    /// live yet, needs none.
    pub(super) fn keep_alive(&mut self, connections: &mut ClientConnections, now: Instant) -> Result<Schedule> {
        let Some(interval) = self.config.workload.keepalive_interval() else { return Ok(Schedule::OnEvent) };
        // After the last word nothing may be said.
        if matches!(self.phase, Phase::Ready | Phase::Quit) || self.phase == Phase::Close && self.goodbye.ends_hearing()
        {
            return Ok(Schedule::OnEvent);
        }
        let began = *self.keepalive.began.get_or_insert_with(|| connections.clock().start(now));
        let end = connections.clock().begun(began) + interval;
        if self.keepalive.complete && now >= end {
            // After a delay of a whole lap or more the sweep does not catch up.
            let next = if now < end + interval { end } else { now };
            self.keepalive.begin(connections.clock().start(next));
            return Ok(Schedule::Now);
        }
        if self.keepalive.complete {
            return Ok(Schedule::At(end));
        }
        // More connections may open while the lap goes on.
        let live = self.config.progress.live.get().max(1) as f64;
        let left = end.saturating_duration_since(now).as_secs_f64() / interval.as_secs_f64();
        let due = if left > 0.0 { (live * (1.0 - left)) as u64 } else { u64::MAX };
        let mut rows = ROWS_PER_PASS;
        for _ in 0..PROBES_PER_PASS {
            if self.keepalive.visited >= due {
                let next = end - interval.mul_f64((1.0 - (self.keepalive.visited + 1) as f64 / live).max(0.0));
                return Ok(Schedule::At(next.max(now + GROUP).min(end)));
            }
            if self.window.keepalives() >= PROBES_IN_FLIGHT {
                return Ok(Schedule::At(now + GROUP));
            }
            let before = self.keepalive.place;
            let Some(conn) = connections.next_live_within(&mut self.keepalive.place, &mut rows) else {
                self.keepalive.complete = rows > 0;
                return Ok(Schedule::Now);
            };
            if connections.is_asleep(conn) && !connections.can_wake() && !self.is_asked_asleep(connections, conn) {
                self.keepalive.place = before;
                return Ok(Schedule::At(now + GROUP));
            }
            self.keepalive.visited += 1;
            let Some(state) = connections.state(conn).filter(|state| state.is_proved() && state.key() == 0) else {
                continue;
            };
            if self.storm.as_ref().is_some_and(|storm| storm.keeps_silent(state.index)) {
                continue;
            }
            let round = self.keepalive.lap;
            self.ask_now(connections, conn, (Purpose::Keepalive, round), Due::at(now), now)?;
        }
        Ok(Schedule::Now)
    }

    /// Whether a sleeping connection can be asked without a slot.
    fn is_asked_asleep(&mut self, connections: &ClientConnections, conn: ConnId) -> bool {
        let Some(index) = connections.peek(conn).map(|state| state.index) else { return false };
        let (number, round) = (self.number(index), self.keepalive.lap);
        self.scratch.clear();
        self.config.protocol(index).ask(Exchange { number, round, purpose: Purpose::Keepalive }, &mut self.scratch);
        connections.fits_asleep(conn, self.scratch.len())
    }

    /// When to look for keepalives that are late, if some are in flight and the phase has nothing left to do.
    pub(super) fn next_sweep_of_keepalives(&self) -> Schedule {
        let awaited = self.window.keepalives() > 0 && self.config.workload.audit == Audit::Answer;
        if awaited { Schedule::At(self.swept + SWEEP) } else { Schedule::OnEvent }
    }
}
