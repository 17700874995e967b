//! Walls of TCP: connection tracking, memory for queued data, orphans, the two queues of a
//! listener, the table of connections.

use super::{AT_ONCE, Finding, Setting, Wall, memory, not_here};
use crate::constants::PAGE_BYTES;
use crate::error::Diagnostic;
use crate::failure::Cause;
use crate::format::{bytes, count};
use crate::host::{Conntrack, Host};
use crate::plan::Goal;

/// The wall of connection tracking.
pub const CONNTRACK: Wall = Wall {
    name: "conntrack",
    symptom: "connects time out (ETIMEDOUT), at both ends alike; the kernel logs \"nf_conntrack: table full, dropping packet\"",
    evidence: "net.netfilter.nf_conntrack_count against nf_conntrack_max; \"drop\" of /proc/net/stat/nf_conntrack rises",
    cure: "sysctl -w net.netfilter.nf_conntrack_max=N on the host that tracks, or a notrack rule for the served ports; the module alone, without a rule that uses it, tracks nothing",
    judge: conntrack,
    blame: |evidence| {
        let dropped = evidence.moved("conntrack_drop");
        let (entries, most) = evidence.peak.conntrack.unwrap_or((0, u64::MAX));
        (dropped > 0 || (entries >= most && evidence.timeouts() > 0)).then(|| Diagnostic {
            saw: format!("conntrack dropped {} packets; {} entries of {}", count(dropped), count(entries), count(most)),
            means: "its table is full, and new connections are not let through".to_owned(),
            cure: "raise net.netfilter.nf_conntrack_max, or do not track the served ports (notrack)".to_owned(),
        })
    },
};

/// The wall of memory for queued data.
pub const TCP_MEMORY: Wall = Wall {
    name: "TCP memory",
    symptom: "connections are slow, reset, or fail with ENOBUFS; the kernel logs \"TCP: out of memory -- consider tuning tcp_mem\"",
    evidence: "/proc/net/sockstat, TCP \"mem\" in pages against the third number of net.ipv4.tcp_mem; TCPMemoryPressures, TCPAbortOnMemory",
    cure: "sysctl -w net.ipv4.tcp_mem=\"LOW PRESSURE HIGH\" in pages, within the memory that sockets leave; idle connections queue nothing and take none",
    judge: tcp_memory,
    blame: |evidence| {
        let (aborted, pressed) = (evidence.moved("TCPAbortOnMemory"), evidence.moved("TCPMemoryPressures"));
        let sockets = evidence.peak.sockets.unwrap_or_default();
        let orphaned = evidence.peak.orphans_allowed.is_some_and(|most| sockets.orphans >= most);
        let full = evidence.peak.tcp_pages_allowed.is_some_and(|most| sockets.pages >= most);
        // Under pressure windows shrink and sends wait: every connection can be slow without one that fails.
        let hurt = pressed > 0 || (full && evidence.any_failure());
        ((aborted > 0 && !orphaned) || hurt).then(|| Diagnostic {
            saw: format!(
                "TCP held {} pages, under pressure {pressed} times, and gave up {aborted} connections",
                count(sockets.pages)
            ),
            means: "queued data of all connections met net.ipv4.tcp_mem".to_owned(),
            cure: "raise it within this host's memory, or let fewer connections have data queued at once".to_owned(),
        })
    },
};

/// The wall of small socket buffers.
pub const SOCKET_BUFFERS: Wall = Wall {
    name: "socket buffers",
    symptom: "no error: every transfer is slow, and small packets are dropped and sent again",
    evidence: "the second numbers of net.ipv4.tcp_rmem and tcp_wmem",
    cure: "the kernel's defaults, \"4096 131072 6291456\" and \"4096 16384 4194304\": they bound what may be queued and cost an idle connection nothing",
    judge: socket_buffers,
    blame: super::never,
};

/// The wall of closed and unfinished connections.
pub const ORPHANS: Wall = Wall {
    name: "orphans",
    symptom: "on a mass close connections end with RST in place of FIN; the kernel logs \"TCP: too many orphaned sockets\"",
    evidence: "/proc/net/sockstat, \"orphan\", against net.ipv4.tcp_max_orphans; TCPAbortOnMemory",
    cure: "sysctl -w net.ipv4.tcp_max_orphans=N, or close more slowly",
    judge: orphans,
    blame: |evidence| {
        let (aborted, orphans) = (evidence.moved("TCPAbortOnMemory"), evidence.peak.sockets?.orphans);
        let most = evidence.peak.orphans_allowed.filter(|most| orphans >= *most && aborted > 0)?;
        Some(Diagnostic {
            saw: format!("{} orphaned sockets of {} allowed, {} reset", count(orphans), count(most), count(aborted)),
            means: "more connections were closed than their peers acknowledged".to_owned(),
            cure: "raise net.ipv4.tcp_max_orphans, or close more slowly".to_owned(),
        })
    },
};

