//! A shard: one thread on one core, with its connections and their reactor (`reactor.rs`). Its loop runs the reactor's
//! passes, asks the driver for its turn, and waits when there is nothing to do: it spins for a moment
//! (`shard/spin.rs`), then it sleeps (`shard/sleep.rs`). While it works other threads of its core have their turns
//! (`shard/time_slice.rs`). The thread belongs to an executor (`shard/executor.rs`), whose other tasks have a turn
//! every `TASKS_EVERY`.

mod executor;
mod hibernation;
mod sleep;
mod spin;
#[cfg(test)]
mod tests;
mod time_slice;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::connections::{Connections, ConnectionsConfig, Listening, Platform};
use crate::error::Result;
use crate::reactor::{Driver, Reactor, Schedule};
use crate::stats::{Counters, Rounds, Wakes};
use crate::sys::{self, Doorbell};

pub use executor::ShardThread;
pub use hibernation::SharedHibernation;
use sleep::{DoorbellSleeper, Sleeper};
use spin::Spin;
use time_slice::TimeSlice;

/// How long the loop runs at most before the executor's other tasks have a turn. One of them reads the doorbell during
/// a long sleep; otherwise nothing depends on them. Each turn costs the executor's system calls, and a message that
/// comes meanwhile waits for them.
const TASKS_EVERY: Duration = Duration::from_millis(100);

/// The shortest sleep. Setting a timer and waking up would take longer than a shorter one; and a timer that has already
/// expired lets no other thread run.
const SHORTEST_SLEEP: Duration = Duration::from_micros(20);

/// Another thread's access to a shard: a command, a doorbell, and counters to read.
#[derive(Debug, Clone)]
pub struct ShardHandle {
    command: Arc<AtomicU32>,
    doorbell: Doorbell,
    counters: Arc<Counters>,
    rounds: Arc<Rounds>,
    wakes: Arc<Wakes>,
}

impl ShardHandle {
    /// A handle for a shard that does not run yet; its first command is 0. Fails where no descriptor is left.
    pub fn new() -> Result<ShardHandle> {
        let doorbell = Doorbell::new()?;
        let (command, counters) = Default::default();
        Ok(ShardHandle { command, doorbell, counters, rounds: Arc::default(), wakes: Arc::default() })
    }

    /// Gives a command, and wakes the shard. Its meaning is up to the driver.
    pub fn command(&self, command: u32) {
        self.command.store(command, Ordering::Release);
        self.doorbell.ring();
    }

    /// The doorbell: it wakes the shard for a turn of its driver.
    pub fn doorbell(&self) -> &Doorbell {
        &self.doorbell
    }

    /// The shard's counters.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// How long the shard's rounds took.
    pub fn rounds(&self) -> &Rounds {
        &self.rounds
    }

    /// How long the shard's sleeping connections took to wake.
    pub fn wakes(&self) -> &Arc<Wakes> {
        &self.wakes
    }
}

/// Runs a shard on a thread of its own, pinned to `core`, until its driver is done. `build` makes the driver there,
/// once the rings are open; `finish` turns the driver into the result of `join`.
pub fn spawn<D, T>(
    name: &str,
    core: usize,
    handle: ShardHandle,
    config: ConnectionsConfig,
    build: impl FnOnce(&mut Connections<D::State>) -> Result<D> + Send + 'static,
    finish: impl FnOnce(D) -> T + Send + 'static,
) -> Result<ShardThread<T>>
where
    D: Driver,
    T: Send + 'static,
{
    executor::start(name, core, move || async move {
        sys::sleep_precisely();
        let mut connections = Connections::new(config, &handle.doorbell, handle.counters.clone())?;
        let driver = build(&mut connections)?;
        let sleeper = DoorbellSleeper::new(&handle.doorbell)?;
        let shard = Shard::new(Reactor::new(connections, driver), handle);
        let ended = shard.run(&sleeper).await;
        sleeper.close().await;
        ended.map(finish)
    })
}

/// The loop of a shard.
struct Shard<D: Driver<P>, P: Platform> {
    reactor: Reactor<D, P>,
    platform: P,
    handle: ShardHandle,
    time_slice: TimeSlice,
    spin: Spin,
    /// When the executor's other tasks last ran.
    tasks_ran: Instant,
    /// When the present round began; `None` right after a sleep.
    round: Option<Instant>,
    /// How long the last sleep was.
    last_sleep: Duration,
}

