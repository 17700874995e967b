//! Short messages without a socket. A sleeping connection may receive a short message and send one, and sleeps on: the
//! driver gets the payload of the caught segment, and what the driver sends becomes one segment of our own. A wake and the
//! next sleep would take some 40 system calls.
//!
//! What was sent is kept until the peer has acknowledged it. If the acknowledgement does not come in time, or if the peer
//! sends more before it, the connection wakes, and its socket sends the same bytes with the same sequence numbers. So
//! everything but the ordinary course is left to the kernel's TCP.
//!
//! For its driver such a connection wakes and falls asleep again. A connection that would do so once more within the
//! silence after which connections sleep gets its socket.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet, VecDeque};
use std::mem;
use std::time::Duration;

use super::entries::Whereabouts;
use super::{Around, Hibernation};
use crate::clock::Mark;
use crate::connections::slots::Slots;
use crate::hibernation::answer::{self, Answer};
use crate::hibernation::segment::FITS_ANYWHERE;
use crate::hibernation::{Checkpoint, Progress};
use crate::ring::RingOps;
use crate::sys::Patience;
use crate::token::ConnId;

/// Messages on their way at most. Further ones wake their connections.
const MOST_IN_FLIGHT: usize = 4_096;

/// An acknowledgement is late after this time and two round trips. A peer may delay it by 200 ms (`TCP_DELACK_MAX`,
/// include/net/tcp.h).
const LATE_AFTER: Duration = Duration::from_millis(210);

/// The same where the round-trip time is not known (RFC 6298, 2.1).
const LATE_WITHOUT_ROUND_TRIP: Duration = Duration::from_secs(1);

/// Messages that are recalled in one pass, each of which may wake a connection.
const RECALLS_PER_PASS: usize = 64;

/// An acknowledgement that is late may have been caught already, and wait behind other segments: for so long it may.
const LONGEST_BEHIND_OTHERS: Duration = Duration::from_millis(50);

/// After acknowledgements were allowed to wait, the shard looks into the ring buffer once more after this time. A
/// processor may read the word that allows it, and write its record only after the word has changed: that record wakes
/// nobody.
const LAST_LOOK: Duration = Duration::from_millis(250);

/// Connections that are remembered for the messages that they had lately. If there are more, the first are forgotten early.
const MOST_RECENT: usize = 65_536;

/// A message on its way: its peer has not acknowledged it.
#[derive(Debug)]
struct Flight {
    bytes: Box<[u8]>,
    /// When its acknowledgement is late.
    due: Mark,
}

/// Which message a connection had lately.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Had {
    Received,
    Sent,
}

/// The connections that had a message lately, by entry.
#[derive(Debug, Default)]
struct Recent {
    known: HashSet<(u32, Had)>,
    order: VecDeque<(Mark, (u32, Had))>,
}

impl Recent {
    /// Notes that a connection is to have a message now. Tells whether it had one of that kind within `time`.
    fn note(&mut self, index: u32, which: Had, now: Mark, time: Duration) -> bool {
        while let Some((at, key)) = self.order.front().copied()
            && (now.since(at) >= time || self.order.len() >= MOST_RECENT)
        {
            self.order.pop_front();
            self.known.remove(&key);
        }
        let is_new = self.known.insert((index, which));
        if is_new {
            self.order.push_back((now, (index, which)));
        }
        !is_new
    }
}

/// The connection whose message is with the driver.
#[derive(Debug)]
struct Current {
    index: u32,
    name: ConnId,
    /// What the driver has sent on it meanwhile.
    reply: Vec<u8>,
    /// The driver is to be told when all of that has been sent.
    tells: bool,
    /// It needs a socket after all, or was closed meanwhile.
    is_over: bool,
}

/// The messages of a shard's sleeping connections.
#[derive(Debug)]
pub(super) struct Socketless {
    is_on: bool,
    /// The silence after which connections sleep.
    after: Duration,
    /// By entry.
    flights: HashMap<u32, Flight>,
    /// One timer for each of them, the first first, and stale ones.
    timers: BinaryHeap<Reverse<(Mark, u32)>>,
    recent: Recent,
    current: Option<Current>,
    /// Connections of which the driver is to be told that all has been sent, without a socket.
    drained: VecDeque<ConnId>,
    /// How caught segments wake the shard.
    patience: Patience,
    /// When to look into the ring buffer once more (`LAST_LOOK`).
    last_look: Option<Mark>,
    /// Empty between uses; kept for their memory.
    reply: Vec<u8>,
    segment: Vec<u8>,
}

