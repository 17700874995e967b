//! Sleeping connections from one process to the next. They lie in memory that both have mapped, so that all of a shard
//! change hands at one instant, whether the first process gives them away or was killed.

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::entries::Whereabouts;
use super::{Around, Hibernation, Kept, NO_ENTRY};
use crate::connections::handover::Closes;
use crate::connections::idle::IdleTracker;
use crate::error::{Errno, Error, HibernationReason, HostError, Result};
use crate::hibernation::Progress;
use crate::hibernation::answer::Answer;
use crate::hibernation::closing::Closing;
use crate::ring::RingOps;
use crate::stats::Counters;
use crate::sys::Mapping;
use crate::token::ConnId;

/// Where a shard writes which window of time it is (`idle.rs`), in which its entries say when connections were heard.
#[derive(Debug, Clone)]
pub struct WindowWord {
    words: Arc<Mapping>,
    at: usize,
}

impl WindowWord {
    /// Words of a cache line, so that no two shards write to the same.
    const STRIDE: usize = 8;

    /// The word of a shard in memory that has a cache line for each.
    pub fn of(words: Arc<Mapping>, shard: usize) -> WindowWord {
        WindowWord { words, at: shard * WindowWord::STRIDE }
    }

    /// Bytes that so many shards need.
    pub fn bytes(shards: usize) -> usize {
        shards * WindowWord::STRIDE * size_of::<u64>()
    }

    fn write(&self, window: u16) {
        self.words.word(self.at).store(window.into(), Ordering::Relaxed);
    }

    fn read(&self) -> u16 {
        self.words.word(self.at).load(Ordering::Relaxed) as u16
    }
}

/// The name of a connection, and its sequence numbers at a moment (`Entries::said`).
pub type SaidAt = (ConnId, u64);

/// What is known of a shard's sleeping connections beside their entries. Empty where the process was killed that knew
/// it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Surrendered {
    /// How far the ends have come that are under way.
    pub closings: Vec<(SaidAt, [u32; 2])>,
    /// What waits for connections that could not be woken.
    pub unsent: Vec<UnsentOf>,
}

/// What waits for a sleeping connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnsentOf {
    /// The connection.
    pub at: SaidAt,
    /// Bytes that are to be sent.
    pub bytes: Vec<u8>,
    /// So many of the first ones were sent without a socket. Their peer may have them, and acknowledge them yet.
    pub flown: u32,
    /// How it is closed once they have been sent.
    pub closes: Option<Closes>,
}

/// An entry whose connection cannot go on in this process, and what its peer is told.
pub(super) struct Refused(u32, fn(&Progress) -> Answer);

/// What of the sleeping connections is another process's. As long as anything is, none falls asleep here, and what comes
/// for those that sleep waits in the ring buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Given {
    /// Nothing.
    Nothing,
    /// Those of the entries before this one: they are being given away, one after the other. The others can be sent to.
    Below(u32),
    /// All. Here are only those that are awake and were not handed over yet.
    All,
}

impl Given {
    /// Whether none falls asleep here.
    pub fn freezes(self) -> bool {
        self != Given::Nothing
    }
}

/// Connections that are reset in one pass because what they need is gone.
const REFUSALS_PER_PASS: usize = 64;

/// The kernel gives no memory for the entries, or they are not what they should be.
pub(super) fn no_memory(error: io::Error) -> Error {
    let reason = HibernationReason::Memory;
    HostError::new("map the entries of sleeping connections", "", Errno::of(&error), reason).into()
}

impl<S: Default> Hibernation<S> {
    /// Writes down which window of time it is.
    pub(super) fn note_window(&self, idle: &IdleTracker) {
        if let Some(word) = &self.window {
            word.write(idle.window());
        }
    }

    /// The window of time that was last written to shared memory (`note_window`); 0 where there is none.
    pub fn noted_window(&self) -> u16 {
        self.window.as_ref().map_or(0, WindowWord::read)
    }

