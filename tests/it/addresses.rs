//! Addresses in arguments. Each counts once, whatever its form, and an address that cannot be an end of a
//! connection is refused before anything runs.

use std::net::IpAddr;

use crate::network;
use crate::support::*;

/// Every command with an option for target addresses.
const COMMANDS: [&str; 5] = ["client", "storm disconnect", "doctor", "doctor --role both", "tune"];

fn refused_everywhere(addresses: &str, words: &[&str]) {
    for command in COMMANDS {
        run(&format!("{command} --connections 10 {addresses}")).fails_with(2, words);
    }
}

#[test]
fn an_address_given_twice_is_named_whatever_its_form() {
    for (addresses, named) in [
        ("--target-ip 127.0.0.1,127.0.0.1", "127.0.0.1"),
        ("--target-ip 127.0.0.1 --target-ip 127.0.0.1", "127.0.0.1"),
        ("--target-ip 127.0.0.1,::ffff:127.0.0.1", "127.0.0.1"),
        ("--target-ip ::ffff:7f00:1,127.0.0.1", "127.0.0.1"),
        ("--target-ip 0.0.0.0,127.0.0.1", "127.0.0.1"),
        ("--target-ip ::,::1", "::1"),
        ("--target-ip ::1,0:0:0:0:0:0:0:1", "::1"),
        ("--target-ip ::ffff:0.0.0.0,127.0.0.1", "127.0.0.1"),
        ("--target-ip 127.0.0.1 --source-ip 127.0.0.2,127.0.0.2", "127.0.0.2"),
        ("--target-ip 127.0.0.1 --source-ip 127.0.0.2,::ffff:127.0.0.2", "127.0.0.2"),
        ("--target-ip 127.0.0.1 --source-ip 127.0.0.0/29,127.0.0.3", "127.0.0.3"),
        ("--target-ip 127.0.0.1 --source-ip ::ffff:127.0.0.0/125,127.0.0.3", "127.0.0.3"),
        ("--target-ip ::1 --source-ip fd00::/126,fd00::2", "fd00::2"),
    ] {
        refused_everywhere(addresses, &[&format!("{named} is given twice")]);
    }
}

/// A run can use all routes that the doctor counts for several addresses.
#[test]
fn the_doctor_counts_different_addresses() {
    let page =
        crate::doctor::doctor_as(c1m(), "--connections 10 --ports 1 --target-ip 127.0.0.1,127.0.0.2,::1 --role client");
    let one = crate::doctor::doctor_as(c1m(), "--connections 10 --ports 1 --target-ip ::ffff:127.0.0.1 --role client");
    assert_eq!(page.holds("source ports"), 3 * one.holds("source ports"));
}

#[test]
fn an_ipv4_address_in_the_form_of_ipv6_is_an_ipv4_address() {
    refused_everywhere("--target-ip ::ffff:127.0.0.1 --source-ip ::1", &["different address families"]);
    refused_everywhere("--target-ip ::1 --source-ip ::ffff:127.0.0.1", &["different address families"]);
    let server = Server::start(2, "--bind ::ffff:127.0.0.1");
    client(&format!("{} --connections 20 --target-ip ::ffff:127.0.0.1 --source-ip 127.0.0.3", server.at())).held(20);
    server.stop();
}

/// `localhost` has an address of IPv6 too, at which a server on 0.0.0.0 does not listen.
#[test]
fn addresses_at_which_nothing_listens_are_told_from_those_that_accept() {
    const REMARK: &str = "where nothing listens at one of them, leave it out (--target-ip), or have the server listen";
    let server = Server::start(2, "--bind 127.0.0.1");
    let half = client(&format!("{} --connections 20 --target-ip 127.0.0.1,127.0.0.2", server.at()));
    half.failed("ECONNREFUSED", 10, "nothing listens there");
    assert!(half.finished.out.contains(REMARK), "{}", half.finished.out);
    let all = client(&format!("{} --connections 20 --target-ip 127.0.0.2,127.0.0.3", server.at()));
    assert_eq!(all.cause("ECONNREFUSED"), 20, "{}", all.json);
    assert!(!all.finished.out.contains(REMARK), "{}", all.finished.out);
    server.stop();
}

#[test]
fn an_address_of_no_host_is_refused_as_target_source_listener_and_for_metrics() {
    for (address, word) in [
        ("224.0.0.1", "multicast"),
        ("::ffff:224.0.0.1", "multicast"),
        ("ff02::1", "multicast"),
        ("255.255.255.255", "broadcast"),
        ("127.255.255.255", "broadcast"),
        ("fe80::1", "link-local"),
    ] {
        refused_everywhere(&format!("--target-ip {address}"), &["--target-ip", word]);
        let other = if address.contains(":") && !address.contains("ffff") { "::1" } else { "127.0.0.1" };
        refused_everywhere(&format!("--target-ip {other} --source-ip {address}"), &["--source-ip", word]);
        run(&format!("server --bind {address}")).fails_with(2, &["--bind", word]);
        let endpoint = if address.contains(':') { format!("[{address}]:0") } else { format!("{address}:0") };
        run(&format!("server --metrics {endpoint}")).fails_with(2, &["--metrics", word]);
    }
    refused_everywhere("--target-ip 127.0.0.1 --source-ip 0.0.0.0", &["--source-ip 0.0.0.0", "no address of a host"]);
    for address in ["fe80::1%", "fe80::1%nowhere", "fe80::1%0", "fe80::1%4000000", "::1%1", "127.0.0.1%lo", "%lo"] {
        for command in
            ["client --target-ip", "client --target-ip ::1 --source-ip", "doctor --target-ip", "server --bind"]
        {
            let finished = run(&format!("{command} {address}"));
            assert_eq!((finished.code(), finished.out.as_str()), (2, ""), "{command} {address}: {}", finished.err);
        }
        let finished = run(&format!("server --metrics [{address}]:0"));
        assert_eq!((finished.code(), finished.out.as_str()), (2, ""), "{address}: {}", finished.err);
    }
    for endpoint in
        ["9187", "127.0.0.1", "::1:9187", "[::1]", "[::1]:", "[::1:9187", "localhost:1", "[127.0.0.1]:x", ":1"]
    {
        let finished = run(&format!("server --metrics {endpoint}"));
        assert_eq!((finished.code(), finished.out.as_str()), (2, ""), "{endpoint}: {}", finished.err);
        assert!(finished.err.contains("try 127.0.0.1:9187 or [::1]:9187"), "{endpoint}: {}", finished.err);
    }
}

