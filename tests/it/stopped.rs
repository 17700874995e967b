//! Processes that are stopped for a while, as by Ctrl-Z, a frozen container or a paused machine. Data that arrived
//! meanwhile is read first, and no peer is blamed for the pause.

use std::io::{Read, Write};
use std::thread;
use std::time::Duration;

use crate::support::*;

/// Stops a process for a while.
fn stop_for(running: &Running, time: Duration) {
    running.pause();
    // The time itself is under test: nothing happens in it that the test could wait for.
    thread::sleep(time);
    running.signal(libc::SIGCONT);
}

/// The most seconds by which a counted suspension may be shorter than the stop: the rest of a sleep in which the
/// stop began, and waits for a processor around it.
const ROUNDED: f64 = 1.0;

/// Checks that a client reports a number of stops of `PAUSE`, in warnings and in its result.
fn reports_stops(run: &Finished, json: &serde_json::Value, stops: u64) {
    assert_eq!(number(json, "suspensions"), stops, "{}", run.err);
    let seconds = json["suspended_seconds"].as_f64().unwrap();
    let least = stops as f64 * (PAUSE.as_secs_f64() - ROUNDED);
    assert!(seconds > least, "{seconds} s of {stops} stops: {}", run.err);
    assert_eq!(run.err.matches("c1m: the client did not run for ").count() as u64, stops, "{}", run.err);
    let line = run.out.lines().find(|line| line.starts_with(&format!("suspended {stops} times, ")));
    assert!(line.is_some_and(|line| line.contains("the seconds and rates of phases")), "{}", run.out);
}

/// The duration of a phase of a result, by the clock of the host.
fn phase_seconds(json: &serde_json::Value, name: &str) -> f64 {
    let mut phases = json["timeline"]["phases"].as_array().unwrap().iter();
    let phase = phases.find(|phase| phase["phase"] == name).unwrap();
    phase["end"].as_f64().unwrap() - phase["start"].as_f64().unwrap()
}

/// No work is due while a client is stopped: no messages pile up, and the hold lasts as long as it should.
#[test]
fn a_client_that_is_stopped_while_it_holds_continues_its_schedule() {
    const TALKERS: u64 = 200;
    const HOLD: f64 = 6.0;
    let server = Server::start(4, "--json -");
    let mut client = Client::start(&format!("{} --connections {TALKERS} --interval 1s --hold 6s", server.at()));
    client.running.until("messages", |out| out.lines().any(|line| line.starts_with("hold ")));
    stop_for(&client.running, PAUSE);
    let run = client.finish();
    run.held(TALKERS);
    reports_stops(&run.finished, &run.json, 1);
    let held = phase_seconds(&run.json, "hold");
    assert!(held > HOLD + PAUSE.as_secs_f64() - ROUNDED, "held for {held} s: {}", run.finished.out);
    // Each connection sends a hello and two tokens too. On a slow machine the hold may last longer than requested.
    let messages = number(&server.stop().last_document(), "messages") - 3 * TALKERS;
    let due = (held - PAUSE.as_secs_f64() + ROUNDED) * TALKERS as f64;
    assert!((messages as f64) < due, "{messages} messages, {due} were due in {held} s");
    // No message was omitted, so no latency is added for an omitted one.
    assert!(number(&run.json["echo_latency_us"], "count") as f64 <= due, "{}", run.json["echo_latency_us"]);
}

#[test]
fn a_client_that_is_stopped_while_it_dials_and_closes_keeps_its_rates() {
    const CONNECTIONS: u64 = 1_600;
    const SECONDS: f64 = 4.0;
    let server = Server::start(4, "");
    let rates = "--rate 400 --close-rate 400";
    let mut client = Client::start(&format!("{} --connections {CONNECTIONS} {rates}", server.at()));
    for phase in ["ramp ", "close "] {
        client.running.until(phase, |out| out.lines().any(|line| line.starts_with(phase)));
        stop_for(&client.running, PAUSE);
    }
    let run = client.finish();
    run.held(CONNECTIONS);
    reports_stops(&run.finished, &run.json, 2);
    for name in ["ramp_seconds", "close_seconds"] {
        let seconds = run.json[name].as_f64().unwrap();
        assert!(seconds > SECONDS + PAUSE.as_secs_f64() - ROUNDED, "{name} {seconds}: {}", run.finished.out);
    }
}