impl<D: Driver<P>, P: Platform> Shard<D, P> {
    fn new(reactor: Reactor<D, P>, handle: ShardHandle) -> Shard<D, P> {
        let platform = reactor.connections.engine.platform().clone();
        let now = platform.now();
        let (time_slice, spin) = (TimeSlice::new(now), Spin::default());
        Shard { reactor, platform, handle, time_slice, spin, tasks_ran: now, round: None, last_sleep: Duration::ZERO }
    }

    /// Runs until the driver is done, and returns it.
    async fn run(mut self, sleeper: &impl Sleeper) -> Result<D> {
        loop {
            let now = self.platform.now();
            if let Some(began) = self.round.replace(now) {
                self.handle.rounds.count(now.saturating_duration_since(began));
            }
            let engine = &mut self.reactor.connections.engine;
            engine.look(now);
            let traffic = engine.has_traffic(now);
            self.time_slice.set_length(traffic, engine.has_resets());
            let worked = self.pass(now, traffic)?;
            // Yield here, where everything is submitted. After the driver's turn, the driver's requests would have to
            // wait until the other threads have run.
            if now.saturating_duration_since(self.tasks_ran) > TASKS_EVERY {
                sleeper.yield_to_tasks().await;
                self.tasks_ran = self.platform.now();
            }
            let now = self.time_slice.yield_if_over(&self.platform);
            self.reactor.connections.note(now);
            let schedule = self.reactor.turn(now, self.handle.command.load(Ordering::Acquire))?;
            if schedule == Schedule::Finished {
                return Ok(self.reactor.driver);
            }
            if worked || schedule == Schedule::Now || sleeper.was_woken() {
                continue;
            }
            if self.reactor.connections.engine.has_resets_or_fins() {
                self.platform.nap(sleep::nap(traffic));
                continue;
            }
            self.rest(schedule, sleeper).await?;
        }
    }

    /// One pass of the reactor. Without messages it yields once, after all rings: more yields would not help.
    fn pass(&mut self, now: Instant, traffic: bool) -> Result<bool> {
        let (time_slice, platform) = (&mut self.time_slice, &self.platform);
        self.reactor.pass(now, || {
            if traffic {
                time_slice.yield_if_over(platform);
            }
        })
    }

    /// Waits until there is work, or something is due: it spins for a moment, sleeps for a moment in the first ring unless
    /// the last sleep was long, and then sleeps in the executor.
    async fn rest(&mut self, schedule: Schedule, sleeper: &impl Sleeper) -> Result<()> {
        let engine = &mut self.reactor.connections.engine;
        let turn = if let Schedule::At(at) = schedule { Some(at) } else { None };
        let due = turn.into_iter().chain(engine.due()).min();
        if self.spin.until(&self.platform, due, || engine.has_work()) {
            return Ok(());
        }
        if due.is_some_and(|due| due <= self.platform.now() + SHORTEST_SLEEP) {
            self.time_slice.yield_now(&self.platform);
            return Ok(());
        }
        engine.listen(Listening::InFirstRing);
        if !engine.has_work() {
            self.handle.counters.sleeps.add(1);
            let slept = self.platform.now();
            if let Some(began) = self.round.take() {
                self.handle.rounds.count(slept.saturating_duration_since(began));
            }
            let left = due.map_or(Duration::MAX, |due| due.saturating_duration_since(slept));
            engine.wait_in_ring(due, sleep::time_in_ring(left, self.last_sleep))?;
            let mut woke = self.platform.now();
            if !engine.has_work() && due.is_none_or(|due| woke < due) {
                engine.listen(Listening::AtDoorbell);
                if !engine.has_work() {
                    sleeper.sleep(due).await?;
                    woke = self.platform.now();
                    self.tasks_ran = woke;
                }
            }
            self.time_slice.slept(woke);
            self.last_sleep = woke.saturating_duration_since(slept);
            self.spin.learn(self.last_sleep);
        }
        engine.listen(Listening::Awake);
        Ok(())
    }
}
