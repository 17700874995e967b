//! A ring of the simulated kernel. Its completions are decoded as those of a real ring.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::Range;
use std::os::fd::{OwnedFd, RawFd};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::kernel::{
    ACCEPT, CLOSE, ENTER, Kernel, POLL, ParkedSend, Poll, RECEIVE, RESET, RingSide, SEND, WORK_PER_ENTER, Work,
};
use crate::constants::BUFFER_BYTES;
use crate::error::{Error, Result};
use crate::ring::in_flight::InFlightOps;
use crate::ring::{Accepts, Buffer, Buffers, Completion, Outcome, RingOps, SUBMISSION_ENTRIES};
use crate::token::{Operation, Token};

/// Flags of completions (include/uapi/linux/io_uring.h).
const MORE: u32 = 1 << 1;
const SOCKET_HAS_MORE: u32 = 1 << 2;

/// How long it takes at most until a worker of a ring comes to a shutdown.
const SHUTDOWN: Duration = Duration::from_millis(10);

/// A submission that is queued for the kernel.
enum Submission {
    Accept(Token),
    Poll(Token, bool),
    Receive(Token),
    Send(Token, Vec<u8>),
    Park(Token, Vec<u8>),
    RemovePoll(Token),
    Cancel(Token, Operation),
    Reset(Token),
    Shutdown(Token),
    /// The shutdown before a close, where closed slots are released late.
    ShutBoth(Token),
    Close(Token),
    /// The connection of a socket comes into a slot. The descriptor is open until then.
    Install(Token, OwnedFd),
    /// A poll on the ring buffer of caught segments.
    PollCatcher(Token),
    /// A poll on the doorbell.
    PollDoorbell(Token),
}

/// A ring of the simulated machine.
pub struct SimRing {
    kernel: Rc<RefCell<Kernel>>,
    index: usize,
    queued: Vec<Submission>,
    in_flight: InFlightOps,
    /// A copy of each receive's buffer, which is filled when the kernel receives.
    received: BTreeMap<u64, Vec<u8>>,
}

impl SimRing {
    /// A ring with a table of `slots` slots.
    pub fn new(kernel: Rc<RefCell<Kernel>>, slots: u32, accepts: Accepts) -> SimRing {
        let index = kernel.borrow().rings.len();
        let capacity = kernel.borrow().completions;
        kernel.borrow_mut().rings.push(RingSide {
            slots: vec![None; slots as usize],
            polls: BTreeMap::new(),
            parked: BTreeMap::new(),
            accepts: VecDeque::new(),
            work: VecDeque::new(),
            completed: VecDeque::new(),
            overflow: VecDeque::new(),
            capacity,
            rings_doorbell: false,
        });
        SimRing { kernel, index, queued: Vec::new(), in_flight: InFlightOps::new(accepts), received: BTreeMap::new() }
    }

    fn push(&mut self, submission: Submission) -> Result<()> {
        if self.queued.len() == SUBMISSION_ENTRIES as usize {
            self.submit();
        }
        self.queued.push(submission);
        Ok(())
    }

    /// Has the kernel take everything that is queued.
    fn submit(&mut self) {
        let mut kernel = self.kernel.borrow_mut();
        for submission in self.queued.drain(..) {
            if let Submission::Receive(token) = submission {
                let bytes = kernel.receive(self.index, token);
                self.received.insert(token.pack(), bytes);
            } else {
                kernel.submit(self.index, submission);
            }
        }
        self.in_flight.submitted();
    }
}

impl RingOps for SimRing {
    fn accept(&mut self, _listener: RawFd, token: Token) -> Result<()> {
        self.push(Submission::Accept(token.with(Operation::Accept)))
    }

    fn accept_from(&mut self, listener: RawFd, token: Token) -> Result<()> {
        self.accept(listener, token)
    }

    fn accepted_from(&mut self, _token: Token) -> Option<SocketAddr> {
        // The simulated peers have no addresses of their own.
        Some((Ipv4Addr::LOCALHOST, 1).into())
    }

