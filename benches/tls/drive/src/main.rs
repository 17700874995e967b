//! Compares c1m with other servers that speak TLS: they take turns, round by round, under the same client.
//!
//! ```text
//!  peers     the servers and how each is started
//!  measures  what is measured of one server
//!  crowd     the client's end of the connections
//! ```

mod crowd;
mod measures;
mod peers;

use std::path::{Path, PathBuf};

use bench_support::compare::{self, OTHERS_LIMIT, Quiet};
use bench_support::contract::{self, Contract};
use bench_support::peers::{Comparison, keep, new_folder, what};
use bench_support::reference::server;
use bench_support::samples::{Row, Table, in_turns};
use bench_support::sys;
use clap::Parser;
use serde_json::json;

use measures::{Bench, Effort};
use peers::PEERS;

/// Compares c1m with other servers that speak TLS. Takes a quarter of an hour, and both cores. The tables and every figure
/// go into a folder of their own.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(flatten)]
    comparison: Comparison,
    /// Where the folder of results is made.
    #[arg(long, value_name = "FOLDER", default_value = "target/tls")]
    out: PathBuf,
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if let [role, told @ ..] = &words[..]
        && role == measures::ECHO_ROLE
    {
        return server::run(&Contract::of(told), contract::ready);
    }
    compare_all(&Arguments::parse());
}

fn compare_all(arguments: &Arguments) {
    sys::raise_open_files();
    let Comparison { programs, quick, rounds, .. } = &arguments.comparison;
    let peers = arguments.comparison.chosen(&PEERS);
    let folder = new_folder(&arguments.out);
    let rounds = rounds.map_or(if *quick { 1 } else { 5 }, |rounds| rounds as usize);
    let _turn = compare::our_turn();
    let bench = Bench::new(programs.clone(), &folder, Effort::of(*quick));
    let mut tables = bench.tables();
    let quiet = Quiet::now();
    in_turns(&peers, rounds, |round, peer| {
        let run = bench.run(peer);
        match &run.outcome {
            Ok(figures) => println!("round {} {:<10} {figures:.2?}", round + 1, peer.name),
            Err(why) => println!("round {} {:<10} failed: {why}", round + 1, peer.name),
        }
        tables.iter_mut().for_each(|table| table.add(round, run.clone()));
        // After each, so that what is there is not lost when something later fails.
        write(&folder, *quick, rounds, &tables);
        quiet.wait();
    });
    println!("{}", text(*quick, rounds, &tables));
    if tables[0].others().is_some_and(|others| others.median > OTHERS_LIMIT) {
        println!("other processes took more than {:.0} % of a core: preliminary", OTHERS_LIMIT * 100.0);
    }
    println!("written to {}: report.md, report.json", folder.display());
}

fn text(quick: bool, rounds: usize, tables: &[Table]) -> String {
    let rounds = if rounds == 1 { "one round".to_owned() } else { format!("{rounds} rounds in turns") };
    let versions = std::env::var("PEER_VERSIONS").unwrap_or_default();
    let mut text = format!("{}; {versions}; median (range) of {rounds}\n", compare::host());
    if quick {
        text.push_str("\nA look with `--quick`: the figures mean nothing.\n");
    }
    tables.iter().for_each(|table| text.push_str(&table.markdown(|name| what(&PEERS, name))));
    text
}

/// Writes report.md and report.json.
fn write(folder: &Path, quick: bool, rounds: usize, tables: &[Table]) {
    let rows: Vec<Vec<Row>> = tables.iter().map(Table::rows).collect();
    let document = json!({
        "quick": quick, "rounds": rounds, "host": compare::host(), "versions": std::env::var("PEER_VERSIONS").ok(),
        "tables": tables, "rows": rows, "command": std::env::args().collect::<Vec<_>>(),
    });
    keep(folder, "report.md", &text(quick, rounds, tables));
    keep(folder, "report.json", &format!("{document:#}"));
}
