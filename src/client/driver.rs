//! What one client shard does in each phase.

mod conn_state;
mod dialing;
mod drawing;
mod exchanges;
mod fanning;
mod goodbye;
mod keepalive;
mod measures;
mod securing;
mod shard_config;
mod storm;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::incomplete::IncompleteTable;
use super::run::{Notice, Part};
use super::window::{Awaited, Probe, Window};
use super::{Audit, INTERVAL, Phase, Workload};
use crate::clock::{Clock, Start};
use crate::connections::{CloseReason, Connections, Cursor};
use crate::error::{Result, TlsFailure};
use crate::failure::{Cause, Causes};
use crate::pace::Pace;
use crate::plan::share;
use crate::protocol::{Purpose, Scratch};
use crate::reactor::{Closing, Driver, Schedule};
use crate::reply::Reply;
use crate::results::ShardSummary;
use crate::ring;
use crate::stats::ProgressSnapshot;
use crate::token::ConnId;
use conn_state::ConnState;
use dialing::Attempt;
use drawing::Drawing;
use fanning::Fanning;
use goodbye::Goodbye;
use keepalive::Keepalive;
use measures::Measures;
use storm::Storming;

pub use shard_config::{FanoutPart, ShardConfig};

/// How often the shard looks for connects and answers that are late.
const SWEEP: Duration = Duration::from_millis(100);

/// Connects a shard starts in one pass. Latency counts from the submission, and those queued together wait for each
/// other: a small batch keeps that share below 1 ms.
const DIALS_PER_PASS: usize = 16;

const _: () = assert!(DIALS_PER_PASS * 2 <= ring::SUBMISSION_ENTRIES as usize, "a dial is a chain of two");

/// Messages a shard starts in one pass.
const PROBES_PER_PASS: usize = 128;

/// Messages in flight of one shard while it holds. Beyond it sends wait, and the wait counts in the latency.
const PROBES_IN_FLIGHT: usize = 65_536;

/// Connects of one shard that fail in a row, without a success between them, before it tries no more.
const HOPELESS_ATTEMPTS: u64 = 256;

/// The client's driver.
pub struct ClientDriver {
    config: ShardConfig,
    /// The command that is carried out, and its phase.
    command: u32,
    phase: Phase,
    /// The leader was told that this shard has done its part of the phase.
    done: bool,
    /// When the phase began.
    since: Start,
    /// When the window was last swept.
    swept: Instant,
    /// Ramp: the next connection to dial.
    next: u64,
    /// Audits: the place in the tables that comes next.
    place: Cursor,
    /// Audits: which connections are asked; `None` if all are.
    drawing: Option<Drawing>,
    /// Hold: the place in the tables of the connection whose message is due next. Audits do not move it, so that
    /// each connection gets its turn.
    talked: Cursor,
    /// No connection from this place on sends messages: a storm's survivors come first.
    talkers: Cursor,
    /// Close: how far closing has come.
    closing: Option<Closing>,
    /// Ramp and hold: when connects or messages should start.
    pace: Pace,
    /// Ramp: failures since the last success.
    failures_in_a_row: u64,
    /// Hold: messages due so far.
    sent: u64,
    /// Counts phases, so that no two audits ask for the same token.
    round: u32,
    storm: Option<Storming>,
    fanout: Option<Fanning>,
    /// Connections to dial again, because another socket of this host had their source port.
    again: VecDeque<Attempt>,
    window: Window,
    /// Bytes to send.
    scratch: Vec<u8>,
    hearing: Scratch,
    incomplete: IncompleteTable,
    keepalive: Keepalive,
    goodbye: Goodbye,
    before_close: Option<ProgressSnapshot>,
    measures: Measures,
    causes: Causes,
}

type ClientConnections = Connections<ConnState>;

impl Driver for ClientDriver {
    type State = ConnState;

    #[cfg(feature = "tls")]
    fn connected(&mut self, connections: &mut ClientConnections, conn: ConnId) -> Result<()> {
        self.begin_handshake(connections, conn)
    }

    fn opened(&mut self, connections: &mut ClientConnections, conn: ConnId) -> Result<()> {
        #[cfg(feature = "tls")]
        self.measure_handshake(connections, conn);
        // With TLS the connect was measured before the handshake.
        let stood = if self.config.workload.has_tls() {
            self.take_probe(connections, conn)
        } else {
            self.stands(connections, conn)?.map(|(probe, _)| probe)
        };
        let Some(probe) = stood else { return Ok(()) };
        let Awaited::Handshake { socket } = probe.awaited else { return Ok(()) };
        let (started, since) = (Instant::now(), connections.clock().now());
        let Some(state) = connections.state(conn) else { return Ok(()) };
        let (index, number) = (state.index, self.number(state.index));
        self.scratch.clear();
        let is_asked = self.config.protocol(index).open(number, 0, &mut self.scratch);
        if is_asked && self.config.workload.audit == Audit::Answer {
            let awaited = Awaited::Answer { purpose: Purpose::Open(0), socket: Some(socket) };
            state.set_key(self.window.add(Probe { awaited, started, since, ..probe }));
        } else {
            self.proved(connections, conn)?;
        }
        connections.send(conn, &self.scratch)
    }

