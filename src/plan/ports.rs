//! Runs of ports, and the shards that listen on them.

use crate::error::{ConfigError, Result};

/// Which ports a shard listens on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum PortSharing {
    /// Each port belongs to one shard: a shard has a contiguous part of the ports. Where there are more shards than
    /// ports, several shards share a port, and the kernel spreads its connections over them by a hash.
    #[default]
    Subset,
    /// Every shard listens on every port, and the kernel spreads each port's connections over all shards by a hash:
    /// for clients that know a single port.
    All,
}

/// A run of TCP ports that follow one another: at least one, from 1 to 65535.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    first: u16,
    count: u16,
}

impl Ports {
    /// 8888 to 8987, the default: the ports of the Chinese article on a million connections that README names.
    pub const ARTICLE: Ports = Ports { first: 8888, count: 100 };

    /// `count` ports from `first` on.
    ///
    /// Fails with [`ConfigError::NoPort`] where one of them is 0, and with [`ConfigError::PortsBeyondLast`] where
    /// the run ends beyond 65535.
    pub fn new(first: u16, count: u16) -> Result<Ports> {
        if first == 0 || count == 0 {
            return Err(ConfigError::NoPort { first, count }.into());
        }
        let beyond_first = u16::MAX - first;
        if count - 1 > beyond_first {
            return Err(ConfigError::PortsBeyondLast { first, count, most: beyond_first + 1 }.into());
        }
        Ok(Ports { first, count })
    }

    /// The first port.
    pub fn first(self) -> u16 {
        self.first
    }

    /// The last port.
    pub fn last(self) -> u16 {
        self.first + (self.count - 1)
    }

    /// How many ports there are.
    pub fn count(self) -> usize {
        usize::from(self.count)
    }

    /// Whether `port` is one of them.
    pub fn contains(self, port: u16) -> bool {
        (self.first..=self.last()).contains(&port)
    }

    /// The port at `index`, counted from 0; beyond the last one it begins anew.
    pub fn nth(self, index: u64) -> u16 {
        self.first + (index % u64::from(self.count)) as u16
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_end_at_65535() {
        assert!(Ports::new(65_535, 1).is_ok());
        assert!(Ports::new(65_500, 37).is_err());
        assert!(Ports::new(0, 1).is_err());
        assert!(Ports::new(1, 0).is_err());
    }
}
