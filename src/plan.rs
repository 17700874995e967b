//! Pure arithmetic from a goal to cores, ports, rings, slots and tuples.

use std::net::SocketAddr;
use std::ops::Range;

use crate::addresses::{self, Address};
use crate::constants::*;
use crate::error::{ConfigError, Error, HostError, HostReason, Result, ShardsOf};

/// Which ports a shard listens on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum PortSharing {
    /// Each shard has a contiguous subset of its own.
    #[default]
    Subset,
    /// Every shard listens on every port.
    All,
}

/// A run of ports, checked: at least one, none 0, none beyond 65535.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    first: u16,
    count: u16,
}

impl Ports {
    /// The article's: 8888 to 8987.
    pub const ARTICLE: Ports = Ports { first: 8888, count: 100 };

    /// `count` ports from `first` on.
    pub fn new(first: u16, count: u16) -> Result<Ports> {
        if first == 0 || count == 0 {
            return Err(ConfigError::NoPort { first, count }.into());
        }
        let beyond_first = u16::MAX - first;
        if count - 1 > beyond_first {
            return Err(ConfigError::PortsBeyondLast { first, count, most: beyond_first + 1 }.into());
        }
        Ok(Ports { first, count })
    }

    /// The first port.
    pub fn first(self) -> u16 {
        self.first
    }

    /// The last port.
    pub fn last(self) -> u16 {
        self.first + (self.count - 1)
    }

    /// How many.
    pub fn count(self) -> usize {
        usize::from(self.count)
    }

    /// Whether a port is one of them.
    pub fn contains(self, port: u16) -> bool {
        (self.first..=self.last()).contains(&port)
    }

    /// Port number `index`, wrapping around.
    pub fn nth(self, index: u64) -> u16 {
        self.first + (index % u64::from(self.count)) as u16
    }
}

/// Part `index` of `total` things split into `parts` contiguous runs whose sizes differ by at most
/// one, the larger first.
pub fn share(total: u64, parts: u64, index: u64) -> Range<u64> {
    let (each, extra) = (total / parts, total % parts);
    let start = index * each + index.min(extra);
    start..start + each + u64::from(index < extra)
}

/// One shard of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardPlan {
    /// The core it is pinned to.
    pub core: usize,
    /// The ports it listens on.
    pub ports: Vec<u16>,
    /// Accepts it keeps in flight on each listener.
    pub accepts: usize,
    /// Connections it holds at most.
    pub capacity: u64,
    /// Slots of each of its rings.
    pub rings: Vec<u32>,
}

impl ShardPlan {
    /// Slots over all its rings.
    pub fn slots(&self) -> u64 {
        self.rings.iter().map(|slots| u64::from(*slots)).sum()
    }
}

/// What a server shall be.
#[derive(Clone, Debug)]
pub struct ServerGoal {
    /// Cores to use, one shard each; not empty.
    pub cores: Vec<usize>,
    /// Ports to serve.
    pub ports: Ports,
    /// Who listens on what.
    pub sharing: PortSharing,
    /// Connections in all.
    pub connections: u64,
    /// The soft limit on file descriptors.
    pub nofile: u64,
}

/// Plans the shards of a server: what each listens on and how many rings it needs.
///
/// Fails with a host error when file descriptors do not suffice for the rings. It says how many connections are
/// possible: so many that `lockable` has their locked memory too.
pub fn server(goal: &ServerGoal, lockable: u64) -> Result<Vec<ShardPlan>> {
    let plans = layout(goal, goal.connections);
    let needs = needs(&plans);
    if needs.fit(goal.nofile) {
        return Ok(plans);
    }
    let possible = largest(goal.connections, |n| {
        let needs = self::needs(&layout(goal, n));
        needs.fit(goal.nofile) && needs.locked_bytes() <= lockable
    });
    Err(needs.refusal(goal.connections, possible, goal.nofile, ShardsOf::Server))
}

/// What the server of a goal would need for so many connections.
pub fn server_needs(goal: &ServerGoal, connections: u64) -> Needs {
    needs(&layout(goal, connections))
}

