//! One entry for each connection of a shard where connections may sleep: the name by which the driver knows it, and
//! where it is. While the connection sleeps its entry is all that is kept of it: 40 bytes with IPv4, and 32 more with
//! IPv6.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

use crate::chunks::Chunks;
use crate::connections::slots::Cursor;
use crate::constants::SLOT_BITS;
use crate::hibernation::{Checkpoint, Negotiated, Progress, Scales, Tuple};
use crate::token::ConnId;

/// Where the connection of an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(u8)]
pub(super) enum Whereabouts {
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
    /// It slept, and one side has ended it. Its FIN is to be acknowledged yet. The driver knows it no more.
    Ending,
}

/// What was agreed on in the handshake, one bit each.
const SCALED: u8 = 1;
const SACK: u8 = 1 << 1;
const TIMESTAMPS: u8 = 1 << 2;
/// The ends are known. They are asked for once in a connection's life.
const KNOWN: u8 = 1 << 3;
/// The addresses are in `Entries::addresses`, at the index `Entry::remote`.
const IPV6: u8 = 1 << 4;

/// Bits of `Entry::mode` for the whereabouts; those above are flags.
const WHEREABOUTS_BITS: u8 = 3;

/// End of the list of free entries.
const NONE: u32 = u32::MAX;

/// An entry: 40 bytes.
#[derive(Debug, Clone, Copy)]
struct Entry {
    /// The number of the entry's connection; it wraps after 2^32 connections.
    generation: u32,
    /// The IPv4 address of the peer, or an index.
    remote: u32,
    /// Our IPv4 address, or the interface of IPv6 addresses that are link-local.
    local: u32,
    remote_port: u16,
    local_port: u16,
    /// `rcv_nxt` of a sleeping connection; the place of one that is awake: its ring above `SLOT_BITS`, and its slot; of
    /// a free entry the next free one.
    received: u32,
    sent: u32,
    timestamp_offset: u32,
    mss: u16,
    /// The shift of the peer's windows in the upper half, of ours in the lower.
    scales: u8,
    /// The whereabouts in the lowest bits, and flags.
    mode: u8,
    /// Windows, shifted by their scales. The kernel announces windows in these units, so only bits are lost that no
    /// segment could carry.
    send_window: u16,
    receive_window: u16,
    largest_window: u16,
    /// The window of time in which the connection was last heard (`idle.rs`).
    heard: u16,
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
            largest_window: 0,
            heard: 0,
        }
    }
}

impl Entry {
    fn whereabouts(&self) -> Whereabouts {
        match self.mode & ((1 << WHEREABOUTS_BITS) - 1) {
            1 => Whereabouts::Awake,
            2 => Whereabouts::Drowsy,
            3 => Whereabouts::Roused,
            4 => Whereabouts::Asleep,
            5 => Whereabouts::Ending,
            _ => Whereabouts::Free,
        }
    }

    fn move_to(&mut self, whereabouts: Whereabouts) {
        self.mode = self.mode >> WHEREABOUTS_BITS << WHEREABOUTS_BITS | whereabouts as u8;
    }

    fn has(&self, flag: u8) -> bool {
        self.mode & flag << WHEREABOUTS_BITS != 0
    }

    fn shifts(&self) -> (u8, u8) {
        (self.scales >> 4, self.scales & 15)
    }
}

/// A window in the units of its scale. One that is larger than any segment can announce becomes the largest.
fn scaled(window: u32, shift: u8) -> u16 {
    u16::try_from(window >> shift).unwrap_or(u16::MAX)
}

/// The entries of a shard.
#[derive(Debug)]
pub(super) struct Entries {
    entries: Chunks<Entry>,
    /// The addresses of IPv6 connections, and the free ones.
    addresses: Chunks<Addresses>,
    free_addresses: Vec<u32>,
    free_head: u32,
    /// The most entries there may be.
    most: u32,
}

/// The index of a name's entry.
fn index_of(name: ConnId) -> usize {
    name.ring() << SLOT_BITS | name.slot() as usize
}

impl Entries {
    /// Has no entry yet, and `most` at most.
    pub fn new(most: u32) -> Entries {
        let (entries, addresses) = (Chunks::default(), Chunks::default());
        Entries { entries, addresses, free_addresses: Vec::new(), free_head: NONE, most }
    }

    /// The name of the present connection of an entry, by which the driver knows it.
    pub fn name_of(&self, index: u32) -> ConnId {
        let generation = self.entries.get(index as usize).map_or(0, |entry| entry.generation);
        ConnId::new((index >> SLOT_BITS) as usize, index & ((1 << SLOT_BITS) - 1), generation)
    }

