//! What the topics share: the program and its processes, free ports, peers that misbehave, a
//! network of one's own, waiting for a condition.

use std::collections::BTreeSet;
use std::ffi::CString;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;
use socket2::SockRef;
use tempfile::TempDir;

use crate::network;

/// How long anything may take before a test fails; generous, because machines are shared.
pub const PATIENCE: Duration = Duration::from_secs(180);

/// The program under test.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_c1m");

/// The program under test, to be given arguments.
pub fn c1m() -> Command {
    Command::new(PROGRAM)
}

/// The program under test, started by a shell that first carries out `preparation`.
pub fn c1m_after(preparation: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", &format!("{preparation} && exec \"$0\" \"$@\""), PROGRAM]);
    command
}

/// The program under test as a user without any privilege. The copy in `dir` is for a user who may
/// not read where cargo builds.
pub fn c1m_unprivileged(dir: &TempDir) -> Command {
    unprivileged(Path::new(PROGRAM), dir, NOBODY)
}

/// The program under test as a user of its own, so that the kernel counts no other test's processes with it, under
/// these limits. Its test says `#[test(Users)]`.
pub fn c1m_limited(dir: &TempDir, user: u32, limits: &[(Limit, u64)]) -> Command {
    let mut command = unprivileged(Path::new(PROGRAM), dir, user);
    let limits = limits.to_vec();
    // SAFETY: setrlimit is async-signal-safe, and reads what was moved into the closure.
    unsafe {
        command.pre_exec(move || {
            for (limit, most) in &limits {
                let both = libc::rlimit { rlim_cur: *most, rlim_max: *most };
                if libc::setrlimit(*limit, &raw const both) != 0 {
                    return Err(std::io::Error::last_os_error());
                }
            }
            Ok(())
        });
    }
    command
}

/// A limit of setrlimit(2).
pub type Limit = libc::__rlimit_resource_t;

/// A user without any privilege.
pub const NOBODY: u32 = 65_534;

/// Any program as a user without any privilege.
pub fn unprivileged(program: &Path, dir: &TempDir, user: u32) -> Command {
    use std::os::unix::fs::PermissionsExt;
    // SAFETY: no arguments, no memory.
    if unsafe { libc::geteuid() } != 0 {
        return Command::new(program);
    }
    let copy = dir.path().join(program.file_name().unwrap());
    // By another process: a child that some test forks while we write would keep the file busy.
    assert!(Command::new("install").args(["-m", "755"]).arg(program).arg(&copy).status().unwrap().success());
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = Command::new(copy);
    // No groups and no capabilities are left either.
    command.uid(user).gid(user);
    command
}

/// Where an output of a process goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outlet {
    /// A file that the test reads.
    File,
    /// Nowhere: the descriptor is closed.
    Closed,
    /// A pipe whose reader has gone.
    Unread,
}

/// A running process. It is killed when this is dropped, with processes of its own, and when the
/// test's thread ends.
pub struct Running {
    child: Child,
    input: Option<ChildStdin>,
    dir: TempDir,
}

/// What an ended process left.
pub struct Finished {
    pub status: ExitStatus,
    pub out: String,
    pub err: String,
}

impl Running {
    pub fn start(command: Command) -> Running {
        Running::with_outlets(command, Outlet::File, Outlet::File)
    }

    /// One that is told things on its standard input, with `say`; that of all others is empty.
    pub fn with_input(command: Command) -> Running {
        Running::spawn(command, Stdio::piped(), Outlet::File, Outlet::File)
    }

    pub fn with_outlets(command: Command, out: Outlet, err: Outlet) -> Running {
        Running::spawn(command, Stdio::null(), out, err)
    }

