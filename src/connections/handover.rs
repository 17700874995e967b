//! Connections from one process to the next, while they are awake. The next process gets each connection's socket, and
//! what this one had still to do for it.
//!
//! ```text
//!   LIVE ──prepare──▶ quiet: no receive, no poll ──pack──▶ AWAY ──the other process has it──▶ CLOSING, without a FIN
//!     ▲                                                      │
//!     └───────────────the other process is gone──────────────┘
//! ```
//!
//! Until it is packed a connection goes on as ever, but that nothing more is received: it is sent to, and may be closed.

mod sleepers;

use std::collections::HashMap;
use std::io;
use std::net::TcpListener;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use super::close_reason::CloseReason;
use super::engine::Engine;
use super::platform::Platform;
use super::slots::Cursor;
use super::{CloseMode, Connections};
use crate::connections::lifecycle::SlotState;
use crate::error::{Errno, Result};
use crate::ring::RingOps;
use crate::sys;
use crate::token::{ConnId, Operation};
use crate::wiped::Wiped;
pub use sleepers::SleepersFrom;

/// A connection on its way from one process to another.
#[derive(Debug)]
pub struct Handed {
    /// Its socket.
    pub socket: OwnedFd,
    /// What the rest of it is.
    pub state: HandedState,
}

/// What a connection that is handed over has beside its socket.
#[derive(Debug, PartialEq, Eq, Default)]
pub struct HandedState {
    /// Its name, where connections have names for life.
    pub name: Option<ConnId>,
    /// Whole windows of time since it was heard (`idle.rs`).
    pub silence: u16,
    /// The driver wants to receive nothing more.
    pub reads_paused: bool,
    /// It is closed in order once all bytes have been sent.
    pub closes: Option<Closes>,
    /// Bytes had to wait, and the driver is to be told when the kernel has taken the last of them.
    pub tells_when_sent: bool,
    /// Bytes that are to be sent. With TLS they are sealed.
    pub unsent: Vec<u8>,
    /// With TLS, the session (`tls/carried.rs`); `None` also for a connection whose handshake has not begun.
    pub tls: Option<Wiped>,
    /// Since when nothing is received on it (CLOCK_MONOTONIC, in microseconds). All processes of a host have that clock.
    pub quiet_since: u64,
}

impl HandedState {
    /// How long nothing has been received on it.
    pub fn pause(&self) -> Duration {
        Duration::from_micros(microseconds().saturating_sub(self.quiet_since))
    }
}

/// How and why a connection is closed once all bytes have been sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Closes {
    /// It lingers after its end.
    pub lingers: bool,
    /// Its deadline passed. Otherwise the driver wanted it.
    pub because_late: bool,
}

impl From<(CloseMode, CloseReason)> for Closes {
    fn from((mode, reason): (CloseMode, CloseReason)) -> Closes {
        Closes { lingers: mode == CloseMode::Lingering, because_late: reason == CloseReason::Deadline }
    }
}

impl Closes {
    /// How and why, as the engine says it.
    pub(super) fn how(self) -> (CloseMode, CloseReason) {
        let mode = if self.lingers { CloseMode::Lingering } else { CloseMode::Graceful };
        (mode, if self.because_late { CloseReason::Deadline } else { CloseReason::Local })
    }
}

/// How far a connection is that is to leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadinessToLeave {
    /// Something of it is in the kernel.
    NotYet,
    /// It can be packed.
    Ready,
    /// Its handshake has begun meanwhile: it stays until that is over.
    Shaking,
    /// It has ended.
    Gone,
}

/// Connections that are about to leave, by slot.
#[derive(Debug, Default)]
pub(super) struct Departures(HashMap<ConnId, Departure>);

impl Departures {
    /// The driver pauses the reads of a connection, or wants to go on reading. Returns whether it is about to leave: then
    /// nothing is received here, and the process that gets it is told.
    pub fn set_reads_paused(&mut self, conn: ConnId, paused: bool) -> bool {
        let departure = self.0.get_mut(&conn);
        departure.map(|departure| departure.reads_paused = paused).is_some()
    }

