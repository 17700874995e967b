//! The memory that a server leaves to the rest of its host.

/// How much memory a server leaves to the rest of the host: while less is left, of the host's memory or of a cgroup's
/// limit, new connections are reset at once and counted as refused; with half of it left nobody listens any more.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
#[non_exhaustive]
pub enum Reserve {
    /// 24 MiB and 1 % of what there is, and a quarter of it at most. Connections that are opened as fast as they can
    /// be take some 5 MB from one look at memory to the next, and as much again in accept queues; shells, logs and
    /// page tables need the rest.
    #[default]
    Auto,
    /// So many bytes. With 0 nobody looks at memory.
    Bytes(u64),
    /// A share of the host's memory, or of a cgroup's limit, in percent: 0 to 100.
    Percent(f64),
}

/// The part of `Reserve::Auto` that is the same on every host, in bytes.
const AUTO_BYTES: u64 = 24 << 20;

/// The part of `Reserve::Auto` that grows with the host: one byte of so many.
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
