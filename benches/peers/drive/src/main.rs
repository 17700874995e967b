//! Compares c1m with its peers: servers take turns, round by round, under the same clients.
//!
//! ```text
//!  peers              the servers and how each is started
//!  measures ── effort what is measured, and how; how much of it
//!  report ── chart    tables as Markdown and JSON; bars as SVG
//! ```

mod chart;
mod effort;
mod measures;
mod peers;
mod report;

use std::path::PathBuf;

use bench_support::compare::{self, OTHERS_LIMIT};
use bench_support::peers::{Comparison, new_folder};
use bench_support::samples::Table;
use clap::{Parser, ValueEnum};

use effort::Effort;
use measures::Bench;
use peers::PEERS;
use report::Report;

/// Compares c1m with its peers. Takes more than an hour, and both cores. The tables, the chart and
/// every figure go into a folder of their own.
#[derive(Debug, Parser)]
pub struct Arguments {
    #[command(flatten)]
    comparison: Comparison,
    /// Only these measures, separated by commas; all by default.
    #[arg(long, value_enum, value_name = "NAMES", value_delimiter = ',', default_values = ["idle", "connect", "echo", "offered", "sparse", "held"])]
    measure: Vec<Measure>,
    /// Where the folder of results is made.
    #[arg(long, value_name = "FOLDER", default_value = "target/peers")]
    out: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Measure {
    /// Bytes, processor time of idleness and of closing, for each connection.
    Idle,
    /// Connections per second and how long each took.
    Connect,
    /// Echoes per second with one message in flight on each connection.
    Echo,
    /// How long an echo takes when 20,000 a second are offered.
    Offered,
    /// Bytes of connections that are silent for most of the time, and the processor time of a message.
    Sparse,
    /// Connections that a machine of 512 MiB holds, in the lab's guests.
    Held,
}

fn main() {
    let arguments = Arguments::parse();
    let Comparison { programs, quick, rounds, .. } = &arguments.comparison;
    let peers = arguments.comparison.chosen(&PEERS);
    let folder = new_folder(&arguments.out);
    let bench =
        Bench::new(programs.clone(), folder.clone(), Effort::of(*quick, rounds.map(|rounds| rounds as usize)), peers);
    let mut report = Report::new(*quick, bench.effort.rounds);
    let _turn = compare::our_turn();
    for measure in &arguments.measure {
        let tables: Vec<Table> = match measure {
            Measure::Idle => vec![bench.idle()],
            Measure::Connect => bench.connect(),
            Measure::Echo => bench.echo(),
            Measure::Offered => bench.offered(),
            Measure::Sparse => vec![bench.sparse()],
            Measure::Held => vec![bench.held()],
        };
        report.tables.extend(tables);
        // After each, so that what is there is not lost when something later fails.
        report.write(&folder);
    }
    println!("{}", report.text());
    if report.disturbed() {
        println!("other processes took more than {:.0} % of a core: preliminary", OTHERS_LIMIT * 100.0);
    }
    println!("written to {}: report.md, report.json, chart.svg", folder.display());
}
