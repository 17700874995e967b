//! What this host is and what it allows, read from /proc, /sys and the kernel. Files are read below a root folder,
//! which tests replace.

mod awake;
mod cgroup;
mod hibernation;
mod memory;
mod names;
mod net;
mod threads;
mod tls;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::error::{ConfigError, Errno, HostError, HostReason, Result};
use crate::plan::{EXECUTOR_LOCKED_BYTES, GLOMMIO_MEMLOCK, Needs, RING_LOCKED_BYTES, largest};
use crate::sys::{self, Filter, Limit, Resource};

pub use hibernation::{Refused, SharedCatcher};
pub use memory::{HOST_MEMORY, Memory, MemoryCgroup, MemoryLeft};
pub use names::Resolved;
pub use net::{Conntrack, LAST_PORT, Loopback, NetCounters, NetworkCard, Sockets, SourcePorts, Tracked, moved};
#[cfg(test)]
pub use threads::REFUSED;
pub use threads::{ThreadLimit, check_threads, not_started, pin_thread, start_thread};

/// The first kernel that charges the queues of a ring to an ordinary user (`io_create_region`).
const RINGS_CHARGED_SINCE: (u32, u32) = (6, 14);

/// A host whose /proc and /sys lie below a root folder.
#[derive(Debug, Clone)]
pub struct Host {
    root: PathBuf,
}

/// The outcome of reading a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reading {
    /// The file's trimmed content.
    Text(String),
    /// There is no such file.
    Absent,
    /// The file is there, and this process may not read it.
    Refused(Errno),
}

/// A capability that c1m looks for, by its number in linux/capability.h.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Capability {
    /// CAP_CHOWN: the process may set the owner of its sockets, by which a filter tells them apart.
    Chown = 0,
    /// CAP_NET_ADMIN: the process may take over sockets' states (TCP_REPAIR).
    NetAdmin = 12,
    /// CAP_NET_RAW: the process may open raw sockets.
    NetRaw = 13,
    /// CAP_IPC_LOCK: the process is not charged for locked memory.
    IpcLock = 14,
    /// CAP_SYS_ADMIN: the process is not bound by fs.file-max.
    SysAdmin = 21,
    /// CAP_SYS_RESOURCE: the process may raise its hard limits.
    SysResource = 24,
    /// CAP_PERFMON: the process's BPF programs may read what the kernel has.
    Perfmon = 38,
    /// CAP_BPF: the process may load BPF programs.
    Bpf = 39,
}

/// Processor time of a process, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct CpuTime {
    /// In user space.
    pub user: f64,
    /// In the kernel.
    pub system: f64,
}

impl CpuTime {
    /// Both together.
    pub fn total(self) -> f64 {
        self.user + self.system
    }

    /// What was used since an earlier reading; `None` if that had more, as then another process has the number now.
    pub fn since(self, earlier: CpuTime) -> Option<CpuTime> {
        let spent = CpuTime { user: self.user - earlier.user, system: self.system - earlier.system };
        (spent.user >= 0.0 && spent.system >= 0.0).then_some(spent)
    }
}

/// What this process sees of another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// /proc shows it.
    Shown,
    /// It runs, and /proc hides it (hidepid).
    Hidden,
    /// It runs, and there is no /proc to show it.
    NoProc,
    /// No process has that number.
    Gone,
}

/// The cores to run on, one shard on each. A process may use the cores that its cpuset and its affinity (taskset)
/// allow.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Cores {
    /// All cores that this process may use.
    All,
    /// This many of them, the lowest numbers first: at least 1, at most as many as there are. Beyond it starting fails
    /// with [`ConfigError::CoreCount`](crate::error::ConfigError::CoreCount).
    Count(usize),
    /// Exactly these cores, by the kernel's numbers. A core that this process may not use fails with
    /// [`ConfigError::Core`](crate::error::ConfigError::Core), and an empty list with
    /// [`ConfigError::EmptyCoreList`](crate::error::ConfigError::EmptyCoreList). A core that is named twice gets two
    /// shards.
    List(Vec<usize>),
}

impl Host {
    /// The host this process runs on.
    pub fn here() -> Host {
        Host { root: PathBuf::from("/") }
    }

