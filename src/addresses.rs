//! Addresses to connect to, to connect from and to listen on: how they are read, and which of them cannot be used.

use std::collections::HashSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};
use std::str::FromStr;

use serde::{Serialize, Serializer};

use crate::error::{AddressProblem, ConfigError, Result};
use crate::format::Escaped;
use crate::sys;

pub use crate::error::AddressUse as Use;

/// An IP address of a host. A link-local one has its interface too. An IPv4 address in the form of IPv6
/// (`::ffff:10.0.0.1`) becomes the IPv4 address.
///
/// Parsed from `10.0.0.1`, `fd00::1`, `fe80::1%eth0` or `fe80::1%2`; made from the address types of std. Whether it can
/// be used is checked where it is used: [`ConfigError::Address`] says why it cannot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Address {
    ip: IpAddr,
    /// The number of the interface; 0 for an address that does not belong to one.
    scope: u32,
}

impl Address {
    /// The IP address, without the interface.
    pub fn ip(self) -> IpAddr {
        self.ip
    }

    /// The address of another host on the same interface.
    pub fn with_ip(self, ip: IpAddr) -> Address {
        Address { scope: self.scope, ..Address::from(ip) }
    }

    /// `0.0.0.0` or `::`, of the family of `to`.
    pub fn any(to: SocketAddr) -> Address {
        let ip: IpAddr = if to.is_ipv6() { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
        ip.into()
    }

    /// The address of a socket address, without the port.
    pub fn of(socket: SocketAddr) -> Address {
        let scope = match socket {
            SocketAddr::V6(socket) if is_link_local(socket.ip().to_owned().into()) => socket.scope_id(),
            _ => 0,
        };
        Address { scope, ..Address::from(socket.ip()) }
    }

    /// As the host of a URL: an IPv6 address in brackets, and without its interface.
    pub fn url_host(self) -> String {
        if self.ip.is_ipv6() { format!("[{}]", self.ip) } else { self.ip.to_string() }
    }

    /// The socket address of a port at this address.
    pub fn at(self, port: u16) -> SocketAddr {
        match self.ip {
            IpAddr::V4(ip) => (ip, port).into(),
            IpAddr::V6(ip) => SocketAddrV6::new(ip, port, 0, self.scope).into(),
        }
    }

    /// The address that a connect reaches: the kernel takes `0.0.0.0` and `::` for loopback.
    pub fn reached(self) -> Address {
        match self.ip {
            IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
            _ => self,
        }
    }

    /// Whether this host has the address: only its own addresses can be bound to.
    pub fn is_here(self) -> bool {
        self.ip.is_loopback() || UdpSocket::bind(self.at(0)).is_ok()
    }

    /// Whether listeners on these two addresses would take connections to a common address: they are equal, or one of
    /// them is `::`, or one is `0.0.0.0` and the other is an IPv4 address.
    pub fn covers(self, other: Address) -> bool {
        self == other
            || self.ip.is_unspecified() && (self.ip.is_ipv6() || other.ip.is_ipv4())
            || other.ip.is_unspecified() && (other.ip.is_ipv6() || self.ip.is_ipv4())
    }

    /// Checks that the address can be used in this way. Fails with `ConfigError::Address` where it cannot.
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

/// Whether an address belongs to one interface (fe80::/10).
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
        let typed = Escaped(text);
        let (ip, scope) = text.split_once('%').map_or((text, None), |(ip, scope)| (ip, Some(scope)));
        let ip: IpAddr =
            ip.parse().map_err(|_| format!("'{typed}' is no IP address; try 10.0.0.1, fd00::1 or fe80::1%eth0"))?;
        let Some(scope) = scope else { return Ok(ip.into()) };
        if scope.is_empty() {
            return Err(format!(
                "'{typed}' names no interface after the %; give one that ip link shows, or its number"
            ));
        }
        if !is_link_local(ip) {
            return Err(format!(
                "'{typed}': an interface belongs to a link-local address (fe80::/10) alone; leave out the %"
            ));
        }
        let scope =
            sys::interface(scope).ok_or(format!("'{typed}': no interface {} is here; see ip link", Escaped(scope)))?;
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

/// A port at an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Endpoint {
    /// The address.
    pub address: Address,
    /// The port; 0 stands for a free port.
    pub port: u16,
}

impl FromStr for Endpoint {
    type Err = String;

    /// Reads `10.0.0.1:80`, `[fd00::1]:80` and `[fe80::1%eth0]:80`.
    fn from_str(text: &str) -> std::result::Result<Endpoint, String> {
        let wrong = || format!("'{}' is no address with a port; try 127.0.0.1:9187 or [::1]:9187", Escaped(text));
        let (address, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        let port = port.parse().map_err(|_| wrong())?;
        let bracketed = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        // Without brackets nothing tells where an IPv6 address ends and its port begins.
        if bracketed.is_none() && address.contains(':') {
            return Err(wrong());
        }
        let address = bracketed.unwrap_or(address);
        let is_address = address.split('%').next().is_some_and(|ip| ip.parse::<IpAddr>().is_ok());
        if !is_address {
            return Err(wrong());
        }
        Ok(Endpoint { address: address.parse()?, port })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.address.ip.is_ipv6() {
            write!(f, "[{}]:{}", self.address, self.port)
        } else {
            write!(f, "{}:{}", self.address, self.port)
        }
    }
}

impl Serialize for Address {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Checks the targets and sources of connections: each is an address of a host, each is named once, and targets and
/// sources are of one family.
///
/// Fails with `ConfigError::Address` for the first address that is wrong, or with `ConfigError::AddressFamilies`.
pub fn check(targets: &[Address], sources: &[Address]) -> Result<()> {
    for (addresses, wanted) in [(targets, Use::Target), (sources, Use::Source)] {
        let mut seen = HashSet::new();
        for address in addresses {
            address.check(wanted)?;
            // Two ways to write the address that a connect reaches are one address.
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
