//! Takeovers that end half-way, as one of the two processes is killed: no connection goes on in two ways, and none is lost
//! that was not in the process which is gone. Most are of TLS.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::mpsc::channel;

use c1m::internal::takeover::{Channel, Hello, Kind, Message, of_bytes, to_bytes};
use c1m::{Cores, Ports, Server as Library, ServerEvent};
use rustls::ClientConfig;
use socket2::{Domain, Socket, Type};

use super::spoken::says;
use super::*;
use crate::hibernation::Pusher;
use crate::memory::Cgroup;
use crate::network;

/// Tells this executable to play a successor: the path of the takeover, and the stage that it goes to.
pub const SUCCESSOR: &str = "C1M_TEST_SUCCESSOR";

/// Tells it to close its ends of the channels then, as a successor that fails, and to live on.
const GIVES_UP: &str = "C1M_TEST_SUCCESSOR_GIVES_UP";

/// The messages after which a successor says nothing more to a shard: what it was told last is not acknowledged.
const STAGES: [Kind; 4] = [Kind::KnownSleepers, Kind::Sleepers, Kind::Serving, Kind::Batch];

/// Plays a successor that takes what it is given up to a stage, and then stands still until it is killed.
pub fn stand_still(told: &str) {
    let (stage, path) = told.split_once(' ').unwrap();
    let stage = STAGES[stage.parse::<usize>().unwrap()];
    let control = Channel::over(UnixStream::connect(path).unwrap());
    control.send(Kind::Hello, &to_bytes(&Hello::ours()).unwrap(), &[]).unwrap();
    let mut shards = Vec::new();
    while let Message { kind: Kind::Descriptors, body, descriptors } = control.receive().unwrap().unwrap() {
        let names: Vec<String> = of_bytes(&body).unwrap();
        let channels = names.iter().zip(descriptors).filter(|(name, _)| name.starts_with("channel-"));
        shards.extend(channels.map(|(_, descriptor)| Channel::over(UnixStream::from(descriptor))));
    }
    control.send(Kind::Begin, &[], &[]).unwrap();
    control.expect(Kind::Begin).unwrap();
    let (stands, standing) = channel();
    let number = shards.len();
    for shard in shards {
        let stands = stands.clone();
        std::thread::spawn(move || {
            // Its sockets stay open as long as this process lives.
            let mut kept = Vec::new();
            loop {
                let message = shard.receive().unwrap().unwrap();
                let kind = message.kind;
                kept.push(message);
                // A shard without connections that are awake has done all that it can.
                if kind == stage || kind == Kind::Done {
                    break;
                }
                shard.send(Kind::Taken, &[], &[]).unwrap();
                if kind == Kind::Sleepers && stage == Kind::Serving {
                    break;
                }
                if kind == Kind::Sleepers {
                    shard.send(Kind::Serving, &[], &[]).unwrap();
                }
            }
            stands.send((shard, kept)).unwrap();
            loop {
                std::thread::park();
            }
        });
    }
    let all: Vec<_> = (0..number).map(|_| standing.recv().unwrap()).collect();
    let (shards, _kept): (Vec<_>, Vec<_>) = all.into_iter().unzip();
    let _open = std::env::var_os(GIVES_UP).is_none().then_some(shards);
    println!("stands still");
    loop {
        std::thread::park();
    }
}

/// Servers of TLS, and a client of them.
fn tls_house() -> (House, Arc<ClientConfig>, Authority) {
    let authority = Authority::new();
    let signed = authority.sign("server", &["localhost"]);
    let config = Arc::new(authority.client(None));
    let house = House::new(Ipv4Addr::LOCALHOST.into(), &format!("{} --hibernate 500ms", signed.server()));
    (house, config, authority)
}

/// A successor that stands still at a stage.
fn standing_still(house: &House, stage: usize, settings: &[&str]) -> Running {
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    command.env(SUCCESSOR, format!("{stage} {}", house.path().display()));
    command.envs(settings.iter().map(|name| (name, "1")));
    let mut successor = Running::start(command);
    successor.until("it stands still", |out| out.contains("stands still"));
    successor
}

