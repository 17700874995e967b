//! A server's part in a takeover: what it takes from an earlier server at its start (`predecessor.rs`), and how it hands
//! all to a later one (`successor.rs`).
//!
//! Once the server before has gone, nothing may fail that would end this one. So what may fail comes before.

mod predecessor;
mod successor;

use std::io;
use std::net::TcpListener;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::builder::EventSink;
use super::hibernation::Hibernation;
use super::{Launch, Options, Server, ServerEvent, UNITED};
use crate::connections::{EntryMemory, WindowWord};
use crate::error::{Errno, HostError, Result, TakeoverReason};
use crate::host::Host;
#[cfg(feature = "metrics")]
use crate::metrics::Exporter;
use crate::plan::ShardPlan;
use crate::service::Service;
use crate::shard::ShardHandle;
use crate::stats::Spoken;
use crate::sys::{self, Catcher, SharedMemory};
use crate::takeover::{Hello, ShardTerms, Speaks, StateFile, Terms, TermsText, store, tell_ready};

pub(super) use predecessor::{Arrival, Arrivals, Inheritance, Queue};
pub(super) use successor::{Answer, HandoverMessage, HandoverSlot, Link, SuccessorListener};

/// Why two servers do not hand over where one does not see the other's process: in containers with PIDs of their own.
const OTHER_PROCESSES: &str =
    "the two are in different PID namespaces, where the end of one cannot be seen by the other";

/// What of a server outlives its process.
pub(super) struct Outliving {
    state: StateFile,
    /// The entries of each shard, and their addresses.
    memories: Vec<(OwnedFd, OwnedFd)>,
}

/// An error about the path of a takeover.
fn refused(path: &Path, errno: impl Into<Option<Errno>>, reason: TakeoverReason) -> HostError {
    HostError::new("take over at", path.display().to_string(), errno, reason)
}

/// Memory that outlives this process cannot be had.
fn no_memory(error: &io::Error) -> HostError {
    HostError::new("make memory for a takeover", "", Errno::of(error), TakeoverReason::Memory)
}

/// The same options with the path of a takeover followed, if it is a link: bind(2) follows none.
pub(super) fn followed(options: Options) -> Options {
    let follow = |path: PathBuf| if path.is_symlink() { path.canonicalize().unwrap_or(path) } else { path };
    Options { takeover: options.takeover.map(follow), ..options }
}

/// Checks that this kernel can do what a takeover needs.
pub(super) fn check(options: &Options, host: &Host) -> Result<()> {
    match &options.takeover {
        Some(path) if options.hibernate.is_none() && !host.copies_descriptors() => {
            Err(refused(path, None, TakeoverReason::Kernel { release: sys::kernel_release() }).into())
        }
        _ => Ok(()),
    }
}

/// What the connections of a server with this service speak.
pub(super) fn speaks<S: Service>(options: &Options) -> Speaks {
    let protocol = match S::SPOKEN {
        Spoken { websocket: true, .. } => "websocket",
        Spoken { http: true, .. } => "http",
        Spoken { .. } => "raw",
    };
    Speaks { protocol: protocol.to_owned(), service: S::NAME.to_owned(), tls: options.has_tls() }
}

/// What this server would hand over, but for its catcher.
pub(super) fn terms(
    options: &Options,
    plans: &[ShardPlan],
    awake: Option<u64>,
    backlog: i32,
    speaks: &Speaks,
) -> Terms {
    Terms {
        hello: Hello::ours(),
        bind: options.bind.to_string(),
        shards: plans.iter().map(|plan| ShardTerms { ports: plan.ports.clone() }).collect(),
        connections: options.max_connections,
        awake,
        backlog: usize::try_from(backlog).unwrap_or(0),
        catcher: None,
        speaks: speaks.clone(),
        network: Host::here().network_namespace(),
        process: std::process::id(),
    }
}

/// The names of what is handed over.
const STATE: &str = "state";
pub(super) const METRICS: &str = "metrics";
fn listener_name(shard: usize, port: u16) -> String {
    format!("listener-{shard}-{port}")
}
fn memory_names(shard: usize) -> [String; 2] {
    [format!("entries-{shard}"), format!("addresses-{shard}")]
}

/// The names of what is handed over and not left with a service manager: the listener at the path, and the channels.
const PATH: &str = "path";
const CHANNEL: &str = "channel-";
fn channel_name(shard: usize) -> String {
    format!("{CHANNEL}{shard}")
}

/// All that a server with these terms hands over, but for the listener of metrics, which not every server has.
fn names(terms: &Terms) -> Vec<String> {
    let mut names = vec![STATE.to_owned()];
    for (shard, ShardTerms { ports }) in terms.shards.iter().enumerate() {
        names.extend(ports.iter().map(|port| listener_name(shard, *port)));
    }
    if terms.catcher.is_some() {
        let shards = terms.shards.len();
        names.extend(Catcher::map_names(shards).chain((0..shards).flat_map(memory_names)));
    }
    names
}

