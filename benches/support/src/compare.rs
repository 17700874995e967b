//! What the benches need to compare programs: arguments, server processes, a quiet machine between runs, and the table.

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use crate::contract::{Contract, Target};
use crate::sys;

/// One of two servers that are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Epoll,
    C1m,
}

impl Side {
    /// Both, in the order in which they take turns.
    pub const BOTH: [Side; 2] = [Side::Epoll, Side::C1m];

    pub fn name(self) -> &'static str {
        match self {
            Side::Epoll => "epoll",
            Side::C1m => "c1m",
        }
    }
}

/// The port that the running bench listens on, so that only one runs at a time.
const TURN_PORT: u16 = 20_999;
/// How long another bench may run.
const TURN_LIMIT: Duration = Duration::from_secs(900);
/// How long a server may take until it is ready.
const START_LIMIT: Duration = Duration::from_secs(20);
/// How long the sockets of a run may take to disappear.
const QUIET_LIMIT: Duration = Duration::from_secs(30);
/// Sockets that other programs may have opened meanwhile.
const QUIET_SLACK: u64 = 16;

/// Memory that is touched before each run, in bytes: more than the sockets of most take.
const WARM_BYTES: u64 = 1 << 30;

/// Share of one core that other processes may take during a round.
pub const OTHERS_LIMIT: f64 = 0.08;
/// Rounds run again at most, for each round wanted; then disturbed ones count too.
const SPARE_ROUNDS: usize = 2;
/// The unit of /proc/stat (USER_HZ), which Linux never changes.
const TICKS_PER_SECOND: f64 = 100.0;

/// How much to run.
pub struct Effort {
    pub rounds: usize,
    /// Only to see that the bench still works; the figures mean nothing.
    pub smoke: bool,
}

impl Effort {
    /// Reads the arguments; unknown ones belong to cargo or to other benches. `cargo bench` passes
    /// `--bench`; without it this is `cargo test --benches`, which wants the smoke size.
    pub fn from_arguments(arguments: &[String]) -> Effort {
        let given = |name: &str| arguments.iter().any(|argument| argument == name);
        let smoke = given("--smoke") || given("--test") || !given("--bench");
        let rounds = arguments.iter().position(|argument| argument == "--rounds").map(|place| {
            let rounds = arguments.get(place + 1).and_then(|rounds| rounds.parse().ok());
            rounds.filter(|&rounds: &usize| rounds > 0).expect("--rounds takes a number of rounds, 1 at least")
        });
        Effort { rounds: rounds.unwrap_or(if smoke { 1 } else { 5 }), smoke }
    }
}

/// What the figures depend on beside the programs: the kernel, and TCP's congestion control.
pub fn host() -> String {
    let setting = |path: &str| fs::read_to_string(path).map_or("unknown".to_owned(), |text| text.trim().to_owned());
    let kernel = setting("/proc/sys/kernel/osrelease");
    format!("kernel {kernel}, tcp_congestion_control {}", setting("/proc/sys/net/ipv4/tcp_congestion_control"))
}

/// Waits until no other bench runs, and keeps others from running until the returned listener is dropped. Two benches
/// at once would share cores and, through SO_REUSEPORT, even connections.
pub fn our_turn() -> TcpListener {
    let give_up = Instant::now() + TURN_LIMIT;
    loop {
        match TcpListener::bind((Ipv4Addr::LOCALHOST, TURN_PORT)) {
            Ok(turn) => return turn,
            Err(error) => assert!(Instant::now() < give_up, "port {TURN_PORT}, held by the bench that runs: {error}"),
        }
        pause(Duration::from_millis(300));
    }
}

/// This program again, in another role.
pub fn ourselves<I: AsRef<OsStr>>(role: impl IntoIterator<Item = I>) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("the kernel knows the path of this program"));
    command.args(role);
    command
}

/// The command of c1m's server.
pub fn c1m_server(program: &str, cores: &[usize], target: Target) -> Command {
    let [address, first_port, ports, cores] = Contract::new(target, cores).words();
    let mut command = Command::new(program);
    command.args(["server", "--core-list", &cores, "--bind", &address, "--port", &first_port, "--ports", &ports]);
    command
}

