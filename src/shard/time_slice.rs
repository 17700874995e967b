//! How a shard shares its core with other threads. A thread that never sleeps keeps its core until a clock tick, 4 ms
//! where CONFIG_HZ is 250. In a storm a client and a server on one core are two such threads, and each echo would wait
//! for a tick at either end.

use std::time::{Duration, Instant};

use crate::connections::Platform;

/// How long the shard runs at most before it lets others run.
const SLICE: Duration = Duration::from_micros(100);

/// The same if another thread wanted the core the last time: connects and echoes of a peer on this core wait for so
/// long. With 0.1 ms the 99th percentile of connects was 0.56 ms, with this value 0.43 ms; shorter slices gain nothing.
/// If no thread wanted the core, yielding this often would cost a hundredth of it.
const SLICE_WHEN_WANTED: Duration = Duration::from_micros(25);

/// The same while no connection has messages: nothing waits, and fewer slices cost less.
const SLICE_IN_SILENCE: Duration = Duration::from_micros(300);

/// A yield that takes less ran no other thread; it cost only the system call.
const YIELD_COST: Duration = Duration::from_micros(3);

/// A yield that takes longer ran threads that do not yield, such as a compiler's. Each of them keeps the core until a clock
/// tick. The scheduler counts a yield as a whole slice, 1.4 ms on two cores (`yield_task_fair` and `sysctl_sched_base_slice`
/// of Linux 6.18). So a shard that often yields to such threads has less of the core than they have. Another shard is not
/// taken for such a thread: its slice of 2 ms at most, and the pass in which the slice ends, take less time than this.
const GREEDY: Duration = Duration::from_micros(2_500);

/// After such a yield the next slice is as long as the yield took, divided by this.
const SHARE: u32 = 2;

/// The longest of these slices.
const LONGEST: Duration = Duration::from_millis(2);

/// When the present slice began, and how long it may be.
#[derive(Debug)]
pub(super) struct TimeSlice {
    since: Instant,
    length: Duration,
    /// How long the last yield took.
    lost: Duration,
}

impl TimeSlice {
    /// Begins a slice now.
    pub fn new(now: Instant) -> TimeSlice {
        TimeSlice { since: now, length: SLICE, lost: Duration::ZERO }
    }

    /// Sets how long slices are now. In a storm of resets they are `SLICE` even if another thread wants the core: the
    /// process that resets keeps the core as long when it has it, and an echo must fit in between.
    pub fn set_length(&mut self, traffic: bool, storm: bool) {
        let lost = if storm { Duration::ZERO } else { self.lost };
        self.length = match traffic {
            _ if lost > GREEDY => (lost / SHARE).min(LONGEST),
            false => SLICE_IN_SILENCE,
            true if lost > YIELD_COST => SLICE_WHEN_WANTED,
            true => SLICE,
        };
    }

    /// Lets other threads run on this core if the slice is over. Returns the time after that.
    pub fn yield_if_over(&mut self, platform: &impl Platform) -> Instant {
        let now = platform.now();
        if now.saturating_duration_since(self.since) < self.length { now } else { self.yield_at(platform, now) }
    }

    /// Lets other threads run on this core, even within the slice.
    pub fn yield_now(&mut self, platform: &impl Platform) {
        self.yield_at(platform, platform.now());
    }

    fn yield_at(&mut self, platform: &impl Platform, now: Instant) -> Instant {
        platform.yield_core();
        self.since = platform.now();
        self.lost = self.since.saturating_duration_since(now);
        self.since
    }

