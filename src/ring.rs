//! One io_uring with its descriptor table: typed operations in, typed completions out.
//!
//! The owner of an operation's memory, and how long it owns it:
//!
//! | operation | memory | owner while in the kernel | given back |
//! |---|---|---|---|
//! | `receive` | a `Buffer` | `InFlightOps` | with its completion |
//! | `send` | a `Buffer` | `InFlightOps` | with its completion, which only a short or failed send has; else by `finish_sends` |
//! | `send_shared` | a clone of an `Arc<[u8]>` | `InFlightOps` | dropped as a `Buffer` is given back |
//! | `park_send` | a clone of an `Arc<[u8]>` | `InFlightOps` | dropped with its completion |
//! | `accept_from` | a socket address | `InFlightOps` | taken after its completion by `accepted_from`, or freed with a failed one |
//! | `dial`, `install_accepted`, `reset` | socket address, descriptor number | `Ring::arguments` | after the enter that submitted it: the kernel copies both when it takes the submission |
//!
//! Receives, and sends that are not parked, carry MSG_DONTWAIT, so the kernel is done with them when the enter that
//! submitted them returns, and their completions are then in the queue (or, when that is full, behind the overflow
//! flag). Polls, accepts, connects and parked sends wait in the kernel, and a worker of the ring does a shutdown
//! (`end_sending`).

mod arguments;
mod copy_descriptor;
pub(crate) mod in_flight;
mod ops;
mod quirks;
mod setup;
#[cfg(test)]
mod tests;

