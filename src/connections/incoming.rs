//! Receiving. A receive goes to the kernel when the connection may have bytes and a buffer is free for them. Otherwise
//! the connection waits for its turn.

use std::collections::VecDeque;

use super::engine::Engine;
use super::hibernation::Wake;
use super::platform::Platform;
use super::slots::Slots;
use crate::connections::lifecycle::SlotState;
use crate::error::Result;
use crate::ring::{Buffers, RingOps};
use crate::token::{ConnId, Operation};

/// Buffers that the receives and sends in flight of one ring hold at most. Beyond that, readable connections wait for
/// their turn. Without this bound an overflowing completion queue could hold one buffer for each slot.
const BUFFERS_PER_RING: usize = 512;

/// Waiting connections that receive in one pass: those whose last receive left bytes in the socket, and those that had
/// to wait for a buffer. So a peer that sends without end gets one buffer a turn, after all peers that send a little.
pub(crate) const RESUMED_PER_PASS: usize = 8;

/// Readable connections that wait for a receive.
#[derive(Debug, Default)]
pub(super) struct Incoming {
    waiting: VecDeque<ConnId>,
}

impl Incoming {
    /// Whether no connection waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// How many connections that wait may receive in this pass.
    pub fn turns(&self) -> usize {
        self.waiting.len().min(RESUMED_PER_PASS)
    }

    /// The connection whose turn it is.
    pub fn next_turn(&mut self) -> Option<ConnId> {
        self.waiting.pop_front()
    }

    /// Makes a connection wait for its turn.
    pub fn wait<S: Default, R: RingOps>(&mut self, slots: &mut Slots<S, R>, conn: ConnId) {
        slots.update(conn, SlotState::wait);
        self.waiting.push_back(conn);
    }

    /// Queues a receive, or makes the connection wait until a buffer is free.
    pub fn receive<S: Default, R: RingOps>(
        &mut self,
        slots: &mut Slots<S, R>,
        buffers: &mut Buffers,
        conn: ConnId,
    ) -> Result<()> {
        if slots.ring(conn).buffers_held() >= BUFFERS_PER_RING {
            self.wait(slots, conn);
            return Ok(());
        }
        slots.update(conn, SlotState::receive);
        slots.ring(conn).receive(conn.token(Operation::Receive), buffers.take())
    }
}

impl<S: Default, P: Platform> Engine<S, P> {
    /// Receives nothing more on a connection, except what is on its way to the driver already. A sleeping connection is
    /// woken for it, since its next bytes would come by a wake. Returns `false` if that cannot be now, or it is gone.
    pub fn pause_reads(&mut self, name: ConnId) -> Result<bool> {
        if let Some(hibernation) = &mut self.hibernation {
            hibernation.recall(name);
        }
        let Wake::Awake(conn) = self.reach(name)? else { return Ok(false) };
        // It may have slept with bytes that waited for a slot.
        self.send_unsent_of(conn)?;
        let is_live = self.slots.is_live(conn);
        if is_live && !self.departures.set_reads_paused(conn, true) {
            self.slots.update(conn, SlotState::pause_reads);
        }
        Ok(is_live)
    }

    /// Receives again on a connection whose reads were paused. Its silence begins now, and so does the time within which
    /// a record of TLS must be whole.
    pub fn resume_reads(&mut self, name: ConnId) -> Result<()> {
        if !self.has_paused_reads(name) {
            return Ok(());
        }
        let Some(conn) = self.find(name) else { return Ok(()) };
        #[cfg(feature = "tls")]
        self.restart_record_time(name);
        if let Some(row) = self.slots.row(conn) {
            self.idle.heard(&mut row.link);
        }
        if self.departures.set_reads_paused(conn, false) {
            return Ok(());
        }
        self.apply(conn, SlotState::resume_reads)
    }

    /// Whether the driver has paused the reads of a connection that is live.
    pub fn has_paused_reads(&mut self, name: ConnId) -> bool {
        let Some(conn) = self.find(name).filter(|conn| self.slots.is_live(*conn)) else { return false };
        let departing = self.departures.has_paused_reads(conn);
        departing.unwrap_or_else(|| self.slots.row(conn).is_some_and(|row| row.lifecycle.has_paused_reads()))
    }

    /// A receive brought `len` bytes, and left `more` in the socket. Tells whether the driver may have them: not once it
    /// has closed the connection, as a reply could not be sent whole. Such bytes are dropped, and do not count as received.
    pub fn received(&mut self, conn: ConnId, len: usize, more: bool) -> bool {
        self.used(conn);
        if !self.lingering.is_empty() && self.is_lingering(conn) {
            self.lingering.dropped(conn, len);
        }
        let Some(row) = self.slots.row(conn) else { return false };
        row.lifecycle.received();
        if row.lifecycle.is_live() {
            self.idle.heard(&mut row.link);
        }
        if more {
            row.lifecycle.left_bytes();
        }
        let accepts = row.lifecycle.accepts_bytes();
        if accepts {
            self.counters.bytes_in.add(len as u64);
        }
        accepts
    }
}
