//! Taking over from the server that runs, or from one that was killed.

use std::collections::BTreeMap;
use std::io;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::time::Duration;

use super::{OTHER_PROCESSES, listener_name, refused};
use crate::connections::{Handed, HandedState};
use crate::error::{Errno, Error, HostError, Result, TakeoverReason};
use crate::host::start_thread;
use crate::latency::Latency;
use crate::shard::ShardHandle;
use crate::sys::{CatcherTerms, OtherProcess, is_our_user, unix_socket_at};
use crate::takeover::format::{Batch, Known, KnownSleepers, Sleeper, Sleepers};
use crate::takeover::{Channel, Hello, Kind, Message, StateFile, Terms, left_descriptors, of_bytes, to_bytes};
use crate::wiped::Wiped;

/// How long the server that runs may take for an answer. Others may ask before, and be silent.
const ANSWER_TIME: Duration = Duration::from_secs(30);

/// How long a process may take to end after it has closed what connected it with this one.
const END_TIME: Duration = Duration::from_secs(10);

/// What comes to a shard from the server that hands over.
pub enum Arrival {
    /// What is known of some sleeping connections.
    KnownSleepers(Vec<Sleeper>),
    /// The sleeping connections.
    Sleepers(Sleepers),
    /// Some connections that are awake, and entries of some that have ended.
    Batch(Vec<(Handed, Known)>, Vec<u32>),
    /// No more connections come; and what the service of the shard knows beside them.
    Done(Wiped),
    /// The other process was killed.
    Killed,
}

/// What a server finds that starts: the descriptors of another process, which runs or was killed.
pub struct Inheritance {
    pub terms: Terms,
    descriptors: BTreeMap<String, OwnedFd>,
    predecessor: Option<Predecessor>,
}

/// The server that runs.
struct Predecessor {
    control: Channel,
    process: OtherProcess,
}

impl Inheritance {
    /// What there is to take over: what an earlier process has left with the service manager, or what a server has that
    /// listens at the path. `None` where there is neither.
    pub fn find(path: &Path) -> Result<Option<Inheritance>> {
        let descriptors = left_descriptors();
        if !descriptors.is_empty() {
            return Inheritance::left(path, descriptors).map(Some);
        }
        let Some(socket) = connect(path).map_err(|errno| refused(path, errno, TakeoverReason::Path))? else {
            return Ok(None);
        };
        if !is_our_user(&socket).is_ok_and(|ours| ours) {
            return Err(refused(path, None, TakeoverReason::OtherUser).into());
        }
        Inheritance::ask(path, socket).map(Some)
    }

    /// What an earlier process has left.
    fn left(path: &Path, descriptors: BTreeMap<String, OwnedFd>) -> Result<Inheritance> {
        let left = |why: String| refused(path, None, TakeoverReason::Left(why));
        let state = descriptors.get("state").ok_or_else(|| left("it is not known what it is".to_owned()))?;
        let read = || StateFile::adopt(state.try_clone()?)?.read();
        let terms = read().map_err(|error: io::Error| left(error.to_string()))?;
        Ok(Inheritance { terms, descriptors, predecessor: None })
    }

