//! What is done after RSTs were dropped because the ring buffer was full. A peer sends every other segment again, and no
//! RST: its connection would seem to sleep for ever. So the peer of each sleeper is asked once, as by a keepalive probe. A
//! peer without the connection answers with another RST.

use std::time::Duration;

use super::{Around, Hibernation};
use crate::clock::Mark;
use crate::connections::slots::Cursor;
use crate::hibernation::answer::Answer;
use crate::ring::RingOps;

/// The time from one step to the next.
const STEP: Duration = Duration::from_millis(10);

/// Entries that one step visits at most, each of which may be sent a probe, some 2 us: 5 % of a core.
const ENTRIES_PER_STEP: usize = 256;

/// From RSTs that were dropped until the first sleeper is asked: the crowd that they were in may go on.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// The same if RSTs were dropped in every round until now. Each such round doubles the pause up to this.
const LONGEST_PAUSE: Duration = Duration::from_secs(64);

/// The rounds in which a shard's sleepers are asked.
#[derive(Debug)]
pub(super) struct Inquiry {
    /// RSTs that were dropped, as far as a round began for them.
    dropped: u64,
    /// The next entry of the round that is under way or about to begin.
    round: Option<Cursor>,
    due: Mark,
    pause: Duration,
}

impl Inquiry {
    pub fn new(now: Mark) -> Inquiry {
        Inquiry { dropped: 0, round: None, due: now, pause: FIRST_PAUSE }
    }

    /// When the next step is due, if there is any.
    pub fn due(&self) -> Option<Mark> {
        self.round.map(|_| self.due)
    }

    /// Notes how many RSTs were dropped so far. Where there are more than before, a round begins after a pause, or
    /// after the one that is under way.
    fn note(&mut self, dropped: u64, now: Mark) {
        if self.round.is_none() && self.dropped != dropped {
            self.dropped = dropped;
            self.round = Some(Cursor::START);
            self.due = now.after(self.pause);
            self.pause = (2 * self.pause).min(LONGEST_PAUSE);
        }
    }

    /// The round is over. `calm` if no RST was dropped since the round was scheduled.
    fn end(&mut self, calm: bool) {
        self.round = None;
        if calm {
            self.pause = FIRST_PAUSE;
        }
    }
}

impl<S: Default> Hibernation<S> {
    /// Asks the peers of some sleepers if RSTs were dropped and it is time.
    pub(super) fn inquire<R: RingOps>(&mut self, around: &mut Around<'_, S, R>) {
        let (now, dropped) = (around.clock.now(), self.host.dropped_resets());
        self.inquiry.note(dropped, now);
        let Some(mut cursor) = self.inquiry.round.filter(|_| self.inquiry.due <= now) else { return };
        self.inquiry.due = now.after(STEP);
        for _ in 0..ENTRIES_PER_STEP {
            let Some(index) = self.entries.next(&mut cursor) else {
                return self.inquiry.end(dropped == self.inquiry.dropped);
            };
            if self.entries.whereabouts(index).is_asleep()
                && let Some(checkpoint) = self.entries.checkpoint(index)
            {
                self.answer(around.parts.counters, &checkpoint, Answer::probe(&checkpoint.progress), 0);
            }
        }
        self.inquiry.round = Some(cursor);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_in_which_resets_are_dropped_become_rare() {
        let at = |seconds| Mark::default().after(Duration::from_secs(seconds));
        let mut inquiry = Inquiry::new(at(0));
        inquiry.note(0, at(1));
        assert_eq!(inquiry.due(), None, "nothing was dropped");
        for (dropped, pause) in [(1, 1), (2, 2), (3, 4), (4, 8), (5, 16), (6, 32), (7, 64), (8, 64)] {
            inquiry.note(dropped, at(100));
            inquiry.note(dropped + 1, at(101));
            assert_eq!(inquiry.due(), Some(at(100 + pause)), "{dropped} were dropped");
            inquiry.end(false);
        }
        inquiry.note(9, at(200));
        inquiry.end(true);
        inquiry.note(9, at(300));
        assert_eq!(inquiry.due(), None, "nothing more was dropped");
        inquiry.note(10, at(300));
        assert_eq!(inquiry.due(), Some(at(301)));
    }
}
