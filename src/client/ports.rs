//! Source ports: which one each connection takes. The client chooses them itself, because connect(2) searches:
//! it tries the ports of one parity before the others, so that from half of a route's ports on every connect
//! walks through thousands of ports that are taken (`__inet_hash_connect` in net/ipv4/inet_hashtables.c).
//!
//! A *route* is a source address, a target address and a target port. Connection number `n` of those asked for
//! has the route `n % routes`, and takes the port at position `n / routes` of a list that all routes share: no
//! two connections have the same, whichever shards they belong to, and nothing needs to be remembered. Nor have two
//! clients of one run, such as a storm and the process of its victims: their numbers follow each other. The
//! other positions of a route are its *spares*: for connections whose own port another socket of this host has, and
//! for those that a storm dials. Ports that connections gave back come after them, the longest unused first.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::ops::Range;
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
    /// The connections that have a position of their own.
    numbers: Range<u64>,
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
    /// None now, but one in a moment: its socket is being closed, or it rests.
    Soon,
    /// None.
    Exhausted,
}

/// The spares of a route.
#[derive(Debug)]
struct Spares {
    /// The first position that no connection had yet.
    next: u64,
    /// Ports and when they were given back, the longest unused first.
    free: VecDeque<(u16, Instant)>,
    /// Another socket had these ports at that time.
    resting: VecDeque<(u16, Instant)>,
}

/// A random place for the list of source ports to begin at.
pub fn random_seed() -> u64 {
    RandomState::new().hash_one(())
}

impl Ports {
    /// The ports of `host` for the connections of these numbers. The list begins at a place that `seed` decides: at
    /// random, so that clients beside or after each other rarely try the same port. Clients of one seed that have
    /// numbers apart from each other never do.
    pub fn new(host: &SourcePorts, routes: &Routes, numbers: Range<u64>, seed: u64, way: Way) -> Ports {
        let mut list: Vec<u16> = host.ports().collect();
        let routes = routes.tuples();
        if !list.is_empty() {
            let length = list.len() as u64;
            // Positions count from the first number of this client on.
            list.rotate_left(((seed % length + numbers.start / routes % length) % length) as usize);
        }
        let spares = (0..LOCKS).map(|_| Mutex::default()).collect();
        Ports { list, routes, numbers, way, spares }
    }

    /// The positions that the connections of a route have. The list may end in the middle of them and goes on at its
    /// begin: a route whose first number is below that of the client begins at position 1.
    fn positions(&self, route: u64) -> Range<u64> {
        let Range { start, end } = self.numbers;
        let before = |number: u64| number / self.routes + u64::from(route < number % self.routes);
        let first = start / self.routes;
        before(start) - first..before(end) - first
    }

    /// The port at a position, if it is one of the positions of a route, each of which has every port once.
    fn at(&self, route: u64, position: u64) -> Option<u16> {
        let length = self.list.len() as u64;
        let is_new = position - self.positions(route).start < length;
        is_new.then(|| self.list[(position % length) as usize])
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
        let position = |number: u64| number / self.routes - self.numbers.start / self.routes;
        self.numbers.contains(&number).then(|| self.at(number % self.routes, position(number))).flatten()
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
            if let Some(port) = self.at(number % self.routes, spares.next) {
                spares.next += 1;
                return Choice::Port(port);
            }
            let after = |queue: &mut VecDeque<(u16, Instant)>, time| {
                let over = queue.front().is_some_and(|(_, since)| now.duration_since(*since) >= time);
                over.then(|| queue.pop_front()).flatten().map(|(port, _)| Choice::Port(port))
            };
            let found = after(&mut spares.free, CLOSING).or_else(|| after(&mut spares.resting, REST));
            found.unwrap_or(if spares.free.is_empty() { Choice::Exhausted } else { Choice::Soon })
        })
    }

    /// A port for a connection that comes back in place of one that is over. If the route has no other port it waits for one
    /// that rests. The kernel may close a socket of this client later than `CLOSING`; its port then seemed to be another
    /// socket's, and rests, although it is about to be free.
    pub fn anew(&self, number: u64, now: Instant) -> Choice {
        match self.another(number, now) {
            Choice::Exhausted if self.of_route(number, |spares| !spares.resting.is_empty()) => Choice::Soon,
            choice => choice,
        }
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
        let next = self.positions(route).end;
        then(routes.entry(route).or_insert_with(|| Spares { next, free: VecDeque::new(), resting: VecDeque::new() }))
    }
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
            first in prop_oneof![Just(0), 0u64..1_000, Just(1 << 40)],
            others in prop::collection::hash_set((0u64..15, 0u64..30), 0..40),
            steps in prop::collection::vec((any::<bool>(), any::<usize>()), 0..300),
        ) {
            let routes = routes(&[HERE], if overlap { 40_000 } else { 9_000 }, targets, sources);
            let host = host(40_000, count, 40_000 + reserved..=40_000 + reserved + 3);
            let served = routes.ports.first()..=routes.ports.last();
            let usable = host.count();
            let connections = routes.tuples() * usable;
            let own = host.reserving(u64::from(*served.start())..=u64::from(*served.end()));
            let ports = Ports::new(&own, &routes, first..first + connections, start, Way::Range);
            let others: HashSet<_> = others.into_iter().map(|(route, port)| (route % routes.tuples(), 40_000 + port as u16)).collect();
            let (mut used, mut standing, mut redialed) = (HashSet::new(), Vec::new(), first + connections);
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
            for number in first..first + connections {
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

    proptest! {
        /// Together the connections of two clients of one seed, whose numbers follow each other, may fill every port of
        /// every route.
        #[test]
        fn clients_of_one_seed_try_different_ports(
            count in 1u64..30, targets in 1u16..5, first in prop_oneof![Just(0), 0u64..1_000], part in 0f64..=1.0, seed: u64,
        ) {
            let (routes, host) = (routes(&[ELSEWHERE], 80, targets, 0), host(40_000, count, 1..=1));
            let end = first + routes.tuples() * count;
            let middle = first + ((end - first) as f64 * part) as u64;
            let clients = [first..middle, middle..end];
            let now = Instant::now();
            let first_tried = clients.into_iter().flat_map(|numbers| {
                let ports = Ports::new(&host, &routes, numbers.clone(), seed, Way::Range);
                numbers.map(move |number| (number, ports.first(number, now))).collect::<Vec<_>>()
            });
            let tried: HashSet<_> = first_tried
                .map(|(number, choice)| match choice {
                    Choice::Port(port) => (number % routes.tuples(), port),
                    other => panic!("{other:?} for {number}"),
                })
                .collect();
            prop_assert_eq!(tried.len() as u64, end - first);
        }
    }

    #[test]
    fn ports_given_back_are_reused_the_longest_unused_first() {
        let (routes, host) = (routes(&[ELSEWHERE], 80, 1, 0), host(40_000, 3, 1..=1));
        let ports = Ports::new(&host, &routes, 0..2, 1, Way::Range);
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
        assert_eq!(ports.anew(3, now), Choice::Soon, "one that comes back waits for it");
        assert_eq!(ports.anew(3, now + REST), Choice::Port(40_002));
        assert_eq!(ports.anew(3, now + REST), Choice::Exhausted);
    }

    #[test]
    fn a_missing_address_is_told_from_a_missing_port() {
        let to = SocketAddr::new(HERE, 9);
        assert!(!lacks_address(None, to) && !lacks_address(Some(HERE.into()), to));
        assert!(lacks_address(Some(ELSEWHERE.into()), to));
    }
}
