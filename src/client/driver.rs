//! What one client shard does in each phase.

mod dialing;
mod measures;
mod shard_config;
mod storm;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::message::{EchoMatch, Kind, compose, verify_echo};
use super::self_connect::is_connected_to_itself;
use super::window::{Awaited, Probe, Window};
use super::{Audit, Notice, Phase};
use crate::clock::{Clock, Start};
use crate::connections::{CloseMode, CloseReason, Connections, Cursor};
use crate::constants::{DIALS_PER_PASS, HOPELESS_ATTEMPTS, PROBES_IN_FLIGHT, PROBES_PER_PASS, SLOW_CONNECT_US};
use crate::error::Result;
use crate::failure::{Cause, Causes};
use crate::pace::Pace;
use crate::reactor::{Closing, Driver, Schedule};
use crate::results::ShardSummary;
use crate::service::Reply;
use crate::stats::ProgressSnapshot;
use crate::sys;
use crate::token::ConnId;
use dialing::Attempt;
use measures::Measures;
use storm::Storming;

pub use shard_config::ShardConfig;

/// How often late connects and echoes are looked for.
const SWEEP: Duration = Duration::from_millis(100);

/// What a client knows of a connection, in its row.
#[derive(Debug, Default, Clone, Copy)]
pub struct ConnState {
    /// Its number within the shard.
    index: u32,
    /// Its probe in the window; 0 when nothing is in flight.
    key: u32,
    /// Its source port.
    port: u16,
    /// It was proved live.
    proved: bool,
}

const _: () = assert!(size_of::<ConnState>() == 12, "a client's connection takes 24 bytes, its row's own 12 with it");

/// The client's driver.
pub struct ClientDriver {
    config: ShardConfig,
    phase: Phase,
    /// The phase's end was told.
    done: bool,
    /// When the phase began.
    since: Start,
    /// When the window was last swept.
    swept: Instant,
    /// Ramp: the next connection to dial.
    next: u64,
    /// Audits: where in the tables we are.
    place: Cursor,
    /// Hold: where in the tables the next message is due. Audits between do not move it, so that
    /// everyone gets a turn.
    talked: Cursor,
    /// Places from here on have nobody who talks: a storm's survivors come first.
    talkers: Cursor,
    /// Close: how far it is.
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
    /// Those whose source port somebody else had.
    again: VecDeque<Attempt>,
    window: Window,
    scratch: Vec<u8>,
    before_close: Option<ProgressSnapshot>,
    measures: Measures,
    causes: Causes,
}

type ClientConnections = Connections<ConnState>;

impl Driver for ClientDriver {
    type State = ConnState;

    fn opened(&mut self, net: &mut ClientConnections, conn: ConnId) -> Result<()> {
        let Some(state) = net.state(conn) else { return Ok(()) };
        let now = Instant::now();
        let Some(probe) = self.window.get(state.key) else { return Ok(()) };
        let socket = match std::mem::replace(&mut probe.awaited, Awaited::Echo { kind: Kind::Hello, socket: None }) {
            Awaited::Connect { socket, .. } => Some(socket),
            Awaited::Echo { socket, .. } => socket,
        };
        let routes = &self.config.options.routes;
        let (_, to) = routes.of(self.config.number(state.index));
        if socket.as_ref().is_some_and(|socket| is_connected_to_itself(socket, to, routes.ports)) {
            return self.give_up(net, conn, Cause::ConnectedToItself);
        }
        let service = now.duration_since(probe.started);
        let latency = now.duration_since(probe.intended);
        let slow = service >= Duration::from_micros(SLOW_CONNECT_US);
        let again = slow && socket.as_ref().and_then(sys::tcp_info).is_some_and(|info| info.retransmissions > 0);
        self.measures.connected(latency, service, again);
        let options = self.config.options.clone();
        let number = self.config.number(state.index);
        compose(&mut self.scratch, Kind::Hello, number, 0, &options.hello, options.payload);
        if options.audit == Audit::Echo && !self.scratch.is_empty() {
            probe.awaited = Awaited::Echo { kind: Kind::Hello, socket };
            (probe.started, probe.since) = (now, net.clock().now());
        } else {
            self.window.remove(state.key);
            state.key = 0;
            self.proved(net, conn)?;
        }
        net.send(conn, &self.scratch)
    }

