//! The connections of one shard: its rings, tables, listeners and buffers, and what may be done
//! with a connection. Knows no role and no protocol; `shard.rs` runs it.
//!
//! What a tenant of a slot may be, and what comes next for it, is `life.rs`; here it is done.
//!
//! A connection waits behind a filter, see `net/sentry.rs`, or it is parked: it waits in one poll,
//! armed when there was nothing left to receive and gone when it fires. A lasting (multishot) poll
//! saves arming it for each message, but each close must find it among the ring's polls and remove
//! it, which cost more than half of a mass disconnect: so only connections that were parked often
//! get one.
//!
//! No receive is queued while a send is in the kernel, so a peer that does not read is not read
//! from either, and what we keep for it is bounded by `max_pending`.

mod accepting;
mod closing;
mod fins;
mod hangups;
mod idle;
mod linger;
mod sending;
mod sentry;
mod terms;

use std::borrow::Cow;
use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};
use std::time::Instant;

use crate::clock::{Clock, Mark};
use crate::error::{Errno, Result};
use crate::life::{Life, Next};
use crate::limits::{BUFFER_BYTES, BUFFERS_PER_RING, CALLS_PER_PASS, PARKED_OFTEN, RESUMED_PER_PASS};
use crate::pace::Budget;
use crate::ring::{self, Accepts, Buffers, Completion, Queues, Ring};
use crate::stats::Counters;
use crate::sys::Doorbell;
use crate::table::{Row, Table};
use crate::token::{ConnId, Operation, Token};

pub use crate::life::How;
use accepting::Listener;
pub(crate) use accepting::Room;
pub use closing::Closing;
use fins::Fins;
use hangups::HungUp;
pub use idle::LONGEST_IDLE;
use linger::Lingering;
use sentry::Sentry;
pub use terms::{Admission, Gate, Level, NetPlan, Watched, Why};

/// One ring and its rows.
pub(crate) struct Lane<S> {
    pub ring: Ring,
    pub table: Table<S>,
    lingering: Lingering,
}

impl<S: Default> Lane<S> {
    /// The connection in a slot, if one stands there.
    fn live(&self, index: usize, slot: u32) -> Option<ConnId> {
        let row = self.table.row(slot);
        row.life.is_live().then(|| ConnId::new(index, slot, row.generation))
    }
}

/// The connections of one shard; `S` is the driver's state in each row.
pub struct Net<S> {
    pub(crate) lanes: Vec<Lane<S>>,
    /// Rings that ever had a tenant come first; no other has work.
    used: usize,
    /// No ring before this one has a free slot.
    first_free: usize,
    listeners: Vec<Listener>,
    /// Accepts wait until this instant because the kernel lacked memory or files.
    paused: Option<Instant>,
    /// A listener has fewer accepts in flight than it wants.
    hungry: bool,
    /// Accepted when there was no room: who waits for it, and until when.
    door: VecDeque<(ConnId, Mark)>,
    /// So many wait: half of the slots beyond `capacity`, so that accepting and refusing goes on.
    door_places: usize,
    capacity: u64,
    admission: Option<Admission>,
    /// What accepts may begin; as many as come without it.
    accept_budget: Option<Budget>,
    gate: Gate,
    max_pending: usize,
    last_words: bool,
    pub(crate) buffers: Buffers,
    pub(crate) pending: HashMap<ConnId, Vec<u8>>,
    /// Readable connections that wait for a receive.
    waiting: VecDeque<ConnId>,
    hung: HungUp,
    fins: Fins,
    /// Watches over connections without polls; `None` where they wait in polls.
    sentry: Option<Sentry>,
    /// Rings whose polls are being armed anew, see `net/linger.rs`.
    rearming: VecDeque<usize>,
    clock: Clock,
    /// The current `BUSY_WINDOW` of `clock`.
    window: u64,
    /// Connections that ended and whose driver was not told yet.
    pub(crate) ended: VecDeque<(ConnId, Why)>,
    counters: Arc<Counters>,
}

