//! Processes that stand still for a while, as with Ctrl-Z, a frozen container or a machine that is paused: what came
//! meanwhile is read first, and nobody is blamed for it.

use std::io::{Read, Write};
use std::thread;
use std::time::Duration;

use crate::support::*;

/// Stops a process for a while.
fn stop_for(running: &Running, time: Duration) {
    running.pause();
    // The time itself is what is tried: nothing happens in it that could be waited for.
    thread::sleep(time);
    running.signal(libc::SIGCONT);
}

/// Longer than a client's `--reply-timeout` and `--connect-timeout` below.
const PAUSE: Duration = Duration::from_secs(5);
const SHORT: &str = "--reply-timeout 2s --connect-timeout 2s";

#[test]
fn a_client_that_is_stopped_in_its_ramp_blames_nobody() {
    let server = Server::start(10, "");
    let mut client = Client::start(&format!("{} --connections 20000 {SHORT}", server.at()));
    client.running.until("the ramp", |out| out.contains("ramp "));
    stop_for(&client.running, PAUSE);
    client.finish().held(20_000);
}

#[test]
fn a_client_that_is_stopped_while_it_sends_messages_blames_nobody() {
    let server = Server::start(4, "");
    let arguments = format!("{} --connections 2000 {SHORT} --interval 100ms --hold 60s", server.at());
    let mut client = Client::start(&arguments);
    client.running.until("messages", |out| out.lines().any(|line| line.starts_with("hold ")));
    stop_for(&client.running, PAUSE);
    let lines = || client.running.out().lines().filter(|line| line.starts_with("hold ")).count();
    let before = lines();
    eventually("it shows what it does again", || lines() > before + 1);
    client.running.signal(libc::SIGINT);
    let run = client.finish();
    assert_eq!((run.number("live"), run.number("failed")), (2_000, 0), "{}", run.json["errors"]);
}

/// Everyone talks more often than the server's patience lasts, and goes on while the server is stopped for longer
/// than that.
#[test]
fn a_server_that_is_stopped_closes_no_talking_connection_as_silent() {
    let server = Server::start(4, "--idle-timeout 4s --stats-interval 1s --json -");
    let arguments = format!("{} --connections 1000 --interval 500ms --hold 10m --reply-timeout 10m", server.at());
    let mut client = Client::start(&arguments);
    client.running.until("messages", |out| out.lines().any(|line| line.starts_with("hold ")));
    stop_for(&server.running, Duration::from_secs(22));
    let counts = || stats(&server.running.out());
    let before = counts().len();
    // Two sweeps, each of which takes four seconds of the server's time.
    eventually("it has looked at all of them twice", || counts().len() > before + 10);
    let [.., (_, silent)] = counts()[..] else { panic!("no stats") };
    assert_eq!(silent, 0);
    client.running.signal(libc::SIGINT);
    let run = client.finish();
    assert_eq!((run.number("live"), run.number("failed")), (1_000, 0), "{}", run.json["errors"]);
    // One line told of the time in which it was stopped.
    let out = server.stop().out;
    let seconds: Vec<f64> = stats(&out).into_iter().map(|(seconds, _)| seconds).collect();
    assert!(seconds.windows(2).all(|pair| pair[1] - pair[0] > 0.001), "lines at once: {seconds:?}");
    assert!(seconds.windows(2).filter(|pair| pair[1] - pair[0] < 0.5).count() <= 1, "lines at once: {seconds:?}");
}

/// The seconds and the connections closed as silent of each line of a server's counters.
fn stats(out: &str) -> Vec<(f64, u64)> {
    let events = out.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let stats = events.filter(|event| event["event"] == "stats");
    stats.map(|event| (event["seconds"].as_f64().unwrap(), number(&event, "silent"))).collect()
}

/// Who is silent for long enough is closed all the same, however often the server is stopped.
#[test]
fn a_silent_connection_is_closed_by_a_server_that_was_stopped() {
    let server = Server::start(1, "--idle-timeout 1s --json -");
    let mut silent = connected(server.port);
    echoes(&mut silent);
    stop_for(&server.running, Duration::from_secs(1));
    assert_eq!(silent.read(&mut [0]).unwrap(), 0, "it is closed in order");
    let mut anew = connected(server.port);
    anew.write_all(b"x").unwrap();
    assert_eq!(anew.read(&mut [0]).unwrap(), 1);
    assert_eq!(number(&server.stop().last_document(), "silent"), 1);
}
