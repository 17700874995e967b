//! The result of a fan-out: which subscribers got which publication, and when.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::check::{self, Checked, CountOf};
use super::document::LatencyDocument;
use super::{ShardSummary, Summary};
use crate::error::Result;
use crate::latency::{Latency, Percentiles};

/// What became of one publication at the subscribers of a shard, or of all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Receipts {
    /// Subscribers that were live when it was published.
    pub expected: u64,
    /// Those of them that got it before its time was over.
    pub received: u64,
    /// Those that were lost before they got it.
    pub lost: u64,
    /// Those that live on and did not get it in time.
    pub missed: u64,
    /// Those that got it twice or more. After the publication is complete each further receipt counts as one.
    pub twice: u64,
    /// Receipts beyond a subscriber's first.
    pub extra: u64,
    /// Those of them of which the server said that it may have sent them before (DUP of MQTT).
    pub repeated: u64,
    /// Receipts after its time was over. It is not known whether they are a subscriber's first.
    pub late: u64,
    /// Subscribers that got it after the next publication of the same publisher.
    pub out_of_order: u64,
    /// From its intended instant to the last subscriber's first receipt.
    pub last: Duration,
}

impl Receipts {
    fn and(self, other: &Receipts) -> Receipts {
        Receipts {
            expected: self.expected + other.expected,
            received: self.received + other.received,
            lost: self.lost + other.lost,
            missed: self.missed + other.missed,
            twice: self.twice + other.twice,
            extra: self.extra + other.extra,
            repeated: self.repeated + other.repeated,
            late: self.late + other.late,
            out_of_order: self.out_of_order + other.out_of_order,
            last: self.last.max(other.last),
        }
    }

    /// Whether every subscriber that lives on got it exactly once.
    fn is_exact(&self) -> bool {
        self.received + self.lost == self.expected && self.twice == 0 && self.late == 0
    }
}

/// When a publication was to be published and was, since the first one was due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Published {
    /// When it should have been.
    pub intended: Duration,
    /// When it was handed to its publisher's connection.
    pub said: Duration,
}

/// What the subscribers of one shard received.
#[derive(Debug, Clone, Default)]
pub struct ShardFanout {
    /// Of each publication from the first on, as far as the shard heard of them.
    pub receipts: Vec<Receipts>,
    /// Publications of other runs that came.
    pub foreign: u64,
    /// Publications that came to publishers.
    pub to_publishers: u64,
}

/// A fan-out as the leader of the shards sees it.
#[derive(Debug, Clone)]
pub struct FanoutSummary {
    /// Connections that subscribe.
    pub subscribers: u64,
    /// Connections that publish.
    pub publishers: u64,
    /// The time between two publications.
    pub period: Duration,
    /// How long a receipt may take.
    pub wait: Duration,
    /// Bytes of a publication.
    pub payload: u32,
    /// When each publication was published; `None` if it was not.
    pub published: Vec<Option<Published>>,
    /// The percentiles of each publication that a subscriber received, in microseconds.
    pub figures: BTreeMap<u32, Percentiles>,
    /// The latencies of all receipts, from the intended instant of their publication.
    pub latency: Latency,
}

impl FanoutSummary {
    /// Whether each publication was published, and was received exactly once by every subscriber that lives on.
    pub fn is_exact(&self, shards: &[ShardSummary]) -> bool {
        let mut receipts = self.receipts(shards).into_iter();
        self.published.iter().all(|published| published.is_some() && receipts.next().is_some_and(|one| one.is_exact()))
    }

    /// What became of each publication at all subscribers.
    fn receipts(&self, shards: &[ShardSummary]) -> Vec<Receipts> {
        let mut all = vec![Receipts::default(); self.published.len()];
        for shard in shards.iter().filter_map(|shard| shard.fanout.as_ref()) {
            all.iter_mut().zip(&shard.receipts).for_each(|(sum, one)| *sum = sum.and(one));
        }
        all
    }
}

