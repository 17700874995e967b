//! The reactor of a shard: it enters the rings, and turns completions into calls of a `Driver`. It knows no role, no
//! protocol, no thread and no sleep: `shard.rs` runs its passes.

mod closing;
#[cfg(test)]
mod tests;
#[cfg(feature = "tls")]
mod tls;

use std::ops::Range;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use crate::connections::lifecycle::SlotState;
use crate::connections::{Admission, Arrival, CloseMode, CloseReason, Connections, Linux, Platform};
use crate::error::{Errno, Error, Result};
use crate::reply::Reply;
use crate::ring::{Buffer, Completion, Outcome, RingOps};
use crate::token::{ConnId, Token};

pub use closing::Closing;

/// Times that a ring is entered in one pass at most, while it has more work.
const ENTERS_PER_PASS: usize = 3;

/// How long one pass enters a ring again and again while the kernel holds completions back. Since 6.13 the kernel makes
/// 20 completions in one enter (`IO_LOCAL_TW_DEFAULT_MAX` in io_uring/io_uring.c). Half a million polls that fired for
/// a RST may come before one that fired for a message.
const BACKLOG_TIME: Duration = Duration::from_millis(1);

/// Times that completions are reaped after one enter. Handling them may fill the submission queue; it is then submitted
/// early, which completes more. Without this bound, peers that never stop sending could keep the reactor at one ring
/// for ever.
const REAPS_PER_ENTER: usize = 4;

/// Segments that were caught for sleeping connections and are taken in one pass. Each may wake a connection, which
/// takes some 20 us.
const ARRIVALS_PER_PASS: usize = 32;

/// While connections have messages, a pass stops at the first such segment after this time: those messages may have to wait
/// for it.
const ARRIVALS_TIME: Duration = Duration::from_micros(100);

/// The same where that segment brought this shard no message and woke nothing: it was answered, ended a connection, or went on
/// to a socket. In a mass disconnect each connection has two of these, a FIN and an acknowledgement.
const SETTLED_TIME: Duration = Duration::from_micros(25);

/// What the driver wants after its turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Schedule {
    /// Another turn at once: there is more to do.
    Now,
    /// A turn at this instant, or when something happens.
    At(Instant),
    /// A turn when something happens.
    OnEvent,
    /// No more turns: the shard is finished.
    Finished,
}

/// A role, server or client: it decides what to do when something happens to a connection. A driver lives on one shard
/// and shares nothing. An error from any of its methods ends the shard.
pub trait Driver<P: Platform = Linux>: 'static {
    /// Kept in each connection's row.
    type State: Default + 'static;

    /// A dialed connection stands, and is to have a TLS handshake: the driver begins it (`Connections::begin_handshake`).
    /// Not called without TLS.
    #[cfg(feature = "tls")]
    fn connected(&mut self, _connections: &mut Connections<Self::State, P>, _conn: ConnId) -> Result<()> {
        Ok(())
    }

    /// A connection is live: with TLS, its handshake is over, and `Connections::agreed` tells in this call what it has
    /// agreed on.
    fn opened(&mut self, connections: &mut Connections<Self::State, P>, conn: ConnId) -> Result<()>;

    /// Bytes came.
    fn received(
        &mut self,
        connections: &mut Connections<Self::State, P>,
        conn: ConnId,
        data: &mut [u8],
    ) -> Result<Reply>;

    /// A connection is gone, or never came to be. Its state can still be read in this call.
    fn ended(&mut self, connections: &mut Connections<Self::State, P>, conn: ConnId, reason: CloseReason)
    -> Result<()>;

    /// A silent connection was put to sleep: it has no socket until it wakes.
    fn slept(&mut self, _connections: &mut Connections<Self::State, P>, _conn: ConnId) -> Result<()> {
        Ok(())
    }

    /// A sleeping connection was woken, by a segment of its peer or because something is sent to it.
    fn woke(&mut self, _connections: &mut Connections<Self::State, P>, _conn: ConnId) -> Result<()> {
        Ok(())
    }

    /// The kernel has taken all bytes of a connection after some had to wait for its peer to read.
    fn sent(&mut self, _connections: &mut Connections<Self::State, P>, _conn: ConnId) -> Result<()> {
        Ok(())
    }

    /// Called once in each pass, for work that no completion triggers. `command` is the last one given to the shard's
    /// `ShardHandle`.
    fn turn(&mut self, connections: &mut Connections<Self::State, P>, now: Instant, command: u32) -> Result<Schedule>;
}

