//! Bytes for sleeping connections that cannot be woken now: no slot is free, the kernel has no memory or no descriptor, or
//! it has no route to the peer.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use super::Hibernation;
use super::entries::Whereabouts;
use crate::clock::Mark;
use crate::connections::close_reason::CloseReason;
use crate::connections::lifecycle::CloseMode;
use crate::token::ConnId;

/// Bytes kept at most over all of a shard while the host is short of memory. Otherwise only those of each connection are
/// bounded (`Outgoing::most`), as where connections are awake.
const MOST_WHILE_SHORT: usize = 16 << 20;

/// Kept bytes are tried again this often: no event tells that the kernel has memory, descriptors or a route again.
pub(super) const PAUSE: Duration = Duration::from_millis(200);

/// For so long a peer may have no route. Linux sends a segment again for about as long before it gives its connection up
/// (`tcp_retries2`).
const LONGEST_WITHOUT_ROUTE: Duration = Duration::from_secs(15 * 60);

/// Connections that are tried between two pauses and have no route still. Those that have one again do not count.
const TRIES_WITHOUT_ROUTE: usize = 16;

/// What is kept for a connection.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::connections) struct Kept {
    /// Bytes that are to be sent. With TLS they are sealed.
    pub bytes: Vec<u8>,
    /// So many of the first ones were sent without a socket. Their peer may have them, and acknowledge them yet.
    pub flown: u32,
    /// How and why it is closed once they have been sent.
    pub closes: Option<(CloseMode, CloseReason)>,
}

/// What is kept for the sleeping connections of a shard.
#[derive(Debug, Default)]
pub(super) struct Unsent {
    kept: HashMap<ConnId, Kept>,
    /// Bytes that are kept for all of them.
    total: usize,
    /// The connections in the order in which their first bytes came, and some whose bytes have gone, as they woke by
    /// themselves.
    queue: VecDeque<ConnId>,
    /// Those that were tried and had no route, and since when each has none.
    stranded: VecDeque<(ConnId, Mark)>,
    /// When the first of them is tried again, and how many were tried since then.
    due: Mark,
    tries: usize,
}

impl Unsent {
    /// Whether nothing is kept.
    pub fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    /// For how many connections something is kept.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.kept.len()
    }

    /// Keeps bytes behind those that are kept already. Those of a connection that is to be closed then are dropped. `false`
    /// if there would be more than `most` of its connection, or too many while the host `is_short` of memory.
    fn keep(&mut self, name: ConnId, bytes: &[u8], most: usize, is_short: bool) -> bool {
        let before = self.kept.get(&name);
        if before.is_some_and(|kept| kept.closes.is_some()) {
            return true;
        }
        let all = before.map_or(0, |kept| kept.bytes.len()) + bytes.len();
        if all > most || is_short && self.total + bytes.len() > MOST_WHILE_SHORT {
            return false;
        }
        if !bytes.is_empty() {
            self.put(name, bytes, 0, None);
        }
        true
    }

    /// Keeps more for a connection, and how and why it is closed then. Where nothing is kept yet, `flown` of the bytes were
    /// sent without a socket.
    pub fn put(&mut self, name: ConnId, bytes: &[u8], flown: u32, closes: Option<(CloseMode, CloseReason)>) {
        self.total += bytes.len();
        let kept = self.kept.entry(name).or_insert_with(|| {
            self.queue.push_back(name);
            Kept { flown, ..Kept::default() }
        });
        kept.bytes.extend_from_slice(bytes);
        kept.closes = kept.closes.or(closes);
    }

    /// Bytes at the beginning of what is kept for a connection that were sent without a socket.
    pub fn flown(&self, name: ConnId) -> u32 {
        self.kept.get(&name).map_or(0, |kept| kept.flown)
    }

    /// So many of the first bytes that are kept for a connection have arrived. Tells whether none are left.
    pub fn arrived(&mut self, name: ConnId, count: u32) -> bool {
        let Some(kept) = self.kept.get_mut(&name) else { return true };
        let before = kept.bytes.len();
        kept.bytes.drain(..before.min(count as usize));
        kept.flown = kept.flown.saturating_sub(count);
        self.total -= before - kept.bytes.len();
        kept.bytes.is_empty()
    }

    /// Drops what is kept for a connection behind the bytes that were sent without a socket.
    fn drop_behind_flown(&mut self, name: ConnId) {
        if let Some(kept) = self.kept.get_mut(&name) {
            let before = kept.bytes.len();
            kept.bytes.truncate(kept.flown as usize);
            self.total -= before - kept.bytes.len();
        }
    }

    /// The connection that is to be tried next. It stays the next one until its bytes are taken, or until `strand` puts it
    /// behind the others.
    fn next(&mut self, now: Mark) -> Option<ConnId> {
        while self.queue.front().is_some_and(|name| !self.kept.contains_key(name)) {
            self.queue.pop_front();
        }
        while self.stranded.front().is_some_and(|(name, _)| !self.kept.contains_key(name)) {
            self.stranded.pop_front();
        }
        let stranded = self.stranded.front().filter(|_| self.due <= now).map(|(name, _)| *name);
        self.queue.front().copied().or(stranded)
    }

    /// The connection that `next` has named has no route: it waits for one, behind the others. `false` if it has waited for
    /// too long.
    fn strand(&mut self, now: Mark) -> bool {
        let since = if let Some(name) = self.queue.pop_front() {
            if self.stranded.is_empty() {
                (self.due, self.tries) = (now.after(PAUSE), 0);
            }
            self.stranded.push_back((name, now));
            now
        } else if let Some((name, since)) = self.stranded.pop_front() {
            self.stranded.push_back((name, since));
            self.tries += 1;
            if self.tries >= TRIES_WITHOUT_ROUTE.min(self.stranded.len()) {
                (self.due, self.tries) = (now.after(PAUSE), 0);
            }
            since
        } else {
            now
        };
        now.since(since) < LONGEST_WITHOUT_ROUTE
    }

    /// Takes what is kept for a connection.
    pub fn take(&mut self, name: ConnId) -> Option<Kept> {
        let kept = self.kept.remove(&name)?;
        self.total -= kept.bytes.len();
        Some(kept)
    }

    /// Takes all, in the order in which it is to be sent.
    pub fn take_all(&mut self) -> Vec<(ConnId, Kept)> {
        let Unsent { mut kept, queue, stranded, .. } = std::mem::take(self);
        let names = stranded.into_iter().map(|(name, _)| name).chain(queue);
        names.filter_map(|name| kept.remove(&name).map(|kept| (name, kept))).collect()
    }
}