/// The wall of a listener's backlog.
pub const ACCEPT_QUEUE: Wall = Wall {
    name: "accept queue",
    symptom: "connect latencies of 1, 3 and 7 s, ghosts (the client believes in a connection that the server never had), timeouts; ECONNRESET with tcp_abort_on_overflow=1",
    evidence: "ListenOverflows rises on the server's host, one counter for all listeners of a network namespace; ss -ltn, Recv-Q against Send-Q; net.core.somaxconn caps every backlog silently, in each network namespace anew",
    cure: "sysctl -w net.core.somaxconn=N before the server starts, and a larger --backlog",
    judge: accept_queue,
    blame: |evidence| {
        let overflows = evidence.at_own_listeners(evidence.moved("ListenOverflows"));
        let ghosts = evidence.failures(Cause::Ghost).unwrap_or(0);
        let (saw, server) = match (overflows, ghosts) {
            (0, 0) => return None,
            (0, ghosts) => (format!("{} ghosts: the server never had these connections", count(ghosts)), "the server"),
            // The counter is one for all listeners of the network namespace.
            (overflows, _) if evidence.dropped.is_none() => (
                format!("accept queues of this network namespace overflowed {} times", count(overflows)),
                "a server here",
            ),
            (overflows, _) => (format!("its accept queues overflowed {} times", count(overflows)), "the server"),
        };
        Some(Diagnostic {
            saw,
            means: format!("connections came faster than {server} accepted them, and its backlog was full"),
            cure: "raise net.core.somaxconn and the server's --backlog, or ramp more slowly (--concurrency, or a lower rate)"
                .to_owned(),
        })
    },
};

/// The wall of connections that are not yet established.
pub const SYN_QUEUE: Wall = Wall {
    name: "SYN queue",
    symptom: "connects take 1, 3 or 7 s, or time out; the kernel logs \"Possible SYN flooding on port P. Dropping request.\"",
    evidence: "on the server's host TCPReqQFullDrop rises, or, without cookies, ListenDrops beyond ListenOverflows (TCPReqQFullDoCookies with cookies, which loses nothing)",
    cure: "sysctl -w net.ipv4.tcp_syncookies=1: the backlog alone then bounds it; without, net.ipv4.tcp_max_syn_backlog does",
    judge: syn_queue,
    blame: |evidence| {
        let full = evidence.moved("TCPReqQFullDrop");
        // The kernel keeps the last quarter of tcp_max_syn_backlog for known peers. SYNs that it therefore drops have no
        // counter of their own (tcp_conn_request): they are the drops that the other two counters do not explain.
        let explained = full.saturating_add(evidence.moved("ListenOverflows"));
        let unexplained = evidence.moved("ListenDrops").saturating_sub(explained);
        let dropped = full.saturating_add(if evidence.peak.syn_cookies == Some(0) { unexplained } else { 0 });
        let dropped = evidence.at_own_listeners(dropped);
        (dropped > 0).then(|| Diagnostic {
            saw: format!("{} SYNs dropped by a full SYN queue of this host", count(dropped)),
            means: "connections began faster than they were established".to_owned(),
            cure: "sysctl -w net.ipv4.tcp_syncookies=1, or raise net.ipv4.tcp_max_syn_backlog and the backlog"
                .to_owned(),
        })
    },
};

/// The wall of a small hash table.
pub const LOOKUP: Wall = Wall {
    name: "lookup",
    symptom: "no error: processor time in __inet_lookup_established, for each packet",
    evidence: "net.ipv4.tcp_ehash_entries against the sockets; \"TCP established hash table entries\" in the kernel's log",
    cure: "thash_entries=N on the kernel's command line; for a network namespace net.ipv4.tcp_child_ehash_entries before it is made",
    judge: lookup,
    blame: super::never,
};

/// Seconds for which a firewall must remember a silent connection: the kernel probes one after 7,200 s
/// (`tcp_keepalive_time`).
const SILENT_SECONDS: u64 = 7_200;

/// The time for which the kernel's connection tracking remembers an established connection by default, in seconds: 5
/// days.
const CONNTRACK_ESTABLISHED: u64 = 432_000;

