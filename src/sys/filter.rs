//! A socket filter that announces when a segment arrives for a connection. With it an idle connection has nothing
//! in the kernel beyond its socket; a poll of io_uring takes 256 bytes (`io_kiocb`), a registration with epoll 200.
//!
//! The filter (SO_ATTACH_BPF, socket(7)) is attached to the listeners. Accepted sockets inherit it without memory
//! of their own (`sk_clone` in net/core/sock.c). It runs for each segment of a connection, lets every segment pass,
//! and announces segments that a reader needs to know of: those with payload, FIN or RST.
//!
//! The filter identifies a connection by the owner of its socket: fchown(2) sets `sk_uid`, and `bpf_get_socket_uid`
//! reads it. A filter without type information can read no other property of a socket that user space can set. The
//! owner is `FIRST_OWNER` plus the connection's place in its shard.
//!
//! Announcements lie in a map that the shard has mapped too. The map has a bitmap for each kind of `Notification`,
//! with a bit for each place, and a summary with a bit for each word of the bitmap. A place's bit stays set until
//! the shard takes the notification. One more word, the state, says whether there are any notifications. A shard
//! that is about to sleep writes `ASLEEP` there; the next notification then makes `Filter::wake_fd` readable, a
//! ring buffer that serves only this purpose.
//!
//! **The filter runs before the segment is queued on its socket.** A receive right after a notification may
//! therefore find nothing. One notification may stand for two segments, and the second may be queued after the
//! first was received. `lifecycle.rs` handles both cases.

mod program;

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::UnixDatagram;
use std::sync::atomic::{AtomicU64, Ordering, fence};

use super::attach_program;
use super::bpf::{self, Mapping};
use super::catcher::Catcher;
use crate::constants::{KERNEL_SLOTS_PER_RING, PAGE_BYTES};

/// Owner of the socket whose place is 0. Distributions give users numbers below 2^29 (systemd's
/// docs/UIDS-GIDS.md). Owners end below 2^31, from where some programs read numbers as negative.
const FIRST_OWNER: u32 = 1 << 30;

/// Words of the map: the state, and the bitmaps, which begin on the next cache line.
const STATE: usize = 0;
const BITMAPS: usize = 8;

/// Values of the state: all notifications are taken; there are some; the shard sleeps until there are some.
const QUIET: u64 = 0;
const ANNOUNCED: u64 = 1;
const ASLEEP: u64 = 2;

/// Bits of a word.
const BITS: usize = u64::BITS as usize;

/// Sizes, in words, of the two parts of a bitmap for `places` places.
#[derive(Debug, Clone, Copy)]
struct Layout {
    places: u32,
    /// Words of the summary, which has a bit for each word of the places' bits.
    summary: usize,
    /// Words of the places' bits.
    words: usize,
}

impl Layout {
    fn of(places: u32) -> Layout {
        let words = (places as usize).div_ceil(BITS);
        Layout { places, summary: words.div_ceil(BITS), words }
    }

    /// Words of a bitmap with its summary.
    fn bitmap(self) -> usize {
        self.summary + self.words
    }

    /// The first word of the bitmap for a kind of notification.
    fn first(self, kind: Notification) -> usize {
        BITMAPS + kind as usize * self.bitmap()
    }
}

/// What the filter announces about a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notification {
    /// A segment came. It is in the socket's queue now or in a moment.
    Segment,
    /// A segment with a RST. TCP has not yet decided whether it accepts the RST.
    Reset,
    /// A segment with a FIN and no payload: the peer sends no more data.
    Fin,
}

/// Kinds of notifications, each with a bitmap of its own.
const BITMAP_COUNT: usize = 3;

/// A filter for the connections of one shard.
pub struct Filter {
    program: OwnedFd,
    wake_up: OwnedFd,
    map: Mapping,
    layout: Layout,
    /// Positions in the wake-up ring buffer that this process has read up to, and the kernel has written up to.
    consumed: Mapping,
    produced: Mapping,
    /// The notifications taken from each bitmap.
    taken: [Taken; BITMAP_COUNT],
}

