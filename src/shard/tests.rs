//! The loop of a shard on a simulated machine: storms, silence, pauses and clocks that jump, without real waiting.
//!
//! Each test runs with several seeds. A failure prints its seed, and `C1M_SIM_SEED=seed` repeats that run.

use std::cell::{RefCell, RefMut};
use std::net::{Ipv4Addr, TcpListener};
use std::rc::Rc;
use std::task::{Context, Poll};

use futures_lite::pin;

use super::*;
use crate::clock::Suspended;
use crate::connections::{AdmissionGate, AdmissionState, CloseMode, CloseReason};
use crate::constants::BUFFER_BYTES;
use crate::pace::Pace;
use crate::reactor::Closing;
use crate::service::Reply;
use crate::simulation::{Chance, Ending, Machine, mixed, with_seeds};
use crate::stats::Snapshot;
use crate::token::ConnId;

mod hibernation;
mod leaving;
mod lingering;
mod peers;
mod storms;
#[cfg(feature = "cli")]
mod tls;

/// Accepts in flight. Each occupies a slot.
const ACCEPTS: u64 = 32;

const MILLI: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

/// The events that a driver saw, each with its time since the start.
#[derive(Debug, Default, PartialEq)]
struct Seen {
    opened: Vec<Duration>,
    ended: Vec<(Duration, CloseReason)>,
    /// The number of slots in use, each time that it changed.
    in_use: Vec<(Duration, u64)>,
    suspended: Suspended,
    counters: Snapshot,
}

impl Seen {
    /// How many connections had ended by a time.
    fn ended_by(&self, time: Duration) -> usize {
        self.ended.partition_point(|(at, _)| *at <= time)
    }

    /// The first time later than `after` at which at most `slots` slots were in use.
    fn freed(&self, slots: u64, after: Duration) -> Duration {
        let freed = self.in_use.iter().find(|(at, in_use)| *at > after && *in_use <= slots);
        freed.unwrap_or_else(|| panic!("{slots} slots are never free: {:?}", self.in_use.last())).0
    }
}

/// What every driver of a `Scene` does in its turn: it records the slots in use, and at a given time it closes
/// everything. It is finished when all slots are free.
struct Turns {
    machine: Machine,
    end: Duration,
    closing: Option<Closing>,
    seen: Rc<RefCell<Seen>>,
}

impl Turns {
    fn turn<S: Default + 'static>(
        &mut self,
        connections: &mut Connections<S, Machine>,
        now: Instant,
    ) -> Result<Schedule> {
        let (time, in_use) = (self.machine.elapsed(), connections.in_use());
        let seen = &mut *self.seen.borrow_mut();
        (seen.suspended, seen.counters) = (connections.clock().suspended(), connections.counters().snapshot());
        if seen.in_use.last().is_none_or(|(_, before)| *before != in_use) {
            seen.in_use.push((time, in_use));
        }
        if time < self.end {
            return Ok(Schedule::At(self.machine.instant(self.end)));
        }
        if self.closing.is_none() {
            connections.stop_listening()?;
            self.machine.kernel(|kernel| kernel.fail_accepts(libc::EINVAL));
        }
        let closing = self.closing.get_or_insert_with(|| Closing::new(CloseMode::Immediate, Pace::UNPACED));
        let schedule = closing.turn(connections, now)?;
        assert!(schedule != Schedule::Finished || connections.engine.peers_kept() == 0, "addresses of nobody are kept");
        Ok(schedule)
    }

    /// Now, since the start.
    fn time(&self) -> Duration {
        self.machine.elapsed()
    }

    /// What was seen so far.
    fn seen(&self) -> RefMut<'_, Seen> {
        self.seen.borrow_mut()
    }
}

/// Echoes, and records its calls.
struct Echo {
    turns: Turns,
    /// Its random choices, if it is to do anything at any time.
    chance: Option<Chance>,
}

impl Echo {
    /// If it may do anything: does something that a driver may do with a connection.
    fn meddle(&mut self, connections: &mut Connections<u32, Machine>, conn: ConnId, data: &[u8]) -> Result<Reply> {
        let Some(chance) = &mut self.chance else { return Ok(Reply::Back(0..data.len())) };
        match chance.below(64) {
            0 => Ok(Reply::Close),
            1 => {
                let mode = [CloseMode::Graceful, CloseMode::Lingering, CloseMode::Immediate, CloseMode::Abort]
                    [chance.below(4)];
                connections.close(conn, mode, CloseReason::Local)?;
                Ok(Reply::Back(0..data.len()))
            }
            2 => {
                // More bytes than are kept while the driver has a receive: the connection is reset as a slow reader.
                connections.send(conn, &[0; 3 * BUFFER_BYTES])?;
                Ok(Reply::Back(0..data.len()))
            }
            3..=20 => {
                let sent = chance.below(data.len() + 1);
                connections.send(conn, &data[..sent])?;
                Ok(Reply::Back(sent..data.len()))
            }
            _ => Ok(Reply::Back(0..data.len())),
        }
    }
}

impl Driver<Machine> for Echo {
    type State = u32;

