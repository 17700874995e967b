//! The parts of a shard's connections, composed. The reactor tells it what happened to a connection; `lifecycle.rs` says
//! what comes next for that connection, and the parts do it.

use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};
use std::time::{Duration, Instant};

use super::acceptor::{Acceptor, Unread};
use super::address::AcceptedFrom;
use super::admission::Admission;
use super::close_reason::CloseReason;
use super::config::ConnectionsConfig;
use super::endings::{Endings, Parts, tear_down};
use super::fins::FINS_PER_PASS;
use super::handover::Departures;
use super::hibernation::{Hibernation, HibernationConfig};
use super::idle::IdleTracker;
use super::incoming::Incoming;
use super::lingering::Lingering;
use super::outgoing::{AfterSend, Outgoing, Wire};
use super::platform::Platform;
use super::readiness::{self, NOTIFICATIONS_PER_PASS, RESETS_PER_PASS, Readiness};
use super::slot_release::SlotRelease;
use super::slots::{Listening, Slots};
#[cfg(feature = "tls")]
use super::tls::{self, Tls};
use crate::clock::Clock;
use crate::connections::lifecycle::{Action, CloseMode, SlotState};
use crate::error::{Errno, Result};
use crate::ring::{Accepts, Buffer, Buffers, RingOps};
use crate::stats::Counters;
use crate::sys::Notification;
use crate::token::{ConnId, Operation, Token};

/// The parts of a shard's connections; `S` is the driver's state in each row, `P` the machine below.
pub(crate) struct Engine<S, P: Platform> {
    pub(super) platform: P,
    pub(super) slots: Slots<S, P::Ring>,
    pub(super) acceptor: Acceptor,
    pub(super) accepted_from: AcceptedFrom,
    pub(super) readiness: Readiness,
    pub(super) incoming: Incoming,
    pub(super) outgoing: Outgoing,
    pub(super) idle: IdleTracker,
    pub(super) endings: Endings,
    pub(super) lingering: Lingering,
    pub(super) releases: SlotRelease,
    pub(super) departures: Departures,
    pub(super) hibernation: Option<Box<Hibernation<S>>>,
    #[cfg(feature = "tls")]
    pub(crate) tls: Option<Box<Tls>>,
    pub(super) buffers: Buffers,
    pub(super) clock: Clock,
    pub(super) counters: Arc<Counters>,
}

impl<S: Default, P: Platform> Engine<S, P> {
    /// Opens the rings of a platform, on the thread that will use them.
    pub fn new(platform: P, config: ConnectionsConfig, counters: Arc<Counters>) -> Result<Engine<S, P>> {
        let keeps_descriptors = config.hibernation.as_ref().is_some_and(|hibernation| hibernation.keeps_descriptors);
        let plain = config.filter.is_some() || keeps_descriptors;
        let accepts = if plain { Accepts::Plain } else { Accepts::Direct };
        let open = |slots: &u32| platform.open_ring(*slots, accepts).map(|ring| (ring, *slots));
        let slots = Slots::new(config.rings.iter().map(open))?;
        let (now, clock) = (platform.now(), platform.clock());
        let mut acceptor = Acceptor::new(slots.count(), config.capacity, config.shared_limit, config.gate);
        if let Some(rate) = config.accept_rate {
            acceptor.limit_rate(rate, now);
        }
        if config.hibernation.is_some() {
            acceptor.leave_slots_for_wakes(slots.count());
        }
        let mut buffers = Buffers::default();
        if config.filter.is_some() {
            // Each accept makes a receive.
            buffers.prepare(NOTIFICATIONS_PER_PASS);
        }
        #[cfg(feature = "tls")]
        let most_pending = config.tls.as_ref().map_or(config.max_pending, |_| tls::most_pending(config.max_pending));
        #[cfg(not(feature = "tls"))]
        let most_pending = config.max_pending;
        let rings = config.rings.len();
        #[cfg(feature = "tls")]
        let has_tls = config.tls.is_some();
        #[cfg(not(feature = "tls"))]
        let has_tls = false;
        let hibernation = config.hibernation.map(|config| {
            // A reply over TLS needs the slot of its connection.
            let config = HibernationConfig { socketless: config.socketless && !has_tls, ..config };
            Hibernation::new(config, rings, clock.now()).map(Box::new)
        });
        let hibernation = hibernation.transpose()?;
        Ok(Engine {
            platform,
            slots,
            acceptor,
            accepted_from: AcceptedFrom::default(),
            readiness: Readiness::new(config.filter, &config.rings, &config.timing, clock.now()),
            incoming: Incoming::default(),
            outgoing: Outgoing::new(most_pending),
            idle: IdleTracker::new(config.idle_timeout, now),
            endings: Endings::new(config.timing.resets_per_batch, config.drain_after_reset, now),
            lingering: Lingering::default(),
            releases: SlotRelease::new(rings),
            departures: Departures::default(),
            hibernation,
            #[cfg(feature = "tls")]
            tls: config.tls.map(|config| Box::new(Tls::new(config))),
            buffers,
            clock,
            counters,
        })
    }

