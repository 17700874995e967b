//! A server's part on each shard: hands what happens to the service, and does for it what no completion brings.

mod arriving;
mod handing;

use std::collections::VecDeque;
use std::net::TcpListener;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, PoisonError, mpsc};
use std::time::{Duration, Instant};

use super::builder::EventSink;
use super::takeover::{Arrivals, HandoverSlot};
use super::{HAND_OVER, LEAVE, SERVE, STOP, ServerEvent, ShardInfo};
use crate::connections::{CloseMode, CloseReason, Connections, SleepersFrom};
use crate::error::{Errno, Error, Result};
use crate::latency::Latency;
use crate::listener;
use crate::mailbox::Inbox;
use crate::pace::Pace;
use crate::reactor::{Closing, Driver, Schedule};
use crate::reply::Reply;
use crate::service::{Ctx, Service, ShardContext};
use crate::stats::OwnCounters;
use crate::sys;
use crate::token::ConnId;
use arriving::{Arriving, SleepersHere};
use handing::Handing;

/// Connections that one shard closes in a second at least while it drains: a third of what a core can do.
const SLOWEST_DRAIN: f64 = 10_000.0;

/// Messages of the mailbox that a shard takes in one pass.
const MESSAGES_PER_PASS: usize = 128;

/// How often connections of another process are tried again that found no free slot.
const RETRY: Duration = Duration::from_millis(10);

/// The shortest interval between two ticks of a service.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(1);

/// Tells the owner that a shard ended, however it ends, but for one that has handed over all.
pub(super) struct Ended {
    index: usize,
    events: EventSink,
    is_expected: bool,
}

impl Ended {
    pub fn new(index: usize, events: EventSink) -> Ended {
        Ended { index, events, is_expected: false }
    }

    /// It ends as it has handed over all.
    fn because_handed_over(&mut self) {
        self.is_expected = true;
    }
}

impl Drop for Ended {
    fn drop(&mut self) {
        if !self.is_expected {
            (self.events)(ServerEvent::ShardEnded(self.index));
        }
    }
}

/// Settings of a shard's listeners. Another process that has had the listeners may have replaced them.
pub(super) struct ListenerSettings {
    /// The BPF program; `None` where they have none.
    pub program: Option<OwnedFd>,
    pub backlog: i32,
    pub keepalive: Option<Duration>,
}

impl ListenerSettings {
    /// Gives all of that to a listener of another process, which listens in any case.
    fn give(&self, socket: &TcpListener) -> Result<()> {
        self.equip(socket)?;
        let listens = listener::listen_again(socket, self.backlog);
        listens.map_err(|error| Error::unexpected("listen with", "the listener of another process", &error))
    }

    /// Gives program and keepalive to a listener that another process has had. Whether it listens is as it was.
    fn equip(&self, socket: &TcpListener) -> Result<()> {
        let attached = match &self.program {
            Some(program) => sys::attach_program(socket, program.as_fd()),
            None => sys::detach_program(socket),
        };
        let kept = attached.and_then(|()| listener::set_keepalive(socket, self.keepalive));
        kept.map_err(|error| Error::unexpected("set up", "the listener of another process", &error))
    }

    /// Gives a connection that another process had accepted what it would have of a listener here.
    fn give_connection(&self, socket: &OwnedFd) -> Result<()> {
        let kept = listener::set_keepalive(socket, self.keepalive);
        kept.map_err(|error| Error::unexpected("set SO_KEEPALIVE on", "a connection of another process", &error))
    }
}

/// Where a shard's connections come from that stand already at its start.
pub(super) enum Origin {
    /// There are none.
    Fresh,
    /// An earlier process has left them, which was killed.
    Left,
    /// The server that runs hands them over.
    HandedOver(Arrivals),
}

/// What one shard needs to begin, carried to its thread.
pub(super) struct ShardStart<M> {
    pub info: ShardInfo<M>,
    pub inbox: Inbox<M>,
    pub own: Arc<OwnCounters>,
    pub sockets: Vec<Arc<TcpListener>>,
    pub origin: Origin,
    pub listeners: ListenerSettings,
    /// The accept queue of each listener in the process before.
    pub inherited_backlog: usize,
    pub slot: Option<HandoverSlot>,
    /// Accepts in flight on each listener.
    pub accepts: usize,
    pub drain_timeout: Duration,
    pub connection_ages: bool,
    pub peer_addresses: bool,
    pub ready: mpsc::Sender<usize>,
    pub ended: Ended,
}

