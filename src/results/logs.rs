//! Interval logs of several machines merged into one document of latencies.

use std::collections::BTreeMap;
use std::io::BufRead;

use serde::Serialize;

use super::document::LatencyDocument;
use crate::error::{ConfigError, DocumentProblem, Result};
use crate::latency::Latency;
use crate::latency::log::{LogError, Measure, Reader};

/// The latencies of several machines, by measure.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LogsDocument {
    /// The latencies of all machines, merged.
    pub measures: BTreeMap<Measure, LatencyDocument>,
    /// The latencies of each machine.
    pub machines: Vec<LogDocument>,
}

/// The latencies of one machine, its shards and intervals merged.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LogDocument {
    /// The machine's name.
    pub machine: String,
    /// The latencies by measure.
    pub measures: BTreeMap<Measure, LatencyDocument>,
}

/// What the log of a machine holds.
#[derive(Debug, Clone)]
pub struct MachineLog {
    /// The latencies of all intervals by measure, those of all shards and publications together.
    pub measures: Measures,
    /// Identities of the runs.
    pub runs: Vec<String>,
}

/// Latencies by measure. A log may have a hundred thousand series, each of which would take a histogram's memory.
pub type Measures = BTreeMap<Measure, Latency>;

/// Reads a log. `name` is the name of the text's source, for errors.
pub fn read(text: impl BufRead, name: &str) -> Result<MachineLog> {
    let (mut log, mut measures) = (Reader::new(text), Measures::new());
    let no_log = |why: LogError| {
        let problem = DocumentProblem::NoLog(why.to_string());
        ConfigError::Document { name: name.to_owned(), problem }
    };
    while let Some((series, piece)) = log.next_interval().map_err(no_log)? {
        add(&mut measures, series.measure, &piece)?;
    }
    Ok(MachineLog { measures, runs: log.into_runs() })
}

fn add(measures: &mut Measures, measure: Measure, latency: &Latency) -> Result<()> {
    match measures.get_mut(&measure) {
        Some(sum) => sum.merge(latency),
        None => {
            measures.insert(measure, latency.clone());
            Ok(())
        }
    }
}

/// Merges logs, each with the name of its machine.
pub fn merge(logs: Vec<(String, MachineLog)>) -> Result<LogsDocument> {
    let mut all = Measures::new();
    for (_, log) in &logs {
        log.measures.iter().try_for_each(|(measure, latency)| add(&mut all, *measure, latency))?;
    }
    let machine =
        |(machine, log): (String, MachineLog)| Ok(LogDocument { machine, measures: documents(&log.measures)? });
    Ok(LogsDocument { measures: documents(&all)?, machines: logs.into_iter().map(machine).collect::<Result<_>>()? })
}

fn documents(measures: &Measures) -> Result<BTreeMap<Measure, LatencyDocument>> {
    measures.iter().map(|(measure, latency)| Ok((*measure, LatencyDocument::of(latency)?))).collect()
}

impl LogsDocument {
    /// A row for each machine that has this measure, and one for all machines together.
    pub fn rows(&self, measure: Measure) -> Vec<(String, &LatencyDocument)> {
        let machines = self.machines.iter().map(|one| (one.machine.clone(), one.measures.get(&measure)));
        let rows = machines.chain([("all".to_owned(), self.measures.get(&measure))]);
        rows.filter_map(|(name, latency)| Some((name, latency?))).collect()
    }
}
