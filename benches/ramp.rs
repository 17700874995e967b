//! Connects per second of `c1m client` against `c1m server`, and of the epoll pair: both sides
//! run on the same two cores, open the same connections with the same number in flight, and
//! greet on each, which the server echoes.
//!
//!     cargo bench --bench ramp -- --rounds 5

use std::fs;
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};

use bench_support::compare::{self, Effort, Pairs, Quiet, ServerProcess, Side};
use bench_support::contract::{self, Contract, Target};
use bench_support::reference::client;
use bench_support::reference::server;
use bench_support::sys;

const CORES: [usize; 2] = [0, 1];
/// Below the ephemeral ports, so that no client's socket can sit on them.
const TARGET: Target = Target { address: Ipv4Addr::LOCALHOST, first_port: 22_000, ports: 100 };
/// In flight at once, over all threads of the client.
const CONCURRENCY: usize = 512;
/// Make this program the epoll server, or the epoll client for the number of connections that follows.
const SERVER_ROLE: &str = "reference-server";
const CLIENT_ROLE: &str = "reference-client";

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.first().map(String::as_str) {
        Some(SERVER_ROLE) => return server::run(&Contract::new(TARGET, &CORES), contract::ready),
        Some(CLIENT_ROLE) => {
            let connections = arguments.get(1).and_then(|count| count.parse().ok()).expect("the role takes a number");
            return println!("{}", client::ramp(&CORES, TARGET, connections, CONCURRENCY));
        }
        _ => {}
    }
    let effort = Effort::from_arguments(&arguments);
    let _turn = compare::our_turn();
    let open_files = sys::raise_open_files();
    // epoll holds a file descriptor per connection, which the hard limit caps.
    let connections = if effort.smoke { 500 } else { 18_000.min(open_files.saturating_sub(500)) };
    println!(
        "ramp of {connections} connections over {} ports, {CONCURRENCY} in flight, servers and clients on cores {CORES:?}; rounds: {}\n{}\n",
        TARGET.ports,
        effort.rounds,
        compare::host()
    );
    let quiet = Quiet::now();
    let rates = Pairs::alternate(&effort, |side| {
        let server = ServerProcess::start(server_command(side), TARGET);
        let seconds = match side {
            Side::Epoll => epoll_ramp(connections),
            Side::C1m => c1m_ramp(connections),
        };
        drop(server);
        quiet.wait();
        connections as f64 / seconds
    });
    println!("\n          median/s          range");
    for side in Side::BOTH {
        println!("  {:<6}{}", side.name(), rates.describe(side));
    }
    println!("  c1m/epoll, median of the pairwise ratios: {}", rates.ratio());
}

fn server_command(side: Side) -> Command {
    match side {
        Side::Epoll => compare::ourselves([SERVER_ROLE]),
        Side::C1m => compare::c1m_server(env!("CARGO_BIN_EXE_c1m"), &CORES, TARGET),
    }
}

/// The epoll client in a process of its own, as c1m's is: each round starts with a small
/// descriptor table. Tells the seconds of the ramp.
fn epoll_ramp(connections: usize) -> f64 {
    let mut command = compare::ourselves([CLIENT_ROLE, &connections.to_string()]);
    let output = command.stderr(Stdio::inherit()).output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?} failed: {}", output.status);
    let text = String::from_utf8_lossy(&output.stdout);
    text.trim().parse().unwrap_or_else(|error| panic!("the client says {text:?}, which is no number: {error}"))
}

/// c1m's client; tells the seconds of its ramp, which ends, as that of the epoll client does, when
/// the last greeting has come back (`--audit echo` makes it wait for them).
fn c1m_ramp(connections: usize) -> f64 {
    let directory = tempfile::tempdir().expect("a temporary directory can be made");
    let report = directory.path().join("ramp.json");
    let [_, first_port, ports, cores] = Contract::new(TARGET, &CORES).words();
    let mut command = Command::new("taskset");
    command.args(["--cpu-list", &cores, env!("CARGO_BIN_EXE_c1m")]);
    command.args(["client", "--target-ip", "127.0.0.1", "--port", &first_port]);
    command.args(["--ports", &ports, "--connections", &connections.to_string()]);
    command.args(["--concurrency", &CONCURRENCY.to_string(), "--hold", "0s", "--audit", "echo", "--close", "rst"]);
    command.arg("--json").arg(&report);
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let said = || String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{command:?} failed ({}) and said:\n{}", output.status, said());
    let text = fs::read_to_string(&report).unwrap_or_else(|error| panic!("{}: {error}", report.display()));
    let report: serde_json::Value = serde_json::from_str(&text).expect("--json writes JSON");
    assert!(report["live"].as_u64() == Some(connections as u64), "not all connections are live: {text}");
    let seconds = report["ramp_seconds"].as_f64();
    seconds.filter(|&seconds| seconds > 0.0).unwrap_or_else(|| panic!("no ramp_seconds in {text}"))
}
