//! NATS against a server of the tests' own: proofs, refusals, servers that are wrong, and TLS from the first byte.

pub mod broker;

use std::collections::BTreeSet;
use std::io::Write;
use std::sync::Arc;

use crate::support::*;
use broker::{Broker, Rules};

/// Each connection has a subject of its own, and gets back what it publishes: in pieces of any size, and with messages of
/// another subscription and pings between.
#[test]
fn a_server_is_proved_end_to_end() {
    for piece in [1, 7, usize::MAX] {
        let broker = Broker::start(Rules { piece, pushes: Some("news.today"), ..Rules::default() });
        let run = client_until(
            "messages between the audits",
            || broker.seen(|seen| seen.messages > 3 * 10),
            &format!("{} --connections 10 --first-number 1000 --subscribe news.> --interval 50ms", broker.at()),
        );
        run.held(10);
        assert_eq!((&run.json["protocol"], &run.json["proof"]), (&"nats".into(), &"end-to-end".into()));
        assert!(number(&run.json["echo_latency_us"], "count") > 10, "{}", run.json);
        broker.seen(|seen| {
            let names: BTreeSet<&str> = seen.connects.iter().map(|connect| connect["name"].as_str().unwrap()).collect();
            assert_eq!(names.len(), 10);
            assert!(names.contains("c1m1000") && names.contains("c1m1009"), "{names:?}");
            // The hello, two audits, and messages.
            assert!(seen.messages > 4 * 10 && seen.pushed > 10 * 10, "{} {}", seen.messages, seen.pushed);
            // The last ones may have come when the connection was gone.
            assert!(seen.pongs > 2 * 10 && run.number("pushes") > 2 * 10, "{}: {}", seen.pongs, run.json);
        });
    }
}

#[test]
fn a_ping_proves_a_sign_of_life() {
    let broker = Broker::start(Rules::default());
    let pings = || broker.seen(|seen| seen.pings.values().sum::<u64>());
    let arguments = format!("{} --connections 20 --proof ping --interval 50ms", broker.at());
    let run = client_until("pings between the audits", || pings() > 3 * 20, &arguments);
    run.held(20);
    assert_eq!(run.json["proof"], "liveness");
    broker.seen(|seen| {
        assert!(seen.pings.values().sum::<u64>() > 4 * 20 && seen.messages == 0);
        assert!(seen.subjects.is_empty());
    });
}

#[test]
fn each_connection_says_who_it_is() {
    let broker = Broker::start(Rules::default());
    let words = "--user user\"{n} --password secret{n} --topic things.{n}.in --subscribe room.* --subscribe all";
    let run = client(&format!("{} --connections 5 --first-number 70 {words}", broker.at()));
    run.held(5);
    assert!(!run.json.to_string().contains("secret"), "results are passed on: {}", run.json["about"]);
    broker.seen(|seen| {
        let connect = seen.connects.iter().find(|connect| connect["name"] == "c1m72").unwrap();
        assert_eq!((&connect["user"], &connect["pass"]), (&"user\"72".into(), &"secret72".into()));
        assert!(seen.subjects.iter().any(|subject| subject == "things.72.in"));
        assert_eq!(seen.subjects.len(), 3 * 5);
    });
}

/// NATS has TLS after the first line, unless the server is told to begin with it.
#[test]
fn a_server_is_proved_over_tls_from_the_first_byte() {
    let authority = Authority::new();
    let config = Arc::new(authority.sign("broker", &["127.0.0.1"]).foreign_server());
    let broker = Broker::start_over(Rules::default(), Some(config));
    let tls = format!("--connections 20 --concurrency 5 --tls --ca {}", authority.file());
    let target = |port| format!("--target nats://127.0.0.1:{port} {tls}");
    let run = client(&format!("{} --interval 50ms --hold 300ms --payload 20000", target(broker.port())));
    run.held(20);
    assert_eq!((&run.json["protocol"], &run.json["proof"]), (&"nats".into(), &"end-to-end".into()));
    let [full, resumed] = run.handshakes();
    assert!(full + resumed == 20 && resumed > 0, "{}", run.json["tls"]);
    let late = Broker::start(Rules::default());
    client(&target(late.port())).failed("tls_sent_decode_error", 20, "handshake_first");
}

#[test]
fn errors_of_the_server_are_causes() {
    for (error, cause, words) in [
        ("Authorization Violation", "nats_authorization_violation", "check --user"),
        ("maximum connections exceeded", "nats_too_many_connections", "max_connections"),
        ("Something Else", "nats_error", "its log"),
    ] {
        let broker = Broker::start(Rules { refuses: Some(error), ..Rules::default() });
        client(&format!("{} --connections 10", broker.at())).failed(cause, 10, words);
    }
    let broker = Broker::start(Rules { ends: Some("Stale Connection"), ..Rules::default() });
    client(&format!("{} --connections 10", broker.at())).failed("nats_stale_connection", 10, "pings");
}

#[test]
fn a_server_that_mixes_up_its_connections_is_found_out() {
    let broker = Broker::start(Rules { mixes_up: true, ..Rules::default() });
    let run = client(&format!("{} --connections 20", broker.at()));
    // The first message has none before it.
    assert!(run.cause("wrong_answer") >= 19 && run.cause("wrong_answer") == run.number("failed"), "{}", run.json);
}

/// A server of another protocol is none.
#[test]
fn another_protocol_is_malformed() {
    let peer = Peer::start(|stream| stream.write_all(b"220 mail.example ESMTP\r\n").is_ok());
    client(&format!("{} --connections 10 --protocol nats", peer.at())).failed("malformed", 10, "another one");
    let server = Server::start(2, "");
    let run = client(&format!("{} --connections 10 --protocol nats --reply-timeout 1s", server.at()));
    run.failed("silent", 10, "does not answer");
}

#[test]
fn keepalives_are_pings() {
    let broker = Broker::start(Rules::default());
    let held = Client::start(&format!("{} --connections 20 --keepalive-interval 1s --hold 1h", broker.at()));
    eventually("each connection pings", || {
        broker.seen(|seen| seen.pings.len() == 20 && seen.pings.values().all(|pings| *pings > 2))
    });
    held.running.signal(libc::SIGINT);
    let run = held.finish();
    assert_eq!((run.number("live"), run.number("failed")), (20, 0), "{}", run.json);
    assert!(run.number("keepalives") > 20, "{}", run.json);
}

#[test]
fn what_cannot_be_is_refused() {
    let at = at(free_ports(1), 1);
    let cases: [(&str, &[&str]); 5] = [
        ("--topic me", &["--topic \"me\"", "put {n}"]),
        ("--topic t.{n}.>", &["--topic", "wildcard"]),
        ("--qos 1", &["--qos with --protocol nats", "--protocol mqtt"]),
        ("--proof echo", &["--proof \"echo\"", "publish or ping"]),
        ("--audit state", &["--audit", "nats"]),
    ];
    for (words, named) in cases {
        run(&format!("client --target-ip 127.0.0.1 {at} --protocol nats {words}")).fails_with(2, named);
    }
}
