//! The slot map of one ring: a small row for each slot, and the list of free slots. A row takes memory once its slot
//! has had a connection.
//!
//! A slot is used by one connection after another: its occupants. Each occupant has its own generation, which tells an
//! event of an earlier occupant from one of the present occupant. The states of an occupant are in `lifecycle.rs`.

use std::mem;

use crate::connections::lifecycle::SlotState;
use crate::constants::KERNEL_SLOTS_PER_RING;

/// The row of a slot: 12 bytes, and the driver's state.
#[derive(Clone, Copy, Debug, Default)]
pub struct Row<S> {
    /// The number of the slot's occupant; it wraps after 2^32 occupants.
    pub generation: u32,
    /// While the slot is free: the slot that was freed before it. While its connection opens: the listener. While the
    /// connection is live: when it was last heard, and how often it was parked lately (`idle.rs`).
    pub link: u32,
    /// Where the slot is in its life.
    pub lifecycle: SlotState,
    /// The state of the driver or the service.
    pub state: S,
}

const _: () = assert!(size_of::<Row<()>>() == 12, "a row of a service without state is 12 bytes");

/// End of the list of free slots.
const NONE: u32 = u32::MAX;

/// The rows of one ring.
#[derive(Debug)]
pub struct SlotMap<S> {
    /// The rows of the slots that ever had an occupant, which are the lowest.
    rows: Vec<Row<S>>,
    slots: u32,
    free_head: u32,
    free: u32,
}

impl<S: Default> SlotMap<S> {
    /// A map of `slots` free slots, which must not be more than a token can name.
    pub fn new(slots: u32) -> SlotMap<S> {
        assert!(slots <= KERNEL_SLOTS_PER_RING);
        SlotMap { rows: Vec::with_capacity(slots as usize), slots, free_head: NONE, free: slots }
    }

    /// Slots in all.
    pub fn slots(&self) -> u32 {
        self.slots
    }

    /// Slots that ever had an occupant: those below this number.
    pub fn used(&self) -> u32 {
        self.rows.len() as u32
    }

    /// Free slots.
    pub fn free(&self) -> u32 {
        self.free
    }

    /// Takes a slot for a connection that begins to open: the slot that was freed last, or else the lowest that was
    /// never used. `None` when all are taken.
    pub fn claim(&mut self, link: u32) -> Option<u32> {
        let slot = match self.rows.get(self.free_head as usize) {
            Some(freed) => mem::replace(&mut self.free_head, freed.link),
            None => self.fresh()?,
        };
        self.free -= 1;
        let row = &mut self.rows[slot as usize];
        *row = Row { generation: row.generation, link, lifecycle: SlotState::opening(), state: S::default() };
        Some(slot)
    }

    /// A slot that was never used, now with a row.
    fn fresh(&mut self) -> Option<u32> {
        let slot = self.used();
        if slot == self.slots {
            return None;
        }
        self.rows.push(Row::default());
        Some(slot)
    }

    /// Gives a slot back. Its next occupant gets another generation.
    pub fn release(&mut self, slot: u32) {
        let row = &mut self.rows[slot as usize];
        debug_assert!(!row.lifecycle.is_free(), "slot {slot} released twice");
        row.lifecycle = SlotState::default();
        row.generation = row.generation.wrapping_add(1);
        row.state = S::default();
        row.link = self.free_head;
        self.free_head = slot;
        self.free += 1;
    }

    /// The row of a slot, if `generation` is its occupant's.
    pub fn occupant(&mut self, slot: u32, generation: u32) -> Option<&mut Row<S>> {
        let row = self.rows.get_mut(slot as usize)?;
        (row.generation == generation && !row.lifecycle.is_free()).then_some(row)
    }

    /// The row of a slot below `used()`.
    pub fn row_mut(&mut self, slot: u32) -> &mut Row<S> {
        &mut self.rows[slot as usize]
    }

    /// The row of a slot below `used()`, to look at.
    pub fn row(&self, slot: u32) -> &Row<S> {
        &self.rows[slot as usize]
    }
}

#[cfg(test)]
mod model;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    proptest! {
        /// Compared with a plain map: no slot has two occupants, no slot is lost, and an earlier occupant is not found.
        #[test]
        fn slots_are_reused_and_earlier_occupants_unknown(
            slots in 1u32..20, steps in prop::collection::vec((any::<bool>(), any::<u32>()), 0..400)
        ) {
            let mut table: SlotMap<u64> = SlotMap::new(slots);
            let mut held: HashMap<u32, (u32, u64)> = HashMap::new();
            let mut gone: Vec<(u32, u32)> = Vec::new();
            for (claim, pick) in steps {
                if claim {
                    match table.claim(pick) {
                        None => prop_assert_eq!(held.len() as u32, slots),
                        Some(slot) => {
                            let generation = table.row(slot).generation;
                            table.occupant(slot, generation).unwrap().state = u64::from(pick);
                            prop_assert_eq!(held.insert(slot, (generation, u64::from(pick))), None);
                        }
                    }
                } else if let Some(slot) = held.keys().copied().min_by_key(|s| s ^ pick) {
                    let (generation, state) = held.remove(&slot).unwrap();
                    prop_assert_eq!(table.occupant(slot, generation).unwrap().state, state);
                    table.release(slot);
                    gone.push((slot, generation));
                }
                prop_assert_eq!(table.free(), slots - held.len() as u32);
                for (slot, generation) in &gone {
                    prop_assert!(table.occupant(*slot, *generation).is_none());
                }
            }
        }
    }

    #[test]
    fn an_empty_table_has_nothing_to_claim() {
        assert_eq!(SlotMap::<()>::new(0).claim(0), None);
    }
}
