//! A reactor on real rings, with peers and a driver that do anything at any time. `shard/tests.rs` has the same on a
//! simulated machine, which repeats its runs.
//!
//! `PROPTEST_CASES=160000 cargo test --release --lib reactor::tests` takes ten million steps.

mod fins;
mod replies;
#[cfg(feature = "cli")]
mod tls;

use std::collections::{HashMap, VecDeque};
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};

use proptest::prelude::*;
use socket2::{Domain, SockRef, Socket, Type};

use super::*;
use crate::connections::{
    AdmissionGate, AdmissionState, ConnectionsConfig, Cursor, FilterConfig, RESUMED_PER_PASS, Timing,
};
use crate::constants::BUFFER_BYTES;
use crate::host::Host;
use crate::pace::Pace;
use crate::ring::Buffers;
use crate::simulation::{Chance, mixed};
use crate::sys::{Doorbell, Filter, skips};
use crate::token::Operation;

/// A connection as the driver knows it.
struct Held {
    number: u32,
    /// Its bytes, if they are collected here instead of being sent back at once.
    collects: Option<Vec<u8>>,
}

/// Sends back what came, in all ways that there are, and records its calls.
struct Noting {
    chance: Chance,
    /// It only sends back what comes, at once.
    calm: bool,
    standing: HashMap<ConnId, Held>,
    dialing: HashMap<ConnId, Option<Socket>>,
    former: VecDeque<ConnId>,
    calls: u64,
    opened: u32,
    ended: u32,
}

/// Any way to close.
fn any_mode(chance: &mut Chance) -> CloseMode {
    [CloseMode::Graceful, CloseMode::Lingering, CloseMode::Immediate, CloseMode::Abort][chance.below(4)]
}

/// How many `ConnId`s of former connections are kept.
const FORMER: usize = 64;

impl Noting {
    fn pick(&mut self) -> Option<ConnId> {
        let at = self.chance.next() as usize;
        self.standing.keys().nth(at.checked_rem(self.standing.len())?).copied()
    }

    /// Sends back the bytes that were collected for a connection.
    fn flush(&mut self, connections: &mut Connections<u32>, conn: ConnId) -> Result<()> {
        match self.standing.get_mut(&conn).and_then(|held| held.collects.as_mut()) {
            Some(collected) => connections.send(conn, &std::mem::take(collected)),
            None => Ok(()),
        }
    }
}

impl Driver for Noting {
    type State = u32;

    fn opened(&mut self, connections: &mut Connections<u32>, conn: ConnId) -> Result<()> {
        self.calls += 1;
        self.opened += 1;
        self.dialing.remove(&conn);
        assert!(!self.former.contains(&conn), "a former connection's name");
        let state = connections.state(conn).expect("it is live");
        assert_eq!(std::mem::replace(state, self.opened), 0, "another's state");
        let collects = (!self.calm && self.chance.one_in(2)).then(Vec::new);
        let former = self.standing.insert(conn, Held { number: self.opened, collects });
        assert!(former.is_none(), "opened twice");
        if !self.calm && self.chance.one_in(16) {
            connections.close(conn, any_mode(&mut self.chance), CloseReason::Local)?;
        }
        Ok(())
    }

    fn received(&mut self, connections: &mut Connections<u32>, conn: ConnId, data: &mut [u8]) -> Result<Reply> {
        self.calls += 1;
        let held = self.standing.get_mut(&conn).expect("bytes of a connection that is not live");
        assert_eq!(connections.state(conn), Some(&mut held.number), "another's state");
        let len = data.len();
        if self.calm {
            return Ok(Reply::Back(0..len));
        }
        if let Some(collected) = &mut held.collects {
            collected.extend_from_slice(data);
            if self.chance.one_in(3) {
                self.flush(connections, conn)?;
            }
            return Ok(Reply::Nothing);
        }
        Ok(match self.chance.below(64) {
            0 => Reply::Close,
            1..=3 => {
                connections.close(conn, any_mode(&mut self.chance), CloseReason::Local)?;
                Reply::Back(0..len)
            }
            4..=20 => {
                connections.send(conn, data)?;
                Reply::Nothing
            }
            _ => {
                let sent = self.chance.below(len + 1);
                connections.send(conn, &data[..sent])?;
                Reply::Back(sent..len)
            }
        })
    }