/// A server in a group of processes of its own; killed when dropped.
pub struct ServerProcess(Child);

impl ServerProcess {
    /// Starts a server and waits for its line `ready…`.
    pub fn start(mut command: Command, target: Target) -> ServerProcess {
        wait_for_ports(target);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).process_group(0);
        let mut child =
            sys::dying_with_us(&mut command).spawn().unwrap_or_else(|error| panic!("starting {command:?}: {error}"));
        let stdout = child.stdout.take().expect("its stdout is piped");
        let mut server = ServerProcess(child);
        let (line, ready) = mpsc::channel();
        // Reads on after the line, so that the server never meets a full or a broken pipe.
        thread::spawn(move || {
            for text in BufReader::new(stdout).lines().map_while(Result::ok) {
                if text.starts_with("ready") {
                    // The receiver is gone if the server was too slow.
                    let _ = line.send(());
                }
            }
        });
        if ready.recv_timeout(START_LIMIT).is_err() {
            let status = server.0.try_wait();
            panic!("{command:?} did not say that it is ready; its exit status is {status:?}");
        }
        warm_memory();
        server
    }

    /// Its processes: itself, and those that it started.
    pub fn processes(&self) -> Vec<PathBuf> {
        let group = self.0.id().to_string();
        let all = fs::read_dir("/proc").expect("/proc can be listed").flatten().map(|process| process.path());
        // The fields after the name are state, parent, group.
        let ours = all.filter(|process| fields(process).get(2) == Some(&group)).collect::<Vec<_>>();
        assert!(!ours.is_empty(), "the server died");
        ours
    }

    /// The processor time that all its threads have used.
    pub fn cpu_time(&self) -> Duration {
        let processes = self.processes().into_iter();
        let tasks = processes.flat_map(|process| fs::read_dir(process.join("task")).into_iter().flatten());
        // A thread that ends between the listing and the reading is left out.
        let times = tasks.flatten().filter_map(|task| fs::read_to_string(task.path().join("schedstat")).ok());
        Duration::from_nanos(times.filter_map(|times| times.split(' ').next()?.parse::<u64>().ok()).sum())
    }

    /// The part of `cpu_time` in user space, in steps of 10 ms for each process.
    pub fn user_time(&self) -> Duration {
        // utime is the twelfth field after the name.
        let ticks: f64 = self.processes().iter().filter_map(|process| fields(process).get(11..12).map(sum)).sum();
        Duration::from_secs_f64(ticks / TICKS_PER_SECOND)
    }

    /// Waits until the server has had nothing to do for a while, and returns the processor time that it has used.
    pub fn cpu_time_at_rest(&self) -> Duration {
        let give_up = Instant::now() + QUIET_LIMIT;
        let mut before = self.cpu_time();
        loop {
            pause(Duration::from_millis(200));
            let now = self.cpu_time();
            // A server that prints figures is never quite at rest.
            if now.saturating_sub(before) < Duration::from_millis(2) || Instant::now() > give_up {
                return now;
            }
            before = now;
        }
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        // Both fail only if the server has ended already, which the run has noticed by then.
        sys::kill_group(self.0.id());
        let _ = self.0.wait();
    }
}

/// Touches memory and gives it back, so that this machine has it when the run begins. A virtual machine gives pages
/// that were free for some seconds to its host (free page reporting), and waits for the host when it uses one again. A
/// ramp is a sixth slower then, so its rate would depend on what ran before.
fn warm_memory() {
    std::hint::black_box(vec![1_u8; WARM_BYTES.min(available_memory() / 4) as usize]);
}

/// Memory that the kernel could give to programs (MemAvailable of /proc/meminfo), in bytes.
fn available_memory() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").expect("/proc/meminfo can be read");
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:")).expect("it has a line MemAvailable");
    let kibibytes = line.trim().trim_end_matches(" kB").parse::<u64>().expect("the line has a number of kB");
    kibibytes * 1024
}

