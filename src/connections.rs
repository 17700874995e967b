//! The connections of one shard: its rings, tables, listeners and buffers, and what may be done
//! with a connection. Knows no role and no protocol; `shard.rs` runs it.
//!
//! What a tenant of a slot may be, and what comes next for it, is `lifecycle.rs`; here it is done.
//!
//! A connection waits behind a filter, see `net/filter_readiness.rs`, or it is parked: it waits in one poll,
//! armed when there was nothing left to receive and gone when it fires. A lasting (multishot) poll
//! saves arming it for each message, but each close must find it among the ring's polls and remove
//! it, which cost more than half of a mass disconnect: so only connections that were parked often
//! get one.
//!
//! No receive is queued while a send is in the kernel, so a peer that does not read is not read
//! from either, and what we keep for it is bounded by `max_pending`.

mod acceptor;
mod address;
mod closing;
mod config;
mod filter_readiness;
mod fins;
mod idle;
pub mod lifecycle;
mod places;
mod reset_reaper;
mod sending;
pub mod slot_map;
mod slot_release;
mod write_readiness;

use std::borrow::Cow;
use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};
use std::time::Instant;

use crate::clock::{Clock, Mark};
use crate::connections::lifecycle::{Action, SlotState};
use crate::connections::slot_map::{Row, SlotMap};
use crate::constants::{
    BUFFER_BYTES, BUFFERS_PER_RING, NOTIFICATIONS_PER_PASS, POLLS_BEFORE_MULTISHOT, RESUMED_PER_PASS,
};
use crate::error::{Errno, Result};
use crate::pace::TokenBucket;
use crate::ring::{self, Accepts, Buffers, Completion, Queues, Ring};
use crate::stats::Counters;
use crate::sys::Doorbell;
use crate::token::{ConnId, Operation, Token};

pub use crate::connections::lifecycle::CloseMode;
pub(crate) use acceptor::Admission;
use acceptor::Listener;
use address::AcceptedFrom;
pub use closing::Closing;
pub use config::{AdmissionGate, AdmissionState, CloseReason, ConnectionsConfig, FilterConfig, SharedLimit};
use filter_readiness::FilterReadiness;
use fins::Fins;
pub use idle::LONGEST_IDLE;
pub use places::Place;
use reset_reaper::ResetQueue;
use slot_release::SlotRelease;
use write_readiness::WriteReadiness;

/// One ring and its rows.
pub(crate) struct RingSlots<S> {
    pub ring: Ring,
    pub table: SlotMap<S>,
    release: SlotRelease,
}

impl<S: Default> RingSlots<S> {
    /// The connection in a slot, if one stands there.
    fn live(&self, index: usize, slot: u32) -> Option<ConnId> {
        let row = self.table.row(slot);
        row.lifecycle.is_live().then(|| ConnId::new(index, slot, row.generation))
    }
}

/// The connections of one shard; `S` is the driver's state in each row.
pub struct Connections<S> {
    pub(crate) rings: Vec<RingSlots<S>>,
    /// Rings that ever had a tenant come first; no other has work.
    used: usize,
    /// No ring before this one has a free slot.
    first_free: usize,
    listeners: Vec<Listener>,
    /// Accepts wait until this instant because the kernel lacked memory or files.
    paused: Option<Instant>,
    /// A listener has fewer accepts in flight than it wants.
    needs_refill: bool,
    /// Accepted when there was no room: who waits for it, and until when.
    admission_queue: VecDeque<(ConnId, Mark)>,
    /// So many wait: half of the slots beyond `capacity`, so that accepting and refusing goes on.
    admission_queue_places: usize,
    capacity: u64,
    shared_limit: Option<SharedLimit>,
    /// What accepts may begin; as many as come without it.
    accept_budget: Option<TokenBucket>,
    gate: AdmissionGate,
    max_pending: usize,
    drain_after_reset: bool,
    pub(crate) buffers: Buffers,
    pub(crate) pending: HashMap<ConnId, Vec<u8>>,
    /// Readable connections that wait for a receive.
    waiting: VecDeque<ConnId>,
    resets: ResetQueue,
    fins: Fins,
    /// Watches over connections without polls; `None` where they wait in polls.
    filter_readiness: Option<FilterReadiness>,
    /// Rings whose polls are being armed anew, see `connections/slot_release.rs`.
    rearming: VecDeque<usize>,
    clock: Clock,
    /// The current `BUSY_WINDOW` of `clock`.
    window: u64,
    /// Connections that ended and whose driver was not told yet.
    pub(crate) ended: VecDeque<(ConnId, CloseReason)>,
    /// Why connections are to be closed once all is sent, where that is another reason than `CloseReason::Local`.
    deferred_reasons: HashMap<ConnId, CloseReason>,
    write_readiness: WriteReadiness,
    accepted_from: AcceptedFrom,
    counters: Arc<Counters>,
}

