//! Failures: of arguments, of the peer, of this host, and from outside during a run. Each failure is one line that
//! says what to do, and an exit code.

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::time::Duration;

use crate::support::*;

// ---- arguments ----------------------------------------------------------------------------------

#[test]
fn arguments_without_a_meaning_are_refused_with_one_line() {
    for (arguments, words) in [
        ("server --port 0", "--port 0"),
        ("server --ports 0", "--ports 0"),
        ("server --port 65500 --ports 100", "65535; use --ports 36 at most"),
        ("server --core-list 1023", "core 1023"),
        ("server --cores 1025", "--cores 1025"),
        ("server --cores 0", "--cores 0"),
        ("server --stats-interval 0s", "--stats-interval 0s"),
        ("server --stats-interval 1ns", "--stats-interval 1ns: a line counts 1 ms at least, and 366 days at most"),
        ("server --max-connections 0", "--max-connections 0"),
        ("server --idle-timeout 0s", "--idle-timeout 0s"),
        ("server --idle-timeout 999ms", "--idle-timeout 999ms: a connection is closed after 1 s of silence or more"),
        ("server --max-message 1000", "--max-message with --service echo --protocol raw: bytes are taken as they come"),
        ("server --service sink --max-message 1000", "--max-message with --service sink --protocol raw"),
        ("server --keepalive 1ms", "--keepalive 1ms"),
        ("server --keepalive 1500ms", "--keepalive 1s 500ms: the kernel takes 1 to 32767 whole seconds"),
        ("client --target-ip 127.0.0.1 --port 0", "--port 0"),
        ("client --target-ip 127.0.0.1 --cores 1025", "--cores 1025"),
        ("client --target-ip 127.0.0.1 --connections 0", "--connections 0"),
        ("client --target-ip 127.0.0.1 --payload 0", "--payload 0"),
        ("client --target-ip 127.0.0.1 --payload 65537", "65536"),
        ("client --target-ip 127.0.0.1 --concurrency 0", "--concurrency 0"),
        ("client --target-ip 127.0.0.1 --interval 0s", "--interval 0s"),
        ("client --target-ip 127.0.0.1 --connect-timeout 0s", "--connect-timeout 0s"),
        ("client --target-ip 127.0.0.1 --connect-timeout 999us", "--connect-timeout 999us"),
        ("client --target-ip 127.0.0.1 --reply-timeout 0s", "--reply-timeout 0s"),
        (
            "client --target-ip 127.0.0.1 --reply-timeout 1ns",
            "--reply-timeout 1ns: an answer may take 1 ms at least, and 366 days at most",
        ),
        ("client --target-ip 127.0.0.1 --tls --insecure --handshake-timeout 1us", "--handshake-timeout 1us"),
        ("fanout --target-ip 127.0.0.1 --subscribers 2 --wait 1us", "--wait 1us"),
        ("storm disconnect --target-ip 127.0.0.1 --share 0", "no victim of 340000 connections"),
        ("storm silent --target-ip 127.0.0.1 --share 0%", "no victim of 340000 connections"),
        ("storm churn --target-ip 127.0.0.1 --share 50%", "--share with churn: it has no victims"),
        ("client --target-ip 127.0.0.1 --steer --audit off", "--steer with --audit off"),
        ("client --target-ip 127.0.0.1 --source-ip ::1", "different address families"),
        ("client --target-ip ::1 --source-ip 127.0.0.1", "different address families"),
        ("demo --port 65500 --ports 100", "65535"),
        ("demo --cores 1025", "--cores 1025"),
    ] {
        run(arguments).fails_with(2, &[words]);
    }
}

