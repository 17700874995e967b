//! Connections that sleep, on a simulated machine: nothing is lost, torn or doubled, whatever happens in whatever order.

use std::cell::Cell;
use std::collections::{HashMap, VecDeque};

use super::*;
use crate::connections::{EntryMemory, HibernationConfig, SleepersFrom, Surrendered};
use crate::simulation::{Catcher, Faults, Kernel, Network};
use crate::stats::Wakes;
use crate::sys::{Patience, SharedMemory};
use crate::takeover::StateFile;

mod broadcasts;
mod crowds;
mod ends;
#[cfg(feature = "cli")]
mod hellos;
mod kills;
mod orders;
mod socketless;
#[cfg(feature = "cli")]
mod unopened;

/// The silence after which connections are put to sleep.
const AFTER: Duration = Duration::from_millis(200);

/// A connection that was used sleeps after so long, if nothing hinders it: a quarter more, and a grace period.
const ASLEEP: Duration = Duration::from_millis(280);

/// What the driver is told to do, beside its own choices. Connections are numbered from 1 on, as they opened.
#[derive(Debug, Clone, Copy)]
enum Command {
    /// What comes from now on is kept, to be sent back later.
    Collect,
    /// What comes from now on is sent back at once.
    Echo,
    /// What was kept for a connection is sent back.
    Push(u32),
    /// One byte of what was kept for a connection is sent back.
    PushOne(u32),
    /// What was kept for each connection is sent back.
    PushAll,
    /// From now on it makes no choices of its own, and what comes or was kept is sent back at once.
    Settle,
    Close(u32, CloseMode),
    /// Reads of a connection are paused and resumed.
    Pause(u32),
    /// Whatever comes next on a connection, what was kept for this one is sent back.
    PushAtNext(u32),
    /// All sleeping connections are given to another process, but for this one, which is reset meanwhile.
    GiveAllBut(u32),
    /// What was given comes back.
    TakeBack,
    /// All sleeping connections are handed over to another process.
    HandOver,
    /// That process is killed, and they come back.
    Inherit,
    /// The process is killed, and a new one finds the entries. Nothing happens if the driver was not told of all yet: it lives on
    /// here.
    Restart,
    /// From now on what comes is sent back, and the driver wants to be told when that is sent. It says so behind the first bytes of an
    /// even number, and before an odd one.
    Watch,
    /// From now on each connection that wakes is closed.
    CloseAtWake(CloseMode),
}

/// A connection as the driver knows it.
struct Held {
    number: u32,
    asleep: bool,
    kept: Vec<u8>,
}

/// What a keeper saw.
#[derive(Debug, Default)]
struct Kept {
    opened: u32,
    slept: u64,
    woke: u64,
    /// How often all of a connection was sent, of which the driver wanted to be told or some had waited.
    sent: u64,
    most_asleep: u64,
    most_lingering: u64,
    most_timers: usize,
    turns: u64,
    /// Each end: when, of which number, and why.
    ended: Vec<(Duration, u32, CloseReason)>,
    in_use: Vec<(Duration, u64)>,
    /// Bytes that were kept for a connection at its end, and that nobody tried to send.
    unsent: usize,
    /// How long each connection was silent when everything was closed at last.
    silences: Vec<Duration>,
    counters: Snapshot,
}

impl Kept {
    fn ended_by(&self, time: Duration) -> usize {
        self.ended.partition_point(|(at, ..)| *at <= time)
    }
}

/// Sends back what came, at once or later, and checks that what it is told fits together.
struct Keeper {
    machine: Machine,
    end: Duration,
    how: (CloseMode, Option<f64>),
    closing: Option<Closing>,
    commands: Rc<RefCell<VecDeque<Command>>>,
    collects: bool,
    pushes: Option<u32>,
    watches: bool,
    closes_at_wake: Option<CloseMode>,
    /// How long it thinks before it goes on with a connection that woke.
    ponders: Duration,
    /// Choices of its own.
    chance: Option<Chance>,
    held: HashMap<ConnId, Held>,
    names: Vec<ConnId>,
    /// What another process was told of the sleeping connections.
    given: Surrendered,
    seen: Rc<RefCell<Kept>>,
}

type Simulated = Connections<u32, Machine>;

