//! Walls of the machine: cores, the spread of a network card's queues, packets waiting for a core,
//! neighbours on the link.

use super::{Finding, Setting, Wall};
use crate::addresses::Address;
use crate::constants::{DEFAULT_CONCURRENCY, THREADS_PER_PROCESS, THREADS_PER_SHARD};
use crate::error::{Diagnostic, Errno};
use crate::failure::Cause;
use crate::format::count;
use crate::host::{Host, Loopback, NetworkCard};
use crate::plan::{Goal, Role};

/// The wall of packets that wait for a core.
pub const PACKET_BACKLOG: Wall = Wall {
    name: "packet backlog",
    symptom: "connect latencies of 1 s and more on loopback or with RPS, and no other counter moves",
    evidence: "the second column of /proc/net/softnet_stat (hexadecimal, one line a core) rises",
    cure: "sysctl -w net.core.netdev_max_backlog=N; the memory is used only while packets wait",
    judge: packet_backlog,
    blame: |evidence| {
        let dropped = evidence.moved("softnet_dropped");
        (dropped > 0 && (evidence.any_failure() || evidence.moved("TCPSynRetrans") > 0)).then(|| Diagnostic {
            saw: format!("{} packets dropped before a core took them", count(dropped)),
            means: "more came at once than net.core.netdev_max_backlog lets wait".to_owned(),
            cure: "raise net.core.netdev_max_backlog, or lower --concurrency".to_owned(),
        })
    },
};

/// The wall of a network namespace whose loopback device is down.
pub const LOOPBACK: Wall = Wall {
    name: "loopback",
    symptom: "connects to an address of this host itself, such as 127.0.0.1, get no answer or fail with ENETUNREACH, as in a new network namespace",
    evidence: "ip link show lo: its device is down, or there is no way to the address",
    cure: "ip link set lo up; for ::1 also sysctl -w net.ipv6.conf.lo.disable_ipv6=0",
    judge: loopback,
    blame: |evidence| {
        let no_way = [Errno::ENETUNREACH, Errno::EADDRNOTAVAIL].map(|errno| evidence.failures(Cause::Errno(errno)));
        // Those that stood when the device went down.
        let silent = [Cause::Unanswered, Cause::Silent].map(|cause| evidence.failures(cause));
        let failed = evidence.timeouts() + no_way.into_iter().chain(silent).flatten().sum::<u64>();
        let (to, loopback) = evidence.loopback?;
        let (seen, means) = match loopback {
            Loopback::Reaches => return None,
            Loopback::Down => ("is down", "no address of its own can be reached"),
            Loopback::NoWay => ("has no way there", "that address cannot be reached"),
        };
        (failed > 0).then(|| Diagnostic {
            saw: format!("{} connections to this host itself failed, and its loopback device {seen}", count(failed)),
            means: format!("in this network namespace {means}"),
            cure: repair(to, loopback).to_owned(),
        })
    },
};

/// The wall of threads and processes.
pub const THREADS: Wall = Wall {
    name: "threads",
    symptom: "a thread or a process cannot be started: EAGAIN (\"Resource temporarily unavailable\")",
    evidence: "\"Max processes\" in /proc/self/limits, which binds an ordinary user and counts threads; pids.current against pids.max of the cgroup; kernel.threads-max, kernel.pid_max",
    cure: "ulimit -u, LimitNPROC= and TasksMax= in a systemd unit, --pids-limit of a container; or fewer --cores",
    judge: threads,
    blame: super::never,
};

/// The wall of processor time.
pub const CORES: Wall = Wall {
    name: "cores",
    symptom: "the ramp is slow and latencies grow, with idle cores beside the busy ones, or with none",
    evidence: "the cpuset and cpu quota of this process's cgroup, nr_throttled of its cpu.stat; taskset",
    cure: "widen the cpuset, raise the quota (cpu.max, CPUQuota=), --cpus of a container",
    judge: cores,
    blame: |evidence| {
        let [pauses, milliseconds] = ["cgroup_cpu_pauses", "cgroup_cpu_paused_ms"].map(|name| evidence.moved(name));
        (milliseconds >= NOTABLE_PAUSES_MS).then(|| Diagnostic {
            saw: format!(
                "a cgroup of this process used up its processor quota {} times, and its cores then stood still for {:.1} s in all",
                count(pauses),
                milliseconds as f64 / 1e3
            ),
            means: "whatever is to be done waits meanwhile, and latencies contain that".to_owned(),
            cure: "raise the quota (CPUQuota=, cpu.max, --cpus of a container), or use fewer --cores".to_owned(),
        })
    },
};

/// Pauses of less than this in a whole run, over all cores, are in few figures that a reader looks at.
const NOTABLE_PAUSES_MS: u64 = 1_000;