impl<S: Default> Connections<S> {
    /// Opens the rings, on the thread that will use them.
    pub fn new(plan: ConnectionsConfig, doorbell: &Doorbell, counters: Arc<Counters>) -> Result<Connections<S>> {
        let quirks = ring::quirks()?;
        let accepts = if plan.filter.is_some() { Accepts::Plain } else { Accepts::Direct };
        let lane = |slots: &u32| {
            Ok(RingSlots {
                ring: Ring::new(*slots, Queues::of_shard(quirks), doorbell.raw(), quirks, accepts)?,
                table: SlotMap::new(*slots),
                release: SlotRelease::default(),
            })
        };
        let slots: u64 = plan.rings.iter().copied().map(u64::from).sum();
        let mut net = Connections {
            rings: plan.rings.iter().map(lane).collect::<Result<_>>()?,
            used: 0,
            first_free: 0,
            listeners: Vec::new(),
            paused: None,
            needs_refill: false,
            admission_queue: VecDeque::new(),
            admission_queue_places: (slots.saturating_sub(plan.capacity) / 2) as usize,
            capacity: plan.capacity,
            shared_limit: plan.shared_limit,
            accept_budget: plan.accept_rate.map(|rate| TokenBucket::new(Instant::now(), rate)),
            gate: plan.gate,
            max_pending: plan.max_pending.max(BUFFER_BYTES),
            drain_after_reset: plan.drain_after_reset,
            buffers: Buffers::default(),
            pending: HashMap::new(),
            waiting: VecDeque::new(),
            resets: ResetQueue::default(),
            fins: Fins::new(Instant::now()),
            filter_readiness: None,
            rearming: VecDeque::new(),
            clock: Clock::begin(Instant::now()),
            window: 0,
            ended: VecDeque::new(),
            deferred_reasons: HashMap::new(),
            write_readiness: WriteReadiness::default(),
            accepted_from: AcceptedFrom::default(),
            counters,
        };
        if plan.filter.is_some() {
            // Each accept makes a receive.
            net.buffers.prepare(NOTIFICATIONS_PER_PASS);
        }
        net.filter_readiness = plan.filter.map(|filter| FilterReadiness::new(filter, &plan.rings, net.clock.now()));
        Ok(net)
    }

    #[cfg(test)]
    pub(crate) fn set_capacity(&mut self, capacity: u64) {
        self.capacity = capacity;
    }

    /// The counters of this shard.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Starts a connection of the plain socket `fd` to `to`; the caller keeps `fd` open until it
    /// is opened or has failed. `None` if no slot is free.
    pub fn dial(&mut self, fd: RawFd, to: SocketAddr) -> Result<Option<ConnId>> {
        let Some(conn) = self.claim(0) else { return Ok(None) };
        if let Some(filter_readiness) = &self.filter_readiness {
            filter_readiness.attach_dialed(conn, &fd)?;
        }
        self.rings[conn.ring()].ring.dial(fd, to, conn.token(Operation::Connect))?;
        Ok(Some(conn))
    }

    /// Gives up a dial that has not opened yet; it then fails with ECANCELED.
    pub fn cancel_dial(&mut self, conn: ConnId) -> Result<()> {
        self.rings[conn.ring()].ring.cancel(conn.token(Operation::Connect), Operation::Connect)
    }

    /// The driver's state of a connection that is not gone.
    pub fn state(&mut self, conn: ConnId) -> Option<&mut S> {
        self.row(conn).map(|row| &mut row.state)
    }

    /// Whether the connection stands.
    pub fn is_live(&mut self, conn: ConnId) -> bool {
        self.row(conn).is_some_and(|row| row.lifecycle.is_live())
    }

