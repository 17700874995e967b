//! A shortage of memory: the server stops admitting connections in time, and keeps those that it holds.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use c1m::internal::host::Host;
use c1m::internal::memory_model::{End, Family};
use c1m::internal::plan::IdleBackend;

use crate::support::*;

/// A memory cgroup of the test's own, with a limit. It is removed when the value is dropped.
pub struct Cgroup {
    folder: PathBuf,
    /// The file that sets the limit.
    limit: PathBuf,
}

impl Cgroup {
    /// Makes a cgroup with v1 or v2, whichever has the memory controller here.
    pub fn with_limit(bytes: u64) -> io::Result<Cgroup> {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let v1 = Path::new("/sys/fs/cgroup/memory");
        let (top, limit) =
            if v1.exists() { (v1, "memory.limit_in_bytes") } else { (Path::new("/sys/fs/cgroup"), "memory.max") };
        let folder = top.join(format!("c1m-test-{}-{}", std::process::id(), MADE.fetch_add(1, Ordering::Relaxed)));
        fs::create_dir(&folder)?;
        // The cgroup is removed if one of the following steps fails.
        let made = Cgroup { limit: folder.join(limit), folder };
        // Without the memory controller the group has no such file, and it cannot be made.
        fs::OpenOptions::new().write(true).open(&made.limit)?.write_all(bytes.to_string().as_bytes())?;
        Ok(made)
    }

    /// Whether this kernel has the memory controller, with v1 or v2.
    pub fn can_limit_memory() -> bool {
        let controllers = fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").unwrap_or_default();
        Path::new("/sys/fs/cgroup/memory").exists() || controllers.split_whitespace().any(|name| name == "memory")
    }

    /// A command whose shell moves itself into the group before it runs the program under test.
    pub fn command(&self) -> std::process::Command {
        c1m_after(&format!("echo $$ > {}", self.processes().display()))
    }

    /// Lowers the limit so that `bytes` are left.
    pub fn leave(&self, bytes: u64) {
        let usage = if self.limit.ends_with("memory.max") { "memory.current" } else { "memory.usage_in_bytes" };
        let used: u64 = fs::read_to_string(self.folder.join(usage)).unwrap().trim().parse().unwrap();
        fs::write(&self.limit, (used + bytes).to_string()).unwrap();
    }

    /// The file that takes the ids of the group's processes.
    pub fn processes(&self) -> PathBuf {
        self.folder.join("cgroup.procs")
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let is_gone = || fs::remove_dir(&self.folder).is_ok() || !self.folder.exists();
        // A second panic would end the process, and the tests after this one.
        if !std::thread::panicking() {
            // The kernel removes the rings of an ended process in the background.
            eventually("the cgroup is empty", is_gone);
        } else {
            is_gone();
        }
    }
}

/// Checks that a client that asked for more connections than fit got those that fit, all live to the end.
fn check_cut_short(run: &ClientRun, at_least: u64) {
    assert_eq!(run.finished.code(), 1, "{}{}", run.finished.out, run.finished.err);
    assert!(run.number("live") >= at_least && run.number("failed") > 0, "{}", run.json);
    assert_eq!(run.cause("ECONNRESET") + run.cause("EPIPE"), run.number("failed"), "{}", run.json);
    for audit in run.json["audits"].as_array().unwrap() {
        assert_eq!(["live", "lost", "wrong"].map(|name| number(audit, name)), [run.number("live"), 0, 0], "{audit}");
    }
}

#[test(MemoryCgroup)]
fn a_server_refuses_before_its_cgroup_is_full_and_admits_again_when_memory_comes_back() {
    let cgroup = Cgroup::with_limit(40 << 20).unwrap();
    // Some 10 MiB are left beyond the reserve: 2,500 to 7,500 connections at 3,900 to 1,500 bytes.
    let arguments = "--max-connections 40000 --memory-reserve 24MiB --stats-interval 50ms --json -";
    let server = Server::start_as(cgroup.command(), 10, arguments);
    let run = client(&format!("{} --connections 30000 --close rst", server.at()));
    check_cut_short(&run, 1_000);
    eventually("memory came back", || {
        server.running.err().contains("memory suffices again: new connections are admitted")
    });
    client(&format!("{} --connections 500 --close rst", server.at())).held(500);
    let finished = server.stop();
    let said: Vec<&str> = finished.err.lines().filter(|line| line.contains("left, 24.0 MiB reserved")).collect();
    assert!(said.first().is_some_and(|line| line.contains("/memory.")), "{}", finished.err);
    let totals = finished.last_document();
    let refused = ["refused", "refused_for_memory"].map(|name| number(&totals, name));
    assert!(refused[0] == refused[1] && refused[0] > 0, "{totals}");
    assert!(totals["memory_wall"].as_str().is_some_and(|wall| wall.contains("24.0 MiB reserved")), "{totals}");
    assert_eq!(number(&totals, "accepted"), run.number("live") + 500, "{totals}");
}

/// Memory that stays the same, whatever else the machine does.
const MEMORY: &str = "MemTotal: 4194304 kB\nMemFree: 1048576 kB\nMemAvailable: 1048576 kB\n";

