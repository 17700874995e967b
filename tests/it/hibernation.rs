//! Sleeping connections as their peers see them: plain sockets of the standard library, to a server that puts
//! connections to sleep; over IPv4 and IPv6, over loopback and over a cable between two network namespaces.

mod descriptors;
mod hostile;
mod routes;
mod storms;
mod told;

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use c1m::{ConnId, Cores, Ctx, Ports, Reply, Server as Library, Service};
use serde_json::Value;
use socket2::{Domain, SockRef, Socket, TcpKeepalive, Type};

use crate::network;
use crate::support::*;

/// Sleep soon, and tell often how many do.
const SLEEP: &str = "--cores 1 --max-connections 1000 --hibernate 100ms --stats-interval 20ms --json -";

/// Option of TCP that takes over a socket's state, from linux/tcp.h. A socket that is closed meanwhile sends nothing.
const TCP_REPAIR: libc::c_int = 19;

/// The mark of an event that tells what the server counts.
const STATS: &str = r#""event":"stats""#;

/// A server whose connections sleep, and the address at which the calling thread reaches it.
pub struct Scene<'a> {
    server: &'a Server,
    to: SocketAddr,
    /// The server is in another network namespace than the calling thread.
    pub is_apart: bool,
}

impl Scene<'_> {
    /// A new connection, on which everything is sent at once.
    pub fn connected(&self) -> TcpStream {
        self.connected_from(0)
    }

    /// A new connection from a port, or from any for 0.
    pub fn connected_from(&self, port: u16) -> TcpStream {
        let socket = Socket::new(Domain::for_address(self.to), Type::STREAM, None).unwrap();
        socket.set_reuse_address(true).unwrap();
        let any: IpAddr = if self.to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        socket.bind(&SocketAddr::new(any, port).into()).unwrap();
        socket.set_tcp_nodelay(true).unwrap();
        socket.connect_timeout(&self.to.into(), PATIENCE).unwrap();
        let stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// What the server said last of its connections.
    fn stats(&self) -> Value {
        stats(self.server)
    }

    /// How many connections the server says to be live.
    pub fn live(&self) -> u64 {
        number(&self.stats(), "live")
    }

    /// A count of what became of sleepers, such as `asleep`.
    pub fn count(&self, name: &str) -> u64 {
        number(&self.stats()["hibernation"], name)
    }

    /// Waits until exactly so many connections are live, and all of them are asleep.
    pub fn all_asleep(&self, connections: u64) {
        all_asleep(self.server, connections);
    }

    /// Waits until no connection is live.
    pub fn all_gone(&self) {
        eventually("the server has no connection", || self.live() == 0);
    }
}

/// Waits until exactly so many connections of a server are live, and all of them are asleep.
pub fn all_asleep(server: &Server, connections: u64) {
    let said = || server.running.out().matches(STATS).count();
    // The first event from now on may tell of counts from before, and the second does not.
    let fresh = said() + 2;
    eventually(&format!("{connections} connections are asleep"), || {
        let stats = stats(server);
        let asleep = number(&stats["hibernation"], "asleep");
        said() >= fresh && (number(&stats, "live"), asleep) == (connections, connections)
    });
}

/// The last event `stats` of a server; one of zeros if there is none yet.
fn stats(server: &Server) -> Value {
    let none = || serde_json::json!({ "live": 0, "hibernation": { "asleep": 0 } });
    server.running.last_event("stats").unwrap_or_else(none)
}

/// Runs `body` with a server in each of five places; then `check` with what the server says at its end of sleepers. One of them
/// listens at all addresses, where a peer of IPv4 comes to a listener of IPv6.
pub fn everywhere(body: impl Fn(&Scene) + Sync, check: impl Fn(&Value)) {
    let (four, six) = (IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST));
    for (listens, to) in [(four, four), (six, six), (Ipv6Addr::UNSPECIFIED.into(), four)] {
        let ended = in_own_network(|| {
            let server = Server::start(1, &format!("--bind {listens} {SLEEP}"));
            body(&Scene { server: &server, to: SocketAddr::new(to, server.port), is_apart: false });
            server.stop()
        });
        check(&ended.last_document()["hibernation"]);
    }
    for (here, there, prefix) in [("10.77.0.1", "10.77.0.2", 24), ("fd77::1", "fd77::2", 64)] {
        let ended = over_a_cable(here.parse().unwrap(), there.parse().unwrap(), prefix, &body);
        check(&ended.last_document()["hibernation"]);
    }
}