    fn spawn(mut command: Command, input: Stdio, out: Outlet, err: Outlet) -> Running {
        let dir = tempfile::tempdir().unwrap();
        command.stdin(input).stdout(outlet(&dir, "out", out)).stderr(outlet(&dir, "err", err));
        let closed = [(1, out), (2, err)].map(|(fd, outlet)| (fd, outlet == Outlet::Closed));
        // SAFETY: prctl and close are async-signal-safe and touch no memory of ours.
        unsafe {
            command.pre_exec(move || {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                for (fd, _) in closed.iter().filter(|(_, closed)| *closed) {
                    libc::close(*fd);
                }
                Ok(())
            });
        }
        let mut child = command.spawn().unwrap_or_else(|e| panic!("start {command:?}: {e}"));
        let input = child.stdin.take();
        Running { child, input, dir }
    }

    /// Writes a line to its standard input.
    pub fn say(&mut self, line: &str) {
        writeln!(self.input.as_mut().unwrap(), "{line}").unwrap();
    }

    /// Ends its standard input.
    pub fn end_input(&mut self) {
        self.input = None;
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has written to standard output so far.
    pub fn out(&self) -> String {
        self.read("out")
    }

    /// What it has written to standard error so far.
    pub fn err(&self) -> String {
        self.read("err")
    }

    fn read(&self, name: &str) -> String {
        // An output that is no file reads as empty.
        std::fs::read_to_string(self.dir.path().join(name)).unwrap_or_default()
    }

    pub fn signal(&self, signal: libc::c_int) {
        // SAFETY: no memory; the process is our child and not waited for, so the id is its own.
        assert_eq!(unsafe { libc::kill(self.pid() as libc::pid_t, signal) }, 0);
    }

    /// Stops it. None of its threads runs when this returns; SIGCONT lets it go on.
    pub fn pause(&self) {
        self.signal(libc::SIGSTOP);
        let tasks = format!("/proc/{}/task", self.pid());
        let stopped = |task: std::fs::DirEntry| {
            let stat = std::fs::read_to_string(task.path().join("stat")).unwrap_or_default();
            stat.rsplit(") ").next().is_some_and(|state| state.starts_with('T'))
        };
        eventually("all its threads are stopped", || std::fs::read_dir(&tasks).unwrap().flatten().all(stopped));
    }

    /// Signals its whole process group, as a terminal does; it must lead one.
    pub fn signal_group(&self, signal: libc::c_int) {
        // SAFETY: as in `signal`.
        assert_eq!(unsafe { libc::kill(-(self.pid() as libc::pid_t), signal) }, 0);
    }

    /// Waits until its standard output satisfies `enough`; fails the test if it ends before that.
    pub fn until(&mut self, what: &str, enough: impl Fn(&str) -> bool) {
        eventually(what, || {
            let ended = self.child.try_wait().unwrap();
            let satisfied = enough(&self.out());
            assert!(satisfied || ended.is_none(), "it ended before {what}: {ended:?}\n{}{}", self.out(), self.err());
            satisfied
        });
    }

    /// Waits for its end. Nothing may ever panic, and whatever it complains of is marked as its own.
    pub fn wait(mut self) -> Finished {
        let mut status = None;
        eventually("the process ends", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        let finished = Finished { status: status.unwrap(), out: self.out(), err: self.err() };
        assert!(!finished.err.contains("panicked"), "{}", finished.err);
        let marked = |line: &str| line.starts_with("c1m: ");
        assert!(finished.code() == 2 || finished.err.lines().all(marked), "{}", finished.err);
        finished
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(Some(_))) {
            return;
        }
        let its_own = children(self.pid());
        // It may have ended meanwhile.
        let _ = self.child.kill();
        let _ = self.child.wait();
        its_own.into_iter().for_each(kill);
    }
}

fn outlet(dir: &TempDir, name: &str, kind: Outlet) -> Stdio {
    match kind {
        Outlet::File => File::create(dir.path().join(name)).unwrap().into(),
        Outlet::Closed => Stdio::null(),
        Outlet::Unread => std::io::pipe().unwrap().1.into(),
    }
}

impl Finished {
    /// Its exit code; -1 for a process that a signal ended.
    pub fn code(&self) -> i32 {
        self.status.code().unwrap_or(-1)
    }