    fn ended(&mut self, connections: &mut Connections<u32>, conn: ConnId, reason: CloseReason) -> Result<()> {
        self.calls += 1;
        self.former.push_back(conn);
        if self.former.len() > FORMER {
            self.former.pop_front();
        }
        if matches!(reason, CloseReason::NotOpened(_)) {
            assert!(self.dialing.remove(&conn).is_some(), "never dialed, or ended twice");
            return Ok(());
        }
        self.ended += 1;
        let held = self.standing.remove(&conn).expect("never opened, or ended twice");
        assert_eq!(connections.state(conn), Some(&mut { held.number }), "another's state, {reason:?}");
        Ok(())
    }

    fn turn(&mut self, _: &mut Connections<u32>, _: Instant, _: u32) -> Result<Schedule> {
        Ok(Schedule::OnEvent)
    }
}

/// A peer. Its bytes differ from those of every other peer.
struct Peer {
    stream: TcpStream,
    number: u64,
    sent: u64,
    got: u64,
}

impl Peer {
    fn byte(&self, at: u64) -> u8 {
        mixed(self.number << 40 | at) as u8
    }

    /// Sends some bytes. Returns whether the connection still works.
    fn talk(&mut self, bytes: u64) -> bool {
        let text: Vec<u8> = (self.sent..self.sent + bytes).map(|at| self.byte(at)).collect();
        match self.stream.write(&text) {
            Ok(sent) => {
                self.sent += sent as u64;
                true
            }
            Err(error) => error.kind() == ErrorKind::WouldBlock,
        }
    }

    /// Reads some bytes, which must be those that it sent. Returns whether the connection still works.
    fn listen(&mut self, text: &mut [u8]) -> bool {
        match self.stream.read(text) {
            Ok(0) => false,
            Ok(len) => {
                assert!(self.got + len as u64 <= self.sent, "more than it sent");
                for (byte, at) in text[..len].iter().zip(self.got..) {
                    assert_eq!(*byte, self.byte(at), "another's byte, or one out of turn");
                }
                self.got += len as u64;
                true
            }
            Err(error) => error.kind() == ErrorKind::WouldBlock,
        }
    }
}

struct World {
    reactor: Reactor<Noting>,
    gate: AdmissionGate,
    addresses: Vec<SocketAddr>,
    peers: Vec<Peer>,
    numbers: u64,
    injected: u64,
    _doorbell: Doorbell,
}

/// Times are short and amounts small, so that a few connections reach every state.
const QUICK: Timing = Timing {
    segment_time: Duration::from_millis(1),
    shortest_speculative_step: Duration::from_millis(1),
    longest_speculative_step: Duration::from_millis(1),
    resets_per_batch: 1,
};

/// Peers at a time.
const PEERS: usize = 24;

/// The time within which an expected event must happen, on a machine that is busy with other things too.
const PATIENCE: Duration = Duration::from_secs(60);

impl World {
    /// A few slots in two rings, so that slots are reused all the time, and the rings are full now and then.
    fn new(seed: u64, filtered: bool) -> World {
        let mut chance = Chance(seed);
        let rings: Vec<u32> = (0..2).map(|_| 5 + chance.below(8) as u32).collect();
        let gate = AdmissionGate::default();
        let filter = filtered.then(|| Filter::new(rings.iter().sum(), None).unwrap());
        // An address of its own for each world: a port stays taken for a minute after what was there, and in
        // that time there are more worlds than ports.
        static WORLDS: AtomicU32 = AtomicU32::new(0);
        let [_, high, middle, low] = WORLDS.fetch_add(1, Ordering::Relaxed).to_be_bytes();
        let address = Ipv4Addr::new(127, 1 + high % 100, middle, low);
        let listeners: Vec<_> = (0..2).map(|_| Arc::new(TcpListener::bind((address, 0)).unwrap())).collect();
        let addresses = listeners.iter().map(|listener| listener.local_addr().unwrap()).collect();
        if let Some(filter) = &filter {
            listeners.iter().for_each(|listener| filter.attach(listener).unwrap());
        }
        let capacity = u64::from(rings.iter().sum::<u32>()) - 6;
        let config = ConnectionsConfig {
            filter: filter.map(|filter| FilterConfig { filter, speculative_period: Duration::from_secs(3) }),
            gate: gate.clone(),
            max_pending: 2 * BUFFER_BYTES,
            timing: QUICK,
            ..ConnectionsConfig::new(rings, capacity)
        };
        let doorbell = Doorbell::new().unwrap();
        let mut connections = Connections::new(config, &doorbell, Arc::default()).unwrap();
        connections.listen(listeners, 2).unwrap();
        let driver = Noting {
            chance,
            calm: false,
            standing: HashMap::new(),
            dialing: HashMap::new(),
            former: VecDeque::new(),
            calls: 0,
            opened: 0,
            ended: 0,
        };
        let reactor = Reactor::new(connections, driver);
        World { reactor, gate, addresses, peers: Vec::new(), numbers: 0, injected: 0, _doorbell: doorbell }
    }

