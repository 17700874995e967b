//! The memory that a connection takes, calculated from the sizes of the kernel's objects.
//!
//! The kernel allocates these objects for one end of an idle connection. They were found by counting slab objects
//! before and after 10,000 to 1,000,000 connections with kernels 6.1 and 6.18:
//!
//! ```text
//!   TCP or TCPv6       the socket                      accounted
//!   sock_inode_cache   its inode                       accounted   reclaimable by name only
//!   filp               its file                        accounted
//!   dentry             its directory entry             accounted   reclaimable by name only
//!   io_kiocb           the poll in which it waits      accounted
//!   kmalloc-32         its node in the ring's table                (since 6.13)
//!   lsm_*_cache        the security module's share
//! ```
//!
//! The host loses whole pages, not objects: an object costs the pages of its slab divided by the number of objects
//! in the slab. Where memory cgroups are in use, each slab of an accounted cache also has a vector with one pointer
//! for each object, and the vector itself is rounded up to a kmalloc size.
//!
//! A socket holds its inode and dentry as long as it is open. The caches of both are marked reclaimable, so
//! MemAvailable goes on counting them as available. That share is called `hidden`.

mod tls;

use std::collections::BTreeMap;

use crate::constants::PAGE_BYTES;
use crate::plan::{IdleBackend, Layers, ShardPlan, caught_bytes, largest};
use crate::tls_version::TlsVersion;

pub use tls::HANDSHAKE_BYTES;

const PAGE: f64 = PAGE_BYTES as f64;

/// An end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The accepting one.
    Server,
    /// The connecting one.
    Client,
}

/// The family of a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6; also a socket that listens on `::`, and what it accepts.
    V6,
}

/// The rules by which a memory cgroup counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hierarchy {
    /// cgroup v1.
    V1,
    /// cgroup v2, the unified one.
    V2,
}

/// The counter of memory whose view is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// The host counts whole pages, of whatever process.
    Host,
    /// A memory cgroup counts the objects charged to its processes.
    Cgroup(Hierarchy),
}

/// How a slab cache packs its objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cache {
    /// Bytes from one object to the next.
    pub size: u64,
    /// Objects in one slab.
    pub per_slab: u64,
    /// Pages of one slab.
    pub pages: u64,
}

/// A kernel version: major and minor number.
pub type Version = (u32, u32);

/// The objects that an end of a connection has in one slab cache.
struct Part {
    name: &'static str,
    /// The object is charged to the memory cgroup of the allocating process (`SLAB_ACCOUNT`).
    accounted: bool,
    /// The cache counts as reclaimable (`SLAB_RECLAIM_ACCOUNT`).
    reclaimable: bool,
    /// The first kernel that allocates it.
    since: Version,
    /// The packing on 6.1 (Debian's cloud kernel) and on 6.18.
    measured: [Cache; 2],
}

/// The kernels of `Part::measured`.
const MEASURED: [Version; 2] = [(6, 1), (6, 18)];

/// The first kernel that gives each registered file a node of its own (io_uring/rsrc.c).
const NODES: Version = (6, 13);

/// The first kernel whose accept charges the socket itself (`kmem_cache_charge` in `inet_csk_accept`), with cgroup
/// v2 only. The softirq that makes the socket cannot charge it.
const CHARGED_AT_ACCEPT: Version = (6, 13);

const fn cache(size: u64, per_slab: u64, pages: u64) -> Cache {
    Cache { size, per_slab, pages }
}

const TCP: Part = Part {
    name: "TCP",
    accounted: true,
    reclaimable: false,
    since: (0, 0),
    measured: [cache(2304, 14, 8), cache(2368, 13, 8)],
};

const TCP_V6: Part = Part { name: "TCPv6", measured: [cache(2496, 13, 8), cache(2496, 13, 8)], ..TCP };

/// The poll in which a connection waits.
const POLL: Part = Part { name: "io_kiocb", measured: [cache(256, 16, 1), cache(256, 16, 1)], ..TCP };

