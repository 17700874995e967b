//! Whether one more connection may stand: the limits on their number, and the gate that is shut when memory is short.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

/// Whether one more connection may stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Admission {
    /// It may, and its place in the limits is taken.
    Granted,
    /// As many connections stand as may.
    AtCapacity,
    /// The host is short of memory.
    LowMemory,
}

/// A limit on the connections of several shards together. It is the one thing that they share, as nobody knows
/// beforehand how many connections each of them will get.
#[derive(Debug, Clone)]
pub struct SharedLimit {
    admitted: Arc<AtomicU64>,
    most: u64,
}

impl SharedLimit {
    /// Admits `most` connections at a time.
    pub fn new(most: u64) -> SharedLimit {
        SharedLimit { admitted: Arc::default(), most }
    }

    /// Takes a place, if there is one.
    pub(super) fn enter(&self) -> bool {
        let below = |admitted| (admitted < self.most).then_some(admitted + 1);
        self.admitted.fetch_update(Ordering::Relaxed, Ordering::Relaxed, below).is_ok()
    }

    /// Whether no place is left.
    pub(super) fn is_full(&self) -> bool {
        self.admitted.load(Ordering::Relaxed) >= self.most
    }

    /// Gives a place back.
    pub(super) fn leave(&self) {
        self.admitted.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Whether new connections are let in. It is set from outside the shards, which only read it.
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
