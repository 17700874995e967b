//! Threads and processes: the limits on their number, and how to start them so that a refusal names the limit.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use core_affinity::CoreId;

use super::{Capability, Host};
use crate::constants::AFTERLIFE;
use crate::error::{Errno, Error, HostError, RaiseThreads, Result, ThreadReason};
use crate::sys::{self, Resource};

/// A limit on the number of threads and processes, which the kernel counts alike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ThreadLimit {
    /// The limit's name: `ulimit -u`, `kernel.threads-max`, or the file that sets a cgroup's limit.
    pub name: String,
    /// Threads and processes that it allows.
    pub most: u64,
    /// Threads and processes that there are; `None` when that cannot be read.
    pub now: Option<u64>,
    /// How to raise the limit.
    pub raise: RaiseThreads,
}

impl ThreadLimit {
    /// Threads and processes that may still be started. Where it cannot be read how many there are, the limit itself.
    pub fn left(&self) -> u64 {
        self.most.saturating_sub(self.now.unwrap_or(0))
    }
}

#[cfg(test)]
thread_local! {
    /// The thread of this name is not started by this one: no limit of the kernel meets a certain thread.
    pub static REFUSED: std::cell::Cell<&'static str> = const { std::cell::Cell::new("") };
}

/// Starts a thread.
///
/// Fails with a `ThreadReason`, which names the limit where one is met.
pub fn start_thread<T: Send + 'static>(name: &str, body: impl FnOnce() -> T + Send + 'static) -> Result<JoinHandle<T>> {
    #[cfg(test)]
    if REFUSED.get() == name {
        return Err(not_started(format!("the thread {name}"), &io::Error::from_raw_os_error(Errno::EAGAIN.0)));
    }
    let started = Builder::new().name(name.to_owned()).spawn(body);
    started.map_err(|error| not_started(format!("the thread {name}"), &error))
}

/// Cores for which a set of core_affinity has room.
const CORES_OF_A_SET: usize = 1_024;

/// Pins the calling thread to a core.
///
/// Fails with `ThreadReason::Core` where the kernel refuses it.
pub fn pin_thread(core: usize) -> Result<()> {
    if core < CORES_OF_A_SET && core_affinity::set_for_current(CoreId { id: core }) {
        return Ok(());
    }
    // It tells why as well.
    sys::pin_thread(core).map_err(|error| {
        HostError::new("run a thread on", format!("core {core}"), Errno::of(&error), ThreadReason::Core).into()
    })
}

/// Checks that `number` threads can be started, by starting them. glommio ends the process where one of its threads
/// cannot be started, so this must be known beforehand.
///
/// Fails with a `ThreadReason`, which names the limit where one is met.
pub fn check_threads(number: u64) -> Result<()> {
    let before = threads_now();
    let gate = Arc::new(Mutex::new(()));
    let shut = gate.lock().unwrap_or_else(PoisonError::into_inner);
    let mut threads = Vec::new();
    let mut refused = None;
    for _ in 0..number {
        let gate = gate.clone();
        let wait = move || drop(gate.lock());
        match Builder::new().spawn(wait) {
            Ok(thread) => threads.push(thread),
            Err(error) => {
                // Asked while the others still run, as they use up the limit.
                let what = format!("{number} threads, {} of which could be started", threads.len());
                refused = Some(not_started(what, &error));
                break;
            }
        }
    }
    drop(shut);
    for thread in threads {
        // It cannot have panicked.
        let _ = thread.join();
    }
    // A thread that was joined still counts for a moment.
    let deadline = Instant::now() + AFTERLIFE;
    while threads_now() > before && Instant::now() < deadline {
        std::thread::sleep(Duration::from_micros(100));
    }
    refused.map_or(Ok(()), Err)
}

/// Threads of this process, as the kernel counts them.
fn threads_now() -> usize {
    std::fs::read_dir("/proc/self/task").map_or(0, Iterator::count)
}

