//! TLS in the engine: when a handshake may go on, how long it may take, and what is sealed before it is sent. What comes is
//! opened in `reactor/tls.rs`, because the driver must be asked for each record.
//!
//! A step of a handshake takes a hundred times as long as a message. So a connection that is not established receives only
//! in its turn: a few of them in each pass, and at a server only as many as there are places for handshakes. The others'
//! bytes stay in their sockets meanwhile.

mod swept_queue;

use std::collections::{HashSet, VecDeque};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use swept_queue::SweptQueue;

use super::close_reason::CloseReason;
use super::engine::Engine;
use super::hibernation::Wake;
use super::platform::Platform;
use super::slots::Cursor;
use crate::clock::{Clock, Mark};
use crate::connections::lifecycle::{CloseMode, SendDecision, SlotState};
use crate::error::{Alert, Error, Result, TlsFailure};
use crate::ring::{Buffer, RingOps};
use crate::stats::Counters;
use crate::tls::handshake::TlsAgreed;
use crate::tls::layer::{Layer, LayerConfig};
use crate::tls::record::{LARGEST_CONTENT, MOST_AROUND, Unsealed};
use crate::tls::sessions::{Answer, Sealed};
use crate::token::{ConnId, Operation};
use crate::wiped::Wiped;

/// Receives of connections that are not established, in a pass of a shard that has messages. Each brings a step of a
/// handshake.
pub(crate) const TURNS_BESIDE_MESSAGES: usize = 2;

/// The same in a pass of a shard without messages.
const TURNS: usize = 32;

/// A pass of a shard that has messages begins no further step of a handshake after this time: one that signs takes some
/// 200 us, and one that ends a handshake some 30. So a message waits for one long step at most.
const TIME_BESIDE_MESSAGES: Duration = Duration::from_micros(50);

/// What came for a handshake. It waits for the end of the pass, after the answers to what came with it.
pub(crate) struct Step {
    pub conn: ConnId,
    pub buffer: Buffer,
    pub len: usize,
}

/// Connections that are closed in one pass because their handshake, or a record, was not whole in time; of each kind.
const TIMEOUTS_PER_PASS: usize = 16;

/// Places of a queue that are looked at in one pass at most. A pass accepts up to 256 connections and begins some 32
/// handshakes, so looks do not fall behind.
const LOOKS_PER_PASS: usize = 1_024;

/// Bytes of the buffer for sealed bytes that is kept from one send to the next.
const KEPT_CAPACITY: usize = 64 * 1024;

/// Bytes kept at most for a peer that does not read, where `content` bytes of data may be kept: data is longer when it is
/// sealed, and a reply to the longest record comes whole.
pub(super) fn most_pending(content: usize) -> usize {
    let around = content / LARGEST_CONTENT * MOST_AROUND + 2 * (LARGEST_CONTENT + MOST_AROUND);
    content.saturating_add(around)
}

/// TLS of a shard's connections.
pub(crate) struct Tls {
    pub(crate) layer: Layer,
    timeout: Duration,
    /// Connections with a handshake under way that may have bytes and wait for their turn.
    shaking: SweptQueue<ConnId>,
    /// The same without a handshake: these also wait for a place.
    fresh: SweptQueue<ConnId>,
    /// Connections that may receive the first bytes of a handshake. Each has a place for one. Its bytes have not come
    /// yet, or wait in `steps`.
    admitted: HashSet<ConnId>,
    /// No handshake begins: connections go to another process.
    begins_none: bool,
    /// Receives of such connections that this pass may still begin.
    turns: usize,
    /// What was received for handshakes, and has not had its time.
    steps: VecDeque<Step>,
    /// The shard has messages.
    has_traffic: bool,
    /// Until when connections must be established, in that order.
    deadlines: SweptQueue<(ConnId, Mark)>,
    /// The connection whose data is with the driver, and how and why that closes it in order, if it does.
    pub(crate) current: Option<(ConnId, Option<(CloseMode, CloseReason)>)>,
    /// What the handshake of a connection has agreed on of which the driver is being told.
    pub(crate) agreed: Option<(ConnId, TlsAgreed)>,
    /// For what is sealed. Empty between calls; kept for its memory.
    pub(crate) sealed: Vec<u8>,
}

