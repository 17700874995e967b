//! The connections of one shard. Each part of this module owns its state. A part that touches others borrows them for a
//! call (`Parts`, `Around`, `Wire`), or is a part of `Engine`:
//!
//! | part | owns |
//! |---|---|
//! | `slots` | the rings, and a row for each slot (`slot_map`) |
//! | `lifecycle` | the rules: what a slot's connection does next |
//! | `acceptor` | listeners, accepts in flight, the limits on connections (`admission`) |
//! | `incoming`, `outgoing` | receives that wait for their turn; bytes that wait for a peer (`write_readiness`) |
//! | `address` | peers' addresses, from the accept until the driver was told of the connection |
//! | `readiness` | how an idle connection waits: in a poll, or behind a filter |
//! | `idle` | when connections were last heard, and the search for silent ones |
//! | `endings` | how connections end; where many end at once: `fins`, `reset_reaper` |
//! | `lingering` | connections that have ended while their peers may still send |
//! | `slot_release` | closed descriptors that some kernels do not free |
//! | `handover` | connections that go to another process, or come from one |
//! | `hibernation` | connections that sleep without a socket, and an entry with a name for each connection |
//! | `names` | of `Engine`: from names to slots and back, waking and closing by name |
//! | `sweeps` | of `Engine`: the search for silent connections and for missed segments, in small steps |
//! | `traffic` | whether the shard has messages, for which work that can wait rests |
//! | `platform` | the machine below: rings, time and the core |
//! | `config` | what a shard's connections are configured with |
//! | `tls` | handshakes, sessions, and what is sealed before it is sent |
//!
//! Where connections may sleep, a driver knows each by a name that it keeps for life; the engine knows it by its slot.
//! `Connections` translates. Otherwise both are the same.
//!
//! `engine` composes them: the reactor tells it what happened to a connection, `lifecycle` decides what comes next, and
//! the parts do it. `Connections` has the operations that a driver may use. None of these modules knows a role or a
//! protocol.
//!
//! No receive is queued while a send is in the kernel, so a peer that does not read is not read from either, and what
//! is kept for it is bounded by `ConnectionsConfig::max_pending`.

mod acceptor;
mod address;
mod admission;
mod close_reason;
mod config;
mod endings;
mod engine;
mod fins;
mod handover;
mod hibernation;
mod idle;
mod incoming;
pub mod lifecycle;
mod lingering;
mod names;
mod outgoing;
mod platform;
mod readiness;
mod reset_reaper;
pub mod slot_map;
mod slot_release;
mod slots;
mod sweeps;
#[cfg(feature = "tls")]
mod tls;
mod traffic;
mod write_readiness;

use std::iter;
#[cfg(feature = "tls")]
use std::net::IpAddr;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, RawFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::clock::Clock;
use crate::error::Result;
use crate::ring::RingOps;
use crate::stats::Counters;
use crate::sys::Doorbell;
#[cfg(feature = "tls")]
use crate::tls::handshake::TlsAgreed;
use crate::token::{ConnId, Operation};

pub(crate) use admission::Admission;
pub use admission::{AdmissionGate, AdmissionState, SharedLimit};
pub use close_reason::CloseReason;
pub use config::{ConnectionsConfig, FilterConfig, SPECULATIVE_RECEIVE_PERIOD, Timing};
pub(crate) use engine::Engine;
pub use handover::{Closes, Handed, HandedState, ReadinessToLeave, SleepersFrom};
pub(crate) use hibernation::Arrival;
pub use hibernation::{
    Caught, EntryMemory, HibernationConfig, HibernationHost, KernelHost, Surrendered, UnsentOf, WindowWord,
};
pub use idle::{LONGEST_IDLE, SHORTEST_IDLE};
#[cfg(test)]
pub(crate) use incoming::RESUMED_PER_PASS;
pub use lifecycle::CloseMode;
pub use platform::{Linux, Platform};
pub use slots::{Cursor, Listening};
#[cfg(all(test, feature = "cli"))]
pub(crate) use tls::TURNS_BESIDE_MESSAGES;
#[cfg(feature = "tls")]
pub(crate) use tls::{Begins, Step};

