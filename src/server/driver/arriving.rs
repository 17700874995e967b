//! A shard takes connections over from an earlier server, or what one has left that was killed.

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::mpsc::TryRecvError;

use super::ServerDriver;
use crate::connections::{Connections, Handed, SleepersFrom};
use crate::error::Result;
use crate::latency::Latency;
use crate::server::takeover::{Arrival, Arrivals};
use crate::service::Service;
use crate::takeover::format::{Known, Sleeper};
use crate::token::ConnId;

/// A shard that takes over.
pub(super) struct Arriving {
    pub arrivals: Arrivals,
    /// What it listens on once the sleeping connections are its own.
    pub sockets: Vec<Arc<TcpListener>>,
    /// What is known of sleeping connections that are to come.
    pub sleepers: SleepersHere,
    /// Those for which no slot is free.
    pub waiting: VecDeque<(Handed, Known)>,
    /// It has taken the sleeping connections over.
    pub began: bool,
    /// How long those that were awake were received from by neither process.
    pub pauses: Latency,
}

/// What is known here of sleeping connections that another process had.
#[derive(Default)]
pub(super) struct SleepersHere {
    known: HashMap<ConnId, SleeperHere>,
    /// Those whose TLS sessions cannot be used.
    unusable: HashSet<ConnId>,
}

struct SleeperHere {
    /// Its sequence numbers when this was known (`Entries::said`).
    said: u64,
    known: Known,
    /// It has a TLS session.
    has_tls: bool,
}

impl SleepersHere {
    /// Adds some, and keeps their TLS sessions.
    pub fn add<S: Default>(&mut self, connections: &mut Connections<S>, sleepers: Vec<Sleeper>) {
        for Sleeper { name, said, known, tls } in sleepers {
            let has_tls = tls.is_some();
            if tls.is_none_or(|tls| connections.bring_tls(name, &tls)) {
                self.known.insert(name, SleeperHere { said, known, has_tls });
            } else {
                self.unusable.insert(name);
            }
        }
    }
}

impl<S: Service> ServerDriver<S> {
    /// Takes what has arrived. Returns whether there may be more at once.
    pub(super) fn take_arrivals(&mut self, connections: &mut Connections<S::State>) -> Result<bool> {
        let Some(mut arriving) = self.arriving.take() else { return Ok(false) };
        while let Some((handed, known)) = arriving.waiting.pop_front() {
            let pause = handed.state.pause();
            if let Some(back) = self.place(connections, handed, &known)? {
                arriving.waiting.push_front((back, known));
                self.arriving = Some(arriving);
                return Ok(false);
            }
            arriving.pauses.record(pause);
        }
        let arrival = match arriving.arrivals.from.try_recv() {
            Ok(arrival) => arrival,
            Err(TryRecvError::Empty) => {
                self.arriving = Some(arriving);
                return Ok(false);
            }
            // The start of the server has failed, which ends the shard too.
            Err(TryRecvError::Disconnected) => return Ok(false),
        };
        match arrival {
            Arrival::KnownSleepers(sleepers) => arriving.sleepers.add(connections, sleepers),
            Arrival::Sleepers(sleepers) => {
                let here = std::mem::take(&mut arriving.sleepers);
                let keeps = |name: ConnId, _| !here.unusable.contains(&name);
                let from = SleepersFrom::Predecessor(sleepers.surrendered, sleepers.window);
                connections.take_over_sleepers(from, &keeps)?;
                connections.expect(sleepers.awake);
                let names = connections.sleeping();
                self.greet_sleepers(connections, here, names)?;
                arriving.began = true;
                self.listen(connections, std::mem::take(&mut arriving.sockets))?;
                let _ = arriving.arrivals.placed.send(None);
            }
            Arrival::Batch { connections: batch, ended, to_come } => {
                connections.ended_away(&ended);
                connections.expect(to_come.saturating_add(batch.len() as u64));
                batch.iter().try_for_each(|(handed, _)| self.listeners.give_connection(&handed.socket))?;
                arriving.waiting.extend(batch);
            }
            Arrival::Done(rest) => {
                connections.expect(0);
                self.call(connections, |service, ctx| service.taken_over_shard(ctx, &rest))?;
                let _ = arriving.arrivals.placed.send(Some(arriving.pauses));
                return Ok(true);
            }
            Arrival::Killed => {
                connections.expect(0);
                if arriving.began {
                    connections.lose_those_away();
                } else {
                    self.inherit(connections, arriving.sleepers, SleepersFrom::Nobody)?;
                    self.listen(connections, arriving.sockets)?;
                }
                let _ = arriving.arrivals.placed.send(Some(arriving.pauses));
                return Ok(true);
            }
        }
        self.arriving = Some(arriving);
        Ok(true)
    }

