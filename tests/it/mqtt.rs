//! MQTT against a broker that is built on the codec of others: both versions, both qualities of service, sessions,
//! wills, refusals and brokers that are wrong.

pub mod broker;
#[path = "../../src/protocol/mqtt/tests/oracle.rs"]
mod oracle;

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::sync::Arc;

use mqtt_proto::{Protocol, QoS, v5};

use crate::fanout::fanout_until;
use crate::storm::Storm;
use crate::support::*;
use broker::{Broker, Rules};

const VERSIONS: [&str; 2] = ["3.1.1", "5"];

/// Each connection has an own topic, and gets back what it publishes: in pieces of any size, and with messages of
/// another subscription between.
#[test]
fn a_broker_is_proved_end_to_end() {
    for (version, qos, piece) in [("3.1.1", 0, 1), ("3.1.1", 1, usize::MAX), ("5", 0, usize::MAX), ("5", 1, 3)] {
        let broker = Broker::start(Rules { piece, pushes: Some("news/today"), ..Rules::default() });
        let words = format!("--mqtt-version {version} --qos {qos} --subscribe news/# --interval 50ms");
        let run = client_until(
            "messages between the audits",
            || broker.seen(|seen| seen.messages > 3 * 30),
            &format!("{} --connections 30 --first-number 1000 {words}", broker.at()),
        );
        run.held(30);
        assert_eq!((&run.json["protocol"], &run.json["proof"]), (&"mqtt".into(), &"end-to-end".into()));
        assert!(number(&run.json["echo_latency_us"], "count") > 30, "{}", run.json);
        assert_eq!(run.number("goodbyes"), 30, "the broker closed each connection: {}", run.json);
        assert_eq!(broker.seen(|seen| seen.goodbyes), 30);
        broker.seen(|seen| {
            let clients: BTreeSet<String> = seen.connects.iter().map(|connect| connect.client_id.to_string()).collect();
            assert_eq!(clients, (1_000..1_030).map(|number| format!("c1m{number}")).collect());
            // The hello, two audits, and messages.
            assert!(seen.messages > 4 * 30, "{}", seen.messages);
            assert_eq!(seen.acknowledged, seen.delivered, "every message is acknowledged");
            let pushes = seen.delivered - if qos == 1 { seen.messages } else { 0 };
            assert_eq!(pushes, seen.messages);
            assert!(seen.subscriptions.iter().all(|filters| filters.len() == 2 && filters[1] == "news/#"));
        });
    }
}

#[test]
fn a_ping_proves_a_sign_of_life() {
    for version in VERSIONS {
        let broker = Broker::start(Rules::default());
        let words = format!("--mqtt-version {version} --proof ping --interval 50ms");
        let pings = || broker.seen(|seen| seen.pings.values().sum::<u64>());
        let arguments = format!("{} --connections 20 {words}", broker.at());
        let run = client_until("pings between the audits", || pings() > 2 * 20, &arguments);
        run.held(20);
        assert_eq!(run.json["proof"], "liveness");
        broker.seen(|seen| {
            assert!(seen.pings.values().sum::<u64>() > 3 * 20 && seen.messages == 0);
            assert!(seen.subscriptions.is_empty());
        });
    }
}

/// A publisher that waits for an acknowledgement holds up its own publications, and no others.
#[test]
fn a_publisher_that_waits_holds_up_no_other() {
    // The first publisher comes after five subscribers.
    let broker = Broker::start(Rules { ignores: Some(("c1m5", "c1m/fanout")), ..Rules::default() });
    let words = "--subscribers 5 --publishers 2 --rate 20 --for 1s --qos 1 --wait 10m --reply-timeout 10m --cores 1";
    let run = fanout_until(&broker.at(), words, |running| {
        // One of the first publisher, and all ten of the second one.
        eventually("the other publisher's publications", || {
            broker.seen(|seen| seen.topics.get("c1m/fanout").is_some_and(|publications| *publications == 11))
        });
        running.signal(libc::SIGINT);
    });
    assert_eq!(run.finished.code(), 1, "{}", run.json);
    assert_eq!(number(&run.json["fanout"], "published"), 11, "{}", run.json["fanout"]);
}