/// The objects of both families, in whatever way a connection waits.
const COMMON: [Part; 6] = [
    Part { name: "sock_inode_cache", reclaimable: true, measured: [cache(832, 19, 4), cache(832, 19, 4)], ..TCP },
    Part { name: "filp", measured: [cache(256, 16, 1), cache(192, 21, 1)], ..TCP },
    Part { name: "dentry", reclaimable: true, measured: [cache(192, 21, 1), cache(192, 21, 1)], ..TCP },
    Part {
        name: "kmalloc-32",
        accounted: false,
        since: NODES,
        measured: [cache(32, 128, 1), cache(32, 128, 1)],
        ..TCP
    },
    Part { name: "lsm_inode_cache", accounted: false, measured: [cache(32, 128, 1), cache(32, 128, 1)], ..TCP },
    Part { name: "lsm_file_cache", accounted: false, measured: [cache(24, 170, 1), cache(24, 170, 1)], ..TCP },
];

/// The objects of one local port of a client: its bucket, and its bucket for one address. They are accounted.
const BIND_BUCKETS: [Part; 2] = [
    Part { name: "tcp_bind_bucket", measured: [cache(64, 64, 1), cache(128, 32, 1)], ..TCP },
    Part { name: "tcp_bind2_bucket", measured: [cache(128, 32, 1), cache(128, 32, 1)], ..TCP },
];

/// Bytes of AppArmor's label of a socket, which is a kmalloc of its own.
const APPARMOR_SOCKET: f64 = 16.0;

/// Names of all slab caches in this model.
pub fn cache_names() -> impl Iterator<Item = &'static str> {
    [TCP, TCP_V6, POLL].into_iter().chain(COMMON).chain(BIND_BUCKETS).map(|part| part.name)
}

/// Facts about the kernel that is to hold the connections.
#[derive(Debug, Clone, Default)]
pub struct Kernel {
    /// Its version; (0, 0) when unknown.
    pub version: Version,
    /// The packing of each cache by name, as far as this process may read it; `None` for a cache that is known not
    /// to exist.
    pub caches: BTreeMap<String, Option<Cache>>,
    /// Whether memory cgroups are in use and count kernel memory.
    pub accounting: bool,
    /// Whether AppArmor is active.
    pub apparmor: bool,
}

/// The source of a prediction's sizes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// All sizes are read from this kernel.
    ThisKernel,
    /// Some or all sizes come from the table measured with this version.
    Measured(Version),
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Source::ThisKernel => write!(f, "this kernel's slab caches"),
            Source::Measured((major, minor)) => write!(f, "sizes measured with kernel {major}.{minor}"),
        }
    }
}

/// The memory that one end of one connection takes, in bytes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PerEnd {
    /// Host memory: kernel objects with their share of slab waste.
    pub host: f64,
    /// The part of `host` that MemAvailable goes on counting as available.
    pub hidden: f64,
    /// The memory charged to the process's memory cgroup v1.
    pub charged_v1: f64,
    /// The memory charged to the process's memory cgroup v2.
    pub charged_v2: f64,
    /// The source of the sizes.
    pub source: Source,
}

impl PerEnd {
    /// The bytes that a counter of memory sees.
    pub fn counted(&self, by: By) -> f64 {
        match by {
            By::Host => self.host,
            By::Cgroup(Hierarchy::V1) => self.charged_v1,
            By::Cgroup(Hierarchy::V2) => self.charged_v2,
        }
    }
}

impl Kernel {
    /// The memory of one end of a connection that waits in `idle_backend`.
    pub fn per_end(&self, end: End, family: Family, idle_backend: IdleBackend) -> PerEnd {
        let socket = match family {
            Family::V4 => TCP,
            Family::V6 => TCP_V6,
        };
        let mut all = self.sum(&[socket]);
        let mut by_process = self.sum(&COMMON);
        if idle_backend == IdleBackend::Poll {
            by_process = by_process.and(&self.one(&POLL));
        }
        // A softirq makes the socket of an accepted connection, and charges it to no cgroup.
        let server = end == End::Server;
        let v1 = if server { 0.0 } else { all.charged_v1 };
        let v2 = if server && self.version < CHARGED_AT_ACCEPT { 0.0 } else { all.charged_v2 };
        all = PerEnd { charged_v1: v1, charged_v2: v2, ..all }.and(&by_process);
        if self.apparmor {
            all.host += APPARMOR_SOCKET;
        }
        all
    }

    /// The memory of one local port of a client, however many connections use it.
    pub fn per_local_port(&self) -> PerEnd {
        self.sum(&BIND_BUCKETS)
    }

    /// The newest measured kernel that is not newer than this one.
    fn nearest(&self) -> usize {
        MEASURED.iter().rposition(|measured| *measured <= self.version).unwrap_or(0)
    }

