//! A mass disconnect under `c1m storm`: a third of the connections of c1m's server, or of the epoll
//! reference, are closed at once, while the other connections send messages. `--how` says how:
//!
//! - `rst` (the default) and `fin`: `storm disconnect`. When messages have ended, the other connections are closed the
//!   same way; the server's processor time is then for closing alone.
//! - `killed`: `storm killed`. When messages have ended, another client with as many connections is killed; the
//!   server's processor time is then for closing alone.
//!
//! `--victims-core N` confines the threads of the killed process to a core, and `--victims-weight N` gives it that
//! weight in a cgroup of its own (cpu.weight, or cpu.shares where cgroups are of version 1). They show how much of
//! the delay is the killed process's own work on the shared cores.
//!
//!     cargo bench --bench storm -- --rounds 5 --connections 1000000
//!     cargo bench --bench storm -- --rounds 5 --connections 300000 --how killed

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use bench_support::compare::{self, Effort, Quiet, ServerProcess, Side, thousands};
use bench_support::contract::{self, Contract, Target};
use bench_support::reference::server;
use bench_support::sys;
use serde_json::Value;

const CORES: [usize; 2] = [0, 1];
/// Below the ephemeral ports, so that no client's socket can sit on them.
const TARGET: Target = Target { address: Ipv4Addr::LOCALHOST, first_port: 21_000, ports: 100 };
/// Roles of this program: all processes of the epoll reference, for a number of connections; or one of them, given its
/// contract.
const GROUP_ROLE: &str = "reference-group";
const SERVER_ROLE: &str = "reference-server";
/// Descriptors that a process needs for other things than connections.
const OTHER_DESCRIPTORS: usize = 200;

/// The figures of one run: what each is called, and its decimals.
const FIGURES: [(&str, usize); 9] = [
    ("p99 before, ms", 2),
    ("p99 in the storm, ms", 2),
    ("in the storm / before", 2),
    ("p99.9 in the storm, ms", 2),
    ("storm, s", 2),
    // No server runs in that time, so its delays are not theirs.
    ("the host took in it, ms", 0),
    ("absorbed after, s", 2),
    ("server CPU a close, us", 2),
    ("of it user, %", 1),
];
/// Those of `FIGURES` whose ratio of c1m to epoll is told.
const COMPARED: [usize; 3] = [1, 2, 7];

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        [GROUP_ROLE, connections] => return serve_as_group(connections.parse().expect("the role takes a number")),
        [SERVER_ROLE, ..] => return server::run(&Contract::of(&arguments[1..]), contract::ready),
        _ => {}
    }
    let effort = Effort::from_arguments(&arguments);
    let asked = asked(&words);
    let connections: usize = asked.connections.unwrap_or(if effort.smoke { 400 } else { 1_000_000 });
    let _turn = compare::our_turn();
    let open_files = sys::raise_open_files();
    println!(
        "{} connections, {}; rounds: {}; epoll in {} process(es), for nofile is {open_files}\n{}\n",
        thousands(connections as f64),
        asked.how.sentence(),
        effort.rounds,
        processes(connections, open_files).len(),
        compare::host()
    );
    let quiet = Quiet::now();
    let mut rounds = Vec::new();
    for round in 0..effort.rounds {
        let pair = Side::BOTH.map(|side| {
            let server = ServerProcess::start(command(side, connections), TARGET);
            let seen = storm(&server, connections, effort.smoke, &asked);
            drop(server);
            quiet.wait();
            println!("  round {} {:<6} {}", round + 1, side.name(), line(&seen));
            seen
        });
        rounds.push(pair);
    }
    report(&rounds);
}

/// How a third of the connections end.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ending {
    Rst,
    Fin,
    Killed,
}

impl Ending {
    fn sentence(self) -> &'static str {
        match self {
            Ending::Rst => "34 % closed by RST at once",
            Ending::Fin => "34 % closed by FIN at once",
            Ending::Killed => "a third in a process that is killed",
        }
    }

    /// The words of the storm.
    fn words(self) -> &'static [&'static str] {
        match self {
            Ending::Rst => &["disconnect"],
            Ending::Fin => &["disconnect", "--fin"],
            // What the server put off is done by the storm's end.
            Ending::Killed => &["killed", "--share", "33.3333%", "--for", "8s", "--calm", "5s", "--after", "1s"],
        }
    }
}

/// What the arguments ask for.
struct Asked {
    connections: Option<usize>,
    how: Ending,
    victims_core: Option<usize>,
    victims_weight: Option<u64>,
}

fn asked(words: &[&str]) -> Asked {
    let value = |name: &str| words.windows(2).find(|pair| pair[0] == name).map(|pair| pair[1]);
    let number = |name: &str| value(name).map(|text| text.parse().unwrap_or_else(|_| panic!("{name} takes a number")));
    let how = match value("--how") {
        None | Some("rst") => Ending::Rst,
        Some("fin") => Ending::Fin,
        Some("killed") => Ending::Killed,
        Some(other) => panic!("--how takes rst, fin or killed, not {other}"),
    };
    Asked {
        connections: number("--connections"),
        how,
        victims_core: number("--victims-core"),
        victims_weight: number("--victims-weight").map(|weight: usize| weight as u64),
    }
}

