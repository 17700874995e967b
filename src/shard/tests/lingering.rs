//! Connections that are closed while their peers still send.

use std::cell::Cell;

use super::*;

/// Refuses what comes first on each connection, and closes it so that it lingers.
struct Refusing {
    turns: Turns,
    /// The most that lingered at once.
    most: Rc<Cell<u64>>,
}

impl Driver<Machine> for Refusing {
    type State = Option<Rc<()>>;

    fn opened(&mut self, connections: &mut Connections<Self::State, Machine>, conn: ConnId) -> Result<()> {
        self.turns.seen().opened.push(self.turns.time());
        *connections.state(conn).unwrap() = Some(Rc::new(()));
        Ok(())
    }

    fn received(
        &mut self,
        connections: &mut Connections<Self::State, Machine>,
        conn: ConnId,
        _: &mut [u8],
    ) -> Result<Reply> {
        connections.send(conn, b"no")?;
        connections.close(conn, CloseMode::Lingering, CloseReason::Local)?;
        Ok(Reply::Nothing)
    }

    fn ended(
        &mut self,
        connections: &mut Connections<Self::State, Machine>,
        conn: ConnId,
        reason: CloseReason,
    ) -> Result<()> {
        assert!(connections.state(conn).unwrap().is_some(), "its state can be read");
        self.turns.seen().ended.push((self.turns.time(), reason));
        Ok(())
    }

    fn turn(&mut self, connections: &mut Connections<Self::State, Machine>, now: Instant, _: u32) -> Result<Schedule> {
        self.most.set(self.most.get().max(connections.counters().lingering.get()));
        self.turns.turn(connections, now)
    }
}

/// Runs a scene, and returns also how many connections lingered at once at most.
fn refuse(scene: Scene, end: Duration) -> (Machine, Seen, u64) {
    let most = Rc::new(Cell::new(0));
    let (machine, seen) = scene.run_driver(end, |turns| Refusing { turns, most: most.clone() });
    assert_eq!(seen.counters.lingering, 0);
    (machine, seen, most.get())
}

/// Peers that are refused get the answer and a FIN, and no reset while they send on. Their slots are free when they
/// end. The driver is not told of what they send.
#[test]
fn what_peers_send_on_is_dropped_until_they_end() {
    const PEERS: usize = 30;
    with_seeds(4, |seed| {
        let mut scene = Scene::new(seed, 400);
        let peers = scene.come(PEERS, Duration::ZERO);
        for peer in peers.clone() {
            let mut at = 10 * MILLI + scene.chance.time(10 * MILLI);
            while at < 500 * MILLI {
                let most = if scene.chance.one_in(8) { 2 * BUFFER_BYTES } else { 100 };
                let bytes = 1 + scene.chance.below(most);
                scene.machine.at(at, move |kernel| kernel.say_next(peer, bytes));
                at += MILLI + scene.chance.time(20 * MILLI);
            }
            let resets = scene.chance.one_in(8);
            let end = 500 * MILLI + scene.chance.time(100 * MILLI);
            scene.machine.at(end, move |kernel| if resets { kernel.reset(peer) } else { kernel.fin(peer) });
        }
        let (machine, seen, most) = refuse(scene, SECOND);
        assert_eq!((most, seen.counters.messages), (PEERS as u64, PEERS as u64), "what was dropped is no message");
        let said: usize = peers.clone().map(|peer| machine.kernel(|kernel| kernel.sockets[peer].said)).sum();
        assert!(seen.counters.bytes_in < said as u64 / 4, "what was dropped counts as received");
        for peer in peers {
            let socket = machine.kernel(|kernel| std::mem::take(&mut kernel.sockets[peer]));
            assert_eq!((&socket.heard[..], socket.ended.unwrap().0), (&b"no"[..], Ending::Fin), "peer {peer}");
            assert!(socket.said > 100 && socket.inbox.is_empty(), "peer {peer}");
        }
        assert_eq!(seen.ended_by(50 * MILLI), PEERS, "their drivers know at once");
        assert!(seen.ended.iter().all(|(_, reason)| *reason == CloseReason::Local));
        assert!(seen.freed(ACCEPTS, 100 * MILLI) > 500 * MILLI, "{:?}", seen.in_use);
        assert!(seen.freed(ACCEPTS, 100 * MILLI) < 700 * MILLI, "{:?}", seen.in_use);
    });
}

/// A connection lingers for a time, and for no time at all if new connections want the slots.
#[test]
fn peers_that_never_end_are_closed() {
    const PEERS: usize = 30;
    with_seeds(4, |seed| {
        let scene = Scene::new(seed, 400);
        for peer in scene.come(PEERS, Duration::ZERO) {
            scene.machine.at(10 * MILLI, move |kernel| kernel.say(peer, b"!"));
        }
        let (_, seen, most) = refuse(scene, 20 * SECOND);
        assert_eq!(most, PEERS as u64);
        let freed = seen.freed(ACCEPTS, 100 * MILLI);
        assert!((10 * SECOND..11 * SECOND).contains(&freed), "{freed:?}");
        // Many more than there are slots, one after the other.
        let scene = Scene::new(seed, 100);
        let first = scene.machine.kernel(|kernel| kernel.expect(10 * PEERS));
        for peer in first..first + 10 * PEERS {
            scene.machine.at(MILLI * (peer - first) as u32, move |kernel| {
                kernel.connect(peer);
                kernel.say(peer, b"!");
            });
        }
        let (_, seen, _) = refuse(scene, 5 * SECOND);
        assert_eq!((seen.opened.len(), seen.ended_by(SECOND)), (10 * PEERS, 10 * PEERS), "{:?}", seen.in_use);
        assert_eq!(seen.counters.refused_when_full, 0);
    });
}
