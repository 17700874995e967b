//! The clock of whoever looks again and again: it counts the time in which it looked.
//!
//! A process may stand still: it is stopped (SIGSTOP, Ctrl-Z, a frozen cgroup), its whole machine is, or others have
//! the processor. What came meanwhile waits unread, so the time says nothing about who sent it. Whoever judges by time,
//! such as a reply that is late or a peer that is silent, measures it on this clock. It goes on only with a look, by
//! `LONGEST_LOOK` at most beyond a sleep that was meant: after a gap what has come is read first, and then judged.
//!
//! Latencies are measured on the clock of the host: a stall is charged to all that it delayed.

use std::time::{Duration, Instant};

use crate::limits::LONGEST_LOOK;

/// An instant on a `Clock`: the time that it had counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Mark(Duration);

impl Mark {
    /// The instant a while later.
    pub fn after(self, time: Duration) -> Mark {
        Mark(self.0.saturating_add(time))
    }

    /// The time from an earlier instant to this one; none if that is later.
    pub fn since(self, earlier: Mark) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    /// The time since the clock began.
    pub fn counted(self) -> Duration {
        self.0
    }
}

/// A clock that counts the time in which its owner looked.
#[derive(Debug, Clone)]
pub struct Clock {
    looked: Instant,
    counted: Mark,
    /// Until when the owner meant to sleep after its last look; `None` is as long as nobody wakes it.
    asleep: Option<Instant>,
}

impl Clock {
    /// A clock that begins with a look.
    pub fn begin(now: Instant) -> Clock {
        Clock { looked: now, counted: Mark::default(), asleep: Some(now) }
    }

    /// The owner looks: counts the time since its last look, or what may count of it.
    pub fn look(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.looked);
        let counts = match self.asleep {
            Some(until) => passed.min(until.saturating_duration_since(self.looked).saturating_add(LONGEST_LOOK)),
            None => passed,
        };
        (self.counted, self.looked, self.asleep) = (self.counted.after(counts), now, Some(now));
    }

    /// The owner will sleep until an instant, or until something happens: all that time counts. Whoever waits
    /// for a `Mark` gives the instant of that (`due`).
    pub fn sleep(&mut self, until: Option<Instant>) {
        self.asleep = until;
    }

    /// The instant of the last look.
    pub fn now(&self) -> Mark {
        self.counted
    }

    /// When the host's clock will show a mark if the owner does not stand still until then.
    pub fn due(&self, mark: Mark) -> Instant {
        self.looked + mark.since(self.counted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What happens between two looks.
    #[derive(Debug, Clone, Copy)]
    enum Step {
        /// Work of so many microseconds.
        Work(u64),
        /// A sleep that was meant to last so long, and lasted longer by so much.
        Sleep(u64, u64),
        /// A sleep without an end that somebody ended.
        Woken(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        let short = 0..LONGEST_LOOK.as_micros() as u64;
        let any = 0..100_000_000u64;
        prop_oneof![
            any.clone().prop_map(Step::Work),
            short.prop_map(Step::Work),
            (any.clone(), any.clone()).prop_map(|(meant, late)| Step::Sleep(meant, late)),
            any.prop_map(Step::Woken),
        ]
    }

    proptest! {
        /// Work and lateness count up to the longest look, and sleep that was meant counts in full.
        #[test]
        fn what_counts_is_what_was_looked_at(steps in prop::collection::vec(step(), 1..60)) {
            let mut now = Instant::now();
            let mut clock = Clock::begin(now);
            for step in steps {
                let before = clock.now();
                let (passed, meant) = match step {
                    Step::Work(took) => (took, Duration::ZERO),
                    Step::Sleep(meant, late) => {
                        clock.sleep(Some(now + Duration::from_micros(meant)));
                        (meant + late, Duration::from_micros(meant))
                    }
                    Step::Woken(after) => {
                        clock.sleep(None);
                        (after, Duration::from_micros(after))
                    }
                };
                let passed = Duration::from_micros(passed);
                now += passed;
                clock.look(now);
                prop_assert_eq!(clock.now().since(before), passed.min(meant + LONGEST_LOOK));
            }
        }

        /// However long the owner stands still, a deadline needs as many looks as fit into its time, and no more
        /// than that once the owner looks in time.
        #[test]
        fn a_deadline_is_met_by_looks(millis in 1u64..10_000, gaps in prop::collection::vec(1u64..1_000_000, 0..20)) {
            let (start, patience) = (Instant::now(), Duration::from_millis(millis));
            let (mut clock, mut now) = (Clock::begin(start), start);
            let deadline = clock.now().after(patience);
            let mut looks = 0;
            for gap in gaps {
                now += LONGEST_LOOK + Duration::from_millis(gap);
                clock.look(now);
                looks += 1;
                prop_assert_eq!(clock.now() >= deadline, LONGEST_LOOK * looks >= patience);
            }
            // Whoever sleeps until it is due and wakes in time is there, and not before.
            let due = clock.due(deadline);
            if due > now + Duration::from_micros(1) {
                let mut early = clock.clone();
                early.sleep(Some(due));
                early.look(due - Duration::from_micros(1));
                prop_assert!(early.now() < deadline);
            }
            clock.sleep(Some(due));
            clock.look(due);
            prop_assert!(clock.now() >= deadline);
        }

        /// A clock of the host that goes back takes nothing away.
        #[test]
        fn it_never_goes_back(steps in prop::collection::vec(0u64..10_000_000, 1..40)) {
            let start = Instant::now();
            let mut clock = Clock::begin(start);
            for step in steps {
                let before = clock.now();
                clock.look(start + Duration::from_micros(step));
                prop_assert!(clock.now() >= before);
            }
        }
    }
}
