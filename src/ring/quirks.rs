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

/// What rings do on this kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quirks {
    /// When rings do the work that wake-ups leave for them.
    pub work: TaskWork,
    /// The descriptor of a closed slot stays open until every operation of its ring that began
    /// before has ended. So it is before 6.13 (the queue of `io_rsrc_node`s in io_uring/rsrc.c).
    pub closed_slots_linger: bool,
    /// An accept can be told to wait for a connection before it tries to take one (`IORING_ACCEPT_POLL_FIRST`, 6.10).
    /// The kernel makes a socket and a file before it looks whether there is any (`do_accept` in net/socket.c), so
    /// that an accept in vain costs about as much as one that succeeds.
    pub accepts_wait_first: bool,
}

/// When a ring does the work that wake-ups leave for it, such as completing a poll that fired.
///
/// Deferred work is the cheapest, and then the wake-up itself must ring the eventfd, as there is no
/// completion yet. Since 2026 kernels ring it a grace period of RCU later instead, milliseconds
/// (`IOU_F_TWQ_IN_WAKE` in io_uring/poll.c and eventfd.c), and those that lack a later correction,
/// 6.12.117 among them, do it once in a ring's life: `io_eventfd_do_signal` leaves
/// `IO_EVENTFD_OP_SIGNAL_BIT` set, with which no later wake-up rings any more. A shard that sleeps
/// on such a bell is deaf. Without deferral the wake-up interrupts the thread's sleep in the kernel
/// (`TWA_SIGNAL_NO_IPI`), which completes the poll, and that rings at once.
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

/// The quirks that a ring is opened with to find out the real ones.
const TRIED: Quirks = Quirks { work: TaskWork::Deferred, closed_slots_linger: false, accepts_wait_first: true };

/// The quirks of this kernel. The first call finds them out, with rings of its own.
pub fn quirks() -> Result<Quirks> {
    static FOUND: OnceLock<Quirks> = OnceLock::new();
    if let Some(found) = FOUND.get() {
        return Ok(*found);
    }
    let work = if rings_within_wake_ups()? { TaskWork::Deferred } else { TaskWork::Cooperative };
    let found = Quirks { work, closed_slots_linger: closed_slots_linger()?, accepts_wait_first: accepts_wait_first()? };
    Ok(*FOUND.get_or_init(|| found))
}

/// Whether the wake-up of a poll has signalled a deferring ring's eventfd by the time it returns. It is tried twice: a
/// late signal may seem to be in time when something kept this thread between the wake-up and the look, but a kernel
/// that signals only once has then done so.
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

/// Whether a closed descriptor outlives its close while an older poll waits.
fn closed_slots_linger() -> Result<bool> {
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
    // A pipe that nobody can read any more breaks; Rust programs ignore SIGPIPE.
    Ok(writer.write_all(b"x").is_ok())
}

/// Whether an accept that is to wait first does so, on a socket that can be waited for, if never accepted from.
fn accepts_wait_first() -> Result<bool> {
    let doorbell = Doorbell::new()?;
    let mut ring = Ring::new(1, SMALL, doorbell.raw(), TRIED, Accepts::Direct)?;
    let (silent, _its_peer) = UnixStream::pair().map_err(refused)?;
    ring.accept(silent.as_raw_fd(), token(0))?;
    ring.enter()?;
    // A kernel that does not know the flag refuses it.
    let mut ended = Vec::new();
    ring.reap(&mut ended)?;
    Ok(ended.is_empty())
}

fn token(slot: u32) -> Token {
    Token { slot, generation: 0, operation: Operation::Close }
}

impl Ring {
    /// Puts a plain descriptor into an empty slot, at once.
    pub(super) fn put(&mut self, slot: u32, file: &impl AsRawFd) -> io::Result<()> {
        self.uring.submitter().register_files_update(slot, &[file.as_raw_fd()]).map(drop)
    }
}

fn refused(error: io::Error) -> Error {
    HostError::new("trying out", "io_uring", Errno::of(&error), RingReason::Trial).into()
}
