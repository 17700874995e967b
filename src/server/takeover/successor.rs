//! Handing over to a later server: the thread that listens for one, and the way of what each shard hands over.

use std::convert::Infallible;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::{OTHER_PROCESSES, Offer, PATH, STATE, channel_name, refused};
use crate::error::{Errno, Result, TakeoverReason};
use crate::host::start_thread;
use crate::server::builder::EventSink;
use crate::server::memory_monitor::ListenerControl;
use crate::server::{HAND_OVER, SERVE, STOP, ServerEvent};
use crate::shard::ShardHandle;
use crate::sys::{OtherProcess, connect_without_waiting, is_our_user, listen_in_own_name, unix_socket_at};
use crate::takeover::{Channel, FORMAT, Hello, Kind, Message, StateFile, TermsText, of_bytes, store, to_bytes};
use crate::wiped::Wiped;

/// How long a successor may take for its first words, which it says at once. Others wait behind one that is silent.
const ANSWER_TIME: Duration = Duration::from_secs(2);

/// How long it may take until it is ready: it opens its rings meanwhile.
const READY_TIME: Duration = Duration::from_secs(120);

/// How long a successor that has everything may take until the service manager knows that it is the service now. As soon as
/// this process ends, the manager ends the service otherwise.
const SUCCESS_TIME: Duration = Duration::from_secs(60);

/// How long a successor may take to end after it has closed a channel, before the operator is told.
const END_TIME: Duration = Duration::from_secs(2);

/// How long a successor may take for an answer before the operator is told. It is awaited on: it may have what it was sent.
const SILENCE: Duration = Duration::from_secs(10);

/// How often it is looked whether a successor is silent.
const SILENCE_LOOK: Duration = Duration::from_secs(1);

/// While its end is awaited, the server looks this often whether it was told to stop.
const STOP_LOOK: Duration = Duration::from_millis(500);

/// The pause before the next attempt to accept a process that asks. The kernel keeps it waiting meanwhile.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Descriptors that are sent in one message. The kernel takes 253.
const DESCRIPTORS_PER_MESSAGE: usize = 200;

/// What a shard hands over in one message, with the sockets that go along.
pub struct HandoverMessage {
    pub kind: Kind,
    pub body: Arc<Wiped>,
    pub sockets: Vec<OwnedFd>,
}

/// What comes back to the shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// The successor has the last message.
    Taken,
    /// The successor serves the sleeping connections.
    Serving,
    /// The successor is gone, and did not get the last message.
    Gone,
    /// All shards have handed over all.
    Finish,
    /// The successor has closed a channel, and has not ended: a shard whose sleeping connections it has waits for its end,
    /// and accepts nothing until then. The others serve on.
    Lingers,
    /// The successor is gone: serve on. If it has ended for certain, what it had of the sleeping connections can be
    /// taken back.
    ServeOn { ended: bool },
}

/// A shard's end of the way to the successor.
pub struct Link {
    pub to: Sender<HandoverMessage>,
    pub from: Receiver<Answer>,
}

/// Where a shard finds its link when it is told to hand over.
pub type HandoverSlot = Arc<Mutex<Option<Link>>>;

/// What a server is doing, for processes that ask to take over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Serving,
    HandingOver {
        /// It was told to stop meanwhile.
        stop: bool,
    },
    HandedOver,
    Stopping,
}

/// The server's part of what listens for a successor; the other one is its thread (`SuccessorThread`).
pub struct SuccessorListener {
    phase: Arc<Mutex<Phase>>,
    path: PathBuf,
    /// The socket at the path, which another server may replace by its own once somebody has removed it.
    socket: Option<(u64, u64)>,
    /// What the service manager keeps.
    kept: Vec<String>,
}

/// The thread that listens for a successor, and leads the handing over to it.
struct SuccessorThread {
    phase: Arc<Mutex<Phase>>,
    listener: Arc<UnixListener>,
    terms: TermsText,
    offer: Offer,
    shards: Vec<(ShardHandle, HandoverSlot)>,
    control: Arc<ListenerControl>,
    events: EventSink,
}

fn lock(phase: &Mutex<Phase>) -> MutexGuard<'_, Phase> {
    phase.lock().unwrap_or_else(PoisonError::into_inner)
}

