//! One connection of a client shard: what is sent on it, what its bytes are worth, and how it fails.

use std::time::Instant;

use super::conn_state::Standing;
use super::goodbye::GOODBYE_TIMEOUT;
use super::securing::is_ghost;
use super::{ClientConnections, ClientDriver};
use crate::client::window::{Awaited, Due, Limits, Probe};
use crate::client::{Audit, Phase};
use crate::connections::{CloseMode, CloseReason};
use crate::error::Result;
use crate::failure::Cause;
use crate::protocol::{Exchange, Heard, Purpose, Verdict};
use crate::token::ConnId;

impl ClientDriver {
    /// Sends the message of an audit or one of traffic, and awaits its answer if audits ask for answers. While a
    /// keepalive is in flight the message waits for its answer; while another message is, it is left out.
    pub(super) fn send(
        &mut self,
        connections: &mut ClientConnections,
        conn: ConnId,
        purpose: Purpose,
        intended: Instant,
        now: Instant,
    ) -> Result<()> {
        let Some(state) = connections.state(conn) else { return Ok(()) };
        let round = if purpose == Purpose::Message { self.sent as u32 } else { self.round };
        match self.window.get(state.key()) {
            None => return self.ask_now(connections, conn, (purpose, round), Due::at(intended), now),
            Some(Probe { awaited: Awaited::Answer { purpose: Purpose::Keepalive, .. }, next: None, .. }) => {
                self.window
                    .change(state.key(), |probe| (probe.next, probe.due) = (Some((purpose, round)), Due::at(intended)));
            }
            Some(_) => {
                self.window.change(state.key(), |probe| probe.due.leave_out(intended));
            }
        }
        Ok(())
    }

    /// Sends a message on a connection that has none in flight, and awaits its answer if audits ask for answers.
    pub(super) fn ask_now(
        &mut self,
        connections: &mut ClientConnections,
        conn: ConnId,
        (purpose, round): (Purpose, u32),
        due: Due,
        started: Instant,
    ) -> Result<()> {
        let since = connections.clock().now();
        let Some(state) = connections.state(conn) else { return Ok(()) };
        let exchange = Exchange { number: self.number(state.index), round, purpose };
        self.scratch.clear();
        self.config.protocol(state.index).ask(exchange, &mut self.scratch);
        if self.config.workload.audit == Audit::Answer {
            let awaited = Awaited::Answer { purpose, socket: None };
            state.set_key(self.window.add(Probe { conn, awaited, due, started, since, round, next: None }));
        }
        connections.send(conn, &self.scratch)
    }

    /// Has the protocol judge what came on a connection: a part of an answer, one or several, or unasked bytes.
    pub(super) fn hear(&mut self, connections: &mut ClientConnections, conn: ConnId, mut bytes: &[u8]) -> Result<()> {
        let Some(index) = connections.state(conn).map(|state| state.index) else { return Ok(()) };
        if self.config.workload.audit != Audit::Answer || self.goodbye.ends_hearing() {
            return Ok(());
        }
        let number = self.number(index);
        let mut position = self.incomplete.take(index, &mut self.hearing);
        while !bytes.is_empty() {
            // Nothing is heard any more that is being closed.
            let Some(key) = connections.state(conn).map(|state| state.key()) else { return Ok(()) };
            let exchange = match self.window.get(key) {
                None => None,
                Some(Probe { awaited: Awaited::Answer { purpose, .. }, round, .. }) => {
                    Some(Exchange { number, round: *round, purpose: *purpose })
                }
                Some(Probe { awaited: Awaited::Connect { .. } | Awaited::Handshake { .. }, .. }) => {
                    return self.give_up(connections, conn, Cause::Unasked);
                }
                Some(Probe { awaited: Awaited::End, .. }) => return Ok(()),
            };
            let heard = self.config.protocol(index).hear(exchange, &mut position, bytes, &mut self.hearing);
            let Heard { used, verdict } = heard;
            bytes = bytes.get(used..).unwrap_or_default();
            let has_session = std::mem::take(&mut self.hearing.has_session);
            if let Verdict::Wrong(cause) = verdict {
                self.hearing.reply.clear();
                return self.give_up(connections, conn, cause);
            }
            if has_session {
                self.config.progress.sessions.add(1);
            }
            let has_reply = !self.hearing.reply.is_empty();
            if has_reply {
                connections.send(conn, &self.hearing.reply)?;
                self.hearing.reply.clear();
            }
            match verdict {
                Verdict::Part => break,
                Verdict::Proof => self.answered(connections, conn, key)?,
                Verdict::Push(publication) | Verdict::PushAgain(publication) => {
                    self.config.progress.pushed.add(1);
                    let is_repeated = matches!(verdict, Verdict::PushAgain(_));
                    if let Some(fanout) = &mut self.fanout
                        && let Some(cause) = fanout.received(connections.clock(), index, publication, is_repeated)?
                    {
                        return self.give_up(connections, conn, cause);
                    }
                }
                Verdict::Ended(cause) => return self.ended_in_order(connections, conn, cause, has_reply),
                Verdict::Aside | Verdict::Wrong(_) => {}
            }
        }
        if connections.state(conn).is_some() && !self.incomplete.put(index, position, &mut self.hearing) {
            return self.give_up(connections, conn, Cause::TooManyIncomplete);
        }
        Ok(())
    }

