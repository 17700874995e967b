//! TLS with connections that slept before their handshakes began.

use super::super::tls::{BEGINNING, Doorkeeper, PLACES, TIMEOUT, secure};
use super::*;

/// A crowd that was silent begins at once. Each has a socket again, and its hello waits there as those of others do.
#[test]
fn hellos_of_sleepers_wait_for_places() {
    const CROWD: usize = 50;
    with_seeds(4, |seed| {
        let mut night = Night::new(seed, CROWD as u32, CROWD as u32 + ACCEPTS as u32, Catcher::default());
        secure(&mut night.config);
        for peer in night.come(CROWD, Duration::ZERO, Duration::from_micros(10)) {
            night.machine.at(2 * ASLEEP, move |kernel| kernel.say(peer, BEGINNING));
        }
        let Night { machine, chance, config, .. } = night;
        let (most, scene) = (Rc::new(Cell::new(0)), Scene { machine, chance, config, meddles: false });
        let (_, seen) = scene.run_driver(CROWD as u32 * TIMEOUT, |turns| Doorkeeper { turns, most: most.clone() });
        assert!(seen.counters.woken_by_peer >= CROWD as u64, "{} woke", seen.counters.woken_by_peer);
        assert_eq!((most.get(), seen.counters.handshakes_timed_out), (PLACES, CROWD as u64));
    });
}
