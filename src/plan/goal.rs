//! What a host shall do, and what its processes need for that.

use super::shards::layout;
use super::{ClientGoal, GLOMMIO_MEMLOCK, Needs, PortSharing, Routes, ServerGoal, ShardPlan, awake_within, needs};
use crate::constants::DEFAULT_CONCURRENCY;
use crate::tls_version::TlsVersion;

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

/// What is spoken above TCP, as far as memory must be kept for it of each connection. The default is raw bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Layers {
    /// The server speaks HTTP or WebSocket.
    pub conversation: bool,
    /// TLS at both ends, of this version at least; `None` without TLS.
    pub tls: Option<TlsVersion>,
}

/// What a host shall do.
#[derive(Clone, Debug)]
pub struct Goal {
    /// Which end it is.
    pub role: Role,
    /// Connections in all.
    pub connections: u64,
    /// How many of them are awake at once at most at each end, where the others sleep; `None` where none sleeps.
    pub awake: Option<u64>,
    /// A file descriptor is kept of each connection that is awake, where others sleep (`Host::keeps_descriptors`).
    pub keeps_descriptors: bool,
    /// The served ports; where a client's connections go, and from where.
    pub routes: Routes,
    /// Cores to use, one shard each; not empty.
    pub cores: Vec<usize>,
    /// What is spoken.
    pub layers: Layers,
}

impl Goal {
    /// The sockets that so many connections have at one end: those asleep have none.
    pub fn sockets(&self, connections: u64) -> u64 {
        self.awake.map_or(connections, |awake| awake.min(connections))
    }

    /// How many of `planned` connections may be awake at once at each end, where `open` of at most `nofile` file descriptors
    /// are in use already.
    pub fn awake_within(&self, planned: u64, nofile: u64, open: u64) -> u64 {
        let goal = |awake| Goal { awake: Some(awake), ..self.clone() };
        let needs = |awake| goal(awake).needs(self.connections, nofile);
        awake_within(planned, self.keeps_descriptors, nofile.saturating_sub(open), needs)
    }

    /// The server's shards, whether descriptors suffice or not.
    pub fn server_shards(&self, connections: u64, nofile: u64) -> Vec<ShardPlan> {
        let goal = ServerGoal {
            cores: self.cores.clone(),
            ports: self.routes.ports,
            sharing: PortSharing::Subset,
            connections,
            awake: self.awake,
            keeps_descriptors: self.keeps_descriptors,
            nofile,
            open: 0,
        };
        layout(&goal, connections)
    }

    /// The rings of the client's shards, whether descriptors suffice or not.
    pub fn client_shards(&self, connections: u64, nofile: u64) -> Vec<Vec<u32>> {
        let client = self.client(nofile);
        (0..client.shards).map(|index| client.rings(connections, index)).collect()
    }

    fn client(&self, nofile: u64) -> ClientGoal {
        ClientGoal {
            shards: self.cores.len() as u64,
            concurrency: DEFAULT_CONCURRENCY,
            nofile,
            awake: self.awake,
            keeps_descriptors: self.keeps_descriptors,
        }
    }

    /// What `connections` need in each process: one at each end that is here.
    pub fn processes(&self, connections: u64, nofile: u64) -> Vec<Needs> {
        let server = || needs(&self.server_shards(connections, nofile), self.keeps_descriptors);
        let client = || self.client(nofile).needs(connections);
        let ends = [self.role.serves().then(server), self.role.dials().then(client)];
        ends.into_iter().flatten().collect()
    }

    /// The file descriptors that `connections` need at one end; the ends of `Both` have a limit each, so
    /// the larger need counts.
    pub fn needs(&self, connections: u64, nofile: u64) -> Needs {
        let processes = self.processes(connections, nofile).into_iter();
        // A role has one end at least.
        processes.max_by_key(Needs::descriptors).unwrap_or_default()
    }

    /// Bytes of locked memory that `connections` need where rings are charged: a user's processes are
    /// charged together, and glommio starts with no less than `GLOMMIO_MEMLOCK`.
    pub fn locked_bytes(&self, connections: u64, nofile: u64) -> u64 {
        let all: u64 = self.processes(connections, nofile).iter().map(Needs::locked_bytes).sum();
        all.max(GLOMMIO_MEMLOCK)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Ports;

    /// Where descriptors are kept of those awake, as many are planned as there are descriptors, with some to spare. Where
    /// more are asked for, they do not fit.
    #[test]
    fn those_awake_fit_the_descriptors_that_are_kept() {
        for role in [Role::Server, Role::Client, Role::Both] {
            let routes = Routes { targets: Vec::new(), ports: Ports::ARTICLE, sources: Vec::new() };
            let (connections, cores, layers) = (1_000_000, vec![0, 1], Layers::default());
            let newer =
                Goal { role, connections, awake: Some(262_144), keeps_descriptors: false, routes, cores, layers };
            let older = Goal { keeps_descriptors: true, ..newer.clone() };
            for nofile in [20_000, 32_768] {
                let needs = |goal: &Goal| goal.needs(connections, nofile);
                assert!(needs(&newer).fit(nofile) && !needs(&older).fit(nofile), "{role:?} {nofile}");
                assert_eq!(newer.awake_within(262_144, nofile, 0), 262_144);
                let awake = older.awake_within(262_144, nofile, 0);
                assert!((nofile * 3 / 4..nofile).contains(&awake), "{role:?} {nofile}: {awake}");
                let planned = needs(&Goal { awake: Some(awake), ..older.clone() });
                assert!(planned.kept >= awake && planned.fit(nofile - awake / 8), "{planned:?}");
                assert!(older.awake_within(262_144, nofile, 1_000) < awake);
            }
            assert_eq!(older.awake_within(1_024, 100, 0), 1, "one can always be awake");
        }
    }
}