    fn copy_descriptor(&mut self, token: Token) -> Result<io::Result<OwnedFd>> {
        self.submit();
        Ok(self.kernel.borrow_mut().copy_descriptor(self.index, token))
    }

    fn install_accepted(&mut self, socket: OwnedFd, token: Token) -> Result<()> {
        self.push(Submission::Install(token.with(Operation::InstallAccepted), socket))
    }

    fn dial(&mut self, _fd: RawFd, _to: SocketAddr, _token: Token) -> Result<()> {
        Err(Error::bug("the simulated kernel dials nobody"))
    }

    fn poll(&mut self, token: Token, lasting: bool) -> Result<()> {
        self.push(Submission::Poll(token.with(Operation::Poll), lasting))
    }

    fn poll_wake(&mut self, _wake_fd: RawFd, operation: Operation, _lasting: bool) -> Result<()> {
        let token = Token { slot: 0, generation: 0, operation };
        self.push(match operation {
            Operation::CatcherWake => Submission::PollCatcher(token),
            Operation::DoorbellWake => Submission::PollDoorbell(token),
            _ => panic!("{operation:?} is not simulated"),
        })
    }

    fn receive(&mut self, token: Token, buffer: Buffer) -> Result<()> {
        let token = token.with(Operation::Receive);
        self.in_flight.receive(token, buffer);
        self.push(Submission::Receive(token))
    }

    fn send(&mut self, token: Token, mut buffer: Buffer, range: Range<usize>) -> Result<()> {
        let token = token.with(Operation::Send);
        let bytes = buffer.bytes()[range.clone()].to_vec();
        if self.queued.len() == SUBMISSION_ENTRIES as usize {
            self.submit();
        }
        self.in_flight.send(token, buffer, range);
        self.push(Submission::Send(token, bytes))
    }

    fn send_shared(&mut self, token: Token, bytes: Arc<[u8]>) -> Result<()> {
        let token = token.with(Operation::Send);
        if self.queued.len() == SUBMISSION_ENTRIES as usize {
            self.submit();
        }
        self.in_flight.send_shared(token, bytes.clone());
        self.push(Submission::Send(token, bytes.to_vec()))
    }

    fn park_send(&mut self, token: Token, bytes: Arc<[u8]>, range: Range<usize>) -> Result<()> {
        let token = token.with(Operation::ParkedSend);
        let rest = bytes[range.clone()].to_vec();
        self.in_flight.park(token, bytes, range);
        self.push(Submission::Park(token, rest))
    }

    fn parked_bytes(&self, token: Token) -> usize {
        self.in_flight.parked_bytes(token.with(Operation::ParkedSend))
    }

    fn has_send(&self, token: Token) -> bool {
        self.in_flight.has_send(token.with(Operation::Send))
    }

    fn has_parked_send(&self, token: Token) -> bool {
        self.in_flight.has_parked(token.with(Operation::ParkedSend))
    }

    fn remove_poll(&mut self, token: Token) -> Result<()> {
        self.push(Submission::RemovePoll(token.with(Operation::Cancel)))
    }

    fn cancel(&mut self, token: Token, operation: Operation) -> Result<()> {
        self.push(Submission::Cancel(token.with(Operation::Cancel), operation))
    }

    fn end_sending(&mut self, token: Token) -> Result<()> {
        self.push(Submission::Shutdown(token.with(Operation::Shutdown)))
    }

    fn close(&mut self, token: Token) -> Result<()> {
        if self.releases_slots_late() {
            self.push(Submission::ShutBoth(token))?;
        }
        self.close_ours(token)
    }

    fn close_ours(&mut self, token: Token) -> Result<()> {
        self.push(Submission::Close(token.with(Operation::Close)))
    }

    fn reset(&mut self, token: Token) -> Result<()> {
        self.push(Submission::Reset(token.with(Operation::Reset)))
    }

    fn buffers_held(&self) -> usize {
        self.in_flight.buffers()
    }

    fn releases_slots_late(&self) -> bool {
        self.kernel.borrow().releases_slots_late
    }