    /// Whether this process may attach a filter to its sockets, and this kernel can. Always ENOSYS for a host below
    /// another root, which cannot be asked.
    pub fn filters(&self) -> std::result::Result<(), Errno> {
        static FOUND: OnceLock<std::result::Result<(), Errno>> = OnceLock::new();
        if self.root != Path::new("/") {
            return Err(Errno::ENOSYS);
        }
        // With that setting the kernel moves connections from listeners that are shut down to those of other shards.
        if self.sysctl("net.ipv4.tcp_migrate_req") == Some(1) {
            return Err(Errno::EOPNOTSUPP);
        }
        *FOUND.get_or_init(|| Filter::probe().map_err(|error| Errno::of(&error)))
    }

    /// Whether this process has the capabilities with which its sockets can have a filter.
    pub fn may_filter(&self) -> bool {
        let missing = self.missing_for_hibernation();
        self.may(Capability::Chown) && !missing.bpf && !missing.perfmon
    }

    /// A host whose files lie below `root`.
    pub fn below(root: &Path) -> Host {
        Host { root: root.to_owned() }
    }

    /// Reads a file. Its path is relative to the root folder.
    pub fn reading(&self, path: &str) -> Reading {
        match std::fs::read_to_string(self.root.join(path)) {
            Ok(text) => Reading::Text(text.trim().to_owned()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Reading::Absent,
            Err(error) => Reading::Refused(Errno::of(&error)),
        }
    }

    fn read(&self, path: &str) -> Option<String> {
        std::fs::read_to_string(self.root.join(path)).ok()
    }

    /// The value of a sysctl with one number, such as `net.core.somaxconn`; `None` when it cannot be read.
    pub fn sysctl(&self, name: &str) -> Option<u64> {
        self.sysctl_numbers(name).and_then(|numbers| numbers.first().copied())
    }

    /// The values of a sysctl with several numbers; `None` when they cannot be read.
    pub fn sysctl_numbers(&self, name: &str) -> Option<Vec<u64>> {
        self.sysctl_text(name)?.split_whitespace().map(|word| word.parse().ok()).collect()
    }

    /// The trimmed text of a sysctl; `None` when it cannot be read.
    pub fn sysctl_text(&self, name: &str) -> Option<String> {
        self.read(&sysctl_path(name)).map(|text| text.trim().to_owned())
    }

    /// The trimmed text of a sysctl, or why it cannot be read.
    pub fn sysctl_reading(&self, name: &str) -> Reading {
        self.reading(&sysctl_path(name))
    }

    /// The whole path of a file whose path is relative to the root folder.
    pub fn path(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    /// Sets a sysctl.
    pub fn write_sysctl(&self, name: &str, value: &str) -> io::Result<()> {
        std::fs::write(self.root.join(sysctl_path(name)), format!("{value}\n"))
    }

    /// Whether this process may write a sysctl. To open its file for writing asks the kernel, and changes nothing.
    pub fn may_write_sysctl(&self, name: &str) -> bool {
        self.may_write(&sysctl_path(name))
    }

    /// Whether this process may write a file that exists. Its path is relative to the root folder.
    pub fn may_write(&self, path: &str) -> bool {
        std::fs::OpenOptions::new().write(true).open(self.root.join(path.trim_start_matches('/'))).is_ok()
    }

    /// Whether /proc shows a process: it may hide those of other users (hidepid).
    pub fn process(&self, pid: u32) -> Seen {
        if self.path(&format!("proc/{pid}/stat")).exists() {
            return Seen::Shown;
        }
        match sys::process_runs(pid) {
            false => Seen::Gone,
            true if self.path("proc/self/stat").exists() => Seen::Hidden,
            true => Seen::NoProc,
        }
    }

    /// Whether a process is stopped, by a signal or by a debugger (state `T` or `t` of /proc/PID/stat, proc(5)). `false`
    /// when that cannot be read.
    pub fn is_stopped(&self, pid: u32) -> bool {
        self.stat(pid).first().is_some_and(|state| matches!(state.as_str(), "T" | "t"))
    }

    /// The fields of /proc/PID/stat from the third one on, which is the state; none where it cannot be read.
    fn stat(&self, pid: u32) -> Vec<String> {
        let stat = self.read(&format!("proc/{pid}/stat")).unwrap_or_default();
        // The second field is the program's name in parentheses and may hold anything.
        stat.rsplit(')').next().unwrap_or_default().split_whitespace().map(str::to_owned).collect()
    }

    /// Resident memory of a process now and at its highest, in bytes (VmRSS, VmHWM of
    /// /proc/PID/status); zeros when it cannot be read.
    pub fn resident(&self, pid: u32) -> (u64, u64) {
        let status = self.read(&format!("proc/{pid}/status")).unwrap_or_default();
        let field = |name: &str| kilobytes(&status, name).unwrap_or(0);
        (field("VmRSS:"), field("VmHWM:"))
    }

    /// Processor time that a process has used (/proc/PID/stat, to 10 ms); `None` when it cannot be read.
    pub fn cpu_time(&self, pid: u32) -> Option<CpuTime> {
        let fields = self.stat(pid);
        // USER_HZ is 100 on every architecture we run on.
        let seconds = |at: usize| fields.get(at)?.parse::<f64>().ok().map(|ticks| ticks / 100.0);
        // utime and stime are fields 14 and 15.
        Some(CpuTime { user: seconds(11)?, system: seconds(12)? })
    }

    /// The name of the first processor ("model name" of /proc/cpuinfo); `None` where the kernel tells none.
    pub fn processor(&self) -> Option<String> {
        let text = self.read("proc/cpuinfo")?;
        let name = text.lines().find_map(|line| line.strip_prefix("model name"))?;
        Some(name.trim_start_matches([' ', '\t', ':']).trim().to_owned())
    }

    /// Whether this process has a capability. The kernel asks for each of `Capability` in the initial user namespace
    /// (`capable`), so root of another user namespace has none of them.
    pub fn may(&self, capability: Capability) -> bool {
        if !self.in_initial_user_namespace() {
            return false;
        }
        self.capabilities().is_some_and(|mask| mask >> capability as u32 & 1 == 1)
    }

    /// The effective capabilities of this process, a bit for each number. The kernel tells them where there is no /proc too,
    /// unless a filter forbids the call.
    fn capabilities(&self) -> Option<u64> {
        let asked = (self.root == Path::new("/")).then(sys::capabilities).and_then(std::result::Result::ok);
        asked.or_else(|| {
            let status = self.read("proc/self/status")?;
            let mask = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
            u64::from_str_radix(mask.trim(), 16).ok()
        })
    }

    /// Whether the kernel charges this process's rings to its limit on locked memory. A kernel of unknown version is
    /// taken for a new one, which does.
    pub fn charges_rings(&self) -> bool {
        let version = self.kernel_version();
        !self.may(Capability::IpcLock) && (version >= RINGS_CHARGED_SINCE || version == (0, 0))
    }

    /// Bytes of locked memory that the rings of this process may take under a limit of `limit` bytes: `u64::MAX` where
    /// rings are not charged.
    pub fn lockable(&self, limit: u64) -> u64 {
        if self.charges_rings() { limit } else { u64::MAX }
    }

    /// Checks that `limit` bytes of locked memory suffice for the rings of `connections`; `needs` tells what a number
    /// of connections needs.
    ///
    /// Fails with `HostReason::LockedMemoryLimit`, which has the arithmetic.
    pub fn check_locked_memory(&self, limit: u64, connections: u64, needs: impl Fn(u64) -> Needs) -> Result<()> {
        let need = needs(connections);
        if need.locked_bytes() <= self.lockable(limit) {
            return Ok(());
        }
        let possible = largest(connections, |n| needs(n).locked_bytes() <= limit);
        let reason = HostReason::LockedMemoryLimit {
            connections,
            limit,
            needed: need.locked_bytes(),
            rings: (need.all_rings(), RING_LOCKED_BYTES),
            executors: (need.rings.len() as u64, EXECUTOR_LOCKED_BYTES),
            possible,
        };
        Err(HostError::new("hold", format!("{connections} connections"), None, reason).into())
    }

    /// Whether this process is in the initial user namespace, which has a number of its own (`PROC_USER_INIT_INO`). A
    /// host that shows no namespaces has only that one.
    pub fn in_initial_user_namespace(&self) -> bool {
        let namespace = std::fs::read_link(self.root.join("proc/self/ns/user"));
        namespace.map_or(true, |namespace| namespace == Path::new("user:[4026531837]"))
    }

    /// File descriptors of this process below a limit that are open already and that no plan counts: inherited ones, or those
    /// of another part of the program. None where that cannot be read.
    pub fn descriptors_open(&self, limit: u64) -> u64 {
        let all = std::fs::read_dir(self.root.join("proc/self/fd")).into_iter().flatten().flatten();
        let numbers = all.filter_map(|open| open.file_name().to_str()?.parse::<u64>().ok());
        (numbers.filter(|number| *number < limit).count() as u64).saturating_sub(DESCRIPTORS_AT_FIRST)
    }

    /// The cores that this process may run on, lowest number first: as its cpuset and its affinity (taskset) allow.
    pub fn cores_allowed(&self) -> Vec<usize> {
        // core_affinity knows no set of more than 1,024 cores.
        let few = core_affinity::get_core_ids().map(|cores| cores.into_iter().map(|core| core.id).collect());
        let mut cores: Vec<usize> = few.or_else(|| sys::cores_allowed().ok()).unwrap_or_default();
        cores.sort_unstable();
        cores
    }

    /// Chooses cores. Fails with a `ConfigError` that has the cores this process may use.
    pub fn choose_cores(&self, wanted: &Cores) -> Result<Vec<usize>> {
        choose(wanted, &self.cores_allowed())
    }
}

fn sysctl_path(name: &str) -> String {
    format!("proc/sys/{}", name.replace('.', "/"))
}

fn choose(wanted: &Cores, allowed: &[usize]) -> Result<Vec<usize>> {
    let may = || allowed.to_vec();
    let refused = match wanted {
        _ if allowed.is_empty() => ConfigError::NoCores,
        Cores::All => return Ok(may()),
        Cores::Count(count) => match allowed.get(..*count) {
            Some(cores) if !cores.is_empty() => return Ok(cores.to_vec()),
            _ => ConfigError::CoreCount { asked: *count, allowed: may() },
        },
        Cores::List(cores) => match cores.iter().find(|core| !allowed.contains(core)) {
            Some(core) => ConfigError::Core { asked: *core, allowed: may() },
            None if cores.is_empty() => ConfigError::EmptyCoreList { allowed: may() },
            None => return Ok(cores.clone()),
        },
    };
    Err(refused.into())
}

/// The limits of this process, before and after it raised them.
#[derive(Debug, Clone, Copy)]
pub struct Raised {
    /// File descriptors, before and after.
    pub files: (Limit, Limit),
    /// Bytes of locked memory, before and after.
    pub memory: (Limit, Limit),
    /// File descriptors that are open already, and that no plan counts.
    pub open: u64,
}

impl Raised {
    /// File descriptors that may be open beside those that are open already.
    pub fn descriptors(&self) -> u64 {
        self.files.1.soft.saturating_sub(self.open)
    }
}

/// File descriptors that a process of ours may have when it plans, and that the plan counts: the standard streams, the pipe
/// of signals, the places of a report, and the one that counts them.
const DESCRIPTORS_AT_FIRST: u64 = 16;

/// Raises the soft limits on file descriptors, locked memory and processes to the hard ones, which needs no privilege.
///
/// Fails with `HostReason::LockedMemoryForExecutor` where no executor could start.
pub fn raise_limits() -> Result<Raised> {
    Resource::Processes.raise()?;
    let files = Resource::Files.raise()?;
    let open = Host::here().descriptors_open(files.1.soft);
    let raised = Raised { files, memory: Resource::LockedMemory.raise()?, open };
    if raised.memory.1.soft < GLOMMIO_MEMLOCK {
        let reason = HostReason::LockedMemoryForExecutor { limit: raised.memory.1.soft, needed: GLOMMIO_MEMLOCK };
        return Err(HostError::new("start", "an executor", None, reason).into());
    }
    Ok(raised)
}

fn kilobytes(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kb| kb.saturating_mul(1024))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A host that has only these files. They vanish with the directory.
    pub(super) fn host(files: &[(&str, &str)]) -> (tempfile::TempDir, Host) {
        let dir = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let host = Host::below(dir.path());
        (dir, host)
    }

    #[test]
    fn a_host_without_files_has_the_kernels_defaults() {
        let (_dir, host) = host(&[]);
        assert_eq!((host.ephemeral_ports(), host.somaxconn()), (28_232, 4096));
        assert_eq!((host.resident(1), host.cpu_time(1)), ((0, 0), None));
        assert!(host.net_counters().is_empty());
    }

    #[test]
    fn cores_that_are_not_ours_are_refused() {
        assert_eq!(choose(&Cores::Count(2), &[3, 5, 7]).unwrap(), [3, 5]);
        assert_eq!(choose(&Cores::List(vec![7]), &[3, 5, 7]).unwrap(), [7]);
        for wanted in [Cores::Count(0), Cores::Count(4), Cores::List(vec![4]), Cores::List(vec![])] {
            let text = choose(&wanted, &[3, 5, 7]).unwrap_err().to_string();
            assert!(text.contains("3,5,7"), "{text}");
        }
    }
}