fn conntrack(host: &Host, goal: &Goal) -> Finding {
    let need = format!("{} entries where it is active, at both ends", count(goal.connections));
    let table = match host.conntrack() {
        Conntrack::Absent => return Finding::fine("not loaded", need),
        Conntrack::Idle => return Finding::fine("loaded, tracks nothing here", need),
        Conntrack::Unreadable => return Finding::unknown("net.netfilter.nf_conntrack_*", need),
        Conntrack::Active(table) => table,
    };
    let have = format!(
        "active, {} entries of {}, {} buckets, forgets after {} s",
        count(table.count),
        if table.max == u64::MAX { "no limit".to_owned() } else { count(table.max) },
        count(table.buckets),
        count(table.established)
    );
    let wanted = table.count.saturating_add(goal.connections);
    let roomy = wanted.saturating_add(wanted.div_ceil(8));
    let forgetful = table.established < SILENT_SECONDS;
    Finding::counted(have, need, table.max.saturating_sub(table.count), goal.connections)
        .tight_if(forgetful)
        .set_if(
            table.max < roomy,
            Setting::raise(
                host,
                "net.netfilter.nf_conntrack_max",
                &[roomy],
                "beyond it packets of new connections are dropped",
            ),
        )
        .set_if(
            wanted.div_ceil(4) > table.buckets,
            Setting::raise(
                host,
                "net.netfilter.nf_conntrack_buckets",
                &[wanted.div_ceil(512).saturating_mul(512)],
                "each entry is in two chains; short ones are found fast",
            ),
        )
        .set_if(
            forgetful,
            Setting::raise(
                host,
                "net.netfilter.nf_conntrack_tcp_timeout_established",
                &[CONNTRACK_ESTABLISHED],
                "an idle connection must not be forgotten while it stands",
            ),
        )
}

fn tcp_memory(host: &Host, goal: &Goal) -> Finding {
    let sockets = goal.sockets(goal.connections);
    let wanted = sockets.div_ceil(AT_ONCE) * goal.role.ends();
    let need = format!("{} pages: one for each end of one connection in {AT_ONCE}; idle ones take none", count(wanted));
    let (Some(limits), Some(used)) = (host.sysctl_numbers("net.ipv4.tcp_mem"), host.sockets()) else {
        return Finding::unknown("net.ipv4.tcp_mem (not shown in a network namespace of its own)", need);
    };
    let [low, pressure, high] = limits[..] else { return Finding::unknown("net.ipv4.tcp_mem", need) };
    let total = host.memory().map_or(u64::MAX, |memory| memory.total);
    let beyond =
        if high.saturating_mul(PAGE_BYTES) > total { ", more than all memory: it protects nothing" } else { "" };
    let have = format!(
        "{low} {pressure} {high} pages ({}), {} in use{beyond}",
        bytes(high.saturating_mul(PAGE_BYTES)),
        count(used.pages)
    );
    let wanted = used.pages.saturating_add(wanted);
    // Half of the memory that the connections themselves leave.
    let spare = total.saturating_sub(memory::connection_bytes(host, goal)) / 2 / PAGE_BYTES;
    let raised = wanted.min(spare);
    let why = format!(
        "a queued page for one connection in {AT_ONCE}, and never more than half of what the sockets leave of {}",
        bytes(total)
    );
    Finding::fine(have, need)
        .tight_if(high < wanted || !beyond.is_empty())
        .blocking_if(high < used.pages.saturating_add(sockets.min(PAGES_TO_BEGIN)))
        .set_if(high < raised, Setting::raise(host, "net.ipv4.tcp_mem", &[raised / 2, raised / 4 * 3, raised], why))
        .advise(host.may_write_sysctl("net.ipv4.tcp_mem"), "keep it within the memory that sockets leave")
}

/// Pages that the connections in flight of a ramp need.
const PAGES_TO_BEGIN: u64 = 512;

fn socket_buffers(host: &Host, _goal: &Goal) -> Finding {
    let (Some(receive), Some(send)) =
        (host.sysctl_numbers("net.ipv4.tcp_rmem"), host.sysctl_numbers("net.ipv4.tcp_wmem"))
    else {
        return Finding::unknown("net.ipv4.tcp_rmem, tcp_wmem", "");
    };
    let usual = |numbers: &[u64]| numbers.get(1).copied().unwrap_or(0);
    let have = format!("receive {}, send {} by default", bytes(usual(&receive)), bytes(usual(&send)));
    let need = format!("{} or more each; unused, they cost nothing", bytes(SMALLEST_BUFFER));
    let small = |numbers: &[u64]| usual(numbers) < SMALLEST_BUFFER;
    let why = "a small default makes every transfer slow and saves an idle connection nothing";
    Finding::fine(have, need)
        .tight_if(small(&receive) || small(&send))
        .set_if(small(&receive), Setting::raise(host, "net.ipv4.tcp_rmem", &[4_096, 131_072, 6_291_456], why))
        .set_if(small(&send), Setting::raise(host, "net.ipv4.tcp_wmem", &[4_096, 16_384, 4_194_304], why))
}

