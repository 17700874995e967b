//! What catches the segments of sleeping connections, simulated: the table, the ring buffer, grace periods, and sockets
//! that are given up and made anew.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::rc::{Rc, Weak};
use std::time::{Duration, Instant};

use super::Chance;
use super::kernel::{Kernel, Socket, Work};
use super::tcp::{End, Link, Network, SOFTIRQ, Segment, ServerSocket, peer_of};
use crate::connections::{Caught, HibernationHost};
use crate::hibernation::segment::{ACK, RST};
use crate::hibernation::{Checkpoint, Negotiated, Progress, Tuple};
use crate::sys::{CaughtAt, Patience};
use crate::token::Token;

/// What the host does takes so long, about as long as it takes Linux.
const COPY: Duration = Duration::from_nanos(1_500);
const IDENTIFY: Duration = Duration::from_nanos(2_000);
const INSERT: Duration = Duration::from_nanos(250);
const HALF_A_CHECKPOINT: Duration = Duration::from_nanos(3_000);
const RETIRE: Duration = Duration::from_nanos(7_000);
const HALF_A_RESTORE: Duration = Duration::from_nanos(8_000);
const RAW: Duration = Duration::from_nanos(7_500);

/// The window that each end had last, in bytes. It is a multiple of every unit that the peers agree on.
const WINDOW: u32 = 500 << 7;

/// What the kernel refuses: one in so many; 0 is nothing.
#[derive(Debug, Default, Clone, Copy)]
pub struct Faults {
    /// Connections that cannot sleep.
    pub unfit: usize,
    /// Copies of a descriptor.
    pub copy: usize,
    /// Entries in the table, although it has a place.
    pub insert: usize,
    /// Checkpoints, although nothing is in flight.
    pub checkpoint: usize,
    /// Restores for which there is no memory or no route now.
    pub restore: usize,
    /// Restores that will never succeed.
    pub restore_for_good: usize,
    /// Segments that are sent without a socket.
    pub send: usize,
    /// Segments of other connections that are caught as they have the same hash.
    pub same_hash: usize,
}

/// A place of the table.
#[derive(Debug, Clone, Copy)]
struct Place {
    index: u32,
    /// The number of the connection's wake, where it has a socket again: its segments are caught only where they reach
    /// the listener.
    woke: Option<u64>,
}

/// A caught segment.
#[derive(Debug)]
struct Record {
    index: u32,
    tuple: Tuple,
    at: CaughtAt,
    bytes: Vec<u8>,
    /// It was caught as another connection's.
    is_stranger: bool,
}

/// What catches the segments of sleeping connections, and the network beyond it.
#[derive(Debug)]
pub struct Catcher {
    pub network: Network,
    pub faults: Faults,
    /// Places of the table.
    pub places: usize,
    /// Records of the ring buffer.
    pub records: usize,
    /// The longest grace period; with `None` each has passed at once, although segments are still on their way.
    pub grace: Option<Duration>,
    pub(super) links: BTreeMap<usize, Link>,
    table: BTreeMap<usize, Place>,
    /// The segment that the shard took last was caught as another's, and the shard has not told of that.
    untold: bool,
    /// Connections that woke and are in the table yet, each with the number of its wake and the end of a grace period.
    woken: VecDeque<(usize, u64, Instant)>,
    pub(super) transits: u64,
    caught: VecDeque<Record>,
    /// How caught segments wake a shard, as one process says that both have the sleepers.
    pub patience: Patience,
    dropped: u64,
    /// The RSTs among them.
    dropped_resets: u64,
    /// When each grace period will have passed.
    graces: Vec<Instant>,
    /// The sockets of plain descriptors: the peer, and the number of the socket.
    descriptors: HashMap<RawFd, (usize, u64)>,
    /// The poll on the ring buffer, and its ring.
    poll: Option<(usize, Token)>,
    ids: u64,
    /// A socket that was given up, as it is in all slots that had one.
    ghost: Option<usize>,
}

impl Default for Catcher {
    /// A network that loses nothing, and a host that refuses nothing.
    fn default() -> Catcher {
        Catcher {
            network: Network::default(),
            faults: Faults::default(),
            places: usize::MAX,
            records: 4_096,
            grace: Some(Duration::from_millis(5)),
            links: BTreeMap::new(),
            table: BTreeMap::new(),
            untold: false,
            woken: VecDeque::new(),
            transits: 0,
            caught: VecDeque::new(),
            patience: Patience::None,
            dropped: 0,
            dropped_resets: 0,
            graces: Vec::new(),
            descriptors: HashMap::new(),
            poll: None,
            ids: 0,
            ghost: None,
        }
    }
}

