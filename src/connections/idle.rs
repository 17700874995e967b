//! Closing connections that have been silent for long, without a timer for any of them: each row
//! remembers the window of time in which it was last heard of, and a sweep looks at a bounded
//! number of rows a pass. The clock by which all that is judged.

use std::time::{Duration, Instant};

use super::{CloseMode, CloseReason, Connections};
use crate::clock::Clock;
use crate::connections::slot_map::Row;
use crate::constants::{BUSY_WINDOW, CLOSES_PER_PASS};
use crate::error::Result;
use crate::token::ConnId;

/// A row remembers 16 bits of the number of the window, so ages beyond half of that are ambiguous.
pub const LONGEST_IDLE: Duration = Duration::from_secs(BUSY_WINDOW.as_secs() * (1 << 15));

/// The window in which a live row was last heard of is kept in the upper half of its link, how
/// often it was parked within in the lower. What is heard now begins a new count in a new window.
pub(super) fn heard(link: u32, window: u64) -> u32 {
    let now = (window as u32) << 16;
    if link & !0xffff == now { link } else { now }
}

/// Whole windows since a live row was last heard of.
fn age(link: u32, window: u64) -> u16 {
    (window as u16).wrapping_sub((link >> 16) as u16)
}

impl<S: Default> Connections<S> {
    /// The shard's own clock, by which deadlines are judged: it counts the time in which the shard looked at its rings.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// The shard begins a look at its rings.
    pub(crate) fn look(&mut self, now: Instant) {
        self.clock.look(now);
        self.window = self.clock.now().counted().as_secs() / BUSY_WINDOW.as_secs();
    }

    /// The shard looks whether its process was suspended: what it does next may be by a schedule.
    pub(crate) fn note(&mut self, now: Instant) {
        self.clock.note(now);
    }

    /// The shard sleeps until an instant, or until something happens.
    pub(crate) fn sleep(&mut self, until: Option<Instant>) {
        self.clock.sleep(until);
    }

    /// Looks at `rows` rows from a place on, and closes those that have been silent for `timeout`
    /// at least; all are found within two windows more. Returns the place to go on from.
    pub fn close_silent(&mut self, place: usize, rows: usize, timeout: Duration) -> Result<usize> {
        let windows = timeout.as_secs().div_ceil(BUSY_WINDOW.as_secs());
        let silent = |row: &Row<S>, window| row.lifecycle.is_live() && u64::from(age(row.link, window)) > windows;
        let mut closed = 0;
        for at in place..place + rows {
            let Some((lane, slot)) = self.locate(at) else { return Ok(0) };
            let row = self.rings[lane].table.row(slot);
            if silent(row, self.window) {
                let conn = ConnId::new(lane, slot, row.generation);
                self.counters.silent.add(1);
                self.close(conn, CloseMode::Immediate, CloseReason::IdleTimeout)?;
                closed += 1;
            }
            if closed == CLOSES_PER_PASS {
                return Ok(at + 1);
            }
        }
        Ok(place + rows)
    }

    /// How long nothing was received from a connection that stands, in whole windows of `BUSY_WINDOW`, rounded down.
    pub fn silence(&self, conn: ConnId) -> Option<Duration> {
        self.peek(conn)?;
        let link = self.rings[conn.ring()].table.row(conn.slot()).link;
        Some(BUSY_WINDOW * u32::from(age(link, self.window).saturating_sub(1)))
    }

    /// Slots over all rings.
    pub fn slots(&self) -> usize {
        self.rings.iter().map(|lane| lane.table.slots() as usize).sum()
    }

    /// The ring and the slot at a place, counted from 0 through the slots of all rings that ever had a
    /// tenant.
    fn locate(&self, place: usize) -> Option<(usize, u32)> {
        let mut start = 0;
        for (index, lane) in self.rings.iter().enumerate() {
            let used = lane.table.used() as usize;
            if place < start + used {
                return Some((index, (place - start) as u32));
            }
            start += used;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// The age of a row is the number of windows since it was heard of, also when the count of
        /// windows wraps.
        #[test]
        fn ages_are_exact(then in 0u64..200_000, later in 0u64..40_000, link in any::<u32>(), parked in 0u32..20) {
            let link = heard(link, then) & !0xffff | parked;
            prop_assert_eq!(u64::from(age(link, then + later)), later);
            prop_assert_eq!(heard(link, then), link);
        }
    }
}
