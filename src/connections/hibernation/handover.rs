//! Sleeping connections from one process to the next. They lie in memory that both have mapped, so that all of a shard
//! change hands at one instant, whether the first process gives them away or was killed.

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::entries::Whereabouts;
use super::{Around, Hibernation, NO_ENTRY};
use crate::connections::idle::IdleTracker;
use crate::error::{Errno, Error, HibernationReason, HostError, Result};
use crate::hibernation::closing::Closing;
use crate::ring::RingOps;
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

/// What is known of a shard's sleeping connections beside their entries. Empty where the process was killed that knew
/// it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Surrendered {
    /// How far the ends have come that are under way, by entry.
    pub closings: Vec<(u32, [u32; 2])>,
    /// Bytes that wait for a free slot, by name.
    pub unsent: Vec<(ConnId, Vec<u8>)>,
}

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

    /// The window of time in which an earlier process wrote down last which it is.
    pub fn noted_window(&self) -> u16 {
        self.window.as_ref().map_or(0, WindowWord::read)
    }

    /// Whether the driver has been told of all that happened to sleeping connections.
    pub fn may_surrender(&self) -> bool {
        !self.endings.has_untold() && self.moved.is_empty()
    }

    /// Gives all sleeping connections away: from now on they are another process's, and none falls asleep here or wakes.
    pub fn surrender<R: RingOps>(&mut self, around: &mut Around<'_, S, R>) -> Surrendered {
        self.rouse_drowsy();
        self.note_window(around.idle);
        let counters = around.parts.counters;
        let asleep = counters.asleep.get();
        counters.asleep.set(0);
        counters.live.sub(asleep);
        counters.handed_over.add(asleep);
        (0..asleep).for_each(|_| around.parts.acceptor.leave());
        let closings = self.endings.take_all().into_iter().map(|(index, closing)| (index, closing.to_numbers()));
        let unsent = std::mem::take(&mut self.unsent_bytes).into_iter().collect();
        (self.unsent, self.unsent_total) = Default::default();
        let surrendered = Surrendered { closings: closings.collect(), unsent };
        self.entries.surrender();
        self.surrendered = true;
        surrendered
    }

    /// Connections are lost that are awake in a process which is gone.
    pub fn lose_those_away<R: RingOps>(&mut self, around: &Around<'_, S, R>) {
        let away: Vec<u32> =
            (0..self.entries.len()).filter(|index| self.entries.whereabouts(*index) == Whereabouts::Away).collect();
        around.parts.counters.lost_in_takeover.add(away.len() as u64);
        away.into_iter().for_each(|index| self.entries.release(index));
        let entries = &self.entries;
        self.host.retain(&|index| entries.whereabouts(index) != Whereabouts::Free);
    }

    /// The entries, the table and the ring buffer are another process's yet.
    pub fn await_take_over(&mut self) {
        self.surrendered = true;
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

    /// Takes the sleeping connections over that another process has given away, or that an earlier one left when it was
    /// killed (`from` is `None`), or that this one gave to a process which was killed. Connections that were awake
    /// without a socket here or, with `from`, in the other process are lost.
    pub fn take_over<R: RingOps>(&mut self, around: &mut Around<'_, S, R>, from: Option<Surrendered>) -> Result<()> {
        self.entries.catch_up().map_err(no_memory)?;
        let here: HashSet<u32> = self.by_slot.iter().flatten().copied().filter(|entry| *entry != NO_ENTRY).collect();
        let found = self.entries.take_stock(|index| from.is_some() || here.contains(&index));
        self.surrendered = false;
        self.ended_away.clear();
        if from.is_none() {
            let entries = &self.entries;
            self.host.retain(&|index| entries.whereabouts(index).is_kept());
        }
        let asleep = u64::from(found.asleep);
        self.states.reach((self.entries.len() as usize).saturating_sub(1));
        let counters = around.parts.counters;
        counters.asleep.add(asleep);
        counters.live.add(asleep);
        counters.taken_over.add(asleep);
        counters.lost_in_takeover.add(found.lost.into());
        (0..asleep).for_each(|_| around.parts.acceptor.enter_anyway());
        let from = from.unwrap_or_default();
        let closings: HashMap<u32, Closing> = from
            .closings
            .iter()
            .filter_map(|(index, numbers)| Some((*index, Closing::of_numbers(*numbers)?)))
            .collect();
        for index in found.ending {
            self.resume_end(around, index, closings.get(&index).copied());
        }
        for (name, bytes) in from.unsent {
            if self.is_asleep(name) {
                self.unsent_total += bytes.len();
                self.unsent.push_back(name);
                self.unsent_bytes.insert(name, bytes);
            }
        }
        Ok(())
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

    /// The connection of a slot is another process's now.
    pub fn departed(&mut self, conn: ConnId) {
        self.leave_slot(conn.ring(), conn.slot());
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