impl Catcher {
    pub(super) fn next_id(&mut self) -> u64 {
        self.ids += 1;
        self.ids
    }

    /// The index under which a peer's segment is caught, if it is. It was looked up to a socket of its own or to the
    /// listener.
    pub(super) fn looked_up(&self, peer: usize, has_socket: bool, chance: &mut Chance) -> Option<u32> {
        if has_socket && self.transits == 0 {
            return None;
        }
        let same_hash = self.faults.same_hash > 0 && chance.one_in(self.faults.same_hash);
        let other = self.table.values().next().filter(|_| same_hash);
        let place = self.table.get(&peer).or(other)?;
        (!has_socket || place.woke.is_none()).then_some(place.index)
    }

    /// Whether no connection sleeps according to the table, and no transit is under way.
    pub fn is_empty(&self) -> bool {
        self.table.values().all(|place| place.woke.is_some()) && self.transits == 0
    }

    /// Whether a connection has a place in the table, as one that sleeps.
    fn catches(&self, peer: usize) -> bool {
        self.table.get(&peer).is_some_and(|place| place.woke.is_none())
    }
}

fn fails(one_in: usize, chance: &mut Chance) -> bool {
    one_in > 0 && chance.one_in(one_in)
}

fn errno(number: i32) -> io::Error {
    io::Error::from_raw_os_error(number)
}

/// A descriptor that stands for a socket.
fn descriptor() -> io::Result<OwnedFd> {
    Ok(File::open("/dev/null")?.into())
}

impl Kernel {
    /// What catches segments.
    fn catching(&mut self) -> &mut Catcher {
        self.catcher.as_deref_mut().expect("connections may sleep")
    }

    fn has_fault(&mut self, one_in: impl Fn(&Faults) -> usize) -> bool {
        let one_in = one_in(&self.catching().faults);
        fails(one_in, &mut self.chance)
    }

    /// Segments that found no room in the ring buffer.
    pub fn dropped_by_catcher(&mut self) -> u64 {
        self.catching().dropped
    }

    /// A segment that is caught now.
    fn caught_now(&self) -> CaughtAt {
        // It is about to wrap.
        CaughtAt((self.elapsed().as_micros() as u32).wrapping_sub(5_000_000))
    }

    /// A segment is caught.
    pub(super) fn catch(&mut self, index: u32, tuple: Tuple, segment: Segment) {
        let at = self.caught_now();
        let catcher = self.catching();
        if catcher.caught.len() >= catcher.records {
            catcher.dropped += 1;
            catcher.dropped_resets += u64::from(segment.flags & RST != 0);
            return;
        }
        let is_bare = segment.flags == ACK && segment.payload.is_empty();
        let waits = match catcher.patience {
            Patience::None => !catcher.caught.is_empty(),
            Patience::Awake => is_bare || !catcher.caught.is_empty(),
            Patience::Asleep => is_bare,
        };
        let is_stranger = !catcher.table.contains_key(&peer_of(&tuple));
        catcher.caught.push_back(Record { index, tuple, at, bytes: segment.bytes(&tuple), is_stranger });
        if let Some((ring, _)) = catcher.poll.filter(|_| !waits) {
            self.work(ring, Work::Catcher);
        }
    }

    /// A poll on the ring buffer.
    pub(super) fn poll_catcher(&mut self, ring: usize, token: Token) {
        let catcher = self.catching();
        assert!(catcher.poll.is_none(), "two polls on the ring buffer");
        catcher.poll = Some((ring, token));
        if !catcher.caught.is_empty() {
            self.work(ring, Work::Catcher);
        }
    }

    /// The task work of the poll on the ring buffer.
    pub(super) fn catcher_woke(&mut self, ring: usize) {
        if let Some((_, token)) = self.catching().poll.take_if(|(polling, _)| *polling == ring) {
            self.complete(ring, token, i32::from(libc::POLLIN), 0);
        }
    }

    /// A plain descriptor of a slot's socket.
    pub(super) fn copy_descriptor(&mut self, ring: usize, token: Token) -> io::Result<OwnedFd> {
        self.pass(COPY);
        if self.has_fault(|faults| faults.copy) {
            let number = [libc::EMFILE, libc::ENOMEM][self.chance.below(2)];
            return Err(errno(number));
        }
        let peer = self.peer_in(ring, token).ok_or_else(|| errno(libc::EBADF))?;
        let id = self.link(peer).and_then(|link| link.socket.as_ref()).map_or(0, |socket| socket.id);
        let descriptor = descriptor()?;
        self.catching().descriptors.insert(descriptor.as_raw_fd(), (peer, id));
        Ok(descriptor)
    }

