//! Connections that sleep and wake all the time, over a network that loses, duplicates, delays and reorders packets.
//!
//! `C1M_FAULTY_FOR=10m` makes the test of both ends run so long, with 1,000 connections, and print what it measured:
//!
//!     C1M_FAULTY_FOR=10m cargo test --release --test it -- --nocapture faults::both

use std::sync::atomic::AtomicBool;
use std::sync::mpsc::channel;
use std::time::Duration;

use serde_json::Value;

use crate::network;
use crate::support::*;
use crate::wire::{self, Carried, Faults};

const SERVER: &str = "10.78.0.1";
const CLIENT: &str = "10.78.0.2";

/// The variable that makes the runs long: how long the connections are held.
const LONG: &str = "C1M_FAULTY_FOR";

/// A bad mobile network: 1 % of the packets are lost in each direction, 1 % come twice, and a packet that is sent up to
/// 2 ms after another one may arrive before it.
const BAD: Faults = Faults { lost: 10, duplicated: 10, longest_delay: Duration::from_millis(2) };

/// What a run came to: the client's result, the last document of the server, and what the wire did.
struct Run {
    client: ClientRun,
    server: Value,
    carried: Carried,
}

/// Runs a client against a server at the other end of a wire.
fn over_the_wire(server: &str, client_options: &str, seed: u64) -> Run {
    in_own_network(|| {
        let here = wire::end(c"near");
        network::address(c"near", SERVER.parse::<std::net::Ipv4Addr>().unwrap(), 24);
        network::up(c"near");
        let server = Server::start(1, &format!("--bind {SERVER} --cores 1 {server} --json -"));
        let port = server.port;
        let (stop, (linked, link)) = (AtomicBool::new(false), channel());
        let (client, carried) = std::thread::scope(|scope| {
            let peers = scope.spawn(|| {
                // The wire ends when the client has.
                let _stop = SetAtEnd(&stop);
                in_own_network(|| {
                    let there = wire::end(c"far");
                    network::address(c"far", CLIENT.parse::<std::net::Ipv4Addr>().unwrap(), 24);
                    network::up(c"far");
                    linked.send(there).unwrap();
                    let target = format!("--target-ip {SERVER} --port {port} --ports 1 --cores 1");
                    let timeouts = "--connect-timeout 60s --reply-timeout 60s";
                    let mut client = Client::start(&format!("{target} {timeouts} {client_options}"));
                    // `finish` waits for `PATIENCE` at most, and a long run takes longer.
                    while std::env::var_os(LONG).is_some() && !client.running.has_ended() {
                        std::thread::sleep(Duration::from_millis(100));
                    }
                    client.finish()
                })
            });
            let carried = link.recv().map(|there| wire::carry([&here, &there], BAD, seed, &stop));
            let client = peers.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            (client, carried.unwrap())
        });
        Run { client, server: server.stop().last_document(), carried }
    })
}

/// Connections, options of both ends but sleeping, and the time to hold.
fn scale() -> (u64, String) {
    match std::env::var(LONG) {
        Ok(time) => (1_000, format!("--connections 1000 --interval 150ms --hold {time}")),
        Err(_) => (200, "--connections 200 --interval 200ms --hold 4s".to_owned()),
    }
}

/// Each message of a client of `raw` comes back by the server's echo and is compared byte for byte, so a byte that is
/// lost, doubled or torn makes its connection fail.
fn nothing_was_lost(run: &Run, connections: u64, payload: u32) {
    run.client.held(connections);
    assert_eq!(run.client.number("failed"), 0, "{}", run.client.json);
    let Carried { packets, lost, duplicated, overtaking } = run.carried;
    assert!(lost > 0 && duplicated > 0 && overtaking > 0, "the wire was too good: {:?}", run.carried);
    let [ours, theirs] = [&run.server, &run.client.json].map(|end| &end["hibernation"]["hibernated"]);
    let echo = &run.client.json["echo_latency_us"];
    println!(
        "{payload} bytes a message: {} messages; packets {packets}, lost {lost}, doubled {duplicated}, out of order \
         {overtaking}; sleeps at the server {ours}, at the client {theirs}; answers p50 {} us, p99 {}, p99.9 {}, max {}",
        echo["count"], echo["p50"], echo["p99"], echo["p999"], echo["max"],
    );
}

/// Both ends sleep after a millisecond of silence; messages of one segment and of several.
#[test(Network, Hibernation)]
fn both_ends_sleep_and_no_byte_is_lost() {
    let (connections, load) = scale();
    for (payload, seed) in [(64, 1), (4_000, 2)] {
        let sleeping = format!("--payload {payload} --hibernate 1ms {load}");
        let run = over_the_wire("--hibernate 1ms", &sleeping, seed);
        nothing_was_lost(&run, connections, payload);
        let (server, client) = (&run.server["hibernation"], &run.client.json["hibernation"]);
        assert!(number(server, "hibernated") > connections, "{server}");
        assert!(number(client, "hibernated") > connections, "{client}");
        assert!(number(server, "woken_by_peer") > connections, "{server}");
    }
}

/// The same network with a server that lets no connection sleep: what the network alone does.
#[test(Network)]
fn the_same_network_without_sleep_loses_nothing() {
    let (connections, load) = scale();
    for (payload, seed) in [(64, 1), (4_000, 2)] {
        let run = over_the_wire("", &format!("--payload {payload} {load}"), seed);
        nothing_was_lost(&run, connections, payload);
    }
}