impl Socketless {
    /// Messages of connections that sleep after this silence; without `is_on` each wakes its connection.
    pub fn new(is_on: bool, after: Duration) -> Socketless {
        Socketless {
            is_on,
            after,
            flights: HashMap::new(),
            timers: BinaryHeap::new(),
            recent: Recent::default(),
            current: None,
            drained: VecDeque::new(),
            patience: Patience::None,
            last_look: None,
            reply: Vec::new(),
            segment: Vec::new(),
        }
    }

    /// When the first acknowledgement is late, or one may have been overlooked.
    pub fn due(&self) -> Option<Mark> {
        let first = self.timers.peek().map(|Reverse((due, _))| *due);
        first.into_iter().chain(self.last_look).min()
    }

    /// Whether the driver is to be told of connections that all has been sent.
    pub fn has_drained(&self) -> bool {
        !self.drained.is_empty()
    }

    /// The sleeping connections come from another process: each caught segment wakes the shard until it says otherwise.
    pub fn came(&mut self) {
        self.patience = Patience::None;
    }

    /// Messages on their way.
    #[cfg(test)]
    pub fn in_flight(&self) -> usize {
        self.flights.len()
    }

    /// Bytes of a connection that are on their way.
    pub fn bytes_in_flight(&self, index: u32) -> Option<u32> {
        self.flights.get(&index).map(|flight| flight.bytes.len() as u32)
    }

    /// Whether the driver, which has the message of an entry's connection, is to be told when all has been sent on that.
    pub fn tells(&self, index: u32) -> bool {
        self.current.as_ref().is_some_and(|current| current.index == index && current.tells)
    }

    /// Whether the message of an entry's connection is with the driver.
    pub fn is_current(&self, index: u32) -> bool {
        self.current.as_ref().is_some_and(|current| current.index == index)
    }

    /// The connection of an entry is over, and its message need not be sent again. Returns how many bytes were on their way.
    pub fn forget(&mut self, index: u32) -> u32 {
        if let Some(current) = self.current.as_mut().filter(|current| current.index == index) {
            (current.is_over, current.reply) = (true, Vec::new());
        }
        self.flights.remove(&index).map_or(0, |flight| flight.bytes.len() as u32)
    }
}

impl<S: Default> Hibernation<S> {
    /// Whether a connection that sleeps can have a message without a socket.
    fn may_stay_asleep(&self, name: ConnId) -> bool {
        let Socketless { is_on, flights, .. } = &self.socketless;
        *is_on && !self.given.freezes() && flights.len() < MOST_IN_FLIGHT && !self.has_unsent(name)
    }

    /// A connection is to have a message now. Tells whether it is one that talks, for which a socket is worth its price: it
    /// had a message of that kind within the silence after which it sleeps, and a slot is free.
    fn talks<R: RingOps>(&mut self, around: &Around<'_, S, R>, index: u32, which: Had) -> bool {
        let Socketless { recent, after, .. } = &mut self.socketless;
        recent.note(index, which, around.clock.now(), *after) && !around.parts.slots.is_full()
    }

    /// A sleeping connection has received what comes next, as this checkpoint has it. Returns its name if the driver may have
    /// that while the connection sleeps on; `conclude` is to be called then. Otherwise it is to wake.
    pub(super) fn hear_asleep<R: RingOps>(
        &mut self,
        around: &Around<'_, S, R>,
        index: u32,
        checkpoint: &Checkpoint,
    ) -> Option<ConnId> {
        let name = self.entries.name_of(index);
        if !self.may_stay_asleep(name) || self.talks(around, index, Had::Received) {
            return None;
        }
        // First: should this process be killed meanwhile, the message is lost, and the connection with it.
        self.entries.move_to(index, Whereabouts::Sending);
        self.entries.progressed(index, &checkpoint.progress);
        self.entries.set_heard(index, around.idle.window());
        around.parts.counters.woken_by_peer.add(1);
        self.moved.push_back((name, true));
        let reply = mem::take(&mut self.socketless.reply);
        self.socketless.current = Some(Current { index, name, reply, tells: false, is_over: false });
        Some(name)
    }