/// A reserve of a little more than that. With twice as much the server would not listen.
const RESERVE: &str = "--memory-reserve 1280MiB";

/// Runs `body` where processes see that memory, of which no zone keeps any back.
fn in_fixed_memory<R: Send>(body: impl FnOnce() -> R + Send) -> R {
    let dir = tempfile::tempdir().unwrap();
    in_own_mounts(|| {
        for (name, text) in [("meminfo", MEMORY), ("zoneinfo", "")] {
            let file = dir.path().join(name);
            fs::write(&file, text).unwrap();
            mount(file.to_str().unwrap(), &format!("/proc/{name}"), "", libc::MS_BIND, "");
        }
        body()
    })
}

#[test(Mounts)]
fn a_server_whose_host_has_less_than_the_reserve_refuses_all_and_says_why() {
    let finished = in_fixed_memory(|| {
        let server = Server::start(1, &format!("{RESERVE} --json -"));
        let run = client(&format!("{} --connections 20", server.at()));
        assert_eq!((run.number("live"), run.number("failed")), (0, 20), "{}", run.json);
        server.stop()
    });
    assert!(finished.err.contains("memory of this host: "), "{}", finished.err);
    let totals = finished.last_document();
    assert_eq!(
        ["accepted", "refused", "refused_for_memory"].map(|name| number(&totals, name)),
        [0, 20, 20],
        "{totals}"
    );
}

/// With less than half of the reserve left the server does not listen. It keeps its ports, and listens again when
/// memory comes back.
#[test(MemoryCgroup)]
fn a_server_far_below_its_reserve_lets_the_kernel_refuse() {
    let cgroup = Cgroup::with_limit(40 << 20).unwrap();
    let server =
        Server::start_as(cgroup.command(), 4, "--cores 1 --memory-reserve 80MiB --stats-interval 50ms --json -");
    client(&format!("{} --connections 20", server.at())).failed("ECONNREFUSED", 20, "nothing listens there");
    fs::write(&cgroup.limit, (400u64 << 20).to_string()).unwrap();
    eventually("memory came back", || server.running.err().contains("memory suffices again"));
    client(&format!("{} --connections 200", server.at())).held(200);
    let finished = server.stop();
    assert!(!finished.err.contains("the kernel has no memory or files"), "{}", finished.err);
    let totals = finished.last_document();
    assert_eq!(["accepted", "refused"].map(|name| number(&totals, name)), [200, 0], "{totals}");
}

/// The kernel gives no reason when it kills a process for memory.
#[test(MemoryCgroup)]
fn a_cgroup_that_is_too_small_to_begin_in_is_named_first() {
    let cgroup = Cgroup::with_limit(3 << 20).unwrap();
    let server = Server::start(1, "");
    let mut command = cgroup.command();
    let arguments = format!("client --target-ip 127.0.0.1 {} --connections 10 --hold 0s --cores 1", server.at());
    command.args(arguments.split_whitespace());
    // It may be killed or not.
    let finished = Running::start(command).wait();
    let first = finished.err.lines().next().unwrap_or_default();
    assert!(first.contains("left of 3.0 MiB: the kernel may kill this process"), "{}", finished.err);
    server.stop();
}

#[test]
fn without_a_reserve_memory_refuses_no_connection() {
    let server = Server::start(1, "--memory-reserve 0 --json -");
    client(&format!("{} --connections 20", server.at())).held(20);
    let totals = server.stop().last_document();
    assert_eq!((number(&totals, "refused_for_memory"), totals["memory_wall"].is_null()), (0, true), "{totals}");
}

#[test]
fn this_host_has_memory_and_a_kernel_to_predict_from() {
    let host = Host::here();
    let memory = host.memory().unwrap();
    assert!(memory.usable <= memory.total && memory.usable > 0, "{memory:?}");
    let kernel = host.memory_kernel();
    for (end, family) in [(End::Server, Family::V4), (End::Client, Family::V6)] {
        // On every kernel that runs c1m a connection's size lies in this range.
        for park in [IdleBackend::Poll, IdleBackend::Filter] {
            let each = kernel.per_end(end, family, park);
            assert!((3_000.0..8_000.0).contains(&each.host), "{kernel:?} {each:?}");
            assert!(each.hidden > 0.0 && each.hidden < each.host, "{each:?}");
        }
    }
}

/// Refusals are counted by cause while the figures are printed. A refusal for lack of memory is never printed as
/// one of a full server.
#[test(Mounts)]
fn refusals_for_lack_of_memory_are_never_printed_as_a_full_server() {
    let finished = in_fixed_memory(|| {
        let server = Server::start(1, &format!("{RESERVE} --cores 1 --stats-interval 1ms"));
        let dial = || {
            for _ in 0..2_000 {
                // The server may reset the connection before this returns.
                let _ = std::net::TcpStream::connect(("127.0.0.1", server.port));
            }
        };
        std::thread::scope(|scope| (0..2).for_each(|_| drop(scope.spawn(dial))));
        server.stop()
    });
    assert!(finished.out.contains("accepted 0, ") && !finished.out.contains("refused 0, "), "{}", finished.out);
    assert!(!finished.err.contains("full: "), "{}", finished.err);
}
