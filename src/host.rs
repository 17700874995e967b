//! What this host is and allows, read from /proc and the kernel. The files are read below a root
//! that tests can replace.

mod memory;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::limits::GLOMMIO_MEMLOCK;
use crate::sys::{Limit, Resource};

pub use memory::{Memory, MemoryCgroup, MemoryLeft, MemoryWall};

/// A host whose /proc stands below a root.
#[derive(Debug, Clone)]
pub struct Host {
    root: PathBuf,
}

/// Counters of the network stack that tell why connects are slow or fail.
pub type NetCounters = BTreeMap<String, u64>;

/// The TcpExt counters (/proc/net/netstat) whose movement a report shows.
const TCP_COUNTERS: [&str; 10] = [
    "ListenOverflows",
    "ListenDrops",
    "TCPSynRetrans",
    "TCPReqQFullDoCookies",
    "TCPReqQFullDrop",
    "TCPTimeWaitOverflow",
    "TCPAbortOnMemory",
    "TCPMemoryPressures",
    "TCPBacklogDrop",
    "SyncookiesSent",
];

/// How cores are chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cores {
    /// All that this process may use.
    All,
    /// The first so many of them.
    Count(usize),
    /// Exactly these.
    List(Vec<usize>),
}

impl Host {
    /// The host this process runs on.
    pub fn here() -> Host {
        Host { root: PathBuf::from("/") }
    }

    /// A host whose files lie below `root`.
    pub fn below(root: &Path) -> Host {
        Host { root: root.to_owned() }
    }

    fn read(&self, path: &str) -> Option<String> {
        std::fs::read_to_string(self.root.join(path)).ok()
    }

    /// A sysctl of one number, such as `net.core.somaxconn`; `None` when it cannot be read.
    pub fn sysctl(&self, name: &str) -> Option<u64> {
        self.sysctl_numbers(name).and_then(|numbers| numbers.first().copied())
    }

    /// A sysctl of several numbers.
    pub fn sysctl_numbers(&self, name: &str) -> Option<Vec<u64>> {
        let text = self.read(&format!("proc/sys/{}", name.replace('.', "/")))?;
        text.split_whitespace().map(|word| word.parse().ok()).collect()
    }

    /// What listen(2) caps a backlog at, silently (`net.core.somaxconn`, of this network
    /// namespace); 4096, the kernel's default since 5.4, when it cannot be read.
    pub fn somaxconn(&self) -> i32 {
        let value = self.sysctl("net.core.somaxconn").unwrap_or(4096);
        i32::try_from(value).unwrap_or(i32::MAX)
    }

    /// Source ports that connect(2) may choose per (source, target, port): the size of
    /// `net.ipv4.ip_local_port_range` less what `ip_local_reserved_ports` takes out of it. The
    /// kernel's default range when it cannot be read.
    pub fn ephemeral_ports(&self) -> u64 {
        let range = self.sysctl_numbers("net.ipv4.ip_local_port_range");
        let (low, high) = match range.as_deref() {
            Some([low, high]) => (*low, *high),
            _ => (32_768, 60_999),
        };
        let reserved = self.read("proc/sys/net/ipv4/ip_local_reserved_ports").unwrap_or_default();
        let taken: u64 =
            reserved.trim().split(',').filter_map(parse_range).map(|(a, b)| overlap((a, b), (low, high))).sum();
        (high + 1).saturating_sub(low).saturating_sub(taken)
    }

    /// Resident memory of a process now and at its highest, in bytes (VmRSS, VmHWM of
    /// /proc/PID/status); zeros when it cannot be read.
    pub fn resident(&self, pid: u32) -> (u64, u64) {
        let status = self.read(&format!("proc/{pid}/status")).unwrap_or_default();
        let field = |name: &str| kilobytes(&status, name).unwrap_or(0);
        (field("VmRSS:"), field("VmHWM:"))
    }

    /// Processor time a process has used, user and system, in seconds (/proc/PID/stat, to 10 ms);
    /// zeros when it cannot be read.
    pub fn cpu_seconds(&self, pid: u32) -> (f64, f64) {
        let stat = self.read(&format!("proc/{pid}/stat")).unwrap_or_default();
        // The second field is the program's name in parentheses and may hold anything.
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks = |at: usize| fields.get(at).and_then(|word| word.parse::<f64>().ok()).unwrap_or(0.0);
        // utime and stime are fields 14 and 15; USER_HZ is 100 on every architecture we run on.
        (ticks(11) / 100.0, ticks(12) / 100.0)
    }

