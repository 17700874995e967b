//! Kernel memory per idle connection, from /proc/slabinfo (root reads it), for each end apart:
//! a bare socket, c1m's server with its connections behind a filter and in polls, c1m's client.
//!
//!     cargo bench --bench memory
//!
//! How: the same number of loopback connections is opened four times, between two bare ends in
//! this process (std sockets, no epoll), between c1m's server and a bare client (twice), and between a bare
//! server and c1m's client. Each time the growth of every slab cache, in bytes of objects in use,
//! is divided by the connections. What c1m adds to an end is the difference to the first run.

use std::io::{BufRead, BufReader};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bench_support::compare::our_turn;
use bench_support::memory::{Slab, bare_pairs, slab};
use bench_support::sys;

/// Both bare ends are file descriptors of this process, whose hard limit may be 20,000.
const CONNECTIONS: usize = 9_000;
/// Below the ephemeral ports, so that no client's socket can sit on them.
const PORT: u16 = 22_500;
const PORTS: u16 = 10;
/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(60);

fn main() {
    let smoke = !std::env::args().any(|argument| argument == "--bench");
    let Some(_) = slab() else {
        println!("/proc/slabinfo cannot be read by this user: nothing measured");
        return;
    };
    let _turn = our_turn();
    let open_files = sys::raise_open_files();
    let count = if smoke { 500 } else { CONNECTIONS.min((open_files - 500) / 2) };
    println!("growth of slab caches in bytes per connection, {count} idle loopback connections\n");
    let bare = bare_ends(count);
    let filter = against_c1m_server(count, "auto");
    let polls = against_c1m_server(count, "poll");
    let client = against_c1m_client(count);
    let caches: Vec<&String> = bare.keys().chain(filter.keys()).chain(client.keys()).collect();
    let mut shown: Vec<&String> = caches
        .into_iter()
        .filter(|name| [&bare, &filter, &polls, &client].iter().any(|s| per(s, name, count) >= 8.0))
        .collect();
    shown.sort();
    shown.dedup();
    let columns = [("bare+bare", &bare), ("c1m server", &filter), ("in polls", &polls), ("c1m client", &client)];
    let row = |name: &str, cells: [String; 4]| {
        println!("{name:<24} {:>12} {:>12} {:>12} {:>12}", cells[0], cells[1], cells[2], cells[3]);
    };
    row("cache", columns.map(|(name, _)| name.to_owned()));
    for name in shown {
        row(name, columns.map(|(_, slab)| format!("{:.0}", per(slab, name, count))));
    }
    let total = |slab: &Slab| slab.values().sum::<i64>() as f64 / count as f64;
    row("all caches", columns.map(|(_, slab)| format!("{:.0}", total(slab))));
    row("beyond a bare socket", columns.map(|(_, slab)| format!("{:.0}", total(slab) - total(&bare))));
}

fn per(slab: &Slab, name: &str, count: usize) -> f64 {
    slab.get(name).copied().unwrap_or(0) as f64 / count as f64
}

fn growth(before: &Slab) -> Slab {
    let after = slab().expect("it could be read before");
    after.into_iter().map(|(name, bytes)| (name.clone(), bytes - before.get(&name).copied().unwrap_or(0))).collect()
}

/// Connects from this process to every port in turn.
fn dial(count: usize) -> Vec<TcpStream> {
    let port = |at: usize| PORT + (at % usize::from(PORTS)) as u16;
    (0..count).map(|at| TcpStream::connect(("127.0.0.1", port(at))).expect("the server listens")).collect()
}

fn listen() -> Vec<TcpListener> {
    let deadline = Instant::now() + PATIENCE;
    let bound = |port| loop {
        match TcpListener::bind(("127.0.0.1", port)) {
            Ok(listener) => return listener,
            // The rings of the previous server hold its listeners for a moment after its process has ended.
            Err(e) => assert!(Instant::now() < deadline, "port {port}: {e}"),
        }
    };
    (PORT..PORT + PORTS).map(bound).collect()
}

fn bare_ends(count: usize) -> Slab {
    let listeners = listen();
    let before = slab().expect("it could be read before");
    let _ends = bare_pairs(&listeners, count);
    growth(&before)
}

fn against_c1m_server(count: usize, park: &str) -> Slab {
    let mut server = Running::start(&format!(
        "server --bind 127.0.0.1 --port {PORT} --ports {PORTS} --park {park} --stats-interval 50ms --json -"
    ));
    server.until(r#""event":"ready""#);
    let before = slab().expect("it could be read before");
    let ends = dial(count);
    server.until(&format!(r#""live":{count},"#));
    let grown = growth(&before);
    drop(ends);
    grown
}

fn against_c1m_client(count: usize) -> Slab {
    let listeners = listen();
    let before = slab().expect("it could be read before");
    let arguments = format!(
        "client --target-ip 127.0.0.1 --port {PORT} --ports {PORTS} --connections {count} --audit state --hold 60s --close rst"
    );
    let mut command = c1m(&arguments);
    command.args(["--hello", ""]);
    let mut client = Running::spawn(command);
    // One connection per port in turn, so each listener gets its share.
    let ends: Vec<TcpStream> =
        (0..count).map(|at| listeners[at % listeners.len()].accept().expect("the client connects").0).collect();
    client.until("hold ");
    let grown = growth(&before);
    drop(ends);
    grown
}

fn c1m(arguments: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_c1m"));
    command.args(arguments.split_whitespace());
    command
}

/// A c1m process; killed when dropped.
struct Running {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Running {
    fn start(arguments: &str) -> Running {
        Running::spawn(c1m(arguments))
    }

    fn spawn(mut command: Command) -> Running {
        let mut child = command.stdout(Stdio::piped()).spawn().expect("c1m was built along with the bench");
        let out = child.stdout.take().expect("it was piped");
        Running { child, lines: BufReader::new(out).lines() }
    }

    /// Reads its lines until one has `words`.
    fn until(&mut self, words: &str) {
        let deadline = Instant::now() + PATIENCE;
        for line in self.lines.by_ref() {
            if line.expect("its output is text").contains(words) {
                return;
            }
            assert!(Instant::now() < deadline, "c1m did not say {words}");
        }
        panic!("c1m ended before it said {words}");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // The process may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
