//! Names of connections: what a driver calls them. Where connections may sleep, a connection has a name for life, and a
//! slot while it is awake (`hibernation.rs`). Otherwise its slot's occupant is its name. The engine's part in sleeping
//! and waking is here too.

use std::time::{Duration, Instant};

use super::close_reason::CloseReason;
use super::endings::Parts;
use super::engine::Engine;
use super::hibernation::{Around, Arrival, Hibernation, Kept, Wake};
use super::idle;
use super::platform::Platform;
use super::slots::Cursor;
use crate::connections::lifecycle::{CloseMode, SlotState};
use crate::error::Result;
use crate::ring::{Buffer, RingOps};
use crate::token::{ConnId, Operation};

/// While connections have messages, a pass spends so long on putting connections to sleep and on the ends of sleepers: those
/// messages may have to wait for it. Keepalive probes, and falling asleep while slots are short, are bounded by their
/// number alone.
const HIBERNATION_TIME: Duration = Duration::from_micros(100);

/// What sleeps, and the parts of the engine around it.
type Sleepers<'a, S, R> = (&'a mut Hibernation<S>, Around<'a, S, R>);

impl<S: Default, P: Platform> Engine<S, P> {
    /// What sleeps, and the parts of the engine that this touches; `None` where nothing may sleep.
    pub(super) fn sleepers(&mut self) -> Option<Sleepers<'_, S, P::Ring>> {
        let Engine { hibernation, slots, acceptor, outgoing, counters, readiness, idle, clock, .. } = self;
        let hibernation = hibernation.as_deref_mut()?;
        let parts = Parts { slots, acceptor, outgoing, counters };
        let around = Around {
            parts,
            readiness,
            idle,
            clock,
            #[cfg(feature = "tls")]
            tls: self.tls.as_deref(),
        };
        Some((hibernation, around))
    }

    // ---- from slots to names -----------------------------------------------------------------------

    /// Gives a name to a connection that begins to open. `None` if there may be no more connections.
    pub(super) fn assign_name(&mut self, conn: ConnId) -> Option<ConnId> {
        self.hibernation.as_mut().map_or(Some(conn), |hibernation| hibernation.assign_name(conn))
    }

    /// Gives a connection that has just opened a name, unless it has one: a dialed connection was given its name with
    /// its dial. `false` if there may be no more connections.
    pub(super) fn ensure_named(&mut self, conn: ConnId) -> bool {
        let Some(hibernation) = &mut self.hibernation else { return true };
        hibernation.name_of(conn).is_some() || hibernation.assign_name(conn).is_some()
    }

    /// The name of a slot's occupant.
    #[inline]
    pub fn name_of(&self, conn: ConnId) -> ConnId {
        self.hibernation.as_ref().and_then(|hibernation| hibernation.name_of(conn)).unwrap_or(conn)
    }

    // ---- from names to slots -----------------------------------------------------------------------

    /// The slot's occupant that has a name, which may be gone meanwhile. `None` while it sleeps.
    #[inline]
    pub(super) fn find(&self, name: ConnId) -> Option<ConnId> {
        self.hibernation.as_ref().map_or(Some(name), |hibernation| hibernation.find(&self.slots, name))
    }

    /// Whether a connection sleeps.
    #[inline]
    pub(super) fn is_asleep(&self, name: ConnId) -> bool {
        self.hibernation.as_ref().is_some_and(|hibernation| hibernation.is_asleep(name))
    }

    /// Whether a connection is live, awake or asleep, also while its handshake is under way.
    pub(super) fn is_live(&mut self, name: ConnId) -> bool {
        self.is_asleep(name) || self.find(name).is_some_and(|conn| self.slots.is_live(conn))
    }

    /// The driver's state of a connection.
    pub(super) fn state(&self, name: ConnId) -> Option<&S> {
        match self.find(name) {
            Some(conn) => self.slots.state(conn),
            None => self.hibernation.as_ref()?.state(name),
        }
    }

    /// The driver's state of a connection.
    pub(super) fn state_mut(&mut self, name: ConnId) -> Option<&mut S> {
        match self.find(name) {
            Some(conn) => self.slots.row(conn).map(|row| &mut row.state),
            None => self.hibernation.as_mut()?.state_mut(name),
        }
    }

    /// Moves a cursor behind the next row or entry that ever had a connection, and returns the connection if it is
    /// open. `None` at the end, and the cursor is at the start again.
    pub(super) fn next_name(&self, cursor: &mut Cursor) -> Option<Option<ConnId>> {
        match &self.hibernation {
            Some(hibernation) => hibernation.next(&self.slots, cursor),
            None => self.slots.next(cursor).map(|(conn, row)| row.lifecycle.is_live().then_some(conn)),
        }
    }

    /// Moves a cursor before the row or entry that comes before it, and returns that as `next_name` does; `None` at
    /// the start.
    pub(super) fn previous_name(&self, cursor: &mut Cursor) -> Option<Option<ConnId>> {
        match &self.hibernation {
            Some(hibernation) => hibernation.previous(&self.slots, cursor),
            None => self.slots.previous(cursor).map(|(conn, row)| row.lifecycle.is_live().then_some(conn)),
        }
    }

    /// The connection behind a cursor, if it is open.
    pub(super) fn name_at(&self, cursor: Cursor) -> Option<ConnId> {
        if let Some(hibernation) = &self.hibernation {
            return hibernation.open_behind(&self.slots, cursor);
        }
        let (conn, row) = self.slots.latest(cursor.ring, cursor.slot)?;
        row.lifecycle.is_live().then_some(conn)
    }

    /// Connections that open, are open, or close.
    pub(super) fn in_use(&self) -> u64 {
        let without_slot = self.hibernation.as_ref().map_or(0, |hibernation| hibernation.without_slot(&self.counters));
        self.slots.in_use() + without_slot
    }

    /// How long nothing was received from a connection that is open.
    pub(super) fn silence(&self, name: ConnId) -> Option<Duration> {
        if let Some(heard) = self.hibernation.as_ref().and_then(|hibernation| hibernation.heard(name)) {
            return Some(self.idle.silence(idle::link_of(heard)));
        }
        let conn = self.find(name)?;
        let (latest, row) = self.slots.latest(conn.ring(), conn.slot())?;
        (latest == conn && row.lifecycle.is_live()).then(|| self.idle.silence(row.link))
    }

    /// Bytes for a connection that the kernel has not taken.
    pub(super) fn pending_bytes(&mut self, name: ConnId) -> usize {
        let unsent = self.hibernation.as_ref().map_or(0, |hibernation| hibernation.unsent(name));
        let Some(conn) = self.find(name) else { return unsent };
        let Engine { slots, outgoing, .. } = self;
        if slots.row(conn).is_none() {
            return 0;
        }
        unsent + outgoing.kept(conn) + slots.ring(conn).parked_bytes(conn.token(Operation::ParkedSend))
    }

    /// As `pending_bytes`. If there are any, the driver is told when the kernel has taken all.
    pub(super) fn watch_pending(&mut self, name: ConnId) -> usize {
        let pending = self.pending_bytes(name);
        if pending > 0 {
            self.tell_when_sent(name);
        }
        pending
    }

    /// Has the driver told when the kernel has taken all bytes that are on their way to a connection, or that the driver sends
    /// to it in the same call.
    pub(super) fn tell_when_sent(&mut self, name: ConnId) {
        if let Some(conn) = self.find(name) {
            if self.slots.is_live(conn) {
                self.outgoing.tell_when_sent(conn);
            }
        } else if let Some(hibernation) = &mut self.hibernation {
            hibernation.tell_when_sent(name);
        }
    }

    // ---- caught segments ---------------------------------------------------------------------------

    /// Takes the next segment that was caught for a sleeping connection. `None` if there is none, or if a slot for it is
    /// about to become free: until then it waits in the ring buffer, and is not dropped.
    pub fn next_arrival(&mut self) -> Result<Option<Arrival>> {
        if !self.hibernation.as_mut().is_some_and(|hibernation| hibernation.has_caught()) || self.make_room()? {
            return Ok(None);
        }
        let Some((hibernation, mut around)) = self.sleepers() else { return Ok(None) };
        let Some(arrival) = hibernation.next_arrival(&mut around)? else { return Ok(None) };
        match arrival {
            Arrival::Settled | Arrival::Heard(_) => {}
            Arrival::Woke(conn) => {
                self.park(conn)?;
                self.send_unsent_of(conn)?;
            }
            Arrival::Delivered(conn) => {
                // The connection is busy with the payload, so the kept bytes go out before the driver's reply.
                self.slots.update(conn, SlotState::receive);
                self.send_unsent_of(conn)?;
            }
        }
        Ok(Some(arrival))
    }

    /// Sends what was kept for a connection that is awake again.
    pub(super) fn send_unsent_of(&mut self, conn: ConnId) -> Result<()> {
        let name = self.name_of(conn);
        let kept = self.hibernation.as_mut().and_then(|hibernation| hibernation.take_unsent_of(name));
        let Some(Kept { bytes, closes, .. }) = kept else { return Ok(()) };
        self.outgoing.tell_when_sent(conn);
        self.send(conn, &bytes)?;
        match closes {
            Some((mode, reason)) => self.close(conn, mode, reason),
            None => Ok(()),
        }
    }

    /// The bytes of a woken connection's segment, in a buffer as if they had been received.
    pub fn take_payload(&mut self) -> (Buffer, usize) {
        let mut buffer = self.buffers.take();
        let len = self.hibernation.as_ref().map_or(0, |hibernation| hibernation.copy_payload(buffer.bytes()));
        (buffer, len)
    }

    /// Acknowledges the segment that woke a connection, unless what is sent on it does.
    pub fn acknowledge(&mut self, conn: ConnId) {
        let answers = self.slots.ring(conn).has_send(conn.token(Operation::Send));
        if !answers && let Some(hibernation) = &mut self.hibernation {
            hibernation.acknowledge_delivery(&self.counters);
        }
    }

    /// A message of `len` bytes came for a connection that sleeps on. Tells whether the driver may have it: not once it has closed
    /// the connection, of whose wake it was told before. Such bytes do not count as received.
    pub fn hears(&mut self, name: ConnId, len: usize) -> bool {
        let accepts = match (self.find(name), &self.hibernation) {
            (Some(conn), _) => self.slots.row(conn).is_some_and(|row| row.lifecycle.accepts_bytes()),
            (None, Some(hibernation)) => hibernation.is_asleep(name) && !hibernation.closes_when_sent(name),
            (None, None) => false,
        };
        if accepts {
            self.counters.bytes_in.add(len as u64);
        }
        accepts
    }

    /// The driver has had the message of a connection that sleeps on, and sends `reply` behind what it has sent meanwhile.
    pub fn conclude(&mut self, name: ConnId, reply: &[u8]) -> Result<()> {
        if !reply.is_empty()
            && let Some(conn) = self.wake_to_send(name, reply)?
        {
            self.send(conn, reply)?;
        }
        if let Some((hibernation, around)) = self.sleepers() {
            hibernation.conclude(&around);
        }
        // It was woken meanwhile.
        if let Some(conn) = self.find(name).filter(|conn| self.slots.is_live(*conn)) {
            self.acknowledge(conn);
        }
        Ok(())
    }

    /// Whether the driver has the message of a connection that sleeps on.
    pub(super) fn is_heard_asleep(&self, name: ConnId) -> bool {
        self.hibernation.as_ref().is_some_and(|hibernation| hibernation.is_heard_asleep(name))
    }

    /// The poll on the ring buffer of caught segments has ended.
    pub fn catcher_woke(&mut self) {
        if let Some(hibernation) = &mut self.hibernation {
            hibernation.catcher_woke();
        }
    }

    /// The next connection that fell asleep or woke, and of which the driver was not told yet; with whether it woke.
    #[inline]
    pub fn next_moved(&mut self) -> Option<(ConnId, bool)> {
        self.hibernation.as_mut()?.next_moved()
    }

    /// A connection is used, and does not become drowsy.
    #[inline]
    pub(super) fn used(&mut self, conn: ConnId) {
        if let Some(hibernation) = &mut self.hibernation {
            hibernation.used(conn);
        }
    }

    /// The driver was told of the end of a connection.
    #[inline]
    pub fn told_of_end(&mut self, name: ConnId) {
        self.forget_state(name);
        if let Some(hibernation) = &mut self.hibernation {
            hibernation.forget(name);
        }
    }

    // ---- waking and closing by name ----------------------------------------------------------------

    /// Whether a sleeping connection could be woken now.
    pub(super) fn can_wake(&self) -> bool {
        self.hibernation.is_none() || !self.slots.is_full()
    }

    /// The slot's occupant to which bytes for a name are to be sent; a connection that sleeps is woken. `None` if there
    /// is nothing more to do: the connection is gone, the bytes were sent without a socket, or they are kept until it can be
    /// woken.
    pub(super) fn wake_to_send(&mut self, name: ConnId, bytes: &[u8]) -> Result<Option<ConnId>> {
        let Some((hibernation, around)) = self.sleepers() else { return Ok(Some(name)) };
        if hibernation.send_asleep(&around, name, bytes) {
            return Ok(None);
        }
        let is_recalled = hibernation.recall(name);
        if is_recalled || !hibernation.has_unsent(name) {
            match self.reach(name)? {
                Wake::Awake(conn) => {
                    if is_recalled {
                        self.send_unsent_of(conn)?;
                    }
                    return Ok(Some(conn));
                }
                Wake::Gone => return Ok(None),
                Wake::Later | Wake::NoRoute(_) => {}
            }
        }
        let (most, is_short) = (self.outgoing.most(), self.acceptor.is_short_of_memory());
        if self.hibernation.as_mut().is_some_and(|hibernation| !hibernation.keep_unsent(name, bytes, most, is_short)) {
            self.counters.slow_readers.add(1);
            self.close_named(name, CloseMode::Abort, CloseReason::SlowReader)?;
        }
        Ok(None)
    }

    /// Finds a connection to which something is to be sent. One that sleeps is woken, if that can be now.
    pub(super) fn reach(&mut self, name: ConnId) -> Result<Wake> {
        let woken = match self.sleepers() {
            Some((hibernation, mut around)) => hibernation.wake_to_send(&mut around, name)?,
            None => None,
        };
        match woken {
            None => Ok(self.find(name).map_or(Wake::Gone, Wake::Awake)),
            Some(Wake::Awake(conn)) => {
                // It was not heard.
                let next = self.readiness.park(&mut self.slots, conn)?;
                self.perform(conn, next)?;
                Ok(Wake::Awake(conn))
            }
            Some(wake) => Ok(wake),
        }
    }

    /// Sends what was kept for connections that could not be woken, as far as they can be woken now.
    pub(super) fn send_unsent(&mut self) -> Result<()> {
        /// Connections that are woken for that in one pass.
        const WAKES_PER_PASS: usize = 16;
        let now = self.clock.now();
        for _ in 0..WAKES_PER_PASS {
            let Some(name) = self.hibernation.as_mut().and_then(|hibernation| hibernation.next_unsent(now)) else {
                break;
            };
            let wake = self.reach(name)?;
            let Some(hibernation) = &mut self.hibernation else { break };
            match wake {
                Wake::Awake(conn) => self.send_unsent_of(conn)?,
                Wake::Later => break,
                Wake::NoRoute(errno) => {
                    if !hibernation.await_route(now) {
                        self.close_named(name, CloseMode::Abort, CloseReason::Failed(errno))?;
                    }
                }
                Wake::Gone => drop(hibernation.take_unsent_of(name)),
            }
        }
        Ok(())
    }

    /// Closes a connection that is open; anything else is left alone.
    pub(super) fn close_named(&mut self, name: ConnId, mode: CloseMode, reason: CloseReason) -> Result<()> {
        if let Some(conn) = self.find(name) {
            return self.close(conn, mode, reason);
        }
        if let Some((hibernation, mut around)) = self.sleepers() {
            hibernation.close(&mut around, name, mode, reason);
        }
        Ok(())
    }

    /// Does what is due for connections that sleep or are to sleep.
    pub(super) fn hibernate(&mut self, now: Instant) -> Result<()> {
        match &mut self.hibernation {
            None => return Ok(()),
            // What waits goes along.
            Some(hibernation) if hibernation.is_giving() => {}
            Some(hibernation) => {
                hibernation.recall_late(self.clock.now());
                self.send_unsent()?;
            }
        }
        let platform = self.platform().clone();
        let began = self.has_traffic(now).then(|| platform.now());
        let is_over = || began.is_some_and(|began| platform.now().saturating_duration_since(began) >= HIBERNATION_TIME);
        match self.sleepers() {
            Some((hibernation, mut around)) => hibernation.turn(&mut around, now, &is_over),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
impl<S: Default, P: Platform> Engine<S, P> {
    /// What is kept of connections that sleep or slept: entries in use, and what else.
    pub fn left_of_sleepers(&self) -> (usize, usize) {
        self.hibernation.as_ref().map_or((0, 0), |hibernation| hibernation.left())
    }

    /// Timers of sleepers' ends that are under way.
    pub fn timers_of_sleepers(&self) -> usize {
        self.hibernation.as_ref().map_or(0, |hibernation| hibernation.timers())
    }
}
