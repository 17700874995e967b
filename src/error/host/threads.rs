//! Why threads and processes are refused.

use crate::format::count;

/// Why a thread or a process does not start.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ThreadReason {
    /// A limit on threads and processes is met.
    Limit {
        /// The limit's name.
        name: String,
        /// Threads and processes that it allows.
        most: u64,
        /// Those that run.
        now: u64,
        /// How to raise it.
        raise: RaiseThreads,
    },
    /// A limit on this process's memory leaves no room for another thread's stack.
    StackMemory {
        /// The limit's name.
        name: &'static str,
        /// Bytes that it allows.
        most: u64,
    },
    /// A limit on threads and processes is met, or memory is short; which of them the host does not tell.
    LimitOrMemory {
        /// Limits by name, with the threads that they allow.
        limits: Vec<(String, u64)>,
    },
    /// Some limit is met; which one was not looked for.
    Unexplained,
    /// The kernel refused it for another reason.
    Other,
    /// This process may not run on a core, or the core is off line.
    Core,
    /// A shard's executor did not start, or ended: why.
    Executor(String),
}

/// How a limit on threads and processes is raised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum RaiseThreads {
    /// It is RLIMIT_NPROC.
    User,
    /// It is a cgroup's `pids.max`.
    Cgroup,
    /// It is a sysctl.
    Sysctl,
}

impl ThreadReason {
    pub(super) fn means(&self) -> String {
        match self {
            ThreadReason::Limit { name, most, now, .. } => {
                format!("{name} allows {} processes and threads, and {} run already", count(*most), count(*now))
            }
            ThreadReason::StackMemory { name, most } => {
                format!("{name} allows {most} bytes, and each thread needs 2 MiB for its stack")
            }
            ThreadReason::LimitOrMemory { limits } => {
                let all: Vec<String> = limits.iter().map(|(name, most)| format!("{name} {}", count(*most))).collect();
                format!("a limit on processes and threads is met, or memory is short ({})", all.join(", "))
            }
            ThreadReason::Unexplained => "no thread can be started".to_owned(),
            ThreadReason::Other => "the kernel refuses it".to_owned(),
            ThreadReason::Core => "each shard runs on a core of its own, and this one is not to be had".to_owned(),
            ThreadReason::Executor(_) => "the executor could not start".to_owned(),
        }
    }

    pub(super) fn cure(&self) -> String {
        match self {
            ThreadReason::Limit { raise, .. } => format!("{}, end some of them, or use fewer cores", raise.cure()),
            ThreadReason::StackMemory { name, .. } => format!("raise it ({name} unlimited), or use fewer cores"),
            ThreadReason::LimitOrMemory { .. } => {
                "raise ulimit -u, pids.max of the cgroup (TasksMax=, --pids-limit) or kernel.threads-max, or free memory"
                    .to_owned()
            }
            ThreadReason::Unexplained => "raise pids.max or ulimit -u".to_owned(),
            ThreadReason::Other => "see the limits of this process (ulimit -a)".to_owned(),
            ThreadReason::Core => {
                "see which cores are on line and allowed (lscpu, taskset -p), and whether a seccomp profile forbids sched_setaffinity"
                    .to_owned()
            }
            ThreadReason::Executor(_) => "raise memlock (ulimit -l) to 512 KiB or more".to_owned(),
        }
    }
}

impl RaiseThreads {
    /// What to do.
    pub(crate) fn cure(self) -> &'static str {
        match self {
            RaiseThreads::User => "raise it (ulimit -u, LimitNPROC=)",
            RaiseThreads::Cgroup => "raise it (TasksMax=, --pids-limit of a container)",
            RaiseThreads::Sysctl => "raise it (sysctl -w)",
        }
    }
}
