//! What is drawn over time: each shard of a client, or each machine of several, and all together.

use std::collections::BTreeMap;

use super::chart::Band;
use crate::results::document::{ClientDocument, Latencies};
use crate::results::{ShardSample, Timeline};

/// Machines whose clocks are further apart than this, in seconds, are drawn each from its own begin.
const CLOCKS_APART: f64 = 86_400.0;

/// One of those that are drawn.
#[derive(Debug, Clone, PartialEq)]
pub struct Source {
    /// What a person calls it.
    pub name: String,
    /// Its counts at each time, in seconds from the begin of the run.
    pub counts: Vec<(f64, ShardSample)>,
}

/// A timeline of a document, and how much later than the first it began, in seconds.
#[derive(Debug, Clone, Copy)]
pub struct Track<'a> {
    /// What its machine is called; nothing where there is only one.
    pub name: &'a str,
    /// The timeline.
    pub timeline: &'a Timeline,
    /// When it began.
    pub offset: f64,
}

/// Every timeline of a document.
pub fn tracks(document: &ClientDocument) -> Vec<Track<'_>> {
    let own = document.timeline.iter().map(|timeline| ("", timeline));
    let machines =
        document.machines.iter().filter_map(|one| Some((one.machine.as_str(), one.result.timeline.as_ref()?)));
    let all: Vec<(&str, &Timeline)> = own.chain(machines).collect();
    let began = all.iter().map(|(_, timeline)| timeline.began_unix_seconds);
    let (first, last) = began.fold((f64::MAX, 0f64), |(first, last), at| (first.min(at), last.max(at)));
    let offset =
        |timeline: &Timeline| if last - first > CLOCKS_APART { 0.0 } else { timeline.began_unix_seconds - first };
    all.into_iter().map(|(name, timeline)| Track { name, timeline, offset: offset(timeline) }).collect()
}

/// The phases. Of several machines, each phase lasts as long as on any of them, but not into the next.
pub fn bands(tracks: &[Track]) -> Vec<Band> {
    let mut bands: Vec<Band> = Vec::new();
    for track in tracks {
        for span in &track.timeline.phases {
            let (start, end) = (track.offset + span.start, track.offset + span.end);
            match bands.iter_mut().find(|band| band.name == span.phase && tracks.len() > 1) {
                Some(band) => (band.start, band.end) = (band.start.min(start), band.end.max(end)),
                None => bands.push(Band { name: span.phase.clone(), start, end }),
            }
        }
    }
    bands.sort_by(|a, b| a.start.total_cmp(&b.start));
    for at in 1..bands.len() {
        bands[at - 1].end = bands[at - 1].end.min(bands[at].start);
    }
    bands
}

/// The shards of a single client, or the machines of several.
pub fn sources(tracks: &[Track]) -> Vec<Source> {
    match tracks {
        [one] => {
            let shards = one.timeline.samples.first().map_or(0, |sample| sample.shards.len());
            (0..shards).map(|shard| source(one, format!("shard {shard}"), |shards| shards[shard])).collect()
        }
        several => several.iter().map(|track| source(track, track.name.to_owned(), sum)).collect(),
    }
}

fn source(track: &Track, name: String, which: impl Fn(&[ShardSample]) -> ShardSample) -> Source {
    // A run begins with nothing.
    let begin = std::iter::once((track.offset, ShardSample::default()));
    let samples = track.timeline.samples.iter().map(|sample| (track.offset + sample.seconds, which(&sample.shards)));
    Source { name, counts: begin.chain(samples).collect() }
}

fn sum(all: &[ShardSample]) -> ShardSample {
    all.iter().fold(ShardSample::default(), |sum, one| ShardSample {
        live: sum.live.saturating_add(one.live),
        failed: sum.failed.saturating_add(one.failed),
        stood: sum.stood.saturating_add(one.stood),
        echoes: sum.echoes.saturating_add(one.echoes),
    })
}

