//! What a shard's connections are made of, and the times and amounts by which the engine works.

use std::time::Duration;

use super::admission::{AdmissionGate, SharedLimit};
use super::hibernation::HibernationConfig;
use crate::constants::MAX_PENDING_BYTES;
use crate::sys::Filter;

/// What a shard's connections are made of. `ConnectionsConfig::new` has a default for all but the slots.
pub struct ConnectionsConfig {
    /// Slots of each ring.
    pub rings: Vec<u32>,
    /// Live connections beyond which new ones are refused.
    pub capacity: u64,
    /// How idle connections wait; with `None` each waits in a poll.
    pub filter: Option<FilterConfig>,
    /// A limit that this shard shares with others; with `None` `capacity` is the only one, as in a client.
    pub shared_limit: Option<SharedLimit>,
    /// While it is shut, new connections are refused for want of memory.
    pub gate: AdmissionGate,
    /// Bytes kept at most for a peer that does not read. Beyond it the connection is reset.
    pub max_pending: usize,
    /// Whether a connection that was reset is asked for its last bytes and for the error.
    pub drain_after_reset: bool,
    /// Accepts begun per second; with `None` as many as come.
    pub accept_rate: Option<f64>,
    /// Silence after which a connection is closed, up to `LONGEST_IDLE`; with `None` never.
    pub idle_timeout: Option<Duration>,
    /// How silent connections sleep; with `None` they keep their sockets.
    pub hibernation: Option<HibernationConfig>,
    /// Times and amounts by which the engine works.
    pub timing: Timing,
}

impl ConnectionsConfig {
    /// Connections in rings of so many slots each, `capacity` of them live at most. Each waits in a poll, and none
    /// is closed for silence.
    pub fn new(rings: Vec<u32>, capacity: u64) -> ConnectionsConfig {
        ConnectionsConfig {
            rings,
            capacity,
            filter: None,
            shared_limit: None,
            gate: AdmissionGate::default(),
            max_pending: MAX_PENDING_BYTES,
            drain_after_reset: false,
            accept_rate: None,
            idle_timeout: None,
            hibernation: None,
            timing: Timing::default(),
        }
    }
}

/// Connections wait behind a filter.
pub struct FilterConfig {
    /// The filter, which was put on the listeners before they listened.
    pub filter: Filter,
    /// Each connection receives once in this time although nothing was announced. It takes longer where there are
    /// more than some 6,000 connections for each second of it.
    pub speculative_period: Duration,
}

/// Within this time each connection behind a filter receives once although nothing was announced: the kernel may have
/// given it up, without a segment, because its peer was silent. With keepalives it is their time.
pub const SPECULATIVE_RECEIVE_PERIOD: Duration = Duration::from_secs(600);

/// Times and amounts by which the engine works. The tests have shorter and smaller ones, to come to the same states
/// with fewer connections.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    /// How long a segment takes at most from the filter to its socket, or to the backlog of a socket that its owner
    /// is using: microseconds of one softirq. A pause of this length lies between two looks at a connection that may
    /// have missed a segment.
    pub segment_time: Duration,
    /// The shortest time from one step of speculative receives to the next.
    pub shortest_speculative_step: Duration,
    /// The longest time from one step of speculative receives to the next.
    pub longest_speculative_step: Duration,
    /// Connections that were reset and are dismantled in one batch. Each takes the kernel as long as a message or
    /// two, and the messages that come meanwhile wait for it.
    pub resets_per_batch: usize,
}

impl Default for Timing {
    fn default() -> Timing {
        Timing {
            segment_time: Duration::from_millis(100),
            shortest_speculative_step: Duration::from_millis(10),
            longest_speculative_step: Duration::from_secs(1),
            resets_per_batch: 32,
        }
    }
}