/// Notifications that the shard has taken out of a bitmap and not handled yet.
#[derive(Debug, Default)]
struct Taken {
    /// The bitmap must be scanned again after this scan: it may have new bits.
    again: bool,
    /// Words of the summary that this scan has not read yet.
    left: usize,
    /// Bits of words with notifications, taken from one word of the summary, and the number of the first of
    /// those words.
    words: u64,
    first_word: usize,
    /// Bits of places with notifications, taken from one word, and the first place of that word.
    places: u64,
    first_place: usize,
}

impl Taken {
    fn any(&self) -> bool {
        self.again || self.left > 0 || self.words | self.places != 0
    }
}

impl Filter {
    /// Loads a filter for `places` places. With a catcher the same program first catches the segments of sleeping
    /// connections, which are announced by the catcher and not here.
    ///
    /// Fails with EPERM without CAP_BPF. Fails with EACCES without CAP_PERFMON, as the verifier then forbids
    /// addressing the bitmaps through a register.
    pub fn new(places: u32, catcher: Option<&Catcher>) -> io::Result<Filter> {
        let (layout, page) = (Layout::of(places), PAGE_BYTES as usize);
        let map_bytes = ((BITMAPS + BITMAP_COUNT * layout.bitmap()) * 8).next_multiple_of(page);
        let map = bpf::create_map(bpf::ARRAY, 4, map_bytes as u32, 1, bpf::MMAPABLE)?;
        let wake_up = bpf::create_map(bpf::RING_BUFFER, 0, 0, page as u32, 0)?;
        let instructions = program::filter(map.as_raw_fd(), wake_up.as_raw_fd(), layout, catcher);
        Ok(Filter {
            program: bpf::load(bpf::SOCKET_FILTER, &instructions)?,
            map: Mapping::new(&map, 0, map_bytes, libc::PROT_READ | libc::PROT_WRITE)?,
            layout,
            consumed: Mapping::new(&wake_up, 0, page, libc::PROT_READ | libc::PROT_WRITE)?,
            produced: Mapping::new(&wake_up, page, page, libc::PROT_READ)?,
            wake_up,
            taken: Default::default(),
        })
    }

