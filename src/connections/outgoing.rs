//! Sending. Bytes go to the kernel at once, or are kept while a data operation of their connection is in the kernel.
//! What is kept for a peer that does not read is bounded.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use super::engine::Engine;
use super::platform::Platform;
use super::slots::Slots;
use super::write_readiness::WriteReadiness;
use crate::connections::lifecycle::{SendDecision, SlotState};
use crate::constants::BUFFER_BYTES;
use crate::error::Result;
use crate::ring::{Buffer, Buffers, RingOps};
use crate::stats::Counters;
use crate::token::{ConnId, Operation};

/// What the engine must do for a connection after a send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub(super) enum AfterSend {
    /// Nothing: the bytes are with the kernel or kept, or the connection sends nothing any more.
    Rest,
    /// The connection's next action: it has no data operation in the kernel.
    GoOn,
    /// A reset: more bytes would be kept for it than the limit allows. If `then_go_on`, its next action follows.
    Reset {
        /// The data operation of the connection is over.
        then_go_on: bool,
    },
}

/// The parts of a shard that a send touches beside `Outgoing`.
pub(super) struct Wire<'a, S, R> {
    pub slots: &'a mut Slots<S, R>,
    pub buffers: &'a mut Buffers,
    pub counters: &'a Counters,
}

/// The bytes that are kept for peers that cannot be sent to now.
#[derive(Debug)]
pub(super) struct Outgoing {
    pending: HashMap<ConnId, Vec<u8>>,
    /// Bytes kept for one connection at most.
    max_pending: usize,
    write_readiness: WriteReadiness,
}

impl Outgoing {
    /// Keeps `max_pending` bytes for a connection at most, and at least what one receive brings.
    pub fn new(max_pending: usize) -> Outgoing {
        let (pending, write_readiness) = Default::default();
        Outgoing { pending, max_pending: max_pending.max(BUFFER_BYTES), write_readiness }
    }

    /// Keeps so many bytes for a connection at least, and what one receive brings beside them.
    pub fn raise(&mut self, bytes: usize) {
        self.max_pending = self.max_pending.max(bytes.saturating_add(BUFFER_BYTES));
    }

    /// Sends bytes after those that are already on their way.
    pub fn send<S: Default, R: RingOps>(
        &mut self,
        mut wire: Wire<'_, S, R>,
        conn: ConnId,
        bytes: &[u8],
    ) -> Result<AfterSend> {
        match self.hold_back(wire.slots, conn, bytes) {
            Some(after) => Ok(after),
            None => wire.send(conn, bytes),
        }
    }

    /// Sends shared bytes as `send` does, straight from the `Arc`. They are copied only if they must wait for another
    /// operation of the connection.
    pub fn send_shared<S: Default, R: RingOps>(
        &mut self,
        mut wire: Wire<'_, S, R>,
        conn: ConnId,
        bytes: &Arc<[u8]>,
    ) -> Result<AfterSend> {
        match self.hold_back(wire.slots, conn, bytes) {
            Some(after) => Ok(after),
            None => wire.send_shared(conn, bytes.clone()),
        }
    }

    /// Keeps, drops or refuses bytes that cannot go to the kernel now. `None` if they can: the caller sends them.
    fn hold_back<S: Default, R: RingOps>(
        &mut self,
        slots: &mut Slots<S, R>,
        conn: ConnId,
        bytes: &[u8],
    ) -> Option<AfterSend> {
        match slots.row(conn).map_or(SendDecision::Never, |row| row.lifecycle.sending()) {
            SendDecision::Never => Some(AfterSend::Rest),
            SendDecision::Later if self.keep(slots, conn, bytes) => Some(AfterSend::Rest),
            SendDecision::Now if bytes.len() <= self.max_pending => None,
            SendDecision::Later | SendDecision::Now => Some(AfterSend::Reset { then_go_on: false }),
        }
    }