impl<S: Default> Net<S> {
    /// Opens the rings, on the thread that will use them.
    pub fn new(plan: NetPlan, doorbell: &Doorbell, counters: Arc<Counters>) -> Result<Net<S>> {
        let habits = ring::habits()?;
        let accepts = if plan.watched.is_some() { Accepts::Plain } else { Accepts::Direct };
        let lane = |slots: &u32| {
            Ok(Lane {
                ring: Ring::new(*slots, Queues::of_shard(habits), doorbell.raw(), habits, accepts)?,
                table: Table::new(*slots),
                lingering: Lingering::default(),
            })
        };
        let slots: u64 = plan.rings.iter().copied().map(u64::from).sum();
        let mut net = Net {
            lanes: plan.rings.iter().map(lane).collect::<Result<_>>()?,
            used: 0,
            first_free: 0,
            listeners: Vec::new(),
            paused: None,
            hungry: false,
            door: VecDeque::new(),
            door_places: (slots.saturating_sub(plan.capacity) / 2) as usize,
            capacity: plan.capacity,
            admission: plan.admission,
            accept_budget: plan.accept_rate.map(|rate| Budget::new(Instant::now(), rate)),
            gate: plan.gate,
            max_pending: plan.max_pending.max(BUFFER_BYTES),
            last_words: plan.last_words,
            buffers: Buffers::default(),
            pending: HashMap::new(),
            waiting: VecDeque::new(),
            hung: HungUp::default(),
            fins: Fins::new(Instant::now()),
            sentry: None,
            rearming: VecDeque::new(),
            clock: Clock::begin(Instant::now()),
            window: 0,
            ended: VecDeque::new(),
            counters,
        };
        if plan.watched.is_some() {
            // Each accept makes a receive.
            net.buffers.prepare(CALLS_PER_PASS);
        }
        net.sentry = plan.watched.map(|watched| Sentry::new(watched, &plan.rings, net.clock.now()));
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
        if let Some(sentry) = &self.sentry {
            sentry.adopt(conn, &fd)?;
        }
        self.lanes[conn.ring()].ring.dial(fd, to, conn.token(Operation::Connect))?;
        Ok(Some(conn))
    }

    /// Gives up a dial that has not opened yet; it then fails with ECANCELED.
    pub fn cancel_dial(&mut self, conn: ConnId) -> Result<()> {
        self.lanes[conn.ring()].ring.cancel(conn.token(Operation::Connect), Operation::Connect)
    }

    /// The driver's state of a connection that is not gone.
    pub fn state(&mut self, conn: ConnId) -> Option<&mut S> {
        self.row(conn).map(|row| &mut row.state)
    }

    /// Whether the connection stands.
    pub fn is_live(&mut self, conn: ConnId) -> bool {
        self.row(conn).is_some_and(|row| row.life.is_live())
    }

