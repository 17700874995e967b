//! How long something lasts, how often it happens, and the times and rates that make sense for it.

use std::fmt;
use std::time::Duration;

use super::timeout::{LONGEST_TIME, days};
use super::{ConfigError, Result};

/// The shortest time between two messages of a connection.
pub(crate) const SHORTEST_INTERVAL: Duration = Duration::from_millis(1);

/// The shortest time between two keepalives of a connection. For more of them there are messages.
const SHORTEST_KEEPALIVE: Duration = Duration::from_secs(1);

/// What lasts for a time, or happens once in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Lasting {
    /// The hold between two audits.
    Hold,
    /// The calm before a storm.
    Calm,
    /// A storm.
    Storm,
    /// What comes after a storm.
    After,
    /// The time between two messages of a connection.
    Interval,
    /// The time between two keepalives of a connection.
    KeepaliveInterval,
    /// The time between two publications of a fan-out.
    Publications,
}

impl Lasting {
    /// Refuses a time that no clock reaches, and one in which nothing could be done. Fails with `ConfigError::Lasting`.
    pub(crate) fn check(self, asked: Duration) -> Result<()> {
        let shortest = match self {
            Lasting::Hold | Lasting::Calm | Lasting::Storm | Lasting::After => Duration::ZERO,
            Lasting::Interval => SHORTEST_INTERVAL,
            Lasting::KeepaliveInterval => SHORTEST_KEEPALIVE,
            Lasting::Publications => Duration::from_nanos(1),
        };
        if (shortest..=LONGEST_TIME).contains(&asked) {
            return Ok(());
        }
        Err(ConfigError::Lasting { what: self, asked, shortest, longest: LONGEST_TIME }.into())
    }

    /// What it means that a time is shorter or longer than these.
    pub(super) fn means(self, shortest: Duration, longest: Duration) -> String {
        let days = days(longest);
        match self {
            Lasting::Hold | Lasting::Calm | Lasting::Storm | Lasting::After => format!("it lasts {days} days at most"),
            Lasting::Interval => {
                let least = shortest.as_millis();
                format!("messages of one connection are at least {least} ms apart, and {days} days at most")
            }
            Lasting::KeepaliveInterval => {
                let least = shortest.as_secs();
                format!("keepalives of one connection are at least {least} s apart, and {days} days at most")
            }
            Lasting::Publications => format!("it is more than 0, and {days} days at most"),
        }
    }
}

impl fmt::Display for Lasting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Lasting::Hold => "a hold",
            Lasting::Calm => "the calm before a storm",
            Lasting::Storm => "a storm",
            Lasting::After => "what comes after a storm",
            Lasting::Interval => "the time between two messages of a connection",
            Lasting::KeepaliveInterval => "the time between two keepalives of a connection",
            Lasting::Publications => "the time between two publications",
        })
    }
}

/// What is done so many times a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Rated {
    /// A server accepts connections.
    Accepts,
    /// A client dials connections.
    Connects,
    /// A client closes connections.
    Closes,
}

impl Rated {
    /// Refuses a rate at which nothing would ever be done. Fails with `ConfigError::Rate`.
    pub(crate) fn check(self, asked: Option<f64>) -> Result<()> {
        match asked.filter(|rate| !rate.is_finite() || *rate <= 0.0) {
            Some(rate) => Err(ConfigError::Rate { what: self, asked: rate.to_string() }.into()),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Rated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Rated::Accepts => "accepted",
            Rated::Connects => "dialed",
            Rated::Closes => "closed",
        })
    }
}
