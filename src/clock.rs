//! A clock that counts only the time in which its owner, such as a shard, looked for events.
//!
//! A process may be suspended: it is stopped (SIGSTOP, Ctrl-Z, a frozen cgroup), its whole machine is stopped, or other
//! processes have the processor. What comes meanwhile waits unread, so that time says nothing about the peers.
//! Deadlines of peers, such as the wait for a reply or the silence of a connection, are therefore measured on this
//! clock. It goes on only with a look of its owner, and by `LONGEST_LOOK` at most beyond a sleep that was meant. So
//! after a gap the owner first reads what has come, and then judges.
//!
//! Latencies are measured on the clock of the host: a stall is charged to everything that it delayed.
//!
//! Schedules and lengths of phases (`Start`) are on the clock of the host too. A thread that waited for a processor
//! catches up with them: otherwise the latencies would leave out what its lateness delayed. A process that was suspended
//! must not catch up, as it would do at once all that was due meanwhile: its schedules go on where they were. The
//! kernel's account of the time in which the thread waited for a processor tells the two apart.

use std::fmt;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Time that counts at most between two looks. What is longer is a gap, in which the process was stopped or others had
/// its core, and no deadline comes nearer in it. It is a fifth of the shortest deadline, 100 ms, which then needs five
/// looks at least.
pub const LONGEST_LOOK: Duration = Duration::from_millis(20);

/// A thread that does nothing for this long, and neither sleeps as it meant nor waits for a processor, was suspended
/// with its process. No pass of a shard takes a tenth of that.
const SHORTEST_SUSPENSION: Duration = Duration::from_secs(1);

/// An instant on a `Clock`: the time that it had counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Mark(Duration);

impl Mark {
    /// The instant a while later.
    pub fn after(self, time: Duration) -> Mark {
        Mark(self.0.saturating_add(time))
    }

    /// The time from an earlier instant to this one; none if that is later.
    pub fn since(self, earlier: Mark) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    /// The time since the clock began.
    pub fn counted(self) -> Duration {
        self.0
    }
}

/// When something began that lasts a given time, or from which a schedule counts. `Clock::begun` moves it by the time
/// in which the process was suspended since.
#[derive(Debug, Clone, Copy)]
pub struct Start {
    at: Instant,
    /// How long the process had been suspended before.
    suspended: Duration,
}

/// How often a process was suspended, and how long in all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Suspended {
    /// How often.
    pub times: u64,
    /// How long in all.
    pub time: Duration,
}

/// A clock that counts only the time in which its owner ran: time while the owner was suspended does not count.
#[derive(Debug, Clone)]
pub struct Clock {
    looked: Instant,
    counted: Mark,
    /// Until when the owner meant to sleep after its last look; `None` if it sleeps until it is woken.
    asleep: Option<Instant>,
    /// When it last checked for a suspension.
    noted: Instant,
    suspended: Suspended,
    waits: Waits,
}

impl Clock {
    /// A clock that begins with a look, for the thread that asks.
    pub fn begin(now: Instant) -> Clock {
        // Only this thread's own account has the time that this thread waited.
        let account = File::open("/proc/thread-self/schedstat").ok();
        Clock::with(now, account.map(|account| Arc::new(account) as Arc<dyn WaitAccount>))
    }

    /// A clock that begins with a look, and asks this account for the time in which its owner waited for a processor.
    pub fn with_account(now: Instant, account: Arc<dyn WaitAccount>) -> Clock {
        Clock::with(now, Some(account))
    }

    fn with(now: Instant, account: Option<Arc<dyn WaitAccount>>) -> Clock {
        Clock {
            looked: now,
            counted: Mark::default(),
            asleep: Some(now),
            noted: now,
            suspended: Suspended::default(),
            waits: Waits::begin(now, account),
        }
    }

    /// The owner looks: counts the time since its last look, or what may count of it.
    pub fn look(&mut self, now: Instant) {
        self.note(now);
        let passed = now.saturating_duration_since(self.looked);
        let counts = match self.asleep {
            Some(until) => passed.min(until.saturating_duration_since(self.looked).saturating_add(LONGEST_LOOK)),
            None => passed,
        };
        (self.counted, self.looked, self.asleep) = (self.counted.after(counts), now, Some(now));
    }

