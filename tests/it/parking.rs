//! Idle connections wait behind a filter or in polls, and neither misses data or an end.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::time::{Duration, Instant};

use tempfile::tempdir;

use crate::support::*;

#[test(SocketFilter)]
fn a_server_reports_that_connections_wait_behind_a_filter_and_answers_them() {
    are_answered("filter");
}

#[test]
fn a_server_reports_that_connections_wait_in_polls_and_answers_them() {
    are_answered("poll");
}

/// The number of echoes in the last line of a hold.
fn echoes_of(out: &str) -> u64 {
    let line = out.lines().rfind(|line| line.starts_with("hold ") && line.ends_with(" echoes"));
    let count = line.and_then(|line| line.split_whitespace().rev().nth(1));
    count.map_or(0, |count| count.replace(',', "").parse().unwrap())
}

fn are_answered(backend: &str) {
    let server = Server::start(4, &format!("--park {backend} --json -"));
    // Intervals are longer, and shorter, than the time between two sweeps over a connection.
    for interval in ["20ms", "350ms"] {
        let arguments = format!("{} --connections 300 --interval {interval} --hold 10m", server.at());
        let mut client = Client::start(&arguments);
        client.running.until("each connection echoed several times", |out| echoes_of(out) >= 1_200);
        client.running.signal(libc::SIGINT);
        let run = client.finish();
        assert_eq!(
            (run.number("live"), run.number("failed")),
            (300, 0),
            "{backend}: {interval}: {}",
            run.json["errors"]
        );
    }
    let finished = server.stop();
    assert_eq!(events(&finished.out, "ready")[0]["park"], backend);
    let totals = finished.last_document();
    assert_eq!((number(&totals, "accepted"), number(&totals, "closed")), (600, 600), "{backend}: {totals}");
}

#[test]
fn a_server_of_an_ordinary_user_uses_polls_and_says_why() {
    let dir = tempdir().unwrap();
    let port = free_ports(1);
    let refused = run_as(c1m_unprivileged(&dir), &server_arguments(port, 1, "--park filter"));
    refused.fails_with(3, &["socket filter: ", "(EPERM)", "--park poll"]);
    let mut server = Running::start({
        let mut command = c1m_unprivileged(&dir);
        command.args(server_arguments(port, 1, "--quiet").split_whitespace());
        command
    });
    server.until("it is ready", |out| out.contains("\nready"));
    echoes(&mut connected(port));
    server.signal(libc::SIGTERM);
    let out = server.wait().out;
    assert!(out.contains("idle connections wait in polls, 256 bytes each: no filter may be had here"), "{out}");
}

/// The unit of systemd allows fchown only with its drop-in for sleep.
#[test(SocketFilter)]
fn a_profile_that_forbids_the_filter_is_named_and_not_a_capability() {
    let mut command = c1m();
    refuse(&mut command, libc::SYS_fchown..=libc::SYS_fchown, None, libc::EPERM);
    let refused = run_as(command, &server_arguments(free_ports(1), 1, "--park filter"));
    refused.fails_with(3, &["socket filter: ", "(EPERM)", "the capabilities are there", "fchown", "--park poll"]);
}

#[test(SocketFilter)]
fn every_end_behind_a_filter_is_noticed() {
    ends_are_noticed("filter");
}

#[test]
fn every_end_in_a_poll_is_noticed() {
    ends_are_noticed("poll");
}

/// Every kind of end, after a silence or within a message, is noticed and counted.
fn ends_are_noticed(backend: &str) {
    let server = Server::start(1, &format!("--park {backend} --stats-interval 50ms --json -"));
    let mut peers: Vec<_> = (0..60).map(|_| connected(server.port)).collect();
    peers.iter_mut().for_each(echoes);
    let silent = Instant::now() + Duration::from_millis(400);
    let mut talking = connected(server.port);
    eventually("the others were silent for a while", || {
        echoes(&mut talking);
        Instant::now() > silent
    });
    for (nth, mut peer) in peers.into_iter().enumerate() {
        match nth % 4 {
            0 => drop(peer),
            1 => reset(peer),
            2 => {
                peer.write_all(b"bye").unwrap();
                peer.shutdown(Shutdown::Write).unwrap();
                let mut last = Vec::new();
                peer.read_to_end(&mut last).unwrap();
                assert_eq!(last, b"bye");
            }
            _ => {
                peer.write_all(b"unread").unwrap();
                reset(peer);
            }
        }
    }
    eventually("all but one are gone", || {
        let out = server.running.out();
        let last = out.lines().last().unwrap_or_default().to_owned();
        last.contains(r#""live":1,"#)
    });
    echoes(&mut talking);
    drop(talking);
    let totals = server.stop().last_document();
    assert_eq!((number(&totals, "accepted"), number(&totals, "closed")), (61, 61), "{backend}: {totals}");
}