    fn chance(&mut self) -> &mut Chance {
        &mut self.reactor.driver.chance
    }

    fn step(&mut self) -> Result<()> {
        match self.chance().below(32) {
            0..=2 => self.come(),
            3..=8 => self.with_peer(|peer, chance| peer.talk(1 + chance.next() % 100)),
            9 => self.with_peer(|peer, chance| peer.talk(1 + chance.next() % 60_000)),
            10..=15 => self.with_peer(|peer, chance| peer.listen(&mut vec![0; 1 + chance.below(60_000)])),
            16 => self.leave(),
            17 => self
                .with_peer(|peer, chance| !chance.one_in(4) || peer.stream.shutdown(std::net::Shutdown::Write).is_ok()),
            18 => self.dial()?,
            19 => self.cancel_dial()?,
            20 => self.close()?,
            21 => self.collected()?,
            22 => self.stale()?,
            23 => {
                let level = if self.chance().one_in(4) { AdmissionState::Refusing } else { AdmissionState::Open };
                self.gate.set(level);
            }
            _ => self.pass()?,
        }
        Ok(())
    }

    fn pass(&mut self) -> Result<()> {
        let now = Instant::now();
        self.reactor.connections.engine.look(now);
        self.reactor.pass(now, || {})?;
        self.reactor.tell_ended()?;
        self.check();
        Ok(())
    }

    fn with_peer(&mut self, act: impl FnOnce(&mut Peer, &mut Chance) -> bool) {
        let chance = &mut self.reactor.driver.chance;
        let Some(at) = (chance.next() as usize).checked_rem(self.peers.len()) else { return };
        if !act(&mut self.peers[at], chance) {
            self.peers.swap_remove(at);
        }
    }

    fn come(&mut self) {
        let nth = self.chance().next() as usize;
        if self.peers.len() == PEERS {
            return;
        }
        // A host may be short of ports for a moment.
        let Ok(stream) = TcpStream::connect(self.addresses[nth % self.addresses.len()]) else { return };
        stream.set_nonblocking(true).unwrap();
        self.numbers += 1;
        self.peers.push(Peer { stream, number: self.numbers, sent: 0, got: 0 });
    }

    /// A peer closes its connection by a FIN, or resets it.
    fn leave(&mut self) {
        let rudely = !self.chance().one_in(4);
        self.with_peer(|peer, _| {
            let linger = rudely.then_some(Duration::ZERO);
            SockRef::from(&peer.stream).set_linger(linger).unwrap();
            false
        });
    }

    /// The shard dials: to itself, to a port without a listener, or with a descriptor that is no socket.
    fn dial(&mut self) -> Result<()> {
        let address = self.addresses[0];
        let no_listener = SocketAddr::from(([127, 0, 0, 1], 1));
        let (fd, to, socket) = match self.chance().below(4) {
            0 => (1_000_000, address, None),
            kind => {
                let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
                socket.set_linger(Some(Duration::ZERO)).unwrap();
                (socket.as_raw_fd(), if kind == 1 { no_listener } else { address }, Some(socket))
            }
        };
        if let Some(conn) = self.reactor.connections.dial(fd, to)? {
            let former = self.reactor.driver.dialing.insert(conn, socket);
            assert!(former.is_none(), "two dials of one name");
        }
        Ok(())
    }

    fn cancel_dial(&mut self) -> Result<()> {
        match self.reactor.driver.dialing.keys().next().copied() {
            Some(conn) => self.reactor.connections.cancel_dial(conn),
            None => Ok(()),
        }
    }

    /// The driver closes a connection, or stops receiving on it or goes on; the connection may be gone.
    fn close(&mut self) -> Result<()> {
        let Reactor { connections, driver, .. } = &mut self.reactor;
        let former = driver.former.back().copied();
        let gone = driver.chance.one_in(4);
        let Some(conn) = (if gone { former } else { driver.pick() }) else { return Ok(()) };
        if driver.chance.one_in(4) {
            connections.pause_reads(conn)?;
        } else if driver.chance.one_in(4) {
            connections.resume_reads(conn)?;
        } else {
            connections.close(conn, any_mode(&mut driver.chance), CloseReason::Local)?;
        }
        self.reactor.tell_ended()
    }

