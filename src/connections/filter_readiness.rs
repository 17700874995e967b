//! Connections that wait behind a filter (`sys/filter.rs`) and have no poll in the kernel. A call, as the filter
//! announces it, makes one receive; `lifecycle.rs` tells what else must be asked, so that nothing is missed:
//!
//! - Who was called lately is looked at twice, with a pause between: a sweep over all rows, as long as there may be
//!   any such.
//! - Who was not is tried now and then.

use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use super::{Connections, FilterConfig, RingSlots};
use crate::clock::Mark;
use crate::connections::lifecycle::SlotState;
use crate::constants::{
    LONGEST_SPECULATIVE_STEP, LOOKS_PER_STEP, NOTIFICATIONS_PER_PASS, RESETS_PER_PASS, ROWS_PER_STEP, SEGMENT_TIME,
    SHORTEST_SPECULATIVE_STEP, STEP,
};
use crate::error::{Errno, Error, Result};
use crate::sys::{Filter, Notification};
use crate::token::{ConnId, Operation};

/// The filter of a shard, and how far it has come with those that it watches.
pub(super) struct FilterReadiness {
    filter: Filter,
    /// The first place of each ring.
    starts: Vec<u32>,
    /// A poll on the filter's bell is in the kernel.
    listening: bool,
    sweep: FilterSweep,
    speculative: SpeculativeReceives,
}

/// The look at those that may have missed something.
#[derive(Default)]
struct FilterSweep {
    /// The next row of the round.
    cursor: Cursor,
    /// When the next step is due, if there is any.
    due: Option<Mark>,
    /// Whether there was anyone unsure in this round: then there is another.
    found: bool,
}

/// The receives of those who did not miss anything, for all that is known.
struct SpeculativeReceives {
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
    fn next<S: Default>(&mut self, rings: &[RingSlots<S>]) -> Option<(ConnId, SlotState)> {
        while let Some(lane) = rings.get(self.ring) {
            if self.slot < lane.table.used() {
                let (slot, row) = (self.slot, lane.table.row(self.slot));
                self.slot += 1;
                return Some((ConnId::new(self.ring, slot, row.generation), row.lifecycle));
            }
            *self = Cursor { ring: self.ring + 1, slot: 0 };
        }
        *self = Cursor::default();
        None
    }
}

impl FilterReadiness {
    /// Watches over the connections in rings of so many slots.
    pub(super) fn new(filter: FilterConfig, rings: &[u32], now: Mark) -> FilterReadiness {
        let mut places = 0;
        let mut starts = Vec::new();
        for slots in rings {
            starts.push(places);
            places += slots;
        }
        let speculative = SpeculativeReceives {
            cursor: Cursor::default(),
            due: now.after(LONGEST_SPECULATIVE_STEP),
            within: filter.speculative_period,
        };
        FilterReadiness { filter: filter.filter, starts, listening: false, sweep: FilterSweep::default(), speculative }
    }

    /// Watches a socket that is no child of a listener. What is none the ring will refuse.
    pub(super) fn attach_dialed(&self, conn: ConnId, socket: &impl AsRawFd) -> Result<()> {
        let adopted = self.filter.attach(socket).and_then(|()| self.filter.set_place(socket, self.place(conn)));
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
    pub(super) fn has_notifications(&self) -> bool {
        self.filter.has_notifications()
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
        self.sweep.due.or(first_look).map_or(self.speculative.due, |sweep| sweep.min(self.speculative.due))
    }

    /// The poll on the bell has ended.
    pub(super) fn bell_rang(&mut self) {
        self.listening = false;
    }
}

impl<S: Default> Connections<S> {
    /// Takes an accepted connection out of its plain descriptor into its slot, known to the filter by its place.
    /// `false` if the kernel refuses it.
    pub(crate) fn install_accepted(&mut self, conn: ConnId, socket: OwnedFd) -> Result<bool> {
        let named = |filter_readiness: &FilterReadiness| {
            filter_readiness.filter.set_place(&socket, filter_readiness.place(conn)).is_ok()
        };
        if !self.filter_readiness.as_ref().is_some_and(named) {
            return Ok(false);
        }
        self.rings[conn.ring()].ring.install_accepted(socket, conn.token(Operation::InstallAccepted))?;
        Ok(true)
    }

    /// Lets a connection wait behind the filter.
    pub(super) fn await_filter(&mut self, conn: ConnId) -> Result<()> {
        self.filter_readiness.iter_mut().for_each(|filter_readiness| filter_readiness.sweep.found = true);
        self.apply(conn, SlotState::await_filter)
    }