    /// An entry for a connection that begins to open in a slot. `None` if there may be no more.
    pub fn claim(&mut self, conn: ConnId) -> Option<u32> {
        let index = if self.free_head != NONE {
            let index = self.free_head;
            self.free_head = self.entries.get(index as usize)?.received;
            index
        } else if (self.entries.len() as u64) < u64::from(self.most) {
            self.entries.push(Entry::default()) as u32
        } else {
            return None;
        };
        let entry = self.entries.get_mut(index as usize)?;
        *entry = Entry { generation: entry.generation, ..Entry::default() };
        self.woke(index, conn);
        Some(index)
    }

    /// The connection of an entry is no more.
    pub fn release(&mut self, index: u32) {
        let free_head = self.free_head;
        let Some(entry) = self.entries.get_mut(index as usize).filter(|entry| entry.mode != 0) else { return };
        if entry.has(IPV6) {
            self.free_addresses.push(entry.remote);
        }
        *entry = Entry { generation: entry.generation.wrapping_add(1), received: free_head, ..Entry::default() };
        self.free_head = index;
    }

    /// The driver knows the connection of this entry no more, but the entry is still needed.
    pub fn rename(&mut self, index: u32) {
        if let Some(entry) = self.entries.get_mut(index as usize) {
            entry.generation = entry.generation.wrapping_add(1);
        }
    }

    /// The entry of a name, if its connection is still known to the driver.
    pub fn find(&self, name: ConnId) -> Option<u32> {
        let entry = self.entries.get(index_of(name))?;
        let known = entry.generation == name.generation() && entry.whereabouts() != Whereabouts::Free;
        known.then_some(index_of(name) as u32)
    }

    /// Where the connection of an entry is.
    pub fn whereabouts(&self, index: u32) -> Whereabouts {
        self.entries.get(index as usize).map_or(Whereabouts::Free, Entry::whereabouts)
    }

    /// Moves the connection of an entry.
    pub fn move_to(&mut self, index: u32, whereabouts: Whereabouts) {
        if let Some(entry) = self.entries.get_mut(index as usize) {
            entry.move_to(whereabouts);
        }
    }

    /// The ring and the slot of a connection that has them.
    pub fn place(&self, index: u32) -> Option<(usize, u32)> {
        let entry = self.entries.get(index as usize)?;
        let placed = matches!(entry.whereabouts(), Whereabouts::Awake | Whereabouts::Drowsy | Whereabouts::Roused);
        let (ring, slot) = (entry.received >> SLOT_BITS, entry.received & ((1 << SLOT_BITS) - 1));
        placed.then_some((ring as usize, slot))
    }

    /// The connection has this slot now, and a socket.
    pub fn woke(&mut self, index: u32, conn: ConnId) {
        if let Some(entry) = self.entries.get_mut(index as usize) {
            entry.received = (conn.ring() as u32) << SLOT_BITS | conn.slot();
            entry.move_to(Whereabouts::Awake);
        }
    }

    /// All entries that ever had a connection: those before this one.
    pub fn len(&self) -> u32 {
        self.entries.len() as u32
    }

    // ---- what is known of a connection -----------------------------------------------------------

    /// Whether the ends of a connection are known.
    pub fn is_known(&self, index: u32) -> bool {
        self.entries.get(index as usize).is_some_and(|entry| entry.has(KNOWN))
    }

    /// Notes the ends of a connection, and what its handshake agreed on.
    pub fn identify(&mut self, index: u32, tuple: &Tuple, negotiated: &Negotiated) {
        let mut flags = KNOWN;
        let (remote, local) = match (tuple.remote, tuple.local) {
            (SocketAddr::V4(remote), SocketAddr::V4(local)) => ((*remote.ip()).into(), (*local.ip()).into()),
            (remote, local) => {
                flags |= IPV6;
                let scope = if let SocketAddr::V6(local) = local { local.scope_id() } else { 0 };
                (self.keep_addresses(Addresses([remote, local].map(octets))), scope)
            }
        };
        let Some(entry) = self.entries.get_mut(index as usize) else { return };
        for (given, flag) in [
            (negotiated.scales.is_some(), SCALED),
            (negotiated.sack, SACK),
            (negotiated.timestamp_offset.is_some(), TIMESTAMPS),
        ] {
            flags |= if given { flag } else { 0 };
        }
        let scales = negotiated.scales.map_or(0, |scales| scales.send << 4 | scales.receive);
        *entry = Entry {
            remote,
            local,
            remote_port: tuple.remote.port(),
            local_port: tuple.local.port(),
            timestamp_offset: negotiated.timestamp_offset.unwrap_or(0),
            mss: negotiated.mss,
            scales,
            mode: entry.mode | flags << WHEREABOUTS_BITS,
            ..*entry
        };
    }

