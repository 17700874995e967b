//! Kernel quirks, detected by experiment: distributions backport changes, so version numbers are unreliable.

use std::fmt;
use std::io::{self, Read, Write, pipe};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::OnceLock;
use std::time::Duration;

use super::{Accepts, Queues, Ring, RingOps};
use crate::error::{Errno, Error, HostError, Result, RingReason};
use crate::sys::Doorbell;
use crate::token::{Operation, Token};

/// The behaviour of rings that differs between kernels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quirks {
    /// When rings run the task work that wake-ups queue.
    pub work: TaskWork,
    /// The descriptor of a closed slot stays open until every operation that its ring began before the close has ended.
    /// Kernels before 6.13 do that (the queue of `io_rsrc_node`s in io_uring/rsrc.c).
    pub releases_slots_late: bool,
    /// An accept can be told to wait for a connection before it tries to take one (`IORING_ACCEPT_POLL_FIRST`, 6.10).
    /// Otherwise the kernel allocates a socket and a file before it looks for a connection (`do_accept` in
    /// net/socket.c), so a futile accept costs about as much as a successful one.
    pub accepts_wait_first: bool,
}

/// When a ring runs the task work that wake-ups queue, such as completing a poll that fired.
///
/// Deferred work is the cheapest. With it, the wake-up itself must signal the eventfd, because there is no completion
/// yet. Kernels since 2026 signal it an RCU grace period later instead, which takes milliseconds (`IOU_F_TWQ_IN_WAKE`
/// in io_uring/poll.c and eventfd.c). Those that lack a later fix, such as 6.12.117, signal it once in a ring's life:
/// `io_eventfd_do_signal` leaves `IO_EVENTFD_OP_SIGNAL_BIT` set, and that suppresses every later signal. A shard that
/// sleeps on this eventfd would never wake up again. Without deferral the wake-up interrupts the thread's sleep in the
/// kernel (`TWA_SIGNAL_NO_IPI`). The thread then completes the poll, and the completion signals the eventfd at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TaskWork {
    /// In `Ring::enter` only (`IORING_SETUP_DEFER_TASKRUN`).
    Deferred,
    /// Whenever its thread is in the kernel (`IORING_SETUP_COOP_TASKRUN`).
    Cooperative,
}

impl fmt::Display for TaskWork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            TaskWork::Deferred => "deferred task work",
            TaskWork::Cooperative => "cooperative task work, as deferred rings late",
        })
    }
}

const SMALL: Queues = Queues { submissions: 8, completions: 16 };

/// The quirks that the experiments' rings are opened with, before the real ones are known.
const TRIED: Quirks = Quirks { work: TaskWork::Deferred, releases_slots_late: false, accepts_wait_first: true };

/// The quirks of this kernel. The first call finds them by experiments, with rings of its own.
pub fn quirks() -> Result<Quirks> {
    static FOUND: OnceLock<Quirks> = OnceLock::new();
    if let Some(found) = FOUND.get() {
        return Ok(*found);
    }
    let work = if rings_within_wake_ups()? { TaskWork::Deferred } else { TaskWork::Cooperative };
    let found = Quirks { work, releases_slots_late: releases_slots_late()?, accepts_wait_first: accepts_wait_first()? };
    Ok(*FOUND.get_or_init(|| found))
}

/// Whether a poll's wake-up signals the eventfd of a ring with deferred work before it returns. The experiment runs
/// twice: if this thread is delayed between the wake-up and the check, a late signal seems to be in time. A kernel that
/// signals only once has then used up its signal, and fails the second round.
fn rings_within_wake_ups() -> Result<bool> {
    let doorbell = Doorbell::new()?;
    let mut ring = Ring::new(1, SMALL, doorbell.raw(), TRIED, Accepts::Direct)?;
    let (mut reader, mut writer) = pipe().map_err(refused)?;
    ring.put(0, &reader).map_err(refused)?;
    for _ in 0..2 {
        ring.poll(token(0), false)?;
        ring.enter()?;
        ring.wake_on_completion(true);
        writer.write_all(b"x").map_err(refused)?;
        if !doorbell.rings_within(Duration::ZERO) {
            return Ok(false);
        }
        ring.wake_on_completion(false);
        reader.read_exact(&mut [0]).map_err(refused)?;
        ring.enter()?;
    }
    Ok(true)
}

/// Whether a closed descriptor stays open while an older poll of the same ring waits.
fn releases_slots_late() -> Result<bool> {
    let doorbell = Doorbell::new()?;
    let mut ring = Ring::new(2, SMALL, doorbell.raw(), TRIED, Accepts::Direct)?;
    let (idle, _its_writer) = pipe().map_err(refused)?;
    let (closed, mut writer) = pipe().map_err(refused)?;
    ring.put(0, &idle).map_err(refused)?;
    ring.put(1, &closed).map_err(refused)?;
    drop(closed);
    ring.poll(token(0), false)?;
    ring.close(token(1))?;
    ring.enter()?;
    // If the read end is closed, the write fails with EPIPE. Rust programs ignore SIGPIPE.
    Ok(writer.write_all(b"x").is_ok())
}

/// Whether an accept with `IORING_ACCEPT_POLL_FIRST` waits. It is tried on a socket that can be polled but not accepted
/// from: without the flag the accept would fail at once.
fn accepts_wait_first() -> Result<bool> {
    let doorbell = Doorbell::new()?;
    let mut ring = Ring::new(1, SMALL, doorbell.raw(), TRIED, Accepts::Direct)?;
    let (silent, _its_peer) = UnixStream::pair().map_err(refused)?;
    ring.accept(silent.as_raw_fd(), token(0))?;
    ring.enter()?;
    // A kernel that does not know the flag fails the accept with EINVAL.
    let mut ended = Vec::new();
    ring.reap(&mut ended)?;
    Ok(ended.is_empty())
}

fn token(slot: u32) -> Token {
    Token { slot, generation: 0, operation: Operation::Close }
}

impl Ring {
    /// Installs a plain descriptor in an empty slot, before this call returns.
    pub(super) fn put(&mut self, slot: u32, file: &impl AsRawFd) -> io::Result<()> {
        self.uring.submitter().register_files_update(slot, &[file.as_raw_fd()]).map(drop)
    }
}

fn refused(error: io::Error) -> Error {
    HostError::new("trying out", "io_uring", Errno::of(&error), RingReason::Trial).into()
}
