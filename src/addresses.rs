//! Addresses of peers, of sources and of listeners: one way to read them, one form for each, and what
//! cannot be any of the three.

use std::collections::HashSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::str::FromStr;

use serde::{Serialize, Serializer};

use crate::error::{AddressProblem, ConfigError, Result};
use crate::sys;

pub use crate::error::AddressUse as Use;

/// An address of a host, with the interface that a link-local one belongs to. An IPv4 address in the form
/// of IPv6 (`::ffff:10.0.0.1`) is the IPv4 address, so each has one form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Address {
    ip: IpAddr,
    /// The number of the interface; 0 for an address that is the same on all of them.
    scope: u32,
}

impl Address {
    /// The address alone.
    pub fn ip(self) -> IpAddr {
        self.ip
    }

    /// The address of another host on the same interface.
    pub fn with_ip(self, ip: IpAddr) -> Address {
        Address { scope: self.scope, ..Address::from(ip) }
    }

    /// Any address of this host of the family of `to`.
    pub fn any(to: SocketAddr) -> Address {
        let ip: IpAddr = if to.is_ipv6() { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
        ip.into()
    }

    /// A port at this address.
    pub fn at(self, port: u16) -> SocketAddr {
        match self.ip {
            IpAddr::V4(ip) => (ip, port).into(),
            IpAddr::V6(ip) => SocketAddrV6::new(ip, port, 0, self.scope).into(),
        }
    }

    /// Where a connect to it goes: the kernel takes `0.0.0.0` and `::` for loopback.
    pub fn reached(self) -> Address {
        match self.ip {
            IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
            _ => self,
        }
    }

    /// Whether a listener on this address takes what comes to `other`.
    pub fn covers(self, other: Address) -> bool {
        self == other
            || self.ip.is_unspecified() && (self.ip.is_ipv6() || other.ip.is_ipv4())
            || other.ip.is_unspecified() && (other.ip.is_ipv6() || self.ip.is_ipv4())
    }

    /// Whether it can be used so; fails with `ConfigError::Address` where it cannot.
    pub fn check(self, used: Use) -> Result<()> {
        let is_broadcast = |ip: Ipv4Addr| ip.is_broadcast() || sys::is_broadcast(ip);
        let problem = match self.ip {
            ip if ip.is_multicast() => AddressProblem::Multicast,
            IpAddr::V4(ip) if is_broadcast(ip) => AddressProblem::Broadcast,
            ip if is_link_local(ip) && self.scope == 0 => AddressProblem::NoInterface,
            ip if ip.is_unspecified() && used == Use::Source => AddressProblem::Unspecified,
            _ => return Ok(()),
        };
        Err(self.refused(used, problem))
    }

    fn refused(self, used: Use, problem: AddressProblem) -> crate::error::Error {
        ConfigError::Address { used, address: self.to_string(), problem }.into()
    }
}

/// Addresses that belong to one interface (fe80::/10).
fn is_link_local(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V6(ip) if ip.segments()[0] & 0xffc0 == 0xfe80)
}

impl From<IpAddr> for Address {
    fn from(ip: IpAddr) -> Address {
        Address { ip: ip.to_canonical(), scope: 0 }
    }
}

impl From<Ipv4Addr> for Address {
    fn from(ip: Ipv4Addr) -> Address {
        IpAddr::from(ip).into()
    }
}

impl From<Ipv6Addr> for Address {
    fn from(ip: Ipv6Addr) -> Address {
        IpAddr::from(ip).into()
    }
}

impl FromStr for Address {
    type Err = String;

    /// Reads `10.0.0.1`, `fd00::1`, and `fe80::1%eth0` or `fe80::1%2`.
    fn from_str(text: &str) -> std::result::Result<Address, String> {
        let (ip, scope) = text.split_once('%').map_or((text, None), |(ip, scope)| (ip, Some(scope)));
        let ip: IpAddr = ip.parse().map_err(|_| format!("'{text}' is no IP address"))?;
        let Some(scope) = scope else { return Ok(ip.into()) };
        if !is_link_local(ip) {
            return Err(format!("'{text}': an interface belongs to a link-local address (fe80::/10) alone"));
        }
        let scope = sys::interface(scope).ok_or(format!("'{text}': no interface {scope} is here; see ip link"))?;
        Ok(Address { ip, scope })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.scope {
            0 => write!(f, "{}", self.ip),
            scope => write!(f, "{}%{scope}", self.ip),
        }
    }
}

impl Serialize for Address {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Checks what connections go to and come from: each of them a host's address, each named once, and of
/// one family where both are given.
///
/// Fails with `ConfigError::Address` for the first that is wrong, or with `ConfigError::AddressFamilies`.
pub fn check(targets: &[Address], sources: &[Address]) -> Result<()> {
    for (addresses, wanted) in [(targets, Use::Target), (sources, Use::Source)] {
        let mut seen = HashSet::new();
        for address in addresses {
            address.check(wanted)?;
            // Those that a connect reaches are counted, not those that are typed.
            if !seen.insert(address.reached()) {
                return Err(address.reached().refused(wanted, AddressProblem::Twice));
            }
        }
    }
    let has = |addresses: &[Address], v6: bool| addresses.iter().any(|address| address.ip.is_ipv6() == v6);
    if [true, false].iter().any(|v6| has(sources, *v6) && has(targets, !*v6)) {
        return Err(ConfigError::AddressFamilies.into());
    }
    Ok(())
}
