//! Ports that only one test uses.

use std::net::{Ipv4Addr, SocketAddr};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddress, UnixDatagram};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU16, Ordering};

use socket2::{Domain, Socket, Type};

/// The ports of all test processes. They lie below the ephemeral range, so no client's socket can use them.
const LOWEST: u16 = 10_000;
const HIGHEST: u16 = 32_000;

/// Test processes that can run at once on a host, each with a share of the ports.
pub const SHARES: u16 = 4;

/// Ports of one test process. All tests together ask for less.
const SHARE: u16 = (HIGHEST - LOWEST) / SHARES;

/// The share of this process, which has it until it ends.
struct Share {
    number: u16,
    next: AtomicU16,
    /// Its name is taken in this network, for which the ports count too.
    _claim: UnixDatagram,
}

static OURS: LazyLock<Share> = LazyLock::new(|| {
    let claim = |number: u16| {
        let name = UnixAddress::from_abstract_name(format!("c1m-test-ports-{number}")).unwrap();
        let _claim = UnixDatagram::bind_addr(&name).ok()?;
        Some(Share { number, next: AtomicU16::new(0), _claim })
    };
    let found = (0..SHARES).find_map(claim);
    found.unwrap_or_else(|| panic!("{SHARES} processes test c1m on this host: wait for one to end"))
});

/// Takes this process's share of the ports, before a test enters another network.
pub fn claim_ports() {
    LazyLock::force(&OURS);
}

/// Which of the `SHARES` this process has.
pub fn our_share() -> u16 {
    OURS.number
}

/// The first of `count` neighbouring ports that have no listener, and that no other test gets, of this process or of
/// another one.
pub fn free_ports(count: u16) -> u16 {
    loop {
        let next = OURS.next.fetch_add(count, Ordering::Relaxed);
        let first = LOWEST + our_share() * SHARE + next % (SHARE - count);
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
