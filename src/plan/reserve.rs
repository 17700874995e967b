//! The memory that a server leaves to the rest of its host.

/// How much memory a server leaves to the rest of the host: while less is left, of the host's memory or of a cgroup's
/// limit, new connections are reset at once and counted as refused; with less than half of it left the server does not
/// listen. After a refusal connections are admitted again when a quarter more than the reserve is left; a server that
/// did not listen listens again at three quarters of the reserve.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
#[non_exhaustive]
pub enum Reserve {
    /// 24 MiB and 1 % of the memory, at most a quarter of it. Connections that are opened as fast as possible take some
    /// 5 MB between two checks of the memory, and as much again in accept queues. Shells, logs and page tables need the
    /// rest.
    #[default]
    Auto,
    /// This number of bytes. With 0 the server does not watch the memory.
    Bytes(u64),
    /// A share of the host's memory, or of a cgroup's limit, in percent. The value is not checked: from 100 on the
    /// server admits no connection, and a negative value or NaN reserves nothing.
    Percent(f64),
}

/// The part of `Reserve::Auto` that is the same on every host, in bytes.
const AUTO_BYTES: u64 = 24 << 20;

/// The part of `Reserve::Auto` that grows with the host: one byte of each so many bytes.
const AUTO_SHARE: u64 = 100;

impl Reserve {
    /// The reserve in bytes where there are `total` in all.
    pub fn of(self, total: u64) -> u64 {
        match self {
            // More than a quarter of a small limit would leave little to serve with.
            Reserve::Auto => (AUTO_BYTES + total / AUTO_SHARE).min(total / 4),
            Reserve::Bytes(bytes) => bytes,
            Reserve::Percent(percent) => (total as f64 * percent / 100.0) as u64,
        }
    }
}
