//! Connections that sleep before their TLS handshake is over.

use super::*;
use crate::cli::demo::certificate;
use crate::tls::handshake::{Acceptor, TlsConfig};
use crate::tls::layer::{Endpoint, LayerConfig};

/// Is told of no connection.
struct Stranger(Turns);

impl Driver<Machine> for Stranger {
    type State = ();

    fn opened(&mut self, _: &mut Connections<(), Machine>, conn: ConnId) -> Result<()> {
        panic!("{conn:?} opened")
    }

    fn received(&mut self, _: &mut Connections<(), Machine>, conn: ConnId, _: &mut [u8]) -> Result<Reply> {
        panic!("{conn:?} received")
    }

    fn slept(&mut self, _: &mut Connections<(), Machine>, conn: ConnId) -> Result<()> {
        panic!("{conn:?} slept")
    }

    fn woke(&mut self, _: &mut Connections<(), Machine>, conn: ConnId) -> Result<()> {
        panic!("{conn:?} woke")
    }

    fn ended(&mut self, _: &mut Connections<(), Machine>, conn: ConnId, _: CloseReason) -> Result<()> {
        panic!("{conn:?} ended")
    }

    fn turn(&mut self, connections: &mut Connections<(), Machine>, now: Instant, _: u32) -> Result<Schedule> {
        self.0.turn(connections, now)
    }
}

/// Some peers say nothing, some begin a handshake, and some send what is none. The driver hears of none of them, and their
/// addresses are not kept (`Turns::turn`), whether their end comes from here, from the peer, or with the shard's.
#[test]
fn a_driver_hears_of_no_connection_whose_handshake_is_not_over() {
    const PEERS: usize = 64;
    with_seeds(4, |seed| {
        let mut night = Night::new(seed, PEERS as u32, 2 * PEERS as u32, Catcher::default());
        let (certificate, key) = certificate::make().unwrap();
        let acceptor = Acceptor::new(&TlsConfig::pem(certificate, key)).unwrap();
        let tls = LayerConfig::new(Endpoint::Server(acceptor), PEERS);
        let timeout = tls.timeout;
        night.config.tls = Some(tls);
        // Some are still there when the shard ends.
        let end = timeout + 2 * SECOND;
        for (count, from) in [(PEERS / 2, Duration::ZERO), (PEERS / 2, end - SECOND)] {
            for peer in night.come(count, from, MILLI) {
                let at = from + SECOND / 2 + night.chance.time(MILLI);
                night.machine.at(at, move |kernel| match peer % 4 {
                    0 => {}
                    1 => kernel.say(peer, &[22, 3, 1]),
                    2 => kernel.say(peer, b"GET / HTTP/1.1\r\n\r\n"),
                    _ => kernel.fin(peer),
                });
            }
        }
        let Night { machine, config, .. } = night;
        let seen = Rc::new(RefCell::new(Seen::default()));
        let turns = Turns { machine: machine.clone(), end, closing: None, seen: seen.clone() };
        run_shard(&machine, config, Stranger(turns));
        let Snapshot { opened, hibernated, woken_by_peer, handshakes_timed_out, .. } = seen.take().counters;
        assert_eq!(opened, PEERS as u64);
        assert!(hibernated >= opened && woken_by_peer >= opened / 2, "{hibernated} slept, {woken_by_peer} woke");
        assert_eq!(handshakes_timed_out, opened / 4);
    });
}
