//! The simulated kernel: its time, its sockets, and its side of each ring.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use super::catcher::Catcher;
use super::{Chance, mixed};
use crate::token::Token;

/// How long reading the clock takes, and each operation of the kernel. Linux takes between half and twice as much.
pub const CLOCK: Duration = Duration::from_nanos(25);
pub const ENTER: Duration = Duration::from_nanos(700);
pub const POLL: Duration = Duration::from_nanos(300);
pub const RECEIVE: Duration = Duration::from_nanos(1_000);
pub const SEND: Duration = Duration::from_nanos(2_000);
pub const ACCEPT: Duration = Duration::from_nanos(3_000);
pub const RESET: Duration = Duration::from_nanos(2_000);
pub const CLOSE: Duration = Duration::from_nanos(3_000);
/// A system call that does nothing.
const YIELD: Duration = Duration::from_nanos(500);
/// From the end of a sleep until the thread runs.
const WAKE_UP: Duration = Duration::from_nanos(5_000);

/// Pieces of task work in one enter (`IO_LOCAL_TW_DEFAULT_MAX` in io_uring/io_uring.c).
pub const WORK_PER_ENTER: usize = 20;

/// How the shard ended a connection, as the peer saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// By a FIN.
    Fin,
    /// By a RST.
    Reset,
}

/// One connection: the shard's socket, and the peer at its other end.
#[derive(Default)]
pub struct Socket {
    /// What the peer sent and the shard has not received.
    pub inbox: VecDeque<u8>,
    /// Bytes that the peer sent in all.
    pub said: usize,
    /// The peer has sent a FIN.
    pub fin: bool,
    /// The connection was reset, by either end.
    pub reset: bool,
    /// What a receive or a send is told of that; the first takes it (`sock_error` in include/net/sock.h).
    pub error: Option<i32>,
    /// Bytes for which the peer's socket has room.
    pub window: usize,
    /// The bytes that the peer received. `heard_at` has the times: how many bytes there were at each.
    pub heard: Vec<u8>,
    pub heard_at: Vec<(usize, Instant)>,
    /// How the shard ended it, and when.
    pub ended: Option<(Ending, Instant)>,
    /// The slot that it is in.
    pub place: Option<(usize, u32)>,
}

/// A poll in the kernel.
#[derive(Debug, Clone, Copy)]
pub struct Poll {
    pub token: Token,
    pub lasting: bool,
    /// It has fired, and its task work has not run yet.
    pub fired: bool,
    /// The socket was disconnected: it tells of that whatever becomes of the slot.
    pub over: bool,
}

/// A send in the kernel that waits for its peer.
pub struct ParkedSend {
    pub token: Token,
    pub bytes: Vec<u8>,
    pub sent: usize,
    pub fired: bool,
}

/// Task work: what a wake-up leaves to be done when the ring is entered.
#[derive(Debug, Clone, Copy)]
pub enum Work {
    Poll(u32),
    ParkedSend(u32),
    Accept,
    /// Segments were caught.
    Catcher,
    /// The doorbell was rung.
    Doorbell,
    /// A worker of the ring has come to a shutdown.
    Shutdown(Token),
}

/// An entry of the completion queue: user data, result, flags.
pub type Raw = (u64, i32, u32);

/// The kernel's side of a ring.
pub struct RingSide {
    /// The connection in each slot.
    pub slots: Vec<Option<usize>>,
    pub polls: BTreeMap<u32, Poll>,
    pub parked: BTreeMap<u32, ParkedSend>,
    /// Accepts that wait for a connection.
    pub accepts: VecDeque<Token>,
    pub work: VecDeque<Work>,
    pub completed: VecDeque<Raw>,
    /// Completions that the kernel holds back because the queue is full.
    pub overflow: VecDeque<Raw>,
    /// Entries of the completion queue.
    pub capacity: usize,
    /// Whether work rings the shard's doorbell.
    pub rings_doorbell: bool,
}

/// An event that is scheduled for a time.
type Act = Box<dyn FnOnce(&mut Kernel)>;

