//! One entry for each connection of a shard where connections may sleep: the name by which the driver knows it, and
//! where it is. While the connection sleeps its entry is all that is kept of it: 40 bytes with IPv4, and 32 more with
//! IPv6.
//!
//! Entries may lie in memory that outlives this process. So they are written in an order that leaves each readable at
//! any instant: one that is said to sleep has all that its connection needs.

mod entry;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::sync::atomic::Ordering;

use super::records::Records;
use crate::connections::slots::Cursor;
use crate::constants::SLOT_BITS;
use crate::hibernation::{Checkpoint, Negotiated, Progress, Scales, Tuple, octets};
use crate::sys::SharedMemory;
use crate::token::ConnId;
pub(super) use entry::Whereabouts;
use entry::{ADDRESS_WORDS, Addresses, Entry, IPV6, KNOWN, NONE, SACK, TIMESTAMPS, UNSCALED, WHEREABOUTS_BITS, WORDS};

/// The entries of a shard.
#[derive(Debug)]
pub(super) struct Entries {
    entries: Records<WORDS>,
    /// The addresses of IPv6 connections, and the free ones.
    addresses: Records<ADDRESS_WORDS>,
    free_addresses: Vec<u32>,
    free_head: u32,
    /// The most entries there may be.
    most: u32,
    /// Another process has the sleeping connections, and this one only those that it still has a slot for.
    surrendered: bool,
}

/// Where the entries of a shard lie so that they outlive this process.
#[derive(Debug)]
pub struct EntryMemory {
    /// The entries.
    pub entries: SharedMemory,
    /// The addresses of IPv6 connections.
    pub addresses: SharedMemory,
}

/// What a look at all entries found, in their order.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// Connections that sleep, with those to which something is on its way.
    pub asleep: u32,
    /// Those that end.
    pub ending: Vec<u32>,
    /// Connections that cannot go on: they were awake and have no socket any more, or their entry names no ends, or
    /// addresses that are not there. Their entries are free now.
    pub lost: u32,
}

/// A slot as an entry has it.
fn place_of(conn: ConnId) -> u32 {
    (conn.ring() as u32) << SLOT_BITS | conn.slot()
}

/// The index of a name's entry.
fn index_of(name: ConnId) -> usize {
    name.ring() << SLOT_BITS | name.slot() as usize
}

impl Entries {
    /// Has no entry yet, and `most` at most.
    pub fn new(most: u32) -> Entries {
        Entries {
            entries: Records::default(),
            addresses: Records::default(),
            free_addresses: Vec::new(),
            free_head: NONE,
            most,
            surrendered: false,
        }
    }

    /// Has the entries that lie in memory which outlives this process, and `most` at most. `take_stock` is to be called
    /// before any other method where there are some.
    pub fn in_memory(memory: EntryMemory, most: u32) -> io::Result<Entries> {
        let (entries, addresses) = (Records::in_memory(memory.entries)?, Records::in_memory(memory.addresses)?);
        Ok(Entries { entries, addresses, ..Entries::new(most) })
    }

    /// The most entries there may be.
    pub fn most(&self) -> u32 {
        self.most
    }

    /// An entry as it is now.
    #[inline]
    fn get(&self, index: u32) -> Option<Entry> {
        self.entries.get(index as usize).map(Entry::load)
    }

    /// Changes an entry.
    fn change(&self, index: u32, change: impl FnOnce(&mut Entry)) {
        let Some(words) = self.entries.get(index as usize) else { return };
        let before = Entry::load(words);
        let mut entry = before;
        change(&mut entry);
        entry.store(&before, words);
    }

    /// The name of the present connection of an entry, by which the driver knows it.
    pub fn name_of(&self, index: u32) -> ConnId {
        let generation = self.get(index).map_or(0, |entry| entry.generation);
        ConnId::new((index >> SLOT_BITS) as usize, index & ((1 << SLOT_BITS) - 1), generation)
    }