/// clap writes these errors, which may take several lines.
#[test]
fn arguments_that_cannot_be_parsed_are_named() {
    for (arguments, words) in [
        ("server --port 70000", "70000"),
        ("server --bind 1.2.3", "1.2.3"),
        ("server --bind fe80::1%", "'fe80::1%' names no interface after the %"),
        ("server --core-list 3-1", "3-1"),
        ("server --core-list 0 --cores 1", "--cores"),
        ("server --service mirror", "mirror"),
        ("server --verbose --json x", "'--verbose' cannot be used with '--json <FILE>'"),
        ("tune --revert --connections 5", "'--revert' cannot be used with '--connections <N>'"),
        ("tune --revert --profile extreme", "'--revert' cannot be used with '--profile <PROFILE>'"),
        ("tune --for-article --ports 5", "'--for-article' cannot be used with '--ports <PORTS>'"),
        ("client --target-ip localhost", "localhost"),
        ("client", "<--target-ip <IP>|--target <HOST:PORT[-PORT]|URL>>"),
        ("client --target-ip ::1 --target [::1]:80", "cannot be used with"),
        ("client --target-ip 127.0.0.1 --rate 0", "5000/s"),
        ("client --target-ip 127.0.0.1 --hold soon", "soon"),
        ("client --target-ip 127.0.0.1 --hold 1s --steer", "--steer"),
        ("report merge", "<FILE>"),
        ("client --target-ip 127.0.0.1 --source-ip 10.0.0.0/4", "10.0.0.0/4"),
        ("serve", "serve"),
        (
            "client --target-ip ::1 --connections 1e6",
            "'1e6' for '--connections <N>': a number is written in digits alone",
        ),
        ("client --target-ip ::1 --payload 1GiB", "a whole number is wanted"),
        ("server --max-connections 99999999999999999999", "it is too large"),
        ("server --awake -1", "no value is below zero"),
        ("client --target-ip ::1 --hold -1s", "no value is below zero"),
    ] {
        let finished = run(arguments);
        assert_eq!((finished.code(), finished.out.as_str()), (2, ""), "{arguments}: {}", finished.err);
        assert!(finished.err.contains(words), "{arguments}: {}", finished.err);
    }
}

/// clap repeats what it refuses, and logs are read by others.
#[test]
fn a_password_in_a_target_is_not_repeated() {
    for target in
        ["ws://me:secret@localhost:80", "me:secret@localhost:80", "x://me:secret@localhost", "ws://me:secret@h/#"]
    {
        let finished = run(&format!("client --target {target}"));
        assert_eq!(finished.code(), 2, "{target}: {}", finished.err);
        assert!(finished.err.contains("--target") && !finished.err.contains("secret"), "{}", finished.err);
    }
}

#[test]
fn a_result_file_that_cannot_be_made_is_reported_before_the_run() {
    let port = free_ports(2);
    for arguments in [
        server_arguments(port, 2, "--json /nonexistent/x.json"),
        format!("client --target-ip 127.0.0.1 {} --json /nonexistent/x.json", at(port, 2)),
        format!("client --target-ip 127.0.0.1 {} --histogram /nonexistent/x.json", at(port, 2)),
        format!("demo {} --json /nonexistent/x.json", at(port, 2)),
    ] {
        let finished = run(&arguments);
        finished.fails_with(2, &["/nonexistent/x.json", "ENOENT"]);
        assert_eq!(finished.out, "", "{arguments}");
    }
}

#[test]
fn the_folder_of_a_demos_certificate_is_named() {
    let mut command = c1m();
    command.env("TMPDIR", "/nonexistent");
    let finished = run_as(command, &format!("demo --tls --connections 4 {}", at(free_ports(2), 2)));
    finished.fails_with(3, &["No such file", "/nonexistent/c1m-demo-", "TMPDIR"]);
}

/// A name from outside may hold line breaks, and commands to the terminal.
#[test]
fn an_error_is_one_line_whatever_a_name_holds() {
    let port = free_ports(2);
    for arguments in [
        format!("client --target-ip 127.0.0.1 {} --json", at(port, 2)),
        format!("server {} --takeover", at(port, 2)),
        "report merge".to_owned(),
        "doctor --json".to_owned(),
    ] {
        let mut command = c1m();
        command.args(arguments.split_whitespace()).arg("/nonexistent/a\nb\x1b[2J");
        let finished = Running::start(command).wait();
        finished.fails_with(finished.code(), &[r"/nonexistent/a\nb\u{1b}[2J", "ENOENT"]);
        assert!([2, 3].contains(&finished.code()), "{arguments}: {}", finished.err);
    }
}

/// 203.0.113.0/24 is reserved for documentation, so no host has such an address.
#[test]
fn an_address_of_another_host_cannot_be_bound() {
    run(&server_arguments(free_ports(2), 2, "--bind 203.0.113.1")).fails_with(2, &["203.0.113.1", "EADDRNOTAVAIL"]);
}