    fn received(&mut self, connections: &mut ClientConnections, conn: ConnId, data: &mut [u8]) -> Result<Reply> {
        self.hear(connections, conn, data)?;
        Ok(Reply::Nothing)
    }

    fn slept(&mut self, connections: &mut ClientConnections, conn: ConnId) -> Result<()> {
        self.counts_as_asleep(connections, conn, true);
        Ok(())
    }

    fn woke(&mut self, connections: &mut ClientConnections, conn: ConnId) -> Result<()> {
        self.counts_as_asleep(connections, conn, false);
        Ok(())
    }

    fn ended(&mut self, connections: &mut ClientConnections, conn: ConnId, reason: CloseReason) -> Result<()> {
        // What a protocol awaits has an end of its own, and whether that has come is known.
        let reason = if reason == CloseReason::PeerCutOff { CloseReason::PeerClosed } else { reason };
        if self.phase == Phase::Close {
            self.hear_end(connections, conn, reason);
            self.closed(connections, conn);
            return Ok(());
        }
        let given_up = self
            .probe_of(connections, conn)
            .is_some_and(|probe| matches!(probe.awaited, Awaited::Connect { given_up: true, .. }));
        if self.port_is_free_again(connections, conn, reason) {
            return Ok(());
        }
        let phase = self.phase;
        if let (Some(storm), Some(state)) = (&mut self.storm, connections.state(conn)) {
            storm.ended(state.index, phase, Instant::now());
        }
        let cause = match reason {
            CloseReason::NotOpened(_) if given_up => Cause::ConnectTimeout,
            CloseReason::NotOpened(errno) | CloseReason::Failed(errno) => Cause::Errno(errno),
            CloseReason::PeerReset => Cause::Errno(crate::error::Errno::ECONNRESET),
            CloseReason::PeerClosed | CloseReason::PeerCutOff => {
                let proved = connections.state(conn).filter(|state| state.is_proved());
                proved.map_or(Cause::ClosedByServer, |state| self.config.protocol(state.index).cut_off())
            }
            CloseReason::SlowReader => Cause::Unread,
            CloseReason::Tls(TlsFailure::HandshakeTimeout) => self.late_handshake(connections, conn),
            CloseReason::Tls(failure) => Cause::Tls(failure),
            CloseReason::Local | CloseReason::IdleTimeout | CloseReason::Deadline | CloseReason::Stopping => {
                self.dropped(connections, conn);
                return Ok(());
            }
        };
        let by_peer = matches!(reason, CloseReason::PeerClosed | CloseReason::PeerReset | CloseReason::Failed(_));
        if by_peer && self.is_shed(connections, conn) {
            self.dropped(connections, conn);
            return Ok(());
        }
        self.failed(connections, conn, cause);
        Ok(())
    }

    fn turn(&mut self, connections: &mut ClientConnections, now: Instant, command: u32) -> Result<Schedule> {
        let phase = Phase::of_command(command);
        if command != self.command {
            self.command = command;
            self.begin(phase, connections.clock(), now)?;
        }
        if now.duration_since(self.swept) >= SWEEP {
            self.swept = now;
            self.sweep(connections)?;
            self.measures.look(now)?;
        }
        if phase == Phase::Quit {
            return Ok(Schedule::Finished);
        }
        let alive = self.keep_alive(connections, now)?;
        if self.done && phase.stage().is_none() {
            return Ok(sooner(alive, self.next_sweep_of_keepalives()));
        }
        let turn = match phase {
            Phase::Ready | Phase::Quit => return Ok(Schedule::OnEvent),
            Phase::Ramp => self.ramp(connections, now)?,
            Phase::Audit(_) if self.config.workload.audit == Audit::State => self.count(connections),
            Phase::Audit(_) => self.ask(connections, now)?,
            Phase::Hold => self.hold(connections, now)?,
            Phase::Settle => self.settle(),
            Phase::Calm | Phase::Storm | Phase::After => self.stage(connections, now)?,
            Phase::Publish => self.publish(connections, now)?,
            Phase::Report => self.report()?,
            Phase::Close => self.close(connections, now)?,
        };
        if turn == Schedule::Finished {
            let was_done = std::mem::replace(&mut self.done, true);
            if !was_done {
                // The shard may sleep for long from now on.
                self.measures.cut(now)?;
                // The leader is gone if the run has failed elsewhere.
                let _ = self.config.notices.send(Notice::Done(Part::Shard(self.config.index), phase, Instant::now()));
            }
            // The messages of a storm's stage go on until the other shards have done their part too: the next turn says when
            // one is due. After the last stage none is.
            let goes_on = phase.stage().is_some() && !was_done;
            return Ok(sooner(alive, if goes_on { Schedule::Now } else { self.next_sweep_of_keepalives() }));
        }
        // In a hold without anything in flight nothing can be late, and only the interval of the measures ends.
        let is_idle = phase == Phase::Hold && self.window.is_idle();
        Ok(sooner(sooner(alive, turn), Schedule::At(self.swept + if is_idle { INTERVAL } else { SWEEP })))
    }
}

