//! A server's part on each shard: hands what happens to the service, and does for it what no completion brings.

use std::net::TcpListener;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use super::builder::EventSink;
use super::{STOP, ServerEvent, ShardInfo};
use crate::connections::{CloseMode, CloseReason, Connections};
use crate::error::{Errno, Result};
use crate::mailbox::Inbox;
use crate::pace::Pace;
use crate::reactor::{Closing, Driver, Schedule};
use crate::reply::Reply;
use crate::service::{Ctx, Service, ShardContext};
use crate::stats::OwnCounters;
use crate::token::ConnId;

/// Connections that one shard closes in a second at least while it drains: a third of what a core
/// can do.
const SLOWEST_DRAIN: f64 = 10_000.0;

/// Messages of the mailbox that a shard takes in one pass.
const MESSAGES_PER_PASS: usize = 128;

/// The shortest interval between two ticks of a service.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(1);

/// Tells the owner that a shard ended, however it ends.
pub(super) struct Ended {
    pub index: usize,
    pub events: EventSink,
}

impl Drop for Ended {
    fn drop(&mut self) {
        (self.events)(ServerEvent::ShardEnded(self.index));
    }
}

/// What one shard needs to begin, carried to its thread.
pub(super) struct ShardStart<M> {
    pub info: ShardInfo<M>,
    pub inbox: Inbox<M>,
    pub own: Arc<OwnCounters>,
    pub sockets: Vec<Arc<TcpListener>>,
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
        connections.listen(self.sockets, self.accepts)?;
        let next_tick = service.interval().map(|every| Instant::now() + every);
        // The owner is waiting for this.
        let _ = self.ready.send(index);
        Ok(ServerDriver {
            service,
            context: ShardContext::new(index, shards, self.connection_ages, self.own),
            inbox: self.inbox,
            next_tick,
            drain_timeout: self.drain_timeout,
            closing: None,
            _ended: self.ended,
        })
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
    _ended: Ended,
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
        if command == STOP {
            return self.drain(connections, now);
        }
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
        let due = self.next_tick.into_iter().chain(self.context.due(connections)).min();
        Ok(due.map_or(Schedule::OnEvent, Schedule::At))
    }
}

impl<S: Service> ServerDriver<S> {
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
        let passed = self.context.take_expired(connections.clock().now());
        for place in &passed {
            if let Some(conn) = connections.live_at(*place) {
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
            self.call(connections, |service, ctx| service.stopping(ctx, conn))
        });
        self.closing = Some(closing);
        schedule
    }
}
