//! HDR histograms of latencies in microseconds: recorded per shard, merged, never averaged.

pub mod log;
mod recorder;

use std::io::Read;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use flate2::read::ZlibDecoder;
use hdrhistogram::Histogram;
use hdrhistogram::iterators::HistogramIterator;
use hdrhistogram::serialization::{Deserializer, Serializer, V2DeflateSerializer, V2Serializer};

use crate::error::{Error, Result};

/// The largest latency that is recorded as itself, in microseconds (1 hour); a longer one is recorded as this.
pub const MAX_LATENCY_US: u64 = 3_600_000_000;

/// Significant decimal digits of every histogram: 3, an error of at most 0.1 %.
pub const LATENCY_DIGITS: u8 = 3;

pub use recorder::Recorder;

/// Latencies from 1 microsecond to an hour with 3 significant digits; shorter ones count as 1 µs,
/// longer ones as an hour.
#[derive(Debug, Clone)]
pub struct Latency(Histogram<u64>);

/// The percentiles every report shows, in percent.
pub const PERCENTILES: [(f64, &str); 5] =
    [(50.0, "p50"), (90.0, "p90"), (99.0, "p99"), (99.9, "p99.9"), (99.99, "p99.99")];

/// Why a text is no histogram of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct DecodeError(&'static str);

/// Bytes of the header of the compressed form: what it is, and the length of what follows.
const OUTER_HEADER: usize = 8;

/// What the compressed form begins with (`V2CompressedEncodingCookieBase | 0x10` of HdrHistogram's
/// AbstractHistogram.java).
const COMPRESSED_COOKIE: [u8; 4] = 0x1c84_9314_u32.to_be_bytes();

/// Bytes of the header within: what it is, the length of what follows, digits and bounds.
const INNER_HEADER: usize = 40;

/// Latencies that a histogram read from a text holds at most: no machine records so many in its life,
/// and 65,536 such histograms merge without overflow, at which the library's sums would panic or wrap.
const MOST_COUNTED: u64 = 1 << 48;

