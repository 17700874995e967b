//! Intended instants: when each event of an evenly paced run should start.
//! Latency counts from the intended instant, so a stall is charged to every event it delays
//! (no coordinated omission; Gil Tene's wrk2).

use std::time::{Duration, Instant};

/// As good as never, and no clock arithmetic overflows: 30 years.
const FAR: Duration = Duration::from_secs(30 * 365 * 24 * 3600);

/// An even pace from a start, or as fast as possible.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    start: Instant,
    /// Events per second; `None` is unpaced.
    rate: Option<f64>,
}

impl Pace {
    /// `rate` events per second from `start` on; a rate that is not a positive finite number, or
    /// none, is unpaced.
    pub fn new(start: Instant, rate: Option<f64>) -> Pace {
        Pace { start, rate: rate.filter(|r| r.is_finite() && *r > 0.0) }
    }

    /// When event number `index` (from 0) should start; `None` when unpaced: whenever it does.
    pub fn intended(&self, index: u64) -> Option<Instant> {
        let after = |rate: f64| Duration::try_from_secs_f64(index as f64 / rate).unwrap_or(FAR).min(FAR);
        self.rate.map(|rate| self.start + after(rate))
    }

    /// Whether event number `index` may start at `now`.
    pub fn is_due(&self, index: u64, now: Instant) -> bool {
        self.intended(index).is_none_or(|at| at <= now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn events_keep_their_distance(rate in 1.0f64..1e6, index in 0u64..10_000_000) {
            let pace = Pace::new(Instant::now(), Some(rate));
            let (a, b) = (pace.intended(index).unwrap(), pace.intended(index + 1).unwrap());
            prop_assert!(((b - a).as_secs_f64() - 1.0 / rate).abs() < 1e-6);
            prop_assert!(pace.is_due(index, a));
            prop_assert!(!pace.is_due(index + 1, a));
        }
    }

    #[test]
    fn a_pace_too_slow_to_live_is_no_overflow() {
        let now = Instant::now();
        let pace = Pace::new(now, Some(1e-300));
        assert!(pace.is_due(0, now) && !pace.is_due(1, now));
        assert!(pace.intended(u64::MAX).is_some());
    }

    #[test]
    fn unpaced_is_always_due() {
        let now = Instant::now();
        assert!(Pace::new(now, None).is_due(u64::MAX, now));
        assert!(Pace::new(now, Some(0.0)).intended(3).is_none());
    }
}