    /// The first live connection at or after a place, and the place after it; `None` at the end.
    /// Places count through all slots of all rings, from 0.
    pub fn next_live(&self, place: usize) -> Option<(ConnId, usize)> {
        let mut start = 0;
        for (index, lane) in self.lanes.iter().enumerate() {
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
        self.lanes.iter().map(|lane| u64::from(lane.table.slots() - lane.table.free())).sum()
    }

    /// Receives nothing more on a connection. An end of it is then only seen when sending.
    pub fn deafen(&mut self, conn: ConnId) {
        self.tell(conn, Life::deafen);
    }

    /// Whether bytes of a connection are on their way into the kernel.
    pub fn is_sending(&mut self, conn: ConnId) -> bool {
        self.row(conn).is_some_and(|row| row.life.is_sending())
    }

    /// Closes a connection that stands; anything else is left alone. With `How::Fin`, one that has
    /// something in the kernel is closed when that is done, as `Why::Ours`.
    pub fn close(&mut self, conn: ConnId, how: How, why: Why) -> Result<()> {
        if !self.row(conn).is_some_and(|row| row.life.close(how)) {
            return Ok(());
        }
        self.leave(conn, why);
        match how {
            How::Reset => self.reset(conn),
            How::Fin | How::Now => self.dismantle(conn),
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
            || self.has_calls()
            || self.lanes[..self.used].iter_mut().any(|lane| lane.ring.has_work())
    }

    /// Has the kernel do what a ring has for it.
    pub(crate) fn enter(&mut self, lane: usize) -> Result<()> {
        self.counters.enters.add(1);
        let overflowed = self.lanes[lane].ring.enter()?;
        self.counters.overflows.add(u64::from(overflowed));
        Ok(())
    }

    /// When something is due that no completion brings: accepts that were paused, who waits at the door, or a
    /// look at those behind the filter.
    pub(crate) fn due(&self) -> Option<Instant> {
        let sentry = self.sentry.as_ref().map(|sentry| self.clock.due(sentry.due(self.clock.now())));
        self.paused.into_iter().chain(self.door_due()).chain(sentry).min()
    }

    /// Whether the filter calls.
    fn has_calls(&self) -> bool {
        self.sentry.as_ref().is_some_and(Sentry::has_calls)
    }

    /// Whether connections are known to end whose places are still taken.
    fn has_ends(&self) -> bool {
        !self.fins.waiting.is_empty() || self.sentry.as_ref().is_some_and(Sentry::has_ends)
    }

    /// The poll on the filter's bell has ended.
    pub(crate) fn bell_rang(&mut self) {
        self.sentry.iter_mut().for_each(Sentry::bell_rang);
    }

    /// Lets completions and calls ring the doorbell, or not.
    pub(crate) fn wake_on_completion(&mut self, wake: bool) -> Result<()> {
        for lane in &mut self.lanes[..self.used] {
            lane.ring.wake_on_completion(wake);
        }
        self.wake_on_calls(wake)?;
        // Who looks for work after this must not see the queues as they were before.
        fence(Ordering::SeqCst);
        Ok(())
    }

    /// A tenant was accepted, or its dial succeeded: park it. `false` if there is no room for it and it is
    /// being refused.
    pub(crate) fn opened(&mut self, conn: ConnId, room: Room) -> Result<bool> {
        if room != Room::Taken {
            let cause =
                if room == Room::Short { &self.counters.refused_for_memory } else { &self.counters.refused_when_full };
            cause.add(1);
            self.lanes[conn.ring()].ring.reset(conn.token(Operation::Reset))?;
            self.dismantle(conn)?;
            return Ok(false);
        }
        let row = self.lanes[conn.ring()].table.row_mut(conn.slot());
        row.life.stand();
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
                self.learn(conn, Life::resume)?;
            }
        }
        self.dismantle_some(now)?;
        self.look_after()?;
        self.rearm_some()
    }

    /// A dial failed: take its slot apart.
    pub(crate) fn dial_failed(&mut self, conn: ConnId, errno: Errno) -> Result<()> {
        if self.row(conn).is_none() {
            return Ok(());
        }
        self.ended.push_back((conn, Why::NeverOpened(errno)));
        self.dismantle(conn)
    }

    /// The poll fired or was removed: receive, unless something is in the kernel already.
    pub(crate) fn ready(&mut self, conn: ConnId, armed: bool) -> Result<()> {
        self.learn(conn, |life| life.fired(armed))
    }

    /// The data operation of a connection is over: go on with what waits.
    pub(crate) fn unbusy(&mut self, conn: ConnId) -> Result<()> {
        self.learn(conn, Life::unbusy)
    }

    /// A receive brought bytes, and left `more` in the socket.
    pub(crate) fn received(&mut self, conn: ConnId, more: bool) {
        let window = self.window;
        let Some(row) = self.row(conn) else { return };
        row.life.received();
        if row.life.is_live() {
            row.link = idle::heard(row.link, window);
        }
        if more {
            row.life.more();
        }
    }

    /// A receive brought nothing.
    pub(crate) fn came_empty(&mut self, conn: ConnId) -> Result<()> {
        self.learn(conn, Life::empty)
    }

    /// Whether bytes that came are for the driver.
    pub(crate) fn takes_bytes(&mut self, conn: ConnId) -> bool {
        self.row(conn).is_some_and(|row| row.life.takes_bytes())
    }

    /// A cancel or a poll removal came while its target was running: once more, the slower way.
    pub(crate) fn cancel_again(&mut self, conn: ConnId) -> Result<()> {
        if self.row(conn).is_some_and(|row| row.life.must_lose_poll()) {
            return self.lanes[conn.ring()].ring.cancel(conn.token(Operation::Cancel), Operation::Poll);
        }
        Ok(())
    }

    /// The slot's descriptor is closed.
    pub(crate) fn closed(&mut self, conn: ConnId) -> Result<()> {
        self.learn(conn, Life::closed)?;
        self.lingers(conn.ring());
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
        let known = self.lanes[lane].table.tenant(slot, generation).is_some();
        known.then(|| ConnId::new(lane, slot, generation))
    }

