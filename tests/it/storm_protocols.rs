//! Every storm in every protocol, and over TLS. The storms of one server run at the same time.

use crate::mqtt::broker::Broker;
use crate::nats;
use crate::storm::{Storm, StormRun};
use crate::support::*;

/// Each way in which connections may be taken away from a server, or come to it.
const SCENARIOS: [&str; 7] = [
    "disconnect",
    "disconnect --fin",
    "reconnect",
    "churn --for 200ms --rate 200",
    "slow-readers --for 200ms",
    "silent --for 200ms",
    "killed --for 200ms",
];

const HTTP: &str = "--protocol http --proof token --path /{token}";

/// A line that an echo server sends back.
const LINES: &str = r"--protocol send-expect --send {n}:{token}\n --expect {n}:{token}\n";

/// Storms on so many connections each, a fifth of them victims, of the server at `at`: all at the same time, and all to
/// their ends.
fn rage(at: &str, words: &str, connections: u64, scenarios: &[&str]) -> Vec<StormRun> {
    let start = |(nth, scenario): (usize, &&str)| {
        // A storm that dials further connections has no victims.
        let share = if scenario.starts_with("churn") { "" } else { "--share 20%" };
        let size = format!("--connections {connections} {share} --concurrency 20");
        // Numbers apart: an MQTT server ends a connection when another one has its client identifier.
        let numbers = format!("--first-number {}", nth * 1_000_000);
        let times = "--calm 200ms --after 200ms --interval 100ms";
        Storm::start(at, &format!("{scenario} {size} {numbers} {times} {words}"))
    };
    let running: Vec<Storm> = scenarios.iter().enumerate().map(start).collect();
    let runs: Vec<StormRun> = running.into_iter().map(Storm::finish).collect();
    for (scenario, run) in scenarios.iter().zip(&runs) {
        let victims = connections / 5;
        let [closed, redialed, anew] = ["closed", "redialed", "stood_anew"].map(|name| run.of_storm(name));
        let left = match scenario.split(' ').next() {
            Some("churn") => {
                assert!(redialed > 0 && [closed, anew] == [redialed; 2], "{scenario}: {}", run.json);
                connections
            }
            Some("reconnect") => {
                assert_eq!([closed, redialed, anew], [victims; 3], "{scenario}: {}", run.json);
                connections
            }
            _ => {
                assert_eq!([closed, redialed, anew], [victims, 0, 0], "{scenario}: {}", run.json);
                connections - victims
            }
        };
        run.kept([connections, left]);
        // On a busy machine all messages of a short stage may be answered later.
        assert!(["before", "during", "after"].map(|stage| run.messages(stage)) != [0; 3], "{scenario}: {}", run.json);
    }
    runs
}

#[test]
fn every_storm_speaks_websocket() {
    let server = Server::start(4, "--protocol websocket");
    // Pings are what the storms over TLS say.
    for run in rage(&server.at(), "--protocol websocket --proof echo", 100, &SCENARIOS) {
        assert_eq!((&run.json["protocol"], &run.json["proof"]), (&"websocket".into(), &"end-to-end".into()));
        assert_eq!(run.number("goodbyes"), run.number("live"), "{}", run.json);
    }
}

#[test]
fn every_storm_speaks_http() {
    let server = Server::start(4, "--protocol http");
    for run in rage(&server.at(), HTTP, 100, &SCENARIOS) {
        assert_eq!((&run.json["protocol"], &run.json["proof"]), (&"http".into(), &"end-to-end".into()));
    }
}

#[test]
fn every_storm_speaks_send_expect() {
    let server = Server::start(4, "");
    for run in rage(&server.at(), LINES, 100, &SCENARIOS) {
        assert_eq!((&run.json["protocol"], &run.json["proof"]), (&"send-expect".into(), &"end-to-end".into()));
    }
}

/// The broker of the tests has a thread for each connection.
#[test]
fn every_storm_speaks_mqtt() {
    let broker = Broker::start(Default::default());
    for run in rage(&broker.at(), "--qos 1", 20, &SCENARIOS) {
        assert_eq!((&run.json["protocol"], &run.json["proof"]), (&"mqtt".into(), &"end-to-end".into()));
        assert_eq!(run.number("goodbyes"), run.number("live"), "{}", run.json);
    }
}

/// NATS has no goodbye, so none is counted.
#[test]
fn every_storm_speaks_nats() {
    let broker = nats::broker::Broker::start(Default::default());
    for run in rage(&broker.at(), "", 20, &SCENARIOS) {
        assert_eq!((&run.json["protocol"], &run.json["proof"]), (&"nats".into(), &"end-to-end".into()));
        assert_eq!(run.number("goodbyes"), 0, "{}", run.json);
    }
}

/// TLS lies below all protocols: each protocol has some of the storms, and each storm some protocol.
#[test]
fn every_storm_goes_over_tls() {
    let authority = Authority::new();
    let certificate = authority.sign("server", &["localhost"]);
    let cases: [(&str, &str, &[&str]); 4] = [
        ("raw", "", &["reconnect --resume", "slow-readers --for 200ms"]),
        ("raw", LINES, &["churn --for 200ms --rate 200"]),
        ("websocket", "--protocol websocket --proof ping", &["killed --for 200ms", "disconnect"]),
        ("http", HTTP, &["disconnect --fin", "silent --for 200ms"]),
    ];
    for (protocol, words, scenarios) in cases {
        let server = Server::start(2, &format!("--protocol {protocol} {}", certificate.server()));
        let words = format!("--tls --ca {} --sni localhost {words}", authority.file());
        for (scenario, run) in scenarios.iter().zip(rage(&server.at(), &words, 50, scenarios)) {
            let kinds = ["full", "resumed"].map(|kind| format!("{kind}_handshake_latency_us"));
            let [full, resumed] = kinds.map(|kind| number(&run.json["tls"][kind], "count"));
            assert_eq!(full + resumed, run.number("requested") + run.of_storm("redialed"), "{scenario}: {}", run.json);
            assert!(resumed > 0 || !scenario.contains("--resume"), "{scenario}: {}", run.json);
            let line = format!("TLS handshakes: {full} full, {resumed} resumed");
            assert!(run.finished.out.contains(&line), "{line}: {}", run.finished.out);
        }
    }
}
