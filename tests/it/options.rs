//! The effect of options, and the names in results.

use std::collections::BTreeSet;
use std::os::unix::process::CommandExt;

use crate::support::*;

#[test]
fn a_server_writes_its_result_with_every_name() {
    let dir = tempfile::tempdir().unwrap();
    let json = dir.path().join("json");
    let server = Server::start(4, &format!("--json {}", json.display()));
    client(&format!("{} --connections 300 --hold 1s", server.at())).held(300);
    server.stop();
    let totals = document(json);
    has_server_names(&totals);
    let figures = ["live", "live_at_stop", "accepted", "closed", "refused"].map(|name| number(&totals, name));
    assert_eq!(figures, [0, 0, 300, 300, 0], "{totals}");
    assert_eq!(number(&totals, "messages"), 3 * 300, "a hello and two audits each: {totals}");
    assert!(number(&totals, "bytes") > 3 * 300 && number(&totals, "resident_bytes") > 0, "{totals}");
    let shards = totals["shards"].as_array().unwrap();
    assert_eq!(shards.iter().map(|shard| number(shard, "accepted")).sum::<u64>(), 300, "{totals}");
    let ports: BTreeSet<_> =
        shards.iter().flat_map(|shard| shard["ports"].as_array().unwrap()).map(|port| port.as_u64()).collect();
    assert_eq!(ports.len(), 4, "{totals}");
}

#[test]
fn a_client_writes_its_result_with_every_name() {
    let server = Server::start(4, "");
    let run = client(&format!("{} --connections 300", server.at()));
    run.held(300);
    has_client_names(&run.json);
    assert_eq!(run.json["echo_source"], "audits");
    assert_eq!(number(&run.json["connect_latency_us"], "count") + run.number("retransmitted"), 300, "{}", run.json);
}

#[test]
fn without_audits_the_client_sends_only_hellos() {
    let server = Server::start(2, "--json -");
    let run = client(&format!("{} --connections 50 --audit off", server.at()));
    run.held(50);
    assert_eq!(run.json["audits"].as_array().unwrap().len(), 0);
    assert_eq!(number(&server.stop().last_document(), "messages"), 50, "only the hellos");
}

/// The server counts each message: the hellos, and those of the two audits.
#[test]
fn an_audit_asks_a_sample_drawn_at_random() {
    let server = Server::start(4, "--json -");
    let run = client(&format!("{} --connections 300 --cores 2 --audit-sample 41", server.at()));
    run.held(300);
    for audit in run.json["audits"].as_array().unwrap() {
        assert_eq!(["live", "lost", "wrong", "drawn_from"].map(|name| number(audit, name)), [41, 0, 0, 300], "{audit}");
    }
    assert_eq!(run.json["audits"].as_array().unwrap().len(), 2, "{}", run.json);
    assert_eq!(number(&server.stop().last_document(), "messages"), 300 + 2 * 41, "hellos and samples");
}

/// A sample that is no smaller than all connections is all of them.
#[test]
fn a_large_sample_is_every_connection() {
    let server = Server::start(2, "--json -");
    let run = client(&format!("{} --connections 50 --audit-sample 1000000", server.at()));
    run.held(50);
    assert!(
        run.finished.out.contains("audit 1: 50 live, 0 lost, 0 wrong, drawn at random from 50"),
        "{}",
        run.finished.out
    );
    assert_eq!(number(&server.stop().last_document(), "messages"), 150);
}

#[test]
fn a_sample_needs_an_audit_that_asks() {
    for (arguments, what) in [("--audit-sample 0", "prove nothing"), ("--audit state --audit-sample 9", "--audit echo")]
    {
        let arguments = format!("client --target-ip 127.0.0.1 --connections 10 {arguments}");
        run(&arguments).fails_with(2, &["--audit-sample", what]);
    }
}

#[test]
fn without_a_hello_the_connect_alone_counts() {
    let server = Server::start(2, "--json -");
    client(&format!("{} --connections 50 --audit off --hello=", server.at())).held(50);
    let run = client(&format!("{} --connections 50 --hello=", server.at()));
    run.held(50);
    let live: Vec<u64> = run.json["audits"].as_array().unwrap().iter().map(|audit| number(audit, "live")).collect();
    assert_eq!(live, [50, 50], "{}", run.json);
    assert_eq!(number(&server.stop().last_document(), "messages"), 100, "only the audits");
}

