//! What is measured: on this machine a server of its own for every run, at `SERVER`, clients beside it; and
//! guests of the lab.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use bench_support::compare::{Others, Quiet, ServerProcess, thousands};
use bench_support::contract::{Target, pin};
use bench_support::memory::{Memory, bare_end};
use bench_support::peers::Server;
use bench_support::reference::client;
use bench_support::samples::{Failure, Figures, Run, Table, in_turns};
use bench_support::sys;
use c1m::internal::latency::Latency;
use serde_json::Value;
use socket2::SockRef;

use crate::effort::Effort;
use crate::peers::{Peer, on_cores};

/// Where every server listens: below the ephemeral ports, so that no client's socket can sit on them.
const SERVER: Target = Target { address: Ipv4Addr::LOCALHOST, first_port: 23_000, ports: 100 };

/// Connects in flight at once.
const CONCURRENCY: usize = 512;

/// Messages a second that are offered: what every peer can do on one core.
const OFFERED: u64 = 20_000;

/// The load of `sparse` is that of so many connections,
const SPARSE_CONNECTIONS: f64 = 1_000_000.0;
/// each of which sends a message so often,
const SPARSE_INTERVAL: Duration = Duration::from_secs(5 * 60);
/// and of which a tenth reconnects within an hour: one of so many messages goes over a new connection.
const MESSAGES_PER_RECONNECT: u32 = 120;

/// A connection that has been silent for so long sleeps, where c1m puts it to sleep after a second.
const ASLEEP_BY: Duration = Duration::from_secs(4);

/// What c1m's server is told to hold at most, its default.
const MOST: usize = 1_000_000;

/// c1m that takes connections until no memory is left.
const NO_RESERVE: &str = "c1m server --memory-reserve 0";

/// How long a connect or an echo may take before a peer has failed.
const PATIENCE: &str = "60s";

/// How a server is started.
#[derive(Clone, Copy)]
struct Setting {
    cores: &'static [usize],
    /// Further arguments of c1m's server.
    ours: &'static [&'static str],
}

impl From<&Placement> for Setting {
    fn from(placement: &Placement) -> Setting {
        Setting { cores: placement.server, ours: &[] }
    }
}

/// Cores of a server and of its clients.
struct Placement {
    name: &'static str,
    server: &'static [usize],
    client: &'static [usize],
}

const PLACEMENTS: [Placement; 2] = [
    Placement { name: "server on one core, client on the other", server: &[0], client: &[1] },
    Placement { name: "both on both cores", server: &[0, 1], client: &[0, 1] },
];

/// Everything that a measure needs.
pub struct Bench {
    pub programs: PathBuf,
    pub folder: PathBuf,
    pub effort: Effort,
    pub peers: Vec<&'static Peer>,
    open_files: usize,
}

impl Bench {
    pub fn new(programs: PathBuf, folder: PathBuf, effort: Effort, peers: Vec<&'static Peer>) -> Bench {
        let open_files = sys::raise_open_files();
        Bench { programs, folder, effort, peers, open_files }
    }

    /// Memory and processor time of idle connections, and of closing them. The client's ends are bare
    /// sockets of this process.
    pub fn idle(&self) -> Table {
        let wanted = self.effort.idle_connections;
        let columns = [
            ("user", "user bytes", 0),
            ("kernel", "kernel bytes", 0),
            ("fixed", "user MiB without any", 1),
            ("idle", "idle CPU, ms/s", 2),
            ("close", "close, µs CPU each", 2),
        ];
        let bare = bare_end(SERVER, wanted);
        self.table(
            format!("{} idle connections, one core", thousands(wanted as f64)),
            wanted,
            &columns,
            Setting { cores: &[0], ours: &[] },
            |server, count| {
                let before = Memory::now(server);
                let ends = dial(count);
                let mut figures = before.growth(server, count, bare);
                figures.insert("fixed", before.user / f64::from(1 << 20));
                let cpu = server.cpu_time();
                pause(self.effort.idle_time);
                let idle = server.cpu_time().saturating_sub(cpu);
                figures.insert("idle", idle.as_secs_f64() * 1e3 / self.effort.idle_time.as_secs_f64());
                let cpu = server.cpu_time();
                reset(ends);
                figures
                    .insert("close", server.cpu_time_at_rest().saturating_sub(cpu).as_secs_f64() * 1e6 / count as f64);
                Ok(figures)
            },
        )
    }

