//! Walls of memory: what sockets take of the host's memory, and what a cgroup counts of that.

use super::{Finding, Verdict, Wall};
use crate::constants::DEFAULT_CONCURRENCY;
use crate::error::{Diagnostic, Errno};
use crate::failure::Cause;
use crate::format::{bytes, count};
use crate::host::{Host, MemoryLeft};
use crate::memory_model::{By, Family, Footprint, Kernel, Load, Process};
use crate::plan::{Goal, IdleBackend, Reserve, SLOTS_PER_RING, largest};
use crate::sys::Resource;
use crate::tls_version::TlsVersion;

/// The wall of the host's memory.
pub const MEMORY: Wall = Wall {
    name: "memory",
    symptom: "ENOMEM or ENOBUFS; a process, often the server, is killed (\"Out of memory: Killed process\"); the kernel may panic when nothing is left to kill",
    evidence: "/proc/slabinfo: TCP, sock_inode_cache, filp, dentry; MemFree of /proc/meminfo (MemAvailable counts the sockets' dentries as if they could be freed)",
    cure: "more memory, fewer connections, or the kernel command line of tuning/cmdline.md, which makes each connection smaller",
    judge: memory,
    blame: |evidence| {
        let failed: u64 = [Errno::ENOMEM, Errno::ENOBUFS]
            .map(|errno| evidence.failures(Cause::Errno(errno)).unwrap_or(0))
            .iter()
            .sum();
        (failed > 0 && evidence.moved("cgroup_memory_hits") == 0).then(|| Diagnostic {
            saw: format!("{} sockets met ENOMEM or ENOBUFS", count(failed)),
            means: "this host has no memory for another socket".to_owned(),
            cure: "free memory, or open fewer connections".to_owned(),
        })
    },
};

/// The wall of a memory cgroup.
pub const CGROUP_MEMORY: Wall = Wall {
    name: "cgroup memory",
    symptom: "the process is killed, or sockets fail with ENOMEM, while the host has memory left (containers, systemd's MemoryMax=)",
    evidence: "cgroup v2: memory.max, memory.high, memory.events.local; v1: memory.limit_in_bytes, memory.failcnt; the whole path up to the root counts",
    cure: "raise the limit (MemoryMax=, MemoryHigh=, --memory of a container)",
    judge: cgroup_memory,
    blame: |evidence| {
        let hits = evidence.moved("cgroup_memory_hits");
        (hits > 0).then(|| Diagnostic {
            saw: format!("a memory cgroup of this process met its limit {} times", count(hits)),
            means: "it counts the kernel memory of sockets, and refuses more".to_owned(),
            cure: "raise the limit (MemoryMax=, MemoryHigh=, --memory of a container), or open fewer connections"
                .to_owned(),
        })
    },
};

/// The wall of a process's address space, and of what it may write to of it.
pub const ADDRESS_SPACE: Wall = Wall {
    name: "address space",
    symptom: "a process ends with exit code 3 and a line that names ulimit -v or ulimit -d, or a thread or a ring is refused with ENOMEM, while the host has memory left",
    evidence: "\"Max address space\" and \"Max data size\" in /proc/self/limits (RLIMIT_AS, RLIMIT_DATA), VmPeak and VmData in /proc/PID/status",
    cure: "ulimit -v unlimited and ulimit -d unlimited, LimitAS=infinity and LimitDATA=infinity in a systemd unit; or fewer --cores",
    judge: address_space,
    blame: super::never,
};

/// The memory that a goal takes on this host.
struct Appetite<'a> {
    goal: &'a Goal,
    kernel: Kernel,
    ephemeral: u64,
    nofile: u64,
    park: IdleBackend,
    /// TLS handshakes at once at most at each end.
    handshakes: u64,
    /// Bytes that the strictest limit on memory has left.
    left: u64,
}

