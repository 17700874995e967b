//! Hibernation: idle connections without a socket. A third way to wait, beside a poll and a filter.
//!
//! ```text
//!              silent for long            nothing in flight
//!     AWAKE ──────────────────▶ DROWSY ─────────────────────▶ ASLEEP ─── FIN ───▶ ENDING
//!       ▲  ◀── something came ────┘       grace period over     │
//!       └──────────── a segment with data, or something to send ┘
//! ```
//!
//! A drowsy connection is in the catcher's table, and still has its socket: segments that come for it are caught, and
//! let go. When a grace period has passed no segment can be on its way to the socket any more, so what `checkpoint`
//! reads is all there is. Then the socket is given up.
//!
//! Where connections may sleep the driver knows each by the name of its entry (`entries.rs`), which it keeps for life,
//! and not by its slot, which it has only while it is awake. `Connections` translates.

mod caught;
mod descriptors;
mod drowsy;
mod endings;
mod entries;
mod handover;
mod host;
mod inquiry;
mod keepalive;
mod kernel;
mod records;
mod socketless;
mod stamps;
mod unsent;
mod wake;

use std::collections::hash_map::RandomState;
use std::collections::{HashMap, VecDeque};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::endings::Parts;
use super::idle::IdleTracker;
use super::readiness::Readiness;
use super::slots::{Cursor, Slots};
#[cfg(feature = "tls")]
use super::tls::Tls;
use crate::chunks::Chunks;
use crate::clock::{Clock, Mark};
use crate::error::Result;
use crate::hibernation::Tuple;
use crate::hibernation::challenge::ChallengeLimit;
use crate::plan;
use crate::ring::RingOps;
use crate::stats::{Counters, Wakes};
use crate::token::ConnId;
pub(crate) use caught::Arrival;
use caught::Delivery;
use drowsy::Drowsy;
use endings::SleeperEndings;
pub use entries::EntryMemory;
use entries::{Entries, Whereabouts};
use handover::{Given, Refused};
pub use handover::{Surrendered, UnsentOf, WindowWord};
pub use host::{Caught, HibernationHost};
use inquiry::Inquiry;
use keepalive::SleeperKeepalive;
pub use kernel::KernelHost;
use socketless::Socketless;
use stamps::Stamps;
pub(super) use unsent::Kept;
use unsent::Unsent;
pub(super) use wake::Wake;

/// How a shard's connections sleep.
pub struct HibernationConfig {
    /// Silence after which the peer of a sleeping connection is asked whether it is there; `None` asks none.
    pub keepalive: Option<Duration>,
    /// The silence after which a connection is put to sleep.
    pub after: Duration,
    /// Entries of the shard at most, each with a name: as many as its connections and its slots together
    /// (`HibernationConfig::names`).
    pub most: u32,
    /// Connections that are being put to sleep at most, each with a file descriptor of its own.
    pub most_drowsy: usize,
    /// Keep a file descriptor of each connection that is awake. Needed before Linux 6.8, where a slot's socket cannot
    /// be given one later.
    pub keeps_descriptors: bool,
    /// Where entries lie so that they outlive this process; with `None` they end with it.
    pub memory: Option<(EntryMemory, WindowWord)>,
    /// A short message of a sleeping connection needs no socket, if its driver has what it needs for that: not with TLS.
    pub socketless: bool,
    /// Where it is counted how long wakes take.
    pub wakes: Arc<Wakes>,
    /// The kernel.
    pub host: Box<dyn HibernationHost + Send>,
}

impl HibernationConfig {
    /// How many connections of a shard may be drowsy, if it has so many descriptors to spare: half of them.
    pub fn most_drowsy(spare: u64) -> usize {
        (spare / 2).clamp(plan::FEWEST_DROWSY, MOST_DROWSY) as usize
    }

    /// The names that a shard needs for so many connections, with so many slots.
    pub fn names(connections: u64, slots: u64) -> u32 {
        u32::try_from(connections.saturating_add(slots)).unwrap_or(u32::MAX)
    }
}

/// Connections that are drowsy at once at most. A grace period of 50 ms lets 80,000 a second fall asleep with them.
const MOST_DROWSY: u64 = 4_096;

/// While a grace period is awaited, the shard looks this often whether it has passed. The kernel takes 10 to 50 ms for
/// one (`sys/grace.rs`).
const GRACE_LOOK: Duration = Duration::from_millis(2);