/// The shards that hold `connections`, whether descriptors suffice or not.
fn layout(goal: &ServerGoal, connections: u64) -> Vec<ShardPlan> {
    let shards = goal.cores.len() as u64;
    let ports = goal.ports.count() as u64;
    let plan = |(index, core): (usize, &usize)| {
        let index = index as u64;
        let mine: Vec<u16> = match goal.sharing {
            PortSharing::All => (0..ports).map(|p| goal.ports.nth(p)).collect(),
            PortSharing::Subset if shards > ports => vec![goal.ports.nth(index)],
            PortSharing::Subset => share(ports, shards, index).map(|p| goal.ports.nth(p)).collect(),
        };
        let accepts = (ACCEPTS_IN_FLIGHT / mine.len()).clamp(ACCEPTS_PER_LISTENER, 64);
        // Shards that share each of these ports. A client that takes the ports in turn gives the first
        // ones one more.
        let sharers = match goal.sharing {
            PortSharing::All => shards,
            PortSharing::Subset => (shards / ports + u64::from(index % ports < shards % ports)).max(1),
        };
        let offered = connections.min(connections.div_ceil(ports) * mine.len() as u64);
        // Clients that take the ports at random, and the kernel that spreads a port's connections by hash:
        // four standard deviations of a binomial.
        let even = offered.div_ceil(sharers);
        let capacity = (even + 4 * (even as f64).sqrt().ceil() as u64).min(connections);
        let slots = capacity + (accepts * mine.len()) as u64;
        ShardPlan { core: *core, ports: mine, accepts, capacity, rings: rings(slots, goal.nofile) }
    };
    goal.cores.iter().enumerate().map(plan).collect()
}

/// The file descriptors of a server of these shards.
pub fn needs(plans: &[ShardPlan]) -> Needs {
    Needs {
        rings: plans.iter().map(|plan| plan.rings.len()).collect(),
        sockets: plans.iter().map(|plan| plan.ports.len() as u64).sum(),
    }
}

/// The rings that hold `slots` slots where one may have at most `nofile`: full ones, then the rest.
pub fn rings(slots: u64, nofile: u64) -> Vec<u32> {
    let each = slots_each(nofile);
    // More rings than a shard can name are as bad as one more.
    let count = slots.div_ceil(each).min(RINGS_PER_SHARD as u64 + 1);
    (0..count).map(|i| each.min(slots - i * each) as u32).collect()
}

fn slots_each(nofile: u64) -> u64 {
    nofile.min(u64::from(SLOTS_PER_RING)).max(1)
}

/// The file descriptors that a process needs.
#[derive(Clone, Debug)]
pub struct Needs {
    /// Rings of each shard.
    pub rings: Vec<usize>,
    /// Plain sockets.
    pub sockets: u64,
}

impl Needs {
    fn all_rings(&self) -> u64 {
        self.rings.iter().sum::<usize>() as u64
    }

    /// Descriptors beside rings and sockets.
    pub fn fixed(&self) -> u64 {
        DESCRIPTORS_PER_PROCESS + self.rings.len() as u64 * DESCRIPTORS_PER_SHARD
    }

    /// Descriptors in all.
    pub fn descriptors(&self) -> u64 {
        self.fixed() + self.sockets + self.all_rings()
    }

    /// Bytes of locked memory that a kernel which charges rings takes from an ordinary user.
    pub fn locked_bytes(&self) -> u64 {
        self.all_rings() * RING_LOCKED_BYTES + self.rings.len() as u64 * EXECUTOR_LOCKED_BYTES
    }

    /// Whether they are below the limit, and no shard has more rings than it can name.
    pub fn fit(&self, nofile: u64) -> bool {
        self.descriptors() <= nofile && self.rings.iter().all(|rings| *rings <= RINGS_PER_SHARD)
    }

    /// Why `connections` do not fit, where `possible` would.
    pub fn refusal(&self, connections: u64, possible: u64, nofile: u64, whose: ShardsOf) -> Error {
        let reason = HostReason::DescriptorLimit {
            connections,
            limit: nofile,
            needed: self.descriptors(),
            rings: self.all_rings(),
            sockets: self.sockets,
            others: self.fixed(),
            slots: slots_each(nofile),
            rings_per_shard: RINGS_PER_SHARD as u64,
            possible,
            whose,
        };
        HostError::new("hold", format!("{connections} connections"), None, reason).into()
    }
}

/// The largest number up to `most` that fits, where every smaller one does too; 0 if none does.
pub fn largest(most: u64, fits: impl Fn(u64) -> bool) -> u64 {
    let (mut good, mut bad) = (0, most.saturating_add(1));
    while bad - good > 1 {
        let middle = good + (bad - good) / 2;
        if fits(middle) { good = middle } else { bad = middle }
    }
    good
}

/// The rings of one client shard: for its connections, and for as many again as can be closing
/// while others open.
pub fn client_rings(connections: u64, shards: u64, index: u64, concurrency: u32, nofile: u64) -> Vec<u32> {
    let part = share(connections, shards, index);
    let (own, window) = (part.end - part.start, share(concurrency.into(), shards, index));
    rings(own + own.min(window.end - window.start), nofile)
}