    /// Whether an entry without a slot here belongs to another process. While sleeping connections are being given
    /// away, only those given so far that sleep do: a connection that ends stays here until its driver was told and the
    /// entry is released. Once all are given away, every such entry does.
    pub(super) fn is_given(&self, index: u32) -> bool {
        match self.given {
            Given::Nothing => false,
            Given::Below(first) => index < first && self.entries.whereabouts(index).is_asleep(),
            Given::All => true,
        }
    }

    /// The ring and the slot that the connection of an entry has in this process. Another process may be writing the entry at
    /// this moment, with a slot of its own. So the slot counts only where this process has noted the entry as its occupant.
    pub(super) fn place(&self, index: u32) -> Option<(usize, u32)> {
        let (ring, slot) = self.entries.place(index)?;
        let occupant = self.by_slot.get(ring)?.get(slot as usize)?;
        (*occupant == index).then_some((ring, slot))
    }

    /// Whether the driver has been told of all that happened to sleeping connections.
    pub fn may_surrender(&self) -> bool {
        let has_told = !self.endings.has_untold() && self.moved.is_empty() && !self.socketless.has_drained();
        has_told && self.refused.is_empty()
    }

    /// Counts the segments that were dropped since the last call. The host counts those of all processes that had the
    /// sleeping connections one after the other: what it dropped while they were another's is not counted here.
    pub(super) fn count_dropped(&mut self, counters: &Counters) {
        let dropped = self.host.dropped();
        if self.given != Given::All {
            counters.segments_dropped.add(dropped.saturating_sub(self.dropped));
        }
        self.dropped = dropped;
        counters.segments_dropped.add(std::mem::take(&mut self.unanswered));
    }

    /// Begins to give the sleeping connections away. From now on none falls asleep, and none is woken by its peer.
    pub fn begin_to_give(&mut self) {
        self.rouse_drowsy();
        self.recall_all();
        self.given = Given::Below(0);
    }

    /// Gives away the next sleeping connection and returns its name. Nothing is sent to it from now on, and its state
    /// can be read until `give`. Looks at `rows` entries at most, and subtracts those that it looked at from `rows`.
    /// While connections are being given away, `None` with `rows` above 0 means that all are given away.
    pub fn next_to_give(&mut self, rows: &mut usize) -> Option<ConnId> {
        let Given::Below(first) = self.given else { return None };
        for index in first..self.entries.len() {
            if *rows == 0 {
                return None;
            }
            *rows -= 1;
            self.given = Given::Below(index + 1);
            if self.entries.whereabouts(index).is_asleep() {
                self.leaving = index;
                return Some(self.entries.name_of(index));
            }
        }
        None
    }

    /// Finishes giving away the connection that `next_to_give` named. Drops its driver's state, since its entry may
    /// have another connection if it comes back. Returns its sequence numbers (`Entries::said`).
    pub fn give(&mut self, name: ConnId) -> u64 {
        self.leaving = NO_ENTRY;
        let Some(index) = self.entries.find(name) else { return 0 };
        if let Some(state) = self.states.get_mut(index as usize) {
            *state = S::default();
        }
        self.entries.said(index)
    }

    /// Whether all sleeping connections are another process's.
    pub fn gave_all(&self) -> bool {
        self.given == Given::All
    }

    /// Whether the sleeping connections are being given away.
    pub fn is_giving(&self) -> bool {
        matches!(self.given, Given::Below(_))
    }

    /// Takes back the connections that were given away, as long as not all were: until then no other process has had
    /// them. Returns their names.
    pub fn stop_giving(&mut self) -> Vec<ConnId> {
        let Given::Below(first) = std::mem::replace(&mut self.given, Given::Nothing) else { return Vec::new() };
        let sleeps = |index: &u32| self.entries.whereabouts(*index).is_asleep();
        (0..first).filter(sleeps).map(|index| self.entries.name_of(index)).collect()
    }