    /// Takes over the sleeping connections of a process that was killed, as far as what they need is `here`. The others are
    /// reset: what a protocol of messages has heard so far, and the secrets of TLS, were in that process. Nor can a
    /// connection go on that has said something since that was known: its records would be sealed with numbers that were
    /// used before.
    pub(super) fn inherit(
        &mut self,
        connections: &mut Connections<S::State>,
        here: SleepersHere,
        from: SleepersFrom,
    ) -> Result<()> {
        let speak_tls = connections.speak_tls();
        let needs_more = speak_tls || S::SPOKEN.keeps_state();
        let is_complete = |sleeper: &SleeperHere, said| sleeper.said == said && (sleeper.has_tls || !speak_tls);
        let keeps = |name: ConnId, said: u64| {
            !needs_more || here.known.get(&name).is_some_and(|sleeper| is_complete(sleeper, said))
        };
        connections.take_over_sleepers(from, &keeps)?;
        for (name, sleeper) in &here.known {
            if sleeper.has_tls && !connections.is_asleep(*name) {
                connections.forget_tls(*name);
            }
        }
        let names = connections.sleeping();
        self.greet_sleepers(connections, here, names)
    }

    /// Tells the service of sleeping connections that have come, or come back, but for those whose handshake has not begun.
    pub(super) fn greet_sleepers(
        &mut self,
        connections: &mut Connections<S::State>,
        mut here: SleepersHere,
        names: Vec<ConnId>,
    ) -> Result<()> {
        for name in names {
            if connections.is_opened(&name) {
                let known = here.known.remove(&name).map(|sleeper| sleeper.known).unwrap_or_default();
                self.arrived(connections, name, &known)?;
            }
        }
        Ok(())
    }

    /// Accepts on the listeners of another process.
    pub(super) fn listen(
        &mut self,
        connections: &mut Connections<S::State>,
        sockets: Vec<Arc<TcpListener>>,
    ) -> Result<()> {
        sockets.iter().try_for_each(|socket| self.listeners.give(socket))?;
        connections.listen(sockets, self.accepts)
    }

    /// Whether connections of another process wait for a free slot.
    pub(super) fn is_short_of_slots(&self) -> bool {
        self.arriving.as_ref().is_some_and(|arriving| !arriving.waiting.is_empty())
    }

    /// Gives a connection a slot. `Some` gives it back while none is free.
    fn place(
        &mut self,
        connections: &mut Connections<S::State>,
        handed: Handed,
        known: &Known,
    ) -> Result<Option<Handed>> {
        match connections.take_over(handed)? {
            Err(handed) => return Ok(Some(handed)),
            Ok(Some(name)) if connections.is_opened(&name) => self.arrived(connections, name, known)?,
            // One whose handshake has not begun, or that cannot be kept.
            Ok(_) => {}
        }
        Ok(None)
    }

    /// Tells the service of a connection that came from another process, or comes back.
    pub(super) fn arrived(
        &mut self,
        connections: &mut Connections<S::State>,
        name: ConnId,
        known: &Known,
    ) -> Result<()> {
        self.context.taken_over(connections, name, (known.age, known.deadline));
        self.call(connections, |service, ctx| service.taken_over(ctx, name, &known.service))
    }
}