    /// A ramp by c1m's client, which measures each connect, and one by the plain epoll client.
    pub fn connect(&self) -> Vec<Table> {
        let wanted = self.effort.ramp_connections;
        let columns = [
            ("ours", "connects/s", 0),
            ("p50", "p50 ms", 2),
            ("p99", "p99 ms", 2),
            ("p999", "p99.9 ms", 2),
            ("foreign", "connects/s, epoll client", 0),
        ];
        let run = |placement: &Placement| {
            let title = format!("Ramp of {} connections, {}", thousands(wanted as f64), placement.name);
            self.table(title, wanted, &columns, placement.into(), |_, count| {
                let ours = self.c1m_client(placement.client, count, &["--hold", "0s"])?;
                let latency = |name: &str| number(&ours["connect_latency_us"][name]) / 1e3;
                // The server has seen all of these close: the client's resets leave nothing behind.
                let seconds = client::ramp(placement.client, SERVER, count, CONCURRENCY);
                Ok(Figures::from([
                    ("ours", count as f64 / number(&ours["ramp_seconds"])),
                    ("p50", latency("p50")),
                    ("p99", latency("p99")),
                    ("p999", latency("p999")),
                    ("foreign", count as f64 / seconds),
                ]))
            })
        };
        PLACEMENTS.iter().map(run).collect()
    }

    /// The closed loop of the plain epoll client: each echo is answered with the next message.
    pub fn echo(&self) -> Vec<Table> {
        let columns = [("echo", "echoes/s", 0), ("p99", "p99 ms", 2), ("cpu", "server µs CPU each", 2)];
        let mut tables = Vec::new();
        for placement in &PLACEMENTS {
            for &wanted in &self.effort.active {
                let title = format!("Closed loop, {} active, {}", thousands(wanted as f64), placement.name);
                tables.push(self.table(title, wanted, &columns, placement.into(), |server, count| {
                    Ok(self.closed_loop(placement.client, server, count))
                }));
            }
        }
        tables
    }

    /// One thread of the epoll client per core, each with its share of the connections.
    fn closed_loop(&self, cores: &[usize], server: &ServerProcess, count: usize) -> Figures {
        let share = |place: usize| count * (place + 1) / cores.len() - count * place / cores.len();
        let lasting = self.effort.lasting;
        let seen: Vec<_> = thread::scope(|scope| {
            let run = |place: usize| {
                let mut latency = Latency::new().expect("a histogram can be made");
                let clock = || server.cpu_time();
                let echoes =
                    client::echo(cores[place], SERVER, share(place), lasting, clock, |took| latency.record(took));
                assert!(echoes.least > 0.0, "a connection got no echo at all");
                (echoes, latency)
            };
            let threads: Vec<_> = (0..cores.len()).map(|place| scope.spawn(move || run(place))).collect();
            threads.into_iter().map(|thread| thread.join().expect("a client thread says why it failed")).collect()
        });
        let mut all = Latency::new().expect("a histogram can be made");
        seen.iter().for_each(|(_, latency)| all.merge(latency).expect("histograms of one kind can be merged"));
        let rate: f64 = seen.iter().map(|(echoes, _)| echoes.per_second).sum();
        // Each thread saw the clock of the whole server during its own echoes.
        let cpu = 1.0 / seen.iter().map(|(echoes, _)| 1.0 / echoes.clock_per_echo).sum::<f64>();
        Figures::from([("echo", rate), ("p99", all.percentile(99.0) as f64 / 1e3), ("cpu", cpu * 1e6)])
    }

