//! A shard takes connections over from an earlier server, or what one has left that was killed.

use std::collections::{HashMap, VecDeque};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::mpsc::TryRecvError;

use super::ServerDriver;
use crate::connections::{Connections, Handed};
use crate::error::Result;
use crate::server::takeover::{Arrival, Arrivals};
use crate::service::Service;
use crate::takeover::format::Known;
use crate::token::ConnId;

/// A shard that takes over.
pub(super) struct Arriving {
    pub arrivals: Arrivals,
    /// What it listens on once the sleeping connections are its own.
    pub sockets: Vec<Arc<TcpListener>>,
    /// Those for which no slot is free.
    pub waiting: VecDeque<(Handed, Known)>,
    /// It has taken the sleeping connections over.
    pub began: bool,
}

impl<S: Service> ServerDriver<S> {
    /// Takes what has arrived. Returns whether there may be more at once.
    pub(super) fn take_arrivals(&mut self, connections: &mut Connections<S::State>) -> Result<bool> {
        let Some(mut arriving) = self.arriving.take() else { return Ok(false) };
        while let Some((handed, known)) = arriving.waiting.pop_front() {
            if let Some(back) = self.place(connections, handed, &known)? {
                arriving.waiting.push_front((back, known));
                self.arriving = Some(arriving);
                return Ok(false);
            }
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
            Arrival::Sleepers(sleepers) => {
                connections.take_over_sleepers(Some((sleepers.surrendered, sleepers.window)))?;
                let known: HashMap<ConnId, Known> = sleepers.known.into_iter().collect();
                self.greet_sleepers(connections, |name| known.get(&name).cloned().unwrap_or_default())?;
                arriving.began = true;
                self.listen(connections, std::mem::take(&mut arriving.sockets))?;
            }
            Arrival::Batch(batch, ended) => {
                connections.ended_away(&ended);
                arriving.waiting.extend(batch);
            }
            Arrival::Done => {
                let _ = arriving.arrivals.placed.send(());
                return Ok(true);
            }
            Arrival::Killed => {
                if arriving.began {
                    connections.lose_those_away();
                } else {
                    self.inherit(connections)?;
                    arriving.began = true;
                    self.listen(connections, std::mem::take(&mut arriving.sockets))?;
                }
                let _ = arriving.arrivals.placed.send(());
                return Ok(true);
            }
        }
        self.arriving = Some(arriving);
        Ok(true)
    }

    /// Takes over what a process has left that was killed.
    pub(super) fn inherit(&mut self, connections: &mut Connections<S::State>) -> Result<()> {
        connections.take_over_sleepers(None)?;
        self.greet_sleepers(connections, |_| Known::default())
    }

    fn greet_sleepers(
        &mut self,
        connections: &mut Connections<S::State>,
        known: impl Fn(ConnId) -> Known,
    ) -> Result<()> {
        for name in connections.sleeping() {
            self.arrived(connections, name, &known(name))?;
        }
        Ok(())
    }

    /// Accepts on the listeners of another process.
    pub(super) fn listen(
        &mut self,
        connections: &mut Connections<S::State>,
        sockets: Vec<Arc<TcpListener>>,
    ) -> Result<()> {
        sockets.iter().try_for_each(|socket| self.program.attach(socket))?;
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
            Ok(Some(name)) => self.arrived(connections, name, known)?,
            Ok(None) => {}
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