/// A slot whose occupant has no entry.
const NO_ENTRY: u32 = u32::MAX;

/// The connections of a shard that may sleep. `S` is the driver's state of each.
pub(super) struct Hibernation<S> {
    host: Box<dyn HibernationHost>,
    entries: Entries,
    /// The driver's states of sleeping connections.
    states: Chunks<S>,
    /// The entry of each slot's occupant, by ring.
    by_slot: Vec<Vec<u32>>,
    stamps: Stamps,
    drowsy: VecDeque<Drowsy>,
    /// File descriptors of connections that are awake, where they must be kept.
    kept: Option<HashMap<(usize, u32), OwnedFd>>,
    most_drowsy: usize,
    /// When to look again whether a grace period has passed.
    grace_look: Option<Instant>,
    endings: SleeperEndings,
    keepalive: SleeperKeepalive,
    inquiry: Inquiry,
    challenges: ChallengeLimit,
    /// The payload that woke a connection last.
    delivery: Option<Delivery>,
    /// Segments that could not be answered or let go, as no slot was free or the kernel lacked memory, and that were not
    /// counted yet.
    unanswered: u64,
    /// Segments that the host has dropped until now, in whatever process.
    dropped: u64,
    wakes: Arc<Wakes>,
    unsent: Unsent,
    socketless: Socketless,
    /// Connections that fell asleep or woke, and whose driver was not told yet: with whether they woke.
    moved: VecDeque<(ConnId, bool)>,
    /// The bytes of the caught segment.
    bytes: Vec<u8>,
    /// A poll on the ring buffer of caught segments is in the kernel.
    polled: bool,
    /// Where later processes read which window of time it is.
    window: Option<WindowWord>,
    /// What of the sleeping connections is another process's.
    given: Given,
    /// The entry whose connection is just given away: its state can still be read.
    leaving: u32,
    /// Connections that another process has left without what they need: they are reset.
    refused: Vec<Refused>,
    /// Entries of connections that ended here since all sleeping connections were given away (`Given::All`).
    ended_away: Vec<u32>,
}

/// The parts of the engine that hibernation touches.
pub(super) struct Around<'a, S, R> {
    /// Those that the end of a connection touches too.
    pub parts: Parts<'a, S, R>,
    /// How idle connections wait that are awake.
    pub readiness: &'a mut Readiness,
    /// When connections were last heard.
    pub idle: &'a IdleTracker,
    /// The shard's clock.
    pub clock: &'a Clock,
    /// How the connections speak TLS, if they do.
    #[cfg(feature = "tls")]
    pub tls: Option<&'a Tls>,
}

impl<S: Default> Hibernation<S> {
    /// Has connections of so many rings sleep. Nothing sleeps yet.
    pub fn new(config: HibernationConfig, rings: usize, now: Mark) -> Result<Hibernation<S>> {
        let (entries, window) = match config.memory {
            Some((memory, window)) => {
                let entries = Entries::in_memory(memory, config.most).map_err(handover::no_memory)?;
                (entries, Some(window))
            }
            None => (Entries::new(config.most), None),
        };
        Ok(Hibernation {
            dropped: config.host.dropped(),
            host: config.host,
            entries,
            states: Chunks::default(),
            by_slot: vec![Vec::new(); rings],
            stamps: Stamps::new(rings, config.after, now),
            drowsy: VecDeque::new(),
            kept: config.keeps_descriptors.then(HashMap::new),
            most_drowsy: config.most_drowsy.max(1),
            grace_look: None,
            endings: SleeperEndings::default(),
            keepalive: SleeperKeepalive::new(config.keepalive, now),
            inquiry: Inquiry::new(now),
            challenges: ChallengeLimit::new(RandomState::new()),
            delivery: None,
            unanswered: 0,
            wakes: config.wakes,
            unsent: Unsent::default(),
            socketless: Socketless::new(config.socketless, config.after),
            moved: VecDeque::new(),
            bytes: Vec::new(),
            polled: false,
            window,
            given: Given::Nothing,
            leaving: NO_ENTRY,
            refused: Vec::new(),
            ended_away: Vec::new(),
        })
    }

    // ---- names -----------------------------------------------------------------------------------

    /// Gives a name to a connection that begins to open. `None` if the shard may have no more connections.
    pub fn assign_name(&mut self, conn: ConnId) -> Option<ConnId> {
        if self.given.freezes() {
            return None;
        }
        let index = match self.entries.claim(conn) {
            Some(index) => index,
            None => {
                self.give_up_an_end();
                self.entries.claim(conn)?
            }
        };
        self.settle_in(index, conn);
        Some(self.entries.name_of(index))
    }

