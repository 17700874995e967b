//! Accepting: the listening sockets, the accepts in flight on each, and the connections that wait for a place within
//! the limits. An accept owns a free slot before it begins, so a full ring never loses a connection.

use std::collections::VecDeque;
use std::net::TcpListener;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::admission::{Admission, AdmissionGate, AdmissionState, SharedLimit};
use super::slots::Slots;
use crate::clock::{Clock, LONGEST_LOOK, Mark};
use crate::error::{Error, Result};
use crate::listener;
use crate::pace::TokenBucket;
use crate::ring::RingOps;
use crate::stats::Counters;
use crate::sys;
use crate::token::{ConnId, Operation};

/// How long a connection that was accepted at capacity waits for a place. When a crowd reconnects to a full server, new
/// connections come before the shard has received the resets that make room for them. After this time the connection is
/// refused, unless something is still unread: that may be a reset. It is time on the shard's own clock.
const ADMISSION_WAIT: Duration = Duration::from_millis(100);

/// How much longer such a connection waits at most while the shard has unread completions or notifications. Where the
/// queue is too long, it does so only while ends are known to be among them.
const ADMISSION_WAIT_WHILE_READING: Duration = Duration::from_secs(2);

const _: () =
    assert!(ADMISSION_WAIT.as_millis() >= 5 * LONGEST_LOOK.as_millis(), "no connection is refused for one gap");

/// The pause after the kernel refused an accept for want of memory or files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Connections that may be on their way into an accept queue at one moment, one on each core: each may have a copy of the
/// program that the listener had just before.
const COMING: usize = 64;

/// A listening socket and the accepts in flight on it.
#[derive(Debug)]
struct Listener {
    socket: Arc<TcpListener>,
    in_flight: usize,
    wanted: usize,
    /// So many of the connections that it brings next may have another process's program.
    inherited: usize,
}

/// Whether the shard has completions or notifications that it has not handled. They may be the ends of connections,
/// whose places become free.
#[derive(Debug, Clone, Copy)]
pub(super) struct Unread {
    /// There are any.
    pub any: bool,
    /// Resets or FINs are known to be among them.
    pub ends: bool,
}

/// The listening sockets of a shard, and the limits on what they accept.
#[derive(Debug)]
pub(super) struct Acceptor {
    listeners: Vec<Listener>,
    /// A listener has fewer accepts in flight than it wants.
    needs_refill: bool,
    /// No accept begins before this instant: the kernel lacked memory or files, or the budget is used up.
    paused: Option<Instant>,
    /// How many accepts may begin now. `None` does not limit them.
    budget: Option<TokenBucket>,
    /// Connections that were accepted at capacity, each with the end of its wait.
    queue: VecDeque<(ConnId, Mark)>,
    /// Connections that may wait: half of the slots beyond `capacity`, so that accepting and refusing goes on.
    queue_places: usize,
    /// Connections that may wait at most, whatever is unread: half of the slots where connections sleep.
    most_places: usize,
    capacity: u64,
    /// Connections that come from another process yet. Their places within the limits are taken, and slots are left for them.
    expected: u64,
    shared_limit: Option<SharedLimit>,
    gate: AdmissionGate,
    /// Whether each accept brings the peer's address.
    brings_peers: bool,
    /// How many connections of each listener that `listen` is given may have another process's program.
    inherited: usize,
}

impl Acceptor {
    /// An acceptor without listeners. Of `slots` slots, `capacity` may have live connections.
    pub fn new(slots: usize, capacity: u64, shared_limit: Option<SharedLimit>, gate: AdmissionGate) -> Acceptor {
        Acceptor {
            listeners: Vec::new(),
            needs_refill: false,
            paused: None,
            budget: None,
            queue: VecDeque::new(),
            queue_places: ((slots as u64).saturating_sub(capacity) / 2) as usize,
            most_places: usize::MAX,
            capacity,
            expected: 0,
            shared_limit,
            gate,
            brings_peers: false,
            inherited: 0,
        }
    }

    /// Limits accepts to `rate` a second.
    pub fn limit_rate(&mut self, rate: f64, now: Instant) {
        self.budget = Some(TokenBucket::new(now, rate));
    }

    /// Connections sleep, and need one of the `slots` slots when they wake: half of the slots stay for them.
    pub fn leave_slots_for_wakes(&mut self, slots: usize) {
        self.most_places = slots / 2;
    }

    /// Makes every later accept return the peer's address too.
    pub fn bring_peers(&mut self) {
        self.brings_peers = true;
    }

    #[cfg(test)]
    pub fn set_capacity(&mut self, capacity: u64) {
        self.capacity = capacity;
    }

    // ---- admission -----------------------------------------------------------------------------

