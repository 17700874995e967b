//! Servers that take each other's place while clients go on: real processes, plain sockets of the standard library, and
//! a service manager that is played by the test.

mod answers;
mod asking;
mod failing;
pub mod halfway;
mod manager;
mod metrics;
mod newcomers;
mod services;
mod settings;
mod shared;
mod spoken;

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use c1m::internal::takeover::{Channel, FORMAT, Hello, Kind, Speaks, Terms, of_bytes, to_bytes};
use serde_json::Value;
use tempfile::TempDir;

use crate::support::*;
use manager::Manager;

/// Servers that take each other's place, on the same ports of one network namespace.
struct House {
    dir: TempDir,
    port: u16,
    ports: u16,
    ip: IpAddr,
    arguments: String,
}

impl House {
    /// With these arguments of all servers, listening at `ip`.
    fn new(ip: IpAddr, arguments: &str) -> House {
        House { dir: TempDir::new().unwrap(), port: 9_000, ports: 2, ip, arguments: arguments.to_owned() }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("takeover")
    }

    fn arguments(&self, more: &str) -> String {
        let House { ip, arguments, .. } = self;
        let path = self.path();
        format!(
            "--bind {ip} --cores 2 --max-connections 3000 --json - --takeover {} {arguments} {more}",
            path.display()
        )
    }

    /// A server that takes the place of the one before it, if there is one.
    fn server(&self, more: &str) -> Server {
        Server::start_as_at(c1m(), self.port, self.ports, &self.arguments(more))
    }

    /// The same, but not ready yet.
    fn starting(&self, more: &str) -> Running {
        let mut command = c1m();
        command.args(server_arguments(self.port, self.ports, &self.arguments(more)).split_whitespace());
        Running::start(command)
    }

    /// Waits until a server that was killed has its ports no more: the kernel takes its rings apart in the background, on a
    /// busy machine perhaps for longer than the start of the next server waits.
    fn until_its_ports_are_free(&self) {
        eventually("its ports are free", || (self.port..self.port + self.ports).all(is_free));
    }

