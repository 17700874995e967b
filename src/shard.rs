//! One core: a glommio executor, the connections it owns (`connections.rs`), and the pump that turns
//! completions into calls of a `Driver`. Knows no role and no protocol.
//!
//! The pump enters every ring that has work, hands its completions on, asks the driver for its
//! turn, and waits when there is nothing to do (`shard/sleep.rs`). While it works other threads of its core
//! have their turns (`shard/time_slice.rs`), and glommio's other tasks one every `GLOMMIO_EVERY`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use futures_lite::future;
use glommio::{GlommioError, LocalExecutorBuilder, Placement};

use crate::connections::{Admission, CloseMode, CloseReason, Connections, ConnectionsConfig};
use crate::constants::{
    BACKLOG_TIME, ENTERS_PER_PASS, GLOMMIO_IO_MEMORY, GLOMMIO_PREEMPTION, GLOMMIO_RING_DEPTH, REAPS_PER_PASS,
};
use crate::error::{Errno, Error, HostError, Result, ThreadReason};
use crate::host::not_started;
use crate::ring::{self, Completion, Outcome};
use crate::service::Reply;
use crate::stats::{Counters, Rounds};
use crate::sys::{self, Doorbell};
use crate::token::{ConnId, Token};
use sleep::{Slept, Spin, Waker};
use time_slice::TimeSlice;

mod sleep;
#[cfg(test)]
mod tests;
mod time_slice;

/// How long the pump runs at most before glommio's other tasks have a turn: the one that hears the
/// doorbell in a long sleep, and nobody's otherwise. Each turn costs system calls of glommio's, and a message
/// that comes meanwhile waits for them.
const GLOMMIO_EVERY: Duration = Duration::from_millis(100);

/// No sleep is shorter: setting a timer and waking up would take longer, and a timer that has expired by
/// then lets nobody else run.
const SHORTEST_SLEEP: Duration = Duration::from_micros(20);

/// What the driver wants after its turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Schedule {
    /// Another turn at once: there is more to do.
    Now,
    /// A turn at this instant, or when something happens.
    At(Instant),
    /// A turn when something happens.
    OnEvent,
    /// The shard is finished.
    Finished,
}

/// A role: what to do when something happens to a connection. Lives on one shard, shares nothing.
pub trait Driver: 'static {
    /// Kept in each connection's row.
    type State: Default + 'static;

    /// A connection stands.
    fn opened(&mut self, net: &mut Connections<Self::State>, conn: ConnId) -> Result<()>;

    /// Bytes came.
    fn received(&mut self, net: &mut Connections<Self::State>, conn: ConnId, data: &mut [u8]) -> Result<Reply>;

    /// A connection is gone, or never came to be. Its state can still be read in this call.
    fn ended(&mut self, net: &mut Connections<Self::State>, conn: ConnId, why: CloseReason) -> Result<()>;

    /// Once a pass of the pump: whatever no completion calls for. `command` is the last one given
    /// to the shard's `ShardHandle`.
    fn turn(&mut self, net: &mut Connections<Self::State>, now: Instant, command: u32) -> Result<Schedule>;
}

/// How other threads reach a shard: a command word, a doorbell, and counters to read.
#[derive(Debug, Clone)]
pub struct ShardHandle {
    command: Arc<AtomicU32>,
    doorbell: Doorbell,
    counters: Arc<Counters>,
    rounds: Arc<Rounds>,
}

impl ShardHandle {
    /// A remote for a shard that does not run yet; its first command is 0.
    pub fn new() -> Result<ShardHandle> {
        let doorbell = Doorbell::new()?;
        Ok(ShardHandle { command: Arc::default(), doorbell, counters: Arc::default(), rounds: Arc::default() })
    }

    /// Gives a command, and wakes the shard. What it means is the driver's.
    pub fn command(&self, command: u32) {
        self.command.store(command, Ordering::Release);
        self.doorbell.ring();
    }

    /// Wakes the shard for a turn.
    pub fn wake(&self) {
        self.doorbell.ring();
    }

    /// The shard's counters.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// How long the shard's rounds took.
    pub fn rounds(&self) -> &Rounds {
        &self.rounds
    }
}

