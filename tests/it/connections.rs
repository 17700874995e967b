//! A server's duties to its connections, whatever the peers do, tested through the library and real sockets.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use c1m::internal::stats::Snapshot;
use c1m::internal::sys::Resource;
use c1m::{
    Broadcast, CloseMode, CloseReason, ConnId, Cores, Ctx, Echo, Ports, Reply, Server, Service, ShardInfo, Sink,
};
use socket2::SockRef;

use crate::support::{PATIENCE, SetAtEnd, eventually, free_ports, reset};

/// A server of one shard in this process. It is stopped when the value is dropped.
struct Running {
    server: Option<Server>,
    port: u16,
}

impl Running {
    fn start<S: Service<Message = ()>>(
        max_connections: u64,
        service: impl Fn(ShardInfo<()>) -> S + Send + Sync + 'static,
    ) -> Running {
        let port = free_ports(1);
        let builder = Server::builder().bind(Ipv4Addr::LOCALHOST).ports(Ports::new(port, 1).unwrap());
        let server = builder.cores(Cores::Count(1)).max_connections(max_connections).start(service).unwrap();
        Running { server: Some(server), port }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    fn counters(&self) -> Snapshot {
        self.server.as_ref().unwrap().snapshots().into_iter().sum()
    }

    /// Waits until every connection is closed, and checks that the counters add up.
    fn expect_empty(&self) {
        eventually("every connection is gone", || self.counters().live == 0);
        let counters = self.counters();
        assert_eq!(counters.opened, counters.closed, "{counters:?}");
        assert_eq!(counters.stale, 0, "{counters:?}");
    }

    fn stop(mut self) -> Snapshot {
        let server = self.server.take().unwrap();
        server.stop();
        server.join().unwrap().into_iter().map(|shard| shard.server).sum()
    }
}

/// Bytes that differ for each connection and each length.
fn pattern(owner: u32, len: usize) -> Vec<u8> {
    (0..len as u32).map(|at| (owner.wrapping_mul(0x9e37_79b9) ^ at.wrapping_mul(0x85eb_ca6b) >> 7) as u8).collect()
}

/// The result of reading a connection to its end. It must bring no more bytes; an interrupting signal is no end.
fn end_of(stream: &mut TcpStream) -> std::io::Result<()> {
    stream.read_to_end(&mut Vec::new()).map(|len| assert_eq!(len, 0))
}

fn echo(stream: &mut TcpStream, bytes: &[u8]) {
    stream.write_all(bytes).unwrap();
    let mut back = vec![0; bytes.len()];
    stream.read_exact(&mut back).unwrap();
    assert!(back == bytes, "other bytes came back");
}

/// A generator of random numbers (xorshift, Marsaglia 2003), with the same numbers in every run.
struct Dice(u32);

impl Dice {
    fn roll(&mut self, sides: u32) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 17;
        self.0 ^= self.0 << 5;
        self.0 % sides
    }
}

#[test]
fn reused_slots_never_mix_up_bytes() {
    const WORKERS: u32 = 4;
    const ROUNDS: u32 = 400;
    // The slot freed last is reused first, so a few slots have hundreds of occupants each.
    let running = Running::start(10_000, |_| Echo);
    let worker = |worker: u32| {
        let mut dice = Dice(worker + 1);
        for round in 0..ROUNDS {
            let mut stream = running.connect();
            let bytes = pattern(worker << 16 | round, 1 + dice.roll(40_000) as usize);
            match dice.roll(4) {
                0 => echo(&mut stream, &bytes),
                // The peer goes in order, in the middle, or at once. None of its bytes may reach the next occupant.
                1 => stream.write_all(&bytes[..bytes.len() / 2]).unwrap(),
                2 => {
                    stream.write_all(&bytes).unwrap();
                    reset(stream);
                }
                _ => {
                    echo(&mut stream, &bytes[..bytes.len().min(100)]);
                    reset(stream);
                }
            }
        }
    };
    thread::scope(|scope| {
        for number in 0..WORKERS {
            scope.spawn(move || worker(number));
        }
    });
    // The last of them may still wait to be accepted.
    eventually("all were opened", || running.counters().opened == u64::from(WORKERS * ROUNDS));
    running.expect_empty();
    let counters = running.counters();
    assert_eq!(counters.opened, u64::from(WORKERS * ROUNDS), "{counters:?}");
    assert_eq!(counters.refused, 0, "{counters:?}");
}

