//! Connections that have ended while their peers may still send (`CloseMode::Lingering`). What such a peer sends is dropped
//! until it ends too, so that no RST overtakes the last bytes that it was sent. The driver is told of the end at once,
//! and of nothing that comes later.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use super::endings::tear_down;
use super::engine::Engine;
use super::platform::Platform;
use crate::clock::{Clock, Mark};
use crate::connections::lifecycle::SlotState;
use crate::error::Result;
use crate::ring::RingOps;
use crate::token::{ConnId, Operation};

/// How long a connection lingers at most. A peer that sends all it has before it reads should be done by then.
const LINGER_TIME: Duration = Duration::from_secs(10);

/// Bytes that are dropped on one connection at most: a peer that sends without end shall take little of the shard's
/// time.
const LINGER_BYTES: usize = 64 << 20;

/// Connections that stop lingering at once at most, for their time or because a slot is wanted.
const STOPPED_AT_ONCE: usize = 16;

/// Places of the queue that are looked at for that at most. Those of connections that are gone cost some 10 ns each.
const LOOKS_AT_ONCE: usize = 256;

/// How long caught segments wait at most for the slots of connections that lingered. A close takes a pass or two, once the
/// kernel has done the shutdown.
const LONGEST_ROOM: Duration = Duration::from_millis(2);

/// The connections of a shard that linger.
#[derive(Debug, Default)]
pub(super) struct Lingering {
    /// In the order in which their time is over. Connections that are gone stay in it until they are the first.
    queue: VecDeque<(ConnId, Mark)>,
    /// Bytes that were dropped on each.
    dropped: HashMap<ConnId, usize>,
    /// Connections on which more than `LINGER_BYTES` were dropped.
    spent: Vec<ConnId>,
    /// The connection that stopped last.
    stopped: Option<ConnId>,
    /// Connections that stopped, and whose shutdown the kernel has not done yet.
    unfreed: usize,
    /// Since when wakes wait for slots of connections that stopped.
    making_room: Option<Mark>,
}

impl Lingering {
    /// Whether no connection lingers.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// When the time of the first connection is over.
    pub fn due(&self, clock: &Clock) -> Option<Instant> {
        self.queue.front().map(|(_, until)| clock.due(*until))
    }

    /// Bytes were dropped on a connection.
    pub fn dropped(&mut self, conn: ConnId, bytes: usize) {
        let all = self.dropped.entry(conn).or_default();
        *all += bytes;
        if *all > LINGER_BYTES {
            self.spent.push(conn);
        }
    }

    /// The next connection that stops lingering: too much was dropped on it, or its time is over, or a slot is
    /// `wanted`.
    fn next_to_stop(&mut self, now: Mark, wanted: bool) -> Option<ConnId> {
        self.spent.pop().or_else(|| {
            let &(_, until) = self.queue.front()?;
            if until <= now || wanted { self.queue.pop_front().map(|(conn, _)| conn) } else { None }
        })
    }
}

impl<S: Default, P: Platform> Engine<S, P> {
    /// A live connection has ended for its driver: from now on it lingers.
    pub(super) fn linger(&mut self, conn: ConnId) -> Result<()> {
        self.slots.ring(conn).end_sending(conn.token(Operation::Shutdown))?;
        self.lingering.queue.push_back((conn, self.clock.now().after(LINGER_TIME)));
        self.counters.lingering.add(1);
        self.apply(conn, SlotState::linger)
    }

    /// The driver was told of the end of a connection: its state goes, if the connection keeps its slot.
    pub(super) fn forget_state(&mut self, name: ConnId) {
        if !self.lingering.is_empty()
            && let Some(conn) = self.find(name)
            && let Some(row) = self.slots.row(conn).filter(|row| row.lifecycle.is_lingering())
        {
            row.state = S::default();
        }
    }

    /// Whether a connection lingers.
    pub(super) fn is_lingering(&mut self, conn: ConnId) -> bool {
        self.slots.row(conn).is_some_and(|row| row.lifecycle.is_lingering())
    }

