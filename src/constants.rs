//! Every constant of the program in one place: its reason, and what happens beyond it.

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

/// Submission queue entries of a ring. A full queue is submitted early; nothing is lost. Newer
/// kernels charge both queues to an ordinary user's `memlock`: 52 rings at each end of the
/// million must fit the usual 8 MiB.
pub const SUBMISSION_ENTRIES: u32 = 256;

/// Completion queue entries of a ring. Beyond it the kernel keeps completions in its own list
/// (`IORING_FEAT_NODROP`) until the shard has reaped the others.
pub const COMPLETION_ENTRIES: u32 = 1024;

/// Bytes of one receive buffer. A longer message is received in several passes. One page: an audit
/// of a million connections has some thousand buffers in flight, and a full server has little left.
pub const BUFFER_BYTES: usize = 4 * 1024;

/// Times a ring is entered in one pass at most, while there is more to do.
pub const ENTERS_PER_PASS: usize = 3;

/// How long a ring is entered again in one pass while the kernel holds completions back: since 6.13 it makes
/// 20 of an enter (`IO_LOCAL_TW_DEFAULT_MAX` in io_uring/io_uring.c), and behind half a million polls that
/// fired for a RST there are others that fired for a message.
pub const BACKLOG_TIME: Duration = Duration::from_millis(1);

/// Rounds of reaping after one of them.
pub const REAPS_PER_PASS: usize = 4;

/// Buffers that one ring's receives and sends in flight hold at most; beyond it readable connections
/// wait for their turn. Behind an overflowing completion queue there could be one for each slot.
pub const BUFFERS_PER_RING: usize = 512;

/// Connections that receive in one pass what an earlier receive of theirs left in the socket, or for which
/// there was no buffer: whoever sends without end has a turn of `BUFFER_BYTES` after all who send a little.
pub const RESUMED_PER_PASS: usize = 8;

/// Receive buffers a shard keeps for reuse. More may be in use for a moment; they are then freed.
pub const BUFFERS_KEPT: usize = 512;

/// Accepts in flight of one shard over all its listeners. Each owns a free slot (see `connections.rs`),
/// so this is also the number of slots a shard needs beyond its connections.
pub const ACCEPTS_IN_FLIGHT: usize = 256;

/// Accepts in flight on one listener at least, however many listeners a shard has.
pub const ACCEPTS_PER_LISTENER: usize = 2;

/// How long a connection waits that was accepted while as many stood as may. When a crowd reconnects to a
/// full server newcomers come before it has heard of the resets that make room for them. Then it is refused, unless
/// something is still to be heard: that may be the reset. It counts on the shard's own clock (`clock.rs`).
pub const ADMISSION_WAIT: Duration = Duration::from_millis(100);

/// How much longer it waits at most while there is something to be heard.
pub const ADMISSION_WAIT_WHILE_READING: Duration = Duration::from_secs(2);

/// Time that counts at most between two looks of a shard at its rings (`clock.rs`): what is longer is a gap, in which
/// the process was stopped or others had its core, and no deadline comes nearer in it. It is a fifth of the shortest
/// deadline, `ADMISSION_WAIT`, which then needs five looks at least.
pub const LONGEST_LOOK: Duration = Duration::from_millis(20);

/// A thread that does nothing for so long, and neither sleeps as it meant nor waits for a processor, was suspended
/// with its process (`clock.rs`). No pass of a shard takes a tenth of that.
pub const SHORTEST_SUSPENSION: Duration = Duration::from_secs(1);

/// Bytes the program keeps for one slow reader before it closes the connection.
pub const MAX_PENDING_BYTES: usize = 64 * 1024;

/// After being parked so often within `BUSY_WINDOW` a connection is busy: it gets a lasting poll,
/// which saves arming one for each message. Others do without, because closing must find and remove
/// it.
pub const POLLS_BEFORE_MULTISHOT: u32 = 16;

/// The time in which it counts how often a connection is parked.
pub const BUSY_WINDOW: Duration = Duration::from_secs(4);

/// Services' own sends (pushes) and closes carried out in one pass of a shard.
pub const PUSHES_PER_PASS: usize = 256;

/// Calls that a shard hears in one pass. Each may have a message, and with 10,000 of them fewer at a time are faster:
/// their sockets are still in the core's cache when they are answered. With 64 a hundred are slower.
pub const NOTIFICATIONS_PER_PASS: usize = 128;

/// The same of resets: each is asked for in vain or is the end of one that need not be answered.
pub const RESETS_PER_PASS: usize = 32;

/// How long a segment takes at most from the filter to its socket, or to the backlog of one that its owner is using:
/// microseconds of one softirq. A pause of this length lies between two looks at a connection that may have missed one.
pub const SEGMENT_TIME: Duration = Duration::from_millis(if cfg!(test) { 1 } else { 100 });

/// Rows looked at in one step for connections that may have missed something, the connections that then receive at
/// most, and the time from step to step: two million rows a second, 1 % of a core.
pub const ROWS_PER_STEP: usize = 2_048;
/// See `ROWS_PER_STEP`.
pub const LOOKS_PER_STEP: usize = 64;
/// See `ROWS_PER_STEP`.
pub const STEP: Duration = Duration::from_millis(1);

