//! Waiting behind a filter (`sys/filter.rs`), without a poll in the kernel. Each notification of the filter leads to
//! one receive. `lifecycle.rs` explains which further receives are needed so that nothing is missed:
//!
//! - Connections that were announced lately are checked twice, with a pause in between. A sweep over all rows finds
//!   them, as long as there may be any.
//! - The others receive speculatively, each in its turn.

use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use crate::clock::Mark;
use crate::connections::config::{FilterConfig, Timing};
use crate::connections::lifecycle::{Action, SlotState};
use crate::connections::slots::{Cursor, Slots};
use crate::error::{Errno, Error, Result};
use crate::ring::RingOps;
use crate::sys::{Filter, Notification};
use crate::token::{ConnId, Operation};

/// Notifications of segments that a shard takes in one pass. Each may be a message. With 10,000 active connections
/// fewer at a time are faster, because their sockets are still in the core's cache when they are answered; with 64 in
/// a pass, 100 active connections are slower.
pub const NOTIFICATIONS_PER_PASS: usize = 128;

/// Notifications of resets that a shard takes in one pass. No peer waits for an answer to them.
pub const RESETS_PER_PASS: usize = 32;

/// Rows that one step of the sweep reads. One step each `STEP` makes two million rows a second, for 1 % of a core.
const ROWS_PER_STEP: usize = 2_048;

/// Connections that receive in one step at most, of the sweep or of the speculative receives.
const LOOKS_PER_STEP: usize = 64;

/// The time from one step of the sweep to the next.
const STEP: Duration = Duration::from_millis(1);

/// The filter of a shard, and the progress of the checks of its connections.
pub struct FilterReadiness {
    filter: Filter,
    /// The first place of each ring among the filter's places.
    starts: Vec<u32>,
    /// A poll on the filter's wake-up descriptor is in the kernel.
    polled: bool,
    sweep: Sweep,
    speculative: SpeculativeReceives,
    timing: Timing,
}

/// The sweep over all rows for connections that may have missed something.
#[derive(Default)]
struct Sweep {
    /// The next row of the round.
    cursor: Cursor,
    /// When the next step is due; `None` if no connection may have missed anything.
    due: Option<Mark>,
    /// Whether this round has found a connection that may have missed something. Then there is another round.
    found: bool,
    /// Rows that the present step may still read, and connections that may still receive in it.
    rows: usize,
    looks: usize,
}

/// The speculative receives: of connections that are not known to have missed anything.
struct SpeculativeReceives {
    cursor: Cursor,
    /// When the next step is due.
    due: Mark,
    /// Each connection receives once in this time.
    period: Duration,
    /// Connections that may still receive in the present step.
    left: usize,
}

impl FilterReadiness {
    /// Watches the connections in rings of these slots.
    pub fn new(filter: FilterConfig, rings: &[u32], timing: &Timing, now: Mark) -> FilterReadiness {
        let mut places = 0;
        let mut starts = Vec::new();
        for slots in rings {
            starts.push(places);
            places += slots;
        }
        let due = now.after(timing.longest_speculative_step);
        let period = filter.speculative_period;
        FilterReadiness {
            filter: filter.filter,
            starts,
            polled: false,
            sweep: Sweep::default(),
            speculative: SpeculativeReceives { cursor: Cursor::START, due, period, left: 0 },
            timing: *timing,
        }
    }

    // ---- connections come ----------------------------------------------------------------------

    /// Watches a socket that no listener accepted. A descriptor that is no socket is ignored here: the ring refuses it.
    pub fn attach_dialed(&self, conn: ConnId, socket: &impl AsRawFd) -> Result<()> {
        let adopted = self.filter.attach(socket).and_then(|()| self.filter.set_place(socket, self.place(conn)));
        adopted.or_else(|error| match Errno::of(&error) {
            Errno::EBADF => Ok(()),
            errno => Err(Error::bug(format!("filter on a socket to be dialed: {errno}"))),
        })
    }

    /// Gives this filter to a socket that has another process's.
    pub fn attach(&self, socket: &OwnedFd) -> Result<()> {
        let refused = |error| Error::bug(format!("filter on a socket of another process: {}", Errno::of(&error)));
        self.filter.attach(socket).map_err(refused)
    }

    /// Takes an accepted connection out of its plain descriptor into its slot, known to the filter by its place.
    /// `false` if the kernel refuses it.
    pub fn install_accepted<S: Default, R: RingOps>(
        &self,
        slots: &mut Slots<S, R>,
        conn: ConnId,
        socket: OwnedFd,
    ) -> Result<bool> {
        if self.filter.set_place(&socket, self.place(conn)).is_err() {
            return Ok(false);
        }
        slots.ring(conn).install_accepted(socket, conn.token(Operation::InstallAccepted))?;
        Ok(true)
    }

    /// Lets a connection wait behind the filter. Returns what is to be done for it first.
    pub fn watch<S: Default, R: RingOps>(&mut self, slots: &mut Slots<S, R>, conn: ConnId) -> Action {
        self.sweep.found = true;
        slots.tell(conn, SlotState::await_filter)
    }

    fn place(&self, conn: ConnId) -> u32 {
        self.starts[conn.ring()] + conn.slot()
    }

    /// The ring of a place, and the slot in it.
    fn slot(&self, place: u32) -> (usize, u32) {
        let ring = self.starts.partition_point(|start| *start <= place).saturating_sub(1);
        (ring, place - self.starts[ring])
    }

    // ---- notifications -------------------------------------------------------------------------

