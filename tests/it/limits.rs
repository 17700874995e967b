//! Real limits: descriptor tables that fill ring after ring, queues that fill while the server is stopped, a client
//! that dies in the middle.

use std::io::Read;
use std::net::{Shutdown, TcpStream};

use c1m::internal::sys::Resource;

use crate::storm::last_stats;
use crate::support::{
    Client, Server, at, c1m_after, client, connected, echoes, eventually, number, reset, wait_for_established,
};

/// With few descriptors a ring's table is small, and 3,000 connections need 16 of them.
const SMALL_TABLES: &str = "ulimit -n 200";

#[test]
fn filling_ring_after_ring_loses_no_connection() {
    let server = Server::start_as(c1m_after(SMALL_TABLES), 4, "--core-list 0 --max-connections 3000 --json -");
    // The server is filled to the last slot, with far more connects in flight than one ring has slots.
    let run = client(&format!("{} --connections 3000 --concurrency 3000", server.at()));
    run.held(3_000);
    let document = server.stop().last_document();
    assert_eq!(number(&document, "accepted"), 3_000, "{document}");
    assert_eq!(number(&document, "refused"), 0, "{document}");
    assert!(number(&document["shards"][0], "rings") > 15, "{document}");
}

#[test]
fn a_queue_that_filled_while_the_server_was_stopped_is_accepted_whole() {
    const PEERS: usize = 1_500;
    Resource::Files.raise().unwrap();
    let server = Server::start_as(c1m_after(SMALL_TABLES), 1, "--core-list 0 --max-connections 1500 --json -");
    server.running.pause();
    let mut peers: Vec<TcpStream> = (0..PEERS).map(|_| connected(server.port)).collect();
    server.running.signal(libc::SIGCONT);
    for peer in &mut peers {
        echoes(peer);
    }
    drop(peers);
    let document = server.stop().last_document();
    assert_eq!(number(&document, "accepted"), PEERS as u64, "{document}");
}

/// The limit holds for the whole server. Shards with somewhat more and somewhat less than an even share fill it to
/// the last place, and no further.
#[test]
fn shards_fill_the_limit_without_an_even_share() {
    let server = Server::start(2, "--cores 2 --max-connections 1000 --json -");
    let holding = [(server.port, 540), (server.port + 1, 460)].map(|(port, share)| {
        let mut client = Client::start(&format!("{} --connections {share} --hold 60s", at(port, 1)));
        client.running.until("it holds", |out| out.contains("hold "));
        (client, share)
    });
    let late = client(&format!("{} --connections 2", server.at()));
    assert_eq!([late.number("live"), late.number("failed")], [0, 2], "{}", late.json);
    for (client, share) in holding {
        client.running.signal(libc::SIGINT);
        let run = client.finish();
        assert_eq!([run.number("live"), run.number("failed")], [share, 0], "{}", run.json);
    }
    let document = server.stop().last_document();
    assert_eq!((number(&document, "accepted"), number(&document, "refused")), (1_000, 2), "{document}");
}

/// The result does not depend on how often the server prints a line.
#[test]
fn peak_live_is_the_same_however_seldom_the_server_reports() {
    for interval in ["20ms", "1h"] {
        let server = Server::start(4, &format!("--cores 2 --stats-interval {interval} --json -"));
        let mut peers: Vec<TcpStream> = (0..300).map(|peer| connected(server.port + peer % 4)).collect();
        peers.iter_mut().for_each(echoes);
        for peer in &mut peers {
            peer.shutdown(Shutdown::Write).unwrap();
            assert_eq!(peer.read(&mut [0; 1]).unwrap(), 0, "the server answers a FIN with its own");
        }
        let document = server.stop().last_document();
        assert_eq!(number(&document, "peak_live"), 300, "--stats-interval {interval}: {document}");
    }
}

/// New connections may reach a full server before the resets that make room for them.
#[test]
fn new_connections_wait_for_room_that_resets_are_about_to_make() {
    let server = Server::start(1, "--core-list 0 --max-connections 500 --json -");
    let mut peers: Vec<TcpStream> = (0..500).map(|_| connected(server.port)).collect();
    peers.iter_mut().for_each(echoes);
    server.running.pause();
    let newcomers: Vec<TcpStream> = (0..100).map(|_| connected(server.port)).collect();
    peers.drain(..100).for_each(reset);
    peers.extend(newcomers);
    // A connection waits for 0.1 s, and longer only if a reset has come that the server has not seen yet.
    wait_for_established(server.port, 500);
    server.running.signal(libc::SIGCONT);
    peers.iter_mut().for_each(echoes);
    drop(peers);
    let document = server.stop().last_document();
    assert_eq!((number(&document, "accepted"), number(&document, "refused")), (600, 0), "{document}");
}

#[test]
fn a_stopped_client_and_a_killed_one_leave_the_server_empty() {
    let server = Server::start(2, "--stats-interval 50ms --json -");
    for (signal, opened) in [(libc::SIGINT, 800), (libc::SIGKILL, 1_600)] {
        let mut client = Client::start(&format!("{} --connections 800 --hold 60s", server.at()));
        client.running.until("the client holds", |out| out.contains("hold "));
        client.running.signal(signal);
        eventually("the server is empty again", || last_stats(&server) == Some([0, opened]));
    }
    let document = server.stop().last_document();
    assert_eq!((number(&document, "accepted"), number(&document, "closed")), (1_600, 1_600), "{document}");
}