    fn has_work(&mut self) -> bool {
        self.needs_enter() || !self.kernel.borrow().rings[self.index].completed.is_empty()
    }

    fn needs_enter(&mut self) -> bool {
        !self.queued.is_empty() || self.has_backlog()
    }

    fn has_backlog(&mut self) -> bool {
        let kernel = self.kernel.borrow();
        let side = &kernel.rings[self.index];
        !(side.work.is_empty() && side.overflow.is_empty())
    }

    fn wake_on_completion(&mut self, wake: bool) {
        self.kernel.borrow_mut().rings[self.index].rings_doorbell = wake;
    }

    fn enter(&mut self) -> Result<bool> {
        self.kernel.borrow_mut().enter(self.index);
        self.submit();
        Ok(self.kernel.borrow_mut().run_work(self.index))
    }

    fn wait(&mut self, most: Duration) -> Result<()> {
        self.enter()?;
        let mut kernel = self.kernel.borrow_mut();
        kernel.wait(self.index, most);
        kernel.run_work(self.index);
        Ok(())
    }

    fn reap(&mut self, into: &mut Vec<Completion>) -> Result<()> {
        let completed = std::mem::take(&mut self.kernel.borrow_mut().rings[self.index].completed);
        for (data, result, flags) in completed {
            let mut completion = self.in_flight.decode(data, result, flags)?;
            let bytes = self.received.remove(&data);
            if let (Outcome::Received { buffer, len, .. }, Some(bytes)) = (&mut completion.outcome, bytes) {
                buffer.bytes()[..*len].copy_from_slice(&bytes);
            }
            into.push(completion);
        }
        Ok(())
    }

    fn finish_sends(&mut self, buffers: &mut Buffers, into: &mut Vec<Token>) {
        if self.kernel.borrow().rings[self.index].overflow.is_empty() {
            self.in_flight.finish_sends(buffers, into);
        }
    }
}

/// The kernel's work for a ring.
impl Kernel {
    /// A ring is entered: completions that were held back go into the queue as far as it has room.
    fn enter(&mut self, ring: usize) {
        self.pass(ENTER);
        let side = &mut self.rings[ring];
        while side.completed.len() < side.capacity
            && let Some(raw) = side.overflow.pop_front()
        {
            side.completed.push_back(raw);
        }
    }

    pub(super) fn complete(&mut self, ring: usize, token: Token, result: i32, flags: u32) {
        let side = &mut self.rings[ring];
        let full = side.completed.len() >= side.capacity || !side.overflow.is_empty();
        let queue = if full { &mut side.overflow } else { &mut side.completed };
        queue.push_back((token.pack(), result, flags));
    }

    pub(super) fn peer_in(&self, ring: usize, token: Token) -> Option<usize> {
        self.rings[ring].slots[token.slot as usize]
    }

    /// Carries out a submission. Receives have a function of their own.
    fn submit(&mut self, ring: usize, submission: Submission) {
        match submission {
            Submission::Accept(token) => {
                self.rings[ring].accepts.push_back(token);
                self.accept(ring);
            }
            Submission::Poll(token, lasting) => self.poll(ring, token, lasting),
            Submission::Receive(_) => {}
            Submission::Send(token, bytes) => self.send(ring, token, &bytes),
            Submission::Park(token, bytes) => {
                self.pass(SEND);
                let parked = ParkedSend { token, bytes, sent: 0, fired: false };
                self.rings[ring].parked.insert(token.slot, parked);
                self.go_on_sending(ring, token.slot);
            }
            Submission::RemovePoll(token) => self.cancel(ring, token, Operation::Poll),
            Submission::Cancel(token, operation) => self.cancel(ring, token, operation),
            Submission::Reset(token) => {
                self.pass(RESET);
                if let Some(peer) = self.peer_in(ring, token) {
                    self.reset_by_us(peer);
                }
            }
            Submission::Shutdown(token) => {
                let at = self.elapsed() + self.chance.time(SHUTDOWN);
                self.at(at, move |kernel| kernel.work(ring, Work::Shutdown(token)));
            }
            Submission::ShutBoth(token) => {
                let retired = self.peer_in(ring, token).is_some_and(|peer| self.is_retired(peer));
                assert!(!retired, "a socket is shut down that was given up, and may serve another connection");
            }
            Submission::Close(token) => {
                self.pass(CLOSE);
                let peer = self.rings[ring].slots[token.slot as usize].take();
                peer.into_iter().for_each(|peer| self.close(peer));
                self.complete(ring, token, if peer.is_some() { 0 } else { -libc::EBADF }, 0);
            }
            Submission::Install(token, socket) => self.install(ring, token, &socket),
            Submission::PollCatcher(token) => self.poll_catcher(ring, token),
            Submission::PollDoorbell(token) => self.poll_doorbell(ring, token),
        }
    }

