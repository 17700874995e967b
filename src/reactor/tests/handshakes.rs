//! A crowd of TLS handshakes beside messages: how many steps a pass takes.

use std::net::IpAddr;

use super::*;
use crate::cli::demo::certificate;
use crate::connections::TURNS_BESIDE_MESSAGES;
use crate::tls::handshake::{Acceptor, ClientTls, Connector, TlsConfig, Trust};
use crate::tls::layer::{Endpoint, Layer, LayerConfig};

/// Counts the connections that are established.
#[derive(Default)]
struct Counting {
    opened: usize,
}

impl Driver for Counting {
    type State = ();

    fn opened(&mut self, _: &mut Connections<()>, _: ConnId) -> Result<()> {
        self.opened += 1;
        Ok(())
    }

    fn received(&mut self, _: &mut Connections<()>, _: ConnId, _: &mut [u8]) -> Result<Reply> {
        Ok(Reply::Nothing)
    }

    fn ended(&mut self, _: &mut Connections<()>, conn: ConnId, reason: CloseReason) -> Result<()> {
        panic!("{conn:?} ended: {reason:?}")
    }

    fn turn(&mut self, _: &mut Connections<()>, _: Instant, _: u32) -> Result<Schedule> {
        Ok(Schedule::OnEvent)
    }
}

const CLIENTS: usize = 12;

/// Steps of handshakes that a shard has taken: two for each that is over, and one for each that is under way.
fn steps(reactor: &Reactor<Counting>) -> usize {
    let under_way = reactor.connections.engine.tls.as_ref().map_or(0, |tls| tls.layer.handshakes());
    under_way + 2 * reactor.driver.opened
}

/// Passes, each of which has a message, until so many steps were taken. No pass takes more than it may.
fn pass_until(reactor: &mut Reactor<Counting>, enough: usize) {
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
    let (certificate, key) = certificate::make().unwrap();
    let acceptor = Acceptor::new(&TlsConfig::pem(certificate, key)).unwrap();
    let connector = Connector::new(&ClientTls { trust: Trust::Anyone, ..ClientTls::default() }).unwrap();
    let config = ConnectionsConfig {
        tls: Some(LayerConfig::new(Endpoint::Server(acceptor), CLIENTS)),
        ..ConnectionsConfig::new(vec![2 * CLIENTS as u32], CLIENTS as u64)
    };
    let doorbell = Doorbell::new().unwrap();
    let mut connections = Connections::new(config, &doorbell, Arc::default()).unwrap();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    connections.listen(vec![Arc::new(listener)], 2).unwrap();
    let mut reactor = Reactor::new(connections, Counting::default());
    // From here on the shard knows that it has messages.
    reactor.connections.counters().messages.add(1);
    reactor.pass(Instant::now(), || {}).unwrap();
    let name = ConnId::new(0, 0, 0);
    let mut clients: Vec<(Layer, TcpStream)> = Vec::new();
    // All hellos are there before the first pass.
    for _ in 0..CLIENTS {
        let mut layer = Layer::new(LayerConfig::new(Endpoint::Client(connector.for_shard()), 1));
        let (mut hello, mut stream) = (Vec::new(), TcpStream::connect(address).unwrap());
        layer.begin(name, IpAddr::V4(Ipv4Addr::LOCALHOST), &mut hello).unwrap();
        stream.write_all(&hello).unwrap();
        clients.push((layer, stream));
    }
    pass_until(&mut reactor, CLIENTS);
    for (layer, stream) in &mut clients {
        let (mut finished, mut buffer) = (Vec::new(), [0; 16 * 1024]);
        stream.set_nonblocking(true).unwrap();
        while !layer.sessions.has(name) {
            match stream.read(&mut buffer) {
                Ok(came) => drop(layer.shake(name, &buffer[..came], &mut finished).unwrap()),
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::WouldBlock);
                    // However long this thread had to wait for a processor, the shard has messages.
                    reactor.connections.counters().messages.add(1);
                    reactor.pass(Instant::now(), || {}).unwrap();
                }
            }
        }
        stream.write_all(&finished).unwrap();
    }
    pass_until(&mut reactor, 2 * CLIENTS);
}