    /// The counters worth showing: TcpExt by name, `softnet_dropped` summed over cores.
    pub fn net_counters(&self) -> NetCounters {
        let mut counters = NetCounters::new();
        let netstat = self.read("proc/net/netstat").unwrap_or_default();
        let mut lines = netstat.lines().filter_map(|line| line.strip_prefix("TcpExt:"));
        if let (Some(names), Some(values)) = (lines.next(), lines.next()) {
            let pairs = names.split_whitespace().zip(values.split_whitespace());
            let known = pairs.filter(|(name, _)| TCP_COUNTERS.contains(name));
            counters.extend(known.filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?))));
        }
        if let Some(softnet) = self.read("proc/net/softnet_stat") {
            let dropped =
                softnet.lines().filter_map(|line| u64::from_str_radix(line.split_whitespace().nth(1)?, 16).ok());
            counters.insert("softnet_dropped".to_owned(), dropped.sum());
        }
        counters
    }

    /// Files this host may still open (fs.file-max less field 1 of fs.file-nr); direct descriptors
    /// count. `None` when it cannot be read, or when it does not bind us (CAP_SYS_ADMIN).
    pub fn files_left(&self) -> Option<u64> {
        const CAP_SYS_ADMIN: u32 = 21;
        if self.has_capability(CAP_SYS_ADMIN) {
            return None;
        }
        let open = self.sysctl("fs.file-nr")?;
        Some(self.sysctl("fs.file-max")?.saturating_sub(open))
    }

    /// Whether this process has a capability, by its number in linux/capability.h.
    pub fn has_capability(&self, number: u32) -> bool {
        let status = self.read("proc/self/status").unwrap_or_default();
        let mask = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
        mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask >> number & 1 == 1)
    }

    /// Cores this process may run on, lowest first: cpusets and taskset are respected.
    pub fn cores_allowed(&self) -> Vec<usize> {
        let mut cores: Vec<usize> =
            core_affinity::get_core_ids().unwrap_or_default().into_iter().map(|core| core.id).collect();
        cores.sort_unstable();
        cores
    }

    /// Chooses cores, or says why that is not possible.
    pub fn choose_cores(&self, wanted: &Cores) -> Result<Vec<usize>> {
        choose(wanted, &self.cores_allowed())
    }
}

fn choose(wanted: &Cores, allowed: &[usize]) -> Result<Vec<usize>> {
    let list = allowed.iter().map(usize::to_string).collect::<Vec<_>>().join(",");
    let refuse = |saw: String| {
        let means = format!("this process may use {} core(s): {list} (cpuset, taskset)", allowed.len());
        Err(Error::usage(saw, means, "ask for those, or widen the cpuset"))
    };
    match wanted {
        _ if allowed.is_empty() => refuse("no core".to_owned()),
        Cores::All => Ok(allowed.to_vec()),
        Cores::Count(0) => refuse("--cores 0".to_owned()),
        Cores::Count(count) if *count > allowed.len() => refuse(format!("--cores {count}")),
        Cores::Count(count) => Ok(allowed[..*count].to_vec()),
        Cores::List(cores) => match cores.iter().find(|core| !allowed.contains(core)) {
            Some(core) => refuse(format!("--core-list with core {core}")),
            None if cores.is_empty() => refuse("an empty --core-list".to_owned()),
            None => Ok(cores.clone()),
        },
    }
}

/// What moved between two readings.
pub fn moved(before: &NetCounters, after: &NetCounters) -> NetCounters {
    let delta = |(name, now): (&String, &u64)| {
        let then = before.get(name).copied().unwrap_or(0);
        (name.clone(), now.saturating_sub(then))
    };
    after.iter().map(delta).collect()
}

/// Limits this process found and raised.
#[derive(Debug, Clone, Copy)]
pub struct Raised {
    /// File descriptors before and now.
    pub files: (Limit, Limit),
    /// Locked memory in bytes before and now.
    pub memory: (Limit, Limit),
}

/// Raises what may be raised without privilege, and checks what cannot be done without.
pub fn raise_limits() -> Result<Raised> {
    let raised = Raised { files: Resource::Files.raise()?, memory: Resource::LockedMemory.raise()? };
    if raised.memory.1.soft < GLOMMIO_MEMLOCK {
        return Err(Error::host(
            format!("memlock limit {} bytes", raised.memory.1.soft),
            format!("an executor locks up to {GLOMMIO_MEMLOCK} bytes for its rings"),
            "raise the hard limit (ulimit -Hl, LimitMEMLOCK=)",
        ));
    }
    Ok(raised)
}

fn kilobytes(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kb| kb * 1024)
}

fn parse_range(text: &str) -> Option<(u64, u64)> {
    let (low, high) = text.split_once('-').unwrap_or((text, text));
    Some((low.trim().parse().ok()?, high.trim().parse().ok()?))
}

fn overlap(a: (u64, u64), b: (u64, u64)) -> u64 {
    (a.1.min(b.1) + 1).saturating_sub(a.0.max(b.0))
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn reserved_ports_are_taken_off_the_range() {
        let (_dir, host) = host(&[
            ("proc/sys/net/ipv4/ip_local_port_range", "1024\t65535\n"),
            ("proc/sys/net/ipv4/ip_local_reserved_ports", "80,8888-8987,65535\n"),
        ]);
        assert_eq!(host.ephemeral_ports(), 64_512 - 100 - 1);
    }

    #[test]
    fn a_host_without_files_has_the_kernels_defaults() {
        let (_dir, host) = host(&[]);
        assert_eq!((host.ephemeral_ports(), host.somaxconn()), (28_232, 4096));
        assert_eq!(host.resident(1), (0, 0));
        assert!(host.net_counters().is_empty());
    }

    #[test]
    fn counters_are_read_by_name() {
        let (_dir, host) = host(&[
            (
                "proc/net/netstat",
                "TcpExt: SyncookiesSent ListenOverflows Other\nTcpExt: 1 22 333\nIpExt: A\nIpExt: 4\n",
            ),
            ("proc/net/softnet_stat", "0000 0000000a 0\n0000 00000001 0\n"),
        ]);
        let before = host.net_counters();
        assert_eq!(before["ListenOverflows"], 22);
        assert_eq!(before["softnet_dropped"], 11);
        let mut after = before.clone();
        after.insert("ListenOverflows".into(), 25);
        assert_eq!(moved(&before, &after)["ListenOverflows"], 3);
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
