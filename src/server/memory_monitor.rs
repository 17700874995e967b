//! The memory that a server leaves alone: a thread looks at what is left, and shuts the gate of all shards while it is less
//! than the reserve. The kernel refuses nothing by itself before it kills a process, and then it is the server that it kills.
//!
//! Refusing takes memory too: a connection is in the accept queue, with a socket of its own, until a shard comes to
//! reset it; and before 6.13 the kernel keeps the file of a closed direct descriptor until every request of that ring
//! that is older than the close has ended, parked polls included. With 4,000 connects in flight at a server of 103,000
//! the last 28 MiB of a 512 MiB guest were gone in 20 seconds, and its kernel panicked. So when only half of the
//! reserve is left the listeners are shut down as well; the same guest then kept 18 MB free, and its connections.

use std::net::TcpListener;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
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
const SHORTEST_LOOK: Duration = Duration::from_millis(50);

/// The longest time until the next look.
const LONGEST_LOOK: Duration = Duration::from_secs(2);

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
        Duration::from_secs_f64(left / FASTEST_SHORTAGE).clamp(SHORTEST_LOOK, LONGEST_LOOK)
    }
}

/// The shortage now, and the last one, shared with the owner of the server.
#[derive(Debug, Default, Clone)]
struct State {
    now: Option<Shortage>,
    last: Option<Shortage>,
}

/// What new connections come in by: the gate of all shards, and their listeners.
pub(super) struct ListenerControl {
    pub gate: AdmissionGate,
    pub listeners: Vec<Arc<TcpListener>>,
    pub backlog: i32,
}

impl ListenerControl {
    fn set(&self, level: AdmissionState) {
        let before = self.gate.level();
        // A shard must not mistake listeners that are shut down for a lack of memory.
        if level == AdmissionState::NotListening {
            self.gate.set(level);
        }
        let [stopped, stops] = [before, level].map(|level| level == AdmissionState::NotListening);
        if stops != stopped {
            for listener in &self.listeners {
                // A listener that the kernel refuses is one port less; the others go on.
                let _ = match stops {
                    true => listener::stop_listening(listener),
                    false => listener::listen_again(listener, self.backlog),
                };
            }
        }
        self.gate.set(level);
    }
}

/// The thread that looks; it ends when this is dropped.
pub(super) struct MemoryMonitor {
    state: Arc<Mutex<State>>,
    thread: Option<(Sender<()>, JoinHandle<()>)>,
}

impl MemoryMonitor {
    /// Opens and shuts `control` from now on, and tells the owner of it. `None` where nothing is to be reserved, or no memory
    /// can be read.
    pub fn start(
        host: Host,
        reserve: Reserve,
        control: ListenerControl,
        events: EventSink,
    ) -> Result<Option<MemoryMonitor>> {
        if reserve == Reserve::Bytes(0) {
            return Ok(None);
        }
        let Some(first) = Shortage::nearest(&host, reserve) else { return Ok(None) };
        let state = Arc::<Mutex<State>>::default();
        let (stop, stopped) = channel();
        // Before the owner goes on: a server that starts on a full host admits none.
        let first = settle(first, &control, &state, &events);
        let theirs = state.clone();
        let look = move || {
            let near = || Shortage::nearest(&host, reserve);
            monitor(first, &stopped, near, |near| settle(near, &control, &theirs, &events));
        };
        let thread = start_thread("c1m-memory", look)?;
        Ok(Some(MemoryMonitor { state, thread: Some((stop, thread)) }))
    }

    /// The limit for which new connections are refused now.
    pub fn shortage(&self) -> Option<Shortage> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).now.clone()
    }

    /// The limit for which connections were last refused.
    pub fn last_shortage(&self) -> Option<Shortage> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).last.clone()
    }
}

impl Drop for MemoryMonitor {
    fn drop(&mut self) {
        if let Some((stop, thread)) = self.thread.take() {
            drop(stop);
            // It cannot have panicked, and its panic could not be told here.
            let _ = thread.join();
        }
    }
}

/// Looks until told to stop; `settle` says when to look again.
fn monitor(
    mut pause: Duration,
    stopped: &Receiver<()>,
    look: impl Fn() -> Option<Shortage>,
    settle: impl Fn(Shortage) -> Duration,
) {
    while stopped.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
        // What cannot be read for a moment is as it was.
        pause = look().map_or(SHORTEST_LOOK, &settle);
    }
}

/// Opens or shuts the gate and the listeners as the nearest limit wants it. Returns the pause until the next look.
fn settle(near: Shortage, control: &ListenerControl, state: &Mutex<State>, events: &EventSink) -> Duration {
    let before = control.gate.level();
    let level = near.level(before);
    let pause = near.look_again();
    if level != AdmissionState::Open || before != AdmissionState::Open {
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        state.now = (level != AdmissionState::Open).then_some(near);
        state.last = state.now.clone().or(state.last.take());
    }
    if level != before {
        control.set(level);
    }
    if (level == AdmissionState::Open) != (before == AdmissionState::Open) {
        events(if level == AdmissionState::Open { ServerEvent::MemorySuffices } else { ServerEvent::MemoryShort });
    }
    pause
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

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
