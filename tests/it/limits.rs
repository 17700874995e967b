//! Real limits: tables that fill ring after ring, queues that fill while nobody looks, an end that
//! dies in the middle.

use std::net::TcpStream;

use c1m::sys::Resource;

use crate::support::{Client, Server, c1m_after, client, connected, echoes, number};

/// Few descriptors, so that a ring's table is small and 3,000 connections need 16 of them.
const SMALL_TABLES: &str = "ulimit -n 200";

#[test]
fn filling_ring_after_ring_loses_no_connection() {
    let server = Server::start_as(c1m_after(SMALL_TABLES), 4, "--core-list 0 --max-connections 3000 --json -");
    // To the last slot, with far more connects in flight than one ring has slots.
    let run = client(&format!("{} --connections 3000 --concurrency 3000", server.at()));
    run.held(3_000);
    let document = server.stop().last_document();
    assert_eq!(number(&document, "accepted"), 3_000, "{document}");
    assert_eq!(number(&document, "refused"), 0, "{document}");
    assert!(number(&document["shards"][0], "rings") > 15, "{document}");
}

#[test]
fn a_queue_that_filled_while_the_server_stood_still_is_accepted_whole() {
    const PEERS: usize = 1_500;
    Resource::Files.raise().unwrap();
    let server = Server::start_as(c1m_after(SMALL_TABLES), 1, "--core-list 0 --max-connections 1500 --json -");
    server.running.signal(libc::SIGSTOP);
    let mut peers: Vec<TcpStream> = (0..PEERS).map(|_| connected(server.port)).collect();
    server.running.signal(libc::SIGCONT);
    for peer in &mut peers {
        echoes(peer);
    }
    drop(peers);
    let document = server.stop().last_document();
    assert_eq!(number(&document, "accepted"), PEERS as u64, "{document}");
}

#[test]
fn a_stopped_client_and_a_killed_one_leave_the_server_empty() {
    let mut server = Server::start(2, "--stats-interval 50ms --json -");
    for signal in [libc::SIGINT, libc::SIGKILL] {
        let mut client = Client::start(&format!("{} --connections 800 --hold 60s", server.at()));
        client.running.until("the client holds", |out| out.contains("hold "));
        client.running.signal(signal);
        server.running.until("the server is empty again", |out| {
            let last = out.lines().last().unwrap_or_default();
            last.contains(r#""live":0,"#) && !last.contains(r#""opened":0,"#)
        });
    }
    let document = server.stop().last_document();
    assert_eq!((number(&document, "accepted"), number(&document, "closed")), (1_600, 1_600), "{document}");
}
