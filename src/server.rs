//! The server: plan, shards, service, drain.

mod builder;
mod driver;
mod hibernation;
mod idle_policy;
mod memory_monitor;
mod survey;
mod takeover;
#[cfg(test)]
mod tests;
#[cfg(feature = "tls")]
mod tls;

use std::net::TcpListener;
use std::ops::Deref;
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::connections::{Connections, ConnectionsConfig, FilterConfig, SPECULATIVE_RECEIVE_PERIOD, SharedLimit};
use crate::error::{Errno, Error, HostError, HostReason, Result};
use crate::host::Raised;
use crate::latency::Latency;
use crate::listener;
use crate::mailbox::{self, Inbox, Mailbox};
#[cfg(feature = "metrics")]
use crate::metrics::{Also, Exporter};
use crate::plan::ShardPlan;
use crate::service::{CounterId, Service};
use crate::shard::{self, ShardHandle, ShardThread};
use crate::stats::{OwnCounters, OwnMetrics, Snapshot};
use crate::sys::{self, Catcher, Filter};
use crate::takeover::Speaks;
use builder::EventSink;
use driver::{Ended, ListenerSettings, Origin, ShardStart};
use hibernation::Hibernation;
use memory_monitor::{ListenerControl, MemoryMonitor};
use survey::Survey;
use takeover::{HandoverSlot, Inheritance, Outliving, Queue, SuccessorListener};
#[cfg(feature = "tls")]
use tls::Secured;

pub use crate::plan::{IdleBackend, Reserve};
pub use builder::{Options, ServerBuilder};
pub use idle_policy::{IdleChoice, IdlePolicy};
pub use memory_monitor::Shortage;

/// Commands of a shard: to serve, to close everything and end, to hand everything over and end.
const SERVE: u32 = 0;
const STOP: u32 = 1;
const HAND_OVER: u32 = 2;
/// To a successor: all shards have taken everything over.
const UNITED: u32 = 3;
/// To end and close nothing, as the start has failed: what sleeps and the listeners go on in another process.
const LEAVE: u32 = 4;

/// Something a running server tells its owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ServerEvent {
    /// The shard of this number ended. Before `Server::stop` that is a failure, which `Server::join` explains. A shard
    /// that has handed over all to a later server does not tell its end.
    ShardEnded(usize),
    /// Memory became short: new connections are refused until there is clearly more again.
    MemoryShort,
    /// Memory suffices again: new connections are admitted.
    MemorySuffices,
    /// A later server has asked to take this one's place (`ServerBuilder::takeover`): everything is being handed over.
    HandingOver,
    /// All is handed over, and the shards end: `Server::join` returns as soon as they have.
    HandedOver,
    /// The later server has not answered for 10 s: it is suspended, frozen, or waits for something. It may own the
    /// connections that were sent to it last, so this server waits for it, and accepts nothing meanwhile.
    SuccessorSilent {
        /// The number of the process (pid).
        process: u32,
    },
    /// The later server has given up before it had everything, and its process has not ended. If connections sleep,
    /// that process still owns the sleeping ones and the table in which new ones are entered. So this server serves
    /// those that were awake, and accepts nothing until the process ends. `SuccessorGone` follows then. Where none
    /// sleeps, it accepts again at once.
    SuccessorLingers {
        /// The number of the process (pid).
        process: u32,
    },
    /// The later server is gone before it had everything. This one serves on with what it still has, or stops if
    /// `Server::stop` was called meanwhile.
    SuccessorGone,
    /// The service manager at `NOTIFY_SOCKET` did not take the descriptors that it was to keep: no connection outlives
    /// this process if it is killed.
    StoreFailed(Errno),
}

/// What a shard's service is told when it is made.
#[derive(Debug, Clone)]
pub struct ShardInfo<M> {
    index: usize,
    core: usize,
    capacity: u64,
    mailbox: Mailbox<M>,
}

impl<M> ShardInfo<M> {
    /// The shard's number, counted from 0.
    pub fn index(&self) -> usize {
        self.index
    }

    /// How many shards the server has.
    pub fn shards(&self) -> usize {
        self.mailbox.shards()
    }

    /// The core on which the shard runs.
    pub fn core(&self) -> usize {
        self.core
    }

    /// Connections that the shard holds at most: the even share of its ports, plus four standard deviations.
    pub fn capacity(&self) -> u64 {
        self.capacity
    }