/// Runs `body` in a network namespace that a cable connects with the one of a server, which then ends.
fn over_a_cable(here: IpAddr, there: IpAddr, prefix: u8, body: &(impl Fn(&Scene) + Sync)) -> Finished {
    in_own_network(|| {
        let host = File::open("/proc/thread-self/ns/net").unwrap();
        let ((linked, link), (started, start)) = (channel(), channel::<Arc<Server>>());
        std::thread::scope(|scope| {
            let peers = scope.spawn(move || {
                in_own_network(move || {
                    network::cable(c"near", c"far", Some(&host));
                    network::address(c"near", there, prefix);
                    network::up(c"near");
                    linked.send(()).unwrap();
                    let Ok(server) = start.recv() else { return };
                    let to = SocketAddr::new(here, server.port);
                    body(&Scene { server: &server, to, is_apart: true });
                });
            });
            link.recv().unwrap();
            network::address(c"far", here, prefix);
            network::up(c"far");
            let server = Arc::new(Server::start(1, &format!("--bind {here} {SLEEP}")));
            started.send(server.clone()).unwrap();
            peers.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            // The other thread has ended, and had the only other reference.
            Arc::into_inner(server).unwrap().stop()
        })
    })
}

/// Segments that this thread's network namespace received.
fn segments() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/net/snmp").unwrap();
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("Tcp: "));
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    let at = names.split(' ').position(|name| name == "InSegs").unwrap();
    values.split(' ').nth(at).unwrap().parse().unwrap()
}

/// Sends a message, and wants it back.
fn exchanges(stream: &mut TcpStream, message: &[u8]) {
    stream.write_all(message).unwrap();
    let mut back = vec![0; message.len()];
    stream.read_exact(&mut back).unwrap();
    assert!(back == message, "another answer");
}

/// Bytes that differ from place to place, so that none can be lost, doubled or out of order unnoticed.
fn bytes(count: usize, seed: u32) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2_654_435_761) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as u8
    };
    std::iter::repeat_with(&mut next).take(count).collect()
}

/// Whether nothing came, and the connection is open.
fn is_silent(stream: &TcpStream) -> bool {
    stream.set_nonblocking(true).unwrap();
    let peeked = stream.peek(&mut [0]);
    stream.set_nonblocking(false).unwrap();
    peeked.is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
}

/// Has the kernel forget a connection without a segment, as a host that crashed does.
fn forget(stream: TcpStream) {
    let on: libc::c_int = 1;
    let size = size_of_val(&on) as libc::socklen_t;
    // SAFETY: the kernel reads an integer, which outlives the call.
    let set = unsafe {
        libc::setsockopt(stream.as_raw_fd(), libc::IPPROTO_TCP, TCP_REPAIR, std::ptr::from_ref(&on).cast(), size)
    };
    assert_eq!(set, 0, "{}", std::io::Error::last_os_error());
    // A close alone is not enough: a process that another test starts has a copy of the descriptor until its program runs.
    let nowhere = libc::sockaddr { sa_family: libc::AF_UNSPEC as libc::sa_family_t, sa_data: [0; 14] };
    // SAFETY: the kernel reads an address, which outlives the call.
    let left =
        unsafe { libc::connect(stream.as_raw_fd(), &raw const nowhere, size_of_val(&nowhere) as libc::socklen_t) };
    assert_eq!(left, 0, "{}", std::io::Error::last_os_error());
}

/// Over a cable: from the answer to the sleep, and while it lasts, the peer hears nothing at all.
#[test(Network, Hibernation)]
fn a_connection_falls_asleep_without_a_segment() {
    everywhere(
        |scene| {
            let mut stream = scene.connected();
            exchanges(&mut stream, b"good night");
            let before = segments();
            scene.all_asleep(1);
            assert!(is_silent(&stream));
            assert!(!scene.is_apart || segments() == before, "{} segments came", segments() - before);
            exchanges(&mut stream, b"good morning");
        },
        |slept| assert!(number(slept, "hibernated") >= 1 && number(slept, "woken_by_peer") >= 1, "{slept}"),
    );
}