#[test]
fn a_peer_that_stops_reading_gets_every_byte_later_and_delays_no_other() {
    const BYTES: usize = 8 << 20;
    let running = Running::start(8, |_| Echo);
    let mut slow = running.connect();
    let mut writer = slow.try_clone().unwrap();
    let sent = pattern(1, BYTES);
    let to_send = sent.clone();
    let writing = thread::spawn(move || {
        writer.write_all(&to_send).unwrap();
        writer.shutdown(Shutdown::Write).unwrap();
    });
    eventually("the server's send waits for the slow reader", || running.counters().parked > 0);
    let mut other = running.connect();
    for round in 0..100 {
        echo(&mut other, &pattern(round, 1_000));
    }
    assert!(running.counters().bytes_out < BYTES as u64, "the slow reader was never slow");
    let mut back = Vec::new();
    slow.read_to_end(&mut back).unwrap();
    writing.join().unwrap();
    assert!(back == sent, "{} of {BYTES} bytes, or others", back.len());
}

#[test]
fn a_half_closed_peer_gets_the_whole_answer_and_then_the_end() {
    let running = Running::start(8, |_| Echo);
    for len in [1, 100, 16_384, 16_385, 300_000] {
        let mut stream = running.connect();
        let bytes = pattern(len as u32, len);
        let mut writer = stream.try_clone().unwrap();
        let to_send = bytes.clone();
        let writing = thread::spawn(move || {
            writer.write_all(&to_send).unwrap();
            writer.shutdown(Shutdown::Write).unwrap();
        });
        let mut back = Vec::new();
        stream.read_to_end(&mut back).unwrap();
        writing.join().unwrap();
        assert!(back == bytes, "{} of {len} bytes, or others", back.len());
    }
    running.expect_empty();
}

#[test]
fn resets_at_every_moment_leave_nothing_behind() {
    const ROUNDS: u32 = 200;
    let running = Running::start(64, |_| Echo);
    for round in 0..ROUNDS {
        let mut streams: Vec<TcpStream> = (0..6).map(|_| running.connect()).collect();
        // Reset before the server saw the connection, with bytes under way, and with an answer under way.
        reset(streams.pop().unwrap());
        streams[0].write_all(b"x").unwrap();
        reset(streams.swap_remove(0));
        echo(&mut streams[0], b"hello");
        reset(streams.swap_remove(0));
        streams[0].shutdown(Shutdown::Write).unwrap();
        reset(streams.swap_remove(0));
        // Reset with a send that waits for a slow reader.
        if round % 20 == 0 {
            let parked = running.counters().parked;
            let mut flooding = streams.swap_remove(0);
            flooding.set_nonblocking(true).unwrap();
            eventually("a send is parked", || {
                match flooding.write(&[7; 65_536]) {
                    Ok(_) => {}
                    Err(e) => assert_eq!(e.kind(), ErrorKind::WouldBlock),
                }
                running.counters().parked > parked
            });
            reset(flooding);
        }
    }
    running.expect_empty();
    let mut last = running.connect();
    echo(&mut last, b"still here");
}

#[test]
fn a_full_shard_refuses_at_once_and_keeps_the_others() {
    const CAPACITY: usize = 20;
    let running = Running::start(CAPACITY as u64, |_| Echo);
    let mut kept: Vec<TcpStream> = (0..CAPACITY).map(|_| running.connect()).collect();
    for stream in &mut kept {
        echo(stream, b"in");
    }
    for _ in 0..30 {
        let mut refused = running.connect();
        assert_eq!(end_of(&mut refused).unwrap_err().kind(), ErrorKind::ConnectionReset);
    }
    for (owner, stream) in kept.iter_mut().enumerate() {
        echo(stream, &pattern(owner as u32, 3_000));
    }
    assert_eq!(running.counters().refused, 30);
    // A closed connection makes room for another.
    drop(kept.pop());
    eventually("there is room", || running.counters().live < CAPACITY as u64);
    echo(&mut running.connect(), b"next");
    drop(kept);
    running.expect_empty();
}