/// Runs a shard on a thread of its own, pinned to `core`, until its driver is done. `build` makes
/// the driver there, once the rings stand; `finish` turns it into what `join` returns.
pub fn spawn<D, T>(
    name: &str,
    core: usize,
    remote: ShardHandle,
    plan: ConnectionsConfig,
    build: impl FnOnce(&mut Connections<D::State>) -> Result<D> + Send + 'static,
    finish: impl FnOnce(D) -> T + Send + 'static,
) -> Result<ShardThread<T>>
where
    D: Driver,
    T: Send + 'static,
{
    let handle = LocalExecutorBuilder::new(Placement::Fixed(core))
        .name(name)
        .io_memory(GLOMMIO_IO_MEMORY)
        .ring_depth(GLOMMIO_RING_DEPTH)
        .preempt_timer(GLOMMIO_PREEMPTION)
        .spawn(move || async move {
            sys::sleep_precisely();
            let mut net = Connections::new(plan, &remote.doorbell, remote.counters.clone())?;
            let driver = build(&mut net)?;
            Shard::new(net, driver).pump(&remote).await.map(finish)
        })
        .map_err(|error| executor_refused(core, error))?;
    Ok(ShardThread { handle, core })
}

/// A shard's thread.
pub struct ShardThread<T: Send + 'static> {
    handle: glommio::ExecutorJoinHandle<Result<T>>,
    core: usize,
}

impl<T: Send + 'static> ShardThread<T> {
    /// Waits for the shard's end.
    pub fn join(self) -> Result<T> {
        self.handle.join().map_err(|error| executor_refused(self.core, error))?
    }
}

/// Why an executor did not start, or ended.
fn executor_refused(core: usize, error: GlommioError<()>) -> Error {
    let core = format!("core {core}");
    match error {
        GlommioError::IoError(error) | GlommioError::EnhancedIoError { source: error, .. } => match Errno::of(&error) {
            Errno::EAGAIN => not_started(format!("an executor on {core}"), &error),
            _ => ring::refused("executor on", core, &error),
        },
        error => HostError::new("executor on", core, None, ThreadReason::Executor(error.to_string())).into(),
    }
}

struct Shard<D: Driver> {
    net: Connections<D::State>,
    driver: D,
    /// Completions being handed on, kept for its memory.
    batch: Vec<Completion>,
    /// Sends that are done, kept for its memory.
    sent: Vec<Token>,
    /// When it lets others run on its core.
    time_slice: TimeSlice,
}

impl<D: Driver> Shard<D> {
    fn new(net: Connections<D::State>, driver: D) -> Shard<D> {
        Shard { net, driver, batch: Vec::new(), sent: Vec::new(), time_slice: TimeSlice::new() }
    }

    async fn pump(mut self, remote: &ShardHandle) -> Result<D> {
        let waker = Waker::listen(&remote.doorbell)?;
        let mut spin = Spin::default();
        let mut glommio_ran = Instant::now();
        let mut began: Option<Instant> = None;
        loop {
            let now = Instant::now();
            if let Some(began) = began.replace(now) {
                remote.rounds().count(now.duration_since(began));
            }
            self.net.look(now);
            let talking = self.net.is_talking(now);
            self.time_slice.set_length(talking, self.net.has_resets());
            let worked = self.pass(now, talking)?;
            // Here, where the kernel has all that the shard wants: what the driver asks for in its
            // turn is not to wait until the others have had theirs.
            if now.duration_since(glommio_ran) > GLOMMIO_EVERY {
                future::yield_now().await;
                glommio_ran = Instant::now();
            }
            let now = self.time_slice.yield_if_over();
            self.net.note(now);
            let turn = self.driver.turn(&mut self.net, now, remote.command.load(Ordering::Acquire))?;
            self.tell_ended()?;
            if turn == Schedule::Finished {
                return Ok(self.driver);
            }
            if worked || turn == Schedule::Now || waker.take() {
                continue;
            }
            if self.net.take_resets() {
                sleep::nap(talking);
                continue;
            }
            let due = self.wake_at(turn);
            if spin.until(due, || self.net.has_work()) {
                continue;
            }
            if due.is_some_and(|due| due <= Instant::now() + SHORTEST_SLEEP) {
                self.time_slice.yield_now();
                continue;
            }
            self.net.wake_on_completion(true)?;
            if !self.net.has_work() {
                self.net.counters().sleeps.add(1);
                let slept = Instant::now();
                if let Some(began) = began.take() {
                    remote.rounds().count(slept.duration_since(began));
                }
                self.net.sleep(due);
                if waker.wait(due).await == Slept::InGlommio {
                    glommio_ran = Instant::now();
                }
                if waker.is_broken() {
                    return Err(Error::bug("the doorbell of a shard cannot be read any more"));
                }
                let woke = Instant::now();
                self.time_slice.slept(woke);
                spin.learn(woke.duration_since(slept));
            }
            self.net.wake_on_completion(false)?;
        }
    }

