//! How a shard sleeps when it has nothing to do: in its first ring for a moment, and then in the executor. In a storm of
//! resets it naps instead.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use futures_lite::future;

use super::executor;
use crate::error::{Error, Result};
use crate::sys::Doorbell;

/// The longest sleep in the first ring; a longer sleep goes on in the executor. The executor's sleep costs the system
/// calls of two more rings and a membarrier(2), which interrupts this process's other cores (`heavy` in glommio's
/// sys/uring.rs). With 1 ms here, a message every 1.5 ms cost two wake-ups; and a timer that is due before the next
/// clock tick must be programmed and taken back, which cost a virtual machine 15 us a message.
pub(super) const LONGEST_DOZE: Duration = Duration::from_millis(100);

/// The length of a nap while other connections have messages.
const NAP: Duration = Duration::from_micros(150);

/// The length of a nap while no connection has messages.
const NAP_IN_SILENCE: Duration = Duration::from_micros(450);

/// How long to nap. In a storm each reset would wake the shard, and a wake-up by the doorbell costs as much as closing
/// three connections. So the shard sleeps for a moment without listening to the doorbell.
pub(super) fn nap(traffic: bool) -> Duration {
    if traffic { NAP } else { NAP_IN_SILENCE }
}

/// How the loop of a shard waits in the executor.
pub(super) trait Sleeper {
    /// Whether another thread has woken the shard since this was last asked.
    fn was_woken(&self) -> bool;

    /// Sleeps until the doorbell is rung, or until an instant. Fails if nothing can wake the shard any more.
    fn sleep(&self, until: Option<Instant>) -> impl Future<Output = Result<()>>;

    /// Lets the other tasks of the thread run.
    fn yield_to_tasks(&self) -> impl Future<Output = ()>;
}

/// Sleeps in the executor, in which a task reads the doorbell.
pub(super) struct DoorbellSleeper {
    rung: Cell<bool>,
    waiting: RefCell<Option<Waker>>,
    broken: Cell<bool>,
}

impl DoorbellSleeper {
    /// Has a task of this thread listen to the doorbell.
    pub fn listen(doorbell: &Doorbell) -> Result<Rc<DoorbellSleeper>> {
        let sleeper =
            Rc::new(DoorbellSleeper { rung: Cell::new(false), waiting: RefCell::new(None), broken: Cell::new(false) });
        let ours = sleeper.clone();
        executor::watch(doorbell, move |rang| {
            // If nothing can wake the shard any more, it must not go to sleep.
            if rang {
                ours.rung.set(true)
            } else {
                ours.broken.set(true)
            }
            if let Some(waker) = ours.waiting.take() {
                waker.wake();
            }
        })?;
        Ok(sleeper)
    }

    /// The doorbell was rung, or can be read no more.
    async fn rung(&self) {
        poll_fn(|context| {
            if self.was_woken() || self.broken.get() {
                return Poll::Ready(());
            }
            *self.waiting.borrow_mut() = Some(context.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

impl Sleeper for DoorbellSleeper {
    fn was_woken(&self) -> bool {
        self.rung.replace(false)
    }

    async fn sleep(&self, until: Option<Instant>) -> Result<()> {
        match until {
            None => self.rung().await,
            Some(until) => {
                let pause = until.saturating_duration_since(Instant::now());
                future::or(self.rung(), executor::pause(pause)).await;
            }
        }
        if self.broken.get() {
            return Err(Error::bug("the doorbell of a shard cannot be read any more"));
        }
        Ok(())
    }

    async fn yield_to_tasks(&self) {
        future::yield_now().await;
    }
}
