//! The terms on which connections come and go: what a shard has room for, and why a connection
//! ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use crate::error::Errno;
use crate::sys::Filter;

/// What a shard's connections are made of.
pub struct ConnectionsConfig {
    /// Slots of each ring.
    pub rings: Vec<u32>,
    /// Live connections beyond which new ones are refused.
    pub capacity: u64,
    /// How connections wait that have nothing to say; `None` has each wait in a poll.
    pub filter: Option<FilterConfig>,
    /// A limit that this shard shares with others; `None` where `capacity` is all there is, as in a client.
    pub shared_limit: Option<SharedLimit>,
    /// While it is shut, new connections are refused for want of memory.
    pub gate: AdmissionGate,
    /// Bytes kept at most for a peer that does not read.
    pub max_pending: usize,
    /// Whether a connection that was reset is asked for its last bytes and for the error.
    pub drain_after_reset: bool,
    /// Accepts begun per second; `None` is as many as come.
    pub accept_rate: Option<f64>,
}

/// Connections wait behind a filter.
pub struct FilterConfig {
    /// The filter, which was on the listeners before they listened.
    pub filter: Filter,
    /// Within so long each is tried, whether the kernel has given it up without a segment; longer where there are
    /// more than some 6,000 a second.
    pub speculative_period: Duration,
}

/// A limit on the connections of all shards together, and the most that were live at one moment. Shards share
/// nothing else: how many connections each of them gets is not known beforehand, and the highest sum over shards
/// cannot be had from the highest number of each. A connection touches it twice, when it opens and when it ends;
/// messages never do.
#[derive(Debug, Clone)]
pub struct SharedLimit {
    admitted: Arc<Admitted>,
    most: u64,
}

/// On a cache line of its own, and not on that of a neighbour's prefetch.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Admitted {
    now: AtomicU64,
    peak: AtomicU64,
}

impl SharedLimit {
    /// Admits `most` connections at a time.
    pub fn new(most: u64) -> SharedLimit {
        SharedLimit { admitted: Arc::default(), most }
    }

    /// The most connections that were admitted at one moment.
    pub fn peak(&self) -> u64 {
        self.admitted.peak.load(Ordering::Relaxed)
    }

    pub(super) fn enter(&self) -> bool {
        let below = |admitted| (admitted < self.most).then_some(admitted + 1);
        let before = self.admitted.now.fetch_update(Ordering::Relaxed, Ordering::Relaxed, below);
        if let Ok(before) = before
            && before >= self.peak()
        {
            self.admitted.peak.fetch_max(before + 1, Ordering::Relaxed);
        }
        before.is_ok()
    }

    pub(super) fn is_full(&self) -> bool {
        self.admitted.now.load(Ordering::Relaxed) >= self.most
    }

    pub(super) fn leave(&self) {
        self.admitted.now.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Whether new connections are let in. Set from outside the shards, which only read it.
#[derive(Debug, Clone, Default)]
pub struct AdmissionGate {
    level: Arc<AtomicU8>,
}

/// How far a gate is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum AdmissionState {
    /// New connections are let in.
    Open = 0,
    /// They are accepted and reset.
    Refusing = 1,
    /// The listeners are shut down: nothing is accepted, and the kernel itself refuses.
    NotListening = 2,
}

impl AdmissionGate {
    /// Opens or shuts it.
    pub fn set(&self, level: AdmissionState) {
        self.level.store(level as u8, Ordering::Relaxed);
    }

    /// How far it is open.
    pub fn level(&self) -> AdmissionState {
        match self.level.load(Ordering::Relaxed) {
            0 => AdmissionState::Open,
            1 => AdmissionState::Refusing,
            _ => AdmissionState::NotListening,
        }
    }
}

/// Why a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum CloseReason {
    /// This end asked for it: `Ctx::close`, or `Reply::Close`.
    Local,
    /// The peer closed its side in order (FIN), and all that came before it was received.
    PeerClosed,
    /// The peer reset the connection (RST). What it had sent and was not received yet is void.
    PeerReset,
    /// The connection broke, with the kernel's error: ETIMEDOUT where the peer did not acknowledge for too long or did
    /// not answer keepalives, EHOSTUNREACH and the like where the network said so.
    Failed(Errno),
    /// The peer did not read, and more than `ServerBuilder::max_pending` bytes would have been kept for it.
    SlowReader,
    /// Nothing was received for longer than `ServerBuilder::idle_timeout`.
    IdleTimeout,
    /// The deadline passed that the service had set, and the service closed the connection when it was told.
    Deadline,
    /// The server stops.
    Stopping,
    /// A dial did not succeed. No service is told of it.
    #[doc(hidden)]
    NotOpened(Errno),
}