    /// The shard slept until now.
    pub fn slept(&mut self, until: Instant) {
        self.since = until;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulation::{Chance, Machine, with_seeds};

    /// How long the shard runs until it yields, if it checks all the time.
    fn runs(slice: &mut TimeSlice, machine: &Machine) -> Duration {
        let (began, yields) = (machine.elapsed(), machine.kernel(|kernel| kernel.yields));
        let mut last = began;
        while machine.kernel(|kernel| kernel.yields) == yields {
            last = machine.elapsed();
            slice.yield_if_over(machine);
        }
        last - began
    }

    /// Whether a run had this length, or was shorter by one reading of the clock at most.
    fn is_slice(run: Duration, slice: Duration) -> bool {
        run <= slice && run + Duration::from_nanos(100) >= slice
    }

    /// Another thread wants the core, for this time in each turn.
    fn wanted(machine: &Machine, time: Duration) {
        machine.kernel(|kernel| kernel.core_wanted = time);
    }

    #[test]
    fn slices_are_as_long_as_the_traffic_and_the_others_ask_for() {
        let machine = Machine::new(0);
        let mut slice = TimeSlice::new(machine.now());
        assert!(is_slice(runs(&mut slice, &machine), SLICE));
        wanted(&machine, SLICE);
        // The shard knows that another thread wants the core once that thread has had it.
        assert!(is_slice(runs(&mut slice, &machine), SLICE));
        for (traffic, storm, length) in [
            (true, false, SLICE_WHEN_WANTED),
            (true, true, SLICE),
            (false, false, SLICE_IN_SILENCE),
            (false, true, SLICE_IN_SILENCE),
        ] {
            slice.set_length(traffic, storm);
            let ran = runs(&mut slice, &machine);
            assert!(is_slice(ran, length), "traffic: {traffic}, storm: {storm}: it ran for {ran:?}");
        }
        wanted(&machine, Duration::ZERO);
        slice.yield_now(&machine);
        slice.set_length(true, false);
        assert!(is_slice(runs(&mut slice, &machine), SLICE), "nobody wants the core any more");
    }

    #[test]
    fn beside_threads_that_keep_the_core_the_shard_has_its_part() {
        let machine = Machine::new(0);
        let mut slice = TimeSlice::new(machine.now());
        for others in [GREEDY * 2, GREEDY * 7, LONGEST * 3] {
            wanted(&machine, others);
            slice.yield_now(&machine);
            slice.set_length(true, false);
            let ran = runs(&mut slice, &machine);
            assert!(is_slice(ran, LONGEST.min(others / SHARE)), "beside {others:?} it ran for {ran:?}");
            slice.set_length(true, true);
            assert!(is_slice(runs(&mut slice, &machine), SLICE), "in a storm of resets others must come soon");
        }
        // A shard whose slice is the longest is not taken for such a thread.
        wanted(&machine, LONGEST);
        slice.yield_now(&machine);
        slice.set_length(true, false);
        assert!(is_slice(runs(&mut slice, &machine), SLICE_WHEN_WANTED));
    }

    #[test]
    fn a_sleep_begins_a_new_slice() {
        let machine = Machine::new(0);
        let mut slice = TimeSlice::new(machine.now());
        machine.nap(SLICE / 2);
        slice.slept(machine.now());
        assert!(is_slice(runs(&mut slice, &machine), SLICE));
    }

    /// Whatever other threads want and the shard does, it yields before it runs longer than its slice.
    #[test]
    fn others_get_their_turns() {
        with_seeds(100, |seed| {
            let (machine, mut chance) = (Machine::new(seed), Chance(seed));
            let mut slice = TimeSlice::new(machine.now());
            for _ in 0..200 {
                let (traffic, storm) = (chance.one_in(2), chance.one_in(2));
                slice.set_length(traffic, storm);
                wanted(&machine, chance.time(2 * SLICE));
                let before = machine.kernel(|kernel| kernel.yields);
                let began = slice.since;
                machine.nap(chance.time(SLICE));
                let now = slice.yield_if_over(&machine);
                let yields = machine.kernel(|kernel| kernel.yields) - before;
                let ran = now - began;
                assert!(yields == 1 || ran < slice.length, "it ran for {ran:?} of {:?}", slice.length);
                assert!(yields == 0 || now == slice.since, "a new slice begins after a yield");
            }
        });
    }
}