/// A successor that has given up, and does not end, has the names for new connections: these wait, the operator is told what
/// to do, and they are served once it has ended.
#[test(Network, Hibernation)]
fn newcomers_wait_for_the_end_of_a_successor_that_gave_up() {
    in_own_network(|| {
        let house = House::new(Ipv4Addr::LOCALHOST.into(), "--hibernate 500ms");
        let server = house.server("--stats-interval 20ms");
        let mut silent = house.crowd(4);
        eventually("all sleep", || counts(&server.running) == (4, 4));
        let successor = standing_still(&house, 1, &[GIVES_UP]);
        let advice = format!("kill -9 {}", successor.pid());
        eventually("the server says what to do", || server.running.err().contains(&advice));
        let mut new: Vec<_> = (0..2).map(|number| house.connect(number)).collect();
        new.iter_mut().for_each(|stream| stream.write_all(b"early ").unwrap());
        successor.signal(libc::SIGKILL);
        successor.wait();
        let mut early = [0; 6];
        new.iter_mut().for_each(|stream| stream.read_exact(&mut early).unwrap());
        audit(&mut new, "newcomers");
        audit(&mut silent, "still there");
        server.stop();
    });
}

/// A successor that says nothing may have what it was sent: it is waited for, the operator is told which process it is, and
/// all goes on once that has ended.
#[test(Network)]
fn a_successor_that_stands_still_is_named() {
    in_own_network(|| {
        let house = House::new(Ipv4Addr::LOCALHOST.into(), "");
        let server = house.server("--stats-interval 20ms");
        let mut crowd = house.crowd(4);
        let successor = standing_still(&house, 1, &[]);
        let line = format!("process {}, does not answer", successor.pid());
        eventually("the server says so", || server.running.err().contains(&line));
        audit(&mut crowd, "still here");
        successor.signal(libc::SIGKILL);
        successor.wait();
        audit(&mut house.crowd(2), "welcome");
        audit(&mut crowd, "still here");
        let ended = server.stop();
        assert_eq!(ended.err.matches("does not answer").count(), 1, "{}", ended.err);
    });
}

/// While a server hands over, its listeners are its successor's too: they are not shut down as its own memory is short. They
/// are once the successor is gone.
#[test(Network, MemoryCgroup)]
fn a_shortage_of_memory_shuts_no_listener_of_a_successor() {
    in_own_network(|| {
        let house = House::new(Ipv4Addr::LOCALHOST.into(), "--memory-reserve 80MiB --stats-interval 20ms");
        let cgroup = Cgroup::with_limit(1 << 30).unwrap();
        let server = Server::start_as_at(cgroup.command(), house.port, house.ports, &house.arguments(""));
        let mut crowd = house.crowd(4);
        let successor = standing_still(&house, 1, &[]);
        cgroup.leave(10 << 20);
        eventually("memory is short", || server.running.err().contains("left, 80.0 MiB reserved"));
        let _newcomer = house.connect(0);
        successor.signal(libc::SIGKILL);
        successor.wait();
        let at = SocketAddr::new(house.ip, house.port);
        eventually("nothing listens", || TcpStream::connect(at).is_err());
        cgroup.leave(1 << 30);
        eventually("memory came back", || server.running.err().contains("memory suffices again"));
        audit(&mut house.crowd(2), "welcome");
        audit(&mut crowd, "still here");
        server.stop();
    });
}

/// Wherever a successor is killed that has served no connection, the server before has everything, keys and numbers too:
/// what is sealed with a number that was used, or is left out, no client of TLS would open.
#[test(Network, Hibernation)]
fn a_successor_that_is_killed_at_any_stage_takes_nothing_along() {
    in_own_network(|| {
        let (house, config, _authority) = tls_house();
        let server = house.server("--stats-interval 20ms");
        let mut silent: Vec<_> = (0..8).map(|number| house.secure(number, &config)).collect();
        let mut talking: Vec<_> = (0..4).map(|number| house.secure(number, &config)).collect();
        for (at, stage) in STAGES.into_iter().enumerate() {
            eventually("all sleep", || counts(&server.running) == (12, 12));
            talking.iter_mut().for_each(|stream| says(stream, &format!("awake for {stage:?}")));
            let successor = standing_still(&house, at, &[]);
            successor.signal(libc::SIGKILL);
            successor.wait();
            let gone = |err: &str| err.matches("the later server is gone").count() == at + 1;
            eventually("the server says so", || gone(&server.running.err()));
            let all = silent.iter_mut().chain(&mut talking).enumerate();
            all.for_each(|(number, stream)| says(stream, &format!("{number} after {stage:?}")));
        }
        // It can be taken over as ever.
        let next = house.server("--stats-interval 20ms");
        assert_eq!(server.running.wait().code(), 0);
        assert_eq!(number(&ready(&next.running), "taken_over"), 12);
        silent.iter_mut().chain(&mut talking).for_each(|stream| says(stream, "and now"));
        assert_eq!(counts_of_loss(next), 0);
    });
}