    /// The way to all shards, this one included.
    pub fn mailbox(&self) -> Mailbox<M> {
        self.mailbox.clone()
    }
}

/// What one shard counted: the counters of every server, as fields of [`Snapshot`](crate::Snapshot), and the service's
/// own.
///
/// They are not read at one moment: the shard counts on between two of them.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ShardCounters {
    /// The counters of every server.
    pub server: Snapshot,
    own: Vec<u64>,
}

impl ShardCounters {
    /// A counter of the service's own; 0 for the `CounterId` of another server that this one has no counter for.
    pub fn own(&self, counter: CounterId) -> u64 {
        self.own.get(counter.0).copied().unwrap_or(0)
    }
}

impl Deref for ShardCounters {
    type Target = Snapshot;

    fn deref(&self) -> &Snapshot {
        &self.server
    }
}

/// A running server. `M` is what its mailbox carries.
///
/// A server that is dropped without `stop` goes on serving until the process ends, but the memory reserve is not
/// watched any more (new connections stay admitted or refused as they were), and the metrics end.
pub struct Server<M = ()> {
    shards: Vec<(ShardPlan, ShardHandle, ShardThread<()>)>,
    own: OwnMetrics,
    mailbox: Mailbox<M>,
    events: Mutex<Receiver<ServerEvent>>,
    options: Options,
    raised: Raised,
    idle_choice: IdleChoice,
    awake: Option<u64>,
    backlog: i32,
    control: Arc<ListenerControl>,
    limit: SharedLimit,
    #[cfg(feature = "tls")]
    tls: Option<Secured>,
    /// Those of all shards, each with its shard.
    listeners: Vec<(usize, Arc<TcpListener>)>,
    successor_listener: Option<SuccessorListener>,
    /// How long connections paused that were awake when they were taken over.
    pauses: Option<Latency>,
    monitor: Option<MemoryMonitor>,
    #[cfg(feature = "metrics")]
    metrics: Option<Exporter>,
}

impl Server {
    /// Describes a server; `ServerBuilder::start` starts it.
    pub fn builder() -> ServerBuilder {
        Options::default().into()
    }
}

/// What a shard is made of, but for its service.
struct Prepared {
    config: ConnectionsConfig,
    sockets: Vec<Arc<TcpListener>>,
    listeners: ListenerSettings,
}

/// The shards that are to be started.
struct Launch<M> {
    plans: Vec<ShardPlan>,
    handles: Vec<ShardHandle>,
    inboxes: Vec<Inbox<M>>,
    events: EventSink,
    hibernation: Option<Hibernation>,
    inheritance: Option<Inheritance>,
    /// What of the server outlives this process.
    outliving: Option<Outliving>,
    speaks: Speaks,
}

