//! When connections that are awake were last used, without a timer for any: a byte for each slot, and a look at all of
//! them four times in the time after which a silent connection is put to sleep.

use std::time::Duration;

use crate::clock::Mark;
use crate::connections::slots::Cursor;
use crate::token::ConnId;

/// Ticks of silence after which a connection is put to sleep. It was silent for a quarter less than that time at
/// least, and for a quarter more at most.
const RIPE: u8 = 4;

/// The shortest tick.
const SHORTEST_TICK: Duration = Duration::from_millis(1);

/// Rows that one pass looks at: some 10 us.
pub(super) const ROWS_PER_PASS: usize = 8_192;

/// When the connections of each slot were last used.
#[derive(Debug)]
pub(super) struct Stamps {
    rings: Vec<Vec<u8>>,
    /// The present tick; it wraps. A connection that was used 256 ticks ago and could not sleep since passes for one
    /// that was used just now.
    tick: u8,
    /// The length of a tick.
    every: Duration,
    /// When the next tick begins.
    due: Mark,
    /// Where the look that is under way goes on; `None` between two looks.
    pub cursor: Option<Cursor>,
}

impl Stamps {
    /// Puts connections of so many rings to sleep that were silent for `after`.
    pub fn new(rings: usize, after: Duration, now: Mark) -> Stamps {
        let every = (after / u32::from(RIPE)).max(SHORTEST_TICK);
        Stamps { rings: vec![Vec::new(); rings], tick: 0, every, due: now.after(every), cursor: None }
    }

    /// A connection is used now.
    #[inline]
    pub fn used(&mut self, conn: ConnId) {
        let (Some(ring), slot) = (self.rings.get_mut(conn.ring()), conn.slot() as usize) else { return };
        if ring.len() <= slot {
            ring.resize(slot + 1, self.tick);
        }
        ring[slot] = self.tick;
    }

    /// Whether a connection has been silent for long enough; half of that is enough in a `hurry`.
    pub fn is_ripe(&self, conn: ConnId, hurry: bool) -> bool {
        let used = self.rings.get(conn.ring()).and_then(|ring| ring.get(conn.slot() as usize));
        used.is_some_and(|used| self.tick.wrapping_sub(*used) >= if hurry { RIPE / 2 } else { RIPE })
    }

    /// When the next look begins; `None` while one is under way.
    pub fn due(&self) -> Option<Mark> {
        self.cursor.is_none().then_some(self.due)
    }

    /// Begins a look if one is due. Whether one is under way.
    pub fn look(&mut self, now: Mark) -> bool {
        if self.cursor.is_none() && self.due <= now {
            self.tick = self.tick.wrapping_add(1);
            self.due = now.after(self.every);
            self.cursor = Some(Cursor::START);
        }
        self.cursor.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_ripe_after_its_time_of_silence() {
        let now = Mark::default();
        let mut stamps = Stamps::new(1, Duration::from_secs(4), now);
        let conn = ConnId::new(0, 3, 0);
        stamps.used(conn);
        for second in 1..=6 {
            assert!(stamps.look(now.after(Duration::from_secs(second))));
            stamps.cursor = None;
            assert_eq!(stamps.is_ripe(conn, false), second >= 4, "after {second} s");
            assert_eq!(stamps.is_ripe(conn, true), second >= 2, "after {second} s");
        }
        stamps.used(conn);
        assert!(!stamps.is_ripe(conn, true));
    }
}
