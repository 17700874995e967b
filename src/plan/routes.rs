//! Where a client's connections go, and from where.

use std::net::SocketAddr;

use super::Ports;
use crate::addresses::{self, Address};
use crate::error::{HostError, HostReason, Result};

/// Where a client's connections go: target, port and source of each by its number.
#[derive(Clone, Debug)]
pub struct Routes {
    /// Addresses to connect to; not empty.
    pub targets: Vec<Address>,
    /// Ports of each target.
    pub ports: Ports,
    /// Addresses to connect from; empty lets the kernel choose one.
    pub sources: Vec<Address>,
}

impl Routes {
    /// Routes to and from these addresses.
    ///
    /// Fails with a `ConfigError` where one of them is not a host's address, is named twice, or is of another
    /// family than its counterparts.
    pub fn new(targets: &[Address], ports: Ports, sources: &[Address]) -> Result<Routes> {
        let targets = targets.iter().map(|target| target.reached()).collect();
        let routes = Routes { targets, ports, sources: sources.to_vec() };
        routes.check().map(|()| routes)
    }

    /// What `new` checks.
    pub fn check(&self) -> Result<()> {
        addresses::check(&self.targets, &self.sources)
    }

    /// Connection number `index`: one per (target, port) in turn, then the next source.
    pub fn of(&self, index: u64) -> (Option<Address>, SocketAddr) {
        let port = self.ports.nth(index);
        let round = index / self.ports.count() as u64;
        let targets = self.targets.len() as u64;
        let target = self.targets[(round % targets) as usize];
        let sources = self.sources.len() as u64;
        let source = (sources > 0).then(|| self.sources[(round / targets % sources) as usize]);
        (source, target.at(port))
    }

    /// Distinct (source, target, port) combinations; `u64::MAX` where there are more.
    pub fn tuples(&self) -> u64 {
        self.sources.len().max(1).saturating_mul(self.targets.len()).saturating_mul(self.ports.count()) as u64
    }

    /// Checks that `connections` find source ports: each combination has as many as the host's ephemeral range less
    /// the reserved ones (`ephemeral`).
    ///
    /// Fails with `HostReason::SourcePorts`, which has the arithmetic.
    pub fn fit(&self, connections: u64, ephemeral: u64) -> Result<()> {
        let room = self.tuples().saturating_mul(ephemeral);
        if connections <= room {
            return Ok(());
        }
        let [targets, sources, ports] =
            [self.targets.len(), self.sources.len().max(1), self.ports.count()].map(|number| number as u64);
        let per_source = ephemeral.saturating_mul(targets * ports);
        let reason = HostReason::SourcePorts {
            connections,
            ephemeral,
            sources,
            targets,
            ports,
            possible: room,
            sources_needed: (per_source > 0).then(|| connections.div_ceil(per_source)),
        };
        Err(HostError::new("open", format!("{connections} connections"), None, reason).into())
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// No (source, target, port) gets two more connections than another.
        #[test]
        fn routes_are_even(targets in 1usize..4, ports in 1u16..20, sources in 0usize..4, n in 1u64..2_000) {
            let ip = |i: usize| Address::from(IpAddr::from([127, 0, 0, 1 + i as u8]));
            let routes = Routes { targets: (0..targets).map(ip).collect(), ports: Ports::new(1, ports).unwrap(), sources: (0..sources).map(ip).collect() };
            let mut seen = std::collections::HashMap::new();
            (0..n).for_each(|i| *seen.entry(routes.of(i)).or_insert(0u64) += 1);
            prop_assert_eq!(seen.len() as u64, n.min(routes.tuples()));
            prop_assert!(seen.values().max().unwrap() - seen.values().min().unwrap() <= 1);
        }
    }

    #[test]
    fn the_arithmetic_of_source_ports_is_shown() {
        let routes = Routes {
            targets: vec![IpAddr::from([127, 0, 0, 1]).into()],
            ports: Ports::new(8888, 10).unwrap(),
            sources: vec![],
        };
        assert!(routes.fit(282_320, 28_232).is_ok());
        let error = routes.fit(1_000_000, 28_232).unwrap_err().to_string();
        assert!(
            error.contains("28232 ephemeral ports x 1 source address(es) x 1 target(s) x 10 port(s) = 282320"),
            "{error}"
        );
        assert!(error.contains("give 4 source addresses"), "{error}");
    }
}
