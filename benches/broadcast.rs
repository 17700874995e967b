//! Recipients of a broadcast per second on one core: a loop of plain send(2) over sockets, a shard of c1m that broadcasts
//! the same bytes to as many connections, and a shard of `c1m server --service push --protocol websocket`, to which a
//! publisher sends them. Then what the shard's other connections feel of it: their echoes meanwhile.
//!
//!     cargo bench --bench broadcast -- --rounds 7
//!
//! The bytes are a text of WebSocket with a payload of 64 bytes, which is what the push service sends to each subscriber.
//! Its time counts from the publisher's send to the last subscriber's, so it reads and frames the publications too.
//!
//! Sending over loopback delivers at once, on the sender's core, so both sides pay for both ends of TCP. Nothing reads
//! while the clock runs; what is sent in one round fits the sockets, and is read before the next.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use bench_support::compare::{self, Effort, median, thousands};
use bench_support::sys;
use c1m::internal::host::Host;
use c1m::push::{Push, PushMessage};
use c1m::websocket::WebSocket;
use c1m::{Broadcast, ConnId, Cores, Ctx, Ports, Reply, Server, Service};

const SERVER_CORE: usize = 0;
const CLIENT_CORE: usize = 1;
/// Below the ephemeral ports, so that no client's socket can sit on them.
const PORT: u16 = 22_800;
const PORTS: u16 = 2;
/// Ports of the push service, and the port of the plain sockets' listener.
const PUSH_PORT: u16 = PORT + PORTS;
const PLAIN_PORT: u16 = PUSH_PORT + PORTS;
const PAYLOAD: [u8; 64] = [b'7'; 64];
/// A whole text with that payload, as a server sends it (RFC 6455, 5.2).
const MESSAGE: [u8; 66] = {
    let mut frame = [PAYLOAD[0]; 66];
    (frame[0], frame[1]) = (0x81, PAYLOAD.len() as u8);
    frame
};
/// Broadcasts of one round: some 100 kB of a socket's receive buffer, which has 128 KiB as a rule.
const BROADCASTS: usize = 60;
/// The pause between two echoes of the one connection that talks.
const PAUSE: Duration = Duration::from_micros(200);

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let effort = Effort::from_arguments(&arguments);
    let _turn = compare::our_turn();
    let open_files = sys::raise_open_files();
    // Both ends of the plain side are file descriptors of this process.
    let count = if effort.smoke { 200 } else { 9_000.min((open_files - 500) / 4) };
    println!(
        "{BROADCASTS} broadcasts of {} bytes to {count} connections, on core {SERVER_CORE}; rounds: {}\n{}\n",
        MESSAGE.len(),
        effort.rounds,
        compare::host()
    );
    let (mut plain, mut ours, mut pushed) = (Plain::open(count), Ours::open(count), Pushed::open(count));
    // Not before: the shards may have no other cores than the thread that starts them.
    sys::pin(CLIENT_CORE).expect("this process may use core 1");
    let mut rates = [vec![], vec![], vec![]];
    for round in 1..=effort.rounds {
        let figures = [plain.round(), ours.round(), pushed.round()];
        let [plain, ours, pushed] = figures;
        println!(
            "  round {round:>2}: plain {:>9}/s   broadcast {:>9}/s, ratio {:.3}   push service {:>9}/s, ratio {:.3}",
            thousands(plain),
            thousands(ours),
            ours / plain,
            thousands(pushed),
            pushed / plain,
        );
        figures.into_iter().zip(&mut rates).for_each(|(figure, figures)| figures.push(figure));
    }
    summary(&rates);
    drop(plain);
    ours.echoes_meanwhile();
    ours.memory(count);
    ours.server.stop();
    ours.server.join().expect("the server ends in order");
}

/// The medians, and the range of the ratios.
fn summary([plain, ours, pushed]: &[Vec<f64>; 3]) {
    println!("\n  recipients per second: plain {}", thousands(median(&mut plain.clone())));
    for (name, figures) in [("broadcast", ours), ("push service", pushed)] {
        let mut ratios: Vec<f64> = figures.iter().zip(plain).map(|(figure, plain)| figure / plain).collect();
        let (rate, middle) = (median(&mut figures.clone()), median(&mut ratios));
        let least = ratios.iter().copied().fold(f64::MAX, f64::min);
        let most = ratios.iter().copied().fold(0.0, f64::max);
        println!("  {name}: {}; median of the ratios {middle:.3} ({least:.3} to {most:.3})", thousands(rate));
    }
}

