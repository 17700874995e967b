//! TLS at a server: how many handshakes are under way.

use std::cell::Cell;

use super::*;
use crate::cli::demo::certificate;
use crate::tls::handshake::{Acceptor, TlsConfig};
use crate::tls::layer::{Endpoint, LayerConfig};

type Simulated<S> = Connections<S, Machine>;

/// Handshakes at once at most.
pub(super) const PLACES: usize = 2;

/// How long a handshake may take, and a record until it is whole.
pub(super) const TIMEOUT: Duration = SECOND;

/// The beginning of a hello, whose rest never comes.
pub(super) const BEGINNING: &[u8] = &[22, 3, 1, 2, 0, 1, 0];

/// Has a shard's connections speak TLS.
pub(super) fn secure(config: &mut ConnectionsConfig) {
    let (certificate, key) = certificate::make().unwrap();
    let acceptor = Acceptor::new(&TlsConfig::pem(certificate, key)).unwrap();
    config.tls = Some(LayerConfig { timeout: TIMEOUT, ..LayerConfig::new(Endpoint::Server(acceptor), PLACES) });
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