    // ---- the reactor's passes --------------------------------------------------------------------

    /// The machine below.
    #[inline]
    pub fn platform(&self) -> &P {
        &self.platform
    }

    /// The shard begins a pass.
    pub fn look(&mut self, now: Instant) {
        self.clock.look(now);
        self.idle.look(self.clock.now());
    }

    /// The slots and their rings.
    #[inline]
    pub fn slots(&mut self) -> &mut Slots<S, P::Ring> {
        &mut self.slots
    }

    /// Has the kernel do what a ring has for it.
    pub fn enter(&mut self, ring: usize) -> Result<()> {
        self.slots.enter(ring, &self.counters)
    }

    /// Moves the token of every send that the kernel took whole into `into`.
    pub fn finish_sends(&mut self, ring: usize, into: &mut Vec<Token>) {
        self.slots.ring_at(ring).finish_sends(&mut self.buffers, into);
    }

    /// Gives a buffer back.
    #[inline]
    pub fn put_buffer(&mut self, buffer: Buffer) {
        self.buffers.put(buffer);
    }

    /// Whether there is work: for a ring, a waiting receive, a handshake, polls that are armed anew, the filter, or
    /// hibernation.
    pub fn has_work(&mut self) -> bool {
        #[cfg(feature = "tls")]
        if self.tls.as_ref().is_some_and(|tls| tls.has_work()) {
            return true;
        }
        !self.incoming.is_empty()
            || self.releases.is_under_way()
            || self.readiness.has_notifications()
            || self.hibernation.as_mut().is_some_and(|hibernation| hibernation.has_work())
            || self.slots.has_work()
    }

    /// When something is due that no completion brings.
    pub fn due(&self) -> Option<Instant> {
        let hibernation = self.hibernation.as_ref().and_then(|hibernation| hibernation.due(&self.clock));
        #[cfg(feature = "tls")]
        let tls = self.tls.as_ref().and_then(|tls| tls.due(&self.clock));
        #[cfg(not(feature = "tls"))]
        let tls = None;
        let (acceptor, readiness) = (self.acceptor.due(&self.clock), self.readiness.due(&self.clock));
        let pins = Some(self.clock.due(self.idle.pins_due()));
        let dues = [acceptor, readiness, self.idle.due(), pins, self.lingering.due(&self.clock), hibernation, tls];
        dues.into_iter().flatten().min()
    }

    /// Decides what wakes the shard. Before it sleeps, it must ask once more whether there is work.
    pub fn listen(&mut self, listening: Listening) {
        self.slots.listen(listening);
        self.readiness.wake_on_notification(listening != Listening::Awake);
        if let Some(hibernation) = &mut self.hibernation {
            hibernation.listen(listening != Listening::Awake, self.clock.now());
        }
        // What looks for work after this must not see the queues as they were before.
        fence(Ordering::SeqCst);
    }

    /// The shard sleeps until there is work, or until an instant. The sleep begins with a wait in the first ring, of `most` at
    /// most; zero leaves it out. The polls on the doorbell, on the filter and on caught segments reach the kernel before it.
    pub fn wait_in_ring(&mut self, until: Option<Instant>, most: Duration) -> Result<()> {
        self.clock.sleep(until);
        let Some(ring) = self.slots.poll_doorbell(self.platform.doorbell())? else { return Ok(()) };
        self.readiness.poll_filter(ring)?;
        if let Some(hibernation) = &mut self.hibernation {
            hibernation.poll_segments(ring)?;
        }
        self.slots.wait(most, &self.counters)
    }

