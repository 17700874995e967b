//! What /proc tells of the network stack: counters, which only rise, gauges of this moment, source ports and connection
//! tracking.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::ops::RangeInclusive;
use std::path::Path;

use super::{Host, Reading};
use crate::addresses::Address;
use crate::error::Errno;
use crate::plan::Routes;
use crate::sys;

/// Counters of the network stack that tell why connects are slow or fail.
pub type NetCounters = BTreeMap<String, u64>;

/// The TcpExt counters (/proc/net/netstat) whose movement a report shows.
const TCP_COUNTERS: [&str; 11] = [
    "ListenOverflows",
    "ListenDrops",
    "TCPSynRetrans",
    "TCPReqQFullDoCookies",
    "TCPReqQFullDrop",
    "TCPTimeWaitOverflow",
    "TCPAbortOnMemory",
    "TCPAbortFailed",
    "TCPMemoryPressures",
    "TCPBacklogDrop",
    "SyncookiesSent",
];

/// The highest port.
pub const LAST_PORT: u64 = 65_535;

/// Addresses of loopback to connect from at most: with 28,000 ports each, one served port suffices for 28 million
/// connections.
const MOST_SOURCES: u64 = 1_000;

/// The columns of /proc/net/stat/nf_conntrack that count packets dropped because the table was full.
const CONNTRACK_COUNTERS: [&str; 3] = ["drop", "early_drop", "insert_failed"];

/// TCP's sockets, as /proc/net/sockstat and sockstat6 count them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sockets {
    /// Sockets of this network namespace, but for those in TIME_WAIT.
    pub in_use: u64,
    /// Sockets that their process closed and that are not finished, on the whole host.
    pub orphans: u64,
    /// Sockets in TIME_WAIT, in this network namespace.
    pub time_wait: u64,
    /// Pages that queued data takes, on the whole host.
    pub pages: u64,
}

/// Connection tracking as this network namespace sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Conntrack {
    /// The module is not loaded.
    Absent,
    /// The module is loaded, and tracks nothing of this network namespace.
    Idle,
    /// The module tracks connections: its table.
    Active(Tracked),
    /// It cannot be read.
    Unreadable,
}

/// The table of an active connection tracking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tracked {
    /// Entries now.
    pub count: u64,
    /// Entries that there can be; beyond it packets of new connections are dropped. `u64::MAX` is no limit.
    pub max: u64,
    /// Buckets of the table; each entry is in two of them, one for each direction.
    pub buckets: u64,
    /// Seconds after which an idle established connection loses its entry.
    pub established: u64,
}

/// A network card, and how its received packets are spread over cores.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkCard {
    /// Its name, such as `eth0`.
    pub name: String,
    /// Its receive queues.
    pub receive_queues: usize,
    /// Whether the kernel spreads the packets of every queue over cores (RPS).
    pub spread: bool,
}

/// Source ports of this network namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourcePorts {
    /// `net.ipv4.ip_local_port_range`.
    pub range: RangeInclusive<u64>,
    /// `net.ipv4.ip_local_reserved_ports`, in order and without overlaps.
    pub reserved: Vec<RangeInclusive<u64>>,
}

impl SourcePorts {
    /// The kernel's default: 32768 to 60999, nothing reserved.
    pub const DEFAULT: SourcePorts = SourcePorts { range: 32_768..=60_999, reserved: Vec::new() };

    /// How many ports connect(2) may choose.
    pub fn count(&self) -> u64 {
        let taken: u64 = self.reserved.iter().map(|reserved| overlap(reserved, &self.range)).sum();
        length(&self.range).saturating_sub(taken)
    }

