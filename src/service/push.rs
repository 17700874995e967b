//! `Push`: a broadcaster. What a publisher sends goes to every subscriber of every shard, as it is.

mod board;

use std::sync::Arc;
use std::time::Duration;

pub(super) use board::Handover;
pub use board::PushMessage;
use board::{Board, Shard, ShardView};

use super::http::{LAST_WORD, Request, Response};
use super::slab::{Holds, Slab};
use super::websocket::{Answer, Ending, Frame, WebSocketCtx, WebSocketService};
use super::{Broadcast, Ctx, Members, Reply, Service};
use crate::connections::{CloseMode, CloseReason};
use crate::mailbox::Mailbox;
use crate::protocol::push::{self, FRAME_HEADER, Kind, PUBLISH_PATH};
use crate::protocol::websocket::CloseCode;
use crate::stats::{Counters, Spoken};
use crate::token::ConnId;

/// What a shard takes of peers over plain bytes. Over WebSocket [`WebSocketLimits`](super::websocket::WebSocketLimits) sets
/// that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct PushLimits {
    /// Bytes of a frame's payload at most; 64 KiB by default.
    pub longest_frame: usize,
    /// Bytes of all frames of a shard together that are incomplete; 64 MiB by default. At most 65,536 are incomplete at
    /// once, whatever their size. The connection whose frame would need more is closed.
    pub incomplete: usize,
    /// How long a frame may take from the receive that began it to the one that completes it; 60 s by default. Beyond
    /// it the connection is closed. While bytes wait for the peer to read, nothing is received from it and the time
    /// stands still; afterwards the frame has its whole time again.
    pub frame_time: Duration,
}

impl Default for PushLimits {
    fn default() -> PushLimits {
        PushLimits { longest_frame: 64 * 1024, incomplete: 64 << 20, frame_time: Duration::from_secs(60) }
    }
}

/// Sends what publishers say to all subscribers of all shards: as a [`Service`] of frames over plain bytes, and as a
/// [`WebSocketService`]. docs/guide/services.md describes what both say.
///
/// A publisher without receipts for 4,096 publications, or for 16 MiB, is closed when it publishes more (1013 over
/// WebSocket); so it is while the publishers of its shard await 65,536 receipts or those for 64 MiB. All POSTs of a
/// shard count as one publisher, and a POST beyond that is answered with 503.
pub struct Push {
    board: Board,
    limits: PushLimits,
    /// Frames over plain bytes of which a part has come.
    parts: Slab<Part>,
    /// What goes back to the connection whose bytes are handled.
    out: Vec<u8>,
}

/// What has come of a frame.
#[derive(Debug, Default)]
struct Part(Vec<u8>);

impl Holds for Part {
    fn bytes(&self) -> usize {
        self.0.capacity()
    }
}

impl Shard for Ctx<'_, u32> {
    fn view(&self) -> ShardView {
        ShardView { shard: self.shard(), shards: self.shards(), is_divided: self.is_divided() }
    }

    fn counters(&self) -> &Counters {
        Ctx::counters(self)
    }

    fn spread(&mut self, bytes: Arc<[u8]>, to: &Members) -> bool {
        self.broadcast(Broadcast::to_members(bytes, to)).is_ok()
    }
}

impl Shard for WebSocketCtx<'_, ()> {
    fn view(&self) -> ShardView {
        ShardView { shard: self.shard(), shards: self.shards(), is_divided: self.is_divided() }
    }

    fn counters(&self) -> &Counters {
        WebSocketCtx::counters(self)
    }

    fn spread(&mut self, bytes: Arc<[u8]>, to: &Members) -> bool {
        self.broadcast(Broadcast::to_members(bytes, to)).is_ok()
    }
}

impl Push {
    /// A shard's part of the broadcaster, with the default limits.
    pub fn new(mailbox: Mailbox<PushMessage>) -> Push {
        Push::with(mailbox, PushLimits::default())
    }

    /// A shard's part of the broadcaster, within these limits.
    pub fn with(mailbox: Mailbox<PushMessage>, limits: PushLimits) -> Push {
        Push { board: Board::new(mailbox), limits, parts: Slab::new(limits.incomplete), out: Vec::new() }
    }

    /// Carries out one frame over plain bytes. `false` if the connection is to be closed.
    fn frame(&mut self, ctx: &mut Ctx<'_, u32>, conn: ConnId, kind: Kind, frame: &[u8]) -> bool {
        match kind {
            Kind::Subscribe => {
                self.board.subscribe(conn);
                push::Frame::append(Kind::Subscribe, &[], &mut self.out);
            }
            Kind::Publish => {
                self.board.register(conn);
                return self.board.publish(ctx, Some(conn), frame.into());
            }
            Kind::Echo => self.out.extend_from_slice(frame),
            Kind::Receipt => return false,
        }
        true
    }

