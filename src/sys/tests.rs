//! Real connections over loopback that are put to sleep and woken, and what they do meanwhile. The tests need the rights
//! for that: root has them.

mod catching;
mod dialed;
mod puppet;
mod restoring;
mod round_trip;
mod segments;
mod strangers;

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::repair::{self, Wish};
use super::{Catcher, Caught, CaughtAt, CaughtSegment, GracePeriods, RawSender, TcpInfo, skips, tcp_info};
use crate::hibernation::{Checkpoint, Tuple};

/// No wait of a test takes longer.
const PATIENCE: Duration = Duration::from_secs(20);

/// What the tests of both families run on.
const LOOPBACKS: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];

/// Whether this user may put connections to sleep; otherwise the test is skipped.
fn may_sleep() -> bool {
    let tried = Catcher::new(1, 1, 0).and_then(|_| repair::in_repair(libc::AF_INET)).and_then(|_| RawSender::new());
    skips::may("no sleeping connections", tried)
}

/// Runs a test with a listener at each of these addresses.
fn at(ips: &[IpAddr], test: impl Fn(Scene)) {
    if may_sleep() {
        ips.iter().for_each(|ip| test(Scene::new(*ip)));
    }
}

/// Runs a test over IPv4 and over IPv6.
fn on_loopbacks(test: impl Fn(Scene)) {
    at(&LOOPBACKS, test);
}

/// Runs a test over IPv4.
fn on_loopback(test: impl Fn(Scene)) {
    at(&LOOPBACKS[..1], test);
}

/// Waits until something is so.
fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Waits for a grace period that begins now.
fn wait_for_grace(grace: &GracePeriods) {
    let epoch = grace.request();
    until("a grace period passes", || grace.passed(epoch));
}

/// A caught segment that is kept.
#[derive(Debug, Clone)]
struct Kept {
    index: u32,
    tuple: Tuple,
    at: CaughtAt,
    whole_len: usize,
    bytes: Vec<u8>,
}

impl Kept {
    fn header(&self) -> usize {
        usize::from(self.bytes[12] >> 4) * 4
    }

    fn payload(&self) -> &[u8] {
        &self.bytes[self.header()..]
    }

    fn sequence(&self) -> u32 {
        u32::from_be_bytes(self.bytes[4..8].try_into().unwrap())
    }
}

/// A listener whose connections can sleep, with one shard.
struct Scene {
    catcher: Arc<Catcher>,
    caught: Caught,
    listener: TcpListener,
    raw: RawSender,
    grace: GracePeriods,
}

impl Scene {
    fn new(ip: IpAddr) -> Scene {
        Scene::for_connections(ip, 1_000)
    }

    /// The table is sized for so many connections.
    fn for_connections(ip: IpAddr, connections: u64) -> Scene {
        let catcher = Catcher::new(1, connections, 0).unwrap();
        let listener = TcpListener::bind((ip, 0)).unwrap();
        catcher.attach(&listener).unwrap();
        let caught = catcher.caught(0).unwrap();
        Scene {
            catcher: Arc::new(catcher),
            caught,
            listener,
            raw: RawSender::new().unwrap(),
            grace: GracePeriods::new().unwrap(),
        }
    }

    /// A connection: the peer's end, and ours. A byte has gone in each direction.
    fn connection(&self) -> (TcpStream, TcpStream) {
        let address = self.listener.local_addr().unwrap();
        let ip = if address.ip().is_unspecified() { IpAddr::V4(Ipv4Addr::LOCALHOST) } else { address.ip() };
        self.accepted(TcpStream::connect((ip, address.port())).unwrap())
    }

    /// The same for a connection that was just dialed.
    fn accepted(&self, mut theirs: TcpStream) -> (TcpStream, TcpStream) {
        let (mut ours, _) = self.listener.accept().unwrap();
        for end in [&theirs, &ours] {
            end.set_read_timeout(Some(PATIENCE)).unwrap();
            end.set_nodelay(true).unwrap();
        }
        exchange(&mut theirs, &mut ours);
        (theirs, ours)
    }