    /// The first live connection at or after a place, and the place after it; `None` at the end.
    /// Places count through all slots of all rings, from 0.
    pub fn next_live(&self, place: usize) -> Option<(ConnId, usize)> {
        let mut start = 0;
        for (index, lane) in self.rings.iter().enumerate() {
            for at in place.max(start)..start + lane.table.used() as usize {
                if let Some(conn) = lane.live(index, (at - start) as u32) {
                    return Some((conn, at + 1));
                }
            }
            start += lane.table.slots() as usize;
        }
        None
    }

    /// Slots in use, by connections that stand, open or close.
    pub fn in_use(&self) -> u64 {
        self.rings.iter().map(|lane| u64::from(lane.table.slots() - lane.table.free())).sum()
    }

    /// Receives nothing more on a connection. An end of it is then only seen when sending.
    pub fn pause_reads(&mut self, conn: ConnId) {
        self.update(conn, SlotState::pause_reads);
    }

    /// Whether bytes of a connection are on their way into the kernel.
    pub fn is_sending(&mut self, conn: ConnId) -> bool {
        self.row(conn).is_some_and(|row| row.lifecycle.is_sending())
    }

    /// Closes a connection that stands; anything else is left alone. With `CloseMode::Graceful`, one that has
    /// something in the kernel is closed when that is done.
    pub fn close(&mut self, conn: ConnId, how: CloseMode, why: CloseReason) -> Result<()> {
        let Some(row) = self.row(conn) else { return Ok(()) };
        if !row.lifecycle.close(how) {
            if row.lifecycle.is_live() && why != CloseReason::Local {
                self.deferred_reasons.insert(conn, why);
            }
            return Ok(());
        }
        self.leave(conn, why);
        match how {
            CloseMode::Abort => self.reset(conn),
            CloseMode::Graceful | CloseMode::Immediate => self.tear_down(conn),
        }
    }

    // ---- what the pump calls -------------------------------------------------------------------

    /// How many rings may have work: those before this index.
    pub(crate) fn used(&self) -> usize {
        self.used
    }

    /// Whether any ring has work, a connection waits for a receive or for a new poll, or the filter calls.
    pub(crate) fn has_work(&mut self) -> bool {
        !(self.waiting.is_empty() && self.rearming.is_empty())
            || self.has_notifications()
            || self.rings[..self.used].iter_mut().any(|lane| lane.ring.has_work())
    }

    /// Has the kernel do what a ring has for it.
    pub(crate) fn enter(&mut self, lane: usize) -> Result<()> {
        self.counters.enters.add(1);
        let overflowed = self.rings[lane].ring.enter()?;
        self.counters.overflows.add(u64::from(overflowed));
        Ok(())
    }

    /// When something is due that no completion brings: accepts that were paused, who waits at the door, or a
    /// look at those behind the filter.
    pub(crate) fn due(&self) -> Option<Instant> {
        let filter_readiness = self
            .filter_readiness
            .as_ref()
            .map(|filter_readiness| self.clock.due(filter_readiness.due(self.clock.now())));
        self.paused.into_iter().chain(self.admission_due()).chain(filter_readiness).min()
    }

    /// Whether the filter calls.
    fn has_notifications(&self) -> bool {
        self.filter_readiness.as_ref().is_some_and(FilterReadiness::has_notifications)
    }

    /// Whether connections are known to end whose places are still taken.
    fn has_ends(&self) -> bool {
        !self.fins.waiting.is_empty() || self.filter_readiness.as_ref().is_some_and(FilterReadiness::has_ends)
    }

    /// The poll on the filter's bell has ended.
    pub(crate) fn bell_rang(&mut self) {
        self.filter_readiness.iter_mut().for_each(FilterReadiness::bell_rang);
    }

    /// Lets completions and calls ring the doorbell, or not.
    pub(crate) fn wake_on_completion(&mut self, wake: bool) -> Result<()> {
        for lane in &mut self.rings[..self.used] {
            lane.ring.wake_on_completion(wake);
        }
        self.wake_on_notification(wake)?;
        // Who looks for work after this must not see the queues as they were before.
        fence(Ordering::SeqCst);
        Ok(())
    }

    /// A tenant was accepted, or its dial succeeded: park it. `false` if there is no room for it and it is
    /// being refused.
    pub(crate) fn opened(&mut self, conn: ConnId, admission: Admission) -> Result<bool> {
        if admission != Admission::Granted {
            let cause = if admission == Admission::LowMemory {
                &self.counters.refused_for_memory
            } else {
                &self.counters.refused_when_full
            };
            cause.add(1);
            self.accepted_from.forget(conn);
            self.rings[conn.ring()].ring.reset(conn.token(Operation::Reset))?;
            self.tear_down(conn)?;
            return Ok(false);
        }
        let row = self.rings[conn.ring()].table.row_mut(conn.slot());
        row.lifecycle.establish();
        row.link = 0;
        self.counters.live.add(1);
        self.counters.opened.add(1);
        self.arm(conn)?;
        Ok(true)
    }