#[test]
fn a_source_address_of_another_host_is_counted() {
    let server = Server::start(2, "");
    let run = client(&format!("{} --connections 50 --source-ip 203.0.113.7", server.at()));
    run.failed("EADDRNOTAVAIL", 50, "--source-ip is not on this host");
}

#[test]
fn more_connections_than_source_ports_are_refused_with_the_arithmetic() {
    let arguments = format!("client --target-ip 127.0.0.1 {} --connections 100000", at(free_ports(1), 1));
    let finished = run(&arguments);
    finished.fails_with(3, &["ephemeral ports x 1 source address(es) x 1 target(s) x 1 port(s) = ", "--source-ip"]);
    assert_eq!(finished.out, "");
}

// ---- the peer -----------------------------------------------------------------------------------

#[test]
fn nothing_listening_stops_the_ramp_early() {
    let run = client(&format!("{} --connections 20000 --cores 1", at(free_ports(2), 2)));
    let failed = run.number("failed");
    run.failed("ECONNREFUSED", failed, "nothing listens there");
    assert!((1..20_000).contains(&failed), "{}", run.json);
    assert_eq!((run.number("live"), run.number("not_tried")), (0, 20_000 - failed));
    assert_eq!(run.json["stopped"], false);
}

#[test(Network)]
fn an_unreachable_network_is_reported() {
    in_own_network(|| {
        let run = client("--target-ip 203.0.113.1 --connections 20000 --cores 1");
        let failed = run.number("failed");
        run.failed("ENETUNREACH", failed, "ip route get");
        assert!((1..20_000).contains(&failed), "{}", run.json);
    });
}

#[test(Network)]
fn a_network_that_drops_every_packet_is_reported() {
    in_own_network(|| {
        drop_documentation_packets();
        let run = client("--target-ip 203.0.113.1 --connections 50 --connect-timeout 1s");
        run.failed("connect_timeout", 50, "a firewall drops it");
    });
}

/// Drops packets to 203.0.113.0/24 silently: they come back in on loopback, and no socket here takes them.
fn drop_documentation_packets() {
    crate::network::route(c"lo", std::net::Ipv4Addr::new(203, 0, 113, 0), 24);
}

#[test]
fn a_silent_target_is_distinguished_from_a_dead_one() {
    let silent = Peer::start(|_| true);
    let run = client(&format!("{} --connections 20 --reply-timeout 1s", silent.at()));
    run.failed("silent", 20, "use --audit state");
    assert_eq!(run.number("ghosts"), 0);
    let run = client(&format!("{} --connections 20 --reply-timeout 1s --audit state", silent.at()));
    run.held(20);
    assert_eq!(run.json["audits"].as_array().unwrap().len(), 2, "{}", run.json);
}

#[test]
fn a_target_that_never_accepts_is_reported() {
    let listener = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    let port = free_ports(1);
    // Connections of an earlier run of the tests may be in TIME_WAIT.
    listener.set_reuse_address(true).unwrap();
    listener.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], port)).into()).unwrap();
    listener.listen(2).unwrap();
    let run = client(&format!("{} --connections 20 --connect-timeout 1s --reply-timeout 1s", at(port, 1)));
    assert_eq!(run.finished.code(), 1);
    // The kernel completes a few connections on its own, and drops the SYNs of the others.
    assert!(run.cause("connect_timeout") >= 10, "{}", run.json);
    assert!(run.cause("silent") >= 1, "{}", run.json);
    assert_eq!(run.number("failed"), 20, "{}", run.json);
}

#[test]
fn a_target_that_answers_other_bytes_is_reported() {
    let other = Peer::start(|stream| stream.write_all(b"220 mail.example.org ESMTP\r\n").is_ok());
    let run = client(&format!("{} --connections 20", other.at()));
    run.failed("wrong_echo", 20, "not ours");
    client(&format!("{} --connections 20 --audit state", other.at())).held(20);
}

#[test]
fn a_target_that_closes_at_once_is_reported() {
    let closing = Peer::start(|_| false);
    let run = client(&format!("{} --connections 20", closing.at()));
    assert_eq!((run.finished.code(), run.number("live"), run.number("failed")), (1, 0, 20), "{}", run.json);
    // The cause depends on how much of the hello had been sent when the FIN came.
    let causes = ["closed_by_server", "ECONNRESET", "EPIPE"].map(|cause| run.cause(cause));
    assert_eq!(causes.iter().sum::<u64>(), 20, "{}", run.json);
}