impl Appetite<'_> {
    fn of<'a>(host: &Host, goal: &'a Goal) -> Appetite<'a> {
        let nofile = Resource::Files.read().map_or(u64::from(SLOTS_PER_RING), |limit| limit.hard);
        let park = if goal.role.serves() && host.filters().is_ok() { IdleBackend::Filter } else { IdleBackend::Poll };
        let (kernel, ephemeral, left) = (host.memory_kernel(), host.ephemeral_ports(), host.least_memory_left());
        let accepts = if goal.role.serves() { host.handshakes() } else { u32::MAX };
        // A client begins no more at once than it dials, and so a server beside it has no more.
        let begins = if goal.role.dials() { DEFAULT_CONCURRENCY } else { u32::MAX };
        let handshakes = accepts.min(begins).into();
        Appetite { goal, kernel, ephemeral, nofile, park, handshakes, left }
    }

    fn footprint(&self, connections: u64, by: By) -> Footprint {
        let (goal, nofile) = (self.goal, self.nofile);
        let server = || Process::server(&goal.server_shards(connections, nofile));
        let client = || Process::client(&goal.client_shards(connections, nofile));
        let load = Load {
            family: Family::of(&goal.routes.targets),
            server: goal.role.serves().then(server),
            idle_backend: self.park,
            client: goal.role.dials().then(client),
            awake: goal.awake,
            layers: goal.layers,
            handshakes: self.handshakes,
            left: self.left,
            ephemeral: self.ephemeral,
            targets: (goal.routes.ports.count() * goal.routes.targets.len().max(1)) as u64,
        };
        load.of(&self.kernel, connections, by)
    }

    /// The most connections that leave the server's default reserve alone.
    fn holds(&self, limit: &MemoryLeft) -> u64 {
        let room = limit.left.saturating_sub(Reserve::Auto.of(limit.total)) as f64;
        // No larger number fits. To plan far more connections than fit would take long.
        let smallest = if self.goal.awake.is_some() { SMALLEST_SLEEPER } else { SMALLEST_CONNECTION };
        let most = (room as u64 / smallest).min(u32::MAX.into());
        largest(most, |connections| self.footprint(connections, limit.by).total <= room)
    }

    fn finding(&self, limit: &MemoryLeft, name: &str) -> Finding {
        let wanted = self.goal.connections;
        let need = self.footprint(wanted, limit.by);
        let have = format!(
            "{name}{} left of {}, {} of it in reserve",
            bytes(limit.left),
            bytes(limit.total),
            bytes(Reserve::Auto.of(limit.total))
        );
        let ends = if self.goal.role.ends() == 2 { "for both ends of" } else { "for" };
        let tls = match self.goal.layers.tls {
            None => "",
            Some(TlsVersion::Tls13) => " with TLS",
            Some(TlsVersion::Tls12) => " with TLS 1.2",
        };
        let awake = self.goal.awake.map_or(String::new(), |_| {
            let (sockets, taken) = (count(self.goal.sockets(wanted)), bytes(need.awake as u64));
            format!(" asleep, {taken} for {sockets} awake at once")
        });
        let need = format!(
            "{}: {:.0} bytes {ends} each connection{tls}{awake}, {} for the rest ({})",
            bytes(need.total as u64),
            need.per_connection,
            bytes(need.fixed as u64),
            need.source
        );
        Finding::counted(have, need, self.holds(limit), wanted)
    }
}

/// Bytes that a connection takes at least: a TCP socket alone has more with every kernel. It bounds the number of
/// connections where a cgroup counts next to nothing of them.
const SMALLEST_CONNECTION: u64 = 256;

/// Bytes that a sleeping connection takes at least.
const SMALLEST_SLEEPER: u64 = 32;

fn memory(host: &Host, goal: &Goal) -> Finding {
    let left = host.memory_left().into_iter().find(|limit| limit.by == By::Host);
    let Some(limit) = left else { return Finding::unknown("/proc/meminfo", "") };
    let finding = Appetite::of(host, goal).finding(&limit, "");
    let holds = finding.holds.unwrap_or(0);
    // A tight goal fits already, and one of all that fits would be tight too.
    let most = count(if finding.verdict == Verdict::Tight { holds - holds.div_ceil(10) } else { holds });
    finding.advise(false, format!("add memory, ask for at most {most}, or boot with tuning/cmdline.md's parameters"))
}

