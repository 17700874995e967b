//! HdrHistogram's standard percentile file (`.hgrm`), which its plotter reads. The layout is that of
//! `outputPercentileDistribution` in the Java original; values are in milliseconds.

use std::io::{self, Write};

use crate::latency::{LATENCY_DIGITS, Latency};

/// Rows for each halving of the distance to 100 %, as in the original.
const TICKS: u32 = 5;

/// Microseconds per millisecond.
const SCALE: f64 = 1_000.0;

/// Writes the distribution of `latency`.
pub fn write(latency: &Latency, into: &mut dyn Write) -> io::Result<()> {
    writeln!(into, "{:>12} {:>14} {:>10} {:>14}\n", "Value", "Percentile", "TotalCount", "1/(1-Percentile)")?;
    for (us, quantile, total) in latency.quantile_rows(TICKS) {
        let value = us as f64 / SCALE;
        if quantile < 1.0 {
            writeln!(into, "{value:12.3} {quantile:2.12} {total:10} {:14.2}", 1.0 / (1.0 - quantile))?;
        } else {
            writeln!(into, "{value:12.3} {quantile:2.12} {total:10}")?;
        }
    }
    let (mean, deviation) = latency.mean_and_deviation();
    let (max, count) = (latency.max() as f64 / SCALE, latency.count());
    let sub_buckets = 2 * 10u64.pow(u32::from(LATENCY_DIGITS)).next_power_of_two();
    writeln!(into, "#[Mean    = {:12.3}, StdDeviation   = {:12.3}]", mean / SCALE, deviation / SCALE)?;
    writeln!(into, "#[Max     = {max:12.3}, Total count    = {count:12}]")?;
    writeln!(into, "#[Buckets = {:12}, SubBuckets     = {sub_buckets:12}]", latency.bucket_count())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// The last row counts all latencies; values and quantiles never fall.
    #[test]
    fn rows_ascend_to_the_whole() {
        let mut latency = Latency::new().unwrap();
        (1..=10_000u64).for_each(|us| latency.record(Duration::from_micros(us * 7)));
        let mut bytes = Vec::new();
        write(&latency, &mut bytes).unwrap();
        let text = String::from_utf8(bytes).unwrap();
        let rows: Vec<Vec<f64>> = text
            .lines()
            .skip(2)
            .filter(|line| !line.starts_with('#'))
            .map(|line| line.split_whitespace().map(|word| word.parse().unwrap()).collect())
            .collect();
        assert!(
            rows.windows(2)
                .all(|pair| pair[0][0] <= pair[1][0] && pair[0][1] <= pair[1][1] && pair[0][2] <= pair[1][2])
        );
        assert_eq!(rows.last().unwrap()[1..], [1.0, 10_000.0]);
        assert!(text.contains("#[Max     =") && text.contains("Total count    =        10000]"), "{text}");
    }
}