/// The simulated kernel.
pub struct Kernel {
    start: Instant,
    now: Instant,
    /// How far the host's clock is ahead of the time that has passed, and how far behind.
    ahead: Duration,
    behind: Duration,
    /// Scheduled events, in the order of their times.
    acts: BTreeMap<(Instant, u64), Act>,
    /// Numbers events, so that those of the same time keep their order.
    number: u64,
    pub sockets: Vec<Socket>,
    /// Connections that no accept has taken yet.
    backlog: VecDeque<usize>,
    pub rings: Vec<RingSide>,
    doorbell: bool,
    /// The poll on the doorbell, and its ring.
    doorbell_poll: Option<(usize, Token)>,
    /// How often the shard slept at its doorbell.
    pub sleeps_at_doorbell: u64,
    /// How often the shard slept at all, for any time.
    pub sleeps: u64,
    /// How often the shard let other threads run.
    pub yields: u64,
    /// How long another thread of the core runs when the shard yields.
    pub core_wanted: Duration,
    /// Each n-th send on average is taken only in part; at 0 none is.
    pub short_sends: usize,
    /// The shard is told that closed slots are released late, as with older kernels.
    pub releases_slots_late: bool,
    /// Entries of the completion queue of rings that are opened from now on.
    pub completions: usize,
    pub chance: Chance,
    /// Where connections may sleep: what catches their segments, and the network.
    pub catcher: Option<Box<Catcher>>,
}

impl Kernel {
    pub fn new(seed: u64) -> Kernel {
        let start = Instant::now();
        Kernel {
            start,
            now: start,
            ahead: Duration::ZERO,
            behind: Duration::ZERO,
            acts: BTreeMap::new(),
            number: 0,
            sockets: Vec::new(),
            backlog: VecDeque::new(),
            rings: Vec::new(),
            doorbell: false,
            doorbell_poll: None,
            sleeps_at_doorbell: 0,
            sleeps: 0,
            yields: 0,
            core_wanted: Duration::ZERO,
            short_sends: 0,
            releases_slots_late: false,
            completions: 1_024,
            chance: Chance(seed),
            catcher: None,
        }
    }

    // ---- time ------------------------------------------------------------------------------------

    pub fn start(&self) -> Instant {
        self.start
    }

    pub fn now(&self) -> Instant {
        self.now
    }

    pub fn elapsed(&self) -> Duration {
        self.now - self.start
    }

    /// The time that the host's clock shows now.
    pub fn read_clock(&mut self) -> Instant {
        self.pass(CLOCK);
        self.on_host_clock(self.now)
    }

    /// The time that the host's clock shows at an instant.
    pub fn on_host_clock(&self, instant: Instant) -> Instant {
        instant + self.ahead - self.behind
    }

    /// Sets the host's clock ahead.
    pub fn clock_jumps_ahead(&mut self, by: Duration) {
        self.ahead += by;
    }

    /// Sets the host's clock back.
    pub fn clock_goes_back(&mut self, by: Duration) {
        self.behind += by;
    }

    /// Schedules an event at a time that is counted from the start.
    pub fn at(&mut self, time: Duration, act: impl FnOnce(&mut Kernel) + 'static) {
        self.number += 1;
        self.acts.insert((self.start + time, self.number), Box::new(act));
    }