    /// Whether the driver has the message of a connection that sleeps on. For the driver it is awake meanwhile.
    pub fn is_heard_asleep(&self, name: ConnId) -> bool {
        self.socketless.current.as_ref().is_some_and(|current| current.name == name && !current.is_over)
    }

    /// Bytes that were collected for a connection while the driver has its message.
    pub(super) fn collected(&self, name: ConnId) -> usize {
        let current = self.socketless.current.as_ref().filter(|current| current.name == name);
        current.map_or(0, |current| current.reply.len())
    }

    /// Has the driver, which has the message of this connection, be told when all has been sent on it. Nothing happens where it
    /// has not; what is kept for a connection is told of in any case.
    pub fn tell_when_sent(&mut self, name: ConnId) {
        if let Some(current) = self.socketless.current.as_mut().filter(|current| current.name == name) {
            current.tells = true;
        }
    }

    /// The next connection that is open and of which the driver is to be told that all has been sent.
    pub fn next_drained<R: RingOps>(&mut self, slots: &Slots<S, R>) -> Option<ConnId> {
        while let Some(name) = self.socketless.drained.pop_front() {
            let open = self.entries.find(name).and_then(|index| self.open_at(slots, index));
            if open.is_some() {
                return open;
            }
        }
        None
    }

    /// Bytes that one segment to the peer of a sleeping connection may have now.
    fn room_of(&self, index: u32) -> usize {
        self.entries.checkpoint(index).map_or(0, |checkpoint| answer::room(&checkpoint).min(FITS_ANYWHERE))
    }

    /// Whether so many bytes can go to a connection that sleeps, and sleeps on. One that talks may get a socket for them.
    pub fn fits_asleep(&self, name: ConnId, bytes: usize) -> bool {
        let index = self.asleep(name).filter(|index| self.entries.whereabouts(*index) == Whereabouts::Asleep);
        index.is_some_and(|index| (1..=self.room_of(index)).contains(&bytes)) && self.may_stay_asleep(name)
    }

    /// Sends bytes on a connection that sleeps, and sleeps on. While the driver has its message they are collected.
    /// `false` if the connection has to wake for them.
    pub fn send_asleep<R: RingOps>(&mut self, around: &Around<'_, S, R>, name: ConnId, bytes: &[u8]) -> bool {
        if !self.socketless.is_on {
            return false;
        }
        let Some(index) = self.asleep(name) else { return false };
        let room = self.room_of(index);
        if let Some(current) = &mut self.socketless.current
            && current.name == name
        {
            let fits = !current.is_over && current.reply.len() + bytes.len() <= room;
            if fits {
                current.reply.extend_from_slice(bytes);
            }
            return fits;
        }
        if !self.fits_asleep(name, bytes.len()) || self.talks(around, index, Had::Sent) {
            return false;
        }
        self.entries.move_to(index, Whereabouts::Sending);
        let counters = around.parts.counters;
        counters.woken_by_send.add(1);
        counters.woken_without_socket.add(1);
        counters.hibernated.add(1);
        self.moved.extend([(name, true), (name, false)]);
        self.launch(around, index, bytes, 0);
        true
    }

    /// The driver has had the message of a connection that slept on. Sends what was collected, or acknowledges the message.
    pub fn conclude<R: RingOps>(&mut self, around: &Around<'_, S, R>) {
        let Some(mut current) = self.socketless.current.take() else { return };
        let (name, counters) = (current.name, around.parts.counters);
        let has_socket = self.entries.find(name).is_some_and(|index| self.place(index).is_some());
        if let Some(index) = self.asleep(name) {
            if current.reply.is_empty() {
                self.acknowledge_delivery(counters);
                if !self.has_unsent(name) {
                    self.entries.move_to(index, Whereabouts::Asleep);
                }
            } else {
                self.launch(around, index, &current.reply, self.echo_of_delivery());
            }
            counters.woken_without_socket.add(u64::from(!current.is_over));
            counters.hibernated.add(1);
            self.moved.push_back((name, false));
            // Of what is kept it is told in any case.
            if current.tells && !self.has_unsent(name) {
                self.socketless.drained.push_back(name);
            }
        } else if !has_socket {
            // Its driver has closed it.
            counters.woken_without_socket.add(1);
        }
        current.reply.clear();
        self.socketless.reply = current.reply;
    }