impl SuccessorListener {
    /// Makes all that is needed to answer a successor at the path, with the listener of an earlier server if there is one.
    pub fn prepare(
        path: &Path,
        listener: Option<UnixListener>,
        terms: TermsText,
        offer: Offer,
        shards: Vec<(ShardHandle, HandoverSlot)>,
        control: Arc<ListenerControl>,
        events: EventSink,
    ) -> Result<PreparedListener> {
        let failed = |error: io::Error| refused(path, Errno::of(&error), TakeoverReason::Path);
        let listener = Arc::new(listener.map_or_else(|| listen(path), Ok).map_err(failed)?);
        let phase = Arc::new(Mutex::new(Phase::Serving));
        let kept = offer.iter().map(|(name, _)| name.clone()).collect();
        let thread =
            SuccessorThread { phase: phase.clone(), listener: listener.clone(), terms, offer, shards, control, events };
        let (opens, opened) = mpsc::channel();
        let serve = move || {
            if opened.recv().is_ok() {
                thread.serve();
            }
        };
        start_thread("c1m-successor", serve)?;
        let successors = SuccessorListener { phase, path: path.to_owned(), socket: unix_socket_at(path), kept };
        Ok(PreparedListener { successors, listener, opens })
    }

    /// The server is to stop. `false` if it hands over: then it ends by itself, or stops if the successor is killed.
    pub fn may_stop(&self) -> bool {
        let mut phase = lock(&self.phase);
        match &mut *phase {
            Phase::HandingOver { stop } => *stop = true,
            Phase::Serving => *phase = Phase::Stopping,
            Phase::HandedOver | Phase::Stopping => {}
        }
        !matches!(*phase, Phase::HandingOver { .. })
    }

    /// The server has ended. Unless it has handed over, nothing of it remains. This waits neither for the thread nor
    /// for processes that ask it.
    pub fn close(&self) {
        {
            let mut phase = lock(&self.phase);
            if *phase == Phase::HandedOver {
                return;
            }
            *phase = Phase::Stopping;
        }
        if self.socket.is_some() && self.socket == unix_socket_at(&self.path) {
            // The thread looks at the phase when it has accepted a connection: this one, or one before it in a full queue.
            let _ = connect_without_waiting(&self.path);
            let _ = std::fs::remove_file(&self.path);
        }
        if let Some(store) = store() {
            // A manager that has gone has forgotten them.
            let _ = store.forget(&self.kept);
        }
    }
}

/// A listener for a successor that answers no process yet.
pub struct PreparedListener {
    successors: SuccessorListener,
    listener: Arc<UnixListener>,
    opens: Sender<()>,
}

impl PreparedListener {
    /// Answers from now on.
    pub fn open(self) -> SuccessorListener {
        // It listens in any case.
        let _ = listen_in_own_name(&self.listener);
        let _ = self.opens.send(());
        self.successors
    }
}

