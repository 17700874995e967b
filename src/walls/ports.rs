//! Walls of ports: the client's source ports, and the server's ports among them.

use std::ops::RangeInclusive;

use super::evidence::Evidence;
use super::{Finding, Setting, Wall, not_here, with_room};
use crate::error::{Diagnostic, Errno};
use crate::failure::Cause;
use crate::format::count;
use crate::host::{Host, LAST_PORT, Loopback, SourcePorts};
use crate::plan::Goal;

/// The wall of ephemeral ports.
pub const SOURCE_PORTS: Wall = Wall {
    name: "source ports",
    symptom: "connect fails with EADDRNOTAVAIL (\"Cannot assign requested address\"): one source address has so many ports for each target and port",
    evidence: "net.ipv4.ip_local_port_range less ip_local_reserved_ports, times source addresses, targets and ports",
    cure: "more target ports or addresses, more source addresses (--source-ip), a wider net.ipv4.ip_local_port_range",
    judge: source_ports,
    blame: no_source_port,
};

/// The wall of served ports that outgoing connections may take before the server starts.
pub const SERVED_PORTS: Wall = Wall {
    name: "served ports",
    symptom: "the server's bind fails with EADDRINUSE though nothing serves there: an outgoing connection, or one in TIME_WAIT, sits on the port",
    evidence: "net.ipv4.ip_local_port_range covers the served ports, and ip_local_reserved_ports does not name them",
    cure: "sysctl -w net.ipv4.ip_local_reserved_ports=FIRST-LAST: connect no longer takes them, bind still may",
    judge: served_ports,
    blame: super::never,
};

/// The wall of source ports that closed connections still hold.
pub const TIME_WAIT: Wall = Wall {
    name: "TIME_WAIT",
    symptom: "connect fails with EADDRNOTAVAIL on the next run: each connection that this end closed first (FIN) keeps its source port for 60 s",
    evidence: "/proc/net/sockstat, \"tw\"; beyond net.ipv4.tcp_max_tw_buckets they are dropped at once (TCPTimeWaitOverflow), which does no harm here",
    cure: "close with RST (--close rst), wait a minute, or sysctl -w net.ipv4.tcp_tw_reuse=1",
    judge: time_wait,
    blame: ports_in_time_wait,
};

/// The lowest port an ordinary user may bind; no source port lies below it.
const FIRST_SOURCE_PORT: u64 = 1_024;

/// Source ports that served ones must leave when they are reserved: other programs of the host connect too. Or half of them,
/// where there are fewer than twice as many.
const FOR_OTHERS: u64 = 1_024;

/// What to do where no source port is left.
const UNRESERVE: &str = "take ports out of net.ipv4.ip_local_reserved_ports";

/// What to do where the served ports leave none.
const SERVE_ELSEWHERE: &str = "serve fewer --ports, or such outside of net.ipv4.ip_local_port_range: if they were reserved, no program could connect";

fn served(goal: &Goal) -> RangeInclusive<u64> {
    goal.routes.ports.first().into()..=goal.routes.ports.last().into()
}

fn span(range: &RangeInclusive<u64>) -> String {
    format!("{}-{}", range.start(), range.end())
}

fn source_ports(host: &Host, goal: &Goal) -> Finding {
    if !goal.role.dials() {
        return not_here();
    }
    let (Some(ports), Some(usable)) = (host.source_ports(), host.source_ports_to(&goal.routes)) else {
        return Finding::unknown("net.ipv4.ip_local_port_range", "");
    };
    let routes = goal.routes.tuples();
    let room = tuples(&usable, goal);
    let without = if usable.count() < ports.count() { ", none that is served" } else { "" };
    let have = format!(
        "{} ({}{without}) x {} routes = {}",
        count(usable.count()),
        span(&ports.range),
        count(routes),
        count(room)
    );
    let each = goal.connections.div_ceil(routes);
    let need = format!(
        "{} for each of {} source x {} target x {} ports",
        count(each),
        goal.routes.sources.len().max(1),
        goal.routes.targets.len(),
        goal.routes.ports.count()
    );
    // The client chooses each port itself, so it can use all of them; but other processes may have some.
    let finding = Finding::counted(have, need, room, goal.connections);
    let tuned = tuned(&ports, &usable, goal);
    let all = tuples(&tuned, goal);
    let wider = tuned.range;
    let finding = finding.set((wider != ports.range).then(|| Setting {
        name: "net.ipv4.ip_local_port_range",
        now: format!("{}\t{}", ports.range.start(), ports.range.end()),
        then: format!("{}\t{}", wider.start(), wider.end()),
        reason: format!(
            "{} source ports for each route, and as many again for other programs and for what is in TIME_WAIT",
            count(each)
        ),
    }));
    let finding = finding.set(reserve(&ports, wider, goal).filter(|_| goal.role.serves()));
    if all == 0 && ports.count() > 0 {
        return finding.advise(true, SERVE_ELSEWHERE);
    }
    if all == 0 {
        return finding.advise(host.may_write_sysctl("net.ipv4.ip_local_reserved_ports"), UNRESERVE);
    }
    let wanted = with_room(goal.connections);
    if all < wanted {
        let sources = wanted.div_ceil((all / goal.routes.sources.len().max(1) as u64).max(1));
        return finding.advise(true, format!("connect from {sources} addresses (--source-ip), or to more --ports"));
    }
    finding
}

