//! Each wall is met for real, and the run names that wall and no other.
//!
//! Two walls cannot be met in a network namespace, because one number holds for the whole host and every connection
//! on it: `net.ipv4.tcp_mem` and `net.core.netdev_max_backlog`. Lowering them here would break other tests and
//! other programs of the host. The first wall was met in a guest, by hand: `tuning/WALLS.md` shows the run's
//! output.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::channel;

use c1m::internal::host::Host;
use netlink_bindings::nftables::PayloadBase;
use serde_json::Value;
use socket2::{Domain, Socket, Type};

use crate::doctor::{doctor_as, set};
use crate::firewall::{Bytes, drop_incoming, fill_tracking, track, tracked};
use crate::memory::Cgroup;
use crate::network;
use crate::support::*;

/// The text of a run that blames no wall of its host.
const NONE: &str = "none of this host";

/// Checks that a document names exactly these walls, each with what was seen, what it means and what to do.
fn names(document: &Value, walls: &[&str]) {
    let met = document["walls"].as_array().unwrap();
    let found: Vec<&str> = met.iter().map(|wall| wall["wall"].as_str().unwrap()).collect();
    assert_eq!(found, walls, "{document}");
    for wall in met {
        has_names(wall, &["wall", "saw", "means", "cure"]);
        assert!(wall.as_object().unwrap().values().all(|text| !text.as_str().unwrap().is_empty()), "{wall}");
    }
}

/// Checks that a client's result and its report name exactly these walls.
fn run_names(run: &ClientRun, walls: &[&str]) {
    names(&run.json, walls);
    let report = run.finished.out.split("\nwalls met").nth(1).unwrap_or_default();
    for wall in walls {
        assert!(report.lines().any(|line| line.trim_start().starts_with(wall)), "{wall}: {}", run.finished.out);
    }
    assert_eq!(report.is_empty(), walls.is_empty(), "{}", run.finished.out);
}

// ---- conntrack, and what is not conntrack -------------------------------------------------------

#[test(Network, Tracking)]
fn a_full_table_of_connection_tracking_is_named_at_both_ends() {
    in_own_network(|| {
        track();
        let server = Server::start(1, "--json -");
        fill_tracking();
        let run = client(&format!("{} --connections 5 --connect-timeout 1s", server.at()));
        run.failed("connect_timeout", 5, "no answer to the SYN");
        run_names(&run, &["conntrack"]);
        names(&server.stop().last_document(), &["conntrack"]);
    });
}

#[test(Network, Tracking)]
fn connection_tracking_that_has_room_is_no_wall() {
    in_own_network(|| {
        track();
        let server = Server::start(1, "--json -");
        let run = client(&format!("{} --connections 5", server.at()));
        run.held(5);
        run_names(&run, &[]);
        assert!(tracked().0 >= 5);
        names(&server.stop().last_document(), &[]);
    });
}

/// With the ends on different hosts each end reports its own host. The server names the table. The client's host
/// drops nothing, and the client says that its host is not to blame.
#[test(Network, Tracking)]
fn a_full_table_at_the_servers_host_is_not_blamed_on_the_clients() {
    in_own_network(|| {
        let host = File::open("/proc/thread-self/ns/net").unwrap();
        let ((linked, link), (readied, ready)) = (channel(), channel());
        std::thread::scope(|scope| {
            scope.spawn(move || {
                in_own_network(move || {
                    network::cable(c"near", c"far", Some(&host));
                    network::address(c"near", Ipv4Addr::new(10, 9, 0, 2), 24);
                    network::up(c"near");
                    linked.send(()).unwrap();
                    let Ok(at) = ready.recv() else { return };
                    let run = client(&format!("--target-ip 10.9.0.1 {at} --connections 5 --connect-timeout 1s"));
                    run.failed("connect_timeout", 5, "no answer to the SYN");
                    run_names(&run, &[NONE]);
                });
            });
            // `readied` is dropped on every return, so that the other end never waits in vain.
            let readied = readied;
            if link.recv().is_err() {
                return;
            }
            network::address(c"far", Ipv4Addr::new(10, 9, 0, 1), 24);
            network::up(c"far");
            track();
            let server = Server::start(1, "--stats-interval 50ms --json -");
            fill_tracking();
            readied.send(server.at()).unwrap();
            eventually("the server says so", || server.running.err().contains("c1m: conntrack: "));
            names(&server.stop().last_document(), &["conntrack"]);
        });
    });
}