/// Listens at a path at which no process listens. Only this user may connect.
fn listen(path: &Path) -> io::Result<UnixListener> {
    if unix_socket_at(path).is_some() {
        std::fs::remove_file(path)?;
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

impl SuccessorThread {
    /// Answers processes that ask, until all is handed over or the server stops.
    fn serve(self) {
        loop {
            let accepted = self.listener.accept();
            if *lock(&self.phase) == Phase::Stopping {
                return;
            }
            let Ok((socket, _)) = accepted else {
                // No descriptor is free (EMFILE, ENFILE), say, and connections that end make some free.
                std::thread::sleep(ACCEPT_PAUSE);
                continue;
            };
            if !is_our_user(&socket).is_ok_and(|ours| ours) {
                continue;
            }
            let control = Channel::over(socket);
            match self.greet(&control) {
                Ok(Some((channels, successor))) => {
                    if self.hand_over(channels, &control, &successor) {
                        return;
                    }
                }
                Ok(None) => {}
                // A successor that goes away before it has begun leaves everything as it was. Another one is told why.
                Err(error) => {
                    let why = error.raw_os_error().map_or(error.to_string(), |errno| Errno(errno).to_string());
                    let _ = control.send(Kind::Refused, why.as_bytes(), &[]);
                }
            }
        }
    }

    /// Tells a successor what there is. Returns the channels of the shards once it has begun, and its process.
    fn greet(&self, control: &Channel) -> io::Result<Option<(Vec<Channel>, OtherProcess)>> {
        control.limit(Some(ANSWER_TIME))?;
        let hello: Hello = of_bytes(&control.expect(Kind::Hello)?.body)?;
        if hello.format != FORMAT {
            let why =
                format!("it hands over in format {FORMAT}, and c1m {} takes format {}", hello.version, hello.format);
            control.send(Kind::Refused, why.as_bytes(), &[])?;
            return Ok(None);
        }
        if *lock(&self.phase) != Phase::Serving {
            control.send(Kind::Refused, b"it is about to end", &[])?;
            return Ok(None);
        }
        let Some(successor) = OtherProcess::at(control.socket())? else {
            control.send(Kind::Refused, OTHER_PROCESSES.as_bytes(), &[])?;
            return Ok(None);
        };
        let (mut ours, mut named) = (Vec::new(), Vec::new());
        for shard in 0..self.shards.len() {
            let (our, their) = Channel::pair()?;
            ours.push(our);
            named.push((channel_name(shard), their));
        }
        let offer = self.offer.iter().map(|(name, descriptor)| (name.as_str(), descriptor.as_fd()));
        let channels = named.iter().map(|(name, channel)| (name.as_str(), channel.as_fd()));
        let all: Vec<_> = offer.chain(channels).chain([(PATH, self.listener.as_fd())]).collect();
        for part in all.chunks(DESCRIPTORS_PER_MESSAGE) {
            let (names, descriptors): (Vec<&str>, Vec<_>) = part.iter().copied().unzip();
            control.send(Kind::Descriptors, &to_bytes(&names)?, &descriptors)?;
        }
        drop(all);
        drop(named);
        control.send(Kind::Terms, self.terms.bytes(), &[])?;
        control.limit(Some(READY_TIME))?;
        let Some(Message { kind: Kind::Begin, .. }) = control.receive()? else { return Ok(None) };
        let mut phase = lock(&self.phase);
        if *phase != Phase::Serving {
            control.send(Kind::Refused, b"it is about to end", &[])?;
            return Ok(None);
        }
        control.send(Kind::Begin, &[], &[])?;
        *phase = Phase::HandingOver { stop: false };
        Ok(Some((ours, successor)))
    }

    /// Has all shards hand over. `false` if the successor was killed and this server serves on.
    fn hand_over(&self, channels: Vec<Channel>, control: &Channel, successor: &OtherProcess) -> bool {
        self.control.leave_alone();
        (self.events)(ServerEvent::HandingOver);
        let (runs, ended) = mpsc::channel();
        let mut relays = Vec::new();
        for (shard, (channel, (handle, slot))) in channels.into_iter().zip(&self.shards).enumerate() {
            let ((to, from_shard), (to_shard, from)) = (mpsc::channel(), mpsc::channel());
            *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(Link { to, from });
            handle.command(HAND_OVER);
            let waiting = Waiting::default();
            let relay = Relay {
                channel,
                from: from_shard,
                to: to_shard.clone(),
                shard: handle.clone(),
                waiting: waiting.clone(),
                _runs: runs.clone(),
            };
            let relay = start_thread(&format!("c1m-handover-{shard}"), move || relay.run());
            relays.push((relay, waiting, to_shard, handle));
        }
        drop(runs);
        self.watch(&ended, || relays.iter().any(|(_, waiting, ..)| waiting.is_silent()), successor);
        let mut all = true;
        let mut answers = Vec::new();
        for (relay, _, to_shard, handle) in relays {
            // A thread that did not start has dropped its ends: the shard sees that.
            all &= relay.is_ok_and(|relay| relay.join().unwrap_or(false));
            answers.push((to_shard, handle));
        }
        all = all && has_succeeded(control);
        self.conclude(all, &answers, successor);
        all
    }

    /// Tells the shards what is next, as they have handed over all, or the successor has given up.
    fn conclude(&self, all: bool, answers: &[(Sender<Answer>, &ShardHandle)], successor: &OtherProcess) {
        let tell = |answer, command| {
            for (to_shard, handle) in answers {
                let _ = to_shard.send(answer);
                handle.command(command);
            }
        };
        if !all && !successor.ends_within(END_TIME) {
            self.control.take_back();
            tell(Answer::Lingers, SERVE);
            (self.events)(ServerEvent::SuccessorLingers { process: successor.id() });
        }
        let answer = if all { Answer::Finish } else { Answer::ServeOn { ended: self.await_end(successor) } };
        let mut phase = lock(&self.phase);
        let stop = matches!(*phase, Phase::HandingOver { stop: true });
        let (next, command) = match (all, stop) {
            (true, _) => (Phase::HandedOver, HAND_OVER),
            (false, true) => (Phase::Stopping, STOP),
            (false, false) => (Phase::Serving, SERVE),
        };
        match next {
            Phase::Serving => {
                self.serve_anew();
                self.control.take_back();
            }
            _ => self.control.leave_alone(),
        }
        *phase = next;
        // A stop waits for the lock, so that its command comes after this one.
        tell(answer, command);
        drop(phase);
        (self.events)(if all { ServerEvent::HandedOver } else { ServerEvent::SuccessorGone });
    }

    /// Undoes what a successor may have done at the path before it was gone: listens in this server's own name again,
    /// and writes this server's terms over those that the successor may have written.
    fn serve_anew(&self) {
        // It listens in any case.
        let _ = listen_in_own_name(&self.listener);
        let state = self.offer.iter().find(|(name, _)| name == STATE).map(|(_, state)| state.try_clone());
        // Without a descriptor the terms stay as they are: they are read only after this process is killed.
        if let Some(Ok(state)) = state.map(|state| state.and_then(StateFile::adopt)) {
            state.write(&self.terms);
        }
    }

    /// Waits until all relays have ended. Tells the owner each time that the successor has begun to be silent.
    fn watch(&self, ended: &Receiver<Infallible>, is_silent: impl Fn() -> bool, successor: &OtherProcess) {
        let mut told = false;
        while ended.recv_timeout(SILENCE_LOOK) == Err(RecvTimeoutError::Timeout) {
            let silent = is_silent();
            if silent && !told {
                (self.events)(ServerEvent::SuccessorSilent { process: successor.id() });
            }
            told = silent;
        }
    }

    /// Waits until the successor has ended. `false` if the server was told to stop before.
    fn await_end(&self, successor: &OtherProcess) -> bool {
        while !successor.ends_within(STOP_LOOK) {
            if matches!(*lock(&self.phase), Phase::HandingOver { stop: true }) {
                return false;
            }
        }
        true
    }
}

/// Whether a successor that has everything serves: it has sent `Succeeded`, or nothing for `SUCCESS_TIME` with its end
/// of the channel still open. `false` if that end is closed.
fn has_succeeded(control: &Channel) -> bool {
    match control.limit(Some(SUCCESS_TIME)).and_then(|()| control.receive()) {
        Ok(message) => message.is_some_and(|message| message.kind == Kind::Succeeded),
        Err(error) => Errno::of(&error) == Errno::EAGAIN,
    }
}

/// Since when a relay waits for the successor, if it does.
#[derive(Clone, Default)]
struct Waiting(Arc<Mutex<Option<Instant>>>);

impl Waiting {
    fn since(&self) -> MutexGuard<'_, Option<Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a call that waits for the successor.
    fn during<T>(&self, call: impl FnOnce() -> T) -> T {
        *self.since() = Some(Instant::now());
        let done = call();
        *self.since() = None;
        done
    }

    /// Whether the successor has not answered for too long.
    fn is_silent(&self) -> bool {
        self.since().is_some_and(|since| since.elapsed() >= SILENCE)
    }
}

/// What brings the messages of a shard to the successor, on a thread of its own.
struct Relay {
    channel: Channel,
    from: Receiver<HandoverMessage>,
    to: Sender<Answer>,
    shard: ShardHandle,
    waiting: Waiting,
    /// Dropped at its end, which `SuccessorThread` sees.
    _runs: Sender<Infallible>,
}

impl Relay {
    /// Brings all that comes. Returns whether that was all that the shard has.
    fn run(self) -> bool {
        while let Ok(message) = self.from.recv() {
            let kind = message.kind;
            let taken = self.waiting.during(|| self.bring(message)).is_ok();
            if taken && kind == Kind::Done {
                return true;
            }
            let mut answers = vec![if taken { Answer::Taken } else { Answer::Gone }];
            if taken && kind == Kind::Sleepers {
                // Should the successor be killed before, that is seen with the next message.
                let _ = self.waiting.during(|| self.channel.expect(Kind::Serving));
                answers.push(Answer::Serving);
            }
            answers.into_iter().for_each(|answer| _ = self.to.send(answer));
            self.shard.doorbell().ring();
            if !taken {
                return false;
            }
        }
        false
    }

    /// Sends a message, and waits until the successor has it.
    fn bring(&self, HandoverMessage { kind, body, sockets }: HandoverMessage) -> io::Result<()> {
        let descriptors: Vec<_> = sockets.iter().map(AsFd::as_fd).collect();
        self.channel.send(kind, &body, &descriptors)?;
        // Each copy that is open here would delay a FIN.
        drop(descriptors);
        drop(sockets);
        self.channel.expect(Kind::Taken).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    use socket2::{Domain, SockAddr, Socket, Type};

    use super::*;
    use crate::connections::AdmissionState;
    use crate::server::memory_monitor;
    use crate::takeover::Terms;

    fn asker(path: &Path) -> io::Result<Socket> {
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        socket.connect(&SockAddr::unix(path)?).map(|()| socket)
    }

    /// The listener at a path, of a server without shards.
    fn listener(path: &Path, control: Arc<ListenerControl>, events: EventSink) -> SuccessorListener {
        let (hello, speaks) = (Hello::ours(), Default::default());
        let (bind, shards) = ("127.0.0.1".to_owned(), Vec::new());
        let (awake, catcher, network) = (None, None, None);
        let terms =
            Terms { hello, bind, shards, connections: 1, awake, backlog: 1, catcher, speaks, network, process: 1 };
        let terms = TermsText::of(&terms).unwrap();
        SuccessorListener::prepare(path, None, terms, Arc::new([]), Vec::new(), control, events).unwrap().open()
    }

    /// Asks at a path, and hears the terms.
    fn ask(path: &Path) -> Channel {
        let channel = Channel::over(UnixStream::connect(path).unwrap());
        channel.send(Kind::Hello, &to_bytes(&Hello::ours()).unwrap(), &[]).unwrap();
        while channel.receive().unwrap().unwrap().kind != Kind::Terms {}
        channel
    }

    /// Listeners are the successor's from the beginning of the handing over until it has given up, and nobody's once the server
    /// is told to stop: then they do not follow the gate.
    #[test]
    fn listeners_are_left_alone_while_a_successor_has_them() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("takeover");
        let (control, listens) = memory_monitor::tests::control();
        let control = Arc::new(control);
        let (tells, told) = mpsc::channel();
        let listener = listener(&path, control.clone(), Arc::new(move |event| tells.send(event).unwrap()));
        let channel = ask(&path);
        channel.send(Kind::Begin, &[], &[]).unwrap();
        channel.expect(Kind::Begin).unwrap();
        assert_eq!(told.recv(), Ok(ServerEvent::HandingOver));
        control.set(AdmissionState::NotListening);
        assert!(listens(), "the successor's listener is shut down");
        // The successor gives up, and its process, which is this one, goes on.
        drop(channel);
        assert_eq!(told.recv(), Ok(ServerEvent::SuccessorLingers { process: std::process::id() }));
        assert!(!listens(), "the gate is shut");
        assert!(!listener.may_stop());
        assert_eq!(told.recv(), Ok(ServerEvent::SuccessorGone));
        control.set(AdmissionState::Open);
        assert!(!listens(), "nobody accepts");
        listener.close();
    }

    /// One asker is being answered, and as many wait as the kernel lets wait.
    #[test]
    fn a_stop_waits_for_no_successor_that_asks() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("takeover");
        let listener = listener(&path, Arc::new(ListenerControl::new(1)), Arc::new(|_| {}));
        let first = ask(&path);
        let mut waiting = Vec::new();
        let full = loop {
            match asker(&path) {
                Ok(one) => waiting.push(one),
                Err(error) => break error,
            }
        };
        assert_eq!(Errno::of(&full), Errno::EAGAIN, "{} wait", waiting.len());
        listener.close();
        assert!(!path.exists());
        // The first one is still awaited.
        first.socket().set_nonblocking(true).unwrap();
        assert_eq!(first.socket().read(&mut [0]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(first);
        let mut last = waiting.pop().unwrap();
        last.set_nonblocking(false).unwrap();
        // The thread ends behind the first one, and answers none of the others.
        assert!(!matches!(last.read(&mut [0]), Ok(1..)));
    }
}