    fn sum(&self, parts: &[Part]) -> PerEnd {
        let nothing = PerEnd { host: 0.0, hidden: 0.0, charged_v1: 0.0, charged_v2: 0.0, source: Source::ThisKernel };
        parts.iter().filter(|part| part.since <= self.version).fold(nothing, |sum, part| sum.and(&self.one(part)))
    }

    fn one(&self, part: &Part) -> PerEnd {
        let (found, source) = match self.caches.get(part.name) {
            Some(found) => (*found, Source::ThisKernel),
            None => (Some(part.measured[self.nearest()]), Source::Measured(MEASURED[self.nearest()])),
        };
        let Some(cache) = found else {
            return PerEnd { host: 0.0, hidden: 0.0, charged_v1: 0.0, charged_v2: 0.0, source };
        };
        let accounted = part.accounted && self.accounting;
        let packed = cache.pages as f64 * PAGE / cache.per_slab as f64;
        let vector = if accounted { kmalloc(cache.per_slab.saturating_mul(8)) / cache.per_slab as f64 } else { 0.0 };
        // The charge is the object and its pointer (`obj_full_size` in mm/memcontrol.c).
        let charged = if accounted { cache.size as f64 + 8.0 } else { 0.0 };
        PerEnd {
            host: packed + vector,
            hidden: if part.reclaimable { packed } else { 0.0 },
            charged_v1: charged,
            charged_v2: charged,
            source,
        }
    }
}

impl PerEnd {
    fn and(&self, other: &PerEnd) -> PerEnd {
        PerEnd {
            host: self.host + other.host,
            hidden: self.hidden + other.hidden,
            charged_v1: self.charged_v1 + other.charged_v1,
            charged_v2: self.charged_v2 + other.charged_v2,
            source: if self.source == Source::ThisKernel { other.source } else { self.source },
        }
    }
}

/// Bytes of slab pages that a kmalloc of `bytes` takes. The sizes that occur here have slabs of one page; a size
/// above one page counts as one page.
fn kmalloc(bytes: u64) -> f64 {
    let classes = [8, 16, 32, 64, 96, 128, 192, 256];
    let larger = || bytes.min(PAGE_BYTES).next_power_of_two();
    PAGE / (PAGE_BYTES / classes.into_iter().find(|class| *class >= bytes).unwrap_or_else(larger)) as f64
}

/// Bytes of c1m's entry for a sleeping connection: both addresses and ports, sequence numbers, windows, the timestamps'
/// offset and what the handshake agreed on. IPv6 addresses take 32 more.
const SLEEPER_BYTES: f64 = 40.0;
const V6_SLEEPER_BYTES: f64 = SLEEPER_BYTES + 32.0;

/// Bytes of a place in the catcher's table, which is filled to 7 tenths.
const PLACE_BYTES: f64 = 8.0 / 0.7;

/// Bytes of what a client knows of a connection, asleep or awake. An echo server's service knows nothing.
pub const CLIENT_SLEEPER_STATE_BYTES: usize = 10;

/// The memory that one end of a sleeping connection takes, in bytes: c1m's own and the table's. The kernel has no object
/// for it. What is spoken takes more, as of a connection that is awake.
pub fn asleep(end: End, family: Family) -> f64 {
    let entry = match family {
        Family::V4 => SLEEPER_BYTES,
        Family::V6 => V6_SLEEPER_BYTES,
    };
    let state = if end == End::Client { CLIENT_SLEEPER_STATE_BYTES } else { 0 };
    entry + PLACE_BYTES + state as f64
}

/// Bytes that a server keeps of a connection on which it speaks HTTP or WebSocket: how far the conversation has come
/// (`service/conversation.rs`), and a deadline (`service/deadlines.rs`).
const CONVERSATION_BYTES: f64 = 4.0 + 4.0;

/// Bytes that one end keeps of a connection, asleep or awake, for what is spoken on it. A client's dialects keep nothing.
pub fn kept(end: End, layers: Layers) -> f64 {
    let conversation = if end == End::Server && layers.conversation { CONVERSATION_BYTES } else { 0.0 };
    conversation + layers.tls.map_or(0, TlsVersion::connection_bytes) as f64
}

