//! What a service of WebSocket messages is given in each call, and the frames that it sends.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::connections::CloseMode;
use crate::protocol::websocket::{Close, CloseCode, Header, LONGEST_CONTROL, LONGEST_HEADER, Opcode};
use crate::service::conversation::{Conversation, Phase};
use crate::service::shared_calls::shared_calls;
use crate::service::websocket::WebSocketLimits;
use crate::service::{Broadcast, CounterId, Ctx};
use crate::stats::Counters;
use crate::token::ConnId;

/// A message with its header, made once for any number of connections.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame(Arc<[u8]>);

impl Frame {
    /// A text.
    pub fn text(text: &str) -> Frame {
        Frame::of(Opcode::Text, text.as_bytes())
    }

    /// A binary message.
    pub fn binary(bytes: &[u8]) -> Frame {
        Frame::of(Opcode::Binary, bytes)
    }

    fn of(opcode: Opcode, payload: &[u8]) -> Frame {
        let mut bytes = Vec::with_capacity(payload.len() + LONGEST_HEADER);
        append_frame(opcode, payload, &mut bytes);
        Frame(bytes.into())
    }

    /// Its bytes, as they are sent.
    pub fn bytes(&self) -> &Arc<[u8]> {
        &self.0
    }
}

impl From<Frame> for Arc<[u8]> {
    fn from(frame: Frame) -> Arc<[u8]> {
        frame.0
    }
}

/// Appends a whole frame of this server to `into`.
pub(super) fn append_frame(opcode: Opcode, payload: &[u8], into: &mut Vec<u8>) {
    Header::whole(opcode, payload.len() as u64, None).append(into);
    into.extend_from_slice(payload);
}

/// The connection whose bytes are being handled: what is sent to it goes out behind the answers before, all together.
#[derive(Debug)]
pub(super) struct Present<'a> {
    pub conn: ConnId,
    /// Answers that lie in the receive buffer, and are to go out before those in `out`.
    pub held: &'a [u8],
    pub out: &'a mut Vec<u8>,
}

impl Present<'_> {
    /// Where the next answer is appended.
    pub fn out(&mut self) -> &mut Vec<u8> {
        self.out.extend_from_slice(std::mem::take(&mut self.held));
        self.out
    }
}

/// The shard as a service of WebSocket messages sees it in one call: a [`Ctx`] that sends messages.
///
/// A connection that is gone, or closed by either end, is no error anywhere: nothing is sent to it.
pub struct WebSocketCtx<'a, S> {
    pub(super) ctx: Ctx<'a, Conversation<S>>,
    pub(super) present: Option<Present<'a>>,
    /// For frames to other connections.
    pub(super) scratch: &'a mut Vec<u8>,
    pub(super) limits: &'a WebSocketLimits,
}

