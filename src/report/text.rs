//! What a person reads: tables, a histogram, failures with their sentences.

use std::fmt::Write;

use super::{AuditResult, ServerSummary, ShardSummary, Summary};
use crate::error::Result;
use crate::latency::{Latency, PERCENTILES};

/// Width of the longest bar of a histogram, in characters.
const BAR: usize = 40;

/// A whole client run. Writing to a String cannot fail, so the results of `writeln!` are dropped.
pub fn client(summary: &Summary) -> Result<String> {
    let mut out = String::new();
    let _ = writeln!(
        out,
        "\n{} requested = {} live + {} failed + {} not tried",
        count(summary.requested),
        count(summary.live()),
        count(summary.failed()),
        count(summary.not_tried())
    );
    let rate = count(summary.connects_per_second() as u64);
    let (ramp, close) = (summary.ramp.as_secs_f64(), summary.close.as_secs_f64());
    let _ = writeln!(out, "ramp {ramp:.1} s, {rate} connects/s; close {close:.1} s");
    for audit in &summary.audits {
        let _ = writeln!(out, "{}", self::audit(audit));
    }
    latencies(&mut out, summary, "connect latency", |shard| &shard.connect)?;
    if summary.paced {
        latencies(&mut out, summary, "connect latency from the actual start (uncorrected)", |shard| {
            &shard.connect_service
        })?;
    }
    histogram(&mut out, &summary.merged(|shard| &shard.connect)?);
    let retransmitted = summary.merged(|shard| &shard.retransmitted)?;
    if retransmitted.count() > 0 {
        let _ = writeln!(
            out,
            "\n{} connects needed a retransmission and are not in the table above: the host dropped a SYN or an ACK",
            count(retransmitted.count())
        );
        latencies(&mut out, summary, "retransmitted connects", |shard| &shard.retransmitted)?;
    }
    let (source, echo) = summary.echo_source();
    latencies(&mut out, summary, &format!("echo latency ({source})"), echo)?;
    if source == "messages" {
        latencies(&mut out, summary, "echo latency from the actual start (uncorrected)", |shard| &shard.echo_service)?;
    }
    failures(&mut out, summary);
    Ok(out)
}

/// One line for an audit.
pub fn audit(audit: &AuditResult) -> String {
    let AuditResult { round, live, lost, wrong } = audit;
    format!("audit {round}: {} live, {} lost, {} wrong", count(*live), count(*lost), count(*wrong))
}

/// A server's totals.
pub fn server(summary: &ServerSummary) -> String {
    let total = summary.total();
    let mut out = format!(
        "accepted {}, closed {}, refused {}, slow readers {}, messages {}, {} received, {} sent\n",
        count(total.opened),
        count(total.closed),
        count(total.refused),
        count(total.slow_readers),
        count(total.messages),
        bytes(total.bytes_in),
        bytes(total.bytes_out),
    );
    let _ = writeln!(
        out,
        "most live at once {}, resident at most {}, cpu {:.1} s user + {:.1} s system",
        count(summary.peak_live),
        bytes(summary.resident_bytes),
        summary.cpu_seconds.0,
        summary.cpu_seconds.1
    );
    out
}

fn latencies(out: &mut String, summary: &Summary, title: &str, which: fn(&ShardSummary) -> &Latency) -> Result<()> {
    if summary.merged(which)?.count() == 0 {
        return Ok(());
    }
    let _ = write!(out, "\n{title}\n{:>6}  {:>11}  {:>8}", "shard", "count", "min");
    for (_, name) in PERCENTILES {
        let _ = write!(out, "  {name:>8}");
    }
    let _ = writeln!(out, "  {:>8}", "max");
    for (index, shard) in summary.shards.iter().enumerate() {
        row(out, &index.to_string(), which(shard));
    }
    row(out, "all", &summary.merged(which)?);
    Ok(())
}