impl Tls {
    pub fn new(config: LayerConfig) -> Tls {
        let timeout = config.timeout;
        Tls {
            layer: Layer::new(config),
            timeout,
            shaking: SweptQueue::default(),
            fresh: SweptQueue::default(),
            admitted: HashSet::new(),
            begins_none: false,
            turns: TURNS,
            steps: VecDeque::new(),
            has_traffic: false,
            deadlines: SweptQueue::default(),
            current: None,
            agreed: None,
            sealed: Vec::new(),
        }
    }

    /// Deadlines of handshakes that are kept.
    #[cfg(test)]
    pub fn awaited(&self) -> usize {
        self.deadlines.len()
    }

    /// Whether a connection has a session: its handshake is over. If it is open, it is so for its driver too.
    #[inline]
    pub fn has_session(&self, name: ConnId) -> bool {
        self.layer.sessions.has(name)
    }

    /// Whether another handshake may begin.
    fn may_begin(&self) -> bool {
        !self.begins_none && self.admitted.len() < self.layer.room()
    }

    /// A connection without a session may receive now: takes a turn for it, and a place if it has none.
    fn take_turn(&mut self, name: ConnId) -> bool {
        let begins = !self.layer.is_shaking(name);
        let may = self.turns > 0 && (!begins || self.may_begin());
        self.turns -= usize::from(may);
        if may && begins {
            self.admitted.insert(name);
        }
        may
    }

    /// Whether a connection that waits could go on in the next pass.
    pub(super) fn has_work(&self) -> bool {
        !self.steps.is_empty() || !self.shaking.is_empty() || !self.fresh.is_empty() && self.may_begin()
    }

    /// When the first handshake must be over, or the first record whole.
    pub(super) fn due(&self, clock: &Clock) -> Option<Instant> {
        let handshake = self.deadlines.first().map(|(_, until)| *until);
        [handshake, self.layer.record_due()].into_iter().flatten().min().map(|until| clock.due(until))
    }

    /// The next connection that waits and may go on in this pass.
    fn next_turn(&mut self) -> Option<ConnId> {
        if self.turns == 0 {
            return None;
        }
        let shaking = self.shaking.pop();
        if shaking.is_some() || !self.may_begin() { shaking } else { self.fresh.pop() }
    }

    /// Gives the buffer for sealed bytes back.
    pub(crate) fn put_sealed(&mut self, mut sealed: Vec<u8>) {
        sealed.clear();
        sealed.shrink_to(KEPT_CAPACITY);
        self.sealed = sealed;
    }

    /// A handshake has failed: counts it by its cause.
    fn count_failed(counters: &Counters, reason: CloseReason) {
        let cause = match reason {
            CloseReason::Tls(TlsFailure::PeerAlert(_)) => &counters.handshakes_alerted,
            CloseReason::Tls(TlsFailure::HandshakeTimeout) => &counters.handshakes_timed_out,
            CloseReason::Tls(_) => &counters.handshakes_refused,
            _ => &counters.handshakes_abandoned,
        };
        cause.add(1);
    }
}

impl<S: Default, P: Platform> Engine<S, P> {
    /// Whether a connection may receive now. If its handshake is not over and it is not its turn, it is queued for one.
    #[inline]
    pub(super) fn may_receive(&mut self, conn: ConnId) -> bool {
        // Bytes on a connection that lingers are no step of a handshake.
        if self.tls.is_none() || !self.lingering.is_empty() && self.is_lingering(conn) {
            return true;
        }
        let name = self.name_of(conn);
        let Some(tls) = &mut self.tls else { return true };
        if tls.has_session(name) || tls.take_turn(name) {
            return true;
        }
        let queue = if tls.layer.is_shaking(name) { &mut tls.shaking } else { &mut tls.fresh };
        queue.push(conn);
        self.slots.update(conn, SlotState::wait);
        false
    }

