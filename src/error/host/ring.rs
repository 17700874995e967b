//! Why rings are refused.

/// Why a process does not get the rings that it needs.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum RingReason {
    /// The kernel is older than the oldest one that c1m runs on.
    KernelTooOld {
        /// Its release.
        release: String,
        /// What it lacks.
        lacks: String,
        /// The oldest version that has it.
        oldest: (u32, u32),
    },
    /// The kernel has no memory for a ring, or the limit on locked memory is used up.
    Memory,
    /// The kernel is short of memory or threads for a ring, for now.
    Busy,
    /// No file descriptor is left: each ring is one.
    NoDescriptor,
    /// A ring's table of direct descriptors is larger than the limit on file descriptors.
    Table,
    /// A seccomp filter forbids io_uring.
    Filtered {
        /// The kernel's release.
        release: String,
        /// The file that marks a container, if one does.
        container: Option<&'static str>,
    },
    /// The kernel was built without io_uring.
    NotBuilt {
        /// Its release.
        release: String,
    },
    /// This process may not use io_uring.
    Forbidden {
        /// The value of `kernel.io_uring_disabled`.
        disabled: String,
        /// Whether a seccomp filter is on.
        filtered: bool,
    },
    /// The kernel refused what a ring of two descriptors needs to find out how the kernel behaves.
    Trial,
    /// The kernel takes no more requests, for want of memory.
    Requests,
}

impl RingReason {
    pub(super) fn means(&self) -> String {
        match self {
            RingReason::KernelTooOld { oldest: (major, minor), .. } => format!("c1m needs Linux {major}.{minor} or newer"),
            RingReason::Memory => {
                "the kernel has no memory for the ring, or the memlock limit is used up, by this user's other processes too"
                    .to_owned()
            }
            RingReason::Busy => "the kernel is short of memory or of threads for the ring".to_owned(),
            RingReason::NoDescriptor => "each ring is one file descriptor, and none is left".to_owned(),
            RingReason::Table => "the table may have at most as many slots as the soft file descriptor limit".to_owned(),
            RingReason::Filtered { release, container } => {
                let whose = match container {
                    Some(file) => format!("of a container ({file} is there)"),
                    None => "of a container or a systemd unit".to_owned(),
                };
                format!("seccomp is on, and a seccomp filter {whose} forbids io_uring, which kernel {release} has")
            }
            RingReason::NotBuilt { release } => {
                format!("this kernel, {release}, was built without io_uring (CONFIG_IO_URING)")
            }
            RingReason::Forbidden { disabled, filtered } => format!(
                "this process may not use io_uring: kernel.io_uring_disabled is {disabled}, seccomp is {}",
                if *filtered { "on, as in most containers" } else { "off" }
            ),
            RingReason::Trial => "the kernel refuses a ring of two descriptors what it needs".to_owned(),
            RingReason::Requests => "it has no memory for requests".to_owned(),
        }
    }

    pub(super) fn cure(&self) -> &'static str {
        match self {
            RingReason::KernelTooOld { .. } => "run it on a newer kernel",
            RingReason::Memory => {
                "raise the limit (ulimit -Hl, LimitMEMLOCK=), ask for fewer connections, or free memory"
            }
            RingReason::Busy => "try again, or raise the limit of processes (ulimit -u, TasksMax=)",
            RingReason::NoDescriptor => "raise the limit (ulimit -n)",
            RingReason::Table => "raise the limit (ulimit -n) and start again",
            RingReason::Filtered { .. } => {
                "run with a seccomp profile that allows io_uring_setup, io_uring_enter and io_uring_register (podman and docker: --security-opt seccomp=FILE or seccomp=unconfined; systemd: SystemCallFilter=)"
            }
            RingReason::NotBuilt { .. } => "run it on a kernel with io_uring",
            RingReason::Forbidden { .. } => {
                "set kernel.io_uring_disabled=0, or allow the io_uring system calls in the container's seccomp profile"
            }
            RingReason::Trial => "raise the limits of open files and locked memory (ulimit -n, ulimit -l)",
            RingReason::Requests => "free memory or ask for fewer connections",
        }
    }
}
