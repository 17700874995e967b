//! `Ctx`, the argument of every call of a service: the connections of its shard, and what the shard keeps beside them.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::broadcast::{Broadcast, Broadcasts};
use super::deadlines::Deadlines;
use super::slot_table::SlotTable;
use crate::clock::Mark;
use crate::connections::{CloseMode, CloseReason, Connections, Cursor, Platform};
use crate::error::{Error, Result};
use crate::stats::{Counters, OwnCounters};
#[cfg(feature = "tls")]
use crate::tls::handshake::TlsAgreed;
use crate::token::ConnId;

/// A counter of the service's own, made by `ServerBuilder::counter`. It belongs to its builder: in another server it
/// names the counter of the same number, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CounterId(pub(crate) usize);

/// The shard as a service sees it in one call: its connections, and the operations on them.
///
/// Calls with the `ConnId` of a connection that is gone do nothing, and return `None`, `false` or 0 (but see `state`);
/// `peer_addr` and `local_addr` fail with `NotConnected`. A connection that is closing is sent nothing more. Nothing
/// here blocks, but every call runs on the thread that carries the shard's connections, and delays them as long as it
/// takes.
pub struct Ctx<'a, S> {
    connections: &'a mut Connections<S>,
    shard: &'a mut ShardContext<S>,
}

/// What a server's shard keeps for its service beside the connections.
pub(crate) struct ShardContext<S> {
    index: usize,
    shards: usize,
    deadlines: Deadlines,
    /// When each connection was opened, in `AGE_UNIT`s since `began`; `None` unless the builder asked for it.
    opened: Option<SlotTable>,
    began: Instant,
    broadcasts: Broadcasts<S>,
    refuses_broadcasts: bool,
    own: Arc<OwnCounters>,
    /// The reason that a close by the service has.
    reason: CloseReason,
    stopping: bool,
    /// Connections of this server are in two processes.
    divided: bool,
    /// The first failure of the shard within a call of the service. The call cannot return it.
    failure: Option<Error>,
    /// Places whose deadline has passed, kept for its memory.
    passed: Vec<Cursor>,
}

/// The unit of a connection's age. 32 bits of it are 13 years.
const AGE_UNIT: Duration = Duration::from_millis(100);

/// How often a shard looks whether a slot is free for a broadcast that waits for one.
const LOOK_FOR_SLOT: Duration = Duration::from_millis(10);

/// Units of an age since an instant. They wrap, so that also a connection has an age that was opened before it.
fn units_since(began: Instant) -> u32 {
    (began.elapsed().as_millis() / AGE_UNIT.as_millis()) as u32
}

impl<S: Default> ShardContext<S> {
    /// The context of shard `index` of `shards`. `ages` says whether to keep when each connection was opened.
    pub fn new(index: usize, shards: usize, ages: bool, own: Arc<OwnCounters>) -> ShardContext<S> {
        ShardContext {
            index,
            shards,
            deadlines: Deadlines::default(),
            opened: ages.then(SlotTable::default),
            began: Instant::now(),
            broadcasts: Broadcasts::default(),
            refuses_broadcasts: false,
            own,
            reason: CloseReason::Local,
            stopping: false,
            divided: false,
            failure: None,
            passed: Vec::new(),
        }
    }

    /// The `Ctx` for one call of the service.
    pub fn with<'a>(&'a mut self, connections: &'a mut Connections<S>) -> Ctx<'a, S> {
        Ctx { connections, shard: self }
    }

    /// The failure of the last call, if there was one.
    pub fn check(&mut self) -> Result<()> {
        self.failure.take().map_or(Ok(()), Err)
    }

    /// A connection was opened.
    pub fn opened(&mut self, conn: ConnId) {
        self.broadcasts.opened(conn);
        if let Some(opened) = &mut self.opened {
            opened.set(conn, units_since(self.began));
        }
    }