    /// A connection to one of the ports. Where servers listen at all addresses, every other one is over IPv4.
    fn connect(&self, number: usize) -> TcpStream {
        let port = self.port + number as u16 % self.ports;
        let ip: IpAddr = match self.ip {
            ip if !ip.is_unspecified() => ip,
            _ if (number / usize::from(self.ports)).is_multiple_of(2) => Ipv4Addr::LOCALHOST.into(),
            _ => Ipv6Addr::LOCALHOST.into(),
        };
        let stream = TcpStream::connect(SocketAddr::new(ip, port)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        stream
    }

    /// So many connections, each of which has been answered.
    fn crowd(&self, count: usize) -> Vec<TcpStream> {
        let mut crowd: Vec<_> = (0..count).map(|number| self.connect(number)).collect();
        audit(&mut crowd, "hello");
        crowd
    }
}

/// Sends something on every connection, and wants exactly that back.
fn audit(crowd: &mut [TcpStream], word: &str) {
    let messages: Vec<String> = (0..crowd.len()).map(|number| format!("{word} {number};")).collect();
    for (stream, message) in crowd.iter_mut().zip(&messages) {
        stream.write_all(message.as_bytes()).unwrap();
    }
    for (stream, message) in crowd.iter_mut().zip(&messages) {
        let mut back = vec![0; message.len()];
        stream.read_exact(&mut back).unwrap_or_else(|error| panic!("{message}: {error}"));
        assert_eq!(String::from_utf8_lossy(&back), *message);
    }
}

/// Whether a connection still answers.
fn answers(stream: &mut (impl Read + Write)) -> bool {
    let mut back = [0; 2];
    stream.write_all(b"ok").is_ok() && stream.read_exact(&mut back).is_ok() && back == *b"ok"
}

/// What the event `ready` of a server says.
fn ready(running: &Running) -> Value {
    running.last_event("ready").unwrap()
}

/// How many connections a server says that it has, and how many of these sleep; none before it says anything.
fn counts(running: &Running) -> (u64, u64) {
    let stats = running.last_event("stats").unwrap_or_default();
    (stats["live"].as_u64().unwrap_or(0), stats["hibernation"]["asleep"].as_u64().unwrap_or(0))
}

/// A server that handed over ends by itself, well, and says how many connections it handed over.
fn handed_over(server: Server) -> u64 {
    let ended = server.running.wait();
    assert_eq!(ended.code(), 0, "{}{}", ended.out, ended.err);
    assert_eq!(ended.errors(), "");
    let document = ended.last_document();
    assert_eq!((number(&document["takeover"], "lost"), number(&document, "live")), (0, 0), "{document}");
    number(&document["takeover"], "handed_over")
}

/// A peer that sends much and reads nothing, until the server keeps bytes for it. Returns how much it sent.
fn stuff(stream: &mut TcpStream, seed: u8) -> Vec<u8> {
    stream.set_nonblocking(true).unwrap();
    let mut sent: Vec<u8> = Vec::new();
    let mut quiet = 0;
    // When nothing moves for a while all buffers between the two are full.
    while quiet < 20 {
        let next: Vec<u8> = (0..10_000u32).map(|at| (at + sent.len() as u32) as u8 ^ (at >> 8) as u8 ^ seed).collect();
        match stream.write(&next) {
            Ok(taken) => {
                sent.extend(&next[..taken]);
                quiet = 0;
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock);
                quiet += 1;
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }
    stream.set_nonblocking(false).unwrap();
    sent
}

/// Everything comes back that was sent.
fn unstuff(stream: &mut TcpStream, sent: &[u8]) {
    let mut back = vec![0; sent.len()];
    stream.read_exact(&mut back).unwrap();
    assert!(back == sent, "other bytes came back");
}

/// Three servers take each other's place, while some connections talk without a pause, others say nothing, one reads
/// nothing, and new ones come.
fn in_turn(ip: IpAddr, arguments: &str) {
    let house = House::new(ip, arguments);
    let sleeps = arguments.contains("--hibernate");
    let mut server = house.server("--stats-interval 20ms");
    assert_eq!(std::fs::metadata(house.path()).unwrap().permissions().mode() & 0o777, 0o600);
    let (mut silent, mut talking) = (house.crowd(150), house.crowd(60));
    // They sleep and wake again and again, also while they change hands.
    let mut dozing = house.crowd(40);
    let mut slow = house.connect(0);
    let stuffed = stuff(&mut slow, 7);
    if sleeps {
        eventually("the silent ones sleep", || counts(&server.running).1 >= 150);
    }
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _ends = SetAtEnd(&over);
        let talk = scope.spawn(|| {
            let mut rounds = 0;
            while !over.load(Ordering::Relaxed) {
                audit(&mut talking, "talk");
                rounds += 1;
            }
            rounds
        });
        let doze = scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                audit(&mut dozing, "doze");
                std::thread::sleep(Duration::from_millis(350));
            }
        });
        let mut come = Vec::new();
        let mut expected = 251;
        for turn in 0..3u64 {
            // Connections that come at this moment, some of which no server has accepted yet.
            let waiting: Vec<_> = (0..20).map(|number| house.connect(number)).collect();
            let next = house.server("--stats-interval 20ms");
            let took = number(&ready(&next.running), "taken_over");
            let gave = handed_over(std::mem::replace(&mut server, next));
            assert_eq!(took, gave, "turn {turn}");
            expected += 20;
            // Those that were not accepted yet are no connections of the old server.
            assert!(gave <= expected && gave + 20 >= expected, "turn {turn}: {gave} of {expected}");
            come.extend(waiting);
            audit(&mut come, "come");
        }
        over.store(true, Ordering::Relaxed);
        assert!(talk.join().unwrap() > 0);
        doze.join().unwrap();
        eventually("the server has all", || counts(&server.running).0 == expected);
    });
    audit(&mut silent, "good morning");
    audit(&mut talking, "and you");
    unstuff(&mut slow, &stuffed);
    assert!(answers(&mut slow));
    audit(&mut dozing, "still dozing");
    if sleeps {
        eventually("all sleep again, and are counted", || {
            let (live, asleep) = counts(&server.running);
            live == asleep && live >= 251
        });
    }
    let new = house.crowd(40);
    drop((silent, talking, dozing, slow, new));
    let ended = server.stop().last_document();
    assert_eq!(number(&ended["takeover"], "lost"), 0);
    all_accepted(&ended);
    assert!(!house.path().exists(), "the socket remains");
}