#[test]
fn ipv6_works_like_ipv4() {
    let server = Server::start(2, "--bind ::1");
    client(&format!("{} --connections 50 --target-ip ::1", server.at())).held(50);
    client(&format!("{} --connections 50 --target-ip ::1 --source-ip ::1", server.at())).held(50);
    // No server listens on the other family.
    let run = client(&format!("{} --connections 50 --target-ip 127.0.0.1", server.at()));
    run.failed("ECONNREFUSED", 50, "nothing listens there");
}

#[test]
fn one_unspecified_ipv6_address_serves_both_families() {
    let server = Server::start(2, "--bind :: --json -");
    client(&format!("{} --connections 50 --target-ip 127.0.0.1", server.at())).held(50);
    client(&format!("{} --connections 50 --target-ip ::1", server.at())).held(50);
    client(&format!("{} --connections 50 --target-ip 127.0.0.1,::1", server.at())).held(50);
    assert_eq!(number(&server.stop().last_document(), "accepted"), 150);
}

#[test(Network)]
fn a_block_of_source_addresses_is_used_in_turn() {
    in_own_network(|| {
        // With 20 source ports for each address, 100 connections need at least five of the block's six addresses.
        std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", "40000 40019").unwrap();
        let server = Server::start(1, "");
        client(&format!("{} --connections 100 --source-ip 127.1.0.0/29", server.at())).held(100);
    });
}

#[test]
fn a_sink_keeps_connections_and_answers_nothing() {
    let server = Server::start(2, "--service sink --json -");
    client(&format!("{} --connections 50 --audit state", server.at())).held(50);
    let run = client(&format!("{} --connections 50 --reply-timeout 1s", server.at()));
    run.failed("silent", 50, "--service echo of `c1m server`");
    let totals = server.stop().last_document();
    assert_eq!((number(&totals, "accepted"), number(&totals, "messages")), (100, 100), "{totals}");
}

/// The kernel spreads connections over the listeners of one port by a hash. The chance that all 300 go to one of
/// two listeners is 2^-299.
#[test]
fn shards_share_one_port() {
    let server = Server::start(1, "--port-sharing all --json -");
    client(&format!("{} --connections 300", server.at())).held(300);
    let totals = server.stop().last_document();
    let shards = totals["shards"].as_array().unwrap();
    assert!(shards.iter().all(|shard| shard["ports"].as_array().unwrap().len() == 1), "{totals}");
    let busy = shards.iter().filter(|shard| number(shard, "accepted") > 0);
    assert!(busy.count() >= shards.len().min(2), "{totals}");
}

#[test]
fn a_histogram_file_has_a_row_for_every_percentile_up_to_all() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.hgrm");
    let server = Server::start(2, "");
    let run = client(&format!("{} --connections 300 --histogram {}", server.at(), path.display()));
    run.held(300);
    let text = std::fs::read_to_string(path).unwrap();
    let is_row = |line: &&str| !line.starts_with('#') && !line.trim().is_empty() && !line.contains("Value");
    let rows: Vec<Vec<f64>> = text
        .lines()
        .filter(is_row)
        .map(|line| line.split_whitespace().map(|word| word.parse().unwrap()).collect())
        .collect();
    let recorded = number(&run.json["connect_latency_us"], "count") as f64;
    assert!(rows.len() > 10, "{text}");
    assert_eq!(rows.last().map(|row| (row[1], row[2])), Some((1.0, recorded)), "{text}");
}

#[test]
fn a_rate_shows_both_latencies() {
    let server = Server::start(2, "");
    let run = client(&format!("{} --connections 300 --rate 1000/s", server.at()));
    run.held(300);
    assert!(run.finished.out.contains("from the actual start (uncorrected)"), "{}", run.finished.out);
    let counts = ["connect_latency_us", "connect_service_latency_us"].map(|name| number(&run.json[name], "count"));
    assert_eq!(counts[0], counts[1], "{}", run.json);
    // Each shard starts its first connect at once, so the ramp may take a little less than 300 ms, but not much
    // less.
    assert!(run.json["ramp_seconds"].as_f64().unwrap() > 0.2, "faster than asked: {}", run.json);
    let run = client(&format!("{} --connections 300", server.at()));
    assert!(!run.finished.out.contains("uncorrected"), "{}", run.finished.out);
}