    /// What is known of a connection that goes to another process: its age in tenths of a second, and in how many
    /// milliseconds its deadline passes.
    pub fn known(&self, connections: &Connections<S>, conn: ConnId) -> (Option<u32>, Option<u64>) {
        let opened = self.opened.as_ref().map(|opened| opened.get(conn)).filter(|at| *at != SlotTable::UNSET);
        let deadline = self.deadlines.remaining(conn, connections.clock());
        (opened.map(|at| units_since(self.began).wrapping_sub(at)), deadline.map(|left| left.as_millis() as u64))
    }

    /// A connection came from another process, of which this is known.
    pub fn taken_over(
        &mut self,
        connections: &Connections<S>,
        conn: ConnId,
        (age, deadline): (Option<u32>, Option<u64>),
    ) {
        self.opened(conn);
        if let Some(opened) = &mut self.opened {
            let at = units_since(self.began).wrapping_sub(age.unwrap_or(0));
            opened.set(conn, if at == SlotTable::UNSET { at - 1 } else { at });
        }
        if let Some(deadline) = deadline {
            let after = Duration::from_millis(deadline);
            self.deadlines.set(conn, Some(after), connections.clock(), Instant::now());
        }
    }

    /// Connections of this server are in two processes from now on, or are not any more.
    pub fn divide(&mut self, divided: bool) {
        self.divided = divided;
    }

    /// Whether connections of this server are in two processes.
    pub fn is_divided(&self) -> bool {
        self.divided
    }

    /// Whether broadcasts are under way.
    pub fn is_broadcasting(&self) -> bool {
        self.broadcasts.len() > 0
    }

    /// A connection is gone.
    pub fn closed(&mut self, conn: ConnId) {
        self.deadlines.forget(conn);
    }

    /// The server stops.
    pub fn stop(&mut self) {
        self.stopping = true;
        self.broadcasts = Broadcasts::default();
    }

    /// Gives new broadcasts back from now on, or does not any more. While those under way wait for slots new ones are taken all the
    /// same: refusing them would not end the wait.
    pub fn refuse_broadcasts(&mut self, refuses: bool) {
        self.refuses_broadcasts = refuses;
    }

    /// Begins a broadcast, or gives it back if too many are under way, or none is wanted. While the server stops it does nothing.
    pub fn broadcast(&mut self, broadcast: Broadcast<S>) -> std::result::Result<(), Broadcast<S>> {
        if self.stopping {
            return Ok(());
        }
        if self.refuses_broadcasts && !self.broadcasts.is_stalled() {
            return Err(broadcast);
        }
        self.broadcasts.begin(broadcast)
    }

    /// Sends to some recipients of the broadcasts that are under way.
    pub fn broadcast_some<P: Platform>(&mut self, connections: &mut Connections<S, P>) -> Result<()> {
        self.broadcasts.send_some(connections)
    }

    /// Whether there is more to do at once.
    pub fn has_more(&self) -> bool {
        let broadcasts = self.broadcasts.len() > 0 && !self.broadcasts.is_stalled();
        broadcasts || self.deadlines.is_sweeping()
    }

    /// When there is something to do: the next sweep over the deadlines, or another look for a slot.
    pub fn due<P: Platform>(&self, connections: &Connections<S, P>, now: Instant) -> Option<Instant> {
        let look = self.broadcasts.is_stalled().then(|| now + LOOK_FOR_SLOT);
        self.deadlines.due(connections.clock()).into_iter().chain(look).min()
    }

    /// The places of some connections whose deadline has passed. The service is to be told of each of which `take_deadline`
    /// says so. Then `told_expired` gets all of them back.
    pub fn take_expired(&mut self, now: Mark) -> Vec<Cursor> {
        self.deadlines.sweep(now, &mut self.passed);
        std::mem::take(&mut self.passed)
    }