    /// Sends a segment with these bytes, and keeps them until they are acknowledged. `echo` is as in `Answer::write`.
    fn launch<R: RingOps>(&mut self, around: &Around<'_, S, R>, index: u32, bytes: &[u8], echo: u32) {
        let Some(checkpoint) = self.entries.checkpoint(index) else { return };
        let Checkpoint { tuple, progress, .. } = &checkpoint;
        let (now, now_ms) = (around.clock.now(), self.host.timestamp_clock());
        // First: the acknowledgement may be there before the send returns.
        self.set_patience(Patience::Awake, now);
        let Socketless { segment, flights, timers, .. } = &mut self.socketless;
        Answer::message(progress).write_with(&checkpoint, now_ms, echo, bytes, segment);
        match self.host.send(tuple, segment) {
            Ok(()) => around.parts.counters.segments_answered.add(1),
            // It is as if it was lost on its way.
            Err(_) => self.unanswered += 1,
        }
        let due = now.after(progress.round_trip.map_or(LATE_WITHOUT_ROUND_TRIP, |time| LATE_AFTER + 2 * time));
        timers.push(Reverse((due, index)));
        flights.insert(index, Flight { bytes: bytes.into(), due });
    }

    /// Bytes that were sent to the peer of a connection without a socket, and that it has not acknowledged: on their way, or
    /// recalled.
    pub(super) fn unacknowledged(&self, index: u32) -> u32 {
        let flying = self.socketless.bytes_in_flight(index);
        flying.unwrap_or_else(|| self.unsent.flown(self.entries.name_of(index)))
    }

    /// The checkpoint of a connection without a socket, in which `sent` includes the bytes that its peer has not
    /// acknowledged. A socket that shall send those bytes again is made from `Entries::checkpoint`, which leaves them
    /// out.
    pub(super) fn checkpoint(&self, index: u32) -> Option<Checkpoint> {
        let mut checkpoint = self.entries.checkpoint(index)?;
        checkpoint.progress.sent = checkpoint.progress.sent.wrapping_add(self.unacknowledged(index));
        Some(checkpoint)
    }

    /// The peer of a connection has acknowledged all before this number, also what it was sent of that without a socket. Where
    /// nothing else is to be sent, the driver is told, or the connection is closed, if it waits for that.
    pub(super) fn acknowledged<R: RingOps>(&mut self, around: &mut Around<'_, S, R>, index: u32, number: u32) {
        let Some(Checkpoint { progress, .. }) = self.entries.checkpoint(index) else { return };
        let (arrived, name) = (number.wrapping_sub(progress.sent), self.entries.name_of(index));
        if !(1..=self.unacknowledged(index)).contains(&arrived) {
            return;
        }
        around.parts.counters.bytes_out.add(arrived.into());
        self.entries.progressed(index, &Progress { sent: number, ..progress });
        if self.socketless.bytes_in_flight(index) == Some(arrived) {
            self.socketless.forget(index);
            return self.entries.move_to(index, Whereabouts::Asleep);
        }
        // Of a message on its way a part has arrived: the rest is for a socket.
        self.recall(name);
        if !self.unsent.arrived(name, arrived) {
            return;
        }
        let closes = self.unsent.take(name).and_then(|kept| kept.closes);
        self.entries.move_to(index, Whereabouts::Asleep);
        match closes {
            Some((mode, reason)) => self.close(around, name, mode, reason),
            None => self.socketless.drained.push_back(name),
        }
    }

