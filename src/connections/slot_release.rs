//! Some kernels free the descriptor of a closed slot only once every operation that began before on the same ring has
//! ended (`Quirks::releases_slots_late`). A poll may wait for days. Every connection that was closed meanwhile keeps
//! its socket, about 4 kB, and 200 bytes for the wait. So when a ring has closed a certain share of the connections
//! that it holds, all its polls are armed anew.

use std::collections::VecDeque;

use super::slots::Slots;
use crate::error::Result;
use crate::ring::RingOps;
use crate::token::Operation;

/// Polls armed anew in one pass.
const REARMS_PER_PASS: usize = 256;

/// One closed slot of a ring may be unreleased for each so many live connections. A larger number would need less memory,
/// and arm more polls for each close.
const UNRELEASED_SHARE: u32 = 4;

/// So many closed slots of a ring may be unreleased in any case.
const UNRELEASED_ANYWAY: u32 = 64;

/// The closed slots of a shard's rings that the kernel has not released.
#[derive(Debug)]
pub(super) struct SlotRelease {
    rings: Vec<Unreleased>,
    /// Rings whose polls are being armed anew.
    rearming: VecDeque<usize>,
}

/// The closed slots of one ring that the kernel has not released.
#[derive(Debug, Clone, Copy, Default)]
struct Unreleased {
    /// Slots closed since the polls were last armed anew.
    closed: u32,
    /// The polls of the slots before this one are still to be armed anew; `None` while that is not under way.
    place: Option<u32>,
}

impl SlotRelease {
    /// This number of rings, without a closed slot.
    pub fn new(rings: usize) -> SlotRelease {
        SlotRelease { rings: vec![Unreleased::default(); rings], rearming: VecDeque::new() }
    }

    /// Whether polls are being armed anew.
    pub fn is_under_way(&self) -> bool {
        !self.rearming.is_empty()
    }

    /// A slot of this ring was closed.
    pub fn slot_closed<S: Default, R: RingOps>(&mut self, slots: &mut Slots<S, R>, ring: usize) {
        if !slots.ring_at(ring).releases_slots_late() {
            return;
        }
        let unreleased = &mut self.rings[ring];
        unreleased.closed += 1;
        let most = UNRELEASED_ANYWAY + slots.in_use_of(ring) / UNRELEASED_SHARE;
        if unreleased.place.is_none() && unreleased.closed > most {
            *unreleased = Unreleased { closed: 0, place: Some(slots.used_of(ring)) };
            self.rearming.push_back(ring);
        }
    }

    /// Arms a bounded number of polls anew. It begins with the last slots, because the kernel finds polls that were
    /// armed last first, and mostly those belong to the last slots.
    pub fn rearm_some<S: Default, R: RingOps>(&mut self, slots: &mut Slots<S, R>) -> Result<()> {
        let Some(&ring) = self.rearming.front() else { return Ok(()) };
        let place = &mut self.rings[ring].place;
        for _ in 0..REARMS_PER_PASS {
            let Some(slot) = place.and_then(|place| place.checked_sub(1)) else {
                *place = None;
                self.rearming.pop_front();
                return Ok(());
            };
            *place = Some(slot);
            if let Some((conn, _)) = slots.latest(ring, slot)
                && slots.row(conn).is_some_and(|row| row.lifecycle.rearm())
            {
                slots.ring(conn).remove_poll(conn.token(Operation::Poll))?;
            }
        }
        Ok(())
    }
}
