//! Histograms of durations that one thread writes and any thread reads.

use std::time::Duration;

use super::Counter;

/// A histogram of durations with fixed bounds, on cache lines of its own. Durations beyond the last bound are counted
/// too.
#[derive(Debug)]
#[repr(align(128))]
pub struct Durations<const BOUNDS: usize> {
    bounds: &'static [Duration; BOUNDS],
    within: [Counter; BOUNDS],
    beyond: Counter,
    nanoseconds: Counter,
}

/// The counts of a histogram.
#[derive(Debug, Clone, PartialEq)]
pub struct DurationCounts<const BOUNDS: usize> {
    bounds: &'static [Duration; BOUNDS],
    within: [u64; BOUNDS],
    beyond: u64,
    /// Seconds that all of them took together.
    pub seconds: f64,
}

impl<const BOUNDS: usize> Durations<BOUNDS> {
    fn new(bounds: &'static [Duration; BOUNDS]) -> Durations<BOUNDS> {
        let within = std::array::from_fn(|_| Counter::default());
        Durations { bounds, within, beyond: Counter::default(), nanoseconds: Counter::default() }
    }

    /// Counts a duration. Only the owning shard may call this.
    pub fn count(&self, took: Duration) {
        let bucket = self.bounds.partition_point(|bound| *bound < took);
        self.within.get(bucket).unwrap_or(&self.beyond).add(1);
        self.nanoseconds.add(took.as_nanos() as u64);
    }

    /// The counts until now.
    pub fn read(&self) -> DurationCounts<BOUNDS> {
        DurationCounts {
            bounds: self.bounds,
            within: self.within.each_ref().map(Counter::get),
            beyond: self.beyond.get(),
            seconds: self.nanoseconds.get() as f64 / 1e9,
        }
    }
}

impl<const BOUNDS: usize> DurationCounts<BOUNDS> {
    /// The counts with the upper bound of each, in order. Those beyond the last bound come at the end, without one.
    pub fn buckets(&self) -> impl Iterator<Item = (Option<Duration>, u64)> {
        let within = self.bounds.iter().copied().map(Some).zip(self.within);
        within.chain([(None, self.beyond)])
    }

    /// How many there are.
    pub fn all(&self) -> u64 {
        self.buckets().fold(0, |sum, (_, count)| sum.wrapping_add(count))
    }

    /// Those that were counted since `earlier`, but for their seconds.
    pub fn since(&self, earlier: &DurationCounts<BOUNDS>) -> DurationCounts<BOUNDS> {
        let within = std::array::from_fn(|bucket| self.within[bucket].saturating_sub(earlier.within[bucket]));
        DurationCounts { within, beyond: self.beyond.saturating_sub(earlier.beyond), ..self.clone() }
    }

    /// The upper bound of the bucket that holds a percentile: `Some(None)` beyond the last bound, and `None` where nothing
    /// was counted.
    pub fn percentile(&self, percent: u64) -> Option<Option<Duration>> {
        let (all, mut so_far) = (u128::from(self.all()), 0);
        let mut buckets = self.buckets().filter(|_| all > 0);
        let holds = |(_, count): &(_, u64)| {
            so_far += u128::from(*count);
            so_far * 100 >= all * u128::from(percent)
        };
        buckets.find(holds).map(|(bound, _)| bound)
    }
}

/// The bounds of `Rounds`, and of both histograms in the metrics.
pub const ROUND_BOUNDS: [Duration; 12] = [
    Duration::from_micros(50),
    Duration::from_micros(100),
    Duration::from_micros(250),
    Duration::from_micros(500),
    Duration::from_millis(1),
    Duration::from_micros(2_500),
    Duration::from_millis(5),
    Duration::from_millis(10),
    Duration::from_millis(25),
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(250),
];

/// Durations of one shard's rounds. A round lasts from one look at the rings to the next while the shard works; a
/// ready connection may have to wait that long for a shard that is awake.
pub type Rounds = Durations<{ ROUND_BOUNDS.len() }>;