/// The connections of a shard and their driver.
pub(crate) struct Reactor<D: Driver<P>, P: Platform = Linux> {
    pub(crate) connections: Connections<D::State, P>,
    pub(crate) driver: D,
    /// Completions that are being handled. Empty between passes; kept for its memory.
    batch: Vec<Completion>,
    /// Sends that are complete. Empty between passes; kept for its memory.
    sent: Vec<Token>,
}

impl<D: Driver<P>, P: Platform> Reactor<D, P> {
    /// A reactor for these connections and their driver.
    pub fn new(connections: Connections<D::State, P>, driver: D) -> Reactor<D, P> {
        Reactor { connections, driver, batch: Vec::new(), sent: Vec::new() }
    }

    /// Enters every ring that has work, and handles the completions. `between` is called after each ring, so that other
    /// threads may use the core. Returns whether there was any work.
    pub fn pass(&mut self, now: Instant, mut between: impl FnMut()) -> Result<bool> {
        // Segments of sleepers come first: messages that arrive meanwhile are found in the same pass.
        let mut worked = self.take_arrivals(now)? | self.connections.engine.take_notifications(now)?;
        for ring in 0..self.connections.engine.slots().used() {
            if !self.connections.engine.slots().ring_at(ring).has_work() {
                continue;
            }
            worked = true;
            self.run(ring, now)?;
            between();
        }
        #[cfg(feature = "tls")]
        self.take_steps()?;
        while let Some((conn, admission)) = self.connections.engine.next_admission() {
            self.admit(conn, admission)?;
        }
        self.connections.engine.resume(now)?;
        // Before its turn, in which it judges what is late.
        self.tell_ended()?;
        Ok(worked)
    }

    /// Takes some of the segments that were caught for sleeping connections. Tells whether there were any.
    fn take_arrivals(&mut self, now: Instant) -> Result<bool> {
        for taken in 0..ARRIVALS_PER_PASS {
            let Some(arrival) = self.connections.engine.next_arrival()? else { return Ok(taken > 0) };
            self.tell_moved()?;
            let bound = if matches!(arrival, Arrival::Settled) { SETTLED_TIME } else { ARRIVALS_TIME };
            match arrival {
                Arrival::Delivered(conn) => {
                    let (buffer, len) = self.connections.engine.take_payload();
                    self.received(conn, buffer, len, false)?;
                    self.connections.engine.acknowledge(conn);
                }
                Arrival::Heard(name) => self.hear_asleep(name)?,
                Arrival::Settled | Arrival::Woke(_) => {}
            }
            // Before the next enter frees the row of a connection that ended.
            self.tell_ended()?;
            let engine = &mut self.connections.engine;
            if engine.has_traffic(now) && engine.platform().now().saturating_duration_since(now) >= bound {
                break;
            }
        }
        Ok(true)
    }

    /// Hands the message of a connection that sleeps on to the driver.
    fn hear_asleep(&mut self, name: ConnId) -> Result<()> {
        let (mut buffer, len) = self.connections.engine.take_payload();
        let reply = if self.connections.engine.hears(name, len) {
            self.connections.counters().messages.add(1);
            self.ask(name, &mut buffer.bytes()[..len])?
        } else {
            Reply::Nothing
        };
        let back = match reply {
            Reply::Back(range) => range,
            Reply::Nothing => 0..0,
            Reply::Close => {
                self.connections.close(name, CloseMode::Graceful, CloseReason::Local)?;
                0..0
            }
        };
        let engine = &mut self.connections.engine;
        engine.conclude(name, &buffer.bytes()[back])?;
        engine.put_buffer(buffer);
        Ok(())
    }

    /// Tells the driver of connections that fell asleep or woke, but for those whose handshake is not over.
    fn tell_moved(&mut self) -> Result<()> {
        while let Some((name, woke)) = self.connections.engine.next_moved() {
            let (driver, connections) = (&mut self.driver, &mut self.connections);
            match woke {
                _ if !connections.is_opened(&name) => {}
                true => driver.woke(connections, name)?,
                false => driver.slept(connections, name)?,
            }
        }
        Ok(())
    }

    /// The driver's turn, after a pass.
    pub fn turn(&mut self, now: Instant, command: u32) -> Result<Schedule> {
        let schedule = self.driver.turn(&mut self.connections, now, command)?;
        self.tell_ended()?;
        Ok(schedule)
    }

