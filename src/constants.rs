//! Constants that several modules need, each with its reason, and what happens beyond it. A constant that one module
//! needs stands there.

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

/// Bytes of I/O memory that glommio registers per executor; it takes 64 KiB at least, and 10 MiB
/// unless told. The shard's data never passes through it.
pub const GLOMMIO_IO_MEMORY: usize = 64 * 1024;

/// Bytes of a page on the machines we run on.
pub const PAGE_BYTES: u64 = 4_096;

/// Threads of one shard: its executor, and the one that glommio starts beside it for calls that block.
pub const THREADS_PER_SHARD: u64 = 2;

/// Bytes of a message at most (`--payload`); the latency of a longer one is not a message's.
pub const MAX_PAYLOAD_BYTES: usize = 64 * 1024;

/// How long after a process ended the kernel may still hold its rings (it takes them apart in the
/// background), and with them its ports and its user's locked memory. A start waits that long for
/// either.
pub const AFTERLIFE: Duration = Duration::from_secs(2);

/// How often such a start looks again; the kernel tells nobody.
pub const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// Bits of a token; see `token.rs`.
pub const SLOT_BITS: u32 = 20;

const _: () = {
    assert!(KERNEL_SLOTS_PER_RING == 1 << SLOT_BITS, "a token must be able to name every slot");
    assert!(MAX_PENDING_BYTES >= BUFFER_BYTES, "one unsent buffer is always kept");
};