/// A long message needs a socket, and a short one does not if there was none shortly before.
#[test(Network, Hibernation)]
fn a_message_wakes_a_connection_again_and_again() {
    everywhere(
        |scene| {
            let mut stream = scene.connected();
            for round in 0..6 {
                let length = if round % 2 == 0 { 64 } else { 3_000 };
                exchanges(&mut stream, &bytes(length, round));
                scene.all_asleep(1);
            }
            // What follows the sleeps is a stream as ever.
            exchanges(&mut stream, &bytes(1_000, 5));
        },
        |slept| {
            let [woken, without_socket] = ["woken_by_peer", "woken_without_socket"].map(|name| number(slept, name));
            // The connection was awake for the first of these messages.
            assert!(woken >= 5 && (1..=woken - 3).contains(&without_socket), "{slept}");
            assert_eq!(number(slept, "segments_malformed"), 0, "{slept}");
        },
    );
}

/// The peer asks each second whether the server is there. It has patience with a slow machine; what counts is that the
/// server answers.
#[test(Network, Hibernation)]
fn probes_of_the_peer_are_answered_without_a_wake() {
    everywhere(
        |scene| {
            let mut stream = scene.connected();
            let often = Duration::from_secs(1);
            let keepalive = TcpKeepalive::new().with_time(often).with_interval(often).with_retries(60);
            SockRef::from(&stream).set_tcp_keepalive(&keepalive).unwrap();
            exchanges(&mut stream, b"k");
            scene.all_asleep(1);
            let woken = scene.count("woken_by_peer");
            eventually("two probes are answered", || scene.count("segments_answered") >= 2);
            assert_eq!((scene.count("asleep"), scene.count("woken_by_peer")), (1, woken));
            assert!(is_silent(&stream));
            exchanges(&mut stream, b"and data");
        },
        |slept| assert!(number(slept, "segments_answered") >= 2, "{slept}"),
    );
}

#[test(Network, Hibernation)]
fn a_fin_for_a_sleeper_is_answered_without_a_wake() {
    everywhere(
        |scene| {
            let mut stream = scene.connected();
            exchanges(&mut stream, b"f");
            scene.all_asleep(1);
            let woken = scene.count("woken_by_peer");
            stream.shutdown(std::net::Shutdown::Write).unwrap();
            assert_eq!(stream.read(&mut [0]).unwrap(), 0, "the server ends too");
            scene.all_gone();
            assert_eq!(scene.count("woken_by_peer"), woken);
        },
        |slept| assert_eq!(number(slept, "asleep"), 0, "{slept}"),
    );
}

#[test(Network, Hibernation)]
fn a_reset_for_a_sleeper_ends_it_without_a_wake() {
    everywhere(
        |scene| {
            let mut stream = scene.connected();
            exchanges(&mut stream, b"r");
            scene.all_asleep(1);
            let woken = scene.count("woken_by_peer");
            reset(stream);
            scene.all_gone();
            assert_eq!(scene.count("woken_by_peer"), woken);
        },
        |slept| assert_eq!(number(slept, "asleep"), 0, "{slept}"),
    );
}

/// The peer's host forgot the connection, and connects again from the same port.
#[test(Network, Hibernation)]
fn a_peer_that_forgot_its_connection_gets_a_new_one() {
    everywhere(
        |scene| {
            let mut stream = scene.connected();
            exchanges(&mut stream, b"s");
            scene.all_asleep(1);
            let port = stream.local_addr().unwrap().port();
            forget(stream);
            let mut stream = scene.connected_from(port);
            exchanges(&mut stream, b"new");
            scene.all_asleep(1);
            exchanges(&mut stream, b"again");
        },
        |slept| assert!(number(slept, "segments_answered") >= 1, "a SYN is answered by a challenge: {slept}"),
    );
}