    /// When to wake although nothing happened.
    fn wake_at(&self, turn: Schedule) -> Option<Instant> {
        let turn = match turn {
            Schedule::At(at) => Some(at),
            _ => None,
        };
        turn.into_iter().chain(self.net.due()).min()
    }

    /// Enters every ring that has work, and hands on what completed. Tells whether any had.
    /// While nobody talks the rings are one turn: shorter ones would only be more of them.
    fn pass(&mut self, now: Instant, talking: bool) -> Result<bool> {
        let mut worked = self.net.take_notifications(now)?;
        for lane in 0..self.net.used() {
            if !self.net.rings[lane].ring.has_work() {
                continue;
            }
            worked = true;
            // A message is three steps at least: ready, received, answered. They follow each other
            // here, and not in three passes with the work of all other rings between them.
            let mut since = None;
            for entered in 1.. {
                self.net.enter(lane)?;
                self.drain(lane, now)?;
                let ring = &mut self.net.rings[lane].ring;
                let goes_on = match entered < ENTERS_PER_PASS {
                    true => ring.has_work(),
                    false => ring.has_backlog() && since.get_or_insert_with(Instant::now).elapsed() < BACKLOG_TIME,
                };
                if !goes_on {
                    break;
                }
            }
            if talking {
                self.time_slice.yield_if_over();
            }
        }
        while let Some((conn, admission)) = self.net.next_admission() {
            self.admit(conn, admission)?;
        }
        self.net.replenish(now)?;
        self.net.resume(now)?;
        Ok(worked)
    }

    fn drain(&mut self, lane: usize, now: Instant) -> Result<()> {
        let mut batch = std::mem::take(&mut self.batch);
        let mut emptied = false;
        // What is handed on may fill the submission queue, whose early submission completes more:
        // peers that never stop sending could keep us here, and the rest of the shard deaf.
        for _ in 0..REAPS_PER_PASS {
            self.net.rings[lane].ring.reap(&mut batch)?;
            if batch.is_empty() {
                emptied = true;
                break;
            }
            for completion in batch.drain(..) {
                self.dispatch(lane, completion, now)?;
                self.tell_ended()?;
            }
        }
        self.batch = batch;
        if emptied {
            self.finish_sends(lane)?;
            // Before the next enter frees the row of one that ended.
            self.tell_ended()?;
        }
        Ok(())
    }

    fn finish_sends(&mut self, lane: usize) -> Result<()> {
        let net = &mut self.net;
        net.rings[lane].ring.finish_sends(&mut net.buffers, &mut self.sent);
        for token in self.sent.drain(..) {
            net.operation_ended(ConnId::new(lane, token.slot, token.generation))?;
        }
        Ok(())
    }