    /// Takes the deadline of such a place. `false` if it was removed since, or set anew.
    pub fn take_deadline(&mut self, place: Cursor, now: Mark) -> bool {
        self.deadlines.take_passed(place, now)
    }

    /// The service was told of all of them.
    pub fn told_expired(&mut self, mut passed: Vec<Cursor>) {
        passed.clear();
        self.passed = passed;
    }

    /// Sets the reason that a close by the service has from now on.
    pub fn closes_because(&mut self, reason: CloseReason) {
        self.reason = reason;
    }
}

impl<S: Default> Ctx<'_, S> {
    /// The number of this shard, counted from 0.
    pub fn shard(&self) -> usize {
        self.shard.index
    }

    /// How many shards the server has.
    pub fn shards(&self) -> usize {
        self.shard.shards
    }

    /// The host's time now (CLOCK_MONOTONIC).
    pub fn now(&self) -> Instant {
        Instant::now()
    }

    /// Whether the server stops: nothing is accepted any more, and the shard closes its connections at an even pace.
    /// Those whose turn has not come can still be sent to and closed. Messages, ticks, deadlines and broadcasts have
    /// ended: a service that wants to tell its peers does so before `Server::stop`.
    pub fn is_stopping(&self) -> bool {
        self.shard.stopping
    }

    /// Whether the connections of this server are in two processes at this moment: they are being handed over
    /// (`ServerBuilder::takeover`). It lasts for a second or so, up to `Service::united` or to this server's end. Messages
    /// to other shards reach the connections that are in this process.
    pub fn is_divided(&self) -> bool {
        self.shard.divided
    }

    /// Connections that are established on this shard. With TLS it includes those whose handshake is not over, of which
    /// the service was not told yet.
    #[allow(clippy::len_without_is_empty, reason = "a context is no collection")]
    pub fn len(&self) -> u64 {
        self.connections.counters().live.get()
    }

    /// Whether a connection is open. After `close` with `Immediate` or `Abort` it is not. After `close` with `Graceful`
    /// or `Lingering` it counts as open until its last bytes are sent, and within `Service::received` until that call
    /// is over.
    pub fn is_open(&mut self, conn: ConnId) -> bool {
        self.connections.is_live(conn)
    }

    /// The service's state of a connection. In `Service::closed` it can be read for the last time; until the slot is free a
    /// later call may find a state there all the same. So ask `is_open` first where a connection may have ended. The state is
    /// borrowed from this context: copy what you need of it before the next call.
    pub fn state(&mut self, conn: ConnId) -> Option<&mut S> {
        self.connections.state(conn)
    }

    /// The connections that are open on this shard, with their states. A walk over a million takes some 10 ms, in which
    /// the shard does nothing else: prefer a `Broadcast`, or lists of the service's own.
    pub fn connections(&self) -> impl Iterator<Item = (ConnId, &S)> {
        self.connections.live()
    }

    /// Sends `bytes` after what is on its way to the connection already. They are copied. A connection is reset, and
    /// counted as a slow reader, if one send has more than `ServerBuilder::max_pending` bytes, or if more than that
    /// would be kept behind a send that is under way.
    ///
    /// A sleeping connection is woken. If it cannot be woken now, the bytes wait: without limit for a free slot
    /// (`ServerBuilder::awake`), and up to 15 minutes for a route to its peer, after which the connection ends with
    /// `CloseReason::Failed`. While the host is short of memory, 16 MiB may wait on a shard; a connection beyond that
    /// is reset as a slow reader.
    pub fn send(&mut self, conn: ConnId, bytes: &[u8]) {
        let done = self.connections.send(conn, bytes);
        self.note(done);
    }

    /// Sends `bytes` as `send` does. The kernel takes them from the `Arc`, also if the socket has no room. They are
    /// copied where they have to wait in the shard: for a slot, or behind an operation of the connection that is under
    /// way, as always within its own `Service::received`. TLS seals them for each connection.
    pub fn send_shared(&mut self, conn: ConnId, bytes: &Arc<[u8]>) {
        let done = self.connections.send_shared(conn, bytes);
        self.note(done);
    }

    /// Begins a broadcast to connections of this shard. Gives it back if 4,096 are under way already, or if all of them
    /// together would have more than 64 MiB; a single one may have more. While the server stops it does nothing.
    ///
    /// During a takeover it is given back too, from the moment when the service is ready (`Service::may_divide`) and no
    /// broadcast is under way, or 2 s after the later server asked, until connections begin to leave. Broadcasts that
    /// overlap without end would keep all connections here.
    pub fn broadcast(&mut self, broadcast: Broadcast<S>) -> std::result::Result<(), Broadcast<S>> {
        self.shard.broadcast(broadcast)
    }

    /// How many broadcasts are under way on this shard. A service that makes more of them than its connections can
    /// take sees it here.
    pub fn broadcasts(&self) -> usize {
        self.shard.broadcasts.len()
    }

    /// Whether a connection sleeps: it has no socket, and takes some 52 bytes in all. Always `false` without
    /// `ServerBuilder::hibernate`.
    pub fn is_asleep(&self, conn: ConnId) -> bool {
        self.connections.is_asleep(conn)
    }

    /// Closes a connection. `Service::closed` follows later, not within this call. With `Graceful` and `Lingering` it
    /// follows when the kernel has taken the last bytes; a peer that does not read delays that without limit, so set a
    /// deadline first (`set_deadline`). Until then its state stays, and `Service::received` is called no more. Within
    /// `received` return `Reply::Nothing` after it.
    pub fn close(&mut self, conn: ConnId, mode: CloseMode) {
        let done = self.connections.close(conn, mode, self.shard.reason);
        self.note(done);
    }

    /// Receives nothing from a connection until `resume_reads`. Then the kernel's receive buffer fills, TCP tells the peer
    /// to wait, and the peer's own sends wait: so a service that passes bytes on does not have to keep those that it cannot
    /// pass on yet.
    ///
    /// A receive may be under way already, though not within `Service::received`. It still brings what it finds: at
    /// most 4 KiB. With TLS a receive brings several records, the first of which may have 16 KiB, and
    /// `Service::received` is called for each: those behind the one at which it pauses still come. While reads are
    /// paused the connection neither sleeps nor counts as silent for `ServerBuilder::idle_timeout`; its own deadline
    /// goes on. A FIN of the peer is seen after the bytes before it, so after `resume_reads`. A RST may be seen only
    /// then, or when something is sent. A takeover keeps the pause, and the service of the next process has to end it.
    ///
    /// Returns `false` for a connection that is gone, and for one that sleeps and cannot be woken because no slot is free
    /// (`ServerBuilder::awake`).
    ///
    /// ```
    /// use c1m::{CloseMode, CloseReason, ConnId, Ctx, Reply, Service};
    ///
    /// /// Sends what comes on the one connection to the other, at the speed of the slower one.
    /// #[derive(Default)]
    /// struct Relay {
    ///     ends: Vec<ConnId>,
    /// }
    ///
    /// impl Relay {
    ///     fn other(&self, conn: ConnId) -> Option<ConnId> {
    ///         self.ends.iter().copied().find(|end| *end != conn)
    ///     }
    /// }
    ///
    /// impl Service for Relay {
    ///     type State = ();
    ///     type Message = ();
    ///
    ///     fn opened(&mut self, _: &mut Ctx<'_, ()>, conn: ConnId) {
    ///         self.ends.push(conn);
    ///     }
    ///
    ///     fn received(&mut self, ctx: &mut Ctx<'_, ()>, conn: ConnId, data: &mut [u8]) -> Reply {
    ///         if let Some(other) = self.other(conn) {
    ///             ctx.send(other, data);
    ///             // What this call has sent may be pending too: at most 4 KiB, or one TLS record of 16 KiB.
    ///             if ctx.pending(other) > 8 * 1024 {
    ///                 ctx.pause_reads(conn);
    ///             }
    ///         }
    ///         Reply::Nothing
    ///     }
    ///
    ///     fn sent(&mut self, ctx: &mut Ctx<'_, ()>, conn: ConnId) {
    ///         if let Some(other) = self.other(conn) {
    ///             ctx.resume_reads(other);
    ///         }
    ///     }
    ///
    ///     fn closed(&mut self, ctx: &mut Ctx<'_, ()>, conn: ConnId, _: CloseReason) {
    ///         // The other end may be paused, and `sent` does not follow any more.
    ///         if let Some(other) = self.other(conn) {
    ///             ctx.close(other, CloseMode::Graceful);
    ///         }
    ///         self.ends.retain(|end| *end != conn);
    ///     }
    /// }
    /// ```
    pub fn pause_reads(&mut self, conn: ConnId) -> bool {
        let done = self.connections.pause_reads(conn);
        done.unwrap_or_else(|failure| {
            self.note(Err(failure));
            false
        })
    }

    /// Receives again from a connection whose reads were paused. Its silence counts from now on. Any other connection is
    /// left alone.
    pub fn resume_reads(&mut self, conn: ConnId) {
        let done = self.connections.resume_reads(conn);
        self.note(done);
    }

    /// Whether the reads of a connection are paused.
    pub fn has_paused_reads(&mut self, conn: ConnId) -> bool {
        self.connections.has_paused_reads(conn)
    }

    /// Bytes for a connection that the kernel has not taken: those that the shard keeps, and those of a send that waits
    /// for the peer to read, which count until the last of them is taken. Bytes that this call of `Service::received`
    /// sent to its own connection count too, because the kernel gets them after the call. The first send to another
    /// connection on which nothing is on its way goes to the kernel at once and does not count. So a value above 0 does
    /// not prove a slow peer.
    ///
    /// Once this has returned more than 0, `Service::sent` follows when the kernel has taken all, or `Service::closed`.
    pub fn pending(&mut self, conn: ConnId) -> usize {
        self.connections.watch_pending(conn)
    }

    /// The address of the peer. Within `opened` of a server with `ServerBuilder::peer_addresses(true)`, and while the
    /// connection sleeps, the shard has it. Otherwise three system calls ask the kernel (io_uring_enter, getpeername,
    /// close; two to three microseconds together), with a file descriptor for that time. That needs Linux 6.8, or a
    /// server with `ServerBuilder::hibernate`. An IPv4 peer of a server that listens on `::` has its IPv4 address.
    ///
    /// Errors: `Unsupported` before Linux 6.8 without `hibernate`; `NotConnected` for a connection that is gone or
    /// whose peer has gone; EMFILE where no file descriptor is left.
    pub fn peer_addr(&mut self, conn: ConnId) -> io::Result<SocketAddr> {
        let asked = self.connections.peer_addr(conn);
        self.answer(asked)
    }

    /// The address on which the server accepted the connection. It is found as that of `peer_addr` is, and fails in the
    /// same way, but `peer_addresses(true)` does not bring it.
    pub fn local_addr(&mut self, conn: ConnId) -> io::Result<SocketAddr> {
        let asked = self.connections.local_addr(conn);
        self.answer(asked)
    }

    /// What the TLS handshake of a connection has agreed on: the version, whether a session was resumed, the protocol
    /// (ALPN), and the name that the client has for the server (SNI). It is told within `Service::opened` alone, when the
    /// handshake has just ended: nothing of it is kept, so a service that needs it later puts it into its state. `None`
    /// in every other call, and without TLS. Only with the feature `tls`.
    #[cfg(feature = "tls")]
    pub fn tls(&self, conn: ConnId) -> Option<&TlsAgreed> {
        self.connections.agreed(conn)
    }

    /// How long ago the connection was opened, to a tenth of a second. After a takeover from a server that kept no ages
    /// it counts from the takeover. `None` unless the server was built with `ServerBuilder::connection_ages(true)`,
    /// which takes 4 bytes a slot, or if the connection is gone.
    pub fn age(&self, conn: ConnId) -> Option<Duration> {
        let opened = self.shard.opened.as_ref()?.get(conn);
        self.connections.peek(conn)?;
        (opened != SlotTable::UNSET).then(|| AGE_UNIT * units_since(self.shard.began).wrapping_sub(opened))
    }

    /// How long nothing was received from the connection, as a multiple of 4 s. The value is less than the true time by
    /// up to 8 s, so it is 0 for the first 4 s to 8 s. It is at most 131,072 s (36.4 hours). `None` if the connection
    /// is not open any more.
    pub fn idle(&self, conn: ConnId) -> Option<Duration> {
        self.connections.silence(conn)
    }

    /// Sets when `Service::expired` is called for a connection; `None` removes the deadline. A new deadline replaces
    /// the one before.
    ///
    /// A deadline passes never early and up to about a second late: it is rounded up to a quarter of a second, and a
    /// sweep finds those that have passed. It counts on the shard's own clock, which does not run while the process is
    /// suspended: what peers sent meanwhile is received first. The first deadline of a shard makes a table of 4 bytes
    /// for each slot in use; no connection has a timer.
    pub fn set_deadline(&mut self, conn: ConnId, after: Option<Duration>) {
        if self.is_open(conn) {
            let now = Instant::now();
            self.shard.deadlines.set(conn, after, self.connections.clock(), now);
        }
    }

    /// Adds `n` to a counter of the service's own. It counts for this shard; metrics and `Server::counters` show it. A
    /// `CounterId` of another server's builder counts in the counter of the same number, or nowhere.
    pub fn count(&mut self, counter: CounterId, n: u64) {
        self.shard.own.add(counter.0, n);
    }

    /// As `pending`, whatever follows.
    pub(super) fn unsent(&mut self, conn: ConnId) -> usize {
        self.connections.pending_bytes(conn)
    }

    /// How a connection is closed whose deadline has passed: in order, or with a reset if bytes wait for a peer that does not
    /// read. An orderly close would wait for them, and that might be for ever. To be asked before anything more is sent.
    pub(super) fn late_close_mode(&mut self, conn: ConnId, orderly: CloseMode) -> CloseMode {
        if self.pending(conn) > 0 { CloseMode::Abort } else { orderly }
    }

    /// Has `Service::sent` follow when the kernel has taken all that is on its way to a connection, or that the same call sends
    /// to it.
    pub(super) fn tell_when_sent(&mut self, conn: ConnId) {
        self.connections.tell_when_sent(conn);
    }

    /// Receives nothing from a connection until `Service::sent` follows, which ends that.
    pub(super) fn pause_until_sent(&mut self, conn: ConnId) {
        self.pause_reads(conn);
        self.tell_when_sent(conn);
    }

    /// The same context, for a service within the service.
    pub(super) fn again(&mut self) -> Ctx<'_, S> {
        Ctx { connections: self.connections, shard: self.shard }
    }

    /// The counters of this shard.
    pub(super) fn counters(&self) -> &Counters {
        self.connections.counters()
    }

    /// Whether a connection has a deadline.
    pub(super) fn has_deadline(&self, conn: ConnId) -> bool {
        self.shard.deadlines.is_set(conn)
    }

    fn note(&mut self, done: Result<()>) {
        if let Err(failure) = done {
            self.shard.failure.get_or_insert(failure);
        }
    }

    fn answer(&mut self, asked: Result<io::Result<SocketAddr>>) -> io::Result<SocketAddr> {
        asked.unwrap_or_else(|failure| {
            let error = io::Error::other(failure.to_string());
            self.note(Err(failure));
            Err(error)
        })
    }
}
