//! How connections end: at once, or, where many end together, in batches with rests between them.

use std::collections::{HashMap, VecDeque};
use std::time::Instant;

use super::acceptor::Acceptor;
use super::close_reason::CloseReason;
use super::engine::Engine;
use super::fins::FinQueue;
use super::outgoing::{self, Outgoing};
use super::platform::Platform;
use super::reset_reaper::ResetReaper;
use super::slots::Slots;
use super::traffic::Traffic;
use crate::connections::lifecycle::{Action, CloseMode, SlotState};
use crate::error::Result;
use crate::ring::RingOps;
use crate::stats::Counters;
use crate::token::{ConnId, Operation, Token};

/// The ends of a shard's connections, from the first sign of an end until the driver is told and the slot is closed.
#[derive(Debug)]
pub(super) struct Endings {
    pub fins: FinQueue,
    pub resets: ResetReaper,
    traffic: Traffic,
    /// Connections that ended and whose driver was not told yet.
    untold: VecDeque<(ConnId, CloseReason)>,
    /// How and why connections are to be closed once all is sent, where that is not `ORDINARY`.
    deferred: HashMap<ConnId, (CloseMode, CloseReason)>,
    /// Whether a connection that was reset is asked for its last bytes and for the error.
    drain_after_reset: bool,
}

/// How and why most connections are closed while something is on its way to their peers.
const ORDINARY: (CloseMode, CloseReason) = (CloseMode::Graceful, CloseReason::Local);

/// The parts that the end of a connection touches.
pub(super) struct Parts<'a, S, R> {
    pub slots: &'a mut Slots<S, R>,
    pub acceptor: &'a Acceptor,
    pub outgoing: &'a mut Outgoing,
    pub counters: &'a Counters,
}

impl<S, R> Parts<'_, S, R> {
    /// A live connection has ended: counts that, and gives its place back.
    pub fn leave(&self) {
        self.counters.live.sub(1);
        self.counters.closed.add(1);
        self.acceptor.leave(1);
    }
}

impl<S: Default, R: RingOps> Parts<'_, S, R> {
    /// Whether new connections need slots or memory that ended connections still hold.
    pub fn are_pressed(&self) -> bool {
        self.slots.is_full() || self.acceptor.is_short_of_memory()
    }

    /// Whether new connections wait for a place that the end of another frees, or would have to.
    fn want_places(&self) -> bool {
        self.are_pressed() || self.acceptor.has_queue() || self.acceptor.is_at_capacity(self.counters)
    }
}

impl Endings {
    /// No connection ends. Resets are dismantled in batches of `batch` connections.
    pub fn new(batch: usize, drain_after_reset: bool, now: Instant) -> Endings {
        Endings {
            fins: FinQueue::new(now),
            resets: ResetReaper::new(batch),
            traffic: Traffic::default(),
            untold: VecDeque::new(),
            deferred: HashMap::new(),
            drain_after_reset,
        }
    }

    /// Closes a live connection; any other is left alone. Returns whether it lingers from now on.
    pub fn close<S: Default, R: RingOps>(
        &mut self,
        mut parts: Parts<'_, S, R>,
        conn: ConnId,
        mode: CloseMode,
        reason: CloseReason,
    ) -> Result<bool> {
        let Some(row) = parts.slots.row(conn) else { return Ok(false) };
        if !row.lifecycle.close(mode) {
            if row.lifecycle.is_live() && (mode, reason) != ORDINARY {
                self.deferred.insert(conn, (mode, reason));
            }
            return Ok(false);
        }
        self.leave(&parts, conn, reason);
        match mode {
            CloseMode::Abort => {
                // The reset ends every operation that the connection has in the kernel, its poll included. So the poll
                // need not be removed: finding it would take most of the time of closing.
                parts.slots.ring(conn).reset(conn.token(Operation::Reset))?;
                self.await_reaping(&mut parts, conn, true);
            }
            CloseMode::Graceful | CloseMode::Immediate => tear_down(&mut parts, conn)?,
            CloseMode::Lingering => return Ok(true),
        }
        Ok(false)
    }

