//! Connections that come while servers take each other's place.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::{House, audit, ready};
use crate::support::*;

/// Connections of a full server.
const MOST: usize = 200;

/// Clients that find no place and try again.
const RETRYING: usize = 300;

/// How long a client waits before it looks whether it is still wanted.
const LOOK: Duration = Duration::from_millis(200);

/// A client that tries to get a place, and keeps it.
fn tries(at: SocketAddr, over: &AtomicBool) {
    while !over.load(Ordering::Relaxed) {
        let Ok(mut stream) = TcpStream::connect_timeout(&at, LOOK) else { continue };
        stream.set_read_timeout(Some(LOOK)).unwrap();
        let _ = stream.write_all(b"!");
        while !over.load(Ordering::Relaxed) {
            match stream.read(&mut [0]) {
                Ok(1) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                _ => break,
            }
        }
    }
}

/// A full server is taken over by one of the same size, while others want its connections' places.
fn is_full(more: &str) {
    let house = House::new(Ipv4Addr::LOCALHOST.into(), more);
    let arguments = house.arguments("").replace("--cores 2", "--cores 1").replace("3000", &MOST.to_string());
    let start = || Server::start_as_at(c1m(), house.port, house.ports, &arguments);
    let server = start();
    let mut crowd = house.crowd(MOST);
    let over = AtomicBool::new(false);
    let next = std::thread::scope(|scope| {
        // Whatever fails below, the clients end.
        let _ends = SetAtEnd(&over);
        for number in 0..RETRYING {
            let at = SocketAddr::new(house.ip, house.port + number as u16 % house.ports);
            scope.spawn({
                let over = &over;
                move || tries(at, over)
            });
        }
        let next = start();
        audit(&mut crowd, "still there");
        next
    });
    assert_eq!(number(&ready(&next.running), "taken_over"), MOST as u64);
    assert_eq!(server.running.wait().code(), 0);
    next.stop();
}

#[test(Network)]
fn newcomers_take_no_place_of_those_that_are_handed_over() {
    in_own_network(|| is_full(""));
}

#[test(Network, Hibernation)]
fn newcomers_take_no_place_of_those_that_are_handed_over_and_may_sleep() {
    in_own_network(|| is_full("--hibernate 1h"));
}