    /// The ports that connect(2) may choose, in order.
    pub fn ports(&self) -> impl Iterator<Item = u16> + '_ {
        let is_reserved = |port: &u64| self.reserved.iter().any(|reserved| reserved.contains(port));
        self.range.clone().filter(move |port| !is_reserved(port)).filter_map(|port| u16::try_from(port).ok())
    }

    /// How many of these ports connect(2) may choose.
    pub fn covers(&self, ports: &RangeInclusive<u64>) -> u64 {
        let reserved: u64 = self
            .reserved
            .iter()
            .filter_map(|reserved| intersection(reserved, ports))
            .map(|part| overlap(&part, &self.range))
            .sum();
        overlap(ports, &self.range) - reserved
    }

    /// These source ports with more ports reserved.
    pub fn reserving(&self, ports: RangeInclusive<u64>) -> SourcePorts {
        let mut all = self.reserved.clone();
        all.push(ports);
        SourcePorts { range: self.range.clone(), reserved: joined(all) }
    }

    /// The reserved ports of a text as the kernel writes or takes it, in order and without overlaps. What is no port is passed over.
    pub fn reserved_in(text: &str) -> Vec<RangeInclusive<u64>> {
        joined(text.split(',').filter_map(parse_range).collect())
    }

    /// The reserved ports as the kernel writes them: `80,8888-8987`.
    pub fn reserved_text(&self) -> String {
        let text = |ports: &RangeInclusive<u64>| match (ports.start(), ports.end()) {
            (only, last) if only == last => only.to_string(),
            (first, last) => format!("{first}-{last}"),
        };
        self.reserved.iter().map(text).collect::<Vec<_>>().join(",")
    }
}

/// Whether the loopback device carries packets to one of this host's own addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loopback {
    /// It does.
    Reaches,
    /// The device is down.
    Down,
    /// The device is up and has no route there: its address was removed, or IPv6 is disabled.
    NoWay,
}

impl Host {
    /// The network namespace of this process, such as `net:[4026531840]`; `None` when it cannot be
    /// read.
    pub fn network_namespace(&self) -> Option<String> {
        // /proc/self/ns would be that of the process's first thread.
        let link = std::fs::read_link(self.root.join("proc/thread-self/ns/net")).ok()?;
        Some(link.to_string_lossy().into_owned())
    }

    /// The largest backlog of listen(2) in this network namespace (`net.core.somaxconn`): the kernel silently lowers a
    /// larger one to it. 4096, the kernel's default since 5.4, when it cannot be read.
    pub fn somaxconn(&self) -> i32 {
        let value = self.sysctl("net.core.somaxconn").unwrap_or(4096);
        i32::try_from(value).unwrap_or(i32::MAX)
    }

    /// Buckets of the table of established connections (`net.ipv4.tcp_ehash_entries`), the host's if this network
    /// namespace has none of its own; `None` when it cannot be read.
    pub fn established_buckets(&self) -> Option<u64> {
        // Negative where a network namespace shares the host's table (proc_tcp_ehash_entries).
        self.sysctl_text("net.ipv4.tcp_ehash_entries")?.trim_start_matches('-').parse().ok()
    }

    /// Source ports that connect(2) may choose per (source, target, port): the size of
    /// `net.ipv4.ip_local_port_range` less what `ip_local_reserved_ports` takes out of it. The
    /// kernel's default range when it cannot be read.
    pub fn ephemeral_ports(&self) -> u64 {
        self.source_ports().unwrap_or(SourcePorts::DEFAULT).count()
    }

    /// The source ports; `None` when their range cannot be read or is not a range.
    pub fn source_ports(&self) -> Option<SourcePorts> {
        let range = match self.sysctl_numbers("net.ipv4.ip_local_port_range")?.as_slice() {
            [low, high] if low <= high && *high <= LAST_PORT => *low..=*high,
            _ => return None,
        };
        let reserved = self.sysctl_text("net.ipv4.ip_local_reserved_ports").unwrap_or_default();
        Some(SourcePorts { range, reserved: SourcePorts::reserved_in(&reserved) })
    }

    /// The source ports for these routes; `None` when the range cannot be read or is not a range.
    ///
    /// If a target is an address of this host, the served ports are left out. Two sockets that dial each other's ports
    /// are connected to each other, and a socket that dials its own port is connected to itself, although nothing
    /// listens. A port on which a server listens is not lent by the kernel anyway.
    pub fn source_ports_to(&self, routes: &Routes) -> Option<SourcePorts> {
        let ports = self.source_ports()?;
        let is_local = routes.targets.iter().any(|target| target.is_here());
        Some(if is_local { ports.reserving(routes.ports.first().into()..=routes.ports.last().into()) } else { ports })
    }

