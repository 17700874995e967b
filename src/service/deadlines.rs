//! Deadlines without timers: a table of 4 bytes a slot, which exists once a service has set the first deadline, and a
//! sweep over the table that begins when the earliest deadline may have passed.
//!
//! Deadlines are marks of the shard's own clock (`clock.rs`), in ticks. That clock hardly runs while the process is
//! suspended, so what came meanwhile is received before a deadline is judged.

use std::time::{Duration, Instant};

use super::slot_table::SlotTable;
use crate::clock::{Clock, Mark};
use crate::connections::Cursor;
use crate::token::ConnId;

/// Deadlines are rounded up to this. 32 bits of it are 34 years.
const TICK: Duration = Duration::from_millis(250);

/// Slots that a sweep reads in one pass of the shard: 32 KiB of the table, some 3 us.
const SLOTS_PER_PASS: usize = 8_192;

/// Connections of which the service is told in one pass that their deadline has passed.
const EXPIRED_PER_PASS: usize = 64;

const NONE: u32 = SlotTable::UNSET;

/// The deadlines of a shard's connections.
#[derive(Debug)]
pub(crate) struct Deadlines {
    table: SlotTable,
    /// No deadline that the present sweep has passed is earlier than this tick; between two sweeps none at all. `NONE`
    /// if there is no such deadline.
    earliest: u32,
    /// Where the sweep goes on; `None` between two sweeps.
    sweep: Option<Cursor>,
    /// The next sweep does not begin before this tick, so that there is one a tick at most.
    next_sweep: u32,
}

impl Default for Deadlines {
    fn default() -> Deadlines {
        Deadlines { table: SlotTable::default(), earliest: NONE, sweep: None, next_sweep: 0 }
    }
}

/// The last tick that has begun at a mark.
fn tick_of(mark: Mark) -> u32 {
    u32::try_from(mark.counted().as_nanos() / TICK.as_nanos()).map_or(NONE - 1, |tick| tick.min(NONE - 1))
}

impl Deadlines {
    /// Sets the deadline of a connection, or removes it. It counts from `now` on, the host's clock within a pass that
    /// `clock` saw begin.
    pub fn set(&mut self, conn: ConnId, after: Option<Duration>, clock: &Clock, now: Instant) {
        let Some(after) = after else { return self.table.unset(conn) };
        let began = clock.due(clock.now());
        let at = clock.now().after(now.saturating_duration_since(began)).after(after);
        let tick = (tick_of(at) + 1).min(NONE - 1);
        self.table.set(conn, tick);
        self.earliest = self.earliest.min(tick);
    }

    /// Whether a connection has a deadline.
    pub fn is_set(&self, conn: ConnId) -> bool {
        self.table.get(conn) != NONE
    }

    /// In how long the deadline of a connection passes, if it has one.
    pub fn remaining(&self, conn: ConnId, clock: &Clock) -> Option<Duration> {
        let tick = self.table.get(conn);
        let at = (tick != NONE).then(|| TICK.saturating_mul(tick))?;
        Some(at.saturating_sub(clock.now().counted()))
    }

    /// A connection is gone.
    pub fn forget(&mut self, conn: ConnId) {
        if self.is_used() {
            self.table.unset(conn);
        }
    }

    fn is_used(&self) -> bool {
        self.earliest != NONE || self.sweep.is_some()
    }

    /// Whether a sweep is under way: the shard must not sleep.
    pub fn is_sweeping(&self) -> bool {
        self.sweep.is_some()
    }

    /// When the next sweep begins.
    pub fn due(&self, clock: &Clock) -> Option<Instant> {
        (self.earliest != NONE && self.sweep.is_none()).then(|| {
            let tick = self.earliest.max(self.next_sweep);
            clock.due(Mark::default().after(TICK.saturating_mul(tick)))
        })
    }

    /// Does a part of the sweep, if one is due or under way: puts the places whose deadline has passed into `passed`. They
    /// keep it until `take_passed` takes it, so that it can still be removed or replaced.
    pub fn sweep(&mut self, now: Mark, passed: &mut Vec<Cursor>) {
        let tick = tick_of(now);
        if self.sweep.is_none() {
            if self.earliest.max(self.next_sweep) > tick {
                return;
            }
            (self.sweep, self.earliest, self.next_sweep) = (Some(Cursor::START), NONE, tick + 1);
        }
        let mut left = SLOTS_PER_PASS;
        while let Some(place) = &mut self.sweep {
            let Some(slots) = self.table.ring_mut(place.ring) else {
                self.sweep = None;
                return;
            };
            let from = place.slot as usize;
            for deadline in slots.iter().skip(from).take(left) {
                if *deadline <= tick {
                    passed.push(*place);
                } else {
                    self.earliest = self.earliest.min(*deadline);
                }
                place.slot += 1;
                if passed.len() >= EXPIRED_PER_PASS {
                    return;
                }
            }
            left -= place.slot as usize - from;
            if left == 0 {
                return;
            }
            *place = Cursor { ring: place.ring + 1, slot: 0 };
        }
    }