    /// Enters one ring and handles its completions, until it has no more work or has used its share of the pass. A
    /// message takes at least three steps: ready, received, answered. They follow each other here, instead of in three
    /// passes with the work of all other rings in between.
    fn run(&mut self, ring: usize, now: Instant) -> Result<()> {
        let mut since = None;
        for entered in 1.. {
            self.connections.engine.enter(ring)?;
            self.drain(ring, now)?;
            let engine = &mut self.connections.engine;
            let goes_on = if entered < ENTERS_PER_PASS {
                engine.slots().ring_at(ring).has_work()
            } else if engine.slots().ring_at(ring).has_backlog() {
                let now = engine.platform().now();
                now.saturating_duration_since(*since.get_or_insert(now)) < BACKLOG_TIME
            } else {
                false
            };
            if !goes_on {
                break;
            }
        }
        Ok(())
    }

    /// Handles the completions of one enter.
    fn drain(&mut self, ring: usize, now: Instant) -> Result<()> {
        let mut batch = std::mem::take(&mut self.batch);
        let mut emptied = false;
        for _ in 0..REAPS_PER_ENTER {
            self.connections.engine.slots().ring_at(ring).reap(&mut batch)?;
            if batch.is_empty() {
                emptied = true;
                break;
            }
            for completion in batch.drain(..) {
                self.dispatch(ring, completion, now)?;
                self.tell_ended()?;
            }
        }
        self.batch = batch;
        if emptied {
            self.finish_sends(ring)?;
            // This must come before the next enter, which frees the row of a connection that ended.
            self.tell_ended()?;
        }
        Ok(())
    }

    fn finish_sends(&mut self, ring: usize) -> Result<()> {
        let engine = &mut self.connections.engine;
        engine.finish_sends(ring, &mut self.sent);
        for Token { slot, generation, .. } in self.sent.drain(..) {
            engine.operation_ended(ConnId::new(ring, slot, generation))?;
        }
        Ok(())
    }

    fn dispatch(&mut self, ring: usize, completion: Completion, now: Instant) -> Result<()> {
        let engine = &mut self.connections.engine;
        match completion.outcome {
            // No caller waits for it: a cancel or a reset that found nothing, an accepted socket that could not be
            // installed, or task work that the ring made itself.
            Outcome::Settled => return Ok(()),
            Outcome::FilterWoke { armed } => {
                engine.filter_woke(armed);
                return Ok(());
            }
            Outcome::DoorbellRang => {
                engine.doorbell_rang();
                return Ok(());
            }
            Outcome::CatcherWoke => {
                engine.catcher_woke();
                return Ok(());
            }
            _ => {}
        }
        let Some(conn) = engine.slots().owner(ring, completion.token) else {
            self.stale(completion.outcome);
            return Ok(());
        };
        match completion.outcome {
            Outcome::Accepted(plain) => self.accepted(conn, plain, now),
            Outcome::AcceptFailed { pause, .. } => {
                engine.accept_ended(conn);
                engine.abandon(conn);
                if pause {
                    engine.pause_accepts(now);
                }
                Ok(())
            }
            Outcome::Connected => self.connected(conn),
            // A connect whose install failed is cancelled without a completion of its own.
            Outcome::ConnectFailed(errno) | Outcome::InstallFailed(errno) => engine.dial_failed(conn, errno),
            Outcome::Ready { armed, over: true, .. } => engine.reset_seen(conn, armed, now),
            Outcome::Ready { armed, fin: true, .. } => engine.fin_came(conn, armed, now),
            Outcome::Ready { armed, .. } => engine.apply(conn, |state| state.poll_fired(armed)),
            Outcome::Received { buffer, len, more } => self.received(conn, buffer, len, more),
            Outcome::Empty(buffer) => {
                engine.put_buffer(buffer);
                engine.apply(conn, SlotState::received_nothing)
            }
            Outcome::End(buffer) => {
                engine.put_buffer(buffer);
                engine.peer_ended(conn, now)?;
                engine.operation_ended(conn)
            }
            Outcome::ReceiveFailed(buffer, errno) | Outcome::SendFailed(buffer, errno) => {
                engine.put_buffer(buffer);
                engine.broke(conn, errno)
            }
            Outcome::SentShort(buffer, rest) => engine.sent_short(conn, buffer, rest),
            Outcome::ParkedSent => engine.parked_sent(conn),
            Outcome::SharedSentShort(bytes, rest) => engine.shared_sent_short(conn, bytes, rest),
            Outcome::ParkedSendCut(bytes, rest) => engine.parked_send_cut(conn, bytes, rest),
            Outcome::ParkedSendFailed(errno) | Outcome::SharedSendFailed(errno) => engine.broke(conn, errno),
            Outcome::CancelTooLate => engine.cancel_again(conn),
            Outcome::ShutDown { failed } => engine.shut_down(conn, failed),
            Outcome::Closed => engine.closed(conn),
            Outcome::FilterWoke { .. } | Outcome::CatcherWoke | Outcome::DoorbellRang | Outcome::Settled => Ok(()),
        }
    }