    /// Takes a place within the limits for one more connection, if one is left.
    pub fn take_place(&self, counters: &Counters) -> Admission {
        if self.is_short_of_memory() {
            return Admission::LowMemory;
        }
        let full = counters.live.get() + self.expected >= self.capacity;
        let taken = !full && self.shared_limit.as_ref().is_none_or(SharedLimit::enter);
        if taken { Admission::Granted } else { Admission::AtCapacity }
    }

    /// Decides whether a connection that was just accepted is admitted. `None` if it waits in the queue because a place
    /// may become free; `next_admission` decides later.
    pub fn try_admit(&mut self, conn: ConnId, counters: &Counters, clock: &Clock) -> Option<Admission> {
        let admission = if self.queue.is_empty() { self.take_place(counters) } else { Admission::AtCapacity };
        if admission == Admission::AtCapacity {
            self.queue.push_back((conn, clock.now().after(ADMISSION_WAIT)));
            return None;
        }
        Some(admission)
    }

    /// The first connection of the queue, if its wait is over: there is a place for it, or its time has passed, or the
    /// queue is too long and nothing is unread that may be the end of a connection.
    pub fn next_admission(&mut self, counters: &Counters, now: Mark, unread: Unread) -> Option<(ConnId, Admission)> {
        let &(conn, until) = self.queue.front()?;
        let admission = self.take_place(counters);
        if admission == Admission::AtCapacity && self.keeps_waiting(until, now, unread) {
            return None;
        }
        self.queue.pop_front();
        Some((conn, admission))
    }

    fn keeps_waiting(&self, until: Mark, now: Mark, unread: Unread) -> bool {
        let too_long = self.queue.len() > self.queue_places;
        if self.queue.len() > self.most_places {
            return false;
        }
        match unread {
            Unread { any: false, ends: false } => !too_long && now < until,
            Unread { ends: false, .. } if too_long => now < until,
            _ => now < until.after(ADMISSION_WAIT_WHILE_READING),
        }
    }

    /// Takes places for connections that stand already, in another process.
    pub fn enter_anyway(&self, connections: u64) {
        if let Some(shared_limit) = &self.shared_limit {
            shared_limit.enter_anyway(connections);
        }
    }

    /// So many connections are still to come from another process. Newcomers get neither their places nor their slots.
    /// Takes places for those beyond the number that was expected before, or gives places back.
    pub fn expect(&mut self, connections: u64) {
        let connections = connections.min(u32::MAX.into());
        if connections >= self.expected {
            self.enter_anyway(connections - self.expected);
        } else {
            self.leave(self.expected - connections);
            self.needs_refill = true;
        }
        self.expected = connections;
    }

    /// A connection has come from another process, and has its place: that of an expected one, if any is expected.
    pub fn enter_expected(&mut self) {
        match self.expected.checked_sub(1) {
            Some(others) => self.expected = others,
            None => self.enter_anyway(1),
        }
    }

    /// A connection that was expected is lost.
    pub fn expected_is_lost(&mut self) {
        self.expect(self.expected.saturating_sub(1));
    }

    /// Live connections have ended: gives their places back.
    pub fn leave(&self, connections: u64) {
        if let Some(shared_limit) = &self.shared_limit {
            shared_limit.leave(connections);
        }
    }

    /// Whether connections wait in the queue.
    pub fn has_queue(&self) -> bool {
        !self.queue.is_empty()
    }

    /// Whether as many connections are live as the limits allow.
    pub fn is_at_capacity(&self, counters: &Counters) -> bool {
        counters.live.get() + self.expected >= self.capacity
            || self.shared_limit.as_ref().is_some_and(SharedLimit::is_full)
    }

    /// Whether the gate is shut because the host is short of memory.
    pub fn is_short_of_memory(&self) -> bool {
        self.gate.level() != AdmissionState::Open
    }

    // ---- accepts -------------------------------------------------------------------------------

    /// Accepts on these sockets from now on, with `each` accepts in flight on every one.
    pub fn listen<S: Default, R: RingOps>(
        &mut self,
        slots: &mut Slots<S, R>,
        sockets: Vec<Arc<TcpListener>>,
        each: usize,
        now: Instant,
    ) -> Result<()> {
        self.listeners = sockets
            .into_iter()
            .map(|socket| Listener { socket, in_flight: 0, wanted: each, inherited: self.inherited })
            .collect();
        self.refill(slots, now)
    }

    /// Accepts nothing more. The sockets are shut down, which fails the accepts in flight; they close with `self`.
    /// Cancelling the accepts instead would miss an accept that the kernel is just retrying: it would wait again.
    pub fn stop_listening(&mut self) -> Result<()> {
        for Listener { socket, wanted, .. } in &mut self.listeners {
            *wanted = 0;
            listener::stop_listening(socket).map_err(|error| Error::unexpected("stop", "listening", &error))?;
        }
        Ok(())
    }