    /// What it complained of, without what other tests do to the host that all share: its counters of accept queues
    /// move for everyone, and a busy host may have let the process stand still.
    pub fn complaints(&self) -> String {
        const OF_THE_HOST: [&str; 2] = ["c1m: accept queue: ", "c1m: the client did not run for "];
        let own = |line: &&str| !OF_THE_HOST.iter().any(|start| line.starts_with(start));
        self.err.lines().filter(own).collect::<Vec<_>>().join("\n")
    }

    /// The last line of its output as JSON.
    pub fn last_document(&self) -> Value {
        let line = self.out.lines().last().unwrap_or_default();
        serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))
    }

    /// Checks that it failed with `code` and one line that names every one of `words`, and that the
    /// line says what was seen, what it means and what to do.
    pub fn complains(&self, code: i32, words: &[&str]) {
        assert_eq!(self.code(), code, "{}{}", self.out, self.err);
        let lines: Vec<&str> = self.err.lines().collect();
        let [line] = lines[..] else { panic!("not one line: {}", self.err) };
        let said = line.strip_prefix("c1m: ").unwrap_or_else(|| panic!("not marked: {line}"));
        assert!(said.contains(": ") && said.contains("; "), "{line}");
        for word in words {
            assert!(line.contains(word), "no {word:?} in: {line}");
        }
    }
}

/// Runs the program with the words of `arguments` to its end.
pub fn run(arguments: &str) -> Finished {
    run_as(c1m(), arguments)
}

/// The same with a prepared command.
pub fn run_as(mut command: Command, arguments: &str) -> Finished {
    command.args(arguments.split_whitespace());
    Running::start(command).wait()
}

/// A server of ours on ports of its own, ready.
pub struct Server {
    pub running: Running,
    pub port: u16,
    ports: u16,
}

impl Server {
    /// Starts one with the words of `arguments` on `ports` ports.
    pub fn start(ports: u16, arguments: &str) -> Server {
        Server::start_as(c1m(), ports, arguments)
    }