#[test]
fn more_peers_may_send_at_once_than_buffers_are_kept() {
    const PEERS: usize = 2_000;
    const { assert!(PEERS > c1m::internal::ring::BUFFERS_KEPT) };
    Resource::Files.raise().unwrap();
    let running = Running::start(PEERS as u64, |_| Echo);
    let mut streams: Vec<TcpStream> = (0..PEERS).map(|_| running.connect()).collect();
    let messages: Vec<Vec<u8>> = (0..PEERS).map(|owner| pattern(owner as u32, 17_000)).collect();
    for (stream, message) in streams.iter_mut().zip(&messages) {
        stream.write_all(message).unwrap();
    }
    for (stream, message) in streams.iter_mut().zip(&messages) {
        let mut back = vec![0; message.len()];
        stream.read_exact(&mut back).unwrap();
        assert!(back == *message, "another's bytes");
    }
    drop(streams);
    running.expect_empty();
}

/// Sends a thousand kilobytes for a request, whether the peer reads them or not.
#[derive(Clone)]
struct Flood;

impl Service for Flood {
    type State = ();
    type Message = ();

    fn received(&mut self, ctx: &mut Ctx<'_, ()>, conn: ConnId, data: &mut [u8]) -> Reply {
        if data.starts_with(b"flood") {
            for _ in 0..1_000 {
                ctx.send(conn, &[7; 1_024]);
            }
        }
        Reply::Back(0..data.len())
    }
}

#[test]
fn a_slow_reader_of_pushes_is_closed_at_its_limit_and_counted() {
    let running = Running::start(8, |_| Flood);
    let mut slow = running.connect();
    // With a small window the kernel can hold only few of the bytes.
    SockRef::from(&slow).set_recv_buffer_size(4_096).unwrap();
    let mut other = running.connect();
    for _ in 0..20 {
        // If the server has closed the connection, its kernel answers with a RST.
        if slow.write_all(b"flood").is_err() {
            break;
        }
    }
    eventually("the slow reader is closed", || running.counters().slow_readers == 1);
    echo(&mut other, b"unharmed");
    drop((slow, other));
    running.expect_empty();
}

/// Greets each connection, counts its bytes, and closes connections on request.
#[derive(Clone, Default)]
struct Room {
    open: Vec<ConnId>,
}

impl Service for Room {
    type State = u64;
    type Message = ();

    fn opened(&mut self, ctx: &mut Ctx<'_, u64>, conn: ConnId) {
        *ctx.state(conn).unwrap() = 100;
        self.open.push(conn);
        ctx.send(conn, b"welcome");
    }

    fn received(&mut self, ctx: &mut Ctx<'_, u64>, conn: ConnId, data: &mut [u8]) -> Reply {
        let seen = ctx.state(conn).unwrap();
        *seen += data.len() as u64;
        let seen = *seen;
        match &*data {
            b"all" => {
                ctx.broadcast(Broadcast::to_all(*b"to all")).unwrap();
                Reply::Nothing
            }
            b"bye" => Reply::Close,
            b"farewell" => {
                ctx.send(conn, b"goodbye");
                Reply::Close
            }
            b"out" => {
                for other in self.open.iter().filter(|other| **other != conn) {
                    ctx.close(*other, CloseMode::Graceful);
                }
                Reply::Back(0..3)
            }
            _ => {
                ctx.send(conn, format!("{seen} ").as_bytes());
                Reply::Back(0..data.len())
            }
        }
    }

