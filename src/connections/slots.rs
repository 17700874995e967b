//! The slots of a shard: its rings, and one row for each slot in them.

use std::os::fd::RawFd;
use std::time::Duration;

use crate::connections::lifecycle::{Action, SlotState};
use crate::connections::slot_map::{Row, SlotMap};
use crate::error::Result;
use crate::ring::RingOps;
use crate::stats::Counters;
use crate::token::{ConnId, Operation, Token};

/// One ring, and the rows of its slots.
struct RingSlots<S, R> {
    ring: R,
    map: SlotMap<S>,
}

/// The rings of a shard and the rows of their slots; `S` is the driver's state in each row.
pub(crate) struct Slots<S, R> {
    rings: Vec<RingSlots<S, R>>,
    /// The rings before this one may have work: the first, and those that have had a connection.
    used: usize,
    /// No ring before this one has a free slot.
    first_free: usize,
    /// A poll on the doorbell is in the first ring.
    doorbell_polled: bool,
}

/// What wakes the shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listening {
    /// Nothing: it is awake, and looks for work by itself.
    Awake,
    /// A completion in the first ring. That ring polls the doorbell, which the other rings ring.
    InFirstRing,
    /// The doorbell, which every ring rings.
    AtDoorbell,
}

/// A place between two rows, by which the rows of all rings are walked in either direction. The order of places is
/// the order of the rows: by ring, and by slot within a ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Cursor {
    /// The ring of the row behind this place.
    pub ring: usize,
    /// The slot of the row behind this place.
    pub slot: u32,
}

impl Cursor {
    /// Before the first row.
    pub const START: Cursor = Cursor { ring: 0, slot: 0 };
    /// Behind the last row.
    pub const END: Cursor = Cursor { ring: usize::MAX, slot: u32::MAX };

    /// Before the row of a connection.
    pub fn before(conn: ConnId) -> Cursor {
        Cursor { ring: conn.ring(), slot: conn.slot() }
    }

    /// Behind the row that is behind this place.
    pub fn after(self) -> Cursor {
        Cursor { slot: self.slot + 1, ..self }
    }
}

impl<S: Default, R: RingOps> Slots<S, R> {
    /// The slots of these rings, all of them free. Each ring comes with the number of its slots.
    pub fn new(rings: impl Iterator<Item = Result<(R, u32)>>) -> Result<Slots<S, R>> {
        let with_map = |ring: Result<(R, u32)>| ring.map(|(ring, slots)| RingSlots { ring, map: SlotMap::new(slots) });
        let rings = rings.map(with_map).collect::<Result<Vec<_>>>()?;
        Ok(Slots { used: rings.len().min(1), rings, first_free: 0, doorbell_polled: false })
    }

    // ---- the rows ------------------------------------------------------------------------------

    /// Takes a free slot for a connection that begins to open; `None` when all are taken. `link` goes into its row.
    pub fn claim(&mut self, link: u32) -> Option<ConnId> {
        while let Some(RingSlots { map, .. }) = self.rings.get_mut(self.first_free) {
            if let Some(slot) = map.claim(link) {
                self.used = self.used.max(self.first_free + 1);
                return Some(ConnId::new(self.first_free, slot, map.row(slot).generation));
            }
            self.first_free += 1;
        }
        None
    }

    /// Gives back the slot of a connection.
    pub fn release(&mut self, conn: ConnId) {
        self.rings[conn.ring()].map.release(conn.slot());
        self.first_free = self.first_free.min(conn.ring());
    }

    /// The row of a connection that still has its slot.
    #[inline]
    pub fn row(&mut self, conn: ConnId) -> Option<&mut Row<S>> {
        self.rings.get_mut(conn.ring())?.map.occupant(conn.slot(), conn.generation())
    }

    /// Tells a connection something that calls for no action.
    #[inline]
    pub fn update(&mut self, conn: ConnId, event: impl FnOnce(&mut SlotState)) {
        if let Some(row) = self.row(conn) {
            event(&mut row.lifecycle);
        }
    }

    /// Tells a connection what happened. Returns what is to be done for it now.
    #[inline]
    pub fn tell(&mut self, conn: ConnId, event: impl FnOnce(&mut SlotState) -> Action) -> Action {
        self.row(conn).map_or(Action::Rest, |row| event(&mut row.lifecycle))
    }

    /// Whether a connection is live.
    pub fn is_live(&mut self, conn: ConnId) -> bool {
        self.row(conn).is_some_and(|row| row.lifecycle.is_live())
    }

    /// The connection that a token of one ring names; `None` if it has left its slot.
    pub fn owner(&mut self, ring: usize, token: Token) -> Option<ConnId> {
        let Token { slot, generation, .. } = token;
        let known = self.rings[ring].map.occupant(slot, generation).is_some();
        known.then(|| ConnId::new(ring, slot, generation))
    }

    /// The present or the last connection of a slot, with its row; `None` if the slot never had one.
    pub fn latest(&self, ring: usize, slot: u32) -> Option<(ConnId, &Row<S>)> {
        let map = &self.rings.get(ring)?.map;
        let row = (slot < map.used()).then(|| map.row(slot))?;
        Some((ConnId::new(ring, slot, row.generation), row))
    }

    /// The driver's state of a connection that still has its slot.
    pub fn state(&self, conn: ConnId) -> Option<&S> {
        let (latest, row) = self.latest(conn.ring(), conn.slot())?;
        (latest == conn && !row.lifecycle.is_free()).then_some(&row.state)
    }

    // ---- walking the rows ----------------------------------------------------------------------

