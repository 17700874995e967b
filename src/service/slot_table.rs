//! A number for each slot of a shard, kept beside the rows, so that only services that ask for it pay for it.

use crate::token::ConnId;

/// Slots by which a ring's part grows. Most rings have 20,000 slots, and a part that doubled would waste half.
const GROWTH: usize = 1_024;

/// A number per slot, 4 bytes each, for the slots of each ring up to the highest that was ever set.
#[derive(Debug, Default)]
pub(super) struct SlotTable {
    rings: Vec<Vec<u32>>,
}

impl SlotTable {
    /// The number of a slot that was never set.
    pub const UNSET: u32 = u32::MAX;

    /// The number of a connection's slot.
    pub fn get(&self, conn: ConnId) -> u32 {
        let ring = self.rings.get(conn.ring());
        ring.and_then(|slots| slots.get(conn.slot() as usize)).copied().unwrap_or(SlotTable::UNSET)
    }

    /// Sets the number of a connection's slot.
    pub fn set(&mut self, conn: ConnId, value: u32) {
        let slot = conn.slot() as usize;
        if self.rings.len() <= conn.ring() {
            self.rings.resize_with(conn.ring() + 1, Vec::new);
        }
        let slots = &mut self.rings[conn.ring()];
        if slots.len() <= slot {
            let len = (slot + 1).next_multiple_of(GROWTH);
            slots.reserve_exact(len - slots.len());
            slots.resize(len, SlotTable::UNSET);
        }
        slots[slot] = value;
    }

    /// Forgets the number of a connection's slot.
    pub fn unset(&mut self, conn: ConnId) {
        if let Some(value) = self.rings.get_mut(conn.ring()).and_then(|slots| slots.get_mut(conn.slot() as usize)) {
            *value = SlotTable::UNSET;
        }
    }

    /// The slots of one ring; `None` behind the last ring.
    pub fn ring_mut(&mut self, ring: usize) -> Option<&mut [u32]> {
        self.rings.get_mut(ring).map(Vec::as_mut_slice)
    }
}