/// Why a thread or a process, `what`, could not be started.
pub fn not_started(what: impl Into<String>, error: &io::Error) -> Error {
    let errno = Errno::of(error);
    let reason = match errno {
        Errno::EAGAIN | Errno::ENOMEM => limit_met(),
        _ => ThreadReason::Other,
    };
    HostError::new("start", what, errno, reason).into()
}

/// The limit that does not allow another thread, as far as this host tells.
fn limit_met() -> ThreadReason {
    let limits = Host::here().thread_limits();
    if let Some(met) = limits.iter().find(|limit| limit.left() == 0) {
        let (name, now) = (met.name.clone(), met.now.unwrap_or(0));
        return ThreadReason::Limit { name, most: met.most, now, raise: met.raise };
    }
    if let Some((name, most)) = Resource::memory_limit() {
        return ThreadReason::StackMemory { name, most };
    }
    ThreadReason::LimitOrMemory { limits: limits.into_iter().map(|limit| (limit.name, limit.most)).collect() }
}

impl Host {
    /// The limits on threads and processes that this process is under, as far as they can be read.
    pub fn thread_limits(&self) -> Vec<ThreadLimit> {
        let exempt = self.may(Capability::SysResource) || self.may(Capability::SysAdmin) || self.is_initial_root();
        // The limit counts the processes of one user, which must be known.
        let bound = self.user().filter(|_| !exempt).and_then(|_| Resource::Processes.read().ok());
        let user = bound.filter(|limit| limit.soft != u64::MAX).map(|limit| ThreadLimit {
            name: "ulimit -u (RLIMIT_NPROC)".to_owned(),
            most: limit.soft,
            now: self.threads_of_user(),
            raise: RaiseThreads::User,
        });
        let groups = self.cgroup_folders("pids").into_iter().filter_map(|(_, folder)| {
            let file = folder.join("pids.max");
            Some(ThreadLimit {
                // "max" stands for no limit, and is no number.
                most: self.read_at(&file)?.trim().parse().ok()?,
                now: self.read_at(&folder.join("pids.current")).and_then(|text| text.trim().parse().ok()),
                name: file.display().to_string(),
                raise: RaiseThreads::Cgroup,
            })
        });
        // Tasks of the whole host: "running/all" in the fourth field.
        let load = self.read("proc/loadavg").unwrap_or_default();
        let all = load.split_whitespace().nth(3).and_then(|field| field.split_once('/')?.1.parse().ok());
        let whole = ["kernel.threads-max", "kernel.pid_max"].into_iter().filter_map(|name| {
            Some(ThreadLimit { name: name.to_owned(), most: self.sysctl(name)?, now: all, raise: RaiseThreads::Sysctl })
        });
        user.into_iter().chain(groups).chain(whole).collect()
    }

    /// Whether this process runs as the host's own root, whose processes the kernel does not limit.
    fn is_initial_root(&self) -> bool {
        self.in_initial_user_namespace() && self.user() == Some(0)
    }

    /// The real user id of this process.
    fn user(&self) -> Option<u64> {
        real_user(&self.read("proc/self/status")?)
    }

    /// Threads of all processes of this process's user, as far as /proc shows them.
    fn threads_of_user(&self) -> Option<u64> {
        let user = self.user()?;
        let entries = std::fs::read_dir(self.path("proc")).ok()?.flatten();
        let threads = entries.filter_map(|entry| {
            let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
            let status = self.read(&format!("proc/{pid}/status"))?;
            let threads = status.lines().find_map(|line| line.strip_prefix("Threads:"))?;
            (real_user(&status) == Some(user)).then(|| threads.trim().parse::<u64>().ok()).flatten()
        });
        Some(threads.fold(0, u64::saturating_add))
    }
}

/// The real user id in a /proc/PID/status.
fn real_user(status: &str) -> Option<u64> {
    status.lines().find_map(|line| line.strip_prefix("Uid:"))?.split_whitespace().next()?.parse().ok()
}
