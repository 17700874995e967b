//! A socket filter that tells when something comes for a connection, so that an idle one has nothing in the
//! kernel beyond its socket: a poll of io_uring takes 256 bytes (`io_kiocb`), a registration with epoll 200.
//!
//! The filter (SO_ATTACH_BPF, socket(7)) is put on the listeners; what they accept inherits it, for no memory
//! of its own (`sk_clone` in net/core/sock.c). It runs for each segment that comes for a connection, lets all
//! of them pass, and announces those that a reader would want to hear of: with payload, FIN or RST.
//!
//! It knows a connection by the owner of its socket: fchown(2) sets `sk_uid`, and `bpf_get_socket_uid` reads it.
//! Nothing else of a socket can be set from outside and read in a filter without its type information. The
//! number is `FIRST_OWNER` and the connection's place in its shard.
//!
//! What is announced lies in a map that the shard sees too: three boards, one for each kind of `Notification`, each with a bit
//! for each place, which stays until the shard takes the call, and a bit for each word of those; and a word that says
//! whether there are any. A shard that is about to sleep says so there, and the next announcement wakes whoever polls
//! `Filter::bell`, a ring buffer for that alone.
//!
//! **The filter runs before the segment is queued on its socket.** A receive right after the call may find
//! nothing, and a segment that was announced with the one before, in one call, may be queued after that was
//! received. What follows from that is `lifecycle.rs`' matter.

mod program;

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixDatagram;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering, fence};

use super::set_option;
use crate::constants::{KERNEL_SLOTS_PER_RING, PAGE_BYTES};

/// Owner of the socket whose place is 0. Distributions give users numbers below 2^29 (systemd's
/// docs/UIDS-GIDS.md); places end below 2^31, where numbers turn negative for some programs.
const FIRST_OWNER: u32 = 1 << 30;

/// Where the words of the map are: the state, and after its cache line the boards.
const STATE: usize = 0;
const BITMAPS: usize = 8;

/// The shard has taken all calls, or there are some, or it sleeps until there are.
const QUIET: u64 = 0;
const CALLS: u64 = 1;
const ASLEEP: u64 = 2;

/// Bits of a word.
const BITS: usize = u64::BITS as usize;

/// Words of a board's two parts, for some number of places.
#[derive(Debug, Clone, Copy)]
struct Layout {
    places: u32,
    /// A bit for each word of the places'.
    summary: usize,
    /// A bit for each place.
    calls: usize,
}

impl Layout {
    fn of(places: u32) -> Layout {
        let calls = (places as usize).div_ceil(BITS);
        Layout { places, summary: calls.div_ceil(BITS), calls }
    }

    /// Words of a board.
    fn bitmap(self) -> usize {
        self.summary + self.calls
    }

    /// The first word of the board for calls of a kind.
    fn first(self, call: Notification) -> usize {
        BITMAPS + call as usize * self.bitmap()
    }
}

/// What was announced of a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notification {
    /// Something came, or will be there in a moment.
    Segment,
    /// A segment with a RST. Whether TCP takes it is not known yet.
    Reset,
    /// A segment with a FIN and no payload: the peer sends nothing more.
    Fin,
}

/// Kinds of calls, each with a board of its own.
const BITMAP_COUNT: usize = 3;

/// A filter for the connections of one shard.
pub struct Filter {
    program: OwnedFd,
    bell: OwnedFd,
    map: Mapping,
    layout: Layout,
    /// Up to where we, and the kernel, have come in the ring buffer.
    consumed: Mapping,
    produced: Mapping,
    /// What was taken from each board.
    taken: [Taken; BITMAP_COUNT],
}

/// Calls that the shard has taken out of a board and not heard yet.
#[derive(Debug, Default)]
struct Taken {
    /// There may be more, beyond those of this round.
    again: bool,
    /// Words of the summary that were not looked at in this round.
    left: usize,
    /// Words that have calls: their bits in the summary's word, and the first word of those.
    words: u64,
    first_word: usize,
    /// Places that were called, and the first place of the word.
    places: u64,
    first_place: usize,
}

impl Taken {
    fn any(&self) -> bool {
        self.again || self.left > 0 || self.words | self.places != 0
    }
}

