//! The memory that a server leaves alone: a thread looks at what is left, and shuts the gate of all shards while it is less
//! than the reserve. The kernel refuses nothing by itself before it kills a process, and then it is the server that it kills.
//!
//! Refusing takes memory too: a connection is in the accept queue, with a socket of its own, until a shard comes to
//! reset it; and before 6.13 the kernel keeps the file of a closed direct descriptor until every request of that ring
//! that is older than the close has ended, parked polls included. With 4,000 connects in flight at a server of 103,000
//! the last 28 MiB of a 512 MiB guest were gone in 20 seconds, and its kernel panicked. So when only half of the
//! reserve is left the listeners are shut down as well; the same guest then kept 18 MB free, and its connections.
//!
//! A socket is shut down for all processes that have it. So a server leaves its listeners alone from the moment when it
//! begins to hand over, and takes them back if the later server gives up. One that stops leaves them alone too: its shards
//! have shut them down, and nobody would accept what comes.

use std::net::TcpListener;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::ServerEvent;
use super::builder::EventSink;
use crate::connections::{AdmissionGate, AdmissionState};
use crate::error::Result;
use crate::host::{Host, MemoryLeft, start_thread};
use crate::listener;
use crate::plan::Reserve;

/// The bytes a second by which memory may shrink between two looks: twice what 100,000 accepts of 3.6 kB take.
const FASTEST_SHORTAGE: f64 = 720e6;

/// The shortest time until the next look.
const SHORTEST_PAUSE: Duration = Duration::from_millis(50);

/// The longest time until the next look.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// A limit on memory that is near.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shortage {
    /// Whose limit: "memory of this host", or the file that sets a cgroup's limit.
    pub wall: String,
    /// Bytes left in it.
    pub have: u64,
    /// Bytes that shall stay.
    pub reserve: u64,
}

impl Shortage {
    /// The limit that is nearest to its reserve; `None` where none can be read.
    fn nearest(host: &Host, reserve: Reserve) -> Option<Shortage> {
        let near = |left: MemoryLeft| Shortage { reserve: reserve.of(left.total), wall: left.name, have: left.left };
        let all = host.memory_left().into_iter().map(near);
        all.min_by_key(|wall| i128::from(wall.have) - i128::from(wall.reserve))
    }

    /// How far the gate is to be open now, if it was at `before`. It is opened again only when there is clearly more: a
    /// connection that goes must not open it for one that comes.
    fn level(&self, before: AdmissionState) -> AdmissionState {
        let (reserve, have) = (self.reserve, self.have);
        let not_listening_below = if before == AdmissionState::NotListening { reserve / 4 * 3 } else { reserve / 2 };
        let refusing_below = if before == AdmissionState::Open { reserve } else { reserve.saturating_add(reserve / 4) };
        match have {
            _ if have < not_listening_below => AdmissionState::NotListening,
            _ if have < refusing_below => AdmissionState::Refusing,
            _ => AdmissionState::Open,
        }
    }

    fn look_again(&self) -> Duration {
        let left = self.have.saturating_sub(self.reserve) as f64;
        Duration::from_secs_f64(left / FASTEST_SHORTAGE).clamp(SHORTEST_PAUSE, LONGEST_PAUSE)
    }
}

/// The shortage now, and the last one, shared with the owner of the server.
#[derive(Debug, Default, Clone)]
struct State {
    now: Option<Shortage>,
    last: Option<Shortage>,
}

/// Controls whether new connections come in: the gate of all shards, and their listeners.
pub(super) struct ListenerControl {
    gate: AdmissionGate,
    backlog: i32,
    /// Held while listeners are shut down or listen again.
    listeners: Mutex<Listeners>,
}

#[derive(Default)]
struct Listeners {
    sockets: Vec<Arc<TcpListener>>,
    /// A later server has them, or this one stops: they do not follow the gate.
    left_alone: bool,
}