    /// Closes a connection that lingers, as its peer has ended or its time is over. `false` for any other, which is left
    /// alone.
    pub(super) fn stop_lingering(&mut self, conn: ConnId) -> Result<bool> {
        if !self.is_lingering(conn) {
            return Ok(false);
        }
        self.lingering.dropped.remove(&conn);
        self.lingering.stopped = Some(conn);
        self.counters.lingering.sub(1);
        if self.slots.row(conn).is_some_and(|row| row.lifecycle.stop_lingering()) {
            tear_down(&mut self.ending().1, conn)?;
        } else {
            self.lingering.unfreed += 1;
        }
        Ok(true)
    }

    /// The kernel has done the shutdown of a connection that lingers or has lingered. If that failed the peer gets no FIN, and waits
    /// for the close.
    pub fn shut_down(&mut self, conn: ConnId, failed: bool) -> Result<()> {
        if self.slots.row(conn).is_some_and(|row| row.lifecycle.shut_down()) {
            self.lingering.unfreed -= 1;
            tear_down(&mut self.ending().1, conn)?;
        }
        if failed { self.stop_lingering(conn).map(drop) } else { Ok(()) }
    }

    /// Closes some connections whose time to linger is over, and further ones while others want slots or memory.
    pub(super) fn stop_lingering_some(&mut self) -> Result<()> {
        if self.lingering.is_empty() {
            return Ok(());
        }
        let (now, wanted) = (self.clock.now(), self.ending().1.are_pressed());
        // Those whose slots are about to be free count too.
        let mut stopped = self.lingering.unfreed;
        for _ in 0..LOOKS_AT_ONCE {
            if stopped >= STOPPED_AT_ONCE {
                break;
            }
            let Some(conn) = self.lingering.next_to_stop(now, wanted) else { break };
            stopped += usize::from(self.stop_lingering(conn)?);
        }
        Ok(())
    }

    /// Returns whether a wake is to wait for a slot: none is free, but connections that lingered are being closed, some
    /// by this call. New connections may take those slots, so the answer is `false` after `LONGEST_ROOM`.
    pub(super) fn make_room(&mut self) -> Result<bool> {
        let is_full = self.slots.is_full();
        if is_full {
            self.stop_lingering_some()?;
        }
        if !is_full || self.lingering.stopped.is_none_or(|conn| self.slots.row(conn).is_none()) {
            self.lingering.making_room = None;
            return Ok(false);
        }
        let now = self.clock.now();
        let since = *self.lingering.making_room.get_or_insert(now);
        Ok(now.since(since) < LONGEST_ROOM)
    }

    /// Closes all connections that linger: the shard is about to end.
    pub(super) fn stop_lingering_all(&mut self) -> Result<()> {
        while let Some((conn, _)) = self.lingering.queue.pop_front() {
            self.stop_lingering(conn)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_stops_when_its_time_is_over_or_a_slot_is_wanted_and_one_that_sends_without_end_before() {
        let (mut lingering, now) = (Lingering::default(), Mark::default());
        let conns = [1, 2, 3].map(|slot| ConnId::new(0, slot, 7));
        for (conn, seconds) in conns.into_iter().zip(10..) {
            lingering.queue.push_back((conn, now.after(Duration::from_secs(seconds))));
        }
        assert_eq!(lingering.next_to_stop(now, false), None);
        lingering.dropped(conns[2], LINGER_BYTES);
        assert_eq!(lingering.next_to_stop(now, false), None);
        lingering.dropped(conns[2], 1);
        assert_eq!(lingering.next_to_stop(now, false), Some(conns[2]));
        assert_eq!(lingering.next_to_stop(now, true), Some(conns[0]));
        assert_eq!(lingering.next_to_stop(now.after(LINGER_TIME), false), None);
        assert_eq!(lingering.next_to_stop(now.after(Duration::from_secs(11)), false), Some(conns[1]));
    }
}