/// All that can be said in CONNECT and SUBSCRIBE, for each connection by its number.
#[test]
fn each_connection_says_who_it_is() {
    let broker = Broker::start(Rules::default());
    let who = "--client-id thing-{n} --user user{n} --password secret{n} --will-topic gone/{n} --will-message bye{n}";
    let topics = "--topic things/{n}/in --subscribe room/{topic}/+ --topics 40 --subscribe all";
    let words = format!("--qos 1 --session keep --session-expiry 90s --mqtt-keepalive 1m {who} {topics}");
    let run = client(&format!("{} --connections 5 --first-number 70 {words}", broker.at()));
    run.held(5);
    assert!(!run.json.to_string().contains("secret"), "results are passed on: {}", run.json["about"]);
    broker.seen(|seen| {
        let connect = seen.connects.iter().find(|connect| &*connect.client_id == "thing-72").unwrap();
        assert_eq!(connect.protocol, Protocol::V500);
        assert_eq!((connect.clean_start, connect.keep_alive), (false, 60));
        assert_eq!(connect.properties.session_expiry_interval, Some(90));
        assert_eq!(connect.username.as_ref().map(|name| name.to_string()), Some("user72".to_owned()));
        assert_eq!(connect.password.as_deref(), Some(&b"secret72"[..]));
        let will = connect.last_will.as_ref().unwrap();
        assert_eq!((&*will.topic_name, &will.payload[..], will.qos), ("gone/72", &b"bye72"[..], QoS::Level1));
        let filters = seen.subscriptions.iter().find(|filters| filters[0] == "things/72/in").unwrap();
        assert_eq!(filters.len(), 42);
        assert_eq!((&*filters[1], &*filters[40], &*filters[41]), ("room/1/+", "room/40/+", "all"));
        assert!(seen.wills.is_empty(), "each connection ended in order");
    });
}

#[test]
fn sessions_are_resumed_or_missed() {
    for version in VERSIONS {
        let broker = Broker::start(Rules::default());
        let at = format!("{} --connections 20 --mqtt-version {version}", broker.at());
        let subscribed = || broker.seen(|seen| seen.subscriptions.len());
        let held = |words: &str, resumed| {
            let run = client(&format!("{at} {words}"));
            run.held(20);
            assert_eq!(run.number("sessions_resumed"), resumed, "{words}: {}", run.json);
            assert_eq!(run.finished.out.contains("20 sessions resumed"), resumed > 0, "{}", run.finished.out);
        };
        held("--session keep", 0);
        assert_eq!(subscribed(), 20);
        // The subscriptions are still there, and nothing else brings the tokens back.
        held("--session resume --qos 1", 20);
        assert_eq!(subscribed(), 20);
        held("--session keep", 20);
        assert_eq!(subscribed(), 40);
        broker.forget_sessions();
        client(&format!("{at} --session resume")).failed("mqtt_no_session", 20, "--session keep");
    }
}

/// Sessions, quality of service 1 and keepalives over TLS, by a URL; and a certificate that is not trusted.
#[test]
fn a_broker_is_proved_over_tls() {
    let authority = Authority::new();
    let config = Arc::new(authority.sign("broker", &["127.0.0.1"]).foreign_server());
    for version in VERSIONS {
        let broker = Broker::start_over(Rules::default(), Some(config.clone()));
        let target = format!("--target mqtts://127.0.0.1:{} --connections 20 --concurrency 5", broker.port());
        let at = format!("{target} --ca {} --mqtt-version {version} --qos 1", authority.file());
        let run = client_until(
            "messages between the audits",
            || broker.seen(|seen| seen.messages > 3 * 20),
            &format!("{at} --session keep --interval 50ms --payload 20000"),
        );
        run.held(20);
        assert_eq!((&run.json["protocol"], &run.json["proof"]), (&"mqtt".into(), &"end-to-end".into()));
        assert!(number(&run.json["echo_latency_us"], "count") > 20, "{}", run.json);
        let [full, resumed] = run.handshakes();
        assert!(full + resumed == 20 && resumed > 0, "{}", run.json["tls"]);
        // Nothing is said but keepalives, until each connection has sent some.
        let held = Client::start(&format!("{at} --session resume --mqtt-keepalive 1s --hold 1h"));
        eventually("each connection pings", || {
            broker.seen(|seen| seen.pings.len() == 20 && seen.pings.values().all(|pings| *pings > 1))
        });
        held.running.signal(libc::SIGINT);
        let run = held.finish();
        let counted = ["live", "failed", "sessions_resumed", "goodbyes"].map(|name| run.number(name));
        assert_eq!(counted, [20, 0, 20, 20], "{}", run.json);
        broker.seen(|seen| {
            assert_eq!((seen.goodbyes, seen.subscriptions.len()), (40, 20));
            assert_eq!(seen.acknowledged, seen.delivered, "every message is acknowledged");
        });
        let stranger = Authority::new();
        let strange = client(&format!("{target} --mqtt-version {version} --ca {}", stranger.file()));
        strange.failed("tls_certificate_unknown_issuer", 20, "--ca");
    }
}