/// The source ports to the goal's routes once all settings are applied. Ports that are reserved for the server are none
/// for the client.
fn tuned(ports: &SourcePorts, usable: &SourcePorts, goal: &Goal) -> SourcePorts {
    let each = goal.connections.div_ceil(goal.routes.tuples());
    let kept = if goal.role.serves() { ports.reserving(served(goal)) } else { usable.clone() };
    let suffices = with_room(goal.connections) <= tuples(&kept, goal);
    let range = if suffices { ports.range.clone() } else { widened(&kept, 2 * each) };
    SourcePorts { range, ..kept }
}

/// Connections for which there are source ports on the goal's routes.
fn tuples(ports: &SourcePorts, goal: &Goal) -> u64 {
    goal.routes.tuples().saturating_mul(ports.count())
}

/// A range with room for `wanted` ports, as far as there are that many ports; never smaller than `ports`, and the same where
/// none that is added could be used.
fn widened(ports: &SourcePorts, wanted: u64) -> RangeInclusive<u64> {
    let (mut low, lowest) = (*ports.range.start(), FIRST_SOURCE_PORT.min(*ports.range.start()));
    let missing = |range: &RangeInclusive<u64>| {
        wanted.saturating_sub(SourcePorts { range: range.clone(), ..ports.clone() }.count())
    };
    if missing(&ports.range) == 0 {
        return ports.range.clone();
    }
    // Some of the added ports may be reserved; then more are added.
    while low > lowest && missing(&(low..=LAST_PORT)) > 0 {
        // The kernel looks for odd and even ports apart, and wants one end of the range odd and the other even.
        low = low.saturating_sub(missing(&(low..=LAST_PORT))).max(lowest) & !1;
    }
    let wider = low..=LAST_PORT;
    if missing(&wider) < missing(&ports.range) { wider } else { ports.range.clone() }
}

/// Reserves the served ports, where the range of source ports is to be this one. `None` where no connect could take them,
/// and where hardly a source port would be left.
fn reserve(ports: &SourcePorts, range: RangeInclusive<u64>, goal: &Goal) -> Option<Setting> {
    let before = SourcePorts { range, ..ports.clone() };
    let after = before.reserving(served(goal));
    let exposed = before.covers(&served(goal)) > 0;
    (exposed && after.count() >= FOR_OTHERS.min(before.count().div_ceil(2))).then(|| Setting {
        name: "net.ipv4.ip_local_reserved_ports",
        now: ports.reserved_text(),
        then: after.reserved_text(),
        reason: "no outgoing connection may sit on a served port when the server starts".to_owned(),
    })
}

fn served_ports(host: &Host, goal: &Goal) -> Finding {
    if !goal.role.serves() {
        return not_here();
    }
    let Some(ports) = host.source_ports() else {
        return Finding::unknown("net.ipv4.ip_local_port_range", "");
    };
    let reserved = if ports.reserved.is_empty() { "none".to_owned() } else { ports.reserved_text() };
    let exposed = ports.covers(&served(goal)) > 0;
    let have = format!("source ports {}, reserved {reserved}", span(&ports.range));
    let need = format!("{} outside of them, or reserved", span(&served(goal)));
    let usable = host.source_ports_to(&goal.routes).filter(|_| goal.role.dials());
    let range = usable.map_or_else(|| ports.range.clone(), |usable| tuned(&ports, &usable, goal).range);
    let finding = Finding::fine(have, need).tight_if(exposed);
    match reserve(&ports, range, goal).filter(|_| exposed) {
        None => finding.advise(true, SERVE_ELSEWHERE),
        setting => finding.set(setting),
    }
}

fn time_wait(host: &Host, goal: &Goal) -> Finding {
    if !goal.role.dials() {
        return not_here();
    }
    let (Some(sockets), Some(ports), Some(usable)) =
        (host.sockets(), host.source_ports(), host.source_ports_to(&goal.routes))
    else {
        return Finding::unknown("/proc/net/sockstat", "");
    };
    let (room, tuned_room) = (tuples(&usable, goal), tuples(&tuned(&ports, &usable, goal), goal));
    // A range that is too small for the goal is widened, and what is in TIME_WAIT takes of the wider one.
    let is_crowded = |room: u64| room >= goal.connections && room - goal.connections < sockets.time_wait;
    let crowded = is_crowded(room) || is_crowded(tuned_room);
    let most =
        host.sysctl("net.ipv4.tcp_max_tw_buckets").map_or_else(String::new, |n| format!(" of {} at most", count(n)));
    let have = format!("{} in TIME_WAIT{most}, {} in use", count(sockets.time_wait), count(sockets.in_use));
    let need = format!("{} free of {}", count(goal.connections), count(room));
    let reuse = (crowded && host.sysctl("net.ipv4.tcp_tw_reuse") != Some(1)).then(|| Setting {
        name: "net.ipv4.tcp_tw_reuse",
        now: host.sysctl_text("net.ipv4.tcp_tw_reuse").unwrap_or_default(),
        then: "1".to_owned(),
        reason: "an outgoing connection may take a port in TIME_WAIT; timestamps keep old packets out".to_owned(),
    });
    Finding::fine(have, need)
        .tight_if(crowded)
        .set(reuse)
        .advise(true, "wait 60 s, and close with RST (--close rst) next time")
}