/// What waits for a sleeper, here until a route is there again, comes back from a successor that was killed.
#[test(Network, Hibernation)]
fn what_waits_for_a_sleeper_comes_back_with_it() {
    in_own_network(|| {
        let here = Ipv4Addr::new(10, 77, 0, 1);
        network::address(c"lo", here, 32);
        let house = House { ports: 1, ..House::new(here.into(), "") };
        let (tell, told) = channel();
        let builder = Library::builder().bind(here).ports(Ports::new(house.port, 1).unwrap()).cores(Cores::Count(1));
        let builder = builder.max_connections(100).hibernate(Duration::from_millis(100)).takeover(house.path());
        let server = builder.start(move |_| Pusher(tell.clone())).unwrap();
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
        socket.connect(&SocketAddr::from((here, house.port)).into()).unwrap();
        let mut stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        assert!(answers(&mut stream));
        eventually("it sleeps", || server.counters()[0].asleep == 1);
        network::remove_address(c"lo", here, 32);
        server.mailbox().send(0, b"later".to_vec()).map_err(drop).unwrap();
        told.recv_timeout(PATIENCE).unwrap();
        let successor = standing_still(&house, 1, &[]);
        successor.signal(libc::SIGKILL);
        successor.wait();
        while server.events().recv_timeout(PATIENCE).unwrap() != ServerEvent::SuccessorGone {}
        network::address(c"lo", here, 32);
        let mut heard = [0; 5];
        stream.read_exact(&mut heard).unwrap();
        assert_eq!(heard, *b"later");
        assert!(answers(&mut stream));
        server.stop();
        server.join().map(drop).unwrap();
    });
}

/// A server that was told to stop while it hands over stops when its successor is killed. Each connection ends, and hears
/// nothing but what it said.
#[test(Network, Hibernation)]
fn a_server_that_is_to_stop_does_so_when_its_successor_is_killed() {
    in_own_network(|| {
        let house = House::new(Ipv4Addr::LOCALHOST.into(), "");
        let Middle { server, successor, silent, mut talking } = in_the_middle(&house);
        server.running.signal(libc::SIGTERM);
        let said: Vec<_> = (0..TALKERS).map(|number| format!("last words {number};")).collect();
        talking.iter_mut().zip(&said).for_each(|(stream, words)| stream.write_all(words.as_bytes()).unwrap());
        successor.signal(libc::SIGKILL);
        successor.wait();
        let ended = server.running.wait();
        assert_eq!(ended.code(), 0, "{}{}", ended.out, ended.err);
        let document = ended.last_document();
        assert_eq!(number(&document, "live"), 0, "{document}");
        for (mut stream, words) in talking.into_iter().zip(said) {
            let heard = last_words(&mut stream);
            assert!(words.as_bytes().starts_with(&heard), "{words} {}", String::from_utf8_lossy(&heard));
        }
        silent.into_iter().for_each(|mut stream| assert_eq!(last_words(&mut stream), b""));
        assert!(!house.path().exists(), "the socket remains");
        house.until_its_ports_are_free();
    });
}

/// Stops a server, and returns how many connections it lost in takeovers.
fn counts_of_loss(server: Server) -> u64 {
    number(&server.stop().last_document()["takeover"], "lost")
}

