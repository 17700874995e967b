//! Whether one more connection is admitted: the limits on their number, and the gate that is shut when memory is short.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

/// Whether one more connection is admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Admission {
    /// It is, and its place within the limits is taken.
    Granted,
    /// As many connections are live as the limits allow.
    AtCapacity,
    /// The host is short of memory.
    LowMemory,
}

/// A limit on the connections of all shards together, and the most that were live at one moment. Shards share nothing
/// else. They share the limit because the kernel decides how many connections each shard gets, and they share the
/// highest number because it cannot be computed from the highest numbers of each shard. A connection touches it twice,
/// when it opens and when it ends; messages never do.
#[derive(Debug, Clone)]
pub struct SharedLimit {
    admitted: Arc<Admitted>,
    most: u64,
}

/// Aligned to two cache lines, as processors prefetch them in pairs.
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

    /// Takes a place, if there is one.
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

    /// Takes places whether there are any or not: the connections stand already, in another process.
    pub(super) fn enter_anyway(&self, connections: u64) {
        let admitted = self.admitted.now.fetch_add(connections, Ordering::Relaxed) + connections;
        self.admitted.peak.fetch_max(admitted, Ordering::Relaxed);
    }

    /// Whether no place is left.
    pub(super) fn is_full(&self) -> bool {
        self.admitted.now.load(Ordering::Relaxed) >= self.most
    }

    /// Gives places back.
    pub(super) fn leave(&self, connections: u64) {
        self.admitted.now.fetch_sub(connections, Ordering::Relaxed);
    }
}

/// Whether new connections are admitted. The memory monitor sets it, and shards only read it.
#[derive(Debug, Clone, Default)]
pub struct AdmissionGate {
    level: Arc<AtomicU8>,
}

/// How far a gate is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum AdmissionState {
    /// New connections are admitted.
    Open = 0,
    /// New connections are accepted and reset.
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