/// Targets name the interface by its name and by its number.
#[test(Network)]
fn a_link_local_address_is_served_and_reached_with_its_interface() {
    in_own_network(|| {
        network::cable(c"near", c"far", None);
        for (device, address) in [(c"near", "fe80::a1"), (c"far", "fe80::b1")] {
            network::address(device, address.parse::<IpAddr>().unwrap(), 64);
            network::up(device);
        }
        let number = network::index(c"near");
        let server = Server::start(2, "--bind fe80::a1%near");
        for target in [format!("fe80::a1%{number}"), "fe80::a1%near".to_owned()] {
            let run = client(&format!(
                "{} --connections 20 --close rst --target-ip {target} --source-ip fe80::a1%near",
                server.at()
            ));
            run.held(20);
        }
        let both = format!("--target-ip fe80::a1%near,fe80::a1%{number}");
        run(&format!("doctor {both}")).fails_with(2, &["is given twice"]);
        // The same address on another interface is another address, and counts.
        let page = crate::doctor::doctor_as(c1m(), "--connections 10 --ports 1 --target-ip fe80::a1%near,fe80::a1%far");
        let have = page.says("source ports", "have").to_owned();
        assert!(have.contains("x 2 routes"), "{have}");
        server.stop();
    });
}

#[test]
fn the_metrics_are_not_among_the_served_ports() {
    for arguments in [
        "--port 9100 --metrics 127.0.0.1:9187",
        "--port 9100 --bind 127.0.0.1 --metrics 0.0.0.0:9199",
        "--port 9100 --bind :: --metrics 127.0.0.1:9100",
        "--port 9100 --bind ::ffff:127.0.0.1 --metrics 127.0.0.1:9187",
        "--port 9100 --bind 127.0.0.1 --metrics [::ffff:127.0.0.1]:9187",
        "--port 9100 --bind ::1 --metrics [::]:9187",
    ] {
        run(&format!("server {arguments}")).fails_with(2, &["--metrics", "serves itself"]);
    }
    // On another address the same port is free.
    let port = free_ports(2);
    let arguments = format!("--until-stdin-closes --bind 127.0.0.2 {} --metrics 127.0.0.1:{port}", at(port, 2));
    assert_eq!(run(&format!("server {arguments}")).code(), 0);
}

/// Port 0 stands for a free port beside the served ones, even if the kernel's range has only those.
#[test(Network)]
fn the_free_port_for_the_metrics_is_not_a_served_one() {
    in_own_network(|| {
        crate::doctor::set("net/ipv4/ip_local_port_range", "40000 40003");
        let server = Server::start_as_at(c1m(), 40_000, 4, "--metrics 127.0.0.1:0");
        let out = server.running.out();
        let url = out.lines().find_map(|line| line.strip_prefix("metrics: http://127.0.0.1:")).unwrap();
        let port: u16 = url.strip_suffix("/metrics").unwrap().parse().unwrap();
        assert!(!(40_000..40_004).contains(&port), "{out}");
        // The scrape needs a source port itself.
        crate::doctor::set("net/ipv4/ip_local_port_range", "32768 60999");
        assert_eq!(crate::scrapes::scrape(([127, 0, 0, 1], port).into()).lines().next(), Some("HTTP/1.1 200 OK"));
        server.stop();
    });
}

#[test(Network)]
fn the_metrics_are_read_at_a_link_local_address() {
    in_own_network(|| {
        network::cable(c"near", c"far", None);
        network::address(c"near", "fe80::a1".parse::<IpAddr>().unwrap(), 64);
        network::up(c"near");
        network::up(c"far");
        let server = Server::start(1, "--metrics [fe80::a1%near]:0");
        let out = server.running.out();
        let url = out.lines().find_map(|line| line.strip_prefix("metrics: http://")).unwrap();
        let address: std::net::SocketAddr = url.strip_suffix("/metrics").unwrap().parse().unwrap();
        assert_eq!(crate::scrapes::scrape(address).lines().next(), Some("HTTP/1.1 200 OK"));
        server.stop();
    });
}

#[test]
fn a_core_listed_twice_is_refused() {
    for list in ["0,0", "0-1,1", "0,0-0"] {
        let finished = run(&format!("server --core-list {list}"));
        assert_eq!(finished.code(), 2, "{list}: {}", finished.err);
        assert!(finished.err.contains("listed twice"), "{}", finished.err);
    }
}
