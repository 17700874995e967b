//! Why a connection ended.

use crate::error::Errno;

/// Why a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloseReason {
    /// The driver closed it, or it was silent for longer than the idle timeout.
    Local,
    /// The peer closed its side (FIN).
    PeerClosed,
    /// The connection broke (RST, or the kernel gave it up).
    Failed(Errno),
    /// The peer did not read, and more bytes would have been kept for it than may be.
    SlowReader,
    /// A dial did not succeed.
    NotOpened(Errno),
}
