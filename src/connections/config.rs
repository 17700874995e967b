//! The configuration of a shard's connections: slots, limits, and the engine's times and amounts.

use std::time::Duration;

use super::admission::{AdmissionGate, SharedLimit};
use super::hibernation::HibernationConfig;
use crate::constants::MAX_PENDING_BYTES;
use crate::sys::Filter;
#[cfg(feature = "tls")]
use crate::tls::layer::LayerConfig;

/// The configuration of a shard's connections. `ConnectionsConfig::new` has a default for all but the slots.
pub struct ConnectionsConfig {
    /// Slots of each ring.
    pub rings: Vec<u32>,
    /// Live connections beyond which new ones are refused.
    pub capacity: u64,
    /// How idle connections wait; with `None` each waits in a poll.
    pub filter: Option<FilterConfig>,
    /// A limit that this shard shares with others. With `None` `capacity` is the only limit, as in a client.
    pub shared_limit: Option<SharedLimit>,
    /// While it is shut, new connections are refused because memory is short.
    pub gate: AdmissionGate,
    /// Bytes kept at most for a peer that does not read, 4,096 at least; with TLS more, as sealed bytes are longer. A
    /// connection that would need more is reset.
    pub max_pending: usize,
    /// Whether a connection that was reset is asked for its last bytes and for the error.
    pub drain_after_reset: bool,
    /// Accepts that begin per second at most. `None` does not limit them.
    pub accept_rate: Option<f64>,
    /// Silence after which a connection is closed, up to `LONGEST_IDLE`; with `None` never.
    pub idle_timeout: Option<Duration>,
    /// How silent connections sleep; with `None` they keep their sockets.
    pub hibernation: Option<HibernationConfig>,
    /// How the connections speak TLS; with `None` they do not.
    #[cfg(feature = "tls")]
    pub tls: Option<LayerConfig>,
    /// Times and amounts by which the engine works.
    pub timing: Timing,
}

impl ConnectionsConfig {
    /// A configuration for rings of these slots, with `capacity` live connections at most. Idle connections wait in
    /// polls, and none is closed for silence.
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
            #[cfg(feature = "tls")]
            tls: None,
            timing: Timing::default(),
        }
    }
}

/// Connections wait behind a filter.
pub struct FilterConfig {
    /// The filter. It was attached to the listeners before they began to listen.
    pub filter: Filter,
    /// Each connection receives once in this time although nothing was announced. A shard makes some 6,000 such
    /// receives a second at most, so with more connections it takes longer.
    pub speculative_period: Duration,
}

/// Within this time each connection behind a filter receives once although nothing was announced. The kernel may have
/// given the connection up because its peer was silent, without a segment that the filter could announce. If keepalives
/// are on, their time is used instead.
pub const SPECULATIVE_RECEIVE_PERIOD: Duration = Duration::from_secs(600);

/// Times and amounts by which the engine works. Tests pass shorter and smaller ones, to reach the same states with
/// fewer connections.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    /// How long a segment takes at most from the filter to its socket, or to the backlog of a socket that is in use:
    /// some microseconds within one softirq. A pause of this length separates the two checks of a connection that may
    /// have missed a segment.
    pub segment_time: Duration,
    /// The shortest time from one step of speculative receives to the next.
    pub shortest_speculative_step: Duration,
    /// The longest time from one step of speculative receives to the next.
    pub longest_speculative_step: Duration,
    /// Reset connections that are dismantled in one batch. The kernel needs as long for each as for one or two
    /// messages, and messages that come meanwhile wait until the batch is done.
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