    /// The poll on the doorbell has fired.
    pub fn doorbell_rang(&mut self) {
        self.slots.doorbell_rang();
        self.platform.clear_doorbell();
    }

    /// Whether the shard received a message lately.
    pub fn has_traffic(&mut self, now: Instant) -> bool {
        self.endings.has_traffic(&self.counters, now)
    }

    /// Whether connections wait to be dismantled.
    pub fn has_resets(&self) -> bool {
        !self.endings.resets.is_empty()
    }

    /// Whether connections wait to be dismantled, or FINs to be received, or any came since this was last asked.
    pub fn has_resets_or_fins(&mut self) -> bool {
        self.has_resets() || self.has_fins() || self.endings.resets.take_fresh()
    }

    /// Takes a bounded number of the filter's notifications, and of FINs that wait. Segments come first, as resets and
    /// FINs can wait. Tells whether there were any.
    pub fn take_notifications(&mut self, now: Instant) -> Result<bool> {
        let segments = self.take(Notification::Segment, NOTIFICATIONS_PER_PASS)?;
        let resets = self.take(Notification::Reset, RESETS_PER_PASS)?;
        let taken = segments + resets + self.take_fins(now)?;
        self.counters.notifications.add(taken as u64);
        Ok(taken > 0)
    }

    /// Does a bounded part of what no completion calls for: accepts, handshakes, waiting receives, resets, lingering
    /// connections, checks behind the filter, silent connections, hibernation, and polls that are armed anew.
    pub fn resume(&mut self, now: Instant) -> Result<()> {
        self.acceptor.replenish(&mut self.slots, now)?;
        #[cfg(feature = "tls")]
        self.go_on_with_handshakes(now)?;
        for _ in 0..self.incoming.turns() {
            if let Some(conn) = self.incoming.next_turn() {
                self.apply(conn, SlotState::resume)?;
            }
        }
        self.reap_resets(now)?;
        self.stop_lingering_some()?;
        self.check_filtered()?;
        self.close_silent(now)?;
        self.pin_silent();
        self.hibernate(now)?;
        self.releases.rearm_some(&mut self.slots)
    }

    /// The next connection that ended and whose driver was not told yet. `told_of_end` is to be called then.
    #[inline]
    pub fn next_ended(&mut self) -> Option<(ConnId, CloseReason)> {
        let slept = self.hibernation.as_mut().and_then(|hibernation| hibernation.next_ended());
        slept.or_else(|| self.endings.next_untold().map(|(conn, reason)| (self.name_of(conn), reason)))
    }

    // ---- connections begin -----------------------------------------------------------------------

    /// The accept of a slot ended, with a connection or without.
    pub fn accept_ended(&mut self, conn: ConnId) {
        // While it opens, a row's link is its listener.
        if let Some(row) = self.slots.row(conn) {
            self.acceptor.accept_ended(row.link as usize);
        }
    }

    /// The kernel has no memory or files for accepts: they wait a little.
    pub fn pause_accepts(&mut self, now: Instant) {
        self.acceptor.pause(&self.counters, now);
    }

    /// Takes an accepted connection out of its plain descriptor into its slot. `false` if the kernel refuses that.
    pub fn install_accepted(&mut self, conn: ConnId, socket: OwnedFd) -> Result<bool> {
        let listener = self.slots.row(conn).map_or(usize::MAX, |row| row.link as usize);
        if self.acceptor.next_is_inherited(listener) {
            self.readiness.adopt(&socket)?;
        }
        if let Some(hibernation) = &mut self.hibernation {
            hibernation.keep(conn, &socket);
        }
        self.readiness.install_accepted(&mut self.slots, conn, socket)
    }