/// Patterns of headers: the protocol and the target of an IPv4 packet, the target port and the flags of a TCP
/// segment.
fn protocol(is: libc::c_int) -> Bytes {
    Bytes { of: PayloadBase::NetworkHeader, at: 9, mask: &[0xff], are: vec![is as u8] }
}

fn to_address(is: Ipv4Addr) -> Bytes {
    Bytes { of: PayloadBase::NetworkHeader, at: 16, mask: &[0xff; 4], are: is.octets().to_vec() }
}

fn to_port(is: u16) -> Bytes {
    Bytes { of: PayloadBase::TransportHeader, at: 2, mask: &[0xff; 2], are: is.to_be_bytes().to_vec() }
}

/// Matches a SYN without an ACK.
fn only_syn() -> Bytes {
    const SYN: u8 = 2;
    const ACK: u8 = 16;
    Bytes { of: PayloadBase::TransportHeader, at: 13, mask: &[SYN | ACK], are: vec![SYN] }
}

#[test(Network, Rules, Tracking)]
fn a_rule_that_drops_syns_is_no_wall_of_this_host() {
    for tracking in [false, true] {
        in_own_network(|| {
            let server = Server::start(1, "--json -");
            if tracking {
                track();
            }
            drop_incoming(&[protocol(libc::IPPROTO_TCP), to_port(server.port), only_syn()]);
            let run = client(&format!("{} --connections 20 --connect-timeout 1s", server.at()));
            run.failed("connect_timeout", 20, "a firewall drops it");
            run_names(&run, &[NONE]);
            // No SYN reached the server, so it has nothing to report.
            names(&server.stop().last_document(), &[]);
            assert!(!tracking || tracked().0 > 0, "the connects were tracked");
        });
    }
}

// ---- the two queues of a listener ---------------------------------------------------------------

#[test(Network)]
fn an_accept_queue_that_overflows_is_named_at_both_ends() {
    in_own_network(|| {
        set("net/core/somaxconn", "4");
        let server = Server::start(1, "--cores 1 --stats-interval 50ms --json -");
        // A stopped server accepts as little as an overloaded one.
        server.running.pause();
        let run = client(&format!("{} --connections 40 --connect-timeout 2s --reply-timeout 1s", server.at()));
        assert!(run.cause("connect_timeout") >= 10, "{}", run.json);
        run_names(&run, &["accept queue"]);
        server.running.signal(libc::SIGCONT);
        eventually("the server says so while it runs", || server.running.err().contains("c1m: accept queue: "));
        let finished = server.stop();
        names(&finished.last_document(), &["accept queue"]);
        assert_eq!(finished.err.matches("accept queue: ").count(), 1, "{}", finished.err);
    });
}

/// The kernel has one counter for all listeners of a network namespace. What overflows at another listener, such as
/// that of the metrics, is no wall of the server.
#[test(Network)]
fn an_accept_queue_of_another_listener_is_not_blamed_on_the_servers() {
    in_own_network(|| {
        let server = Server::start(1, "--cores 1 --metrics 127.0.0.1:0 --json -");
        echoes(&mut connected(server.port));
        let other = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        other.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
        other.listen(1).unwrap();
        let port = other.local_addr().unwrap().as_socket().unwrap().port();
        let mut begun = Vec::new();
        eventually("the other queue overflows", || {
            begun.push(begin(Ipv4Addr::LOCALHOST, port));
            overflows() > 0
        });
        let finished = server.stop();
        names(&finished.last_document(), &[]);
        assert!(!finished.err.contains("accept queue"), "{}", finished.err);
    });
}

/// ListenOverflows of this thread's network namespace.
fn overflows() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/net/netstat").unwrap();
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("TcpExt: ")).map(|line| line.split(' '));
    let (mut names, mut values) = (lines.next().unwrap(), lines.next().unwrap());
    let place = names.position(|name| name == "ListenOverflows").unwrap();
    values.nth(place).unwrap().parse().unwrap()
}

