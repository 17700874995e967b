//! TLS on real rings: how many steps of handshakes a pass takes beside messages, which handshakes are ended, and what goes
//! before an alert.

use std::net::IpAddr;

use super::*;
use crate::cli::demo::certificate;
use crate::clock::LONGEST_LOOK;
use crate::connections::TURNS_BESIDE_MESSAGES;
use crate::error::{Alert, TlsFailure};
use crate::tls::handshake::{Acceptor, ClientTls, Connector, TlsConfig, Trust};
use crate::tls::layer::{Endpoint, Layer, LayerConfig};
use crate::tls::record::{LARGEST_CONTENT, Opened, Side};
use crate::wiped::Wiped;

/// Sends back what comes, and counts the connections that are established.
#[derive(Default)]
struct Echoing {
    opened: usize,
    ended: Vec<CloseReason>,
}

impl Driver for Echoing {
    type State = ();

    fn opened(&mut self, _: &mut Connections<()>, _: ConnId) -> Result<()> {
        self.opened += 1;
        Ok(())
    }

    fn received(&mut self, _: &mut Connections<()>, _: ConnId, data: &mut [u8]) -> Result<Reply> {
        Ok(Reply::Back(0..data.len()))
    }

    fn ended(&mut self, _: &mut Connections<()>, _: ConnId, reason: CloseReason) -> Result<()> {
        self.ended.push(reason);
        Ok(())
    }

    fn sent(&mut self, _: &mut Connections<()>, _: ConnId) -> Result<()> {
        assert!(self.opened > 0, "told of a connection that is not open");
        Ok(())
    }

    fn turn(&mut self, _: &mut Connections<()>, _: Instant, _: u32) -> Result<Schedule> {
        Ok(Schedule::OnEvent)
    }
}

/// A shard of a server that speaks TLS, at an address, and what begins its clients' handshakes.
struct House {
    reactor: Reactor<Echoing>,
    address: SocketAddr,
    connector: Connector,
    _doorbell: Doorbell,
}

/// Handshakes at once at most. There are twice as many slots.
const HANDSHAKES: usize = 12;

/// How long a handshake or a record may take, where a test says so.
const TIMEOUT: Duration = Duration::from_secs(1);

impl House {
    fn new(change: impl FnOnce(&mut LayerConfig)) -> House {
        let (certificate, key) = certificate::make().unwrap();
        let acceptor = Acceptor::new(&TlsConfig::pem(certificate, key)).unwrap();
        let connector = Connector::new(&ClientTls { trust: Trust::Anyone, ..ClientTls::default() }).unwrap();
        let mut tls = LayerConfig::new(Endpoint::Server(acceptor), HANDSHAKES);
        change(&mut tls);
        let config = ConnectionsConfig {
            tls: Some(tls),
            ..ConnectionsConfig::new(vec![2 * HANDSHAKES as u32], HANDSHAKES as u64)
        };
        let doorbell = Doorbell::new().unwrap();
        let mut connections = Connections::new(config, &doorbell, Arc::default()).unwrap();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        connections.listen(vec![Arc::new(listener)], 2).unwrap();
        let reactor = Reactor::new(connections, Echoing::default());
        House { reactor, address, connector, _doorbell: doorbell }
    }

    /// A pass. No time goes by for deadlines.
    fn pass(&mut self) {
        self.reactor.pass(Instant::now(), || {}).unwrap();
        self.reactor.tell_ended().unwrap();
    }

    /// Passes until something holds.
    fn pass_until(&mut self, what: &str, holds: impl Fn(&Reactor<Echoing>) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !holds(&self.reactor) {
            assert!(Instant::now() < deadline, "{what}");
            self.pass();
        }
    }

    /// Passes until a client's handshake is over at its end, and sends what ends it here.
    fn shake(&mut self, client: &mut Client) {
        let mut finished = Vec::new();
        while !client.layer.sessions.has(name()) {
            let came = self.hear(client);
            client.layer.shake(name(), &came, &mut finished).unwrap();
        }
        client.stream.write_all(&finished).unwrap();
    }

    /// Passes until something comes at a client, which is empty at the end of the connection.
    fn hear(&mut self, client: &mut Client) -> Vec<u8> {
        let mut buffer = [0; 16 * 1024];
        let deadline = Instant::now() + PATIENCE;
        loop {
            match client.stream.read(&mut buffer) {
                Ok(came) => return buffer[..came].to_vec(),
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
            }
            assert!(Instant::now() < deadline, "nothing comes");
            // However long this thread had to wait for a processor, the shard has messages.
            self.reactor.connections.counters().messages.add(1);
            self.pass();
        }
    }
}

/// A client, and its connection.
struct Client {
    layer: Layer,
    stream: TcpStream,
}

/// What each client calls its connection.
fn name() -> ConnId {
    ConnId::new(0, 0, 0)
}