use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::os::fd::{AsRawFd, IntoRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

use io_uring::squeue::{Entry, Flags};
use io_uring::types::Fixed;
use io_uring::{IoUring, cqueue, opcode, types};

pub use ops::RingOps;
pub use quirks::{Quirks, TaskWork, quirks};
pub use setup::{OLDEST_KERNEL, REQUIRED, probe, refused};

use crate::constants::{ACCEPTS_IN_FLIGHT, BUFFER_BYTES};
use crate::error::{Errno, Error, HostError, Result, RingReason};
use crate::sys::RawAddress;
use crate::token::{Operation, Token};
use arguments::Arguments;
use in_flight::InFlightOps;

/// Submission queue entries of a shard's ring. A full queue is submitted early; nothing is lost. Newer kernels charge
/// both queues to an ordinary user's `memlock`: 52 rings at each end of a million connections must fit the usual 8 MiB.
pub const SUBMISSION_ENTRIES: u32 = 256;

/// Completion queue entries of a shard's ring. Beyond it the kernel keeps completions in its own list
/// (`IORING_FEAT_NODROP`) until the shard has reaped the others.
pub const COMPLETION_ENTRIES: u32 = 1024;

/// The same where closed slots are released late (`Quirks::releases_slots_late`): eight times as many buckets in the hash
/// of the ring's polls, so that removing a poll is faster. There polls are removed all the time.
const COMPLETION_ENTRIES_RELEASING_LATE: u32 = 8 * COMPLETION_ENTRIES;

/// Receive buffers that a shard keeps for reuse. More may be in use for a moment; they are then freed.
pub const BUFFERS_KEPT: usize = 512;

const _: () = {
    assert!(COMPLETION_ENTRIES >= 2 * SUBMISSION_ENTRIES, "a full submission fits its completions");
    assert!(ACCEPTS_IN_FLIGHT <= COMPLETION_ENTRIES as usize, "all accepts may complete at once");
};

/// A receive buffer of `BUFFER_BYTES`; owned by one holder at a time.
#[derive(Debug)]
pub struct Buffer(Box<[u8]>);

impl Buffer {
    /// Its bytes.
    pub fn bytes(&mut self) -> &mut [u8] {
        &mut self.0
    }
}

/// The receive buffers of a shard, shared by its rings. There are as many as are in use at once, and up to
/// `BUFFERS_KEPT` are kept for reuse.
#[derive(Debug, Default)]
pub struct Buffers(Vec<Buffer>);

impl Buffers {
    /// Makes some beforehand and touches their pages, so that a burst need not.
    pub fn prepare(&mut self, count: usize) {
        self.0.extend((0..count).map(|_| Buffer(vec![u8::MAX; BUFFER_BYTES].into_boxed_slice())));
    }

    /// Takes a buffer. The one that was used last comes first, because it is still in the core's cache.
    pub fn take(&mut self) -> Buffer {
        self.0.pop().unwrap_or_else(|| Buffer(vec![0; BUFFER_BYTES].into_boxed_slice()))
    }

    /// Gives a buffer back.
    pub fn put(&mut self, buffer: Buffer) {
        if self.0.len() < BUFFERS_KEPT {
            self.0.push(buffer);
        }
    }
}

/// What came of an operation.
#[derive(Debug)]
pub enum Outcome {
    /// An accept brought a connection: in the slot, or in a plain descriptor where the ring was opened for those.
    Accepted(Option<OwnedFd>),
    /// An accept failed.
    AcceptFailed {
        /// What the kernel said.
        errno: Errno,
        /// Trying again at once would be in vain.
        pause: bool,
    },
    /// The plain socket could not be put into the slot. Its connect is cancelled without a completion
    /// (`REQ_F_SKIP_LINK_CQES`): this is all that comes of the dial.
    InstallFailed(Errno),
    /// The connect succeeded.
    Connected,
    /// The connect failed or was cancelled.
    ConnectFailed(Errno),
    /// Something happened on the socket, or its poll was removed.
    Ready {
        /// The poll still waits: it is a lasting one.
        armed: bool,
        /// Both directions of the connection are over, as after a RST.
        over: bool,
        /// The peer has sent a FIN; there may be bytes before it.
        fin: bool,
    },
    /// Bytes came.
    Received {
        /// Where they are.
        buffer: Buffer,
        /// How many.
        len: usize,
        /// The socket holds more, or its end.
        more: bool,
    },
    /// Nothing to receive after all.
    Empty(Buffer),
    /// The peer sends nothing more.
    End(Buffer),
    /// The connection is broken.
    ReceiveFailed(Buffer, Errno),
    /// The kernel took only part; `rest` of the buffer is still to be sent.
    SentShort(Buffer, Range<usize>),
    /// Nothing more can be sent.
    SendFailed(Buffer, Errno),
    /// The kernel took only a part of a send of shared bytes; the range of them is still to be sent.
    SharedSentShort(Arc<[u8]>, Range<usize>),
    /// Nothing more can be sent.
    SharedSendFailed(Errno),
    /// All bytes of a parked send are with the kernel.
    ParkedSent,
    /// A parked send ended with an error.
    ParkedSendFailed(Errno),
    /// A parked send was cancelled, or ended before the kernel had taken every byte; the range of them is still to be
    /// sent.
    ParkedSendCut(Arc<[u8]>, Range<usize>),
    /// A cancel found its operation already running, which now ends by itself or must be
    /// cancelled again.
    CancelTooLate,
    /// The end of what is sent is over: the peer gets a FIN, or the connection was reset before.
    ShutDown {
        /// The peer gets no FIN: the kernel had no worker for the shutdown.
        failed: bool,
    },
    /// The slot holds no descriptor any more.
    Closed,
    /// The socket filter has notifications, or the poll on them has failed.
    FilterWoke {
        /// The poll still waits: it is a lasting one.
        armed: bool,
    },
    /// Segments were caught for sleeping connections, or the poll on them has failed.
    CatcherWoke,
    /// The doorbell was rung, or the poll on it has failed.
    DoorbellRang,
    /// An operation for which no caller waits.
    Settled,
}

/// An operation that ended.
#[derive(Debug)]
pub struct Completion {
    /// Whose it is.
    pub token: Token,
    /// What came of it.
    pub outcome: Outcome,
}

/// What the accepts of a ring bring.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Accepts {
    /// Connections in their slots.
    #[default]
    Direct,
    /// Plain descriptors, for something that can be done to those alone; `install_accepted` takes them into their slots.
    Plain,
}

/// Entries of a ring's two queues.
#[derive(Debug, Clone, Copy)]
pub struct Queues {
    /// Submissions that fit before they must be entered.
    pub submissions: u32,
    /// Completions that fit before the kernel keeps them back.
    pub completions: u32,
}

impl Queues {
    /// The queues of a shard's ring.
    pub fn of_shard(quirks: Quirks) -> Queues {
        let completions =
            if quirks.releases_slots_late { COMPLETION_ENTRIES_RELEASING_LATE } else { COMPLETION_ENTRIES };
        Queues { submissions: SUBMISSION_ENTRIES, completions }
    }
}