    /// Addresses to connect from over loopback, so that so many connections find source ports on these routes: none where
    /// those of the address that the kernel chooses suffice, otherwise as many of 127.0.0.0/8 as they need, up to
    /// `MOST_SOURCES`. All of them are this host's.
    pub fn loopback_sources(&self, routes: &Routes, connections: u64) -> Vec<Address> {
        let ports = self.source_ports_to(routes).map_or(0, |ports| ports.count());
        let of_one = ports.saturating_mul(routes.tuples());
        if of_one == 0 || connections <= of_one {
            return Vec::new();
        }
        let wanted = connections.div_ceil(of_one).min(MOST_SOURCES) as u32;
        (0..wanted).map(|nth| Ipv4Addr::from(u32::from(Ipv4Addr::LOCALHOST) + nth).into()).collect()
    }

    /// The counters that a report shows: TcpExt by name; `softnet_dropped` and `conntrack_*` summed over
    /// cores; `cgroup_memory_hits`, how often this process's cgroups met their memory limits; `cgroup_cpu_pauses` and
    /// `cgroup_cpu_paused_ms`, how often and how long they were paused for their processor quota.
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
            counters.insert("softnet_dropped".to_owned(), dropped.fold(0, u64::saturating_add));
        }
        counters.extend(self.conntrack_counters());
        if !self.cgroup_folders("memory").is_empty() {
            counters.insert("cgroup_memory_hits".to_owned(), self.memory_cgroup_hits());
        }
        if let Some((pauses, milliseconds)) = self.cpu_pauses() {
            counters.insert("cgroup_cpu_pauses".to_owned(), pauses);
            counters.insert("cgroup_cpu_paused_ms".to_owned(), milliseconds);
        }
        counters
    }

    fn conntrack_counters(&self) -> NetCounters {
        let text = self.read("proc/net/stat/nf_conntrack").unwrap_or_default();
        let mut lines = text.lines();
        let names: Vec<&str> = lines.next().unwrap_or_default().split_whitespace().collect();
        let mut counters = NetCounters::new();
        for line in lines {
            for (name, value) in names.iter().zip(line.split_whitespace()) {
                let value = u64::from_str_radix(value, 16).unwrap_or(0);
                if CONNTRACK_COUNTERS.contains(name) {
                    let sum = counters.entry(format!("conntrack_{name}")).or_default();
                    *sum = sum.saturating_add(value);
                }
            }
        }
        counters
    }

    /// TCP's sockets. The line of IPv4 has all but the IPv6 sockets in use, which are in a file of their own.
    pub fn sockets(&self) -> Option<Sockets> {
        let text = self.read("proc/net/sockstat")?;
        let of = |name| sockstat(&text, "TCP:", name);
        // A kernel without IPv6 has no such file.
        let of_ipv6 = self.read("proc/net/sockstat6").and_then(|text| sockstat(&text, "TCP6:", "inuse")).unwrap_or(0);
        Some(Sockets {
            in_use: of("inuse")?.saturating_add(of_ipv6),
            orphans: of("orphan")?,
            time_wait: of("tw")?,
            pages: of("mem")?,
        })
    }

    /// Entries of the table of connection tracking, and how many it can have; `None` when they cannot be read. A maximum
    /// of 0 means no limit to the kernel (`__nf_conntrack_alloc`), and is `u64::MAX` here.
    pub fn conntrack_fill(&self) -> Option<(u64, u64)> {
        let field = |name: &str| self.sysctl(&format!("net.netfilter.nf_conntrack_{name}"));
        Some((field("count")?, Some(field("max")?).filter(|max| *max > 0).unwrap_or(u64::MAX)))
    }

    /// Whether connections are tracked here. A module that is loaded tracks nothing until a rule asks for it. Where the
    /// table is empty, one datagram from this process to itself shows whether it is tracked.
    pub fn conntrack(&self) -> Conntrack {
        match self.reading("proc/sys/net/netfilter/nf_conntrack_count") {
            Reading::Absent if self.sysctl_text("net.ipv4.ip_local_port_range").is_some() => return Conntrack::Absent,
            Reading::Absent | Reading::Refused(_) => return Conntrack::Unreadable,
            Reading::Text(_) => {}
        }
        let Some((count, max)) = self.conntrack_fill() else { return Conntrack::Unreadable };
        if count == 0 {
            match self.tracks_a_datagram() {
                Some(true) => {}
                Some(false) => return Conntrack::Idle,
                None => return Conntrack::Unreadable,
            }
        }
        let field = |name: &str| self.sysctl(&format!("net.netfilter.nf_conntrack_{name}"));
        let (Some(buckets), Some(established)) = (field("buckets"), field("tcp_timeout_established")) else {
            return Conntrack::Unreadable;
        };
        Conntrack::Active(Tracked { count, max, buckets, established })
    }

    /// The network cards of this network namespace, in the order of their names. Loopback, bridges and veth are none.
    /// `None` when /sys/class/net cannot be read.
    pub fn network_cards(&self) -> Option<Vec<NetworkCard>> {
        let entries = std::fs::read_dir(self.root.join("sys/class/net")).ok()?;
        let mut cards: Vec<NetworkCard> = entries
            .flatten()
            .filter(|entry| entry.path().join("device").exists())
            .filter_map(|entry| {
                let queues = std::fs::read_dir(entry.path().join("queues")).ok()?.flatten();
                let receiving: Vec<_> =
                    queues.filter(|queue| queue.file_name().to_string_lossy().starts_with("rx-")).collect();
                let masked = |queue: &std::fs::DirEntry| {
                    let mask = std::fs::read_to_string(queue.path().join("rps_cpus")).unwrap_or_default();
                    mask.trim().chars().any(|digit| !matches!(digit, '0' | ','))
                };
                let spread = !receiving.is_empty() && receiving.iter().all(masked);
                let name = entry.file_name().to_string_lossy().into_owned();
                Some(NetworkCard { name, receive_queues: receiving.len(), spread })
            })
            .collect();
        cards.sort_by(|a, b| a.name.cmp(&b.name));
        Some(cards)
    }

    /// Whether connections to an address go over loopback. They do for a loopback address, and for an address of this
    /// host itself, to which a socket can be bound.
    pub fn goes_over_loopback(&self, to: Address) -> bool {
        to.ip().is_loopback() || self.root == Path::new("/") && to.is_here()
    }

    /// Whether loopback carries packets to an address for which `goes_over_loopback` holds: the device is up, and the
    /// kernel has a route, which it is asked for by connecting a datagram socket that sends nothing. `None` for a host
    /// below another root, and where there is no socket to ask with.
    pub fn loopback_to(&self, to: Address) -> Option<Loopback> {
        if self.root != Path::new("/") {
            return None;
        }
        let any = match to.ip() {
            IpAddr::V4(_) => IpAddr::from(Ipv4Addr::UNSPECIFIED),
            IpAddr::V6(_) => IpAddr::from(Ipv6Addr::UNSPECIFIED),
        };
        let way = UdpSocket::bind((any, 0)).and_then(|socket| socket.connect(to.at(LAST_PORT as u16)));
        match way.map_err(|error| Errno::of(&error)) {
            Ok(()) => Some(if sys::loopback_is_up()? { Loopback::Reaches } else { Loopback::Down }),
            Err(Errno::ENETUNREACH | Errno::EADDRNOTAVAIL | Errno::EAFNOSUPPORT) => {
                Some(if sys::loopback_is_up() == Some(true) { Loopback::NoWay } else { Loopback::Down })
            }
            Err(_) => None,
        }
    }

    /// Whether a datagram from this process to itself is tracked; `None` when none can be sent, as in a network
    /// namespace whose loopback is down.
    fn tracks_a_datagram(&self) -> Option<bool> {
        let to_ourselves = || -> std::io::Result<()> {
            let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
            socket.send_to(&[0], socket.local_addr()?).map(drop)
        };
        to_ourselves().ok()?;
        Some(self.conntrack_fill()?.0 > 0)
    }
}

