//! The demo runs two processes, writes one report, and leaves nothing behind.

use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::Path;

use serde_json::Value;

use crate::support::*;

#[test]
fn a_demo_proves_every_connection_twice_and_writes_both_results() {
    let dir = tempfile::tempdir().unwrap();
    let json = dir.path().join("json");
    let port = free_ports(100);
    let finished = run(&format!("demo --connections 3000 --hold 1s --port {port} --json {}", json.display()));
    assert_eq!((finished.code(), finished.errors().as_str()), (0, ""), "{}", finished.out);
    let document: Value = document(json);
    has_names(&document, &["server", "client", "wall"]);
    holds(&document, 3_000);
    assert_eq!(document["wall"], Value::Null);
    assert!(finished.out.contains("3,000 requested = 3,000 live + 0 failed + 0 not tried"), "{}", finished.out);
    assert_eq!(finished.out.matches("the server counts 3,000 live too").count(), 2, "{}", finished.out);
}

/// Each connection proves itself by a message of its own that comes back, end to end.
#[test]
fn a_demo_speaks_the_protocol_that_is_asked_for() {
    for (protocol, tls) in [("websocket", ""), ("http", ""), ("websocket", "--tls")] {
        let words = format!("--protocol {protocol} {tls} --connections 1000 --hold 0s --json -");
        let finished = run(&format!("demo {words} {}", at(free_ports(4), 4)));
        assert_eq!((finished.code(), finished.errors().as_str()), (0, ""), "{}", finished.out);
        let document: Value = serde_json::from_str(&finished.out).unwrap();
        let (server, client) = (&document["server"], &document["client"]);
        assert_eq!((number(client, "live"), number(client, "failed")), (1_000, 0), "{client}");
        for audit in client["audits"].as_array().unwrap() {
            assert_eq!(["live", "lost", "wrong"].map(|name| number(audit, name)), [1_000, 0, 0], "{client}");
        }
        assert_eq!((&client["protocol"], &client["proof"]), (&protocol.into(), &"end-to-end".into()));
        // One upgrade each, or the opening request and those of two audits.
        let counted = if protocol == "http" { 3 * 1_000 } else { 1_000 };
        assert_eq!(number(&server["http"], "requests"), counted, "{server}");
    }
}

/// Checks that both ends of a demo counted `connections` in both audits.
fn holds(document: &Value, connections: u64) {
    let (server, client) = (&document["server"], &document["client"]);
    has_server_names(server);
    has_client_names(client);
    assert_eq!(["requested", "live"].map(|name| number(client, name)), [connections; 2], "{client}");
    assert_eq!((number(client, "failed"), client["complete"].as_bool()), (0, Some(true)), "{client}");
    let audits = client["audits"].as_array().unwrap();
    assert_eq!(audits.len(), 2, "{client}");
    for audit in audits {
        assert_eq!(["live", "lost", "wrong"].map(|name| number(audit, name)), [connections, 0, 0], "{client}");
    }
    assert_eq!(number(server, "peak_live"), connections, "{server}");
    assert_eq!((number(server, "accepted"), number(server, "refused")), (connections, 0), "{server}");
}

/// A demo that holds 1,000 connections on 4 ports from `port` on, and its server's process id. The demo leads a
/// process group, as it would if a shell had started it on a terminal.
fn held_demo(port: u16) -> (Running, u32) {
    let mut command = c1m();
    command.args(format!("demo --connections 1000 --hold 60s {}", at(port, 4)).split_whitespace()).process_group(0);
    let mut demo = Running::start(command);
    demo.until("the hold has begun", |out| out.contains("the server counts 1,000 live too"));
    let servers = children(demo.pid());
    let [server] = servers[..] else { panic!("not one child: {servers:?}") };
    (demo, server)
}

#[test]
fn the_server_of_a_killed_demo_ends_by_itself() {
    let port = free_ports(4);
    let (demo, server) = held_demo(port);
    let _stray = StrayServer(server);
    assert!(TcpListener::bind(("127.0.0.1", port)).is_err(), "nobody listens");
    demo.signal(libc::SIGKILL);
    assert_eq!(demo.wait().code(), -1);
    eventually("the server has ended", || !runs(server));
    assert!(TcpListener::bind(("127.0.0.1", port)).is_ok(), "somebody listens still");
}

/// The server of a demo that is dead. It is killed when the value is dropped, as it must not survive a failed test.
struct StrayServer(u32);