    /// Lets time pass, and the events that are scheduled within it happen.
    pub fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(first) = self.acts.first_entry()
            && first.key().0 <= end
        {
            let ((at, _), act) = first.remove_entry();
            self.now = self.now.max(at);
            act(self);
        }
        self.now = self.now.max(end);
    }

    /// The shard yields its core to other threads.
    pub fn yield_core(&mut self) {
        self.yields += 1;
        self.pass(YIELD + self.core_wanted);
    }

    /// Sleeps until the doorbell is rung, or until an instant on the host's clock.
    pub fn sleep(&mut self, until: Option<Instant>) {
        self.sleeps_at_doorbell += 1;
        self.sleep_until(until.map(|until| until + self.behind - self.ahead), |kernel| {
            std::mem::take(&mut kernel.doorbell)
        });
    }

    /// Sleeps until a ring has completions or task work, or for a time.
    pub fn wait(&mut self, ring: usize, most: Duration) {
        self.sleep_until(Some(self.now + most), |kernel| {
            let side = &kernel.rings[ring];
            !side.work.is_empty() || !side.completed.is_empty() || !side.overflow.is_empty()
        });
    }

    fn sleep_until(&mut self, until: Option<Instant>, mut woken: impl FnMut(&mut Kernel) -> bool) {
        if until.is_some_and(|until| until <= self.now) {
            return;
        }
        self.sleeps += 1;
        while !woken(self) {
            let next = self.acts.first_key_value().map(|((at, _), _)| *at);
            let Some(wake) = next.into_iter().chain(until).min() else {
                panic!("the shard sleeps, and nothing will ever wake it");
            };
            self.pass(wake.saturating_duration_since(self.now));
            if until.is_some_and(|until| until <= self.now) {
                break;
            }
        }
        self.pass(WAKE_UP);
    }

    // ---- what peers do -----------------------------------------------------------------------------

    /// Announces peers that will connect. Returns the number of the first.
    pub fn expect(&mut self, peers: usize) -> usize {
        let first = self.sockets.len();
        self.sockets.extend((0..peers).map(|_| Socket { window: usize::MAX, ..Socket::default() }));
        first
    }

    /// A peer connects.
    pub fn connect(&mut self, peer: usize) {
        self.link_up(peer);
        self.backlog.push_back(peer);
        let waits = |ring: &RingSide| {
            let coming = ring.work.iter().filter(|work| matches!(work, Work::Accept)).count();
            ring.accepts.len() > coming
        };
        if let Some(ring) = self.rings.iter().position(waits) {
            self.work(ring, Work::Accept);
        }
    }

    /// A peer sends bytes, unless its connection is over.
    pub fn say(&mut self, peer: usize, bytes: &[u8]) {
        if self.catcher.is_some() {
            return self.peer_says(peer, bytes);
        }
        let socket = &mut self.sockets[peer];
        let is_heard = socket.ended.is_none() || socket.place.is_some();
        if is_heard && !socket.reset && !socket.fin {
            socket.inbox.extend(bytes);
            socket.said += bytes.len();
            self.readable(peer);
        }
    }

    /// A peer sends further bytes, which differ from every other peer's.
    pub fn say_next(&mut self, peer: usize, count: usize) {
        let said = self.sockets[peer].said;
        let bytes: Vec<u8> = (said..said + count).map(|at| Kernel::byte(peer, at)).collect();
        self.say(peer, &bytes);
    }

    /// The byte that a peer sends after `at` others.
    pub fn byte(peer: usize, at: usize) -> u8 {
        mixed((peer as u64) << 40 | at as u64) as u8
    }

    /// When a peer received each byte.
    pub fn heard(&self, peer: usize) -> Vec<Duration> {
        let socket = &self.sockets[peer];
        let first_with = |at: usize| socket.heard_at[socket.heard_at.partition_point(|(total, _)| *total <= at)].1;
        (0..socket.heard.len()).map(|at| first_with(at) - self.start).collect()
    }

    /// When the shard ended the connection of a peer.
    pub fn ended(&self, peer: usize) -> Option<Duration> {
        self.sockets[peer].ended.map(|(_, at)| at - self.start)
    }

    /// A peer sends a FIN.
    pub fn fin(&mut self, peer: usize) {
        if self.catcher.is_some() {
            return self.peer_ends(peer);
        }
        if !self.sockets[peer].reset {
            self.sockets[peer].fin = true;
            self.readable(peer);
        }
    }

    /// A peer resets its connection.
    pub fn reset(&mut self, peer: usize) {
        if self.catcher.is_some() {
            return self.peer_resets(peer);
        }
        self.is_reset(peer);
    }

    /// A connection is reset: whatever waits for its socket ends. What came before can still be received (`tcp_reset` in
    /// net/ipv4/tcp_input.c).
    pub(super) fn is_reset(&mut self, peer: usize) {
        let socket = &mut self.sockets[peer];
        if !std::mem::replace(&mut socket.reset, true) {
            socket.error = Some(if socket.fin { libc::EPIPE } else { libc::ECONNRESET });
        }
        self.readable(peer);
        self.writable(peer);
    }

    /// A peer makes room for further bytes.
    pub fn take(&mut self, peer: usize, bytes: usize) {
        let socket = &mut self.sockets[peer];
        socket.window = socket.window.saturating_add(bytes);
        self.writable(peer);
    }

    // ---- wake-ups ----------------------------------------------------------------------------------

    /// A connection has something to receive: its poll fires.
    pub(super) fn readable(&mut self, peer: usize) {
        let Some((ring, slot)) = self.sockets[peer].place else { return };
        if let Some(poll) = self.rings[ring].polls.get_mut(&slot)
            && !std::mem::replace(&mut poll.fired, true)
        {
            self.work(ring, Work::Poll(slot));
        }
    }

    /// A peer has room again, or is gone: the send that waits for it goes on.
    pub(super) fn writable(&mut self, peer: usize) {
        let Some((ring, slot)) = self.sockets[peer].place else { return };
        if let Some(parked) = self.rings[ring].parked.get_mut(&slot)
            && !std::mem::replace(&mut parked.fired, true)
        {
            self.work(ring, Work::ParkedSend(slot));
        }
    }

    /// A wake-up leaves something to be done when the ring is entered.
    pub fn work(&mut self, ring: usize, work: Work) {
        self.rings[ring].work.push_back(work);
        if self.rings[ring].rings_doorbell {
            self.ring_doorbell();
        }
    }

    /// The next connection for an accept.
    pub fn next_of_backlog(&mut self) -> Option<usize> {
        self.backlog.pop_front()
    }

    /// Every accept that waits fails: with EINVAL, the listeners are shut down.
    pub fn fail_accepts(&mut self, errno: i32) {
        for ring in 0..self.rings.len() {
            while let Some(token) = self.rings[ring].accepts.pop_front() {
                self.complete(ring, token, -errno, 0);
            }
        }
    }

    /// The shard resets a connection: every operation that waits for its socket ends.
    pub fn reset_by_us(&mut self, peer: usize) {
        if self.catcher.is_some() {
            self.tcp_abort(peer);
        } else if !self.sockets[peer].reset {
            self.sockets[peer].ended = Some((Ending::Reset, self.now));
        }
        self.sockets[peer].inbox.clear();
        self.is_reset(peer);
    }

    /// The shard sends nothing more on a connection.
    pub fn end_sending(&mut self, peer: usize) {
        if self.catcher.is_some() {
            return self.tcp_shutdown(peer);
        }
        let (now, socket) = (self.now, &mut self.sockets[peer]);
        if !socket.reset {
            socket.ended.get_or_insert((Ending::Fin, now));
        }
    }

    /// The shard closes its descriptor of a connection.
    pub fn close(&mut self, peer: usize) {
        let now = self.now;
        self.sockets[peer].place = None;
        if self.catcher.is_some() {
            return self.tcp_close(peer);
        }
        let socket = &mut self.sockets[peer];
        // With unread bytes the close sends a RST (RFC 2525, 2.17), also behind a FIN.
        let how = if socket.inbox.is_empty() { Ending::Fin } else { Ending::Reset };
        if !socket.reset && (socket.ended.is_none() || how == Ending::Reset) {
            socket.ended = Some((how, now));
        }
    }

    /// The peer of a connection receives as much as it has room for. Returns how much that is.
    pub fn deliver(&mut self, peer: usize, bytes: &[u8]) -> usize {
        if let Some(taken) = self.tcp_deliver(peer, bytes) {
            return taken;
        }
        let socket = &mut self.sockets[peer];
        let taken = bytes.len().min(socket.window);
        if socket.window != usize::MAX {
            socket.window -= taken;
        }
        self.note_heard(peer, &bytes[..taken]);
        taken
    }

    /// A peer has received bytes.
    pub(super) fn note_heard(&mut self, peer: usize, bytes: &[u8]) {
        let now = self.now;
        let socket = &mut self.sockets[peer];
        if !bytes.is_empty() {
            socket.heard.extend_from_slice(bytes);
            socket.heard_at.push((socket.heard.len(), now));
        }
    }

    /// Wakes the shard.
    pub fn ring_doorbell(&mut self) {
        if !std::mem::replace(&mut self.doorbell, true)
            && let Some((ring, _)) = self.doorbell_poll
        {
            self.work(ring, Work::Doorbell);
        }
    }

    /// Whether the doorbell was rung, and the shard has not heard it.
    pub fn is_ringing(&self) -> bool {
        self.doorbell
    }

    /// The shard clears the doorbell.
    pub fn clear_doorbell(&mut self) {
        self.doorbell = false;
    }

    /// A poll on the doorbell.
    pub(super) fn poll_doorbell(&mut self, ring: usize, token: Token) {
        assert!(self.doorbell_poll.replace((ring, token)).is_none(), "two polls on the doorbell");
        if self.doorbell {
            self.work(ring, Work::Doorbell);
        }
    }

    /// The task work of the poll on the doorbell. If the doorbell was cleared meanwhile, the poll goes on waiting.
    pub(super) fn doorbell_woke(&mut self) {
        if self.doorbell
            && let Some((ring, token)) = self.doorbell_poll.take()
        {
            self.complete(ring, token, i32::from(libc::POLLIN), 0);
        }
    }
}