    /// The same load for all, by c1m's client; the latencies count from the intended instant.
    pub fn offered(&self) -> Vec<Table> {
        let columns = [("p99", "p99 ms", 2), ("p50", "p50 ms", 2), ("p999", "p99.9 ms", 2)];
        let run = |&wanted: &usize| {
            let placement = &PLACEMENTS[0];
            let (rate, active) = (thousands(OFFERED as f64), thousands(wanted as f64));
            let title = format!("{rate} echoes/s offered, {active} active, {}", placement.name);
            self.table(title, wanted, &columns, placement.into(), |_, count| {
                let interval = Duration::from_micros(count as u64 * 1_000_000 / OFFERED).max(Duration::from_millis(1));
                let hold = (interval * 2).max(self.effort.lasting);
                let (interval, hold) = (format!("{}us", interval.as_micros()), format!("{}ms", hold.as_millis()));
                let ours = self.c1m_client(placement.client, count, &["--interval", &interval, "--hold", &hold])?;
                let latency = |name: &str| number(&ours["echo_latency_us"][name]) / 1e3;
                assert!(ours["echo_source"] == "messages", "no messages were sent");
                Ok(Figures::from([("p50", latency("p50")), ("p99", latency("p99")), ("p999", latency("p999"))]))
            })
        };
        self.effort.offered.iter().map(run).collect()
    }

    /// Memory of connections that are silent for most of the time, and processor time of their messages. The connections of
    /// c1m sleep between two messages.
    pub fn sparse(&self) -> Table {
        let (wanted, placement) = (self.effort.idle_connections, &PLACEMENTS[0]);
        let columns = [
            ("cpu", "server µs CPU each message", 1),
            ("user", "user bytes", 0),
            ("kernel", "kernel bytes", 0),
            ("p99", "p99 ms", 2),
        ];
        let every = Duration::from_secs_f64(SPARSE_INTERVAL.as_secs_f64() / SPARSE_CONNECTIONS);
        let title = format!(
            "{} connections, each with a message every {:.1} s after which c1m's sleep, {}",
            thousands(wanted as f64),
            (every * wanted as u32).as_secs_f64(),
            placement.name
        );
        let bare = bare_end(SERVER, wanted);
        let setting = Setting { cores: placement.server, ours: &["--hibernate", "1s"] };
        self.table(title, wanted, &columns, setting, |server, count| {
            let before = Memory::now(server);
            let mut ends = dial(count);
            pause(ASLEEP_BY);
            let mut figures = before.growth(server, count, bare);
            let mut latency = Latency::new().map_err(|error| error.to_string())?;
            let messages = (self.effort.sparse_time.as_secs_f64() / every.as_secs_f64()) as u32;
            // On the server's core the client would take turns with the server, which is woken there to send to it.
            let spent = on_core(placement.client[0], || {
                let (cpu, began) = (server.cpu_time(), Instant::now());
                for nth in 0..messages {
                    let intended = began + every * nth;
                    pause(intended.saturating_duration_since(Instant::now()));
                    let at = nth as usize % count;
                    if nth % MESSAGES_PER_RECONNECT == MESSAGES_PER_RECONNECT - 1 {
                        ends[at] = connect(at);
                    }
                    say(&mut ends[at], nth as usize);
                    latency.record(intended.elapsed());
                }
                server.cpu_time().saturating_sub(cpu)
            });
            figures.insert("cpu", spent.as_secs_f64() * 1e6 / f64::from(messages));
            figures.insert("p99", latency.percentile(99.0) as f64 / 1e3);
            reset(ends);
            Ok(figures)
        })
    }