    /// The driver sends what it collected.
    fn collected(&mut self) -> Result<()> {
        let Reactor { connections, driver, .. } = &mut self.reactor;
        driver.pick().map_or(Ok(()), |conn| driver.flush(connections, conn))?;
        self.reactor.tell_ended()
    }

    /// A completion arrives of a connection that has left its slot.
    fn stale(&mut self) -> Result<()> {
        let Reactor { connections, driver, .. } = &mut self.reactor;
        let Some(at) = (driver.chance.next() as usize).checked_rem(driver.former.len()) else { return Ok(()) };
        let conn = driver.former[at];
        if connections.state(conn).is_some() {
            return Ok(());
        }
        let (outcome, operation) = any_outcome(&mut driver.chance);
        let (calls, stale) = (driver.calls, connections.counters().stale.get());
        self.reactor.dispatch(conn.ring(), Completion { token: conn.token(operation), outcome }, Instant::now())?;
        self.injected += 1;
        assert_eq!(self.reactor.driver.calls, calls, "the driver was told");
        assert_eq!(self.reactor.connections.counters().stale.get(), stale + 1);
        Ok(())
    }

    fn check(&mut self) {
        let Reactor { connections, driver, .. } = &mut self.reactor;
        let counters = connections.counters().snapshot();
        assert_eq!(counters.live, driver.standing.len() as u64, "live connections");
        assert_eq!((counters.opened, counters.closed), (driver.opened.into(), driver.ended.into()));
        let slots = connections.engine.slots();
        assert_eq!(slots.in_use() + slots.free(), slots.count() as u64);
        let (mut cursor, mut taken) = (Cursor::START, 0);
        while let Some((_, row)) = slots.next(&mut cursor) {
            taken += u64::from(!row.lifecycle.is_free());
        }
        assert_eq!(taken, slots.in_use(), "slots are lost");
        for (conn, held) in &driver.standing {
            assert_eq!(connections.state(*conn), Some(&mut { held.number }), "another's row");
        }
        assert!(
            connections.engine.kept_for().all(|conn| driver.standing.contains_key(&conn)),
            "bytes are kept for a connection that is gone"
        );
    }

    /// Whatever was said on a connection that stands comes back.
    fn settle(&mut self) -> Result<()> {
        self.gate.set(AdmissionState::Open);
        self.reactor.driver.calm = true;
        let standing: Vec<ConnId> = self.reactor.driver.standing.keys().copied().collect();
        for conn in standing {
            let Reactor { connections, driver, .. } = &mut self.reactor;
            driver.flush(connections, conn)?;
            connections.resume_reads(conn)?;
            self.reactor.tell_ended()?;
        }
        let began = Instant::now();
        let mut room = vec![0; BUFFER_BYTES];
        loop {
            self.pass()?;
            self.peers.retain_mut(|peer| peer.listen(&mut room));
            let waits = self.peers.iter().find(|peer| peer.got < peer.sent);
            let Some(Peer { number, got, sent, .. }) = waits else { return Ok(()) };
            assert!(began.elapsed() < PATIENCE, "peer {number} said {sent} bytes, and {got} came back");
            std::thread::yield_now();
        }
    }

    /// All peers close, and nothing is left of any connection.
    fn end(mut self) -> Result<()> {
        self.peers.clear();
        self.reactor.connections.stop_listening()?;
        let mut closing = Closing::new(CloseMode::Immediate, Pace::UNPACED);
        let began = Instant::now();
        while closing.turn(&mut self.reactor.connections, Instant::now())? != Schedule::Finished {
            self.reactor.tell_ended()?;
            self.pass()?;
            assert!(began.elapsed() < PATIENCE, "{} slots are never freed", self.reactor.connections.in_use());
            // What is still under way may need another thread of the kernel.
            std::thread::yield_now();
        }
        let Reactor { connections, driver, .. } = &mut self.reactor;
        assert!(driver.standing.is_empty() && driver.dialing.is_empty());
        assert!(connections.engine.kept_for().next().is_none() && connections.engine.next_ended().is_none());
        assert_eq!(connections.engine.slots().buffers_held(), 0, "buffers are not given back");
        assert_eq!(connections.counters().stale.get(), self.injected, "the kernel told of earlier connections");
        Ok(())
    }
}