    /// Moves a cursor behind the next row that ever had a connection, and returns that row with its present or last
    /// connection. Behind the last row it returns `None`, and the cursor is at the start again.
    pub fn next(&self, cursor: &mut Cursor) -> Option<(ConnId, &Row<S>)> {
        while cursor.ring < self.used {
            let Cursor { ring, slot } = *cursor;
            if let Some(found) = self.latest(ring, slot) {
                cursor.slot += 1;
                return Some(found);
            }
            *cursor = Cursor { ring: ring + 1, slot: 0 };
        }
        *cursor = Cursor::START;
        None
    }

    /// Moves a cursor before the row that comes before it, and returns that row as `next` does; `None` at the start.
    pub fn previous(&self, cursor: &mut Cursor) -> Option<(ConnId, &Row<S>)> {
        if cursor.ring >= self.used {
            *cursor = Cursor { ring: self.used.checked_sub(1)?, slot: u32::MAX };
        }
        loop {
            let Cursor { ring, slot } = *cursor;
            if let Some(before) = slot.min(self.rings[ring].map.used()).checked_sub(1) {
                cursor.slot = before;
                return self.latest(ring, before);
            }
            *cursor = Cursor { ring: ring.checked_sub(1)?, slot: u32::MAX };
        }
    }

    // ---- numbers -------------------------------------------------------------------------------

    /// Slots of all rings.
    pub fn count(&self) -> usize {
        self.rings.iter().map(|RingSlots { map, .. }| map.slots() as usize).sum()
    }

    /// Slots that are taken: by connections that are opening, live or closing.
    pub fn in_use(&self) -> u64 {
        self.rings.iter().map(|RingSlots { map, .. }| u64::from(map.slots() - map.free())).sum()
    }

    /// Slots of one ring that are taken.
    pub fn in_use_of(&self, ring: usize) -> u32 {
        self.rings[ring].map.slots() - self.rings[ring].map.free()
    }

    /// Slots of one ring that ever had a connection: those below this number.
    pub fn used_of(&self, ring: usize) -> u32 {
        self.rings[ring].map.used()
    }

    /// Slots of all rings that ever had a connection.
    pub fn rows(&self) -> u32 {
        self.rings[..self.used].iter().map(|RingSlots { map, .. }| map.used()).sum()
    }

    /// Whether every slot is taken.
    pub fn is_full(&self) -> bool {
        self.rings[self.first_free..].iter().all(|RingSlots { map, .. }| map.free() == 0)
    }

    // ---- the rings -----------------------------------------------------------------------------

    /// How many rings may have work: those before this index.
    pub fn used(&self) -> usize {
        self.used
    }

    /// The ring of a connection.
    #[inline]
    pub fn ring(&mut self, conn: ConnId) -> &mut R {
        &mut self.rings[conn.ring()].ring
    }

    /// The ring with this index.
    #[inline]
    pub fn ring_at(&mut self, index: usize) -> &mut R {
        &mut self.rings[index].ring
    }

    /// The first ring, which polls the doorbell from now on, and in which the shard waits before it sleeps in the
    /// executor. `None` at a client's shard without connections: it has no ring.
    pub fn poll_doorbell(&mut self, doorbell: RawFd) -> Result<Option<&mut R>> {
        let Some(RingSlots { ring, .. }) = self.rings.first_mut() else { return Ok(None) };
        if !std::mem::replace(&mut self.doorbell_polled, true) {
            // A lasting poll would end by itself where a ring rings the doorbell (`EPOLL_URING_WAKE` in io_uring/poll.c).
            ring.poll_wake(doorbell, Operation::DoorbellWake, false)?;
        }
        Ok(Some(ring))
    }

    /// The poll on the doorbell has fired.
    pub fn doorbell_rang(&mut self) {
        self.doorbell_polled = false;
    }

    /// Submits what a ring has queued for the kernel, and lets the kernel do its work for the ring.
    pub fn enter(&mut self, ring: usize, counters: &Counters) -> Result<()> {
        let ring = self.ring_at(ring);
        if ring.needs_enter() {
            counters.enters.add(1);
            let overflowed = ring.enter()?;
            counters.overflows.add(u64::from(overflowed));
        }
        Ok(())
    }

    /// Has the kernel do what the first ring has for it, and waits there for a completion, for at most this time.
    pub fn wait(&mut self, most: Duration, counters: &Counters) -> Result<()> {
        if most.is_zero() {
            return self.enter(0, counters);
        }
        counters.enters.add(1);
        self.ring_at(0).wait(most)
    }

    /// Whether any ring has work.
    pub fn has_work(&mut self) -> bool {
        self.rings[..self.used].iter_mut().any(|RingSlots { ring, .. }| ring.has_work())
    }

    /// Decides which rings' completions ring the doorbell.
    pub fn listen(&mut self, listening: Listening) {
        for (index, RingSlots { ring, .. }) in self.rings[..self.used].iter_mut().enumerate() {
            ring.wake_on_completion(match listening {
                Listening::Awake => false,
                Listening::InFirstRing => index > 0,
                Listening::AtDoorbell => true,
            });
        }
    }
}

#[cfg(test)]
impl<S: Default, R: RingOps> Slots<S, R> {
    /// Slots that no connection has, as their maps count them.
    pub fn free(&self) -> u64 {
        self.rings.iter().map(|RingSlots { map, .. }| u64::from(map.free())).sum()
    }

    /// Buffers that the rings hold.
    pub fn buffers_held(&self) -> usize {
        self.rings.iter().map(|RingSlots { ring, .. }| ring.buffers_held()).sum()
    }
}