/// The parts of a c1m process, apart from its connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Process {
    /// Shards.
    pub shards: u64,
    /// Rings over all shards.
    pub rings: u64,
    /// Slots over all rings.
    pub slots: u64,
    /// Listening sockets.
    pub listeners: u64,
}

/// Bytes of a process: stacks, the allocator, and memory that its threads share.
const PROCESS_BYTES: f64 = 512.0 * 1024.0;

/// Bytes of a shard: a server's with the receive buffers that a ramp leaves behind (1 to 4 MiB seen;
/// `ring::BUFFERS_KEPT` bounds them), a client's with its histograms.
const SERVER_SHARD_BYTES: f64 = 2.5 * 1024.0 * 1024.0;
const CLIENT_SHARD_BYTES: f64 = 3.0 * 1024.0 * 1024.0;

/// Bytes of a ring without its descriptor table: its queues, its hash of polls and its context.
const RING_BYTES: f64 = 80.0 * 1024.0;

/// Bytes of a slot in c1m's own table, and of the state that a client keeps beside it.
const ROW_BYTES: f64 = 12.0;
const CLIENT_STATE_BYTES: f64 = 28.0;

impl Process {
    /// The parts of a server with these shards.
    pub fn server(plans: &[ShardPlan]) -> Process {
        Process {
            shards: plans.len() as u64,
            rings: plans.iter().map(|plan| plan.rings.len() as u64).sum(),
            slots: plans.iter().map(ShardPlan::slots).sum(),
            listeners: plans.iter().map(|plan| plan.ports.len() as u64).sum(),
        }
    }

    /// The parts of a client with these shards, each given as the slots of its rings.
    pub fn client(shards: &[Vec<u32>]) -> Process {
        Process {
            shards: shards.len() as u64,
            rings: shards.iter().map(|rings| rings.len() as u64).sum(),
            slots: shards.iter().flatten().map(|slots| u64::from(*slots)).sum(),
            listeners: 0,
        }
    }

    /// Bytes of the process apart from its connections' sockets. Receive buffers in use are included.
    pub fn bytes(&self, end: End, version: Version) -> f64 {
        let (shard, row) = match end {
            End::Server => (SERVER_SHARD_BYTES, ROW_BYTES),
            End::Client => (CLIENT_SHARD_BYTES, ROW_BYTES + CLIENT_STATE_BYTES),
        };
        // The table has one pointer for each slot in one piece, which the page allocator rounds up. Older kernels
        // also have a tag for each slot (`io_rsrc_data_alloc` in io_uring/rsrc.c).
        let table = (8 * self.slots.div_ceil(self.rings.max(1))).next_power_of_two();
        let tags = if version < NODES { 8 * self.slots } else { 0 };
        PROCESS_BYTES
            + self.shards as f64 * shard
            + self.rings as f64 * (RING_BYTES + table as f64)
            + tags as f64
            + self.slots as f64 * row
    }
}

/// A load of connections, with the ends that are on this host.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    /// The family of the sockets.
    pub family: Family,
    /// The server, if it is on this host.
    pub server: Option<Process>,
    /// How the server's connections wait. A client's connections always wait in polls.
    pub idle_backend: IdleBackend,
    /// The client, if it is on this host.
    pub client: Option<Process>,
    /// Connections awake at once at most, where the others sleep; `None` where none sleeps.
    pub awake: Option<u64>,
    /// What is spoken.
    pub layers: Layers,
    /// TLS handshakes at once at most at each end; of no matter without TLS.
    pub handshakes: u64,
    /// Bytes of memory that are left before the load, of which ring buffers for sleepers' segments take a part.
    pub left: u64,
    /// Number of ports that the client's host chooses from (`Host::ephemeral_ports`).
    pub ephemeral: u64,
    /// Number of the server's ports times the number of its addresses, as the client sees them.
    pub targets: u64,
}

/// The memory that a load takes, in bytes, as one counter of memory sees it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Footprint {
    /// All memory. For the host: the loss of MemFree if no cache is reclaimed.
    pub total: f64,
    /// The part of `total` that MemAvailable goes on counting as available. MemAvailable counts half of it while
    /// reclaimable slab is below twice the low watermark.
    pub hidden: f64,
    /// The part of `total` that does not depend on each connection: the processes and the local ports.
    pub fixed: f64,
    /// The part of `total` that the sockets of those awake take, where the others sleep; 0 where none sleeps.
    pub awake: f64,
    /// Bytes of each connection: its end on this host, or both ends; asleep, where connections sleep.
    pub per_connection: f64,
    /// The source of the sizes.
    pub source: Source,
}

