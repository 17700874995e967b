//! Echoes per second of one c1m shard and of one epoll thread on the same core, under the same
//! epoll client on another: every connection keeps one 64-byte message in flight.
//!
//!     cargo bench --bench echo -- --rounds 5
//!
//! The client costs about as much per echo as the server does, so when the client's core is the
//! full one a faster server shows less in the rate than in its processor time per echo.

use std::net::Ipv4Addr;
use std::process::Command;
use std::time::Duration;

use bench_support::compare::{self, Effort, Pairs, Quiet, ServerProcess, Side, median};
use bench_support::contract::{self, Contract, Target};
use bench_support::reference::client::{self, MESSAGE_BYTES};
use bench_support::reference::server;
use bench_support::sys;

const SERVER_CORE: usize = 0;
const CLIENT_CORE: usize = 1;
/// Below the ephemeral ports, so that no client's socket can sit on them.
const TARGET: Target = Target { address: Ipv4Addr::LOCALHOST, first_port: 21_000, ports: 10 };
/// Makes this program the epoll server.
const SERVER_ROLE: &str = "reference-server";

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|role| role == SERVER_ROLE) {
        return server::run(&Contract::new(TARGET, &[SERVER_CORE]), contract::ready);
    }
    let effort = Effort::from_arguments(&arguments);
    let _turn = compare::our_turn();
    let open_files = sys::raise_open_files();
    let (sizes, lasting) = match effort.smoke {
        true => (vec![100], Duration::from_millis(500)),
        // epoll holds a file descriptor per connection, which the hard limit caps.
        false => (vec![1, 10, 100, 1_000, 19_000.min(open_files.saturating_sub(500))], Duration::from_secs(4)),
    };
    println!(
        "echo of {MESSAGE_BYTES}-byte messages, server on core {SERVER_CORE}, epoll client on core {CLIENT_CORE}; rounds: {} of {lasting:?}\n{}\n",
        effort.rounds,
        compare::host()
    );
    for active in sizes {
        println!("{active} active connections");
        compare_at(active, &effort, lasting);
    }
}

/// Compares the sides at one size and prints its table.
fn compare_at(active: usize, effort: &Effort, lasting: Duration) {
    let quiet = Quiet::now();
    // Rounds that are run again add their costs too: what other processes take is not in a server's processor time.
    let mut costs = [vec![], vec![]];
    let mut least = [1.0_f64; 2];
    let rates = Pairs::alternate(effort, |side| {
        let server = ServerProcess::start(server_command(side), TARGET);
        let echoes = client::echo(CLIENT_CORE, TARGET, active, lasting, || server.cpu_time(), |_| {});
        assert!(echoes.least > 0.0, "a connection got no echo at all");
        costs[side as usize].push(echoes.clock_per_echo);
        least[side as usize] = least[side as usize].min(echoes.least);
        drop(server);
        quiet.wait();
        echoes.per_second
    });
    let mut cost_ratios: Vec<f64> = costs[1].iter().zip(&costs[0]).map(|(c1m, epoll)| c1m / epoll).collect();
    println!("\n          median/s          range              server CPU  least served");
    for side in Side::BOTH {
        let (cost, least) = (median(&mut costs[side as usize]) * 1e6, least[side as usize] * 100.0);
        println!("  {:<6}{}  {cost:>6.2} µs/echo  {least:>4.0} % of mean", side.name(), rates.describe(side));
    }
    println!("  c1m/epoll, median of the pairwise ratios: {}", rates.ratio());
    let middle = median(&mut cost_ratios);
    println!(
        "  server CPU of c1m/epoll, likewise: {middle:.3}  ({:.3} .. {:.3})\n",
        cost_ratios[0],
        cost_ratios[cost_ratios.len() - 1]
    );
}

fn server_command(side: Side) -> Command {
    match side {
        Side::Epoll => compare::ourselves([SERVER_ROLE]),
        Side::C1m => compare::c1m_server(env!("CARGO_BIN_EXE_c1m"), &[SERVER_CORE], TARGET),
    }
}