/// The kernel's smallest default of a send buffer, in bytes (`tcp_wmem`).
const SMALLEST_BUFFER: u64 = 16_384;

fn orphans(host: &Host, goal: &Goal) -> Finding {
    if !goal.role.serves() {
        return not_here();
    }
    let wanted = goal.sockets(goal.connections).div_ceil(AT_ONCE);
    let need = format!("{}, one connection in {AT_ONCE} closing at once", count(wanted));
    let (Some(most), Some(sockets)) = (host.sysctl("net.ipv4.tcp_max_orphans"), host.sockets()) else {
        return Finding::unknown("net.ipv4.tcp_max_orphans", need);
    };
    Finding::fine(format!("{} now, {} at most", count(sockets.orphans), count(most)), need).tight_if(most < wanted).set(
        Setting::raise(
            host,
            "net.ipv4.tcp_max_orphans",
            &[wanted],
            "beyond it a close is a reset, and its last bytes are lost",
        ),
    )
}

fn accept_queue(host: &Host, goal: &Goal) -> Finding {
    if !goal.role.serves() {
        return not_here();
    }
    let wanted = at_once_per_port(goal);
    let need = format!("{} per port: one connection in {AT_ONCE} coming at once", count(wanted));
    let Some(most) = host.sysctl("net.core.somaxconn") else {
        return Finding::unknown("net.core.somaxconn", need);
    };
    let counters = host.net_counters();
    let seen = match (counters.get("ListenOverflows"), counters.get("ListenDrops")) {
        (Some(overflows), Some(drops)) => {
            format!("{} overflows, {} drops since boot", count(*overflows), count(*drops))
        }
        _ => "overflows not readable".to_owned(),
    };
    Finding::fine(format!("somaxconn {}, {seen}", count(most)), need).tight_if(most < wanted).set(Setting::raise(
        host,
        "net.core.somaxconn",
        &[wanted],
        "the kernel caps every backlog at it, silently",
    ))
}

/// Connections that come to one port at the same moment, up to the largest sensible backlog.
fn at_once_per_port(goal: &Goal) -> u64 {
    goal.sockets(goal.connections).div_ceil(AT_ONCE).div_ceil(goal.routes.ports.count() as u64).min(65_535)
}

fn syn_queue(host: &Host, goal: &Goal) -> Finding {
    if !goal.role.serves() {
        return not_here();
    }
    let wanted = at_once_per_port(goal);
    let (Some(cookies), Some(most)) =
        (host.sysctl("net.ipv4.tcp_syncookies"), host.sysctl("net.ipv4.tcp_max_syn_backlog"))
    else {
        return Finding::unknown("net.ipv4.tcp_syncookies", "");
    };
    let dropped = host.net_counters().get("TCPReqQFullDrop").copied().unwrap_or(0);
    let seen = format!("{} dropped since boot", count(dropped));
    if cookies > 0 {
        return Finding::fine(format!("cookies on, {seen}"), "cookies, or room as in the accept queue");
    }
    // Without cookies the kernel keeps a quarter for known peers (tcp_conn_request).
    let wanted = wanted + wanted / 3 + 1;
    Finding::fine(
        format!("cookies off, tcp_max_syn_backlog {}, {seen}", count(most)),
        format!("{} per port", count(wanted)),
    )
    .tight_if(most < wanted)
    .set(Setting::raise(
        host,
        "net.ipv4.tcp_max_syn_backlog",
        &[wanted],
        "without cookies a SYN beyond it is dropped",
    ))
}

fn lookup(host: &Host, goal: &Goal) -> Finding {
    let sockets = goal.sockets(goal.connections) * goal.role.ends();
    let need = format!("{} sockets in chains of {LONGEST_CHAIN} at most", count(sockets));
    let Some(entries) = host.established_buckets().filter(|buckets| *buckets > 0) else {
        return Finding::unknown("net.ipv4.tcp_ehash_entries", need);
    };
    let chain = sockets as f64 / entries as f64;
    let wanted = sockets.div_ceil(2).next_power_of_two();
    Finding::fine(format!("{} chains, {chain:.1} sockets each", count(entries)), need)
        .tight_if(chain > LONGEST_CHAIN as f64)
        .advise(false, format!("thash_entries={wanted} on the kernel's command line, then reboot"))
}

/// Sockets in one chain of the table up to which a look-up costs little: with 7.6 a million connections came up at full
/// speed (kernel 6.18).
const LONGEST_CHAIN: u64 = 10;