    fn received(&mut self, net: &mut ClientConnections, conn: ConnId, data: &mut [u8]) -> Result<Reply> {
        if self.config.options.audit != Audit::Echo {
            return Ok(Reply::Nothing);
        }
        let Some(state) = net.state(conn) else { return Ok(Reply::Nothing) };
        let (index, key) = (state.index, state.key);
        let Some(probe) = self.window.get(key) else { return self.wrong(net, conn) };
        let Awaited::Echo { kind, .. } = probe.awaited else { return self.wrong(net, conn) };
        let number = self.config.number(index);
        let options = &self.config.options;
        compose(&mut self.scratch, kind, number, probe.round, &options.hello, options.payload);
        match verify_echo(&self.scratch, &mut probe.got, data) {
            EchoMatch::Part => {}
            EchoMatch::Whole => self.answered(net, conn, kind, key)?,
            EchoMatch::Wrong => return self.wrong(net, conn),
        }
        Ok(Reply::Nothing)
    }

    fn ended(&mut self, net: &mut ClientConnections, conn: ConnId, why: CloseReason) -> Result<()> {
        let given_up =
            self.probe_of(net, conn).is_some_and(|p| matches!(p.awaited, Awaited::Connect { given_up: true, .. }));
        if self.phase != Phase::Close && self.port_is_free_again(net, conn, why) {
            return Ok(());
        }
        let cause = match why {
            CloseReason::NotOpened(_) if given_up => Cause::ConnectTimeout,
            CloseReason::NotOpened(errno) | CloseReason::Failed(errno) => Cause::Errno(errno),
            CloseReason::PeerClosed => Cause::ClosedByServer,
            CloseReason::SlowReader => Cause::Unread,
            CloseReason::Local => {
                self.forget(net, conn);
                if self.phase == Phase::Close {
                    self.config.progress.closed.add(1);
                } else if net.state(conn).is_some_and(|state| state.proved) {
                    self.dropped(net, conn);
                }
                return Ok(());
            }
        };
        if self.is_shed(net, conn, why) {
            self.dropped(net, conn);
            return Ok(());
        }
        if self.phase == Phase::Close {
            self.config.progress.closed.add(1);
        }
        self.failed(net, conn, cause);
        Ok(())
    }

    fn turn(&mut self, net: &mut ClientConnections, now: Instant, command: u32) -> Result<Schedule> {
        let phase = Phase::of_command(command);
        if phase != self.phase {
            self.begin(phase, net.clock(), now)?;
        }
        if now.duration_since(self.swept) >= SWEEP {
            self.swept = now;
            self.sweep(net)?;
            self.measures.look(now)?;
        }
        if phase == Phase::Quit {
            return Ok(Schedule::Finished);
        }
        if self.done && phase.stage().is_none() {
            return Ok(Schedule::OnEvent);
        }
        let turn = match phase {
            Phase::Ready | Phase::Quit => return Ok(Schedule::OnEvent),
            Phase::Ramp => self.ramp(net, now)?,
            Phase::Audit(_) if self.config.options.audit == Audit::State => self.count(net),
            Phase::Audit(_) => self.ask(net, now)?,
            Phase::Hold => self.hold(net, now)?,
            Phase::Settle => self.settle(),
            Phase::Calm | Phase::Storm | Phase::After => self.stage(net, now)?,
            Phase::Report => self.report()?,
            Phase::Close => self.close(net, now)?,
        };
        if turn == Schedule::Finished {
            if !std::mem::replace(&mut self.done, true) {
                // Nobody may wake us for long.
                self.measures.cut(now)?;
                // Nobody listens any more when the run has failed elsewhere.
                let _ = self.config.notices.send(Notice::Done(self.config.index, phase));
            }
            // The messages of a storm's stage go on until the other shards are done too.
            return Ok(if phase.stage().is_some() { Schedule::Now } else { Schedule::OnEvent });
        }
        Ok(match turn {
            Schedule::OnEvent => Schedule::At(self.swept + SWEEP),
            Schedule::At(at) => Schedule::At(at.min(self.swept + SWEEP)),
            other => other,
        })
    }
}

