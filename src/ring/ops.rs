//! The operations that the engine asks of a ring. `Ring` carries them out through io_uring; the tests of the engine
//! have a ring of their own, whose kernel is simulated.

use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::os::fd::{OwnedFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

use super::{Buffer, Buffers, Completion};
use crate::error::Result;
use crate::token::{Operation, Token};

/// One ring with a table of descriptors, one descriptor for each slot. Operations are queued, and reach the kernel
/// with the next `enter`. A method fails only where the kernel breaks its own rules, or has no memory for requests.
pub trait RingOps {
    /// Queues one accept from `listener` into the token's slot, or into a plain descriptor where the ring was opened
    /// for those.
    fn accept(&mut self, listener: RawFd, token: Token) -> Result<()>;

    /// Queues an accept as `accept` does, and has it bring the peer's address: `accepted_from` tells it. Where accepts
    /// bring plain descriptors it is `accept`, as those can be asked.
    fn accept_from(&mut self, listener: RawFd, token: Token) -> Result<()>;

    /// The peer's address that an accept brought which has succeeded.
    fn accepted_from(&mut self, token: Token) -> Option<SocketAddr>;

    /// Makes a plain descriptor of the slot's socket, at once (`IORING_OP_FIXED_FD_INSTALL`, Linux 6.8). The kernel
    /// takes what else was queued in the same call; what completes meanwhile is kept for `reap`. The inner error is
    /// the kernel's: `Unsupported` before 6.8, EMFILE where no descriptor is left, EBADF for an empty slot.
    fn copy_descriptor(&mut self, token: Token) -> Result<io::Result<OwnedFd>>;

    /// Queues moving a plain descriptor into the token's empty slot. If that fails, whatever is queued for the slot
    /// after it fails with EBADF.
    fn install_accepted(&mut self, socket: OwnedFd, token: Token) -> Result<()>;

    /// Queues putting the plain socket `fd` into the token's slot and connecting it to `to`. The caller keeps `fd`
    /// open until the connect completes.
    fn dial(&mut self, fd: RawFd, to: SocketAddr, token: Token) -> Result<()>;

    /// Queues a poll of the slot that fires when there is something to receive: once, or, if it is `lasting`,
    /// whenever more comes, until it is removed (multishot, edge-triggered).
    fn poll(&mut self, token: Token, lasting: bool) -> Result<()>;

    /// Queues a poll on a wake-up descriptor: of the filter (`Operation::FilterWake`), of the catcher
    /// (`Operation::CatcherWake`), or on the doorbell (`Operation::DoorbellWake`). It ends as soon as the descriptor is
    /// readable, or, if it is `lasting`, it completes whenever the descriptor becomes readable.
    fn poll_wake(&mut self, wake_fd: RawFd, operation: Operation, lasting: bool) -> Result<()>;

    /// Queues a receive into `buffer` that does not wait.
    fn receive(&mut self, token: Token, buffer: Buffer) -> Result<()>;

    /// Queues a send of `range` of `buffer` that does not wait. A send that the kernel takes whole has no completion:
    /// `finish_sends` tells of it.
    fn send(&mut self, token: Token, buffer: Buffer, range: Range<usize>) -> Result<()>;

    /// Queues a send of all of `bytes` that does not wait, straight from where they lie. As with `send`, a send that
    /// the kernel takes whole has no completion.
    fn send_shared(&mut self, token: Token, bytes: Arc<[u8]>) -> Result<()>;

    /// Queues a send of `range` of `bytes` that waits in the kernel until it has taken every byte. A slot has one at a
    /// time at most.
    fn park_send(&mut self, token: Token, bytes: Arc<[u8]>, range: Range<usize>) -> Result<()>;

    /// Bytes of the connection's parked send, as many as there were when it began to wait; 0 without one.
    fn parked_bytes(&self, token: Token) -> usize;

    /// Whether a send of the connection is on its way to the kernel, or with it and not known to be over.
    fn has_send(&self, token: Token) -> bool;

    /// Whether the connection has a parked send in the kernel.
    fn has_parked_send(&self, token: Token) -> bool;

    /// Queues the removal of the connection's poll, which then completes as not armed.
    fn remove_poll(&mut self, token: Token) -> Result<()>;

    /// Queues cancelling one operation of the connection, which then completes as failed.
    fn cancel(&mut self, token: Token, operation: Operation) -> Result<()>;

    /// Queues the end of what is sent: the peer gets a FIN behind all that was sent, and what it sends can still be
    /// received. The slot must not be closed before this has completed: the kernel may look for the socket late, and
    /// would find that of the slot's next connection.
    fn end_sending(&mut self, token: Token) -> Result<()>;

    /// Queues closing the slot's descriptor. The peer gets a FIN, unless the connection was reset before.
    fn close(&mut self, token: Token) -> Result<()>;

    /// Queues closing the slot's descriptor and says nothing to the peer: another process has the connection, or it sleeps.
    /// The socket, of which others may have descriptors, is not shut down.
    fn close_ours(&mut self, token: Token) -> Result<()>;

    /// Queues a reset of the slot's connection: the peer gets an RST, no TIME_WAIT is left, and whatever waits for
    /// the socket ends. Its descriptor stays until it is closed, in the same submission or later: a disconnect never
    /// waits, so the kernel is done with it before it looks at the next entry.
    fn reset(&mut self, token: Token) -> Result<()>;

    /// Buffers that receives and sends in the kernel hold.
    fn buffers_held(&self) -> usize;

    /// Whether the descriptor of a closed slot stays open for as long as an older operation of this ring waits.
    fn releases_slots_late(&self) -> bool;

    /// Whether there is anything to do: what `needs_enter` tells of, completions, or sends that the kernel took.
    fn has_work(&mut self) -> bool;

    /// Whether an enter would do anything: something to submit, task work to run, or completions held back.
    fn needs_enter(&mut self) -> bool;

    /// Whether the kernel has completions that did not come with the last enter.
    fn has_backlog(&mut self) -> bool;

    /// Lets completions ring the shard's doorbell, or not.
    fn wake_on_completion(&mut self, wake: bool);

    /// Submits everything and lets the kernel do the ring's task work, in one system call. Tells whether the
    /// completion queue overflowed.
    fn enter(&mut self) -> Result<bool>;

    /// Submits everything, and waits until there is a completion, for at most this time.
    fn wait(&mut self, most: Duration) -> Result<()>;

    /// Moves every completion that is there into `into`.
    fn reap(&mut self, into: &mut Vec<Completion>) -> Result<()>;

    /// Moves the token of every send that the kernel took whole into `into`. To be called when `reap` left nothing.
    fn finish_sends(&mut self, buffers: &mut Buffers, into: &mut Vec<Token>);
}
