//! Connections that end while they sleep. None of them gets a socket for that: their FINs and acknowledgements are
//! single segments (`hibernation/closing.rs`).

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::time::Duration;

use super::entries::Whereabouts;
use super::handover::Given;
use super::{Around, Caught, Hibernation};
use crate::clock::Mark;
use crate::connections::close_reason::CloseReason;
use crate::connections::idle;
use crate::connections::lifecycle::CloseMode;
use crate::connections::slots::Cursor;
use crate::hibernation::Checkpoint;
use crate::hibernation::answer::Answer;
use crate::hibernation::closing::{Closing, Step};
use crate::hibernation::segment::Segment;
use crate::ring::RingOps;
use crate::stats::Counters;
use crate::token::ConnId;

/// Timers that are served in one pass, each with a segment at most.
const TIMERS_PER_PASS: usize = 64;

/// How often a FIN is sent again while the shard is about to end: after 1 and 3 s. A peer that has not answered after
/// 7 s is likely gone.
const RETRIES_WHILE_STOPPING: u8 = 2;

/// While the shard is about to end: how long a close with `CloseMode::Immediate` waits for the acknowledgement of bytes
/// that were sent without a socket, if the connection gets no socket that sends them again.
const LONGEST_WHILE_STOPPING: Duration = Duration::from_secs(7);

/// Ends for which memory is kept, at some 60 bytes each. What a mass disconnect took beyond that is given back after it.
const ENDS_KEPT: usize = 4_096;

/// The search for sleeping connections that were silent for too long looks at all of them once in this time, or once in
/// an eighth of the timeout if that is longer.
const SHORTEST_SWEEP: Duration = Duration::from_secs(4);

/// In how many steps it does so.
const STEPS: u32 = 64;

/// Sleeping connections that one pass closes at most for their silence, so that closing delays no other connection for
/// long.
const CLOSES_PER_PASS: usize = 16;

/// The ends of sleeping connections that are under way.
#[derive(Debug, Default)]
pub(super) struct SleeperEndings {
    /// By entry.
    closings: HashMap<u32, Ending>,
    /// Those whose FIN the peer has not acknowledged.
    unacknowledged: u64,
    /// One timer for each of them, the first first, and stale ones: their closings are over or have another timer.
    timers: BinaryHeap<Reverse<(Mark, u32)>>,
    /// Connections that ended and whose driver was not told yet, by entry.
    untold: VecDeque<(u32, CloseReason)>,
    /// Since when the shard is about to end.
    stopping: Option<Mark>,
    /// The search for silent ones: where it goes on, and when.
    sweep: Cursor,
    sweep_due: Option<Mark>,
}

/// An end that is under way.
#[derive(Debug, Clone, Copy)]
struct Ending {
    closing: Closing,
    /// The end of its timer.
    timer: Mark,
    /// The driver was told of it. Otherwise the entry is released when the driver is.
    told: bool,
}

impl Ending {
    /// 1 if the peer has not acknowledged our FIN.
    fn unacknowledged(self) -> u64 {
        u64::from(!self.closing.is_acknowledged())
    }
}

impl SleeperEndings {
    /// How many are under way whose FIN the peer has not acknowledged. No caller needs to wait for what comes after
    /// that, such as TIME_WAIT.
    pub fn unacknowledged(&self) -> u64 {
        self.unacknowledged
    }

    /// The end of a connection has come so far, and its timer ends then.
    fn put(&mut self, index: u32, closing: Closing, timer: Mark) {
        let before = self.closings.get(&index).copied();
        let ending = Ending { closing, timer, told: before.is_some_and(|before| before.told) };
        self.closings.insert(index, ending);
        self.unacknowledged = self.unacknowledged + ending.unacknowledged() - before.map_or(0, Ending::unacknowledged);
    }

    /// The end of a connection is over. Returns it.
    fn take(&mut self, index: u32) -> Option<Ending> {
        let ending = self.closings.remove(&index);
        self.unacknowledged -= ending.map_or(0, Ending::unacknowledged);
        if self.closings.is_empty() && self.closings.capacity() > ENDS_KEPT {
            // All timers are stale by now.
            (self.closings, self.timers) = Default::default();
        }
        ending
    }