#[test]
fn a_server_killed_under_held_connections_is_reported() {
    let server = Server::start(2, "");
    let mut client = Client::start(&format!("{} --connections 50 --hold 60s", server.at()));
    client.running.until("all are held", |out| out.contains("audit 1: 50 live, 0 lost, 0 wrong"));
    server.running.signal(libc::SIGKILL);
    client.running.until("the loss is seen", |out| out.contains("50 = 0 live + 50 failed + 0 to go"));
    client.running.signal(libc::SIGINT);
    client.finish().failed("closed_by_server", 50, "the server closed it");
}

#[test]
fn refusals_of_a_full_server_are_counted_at_both_ends() {
    let server = Server::start(2, "--max-connections 100 --cores 1 --json -");
    let run = client(&format!("{} --connections 150 --cores 1", server.at()));
    assert_eq!((run.finished.code(), run.number("live"), run.number("failed")), (1, 100, 50), "{}", run.json);
    assert_eq!(run.cause("ECONNRESET") + run.cause("EPIPE"), 50, "{}", run.json);
    let totals = server.stop().last_document();
    assert_eq!((number(&totals, "accepted"), number(&totals, "refused")), (100, 50), "{totals}");
}

/// The limit holds for every way of sharing connections among the shards.
#[test]
fn a_server_holds_no_more_connections_than_allowed() {
    for (ports, sharing) in [(1, "all"), (2, "subset"), (3, "subset")] {
        let server = Server::start(ports, &format!("--max-connections 101 --port-sharing {sharing} --json -"));
        let run = client(&format!("{} --connections 200", server.at()));
        let live = run.number("live");
        assert!((1..=101).contains(&live), "{ports} ports, {sharing}: {}", run.json);
        let totals = server.stop().last_document();
        assert_eq!([number(&totals, "accepted"), number(&totals, "refused")], [live, 200 - live], "{totals}");
    }
}

#[test(Network)]
fn source_ports_that_run_out_are_counted() {
    in_own_network(|| {
        // /proc/sys/net shows the network of the calling thread.
        std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", "40000 40099").unwrap();
        let server = Server::start(1, "");
        run(&format!("client --target-ip 127.0.0.1 {} --connections 101", server.at()))
            .fails_with(3, &["100 ephemeral"]);
        let mut first = Client::start(&format!("{} --connections 60 --hold 60s", server.at()));
        first.running.until("all are held", |out| out.contains("audit 1: 60 live"));
        let second = client(&format!("{} --connections 80", server.at()));
        second.failed("EADDRNOTAVAIL", 40, "no source port is free");
        assert_eq!(second.number("live"), 40, "{}", second.json);
        first.running.signal(libc::SIGINT);
        assert_eq!(first.finish().number("live"), 60);
    });
}

// ---- this host ----------------------------------------------------------------------------------

#[test]
fn a_port_in_use_is_named() {
    let port = free_ports(3);
    let _theirs = TcpListener::bind(("0.0.0.0", port + 1)).unwrap();
    run(&server_arguments(port, 3, "")).fails_with(3, &[&format!(":{}", port + 1), "EADDRINUSE", "ss -ltnp"]);
}

/// With SO_REUSEPORT alone both servers could listen, and each would get some of the connections.
#[test]
fn a_second_server_of_the_same_user_is_refused() {
    let first = Server::start(2, "");
    run(&format!("server {}", first.at())).fails_with(3, &[&format!(":{}", first.port), "EADDRINUSE"]);
    echoes(&mut connected(first.port));
    first.stop();
}

#[test]
fn a_privileged_port_needs_privilege() {
    let lowest = std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap();
    let lowest: u16 = lowest.trim().parse().unwrap();
    assert!(lowest > 1, "every port of this host is free for all");
    let dir = tempfile::tempdir().unwrap();
    let finished = run_as(c1m_unprivileged(&dir), &server_arguments(lowest - 1, 1, ""));
    finished.fails_with(3, &["EACCES", "CAP_NET_BIND_SERVICE"]);
}