/// A fan-out in a client's result.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FanoutDocument {
    /// Connections that were to subscribe.
    pub subscribers: u64,
    /// Connections that were to publish.
    pub publishers: u64,
    /// Bytes of the payload of a publication.
    pub payload_bytes: u32,
    /// Time between two publications.
    pub period_seconds: f64,
    /// The longest that a receipt may take to count.
    pub wait_seconds: f64,
    /// Whether each publication was published, and was received exactly once by every subscriber that was not lost.
    pub exact: bool,
    /// Publications that were published.
    pub published: u64,
    /// Publications that were not: their publisher was gone, or could not take them in time, or the run was stopped.
    pub not_published: u64,
    /// The sums over all publications.
    #[serde(flatten)]
    pub sum: ReceiptsDocument,
    /// Publications of other runs that came.
    pub foreign: u64,
    /// Publications that came to publishers.
    pub to_publishers: u64,
    /// The longest time from a publication's intended instant to its last receipt, in microseconds.
    pub longest_us: u64,
    /// Latencies of all receipts, from the intended instant of their publication.
    #[serde(rename = "receipt_latency_us")]
    pub latency: LatencyDocument,
    /// How much later than intended publications were handed to their publishers' connections. Results of an earlier
    /// version have it of each publication alone.
    #[serde(default, rename = "published_late_us", skip_serializing_if = "Option::is_none")]
    pub lateness: Option<LatencyDocument>,
    /// Each publication, in the order of their intended instants.
    pub publications: Vec<PublicationDocument>,
}

/// Counts of subscribers and receipts. `expected` is `received + lost + missed`, unless the run was stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ReceiptsDocument {
    /// Subscribers that were live when it was published.
    pub expected: u64,
    /// Subscribers that got it in time.
    pub received: u64,
    /// Subscribers of `received` that got it exactly once.
    pub once: u64,
    /// Subscribers of `received` that got it twice or more.
    pub twice: u64,
    /// Subscribers that live on and did not get it in time.
    pub missed: u64,
    /// Subscribers that were lost before they got it.
    pub lost: u64,
    /// Receipts beyond the first of a subscriber.
    pub extra: u64,
    /// Receipts of `extra` of which the server said that it may have sent them before (DUP of MQTT).
    #[serde(default)]
    pub repeated: u64,
    /// Receipts after the time was over.
    pub late: u64,
    /// Subscribers that got it after the next publication of the same publisher.
    pub out_of_order: u64,
}

impl ReceiptsDocument {
    fn of(receipts: &Receipts) -> ReceiptsDocument {
        ReceiptsDocument {
            expected: receipts.expected,
            received: receipts.received,
            once: receipts.received.saturating_sub(receipts.twice),
            twice: receipts.twice,
            missed: receipts.missed,
            lost: receipts.lost,
            extra: receipts.extra,
            repeated: receipts.repeated,
            late: receipts.late,
            out_of_order: receipts.out_of_order,
        }
    }

    /// Whether no subscriber missed it, got it twice or too late. Subscribers that are still awaited are no fault.
    pub fn has_no_fault(&self) -> bool {
        self.twice == 0 && self.missed == 0 && self.late == 0
    }
}

/// One publication.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PublicationDocument {
    /// Its number, from 0.
    pub number: u32,
    /// When it should have been published, in seconds since the first one was due; `None` if it was not published.
    pub intended_seconds: Option<f64>,
    /// How much later it was handed to its publisher's connection, in microseconds.
    pub said_after_us: u64,
    /// Which subscribers got it.
    #[serde(flatten)]
    pub receipts: ReceiptsDocument,
    /// From its intended instant to the first receipt of the last subscriber, in microseconds; 0 without a receipt.
    pub last_us: u64,
    /// The 50th percentile of its receipts' latencies, in microseconds.
    pub p50: u64,
    /// The 90th percentile.
    pub p90: u64,
    /// The 99th percentile.
    pub p99: u64,
    /// The 99.9th percentile.
    pub p999: u64,
    /// The 99.99th percentile.
    pub p9999: u64,
}

