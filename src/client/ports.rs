//! Source ports: which one each connection takes. The client chooses them itself, because connect(2) searches:
//! it tries the ports of one parity before the others, so that from half of a route's ports on every connect
//! walks through thousands of ports that are taken (`__inet_hash_connect` in net/ipv4/inet_hashtables.c).
//!
//! A *route* is a source address, a target address and a target port. Connection number `n` of those asked for
//! has the route `n % routes`, and takes the port at position `n / routes` of a list that all routes share: no
//! two connections have the same, whichever shards they belong to, and nothing needs to be remembered. The
//! other positions of a route are its *spares*: for connections whose own port another socket of this host has, and
//! for those that a storm dials. Ports that connections gave back come after them, the longest unused first.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::addresses::Address;
use crate::host::SourcePorts;
use crate::plan::Routes;
use crate::sys;

/// A port that another socket had is tried again after this time. By then the kernel lends out ports in TIME_WAIT,
/// if it does that at all (`tcp_twsk_unique`).
const REST: Duration = Duration::from_secs(1);

/// A port that was given back is free when the kernel has closed its socket, which takes less than this.
const CLOSING: Duration = Duration::from_millis(10);

/// Locks over which the routes are spread.
const LOCKS: usize = 64;

/// How a socket is made to take a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Its own range of source ports is that port alone. Other sockets of this host may still get the port for
    /// other targets.
    Range,
    /// It is bound to the port. While it is, connect(2) gives the port to no other socket of this host.
    Bind,
}

impl Way {
    /// The way of this kernel, found by trying (`IP_LOCAL_PORT_RANGE` came with 6.3).
    pub fn here() -> Way {
        let knows = UdpSocket::bind("127.0.0.1:0").and_then(|socket| sys::set_source_ports(&socket, 1024));
        if knows.is_ok() { Way::Range } else { Way::Bind }
    }
}

/// The source ports of a client, for all its shards.
#[derive(Debug)]
pub struct Ports {
    /// The ports that connections may take, in order.
    list: Vec<u16>,
    routes: u64,
    /// Connections that have a position of their own.
    connections: u64,
    /// How sockets take them.
    pub way: Way,
    /// What routes have beside the positions of their connections. No shard asks for it while every connection
    /// gets its own port.
    spares: Vec<Mutex<HashMap<u64, Spares>>>,
}

/// Which source port a route has for a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// This port.
    Port(u16),
    /// None now, but one in a moment: its socket is being closed.
    Soon,
    /// None.
    Exhausted,
}

/// The spares of a route.
#[derive(Debug)]
struct Spares {
    /// The first position that no connection had yet.
    next: usize,
    /// Ports and when they were given back, the longest unused first.
    free: VecDeque<(u16, Instant)>,
    /// Another socket had these ports at that time.
    resting: VecDeque<(u16, Instant)>,
}

impl Ports {
    /// The ports of `host` for that many connections. Ports of the list come from anywhere in the range on, so
    /// that clients beside or after each other rarely meet.
    pub fn new(host: &SourcePorts, routes: &Routes, connections: u64, way: Way) -> Ports {
        let anywhere = RandomState::new().hash_one(connections);
        Ports::starting_at(anywhere, host, routes, connections, way)
    }

    fn starting_at(start: u64, host: &SourcePorts, routes: &Routes, connections: u64, way: Way) -> Ports {
        let mut list: Vec<u16> = host.ports().collect();
        if !list.is_empty() {
            let start = start % list.len() as u64;
            list.rotate_left(start as usize);
        }
        if routes.targets.iter().any(is_here) {
            // Two sockets that dial each other's ports are connected to each other, and a socket that dials its own
            // port is connected to itself, although nothing listens. A port on which a server listens is not lent
            // by the kernel anyway.
            list.retain(|port| !(routes.ports.first()..=routes.ports.last()).contains(port));
        }
        let spares = (0..LOCKS).map(|_| Mutex::default()).collect();
        Ports { list, routes: routes.tuples(), connections, way, spares }
    }

    /// The port that a connection tries first.
    pub fn first(&self, number: u64, now: Instant) -> Choice {
        match self.own(number) {
            Some(own) => Choice::Port(own),
            None => self.another(number, now),
        }
    }