impl ClientDriver {
    /// What the shard measured; its counts are those of before closing.
    pub fn measured(&self) -> Result<ShardSummary> {
        let measures = &self.measures;
        Ok(ShardSummary {
            core: self.config.core,
            requested: self.config.numbers.end - self.config.numbers.start,
            progress: self.before_close.unwrap_or_else(|| self.config.progress.snapshot()),
            connect: measures.connect.all()?,
            connect_service: measures.connect_service.clone(),
            retransmitted: measures.retransmitted.all()?,
            echo: measures.echo.all()?,
            echo_service: measures.echo_service.clone(),
            audit: measures.audit.all()?,
            causes: self.causes.clone(),
            storm: self.storm.as_ref().map(Storming::measured),
        })
    }

    fn report(&self) -> Result<Schedule> {
        // Nobody listens any more when the run has failed elsewhere.
        let _ = self.config.measured.send((self.config.index, self.measured()?));
        Ok(Schedule::Finished)
    }

    fn begin(&mut self, phase: Phase, clock: &Clock, now: Instant) -> Result<()> {
        self.measures.cut(now)?;
        let progress = &self.config.progress;
        (self.phase, self.done, self.since, self.place) = (phase, false, clock.start(now), Cursor::START);
        self.round += 1;
        let rate = self.config.options.rate.map(|rate| rate / self.config.shards as f64);
        for counter in [&progress.audited, &progress.lost, &progress.wrong] {
            counter.set(0);
        }
        match phase {
            Phase::Ramp => self.pace = Pace::new(self.since, rate),
            Phase::Hold | Phase::Calm => {
                let talkers = self.storm.as_ref().map_or(progress.live.get(), Storming::talkers);
                let every = self.config.options.interval.map(|interval| talkers as f64 / interval.as_secs_f64());
                (self.pace, self.sent) = (Pace::new(self.since, every), 0);
            }
            Phase::Close => self.before_close = Some(progress.snapshot()),
            _ => {}
        }
        self.storm.iter_mut().for_each(|storm| storm.begin(phase, (self.since, now), rate));
        Ok(())
    }

    // ---- the phases: each returns `Schedule::Finished` when its shard has nothing left to do ------------

    fn ramp(&mut self, net: &mut ClientConnections, now: Instant) -> Result<Schedule> {
        for _ in 0..DIALS_PER_PASS {
            if self.window.len() >= self.config.concurrency {
                return Ok(Schedule::OnEvent);
            }
            if let Some(attempt) = self.again.pop_front() {
                if !self.dial_again(net, attempt)? {
                    return Ok(Schedule::OnEvent);
                }
                continue;
            }
            if self.next == self.config.numbers.end || self.hopeless() {
                return Ok(self.settle());
            }
            let nth = self.next - self.config.numbers.start;
            let intended = self.pace.intended(nth, net.clock());
            if let Some(at) = intended.filter(|at| *at > now) {
                return Ok(Schedule::At(at));
            }
            if !self.dial(net, nth as u32, intended)? {
                return Ok(Schedule::OnEvent);
            }
            self.next += 1;
        }
        Ok(Schedule::Now)
    }

    /// Whether trying on is in vain: many failures, and not one success between them.
    fn hopeless(&self) -> bool {
        self.failures_in_a_row >= HOPELESS_ATTEMPTS
    }

    /// Sends every connection its token, as many at a time as the ramp had connects.
    fn ask(&mut self, net: &mut ClientConnections, now: Instant) -> Result<Schedule> {
        for _ in 0..PROBES_PER_PASS {
            if self.window.len() >= self.config.concurrency {
                return Ok(Schedule::OnEvent);
            }
            let Some((conn, next)) = net.next_live(self.place) else { return Ok(self.settle()) };
            self.place = next;
            if self.is_talker(net, conn) {
                self.talkers = self.talkers.max(next);
            }
            self.send(net, conn, Kind::Token, now, now)?;
        }
        Ok(Schedule::Now)
    }