    /// Gives all sleeping connections away: from now on they are another process's, and none falls asleep here or wakes.
    pub fn surrender<R: RingOps>(&mut self, around: &mut Around<'_, S, R>) -> Surrendered {
        self.rouse_drowsy();
        self.recall_all();
        self.note_window(around.idle);
        let counters = around.parts.counters;
        self.count_dropped(counters);
        let asleep = counters.asleep.get();
        counters.asleep.set(0);
        counters.live.sub(asleep);
        counters.handed_over.add(asleep);
        around.parts.acceptor.leave(asleep);
        let closings = self.endings.take_all().into_iter();
        let closings = closings.map(|(index, closing)| (self.said_at(index), closing.to_numbers())).collect();
        let unsent = self.unsent.take_all().into_iter().filter_map(|(name, Kept { bytes, flown, closes })| {
            let at = self.said_at(self.entries.find(name)?);
            Some(UnsentOf { at, bytes, flown, closes: closes.map(Closes::from) })
        });
        let unsent = unsent.collect();
        self.keepalive.forget_all();
        self.entries.surrender();
        self.given = Given::All;
        Surrendered { closings, unsent }
    }

    /// The name of an entry's connection, and its sequence numbers now.
    fn said_at(&self, index: u32) -> SaidAt {
        (self.entries.name_of(index), self.entries.said(index))
    }

    /// Connections are lost that are awake in a process which is gone.
    pub fn lose_those_away<R: RingOps>(&mut self, around: &Around<'_, S, R>) {
        for index in 0..self.entries.len() {
            match self.entries.whereabouts(index) {
                Whereabouts::Away => {
                    around.parts.counters.lost_in_takeover.add(1);
                    self.entries.release(index);
                }
                // The other process could not tell of it any more.
                Whereabouts::Over => self.entries.ended_away(index),
                _ => {}
            }
        }
        let entries = &self.entries;
        self.host.retain(&|index| !entries.whereabouts(index).is_free());
    }

    /// The entries, the table and the ring buffer are another process's yet.
    pub fn await_take_over(&mut self) {
        self.given = Given::All;
    }

    /// Sockets may have another process's program from now on.
    pub fn expect_other_programs(&mut self) {
        self.host.expect_other_programs();
    }

    /// Whether nothing of an earlier sleep waits for a grace period any more.
    pub fn is_settled(&self) -> bool {
        self.host.is_settled()
    }

    /// Those that are being put to sleep stay awake.
    fn rouse_drowsy(&mut self) {
        for drowsy in std::mem::take(&mut self.drowsy) {
            if drowsy.socket.is_some() && self.entries.find(drowsy.name).is_some() {
                if self.entries.whereabouts(drowsy.index) == Whereabouts::Drowsy {
                    self.leave_table(drowsy.index);
                }
                self.entries.woke(drowsy.index, drowsy.conn);
                self.stamps.used(drowsy.conn);
            }
            self.host.end_transit();
        }
        self.grace_look = None;
    }

