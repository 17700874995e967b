//! The server: plan, shards, service, drain.

mod idle_policy;
mod memory_monitor;

use std::net::{Ipv4Addr, TcpListener};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use crate::addresses::{Address, Use};
use crate::connections::{
    AdmissionGate, CloseMode, CloseReason, Connections, ConnectionsConfig, FilterConfig, SPECULATIVE_RECEIVE_PERIOD,
    SharedLimit,
};
use crate::constants::{MAX_PENDING_BYTES, PUSHES_PER_PASS, THREADS_PER_SHARD};
use crate::error::{Error, Result};
use crate::host::{Cores, Host, Raised, check_threads, raise_limits};
use crate::listener;
use crate::pace::Pace;
use crate::plan::{self, PortSharing, Ports, ServerGoal, ShardPlan};
use crate::reactor::{Closing, Driver, Schedule};
use crate::ring;
use crate::service::{Item, Outbox, Reply, Service};
use crate::shard::{self, ShardHandle, ShardThread};
use crate::stats::Snapshot;
use crate::token::ConnId;

pub use crate::plan::{IdleBackend, Reserve};
pub use idle_policy::{IdleChoice, IdlePolicy};
pub use memory_monitor::Shortage;
use memory_monitor::{ListenerControl, MemoryMonitor};

/// What a server shall be.
#[derive(Debug, Clone)]
pub struct Options {
    /// Cores to use, one shard each.
    pub cores: Cores,
    /// Address to listen on; `::` takes IPv4 too, at a larger kernel socket per connection.
    pub bind: Address,
    /// Ports to listen on.
    pub ports: Ports,
    /// Which shard listens on which port.
    pub sharing: PortSharing,
    /// Connections held at most; beyond it new ones are reset at once.
    pub max_connections: u64,
    /// Accept queue of each listener; `None` takes net.core.somaxconn, which also caps it.
    pub backlog: Option<u32>,
    /// Bytes kept at most for a peer that does not read; beyond it the connection is reset.
    pub max_pending: usize,
    /// How idle connections wait.
    pub idle: IdlePolicy,
    /// Memory to leave alone; while less is left, new connections are reset at once.
    pub memory_reserve: Reserve,
    /// How long closing every connection takes when the server stops; few are closed sooner.
    pub drain_timeout: Duration,
    /// Silence after which a connection is closed, up to `connections::LONGEST_IDLE`; `None` never does.
    pub idle_timeout: Option<Duration>,
    /// Connections accepted per second, in all; `None` is as many as come.
    pub accept_rate: Option<f64>,
    /// When the kernel begins to ask a silent peer whether it is still there, and how often it asks
    /// again until it gives up after 3 times; `None` never asks.
    pub keepalive: Option<Duration>,
}

impl Default for Options {
    /// The article's server: ports 8888 to 8987 on any IPv4 address, a million connections, every
    /// core.
    fn default() -> Options {
        Options {
            cores: Cores::All,
            bind: Ipv4Addr::UNSPECIFIED.into(),
            ports: Ports::ARTICLE,
            sharing: PortSharing::Subset,
            max_connections: 1_000_000,
            backlog: None,
            max_pending: MAX_PENDING_BYTES,
            idle: IdlePolicy::Auto,
            memory_reserve: Reserve::Auto,
            drain_timeout: Duration::from_secs(30),
            idle_timeout: None,
            accept_rate: None,
            keepalive: None,
        }
    }
}

/// Connections that one shard closes in a second at least while it drains: a third of what a core
/// can do.
const SLOWEST_DRAIN: f64 = 10_000.0;

/// The command that makes a shard close everything and end.
const STOP: u32 = 1;

/// Something a running server tells its owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notice {
    /// A shard ended; before `stop` that is a failure, which `join` explains.
    ShardEnded(usize),
    /// Memory became short, or is no longer: see `Server::shortage`.
    Memory,
    /// Sent by the owner itself: a signal came.
    Signal,
}

/// A running server.
pub struct Server {
    shards: Vec<(ShardPlan, ShardHandle, ShardThread<()>)>,
    raised: Raised,
    idle_choice: IdleChoice,
    backlog: i32,
    gate: AdmissionGate,
    limit: SharedLimit,
    listeners: Vec<Arc<TcpListener>>,
    monitor: Option<MemoryMonitor>,
}