    /// Whether the driver has paused the reads of a connection. `None` if it is not about to leave.
    pub fn has_paused_reads(&self, conn: ConnId) -> Option<bool> {
        self.0.get(&conn).map(|departure| departure.reads_paused)
    }
}

#[derive(Debug, Default)]
struct Departure {
    /// The driver had paused its reads before.
    reads_paused: bool,
    /// What a send that waited in the kernel has not brought there.
    rest: Option<(Arc<[u8]>, Range<usize>)>,
    /// See `HandedState`.
    quiet_since: u64,
}

/// CLOCK_MONOTONIC in microseconds.
fn microseconds() -> u64 {
    sys::monotonic_time().as_micros() as u64
}

impl<S: Default, P: Platform> Engine<S, P> {
    /// A parked send ended before the kernel had taken every byte: it was cancelled, or is broken.
    pub fn parked_send_cut(&mut self, conn: ConnId, bytes: Arc<[u8]>, rest: Range<usize>) -> Result<()> {
        if !self.slots.is_live(conn) {
            return self.broke(conn, Errno::EPIPE);
        }
        match self.departures.0.get_mut(&conn) {
            // It stays busy, so that what else is to be sent is kept behind these bytes.
            Some(departure) => {
                departure.rest = Some((bytes, rest));
                Ok(())
            }
            // It was to leave, and stays. Where the connection is broken, the next send tells.
            None => self.slots.ring(conn).park_send(conn.token(Operation::ParkedSend), bytes, rest),
        }
    }

    /// A connection that was to leave has ended. If it was busy only with what a cancelled send had left, it is no more.
    fn ended_before_leaving(&mut self, conn: ConnId) -> Result<()> {
        match self.departures.0.remove(&conn) {
            Some(Departure { rest: Some(_), .. }) => self.operation_ended(conn),
            _ => Ok(()),
        }
    }

    /// Has the kernel end what it does for a connection that is to leave.
    fn quiet(&mut self, conn: ConnId) -> Result<()> {
        let Some(row) = self.slots.row(conn) else { return Ok(()) };
        let polling = row.lifecycle.is_polling();
        let ring = self.slots.ring(conn);
        if polling {
            ring.remove_poll(conn.token(Operation::Poll))?;
        }
        if ring.has_parked_send(conn.token(Operation::ParkedSend)) {
            ring.cancel(conn.token(Operation::Cancel), Operation::ParkedSend)?;
        }
        Ok(())
    }

    /// A connection that has come from another process cannot be kept.
    fn lose_expected(&mut self, conn: ConnId) {
        self.slots.release(conn);
        self.counters.lost_in_takeover.add(1);
        self.acceptor.expected_is_lost();
    }

    /// A plain descriptor of a slot's socket. The outer error is a failure of the ring.
    pub(super) fn plain(&mut self, conn: ConnId) -> Result<io::Result<OwnedFd>> {
        self.counters.enters.add(1);
        match self.hibernation.as_ref().and_then(|hibernation| hibernation.kept(conn)) {
            Some(kept) => Ok(kept),
            None => self.slots.ring(conn).copy_descriptor(conn.token(Operation::CopyDescriptor)),
        }
    }
}

/// Without TLS there is nothing to hand over, and nothing to wait for.
#[cfg(not(feature = "tls"))]
impl<S: Default, P: Platform> Engine<S, P> {
    fn let_handshakes_begin(&mut self, _may: bool) {}

    fn is_shaking(&self, _name: ConnId) -> bool {
        false
    }

    fn has_session(&self, _name: ConnId) -> bool {
        false
    }

    fn carry_tls(&mut self, _name: ConnId) -> Option<Wiped> {
        None
    }

    fn bring_tls(&mut self, _name: ConnId, carried: Option<&Wiped>) -> bool {
        carried.is_none()
    }

    fn await_handshakes_of_sleepers(&mut self) {}

    fn rouse_shaking(&mut self) -> Result<()> {
        Ok(())
    }

    fn end_handshakes(&mut self) -> Result<()> {
        Ok(())
    }
}

