//! The machine that the engine runs on: rings, time and the core. The engine's tests have a simulated one, whose time
//! moves only when a test moves it.

use std::os::fd::RawFd;
use std::time::{Duration, Instant};

use crate::clock::Clock;
use crate::error::Result;
use crate::ring::{self, Accepts, Queues, Quirks, Ring, RingOps};
use crate::sys::Doorbell;

/// The machine that the engine runs on. The engine is compiled for one platform, so no call is dispatched at run time.
pub trait Platform: Clone + 'static {
    /// Its rings.
    type Ring: RingOps;

    /// The time now.
    fn now(&self) -> Instant;

    /// A clock for the calling thread that begins now.
    fn clock(&self) -> Clock;

    /// Opens a ring with `slots` descriptors, on the thread that will use it.
    fn open_ring(&self, slots: u32, accepts: Accepts) -> Result<Self::Ring>;

    /// The descriptor of the shard's doorbell.
    fn doorbell(&self) -> RawFd;

    /// Clears the doorbell: it is not readable until it is rung again.
    fn clear_doorbell(&self);

    /// Lets other threads of this core run.
    fn yield_core(&self);

    /// Makes this thread sleep for this time. Nothing wakes it earlier.
    fn nap(&self, time: Duration);
}

/// Linux, through io_uring.
#[derive(Debug, Clone)]
pub struct Linux {
    doorbell: Doorbell,
    quirks: Quirks,
}

impl Linux {
    /// This host's Linux, for a shard that `doorbell` wakes. Fails where the experiments on rings fail.
    pub fn new(doorbell: &Doorbell) -> Result<Linux> {
        Ok(Linux { doorbell: doorbell.clone(), quirks: ring::quirks()? })
    }
}

impl Platform for Linux {
    type Ring = Ring;

    #[inline]
    fn now(&self) -> Instant {
        Instant::now()
    }

    fn clock(&self) -> Clock {
        Clock::begin(Instant::now())
    }

    fn open_ring(&self, slots: u32, accepts: Accepts) -> Result<Ring> {
        Ring::new(slots, Queues::of_shard(self.quirks), self.doorbell.raw(), self.quirks, accepts)
    }

    fn doorbell(&self) -> RawFd {
        self.doorbell.raw()
    }

    fn clear_doorbell(&self) {
        self.doorbell.clear();
    }

    #[inline]
    fn yield_core(&self) {
        std::thread::yield_now();
    }

    fn nap(&self, time: Duration) {
        std::thread::sleep(time);
    }
}