/// How far counters moved between two readings. Only counters of both readings count: one that could not be read at
/// first would seem to have moved since the host's start.
pub fn moved(before: &NetCounters, after: &NetCounters) -> NetCounters {
    let delta = |(name, now): (&String, &u64)| Some((name.clone(), now.saturating_sub(*before.get(name)?)));
    after.iter().filter_map(delta).collect()
}

/// A number of a line of /proc/net/sockstat, which has a name before each.
fn sockstat(text: &str, line: &str, name: &str) -> Option<u64> {
    let mut words = text.lines().find_map(|found| found.strip_prefix(line))?.split_whitespace();
    words.find(|word| *word == name)?;
    words.next()?.parse().ok()
}

fn parse_range(text: &str) -> Option<RangeInclusive<u64>> {
    let (low, high) = text.split_once('-').unwrap_or((text, text));
    let range = low.trim().parse().ok()?..=high.trim().parse().ok()?;
    (*range.end() <= LAST_PORT).then_some(range)
}

fn length(range: &RangeInclusive<u64>) -> u64 {
    (range.end() + 1).saturating_sub(*range.start())
}

fn intersection(a: &RangeInclusive<u64>, b: &RangeInclusive<u64>) -> Option<RangeInclusive<u64>> {
    let common = *a.start().max(b.start())..=*a.end().min(b.end());
    (!common.is_empty()).then_some(common)
}

