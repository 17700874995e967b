//! What a host shall do, and what its processes need for that.

use super::shards::layout;
use super::{ClientGoal, GLOMMIO_MEMLOCK, Needs, PortSharing, Routes, ServerGoal, ShardPlan, needs};
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

    /// The server's shards, whether descriptors suffice or not.
    pub fn server_shards(&self, connections: u64, nofile: u64) -> Vec<ShardPlan> {
        let (cores, ports, awake) = (self.cores.clone(), self.routes.ports, self.awake);
        let sharing = PortSharing::Subset;
        layout(&ServerGoal { cores, ports, sharing, connections, awake, nofile, open: 0 }, connections)
    }

    /// The rings of the client's shards, whether descriptors suffice or not.
    pub fn client_shards(&self, connections: u64, nofile: u64) -> Vec<Vec<u32>> {
        let client = self.client(nofile);
        (0..client.shards).map(|index| client.rings(connections, index)).collect()
    }

    fn client(&self, nofile: u64) -> ClientGoal {
        let (shards, concurrency) = (self.cores.len() as u64, DEFAULT_CONCURRENCY);
        ClientGoal { shards, concurrency, nofile, awake: self.awake }
    }

    /// What `connections` need in each process: one at each end that is here.
    pub fn processes(&self, connections: u64, nofile: u64) -> Vec<Needs> {
        let server = || needs(&self.server_shards(connections, nofile));
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
