//! How a shard sleeps when it has nothing to do: in its first ring for a moment, and then in the executor. In a storm of
//! resets it naps instead.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use futures_lite::future;

use super::executor::{self, DoorbellFile};
use crate::error::{Error, Result};
use crate::sys::Doorbell;

/// The longest sleep in the first ring; a longer sleep goes on in the executor. The executor's sleep costs the system
/// calls of two more rings and a membarrier(2), which interrupts this process's other cores (`heavy` in glommio's
/// sys/uring.rs). With 1 ms here, a message every 1.5 ms cost two wake-ups; and a timer that is due before the next
/// clock tick must be programmed and taken back, which cost a virtual machine 15 us a message.
const LONGEST_IN_RING: Duration = Duration::from_millis(100);

/// The length of a nap while other connections have messages.
const NAP: Duration = Duration::from_micros(150);

/// The length of a nap while no connection has messages.
const NAP_IN_SILENCE: Duration = Duration::from_micros(450);

/// How long a sleep that may last for `left` is in the first ring, after one of `last`. An idle shard wakes a few times a
/// second for what is due, and would wake twice as often from sleeps in two parts.
pub(super) fn time_in_ring(left: Duration, last: Duration) -> Duration {
    let is_long_again = last >= LONGEST_IN_RING && left > LONGEST_IN_RING;
    if is_long_again { Duration::ZERO } else { left.min(LONGEST_IN_RING) }
}

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

/// Sleeps in the executor, in which a task reads the doorbell meanwhile.
///
/// The task reads only during such a sleep. In a sleep in the first ring it would compete with the poll there: the kernel
/// gives the number of rings to the read, and a poll that comes later, or looks again because of a second ring, finds none
/// and waits on.
pub(super) struct DoorbellSleeper {
    doorbell: Doorbell,
    file: DoorbellFile,
    heard: Rc<Heard>,
}

/// What the task has heard.
#[derive(Default)]
struct Heard {
    /// The task is reading the doorbell.
    reading: Cell<bool>,
    /// The doorbell was rung since `was_woken` was last asked.
    rung: Cell<bool>,
    /// The doorbell cannot be read any more.
    broken: Cell<bool>,
    waiting: RefCell<Option<Waker>>,
}

impl DoorbellSleeper {
    /// Sleeps on this thread until this doorbell is rung.
    pub fn new(doorbell: &Doorbell) -> Result<DoorbellSleeper> {
        Ok(DoorbellSleeper { doorbell: doorbell.clone(), file: DoorbellFile::of(doorbell)?, heard: Rc::default() })
    }

    /// Gives back what the executor has of the doorbell.
    pub async fn close(self) {
        if self.heard.reading.get() {
            self.doorbell.ring();
            self.rung().await;
        }
        self.file.close().await;
    }

    /// Has a task read the doorbell, unless one does.
    fn read(&self) {
        if self.heard.reading.replace(true) {
            return;
        }
        let heard = self.heard.clone();
        self.file.read(move |rang| {
            heard.reading.set(false);
            // If nothing can wake the shard any more, it must not go to sleep.
            let news = if rang { &heard.rung } else { &heard.broken };
            news.set(true);
            if let Some(waker) = heard.waiting.take() {
                waker.wake();
            }
        });
    }

    /// The doorbell was rung, or can be read no more.
    async fn rung(&self) {
        poll_fn(|context| {
            if self.was_woken() || self.heard.broken.get() {
                return Poll::Ready(());
            }
            *self.heard.waiting.borrow_mut() = Some(context.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

impl Sleeper for DoorbellSleeper {
    fn was_woken(&self) -> bool {
        self.heard.rung.replace(false)
    }

    async fn sleep(&self, until: Option<Instant>) -> Result<()> {
        self.read();
        match until {
            None => self.rung().await,
            Some(until) => {
                let pause = until.saturating_duration_since(Instant::now());
                future::or(self.rung(), executor::pause(pause)).await;
            }
        }
        if self.heard.broken.get() {
            return Err(Error::bug("the doorbell of a shard cannot be read any more"));
        }
        if self.heard.reading.get() {
            // This ends the read, which would end the next sleep too soon.
            self.doorbell.ring();
            self.rung().await;
        }
        Ok(())
    }

    async fn yield_to_tasks(&self) {
        future::yield_now().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::Host;

    /// Runs this with a sleeper on a thread of its own.
    fn sleeping<T: Send + 'static>(
        run: impl AsyncFnOnce(&DoorbellSleeper, Doorbell) -> Result<T> + Send + 'static,
    ) -> T {
        let doorbell = Doorbell::new().unwrap();
        let core = Host::here().cores_allowed()[0];
        let thread = executor::start("c1m-sleeper", core, move || async move {
            let sleeper = DoorbellSleeper::new(&doorbell)?;
            let done = run(&sleeper, doorbell).await;
            sleeper.close().await;
            done
        });
        thread.unwrap().join().unwrap()
    }

    /// A sleep that its time has ended leaves nothing behind that ends the next one.
    #[test]
    fn sleeps_last_until_their_time() {
        let times = sleeping(async |sleeper, _| {
            let mut times = Vec::new();
            for _ in 0..3 {
                let began = Instant::now();
                sleeper.sleep(Some(began + Duration::from_millis(5))).await?;
                sleeper.was_woken();
                times.push(began.elapsed());
            }
            Ok(times)
        });
        assert!(times.iter().all(|time| *time >= Duration::from_millis(5)), "{times:?}");
    }

    /// What is rung behind a sleep in the executor is left for the first ring, however that sleep ended.
    #[test]
    fn the_executor_takes_no_ring_of_the_doorbell_but_in_its_sleeps() {
        let left = sleeping(async |sleeper, doorbell| {
            let mut left = Vec::new();
            for rings in [false, true, false, false, true] {
                // As the shard does before it rests.
                sleeper.was_woken();
                if rings {
                    doorbell.ring();
                }
                sleeper.sleep(Some(Instant::now() + Duration::from_millis(2))).await?;
                for yields in [false, true] {
                    if yields {
                        sleeper.yield_to_tasks().await;
                    }
                    doorbell.clear();
                    doorbell.ring();
                    left.push(doorbell.clear());
                }
            }
            Ok(left)
        });
        assert_eq!(left, [true; 10]);
    }
}