/// A cgroup for the victims' process, removed when dropped.
struct Cgroup(PathBuf);

impl Cgroup {
    fn of(pid: u64, weight: u64) -> Cgroup {
        let (root, file) = match Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
            true => ("/sys/fs/cgroup", "cpu.weight"),
            false => ("/sys/fs/cgroup/cpu", "cpu.shares"),
        };
        let folder = Path::new(root).join(format!("c1m-victims-{pid}"));
        fs::create_dir(&folder).expect("a cgroup can be made");
        let write = |file: &str, number: u64| fs::write(folder.join(file), number.to_string());
        write(file, weight).expect("the cgroup takes the weight");
        write("cgroup.procs", pid).expect("the cgroup takes the process");
        Cgroup(folder)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // It is empty as soon as its process was reaped; one that is left does no harm.
        let _ = fs::remove_dir(&self.0);
    }
}

/// What one run showed, in the order of `FIGURES`.
type Seen = [f64; FIGURES.len()];

fn line(seen: &Seen) -> String {
    let figures = seen.iter().zip(FIGURES).map(|(figure, (name, decimals))| format!("{name} {figure:.decimals$}"));
    figures.collect::<Vec<_>>().join("; ")
}

fn report(rounds: &[[Seen; 2]]) {
    println!("\n{:<24}{:>34}{:>34}", "median (range)", Side::Epoll.name(), Side::C1m.name());
    for (place, (name, decimals)) in FIGURES.into_iter().enumerate() {
        let of = |side: Side| spread(rounds.iter().map(|pair| pair[side as usize][place]), decimals);
        println!("{name:<24}{:>34}{:>34}", of(Side::Epoll), of(Side::C1m));
    }
    for place in COMPARED {
        let ratio = spread(rounds.iter().map(|[epoll, c1m]| c1m[place] / epoll[place]), 3);
        println!("c1m/epoll, {}: {ratio}", FIGURES[place].0);
    }
}

fn spread(figures: impl Iterator<Item = f64>, decimals: usize) -> String {
    let mut figures: Vec<f64> = figures.collect();
    let median = compare::median(&mut figures);
    format!("{median:.decimals$} ({:.decimals$}–{:.decimals$})", figures[0], figures[figures.len() - 1])
}

fn command(side: Side, connections: usize) -> Command {
    let connections = connections.to_string();
    match side {
        Side::Epoll => compare::ourselves([GROUP_ROLE, &connections]),
        Side::C1m => {
            let mut command = compare::c1m_server(env!("CARGO_BIN_EXE_c1m"), &CORES, TARGET);
            command.args(["--max-connections", &connections]);
            command
        }
    }
}

/// What each process of the reference is told: it has as many of the ports as its descriptors suffice for, and with
/// several processes one core.
fn processes(connections: usize, open_files: usize) -> Vec<Contract> {
    let each = connections.div_ceil(TARGET.ports);
    let fit = (open_files.saturating_sub(OTHER_DESCRIPTORS) / each.max(1)).min(TARGET.ports);
    assert!(fit > 0, "{each} connections of one port need more than {open_files} descriptors");
    let cores = |place: usize| if fit == TARGET.ports { &CORES[..] } else { &CORES[place % CORES.len()..][..1] };
    let told = |(place, first): (usize, usize)| {
        let (first_port, ports) = (TARGET.first_port + first as u16, fit.min(TARGET.ports - first));
        Contract::new(Target { first_port, ports, ..TARGET }, cores(place))
    };
    (0..TARGET.ports).step_by(fit).enumerate().map(told).collect()
}

/// Starts the processes of the reference, says that they are ready, and waits to be killed with them.
fn serve_as_group(connections: usize) {
    let open_files = sys::raise_open_files();
    let start = |told: Contract| {
        let mut command = compare::ourselves([SERVER_ROLE]);
        command.args(told.words());
        let mut child = sys::dying_with_us(&mut command).stdout(Stdio::piped()).spawn().expect("we can be started");
        let mut said = BufReader::new(child.stdout.take().expect("it was piped")).lines();
        let ready = said.next().expect("a server says that it is ready").expect("in words");
        assert_eq!(ready, "ready");
        child
    };
    let children: Vec<_> = processes(connections, open_files).into_iter().map(start).collect();
    println!("ready");
    for mut child in children {
        child.wait().expect("a child can be waited for");
    }
}

