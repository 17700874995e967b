//! Looking for work a little longer before sleeping, where that pays. A wake-up costs about 18 us (an echo takes 46 us
//! with one at each end, 10 us without), so a pause that is shorter than `LONGEST_SPIN` is better looked through. When
//! the peer shares our core nothing can come while we look: each look in vain halves the next, down to none.

use std::time::{Duration, Instant};

use crate::connections::Platform;

/// The longest look for work before sleeping; pauses up to a few wake-ups' cost are worth one.
const LONGEST_SPIN: Duration = Duration::from_micros(50);

/// A look shorter than this is none.
const SHORTEST_SPIN: Duration = Duration::from_micros(2);

/// Short sleeps in a row after which looking is tried again.
const SHORT_SLEEPS: u32 = 8;

/// How long a shard looks for work before it sleeps.
#[derive(Debug, Default)]
pub(super) struct Spin {
    /// How long it looks now; zero is not at all.
    look: Duration,
    /// Short sleeps in a row.
    short: u32,
}

impl Spin {
    /// Looks for work for as long as seems worth it, and not after `due`. Tells whether work came.
    pub fn until(&mut self, platform: &impl Platform, due: Option<Instant>, mut work: impl FnMut() -> bool) -> bool {
        if self.look.is_zero() {
            return false;
        }
        let end = platform.now() + self.look;
        loop {
            let now = platform.now();
            if due.is_some_and(|due| due <= now) {
                return false;
            }
            if now >= end {
                break;
            }
            if work() {
                self.look = (self.look * 2).min(LONGEST_SPIN);
                return true;
            }
            std::hint::spin_loop();
        }
        self.look /= 2;
        if self.look < SHORTEST_SPIN {
            self.look = Duration::ZERO;
        }
        false
    }

    /// Learns from a sleep: several short ones in a row should have been looks.
    pub fn learn(&mut self, slept: Duration) {
        self.short = if slept < LONGEST_SPIN { self.short + 1 } else { 0 };
        if self.look.is_zero() && self.short >= SHORT_SLEEPS {
            (self.look, self.short) = (LONGEST_SPIN, 0);
        }
    }
}
