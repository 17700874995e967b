//! Grace periods of RCU: after one has passed, whatever the kernel's network stack was doing when it was asked for is
//! done.
//!
//! The stack handles a received segment, from the look-up of its socket to the queue of that socket, within one
//! read-side section of RCU (`ip_local_deliver_finish`). membarrier(2) with MEMBARRIER_CMD_GLOBAL waits until all
//! sections that have begun are over (`synchronize_rcu`), which takes 10 to 50 ms, and no CPU. A thread of its own does
//! that, so that no shard waits.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// What stands in for a grace period where the kernel has no membarrier: before Linux 4.3, and with nohz_full. A segment
/// takes microseconds through the stack.
const INSTEAD: Duration = Duration::from_millis(100);

/// Grace periods for all shards of this process.
#[derive(Debug)]
pub struct GracePeriods {
    shared: Arc<Shared>,
    helper: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    wanted: Condvar,
    /// The last epoch that has passed.
    passed: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    /// The last epoch whose grace period has begun.
    begun: u64,
    /// The last epoch that was asked for: `begun`, or the next.
    wanted: u64,
    /// The helper is to end.
    ending: bool,
}

impl GracePeriods {
    /// Starts the helper thread. Fails with the error of the thread's start.
    pub fn new() -> io::Result<GracePeriods> {
        let shared = Arc::new(Shared::default());
        let theirs = shared.clone();
        let helper = std::thread::Builder::new().name("c1m-grace".to_owned()).spawn(move || theirs.help())?;
        Ok(GracePeriods { shared, helper: Some(helper) })
    }

    /// Asks for a grace period that begins from now on. Returns its epoch, for `passed`. Requests that come while one
    /// is under way share the next.
    pub fn request(&self) -> u64 {
        let mut state = self.shared.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.wanted == state.begun {
            state.wanted += 1;
            self.shared.wanted.notify_one();
        }
        state.wanted
    }

    /// Whether the grace period of an epoch is over.
    pub fn passed(&self, epoch: u64) -> bool {
        self.shared.passed.load(Ordering::Acquire) >= epoch
    }
}

impl Drop for GracePeriods {
    /// Ends the helper, which takes as long as the grace period that is under way.
    fn drop(&mut self) {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner).ending = true;
        self.shared.wanted.notify_one();
        if let Some(helper) = self.helper.take() {
            let _ = helper.join();
        }
    }
}

impl Shared {
    fn help(&self) {
        loop {
            let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            let idle = |state: &mut State| state.wanted == state.begun && !state.ending;
            let mut state = self.wanted.wait_while(state, idle).unwrap_or_else(PoisonError::into_inner);
            if state.ending {
                return;
            }
            state.begun = state.wanted;
            let epoch = state.begun;
            drop(state);
            wait_for_grace();
            self.passed.store(epoch, Ordering::Release);
        }
    }
}

fn wait_for_grace() {
    let (command, flags, cpu) = (libc::MEMBARRIER_CMD_GLOBAL, 0, 0);
    // SAFETY: the kernel takes three numbers and no pointer.
    if unsafe { libc::syscall(libc::SYS_membarrier, command, flags, cpu) } != 0 {
        std::thread::sleep(INSTEAD);
    }
}