    /// Whether there are notifications that must not wait.
    pub fn has_notifications(&self) -> bool {
        self.filter.has_notifications()
    }

    /// Whether there are notifications of FINs.
    pub fn has_fins(&mut self) -> bool {
        self.filter.has_fins()
    }

    /// Whether there are notifications of resets or FINs.
    pub fn has_ends(&self) -> bool {
        self.filter.has_ends()
    }

    /// Takes the next notification of a kind, as `Readiness::next_notification`.
    pub fn next_notification<S: Default, R: RingOps>(
        &mut self,
        slots: &mut Slots<S, R>,
        kind: Notification,
    ) -> Option<Option<(ConnId, Action)>> {
        let place = self.filter.next_notification(kind)?;
        let (ring, slot) = self.slot(place);
        // It may be for an earlier connection of the slot. The present connection's receive then finds nothing.
        let watched = slots.latest(ring, slot).filter(|(_, row)| row.lifecycle.awaits_filter());
        let Some((conn, _)) = watched else { return Some(None) };
        self.sweep.found = true;
        let reset = kind == Notification::Reset;
        let event = if reset { SlotState::notified_of_reset } else { SlotState::notified };
        Some(Some((conn, slots.tell(conn, event))))
    }

    /// The poll on the wake-up descriptor has fired. If it is `armed`, it is a lasting one and still waits.
    pub fn filter_woke(&mut self, armed: bool) {
        self.polled = armed;
    }

    /// Lets announcements make the wake-up descriptor readable, or not.
    pub fn wake_on_notification(&mut self, wake: bool) {
        if wake { self.filter.sleep() } else { self.filter.wake() }
    }

    /// Has a ring poll the wake-up descriptor, unless it does. The poll is a lasting one: the kernel tells of each
    /// announcement that is to wake the shard, whether or not earlier ones have been read.
    pub fn poll_in(&mut self, ring: &mut impl RingOps) -> Result<()> {
        if !std::mem::replace(&mut self.polled, true) {
            ring.poll_wake(self.filter.wake_fd(), Operation::FilterWake, true)?;
        }
        Ok(())
    }

    // ---- looks at connections that were not announced --------------------------------------------

    /// When a step of the sweep or of the speculative receives is due.
    pub fn due(&self, now: Mark) -> Mark {
        let first_look = self.sweep.found.then(|| now.after(self.timing.segment_time));
        self.sweep.due.or(first_look).map_or(self.speculative.due, |sweep| sweep.min(self.speculative.due))
    }

    /// Begins a step of the sweep if one is due. Then `next_look` names the connections of the step.
    pub fn begin_sweep_step(&mut self, now: Mark) -> bool {
        let Sweep { due, found, rows, looks, .. } = &mut self.sweep;
        if *found && due.is_none() {
            *due = Some(now.after(self.timing.segment_time));
        }
        let begins = due.is_some_and(|due| due <= now);
        if begins {
            (*rows, *looks) = (ROWS_PER_STEP, LOOKS_PER_STEP);
        }
        begins
    }

    /// The next connection of this step that may have missed something, with what is to be done for it; `None` when
    /// the step is over.
    pub fn next_look<S: Default, R: RingOps>(
        &mut self,
        slots: &mut Slots<S, R>,
        now: Mark,
    ) -> Option<(ConnId, Action)> {
        let sweep = &mut self.sweep;
        while sweep.rows > 0 && sweep.looks > 0 {
            sweep.rows -= 1;
            let Some((conn, row)) = slots.next(&mut sweep.cursor) else {
                // A row is not checked again before the pause is over.
                sweep.due = std::mem::take(&mut sweep.found).then_some(now.after(self.timing.segment_time));
                return None;
            };
            let state = row.lifecycle;
            if state.may_have_missed() {
                sweep.found = true;
                sweep.looks -= usize::from(state.was_rechecked());
                return Some((conn, slots.tell(conn, SlotState::recheck)));
            }
        }
        sweep.due = Some(now.after(STEP));
        None
    }

    /// Begins a step of the speculative receives if one is due. Then `next_speculative` names its connections.
    pub fn begin_speculative_step<S: Default, R: RingOps>(&mut self, slots: &Slots<S, R>, now: Mark) -> bool {
        let SpeculativeReceives { due, period, left, .. } = &mut self.speculative;
        if *due > now {
            return false;
        }
        let rows = slots.rows();
        let step = period
            .mul_f64(LOOKS_PER_STEP as f64 / f64::from(rows.max(1)))
            .clamp(self.timing.shortest_speculative_step, self.timing.longest_speculative_step);
        let share = f64::from(rows) * step.as_secs_f64() / period.as_secs_f64();
        *left = (share.ceil() as usize).min(LOOKS_PER_STEP);
        *due = now.after(step);
        true
    }

    /// The next connection of this step, with what is to be done for it; `None` when the step is over. A connection
    /// that waits in a poll because an announced segment never came returns behind the filter.
    pub fn next_speculative<S: Default, R: RingOps>(
        &mut self,
        slots: &mut Slots<S, R>,
    ) -> Result<Option<(ConnId, Action)>> {
        while self.speculative.left > 0 {
            self.speculative.left -= 1;
            let Some((conn, row)) = slots.next(&mut self.speculative.cursor) else { break };
            if row.lifecycle.awaits_filter() {
                return Ok(Some((conn, slots.tell(conn, SlotState::receive_speculatively))));
            }
            if slots.row(conn).is_some_and(|row| row.lifecycle.rearm()) {
                slots.ring(conn).remove_poll(conn.token(Operation::Poll))?;
            }
        }
        Ok(None)
    }
}
