//! How long a step of a run may take: as long as it gets on.
//!
//! A limit by the clock alone fails a slow host that works well, so there is none unless one is asked for
//! (`--deadline`). A step ends when a time passes in which less than a share of its work was done. Only the
//! furthest point so far counts, so a run that goes back and forth does not get on.

use std::time::{Duration, Instant};

/// Parts of a step's work. Less than one of them in the time that a step may stand still is no progress.
const PARTS: u64 = 100;

/// The longest time between two looks that counts as standing still. A leader that was stopped itself saw
/// nothing of the guests meanwhile.
const MOST_BETWEEN_LOOKS: Duration = Duration::from_secs(5);

/// Watches the progress of one step.
#[derive(Debug)]
pub struct Patience {
    limit: Duration,
    least: u64,
    mark: Option<u64>,
    stood: Duration,
    looked: Instant,
}

impl Patience {
    /// For a step of so much work, which may stand still for `limit`.
    pub fn new(limit: Duration, work: u64, now: Instant) -> Patience {
        Patience { limit, least: (work / PARTS).max(1), mark: None, stood: Duration::ZERO, looked: now }
    }

    /// Whether a step that has come to `done` may go on. What is done before the first look is no progress.
    pub fn lasts(&mut self, done: u64, now: Instant) -> bool {
        self.stood += now.saturating_duration_since(self.looked).min(MOST_BETWEEN_LOOKS);
        self.looked = now;
        let mark = *self.mark.get_or_insert(done);
        if done >= mark.saturating_add(self.least) {
            self.mark = Some(done);
            self.stood = Duration::ZERO;
        }
        self.stood <= self.limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(90);
    const LOOK: Duration = Duration::from_millis(500);

    /// Looks every half second at a step of so much work, until it ends or a day is over; tells when it ended.
    fn ends(work: u64, done: impl Fn(u64) -> u64) -> Option<u64> {
        let begin = Instant::now();
        let mut patience = Patience::new(LIMIT, work, begin);
        let looks = (1..2 * 86_400u32).map(|look| begin + LOOK * look);
        let seconds = |now: Instant| now.duration_since(begin).as_secs();
        looks
            .map(|now| (now, patience.lasts(done(seconds(now)), now)))
            .find(|(_, lasts)| !lasts)
            .map(|(now, _)| seconds(now))
    }

    #[test]
    fn a_step_that_gets_on_lasts_however_slow_it_is() {
        // A million at 850 a second took the former limit of 15 minutes and more; at 120 a second, 2.4 hours.
        for rate in [3_400, 850, 120] {
            let work = 1_020_000;
            let ended = ends(work, |second| (second * rate).min(work)).unwrap();
            let took = work / rate;
            // It had all its time, and the limit once more after its last part.
            assert!((took..=took + 91).contains(&ended), "{rate}: {ended}");
        }
    }

    #[test]
    fn a_step_that_stands_still_ends_after_the_limit() {
        assert_eq!(ends(1_020_000, |_| 0), Some(90));
        assert_eq!(ends(1, |_| 7), Some(90));
        // 300 seconds at work, and then nothing more.
        assert_eq!(ends(1_020_000, |second| second.min(300) * 3_400), Some(390));
    }

    #[test]
    fn a_trickle_is_no_progress_and_neither_is_back_and_forth() {
        assert_eq!(ends(1_020_000, |second| second), Some(90));
        assert_eq!(ends(1_020_000, |second| (second / 60 % 2) * 500_000), Some(150));
    }

    #[test]
    fn a_step_without_a_count_gets_on_with_each_part() {
        // Lines of a booting guest, one every 80 s, which end after the tenth.
        assert_eq!(ends(1, |second| (second / 80).min(10)), Some(890));
    }

    #[test]
    fn a_leader_that_was_stopped_does_not_blame_its_guests() {
        let begin = Instant::now();
        let mut patience = Patience::new(LIMIT, 100, begin);
        assert!(patience.lasts(0, begin + LOOK));
        // Ten minutes later nothing has been heard yet, as everything was stopped.
        let woke = begin + Duration::from_secs(600);
        assert!(patience.lasts(0, woke));
        // From then on, standing still counts.
        let still = (1..400u32).map(|look| woke + LOOK * look).find(|now| !patience.lasts(0, *now)).unwrap();
        assert!((80..=90).contains(&still.duration_since(woke).as_secs()));
    }
}
