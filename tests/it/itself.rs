//! Connections whose two ends are one socket. TCP makes them if no process listens on the target port and the kernel
//! chooses the target port as the source port. They prove nothing.

use serde_json::Value;

use crate::doctor::set;
use crate::support::*;

/// Every target port is also a possible source port, and no process listens.
const PORTS: &str = "--port 40000 --ports 20";

/// Runs `body` in a network in which the kernel chooses source ports among the target ports only.
fn in_crowded_network(body: impl FnOnce() + Send) {
    in_own_network(|| {
        set("net/ipv4/ip_local_port_range", "40000 40019");
        body();
    });
}

/// Runs a client again and again, as the choice of source ports cannot be foreseen. No run may count a live
/// connection.
fn connected_to_itself(arguments: &str) {
    for _ in 0..8 {
        let run = client(&format!("{PORTS} --connections 200 {arguments}"));
        assert_eq!((run.number("live"), run.number("failed")), (0, 200), "{arguments}: {}", run.json["errors"]);
        assert_eq!(run.json["ramped"], 0, "{arguments}: {}", run.json["errors"]);
        assert_eq!(number(&run.json["connect_latency_us"], "count"), 0, "{arguments}: {}", run.json["errors"]);
        let itself = run.cause("connected_to_itself");
        let line = run.finished.out.lines().find(|line| line.contains("connected_to_itself: "));
        assert_eq!(line.is_some_and(|line| line.contains("nothing listens")), itself > 0, "{}", run.finished.out);
    }
}

#[test(Network)]
fn a_connection_to_itself_is_a_failure_of_its_own_kind() {
    in_crowded_network(|| {
        for audit in ["echo", "state", "off"] {
            connected_to_itself(&format!("--audit {audit}"));
        }
    });
}

/// The same with several targets, one of which is an alias of this host, and with source addresses.
#[test(Network)]
fn every_address_of_this_host_can_be_connected_to_itself() {
    in_crowded_network(|| {
        for addresses in [
            "--target-ip 127.0.0.1,127.0.0.2",
            "--target-ip 0.0.0.0",
            "--target-ip ::1",
            "--target-ip 127.0.0.3 --source-ip 127.0.0.3",
        ] {
            connected_to_itself(addresses);
        }
    });
}

/// The only possible source port is the target port, so the kernel has no choice.
#[test(Network)]
fn the_only_source_port_is_the_target_port() {
    in_own_network(|| {
        set("net/ipv4/ip_local_port_range", "40000 40000");
        let run = client("--port 40000 --ports 1 --connections 1 --audit off");
        assert_eq!((run.number("live"), run.number("failed"), &run.json["ramped"]), (0, 1, &0.into()), "{}", run.json);
    });
}

/// A storm dials too. While the server runs, its ports are no source ports. When it is gone, a dial that connects
/// to itself does not count as established.
#[test(Network)]
fn a_dial_in_a_storm_that_is_connected_to_itself_is_not_live() {
    in_crowded_network(|| {
        let dir = tempfile::tempdir().unwrap();
        let result = dir.path().join("json");
        let mut command = c1m();
        // Half of the source ports are served ports. So without care one dial of about 20 would be to itself.
        command.args(server_arguments(40_000, 10, "--json -").split_whitespace());
        let mut server = Running::start(command);
        server.until_ready();
        let mut command = c1m();
        let arguments =
            "storm churn --target-ip 127.0.0.1 --port 40000 --ports 10 --connections 3 --concurrency 3 --for 1h";
        command.args(arguments.split_whitespace()).arg("--json").arg(&result);
        let mut storm = Running::start(command);
        storm.until("the storm", |out| out.lines().any(|line| line.starts_with("storm ")));
        server.signal(libc::SIGTERM);
        let accepted = number(&server.wait().last_document(), "accepted");
        // After that many failed dials in a row the storm stops dialing.
        let finished = storm.wait();
        let json: Value = document(&result);
        assert_eq!(finished.code(), 1, "{json}");
        assert_eq!(number(&json, "live"), 0, "{json}");
        let failed: u64 = json["errors"].as_object().unwrap().values().map(|n| n.as_u64().unwrap()).sum();
        assert_eq!(number(&json, "failed"), failed, "{json}");
        // The server accepted every connection that was established.
        assert!(number(&json["storm"], "stood_anew") + 3 <= accepted, "{accepted}: {json}");
    });
}
