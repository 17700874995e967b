//! HDR histograms of latencies in microseconds: recorded per shard, merged, never averaged.

use std::time::Duration;

use hdrhistogram::Histogram;
use hdrhistogram::iterators::HistogramIterator;

use crate::error::{Error, Result};
use crate::limits::{LATENCY_DIGITS, MAX_LATENCY_US};

/// Latencies from 1 microsecond to an hour with 3 significant digits; shorter ones count as 1 µs,
/// longer ones as an hour.
#[derive(Debug, Clone)]
pub struct Latency(Histogram<u64>);

/// The percentiles every report shows, in percent.
pub const PERCENTILES: [(f64, &str); 5] =
    [(50.0, "p50"), (90.0, "p90"), (99.0, "p99"), (99.9, "p99.9"), (99.99, "p99.99")];

impl Latency {
    /// An empty histogram; about 180 KiB however much is recorded.
    pub fn new() -> Result<Latency> {
        Histogram::new_with_bounds(1, MAX_LATENCY_US, LATENCY_DIGITS)
            .map(Latency)
            .map_err(|e| Error::bug(format!("histogram of 1..{MAX_LATENCY_US} us: {e}")))
    }

    /// Records one latency.
    pub fn record(&mut self, latency: Duration) {
        let us = u64::try_from(latency.as_micros()).unwrap_or(MAX_LATENCY_US);
        self.0.saturating_record(us.max(1));
    }

    /// Records one latency, counted from the intended start, and those of the events that should
    /// have started every `interval` while it was in flight, for `service`, but could not
    /// (HdrHistogram's correction for coordinated omission).
    pub fn record_with_omitted(&mut self, latency: Duration, service: Duration, interval: Duration) {
        self.record(latency);
        let mut left = service;
        while !interval.is_zero() && left > interval {
            left -= interval;
            self.record(left);
        }
    }

    /// Adds every record of another histogram.
    pub fn merge(&mut self, other: &Latency) -> Result<()> {
        self.0.add(&other.0).map_err(|e| Error::bug(format!("merging histograms: {e}")))
    }

    /// How many were recorded.
    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// The smallest, in microseconds; 0 when empty.
    pub fn min(&self) -> u64 {
        if self.count() == 0 { 0 } else { self.0.min() }
    }

    /// The largest, in microseconds; 0 when empty.
    pub fn max(&self) -> u64 {
        self.0.max()
    }

    /// The latency in microseconds that `percent` percent do not exceed; 0 when empty.
    pub fn percentile(&self, percent: f64) -> u64 {
        self.0.value_at_percentile(percent)
    }

    /// Mean and standard deviation in microseconds, as the `.hgrm` footer wants them.
    pub fn mean_and_deviation(&self) -> (f64, f64) {
        (self.0.mean(), self.0.stdev())
    }

    /// Buckets of the underlying histogram, as the `.hgrm` footer wants them.
    pub fn bucket_count(&self) -> u8 {
        self.0.buckets()
    }

    /// Counts in the given ascending bounds (microseconds): `counts[i]` is what lies above
    /// `bounds[i - 1]` and at or below `bounds[i]`; one more for what lies above the last.
    pub fn buckets(&self, bounds: &[u64]) -> Vec<u64> {
        let mut counts = vec![0; bounds.len() + 1];
        for step in self.0.iter_recorded() {
            let at = bounds.partition_point(|b| *b < step.value_iterated_to());
            counts[at] += step.count_since_last_iteration();
        }
        counts
    }

    /// The rows of the standard percentile file: value, quantile, total count up to it; `ticks`
    /// rows per halving of the distance to 100 %.
    pub fn quantile_rows(&self, ticks: u32) -> Vec<(u64, f64, u64)> {
        let mut total = 0;
        let rows = HistogramIterator::map(self.0.iter_quantiles(ticks), |step| {
            total += step.count_since_last_iteration();
            (step.value_iterated_to(), step.quantile_iterated_to(), total)
        });
        rows.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(values: &[u64]) -> Latency {
        let mut latency = Latency::new().unwrap();
        values.iter().for_each(|us| latency.record(Duration::from_micros(*us)));
        latency
    }

    proptest! {
        /// Merging shards gives what one histogram of everything gives.
        #[test]
        fn merged_is_recorded_together(
            a in prop::collection::vec(1u64..100_000_000, 0..200), b in prop::collection::vec(1u64..100_000_000, 0..200)
        ) {
            let mut merged = of(&a);
            merged.merge(&of(&b)).unwrap();
            let together = of(&[a, b].concat());
            prop_assert_eq!(merged.count(), together.count());
            for (percent, _) in PERCENTILES {
                prop_assert_eq!(merged.percentile(percent), together.percentile(percent));
            }
            prop_assert_eq!((merged.min(), merged.max()), (together.min(), together.max()));
        }

        /// Three digits: a percentile is within 0.1 % of the exact order statistic.
        #[test]
        fn percentiles_are_exact_to_three_digits(mut values in prop::collection::vec(1u64..1_000_000_000, 1..300)) {
            let latency = of(&values);
            values.sort_unstable();
            let exact = values[((values.len() as f64 * 0.5).ceil() as usize).max(1) - 1];
            let shown = latency.percentile(50.0);
            prop_assert!(shown >= exact && shown as f64 <= exact as f64 * 1.001 + 1.0, "{shown} for {exact}");
        }

        #[test]
        fn buckets_hold_everything_once(values in prop::collection::vec(1u64..10_000, 0..200)) {
            let counts = of(&values).buckets(&[10, 100, 1_000]);
            prop_assert_eq!(counts.iter().sum::<u64>(), values.len() as u64);
            prop_assert_eq!(counts[0], values.iter().filter(|v| **v <= 10).count() as u64);
        }
    }

    #[test]
    fn what_could_not_start_is_counted_too() {
        let mut latency = of(&[]);
        latency.record_with_omitted(Duration::from_millis(35), Duration::from_millis(35), Duration::from_millis(10));
        assert_eq!(latency.buckets(&[6_000, 16_000, 26_000]), [1, 1, 1, 1]);
        // What only started late has kept nobody else waiting.
        latency.record_with_omitted(Duration::from_millis(100), Duration::from_millis(1), Duration::from_millis(10));
        latency.record_with_omitted(Duration::from_millis(1), Duration::from_millis(1), Duration::ZERO);
        assert_eq!(latency.count(), 6);
    }

    #[test]
    fn what_is_out_of_range_is_still_counted() {
        let mut latency = of(&[]);
        latency.record(Duration::ZERO);
        latency.record(Duration::from_secs(1_000_000));
        assert_eq!(latency.count(), 2);
        assert_eq!(latency.min(), 1);
        assert!(latency.max() >= MAX_LATENCY_US);
    }
}