impl<M: Send + 'static> ShardStart<M> {
    pub fn build<S: Service<Message = M>>(
        self,
        connections: &mut Connections<S::State>,
        make: &dyn Fn(ShardInfo<M>) -> S,
    ) -> Result<ServerDriver<S>> {
        self.inbox.settle_here();
        if self.peer_addresses {
            connections.bring_peer_addresses();
        }
        let (index, shards) = (self.info.index(), self.info.shards());
        let service = make(self.info);
        connections.raise_max_pending(service.longest_send());
        let next_tick = service.interval().map(|every| Instant::now() + every);
        let mut driver = ServerDriver {
            service,
            context: ShardContext::new(index, shards, self.connection_ages, self.own),
            inbox: self.inbox,
            next_tick,
            drain_timeout: self.drain_timeout,
            closing: None,
            listeners: self.listeners,
            accepts: self.accepts,
            slot: self.slot,
            handing: None,
            arriving: None,
            ended: self.ended,
        };
        match self.origin {
            Origin::Fresh => connections.listen(self.sockets, self.accepts)?,
            Origin::Left => {
                connections.inherit_listeners(self.inherited_backlog);
                driver.inherit(connections, SleepersHere::default(), SleepersFrom::Nobody)?;
                driver.listen(connections, self.sockets)?;
            }
            Origin::HandedOver(arrivals) => {
                connections.await_sleepers();
                connections.inherit_listeners(self.inherited_backlog);
                driver.context.divide(true);
                driver.arriving = Some(Arriving {
                    arrivals,
                    sockets: self.sockets,
                    sleepers: SleepersHere::default(),
                    waiting: VecDeque::new(),
                    began: false,
                    pauses: Latency::new()?,
                });
            }
        }
        // The owner is waiting for this.
        let _ = self.ready.send(index);
        Ok(driver)
    }
}

/// The server's driver: hands bytes to the service and carries out what it wants.
pub(super) struct ServerDriver<S: Service> {
    service: S,
    context: ShardContext<S::State>,
    inbox: Inbox<S::Message>,
    next_tick: Option<Instant>,
    drain_timeout: Duration,
    /// While stopping.
    closing: Option<Closing>,
    listeners: ListenerSettings,
    /// Accepts in flight on each listener.
    accepts: usize,
    /// Where it finds the way to a successor, if there may be one.
    slot: Option<HandoverSlot>,
    /// While handing over.
    handing: Option<Handing<S>>,
    /// While taking over.
    arriving: Option<Arriving>,
    ended: Ended,
}

impl<S: Service> Driver for ServerDriver<S> {
    type State = S::State;

    fn opened(&mut self, connections: &mut Connections<S::State>, conn: ConnId) -> Result<()> {
        self.context.opened(conn);
        self.call(connections, |service, ctx| service.opened(ctx, conn))
    }

    fn received(&mut self, connections: &mut Connections<S::State>, conn: ConnId, data: &mut [u8]) -> Result<Reply> {
        self.call(connections, |service, ctx| service.received(ctx, conn, data))
    }

    fn slept(&mut self, connections: &mut Connections<S::State>, conn: ConnId) -> Result<()> {
        self.call(connections, |service, ctx| service.slept(ctx, conn))
    }

    fn woke(&mut self, connections: &mut Connections<S::State>, conn: ConnId) -> Result<()> {
        self.call(connections, |service, ctx| service.woke(ctx, conn))
    }

    fn sent(&mut self, connections: &mut Connections<S::State>, conn: ConnId) -> Result<()> {
        self.call(connections, |service, ctx| service.sent(ctx, conn))
    }

    fn ended(&mut self, connections: &mut Connections<S::State>, conn: ConnId, reason: CloseReason) -> Result<()> {
        self.context.closed(conn);
        let reason = match reason {
            // A send or a receive found out before a poll could tell.
            CloseReason::Failed(Errno::ECONNRESET | Errno::EPIPE) => CloseReason::PeerReset,
            reason => reason,
        };
        self.call(connections, |service, ctx| service.closed(ctx, conn, reason))
    }