/// One io_uring, its descriptor table of a fixed number of slots, and the memory of what is in it.
pub struct Ring {
    uring: IoUring,
    queued: u32,
    in_flight: InFlightOps,
    arguments: Arguments,
    quirks: Quirks,
    /// Completions that came while `copy_descriptor` waited for its own. `reap` returns them first.
    early: Vec<Completion>,
    /// Enters in a row that found nothing, although the kernel said that there was task work.
    futile_enters: u32,
}

/// So many enters in a row find nothing before a flag of the kernel is taken as stale.
const FUTILE_ENTERS: u32 = 64;

/// The kernel reads it when it takes the submission.
static NO_TIME: types::Timespec = types::Timespec::new();

impl Ring {
    /// Opens a ring with a table of `slots` descriptors that signals `eventfd`, for a kernel with these quirks. Must
    /// be called on the thread that will use it. Completions do not signal the eventfd until `wake_on_completion`.
    pub fn new(slots: u32, queues: Queues, eventfd: RawFd, quirks: Quirks, accepts: Accepts) -> Result<Ring> {
        let uring = setup::open(queues, quirks.work)?;
        let submitter = uring.submitter();
        submitter.register_files_sparse(slots).map_err(|e| {
            let table = format!("a table of {slots} direct descriptors");
            HostError::new("register", table, Errno::of(&e), RingReason::Table)
        })?;
        submitter.register_eventfd(eventfd).map_err(|e| Error::unexpected("register", "an eventfd", &e))?;
        let arguments = Arguments::new(queues.submissions);
        let in_flight = InFlightOps::new(accepts);
        let mut ring = Ring { uring, queued: 0, in_flight, arguments, quirks, early: Vec::new(), futile_enters: 0 };
        ring.wake_on_completion(false);
        Ok(ring)
    }

    /// Queues an accept. The kernel writes the peer's address and its length where the pointers lead, if anywhere.
    fn accept_into(
        &mut self,
        listener: RawFd,
        token: Token,
        (address, len): (*mut libc::sockaddr, *mut libc::socklen_t),
    ) -> Result<()> {
        let slot = types::DestinationSlot::try_from_slot_target(token.slot)
            .map_err(|slot| Error::bug(format!("accept into slot {slot}")))?;
        let mut entry = opcode::Accept::new(types::Fd(listener), address, len)
            .file_index((self.in_flight.accepts == Accepts::Direct).then_some(slot))
            .flags(if self.in_flight.accepts == Accepts::Plain { libc::SOCK_CLOEXEC } else { 0 })
            .build();
        if self.quirks.accepts_wait_first {
            wait_first(&mut entry);
        }
        self.push(&[entry.user_data(token.with(Operation::Accept).pack())])
    }

    fn enter_with(&mut self, flags: u32) -> Result<()> {
        // SAFETY: every queued entry points into memory that `self` owns until the kernel is done
        // with it (the table at the top of this file); no sigset is passed.
        let done = unsafe { self.uring.submitter().enter::<libc::sigset_t>(self.queued, 0, flags, None) };
        self.entered(done)
    }

    /// Counts what the kernel took in an enter.
    fn entered(&mut self, done: io::Result<usize>) -> Result<()> {
        match done {
            Ok(_) => {}
            // Interrupted, or the kernel wants completions reaped or memory freed first: what was
            // not taken stays queued. ETIME: nothing has completed in the time that was to be waited.
            Err(e) if matches!(e.raw_os_error(), Some(libc::EINTR | libc::EBUSY | libc::EAGAIN | libc::ETIME)) => {}
            Err(e) if matches!(Errno::of(&e), Errno::EPERM | Errno::ENOSYS) => {
                return Err(refused("io_uring_enter", "", &e));
            }
            Err(e) => return Err(Error::bug(format!("io_uring_enter: {}", Errno::of(&e)))),
        }
        self.queued = self.uring.submission().len() as u32;
        if self.queued == 0 {
            self.arguments.clear();
            self.in_flight.submitted();
        }
        Ok(())
    }