    /// Carries out the whole frames at the beginning of `bytes`. Returns how many bytes they have, or `None` if the
    /// connection is to be closed.
    fn frames(&mut self, ctx: &mut Ctx<'_, u32>, conn: ConnId, bytes: &[u8]) -> Option<usize> {
        let mut at = 0;
        while let Some(push::Frame { kind, length }) = push::Frame::read(&bytes[at..]).ok()? {
            if length > self.limits.longest_frame {
                return None;
            }
            let Some(frame) = bytes.get(at..at + FRAME_HEADER + length) else { break };
            if !self.frame(ctx, conn, kind, frame) {
                return None;
            }
            at += frame.len();
        }
        Some(at)
    }

    /// Closes a connection for what its peer has sent. The answers to what came before go first.
    fn refuse(&mut self, ctx: &mut Ctx<'_, u32>, key: Option<u32>, conn: ConnId) -> Reply {
        Ctx::counters(ctx).frames_refused.add(1);
        self.parts.free(key);
        if let Some(state) = ctx.state(conn) {
            *state = 0;
        }
        // A peer that does not read them must not wait for ever.
        ctx.set_deadline(conn, Some(LAST_WORD));
        ctx.send(conn, &self.out);
        ctx.close(conn, CloseMode::Lingering);
        Reply::Nothing
    }
}

impl Service for Push {
    /// The key of the frame of which a part has come, counted from 1.
    type State = u32;
    type Message = PushMessage;

    const SPOKEN: Spoken = Spoken { http: false, websocket: false, push: true };
    const NAME: &'static str = "push";

    fn longest_send(&self) -> usize {
        self.limits.longest_frame.saturating_add(FRAME_HEADER)
    }

    fn received(&mut self, ctx: &mut Ctx<'_, u32>, conn: ConnId, data: &mut [u8]) -> Reply {
        let Some(state) = ctx.state(conn) else { return Reply::Nothing };
        let key = state.checked_sub(1);
        self.out.clear();
        let mut part = self.parts.take(key).0;
        let had = !part.is_empty();
        if had {
            part.extend_from_slice(data);
        }
        let bytes: &[u8] = if had { &part } else { data };
        let Some(used) = self.frames(ctx, conn, bytes) else { return self.refuse(ctx, key, conn) };
        let kept = if used == bytes.len() {
            self.parts.free(key);
            0
        } else {
            if had {
                part.drain(..used);
            } else {
                part.extend_from_slice(&data[used..]);
            }
            match self.parts.put(key, Part(part)) {
                Ok(key) => key + 1,
                Err(_) => return self.refuse(ctx, None, conn),
            }
        };
        if let Some(state) = ctx.state(conn) {
            *state = kept;
        }
        match (had, kept != 0) {
            (true, false) => ctx.set_deadline(conn, None),
            // It has begun in this receive.
            (_, true) if !had || used > 0 => ctx.set_deadline(conn, Some(self.limits.frame_time)),
            _ => {}
        }
        super::http::reply(ctx, conn, data, &self.out)
    }

    fn message(&mut self, ctx: &mut Ctx<'_, u32>, message: PushMessage) {
        for (conn, receipt) in self.board.hear(ctx, message) {
            let mut frame = Vec::new();
            push::Frame::append(Kind::Receipt, receipt.to_string().as_bytes(), &mut frame);
            ctx.send(conn, &frame);
        }
    }

    /// The peer has read what waited for it. The rest of a frame was not received meanwhile.
    fn sent(&mut self, ctx: &mut Ctx<'_, u32>, conn: ConnId) {
        if ctx.state(conn).is_some_and(|state| *state != 0) {
            ctx.set_deadline(conn, Some(self.limits.frame_time));
        }
    }

    /// A frame was not whole in time, or a peer that was refused does not read.
    fn expired(&mut self, ctx: &mut Ctx<'_, u32>, conn: ConnId) {
        let is_late = ctx.state(conn).is_some_and(|state| *state != 0);
        if is_late && ctx.pending(conn) > 0 {
            // Nothing is received until the peer has read that. `sent` follows then.
            return;
        }
        Ctx::counters(ctx).frames_refused.add(is_late.into());
        let mode = ctx.late_close_mode(conn, CloseMode::Lingering);
        ctx.close(conn, mode);
    }

    fn closed(&mut self, ctx: &mut Ctx<'_, u32>, conn: ConnId, _: CloseReason) {
        self.board.closed(conn);
        let key = ctx.state(conn).and_then(|state| state.checked_sub(1));
        self.parts.free(key);
    }

    fn may_divide(&mut self, ctx: &mut Ctx<'_, u32>) -> bool {
        self.board.may_divide(ctx.view())
    }

    fn united(&mut self, ctx: &mut Ctx<'_, u32>) {
        for message in self.board.united(ctx) {
            Service::message(self, ctx, message);
        }
    }

    /// What the connection is here, and then what has come of a frame.
    fn hand_over(&mut self, ctx: &mut Ctx<'_, u32>, conn: ConnId, state: &mut Vec<u8>) {
        self.board.depart(conn).write(state);
        let key = ctx.state(conn).and_then(|state| std::mem::take(state).checked_sub(1));
        state.extend(self.parts.take(key).0);
        self.parts.free(key);
    }