    /// Runs every peer in every round, in turns, each time with a new server.
    fn table(
        &self,
        title: String,
        wanted: usize,
        columns: &[(&'static str, &'static str, usize)],
        setting: Setting,
        mut run: impl FnMut(&ServerProcess, usize) -> Result<Figures, Failure>,
    ) -> Table {
        let mut table = Table::new(title, wanted, columns);
        let mut fits: Vec<(&Peer, usize)> = Vec::new();
        for &peer in &self.peers {
            match peer.holds(wanted, self.open_files) {
                Some(count) => fits.push((peer, count)),
                None => {
                    let why = format!("nofile is {} here", thousands(self.open_files as f64));
                    table.left_out.push((peer.name, why));
                }
            }
        }
        let quiet = Quiet::now();
        self.in_turns(&mut table, &fits, |(peer, count)| {
            let others = Others::now();
            let mut command = peer.command(&self.programs, SERVER, setting.cores, MOST);
            if peer.name == "c1m" {
                command.args(setting.ours);
            }
            let server = ServerProcess::start(command, SERVER);
            let outcome = run(&server, *count);
            let others = others.share_beside(server.cpu_time());
            drop(server);
            quiet.wait();
            Run { peer: peer.name, connections: *count, others: Some(others), outcome }
        });
        table
    }

    /// Runs each in every round, and shows what comes of it.
    fn in_turns<T>(&self, table: &mut Table, all: &[T], mut run: impl FnMut(&T) -> Run) {
        println!("{}", table.title);
        in_turns(all, self.effort.rounds, |round, one| {
            let run = run(one);
            match &run.outcome {
                Ok(figures) => {
                    let (main, title) = (figures[table.columns[0].key], table.columns[0].title);
                    println!("  round {} {:<8} {main:>12.2} {title}", round + 1, run.peer);
                }
                Err(why) => println!("  round {} {:<8} failed: {why}", round + 1, run.peer),
            }
            table.add(round, run);
        });
    }

