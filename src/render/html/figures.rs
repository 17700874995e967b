//! The charts of a run, each with its caption and legend.

use std::collections::BTreeMap;

use maud::{Markup, PreEscaped, html};

use super::axis::Axis;
use super::chart::{Band, Cell, Chart, Ink, Line, SERIES};
use super::series::{self, Source, Track};
use crate::error::Result;
use crate::format::count;
use crate::latency::Latency;
use crate::results::document::{ClientDocument, LatencyDocument, LatencyOf};
use crate::results::{FanoutDocument, ProcessSample, PublicationDocument, Sample, ShardSample, StormDocument};

/// The most columns of a heat map.
const COLUMNS: f64 = 120.0;

/// The most phases that a caption lists.
const PHASES_LISTED: usize = 12;

/// Rows of a percentile curve for each halving of the distance to 100 %.
const TICKS: u32 = 5;

/// A line with its name.
type NamedLine = (String, Vec<(f64, f64)>);

/// A chart with its title, caption and legend.
struct Figure {
    title: String,
    caption: String,
    chart: Chart,
    keys: Vec<(Ink, String)>,
}

impl Figure {
    fn new(title: &str, caption: impl Into<String>, chart: Chart) -> Figure {
        Figure { title: title.to_owned(), caption: caption.into(), chart, keys: Vec::new() }
    }

    /// Draws each line, and on top the line of all together. If there are too many lines to tell apart, they share
    /// a colour.
    fn with(mut self, each: Vec<NamedLine>, all: Option<NamedLine>) -> Figure {
        let many = each.len() > SERIES;
        if many {
            self.keys.push((Ink::Each, format!("each of {}", each.len())));
        }
        for (number, (name, points)) in each.into_iter().enumerate() {
            let ink = if many { Ink::Each } else { Ink::Series(number) };
            if !many {
                self.keys.push((ink, name));
            }
            self.chart.lines.push(Line { ink, width: if many { 1.0 } else { 2.0 }, points });
        }
        if let Some((name, points)) = all {
            self.keys.push((Ink::All, name));
            self.chart.lines.push(Line { ink: Ink::All, width: 2.0, points });
        }
        self
    }

    fn markup(&self) -> Result<Markup> {
        let id: String = self.title.chars().map(|c| if c.is_alphanumeric() { c } else { '-' }).collect();
        // The drawing is safe to embed: plotters has escaped every text.
        let named = format!("<svg role=\"img\" aria-labelledby=\"{id}\" ");
        let drawn = self.chart.svg()?.replacen("<svg ", &named, 1);
        Ok(html! {
            figure {
                figcaption { h2 id=(id) { (self.title) } p { (self.caption) } }
                @if !self.keys.is_empty() {
                    ul.keys { @for (ink, name) in &self.keys {
                        li { span.key style=(format!("background:var(--{})", ink.name())) {} (name) }
                    } }
                }
                div.wide tabindex="0" { (PreEscaped(drawn)) }
            }
        })
    }
}

/// The charts of a run over time.
pub struct OverTime<'a> {
    tracks: Vec<Track<'a>>,
    sources: Vec<Source>,
    all: Source,
    bands: Vec<Band>,
    end: f64,
}