impl<S: Default, P: Platform> Connections<S, P> {
    // ---- listeners -------------------------------------------------------------------------------

    /// Accepts nothing more, begins no handshake, and leaves the listeners to another process. `true` once no accept is in
    /// flight, and no accepted connection waits for a place. To be called again until then.
    pub fn stop_accepting(&mut self) -> Result<bool> {
        let engine = &mut self.engine;
        engine.acceptor.stop_accepting();
        engine.let_handshakes_begin(false);
        if engine.acceptor.unfinished() == 0 {
            return Ok(true);
        }
        // An accept that the kernel is just trying again is not cancelled, and waits again: hence each time anew.
        let mut cursor = Cursor::START;
        while let Some((conn, row)) = engine.slots.next(&mut cursor) {
            if row.lifecycle.is_opening() {
                engine.slots.ring(conn).cancel(conn.token(Operation::Cancel), Operation::Accept)?;
            }
        }
        Ok(false)
    }

    /// Accepts again after `stop_accepting`, with `each` accepts in flight on every listener, as the process is gone
    /// that had them. `attach` sets their programs anew.
    pub fn accept_again(&mut self, each: usize, attach: impl Fn(&TcpListener) -> Result<()>) -> Result<()> {
        self.engine.let_handshakes_begin(true);
        if let Some(hibernation) = &mut self.engine.hibernation {
            hibernation.expect_other_programs();
        }
        self.engine.acceptor.accept_again(each, attach)
    }

    /// Listeners that `listen` is given come from an earlier process, each with an accept queue of `backlog`.
    pub fn inherit_listeners(&mut self, backlog: usize) {
        self.engine.acceptor.inherit(backlog);
    }

    // ---- those that are awake --------------------------------------------------------------------

    /// The next connection that may leave: the first behind a place that is live and was not chosen yet, and whose handshake
    /// is not under way. Looks at `rows`
    /// rows at most, and takes those off that. The place is at the start again behind the last row.
    pub fn next_to_leave(&self, place: &mut Cursor, rows: &mut usize) -> Option<ConnId> {
        while *rows > 0 {
            *rows -= 1;
            let (conn, row) = self.engine.slots.next(place)?;
            if row.lifecycle.is_live()
                && !self.engine.departures.0.contains_key(&conn)
                && !self.engine.is_shaking(self.engine.name_of(conn))
            {
                return Some(conn);
            }
        }
        None
    }

    /// Wakes the sleeping connections whose handshakes are under way, as such a connection cannot be given away; one for
    /// which no slot is free is reset.
    pub fn rouse_shaking(&mut self) -> Result<()> {
        self.engine.rouse_shaking()
    }

    /// Closes the connections whose handshakes are still under way, as ones that were not over in time.
    pub fn end_handshakes(&mut self) -> Result<()> {
        self.engine.end_handshakes()
    }

    /// The sleeping connections, with their names.
    pub fn sleeping(&self) -> Vec<ConnId> {
        let mut place = Cursor::START;
        let names = std::iter::from_fn(|| self.engine.next_name(&mut place)).flatten();
        names.filter(|name| self.engine.is_asleep(*name)).collect()
    }

    /// Whether any connection is here: opening, live, on its way, or closing.
    pub fn has_any_slot(&self) -> bool {
        self.engine.slots.in_use() > 0
    }

    /// A connection is to leave: nothing more is received on it. Its slot's occupant is named here, and in the calls
    /// below.
    pub fn prepare_to_leave(&mut self, conn: ConnId) -> Result<()> {
        let engine = &mut self.engine;
        let Some(row) = engine.slots.row(conn) else { return Ok(()) };
        let reads_paused = row.lifecycle.has_paused_reads();
        row.lifecycle.pause_reads();
        engine.departures.0.insert(conn, Departure { reads_paused, rest: None, quiet_since: microseconds() });
        engine.quiet(conn)
    }

    /// The name by which the driver knows a slot's occupant.
    pub fn name_at_slot(&self, conn: ConnId) -> ConnId {
        self.engine.name_of(conn)
    }