    /// Checks for a suspension since the last check, so that schedules can be put off by it. This counts no time.
    pub fn note(&mut self, now: Instant) {
        let gap = self.gap(now);
        if gap >= SHORTEST_SUSPENSION {
            // If the kernel keeps no account, all of it may have been waiting for a processor. Schedules catch up with
            // such waits.
            let waited = self.waits.since(now).unwrap_or(gap);
            self.resume(gap.saturating_sub(waited));
        } else {
            self.waits.refresh(now);
        }
    }

    /// The time since the last check for a suspension, without the intended sleep.
    fn gap(&mut self, now: Instant) -> Duration {
        let from = std::mem::replace(&mut self.noted, now);
        let until = self.asleep.map_or(now, |until| until.max(from));
        now.saturating_duration_since(until)
    }

    /// Notes a suspension: the thread did not run for this time, and did not wait for a processor.
    fn resume(&mut self, after: Duration) {
        if after >= SHORTEST_SUSPENSION {
            self.suspended = Suspended { times: self.suspended.times + 1, time: self.suspended.time + after };
        }
    }

    /// How often the process was suspended since the clock began, and how long.
    pub fn suspended(&self) -> Suspended {
        self.suspended
    }

    /// The start of something, from which elapsed time is measured.
    pub fn start(&self, now: Instant) -> Start {
        Start { at: now, suspended: self.suspended.time }
    }

    /// When something would have begun that lasted as long as it does, had the process not been suspended meanwhile.
    pub fn begun(&self, start: Start) -> Instant {
        start.at + self.suspended.time.saturating_sub(start.suspended)
    }

    /// The owner will sleep until an instant, or until something happens: all that time counts. To sleep until a
    /// `Mark`, give the instant that `due` returns for it.
    pub fn sleep(&mut self, until: Option<Instant>) {
        self.asleep = until;
    }

    /// The owner waits, `most` at most: only what it waits longer may be a suspension.
    pub fn wait<T>(&mut self, most: Duration, wait: impl FnOnce() -> T) -> T {
        let now = Instant::now();
        self.look(now);
        self.sleep(Some(now + most));
        let come = wait();
        self.look(Instant::now());
        come
    }

    /// The time that was counted up to the last look.
    pub fn now(&self) -> Mark {
        self.counted
    }

    /// What this clock showed at an instant before the last look, if all time since has counted. A later instant has the
    /// mark of that look.
    pub fn mark(&self, instant: Instant) -> Mark {
        Mark(self.counted.0.saturating_sub(self.looked.saturating_duration_since(instant)))
    }

    /// When this clock will show a mark, on the host's clock, if the owner does not stand still until then.
    pub fn due(&self, mark: Mark) -> Instant {
        self.looked + mark.since(self.counted)
    }
}

/// An account of the time in which a thread waited for a processor.
pub trait WaitAccount: fmt::Debug + Send + Sync {
    /// The time that it waited since it began; `None` if that cannot be told.
    fn waited(&self) -> Option<Duration>;
}

/// The kernel's account, the file `schedstat` of a thread in /proc: its second number, in nanoseconds.
impl WaitAccount for File {
    fn waited(&self) -> Option<Duration> {
        let mut text = [0; 80];
        let length = self.read_at(&mut text, 0).ok()?;
        let text = std::str::from_utf8(text.get(..length)?).ok()?;
        text.split_whitespace().nth(1)?.parse().ok().map(Duration::from_nanos)
    }
}

/// What a clock has read from such an account.
#[derive(Debug, Clone)]
struct Waits {
    /// `None` where the kernel keeps none.
    account: Option<Arc<dyn WaitAccount>>,
    waited: Option<Duration>,
    at: Instant,
}

/// How often it is read at most. What the thread waited in so long before a suspension is taken for a part of it.
const READ_AGAIN: Duration = Duration::from_millis(100);

impl Waits {
    fn begin(now: Instant, account: Option<Arc<dyn WaitAccount>>) -> Waits {
        let waited = account.as_deref().and_then(WaitAccount::waited);
        Waits { account, waited, at: now }
    }

