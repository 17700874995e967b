//! The axes of a chart: their ends, and the values written beside them.

use crate::format;

/// The approximate number of marks on an axis, at most.
const MARKS: f64 = 6.0;

/// The longest latency that an axis shows, in microseconds. Histograms of this program end below it.
const LONGEST_US: u64 = 4_000_000_000;

/// Steps between two marks of time, in seconds.
const TIME_STEPS: [f64; 17] =
    [0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1_800.0, 3_600.0, 7_200.0, 21_600.0];

/// One axis of a chart.
#[derive(Debug, Clone, PartialEq)]
pub struct Axis {
    /// Its first value.
    pub low: f64,
    /// Its last value.
    pub high: f64,
    /// The marked values, with their text.
    pub marks: Vec<(f64, String)>,
}

/// The smallest of 1, 2, 2.5 and 5 times a power of ten that is not below `least`.
fn round_step(least: f64) -> f64 {
    let power = 10f64.powf(least.log10().floor());
    [1.0, 2.0, 2.5, 5.0].into_iter().map(|digit| digit * power).find(|step| *step >= least).unwrap_or(10.0 * power)
}

fn marks_to(high: f64, step: f64, words: impl Fn(f64) -> String) -> Vec<(f64, String)> {
    let last = (high / step + 1e-6) as u32;
    (0..=last).map(|nth| f64::from(nth) * step).map(|at| (at, words(at))).collect()
}

impl Axis {
    /// From 0 to at least `most`, with round marks.
    fn from_zero(most: f64, least_step: f64, words: impl Fn(f64) -> String) -> Axis {
        let step = round_step((most / MARKS).max(least_step));
        let high = (most / step).ceil().max(1.0) * step;
        Axis { low: 0.0, high, marks: marks_to(high, step, words) }
    }

    /// Whole numbers from 0 to at least `most`.
    pub fn counts(most: f64) -> Axis {
        Axis::from_zero(most, 1.0, |at| format::count(at as u64))
    }

    /// Busy processors from 0 to at least `most`.
    pub fn cores(most: f64) -> Axis {
        Axis::from_zero(most, 0.01, |at| {
            let text = format!("{at:.2}");
            text.trim_end_matches('0').trim_end_matches('.').to_owned()
        })
    }

    /// Bytes from 0 to at least `most`.
    pub fn bytes(most: f64) -> Axis {
        let unit = [40, 30, 20, 10].into_iter().map(|bits| (1u64 << bits) as f64).find(|unit| most >= *unit);
        let (unit, least) = unit.map_or((1.0, 1.0), |unit| (unit, 0.01 * unit));
        // The step is round in the unit of the marks.
        let axis = Axis::from_zero(most / unit, least / unit, |_| String::new());
        let mark = |at: f64| (at * unit, format::bytes((at * unit) as u64).replace(".0 ", " "));
        Axis { low: 0.0, high: axis.high * unit, marks: axis.marks.into_iter().map(|(at, _)| mark(at)).collect() }
    }

    /// Seconds from 0 to exactly `end`.
    pub fn time(end: f64) -> Axis {
        let end = end.max(0.1);
        let most = MARKS + 2.0;
        let step = TIME_STEPS.into_iter().find(|step| end / step <= most);
        let step = step.unwrap_or_else(|| round_step(end / most / 86_400.0) * 86_400.0);
        Axis { low: 0.0, high: end, marks: marks_to(end, step, |at| clock(at, step)) }
    }

    /// Latencies on a logarithmic scale: values are powers of ten of microseconds.
    pub fn latency(least_us: u64, most_us: u64) -> Axis {
        let (least, most) = (least_us.clamp(1, LONGEST_US) as f64, most_us.clamp(2, 2 * LONGEST_US) as f64);
        let digits: &[f64] = if most / least > 300.0 { &[1.0] } else { &[1.0, 2.0, 5.0] };
        let steps: Vec<f64> =
            (0..11).flat_map(|power| digits.iter().map(move |digit| digit * 10f64.powi(power))).collect();
        let low = steps.iter().rev().find(|step| **step <= least).copied().unwrap_or(1.0);
        let high = steps.iter().find(|step| **step >= most && **step > low).copied().unwrap_or(1e10);
        let marks = steps.into_iter().filter(|step| (low..=high).contains(step));
        Axis { low: low.log10(), high: high.log10(), marks: marks.map(|us| (us.log10(), short_time(us))).collect() }
    }