/// Most container profiles forbid io_uring in this way. The setting kernel.io_uring_disabled=2 would act on the
/// whole host and fail the tests beside this one; with it the same call returns the same EPERM.
#[test]
fn io_uring_forbidden_by_seccomp_is_reported() {
    let port = free_ports(2);
    for arguments in
        [server_arguments(port, 2, ""), format!("client --target-ip 127.0.0.1 {} --connections 10", at(port, 2))]
    {
        let mut command = c1m();
        forbid_io_uring(&mut command);
        run_as(command, &arguments).fails_with(3, &["io_uring_setup", "EPERM", "seccomp is on", "seccomp profile"]);
    }
}

#[test]
fn a_demo_on_a_host_without_io_uring_says_so_before_it_starts() {
    let mut command = c1m();
    forbid_io_uring(&mut command);
    let finished = run_as(command, &format!("demo --connections 10 {}", at(free_ports(2), 2)));
    assert_eq!(finished.code(), 3, "{}", finished.err);
    let [line] = finished.err.lines().collect::<Vec<_>>()[..] else { panic!("not one line: {}", finished.err) };
    assert!(line.contains("io_uring_setup") && line.contains("seccomp is on"), "{line}");
}

/// Makes io_uring_setup(2) fail with EPERM in the process that `command` starts.
fn forbid_io_uring(command: &mut Command) {
    refuse(command, libc::SYS_io_uring_setup..=libc::SYS_io_uring_setup, None, libc::EPERM);
}

#[test]
fn a_low_soft_limit_on_descriptors_is_raised() {
    let server = Server::start_as(c1m_after("ulimit -Sn 256"), 2, "");
    assert!(server.running.out().contains("raised from 256"), "{}", server.running.out());
    client(&format!("{} --connections 1000", server.at())).held(1_000);
    server.stop();
}

/// Few ports and many ports, each on one shard or shared. Listeners take some of the descriptors, and their accepts
/// take slots.
#[test]
fn a_low_hard_limit_on_descriptors_says_how_many_connections_are_possible() {
    for (limit, ports, more) in
        [(256, 4, "--cores 1"), (256, 100, "--cores 1"), (680, 600, "--cores 1"), (600, 10, "--port-sharing all")]
    {
        let low = || c1m_after(&format!("ulimit -n {limit}"));
        let finished = run_as(low(), &server_arguments(free_ports(ports), ports, more));
        finished.fails_with(3, &[&format!("file descriptor limit {limit}"), "ulimit -Hn"]);
        let possible: u64 = number_after(&finished.err, "at most ");
        let server = Server::start_as(low(), ports, &format!("{more} --max-connections {possible}"));
        echoes(&mut connected(server.port));
        server.stop();
    }
}

/// The number in `text` after `words`.
fn number_after(text: &str, words: &str) -> u64 {
    let (_, rest) = text.split_once(words).unwrap_or_else(|| panic!("no {words:?} in {text}"));
    let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    rest[..digits].parse().unwrap_or_else(|e| panic!("{e} behind {words:?} in {text}"))
}

#[test]
fn no_connection_fits_below_a_tiny_hard_limit_on_descriptors() {
    let tiny = || c1m_after("ulimit -n 64");
    let arguments = server_arguments(free_ports(60), 60, "--max-connections 10 --cores 1");
    run_as(tiny(), &arguments).fails_with(3, &["file descriptor limit 64", "fewer --ports"]);
    run_as(tiny(), &format!("demo --cores 1 {}", at(free_ports(60), 60))).fails_with(3, &["not one connection fits"]);
    let arguments = format!("client --target-ip 127.0.0.1 {} --connections 10000 --cores 1", at(free_ports(2), 2));
    run_as(tiny(), &arguments).fails_with(3, &["file descriptor limit 64"]);
}

/// Each connect needs a plain socket for a moment, so fewer connects may be in flight at once.
#[test]
fn a_client_below_a_low_hard_limit_on_descriptors_opens_all_the_same() {
    let server = Server::start(4, "");
    let arguments = format!("{} --connections 2000 --cores 1", server.at());
    let run = Client::start_as(c1m_after("ulimit -n 128"), Outlet::File, &arguments).finish();
    run.held(2_000);
    assert!(run.finished.err.contains("--concurrency 512 lowered to"), "{}", run.finished.err);
}

