//! What a host shall do, and what its processes need for that.

use super::shards::layout;
use super::{GLOMMIO_MEMLOCK, Needs, PortSharing, Routes, ServerGoal, ShardPlan, client_needs, client_rings, needs};
use crate::constants::DEFAULT_CONCURRENCY;

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