impl Keeper {
    fn held(&mut self, connections: &Simulated, conn: ConnId) -> &mut Held {
        let held = self.held.get_mut(&conn).expect("it stands");
        assert_eq!(connections.peek(conn), Some(&held.number), "another's state");
        held
    }

    fn push(&mut self, connections: &mut Simulated, conn: ConnId) -> Result<()> {
        let Some(held) = self.held.get_mut(&conn) else { return Ok(()) };
        let kept = std::mem::take(&mut held.kept);
        if kept.is_empty() {
            return Ok(());
        }
        match self.chance.as_mut().map_or(0, |chance| chance.below(3)) {
            0 => connections.send(conn, &kept),
            1 => connections.send_shared(conn, &kept.into()),
            _ => {
                let (first, second) = kept.split_at(kept.len() / 2);
                connections.send(conn, first)?;
                connections.send(conn, second)
            }
        }
    }

    fn push_all(&mut self, connections: &mut Simulated) -> Result<()> {
        for at in 0..self.names.len() {
            self.push(connections, self.names[at])?;
        }
        Ok(())
    }

    fn obey(&mut self, connections: &mut Simulated, command: Command) -> Result<()> {
        let name = |names: &[ConnId], number: u32| names.get(number as usize - 1).copied();
        match command {
            Command::Collect => self.collects = true,
            Command::Echo => self.collects = false,
            Command::Push(number) => {
                if let Some(name) = name(&self.names, number) {
                    self.push(connections, name)?;
                }
            }
            Command::PushOne(number) => {
                let name = name(&self.names, number);
                if let Some((name, held)) = name.and_then(|name| self.held.get_mut(&name).map(|held| (name, held)))
                    && !held.kept.is_empty()
                {
                    let byte = held.kept.remove(0);
                    connections.send(name, &[byte])?;
                }
            }
            Command::PushAll => self.push_all(connections)?,
            Command::Settle => {
                (self.chance, self.collects) = (None, false);
                self.push_all(connections)?;
            }
            Command::Close(number, mode) => {
                if let Some(name) = name(&self.names, number) {
                    connections.close(name, mode, CloseReason::Local)?;
                }
            }
            Command::Pause(number) => {
                if let Some(name) = name(&self.names, number) {
                    pause(connections, name)?;
                }
            }
            Command::PushAtNext(number) => self.pushes = Some(number),
            Command::GiveAllBut(number) => {
                assert!(connections.may_surrender());
                connections.begin_to_give();
                let name = self.names[number as usize - 1];
                connections.close(name, CloseMode::Abort, CloseReason::Local)?;
                give_all(connections);
            }
            Command::TakeBack => {
                let names = connections.stop_giving();
                self.greet(connections, names);
            }
            Command::HandOver => self.hand_over(connections),
            Command::Inherit => {
                let given = std::mem::take(&mut self.given);
                self.inherit(connections, SleepersFrom::Successor(given))?;
            }
            Command::Restart if connections.may_surrender() => {
                self.hand_over(connections);
                self.inherit(connections, SleepersFrom::Nobody)?;
            }
            Command::Restart => {}
            Command::Watch => self.watches = true,
            Command::CloseAtWake(mode) => self.closes_at_wake = Some(mode),
        }
        Ok(())
    }

    /// Another process has the sleeping connections, and sleeps itself.
    fn hand_over(&mut self, connections: &mut Simulated) {
        assert!(connections.may_surrender());
        connections.begin_to_give();
        give_all(connections);
        self.given = connections.surrender_sleepers();
        self.machine.kernel(|kernel| kernel.catcher.as_mut().expect("they sleep").patience = Patience::Asleep);
    }

    /// That process is killed. This one has not said until now what wakes it.
    fn inherit(&mut self, connections: &mut Simulated, from: SleepersFrom) -> Result<()> {
        let patience = self.machine.kernel(|kernel| kernel.catcher.as_ref().expect("they sleep").patience);
        assert_eq!(patience, Patience::Asleep, "another process would not be woken");
        connections.take_over_sleepers(from, &|_, _| true)?;
        let names = connections.sleeping();
        self.greet(connections, names);
        Ok(())
    }