    /// The connection of a plain descriptor comes into a slot.
    pub(super) fn install(&mut self, ring: usize, token: Token, socket: &OwnedFd) {
        let (peer, id) = self.catching().descriptors[&socket.as_raw_fd()];
        let former = self.rings[ring].slots[token.slot as usize].replace(peer);
        assert!(former.is_none(), "installed into a slot that has a connection");
        let current = self.link(peer).and_then(|link| link.socket.as_ref()).map(|socket| socket.id);
        // One that the peer has reset meanwhile is there all the same.
        assert!(current.is_none_or(|current| current == id), "another socket of the peer stands");
        self.sockets[peer].place = Some((ring, token.slot));
    }

    /// Whether a slot's socket is one that was given up.
    pub(super) fn is_retired(&self, peer: usize) -> bool {
        self.catcher.as_ref().is_some_and(|catcher| catcher.ghost == Some(peer))
    }

    /// When a grace period that begins now is over.
    fn end_of_grace(&mut self) -> Instant {
        let now = self.now();
        let longest = self.catching().grace;
        longest.map_or(now, |longest| now + SOFTIRQ + self.chance.time(longest))
    }

    /// Gives a socket up: its slot has a dead one.
    fn retire(&mut self, peer: usize) {
        let ghost = match self.catching().ghost {
            Some(ghost) => ghost,
            None => {
                self.sockets.push(Socket { reset: true, ..Socket::default() });
                let ghost = self.sockets.len() - 1;
                self.catching().ghost = Some(ghost);
                ghost
            }
        };
        // Its poll tells of it, and ends.
        if let Some((ring, slot)) = self.sockets[peer].place
            && let Some(poll) = self.rings[ring].polls.get_mut(&slot)
        {
            poll.over = true;
        }
        self.readable(peer);
        let socket = &mut self.sockets[peer];
        // What the kernel has acknowledged and the shard has not received is lost.
        socket.inbox.clear();
        (socket.fin, socket.reset, socket.error) = (false, false, None);
        if let Some((ring, slot)) = socket.place.take() {
            self.rings[ring].slots[slot as usize] = Some(ghost);
        }
    }
}

thread_local! {
    /// The kernels of this thread's hosts. A host may be sent to another thread before it is used, a kernel may not.
    static KERNELS: RefCell<Vec<Weak<RefCell<Kernel>>>> = const { RefCell::new(Vec::new()) };
}

/// The kernel as hibernation sees it.
pub struct SimHost(usize);

impl SimHost {
    pub(super) fn new(kernel: &Rc<RefCell<Kernel>>) -> SimHost {
        KERNELS.with_borrow_mut(|kernels| {
            kernels.push(Rc::downgrade(kernel));
            SimHost(kernels.len() - 1)
        })
    }

    fn kernel<T>(&self, act: impl FnOnce(&mut Kernel) -> T) -> T {
        let kernel = KERNELS.with_borrow(|kernels| kernels[self.0].upgrade()).expect("its machine stands");
        act(&mut kernel.borrow_mut())
    }

    fn catcher<T>(&self, act: impl FnOnce(&mut Catcher) -> T) -> T {
        self.kernel(|kernel| act(kernel.catching()))
    }
}

impl HibernationHost for SimHost {
    fn is_settled(&self) -> bool {
        true
    }

    fn retain(&mut self, stays: &dyn Fn(u32) -> bool) {
        self.catcher(|catcher| catcher.table.retain(|_, place| stays(place.index)));
    }

    fn identify(&mut self, socket: &OwnedFd) -> io::Result<Option<(Tuple, Negotiated)>> {
        self.kernel(|kernel| {
            kernel.pass(IDENTIFY);
            let (peer, _) = kernel.catching().descriptors[&socket.as_raw_fd()];
            if kernel.has_fault(|faults| faults.unfit) {
                return Ok(None);
            }
            // A socket that was reset has no ends any more.
            let link = kernel.link(peer).ok_or_else(|| errno(libc::ENOTCONN))?;
            link.socket.as_ref().ok_or_else(|| errno(libc::ENOTCONN))?;
            Ok(Some((link.tuple, link.negotiated)))
        })
    }

