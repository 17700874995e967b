//! HDR histograms of latencies in microseconds. Each shard records its own; they are merged, and never averaged.

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

/// A histogram of latencies from 1 microsecond to one hour, with 3 significant digits. Shorter latencies count as 1
/// µs, longer ones as one hour.
#[derive(Debug, Clone)]
pub struct Latency(Histogram<u64>);

/// The percentiles that every report shows, in percent.
pub const PERCENTILES: [(f64, &str); 5] =
    [(50.0, "p50"), (90.0, "p90"), (99.0, "p99"), (99.9, "p99.9"), (99.99, "p99.99")];

/// The values at the `PERCENTILES`, in microseconds.
pub type Percentiles = [u64; PERCENTILES.len()];

/// Why a text is not a histogram of this program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct DecodeError(&'static str);

/// Bytes of the header of the compressed form: the cookie, and the length of the rest.
const OUTER_HEADER: usize = 8;

/// The cookie at the start of the compressed form (`V2CompressedEncodingCookieBase | 0x10` of HdrHistogram's
/// AbstractHistogram.java).
const COMPRESSED_COOKIE: [u8; 4] = 0x1c84_9314_u32.to_be_bytes();

/// Bytes of the header inside the compressed form: cookie, length of the rest, digits and bounds.
const INNER_HEADER: usize = 40;

/// The most latencies that a decoded histogram may hold. No machine records so many in its life, and 65,536 such
/// histograms merge without an overflow; on overflow the library's sums would panic or wrap.
const MOST_COUNTED: u64 = 1 << 48;

/// The most bytes that one count takes (ZigZag LEB128-64b9B).
const COUNT_BYTES: usize = 9;

impl Latency {
    /// Bytes that a histogram takes, about.
    pub const BYTES: u64 = 180 << 10;

    /// An empty histogram. It takes about 180 KiB, however much is recorded.
    pub fn new() -> Result<Latency> {
        Histogram::new_with_bounds(1, MAX_LATENCY_US, LATENCY_DIGITS)
            .map(Latency)
            .map_err(|e| Error::bug(format!("histogram of 1..{MAX_LATENCY_US} us: {e}")))
    }

    /// Records one latency.
    pub fn record(&mut self, latency: Duration) {
        self.record_many(latency, 1);
    }

    /// Records a latency so many times.
    pub fn record_many(&mut self, latency: Duration, times: u64) {
        let us = u64::try_from(latency.as_micros()).unwrap_or(MAX_LATENCY_US);
        // The histogram would take a value without a record for its least or its greatest.
        if times > 0 {
            self.0.saturating_record_n(us.max(1), times);
        }
    }

    /// Adds every record of another histogram.
    pub fn merge(&mut self, other: &Latency) -> Result<()> {
        self.0.add(&other.0).map_err(|e| Error::bug(format!("merging histograms: {e}")))
    }

    /// The whole histogram as text: base64 of HdrHistogram's standard V2 compressed form, a few kilobytes at most.
    /// HdrHistogram's packages for other languages read it too.
    pub fn encode(&self) -> Result<String> {
        let mut bytes = Vec::new();
        V2DeflateSerializer::new()
            .serialize(&self.0, &mut bytes)
            .map_err(|e| Error::bug(format!("packing a histogram: {e}")))?;
        Ok(BASE64.encode(bytes))
    }

