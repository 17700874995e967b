//! Connections that wait behind a filter (`sys/filter.rs`) and have no poll in the kernel. A call, as the filter
//! announces it, makes one receive; `life.rs` tells what else must be asked, so that nothing is missed:
//!
//! - Who was called lately is looked at twice, with a pause between: a sweep over all rows, as long as there may be
//!   any such.
//! - Who was not is tried now and then.

use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use super::{Lane, Net, Watched};
use crate::clock::Mark;
use crate::error::{Errno, Error, Result};
use crate::life::Life;
use crate::limits::{
    CALLS_PER_PASS, LONGEST_TRIAL, LOOKS_PER_STEP, RESETS_PER_PASS, ROWS_PER_STEP, SEGMENT_TIME, SHORTEST_TRIAL, STEP,
};
use crate::sys::{Call, Filter};
use crate::token::{ConnId, Operation};

/// The filter of a shard, and how far it has come with those that it watches.
pub(super) struct Sentry {
    filter: Filter,
    /// The first place of each ring.
    starts: Vec<u32>,
    /// A poll on the filter's bell is in the kernel.
    listening: bool,
    sweep: Sweep,
    trial: Trial,
}

/// The look at those that may have missed something.
#[derive(Default)]
struct Sweep {
    /// The next row of the round.
    cursor: Cursor,
    /// When the next step is due, if there is any.
    due: Option<Mark>,
    /// Whether there was anyone unsure in this round: then there is another.
    found: bool,
}

/// The receives of those who did not miss anything, for all that is known.
struct Trial {
    cursor: Cursor,
    due: Mark,
    /// All are tried within this time.
    within: Duration,
}

/// A row among those of all rings.
#[derive(Debug, Clone, Copy, Default)]
struct Cursor {
    ring: usize,
    slot: u32,
}

impl Cursor {
    /// The next row that ever had a tenant, its present or last one, and its life; `None` behind the last, and
    /// then from the beginning.
    fn next<S: Default>(&mut self, lanes: &[Lane<S>]) -> Option<(ConnId, Life)> {
        while let Some(lane) = lanes.get(self.ring) {
            if self.slot < lane.table.used() {
                let (slot, row) = (self.slot, lane.table.row(self.slot));
                self.slot += 1;
                return Some((ConnId::new(self.ring, slot, row.generation), row.life));
            }
            *self = Cursor { ring: self.ring + 1, slot: 0 };
        }
        *self = Cursor::default();
        None
    }
}

impl Sentry {
    /// Watches over the connections in rings of so many slots.
    pub(super) fn new(watched: Watched, rings: &[u32], now: Mark) -> Sentry {
        let mut places = 0;
        let mut starts = Vec::new();
        for slots in rings {
            starts.push(places);
            places += slots;
        }
        let trial = Trial { cursor: Cursor::default(), due: now.after(LONGEST_TRIAL), within: watched.tried_within };
        Sentry { filter: watched.filter, starts, listening: false, sweep: Sweep::default(), trial }
    }

    /// Watches a socket that is no child of a listener. What is none the ring will refuse.
    pub(super) fn adopt(&self, conn: ConnId, socket: &impl AsRawFd) -> Result<()> {
        let adopted = self.filter.attach(socket).and_then(|()| self.filter.name(socket, self.place(conn)));
        adopted.or_else(|error| match Errno::of(&error) {
            Errno::EBADF => Ok(()),
            errno => Err(Error::bug(format!("filter on a socket to be dialed: {errno}"))),
        })
    }

    fn place(&self, conn: ConnId) -> u32 {
        self.starts[conn.ring()] + conn.slot()
    }

    /// The ring of a place, and the slot in it.
    fn slot(&self, place: u32) -> (usize, u32) {
        let ring = self.starts.partition_point(|start| *start <= place).saturating_sub(1);
        (ring, place - self.starts[ring])
    }

    /// Whether there are calls to be heard.
    pub(super) fn has_calls(&self) -> bool {
        self.filter.has_calls()
    }

    /// Whether FINs are among them that wait.
    pub(super) fn has_fins(&mut self) -> bool {
        self.filter.has_fins()
    }

    /// Whether resets or FINs are among them.
    pub(super) fn has_ends(&self) -> bool {
        self.filter.has_ends()
    }

    /// When there is something to do although nothing was announced.
    pub(super) fn due(&self, now: Mark) -> Mark {
        let first_look = self.sweep.found.then(|| now.after(SEGMENT_TIME));
        self.sweep.due.or(first_look).map_or(self.trial.due, |sweep| sweep.min(self.trial.due))
    }

    /// The poll on the bell has ended.
    pub(super) fn bell_rang(&mut self) {
        self.listening = false;
    }
}

impl<S: Default> Net<S> {
    /// Takes an accepted connection out of its plain descriptor into its slot, known to the filter by its place.
    /// `false` if the kernel refuses it.
    pub(crate) fn seat(&mut self, conn: ConnId, socket: OwnedFd) -> Result<bool> {
        let named = |sentry: &Sentry| sentry.filter.name(&socket, sentry.place(conn)).is_ok();
        if !self.sentry.as_ref().is_some_and(named) {
            return Ok(false);
        }
        self.lanes[conn.ring()].ring.seat(socket, conn.token(Operation::Seat))?;
        Ok(true)
    }