/// Bytes of one count at most (ZigZag LEB128-64b9B).
const COUNT_BYTES: usize = 9;

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

    /// The whole histogram as text: base64 of HdrHistogram's standard V2 compressed form, which its
    /// packages for other languages read too. A few kilobytes at most.
    pub fn encode(&self) -> Result<String> {
        let mut bytes = Vec::new();
        V2DeflateSerializer::new()
            .serialize(&self.0, &mut bytes)
            .map_err(|e| Error::bug(format!("packing a histogram: {e}")))?;
        Ok(BASE64.encode(bytes))
    }

    /// The histogram that `encode` gave the text of. The text may come from anywhere: whatever it
    /// holds, this takes no more memory than a histogram of ours and its packed form.
    pub fn decode(text: &str) -> std::result::Result<Latency, DecodeError> {
        let empty = Latency::new().map_err(|_| DecodeError("no histogram can be made"))?;
        let most = INNER_HEADER + COUNT_BYTES * empty.0.distinct_values();
        let bytes = BASE64.decode(text).map_err(|_| DecodeError("it is not base64"))?;
        let packed = match bytes.split_at_checked(OUTER_HEADER) {
            Some((header, packed)) if header.starts_with(&COMPRESSED_COOKIE) => {
                let told = (packed.len() as u64).to_be_bytes();
                if header[4..] == told[4..] { packed } else { return Err(DecodeError("it is cut off")) }
            }
            _ => return Err(DecodeError("it is not in HdrHistogram's V2 compressed form")),
        };
        let mut plain = Vec::new();
        let read = ZlibDecoder::new(packed).take(most as u64 + 1).read_to_end(&mut plain);
        read.map_err(|_| DecodeError("it cannot be decompressed"))?;
        if plain.len() > most {
            return Err(DecodeError("it is too large"));
        }
        empty.fits(&plain)?;
        let histogram: Histogram<u64> = Deserializer::new()
            .deserialize(&mut plain.as_slice())
            .map_err(|_| DecodeError("its counts cannot be read"))?;
        let mut counts = histogram.iter_recorded().map(|step| step.count_at_value());
        match counts.try_fold(0, |sum: u64, count| sum.checked_add(count).filter(|sum| *sum <= MOST_COUNTED)) {
            Some(_) => Ok(Latency(histogram)),
            None => Err(DecodeError("it counts more than anyone can have measured")),
        }
    }

    /// Whether an unpacked histogram has our digits and bounds, and lengths and counts that the
    /// library may be shown: it would allocate whatever a header demands.
    fn fits(&self, plain: &[u8]) -> std::result::Result<(), DecodeError> {
        let mut ours = Vec::new();
        V2Serializer::new().serialize(&self.0, &mut ours).map_err(|_| DecodeError("no histogram can be made"))?;
        let (Some((header, counts)), Some((ours, _))) =
            (plain.split_at_checked(INNER_HEADER), ours.split_at_checked(INNER_HEADER))
        else {
            return Err(DecodeError("it is cut off"));
        };
        let told = (counts.len() as u64).to_be_bytes();
        if header[..4] != ours[..4] || header[8..] != ours[8..] {
            return Err(DecodeError("its digits or bounds are not those of this program"));
        }
        // The number of which the library takes the negative, which does not exist.
        let smallest = counts.windows(COUNT_BYTES).any(|bytes| bytes == [0xff; COUNT_BYTES]);
        if header[4..8] != told[4..] || smallest {
            return Err(DecodeError("its counts cannot be read"));
        }
        Ok(())
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
        // One step down, so that 99.9 % of 2,000 are not 1,998.0000000000002 and then 1,999; the Java
        // original does the same.
        self.0.value_at_quantile((percent / 100.0).next_down())
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
        fn percentiles_are_exact_to_three_digits(mut values in prop::collection::vec(1u64..1_000_000_000, 1..3_000)) {
            let latency = of(&values);
            values.sort_unstable();
            for ((percent, _), of_10_000) in PERCENTILES.into_iter().zip([5_000, 9_000, 9_900, 9_990, 9_999]) {
                let exact = values[(values.len() * of_10_000).div_ceil(10_000) - 1];
                let shown = latency.percentile(percent);
                prop_assert!(shown >= exact && shown as f64 <= exact as f64 * 1.001 + 1.0, "{shown} for {exact}");
            }
        }

        #[test]
        fn buckets_hold_everything_once(values in prop::collection::vec(1u64..10_000, 0..200)) {
            let counts = of(&values).buckets(&[10, 100, 1_000]);
            prop_assert_eq!(counts.iter().sum::<u64>(), values.len() as u64);
            prop_assert_eq!(counts[0], values.iter().filter(|v| **v <= 10).count() as u64);
        }
    }

    proptest! {
        /// What was written is read back whole.
        #[test]
        fn decoded_is_what_was_encoded(values in prop::collection::vec(1u64..10_000_000_000, 0..300)) {
            let (latency, read) = (of(&values), Latency::decode(&of(&values).encode().unwrap()).unwrap());
            prop_assert_eq!(&read.0, &latency.0);
            prop_assert_eq!((read.min(), read.max(), read.count()), (latency.min(), latency.max(), latency.count()));
            for (percent, _) in PERCENTILES {
                prop_assert_eq!(read.percentile(percent), latency.percentile(percent));
            }
        }

        /// Whatever stands in a file: an error or a histogram, never a panic.
        #[test]
        fn any_text_is_survived(text: String, bytes: Vec<u8>) {
            prop_assert!(Latency::decode(&text).is_err());
            let _ = Latency::decode(&BASE64.encode(&bytes));
            let _ = Latency::decode(&wrapped(&bytes, 0));
        }

        /// The same with an honest header before any counts, so that they are looked at.
        #[test]
        fn any_counts_are_survived(counts in prop::collection::vec(prop_oneof![any::<u8>(), Just(0xff)], 0..100)) {
            let header = &unpacked(&of(&[]))[..INNER_HEADER];
            let mut plain = [header, &counts].concat();
            plain[4..8].copy_from_slice(&(counts.len() as u32).to_be_bytes());
            let _ = Latency::decode(&wrapped(&plain, 0));
        }

        #[test]
        fn a_text_cut_off_or_changed_is_refused(values in prop::collection::vec(1u64..1_000_000, 1..50), at: prop::sample::Index) {
            let text = of(&values).encode().unwrap();
            prop_assert!(Latency::decode(&text[..at.index(text.len())]).is_err());
            let mut bytes = BASE64.decode(&text).unwrap();
            let at = at.index(bytes.len());
            bytes[at] ^= 1;
            let read = Latency::decode(&BASE64.encode(&bytes));
            // One bit of a compressed stream may say nothing (a window size, an end): it then reads the same.
            prop_assert!(read.is_err() || read.is_ok_and(|read| read.0 == of(&values).0));
        }
    }

    fn unpacked(latency: &Latency) -> Vec<u8> {
        let mut plain = Vec::new();
        V2Serializer::new().serialize(&latency.0, &mut plain).unwrap();
        plain
    }

    /// Any bytes in a sound wrapping, whose length is `off` too large.
    fn wrapped(plain: &[u8], off: u32) -> String {
        use std::io::Write;
        let mut packed = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
        packed.write_all(plain).unwrap();
        let packed = packed.finish().unwrap();
        let length = (packed.len() as u32 + off).to_be_bytes();
        BASE64.encode([&COMPRESSED_COOKIE[..], &length, &packed].concat())
    }

    #[test]
    fn every_lie_is_told_by_its_name() {
        let plain = unpacked(&of(&[1, 2, 3]));
        let with = |at: usize, bytes: &[u8]| {
            let mut changed = plain.clone();
            changed[at..at + bytes.len()].copy_from_slice(bytes);
            wrapped(&changed, 0)
        };
        // 2^63 - 1 twice: together more than the library can add up.
        let endless = [0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
        let endless = [&plain[..4], &18u32.to_be_bytes(), &plain[8..INNER_HEADER], &endless, &endless].concat();
        let smallest = [&plain[..4], &9u32.to_be_bytes(), &plain[8..INNER_HEADER], &[0xff; 9]].concat();
        for (text, words) in [
            ("{}".to_owned(), "not base64"),
            (String::new(), "V2 compressed"),
            (BASE64.encode(&plain), "V2 compressed"),
            (wrapped(&plain, 1), "cut off"),
            (wrapped(&plain[..20], 0), "cut off"),
            (with(4, &u32::MAX.to_be_bytes()), "counts"),
            (with(12, &5u32.to_be_bytes()), "digits or bounds"),
            (with(24, &u64::MAX.to_be_bytes()), "digits or bounds"),
            (wrapped(&vec![0; 1 << 26], 0), "too large"),
            (wrapped(&smallest, 0), "counts"),
            (wrapped(&endless, 0), "than anyone"),
        ] {
            let told = Latency::decode(&text).unwrap_err().to_string();
            assert!(told.contains(words), "{told}, not {words}");
        }
        assert_eq!(Latency::decode(&wrapped(&plain, 0)).unwrap().count(), 3);
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