    /// Has the kernel clear its flag `taskrun`, which says that there is task work, if there is none.
    ///
    /// The kernel adds task work to a list and sets the flag after that (`io_req_local_work_add`). An enter on another
    /// processor may come between the two: it does the work and clears the flag, which is then set. Nothing but the
    /// next task work clears it, and a shard without any would look at the ring for ever. A timeout of no time is such
    /// work.
    fn clear_stale_taskrun(&mut self, taskrun: bool) -> Result<()> {
        let futile = taskrun && self.uring.completion().is_empty();
        self.futile_enters = if futile { self.futile_enters + 1 } else { 0 };
        if self.futile_enters < FUTILE_ENTERS {
            return Ok(());
        }
        self.futile_enters = 0;
        self.make_task_work()
    }

    /// Queues what makes task work, and completes as settled.
    fn make_task_work(&mut self) -> Result<()> {
        let token = Token { slot: 0, generation: 0, operation: Operation::Cancel };
        self.push(&[opcode::Timeout::new(&NO_TIME).build().user_data(token.pack())])
    }

    fn make_room(&mut self, entries: usize) -> Result<()> {
        for _ in 0..2 {
            let room = self.uring.submission().capacity() - self.queued as usize;
            if room >= entries && !self.arguments.is_full() {
                return Ok(());
            }
            self.enter_with(0)?;
        }
        let refused =
            HostError::new("a full submission queue", "that the kernel does not take", None, RingReason::Requests);
        Err(refused.into())
    }

    /// Makes room for entries, and queues them.
    fn push(&mut self, entries: &[Entry]) -> Result<()> {
        self.make_room(entries.len())?;
        self.queue(entries)
    }

    /// Queues entries for which room was made. The kernel is not entered: that would free the arguments that they have.
    fn queue(&mut self, entries: &[Entry]) -> Result<()> {
        // SAFETY: as in `enter_with`: what the entries point to is owned by `self` until the kernel is done with it.
        unsafe { self.uring.submission().push_multiple(entries) }
            .map_err(|_| Error::bug("submission queue full after making room"))?;
        self.queued += entries.len() as u32;
        Ok(())
    }
}

impl RingOps for Ring {
    fn accept(&mut self, listener: RawFd, token: Token) -> Result<()> {
        self.accept_into(listener, token, (std::ptr::null_mut(), std::ptr::null_mut()))
    }

    fn accept_from(&mut self, listener: RawFd, token: Token) -> Result<()> {
        if self.in_flight.accepts == Accepts::Plain {
            return self.accept(listener, token);
        }
        let address = self.in_flight.accept(token.with(Operation::Accept)).as_mut_ptrs();
        self.accept_into(listener, token, address)
    }

    fn accepted_from(&mut self, token: Token) -> Option<SocketAddr> {
        self.in_flight.accepted_from(token.with(Operation::Accept))?.socket_addr()
    }

    fn copy_descriptor(&mut self, token: Token) -> Result<io::Result<OwnedFd>> {
        self.copy_at_once(token)
    }

    fn install_accepted(&mut self, socket: OwnedFd, token: Token) -> Result<()> {
        self.make_room(2)?;
        let (_, _, fd) = self.arguments.place(RawAddress::unspecified(), socket.as_raw_fd());
        let data = token.with(Operation::InstallAccepted).pack();
        let install = opcode::FilesUpdate::new(fd, 1).offset(token.slot as i32).build();
        let close = opcode::Close::new(types::Fd(socket.into_raw_fd())).build();
        self.queue(&[install, close].map(|entry| entry.flags(Flags::SKIP_SUCCESS).user_data(data)))
    }

    fn dial(&mut self, fd: RawFd, to: SocketAddr, token: Token) -> Result<()> {
        self.make_room(2)?;
        let (address, len, fd) = self.arguments.place(RawAddress::from(to), fd);
        let install = opcode::FilesUpdate::new(fd, 1)
            .offset(token.slot as i32)
            .build()
            .flags(Flags::IO_LINK | Flags::SKIP_SUCCESS)
            .user_data(token.with(Operation::Install).pack());
        let connect = opcode::Connect::new(Fixed(token.slot), address, len)
            .build()
            .user_data(token.with(Operation::Connect).pack());
        self.queue(&[install, connect])
    }

    fn poll(&mut self, token: Token, lasting: bool) -> Result<()> {
        let entry =
            opcode::PollAdd::new(Fixed(token.slot), (libc::POLLIN | libc::POLLRDHUP) as u32).multi(lasting).build();
        self.push(&[entry.user_data(token.with(Operation::Poll).pack())])
    }