    /// The answer is complete and right.
    fn answered(&mut self, connections: &mut ClientConnections, conn: ConnId, key: u32) -> Result<()> {
        let Some(purpose) = self.window.get(key).and_then(Probe::purpose) else { return Ok(()) };
        if purpose == Purpose::Goodbye {
            self.config.progress.goodbyes.add(1);
            return self.await_end(connections, conn);
        }
        if let Purpose::Open(step) = purpose
            && self.next_step(connections, conn, key, step.saturating_add(1))?
        {
            return Ok(());
        }
        let Some(probe) = self.window.remove(key) else { return Ok(()) };
        if let Some(state) = connections.state(conn) {
            state.set_key(0);
        }
        let now = Instant::now();
        let progress = &self.config.progress;
        progress.echoes.add(u64::from(!matches!(purpose, Purpose::Keepalive | Purpose::Publish)));
        match purpose {
            Purpose::Open(_) => self.proved(connections, conn)?,
            Purpose::Audit => {
                progress.audited.add(1);
                self.measures.audit.record(now.duration_since(probe.started));
            }
            Purpose::Message => {
                connections.note(now);
                self.measures.echo_service.record(now.duration_since(probe.started));
                for intended in probe.due.instants() {
                    self.measures.echo.record(now.duration_since(intended));
                    self.storm.iter_mut().for_each(|storm| storm.heard(connections.clock(), intended, now));
                }
            }
            Purpose::Keepalive => {
                progress.kept_alive.add(1);
                if let Some(next) = probe.next {
                    return self.ask_now(connections, conn, next, probe.due, now);
                }
            }
            Purpose::Goodbye | Purpose::Publish => {}
        }
        Ok(())
    }

    /// Goes on with opening a connection. `false` if the protocol has no such step: the connection is live.
    fn next_step(&mut self, connections: &mut ClientConnections, conn: ConnId, key: u32, step: u8) -> Result<bool> {
        let since = connections.clock().now();
        let Some(state) = connections.state(conn) else { return Ok(false) };
        self.scratch.clear();
        if !self.config.protocol(state.index).open(self.number(state.index), step, &mut self.scratch) {
            return Ok(false);
        }
        let goes_on = self.window.change(key, |probe| {
            if let Awaited::Answer { purpose, .. } = &mut probe.awaited {
                *purpose = Purpose::Open(step);
            }
            (probe.started, probe.since) = (Instant::now(), since);
        });
        if goes_on {
            connections.send(conn, &self.scratch)?;
        }
        Ok(goes_on)
    }

    /// A connection is live: it was opened, and gave every answer that was awaited.
    pub(super) fn proved(&mut self, connections: &mut ClientConnections, conn: ConnId) -> Result<()> {
        let Some(state) = connections.state(conn) else { return Ok(()) };
        state.prove();
        self.failures_in_a_row = 0;
        self.config.progress.live.add(1);
        self.config.progress.stood.add(1);
        let (index, phase) = (state.index, self.phase);
        self.fanout.iter_mut().for_each(|fanout| fanout.proved(index, conn));
        if self.storm.as_mut().is_some_and(|storm| storm.proved(index, phase)) {
            return connections.close(conn, self.config.workload.close, CloseReason::Local);
        }
        Ok(())
    }

    /// Counts a connection as asleep, or no more. One that is not live, as its answer is still awaited, does not count.
    pub(super) fn counts_as_asleep(&mut self, connections: &mut ClientConnections, conn: ConnId, asleep: bool) {
        let Some(state) = connections.state(conn) else { return };
        let asleep = asleep && state.is_proved();
        match (state.set_asleep(asleep), asleep) {
            (false, true) => self.config.progress.asleep.add(1),
            (true, false) => self.config.progress.asleep.sub(1),
            _ => {}
        }
    }

    pub(super) fn never_stood(&mut self, index: u32) {
        self.failures_in_a_row += 1;
        self.storm.iter_mut().for_each(|storm| storm.never_stood(index));
    }