    fn opened(&mut self, connections: &mut Connections<u32, Machine>, conn: ConnId) -> Result<()> {
        self.turns.seen().opened.push(self.turns.time());
        let number = self.turns.seen().opened.len() as u32;
        assert_eq!(connections.state(conn).map(|state| std::mem::replace(state, number)), Some(0), "another's state");
        Ok(())
    }

    fn received(
        &mut self,
        connections: &mut Connections<u32, Machine>,
        conn: ConnId,
        data: &mut [u8],
    ) -> Result<Reply> {
        self.meddle(connections, conn, data)
    }

    fn ended(
        &mut self,
        _connections: &mut Connections<u32, Machine>,
        _conn: ConnId,
        reason: CloseReason,
    ) -> Result<()> {
        self.turns.seen().ended.push((self.turns.time(), reason));
        Ok(())
    }

    fn turn(&mut self, connections: &mut Connections<u32, Machine>, now: Instant, _command: u32) -> Result<Schedule> {
        self.turns.turn(connections, now)
    }
}

/// Sleeps at the doorbell as the simulated machine does.
struct SimulatedSleeper(Machine);

impl Sleeper for SimulatedSleeper {
    fn was_woken(&self) -> bool {
        false
    }

    async fn sleep(&self, until: Option<Instant>) -> Result<()> {
        self.0.sleep(until);
        Ok(())
    }

    async fn yield_to_tasks(&self) {}
}

/// A shard with a number of slots, and the events that happen to it.
struct Scene {
    machine: Machine,
    chance: Chance,
    config: ConnectionsConfig,
    /// Whether the driver does anything at any time.
    meddles: bool,
}

impl Scene {
    fn new(seed: u64, slots: u32) -> Scene {
        let capacity = u64::from(slots) - 2 * ACCEPTS;
        let config = ConnectionsConfig::new(vec![slots.div_ceil(2), slots / 2], capacity);
        Scene { machine: Machine::new(seed), chance: Chance(mixed(seed)), config, meddles: false }
    }

    /// Peers connect from a time on, one every 10 us. Returns their numbers.
    fn come(&self, count: usize, from: Duration) -> std::ops::Range<usize> {
        let first = self.machine.kernel(|kernel| kernel.expect(count));
        for peer in first..first + count {
            let at = from + Duration::from_micros(10) * (peer - first) as u32;
            self.machine.at(at, move |kernel| kernel.connect(peer));
        }
        first..first + count
    }

    /// Peers send a byte each, at an even pace.
    fn talk(&mut self, peers: std::ops::Range<usize>, every: Duration, from: Duration, to: Duration) -> Talk {
        let mut said = Vec::new();
        for peer in peers.clone() {
            let mut at = from + self.chance.time(every);
            let mut times = Vec::new();
            while at < to {
                self.machine.at(at, move |kernel| kernel.say(peer, b"!"));
                times.push(at);
                at += every;
            }
            said.push(times);
        }
        Talk { peers, said }
    }

    /// Runs the shard until a time, and then until everything is closed.
    fn run(self, end: Duration) -> (Machine, Seen) {
        let chance = self.meddles.then_some(Chance(self.chance.0));
        self.run_driver(end, |turns| Echo { turns, chance })
    }

    /// The same with a driver of its own.
    fn run_driver<D: Driver<Machine>>(self, end: Duration, driver: impl FnOnce(Turns) -> D) -> (Machine, Seen) {
        let Scene { machine, config, .. } = self;
        let seen = Rc::new(RefCell::new(Seen::default()));
        let turns = Turns { machine: machine.clone(), end, closing: None, seen: seen.clone() };
        run_shard(&machine, config, driver(turns));
        let seen = seen.take();
        assert_eq!(seen.counters.stale, 0, "a completion of an earlier connection");
        (machine, seen)
    }
}

/// Runs a shard on a machine until its driver is done.
fn run_shard<D: Driver<Machine>>(machine: &Machine, config: ConnectionsConfig, driver: D) {
    let handle = ShardHandle::new().unwrap();
    let mut connections = Connections::on(machine.clone(), config, handle.counters.clone()).unwrap();
    connections.bring_peer_addresses();
    let listener = Arc::new(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
    connections.listen(vec![listener], ACCEPTS as usize).unwrap();
    let shard = Shard::new(Reactor::new(connections, driver), handle);
    let sleeper = SimulatedSleeper(machine.clone());
    let run = shard.run(&sleeper);
    pin!(run);
    // The future waits for nothing outside of the machine.
    match run.poll(&mut Context::from_waker(std::task::Waker::noop())) {
        Poll::Ready(ended) => drop(ended.unwrap()),
        Poll::Pending => panic!("the shard waits for something outside of the simulated machine"),
    }
}

/// The bytes that some peers have sent, and when.
struct Talk {
    peers: std::ops::Range<usize>,
    said: Vec<Vec<Duration>>,
}

impl Talk {
    /// The longest time from a byte to its echo. Every byte must have been echoed.
    fn longest_wait(&self, machine: &Machine) -> Duration {
        let mut longest = Duration::ZERO;
        for (peer, said) in self.peers.clone().zip(&self.said) {
            let heard = machine.kernel(|kernel| kernel.heard(peer));
            assert_eq!(heard.len(), said.len(), "peer {peer} was not answered");
            longest = heard.iter().zip(said).map(|(heard, said)| *heard - *said).fold(longest, Duration::max);
        }
        longest
    }
}