/// Any completion: any operation with any result.
fn any_outcome(chance: &mut Chance) -> (Outcome, Operation) {
    let (len, more, errno) = (1 + chance.below(100), chance.one_in(2), Errno::ECONNRESET);
    let mut buffers = Buffers::default();
    match chance.below(14) {
        0 => (Outcome::Accepted(None), Operation::Accept),
        1 => (Outcome::AcceptFailed { errno, pause: false }, Operation::Accept),
        2 => (Outcome::Connected, Operation::Connect),
        3 => (Outcome::ConnectFailed(errno), Operation::Connect),
        4 => (Outcome::Ready { armed: more, over: chance.one_in(2), fin: chance.one_in(2) }, Operation::Poll),
        5 => (Outcome::Received { buffer: buffers.take(), len, more }, Operation::Receive),
        6 => (Outcome::Empty(buffers.take()), Operation::Receive),
        7 => (Outcome::End(buffers.take()), Operation::Receive),
        8 => (Outcome::SentShort(buffers.take(), 0..len), Operation::Send),
        9 => (Outcome::SendFailed(buffers.take(), errno), Operation::Send),
        10 => (Outcome::ParkedSent, Operation::ParkedSend),
        11 => (Outcome::CancelTooLate, Operation::Cancel),
        12 => (Outcome::InstallFailed(errno), Operation::Install),
        _ => (Outcome::Closed, Operation::Close),
    }
}

/// Whether sockets may have filters here.
fn may_filter() -> bool {
    static MAY: OnceLock<bool> = OnceLock::new();
    *MAY.get_or_init(|| skips::may("no filter of sockets", Host::here().filters()))
}

proptest! {
    // The kernel does not repeat its timing, so shrinking would test another case.
    #![proptest_config(ProptestConfig {
        cases: ProptestConfig::default().cases / 16, max_shrink_iters: 0, ..ProptestConfig::default()
    })]

    #[test]
    fn whatever_peers_do_each_connection_is_its_own(seed: u64, filtered: bool) {
        let mut world = World::new(seed, filtered && may_filter());
        for _ in 0..1_000 {
            world.step().unwrap();
        }
        world.settle().unwrap();
        world.end().unwrap();
    }
}

/// Records how many bytes came in each call, and answers nothing.
#[derive(Default)]
struct Counting {
    standing: usize,
    came: Vec<usize>,
}

impl Driver for Counting {
    type State = ();

    fn opened(&mut self, _: &mut Connections<()>, _: ConnId) -> Result<()> {
        self.standing += 1;
        Ok(())
    }

    fn received(&mut self, _: &mut Connections<()>, _: ConnId, data: &mut [u8]) -> Result<Reply> {
        self.came.push(data.len());
        Ok(Reply::Nothing)
    }

    fn ended(&mut self, _: &mut Connections<()>, _: ConnId, _: CloseReason) -> Result<()> {
        Ok(())
    }

    fn turn(&mut self, _: &mut Connections<()>, _: Instant, _: u32) -> Result<Schedule> {
        Ok(Schedule::OnEvent)
    }
}

#[test]
fn who_sends_a_little_need_not_wait_for_all_who_send_much() -> std::result::Result<(), Box<dyn std::error::Error>> {
    const GREEDY: usize = 10 * RESUMED_PER_PASS;
    let doorbell = Doorbell::new()?;
    let config = ConnectionsConfig {
        max_pending: BUFFER_BYTES,
        ..ConnectionsConfig::new(vec![2 * GREEDY as u32], GREEDY as u64 + 1)
    };
    let mut connections = Connections::new(config, &doorbell, Arc::default())?;
    let listener = Arc::new(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?);
    let address = listener.local_addr()?;
    connections.listen(vec![listener], 2)?;
    let mut reactor = Reactor::new(connections, Counting::default());
    let mut peers = Vec::new();
    while reactor.driver.standing <= GREEDY {
        if peers.len() <= GREEDY {
            peers.push(TcpStream::connect(address)?);
        }
        reactor.pass(Instant::now(), || {})?;
    }
    let (modest, greedy) = peers.split_first_mut().ok_or("no connection came")?;
    for peer in greedy {
        peer.write_all(&[0; 16 * BUFFER_BYTES])?;
    }
    // Every connection is known to have more bytes.
    while reactor.driver.came.len() < 2 * GREEDY {
        reactor.pass(Instant::now(), || {})?;
    }
    let before = reactor.driver.came.len();
    modest.write_all(&[0])?;
    let turns = loop {
        reactor.pass(Instant::now(), || {})?;
        if let Some(at) = reactor.driver.came.iter().position(|len| *len == 1) {
            break at - before;
        }
    };
    assert!(turns < GREEDY / 2, "it waited for {turns} turns of {GREEDY} who have more");
    Ok(())
}
