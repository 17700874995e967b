//! How many connections may be awake at once on this host, where the others sleep.

use super::Host;
use crate::addresses::Address;
use crate::memory_model::{End, Family, asleep, kept};
use crate::plan::{self, IdleBackend, Layers, Reserve};

/// The kernel's memory for sockets that are made and closed all the time, as connections wake and fall asleep, divided by
/// its memory for as many sockets that last. The kernel frees dentries and inodes late, and a page of a slab only once every
/// object in it is free. Measured were 4.7 to 5.6 kB a socket, against 3.6 kB for one that lasts (Linux 6.1, 20,000 to
/// 24,000 connections awake).
const CHURN: f64 = 1.5;

impl Family {
    /// The family of the sockets that listen on these addresses, or connect to them.
    pub fn of(addresses: &[Address]) -> Family {
        if addresses.iter().any(|address| address.ip().is_ipv6()) { Family::V6 } else { Family::V4 }
    }
}

impl Host {
    /// How many of `connections` may be awake at once: as many sockets as the memory has room for that every limit has
    /// left now, beyond the reserve and what all of them take asleep; between `plan::FEWEST_AWAKE` and
    /// `plan::MOST_AWAKE`, as far as there are so many. `ends` are those that this host holds of each connection, and
    /// how they wait; `layers` is what they speak.
    pub fn awake(
        &self,
        connections: u64,
        ends: &[(End, IdleBackend)],
        family: Family,
        layers: Layers,
        reserve: Reserve,
    ) -> u64 {
        let kernel = self.memory_kernel();
        let sleeper = |end: End| asleep(end, family) + kept(end, layers);
        let sleeping = ends.iter().map(|(end, _)| sleeper(*end)).sum::<f64>() * connections as f64;
        let room = self.memory_left().into_iter().map(|limit| {
            let left = limit.left.saturating_sub(reserve.of(limit.total)) as f64;
            let one = |(end, waits): &(End, IdleBackend)| kernel.per_end(*end, family, *waits).counted(limit.by);
            // A cgroup v1 counts next to nothing of an accepted socket, and never less than a byte.
            let socket: f64 = ends.iter().map(one).sum();
            ((left - sleeping).max(0.0) / (CHURN * socket).max(1.0)) as u64
        });
        plan::awake(connections, room.min().unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::host;
    use super::*;
    use crate::plan::{FEWEST_AWAKE, MOST_AWAKE};
    use crate::tls_version::TlsVersion;

    #[test]
    fn those_awake_fit_beside_the_sleepers() {
        let awake_with = |layers: Layers, mib: u64, connections: u64| {
            let meminfo = format!("MemTotal: {} kB\nMemFree: {} kB\n", mib << 10, mib << 10);
            let (_dir, host) = host(&[("proc/meminfo", &meminfo)]);
            let server = [(End::Server, IdleBackend::Filter)];
            host.awake(connections, &server, Family::V4, layers, Reserve::Bytes(0))
        };
        let awake = |mib, connections| awake_with(Layers::default(), mib, connections);
        assert_eq!(awake(64 << 10, 10_000_000), MOST_AWAKE);
        assert_eq!(awake(64 << 10, 1_000), 1_000);
        // A million asleep take 51 MB of 268, and a socket without its poll some 3,700 bytes, and half as much again.
        assert!((33_000..43_000).contains(&awake(256, 1_000_000)), "{}", awake(256, 1_000_000));
        assert_eq!(awake(32, 1_000_000), FEWEST_AWAKE);
        // With TLS they take 80 MB more, which is room for some 14,000 sockets; with TLS 1.2 112 MB, and with WebSocket 8.
        let fewer = |layers| awake(256, 1_000_000) - awake_with(layers, 256, 1_000_000);
        let tls = |version| Layers { tls: Some(version), ..Layers::default() };
        assert!((12_000..16_000).contains(&fewer(tls(TlsVersion::Tls13))));
        assert!((18_000..21_500).contains(&fewer(tls(TlsVersion::Tls12))));
        assert!((1_200..1_750).contains(&fewer(Layers { conversation: true, ..Layers::default() })));
    }
}
