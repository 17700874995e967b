//! The client: a ramp that opens connections and sends a greeting on each, and a closed loop that keeps one
//! message in flight on each. Every byte that comes back is compared with what was sent.

use std::io::{self, ErrorKind, Write};
use std::net::SocketAddr;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::contract::Target;
use crate::sys::{self, ENDING, Epoll, Event, READ_WRITE};

/// Bytes of a message in the closed loop.
pub const MESSAGE_BYTES: usize = 64;

/// How long the server may send nothing at all before the bench gives up, in milliseconds.
const SILENCE_MS: i32 = 60_000;

/// How long the closed loop runs before it is measured.
const WARM_UP: Duration = Duration::from_millis(500);

/// Connects in flight while the closed loop's connections are opened, which is not measured.
const OPENING: usize = 256;

/// What the closed loop saw.
pub struct Echoes {
    pub per_second: f64,
    /// Growth of the caller's clock per echo, in seconds.
    pub clock_per_echo: f64,
    /// Echoes of the connection that got fewest, as a share of the average.
    pub least: f64,
}

/// Opens `count` connections over the target's ports in turn, from one pinned thread per core, with
/// `concurrency` in flight over all threads. Returns the seconds from the first connect to the last
/// greeting that came back; by then all connections are live.
pub fn ramp(cores: &[usize], target: Target, count: usize, concurrency: usize) -> f64 {
    sys::raise_open_files();
    let share = |place: usize, of: usize| of * place / cores.len()..of * (place + 1) / cores.len();
    let done: Vec<(Instant, Instant, Peers)> = thread::scope(|scope| {
        let threads: Vec<_> = (0..cores.len())
            .map(|place| {
                scope.spawn(move || {
                    sys::pin(cores[place]).expect("the core exists and this process may use it");
                    let mut peers = Peers::new(target, share(place, count));
                    let began = Instant::now();
                    peers.open(share(place, concurrency).len(), |_| {});
                    (began, Instant::now(), peers)
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("a client thread says why it failed")).collect()
    });
    let began = done.iter().map(|(began, ..)| *began).min().expect("there is a core to run on");
    let ended = done.iter().map(|(_, ended, _)| *ended).max().expect("there is a core to run on");
    for (.., peers) in done {
        peers.reset();
    }
    ended.duration_since(began).as_secs_f64()
}

/// Opens `active` connections from one pinned thread and keeps one message in flight on each for
/// `lasting`, after a warm-up. `clock` is read at the start and the end of the measurement; `told` gets the duration
/// of each echo.
pub fn echo(
    core: usize,
    target: Target,
    active: usize,
    lasting: Duration,
    clock: impl Fn() -> Duration + Send,
    told: impl FnMut(Duration) + Send,
) -> Echoes {
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            sys::pin(core).expect("the core exists and this process may use it");
            let mut peers = Peers::new(target, 0..active);
            peers.open(OPENING, |_| {});
            let echoes = peers.echo(lasting, clock, told);
            peers.reset();
            echoes
        });
        thread.join().expect("the client thread says why it failed")
    })
}

/// A client that is led from outside, step by step, on one core.
pub struct Led(Peers);

impl Led {
    /// Opens `count` connections over the target's ports in turn, with `concurrency` in flight; reports
    /// again and again how many are live.
    pub fn open(core: usize, target: Target, count: usize, concurrency: usize, told: impl FnMut(usize)) -> Led {
        sys::raise_open_files();
        sys::pin(core).expect("the core exists and this process may use it");
        let mut peers = Peers::new(target, 0..count);
        peers.open(concurrency, told);
        Led(peers)
    }

    /// Has every connection echo its number; reports again and again how many did. All did on return.
    pub fn audit(&mut self, concurrency: usize, told: impl FnMut(usize)) {
        self.0.audit(concurrency, told);
    }

    /// Closes every connection by FIN.
    pub fn close(self) {
        drop(self);
    }
}

/// One connection of the client.
struct Peer {
    socket: Socket,
    /// Bytes that came back of what is in flight.
    back: u32,
    /// Messages that came back while it was measured.
    echoes: u32,
    /// When the last message was sent.
    sent: Instant,
    stage: Stage,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Connecting,
    Greeting,
    Live,
}

/// The connections of one thread. An event's number is a place in `all`.
struct Peers {
    epoll: Epoll,
    target: Target,
    /// The numbers of the connections, over all threads.
    numbers: Range<usize>,
    all: Vec<Peer>,
    buffer: [u8; 4096],
}