/// Each shard of a server has accepted connections.
fn all_accepted(document: &Value) {
    let accepted: Vec<_> =
        document["shards"].as_array().unwrap().iter().map(|shard| number(shard, "accepted")).collect();
    assert!(accepted.len() == 2 && !accepted.contains(&0), "{accepted:?}");
}

/// Where servers listen: at an address of IPv4, at one of IPv6, and at all of both.
const PLACES: [IpAddr; 3] =
    [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];

#[test(Network, Hibernation)]
fn servers_with_sleepers_take_each_others_place() {
    for ip in PLACES {
        in_own_network(|| in_turn(ip, "--hibernate 300ms"));
    }
}

#[test(Network, Hibernation)]
fn servers_with_sleepers_and_polls_take_each_others_place() {
    in_own_network(|| in_turn(Ipv4Addr::LOCALHOST.into(), "--hibernate 100ms --park poll"));
}

#[test(Network)]
fn servers_take_each_others_place() {
    for ip in PLACES {
        in_own_network(|| in_turn(ip, ""));
    }
}

#[test(Network)]
fn servers_with_polls_take_each_others_place() {
    in_own_network(|| in_turn(Ipv4Addr::LOCALHOST.into(), "--park poll"));
}

/// Connections that are awake: many more than `stalled` lets the successor have. Each of its two shards has slots for 50.
/// Up to four batches of 64 are on their way to it: they wait in the channel, in the thread that reads it, in the shard's
/// queue, and for slots.
const TALKERS: usize = 1_000;

/// Connections that sleep.
const SILENT: usize = 60;

/// A successor that has no slots for so many who are awake, so that it is in the middle for as long as the test wants.
fn stalled(house: &House, server: &Server, talkers: usize) -> Running {
    let mut successor = house.starting("--hibernate 1h --awake 100");
    // It prints nothing before it has all; the server that runs counts what it has no more.
    eventually("some are handed over", || {
        assert!(!successor.has_ended(), "{}", successor.err());
        let (live, asleep) = counts(&server.running);
        asleep == 0 && live < talkers as u64
    });
    successor
}

/// Some sleep, and some are kept awake by words now and then.
fn half_asleep(house: &House, server: &Server, talkers: usize) -> (Vec<TcpStream>, Vec<TcpStream>) {
    let silent = house.crowd(SILENT);
    eventually("the silent ones sleep", || counts(&server.running).1 == SILENT as u64);
    (silent, house.crowd(talkers))
}

/// A server and its successor, in the middle of a takeover.
struct Middle {
    server: Server,
    successor: Running,
    silent: Vec<TcpStream>,
    talking: Vec<TcpStream>,
}

/// A successor has taken the `SILENT`, and some of the `TALKERS`. On a busy machine talkers fall asleep before it asks for
/// them, and those that sleep need no slot: then all is tried once more, with longer until they sleep.
fn in_the_middle(house: &House) -> Middle {
    in_ever_longer_times("talkers stay awake", |seconds| {
        let server = house.server(&format!("--hibernate {seconds}s --stats-interval 20ms"));
        let (silent, talking) = half_asleep(house, &server, TALKERS);
        let successor = stalled(house, &server, TALKERS);
        let told = server.running.last_event("stats").unwrap();
        let put_to_sleep = number(&told["hibernation"], "hibernated");
        if put_to_sleep == SILENT as u64 {
            return Some(Middle { server, successor, silent, talking });
        }
        successor.signal(libc::SIGKILL);
        successor.wait();
        server.running.signal(libc::SIGKILL);
        server.running.wait();
        house.until_its_ports_are_free();
        None
    })
}

