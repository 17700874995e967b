//! Interval logs of several machines merged into one document of latencies.

use std::collections::BTreeMap;

use serde::Serialize;

use super::document::LatencyDocument;
use crate::error::{ConfigError, DocumentProblem, Result};
use crate::latency::Latency;
use crate::latency::log::{self, Measure, Series};

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

/// The latencies of a machine.
pub type MachineLog = BTreeMap<Series, Latency>;

/// Reads a log. `name` is the name of the text's source, for errors.
pub fn read(text: &[u8], name: &str) -> Result<MachineLog> {
    log::read(text).map_err(|why| {
        let problem = DocumentProblem::NoLog(why.to_string());
        ConfigError::Document { name: name.to_owned(), problem }.into()
    })
}

/// Identities of the runs that a log holds. A log of an earlier version has none; its content serves as one.
pub fn identities(text: &[u8]) -> Vec<String> {
    let runs = log::runs(text);
    if runs.is_empty() { vec![String::from_utf8_lossy(text).into_owned()] } else { runs }
}

/// Merges logs, each with the name of its machine.
pub fn merge(logs: &[(String, MachineLog)]) -> Result<LogsDocument> {
    let machine = |(machine, log): &(String, MachineLog)| {
        Ok(LogDocument { machine: machine.clone(), measures: measures(log.iter())? })
    };
    let machines = logs.iter().map(machine).collect::<Result<_>>()?;
    Ok(LogsDocument { measures: measures(logs.iter().flat_map(|(_, log)| log))?, machines })
}

fn measures<'a>(series: impl Iterator<Item = (&'a Series, &'a Latency)>) -> Result<BTreeMap<Measure, LatencyDocument>> {
    let mut all: BTreeMap<Measure, Latency> = BTreeMap::new();
    for (one, latency) in series {
        match all.get_mut(&one.measure) {
            Some(sum) => sum.merge(latency)?,
            None => _ = all.insert(one.measure, latency.clone()),
        }
    }
    all.iter().map(|(measure, latency)| Ok((*measure, LatencyDocument::of(latency)?))).collect()
}

impl LogsDocument {
    /// A row for each machine that has this measure, and one for all machines together.
    pub fn rows(&self, measure: Measure) -> Vec<(String, &LatencyDocument)> {
        let machines = self.machines.iter().map(|one| (one.machine.clone(), one.measures.get(&measure)));
        let rows = machines.chain([("all".to_owned(), self.measures.get(&measure))]);
        rows.filter_map(|(name, latency)| Some((name, latency?))).collect()
    }
}
