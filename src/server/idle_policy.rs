//! How a server's idle connections wait.

use crate::error::{Errno, Error, FilterReason, HostError, Result};
use crate::host::Host;
use crate::plan::{IdleBackend, ShardPlan, needs};
use crate::sys::{Catcher, Filter};

/// How the connections of a server wait that have nothing to say.
///
/// Waiting behind a BPF filter on its socket takes no memory for a connection. Waiting in a poll of its ring takes 256
/// bytes of the kernel. A filter needs CAP_BPF, CAP_PERFMON and CAP_CHOWN, `net.ipv4.tcp_migrate_req` off, and a file
/// descriptor for each accept in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum IdlePolicy {
    /// Behind a filter where this process may load one, in polls otherwise.
    #[default]
    Auto,
    /// In polls.
    Poll,
    /// Behind a filter. Where this process may not load one the server does not start: it fails with
    /// [`HostReason::Filter`](crate::error::HostReason::Filter).
    Filter,
}

/// How idle connections wait on this host, and why not behind a filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdleChoice {
    /// How they wait.
    pub park: IdleBackend,
    /// Why not behind a filter, if the policy asked for one.
    pub refusal: Option<Errno>,
}

impl IdleChoice {
    /// The filter of a shard, if its connections wait behind one. With a catcher it catches segments of sleeping
    /// connections too.
    pub(super) fn filter(self, plan: &ShardPlan, catcher: Option<&Catcher>) -> Result<Option<Filter>> {
        if self.park == IdleBackend::Poll {
            return Ok(None);
        }
        let slots = u32::try_from(plan.slots()).map_err(|_| Error::bug(format!("{} slots", plan.slots())))?;
        Filter::new(slots, catcher).map(Some).map_err(|error| refused(&Host::here(), Errno::of(&error)))
    }
}

impl IdlePolicy {
    /// Chooses for this host, where `nofile` files may be open.
    pub(super) fn choose(self, host: &Host, plans: &[ShardPlan], nofile: u64) -> Result<IdleChoice> {
        if self == IdlePolicy::Poll {
            return Ok(IdleChoice { park: IdleBackend::Poll, refusal: None });
        }
        // Each accept in flight may bring a plain descriptor, which is closed once its connection is in its slot.
        let accepts: u64 = plans.iter().map(|plan| (plan.accepts * plan.ports.len()) as u64).sum();
        let enough = needs(plans, host.keeps_descriptors()).descriptors() + accepts <= nofile;
        let possible = if enough { host.filters() } else { Err(Errno::EMFILE) };
        match possible {
            Ok(()) => Ok(IdleChoice { park: IdleBackend::Filter, refusal: None }),
            Err(refusal) if self == IdlePolicy::Auto => {
                Ok(IdleChoice { park: IdleBackend::Poll, refusal: Some(refusal) })
            }
            Err(refusal) => Err(refused(host, refusal)),
        }
    }
}

fn refused(host: &Host, errno: Errno) -> Error {
    let reason = match errno {
        Errno::EMFILE => FilterReason::NoDescriptor,
        Errno::EOPNOTSUPP => FilterReason::Network,
        Errno::EPERM | Errno::EACCES | Errno::ENOSYS if host.may_filter() => FilterReason::Forbidden,
        _ => FilterReason::Privilege,
    };
    HostError::new("socket filter", "", errno, reason).into()
}
