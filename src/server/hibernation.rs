//! How a server's connections sleep.

use super::Options;
use super::takeover::{Inheritance, Outliving};
use crate::connections::{HibernationConfig, HibernationHost, KernelHost};
use crate::error::Result;
use crate::host::{Host, SharedCatcher};
use crate::listener::KEEPALIVE_PROBES;
use crate::memory_model::{End, Family};
use crate::plan::{IdleBackend, Layers, ShardPlan, needs};
use crate::shard::{ShardHandle, SharedHibernation};
use crate::stats::Spoken;
use crate::sys::repair::Keepalive;
use crate::sys::{Catcher, Filter};

/// What the shards of a server share whose connections sleep.
pub(super) struct Hibernation {
    shared: SharedHibernation,
    keepalive: Option<Keepalive>,
    /// Some connections come from another process.
    is_inherited: bool,
}

/// How many connections may be awake at once; `None` where none sleeps. Fails where none may sleep here.
pub(super) fn awake(options: &Options, spoken: Spoken, host: &Host) -> Result<Option<u64>> {
    if options.hibernate.is_none() {
        return Ok(None);
    }
    host.check_hibernation()?;
    let family = Family::of(&[options.bind]);
    // In polls, which take the most.
    let ends = [(End::Server, IdleBackend::Poll)];
    let layers = Layers { conversation: spoken.http, tls: options.tls_version() };
    let planned = || host.awake(options.max_connections, &ends, family, layers, options.memory_reserve);
    Ok(Some(options.awake.unwrap_or_else(planned)))
}

impl Hibernation {
    /// `None` where no connection sleeps.
    pub fn of(
        options: &Options,
        host: &Host,
        plans: &[ShardPlan],
        nofile: u64,
        inheritance: Option<&mut Inheritance>,
    ) -> Result<Option<Hibernation>> {
        let Some(after) = options.hibernate else { return Ok(None) };
        let is_inherited = inheritance.is_some();
        let shared = match inheritance.and_then(Inheritance::catcher) {
            Some((terms, inheritance)) => {
                host.adopt_catcher(&terms, Some(options.ports), |name| inheritance.take(name))?
            }
            None => host.share_catcher(plans.len(), options.max_connections, Some(options.ports))?,
        };
        let spare = nofile.saturating_sub(needs(plans, shared.keeps_descriptors).descriptors());
        Ok(Some(Hibernation {
            is_inherited,
            shared: SharedHibernation::new(after, Host::here(), shared, spare, plans.len()),
            keepalive: options.keepalive.map(|time| Keepalive { time, interval: time, probes: KEEPALIVE_PROBES }),
        }))
    }

    /// What catches the segments of sleeping connections.
    pub fn catcher(&self) -> &Catcher {
        self.shared.catcher()
    }

    /// How the connections of a shard sleep, whose listeners have this filter, or none.
    pub fn of_shard(
        &self,
        handle: &ShardHandle,
        index: usize,
        plan: &ShardPlan,
        filter: Option<&Filter>,
        outliving: Option<&Outliving>,
    ) -> Result<HibernationConfig> {
        let config = self.shared.of_shard(handle, (plan.capacity, plan.slots()), |shared| {
            let SharedCatcher { catcher, grace, keeps_descriptors, steering } = shared;
            let program = filter.map_or_else(|| catcher.program(), Filter::program).try_clone_to_owned()?;
            let catching = (catcher.clone(), steering.clone());
            let kernel = KernelHost::accepting(catching, grace.clone(), index, program, self.keepalive)?;
            // In the lab, Linux 6.1 closed connections in reused sockets, for a cause that may be gone: see
            // `with_new_sockets`.
            let mut kernel = if *keeps_descriptors { kernel.with_new_sockets() } else { kernel };
            if self.is_inherited {
                kernel.expect_other_programs();
            }
            Ok(kernel)
        })?;
        let memory = outliving.map(|outliving| outliving.memory(index)).transpose()?;
        Ok(HibernationConfig { memory, keepalive: self.keepalive.map(|keepalive| keepalive.time), ..config })
    }
}
