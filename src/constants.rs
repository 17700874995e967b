//! Constants that several modules need, each with its reason, and what happens beyond it. A constant that one module
//! needs stands there.

use std::time::Duration;

/// Slots one ring's descriptor table can have at most (`IORING_MAX_FIXED_FILES`, kernel 6.1+).
/// A shard that needs more opens another ring.
pub const KERNEL_SLOTS_PER_RING: u32 = 1 << 20;

/// Slots we give one ring at most. The kernel keeps a ring's parked polls in hash buckets, one for
/// every 32 completion entries (`hash_bits` in `io_uring/io_uring.c`), and whoever removes a poll
/// walks its bucket: polls armed last are found first. Beyond it a shard opens another ring.
pub const SLOTS_PER_RING: u32 = 20_000;

/// Rings one shard may own; a `ConnId` has 12 bits for the ring. More is a usage error.
pub const RINGS_PER_SHARD: usize = 1 << 12;

/// Bytes of one receive buffer. A longer message is received in several passes. One page: an audit
/// of a million connections has some thousand buffers in flight, and a full server has little left.
pub const BUFFER_BYTES: usize = 4 * 1024;

/// Accepts in flight of one shard over all its listeners. Each owns a free slot (see `connections.rs`),
/// so this is also the number of slots a shard needs beyond its connections.
pub const ACCEPTS_IN_FLIGHT: usize = 256;

/// Accepts in flight on one listener at least, however many listeners a shard has.
pub const ACCEPTS_PER_LISTENER: usize = 2;

/// Bytes the program keeps for one slow reader before it closes the connection.
pub const MAX_PENDING_BYTES: usize = 64 * 1024;

/// Services' own sends (pushes) and closes carried out in one pass of a shard.
pub const PUSHES_PER_PASS: usize = 256;

/// Connects a client shard starts in one pass. Latency counts from the submission, and the ones
/// queued together wait for each other: a small batch keeps that share below 1 ms.
pub const DIALS_PER_PASS: usize = 16;

/// Messages a client shard starts in one pass.
pub const PROBES_PER_PASS: usize = 128;

/// Connects in flight over all client shards by default. Spread over 100 ports it is a few per
/// accept queue, far below the 128 of the smallest usual `somaxconn` and the 1,000 packets of the
/// default `netdev_max_backlog`.
pub const DEFAULT_CONCURRENCY: u32 = 512;

/// Messages a second that a storm's survivors send in all by default: enough for a p99.9 of each
/// second, and a small part of what one core echoes.
pub const STORM_MESSAGES_PER_SECOND: u64 = 20_000;

/// A storm is absorbed when for so long no echo was slower than the slowest before it: what is slow
/// later is not the storm's doing.
pub const STORM_QUIET: Duration = Duration::from_secs(1);

/// Receive buffer of a peer that shall be slow (SO_RCVBUF, which the kernel doubles), in bytes.
pub const SLOW_READER_BUFFER: usize = 4_096;

/// Times a slow reader asks for as many echoes as fit into `BUFFER_BYTES`: 256 KiB, more than a server
/// keeps and the sockets of both ends hold together.
pub const SLOW_READER_ASKS: usize = 64;

/// Slow readers of a shard that ask in turn. The next ones ask when these have: were all stuck in the same
/// moment, the kernel's probes of their windows would go on coming all at once.
pub const SLOW_READERS_AT_ONCE: usize = 128;

/// Slow readers closed in a second unless told otherwise: with what waits in their sockets each takes the
/// kernel as long as some ten messages, and their end is not what the storm is about.
pub const SLOW_READERS_CLOSED_PER_SECOND: f64 = 5_000.0;

/// Slow readers that ask in one pass, so that the others' messages are not late.
pub const ASKS_PER_PASS: usize = 4;

/// Messages in flight of one client shard while it holds; beyond it sends wait, and the wait
/// counts in the latency.
pub const PROBES_IN_FLIGHT: usize = 65_536;

/// Connects of one client shard that fail in a row, without a success between them, before it
/// tries no more.
pub const HOPELESS_ATTEMPTS: u64 = 256;

/// A connect slower than this is looked at with TCP_INFO. The kernel's first SYN retransmission
/// comes after 1 s (`TCP_TIMEOUT_INIT`), its smallest RTO is 200 ms (`TCP_RTO_MIN`).
pub const SLOW_CONNECT_US: u64 = 200_000;