    // ---- our own ------------------------------------------------------------------------------

    fn row(&mut self, conn: ConnId) -> Option<&mut Row<S>> {
        self.lanes.get_mut(conn.ring())?.table.tenant(conn.slot(), conn.generation())
    }

    /// Tells a tenant something that calls for nothing.
    fn tell(&mut self, conn: ConnId, what: impl FnOnce(&mut Life)) {
        if let Some(row) = self.row(conn) {
            what(&mut row.life);
        }
    }

    /// Tells a tenant what happened, and does what comes next for it.
    fn learn(&mut self, conn: ConnId, what: impl FnOnce(&mut Life) -> Next) -> Result<()> {
        let next = self.row(conn).map_or(Next::Rest, |row| what(&mut row.life));
        self.follow(conn, next)
    }

    /// Does for a tenant what comes next.
    fn follow(&mut self, conn: ConnId, next: Next) -> Result<()> {
        match next {
            Next::Rest => Ok(()),
            Next::Receive => self.receive(conn),
            Next::Wait => {
                self.wait(conn);
                Ok(())
            }
            Next::Park => self.arm(conn),
            Next::ParkAnew if self.sentry.is_some() => self.watch(conn),
            Next::ParkAnew | Next::Poll => self.poll(conn, false),
            Next::SendKept => {
                let bytes = self.pending.remove(&conn).unwrap_or_default();
                self.send_bytes(conn, Cow::Owned(bytes))
            }
            Next::End => self.close(conn, How::Fin, Why::Ours),
            Next::Release => {
                self.release(conn);
                Ok(())
            }
        }
    }

    fn claim(&mut self, link: u32) -> Option<ConnId> {
        while let Some(lane) = self.lanes.get_mut(self.first_free) {
            if let Some(slot) = lane.table.claim(link) {
                self.used = self.used.max(self.first_free + 1);
                return Some(ConnId::new(self.first_free, slot, lane.table.row(slot).generation));
            }
            self.first_free += 1;
        }
        None
    }

    /// A connection that stood is over: another may have its place.
    fn leave(&mut self, conn: ConnId, why: Why) {
        self.counters.live.sub(1);
        self.counters.closed.add(1);
        if let Some(admission) = &self.admission {
            admission.leave();
        }
        self.ended.push_back((conn, why));
    }

    fn release(&mut self, conn: ConnId) {
        self.lanes[conn.ring()].table.release(conn.slot());
        self.first_free = self.first_free.min(conn.ring());
    }

    fn arm(&mut self, conn: ConnId) -> Result<()> {
        let (window, watched) = (self.window, self.sentry.is_some());
        let Some(row) = self.row(conn) else { return Ok(()) };
        row.link = idle::heard(row.link, window);
        if watched {
            return self.watch(conn);
        }
        // The count stays below what is beyond its half.
        let lasting = row.link & 0xffff >= PARKED_OFTEN - 1;
        row.link += u32::from(!lasting);
        self.poll(conn, lasting)
    }

    fn poll(&mut self, conn: ConnId, lasting: bool) -> Result<()> {
        self.tell(conn, |life| life.park(lasting));
        self.lanes[conn.ring()].ring.poll(conn.token(Operation::Poll), lasting)
    }

    /// Lets a connection wait for its turn to receive.
    fn wait(&mut self, conn: ConnId) {
        self.tell(conn, Life::wait);
        self.waiting.push_back(conn);
    }

    /// Receives what may be there, or waits until a buffer may be used for that.
    fn receive(&mut self, conn: ConnId) -> Result<()> {
        if self.lanes[conn.ring()].ring.buffers_held() >= BUFFERS_PER_RING {
            self.wait(conn);
            return Ok(());
        }
        self.tell(conn, Life::receive);
        let buffer = self.buffers.take();
        self.lanes[conn.ring()].ring.receive(conn.token(Operation::Receive), buffer)
    }

    /// Queues all that frees a closing slot: its poll, its parked send, its descriptor.
    fn dismantle(&mut self, conn: ConnId) -> Result<()> {
        let Some(row) = self.row(conn) else { return Ok(()) };
        let polling = row.life.dismantle();
        self.forget_kept(conn);
        let ring = &mut self.lanes[conn.ring()].ring;
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