    /// The port at the position of a connection's own.
    fn own(&self, number: u64) -> Option<u16> {
        (number < self.connections).then(|| self.list.get((number / self.routes) as usize)).flatten().copied()
    }

    /// A connection was not dialed after all from the port that it was to try first.
    pub fn not_tried(&self, number: u64, port: u16, now: Instant) {
        if self.own(number) != Some(port) {
            self.give_back(number, port, now);
        }
    }

    /// Another port for a connection: one that no connection had yet, else the longest unused, else one that rested.
    pub fn another(&self, number: u64, now: Instant) -> Choice {
        self.of_route(number, |spares| {
            if let Some(port) = self.list.get(spares.next) {
                spares.next += 1;
                return Choice::Port(*port);
            }
            let after = |queue: &mut VecDeque<(u16, Instant)>, time| {
                let over = queue.front().is_some_and(|(_, since)| now.duration_since(*since) >= time);
                over.then(|| queue.pop_front()).flatten().map(|(port, _)| Choice::Port(port))
            };
            let found = after(&mut spares.free, CLOSING).or_else(|| after(&mut spares.resting, REST));
            found.unwrap_or(if spares.free.is_empty() { Choice::Exhausted } else { Choice::Soon })
        })
    }

    /// A connection is over, and its port may serve another.
    pub fn give_back(&self, number: u64, port: u16, now: Instant) {
        self.of_route(number, |spares| spares.free.push_back((port, now)));
    }

    /// Another socket of this host has the port of a connection.
    pub fn rest(&self, number: u64, port: u16, now: Instant) {
        self.of_route(number, |spares| spares.resting.push_back((port, now)));
    }

    fn of_route<T>(&self, number: u64, then: impl FnOnce(&mut Spares) -> T) -> T {
        let route = number % self.routes;
        let lock = &self.spares[(route % LOCKS as u64) as usize];
        // A shard that panicked ends the process.
        let mut routes = lock.lock().unwrap_or_else(PoisonError::into_inner);
        let planned = self.connections / self.routes + u64::from(route < self.connections % self.routes);
        let next = usize::try_from(planned).unwrap_or(usize::MAX);
        then(routes.entry(route).or_insert_with(|| Spares { next, free: VecDeque::new(), resting: VecDeque::new() }))
    }
}

/// Whether an address is one of this host.
fn is_here(address: &Address) -> bool {
    UdpSocket::bind(address.at(0)).is_ok()
}

