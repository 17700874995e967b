//! A storm that kills the process of its victims, and peers that end by FIN in large numbers.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};

use c1m::internal::sys::Resource;
use serde_json::Value;

use crate::storm::{Storm, last_stats, storm};
use crate::support::*;

/// The process of the victims, which the storm names on a line of its own.
fn victims(out: &str) -> Option<u32> {
    let after = out.split_once("the victims are in process ")?.1;
    after.split_once(',')?.0.parse().ok()
}

fn wait_until_gone(pid: u32) {
    eventually("the victims' process is gone", || !runs(pid));
}

#[test(SocketFilter)]
fn survivors_of_a_killed_process_go_on_behind_a_filter() {
    survivors_go_on("filter");
}

#[test]
fn survivors_of_a_killed_process_go_on_in_polls() {
    survivors_go_on("poll");
}

fn survivors_go_on(backend: &str) {
    let server = Server::start(4, &format!("--json - --stats-interval 50ms --park {backend}"));
    let pid = server.running.pid();
    let arguments = format!("killed --connections 3000 --share 1000 --for 1s --calm 1s --server-pid {pid}");
    let run = storm(&server, &arguments);
    run.held([3_000, 2_000]);
    let counts = ["victims", "closed", "survivors", "closed_by_server", "redialed"].map(|name| run.of_storm(name));
    assert_eq!(counts, [1_000, 1_000, 2_000, 0, 0], "{backend}: {}", run.json);
    assert_eq!(run.json["storm"]["scenario"], "killed");
    assert!(run.json["storm"]["during"]["server_cpu_system_seconds"].is_f64(), "{}", run.json);
    assert!(number(&run.json["storm"]["during"]["echo_latency_us"], "count") > 0, "{}", run.json);
    // The result's shards are those of this process, and one for the victims' process.
    let shards = run.json["shards"].as_array().unwrap();
    let sum = |name: &str| shards.iter().map(|shard| number(shard, name)).sum::<u64>();
    assert_eq!((sum("requested"), sum("live")), (3_000, 2_000), "{}", run.json);
    assert_eq!(number(&run.json["connect_latency_us"], "count") + run.number("retransmitted"), 3_000);
    wait_until_gone(victims(&run.finished.out).unwrap());
    eventually("the server is empty", || last_stats(&server).is_some_and(|stats| stats == [0, 3_000]));
    let totals = server.stop().last_document();
    assert_eq!(["accepted", "closed"].map(|name| number(&totals, name)), [3_000, 3_000], "{totals}");
}

/// The storm works with any echo server, and each event is a line of JSON.
#[test]
fn a_process_is_killed_before_any_echo_server() {
    let peer = Peer::with_threads(|stream| echo(stream, || {}));
    let words = "--target-ip 127.0.0.1 --for 300ms --calm 300ms --after 300ms --interval 100ms --cores 1 --rate 300";
    let finished = run(&format!("storm killed {} --connections 60 --share 50% --json - {words}", peer.at()));
    assert_eq!(finished.code(), 0, "{}{}", finished.out, finished.err);
    let lines: Vec<Value> = finished.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let victims = lines.iter().find(|line| line["event"] == "victims").unwrap();
    wait_until_gone(number(victims, "pid") as u32);
    let storm = &lines.last().unwrap()["storm"];
    assert_eq!((number(storm, "closed"), number(storm, "lost")), (30, 0), "{storm}");
    for line in lines.iter().filter(|line| line["event"] == "progress") {
        let parts = ["live", "failed", "dropped", "to_go"].map(|name| number(line, name));
        assert_eq!(parts.iter().sum::<u64>(), 60, "{line}");
    }
}

/// A full server refuses some connections, victims too. The storm closes only those that were proved.
#[test]
fn victims_that_were_never_proved_are_not_closed_by_the_storm() {
    let server = Server::start(2, "--max-connections 500");
    let run = storm(&server, "killed --connections 1000 --share 400 --for 300ms");
    assert_eq!((run.finished.code(), run.number("failed")), (1, 500), "{}", run.json);
    assert_eq!(run.number("live") + run.of_storm("closed"), 500, "{}", run.json);
    assert!(run.of_storm("closed") <= 400, "{}", run.json);
}

#[test]
fn a_storm_without_a_listener_counts_all_connections_as_failed() {
    let at = format!("--port {} --ports 1", free_ports(1));
    let run = Storm::start(&at, "killed --connections 20 --share 10 --for 300ms").finish();
    assert_eq!((run.finished.code(), run.number("failed"), run.of_storm("closed")), (1, 20, 0), "{}", run.json);
}