    /// Takes the deadline of a place that `sweep` has found. `false` if it was removed or replaced since.
    pub fn take_passed(&mut self, place: Cursor, now: Mark) -> bool {
        let slots = self.table.ring_mut(place.ring);
        let passed = slots.and_then(|slots| slots.get_mut(place.slot as usize)).filter(|at| **at <= tick_of(now));
        passed.map(|at| *at = NONE).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A clock that has counted so long, and the host's time then.
    fn clock_at(begin: Instant, counted: Duration) -> (Clock, Instant) {
        let mut clock = Clock::begin(begin);
        clock.sleep(Some(begin + counted));
        clock.look(begin + counted);
        (clock, begin + counted)
    }

    proptest! {
        /// Whatever deadlines are set, replaced and removed: none passes early, and each passes within a second of its
        /// time, once.
        #[test]
        fn a_deadline_passes_once_never_early_and_within_a_second(
            steps in prop::collection::vec((0u32..3_000, 0usize..3, prop::option::of(0u64..20_000)), 1..60)
        ) {
            let begin = Instant::now();
            let mut deadlines = Deadlines::default();
            let mut set = std::collections::BTreeMap::new();
            let mut steps = steps.into_iter();
            for at in (0..60_000u64).step_by(100) {
                let (clock, now) = clock_at(begin, Duration::from_millis(at));
                if at % 300 == 0 && let Some((slot, ring, after)) = steps.next() {
                    let conn = ConnId::new(ring, slot, 7);
                    deadlines.set(conn, after.map(Duration::from_millis), &clock, now);
                    set.remove(&(ring, slot));
                    set.extend(after.map(|after| ((ring, slot), at + after)));
                }
                let mut passed = Vec::new();
                deadlines.sweep(clock.now(), &mut passed);
                for place in passed {
                    prop_assert!(deadlines.take_passed(place, clock.now()));
                    let due = set.remove(&(place.ring, place.slot));
                    prop_assert!(due.is_some_and(|due| due <= at && at <= due + 1_000), "{due:?} at {at}");
                }
                prop_assert!(set.values().all(|due| at <= due + 1_000), "{set:?} at {at}");
                prop_assert!(set.is_empty() || deadlines.is_sweeping() || deadlines.due(&clock).is_some());
            }
        }
    }

    /// The service may have been told of another one meanwhile, and have set these anew or removed them.
    #[test]
    fn a_deadline_that_was_found_can_be_removed_and_replaced_until_it_is_taken() {
        let begin = Instant::now();
        let (clock, now) = clock_at(begin, Duration::ZERO);
        let mut deadlines = Deadlines::default();
        let [kept, removed, replaced] = [0, 1, 2].map(|slot| ConnId::new(0, slot, 7));
        for conn in [kept, removed, replaced] {
            deadlines.set(conn, Some(Duration::from_secs(1)), &clock, now);
        }
        let (later, now) = clock_at(begin, Duration::from_secs(2));
        let mut passed = Vec::new();
        deadlines.sweep(later.now(), &mut passed);
        assert_eq!(passed, [kept, removed, replaced].map(Cursor::before));
        deadlines.set(removed, None, &later, now);
        deadlines.set(replaced, Some(Duration::ZERO), &later, now);
        let taken = passed.iter().map(|place| deadlines.take_passed(*place, later.now()));
        assert_eq!(taken.collect::<Vec<_>>(), [true, false, false]);
        let set = [kept, removed, replaced].map(|conn| deadlines.is_set(conn));
        assert_eq!(set, [false, false, true]);
        // One that was replaced passes at its own time.
        let (last, _) = clock_at(begin, Duration::from_secs(3));
        let mut passed = Vec::new();
        while passed.is_empty() {
            deadlines.sweep(last.now(), &mut passed);
        }
        assert_eq!(passed, [Cursor::before(replaced)]);
    }

    /// A bounded number a pass, and none is lost.
    #[test]
    fn many_deadlines_pass_a_bounded_number_at_a_time() {
        let begin = Instant::now();
        let (clock, now) = clock_at(begin, Duration::ZERO);
        let mut deadlines = Deadlines::default();
        for slot in 0..20_000 {
            deadlines.set(ConnId::new(0, slot, 0), Some(Duration::from_secs(1)), &clock, now);
        }
        let (later, _) = clock_at(begin, Duration::from_secs(2));
        let mut all = 0;
        loop {
            let mut passed = Vec::new();
            deadlines.sweep(later.now(), &mut passed);
            assert!(passed.len() <= EXPIRED_PER_PASS);
            all += passed.iter().filter(|place| deadlines.take_passed(**place, later.now())).count();
            if !deadlines.is_sweeping() {
                break;
            }
        }
        assert_eq!((all, deadlines.due(&later)), (20_000, None));
    }
}
