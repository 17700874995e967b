//! What was measured, and what it comes to: medians, ranges, ratios to ours.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::compare::{median, thousands};

/// Figures of one run, by the key of their column.
pub type Figures = BTreeMap<&'static str, f64>;

/// Why a peer failed in a run.
pub type Failure = String;

/// What came of one run.
#[derive(Debug, Clone)]
pub struct Run {
    pub peer: &'static str,
    pub connections: usize,
    /// Share of a core that processes took which are no part of the comparison, where that is looked at.
    pub others: Option<f64>,
    pub outcome: Result<Figures, Failure>,
}

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
    pub figures: Figures,
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
    pub failures: Vec<(&'static str, usize, Failure)>,
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

    /// The median with its unit, and the range where there is one.
    pub fn text(self, decimals: usize, unit: &str) -> String {
        let write = |figure: f64| match decimals {
            0 => thousands(figure),
            decimals => format!("{figure:.decimals$}"),
        };
        let (median, least, most) = (write(self.median), write(self.least), write(self.most));
        let range = if least == most { String::new() } else { format!(" ({least}–{most})") };
        format!("{median}{unit}{range}")
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

    /// Takes in what came of a run. One without a figure for the first column has no part in the table.
    pub fn add(&mut self, round: usize, run: Run) {
        let Run { peer, connections, others, outcome } = run;
        match outcome {
            Ok(figures) if !figures.contains_key(self.columns[0].key) => {}
            Ok(figures) => self.samples.push(Sample { peer, round, connections, others, figures }),
            Err(why) => self.failures.push((peer, round, why)),
        }
        // The first round's order, whatever the round in which it ended.
        self.samples.sort_by_key(|sample| sample.round);
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

    /// The table for people; `what` says what a peer is.
    pub fn markdown(&self, what: impl Fn(&str) -> String) -> String {
        let mut text = format!("\n**{}**\n\n| |", self.title);
        for (place, column) in self.columns.iter().enumerate() {
            let ratio = if place == 0 { " of c1m's |" } else { "" };
            text.push_str(&format!(" {} |{ratio}", column.title));
        }
        text.push_str(&format!("\n|---|{}\n", "---|".repeat(self.columns.len() + 1)));
        for row in self.rows() {
            text.push_str(&self.line(&row, &what));
        }
        for (peer, why) in &self.left_out {
            text.push_str(&format!("| {} | {why} |{}\n", what(peer), " |".repeat(self.columns.len())));
        }
        for (peer, round, why) in &self.failures {
            text.push_str(&format!("\nFailed in round {}: {}: {why}\n", round + 1, what(peer)));
        }
        if let Some(others) = self.others() {
            text.push_str(&format!(
                "\nOther processes: {:.0} % of a core, {:.0} % at worst.\n",
                others.median * 100.0,
                others.most * 100.0
            ));
        }
        text
    }

    fn line(&self, row: &Row, what: impl Fn(&str) -> String) -> String {
        let fewer = if row.connections < self.connections {
            format!(" ({} connections)", thousands(row.connections as f64))
        } else {
            String::new()
        };
        let mut text = format!("| {}{fewer} |", what(row.peer));
        for (place, (figure, column)) in row.figures.iter().zip(&self.columns).enumerate() {
            let cell = figure.map_or("unknown".to_owned(), |figure| figure.text(column.decimals, ""));
            text.push_str(&format!(" {cell} |"));
            if place == 0 {
                let ratio =
                    row.ratio.map_or(String::new(), |r| format!("{:.2} ({:.2}–{:.2})", r.median, r.least, r.most));
                text.push_str(&format!(" {ratio} |"));
            }
        }
        text + "\n"
    }
}

/// Runs each of `all` in every round, in the opposite order of the round before.
pub fn in_turns<T>(all: &[T], rounds: usize, mut run: impl FnMut(usize, &T)) {
    for round in 0..rounds {
        let mut order: Vec<&T> = all.iter().collect();
        if round % 2 == 1 {
            order.reverse();
        }
        order.into_iter().for_each(|one| run(round, one));
    }
}