#[test]
fn a_low_hard_limit_on_locked_memory_is_reported() {
    let port = free_ports(2);
    for arguments in [server_arguments(port, 2, ""), format!("client --target-ip 127.0.0.1 {}", at(port, 2))] {
        run_as(c1m_after("ulimit -l 64"), &arguments).fails_with(3, &["memlock limit 65536 bytes", "ulimit -Hl"]);
    }
}

// ---- outputs that lose their reader -------------------------------------------------------------

const GONE: [Outlet; 2] = [Outlet::Closed, Outlet::Unread];

#[test]
fn a_server_goes_on_when_its_outputs_are_not_read() {
    for (out, err) in GONE.into_iter().flat_map(|gone| [(gone, Outlet::File), (gone, gone)]) {
        let dir = tempfile::tempdir().unwrap();
        let json = dir.path().join("json");
        let port = free_ports(2);
        // The server is full, so it prints a warning to standard error too.
        let arguments = server_arguments(port, 2, "--max-connections 2 --stats-interval 10ms --json");
        let mut command = c1m();
        command.args(arguments.split_whitespace()).arg(&json);
        let server = Running::with_outlets(command, out, err);
        let mut held = [port, port + 1].map(connected);
        held.iter_mut().for_each(echoes);
        let refused = connected(port);
        refused_by_server(refused);
        held.iter_mut().for_each(echoes);
        server.signal(libc::SIGTERM);
        let finished = server.wait();
        assert_eq!(finished.code(), 0, "{out:?} {err:?}: {}", finished.err);
        let totals = document(json);
        assert_eq!((number(&totals, "accepted"), number(&totals, "refused")), (2, 1), "{out:?} {err:?}");
    }
}

