//! A client's source ports: every port of every route can be used, whatever ports other programs use.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use socket2::{Domain, SockRef, Socket, Type};

use crate::doctor::{doctor_as, set};
use crate::support::*;

/// The source ports of the network namespaces here.
const RANGE: &str = "40000 40039";

/// Runs `body` in a network namespace with 40 source ports.
fn with_few_ports(body: impl FnOnce() + Send) {
    in_own_network(|| {
        set("net/ipv4/ip_local_port_range", RANGE);
        body();
    });
}

/// The number of ports that the run passed over.
fn passed_over(run: &ClientRun) -> u64 {
    run.number("source_ports_passed_over")
}

/// Another program's connection from a port of the range to a port of the server.
fn foreign(source: Ipv4Addr, from: u16, to: u16) -> Socket {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((source, from)).into()).unwrap();
    socket.connect(&SocketAddr::from((Ipv4Addr::LOCALHOST, to)).into()).unwrap();
    socket
}

#[test(Network)]
fn every_port_of_every_route_is_live_at_once() {
    with_few_ports(|| {
        let server = Server::start(5, "--bind ::");
        for (routes, arguments) in [
            (5, ""),
            (10, "--source-ip 127.1.0.1,127.1.0.2"),
            (15, "--target-ip 127.0.0.1,127.0.0.2,127.0.0.3"),
            (5, "--target-ip ::1"),
        ] {
            let connections = 40 * routes;
            let run = client(&format!("{} {arguments} --connections {connections} --close rst", server.at()));
            run.held(connections);
            assert_eq!(passed_over(&run), 0, "{arguments}");
        }
    });
}

/// The range may become smaller while a client dials. Of the 64,000 ports that it then tries, some have rested again before
/// it has tried all.
#[test(Network)]
fn a_range_that_shrinks_during_a_ramp_ends_no_ramp_in_a_search() {
    in_own_network(|| {
        set("net/ipv4/ip_local_port_range", "1024 65535");
        let server = Server::start(1, "");
        let arguments = "--connections 30 --rate 8/s --connect-timeout 1s --cores 1";
        let mut client = Client::start(&format!("{} {arguments}", server.at()));
        let dials = |line: &str| line.starts_with("ramp ") && !line.contains("= 0 live");
        client.running.until("it dials", |out| out.lines().any(dials));
        set("net/ipv4/ip_local_port_range", "1024 1024");
        let run = client.finish();
        assert_eq!(run.cause("EADDRNOTAVAIL"), run.number("failed"), "{}", run.json);
        assert!(run.number("failed") > 0 && run.number("live") > 0, "{}", run.json);
        assert_eq!(run.number("live") + run.number("failed"), 30, "{}", run.json);
    });
}

/// 33 of the 40 ports may be used, and all of them are. The doctor counts the same.
#[test(Network)]
fn reserved_ports_are_left_alone() {
    with_few_ports(|| {
        set("net/ipv4/ip_local_reserved_ports", "40003-40008,40039,50000");
        let server = Server::start(3, "");
        let run = client(&format!("{} --connections 99", server.at()));
        run.held(99);
        assert_eq!(passed_over(&run), 0);
        run_with(&format!("doctor --role client {} --connections 99", server.at()), 0);
        run_with(&format!("doctor --role client {} --connections 100", server.at()), 1);
        run_with(&format!("client --target-ip 127.0.0.1 {} --connections 100", server.at()), 3);
    });
}

/// Runs the program, which must end with `code`.
fn run_with(arguments: &str, code: i32) {
    let finished = run(arguments);
    assert_eq!(finished.code(), code, "{arguments}: {}{}", finished.out, finished.err);
}

/// A port that another program has bound cannot be used for any route. A port that it has only connected cannot be
/// used for that one route.
#[test(Network)]
fn ports_that_other_programs_use_are_passed_over() {
    with_few_ports(|| {
        let server = Server::start(4, "");
        let bound: Vec<_> = (40_000..40_004).map(|port| foreign(Ipv4Addr::LOCALHOST, port, server.port)).collect();
        let run = client(&format!("{} --connections {} --close rst", server.at(), 36 * 4));
        run.held(36 * 4);
        assert!(passed_over(&run) <= 16, "{}", run.json);
        // Exactly as many connections fail as ports are missing.
        let run = client(&format!("{} --connections 160 --close rst", server.at()));
        assert_eq!((run.number("live"), run.cause("EADDRNOTAVAIL")), (36 * 4, 16), "{}", run.json);
        assert!(passed_over(&run) >= 16, "{}", run.json);
        drop(bound);
    });
}

/// Two clients at the same time share the ports.
#[test(Network)]
fn two_clients_at_once_each_find_the_ports_that_the_other_leaves() {
    with_few_ports(|| {
        let server = Server::start(2, "");
        let mut first = Client::start(&format!("{} --connections 40 --hold 60s", server.at()));
        first.running.until("it holds its connections", |out| out.contains("audit 1: 40 live"));
        client(&format!("{} --connections 40", server.at())).held(40);
        first.running.signal(libc::SIGINT);
        assert_eq!(first.finish().number("live"), 40);
    });
}

