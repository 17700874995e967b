//! The wrapper itself: requests until the upgrade, then frames.

use std::borrow::Cow;
use std::time::Duration;

use super::context::{Present, WebSocketCtx, append_frame};
use super::hold::hold;
use super::{
    Answer, Close, CloseCode, Ending, Fault, Upgrade, Violation, WebSocketLimits, WebSocketService, upgrade_required,
};
use crate::connections::{CloseMode, CloseReason};
use crate::protocol::websocket::{Assembly, Event, Opcode, Refusal, Role, Rules, check_request, text, write_accept};
use crate::service::conversation::{Carried, Conversation, Phase};
use crate::service::http::{self, After, Exchange, LAST_WORD, Request, Requests, Response};
use crate::service::slab::{Holds, NoRoom, Slab};
use crate::service::{Ctx, Reply, Service};
use crate::stats::Spoken;
use crate::token::ConnId;

impl Holds for Assembly {
    fn bytes(&self) -> usize {
        Assembly::bytes(self)
    }
}

/// A [`Service`] that speaks WebSocket as `S` says.
///
/// An idle connection takes 4 bytes beside its state, and 4 more for its deadline. Of a message that does not come in one
/// piece, what has come is kept in a bounded table. No extension is spoken, so nothing is compressed.
pub struct WebSocket<S: WebSocketService> {
    service: S,
    rules: Rules,
    requests: Requests,
    assemblies: Slab<Assembly>,
    pen: Pen,
}

/// Where frames are written.
struct Pen {
    /// What goes to the connection whose bytes are handled.
    out: Vec<u8>,
    /// What goes to others.
    scratch: Vec<u8>,
    limits: WebSocketLimits,
}

impl Pen {
    /// Where the next answer is written, behind those that are held in the receive buffer.
    fn out(&mut self, held: &[u8]) -> &mut Vec<u8> {
        if self.out.is_empty() {
            self.out.extend_from_slice(held);
        }
        &mut self.out
    }

    /// The context of a call that handles bytes of `conn`; `held` of them are answers already. An earlier call may have moved
    /// those to `out`.
    fn present<'a, S: Default>(
        &'a mut self,
        ctx: &'a mut Ctx<'_, Conversation<S>>,
        conn: ConnId,
        held: &'a [u8],
    ) -> WebSocketCtx<'a, S> {
        let held = if self.out.is_empty() { held } else { &[] };
        let present = Some(Present { conn, held, out: &mut self.out });
        WebSocketCtx { ctx: ctx.again(), present, scratch: &mut self.scratch, limits: &self.limits }
    }

    /// The context of any other call.
    fn absent<'a, S: Default>(&'a mut self, ctx: &'a mut Ctx<'_, Conversation<S>>) -> WebSocketCtx<'a, S> {
        WebSocketCtx { ctx: ctx.again(), present: None, scratch: &mut self.scratch, limits: &self.limits }
    }
}

/// The context that a service within is called with.
type Outer<'a, S> = Ctx<'a, Conversation<<S as WebSocketService>::State>>;

/// What is incomplete at the end of a receive.
struct Kept {
    /// The key that it had before.
    key: Option<u32>,
    assembly: Assembly,
    /// Whether it has begun in this receive.
    new: bool,
}

/// What follows one message or control frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    /// Nothing.
    Nothing,
    /// Its payload goes back, as a frame of this kind.
    Back(Opcode),
    /// Nothing more is said on the connection. It is closed in this way.
    Ends(CloseMode),
}

impl<S: WebSocketService> WebSocket<S> {
    /// Speaks as `service` says, with the default limits.
    pub fn new(service: S) -> WebSocket<S> {
        WebSocket::with(service, WebSocketLimits::default())
    }