impl Server {
    /// Starts the server; on return every port of every shard accepts. Each shard gets the service
    /// that `service` makes for its number. `notices` is told when a shard ends.
    pub fn start<S: Service>(
        options: &Options,
        service: impl Fn(usize) -> S + Clone + Send + 'static,
        notices: &mpsc::Sender<Notice>,
    ) -> Result<Server> {
        options.bind.check(Use::Listener)?;
        let host = Host::here();
        let cores = host.choose_cores(&options.cores)?;
        let raised = raise_limits()?;
        ring::probe()?;
        let goal = ServerGoal {
            cores,
            ports: options.ports,
            sharing: options.sharing,
            connections: options.max_connections,
            nofile: raised.files.1.soft,
        };
        let plans = plan::server(&goal, host.lockable(raised.memory.1.soft))?;
        host.check_locked_memory(raised.memory.1.soft, goal.connections, |n| plan::server_needs(&goal, n))?;
        // One more looks at memory.
        check_threads(1 + THREADS_PER_SHARD * plans.len() as u64)?;
        let backlog = backlog(options.backlog, &host);
        listener::check_free(options.bind, options.ports)?;
        let limit = SharedLimit::new(options.max_connections);
        let gate = AdmissionGate::default();
        let idle_choice = options.idle.choose(&host, &plans, raised.files.1.soft)?;
        let mut server = Server {
            shards: Vec::new(),
            raised,
            idle_choice,
            backlog,
            gate,
            limit,
            listeners: Vec::new(),
            monitor: None,
        };
        match server.launch(options, plans, service, notices) {
            Ok(()) => {
                let control =
                    ListenerControl { gate: server.gate.clone(), listeners: server.listeners.clone(), backlog };
                server.monitor = MemoryMonitor::start(host, options.memory_reserve, control, notices.clone())?;
                Ok(server)
            }
            Err(error) => {
                // A shard that failed says more than what its end looked like from here.
                server.stop();
                Err(server.join().err().unwrap_or(error))
            }
        }
    }

    fn launch<S: Service>(
        &mut self,
        options: &Options,
        plans: Vec<ShardPlan>,
        service: impl Fn(usize) -> S + Clone + Send + 'static,
        notices: &mpsc::Sender<Notice>,
    ) -> Result<()> {
        let (ready, all_ready) = mpsc::channel();
        let shards = plans.len();
        let speculative_period = options.keepalive.unwrap_or(SPECULATIVE_RECEIVE_PERIOD);
        for (index, plan) in plans.into_iter().enumerate() {
            let filter = self.idle_choice.filter(&plan)?;
            let filtered = filter.as_ref();
            let sockets = listener::listen(options.bind, &plan.ports, self.backlog, options.keepalive, filtered)?;
            let sockets: Vec<_> = sockets.into_iter().map(Arc::new).collect();
            self.listeners.extend(sockets.iter().cloned());
            let made = service.clone();
            let start = ShardStart {
                index,
                sockets,
                accepts: plan.accepts,
                drain_timeout: options.drain_timeout,
                ready: ready.clone(),
                ended: Ended { index, notices: notices.clone() },
            };
            let net = ConnectionsConfig {
                filter: filter.map(|filter| FilterConfig { filter, speculative_period }),
                shared_limit: Some(self.limit.clone()),
                gate: self.gate.clone(),
                max_pending: options.max_pending,
                accept_rate: options.accept_rate.map(|rate| rate / shards as f64),
                idle_timeout: options.idle_timeout,
                ..ConnectionsConfig::new(plan.rings.clone(), plan.capacity)
            };
            let remote = ShardHandle::new()?;
            let name = format!("c1m-server-{index}");
            let build = move |net: &mut Connections<S::State>| start.build(net, made(index));
            let running = shard::spawn(&name, plan.core, remote.clone(), net, build, drop)?;
            self.shards.push((plan, remote, running));
        }
        drop(ready);
        // A shard that fails drops its sender without a word.
        if all_ready.iter().count() < self.shards.len() {
            return Err(Error::bug("a shard ended before it was ready"));
        }
        Ok(())
    }

    /// The plan of each shard.
    pub fn plans(&self) -> impl Iterator<Item = &ShardPlan> {
        self.shards.iter().map(|(plan, ..)| plan)
    }

    /// The limits that were found and raised.
    pub fn raised(&self) -> Raised {
        self.raised
    }

    /// How its idle connections wait.
    pub fn idle_choice(&self) -> IdleChoice {
        self.idle_choice
    }

    /// The accept queue of each listener, as the kernel caps it.
    pub fn backlog(&self) -> i32 {
        self.backlog
    }

    /// The limit on memory for which new connections are refused now.
    pub fn shortage(&self) -> Option<Shortage> {
        self.monitor.as_ref().and_then(MemoryMonitor::shortage)
    }

    /// The limit on memory for which connections were last refused.
    pub fn last_shortage(&self) -> Option<Shortage> {
        self.monitor.as_ref().and_then(MemoryMonitor::last_shortage)
    }

    /// The counters of each shard, now.
    pub fn snapshots(&self) -> Vec<Snapshot> {
        self.shards.iter().map(|(_, remote, _)| remote.counters().snapshot()).collect()
    }

    /// The most connections that were live at one moment, over all shards.
    pub fn peak_live(&self) -> u64 {
        self.limit.peak()
    }

    /// The remotes of its shards, for whoever wants to read their counters from another thread.
    pub fn handles(&self) -> Vec<ShardHandle> {
        self.shards.iter().map(|(_, remote, _)| remote.clone()).collect()
    }

    /// Stops accepting and closes every connection; `join` waits for that.
    pub fn stop(&self) {
        for (_, remote, _) in &self.shards {
            remote.command(STOP);
        }
    }