impl Client {
    /// Sends its hello.
    fn new(house: &House) -> Client {
        let mut layer = Layer::new(LayerConfig::new(Endpoint::Client(house.connector.for_shard()), 1));
        let (mut hello, mut stream) = (Vec::new(), TcpStream::connect(house.address).unwrap());
        layer.begin(name(), IpAddr::V4(Ipv4Addr::LOCALHOST), &mut hello).unwrap();
        stream.write_all(&hello).unwrap();
        stream.set_nonblocking(true).unwrap();
        Client { layer, stream }
    }

    /// Opens what came, but tickets.
    fn open(&mut self, mut came: &mut [u8]) -> Vec<Opened> {
        let mut all = Vec::new();
        while let Ok(Some(length)) = self.layer.sessions.record_length(name(), came) {
            let (record, rest) = came.split_at_mut(length);
            match self.layer.sessions.open(name(), record).unwrap() {
                Opened::Tickets(_) => {}
                opened => all.push(opened),
            }
            came = rest;
        }
        all
    }
}

/// Steps of handshakes that a shard has taken: two for each that is over, and one for each that is under way.
fn steps(reactor: &Reactor<Echoing>) -> usize {
    let under_way = reactor.connections.engine.tls.as_ref().map_or(0, |tls| tls.layer.handshakes());
    under_way + 2 * reactor.driver.opened
}

/// Passes, each of which has a message, until so many steps were taken. No pass takes more than it may.
fn pass_until(reactor: &mut Reactor<Echoing>, enough: usize) {
    let deadline = Instant::now() + PATIENCE;
    while steps(reactor) < enough {
        assert!(Instant::now() < deadline, "{} steps of {enough}", steps(reactor));
        reactor.connections.counters().messages.add(1);
        let before = steps(reactor);
        reactor.pass(Instant::now(), || {}).unwrap();
        let taken = steps(reactor) - before;
        assert!(taken <= TURNS_BESIDE_MESSAGES, "{taken} steps in a pass");
    }
}

#[test]
fn a_crowd_of_handshakes_takes_a_bounded_part_of_each_pass() {
    let mut house = House::new(|_| {});
    // From here on the shard knows that it has messages.
    house.reactor.connections.counters().messages.add(1);
    house.reactor.pass(Instant::now(), || {}).unwrap();
    // All hellos are there before the first pass.
    let mut clients: Vec<_> = (0..HANDSHAKES).map(|_| Client::new(&house)).collect();
    pass_until(&mut house.reactor, HANDSHAKES);
    clients.iter_mut().for_each(|client| house.shake(client));
    pass_until(&mut house.reactor, 2 * HANDSHAKES);
    assert_eq!(house.reactor.driver.ended, []);
}

/// A handshake that does not go on is closed in its time, however many connections came before it and ended.
#[test]
fn a_handshake_that_hangs_is_closed_in_time_beside_a_crowd_that_leaves() {
    const CROWD: u64 = 2_000;
    let mut house = House::new(|tls| tls.timeout = TIMEOUT);
    // It says nothing, and is the first whose time is over.
    let silent = TcpStream::connect(house.address).unwrap();
    house.pass_until("the silent one comes", |reactor| reactor.connections.counters().live.get() == 1);
    for left in 1..=CROWD {
        let stream = TcpStream::connect(house.address).unwrap();
        SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
        drop(stream);
        let counted = move |reactor: &Reactor<_>| reactor.connections.counters().handshakes_abandoned.get() == left;
        house.pass_until("one of the crowd leaves", counted);
    }
    let mut hanging = TcpStream::connect(house.address).unwrap();
    hanging.write_all(&[22, 3, 1, 2, 0, 1, 0]).unwrap();
    house.pass_until("the hanging one begins", |reactor| steps(reactor) == 1);
    let awaited = house.reactor.connections.engine.tls.as_ref().unwrap().awaited();
    assert!(awaited < 100, "{awaited} deadlines of two connections");
    let (begin, looks) = (Instant::now(), TIMEOUT.div_duration_f64(LONGEST_LOOK) as u32);
    (1..=looks).for_each(|look| house.reactor.connections.engine.look(begin + LONGEST_LOOK * look));
    // Some passes suffice.
    (0..3).for_each(|_| house.pass());
    assert_eq!(house.reactor.connections.counters().handshakes_timed_out.get(), 2);
    drop((silent, hanging));
}

/// Of the records that one send makes the last ones may need the next key.
#[test]
fn a_key_update_within_a_send_is_counted() {
    let mut house = House::new(|_| {});
    let mut client = Client::new(&house);
    house.shake(&mut client);
    house.pass_until("the handshake is over", |reactor| reactor.driver.opened == 1);
    let (conn, _) = house.reactor.connections.next_live(Cursor::START).unwrap();
    // Its key may seal one more record: the number of the next one is in its last word, behind the kind of session, the other
    // direction's word and a secret of 32 bytes.
    let sessions = &mut house.reactor.connections.engine.tls.as_mut().unwrap().layer.sessions;
    let mut session = Wiped::default();
    assert!(sessions.carry(conn, &mut session));
    let mut session = session.to_vec();
    session[1 + 8 + 32..][..7].copy_from_slice(&((1u64 << 24) - 1).to_le_bytes()[..7]);
    sessions.bring(conn, Side::Server, &session).unwrap();
    let before = house.reactor.connections.counters().snapshot();
    house.reactor.connections.send(conn, &[7; 2 * LARGEST_CONTENT]).unwrap();
    let after = house.reactor.connections.counters().snapshot();
    assert_eq!((after.key_updates - before.key_updates, after.records_sealed - before.records_sealed), (1, 2));
}