    /// Speaks as `service` says, within these limits.
    pub fn with(service: S, limits: WebSocketLimits) -> WebSocket<S> {
        WebSocket {
            service,
            rules: Rules { from: Role::Client, longest: limits.longest_message },
            requests: Requests::new(limits.http.longest_body, limits.http.incomplete),
            assemblies: Slab::new(limits.incomplete),
            pen: Pen { out: Vec::new(), scratch: Vec::new(), limits },
        }
    }

    /// Answers the requests in `data`. `Some` if nothing but requests came, with what to do.
    fn requests(&mut self, ctx: &mut Outer<'_, S>, conn: ConnId, data: &mut [u8], at: &mut usize) -> Option<Reply> {
        let mut key = ctx.state(conn).and_then(|row| row.key());
        let WebSocket { service, requests, pen, .. } = self;
        let mut out = std::mem::take(&mut pen.out);
        let unsent = ctx.unsent(conn);
        let mut exchange = Exchange { requests: &mut *requests, key: &mut key, data, at: 0, unsent, out: &mut out };
        let after = http::serve(&mut exchange, ctx, |ctx, request, out| {
            std::mem::swap(out, &mut pen.out);
            let after = answer(service, pen, ctx, conn, request);
            std::mem::swap(out, &mut pen.out);
            // The service may have aborted it in the call.
            if ctx.is_open(conn) { after } else { After::Ends(CloseMode::Abort) }
        });
        *at = exchange.at;
        pen.out = out;
        let row = ctx.state(conn)?;
        row.set_key(key);
        match after {
            // The service has aborted it: `closed` follows.
            After::Ends(CloseMode::Abort) => return Some(Reply::Nothing),
            After::Awaits { new: true } => ctx.set_deadline(conn, Some(pen.limits.http.request_time)),
            After::Awaits { new: false } => {}
            // This wrapper's services answer at once.
            After::GoesOn | After::Later => ctx.set_deadline(conn, pen.limits.http.kept_time),
            After::Leaves => return None,
            After::Full => {
                row.set_full(true);
                let fits = http::keep(requests, ctx, conn, &data[*at..], &pen.limits.http);
                ctx.send(conn, &pen.out);
                if fits {
                    ctx.set_deadline(conn, Some(pen.limits.http.request_time));
                    ctx.pause_until_sent(conn);
                } else {
                    ctx.close(conn, CloseMode::Lingering);
                }
                return Some(Reply::Nothing);
            }
            After::Ends(_) => {
                row.enter(Phase::Over);
                ctx.set_deadline(conn, Some(pen.limits.http.request_time));
                ctx.send(conn, &pen.out);
                http::close_after(ctx, conn, after);
                return Some(Reply::Nothing);
            }
        }
        Some(http::reply(ctx, conn, data, &pen.out))
    }

    /// Answers the requests that have waited until the answers before them were sent.
    fn go_on(&mut self, ctx: &mut Outer<'_, S>, conn: ConnId) {
        let Some(row) = ctx.state(conn) else { return };
        let mut bytes = http::take_kept(&mut self.requests, row);
        ctx.set_deadline(conn, self.pen.limits.http.kept_time);
        if let Reply::Back(range) = self.received(ctx, conn, &mut bytes) {
            ctx.send(conn, &bytes[range]);
        }
        if ctx.state(conn).is_some_and(|row| row.phase() == Phase::Http && !row.is_full()) {
            ctx.resume_reads(conn);
        }
    }

