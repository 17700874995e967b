//! Constants that several modules need, each with its reason, and what happens beyond it. A constant that one module
//! needs is there.

use std::time::Duration;

/// Slots one ring's descriptor table can have at most (`IORING_MAX_FIXED_FILES`, kernel 6.1+).
/// A shard that needs more opens another ring.
pub const KERNEL_SLOTS_PER_RING: u32 = 1 << 20;

/// Rings one shard may own; a `ConnId` has 12 bits for the ring. More is a usage error.
pub const RINGS_PER_SHARD: usize = 1 << 12;

/// Bytes of one receive buffer. A longer message is received in several passes. One page: an audit
/// of a million connections has some thousand buffers in flight, and a full server has little left.
pub const BUFFER_BYTES: usize = 4 * 1024;

/// Accepts in flight of one shard over all its listeners. Each owns a free slot (see `connections.rs`),
/// so this is also the number of slots a shard needs beyond its connections.
pub const ACCEPTS_IN_FLIGHT: usize = 256;

/// Bytes the program keeps for one slow reader before it closes the connection.
pub const MAX_PENDING_BYTES: usize = 64 * 1024;

/// Connects in flight over all client shards by default. Spread over 100 ports it is a few per
/// accept queue, far below the 128 of the smallest usual `somaxconn` and the 1,000 packets of the
/// default `netdev_max_backlog`.
pub const DEFAULT_CONCURRENCY: u32 = 512;

/// Bytes of I/O memory that glommio registers per executor; it takes 64 KiB at least, and 10 MiB
/// unless told. The shard's data never passes through it.
pub const GLOMMIO_IO_MEMORY: usize = 64 * 1024;

/// Bytes that may be kept of incomplete TLS records, however little memory is left: those of a thousand peers that send the
/// longest records, or of many more that send short ones.
pub const INCOMPLETE_RECORDS_BYTES: usize = 16 << 20;

/// Bytes of a page on the machines we run on.
pub const PAGE_BYTES: u64 = 4_096;

/// Threads of one shard: its executor, and the one that glommio starts beside it for calls that block.
pub const THREADS_PER_SHARD: u64 = 2;

/// Threads of a process beside its shards: the main thread, the one for signals, the one for standard input or for a
/// server's output, and the one that watches a server's memory or leads a client. That of the metrics is started last.
pub const THREADS_PER_PROCESS: u64 = 4;

/// How long after a process ended the kernel may still hold its rings (it takes them apart in the
/// background), and with them its ports and its user's locked memory. A start waits that long for
/// either.
pub const AFTERLIFE: Duration = Duration::from_secs(2);

/// How often such a start looks again; the kernel does not tell when they are gone.
pub const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// Bits of a token; see `token.rs`.
pub const SLOT_BITS: u32 = 20;

const _: () = {
    assert!(KERNEL_SLOTS_PER_RING == 1 << SLOT_BITS, "a token must be able to name every slot");
    assert!(MAX_PENDING_BYTES >= BUFFER_BYTES, "one unsent buffer is always kept");
};