/// All sources as one: at each time that any of them has, what each had last.
pub fn together(sources: &[Source]) -> Source {
    let mut times: BTreeMap<u64, Vec<(usize, ShardSample)>> = BTreeMap::new();
    for (number, source) in sources.iter().enumerate() {
        for (seconds, counts) in &source.counts {
            // Times are not negative, so their bits are in their order.
            times.entry(seconds.to_bits()).or_default().push((number, *counts));
        }
    }
    let mut last = vec![ShardSample::default(); sources.len()];
    let counts = times.into_iter().map(|(bits, news)| {
        news.into_iter().for_each(|(number, counts)| last[number] = counts);
        (f64::from_bits(bits), sum(&last))
    });
    Source { name: "all".to_owned(), counts: counts.collect() }
}

impl Source {
    /// A count over time.
    pub fn count(&self, which: fn(&ShardSample) -> u64) -> Vec<(f64, f64)> {
        self.counts.iter().map(|(seconds, counts)| (*seconds, which(counts) as f64)).collect()
    }

    /// How fast a count grew, as steps.
    pub fn rate(&self, which: fn(&ShardSample) -> u64) -> Vec<(f64, f64)> {
        rate(&self.count(which))
    }
}

/// How fast something grew, as steps of about equal length: neighbours that are much closer than the
/// others would show noise.
pub fn rate(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let (Some(first), Some(last)) = (points.first(), points.last()) else { return Vec::new() };
    let span = last.0 - first.0;
    let apart = (span / 400.0).max(if span > 10.0 { 0.7 } else { span / 20.0 });
    let mut ends = vec![*first];
    for to in points {
        if to.0 - ends[ends.len() - 1].0 >= apart {
            ends.push(*to);
        }
    }
    // What is left belongs to the step before it.
    match ends.len() {
        1 => ends.push(*last),
        steps => ends[steps - 1] = *last,
    }
    let step = |pair: &[(f64, f64)]| {
        let ((from, before), (to, after)) = (pair[0], pair[1]);
        let rate = ((after - before) / (to - from)).max(0.0);
        [(from, rate), (to, rate)]
    };
    ends.windows(2).filter(|pair| pair[1].0 > pair[0].0).flat_map(step).collect()
}

/// The latencies of each shard or machine, with its name.
pub fn latencies(document: &ClientDocument) -> Vec<(String, &Latencies)> {
    if document.machines.is_empty() {
        document.shards.iter().map(|shard| (format!("shard {}", shard.shard), &shard.latencies)).collect()
    } else {
        document.machines.iter().map(|one| (one.machine.clone(), &one.result.latencies)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn live(name: &str, counts: &[(f64, u64)]) -> Source {
        let count = |(seconds, live): &(f64, u64)| (*seconds, ShardSample { live: *live, ..ShardSample::default() });
        Source { name: name.to_owned(), counts: counts.iter().map(count).collect() }
    }

    #[test]
    fn machines_that_look_at_different_times_are_added_up() {
        let all = together(&[live("a", &[(0.0, 0), (1.0, 5), (3.0, 7)]), live("b", &[(0.5, 0), (2.0, 10)])]);
        assert_eq!(all.count(|c| c.live), [(0.0, 0.0), (0.5, 0.0), (1.0, 5.0), (2.0, 15.0), (3.0, 17.0)]);
    }

    proptest! {
        /// The area under a rate is what came, however close the samples are.
        #[test]
        fn a_rate_holds_all_that_came(steps in prop::collection::vec((0.01f64..3.0, 0u64..1_000), 1..80)) {
            let mut points = vec![(0.0, 0.0)];
            for (seconds, more) in &steps {
                let (at, sum) = points[points.len() - 1];
                points.push((at + seconds, sum + *more as f64));
            }
            let rate = rate(&points);
            let area: f64 = rate.chunks(2).map(|step| (step[1].0 - step[0].0) * step[0].1).sum();
            let came = points[points.len() - 1].1;
            prop_assert!((area - came).abs() < 1e-6 * came.max(1.0), "{area} of {came}");
        }
    }
}