    /// The driver was told of the end of an entry's connection. Returns whether that end is still under way, TIME_WAIT
    /// included: the entry is needed until it is over.
    pub fn told(&mut self, index: u32) -> bool {
        let Some(ending) = self.closings.get_mut(&index) else { return false };
        ending.told = true;
        true
    }

    /// Whether there is an end of which the driver was not told yet.
    pub fn has_untold(&self) -> bool {
        !self.untold.is_empty()
    }

    /// Whether the shard has been about to end for so long that a close at once waits for nothing any more.
    pub fn stopped_long_ago(&self, now: Mark) -> bool {
        self.stopping.is_some_and(|since| now.since(since) >= LONGEST_WHILE_STOPPING)
    }

    /// Takes all ends that are under way, as another process goes on with them.
    pub fn take_all(&mut self) -> Vec<(u32, Closing)> {
        let closings = std::mem::take(self).closings;
        closings.into_iter().map(|(index, ending)| (index, ending.closing)).collect()
    }

    /// The driver is to be told of an end.
    fn tell(&mut self, index: u32, reason: CloseReason) {
        self.untold.push_back((index, reason));
    }

    /// When something is due.
    pub fn due(&self) -> Option<Mark> {
        let timer = self.timers.peek().map(|Reverse((due, _))| *due);
        timer.into_iter().chain(self.sweep_due).min()
    }
}

impl<S: Default> Hibernation<S> {
    /// A sleeping connection is over, and its driver is to be told. Its entry remains.
    pub(super) fn gone<R: RingOps>(&mut self, around: &mut Around<'_, S, R>, index: u32, reason: CloseReason) {
        around.parts.counters.asleep.sub(1);
        around.parts.leave();
        self.keepalive.forget(index);
        self.entries.move_to(index, Whereabouts::Ending);
        let kept = self.unsent.take(self.entries.name_of(index)).unwrap_or_default();
        let was_sent = self.socketless.forget(index) + kept.flown;
        around.parts.counters.bytes_out.add(was_sent.into());
        self.endings.tell(index, reason.unless_closed(kept.closes));
    }

    /// The next connection that ended while it slept and whose driver was not told yet.
    pub fn next_ended(&mut self) -> Option<(ConnId, CloseReason)> {
        let (index, reason) = self.endings.untold.pop_front()?;
        Some((self.entries.name_of(index), reason))
    }

    /// The driver was told of the end of a connection.
    pub fn forget(&mut self, name: ConnId) {
        let Some(index) = self.entries.find(name) else { return };
        if let Some((ring, slot)) = self.entries.place(index) {
            self.leave_slot(ring, slot);
            if self.entries.whereabouts(index) == Whereabouts::Drowsy {
                self.leave_table(index);
            }
            // Its last descriptor would delay the FIN.
            if self.entries.whereabouts(index) != Whereabouts::Awake
                && let Some(drowsy) = self.drowsy.iter_mut().find(|drowsy| drowsy.name == name)
            {
                drowsy.socket = None;
            }
            self.entries.release(index);
            if self.given == Given::All {
                self.ended_away.push(index);
            }
        } else if self.entries.whereabouts(index) == Whereabouts::Ending && !self.is_given(index) {
            if let Some(state) = self.states.get_mut(index as usize) {
                *state = S::default();
            }
            if self.endings.told(index) {
                self.entries.rename(index);
            } else {
                self.entries.release(index);
            }
        }
    }

    /// The shard is about to end, and does not wait long for acknowledgements of FINs.
    pub fn stop(&mut self, now: Mark) {
        self.endings.stopping.get_or_insert(now);
    }