    /// Sleeping connections have come back, without a state.
    fn greet(&mut self, connections: &mut Simulated, names: Vec<ConnId>) {
        for name in names {
            let state = connections.state(name).expect("it is here again");
            assert_eq!(std::mem::replace(state, self.held[&name].number), 0, "the state that was given away");
        }
    }

    /// Where it has choices of its own, something that a driver may do at any time.
    fn meddle(&mut self, connections: &mut Simulated) -> Result<()> {
        let Some(chance) = &mut self.chance else { return Ok(()) };
        if !chance.one_in(3) || self.names.is_empty() {
            return Ok(());
        }
        let conn = self.names[chance.below(self.names.len())];
        let mode = [CloseMode::Graceful, CloseMode::Lingering, CloseMode::Immediate, CloseMode::Abort][chance.below(4)];
        match chance.below(60) {
            0 => connections.close(conn, mode, CloseReason::Local),
            1 => {
                self.push(connections, conn)?;
                connections.close(conn, CloseMode::Graceful, CloseReason::Local)
            }
            2..=4 => {
                self.collects = !self.collects;
                Ok(())
            }
            5..=8 => pause(connections, conn),
            _ => self.push(connections, conn),
        }
    }
}

/// Pauses the reads of a connection for no time, which wakes it.
fn pause(connections: &mut Simulated, conn: ConnId) -> Result<()> {
    connections.pause_reads(conn)?;
    connections.resume_reads(conn)
}

/// Gives all sleeping connections away, with their states.
fn give_all(connections: &mut Simulated) {
    let mut rows = usize::MAX;
    while let Some(name) = connections.next_to_give(&mut rows) {
        assert!(connections.peek(name).is_some(), "its state goes along");
        connections.give(name);
    }
}

impl Driver<Machine> for Keeper {
    type State = u32;

    fn opened(&mut self, connections: &mut Simulated, conn: ConnId) -> Result<()> {
        let seen = &mut *self.seen.borrow_mut();
        seen.opened += 1;
        let number = seen.opened;
        assert_eq!(connections.state(conn).map(|state| std::mem::replace(state, number)), Some(0), "another's state");
        let former = self.held.insert(conn, Held { number, asleep: false, kept: Vec::new() });
        assert!(former.is_none(), "opened twice");
        self.names.push(conn);
        Ok(())
    }

    fn received(&mut self, connections: &mut Simulated, conn: ConnId, data: &mut [u8]) -> Result<Reply> {
        assert!(self.closes_at_wake.is_none(), "bytes of a connection that it has closed");
        let (collects, watches) = (self.collects, self.watches);
        let held = self.held(connections, conn);
        assert!(!held.asleep, "bytes of a connection that sleeps");
        if watches {
            if data.len() % 2 == 1 {
                connections.tell_when_sent(conn);
                return connections.send(conn, data).map(|()| Reply::Nothing);
            }
            let (first, second) = data.split_at(50);
            connections.send(conn, first)?;
            assert_eq!(connections.watch_pending(conn), first.len(), "what it has sent is pending");
            return connections.send(conn, second).map(|()| Reply::Nothing);
        }
        if collects || !held.kept.is_empty() {
            held.kept.extend_from_slice(data);
            if !collects {
                self.push(connections, conn)?;
            }
            if let Some(number) = self.pushes.take() {
                self.push(connections, self.names[number as usize - 1])?;
            }
            self.meddle(connections)?;
            return Ok(Reply::Nothing);
        }
        let split = self.chance.as_mut().map_or(0, |chance| chance.below(2) * chance.below(data.len() + 1));
        if split > 0 {
            connections.send(conn, &data[..split])?;
        }
        self.meddle(connections)?;
        Ok(Reply::Back(split..data.len()))
    }

    fn slept(&mut self, connections: &mut Simulated, conn: ConnId) -> Result<()> {
        let held = self.held(connections, conn);
        assert!(!std::mem::replace(&mut held.asleep, true), "asleep twice");
        self.seen.borrow_mut().slept += 1;
        self.meddle(connections)
    }