impl Drop for StrayServer {
    fn drop(&mut self) {
        // Another process may have the number by now.
        if std::fs::read_link(format!("/proc/{}/exe", self.0)).is_ok_and(|exe| exe == Path::new(PROGRAM)) {
            kill(self.0);
        }
    }
}

#[test]
fn a_signal_ends_a_demo_in_order() {
    let (demo, server) = held_demo(free_ports(4));
    demo.signal(libc::SIGINT);
    ended_in_order(demo, server);
}

/// Ctrl-C reaches the whole process group, in any order. Here the demo's client gets it last; its report must not
/// show connections that an interrupted server had closed.
#[test]
fn a_signal_from_the_terminal_ends_a_demo_in_order() {
    let (demo, server) = held_demo(free_ports(4));
    demo.pause();
    demo.signal_group(libc::SIGINT);
    // The server's main thread wakes for its statistics, and would notice a signal then.
    let before = wakes(server);
    eventually("the server had its chance", || !runs(server) || wakes(server) >= before + 3);
    demo.signal(libc::SIGCONT);
    ended_in_order(demo, server);
}

/// The number of times that the main thread of a process has slept.
fn wakes(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
    line.map_or(0, |number| number.trim().parse().unwrap())
}

/// Checks that a stopped demo reports all its connections, and leaves no server.
fn ended_in_order(demo: Running, server: u32) {
    let finished = demo.wait();
    assert_eq!((finished.code(), finished.errors().as_str()), (1, ""), "{}", finished.out);
    assert!(finished.out.contains("1,000 requested = 1,000 live + 0 failed + 0 not tried"), "{}", finished.out);
    assert!(finished.out.contains("server: most live at once 1,000"), "{}", finished.out);
    assert!(!runs(server));
}

#[test]
fn a_demo_needs_no_privilege() {
    let dir = tempfile::tempdir().unwrap();
    let arguments = format!("demo --connections 2000 --hold 0s {} --json -", at(free_ports(10), 10));
    let finished = run_as(c1m_unprivileged(&dir), &arguments);
    assert_eq!((finished.code(), finished.errors().as_str()), (0, ""), "{}", finished.out);
    holds(&serde_json::from_str(&finished.out).unwrap(), 2_000);
}

/// Listeners take 200 of 300 descriptors, and the rings that fit into the others hold some ten thousand
/// connections.
#[test]
fn a_demo_on_a_small_host_opens_what_fits_and_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let json = dir.path().join("json");
    let arguments = format!("demo --cores 1 --hold 0s {} --json {}", at(free_ports(200), 200), json.display());
    let finished = run_as(c1m_after("ulimit -n 300"), &arguments);
    assert_eq!(finished.code(), 0, "{}{}", finished.out, finished.err);
    let document: Value = document(json);
    let connections = number(&document["client"], "requested");
    assert!((1_000..=20_000).contains(&connections), "{connections}");
    holds(&document, connections);
    let wall = document["wall"].as_str().unwrap();
    assert!(wall.contains("descriptors: nofile") && wall.contains("300 hard"), "{wall}");
    assert!(finished.out.contains(&format!("of 1,000,000 connections: {wall}")), "{}", finished.out);
}

/// With 100 source ports for each of two ports an address has 200, so that a thousand connections come from five.
#[test(Network)]
fn a_demo_with_few_source_ports_connects_from_more_addresses() {
    in_own_network(|| {
        std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", "40000 40099").unwrap();
        let finished = run(&format!("demo --connections 1000 --hold 0s {} --json -", at(free_ports(2), 2)));
        assert_eq!(finished.code(), 0, "{}{}", finished.out, finished.err);
        let document: Value = serde_json::from_str(&finished.out).unwrap();
        holds(&document, 1_000);
        assert!(document["wall"].is_null(), "{document}");
    });
}

/// Runs a demo in a network of its own, and returns its result; `None` if this host does not allow such a network.
/// The demo's error must then say so.
fn in_network_of_its_own(command: std::process::Command, port: u16) -> Option<Value> {
    let finished =
        run_as(command, &format!("demo --connections 3000 --network own --hold 0s {} --json -", at(port, 4)));
    if finished.code() == 3 {
        finished.fails_with(3, &["a network namespace", "--network host"]);
        return None;
    }
    assert_eq!((finished.code(), finished.errors().as_str()), (0, ""), "{}", finished.out);
    Some(serde_json::from_str(&finished.out).unwrap())
}