impl<S: Default> Hibernation<S> {
    /// Keeps bytes for a connection that still sleeps as it cannot be woken, or for which bytes are kept already. `false`
    /// if more than `most` would be kept, or too many for a host that `is_short` of memory: the connection is then to be
    /// closed.
    pub fn keep_unsent(&mut self, name: ConnId, bytes: &[u8], most: usize, is_short: bool) -> bool {
        // First: should this process be killed, the bytes are lost, and the connection must not go on without them.
        if !bytes.is_empty()
            && let Some(index) = self.asleep(name)
        {
            self.entries.move_to(index, Whereabouts::Sending);
        }
        self.unsent.keep(name, bytes, most, is_short)
    }

    /// Puts off the close of a connection until what is kept for it has been sent; nothing more is kept for it then.
    /// Returns `false` where the caller is to close now, as nothing is kept or `mode` does not wait. `Graceful` and
    /// `Lingering` wait for all. `Immediate` waits only for bytes that were sent without a socket and are not
    /// acknowledged, and for a reply that is being collected at the call. For bytes that an earlier call recalled it
    /// waits no longer once the shard has been about to end for `LONGEST_WHILE_STOPPING`. `Abort` waits for nothing.
    pub(super) fn defer_close(&mut self, name: ConnId, mode: CloseMode, reason: CloseReason, now: Mark) -> bool {
        let was_sent = mode != CloseMode::Abort && self.recall(name);
        let defers = match mode {
            CloseMode::Graceful | CloseMode::Lingering => true,
            CloseMode::Immediate => was_sent || self.unsent.flown(name) > 0 && !self.endings.stopped_long_ago(now),
            CloseMode::Abort => false,
        };
        if defers && mode == CloseMode::Immediate && !was_sent {
            self.unsent.drop_behind_flown(name);
        }
        let Some(kept) = self.unsent.kept.get_mut(&name).filter(|_| defers) else { return false };
        kept.closes.get_or_insert((mode, reason));
        true
    }

    /// Whether a connection is closed once what is kept for it has been sent.
    pub fn closes_when_sent(&self, name: ConnId) -> bool {
        self.unsent.kept.get(&name).is_some_and(|kept| kept.closes.is_some())
    }

    /// Whether the end of a connection waits for what it was sent without a socket.
    pub(super) fn waits_for_flown(&self, name: ConnId) -> bool {
        self.closes_when_sent(name) && self.unsent.flown(name) > 0
    }

    /// Whether something is kept for a connection of this process.
    pub fn has_unsent(&self, name: ConnId) -> bool {
        let is_given = |name| self.entries.find(name).is_some_and(|index| self.is_given(index));
        !self.unsent.is_empty() && self.unsent.kept.contains_key(&name) && !is_given(name)
    }

