//! Peers that send a FIN on many connections at once, as the kernel of a killed process does.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::connections::{CloseReason, Connections, ConnectionsConfig, FilterConfig};
use crate::error::Result;
use crate::reactor::{Driver, Reactor, Schedule};
use crate::reply::Reply;
use crate::sys::{Doorbell, Filter, skips};
use crate::token::ConnId;

use super::{PATIENCE, QUICK};

/// Echoes, and records its calls in order.
#[derive(Default)]
struct Noting {
    opened: usize,
    messages: usize,
    ended: usize,
}

impl Driver for Noting {
    type State = ();

    fn opened(&mut self, _connections: &mut Connections<()>, _conn: ConnId) -> Result<()> {
        self.opened += 1;
        Ok(())
    }

    fn received(&mut self, _connections: &mut Connections<()>, _conn: ConnId, data: &mut [u8]) -> Result<Reply> {
        self.messages += 1;
        Ok(Reply::Back(0..data.len()))
    }

    fn ended(&mut self, _connections: &mut Connections<()>, _conn: ConnId, reason: CloseReason) -> Result<()> {
        assert_eq!(reason, CloseReason::PeerClosed);
        self.ended += 1;
        Ok(())
    }

    fn turn(&mut self, _connections: &mut Connections<()>, _now: Instant, _command: u32) -> Result<Schedule> {
        Ok(Schedule::OnEvent)
    }
}

/// A shard whose clock moves only as a test says.
struct Scene {
    reactor: Reactor<Noting>,
    peers: Vec<TcpStream>,
    now: Instant,
    /// How far the clock moves with each pass.
    step: Duration,
    _doorbell: Doorbell,
}

/// Connections, the last of which survives.
const PEERS: usize = 400;

/// Accepts in flight. Each occupies a slot.
const ACCEPTS: u64 = 8;

impl Scene {
    /// Opens `PEERS` connections, behind a filter or in polls.
    fn new(filtered: bool) -> Scene {
        let now = Instant::now();
        let slots = PEERS as u32 + 64;
        let filter = filtered.then(|| Filter::new(slots, None).unwrap());
        let listener = Arc::new(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
        filter.iter().for_each(|filter| filter.attach(&listener).unwrap());
        let config = ConnectionsConfig {
            filter: filter.map(|filter| FilterConfig { filter, speculative_period: Duration::from_secs(60) }),
            timing: QUICK,
            ..ConnectionsConfig::new(vec![slots], slots.into())
        };
        let doorbell = Doorbell::new().unwrap();
        let mut connections = Connections::new(config, &doorbell, Arc::default()).unwrap();
        connections.listen(vec![listener.clone()], ACCEPTS as usize).unwrap();
        let reactor = Reactor::new(connections, Noting::default());
        let mut scene = Scene { reactor, peers: Vec::new(), now, step: Duration::ZERO, _doorbell: doorbell };
        for nth in 1..=PEERS {
            scene.peers.push(TcpStream::connect(listener.local_addr().unwrap()).unwrap());
            scene.until("the connection is open", |noting, _| noting.opened == nth);
        }
        scene
    }

    fn until(&mut self, what: &str, enough: impl Fn(&Noting, &Connections<()>) -> bool) {
        let began = Instant::now();
        while began.elapsed() < PATIENCE {
            if enough(&self.reactor.driver, &self.reactor.connections) {
                return;
            }
            self.now += self.step;
            self.reactor.pass(self.now, || {}).unwrap();
            self.reactor.tell_ended().unwrap();
            // The peers' sends and closes may need another thread of the kernel.
            std::thread::yield_now();
        }
        panic!("not in {PATIENCE:?}: {what}");
    }

    /// The survivor, whose slot is the last, sends a message and is answered.
    fn survivor_talks(&mut self) {
        let mut survivor = self.peers[PEERS - 1].try_clone().unwrap();
        survivor.set_nonblocking(true).unwrap();
        survivor.write_all(b"!").unwrap();
        self.until("the survivor is answered", |_, _| (&survivor).read(&mut [0]).is_ok());
    }
}

/// Runs a test behind a filter, if this user may attach one, and in polls.
fn ways() -> &'static [bool] {
    if skips::may("no filter of sockets", Filter::probe()) { &[true, false] } else { &[false] }
}

#[test]
fn survivors_are_served_before_fins_and_every_fin_is_answered() {
    for &filtered in ways() {
        let mut scene = Scene::new(filtered);
        scene.survivor_talks();
        for peer in &scene.peers[..PEERS - 1] {
            peer.shutdown(Shutdown::Write).unwrap();
        }
        for _ in 0..20 {
            scene.survivor_talks();
        }
        // The clock does not move, so the token buckets fill no more.
        assert!(scene.reactor.driver.ended <= 1, "{filtered}: {} were closed first", scene.reactor.driver.ended);
        // After one second the shard may receive so many more FINs, but not close all of them at once.
        scene.now += Duration::from_secs(1);
        scene.until("all have ended", |noting, _| noting.ended == PEERS - 1);
        assert!(scene.reactor.connections.engine.has_resets(), "{filtered}: all are dismantled already");
        scene.survivor_talks();
        for _ in 0..PEERS {
            scene.now += Duration::from_secs(1);
            scene.survivor_talks();
        }
        scene.until("all slots are free again", |_, connections| connections.in_use() == 1 + ACCEPTS);
        for peer in &mut scene.peers[..PEERS - 1] {
            assert_eq!(peer.read(&mut [0]).unwrap(), 0, "{filtered}");
        }
    }
}

/// Bytes before a FIN are answered, however many peers send both at once.
#[test]
fn answers_come_before_the_end() {
    for &filtered in ways() {
        let mut scene = Scene::new(filtered);
        scene.survivor_talks();
        for peer in &mut scene.peers[..PEERS - 1] {
            peer.write_all(b"?").unwrap();
            peer.shutdown(Shutdown::Write).unwrap();
        }
        for _ in 0..PEERS {
            scene.now += Duration::from_millis(10);
            scene.survivor_talks();
        }
        // The kernel may bring some of the FINs late.
        scene.step = Duration::from_millis(10);
        scene.until("all slots are free again", |_, connections| connections.in_use() == 1 + ACCEPTS);
        for peer in &mut scene.peers[..PEERS - 1] {
            let mut said = Vec::new();
            peer.read_to_end(&mut said).unwrap();
            assert_eq!(said, b"?", "{filtered}");
        }
    }
}

/// A single FIN is handled without delay, while others talk.
#[test]
fn a_single_fin_is_answered_at_once() {
    for &filtered in ways() {
        let mut scene = Scene::new(filtered);
        scene.survivor_talks();
        scene.peers[0].shutdown(Shutdown::Write).unwrap();
        scene.until("its slot is free", |_, connections| connections.in_use() == PEERS as u64 - 1 + ACCEPTS);
        assert_eq!(scene.reactor.driver.ended, 1);
        assert_eq!(scene.peers[0].read(&mut [0]).unwrap(), 0, "{filtered}");
    }
}

/// A new connection that needs a place does not wait for the FINs' token bucket.
#[test]
fn a_full_shard_hears_fins_at_once() {
    for &filtered in ways() {
        let mut scene = Scene::new(filtered);
        scene.survivor_talks();
        scene.reactor.connections.engine.set_capacity(PEERS as u64 / 2);
        for peer in &scene.peers[..PEERS - 1] {
            peer.shutdown(Shutdown::Write).unwrap();
        }
        scene.survivor_talks();
        scene.until("half of the places are free", |noting, _| noting.ended > PEERS / 2);
    }
}
