//! Counters of one shard. Only its core writes them; the reporter reads them at any time.

mod durations;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

pub use durations::{DurationCounts, Durations, ROUND_BOUNDS, Rounds, WakeCounts, Wakes};

/// A count that one thread writes and any thread reads.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`. Only the owning shard may call this: the addition is a load and a store, not an atomic
    /// read-modify-write.
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    /// Subtracts `n`. Only the owning shard may call this.
    pub fn sub(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_sub(n), Ordering::Relaxed);
    }

    /// Sets the counter to `n`. Only the owning shard may call this.
    pub fn set(&self, n: u64) {
        self.0.store(n, Ordering::Relaxed);
    }

    /// The value at some recent moment.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What is spoken on the connections of a server, as far as c1m knows it: which of its counters mean something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Spoken {
    /// HTTP requests.
    pub http: bool,
    /// WebSocket messages.
    pub websocket: bool,
    /// Publications, and receipts for them.
    pub push: bool,
}

impl Spoken {
    /// Whether c1m keeps something of each connection without which nothing can be said on it.
    pub fn keeps_state(self) -> bool {
        self.http || self.websocket || self.push
    }
}

macro_rules! counters {
    (
        $(#[$what:meta])* $counters:ident, $(#[$kinds:meta])* $snapshot:ident { $($(#[$doc:meta])* $name:ident,)* }
        $($(#[$sum_doc:meta])* $sum:ident = $first:ident + $second:ident;)*
    ) => {
        $(#[$what])*
        /// They lie on cache lines of their own.
        #[derive(Debug, Default)]
        #[repr(align(128))]
        pub struct $counters { $($(#[$doc])* pub $name: Counter,)* }

        /// Counters of one shard, or their sum over several shards.
        ///
        /// Each counter is read at its own moment. A difference of two counters may therefore be wrong, and below zero,
        /// which overflows a `u64`; a quantity that is part of another has a counter of its own.
        $(#[$kinds])*
        #[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct $snapshot { $($(#[$doc])* pub $name: u64,)* $($(#[$sum_doc])* pub $sum: u64,)* }

        impl $counters {
            /// Reads all counters.
            pub fn snapshot(&self) -> $snapshot {
                $(let $name = self.$name.get();)*
                $snapshot { $($name,)* $($sum: $first.wrapping_add($second),)* }
            }
        }

        impl std::ops::Add for $snapshot {
            type Output = $snapshot;
            fn add(self, other: $snapshot) -> $snapshot {
                $snapshot {
                    $($name: self.$name.wrapping_add(other.$name),)*
                    $($sum: self.$sum.wrapping_add(other.$sum),)*
                }
            }
        }

        impl std::iter::Sum for $snapshot {
            fn sum<I: Iterator<Item = $snapshot>>(all: I) -> $snapshot {
                all.fold($snapshot::default(), |sum, one| sum + one)
            }
        }
    };
}

/// The counters of a service's own on one shard, on cache lines of their own.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct OwnCounters(Box<[Counter]>);

impl OwnCounters {
    /// `count` counters, all at 0.
    pub fn new(count: usize) -> OwnCounters {
        OwnCounters((0..count).map(|_| Counter::default()).collect())
    }

    /// Adds `n` to one. Only the owning shard may call this. A number of another server's counter counts nothing.
    pub fn add(&self, index: usize, n: u64) {
        if let Some(counter) = self.0.get(index) {
            counter.add(n);
        }
    }

    /// Their values now.
    pub fn read(&self) -> Vec<u64> {
        self.0.iter().map(Counter::get).collect()
    }
}

/// The counters of a service's own: what they are called, and where each shard counts them.
#[derive(Debug, Clone, Default)]
pub struct OwnMetrics {
    /// Name and explanation of each.
    pub named: Arc<[(String, String)]>,
    /// The values, by shard.
    pub shards: Vec<Arc<OwnCounters>>,
}

counters! {
    /// Counts of the events of one shard's connections.
    Counters,
    ///
    /// `live`, `asleep`, `lingering` and `handshakes_under_way` are numbers of now; all others only grow.
    Snapshot {
    /// Connections that are established now. With TLS it includes those whose handshake is not over, of which the
    /// service was not told yet.
    live,
    /// Connections closed because their peer was silent for longer than the idle timeout.
    silent,
    /// Connections accepted or connected so far.
    opened,
    /// Connections that were established and are closed.
    closed,
    /// Connections refused because the shard or the whole server held as many as it may.
    refused_when_full,
    /// Connections refused because memory was short.
    refused_for_memory,
    /// Connections closed because their peer read too slowly.
    slow_readers,
    /// Connections now that have ended while their peers may still send: what these send is dropped until they end too.
    /// They are not live, and each has a slot.
    lingering,
    /// Receives whose bytes were for the service; with TLS, records of data.
    messages,
    /// Bytes received, without those that came after a close and were dropped. With TLS these are sealed bytes, those
    /// of handshakes included.
    bytes_in,
    /// Bytes handed to the kernel for sending. With TLS these are sealed bytes, those of handshakes included.
    bytes_out,
    /// Accepts that the kernel refused for lack of memory or file descriptors.
    accept_errors,
    /// Times that the kernel held completions back because a completion queue was full.
    overflows,
    /// Completions of a slot's former occupant, which the shard dropped.
    stale,
    /// Sends that had to wait in the kernel because their reader is slow.
    parked,
    /// Times that the shard slept.
    sleeps,
    /// System calls that entered a ring.
    enters,
    /// Notifications by the socket filter.
    notifications,
    /// Connections asleep now, without a socket; they are live too.
    asleep,
    /// Times that a connection was put to sleep.
    hibernated,
    /// Sleeping connections that a segment of their peer woke.
    woken_by_peer,
    /// Sleeping connections that were woken because something was to be sent.
    woken_by_send,
    /// Of both: connections that were awake for one short message, and had no socket.
    woken_without_socket,
    /// Idle connections that could not be put to sleep: something was in flight, or the table of sleepers had no
    /// place.
    stayed_awake,
    /// Segments caught for sleeping connections.
    segments_caught,
    /// Segments sent for sleeping connections without waking them: acknowledgements, FINs, keepalive probes.
    segments_answered,
    /// Segments for sleeping connections that were no TCP segment, or had a wrong checksum.
    segments_malformed,
    /// Segments for sleeping connections outside the window, or with an impossible acknowledgement.
    segments_outside,
    /// Segments for sleeping connections that were lost because the ring buffer was full, or because no slot was free
    /// to wake the connection. The peer sends them again.
    segments_dropped,
    /// HTTP requests answered, those for an upgrade included.
    requests,
    /// Requests refused because they could not be read, were a `CONNECT`, or expected something other than
    /// `100-continue`.
    requests_malformed,
    /// Requests refused because their head or body was too long.
    requests_too_long,
    /// Requests refused because they were not complete in time.
    requests_late,
    /// Requests refused because those that were incomplete took all the memory that they may.
    requests_without_room,
    /// Upgrades to WebSocket.
    upgrades,
    /// WebSocket messages that came whole.
    messages_whole,
    /// Connections closed because their peer did what the protocol forbids.
    protocol_errors,
    /// Connections closed because a text of their peer, or the reason in its close, was not UTF-8.
    texts_invalid,
    /// Connections closed because a message of their peer was too long.
    messages_too_long,
    /// Connections closed because a message of their peer was not complete in time.
    messages_late,
    /// Connections closed because the messages that were incomplete took all the memory that they may.
    messages_without_room,
    /// Connections whose peer did not answer a close in time.
    closes_unanswered,
    /// Publications that came, also posted ones and those that were refused.
    publications,
    /// Publications begun to be sent, once for each subscriber.
    pushes,
    /// Publications that a shard with too much to do did not send to its subscribers.
    pushes_missed,
    /// Connections of a broadcaster over plain bytes that were closed: what came is no frame, is too long or was not whole
    /// in time, or there was no room for it.
    frames_refused,
    /// TLS handshakes under way now, as the last pass saw them.
    handshakes_under_way,
    /// TLS handshakes that were completed with a certificate.
    handshakes_full,
    /// TLS handshakes that resumed a session.
    handshakes_resumed,
    /// Completed TLS handshakes of either kind that agreed on TLS 1.2.
    handshakes_tls12,
    /// TLS handshakes that the peer gave up with an alert.
    handshakes_alerted,
    /// TLS handshakes that this end gave up because of what the peer sent, or because of its certificate.
    handshakes_refused,
    /// Connections closed because their TLS handshake was not over in time.
    handshakes_timed_out,
    /// Connections that ended before their TLS handshake was over, without a word.
    handshakes_abandoned,
    /// Records of TLS that were opened.
    records_opened,
    /// Records of TLS that were sealed, without alerts and KeyUpdates.
    records_sealed,
    /// Connections closed because no more bytes of incomplete records may be kept.
    records_refused,
    /// Connections closed because an incomplete record was not whole in time.
    records_timed_out,
    /// Alerts of TLS that ended an established connection, sent by this end: what the peer had sent cannot be, or takes more
    /// memory than there is for it.
    alerts_sent,
    /// The same, sent by the peer.
    alerts_received,
    /// KeyUpdates of TLS sent: the peer had asked for one, or a key had sealed enough.
    key_updates,
    /// Connections handed over to another process.
    handed_over,
    /// Connections taken over from another process, or from an earlier one that was killed.
    taken_over,
    /// Connections lost in a takeover or with a process that was killed: those that were awake there, whose sockets are
    /// gone, and sleeping ones that cannot go on without what that process knew of them.
    lost_in_takeover,
    }
    /// Connections refused, for either reason.
    refused = refused_when_full + refused_for_memory;
}

counters! {
    /// Progress of one shard of a client. The counters are read in this order, so that a connection that fails or
    /// is closed meanwhile counts once at most.
    Progress, ProgressSnapshot {
    /// Connections attempted.
    tried,
    /// Connections closed by a storm; they count neither as live nor as failed.
    dropped,
    /// Connections that failed to open, or were lost later.
    failed,
    /// Connections asleep now. They are live too, and read first: so never more are asleep than live while
    /// connections open.
    asleep,
    /// Connections that are established and proved.
    live,
    /// Connections that were ever established and proved, including those lost since.
    stood,
    /// Connections that passed the current audit.
    audited,
    /// Connections lost since the current phase began.
    lost,
    /// Connections that echoed wrong bytes since the current phase began; they are not among the lost.
    wrong,
    /// Messages whose echo arrived.
    echoes,
    /// Live connections that were closed in the client's last phase.
    closed,
    /// Connections that a storm dialed in addition to those requested.
    redialed,
    /// Source ports passed over because another socket had them.
    passed_over,
    /// Keepalives that were answered.
    kept_alive,
    /// Messages of subscriptions that came.
    pushed,
    /// Publications of a fan-out that were handed to their publishers' connections.
    published,
    /// Goodbyes that were answered.
    goodbyes,
    /// Connections for which the server went on with the session of an earlier one.
    sessions,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;
    use std::thread;

    use super::*;

    /// A shard counts refusals for memory alone while another thread reads: no snapshot shows a refusal when full.
    #[test]
    fn a_refusal_never_counts_for_another_cause() {
        const REFUSALS: u64 = 200_000;
        let (counters, done) = (Counters::default(), AtomicBool::new(false));
        thread::scope(|scope| {
            scope.spawn(|| {
                (0..REFUSALS).for_each(|_| counters.refused_for_memory.add(1));
                done.store(true, Ordering::Release);
            });
            while !done.load(Ordering::Acquire) {
                let both: Snapshot = [counters.snapshot(), counters.snapshot()].into_iter().sum();
                assert_eq!((both.refused_when_full, both.refused), (0, both.refused_for_memory));
            }
        });
        let end = counters.snapshot();
        assert_eq!((end.refused, end.refused_for_memory), (REFUSALS, REFUSALS));
    }
}
