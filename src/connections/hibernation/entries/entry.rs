//! One entry: what is in it, and how it lies in memory.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::hibernation::Progress;
use crate::hibernation::round_trip::RoundTrip;

/// Where the connection of an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(u8)]
pub enum Whereabouts {
    /// The entry has no connection.
    #[default]
    Free,
    /// It has a slot, and a socket.
    Awake,
    /// It has a slot and a socket, and is in the catcher's table: it is being put to sleep.
    Drowsy,
    /// It was drowsy and has something to do again. It will not be put to sleep now.
    Roused,
    /// It sleeps.
    Asleep,
    /// It slept and has ended: by a FIN, a RST, a missing answer or a failed wake, or because it could not go on after
    /// a takeover. The entry stays until the driver was told of the end and the states from the FIN on
    /// (`hibernation/closing.rs`) are over.
    Ending,
    /// It has a slot and a socket in one of two processes, of which the other has the sleeping connections: they are
    /// being handed over.
    Away,
    /// It was away, and has ended. The other process has the list of free entries, and adds this one to it once.
    Over,
    /// It sleeps, and something is to be sent to its peer, or was sent and may have to be sent again, that only this process
    /// has. Should this process be killed, the connection is lost.
    Sending,
}

impl Whereabouts {
    /// Whether its entry has no connection.
    pub fn is_free(self) -> bool {
        matches!(self, Whereabouts::Free | Whereabouts::Over)
    }

    /// Whether its entry has all that is left of the connection, but for what is on its way.
    pub fn is_kept(self) -> bool {
        self.is_asleep() || self == Whereabouts::Ending
    }

    /// Whether it has no socket, and is open.
    pub fn is_asleep(self) -> bool {
        matches!(self, Whereabouts::Asleep | Whereabouts::Sending)
    }
}

/// What was agreed on in the handshake, one bit each.
pub(super) const SACK: u8 = 1;
pub(super) const TIMESTAMPS: u8 = 1 << 1;
/// The ends are known. They are asked for once in a connection's life.
pub(super) const KNOWN: u8 = 1 << 2;
/// The addresses are in `Entries::addresses`, at the index `Entry::remote`.
pub(super) const IPV6: u8 = 1 << 3;

/// Bits of `Entry::mode` for the whereabouts; those above are flags.
pub(super) const WHEREABOUTS_BITS: u8 = 4;

/// `Entry::scales` where window scaling was not agreed on. No shift is above 14 (RFC 7323, 2.3).
pub(super) const UNSCALED: u8 = 0xff;

/// End of the list of free entries.
pub(super) const NONE: u32 = u32::MAX;

/// An entry: 40 bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry {
    /// The number of the entry's connection; it wraps after 2^32 connections.
    pub generation: u32,
    /// The IPv4 address of the peer, or an index.
    pub remote: u32,
    /// Our IPv4 address, or the interface of IPv6 addresses that are link-local.
    pub local: u32,
    pub remote_port: u16,
    pub local_port: u16,
    /// `rcv_nxt` of a sleeping connection; the place of one that is awake: its ring above `SLOT_BITS`, and its slot; of
    /// a free entry the next free one.
    pub received: u32,
    pub sent: u32,
    pub timestamp_offset: u32,
    pub mss: u16,
    /// The shift of the peer's windows in the upper half, of ours in the lower; or `UNSCALED`.
    pub scales: u8,
    /// The whereabouts in the lowest bits, and flags.
    pub mode: u8,
    /// Windows, shifted by their scales. The kernel announces windows in these units, so only bits are lost that no
    /// segment could carry.
    pub send_window: u16,
    pub receive_window: u16,
    /// The peer's largest window, see `LARGEST_BITS`, and above it the class of the round-trip time.
    pub largest: u16,
    /// The window of time in which the connection was last heard (`idle.rs`).
    pub heard: u16,
}

const _: () = assert!(size_of::<Entry>() == 40, "a sleeping connection takes 40 bytes");