    /// Takes over the sleeping connections that another process hands over, or has left when it was killed. A
    /// connection that was awake is lost if neither the process that hands over nor this one has its socket. A part of
    /// `surrendered` counts only if its connection's sequence numbers are still the same. A connection with bytes on
    /// their way that `surrendered` lacks is reset and lost, as they cannot be sent again. `keeps` is asked for each
    /// sleeping connection, with its sequence numbers, whether all that it needs is here; if not, it is reset and lost.
    pub fn take_over<R: RingOps>(
        &mut self,
        around: &mut Around<'_, S, R>,
        surrendered: Surrendered,
        is_handed_over: bool,
        keeps: &dyn Fn(ConnId, u64) -> bool,
    ) -> Result<()> {
        self.entries.catch_up().map_err(no_memory)?;
        self.host.catch_up();
        self.socketless.came();
        let here: HashSet<u32> = self.by_slot.iter().flatten().copied().filter(|entry| *entry != NO_ENTRY).collect();
        let found = self.entries.take_stock(|index| is_handed_over || here.contains(&index));
        self.count_dropped(around.parts.counters);
        self.given = Given::Nothing;
        self.ended_away.clear();
        if !is_handed_over {
            let entries = &self.entries;
            self.host.retain(&|index| entries.whereabouts(index).is_kept());
        }
        let waiting = surrendered.unsent.iter().map(|unsent| unsent.at);
        let here_still = |at: SaidAt| self.entries.find(at.0).filter(|index| self.said_at(*index) == at);
        let sendable: HashSet<u32> = waiting.filter_map(here_still).collect();
        let refused = self.refuse(&sendable, keeps);
        let asleep = u64::from(found.asleep) - refused;
        self.states.reach((self.entries.len() as usize).saturating_sub(1));
        let counters = around.parts.counters;
        counters.asleep.add(asleep);
        counters.live.add(asleep);
        counters.taken_over.add(asleep);
        counters.lost_in_takeover.add(u64::from(found.lost) + refused);
        around.parts.acceptor.enter_anyway(asleep);
        let Surrendered { closings, unsent } = surrendered;
        let closings: HashMap<SaidAt, Closing> =
            closings.iter().filter_map(|(at, numbers)| Some((*at, Closing::of_numbers(*numbers)?))).collect();
        for index in found.ending {
            let closing = closings.get(&self.said_at(index)).copied();
            self.resume_end(around, index, closing);
        }
        for UnsentOf { at, bytes, flown, closes } in unsent {
            if let Some(index) = self.asleep(at.0)
                && self.said_at(index) == at
            {
                self.entries.move_to(index, Whereabouts::Sending);
                self.unsent.put(at.0, &bytes, flown, closes.map(Closes::how));
            }
        }
        Ok(())
    }

    /// Has those reset that cannot go on here: `keeps` does not keep them, or something was on its way to their peers that is
    /// not `sendable` again. Returns how many.
    fn refuse(&mut self, sendable: &HashSet<u32>, keeps: &dyn Fn(ConnId, u64) -> bool) -> u64 {
        let before = self.refused.len();
        for index in 0..self.entries.len() {
            let whereabouts = self.entries.whereabouts(index);
            let sends = whereabouts == Whereabouts::Sending;
            let is_cut = sends && !sendable.contains(&index);
            if is_cut || whereabouts.is_asleep() && !keeps(self.entries.name_of(index), self.entries.said(index)) {
                // Only a peer itself knows how much it has of what it was sent, and takes a RST only with that number. So it is
                // asked, as by a keepalive probe. Nothing knows the connection by then, and the kernel resets it for the answer.
                let told: fn(&Progress) -> Answer = if sends { Answer::probe } else { Answer::reset };
                self.entries.move_to(index, Whereabouts::Ending);
                self.refused.push(Refused(index, told));
            }
        }
        (self.refused.len() - before) as u64
    }

    /// Resets some of those that cannot go on here. Their driver has never heard of them.
    pub(super) fn refuse_some(&mut self, counters: &Counters) {
        for Refused(index, told) in self.refused.split_off(self.refused.len().saturating_sub(REFUSALS_PER_PASS)) {
            if let Some(checkpoint) = self.entries.checkpoint(index) {
                self.leave_table(index);
                self.answer(counters, &checkpoint, told(&checkpoint.progress), 0);
            }
            self.entries.release(index);
        }
    }

    /// Gives a connection that was handed over its slot here. `false` if its name is not known.
    pub fn arrive(&mut self, name: ConnId, conn: ConnId) -> bool {
        let Some(index) = self.entries.find(name).filter(|index| self.entries.whereabouts(*index) == Whereabouts::Away)
        else {
            return false;
        };
        self.settle_in(index, conn);
        true
    }

    /// Entries of connections that ended here since the others were given away.
    pub fn take_ended_away(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.ended_away)
    }

    /// Connections of these entries have ended in the process that hands over.
    pub fn ended_away(&mut self, entries: &[u32]) {
        entries.iter().for_each(|index| self.entries.ended_away(*index));
    }
}