impl ListenerControl {
    /// An open gate, without listeners.
    pub fn new(backlog: i32) -> ListenerControl {
        ListenerControl { gate: AdmissionGate::default(), backlog, listeners: Mutex::default() }
    }

    /// The gate.
    pub fn gate(&self) -> &AdmissionGate {
        &self.gate
    }

    /// Adds listeners, which listen.
    pub fn add(&self, sockets: &[Arc<TcpListener>]) {
        self.lock().sockets.extend_from_slice(sockets);
    }

    /// Opens or shuts the gate, and has the listeners follow.
    pub fn set(&self, level: AdmissionState) {
        let listeners = self.lock();
        let before = self.gate.level();
        // A shard must not mistake listeners that are shut down for a lack of memory.
        if level == AdmissionState::NotListening {
            self.gate.set(level);
        }
        if (level == AdmissionState::NotListening) != (before == AdmissionState::NotListening) {
            self.follow(&listeners, level);
        }
        self.gate.set(level);
    }

    /// From now on the listeners do not follow the gate: a later server gets them, or this one stops.
    pub fn leave_alone(&self) {
        self.lock().left_alone = true;
    }

    /// The later server has given up: the listeners follow the gate again.
    pub fn take_back(&self) {
        let mut listeners = self.lock();
        listeners.left_alone = false;
        self.follow(&listeners, self.gate.level());
    }

    fn follow(&self, listeners: &Listeners, level: AdmissionState) {
        if listeners.left_alone {
            return;
        }
        for socket in &listeners.sockets {
            // A listener that the kernel refuses is one port less; the others go on.
            let _ = match level {
                AdmissionState::NotListening => listener::stop_listening(socket),
                AdmissionState::Open | AdmissionState::Refusing => listener::listen_again(socket, self.backlog),
            };
        }
    }

    fn lock(&self) -> MutexGuard<'_, Listeners> {
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The thread that looks; it ends when this is dropped.
pub(super) struct MemoryMonitor {
    watch: Arc<Watch>,
    /// Tells the thread to begin, after a pause.
    thread: Option<(Sender<Duration>, JoinHandle<()>)>,
}

impl MemoryMonitor {
    /// Starts the thread, which waits for `begin`: then it opens and shuts `control`, and tells the owner of it. `None` where
    /// nothing is to be reserved, or no memory can be read.
    pub fn prepare(
        host: Host,
        reserve: Reserve,
        control: Arc<ListenerControl>,
        events: EventSink,
    ) -> Result<Option<MemoryMonitor>> {
        if reserve == Reserve::Bytes(0) || Shortage::nearest(&host, reserve).is_none() {
            return Ok(None);
        }
        let watch = Arc::new(Watch { host, reserve, control, events, state: Mutex::default() });
        let (begins, begun) = channel();
        let theirs = watch.clone();
        let thread = start_thread("c1m-memory", move || theirs.run(&begun))?;
        Ok(Some(MemoryMonitor { watch, thread: Some((begins, thread)) }))
    }

    /// Looks for the first time, before the owner goes on: a server that starts on a full host admits none.
    pub fn begin(&self) {
        let pause = self.watch.look();
        if let Some((begins, _)) = &self.thread {
            // The thread ends only after this is dropped.
            let _ = begins.send(pause);
        }
    }

    /// The limit for which new connections are refused now.
    pub fn shortage(&self) -> Option<Shortage> {
        self.watch.state().now.clone()
    }

    /// The limit for which connections were last refused.
    pub fn last_shortage(&self) -> Option<Shortage> {
        self.watch.state().last.clone()
    }
}

impl Drop for MemoryMonitor {
    fn drop(&mut self) {
        if let Some((begins, thread)) = self.thread.take() {
            drop(begins);
            // It cannot have panicked, and its panic could not be told here.
            let _ = thread.join();
        }
    }
}

/// What looks at memory, and acts upon it.
struct Watch {
    host: Host,
    reserve: Reserve,
    control: Arc<ListenerControl>,
    events: EventSink,
    state: Mutex<State>,
}

impl Watch {
    /// Looks from the first message on, which says when, until its sender is gone.
    fn run(&self, begun: &Receiver<Duration>) {
        let Ok(mut pause) = begun.recv() else { return };
        while begun.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
            pause = self.look();
        }
    }