    fn woke(&mut self, connections: &mut Simulated, conn: ConnId) -> Result<()> {
        let held = self.held(connections, conn);
        assert!(std::mem::replace(&mut held.asleep, false), "awake twice");
        self.seen.borrow_mut().woke += 1;
        self.machine.kernel(|kernel| kernel.pass(self.ponders));
        if let Some(mode) = self.closes_at_wake {
            return connections.close(conn, mode, CloseReason::Local);
        }
        // What is sent now stands before the reply to the segment that woke it.
        if self.chance.as_mut().is_some_and(|chance| chance.one_in(2)) {
            self.push(connections, conn)?;
        }
        self.meddle(connections)
    }

    fn sent(&mut self, connections: &mut Simulated, conn: ConnId) -> Result<()> {
        self.held(connections, conn);
        self.seen.borrow_mut().sent += 1;
        Ok(())
    }

    fn ended(&mut self, connections: &mut Simulated, conn: ConnId, reason: CloseReason) -> Result<()> {
        let Held { number, kept, .. } = self.held(connections, conn);
        let (number, kept) = (*number, kept.len());
        self.held.remove(&conn);
        self.seen.borrow_mut().unsent += kept;
        self.seen.borrow_mut().ended.push((self.machine.elapsed(), number, reason));
        Ok(())
    }

    fn turn(&mut self, connections: &mut Simulated, now: Instant, _command: u32) -> Result<Schedule> {
        let (time, in_use) = (self.machine.elapsed(), connections.in_use());
        {
            let seen = &mut *self.seen.borrow_mut();
            seen.counters = connections.counters().snapshot();
            seen.turns += 1;
            seen.most_asleep = seen.most_asleep.max(seen.counters.asleep);
            seen.most_lingering = seen.most_lingering.max(seen.counters.lingering);
            seen.most_timers = seen.most_timers.max(connections.engine.timers_of_sleepers());
            if seen.in_use.last().is_none_or(|(_, before)| *before != in_use) {
                seen.in_use.push((time, in_use));
            }
        }
        while let Some(command) = { self.commands.borrow_mut().pop_front() } {
            self.obey(connections, command)?;
        }
        if time < self.end {
            return Ok(Schedule::At(self.machine.instant(self.end)));
        }
        if self.closing.is_none() {
            self.seen.borrow_mut().silences = self.names.iter().filter_map(|name| connections.silence(*name)).collect();
            connections.stop_listening()?;
            self.machine.kernel(|kernel| kernel.fail_accepts(libc::EINVAL));
        }
        let (mode, rate) = self.how;
        let start = connections.clock().start(now);
        let closing = self.closing.get_or_insert_with(|| Closing::new(mode, Pace::new(start, rate)));
        let schedule = closing.turn(connections, now)?;
        if schedule == Schedule::Finished && connections.engine.left_of_sleepers() != (0, 0) {
            // Some that ended while they were drowsy wait for their grace period, others for FINs of their peers.
            assert!(time < self.end + 300 * SECOND, "{:?}", connections.engine.left_of_sleepers());
            return Ok(Schedule::At(now + 50 * MILLI));
        }
        Ok(schedule)
    }
}

/// A shard whose connections may sleep, and what happens to it.
struct Night {
    machine: Machine,
    chance: Chance,
    config: ConnectionsConfig,
    wakes: Arc<Wakes>,
    commands: Rc<RefCell<VecDeque<Command>>>,
    /// How everything is closed in the end, and how many of them a second.
    how: (CloseMode, Option<f64>),
    meddles: bool,
    ponders: Duration,
}

impl Night {
    /// So many slots beyond those that accepts need, and so many connections at most.
    fn new(seed: u64, slots: u32, most: u32, catcher: Catcher) -> Night {
        let machine = Machine::new(seed);
        let mut config = ConnectionsConfig::new(vec![slots + ACCEPTS as u32], u64::from(most));
        let host = Box::new(machine.catch(catcher));
        let wakes = Arc::<Wakes>::default();
        config.hibernation = Some(HibernationConfig {
            wakes: wakes.clone(),
            after: AFTER,
            keepalive: None,
            most,
            most_drowsy: 64,
            keeps_descriptors: false,
            memory: None,
            socketless: false,
            host,
        });
        let how = (CloseMode::Immediate, None);
        let chance = Chance(mixed(seed));
        let (meddles, ponders) = (false, Duration::ZERO);
        Night { machine, chance, config, wakes, commands: Rc::default(), how, meddles, ponders }
    }