#[test]
fn a_storm_that_is_stopped_lasts_as_long_as_it_should_and_keeps_its_rate() {
    const RATE: f64 = 200.0;
    const SECONDS: f64 = 3.0;
    let server = Server::start(4, "");
    let dir = tempfile::tempdir().unwrap();
    let mut command = c1m();
    let stages = "--calm 300ms --after 300ms --interval 1s --for 3s --rate 200";
    let arguments = format!("storm churn --target-ip 127.0.0.1 {} --connections 50 {stages}", server.at());
    command.args(arguments.split_whitespace()).arg("--json").arg(dir.path().join("json"));
    let mut storm = Running::start(command);
    storm.until("the storm", |out| out.lines().any(|line| line.starts_with("storm ")));
    stop_for(&storm, PAUSE);
    let finished = storm.wait();
    assert_eq!(finished.code(), 0, "{}{}", finished.out, finished.err);
    let json: serde_json::Value = document(dir.path().join("json"));
    reports_stops(&finished, &json, 1);
    let raged = json["storm"]["during"]["seconds"].as_f64().unwrap();
    assert!(raged > SECONDS + PAUSE.as_secs_f64() - ROUNDED, "{raged} s: {}", finished.out);
    let due = (raged - PAUSE.as_secs_f64() + ROUNDED) * RATE;
    assert!((number(&json["storm"], "redialed") as f64) < due, "{due} were due in {raged} s: {}", finished.out);
}

/// A pause longer than the `--reply-timeout` and `--connect-timeout` below. A busy machine may drop a SYN in its backlog twice in a
/// row, and the kernel sends it again after 1 s, 2 s and 3 s (`tcp_syn_linear_timeouts`, or 3 s before Linux 6.5).
const PAUSE: Duration = Duration::from_secs(6);
const SHORT: &str = "--reply-timeout 4s --connect-timeout 4s";

#[test]
fn a_client_that_is_stopped_in_its_ramp_loses_no_connection() {
    let server = Server::start(10, "");
    let mut client = Client::start(&format!("{} --connections 20000 {SHORT}", server.at()));
    client.running.until("the ramp", |out| out.contains("ramp "));
    stop_for(&client.running, PAUSE);
    let run = client.finish();
    run.held(20_000);
    let ramp = run.json["ramp_seconds"].as_f64().unwrap();
    assert!(ramp > PAUSE.as_secs_f64() - ROUNDED, "it was stopped within its ramp of {ramp} s");
}

#[test]
fn a_client_that_is_stopped_while_it_sends_messages_loses_no_connection() {
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

/// All connections send more often than the idle timeout, and go on while the server is stopped for longer than
/// that.
#[test]
fn a_server_that_is_stopped_closes_no_talking_connection_as_silent() {
    let server = Server::start(4, "--idle-timeout 4s --stats-interval 1s --json -");
    let arguments = format!("{} --connections 1000 --interval 500ms --hold 10m --reply-timeout 10m", server.at());
    let mut client = Client::start(&arguments);
    client.running.until("messages", |out| out.lines().any(|line| line.starts_with("hold ")));
    stop_for(&server.running, Duration::from_secs(22));
    let counts = || stats(&server.running.out());
    let before = counts().len();
    // Each of two sweeps takes four seconds of the server's time.
    eventually("it has looked at all of them twice", || counts().len() > before + 10);
    let [.., (_, silent)] = counts()[..] else { panic!("no stats") };
    assert_eq!(silent, 0);
    client.running.signal(libc::SIGINT);
    let run = client.finish();
    assert_eq!((run.number("live"), run.number("failed")), (1_000, 0), "{}", run.json["errors"]);
    // One line covers the time in which the server was stopped.
    let out = server.stop().out;
    let seconds: Vec<f64> = stats(&out).into_iter().map(|(seconds, _)| seconds).collect();
    // Even after a late line, the next one comes at least half an interval later.
    assert!(seconds.windows(2).all(|pair| pair[1] - pair[0] >= 0.5), "lines at once: {seconds:?}");
}

/// The seconds, and the number of connections closed as silent, of each line of a server's counters.
fn stats(out: &str) -> Vec<(f64, u64)> {
    let stats = events(out, "stats");
    stats.iter().map(|event| (event["seconds"].as_f64().unwrap(), number(event, "silent"))).collect()
}

/// A silent peer is closed all the same after the idle timeout, although the server was stopped.
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