#[test]
fn a_victims_process_that_dies_early_is_an_error() {
    let server = Server::start(2, "--json - --stats-interval 50ms");
    let mut running = start_storm(&server, "--calm 10m");
    running.until("the calm", |out| out.lines().any(|line| line.starts_with("calm ")));
    let pid = victims(&running.out()).unwrap();
    // SAFETY: no memory; the process is that of a storm which has not reaped it.
    assert_eq!(unsafe { libc::kill(pid as libc::pid_t, libc::SIGKILL) }, 0);
    let finished = running.wait();
    finished.fails_with(3, &["victims' process", "signal: 9"]);
    wait_until_gone(pid);
    eventually("the server is empty", || last_stats(&server).is_some_and(|[live, _]| live == 0));
}

#[test]
fn a_victims_process_does_not_outlive_its_storm() {
    let server = Server::start(2, "--json - --stats-interval 50ms");
    for signal in [libc::SIGINT, libc::SIGKILL] {
        let mut running = start_storm(&server, "--calm 10m");
        running.until("the calm", |out| out.lines().any(|line| line.starts_with("calm ")));
        let pid = victims(&running.out()).unwrap();
        assert!(runs(pid));
        running.signal(signal);
        let finished = running.wait();
        wait_until_gone(pid);
        eventually("the server is empty", || last_stats(&server).is_some_and(|[live, _]| live == 0));
        if signal == libc::SIGINT {
            assert_eq!(finished.code(), 1, "{}{}", finished.out, finished.err);
            assert!(finished.out.contains("1,000 live"), "{}", finished.out);
        }
    }
}

fn start_storm(server: &Server, more: &str) -> Running {
    let mut command = c1m();
    let words =
        format!("storm killed --target-ip 127.0.0.1 {} --connections 1000 --interval 200ms {more}", server.at());
    command.args(words.split_whitespace());
    Running::start(command)
}

#[test]
fn a_killed_storm_needs_victims_and_survivors() {
    run("storm killed --target-ip 127.0.0.1 --share 0").fails_with(2, &["no victim"]);
    run("storm killed --target-ip 127.0.0.1 --connections 10 --share 10").fails_with(2, &["no survivor"]);
}

/// New connections may reach a full server before the FINs that make room for them.
#[test(SocketFilter)]
fn new_connections_wait_for_places_that_fins_free_behind_a_filter() {
    new_connections_wait("filter");
}

#[test]
fn new_connections_wait_for_places_that_fins_free_in_polls() {
    new_connections_wait("poll");
}

fn new_connections_wait(backend: &str) {
    let options = format!("--core-list 0 --max-connections 500 --json - --park {backend}");
    let server = Server::start(1, &options);
    let mut peers: Vec<TcpStream> = (0..500).map(|_| connected(server.port)).collect();
    peers.iter_mut().for_each(echoes);
    server.running.pause();
    let newcomers: Vec<TcpStream> = (0..100).map(|_| connected(server.port)).collect();
    peers.drain(..100);
    peers.extend(newcomers);
    // A connection waits for 0.1 s, and longer only if a FIN has come that the server has not seen yet.
    wait_for_established(server.port, 500);
    server.running.signal(libc::SIGCONT);
    peers.iter_mut().for_each(echoes);
    drop(peers);
    let document = server.stop().last_document();
    let counts = ["accepted", "refused"].map(|name| number(&document, name));
    assert_eq!(counts, [600, 0], "{backend}: {document}");
}

/// Peers that close their side together get their echoes, while another peer goes on talking.
#[test(SocketFilter)]
fn peers_that_end_together_get_their_echoes_first_behind_a_filter() {
    echoes_come_first("filter");
}

#[test]
fn peers_that_end_together_get_their_echoes_first_in_polls() {
    echoes_come_first("poll");
}

fn echoes_come_first(backend: &str) {
    const PEERS: usize = 3_000;
    Resource::Files.raise().unwrap();
    let server = Server::start(2, &format!("--json - --park {backend}"));
    let mut survivor = connected(server.port);
    let mut peers: Vec<TcpStream> = (0..PEERS).map(|nth| connected(server.port + nth as u16 % 2)).collect();
    peers.iter_mut().for_each(echoes);
    for peer in &mut peers {
        peer.write_all(b"last words").unwrap();
        peer.shutdown(Shutdown::Write).unwrap();
    }
    echoes(&mut survivor);
    for peer in &mut peers {
        let mut said = Vec::new();
        peer.read_to_end(&mut said).unwrap();
        assert_eq!(said, b"last words", "{backend}");
        echoes(&mut survivor);
    }
    drop(survivor);
    let document = server.stop().last_document();
    let counts = ["accepted", "closed", "live"].map(|name| number(&document, name));
    assert_eq!(counts, [PEERS as u64 + 1, PEERS as u64 + 1, 0], "{backend}: {document}");
}