/// A step of a handshake may have to wait for its peer to read. The driver does not know the connection yet.
#[test]
fn a_driver_is_not_told_that_a_step_of_a_handshake_was_sent() {
    let mut house = House::new(|_| {});
    let mut hanging = TcpStream::connect(house.address).unwrap();
    house.pass_until("it comes", |reactor| reactor.connections.counters().live.get() == 1);
    let (conn, _) = house.reactor.connections.last_live(Cursor::END).unwrap();
    // As if a send of the handshake had waited.
    house.reactor.connections.tell_when_sent(conn);
    hanging.write_all(&[22, 3, 1, 2, 0, 1, 0]).unwrap();
    house.pass_until("it begins", |reactor| steps(reactor) == 1);
    (0..3).for_each(|_| house.pass());
}

/// An echo and then the beginning of a record, for which there is no room: the echo was sealed before the alert, and comes
/// before it.
#[test]
fn a_reply_goes_before_the_alert_for_lack_of_room() {
    let mut house = House::new(|tls| tls.most_incomplete = 0);
    let mut client = Client::new(&house);
    house.shake(&mut client);
    let mut records = Vec::new();
    client.layer.sessions.seal(name(), b"hello", &mut records).unwrap();
    client.layer.sessions.seal(name(), &[7; 100], &mut records).unwrap();
    client.stream.write_all(&records[..records.len() - 1]).unwrap();
    let mut all = Vec::new();
    loop {
        match house.hear(&mut client) {
            came if came.is_empty() => break,
            came => all.extend(came),
        }
    }
    let [Opened::Data(echo), Opened::Alert(alert)] = &client.open(&mut all)[..] else { panic!("{all:?}") };
    assert_eq!((echo.len(), *alert), (5, Alert::INTERNAL_ERROR));
    let counters = house.reactor.connections.counters();
    assert_eq!((counters.records_refused.get(), counters.alerts_sent.get()), (1, 1));
}

/// A client that has sent a record but its last byte.
fn client_of_half_a_record() -> (House, Client) {
    let mut house = House::new(|tls| tls.timeout = TIMEOUT);
    let mut client = Client::new(&house);
    house.shake(&mut client);
    house.pass_until("the handshake is over", |reactor| reactor.driver.opened == 1);
    let mut record = Vec::new();
    client.layer.sessions.seal(name(), b"hello", &mut record).unwrap();
    client.stream.write_all(&record[..record.len() - 1]).unwrap();
    let is_kept = |reactor: &Reactor<_>| {
        let tls = reactor.connections.engine.tls.as_ref();
        tls.is_some_and(|tls| tls.layer.record_due().is_some())
    };
    house.pass_until("the beginning of the record is kept", is_kept);
    (house, client)
}

/// In its turn a driver judges what is late itself. It has heard of all ends by then.
#[test]
fn a_driver_hears_of_a_late_record_before_its_turn() {
    let (mut house, _client) = client_of_half_a_record();
    let (begin, looks) = (Instant::now(), TIMEOUT.div_duration_f64(LONGEST_LOOK) as u32 + 1);
    (1..=looks).for_each(|look| house.reactor.connections.engine.look(begin + LONGEST_LOOK * look));
    house.reactor.pass(Instant::now(), || {}).unwrap();
    assert_eq!(house.reactor.driver.ended, [CloseReason::Tls(TlsFailure::RecordTimeout)]);
}

/// A record that was begun before a pause has its whole time again after it.
#[test]
fn a_record_has_its_whole_time_after_a_pause_of_reads() {
    let (mut house, _client) = client_of_half_a_record();
    let (conn, _) = house.reactor.connections.next_live(Cursor::START).unwrap();
    let mut now = Instant::now();
    let mut wait = |house: &mut House| {
        for _ in 0..(0.7 * TIMEOUT.div_duration_f64(LONGEST_LOOK)) as u32 {
            now += LONGEST_LOOK;
            house.reactor.connections.engine.look(now);
        }
        (0..3).for_each(|_| house.pass());
        house.reactor.connections.counters().records_timed_out.get()
    };
    house.reactor.connections.pause_reads(conn).unwrap();
    assert_eq!(wait(&mut house), 0);
    house.reactor.connections.resume_reads(conn).unwrap();
    assert_eq!(wait(&mut house), 0, "the time before the pause counts");
    assert_eq!(wait(&mut house), 1);
    assert_eq!(house.reactor.driver.ended, [CloseReason::Tls(TlsFailure::RecordTimeout)]);
}