impl<M: Send + 'static> Server<M> {
    /// What outlives this process, where there is to be a successor.
    pub(super) fn outliving(&self, inheritance: Option<&mut Inheritance>, shards: usize) -> Result<Option<Outliving>> {
        let made = |_| match inheritance {
            Some(inheritance) => Outliving::inherit(inheritance, shards),
            None => Outliving::new(shards),
        };
        self.options.takeover.as_ref().map(made).transpose()
    }

    /// Takes over from the server that runs, if there is one, and then listens for a successor.
    pub(super) fn succeed(
        &mut self,
        launch: Launch<M>,
        queues: Vec<(ShardHandle, Queue)>,
        slots: Vec<(ShardHandle, HandoverSlot)>,
    ) -> Result<()> {
        let (Some(path), Some(outliving)) = (self.options.takeover.clone(), launch.outliving) else { return Ok(()) };
        let mut inheritance = launch.inheritance;
        let path_listener = inheritance.as_mut().and_then(Inheritance::path_listener);
        let catcher = launch.hibernation.as_ref().map(Hibernation::catcher);
        let mut terms = terms(&self.options, &launch.plans, self.awake, self.backlog, &launch.speaks);
        terms.catcher = catcher.map(Catcher::terms);
        let terms = TermsText::of(&terms).map_err(|error| no_memory(&error))?;
        #[cfg(feature = "metrics")]
        let metrics = self.metrics.as_ref().map(Exporter::listener);
        #[cfg(not(feature = "metrics"))]
        let metrics = None;
        let offer: Offer = outliving.offer(&self.listeners, catcher, metrics)?.into();
        let stale = inheritance.as_ref().map(|inheritance| inheritance.stale(&offer)).unwrap_or_default();
        let (control, events) = (self.control.clone(), launch.events.clone());
        let prepared =
            SuccessorListener::prepare(&path, path_listener, terms.clone(), offer.clone(), slots, control, events)?;
        if let Some(inheritance) = &mut inheritance {
            self.pauses = inheritance.take_over(&path, queues)?;
        }
        self.command_all(UNITED);
        outliving.state.write(&terms);
        leave(&offer, &stale, &launch.events);
        self.successor_listener = Some(prepared.open());
        tell_ready();
        if let Some(inheritance) = &inheritance {
            inheritance.succeeded();
        }
        Ok(())
    }
}

/// All descriptors that a later process needs, by name.
type Offer = Arc<[(String, OwnedFd)]>;

/// New memory for the entries of so many shards.
fn new_memories(shards: usize) -> io::Result<Vec<(OwnedFd, OwnedFd)>> {
    let memory = |name: &str| SharedMemory::new(name).and_then(|memory| memory.as_fd().try_clone_to_owned());
    (0..shards).map(|_| Ok((memory("c1m-entries")?, memory("c1m-addresses")?))).collect()
}

impl Outliving {
    /// New memory for so many shards.
    fn new(shards: usize) -> Result<Outliving> {
        let all = || Ok(Outliving { state: StateFile::new(shards)?, memories: new_memories(shards)? });
        all().map_err(|error: io::Error| no_memory(&error).into())
    }

    /// That of another process, but for entries where none of its connections sleeps.
    fn inherit(inheritance: &mut Inheritance, shards: usize) -> Result<Outliving> {
        let sleep = inheritance.terms.catcher.is_some();
        let mut take = |name: &str| inheritance.take(name).ok_or_else(|| io::Error::from(io::ErrorKind::NotFound));
        let mut all = || {
            let state = StateFile::adopt(take(STATE)?)?;
            let pair = |shard| {
                let [entries, addresses] = memory_names(shard);
                Ok((take(&entries)?, take(&addresses)?))
            };
            let memories =
                if sleep { (0..shards).map(pair).collect::<io::Result<_>>()? } else { new_memories(shards)? };
            Ok(Outliving { state, memories })
        };
        all().map_err(|error: io::Error| no_memory(&error).into())
    }

    /// Where the entries of a shard lie.
    pub fn memory(&self, shard: usize) -> Result<(EntryMemory, WindowWord)> {
        let (entries, addresses) = &self.memories[shard];
        let adopt = |file: &OwnedFd| file.try_clone().and_then(SharedMemory::adopt).map_err(|error| no_memory(&error));
        let memory = EntryMemory { entries: adopt(entries)?, addresses: adopt(addresses)? };
        Ok((memory, self.state.window(shard)))
    }

    /// All descriptors that a later process needs, by name.
    fn offer(
        &self,
        listeners: &[(usize, Arc<TcpListener>)],
        catcher: Option<&Catcher>,
        metrics: Option<BorrowedFd<'_>>,
    ) -> Result<Vec<(String, OwnedFd)>> {
        let mut all: Vec<(String, BorrowedFd<'_>)> = vec![(STATE.to_owned(), self.state.as_fd())];
        for (shard, listener) in listeners {
            let port = listener.local_addr().map_err(|error| no_memory(&error))?.port();
            all.push((listener_name(*shard, port), listener.as_fd()));
        }
        all.extend(metrics.map(|metrics| (METRICS.to_owned(), metrics)));
        if let Some(catcher) = catcher {
            all.extend(catcher.maps());
            for (shard, (entries, addresses)) in self.memories.iter().enumerate() {
                all.extend(memory_names(shard).into_iter().zip([entries.as_fd(), addresses.as_fd()]));
            }
        }
        let copies = all.into_iter().map(|(name, descriptor)| Ok((name, descriptor.try_clone_to_owned()?)));
        copies.collect::<io::Result<Vec<_>>>().map_err(|error| no_memory(&error).into())
    }
}

/// Leaves the descriptors of `offer` with the service manager, if there is one, and has it forget the `stale` names.
/// The first message that the manager does not take ends this: nothing outlives a kill then, and the owner gets
/// `StoreFailed`.
fn leave(offer: &[(String, OwnedFd)], stale: &[String], events: &EventSink) {
    let Some(store) = store() else { return };
    let keep = |(name, descriptor): &(String, OwnedFd)| store.keep(name, descriptor.as_fd());
    if let Err(error) = store.forget(stale).and_then(|()| offer.iter().try_for_each(keep)) {
        events(ServerEvent::StoreFailed(Errno::of(&error)));
    }
}
