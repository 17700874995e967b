//! A server's part in a takeover: what it takes from an earlier server at its start (`predecessor.rs`), and how it hands
//! all to a later one (`successor.rs`).

mod predecessor;
mod successor;

use std::io;
use std::net::TcpListener;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::builder::EventSink;
use super::{Options, ServerEvent};
use crate::connections::{EntryMemory, WindowWord};
use crate::error::{Errno, HostError, Result, TakeoverReason};
use crate::host::Host;
use crate::plan::ShardPlan;
use crate::service::Service;
use crate::stats::Spoken;
use crate::sys::{self, Catcher, SharedMemory};
use crate::takeover::{Hello, ShardTerms, Speaks, StateFile, Terms, store};

pub(super) use predecessor::{Arrival, Arrivals, Inheritance, Queue};
pub(super) use successor::{Answer, Desk, HandoverSlot, Link, Parcel};

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
    }
}

/// The name of a listener among what is handed over.
fn listener_name(shard: usize, port: u16) -> String {
    format!("listener-{shard}-{port}")
}

impl Outliving {
    /// New memory for so many shards.
    pub fn new(shards: usize) -> Result<Outliving> {
        let memory = |name: &str| SharedMemory::new(name).and_then(|memory| memory.as_fd().try_clone_to_owned());
        let memories = (0..shards).map(|_| Ok((memory("c1m-entries")?, memory("c1m-addresses")?)));
        let memories = memories.collect::<io::Result<Vec<_>>>().map_err(|error| no_memory(&error))?;
        let state = StateFile::new(shards).map_err(|error| no_memory(&error))?;
        Ok(Outliving { state, memories })
    }

    /// That of another process, if its connections sleep.
    pub fn inherit(inheritance: &mut Inheritance, shards: usize) -> Result<Outliving> {
        if inheritance.terms.catcher.is_none() {
            return Outliving::new(shards);
        }
        let mut take = |name: String| inheritance.take(&name).ok_or_else(|| io::Error::from(io::ErrorKind::NotFound));
        let mut all = || {
            let state = StateFile::adopt(take("state".to_owned())?)?;
            let pair = |shard| Ok((take(format!("entries-{shard}"))?, take(format!("addresses-{shard}"))?));
            Ok((state, (0..shards).map(pair).collect::<io::Result<Vec<_>>>()?))
        };
        let (state, memories) = all().map_err(|error: io::Error| no_memory(&error))?;
        Ok(Outliving { state, memories })
    }

    /// Where the entries of a shard lie.
    pub fn memory(&self, shard: usize) -> Result<(EntryMemory, WindowWord)> {
        let (entries, addresses) = &self.memories[shard];
        let adopt = |file: &OwnedFd| file.try_clone().and_then(SharedMemory::adopt).map_err(|error| no_memory(&error));
        let memory = EntryMemory { entries: adopt(entries)?, addresses: adopt(addresses)? };
        Ok((memory, self.state.window(shard)))
    }

    /// Writes down what a later process must know, and returns all descriptors that it needs, by name.
    pub fn offer(
        &self,
        terms: &Terms,
        listeners: &[(usize, Arc<TcpListener>)],
        catcher: Option<&Catcher>,
        metrics: Option<BorrowedFd<'_>>,
    ) -> Result<Vec<(String, OwnedFd)>> {
        let mut all: Vec<(String, BorrowedFd<'_>)> = vec![("state".to_owned(), self.state.as_fd())];
        for (shard, listener) in listeners {
            let port = listener.local_addr().map_err(|error| no_memory(&error))?.port();
            all.push((listener_name(*shard, port), listener.as_fd()));
        }
        all.extend(metrics.map(|metrics| ("metrics".to_owned(), metrics)));
        if let Some(catcher) = catcher {
            all.extend(catcher.maps());
            for (shard, (entries, addresses)) in self.memories.iter().enumerate() {
                all.push((format!("entries-{shard}"), entries.as_fd()));
                all.push((format!("addresses-{shard}"), addresses.as_fd()));
            }
        }
        let copies = all.into_iter().map(|(name, descriptor)| Ok((name, descriptor.try_clone_to_owned()?)));
        let copies = self.state.write(terms).and_then(|()| copies.collect::<io::Result<Vec<_>>>());
        copies.map_err(|error| no_memory(&error).into())
    }
}

/// Leaves descriptors with the service manager, if there is one. One that does not take them is not needed, and not waited
/// for again: then nothing outlives a kill.
pub(super) fn leave(offer: &[(String, OwnedFd)], events: &EventSink) {
    let Some(store) = store() else { return };
    let mut kept = offer.iter().map(|(name, descriptor)| store.keep(name, descriptor.as_fd()));
    if let Some(error) = kept.find_map(io::Result::err) {
        events(ServerEvent::StoreFailed(Errno::of(&error)));
    }
}