/// Sockets whose other ends a loop of send(2) serves.
struct Plain {
    near: Vec<TcpStream>,
    far: Vec<TcpStream>,
}

impl Plain {
    fn open(count: usize) -> Plain {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, PLAIN_PORT)).expect("the port is free");
        let address = listener.local_addr().expect("it is bound");
        let (mut near, mut far) = (Vec::new(), Vec::new());
        for _ in 0..count {
            far.push(TcpStream::connect(address).expect("it listens"));
            let accepted = listener.accept().expect("a connection waits").0;
            accepted.set_nodelay(true).expect("a socket takes it");
            accepted.set_nonblocking(true).expect("a socket takes it");
            near.push(accepted);
        }
        Plain { near, far }
    }

    /// Recipients per second.
    fn round(&mut self) -> f64 {
        let Plain { near, far } = self;
        let took = std::thread::scope(|scope| {
            let send = scope.spawn(|| {
                sys::pin(SERVER_CORE).expect("this process may use core 0");
                let began = Instant::now();
                for _ in 0..BROADCASTS {
                    for socket in near.iter_mut() {
                        assert_eq!(socket.write(&MESSAGE).expect("there is room"), MESSAGE.len());
                    }
                }
                began.elapsed()
            });
            send.join().expect("it only sends")
        });
        drain(far);
        (near.len() * BROADCASTS) as f64 / took.as_secs_f64()
    }
}

/// Reads what one round sent.
fn drain(sockets: &mut [TcpStream]) {
    let mut bytes = vec![0; BROADCASTS * MESSAGE.len()];
    for socket in sockets {
        socket.read_exact(&mut bytes).expect("all was sent");
        assert!(bytes.chunks(MESSAGE.len()).all(|message| message == MESSAGE), "other bytes");
    }
}

/// Begins the broadcasts of a round when it is told to, and tells how long they took. Echoes.
struct Broadcaster {
    began: Option<(Instant, Sender<Duration>)>,
}

impl Service for Broadcaster {
    type State = ();
    type Message = Sender<Duration>;

    fn received(&mut self, _: &mut Ctx<'_, ()>, _: ConnId, data: &mut [u8]) -> Reply {
        Reply::Back(0..data.len())
    }

    fn message(&mut self, ctx: &mut Ctx<'_, ()>, done: Sender<Duration>) {
        self.began = Some((Instant::now(), done));
        let bytes: Arc<[u8]> = MESSAGE.into();
        for _ in 0..BROADCASTS {
            ctx.broadcast(Broadcast::to_all(bytes.clone())).expect("few are under way");
        }
    }

    fn tick(&mut self, ctx: &mut Ctx<'_, ()>) {
        if ctx.broadcasts() == 0
            && let Some((began, done)) = self.began.take()
        {
            done.send(began.elapsed()).expect("the bench waits for it");
        }
    }

    fn interval(&self) -> Option<Duration> {
        Some(Duration::from_millis(1))
    }
}

/// A shard of c1m, and its clients.
struct Ours {
    server: Server<Sender<Duration>>,
    clients: Vec<TcpStream>,
}

impl Ours {
    fn open(count: usize) -> Ours {
        let ports = Ports::new(PORT, PORTS).expect("they are ports");
        let builder = Server::builder().bind(Ipv4Addr::LOCALHOST).ports(ports).cores(Cores::List(vec![SERVER_CORE]));
        let server = builder.start(|_| Broadcaster { began: None }).expect("the host lets it start");
        let clients = (0..count).map(|number| connect(PORT, number)).collect();
        while server.counters().iter().map(|shard| shard.live).sum::<u64>() < count as u64 {
            std::thread::yield_now();
        }
        Ours { server, clients }
    }

    fn begin(&self) -> Receiver<Duration> {
        let (sender, done) = channel();
        self.server.mailbox().send(0, sender).expect("the shard runs");
        done
    }

    /// Recipients per second.
    fn round(&mut self) -> f64 {
        let took = self.begin().recv().expect("the shard tells");
        drain(&mut self.clients);
        (self.clients.len() * BROADCASTS) as f64 / took.as_secs_f64()
    }

