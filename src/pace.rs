//! Intended instants: when each event of an evenly paced run should start.
//! Latency counts from the intended instant, so a stall is charged to every event it delays
//! (no coordinated omission; Gil Tene's wrk2).

use std::time::{Duration, Instant};

use crate::clock::{Clock, Start};

/// So far ahead that it is as good as never, and yet no arithmetic with instants overflows: 30 years.
const FAR: Duration = Duration::from_secs(30 * 365 * 24 * 3600);

/// An even pace from a start, or as fast as possible. While the process is suspended nothing becomes due: the pace goes
/// on where it was.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// The start, and events per second; `None` is unpaced.
    from: Option<(Start, f64)>,
}

impl Pace {
    /// As fast as possible.
    pub const UNPACED: Pace = Pace { from: None };

    /// `rate` events per second from `start` on; a rate that is not a positive finite number, or
    /// none, is unpaced.
    pub fn new(start: Start, rate: Option<f64>) -> Pace {
        Pace { from: rate.filter(|r| r.is_finite() && *r > 0.0).map(|rate| (start, rate)) }
    }

    /// When event number `index` (from 0) should start, by the clock that told the start; `None` when unpaced: whenever
    /// it does.
    pub fn intended(&self, index: u64, clock: &Clock) -> Option<Instant> {
        let after = |rate: f64| Duration::try_from_secs_f64(index as f64 / rate).unwrap_or(FAR).min(FAR);
        self.from.map(|(start, rate)| clock.begun(start) + after(rate))
    }
}

/// A budget of events: `rate` a second. What is not spent is saved, up to a tenth of a second's events, and at least
/// one event.
#[derive(Debug, Clone, Copy)]
pub struct TokenBucket {
    rate: f64,
    saved: f64,
    at: Instant,
}

impl TokenBucket {
    /// `rate` events per second, a positive number; the first is due at once.
    pub fn new(now: Instant, rate: f64) -> TokenBucket {
        TokenBucket { rate, saved: 1.0, at: now }
    }

    /// Takes one event out of the budget, or says when there will be one.
    pub fn spend(&mut self, now: Instant) -> Result<(), Instant> {
        let earned = now.saturating_duration_since(self.at).as_secs_f64() * self.rate;
        (self.saved, self.at) = ((self.saved + earned).min((self.rate / 10.0).max(1.0)), now);
        if self.saved >= 1.0 {
            self.saved -= 1.0;
            return Ok(());
        }
        let wait = Duration::try_from_secs_f64((1.0 - self.saved) / self.rate).unwrap_or(FAR).min(FAR);
        // A moment later than computed, so that rounding leaves no part of an event missing.
        Err(now + wait + Duration::from_micros(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn events_keep_their_distance(rate in 1.0f64..1e6, index in 0u64..10_000_000) {
            let now = Instant::now();
            let clock = Clock::begin(now);
            let pace = Pace::new(clock.start(now), Some(rate));
            let (a, b) = (pace.intended(index, &clock).unwrap(), pace.intended(index + 1, &clock).unwrap());
            prop_assert!(((b - a).as_secs_f64() - 1.0 / rate).abs() < 1e-6);
        }
    }

    proptest! {
        /// However time passes, no more is spent than was earned, and an event that was promised
        /// is there.
        #[test]
        fn a_budget_is_kept(rate in 0.01f64..1e5, steps in prop::collection::vec(0u64..100_000, 1..200)) {
            let start = Instant::now();
            let (mut budget, mut now, mut spent) = (TokenBucket::new(start, rate), start, 0u32);
            for step in steps {
                now += Duration::from_micros(step);
                match budget.spend(now) {
                    Ok(()) => spent += 1,
                    Err(due) => prop_assert!(due > now && budget.clone().spend(due).is_ok()),
                }
                let earned = now.duration_since(start).as_secs_f64() * rate;
                prop_assert!(f64::from(spent) <= 1.0 + earned + 1e-3);
            }
        }
    }

    #[test]
    fn a_pace_too_slow_to_live_is_no_overflow() {
        let now = Instant::now();
        let clock = Clock::begin(now);
        let pace = Pace::new(clock.start(now), Some(1e-300));
        assert_eq!(pace.intended(0, &clock), Some(now));
        assert!(pace.intended(1, &clock).unwrap() > now && pace.intended(u64::MAX, &clock).is_some());
    }

    #[test]
    fn unpaced_is_always_due() {
        let now = Instant::now();
        let clock = Clock::begin(now);
        assert!(Pace::new(clock.start(now), None).intended(u64::MAX, &clock).is_none());
        assert!(Pace::new(clock.start(now), Some(0.0)).intended(3, &clock).is_none());
    }
}