/// The host's network does not affect such a demo: here other listeners have its ports, and there is one source
/// port.
#[test(Network)]
fn a_demo_in_a_network_of_its_own_leaves_the_hosts_alone() {
    in_own_network(|| {
        let port = free_ports(4);
        let _taken: Vec<_> = (port..port + 4).map(|port| TcpListener::bind(("127.0.0.1", port)).unwrap()).collect();
        let range = "/proc/sys/net/ipv4/ip_local_port_range";
        std::fs::write(range, "40000 40000").unwrap();
        let document = in_network_of_its_own(c1m(), port).expect("root may have one");
        has_names(&document, &["server", "client", "wall", "network"]);
        holds(&document, 3_000);
        assert_eq!((&document["network"]["own"], &document["wall"]), (&Value::Bool(true), &Value::Null));
        assert!(number(&document["network"], "buckets") >= 2 * 3_000, "{document}");
        assert_eq!(std::fs::read_to_string(range).unwrap().trim(), "40000\t40000");
    });
}

#[test]
fn an_ordinary_user_gets_a_network_of_its_own_where_the_kernel_allows_it() {
    let dir = tempfile::tempdir().unwrap();
    if let Some(document) = in_network_of_its_own(c1m_unprivileged(&dir), free_ports(4)) {
        holds(&document, 3_000);
        assert!(number(&document["network"], "buckets") >= 2 * 3_000, "{document}");
    }
}

/// Without CAP_SYS_ADMIN a network namespace comes with a user namespace, in which no connection may sleep. So the demo
/// stays where it is, however small that network's table is.
#[test(Network, Hibernation)]
fn a_demo_whose_connections_sleep_stays_in_a_network_where_they_may() {
    in_own_network(|| {
        std::fs::write("/proc/sys/net/ipv4/tcp_child_ehash_entries", "512").unwrap();
        in_own_network(|| {
            let words = "--connections 2000 --hibernate 100ms --hold 1s --network";
            let run = |network, more: &str| {
                let words = format!("demo {words} {network} {} {more}", at(free_ports(4), 4));
                run_as(c1m_without_sys_admin(), &words)
            };
            run("own", "").fails_with(3, &["a network namespace", "CAP_SYS_ADMIN", "--network host"]);
            let dir = tempfile::tempdir().unwrap();
            let json = dir.path().join("json");
            let finished = run("auto", &format!("--json {}", json.display()));
            assert_eq!((finished.code(), finished.errors().as_str()), (0, ""), "{}", finished.out);
            assert!(finished.out.contains("one of the demo's own is not allowed"), "{}", finished.out);
            let document: Value = document(json);
            assert_eq!(number(&document["client"], "live"), 2_000, "{document}");
            assert_eq!(number(&document["server"], "peak_live"), 2_000, "{document}");
        });
    });
}

/// A signal may come while the server still starts. The demo ends in order, and leaves no key behind.
#[test]
fn a_signal_while_the_server_starts_ends_a_demo_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let (json, keys) = (dir.path().join("json"), dir.path().join("keys"));
    std::fs::create_dir(&keys).unwrap();
    let mut command = c1m();
    let arguments = format!("demo --tls {} --connections 50 --hold 60s --json", at(free_ports(2), 2));
    command.env("TMPDIR", &keys).args(arguments.split_whitespace()).arg(&json);
    let demo = Running::start(command);
    eventually("there is a server", || !children(demo.pid()).is_empty());
    demo.signal(libc::SIGTERM);
    let finished = demo.wait();
    assert!([0, 1].contains(&finished.code()), "{:?} {}", finished.status, finished.err);
    let document: serde_json::Value = document(&json);
    let figure = |name: &str| number(&document["client"], name);
    assert_eq!(figure("requested"), figure("live") + figure("failed") + figure("not_tried"), "{document}");
    assert_eq!(std::fs::read_dir(&keys).unwrap().count(), 0);
}

/// What a demo writes for its server is gone once that has read it, so a demo that is killed leaves no key behind.
#[test]
fn a_demo_that_is_killed_leaves_no_key() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = c1m();
    command.env("TMPDIR", dir.path()).args(format!("demo --tls --connections 10 {}", at(free_ports(1), 1)).split(' '));
    command.args(["--hold", "1h"]);
    let mut running = Running::start(command);
    running.until("it holds", |out| out.lines().any(|line| line.starts_with("hold ")));
    running.signal(libc::SIGKILL);
    running.wait();
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}
