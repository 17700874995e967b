//! What changed from one result to another: ratios, with the range that the shards leave open.

use serde::Serialize;

use super::document::{ClientDocument, Latencies, LatencyDocument, Results, Which};

/// What a number counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// Things.
    Count,
    /// Seconds.
    Seconds,
    /// Microseconds.
    Microseconds,
    /// Bytes.
    Bytes,
}

/// A figure of one result.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Figure {
    /// Of the whole.
    pub value: f64,
    /// The least and the most of its shards, or of its machines; `None` where they have none of their
    /// own.
    pub range: Option<(f64, f64)>,
}

/// What became of a figure.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Change {
    /// Its name.
    pub figure: String,
    /// What it counts.
    pub unit: Unit,
    /// In the earlier result.
    pub before: Figure,
    /// In the later one.
    pub after: Figure,
    /// The later for each of the earlier; `None` where that was 0.
    pub ratio: Option<f64>,
    /// The least and the most that it comes to between any shard before and any after.
    pub ratio_range: Option<(f64, f64)>,
}

impl Change {
    fn of(figure: impl Into<String>, unit: Unit, before: Figure, after: Figure) -> Change {
        let per = |after: f64, before: f64| (before > 0.0).then(|| after / before);
        let ratio_range = before.range.zip(after.range).and_then(|((least, most), (least_after, most_after))| {
            Some((per(least_after, most)?, per(most_after, least)?))
        });
        Change { figure: figure.into(), unit, before, after, ratio: per(after.value, before.value), ratio_range }
    }

    /// Whether it changed by more than shards differ; `None` where no range tells.
    pub fn is_beyond_range(&self) -> Option<bool> {
        self.ratio_range.map(|(least, most)| least > 1.0 || most < 1.0)
    }
}

/// Everything that both results have.
pub fn compare(before: &Results, after: &Results) -> Vec<Change> {
    let clients = (&before.client, &after.client);
    let mut changes = totals(clients.0, clients.1);
    let measures: [(&str, Which); 3] =
        [("connect", |all| &all.connect), ("retransmitted", |all| &all.retransmitted), ("echo", |all| &all.echo)];
    for (name, which) in measures {
        // Echoes of messages and of audits are not the same.
        let same = name != "echo" || clients.0.echo_source == clients.1.echo_source;
        if same && [clients.0, clients.1].iter().all(|one| which(&one.latencies).count > 0) {
            changes.extend(percentiles(name, clients, which));
        }
    }
    if let (Some(before), Some(after)) = (&before.server, &after.server) {
        let whole = |value| Figure { value, range: None };
        let cpu = |user: f64, system: f64| whole(user + system);
        changes.extend([
            Change::of(
                "server resident",
                Unit::Bytes,
                whole(before.resident_bytes as f64),
                whole(after.resident_bytes as f64),
            ),
            Change::of(
                "server cpu",
                Unit::Seconds,
                cpu(before.cpu_user_seconds, before.cpu_system_seconds),
                cpu(after.cpu_user_seconds, after.cpu_system_seconds),
            ),
        ]);
    }
    changes
}

/// One figure of what holds several.
type Of<Whole, Value> = fn(&Whole) -> Value;

fn totals(before: &ClientDocument, after: &ClientDocument) -> Vec<Change> {
    let whole = |value| Figure { value, range: None };
    let figures: [(&str, Unit, Of<ClientDocument, f64>); 5] = [
        ("live", Unit::Count, |one| one.live as f64),
        ("failed", Unit::Count, |one| one.failed as f64),
        ("connects/s", Unit::Count, |one| one.connects_per_second),
        ("ramp", Unit::Seconds, |one| one.ramp_seconds),
        ("close", Unit::Seconds, |one| one.close_seconds),
    ];
    figures.map(|(name, unit, of)| Change::of(name, unit, whole(of(before)), whole(of(after)))).to_vec()
}

fn percentiles(name: &str, (before, after): (&ClientDocument, &ClientDocument), which: Which) -> Vec<Change> {
    let figures: [(&str, Of<LatencyDocument, u64>); 6] = [
        ("p50", |one| one.p50),
        ("p90", |one| one.p90),
        ("p99", |one| one.p99),
        ("p99.9", |one| one.p999),
        ("p99.99", |one| one.p9999),
        ("max", |one| one.max),
    ];
    let change = |(figure, of): (&str, Of<LatencyDocument, u64>)| {
        let seen = |document: &ClientDocument| Figure {
            value: of(which(&document.latencies)) as f64,
            range: range(parts(document).into_iter().map(which).filter(|one| one.count > 0).map(|one| of(one) as f64)),
        };
        Change::of(format!("{name} {figure}"), Unit::Microseconds, seen(before), seen(after))
    };
    figures.into_iter().map(change).collect()
}

/// The parts of a result that measured on their own.
fn parts(document: &ClientDocument) -> Vec<&Latencies> {
    let shards = document.shards.iter().map(|shard| &shard.latencies);
    shards.chain(document.machines.iter().map(|one| &one.result.latencies)).collect()
}

/// The least and the most; `None` of less than two.
fn range(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    let values: Vec<f64> = values.collect();
    let ends = values.iter().fold((f64::MAX, f64::MIN), |(least, most), value| (least.min(*value), most.max(*value)));
    (values.len() > 1).then_some(ends)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn figure() -> impl Strategy<Value = Figure> {
        prop::collection::vec(1.0f64..1e9, 2..6).prop_map(|parts| {
            let value = parts.iter().sum::<f64>() / parts.len() as f64;
            Figure { value, range: range(parts.into_iter()) }
        })
    }

    proptest! {
        /// What lies between the shards of each has a ratio between the ends of the range; there and
        /// back again is where it began.
        #[test]
        fn the_ratio_lies_in_its_range(before in figure(), after in figure()) {
            let there = Change::of("it", Unit::Count, before, after);
            let (ratio, (least, most)) = (there.ratio.unwrap(), there.ratio_range.unwrap());
            prop_assert!(least <= ratio * (1.0 + 1e-9) && ratio <= most * (1.0 + 1e-9), "{there:?}");
            let back = Change::of("it", Unit::Count, after, before);
            prop_assert!((back.ratio.unwrap() * ratio - 1.0).abs() < 1e-9);
            prop_assert_eq!(back.is_beyond_range(), there.is_beyond_range());
            let same = Change::of("it", Unit::Count, before, before);
            prop_assert_eq!((same.ratio, same.is_beyond_range()), (Some(1.0), Some(false)));
        }
    }

    #[test]
    fn nothing_has_no_ratio() {
        let nothing = Figure { value: 0.0, range: Some((0.0, 0.0)) };
        let change = Change::of("it", Unit::Count, nothing, Figure { value: 5.0, range: Some((5.0, 5.0)) });
        assert_eq!((change.ratio, change.ratio_range, change.is_beyond_range()), (None, None, None));
    }
}