    /// The same with a prepared command.
    pub fn start_as(mut command: Command, ports: u16, arguments: &str) -> Server {
        let port = free_ports(ports);
        command.args(server_arguments(port, ports, arguments).split_whitespace());
        let mut running = Running::start(command);
        running.until("the server is ready", |out| {
            out.lines().any(|line| line == "ready" || line.contains(r#""event":"ready""#))
        });
        Server { running, port, ports }
    }

    /// The arguments that lead a client to it.
    pub fn at(&self) -> String {
        at(self.port, self.ports)
    }

    /// Ends it in order.
    pub fn stop(self) -> Finished {
        self.running.signal(libc::SIGTERM);
        let finished = self.running.wait();
        assert_eq!(finished.code(), 0, "{}{}", finished.out, finished.err);
        finished
    }
}

/// The words that start a server on ports of the test.
pub fn server_arguments(port: u16, ports: u16, arguments: &str) -> String {
    format!("server {} {arguments}", at(port, ports))
}

/// The arguments that name ports, for server and client.
pub fn at(port: u16, ports: u16) -> String {
    format!("--port {port} --ports {ports}")
}

/// A running client of ours that writes its result to a file.
pub struct Client {
    pub running: Running,
    dir: TempDir,
}

/// What a client's run came to.
pub struct ClientRun {
    pub finished: Finished,
    pub json: Value,
}

impl Client {
    /// Starts one with the words of `arguments`; unless they say otherwise it goes to 127.0.0.1 and
    /// holds nothing.
    pub fn start(arguments: &str) -> Client {
        Client::start_as(c1m(), Outlet::File, arguments)
    }

    /// The same with a prepared command and a standard output of choice.
    pub fn start_as(mut command: Command, out: Outlet, arguments: &str) -> Client {
        let dir = tempfile::tempdir().unwrap();
        command.arg("client").args(arguments.split_whitespace()).arg("--json").arg(dir.path().join("json"));
        for (flag, value) in [("--target-ip", "127.0.0.1"), ("--hold", "0s")] {
            if !arguments.contains(flag) {
                command.args([flag, value]);
            }
        }
        Client { running: Running::with_outlets(command, out, Outlet::File), dir }
    }

    /// Waits for its end and its result, whose numbers must add up.
    pub fn finish(self) -> ClientRun {
        let finished = self.running.wait();
        let text = std::fs::read_to_string(self.dir.path().join("json")).unwrap();
        let json = serde_json::from_str(&text)
            .unwrap_or_else(|e| panic!("{e} in the result {text:?}\n{}{}", finished.out, finished.err));
        let run = ClientRun { finished, json };
        let sum = run.number("live") + run.number("failed") + run.number("not_tried");
        assert_eq!(run.number("requested"), sum, "{}", run.json);
        let causes = run.json["errors"].as_object().unwrap().values();
        assert_eq!(run.number("failed"), causes.map(|n| n.as_u64().unwrap()).sum::<u64>(), "{}", run.json);
        assert_eq!(run.finished.code() == 0, run.json["complete"] == true, "{}", run.json);
        run
    }
}

/// Runs a client to its end.
pub fn client(arguments: &str) -> ClientRun {
    Client::start(arguments).finish()
}

impl ClientRun {
    /// A count of the result.
    pub fn number(&self, name: &str) -> u64 {
        number(&self.json, name)
    }

    /// How many connections failed for a cause.
    pub fn cause(&self, name: &str) -> u64 {
        self.json["errors"][name].as_u64().unwrap_or(0)
    }

    /// Checks that every connection held to the end.
    pub fn held(&self, connections: u64) {
        assert_eq!(self.finished.code(), 0, "{}{}", self.finished.out, self.finished.err);
        assert_eq!(self.number("live"), connections, "{}", self.json);
    }

    /// Checks that exactly `failed` connections failed, for `cause`, and that the report has
    /// `words` on the line of that cause.
    pub fn failed(&self, cause: &str, failed: u64, words: &str) {
        assert_eq!(self.finished.code(), 1, "{}{}", self.finished.out, self.finished.err);
        assert_eq!(self.cause(cause), failed, "{}", self.json);
        assert_eq!(self.number("failed"), failed, "{}", self.json);
        let line = self.finished.out.lines().find(|line| line.contains(&format!("{cause}: ")));
        assert!(line.is_some_and(|line| line.contains(words)), "no {words:?} for {cause}: {}", self.finished.out);
    }
}

/// A whole number in a JSON object.
pub fn number(document: &Value, name: &str) -> u64 {
    document[name].as_u64().unwrap_or_else(|| panic!("no number {name} in {document}"))
}

/// Checks that an object has exactly these names.
pub fn has_names(document: &Value, names: &[&str]) {
    let found: BTreeSet<&str> = document.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(found, names.iter().copied().collect());
}

const ABOUT_NAMES: &[&str] =
    &["run_id", "version", "command_line", "host", "kernel", "processor", "cores", "memory_bytes"];

const LATENCY_NAMES: &[&str] = &["count", "min", "p50", "p90", "p99", "p999", "p9999", "max", "histogram"];

/// What a client measures, and each of its shards.
const LATENCIES: [&str; 5] = [
    "connect_latency_us",
    "connect_service_latency_us",
    "retransmitted_latency_us",
    "echo_latency_us",
    "echo_service_latency_us",
];

/// Checks the names of a client's result.
pub fn has_client_names(document: &Value) {
    has_client_names_and(document, &["timeline", "about"]);
    has_names(&document["about"], ABOUT_NAMES);
    for shard in shards(document) {
        has_names(shard, &[&["shard", "core", "requested", "live", "failed"], &LATENCIES[..]].concat());
        LATENCIES.iter().for_each(|name| has_names(&shard[name], LATENCY_NAMES));
    }
}

/// Checks the names of a merged result, and of every machine's in it.
pub fn has_merged_names(document: &Value) {
    has_client_names_and(document, &["machines"]);
    for machine in document["machines"].as_array().unwrap() {
        has_client_names_and(machine, &["machine", "timeline", "about"]);
    }
}

/// Checks the names of a client's result that has some more.
pub fn has_client_names_and(document: &Value, more: &[&str]) {
    const OTHERS: [&str; 24] = [
        "requested",
        "live",
        "failed",
        "not_tried",
        "complete",
        "stopped",
        "protocol",
        "proof",
        "suspensions",
        "suspended_seconds",
        "errors",
        "ghosts",
        "retransmitted",
        "source_ports_passed_over",
        "counters",
        "walls",
        "ramp_seconds",
        "ramped",
        "connects_per_second",
        "paced",
        "audits",
        "echo_source",
        "shards",
        "close_seconds",
    ];
    has_names(document, &[&LATENCIES[..], &OTHERS[..], more].concat());
    LATENCIES.iter().for_each(|name| has_names(&document[name], LATENCY_NAMES));
    for audit in document["audits"].as_array().unwrap() {
        has_names(audit, &["round", "live", "lost", "wrong"]);
    }
}

/// Checks the names of a server's result.
pub fn has_server_names(document: &Value) {
    let names = [
        "live",
        "live_at_stop",
        "peak_live",
        "accepted",
        "closed",
        "refused",
        "refused_for_memory",
        "memory_wall",
        "walls",
        "slow_readers",
        "silent",
        "messages",
        "bytes",
        "resident_bytes",
        "cpu_user_seconds",
        "cpu_system_seconds",
        "shards",
    ];
    has_names(document, &names);
    for shard in shards(document) {
        has_names(shard, &["shard", "core", "ports", "rings", "slots", "live", "accepted"]);
    }
}

fn shards(document: &Value) -> &[Value] {
    let shards = document["shards"].as_array().unwrap();
    assert!(!shards.is_empty(), "{document}");
    shards
}

/// A server that is none of ours, on one thread. It ends when this is dropped.
pub struct Peer {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Peer {
    /// Shows every accepted connection to `serve`, and keeps those for which it returns `true`.
    pub fn start(serve: impl Fn(&mut TcpStream) -> bool + Send + 'static) -> Peer {
        let listener = TcpListener::bind(("127.0.0.1", free_ports(1))).unwrap();
        let (address, stop) = (listener.local_addr().unwrap(), Arc::new(AtomicBool::new(false)));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let mut kept = Vec::new();
            for mut stream in listener.incoming().map_while(Result::ok) {
                if stopped.load(Ordering::Acquire) {
                    return;
                }
                if serve(&mut stream) {
                    kept.push(stream);
                }
            }
        });
        Peer { address, stop, thread: Some(thread) }
    }

    /// The arguments that lead a client to it.
    pub fn at(&self) -> String {
        at(self.address.port(), 1)
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        // Its thread waits for a connection to look at `stop`.
        let _ = TcpStream::connect(self.address);
        let ended = self.thread.take().map(JoinHandle::join);
        assert!(ended.is_none_or(|ended| ended.is_ok()) || std::thread::panicking());
    }
}

/// A connection to `port` of this host, as soon as one is possible.
pub fn connected(port: u16) -> TcpStream {
    let mut stream = None;
    eventually("someone listens", || {
        stream = TcpStream::connect((IpAddr::V4(Ipv4Addr::LOCALHOST), port)).ok();
        stream.is_some()
    });
    let stream = stream.unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Ends a connection with an RST.
pub fn reset(stream: TcpStream) {
    SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
}

/// Checks that the other end sends back what it gets.
pub fn echoes(stream: &mut TcpStream) {
    let mut back = [0; 5];
    stream.write_all(b"hello").unwrap();
    stream.read_exact(&mut back).unwrap();
    assert_eq!(&back, b"hello");
}

/// Runs `body` in a network namespace of its own, in which only loopback is up; it is gone when
/// `body` returns. Its test says `#[test(Network)]`.
pub fn in_own_network<R: Send>(body: impl FnOnce() -> R + Send) -> R {
    in_own(libc::CLONE_NEWNET, || {
        network::up(c"lo");
        body()
    })
}

/// Runs `body` in a mount namespace of its own: what it mounts is seen there alone, and is gone when `body`
/// returns. Its test says `#[test(Mounts)]`.
pub fn in_own_mounts<R: Send>(body: impl FnOnce() -> R + Send) -> R {
    in_own(libc::CLONE_NEWNS, || {
        mount("none", "/", "", libc::MS_REC | libc::MS_PRIVATE, "");
        body()
    })
}

/// Runs `body` in a namespace of its own.
fn in_own<R: Send>(namespace: libc::c_int, body: impl FnOnce() -> R + Send) -> R {
    // A namespace belongs to a thread, so the thread must not be one that runs other tests too.
    let own = || {
        // SAFETY: no memory.
        assert_eq!(unsafe { libc::unshare(namespace) }, 0, "{}", std::io::Error::last_os_error());
        body()
    };
    let name = std::thread::current().name().unwrap_or_default().to_owned();
    let ended =
        std::thread::scope(|scope| std::thread::Builder::new().name(name).spawn_scoped(scope, own).unwrap().join());
    ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Mounts something in the calling thread's mount namespace, as mount(2) does.
pub fn mount(source: &str, target: &str, kind: &str, flags: libc::c_ulong, options: &str) {
    let [from, to, kind, options] = [source, target, kind, options].map(|text| CString::new(text).unwrap());
    // SAFETY: the kernel reads four strings, which outlive the call.
    let done = unsafe { libc::mount(from.as_ptr(), to.as_ptr(), kind.as_ptr(), flags, options.as_ptr().cast()) };
    assert_eq!(done, 0, "mount {source} on {target}: {}", std::io::Error::last_os_error());
}

/// Takes the last mount on `target` away again.
pub fn unmount(target: &str) {
    let path = CString::new(target).unwrap();
    // SAFETY: the kernel reads a string, which outlives the call.
    assert_eq!(unsafe { libc::umount2(path.as_ptr(), 0) }, 0, "{target}: {}", std::io::Error::last_os_error());
}

/// The parent's child processes.
pub fn children(parent: u32) -> Vec<u32> {
    let tasks = std::fs::read_dir(format!("/proc/{parent}/task")).into_iter().flatten().flatten();
    let lists = tasks.map(|task| std::fs::read_to_string(task.path().join("children")).unwrap_or_default());
    lists.flat_map(|list| list.split_whitespace().map(|pid| pid.parse().unwrap()).collect::<Vec<_>>()).collect()
}

/// Kills a process that a child of ours started.
pub fn kill(pid: u32) {
    // SAFETY: no memory.
    unsafe { libc::kill(pid as libc::pid_t, libc::SIGKILL) };
}

/// Whether a process runs; one that has ended and waits to be reaped does not.
pub fn runs(pid: u32) -> bool {
    let stat = std::fs::read_to_string(PathBuf::from(format!("/proc/{pid}/stat"))).unwrap_or_default();
    let state = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().next());
    state.is_some_and(|state| state != "Z" && state != "X")
}

/// The first of `count` neighbouring ports that nobody listens on, and that no other test of this
/// process gets. They lie below the ephemeral range, so no client's socket can sit on them.
pub fn free_ports(count: u16) -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    const LOWEST: u16 = 10_000;
    const HIGHEST: u16 = 32_000;
    // Processes of the same test run start at different places.
    let offset = (std::process::id() % 200) as u16 * 100;
    loop {
        let next = NEXT.fetch_add(count, Ordering::Relaxed);
        let first = LOWEST + (offset + next) % (HIGHEST - LOWEST - count);
        if (first..first + count).all(|port| TcpListener::bind(("0.0.0.0", port)).is_ok()) {
            return first;
        }
    }
}

/// Waits until `condition` holds; fails the test with `what` when it does not in `PATIENCE`.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
