//! Taking over from the server that runs, or from one that was killed.

use std::collections::BTreeMap;
use std::io;
use std::net::{Shutdown, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::{CHANNEL, OTHER_PROCESSES, PATH, STATE, channel_name, listener_name, names, refused};
use crate::connections::{Handed, HandedState};
use crate::error::{Errno, Error, HostError, Result, TakeoverReason};
use crate::host::start_thread;
use crate::latency::Latency;
use crate::server::LEAVE;
use crate::shard::ShardHandle;
use crate::sys::{CatcherTerms, OtherProcess, file_of, is_our_user, unix_socket_at};
use crate::takeover::format::{Batch, Known, KnownSleepers, Sleeper, Sleepers};
use crate::takeover::{Channel, FORMAT, Hello, Kind, Message, StateFile, Terms, left_descriptors, of_bytes, to_bytes};
use crate::wiped::Wiped;

/// How long the server that runs may take for an answer. Others may ask before, and be silent.
const ANSWER_TIME: Duration = Duration::from_secs(30);

/// How often the server that runs is asked while each time another one has just taken its place.
const ATTEMPTS: usize = 5;

/// How long a process may take to end after it has closed what connected it with this one.
const END_TIME: Duration = Duration::from_secs(10);

/// What comes to a shard from the server that hands over.
pub enum Arrival {
    /// What is known of some sleeping connections.
    KnownSleepers(Vec<Sleeper>),
    /// The sleeping connections.
    Sleepers(Sleepers),
    /// Some connections that are awake, entries of some that have ended, and how many come later.
    Batch { connections: Vec<(Handed, Known)>, ended: Vec<u32>, to_come: u64 },
    /// No more connections come; and what the service of the shard knows beside them.
    Done(Wiped),
    /// The other process was killed.
    Killed,
}

/// What a server finds that starts: the descriptors of another process, which runs or was killed.
pub struct Inheritance {
    pub terms: Terms,
    descriptors: BTreeMap<String, OwnedFd>,
    /// The file of each descriptor, by name.
    files: BTreeMap<String, (u64, u64)>,
    predecessor: Option<Predecessor>,
}

/// The server that runs.
struct Predecessor {
    control: Channel,
    process: Arc<OtherProcess>,
}

impl Inheritance {
    /// What there is to take over: what an earlier process has left with the service manager, or what a server has that
    /// listens at the path. `None` where there is neither.
    pub fn find(path: &Path) -> Result<Option<Inheritance>> {
        let descriptors = left_descriptors();
        if !descriptors.is_empty() {
            return Inheritance::left(path, descriptors).map(Some);
        }
        for _ in 0..ATTEMPTS {
            let Some(socket) = connect(path).map_err(|errno| refused(path, errno, TakeoverReason::Path))? else {
                return Ok(None);
            };
            if !is_our_user(&socket).is_ok_and(|ours| ours) {
                return Err(refused(path, None, TakeoverReason::OtherUser).into());
            }
            if let Some(asked) = Inheritance::ask(path, socket)? {
                return Ok(Some(asked));
            }
        }
        Err(no_answer(path, &io::ErrorKind::NotFound.into()).into())
    }

    fn of(terms: Terms, descriptors: BTreeMap<String, OwnedFd>, predecessor: Option<Predecessor>) -> Inheritance {
        let file = |(name, descriptor): (&String, &OwnedFd)| Some((name.clone(), file_of(descriptor).ok()?));
        let files = descriptors.iter().filter_map(file).collect();
        Inheritance { terms, descriptors, files, predecessor }
    }

    /// What an earlier process has left.
    fn left(path: &Path, descriptors: BTreeMap<String, OwnedFd>) -> Result<Inheritance> {
        let left = |why: String| refused(path, None, TakeoverReason::Left(why));
        let state = descriptors.get(STATE).ok_or_else(|| left("it is not known what it is".to_owned()))?;
        let read = || StateFile::adopt(state.try_clone()?)?.read();
        let terms = read().map_err(|error: io::Error| left(error.to_string()))?;
        // Those of another format are refused for that.
        if terms.hello.format == FORMAT {
            let names = names(&terms);
            let there = names.iter().filter(|name| descriptors.contains_key(*name)).count();
            if there < names.len() {
                return Err(refused(path, None, TakeoverReason::Incomplete { there, all: names.len() }).into());
            }
        }
        Ok(Inheritance::of(terms, descriptors, None))
    }

    /// Asks the server that runs. `None` if another one has taken its place since the socket was connected: only a later
    /// socket tells which process that is.
    fn ask(path: &Path, socket: UnixStream) -> Result<Option<Inheritance>> {
        let silent = |error: io::Error| no_answer(path, &error);
        let process = match OtherProcess::at(&socket) {
            Ok(Some(process)) => process,
            Ok(None) => return Err(refused(path, None, TakeoverReason::Misfit(OTHER_PROCESSES.to_owned())).into()),
            Err(error) if Errno::of(&error) == Errno::ESRCH => return Ok(None),
            Err(error) => return Err(silent(error).into()),
        };
        let control = Channel::over(socket);
        let hello = to_bytes(&Hello::ours()).map_err(silent)?;
        control.limit(Some(ANSWER_TIME)).and_then(|()| control.send(Kind::Hello, &hello, &[])).map_err(silent)?;
        let mut descriptors = BTreeMap::new();
        loop {
            let message = control.receive().and_then(|message| message.ok_or(io::ErrorKind::UnexpectedEof.into()));
            let Message { kind, body, descriptors: came } = message.map_err(silent)?;
            match kind {
                Kind::Refused => {
                    let why = String::from_utf8_lossy(&body).into_owned();
                    return Err(refused(path, None, TakeoverReason::Refused(why)).into());
                }
                Kind::Descriptors => {
                    let names: Vec<String> = of_bytes(&body).map_err(silent)?;
                    descriptors.extend(names.into_iter().zip(came));
                }
                Kind::Terms => {
                    let terms: Terms = of_bytes(&body).map_err(silent)?;
                    let predecessor = Predecessor { control, process: Arc::new(process) };
                    // One of another format is refused, whichever it is.
                    let is_it = terms.process == predecessor.process.id() || terms.hello.format != FORMAT;
                    return Ok(is_it.then(|| Inheritance::of(terms, descriptors, Some(predecessor))));
                }
                _ => return Err(silent(io::ErrorKind::InvalidData.into()).into()),
            }
        }
    }

    /// Checks that a server with these terms can take over.
    pub fn check(&self, path: &Path, ours: &Terms) -> Result<()> {
        ours.check(&self.terms).map_err(|misfit| {
            let why = misfit.to_string();
            let reason = if self.is_live() { TakeoverReason::Misfit(why) } else { TakeoverReason::Left(why) };
            refused(path, None, reason).into()
        })
    }

    /// Whether the other process runs.
    pub fn is_live(&self) -> bool {
        self.predecessor.is_some()
    }

    /// A descriptor, by its name.
    pub fn take(&mut self, name: &str) -> Option<OwnedFd> {
        self.descriptors.remove(name)
    }

    /// What the catcher is, if connections sleep.
    pub fn catcher(&mut self) -> Option<(CatcherTerms, &mut Inheritance)> {
        self.terms.catcher.clone().map(|terms| (terms, self))
    }

    /// The listeners of a shard.
    pub fn listeners(&mut self, shard: usize, ports: &[u16]) -> Result<Vec<TcpListener>> {
        let mut one = |port: &u16| {
            let descriptor = self.take(&listener_name(shard, *port));
            let missing =
                || HostError::new("take over", format!("the listener of port {port}"), None, TakeoverReason::NoAnswer);
            descriptor.map(TcpListener::from).ok_or_else(|| missing().into())
        };
        ports.iter().map(&mut one).collect()
    }

    /// The socket at which a later server asks, which listens already.
    pub fn path_listener(&mut self) -> Option<UnixListener> {
        self.take(PATH).map(UnixListener::from)
    }

    /// The names of received descriptors whose files this server does not offer again under the same names: the service
    /// manager may still keep them.
    pub fn stale(&self, offer: &[(String, OwnedFd)]) -> Vec<String> {
        let offered = |name: &String, file| {
            let same =
                |(offered, descriptor): &(String, OwnedFd)| offered == name && file_of(descriptor).ok() == Some(file);
            offer.iter().any(same)
        };
        let is_kept = |name: &str| name != PATH && !name.starts_with(CHANNEL);
        let stale = self.files.iter().filter(|(name, file)| is_kept(name) && !offered(name, **file));
        stale.map(|(name, _)| name.clone()).collect()
    }

    /// Has the server that runs hand over to shards with these queues. Returns when it has handed over all, or is gone: how
    /// long connections that were awake paused. It lives on until `succeeded`.
    pub fn take_over(&mut self, path: &Path, shards: Vec<(ShardHandle, Queue)>) -> Result<Option<Latency>> {
        let silent = |error: io::Error| Error::from(no_answer(path, &error));
        let mut channels = Vec::new();
        for shard in 0..shards.len() {
            let channel = self.take(&channel_name(shard)).map(|socket| Channel::over(UnixStream::from(socket)));
            channels.extend(channel);
        }
        let Some(Predecessor { control, process }) = &self.predecessor else { return Ok(None) };
        if channels.len() < shards.len() {
            return Err(silent(io::ErrorKind::NotFound.into()));
        }
        let mut pauses = Latency::new()?;
        control.send(Kind::Begin, &[], &[]).map_err(silent)?;
        match control.receive().map_err(silent)? {
            Some(Message { kind: Kind::Begin, .. }) => {}
            Some(Message { kind: Kind::Refused, body, .. }) => {
                let why = String::from_utf8_lossy(&body).into_owned();
                return Err(refused(path, None, TakeoverReason::Refused(why)).into());
            }
            _ => return Err(silent(io::ErrorKind::UnexpectedEof.into())),
        }
        let (handles, queues): (Vec<_>, Vec<_>) = shards.into_iter().unzip();
        let ways = channels.into_iter().zip(handles).collect();
        let relays = Arc::new(Relays { ways, process: process.clone(), failed: OnceLock::new() });
        let mut threads = Vec::new();
        for (shard, queue) in queues.into_iter().enumerate() {
            let theirs = relays.clone();
            let body = move || theirs.run(shard, &queue).map_err(|error| theirs.fail(error)).ok();
            let started = start_thread(&format!("c1m-takeover-{shard}"), body);
            threads.push(started.inspect_err(|_| relays.fail(io::ErrorKind::Other.into()))?);
        }
        let ended: Vec<_> = threads.into_iter().map(|thread| thread.join().ok().flatten()).collect();
        if let Some(error) = relays.failed.get() {
            return Err(no_answer(path, error).into());
        }
        let ended: Option<Vec<Latency>> = ended.into_iter().collect();
        let ended = ended.ok_or_else(|| silent(io::ErrorKind::Other.into()))?;
        ended.iter().try_for_each(|of_shard| pauses.merge(of_shard))?;
        Ok(Some(pauses))
    }

    /// This process has everything, and is the service now: the server before ends.
    pub fn succeeded(&self) {
        if let Some(Predecessor { control, .. }) = &self.predecessor {
            // One that was killed meanwhile needs to know nothing.
            let _ = control.send(Kind::Succeeded, &[], &[]);
        }
    }
}

/// The server that listens at a path; `None` where none does, and one may. Fails where none ever can.
fn connect(path: &Path) -> std::result::Result<Option<UnixStream>, Errno> {
    match UnixStream::connect(path) {
        Ok(socket) => Ok(Some(socket)),
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Err(Errno::ENAMETOOLONG),
        Err(error) => match Errno::of(&error) {
            // A server that was killed has left its socket.
            Errno::ECONNREFUSED if unix_socket_at(path).is_some() => Ok(None),
            Errno::ECONNREFUSED => Err(Errno::ENOTSOCK),
            Errno::ENOENT if path.symlink_metadata().is_err() && folder_of(path).is_dir() => Ok(None),
            errno => Err(errno),
        },
    }
}

/// The folder in which a path has its last name.
fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// The server that listens there did not answer, or this process has no room for the answer. Where it closed the
/// connection or did not answer in time, the error has no errno.
fn no_answer(path: &Path, error: &io::Error) -> HostError {
    let errno = error.raw_os_error().map(Errno).filter(|errno| *errno != Errno::EAGAIN);
    let reason = if errno.is_some_and(Errno::is_shortage) { TakeoverReason::Memory } else { TakeoverReason::NoAnswer };
    refused(path, errno, reason)
}

/// The way of what arrives to its shard.
pub struct Queue {
    to_shard: SyncSender<Arrival>,
    /// The shard serves the sleeping connections; or, with the pauses of those that were awake, it has a place for all.
    placed: Receiver<Option<Latency>>,
}

/// A shard's end of a queue: what arrives, and how it says that it has a place for all.
pub struct Arrivals {
    pub from: Receiver<Arrival>,
    pub placed: Sender<Option<Latency>>,
}

impl Queue {
    /// A queue and its other end. It holds one arrival, so that what the shard has no time for waits in the other
    /// process, which serves it.
    pub fn new() -> (Queue, Arrivals) {
        let ((to_shard, from), (done, placed)) = (sync_channel(1), channel());
        (Queue { to_shard, placed }, Arrivals { from, placed: done })
    }

    /// Waits until the shard has done what it was given.
    fn placed(&self) -> io::Result<Option<Latency>> {
        self.placed.recv().map_err(io::Error::other)
    }

    /// Waits until the shard has a place for all. Returns the pauses.
    fn pauses(&self) -> io::Result<Latency> {
        self.placed()?.ok_or_else(|| io::ErrorKind::InvalidData.into())
    }
}

/// The ways of all shards: each shard's channel from the other process, and the shard.
struct Relays {
    ways: Vec<(Channel, ShardHandle)>,
    process: Arc<OtherProcess>,
    /// Why the first one has failed.
    failed: OnceLock<io::Error>,
}

impl Relays {
    /// One way has failed, so this process cannot take over. It takes no more, and ends: then the other one has back what it
    /// gave.
    fn fail(&self, why: io::Error) {
        let _ = self.failed.set(why);
        for (channel, shard) in &self.ways {
            // It fails only for one that the other process has closed.
            let _ = channel.socket().shutdown(Shutdown::Both);
            shard.command(LEAVE);
        }
    }

    /// Whether the other process was killed, to be asked once a channel has failed. Waits up to `END_TIME` for the end
    /// of that process. `false` at once if a channel has failed on this side.
    fn is_orphaned(&self) -> bool {
        self.failed.get().is_none() && self.process.ends_within(END_TIME)
    }

    /// Hands what comes to a shard, until nothing more comes. Returns how long connections that were awake paused.
    fn run(&self, shard: usize, queue: &Queue) -> io::Result<Latency> {
        let (channel, shard) = &self.ways[shard];
        let give = |arrival: Arrival| {
            // A shard that has failed takes nothing; its end says why.
            let given = queue.to_shard.send(arrival).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe));
            shard.doorbell().ring();
            given
        };
        // A process that was killed meanwhile needs to be told nothing, and no other process has what it had sent.
        let say = |kind: Kind| match channel.send(kind, &[], &[]) {
            Err(_) if self.is_orphaned() => Ok(()),
            said => said,
        };
        loop {
            let arrival = match channel.receive() {
                Ok(Some(message)) => decode(message)?,
                Err(error) if Errno::of(&error).is_shortage() => return Err(error),
                _ if self.is_orphaned() => {
                    give(Arrival::Killed)?;
                    return queue.pauses();
                }
                end => return Err(end.err().unwrap_or_else(|| io::ErrorKind::UnexpectedEof.into())),
            };
            if matches!(arrival, Arrival::Done(_)) {
                give(arrival)?;
                let pauses = queue.pauses()?;
                say(Kind::Taken)?;
                return Ok(pauses);
            }
            let sleepers = matches!(arrival, Arrival::Sleepers(_));
            // `Taken` goes out before the connections are served here: until the other process has read it, that
            // process may serve them.
            say(Kind::Taken)?;
            give(arrival)?;
            if sleepers {
                queue.placed()?;
                say(Kind::Serving)?;
            }
        }
    }
}

/// What a message brings. Fails with `InvalidData` for one that no server sends.
fn decode(message: Message) -> io::Result<Arrival> {
    let nothing = || io::Error::new(io::ErrorKind::InvalidData, "a message of a shard that cannot be read");
    let Message { kind, body, descriptors } = message;
    match kind {
        Kind::KnownSleepers => KnownSleepers::decode(&body).map(Arrival::KnownSleepers).ok_or_else(nothing),
        Kind::Sleepers => Sleepers::decode(&body).map(Arrival::Sleepers).ok_or_else(nothing),
        Kind::Batch => {
            let Batch { ended, connections, to_come } = Batch::decode(&body).ok_or_else(nothing)?;
            if connections.len() != descriptors.len() {
                return Err(nothing());
            }
            let handed = |((state, known), socket): ((HandedState, Known), OwnedFd)| (Handed { socket, state }, known);
            let connections = connections.into_iter().zip(descriptors).map(handed).collect();
            Ok(Arrival::Batch { connections, ended, to_come })
        }
        Kind::Done => Ok(Arrival::Done(body)),
        _ => Err(nothing()),
    }
}
