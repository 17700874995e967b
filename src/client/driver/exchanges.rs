//! One connection of a client shard: what is sent on it, what its bytes are worth, and how it fails.

use std::time::Instant;

use super::{ClientConnections, ClientDriver, PROBES_PER_PASS};
use crate::client::window::{Awaited, Probe};
use crate::client::{Audit, Phase};
use crate::connections::{CloseMode, CloseReason};
use crate::error::Result;
use crate::failure::Cause;
use crate::protocol::{Exchange, Heard, Position, Purpose, Verdict};
use crate::sys;
use crate::token::ConnId;

impl ClientDriver {
    /// Sends the message of an audit or one of traffic, and awaits its answer if audits ask for answers.
    pub(super) fn send(
        &mut self,
        connections: &mut ClientConnections,
        conn: ConnId,
        purpose: Purpose,
        intended: Instant,
        now: Instant,
    ) -> Result<()> {
        let since = connections.clock().now();
        let Some(state) = connections.state(conn) else { return Ok(()) };
        let round = if purpose == Purpose::Message { self.sent as u32 } else { self.round };
        let exchange = Exchange { number: self.config.number(state.index), round, purpose };
        self.scratch.clear();
        self.config.workload.protocol.ask(exchange, &mut self.scratch);
        if self.config.workload.audit == Audit::Answer {
            let awaited = Awaited::Answer { purpose, socket: None };
            let position = Position::default();
            state.key = self.window.add(Probe { conn, awaited, intended, started: now, since, position, round });
        }
        connections.send(conn, &self.scratch)
    }

    /// Has the protocol judge what came on a connection: a part of an answer, one or several, or unasked bytes.
    pub(super) fn hear(&mut self, connections: &mut ClientConnections, conn: ConnId, mut bytes: &[u8]) -> Result<()> {
        if self.config.workload.audit != Audit::Answer || self.says_goodbye {
            return Ok(());
        }
        while !bytes.is_empty() {
            let Some(state) = connections.state(conn) else { return Ok(()) };
            let (number, key) = (self.config.number(state.index), state.key);
            let mut unasked = Position::default();
            let (exchange, position) = match self.window.get(key) {
                None => (None, &mut unasked),
                Some(Probe { awaited: Awaited::Answer { purpose, .. }, round, position, .. }) => {
                    (Some(Exchange { number, round: *round, purpose: *purpose }), position)
                }
                Some(Probe { awaited: Awaited::Connect { .. }, .. }) => {
                    return self.give_up(connections, conn, Cause::Unasked);
                }
            };
            let heard = self.config.workload.protocol.hear(exchange, position, bytes, &mut self.hearing);
            let Heard { used, verdict } = heard;
            bytes = bytes.get(used..).unwrap_or_default();
            match verdict {
                Verdict::Part => return Ok(()),
                Verdict::Proof => self.answered(connections, conn, key)?,
                Verdict::Aside if self.hearing.reply.is_empty() => {}
                Verdict::Aside => {
                    connections.send(conn, &self.hearing.reply)?;
                    self.hearing.reply.clear();
                }
                Verdict::Wrong(cause) => return self.give_up(connections, conn, cause),
            }
        }
        Ok(())
    }

    /// The answer is complete and right.
    fn answered(&mut self, connections: &mut ClientConnections, conn: ConnId, key: u32) -> Result<()> {
        let purpose = match self.window.get(key) {
            Some(Probe { awaited: Awaited::Answer { purpose, .. }, .. }) => *purpose,
            _ => return Ok(()),
        };
        if let Purpose::Open(step) = purpose
            && self.next_step(connections, conn, key, step.saturating_add(1))?
        {
            return Ok(());
        }
        let Some(probe) = self.window.remove(key) else { return Ok(()) };
        if let Some(state) = connections.state(conn) {
            state.key = 0;
        }
        let now = Instant::now();
        self.config.progress.echoes.add(1);
        match purpose {
            Purpose::Open(_) => self.proved(connections, conn)?,
            Purpose::Audit => {
                self.config.progress.audited.add(1);
                self.measures.audit.record(now.duration_since(probe.started));
            }
            Purpose::Message => {
                connections.note(now);
                // No message was left out while nothing was due.
                let suspended = connections.clock().was_suspended_since(probe.started);
                let interval = self.config.workload.interval.filter(|_| !suspended).unwrap_or_default();
                let (late, service) = (now.duration_since(probe.intended), now.duration_since(probe.started));
                self.measures.echoed(late, service, interval);
                self.storm
                    .iter_mut()
                    .for_each(|storm| storm.heard(connections.clock(), probe.intended, now, service, interval));
            }
        }
        Ok(())
    }