    /// The connection of an entry has this slot now.
    fn settle_in(&mut self, index: u32, conn: ConnId) {
        self.entries.woke(index, conn);
        self.stamps.used(conn);
        if let Some(ring) = self.by_slot.get_mut(conn.ring()) {
            let slot = conn.slot() as usize;
            if ring.len() <= slot {
                ring.resize(slot + 1, NO_ENTRY);
            }
            ring[slot] = index;
        }
    }

    /// The entry of a slot's occupant.
    fn index_at(&self, conn: ConnId) -> Option<u32> {
        let index = *self.by_slot.get(conn.ring())?.get(conn.slot() as usize)?;
        (index != NO_ENTRY).then_some(index)
    }

    /// The name of a slot's occupant.
    pub fn name_of(&self, conn: ConnId) -> Option<ConnId> {
        self.index_at(conn).map(|index| self.entries.name_of(index))
    }

    /// The slot's occupant that has a name. `None` while it sleeps, and once it is gone.
    pub fn find<R: RingOps>(&self, slots: &Slots<S, R>, name: ConnId) -> Option<ConnId> {
        let (ring, slot) = self.place(self.entries.find(name)?)?;
        slots.latest(ring, slot).map(|(conn, _)| conn)
    }

    /// The entry of a name whose connection sleeps.
    fn asleep(&self, name: ConnId) -> Option<u32> {
        let asleep = |index: &u32| self.entries.whereabouts(*index).is_asleep() && !self.is_given(*index);
        self.entries.find(name).filter(asleep)
    }

    /// Whether the connection of a name sleeps.
    pub fn is_asleep(&self, name: ConnId) -> bool {
        self.asleep(name).is_some()
    }

    /// The occupant of a slot is over, or has no socket any more.
    pub fn leave_slot(&mut self, ring: usize, slot: u32) {
        self.drop_descriptor(ring, slot);
        if let Some(entry) = self.by_slot.get_mut(ring).and_then(|ring| ring.get_mut(slot as usize)) {
            *entry = NO_ENTRY;
        }
    }

    /// The driver's state of a sleeping connection.
    pub fn state(&self, name: ConnId) -> Option<&S> {
        self.states.get(self.asleep_or_ended(name)? as usize)
    }

    /// The driver's state of a sleeping connection.
    pub fn state_mut(&mut self, name: ConnId) -> Option<&mut S> {
        let index = self.asleep_or_ended(name)?;
        self.states.get_mut(index as usize)
    }

    fn asleep_or_ended(&self, name: ConnId) -> Option<u32> {
        let index = self.entries.find(name)?;
        let ours = !self.is_given(index) || index == self.leaving;
        (ours && self.entries.whereabouts(index).is_kept()).then_some(index)
    }

    /// Connections without a slot: those that sleep, and those that slept and whose FIN is to be acknowledged yet.
    pub fn without_slot(&self, counters: &Counters) -> u64 {
        counters.asleep.get() + self.endings.unacknowledged()
    }

    /// The window of time in which a sleeping connection was last heard.
    pub fn heard(&self, name: ConnId) -> Option<u16> {
        self.asleep(name).map(|index| self.entries.heard(index))
    }

    /// The ends of a sleeping connection.
    pub fn tuple(&self, name: ConnId) -> Option<Tuple> {
        self.entries.tuple(self.asleep_or_ended(name)?)
    }

    // ---- walking the names -----------------------------------------------------------------------

    /// Moves a cursor behind the next entry that ever had a connection, and returns its name if its connection is
    /// open, awake or asleep. `None` behind the last entry, and the cursor is at the start again.
    pub fn next<R: RingOps>(&self, slots: &Slots<S, R>, cursor: &mut Cursor) -> Option<Option<ConnId>> {
        self.entries.next(cursor).map(|index| self.open_at(slots, index))
    }

    /// Moves a cursor before the entry that comes before it, and returns that as `next` does; `None` at the start.
    pub fn previous<R: RingOps>(&self, slots: &Slots<S, R>, cursor: &mut Cursor) -> Option<Option<ConnId>> {
        let index = self.entries.index_behind(*cursor).checked_sub(1)?;
        *cursor = Entries::cursor_before(index);
        Some(self.open_at(slots, index))
    }