/// Address space of a process of ours with no shard, and of each shard, at the highest: VmPeak of a server was 357 MB
/// with one shard and 493 MB with two. Nearly all of it is never touched: glibc reserves 128 MiB for the allocator of
/// each thread (`new_heap` in malloc/arena.c). If that is refused, threads share one allocator. So a process may run with
/// less, but how much less cannot be computed.
const SPACE_OF_PROCESS: u64 = 256 << 20;
const SPACE_OF_SHARD: u64 = 160 << 20;

/// The same of what is written to: VmData of a server was 12 MB with one shard and 17 MB with two.
const DATA_OF_PROCESS: u64 = 16 << 20;
const DATA_OF_SHARD: u64 = 8 << 20;

/// Address space and data for a connection: a row of 24 bytes at a client, which doubles as it grows.
const SPACE_OF_CONNECTION: u64 = 48;

fn address_space(_host: &Host, goal: &Goal) -> Finding {
    let tls = goal.layers.tls.map_or(0, TlsVersion::connection_bytes);
    let wanted = |process: u64, shard: u64| {
        let shards = shard.saturating_mul(goal.cores.len() as u64);
        process.saturating_add(shards).saturating_add((SPACE_OF_CONNECTION + tls).saturating_mul(goal.connections))
    };
    let (space, data) = (wanted(SPACE_OF_PROCESS, SPACE_OF_SHARD), wanted(DATA_OF_PROCESS, DATA_OF_SHARD));
    let need = format!("{} a process, {} of it written to", bytes(space), bytes(data));
    let limits = [(Resource::AddressSpace, "ulimit -v", "AS", space), (Resource::Data, "ulimit -d", "DATA", data)];
    let read = |(resource, name, unit, wanted): (Resource, _, _, _)| Some((resource.read().ok()?, name, unit, wanted));
    let Some(limits) = limits.map(read).into_iter().collect::<Option<Vec<_>>>() else {
        return Finding::unknown("the limits on address space and data", need);
    };
    let set = || limits.iter().filter(|(limit, ..)| limit.soft != u64::MAX);
    let Some((limit, name, unit, wanted)) = set().find(|(limit, .., wanted)| limit.soft < *wanted).or(set().next())
    else {
        return Finding::fine("no limit", need);
    };
    // Only root raises a hard limit.
    Finding::fine(format!("{name} {}", bytes(limit.soft)), need)
        .tight_if(limit.soft < *wanted)
        .advise(limit.hard >= *wanted, format!("{name} unlimited (Limit{unit}=infinity in a unit)"))
}

fn cgroup_memory(host: &Host, goal: &Goal) -> Finding {
    let appetite = Appetite::of(host, goal);
    let groups = host.memory_left().into_iter().filter(|limit| limit.by != By::Host);
    let found = groups.map(|limit| (appetite.finding(&limit, &format!("{}: ", limit.name)), limit.name));
    match found.min_by_key(|(finding, _)| finding.holds) {
        Some((finding, file)) => {
            let may = host.may_write(&file);
            let by = if file.ends_with("memory.high") { "MemoryHigh=" } else { "MemoryMax=, --memory of a container" };
            finding.advise(may, format!("raise {file} ({by})"))
        }
        None if host.shows_cgroups("memory") => Finding::fine("no limit", "a part of what the host needs"),
        None => Finding::unknown("the memory limit of this process's cgroup", "a part of what the host needs"),
    }
}

/// Bytes of this host's memory for all connections of a goal, both ends if both are here.
pub fn connection_bytes(host: &Host, goal: &Goal) -> u64 {
    let all = Appetite::of(host, goal).footprint(goal.connections, By::Host);
    (all.total - all.fixed) as u64
}
