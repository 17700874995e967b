//! How a server's idle connections wait.

use crate::error::Errno;
use crate::host::Host;
use crate::plan::Park;

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