impl<M: Send + 'static> Server<M> {
    fn start<S: Service<Message = M>>(
        builder: ServerBuilder,
        service: impl Fn(ShardInfo<M>) -> S + Send + Sync + 'static,
    ) -> Result<Server<M>> {
        let options = takeover::followed(builder.options);
        let speaks = takeover::speaks::<S>(&options);
        let survey = Survey::new(&options, &speaks, S::SPOKEN)?;
        let Survey { host, raised, mut inheritance, awake, plans, backlog, .. } = survey;
        let limit = SharedLimit::new(options.max_connections);
        let idle_choice = options.idle.choose(&host, &plans, raised.descriptors())?;
        let (sink, events) = channel(builder.on_event);
        let handles = plans.iter().map(|_| ShardHandle::new()).collect::<Result<Vec<_>>>()?;
        let doorbells: Vec<_> = handles.iter().map(|handle| handle.doorbell().clone()).collect();
        let (mailbox, inboxes) = mailbox::mailbox(&doorbells, options.mailbox_capacity);
        let own = OwnMetrics {
            shards: plans.iter().map(|_| Arc::new(OwnCounters::new(builder.counters.len()))).collect(),
            named: builder.counters.into(),
        };
        let control = Arc::new(ListenerControl::new(backlog));
        // Once shards serve, or have taken everything over, nothing may fail.
        let monitor = MemoryMonitor::prepare(host.clone(), options.memory_reserve, control.clone(), sink.clone())?;
        let mut server = Server {
            shards: Vec::new(),
            own,
            mailbox,
            events: Mutex::new(events),
            options,
            raised,
            idle_choice,
            awake,
            backlog,
            control,
            limit,
            #[cfg(feature = "tls")]
            tls: survey.tls,
            listeners: Vec::new(),
            successor_listener: None,
            pauses: None,
            monitor,
            #[cfg(feature = "metrics")]
            metrics: survey.metrics,
        };
        let outliving = server.outliving(inheritance.as_mut(), plans.len())?;
        let room = raised.descriptors();
        let hibernation = Hibernation::of(&server.options, &host, &plans, room, inheritance.as_mut())?;
        let launch = Launch { plans, handles, inboxes, events: sink, hibernation, inheritance, outliving, speaks };
        match server.launch(launch, service) {
            Ok(()) => {
                if let Some(monitor) = &server.monitor {
                    monitor.begin();
                }
                #[cfg(feature = "metrics")]
                if let Some(metrics) = &server.metrics {
                    let (sleep, tls) = (server.awake.is_some(), server.options.has_tls());
                    let takeover = server.options.takeover.is_some();
                    let also = Also { sleep, takeover, tls, spoken: S::SPOKEN };
                    metrics.serve(server.handles(), server.own.clone(), also);
                }
                Ok(server)
            }
            Err(error) => {
                // Nothing is closed: another process may have it, or may take it.
                server.command_all(LEAVE);
                // A shard that failed says more than what its end looked like from here.
                Err(server.join().err().unwrap_or(error))
            }
        }
    }

    fn launch<S: Service<Message = M>>(
        &mut self,
        mut launch: Launch<M>,
        service: impl Fn(ShardInfo<M>) -> S + Send + Sync + 'static,
    ) -> Result<()> {
        let (ready, all_ready) = mpsc::channel();
        let options = self.options.clone();
        let service = Arc::new(service);
        let (mut queues, mut slots) = (Vec::new(), Vec::new());
        let inboxes = std::mem::take(&mut launch.inboxes);
        let each = launch.plans.clone().into_iter().zip(launch.handles.clone()).zip(inboxes).enumerate();
        for (index, ((plan, handle), inbox)) in each {
            let Prepared { config, sockets, listeners } = self.prepare(&mut launch, index, &plan)?;
            let origin = match &launch.inheritance {
                None => Origin::Fresh,
                Some(inheritance) if !inheritance.is_live() => Origin::Left,
                Some(_) => {
                    let (queue, arrivals) = Queue::new();
                    queues.push((handle.clone(), queue));
                    Origin::HandedOver(arrivals)
                }
            };
            let slot = options.takeover.as_ref().map(|_| HandoverSlot::default());
            slots.extend(slot.clone().map(|slot| (handle.clone(), slot)));
            let start = ShardStart {
                info: ShardInfo { index, core: plan.core, capacity: plan.capacity, mailbox: self.mailbox.clone() },
                inbox,
                own: self.own.shards[index].clone(),
                sockets,
                origin,
                listeners,
                inherited_backlog: launch.inheritance.as_ref().map_or(0, |inheritance| inheritance.terms.backlog),
                slot,
                accepts: plan.accepts,
                drain_timeout: options.drain_timeout,
                connection_ages: options.connection_ages,
                peer_addresses: options.peer_addresses,
                ready: ready.clone(),
                ended: Ended::new(index, launch.events.clone()),
            };
            let make = service.clone();
            let build = move |connections: &mut Connections<S::State>| start.build(connections, &*make);
            let running = shard::spawn(&format!("c1m-server-{index}"), plan.core, handle.clone(), config, build, drop)?;
            self.shards.push((plan, handle, running));
        }
        drop(ready);
        // A shard that fails drops its sender and sends nothing.
        if all_ready.iter().count() < self.shards.len() {
            return Err(Error::bug("a shard ended before it was ready"));
        }
        self.succeed(launch, queues, slots)
    }

    /// What a shard is made of.
    fn prepare(&mut self, launch: &mut Launch<M>, index: usize, plan: &ShardPlan) -> Result<Prepared> {
        let options = &self.options;
        let speculative_period = options.keepalive.unwrap_or(SPECULATIVE_RECEIVE_PERIOD);
        let catcher = launch.hibernation.as_ref().map(Hibernation::catcher);
        let filter = self.idle_choice.filter(plan, catcher)?;
        let program = filter.as_ref().map(Filter::program).or(catcher.map(Catcher::program));
        let sockets = match &mut launch.inheritance {
            Some(inheritance) => inheritance.listeners(index, &plan.ports)?,
            None => listener::listen(options.bind, &plan.ports, self.backlog, options.keepalive, program)?,
        };
        let copy = program.map(|program| program.try_clone_to_owned()).transpose();
        let no_descriptor =
            |error| HostError::new("dup of", "a BPF program", Errno::of(&error), HostReason::NoDescriptor);
        let (program, backlog, keepalive) = (copy.map_err(no_descriptor)?, self.backlog, options.keepalive);
        let listeners = ListenerSettings { program, backlog, keepalive };
        let (outliving, filter_of, handle) = (launch.outliving.as_ref(), filter.as_ref(), &launch.handles[index]);
        let hibernation = launch.hibernation.as_ref();
        let hibernation =
            hibernation.map(|sleep| sleep.of_shard(handle, index, plan, filter_of, outliving)).transpose()?;
        let sockets: Vec<_> = sockets.into_iter().map(Arc::new).collect();
        self.control.add(&sockets);
        self.listeners.extend(sockets.iter().map(|socket| (index, socket.clone())));
        let config = ConnectionsConfig {
            filter: filter.map(|filter| FilterConfig { filter, speculative_period }),
            shared_limit: Some(self.limit.clone()),
            gate: self.control.gate().clone(),
            max_pending: options.max_pending,
            accept_rate: options.accept_rate.map(|rate| rate / launch.plans.len() as f64),
            idle_timeout: options.idle_timeout,
            hibernation,
            #[cfg(feature = "tls")]
            tls: self.tls.as_ref().map(|tls| tls.of_shard(index, launch.plans.len())),
            ..ConnectionsConfig::new(plan.rings.clone(), plan.capacity)
        };
        Ok(Prepared { config, sockets, listeners })
    }
}