    fn refresh(&mut self, now: Instant) {
        if now.saturating_duration_since(self.at) >= READ_AGAIN {
            self.since(now);
        }
    }

    /// What was waited since it was last read.
    fn since(&mut self, now: Instant) -> Option<Duration> {
        let read = self.account.as_deref().and_then(WaitAccount::waited);
        let before = std::mem::replace(&mut self.waited, read);
        self.at = now;
        Some(read?.saturating_sub(before?))
    }
}

/// How long a wait on a condition lasts at most before its patience is looked at.
const WAIT: Duration = Duration::from_millis(100);

/// A value that one thread changes and another waits for.
#[derive(Debug, Default)]
pub struct Told<T> {
    value: Mutex<T>,
    changed: Condvar,
}

impl<T> Told<T> {
    /// The value as it is.
    pub fn lock(&self) -> MutexGuard<'_, T> {
        // A thread that panicked has left plain values behind.
        self.value.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the value, and wakes the thread that waits for it.
    pub fn change(&self, change: impl FnOnce(&mut T)) {
        change(&mut self.lock());
        self.changed.notify_all();
    }

    /// Waits until `enough` says so or `patience` ends. Only the time counts in which the caller could be told of a
    /// change: not the time in which it is suspended.
    pub fn wait(&self, patience: Duration, enough: impl Fn(&T) -> bool) -> MutexGuard<'_, T> {
        let (mut clock, mut value) = (Clock::begin(Instant::now()), self.lock());
        while !enough(&value) && clock.now().counted() < patience {
            clock.sleep(Some(clock.due(clock.now().after(WAIT))));
            value = self.changed.wait_timeout(value, WAIT).unwrap_or_else(PoisonError::into_inner).0;
            clock.look(Instant::now());
        }
        value
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;
    use proptest::prelude::*;

    /// Far more than the tests' thread can have waited for a processor.
    const HOURS: Duration = Duration::from_secs(24 * 3600);

    #[test]
    fn schedules_go_on_after_a_suspension_where_they_were() {
        let start = Instant::now();
        let mut clock = Clock::begin(start);
        let begun = clock.start(start);
        let asleep = start + Duration::from_secs(5);
        clock.sleep(Some(asleep));
        clock.look(asleep + HOURS);
        let Suspended { times, time } = clock.suspended();
        assert!(times == 1 && time <= HOURS && time > HOURS / 2, "{time:?}");
        assert_eq!(clock.begun(begun), start + time);
        // What begins now has nothing to do with it.
        let now = asleep + HOURS;
        assert_eq!(clock.begun(clock.start(now)), now);
    }

    #[test]
    fn sleep_that_was_meant_and_waits_for_a_processor_are_no_suspension() {
        let start = Instant::now();
        let mut clock = Clock::begin(start);
        clock.sleep(Some(start + HOURS));
        clock.look(start + HOURS + SHORTEST_SUSPENSION / 2);
        clock.sleep(None);
        clock.look(start + 3 * HOURS);
        assert_eq!(clock.suspended(), Suspended::default());
        // The account that is not kept might have had all of it.
        clock.waits.account = None;
        clock.look(start + 4 * HOURS);
        assert_eq!(clock.suspended(), Suspended::default());
        clock.resume(SHORTEST_SUSPENSION / 2);
        assert_eq!(clock.suspended(), Suspended::default());
    }

    #[test]
    fn an_instant_before_the_last_look_has_a_mark() {
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let mut clock = Clock::begin(start);
        clock.sleep(Some(start + 3 * second));
        clock.look(start + 3 * second);
        let marks = [2, 3, 4].map(|seconds| clock.mark(start + seconds * second).counted());
        assert_eq!(marks, [2 * second, 3 * second, 3 * second]);
        // Of what was before the clock is known nothing.
        assert_eq!(clock.mark(start - second), Mark::default());
    }

    #[test]
    fn a_wait_ends_with_what_it_waits_for_or_with_its_patience() {
        let told = Told::<u32>::default();
        let in_vain = told.wait(Duration::from_millis(50), |seen| *seen == 1);
        assert_eq!(*in_vain, 0);
        drop(in_vain);
        std::thread::scope(|scope| {
            scope.spawn(|| told.change(|seen| *seen = 1));
            let came = told.wait(Duration::from_secs(1_000), |seen| *seen == 1);
            assert_eq!(*came, 1);
        });
    }