    /// Opens or shuts the gate and the listeners as the nearest limit wants it. Returns the pause until the next look.
    fn look(&self) -> Duration {
        // While no limit can be read, the gate stays as it is.
        let Some(near) = Shortage::nearest(&self.host, self.reserve) else { return SHORTEST_PAUSE };
        let before = self.control.gate.level();
        let level = near.level(before);
        let pause = near.look_again();
        let (is_open, was_open) = (level == AdmissionState::Open, before == AdmissionState::Open);
        if !is_open || !was_open {
            let mut state = self.state();
            state.now = (!is_open).then_some(near);
            state.last = state.now.clone().or(state.last.take());
        }
        if level != before {
            self.control.set(level);
        }
        if is_open != was_open {
            (self.events)(if is_open { ServerEvent::MemorySuffices } else { ServerEvent::MemoryShort });
        }
        pause
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::{Ipv4Addr, TcpStream};

    /// A control of one listener, and whether that listens.
    pub fn control() -> (ListenerControl, impl Fn() -> bool) {
        let control = ListenerControl::new(16);
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = free.local_addr().unwrap();
        drop(free);
        // The kernel keeps a port that was asked for. One of its own choice it changes when the listener listens again.
        control.add(&[Arc::new(TcpListener::bind(address).unwrap())]);
        (control, move || TcpStream::connect(address).is_ok())
    }

    #[test]
    fn listeners_follow_the_gate() {
        let (control, listens) = control();
        for level in [AdmissionState::Refusing, AdmissionState::NotListening, AdmissionState::Open] {
            control.set(level);
            assert_eq!((control.gate().level(), listens()), (level, level != AdmissionState::NotListening));
        }
    }

    /// Neither a successor's listeners nor those of a server that stops are shut down or listen again.
    #[test]
    fn listeners_that_are_left_alone_stay_as_they_are() {
        for first in [AdmissionState::Open, AdmissionState::NotListening] {
            let (control, listens) = control();
            control.set(first);
            control.leave_alone();
            for level in [AdmissionState::NotListening, AdmissionState::Open, AdmissionState::NotListening] {
                control.set(level);
                assert_eq!((control.gate().level(), listens()), (level, first == AdmissionState::Open));
            }
            // They are this server's again, whatever became of them and of the gate meanwhile.
            control.take_back();
            assert!(!listens());
            control.set(AdmissionState::Open);
            assert!(listens());
        }
    }

    #[test]
    fn a_reserve_is_bytes_or_a_share() {
        assert_eq!(Reserve::Auto.of(4 << 30), (24 << 20) + (4 << 30) / 100);
        assert_eq!(Reserve::Auto.of(40 << 20), 10 << 20);
        assert_eq!(Reserve::Percent(2.5).of(1000), 25);
        assert_eq!(Reserve::Bytes(7).of(1000), 7);
    }

    proptest! {
        /// Once shut it stays shut until there is clearly more, and it never stays open below.
        #[test]
        fn the_gate_does_not_flutter(reserve in 0u64..1_000, haves in proptest::collection::vec(0u64..2_000, 1..50)) {
            let mut level = AdmissionState::Open;
            for have in haves {
                let before = level;
                level = Shortage { wall: String::new(), have, reserve }.level(before);
                prop_assert!(level != AdmissionState::Open || have >= reserve);
                prop_assert!(level == AdmissionState::NotListening || have >= reserve / 2);
                prop_assert!(level >= before || have >= [reserve, reserve + reserve / 4, reserve / 4 * 3][before as usize]);
                prop_assert!(level <= before || have < [reserve, reserve / 2, 0][before as usize]);
            }
        }
    }
}
