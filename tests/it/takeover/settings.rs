//! What differs from server to server: the settings of the later one hold for all connections.

use std::net::Ipv4Addr;
use std::os::unix::fs::symlink;

use super::{House, audit, handed_over};
use crate::support::*;

/// For each connection of the server on a port: whether the kernel has a timer of keepalives for it (`tr` of
/// /proc/net/tcp).
fn keepalives(port: u16) -> Vec<bool> {
    let table = std::fs::read_to_string("/proc/thread-self/net/tcp").unwrap();
    let local = format!(":{port:04X}");
    let rows = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let established = rows.filter(|row| row.get(1).is_some_and(|at| at.ends_with(&local)) && row.get(3) == Some(&"01"));
    established.map(|row| row[5].starts_with("02:")).collect()
}

/// Connections that were taken over are probed as the later server says, and so are those that it accepts.
#[test(Network)]
fn keepalives_are_those_of_the_later_server() {
    in_own_network(|| {
        let house = House::new(Ipv4Addr::LOCALHOST.into(), "");
        let mut server = house.server("");
        let mut crowd = Vec::new();
        for more in ["--keepalive 60s", "", "--keepalive 30s"] {
            crowd.extend(house.crowd(4));
            let next = house.server(more);
            assert_eq!(handed_over(std::mem::replace(&mut server, next)), crowd.len() as u64);
            crowd.extend(house.crowd(4));
            audit(&mut crowd, "probed");
            eventually("the kernel has sent what it had to send", || {
                [0, 1].into_iter().flat_map(|nth| keepalives(house.port + nth)).all(|one| one != more.is_empty())
            });
            let connections = [0, 1].map(|nth| keepalives(house.port + nth).len());
            assert_eq!(connections.iter().sum::<usize>(), crowd.len());
        }
        server.stop();
    });
}

/// A socket that somebody has put in the place of a server's is not removed at its end.
#[test(Network)]
fn the_socket_of_another_server_stays() {
    in_own_network(|| {
        let house = House::new(Ipv4Addr::LOCALHOST.into(), "");
        let first = house.server("");
        std::fs::remove_file(house.path()).unwrap();
        let other = Server::start_as_at(c1m(), house.port + 10, house.ports, &house.arguments(""));
        first.stop();
        assert!(house.path().exists());
        let next = Server::start_as_at(c1m(), house.port + 10, house.ports, &house.arguments(""));
        assert_eq!(handed_over(other), 0);
        next.stop();
        assert!(!house.path().exists());
    });
}

/// A link leads to the socket, whether a server listens there, was killed, or has ended.
#[test(Network)]
fn a_link_to_the_socket_is_followed() {
    in_own_network(|| {
        let house = House::new(Ipv4Addr::LOCALHOST.into(), "");
        let link = house.dir.path().join("link");
        symlink(house.path(), &link).unwrap();
        let by_link = || house.arguments("").replace(house.path().to_str().unwrap(), link.to_str().unwrap());
        let start = || Server::start_as_at(c1m(), house.port, house.ports, &by_link());
        let first = house.server("");
        let second = start();
        assert_eq!(handed_over(first), 0);
        second.running.signal(libc::SIGKILL);
        second.running.wait();
        start().stop();
        assert!(link.is_symlink() && !house.path().exists());
    });
}
