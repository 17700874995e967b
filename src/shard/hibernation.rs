//! How the connections of a process's shards sleep: what a server and a client have in common.

use std::io;
use std::time::Duration;

use super::ShardHandle;
use crate::connections::{HibernationConfig, KernelHost};
use crate::error::{Errno, Result};
use crate::host::{Host, Refused, SharedCatcher};
use crate::sys::Catcher;

/// The parts that all shards of a process use to put connections to sleep.
pub struct SharedHibernation {
    after: Duration,
    host: Host,
    shared: SharedCatcher,
    /// File descriptors that each shard has to spare.
    spare: u64,
}

impl SharedHibernation {
    /// Connections fall asleep once they were silent for `after`. All shards together have `spare` file descriptors for
    /// that.
    pub fn new(after: Duration, host: Host, shared: SharedCatcher, spare: u64, shards: usize) -> SharedHibernation {
        SharedHibernation { after, host, shared, spare: spare / shards.max(1) as u64 }
    }

    /// The catcher of the segments of sleeping connections.
    pub fn catcher(&self) -> &Catcher {
        &self.shared.catcher
    }

    /// How the connections of a shard sleep. The shard has so many connections at most, and so many slots. `kernel`
    /// makes its way to the kernel.
    pub fn of_shard(
        &self,
        handle: &ShardHandle,
        (connections, slots): (u64, u64),
        kernel: impl FnOnce(&SharedCatcher) -> io::Result<KernelHost>,
    ) -> Result<HibernationConfig> {
        let kernel = kernel(&self.shared).map(|kernel| kernel.within_descriptors(self.spare));
        let refused = |error| self.host.hibernation_refused(Refused::Answers, Errno::of(&error));
        Ok(HibernationConfig {
            keepalive: None,
            after: self.after,
            most: HibernationConfig::names(connections, slots),
            most_drowsy: HibernationConfig::most_drowsy(self.spare),
            keeps_descriptors: self.shared.keeps_descriptors,
            memory: None,
            socketless: true,
            wakes: handle.wakes().clone(),
            host: Box::new(kernel.map_err(refused)?),
        })
    }
}