impl Load {
    /// The memory that `connections` take.
    pub fn of(&self, kernel: &Kernel, connections: u64, by: By) -> Footprint {
        let ends = [(End::Server, self.server, self.idle_backend), (End::Client, self.client, IdleBackend::Poll)];
        let source = kernel.per_end(End::Server, self.family, self.idle_backend).source;
        let mut sum = Footprint { total: 0.0, hidden: 0.0, fixed: 0.0, awake: 0.0, per_connection: 0.0, source };
        let sockets = self.awake.map_or(connections, |awake| awake.min(connections));
        for (end, process, idle_backend) in ends {
            let Some(process) = process else { continue };
            let each = kernel.per_end(end, self.family, idle_backend);
            match self.awake {
                // An entry is kept for everyone, also while it is not needed.
                Some(_) => {
                    sum.per_connection += asleep(end, self.family);
                    sum.awake += each.counted(by) * sockets as f64;
                    let caught = caught_bytes(connections, process.shards, self.left);
                    sum.fixed += (process.shards * u64::from(caught)) as f64;
                }
                None => sum.per_connection += each.counted(by),
            }
            sum.per_connection += kept(end, self.layers);
            if self.layers.tls.is_some() {
                sum.fixed += tls::fixed(end, process.shards, self.handshakes) as f64;
            }
            sum.hidden += each.hidden * sockets as f64;
            sum.fixed += process.bytes(end, kernel.version) + process.listeners as f64 * each.counted(by);
        }
        if self.client.is_some() {
            sum.fixed += self.local_ports(connections).min(sockets as f64) * kernel.per_local_port().counted(by);
        }
        sum.total = sum.fixed + sum.awake + sum.per_connection * connections as f64;
        sum
    }

    /// The most connections that take at most `bytes`.
    pub fn most(&self, kernel: &Kernel, bytes: u64, by: By) -> u64 {
        largest(u64::from(u32::MAX), |connections| self.of(kernel, connections, by).total <= bytes as f64)
    }