    /// Closes a sleeping connection, without a socket. One that is to be told more before is closed when that has been sent.
    pub fn close<R: RingOps>(
        &mut self,
        around: &mut Around<'_, S, R>,
        name: ConnId,
        mode: CloseMode,
        reason: CloseReason,
    ) {
        let Some(index) = self.asleep(name) else { return };
        if self.defer_close(name, mode, reason, around.clock.now()) {
            return;
        }
        let Some(checkpoint) = self.checkpoint(index) else { return };
        let counters = around.parts.counters;
        self.gone(around, index, reason);
        if mode == CloseMode::Abort {
            self.leave_table(index);
            return self.answer(counters, &checkpoint, Answer::reset(&checkpoint.progress), 0);
        }
        let (closing, fin) = Closing::begin(&checkpoint, self.host.timestamp_clock());
        self.set_timer(around.clock.now(), index, closing);
        self.answer(counters, &checkpoint, fin, 0);
    }

    /// Answers the FIN of a peer with ours.
    pub(super) fn answer_fin<R: RingOps>(
        &mut self,
        around: &Around<'_, S, R>,
        checkpoint: &Checkpoint,
        index: u32,
        echo: u32,
    ) {
        let (closing, fin) = Closing::answer(checkpoint, self.host.timestamp_clock());
        self.set_timer(around.clock.now(), index, closing);
        self.answer(around.parts.counters, checkpoint, fin, echo);
    }

    /// Goes on with an end of which an earlier process has told its driver; without a `closing` it is not known how far
    /// the end has come, and our FIN is sent again.
    pub(super) fn resume_end<R: RingOps>(&mut self, around: &Around<'_, S, R>, index: u32, closing: Option<Closing>) {
        let Some(checkpoint) = self.entries.checkpoint(index) else { return };
        let closing = closing.unwrap_or_else(|| {
            let (closing, fin) = Closing::begin(&checkpoint, self.host.timestamp_clock());
            self.answer(around.parts.counters, &checkpoint, fin, 0);
            closing
        });
        self.set_timer(around.clock.now(), index, closing);
        self.endings.told(index);
    }

    /// Keeps how far an end has come, with a timer for what is due next.
    fn set_timer(&mut self, now: Mark, index: u32, closing: Closing) {
        let due = now.after(self.pause_of(&closing));
        self.endings.timers.push(Reverse((due, index)));
        self.endings.put(index, closing, due);
    }

    /// Keeps how far an end has come after a segment. A timer that ends too early remains: a peer that sends without end
    /// must not set ever more of them.
    fn keep_closing(&mut self, now: Mark, index: u32, closing: Closing) {
        let due = now.after(self.pause_of(&closing));
        match self.endings.closings.get(&index) {
            Some(Ending { timer, .. }) if *timer <= due => self.endings.put(index, closing, *timer),
            _ => self.set_timer(now, index, closing),
        }
    }

    fn pause_of(&self, closing: &Closing) -> Duration {
        Duration::from_millis(u64::from(closing.due_in_ms(self.host.timestamp_clock())))
    }

    /// Forgets the end that is due first, as its entry is needed. If its FIN comes again, a listener answers with a RST.
    pub(super) fn give_up_an_end(&mut self) {
        while let Some(Reverse((due, index))) = self.endings.timers.pop() {
            if self.endings.closings.get(&index).is_some_and(|ending| ending.timer == due) {
                return self.end(index);
            }
        }
    }

    /// An end is over.
    fn end(&mut self, index: u32) {
        self.leave_table(index);
        if self.endings.take(index).is_some_and(|ending| ending.told) {
            self.entries.release(index);
        }
    }

    /// A segment came for a connection that ends.
    pub(super) fn heard_while_ending<R: RingOps>(
        &mut self,
        around: &Around<'_, S, R>,
        caught: &Caught,
        segment: &Segment,
    ) {
        let index = caught.index;
        let now_ms = self.host.timestamp_clock();
        let Some(mut checkpoint) = self.entries.checkpoint(index) else { return };
        let Some(Ending { mut closing, .. }) = self.endings.closings.get(&index).copied() else { return };
        let step = closing.heard(&mut checkpoint, &caught.tuple, segment, now_ms);
        self.entries.progressed(index, &checkpoint.progress);
        if self.take_step(around.parts.counters, &checkpoint, index, step, segment.echo()) {
            if step == Step::Reopen {
                self.let_go(caught);
            }
            return;
        }
        self.keep_closing(around.clock.now(), index, closing);
    }

