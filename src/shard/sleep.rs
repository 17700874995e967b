//! How a shard waits when it has nothing to do: it looks for work a moment longer, then sleeps on its
//! doorbell by itself, and then in glommio. In a storm of resets it naps.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker as TaskWaker};
use std::thread;
use std::time::{Duration, Instant};

use futures_lite::future;
use glommio::timer::Timer;

use crate::error::Result;
use crate::sys::Doorbell;

/// The longest look for work before sleeping; pauses up to a few wake-ups' cost are worth one.
const LONGEST_SPIN: Duration = Duration::from_micros(50);

/// The longest sleep on the doorbell itself. Only then does glommio wait for it, whose wait costs calls of two
/// rings more and a membarrier(2), which interrupts this process's other cores (`heavy` in its sys/uring.rs).
const LONGEST_DOZE: Duration = Duration::from_millis(1);

/// Short sleeps in a row after which looking is tried (again).
const SHORT_SLEEPS: u32 = 8;

/// A look shorter than this is none.
const SHORTEST_SPIN: Duration = Duration::from_micros(2);

/// A nap while others talk, and while nobody does.
const NAP: Duration = Duration::from_micros(150);
const NAP_IN_SILENCE: Duration = Duration::from_micros(450);

/// Sleeps for a moment, whatever comes. Each of those that a storm resets would wake us by itself, and a wake-up
/// by the doorbell costs as much as closing three of them.
pub(super) fn nap(talking: bool) {
    thread::sleep(if talking { NAP } else { NAP_IN_SILENCE });
}

/// Looking for work a little longer before sleeping, where that pays: a wake-up costs about 18 us
/// (an echo takes 46 us with one at each end, 10 without), so pauses shorter than `LONGEST_SPIN` are better
/// looked through. When the peer shares our core nothing can come while we look; each look in vain
/// halves the next, down to none.
#[derive(Default)]
pub(super) struct Spin {
    /// How long to look.
    look: Duration,
    /// Short sleeps in a row.
    short: u32,
}

impl Spin {
    /// Looks for at most as long as seems worth it, and not after `due`. Tells whether work came.
    pub(super) fn until(&mut self, due: Option<Instant>, mut work: impl FnMut() -> bool) -> bool {
        if self.look.is_zero() {
            return false;
        }
        let end = Instant::now() + self.look;
        loop {
            let now = Instant::now();
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
    pub(super) fn learn(&mut self, slept: Duration) {
        self.short = if slept < LONGEST_SPIN { self.short + 1 } else { 0 };
        if self.look.is_zero() && self.short >= SHORT_SLEEPS {
            (self.look, self.short) = (LONGEST_SPIN, 0);
        }
    }
}

/// How a sleep was spent.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Slept {
    /// On the doorbell itself: no task of glommio's ran.
    Alone,
    /// The longer part in glommio.
    InGlommio,
}

/// The shard's end of a doorbell: a task reads the eventfd and wakes the pump.
pub(super) struct Waker {
    doorbell: Doorbell,
    rung: Cell<bool>,
    waiting: RefCell<Option<TaskWaker>>,
    broken: Cell<bool>,
}

impl Waker {
    pub(super) fn listen(doorbell: &Doorbell) -> Result<Rc<Waker>> {
        let file = doorbell.listen()?;
        let waker = Rc::new(Waker {
            doorbell: doorbell.clone(),
            rung: Cell::new(false),
            waiting: RefCell::new(None),
            broken: Cell::new(false),
        });
        let ours = waker.clone();
        glommio::spawn_local(async move {
            while file.read_at(0, 8).await.is_ok() {
                ours.rung.set(true);
                ours.wake();
            }
            // Whoever cannot be woken any more must not go to sleep.
            ours.broken.set(true);
            ours.wake();
        })
        .detach();
        Ok(waker)
    }

    fn wake(&self) {
        if let Some(waker) = self.waiting.take() {
            waker.wake();
        }
    }

    /// Whether it cannot be heard any more.
    pub(super) fn is_broken(&self) -> bool {
        self.broken.get()
    }

    /// Whether it rang since it was last asked.
    pub(super) fn take(&self) -> bool {
        self.rung.replace(false)
    }

    /// Sleeps until it rings, or until an instant: for `LONGEST_DOZE` on the doorbell itself, then in glommio.
    pub(super) async fn wait(&self, until: Option<Instant>) -> Slept {
        let left = || until.map(|until| until.saturating_duration_since(Instant::now()));
        let doze = left().map_or(LONGEST_DOZE, |left| left.min(LONGEST_DOZE));
        if self.doorbell.rings_within(doze) {
            return Slept::Alone;
        }
        let rung = poll_fn(|context| {
            if self.take() || self.broken.get() {
                return Poll::Ready(());
            }
            *self.waiting.borrow_mut() = Some(context.waker().clone());
            Poll::Pending
        });
        match left() {
            None => rung.await,
            Some(Duration::ZERO) => return Slept::Alone,
            Some(pause) => {
                future::or(rung, async {
                    Timer::new(pause).await;
                })
                .await;
            }
        }
        Slept::InGlommio
    }
}