    /// The poll tells that both directions are over, as after a RST, or as the kernel has given the connection up. What came
    /// before it is void (RFC 9293, 3.10.7.4), and an answer could not be sent: unless the configuration asks for the last
    /// bytes, nothing is received. The kernel is asked for the error, as the poll does not tell why; but where many
    /// connections end at once, each is taken for one that was reset. Returns what is to be done.
    pub fn reset_seen<S: Default, R: RingOps>(
        &mut self,
        mut parts: Parts<'_, S, R>,
        conn: ConnId,
        armed: bool,
        now: Instant,
    ) -> Result<Action> {
        if self.drain_after_reset || !parts.slots.is_live(conn) {
            return Ok(parts.slots.tell(conn, |state| state.poll_fired(armed)));
        }
        if self.resets.is_empty() && self.fins.may_close_at_once(now) {
            parts.slots.update(conn, |state| _ = state.poll_fired(armed));
            // A data operation that is under way is told of the error.
            if !parts.slots.row(conn).is_some_and(|row| row.lifecycle.is_busy()) {
                outgoing::ask_for_error(parts.slots, conn)?;
            }
            return Ok(Action::Rest);
        }
        self.leave(&parts, conn, CloseReason::PeerReset);
        self.await_reaping(&mut parts, conn, armed);
        Ok(Action::Rest)
    }

    /// The poll fired, and tells of a FIN: receive what is there, unless that is to wait. Returns what is to be done.
    pub fn fin_came<S: Default, R: RingOps>(
        &mut self,
        parts: Parts<'_, S, R>,
        conn: ConnId,
        armed: bool,
        now: Instant,
    ) -> Action {
        let next = parts.slots.tell(conn, |state| state.poll_fired(armed));
        if next != Action::Receive || self.drain_after_reset || self.may_take_fin(&parts, now) {
            return next;
        }
        parts.slots.update(conn, SlotState::wait);
        self.fins.push(conn);
        Action::Rest
    }

    /// A receive found the end of what the peer sends: all that came before it was received and answered. What the driver
    /// has sent while the receive was under way goes before the end.
    pub fn peer_ended<S: Default, R: RingOps>(
        &mut self,
        mut parts: Parts<'_, S, R>,
        conn: ConnId,
        now: Instant,
    ) -> Result<()> {
        let state = parts.slots.row(conn).map(|row| row.lifecycle);
        if let Some(state) = state.filter(|state| state.is_live() && state.keeps_bytes()) {
            // It may be about to be closed already, for a reason of its own.
            if state.closes_when_sent() {
                return Ok(());
            }
            return self.close(parts, conn, CloseMode::Graceful, CloseReason::PeerClosed).map(drop);
        }
        let at_once = self.drain_after_reset || (self.resets.is_empty() && self.fins.may_close_at_once(now));
        if at_once || !parts.slots.is_live(conn) {
            return self.close(parts, conn, CloseMode::Immediate, CloseReason::PeerClosed).map(drop);
        }
        self.leave(&parts, conn, CloseReason::PeerClosed);
        self.await_reaping(&mut parts, conn, true);
        Ok(())
    }

    /// Whether a FIN may be received now.
    pub fn may_take_fin<S: Default, R: RingOps>(&mut self, parts: &Parts<'_, S, R>, now: Instant) -> bool {
        !self.has_traffic(parts.counters, now) || parts.want_places() || self.fins.may_take(now)
    }

    /// Begins a batch of connections to dismantle, unless it is time to rest. Returns the batch's ring.
    pub fn begin_batch<S: Default, R: RingOps>(&mut self, parts: &Parts<'_, S, R>, now: Instant) -> Option<usize> {
        let Endings { resets, traffic, .. } = self;
        resets.begin_batch(now, || traffic.flows(parts.counters, now) && !parts.are_pressed())
    }

    /// Whether the shard received a message lately.
    pub fn has_traffic(&mut self, counters: &Counters, now: Instant) -> bool {
        self.traffic.flows(counters, now)
    }