impl<'a> OverTime<'a> {
    /// The charts of a document; `None` if it has no timeline.
    pub fn of(document: &'a ClientDocument) -> Option<OverTime<'a>> {
        let tracks = series::tracks(document);
        let ends = |track: &Track| track.timeline.samples.last().map(|sample| track.offset + sample.seconds);
        let end = tracks.iter().filter_map(ends).reduce(f64::max)?;
        let sources = series::sources(&tracks);
        let (all, bands) = (series::together(&sources), series::bands(&tracks));
        Some(OverTime { tracks, sources, all, bands, end })
    }

    /// All charts that have values to show.
    pub fn markup(&self) -> Result<Markup> {
        let mut figures = vec![self.live()];
        figures.extend(self.asleep());
        figures.push(self.connects());
        figures.extend(self.echoes());
        figures.extend(self.heat());
        figures.extend([self.memory(), self.kernel_memory(), self.processors()].into_iter().flatten());
        let drawn = figures.iter().map(Figure::markup).collect::<Result<Vec<_>>>()?;
        Ok(html! { @for figure in drawn { (figure) } })
    }

    fn chart(&self, y: Axis) -> Chart {
        let mut chart = Chart::new(Axis::time(self.end), y);
        chart.bands.clone_from(&self.bands);
        chart
    }

    /// One line for each source, unless there is only one source, and one for all together.
    fn lines(&self, of: impl Fn(&Source) -> Vec<(f64, f64)>) -> (Vec<NamedLine>, Option<NamedLine>, f64) {
        let each = self.sources.iter().filter(|_| self.sources.len() > 1);
        let each: Vec<NamedLine> = each.map(|source| (source.name.clone(), of(source))).collect();
        let all = of(&self.all);
        let most = highest(each.iter().map(|(_, points)| points).chain([&all]));
        (each, Some((self.all.name.clone(), all)), most)
    }

    fn live(&self) -> Figure {
        let (each, all, most) = self.lines(|source| source.count(|shard| shard.live));
        let caption = format!("Live connections; at most {} at once. {}", count(most as u64), self.phases());
        Figure::new("Live connections", caption, self.chart(Axis::counts(most))).with(each, all)
    }

    fn asleep(&self) -> Option<Figure> {
        let (each, all, most) = self.lines(|source| source.count(|shard| shard.asleep));
        let caption = format!(
            "Live connections of the client that are asleep, without a socket; at most {} at once.",
            count(most as u64)
        );
        let figure = || Figure::new("Connections asleep", caption, self.chart(Axis::counts(most)));
        (most > 0.0).then(|| figure().with(each, all))
    }

    /// The duration of each phase; empty if there are too many phases to read.
    fn phases(&self) -> String {
        if self.bands.is_empty() || self.bands.len() > PHASES_LISTED {
            return String::new();
        }
        let phase = |band: &Band| format!("{} {:.1} s", band.name, band.end - band.start);
        format!("Phases: {}.", self.bands.iter().map(phase).collect::<Vec<_>>().join(", "))
    }

    fn connects(&self) -> Figure {
        let (each, all, most) = self.lines(|source| source.rate(|shard| shard.stood));
        let caption = format!("Connections established and proved; at most {} per second.", count(most as u64));
        Figure::new("Connects per second", caption, self.chart(Axis::counts(most))).with(each, all)
    }

    fn echoes(&self) -> Option<Figure> {
        let (each, all, most) = self.lines(|source| source.rate(|shard: &ShardSample| shard.echoes));
        let caption = format!(
            "Echoes received, of first bytes, of audits and of messages; at most {} per second.",
            count(most as u64)
        );
        let figure = || Figure::new("Echoes per second", caption, self.chart(Axis::counts(most)));
        (most > 0.0).then(|| figure().with(each, all))
    }

    /// Connects by their latency and their time. The shade is logarithmic, so that few connects are visible beside
    /// many.
    fn heat(&self) -> Option<Figure> {
        let bounds = &self.tracks.first()?.timeline.connect_bounds_us;
        let same = || self.tracks.iter().filter(|track| track.timeline.connect_bounds_us == *bounds);
        // Shards hand over their latencies once a second, however often samples are taken.
        let interval = same().map(|track| track.timeline.interval_seconds).fold(1.0, f64::max);
        let width = interval * (self.end / COLUMNS / interval).ceil().max(1.0);
        let mut counts: BTreeMap<(u64, usize), u64> = BTreeMap::new();
        for track in same() {
            for connects in &track.timeline.connects {
                let middle = track.offset + (connects.interval as f64 + 0.5) * track.timeline.interval_seconds;
                for (class, number) in connects.counts.iter().enumerate().filter(|(_, number)| **number > 0) {
                    let sum = counts.entry(((middle / width) as u64, connects.first + class)).or_default();
                    *sum = sum.saturating_add(*number);
                }
            }
        }
        let most = *counts.values().max()?;
        let (first, last) = bounds.first().zip(bounds.last())?;
        let edge = |class: usize| bounds.get(class).copied().unwrap_or(last.saturating_mul(2)).max(1);
        let below = |class: usize| if class == 0 { (first / 2).max(1) } else { edge(class - 1) };
        let classes = || counts.keys().map(|(_, class)| *class);
        let y = Axis::latency(below(classes().min()?), edge(classes().max()?));
        let mut chart = self.chart(y);
        chart.cells = counts
            .iter()
            .filter(|((column, _), _)| *column as f64 * width < self.end)
            .map(|((column, class), number)| Cell {
                corners: [
                    (*column as f64 * width, (below(*class) as f64).log10()),
                    (((column + 1) as f64 * width).min(self.end), (edge(*class) as f64).log10()),
                ],
                share: 0.1 + 0.9 * (1.0 + *number as f64).ln() / (1.0 + most as f64).ln(),
            })
            .collect();
        let caption = format!(
            "Connects by their time and latency, including those with a retransmission. Latency and shade are logarithmic: \
             the strongest colour stands for {} connects.",
            count(most)
        );
        let mut figure = Figure::new("Connect latency over time", caption, chart);
        figure.keys.push((Ink::Series(0), "connects; a stronger colour stands for more".to_owned()));
        Some(figure)
    }

    /// A line for each known process or host of each track. Machines of different tracks may have one name.
    fn processes(&self, of: impl Fn(&Sample) -> Vec<(&'static str, Option<f64>)>) -> Vec<NamedLine> {
        let mut all: Vec<NamedLine> = Vec::new();
        for track in &self.tracks {
            let first = all.len();
            for sample in &track.timeline.samples {
                for (what, value) in of(sample) {
                    let Some(value) = value else { continue };
                    let name =
                        if track.name.is_empty() { what.to_owned() } else { format!("{what} of {}", track.name) };
                    let point = (track.offset + sample.seconds, value);
                    match all[first..].iter_mut().find(|(known, _)| *known == name) {
                        Some((_, points)) => points.push(point),
                        None => all.push((name, vec![point])),
                    }
                }
            }
        }
        all
    }

    fn memory(&self) -> Option<Figure> {
        let resident = |process: &ProcessSample| process.resident_bytes as f64;
        let each = self.processes(|sample| {
            vec![
                ("server process", sample.server.as_ref().map(resident)),
                ("client process", Some(resident(&sample.client))),
            ]
        });
        let most = highest(each.iter().map(|(_, points)| points));
        let caption = "Resident memory of each process.";
        (most > 0.0).then(|| Figure::new("Memory", caption, self.chart(Axis::bytes(most))).with(each, None))
    }

    fn kernel_memory(&self) -> Option<Figure> {
        let mut each = self.processes(|sample| vec![("slab", sample.host.map(|host| host.slab_bytes as f64))]);
        for (_, points) in &mut each {
            let begin = points[0].1;
            points.iter_mut().for_each(|(_, bytes)| *bytes = (*bytes - begin).max(0.0));
        }
        let most = highest(each.iter().map(|(_, points)| points));
        let caption = "How much the kernel's objects (slab) of the client's host grew since the run began. Sockets are \
            such objects; a server on the same host has its own among them.";
        (most > 0.0).then(|| Figure::new("Kernel memory", caption, self.chart(Axis::bytes(most))).with(each, None))
    }

    fn processors(&self) -> Option<Figure> {
        let spent = |process: &ProcessSample| process.cpu_user_seconds + process.cpu_system_seconds;
        let each = self.processes(|sample| {
            vec![("server process", sample.server.as_ref().map(spent)), ("client process", Some(spent(&sample.client)))]
        });
        let each: Vec<NamedLine> = each.into_iter().map(|(name, points)| (name, series::rate(&points))).collect();
        let most = highest(each.iter().map(|(_, points)| points));
        let caption = "Processors that each process kept busy, in user space and in the kernel together.";
        (most > 0.0).then(|| Figure::new("Processors", caption, self.chart(Axis::cores(most))).with(each, None))
    }
}

/// The highest value of all points.
fn highest<'a>(lines: impl Iterator<Item = &'a Vec<(f64, f64)>>) -> f64 {
    lines.flatten().map(|(_, value)| *value).fold(0.0, f64::max)
}

/// Percentile curves of a latency, one for each shard or machine and one for all together; `None` if none was
/// measured.
pub fn curves(
    document: &ClientDocument,
    title: &'static str,
    caption: &str,
    which: LatencyOf,
) -> Result<Option<Markup>> {
    let all = which(&document.latencies);
    let (_, each) = series::parts(document);
    let each = each.iter().filter(|_| each.len() > 1).map(|(name, latencies)| (name.clone(), which(latencies)));
    percentiles(title, caption, each.collect(), Some(("all".to_owned(), all)))
}

/// Percentile curves of a storm's stages.
pub fn stages(storm: &StormDocument) -> Result<Option<Markup>> {
    let each = storm.stages().into_iter().map(|(name, stage)| (name.to_owned(), &stage.echo)).collect();
    let caption = "Echo latency of the connections that the storm spared, counted from the intended start.";
    percentiles("Echo latency in the storm", caption, each, None)
}

/// How long each publication of a fan-out took, over the time; `None` if there are fewer than two to draw.
pub fn publications(fanout: &FanoutDocument) -> Result<Option<Markup>> {
    let received = || fanout.publications.iter().filter(|one| one.receipts.received > 0);
    let at = |one: &PublicationDocument| one.intended_seconds.unwrap_or_default();
    let (Some(end), Some(most)) = (received().map(at).reduce(f64::max), received().map(|one| one.last_us).max()) else {
        return Ok(None);
    };
    let least = received().map(|one| one.p50).min().unwrap_or(most);
    let place = |us: u64| (us.max(1) as f64).log10();
    let line = |name: &str, of: fn(&PublicationDocument) -> u64| {
        (name.to_owned(), received().map(|one| (at(one), place(of(one)))).collect())
    };
    let lines = [line("p50", |one| one.p50), line("p99", |one| one.p99), line("last subscriber", |one| one.last_us)];
    let caption = "Each publication at the instant at which it was due: how long half of its subscribers, 99 % of them, and \
        all of them took to get it.";
    let chart = Chart::new(Axis::time(end), Axis::latency(least, most));
    let figure = Figure::new("Publications", caption, chart).with(lines.into(), None);
    if received().count() > 1 && end > 0.0 { figure.markup().map(Some) } else { Ok(None) }
}

/// Percentile curves of named latencies, and of all together.
pub fn percentiles(
    title: &str,
    caption: &str,
    each: Vec<(String, &LatencyDocument)>,
    all: Option<(String, &LatencyDocument)>,
) -> Result<Option<Markup>> {
    let documents = || each.iter().chain(&all).map(|(_, document)| *document).filter(|one| one.count > 0);
    let (Some(least), Some(most)) = (documents().map(|one| one.min).min(), documents().map(|one| one.max).max()) else {
        return Ok(None);
    };
    let number = documents().map(|one| one.count).max().unwrap_or(0);
    let chart = Chart::new(Axis::nines(number), Axis::latency(least, most));
    let curve = |(name, document): &(String, &LatencyDocument)| Ok((name.clone(), curve(&document.latency()?)));
    let lines = each.iter().filter(|(_, one)| one.count > 0).map(curve).collect::<Result<_>>()?;
    let all = all.iter().map(curve).collect::<Result<Vec<_>>>()?.pop();
    Figure::new(title, caption, chart).with(lines, all).markup().map(Some)
}

/// A latency at each percentile that its counts can tell apart; the last point is the maximum.
fn curve(latency: &Latency) -> Vec<(f64, f64)> {
    let end = Axis::nines(latency.count()).high;
    let place = |us: u64| (us.max(1) as f64).log10();
    let rows = latency.quantile_rows(TICKS).into_iter();
    let inner = rows.filter_map(|(us, quantile, _)| Some((Axis::at_quantile(quantile)?, place(us))));
    let mut points: Vec<_> = inner.filter(|(at, _)| *at < end).collect();
    points.push((end, place(latency.max())));
    points
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::Timeline;

    #[test]
    fn machines_of_one_name_have_a_line_each() {
        let timeline = |resident_bytes| {
            let mut timeline = Timeline::begin(0.0);
            let client = ProcessSample { resident_bytes, ..ProcessSample::default() };
            timeline.add(Sample { seconds: 1.0, shards: Vec::new(), client, server: None, host: None });
            timeline
        };
        let timelines = [timeline(5), timeline(7)];
        let tracks = timelines.iter().map(|timeline| Track { name: "a", timeline, offset: 0.0 }).collect();
        let all = Source { name: "all".to_owned(), counts: Vec::new() };
        let over_time = OverTime { tracks, sources: Vec::new(), all, bands: Vec::new(), end: 1.0 };
        let lines = over_time.processes(|sample| vec![("client", Some(sample.client.resident_bytes as f64))]);
        let line = |bytes| ("client of a".to_owned(), vec![(1.0, bytes)]);
        assert_eq!(lines, [line(5.0), line(7.0)]);
    }
}
