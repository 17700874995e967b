//! What this host refuses or lacks.

mod hibernation;
mod ring;
mod takeover;
mod threads;

use std::fmt;

use super::{Diagnostic, Errno};

pub use hibernation::{HibernationReason, MissingCapabilities};
pub use ring::RingReason;
pub use takeover::TakeoverReason;
pub use threads::{RaiseThreads, ThreadReason};

/// This host refuses or lacks something: what was tried, on what, what the kernel said, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostError(Box<Refusal>);

/// What an error of the host has: in a box, so that results stay small where nothing fails.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Refusal {
    operation: &'static str,
    subject: String,
    errno: Option<Errno>,
    reason: HostReason,
}

/// Why a host refuses something. What it means and what to do follow from it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum HostReason {
    /// It does not let this process listen.
    Listen(ListenReason),
    /// It does not let this process have the rings that it needs.
    Ring(RingReason),
    /// It does not let this process start a thread or a process.
    Thread(ThreadReason),
    /// It does not let this process put a filter on its sockets.
    Filter(FilterReason),
    /// It does not let this process put connections to sleep.
    Hibernation(HibernationReason),
    /// It does not let this server take another one's place.
    Takeover(TakeoverReason),
    /// No file descriptor is left.
    NoDescriptor,
    /// A filter of system calls (seccomp) or a security module forbids it.
    Filtered,
    /// The rings and listeners of all shards need more file descriptors than this process may have.
    DescriptorLimit {
        /// Connections that were asked for.
        connections: u64,
        /// The limit (RLIMIT_NOFILE, soft).
        limit: u64,
        /// Descriptors that are open already and belong to something else: inherited, or of the rest of the program.
        open: u64,
        /// Descriptors that they need in all.
        needed: u64,
        /// How many of these are rings.
        rings: u64,
        /// How many are listeners.
        sockets: u64,
        /// How many are kept of connections that are awake, where others sleep and the kernel is older than 6.8.
        kept: u64,
        /// How many are others.
        others: u64,
        /// Connections that one ring holds at most.
        slots: u64,
        /// Rings that one shard has at most.
        rings_per_shard: u64,
        /// Connections that would be possible.
        possible: u64,
        /// What needs them.
        whose: ShardsOf,
    },
    /// The rings of all shards need more locked memory than this process may have.
    LockedMemoryLimit {
        /// Connections that were asked for.
        connections: u64,
        /// The limit in bytes (RLIMIT_MEMLOCK, soft).
        limit: u64,
        /// Bytes that they need in all.
        needed: u64,
        /// Rings, and the bytes of each.
        rings: (u64, u64),
        /// Executors, one for each shard, and the bytes of each.
        executors: (u64, u64),
        /// Connections that would be possible.
        possible: u64,
    },
    /// No executor starts with so little locked memory.
    LockedMemoryForExecutor {
        /// The limit in bytes (RLIMIT_MEMLOCK).
        limit: u64,
        /// Bytes that an executor needs.
        needed: u64,
    },
    /// There are fewer source ports than connections to open.
    SourcePorts {
        /// Connections that were asked for.
        connections: u64,
        /// Source ports of each source address, target and port (`net.ipv4.ip_local_port_range`).
        ephemeral: u64,
        /// Source addresses.
        sources: u64,
        /// Targets.
        targets: u64,
        /// Ports of each target.
        ports: u64,
        /// Connections that are possible.
        possible: u64,
        /// Source addresses that would suffice, if any number of them does.
        sources_needed: Option<u64>,
    },
    /// Its resolver knows no address of a name.
    UnknownName {
        /// What the resolver said.
        why: String,
    },
    /// The process of a storm's victims ended by itself.
    VictimsGone {
        /// How: "exit status: 3", "signal: 9 (SIGKILL)".
        status: String,
        /// In which phase of the run.
        phase: String,
    },
    /// The process of a storm's victims runs, and did not report in time what it holds.
    VictimsSilent {
        /// Whether it was stopped at the end of that time: by SIGSTOP, SIGTSTP (Ctrl-Z) or a debugger.
        stopped: bool,
        /// How long its report was awaited, in seconds.
        seconds: u64,
    },
}

