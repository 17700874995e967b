//! Spinning: looking for work for a moment before sleeping, where that pays. A wake-up costs about 18 us (an echo takes
//! 46 us with a wake-up at each end, 10 us without), so it is better to spin through a pause that is shorter than
//! `LONGEST_SPIN`. If the peer runs on the same core, nothing can come while the shard spins: each futile spin halves
//! the next, down to none.

use std::time::{Duration, Instant};

use crate::connections::Platform;

/// The longest spin before sleeping. Pauses of up to the cost of a few wake-ups are worth it.
const LONGEST_SPIN: Duration = Duration::from_micros(50);

/// A spin shorter than this is left out.
const SHORTEST_SPIN: Duration = Duration::from_micros(2);

/// Short sleeps in a row after which spinning is tried again.
const SHORT_SLEEPS: u32 = 8;

/// How long a shard spins before it sleeps.
#[derive(Debug, Default)]
pub(super) struct Spin {
    /// How long it spins now; at zero not at all.
    look: Duration,
    /// Short sleeps in a row.
    short: u32,
}

impl Spin {
    /// Spins for as long as seems worth it, and not beyond `due`. Returns whether work came.
    pub fn until(&mut self, platform: &impl Platform, due: Option<Instant>, mut work: impl FnMut() -> bool) -> bool {
        if self.look.is_zero() {
            return false;
        }
        let end = platform.now() + self.look;
        loop {
            let now = platform.now();
            if due.is_some_and(|due| due <= now) {
                return false;
            }
            if now >= end {
                break;
            }
            if work() {
                self.look = (self.look * 2).min(LONGEST_SPIN);
                return true;
            }
            std::hint::spin_loop();
        }
        self.look /= 2;
        if self.look < SHORTEST_SPIN {
            self.look = Duration::ZERO;
        }
        false
    }

    /// Learns from a sleep: after several short sleeps in a row, spinning would have been better.
    pub fn learn(&mut self, slept: Duration) {
        self.short = if slept < LONGEST_SPIN { self.short + 1 } else { 0 };
        if self.look.is_zero() && self.short >= SHORT_SLEEPS {
            (self.look, self.short) = (LONGEST_SPIN, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulation::{Chance, Machine, with_seeds};

    /// Spins for work that never comes. Returns for how long.
    fn in_vain(spin: &mut Spin, machine: &Machine, due: Option<Instant>) -> Duration {
        let began = machine.elapsed();
        assert!(!spin.until(machine, due, || false));
        machine.elapsed() - began
    }

    /// A number of short sleeps in a row.
    fn short_sleeps(spin: &mut Spin, times: u32) {
        (0..times).for_each(|_| spin.learn(LONGEST_SPIN / 2));
    }

    #[test]
    fn looking_begins_after_short_sleeps_in_a_row_and_ends_when_it_is_in_vain() {
        let (mut spin, machine) = (Spin::default(), Machine::new(0));
        short_sleeps(&mut spin, SHORT_SLEEPS - 1);
        spin.learn(LONGEST_SPIN);
        short_sleeps(&mut spin, SHORT_SLEEPS - 1);
        assert_eq!(in_vain(&mut spin, &machine, None), Duration::ZERO, "a long sleep was between the short ones");
        short_sleeps(&mut spin, 1);
        for looks in [50.0, 25.0, 12.5, 6.25, 3.125] {
            let took = in_vain(&mut spin, &machine, None).as_secs_f64() * 1e6;
            assert!((looks..looks + 0.1).contains(&took), "it looked for {took} us instead of {looks}");
        }
        assert_eq!(in_vain(&mut spin, &machine, None), Duration::ZERO, "a look of less than 2 us is none");
    }

    #[test]
    fn work_that_comes_makes_looks_longer_again() {
        let (mut spin, machine) = (Spin::default(), Machine::new(0));
        short_sleeps(&mut spin, SHORT_SLEEPS);
        in_vain(&mut spin, &machine, None);
        in_vain(&mut spin, &machine, None);
        assert!(spin.until(&machine, None, || true));
        let took = in_vain(&mut spin, &machine, None);
        assert!(took >= LONGEST_SPIN / 2 && took < LONGEST_SPIN, "{took:?}");
    }

    /// Whatever happens: no spin is longer than `LONGEST_SPIN`, none goes on beyond what is due, and none misses work.
    #[test]
    fn looks_are_bounded() {
        with_seeds(200, |seed| {
            let (mut spin, machine, mut chance) = (Spin::default(), Machine::new(seed), Chance(seed));
            let tick = Duration::from_nanos(100);
            for _ in 0..500 {
                let began = machine.elapsed();
                match chance.below(4) {
                    0 => spin.learn(chance.time(3 * LONGEST_SPIN / 2)),
                    1 => short_sleeps(&mut spin, SHORT_SLEEPS),
                    2 => {
                        let due = began + chance.time(LONGEST_SPIN);
                        in_vain(&mut spin, &machine, Some(machine.instant(due)));
                        assert!(machine.elapsed() <= due + tick, "it looked on after what was due");
                    }
                    _ => {
                        let comes = began + chance.time(2 * LONGEST_SPIN);
                        let found = spin.until(&machine, None, || machine.elapsed() >= comes);
                        assert!(!found || machine.elapsed() <= comes + tick, "work was there for long");
                    }
                }
                assert!(machine.elapsed() - began <= LONGEST_SPIN + tick, "it looked too long");
            }
        });
    }
}