/// Runs a storm, in which no survivor may be lost, and then the close of the survivors.
fn storm(server: &ServerProcess, connections: usize, smoke: bool, asked: &Asked) -> Seen {
    let mut command = Command::new(env!("CARGO_BIN_EXE_c1m"));
    command.arg("storm").args(asked.how.words());
    command.args(["--json", "-", "--target-ip", &TARGET.address.to_string()]);
    command.args(["--port", &TARGET.first_port.to_string(), "--ports", &TARGET.ports.to_string()]);
    command.args(["--connections", &connections.to_string()]);
    if smoke {
        let short: &[&str] = match asked.how {
            Ending::Killed => &["--interval", "100ms"],
            _ => &["--calm", "300ms", "--after", "300ms", "--interval", "100ms"],
        };
        command.args(short);
    }
    let mut client = sys::dying_with_us(&mut command).stdout(Stdio::piped()).spawn().expect("c1m can be started");
    let (mut closing, mut stolen) = (None, [Duration::ZERO; 2]);
    let (mut result, mut victims, mut cgroup) = (Value::Null, None, None);
    for line in BufReader::new(client.stdout.take().expect("it was piped")).lines() {
        result = serde_json::from_str(&line.expect("its output is text")).expect("each line is JSON");
        victims = if result["event"] == "victims" { result["pid"].as_u64() } else { victims };
        match (result["ended"] == true).then(|| result["phase"].as_str().unwrap_or_default()) {
            // The process has all of its threads by now.
            Some("audit") if result["round"] == 1 => cgroup = victims.and_then(|pid| confine(pid, asked)),
            Some("calm") => stolen[0] = compare::stolen(),
            Some("storm") => stolen[1] = compare::stolen(),
            Some("audit") if result["round"] == 2 => closing = Some((server.cpu_time(), server.user_time())),
            _ => {}
        }
    }
    let status = client.wait().expect("it can be waited for");
    drop(cgroup);
    let closing = closing.expect("it tells when its second audit has ended");
    let cpu = server.cpu_time_at_rest().saturating_sub(closing.0);
    let user = server.user_time().saturating_sub(closing.1);
    let storm = &result["storm"];
    assert!(status.success() && storm["lost"] == 0 && storm["wrong"] == 0, "{status}: {result}");
    let (cpu, user, closed) = match asked.how {
        Ending::Rst | Ending::Fin => {
            (cpu, user, connections - storm["closed"].as_u64().expect("it counts them") as usize)
        }
        Ending::Killed => {
            let (cpu, user) = killed_in_silence(server, connections / 3);
            (cpu, user, connections / 3)
        }
    };
    let each = cpu.as_secs_f64() / closed as f64;
    let milliseconds = |stage: &str, which: &str| figure(&storm[stage]["echo_latency_us"][which]) / 1e3;
    let (before, during) = (milliseconds("before", "p99"), milliseconds("during", "p99"));
    [
        before,
        during,
        during / before,
        milliseconds("during", "p999"),
        figure(&storm["during"]["seconds"]),
        stolen[1].saturating_sub(stolen[0]).as_secs_f64() * 1e3,
        figure(&storm["absorbed_seconds"]),
        each * 1e6,
        user.as_secs_f64() / cpu.as_secs_f64() * 100.0,
    ]
}

/// Confines the victims' process to a core and a weight, where the arguments ask for it.
fn confine(pid: u64, asked: &Asked) -> Option<Cgroup> {
    if let Some(core) = asked.victims_core {
        let mut command = Command::new("taskset");
        command.args(["-a", "-c", "-p", &core.to_string(), &pid.to_string()]).stdout(Stdio::null());
        let status = command.status().expect("taskset (util-linux) can be run");
        assert!(status.success(), "taskset -a -c -p {core} {pid}: {status}");
    }
    asked.victims_weight.map(|weight| Cgroup::of(pid, weight))
}

/// Processor time that the server spends when a process with this many connections is killed while no messages are
/// sent: in all, and in user space.
fn killed_in_silence(server: &ServerProcess, connections: usize) -> (Duration, Duration) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_c1m"));
    command.args(["client", "--steer", "--json", "-", "--target-ip", &TARGET.address.to_string()]);
    command.args(["--port", &TARGET.first_port.to_string(), "--ports", &TARGET.ports.to_string()]);
    command.args(["--connections", &connections.to_string()]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut client = sys::dying_with_us(&mut command).spawn().expect("c1m can be started");
    let mut lines = BufReader::new(client.stdout.take().expect("it was piped")).lines();
    let ramped = lines.any(|line| {
        let event: Value = serde_json::from_str(&line.expect("its output is text")).expect("each line is JSON");
        event["phase"] == "ramp" && event["ended"] == true && event["live"] == connections
    });
    assert!(ramped, "the client opened fewer than {connections} connections");
    let before = (server.cpu_time_at_rest(), server.user_time());
    client.kill().expect("it still runs");
    client.wait().expect("it can be waited for");
    (server.cpu_time_at_rest() - before.0, server.user_time() - before.1)
}

fn figure(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}