    /// An entry for a connection that begins to open in a slot. `None` if there may be no more.
    pub fn claim(&mut self, conn: ConnId) -> Option<u32> {
        let index = if self.free_head != NONE {
            let index = self.free_head;
            self.free_head = self.get(index)?.received;
            index
        } else if (self.entries.len() as u64) < u64::from(self.most) {
            self.entries.push()? as u32
        } else {
            return None;
        };
        self.change(index, |entry| {
            *entry = Entry { generation: entry.generation, received: place_of(conn), ..Entry::default() };
            entry.move_to(Whereabouts::Awake);
        });
        Some(index)
    }

    /// The connection of an entry is no more.
    pub fn release(&mut self, index: u32) {
        let Some(entry) = self.get(index).filter(|entry| !entry.whereabouts().is_free()) else { return };
        if self.surrendered {
            // The lists of what is free are the other process's. It finds the addresses by the entry.
            return self.change(index, |entry| {
                entry.generation = entry.generation.wrapping_add(1);
                entry.move_to(Whereabouts::Over);
            });
        }
        if entry.has(IPV6) {
            self.free_addresses.push(entry.remote);
        }
        self.change(index, |entry| entry.end(self.free_head));
        self.free_head = index;
    }

    /// The driver knows the connection of this entry no more, but the entry is still needed.
    pub fn rename(&mut self, index: u32) {
        self.change(index, |entry| entry.generation = entry.generation.wrapping_add(1));
    }

    /// The entry of a name, if its connection is still known to the driver.
    pub fn find(&self, name: ConnId) -> Option<u32> {
        let index = u32::try_from(index_of(name)).ok()?;
        let entry = self.get(index)?;
        let known = entry.generation == name.generation() && !entry.whereabouts().is_free();
        known.then_some(index)
    }

    /// Where the connection of an entry is.
    pub fn whereabouts(&self, index: u32) -> Whereabouts {
        self.get(index).map_or(Whereabouts::Free, |entry| entry.whereabouts())
    }

    /// Moves the connection of an entry.
    pub fn move_to(&mut self, index: u32, whereabouts: Whereabouts) {
        self.change(index, |entry| entry.move_to(whereabouts));
    }

    /// The ring and the slot of a connection that has them in this process.
    pub fn place(&self, index: u32) -> Option<(usize, u32)> {
        let entry = self.get(index)?;
        let placed = match entry.whereabouts() {
            Whereabouts::Awake | Whereabouts::Drowsy | Whereabouts::Roused => !self.surrendered,
            Whereabouts::Away => self.surrendered,
            Whereabouts::Free
            | Whereabouts::Asleep
            | Whereabouts::Sending
            | Whereabouts::Ending
            | Whereabouts::Over => false,
        };
        let (ring, slot) = (entry.received >> SLOT_BITS, entry.received & ((1 << SLOT_BITS) - 1));
        placed.then_some((ring as usize, slot))
    }

    /// The connection has this slot now, and a socket.
    pub fn woke(&mut self, index: u32, conn: ConnId) {
        self.change(index, |entry| {
            entry.received = place_of(conn);
            entry.move_to(Whereabouts::Awake);
        });
    }

    /// All entries that ever had a connection: those before this one.
    pub fn len(&self) -> u32 {
        self.entries.len() as u32
    }

    // ---- from process to process -----------------------------------------------------------------

    /// Gives all entries away but those of connections that have a slot here, which are away from now on.
    pub fn surrender(&mut self) {
        for index in 0..self.len() {
            let awake = [Whereabouts::Awake, Whereabouts::Drowsy, Whereabouts::Roused];
            if awake.contains(&self.whereabouts(index)) {
                self.move_to(index, Whereabouts::Away);
            }
        }
        self.surrendered = true;
    }

    /// Looks for entries that another process has added. To be called before `take_stock`.
    pub fn catch_up(&mut self) -> io::Result<()> {
        self.entries.catch_up()?;
        self.addresses.catch_up()
    }