fn overlap(a: &RangeInclusive<u64>, b: &RangeInclusive<u64>) -> u64 {
    intersection(a, b).map_or(0, |common| length(&common))
}

/// Ranges in order. Ranges that touch become one.
fn joined(mut ranges: Vec<RangeInclusive<u64>>) -> Vec<RangeInclusive<u64>> {
    ranges.retain(|range| !range.is_empty());
    ranges.sort_by_key(|range| *range.start());
    let mut out: Vec<RangeInclusive<u64>> = Vec::new();
    for range in ranges {
        match out.last_mut() {
            Some(last) if *range.start() <= last.end().saturating_add(1) => {
                *last = *last.start()..=*last.end().max(range.end());
            }
            _ => out.push(range),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::tests::host;
    use super::*;
    use crate::plan::Ports;
    use proptest::prelude::*;

    #[test]
    fn reserved_ports_are_taken_off_the_range() {
        let (_dir, host) = host(&[
            ("proc/sys/net/ipv4/ip_local_port_range", "1024\t65535\n"),
            ("proc/sys/net/ipv4/ip_local_reserved_ports", "80,8888-8987,65535\n"),
        ]);
        assert_eq!(host.ephemeral_ports(), 64_512 - 100 - 1);
        let ports = host.source_ports().unwrap();
        assert_eq!(ports.covers(&(8_900..=8_999)), 12);
        assert_eq!(ports.reserving(8_980..=9_000).reserved_text(), "80,8888-9000,65535");
    }

    /// RPS on one queue of two leaves the packets of the other one to a single core.
    #[test]
    fn a_card_spreads_its_packets_where_each_queue_does() {
        for (masks, spread) in [(["00", "00"], false), (["ff", "00"], false), (["ff", "0f"], true)] {
            let (_dir, host) = host(&[
                ("sys/class/net/eth0/device/vendor", ""),
                ("sys/class/net/eth0/queues/rx-0/rps_cpus", masks[0]),
                ("sys/class/net/eth0/queues/rx-1/rps_cpus", masks[1]),
                ("sys/class/net/eth0/queues/tx-0/xps_cpus", "ff"),
            ]);
            let cards = host.network_cards().unwrap();
            assert_eq!(cards.iter().map(|card| (card.receive_queues, card.spread)).collect::<Vec<_>>(), [(2, spread)]);
        }
    }

    /// Over loopback, addresses are there for the taking, and one is taken more only where ports do not suffice.
    #[test]
    fn loopback_has_an_address_for_each_range_of_ports() {
        let (_dir, host) = host(&[("proc/sys/net/ipv4/ip_local_port_range", "32768\t60999\n")]);
        let routes = Routes::new(&[Ipv4Addr::LOCALHOST.into()], Ports::ARTICLE, &[]).unwrap();
        let sources = |connections| host.loopback_sources(&routes, connections);
        let of_one = 28_232 * 100;
        assert_eq!((sources(of_one).len(), sources(of_one + 1).len()), (0, 2));
        assert_eq!(
            (sources(10_000_000).len(), sources(100_000_000).len(), sources(u32::MAX.into()).len()),
            (4, 36, 1_000)
        );
        let many = Routes { sources: sources(100_000_000), ..routes };
        many.check().unwrap();
        many.fit(100_000_000, 28_232).unwrap();
        assert_eq!([0, 1].map(|at| many.sources[at].to_string()), ["127.0.0.1", "127.0.0.2"]);
    }

    #[test]
    fn counters_are_read_by_name() {
        let (_dir, host) = host(&[
            (
                "proc/net/netstat",
                "TcpExt: SyncookiesSent ListenOverflows Other\nTcpExt: 1 22 333\nIpExt: A\nIpExt: 4\n",
            ),
            ("proc/net/softnet_stat", "0000 0000000a 0\n0000 00000001 0\n"),
            ("proc/net/stat/nf_conntrack", "entries  drop early_drop\n00000001 0000000a 0\n00000001 00000001 2\n"),
        ]);
        let before = host.net_counters();
        assert_eq!(before["ListenOverflows"], 22);
        assert_eq!(before["softnet_dropped"], 11);
        assert_eq!((before["conntrack_drop"], before["conntrack_early_drop"]), (11, 2));
        let mut after = before.clone();
        after.insert("ListenOverflows".into(), 25);
        assert_eq!(moved(&before, &after)["ListenOverflows"], 3);
        // In a new network namespace counters begin at 0.
        after.insert("ListenOverflows".into(), 20);
        assert_eq!(moved(&before, &after)["ListenOverflows"], 0);
        assert!(moved(&NetCounters::new(), &after).is_empty());
    }

    /// A connection takes neither its own target port nor another served port. At another host they are free to take.
    #[test]
    fn served_ports_of_this_host_are_no_source_ports() {
        let (_dir, host) = host(&[
            ("proc/sys/net/ipv4/ip_local_port_range", "40000\t40003\n"),
            ("proc/sys/net/ipv4/ip_local_reserved_ports", "\n"),
        ]);
        let usable = |target: &str| {
            let served = crate::plan::Ports::new(40_001, 2).unwrap();
            let routes = Routes::new(&[target.parse().unwrap()], served, &[]).unwrap();
            host.source_ports_to(&routes).unwrap().ports().collect::<Vec<_>>()
        };
        assert_eq!(usable("127.0.0.1"), [40_000, 40_003]);
        assert_eq!(usable("::"), [40_000, 40_003]);
        // For documentation (RFC 5737): no host has it.
        assert_eq!(usable("192.0.2.1"), [40_000, 40_001, 40_002, 40_003]);
    }

    #[test]
    fn sockets_are_read_by_name() {
        let ipv4 = ("proc/net/sockstat", "sockets: used 9\nTCP: inuse 5 orphan 1 tw 7 alloc 6 mem 3\nUDP: inuse 0\n");
        let ipv6 = ("proc/net/sockstat6", "TCP6: inuse 40\nUDP6: inuse 2\n");
        let in_use = |files: &[(&str, &str)]| {
            let (_dir, host) = host(files);
            let sockets = host.sockets().unwrap();
            assert_eq!((sockets.orphans, sockets.time_wait, sockets.pages), (1, 7, 3));
            sockets.in_use
        };
        assert_eq!((in_use(&[ipv4]), in_use(&[ipv4, ipv6])), (5, 45));
    }

    proptest! {
        /// The arithmetic on ranges agrees with sets of ports.
        #[test]
        fn ranges_are_sets(low in 0u64..40, size in 0u64..40, reserved in prop::collection::vec((0u64..80, 0u64..10), 0..6), first in 0u64..80, more in 0u64..20) {
            let ports = SourcePorts { range: low..=low + size, reserved: joined(reserved.iter().map(|(a, n)| *a..=a + n).collect()) };
            let is_reserved = |port: u64| reserved.iter().any(|(a, n)| (*a..=a + n).contains(&port));
            let free = |port: &u64| (low..=low + size).contains(port) && !is_reserved(*port);
            prop_assert_eq!(ports.count(), (0..200).filter(free).count() as u64);
            prop_assert_eq!(ports.covers(&(first..=first + more)), (first..=first + more).filter(free).count() as u64);
            prop_assert_eq!(ports.reserving(first..=first + more).covers(&(first..=first + more)), 0);
            let text = ports.reserved_text();
            prop_assert_eq!(SourcePorts::reserved_in(&text), ports.reserved);
        }
    }
}