    /// Reads the text that `encode` made. The text may come from anywhere: whatever it holds, reading it takes no
    /// more memory than one histogram and its packed form.
    pub fn decode(text: &str) -> std::result::Result<Latency, DecodeError> {
        let empty = Latency::new().map_err(|_| DecodeError("no histogram can be made"))?;
        let most = INNER_HEADER + COUNT_BYTES * empty.0.distinct_values();
        let bytes = BASE64.decode(text).map_err(|_| DecodeError("it is not base64"))?;
        let packed = match bytes.split_at_checked(OUTER_HEADER) {
            Some((header, packed)) if header.starts_with(&COMPRESSED_COOKIE) => {
                let length = (packed.len() as u64).to_be_bytes();
                if header[4..] == length[4..] { packed } else { return Err(DecodeError("it is cut off")) }
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

    /// Checks that an unpacked histogram has our digits and bounds, and that its lengths and counts are safe for
    /// the library: the library allocates whatever a header demands.
    fn fits(&self, plain: &[u8]) -> std::result::Result<(), DecodeError> {
        let mut ours = Vec::new();
        V2Serializer::new().serialize(&self.0, &mut ours).map_err(|_| DecodeError("no histogram can be made"))?;
        let (Some((header, counts)), Some((ours, _))) =
            (plain.split_at_checked(INNER_HEADER), ours.split_at_checked(INNER_HEADER))
        else {
            return Err(DecodeError("it is cut off"));
        };
        let length = (counts.len() as u64).to_be_bytes();
        if header[..4] != ours[..4] || header[8..] != ours[8..] {
            return Err(DecodeError("its digits or bounds are not those of this program"));
        }
        // The library negates this number, and its negative does not exist.
        let smallest = counts.windows(COUNT_BYTES).any(|bytes| bytes == [0xff; COUNT_BYTES]);
        if header[4..8] != length[4..] || smallest {
            return Err(DecodeError("its counts cannot be read"));
        }
        Ok(())
    }

    /// Number of latencies recorded.
    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// The smallest latency in microseconds; 0 when empty.
    pub fn min(&self) -> u64 {
        if self.count() == 0 { 0 } else { self.0.min() }
    }

    /// The largest latency in microseconds; 0 when empty.
    pub fn max(&self) -> u64 {
        self.0.max()
    }

    /// The latency in microseconds that `percent` percent do not exceed; 0 when empty.
    pub fn percentile(&self, percent: f64) -> u64 {
        // One step down, so that 99.9 % of 2,000 does not become 1,998.0000000000002 and then 1,999. The Java
        // original does the same.
        self.0.value_at_quantile((percent / 100.0).next_down())
    }

    /// The latencies at the `PERCENTILES`.
    pub fn percentiles(&self) -> Percentiles {
        PERCENTILES.map(|(percent, _)| self.percentile(percent))
    }

    /// Mean and standard deviation in microseconds, for the `.hgrm` footer.
    pub fn mean_and_deviation(&self) -> (f64, f64) {
        (self.0.mean(), self.0.stdev())
    }

    /// Number of buckets of the underlying histogram, for the `.hgrm` footer.
    pub fn bucket_count(&self) -> u8 {
        self.0.buckets()
    }

    /// Counts between ascending bounds in microseconds: `counts[i]` counts latencies above `bounds[i - 1]` up to
    /// and including `bounds[i]`. One more count is for latencies above the last bound.
    pub fn buckets(&self, bounds: &[u64]) -> Vec<u64> {
        let mut counts = vec![0; bounds.len() + 1];
        for step in self.0.iter_recorded() {
            let at = bounds.partition_point(|b| *b < step.value_iterated_to());
            counts[at] += step.count_since_last_iteration();
        }
        counts
    }

    /// The rows of the standard percentile file: value, quantile, and total count up to it. There are `ticks` rows
    /// for each halving of the distance to 100 %.
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
        /// Merged histograms of shards equal one histogram of all latencies.
        #[test]
        fn merged_histograms_equal_one_of_everything(
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
        fn buckets_hold_each_latency_once(values in prop::collection::vec(1u64..10_000, 0..200)) {
            let counts = of(&values).buckets(&[10, 100, 1_000]);
            prop_assert_eq!(counts.iter().sum::<u64>(), values.len() as u64);
            prop_assert_eq!(counts[0], values.iter().filter(|v| **v <= 10).count() as u64);
        }
    }

    proptest! {
        /// A decoded histogram equals the encoded one.
        #[test]
        fn a_decoded_histogram_is_the_encoded_one(values in prop::collection::vec(1u64..10_000_000_000, 0..300)) {
            let (latency, read) = (of(&values), Latency::decode(&of(&values).encode().unwrap()).unwrap());
            prop_assert_eq!(&read.0, &latency.0);
            prop_assert_eq!((read.min(), read.max(), read.count()), (latency.min(), latency.max(), latency.count()));
            for (percent, _) in PERCENTILES {
                prop_assert_eq!(read.percentile(percent), latency.percentile(percent));
            }
        }

        /// Any text gives an error or a histogram, never a panic.
        #[test]
        fn decoding_survives_any_text(text: String, bytes: Vec<u8>) {
            prop_assert!(Latency::decode(&text).is_err());
            let _ = Latency::decode(&BASE64.encode(&bytes));
            let _ = Latency::decode(&wrapped(&bytes, 0));
        }

        /// A valid header comes before arbitrary counts, so that the counts are read.
        #[test]
        fn decoding_survives_any_counts(counts in prop::collection::vec(prop_oneof![any::<u8>(), Just(0xff)], 0..100)) {
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
            // A changed bit of a compressed stream may have no meaning (a window size, an end): the text then reads
            // the same.
            prop_assert!(read.is_err() || read.is_ok_and(|read| read.0 == of(&values).0));
        }
    }

    fn unpacked(latency: &Latency) -> Vec<u8> {
        let mut plain = Vec::new();
        V2Serializer::new().serialize(&latency.0, &mut plain).unwrap();
        plain
    }

    /// Arbitrary bytes in a valid wrapping, whose stated length is `off` too large.
    fn wrapped(plain: &[u8], off: u32) -> String {
        use std::io::Write;
        let mut packed = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
        packed.write_all(plain).unwrap();
        let packed = packed.finish().unwrap();
        let length = (packed.len() as u32 + off).to_be_bytes();
        BASE64.encode([&COMPRESSED_COOKIE[..], &length, &packed].concat())
    }

    #[test]
    fn each_defect_of_a_text_has_an_error_of_its_own() {
        let plain = unpacked(&of(&[1, 2, 3]));
        let with = |at: usize, bytes: &[u8]| {
            let mut changed = plain.clone();
            changed[at..at + bytes.len()].copy_from_slice(bytes);
            wrapped(&changed, 0)
        };
        // The count 2^63 - 1 twice: their sum overflows in the library.
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
            let error = Latency::decode(&text).unwrap_err().to_string();
            assert!(error.contains(words), "{error}, not {words}");
        }
        assert_eq!(Latency::decode(&wrapped(&plain, 0)).unwrap().count(), 3);
    }

    #[test]
    fn what_was_recorded_no_time_is_neither_the_least_nor_the_greatest() {
        let mut latency = of(&[300]);
        latency.record_many(Duration::ZERO, 0);
        latency.record_many(Duration::MAX, 0);
        assert_eq!((latency.min(), latency.max(), latency.count()), (300, 300, 1));
    }

    #[test]
    fn latencies_out_of_range_are_still_counted() {
        let mut latency = of(&[]);
        latency.record(Duration::ZERO);
        latency.record(Duration::from_secs(1_000_000));
        assert_eq!(latency.count(), 2);
        assert_eq!(latency.min(), 1);
        assert!(latency.max() >= MAX_LATENCY_US);
    }
}