    /// The kernel took only a part of a send. If the connection is still live, the rest waits in the kernel.
    pub fn sent_short<S: Default, R: RingOps>(
        &mut self,
        wire: Wire<'_, S, R>,
        conn: ConnId,
        (bytes, rest): (Arc<[u8]>, Range<usize>),
    ) -> Result<AfterSend> {
        if !wire.slots.is_live(conn) {
            return Ok(AfterSend::GoOn);
        }
        wire.counters.parked.add(1);
        self.write_readiness.watch(conn);
        wire.slots.ring(conn).park_send(conn.token(Operation::ParkedSend), bytes, rest)?;
        Ok(AfterSend::Rest)
    }

    /// The data operation of a connection is over. If the kernel has now taken all that had to wait there, the driver
    /// is to be told.
    #[inline]
    pub fn operation_ended<S: Default, R: RingOps>(&mut self, slots: &mut Slots<S, R>, conn: ConnId) {
        if self.write_readiness.is_watched(conn) && slots.row(conn).is_some_and(|row| !row.lifecycle.keeps_bytes()) {
            self.write_readiness.drained(conn);
        }
    }

    /// The next connection whose bytes have all been taken by the kernel after some had to wait.
    #[inline]
    pub fn next_drained(&mut self) -> Option<ConnId> {
        self.write_readiness.next_drained()
    }

    /// Bytes kept for a connection.
    pub fn kept(&self, conn: ConnId) -> usize {
        if self.pending.is_empty() { 0 } else { self.pending.get(&conn).map_or(0, Vec::len) }
    }

    /// Bytes kept for one connection at most.
    pub fn most(&self) -> usize {
        self.max_pending
    }

    /// Ends a receive with a reply from its buffer. The reply is sent at once; if the driver sent other bytes on the
    /// connection meanwhile, it is sent after those.
    pub fn reply<S: Default, R: RingOps>(
        &mut self,
        mut wire: Wire<'_, S, R>,
        conn: ConnId,
        (mut buffer, range): (Buffer, Range<usize>),
    ) -> Result<AfterSend> {
        let after = match wire.slots.row(conn).map_or(SendDecision::Never, |row| row.lifecycle.replying()) {
            SendDecision::Now => return wire.send_buffer(conn, buffer, range),
            SendDecision::Later if !self.keep(wire.slots, conn, &buffer.bytes()[range]) => {
                AfterSend::Reset { then_go_on: true }
            }
            SendDecision::Later | SendDecision::Never => AfterSend::GoOn,
        };
        wire.buffers.put(buffer);
        Ok(after)
    }

    /// Sends what was kept for a connection that has nothing in the kernel.
    pub fn send_kept<S: Default, R: RingOps>(&mut self, mut wire: Wire<'_, S, R>, conn: ConnId) -> Result<AfterSend> {
        let bytes = self.pending.remove(&conn).unwrap_or_default();
        wire.send(conn, &bytes)
    }

    /// Keeps bytes until the data operation in the kernel is over. `false` if that would be more than may be kept.
    fn keep<S: Default, R: RingOps>(&mut self, slots: &mut Slots<S, R>, conn: ConnId, bytes: &[u8]) -> bool {
        let pending = self.pending.entry(conn).or_default();
        if pending.len() + bytes.len() > self.max_pending {
            return false;
        }
        pending.extend_from_slice(bytes);
        slots.update(conn, SlotState::keep);
        true
    }

    /// Takes what is kept for a connection that leaves, and whether the driver is to be told when all of it is sent.
    pub fn take(&mut self, conn: ConnId) -> (Vec<u8>, bool) {
        (self.pending.remove(&conn).unwrap_or_default(), self.write_readiness.take(conn))
    }

    /// Has the driver told when the kernel has taken all bytes of a connection. They waited for a slot or in another process,
    /// or the driver asked how many are pending.
    pub fn tell_when_sent(&mut self, conn: ConnId) {
        self.write_readiness.watch(conn);
    }

