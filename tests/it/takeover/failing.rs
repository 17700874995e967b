//! Takeovers in which one of the two servers lacks something: nothing is closed that could go on.

use std::net::Ipv4Addr;

use super::asking::limit_descriptors;
use super::*;

/// A successor that fails half-way closes nothing: those that sleep come back with its end.
#[test(Network, Hibernation)]
fn a_successor_that_fails_gives_back_what_sleeps() {
    in_own_network(|| {
        let house = House::new(Ipv4Addr::LOCALHOST.into(), "");
        let Middle { server, successor, mut silent, talking } = in_the_middle(&house);
        // The slots that become free are for sockets that come, and it has no descriptors for these.
        limit_descriptors(successor.pid(), 3);
        drop(talking);
        successor.wait().fails_with(3, &["take over at", "EMFILE", "ulimit -Hn"]);
        eventually("the server says so", || server.running.err().contains("the later server is gone"));
        audit(&mut silent, "still there");
        audit(&mut house.crowd(10), "newcomers");
        server.stop();
    });
}

/// A server that has no descriptor for its connections for long closes them, and does not hold up the takeover.
#[test(Network, Hibernation)]
fn connections_without_a_descriptor_are_closed_in_the_end() {
    in_own_network(|| {
        let house = House::new(Ipv4Addr::LOCALHOST.into(), "");
        let Middle { server, mut successor, mut silent, mut talking } = in_the_middle(&house);
        limit_descriptors(server.running.pid(), 3);
        // Slots become free for the others.
        let mut stays = talking.split_off(TALKERS - 20);
        drop(talking);
        successor.until_ready();
        let ended = server.running.wait();
        assert_eq!(ended.code(), 0, "{}", ended.err);
        let gone = stays.iter_mut().map(answers).filter(|answers| !answers).count() as u64;
        let lost = number(&ended.last_document()["takeover"], "lost");
        assert!(gone > 0 && gone <= lost, "{gone} of {lost}");
        audit(&mut silent, "still there");
        successor.signal(libc::SIGTERM);
        assert_eq!(successor.wait().code(), 0);
    });
}
