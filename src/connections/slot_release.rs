//! Some kernels free the descriptor of a closed slot only once every operation that began before on
//! the same ring has ended (`Quirks::closed_slots_linger`). A parked poll may stand for days, and
//! whatever was closed meanwhile stays: its socket, about 4 kB, and 200 bytes for the wait. So when
//! a ring has closed as many connections as a part of those it holds, all its polls are armed anew.

use super::{Connections, RingSlots};
use crate::constants::REARMS_PER_PASS;
use crate::error::Result;
use crate::token::{ConnId, Operation};

/// What lingers in a ring.
#[derive(Debug, Default)]
pub(super) struct SlotRelease {
    /// Slots closed since the polls were last armed anew.
    closed: u32,
    /// Armed anew from here on; `None` while that is not under way.
    place: Option<u32>,
}

/// Closed connections that may linger, as a part of those that stand: one in so many. Fewer need
/// less memory, and arm more polls for each close.
const UNRELEASED_SHARE: u32 = 4;

/// So many may linger in any ring.
const UNRELEASED_ANYWAY: u32 = 64;

impl<S: Default> Connections<S> {
    /// A slot of this ring was closed.
    pub(super) fn slot_closed(&mut self, index: usize) {
        let RingSlots { ring, table, release } = &mut self.rings[index];
        if !ring.quirks().closed_slots_linger {
            return;
        }
        release.closed += 1;
        let standing = table.slots() - table.free();
        if release.place.is_none() && release.closed > UNRELEASED_ANYWAY + standing / UNRELEASED_SHARE {
            (release.closed, release.place) = (0, Some(table.used()));
            self.rearming.push_back(index);
        }
    }

    /// Arms a bounded number of polls anew, the last slots first: the kernel finds polls that were
    /// armed last first, and mostly those are theirs.
    pub(super) fn rearm_some(&mut self) -> Result<()> {
        let Some(index) = self.rearming.front().copied() else { return Ok(()) };
        for _ in 0..REARMS_PER_PASS {
            let RingSlots { ring, table, release } = &mut self.rings[index];
            let Some(slot) = release.place.and_then(|place| place.checked_sub(1)) else {
                release.place = None;
                self.rearming.pop_front();
                return Ok(());
            };
            release.place = Some(slot);
            let row = table.row_mut(slot);
            if row.lifecycle.rearm() {
                ring.remove_poll(ConnId::new(index, slot, row.generation).token(Operation::Poll))?;
            }
        }
        Ok(())
    }
}
