//! What a process needs of its limits: file descriptors, and locked memory.

use super::{ShardPlan, slots_each};
use crate::constants::{GLOMMIO_IO_MEMORY, PAGE_BYTES, RINGS_PER_SHARD};
use crate::error::{Error, HostError, HostReason, ShardsOf};

/// File descriptors of one shard beside its listeners and rings: glommio's three rings and its eventfds, and the shard's
/// doorbell.
const DESCRIPTORS_PER_SHARD: u64 = 24;

/// File descriptors of a server's metrics: eight connections, one that was just accepted, the listener twice, a spare
/// descriptor and the doorbell. `metrics.rs` checks that they suffice.
pub const DESCRIPTORS_OF_METRICS: u64 = 13;

/// File descriptors of the process beside its shards: stdio, the pipe of signals, the files of a report, /proc, and
/// the metrics.
const DESCRIPTORS_PER_PROCESS: u64 = 32 + DESCRIPTORS_OF_METRICS;

/// Connections that a shard can always put to sleep at once, each with a file descriptor of its own meanwhile.
pub const FEWEST_DROWSY: u64 = 64;

/// File descriptors of a shard whose connections sleep, beside those of `FEWEST_DROWSY`: the ring buffer of its caught
/// segments, once for the programs and once for its reader; two raw sockets for answers and two for segments that are let
/// go, of IPv4 and IPv6; the program of its sockets; and its entries and their addresses, each twice, where they outlive
/// the process.
const DESCRIPTORS_PER_SLEEPING_SHARD: u64 = 11;

/// File descriptors of a process whose connections sleep, beside its shards': the maps and programs of the catcher, and
/// a client's link to the network and listener.
const DESCRIPTORS_OF_CATCHER: u64 = 16;

/// Bytes of locked memory that newer kernels charge an ordinary user for one ring: both queues, in whole pages,
/// measured with kernel 6.18.
pub const RING_LOCKED_BYTES: u64 = 36 * 1024;

/// Bytes of locked memory that such a kernel charges an ordinary user for one executor of glommio's: two pages of
/// queues for each of its three rings, and `GLOMMIO_IO_MEMORY`, which it registers with each.
pub const EXECUTOR_LOCKED_BYTES: u64 = 3 * (2 * PAGE_BYTES + GLOMMIO_IO_MEMORY as u64);

/// The smallest limit on locked memory with which glommio starts, in bytes (its `MIN_MEMLOCK_LIMIT`).
pub const GLOMMIO_MEMLOCK: u64 = 512 * 1024;

/// The file descriptors that a process needs.
#[derive(Clone, Debug, Default)]
pub struct Needs {
    /// Rings of each shard.
    pub rings: Vec<usize>,
    /// Plain sockets.
    pub sockets: u64,
    /// Shards whose connections sleep.
    pub sleeping: u64,
    /// Descriptors that are kept of connections that are awake, where the kernel makes none of a slot's socket later.
    pub kept: u64,
}

impl Needs {
    /// Rings over all shards.
    pub fn all_rings(&self) -> u64 {
        self.rings.iter().sum::<usize>() as u64
    }

    /// What several processes need together.
    pub fn together(each: impl Iterator<Item = Needs>) -> Needs {
        each.fold(Needs::default(), |all, one| Needs {
            rings: [all.rings, one.rings].concat(),
            sockets: all.sockets + one.sockets,
            sleeping: all.sleeping + one.sleeping,
            kept: all.kept + one.kept,
        })
    }

    /// Descriptors beside rings, sockets and those that are kept.
    pub fn fixed(&self) -> u64 {
        let catcher = if self.sleeping > 0 { DESCRIPTORS_OF_CATCHER } else { 0 };
        DESCRIPTORS_PER_PROCESS
            + self.rings.len() as u64 * DESCRIPTORS_PER_SHARD
            + catcher
            + self.sleeping * (DESCRIPTORS_PER_SLEEPING_SHARD + FEWEST_DROWSY)
    }

    /// Descriptors in all.
    pub fn descriptors(&self) -> u64 {
        self.fixed() + self.kept + self.sockets + self.all_rings()
    }

    /// Bytes of locked memory that a kernel which charges rings takes from an ordinary user.
    pub fn locked_bytes(&self) -> u64 {
        self.all_rings() * RING_LOCKED_BYTES + self.rings.len() as u64 * EXECUTOR_LOCKED_BYTES
    }

    /// Whether they are within the limit, and no shard has more rings than it can name.
    pub fn fit(&self, nofile: u64) -> bool {
        self.descriptors() <= nofile && self.rings.iter().all(|rings| *rings <= RINGS_PER_SHARD)
    }

    /// Why `connections` do not fit, where `possible` would. The pair is the limit on descriptors, and how many of them are
    /// in use already.
    pub fn refusal(&self, connections: u64, possible: u64, (nofile, open): (u64, u64), whose: ShardsOf) -> Error {
        let reason = HostReason::DescriptorLimit {
            connections,
            limit: nofile,
            open,
            needed: self.descriptors(),
            rings: self.all_rings(),
            sockets: self.sockets,
            kept: self.kept,
            others: self.fixed(),
            slots: slots_each(nofile),
            rings_per_shard: RINGS_PER_SHARD as u64,
            possible,
            whose,
        };
        HostError::new("hold", format!("{connections} connections"), None, reason).into()
    }
}

/// The file descriptors of a server of these shards. `keeps_descriptors` as in `ServerGoal`.
pub fn needs(plans: &[ShardPlan], keeps_descriptors: bool) -> Needs {
    let sleeping = || plans.iter().filter(|plan| plan.awake.is_some());
    Needs {
        rings: plans.iter().map(|plan| plan.rings.len()).collect(),
        sockets: plans.iter().map(|plan| plan.ports.len() as u64).sum(),
        sleeping: sleeping().count() as u64,
        kept: if keeps_descriptors { sleeping().map(ShardPlan::slots).sum() } else { 0 },
    }
}
