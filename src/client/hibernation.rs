//! How a client's connections sleep.

use super::workload::{Planned, Workload};
use crate::connections::{HibernationConfig, KernelHost};
use crate::error::Result;
use crate::host::Host;
use crate::shard::{ShardHandle, SharedHibernation};

/// What the shards of a client share whose connections sleep.
pub(super) struct Hibernation(SharedHibernation);

impl Hibernation {
    /// `None` where no connection sleeps.
    pub fn of(workload: &Workload, planned: &Planned) -> Result<Option<Hibernation>> {
        let Some(after) = workload.hibernate else { return Ok(None) };
        let (host, shards, connections) = (Host::here(), planned.cores.len(), workload.own_connections());
        let needs = planned.goal(workload).needs(connections).descriptors();
        let spare = planned.raised.descriptors().saturating_sub(needs + u64::from(planned.concurrency));
        let shared = host.share_catcher(shards, connections, None)?;
        Ok(Some(Hibernation(SharedHibernation::new(after, host, shared, spare, shards))))
    }

    /// How the connections of a shard sleep, which has so many of them, and these rings.
    pub fn of_shard(
        &self,
        handle: &ShardHandle,
        index: usize,
        connections: u64,
        rings: &[u32],
    ) -> Result<HibernationConfig> {
        let slots = rings.iter().map(|slots| u64::from(*slots)).sum();
        self.0.of_shard(handle, (connections, slots), |shared| {
            KernelHost::dialing(shared.catcher.clone(), shared.steering.clone(), shared.grace.clone(), index)
        })
    }
}
