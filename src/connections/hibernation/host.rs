//! What hibernation asks of the kernel. `kernel.rs` has it carried out; the tests of the engine have a simulated kernel.

use std::io;
use std::os::fd::{OwnedFd, RawFd};
use std::time::Duration;

use crate::hibernation::{Checkpoint, Negotiated, Progress, Tuple};
use crate::sys::{CaughtAt, Patience};

/// A segment that was caught for a sleeping connection. Its bytes are in the buffer that was passed.
#[derive(Debug, Clone, Copy)]
pub struct Caught {
    /// The number under which the connection was inserted in the table.
    pub index: u32,
    /// The ends that the packet names: its source is the peer.
    pub tuple: Tuple,
    /// When it was caught, by the host's clock.
    pub at: CaughtAt,
    /// Bytes of the segment with its header. The bytes in the buffer are fewer where the segment did not fit a record.
    pub whole_len: usize,
}

/// The kernel, as hibernation sees it on one shard.
pub trait HibernationHost {
    /// The ends of a connection and what its handshake agreed on. `None` for a connection that cannot sleep.
    fn identify(&mut self, socket: &OwnedFd) -> io::Result<Option<(Tuple, Negotiated)>>;

    /// Has segments for a socket caught while its ends are in the table. Sockets of a listener that catches have that
    /// from their accept.
    fn prepare(&mut self, socket: &OwnedFd) -> io::Result<()>;

    /// Sockets may have another process's program from now on: `prepare` gives each its own.
    fn expect_other_programs(&mut self);

    /// Inserts a connection in the table: its segments are caught from now on. `false` if the table has no place for
    /// it.
    fn insert(&mut self, tuple: &Tuple, index: u32) -> bool;

    /// Removes a connection from the table.
    fn remove(&mut self, tuple: &Tuple, index: u32);

    /// A connection of the table has a socket again. What reaches the socket is not caught any more. What reaches the
    /// listener still is, until a grace period is over: its look-up may have come before the socket was there.
    fn woke(&mut self, tuple: &Tuple, index: u32);

    /// Whether nothing waits for a grace period any more. `turn` brings that about, unless more is put to sleep or woken.
    fn is_settled(&self) -> bool;

    /// Removes all connections of this shard from the table whose index is not to stay, as an earlier process left them
    /// there.
    fn retain(&mut self, stays: &dyn Fn(u32) -> bool);

    /// Does what is due by itself. To be called in each pass.
    fn turn(&mut self);

    /// A socket is about to be taken from a connection that is in the table, or given to it. Until `end_transit`
    /// segments for sockets are caught too, and not only segments for listeners.
    fn begin_transit(&mut self);

    /// The connection has either a socket or a place in the table, and not both.
    fn end_transit(&mut self);

    /// Asks for a grace period, and returns its number. Once it has passed, no processor is any more handling a
    /// segment that came before this call.
    fn request_grace(&mut self) -> u64;

    /// Whether a grace period has passed.
    fn grace_passed(&mut self, number: u64) -> bool;

    /// Takes the state of a connection. `None` if something is in flight; its socket is then as it was. Otherwise its
    /// socket must be given to `retire`.
    fn checkpoint(&mut self, socket: &OwnedFd) -> io::Result<Option<Progress>>;

    /// Gives up the socket of a connection whose state was taken, at once and without a segment, also where other
    /// descriptors of the socket are open.
    fn retire(&mut self, socket: OwnedFd, tuple: &Tuple) -> io::Result<()>;

    /// Makes a socket for a connection that slept. `seen` is the peer's last timestamp, or 0 where it is not known.
    fn restore(&mut self, checkpoint: &Checkpoint, seen: u32) -> io::Result<OwnedFd>;

    /// Goes on with the segments that were caught where another process has stopped. To be called before the first
    /// `has_caught` after that.
    fn catch_up(&mut self);

    /// Whether segments were caught.
    fn has_caught(&mut self) -> bool;

    /// The next segment that was caught, its bytes in `bytes`.
    fn next_caught(&mut self, bytes: &mut Vec<u8>) -> Option<Caught>;

    /// The time since a segment was caught.
    fn since(&self, at: CaughtAt) -> Duration;

    /// Segments that were not caught as the ring buffer was full, so far.
    fn dropped(&self) -> u64;

    /// The RSTs among them, which no peer sends again.
    fn dropped_resets(&self) -> u64;

    /// How segments that are caught from now on make `wake_fd` readable.
    fn set_patience(&mut self, patience: Patience);

    /// Becomes readable when a segment was caught.
    fn wake_fd(&self) -> RawFd;

    /// Sends a segment to the peer of a sleeping connection.
    fn send(&mut self, tuple: &Tuple, segment: &[u8]) -> io::Result<()>;

    /// A caught segment has these ends, and the connection that it was caught for has others. Once it is let go, the segment
    /// finds its own socket.
    fn exempt(&mut self, tuple: &Tuple) -> io::Result<()>;

    /// Lets a caught segment of `whole_len` bytes go the way that it would have gone. It may change the bytes.
    fn reinject(&mut self, tuple: &Tuple, segment: &mut [u8], whole_len: usize) -> io::Result<()>;

    /// The clock of timestamps: CLOCK_MONOTONIC in milliseconds, modulo 2^32.
    fn timestamp_clock(&self) -> u32;
}
