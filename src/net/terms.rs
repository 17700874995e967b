//! The terms on which connections come and go: what a shard has room for, and how and why a
//! connection ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::error::Errno;

/// What a shard's connections are made of.
pub struct NetPlan {
    /// Slots of each ring.
    pub rings: Vec<u32>,
    /// Live connections beyond which new ones are refused.
    pub capacity: u64,
    /// A limit that this shard shares with others; `None` where `capacity` is all there is.
    pub admission: Option<Admission>,
    /// While it is shut, new connections are refused for want of memory.
    pub gate: Gate,
    /// Bytes kept at most for a peer that does not read.
    pub max_pending: usize,
}

/// A limit on the connections of several shards. The one thing that shards share, and only where
/// nobody can tell beforehand how many connections each will get.
#[derive(Debug, Clone)]
pub struct Admission {
    admitted: Arc<AtomicU64>,
    most: u64,
}

impl Admission {
    /// Admits `most` connections at a time.
    pub fn new(most: u64) -> Admission {
        Admission { admitted: Arc::default(), most }
    }

    pub(super) fn enter(&self) -> bool {
        let below = |admitted| (admitted < self.most).then_some(admitted + 1);
        self.admitted.fetch_update(Ordering::Relaxed, Ordering::Relaxed, below).is_ok()
    }

    pub(super) fn leave(&self) {
        self.admitted.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Lets new connections in while it is open, as it is at first. Shards only read it.
#[derive(Debug, Clone, Default)]
pub struct Gate {
    shut: Arc<AtomicBool>,
}

impl Gate {
    /// Shuts or opens it.
    pub fn set(&self, shut: bool) {
        self.shut.store(shut, Ordering::Relaxed);
    }

    /// Whether it is shut.
    pub fn is_shut(&self) -> bool {
        self.shut.load(Ordering::Relaxed)
    }
}

/// How to close.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// An orderly end: FIN once everything on its way to the peer has been sent, and TIME_WAIT on
    /// the side that closes first.
    Fin,
    /// FIN at once; what has not been sent is dropped.
    Now,
    /// At once: RST, nothing left behind.
    Reset,
}

/// Why a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// The driver wanted it.
    Ours,
    /// The peer closed its side (FIN).
    PeerEnded,
    /// The connection broke (RST, time-out).
    Broken(Errno),
    /// The peer did not read what we kept for it.
    SlowReader,
    /// A dial did not succeed.
    NeverOpened(Errno),
}