    /// Handles the frames in `data`, from `at` on.
    fn frames(&mut self, ctx: &mut Outer<'_, S>, conn: ConnId, data: &mut [u8], mut at: usize) -> Reply {
        let key = ctx.state(conn).and_then(|row| row.key());
        let mut assembly = self.assemblies.take(key);
        // Whether what stays incomplete has begun in this receive.
        let mut new = key.is_none();
        // Answers that lie in `data`, ready to go out.
        let mut held = 0..0;
        let ends = loop {
            let next = match assembly.next(self.rules, data, &mut at) {
                Ok(None) => break None,
                Err(violation) => self.fail(ctx, conn, Fault::Violation(violation), &data[held.clone()]),
                Ok(Some(Event::Assembled(opcode))) => {
                    let payload = assembly.payload(opcode);
                    let next = self.heard(ctx, conn, opcode, payload, &data[held.clone()]);
                    if let Next::Back(opcode) = next {
                        append_frame(opcode, assembly.payload(opcode), self.pen.out(&data[held.clone()]));
                    }
                    next
                }
                Ok(Some(Event::Here(opcode, range))) => {
                    let (before, payload) = data[..range.end].split_at_mut(range.start);
                    let next = self.heard(ctx, conn, opcode, payload, &before[held.clone()]);
                    if let Next::Back(opcode) = next
                        && !(self.pen.out.is_empty() && hold(data, &mut held, opcode, range.clone()))
                    {
                        append_frame(opcode, &data[range], self.pen.out(&data[held.clone()]));
                    }
                    next
                }
            };
            if !self.pen.out.is_empty() {
                // They went before what was written there.
                held = 0..0;
            }
            if let Next::Ends(mode) = next {
                break Some(mode);
            }
            if !ctx.is_open(conn) {
                // The service has aborted it. `closed` frees its key.
                return Reply::Nothing;
            }
            new |= assembly.is_idle();
        };
        let ends = ends.or_else(|| self.keep(ctx, conn, Kept { key, assembly, new }, &data[held.clone()]));
        if let Some(mode) = ends {
            self.end(ctx, conn, key, mode);
            return Reply::Nothing;
        }
        if self.pen.out.is_empty() && !held.is_empty() {
            return Reply::Back(held);
        }
        http::reply(ctx, conn, data, &self.pen.out)
    }

    /// Hands on what came whole.
    fn heard(&mut self, ctx: &mut Outer<'_, S>, conn: ConnId, opcode: Opcode, payload: &mut [u8], held: &[u8]) -> Next {
        let Some(phase) = ctx.state(conn).map(|row| row.phase()) else { return Next::Nothing };
        if opcode == Opcode::Close {
            return self.peer_closed(ctx, conn, phase, payload, held);
        }
        if phase != Phase::Open {
            // What a peer sends after a close is dropped.
            return Next::Nothing;
        }
        let WebSocket { service, pen, .. } = self;
        let answer = match opcode {
            Opcode::Ping => return Next::Back(Opcode::Pong),
            Opcode::Text => {
                let Ok(text) = text(payload) else {
                    return self.fail(ctx, conn, Fault::Violation(Violation::NotUtf8), held);
                };
                ctx.counters().messages_whole.add(1);
                service.text(&mut pen.present(ctx, conn, held), conn, text)
            }
            Opcode::Binary => {
                ctx.counters().messages_whole.add(1);
                service.binary(&mut pen.present(ctx, conn, held), conn, payload)
            }
            Opcode::Pong | Opcode::Continuation | Opcode::Close => {
                service.pong(&mut pen.present(ctx, conn, held), conn, payload);
                Answer::Nothing
            }
        };
        match answer {
            // The service may have closed it in the call.
            Answer::Back if ctx.state(conn).is_some_and(|row| row.is_open()) => Next::Back(opcode),
            Answer::Nothing | Answer::Back => Next::Nothing,
            Answer::Close(code) => {
                pen.present(ctx, conn, held).close(conn, code, "");
                Next::Nothing
            }
        }
    }

    /// The peer sent a close: answers it, or takes it as the answer to ours.
    fn peer_closed(&mut self, ctx: &mut Outer<'_, S>, conn: ConnId, phase: Phase, payload: &[u8], held: &[u8]) -> Next {
        let ending = match Close::read(payload) {
            _ if phase == Phase::Closing => Ending::Local { answered: true },
            Err(violation) => return self.fail(ctx, conn, Fault::Violation(violation), held),
            Ok(close) => {
                let mut answer = Vec::new();
                Close { reason: "", ..close }.append(&mut answer);
                append_frame(Opcode::Close, &answer, self.pen.out(held));
                Ending::Peer(close)
            }
        };
        self.over(ctx, conn, ending);
        // Its peer sends nothing behind a close.
        Next::Ends(CloseMode::Graceful)
    }