    fn turn(&mut self, connections: &mut Connections<S::State>, now: Instant, command: u32) -> Result<Schedule> {
        if command == LEAVE {
            return Ok(Schedule::Finished);
        }
        if command != SERVE && self.context.is_divided() && self.handing.is_none() && self.arriving.is_none() {
            self.unite(connections)?;
        }
        if command == HAND_OVER && self.handing.is_none() {
            let link = self.slot.as_ref().and_then(|slot| slot.lock().unwrap_or_else(PoisonError::into_inner).take());
            self.context.divide(link.is_some());
            self.handing = link.map(|link| Handing::new(link, now));
        }
        if let Some(schedule) = self.hand_over(connections, now)? {
            return Ok(schedule);
        }
        if command == STOP {
            return self.drain(connections, now);
        }
        let more = self.take_arrivals(connections)?;
        let schedule = self.serve(connections, now)?;
        let retry = now + RETRY;
        Ok(match schedule {
            _ if more => Schedule::Now,
            // A slot may become free.
            Schedule::OnEvent if self.is_short_of_slots() => Schedule::At(retry),
            Schedule::At(at) if self.is_short_of_slots() => Schedule::At(at.min(retry)),
            schedule => schedule,
        })
    }
}

impl<S: Service> ServerDriver<S> {
    /// Does for the service what no completion brings.
    fn serve(&mut self, connections: &mut Connections<S::State>, now: Instant) -> Result<Schedule> {
        self.take_messages(connections)?;
        if self.next_tick.is_some_and(|at| at <= now) {
            self.call(connections, Service::tick)?;
            self.next_tick = self.service.interval().map(|every| now + every.max(SHORTEST_INTERVAL));
        }
        self.expire(connections)?;
        self.context.broadcast_some(connections)?;
        if self.inbox.has_more() || self.context.has_more() {
            return Ok(Schedule::Now);
        }
        let due = self.next_tick.into_iter().chain(self.context.due(connections, now)).min();
        Ok(due.map_or(Schedule::OnEvent, Schedule::At))
    }

    /// The connections of this server are no longer in two processes.
    fn unite(&mut self, connections: &mut Connections<S::State>) -> Result<()> {
        self.context.divide(false);
        self.call(connections, Service::united)
    }

    /// Calls the service. What failed in the call is the shard's failure.
    fn call<R>(
        &mut self,
        connections: &mut Connections<S::State>,
        call: impl FnOnce(&mut S, &mut Ctx<'_, S::State>) -> R,
    ) -> Result<R> {
        let result = call(&mut self.service, &mut self.context.with(connections));
        self.context.check().map(|()| result)
    }

    /// Hands on a bounded number of messages.
    fn take_messages(&mut self, connections: &mut Connections<S::State>) -> Result<()> {
        let Some(count) = self.inbox.open(MESSAGES_PER_PASS) else { return Ok(()) };
        for _ in 0..count {
            let Some(message) = self.inbox.take() else { break };
            self.call(connections, |service, ctx| service.message(ctx, message))?;
        }
        self.inbox.taken();
        Ok(())
    }

    /// Tells the service of some deadlines that have passed.
    fn expire(&mut self, connections: &mut Connections<S::State>) -> Result<()> {
        let now = connections.clock().now();
        let passed = self.context.take_expired(now);
        for place in &passed {
            if self.context.take_deadline(*place, now)
                && let Some(conn) = connections.live_at(*place)
            {
                self.context.closes_because(CloseReason::Deadline);
                let told = self.call(connections, |service, ctx| service.expired(ctx, conn));
                self.context.closes_because(CloseReason::Local);
                told?;
            }
        }
        self.context.told_expired(passed);
        Ok(())
    }

    /// Accepts nothing more, and closes the open connections at an even pace until none is left.
    fn drain(&mut self, connections: &mut Connections<S::State>, now: Instant) -> Result<Schedule> {
        let mut closing = match self.closing.take() {
            Some(closing) => closing,
            None => {
                self.context.stop();
                self.inbox.close();
                connections.stop_listening()?;
                let rate = (connections.in_use() as f64 / self.drain_timeout.as_secs_f64()).max(SLOWEST_DRAIN);
                let pace = Pace::new(connections.clock().start(now), Some(rate));
                Closing::new(CloseMode::Immediate, pace).because(CloseReason::Stopping)
            }
        };
        let schedule = closing.turn_after(connections, now, |connections, conn| {
            if connections.is_opened(&conn) {
                self.call(connections, |service, ctx| service.stopping(ctx, conn))?;
            }
            Ok(connections.pending_bytes(conn) == 0)
        });
        self.closing = Some(closing);
        schedule
    }
}