impl Default for Entry {
    fn default() -> Entry {
        Entry {
            generation: 0,
            remote: 0,
            local: 0,
            remote_port: 0,
            local_port: 0,
            received: NONE,
            sent: 0,
            timestamp_offset: 0,
            mss: 0,
            scales: 0,
            mode: 0,
            send_window: 0,
            receive_window: 0,
            largest: 0,
            heard: 0,
        }
    }
}

impl Entry {
    pub fn whereabouts(&self) -> Whereabouts {
        match self.mode & ((1 << WHEREABOUTS_BITS) - 1) {
            1 => Whereabouts::Awake,
            2 => Whereabouts::Drowsy,
            3 => Whereabouts::Roused,
            4 => Whereabouts::Asleep,
            5 => Whereabouts::Ending,
            6 => Whereabouts::Away,
            7 => Whereabouts::Over,
            8 => Whereabouts::Sending,
            _ => Whereabouts::Free,
        }
    }

    pub fn move_to(&mut self, whereabouts: Whereabouts) {
        self.mode = self.mode >> WHEREABOUTS_BITS << WHEREABOUTS_BITS | whereabouts as u8;
    }

    pub fn has(&self, flag: u8) -> bool {
        self.mode & flag << WHEREABOUTS_BITS != 0
    }

    /// The shifts of the peer's windows and of ours, if window scaling was agreed on.
    pub fn scales(&self) -> Option<(u8, u8)> {
        (self.scales != UNSCALED).then_some((self.scales >> 4, self.scales & 15))
    }

    /// The same; without window scaling they are 0.
    pub fn shifts(&self) -> (u8, u8) {
        self.scales().unwrap_or_default()
    }

    // ---- words -----------------------------------------------------------------------------------

    /// Its five words. Word `MODE` has the whereabouts and the flags. Word 2 has both sequence numbers, so that one
    /// store changes both.
    pub fn words(&self) -> [u64; WORDS] {
        let wide = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
        let narrow =
            |[a, b, c, d]: [u16; 4]| u64::from(a) | u64::from(b) << 16 | u64::from(c) << 32 | u64::from(d) << 48;
        let ports = u32::from(self.remote_port) | u32::from(self.local_port) << 16;
        let agreed = u32::from(self.mss) | u32::from(self.scales) << 16 | u32::from(self.mode) << 24;
        [
            wide(self.generation, self.remote),
            wide(self.local, ports),
            wide(self.received, self.sent),
            wide(self.timestamp_offset, agreed),
            narrow([self.send_window, self.receive_window, self.largest, self.heard]),
        ]
    }

    pub fn of(words: [u64; WORDS]) -> Entry {
        let (low, high) = (|word: u64| word as u32, |word: u64| (word >> 32) as u32);
        let [first, second, progress, mode, windows] = words;
        let (ports, agreed) = (high(second), high(mode));
        Entry {
            generation: low(first),
            remote: high(first),
            local: low(second),
            remote_port: ports as u16,
            local_port: (ports >> 16) as u16,
            received: low(progress),
            sent: high(progress),
            timestamp_offset: low(mode),
            mss: agreed as u16,
            scales: (agreed >> 16) as u8,
            mode: (agreed >> 24) as u8,
            send_window: windows as u16,
            receive_window: (windows >> 16) as u16,
            largest: (windows >> 32) as u16,
            heard: (windows >> 48) as u16,
        }
    }

    /// Reads an entry that another process may be writing. A word that is new implies those that were written before it.
    pub fn load(words: &[AtomicU64; WORDS]) -> Entry {
        Entry::of(std::array::from_fn(|at| words[at].load(Ordering::Acquire)))
    }

    /// Writes an entry so that it can be read at any instant.
    pub fn store(&self, before: &Entry, to: &[AtomicU64; WORDS]) {
        for (at, word) in self.changes(before) {
            to[at].store(word, Ordering::Release);
        }
    }