    fn poll_wake(&mut self, wake_fd: RawFd, operation: Operation, lasting: bool) -> Result<()> {
        let token = Token { slot: 0, generation: 0, operation };
        let entry = opcode::PollAdd::new(types::Fd(wake_fd), libc::POLLIN as u32).multi(lasting).build();
        self.push(&[entry.user_data(token.pack())])
    }

    fn receive(&mut self, token: Token, mut buffer: Buffer) -> Result<()> {
        let token = token.with(Operation::Receive);
        let entry = opcode::Recv::new(Fixed(token.slot), buffer.0.as_mut_ptr(), buffer.0.len() as u32)
            .flags(libc::MSG_DONTWAIT)
            .build();
        self.in_flight.receive(token, buffer);
        self.push(&[entry.user_data(token.pack())])
    }

    fn send(&mut self, token: Token, buffer: Buffer, range: Range<usize>) -> Result<()> {
        let token = token.with(Operation::Send);
        let bytes = &buffer.0[range.clone()];
        // MSG_WAITALL makes a short send a failure, which is never skipped.
        let entry = opcode::Send::new(Fixed(token.slot), bytes.as_ptr(), bytes.len() as u32)
            .flags(libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL | libc::MSG_WAITALL)
            .build()
            .flags(Flags::SKIP_SUCCESS);
        self.make_room(1)?;
        self.in_flight.send(token, buffer, range);
        self.queue(&[entry.user_data(token.pack())])
    }

    fn send_shared(&mut self, token: Token, bytes: Arc<[u8]>) -> Result<()> {
        let token = token.with(Operation::Send);
        let entry = opcode::Send::new(Fixed(token.slot), bytes.as_ptr(), bytes.len() as u32)
            .flags(libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL | libc::MSG_WAITALL)
            .build()
            .flags(Flags::SKIP_SUCCESS);
        self.make_room(1)?;
        self.in_flight.send_shared(token, bytes);
        self.queue(&[entry.user_data(token.pack())])
    }

    fn park_send(&mut self, token: Token, bytes: Arc<[u8]>, range: Range<usize>) -> Result<()> {
        let token = token.with(Operation::ParkedSend);
        let part = &bytes[range.clone()];
        let entry = opcode::Send::new(Fixed(token.slot), part.as_ptr(), part.len() as u32)
            .flags(libc::MSG_NOSIGNAL | libc::MSG_WAITALL)
            .build();
        self.in_flight.park(token, bytes, range);
        self.push(&[entry.user_data(token.pack())])
    }

    fn parked_bytes(&self, token: Token) -> usize {
        self.in_flight.parked_bytes(token.with(Operation::ParkedSend))
    }

    fn releases_slots_late(&self) -> bool {
        self.quirks.releases_slots_late
    }

    fn buffers_held(&self) -> usize {
        self.in_flight.buffers()
    }

    fn has_send(&self, token: Token) -> bool {
        self.in_flight.has_send(token.with(Operation::Send))
    }

    fn has_parked_send(&self, token: Token) -> bool {
        self.in_flight.has_parked(token.with(Operation::ParkedSend))
    }

    fn remove_poll(&mut self, token: Token) -> Result<()> {
        let target = token.with(Operation::Poll).pack();
        let entry = opcode::PollRemove::new(target).build().flags(Flags::SKIP_SUCCESS);
        self.push(&[entry.user_data(token.with(Operation::Cancel).pack())])
    }

    fn cancel(&mut self, token: Token, operation: Operation) -> Result<()> {
        let target = token.with(operation).pack();
        let entry = opcode::AsyncCancel::new(target).build().flags(Flags::SKIP_SUCCESS);
        self.push(&[entry.user_data(token.with(Operation::Cancel).pack())])
    }

    fn end_sending(&mut self, token: Token) -> Result<()> {
        // A worker of the ring does it (`REQ_F_FORCE_ASYNC` in io_shutdown_prep of io_uring/net.c), and only then looks for the
        // socket in the slot (`io_assign_file`). So its completion must be waited for.
        let end = opcode::Shutdown::new(Fixed(token.slot), libc::SHUT_WR).build();
        self.push(&[end.user_data(token.with(Operation::Shutdown).pack())])
    }