/// The connections of one shard, as its driver may use them. `S` is the driver's state in each row, `P` the machine
/// that the engine runs on.
pub struct Connections<S, P: Platform = Linux> {
    pub(crate) engine: Engine<S, P>,
}

impl<S: Default> Connections<S> {
    /// Opens the rings, on the thread that will use them. Completions ring `doorbell` while the shard sleeps. Fails
    /// where the kernel or a limit of the process refuses a ring.
    pub fn new(config: ConnectionsConfig, doorbell: &Doorbell, counters: Arc<Counters>) -> Result<Connections<S>> {
        Connections::on(Linux::new(doorbell)?, config, counters)
    }
}

impl<S: Default, P: Platform> Connections<S, P> {
    /// Opens the rings of a platform, on the thread that will use them.
    pub(crate) fn on(platform: P, config: ConnectionsConfig, counters: Arc<Counters>) -> Result<Connections<S, P>> {
        Ok(Connections { engine: Engine::new(platform, config, counters)? })
    }

    /// The counters of this shard.
    pub fn counters(&self) -> &Counters {
        &self.engine.counters
    }

    /// The shard's own clock, by which deadlines are judged: it counts the time in which the shard looked at its
    /// rings.
    pub fn clock(&self) -> &Clock {
        &self.engine.clock
    }

    /// Checks whether the process was suspended since the last check. To be called before the driver acts by a
    /// schedule.
    pub(crate) fn note(&mut self, now: Instant) {
        self.engine.clock.note(now);
    }

    /// Accepts on these sockets from now on, with `each` accepts in flight on every one.
    pub fn listen(&mut self, sockets: Vec<Arc<TcpListener>>, each: usize) -> Result<()> {
        let Engine { acceptor, slots, platform, .. } = &mut self.engine;
        acceptor.listen(slots, sockets, each, platform.now())
    }

    /// Accepts nothing more, and closes none for silence any more: the shard is about to end. The sockets close with
    /// `self`.
    pub fn stop_listening(&mut self) -> Result<()> {
        self.engine.idle.stop();
        if let Some(hibernation) = &mut self.engine.hibernation {
            hibernation.stop(self.engine.clock.now());
        }
        self.engine.acceptor.stop_listening()
    }

    /// Starts a connection of the plain socket `fd` to `to`. The caller keeps `fd` open until the connection is
    /// opened or has failed. `None` if no slot is free.
    pub fn dial(&mut self, fd: RawFd, to: SocketAddr) -> Result<Option<ConnId>> {
        let Some(conn) = self.engine.slots.claim(0) else { return Ok(None) };
        let Some(name) = self.engine.assign_name(conn) else {
            self.engine.slots.release(conn);
            return Ok(None);
        };
        self.engine.readiness.attach_dialed(conn, &fd)?;
        self.engine.slots.ring(conn).dial(fd, to, conn.token(Operation::Connect))?;
        Ok(Some(name))
    }

    /// Keeps a descriptor of `socket`, the socket of a dial, so that the connection can be put to sleep later. Before
    /// Linux 6.8 the kernel makes no plain descriptor of a slot's socket. On newer kernels this does nothing.
    pub fn keep_dialed(&mut self, conn: ConnId, socket: &impl AsFd) {
        let slot = self.engine.find(conn);
        if let (Some(hibernation), Some(slot)) = (&mut self.engine.hibernation, slot) {
            hibernation.keep(slot, socket);
        }
    }

    /// Gives up a dial that has not opened yet. It then fails with ECANCELED.
    pub fn cancel_dial(&mut self, conn: ConnId) -> Result<()> {
        let Some(conn) = self.engine.find(conn) else { return Ok(()) };
        self.engine.slots.ring(conn).cancel(conn.token(Operation::Connect), Operation::Connect)
    }

    /// Begins the TLS handshake of a dialed connection that stands, with the server at this address.
    #[cfg(feature = "tls")]
    pub fn begin_handshake(&mut self, conn: ConnId, to: IpAddr) -> Result<()> {
        self.engine.begin_handshake(conn, to)
    }