/// Peers whose handshakes never end fill the queue: the SYN-ACKs to them are dropped.
#[test(Network, Rules)]
fn a_syn_queue_that_is_full_is_named_at_both_ends() {
    in_own_network(|| {
        set("net/ipv4/tcp_syncookies", "0");
        set("net/ipv4/tcp_max_syn_backlog", "8");
        let server = Server::start(1, "--cores 1 --json -");
        drop_incoming(&[to_address(Ipv4Addr::new(127, 0, 0, 9))]);
        let _begun: Vec<Socket> = (0..20).map(|_| begin(Ipv4Addr::new(127, 0, 0, 9), server.port)).collect();
        let run = client(&format!("{} --connections 20 --connect-timeout 1s", server.at()));
        run.failed("connect_timeout", 20, "no answer to the SYN");
        run_names(&run, &["SYN queue"]);
        names(&server.stop().last_document(), &["SYN queue"]);
    });
}

/// A connect in progress.
fn begin(from: Ipv4Addr, port: u16) -> Socket {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_nonblocking(true).unwrap();
    socket.bind(&SocketAddr::from((from, 0)).into()).unwrap();
    let begun = socket.connect(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)).into());
    assert_eq!(begun.unwrap_err().raw_os_error(), Some(libc::EINPROGRESS));
    socket
}

// ---- source ports -------------------------------------------------------------------------------

#[test(Network)]
fn source_ports_that_another_client_uses_are_named() {
    in_own_network(|| {
        set("net/ipv4/ip_local_port_range", "40000 40099");
        let server = Server::start(1, "--json -");
        let mut first = Client::start(&format!("{} --connections 60 --hold 60s", server.at()));
        first.running.until("all are held", |out| out.contains("audit 1: 60 live"));
        let second = client(&format!("{} --connections 80 --close rst", server.at()));
        second.failed("EADDRNOTAVAIL", 40, "no source port is free");
        run_names(&second, &["source ports"]);
        first.running.signal(libc::SIGINT);
        run_names(&first.finish(), &[]);
        names(&server.stop().last_document(), &[]);
    });
}

/// 203.0.113.0/24 is reserved for documentation, so no host has it. Ports in TIME_WAIT, however many, do not matter
/// while others are free.
#[test(Network)]
fn a_source_address_of_another_host_is_not_blamed_on_time_wait() {
    in_own_network(|| {
        let server = Server::start(1, "");
        run_names(&client(&format!("{} --connections 60 --close fin", server.at())), &[]);
        let run = client(&format!("{} --connections 20 --source-ip 203.0.113.7", server.at()));
        run.failed("EADDRNOTAVAIL", 20, "--source-ip is not on this host");
        run_names(&run, &["source ports"]);
    });
}

/// The second run lacks the ports that the first one left in TIME_WAIT, and says so. The doctor's fix removes the
/// wall.
#[test(Network)]
fn ports_that_an_earlier_run_left_in_time_wait_are_named() {
    are_named_in_time_wait("127.0.0.1");
}

/// The kernel counts the sockets of IPv6 that are in use apart from those of IPv4.
#[test(Network)]
fn ports_of_ipv6_that_an_earlier_run_left_in_time_wait_are_named() {
    are_named_in_time_wait("::1");
}

fn are_named_in_time_wait(to: &str) {
    in_own_network(|| {
        set("net/ipv4/ip_local_port_range", "40000 40099");
        set("net/ipv4/tcp_tw_reuse", "0");
        let server = Server::start(1, &format!("--bind {to}"));
        let at = format!("--target-ip {to} {}", server.at());
        let run = |connections| client(&format!("{at} --connections {connections} --close fin"));
        let first = run(60);
        first.held(60);
        run_names(&first, &[]);
        let goal = format!("--role client --connections 80 {at}");
        let page = doctor_as(c1m(), &goal);
        assert_eq!(page.says("TIME_WAIT", "verdict"), "tight", "{}", page.says("TIME_WAIT", "have"));
        let second = run(80);
        second.failed("EADDRNOTAVAIL", 40, "TIME_WAIT counts too");
        run_names(&second, &["TIME_WAIT"]);
        blames(&second.json, "an earlier run");
        set("net/ipv4/tcp_tw_reuse", "1");
        // The kernel reuses a port only one second after its last packet.
        eventually("the ports come back", || {
            client(&format!("{at} --connections 80 --close rst")).number("live") == 80
        });
    });
}