fn row(out: &mut String, name: &str, latency: &Latency) {
    let _ = write!(out, "{name:>6}  {:>11}  {:>8}", count(latency.count()), time(latency.min()));
    for (percent, _) in PERCENTILES {
        let _ = write!(out, "  {:>8}", time(latency.percentile(percent)));
    }
    let _ = writeln!(out, "  {:>8}", time(latency.max()));
}

/// Bars over bounds of 1, 2 and 5 times powers of ten.
fn histogram(out: &mut String, latency: &Latency) {
    let bounds: Vec<u64> = (0..10).flat_map(|power| [1, 2, 5].map(|digit| digit * 10u64.pow(power))).collect();
    let counts = latency.buckets(&bounds);
    let (Some(first), Some(last)) = (counts.iter().position(|n| *n > 0), counts.iter().rposition(|n| *n > 0)) else {
        return;
    };
    let most = counts.iter().copied().max().unwrap_or(1).max(1);
    let _ = writeln!(out);
    for (at, number) in counts.iter().enumerate().take(last + 1).skip(first) {
        let label = match bounds.get(at) {
            Some(bound) => format!("up to {:>6}", time(*bound)),
            None => "more        ".to_owned(),
        };
        let bar = (u128::from(*number) * BAR as u128).div_ceil(u128::from(most)) as usize;
        let share = *number as f64 * 100.0 / latency.count() as f64;
        let _ = writeln!(out, "  {label} {:<BAR$} {share:6.2} %  {}", "█".repeat(bar), count(*number));
    }
}

fn failures(out: &mut String, summary: &Summary) {
    let causes = summary.causes();
    if !causes.is_empty() {
        let _ = writeln!(out, "\nfailures by cause");
    }
    for (cause, number) in causes {
        let _ = writeln!(out, "  {:>11}  {}: {}", count(number), cause.name(), cause.sentence());
    }
    let moved: Vec<String> = summary
        .counters
        .iter()
        .filter(|(_, delta)| **delta > 0)
        .map(|(name, delta)| format!("{name} +{}", count(*delta)))
        .collect();
    if !moved.is_empty() {
        let _ = writeln!(out, "\ncounters of this host that moved: {}", moved.join(", "));
    }
}

/// A number with thousands separated.
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Microseconds in the unit that reads best, with three digits.
pub fn time(us: u64) -> String {
    let digits = |value: f64, unit: &str| match value {
        v if v < 9.995 => format!("{v:.2}{unit}"),
        v if v < 99.95 => format!("{v:.1}{unit}"),
        v => format!("{v:.0}{unit}"),
    };
    match us {
        0..=999 => format!("{us}us"),
        1_000..=999_499 => digits(us as f64 / 1e3, "ms"),
        _ => digits(us as f64 / 1e6, "s"),
    }
}

/// Bytes in the unit that reads best.
pub fn bytes(number: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = number as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{number} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn numbers_read_well() {
        assert_eq!([0, 999, 1_000, 1_000_000].map(count), ["0", "999", "1,000", "1,000,000"]);
        assert_eq!(
            [7, 999, 1_000, 12_345, 999_499, 1_003_000].map(time),
            ["7us", "999us", "1.00ms", "12.3ms", "999ms", "1.00s"]
        );
        assert_eq!([0, 1023, 1024, 64 << 20].map(bytes), ["0 B", "1023 B", "1.0 KiB", "64.0 MiB"]);
    }

    #[test]
    fn a_histogram_shows_every_record() {
        let mut latency = Latency::new().unwrap();
        [3, 30, 31, 32, 3_000].iter().for_each(|us| latency.record(Duration::from_micros(*us)));
        let mut out = String::new();
        histogram(&mut out, &latency);
        assert!(out.contains("up to    5us") && out.contains("up to   50us") && out.contains("60.00 %  3"), "{out}");
        assert_eq!(out.lines().filter(|line| line.contains('%')).count(), 10, "{out}");
    }
}