/// Waits until no socket listens on the target's ports. Two servers on one port would share its connections
/// (SO_REUSEPORT), and spoil the figures. The kernel frees a killed process's io_uring, and its listeners with it, some
/// time after the process has ended.
fn wait_for_ports(target: Target) {
    let give_up = Instant::now() + QUIET_LIMIT;
    for port in (target.first_port..).take(target.ports) {
        while let Err(error) = TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            assert!(Instant::now() < give_up, "port {port} does not become free: {error}");
            pause(Duration::from_millis(5));
        }
    }
}

/// Sleeps between two looks at a condition.
#[allow(clippy::disallowed_methods, reason = "the kernel tells nobody that a socket is gone or a core is idle")]
fn pause(time: Duration) {
    thread::sleep(time);
}

/// The number of sockets before a run, which must be reached again after it.
pub struct Quiet(u64);

impl Quiet {
    pub fn now() -> Quiet {
        Quiet(tcp_sockets())
    }

    /// Waits until the sockets of a run are gone. The kernel frees them some time after the close, and that work must
    /// not be charged to the next run.
    pub fn wait(&self) {
        let give_up = Instant::now() + QUIET_LIMIT;
        while tcp_sockets() > self.0 + QUIET_SLACK {
            if Instant::now() > give_up {
                println!("  warning: {} TCP sockets, {} before the first run", tcp_sockets(), self.0);
                return;
            }
            pause(Duration::from_millis(5));
        }
    }
}

/// TCP sockets of this network namespace that are in use or orphaned. Those in TIME_WAIT cost nothing, and are left
/// out.
fn tcp_sockets() -> u64 {
    let text = fs::read_to_string("/proc/net/sockstat").expect("/proc/net/sockstat can be read");
    let line = text.lines().find_map(|line| line.strip_prefix("TCP: ")).expect("it has a line for TCP");
    let words: Vec<&str> = line.split(' ').collect();
    let value = |name: &str| words.chunks(2).find(|pair| pair[0] == name).and_then(|pair| pair[1].parse::<u64>().ok());
    ["inuse", "orphan"].into_iter().filter_map(value).sum()
}

/// The fields of a process's stat behind its name, which stands in brackets and may hold blanks; none
/// if it has ended.
fn fields(process: &Path) -> Vec<String> {
    let stat = fs::read_to_string(process.join("stat")).unwrap_or_default();
    stat.rsplit(')').next().unwrap_or_default().split_whitespace().map(str::to_owned).collect()
}

/// Processor time that the host of this virtual machine has taken from it since the start (`steal`). Programs here
/// stand still meanwhile.
pub fn stolen() -> Duration {
    Duration::from_secs_f64(sum(&machine_ticks()[8..9]) / TICKS_PER_SECOND)
}

/// Ticks of all processors since the machine's start: the fields of the first line of /proc/stat (proc(5)).
fn machine_ticks() -> Vec<String> {
    let text = fs::read_to_string("/proc/stat").expect("/proc/stat can be read");
    text.lines().next().unwrap_or_default().split_whitespace().map(str::to_owned).collect()
}

/// Processor time of processes that are no part of the bench.
pub struct Others {
    since: Instant,
    used: f64,
}

impl Others {
    pub fn now() -> Others {
        Others { since: Instant::now(), used: Others::used() }
    }

    pub fn share_of_a_core(&self) -> f64 {
        self.share_beside(Duration::ZERO)
    }

    /// The share without what a server that still runs has used since.
    pub fn share_beside(&self, server: Duration) -> f64 {
        // Both clocks count in steps of 10 ms, so the difference may be a step below zero.
        let used = Others::used() - self.used - server.as_secs_f64();
        (used / self.since.elapsed().as_secs_f64()).max(0.0)
    }

    /// Waits until other processes use less than `OTHERS_LIMIT`, for `QUIET_LIMIT` at most.
    pub fn wait_until_idle() {
        let give_up = Instant::now() + QUIET_LIMIT;
        while Instant::now() < give_up {
            let others = Others::now();
            pause(Duration::from_millis(300));
            if others.share_of_a_core() < OTHERS_LIMIT {
                return;
            }
        }
    }

