//! Why connections cannot be put to sleep.

use std::fmt;

/// Why a process may not put connections to sleep, or cannot here.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum HibernationReason {
    /// It lacks capabilities.
    Capabilities(MissingCapabilities),
    /// It has the capabilities in a user namespace that is not the host's. The kernel takes those for BPF programs and
    /// maps from the host's alone.
    UserNamespace,
    /// The kernel lacks something: it is older than 6.1, or was built without it.
    Kernel {
        /// Its release.
        release: String,
        /// What it lacks.
        lacks: &'static str,
    },
    /// A seccomp filter, or a security module, forbids what is needed although the capabilities are there.
    Forbidden,
    /// The kernel has no memory for the table of sleepers or for the ring buffers.
    Memory,
    /// No file descriptor is left for them.
    NoDescriptor,
    /// The kernel refuses for a reason that is not known.
    Other,
}

/// Capabilities that sleeping needs and a process lacks. One of the fields is true at least.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct MissingCapabilities {
    /// CAP_NET_ADMIN: to take a socket's state and to give it to another one (TCP_REPAIR, tcp(7)).
    pub net_admin: bool,
    /// CAP_BPF: for the table of sleepers, the ring buffers and the programs (bpf(2)).
    pub bpf: bool,
    /// CAP_PERFMON: for programs that read a segment's headers (`bpf_probe_read_kernel`).
    pub perfmon: bool,
    /// CAP_NET_RAW: to answer a segment without a socket (raw(7)).
    pub net_raw: bool,
}

impl MissingCapabilities {
    /// Whether none is missing.
    pub fn is_empty(self) -> bool {
        self == MissingCapabilities::default()
    }

    /// Their names.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        let all = [
            (self.net_admin, "CAP_NET_ADMIN"),
            (self.bpf, "CAP_BPF"),
            (self.perfmon, "CAP_PERFMON"),
            (self.net_raw, "CAP_NET_RAW"),
        ];
        all.into_iter().filter(|(missing, _)| *missing).map(|(_, name)| name)
    }
}

/// The names, as a unit of systemd has them in one line.
impl fmt::Display for MissingCapabilities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.names().collect();
        f.write_str(&names.join(" "))
    }
}

impl HibernationReason {
    pub(super) fn means(&self) -> String {
        match self {
            HibernationReason::Capabilities(missing) => format!("sleeping connections need {missing}"),
            HibernationReason::UserNamespace => {
                "this process's capabilities are those of a user namespace, and the kernel takes BPF programs from the host's alone"
                    .to_owned()
            }
            HibernationReason::Kernel { release, lacks } => format!("kernel {release} lacks {lacks}"),
            HibernationReason::Forbidden => {
                "the capabilities are there, and a seccomp filter or a security module forbids it".to_owned()
            }
            HibernationReason::Memory => {
                "there is no memory for the table of sleeping connections and the ring buffers".to_owned()
            }
            HibernationReason::NoDescriptor => "no file descriptor is left for the programs and maps".to_owned(),
            HibernationReason::Other => "the kernel refuses what sleeping connections need".to_owned(),
        }
    }

    pub(crate) fn cure(&self) -> String {
        match self {
            HibernationReason::Capabilities(missing) => {
                format!("grant them (AmbientCapabilities={missing} in a systemd unit, or run it as root)")
            }
            HibernationReason::UserNamespace => {
                "run it in the host's user namespace (no rootless container, no PrivateUsers=)".to_owned()
            }
            HibernationReason::Kernel { .. } => "run it on Linux 6.1 or newer, built with it".to_owned(),
            HibernationReason::Forbidden => {
                "allow bpf, membarrier and setsockopt in the seccomp profile (SystemCallFilter=, --security-opt seccomp=FILE)"
                    .to_owned()
            }
            HibernationReason::Memory => "free memory, or hold fewer connections".to_owned(),
            HibernationReason::NoDescriptor => "raise the hard limit (ulimit -Hn, LimitNOFILE=)".to_owned(),
            HibernationReason::Other => "let no connection sleep".to_owned(),
        }
    }
}