/// The file descriptors of a client that has one plain socket a shard; each connect in flight
/// takes another one.
pub fn client_needs(connections: u64, shards: u64, concurrency: u32, nofile: u64) -> Needs {
    let rings = |index| client_rings(connections, shards, index, concurrency, nofile).len();
    Needs { rings: (0..shards).map(rings).collect(), sockets: shards }
}

/// Which end of the connections a host is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It accepts them.
    Server,
    /// It opens them.
    Client,
    /// Both, over loopback.
    Both,
}

impl Role {
    /// Ends of one connection that this host holds.
    pub fn ends(self) -> u64 {
        if self == Role::Both { 2 } else { 1 }
    }

    /// Whether it accepts connections.
    pub fn serves(self) -> bool {
        self != Role::Client
    }

    /// Whether it opens connections.
    pub fn dials(self) -> bool {
        self != Role::Server
    }
}

/// What a host shall do.
#[derive(Clone, Debug)]
pub struct Goal {
    /// Which end it is.
    pub role: Role,
    /// Connections in all.
    pub connections: u64,
    /// The served ports; where a client's connections go, and from where.
    pub routes: Routes,
    /// Cores to use, one shard each; not empty.
    pub cores: Vec<usize>,
}

impl Goal {
    /// The server's shards, whether descriptors suffice or not.
    pub fn server_shards(&self, connections: u64, nofile: u64) -> Vec<ShardPlan> {
        let (cores, ports) = (self.cores.clone(), self.routes.ports);
        layout(&ServerGoal { cores, ports, sharing: PortSharing::Subset, connections, nofile }, connections)
    }

    /// The rings of the client's shards, whether descriptors suffice or not.
    pub fn client_shards(&self, connections: u64, nofile: u64) -> Vec<Vec<u32>> {
        let shards = self.cores.len() as u64;
        (0..shards).map(|index| client_rings(connections, shards, index, DEFAULT_CONCURRENCY, nofile)).collect()
    }

    /// What `connections` need in each process: one at each end that is here.
    pub fn processes(&self, connections: u64, nofile: u64) -> Vec<Needs> {
        let server = || needs(&self.server_shards(connections, nofile));
        let client = || client_needs(connections, self.cores.len() as u64, DEFAULT_CONCURRENCY, nofile);
        let ends = [self.role.serves().then(server), self.role.dials().then(client)];
        ends.into_iter().flatten().collect()
    }

    /// The file descriptors that `connections` need at one end; the ends of `Both` have a limit each, so
    /// the larger need counts.
    pub fn needs(&self, connections: u64, nofile: u64) -> Needs {
        let processes = self.processes(connections, nofile).into_iter();
        // A role has one end at least.
        processes.max_by_key(Needs::descriptors).unwrap_or(Needs { rings: Vec::new(), sockets: 0 })
    }

    /// Bytes of locked memory that `connections` need where rings are charged: a user's processes are
    /// charged together, and glommio starts with no less than `GLOMMIO_MEMLOCK`.
    pub fn locked_bytes(&self, connections: u64, nofile: u64) -> u64 {
        let all: u64 = self.processes(connections, nofile).iter().map(Needs::locked_bytes).sum();
        all.max(GLOMMIO_MEMLOCK)
    }
}

/// How connections wait that have nothing to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IdleBackend {
    /// Each in a poll of its ring: 256 bytes of the kernel.
    Poll,
    /// All behind a filter of the shard: nothing.
    Filter,
}

/// How much memory a server leaves to the rest of the host.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum Reserve {
    /// 24 MiB and 1 % of what there is. A ramp takes at most some 5 MB between two looks and
    /// as much again in accept queues; shells, logs and page tables need the rest.
    #[default]
    Auto,
    /// So many bytes; 0 looks at nothing.
    Bytes(u64),
    /// A share of the host's memory, or of a cgroup's limit, in percent.
    Percent(f64),
}

/// The constant part of `Reserve::Auto` in bytes, and the share added to it.
const AUTO_BYTES: u64 = 24 << 20;
const AUTO_SHARE: u64 = 100;

impl Reserve {
    /// The reserve in bytes where there are `total` in all.
    pub fn of(self, total: u64) -> u64 {
        match self {
            // A reserve of more than a quarter of a small limit would leave little to serve with.
            Reserve::Auto => (AUTO_BYTES + total / AUTO_SHARE).min(total / 4),
            Reserve::Bytes(bytes) => bytes,
            Reserve::Percent(percent) => (total as f64 * percent / 100.0) as u64,
        }
    }
}

