//! Connections that are closed while their peers still send.

use super::*;

/// Refuses what comes first on each connection, and closes it so that it lingers.
struct Refusing {
    machine: Machine,
    end: Duration,
    closing: Option<Closing>,
    seen: Rc<RefCell<Seen>>,
}

impl Driver<Machine> for Refusing {
    type State = Option<Rc<()>>;

    fn opened(&mut self, connections: &mut Connections<Self::State, Machine>, conn: ConnId) -> Result<()> {
        self.seen.borrow_mut().opened.push(self.machine.elapsed());
        *connections.state(conn).unwrap() = Some(Rc::new(()));
        Ok(())
    }

    fn received(&mut self, net: &mut Connections<Self::State, Machine>, conn: ConnId, _: &mut [u8]) -> Result<Reply> {
        net.send(conn, b"no")?;
        net.close(conn, CloseMode::Lingering, CloseReason::Local)?;
        Ok(Reply::Nothing)
    }

    fn ended(&mut self, net: &mut Connections<Self::State, Machine>, conn: ConnId, reason: CloseReason) -> Result<()> {
        assert!(net.state(conn).unwrap().is_some(), "its state can be read");
        self.seen.borrow_mut().ended.push((self.machine.elapsed(), reason));
        Ok(())
    }

    fn turn(&mut self, connections: &mut Connections<Self::State, Machine>, now: Instant, _: u32) -> Result<Schedule> {
        let (time, in_use) = (self.machine.elapsed(), connections.in_use());
        let seen = &mut *self.seen.borrow_mut();
        seen.counters = connections.counters().snapshot();
        if seen.in_use.last().is_none_or(|(_, before)| *before != in_use) {
            seen.in_use.push((time, in_use));
        }
        if time < self.end {
            return Ok(Schedule::At(self.machine.instant(self.end)));
        }
        if self.closing.is_none() {
            connections.stop_listening()?;
            self.machine.kernel(|kernel| kernel.fail_accepts());
        }
        let closing = self.closing.get_or_insert_with(|| Closing::new(CloseMode::Immediate, Pace::UNPACED));
        closing.turn(connections, now)
    }
}

fn refuse(scene: Scene, end: Duration) -> (Machine, Seen) {
    let Scene { machine, config, .. } = scene;
    let seen = Rc::new(RefCell::new(Seen::default()));
    let driver = Refusing { machine: machine.clone(), end, closing: None, seen: seen.clone() };
    run_shard(&machine, config, driver);
    let seen = seen.take();
    assert_eq!(seen.counters.stale, 0, "a completion of an earlier connection");
    (machine, seen)
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
        let (machine, seen) = refuse(scene, SECOND);
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
        let (_, seen) = refuse(scene, 20 * SECOND);
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
        let (_, seen) = refuse(scene, 5 * SECOND);
        assert_eq!((seen.opened.len(), seen.ended_by(SECOND)), (10 * PEERS, 10 * PEERS), "{:?}", seen.in_use);
        assert_eq!(seen.counters.refused_when_full, 0);
    });
}