/// Where every source port is served on this host, none is lent, whatever is in TIME_WAIT.
#[test(Network)]
fn source_ports_that_are_all_served_are_not_blamed_on_time_wait() {
    in_own_network(|| {
        set("net/ipv4/tcp_tw_reuse", "0");
        let server = Server::start(2, "");
        client(&format!("{} --connections 20 --close fin", server.at())).held(20);
        set("net/ipv4/ip_local_port_range", &format!("{} {}", server.port, server.port + 1));
        let second = client(&format!("{} --connections 10", server.at()));
        second.failed("EADDRNOTAVAIL", 10, "no source port is free");
        run_names(&second, &["source ports"]);
        assert!(second.finished.out.contains("one of the target's ports"), "{}", second.finished.out);
    });
}

/// Checks that the wall of TIME_WAIT names the run that closed the connections.
fn blames(document: &Value, whose: &str) {
    let means = document["walls"][0]["means"].as_str().unwrap();
    assert!(means.starts_with(&format!("{whose} closed with FIN")), "{means}");
}

/// Another client holds ports that the run lacks. The run closes its live connections by FIN, so its ports are in
/// TIME_WAIT when it has ended. They were in use when the other connections failed.
#[test(Network)]
fn ports_that_the_run_leaves_in_time_wait_at_its_end_are_not_blamed() {
    in_own_network(|| {
        set("net/ipv4/ip_local_port_range", "40000 40099");
        set("net/ipv4/tcp_tw_reuse", "0");
        let server = Server::start(1, "");
        let mut first = Client::start(&format!("{} --connections 60 --hold 10m --close rst", server.at()));
        first.running.until("all are held", |out| out.contains("audit 1: 60 live"));
        let run = client(&format!("{} --connections 80 --close fin", server.at()));
        run.failed("EADDRNOTAVAIL", 40, "no source port is free");
        run_names(&run, &["source ports"]);
        first.running.signal(libc::SIGINT);
        first.finish();
    });
}

/// A storm closes by FIN, and dials as many connections anew. It lacks ports that it left in TIME_WAIT itself.
#[test(Network)]
fn ports_that_a_run_itself_left_in_time_wait_are_named_as_its_own() {
    in_own_network(|| {
        set("net/ipv4/ip_local_port_range", "40000 40099");
        set("net/ipv4/tcp_tw_reuse", "0");
        let server = Server::start(1, "");
        let dir = tempfile::tempdir().unwrap();
        let json = dir.path().join("json");
        let short = "--calm 100ms --after 100ms --interval 100ms";
        let arguments =
            format!("storm reconnect --fin --target-ip 127.0.0.1 {} --connections 80 --share 60 {short}", server.at());
        let finished = run_as(c1m(), &format!("{arguments} --json {}", json.display()));
        let document: Value = document(&json);
        assert_eq!(finished.code(), 1, "{}", finished.out);
        assert_eq!(document["errors"]["EADDRNOTAVAIL"], 40, "{}", document["errors"]);
        names(&document, &["TIME_WAIT"]);
        blames(&document, "this run itself");
    });
}

// ---- descriptors --------------------------------------------------------------------------------

const LIMIT: u64 = 600;

