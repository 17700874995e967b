//! How a server's idle connections wait.

use crate::error::{Errno, Error, Result};
use crate::host::Host;
use crate::plan::{Park, ShardPlan};
use crate::sys::Filter;

/// How idle connections are to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Parking {
    /// Behind a filter where it may be had, in polls otherwise.
    #[default]
    Auto,
    /// In polls.
    Poll,
    /// Behind a filter, or not at all.
    Filter,
}

/// How they wait, and why not otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parked {
    /// How.
    pub park: Park,
    /// Why not behind a filter, if they were to.
    pub refusal: Option<Errno>,
}

impl Parked {
    /// The filter of a shard, if it is to have one.
    pub(super) fn filter(self, plan: &ShardPlan) -> Result<Option<Filter>> {
        if self.park == Park::Poll {
            return Ok(None);
        }
        let slots = u32::try_from(plan.slots()).map_err(|_| Error::bug(format!("{} slots", plan.slots())))?;
        Filter::new(slots).map(Some).map_err(|error| {
            Error::host(
                format!("load a socket filter: {}", Errno::of(&error)),
                "connections cannot wait behind a filter without CAP_BPF and CAP_CHOWN",
                "run it as root, or with --park poll",
            )
        })
    }
}

impl Parking {
    /// Chooses for this host.
    pub(super) fn choose(self, host: &Host) -> Parked {
        match (self, host.filters()) {
            (Parking::Poll, _) => Parked { park: Park::Poll, refusal: None },
            (Parking::Auto, Err(refusal)) => Parked { park: Park::Poll, refusal: Some(refusal) },
            _ => Parked { park: Park::Filter, refusal: None },
        }
    }
}
