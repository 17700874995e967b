//! TLS at a server: how many handshakes are under way, and records whose rest is not received.

use std::cell::Cell;
use std::net::IpAddr;

use super::*;
use crate::cli::demo::certificate;
use crate::error::TlsFailure;
use crate::simulation::Kernel;
use crate::tls::handshake::{Acceptor, ClientTls, Connector, TlsConfig, Trust};
use crate::tls::layer::{Endpoint, Layer, LayerConfig};
use crate::tls::record::{Alert, HEADER, Opened};

type Simulated<S> = Connections<S, Machine>;

/// Handshakes at once at most.
pub(super) const PLACES: usize = 2;

/// How long a handshake may take, and a record until it is whole.
pub(super) const TIMEOUT: Duration = SECOND;

/// The beginning of a hello, whose rest never comes.
pub(super) const BEGINNING: &[u8] = &[22, 3, 1, 2, 0, 1, 0];

/// Has a shard's connections speak TLS. Returns what begins their handshakes at the peers.
pub(super) fn secure(config: &mut ConnectionsConfig) -> Connector {
    let (certificate, key) = certificate::make().unwrap();
    let acceptor = Acceptor::new(&TlsConfig::pem(certificate, key)).unwrap();
    config.tls = Some(LayerConfig { timeout: TIMEOUT, ..LayerConfig::new(Endpoint::Server(acceptor), PLACES) });
    Connector::new(&ClientTls { trust: Trust::Anyone, ..ClientTls::default() }).unwrap()
}

/// Counts the handshakes that are under way, none of which comes to its end.
pub(super) struct Doorkeeper {
    pub turns: Turns,
    /// How many there were at most.
    pub most: Rc<Cell<usize>>,
}

impl Driver<Machine> for Doorkeeper {
    type State = ();

    fn opened(&mut self, _: &mut Simulated<()>, _: ConnId) -> Result<()> {
        panic!("no handshake is over");
    }

    fn received(&mut self, _: &mut Simulated<()>, _: ConnId, _: &mut [u8]) -> Result<Reply> {
        panic!("no handshake is over");
    }

    fn ended(&mut self, _: &mut Simulated<()>, _: ConnId, _: CloseReason) -> Result<()> {
        panic!("no handshake is over");
    }

    fn turn(&mut self, connections: &mut Simulated<()>, now: Instant, _command: u32) -> Result<Schedule> {
        let under_way = connections.engine.tls.as_ref().map_or(0, |tls| tls.layer.handshakes());
        self.most.set(self.most.get().max(under_way));
        self.turns.turn(connections, now)
    }
}

/// Hellos that are all there at once begin no more handshakes in a pass than there are places.
#[test]
fn hellos_that_come_at_once_wait_for_places() {
    const CROWD: usize = 20;
    with_seeds(4, |seed| {
        let mut scene = Scene::new(seed, 200);
        secure(&mut scene.config);
        for peer in scene.come(CROWD, Duration::ZERO) {
            scene.machine.at(100 * MILLI, move |kernel| kernel.say(peer, BEGINNING));
        }
        let most = Rc::new(Cell::new(0));
        let (_, seen) = scene.run_driver(CROWD as u32 * TIMEOUT, |turns| Doorkeeper { turns, most: most.clone() });
        assert_eq!((most.get(), seen.counters.handshakes_timed_out), (PLACES, CROWD as u64));
    });
}

/// A peer, and what it has of its connection.
struct Client {
    peer: usize,
    layer: Layer,
    /// Bytes that it has read.
    read: usize,
}

/// What the client calls its connection.
fn name() -> ConnId {
    ConnId::new(0, 0, 0)
}

impl Client {
    fn says_hello(&mut self, kernel: &mut Kernel) {
        let mut hello = Vec::new();
        self.layer.begin(name(), IpAddr::V4(Ipv4Addr::LOCALHOST), &mut hello).unwrap();
        kernel.say(self.peer, &hello);
    }

    fn ends_its_handshake(&mut self, kernel: &mut Kernel) {
        let (came, mut finished) = (self.hear(kernel), Vec::new());
        let shaken = self.layer.shake(name(), &came, &mut finished).unwrap();
        assert!(shaken.is_some_and(|shaken| shaken.rest.is_empty()));
        kernel.say(self.peer, &finished);
    }

    /// Says two records of so many bytes, without the last bytes of the second one, and has no more room for the answers.
    fn says_two_records(&mut self, kernel: &mut Kernel, missing: usize) {
        let mut records = Vec::new();
        self.layer.sessions.seal(name(), &[1; CONTENT], &mut records).unwrap();
        self.layer.sessions.seal(name(), &[2; CONTENT], &mut records).unwrap();
        kernel.sockets[self.peer].window = 100;
        kernel.say(self.peer, &records[..records.len() - missing]);
    }

    /// What has come since it last read.
    fn hear(&mut self, kernel: &Kernel) -> Vec<u8> {
        let heard = &kernel.sockets[self.peer].heard;
        heard[std::mem::replace(&mut self.read, heard.len())..].to_vec()
    }