    /// Begins a pass: lets some connections go on with their handshakes, and closes those that took too long.
    pub(super) fn go_on_with_handshakes(&mut self, now: Instant) -> Result<()> {
        if self.tls.is_none() {
            return Ok(());
        }
        let has_traffic = self.has_traffic(now);
        self.sweep_admitted();
        if let Some(tls) = &mut self.tls {
            let turns = if has_traffic { TURNS_BESIDE_MESSAGES } else { TURNS };
            (tls.has_traffic, tls.turns) = (has_traffic, turns.saturating_sub(tls.steps.len()));
            self.counters.handshakes_under_way.set(tls.layer.handshakes() as u64);
        }
        while let Some(conn) = self.tls.as_mut().and_then(|tls| tls.next_turn()) {
            self.apply(conn, SlotState::resume)?;
        }
        self.sweep_queues();
        self.close_late_handshakes()?;
        self.close_late_records()
    }

    /// Drops connections from `admitted` that receive no more, or whose handshake has begun and has the place now.
    fn sweep_admitted(&mut self) {
        let Some(tls) = &mut self.tls else { return };
        let mut admitted = std::mem::take(&mut tls.admitted);
        admitted.retain(|name| {
            let state = self.find(*name).and_then(|conn| self.slots.row(conn)).map(|row| row.lifecycle);
            let receives = state.is_some_and(|state| state.is_busy() && state.accepts_bytes());
            receives && !self.is_opened(*name) && !self.is_shaking(*name)
        });
        if let Some(tls) = &mut self.tls {
            tls.admitted = admitted;
        }
    }

    /// Drops connections from the queues that do not wait any more: for their turn, or for the end of their handshake.
    fn sweep_queues(&mut self) {
        let Some(tls) = &mut self.tls else { return };
        for queue in [&mut tls.shaking, &mut tls.fresh] {
            let waits = |conn: &ConnId| self.slots.row(*conn).is_some_and(|row| row.lifecycle.is_waiting());
            queue.sweep(LOOKS_PER_PASS, waits);
        }
        let mut deadlines = std::mem::take(&mut tls.deadlines);
        deadlines.sweep(LOOKS_PER_PASS, |(name, _)| self.awaits_handshake(*name));
        if let Some(tls) = &mut self.tls {
            tls.deadlines = deadlines;
        }
    }

    /// Something came for a handshake.
    pub(crate) fn put_step(&mut self, step: Step) {
        if let Some(tls) = &mut self.tls {
            tls.steps.push_back(step);
        }
    }

    /// The next step of a handshake in this pass, of which the first began at an instant.
    pub(crate) fn next_step(&mut self, began: &mut Option<Instant>) -> Option<Step> {
        let tls = self.tls.as_mut()?;
        if tls.has_traffic && !tls.steps.is_empty() {
            let now = self.platform.now();
            if now.saturating_duration_since(*began.get_or_insert(now)) > TIME_BESIDE_MESSAGES {
                return None;
            }
        }
        tls.steps.pop_front()
    }

    /// Closes some connections whose handshake was not over in time.
    fn close_late_handshakes(&mut self) -> Result<()> {
        let (mut looks, mut closed) = (0, 0);
        while looks < LOOKS_PER_PASS
            && closed < TIMEOUTS_PER_PASS
            && let Some(&(name, until)) = self.tls.as_ref().and_then(|tls| tls.deadlines.first())
        {
            let is_awaited = self.awaits_handshake(name);
            if is_awaited && until > self.clock.now() {
                break;
            }
            looks += 1;
            if let Some(tls) = &mut self.tls {
                tls.deadlines.pop();
            }
            closed += usize::from(is_awaited && self.handshake_overdue(name)?);
        }
        Ok(())
    }

    /// The handshake of a connection was not over in time. The connection is closed, unless it has no place yet: the time
    /// for which it waits for one does not count. Returns whether it was closed.
    fn handshake_overdue(&mut self, name: ConnId) -> Result<bool> {
        let row = self.find(name).and_then(|conn| self.slots.row(conn));
        // A receive may be under way, or what it brought may wait for the handshake's first step.
        let waits = row.is_some_and(|row| row.lifecycle.is_waiting() || row.lifecycle.is_busy());
        let now = self.clock.now();
        let Some(tls) = &mut self.tls else { return Ok(false) };
        if waits && !tls.layer.is_shaking(name) {
            tls.deadlines.push((name, now.after(tls.timeout)));
            return Ok(false);
        }
        let is_overdue = tls.layer.is_overdue(name, now);
        if is_overdue {
            self.close_named(name, CloseMode::Immediate, CloseReason::Tls(TlsFailure::HandshakeTimeout))?;
        }
        Ok(is_overdue)
    }