    /// The echoes of one connection without broadcasts, and while they run.
    fn echoes_meanwhile(&mut self) {
        let Ours { server, clients } = self;
        let mut talker = clients.pop().expect("there are some");
        talker.set_nodelay(true).expect("a socket takes it");
        let begun = Instant::now();
        let mut quiet = echoes(&mut talker, &mut || begun.elapsed() < Duration::from_secs(1), false);
        let (sender, done) = channel();
        server.mailbox().send(0, sender).expect("the shard runs");
        let mut busy = echoes(&mut talker, &mut || done.try_recv().is_err(), true);
        drain(clients);
        println!("\n  echo of a connection, every {PAUSE:?}:      median       p99       max      echoes");
        for (name, latencies) in [("alone", &mut quiet), ("while broadcasts run", &mut busy)] {
            latencies.sort_unstable();
            let at = |share: f64| latencies[((latencies.len() - 1) as f64 * share) as usize];
            println!("    {name:<32} {:>9.1?} {:>9.1?} {:>9.1?}   {:>6}", at(0.5), at(0.99), at(1.0), latencies.len());
        }
        // It got the broadcasts too, and is done with.
    }

    /// How much the process grows at most while broadcasts run.
    fn memory(&mut self, count: usize) {
        let host = Host::here();
        let before = host.resident(std::process::id()).0;
        let done = self.begin();
        let mut most = before;
        while done.try_recv().is_err() {
            most = most.max(host.resident(std::process::id()).0);
        }
        drain(&mut self.clients);
        println!(
            "\n  resident memory: {} KiB, at most {} KiB more while {BROADCASTS} broadcasts to {count} run",
            before / 1024,
            (most - before) / 1024
        );
    }
}

/// Latencies of echoes for as long as `goes_on`. Broadcasts may come between a message and its echo.
fn echoes(talker: &mut TcpStream, goes_on: &mut dyn FnMut() -> bool, broadcasts: bool) -> Vec<Duration> {
    const ASKED: [u8; MESSAGE.len()] = [9; MESSAGE.len()];
    let mut latencies = Vec::new();
    let mut bytes = [0; MESSAGE.len()];
    while goes_on() {
        let began = Instant::now();
        talker.write_all(&ASKED).expect("the server reads");
        loop {
            talker.read_exact(&mut bytes).expect("the server answers");
            if bytes == ASKED {
                break;
            }
            assert!(broadcasts && bytes == MESSAGE, "other bytes");
        }
        latencies.push(began.elapsed());
        std::thread::sleep(PAUSE);
    }
    latencies
}

/// A connection to the server at `port` and the ports behind it, in turn.
fn connect(port: u16, number: usize) -> TcpStream {
    let port = port + (number % usize::from(PORTS)) as u16;
    TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("it listens")
}

/// A shard of the push service over WebSocket, its subscribers, and a publisher.
struct Pushed {
    server: Server<PushMessage>,
    subscribers: Vec<TcpStream>,
    publisher: TcpStream,
}

impl Pushed {
    fn open(count: usize) -> Pushed {
        let ports = Ports::new(PUSH_PORT, PORTS).expect("they are ports");
        let builder = Server::builder().bind(Ipv4Addr::LOCALHOST).ports(ports).cores(Cores::List(vec![SERVER_CORE]));
        let server = builder.start(|shard| WebSocket::new(Push::new(shard.mailbox()))).expect("the host lets it start");
        let subscribers = (0..count).map(|number| upgraded(number, "/")).collect();
        Pushed { server, subscribers, publisher: upgraded(0, "/publish") }
    }

    /// Bytes that the shard has sent.
    fn sent(&self) -> u64 {
        self.server.counters().iter().map(|shard| shard.bytes_out).sum()
    }

    /// Recipients per second.
    fn round(&mut self) -> f64 {
        let all = (self.subscribers.len() * BROADCASTS) as u64;
        // A server's frame has two bytes before so short a payload.
        let until = self.sent() + all * (2 + PAYLOAD.len() as u64);
        // A client's frame has a mask, which may be 0.
        let text = [&[0x81, 0x80 | PAYLOAD.len() as u8, 0, 0, 0, 0][..], &PAYLOAD].concat();
        let publications = text.repeat(BROADCASTS);
        let began = Instant::now();
        self.publisher.write_all(&publications).expect("the server reads");
        while self.sent() < until {
            std::hint::spin_loop();
        }
        let took = began.elapsed();
        drain(&mut self.subscribers);
        all as f64 / took.as_secs_f64()
    }
}

/// A WebSocket that was opened with a request for `path`.
fn upgraded(number: usize, path: &str) -> TcpStream {
    let mut stream = connect(PUSH_PORT, number);
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).expect("the server reads");
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).expect("the server answers");
        head.extend(byte);
    }
    assert!(head.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&head));
    stream
}