    /// Takes entries over that another process, or an earlier one, has left: looks at all, and rebuilds the lists of
    /// free entries and of free addresses. `has_socket` tells of a connection that was awake whether it still has its
    /// socket: in the process that hands over, or here.
    pub fn take_stock(&mut self, has_socket: impl Fn(u32) -> bool) -> Found {
        let surrendered = std::mem::take(&mut self.surrendered);
        (self.free_head, self.free_addresses) = (NONE, Vec::new());
        let (mut found, mut used, mut taken) = (Found::default(), 0, vec![false; self.addresses.len()]);
        let mut free = Vec::new();
        for index in 0..self.len() {
            let Some(entry) = self.get(index) else { break };
            let addresses_are_there = !entry.has(IPV6) || (entry.remote as usize) < taken.len();
            let stays = match entry.whereabouts() {
                Whereabouts::Free | Whereabouts::Over => {
                    let ever = entry.words() != [0; WORDS];
                    used = if ever { index + 1 } else { used };
                    free.push(index);
                    continue;
                }
                // An entry that names no ends, or addresses that are not there, is of no use.
                whereabouts if whereabouts.is_kept() => entry.has(KNOWN) && addresses_are_there,
                _ => addresses_are_there && has_socket(index),
            };
            used = index + 1;
            if !stays {
                self.change(index, |entry| entry.end(NONE));
                found.lost += 1;
                free.push(index);
                continue;
            }
            if entry.has(IPV6) {
                taken[entry.remote as usize] = true;
            }
            match entry.whereabouts() {
                Whereabouts::Asleep | Whereabouts::Sending => found.asleep += 1,
                Whereabouts::Ending => found.ending.push(index),
                // What was handed over and returned is awake here again.
                Whereabouts::Away if surrendered => self.move_to(index, Whereabouts::Awake),
                _ => {}
            }
        }
        self.entries.truncate(used as usize);
        free.into_iter().rev().filter(|index| *index < used).for_each(|index| self.list_free(index));
        self.free_addresses.extend((0u32..).zip(&taken).filter(|(_, taken)| !**taken).map(|(at, _)| at));
        found
    }

    /// The connection of an entry that was away has ended in the other process, which has released the entry. Nothing
    /// happens if `take_stock` has found that already.
    pub fn ended_away(&mut self, index: u32) {
        let Some(entry) = self.get(index).filter(|entry| entry.whereabouts() == Whereabouts::Over) else { return };
        if entry.has(IPV6) && (entry.remote as usize) < self.addresses.len() {
            self.free_addresses.push(entry.remote);
        }
        self.list_free(index);
    }

    fn list_free(&mut self, index: u32) {
        let received = self.free_head;
        self.change(index, |entry| *entry = Entry { generation: entry.generation, received, ..Entry::default() });
        self.free_head = index;
    }

    // ---- what is known of a connection -----------------------------------------------------------

    /// Whether the ends of a connection are known.
    pub fn is_known(&self, index: u32) -> bool {
        self.get(index).is_some_and(|entry| entry.has(KNOWN))
    }