    /// Listeners that `listen` is given come from another process. As many connections as their accept queues hold have its
    /// program; a queue keeps the order in which connections came.
    pub fn inherit(&mut self, backlog: usize) {
        // The kernel takes one more than the backlog (`sk_acceptq_is_full`).
        self.inherited = backlog + 1;
    }

    /// Whether the next connection of the listener with this index may have another process's program.
    pub fn next_is_inherited(&mut self, listener: usize) -> bool {
        let Some(listener) = self.listeners.get_mut(listener) else { return false };
        let inherited = listener.inherited > 0;
        listener.inherited = listener.inherited.saturating_sub(1);
        inherited
    }

    /// Begins no accept any more. The sockets listen on: another process accepts.
    pub fn stop_accepting(&mut self) {
        self.listeners.iter_mut().for_each(|listener| listener.wanted = 0);
    }

    /// Accepts again after `stop_accepting`, with `each` accepts in flight on every socket, whose programs `attach`
    /// sets anew: another process had them, and what is in an accept queue by then may have its program.
    pub fn accept_again(&mut self, each: usize, attach: impl Fn(&TcpListener) -> Result<()>) -> Result<()> {
        for listener in &mut self.listeners {
            attach(&listener.socket)?;
            listener.wanted = each;
            let queued = sys::tcp_info(&*listener.socket).map_or(usize::MAX, |info| info.unacknowledged as usize);
            listener.inherited = queued.saturating_add(COMING);
        }
        self.needs_refill = true;
        Ok(())
    }

    /// Accepts in flight, each of which has a slot.
    pub fn in_flight(&self) -> usize {
        self.listeners.iter().map(|listener| listener.in_flight).sum()
    }

    /// Accepts that shall be in flight.
    pub fn wanted(&self) -> usize {
        self.listeners.iter().map(|listener| listener.wanted).sum()
    }

    /// Accepts in flight, and connections that wait for a place.
    pub fn unfinished(&self) -> usize {
        self.in_flight() + self.queue.len()
    }

    /// An accept of the listener with this index ended, with a connection or without.
    pub fn accept_ended(&mut self, listener: usize) {
        if let Some(listener) = self.listeners.get_mut(listener) {
            listener.in_flight -= 1;
            self.needs_refill |= listener.in_flight < listener.wanted;
        }
    }

    /// The kernel has no memory or files for accepts: begins none for `ACCEPT_PAUSE`.
    pub fn pause(&mut self, counters: &Counters, now: Instant) {
        // Listeners that were shut down fail their accepts. That is no lack of memory.
        let listening = self.gate.level() != AdmissionState::NotListening
            && self.listeners.iter().any(|listener| listener.wanted > 0);
        counters.accept_errors.add(u64::from(listening));
        self.paused = Some(now + ACCEPT_PAUSE);
    }

    /// When the acceptor has something to do without a completion: a pause ends, or a wait in the queue.
    pub fn due(&self, clock: &Clock) -> Option<Instant> {
        let queue = self.queue.front().map(|&(_, until)| clock.due(until));
        self.paused.into_iter().chain(queue).min()
    }

    /// Queues the accepts that are wanted, as long as slots are free.
    pub fn replenish<S: Default, R: RingOps>(&mut self, slots: &mut Slots<S, R>, now: Instant) -> Result<()> {
        if self.paused.is_some_and(|until| now < until) {
            return Ok(());
        }
        self.paused = None;
        if !self.needs_refill {
            return Ok(());
        }
        if self.gate.level() == AdmissionState::NotListening {
            self.paused = Some(now + ACCEPT_PAUSE);
            return Ok(());
        }
        self.refill(slots, now)
    }