    /// Closes a connection for a fault of its peer, unless it is being closed.
    fn fail(&mut self, ctx: &mut Outer<'_, S>, conn: ConnId, fault: Fault, held: &[u8]) -> Next {
        fault.count(ctx.counters());
        if ctx.state(conn).is_some_and(|row| row.is_open()) {
            let mut payload = Vec::new();
            Close { code: Some(fault.code()), reason: &fault.reason() }.append(&mut payload);
            append_frame(Opcode::Close, &payload, self.pen.out(held));
        }
        self.over(ctx, conn, Ending::Failed(fault));
        Next::Ends(CloseMode::Lingering)
    }

    /// Nothing more is said on a connection: tells the service.
    fn over(&mut self, ctx: &mut Outer<'_, S>, conn: ConnId, ending: Ending<'_>) {
        if let Some(row) = ctx.state(conn) {
            row.enter(Phase::Over);
        }
        self.service.closed(&mut self.pen.absent(ctx), conn, ending);
    }

    /// Keeps what is incomplete, and watches how long it takes. If there is no room for it, returns how the connection
    /// is to be closed.
    fn keep(&mut self, ctx: &mut Outer<'_, S>, conn: ConnId, kept: Kept, held: &[u8]) -> Option<CloseMode> {
        let Kept { key, assembly, new } = kept;
        let kept = if assembly.is_idle() {
            self.assemblies.free(key);
            None
        } else {
            match self.assemblies.put(key, assembly) {
                Ok(key) => Some(key),
                Err(NoRoom) => {
                    if let Some(row) = ctx.state(conn) {
                        row.set_key(None);
                    }
                    self.fail(ctx, conn, Fault::NoRoom, held);
                    return Some(CloseMode::Lingering);
                }
            }
        };
        let row = ctx.state(conn)?;
        row.set_key(kept);
        if !row.is_open() {
            return None;
        }
        match (kept.is_some(), row.is_timed()) {
            (false, true) => {
                row.set_timed(false);
                ctx.set_deadline(conn, None);
            }
            (true, true) if new => ctx.set_deadline(conn, Some(self.pen.limits.message_time)),
            (true, false) => self.pen.absent(ctx).watch(conn),
            _ => {}
        }
        None
    }

    /// Sends the last bytes of a connection that is over, and closes it.
    fn end(&mut self, ctx: &mut Outer<'_, S>, conn: ConnId, key: Option<u32>, mode: CloseMode) {
        if let Some(row) = ctx.state(conn).filter(|row| row.key().is_some()) {
            row.set_key(None);
            self.assemblies.free(key);
        }
        ctx.set_deadline(conn, Some(self.pen.limits.close_time));
        ctx.send(conn, &self.pen.out);
        ctx.close(conn, mode);
    }
}

/// Answers one request: an upgrade, or any other.
fn answer<S: WebSocketService>(
    service: &mut S,
    pen: &mut Pen,
    ctx: &mut Outer<'_, S>,
    conn: ConnId,
    request: &Request<'_>,
) -> After {
    let response = match check_request(&request.head) {
        Ok(key) => match service.upgrade(&mut pen.absent(ctx), conn, request) {
            Upgrade::Accept(subprotocol) => {
                let offered = |chosen: &Cow<'_, str>| request.subprotocols().any(|offer| offer == chosen.as_bytes());
                write_accept(key.accept(), subprotocol.filter(offered).as_deref(), &mut pen.out);
                if let Some(row) = ctx.state(conn) {
                    row.enter(Phase::Open);
                }
                ctx.set_deadline(conn, None);
                // They may be paused for the answers before. From here on the service pauses them.
                ctx.resume_reads(conn);
                ctx.counters().upgrades.add(1);
                service.opened(&mut pen.present(ctx, conn, &[]), conn, request);
                return After::Leaves;
            }
            Upgrade::Refuse(response) => response,
        },
        Err(Refusal::NoUpgrade) => match http::health(request, ctx.is_stopping()) {
            Some(health) => health,
            None => service.request(&mut pen.absent(ctx), conn, request),
        },
        Err(Refusal::Version) => {
            upgrade_required(format!("{}\n", Refusal::Version)).field("Sec-WebSocket-Version", "13")
        }
        Err(refusal) => Response::text(400, format!("{refusal}\n")),
    };
    let closes = !request.head.keeps_alive;
    response.write(request.method() == "HEAD", request.head.connection(), &mut pen.out);
    if closes { After::Ends(CloseMode::Graceful) } else { After::GoesOn }
}