/// Why the kernel does not listen at an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ListenReason {
    /// Another socket has the port.
    PortTaken {
        /// The port.
        port: u16,
    },
    /// The port is below `net.ipv4.ip_unprivileged_port_start`, and this process has no CAP_NET_BIND_SERVICE.
    PrivilegedPort,
    /// No file descriptor is left.
    NoDescriptor,
    /// Another reason.
    Other,
}

/// Why sockets cannot have a filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum FilterReason {
    /// No file descriptor is left for the accepts in flight: behind a filter each takes one.
    NoDescriptor,
    /// `net.ipv4.tcp_migrate_req` is 1, with which the kernel moves connections from one listener to another, or the
    /// network belongs to another user namespace.
    Network,
    /// This process may not load one: it lacks CAP_BPF, CAP_PERFMON or CAP_CHOWN.
    Privilege,
    /// A seccomp filter, or a security module, forbids what is needed although the capabilities are there.
    Forbidden,
}

/// What the shards belong to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ShardsOf {
    /// A server: each listens on its ports.
    Server,
    /// A client.
    Client,
}

/// How the hard limit on file descriptors is raised.
pub(crate) const RAISE_DESCRIPTORS: &str = "raise the hard limit (ulimit -Hn, LimitNOFILE=)";
/// How that on locked memory is raised.
pub(crate) const RAISE_LOCKED_MEMORY: &str = "raise the hard limit (ulimit -Hl, LimitMEMLOCK=)";

impl HostError {
    pub(crate) fn new(
        operation: &'static str,
        subject: impl Into<String>,
        errno: impl Into<Option<Errno>>,
        reason: impl Into<HostReason>,
    ) -> HostError {
        let (errno, reason) = (errno.into(), reason.into());
        let reason = if reason.is_refuted_by(errno) { HostReason::Filtered } else { reason };
        HostError(Box::new(Refusal { operation, subject: subject.into(), errno, reason }))
    }

    /// What was tried, such as `bind` or `start`.
    pub fn operation(&self) -> &str {
        self.0.operation
    }

    /// What it was tried on, such as an address or the name of a thread; empty where there is nothing to name.
    pub fn subject(&self) -> &str {
        &self.0.subject
    }

    /// What the kernel said; `None` where c1m looked before it tried.
    pub fn errno(&self) -> Option<Errno> {
        self.0.errno
    }

    /// Why.
    pub fn reason(&self) -> &HostReason {
        &self.0.reason
    }

    /// The line in its three parts.
    pub(crate) fn parts(&self) -> Diagnostic {
        Diagnostic { saw: self.saw(), means: self.0.reason.means(), cure: self.0.reason.cure() }
    }

    fn saw(&self) -> String {
        let tried = format!("{} {}", self.0.operation, self.0.subject);
        let tried = tried.trim_end();
        match (&self.0.reason, self.0.errno) {
            (HostReason::DescriptorLimit { limit, open, needed, rings, sockets, kept, others, .. }, _) => {
                let open = if *open > 0 { format!(", of which {open} are open already") } else { String::new() };
                let kept = if *kept > 0 { format!("{kept} connections awake, ") } else { String::new() };
                format!(
                    "file descriptor limit {limit}{open}, {needed} needed ({rings} rings, {sockets} sockets, {kept}{others} for the rest)"
                )
            }
            (HostReason::LockedMemoryLimit { limit, needed, .. }, _) => {
                format!("memlock limit {limit} bytes, {needed} needed")
            }
            (HostReason::LockedMemoryForExecutor { limit, .. }, _) => format!("memlock limit {limit} bytes"),
            (HostReason::SourcePorts { connections, .. }, _) => format!("{connections} connections"),
            (HostReason::Ring(RingReason::KernelTooOld { release, lacks, .. }), _) => {
                format!("io_uring of kernel {release}: it lacks {lacks}")
            }
            (HostReason::VictimsGone { status, phase }, _) => {
                format!("{tried}: it ended ({status}) in the {phase} phase")
            }
            (HostReason::VictimsSilent { stopped, seconds }, _) => {
                let state = if *stopped { "is stopped (SIGSTOP, Ctrl-Z or a debugger)" } else { "runs" };
                format!("{tried}: it {state}, and gave no report within {seconds} s")
            }
            (HostReason::Thread(ThreadReason::Executor(why)), _) => format!("{tried}: {why}"),
            (_, Some(errno)) => format!("{tried}: {errno}"),
            (_, None) => tried.to_owned(),
        }
    }
}