    /// Gives back the slot of an accept that brought no connection.
    pub fn abandon(&mut self, conn: ConnId) {
        if let Some(hibernation) = &mut self.hibernation {
            hibernation.drop_descriptor(conn.ring(), conn.slot());
        }
        if self.slots.row(conn).is_some() {
            self.release(conn);
        }
    }

    /// Takes a place for a connection that was dialed, if there is one.
    pub fn take_place(&self) -> Admission {
        self.acceptor.take_place(&self.counters)
    }

    /// Decides whether a connection that was just accepted is admitted. `None` while it waits for a place.
    pub fn try_admit(&mut self, conn: ConnId) -> Option<Admission> {
        self.acceptor.try_admit(conn, &self.counters, &self.clock)
    }

    /// The first connection that has waited for a place, once that is decided.
    pub fn next_admission(&mut self) -> Option<(ConnId, Admission)> {
        if !self.acceptor.has_queue() {
            return None;
        }
        let unread = Unread { any: self.has_work(), ends: !self.endings.fins.is_empty() || self.readiness.has_ends() };
        self.acceptor.next_admission(&self.counters, self.clock.now(), unread)
    }

    /// A connection was accepted, or its dial succeeded. If it is admitted it is parked. If not it is reset, and this
    /// returns `false`.
    pub fn opened(&mut self, conn: ConnId, admission: Admission) -> Result<bool> {
        let mut admission = admission;
        if admission == Admission::Granted && !self.ensure_named(conn) {
            self.acceptor.leave(1);
            admission = Admission::AtCapacity;
        }
        if admission != Admission::Granted {
            let Counters { refused_for_memory, refused_when_full, .. } = &*self.counters;
            let cause = if admission == Admission::LowMemory { refused_for_memory } else { refused_when_full };
            cause.add(1);
            if let Some(hibernation) = &mut self.hibernation {
                hibernation.drop_descriptor(conn.ring(), conn.slot());
            }
            self.slots.ring(conn).reset(conn.token(Operation::Reset))?;
            tear_down(&mut self.ending().1, conn)?;
            return Ok(false);
        }
        if let Some(row) = self.slots.row(conn) {
            row.lifecycle.establish();
            row.link = 0;
        }
        self.counters.live.add(1);
        self.counters.opened.add(1);
        self.park(conn)?;
        Ok(true)
    }

    /// A dial failed.
    pub fn dial_failed(&mut self, conn: ConnId, errno: Errno) -> Result<()> {
        if self.slots.row(conn).is_none() {
            return Ok(());
        }
        self.not_opened(conn, errno);
        tear_down(&mut self.ending().1, conn)
    }

    /// The driver is to be told that its dial did not succeed.
    pub fn not_opened(&mut self, conn: ConnId, errno: Errno) {
        self.endings.tell(conn, CloseReason::NotOpened(errno));
    }

    // ---- data -------------------------------------------------------------------------------------

    /// Tells a connection what happened, and does what comes next for it.
    #[inline]
    pub fn apply(&mut self, conn: ConnId, event: impl FnOnce(&mut SlotState) -> Action) -> Result<()> {
        let next = self.slots.tell(conn, event);
        self.perform(conn, next)
    }

    /// The poll on the filter's wake-up descriptor has fired. If it is `armed`, it is a lasting one and still waits.
    pub fn filter_woke(&mut self, armed: bool) {
        self.readiness.filter_woke(armed);
    }

    /// The data operation of a connection is over: go on with what waits.
    pub fn operation_ended(&mut self, conn: ConnId) -> Result<()> {
        self.outgoing.operation_ended(&mut self.slots, conn);
        self.apply(conn, SlotState::operation_ended)
    }

    /// Sends bytes after those that are already on their way.
    pub fn send(&mut self, conn: ConnId, bytes: &[u8]) -> Result<()> {
        self.used(conn);
        self.transmit(conn, |outgoing, wire| outgoing.send(wire, conn, bytes))
    }

    /// Ends a receive with a reply from its buffer.
    pub fn reply_to_receive(&mut self, conn: ConnId, buffer: Buffer, range: Range<usize>) -> Result<()> {
        self.transmit(conn, |outgoing, wire| outgoing.reply(wire, conn, (buffer, range)))
    }

