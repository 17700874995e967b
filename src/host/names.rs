//! The addresses of a host's name, by the system's resolver.

use std::net::{ToSocketAddrs, UdpSocket};

use super::Host;
use crate::addresses::Address;
use crate::error::{HostError, HostReason, Result};
use crate::plan::{Target, TargetHost};

/// What a name was resolved to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// The addresses to connect to, each once; at least one.
    pub addresses: Vec<Address>,
    /// Addresses that the name has too, and that this host has no route to, or that no source address can reach.
    pub left_out: Vec<Address>,
}

impl Host {
    /// The addresses of a target's host, IPv4 and IPv6: itself if it is an address, else all that the system's resolver
    /// knows. Left out are those that this host has no route to, and those of another family than the sources, unless
    /// none is left then.
    ///
    /// Fails with a `HostError` if the resolver knows none.
    pub fn resolve(&self, target: &Target, sources: &[Address]) -> Result<Resolved> {
        let name = match &target.host {
            TargetHost::Address(address) => {
                return Ok(Resolved { addresses: vec![*address], left_out: Vec::new() });
            }
            TargetHost::Name(name) => name.as_str(),
        };
        let refused = |why: String| HostError::new("resolve", name, None, HostReason::UnknownName { why });
        let found = (name, target.ports.first()).to_socket_addrs();
        let found = found.map_err(|error| refused(error.to_string().replace(char::is_control, " ")))?;
        let mut all: Vec<Address> = Vec::new();
        for address in found.map(Address::of) {
            if !all.contains(&address) {
                all.push(address);
            }
        }
        if all.is_empty() {
            return Err(refused("it has no address".to_owned()).into());
        }
        let reaches = |address: &Address| {
            let family = |address: &Address| address.ip().is_ipv4();
            let suits = sources.is_empty() || sources.iter().any(|source| family(source) == family(address));
            suits && has_route(*address)
        };
        let (addresses, left_out): (Vec<_>, Vec<_>) = all.iter().partition(|address| reaches(address));
        if addresses.is_empty() {
            return Ok(Resolved { addresses: all, left_out: Vec::new() });
        }
        Ok(Resolved { addresses, left_out })
    }
}

/// Whether the kernel knows a way to an address. Nothing is sent.
fn has_route(address: Address) -> bool {
    // Any port has the same way.
    let to = address.at(9);
    UdpSocket::bind(Address::any(to).at(0)).and_then(|socket| socket.connect(to)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolved(target: &str, sources: &[&str]) -> Result<Resolved> {
        let sources: Vec<Address> = sources.iter().map(|source| source.parse().unwrap()).collect();
        Host::here().resolve(&target.parse().unwrap(), &sources)
    }

    #[test]
    fn an_address_is_itself_and_a_name_has_its_addresses_once() {
        assert_eq!(resolved("[::1]:80", &[]).unwrap().addresses, ["::1".parse().unwrap()]);
        let resolved = resolved("localhost:80", &["127.0.0.2"]).unwrap();
        assert_eq!(resolved.addresses, ["127.0.0.1".parse().unwrap()]);
    }

    #[test]
    fn a_name_without_addresses_is_told_in_a_line() {
        let error = resolved("no-such-host.invalid:80", &[]).unwrap_err().to_string();
        assert!(error.starts_with("resolve no-such-host.invalid: ") && error.contains("getent"), "{error}");
        assert!(!error.contains('\n'), "{error}");
    }
}