impl<M> Server<M> {
    /// The server's events ([`ServerEvent`]). One thread at a time can receive them; a second one waits here until the
    /// first drops the guard. With `ServerBuilder::on_event` every `recv` fails at once. Without
    /// it do not wait for a failure of `recv`, because the server's memory monitor keeps the channel open: end the loop
    /// at `ShardEnded` or `HandedOver`, as `wait` does.
    pub fn events(&self) -> MutexGuard<'_, Receiver<ServerEvent>> {
        // A listener that panicked has left the receiver as it was.
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the server is to be stopped: until one of its shards has ended, which `join` explains, or a later
    /// server has taken all over. Events of other kinds are no reason to stop; `tell` is given them. It returns at once
    /// if the builder was given `on_event`, which gets all events. It holds the lock of `events` until it returns.
    pub fn wait(&self, mut tell: impl FnMut(ServerEvent)) {
        for event in self.events().iter() {
            match event {
                ServerEvent::ShardEnded(_) | ServerEvent::HandedOver => return,
                other => tell(other),
            }
        }
    }

    /// The way to all shards, for threads outside the server.
    pub fn mailbox(&self) -> Mailbox<M> {
        self.mailbox.clone()
    }

    /// What each shard has counted until now.
    pub fn counters(&self) -> Vec<ShardCounters> {
        let counters = |((_, handle, _), own): (&(_, ShardHandle, _), &Arc<OwnCounters>)| ShardCounters {
            server: handle.counters().snapshot(),
            own: own.read(),
        };
        self.shards.iter().zip(&self.own.shards).map(counters).collect()
    }

    /// Where the metrics are, if the builder was told to show them. With the feature `metrics` alone.
    #[cfg(feature = "metrics")]
    pub fn metrics_url(&self) -> Option<String> {
        self.metrics.as_ref().map(Exporter::url)
    }

    /// Connections that were taken over at its start from another process, and those that were lost with it.
    #[doc(hidden)]
    pub fn taken_over(&self) -> (u64, u64) {
        let total: Snapshot = self.snapshots().into_iter().sum();
        (total.taken_over, total.lost_in_takeover)
    }

    /// How long connections paused that were awake when they were taken over from another server.
    #[doc(hidden)]
    pub fn pauses(&self) -> Option<&Latency> {
        self.pauses.as_ref()
    }

