//! Keepalive of sleeping connections. For a socket the kernel asks a silent peer now and then whether it still exists; a
//! sleeping connection has none, so the shard asks. No connection has a timer: a cursor visits each once in the
//! keepalive's time.

use std::collections::HashMap;
use std::time::Duration;

use super::{Around, Hibernation};
use crate::clock::Mark;
use crate::connections::close_reason::CloseReason;
use crate::connections::idle::{self, IdleTracker};
use crate::connections::slots::Cursor;
use crate::error::Errno;
use crate::hibernation::answer::Answer;
use crate::listener::KEEPALIVE_PROBES;
use crate::ring::RingOps;

/// The shortest and the longest time from one step of the cursor to the next. A step that visits no connection wakes the
/// shard for nothing; and connections that fall asleep after a long one would wait for the next.
const SHORTEST_STEP: Duration = Duration::from_millis(100);
const LONGEST_STEP: Duration = Duration::from_secs(1);

/// Entries that one step visits at most, each of which may be sent a probe, some 2 us. Where there are more than 2,500
/// for each second of the keepalive's time, a round of the cursor takes longer.
const ENTRIES_PER_STEP: u32 = 256;

/// The keepalive of a shard's sleeping connections.
#[derive(Debug)]
pub(super) struct SleeperKeepalive {
    /// Silence after which a peer is asked, and the time between two probes; `None` asks none.
    time: Option<Duration>,
    cursor: Cursor,
    due: Mark,
    /// When the last step was.
    stepped: Mark,
    /// Entries that are due for a visit, with a fraction: with few entries the next one is due only after several
    /// steps.
    owed: f64,
    /// Probes that the peer of an entry's connection has not answered.
    unanswered: HashMap<u32, u32>,
    /// The next entry whose silence is kept from becoming ambiguous.
    pins: Cursor,
}

impl SleeperKeepalive {
    pub fn new(time: Option<Duration>, now: Mark) -> SleeperKeepalive {
        let (unanswered, pins) = (HashMap::new(), Cursor::START);
        SleeperKeepalive { time, cursor: Cursor::START, due: now, stepped: now, owed: 0.0, unanswered, pins }
    }

    /// When the next step is due, if there is any.
    pub fn due(&self) -> Option<Mark> {
        self.time.map(|_| self.due)
    }

    /// Another process has the sleeping connections.
    pub fn forget_all(&mut self) {
        self.unanswered.clear();
    }

    /// The peer of a connection is there, or the connection sleeps no more.
    #[inline]
    pub fn forget(&mut self, index: u32) {
        if !self.unanswered.is_empty() {
            self.unanswered.remove(&index);
        }
    }
}

impl<S: Default> Hibernation<S> {
    /// Keeps the silence of some sleeping connections from becoming ambiguous (`IdleTracker::pin_some`).
    pub fn pin_silent(&mut self, idle: &IdleTracker) {
        if self.given.freezes() {
            return;
        }
        for _ in 0..IdleTracker::share(self.entries.len() as usize) {
            let Some(index) = self.entries.next(&mut self.keepalive.pins) else { break };
            if self.entries.whereabouts(index).is_asleep()
                && let Some(window) = idle.pinned(self.entries.heard(index))
            {
                self.entries.set_heard(index, window);
            }
        }
    }

    /// Visits some sleeping connections if it is time: asks peers that were silent, and gives up those that did not
    /// answer `KEEPALIVE_PROBES` times.
    pub(super) fn keep_alive<R: RingOps>(&mut self, around: &mut Around<'_, S, R>) {
        let now = around.clock.now();
        let Some(time) = self.keepalive.time.filter(|_| self.keepalive.due <= now) else { return };
        let each = time.as_secs_f64() / f64::from(self.entries.len().max(1));
        let share = now.since(std::mem::replace(&mut self.keepalive.stepped, now)).as_secs_f64() / each;
        self.keepalive.owed = (self.keepalive.owed + share).min(ENTRIES_PER_STEP.into());
        while self.keepalive.owed >= 1.0 {
            self.keepalive.owed -= 1.0;
            // The last entry is followed by the first.
            let next = self.entries.next(&mut self.keepalive.cursor);
            let Some(index) = next.or_else(|| self.entries.next(&mut self.keepalive.cursor)) else { break };
            if self.entries.whereabouts(index).is_asleep() {
                self.ask(around, index, time);
            }
        }
        let rest = Duration::from_secs_f64(each * (1.0 - self.keepalive.owed).max(0.0));
        self.keepalive.due = now.after(rest.clamp(SHORTEST_STEP, LONGEST_STEP));
    }

    /// Asks the peer of a sleeping connection whether it is there, if it was silent for `time`.
    fn ask<R: RingOps>(&mut self, around: &mut Around<'_, S, R>, index: u32, time: Duration) {
        let Some(checkpoint) = self.entries.checkpoint(index) else { return };
        let unanswered = self.keepalive.unanswered.get(&index).copied().unwrap_or(0);
        let silence = around.idle.silence(idle::link_of(self.entries.heard(index)));
        if unanswered == 0 && silence < time {
            return;
        }
        if unanswered >= KEEPALIVE_PROBES {
            // A RST has the number behind all that the peer was sent.
            let Some(checkpoint) = self.checkpoint(index) else { return };
            self.keepalive.forget(index);
            self.leave_table(index);
            self.gone(around, index, CloseReason::Failed(Errno::ETIMEDOUT));
            return self.answer(around.parts.counters, &checkpoint, Answer::reset(&checkpoint.progress), 0);
        }
        self.keepalive.unanswered.insert(index, unanswered + 1);
        self.answer(around.parts.counters, &checkpoint, Answer::probe(&checkpoint.progress), 0);
    }
}