impl<S: WebSocketService> Service for WebSocket<S> {
    type State = Conversation<S::State>;
    type Message = S::Message;

    const SPOKEN: Spoken = Spoken { http: true, websocket: true, push: S::PUSHES };
    const NAME: &'static str = S::NAME;

    fn longest_send(&self) -> usize {
        let WebSocketLimits { longest_message, http, .. } = self.pen.limits;
        http::longest_send(longest_message.max(http.longest_body))
    }

    fn opened(&mut self, ctx: &mut Ctx<'_, Self::State>, conn: ConnId) {
        ctx.set_deadline(conn, Some(self.pen.limits.http.request_time));
        self.service.connected(&mut self.pen.absent(ctx), conn);
    }

    fn received(&mut self, ctx: &mut Ctx<'_, Self::State>, conn: ConnId, data: &mut [u8]) -> Reply {
        let Some((phase, is_full)) = ctx.state(conn).map(|row| (row.phase(), row.is_full())) else {
            return Reply::Nothing;
        };
        self.pen.out.clear();
        let mut at = 0;
        match phase {
            Phase::Over => return Reply::Nothing,
            Phase::Http if is_full => {
                if !http::keep(&mut self.requests, ctx, conn, data, &self.pen.limits.http) {
                    ctx.close(conn, CloseMode::Lingering);
                }
                return Reply::Nothing;
            }
            Phase::Open | Phase::Closing => {}
            Phase::Http => {
                if let Some(reply) = self.requests(ctx, conn, data, &mut at) {
                    return reply;
                }
            }
        }
        self.frames(ctx, conn, data, at)
    }

    fn sent(&mut self, ctx: &mut Ctx<'_, Self::State>, conn: ConnId) {
        let Some(row) = ctx.state(conn) else { return };
        if row.is_open() {
            if row.is_timed() {
                // Nothing was received meanwhile.
                ctx.set_deadline(conn, Some(self.pen.limits.message_time));
            }
            self.service.sent(&mut self.pen.absent(ctx), conn);
        } else if row.is_full() {
            self.go_on(ctx, conn);
        }
    }

    fn expired(&mut self, ctx: &mut Ctx<'_, Self::State>, conn: ConnId) {
        let Some((phase, timed)) = ctx.state(conn).map(|row| (row.phase(), row.is_timed())) else { return };
        match phase {
            Phase::Http | Phase::Over => http::expired(&mut self.requests, ctx, conn),
            Phase::Open if !timed => {
                self.service.expired(&mut self.pen.absent(ctx), conn);
                self.pen.absent(ctx).watch(conn);
            }
            // Nothing is received until the peer has read that. `sent` follows then.
            Phase::Open if ctx.pending(conn) > 0 => {}
            Phase::Open | Phase::Closing => {
                let key = ctx.state(conn).and_then(|row| row.key());
                self.pen.out.clear();
                if phase == Phase::Open {
                    self.fail(ctx, conn, Fault::Late, &[]);
                } else {
                    ctx.counters().closes_unanswered.add(1);
                    self.over(ctx, conn, Ending::Local { answered: false });
                }
                let mode = ctx.late_close_mode(conn, CloseMode::Lingering);
                self.end(ctx, conn, key, mode);
                ctx.set_deadline(conn, Some(LAST_WORD));
            }
        }
    }