    /// The name of an entry whose connection is open.
    pub fn open_at<R: RingOps>(&self, slots: &Slots<S, R>, index: u32) -> Option<ConnId> {
        let open = match self.entries.whereabouts(index) {
            Whereabouts::Asleep | Whereabouts::Sending => !self.is_given(index),
            Whereabouts::Free | Whereabouts::Ending | Whereabouts::Over => false,
            Whereabouts::Awake | Whereabouts::Drowsy | Whereabouts::Roused | Whereabouts::Away => {
                let (ring, slot) = self.place(index)?;
                slots.latest(ring, slot).is_some_and(|(_, row)| row.lifecycle.is_live())
            }
        };
        open.then(|| self.entries.name_of(index))
    }

    /// The name of the entry behind a cursor, if its connection is open.
    pub fn open_behind<R: RingOps>(&self, slots: &Slots<S, R>, cursor: Cursor) -> Option<ConnId> {
        self.open_at(slots, self.entries.index_behind(cursor))
    }

    // ---- the shard's passes ----------------------------------------------------------------------

    /// A connection is used: it is not silent.
    #[inline]
    pub fn used(&mut self, conn: ConnId) {
        self.stamps.used(conn);
    }

    /// Whether there is work that must not wait.
    pub fn has_work(&mut self) -> bool {
        if self.given.freezes() {
            return false;
        }
        !self.refused.is_empty()
            || self.host.has_caught()
            || self.grace_is_over()
            || (self.stamps.is_looking() && self.may_make_drowsy())
    }

    /// When something is due that no segment brings.
    pub fn due(&self, clock: &Clock) -> Option<Instant> {
        if self.given.freezes() {
            return None;
        }
        let look = self.stamps.due().map(|due| clock.due(due));
        let ending = self.endings.due().map(|due| clock.due(due));
        let probes = self.keepalive.due().filter(|_| self.entries.len() > 0).map(|due| clock.due(due));
        let inquiry = self.inquiry.due().map(|due| clock.due(due));
        let flight = self.socketless.due().map(|due| clock.due(due));
        let unsent = (!self.unsent.is_empty()).then(|| clock.due(clock.now().after(unsent::PAUSE)));
        [look, ending, probes, inquiry, flight, unsent, self.grace_look].into_iter().flatten().min()
    }

    /// Whether one more connection may become drowsy.
    fn may_make_drowsy(&self) -> bool {
        self.drowsy.len() < self.most_drowsy
    }

    fn grace_is_over(&mut self) -> bool {
        let grace = self.drowsy.front().and_then(|first| first.grace);
        grace.is_some_and(|number| self.host.grace_passed(number))
    }

    /// The next connection that fell asleep or woke, and of which the driver was not told yet; with whether it woke.
    pub fn next_moved(&mut self) -> Option<(ConnId, bool)> {
        self.moved.pop_front()
    }

    /// Puts connections to sleep that have been silent for long, a bounded number, and does what is due for those that
    /// sleep. Once the time for that `is_over`, each kind of work does one more step, and the next pass goes on with the rest:
    /// connections fall asleep, silent ones are looked for, timers of ends are served, and sleepers are closed for their
    /// silence.
    pub fn turn<R: RingOps>(
        &mut self,
        around: &mut Around<'_, S, R>,
        now: Instant,
        is_over: &impl Fn() -> bool,
    ) -> Result<()> {
        self.host.turn();
        self.count_dropped(around.parts.counters);
        if self.given.freezes() {
            return Ok(());
        }
        self.refuse_some(around.parts.counters);
        self.note_window(around.idle);
        // While slots are short, time does not end this: connections that wait for a slot wait longer than messages do.
        let is_short = self.is_short_of_slots(around.parts.slots, around.parts.acceptor);
        let stops = || !is_short && is_over();
        self.settle(around, stops)?;
        self.look_for_silent(around, is_short, stops)?;
        self.serve_endings(around, is_over);
        self.keep_alive(around);
        self.inquire(around);
        if self.drowsy.is_empty() {
            self.grace_look = None;
        } else if self.grace_look.is_none_or(|at| at <= now) {
            self.grace_look = Some(now + GRACE_LOOK);
        }
        Ok(())
    }

    /// Takes a connection out of the table: its segments go to its socket again, or to the listener.
    fn leave_table(&mut self, index: u32) {
        if let Some(tuple) = self.entries.tuple(index) {
            self.host.remove(&tuple, index);
        }
    }
}
