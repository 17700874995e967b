//! What a driver wants done with the bytes that it was just given.

use std::ops::Range;

/// What to do with the bytes just received.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reply {
    /// Send nothing back.
    Nothing,
    /// Send this part of the received bytes back, straight from the receive buffer. The service may have changed them
    /// in place. Bytes that were sent to the same connection before go first. The range must lie within the bytes that
    /// `received` was given, and must not start beyond its end: otherwise the shard ends with `Error::Bug`.
    Back(Range<usize>),
    /// Close the connection once everything on its way to the peer has been sent, as `CloseMode::Graceful` does.
    Close,
}
