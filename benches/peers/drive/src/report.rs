//! The tables as Markdown for people and as JSON for programs, and the chart beside them.

use std::fs;
use std::path::Path;

use bench_support::compare::{self, OTHERS_LIMIT};
use bench_support::peers::{keep, what};
use bench_support::questions;
use bench_support::samples::{Row, Table};
use serde::Serialize;
use serde_json::{Value, json};

use crate::chart;
use crate::peers::PEERS;

/// The versions of what the peers are made of.
const LOCK: &str = include_str!("../../Cargo.lock");

/// Everything that was measured.
#[derive(Debug, Serialize)]
pub struct Report {
    quick: bool,
    rounds: usize,
    host: String,
    versions: String,
    pub tables: Vec<Table>,
}

impl Report {
    pub fn new(quick: bool, rounds: usize) -> Report {
        let processor = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = processor.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let host = format!("{cores} cores, {}, {}", model.map_or("unknown", |(_, model)| model), compare::host());
        let mut versions: Vec<String> =
            ["tokio", "monoio", "glommio"].iter().filter_map(|name| version(name)).collect();
        versions.extend(std::env::var("PEER_VERSIONS").ok());
        Report { quick, rounds, host, versions: versions.join(", "), tables: Vec::new() }
    }

    /// Whether other processes were at work in half of the runs of any table.
    pub fn disturbed(&self) -> bool {
        self.tables.iter().filter_map(Table::others).any(|others| others.median > OTHERS_LIMIT)
    }

    /// Five questions with their answers, and the tables.
    pub fn text(&self) -> String {
        let rounds = if self.rounds == 1 { "one round".to_owned() } else { format!("{} rounds in turns", self.rounds) };
        let mut text = format!("{}; {}; median (range) of {rounds}\n", self.host, self.versions);
        if self.quick {
            text.push_str("\nA look with `--quick`: the figures mean nothing.\n");
        }
        text.push_str(&format!("\n{}", questions::table(&self.document())));
        for table in &self.tables {
            text.push_str(&table.markdown(|name| what(&PEERS, name)));
        }
        text
    }

    /// Every figure, and the lines of the tables.
    fn document(&self) -> Value {
        let rows: Vec<Vec<Row>> = self.tables.iter().map(Table::rows).collect();
        json!({ "report": self, "rows": rows, "command": std::env::args().collect::<Vec<_>>() })
    }

    /// Writes report.md, report.json and chart.svg.
    pub fn write(&self, folder: &Path) {
        let document = serde_json::to_string_pretty(&self.document()).expect("plain figures can be written as JSON");
        keep(folder, "report.md", &self.text());
        keep(folder, "report.json", &document);
        keep(folder, "chart.svg", &chart::svg(&self.tables));
    }
}

fn version(package: &str) -> Option<String> {
    let (_, behind) = LOCK.split_once(&format!("name = \"{package}\"\nversion = \""))?;
    Some(format!("{package} {}", behind.split('"').next()?))
}