    /// The kernel took only a part of a send: the rest waits in the kernel.
    pub fn sent_short(&mut self, conn: ConnId, mut buffer: Buffer, rest: Range<usize>) -> Result<()> {
        let bytes: Arc<[u8]> = buffer.bytes()[rest].into();
        self.buffers.put(buffer);
        let all = 0..bytes.len();
        self.shared_sent_short(conn, bytes, all)
    }

    /// The kernel took only a part of a send of shared bytes: the rest waits in the kernel.
    pub fn shared_sent_short(&mut self, conn: ConnId, bytes: Arc<[u8]>, rest: Range<usize>) -> Result<()> {
        self.transmit(conn, |outgoing, wire| outgoing.sent_short(wire, conn, (bytes, rest)))
    }

    /// Sends shared bytes after those that are already on their way.
    pub fn send_shared(&mut self, conn: ConnId, bytes: &Arc<[u8]>) -> Result<()> {
        self.used(conn);
        self.transmit(conn, |outgoing, wire| outgoing.send_shared(wire, conn, bytes))
    }

    /// The name of the next connection whose bytes have all been taken by the kernel, or sent, after some had to wait.
    #[inline]
    pub fn next_drained(&mut self) -> Option<ConnId> {
        while let Some(conn) = self.outgoing.next_drained() {
            if self.slots.is_live(conn) {
                return Some(self.name_of(conn));
            }
        }
        self.hibernation.as_mut()?.next_drained(&self.slots)
    }

    // ---- connections end --------------------------------------------------------------------------

    /// The poll tells that both directions are over, as after a RST.
    pub fn reset_seen(&mut self, conn: ConnId, armed: bool, now: Instant) -> Result<()> {
        let (endings, parts) = self.ending();
        let next = endings.reset_seen(parts, conn, armed, now)?;
        self.perform(conn, next)
    }

    /// The poll fired, and tells of a FIN.
    pub fn fin_came(&mut self, conn: ConnId, armed: bool, now: Instant) -> Result<()> {
        let (endings, parts) = self.ending();
        let next = endings.fin_came(parts, conn, armed, now);
        self.perform(conn, next)
    }

    /// A receive found the end of what the peer sends.
    pub fn peer_ended(&mut self, conn: ConnId, now: Instant) -> Result<()> {
        if self.stop_lingering(conn)? {
            return Ok(());
        }
        let (endings, parts) = self.ending();
        endings.peer_ended(parts, conn, now)
    }

    /// Closes a live connection; any other is left alone.
    pub fn close(&mut self, conn: ConnId, mode: CloseMode, reason: CloseReason) -> Result<()> {
        let (endings, parts) = self.ending();
        let lingers = endings.close(parts, conn, mode, reason)?;
        if lingers { self.linger(conn) } else { Ok(()) }
    }

    /// A receive or a send failed: the connection is broken.
    pub fn broke(&mut self, conn: ConnId, errno: Errno) -> Result<()> {
        if !self.stop_lingering(conn)? {
            self.close(conn, CloseMode::Immediate, CloseReason::Failed(errno))?;
        }
        self.operation_ended(conn)
    }

    /// A cancel or a poll removal came while its target was running: it is done once more, the slower way.
    pub fn cancel_again(&mut self, conn: ConnId) -> Result<()> {
        if self.slots.row(conn).is_some_and(|row| row.lifecycle.poll_must_go()) {
            return self.slots.ring(conn).cancel(conn.token(Operation::Cancel), Operation::Poll);
        }
        Ok(())
    }

    /// The slot's descriptor is closed.
    pub fn closed(&mut self, conn: ConnId) -> Result<()> {
        self.apply(conn, SlotState::closed)?;
        self.releases.slot_closed(&mut self.slots, conn.ring());
        Ok(())
    }

    // ---- our own ----------------------------------------------------------------------------------