    /// Connections that a machine holds before its memory runs out: the lab's server, to which two
    /// clients open more than fit. c1m runs twice: as it comes, when it stops in time, and without a
    /// reserve.
    pub fn held(&self) -> Table {
        let (memory, wanted) = self.effort.guest;
        let columns = [
            ("held", "connections held at most", 0),
            ("alive", "alive afterwards, %", 0),
            ("resident", "server MiB resident", 1),
        ];
        let mut table = Table::new(format!("A machine of {memory} MiB"), wanted, &columns);
        let mut all: Vec<(&'static str, &Peer, &str)> = Vec::new();
        for &peer in &self.peers {
            if !peer.stands_alone() {
                table.left_out.push((peer.name, "it is no static program".to_owned()));
                continue;
            }
            all.push((peer.name, peer, ""));
            if peer.name == "c1m" {
                all.push((NO_RESERVE, peer, "--memory-reserve 0"));
            }
        }
        let mut runs = 0;
        self.in_turns(&mut table, &all, |(name, peer, options)| {
            runs += 1;
            let outcome = self.guest(&self.folder.join(format!("guests/{runs}")), peer, options, memory, wanted);
            Run { peer: name, connections: wanted, others: None, outcome }
        });
        table
    }

    /// A run of the lab, which makes a folder in `out`, whose report tells what its server held.
    fn guest(&self, out: &Path, peer: &Peer, options: &str, memory: u64, wanted: usize) -> Result<Figures, Failure> {
        // The lab runs in another folder.
        let absolute = |path: &Path| std::path::absolute(path).expect("this folder has a path");
        let mut command = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../tuning/lab/run"));
        command.args(["--server-memory", &memory.to_string(), "--client-memory", "1024", "--clients", "2"]);
        command.args(["--connections", &wanted.to_string(), "--client-options", "--rate 2000/s", "--no-kill"]);
        command.args(["--deadline", "5m", "--out"]).arg(absolute(out));
        match peer.name {
            "c1m" => command.args(["--server-options", options]),
            _ => command.arg("--server-program").arg(absolute(&self.programs.join(peer.program()))),
        };
        // The peers are static. The lab builds programs for this host, and macros cannot be static.
        command.env_remove("RUSTFLAGS");
        let output = sys::dying_with_us(&mut command).output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let run = fs::read_dir(out).into_iter().flatten().flatten().map(|run| run.path()).next();
        let run = run.ok_or_else(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
        let text = fs::read_to_string(run.join("report.json")).map_err(|error| error.to_string())?;
        let report: Value = serde_json::from_str(&text).expect("the lab writes JSON");
        println!("    {}", report["verdict"]);
        Ok(Figures::from([
            ("held", number(&report["most_held"])),
            ("alive", if report["fallen"] == "server" { 0.0 } else { 100.0 }),
            ("resident", number(&report["memory"]["resident"]) / f64::from(1 << 20)),
        ]))
    }

    /// Runs c1m's client with audits, and reads its result. A peer has failed if not every connection
    /// stood to the end.
    fn c1m_client(&self, cores: &[usize], count: usize, more: &[&str]) -> Result<Value, Failure> {
        let file = self.folder.join("client.json");
        let mut command = on_cores(cores, &self.programs.join("c1m"));
        let (port, ports) = (SERVER.first_port.to_string(), SERVER.ports.to_string());
        command.args(["client", "--target-ip", &SERVER.address.to_string(), "--port", &port, "--ports", &ports]);
        command.args(["--connections", &count.to_string(), "--concurrency", &CONCURRENCY.to_string()]);
        command.args(["--connect-timeout", PATIENCE, "--reply-timeout", PATIENCE]);
        command.args(["--close", "rst", "--json"]).arg(&file).args(more);
        let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let said = || String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
        let text = fs::read_to_string(&file).unwrap_or_else(|error| {
            panic!("{command:?} ({}), {}: {error}:\n{}", output.status, file.display(), said())
        });
        let _ = fs::remove_file(&file);
        let result: Value = serde_json::from_str(&text).expect("--json writes JSON");
        if output.status.success() && result["live"] == count {
            return Ok(result);
        }
        Err(format!("of {count} connections {} stood, errors {}", result["live"], result["errors"]))
    }
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

/// Connects to every port in turn and has each connection echo a greeting, so that what a server
/// makes on a connection's first message is there.
fn dial(count: usize) -> Vec<TcpStream> {
    let open = |at: usize| {
        let mut stream = connect(at);
        say(&mut stream, at);
        stream
    };
    (0..count).map(open).collect()
}

/// Connects to one of the ports.
fn connect(at: usize) -> TcpStream {
    let port = SERVER.first_port + (at % SERVER.ports) as u16;
    TcpStream::connect((SERVER.address, port)).expect("the server listens")
}

/// Sends 16 bytes, and waits for their echo.
fn say(stream: &mut TcpStream, number: usize) {
    let mut back = [0; 16];
    let words = format!("greeting {number:>7}");
    stream.write_all(words.as_bytes()).and_then(|()| stream.read_exact(&mut back)).expect("the server echoes");
    assert!(back == words.as_bytes(), "greeting {number} came back as other bytes");
}

/// Closes connections so that nothing is left of them at this end.
fn reset(ends: Vec<TcpStream>) {
    for end in &ends {
        SockRef::from(end).set_linger(Some(Duration::ZERO)).expect("SO_LINGER can be set on a TCP socket");
    }
}

/// Does something on a thread of its own that stays on this core.
fn on_core<T: Send>(core: usize, act: impl FnOnce() -> T + Send) -> T {
    let pinned = || {
        pin(core);
        act()
    };
    let ended = thread::scope(|scope| scope.spawn(pinned).join());
    ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Lets time pass: what is measured is what happens meanwhile.
fn pause(time: Duration) {
    thread::sleep(time);
}