    /// The audit that asks nothing: what got no FIN and no RST counts.
    fn count(&mut self, net: &mut ClientConnections) -> Schedule {
        for _ in 0..PROBES_PER_PASS {
            let Some((_, next)) = net.next_live(self.place) else { return Schedule::Finished };
            self.place = next;
            self.config.progress.audited.add(1);
        }
        Schedule::Now
    }

    /// Sends messages as they are due; the end is a command.
    fn hold(&mut self, net: &mut ClientConnections, now: Instant) -> Result<Schedule> {
        for _ in 0..PROBES_PER_PASS {
            let Some(intended) = self.pace.intended(self.sent, net.clock()) else { return Ok(Schedule::OnEvent) };
            if intended > now {
                return Ok(Schedule::At(intended));
            }
            if self.window.len() >= PROBES_IN_FLIGHT {
                return Ok(Schedule::OnEvent);
            }
            let from = if self.talked < self.talkers { self.talked } else { Cursor::START };
            let Some((conn, next)) = net.next_live(from).or_else(|| net.next_live(Cursor::START)) else {
                return Ok(Schedule::OnEvent);
            };
            self.talked = next;
            if !self.is_talker(net, conn) {
                continue;
            }
            self.sent += 1;
            // A connection whose last message is unanswered sends no second one; when the answer
            // comes, the histogram is corrected for those left out.
            if net.state(conn).is_some_and(|state| state.key == 0) {
                self.send(net, conn, Kind::Message, intended, now)?;
            }
        }
        Ok(Schedule::Now)
    }

    /// Sends nothing more, and waits for the answers to what was sent.
    fn settle(&self) -> Schedule {
        if self.window.len() == 0 && self.again.is_empty() { Schedule::Finished } else { Schedule::OnEvent }
    }

    fn close(&mut self, net: &mut ClientConnections, now: Instant) -> Result<Schedule> {
        let closing = match &mut self.closing {
            Some(closing) => closing,
            None => {
                for conn in self.window.late(net.clock().now(), Duration::ZERO, Duration::MAX) {
                    net.cancel_dial(conn)?;
                }
                let pace = self.close_pace(net.clock().start(now), None);
                self.closing.insert(Closing::new(self.config.options.close, pace))
            }
        };
        closing.turn(net, now)
    }

    fn close_pace(&self, start: Start, otherwise: Option<f64>) -> Pace {
        Pace::new(start, self.config.options.close_rate.or(otherwise).map(|rate| rate / self.config.shards as f64))
    }

    /// Whether it sends messages: all do, and of a storm the survivors.
    fn is_talker(&self, net: &mut ClientConnections, conn: ConnId) -> bool {
        let index = net.state(conn).map(|state| state.index);
        self.storm.as_ref().is_none_or(|storm| index.is_some_and(|index| storm.spares(index)))
    }

    // ---- one connection -------------------------------------------------------------------------

    fn send(
        &mut self,
        net: &mut ClientConnections,
        conn: ConnId,
        kind: Kind,
        intended: Instant,
        now: Instant,
    ) -> Result<()> {
        let since = net.clock().now();
        let Some(state) = net.state(conn) else { return Ok(()) };
        let options = self.config.options.clone();
        let number = self.config.number(state.index);
        let round = if kind == Kind::Message { self.sent as u32 } else { self.round };
        compose(&mut self.scratch, kind, number, round, &options.hello, options.payload);
        if options.audit == Audit::Echo {
            let awaited = Awaited::Echo { kind, socket: None };
            state.key = self.window.add(Probe { conn, awaited, intended, started: now, since, got: 0, round });
        }
        net.send(conn, &self.scratch)
    }