impl HostReason {
    /// Whether the reason is a limit, or none in particular, and the kernel has another number for that: a filter answers
    /// EPERM or ENOSYS to a call that it forbids.
    fn is_refuted_by(&self, errno: Option<Errno>) -> bool {
        let is_limit = matches!(
            self,
            HostReason::NoDescriptor
                | HostReason::Ring(RingReason::NoDescriptor | RingReason::Table | RingReason::Trial)
                | HostReason::Listen(ListenReason::Other)
                | HostReason::Thread(ThreadReason::Other)
                | HostReason::Takeover(TakeoverReason::Memory)
        );
        is_limit && matches!(errno, Some(Errno::EPERM | Errno::ENOSYS))
    }

    fn means(&self) -> String {
        match self {
            HostReason::Listen(reason) => reason.means().to_owned(),
            HostReason::Ring(reason) => reason.means(),
            HostReason::Thread(reason) => reason.means(),
            HostReason::Filter(reason) => reason.means().to_owned(),
            HostReason::Hibernation(reason) => reason.means(),
            HostReason::Takeover(reason) => reason.means(),
            HostReason::NoDescriptor => "no file descriptor is left".to_owned(),
            HostReason::Filtered => {
                "a seccomp filter, as of a container or a systemd unit, or a security module forbids it".to_owned()
            }
            HostReason::DescriptorLimit { kept: 1.., .. } => {
                "where others sleep, each connection that is awake has a descriptor before Linux 6.8".to_owned()
            }
            HostReason::DescriptorLimit { connections, rings, slots, rings_per_shard, .. } => format!(
                "{connections} connections need {rings} rings of {slots} slots, and each ring is a descriptor (no core has more than {rings_per_shard})"
            ),
            HostReason::LockedMemoryLimit { connections, rings, executors, .. } => format!(
                "{connections} connections need {} rings of {} bytes and {} executors of {}",
                rings.0, rings.1, executors.0, executors.1
            ),
            HostReason::LockedMemoryForExecutor { needed, .. } => {
                format!("an executor locks up to {needed} bytes for its rings")
            }
            HostReason::SourcePorts { ephemeral, sources, targets, ports, possible, .. } => format!(
                "{ephemeral} ephemeral ports x {sources} source address(es) x {targets} target(s) x {ports} port(s) = {possible} connections at most"
            ),
            HostReason::UnknownName { why } => why.clone(),
            HostReason::VictimsGone { .. } => "the connections that the storm was to kill are gone".to_owned(),
            HostReason::VictimsSilent { .. } => {
                "how many connections the storm would kill is not known, so it did not begin".to_owned()
            }
        }
    }