    /// Lets a connection wait behind the filter.
    pub(super) fn watch(&mut self, conn: ConnId) -> Result<()> {
        self.sentry.iter_mut().for_each(|sentry| sentry.sweep.found = true);
        self.learn(conn, Life::watch)
    }

    /// Hears what the filter has announced, a bounded number: messages first, as resets and FINs can wait. Tells
    /// whether it was anything.
    pub(crate) fn hear_calls(&mut self, now: Instant) -> Result<bool> {
        let messages = self.hear(Call::Segment, CALLS_PER_PASS)?;
        let resets = self.hear(Call::Reset, RESETS_PER_PASS)?;
        let heard = messages + resets + self.hear_fins(now)?;
        self.counters.calls.add(heard as u64);
        Ok(heard > 0)
    }

    pub(super) fn hear(&mut self, call: Call, most: usize) -> Result<usize> {
        let mut heard = 0;
        while heard < most
            && let Some(sentry) = &mut self.sentry
            && let Some(place) = sentry.filter.next_call(call)
        {
            heard += 1;
            let (ring, slot) = sentry.slot(place);
            let table = &self.lanes[ring].table;
            // It may be of a former tenant, and the present one is asked in vain.
            if slot < table.used() && table.row(slot).life.is_watched() {
                sentry.sweep.found = true;
                let conn = ConnId::new(ring, slot, table.row(slot).generation);
                self.learn(conn, if call == Call::Reset { Life::told_of_reset } else { Life::told })?;
            }
        }
        Ok(heard)
    }

    /// Looks at some of those who may have missed something, and tries some of the others.
    pub(super) fn look_after(&mut self) -> Result<()> {
        let now = self.clock.now();
        let Some(sentry) = &mut self.sentry else { return Ok(()) };
        let try_due = sentry.trial.due <= now;
        if sentry.sweep.found && sentry.sweep.due.is_none() {
            sentry.sweep.due = Some(now.after(SEGMENT_TIME));
        }
        if sentry.sweep.due.is_some_and(|due| due <= now) {
            self.sweep(now)?;
        }
        if try_due { self.try_some(now) } else { Ok(()) }
    }

    /// A step of the sweep.
    fn sweep(&mut self, now: Mark) -> Result<()> {
        let Some(mut cursor) = self.sentry.as_ref().map(|sentry| sentry.sweep.cursor) else { return Ok(()) };
        let (mut found, mut looks, mut over) = (false, 0, false);
        for _ in 0..ROWS_PER_STEP {
            let Some((conn, life)) = cursor.next(&self.lanes[..self.used]) else {
                over = true;
                break;
            };
            if life.is_unsure() {
                found = true;
                looks += usize::from(life.was_looked_at());
                self.learn(conn, Life::look)?;
            }
            if looks == LOOKS_PER_STEP {
                break;
            }
        }
        if let Some(Sentry { sweep, .. }) = &mut self.sentry {
            sweep.found |= found;
            sweep.cursor = cursor;
            sweep.due = match over {
                false => Some(now.after(STEP)),
                // A row is not looked at again before the pause is over.
                true => std::mem::take(&mut sweep.found).then_some(now.after(SEGMENT_TIME)),
            };
        }
        Ok(())
    }

    /// Has some receive to whom nothing was announced, all in their turn. Those that wait in a poll, as something
    /// was announced that never came, wait behind the filter again.
    fn try_some(&mut self, now: Mark) -> Result<()> {
        let Some(Sentry { trial: Trial { mut cursor, within, .. }, .. }) = self.sentry else { return Ok(()) };
        let rows: u32 = self.lanes[..self.used].iter().map(|lane| lane.table.used()).sum();
        let step = within.mul_f64(LOOKS_PER_STEP as f64 / f64::from(rows.max(1))).clamp(SHORTEST_TRIAL, LONGEST_TRIAL);
        let share = f64::from(rows) * step.as_secs_f64() / within.as_secs_f64();
        for _ in 0..(share.ceil() as usize).min(LOOKS_PER_STEP) {
            let Some((conn, life)) = cursor.next(&self.lanes[..self.used]) else { break };
            if life.is_watched() {
                self.learn(conn, Life::try_it)?;
            } else if self.row(conn).is_some_and(|row| row.life.rearm()) {
                self.lanes[conn.ring()].ring.remove_poll(conn.token(Operation::Poll))?;
            }
        }
        if let Some(Sentry { trial, .. }) = &mut self.sentry {
            (trial.cursor, trial.due) = (cursor, now.after(step));
        }
        Ok(())
    }

    /// Lets announcements ring the doorbell, or not.
    pub(super) fn wake_on_calls(&mut self, wake: bool) -> Result<()> {
        let Some(sentry) = &mut self.sentry else { return Ok(()) };
        if wake {
            sentry.filter.sleep()
        } else {
            sentry.filter.wake()
        }
        if wake && !sentry.listening && self.used > 0 {
            sentry.listening = true;
            self.lanes[0].ring.hear(sentry.filter.bell())?;
            self.enter(0)?;
        }
        Ok(())
    }
}