// ---- refusals and brokers that are wrong ------------------------------------------------------------

fn refusing(code: v5::ConnectReasonCode) -> Broker {
    Broker::start(Rules { greets: v5::Connack::new(false, code), ..Rules::default() })
}

#[test]
fn refusals_are_counted_by_their_reasons() {
    use v5::ConnectReasonCode::{BadUserNameOrPassword, NotAuthorized, ServerBusy};
    for (version, code, cause, words) in [
        ("3.1.1", BadUserNameOrPassword, "mqtt_connack_bad_user_name_or_password", "check --user"),
        ("5", NotAuthorized, "mqtt_connack_not_authorized", "--client-id"),
        ("5", ServerBusy, "mqtt_connack_server_busy", "lower --concurrency"),
    ] {
        let broker = refusing(code);
        let run = client(&format!("{} --connections 10 --mqtt-version {version}", broker.at()));
        run.failed(cause, 10, words);
    }
    let barred = Broker::start(Rules { bars: Some(v5::SubscribeReasonCode::NotAuthorized), ..Rules::default() });
    let run = client(&format!("{} --connections 10", barred.at()));
    run.failed("mqtt_suback_not_authorized", 10, "does not let the client subscribe");
    let run = client(&format!("{} --connections 10 --mqtt-version 3.1.1", barred.at()));
    run.failed("mqtt_suback_unspecified_error", 10, "without a reason");
}

/// A broker that is told a version which it does not speak answers in its own.
#[test]
fn a_broker_of_the_other_version_is_known_as_one() {
    for (version, connack) in [("5", &[0x20, 2, 0, 1][..]), ("3.1.1", &[0x20, 3, 0, 0x84, 0])] {
        let broker = Peer::with_threads(move |mut stream| {
            // What the client says is behind one read, and the broker closes after its answer.
            let _ = stream.read(&mut [0; 512]).and_then(|_| stream.write_all(connack));
        });
        let run = client(&format!("{} --connections 5 --protocol mqtt --mqtt-version {version}", broker.at()));
        run.failed("mqtt_connack_unsupported_protocol_version", 5, "choose the other one with --mqtt-version");
    }
}

#[test]
fn limits_of_the_broker_end_a_connection_that_would_break_them() {
    let limited = |set: fn(&mut v5::ConnackProperties)| {
        let mut greets = v5::Connack::new(false, v5::ConnectReasonCode::Success);
        set(&mut greets.properties);
        Broker::start(Rules { greets, ..Rules::default() })
    };
    let broker = limited(|limits| limits.server_keep_alive = Some(30));
    let at = format!("{} --connections 5", broker.at());
    client(&format!("{at} --mqtt-keepalive 31s")).failed("mqtt_shorter_keepalive", 5, "--mqtt-keepalive");
    client(&format!("{at} --mqtt-keepalive 30s")).held(5);
    let broker = limited(|limits| limits.max_qos = Some(QoS::Level0));
    client(&format!("{} --connections 5 --qos 1", broker.at())).failed("mqtt_lower_qos", 5, "use --qos 0");
    let broker = limited(|limits| limits.max_packet_size = Some(100));
    client(&format!("{} --connections 5 --payload 1000", broker.at())).failed("mqtt_shorter_packets", 5, "--payload");
    client(&format!("{} --connections 5 --payload 50", broker.at())).held(5);
}

#[test]
fn a_broker_that_mixes_up_its_connections_is_found_out() {
    let broker = Broker::start(Rules { mixes_up: true, ..Rules::default() });
    let run = client(&format!("{} --connections 20", broker.at()));
    run.failed("wrong_answer", 20, "mixes up connections");
}

#[test]
fn a_goodbye_of_the_broker_is_a_cause() {
    let ends = Some(v5::DisconnectReasonCode::ServerShuttingDown);
    let broker = Broker::start(Rules { ends, ..Rules::default() });
    let run = client(&format!("{} --connections 1", broker.at()));
    run.failed("mqtt_disconnect_server_shutting_down", 1, "shuts down");
}