    /// An accept brought a connection, in its slot or in a plain descriptor.
    fn accepted(&mut self, conn: ConnId, plain: Option<OwnedFd>, now: Instant) -> Result<()> {
        let engine = &mut self.connections.engine;
        engine.accept_ended(conn);
        if let Some(socket) = engine.note_peer(conn, plain)
            && !engine.install_accepted(conn, socket)?
        {
            engine.abandon(conn);
            engine.pause_accepts(now);
            return Ok(());
        }
        match engine.try_admit(conn) {
            Some(admission) => self.admit(conn, admission).map(drop),
            None => Ok(()),
        }
    }

    /// A dial succeeded.
    fn connected(&mut self, conn: ConnId) -> Result<()> {
        let admission = self.connections.engine.take_place();
        if !self.admit(conn, admission)? {
            // The driver must be told of the end of its dial: with ENOMEM, also where the shard is at capacity.
            self.connections.engine.not_opened(conn, Errno::ENOMEM);
        }
        Ok(())
    }

    /// Makes a connection live, if it is admitted. Returns whether it is.
    fn admit(&mut self, conn: ConnId, admission: Admission) -> Result<bool> {
        let stands = self.connections.engine.opened(conn, admission)?;
        if stands {
            let name = self.connections.engine.name_of(conn);
            #[cfg(feature = "tls")]
            if self.begin_handshake(name)? {
                return Ok(true);
            }
            self.driver.opened(&mut self.connections, name)?;
            self.connections.engine.told_of(conn);
        }
        Ok(stands)
    }

    fn received(&mut self, conn: ConnId, mut buffer: Buffer, len: usize, more: bool) -> Result<()> {
        #[cfg(feature = "tls")]
        if self.connections.engine.tls.is_some() {
            return self.received_tls(conn, buffer, len, more);
        }
        let reply = if self.connections.engine.received(conn, len, more) {
            self.connections.counters().messages.add(1);
            let name = self.connections.engine.name_of(conn);
            self.ask(name, &mut buffer.bytes()[..len])?
        } else {
            Reply::Nothing
        };
        let engine = &mut self.connections.engine;
        // The receive is over. Unless the reply is still being sent, the connection goes on with its next action.
        match reply {
            Reply::Back(range) => engine.reply_to_receive(conn, buffer, range),
            Reply::Nothing => {
                engine.put_buffer(buffer);
                engine.operation_ended(conn)
            }
            Reply::Close => {
                engine.put_buffer(buffer);
                engine.close(conn, CloseMode::Graceful, CloseReason::Local)?;
                engine.operation_ended(conn)
            }
        }
    }

    /// Hands bytes to the driver. What it sends back must be a part of them, which may be empty.
    fn ask(&mut self, name: ConnId, data: &mut [u8]) -> Result<Reply> {
        match self.driver.received(&mut self.connections, name, data)? {
            Reply::Back(Range { start, end }) if start > end || end > data.len() => {
                Err(Error::bug(format!("service replies with bytes {start}..{end} of {}", data.len())))
            }
            reply => Ok(reply),
        }
    }

    /// A completion of an earlier connection of the slot: only its buffer is used again.
    fn stale(&mut self, outcome: Outcome) {
        self.connections.counters().stale.add(1);
        match outcome {
            Outcome::Received { buffer, .. }
            | Outcome::Empty(buffer)
            | Outcome::End(buffer)
            | Outcome::ReceiveFailed(buffer, _)
            | Outcome::SentShort(buffer, _)
            | Outcome::SendFailed(buffer, _) => self.connections.engine.put_buffer(buffer),
            _ => {}
        }
    }

    /// Tells the driver of connections that ended, and of those whose waiting bytes the kernel has taken. A connection
    /// that woke before it ended has woken first.
    fn tell_ended(&mut self) -> Result<()> {
        loop {
            self.tell_moved()?;
            let Some((conn, reason)) = self.connections.engine.next_ended() else { break };
            #[cfg(feature = "tls")]
            let Some(reason) = self.connections.engine.forget_tls(conn, reason) else {
                self.connections.engine.told_of_end(conn);
                continue;
            };
            self.driver.ended(&mut self.connections, conn, reason)?;
            self.connections.engine.told_of_end(conn);
        }
        while let Some(name) = self.connections.engine.next_drained() {
            if self.connections.is_opened(&name) {
                self.driver.sent(&mut self.connections, name)?;
            }
        }
        Ok(())
    }
}