/// A takeover of which all is done but for one handshake that does not go on, for which the server before waits a while.
struct HalfWay {
    house: House,
    config: Arc<ClientConfig>,
    server: Server,
    successor: Running,
    silent: Vec<Secure>,
    talking: Vec<Secure>,
    _shaking: TcpStream,
    _authority: Authority,
}

impl HalfWay {
    fn new() -> HalfWay {
        let (house, config, authority) = tls_house();
        let server = house.server("--stats-interval 20ms");
        let mut silent: Vec<_> = (0..8).map(|number| house.secure(number, &config)).collect();
        silent.iter_mut().for_each(|stream| says(stream, "good night"));
        eventually("they sleep", || counts(&server.running) == (8, 8));
        let mut shaking = house.connect(0);
        shaking.write_all(&[22, 3, 1, 2, 0, 1, 0]).unwrap();
        eventually("the handshake begins", || counts(&server.running).0 == 9);
        let mut talking: Vec<_> = (0..4).map(|number| house.secure(number, &config)).collect();
        talking.iter_mut().for_each(|stream| says(stream, "awake"));
        let mut successor = house.starting("--stats-interval 20ms");
        eventually("the others are handed over", || {
            assert!(!successor.has_ended(), "{}", successor.err());
            counts(&server.running).0 == 1
        });
        HalfWay { house, config, server, successor, silent, talking, _shaking: shaking, _authority: authority }
    }
}

/// Whether the server's end of a connection has a socket.
fn has_socket(stream: &TcpStream) -> bool {
    let hexadecimal = |end: SocketAddr| format!(":{:04X}", end.port());
    let (remote, local) = (hexadecimal(stream.local_addr().unwrap()), hexadecimal(stream.peer_addr().unwrap()));
    let sockets = std::fs::read_to_string("/proc/thread-self/net/tcp").unwrap();
    sockets.lines().any(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let mut ends_with = |port: &str| fields.next().is_some_and(|end| end.ends_with(port));
        ends_with(&local) && ends_with(&remote)
    })
}

/// The server before goes on with those that sleep, but for one that has spoken with the successor: its numbers were used
/// there.
#[test(Network, Hibernation)]
fn what_spoke_with_a_successor_that_was_killed_is_reset() {
    in_own_network(|| {
        let HalfWay { house, config, server, successor, mut silent, mut talking, _shaking, _authority } =
            HalfWay::new();
        // Stopped, so that the takeover stays where it is.
        server.running.pause();
        let mut spoke = silent.remove(1);
        says(&mut spoke, "who is there?");
        eventually("it sleeps again, in the successor", || !has_socket(&spoke.sock));
        says(&mut talking[0], "and who?");
        successor.signal(libc::SIGKILL);
        successor.wait();
        server.running.signal(libc::SIGCONT);
        eventually("the server says so", || server.running.err().contains("the later server is gone"));
        let mut heard = [0; 100];
        assert_eq!(spoke.sock.read(&mut heard).unwrap_err().kind(), ErrorKind::ConnectionReset);
        silent.iter_mut().for_each(|stream| says(stream, "still there"));
        // A connection that fell asleep before it was handed over goes on, as the silent ones do.
        let gone = talking.iter_mut().map(answers).filter(|answers| !answers).count() as u64;
        assert!(gone > 0, "the first has spoken with the successor");
        says(&mut house.secure(0, &config), "afresh");
        assert_eq!(counts_of_loss(server), 1 + gone);
    });
}

/// The successor goes on with all that it was given, those that sleep and those that are awake.
#[test(Network, Hibernation)]
fn a_successor_goes_on_with_what_it_has_when_the_server_before_is_killed() {
    in_own_network(|| {
        let HalfWay { house, config, server, mut successor, mut silent, mut talking, _shaking, _authority } =
            HalfWay::new();
        server.running.signal(libc::SIGKILL);
        server.running.wait();
        successor.until_ready();
        let said = ready(&successor);
        assert_eq!((number(&said, "taken_over"), number(&said, "lost_in_takeover")), (8 + 4, 1), "{said}");
        silent.iter_mut().chain(&mut talking).for_each(|stream| says(stream, "still there"));
        says(&mut house.secure(0, &config), "newcomer");
        successor.signal(libc::SIGTERM);
        assert_eq!(successor.wait().code(), 0);
    });
}
