//! The values drawn over time: of each shard of one client, or each machine of several, and of all together.

use std::collections::BTreeMap;

use super::chart::Band;
use crate::results::document::{ClientDocument, Latencies};
use crate::results::{PhaseSpan, ShardSample, Timeline};

/// If the clocks of machines differ by more than this, in seconds, each machine is drawn from its own start.
const CLOCKS_APART: f64 = 86_400.0;

/// A shard or machine that is drawn.
#[derive(Debug, Clone, PartialEq)]
pub struct Source {
    /// The name of the shard or machine.
    pub name: String,
    /// The counts at each time, in seconds from the start of the run.
    pub counts: Vec<(f64, ShardSample)>,
}

/// A timeline of a document, and its start relative to the earliest timeline.
#[derive(Debug, Clone, Copy)]
pub struct Track<'a> {
    /// The machine's name; empty for a single machine.
    pub name: &'a str,
    /// The timeline.
    pub timeline: &'a Timeline,
    /// Seconds from the start of the earliest timeline to the start of this one.
    pub offset: f64,
}

/// All timelines of a document.
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

/// The phases. With several machines, the nth phase of a name lasts from its earliest start to its latest end, but not into
/// the next phase. A steered client holds again after each word.
pub fn bands(tracks: &[Track]) -> Vec<Band> {
    let mut bands: Vec<(usize, Band)> = Vec::new();
    for track in tracks {
        let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
        for PhaseSpan { phase, start, end } in &track.timeline.phases {
            let nth = seen.entry(phase).or_default();
            *nth += 1;
            let (start, end) = (track.offset + start, track.offset + end);
            match bands.iter_mut().find(|(other, band)| other == nth && band.name == *phase) {
                Some((_, band)) => (band.start, band.end) = (band.start.min(start), band.end.max(end)),
                None => bands.push((*nth, Band { name: phase.clone(), start, end })),
            }
        }
    }
    let mut bands: Vec<Band> = bands.into_iter().map(|(_, band)| band).collect();
    bands.sort_by(|a, b| a.start.total_cmp(&b.start));
    for at in 1..bands.len() {
        bands[at - 1].end = bands[at - 1].end.min(bands[at].start);
    }
    bands
}

/// The shards of a single client, or the machines of a merged result.
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
    // A run begins with counts of 0.
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
        asleep: sum.asleep.saturating_add(one.asleep),
    })
}

/// The sum of all sources: at each time of any source, the latest counts of each source added up.
pub fn together(sources: &[Source]) -> Source {
    let mut times: BTreeMap<u64, Vec<(usize, ShardSample)>> = BTreeMap::new();
    for (number, source) in sources.iter().enumerate() {
        for (seconds, counts) in &source.counts {
            // Times are not negative, so their bits have the order of the times.
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
    /// One of the counts over time.
    pub fn count(&self, which: fn(&ShardSample) -> u64) -> Vec<(f64, f64)> {
        self.counts.iter().map(|(seconds, counts)| (*seconds, which(counts) as f64)).collect()
    }

    /// The rate at which a count grew, as steps.
    pub fn rate(&self, which: fn(&ShardSample) -> u64) -> Vec<(f64, f64)> {
        rate(&self.count(which))
    }
}

/// The rate at which a value grew, as steps of about equal length. A pair of points much closer together than the
/// others would show noise, so such points share a step.
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
    // The points left at the end belong to the last step.
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

/// The parts of a document, named as in a legend: a shard has no name but its number.
pub fn parts(document: &ClientDocument) -> (&'static str, Vec<(String, &Latencies)>) {
    let (kind, mut parts) = document.parts();
    if kind == "shard" {
        parts.iter_mut().for_each(|(name, _)| *name = format!("{kind} {name}"));
    }
    (kind, parts)
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
    fn counts_sampled_at_different_times_are_added_up() {
        let all = together(&[live("a", &[(0.0, 0), (1.0, 5), (3.0, 7)]), live("b", &[(0.5, 0), (2.0, 10)])]);
        assert_eq!(all.count(|c| c.live), [(0.0, 0.0), (0.5, 0.0), (1.0, 5.0), (2.0, 15.0), (3.0, 17.0)]);
    }

    #[test]
    fn holds_of_steered_clients_are_as_many_bands_as_each_had() {
        let client = |later: f64| {
            let mut timeline = Timeline::begin(1_000.0 + later);
            for (phase, start) in [("ramp", 0.0), ("hold", 1.0), ("audit 1", 4.0), ("hold", 5.0), ("close", 9.0)] {
                timeline.phase(phase.to_owned(), start, start + 1.0);
            }
            timeline
        };
        let timelines = [client(0.0), client(0.25)];
        let track = |timeline| Track { name: "", timeline, offset: timeline.began_unix_seconds - 1_000.0 };
        let tracks: Vec<Track> = timelines.iter().map(track).collect();
        let shown = |tracks: &[Track]| -> Vec<(String, f64, f64)> {
            bands(tracks).into_iter().map(|band| (band.name, band.start, band.end)).collect()
        };
        let band = |name: &str, start, end| (name.to_owned(), start, end);
        let both = [
            band("ramp", 0.0, 1.0),
            band("hold", 1.0, 2.25),
            band("audit 1", 4.0, 5.0),
            band("hold", 5.0, 6.25),
            band("close", 9.0, 10.25),
        ];
        assert_eq!(shown(&tracks), both);
        assert_eq!(shown(&tracks[..1]).iter().filter(|(name, ..)| name == "hold").count(), 2);
    }

    proptest! {
        /// The area under a rate is the growth of the count, however close the samples are.
        #[test]
        fn the_area_under_a_rate_is_the_growth(steps in prop::collection::vec((0.01f64..3.0, 0u64..1_000), 1..80)) {
            let mut points = vec![(0.0, 0.0)];
            for (seconds, more) in &steps {
                let (at, sum) = points[points.len() - 1];
                points.push((at + seconds, sum + *more as f64));
            }
            let rate = rate(&points);
            let area: f64 = rate.chunks(2).map(|step| (step[1].0 - step[0].0) * step[0].1).sum();
            let growth = points[points.len() - 1].1;
            prop_assert!((area - growth).abs() < 1e-6 * growth.max(1.0), "{area} of {growth}");
        }
    }
}