    /// What is on its way to the peer of a connection, or collected for it, is to be sent by its socket once it wakes. Tells
    /// whether there is anything.
    pub fn recall(&mut self, name: ConnId) -> bool {
        if self.socketless.flights.is_empty() && self.socketless.current.is_none() {
            return false;
        }
        let Some(index) = self.entries.find(name) else { return false };
        let mut bytes = self.socketless.flights.remove(&index).map_or(Vec::new(), |flight| flight.bytes.into_vec());
        let flown = bytes.len() as u32;
        if let Some(current) = self.socketless.current.as_mut().filter(|current| current.index == index) {
            bytes.append(&mut current.reply);
            current.is_over = true;
        }
        if !bytes.is_empty() {
            self.unsent.put(name, &bytes, flown, None);
        }
        !bytes.is_empty()
    }

    /// The same for all connections. Their entries say on that something is on its way: should this process be killed before
    /// another one has it, they are lost.
    pub(super) fn recall_all(&mut self) {
        let flying: Vec<u32> = self.socketless.flights.keys().copied().collect();
        for index in flying {
            self.recall(self.entries.name_of(index));
        }
    }

    /// Recalls messages whose acknowledgement is late.
    pub fn recall_late(&mut self, now: Mark) {
        if self.socketless.last_look.is_some_and(|at| at <= now) {
            self.socketless.last_look = None;
        }
        let mut recalled = 0;
        while recalled < RECALLS_PER_PASS {
            let Some(Reverse((due, index))) = self.socketless.timers.peek().copied() else { break };
            let is_awaited = self.socketless.flights.get(&index).is_some_and(|flight| flight.due == due);
            if is_awaited && (due > now || due.after(LONGEST_BEHIND_OTHERS) > now && self.host.has_caught()) {
                break;
            }
            self.socketless.timers.pop();
            if is_awaited {
                self.recall(self.entries.name_of(index));
                recalled += 1;
            }
        }
    }

    /// The shard is about to sleep, or is awake. Acknowledgements of its messages need not wake it: each is awaited until a
    /// time at which the shard wakes anyway.
    pub fn listen(&mut self, sleeps: bool, now: Mark) {
        // What wakes the process that has the sleeping connections is for that to say.
        if self.gave_all() {
            return;
        }
        let patience = match sleeps {
            _ if self.socketless.flights.is_empty() => Patience::None,
            true => Patience::Asleep,
            false => Patience::Awake,
        };
        self.set_patience(patience, now);
    }

    fn set_patience(&mut self, patience: Patience, now: Mark) {
        if patience != Patience::None {
            self.socketless.last_look = Some(now.after(LAST_LOOK));
        }
        if mem::replace(&mut self.socketless.patience, patience) != patience {
            self.host.set_patience(patience);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_connection_had_is_remembered_for_a_time() {
        let (start, time) = (Mark::default(), Duration::from_secs(1));
        let mut recent = Recent::default();
        assert!(!recent.note(1, Had::Received, start, time));
        assert!(!recent.note(1, Had::Sent, start, time));
        let later = start.after(time / 2);
        assert!(recent.note(1, Had::Received, later, time));
        assert!(!recent.note(2, Had::Received, later, time));
        let end = start.after(time);
        assert!(!recent.note(1, Had::Received, end, time));
        assert!(recent.note(2, Had::Received, end, time));
        assert_eq!((recent.known.len(), recent.order.len()), (2, 2));
    }

    /// A segment that has woken nobody must not wait for an acknowledgement that is late only in a second.
    #[test]
    fn the_last_look_does_not_wait_for_an_acknowledgement() {
        let at = |millis| Mark::default().after(Duration::from_millis(millis));
        let mut socketless = Socketless::new(true, Duration::from_secs(1));
        assert_eq!(socketless.due(), None);
        socketless.timers.push(Reverse((at(1_000), 1)));
        assert_eq!(socketless.due(), Some(at(1_000)));
        socketless.last_look = Some(at(0).after(LAST_LOOK));
        assert_eq!(socketless.due(), Some(at(250)));
        socketless.timers.push(Reverse((at(100), 2)));
        assert_eq!(socketless.due(), Some(at(100)));
    }

    #[test]
    fn not_more_than_some_are_remembered() {
        let mut recent = Recent::default();
        for index in 0..2 * MOST_RECENT as u32 {
            assert!(!recent.note(index, Had::Sent, Mark::default(), Duration::from_secs(1)));
        }
        assert_eq!((recent.known.len(), recent.order.len()), (MOST_RECENT, MOST_RECENT));
    }
}
