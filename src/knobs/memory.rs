//! Walls of memory: what sockets take of the host, and what a cgroup counts of it.

use super::{Finding, Wall};
use crate::causes::Cause;
use crate::error::{Complaint, Errno};
use crate::host::Host;
use crate::plan::Goal;
use crate::words::{bytes, count};

/// The wall of the host's memory.
pub const MEMORY: Wall = Wall {
    name: "memory",
    symptom: "ENOMEM or ENOBUFS; a process, often the server, is killed (\"Out of memory: Killed process\"); the kernel may panic when nothing is left to kill",
    evidence: "/proc/slabinfo: TCP, sock_inode_cache, filp, dentry; MemFree of /proc/meminfo (MemAvailable counts the sockets' dentries as if they could be freed)",
    cure: "more memory, fewer connections, or the kernel command line of tuning/cmdline.md, which makes each connection smaller",
    judge: |host, goal| Finding::fine(host.memory_available().map_or_else(String::new, bytes), bytes(goal.connections)),
    blame: |evidence| {
        let failed: u64 = [Errno::ENOMEM, Errno::ENOBUFS]
            .map(|errno| evidence.failures(Cause::Errno(errno)).unwrap_or(0))
            .iter()
            .sum();
        (failed > 0 && evidence.moved("cgroup_memory_hits") == 0).then(|| Complaint {
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
    evidence: "cgroup v2: memory.max, memory.events; v1: memory.limit_in_bytes, memory.failcnt; the whole path up to the root counts",
    cure: "raise the limit (MemoryMax=, --memory of a container)",
    judge: |_, _| super::not_here(),
    blame: |evidence| {
        let hits = evidence.moved("cgroup_memory_hits");
        (hits > 0).then(|| Complaint {
            saw: format!("a memory cgroup of this process met its limit {} times", count(hits)),
            means: "it counts the kernel memory of sockets, and refuses more".to_owned(),
            cure: "raise the limit (MemoryMax=, --memory of a container), or open fewer connections".to_owned(),
        })
    },
};

/// Bytes of this host's memory for one more connection, both ends if both are here.
pub fn connection_bytes(_host: &Host, goal: &Goal) -> u64 {
    4_000 * goal.role.ends()
}