    /// What it was built with.
    #[doc(hidden)]
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// The plan of each shard.
    #[doc(hidden)]
    pub fn plans(&self) -> impl Iterator<Item = &ShardPlan> {
        self.shards.iter().map(|(plan, ..)| plan)
    }

    /// The limits that were found and raised.
    #[doc(hidden)]
    pub fn raised(&self) -> Raised {
        self.raised
    }

    /// How its idle connections wait.
    #[doc(hidden)]
    pub fn idle_choice(&self) -> IdleChoice {
        self.idle_choice
    }

    /// How many of its connections may be awake at once, over all shards; `None` where none sleeps.
    #[doc(hidden)]
    pub fn awake(&self) -> Option<u64> {
        self.awake
    }

    /// The accept queue of each listener, as the kernel caps it.
    #[doc(hidden)]
    pub fn backlog(&self) -> i32 {
        self.backlog
    }

    /// How much the kernel dropped at the listeners, which bounds how often their accept queues overflowed. `None` where
    /// that is unknown, and where connections may sleep: at a listener the kernel drops the segments that are caught.
    #[doc(hidden)]
    pub fn dropped_at_listeners(&self) -> Option<u64> {
        if self.awake.is_some() {
            return None;
        }
        self.listeners.iter().map(|(_, listener)| sys::drops(listener).ok().map(u64::from)).sum()
    }

    /// The limit on memory for which new connections are refused now.
    #[doc(hidden)]
    pub fn shortage(&self) -> Option<Shortage> {
        self.monitor.as_ref().and_then(MemoryMonitor::shortage)
    }

    /// The limit on memory for which connections were last refused.
    #[doc(hidden)]
    pub fn last_shortage(&self) -> Option<Shortage> {
        self.monitor.as_ref().and_then(MemoryMonitor::last_shortage)
    }

    /// The counters of every server of each shard, now.
    #[doc(hidden)]
    pub fn snapshots(&self) -> Vec<Snapshot> {
        self.shards.iter().map(|(_, handle, _)| handle.counters().snapshot()).collect()
    }

    /// The most connections that were live at one moment, over all shards.
    #[doc(hidden)]
    pub fn peak_live(&self) -> u64 {
        self.limit.peak()
    }

    /// The handles of its shards, to read their counters from another thread.
    #[doc(hidden)]
    pub fn handles(&self) -> Vec<ShardHandle> {
        self.shards.iter().map(|(_, handle, _)| handle.clone()).collect()
    }

    /// Stops accepting, and closes every connection at an even pace (`ServerBuilder::drain_timeout`), by
    /// `CloseMode::Immediate` and with `CloseReason::Stopping`; `join` waits for that. Queued messages and broadcasts
    /// under way are dropped. A server that hands over (`ServerBuilder::takeover`) ends when it has done that. This
    /// returns at once, and may be called again.
    pub fn stop(&self) {
        if self.successor_listener.as_ref().is_some_and(|listener| !listener.may_stop()) {
            return;
        }
        self.control.leave_alone();
        self.command_all(STOP);
    }

    fn command_all(&self, command: u32) {
        self.shards.iter().for_each(|(_, handle, _)| handle.command(command));
    }

    /// Waits until every shard has ended, which they do after `stop` or when they fail. One shard's failure does not
    /// end the others: call `stop` first. Returns the final counters of each shard, or the failure of the shard with
    /// the lowest number that failed; then the counters are lost.
    pub fn join(self) -> Result<Vec<ShardCounters>> {
        let mut outcome = Ok(());
        let mut finals = Vec::new();
        for ((_, handle, running), own) in self.shards.into_iter().zip(&self.own.shards) {
            let ended = running.join();
            outcome = outcome.and(ended);
            finals.push(ShardCounters { server: handle.counters().snapshot(), own: own.read() });
        }
        if let Some(listener) = &self.successor_listener {
            listener.close();
        }
        outcome.map(|()| finals)
    }
}

/// Where the server's threads tell what happens: a function of the owner's, or the receiver.
fn channel(on_event: Option<EventSink>) -> (EventSink, Receiver<ServerEvent>) {
    let (sender, events) = mpsc::channel();
    let sink = on_event.unwrap_or_else(|| {
        Arc::new(move |event| {
            // It fails when the owner has gone, and then no event is wanted.
            let _ = sender.send(event);
        })
    });
    (sink, events)
}