    /// Hears what the filter has announced, a bounded number: messages first, as resets and FINs can wait. Tells
    /// whether it was anything.
    pub(crate) fn take_notifications(&mut self, now: Instant) -> Result<bool> {
        let messages = self.take(Notification::Segment, NOTIFICATIONS_PER_PASS)?;
        let resets = self.take(Notification::Reset, RESETS_PER_PASS)?;
        let heard = messages + resets + self.take_fins(now)?;
        self.counters.notifications.add(heard as u64);
        Ok(heard > 0)
    }

    pub(super) fn take(&mut self, call: Notification, most: usize) -> Result<usize> {
        let mut heard = 0;
        while heard < most
            && let Some(filter_readiness) = &mut self.filter_readiness
            && let Some(place) = filter_readiness.filter.next_notification(call)
        {
            heard += 1;
            let (ring, slot) = filter_readiness.slot(place);
            let table = &self.rings[ring].table;
            // It may be of a former tenant, and the present one is asked in vain.
            if slot < table.used() && table.row(slot).lifecycle.awaits_filter() {
                filter_readiness.sweep.found = true;
                let conn = ConnId::new(ring, slot, table.row(slot).generation);
                self.apply(
                    conn,
                    if call == Notification::Reset { SlotState::notified_of_reset } else { SlotState::notified },
                )?;
            }
        }
        Ok(heard)
    }

    /// Looks at some of those who may have missed something, and tries some of the others.
    pub(super) fn check_filtered(&mut self) -> Result<()> {
        let now = self.clock.now();
        let Some(filter_readiness) = &mut self.filter_readiness else { return Ok(()) };
        let try_due = filter_readiness.speculative.due <= now;
        if filter_readiness.sweep.found && filter_readiness.sweep.due.is_none() {
            filter_readiness.sweep.due = Some(now.after(SEGMENT_TIME));
        }
        if filter_readiness.sweep.due.is_some_and(|due| due <= now) {
            self.sweep(now)?;
        }
        if try_due { self.receive_some_speculatively(now) } else { Ok(()) }
    }

    /// A step of the sweep.
    fn sweep(&mut self, now: Mark) -> Result<()> {
        let Some(mut cursor) = self.filter_readiness.as_ref().map(|filter_readiness| filter_readiness.sweep.cursor)
        else {
            return Ok(());
        };
        let (mut found, mut looks, mut over) = (false, 0, false);
        for _ in 0..ROWS_PER_STEP {
            let Some((conn, lifecycle)) = cursor.next(&self.rings[..self.used]) else {
                over = true;
                break;
            };
            if lifecycle.may_have_missed() {
                found = true;
                looks += usize::from(lifecycle.was_rechecked());
                self.apply(conn, SlotState::recheck)?;
            }
            if looks == LOOKS_PER_STEP {
                break;
            }
        }
        if let Some(FilterReadiness { sweep, .. }) = &mut self.filter_readiness {
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
    fn receive_some_speculatively(&mut self, now: Mark) -> Result<()> {
        let Some(FilterReadiness { speculative: SpeculativeReceives { mut cursor, within, .. }, .. }) =
            self.filter_readiness
        else {
            return Ok(());
        };
        let rows: u32 = self.rings[..self.used].iter().map(|lane| lane.table.used()).sum();
        let step = within
            .mul_f64(LOOKS_PER_STEP as f64 / f64::from(rows.max(1)))
            .clamp(SHORTEST_SPECULATIVE_STEP, LONGEST_SPECULATIVE_STEP);
        let share = f64::from(rows) * step.as_secs_f64() / within.as_secs_f64();
        for _ in 0..(share.ceil() as usize).min(LOOKS_PER_STEP) {
            let Some((conn, lifecycle)) = cursor.next(&self.rings[..self.used]) else { break };
            if lifecycle.awaits_filter() {
                self.apply(conn, SlotState::receive_speculatively)?;
            } else if self.row(conn).is_some_and(|row| row.lifecycle.rearm()) {
                self.rings[conn.ring()].ring.remove_poll(conn.token(Operation::Poll))?;
            }
        }
        if let Some(FilterReadiness { speculative, .. }) = &mut self.filter_readiness {
            (speculative.cursor, speculative.due) = (cursor, now.after(step));
        }
        Ok(())
    }

    /// Lets announcements ring the doorbell, or not.
    pub(super) fn wake_on_notification(&mut self, wake: bool) -> Result<()> {
        let Some(filter_readiness) = &mut self.filter_readiness else { return Ok(()) };
        if wake {
            filter_readiness.filter.sleep()
        } else {
            filter_readiness.filter.wake()
        }
        if wake && !filter_readiness.listening && self.used > 0 {
            filter_readiness.listening = true;
            self.rings[0].ring.poll_filter(filter_readiness.filter.wake_fd())?;
            self.enter(0)?;
        }
        Ok(())
    }
}
