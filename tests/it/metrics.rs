//! The metrics of a server, and the dashboard that comes with them.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpStream;

use serde_json::Value;

use crate::support::*;

/// A server that serves its metrics on a free port.
fn server(arguments: &str) -> (Server, String) {
    let server = Server::start(4, &format!("--cores 2 --metrics 127.0.0.1:0 {arguments}"));
    let out = server.running.out();
    let url = out.lines().find_map(|line| line.strip_prefix("metrics: http://")).unwrap();
    let address = url.strip_suffix("/metrics").unwrap().to_owned();
    (server, address)
}

/// The head and the body of an endpoint's answer.
fn ask(address: &str, request: &str) -> (String, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "{request} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    (head.to_owned(), body.to_owned())
}

/// The metrics as Prometheus reads them.
fn scrape(address: &str) -> String {
    let (head, body) = ask(address, "GET /metrics");
    assert!(head.starts_with("HTTP/1.1 200 ") && head.contains("\r\nDate: "), "{head}");
    assert!(head.to_lowercase().contains("content-type: text/plain; version=0.0.4"), "{head}");
    body
}

/// The sum of a series over all shards.
fn sum(text: &str, series: &str, further: &str) -> f64 {
    let of_shard = |shard: &str| {
        let name = format!(r#"{series}{{shard="{shard}"{further}}} "#);
        let line = text.lines().find_map(|line| line.strip_prefix(&name));
        line.unwrap_or_else(|| panic!("no {name}in\n{text}")).parse::<f64>().unwrap()
    };
    of_shard("0") + of_shard("1")
}

#[test]
fn tls_has_its_own_counts() {
    let authority = Authority::new();
    let (server, address) = server(&authority.sign("server", &["127.0.0.1"]).server());
    client(&format!("{} --tls --ca {} --connections 40 --concurrency 4", server.at(), authority.file())).held(40);
    let strange = Authority::new();
    client(&format!("{} --tls --connections 3 --ca {}", server.at(), strange.file()));
    eventually("the failed handshakes are counted", || {
        let text = scrape(&address);
        openmetrics_parser::prometheus::parse_prometheus(&text).unwrap_or_else(|e| panic!("{e}:\n{text}"));
        let of = |series: &str, label: &str| sum(&text, &format!("c1m_tls_{series}"), label);
        let handshakes = ["full", "resumed"].map(|kind| of("handshakes_total", &format!(r#",kind="{kind}""#)));
        assert!(handshakes.iter().sum::<f64>() == 40.0 && handshakes[0] >= 1.0, "{text}");
        // A token each, and its echo.
        assert!(of("records_total", r#",kind="opened""#) >= 40.0 && of("records_total", r#",kind="sealed""#) >= 40.0);
        assert_eq!(of("records_refused_total", r#",cause="timed_out""#), 0.0);
        of("handshakes_failed_total", r#",cause="alerted""#) == 3.0 && of("handshakes_under_way", "") == 0.0
    });
    server.stop();
}

#[test]
fn a_strict_parser_reads_the_counts_of_the_shards() {
    let (mut server, address) = server("--max-connections 200");
    // A scrape does not count as a connection of the server.
    assert_eq!(sum(&scrape(&address), "c1m_connections", ""), 0.0);
    let mut client = Client::start(&format!("{} --connections 100 --audit off --hold 60s", server.at()));
    client.running.until("all are held", |out| out.lines().any(|line| line.starts_with("hold ")));
    let text = scrape(&address);
    openmetrics_parser::prometheus::parse_prometheus(&text).unwrap_or_else(|e| panic!("{e}:\n{text}"));
    assert_eq!(sum(&text, "c1m_connections", ""), 100.0, "{text}");
    assert_eq!(sum(&text, "c1m_connections_opened_total", ""), 100.0, "{text}");
    assert_eq!(sum(&text, "c1m_receives_total", ""), 100.0, "a hello each: {text}");
    eventually("all that was received is sent, and known to be", || {
        let text = scrape(&address);
        sum(&text, "c1m_received_bytes_total", "") == sum(&text, "c1m_sent_bytes_total", "")
    });
    assert_eq!(sum(&text, "c1m_connections_refused_total", r#",reason="full""#), 0.0, "{text}");
    assert_eq!(sum(&text, "c1m_connections_lingering", ""), 0.0, "{text}");
    let rounds = sum(&text, "c1m_round_seconds_count", "");
    assert!(rounds > 0.0 && rounds == sum(&text, "c1m_round_seconds_bucket", r#",le="+Inf""#), "{text}");
    assert!(sum(&text, "c1m_round_seconds_sum", "") > 0.0, "{text}");
    assert!(
        text.contains("\nprocess_resident_memory_bytes ") && text.contains("\nprocess_cpu_seconds_total "),
        "{text}"
    );
    drop(client);
    let gone = |_: &str| sum(&scrape(&address), "c1m_connections_closed_total", "") == 100.0;
    server.running.until("all are closed", gone);
    server.stop();
    assert!(TcpStream::connect(&address).is_err(), "the endpoint ends with the server");
}

#[test]
fn the_endpoint_only_answers_reads_of_the_metrics() {
    let (server, address) = server("");
    for (request, code) in
        [("GET /", 404), ("POST /metrics", 405), ("HEAD /metrics", 200), ("GET /metrics?name[]=x", 200)]
    {
        let (head, _) = ask(&address, request);
        assert!(head.starts_with(&format!("HTTP/1.1 {code} ")), "{request}: {head}");
    }
    server.stop();
}

#[test]
fn an_address_in_use_is_reported_before_the_start() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let finished = run(&format!("server --port {} --metrics {address}", free_ports(100)));
    assert_eq!(finished.code(), 2, "{}", finished.err);
    assert!(
        finished.err.contains(&format!("listen for --metrics on {address}: Address already in use")),
        "{}",
        finished.err
    );
    assert!(!finished.out.contains("ready"), "{}", finished.out);
}

/// Those of sleepers are among them only where connections may sleep.
#[test(Hibernation)]
fn the_metrics_of_sleepers_count_them() {
    let (awake, address) = server("");
    assert!(!scrape(&address).contains("asleep") && !scrape(&address).contains("c1m_wake"));
    awake.stop();
    let (server, address) = server("--max-connections 100 --hibernate 100ms");
    let mut streams: Vec<TcpStream> = (0..10).map(|_| connected(server.port)).collect();
    let asleep = |connections: f64| {
        let mut text = String::new();
        eventually("they sleep", || {
            text = scrape(&address);
            sum(&text, "c1m_connections_asleep", "") == connections
        });
        text
    };
    asleep(10.0);
    streams.iter_mut().take(4).for_each(echoes);
    let text = asleep(10.0);
    openmetrics_parser::prometheus::parse_prometheus(&text).unwrap_or_else(|e| panic!("{e}:\n{text}"));
    assert_eq!(sum(&text, "c1m_connections", ""), 10.0, "{text}");
    let woken = |cause: &str| sum(&text, "c1m_connections_woken_total", &format!(r#",cause="{cause}""#));
    assert_eq!((woken("peer"), woken("send")), (4.0, 0.0), "{text}");
    let wakes = sum(&text, "c1m_wake_seconds_count", "");
    assert!(wakes == 4.0 && wakes == sum(&text, "c1m_wake_seconds_bucket", r#",le="+Inf""#), "{text}");
    assert!(sum(&text, "c1m_wake_seconds_sum", "") > 0.0, "{text}");
    assert!(sum(&text, "c1m_connections_hibernated_total", "") >= 14.0, "{text}");
    assert!(sum(&text, "c1m_sleeper_segments_total", r#",kind="caught""#) >= 4.0, "{text}");
    assert_eq!(sum(&text, "c1m_sleeper_segments_refused_total", r#",reason="malformed""#), 0.0, "{text}");
    server.stop();
}

#[test(Hibernation)]
fn the_dashboard_asks_only_for_existing_metrics() {
    let (server, address) = server("--hibernate 1s");
    let text = scrape(&address);
    let there: BTreeSet<&str> =
        text.lines().filter(|line| !line.starts_with('#')).map(|line| line.split(['{', ' ']).next().unwrap()).collect();
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tuning/grafana.json");
    let dashboard: Value = document(path);
    let targets: Vec<&Value> =
        dashboard["panels"].as_array().unwrap().iter().flat_map(|panel| panel["targets"].as_array().unwrap()).collect();
    assert!(targets.len() >= 8, "{dashboard}");
    for target in targets {
        let words = target["expr"].as_str().unwrap().split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let asked: Vec<&str> = words.filter(|word| word.starts_with("c1m_") || word.starts_with("process_")).collect();
        assert!(!asked.is_empty() && asked.iter().all(|name| there.contains(name)), "{target} of {there:?}");
    }
    server.stop();
}