/// Connects that found no source port, and whether sockets in TIME_WAIT had taken the ports. They had if, while the run
/// dialed, there were as many of them as connects that failed, and they filled the range together with the sockets in
/// use. If ports were free, the source address is not one of this host. If the run may use none, none was taken from it.
///
/// `None` where an address of this host cannot be reached: the kernel refuses that with the same number.
fn without_port(evidence: &Evidence) -> Option<(u64, bool)> {
    let failed = evidence.failures(Cause::Errno(Errno::EADDRNOTAVAIL))?;
    if evidence.loopback.is_some_and(|(_, loopback)| loopback != Loopback::Reaches) {
        return None;
    }
    let (sockets, waiting) = (evidence.peak.sockets.unwrap_or_default(), evidence.waiting.all);
    let full = evidence.peak.source_ports.is_some_and(|ports| sockets.in_use.saturating_add(waiting) >= ports);
    Some((failed, full && waiting >= failed && evidence.usable_ports != Some(0)))
}

fn no_source_port(evidence: &Evidence) -> Option<Diagnostic> {
    let (failed, waiting_took_them) = without_port(evidence)?;
    let saw = format!("{} connects met EADDRNOTAVAIL", count(failed));
    if evidence.peak.source_ports == Some(0) {
        let (means, cure) = ("net.ipv4.ip_local_reserved_ports has every source port of this host", UNRESERVE);
        return Some(Diagnostic { saw, means: means.to_owned(), cure: cure.to_owned() });
    }
    if evidence.usable_ports == Some(0) {
        return Some(Diagnostic {
            saw,
            means: "every source port of this host is one of the target's ports, and the target is this host: a connection would meet another one, or itself".to_owned(),
            cure: "connect to ports outside of net.ipv4.ip_local_port_range, or widen it".to_owned(),
        });
    }
    (!waiting_took_them).then(|| Diagnostic {
        saw,
        means: "every source port for that target and port is in use or served on this host, or a --source-ip is not on this host".to_owned(),
        cure: "give more --source-ip, more ports or targets, or widen net.ipv4.ip_local_port_range".to_owned(),
    })
}

fn ports_in_time_wait(evidence: &Evidence) -> Option<Diagnostic> {
    let (failed, waiting_took_them) = without_port(evidence)?;
    let waiting = evidence.waiting;
    let (whose, cure) = if waiting.earlier >= waiting.all - waiting.earlier {
        ("an earlier run", "wait a minute, close with RST (--close rst), or sysctl -w net.ipv4.tcp_tw_reuse=1")
    } else {
        ("this run itself", "close with RST (leave out --fin, or --close rst), or sysctl -w net.ipv4.tcp_tw_reuse=1")
    };
    waiting_took_them.then(|| Diagnostic {
        saw: format!(
            "{} connects met EADDRNOTAVAIL, and {} sockets are in TIME_WAIT, {} of them from before the run",
            count(failed),
            count(waiting.all),
            count(waiting.earlier)
        ),
        means: format!("{whose} closed with FIN, and its source ports are taken for 60 s"),
        cure: cure.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// A wider range contains the old one, has room if there is any, and keeps within bounds.
        #[test]
        fn a_range_only_grows(low in 1_024u64..60_000, size in 1u64..5_000, reserved in 1u64..60_000, many in 0u64..5_000, wanted in 1u64..70_000) {
            let none = SourcePorts { range: low..=(low + size).min(LAST_PORT), reserved: vec![] };
            let ports = none.reserving(reserved..=reserved + many);
            let wider = widened(&ports, wanted);
            prop_assert!(wider.start() <= ports.range.start() && wider.end() >= ports.range.end());
            prop_assert!(*wider.end() <= LAST_PORT && *wider.start() >= FIRST_SOURCE_PORT);
            let count = |range: RangeInclusive<u64>| SourcePorts { range, ..ports.clone() }.count();
            prop_assert!(wider == ports.range || count(wider.clone()) > ports.count());
            prop_assert!(count(wider.clone()) >= wanted || count(wider.clone()) == count(FIRST_SOURCE_PORT..=LAST_PORT));
            let wide = SourcePorts { range: wider.clone(), ..ports };
            prop_assert_eq!(widened(&wide, wanted), wider, "once is enough");
        }
    }
}