    /// HdrHistogram's axis, on which each further nine of a percentile takes as much room as the one before. It
    /// shows as many nines as `count` latencies can tell apart, and at least one.
    pub fn nines(count: u64) -> Axis {
        let names = ["0 %", "90 %", "99 %", "99.9 %", "99.99 %", "99.999 %", "99.9999 %", "99.99999 %"];
        let high = (count.max(10) as f64).log10().min(7.0);
        let marks = names.into_iter().enumerate().map(|(at, name)| (at as f64, name.to_owned()));
        Axis { low: 0.0, high, marks: marks.filter(|(at, _)| *at <= high + 1e-9).collect() }
    }

    /// The position of a quantile on `nines`; `None` for 100 %, which has no position.
    pub fn at_quantile(quantile: f64) -> Option<f64> {
        (quantile < 1.0).then(|| -(1.0 - quantile).log10())
    }

    /// The text of a mark.
    pub fn words(&self, at: f64) -> String {
        self.marks.iter().find(|(mark, _)| *mark == at).map(|(_, words)| words.clone()).unwrap_or_default()
    }
}

/// A time on an axis whose marks are `step` seconds apart.
fn clock(seconds: f64, step: f64) -> String {
    let whole = (seconds + 0.5) as u64;
    match step {
        step if step < 1.0 => format!("{seconds:.1} s"),
        step if step < 60.0 && seconds < 180.0 => format!("{whole} s"),
        step if step < 60.0 => format!("{}:{:02} min", whole / 60, whole % 60),
        step if step < 3_600.0 => format!("{} min", whole / 60),
        _ => format!("{} h", whole / 3_600),
    }
}

/// A round number of microseconds in the unit that reads best.
fn short_time(us: f64) -> String {
    match us {
        us if us < 1e3 => format!("{us:.0} µs"),
        us if us < 1e6 => format!("{:.0} ms", us / 1e3),
        us => format!("{:.0} s", us / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Each drawn value lies on its axis. The axis has a few marks, all different.
        #[test]
        fn axes_hold_the_drawn_values(most in 0.0f64..1e15, least in 0u64..LONGEST_US, more in 0u64..LONGEST_US) {
            let (low, high) = (least as f64, (least + more) as f64);
            for axis in [Axis::counts(most), Axis::bytes(most), Axis::cores(most / 1e12), Axis::latency(least, least + more)] {
                prop_assert!((2..40).contains(&axis.marks.len()), "{axis:?}");
                prop_assert!(axis.low < axis.high, "{axis:?}");
                let in_order = axis.marks.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 != pair[1].1);
                prop_assert!(in_order, "{axis:?}");
            }
            prop_assert!(Axis::counts(most).high >= most && Axis::bytes(most).high >= most);
            let latency = Axis::latency(least, least + more);
            prop_assert!(latency.low <= low.max(1.0).log10() && latency.high >= high.log10());
            let time = Axis::time(most.min(1e9));
            prop_assert!((1..=10).contains(&time.marks.len()), "{time:?}");
        }
    }

    #[test]
    fn marks_read_well() {
        let words = |axis: Axis| axis.marks.into_iter().map(|(_, words)| words).collect::<Vec<_>>();
        assert_eq!(words(Axis::counts(1_000_000.0)), ["0", "200,000", "400,000", "600,000", "800,000", "1,000,000"]);
        assert_eq!(words(Axis::bytes(5e9)), ["0 B", "1 GiB", "2 GiB", "3 GiB", "4 GiB", "5 GiB"]);
        assert_eq!(words(Axis::time(33.0)), ["0 s", "5 s", "10 s", "15 s", "20 s", "25 s", "30 s"]);
        assert_eq!(words(Axis::latency(80, 3_000_000)), ["10 µs", "100 µs", "1 ms", "10 ms", "100 ms", "1 s", "10 s"]);
        assert_eq!(words(Axis::nines(1_000)), ["0 %", "90 %", "99 %", "99.9 %"]);
        assert_eq!(Axis::at_quantile(0.99).map(|at| at.round()), Some(2.0));
    }
}