impl Peers {
    fn new(target: Target, numbers: Range<usize>) -> Peers {
        let epoll = Epoll::new().expect("the process has a descriptor left for epoll");
        let all = Vec::with_capacity(numbers.len());
        Peers { epoll, target, numbers, all, buffer: [0; 4096] }
    }

    /// Opens every connection, `concurrency` at a time, and sends a greeting on each; reports again and again
    /// how many are live. All are on return.
    fn open(&mut self, concurrency: usize, mut told: impl FnMut(usize)) {
        let mut events = sys::no_events();
        let mut live = 0;
        while live < self.numbers.len() {
            while self.all.len() < self.numbers.len() && self.all.len() - live < concurrency {
                let place = self.all.len();
                self.dial().unwrap_or_else(|error| panic!("connect {place}: {error}"));
            }
            let came = self.wait(&mut events);
            for &Event { events: flags, u64: place } in &events[..came] {
                live += usize::from(self.advance(place as usize, flags));
            }
            told(live);
        }
    }

    /// Has every connection echo its number, `concurrency` at a time; tells again and again how many
    /// did.
    fn audit(&mut self, concurrency: usize, mut told: impl FnMut(usize)) {
        let mut events = sys::no_events();
        let mut message = [b'.'; MESSAGE_BYTES];
        let (mut asked, mut proved) = (0, 0);
        while proved < self.all.len() {
            while asked < self.all.len() && asked - proved < concurrency {
                self.send(asked, number_of(asked, &mut message));
                asked += 1;
            }
            let came = self.wait(&mut events);
            for &Event { events: flags, u64: place } in &events[..came] {
                let place = place as usize;
                self.check_alive(place, flags);
                if flags & libc::EPOLLIN as u32 != 0 && self.take_back(place, number_of(place, &mut message)) {
                    proved += 1;
                }
            }
            told(proved);
        }
    }