    /// The whole echo came.
    fn answered(&mut self, net: &mut ClientConnections, conn: ConnId, kind: Kind, key: u32) -> Result<()> {
        let Some(probe) = self.window.remove(key) else { return Ok(()) };
        if let Some(state) = net.state(conn) {
            state.key = 0;
        }
        let now = Instant::now();
        self.config.progress.echoes.add(1);
        match kind {
            Kind::Hello => self.proved(net, conn)?,
            Kind::Token => {
                self.config.progress.audited.add(1);
                self.measures.audit.record(now.duration_since(probe.started));
            }
            Kind::Message => {
                net.note(now);
                // No message was left out while nothing was due.
                let suspended = net.clock().was_suspended_since(probe.started);
                let interval = self.config.options.interval.filter(|_| !suspended).unwrap_or_default();
                let (late, service) = (now.duration_since(probe.intended), now.duration_since(probe.started));
                self.measures.echoed(late, service, interval);
                self.storm
                    .iter_mut()
                    .for_each(|storm| storm.heard(net.clock(), probe.intended, now, service, interval));
            }
        }
        Ok(())
    }

    fn proved(&mut self, net: &mut ClientConnections, conn: ConnId) -> Result<()> {
        let Some(state) = net.state(conn) else { return Ok(()) };
        state.proved = true;
        self.failures_in_a_row = 0;
        self.config.progress.live.add(1);
        self.config.progress.stood.add(1);
        let (index, phase) = (state.index, self.phase);
        if self.storm.as_mut().is_some_and(|storm| storm.proved(index, phase)) {
            return net.close(conn, self.config.options.close, CloseReason::Local);
        }
        Ok(())
    }

    fn never_stood(&mut self, index: u32) {
        self.failures_in_a_row += 1;
        self.storm.iter_mut().for_each(|storm| storm.never_stood(index));
    }

    fn wrong(&mut self, net: &mut ClientConnections, conn: ConnId) -> Result<Reply> {
        self.give_up(net, conn, Cause::WrongEcho)?;
        Ok(Reply::Nothing)
    }

    /// Counts a connection that stands as failed, and resets it.
    fn give_up(&mut self, net: &mut ClientConnections, conn: ConnId, cause: Cause) -> Result<()> {
        self.failed(net, conn, cause);
        net.close(conn, CloseMode::Abort, CloseReason::Local)
    }

    /// Counts a failure. While closing, nothing counts any more.
    fn failed(&mut self, net: &mut ClientConnections, conn: ConnId, cause: Cause) {
        let Some(state) = net.state(conn) else { return };
        let (proved, index) = (std::mem::take(&mut state.proved), state.index);
        self.forget(net, conn);
        if self.phase == Phase::Close {
            return;
        }
        if proved {
            self.config.progress.live.sub(1);
            self.storm.iter_mut().for_each(|storm| storm.lost(cause == Cause::WrongEcho));
        } else {
            self.never_stood(index);
        }
        let progress = &self.config.progress;
        match cause {
            Cause::WrongEcho => progress.wrong.add(1),
            _ if proved => progress.lost.add(1),
            _ => {}
        }
        progress.failed.add(1);
        *self.causes.entry(cause).or_default() += 1;
    }

    fn forget(&mut self, net: &mut ClientConnections, conn: ConnId) {
        if let Some(state) = net.state(conn) {
            self.window.remove(std::mem::take(&mut state.key));
        }
    }

    fn probe_of(&mut self, net: &mut ClientConnections, conn: ConnId) -> Option<&mut Probe> {
        let key = net.state(conn)?.key;
        self.window.get(key)
    }

    /// Gives up on what is late.
    fn sweep(&mut self, net: &mut ClientConnections) -> Result<()> {
        let options = self.config.options.clone();
        for conn in self.window.late(net.clock().now(), options.connect_timeout, options.reply_timeout) {
            let Some(probe) = self.probe_of(net, conn) else { continue };
            let cause = match &mut probe.awaited {
                Awaited::Connect { given_up, .. } => {
                    *given_up = true;
                    net.cancel_dial(conn)?;
                    continue;
                }
                // TCP tells a server that never had the connection, and so acknowledges nothing,
                // from one that took our bytes and is silent.
                Awaited::Echo { socket: Some(socket), .. } => match sys::tcp_info(socket) {
                    Some(info) if info.unacknowledged > 0 => Cause::Ghost,
                    _ => Cause::Silent,
                },
                Awaited::Echo { socket: None, .. } => Cause::Unanswered,
            };
            self.give_up(net, conn, cause)?;
        }
        Ok(())
    }
}