    /// The first bytes of a connection were received, as it has a place for its handshake. Its time begins.
    pub(crate) fn handshake_began(&mut self, name: ConnId) {
        if let Some(tls) = &mut self.tls {
            let until = self.clock.now().after(tls.timeout);
            tls.layer.postpone(name, until);
            tls.deadlines.push((name, until));
        }
    }

    /// A connection that has sent the beginning of a record has the whole time for the rest again.
    pub(super) fn restart_record_time(&mut self, name: ConnId) {
        if let Some(tls) = &mut self.tls {
            tls.layer.postpone_record(name, self.clock.now().after(tls.timeout));
        }
    }

    /// Closes some connections with a record that was not whole in time.
    fn close_late_records(&mut self) -> Result<()> {
        for _ in 0..TIMEOUTS_PER_PASS {
            let now = self.clock.now();
            let Some(name) = self.tls.as_ref().and_then(|tls| tls.layer.overdue(now)) else { break };
            let is_awaited = self.is_asleep(name) || self.find(name).is_some_and(|conn| self.accepts_bytes(conn));
            if is_awaited && self.receives_nothing(name) {
                // Its rest may have come, and waits in its socket.
                self.restart_record_time(name);
                continue;
            }
            let Some(tls) = &mut self.tls else { break };
            tls.layer.drop_incomplete(name);
            if is_awaited {
                self.counters.records_timed_out.add(1);
                self.close_named(name, CloseMode::Immediate, CloseReason::Tls(TlsFailure::RecordTimeout))?;
            }
        }
        Ok(())
    }

    /// Whether nothing is received on a connection that is open: its reads are paused, or what it was sent has not left.
    fn receives_nothing(&mut self, name: ConnId) -> bool {
        let Some(conn) = self.find(name) else { return false };
        let ring = self.slots.ring(conn);
        ring.has_send(conn.token(Operation::Send))
            || ring.has_parked_send(conn.token(Operation::ParkedSend))
            || self.slots.row(conn).is_some_and(|row| row.lifecycle.has_paused_reads())
    }

    /// Keeps the beginning of a record, which must be whole in time. An error tells that no more may be kept.
    pub(crate) fn keep_incomplete(&mut self, name: ConnId, bytes: &[u8]) -> std::result::Result<(), Alert> {
        let Some(tls) = &mut self.tls else { return Ok(()) };
        tls.layer.keep(name, bytes.to_vec(), self.clock.now().after(tls.timeout))
    }

    /// Whether a connection is open, and is not established yet.
    fn awaits_handshake(&mut self, name: ConnId) -> bool {
        self.is_live(name) && !self.is_opened(name)
    }

    /// Whether a connection that is open is so for its driver too: its handshake is over, or there is none.
    #[inline]
    pub(crate) fn is_opened(&self, name: ConnId) -> bool {
        self.tls.as_ref().is_none_or(|tls| tls.has_session(name))
    }

    /// A connection stands: its handshake must be over in time. Returns whether it has to have one, and whether this end
    /// begins it.
    pub(crate) fn await_handshake(&mut self, name: ConnId) -> Option<Begins> {
        let tls = self.tls.as_mut()?;
        tls.deadlines.push((name, self.clock.now().after(tls.timeout)));
        Some(if tls.layer.is_server() { Begins::Peer } else { Begins::Here })
    }

    /// Begins the handshake of a dialed connection.
    pub(super) fn begin_handshake(&mut self, name: ConnId, to: IpAddr) -> Result<()> {
        let Some(tls) = &mut self.tls else { return Ok(()) };
        let mut hello = std::mem::take(&mut tls.sealed);
        match tls.layer.begin(name, to, &mut hello) {
            Ok(()) => self.send_sealed(name, &hello)?,
            Err(failure) => self.close_named(name, CloseMode::Abort, CloseReason::Tls(failure))?,
        }
        self.put_sealed(hello);
        Ok(())
    }

