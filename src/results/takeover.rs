//! What went from one server to the next.

use serde::{Deserialize, Serialize};

use crate::stats::Snapshot;

/// Connections that went from one server to the next. The result of a server that cannot be taken over has no such part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct TakeoverDocument {
    /// Those that were taken over at the start.
    pub taken_over: u64,
    /// Those that were handed over at the end.
    pub handed_over: u64,
    /// Those that were awake in a process which was killed.
    pub lost: u64,
}

impl TakeoverDocument {
    /// What was counted.
    pub fn of(counted: &Snapshot) -> TakeoverDocument {
        let Snapshot { taken_over, handed_over, lost_in_takeover: lost, .. } = *counted;
        TakeoverDocument { taken_over, handed_over, lost }
    }
}