/// Whether a connect fails for want of an address to connect from, and not of a port.
pub fn lacks_address(source: Option<Address>, to: SocketAddr) -> bool {
    let tried = UdpSocket::bind(source.unwrap_or_else(|| Address::any(to)).at(0)).and_then(|socket| socket.connect(to));
    tried.is_err_and(|error| error.kind() == io::ErrorKind::AddrNotAvailable)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Ports as Served;
    use proptest::prelude::*;
    use std::collections::HashSet;
    use std::net::IpAddr;

    fn routes(targets: &[IpAddr], first: u16, count: u16, sources: u8) -> Routes {
        let sources = (0..sources).map(|n| IpAddr::from([127, 9, 0, n + 1]).into()).collect();
        Routes {
            targets: targets.iter().copied().map(Address::from).collect(),
            ports: Served::new(first, count).unwrap(),
            sources,
        }
    }

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
    /// For documentation (RFC 5737): no host has it.
    const ELSEWHERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

    fn host(first: u64, count: u64, reserved: std::ops::RangeInclusive<u64>) -> SourcePorts {
        SourcePorts { range: first..=first + count - 1, reserved: Vec::new() }.reserving(reserved)
    }

    proptest! {
        /// Against a set of the 4-tuples in use, shared by all shards, with some that others have: no connection
        /// gets one that is in use or reserved, none is to itself, and one fails only when its route has no port
        /// that is free and was not met a moment ago.
        #[test]
        fn every_port_of_every_route_is_found_and_none_twice(
            count in 1u64..30, reserved in 0u64..30, targets in 1u16..5, sources in 0u8..3, start: u64, overlap: bool,
            others in prop::collection::hash_set((0u64..15, 0u64..30), 0..40),
            steps in prop::collection::vec((any::<bool>(), any::<usize>()), 0..300),
        ) {
            let routes = routes(&[HERE], if overlap { 40_000 } else { 9_000 }, targets, sources);
            let host = host(40_000, count, 40_000 + reserved..=40_000 + reserved + 3);
            let served = routes.ports.first()..=routes.ports.last();
            let usable = host.count();
            let connections = routes.tuples() * usable;
            let ports = Ports::starting_at(start, &host, &routes, connections, Way::Range);
            let others: HashSet<_> = others.into_iter().map(|(route, port)| (route % routes.tuples(), 40_000 + port as u16)).collect();
            let (mut used, mut standing, mut redialed) = (HashSet::new(), Vec::new(), connections);
            let now = Instant::now();
            let later = now + CLOSING;
            let open = |number: u64, used: &mut HashSet<(u64, u16)>| {
                let route = number % routes.tuples();
                let mut port = ports.first(number, later);
                while let Choice::Port(taken) = port {
                    assert!(host.ports().any(|port| port == taken), "{taken} is none of the host's");
                    assert!(!served.contains(&taken), "{taken} is served");
                    if !others.contains(&(route, taken)) {
                        assert!(used.insert((route, taken)), "{taken} twice");
                        return Some((number, taken));
                    }
                    ports.rest(number, taken, later);
                    port = ports.another(number, later);
                }
                assert_eq!(port, Choice::Exhausted);
                None
            };
            for number in 0..connections {
                standing.extend(open(number, &mut used));
            }
            // Every port of every route but those of others and those that are served.
            let free = |route: u64| {
                host.ports().filter(|port| !served.contains(port) && !others.contains(&(route, *port))).count()
            };
            prop_assert_eq!(standing.len(), (0..routes.tuples()).map(free).sum::<usize>());
            for (close, pick) in steps {
                if close && !standing.is_empty() {
                    let (number, port) = standing.swap_remove(pick % standing.len());
                    used.remove(&(number % routes.tuples(), port));
                    ports.give_back(number, port, now);
                } else {
                    redialed += pick as u64 % routes.tuples() + 1;
                    let route = redialed % routes.tuples();
                    let full = used.iter().filter(|(other, _)| *other == route).count() == free(route);
                    let opened = open(redialed, &mut used);
                    prop_assert_eq!(opened.is_none(), full);
                    standing.extend(opened);
                }
            }
        }
    }

    #[test]
    fn ports_given_back_are_reused_the_longest_unused_first() {
        let (routes, host) = (routes(&[ELSEWHERE], 80, 1, 0), host(40_000, 3, 1..=1));
        let ports = Ports::starting_at(1, &host, &routes, 2, Way::Range);
        let now = Instant::now();
        let first = |number, after| ports.first(number, now + after);
        assert_eq!([0, 1].map(|number| first(number, CLOSING)), [40_001, 40_002].map(Choice::Port));
        ports.give_back(1, 40_002, now);
        assert_eq!(first(2, CLOSING), Choice::Port(40_000), "nobody had it yet");
        ports.give_back(0, 40_001, now);
        assert_eq!(first(3, Duration::ZERO), Choice::Soon, "they are being closed");
        assert_eq!([3, 4].map(|number| first(number, CLOSING)), [40_002, 40_001].map(Choice::Port));
        assert_eq!(first(5, CLOSING), Choice::Exhausted);
        ports.rest(3, 40_002, now);
        assert_eq!(ports.another(3, now), Choice::Exhausted, "it was in use a moment ago");
        assert_eq!(ports.another(3, now + REST), Choice::Port(40_002));
    }

    /// Neither for its own target port nor for another of them.
    #[test]
    fn served_ports_of_this_host_are_no_source_ports() {
        let (routes, host) = (routes(&[HERE], 40_001, 2, 0), host(40_000, 4, 1..=1));
        let ports = Ports::starting_at(0, &host, &routes, 8, Way::Range);
        let first = |number| ports.first(number, Instant::now());
        let own = [40_000, 40_003].map(Choice::Port);
        assert_eq!([0, 2, 4, 6].map(first), [own[0], own[1], Choice::Exhausted, Choice::Exhausted]);
    }

    #[test]
    fn a_missing_address_is_told_from_a_missing_port() {
        let to = SocketAddr::new(HERE, 9);
        assert!(!lacks_address(None, to) && !lacks_address(Some(HERE.into()), to));
        assert!(lacks_address(Some(ELSEWHERE.into()), to));
    }
}