/// Waits until the server resets a connection.
fn refused_by_server(mut stream: TcpStream) {
    let ended = std::io::copy(&mut stream, &mut std::io::sink());
    assert_eq!(ended.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
}

#[test]
fn a_client_whose_output_is_not_read_ends_as_it_would() {
    let server = Server::start(2, "");
    for out in GONE {
        Client::start_as(c1m(), out, &format!("{} --connections 50", server.at())).finish().held(50);
        let run = Client::start_as(c1m(), out, &format!("{} --connections 50", at(free_ports(1), 1))).finish();
        assert_eq!((run.finished.code(), run.cause("ECONNREFUSED")), (1, 50), "{}", run.json);
    }
}

#[test]
fn exit_codes_stay_when_the_error_is_not_read() {
    for gone in GONE {
        for (arguments, code) in [("server --port 0", 2), ("server --port 70000", 2), ("--help", 0)] {
            let mut command = c1m();
            command.args(arguments.split_whitespace());
            assert_eq!(Running::with_outlets(command, gone, gone).wait().code(), code, "{arguments} {gone:?}");
        }
        let port = free_ports(1);
        let _theirs = TcpListener::bind(("0.0.0.0", port)).unwrap();
        let mut command = c1m();
        command.args(server_arguments(port, 1, "").split_whitespace());
        assert_eq!(Running::with_outlets(command, gone, gone).wait().code(), 3, "{gone:?}");
    }
}

/// A full disk shows only when the result is written.
#[test]
fn a_full_disk_is_reported_after_the_run() {
    let server = Server::start(2, "");
    for flag in ["--json", "--histogram"] {
        let arguments =
            format!("client --target-ip 127.0.0.1 {} --connections 10 --hold 0s {flag} /dev/full", server.at());
        let finished = run(&arguments);
        finished.fails_with(3, &["No space left on device", "incomplete", "free disk space"]);
        assert!(finished.out.contains("10 requested = 10 live + 0 failed + 0 not tried"), "{}", finished.out);
    }
    let run =
        Client::start_as(c1m_after("exec >/dev/full"), Outlet::File, &format!("{} --connections 10", server.at()))
            .finish();
    run.held(10);
    assert!(run.finished.err.starts_with("c1m: standard output: No space left on device"), "{}", run.finished.err);
    assert_eq!(run.finished.err.lines().count(), 1, "{}", run.finished.err);
}

// ---- signals ------------------------------------------------------------------------------------

#[test]
fn a_signal_ends_a_server_in_order() {
    for signal in [libc::SIGTERM, libc::SIGINT] {
        let server = Server::start(2, "");
        let mut held = [server.port, server.port + 1].map(connected);
        held.iter_mut().for_each(echoes);
        server.running.signal(signal);
        let finished = server.running.wait();
        assert_eq!((finished.code(), finished.err.as_str()), (0, ""));
        let totals = "accepted 2, closed 2, refused 0, slow readers 0, silent 0, messages 2, 10 B received, 10 B sent";
        assert!(finished.out.contains(totals), "{}", finished.out);
        // The server closes by FIN and not by RST: held connections end in order too.
        for mut stream in held {
            assert_eq!(std::io::copy(&mut stream, &mut std::io::sink()).unwrap(), 0);
        }
    }
}

/// A send to a peer that does not read waits in the kernel, and must not hold up the server's end.
#[test]
fn a_signal_ends_a_server_whose_peer_does_not_read() {
    let server = Server::start(1, "");
    let mut deaf = connected(server.port);
    deaf.set_write_timeout(Some(Duration::from_millis(200))).unwrap();
    let full = (0..).find_map(|_| deaf.write_all(&[0; 65_536]).err()).unwrap();
    assert_eq!(full.kind(), std::io::ErrorKind::WouldBlock);
    let finished = server.stop();
    assert!(finished.out.contains("accepted 1, closed 1, refused 0"), "{}", finished.out);
}

#[test]
fn a_signal_stops_a_client_amid_the_ramp() {
    let server = Server::start(2, "--json -");
    let mut client = Client::start(&format!("{} --connections 10000 --rate 200/s", server.at()));
    client.running.until("some connections are live", has_live_ones);
    client.running.signal(libc::SIGINT);
    stopped_early(&client.finish(), 10_000);
    let totals = server.stop().last_document();
    assert_eq!(number(&totals, "live_at_stop"), 0, "{totals}");
    assert_eq!(number(&totals, "accepted"), number(&totals, "closed"), "{totals}");
}

/// Connects that get no answer are given up, and count neither as live nor as failed.
#[test(Network)]
fn a_signal_gives_up_connects_in_flight() {
    in_own_network(|| {
        drop_documentation_packets();
        let arguments = "--target-ip 203.0.113.1 --connections 50 --connect-timeout 60s";
        let mut client = Client::start(arguments);
        client.running.until("the ramp is under way", |out| out.lines().any(|line| line.starts_with("ramp")));
        client.running.signal(libc::SIGINT);
        let run = client.finish();
        assert_eq!((run.finished.code(), run.number("not_tried")), (1, 50), "{}", run.json);
    });
}

/// At full speed many connects are in flight when the signal arrives.
#[test]
fn a_signal_stops_a_client_at_full_speed() {
    let server = Server::start(10, "");
    let mut client = Client::start(&format!("{} --connections 200000", server.at()));
    client.running.until("some connections are live", has_live_ones);
    client.running.signal(libc::SIGTERM);
    stopped_early(&client.finish(), 200_000);
    server.stop();
}

/// Whether a client has said that some of its connections are live, while it still dials.
fn has_live_ones(out: &str) -> bool {
    out.lines().any(|line| line.starts_with("ramp") && !line.contains(" 0 live"))
}

fn stopped_early(run: &ClientRun, requested: u64) {
    assert_eq!(run.finished.code(), 1, "{}{}", run.finished.out, run.finished.err);
    assert_eq!((run.json["stopped"].as_bool(), run.number("failed")), (Some(true), 0), "{}", run.json);
    assert!((1..requested).contains(&run.number("live")), "{}", run.json);
    assert!(run.finished.out.contains(" not tried"), "{}", run.finished.out);
}

#[test]
fn a_client_stopped_while_it_holds_reports_its_live_connections() {
    let server = Server::start(2, "");
    let mut client = Client::start(&format!("{} --connections 50 --hold 60s", server.at()));
    client.running.until("all are held", |out| out.contains("audit 1: 50 live"));
    client.running.signal(libc::SIGINT);
    let run = client.finish();
    assert_eq!((run.finished.code(), run.number("live"), run.number("failed")), (1, 50, 0), "{}", run.json);
    assert_eq!(run.json["audits"].as_array().unwrap().len(), 1, "{}", run.json);
}