/// Where a client's connections go: target, port and source of each by its number.
#[derive(Clone, Debug)]
pub struct Routes {
    /// Addresses to connect to; not empty.
    pub targets: Vec<Address>,
    /// Ports of each target.
    pub ports: Ports,
    /// Addresses to connect from; empty lets the kernel choose one.
    pub sources: Vec<Address>,
}

impl Routes {
    /// Routes to and from these addresses.
    ///
    /// Fails with a usage error when one of them is no host's address, is named twice, or is of another
    /// family than its counterparts.
    pub fn new(targets: &[Address], ports: Ports, sources: &[Address]) -> Result<Routes> {
        let targets = targets.iter().map(|target| target.reached()).collect();
        let routes = Routes { targets, ports, sources: sources.to_vec() };
        routes.check().map(|()| routes)
    }

    /// What `new` checks.
    pub fn check(&self) -> Result<()> {
        addresses::check(&self.targets, &self.sources)
    }

    /// Connection number `index`: one per (target, port) in turn, then the next source.
    pub fn of(&self, index: u64) -> (Option<Address>, SocketAddr) {
        let port = self.ports.nth(index);
        let round = index / self.ports.count() as u64;
        let targets = self.targets.len() as u64;
        let target = self.targets[(round % targets) as usize];
        let sources = self.sources.len() as u64;
        let source = (sources > 0).then(|| self.sources[(round / targets % sources) as usize]);
        (source, target.at(port))
    }

    /// Distinct (source, target, port) combinations; more than a u64 counts are as many as it does.
    pub fn tuples(&self) -> u64 {
        self.sources.len().max(1).saturating_mul(self.targets.len()).saturating_mul(self.ports.count()) as u64
    }

