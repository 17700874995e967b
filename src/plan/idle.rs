//! How connections wait that have nothing to say.

/// How connections wait that have nothing to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IdleBackend {
    /// Each waits in a poll of its ring, which takes 256 bytes of the kernel.
    Poll,
    /// All wait behind a BPF filter on their sockets, which takes no memory for each.
    Filter,
}