/// Largest latency that is recorded as itself, in microseconds (1 hour); more is recorded as this.
pub const MAX_LATENCY_US: u64 = 3_600_000_000;

/// Significant decimal digits of every histogram: 3, an error of at most 0.1 %.
pub const LATENCY_DIGITS: u8 = 3;

/// Samples over time that a result keeps: 75 seconds of four a second, 100 bytes each and as much for
/// each shard. A longer run keeps every second one, and then every fourth.
pub const TIMELINE_SAMPLES: usize = 300;

/// Phases that a result keeps; a steered run that has more keeps the first ones and the last.
pub const PHASES_KEPT: usize = 100;

/// Bytes of a result file at most, when results are read back. A shard's part has some kilobytes; what
/// is larger is something else.
pub const MAX_DOCUMENT_BYTES: u64 = 64 << 20;

/// Bytes of I/O memory that glommio registers per executor; it takes 64 KiB at least, and 10 MiB
/// unless told. The shard's data never passes through it.
pub const GLOMMIO_IO_MEMORY: usize = 64 * 1024;

/// Bytes of a page on the machines we run on.
pub const PAGE_BYTES: u64 = 4_096;

/// Bytes of locked memory that newer kernels charge an ordinary user for one ring: both queues, in
/// whole pages, measured with kernel 6.18.
pub const RING_LOCKED_BYTES: u64 = 36 * 1024;

/// The first kernel that charges the queues of a ring to an ordinary user (`io_create_region`).
pub const RINGS_CHARGED_SINCE: (u32, u32) = (6, 14);

/// Bytes of locked memory that such a kernel charges an ordinary user for one executor of glommio's: two
/// pages of queues for each of its three rings, and `GLOMMIO_IO_MEMORY`, which it registers with each.
pub const EXECUTOR_LOCKED_BYTES: u64 = 3 * (2 * PAGE_BYTES + GLOMMIO_IO_MEMORY as u64);

/// Smallest `memlock` limit in bytes that glommio starts with (its `MIN_MEMLOCK_LIMIT`).
pub const GLOMMIO_MEMLOCK: u64 = 512 * 1024;

/// File descriptors of one shard beside listeners and rings: glommio's three rings, its eventfds,
/// our doorbell, and the sysfs files it opens at start.
pub const DESCRIPTORS_PER_SHARD: u64 = 24;

/// Connections at most that read a server's metrics at once; a further one takes the place of one that is idle.
pub const METRICS_CONNECTIONS: usize = 8;

/// File descriptors of the metrics: these connections, one that is just accepted, the listener, a spare descriptor
/// and the doorbell.
const DESCRIPTORS_OF_METRICS: u64 = METRICS_CONNECTIONS as u64 + 4;

/// File descriptors of the process beside its shards: stdio, signal pipe, report files, /proc, metrics.
pub const DESCRIPTORS_PER_PROCESS: u64 = 32 + DESCRIPTORS_OF_METRICS;

/// Threads of one shard: its executor, and the one that glommio starts beside it for calls that block.
pub const THREADS_PER_SHARD: u64 = 2;

/// Threads of a process beside its shards: the main one, that for signals, that for standard input or a
/// server's output, and a server's for memory. Those of the metrics are started last.
pub const THREADS_PER_PROCESS: u64 = 4;

/// Bytes of a message at most (`--payload`); the latency of a longer one is not a message's.
pub const MAX_PAYLOAD_BYTES: usize = 64 * 1024;

/// How long after a process ended the kernel may still hold its rings (it takes them apart in the
/// background), and with them its ports and its user's locked memory. A start waits that long for
/// either.
pub const AFTERLIFE: Duration = Duration::from_secs(2);

/// How often such a start looks again; the kernel tells nobody.
pub const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// The oldest kernel with every operation in use (`IORING_SETUP_DEFER_TASKRUN`).
pub const OLDEST_KERNEL: (u32, u32) = (6, 1);

/// Bits of a token; see `token.rs`.
pub const SLOT_BITS: u32 = 20;

const _: () = {
    assert!(KERNEL_SLOTS_PER_RING == 1 << SLOT_BITS, "a token must be able to name every slot");
    assert!(SLOTS_PER_RING <= KERNEL_SLOTS_PER_RING);
    assert!(MAX_PENDING_BYTES >= BUFFER_BYTES, "one unsent buffer is always kept");
    assert!(ACCEPTS_PER_LISTENER >= 1, "a listener without an accept would be deaf");
};