    /// How far a connection is that is to leave. One that is not ready is asked to hurry again.
    pub fn readiness_to_leave(&mut self, conn: ConnId) -> Result<ReadinessToLeave> {
        let engine = &mut self.engine;
        let rest = engine.departures.0.get(&conn).is_some_and(|departure| departure.rest.is_some());
        let state = engine.slots.row(conn).map(|row| row.lifecycle);
        let Some(state) = state.filter(|state| state.is_live()) else {
            engine.ended_before_leaving(conn)?;
            return Ok(ReadinessToLeave::Gone);
        };
        if engine.is_shaking(engine.name_of(conn)) {
            self.stays(conn)?;
            return Ok(ReadinessToLeave::Shaking);
        }
        if !state.is_polling() && (!state.is_busy() || rest) {
            return Ok(ReadinessToLeave::Ready);
        }
        engine.quiet(conn)?;
        Ok(ReadinessToLeave::NotYet)
    }

    /// Packs a connection that is ready. From now on it is neither sent to nor closed here. Fails where no descriptor is
    /// left; it is as it was then.
    pub fn pack(&mut self, conn: ConnId) -> Result<io::Result<Handed>> {
        let socket = match self.engine.plain(conn)? {
            Ok(socket) => socket,
            Err(error) => return Ok(Err(error)),
        };
        let engine = &mut self.engine;
        let departure = engine.departures.0.entry(conn).or_default();
        let (reads_paused, quiet_since, rest) = (departure.reads_paused, departure.quiet_since, departure.rest.take());
        let mut unsent = rest.map(|(bytes, range)| bytes[range].to_vec()).unwrap_or_default();
        let (kept, tells_when_sent) = engine.outgoing.take(conn);
        unsent.extend(kept);
        let name = engine.hibernation.as_ref().and_then(|hibernation| hibernation.name_of(conn));
        let tls = engine.carry_tls(engine.name_of(conn));
        let mut state =
            HandedState { name, reads_paused, tells_when_sent, unsent, tls, quiet_since, ..HandedState::default() };
        if let Some(row) = engine.slots.row(conn) {
            state.silence = engine.idle.windows_of_silence(row.link);
            state.closes = row.lifecycle.closes_when_sent().then(|| engine.endings.deferred(conn).into());
            row.lifecycle.go_away();
        }
        Ok(Ok(Handed { socket, state }))
    }

    /// Another process has a connection that was packed. Its slot is freed.
    pub fn left(&mut self, conn: ConnId) -> Result<()> {
        let engine = &mut self.engine;
        engine.departures.0.remove(&conn);
        let Some(row) = engine.slots.row(conn) else { return Ok(()) };
        row.lifecycle.leave();
        engine.outgoing.forget(conn);
        engine.endings.forget(conn);
        if let Some(hibernation) = &mut engine.hibernation {
            hibernation.leave_slot(conn.ring(), conn.slot());
        }
        engine.counters.live.sub(1);
        engine.counters.handed_over.add(1);
        engine.acceptor.leave(1);
        engine.slots.ring(conn).close_ours(conn.token(Operation::Close))
    }

    /// The process is gone that a packed connection was to go to, and did not get it: it goes on here.
    pub fn returned(&mut self, conn: ConnId, state: HandedState) -> Result<()> {
        let engine = &mut self.engine;
        engine.departures.0.remove(&conn);
        let Some(row) = engine.slots.row(conn) else { return Ok(()) };
        let next = row.lifecycle.come_back(state.reads_paused);
        let name = engine.name_of(conn);
        if !engine.has_session(name) && !engine.bring_tls(name, state.tls.as_ref()) {
            return engine.close(conn, CloseMode::Abort, CloseReason::Local);
        }
        self.send_unsent(conn, state.unsent, state.tells_when_sent)?;
        let engine = &mut self.engine;
        if !engine.slots.row(conn).is_some_and(|row| row.lifecycle.is_busy()) {
            engine.perform(conn, next)?;
        }
        Ok(())
    }

