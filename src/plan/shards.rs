//! The shards of a server, and the rings that each shard needs.

use super::{Needs, PortSharing, Ports, awake_within, largest, needs, share};
use crate::constants::{ACCEPTS_IN_FLIGHT, KERNEL_SLOTS_PER_RING, RINGS_PER_SHARD};
use crate::error::{Result, ShardsOf};

/// Slots that one ring is given at most. The kernel keeps a ring's polls in hash buckets, one for every 32 completion
/// entries (`hash_bits` in io_uring/io_uring.c), and removing a poll walks its bucket: polls that were armed last are
/// found first. A shard that needs more slots opens another ring.
pub const SLOTS_PER_RING: u32 = 20_000;

/// Accepts in flight on one listener at least, however many listeners a shard has.
const ACCEPTS_PER_LISTENER: usize = 2;

/// And at most: a single listener needs no more.
const MOST_ACCEPTS_PER_LISTENER: usize = 64;

const _: () = {
    assert!(SLOTS_PER_RING <= KERNEL_SLOTS_PER_RING);
    assert!(ACCEPTS_PER_LISTENER >= 1, "a listener without an accept accepts nothing");
};

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
    /// How many of them are awake at once at most, where the others sleep; `None` where none sleeps, and each has a
    /// slot.
    pub awake: Option<u64>,
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
    /// Which shard listens on which port.
    pub sharing: PortSharing,
    /// Connections in all.
    pub connections: u64,
    /// How many of them are awake at once at most, over all shards, where the others sleep; `None` where none sleeps.
    pub awake: Option<u64>,
    /// A file descriptor is kept of each connection that is awake, where others sleep (`Host::keeps_descriptors`).
    pub keeps_descriptors: bool,
    /// The soft limit on file descriptors.
    pub nofile: u64,
    /// How many of them are open already, and not the server's own.
    pub open: u64,
}

impl ServerGoal {
    /// How many of `planned` connections may be awake at once as far as file descriptors go.
    pub fn awake_within(&self, planned: u64) -> u64 {
        let needs = |awake| server_needs(&ServerGoal { awake: Some(awake), ..self.clone() }, self.connections);
        awake_within(planned, self.keeps_descriptors, self.nofile.saturating_sub(self.open), needs)
    }
}

/// Plans the shards of a server: what each listens on and how many rings it needs.
///
/// Fails with `HostReason::DescriptorLimit` where file descriptors do not suffice for the rings. It has the number of
/// connections that are possible, as far as `lockable` bytes of locked memory suffice for them too.
pub fn server(goal: &ServerGoal, lockable: u64) -> Result<Vec<ShardPlan>> {
    let plans = layout(goal, goal.connections);
    let (needs, room) = (needs(&plans, goal.keeps_descriptors), goal.nofile.saturating_sub(goal.open));
    if needs.fit(room) {
        return Ok(plans);
    }
    let possible = largest(goal.connections, |n| {
        let needs = server_needs(goal, n);
        needs.fit(room) && needs.locked_bytes() <= lockable
    });
    Err(needs.refusal(goal.connections, possible, (goal.nofile, goal.open), ShardsOf::Server))
}

/// What the server of a goal would need for so many connections.
pub fn server_needs(goal: &ServerGoal, connections: u64) -> Needs {
    needs(&layout(goal, connections), goal.keeps_descriptors)
}

