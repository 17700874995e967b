//! The change from one result to another: ratios, with the range that the shards' figures permit.

use serde::Serialize;

use super::document::{ClientDocument, LatencyDocument, LatencyOf, Results};
use super::{FanoutDocument, PublicationDocument};

/// The unit of a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// A plain number.
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
    /// The figure of the whole result.
    pub value: f64,
    /// The lowest and the highest figure of its shards, or of its machines; `None` where they have no such figure.
    pub range: Option<(f64, f64)>,
}

impl Figure {
    /// The figure of a whole whose parts have none.
    fn whole(value: f64) -> Figure {
        Figure { value, range: None }
    }
}

/// The change of a figure.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Change {
    /// The figure's name.
    pub figure: String,
    /// The figure's unit.
    pub unit: Unit,
    /// The figure in the earlier result.
    pub before: Figure,
    /// The figure in the later result.
    pub after: Figure,
    /// The later figure divided by the earlier one; `None` if the earlier one is 0.
    pub ratio: Option<f64>,
    /// The lowest and the highest ratio between any shard before and any shard after.
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

    /// Whether the figure changed by more than the shards differ; `None` without a range.
    pub fn is_beyond_range(&self) -> Option<bool> {
        self.ratio_range.map(|(least, most)| least > 1.0 || most < 1.0)
    }
}

/// The change of each figure that both results have.
pub fn compare(before: &Results, after: &Results) -> Vec<Change> {
    let clients = (&before.client, &after.client);
    let mut changes = totals(clients.0, clients.1);
    let measures: [(&str, LatencyOf); 3] =
        [("connect", |all| &all.connect), ("retransmitted", |all| &all.retransmitted), ("echo", |all| &all.echo)];
    for (name, which) in measures {
        // Echo latencies of messages cannot be compared with those of audits.
        let same = name != "echo" || clients.0.echo_source == clients.1.echo_source;
        if same && [clients.0, clients.1].iter().all(|one| which(&one.latencies).count > 0) {
            changes.extend(percentiles(name, clients, which));
        }
    }
    if let (Some(before), Some(after)) = (&clients.0.fanout, &clients.1.fanout) {
        changes.extend(receipts(before, after));
    }
    if let (Some(before), Some(after)) = (&before.server, &after.server) {
        changes.extend([
            Change::of(
                "server resident",
                Unit::Bytes,
                Figure::whole(before.resident_bytes as f64),
                Figure::whole(after.resident_bytes as f64),
            ),
            Change::of(
                "server cpu",
                Unit::Seconds,
                Figure::whole(before.cpu_user_seconds + before.cpu_system_seconds),
                Figure::whole(after.cpu_user_seconds + after.cpu_system_seconds),
            ),
        ]);
    }
    changes
}

/// What a reader of the changes must know: that the runs did different things, and what is not compared.
pub fn remarks(before: &ClientDocument, after: &ClientDocument) -> Vec<String> {
    let mut remarks = Vec::new();
    let (did, does) = (kind(before), kind(after));
    if did != does {
        remarks
            .push(format!("before is the result of {did}, after that of {does}: figures differ by what they did too"));
    }
    let [spoke, speaks] = [before, after].map(speech);
    if spoke != speaks {
        remarks.push(format!("before spoke {spoke}, after {speaks}: figures differ by what was spoken too"));
    }
    if before.paced != after.paced {
        let [did, does] = [before, after].map(|one| if one.paced { "paced" } else { "not paced" });
        remarks.push(format!(
            "connects were {did} before, and {does} after: the latency of paced ones counts from their intended start"
        ));
    }
    // Results of an earlier version do not tell their proof.
    if before.proof != after.proof && [before, after].iter().all(|one| !one.proof.is_empty()) {
        let [did, does] = [before, after].map(|one| &one.proof);
        remarks.push(format!(
            "the proof of a connection is {did} before, and {does} after: echo latencies differ by who answered too"
        ));
    }
    if before.echo_source != after.echo_source {
        let [did, does] = [before, after].map(|one| one.echo_source.name());
        remarks.push(format!("echo latencies are those of {did} before, and of {does} after: they are not compared"));
    }
    remarks
}