    fn close(&mut self, token: Token) -> Result<()> {
        let close = opcode::Close::new(Fixed(token.slot)).build().user_data(token.with(Operation::Close).pack());
        if !self.quirks.releases_slots_late {
            return self.push(&[close]);
        }
        // The close alone would send the FIN when the descriptor is freed, which may be late.
        let end = opcode::Shutdown::new(Fixed(token.slot), libc::SHUT_RDWR)
            .build()
            .flags(Flags::IO_HARDLINK | Flags::SKIP_SUCCESS)
            .user_data(token.with(Operation::Reset).pack());
        self.push(&[end, close])
    }

    fn close_ours(&mut self, token: Token) -> Result<()> {
        let close = opcode::Close::new(Fixed(token.slot)).build().user_data(token.with(Operation::Close).pack());
        self.push(&[close])
    }

    fn reset(&mut self, token: Token) -> Result<()> {
        self.make_room(1)?;
        let (address, len, _) = self.arguments.place(RawAddress::unspecified(), -1);
        // Connecting to AF_UNSPEC disconnects, which resets (tcp_disconnect in net/ipv4/tcp.c).
        let reset = opcode::Connect::new(Fixed(token.slot), address, len)
            .build()
            .flags(Flags::SKIP_SUCCESS)
            .user_data(token.with(Operation::Reset).pack());
        self.queue(&[reset])
    }

    fn has_work(&mut self) -> bool {
        self.needs_enter()
            || !self.early.is_empty()
            || self.in_flight.has_submitted_sends()
            || !self.uring.completion().is_empty()
    }

    fn needs_enter(&mut self) -> bool {
        self.queued > 0 || self.has_backlog()
    }

    fn has_backlog(&mut self) -> bool {
        let submission = self.uring.submission();
        submission.taskrun() || submission.cq_overflow()
    }

    fn wake_on_completion(&mut self, wake: bool) {
        let completion = self.uring.completion();
        if wake { completion.enable_eventfd() } else { completion.disable_eventfd() }
    }

    fn enter(&mut self) -> Result<bool> {
        self.enter_with(io_uring::EnterFlags::GETEVENTS.bits())?;
        let submission = self.uring.submission();
        let (taskrun, overflow) = (submission.taskrun(), submission.cq_overflow());
        drop(submission);
        self.clear_stale_taskrun(taskrun)?;
        Ok(overflow)
    }

    fn wait(&mut self, most: Duration) -> Result<()> {
        let most = types::Timespec::from(most);
        // What is queued is submitted with it.
        let done = self.uring.submitter().submit_with_args(1, &types::SubmitArgs::new().timespec(&most));
        self.entered(done)
    }

    fn reap(&mut self, into: &mut Vec<Completion>) -> Result<()> {
        into.append(&mut self.early);
        // The queue borrows the ring, and decoding needs the ring: through a fixed batch.
        let mut raw = [const { std::mem::MaybeUninit::<cqueue::Entry>::uninit() }; 64];
        loop {
            let filled = self.uring.completion().fill(&mut raw);
            if filled.is_empty() {
                return Ok(());
            }
            for entry in filled.iter() {
                let completion = self.in_flight.decode(entry.user_data(), entry.result(), entry.flags())?;
                into.push(completion);
            }
        }
    }

    fn finish_sends(&mut self, buffers: &mut Buffers, into: &mut Vec<Token>) {
        if self.uring.submission().cq_overflow() {
            return; // the completion of a short send may be behind the overflow
        }
        self.in_flight.finish_sends(buffers, into);
    }
}

/// Has an accept wait for a connection before it tries to take one, for which io-uring has no setter.
fn wait_first(accept: &mut Entry) {
    /// `IORING_ACCEPT_POLL_FIRST`, in `ioprio` of an accept (include/uapi/linux/io_uring.h).
    const POLL_FIRST: u16 = 1 << 2;
    const IOPRIO: usize = 2;
    // SAFETY: an `Entry` is the kernel's `struct io_uring_sqe` (`repr(C)`, of 64 bytes), whose bytes 2 and 3 are
    // `ioprio`, a u16 that may be any number.
    unsafe { std::ptr::from_mut(accept).byte_add(IOPRIO).cast::<u16>().write(POLL_FIRST) }
}

const _: () = assert!(size_of::<Entry>() == 64, "an entry of a submission queue is the kernel's");
