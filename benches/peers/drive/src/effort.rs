//! How much to run.

use std::time::Duration;

/// How much to run.
pub struct Effort {
    pub rounds: usize,
    pub idle_connections: usize,
    pub idle_time: Duration,
    /// How long the connections of `sparse` send their messages.
    pub sparse_time: Duration,
    pub ramp_connections: usize,
    /// Connections of the closed loop.
    pub active: Vec<usize>,
    /// Connections with an offered load.
    pub offered: Vec<usize>,
    pub lasting: Duration,
    /// MiB of a guest, and connections that two others open to it: more than it holds.
    pub guest: (u64, usize),
}

impl Effort {
    /// What was asked for: a look at whether everything works if `quick`; 5 rounds, or 1 for a look, if not said.
    pub fn of(quick: bool, rounds: Option<usize>) -> Effort {
        if quick {
            return Effort {
                rounds: rounds.unwrap_or(1),
                idle_connections: 500,
                idle_time: Duration::from_millis(500),
                sparse_time: Duration::from_secs(2),
                ramp_connections: 500,
                active: vec![50],
                offered: vec![50],
                lasting: Duration::from_millis(500),
                guest: (256, 60_000),
            };
        }
        Effort {
            rounds: rounds.unwrap_or(5),
            // Both ends of as many are descriptors of this process once, to know what a bare socket takes.
            idle_connections: 9_000,
            idle_time: Duration::from_secs(5),
            // Each of them speaks some four times.
            sparse_time: Duration::from_secs(10),
            ramp_connections: 18_000,
            active: vec![100, 10_000],
            offered: vec![100, 10_000, 100_000],
            lasting: Duration::from_secs(2),
            guest: (512, 150_000),
        }
    }
}
