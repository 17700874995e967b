//! A fan-out as text.

use std::fmt::Write;

use super::text::table;
use crate::format::{bytes, count, measured, time};
use crate::results::{FanoutDocument, PublicationDocument, ReceiptsDocument};

/// Publications of which each is shown; of more, those that are not exact and the slowest are.
pub(super) const SHOWN: usize = 20;

/// Writes the text of a fan-out. Writing to a String cannot fail, so the results of `writeln!` are dropped.
pub(super) fn text(out: &mut String, fanout: &FanoutDocument) {
    let FanoutDocument { sum, .. } = fanout;
    let _ = writeln!(out, "\n{}", heading(fanout));
    let _ = writeln!(out, "{}", verdict(fanout));
    let _ = writeln!(out, "{}", counts(sum));
    if sum.received > 0 {
        let _ = writeln!(out, "last subscriber at most {} after the intended instant", time(fanout.longest_us));
    }
    for line in remarks(fanout) {
        let _ = writeln!(out, "{line}");
    }
    let shown = shown(&fanout.publications);
    let left_out = fanout.publications.len() - shown.len();
    let others =
        if left_out > 0 { format!(" ({} more are in the JSON result)", count(left_out as u64)) } else { String::new() };
    let _ = writeln!(out, "\npublications{others}");
    let _ = writeln!(
        out,
        "number        once   missed    twice     lost       p50       p99     p99.9      last  published late by"
    );
    for publication in shown {
        let _ = writeln!(out, "{}", row(publication));
    }
    table(out, "receipt latency from the intended instant", "", vec![("all".to_owned(), &fanout.latency)]);
    if let Some(lateness) = &fanout.lateness {
        table(out, "published later than intended", "", vec![("all".to_owned(), lateness)]);
    }
}

/// What was asked for.
pub(super) fn heading(fanout: &FanoutDocument) -> String {
    let publishers = match fanout.publishers {
        1 => "1 publisher".to_owned(),
        many => format!("{} publishers", count(many)),
    };
    let subscribers = count(fanout.subscribers);
    let (size, every) = (bytes(fanout.payload_bytes.into()), time((fanout.period_seconds * 1e6) as u64));
    format!("fan-out: {subscribers} subscribers, {publishers}, {size} every {every}")
}

/// Whether it is proved, in a sentence.
pub(super) fn verdict(fanout: &FanoutDocument) -> String {
    let (published, not) = (count(fanout.published), fanout.not_published);
    let each = if fanout.exact {
        "each was received exactly once by every subscriber that was not lost".to_owned()
    } else if not > 0 {
        format!("{} were not: the publisher was gone or could not send, or the run was stopped", count(not))
    } else {
        "not every subscriber received each of them exactly once".to_owned()
    };
    format!("{published} published: {each}")
}

/// What became of all receipts.
pub(super) fn counts(sum: &ReceiptsDocument) -> String {
    let ReceiptsDocument { expected, received, once, twice, missed, lost, extra, late, .. } = *sum;
    let awaited = match expected.saturating_sub(received.saturating_add(missed).saturating_add(lost)) {
        0 => String::new(),
        awaited => format!(" + {} awaited when the run was stopped", count(awaited)),
    };
    let [expected, received, once, twice, missed, lost, extra, late] =
        [expected, received, once, twice, missed, lost, extra, late].map(count);
    format!(
        "{expected} receipts expected = {received} received + {missed} missed + {lost} lost with their subscriber{awaited}; {once} once, {twice} twice or more; {extra} beyond the first, {late} after the time was over"
    )
}

/// What else was seen.
pub(super) fn remarks(fanout: &FanoutDocument) -> Vec<String> {
    let mut lines = Vec::new();
    let mut remark = |number: u64, what: &str| lines.extend((number > 0).then(|| format!("{} {what}", count(number))));
    remark(
        fanout.sum.repeated,
        "of those beyond the first were sent again by the server (DUP), as MQTT allows at quality of service 1",
    );
    remark(fanout.sum.out_of_order, "came after the next publication of the same publisher");
    remark(fanout.foreign, "publications of other runs came, and were passed over");
    remark(fanout.to_publishers, "came to publishers, which the server takes for subscribers");
    lines
}

/// The publications to show, in their order.
pub(super) fn shown(all: &[PublicationDocument]) -> Vec<&PublicationDocument> {
    let mut shown: Vec<&PublicationDocument> = all.iter().collect();
    let is_well = |one: &PublicationDocument| one.intended_seconds.is_some() && one.receipts.has_no_fault();
    shown.sort_by_key(|one| (is_well(one), std::cmp::Reverse(one.last_us)));
    shown.truncate(SHOWN);
    shown.sort_by_key(|one| one.number);
    shown
}

/// When a publication was received, and when it was said: p50, p99, p99.9, the last receipt, and how late it was.
pub(super) fn times(one: &PublicationDocument) -> [String; 5] {
    let is_said = one.intended_seconds.is_some();
    let [p50, p99, p999, last] =
        [one.p50, one.p99, one.p999, one.last_us].map(|us| measured(one.receipts.received, time(us)));
    [p50, p99, p999, last, if is_said { time(one.said_after_us) } else { "never".to_owned() }]
}

fn row(one: &PublicationDocument) -> String {
    let ReceiptsDocument { once, missed, twice, lost, .. } = one.receipts;
    let [once, missed, twice, lost] = [once, missed, twice, lost].map(count);
    let [p50, p99, p999, last, late] = times(one);
    format!(
        "{:>6}  {once:>10}  {missed:>7}  {twice:>7}  {lost:>7}  {p50:>8}  {p99:>8}  {p999:>8}  {last:>8}  {late:>8}",
        one.number
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn publication(number: u32, missed: u64, last_us: u64) -> PublicationDocument {
        let (received, expected) = (5 - missed, 5);
        let (once, [twice, lost, extra, repeated, late, out_of_order]) = (received, [0; 6]);
        PublicationDocument {
            number,
            intended_seconds: Some(number.into()),
            said_after_us: 0,
            receipts: ReceiptsDocument {
                expected,
                received,
                once,
                twice,
                missed,
                lost,
                extra,
                repeated,
                late,
                out_of_order,
            },
            last_us,
            p50: 1,
            p90: 1,
            p99: 1,
            p999: 1,
            p9999: 1,
        }
    }

    /// No receipt has no latency, which is another thing than one of 0 us.
    #[test]
    fn what_nobody_received_has_no_latency() {
        assert_eq!(times(&publication(0, 5, 0)), ["-", "-", "-", "-", "0us"]);
        assert_eq!(times(&publication(0, 4, 7)), ["1us", "1us", "1us", "7us", "0us"]);
    }

    /// None that is not exact is left out while there is room, and then the slowest are shown.
    #[test]
    fn what_went_wrong_is_shown_first() {
        let all: Vec<_> = (0..100).map(|number| publication(number, u64::from(number == 7), number.into())).collect();
        let numbers: Vec<u32> = shown(&all).into_iter().map(|one| one.number).collect();
        let slowest: Vec<u32> = [7].into_iter().chain(81..100).collect();
        assert_eq!(numbers, slowest);
    }
}