    /// A connection is over. Returns the reason for its driver, if that knows the connection: a server's driver does not
    /// before the handshake is over.
    pub(crate) fn forget_tls(&mut self, name: ConnId, reason: CloseReason) -> Option<CloseReason> {
        let Some(tls) = &mut self.tls else { return Some(reason) };
        let is_established = tls.has_session(name);
        let is_cut_off = reason == CloseReason::PeerClosed && tls.layer.sessions.is_readable(name);
        tls.layer.forget(name);
        if is_established || matches!(reason, CloseReason::NotOpened(_)) {
            return Some(if is_cut_off { CloseReason::PeerCutOff } else { reason });
        }
        Tls::count_failed(&self.counters, reason);
        (!tls.layer.is_server()).then_some(reason)
    }

    /// Whether bytes that came on a connection are still for the driver.
    pub(crate) fn accepts_bytes(&mut self, conn: ConnId) -> bool {
        self.slots.row(conn).is_some_and(|row| row.lifecycle.accepts_bytes())
    }

    // ---- from process to process ---------------------------------------------------------------

    /// Lets handshakes begin, or not. Those that are under way go on.
    pub(super) fn let_handshakes_begin(&mut self, may: bool) {
        if let Some(tls) = &mut self.tls {
            tls.begins_none = !may;
        }
    }

