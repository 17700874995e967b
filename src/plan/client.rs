//! The rings that a client's shards need.

use super::{Needs, rings, share};

/// What a client shall be, however many connections it opens.
#[derive(Clone, Copy, Debug)]
pub struct ClientGoal {
    /// Shards, one for each core; at least 1.
    pub shards: u64,
    /// Connects in flight in all.
    pub concurrency: u32,
    /// The soft limit on file descriptors.
    pub nofile: u64,
    /// Connections awake at once at most in all, where the others sleep; `None` where none sleeps.
    pub awake: Option<u64>,
    /// A file descriptor is kept of each connection that is awake, where others sleep (`Host::keeps_descriptors`).
    pub keeps_descriptors: bool,
}

impl ClientGoal {
    /// The rings of one shard: for those of its connections that are awake, one at least, and for as many again as can
    /// be closing while others open.
    pub fn rings(&self, connections: u64, index: u64) -> Vec<u32> {
        let of_shard = |total: u64| {
            let part = share(total, self.shards, index);
            part.end - part.start
        };
        let part = of_shard(connections);
        // However few may be awake in all: a shard without a slot would open none of its connections.
        let own = self.awake.map_or(part, |awake| of_shard(awake).max(1).min(part));
        rings(own + own.min(of_shard(self.concurrency.into())), self.nofile)
    }

    /// The file descriptors of a client that has one plain socket a shard; each connect in flight takes another one.
    pub fn needs(&self, connections: u64) -> Needs {
        let rings: Vec<Vec<u32>> = (0..self.shards).map(|index| self.rings(connections, index)).collect();
        let slots = || rings.iter().flatten().map(|slots| u64::from(*slots)).sum::<u64>();
        Needs {
            sockets: self.shards,
            sleeping: self.awake.map_or(0, |_| self.shards),
            kept: if self.awake.is_some() && self.keeps_descriptors { slots() } else { 0 },
            rings: rings.iter().map(Vec::len).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// There is a slot for each connection that is awake; those asleep take none. Each shard that has connections has
        /// a slot, however few may be awake.
        #[test]
        fn only_those_awake_have_slots(shards in 1u64..40, connections in 1u64..100_000_000, awake in prop_oneof![1u64..40, 1u64..500_000], concurrency in 1u32..5_000) {
            let goal = ClientGoal { shards, concurrency, nofile: 20_000, awake: Some(awake), keeps_descriptors: false };
            let slots_of = |index| goal.rings(connections, index).into_iter().map(u64::from).sum::<u64>();
            for index in 0..shards {
                prop_assert_eq!(slots_of(index) == 0, share(connections, shards, index).is_empty());
            }
            let slots: u64 = (0..shards).map(slots_of).sum();
            let sockets = awake.max(shards).min(connections);
            prop_assert!(slots >= sockets && slots <= sockets + u64::from(concurrency));
        }
    }

    #[test]
    fn ten_million_asleep_need_the_rings_of_those_awake() {
        let (awake, keeps_descriptors) = (Some(262_144), false);
        let goal = ClientGoal { shards: 2, concurrency: 512, nofile: 20_000, awake, keeps_descriptors };
        assert_eq!(goal.needs(10_000_000).rings, [7, 7]);
        assert_eq!(ClientGoal { awake: None, ..goal }.needs(10_000_000).rings, [251, 251]);
    }
}