/// The schedule of two pieces of work: the earlier one of both, and finished when both are.
fn sooner(one: Schedule, other: Schedule) -> Schedule {
    match (one, other) {
        (Schedule::Finished, turn) | (turn, Schedule::Finished) => turn,
        (Schedule::Now, _) | (_, Schedule::Now) => Schedule::Now,
        (Schedule::At(a), Schedule::At(b)) => Schedule::At(a.min(b)),
        (Schedule::At(at), Schedule::OnEvent) | (Schedule::OnEvent, Schedule::At(at)) => Schedule::At(at),
        (Schedule::OnEvent, Schedule::OnEvent) => Schedule::OnEvent,
    }
}

impl ClientDriver {
    /// What the shard measured; its counts are those of before closing, but for the goodbyes.
    pub fn measured(&self) -> Result<ShardSummary> {
        let measures = &self.measures;
        let now = self.config.progress.snapshot();
        let progress = ProgressSnapshot { goodbyes: now.goodbyes, ..self.before_close.unwrap_or(now) };
        Ok(ShardSummary {
            core: self.config.core,
            requested: self.config.numbers.end - self.config.numbers.start,
            progress,
            connect: measures.connect.all()?,
            connect_service: measures.connect_service.clone(),
            retransmitted: measures.retransmitted.all()?,
            echo: measures.echo.all()?,
            echo_service: measures.echo_service.clone(),
            audit: measures.audit.all()?,
            handshakes: measures.handshakes()?,
            causes: self.causes.clone(),
            storm: self.storm.as_ref().map(Storming::measured),
            fanout: self.fanout.as_ref().map(Fanning::measured),
        })
    }

    /// The number by which the protocol knows a connection, and which decides its route. One that a storm dialed in the
    /// place of another has the other's: the same client comes back.
    fn number(&self, index: u32) -> u64 {
        self.config.number(self.storm.as_ref().map_or(index, |storm| storm.in_place_of(index)))
    }

    fn report(&self) -> Result<Schedule> {
        // The leader is gone if the run has failed elsewhere.
        let _ = self.config.measured.send((self.config.index, self.measured()?));
        Ok(Schedule::Finished)
    }

    fn begin(&mut self, phase: Phase, clock: &Clock, now: Instant) -> Result<()> {
        self.measures.cut(now)?;
        let progress = &self.config.progress;
        (self.phase, self.done, self.since, self.place) = (phase, false, clock.start(now), Cursor::START);
        self.round += 1;
        let rate = self.config.workload.rate.map(|rate| rate / self.config.shards as f64);
        for counter in [&progress.audited, &progress.lost, &progress.wrong] {
            counter.set(0);
        }
        match phase {
            Phase::Ramp => self.pace = Pace::new(self.since, rate),
            Phase::Audit(_) => {
                let Workload { audit_sample, connections, .. } = &*self.config.workload;
                self.drawing = audit_sample.map(|sample| {
                    let own = share(sample.min(*connections), self.config.shards, self.config.index as u64);
                    Drawing::new(own.end - own.start, progress.live.get())
                });
            }
            Phase::Hold | Phase::Calm => {
                let talkers = self.storm.as_ref().map_or(progress.live.get(), Storming::talkers);
                let every = self.config.workload.interval.map(|interval| talkers as f64 / interval.as_secs_f64());
                (self.pace, self.sent) = (Pace::new(self.since, every), 0);
            }
            Phase::Close => {
                self.before_close = Some(progress.snapshot());
                let pace = self.close_pace(self.since, None);
                self.goodbye = Goodbye::begin(&self.config.workload.protocol, pace);
            }
            _ => {}
        }
        self.storm.iter_mut().for_each(|storm| storm.begin(phase, (self.since, now), rate));
        self.fanout.iter_mut().for_each(|fanout| fanout.begin(phase, clock, now));
        Ok(())
    }

    // ---- the phases: each returns `Schedule::Finished` when its shard has nothing left to do ------------