    fn prepare(&mut self, _socket: &OwnedFd) -> io::Result<()> {
        Ok(())
    }

    fn expect_other_programs(&mut self) {}

    fn insert(&mut self, tuple: &Tuple, index: u32) -> bool {
        self.kernel(|kernel| {
            kernel.pass(INSERT);
            let full = kernel.catching().table.len() >= kernel.catching().places;
            if full || kernel.has_fault(|faults| faults.insert) {
                return false;
            }
            let catcher = kernel.catching();
            assert!(catcher.transits > 0, "inserted without a transit");
            let former = catcher.table.insert(peer_of(tuple), Place { index, woke: None });
            assert!(former.is_none_or(|former| former.woke.is_some()), "inserted twice");
            true
        })
    }

    fn remove(&mut self, tuple: &Tuple, index: u32) {
        self.kernel(|kernel| {
            kernel.pass(INSERT);
            let former = kernel.catching().table.remove(&peer_of(tuple));
            assert!(former.is_none_or(|former| former.index == index), "another's place in the table");
        });
    }

    fn woke(&mut self, tuple: &Tuple, index: u32) {
        self.kernel(|kernel| {
            kernel.pass(INSERT);
            let passes = kernel.end_of_grace();
            let (peer, catcher) = (peer_of(tuple), kernel.catching());
            assert!(catcher.transits > 0 && catcher.catches(peer), "woke without a place in the table");
            let wake = catcher.next_id();
            catcher.table.insert(peer, Place { index, woke: Some(wake) });
            catcher.woken.push_back((peer, wake, passes));
        });
    }

    fn turn(&mut self) {
        self.kernel(|kernel| {
            let now = kernel.now();
            let catcher = kernel.catching();
            while let Some((peer, wake, passes)) = catcher.woken.front().copied()
                && passes <= now
            {
                catcher.woken.pop_front();
                if catcher.table.get(&peer).is_some_and(|place| place.woke == Some(wake)) {
                    catcher.table.remove(&peer);
                }
            }
        });
    }

    fn begin_transit(&mut self) {
        self.catcher(|catcher| catcher.transits += 1);
    }

    fn end_transit(&mut self) {
        self.catcher(|catcher| catcher.transits = catcher.transits.checked_sub(1).expect("a transit ends twice"));
    }

    fn request_grace(&mut self) -> u64 {
        self.kernel(|kernel| {
            let passes = kernel.end_of_grace();
            let graces = &mut kernel.catching().graces;
            graces.push(passes);
            graces.len() as u64 - 1
        })
    }

    fn grace_passed(&mut self, number: u64) -> bool {
        self.kernel(|kernel| {
            let now = kernel.now();
            kernel.catching().graces[number as usize] <= now
        })
    }

    fn checkpoint(&mut self, socket: &OwnedFd) -> io::Result<Option<Progress>> {
        self.kernel(|kernel| {
            let (peer, id) = kernel.catching().descriptors[&socket.as_raw_fd()];
            kernel.pass(HALF_A_CHECKPOINT);
            let fault = kernel.has_fault(|faults| faults.checkpoint);
            let unread = !kernel.sockets[peer].inbox.is_empty() || kernel.sockets[peer].fin;
            let link = kernel.link(peer).expect("it had connected");
            let socket = link.socket.as_ref().filter(|socket| socket.id == id && !socket.orphan);
            let Some(end) = socket.map(|socket| &socket.end) else { return Err(errno(libc::ENOTCONN)) };
            if fault || unread || end.in_flight() > 0 {
                return Ok(None);
            }
            let (received, sent) = (end.next, end.sent());
            let (send_window, receive_window, largest_window) = (WINDOW, WINDOW, WINDOW);
            // What comes now is in the socket, and not in the checkpoint.
            kernel.pass(HALF_A_CHECKPOINT);
            Ok(Some(Progress { received, sent, send_window, receive_window, largest_window, round_trip: None }))
        })
    }

    fn retire(&mut self, socket: OwnedFd, tuple: &Tuple) -> io::Result<()> {
        self.kernel(|kernel| {
            kernel.pass(RETIRE);
            let (peer, id) = kernel.catching().descriptors[&socket.as_raw_fd()];
            assert_eq!(peer, peer_of(tuple), "another's socket");
            let catcher = kernel.catching();
            assert!(catcher.transits > 0 && catcher.catches(peer), "given up without a place in the table");
            let link = kernel.link(peer).expect("it had connected");
            assert!(link.socket.as_ref().is_none_or(|socket| socket.id == id), "a later socket");
            link.socket = None;
            kernel.retire(peer);
            Ok(())
        })
    }