#[test(Network, Hibernation)]
fn megabytes_after_a_sleep_come_back_whole() {
    everywhere(
        |scene| {
            let mut stream = scene.connected();
            exchanges(&mut stream, b"l");
            scene.all_asleep(1);
            let sent = bytes(3 << 20, 7);
            let mut writer = stream.try_clone().unwrap();
            std::thread::scope(|scope| {
                scope.spawn(|| writer.write_all(&sent).unwrap());
                let mut back = vec![0; sent.len()];
                stream.read_exact(&mut back).unwrap();
                assert!(back == sent, "3 MiB came back changed");
            });
        },
        |slept| assert!(number(slept, "woken_by_peer") >= 1, "{slept}"),
    );
}

#[test(Network, Hibernation)]
fn many_sleep_and_each_keeps_its_own_stream() {
    everywhere(
        |scene| {
            let mut streams: Vec<TcpStream> = (0..200).map(|_| scene.connected()).collect();
            for round in 0..3 {
                for (nth, stream) in streams.iter_mut().enumerate() {
                    exchanges(stream, &bytes(100, nth as u32 * 10 + round));
                }
                scene.all_asleep(200);
            }
        },
        |slept| assert!(number(slept, "hibernated") >= 600 && number(slept, "asleep") <= 200, "{slept}"),
    );
}

/// The server ends: each sleeping connection is told by a FIN.
#[test(Network, Hibernation)]
fn a_server_that_stops_says_goodbye_to_sleepers() {
    in_own_network(|| {
        let server = Server::start(1, &format!("--bind 127.0.0.1 {SLEEP}"));
        let to = (Ipv4Addr::LOCALHOST, server.port).into();
        let scene = Scene { server: &server, to, is_apart: false };
        let mut streams: Vec<TcpStream> = (0..50).map(|_| scene.connected()).collect();
        streams.iter_mut().for_each(|stream| exchanges(stream, b"hello"));
        scene.all_asleep(50);
        let finished = server.stop();
        for stream in &mut streams {
            assert_eq!(stream.read(&mut [0]).unwrap(), 0);
        }
        let document = finished.last_document();
        assert_eq!((number(&document, "live_at_stop"), number(&document, "live")), (50, 0), "{document}");
        assert_eq!(number(&document["hibernation"], "asleep"), 50, "{document}");
    });
}

/// Sends back what comes, and sends to all its connections what it is told to, and says when it has done so.
pub struct Pusher(pub Sender<()>);

impl Service for Pusher {
    type State = ();
    type Message = Vec<u8>;

    fn received(&mut self, _: &mut Ctx<'_, ()>, _: ConnId, data: &mut [u8]) -> Reply {
        Reply::Back(0..data.len())
    }

    fn message(&mut self, ctx: &mut Ctx<'_, ()>, message: Vec<u8>) {
        let all: Vec<ConnId> = ctx.connections().map(|(conn, ())| conn).collect();
        all.into_iter().for_each(|conn| ctx.send(conn, &message));
        self.0.send(()).unwrap();
    }
}

/// What the service sends reaches sleeping connections, and no peer has to ask for it.
#[test(Network, Hibernation)]
fn what_a_service_sends_wakes_a_sleeper() {
    for ip in [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()] {
        in_own_network(|| {
            let port = free_ports(1);
            let builder = Library::builder().bind(ip).ports(Ports::new(port, 1).unwrap()).cores(Cores::Count(1));
            let builder = builder.max_connections(100).hibernate(Duration::from_millis(100));
            let (tell, _told) = channel();
            let server = builder.start(move |_| Pusher(tell.clone())).unwrap();
            let mut stream = TcpStream::connect((ip, port)).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            exchanges(&mut stream, b"hello");
            for round in 0..3 {
                eventually("it sleeps", || server.counters()[0].asleep == 1);
                let pushed = bytes(200, round);
                server.mailbox().send(0, pushed.clone()).map_err(drop).unwrap();
                let mut heard = vec![0; pushed.len()];
                stream.read_exact(&mut heard).unwrap();
                assert!(heard == pushed, "other bytes");
            }
            exchanges(&mut stream, b"and data again");
            let counted = server.counters()[0].server;
            assert!(counted.woken_by_send >= 3, "{counted:?}");
            server.stop();
            server.join().map(drop).unwrap();
        });
    }
}