    /// Sends bytes on a connection as `send` does, also where they are more than may be kept: they were kept before. If
    /// something is in the kernel for the connection they are sent after it.
    pub fn send_anyway<S: Default, R: RingOps>(
        &mut self,
        mut wire: Wire<'_, S, R>,
        conn: ConnId,
        bytes: Vec<u8>,
    ) -> Result<AfterSend> {
        match wire.slots.row(conn).map_or(SendDecision::Never, |row| row.lifecycle.sending_kept()) {
            SendDecision::Never => Ok(AfterSend::Rest),
            SendDecision::Now if bytes.is_empty() => {
                self.operation_ended(wire.slots, conn);
                Ok(AfterSend::Rest)
            }
            SendDecision::Now => wire.send_shared(conn, bytes.into()),
            SendDecision::Later => {
                if !bytes.is_empty() {
                    self.pending.entry(conn).or_default().extend(bytes);
                    wire.slots.update(conn, SlotState::keep);
                }
                Ok(AfterSend::Rest)
            }
        }
    }

    /// A connection is over: drops what was kept for it.
    pub fn forget(&mut self, conn: ConnId) {
        self.write_readiness.forget(conn);
        if !self.pending.is_empty() {
            self.pending.remove(&conn);
        }
    }

    /// The connections that bytes are kept for.
    #[cfg(test)]
    pub fn kept_for(&self) -> impl Iterator<Item = ConnId> {
        self.pending.keys().copied()
    }
}

/// Sends nothing on a connection that is over and has nothing in the kernel. The send fails with the error that has ended it.
pub(super) fn ask_for_error<S: Default, R: RingOps>(slots: &mut Slots<S, R>, conn: ConnId) -> Result<()> {
    slots.update(conn, SlotState::send);
    slots.ring(conn).send_shared(conn.token(Operation::Send), [].into())
}

impl<S: Default, P: Platform> Engine<S, P> {
    /// The kernel has taken the rest of a send that waited there for the peer. A record of TLS has its whole time again: nothing
    /// was received meanwhile that would have made it whole.
    pub fn parked_sent(&mut self, conn: ConnId) -> Result<()> {
        #[cfg(feature = "tls")]
        self.restart_record_time(self.name_of(conn));
        self.operation_ended(conn)
    }
}

impl<S: Default, R: RingOps> Wire<'_, S, R> {
    /// Sends bytes of any number on a connection with nothing in the kernel.
    fn send(&mut self, conn: ConnId, bytes: &[u8]) -> Result<AfterSend> {
        if bytes.len() <= BUFFER_BYTES {
            let mut buffer = self.buffers.take();
            buffer.bytes()[..bytes.len()].copy_from_slice(bytes);
            return self.send_buffer(conn, buffer, 0..bytes.len());
        }
        self.send_shared(conn, bytes.into())
    }

    /// Sends shared bytes on a connection with nothing in the kernel.
    fn send_shared(&mut self, conn: ConnId, bytes: Arc<[u8]>) -> Result<AfterSend> {
        if bytes.is_empty() {
            return Ok(AfterSend::GoOn);
        }
        self.slots.update(conn, SlotState::send);
        self.counters.bytes_out.add(bytes.len() as u64);
        self.slots.ring(conn).send_shared(conn.token(Operation::Send), bytes)?;
        Ok(AfterSend::Rest)
    }

    /// Sends a part of a buffer on a connection with nothing in the kernel.
    fn send_buffer(&mut self, conn: ConnId, buffer: Buffer, range: Range<usize>) -> Result<AfterSend> {
        if range.is_empty() {
            self.buffers.put(buffer);
            return Ok(AfterSend::GoOn);
        }
        self.slots.update(conn, SlotState::send);
        self.counters.bytes_out.add(range.len() as u64);
        self.slots.ring(conn).send(conn.token(Operation::Send), buffer, range)?;
        Ok(AfterSend::Rest)
    }
}