    /// The peer is told, unless it sleeps: it would be woken for that.
    fn stopping(&mut self, ctx: &mut Ctx<'_, Self::State>, conn: ConnId) {
        if !ctx.is_asleep(conn) {
            self.pen.absent(ctx).close(conn, CloseCode::GOING_AWAY, "the server stops");
        }
    }

    fn closed(&mut self, ctx: &mut Ctx<'_, Self::State>, conn: ConnId, reason: CloseReason) {
        let Some(row) = ctx.state(conn) else { return };
        let (phase, mut key) = (row.phase(), row.key());
        row.set_key(None);
        match phase {
            Phase::Http => self.requests.free(&mut key),
            Phase::Over => self.assemblies.free(key),
            Phase::Open | Phase::Closing => {
                self.assemblies.free(key);
                let ending = match phase {
                    Phase::Closing if reason != CloseReason::Stopping => Ending::Local { answered: false },
                    _ => Ending::Lost(reason),
                };
                self.over(ctx, conn, ending);
            }
        }
    }

    fn may_divide(&mut self, ctx: &mut Ctx<'_, Self::State>) -> bool {
        self.service.may_divide(&mut self.pen.absent(ctx))
    }

    fn united(&mut self, ctx: &mut Ctx<'_, Self::State>) {
        self.service.united(&mut self.pen.absent(ctx));
    }

    fn hand_over(&mut self, ctx: &mut Ctx<'_, Self::State>, conn: ConnId, state: &mut Vec<u8>) {
        let Some(row) = ctx.state(conn) else { return };
        let kept = match row.phase() {
            Phase::Http => self.requests.carry(row),
            Phase::Open | Phase::Closing | Phase::Over => {
                let key = row.key();
                row.set_key(None);
                let mut kept = Vec::new();
                if key.is_some() {
                    self.assemblies.take(key).write(&mut kept);
                }
                self.assemblies.free(key);
                kept
            }
        };
        let carried = Carried::of(row, &kept);
        carried.write(state);
        if carried.is_open() {
            self.service.hand_over(&mut self.pen.absent(ctx), conn, state);
        }
    }

    fn taken_over(&mut self, ctx: &mut Ctx<'_, Self::State>, conn: ConnId, state: &[u8]) {
        let (Some(carried), Some(row)) = (Carried::read(state), ctx.state(conn)) else {
            return ctx.close(conn, CloseMode::Abort);
        };
        let (requests, assemblies) = (&mut self.requests, &mut self.assemblies);
        let keep = |kept: &[u8]| match carried.speaks_http() {
            true => requests.bring(kept),
            false => assemblies.put(None, Assembly::read(kept)?).ok(),
        };
        if !carried.bring(row, keep) {
            ctx.close(conn, CloseMode::Abort);
        } else if carried.is_open() {
            self.service.taken_over(&mut self.pen.absent(ctx), conn, carried.inner);
        }
    }

    fn hand_over_shard(&mut self, ctx: &mut Ctx<'_, Self::State>, state: &mut Vec<u8>) {
        self.service.hand_over_shard(&mut self.pen.absent(ctx), state);
    }

    fn taken_over_shard(&mut self, ctx: &mut Ctx<'_, Self::State>, state: &[u8]) {
        self.service.taken_over_shard(&mut self.pen.absent(ctx), state);
    }

    fn message(&mut self, ctx: &mut Ctx<'_, Self::State>, message: S::Message) {
        self.service.message(&mut self.pen.absent(ctx), message);
    }

    fn tick(&mut self, ctx: &mut Ctx<'_, Self::State>) {
        self.service.tick(&mut self.pen.absent(ctx));
    }

    fn interval(&self) -> Option<Duration> {
        self.service.interval()
    }
}