    /// Goes on with some readable connections that had to wait, and dismantles some that were reset.
    pub(crate) fn resume(&mut self, now: Instant) -> Result<()> {
        for _ in 0..self.waiting.len().min(RESUMED_PER_PASS) {
            if let Some(conn) = self.waiting.pop_front() {
                self.apply(conn, SlotState::resume)?;
            }
        }
        self.reap_resets(now)?;
        self.check_filtered()?;
        self.rearm_some()
    }

    /// A dial failed: take its slot apart.
    pub(crate) fn dial_failed(&mut self, conn: ConnId, errno: Errno) -> Result<()> {
        if self.row(conn).is_none() {
            return Ok(());
        }
        self.ended.push_back((conn, CloseReason::NotOpened(errno)));
        self.tear_down(conn)
    }

    /// The poll fired or was removed: receive, unless something is in the kernel already.
    pub(crate) fn ready(&mut self, conn: ConnId, armed: bool) -> Result<()> {
        self.apply(conn, |lifecycle| lifecycle.poll_fired(armed))
    }

    /// The data operation of a connection is over: go on with what waits.
    pub(crate) fn operation_ended(&mut self, conn: ConnId) -> Result<()> {
        if self.write_readiness.is_blocked(conn) && self.row(conn).is_some_and(|row| !row.lifecycle.keeps_bytes()) {
            self.write_readiness.drained(conn);
        }
        self.apply(conn, SlotState::operation_ended)
    }

    /// A receive brought bytes, and left `more` in the socket.
    pub(crate) fn received(&mut self, conn: ConnId, more: bool) {
        let window = self.window;
        let Some(row) = self.row(conn) else { return };
        row.lifecycle.received();
        if row.lifecycle.is_live() {
            row.link = idle::heard(row.link, window);
        }
        if more {
            row.lifecycle.left_bytes();
        }
    }

    /// A receive brought nothing.
    pub(crate) fn came_empty(&mut self, conn: ConnId) -> Result<()> {
        self.apply(conn, SlotState::received_nothing)
    }

    /// Whether bytes that came are for the driver.
    pub(crate) fn accepts_bytes(&mut self, conn: ConnId) -> bool {
        self.row(conn).is_some_and(|row| row.lifecycle.accepts_bytes())
    }

    /// A cancel or a poll removal came while its target was running: once more, the slower way.
    pub(crate) fn cancel_again(&mut self, conn: ConnId) -> Result<()> {
        if self.row(conn).is_some_and(|row| row.lifecycle.poll_must_go()) {
            return self.rings[conn.ring()].ring.cancel(conn.token(Operation::Cancel), Operation::Poll);
        }
        Ok(())
    }

    /// The slot's descriptor is closed.
    pub(crate) fn closed(&mut self, conn: ConnId) -> Result<()> {
        self.apply(conn, SlotState::closed)?;
        self.slot_closed(conn.ring());
        Ok(())
    }

    /// Gives back the slot of an accept that brought nothing.
    pub(crate) fn abandon(&mut self, conn: ConnId) {
        if self.row(conn).is_some() {
            self.release(conn);
        }
    }

    /// Which connection a completion of ring `lane` belongs to; `None` if its tenant is gone.
    pub(crate) fn owner(&mut self, lane: usize, completion: &Completion) -> Option<ConnId> {
        let Token { slot, generation, .. } = completion.token;
        let known = self.rings[lane].table.occupant(slot, generation).is_some();
        known.then(|| ConnId::new(lane, slot, generation))
    }

    // ---- our own ------------------------------------------------------------------------------

    fn row(&mut self, conn: ConnId) -> Option<&mut Row<S>> {
        self.rings.get_mut(conn.ring())?.table.occupant(conn.slot(), conn.generation())
    }

    /// Tells a tenant something that calls for nothing.
    fn update(&mut self, conn: ConnId, what: impl FnOnce(&mut SlotState)) {
        if let Some(row) = self.row(conn) {
            what(&mut row.lifecycle);
        }
    }