/// Within so long each connection behind a filter receives once although nothing was announced: the kernel may have
/// given it up, without a segment, for silence of its peer. With keepalives it is their time.
pub const SPECULATIVE_RECEIVE_PERIOD: Duration = Duration::from_secs(if cfg!(test) { 3 } else { 600 });

/// The shortest time and the longest from one step of that to the next. In each at most `LOOKS_PER_STEP` are tried,
/// however many there are: messages come first.
pub const SHORTEST_SPECULATIVE_STEP: Duration = Duration::from_millis(if cfg!(test) { 1 } else { 10 });
/// See `SHORTEST_SPECULATIVE_STEP`.
pub const LONGEST_SPECULATIVE_STEP: Duration = Duration::from_millis(if cfg!(test) { 1 } else { 1_000 });

/// Polls a shard arms anew in one pass, on kernels where that must be (`connections/slot_release.rs`).
pub const REARMS_PER_PASS: usize = 256;

/// Completion queue entries of a ring on such a kernel: eight times as many buckets in the hash of
/// its polls, so that removing one is faster.
pub const COMPLETION_ENTRIES_LINGERING: u32 = 8 * COMPLETION_ENTRIES;

/// FINs that a shard hears in one pass at most.
pub const FINS_PER_PASS: usize = 32;

/// FINs that a shard hears in a second while others talk. Each is a receive that brings nothing, about 3 us, so they
/// take a tenth of the shard's time. The others wait.
pub const FINS_PER_SECOND: f64 = 32_000.0;

/// Connections that a shard closes in a second as soon as it has heard their FIN. More are a storm, and are closed in
/// batches with rests between them, as those that were reset.
pub const FINS_CLOSED_AT_ONCE: f64 = 3_000.0;

/// Connections that were reset and a shard dismantles at once. Each takes the kernel as long as a message or
/// two, and the messages that came meanwhile wait for it.
pub const RESETS_PER_BATCH: usize = if cfg!(test) { 1 } else { 32 };

/// While others talk such a batch is followed by a rest of so many times what it took: dismantling takes one
/// part in so many of the time, and goes on at some 8,000 a second and shard. What is not dismantled yet
/// holds its memory, so newcomers who need that end the rest.
pub const REAPING_REST: u32 = 32;

/// Fewer than this are no storm, and the rests between their batches are shorter: connections that come and go
/// all the time shall not pile up.
pub const FEW_RESETS: usize = 2_000;

/// Such a rest, in the time that a batch took.
pub const REAPING_SHORT_REST: u32 = 4;

/// How often a shard looks whether there are ever more of them: a storm passes, but where more connections come
/// and go all the time than it dismantles, their memory would be used up.
pub const RESET_GROWTH_PERIOD: Duration = Duration::from_secs(1);

/// When so many looks in a row found more of them, it dismantles without rests until none is left.
pub const RESET_GROWTH_PERIODS: u32 = 4;

/// Who was silent for so long is not disturbed by a shard that does not rest.
pub const QUIET_TIME: Duration = Duration::from_millis(100);

/// Connections a shard closes in one pass, so that closing starves nobody.
pub const CLOSES_PER_PASS: usize = 16;

/// Connects in flight over all client shards by default. Spread over 100 ports it is a few per
/// accept queue, far below the 128 of the smallest usual `somaxconn` and the 1,000 packets of the
/// default `netdev_max_backlog`.
pub const DEFAULT_CONCURRENCY: u32 = 512;

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

/// Entries of each of glommio's own rings; they carry timers and one eventfd.
pub const GLOMMIO_RING_DEPTH: usize = 32;

/// How long glommio runs tasks before it looks at its own rings: for as long as there is something to
/// do. While a shard works it needs nothing from them. And should this timer expire before the first
/// task is looked at, as on a host that lets a thread stand still for glommio's 100 ms, glommio 0.9
/// goes to sleep with tasks that are ready (`run_task_queues` in executor/mod.rs tells that nothing
/// ran), the one that reads the doorbell among them, and the shard is deaf for ever.
pub const GLOMMIO_PREEMPTION: Duration = Duration::from_secs(24 * 3600);

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

/// Longest pause after the kernel refused an accept for want of memory or files, in milliseconds.
pub const ACCEPT_PAUSE_MS: u64 = 100;

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
    assert!(COMPLETION_ENTRIES >= 2 * SUBMISSION_ENTRIES, "a full submission fits its completions");
    assert!(ACCEPTS_IN_FLIGHT <= COMPLETION_ENTRIES as usize);
    assert!(MAX_PENDING_BYTES >= BUFFER_BYTES, "one unsent buffer is always kept");
    assert!(ADMISSION_WAIT.as_millis() >= 5 * LONGEST_LOOK.as_millis(), "no newcomer is refused for one gap");
    assert!(ACCEPTS_PER_LISTENER >= 1, "a listener without an accept would be deaf");
};
