//! What was measured, and what it comes to: medians, ranges, ratios to ours.

use std::collections::BTreeMap;

use bench_support::compare::median;
use serde::Serialize;

/// A figure that a measure gives.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Column {
    pub key: &'static str,
    pub title: &'static str,
    pub decimals: usize,
}

/// What one run of one peer gave.
#[derive(Debug, Clone, Serialize)]
pub struct Sample {
    pub peer: &'static str,
    pub round: usize,
    /// Fewer than were wanted where descriptors do not suffice for more.
    pub connections: usize,
    /// Share of a core that processes took which are no part of the comparison, where that was looked at.
    pub others: Option<f64>,
    pub figures: BTreeMap<&'static str, f64>,
}

/// All runs of one measure in one setting.
#[derive(Debug, Serialize)]
pub struct Table {
    pub title: String,
    /// The connections that were wanted.
    pub connections: usize,
    /// The first one is what peers are held against each other by.
    pub columns: Vec<Column>,
    pub samples: Vec<Sample>,
    /// Peers that were left out, and why.
    pub left_out: Vec<(&'static str, String)>,
    /// Runs that lost connections: the peer, the round, and what happened. They have no figures.
    pub failures: Vec<(&'static str, usize, String)>,
}

/// Median and range.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Spread {
    pub median: f64,
    pub least: f64,
    pub most: f64,
}

impl Spread {
    fn of(mut figures: Vec<f64>) -> Option<Spread> {
        if figures.is_empty() {
            return None;
        }
        let median = median(&mut figures);
        Some(Spread { median, least: figures[0], most: figures[figures.len() - 1] })
    }
}

/// One peer's line of a table.
#[derive(Debug, Serialize)]
pub struct Row {
    pub peer: &'static str,
    pub connections: usize,
    /// One for each column; none where nothing could be measured.
    pub figures: Vec<Option<Spread>>,
    /// The first column's figure over c1m's of the same round.
    pub ratio: Option<Spread>,
}

impl Table {
    /// A table without any runs, of columns with a key, a title and a number of decimals.
    pub fn new(title: String, connections: usize, columns: &[(&'static str, &'static str, usize)]) -> Table {
        let columns = columns.iter().map(|&(key, title, decimals)| Column { key, title, decimals }).collect();
        Table { title, connections, columns, samples: Vec::new(), left_out: Vec::new(), failures: Vec::new() }
    }

    /// A line for each peer that ran, in the order of the first round.
    pub fn rows(&self) -> Vec<Row> {
        let mut peers: Vec<&'static str> = Vec::new();
        for sample in &self.samples {
            if !peers.contains(&sample.peer) {
                peers.push(sample.peer);
            }
        }
        peers.into_iter().map(|peer| self.row(peer)).collect()
    }

    fn row(&self, peer: &'static str) -> Row {
        let runs: Vec<&Sample> = self.samples.iter().filter(|sample| sample.peer == peer).collect();
        let spread =
            |column: &Column| Spread::of(runs.iter().filter_map(|run| run.figures.get(column.key).copied()).collect());
        let main = self.columns[0].key;
        let ours = |round| self.samples.iter().find(|sample| sample.peer == "c1m" && sample.round == round);
        let ratio = |run: &&Sample| Some(run.figures.get(main)? / ours(run.round)?.figures.get(main)?);
        Row {
            peer,
            connections: runs.iter().map(|run| run.connections).min().unwrap_or(0),
            figures: self.columns.iter().map(spread).collect(),
            ratio: Spread::of(runs.iter().filter_map(ratio).collect()),
        }
    }

    /// How busy other processes were, in the middle and at worst.
    pub fn others(&self) -> Option<Spread> {
        Spread::of(self.samples.iter().filter_map(|sample| sample.others).collect())
    }
}