    /// Another process has a connection that was to be closed once all was sent.
    pub fn forget(&mut self, conn: ConnId) {
        self.deferred.remove(&conn);
    }

    /// How and why a connection is closed now that all was sent.
    pub fn deferred(&self, conn: ConnId) -> (CloseMode, CloseReason) {
        self.deferred.get(&conn).copied().unwrap_or(ORDINARY)
    }

    /// The driver is to be told of an end.
    pub fn tell(&mut self, conn: ConnId, reason: CloseReason) {
        self.untold.push_back((conn, reason));
    }

    /// The next end of which the driver was not told yet.
    #[inline]
    pub fn next_untold(&mut self) -> Option<(ConnId, CloseReason)> {
        self.untold.pop_front()
    }

    /// A live connection has ended: gives its place back.
    fn leave<S, R>(&mut self, parts: &Parts<'_, S, R>, conn: ConnId, reason: CloseReason) {
        parts.leave();
        let earlier = if self.deferred.is_empty() { None } else { self.deferred.remove(&conn) };
        self.tell(conn, reason.unless_closed(earlier));
    }

    /// Queues an ended connection to be dismantled when there is time.
    fn await_reaping<S: Default, R: RingOps>(&mut self, parts: &mut Parts<'_, S, R>, conn: ConnId, armed: bool) {
        parts.slots.update(conn, |state| state.await_reaping(armed));
        parts.outgoing.forget(conn);
        self.resets.push(conn);
    }
}

/// Queues all that frees a closing slot: the removal of its poll, the end of its parked send, and closing its
/// descriptor.
pub(super) fn tear_down<S: Default, R: RingOps>(parts: &mut Parts<'_, S, R>, conn: ConnId) -> Result<()> {
    free_slot(parts, conn, SlotState::tear_down, R::close)
}

/// The same for a connection whose socket was disconnected. The disconnect has ended its poll, and most of the time would
/// be spent on finding the poll to remove it. The socket may serve another connection later, which a shutdown would end:
/// a disconnected socket stays shut down when it is connected again (`inet_shutdown` in net/ipv4/af_inet.c).
pub(super) fn tear_down_disconnected<S: Default, R: RingOps>(parts: &mut Parts<'_, S, R>, conn: ConnId) -> Result<()> {
    free_slot(parts, conn, SlotState::tear_down_disconnected, R::close_ours)
}

/// Frees a slot. `leave` tells its state, and returns whether its poll must be removed; `close` closes its descriptor.
fn free_slot<S: Default, R: RingOps>(
    parts: &mut Parts<'_, S, R>,
    conn: ConnId,
    leave: impl FnOnce(&mut SlotState) -> bool,
    close: impl FnOnce(&mut R, Token) -> Result<()>,
) -> Result<()> {
    let Some(row) = parts.slots.row(conn) else { return Ok(()) };
    let polling = leave(&mut row.lifecycle);
    parts.outgoing.forget(conn);
    let (ring, token) = (parts.slots.ring(conn), conn.token(Operation::Close));
    if polling {
        ring.remove_poll(token)?;
    }
    if ring.has_parked_send(token) {
        ring.cancel(token, Operation::ParkedSend)?;
    }
    close(ring, token)
}

impl<S: Default, P: Platform> Engine<S, P> {
    /// Dismantles a batch of the connections that are over, unless it is time to rest.
    pub(super) fn reap_resets(&mut self, now: Instant) -> Result<()> {
        let (endings, parts) = self.ending();
        let Some(ring) = endings.begin_batch(&parts, now) else { return Ok(()) };
        let began = self.platform.now();
        let (endings, mut parts) = self.ending();
        let mut done = 0;
        while let Some(conn) = endings.resets.next_of_batch(ring, done) {
            tear_down(&mut parts, conn)?;
            done += 1;
        }
        self.slots.enter(ring, &self.counters)?;
        self.endings.resets.batch_ended(began, self.platform.now());
        Ok(())
    }
}