    /// Number of local ports in use: all routes share the same ports.
    fn local_ports(&self, connections: u64) -> f64 {
        connections.div_ceil(self.targets.max(1)).min(self.ephemeral) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    pub fn kernel(version: Version, accounting: bool) -> Kernel {
        Kernel { version, accounting, apparmor: version == (6, 1), ..Kernel::default() }
    }

    pub fn load(process: Process) -> Load {
        Load {
            family: Family::V4,
            server: Some(process),
            idle_backend: IdleBackend::Poll,
            client: Some(process),
            awake: None,
            layers: Layers::default(),
            handshakes: 512,
            left: u64::MAX,
            ephemeral: 28_232,
            targets: 100,
        }
    }

    /// Asserts that a prediction differs from the measurement by less than `share`.
    fn near(predicted: f64, measured: f64, share: f64) {
        assert!((predicted / measured - 1.0).abs() < share, "predicted {predicted}, measured {measured}");
    }

    /// The growth of slab pages in bytes per connection, both ends, without ports, equals the measured growth.
    #[test]
    fn predicted_slab_growth_matches_the_measurement() {
        let both = |kernel: &Kernel, family| 2.0 * kernel.per_end(End::Server, family, IdleBackend::Poll).host;
        near(both(&kernel((6, 18), true), Family::V4), 8334.8 - 3.6, 0.005);
        near(both(&kernel((6, 1), false), Family::V4), 8043.5 - 26.1 - 52.8, 0.01);
        near(both(&kernel((6, 1), true), Family::V4), 8154.0 - 26.9 - 53.7, 0.01);
        near(both(&kernel((6, 1), true), Family::V6), 8517.1 - 26.8 - 53.1, 0.01);
    }

    /// Predicted charges of each end, without ports, match the cgroups' counters (memory.kmem.usage_in_bytes,
    /// `kernel` of memory.stat).
    #[test]
    fn predicted_charges_match_the_measurement() {
        let charged =
            |version, end, family, by| kernel(version, true).per_end(end, family, IdleBackend::Poll).counted(by);
        let (v1, v2) = (By::Cgroup(Hierarchy::V1), By::Cgroup(Hierarchy::V2));
        near(charged((6, 18), End::Server, Family::V4, v1), 1504.1, 0.001);
        near(charged((6, 18), End::Client, Family::V4, v1), 3923.4 - 38.3, 0.002);
        near(charged((6, 18), End::Server, Family::V6, v1), 1504.2, 0.001);
        near(charged((6, 1), End::Server, Family::V4, v2), 1569.5, 0.002);
        near(charged((6, 1), End::Client, Family::V4, v2), 3955.2 - 87.0, 0.005);
        near(charged((6, 13), End::Server, Family::V4, v2), 1504.0 + 2376.0, 0.05);
    }

    /// Free memory that both processes and their 10,000 connections took on 6.18.
    #[test]
    fn the_memory_of_the_processes_counts_too() {
        let rings = Process { shards: 2, rings: 2, slots: 10_500, listeners: 50 };
        near(load(rings).of(&kernel((6, 18), true), 10_000, By::Host).total, 96.75e6, 0.05);
    }

    #[test]
    fn a_cache_that_does_not_exist_takes_nothing() {
        let mut without = kernel((6, 18), true);
        without.caches.insert("lsm_inode_cache".to_owned(), None);
        let each = |kernel: &Kernel| kernel.per_end(End::Client, Family::V4, IdleBackend::Poll);
        assert_eq!(each(&without).host + 32.0, each(&kernel((6, 18), true)).host);
        assert_eq!(each(&without).source, Source::Measured((6, 18)));
    }

    /// Ten million connections asleep at both ends take little more than 1 GB, and those awake what they always take.
    #[test]
    fn sleepers_take_bytes_and_those_awake_kilobytes() {
        let kernel = kernel((6, 18), true);
        let process = Process { shards: 2, rings: 14, slots: 265_000, listeners: 100 };
        let load = Load { awake: Some(262_144), ..load(process) };
        let ten_million = load.of(&kernel, 10_000_000, By::Host);
        assert_eq!(ten_million.per_connection.round(), 113.0);
        let awake = Load { awake: None, ..load }.of(&kernel, 262_144, By::Host);
        near(ten_million.awake, awake.per_connection * 262_144.0, 1e-9);
        assert!(ten_million.total > ten_million.awake + 1.13e9 && ten_million.total < ten_million.awake + 1.26e9);
        // More connections than may be awake take no more sockets.
        assert_eq!(load.of(&kernel, 20_000_000, By::Host).hidden, ten_million.hidden);
        assert_eq!(asleep(End::Server, Family::V6) - asleep(End::Server, Family::V4), 32.0);
    }

    /// HTTP and WebSocket take 8 bytes of the server, TLS 80 of each end, and TLS 1.2 112.
    #[test]
    fn what_is_spoken_takes_some_bytes_of_each_connection() {
        let (new, old, kernel) = (Some(TlsVersion::Tls13), Some(TlsVersion::Tls12), kernel((6, 18), true));
        let process = Process { shards: 2, rings: 50, slots: 1_000_000, listeners: 100 };
        for awake in [None, Some(1_000)] {
            let raw = Load { awake, ..load(process) };
            for (conversation, tls, server, client) in
                [(true, None, 8e6, 0.0), (false, new, 80e6, 80e6), (true, new, 88e6, 80e6), (true, old, 120e6, 112e6)]
            {
                let spoken = Load { layers: Layers { conversation, tls }, ..raw };
                let of = |load: Load| load.of(&kernel, 1_000_000, By::Host);
                let total = |load: Load| of(load).total - of(load).fixed;
                near(total(spoken), total(raw) + server + client, 1e-9);
                let of_client = |load: Load| total(Load { server: None, ..load });
                near(of_client(spoken), of_client(raw) + client, 1e-9);
            }
        }
    }

    proptest! {
        /// The reported number of connections fits, and one more does not.
        #[test]
        fn the_largest_fitting_number_is_found(
            bytes in 50_000_000u64..40_000_000_000, version in 1u32..20, awake in prop::option::of(1u64..1_000_000),
        ) {
            let (kernel, load) = (kernel((6, version), true), load(Process { shards: 2, rings: 2, slots: 9_000, listeners: 50 }));
            let load = Load { awake, ..load };
            let most = load.most(&kernel, bytes, By::Host);
            prop_assert!(load.of(&kernel, most, By::Host).total <= bytes as f64);
            prop_assert!(load.of(&kernel, most + 1, By::Host).total > bytes as f64);
        }
    }
}