/// What a run did.
fn kind(document: &ClientDocument) -> String {
    match (&document.storm, &document.fanout) {
        (Some(storm), _) => format!("a storm ({})", storm.scenario),
        (None, Some(_)) => "a fan-out".to_owned(),
        (None, None) => "a client".to_owned(),
    }
}

/// What a run's connections spoke.
fn speech(document: &ClientDocument) -> String {
    let protocol = if document.protocol.is_empty() { "raw" } else { &document.protocol };
    let over = if document.tls.is_some() { " over TLS" } else { "" };
    format!("{protocol}{over}")
}

/// Reads one figure of a whole that has several.
type Of<Whole, Value> = fn(&Whole) -> Value;

fn totals(before: &ClientDocument, after: &ClientDocument) -> Vec<Change> {
    let figures: [(&str, Unit, Of<ClientDocument, f64>); 5] = [
        ("live", Unit::Count, |one| one.live as f64),
        ("failed", Unit::Count, |one| one.failed as f64),
        ("connects/s", Unit::Count, |one| one.connects_per_second),
        ("ramp", Unit::Seconds, |one| one.ramp_seconds),
        ("close", Unit::Seconds, |one| one.close_seconds),
    ];
    figures.map(|(name, unit, of)| Change::of(name, unit, Figure::whole(of(before)), Figure::whole(of(after)))).to_vec()
}

/// The figures of two fan-outs, with the range over their publications.
fn receipts(before: &FanoutDocument, after: &FanoutDocument) -> Vec<Change> {
    type Both = (&'static str, Of<FanoutDocument, u64>, Of<PublicationDocument, u64>);
    let times: [Both; 4] = [
        ("receipt p50", |all| all.latency.p50, |one| one.p50),
        ("receipt p99", |all| all.latency.p99, |one| one.p99),
        ("receipt p99.9", |all| all.latency.p999, |one| one.p999),
        ("last subscriber", |all| all.longest_us, |one| one.last_us),
    ];
    let counts: [Both; 2] = [
        ("missed", |all| all.sum.missed, |one| one.receipts.missed),
        ("twice", |all| all.sum.twice, |one| one.receipts.twice),
    ];
    let times = times.into_iter().map(|figure| (Unit::Microseconds, figure));
    let all = times.chain(counts.into_iter().map(|figure| (Unit::Count, figure)));
    let change = |(unit, (name, of_all, of_one)): (Unit, Both)| {
        let figure = |fanout: &FanoutDocument| {
            let each = || fanout.publications.iter().filter(|one| one.receipts.received > 0).map(of_one);
            let range = each().min().zip(each().max()).map(|(least, most)| (least as f64, most as f64));
            Figure { value: of_all(fanout) as f64, range }
        };
        Change::of(name, unit, figure(before), figure(after))
    };
    all.map(change).collect()
}

fn percentiles(name: &str, (before, after): (&ClientDocument, &ClientDocument), which: LatencyOf) -> Vec<Change> {
    let figures: [(&str, Of<LatencyDocument, u64>); 6] = [
        ("p50", |one| one.p50),
        ("p90", |one| one.p90),
        ("p99", |one| one.p99),
        ("p99.9", |one| one.p999),
        ("p99.99", |one| one.p9999),
        ("max", |one| one.max),
    ];
    let change = |(figure, of): (&str, Of<LatencyDocument, u64>)| {
        let seen = |document: &ClientDocument| {
            let parts = document.parts().1.into_iter().map(|(_, part)| which(part));
            let range = range(parts.filter(|one| one.count > 0).map(|one| of(one) as f64));
            Figure { value: of(which(&document.latencies)) as f64, range }
        };
        Change::of(format!("{name} {figure}"), Unit::Microseconds, seen(before), seen(after))
    };
    figures.into_iter().map(change).collect()
}

/// The lowest and the highest value; `None` for fewer than two values.
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
        /// The ratio lies within its range. The ratios of a change and of the reverse change multiply to 1.
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