impl Filter {
    /// Loads a filter for so many places. Fails with EPERM without CAP_BPF, with EACCES without CAP_PERFMON, as then
    /// the boards may not be chosen by a register.
    pub fn new(places: u32) -> io::Result<Filter> {
        let (layout, page) = (Layout::of(places), PAGE_BYTES as usize);
        let map_bytes = ((BITMAPS + BITMAP_COUNT * layout.bitmap()) * 8).next_multiple_of(page);
        let map = bpf::create_map(bpf::ARRAY, 4, map_bytes as u32, 1, bpf::MMAPABLE)?;
        let bell = bpf::create_map(bpf::RING_BUFFER, 0, 0, page as u32, 0)?;
        Ok(Filter {
            program: bpf::load(&program::filter(map.as_raw_fd(), bell.as_raw_fd(), layout))?,
            map: Mapping::new(&map, 0, map_bytes, libc::PROT_READ | libc::PROT_WRITE)?,
            layout,
            consumed: Mapping::new(&bell, 0, page, libc::PROT_READ | libc::PROT_WRITE)?,
            produced: Mapping::new(&bell, page, page, libc::PROT_READ)?,
            bell,
            taken: Default::default(),
        })
    }

    /// Whether filters can be had here: loads a large one, and has it hear a message. Fails with EOPNOTSUPP where
    /// it hears none, as in a network whose user namespace does not know our owners.
    pub fn probe() -> io::Result<()> {
        let place = KERNEL_SLOTS_PER_RING - 1;
        let mut filter = Filter::new(KERNEL_SLOTS_PER_RING)?;
        // No connection, which would take a port and be counted: what is no header at all seems to have payload.
        let (ours, theirs) = UnixDatagram::pair()?;
        filter.attach(&ours)?;
        filter.name(&ours, place)?;
        theirs.send(&[0; 20])?;
        let heard = filter.next_notification(Notification::Segment) == Some(place);
        if heard { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP)) }
    }

    /// Puts the filter on a socket, and on those that it accepts.
    pub fn attach(&self, socket: &impl AsRawFd) -> io::Result<()> {
        set_option(socket, libc::SOL_SOCKET, libc::SO_ATTACH_BPF, self.program.as_raw_fd())
    }

    /// Tells the kernel that this socket is the connection of a place.
    pub fn name(&self, socket: &impl AsRawFd, place: u32) -> io::Result<()> {
        // SAFETY: the kernel takes three numbers; -1 leaves the group as it is.
        let done = unsafe { libc::fchown(socket.as_raw_fd(), FIRST_OWNER + place, libc::gid_t::MAX) };
        if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Whether there are calls to be heard at once: calls that nobody has looked at yet, or calls for segments and
    /// resets. Calls for FINs may wait once they were looked at: `has_fins` tells of them.
    pub fn has_notifications(&self) -> bool {
        let at_once = [Notification::Segment, Notification::Reset].iter().any(|call| self.taken[*call as usize].any());
        at_once || self.state().load(Ordering::SeqCst) == CALLS
    }

    /// Whether calls for FINs wait to be heard, beyond those that nobody has looked at yet.
    pub fn has_fins(&mut self) -> bool {
        let fins = &self.taken[Notification::Fin as usize];
        // Every call has all boards looked at again, and mostly it was none for a FIN. What the program adds after
        // this look makes another.
        if fins.again && fins.left == 0 && fins.words | fins.places == 0 && !self.has_announced(Notification::Fin) {
            self.taken[Notification::Fin as usize].again = false;
        }
        self.taken[Notification::Fin as usize].any()
    }

    /// Whether there are calls of connections that end, by a RST or a FIN.
    pub fn has_ends(&self) -> bool {
        [Notification::Reset, Notification::Fin]
            .iter()
            .any(|call| self.taken[*call as usize].any() || self.has_announced(*call))
    }

    /// Whether any bit is set on the board of a kind.
    fn has_announced(&self, call: Notification) -> bool {
        let first = self.layout.first(call);
        (first..first + self.layout.summary).any(|at| self.map.word(at).load(Ordering::SeqCst) != 0)
    }

    /// The place of the next call of a kind. Whatever comes for it from now on is another.
    ///
    /// They are taken in the order of their places, all in a round: who calls again waits for the next one.
    pub fn next_notification(&mut self, call: Notification) -> Option<u32> {
        let first = self.layout.first(call);
        // The program sets a place's bit, then its word's, then the state, and we clear them the other way round:
        // what it adds meanwhile is found in this round or makes another.
        if self.state().load(Ordering::Relaxed) == CALLS {
            self.state().store(QUIET, Ordering::SeqCst);
            self.taken.iter_mut().for_each(|taken| taken.again = true);
        }
        loop {
            let taken = &mut self.taken[call as usize];
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

    /// The shard is about to sleep: the next announcement rings the bell. Whether there are calls must be asked
    /// after this.
    pub fn sleep(&self) {
        // The rings of earlier sleeps are over. Read-only memory may be loaded from with Relaxed alone.
        let rung = self.produced.word(0).load(Ordering::Relaxed);
        fence(Ordering::Acquire);
        self.consumed.word(0).store(rung, Ordering::Release);
        let _ = self.state().compare_exchange(QUIET, ASLEEP, Ordering::SeqCst, Ordering::SeqCst);
    }

    /// The shard is awake.
    pub fn wake(&self) {
        let _ = self.state().compare_exchange(ASLEEP, QUIET, Ordering::SeqCst, Ordering::SeqCst);
    }

    /// What is readable once the bell was rung.
    pub fn bell(&self) -> RawFd {
        self.bell.as_raw_fd()
    }

    fn state(&self) -> &AtomicU64 {
        self.map.word(STATE)
    }
}

/// Clears the lowest bit that is set, and tells which.
fn take_bit(bits: &mut u64) -> usize {
    let lowest = bits.trailing_zeros();
    *bits &= *bits - 1;
    lowest as usize
}

/// Memory shared with the kernel, which writes to it at any time: only atomics may look at it.
struct Mapping {
    start: NonNull<AtomicU64>,
    bytes: usize,
}

impl Mapping {
    fn new(map: &OwnedFd, offset: usize, bytes: usize, protection: libc::c_int) -> io::Result<Mapping> {
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory of ours.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                protection,
                libc::MAP_SHARED,
                map.as_raw_fd(),
                offset as libc::off_t,
            )
        };
        match NonNull::new(start.cast::<AtomicU64>()) {
            Some(start) if start.as_ptr().cast() != libc::MAP_FAILED => Ok(Mapping { start, bytes }),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Its word number `at`. Where it is mapped for reading only, it may be loaded from with `Relaxed` and no more.
    fn word(&self, at: usize) -> &AtomicU64 {
        assert!(at < self.bytes / 8, "word {at} of a mapping of {} bytes", self.bytes);
        // SAFETY: within the mapping, aligned as the mapping is to a page, and valid as any bits are; it is
        // unmapped when `self` is dropped.
        unsafe { self.start.add(at).as_ref() }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped by `new` with this length, and nobody can have a reference into it any more.
        let _ = unsafe { libc::munmap(self.start.as_ptr().cast(), self.bytes) };
    }
}

// SAFETY: atomics in memory that does not depend on the thread.
unsafe impl Send for Mapping {}

/// The system call bpf(2), as far as it is needed here (include/uapi/linux/bpf.h).
mod bpf {
    use super::*;
    use program::Instruction;

    pub const ARRAY: u32 = 2;
    pub const RING_BUFFER: u32 = 27;
    pub const MMAPABLE: u32 = 1 << 10;

    const MAP_CREATE: libc::c_long = 0;
    const PROG_LOAD: libc::c_long = 5;
    const SOCKET_FILTER: u32 = 1;

    /// Times a load is tried again.
    const LOAD_AGAIN: usize = 10;

    #[repr(C)]
    struct MapAttributes {
        kind: u32,
        key_bytes: u32,
        value_bytes: u32,
        entries: u32,
        flags: u32,
    }

    #[repr(C)]
    struct ProgramAttributes {
        kind: u32,
        instruction_count: u32,
        instructions: u64,
        license: u64,
        log_level: u32,
        log_bytes: u32,
        log: u64,
        kernel_version: u32,
        flags: u32,
    }

    pub fn create_map(kind: u32, key_bytes: u32, value_bytes: u32, entries: u32, flags: u32) -> io::Result<OwnedFd> {
        call(MAP_CREATE, &MapAttributes { kind, key_bytes, value_bytes, entries, flags })
    }

    pub fn load(instructions: &[Instruction]) -> io::Result<OwnedFd> {
        let attributes = ProgramAttributes {
            kind: SOCKET_FILTER,
            instruction_count: instructions.len() as u32,
            instructions: instructions.as_ptr() as u64,
            // The helpers in use are for everyone, whatever the license.
            license: c"Dual MIT/GPL".as_ptr() as u64,
            log_level: 0,
            log_bytes: 0,
            log: 0,
            kernel_version: 0,
            flags: 0,
        };
        // The verifier gives up with EAGAIN when something else wants the thread's attention, such as a ring.
        for _ in 0..LOAD_AGAIN {
            match call(PROG_LOAD, &attributes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                loaded => return loaded,
            }
        }
        call(PROG_LOAD, &attributes)
    }

    /// Every command in use returns a descriptor, closed on exec.
    fn call<T>(command: libc::c_long, attributes: &T) -> io::Result<OwnedFd> {
        // SAFETY: the kernel reads the attributes, and the instructions and the license that they point to; all
        // outlive the call. It writes nothing without a log.
        let fd = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attributes), size_of::<T>()) };
        match RawFd::try_from(fd) {
            // SAFETY: `fd` was just made and nobody else has it.
            Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
            _ => Err(io::Error::last_os_error()),
        }
    }
}