    /// Whether the handshake of a connection is under way. It cannot go to another process meanwhile.
    pub(super) fn is_shaking(&self, name: ConnId) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.layer.is_shaking(name))
    }

    /// Whether a connection has a session.
    pub(super) fn has_session(&self, name: ConnId) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.has_session(name))
    }

    /// Takes the session of a connection out that goes to another process.
    pub(super) fn carry_tls(&mut self, name: ConnId) -> Option<Wiped> {
        let now = self.clock.now();
        self.tls.as_mut()?.layer.carry(name, now)
    }

    /// A connection comes from another process, or comes back, with this session. Without one its handshake has not begun,
    /// and must be over in time from now on. `false` if the session cannot be used.
    pub(super) fn bring_tls(&mut self, name: ConnId, carried: Option<&Wiped>) -> bool {
        let now = self.clock.now();
        match (&mut self.tls, carried) {
            (Some(tls), Some(carried)) => tls.layer.bring(name, carried, now).is_some(),
            (Some(tls), None) => {
                tls.deadlines.push((name, now.after(tls.timeout)));
                true
            }
            (None, carried) => carried.is_none(),
        }
    }

    /// The handshakes of sleeping connections that have no session must be over in time from now on.
    pub(super) fn await_handshakes_of_sleepers(&mut self) {
        if self.tls.is_none() {
            return;
        }
        let mut place = Cursor::START;
        while let Some(name) = self.next_name(&mut place) {
            if let Some(name) = name.filter(|name| self.is_asleep(*name) && !self.has_session(*name)) {
                self.bring_tls(name, None);
            }
        }
    }

    /// Wakes the sleeping connections whose handshakes are under way. One for which no slot is free is reset.
    pub(super) fn rouse_shaking(&mut self) -> Result<()> {
        let Some(tls) = &self.tls else { return Ok(()) };
        let asleep: Vec<_> = tls.layer.shaking().filter(|name| self.is_asleep(*name)).collect();
        for name in asleep {
            if !matches!(self.reach(name)?, Wake::Awake(_)) {
                self.close_named(name, CloseMode::Abort, CloseReason::Tls(TlsFailure::HandshakeTimeout))?;
            }
        }
        Ok(())
    }

    /// Closes the connections whose handshakes are under way.
    pub(super) fn end_handshakes(&mut self) -> Result<()> {
        let Some(tls) = &self.tls else { return Ok(()) };
        for name in tls.layer.shaking().collect::<Vec<_>>() {
            self.close_named(name, CloseMode::Immediate, CloseReason::Tls(TlsFailure::HandshakeTimeout))?;
        }
        Ok(())
    }

    // ---- sealing -------------------------------------------------------------------------------

    /// Seals bytes, and sends them. Bytes for a connection that is gone, or has no session yet, are dropped.
    pub(super) fn seal_and_send(&mut self, name: ConnId, bytes: &[u8]) -> Result<()> {
        if bytes.is_empty() || !self.is_live(name) || !self.is_opened(name) {
            return Ok(());
        }
        let Some(tls) = &mut self.tls else { return Ok(()) };
        if tls.current.is_some_and(|(current, closes)| current == name && closes.is_some()) {
            return Ok(());
        }
        let mut sealed = std::mem::take(&mut tls.sealed);
        let outcome = match tls.layer.sessions.seal(name, bytes, &mut sealed) {
            Ok(Sealed { records, key_updates }) => {
                self.counters.records_sealed.add(records);
                self.counters.key_updates.add(key_updates);
                self.send_sealed(name, &sealed)
            }
            Err(Unsealed::Closed) => Ok(()),
            Err(Unsealed::UsedUp) => self.send_sealed(name, &sealed).and_then(|()| self.end_used_up(name)),
            Err(unsealed) => Err(Error::bug(format!("a send over TLS: {unsealed}"))),
        };
        self.put_sealed(sealed);
        outcome
    }

    /// Sends bytes that are sealed, or those of a handshake.
    fn send_sealed(&mut self, name: ConnId, sealed: &[u8]) -> Result<()> {
        match self.wake_to_send(name, sealed)? {
            Some(conn) => self.send(conn, sealed),
            None => Ok(()),
        }
    }

    fn put_sealed(&mut self, sealed: Vec<u8>) {
        if let Some(tls) = &mut self.tls {
            tls.put_sealed(sealed);
        }
    }

    /// Sends an alert, after which nothing is sent.
    pub(crate) fn send_alert(&mut self, name: ConnId, alert: Alert) -> Result<()> {
        let Some(tls) = &mut self.tls else { return Ok(()) };
        match tls.layer.sessions.alert(name, alert) {
            Some(record) => self.send_sealed(name, &record),
            None => Ok(()),
        }
    }

    /// Sends what must go before more data, if something must.
    pub(crate) fn send_answer(&mut self, name: ConnId) -> Result<()> {
        let Some(tls) = &mut self.tls else { return Ok(()) };
        let mut sealed = std::mem::take(&mut tls.sealed);
        let outcome = match tls.layer.sessions.answer(name, &mut sealed) {
            Ok(Some(answer)) => {
                self.counters.key_updates.add((answer == Answer::KeyUpdate).into());
                self.send_sealed(name, &sealed)
            }
            Ok(None) | Err(Unsealed::Closed) => Ok(()),
            Err(unsealed) => Err(Error::bug(format!("an answer to a peer's TLS: {unsealed}"))),
        };
        self.put_sealed(sealed);
        outcome
    }

    /// A connection's key has sealed as many records as it may: closes it in order.
    pub(crate) fn end_used_up(&mut self, name: ConnId) -> Result<()> {
        self.send_alert(name, Alert::CLOSE_NOTIFY)?;
        self.close_named(name, CloseMode::Graceful, CloseReason::Tls(TlsFailure::KeyUsedUp))
    }

    /// The driver closes a connection. Says close_notify first, where that can be sent. Returns `false` if the connection is
    /// to be closed later: its data is with the driver, whose reply goes first.
    pub(super) fn closes_now(&mut self, name: ConnId, mode: CloseMode, reason: CloseReason) -> Result<bool> {
        if self.tls.is_none() || mode == CloseMode::Abort || !self.is_live(name) || !self.is_opened(name) {
            return Ok(true);
        }
        if let Some(tls) = &mut self.tls
            && mode != CloseMode::Immediate
            && let Some((current, closes)) = &mut tls.current
            && *current == name
        {
            closes.get_or_insert((mode, reason));
            return Ok(false);
        }
        self.notify_close(name, mode)?;
        Ok(true)
    }

    /// Says close_notify before a connection with a session is closed, unless it is to be closed at once and something is
    /// on its way.
    pub(super) fn notify_close(&mut self, name: ConnId, mode: CloseMode) -> Result<()> {
        let decision = self.find(name).and_then(|conn| self.slots.row(conn)).map(|row| row.lifecycle.sending());
        let says = match mode {
            CloseMode::Graceful | CloseMode::Lingering => decision != Some(SendDecision::Never),
            // A sleeping connection is not woken for it.
            CloseMode::Immediate => decision == Some(SendDecision::Now),
            CloseMode::Abort => false,
        };
        if says { self.send_alert(name, Alert::CLOSE_NOTIFY) } else { Ok(()) }
    }
}

/// The end that begins a handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Begins {
    /// This one, which dialed.
    Here,
    /// The other one.
    Peer,
}