/// A successor that is killed in the middle: who it had taken is lost, and counted; the others notice nothing, sleepers
/// among them.
#[test(Network, Hibernation)]
fn a_server_serves_on_when_its_successor_is_killed() {
    in_own_network(|| {
        let house = House::new(Ipv4Addr::LOCALHOST.into(), "");
        let Middle { server, successor, mut silent, mut talking } = in_the_middle(&house);
        // Who connects now waits in an accept queue, with the successor's program.
        successor.pause();
        let mut queued: Vec<_> = (0..8).map(|number| house.connect(number)).collect();
        // Those that wait for a slot are with the successor, and those that it has not asked for are served.
        successor.signal(libc::SIGKILL);
        successor.wait();
        eventually("the server says so", || server.running.err().contains("the later server is gone"));
        audit(&mut queued, "at last");
        // Their sockets are looked at for some 0.2 s after that. From then on only the server's own program announces what comes.
        std::thread::sleep(Duration::from_secs(1));
        audit(&mut queued, "heard");
        let gone = talking.iter_mut().map(answers).filter(|answers| !answers).count();
        assert!(gone > 0 && gone < TALKERS, "{gone} of {TALKERS} are lost");
        audit(&mut silent, "still there");
        let mut new = house.crowd(10);
        audit(&mut new, "newcomers");
        // It can be taken over as ever.
        let next = house.server("--hibernate 2s");
        assert_eq!(number(&ready(&next.running), "taken_over") as usize, SILENT + 18 + TALKERS - gone);
        let ended = server.running.wait();
        assert_eq!(ended.code(), 0, "{}", ended.err);
        audit(&mut silent, "and now");
        next.stop();
    });
}

/// A server that is killed while it hands over: its sleepers are with the successor, and of those that were awake the
/// ones that it had given.
#[test(Network, Hibernation)]
fn a_successor_serves_when_the_server_before_is_killed() {
    in_own_network(|| {
        let house = House::new(Ipv4Addr::LOCALHOST.into(), "");
        let Middle { server, mut successor, mut silent, talking } = in_the_middle(&house);
        server.running.signal(libc::SIGKILL);
        server.running.wait();
        // Slots become free, for those that the successor has already.
        drop(talking);
        successor.until_ready();
        assert!(number(&ready(&successor), "lost_in_takeover") > 0);
        audit(&mut silent, "still there");
        let mut new = house.crowd(10);
        audit(&mut new, "newcomers");
        successor.signal(libc::SIGTERM);
        assert_eq!(successor.wait().code(), 0);
    });
}

/// A server that is told to stop while it hands over ends when it has handed over, and closes no connection.
#[test(Network, Hibernation)]
fn a_signal_while_handing_over_closes_no_connection() {
    in_own_network(|| {
        let house = House::new(Ipv4Addr::LOCALHOST.into(), "");
        let Middle { server, mut successor, mut silent, mut talking } = in_the_middle(&house);
        server.running.signal(libc::SIGTERM);
        let mut stays = talking.split_off(TALKERS - 20);
        drop(talking);
        successor.until_ready();
        assert_eq!(server.running.wait().code(), 0);
        audit(&mut silent, "still there");
        audit(&mut stays, "so are we");
        successor.signal(libc::SIGTERM);
        assert_eq!(successor.wait().code(), 0);
    });
}