    fn ramp(&mut self, connections: &mut ClientConnections, now: Instant) -> Result<Schedule> {
        let room = self.config.concurrency.saturating_sub(self.window.len());
        let Some(dialed) = self.dial_waiting(connections, room.min(DIALS_PER_PASS))? else {
            return Ok(Schedule::OnEvent);
        };
        for _ in dialed..DIALS_PER_PASS {
            if self.window.len() >= self.config.concurrency {
                return Ok(Schedule::OnEvent);
            }
            if self.next == self.config.numbers.end || self.hopeless() {
                return Ok(self.settle());
            }
            let nth = self.next - self.config.numbers.start;
            let intended = self.pace.intended(nth, connections.clock());
            if let Some(at) = intended.filter(|at| *at > now) {
                return Ok(Schedule::At(at));
            }
            if !self.dial(connections, nth as u32, intended)? {
                return Ok(Schedule::OnEvent);
            }
            self.next += 1;
        }
        Ok(Schedule::Now)
    }

    /// Whether more attempts would be in vain: many failed in a row, and none succeeded between them.
    fn hopeless(&self) -> bool {
        self.failures_in_a_row >= HOPELESS_ATTEMPTS
    }

    /// Audits every connection, or the sample, as many at a time as the ramp had connects.
    fn ask(&mut self, connections: &mut ClientConnections, now: Instant) -> Result<Schedule> {
        for _ in 0..PROBES_PER_PASS {
            if self.window.len() >= self.config.concurrency {
                return Ok(Schedule::OnEvent);
            }
            let Some((conn, next)) = connections.next_live(self.place) else { return Ok(self.settle()) };
            self.place = next;
            if self.is_talker(connections, conn) {
                self.talkers = self.talkers.max(next);
            }
            if self.drawing.as_mut().is_none_or(Drawing::draws) {
                self.send(connections, conn, Purpose::Audit, now, now)?;
            }
        }
        Ok(Schedule::Now)
    }

    /// The audit that asks nothing: each connection counts that got neither FIN nor RST.
    fn count(&mut self, connections: &mut ClientConnections) -> Schedule {
        for _ in 0..PROBES_PER_PASS {
            let Some((_, next)) = connections.next_live(self.place) else { return Schedule::Finished };
            self.place = next;
            self.config.progress.audited.add(1);
        }
        Schedule::Now
    }

    /// Sends messages as they are due, until another command comes.
    fn hold(&mut self, connections: &mut ClientConnections, now: Instant) -> Result<Schedule> {
        for _ in 0..PROBES_PER_PASS {
            let Some(intended) = self.pace.intended(self.sent, connections.clock()) else {
                return Ok(Schedule::OnEvent);
            };
            if intended > now {
                return Ok(Schedule::At(intended));
            }
            if self.window.len() >= PROBES_IN_FLIGHT {
                return Ok(Schedule::OnEvent);
            }
            let from = if self.talked < self.talkers { self.talked } else { Cursor::START };
            let Some((conn, next)) = connections.next_live(from).or_else(|| connections.next_live(Cursor::START))
            else {
                return Ok(Schedule::OnEvent);
            };
            self.talked = next;
            if !self.is_talker(connections, conn) {
                continue;
            }
            self.sent += 1;
            self.send(connections, conn, Purpose::Message, intended, now)?;
        }
        Ok(Schedule::Now)
    }

    /// Sends nothing more, and waits for the answers to what was sent.
    fn settle(&self) -> Schedule {
        if self.window.len() == 0 && self.again.is_empty() { Schedule::Finished } else { Schedule::OnEvent }
    }

    fn close(&mut self, connections: &mut ClientConnections, now: Instant) -> Result<Schedule> {
        if self.closing.is_none() {
            let turn = self.say_goodbye(connections, now)?;
            if turn != Schedule::Finished {
                return Ok(turn);
            }
        }
        let closing = match &mut self.closing {
            Some(closing) => closing,
            None => {
                for conn in self.window.dialing() {
                    connections.cancel_dial(conn)?;
                }
                let pace = self.close_pace(connections.clock().start(now), None);
                self.closing.insert(Closing::new(self.config.workload.close, pace))
            }
        };
        closing.turn(connections, now)
    }

    fn close_pace(&self, start: Start, otherwise: Option<f64>) -> Pace {
        Pace::new(start, self.config.workload.close_rate.or(otherwise).map(|rate| rate / self.config.shards as f64))
    }

    /// Whether a connection sends messages: in a storm only the survivors do, otherwise all.
    fn is_talker(&self, connections: &mut ClientConnections, conn: ConnId) -> bool {
        let index = connections.state(conn).map(|state| state.index);
        self.storm.as_ref().is_none_or(|storm| index.is_some_and(|index| storm.spares(index)))
    }
}