/// The wall of a network card whose packets all come to one core.
pub const NIC_QUEUES: Wall = Wall {
    name: "NIC queues",
    symptom: "one core is busy with softirq while the shards on the others wait",
    evidence: "/sys/class/net/*/queues: receive queues, and rps_cpus of each; /proc/interrupts",
    cure: "ethtool -L DEVICE combined N, or a mask of all cores in queues/rx-*/rps_cpus",
    judge: nic_queues,
    blame: super::never,
};

/// The wall of addresses on one link.
pub const NEIGHBOURS: Wall = Wall {
    name: "neighbours",
    symptom: "ENOBUFS, and the kernel logs \"neighbour: arp_cache: neighbor table overflow!\"",
    evidence: "ip -s neigh; net.ipv4.neigh.default.gc_thresh3",
    cure: "sysctl -w net.ipv4.neigh.default.gc_thresh3=N, where more hosts than that are on the same link; routed ones do not count",
    judge: neighbours,
    blame: super::never,
};

fn packet_backlog(host: &Host, _goal: &Goal) -> Finding {
    let need = format!("{}, twice what a ramp has in flight", count(WAITING_PACKETS));
    let Some(most) = host.sysctl("net.core.netdev_max_backlog") else {
        return Finding::unknown("net.core.netdev_max_backlog (not shown in a network namespace of its own)", need);
    };
    let dropped = host.net_counters().get("softnet_dropped").copied();
    let seen = dropped.map_or("drops not readable".to_owned(), |n| format!("{} dropped since boot", count(n)));
    // Where packets were dropped the usual room was too small, whatever the goal is.
    let wanted = if dropped.unwrap_or(0) > 0 { ROOMY_BACKLOG } else { WAITING_PACKETS };
    Finding::fine(format!("{} packets a core, {seen}", count(most)), need).tight_if(most < wanted).set(Setting::raise(
        host,
        "net.core.netdev_max_backlog",
        &[wanted],
        "packets beyond it are dropped, and sent again after a second",
    ))
}

/// Packets that may wait for a core: the kernel's default. A ramp of 512 connects in flight on
/// loopback has about as many on the way.
const WAITING_PACKETS: u64 = 1_000;
const _: () = assert!(WAITING_PACKETS >= DEFAULT_CONCURRENCY as u64);

/// Packets that may wait for a core where the usual room did not suffice.
const ROOMY_BACKLOG: u64 = 16_384;

fn loopback(host: &Host, goal: &Goal) -> Finding {
    let mine = |target: &&Address| host.goes_over_loopback(**target);
    let Some(target) = goal.routes.targets.iter().find(mine).filter(|_| goal.role.dials()) else {
        return super::not_here();
    };
    let need = format!("a way to {target}");
    let Some(loopback) = host.loopback_to(*target) else {
        return Finding::unknown("whether loopback is up", need);
    };
    let have = match loopback {
        Loopback::Reaches => return Finding::fine("up", need),
        Loopback::Down => "down, as in a new network namespace",
        Loopback::NoWay => "up, without that address",
    };
    // A process that may write the settings of this network namespace may do that too.
    let may = host.may_write_sysctl("net.ipv4.ip_local_port_range");
    Finding::fine(have, need).blocking_if(true).advise(may, repair(*target, loopback))
}

/// Why no client can reach a server that listens on a loopback address; `None` if clients can, or if the kernel does not
/// tell.
pub fn out_of_reach(host: &Host, bind: Address) -> Option<Diagnostic> {
    let loopback = bind.ip().is_loopback().then(|| host.loopback_to(bind)).flatten()?;
    let seen = match loopback {
        Loopback::Reaches => return None,
        Loopback::Down => "is down",
        Loopback::NoWay => "has no way there",
    };
    Some(Diagnostic {
        saw: format!("the server listens on {bind}, and the loopback device of this network namespace {seen}"),
        means: "no client can connect".to_owned(),
        cure: repair(bind, loopback).to_owned(),
    })
}

/// What makes loopback carry packets to an address of this host.
fn repair(to: Address, loopback: Loopback) -> &'static str {
    match (loopback, to.ip().is_ipv6()) {
        (Loopback::NoWay, true) => "sysctl -w net.ipv6.conf.lo.disable_ipv6=0, and ip addr add ::1/128 dev lo",
        (Loopback::NoWay, false) => "ip addr add 127.0.0.1/8 dev lo",
        (_, true) => "ip link set lo up && sysctl -w net.ipv6.conf.lo.disable_ipv6=0",
        (_, false) => "ip link set lo up",
    }
}