    fn wish(&self) -> Wish<'_> {
        Wish { program: self.catcher.program(), no_delay: true, keepalive: None }
    }

    /// Puts a connection to sleep. Waits until it is idle.
    fn put_to_sleep(&mut self, ours: TcpStream, index: u32) -> Checkpoint {
        let (checkpoint, socket) = self.checkpoint(ours, index);
        // A close alone is not enough: a process that another test starts has a copy of the descriptor until its program
        // runs.
        drop(repair::blank(socket, &checkpoint.tuple).unwrap());
        self.catcher.end_transit();
        checkpoint
    }

    /// Puts a connection to sleep, but for its socket. The transit is under way.
    fn checkpoint(&mut self, ours: TcpStream, index: u32) -> (Checkpoint, OwnedFd) {
        let (tuple, negotiated) = repair::identify(&ours).unwrap().unwrap();
        let begun = Instant::now();
        loop {
            assert!(begun.elapsed() < PATIENCE, "the connection is never idle");
            self.catcher.begin_transit();
            self.catcher.insert(&tuple, 0, index).unwrap();
            wait_for_grace(&self.grace);
            if let Some(progress) = repair::checkpoint(&ours).unwrap() {
                return (Checkpoint { tuple, negotiated, progress }, ours.into());
            }
            self.catcher.remove(&tuple, 0, index);
            self.catcher.end_transit();
            self.reinject_all();
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Wakes a connection.
    fn wake(&self, checkpoint: &Checkpoint, index: u32) -> TcpStream {
        self.catcher.begin_transit();
        let socket = repair::restore(checkpoint, &self.wish(), None).unwrap();
        self.awake(checkpoint, index, socket)
    }

    /// Ends the transit of a wake.
    fn awake(&self, checkpoint: &Checkpoint, index: u32, socket: OwnedFd) -> TcpStream {
        self.catcher.wake(&checkpoint.tuple, 0, index);
        self.catcher.end_transit();
        let stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// The next caught segment. Waits for it.
    fn next_caught(&mut self) -> Kept {
        let mut kept = None;
        until("a segment is caught", || {
            kept = self.take_caught();
            kept.is_some()
        });
        kept.unwrap()
    }

    fn take_caught(&mut self) -> Option<Kept> {
        let segment = self.caught.next_segment()?;
        let CaughtSegment { index, tuple, at, whole_len, bytes } = segment;
        Some(Kept { index, tuple, at, whole_len, bytes: bytes.to_vec() })
    }

    /// Lets all segments that are caught arrive.
    fn reinject_all(&mut self) {
        while let Some(kept) = self.take_caught() {
            self.reinject(&kept);
        }
    }

    fn reinject(&self, kept: &Kept) {
        self.raw.reinject(&kept.tuple, &mut kept.bytes.clone(), kept.whole_len).unwrap();
    }
}

/// A byte in each direction.
fn exchange(theirs: &mut TcpStream, ours: &mut TcpStream) {
    theirs.write_all(b"?").unwrap();
    hear(ours, b"?");
    ours.write_all(b"!").unwrap();
    hear(theirs, b"!");
}

/// Reads exactly this.
fn hear(stream: &mut TcpStream, expected: &[u8]) {
    let mut heard = vec![0; expected.len()];
    stream.read_exact(&mut heard).unwrap();
    assert_eq!(heard, expected);
}

fn info(stream: &TcpStream) -> TcpInfo {
    tcp_info(stream).unwrap()
}

/// All that TCP_INFO tells.
fn whole_info(stream: &impl AsRawFd) -> libc::tcp_info {
    repair::tcp_info(stream).unwrap()
}

/// The ends of a connection as our side sees them.
fn tuple_of(ours: &TcpStream) -> Tuple {
    let canonical = |end: SocketAddr| SocketAddr::new(end.ip().to_canonical(), end.port());
    Tuple { remote: canonical(ours.peer_addr().unwrap()), local: canonical(ours.local_addr().unwrap()) }
}
