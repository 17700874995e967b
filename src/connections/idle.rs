//! Closing connections that have been silent for long, without a timer for any of them. Each row remembers the window
//! of time in which something was last received on its connection, and a sweep looks at a bounded number of rows in
//! each pass.

use std::time::{Duration, Instant};

use super::slots::{Cursor, Slots};
use crate::clock::Mark;
use crate::ring::RingOps;
use crate::token::ConnId;

/// The windows of time that a row remembers. Within one of them it also counts how often its connection was parked.
const WINDOW: Duration = Duration::from_secs(4);

/// The longest time of silence that can be told: half of what the 16 bits count that a row has for its window. A row
/// must be pinned within the other half (`OLDEST`).
pub const LONGEST_IDLE: Duration = Duration::from_secs(WINDOW.as_secs() * (1 << 15));

/// The shortest idle timeout that may be configured. With a shorter one a server would close connections between their
/// SYN and their first bytes, and silence is measured in windows of 4 s anyway.
pub const SHORTEST_IDLE: Duration = Duration::from_secs(1);

/// The most windows of silence that a row tells. The 16 bits of a row's window wrap, and then the silence would seem to begin
/// anew. So a row that would tell more is *pinned*: its window moves along with the present one.
const OLDEST: u16 = (1 << 15) + 1;

/// The time between two steps that pin rows, and the steps in which all rows are looked at: 4.6 hours in all. A silence
/// of `OLDEST` windows (36 hours) becomes ambiguous 36 hours later.
const PIN_EVERY: Duration = Duration::from_secs(64);
const PIN_STEPS: usize = 256;

/// How long a sweep over all rows takes.
const SWEEP: Duration = Duration::from_secs(4);

/// In how many steps a sweep is done.
const STEPS: u32 = 64;

/// Connections that one step closes at most, so that closing delays no other connection for long.
const CLOSES_PER_STEP: usize = 16;

/// The number of the window in which a connection was last heard is in the upper half of a live row's link. The lower
/// half counts how often the connection was parked within that window. What is heard in a new window begins a new
/// count.
fn heard_in(link: u32, window: u16) -> u32 {
    let now = link_of(window);
    if link & !0xffff == now { link } else { now }
}

/// The link of a row whose connection was last heard in a window, and not parked since.
pub(super) fn link_of(window: u16) -> u32 {
    u32::from(window) << 16
}

/// The window in which the connection of a live row's link was last heard.
pub(super) fn window_of(link: u32) -> u16 {
    (link >> 16) as u16
}

/// Whole windows since a live row's connection was last heard.
fn age(link: u32, window: u16) -> u16 {
    window.wrapping_sub(window_of(link))
}

/// Counts a parking in a row's link, and tells whether its connection has been parked this often within the window.
/// The count ends there, so that it never carries into the upper half.
pub(super) fn parked_often(link: &mut u32, times: u16) -> bool {
    let often = *link & 0xffff >= u32::from(times) - 1;
    *link += u32::from(!often);
    often
}

/// The whole windows in which a connection must have been silent for so long.
fn windows(timeout: Duration) -> u64 {
    let seconds = timeout.as_secs() + u64::from(timeout.subsec_nanos() > 0);
    seconds.div_ceil(WINDOW.as_secs())
}

/// When the connections of a shard were last heard, and the search for those that are silent.
#[derive(Debug)]
pub(super) struct IdleTracker {
    /// The present window; its number wraps.
    window: u16,
    /// The window in which the clock began, as earlier processes counted.
    first: u16,
    sweep: Option<Sweep>,
    pins: Pins,
}

/// Where the next step begins that moves silent connections along, and when.
#[derive(Debug, Default)]
struct Pins {
    rows: Cursor,
    due: Mark,
}

/// The search for silent connections.
#[derive(Debug)]
struct Sweep {
    timeout: Duration,
    /// Where the next step begins.
    cursor: Cursor,
    /// When the next step is due.
    due: Instant,
    /// Rows that the present step may still look at.
    rows: usize,
    /// Connections that the present step may still close.
    closes: usize,
}

impl IdleTracker {
    /// Closes connections that are silent for `timeout`; with `None` it closes none.
    pub fn new(timeout: Option<Duration>, now: Instant) -> IdleTracker {
        let sweep = |timeout| Sweep { timeout, cursor: Cursor::START, due: now, rows: 0, closes: 0 };
        IdleTracker { window: 0, first: 0, sweep: timeout.map(sweep), pins: Pins::default() }
    }

    /// The shard begins a pass, at this instant of its clock.
    pub fn look(&mut self, now: Mark) {
        self.window = self.first.wrapping_add((now.counted().as_secs() / WINDOW.as_secs()) as u16);
    }

    /// The present window.
    pub fn window(&self) -> u16 {
        self.window
    }

    /// Goes on counting where an earlier process stopped: it is this window now.
    pub fn go_on_from(&mut self, window: u16) {
        self.first = self.first.wrapping_add(window.wrapping_sub(self.window));
        self.window = window;
    }

    /// Another process has counted on: it is this window now, unless this process has come further meanwhile.
    pub fn catch_up_with(&mut self, window: u16) {
        if window.wrapping_sub(self.window).cast_signed() > 0 {
            self.go_on_from(window);
        }
    }

    /// Whole windows since a connection with this link was heard.
    pub fn windows_of_silence(&self, link: u32) -> u16 {
        age(link, self.window)
    }

    /// The link of a connection that was heard so many windows ago.
    pub fn link_after(&self, silence: u16) -> u32 {
        link_of(self.window.wrapping_sub(silence))
    }

