//! The consumer's end of a shard's ring buffer (Documentation/bpf/ringbuf.rst, kernel/bpf/ringbuf.c).
//!
//! The kernel shares two pages with positions, and after them the data, which it offers twice in a row: a record that
//! goes over the end goes on in the second copy. Of this copy only as much is mapped as the longest record needs. More
//! would count twice as this process's memory.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};
use std::time::Duration;

use super::program::{FORCE_WAKEUP, IPV4, IPV6, PATIENT, RECORD_BYTES};
use super::table::Division;
use super::{RECORD_HEADER, Shared};
use crate::constants::PAGE_BYTES;
use crate::hibernation::Tuple;
use crate::sys::bpf::Mapping;
use crate::sys::monotonic_time;

/// Flags of a record's length: it is still being written, or was given up.
const BUSY: u32 = 1 << 31;
const DISCARDED: u32 = 1 << 30;

/// Bytes that the kernel puts before each record: length and flags, and the page.
const KERNEL_HEADER: u64 = 8;

const PAGE: usize = PAGE_BYTES as usize;

/// Bytes of whole pages that hold the longest record.
const LONGEST_ROOM: usize = {
    let [.., longest] = RECORD_BYTES;
    (longest as usize + KERNEL_HEADER as usize).next_multiple_of(PAGE)
};

/// How caught segments wake a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Patience {
    /// Each does, unless another waits to be taken: that has woken it.
    #[default]
    None,
    /// Acknowledgements without payload do not, as the shard is awake.
    Awake,
    /// Acknowledgements without payload do not. All others do, also where an acknowledgement waits to be taken.
    Asleep,
}

/// The segments of a shard's sleeping connections, in the order of their arrival.
pub struct Caught {
    ring: OwnedFd,
    shared: Arc<Shared>,
    shard: usize,
    division: Division,
    /// How far this process has read.
    consumed: Mapping,
    /// How far the kernel has written, and after it the data.
    produced: Mapping,
    mask: u64,
    position: u64,
    /// Bytes of the record that was given out last.
    held: u64,
}

/// A caught segment. The kernel has dropped it, and sees it as never arrived.
#[derive(Debug, Clone, Copy)]
pub struct CaughtSegment<'a> {
    /// The index with which the connection was inserted.
    pub index: u32,
    /// The ends of its connection, as in the packet: the remote end is its source.
    pub tuple: Tuple,
    /// When the kernel brought the segment to the filter.
    pub at: CaughtAt,
    /// Bytes of the segment, its TCP header included.
    pub whole_len: usize,
    /// The segment from its TCP header on: all of it, or its first 65,536 bytes. Its checksum is not verified.
    pub bytes: &'a [u8],
}

/// When a segment was caught: CLOCK_MONOTONIC in units of 1,024 ns, modulo 2^32, which is 73 minutes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CaughtAt(pub u32);

impl CaughtAt {
    /// By how many bits the programs shift nanoseconds.
    pub(super) const SHIFT: i32 = 10;

    /// This moment.
    pub fn now() -> CaughtAt {
        CaughtAt((monotonic_time().as_nanos() >> CaughtAt::SHIFT) as u32)
    }

    /// The time since then. It is 0 where another processor's clock is ahead.
    pub fn elapsed(self) -> Duration {
        let units = CaughtAt::now().0.wrapping_sub(self.0).cast_signed();
        Duration::from_nanos(u64::try_from(units).unwrap_or(0) << CaughtAt::SHIFT)
    }
}

impl Caught {
    pub(super) fn new(
        ring: &OwnedFd,
        bytes: u32,
        shared: Arc<Shared>,
        shard: usize,
        division: Division,
    ) -> io::Result<Caught> {
        let consumed = Mapping::new(ring, 0, PAGE, libc::PROT_READ | libc::PROT_WRITE)?;
        let mapped = PAGE + bytes as usize + LONGEST_ROOM;
        let produced = Mapping::new(ring, PAGE, mapped, libc::PROT_READ)?;
        let position = consumed.word(0).load(Ordering::Relaxed);
        let ring = ring.try_clone()?;
        let mask = u64::from(bytes) - 1;
        Ok(Caught { ring, shared, shard, division, consumed, produced, mask, position, held: 0 })
    }

    /// Another process has read segments meanwhile: goes on behind them.
    pub fn catch_up(&mut self) {
        self.position = self.consumed.word(0).load(Ordering::Acquire);
        self.held = 0;
        self.set_patience(Patience::None);
    }

    /// Gives the kernel the room of the segment that `next_segment` returned last.
    pub fn release(&mut self) {
        if self.held > 0 {
            self.position += std::mem::take(&mut self.held);
            self.consumed.word(0).store(self.position, Ordering::Release);
        }
    }

