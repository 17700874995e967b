//! How a client's connections sleep.

use std::time::Duration;

use super::workload::{Planned, Workload};
use crate::connections::{HibernationConfig, KernelHost};
use crate::error::{Errno, Result};
use crate::host::{Host, Refused, SharedCatcher};

/// What the shards of a client share whose connections sleep.
pub(super) struct Hibernation {
    after: Duration,
    host: Host,
    shared: SharedCatcher,
    most_drowsy: usize,
}

impl Hibernation {
    /// `None` where no connection sleeps.
    pub fn of(workload: &Workload, planned: &Planned) -> Result<Option<Hibernation>> {
        let Some(after) = workload.hibernate else { return Ok(None) };
        let (host, shards, connections) = (Host::here(), planned.cores.len(), workload.own_connections());
        let needs = planned.goal(workload).needs(connections).descriptors();
        let spare = planned.raised.files.1.soft.saturating_sub(needs + u64::from(planned.concurrency));
        Ok(Some(Hibernation {
            after,
            shared: host.share_catcher(shards, connections, None)?,
            most_drowsy: HibernationConfig::most_drowsy(spare / shards as u64),
            host,
        }))
    }

    /// How the connections of a shard sleep, which has so many of them, and these rings.
    pub fn of_shard(&self, index: usize, connections: u64, rings: &[u32]) -> Result<HibernationConfig> {
        let SharedCatcher { catcher, grace, keeps_descriptors, steering } = &self.shared;
        let kernel = KernelHost::dialing(catcher.clone(), steering.clone(), grace.clone(), index);
        let slots = rings.iter().map(|slots| u64::from(*slots)).sum();
        Ok(HibernationConfig {
            memory: None,
            after: self.after,
            keepalive: None,
            most: HibernationConfig::names(connections, slots),
            most_drowsy: self.most_drowsy,
            keeps_descriptors: *keeps_descriptors,
            host: Box::new(kernel.map_err(|error| self.host.hibernation_refused(Refused::Answers, Errno::of(&error)))?),
        })
    }
}