    /// The words that change, in the order in which they are written. An entry that begins to be all that is kept of its
    /// connection says so last, and one that is no longer says so first. So does one whose connection came back from being away.
    /// One whose connection has ended away says so last: from then on another process may use the entry for a new connection.
    pub fn changes(&self, before: &Entry) -> impl Iterator<Item = (usize, u64)> + use<> {
        let (old, new) = (before.words(), self.words());
        let (was, is) = (before.whereabouts(), self.whereabouts());
        let came_back = was == Whereabouts::Away && !matches!(is, Whereabouts::Away | Whereabouts::Over);
        let is_first = was.is_kept() && !is.is_kept() || came_back;
        let [first, last] = [is_first, !is_first].map(|here| here.then_some(MODE));
        let others = (0..WORDS).filter(|at| *at != MODE);
        let order = first.into_iter().chain(others).chain(last);
        order.filter(move |at| old[*at] != new[*at]).map(move |at| (at, new[at]))
    }
}

/// Words of an entry, and the one that has its whereabouts.
pub(super) const WORDS: usize = size_of::<Entry>() / size_of::<u64>();
const MODE: usize = 3;

/// Words of two IPv6 addresses.
pub(super) const ADDRESS_WORDS: usize = size_of::<Addresses>() / size_of::<u64>();

/// Bits of `Entry::largest` for the largest window, which is kept in units of eight times its scale and rounded down.
/// It limits how old an acknowledgement may be. The present window is exact, and a largest one below it counts as that.
const LARGEST_BITS: u32 = u16::BITS - RoundTrip::BITS;

/// A window in the units of its scale. One that is larger than any segment can announce becomes the largest.
fn scaled(window: u32, shift: u8) -> u16 {
    u16::try_from(window >> shift).unwrap_or(u16::MAX)
}

impl Entry {
    /// The connection has come so far.
    pub fn progress(&mut self, progress: &Progress) {
        let (send, receive) = self.shifts();
        self.received = progress.received;
        self.sent = progress.sent;
        self.send_window = scaled(progress.send_window, send);
        self.receive_window = scaled(progress.receive_window, receive);
        // Without a new measurement the class is as it was.
        let former = self.round_trip();
        let round_trip = progress.round_trip.map_or(former, |measured| former.after(measured));
        let largest = scaled(progress.largest_window, send) >> RoundTrip::BITS;
        self.largest = largest | round_trip.bits() << LARGEST_BITS;
    }

    /// The peer's largest window, shifted by its scale.
    pub fn largest_window(&self) -> u16 {
        (self.largest << RoundTrip::BITS).max(self.send_window)
    }

    /// The class of the round-trip time.
    pub fn round_trip(&self) -> RoundTrip {
        RoundTrip::of_bits(self.largest >> LARGEST_BITS)
    }

    /// The connection is no more. `next` is the next free entry.
    pub fn end(&mut self, next: u32) {
        *self = Entry { generation: self.generation.wrapping_add(1), received: next, ..Entry::default() };
    }
}

/// The addresses of an IPv6 connection, the peer's and ours.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Addresses(pub [[u8; 16]; 2]);

impl Addresses {
    pub fn words(self) -> [u64; ADDRESS_WORDS] {
        let Addresses([remote, local]) = self;
        let halves = |ip: [u8; 16]| {
            let number = u128::from_ne_bytes(ip);
            [number as u64, (number >> 64) as u64]
        };
        let ([a, b], [c, d]) = (halves(remote), halves(local));
        [a, b, c, d]
    }

    pub fn of([a, b, c, d]: [u64; ADDRESS_WORDS]) -> Addresses {
        let whole = |low: u64, high: u64| (u128::from(low) | u128::from(high) << 64).to_ne_bytes();
        Addresses([whole(a, b), whole(c, d)])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Another process frees the entry once it says that its connection has ended, and may give it to a newcomer at once.
    #[test]
    fn an_entry_that_ends_away_says_so_last() {
        let mut away = Entry { generation: 7, ..Entry::default() };
        away.move_to(Whereabouts::Away);
        let mut over = Entry { generation: 8, ..away };
        over.move_to(Whereabouts::Over);
        let order: Vec<usize> = over.changes(&away).map(|(at, _)| at).collect();
        assert_eq!((order.len(), order.last()), (2, Some(&MODE)));
    }
}