/// A time in whole microseconds.
fn us(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

impl PublicationDocument {
    fn of(number: u32, published: Option<Published>, receipts: &Receipts, figures: Percentiles) -> PublicationDocument {
        let [p50, p90, p99, p999, p9999] = figures;
        PublicationDocument {
            number,
            intended_seconds: published.map(|published| published.intended.as_secs_f64()),
            said_after_us: published.map_or(0, |published| us(published.said.saturating_sub(published.intended))),
            receipts: ReceiptsDocument::of(receipts),
            last_us: us(receipts.last),
            p50,
            p90,
            p99,
            p999,
            p9999,
        }
    }
}

impl FanoutDocument {
    /// The document of a run's fan-out, if it had one.
    pub fn of(summary: &Summary) -> Result<Option<FanoutDocument>> {
        let Some(fanout) = &summary.fanout else { return Ok(None) };
        let receipts = fanout.receipts(&summary.shards);
        let sum = receipts.iter().fold(Receipts::default(), |sum, one| sum.and(one));
        let each = fanout.published.iter().zip(&receipts).enumerate().map(|(number, (published, receipts))| {
            let number = number as u32;
            let figures = fanout.figures.get(&number).copied().unwrap_or_default();
            PublicationDocument::of(number, *published, receipts, figures)
        });
        let shards = || summary.shards.iter().filter_map(|shard| shard.fanout.as_ref());
        let published = fanout.published.iter().flatten().count() as u64;
        let mut lateness = Latency::new()?;
        fanout.published.iter().flatten().for_each(|one| lateness.record(one.said.saturating_sub(one.intended)));
        Ok(Some(FanoutDocument {
            subscribers: fanout.subscribers,
            publishers: fanout.publishers,
            payload_bytes: fanout.payload,
            period_seconds: fanout.period.as_secs_f64(),
            wait_seconds: fanout.wait.as_secs_f64(),
            exact: fanout.is_exact(&summary.shards),
            published,
            not_published: fanout.published.len() as u64 - published,
            sum: ReceiptsDocument::of(&sum),
            foreign: shards().map(|shard| shard.foreign).sum(),
            to_publishers: shards().map(|shard| shard.to_publishers).sum(),
            longest_us: us(sum.last),
            latency: LatencyDocument::of(&fanout.latency)?,
            lateness: Some(LatencyDocument::of(&lateness)?),
            publications: each.collect(),
        }))
    }

    /// Checks that the figures are those of the histogram, and that the counts add up in a run of `requested` connections.
    pub(super) fn check(&self, requested: u64) -> Checked {
        self.latency.check().map_err(|why| format!("receipt_latency_us: {why}"))?;
        let lateness = self.lateness.as_ref().map_or(Ok(()), LatencyDocument::check);
        lateness.map_err(|why| format!("published_late_us: {why}"))?;
        check::seconds("fanout.period_seconds", self.period_seconds)?;
        check::seconds("fanout.wait_seconds", self.wait_seconds)?;
        let ends = check::sum([self.subscribers, self.publishers]);
        check::same("requested", requested, "fanout.subscribers + fanout.publishers are", ends)?;
        for one in &self.publications {
            one.intended_seconds.map_or(Ok(()), |at| check::seconds("intended_seconds of a publication", at))?;
            let ReceiptsDocument { expected, received, lost, .. } = one.receipts;
            check::at_most("expected of a publication", expected, "fanout.subscribers are", self.subscribers)?;
            check::at_most("received of a publication", received, "its expected is", expected)?;
            check::at_most("lost of a publication", lost, "its expected is", expected)?;
        }
        // Those that got it once follow from these, and not from their own sum, where many receipts are beyond the first.
        let counts: [CountOf<ReceiptsDocument>; 9] = [
            ("expected", |all| all.expected),
            ("received", |all| all.received),
            ("twice", |all| all.twice),
            ("missed", |all| all.missed),
            ("lost", |all| all.lost),
            ("extra", |all| all.extra),
            ("repeated", |all| all.repeated),
            ("late", |all| all.late),
            ("out_of_order", |all| all.out_of_order),
        ];
        for (name, count) in counts {
            let each = check::sum(self.publications.iter().map(|publication| count(&publication.receipts)));
            check::same(&format!("fanout.{name}"), count(&self.sum), "its publications have", each)?;
        }
        let published = self.publications.iter().filter(|publication| publication.intended_seconds.is_some()).count();
        check::same("fanout.published", self.published, "its publications are", Some(published as u64))?;
        let all = check::sum([self.published, self.not_published]);
        check::same("publications", self.publications.len() as u64, "fanout.published + not_published are", all)?;
        check::same("receipt_latency_us.count", self.latency.count, "fanout.received is", Some(self.sum.received))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXACT: Receipts = Receipts {
        expected: 9,
        received: 8,
        lost: 1,
        missed: 0,
        twice: 0,
        extra: 0,
        repeated: 0,
        late: 0,
        out_of_order: 0,
        last: Duration::ZERO,
    };

    #[test]
    fn only_once_each_is_exact() {
        assert!(EXACT.is_exact());
        let wrong = [
            Receipts { received: 7, missed: 1, ..EXACT },
            Receipts { received: 7, ..EXACT },
            Receipts { twice: 1, extra: 1, ..EXACT },
            Receipts { late: 1, ..EXACT },
        ];
        assert!(wrong.iter().all(|receipts| !receipts.is_exact()));
        // The order of publications is told, and is no fault: no protocol here promises it.
        assert!(Receipts { out_of_order: 1, ..EXACT }.is_exact());
    }
}