    /// Gives each listener the accepts that it wants, as long as slots are free that no expected connection needs. Listeners
    /// with the fewest accepts come first.
    fn refill<S: Default, R: RingOps>(&mut self, slots: &mut Slots<S, R>, now: Instant) -> Result<()> {
        self.needs_refill = false;
        let most = self.listeners.iter().map(|listener| listener.wanted).max().unwrap_or(0);
        for level in 1..=most {
            for (index, listener) in self.listeners.iter_mut().enumerate() {
                while listener.in_flight < level.min(listener.wanted) {
                    if let Some(due) = self.budget.as_mut().and_then(|budget| budget.spend(now).err()) {
                        (self.needs_refill, self.paused) = (true, Some(due));
                        return Ok(());
                    }
                    let is_spare = self.expected == 0 || slots.count() as u64 > slots.in_use() + self.expected;
                    let Some(conn) = is_spare.then(|| slots.claim(index as u32)).flatten() else {
                        self.needs_refill = true;
                        return Ok(());
                    };
                    listener.in_flight += 1;
                    let (ring, socket) = (slots.ring(conn), listener.socket.as_raw_fd());
                    let token = conn.token(Operation::Accept);
                    if self.brings_peers { ring.accept_from(socket, token) } else { ring.accept(socket, token) }?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTHING: Unread = Unread { any: false, ends: false };
    const SOMETHING: Unread = Unread { any: true, ends: false };
    const ENDS: Unread = Unread { any: true, ends: true };

    /// A queue of so many connections at a full shard that has places for two in it.
    fn queue(connections: u32) -> (Acceptor, Counters, Clock) {
        queue_of(4, connections)
    }

    /// A queue of so many connections at a full shard of 8 slots.
    fn queue_of(capacity: u64, connections: u32) -> (Acceptor, Counters, Clock) {
        let (counters, clock) = (Counters::default(), Clock::begin(Instant::now()));
        counters.live.add(capacity);
        let mut acceptor = Acceptor::new(8, capacity, None, AdmissionGate::default());
        for slot in 0..connections {
            assert_eq!(acceptor.try_admit(ConnId::new(0, slot, 0), &counters, &clock), None);
        }
        (acceptor, counters, clock)
    }

    /// How long the first connection of a queue of this length waits for its refusal.
    fn waits(connections: u32, unread: Unread) -> Duration {
        const STEP: Duration = Duration::from_millis(10);
        let (mut acceptor, counters, clock) = queue(connections);
        let times = (0..).map(|step| STEP * step);
        let mut ends =
            times.filter(|time| acceptor.next_admission(&counters, clock.now().after(*time), unread).is_some());
        ends.next().unwrap()
    }

    #[test]
    fn a_connection_is_refused_once_all_is_read_or_its_time_has_passed() {
        let longest = ADMISSION_WAIT + ADMISSION_WAIT_WHILE_READING;
        assert_eq!([NOTHING, SOMETHING, ENDS].map(|unread| waits(2, unread)), [ADMISSION_WAIT, longest, longest]);
        // What is unread may be the end that makes room, also where the queue is too long.
        assert_eq!(
            [NOTHING, SOMETHING, ENDS].map(|unread| waits(3, unread)),
            [Duration::ZERO, ADMISSION_WAIT, longest]
        );
    }

    /// Connections that come from another process yet have their places.
    #[test]
    fn newcomers_get_no_place_of_an_expected_connection() {
        let limit = SharedLimit::new(4);
        let (counters, clock) = (Counters::default(), Clock::begin(Instant::now()));
        let mut acceptor = Acceptor::new(8, 8, Some(limit.clone()), AdmissionGate::default());
        acceptor.expect(4);
        assert_eq!(acceptor.take_place(&counters), Admission::AtCapacity);
        acceptor.enter_expected();
        acceptor.expected_is_lost();
        // Two come yet, one has come, and one is lost.
        let admitted = [(); 2].map(|()| acceptor.take_place(&counters));
        assert_eq!(admitted, [Admission::Granted, Admission::AtCapacity]);
        acceptor.expect(0);
        acceptor.expect(u64::MAX);
        assert!(acceptor.is_at_capacity(&counters) && limit.is_full());
        // They have places of the shard too.
        let mut acceptor = Acceptor::new(8, 4, None, AdmissionGate::default());
        acceptor.expect(4);
        assert_eq!(acceptor.try_admit(ConnId::new(0, 0, 0), &counters, &clock), None);
        acceptor.expect(3);
        assert_eq!(
            acceptor.next_admission(&counters, clock.now(), SOMETHING),
            Some((ConnId::new(0, 0, 0), Admission::Granted))
        );
    }

    /// Connections that wait for a place leave slots for those that wake.
    #[test]
    fn a_queue_takes_half_of_the_slots_at_most_where_connections_sleep() {
        for unread in [SOMETHING, ENDS] {
            let (mut acceptor, counters, clock) = queue_of(1_000, 6);
            acceptor.leave_slots_for_wakes(8);
            let mut refused = 0;
            while acceptor.next_admission(&counters, clock.now(), unread).is_some() {
                refused += 1;
            }
            assert_eq!(refused, 2, "{unread:?}");
        }
    }

    #[test]
    fn the_first_connection_of_a_queue_gets_the_first_place() {
        let (mut acceptor, counters, clock) = queue(3);
        counters.live.sub(1);
        let first = acceptor.next_admission(&counters, clock.now(), SOMETHING);
        assert_eq!(first, Some((ConnId::new(0, 0, 0), Admission::Granted)));
        counters.live.add(1);
        assert_eq!(acceptor.next_admission(&counters, clock.now(), SOMETHING), None);
        // One that comes later waits behind the others, even if there is a place.
        counters.live.sub(1);
        assert_eq!(acceptor.try_admit(ConnId::new(0, 3, 0), &counters, &clock), None);
    }
}