    /// So many peers connect from a time on, one every so often. Returns their numbers.
    fn come(&self, count: usize, from: Duration, every: Duration) -> std::ops::Range<usize> {
        let first = self.machine.kernel(|kernel| kernel.expect(count));
        for peer in first..first + count {
            let at = from + every * (peer - first) as u32;
            self.machine.at(at, move |kernel| kernel.connect(peer));
        }
        first..first + count
    }

    /// The entries of sleepers are in memory that another process may have too, so that they can be handed over.
    fn share_entries(&mut self) {
        let memory = |name| SharedMemory::new(name).unwrap();
        let memory = EntryMemory { entries: memory("entries"), addresses: memory("addresses") };
        let hibernation = self.config.hibernation.as_mut().expect("they sleep");
        hibernation.memory = Some((memory, StateFile::new(1).unwrap().window(0)));
    }

    /// Has the driver do something at a time.
    fn command(&self, at: Duration, command: Command) {
        let commands = self.commands.clone();
        self.machine.at(at, move |kernel| {
            commands.borrow_mut().push_back(command);
            kernel.ring_doorbell();
        });
    }

    /// A peer sends bytes at a time.
    fn say(&self, at: Duration, peer: usize, count: usize) {
        self.machine.at(at, move |kernel| kernel.say_next(peer, count));
    }

    /// Runs the shard until a time, and then until everything is closed.
    fn run(self, end: Duration) -> (Machine, Kept) {
        let Night { machine, chance, config, wakes, commands, how, meddles, ponders } = self;
        let needs_sockets = config.hibernation.as_ref().is_some_and(|hibernation| !hibernation.socketless);
        let seen = Rc::new(RefCell::new(Kept::default()));
        let driver = Keeper {
            machine: machine.clone(),
            end,
            how,
            closing: None,
            commands,
            collects: false,
            pushes: None,
            watches: false,
            closes_at_wake: None,
            ponders,
            chance: meddles.then_some(chance),
            held: HashMap::new(),
            names: Vec::new(),
            given: Surrendered::default(),
            seen: seen.clone(),
        };
        run_shard(&machine, config, driver);
        let seen = seen.take();
        let Snapshot { live, opened, closed, asleep, lingering, stale, .. } = seen.counters;
        let Snapshot { hibernated, woken_by_peer, woken_by_send, lost_in_takeover: lost, .. } = seen.counters;
        assert_eq!((live, asleep, lingering, stale), (0, 0, 0, 0));
        assert_eq!((u64::from(seen.opened), seen.ended.len() as u64), (opened, closed));
        assert_eq!((opened, seen.slept, seen.woke), (closed + lost, hibernated, woken_by_peer + woken_by_send));
        // A restore takes 16 us, and then the driver is told.
        let least = ponders + if needs_sockets { 16 * MILLI / 1_000 } else { Duration::ZERO };
        let wakes = wakes.read();
        let shortest = wakes.buckets().find(|(_, count)| *count > 0).and_then(|(bound, _)| bound);
        assert_eq!(wakes.all(), woken_by_peer, "a wake by a segment counts once");
        assert!(shortest.is_none_or(|bound| bound >= least), "a wake within {shortest:?}");
        machine.kernel(|kernel| {
            let catcher = kernel.catcher.as_ref().expect("connections may sleep");
            assert!(catcher.is_empty(), "a connection is in the table that is gone");
        });
        (machine, seen)
    }
}

/// How many of a peer's bytes it has heard. All that it heard must be what it said, in order.
fn heard(machine: &Machine, peer: usize) -> usize {
    machine.kernel(|kernel| {
        let heard = &kernel.sockets[peer].heard;
        let wrong = heard.iter().enumerate().find(|(at, byte)| **byte != Kernel::byte(peer, *at));
        assert!(wrong.is_none(), "peer {peer} heard something else than it said: {wrong:?} of {}", heard.len());
        heard.len()
    })
}

/// How many bytes a peer said and did not hear.
fn missing(machine: &Machine, peer: usize) -> usize {
    machine.kernel(|kernel| kernel.sockets[peer].said) - heard(machine, peer)
}
