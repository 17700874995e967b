//! Recipients of a broadcast per second on one core: one c1m shard, beside a loop of plain send(2) over as many
//! sockets on the same core. Then what the shard's other connections feel of it: their echoes meanwhile.
//!
//!     cargo bench --bench broadcast -- --rounds 7
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
use c1m::{Broadcast, ConnId, Cores, Ctx, Ports, Reply, Server, Service};

const SERVER_CORE: usize = 0;
const CLIENT_CORE: usize = 1;
/// Below the ephemeral ports, so that no client's socket can sit on them.
const PORT: u16 = 22_800;
const PORTS: u16 = 2;
const MESSAGE: [u8; 64] = [7; 64];
/// Broadcasts of one round: some 100 kB of a socket's receive buffer, which has 128 KiB as a rule.
const BROADCASTS: usize = 60;
/// The pause between two echoes of the one connection that talks.
const PAUSE: Duration = Duration::from_micros(200);

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let effort = Effort::from_arguments(&arguments);
    let _turn = compare::our_turn();
    let open_files = sys::raise_open_files().expect("the limit of open files can be raised to the hard limit");
    // Both ends of the plain side are file descriptors of this process.
    let count = if effort.smoke { 200 } else { 9_000.min((open_files - 500) / 3) };
    println!(
        "{BROADCASTS} broadcasts of {} bytes to {count} connections, on core {SERVER_CORE}; rounds: {}\n{}\n",
        MESSAGE.len(),
        effort.rounds,
        compare::host()
    );
    let (mut plain, mut ours) = (Plain::open(count), Ours::open(count));
    // Not before: the shards may have no other cores than the thread that starts them.
    sys::pin(CLIENT_CORE).expect("this process may use core 1");
    let mut rates = [vec![], vec![], vec![]];
    for round in 1..=effort.rounds {
        let plain = plain.round();
        let ours = ours.round();
        println!(
            "  round {round:>2}: plain {:>9}/s   c1m {:>9}/s   ratio {:.3}",
            thousands(plain),
            thousands(ours),
            ours / plain
        );
        [plain, ours, ours / plain].into_iter().zip(&mut rates).for_each(|(figure, figures)| figures.push(figure));
    }
    let [plain_rate, our_rate, ratio] = &mut rates;
    println!(
        "\n  recipients per second: plain {}, c1m {}; median of the ratios {:.3} ({:.3} to {:.3})",
        thousands(median(plain_rate)),
        thousands(median(our_rate)),
        median(ratio),
        ratio.iter().copied().fold(f64::MAX, f64::min),
        ratio.iter().copied().fold(0.0, f64::max),
    );
    drop(plain);
    ours.echoes_meanwhile();
    ours.memory(count);
    ours.server.stop();
    ours.server.join().expect("the server ends in order");
}

/// Sockets whose other ends a loop of send(2) serves.
struct Plain {
    near: Vec<TcpStream>,
    far: Vec<TcpStream>,
}

impl Plain {
    fn open(count: usize) -> Plain {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, PORT + PORTS)).expect("the port is free");
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
        assert!(bytes.iter().all(|byte| *byte == MESSAGE[0]), "other bytes");
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
        let connect = |number| TcpStream::connect((Ipv4Addr::LOCALHOST, PORT + (number % usize::from(PORTS)) as u16));
        let clients = (0..count).map(|number| connect(number).expect("it listens")).collect();
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
    const ASKED: [u8; 64] = [9; 64];
    let mut latencies = Vec::new();
    let mut bytes = [0; 64];
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