    /// Bytes that are kept for a connection, or were collected for it while the driver has its message.
    pub fn unsent(&self, name: ConnId) -> usize {
        self.unsent.kept.get(&name).map_or(0, |kept| kept.bytes.len()) + self.collected(name)
    }

    /// The connection that is to be woken next for what is kept for it.
    pub fn next_unsent(&mut self, now: Mark) -> Option<ConnId> {
        self.unsent.next(now)
    }

    /// The connection that `next_unsent` has named has no route: it waits for one, behind the others. `false` if it has waited
    /// for too long.
    pub fn await_route(&mut self, now: Mark) -> bool {
        self.unsent.strand(now)
    }

    /// Takes what is kept for a connection.
    pub fn take_unsent_of(&mut self, name: ConnId) -> Option<Kept> {
        self.unsent.take(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(number: u32) -> ConnId {
        ConnId::new(0, number, 0)
    }

    /// So many connections with a byte each.
    fn kept_for(count: u32) -> Unsent {
        let mut unsent = Unsent::default();
        (0..count).for_each(|number| assert!(unsent.keep(name(number), b"x", 100, false)));
        unsent
    }

    #[test]
    fn all_bytes_of_a_shard_are_bounded_only_while_memory_is_short() {
        let mut unsent = Unsent::default();
        let much = vec![0; MOST_WHILE_SHORT];
        assert!(unsent.keep(name(1), &much, much.len(), true));
        assert!(!unsent.keep(name(2), b"x", much.len(), true));
        assert!(unsent.keep(name(2), b"x", much.len(), false));
        assert!(!unsent.keep(name(1), b"x", much.len(), false), "more than one may have");
        drop(unsent.take(name(1)));
        assert!(unsent.keep(name(3), b"x", much.len(), true));
    }

    /// Those without a route are tried a few at a time, the others at once, and each that has a route again without a pause.
    #[test]
    fn those_without_a_route_do_not_delay_the_others() {
        let mut now = Mark::default();
        let mut unsent = kept_for(100);
        for number in 0..90 {
            assert_eq!(unsent.next(now), Some(name(number)));
            assert!(unsent.strand(now));
        }
        assert_eq!(unsent.next(now), Some(name(90)));
        (90..100).for_each(|number| drop(unsent.take(name(number))));
        assert_eq!(unsent.next(now), None);
        now = now.after(PAUSE);
        for number in 0..TRIES_WITHOUT_ROUTE as u32 {
            assert_eq!(unsent.next(now), Some(name(number)));
            assert!(unsent.strand(now));
        }
        assert_eq!(unsent.next(now), None);
        now = now.after(PAUSE);
        while let Some(name) = unsent.next(now) {
            assert_eq!(unsent.take(name).map(|kept| kept.bytes), Some(b"x".to_vec()));
        }
        assert_eq!((unsent.is_empty(), unsent.total), (true, 0));
    }

    #[test]
    fn a_route_is_awaited_for_a_limited_time() {
        let (mut now, mut unsent) = (Mark::default(), kept_for(1));
        assert!(unsent.next(now).is_some() && unsent.strand(now));
        now = now.after(LONGEST_WITHOUT_ROUTE - PAUSE);
        assert!(unsent.next(now).is_some() && unsent.strand(now));
        now = now.after(PAUSE);
        assert!(unsent.next(now).is_some() && !unsent.strand(now));
    }

    #[test]
    fn all_that_is_kept_goes_along_in_its_order() {
        let (now, mut unsent) = (Mark::default(), kept_for(3));
        assert!(unsent.next(now).is_some() && unsent.strand(now));
        drop(unsent.take(name(1)));
        let closes = Some((CloseMode::Lingering, CloseReason::Deadline));
        unsent.put(name(2), b"y", 0, closes);
        unsent.put(name(3), b"abc", 2, None);
        let expected = [
            (name(0), Kept { bytes: b"x".to_vec(), ..Kept::default() }),
            (name(2), Kept { bytes: b"xy".to_vec(), flown: 0, closes }),
            (name(3), Kept { bytes: b"abc".to_vec(), flown: 2, closes: None }),
        ];
        assert_eq!(unsent.take_all(), expected);
        assert!(unsent.is_empty());
    }

    #[test]
    fn what_has_arrived_is_not_sent_again() {
        let mut unsent = Unsent::default();
        unsent.put(name(1), b"abcd", 3, None);
        assert!(unsent.keep(name(1), b"ef", 100, false));
        assert!(!unsent.arrived(name(1), 2));
        assert_eq!((unsent.flown(name(1)), unsent.total), (1, 4));
        unsent.drop_behind_flown(name(1));
        assert_eq!(unsent.total, 1);
        assert!(unsent.arrived(name(1), 1));
        assert_eq!((unsent.take(name(1)), unsent.total), (Some(Kept::default()), 0));
    }
}
