//! A process that a test starts: its input and outputs, its signals, and its end.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use super::program::c1m;
use super::wait::eventually;
use crate::named::names_own_options;

/// The destination of a process's output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outlet {
    /// A file, which the test reads.
    File,
    /// None: the descriptor is closed.
    Closed,
    /// A pipe whose read end is closed.
    Unread,
    /// A pipe of one page, whose read end is open and never read.
    Stuck,
}

/// A running process. It is killed with its children when this value is dropped, and when the test's thread ends.
pub struct Running {
    child: Child,
    input: Option<ChildStdin>,
    dir: TempDir,
}

/// The exit status and the outputs of a process that has ended.
pub struct Finished {
    pub status: ExitStatus,
    pub out: String,
    pub err: String,
}

impl Running {
    pub fn start(command: Command) -> Running {
        Running::with_outlets(command, Outlet::File, Outlet::File)
    }

    /// Starts a process whose standard input the test writes, with `say`. Other processes have an empty one.
    pub fn with_input(command: Command) -> Running {
        Running::spawn(command, Stdio::piped(), Outlet::File, Outlet::File)
    }

    /// Starts a process with this standard input.
    pub fn with_stdin(command: Command, input: std::os::fd::OwnedFd) -> Running {
        Running::spawn(command, input.into(), Outlet::File, Outlet::File)
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

    /// Writes a line to the process's standard input.
    pub fn say(&mut self, line: &str) {
        writeln!(self.input.as_mut().unwrap(), "{line}").unwrap();
    }

    /// Closes the process's standard input.
    pub fn end_input(&mut self) {
        self.input = None;
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The standard output so far.
    pub fn out(&self) -> String {
        self.read("out")
    }

    /// The standard error so far.
    pub fn err(&self) -> String {
        self.read("err")
    }

    /// The last event of a kind that the process told, with `--json -`; `None` if there is none yet.
    pub fn last_event(&self, kind: &str) -> Option<Value> {
        let out = self.out();
        // A line that is not whole yet is no JSON.
        let mut backwards = out.lines().rev().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        backwards.find(|event| event["event"] == kind)
    }

    fn read(&self, name: &str) -> String {
        // An output that goes to no file reads as empty.
        std::fs::read_to_string(self.dir.path().join(name)).unwrap_or_default()
    }

    pub fn signal(&self, signal: libc::c_int) {
        // SAFETY: no memory; the process is our child and not waited for, so the id still belongs to it.
        assert_eq!(unsafe { libc::kill(self.pid() as libc::pid_t, signal) }, 0);
    }

    /// Repeats a signal until the process has ended: one that comes at once after another is the same wish.
    pub fn insist(&mut self, signal: libc::c_int) {
        eventually("a repeated signal ends the process", || {
            let ended = self.has_ended();
            if !ended {
                self.signal(signal);
            }
            ended
        });
    }

    /// Stops the process. None of its threads runs when this returns. SIGCONT lets it go on.
    pub fn pause(&self) {
        self.signal(libc::SIGSTOP);
        let tasks = format!("/proc/{}/task", self.pid());
        let stopped = |task: std::fs::DirEntry| {
            let stat = std::fs::read_to_string(task.path().join("stat")).unwrap_or_default();
            stat.rsplit(") ").next().is_some_and(|state| state.starts_with('T'))
        };
        eventually("all its threads are stopped", || std::fs::read_dir(&tasks).unwrap().flatten().all(stopped));
    }

    /// Signals the process's group, as a terminal does. The process must lead the group.
    pub fn signal_group(&self, signal: libc::c_int) {
        // SAFETY: as in `signal`.
        assert_eq!(unsafe { libc::kill(-(self.pid() as libc::pid_t), signal) }, 0);
    }

    /// Whether the process has ended.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Waits until the standard output satisfies `enough`. Fails the test if the process ends before that.
    pub fn until(&mut self, what: &str, enough: impl Fn(&str) -> bool) {
        eventually(what, || {
            let ended = self.child.try_wait().unwrap();
            let satisfied = enough(&self.out());
            assert!(satisfied || ended.is_none(), "it ended before {what}: {ended:?}\n{}{}", self.out(), self.err());
            satisfied
        });
    }

    /// Waits until a server is ready.
    pub fn until_ready(&mut self) {
        self.until("the server is ready", |out| {
            out.lines().any(|line| line == "ready" || line.contains(r#""event":"ready""#))
        });
    }

    /// Waits for the process's end. Checks that it did not panic, and that each line on standard error begins with
    /// `c1m: `, unless clap wrote it (exit code 2).
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
        if std::thread::panicking() {
            // The output goes with the process's folder, and may tell why the test failed.
            println!("process {} told:\n{}{}", self.pid(), self.out(), self.err());
        }
        if matches!(self.child.try_wait(), Ok(Some(_))) {
            return;
        }
        let its_own = children(self.pid());
        // The process may have ended meanwhile.
        let _ = self.child.kill();
        let _ = self.child.wait();
        its_own.into_iter().for_each(kill);
    }
}

fn outlet(dir: &TempDir, name: &str, kind: Outlet) -> Stdio {
    match kind {
        Outlet::File => File::create(dir.path().join(name)).unwrap().into(),
        Outlet::Closed => Stdio::null(),
        Outlet::Unread => {
            let (reader, writer) = std::io::pipe().unwrap();
            drop(reader);
            // A process that another test starts has a copy of the reader until its program runs.
            eventually("nobody reads the pipe", || {
                let mut poll = libc::pollfd { fd: writer.as_raw_fd(), events: 0, revents: 0 };
                // SAFETY: one entry, which outlives the call.
                let told = unsafe { libc::poll(&raw mut poll, 1, 0) };
                told == 1 && poll.revents & libc::POLLERR != 0
            });
            writer.into()
        }
        Outlet::Stuck => {
            let (reader, writer) = std::io::pipe().unwrap();
            // SAFETY: no memory.
            let size = unsafe { libc::fcntl(writer.as_raw_fd(), libc::F_SETPIPE_SZ, 4096) };
            assert_eq!(size, 4096);
            // It stays open until the tests end.
            std::mem::forget(reader);
            writer.into()
        }
    }
}

impl Finished {
    /// The exit code; -1 for a process that a signal ended.
    pub fn code(&self) -> i32 {
        self.status.code().unwrap_or(-1)
    }

    /// The lines on standard error, without those that other tests may cause: all processes share the host's counters
    /// of accept queues, and a busy host may leave a process without a core for a while.
    pub fn errors(&self) -> String {
        const OF_THE_HOST: [&str; 2] = ["c1m: accept queue: ", "c1m: the client did not run for "];
        let own = |line: &&str| !OF_THE_HOST.iter().any(|start| line.starts_with(start));
        self.err.lines().filter(own).collect::<Vec<_>>().join("\n")
    }

    /// The last line of standard output as JSON.
    pub fn last_document(&self) -> Value {
        let line = self.out.lines().last().unwrap_or_default();
        serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))
    }

    /// Checks that the process failed with `code` and one line on standard error. The line must contain each of
    /// `words`, and say what was seen, what it means and what to do.
    pub fn fails_with(&self, code: i32, words: &[&str]) {
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

/// The events of a kind in an output of `--json -`, in their order. A line that is not whole yet is none.
pub fn events(out: &str, kind: &str) -> Vec<Value> {
    let all = out.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    all.filter(|event| event["event"] == kind).collect()
}

/// Runs the program under test to its end, with the words of `arguments`.
pub fn run(arguments: &str) -> Finished {
    run_as(c1m(), arguments)
}

/// Runs a command to its end, with the words of `arguments`. An error of the program under test must name options of its
/// own.
pub fn run_as(mut command: Command, arguments: &str) -> Finished {
    command.args(arguments.split_whitespace());
    let finished = Running::start(command).wait();
    if [2, 3].contains(&finished.code()) {
        names_own_options(&arguments.split_whitespace().collect::<Vec<_>>(), &finished.err);
    }
    finished
}

/// The child processes of a process.
pub fn children(parent: u32) -> Vec<u32> {
    let tasks = std::fs::read_dir(format!("/proc/{parent}/task")).into_iter().flatten().flatten();
    let lists = tasks.map(|task| std::fs::read_to_string(task.path().join("children")).unwrap_or_default());
    lists.flat_map(|list| list.split_whitespace().map(|pid| pid.parse().unwrap()).collect::<Vec<_>>()).collect()
}

/// Kills a process that a child of the test started.
pub fn kill(pid: u32) {
    // SAFETY: no memory.
    unsafe { libc::kill(pid as libc::pid_t, libc::SIGKILL) };
}

/// Whether a process runs. A zombie does not.
pub fn runs(pid: u32) -> bool {
    let stat = std::fs::read_to_string(PathBuf::from(format!("/proc/{pid}/stat"))).unwrap_or_default();
    let state = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().next());
    state.is_some_and(|state| state != "Z" && state != "X")
}
