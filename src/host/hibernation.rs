//! Whether this process may put connections to sleep, and why not.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::{Capability, Host};
use crate::error::{Errno, Error, HibernationReason, HostError, MissingCapabilities, Result};
use crate::plan::{self, Ports};
use crate::sys::{self, Catcher, CatcherTerms, GracePeriods, RawSender, Steering};

/// The oldest kernel on which connections sleep: BPF ring buffers came with 5.8, and c1m's rings need 6.1 anyway.
const OLDEST_KERNEL: (u32, u32) = (6, 1);

/// The oldest kernel that makes a descriptor of a slot's socket (`IORING_OP_FIXED_FD_INSTALL`).
const COPIES_DESCRIPTORS: (u32, u32) = (6, 8);

/// What all shards of a process share whose connections may sleep.
#[derive(Debug)]
pub struct SharedCatcher {
    /// The table of the sleeping connections, and the programs that look into it.
    pub catcher: Arc<Catcher>,
    /// Grace periods of the kernel.
    pub grace: Arc<GracePeriods>,
    /// See `Host::keeps_descriptors`.
    pub keeps_descriptors: bool,
    /// Catches segments without a listener; it must live as long as connections sleep.
    pub steering: Arc<Steering>,
}

/// The part of sleeping that the kernel refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// The catcher: its programs, maps and ring buffers (bpf(2)).
    Catcher,
    /// To take over a socket's state (TCP_REPAIR, tcp(7)).
    Repair,
    /// A raw socket for answers (raw(7)).
    Answers,
    /// A client's program that looks up sockets (`BPF_PROG_TYPE_SK_LOOKUP`), or its link to the network.
    Lookup,
}

impl Refused {
    /// What was tried, as a line says it.
    fn operation(self) -> &'static str {
        match self {
            Refused::Catcher => "make the catcher of sleeping connections",
            Refused::Repair => "take over a socket's state (TCP_REPAIR)",
            Refused::Answers => "open a raw socket for answers",
            Refused::Lookup => "attach a lookup of sleeping connections",
        }
    }

    /// What a kernel lacks that knows nothing of this part.
    fn lacks(self) -> &'static str {
        match self {
            Refused::Catcher => "BPF ring buffers or memory-mapped arrays (CONFIG_BPF_SYSCALL)",
            Refused::Repair => "TCP_REPAIR",
            Refused::Answers => "raw sockets",
            Refused::Lookup => "BPF_PROG_TYPE_SK_LOOKUP",
        }
    }
}

impl Host {
    /// Whether the kernel makes a descriptor of a slot's socket, without which connections that are awake cannot go to
    /// another process.
    pub fn copies_descriptors(&self) -> bool {
        self.kernel_version() >= COPIES_DESCRIPTORS || self.kernel_version() == (0, 0)
    }

    /// Whether c1m keeps a descriptor of each connection that is awake, where others sleep: the kernel makes none of a
    /// slot's socket later. A kernel of unknown version is taken for an old one.
    pub fn keeps_descriptors(&self) -> bool {
        self.kernel_version() < COPIES_DESCRIPTORS
    }

    /// Checks that connections may sleep here: the capabilities of this process, and the kernel's version.
    ///
    /// Fails with `HostReason::Hibernation`.
    pub fn check_hibernation(&self) -> Result<()> {
        let refused =
            |reason: HibernationReason| Err(HostError::new("put connections to sleep", "", None, reason).into());
        let (release, version) = (sys::kernel_release(), self.kernel_version());
        if version < OLDEST_KERNEL && version != (0, 0) {
            let lacks = "what c1m's rings and BPF programs need";
            return refused(HibernationReason::Kernel { release, lacks });
        }
        if !self.in_initial_user_namespace() {
            return refused(HibernationReason::UserNamespace);
        }
        let missing = self.missing_for_hibernation();
        if !missing.is_empty() {
            return refused(HibernationReason::Capabilities(missing));
        }
        Ok(())
    }

    /// Makes what all shards of this process share whose connections may sleep. Segments are caught whether there is a
    /// listener for them or not: a client has none, and a server that drains or lacks memory listens no more.
    ///
    /// Fails with `HostReason::Hibernation`.
    pub fn share_catcher(&self, shards: usize, connections: u64, listening: Option<Ports>) -> Result<SharedCatcher> {
        let ring_bytes = plan::caught_bytes(connections, shards as u64, self.least_memory_left());
        self.share(listening, || Catcher::new(shards, connections, ring_bytes))
    }

    /// The same with the catcher of an earlier process, whose maps `map` gives.
    pub fn adopt_catcher(
        &self,
        terms: &CatcherTerms,
        listening: Option<Ports>,
        map: impl FnMut(&str) -> Option<OwnedFd>,
    ) -> Result<SharedCatcher> {
        self.share(listening, || Catcher::adopt(terms, map))
    }

    fn share(&self, listening: Option<Ports>, make: impl FnOnce() -> io::Result<Catcher>) -> Result<SharedCatcher> {
        let refused = |part: Refused| move |error: io::Error| self.hibernation_refused(part, Errno::of(&error));
        // Before what takes memory: it needs a right of its own.
        RawSender::new().map_err(refused(Refused::Answers))?;
        let catcher = make().map_err(refused(Refused::Catcher))?;
        let steering = catcher
            .steer(&|port| listening.is_some_and(|ports| ports.contains(port)))
            .map_err(refused(Refused::Lookup))?;
        let grace = GracePeriods::new().map_err(refused(Refused::Catcher))?;
        Ok(SharedCatcher {
            catcher: Arc::new(catcher),
            grace: Arc::new(grace),
            keeps_descriptors: self.keeps_descriptors(),
            steering: Arc::new(steering),
        })
    }

    /// The capabilities that sleeping needs and this process lacks.
    pub fn missing_for_hibernation(&self) -> MissingCapabilities {
        let mut missing = MissingCapabilities::default();
        // CAP_SYS_ADMIN stands in for CAP_BPF and CAP_PERFMON (`bpf_capable` and `perfmon_capable` in
        // include/linux/capability.h), and for no other.
        let is_admin = self.may(Capability::SysAdmin);
        missing.net_admin = !self.may(Capability::NetAdmin);
        missing.bpf = !is_admin && !self.may(Capability::Bpf);
        missing.perfmon = !is_admin && !self.may(Capability::Perfmon);
        missing.net_raw = !self.may(Capability::NetRaw);
        missing
    }

    /// The error for a part of sleeping that the kernel refused with this number.
    pub fn hibernation_refused(&self, part: Refused, errno: Errno) -> Error {
        let missing = self.missing_for_hibernation();
        let reason = match errno {
            Errno::EMFILE | Errno::ENFILE => HibernationReason::NoDescriptor,
            Errno::ENOMEM | Errno::ENOBUFS => HibernationReason::Memory,
            Errno::EPERM | Errno::EACCES if !self.in_initial_user_namespace() => HibernationReason::UserNamespace,
            Errno::EPERM | Errno::EACCES if !missing.is_empty() => HibernationReason::Capabilities(missing),
            Errno::EPERM | Errno::EACCES => HibernationReason::Forbidden,
            Errno::ENOSYS | Errno::ENOPROTOOPT | Errno::EOPNOTSUPP => {
                HibernationReason::Kernel { release: sys::kernel_release(), lacks: part.lacks() }
            }
            _ => HibernationReason::Other,
        };
        HostError::new(part.operation(), "", errno, reason).into()
    }
}