    /// Seconds that all processors worked since the machine's start, less three parts: this process; its children, from
    /// the moment on at which they were waited for; and the kernel's threads. Those work for the bench too: ksoftirqd
    /// carries packets, and kworkers free a killed io_uring.
    fn used() -> f64 {
        let machine = machine_ticks();
        // user, nice, system; then irq and softirq. idle and iowait stand between them.
        let mut ticks = sum(&machine[1..4]) + sum(&machine[6..8]);
        for process in fs::read_dir("/proc").expect("/proc can be listed").flatten() {
            let fields = fields(&process.path());
            let ours = process.file_name().to_str() == Some(&std::process::id().to_string());
            // utime, stime, cutime, cstime; a kernel thread is a child of kthreadd, process 2.
            if fields.len() > 15 && (ours || fields[1] == "2") {
                ticks -= sum(&fields[11..15]);
            }
        }
        ticks / TICKS_PER_SECOND
    }
}

fn sum(ticks: &[impl AsRef<str>]) -> f64 {
    ticks.iter().filter_map(|ticks| ticks.as_ref().parse::<f64>().ok()).sum()
}

/// One figure, larger is better, of both sides round by round.
#[derive(Default)]
pub struct Pairs {
    rounds: Vec<[f64; 2]>,
}

impl Pairs {
    /// Runs the sides in turns, A B A B, and shows each round as it ends. A round in which other processes took the cores
    /// says nothing about either side, and is run again. That does not depend on its figures.
    pub fn alternate(effort: &Effort, mut run: impl FnMut(Side) -> f64) -> Pairs {
        let mut pairs = Pairs::default();
        let mut spare = if effort.smoke { 0 } else { SPARE_ROUNDS * effort.rounds };
        while pairs.rounds.len() < effort.rounds {
            if spare > 0 {
                Others::wait_until_idle();
            }
            let others = Others::now();
            let pair = Side::BOTH.map(&mut run);
            let others = others.share_of_a_core();
            let again = others > OTHERS_LIMIT && spare > 0;
            let name = if again { "again".to_owned() } else { (pairs.rounds.len() + 1).to_string() };
            println!(
                "  round {name:>5}: {} {:>8}   {} {:>8}   ratio {:.3}   (other processes: {:.0} % of a core)",
                Side::Epoll.name(),
                thousands(pair[0]),
                Side::C1m.name(),
                thousands(pair[1]),
                pair[1] / pair[0],
                others * 100.0
            );
            if again {
                spare -= 1;
            } else {
                pairs.rounds.push(pair);
            }
        }
        pairs
    }

    /// `median   least .. most` of one side.
    pub fn describe(&self, side: Side) -> String {
        let mut figures: Vec<f64> = self.rounds.iter().map(|pair| pair[side as usize]).collect();
        let median = median(&mut figures);
        let [least, most] = [figures[0], figures[figures.len() - 1]];
        format!("{:>10}  {:>10} .. {:>10}", thousands(median), thousands(least), thousands(most))
    }

    /// The median of c1m's figure over epoll's figure of the same round, with its range.
    pub fn ratio(&self) -> String {
        let mut ratios: Vec<f64> = self.rounds.iter().map(|[epoll, c1m]| c1m / epoll).collect();
        let median = median(&mut ratios);
        format!("{median:.3}  ({:.3} .. {:.3})", ratios[0], ratios[ratios.len() - 1])
    }
}

/// Sorts the figures and returns the median.
pub fn median(figures: &mut [f64]) -> f64 {
    assert!(!figures.is_empty(), "a bench has a round at least");
    figures.sort_by(f64::total_cmp);
    let middle = figures.len() / 2;
    if figures.len() % 2 == 1 { figures[middle] } else { (figures[middle - 1] + figures[middle]) / 2.0 }
}

/// A whole number with a comma after every three digits.
pub fn thousands(figure: f64) -> String {
    let digits = format!("{figure:.0}");
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