    /// Does the next step of an end. Tells whether it was the last one.
    fn take_step(&mut self, counters: &Counters, checkpoint: &Checkpoint, index: u32, step: Step, echo: u32) -> bool {
        match step {
            Step::Wait => return false,
            Step::Send(answer) => {
                self.answer(counters, checkpoint, answer, echo);
                return false;
            }
            Step::Challenge(answer) => {
                self.challenge(counters, checkpoint, answer, echo);
                return false;
            }
            Step::Gone(answer) => {
                if let Some(answer) = answer {
                    self.answer(counters, checkpoint, answer, echo);
                }
            }
            Step::Reopen => {}
        }
        self.end(index);
        true
    }

    /// Serves timers of connections that end, and looks for sleeping connections that were silent for too long.
    pub(super) fn serve_endings<R: RingOps>(&mut self, around: &mut Around<'_, S, R>, is_over: &impl Fn() -> bool) {
        let now = around.clock.now();
        for _ in 0..TIMERS_PER_PASS {
            let Some(Reverse((due, index))) = self.endings.timers.peek().copied() else { break };
            if due > now {
                break;
            }
            self.endings.timers.pop();
            let now_ms = self.host.timestamp_clock();
            let ending = self.endings.closings.get(&index).copied().filter(|ending| ending.timer == due);
            let (Some(Ending { mut closing, .. }), Some(checkpoint)) = (ending, self.entries.checkpoint(index)) else {
                continue;
            };
            // It does nothing if something is due only later.
            let step = match closing.expired(&checkpoint, now_ms) {
                Step::Send(_) if self.endings.stopping.is_some() && closing.retries() > RETRIES_WHILE_STOPPING => {
                    Step::Gone(None)
                }
                step => step,
            };
            if !self.take_step(around.parts.counters, &checkpoint, index, step, 0) {
                self.set_timer(now, index, closing);
            }
            if is_over() {
                break;
            }
        }
        self.close_silent(around, is_over);
    }

    /// Looks at some sleeping connections, and closes those that were silent for too long.
    fn close_silent<R: RingOps>(&mut self, around: &mut Around<'_, S, R>, is_over: &impl Fn() -> bool) {
        let now = around.clock.now();
        let Some(timeout) = around.idle.timeout() else {
            self.endings.sweep_due = None;
            return;
        };
        let due = *self.endings.sweep_due.get_or_insert(now);
        if due > now {
            return;
        }
        let mut closes = 0;
        for _ in 0..self.entries.len().div_ceil(STEPS) {
            let Some(index) = self.entries.next(&mut self.endings.sweep) else { break };
            let is_silent = self.entries.whereabouts(index).is_asleep()
                && around.idle.is_over(idle::link_of(self.entries.heard(index)));
            let name = self.entries.name_of(index);
            if is_silent && !self.waits_for_flown(name) {
                around.parts.counters.silent.add(1);
                closes += 1;
                self.close(around, name, CloseMode::Immediate, CloseReason::IdleTimeout);
                if closes == CLOSES_PER_PASS || is_over() {
                    // It goes on in the next pass.
                    return;
                }
            }
        }
        self.endings.sweep_due = Some(now.after((timeout / 8).max(SHORTEST_SWEEP) / STEPS));
    }
}

#[cfg(test)]
impl SleeperEndings {
    /// How many are under way.
    pub fn under_way(&self) -> usize {
        self.closings.len()
    }

    /// Timers that are set, with the stale ones.
    pub fn timers(&self) -> usize {
        self.timers.len()
    }
}

#[cfg(test)]
impl<S: Default> Hibernation<S> {
    /// Entries that are in use, and what else is kept: drowsy connections, ends under way, connections with unsent
    /// bytes.
    pub fn left(&self) -> (usize, usize) {
        let entries = (0..self.entries.len()).filter(|index| !self.entries.whereabouts(*index).is_free());
        (
            entries.count(),
            self.drowsy.len() + self.endings.under_way() + self.unsent.len() + self.socketless.in_flight(),
        )
    }

    /// Timers of ends that are under way.
    pub fn timers(&self) -> usize {
        self.endings.timers()
    }
}