/// A server of another protocol is none.
#[test]
fn another_protocol_is_malformed() {
    let server = Server::start(2, "");
    let run = client(&format!("{} --connections 10 --protocol mqtt", server.at()));
    run.failed("malformed", 10, "another one");
    let sink = Server::start(2, "--service sink");
    let run = client(&format!("{} --connections 10 --protocol mqtt --reply-timeout 1s", sink.at()));
    run.failed("silent", 10, "does not answer");
}

// ---- keepalive and storms -----------------------------------------------------------------------

/// The broker is told, and hears of each connection again and again, while nothing else is said.
#[test]
fn keepalives_follow_from_what_the_broker_was_told() {
    let broker = Broker::start(Rules::default());
    let held = Client::start(&format!("{} --connections 50 --mqtt-keepalive 1s --hold 1h", broker.at()));
    eventually("each connection pings", || {
        broker.seen(|seen| seen.pings.len() == 50 && seen.pings.values().all(|pings| *pings > 2))
    });
    held.running.signal(libc::SIGINT);
    let run = held.finish();
    assert_eq!((run.number("live"), run.number("failed")), (50, 0), "{}", run.json);
    broker.seen(|seen| assert!(seen.connects.iter().all(|connect| connect.keep_alive == 1)));
}

/// A storm's victims are gone without a word: their wills are published, and no others.
#[test]
fn a_disconnect_storm_publishes_the_wills_of_its_victims() {
    let broker = Broker::start(Rules::default());
    let wills = "--will-topic gone/{n} --will-message gone";
    let run = Storm::start(&broker.at(), &format!("disconnect --connections 60 --share 20 {wills}")).finish();
    assert_eq!(run.finished.code(), 0, "{}{}", run.finished.out, run.finished.err);
    assert_eq!((run.of_storm("closed"), run.of_storm("lost"), run.of_storm("wrong")), (20, 0, 0), "{}", run.json);
    eventually("all connections ended", || broker.seen(|seen| seen.goodbyes + seen.wills.len() as u64) == 60);
    let topics: BTreeSet<String> = broker.seen(|seen| seen.wills.iter().map(|(topic, _)| topic.clone()).collect());
    assert_eq!(topics.len(), 20, "{topics:?}");
}

#[test]
fn a_reconnect_storm_goes_on_with_its_sessions() {
    let broker = Broker::start(Rules::default());
    let words = "reconnect --connections 60 --share 20 --session keep --qos 1";
    let run = Storm::start(&broker.at(), words).finish();
    assert_eq!(run.finished.code(), 0, "{}{}", run.finished.out, run.finished.err);
    assert_eq!((run.of_storm("redialed"), run.of_storm("lost")), (20, 0), "{}", run.json);
    // Those that come back are the clients that went.
    assert_eq!(run.number("sessions_resumed"), 20, "{}", run.json);
    broker.seen(|seen| {
        let clients: BTreeSet<String> = seen.connects.iter().map(|connect| connect.client_id.to_string()).collect();
        assert_eq!((seen.connects.len(), clients.len()), (80, 60));
    });
}

// ---- what is typed ------------------------------------------------------------------------------

#[test]
fn what_cannot_be_is_refused() {
    let at = at(free_ports(1), 1);
    let cases: [(&str, &[&str]); 7] = [
        ("--qos 2", &["--qos 2", "use 0 or 1"]),
        ("--client-id me", &["--client-id \"me\"", "put {n}"]),
        ("--topic t/{n}/+", &["--topic", "wildcard"]),
        ("--topics 4", &["--topics without --subscribe"]),
        ("--proof echo", &["--proof \"echo\"", "publish or ping"]),
        ("--mqtt-keepalive 10s --keepalive-interval 20s", &["--keepalive-interval 20s", "10 s", "--mqtt-keepalive"]),
        ("--audit state", &["--audit", "mqtt"]),
    ];
    for (words, named) in cases {
        let finished = run(&format!("client --target-ip 127.0.0.1 {at} --protocol mqtt {words}"));
        finished.fails_with(2, named);
    }
    let finished = run(&format!("client --target-ip 127.0.0.1 {at} --will-topic a"));
    finished.fails_with(2, &["--will-topic with --protocol raw", "--protocol mqtt"]);
}