    /// The account that is read is that of the thread, and grows while it waits for a processor.
    #[test]
    fn the_kernel_accounts_for_waits() {
        let account = File::open("/proc/thread-self/schedstat").unwrap();
        let before = account.waited().unwrap();
        let (done, processors) = (AtomicBool::new(false), std::thread::available_parallelism().unwrap());
        std::thread::scope(|scope| {
            for _ in 0..2 * processors.get() {
                scope.spawn(|| {
                    while !done.load(Ordering::Relaxed) {
                        std::hint::spin_loop();
                    }
                });
            }
            while account.waited().unwrap() < before + Duration::from_millis(1) {}
            done.store(true, Ordering::Relaxed);
        });
    }

    /// What happens between two looks.
    #[derive(Debug, Clone, Copy)]
    enum Step {
        /// Work of so many microseconds.
        Work(u64),
        /// A sleep that was meant to last so long, and lasted longer by so much.
        Sleep(u64, u64),
        /// A sleep without an end that somebody ended.
        Woken(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        let short = 0..LONGEST_LOOK.as_micros() as u64;
        let any = 0..100_000_000u64;
        prop_oneof![
            any.clone().prop_map(Step::Work),
            short.prop_map(Step::Work),
            (any.clone(), any.clone()).prop_map(|(meant, late)| Step::Sleep(meant, late)),
            any.prop_map(Step::Woken),
        ]
    }

    proptest! {
        /// Work and lateness count up to the longest look, and sleep that was meant counts in full.
        #[test]
        fn what_counts_is_what_was_looked_at(steps in prop::collection::vec(step(), 1..60)) {
            let mut now = Instant::now();
            let mut clock = Clock::begin(now);
            for step in steps {
                let before = clock.now();
                let (passed, meant) = match step {
                    Step::Work(took) => (took, Duration::ZERO),
                    Step::Sleep(meant, late) => {
                        clock.sleep(Some(now + Duration::from_micros(meant)));
                        (meant + late, Duration::from_micros(meant))
                    }
                    Step::Woken(after) => {
                        clock.sleep(None);
                        (after, Duration::from_micros(after))
                    }
                };
                let passed = Duration::from_micros(passed);
                now += passed;
                clock.look(now);
                prop_assert_eq!(clock.now().since(before), passed.min(meant + LONGEST_LOOK));
            }
        }

        /// However long the owner stands still, a deadline needs as many looks as fit into its time, and no more
        /// than that once the owner looks in time.
        #[test]
        fn a_deadline_is_met_by_looks(millis in 1u64..10_000, gaps in prop::collection::vec(1u64..1_000_000, 0..20)) {
            let (start, patience) = (Instant::now(), Duration::from_millis(millis));
            let (mut clock, mut now) = (Clock::begin(start), start);
            let deadline = clock.now().after(patience);
            let mut looks = 0;
            for gap in gaps {
                now += LONGEST_LOOK + Duration::from_millis(gap);
                clock.look(now);
                looks += 1;
                prop_assert_eq!(clock.now() >= deadline, LONGEST_LOOK * looks >= patience);
            }
            // A thread that sleeps until the deadline and wakes in time finds it passed, and not before.
            let due = clock.due(deadline);
            if due > now + Duration::from_micros(1) {
                let mut early = clock.clone();
                early.sleep(Some(due));
                early.look(due - Duration::from_micros(1));
                prop_assert!(early.now() < deadline);
            }
            clock.sleep(Some(due));
            clock.look(due);
            prop_assert!(clock.now() >= deadline);
        }

        /// A clock of the host that goes back takes nothing away.
        #[test]
        fn it_never_goes_back(steps in prop::collection::vec(0u64..10_000_000, 1..40)) {
            let start = Instant::now();
            let mut clock = Clock::begin(start);
            for step in steps {
                let before = clock.now();
                clock.look(start + Duration::from_micros(step));
                prop_assert!(clock.now() >= before);
            }
        }
    }
}