    /// Tells a tenant what happened, and does what comes next for it.
    fn apply(&mut self, conn: ConnId, what: impl FnOnce(&mut SlotState) -> Action) -> Result<()> {
        let next = self.row(conn).map_or(Action::Rest, |row| what(&mut row.lifecycle));
        self.perform(conn, next)
    }

    /// Does for a tenant what comes next.
    fn perform(&mut self, conn: ConnId, next: Action) -> Result<()> {
        match next {
            Action::Rest => Ok(()),
            Action::Receive => self.receive(conn),
            Action::Wait => {
                self.wait(conn);
                Ok(())
            }
            Action::Park => self.arm(conn),
            Action::ParkAnew if self.filter_readiness.is_some() => self.await_filter(conn),
            Action::ParkAnew | Action::Poll => self.poll(conn, false),
            Action::SendKept => {
                let bytes = self.pending.remove(&conn).unwrap_or_default();
                self.send_bytes(conn, Cow::Owned(bytes))
            }
            Action::End => {
                let why = self.deferred_reasons.get(&conn).copied().unwrap_or(CloseReason::Local);
                self.close(conn, CloseMode::Graceful, why)
            }
            Action::Release => {
                self.release(conn);
                Ok(())
            }
        }
    }

    fn claim(&mut self, link: u32) -> Option<ConnId> {
        while let Some(lane) = self.rings.get_mut(self.first_free) {
            if let Some(slot) = lane.table.claim(link) {
                self.used = self.used.max(self.first_free + 1);
                return Some(ConnId::new(self.first_free, slot, lane.table.row(slot).generation));
            }
            self.first_free += 1;
        }
        None
    }

    /// A connection that stood is over: another may have its place.
    fn leave(&mut self, conn: ConnId, why: CloseReason) {
        self.counters.live.sub(1);
        self.counters.closed.add(1);
        if let Some(shared_limit) = &self.shared_limit {
            shared_limit.leave();
        }
        if !self.deferred_reasons.is_empty() {
            self.deferred_reasons.remove(&conn);
        }
        self.write_readiness.forget(conn);
        self.ended.push_back((conn, why));
    }

    fn release(&mut self, conn: ConnId) {
        self.rings[conn.ring()].table.release(conn.slot());
        self.first_free = self.first_free.min(conn.ring());
    }

    fn arm(&mut self, conn: ConnId) -> Result<()> {
        let (window, filter) = (self.window, self.filter_readiness.is_some());
        let Some(row) = self.row(conn) else { return Ok(()) };
        row.link = idle::heard(row.link, window);
        if filter {
            return self.await_filter(conn);
        }
        // The count stays below what is beyond its half.
        let lasting = row.link & 0xffff >= POLLS_BEFORE_MULTISHOT - 1;
        row.link += u32::from(!lasting);
        self.poll(conn, lasting)
    }

    fn poll(&mut self, conn: ConnId, lasting: bool) -> Result<()> {
        self.update(conn, |lifecycle| lifecycle.park(lasting));
        self.rings[conn.ring()].ring.poll(conn.token(Operation::Poll), lasting)
    }

    /// Lets a connection wait for its turn to receive.
    fn wait(&mut self, conn: ConnId) {
        self.update(conn, SlotState::wait);
        self.waiting.push_back(conn);
    }

    /// Receives what may be there, or waits until a buffer may be used for that.
    fn receive(&mut self, conn: ConnId) -> Result<()> {
        if self.rings[conn.ring()].ring.buffers_held() >= BUFFERS_PER_RING {
            self.wait(conn);
            return Ok(());
        }
        self.update(conn, SlotState::receive);
        let buffer = self.buffers.take();
        self.rings[conn.ring()].ring.receive(conn.token(Operation::Receive), buffer)
    }

    /// Queues all that frees a closing slot: its poll, its parked send, its descriptor.
    fn tear_down(&mut self, conn: ConnId) -> Result<()> {
        let Some(row) = self.row(conn) else { return Ok(()) };
        let polling = row.lifecycle.tear_down();
        self.forget_kept(conn);
        let ring = &mut self.rings[conn.ring()].ring;
        let token = conn.token(Operation::Close);
        if polling {
            ring.remove_poll(token)?;
        }
        if ring.has_parked_send(token) {
            ring.cancel(token, Operation::ParkedSend)?;
        }
        ring.close(token)
    }
}