    /// A connection with this link was heard now.
    #[inline]
    pub fn heard(&self, link: &mut u32) {
        *link = heard_in(*link, self.window);
    }

    /// How long nothing was heard from a connection with this link, in whole windows, rounded down, and `LONGEST_IDLE` at most.
    pub fn silence(&self, link: u32) -> Duration {
        WINDOW * u32::from(age(link, self.window).min(OLDEST).saturating_sub(1))
    }

    /// The window to which a row moves that remembers this one, if that is so long ago that it would soon be ambiguous.
    pub fn pinned(&self, heard: u16) -> Option<u16> {
        (age(link_of(heard), self.window) > OLDEST).then(|| self.window.wrapping_sub(OLDEST))
    }

    /// When rows of connections that are silent for very long are to be pinned.
    pub fn pins_due(&self) -> Mark {
        self.pins.due
    }

    /// Pins some rows of connections that are silent for very long, if it is time. Returns whether it was time: the
    /// caller then pins sleeping connections too.
    pub fn pin_some<S: Default, R: RingOps>(&mut self, slots: &mut Slots<S, R>, now: Mark) -> bool {
        if self.pins.due > now {
            return false;
        }
        self.pins.due = now.after(PIN_EVERY);
        for _ in 0..Self::share(slots.count()) {
            let Some((conn, row)) = slots.next(&mut self.pins.rows) else { break };
            let moves_to = self.pinned(window_of(row.link)).filter(|_| row.lifecycle.is_live());
            if let Some(window) = moves_to
                && let Some(row) = slots.row(conn)
            {
                row.link = link_of(window);
            }
        }
        true
    }

    /// How many of `count` connections one step looks at.
    pub fn share(count: usize) -> usize {
        count.div_ceil(PIN_STEPS)
    }

    /// The silence after which connections are closed; `None` if they are not.
    pub fn timeout(&self) -> Option<Duration> {
        self.sweep.as_ref().map(|sweep| sweep.timeout)
    }

    /// Whether a connection with this link was silent for the timeout.
    pub fn is_over(&self, link: u32) -> bool {
        self.timeout().is_some_and(|timeout| u64::from(age(link, self.window)) > windows(timeout))
    }

    /// Closes no more connections for silence.
    pub fn stop(&mut self) {
        self.sweep = None;
    }

    /// When the next step is due, if silent connections are looked for.
    pub fn due(&self) -> Option<Instant> {
        self.sweep.as_ref().map(|sweep| sweep.due)
    }

    /// Begins a step if one is due. Then `next_silent` names the connections to close.
    pub fn begin_step<S: Default, R: RingOps>(&mut self, slots: &Slots<S, R>, now: Instant) -> bool {
        let Some(sweep) = self.sweep.as_mut().filter(|sweep| now >= sweep.due) else { return false };
        sweep.rows = slots.count().div_ceil(STEPS as usize);
        sweep.closes = CLOSES_PER_STEP;
        sweep.due = now + SWEEP / STEPS;
        true
    }

    /// The next silent connection of this step; `None` when the step is over. Every connection that has been silent for
    /// the timeout is found within three windows more (12 s), unless steps have more to close than `CLOSES_PER_STEP`.
    pub fn next_silent<S: Default, R: RingOps>(&mut self, slots: &Slots<S, R>, now: Instant) -> Option<ConnId> {
        let window = self.window;
        let sweep = self.sweep.as_mut()?;
        let windows = windows(sweep.timeout);
        while sweep.rows > 0 {
            if sweep.closes == 0 {
                // There were too many to close in one step: the rest of its rows come in the next pass.
                sweep.due = now;
                return None;
            }
            sweep.rows -= 1;
            let (conn, row) = slots.next(&mut sweep.cursor)?;
            // While reads are paused, bytes of the peer may wait in the socket: that is no silence.
            let is_read = row.lifecycle.is_live() && !row.lifecycle.has_paused_reads();
            if is_read && u64::from(age(row.link, window)) > windows {
                sweep.closes -= 1;
                return Some(conn);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// The age of a row is the number of windows since it was heard, also when the count of windows wraps.
        #[test]
        fn ages_are_exact(then in 0u64..200_000, later in 0u64..40_000, link in any::<u32>(), parked in 0u32..20) {
            let link = heard_in(link, then as u16) & !0xffff | parked;
            prop_assert_eq!(u64::from(age(link, (then + later) as u16)), later);
            prop_assert_eq!(heard_in(link, then as u16), link);
        }

        /// A silence that is too long to be told is the longest one, and stays that, as long as rows are moved along.
        #[test]
        fn silences_do_not_begin_anew(windows in 0u64..400_000, every in 1u64..5_000) {
            let mut tracker = IdleTracker::new(None, Instant::now());
            let mut heard = tracker.window();
            for window in (0..windows).step_by(every as usize).chain([windows]) {
                tracker.look(Mark::default().after(WINDOW * window as u32));
                heard = tracker.pinned(heard).unwrap_or(heard);
                let silence = WINDOW * window.saturating_sub(1) as u32;
                prop_assert_eq!(tracker.silence(link_of(heard)), silence.min(LONGEST_IDLE));
            }
        }

        /// The count of parkings ends at what is often, and leaves the window as it is.
        #[test]
        fn parkings_are_counted_up_to_what_is_often(window in any::<u16>(), times in 1u16..100, parked in 1u16..300) {
            let mut link = link_of(window);
            for nth in 1..=parked {
                prop_assert_eq!(parked_often(&mut link, times), nth >= times);
            }
            prop_assert_eq!(age(link, window), 0);
        }
    }
}