    /// The server ended a connection by the rules of the protocol: it has failed unless the server may do that. If the
    /// protocol has a last word for it, the server closes first.
    fn ended_in_order(
        &mut self,
        connections: &mut ClientConnections,
        conn: ConnId,
        cause: Cause,
        said_goodbye: bool,
    ) -> Result<()> {
        if self.is_shed(connections, conn) {
            self.dropped(connections, conn);
        } else {
            self.failed(connections, conn, cause);
        }
        match said_goodbye {
            true => self.await_end(connections, conn),
            false => connections.close(conn, CloseMode::Immediate, CloseReason::Local),
        }
    }

    /// Counts an open connection as failed, and resets it.
    pub(super) fn give_up(&mut self, connections: &mut ClientConnections, conn: ConnId, cause: Cause) -> Result<()> {
        self.failed(connections, conn, cause);
        connections.close(conn, CloseMode::Abort, CloseReason::Local)
    }

    /// Counts a failure, unless the connection's end is counted: one that is given up may have ended for another reason,
    /// of which the driver is told later. While closing, nothing fails any more.
    pub(super) fn failed(&mut self, connections: &mut ClientConnections, conn: ConnId, cause: Cause) {
        if self.phase == Phase::Close {
            return self.closed(connections, conn);
        }
        self.leave_off(connections, conn);
        let Some(state) = connections.state(conn) else { return };
        let (standing, index) = (state.count_end(), state.index);
        if standing == Standing::Over {
            return;
        }
        let proved = standing == Standing::Live;
        if proved {
            self.config.progress.live.sub(1);
            self.storm.iter_mut().for_each(|storm| storm.lost(cause.is_wrong()));
            self.fanout.iter_mut().for_each(|fanout| fanout.lost(connections.clock(), index));
        } else {
            self.never_stood(index);
        }
        let progress = &self.config.progress;
        match cause {
            cause if cause.is_wrong() => progress.wrong.add(1),
            _ if proved => progress.lost.add(1),
            _ => {}
        }
        progress.failed.add(1);
        *self.causes.entry(cause).or_default() += 1;
    }

    /// A connection ended while the shard closes all of them: it counts as closed if it was live.
    pub(super) fn closed(&mut self, connections: &mut ClientConnections, conn: ConnId) {
        self.leave_off(connections, conn);
        let was_live = connections.state(conn).is_some_and(|state| state.count_end() == Standing::Live);
        self.config.progress.closed.add(u64::from(was_live));
    }

    /// Takes the probe of a connection out of the window, if it has one.
    pub(super) fn take_probe(&mut self, connections: &mut ClientConnections, conn: ConnId) -> Option<Probe> {
        let state = connections.state(conn)?;
        let key = state.key();
        state.set_key(0);
        self.window.remove(key)
    }

    pub(super) fn forget(&mut self, connections: &mut ClientConnections, conn: ConnId) {
        self.take_probe(connections, conn);
        if let Some(state) = connections.state(conn) {
            self.incomplete.forget(state.index);
        }
    }

    /// Awaits nothing more of a connection that is over.
    pub(super) fn leave_off(&mut self, connections: &mut ClientConnections, conn: ConnId) {
        self.counts_as_asleep(connections, conn, false);
        self.forget(connections, conn);
    }

    pub(super) fn probe_of(&self, connections: &mut ClientConnections, conn: ConnId) -> Option<&Probe> {
        let key = connections.state(conn)?.key();
        self.window.get(key)
    }

    /// Gives up on connects and answers that are late.
    pub(super) fn sweep(&mut self, connections: &mut ClientConnections) -> Result<()> {
        let workload = &self.config.workload;
        let limits = Limits {
            connect: workload.connect_timeout,
            reply: workload.reply_timeout,
            goodbye: workload.reply_timeout.min(GOODBYE_TIMEOUT),
        };
        for conn in self.window.late(connections.clock().now(), limits) {
            let Some(key) = connections.state(conn).map(|state| state.key()) else { continue };
            let Some(probe) = self.window.get(key) else { continue };
            let cause = match &probe.awaited {
                Awaited::Connect { .. } => {
                    self.window.change(key, |probe| {
                        if let Awaited::Connect { given_up, .. } = &mut probe.awaited {
                            *given_up = true;
                        }
                    });
                    connections.cancel_dial(conn)?;
                    continue;
                }
                Awaited::Answer { purpose: Purpose::Goodbye, .. } | Awaited::End => {
                    self.forget(connections, conn);
                    connections.close(conn, self.config.workload.close, CloseReason::Local)?;
                    continue;
                }
                Awaited::Handshake { .. } => continue,
                Awaited::Answer { socket: Some(socket), .. } if is_ghost(socket) => Cause::Ghost,
                Awaited::Answer { socket: Some(_), .. } => Cause::Silent,
                Awaited::Answer { socket: None, .. } => Cause::Unanswered,
            };
            self.give_up(connections, conn, cause)?;
        }
        Ok(())
    }
}