    fn restore(&mut self, checkpoint: &Checkpoint, _seen: u32) -> io::Result<OwnedFd> {
        self.kernel(|kernel| {
            kernel.pass(HALF_A_RESTORE);
            if kernel.has_fault(|faults| faults.restore) {
                let shortages = [libc::EMFILE, libc::ENFILE, libc::ENOMEM, libc::ENOBUFS];
                let routes = [libc::ENETUNREACH, libc::EHOSTUNREACH, libc::ENETDOWN, libc::EADDRNOTAVAIL];
                let number = [shortages, routes][kernel.chance.below(2)][kernel.chance.below(4)];
                return Err(errno(number));
            }
            if kernel.has_fault(|faults| faults.restore_for_good) {
                return Err(errno(libc::EPERM));
            }
            let (Checkpoint { tuple, negotiated, progress }, catcher) = (checkpoint, kernel.catching());
            let peer = peer_of(tuple);
            assert!(catcher.transits > 0 && catcher.catches(peer), "restored without a place in the table");
            let id = catcher.next_id();
            let link = kernel.link(peer).expect("it had connected");
            assert!(link.socket.is_none(), "it has a socket");
            assert_eq!((link.tuple, link.negotiated), (*tuple, *negotiated), "another's connection");
            assert_eq!((progress.receive_window, progress.largest_window >= WINDOW), (WINDOW, true));
            let end = End::new(progress.sent, progress.received);
            link.socket = Some(ServerSocket { id, end, orphan: false });
            let descriptor = descriptor()?;
            kernel.catching().descriptors.insert(descriptor.as_raw_fd(), (peer, id));
            kernel.pass(HALF_A_RESTORE);
            Ok(descriptor)
        })
    }

    fn catch_up(&mut self) {
        self.set_patience(Patience::None);
    }

    fn has_caught(&mut self) -> bool {
        self.catcher(|catcher| !catcher.caught.is_empty())
    }

    fn next_caught(&mut self, bytes: &mut Vec<u8>) -> Option<Caught> {
        let record = self.catcher(|catcher| {
            assert!(!catcher.untold, "a segment was caught as another's, and the host was not told");
            let record = catcher.caught.pop_front()?;
            catcher.untold = record.is_stranger;
            Some(record)
        })?;
        let whole_len = record.bytes.len();
        *bytes = record.bytes;
        Some(Caught { index: record.index, tuple: record.tuple, at: record.at, whole_len })
    }

    fn since(&self, at: CaughtAt) -> Duration {
        let now = self.kernel(|kernel| kernel.caught_now());
        Duration::from_micros(now.0.wrapping_sub(at.0).into())
    }

    fn dropped(&self) -> u64 {
        self.catcher(|catcher| catcher.dropped)
    }

    fn dropped_resets(&self) -> u64 {
        self.catcher(|catcher| catcher.dropped_resets)
    }

    fn set_patience(&mut self, patience: Patience) {
        self.catcher(|catcher| catcher.patience = patience);
    }

    fn wake_fd(&self) -> RawFd {
        -1
    }

    fn send(&mut self, tuple: &Tuple, segment: &[u8]) -> io::Result<()> {
        self.kernel(|kernel| {
            kernel.pass(RAW);
            if kernel.has_fault(|faults| faults.send) {
                return Err(errno(libc::ENOBUFS));
            }
            kernel.send_raw(tuple, segment);
            Ok(())
        })
    }

    fn exempt(&mut self, _tuple: &Tuple) -> io::Result<()> {
        self.catcher(|catcher| catcher.untold = false);
        Ok(())
    }

    fn reinject(&mut self, tuple: &Tuple, segment: &mut [u8], whole_len: usize) -> io::Result<()> {
        self.kernel(|kernel| {
            kernel.pass(RAW);
            assert_eq!(segment.len(), whole_len);
            if kernel.has_fault(|faults| faults.send) {
                return Err(errno(libc::ENOBUFS));
            }
            kernel.arrive(peer_of(tuple), Segment::read(tuple, segment), true);
            Ok(())
        })
    }

    fn timestamp_clock(&self) -> u32 {
        // It is about to wrap.
        self.kernel(|kernel| (kernel.elapsed().as_millis() as u32).wrapping_sub(5_000))
    }
}