/// The messages are small, or larger than one receive can take.
#[test]
fn messages_while_holding_are_measured() {
    for payload in [100, 65_536] {
        let server = Server::start(2, "");
        let run = client(&format!("{} --connections 20 --interval 100ms --hold 1s --payload {payload}", server.at()));
        run.held(20);
        assert_eq!(run.json["echo_source"], "messages");
        for name in ["echo_latency_us", "echo_service_latency_us"] {
            assert!(number(&run.json[name], "count") > 0, "{payload}: {}", run.json);
        }
        assert!(run.finished.out.contains("echo latency (messages)"), "{}", run.finished.out);
    }
}

#[test]
fn only_cores_that_the_process_may_use_are_used() {
    let last = *c1m::internal::host::Host::here().cores_allowed().last().unwrap();
    let pinned = || {
        let mut command = c1m();
        // SAFETY: sched_setaffinity is async-signal-safe and reads the set, which is part of the closure.
        unsafe {
            let mut cores: libc::cpu_set_t = std::mem::zeroed();
            libc::CPU_SET(last, &mut cores);
            command.pre_exec(move || match libc::sched_setaffinity(0, size_of_val(&cores), &raw const cores) {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            });
        }
        command
    };
    let server = Server::start_as(pinned(), 2, "");
    let cores: Vec<String> = lines_with(&server.running.out(), ": core ");
    assert!(cores.len() == 1 && cores[0].contains(&format!(": core {last},")), "{cores:?}");
    run_as(pinned(), &server_arguments(free_ports(2), 2, "--cores 2")).fails_with(2, &["1 core(s)", "taskset"]);
}

fn lines_with(text: &str, words: &str) -> Vec<String> {
    text.lines().filter(|line| line.contains(words)).map(str::to_owned).collect()
}

#[test]
fn a_backlog_beyond_the_hosts_is_capped_and_reported() {
    let server = Server::start(2, "--backlog 4000000000");
    assert!(server.running.out().contains("accept queue"), "{}", server.running.out());
    let finished = server.stop();
    assert!(finished.err.contains("--backlog is capped at") && finished.err.contains("somaxconn"), "{}", finished.err);
}

/// A client that closes by RST leaves no source port in TIME_WAIT, so the next client can use the same few ports at
/// once.
#[test(Network)]
fn closing_with_a_reset_frees_the_source_ports() {
    in_own_network(|| {
        std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", "40000 40099").unwrap();
        // Without this, the kernel reuses a port on loopback after one second in TIME_WAIT.
        std::fs::write("/proc/sys/net/ipv4/tcp_tw_reuse", "0").unwrap();
        let server = Server::start(1, "");
        for _ in 0..3 {
            client(&format!("{} --connections 100 --close rst", server.at())).held(100);
        }
        client(&format!("{} --connections 100 --close fin", server.at())).held(100);
        let run = client(&format!("{} --connections 100", server.at()));
        run.failed("EADDRNOTAVAIL", run.number("failed"), "TIME_WAIT counts too");
    });
}

#[test]
fn a_server_with_until_stdin_closes_ends_with_its_standard_input() {
    // Processes of these tests have an empty standard input.
    let port = free_ports(2);
    let finished = run(&server_arguments(port, 2, "--until-stdin-closes"));
    assert_eq!(finished.code(), 0, "{}", finished.err);
    assert!(finished.out.lines().any(|line| line == "ready"), "{}", finished.out);
    assert!(finished.out.contains("accepted 0, closed 0"), "{}", finished.out);
}

/// A job without a terminal may have a COLUMNS of 0, which is no width.
#[test]
fn without_columns_the_help_is_as_wide_as_without_their_number() {
    let help = |columns: Option<&str>| {
        let mut command = c1m();
        match columns {
            Some(columns) => command.env("COLUMNS", columns),
            None => command.env_remove("COLUMNS"),
        };
        let finished = run_as(command, "client --help");
        assert_eq!(finished.code(), 0, "{}", finished.err);
        finished.out
    };
    let (unknown, narrow) = (help(None), help(Some("60")));
    assert!(help(Some("0")) == unknown && narrow.lines().count() > unknown.lines().count(), "{unknown}");
}