    /// A connection that was to leave stays. One that has ended meanwhile is left alone.
    pub fn stays(&mut self, conn: ConnId) -> Result<()> {
        if !self.engine.slots.is_live(conn) {
            return self.engine.ended_before_leaving(conn);
        }
        let Some(departure) = self.engine.departures.0.remove(&conn) else { return Ok(()) };
        let rest = departure.rest.map(|(bytes, range)| bytes[range].to_vec()).unwrap_or_default();
        let busy = self.engine.slots.row(conn).is_some_and(|row| row.lifecycle.is_busy());
        if busy && rest.is_empty() {
            // Its operation goes on, and what comes after it too.
            return if departure.reads_paused { Ok(()) } else { self.engine.apply(conn, SlotState::resume_reads) };
        }
        let (kept, tells_when_sent) = self.engine.outgoing.take(conn);
        let unsent = [rest, kept].concat();
        self.returned(
            conn,
            HandedState { reads_paused: departure.reads_paused, tells_when_sent, unsent, ..HandedState::default() },
        )
    }

    /// Connections that are awake here.
    pub fn awake(&self) -> u64 {
        let counters = self.counters();
        counters.live.get().saturating_sub(counters.asleep.get())
    }

    /// So many connections that are awake in another process are still to come from it. Takes places within the limits
    /// for those beyond the number that was expected before, or gives places back.
    pub fn expect(&mut self, connections: u64) {
        self.engine.acceptor.expect(connections);
    }

    /// A connection that is to leave cannot be packed, and is lost.
    pub fn lose(&mut self, conn: ConnId) -> Result<()> {
        self.counters().lost_in_takeover.add(1);
        self.engine.close(conn, CloseMode::Abort, CloseReason::Local)
    }

    /// Takes a connection over from another process. `Err` gives it back while no slot is free. Returns the name by
    /// which the driver knows it; `None` if the connection cannot be kept (no name, or an unusable TLS session): it is
    /// counted as lost.
    pub fn take_over(&mut self, handed: Handed) -> Result<std::result::Result<Option<ConnId>, Handed>> {
        let engine = &mut self.engine;
        let Some(conn) = engine.slots.claim(0) else { return Ok(Err(handed)) };
        let Handed { socket, state } = handed;
        let arrived = match (&mut engine.hibernation, state.name) {
            (Some(hibernation), Some(name)) => hibernation.arrive(name, conn),
            (Some(hibernation), None) => hibernation.assign_name(conn).is_some(),
            (None, _) => true,
        };
        if !arrived {
            // There are no more names, or its own is unknown: it cannot be kept.
            engine.lose_expected(conn);
            return Ok(Ok(None));
        }
        let name = engine.name_of(conn);
        if !engine.bring_tls(name, state.tls.as_ref()) {
            // Without its secrets nothing can be said on it.
            engine.told_of_end(name);
            engine.lose_expected(conn);
            return Ok(Ok(None));
        }
        if let Some(hibernation) = &mut engine.hibernation {
            hibernation.keep(conn, &socket);
        }
        let link = engine.idle.link_after(state.silence);
        if let Some(row) = engine.slots.row(conn) {
            row.lifecycle.establish();
            row.link = link;
            if state.reads_paused {
                row.lifecycle.pause_reads();
            }
        }
        engine.counters.live.add(1);
        engine.counters.taken_over.add(1);
        engine.acceptor.enter_expected();
        engine.readiness.install_handed(&mut engine.slots, conn, socket)?;
        let next = engine.readiness.park(&mut engine.slots, conn)?;
        engine.perform(conn, next)?;
        self.send_unsent(conn, state.unsent, state.tells_when_sent)?;
        if let Some((mode, reason)) = state.closes.map(Closes::how) {
            self.engine.close(conn, mode, reason)?;
        }
        Ok(Ok(Some(name)))
    }

    /// Sends what a connection had still to send, however much it is.
    fn send_unsent(&mut self, conn: ConnId, unsent: Vec<u8>, tells_when_sent: bool) -> Result<()> {
        let engine = &mut self.engine;
        if tells_when_sent {
            engine.outgoing.tell_when_sent(conn);
        }
        engine.transmit(conn, |outgoing, wire| outgoing.send_anyway(wire, conn, unsent))
    }
}