    /// Fails when `connections` need more source ports per combination than the host's ephemeral
    /// range offers (`ephemeral`, reserved ports taken off), with the arithmetic and the flag.
    pub fn fit(&self, connections: u64, ephemeral: u64) -> Result<()> {
        let room = self.tuples().saturating_mul(ephemeral);
        if connections <= room {
            return Ok(());
        }
        let [targets, sources, ports] =
            [self.targets.len(), self.sources.len().max(1), self.ports.count()].map(|number| number as u64);
        let per_source = ephemeral.saturating_mul(targets * ports);
        let reason = HostReason::SourcePorts {
            connections,
            ephemeral,
            sources,
            targets,
            ports,
            possible: room,
            sources_needed: (per_source > 0).then(|| connections.div_ceil(per_source)),
        };
        Err(HostError::new("open", format!("{connections} connections"), None, reason).into())
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use proptest::prelude::*;

    fn goal(cores: usize, ports: u16, sharing: PortSharing, connections: u64, nofile: u64) -> ServerGoal {
        ServerGoal {
            cores: (0..cores).collect(),
            ports: Ports::new(8888, ports).unwrap(),
            sharing,
            connections,
            nofile,
        }
    }

    proptest! {
        #[test]
        fn shares_are_contiguous_and_balanced(total in 0u64..100_000, parts in 1u64..300) {
            let all: Vec<_> = (0..parts).map(|i| share(total, parts, i)).collect();
            prop_assert_eq!(all[0].start, 0);
            prop_assert_eq!(all.last().unwrap().end, total);
            for pair in all.windows(2) {
                prop_assert_eq!(pair[0].end, pair[1].start);
                prop_assert!(pair[0].end - pair[0].start - (pair[1].end - pair[1].start) <= 1);
            }
        }

        /// Every port is served; without sharing by one shard only; and there is room for the goal.
        #[test]
        fn every_port_has_a_shard(cores in 1usize..40, ports in 1u16..200, connections in 1u64..2_000_000) {
            let plans = server(&goal(cores, ports, PortSharing::Subset, connections, 1_000_000), u64::MAX).unwrap();
            let mut served: Vec<u16> = plans.iter().flat_map(|p| p.ports.clone()).collect();
            served.sort_unstable();
            if cores <= ports as usize {
                prop_assert_eq!(&served, &(8888..8888 + ports).collect::<Vec<_>>());
            }
            served.dedup();
            prop_assert_eq!(served.len(), ports as usize);
            // Also when they come to the ports in turn: the shards of a port have room for its share.
            let comes = |port: u16| { let part = share(connections, u64::from(ports), u64::from(port - 8888)); part.end - part.start };
            for plan in &plans {
                let offered: u64 = plan.ports.iter().map(|port| comes(*port)).sum();
                let sharers: Vec<_> = plans.iter().filter(|other| other.ports == plan.ports).collect();
                prop_assert!(offered <= sharers.iter().map(|sharer| sharer.capacity).sum::<u64>());
            }
            prop_assert!(plans.iter().map(|p| p.capacity).sum::<u64>() >= connections);
            for plan in &plans {
                prop_assert_eq!(plan.slots(), plan.capacity + (plan.accepts * plan.ports.len()) as u64);
            }
        }

        /// What is said to be possible is, and one more is not.
        #[test]
        fn the_largest_that_fits_is_found(limit in 0u64..1_000, most in 0u64..1_000) {
            prop_assert_eq!(largest(most, |n| n <= limit), limit.min(most));
        }

        #[test]
        fn rings_hold_all_slots_and_none_is_too_large(slots in 1u64..2_000_000, nofile in 1_000u64..2_000_000) {
            let rings = rings(slots, nofile);
            prop_assert_eq!(rings.iter().map(|r| u64::from(*r)).sum::<u64>(), slots);
            prop_assert!(rings.iter().all(|r| *r > 0 && u64::from(*r) <= nofile && *r <= SLOTS_PER_RING));
        }

        /// No (source, target, port) gets two more connections than another.
        #[test]
        fn routes_are_even(targets in 1usize..4, ports in 1u16..20, sources in 0usize..4, n in 1u64..2_000) {
            let ip = |i: usize| Address::from(IpAddr::from([127, 0, 0, 1 + i as u8]));
            let routes = Routes { targets: (0..targets).map(ip).collect(), ports: Ports::new(1, ports).unwrap(), sources: (0..sources).map(ip).collect() };
            let mut seen = std::collections::HashMap::new();
            (0..n).for_each(|i| *seen.entry(routes.of(i)).or_insert(0u64) += 1);
            prop_assert_eq!(seen.len() as u64, n.min(routes.tuples()));
            prop_assert!(seen.values().max().unwrap() - seen.values().min().unwrap() <= 1);
        }
    }

    #[test]
    fn a_million_on_two_cores_below_twenty_thousand_descriptors() {
        let plans = server(&goal(2, 100, PortSharing::Subset, 1_000_000, 20_000), u64::MAX).unwrap();
        assert_eq!(plans.iter().map(|p| p.rings.len()).collect::<Vec<_>>(), [26, 26]);
        assert_eq!(plans[1].ports.first(), Some(&8938));
        // A half, and four standard deviations.
        assert_eq!(plans[0].capacity, 502_832);
    }

    #[test]
    fn too_few_descriptors_are_explained() {
        let error = server(&goal(2, 100, PortSharing::Subset, 1_000_000, 256), u64::MAX).unwrap_err();
        assert!(matches!(error, Error::Host(_)), "{error}");
        let possible: u64 =
            error.to_string().split("at most ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
        assert!(server(&goal(2, 100, PortSharing::Subset, possible, 256), u64::MAX).is_ok(), "{error}");
        assert!(server(&goal(2, 100, PortSharing::Subset, possible + 1, 256), u64::MAX).is_err(), "{error}");
    }

    /// What a refusal says is possible is not refused by the next limit.
    #[test]
    fn what_descriptors_allow_can_be_locked_too() {
        let goal = goal(2, 10, PortSharing::All, 1_000_000, 600);
        let lockable = 8 << 20;
        let error = server(&goal, lockable).unwrap_err().to_string();
        let possible = error.split("at most ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
        assert!(server_needs(&goal, possible).locked_bytes() <= lockable, "{error}");
        assert!(server_needs(&goal, possible + 1).locked_bytes() > lockable, "{error}");
    }

    #[test]
    fn ports_end_at_65535() {
        assert!(Ports::new(65_535, 1).is_ok());
        assert!(Ports::new(65_500, 37).is_err());
        assert!(Ports::new(0, 1).is_err());
        assert!(Ports::new(1, 0).is_err());
    }

    #[test]
    fn the_arithmetic_of_source_ports_is_shown() {
        let routes = Routes {
            targets: vec![IpAddr::from([127, 0, 0, 1]).into()],
            ports: Ports::new(8888, 10).unwrap(),
            sources: vec![],
        };
        assert!(routes.fit(282_320, 28_232).is_ok());
        let error = routes.fit(1_000_000, 28_232).unwrap_err().to_string();
        assert!(
            error.contains("28232 ephemeral ports x 1 source address(es) x 1 target(s) x 10 port(s) = 282320"),
            "{error}"
        );
        assert!(error.contains("give 4 source addresses"), "{error}");
    }
}