/// The doctor predicts the number of connections of a program that uses a plain descriptor for each. Such a program
/// ends at that number.
#[test]
fn a_plain_program_ends_where_the_doctor_says() {
    let server = Server::start(1, "");
    let limited = format!("ulimit -n {LIMIT}");
    let mut plain = Command::new("sh");
    plain.args(["-c", &format!("{limited} && exec \"$0\" \"$@\"")]).arg(std::env::current_exe().unwrap());
    let output = plain.env("C1M_TEST_PLAIN_PROGRAM", server.port.to_string()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let ended = text.split_once("opened ").and_then(|(_, rest)| rest.split_whitespace().next()?.parse().ok());
    let ended: u64 = ended.unwrap_or_else(|| panic!("{text}{}", String::from_utf8_lossy(&output.stderr)));
    let page = doctor_as(c1m_after(&limited), "--role client --connections 10000");
    let said = page.says("descriptors", "need").rsplit(' ').next().unwrap().replace(',', "");
    let said: u64 = said.parse().unwrap();
    assert!(
        said <= ended && ended - said <= LIMIT / 20,
        "the doctor said {said}, the program ended at {ended} of {LIMIT}"
    );
}

/// A program that opens a descriptor for each connection, in a process of its own.
pub fn plain_program(port: u16) {
    let mut open = Vec::new();
    let end = loop {
        match std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)) {
            Ok(stream) => open.push(stream),
            Err(error) => break error,
        }
    };
    assert_eq!(end.raw_os_error(), Some(libc::EMFILE), "{end}");
    println!("opened {} connections", open.len());
}

/// A ring is a descriptor too. If descriptors do not suffice, the client says so before it starts, and the doctor
/// says the same number.
#[test]
fn too_few_descriptors_are_named_before_the_run() {
    let limited = "ulimit -n 100";
    let goal = format!("{} --connections 1000000", at(free_ports(2), 2));
    let page = doctor_as(c1m_after(limited), &format!("--role client {goal}"));
    assert_eq!(page.says("descriptors", "verdict"), "blocks", "{}", page.says("descriptors", "have"));
    let holds = page.holds("descriptors");
    let arguments = format!("client --target-ip 127.0.0.1 --source-ip 127.0.0.0/26 {goal}");
    run_as(c1m_after(limited), &arguments).fails_with(3, &["file descriptor limit 100", &format!("at most {holds} ")]);
}

// ---- memory -------------------------------------------------------------------------------------

/// A process of the group with 24 MiB. When the group meets its limit the kernel kills this process first, so the
/// server lives and can report the wall.
struct Hog(Child);

impl Hog {
    fn start(cgroup: &Cgroup) -> Hog {
        let mut dd = Command::new("sh");
        dd.args([
            "-c",
            &format!(
                "echo $$ > {} && echo 1000 > /proc/self/oom_score_adj && exec dd if=/dev/zero bs=24M",
                cgroup.processes().display()
            ),
        ]);
        // The pipe has no reader, so the process waits with its block in memory.
        let mut hog = Hog(dd.stdout(Stdio::piped()).spawn().unwrap());
        eventually("it has its memory", || {
            assert!(!hog.was_killed(), "it has ended");
            Host::here().resident(hog.0.id()).0 >= 24 << 20
        });
        hog
    }

    fn was_killed(&mut self) -> bool {
        self.0.try_wait().unwrap().is_some()
    }
}

impl Drop for Hog {
    fn drop(&mut self) {
        // The process may have ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A server without a reserve meets the limit in the middle of a ramp. Processes in the group name the wall, and
/// processes outside do not. The 5,000 connections take 1 to 6 kB each: more than the 4 MiB that are left, and less
/// than one hog frees. Further hogs are there for threads that met the limit just before: for each of them the
/// kernel kills a process too, even if there is room again.
#[test(MemoryCgroup)]
fn a_full_memory_cgroup_is_named_by_the_processes_in_it() {
    let cgroup = Cgroup::with_limit(256 << 20).unwrap();
    let mut hogs = [(); 3].map(|()| Hog::start(&cgroup));
    let server = Server::start_as(cgroup.command(), 10, "--memory-reserve 0 --stats-interval 50ms --json -");
    cgroup.leave(4 << 20);
    let run = client(&format!("{} --connections 5000 --close rst", server.at()));
    run.held(5_000);
    run_names(&run, &[]);
    assert!(hogs.iter_mut().any(Hog::was_killed));
    eventually("the server says so", || server.running.err().contains("c1m: cgroup memory: "));
    let finished = server.stop();
    names(&finished.last_document(), &["cgroup memory"]);
    assert_eq!(finished.err.matches("cgroup memory: ").count(), 1, "{}", finished.err);
}