    /// What the TLS handshake of a connection has agreed on, while its driver is told that the connection is open
    /// (`Driver::opened`). `None` later, and without TLS.
    #[cfg(feature = "tls")]
    pub fn agreed(&self, conn: ConnId) -> Option<&TlsAgreed> {
        let (of, agreed) = self.engine.tls.as_ref()?.agreed.as_ref()?;
        (*of == conn).then_some(agreed)
    }

    /// Whether a connection that is open is so for its driver too. With TLS it is not before its handshake is over.
    #[inline]
    pub fn is_opened(&self, _conn: &ConnId) -> bool {
        #[cfg(feature = "tls")]
        return self.engine.is_opened(*_conn);
        #[cfg(not(feature = "tls"))]
        true
    }

    /// The driver's state of a connection whose end the driver was not told yet.
    pub fn state(&mut self, conn: ConnId) -> Option<&mut S> {
        self.engine.state_mut(conn)
    }

    /// The first live connection behind a place, and the place behind that connection; `None` at the end.
    pub fn next_live(&self, mut place: Cursor) -> Option<(ConnId, Cursor)> {
        let mut live = iter::from_fn(|| self.engine.next_name(&mut place)).flatten();
        live.find(|conn| self.is_opened(conn)).map(|conn| (conn, place))
    }

    /// The last live connection before a place, and the place before that connection; `None` at the start. One whose
    /// handshake is under way is among them.
    pub fn last_live(&self, mut place: Cursor) -> Option<(ConnId, Cursor)> {
        iter::from_fn(|| self.engine.previous_name(&mut place)).flatten().next().map(|conn| (conn, place))
    }

    /// Connections that open, are open, or close.
    pub fn in_use(&self) -> u64 {
        self.engine.in_use()
    }

    /// Receives nothing more on a connection, except what is on its way to the driver already. In a poll its end is then
    /// seen only when something is sent. A sleeping connection is woken for it. Returns `false` if no slot is free for that,
    /// or the connection is gone.
    pub fn pause_reads(&mut self, conn: ConnId) -> Result<bool> {
        self.engine.pause_reads(conn)
    }

    /// Receives again on a connection whose reads were paused.
    pub fn resume_reads(&mut self, conn: ConnId) -> Result<()> {
        self.engine.resume_reads(conn)
    }

    /// Whether the reads of a connection are paused.
    pub fn has_paused_reads(&mut self, conn: ConnId) -> bool {
        self.engine.has_paused_reads(conn)
    }

    /// Whether a data operation of a connection is under way (a send, a receive, or the driver's handling of what was
    /// received), or bytes are kept for it. `false` while it sleeps.
    pub fn has_data_under_way(&mut self, conn: ConnId) -> bool {
        let Some(conn) = self.engine.find(conn) else { return false };
        self.engine.slots.row(conn).is_some_and(|row| row.lifecycle.has_data_under_way())
    }

    /// Sends bytes after those that are already on their way. A sleeping connection is woken, or sends a short message asleep. Bytes for a connection
    /// that is gone are dropped. A connection whose unsent bytes would exceed the limit is reset, as
    /// `CloseReason::SlowReader`.
    pub fn send(&mut self, conn: ConnId, bytes: &[u8]) -> Result<()> {
        #[cfg(feature = "tls")]
        if self.engine.tls.is_some() {
            return self.engine.seal_and_send(conn, bytes);
        }
        match self.engine.wake_to_send(conn, bytes)? {
            Some(conn) => self.engine.send(conn, bytes),
            None => Ok(()),
        }
    }

    /// Sends shared bytes as `send` does, straight from the `Arc`. They are copied only if they must wait for another
    /// operation of the connection, or are sealed.
    pub fn send_shared(&mut self, conn: ConnId, bytes: &Arc<[u8]>) -> Result<()> {
        #[cfg(feature = "tls")]
        if self.engine.tls.is_some() {
            return self.engine.seal_and_send(conn, bytes);
        }
        match self.engine.wake_to_send(conn, bytes)? {
            Some(conn) => self.engine.send_shared(conn, bytes),
            None => Ok(()),
        }
    }