    /// What the records are that have come, but tickets.
    fn opens(&mut self, kernel: &Kernel) -> Vec<Opened> {
        let (mut came, mut all) = (self.hear(kernel), Vec::new());
        let mut came = &mut came[..];
        while let Ok(Some(length)) = self.layer.sessions.record_length(name(), came) {
            let (record, rest) = came.split_at_mut(length);
            all.push(self.layer.sessions.open(name(), record).unwrap());
            came = rest;
        }
        all.retain(|opened| !matches!(opened, Opened::Tickets(_)));
        all
    }
}

/// Bytes that each of the client's records brings.
const CONTENT: usize = 3_000;

/// An echo of them, at the client.
const ECHO: Opened = Opened::Data(HEADER..HEADER + CONTENT);

/// When the client sends its records, and when it reads again: the most of a time for the second record is over then, if such times
/// follow each other.
const SENDS: Duration = Duration::from_millis(200);
const READS: Duration = Duration::from_millis(5_900);

/// Echoes, and closes its connection in order while the echo waits, if it is to.
struct Echoing {
    turns: Turns,
    closes: bool,
    conn: Option<ConnId>,
}

impl Driver<Machine> for Echoing {
    type State = ();

    fn opened(&mut self, _: &mut Simulated<()>, conn: ConnId) -> Result<()> {
        self.conn = Some(conn);
        Ok(())
    }

    fn received(&mut self, _: &mut Simulated<()>, _: ConnId, data: &mut [u8]) -> Result<Reply> {
        Ok(Reply::Back(0..data.len()))
    }

    fn ended(&mut self, _: &mut Simulated<()>, _: ConnId, reason: CloseReason) -> Result<()> {
        self.turns.seen().ended.push((self.turns.time(), reason));
        Ok(())
    }

    fn turn(&mut self, connections: &mut Simulated<()>, now: Instant, _command: u32) -> Result<Schedule> {
        let sent = self.turns.time() > SENDS + TIMEOUT / 2;
        if let Some(conn) = self.conn.take_if(|_| self.closes && sent) {
            connections.close(conn, CloseMode::Graceful, CloseReason::Local)?;
        }
        self.turns.turn(connections, now)
    }
}

/// A client sends two records, but for the last bytes of the second one, and then reads nothing for long, so that the echo of
/// the first one waits, and what it says is not received. Returns what it reads at last, and what the driver saw.
fn reads_late(closes: bool, missing: usize) -> (Vec<Opened>, Seen) {
    let mut scene = Scene::new(1, 200);
    let connector = secure(&mut scene.config);
    let peer = scene.come(1, Duration::ZERO).start;
    let layer = Layer::new(LayerConfig::new(Endpoint::Client(connector.for_shard()), 1));
    let client = Rc::new(RefCell::new(Client { peer, layer, read: 0 }));
    let does = |at: Duration, act: fn(&mut Client, &mut Kernel, usize)| {
        let client = client.clone();
        scene.machine.at(at, move |kernel| act(&mut client.borrow_mut(), kernel, missing));
    };
    does(SENDS / 4, |client, kernel, _| client.says_hello(kernel));
    does(SENDS / 2, |client, kernel, _| client.ends_its_handshake(kernel));
    does(SENDS, Client::says_two_records);
    does(READS, |client, kernel, _| kernel.take(client.peer, usize::MAX));
    // Nothing else wakes a driver that is to close.
    does(SENDS + TIMEOUT * 3 / 4, |_, kernel, _| kernel.ring_doorbell());
    let (machine, seen) = scene.run_driver(READS + 3 * TIMEOUT, |turns| Echoing { turns, closes, conn: None });
    (machine.kernel(|kernel| client.borrow_mut().opens(kernel)), seen)
}

/// The second record lies whole in the server's socket: its reader is slow, and its sender is not.
#[test]
fn a_record_behind_an_echo_that_waits_is_not_late() {
    let (opened, seen) = reads_late(false, 0);
    assert_eq!((&opened[..2], seen.counters.records_timed_out), (&[ECHO, ECHO][..], 0));
    assert_eq!(seen.ended_by(READS + 2 * TIMEOUT), 0);
}

#[test]
fn a_record_has_its_whole_time_after_an_echo_that_waited() {
    let (opened, seen) = reads_late(false, 1);
    assert_eq!((&opened[..], seen.counters.records_timed_out), (&[ECHO][..], 1));
    let [(at, CloseReason::Tls(TlsFailure::RecordTimeout))] = seen.ended[..] else { panic!("{:?}", seen.ended) };
    assert!((READS + TIMEOUT..READS + 2 * TIMEOUT).contains(&at), "at {at:?}");
}

/// A connection that is closed in order awaits no record: its last bytes are sent, however long its peer takes to read them.
#[test]
fn a_close_in_order_awaits_no_record() {
    let (opened, seen) = reads_late(true, 1);
    assert_eq!((&opened[..], seen.counters.records_timed_out), (&[ECHO, Opened::Alert(Alert::CLOSE_NOTIFY)][..], 0));
    let [(at, CloseReason::Local)] = seen.ended[..] else { panic!("{:?}", seen.ended) };
    assert!(at >= READS, "at {at:?}");
}