fn threads(host: &Host, goal: &Goal) -> Finding {
    let processes = goal.role.ends();
    let wanted = processes * (THREADS_PER_PROCESS + THREADS_PER_SHARD * goal.cores.len() as u64);
    let need = format!("{} threads, {} of them for each core", count(wanted), processes * THREADS_PER_SHARD);
    let limits = host.thread_limits();
    let Some(nearest) = limits.iter().min_by_key(|limit| limit.left()) else {
        return Finding::unknown("kernel.threads-max", need);
    };
    let now = nearest.now.map_or_else(|| "not readable how many run".to_owned(), |now| format!("{} run", count(now)));
    let have = format!("{} {}, {now}", nearest.name, count(nearest.most));
    let blocked = nearest.left() < wanted;
    let enough = nearest.now.unwrap_or(0).saturating_add(wanted);
    Finding::fine(have, need).blocking_if(blocked).advise(false, format!("raise {} to {enough} or more", nearest.name))
}

fn cores(host: &Host, goal: &Goal) -> Finding {
    let shards = goal.cores.len();
    let allowed = host.cores_allowed().len();
    let need = format!("{shards}, one a shard");
    let quota = host.cpu_quota();
    if quota.is_none() && !host.shows_cgroups("cpu") {
        return Finding::unknown("the cpu quota of this process's cgroup", need);
    }
    let have = format!(
        "{allowed} allowed, {}",
        quota.map_or("no quota".to_owned(), |cores| format!("a quota of {cores:.1} cores"))
    );
    Finding::fine(have, need).tight_if(quota.is_some_and(|cores| cores < shards as f64)).advise(
        false,
        "raise the quota (CPUQuota=, cpu.max, --cpus), or use fewer --cores: a shard that is paused serves no connection",
    )
}

fn nic_queues(host: &Host, goal: &Goal) -> Finding {
    if goal.role == Role::Both {
        return Finding::fine("loopback has none", "nothing in this role");
    }
    let Some(cards) = host.network_cards() else {
        return Finding::unknown("/sys/class/net", "packets spread over the cores");
    };
    if cards.is_empty() {
        return Finding::fine("no network card in sight", "packets spread over the cores");
    }
    let shards = goal.cores.len();
    let narrow = cards.iter().find(|card| card.receive_queues < shards && !card.spread);
    let text = |card: &NetworkCard| {
        let spread = if card.spread { ", RPS on" } else { ", RPS off" };
        format!("{} {} receive queues{spread}", card.name, card.receive_queues)
    };
    let have = cards.iter().map(text).collect::<Vec<_>>().join("; ");
    let finding = Finding::fine(have, format!("packets spread over {shards} cores")).tight_if(narrow.is_some());
    match narrow {
        Some(card) => {
            let mask = core_mask(&goal.cores);
            let queues = format!("/sys/class/net/{}/queues", card.name);
            let may = host.may_write(&format!("{queues}/rx-0/rps_cpus"));
            finding.advise(may, format!("for q in {queues}/rx-*; do echo {mask} > $q/rps_cpus; done"))
        }
        None => finding,
    }
}

/// A mask of cores as the kernel reads it: hexadecimal, in groups of 32 bits with commas between them
/// (`bitmap_parse`).
fn core_mask(cores: &[usize]) -> String {
    let mut groups = vec![0u32; cores.iter().max().map_or(1, |last| last / 32 + 1)];
    for core in cores {
        groups[core / 32] |= 1 << (core % 32);
    }
    let mut groups = groups.into_iter().rev();
    let first = groups.next().map(|group| format!("{group:x}"));
    let rest = groups.map(|group| format!("{group:08x}"));
    first.into_iter().chain(rest).collect::<Vec<_>>().join(",")
}

fn neighbours(host: &Host, goal: &Goal) -> Finding {
    if goal.role == Role::Both {
        return Finding::fine("loopback has none", "nothing in this role");
    }
    let known = if goal.role.dials() { goal.routes.targets.len() as u64 } else { 0 };
    let need = "one for each host on the same link; routed ones do not count";
    let Some(most) = host.sysctl("net.ipv4.neigh.default.gc_thresh3") else {
        return Finding::unknown(
            "net.ipv4.neigh.default.gc_thresh3 (not shown in a network namespace of its own)",
            need,
        );
    };
    Finding::fine(format!("{} entries at most", count(most)), need).tight_if(known > most).set_if(
        known > most,
        Setting::raise(
            host,
            "net.ipv4.neigh.default.gc_thresh3",
            &[known * 2],
            "one entry for each target on the link",
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::core_mask;

    #[test]
    fn a_mask_of_cores_is_as_the_kernel_writes_it() {
        for (cores, mask) in [
            (&[0][..], "1"),
            (&[0, 1], "3"),
            (&[31], "80000000"),
            (&[32], "1,00000000"),
            (&[0, 33, 63], "80000002,00000001"),
            (&[3, 128], "1,00000000,00000000,00000000,00000008"),
        ] {
            assert_eq!(core_mask(cores), mask, "{cores:?}");
        }
    }
}
