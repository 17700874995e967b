//! The memory that a server leaves alone: a thread looks at what is left, and shuts the gate of
//! all shards while it is less than the reserve. The kernel refuses nothing by itself before it
//! kills a process, and then it is the server that it kills.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::Notice;
use crate::error::{Error, Result};
use crate::host::{Host, MemoryLeft};
use crate::net::Gate;
use crate::plan::Reserve;

/// How often to look while memory is near the reserve, and while it is far: even at 100,000
/// accepts a second the other `FAR` reserves last longer than that.
const LOOK: Duration = Duration::from_millis(50);
const LOOK_FAR: Duration = Duration::from_millis(500);
const FAR: u64 = 16;

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

    /// Whether the gate is to be shut now, if it was `shut` before: below the reserve, and then
    /// until a quarter more than it is left, so that a connection that goes does not open it.
    fn shuts(&self, shut: bool) -> bool {
        let until = if shut { self.reserve.saturating_add(self.reserve / 4) } else { self.reserve };
        self.have < until
    }

    fn look_again(&self) -> Duration {
        if self.have / FAR > self.reserve { LOOK_FAR } else { LOOK }
    }
}

/// The shortage now, and the last one, shared with the owner of the server.
#[derive(Debug, Default, Clone)]
struct State {
    now: Option<Shortage>,
    last: Option<Shortage>,
}

/// The thread that looks; it ends when this is dropped.
pub(super) struct Watch {
    state: Arc<Mutex<State>>,
    thread: Option<(Sender<()>, JoinHandle<()>)>,
}

impl Watch {
    /// Watches over `gate`, and tells the owner whenever it is shut or opened.
    pub fn start(host: Host, reserve: Reserve, gate: Gate, notices: Sender<Notice>) -> Result<Watch> {
        let state = Arc::<Mutex<State>>::default();
        let Some(first) = Shortage::nearest(&host, reserve).filter(|_| reserve != Reserve::Bytes(0)) else {
            return Ok(Watch { state, thread: None });
        };
        let (stop, stopped) = channel();
        let theirs = state.clone();
        // Before any connection comes: a server that starts on a full host admits none.
        let first = settle(first, &gate, &state, &notices);
        let look = move || {
            watch(first, &stopped, || Shortage::nearest(&host, reserve), |near| settle(near, &gate, &theirs, &notices))
        };
        let thread = std::thread::Builder::new().name("c1m-memory".to_owned()).spawn(look).map_err(|error| {
            Error::host(
                format!("thread c1m-memory: {error}"),
                "no thread can be started",
                "raise pids.max or ulimit -u",
            )
        })?;
        Ok(Watch { state, thread: Some((stop, thread)) })
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

impl Drop for Watch {
    fn drop(&mut self) {
        if let Some((stop, thread)) = self.thread.take() {
            drop(stop);
            // It cannot have panicked, and there would be nobody to tell.
            let _ = thread.join();
        }
    }
}

/// Looks until told to stop; `settle` says when to look again.
fn watch(
    mut pause: Duration,
    stopped: &Receiver<()>,
    look: impl Fn() -> Option<Shortage>,
    settle: impl Fn(Shortage) -> Duration,
) {
    while stopped.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
        // What cannot be read for a moment is as it was.
        pause = look().map_or(LOOK, &settle);
    }
}

/// Shuts or opens the gate as the nearest limit wants it; the pause until the next look.
fn settle(near: Shortage, gate: &Gate, state: &Mutex<State>, notices: &Sender<Notice>) -> Duration {
    let shut = near.shuts(gate.is_shut());
    let changed = shut != gate.is_shut();
    let pause = near.look_again();
    if shut || changed {
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        state.now = shut.then_some(near);
        state.last = state.now.clone().or(state.last.take());
    }
    gate.set(shut);
    if changed {
        // Nobody listens any more when the owner has gone.
        let _ = notices.send(Notice::Memory);
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
            let mut shut = false;
            for have in haves {
                let before = shut;
                shut = Shortage { wall: String::new(), have, reserve }.shuts(shut);
                prop_assert!(shut || have >= reserve);
                prop_assert!(!before || shut || have >= reserve + reserve / 4);
                prop_assert!(!shut || have < reserve + reserve / 4);
            }
        }
    }
}