impl<S: Default> WebSocketCtx<'_, S> {
    /// Sends a text behind what is on its way already, as [`Ctx::send`] does.
    pub fn send_text(&mut self, conn: ConnId, text: &str) {
        self.send_frame(conn, Opcode::Text, text.as_bytes());
    }

    /// Sends a binary message, as [`Ctx::send`] does.
    pub fn send_binary(&mut self, conn: ConnId, bytes: &[u8]) {
        self.send_frame(conn, Opcode::Binary, bytes);
    }

    /// Sends a message that was framed before, as [`Ctx::send_shared`] does.
    pub fn send(&mut self, conn: ConnId, frame: &Frame) {
        if !self.is_open(conn) {
            return;
        }
        match &mut self.present {
            Some(present) if present.conn == conn => present.out().extend_from_slice(&frame.0),
            _ => self.ctx.send_shared(conn, &frame.0),
        }
    }

    /// Sends a ping. Of a payload of more than 125 bytes only the first 125 are sent. The peer's answer comes as
    /// `WebSocketService::pong`.
    pub fn ping(&mut self, conn: ConnId, payload: &[u8]) {
        self.send_frame(conn, Opcode::Ping, &payload[..payload.len().min(LONGEST_CONTROL)]);
    }

    /// Begins a broadcast to connections of this shard, as [`Ctx::broadcast`] does; make its bytes of a [`Frame`].
    /// Connections that are not open for messages get nothing.
    pub fn broadcast(&mut self, broadcast: Broadcast<Conversation<S>>) -> Result<(), Broadcast<Conversation<S>>> {
        self.ctx.broadcast(broadcast.only(Conversation::is_open))
    }

    /// As [`Ctx::broadcasts`].
    pub fn broadcasts(&self) -> usize {
        self.ctx.broadcasts()
    }

    /// As [`Ctx::pending`]. What is sent to a connection while its messages are handed on goes out after the last of
    /// them, and counts until then. All of it must fit into `ServerBuilder::max_pending`, and hundreds of short
    /// messages may come together: a service that sends more than it receives should check this value.
    pub fn pending(&mut self, conn: ConnId) -> usize {
        let present = self.present.as_ref().filter(|present| present.conn == conn);
        let unsent = present.map_or(0, |present| present.held.len() + present.out.len());
        if unsent > 0 {
            self.ctx.tell_when_sent(conn);
        }
        unsent + self.ctx.pending(conn)
    }

    /// Closes a connection with a code and a reason. Of a reason of more than 123 bytes only as many whole characters
    /// as fit are sent. Nothing more is sent to the peer, and its messages are dropped. `WebSocketService::closed`
    /// follows when the peer has answered, when `WebSocketLimits::close_time` is over, or when the connection ends.
    pub fn close(&mut self, conn: ConnId, code: CloseCode, reason: &str) {
        if !self.is_open(conn) {
            return;
        }
        let mut payload = Vec::new();
        Close { code: Some(code), reason }.append(&mut payload);
        self.send_frame(conn, Opcode::Close, &payload);
        if let Some(row) = self.ctx.state(conn) {
            row.enter(Phase::Closing);
            row.set_timed(true);
        }
        self.ctx.set_deadline(conn, Some(self.limits.close_time));
        // The peer's answer is received.
        self.ctx.resume_reads(conn);
    }

    /// Ends a connection without a close, by a RST. Messages that still come are dropped, also those that came together
    /// with the one that is being handled. `WebSocketService::closed` follows soon, and not within this call.
    pub fn abort(&mut self, conn: ConnId) {
        self.ctx.close(conn, CloseMode::Abort);
    }

    /// Whether messages can be sent to a connection: it speaks WebSocket, and neither end has closed it.
    pub fn is_open(&mut self, conn: ConnId) -> bool {
        self.ctx.state(conn).is_some_and(|row| row.is_open())
    }

    /// Sets when `WebSocketService::expired` is called, as [`Ctx::set_deadline`] does. A connection that is not open
    /// has deadlines of its protocol, which stay.
    pub fn set_deadline(&mut self, conn: ConnId, after: Option<Duration>) {
        if let Some(row) = self.ctx.state(conn).filter(|row| row.is_open()) {
            row.set_timed(false);
            self.ctx.set_deadline(conn, after);
            self.watch(conn);
        }
    }

    /// Bounds the time of a message of which a part has come, where no deadline is set. With reads paused it may take as long as
    /// it likes.
    pub(super) fn watch(&mut self, conn: ConnId) {
        let is_free = !self.ctx.has_deadline(conn) && !self.ctx.has_paused_reads(conn);
        if let Some(row) = self.ctx.state(conn).filter(|row| row.is_open() && row.key().is_some() && is_free) {
            row.set_timed(true);
            self.ctx.set_deadline(conn, Some(self.limits.message_time));
        }
    }

    /// Receives nothing from a connection until `resume_reads`, as [`Ctx::pause_reads`] does. Messages that have been
    /// received by then still come: at most 4 KiB, or the TLS records of one receive. Pings of the peer are not
    /// answered meanwhile, and a message of which a part has come may take as long as it likes. `close` ends the pause.
    pub fn pause_reads(&mut self, conn: ConnId) -> bool {
        let paused = self.is_open(conn) && self.ctx.pause_reads(conn);
        if paused && let Some(row) = self.ctx.state(conn).filter(|row| row.is_timed()) {
            row.set_timed(false);
            self.ctx.set_deadline(conn, None);
        }
        paused
    }

    /// Receives again from a connection whose reads were paused. Any other connection is left alone.
    pub fn resume_reads(&mut self, conn: ConnId) {
        if !self.ctx.has_paused_reads(conn) {
            return;
        }
        self.ctx.resume_reads(conn);
        self.watch(conn);
    }

    /// Whether the reads of a connection are paused.
    pub fn has_paused_reads(&mut self, conn: ConnId) -> bool {
        self.ctx.has_paused_reads(conn)
    }

    /// The counters of this shard.
    pub(crate) fn counters(&self) -> &Counters {
        self.ctx.counters()
    }

    fn send_frame(&mut self, conn: ConnId, opcode: Opcode, payload: &[u8]) {
        if !self.is_open(conn) {
            return;
        }
        match &mut self.present {
            Some(present) if present.conn == conn => append_frame(opcode, payload, present.out()),
            _ => {
                self.scratch.clear();
                append_frame(opcode, payload, self.scratch);
                self.ctx.send(conn, self.scratch);
            }
        }
    }
}

shared_calls!(WebSocketCtx);