    /// The next caught segment, if there is one. Its room in the ring buffer is given back by the next call, or by
    /// `release`.
    pub fn next_segment(&mut self) -> Option<CaughtSegment<'_>> {
        let bytes = loop {
            self.release();
            let length = self.committed_at(self.position)?;
            let bytes = length & !DISCARDED;
            self.held = room(bytes);
            if length & DISCARDED == 0 {
                break bytes as usize;
            }
        };
        let start = PAGE + ((self.position + KERNEL_HEADER) & self.mask) as usize;
        let record = self.produced.range(start, bytes);
        // SAFETY: the range is in the mapping, which lives as long as `self`. The record is committed, so the kernel
        // writes to it again only after `release`, which needs `self` alone. This process cannot write to it.
        read(unsafe { &*record }, self.division)
    }

    /// Whether `next_segment` would return a segment. A segment that the kernel is copying at this moment counts a moment
    /// later.
    pub fn any(&self) -> bool {
        let mut next = self.position + self.held;
        loop {
            match self.committed_at(next) {
                None => return false,
                Some(length) if length & DISCARDED == 0 => return true,
                Some(length) => next += room(length & !DISCARDED),
            }
        }
    }

    /// How segments that are caught from now on make `fd` readable.
    pub fn set_patience(&self, patience: Patience) {
        let word = match patience {
            Patience::None => 0,
            Patience::Awake => PATIENT,
            Patience::Asleep => PATIENT | FORCE_WAKEUP,
        };
        self.shared.patience(self.shard).store(word as u64, Ordering::SeqCst);
    }

    /// The descriptor that is readable when segments were caught and not yet taken.
    pub fn fd(&self) -> RawFd {
        self.ring.as_raw_fd()
    }

    /// Segments that were dropped since the catcher was made, because the ring buffer was full. Their senders send all but
    /// RSTs again.
    pub fn dropped(&self) -> u64 {
        self.shared.dropped(self.shard).load(Ordering::Relaxed)
    }

    /// The RSTs among them, which nobody sends again.
    pub fn dropped_resets(&self) -> u64 {
        self.shared.dropped_resets(self.shard).load(Ordering::Relaxed)
    }

    /// The length of the record at a position, with its flag; `None` if there is none that is complete.
    fn committed_at(&self, position: u64) -> Option<u32> {
        // Read-only memory permits only Relaxed loads.
        let produced = self.produced.word(0).load(Ordering::Relaxed);
        fence(Ordering::Acquire);
        if position >= produced {
            return None;
        }
        let word = self.produced.word((PAGE + (position & self.mask) as usize) / size_of::<u64>());
        let [a, b, c, d, ..] = word.load(Ordering::Relaxed).to_ne_bytes();
        fence(Ordering::Acquire);
        let length = u32::from_ne_bytes([a, b, c, d]);
        (length & BUSY == 0).then_some(length)
    }
}

/// The room that a record of so many bytes takes.
fn room(bytes: u32) -> u64 {
    (u64::from(bytes) + KERNEL_HEADER).next_multiple_of(8)
}

/// Reads a record that the program has written. Always `Some`: the program writes only IPv4 and IPv6, and no segment
/// without ports.
fn read(record: &[u8], division: Division) -> Option<CaughtSegment<'_>> {
    let (header, segment) = record.split_at_checked(RECORD_HEADER as usize)?;
    let word = |at: usize| header.get(at..)?.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes));
    let whole_len = word(4)? as usize;
    let bytes = segment.get(..whole_len.min(segment.len()))?;
    let ends = header.get(16..)?;
    let (remote, local): (IpAddr, IpAddr) = match word(8)? {
        IPV4 => (ends.first_chunk::<4>().copied()?.into(), ends.get(4..)?.first_chunk::<4>().copied()?.into()),
        IPV6 => (ends.first_chunk::<16>().copied()?.into(), ends.get(16..)?.first_chunk::<16>().copied()?.into()),
        _ => return None,
    };
    let [r0, r1, l0, l1] = *bytes.first_chunk()?;
    let tuple = Tuple {
        remote: SocketAddr::new(remote, u16::from_be_bytes([r0, r1])),
        local: SocketAddr::new(local, u16::from_be_bytes([l0, l1])),
    };
    Some(CaughtSegment { index: division.index(word(0)?), tuple, at: CaughtAt(word(12)?), whole_len, bytes })
}

/// A size of a ring buffer that the kernel takes, a power of two and of pages, with room for two records of the largest
/// size.
pub fn ring_bytes(wanted: u32) -> u32 {
    const LEAST: u32 = 256 << 10;
    const MOST: u32 = 1 << 30;
    wanted.clamp(LEAST, MOST).next_power_of_two()
}