    /// Goes on with opening a connection. `false` if the protocol has no such step: the connection is live.
    fn next_step(&mut self, connections: &mut ClientConnections, conn: ConnId, key: u32, step: u8) -> Result<bool> {
        let since = connections.clock().now();
        let (Some(state), Some(probe)) = (connections.state(conn), self.window.get(key)) else { return Ok(false) };
        self.scratch.clear();
        if !self.config.workload.protocol.open(self.config.number(state.index), step, &mut self.scratch) {
            return Ok(false);
        }
        if let Awaited::Answer { purpose, .. } = &mut probe.awaited {
            *purpose = Purpose::Open(step);
        }
        (probe.position, probe.started, probe.since) = (Position::default(), Instant::now(), since);
        connections.send(conn, &self.scratch)?;
        Ok(true)
    }

    /// Says goodbye on the next connections, if the protocol has a goodbye. Tells whether it was said on all.
    pub(super) fn say_goodbye(&mut self, connections: &mut ClientConnections) -> Result<bool> {
        if !self.says_goodbye {
            return Ok(true);
        }
        for _ in 0..PROBES_PER_PASS {
            let Some((conn, next)) = connections.next_live(self.place) else { return Ok(true) };
            self.place = next;
            let Some(state) = connections.state(conn) else { continue };
            self.scratch.clear();
            self.config.workload.protocol.goodbye(self.config.number(state.index), &mut self.scratch);
            connections.send(conn, &self.scratch)?;
        }
        Ok(false)
    }

    /// A connection is live: it was opened, and gave every answer that was awaited.
    pub(super) fn proved(&mut self, connections: &mut ClientConnections, conn: ConnId) -> Result<()> {
        let Some(state) = connections.state(conn) else { return Ok(()) };
        state.proved = true;
        self.failures_in_a_row = 0;
        self.config.progress.live.add(1);
        self.config.progress.stood.add(1);
        let (index, phase) = (state.index, self.phase);
        if self.storm.as_mut().is_some_and(|storm| storm.proved(index, phase)) {
            return connections.close(conn, self.config.workload.close, CloseReason::Local);
        }
        Ok(())
    }

    pub(super) fn never_stood(&mut self, index: u32) {
        self.failures_in_a_row += 1;
        self.storm.iter_mut().for_each(|storm| storm.never_stood(index));
    }

    /// Counts an open connection as failed, and resets it.
    pub(super) fn give_up(&mut self, connections: &mut ClientConnections, conn: ConnId, cause: Cause) -> Result<()> {
        self.failed(connections, conn, cause);
        connections.close(conn, CloseMode::Abort, CloseReason::Local)
    }

    /// Counts a failure. While closing, nothing counts any more.
    pub(super) fn failed(&mut self, connections: &mut ClientConnections, conn: ConnId, cause: Cause) {
        let Some(state) = connections.state(conn) else { return };
        let (proved, index) = (std::mem::take(&mut state.proved), state.index);
        self.forget(connections, conn);
        if self.phase == Phase::Close {
            return;
        }
        if proved {
            self.config.progress.live.sub(1);
            self.storm.iter_mut().for_each(|storm| storm.lost(cause.is_wrong()));
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

    pub(super) fn forget(&mut self, connections: &mut ClientConnections, conn: ConnId) {
        if let Some(state) = connections.state(conn) {
            self.window.remove(std::mem::take(&mut state.key));
        }
    }

    pub(super) fn probe_of(&mut self, connections: &mut ClientConnections, conn: ConnId) -> Option<&mut Probe> {
        let key = connections.state(conn)?.key;
        self.window.get(key)
    }

    /// Gives up on connects and answers that are late.
    pub(super) fn sweep(&mut self, connections: &mut ClientConnections) -> Result<()> {
        let workload = self.config.workload.clone();
        for conn in self.window.late(connections.clock().now(), workload.connect_timeout, workload.reply_timeout) {
            let Some(probe) = self.probe_of(connections, conn) else { continue };
            let cause = match &mut probe.awaited {
                Awaited::Connect { given_up, .. } => {
                    *given_up = true;
                    connections.cancel_dial(conn)?;
                    continue;
                }
                // A server that never accepted the connection acknowledges nothing; a server that took our bytes
                // and is silent has acknowledged them.
                Awaited::Answer { socket: Some(socket), .. } => match sys::tcp_info(socket) {
                    Some(info) if info.unacknowledged > 0 => Cause::Ghost,
                    _ => Cause::Silent,
                },
                Awaited::Answer { socket: None, .. } => Cause::Unanswered,
            };
            self.give_up(connections, conn, cause)?;
        }
        Ok(())
    }
}