    fn closed(&mut self, _: &mut Ctx<'_, u64>, conn: ConnId, _: CloseReason) {
        self.open.retain(|other| *other != conn);
    }
}

#[test]
fn a_service_has_state_pushes_and_closes() {
    let running = Running::start(8, |_| Room::default());
    let expect = |stream: &mut TcpStream, want: &[u8]| {
        let mut got = vec![0; want.len()];
        stream.read_exact(&mut got).unwrap();
        assert_eq!(String::from_utf8_lossy(&got), String::from_utf8_lossy(want));
    };
    let (mut a, mut b, mut c) = (running.connect(), running.connect(), running.connect());
    for stream in [&mut a, &mut b, &mut c] {
        expect(stream, b"welcome");
    }
    a.write_all(b"12345").unwrap();
    // Bytes that a service sends go before its reply.
    expect(&mut a, b"105 12345");
    a.write_all(b"all").unwrap();
    for stream in [&mut a, &mut b, &mut c] {
        expect(stream, b"to all");
    }
    b.write_all(b"bye").unwrap();
    end_of(&mut b).unwrap();
    a.write_all(b"out").unwrap();
    expect(&mut a, b"out");
    end_of(&mut c).unwrap();
    a.write_all(b"all").unwrap();
    expect(&mut a, b"to all");
    drop(a);
    running.expect_empty();
}

#[test]
fn bytes_that_a_service_sends_arrive_before_the_end() {
    let running = Running::start(64, |_| Room::default());
    for _ in 0..50 {
        // The service pushes its answer, and the peer's FIN comes along with the request.
        let mut half = running.connect();
        half.write_all(b"12345").unwrap();
        half.shutdown(Shutdown::Write).unwrap();
        let mut all = String::new();
        half.read_to_string(&mut all).unwrap();
        assert_eq!(all, "welcome105 12345");
        // The service itself closes the connection, after its answer.
        let mut told = running.connect();
        told.write_all(b"farewell").unwrap();
        let mut all = String::new();
        told.read_to_string(&mut all).unwrap();
        assert_eq!(all, "welcomegoodbye");
    }
    running.expect_empty();
}

/// More peers that never stop sending than a submission queue has entries. The shard still accepts other
/// connections, and still stops.
#[test]
fn a_flood_of_bytes_leaves_the_shard_its_turn() {
    const FLOODERS: usize = 600;
    Resource::Files.raise().unwrap();
    let running = Running::start(1_000, |_| Sink);
    let streams: Vec<TcpStream> = (0..FLOODERS).map(|_| running.connect()).collect();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let _stops = SetAtEnd(&stop);
        scope.spawn(|| {
            let chunk = vec![7; 65_536];
            streams.iter().for_each(|stream| stream.set_nonblocking(true).unwrap());
            while !stop.load(Ordering::Relaxed) {
                for mut stream in &streams {
                    // If the socket is full or closed by the server, the next one follows.
                    let _ = stream.write(&chunk);
                }
            }
        });
        eventually("the flood runs", || running.counters().bytes_in > 50 << 20);
        let mut late = running.connect();
        late.write_all(b"x").unwrap();
        eventually("the late one is accepted", || running.counters().opened > FLOODERS as u64);
        let counters = running.stop();
        stop.store(true, Ordering::Relaxed);
        assert_eq!(counters.live, 0, "{counters:?}");
    });
}

#[test]
fn stopping_closes_every_connection_in_order() {
    const PEERS: u64 = 500;
    let running = Running::start(PEERS, |_| Echo);
    let mut streams: Vec<TcpStream> = (0..PEERS).map(|_| running.connect()).collect();
    streams.iter_mut().for_each(|stream| echo(stream, b"in"));
    let port = running.port;
    let counters = running.stop();
    assert_eq!((counters.live, counters.closed), (0, PEERS), "{counters:?}");
    for stream in &mut streams {
        end_of(stream).unwrap();
    }
    assert_eq!(TcpStream::connect(("127.0.0.1", port)).unwrap_err().kind(), ErrorKind::ConnectionRefused);
}
