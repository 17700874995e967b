//! How long something may take at most, and the times that make sense for it.

use std::fmt;
use std::time::Duration;

use super::{ConfigError, Result};

/// The shortest time that is worth waiting. In less, it is luck whether an answer from the same host is in time.
const SHORTEST: Duration = Duration::from_millis(1);

/// A year, with which no clock arithmetic overflows.
pub(crate) const LONGEST_TIME: Duration = Duration::from_secs(366 * 24 * 3600);

/// The whole days of a time.
pub(crate) fn days(time: Duration) -> u64 {
    time.as_secs() / (24 * 3600)
}

/// What may take a time at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Timeout {
    /// A connect.
    Connect,
    /// An answer of the server.
    Reply,
    /// A TLS handshake.
    Handshake,
    /// The receipt of a publication in a fan-out.
    Receipt,
}

impl Timeout {
    /// Refuses a time in which nothing could succeed, and one that no clock reaches. Fails with `ConfigError::Timeout`.
    pub(crate) fn check(self, asked: Duration) -> Result<()> {
        if (SHORTEST..=LONGEST_TIME).contains(&asked) {
            return Ok(());
        }
        Err(ConfigError::Timeout { what: self, asked, shortest: SHORTEST, longest: LONGEST_TIME }.into())
    }
}

impl fmt::Display for Timeout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Timeout::Connect => "a connect",
            Timeout::Reply => "an answer",
            Timeout::Handshake => "a TLS handshake",
            Timeout::Receipt => "a receipt",
        })
    }
}