/// A server is killed, and the next one has all that slept.
fn survive_a_kill(ip: IpAddr, arguments: &str) {
    let house = House::new(ip, arguments);
    let mut manager = Manager::new();
    let arguments = house.arguments("--stats-interval 20ms");
    let start = |manager: &mut Manager| manager.start(&house, &arguments);
    let mut server = start(&mut manager);
    // The listeners, three maps and the terms; and of each shard its ring buffer, entries and addresses.
    let listeners = if house.arguments.contains("--port-sharing all") { 2 * 2 } else { 2 };
    assert_eq!(manager.names().len(), listeners + 3 + 1 + 2 * 3, "{:?}", manager.names());
    let mut silent = house.crowd(300);
    let mut all_lost = 0;
    for turn in 0..3 {
        eventually("all sleep", || counts(&server.running) == (300, 300));
        let mut awake = house.crowd(20);
        server.running.signal(libc::SIGKILL);
        server.running.wait();
        // A segment that comes while no server is there; and connections that wait in the accept queue.
        silent[turn].write_all(b"anybody?").unwrap();
        let mut early: Vec<_> = (0..40).map(|number| house.connect(number)).collect();
        server = start(&mut manager);
        let said = ready(&server.running);
        let [taken, lost] = ["taken_over", "lost_in_takeover"].map(|name| number(&said, name));
        let mut back = [0; 8];
        silent[turn].read_exact(&mut back).unwrap();
        assert_eq!(back, *b"anybody?");
        audit(&mut early, "early");
        audit(&mut silent, "good morning");
        // On a busy machine some have fallen asleep before the server was killed. The others are connections without a server.
        let asleep = awake.iter_mut().map(answers).filter(|answers| *answers).count() as u64;
        assert_eq!((taken, lost), (300 + asleep, 20 - asleep), "turn {turn}");
        all_lost += lost;
    }
    assert!(all_lost > 0, "all had fallen asleep before the server was killed");
    all_accepted(&server.stop().last_document());
}

#[test(Network, Hibernation)]
fn sleepers_survive_a_kill_with_a_service_manager() {
    for ip in PLACES {
        in_own_network(|| survive_a_kill(ip, "--hibernate 200ms"));
    }
}

/// What was left in a form that does not fit is refused, and still there for who can take it.
#[test(Network, Hibernation)]
fn what_was_left_is_refused_where_it_does_not_fit() {
    in_own_network(|| {
        let house = House::new(Ipv4Addr::LOCALHOST.into(), "--hibernate 200ms");
        let mut manager = Manager::new();
        let arguments = house.arguments("--stats-interval 20ms");
        let server = manager.start(&house, &arguments);
        let mut silent = house.crowd(50);
        eventually("all sleep", || counts(&server.running) == (50, 50));
        server.running.signal(libc::SIGKILL);
        server.running.wait();
        let other = house.arguments("").replace("--cores 2", "--cores 1");
        let refused = run_as(manager.service(), &server_arguments(house.port, house.ports, &other));
        refused.fails_with(3, &["cannot be taken over", "it has 2 shards, and this one shall have 1"]);
        let server = manager.start(&house, &arguments);
        audit(&mut silent, "good morning");
        server.stop();
    });
}

#[test(Network)]
fn a_server_is_taken_over_by_none_that_does_not_fit() {
    in_own_network(|| {
        let house = House::new(Ipv4Addr::LOCALHOST.into(), "");
        let server = house.server("");
        let mut crowd = house.crowd(20);
        let refused = |arguments: &str, words: &str| {
            let ended = run(&server_arguments(house.port, house.ports, arguments));
            ended.fails_with(3, &["cannot be taken over", words]);
        };
        let usual = house.arguments("");
        refused(&usual.replace("--cores 2", "--cores 1"), "2 shards");
        refused(&usual.replace("127.0.0.1", "0.0.0.0"), "listens on 127.0.0.1");
        refused(&usual.replace("3000", "2000"), "3000 connections");
        let ended = run(&server_arguments(house.port + 1, house.ports, &usual));
        ended.fails_with(3, &["cannot be taken over", "has ports 9000-9000"]);
        audit(&mut crowd, "still there");
        // A successor of another version, and one that is none.
        let greeted = |hello: &Hello| {
            let channel = Channel::over(UnixStream::connect(house.path()).unwrap());
            channel.send(Kind::Hello, &to_bytes(hello).unwrap(), &[]).unwrap();
            channel.receive().unwrap().unwrap()
        };
        let answer = greeted(&Hello { format: FORMAT + 1, version: "9.9".to_owned() });
        assert_eq!(answer.kind, Kind::Refused);
        assert!(String::from_utf8_lossy(&answer.body).contains("takes format"), "{answer:?}");
        UnixStream::connect(house.path()).unwrap().write_all(&[0xff; 100]).unwrap();
        assert_eq!(greeted(&Hello::ours()).kind, Kind::Descriptors, "and goes away without a word");
        audit(&mut crowd, "still there");
        server.stop();
    });
}