    fn cure(&self) -> String {
        match self {
            HostReason::Listen(reason) => reason.cure(),
            HostReason::Ring(reason) => reason.cure().to_owned(),
            HostReason::Thread(reason) => reason.cure(),
            HostReason::Filter(reason) => format!("{}, or let connections wait in polls", reason.cure()),
            HostReason::Hibernation(reason) => reason.cure(),
            HostReason::Takeover(reason) => reason.cure(),
            HostReason::NoDescriptor => "raise the limit (ulimit -n)".to_owned(),
            HostReason::Filtered => {
                "run with a profile that allows this call (podman and docker: --security-opt seccomp=FILE or seccomp=unconfined; systemd: SystemCallFilter=)"
                    .to_owned()
            }
            HostReason::DescriptorLimit { possible: 0, whose: ShardsOf::Server, .. } => {
                format!("{RAISE_DESCRIPTORS} or serve fewer ports")
            }
            HostReason::DescriptorLimit { possible: 0, whose: ShardsOf::Client, .. } => {
                format!("{RAISE_DESCRIPTORS} or use fewer cores")
            }
            HostReason::DescriptorLimit { kept: 1.., .. } => {
                format!("{RAISE_DESCRIPTORS} or let fewer connections be awake")
            }
            HostReason::DescriptorLimit { possible, .. } => {
                format!("{RAISE_DESCRIPTORS} or ask for at most {possible} connections")
            }
            HostReason::LockedMemoryLimit { possible: 0, .. } => format!("{RAISE_LOCKED_MEMORY} or use fewer cores"),
            HostReason::LockedMemoryLimit { possible, .. } => {
                format!("{RAISE_LOCKED_MEMORY} or ask for at most {possible} connections")
            }
            HostReason::LockedMemoryForExecutor { .. } => RAISE_LOCKED_MEMORY.to_owned(),
            HostReason::SourcePorts { sources_needed: Some(sources), .. } => {
                format!("give {sources} source addresses, more ports or targets, or widen net.ipv4.ip_local_port_range")
            }
            HostReason::SourcePorts { sources_needed: None, .. } => {
                "widen net.ipv4.ip_local_port_range, or take ports out of net.ipv4.ip_local_reserved_ports".to_owned()
            }
            HostReason::UnknownName { .. } => {
                "check the name (getent ahosts), /etc/resolv.conf and /etc/hosts, or give an address".to_owned()
            }
            HostReason::VictimsGone { .. } => "read its message above, if there is one".to_owned(),
            HostReason::VictimsSilent { stopped: true, .. } => {
                "start the storm again, and let that process run (kill -CONT continues a stopped one)".to_owned()
            }
            HostReason::VictimsSilent { stopped: false, .. } => {
                "open fewer connections, or leave its cores less other work".to_owned()
            }
        }
    }
}

impl ListenReason {
    fn means(self) -> &'static str {
        match self {
            ListenReason::PortTaken { .. } => {
                "another process listens there, or an outgoing connection (even one in TIME_WAIT) took the port from the ephemeral range"
            }
            ListenReason::PrivilegedPort => "ports below net.ipv4.ip_unprivileged_port_start need CAP_NET_BIND_SERVICE",
            ListenReason::NoDescriptor => "no file descriptor is left",
            ListenReason::Other => "the kernel refuses to listen there",
        }
    }

    fn cure(self) -> String {
        match self {
            ListenReason::PortTaken { port } => format!(
                "stop it (ss -ltnp sport = :{port}; ss -tan sport = :{port}), choose another port, or keep the range off it: sysctl net.ipv4.ip_local_reserved_ports"
            ),
            ListenReason::PrivilegedPort => "choose a port of 1024 or more".to_owned(),
            ListenReason::NoDescriptor => "raise the limit (ulimit -n) or serve fewer ports".to_owned(),
            ListenReason::Other => "see whether the address family is enabled (ip addr)".to_owned(),
        }
    }
}

impl FilterReason {
    fn means(self) -> &'static str {
        match self {
            FilterReason::NoDescriptor => "each accept under way takes a file descriptor",
            FilterReason::Network => "net.ipv4.tcp_migrate_req is 1, or this network belongs to another user namespace",
            FilterReason::Privilege => {
                "connections cannot wait behind a filter without CAP_BPF, CAP_PERFMON and CAP_CHOWN"
            }
            FilterReason::Forbidden => {
                "the capabilities are there, and a seccomp filter or a security module forbids it"
            }
        }
    }

    pub(crate) fn cure(self) -> &'static str {
        match self {
            FilterReason::NoDescriptor => "raise the limit (ulimit -Hn)",
            FilterReason::Network => "set it to 0, or leave that namespace",
            FilterReason::Privilege => "run it as root",
            FilterReason::Forbidden => {
                "allow bpf and fchown in the seccomp profile (SystemCallFilter=, --security-opt seccomp=FILE)"
            }
        }
    }
}

macro_rules! reasons {
    ($($kind:ident = $reason:ident,)*) => {
        $(impl From<$reason> for HostReason {
            fn from(reason: $reason) -> HostReason {
                HostReason::$kind(reason)
            }
        })*
    };
}

reasons! {
    Listen = ListenReason,
    Ring = RingReason,
    Thread = ThreadReason,
    Filter = FilterReason,
    Hibernation = HibernationReason,
    Takeover = TakeoverReason,
}

impl fmt::Display for HostError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.parts().fmt(f)
    }
}

impl std::error::Error for HostError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.errno.as_ref().map(|errno| errno as _)
    }
}
