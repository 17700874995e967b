//! What differs from server to server: the settings of the later one hold for all connections.

use std::net::Ipv4Addr;
use std::os::unix::fs::symlink;
use std::sync::mpsc::channel;

use super::{House, audit, counts, handed_over};
use crate::support::*;

/// For each connection of the server on a port: whether the kernel has a timer of keepalives for it (`tr` of
/// /proc/net/tcp).
fn keepalives(port: u16) -> Vec<bool> {
    established(port).iter().map(|words| words[5].starts_with("02:")).collect()
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

/// Sleeping connections have no sockets that could go along to another network namespace, as of a new container.
#[test(Network, Hibernation)]
fn sleepers_stay_in_their_network() {
    in_own_network(|| {
        let house = House::new(Ipv4Addr::LOCALHOST.into(), "--hibernate 100ms");
        let server = house.server("--stats-interval 20ms");
        let mut crowd = house.crowd(10);
        eventually("all sleep", || counts(&server.running) == (10, 10));
        let other = in_own_network(|| run(&server_arguments(house.port, house.ports, &house.arguments(""))));
        other.fails_with(3, &["cannot be taken over", "in the network namespace net:["]);
        audit(&mut crowd, "still there");
        server.stop();
    });
}

/// A server that does not see the process of the other one would not notice its end.
#[test(Network)]
fn servers_that_do_not_see_each_other_hand_nothing_over() {
    in_own_network(|| {
        let house = House::new(Ipv4Addr::LOCALHOST.into(), "");
        let start = || run(&server_arguments(house.port, house.ports, &house.arguments("")));
        let server = house.server("");
        let mut crowd = house.crowd(5);
        in_own_processes(start).fails_with(3, &["cannot be taken over", "PID namespaces", "same namespaces"]);
        audit(&mut crowd, "still there");
        server.stop();
        // Now the one that runs does not see the other one.
        let ((begin, begun), house) = (channel(), &house);
        std::thread::scope(|scope| {
            let later = scope.spawn(move || begun.recv().map(|()| start()));
            in_own_processes(move || {
                let server = house.server("");
                let mut crowd = house.crowd(5);
                begin.send(()).unwrap();
                later.join().unwrap().unwrap().fails_with(3, &["hands nothing over", "PID namespaces"]);
                audit(&mut crowd, "still there");
                server.stop();
            });
        });
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