    fn dispatch(&mut self, lane: usize, completion: Completion, now: Instant) -> Result<()> {
        let net = &mut self.net;
        // Of a cancel that found nothing to do, perhaps because its tenant was gone already.
        match completion.outcome {
            Outcome::Settled => return Ok(()),
            Outcome::BellRang => {
                net.bell_rang();
                return Ok(());
            }
            _ => {}
        }
        let Some(conn) = net.owner(lane, &completion) else {
            return self.stale(completion.outcome);
        };
        match completion.outcome {
            Outcome::Accepted(plain) => {
                net.accept_ended(conn);
                if let Some(socket) = plain
                    && !net.install_accepted(conn, socket)?
                {
                    net.abandon(conn);
                    net.pause_accepts(now);
                } else if let Some(admission) = net.try_admit(conn) {
                    self.admit(conn, admission)?;
                }
            }
            Outcome::AcceptFailed { pause, .. } => {
                net.accept_ended(conn);
                net.abandon(conn);
                if pause {
                    net.pause_accepts(now);
                }
            }
            Outcome::Connected => {
                let admission = net.admission();
                if !self.admit(conn, admission)? {
                    // Whoever dialed is owed an end. A table without room is short of memory too.
                    self.net.ended.push_back((conn, CloseReason::NotOpened(Errno::ENOMEM)));
                }
            }
            Outcome::ConnectFailed(errno) => net.dial_failed(conn, errno)?,
            Outcome::Ready { armed, over: true, .. } => net.reset_seen(conn, armed)?,
            Outcome::Ready { armed, fin: true, .. } => net.fin_came(conn, armed, now)?,
            Outcome::Ready { armed, .. } => net.ready(conn, armed)?,
            Outcome::Received { buffer, len, more } => self.received(conn, buffer, len, more)?,
            Outcome::Empty(buffer) => {
                net.buffers.put(buffer);
                net.came_empty(conn)?;
            }
            Outcome::End(buffer) => {
                net.buffers.put(buffer);
                net.peer_ended(conn, now)?;
                net.operation_ended(conn)?;
            }
            Outcome::ReceiveFailed(buffer, errno) | Outcome::SendFailed(buffer, errno) => {
                self.broken(conn, Some(buffer), CloseReason::Failed(errno))?;
            }
            Outcome::SentShort(buffer, rest) => net.sent_short(conn, buffer, rest)?,
            Outcome::ParkedSent => net.operation_ended(conn)?,
            Outcome::ParkedSendFailed(errno) => self.broken(conn, None, CloseReason::Failed(errno))?,
            Outcome::CancelTooLate => net.cancel_again(conn)?,
            Outcome::Closed => net.closed(conn)?,
            // Its connect was cancelled without a completion of its own.
            Outcome::InstallFailed(errno) => net.dial_failed(conn, errno)?,
            Outcome::BellRang | Outcome::Settled => {}
        }
        Ok(())
    }

    /// A connection stands, if there is room for it.
    fn admit(&mut self, conn: ConnId, admission: Admission) -> Result<bool> {
        let stands = self.net.opened(conn, admission)?;
        if stands {
            self.driver.opened(&mut self.net, conn)?;
        }
        Ok(stands)
    }

    fn received(&mut self, conn: ConnId, mut buffer: crate::ring::Buffer, len: usize, more: bool) -> Result<()> {
        let net = &mut self.net;
        net.counters().messages.add(1);
        net.counters().bytes_in.add(len as u64);
        net.received(conn, more);
        let reply = if net.accepts_bytes(conn) {
            self.driver.received(net, conn, &mut buffer.bytes()[..len])?
        } else {
            Reply::Nothing
        };
        // The receive is over; unless the reply keeps the connection busy, go on with what waits.
        match reply {
            Reply::Back(range) if range.end <= len => net.reply_to_receive(conn, buffer, range),
            Reply::Back(range) => Err(Error::bug(format!("service replies with bytes {range:?} of {len}"))),
            Reply::Nothing => {
                net.buffers.put(buffer);
                net.operation_ended(conn)
            }
            Reply::Close => {
                net.buffers.put(buffer);
                net.close(conn, CloseMode::Graceful, CloseReason::Local)?;
                net.operation_ended(conn)
            }
        }
    }

    fn broken(&mut self, conn: ConnId, buffer: Option<crate::ring::Buffer>, why: CloseReason) -> Result<()> {
        if let Some(buffer) = buffer {
            self.net.buffers.put(buffer);
        }
        self.net.close(conn, CloseMode::Immediate, why)?;
        self.net.operation_ended(conn)
    }

    /// A completion of a former tenant: only its memory matters.
    fn stale(&mut self, outcome: Outcome) -> Result<()> {
        self.net.counters().stale.add(1);
        match outcome {
            Outcome::Received { buffer, .. }
            | Outcome::Empty(buffer)
            | Outcome::End(buffer)
            | Outcome::ReceiveFailed(buffer, _)
            | Outcome::SentShort(buffer, _)
            | Outcome::SendFailed(buffer, _) => self.net.buffers.put(buffer),
            _ => {}
        }
        Ok(())
    }

    fn tell_ended(&mut self) -> Result<()> {
        while let Some((conn, why)) = self.net.ended.pop_front() {
            self.driver.ended(&mut self.net, conn, why)?;
        }
        Ok(())
    }
}