    fn taken_over(&mut self, ctx: &mut Ctx<'_, u32>, conn: ConnId, state: &[u8]) {
        let Some((handover, frame)) = Handover::read(state) else { return ctx.close(conn, CloseMode::Abort) };
        self.board.arrive(conn, handover);
        if frame.is_empty() {
            return;
        }
        match (self.parts.put(None, Part(frame.to_vec())), ctx.state(conn)) {
            (Ok(key), Some(state)) => *state = key + 1,
            _ => ctx.close(conn, CloseMode::Abort),
        }
    }

    fn hand_over_shard(&mut self, _: &mut Ctx<'_, u32>, state: &mut Vec<u8>) {
        self.board.depart_last().write(state);
    }

    fn taken_over_shard(&mut self, _: &mut Ctx<'_, u32>, state: &[u8]) {
        if let Some((handover, _)) = Handover::read(state) {
            self.board.arrive_last(handover);
        }
    }
}

impl Push {
    /// Takes a message over WebSocket: a publication, if its connection is a publisher's. What subscribers say is passed
    /// over.
    fn said(&mut self, ctx: &mut WebSocketCtx<'_, ()>, conn: ConnId, frame: impl FnOnce() -> Frame) -> Answer {
        if !self.board.is_publisher(conn) {
            return Answer::Nothing;
        }
        match self.board.publish(ctx, Some(conn), frame().into()) {
            true => Answer::Nothing,
            false => Answer::Close(CloseCode::TRY_AGAIN),
        }
    }
}

impl WebSocketService for Push {
    type State = ();
    type Message = PushMessage;

    const PUSHES: bool = true;
    const NAME: &'static str = "push";

    fn opened(&mut self, _: &mut WebSocketCtx<'_, ()>, conn: ConnId, request: &Request<'_>) {
        if request.path() == PUBLISH_PATH { self.board.register(conn) } else { self.board.subscribe(conn) }
    }

    fn text(&mut self, ctx: &mut WebSocketCtx<'_, ()>, conn: ConnId, text: &str) -> Answer {
        self.said(ctx, conn, || Frame::text(text))
    }

    fn binary(&mut self, ctx: &mut WebSocketCtx<'_, ()>, conn: ConnId, bytes: &mut [u8]) -> Answer {
        self.said(ctx, conn, || Frame::binary(bytes))
    }

    /// A publication can be posted too. There is no receipt for it, and its connection does not become a publisher's.
    fn request<'r>(&mut self, ctx: &mut WebSocketCtx<'_, ()>, _: ConnId, request: &'r Request<'r>) -> Response<'r> {
        if request.path() != PUBLISH_PATH {
            return Response::text(404, "subscribe by WebSocket, or POST to /publish\n");
        }
        if request.method() != "POST" {
            return Response::text(405, "a publication is posted\n").field("Allow", "POST");
        }
        let frame = match std::str::from_utf8(request.body()) {
            Ok(text) => Frame::text(text),
            Err(_) => Frame::binary(request.body()),
        };
        match self.board.publish(ctx, None, frame.into()) {
            true => Response::text(202, "taken\n"),
            false => Response::text(503, "too many publications are under way\n"),
        }
    }

    fn message(&mut self, ctx: &mut WebSocketCtx<'_, ()>, message: PushMessage) {
        for (conn, receipt) in self.board.hear(ctx, message) {
            ctx.send_text(conn, &receipt.to_string());
        }
    }

    fn closed(&mut self, _: &mut WebSocketCtx<'_, ()>, conn: ConnId, _: Ending<'_>) {
        self.board.closed(conn);
    }

    fn may_divide(&mut self, ctx: &mut WebSocketCtx<'_, ()>) -> bool {
        self.board.may_divide(ctx.view())
    }

    fn united(&mut self, ctx: &mut WebSocketCtx<'_, ()>) {
        for message in self.board.united(ctx) {
            WebSocketService::message(self, ctx, message);
        }
    }

    fn hand_over(&mut self, _: &mut WebSocketCtx<'_, ()>, conn: ConnId, state: &mut Vec<u8>) {
        self.board.depart(conn).write(state);
    }

    fn taken_over(&mut self, ctx: &mut WebSocketCtx<'_, ()>, conn: ConnId, state: &[u8]) {
        match Handover::read(state) {
            Some((handover, [])) => self.board.arrive(conn, handover),
            _ => ctx.abort(conn),
        }
    }

    fn hand_over_shard(&mut self, _: &mut WebSocketCtx<'_, ()>, state: &mut Vec<u8>) {
        self.board.depart_last().write(state);
    }

    fn taken_over_shard(&mut self, _: &mut WebSocketCtx<'_, ()>, state: &[u8]) {
        if let Some((handover, _)) = Handover::read(state) {
            self.board.arrive_last(handover);
        }
    }
}
