//! Sending: bytes go to the kernel at once, or are kept while a data operation of their connection is there. What is
//! kept for a peer that does not read is bounded.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use super::{CloseMode, CloseReason, Connections};
use crate::connections::lifecycle::{SendDecision, SlotState};
use crate::constants::BUFFER_BYTES;
use crate::error::Result;
use crate::ring::Buffer;
use crate::token::{ConnId, Operation};

impl<S: Default> Connections<S> {
    /// Sends bytes after those already on their way. A connection that is gone is passed over; one
    /// whose unsent bytes would exceed the limit is closed as a slow reader.
    pub fn send(&mut self, conn: ConnId, bytes: &[u8]) -> Result<()> {
        match self.row(conn).map_or(SendDecision::Never, |row| row.lifecycle.sending()) {
            SendDecision::Never => Ok(()),
            SendDecision::Later => self.keep_for_later(conn, bytes),
            SendDecision::Now if bytes.len() > self.max_pending => {
                self.counters.slow_readers.add(1);
                self.close(conn, CloseMode::Abort, CloseReason::SlowReader)
            }
            SendDecision::Now => self.send_bytes(conn, Cow::Borrowed(bytes)),
        }
    }

    /// Sends shared bytes as `send` does, straight from where they lie. Where they have to wait for another operation
    /// of the connection they are copied.
    pub fn send_shared(&mut self, conn: ConnId, bytes: &Arc<[u8]>) -> Result<()> {
        match self.row(conn).map_or(SendDecision::Never, |row| row.lifecycle.sending()) {
            SendDecision::Now if bytes.len() <= self.max_pending => self.send_at_once(conn, bytes.clone()),
            _ => self.send(conn, bytes),
        }
    }

    /// Ends a receive with a reply from its buffer: sent at once, or, if the driver queued other
    /// bytes for the connection meanwhile, after those.
    pub(crate) fn reply_to_receive(&mut self, conn: ConnId, mut buffer: Buffer, range: Range<usize>) -> Result<()> {
        match self.row(conn).map_or(SendDecision::Never, |row| row.lifecycle.replying()) {
            SendDecision::Now => return self.send_buffer(conn, buffer, range),
            SendDecision::Later => self.keep_for_later(conn, &buffer.bytes()[range])?,
            SendDecision::Never => {}
        }
        self.buffers.put(buffer);
        self.operation_ended(conn)
    }

    /// The kernel took only part of a send: let the rest wait there.
    pub(crate) fn sent_short(&mut self, conn: ConnId, mut buffer: Buffer, rest: Range<usize>) -> Result<()> {
        let bytes: Arc<[u8]> = buffer.bytes()[rest].into();
        self.buffers.put(buffer);
        let all = 0..bytes.len();
        self.shared_sent_short(conn, bytes, all)
    }

    /// The kernel took only part of a send of shared bytes: let the rest wait there.
    pub(crate) fn shared_sent_short(&mut self, conn: ConnId, bytes: Arc<[u8]>, rest: Range<usize>) -> Result<()> {
        if !self.is_live(conn) {
            return self.operation_ended(conn);
        }
        self.counters.parked.add(1);
        self.write_readiness.blocked(conn);
        self.rings[conn.ring()].ring.park_send(conn.token(Operation::ParkedSend), bytes, rest)
    }

    /// Sends bytes of any length on a connection with nothing in the kernel.
    pub(super) fn send_bytes(&mut self, conn: ConnId, bytes: Cow<'_, [u8]>) -> Result<()> {
        if bytes.len() <= BUFFER_BYTES {
            let mut buffer = self.buffers.take();
            buffer.bytes()[..bytes.len()].copy_from_slice(&bytes);
            return self.send_buffer(conn, buffer, 0..bytes.len());
        }
        self.send_at_once(conn, bytes.into_owned().into())
    }

    /// Sends shared bytes on a connection with nothing in the kernel.
    fn send_at_once(&mut self, conn: ConnId, bytes: Arc<[u8]>) -> Result<()> {
        if bytes.is_empty() {
            return self.operation_ended(conn);
        }
        self.update(conn, SlotState::send);
        self.counters.bytes_out.add(bytes.len() as u64);
        self.rings[conn.ring()].ring.send_shared(conn.token(Operation::Send), bytes)
    }

    fn send_buffer(&mut self, conn: ConnId, buffer: Buffer, range: Range<usize>) -> Result<()> {
        if range.is_empty() {
            self.buffers.put(buffer);
            return self.operation_ended(conn);
        }
        self.update(conn, SlotState::send);
        self.counters.bytes_out.add(range.len() as u64);
        self.rings[conn.ring()].ring.send(conn.token(Operation::Send), buffer, range)
    }

    fn keep_for_later(&mut self, conn: ConnId, bytes: &[u8]) -> Result<()> {
        let pending = self.pending.entry(conn).or_default();
        if pending.len() + bytes.len() > self.max_pending {
            self.counters.slow_readers.add(1);
            return self.close(conn, CloseMode::Abort, CloseReason::SlowReader);
        }
        pending.extend_from_slice(bytes);
        self.update(conn, SlotState::keep);
        Ok(())
    }

    pub(super) fn forget_kept(&mut self, conn: ConnId) {
        if !self.pending.is_empty() {
            self.pending.remove(&conn);
        }
    }
}