/// The document of a demo, both ends of which have put all its connections to sleep between the audits.
pub fn asleep_in_a_demo(words: &str, connections: u64) -> Value {
    in_ever_longer_times("all fall asleep", |seconds| {
        let sleeps = format!("--connections {connections} --hibernate 100ms --hold {seconds}s");
        let finished = run(&format!("demo {words} {sleeps} --network host --json - {}", at(free_ports(4), 4)));
        assert_eq!(finished.code(), 0, "{}{}", finished.out, finished.err);
        let document: Value = serde_json::from_str(&finished.out).unwrap();
        for audit in document["client"]["audits"].as_array().unwrap() {
            assert_eq!((number(audit, "live"), number(audit, "wrong")), (connections, 0), "{audit}");
        }
        let slept = |end: &str| number(&document[end]["hibernation"], "hibernated") >= connections;
        (slept("server") && slept("client")).then_some(document)
    })
}

/// Both ends sleep between the audits, and all is proved twice.
#[test(Network, Hibernation)]
fn a_demo_proves_sleepers_at_both_ends() {
    in_own_network(|| {
        let document = asleep_in_a_demo("", 2_000);
        for end in ["server", "client"] {
            let slept = &document[end]["hibernation"];
            assert!(number(slept, "asleep") <= 2_000, "{slept}");
            // The client's connections wake to send, and perhaps none of them by a segment.
            let wakes = &slept["wake_latency_us"];
            assert_eq!(wakes["count"].as_u64().unwrap_or(0), number(slept, "woken_by_peer"), "{slept}");
        }
    });
}

/// A connection whose answer is awaited may sleep, and is not live: it does not count among the live ones that sleep.
#[test(Network, Hibernation)]
fn whoever_is_not_live_does_not_count_as_asleep() {
    in_own_network(|| {
        // The kernel opens connections, and no program answers.
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = silent.local_addr().unwrap().port();
        let words = "--connections 20 --hibernate 50ms --reply-timeout 1500ms --json -";
        let finished = run(&format!("client --target-ip 127.0.0.1 {} {words}", at(port, 1)));
        let counted = |event: &Value| {
            assert_eq!((number(event, "live"), number(event, "asleep")), (0, 0), "{event}");
        };
        let progress = events(&finished.out, "progress");
        assert!(progress.iter().inspect(|event| counted(event)).count() > 1, "{}", finished.out);
        let slept = &finished.last_document()["hibernation"];
        assert!(number(slept, "hibernated") >= 20, "{slept}");
    });
}

/// Fewer slots than connections: connections that are awake make room by falling asleep.
#[test(Network, Hibernation)]
fn more_connections_than_slots_are_held() {
    in_own_network(|| {
        let server = Server::start(1, &format!("--bind 127.0.0.1 {SLEEP} --awake 50"));
        let to = (Ipv4Addr::LOCALHOST, server.port).into();
        let scene = Scene { server: &server, to, is_apart: false };
        let mut streams = Vec::new();
        for nth in 0..500 {
            let mut stream = scene.connected();
            exchanges(&mut stream, &bytes(20, nth));
            streams.push(stream);
        }
        scene.all_asleep(500);
        for (nth, stream) in streams.iter_mut().enumerate() {
            exchanges(stream, &bytes(30, nth as u32));
        }
        scene.all_asleep(500);
        server.stop();
    });
}

/// However few may be awake: accepts take slots too, and a listener of which every accept has brought a connection gets slots
/// long before these would sleep by themselves.
#[test(Network, Hibernation)]
fn one_that_may_be_awake_suffices_at_the_server() {
    in_own_network(|| {
        const LISTENERS: u16 = 4;
        // Of the 256 accepts of a shard each listener has 64.
        const PEERS: u32 = 80;
        let words = "--bind 127.0.0.1 --cores 1 --max-connections 200 --hibernate 1h --awake 1 --json -";
        let server = Server::start(LISTENERS, words);
        let mut streams: Vec<_> =
            (0..PEERS).map(|_| TcpStream::connect((Ipv4Addr::LOCALHOST, server.port)).unwrap()).collect();
        for (nth, stream) in (0..).zip(&mut streams) {
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            exchanges(stream, &bytes(20, nth));
        }
        server.stop();
    });
}