impl Default for Rounds {
    fn default() -> Rounds {
        Durations::new(&ROUND_BOUNDS)
    }
}

/// The series R40 of preferred numbers (ISO 3), in hundredths: forty in a decade. Each is at most 7.2 % more than the one
/// before. All bounds of the metrics are among them.
const R40: [u64; 40] = [
    100, 106, 112, 118, 125, 132, 140, 150, 160, 170, 180, 190, 200, 212, 224, 236, 250, 265, 280, 300, 315, 335, 355,
    375, 400, 425, 450, 475, 500, 530, 560, 600, 630, 670, 710, 750, 800, 850, 900, 950,
];

/// The number of `WAKE_BOUNDS`: nine decades, from 1 us to 950 s.
const WAKES: usize = 9 * R40.len();

/// The bounds of `Wakes`.
static WAKE_BOUNDS: [Duration; WAKES] = wake_bounds();

const fn wake_bounds() -> [Duration; WAKES] {
    let mut bounds = [Duration::ZERO; WAKES];
    let (mut at, mut unit) = (0, 10);
    while at < WAKES {
        bounds[at] = Duration::from_nanos(R40[at % R40.len()] * unit);
        at += 1;
        if at % R40.len() == 0 {
            unit *= 10;
        }
    }
    bounds
}

/// How long one shard's sleeping connections took to wake: each from the moment at which the segment that woke it was
/// caught until its payload went to the driver, with TLS to the records; or until the segment was sent on to the new
/// socket, if it is not the next payload alone or is longer than a buffer. A figure that is read from them is at most
/// 7.2 % too high.
pub type Wakes = Durations<WAKES>;

/// The counts of `Wakes`.
pub type WakeCounts = DurationCounts<WAKES>;

impl Default for Wakes {
    fn default() -> Wakes {
        Durations::new(&WAKE_BOUNDS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn bounds_grow_by_little_and_hold_those_of_the_metrics() {
        assert_eq!(
            (WAKE_BOUNDS[0], WAKE_BOUNDS[WAKE_BOUNDS.len() - 1]),
            (Duration::from_micros(1), Duration::from_secs(950))
        );
        for pair in WAKE_BOUNDS.windows(2) {
            let ratio = pair[1].as_secs_f64() / pair[0].as_secs_f64();
            assert!((1.05..1.072).contains(&ratio), "{pair:?}");
        }
        assert!(ROUND_BOUNDS.iter().all(|bound| WAKE_BOUNDS.contains(bound)));
    }

    proptest! {
        /// A percentile is the bound above the duration of that rank.
        #[test]
        fn a_percentile_is_the_bound_above(mut us in prop::collection::vec(1u64..2_000_000_000, 1..50), percent in 1u64..=100) {
            let wakes = Wakes::default();
            us.iter().for_each(|us| wakes.count(Duration::from_micros(*us)));
            us.sort_unstable();
            let exact = Duration::from_micros(us[(us.len() as u64 * percent).div_ceil(100) as usize - 1]);
            let read = wakes.read().percentile(percent).unwrap();
            let above = WAKE_BOUNDS.iter().find(|bound| **bound >= exact);
            prop_assert_eq!(read.as_ref(), above);
            prop_assert_eq!(wakes.read().all(), us.len() as u64);
        }

        #[test]
        fn what_came_since_is_the_difference(first in prop::collection::vec(0u64..1_000_000, 0..9), then in prop::collection::vec(0u64..1_000_000, 0..9)) {
            let (rounds, later) = (Rounds::default(), Rounds::default());
            first.iter().for_each(|us| rounds.count(Duration::from_micros(*us)));
            let before = rounds.read();
            for us in &then {
                rounds.count(Duration::from_micros(*us));
                later.count(Duration::from_micros(*us));
            }
            let (since, later) = (rounds.read().since(&before), later.read());
            prop_assert!(since.buckets().eq(later.buckets()));
            prop_assert_eq!(since.percentile(99).is_none(), then.is_empty());
        }
    }
}