    /// Does for a connection what comes next.
    pub(super) fn perform(&mut self, conn: ConnId, next: Action) -> Result<()> {
        match next {
            Action::Rest => Ok(()),
            #[cfg(feature = "tls")]
            Action::Receive if !self.may_receive(conn) => Ok(()),
            Action::Receive => self.incoming.receive(&mut self.slots, &mut self.buffers, conn),
            Action::Wait => {
                self.incoming.wait(&mut self.slots, conn);
                Ok(())
            }
            Action::Park => self.park(conn),
            Action::ParkAnew => {
                let next = self.readiness.park_anew(&mut self.slots, conn)?;
                self.perform(conn, next)
            }
            Action::Poll => readiness::poll(&mut self.slots, conn, false),
            Action::SendKept => self.transmit(conn, |outgoing, wire| outgoing.send_kept(wire, conn)),
            Action::End => {
                let (mode, reason) = self.endings.deferred(conn);
                self.close(conn, mode, reason)
            }
            Action::Release => {
                self.release(conn);
                Ok(())
            }
        }
    }

    /// Frees a slot, and drops what is kept of a connection that never opened.
    fn release(&mut self, conn: ConnId) {
        self.accepted_from.forget(conn);
        self.slots.release(conn);
    }

    /// Has a connection wait that has nothing to receive.
    pub(super) fn park(&mut self, conn: ConnId) -> Result<()> {
        let Some(row) = self.slots.row(conn) else { return Ok(()) };
        self.idle.heard(&mut row.link);
        let next = self.readiness.park(&mut self.slots, conn)?;
        self.perform(conn, next)
    }

    /// Sends on a connection, and does what comes next for it.
    pub(super) fn transmit(
        &mut self,
        conn: ConnId,
        send: impl FnOnce(&mut Outgoing, Wire<'_, S, P::Ring>) -> Result<AfterSend>,
    ) -> Result<()> {
        let Engine { outgoing, slots, buffers, counters, .. } = self;
        match send(outgoing, Wire { slots, buffers, counters })? {
            AfterSend::Rest => Ok(()),
            AfterSend::GoOn => self.operation_ended(conn),
            AfterSend::Reset { then_go_on } => {
                self.counters.slow_readers.add(1);
                self.close(conn, CloseMode::Abort, CloseReason::SlowReader)?;
                if then_go_on { self.operation_ended(conn) } else { Ok(()) }
            }
        }
    }

    /// The ends of connections, and the other parts that they touch.
    pub(super) fn ending(&mut self) -> (&mut Endings, Parts<'_, S, P::Ring>) {
        let Engine { endings, slots, acceptor, outgoing, counters, .. } = self;
        (endings, Parts { slots, acceptor, outgoing, counters })
    }

    /// Takes a bounded number of the filter's notifications of a kind. Returns how many there were.
    fn take(&mut self, kind: Notification, most: usize) -> Result<usize> {
        let mut taken = 0;
        while taken < most
            && let Some(notified) = self.readiness.next_notification(&mut self.slots, kind)
        {
            taken += 1;
            if let Some((conn, next)) = notified {
                self.perform(conn, next)?;
            }
        }
        Ok(taken)
    }

    /// Takes some FINs: those that polls told of, and those that the filter announced. Returns how many.
    fn take_fins(&mut self, now: Instant) -> Result<usize> {
        let mut taken = 0;
        while taken < FINS_PER_PASS && self.has_fins() && self.may_take_fin(now) {
            match self.endings.fins.pop() {
                Some(conn) => self.apply(conn, SlotState::resume)?,
                None if self.take(Notification::Fin, 1)? == 0 => break,
                None => {}
            }
            taken += 1;
        }
        Ok(taken)
    }

    /// Whether FINs wait to be received.
    fn has_fins(&mut self) -> bool {
        !self.endings.fins.is_empty() || self.readiness.has_fins()
    }

    /// Whether a FIN may be received now.
    fn may_take_fin(&mut self, now: Instant) -> bool {
        let (endings, parts) = self.ending();
        endings.may_take_fin(&parts, now)
    }
}

#[cfg(test)]
impl<S: Default, P: Platform> Engine<S, P> {
    /// From now on at most `capacity` connections are live.
    pub fn set_capacity(&mut self, capacity: u64) {
        self.acceptor.set_capacity(capacity);
    }

    /// The connections that bytes are kept for.
    pub fn kept_for(&self) -> impl Iterator<Item = ConnId> {
        self.outgoing.kept_for()
    }
}