    /// Asks the server that runs.
    fn ask(path: &Path, socket: UnixStream) -> Result<Inheritance> {
        let silent = |error: io::Error| no_answer(path, &error);
        let Some(process) = OtherProcess::at(&socket).map_err(silent)? else {
            return Err(refused(path, None, TakeoverReason::Misfit(OTHER_PROCESSES.to_owned())).into());
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
                    let terms = of_bytes(&body).map_err(silent)?;
                    return Ok(Inheritance { terms, descriptors, predecessor: Some(Predecessor { control, process }) });
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
        self.take("path").map(UnixListener::from)
    }

    /// Has the server that runs hand over to shards with these queues. Returns when it has handed over all, or is gone: how
    /// long connections that were awake paused.
    pub fn take_over(&mut self, path: &Path, shards: Vec<(ShardHandle, Queue)>) -> Result<Option<Latency>> {
        let Some(Predecessor { control, process }) = self.predecessor.take() else { return Ok(None) };
        let silent = |error: io::Error| Error::from(no_answer(path, &error));
        let mut channels = Vec::new();
        for shard in 0..shards.len() {
            let channel = self.take(&format!("channel-{shard}"));
            channels.push(channel.ok_or_else(|| silent(io::ErrorKind::NotFound.into()))?);
        }
        control.send(Kind::Begin, &[], &[]).map_err(silent)?;
        match control.receive().map_err(silent)? {
            Some(Message { kind: Kind::Begin, .. }) => {}
            Some(Message { kind: Kind::Refused, body, .. }) => {
                let why = String::from_utf8_lossy(&body).into_owned();
                return Err(refused(path, None, TakeoverReason::Refused(why)).into());
            }
            _ => return Err(silent(io::ErrorKind::UnexpectedEof.into())),
        }
        let process = Arc::new(process);
        let mut relays = Vec::new();
        for (shard, (socket, (handle, queue))) in channels.into_iter().zip(shards).enumerate() {
            let (channel, process) = (Channel::over(UnixStream::from(socket)), process.clone());
            let body = move || relay(&channel, &process, &handle, &queue);
            relays.push(start_thread(&format!("c1m-takeover-{shard}"), body)?);
        }
        let ended = relays.into_iter().map(|relay| relay.join().unwrap_or_else(|_| Err(io::ErrorKind::Other.into())));
        let ended = ended.collect::<Vec<_>>().into_iter().collect::<io::Result<Vec<Latency>>>().map_err(silent)?;
        let mut pauses = Latency::new()?;
        ended.iter().try_for_each(|of_shard| pauses.merge(of_shard))?;
        Ok(Some(pauses))
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

/// The server that listens there did not answer. An end of what it says, or nothing in time, has no number of the kernel.
fn no_answer(path: &Path, error: &io::Error) -> HostError {
    let errno = error.raw_os_error().map(Errno).filter(|errno| *errno != Errno::EAGAIN);
    refused(path, errno, TakeoverReason::NoAnswer)
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

/// Hands what comes to a shard, until nothing more comes. Returns how long connections that were awake paused.
fn relay(channel: &Channel, process: &OtherProcess, shard: &ShardHandle, queue: &Queue) -> io::Result<Latency> {
    let give = |arrival: Arrival| {
        // A shard that has failed takes nothing; its end says why.
        let given = queue.to_shard.send(arrival).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe));
        shard.doorbell().ring();
        given
    };
    // A process that was killed meanwhile needs to be told nothing, and no other process has what it had sent.
    let say = |kind: Kind| match channel.send(kind, &[], &[]) {
        Err(_) if process.ends_within(END_TIME) => Ok(()),
        said => said,
    };
    loop {
        let arrival = match channel.receive() {
            Ok(Some(message)) => decode(message)?,
            end => {
                if process.ends_within(END_TIME) {
                    give(Arrival::Killed)?;
                    return queue.pauses();
                }
                return Err(end.err().unwrap_or_else(|| io::ErrorKind::UnexpectedEof.into()));
            }
        };
        if matches!(arrival, Arrival::Done(_)) {
            give(arrival)?;
            let pauses = queue.pauses()?;
            say(Kind::Taken)?;
            return Ok(pauses);
        }
        let sleepers = matches!(arrival, Arrival::Sleepers(_));
        // Before it is served here: until the other process reads this it may serve it itself.
        say(Kind::Taken)?;
        give(arrival)?;
        if sleepers {
            queue.placed()?;
            say(Kind::Serving)?;
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
            let Batch { ended, connections } = Batch::decode(&body).ok_or_else(nothing)?;
            if connections.len() != descriptors.len() {
                return Err(nothing());
            }
            let handed = |((state, known), socket): ((HandedState, Known), OwnedFd)| (Handed { socket, state }, known);
            Ok(Arrival::Batch(connections.into_iter().zip(descriptors).map(handed).collect(), ended))
        }
        Kind::Done => Ok(Arrival::Done(body)),
        _ => Err(nothing()),
    }
}