    /// Notes the ends of a connection, and what its handshake agreed on.
    pub fn identify(&mut self, index: u32, tuple: &Tuple, negotiated: &Negotiated) {
        let mut flags = KNOWN;
        let ends = match (tuple.remote, tuple.local) {
            (SocketAddr::V4(remote), SocketAddr::V4(local)) => (u32::from(*remote.ip()), u32::from(*local.ip())),
            (remote, local) => {
                flags |= IPV6;
                let scope = if let SocketAddr::V6(local) = local { local.scope_id() } else { 0 };
                let Some(kept) = self.keep_addresses(Addresses([remote, local].map(|end| octets(end.ip())))) else {
                    return;
                };
                (kept, scope)
            }
        };
        let (remote, local) = ends;
        for (given, flag) in [(negotiated.sack, SACK), (negotiated.timestamp_offset.is_some(), TIMESTAMPS)] {
            flags |= if given { flag } else { 0 };
        }
        let scales = negotiated.scales.map_or(UNSCALED, |scales| scales.send << 4 | scales.receive);
        self.change(index, |entry| {
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
            }
        });
    }

    /// `None` where the kernel gives no memory for them.
    fn keep_addresses(&mut self, addresses: Addresses) -> Option<u32> {
        let index = match self.free_addresses.pop() {
            Some(index) => index,
            None => self.addresses.push()? as u32,
        };
        let words = self.addresses.get(index as usize)?;
        for (word, value) in words.iter().zip(addresses.words()) {
            word.store(value, Ordering::Relaxed);
        }
        Some(index)
    }

    /// The ends of a connection.
    pub fn tuple(&self, index: u32) -> Option<Tuple> {
        let entry = self.get(index).filter(|entry| entry.has(KNOWN))?;
        let Entry { remote, local, remote_port, local_port, .. } = entry;
        if entry.has(IPV6) {
            let scope = local;
            let words = self.addresses.get(remote as usize)?;
            let Addresses([remote, local]) = Addresses::of(words.each_ref().map(|word| word.load(Ordering::Relaxed)));
            let end = |ip: [u8; 16], port| SocketAddrV6::new(Ipv6Addr::from(ip), port, 0, scope).into();
            return Some(Tuple { remote: end(remote, remote_port), local: end(local, local_port) });
        }
        let end = |ip: u32, port| SocketAddr::new(IpAddr::V4(Ipv4Addr::from(ip)), port);
        Some(Tuple { remote: end(remote, remote_port), local: end(local, local_port) })
    }

    /// What the handshake of a connection agreed on.
    pub fn negotiated(&self, index: u32) -> Option<Negotiated> {
        let entry = self.get(index).filter(|entry| entry.has(KNOWN))?;
        Some(Negotiated {
            mss: entry.mss,
            scales: entry.scales().map(|(send, receive)| Scales { send, receive }),
            sack: entry.has(SACK),
            timestamp_offset: entry.has(TIMESTAMPS).then_some(entry.timestamp_offset),
        })
    }

    /// The connection sleeps, and has come so far; it was last heard in this window of time.
    pub fn fell_asleep(&mut self, index: u32, progress: &Progress, heard: u16) {
        self.change(index, |entry| {
            entry.progress(progress);
            entry.heard = heard;
            entry.move_to(Whereabouts::Asleep);
        });
    }

    /// A sleeping connection passes for heard last in a window.
    pub fn set_heard(&mut self, index: u32, window: u16) {
        self.change(index, |entry| entry.heard = window);
    }

    /// A connection that sleeps or ends has come so far.
    pub fn progressed(&mut self, index: u32, progress: &Progress) {
        self.change(index, |entry| entry.progress(progress));
    }

    /// All that is kept of a connection that sleeps or ends.
    pub fn checkpoint(&self, index: u32) -> Option<Checkpoint> {
        let entry = self.get(index)?;
        if !entry.whereabouts().is_kept() {
            return None;
        }
        let (send, receive) = entry.shifts();
        let progress = Progress {
            received: entry.received,
            sent: entry.sent,
            send_window: u32::from(entry.send_window) << send,
            receive_window: u32::from(entry.receive_window) << receive,
            largest_window: u32::from(entry.largest_window()) << send,
            round_trip: entry.round_trip().time(),
        };
        Some(Checkpoint { tuple: self.tuple(index)?, negotiated: self.negotiated(index)?, progress })
    }

    /// Both sequence numbers of a sleeping connection: `rcv_nxt` in the lower half, and in the upper `snd_nxt` without
    /// the bytes that its peer has not acknowledged. They differ from an earlier value if either end has received
    /// something from the other since.
    pub fn said(&self, index: u32) -> u64 {
        self.get(index).map_or(0, |entry| u64::from(entry.received) | u64::from(entry.sent) << 32)
    }

    /// The window of time in which a sleeping connection was last heard.
    pub fn heard(&self, index: u32) -> u16 {
        self.get(index).map_or(0, |entry| entry.heard)
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

#[cfg(test)]
mod model;