/// A server that plays the one that runs, and tells `terms`.
fn told(path: &Path, terms: impl Fn(&Terms) -> Option<Vec<u8>> + Send) -> impl FnOnce() + Send {
    let listener = UnixListener::bind(path).unwrap();
    move || {
        let (socket, _) = listener.accept().unwrap();
        let channel = Channel::over(socket);
        let hello: Hello = of_bytes(&channel.expect(Kind::Hello).unwrap().body).unwrap();
        if let Some(body) = terms(&terms_of(hello)) {
            channel.send(Kind::Terms, &body, &[]).unwrap();
        }
    }
}

/// What this process might tell of itself.
fn terms_of(hello: Hello) -> Terms {
    Terms {
        hello,
        bind: "127.0.0.1".to_owned(),
        shards: Vec::new(),
        connections: 1,
        awake: None,
        backlog: 1,
        catcher: None,
        speaks: Speaks::default(),
        network: None,
        process: std::process::id(),
    }
}

#[test(Network)]
fn a_server_takes_over_from_none_that_does_not_fit() {
    in_own_network(|| {
        let newer = |terms: &Terms| {
            let hello = Hello { format: FORMAT + 1, version: "9.9".to_owned() };
            Some(to_bytes(&Terms { hello, ..terms.clone() }).unwrap())
        };
        type Told = fn(&Terms) -> Option<Vec<u8>>;
        let cases: [(Told, &str); 3] = [
            (newer, "c1m 9.9 hands over in format"),
            (|_| Some(b"no terms".to_vec()), "does not answer as a server does"),
            (|_| None, "does not answer as a server does"),
        ];
        for (terms, words) in cases {
            let house = House::new(Ipv4Addr::LOCALHOST.into(), "");
            let path = house.path();
            let server = told(&path, terms);
            std::thread::scope(|scope| {
                scope.spawn(server);
                let ended = run(&server_arguments(house.port, house.ports, &house.arguments("")));
                ended.fails_with(3, &[words]);
            });
        }
        // No server is there, and the path is no place for a socket. No client is accepted first.
        let house = House::new(Ipv4Addr::LOCALHOST.into(), "");
        std::fs::write(house.path(), "a file").unwrap();
        std::fs::create_dir(house.dir.path().join("folder")).unwrap();
        std::os::unix::fs::symlink("nothing", house.dir.path().join("link")).unwrap();
        let long = format!("{}x", "./".repeat(54));
        for (path, words) in [
            ("takeover", "ENOTSOCK"),
            ("folder", "ENOTSOCK"),
            ("link", "ENOENT"),
            ("nowhere/takeover", "ENOENT"),
            ("takeover/x", "ENOTDIR"),
            (&long, "ENAMETOOLONG"),
        ] {
            let arguments = format!("--max-connections 10 --json - --takeover {path}");
            let mut command = c1m();
            command.current_dir(house.dir.path());
            let ended = run_as(command, &server_arguments(house.port, house.ports, &arguments));
            ended.fails_with(3, &["take over at", words, "could not ask there"]);
            assert_eq!(ended.out, "", "{path}");
        }
        assert_eq!(std::fs::read_to_string(house.path()).unwrap(), "a file");
    });
}

/// What a server that was killed left of its socket does not keep the next one from starting.
#[test(Network)]
fn a_server_starts_afresh_where_none_answers() {
    in_own_network(|| {
        let house = House::new(Ipv4Addr::LOCALHOST.into(), "");
        let server = house.server("");
        server.running.signal(libc::SIGKILL);
        server.running.wait();
        assert!(house.path().exists());
        house.until_its_ports_are_free();
        let server = house.server("");
        assert_eq!(number(&ready(&server.running), "taken_over"), 0);
        audit(&mut house.crowd(5), "afresh");
        server.stop();
    });
}