    /// Starts a connect. TCP_NODELAY would change nothing here: with one message in flight there is
    /// never an earlier one unacknowledged, which is what Nagle's algorithm waits for.
    fn dial(&mut self) -> io::Result<()> {
        let place = self.all.len();
        let port = self.target.first_port as usize + (self.numbers.start + place) % self.target.ports;
        let port = u16::try_from(port).map_err(|_| ErrorKind::InvalidInput)?;
        let socket = Socket::new(Domain::IPV4, Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
        match socket.connect(&SockAddr::from(SocketAddr::from((self.target.address, port)))) {
            Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => return Err(error),
            _ => {}
        }
        self.epoll.add(socket.as_raw_fd(), READ_WRITE, place as u64)?;
        self.all.push(Peer { socket, back: 0, echoes: 0, sent: Instant::now(), stage: Stage::Connecting });
        Ok(())
    }

    /// Takes a connection that is being opened a step further. Returns whether it became live.
    fn advance(&mut self, place: usize, flags: u32) -> bool {
        self.check_alive(place, flags);
        let number = self.numbers.start + place;
        let mut text = [0; MESSAGE_BYTES];
        match self.all[place].stage {
            Stage::Connecting if flags & libc::EPOLLOUT as u32 != 0 => {
                self.check_not_itself(place);
                self.all[place].stage = Stage::Greeting;
                self.send(place, greeting(number, &mut text));
                false
            }
            Stage::Greeting if flags & libc::EPOLLIN as u32 != 0 => {
                let live = self.take_back(place, greeting(number, &mut text));
                if live {
                    self.all[place].stage = Stage::Live;
                }
                live
            }
            _ => false,
        }
    }

    /// The closed loop: each echo is answered with the next message at once.
    fn echo(&mut self, lasting: Duration, clock: impl Fn() -> Duration, mut told: impl FnMut(Duration)) -> Echoes {
        let mut events = sys::no_events();
        // All connections send the same message; only the number at its start differs.
        let mut message = [b'.'; MESSAGE_BYTES];
        for place in 0..self.all.len() {
            self.all[place].sent = Instant::now();
            self.send(place, number_of(place, &mut message));
        }
        let warm = Instant::now() + WARM_UP;
        let mut began = None;
        let mut echoes = 0_u64;
        loop {
            let came = self.wait(&mut events);
            for &Event { events: flags, u64: place } in &events[..came] {
                let place = place as usize;
                self.check_alive(place, flags);
                if flags & libc::EPOLLIN as u32 != 0 && self.take_back(place, number_of(place, &mut message)) {
                    let now = Instant::now();
                    if began.is_some() {
                        told(now - self.all[place].sent);
                    }
                    self.all[place].echoes += 1;
                    self.all[place].sent = now;
                    echoes += 1;
                    self.send(place, &message);
                }
            }
            let now = Instant::now();
            match began {
                None if now >= warm => {
                    began = Some((now, clock()));
                    echoes = 0;
                    self.all.iter_mut().for_each(|peer| peer.echoes = 0);
                }
                Some((began, clock_began)) if now >= began + lasting => {
                    let clock = clock().saturating_sub(clock_began);
                    return self.counted(echoes as f64, now.duration_since(began), clock);
                }
                _ => {}
            }
        }
    }

    fn counted(&self, echoes: f64, lasted: Duration, clock: Duration) -> Echoes {
        let least = self.all.iter().map(|peer| peer.echoes).min().unwrap_or(0);
        Echoes {
            per_second: echoes / lasted.as_secs_f64(),
            clock_per_echo: clock.as_secs_f64() / echoes,
            least: f64::from(least) * self.all.len() as f64 / echoes,
        }
    }

    fn wait(&self, events: &mut [Event; sys::EVENTS]) -> usize {
        let came = self.epoll.wait(events, SILENCE_MS).expect("epoll_wait fails only on a wrong argument");
        assert!(came > 0, "nothing came from the server for {SILENCE_MS} ms: it lost a message or a connection");
        came
    }

    fn check_alive(&self, place: usize, flags: u32) {
        if flags & ENDING != 0 {
            let why = self.all[place].socket.take_error().ok().flatten();
            let why = why.map_or("closed by the server".to_owned(), |why| why.to_string());
            panic!("connection {place} ended: {why}");
        }
    }

    /// A socket whose source port is its target port may be connected to itself, and would echo without a server.
    fn check_not_itself(&self, place: usize) {
        let socket = &self.all[place].socket;
        let address = |end: io::Result<SockAddr>| end.ok().and_then(|address| address.as_socket());
        let local = address(socket.local_addr());
        let itself = local.is_some_and(|local| Some(local) == address(socket.peer_addr()));
        assert!(!itself, "connection {place} is connected to itself: nothing listens at its target");
    }

    fn send(&self, place: usize, bytes: &[u8]) {
        let sent = sys::send(self.all[place].socket.as_raw_fd(), bytes);
        let sent = sent.unwrap_or_else(|error| panic!("sending on connection {place}: {error}"));
        assert!(sent == bytes.len(), "an empty socket buffer takes a message whole");
    }

    /// Reads once, which is enough with one message in flight: bytes that come later are a new edge.
    /// Compares them with what was sent. Returns whether the whole message is back.
    fn take_back(&mut self, place: usize, sent: &[u8]) -> bool {
        let peer = &mut self.all[place];
        let count = match sys::receive(peer.socket.as_raw_fd(), &mut self.buffer) {
            Ok(count) => count,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => 0,
            Err(error) => panic!("receiving on connection {place}: {error}"),
        };
        let back = peer.back as usize;
        let wanted = sent.get(back..back + count);
        assert!(wanted == Some(&self.buffer[..count]), "connection {place} got other bytes than it sent");
        let whole = back + count == sent.len();
        peer.back = if whole { 0 } else { (back + count) as u32 };
        whole
    }

    /// Closes with a reset, which leaves no TIME_WAIT behind for the next run to meet.
    fn reset(self) {
        for peer in self.all {
            peer.socket.set_linger(Some(Duration::ZERO)).expect("SO_LINGER can be set on a TCP socket");
        }
    }
}

/// The greeting of connection `number`.
fn greeting(number: usize, text: &mut [u8; MESSAGE_BYTES]) -> &[u8] {
    let mut rest = &mut text[..];
    write!(rest, "Hello Server: client --> {number}").expect("a greeting is shorter than a message");
    let unused = rest.len();
    &text[..MESSAGE_BYTES - unused]
}

/// Puts the connection's number into the message, so that an echo of another connection is noticed.
fn number_of(place: usize, message: &mut [u8; MESSAGE_BYTES]) -> &[u8; MESSAGE_BYTES] {
    message[..8].copy_from_slice(&(place as u64).to_le_bytes());
    message
}
