//! Ports that only one test uses.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU16, Ordering};

use socket2::{Domain, Socket, Type};

/// The first of `count` neighbouring ports that have no listener, and that no other test of this process gets. They lie
/// below the ephemeral range, so no client's socket can use them.
pub fn free_ports(count: u16) -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    const LOWEST: u16 = 10_000;
    const HIGHEST: u16 = 32_000;
    // Test processes that run at the same time begin at different ports.
    let offset = (std::process::id() % 200) as u16 * 100;
    loop {
        let next = NEXT.fetch_add(count, Ordering::Relaxed);
        let first = LOWEST + (offset + next) % (HIGHEST - LOWEST - count);
        if (first..first + count).all(is_free) {
            return first;
        }
    }
}

/// Whether a port has no listener. The probe itself does not listen: a process that another test starts has a copy of it
/// until its program runs, and no server could listen on the port meanwhile.
pub fn is_free(port: u16) -> bool {
    let probe = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    probe.set_reuse_address(true).unwrap();
    probe.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)).into()).is_ok()
}