/// The shards that hold `connections`, whether descriptors suffice or not.
pub(super) fn layout(goal: &ServerGoal, connections: u64) -> Vec<ShardPlan> {
    let shards = goal.cores.len() as u64;
    let ports = goal.ports.count() as u64;
    let plan = |(index, core): (usize, &usize)| {
        let index = index as u64;
        let mine: Vec<u16> = match goal.sharing {
            PortSharing::All => (0..ports).map(|p| goal.ports.nth(p)).collect(),
            PortSharing::Subset if shards > ports => vec![goal.ports.nth(index)],
            PortSharing::Subset => share(ports, shards, index).map(|p| goal.ports.nth(p)).collect(),
        };
        let accepts = (ACCEPTS_IN_FLIGHT / mine.len()).clamp(ACCEPTS_PER_LISTENER, MOST_ACCEPTS_PER_LISTENER);
        // Shards that share each of these ports. A client that takes the ports in turn gives the first
        // ones one more.
        let sharers = match goal.sharing {
            PortSharing::All => shards,
            PortSharing::Subset => (shards / ports + u64::from(index % ports < shards % ports)).max(1),
        };
        // The most of `connections` that can reach this shard.
        let comes = |connections: u64| {
            let offered = connections.min(connections.div_ceil(ports) * mine.len() as u64);
            // Clients that take the ports at random, and the kernel that spreads a port's connections by hash:
            // four standard deviations of a binomial.
            let even = offered.div_ceil(sharers);
            (even + 4 * (even as f64).sqrt().ceil() as u64).min(connections)
        };
        let capacity = comes(connections);
        // The connections awake at a moment are spread over the shards as all are.
        let awake = goal.awake.map(|awake| comes(awake.min(connections)));
        let slots = awake.unwrap_or(capacity) + (accepts * mine.len()) as u64;
        ShardPlan { core: *core, ports: mine, accepts, capacity, awake, rings: rings(slots, goal.nofile) }
    };
    goal.cores.iter().enumerate().map(plan).collect()
}

/// The rings that hold `slots` slots where one may have at most `nofile`: full ones, then the rest.
pub fn rings(slots: u64, nofile: u64) -> Vec<u32> {
    let each = slots_each(nofile);
    // More rings than a shard can name are as bad as one more.
    let count = slots.div_ceil(each).min(RINGS_PER_SHARD as u64 + 1);
    (0..count).map(|i| each.min(slots - i * each) as u32).collect()
}

/// Slots of one ring where one may have at most `nofile`.
pub(super) fn slots_each(nofile: u64) -> u64 {
    nofile.min(u64::from(SLOTS_PER_RING)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;
    use proptest::prelude::*;

    fn goal(cores: usize, ports: u16, sharing: PortSharing, connections: u64, nofile: u64) -> ServerGoal {
        ServerGoal {
            cores: (0..cores).collect(),
            ports: Ports::new(8888, ports).unwrap(),
            sharing,
            connections,
            awake: None,
            keeps_descriptors: false,
            nofile,
            open: 0,
        }
    }

    proptest! {
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

        /// Where connections sleep, a shard has slots for its part of those awake, and holds as many as without.
        #[test]
        fn only_those_awake_have_slots(cores in 1usize..40, ports in 1u16..200, connections in 1u64..100_000_000, awake in 1u64..500_000) {
            let all = goal(cores, ports, PortSharing::Subset, connections, 1_000_000);
            let (with, without) = (layout(&ServerGoal { awake: Some(awake), ..all.clone() }, connections), layout(&all, connections));
            for (with, without) in with.iter().zip(&without) {
                prop_assert_eq!((with.capacity, with.accepts, &with.ports), (without.capacity, without.accepts, &without.ports));
                let slots = with.awake.unwrap();
                prop_assert!((1..=with.capacity).contains(&slots));
                prop_assert_eq!(with.slots(), slots + (with.accepts * with.ports.len()) as u64);
                prop_assert!(with.slots() <= without.slots());
            }
            // However the ports are chosen, all that may be awake can be.
            prop_assert!(with.iter().filter_map(|plan| plan.awake).sum::<u64>() >= awake.min(connections));
        }

        #[test]
        fn rings_hold_all_slots_and_none_is_too_large(slots in 1u64..2_000_000, nofile in 1_000u64..2_000_000) {
            let rings = rings(slots, nofile);
            prop_assert_eq!(rings.iter().map(|r| u64::from(*r)).sum::<u64>(), slots);
            prop_assert!(rings.iter().all(|r| *r > 0 && u64::from(*r) <= nofile && *r <= SLOTS_PER_RING));
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
    fn ten_million_of_whom_most_sleep_on_two_cores() {
        let goal = goal(2, 100, PortSharing::Subset, 10_000_000, 20_000);
        let plans = server(&ServerGoal { awake: Some(262_144), ..goal }, u64::MAX).unwrap();
        assert_eq!(plans.iter().map(|p| p.rings.len()).collect::<Vec<_>>(), [7, 7]);
        // Halves, those awake in whole connections of each port, and four standard deviations.
        assert_eq!((plans[0].capacity, plans[0].awake), (5_008_948, Some(132_552)));
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
}
