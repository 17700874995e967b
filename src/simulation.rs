//! A simulated machine: its time, its kernel's sockets, its rings and the peers at the other end. The tests of the
//! engine run on it without waiting for anything, and the same seed always gives the same run.
//!
//! Time moves only when the shard does something, by the cost of that, or when it sleeps. The acts of the peers are
//! scheduled beforehand, each at its time.

mod catcher;
mod kernel;
mod ring;
mod tcp;

use std::cell::RefCell;
use std::env;
use std::os::fd::RawFd;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::clock::{Clock, WaitAccount};
use crate::connections::Platform;
use crate::error::Result;
use crate::ring::Accepts;
pub use catcher::{Catcher, Faults, SimHost};
pub use kernel::{Ending, Kernel, Socket};
pub use ring::SimRing;
pub use tcp::Network;

/// Choices that follow from a seed (SplitMix64, Steele, Lea and Flood 2014).
pub struct Chance(pub u64);

impl Chance {
    /// The next number.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mixed(self.0)
    }

    /// A number below `most`.
    pub fn below(&mut self, most: usize) -> usize {
        (self.next() % most as u64) as usize
    }

    /// True with a probability of one in `many`.
    pub fn one_in(&mut self, many: usize) -> bool {
        self.below(many) == 0
    }

    /// A time up to `most`.
    pub fn time(&mut self, most: Duration) -> Duration {
        Duration::from_nanos(self.next() % (most.as_nanos() as u64 + 1))
    }
}

/// A number that looks random, and is always the same for the same input.
pub fn mixed(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Runs a test with some seeds, or with as many as `C1M_SIM_SEEDS` says. The seed is printed if the test fails, and
/// `C1M_SIM_SEED=seed` then runs it with that seed alone.
pub fn with_seeds(count: u64, test: impl Fn(u64)) {
    /// Prints the seed if the test panics.
    struct Printed(u64);
    impl Drop for Printed {
        fn drop(&mut self) {
            if std::thread::panicking() {
                eprintln!("the seed was {0}: C1M_SIM_SEED={0} repeats this run", self.0);
            }
        }
    }
    let given = |name: &str| env::var(name).ok().map(|number| number.parse::<u64>().expect("a number"));
    let seeds = given("C1M_SIM_SEED").map_or(0..given("C1M_SIM_SEEDS").unwrap_or(count), |seed| seed..seed + 1);
    for seed in seeds {
        let _printed = Printed(seed);
        test(seed);
    }
}

/// The simulated machine. Its clones are the same machine.
#[derive(Clone)]
pub struct Machine {
    kernel: Rc<RefCell<Kernel>>,
    waited: Arc<Waited>,
}

/// The kernel's account of the time in which the shard's thread waited for a processor.
#[derive(Debug, Default)]
struct Waited(AtomicU64);

impl WaitAccount for Waited {
    fn waited(&self) -> Option<Duration> {
        Some(Duration::from_nanos(self.0.load(Ordering::Relaxed)))
    }
}

impl Machine {
    /// A machine whose chances follow from `seed`.
    pub fn new(seed: u64) -> Machine {
        Machine { kernel: Rc::new(RefCell::new(Kernel::new(seed))), waited: Arc::default() }
    }

    /// Has connections be able to sleep. From then on TCP is simulated between the peers and the shard.
    pub fn catch(&self, catcher: Catcher) -> SimHost {
        self.kernel(|kernel| kernel.catcher = Some(Box::new(catcher)));
        SimHost::new(&self.kernel)
    }

    /// Reads or changes the simulated kernel.
    pub fn kernel<T>(&self, act: impl FnOnce(&mut Kernel) -> T) -> T {
        act(&mut self.kernel.borrow_mut())
    }

    /// Schedules an event at a time that is counted from the start.
    pub fn at(&self, time: Duration, act: impl FnOnce(&mut Kernel) + 'static) {
        self.kernel(|kernel| kernel.at(time, act));
    }

    /// Suspends the process for a while at a time: it is stopped, or, if it `waits`, other threads have the processor.
    pub fn stand_still(&self, time: Duration, length: Duration, waits: bool) {
        let waited = self.waited.clone();
        self.at(time, move |kernel| {
            if waits {
                waited.0.fetch_add(length.as_nanos() as u64, Ordering::Relaxed);
            }
            kernel.pass(length);
        });
    }

    /// The time since the start.
    pub fn elapsed(&self) -> Duration {
        self.kernel(|kernel| kernel.elapsed())
    }

    /// When the host's clock will show a time that is counted from the start, if it does not jump until then.
    pub fn instant(&self, time: Duration) -> Instant {
        self.kernel(|kernel| kernel.on_host_clock(kernel.start() + time))
    }

    /// Sleeps until the shard's doorbell is rung, or until an instant; without one, and with nothing that will ever
    /// ring it, the test has failed.
    pub fn sleep(&self, until: Option<Instant>) {
        self.kernel(|kernel| kernel.sleep(until));
    }
}

impl Platform for Machine {
    type Ring = SimRing;

    fn now(&self) -> Instant {
        self.kernel(Kernel::read_clock)
    }

    fn clock(&self) -> Clock {
        Clock::with_account(self.now(), self.waited.clone())
    }

    fn open_ring(&self, slots: u32, accepts: Accepts) -> Result<SimRing> {
        Ok(SimRing::new(self.kernel.clone(), slots, accepts))
    }

    fn doorbell(&self) -> RawFd {
        // No descriptor stands for it here.
        -1
    }

    fn clear_doorbell(&self) {
        self.kernel(Kernel::clear_doorbell);
    }

    fn yield_core(&self) {
        self.kernel(Kernel::yield_core);
    }

    fn nap(&self, time: Duration) {
        self.kernel(|kernel| kernel.pass(time));
    }
}