    /// The oldest accept of a ring takes the next connection, if there is one of each.
    fn accept(&mut self, ring: usize) {
        if self.rings[ring].accepts.is_empty() {
            return;
        }
        let Some(peer) = self.next_of_backlog() else { return };
        let Some(token) = self.rings[ring].accepts.pop_front() else { return };
        self.pass(ACCEPT);
        let former = self.rings[ring].slots[token.slot as usize].replace(peer);
        assert!(former.is_none(), "accepted into a slot that has a connection");
        self.sockets[peer].place = Some((ring, token.slot));
        self.complete(ring, token, 0, 0);
    }

    fn poll(&mut self, ring: usize, token: Token, lasting: bool) {
        self.pass(POLL);
        let former = self.rings[ring].polls.insert(token.slot, Poll { token, lasting, fired: false, over: false });
        assert!(former.is_none(), "two polls of one slot");
        if self.events(ring, token).is_some() {
            self.fire(ring, token.slot);
        }
    }

    /// What a poll finds on a slot's connection.
    fn events(&self, ring: usize, token: Token) -> Option<i32> {
        let socket = &self.sockets[self.peer_in(ring, token)?];
        let ends = socket.fin || socket.reset;
        let bit = |set: bool, event: libc::c_short| if set { i32::from(event) } else { 0 };
        let events = bit(ends || !socket.inbox.is_empty(), libc::POLLIN)
            | bit(ends, libc::POLLRDHUP)
            | bit(socket.reset, libc::POLLHUP);
        (events != 0).then_some(events)
    }

    /// The task work of a poll that fired.
    fn fire(&mut self, ring: usize, slot: u32) {
        let Some(poll) = self.rings[ring].polls.get_mut(&slot) else { return };
        poll.fired = false;
        let (token, lasting) = (poll.token, poll.lasting);
        let over = poll.over.then_some(i32::from(libc::POLLIN | libc::POLLRDHUP | libc::POLLHUP));
        // If the bytes have been received meanwhile, the poll goes on waiting.
        let Some(events) = over.or_else(|| self.events(ring, token)) else { return };
        if !lasting {
            self.rings[ring].polls.remove(&slot);
        }
        self.complete(ring, token, events, if lasting { MORE } else { 0 });
    }

    /// Receives what is there, as much as fits into a buffer. Behind it stands the FIN, or else the error of a RST, once
    /// (`tcp_recvmsg_locked` in net/ipv4/tcp.c).
    fn receive(&mut self, ring: usize, token: Token) -> Vec<u8> {
        self.pass(RECEIVE);
        let Some(peer) = self.peer_in(ring, token) else {
            self.complete(ring, token, -libc::EBADF, 0);
            return Vec::new();
        };
        let socket = &mut self.sockets[peer];
        let len = socket.inbox.len().min(BUFFER_BYTES);
        let bytes: Vec<u8> = socket.inbox.drain(..len).collect();
        let more = !socket.inbox.is_empty() || socket.fin && len > 0;
        let result = match len {
            0 if socket.fin => 0,
            0 => match socket.error.take() {
                Some(errno) => -errno,
                None if socket.reset => 0,
                None => -libc::EAGAIN,
            },
            _ => len as i32,
        };
        self.complete(ring, token, result, if more { SOCKET_HAS_MORE } else { 0 });
        bytes
    }

