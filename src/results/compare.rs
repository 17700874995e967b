//! The change from one result to another: ratios, with the range that the figures of the results' parts permit.

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
    /// The lowest and the highest figure of its shards, of its machines, or of its publications; `None` where fewer than two
    /// have such a figure.
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
    /// The lowest and the highest ratio between any part before and any part after.
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

    /// Whether the figure changed by more than the parts differ; `None` without a range.
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

/// What a reader of the changes must know: that the runs did different things, what is not compared, and which ranges are not
/// over shards or machines.
pub fn remarks(before: &Results, after: &Results) -> Vec<String> {
    let mut remarks: Vec<String> = one_sided(before, after).collect();
    let (before, after) = (&before.client, &after.client);
    if before.fanout.is_some() && after.fanout.is_some() {
        remarks.push("ranges of receipts and of the last subscriber are over the publications".to_owned());
    }
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

/// What only one of the results has, and is not compared.
fn one_sided(before: &Results, after: &Results) -> impl Iterator<Item = String> {
    let parts: [(&str, Of<Results, bool>); 4] = [
        ("the result of a server", |one| one.server.is_some()),
        ("latencies of connects", |one| one.client.latencies.connect.count > 0),
        ("latencies of retransmitted connects", |one| one.client.latencies.retransmitted.count > 0),
        ("latencies of echoes", |one| one.client.latencies.echo.count > 0),
    ];
    parts.into_iter().filter_map(move |(what, has)| match (has(before), has(after)) {
        (true, false) => Some(format!("only before has {what}: nothing is compared with it")),
        (false, true) => Some(format!("only after has {what}: nothing is compared with it")),
        _ => None,
    })
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

/// The figures of two fan-outs. Times have a range over the publications that somebody received. Counts are sums over all
/// publications, and have none.
fn receipts(before: &FanoutDocument, after: &FanoutDocument) -> Vec<Change> {
    type Time = (&'static str, Of<FanoutDocument, u64>, Of<PublicationDocument, u64>);
    let times: [Time; 4] = [
        ("receipt p50", |all| all.latency.p50, |one| one.p50),
        ("receipt p99", |all| all.latency.p99, |one| one.p99),
        ("receipt p99.9", |all| all.latency.p999, |one| one.p999),
        ("last subscriber", |all| all.longest_us, |one| one.last_us),
    ];
    let counts: [(&str, Of<FanoutDocument, u64>); 2] =
        [("missed", |all| all.sum.missed), ("twice", |all| all.sum.twice)];
    let times = times.map(|(name, of_all, of_one)| {
        let figure = |fanout: &FanoutDocument| {
            let received = fanout.publications.iter().filter(|one| one.receipts.received > 0);
            Figure { value: of_all(fanout) as f64, range: range(received.map(|one| of_one(one) as f64)) }
        };
        Change::of(name, Unit::Microseconds, figure(before), figure(after))
    });
    let counts = counts.map(|(name, of)| {
        Change::of(name, Unit::Count, Figure::whole(of(before) as f64), Figure::whole(of(after) as f64))
    });
    times.into_iter().chain(counts).collect()
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
    use std::time::Duration;

    use super::*;
    use crate::latency::Latency;
    use crate::results::ReceiptsDocument;
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

    /// A publication that so many subscribers got and so many missed, the last one after so long.
    fn publication(received: u64, missed: u64, last_us: u64) -> PublicationDocument {
        PublicationDocument {
            number: 0,
            intended_seconds: Some(0.0),
            said_after_us: 0,
            receipts: ReceiptsDocument { expected: received + missed, received, missed, ..Default::default() },
            last_us,
            p50: last_us,
            p90: last_us,
            p99: last_us,
            p999: last_us,
            p9999: last_us,
        }
    }

    fn fanout(publications: Vec<PublicationDocument>) -> FanoutDocument {
        let mut latency = Latency::new().unwrap();
        publications.iter().for_each(|one| latency.record(Duration::from_micros(one.last_us)));
        let sum = |of: Of<ReceiptsDocument, u64>| publications.iter().map(|one| of(&one.receipts)).sum();
        FanoutDocument {
            subscribers: 9,
            publishers: 1,
            payload_bytes: 64,
            period_seconds: 1.0,
            wait_seconds: 1.0,
            exact: false,
            published: publications.len() as u64,
            not_published: 0,
            sum: ReceiptsDocument { missed: sum(|one| one.missed), twice: sum(|one| one.twice), ..Default::default() },
            foreign: 0,
            to_publishers: 0,
            longest_us: publications.iter().map(|one| one.last_us).max().unwrap_or(0),
            latency: LatencyDocument::of(&latency).unwrap(),
            lateness: None,
            publications,
        }
    }

    #[test]
    fn times_of_a_fan_out_have_ranges_over_several_publications_and_sums_have_none() {
        let several = fanout(vec![publication(9, 0, 100), publication(7, 2, 300), publication(0, 9, 0)]);
        let one = fanout(vec![publication(8, 1, 200)]);
        let change = |before: &FanoutDocument, after: &FanoutDocument, name: &str| {
            receipts(before, after).into_iter().find(|change| change.figure == name).unwrap()
        };
        let same = change(&several, &several, "receipt p50");
        assert_eq!((same.before.range, same.is_beyond_range()), (Some((100.0, 300.0)), Some(false)));
        // One publication says nothing of how much publications differ.
        let faster = change(&several, &one, "last subscriber");
        assert_eq!((faster.after.range, faster.is_beyond_range()), (None, None));
        let missed = change(&several, &one, "missed");
        assert_eq!((missed.before.value, missed.after.value), (11.0, 1.0));
        assert_eq!((missed.before.range, missed.is_beyond_range()), (None, None));
    }

    #[test]
    fn nothing_has_no_ratio() {
        let nothing = Figure { value: 0.0, range: Some((0.0, 0.0)) };
        let change = Change::of("it", Unit::Count, nothing, Figure { value: 5.0, range: Some((5.0, 5.0)) });
        assert_eq!((change.ratio, change.ratio_range, change.is_beyond_range()), (None, None, None));
    }
}