    /// Waits for every shard. The first failure, if any; the final counters otherwise.
    pub fn join(self) -> Result<Vec<Snapshot>> {
        let mut outcome = Ok(());
        let mut finals = Vec::new();
        for (_, remote, running) in self.shards {
            let ended = running.join();
            outcome = outcome.and(ended);
            finals.push(remote.counters().snapshot());
        }
        outcome.map(|()| finals)
    }
}

fn backlog(wanted: Option<u32>, host: &Host) -> i32 {
    let cap = host.somaxconn();
    wanted.map_or(cap, |wanted| i32::try_from(wanted).unwrap_or(i32::MAX).min(cap))
}

/// Tells the owner that a shard ended, however it ends.
struct Ended {
    index: usize,
    notices: mpsc::Sender<Notice>,
}

impl Drop for Ended {
    fn drop(&mut self) {
        // Nobody listens any more when the owner has gone.
        let _ = self.notices.send(Notice::ShardEnded(self.index));
    }
}

/// What one shard needs to begin, carried to its thread.
struct ShardStart {
    index: usize,
    sockets: Vec<Arc<TcpListener>>,
    accepts: usize,
    drain_timeout: Duration,
    ready: mpsc::Sender<usize>,
    ended: Ended,
}

impl ShardStart {
    fn build<S: Service>(self, net: &mut Connections<S::State>, service: S) -> Result<ServerDriver<S>> {
        net.listen(self.sockets, self.accepts)?;
        let next_tick = service.interval().map(|every| Instant::now() + every);
        // The owner is waiting for this.
        let _ = self.ready.send(self.index);
        Ok(ServerDriver {
            service,
            outbox: Outbox::default(),
            next_tick,
            drain_timeout: self.drain_timeout,
            closing: None,
            _ended: self.ended,
        })
    }
}

/// The server's driver: hands bytes to the service and carries out what it wants.
struct ServerDriver<S: Service> {
    service: S,
    outbox: Outbox,
    next_tick: Option<Instant>,
    drain_timeout: Duration,
    /// While stopping.
    closing: Option<Closing>,
    _ended: Ended,
}

impl<S: Service> Driver for ServerDriver<S> {
    type State = S::State;

    fn opened(&mut self, net: &mut Connections<S::State>, conn: ConnId) -> Result<()> {
        if let Some(state) = net.state(conn) {
            self.service.opened(conn, state, &mut self.outbox);
        }
        self.deliver(net)
    }

    fn received(&mut self, net: &mut Connections<S::State>, conn: ConnId, data: &mut [u8]) -> Result<Reply> {
        let Some(state) = net.state(conn) else { return Ok(Reply::Nothing) };
        let reply = self.service.received(conn, state, data, &mut self.outbox);
        // Before anything more is received: an answer must not come after the peer's end.
        self.deliver(net)?;
        Ok(reply)
    }

    fn ended(&mut self, net: &mut Connections<S::State>, conn: ConnId, _: CloseReason) -> Result<()> {
        if let Some(state) = net.state(conn) {
            self.service.closed(conn, state, &mut self.outbox);
        }
        Ok(())
    }

    fn turn(&mut self, net: &mut Connections<S::State>, now: Instant, command: u32) -> Result<Schedule> {
        if command == STOP {
            return self.drain(net, now);
        }
        if self.next_tick.is_some_and(|at| at <= now) {
            self.service.tick(&mut self.outbox);
            self.next_tick = self.service.interval().map(|every| now + every.max(Duration::from_millis(1)));
        }
        self.deliver(net)?;
        Ok(match self.next_tick {
            _ if !self.outbox.items.is_empty() => Schedule::Now,
            Some(at) => Schedule::At(at),
            None => Schedule::OnEvent,
        })
    }
}

impl<S: Service> ServerDriver<S> {
    /// Carries out what the service wants, a bounded number of sends and closes at a time.
    fn deliver(&mut self, net: &mut Connections<S::State>) -> Result<()> {
        for item in (0..PUSHES_PER_PASS).map_while(|_| self.outbox.items.pop_front()) {
            match item {
                Item::Send(to, bytes) => net.send(to, &bytes)?,
                Item::Close(conn) => net.close(conn, CloseMode::Graceful, CloseReason::Local)?,
            }
        }
        Ok(())
    }

    /// Accepts nothing more, and closes what stands at an even pace until nothing is left.
    fn drain(&mut self, net: &mut Connections<S::State>, now: Instant) -> Result<Schedule> {
        let closing = match &mut self.closing {
            Some(closing) => closing,
            None => {
                net.stop_listening()?;
                let rate = (net.in_use() as f64 / self.drain_timeout.as_secs_f64()).max(SLOWEST_DRAIN);
                let pace = Pace::new(net.clock().start(now), Some(rate));
                self.closing.insert(Closing::new(CloseMode::Immediate, pace))
            }
        };
        closing.turn(net, now)
    }
}
