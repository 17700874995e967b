//! Addresses of peers, of sources and of listeners: one way to read them, one form for each, and what
//! cannot be any of the three.

use std::collections::HashSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};
use std::str::FromStr;

use serde::{Serialize, Serializer};

use crate::error::{Error, Result};
use crate::sys;

/// An address of a host, with the interface that a link-local one belongs to. An IPv4 address in the form
/// of IPv6 (`::ffff:10.0.0.1`) is the IPv4 address, so each has one form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Address {
    ip: IpAddr,
    /// The number of the interface; 0 for an address that is the same on all of them.
    scope: u32,
}

/// What an address is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// To connect to it (`--target-ip`).
    Target,
    /// To connect from it (`--source-ip`).
    Source,
    /// To listen on it (`--bind`).
    Listener,
    /// To show the metrics on it (`--metrics`).
    Metrics,
}

impl Use {
    fn flag(self) -> &'static str {
        match self {
            Use::Target => "--target-ip",
            Use::Source => "--source-ip",
            Use::Listener => "--bind",
            Use::Metrics => "--metrics",
        }
    }
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

    /// Whether it is an address of this host: only those can be bound to.
    pub fn is_here(self) -> bool {
        self.ip.is_loopback() || UdpSocket::bind(self.at(0)).is_ok()
    }

    /// Whether a listener on this address takes what comes to `other`.
    pub fn covers(self, other: Address) -> bool {
        self == other
            || self.ip.is_unspecified() && (self.ip.is_ipv6() || other.ip.is_ipv4())
            || other.ip.is_unspecified() && (other.ip.is_ipv6() || self.ip.is_ipv4())
    }

    /// Fails with a usage error when it cannot be used so.
    pub fn check(self, wanted: Use) -> Result<()> {
        let refuse = |means: &str, cure: &str| Err(Error::usage(format!("{} {self}", wanted.flag()), means, cure));
        if self.ip.is_multicast() {
            return refuse(
                "a multicast address is many hosts at once, and TCP connects two",
                "give the address of one host",
            );
        }
        if let IpAddr::V4(ip) = self.ip
            && (ip.is_broadcast() || sys::is_broadcast(ip))
        {
            return refuse(
                "a broadcast address is many hosts at once, and TCP connects two",
                "give the address of one host",
            );
        }
        if is_link_local(self.ip) && self.scope == 0 {
            let cure = format!("name the interface: {self}%eth0, or its number");
            return refuse("a link-local address is one on each interface", &cure);
        }
        if wanted == Use::Source && self.ip.is_unspecified() {
            return refuse("it is no address of a host", "leave it out to let the kernel choose");
        }
        Ok(())
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

/// A port at an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Endpoint {
    /// The address.
    pub address: Address,
    /// The port; 0 for any that is free.
    pub port: u16,
}

impl FromStr for Endpoint {
    type Err = String;

    /// Reads `10.0.0.1:80`, `[fd00::1]:80` and `[fe80::1%eth0]:80`.
    fn from_str(text: &str) -> std::result::Result<Endpoint, String> {
        let wrong = || format!("'{text}' is no address with a port; try 127.0.0.1:9187 or [::1]:9187");
        let (address, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        let port = port.parse().map_err(|_| wrong())?;
        let bracketed = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        // Without its brackets, where an IPv6 address ends cannot be told.
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

/// Checks what connections go to and come from: each of them a host's address, each named once, and of
/// one family where both are given.
///
/// Fails with a usage error that names the first that is wrong.
pub fn check(targets: &[Address], sources: &[Address]) -> Result<()> {
    for (addresses, wanted) in [(targets, Use::Target), (sources, Use::Source)] {
        let mut seen = HashSet::new();
        for address in addresses {
            address.check(wanted)?;
            // Those that a connect reaches are counted, not those that are typed.
            if !seen.insert(address.reached()) {
                return Err(Error::usage(
                    format!("{} {} is given twice", wanted.flag(), address.reached()),
                    "each address has its source ports once, however often and in whatever form it is named",
                    "name it once",
                ));
            }
        }
    }
    let has = |addresses: &[Address], v6: bool| addresses.iter().any(|address| address.ip.is_ipv6() == v6);
    if [true, false].iter().any(|v6| has(sources, *v6) && has(targets, !*v6)) {
        return Err(Error::usage(
            "--source-ip and --target-ip of different address families",
            "an IPv4 address cannot connect to an IPv6 one",
            "give both as IPv4 or both as IPv6",
        ));
    }
    Ok(())
}