    /// Checks that filters work here: loads one of full size and sends it a message. Fails with EOPNOTSUPP where
    /// the filter announces nothing, as in a network whose user namespace does not map our owners.
    pub fn probe() -> io::Result<()> {
        let place = KERNEL_SLOTS_PER_RING - 1;
        let mut filter = Filter::new(KERNEL_SLOTS_PER_RING, None)?;
        // A pair of Unix sockets stands for a connection, as it takes no port and appears in no TCP
        // counter. A message without a TCP header looks to the filter like a segment with payload.
        let (ours, theirs) = UnixDatagram::pair()?;
        filter.attach(&ours)?;
        filter.set_place(&ours, place)?;
        theirs.send(&[0; 20])?;
        let announced = filter.next_notification(Notification::Segment) == Some(place);
        if announced { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP)) }
    }

    /// Attaches the filter to a socket. Sockets that it accepts later inherit the filter.
    pub fn attach(&self, socket: &impl AsRawFd) -> io::Result<()> {
        attach_program(socket, self.program())
    }

    /// The program, for sockets that no listener accepts: those of connections that wake.
    pub fn program(&self) -> BorrowedFd<'_> {
        self.program.as_fd()
    }

    /// Marks a socket as the connection in `place`, by setting its owner. Fails with the error of fchown(2).
    pub fn set_place(&self, socket: &impl AsRawFd, place: u32) -> io::Result<()> {
        // SAFETY: the kernel takes three numbers; -1 leaves the group as it is.
        let done = unsafe { libc::fchown(socket.as_raw_fd(), FIRST_OWNER + place, libc::gid_t::MAX) };
        if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Whether there are notifications to handle at once: segments, resets, or any notification since the last
    /// scan. Notifications of FINs that a scan has found may wait; `has_fins` reports those.
    pub fn has_notifications(&self) -> bool {
        let at_once = [Notification::Segment, Notification::Reset].iter().any(|kind| self.taken[*kind as usize].any());
        at_once || self.state().load(Ordering::SeqCst) == ANNOUNCED
    }

    /// Whether notifications of FINs wait, but for those that came since the last scan.
    pub fn has_fins(&mut self) -> bool {
        let fins = &self.taken[Notification::Fin as usize];
        // Each notification marks all bitmaps for a scan, and mostly it was not a FIN: an empty summary
        // cancels the scan. A FIN that the program announces after this look marks the bitmap again.
        if fins.again && fins.left == 0 && fins.words | fins.places == 0 && !self.has_announced(Notification::Fin) {
            self.taken[Notification::Fin as usize].again = false;
        }
        self.taken[Notification::Fin as usize].any()
    }

    /// Whether there are notifications of connections that end, by a RST or a FIN.
    pub fn has_ends(&self) -> bool {
        [Notification::Reset, Notification::Fin]
            .iter()
            .any(|kind| self.taken[*kind as usize].any() || self.has_announced(*kind))
    }

    /// Whether any bit of a kind's bitmap is set.
    fn has_announced(&self, kind: Notification) -> bool {
        let first = self.layout.first(kind);
        (first..first + self.layout.summary).any(|at| self.map.word(at).load(Ordering::SeqCst) != 0)
    }

    /// Takes the next notification of a kind, and returns its place. A segment that arrives for that place from now
    /// on is announced anew.
    ///
    /// One scan takes notifications in the order of their places. A place that is announced again during a scan
    /// waits for the next scan.
    pub fn next_notification(&mut self, kind: Notification) -> Option<u32> {
        let first = self.layout.first(kind);
        // The program sets a place's bit, then its word's bit, then the state. We clear them in reverse
        // order, so a bit that is set meanwhile is found in this scan or causes another.
        if self.state().load(Ordering::Relaxed) == ANNOUNCED {
            self.state().store(QUIET, Ordering::SeqCst);
            self.taken.iter_mut().for_each(|taken| taken.again = true);
        }
        loop {
            let taken = &mut self.taken[kind as usize];
            if taken.places != 0 {
                return Some((taken.first_place + take_bit(&mut taken.places)) as u32);
            }
            if taken.words != 0 {
                let word = taken.first_word + take_bit(&mut taken.words);
                taken.first_place = word * BITS;
                taken.places = self.map.word(first + self.layout.summary + word).swap(0, Ordering::SeqCst);
            } else if taken.left > 0 {
                let at = self.layout.summary - taken.left;
                taken.left -= 1;
                taken.first_word = at * BITS;
                let summary = self.map.word(first + at);
                if summary.load(Ordering::SeqCst) != 0 {
                    taken.words = summary.swap(0, Ordering::SeqCst);
                }
            } else if std::mem::take(&mut taken.again) {
                taken.left = self.layout.summary;
            } else {
                return None;
            }
        }
    }

    /// Records that the shard is about to sleep: the next notification makes `wake_fd` readable. After this call,
    /// the shard must ask once more whether there are notifications.
    pub fn sleep(&self) {
        // Wake-ups of earlier sleeps are consumed. Read-only memory permits only Relaxed loads.
        let produced = self.produced.word(0).load(Ordering::Relaxed);
        fence(Ordering::Acquire);
        self.consumed.word(0).store(produced, Ordering::Release);
        let _ = self.state().compare_exchange(QUIET, ASLEEP, Ordering::SeqCst, Ordering::SeqCst);
    }

    /// Records that the shard is awake.
    pub fn wake(&self) {
        let _ = self.state().compare_exchange(ASLEEP, QUIET, Ordering::SeqCst, Ordering::SeqCst);
    }

    /// The descriptor that becomes readable when the filter wakes a sleeping shard.
    pub fn wake_fd(&self) -> RawFd {
        self.wake_up.as_raw_fd()
    }

    fn state(&self) -> &AtomicU64 {
        self.map.word(STATE)
    }
}

/// Clears the lowest set bit, and returns its number.
fn take_bit(bits: &mut u64) -> usize {
    let lowest = bits.trailing_zeros();
    *bits &= *bits - 1;
    lowest as usize
}