    fn keep_addresses(&mut self, addresses: Addresses) -> u32 {
        let Some(index) = self.free_addresses.pop() else { return self.addresses.push(addresses) as u32 };
        if let Some(place) = self.addresses.get_mut(index as usize) {
            *place = addresses;
        }
        index
    }

    /// The ends of a connection.
    pub fn tuple(&self, index: u32) -> Option<Tuple> {
        let entry = self.entries.get(index as usize).filter(|entry| entry.has(KNOWN))?;
        let Entry { remote, local, remote_port, local_port, .. } = *entry;
        if entry.has(IPV6) {
            let scope = local;
            let Addresses([remote, local]) = *self.addresses.get(remote as usize)?;
            let end = |ip: [u8; 16], port| SocketAddrV6::new(Ipv6Addr::from(ip), port, 0, scope).into();
            return Some(Tuple { remote: end(remote, remote_port), local: end(local, local_port) });
        }
        let end = |ip: u32, port| SocketAddr::new(IpAddr::V4(Ipv4Addr::from(ip)), port);
        Some(Tuple { remote: end(remote, remote_port), local: end(local, local_port) })
    }

    /// What the handshake of a connection agreed on.
    pub fn negotiated(&self, index: u32) -> Option<Negotiated> {
        let entry = self.entries.get(index as usize).filter(|entry| entry.has(KNOWN))?;
        let (send, receive) = entry.shifts();
        Some(Negotiated {
            mss: entry.mss,
            scales: entry.has(SCALED).then_some(Scales { send, receive }),
            sack: entry.has(SACK),
            timestamp_offset: entry.has(TIMESTAMPS).then_some(entry.timestamp_offset),
        })
    }

    /// The connection sleeps, and has come so far; it was last heard in this window of time.
    pub fn fell_asleep(&mut self, index: u32, progress: &Progress, heard: u16) {
        self.progressed(index, progress);
        if let Some(entry) = self.entries.get_mut(index as usize) {
            entry.heard = heard;
            entry.move_to(Whereabouts::Asleep);
        }
    }

    /// A connection that sleeps or ends has come so far.
    pub fn progressed(&mut self, index: u32, progress: &Progress) {
        let Some(entry) = self.entries.get_mut(index as usize) else { return };
        let (send, receive) = entry.shifts();
        entry.received = progress.received;
        entry.sent = progress.sent;
        entry.send_window = scaled(progress.send_window, send);
        entry.receive_window = scaled(progress.receive_window, receive);
        entry.largest_window = scaled(progress.largest_window, send);
    }

    /// All that is kept of a connection that sleeps or ends.
    pub fn checkpoint(&self, index: u32) -> Option<Checkpoint> {
        let entry = self.entries.get(index as usize)?;
        if !matches!(entry.whereabouts(), Whereabouts::Asleep | Whereabouts::Ending) {
            return None;
        }
        let (send, receive) = entry.shifts();
        let progress = Progress {
            received: entry.received,
            sent: entry.sent,
            send_window: u32::from(entry.send_window) << send,
            receive_window: u32::from(entry.receive_window) << receive,
            largest_window: u32::from(entry.largest_window) << send,
        };
        Some(Checkpoint { tuple: self.tuple(index)?, negotiated: self.negotiated(index)?, progress })
    }

    /// The window of time in which a sleeping connection was last heard.
    pub fn heard(&self, index: u32) -> u16 {
        self.entries.get(index as usize).map_or(0, |entry| entry.heard)
    }

    // ---- walking ---------------------------------------------------------------------------------

    /// Moves a cursor behind the next entry that ever had a connection, and returns the entry. Behind the last one it
    /// returns `None`, and the cursor is at the start again.
    pub fn next(&self, cursor: &mut Cursor) -> Option<u32> {
        let index = self.index_behind(*cursor);
        if index >= self.len() {
            *cursor = Cursor::START;
            return None;
        }
        *cursor = Entries::cursor_before(index).after();
        Some(index)
    }

    /// The index of the entry behind a cursor, or the number of entries where there is none.
    pub fn index_behind(&self, cursor: Cursor) -> u32 {
        let slot = u64::from(cursor.slot.min(1 << SLOT_BITS));
        let index = (cursor.ring as u64).saturating_mul(1 << SLOT_BITS).saturating_add(slot);
        index.min(u64::from(self.len())) as u32
    }

    /// The cursor before an index.
    pub fn cursor_before(index: u32) -> Cursor {
        Cursor { ring: (index >> SLOT_BITS) as usize, slot: index & ((1 << SLOT_BITS) - 1) }
    }
}

/// The addresses of an IPv6 connection, the peer's and ours.
#[derive(Debug, Clone, Copy, Default)]
struct Addresses([[u8; 16]; 2]);

fn octets(end: SocketAddr) -> [u8; 16] {
    match end.ip() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    }
}

#[cfg(test)]
mod model;