/// The same at both ends, with a shard at each that the one place would not be for.
#[test(Network, Hibernation)]
fn one_that_may_be_awake_suffices_at_both_ends() {
    in_own_network(|| asleep_in_a_demo("--awake 1 --cores 2", 4));
}

/// A network may lack the loopback address of a family over which connections go: a host with IPv6 alone, say. The probes of
/// a server reach a client's sleepers there too.
#[test(Network, Hibernation)]
fn sleepers_are_reached_where_no_loopback_address_is() {
    in_own_network(|| {
        for (lacks, bits, has) in [("127.0.0.1", 8, "10.77.0.1"), ("::1", 128, "fd77::1")] {
            let [lacks, has]: [IpAddr; 2] = [lacks, has].map(|address| address.parse().unwrap());
            network::address(c"lo", has, if has.is_ipv4() { 32 } else { 128 });
            network::remove_address(c"lo", lacks, bits);
            let server = Server::start(1, &format!("--bind {has} --cores 1 --keepalive 1s"));
            let mut command = c1m();
            command.args(format!("client --target-ip {has} {} --cores 1", server.at()).split_whitespace());
            command.args("--connections 20 --hibernate 100ms --steer --json -".split_whitespace());
            let mut client = Running::with_input(command);
            let mut asked = 0;
            eventually("each sleeper has answered a probe", || {
                let reports = events(&client.out(), "report");
                if reports.len() == asked {
                    asked += 1;
                    client.say("report");
                }
                let answered = |told: &Value| number(&told["result"]["hibernation"], "segments_answered");
                reports.last().is_some_and(|told| answered(told) >= 20)
            });
            client.say("audit");
            client.end_input();
            let finished = client.wait();
            assert_eq!(finished.code(), 0, "{}{}", finished.out, finished.err);
            server.stop();
        }
    });
}

/// Without the rights nothing starts, and the line names what is missing and how it is granted.
#[test(Users)]
fn without_the_rights_nothing_starts() {
    let dir = tempfile::tempdir().unwrap();
    let finished = run_as(c1m_unprivileged(&dir), &format!("server {} --hibernate 1s", at(free_ports(1), 1)));
    finished.fails_with(3, &["CAP_NET_ADMIN", "CAP_BPF", "CAP_NET_RAW", "AmbientCapabilities=", "--hibernate"]);
    let finished = run_as(c1m_unprivileged(&dir), "client --target-ip 127.0.0.1 --connections 1 --hibernate 1s");
    finished.fails_with(3, &["CAP_NET_ADMIN"]);
}

/// The doctor reckons with bytes for those asleep and with sockets for those awake, and knows who may not.
#[test(Users)]
fn the_doctor_judges_both_kinds_of_connections() {
    let goal = "--connections 10000000 --role server --hibernate 1s --awake 100000";
    let page = crate::doctor::doctor_as(c1m(), goal);
    let need = page.says("memory", "need");
    assert!(need.contains("51 bytes for each connection asleep") && need.contains("for 100,000 awake"), "{need}");
    let dir = tempfile::tempdir().unwrap();
    let page = crate::doctor::doctor_as(c1m_unprivileged(&dir), goal);
    assert_eq!((page.says("sleep", "verdict"), page.holds("sleep")), ("blocks", 0));
    assert!(page.says("sleep", "have").contains("CAP_NET_ADMIN"), "{}", page.says("sleep", "have"));
}

/// Where nothing may sleep, no document and no metric has a word of it.
#[test]
fn without_the_option_nothing_speaks_of_sleep() {
    let mut server = Server::start(1, "--cores 1 --max-connections 10 --stats-interval 20ms --json -");
    server.running.until("figures come", |out| out.contains(STATS));
    let finished = server.stop();
    assert!(!finished.out.contains("hibernat") && !finished.out.contains("asleep"), "{}", finished.out);
}
