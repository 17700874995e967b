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

/// The first tick while slots are short. Looks then shorten the tick (`MOST_HASTE`). A connection whose last use is in
/// this tick sleeps two ticks later, after 125 to 375 ms of silence, and some longer where looks take long.
const HURRIED_TICK: Duration = Duration::from_millis(250);

/// The largest `haste`. At 1 the tick is `HURRIED_TICK`, and each further step halves it, down to some 8 ms. A look at
/// 130,000 slots takes 0.2 ms, so the looks of the shortest tick take some 2 % of a core.
const MOST_HASTE: u32 = 6;

/// The pause of a look when the kernel lacks descriptors or memory for what is found. Each attempt would be in vain, and
/// connections that end make room.
const PAUSE: Duration = Duration::from_millis(100);

/// Rows that one pass looks at: some 10 us.
pub(super) const ROWS_PER_PASS: usize = 8_192;

/// When the connections of each slot were last used.
#[derive(Debug)]
pub(super) struct Stamps {
    rings: Vec<Vec<u8>>,
    /// The present tick; it wraps. A connection that was used 256 ticks ago and could not sleep since passes for one
    /// that was used just now.
    tick: u8,
    /// The length of a tick while slots are plenty.
    every: Duration,
    /// Looks in a row, up to `MOST_HASTE`, at whose beginning slots were short.
    haste: u32,
    /// When the next tick begins. `None` while no connection is awake: the ticks stand still, so that the shard is not woken
    /// for them.
    due: Option<Mark>,
    /// Where the look that is under way goes on; `None` between two looks.
    pub cursor: Option<Cursor>,
    /// The look that is under way waits until then.
    paused: Option<Mark>,
}

impl Stamps {
    /// Puts connections of so many rings to sleep that were silent for `after`.
    pub fn new(rings: usize, after: Duration, now: Mark) -> Stamps {
        let every = (after / u32::from(RIPE)).max(SHORTEST_TICK);
        let rings = vec![Vec::new(); rings];
        Stamps { rings, tick: 0, every, haste: 0, due: Some(now.after(every)), cursor: None, paused: None }
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

    /// Whether a connection has been silent for long enough. While slots are short, half of that is enough.
    pub fn is_ripe(&self, conn: ConnId) -> bool {
        let used = self.rings.get(conn.ring()).and_then(|ring| ring.get(conn.slot() as usize));
        used.is_some_and(|used| self.tick.wrapping_sub(*used) >= if self.haste > 0 { RIPE / 2 } else { RIPE })
    }

    /// The length of the present tick.
    fn length(&self) -> Duration {
        match self.haste.checked_sub(1) {
            None => self.every,
            Some(halvings) => (HURRIED_TICK / (1 << halvings)).min(self.every),
        }
    }

    /// When the next look begins, or the one that is under way goes on; `None` while that goes on, and while all sleep.
    pub fn due(&self) -> Option<Mark> {
        if self.cursor.is_none() { self.due } else { self.paused }
    }

    /// Whether a look goes on.
    pub fn is_looking(&self) -> bool {
        self.cursor.is_some() && self.paused.is_none()
    }

    /// The look waits for a moment, and goes on with this connection.
    pub fn pause(&mut self, conn: ConnId, now: Mark) {
        self.cursor = Some(Cursor::before(conn));
        self.paused = Some(now.after(PAUSE));
    }

    /// No connection is awake: looks rest until `look` is called.
    pub fn rest(&mut self) {
        (self.due, self.cursor, self.paused, self.haste) = (None, None, None, 0);
    }

    /// Begins a look if one is due. Whether one goes on now. While slots are `short`, looks come sooner, and sooner
    /// each time: new connections and those that wake wait for the slots of the silent ones.
    pub fn look(&mut self, now: Mark, short: bool) -> bool {
        if self.cursor.is_some() {
            self.paused = self.paused.filter(|until| now < *until);
            return self.paused.is_none();
        }
        let mut due = self.due.unwrap_or_else(|| now.after(self.length()));
        if short && self.haste == 0 {
            self.haste = 1;
            due = due.min(now.after(self.length()));
        }
        if due <= now {
            self.haste = if short { (self.haste + 1).min(MOST_HASTE) } else { self.haste.saturating_sub(1) };
            self.tick = self.tick.wrapping_add(1);
            due = now.after(self.length());
            self.cursor = Some(Cursor::START);
        }
        self.due = Some(due);
        self.cursor.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_ripe_after_its_time_of_silence() {
        let (now, conn) = (Mark::default(), ConnId::new(0, 3, 0));
        let mut stamps = Stamps::new(1, Duration::from_secs(4), now);
        stamps.used(conn);
        for second in 1..=6 {
            assert!(stamps.look(now.after(Duration::from_secs(second)), false));
            stamps.cursor = None;
            assert_eq!(stamps.is_ripe(conn), second >= 4, "after {second} s");
        }
        stamps.used(conn);
        assert!(!stamps.is_ripe(conn));
    }

    /// While no connection is awake nothing is due. The first that wakes has its whole time.
    #[test]
    fn looks_rest_while_all_sleep() {
        let (now, conn) = (Mark::default(), ConnId::new(0, 3, 0));
        let mut stamps = Stamps::new(1, Duration::from_secs(4), now);
        stamps.rest();
        assert_eq!((stamps.due(), stamps.is_looking()), (None, false));
        let woke = now.after(Duration::from_secs(100));
        stamps.used(conn);
        assert!(!stamps.look(woke, false));
        for second in 1..=4 {
            assert_eq!(stamps.due(), Some(woke.after(Duration::from_secs(second))));
            assert!(stamps.look(woke.after(Duration::from_secs(second)), false));
            stamps.cursor = None;
            assert_eq!(stamps.is_ripe(conn), second == 4, "after {second} s");
        }
    }

    /// While slots are short the time of silence shrinks from look to look, and grows again after that.
    #[test]
    fn silence_is_shorter_while_slots_are_short() {
        let (mut now, conn) = (Mark::default(), ConnId::new(0, 3, 0));
        let mut stamps = Stamps::new(1, Duration::from_secs(40), now);
        let mut until_ripe = |stamps: &mut Stamps, short: bool| {
            stamps.used(conn);
            let began = now;
            while !stamps.is_ripe(conn) {
                now = now.after(Duration::from_millis(1));
                if stamps.look(now, short) {
                    stamps.cursor = None;
                }
            }
            now.since(began)
        };
        let millis = Duration::from_millis;
        let first = until_ripe(&mut stamps, true);
        assert!((millis(300)..millis(900)).contains(&first), "{first:?}");
        let silences: Vec<_> = (0..8).map(|_| until_ripe(&mut stamps, true)).collect();
        assert!(silences.is_sorted_by(|before, after| before >= after), "{silences:?}");
        assert!(silences[7] <= millis(20), "{silences:?}");
        let calm: Vec<_> = (0..12).map(|_| until_ripe(&mut stamps, false)).collect();
        assert!(calm[11] >= millis(30_000), "{calm:?}");
    }
}