    /// Why nothing can be sent on a connection: it was reset (`sk_stream_error` in net/core/stream.c).
    fn no_send(&mut self, peer: usize) -> Option<i32> {
        let socket = &mut self.sockets[peer];
        socket.reset.then(|| socket.error.take().unwrap_or(libc::EPIPE))
    }

    /// Sends without waiting. A send that is taken whole has no completion.
    fn send(&mut self, ring: usize, token: Token, bytes: &[u8]) {
        self.pass(SEND);
        let Some(peer) = self.peer_in(ring, token) else { return self.complete(ring, token, -libc::EBADF, 0) };
        if let Some(errno) = self.no_send(peer) {
            return self.complete(ring, token, -errno, 0);
        }
        let short = self.short_sends > 0 && self.chance.one_in(self.short_sends);
        let offered = if short { self.chance.below(bytes.len()) } else { bytes.len() };
        let sent = self.deliver(peer, &bytes[..offered]);
        if sent < bytes.len() {
            self.complete(ring, token, if sent == 0 { -libc::EAGAIN } else { sent as i32 }, 0);
        }
    }

    /// A send that waits goes on: the peer has room again, or is gone.
    fn go_on_sending(&mut self, ring: usize, slot: u32) {
        let Some(mut parked) = self.rings[ring].parked.remove(&slot) else { return };
        parked.fired = false;
        let Some(peer) = self.peer_in(ring, parked.token) else {
            return self.complete(ring, parked.token, -libc::EBADF, 0);
        };
        if let Some(errno) = self.no_send(peer) {
            return self.complete(ring, parked.token, -errno, 0);
        }
        parked.sent += self.deliver(peer, &parked.bytes[parked.sent..]);
        if parked.sent == parked.bytes.len() {
            return self.complete(ring, parked.token, parked.sent as i32, 0);
        }
        self.rings[ring].parked.insert(slot, parked);
    }

    /// Cancels an operation of a slot. One that is about to complete cannot be.
    fn cancel(&mut self, ring: usize, token: Token, operation: Operation) {
        self.pass(POLL);
        let side = &mut self.rings[ring];
        let result = match operation {
            Operation::Poll => match side.polls.get(&token.slot).copied() {
                Some(poll) if poll.fired => -libc::EALREADY,
                Some(poll) => {
                    side.polls.remove(&token.slot);
                    return self.complete(ring, poll.token, -libc::ECANCELED, 0);
                }
                None => -libc::ENOENT,
            },
            Operation::ParkedSend => match side.parked.remove(&token.slot) {
                Some(parked) => {
                    let result = if parked.sent > 0 { parked.sent as i32 } else { -libc::ECANCELED };
                    return self.complete(ring, parked.token, result, 0);
                }
                None => -libc::ENOENT,
            },
            _ => -libc::ENOENT,
        };
        self.complete(ring, token, result, 0);
    }

    /// Runs a bounded part of a ring's task work. Returns whether completions are held back.
    fn run_work(&mut self, ring: usize) -> bool {
        for _ in 0..WORK_PER_ENTER {
            match self.rings[ring].work.pop_front() {
                Some(Work::Poll(slot)) => self.fire(ring, slot),
                Some(Work::ParkedSend(slot)) => self.go_on_sending(ring, slot),
                Some(Work::Accept) => self.accept(ring),
                Some(Work::Catcher) => self.catcher_woke(ring),
                Some(Work::Doorbell) => self.doorbell_woke(),
                Some(Work::Shutdown(token)) => {
                    // Whatever connection the slot has by now.
                    self.pass(CLOSE);
                    self.peer_in(ring, token).into_iter().for_each(|peer| self.end_sending(peer));
                    self.complete(ring, token, 0, 0);
                }
                None => break,
            }
        }
        !self.rings[ring].overflow.is_empty()
    }
}
