//! Why a connection ended.

use crate::connections::lifecycle::CloseMode;
use crate::error::{Errno, TlsFailure};

/// Why a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum CloseReason {
    /// This end asked for it: `Ctx::close`, or `Reply::Close`. If something else ends the connection before its last bytes
    /// are sent, such as a RST of the peer or a deadline, that is the reason instead.
    Local,
    /// The peer closed its side in order (FIN), and all that came before it was received.
    PeerClosed,
    /// With TLS: the peer's FIN came, and no close_notify before it. Whether the peer has sent all that it meant to send
    /// is not known: a machine between the ends can send a FIN too (RFC 8446, 6.1). Many programs close in this way.
    PeerCutOff,
    /// The peer reset the connection (RST). What it had sent and was not received yet is void. Where more than some 3,000
    /// connections of a shard end in a second, and idle ones wait in polls, the kernel is not asked why: those that it gave
    /// up are among these too.
    PeerReset,
    /// The connection broke, with the kernel's error: ETIMEDOUT where the peer did not acknowledge for too long or did
    /// not answer keepalives, EHOSTUNREACH and the like where the network said so.
    Failed(Errno),
    /// The peer did not read, and more than `ServerBuilder::max_pending` bytes would have been kept for it.
    SlowReader,
    /// Nothing was received for longer than `ServerBuilder::idle_timeout`.
    IdleTimeout,
    /// The deadline that the service had set passed, and the service closed the connection in `Service::expired`. The
    /// service may have closed it before: then its last bytes were still waiting for the peer when the deadline passed.
    Deadline,
    /// The server stops.
    Stopping,
    /// TLS failed after the connection was opened: a record did not decrypt, or the peer sent an alert. A service is not
    /// told of a handshake that failed.
    Tls(TlsFailure),
    /// A dial did not succeed. No service is told of it.
    #[doc(hidden)]
    NotOpened(Errno),
}

impl CloseReason {
    /// What the driver is told where this ends a connection that was to be closed already (`closes`). A close for a reason of
    /// its own counts, whatever became of the last bytes: a peer may be gone before it has the alert that tells it why.
    pub(super) fn unless_closed(self, closes: Option<(CloseMode, CloseReason)>) -> CloseReason {
        closes.map(|(_, earlier)| earlier).filter(|earlier| *earlier != CloseReason::Local).unwrap_or(self)
    }
}