    /// Whether a sleeping connection could be woken now: a slot is free.
    pub fn can_wake(&self) -> bool {
        self.engine.can_wake()
    }

    /// Whether so many bytes can go to a sleeping connection as a short message, without a slot.
    pub fn fits_asleep(&self, conn: ConnId, bytes: usize) -> bool {
        self.engine.hibernation.as_ref().is_some_and(|hibernation| hibernation.fits_asleep(conn, bytes))
    }

    /// Whether a connection sleeps, as the driver was told. It has no socket then.
    pub fn is_asleep(&self, conn: ConnId) -> bool {
        self.engine.is_asleep(conn) && !self.engine.is_heard_asleep(conn)
    }

    /// Bytes for a connection that the kernel has not taken: bytes kept here, and those of a send that waits in the
    /// kernel, which count until all of them are taken.
    pub fn pending_bytes(&mut self, conn: ConnId) -> usize {
        self.engine.pending_bytes(conn)
    }

    /// As `pending_bytes`. If there are any, `Driver::sent` follows when the kernel has taken all.
    pub fn watch_pending(&mut self, conn: ConnId) -> usize {
        self.engine.watch_pending(conn)
    }

    /// Has `Driver::sent` follow when the kernel has taken all bytes that are on their way to a connection, or that the driver
    /// sends to it in the same call.
    pub fn tell_when_sent(&mut self, conn: ConnId) {
        self.engine.tell_when_sent(conn);
    }

    /// Keeps so many bytes at least for a peer that does not read, and what one receive brings beside them.
    pub fn raise_max_pending(&mut self, bytes: usize) {
        #[cfg(feature = "tls")]
        let bytes = if self.engine.tls.is_some() { tls::most_pending(bytes) } else { bytes };
        self.engine.outgoing.raise(bytes);
    }

    /// Whether a connection is open.
    pub fn is_live(&mut self, conn: ConnId) -> bool {
        self.engine.is_live(conn)
    }

    /// The driver's state of a connection whose end the driver was not told yet.
    pub fn peek(&self, conn: ConnId) -> Option<&S> {
        self.engine.state(conn)
    }

    /// All live connections, with the driver's state of each.
    pub fn live(&self) -> impl Iterator<Item = (ConnId, &S)> {
        let mut place = Cursor::START;
        let names = iter::from_fn(move || self.engine.next_name(&mut place)).flatten();
        let names = names.filter(|conn| self.is_opened(conn));
        names.filter_map(|name| self.engine.state(name).map(|state| (name, state)))
    }

    /// The live connection behind a place.
    pub fn live_at(&self, place: Cursor) -> Option<ConnId> {
        self.engine.name_at(place).filter(|conn| self.is_opened(conn))
    }

    /// The next live connection behind a place, which moves behind it. Looks at `rows` rows at most, and takes those
    /// that it looked at off that. `None` with rows left means that there is none.
    pub fn next_live_within(&self, place: &mut Cursor, rows: &mut usize) -> Option<ConnId> {
        while *rows > 0 {
            let open = self.engine.next_name(place)?;
            *rows -= 1;
            if let Some(conn) = open.filter(|conn| self.is_opened(conn)) {
                return Some(conn);
            }
        }
        None
    }

    /// How long nothing was received from a connection that is open, in whole windows of 4 s, rounded down.
    pub fn silence(&self, conn: ConnId) -> Option<Duration> {
        self.engine.silence(conn)
    }

    /// Closes a live connection; any other is left alone. With `CloseMode::Graceful` and `CloseMode::Lingering`, a
    /// connection that has something in the kernel is closed when that is done.
    pub fn close(&mut self, conn: ConnId, mode: CloseMode, reason: CloseReason) -> Result<()> {
        #[cfg(feature = "tls")]
        if !self.engine.closes_now(conn, mode, reason)? {
            return Ok(());
        }
        self.engine.close_named(conn, mode, reason)
    }

    /// Closes all connections that linger after their end (`CloseMode::Lingering`).
    pub fn stop_lingering(&mut self) -> Result<()> {
        self.engine.stop_lingering_all()
    }
}