/// On loopback the kernel reuses a port one second after it entered TIME_WAIT; before, the client passes it over.
/// If the kernel may not reuse ports, the connections without a port fail, and no others.
#[test(Network)]
fn ports_in_time_wait_are_passed_over() {
    with_few_ports(|| {
        set("net/ipv4/tcp_tw_reuse", "0");
        let server = Server::start(2, "");
        client(&format!("{} --connections 30 --close fin", server.at())).held(30);
        eventually("30 are in TIME_WAIT", || {
            // /proc/net shows the network of the process's first thread, not of this one.
            std::fs::read_to_string("/proc/thread-self/net/sockstat").unwrap().contains(" tw 30 ")
        });
        let run = client(&format!("{} --connections 50 --close rst", server.at()));
        run.held(50);
        let run = client(&format!("{} --connections 80 --close rst", server.at()));
        assert_eq!((run.number("live"), run.cause("EADDRNOTAVAIL")), (50, 30), "{}", run.json);
        assert!(passed_over(&run) >= 30, "{}", run.json);
        // Now the kernel may reuse them.
        set("net/ipv4/tcp_tw_reuse", "1");
        eventually("every port serves again", || {
            client(&format!("{} --connections 80 --close rst", server.at())).number("live") == 80
        });
    });
}

/// A storm must use ports of closed connections again, as there are too few others.
#[test(Network)]
fn ports_of_connections_closed_in_a_storm_are_used_again() {
    with_few_ports(|| {
        let server = Server::start(5, "");
        let arguments = format!(
            "storm churn --target-ip 127.0.0.1 {} --connections 180 --calm 100ms --after 100ms --interval 200ms --concurrency 8 --rate 400/s --for 3s --quiet --json -",
            server.at()
        );
        let finished = run(&arguments);
        assert_eq!(finished.code(), 0, "{}{}", finished.out, finished.err);
        let document = finished.last_document();
        assert!(number(&document["storm"], "redialed") > 200 - 180, "{document}");
        assert_eq!(number(&document, "failed"), 0, "{document}");
    });
}

/// No connection is connected to itself, although source and target ports are the same range and no process listens.
#[test(Network)]
fn no_socket_is_connected_to_itself() {
    with_few_ports(|| {
        for target in ["127.0.0.1", "::1", "0.0.0.0"] {
            let run = client(&format!("--target-ip {target} --port 40000 --ports 40 --connections 1000"));
            assert_eq!((run.number("live"), run.cause("EADDRNOTAVAIL")), (0, run.number("failed")), "{}", run.json);
        }
    });
}

/// If a host dials itself, client and doctor leave the served ports out of the source ports, and as many connections
/// hold as they say.
#[test(Network)]
fn served_ports_are_not_counted_as_source_ports() {
    with_few_ports(|| {
        // 10 of the 40 ports are served.
        let server = Server::start_as_at(c1m(), 40_030, 20, "");
        for target in ["127.0.0.1", "0.0.0.0", "127.0.0.9"] {
            let goal = |connections: u64| format!("--target-ip {target} {} --connections {connections}", server.at());
            let page = doctor_as(c1m(), &goal(601));
            assert_eq!((page.holds("source ports"), page.says("source ports", "verdict")), (600, "blocks"), "{target}");
            assert!(page.says("source ports", "have").starts_with("30 (40000-40039, none that is served) x 20 routes"));
            run(&format!("client {}", goal(601))).fails_with(3, &["30 ephemeral ports", "= 600 connections"]);
            let all = client(&format!("{} --close rst", goal(600)));
            all.held(600);
            assert_eq!(passed_over(&all), 0, "{}", all.json);
        }
        // Both ends are here: a demo would connect from another address too.
        let page = doctor_as(c1m(), &format!("{} --connections 601", server.at()));
        assert_eq!(page.holds("source ports"), 1_200);
        // For another host they are source ports.
        let page = doctor_as(c1m(), &format!("--target-ip 203.0.113.1 {} --connections 800", server.at()));
        assert_eq!(page.holds("source ports"), 800);
        server.stop();
    });
}

/// The process of the victims takes other source ports than the survivors, although it is a client of its own.
#[test(Network)]
fn victims_and_survivors_try_different_source_ports() {
    with_few_ports(|| {
        let server = Server::start(5, "");
        let arguments = format!(
            "storm killed --target-ip 127.0.0.1 {} --connections 200 --share 50% --calm 100ms --after 100ms --for 100ms --json -",
            server.at()
        );
        let finished = run(&arguments);
        assert_eq!(finished.code(), 0, "{}{}", finished.out, finished.err);
        let document = finished.last_document();
        assert_eq!((number(&document, "live"), number(&document["storm"], "closed")), (100, 100), "{document}");
        assert_eq!(number(&document, "source_ports_passed_over"), 0, "{document}");
    });
}

/// Other programs still get ports from connect(2) while a client holds all ports of some routes, if the kernel
/// supports a range of ports for each socket.
#[test(Network, SourcePortRange)]
fn other_programs_still_find_source_ports() {
    with_few_ports(|| {
        let (held, other) = (Server::start(2, ""), Server::start(1, ""));
        let mut client = Client::start(&format!("{} --connections 80 --hold 60s", held.at()));
        client.running.until("it holds its connections", |out| out.contains("audit 1: 80 live"));
        let mut stream = connected(other.port);
        echoes(&mut stream);
        let local = SockRef::from(&stream).local_addr().unwrap().as_socket().unwrap();
        assert_eq!(local.ip(), IpAddr::from(Ipv4Addr::LOCALHOST));
        assert!((40_000..40_040).contains(&local.port()), "{local}");
    });
}
