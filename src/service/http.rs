//! `Http<S>`: a service of HTTP/1.1 requests (RFC 9110 and 9112) on connections that are kept.

mod context;
mod date;
mod kept;
mod message;
mod requests;

use std::time::Duration;

use context::Asking;
pub use context::HttpCtx;
use kept::ANSWERS_AT_ONCE;
pub(super) use kept::{After, Exchange, serve};
pub use message::{Request, Response};
pub(super) use requests::Fault;
#[cfg(all(any(test, fuzzing), feature = "cli"))]
pub(crate) use requests::Next;
pub(crate) use requests::Requests;

use super::conversation::{Asked, Carried, Conversation, Phase};
use super::{Ctx, Reply, Service};
use crate::connections::{CloseMode, CloseReason};
use crate::protocol::http::LONGEST_HEAD;
use crate::stats::Spoken;
use crate::token::ConnId;

/// What a server answers to HTTP requests. `Http` makes a `Service` of it.
///
/// Each call runs on its shard's thread, as those of [`Service`] do, and does not wait. An answer may come in a later call.
pub trait HttpService: 'static {
    /// Kept in each connection's row, as [`Service::State`].
    type State: Default + 'static;

    /// What the server's mailbox carries, as [`Service::Message`].
    type Message: Send + 'static;

    /// As in [`Service`].
    #[doc(hidden)]
    const NAME: &'static str = "a service of its own";

    /// A connection was accepted; no request has come yet. With TLS its handshake is over, and [`HttpCtx::tls`] tells here
    /// what it has agreed on.
    fn connected(&mut self, _ctx: &mut HttpCtx<'_, Self::State>, _conn: ConnId) {}

    /// Answers a request, or returns [`HttpCtx::later`]. Requests that cannot be read are answered by c1m. So is every
    /// request for the path `/healthz`: `GET` and `HEAD` with 200, or 503 once the server stops, and other methods with
    /// 405.
    fn request<'r>(
        &mut self,
        ctx: &mut HttpCtx<'_, Self::State>,
        conn: ConnId,
        request: &'r Request<'r>,
    ) -> Response<'r>;

    /// The time of [`HttpCtx::later`] has passed, and no answer was given: this is the answer, or `later` once more. The
    /// default is a 503. A long poll usually answers 204, and is asked again.
    fn expired(&mut self, _ctx: &mut HttpCtx<'_, Self::State>, _conn: ConnId) -> Response<'static> {
        Response::text(503, "there is no answer in time\n")
    }

    /// The connection is gone. Its state can be read for the last time.
    fn closed(&mut self, _ctx: &mut HttpCtx<'_, Self::State>, _conn: ConnId, _reason: CloseReason) {}

    /// A connection goes to another process, as in [`Service::hand_over`](super::Service::hand_over). c1m hands
    /// over what has come of a request.
    fn hand_over(&mut self, _ctx: &mut HttpCtx<'_, Self::State>, _conn: ConnId, _state: &mut Vec<u8>) {}

    /// The same connection in the other process, with what `hand_over` wrote there.
    fn taken_over(&mut self, _ctx: &mut HttpCtx<'_, Self::State>, _conn: ConnId, _state: &[u8]) {}

    /// As [`Service::hand_over_shard`](super::Service::hand_over_shard).
    fn hand_over_shard(&mut self, _ctx: &mut HttpCtx<'_, Self::State>, _state: &mut Vec<u8>) {}

    /// As [`Service::taken_over_shard`](super::Service::taken_over_shard).
    fn taken_over_shard(&mut self, _ctx: &mut HttpCtx<'_, Self::State>, _state: &[u8]) {}

    /// A message came through the mailbox, as in [`Service::message`].
    fn message(&mut self, _ctx: &mut HttpCtx<'_, Self::State>, _message: Self::Message) {}

    /// As [`Service::tick`].
    fn tick(&mut self, _ctx: &mut HttpCtx<'_, Self::State>) {}

    /// As [`Service::interval`].
    fn interval(&self) -> Option<Duration> {
        None
    }
}

/// What a shard takes of requests that are not whole yet. A head has at most 16 KiB and 64 fields; beyond it the answer
/// is 431.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct HttpLimits {
    /// Bytes of a request's body at most; 64 KiB by default. Beyond it the answer is 413, and the connection is closed
    /// ([`CloseMode::Lingering`]).
    pub longest_body: usize,
    /// Bytes of all requests of a shard together that are incomplete; 16 MiB by default. At most 65,536 are incomplete
    /// at once, whatever their size. Beyond it the answer is 503.
    pub incomplete: usize,
    /// How long a request may take from its first byte to its last, and a new connection to its first request; 10 s by
    /// default. Beyond it the answer is 408, or the connection is closed without one if nothing has come. When answers
    /// of 16 KiB wait for a client to read them, its further requests wait too. If the client has not read them within
    /// this time, the connection is reset.
    pub request_time: Duration,
    /// How long a connection is kept after an answer without another request. By default as long as
    /// `ServerBuilder::idle_timeout` allows.
    pub kept_time: Option<Duration>,
}

impl Default for HttpLimits {
    fn default() -> HttpLimits {
        HttpLimits {
            longest_body: 64 * 1024,
            incomplete: 16 << 20,
            request_time: Duration::from_secs(10),
            kept_time: None,
        }
    }
}

/// The path at which every server of HTTP or WebSocket says that it is alive.
const HEALTH: &str = "/healthz";

/// The answer to a request for the server's health: 503 once it stops.
pub(super) fn health(request: &Request<'_>, stopping: bool) -> Option<Response<'static>> {
    (request.path() == HEALTH).then(|| match (request.reads(), stopping) {
        (false, _) => Response::text(405, "the health can only be read\n").field("Allow", "GET, HEAD"),
        (true, true) => Response::text(503, "the server stops\n"),
        (true, false) => Response::text(200, "ok\n"),
    })
}

/// A [`Service`] that answers HTTP requests as `S` says.
///
/// A connection takes 4 bytes beside its state, and 4 more for its deadline. Of a request that does not come in one
/// piece, what has come is kept in a bounded table. Requests may follow each other without waiting for the answers,
/// which keep their order. When the server stops, a connection that waits for an answer is answered with 503 before it
/// is closed, unless it is asleep.
pub struct Http<S: HttpService> {
    service: S,
    limits: HttpLimits,
    requests: Requests,
    /// The answers to what one receive brought.
    out: Vec<u8>,
    /// Connections whose request was answered later than it came: what came meanwhile is their turn.
    answered: Vec<ConnId>,
}

impl<S: HttpService> Http<S> {
    /// Answers as `service` says, with the default limits.
    pub fn new(service: S) -> Http<S> {
        Http::with(service, HttpLimits::default())
    }

    /// Answers as `service` says, within these limits.
    pub fn with(service: S, limits: HttpLimits) -> Http<S> {
        let requests = Requests::new(limits.longest_body, limits.incomplete);
        Http { service, limits, requests, out: Vec::new(), answered: Vec::new() }
    }

    /// Answers the requests in some bytes, into `out`.
    fn take(&mut self, ctx: &mut Ctx<'_, Conversation<S::State>>, conn: ConnId, data: &[u8]) -> After {
        let Http { service, limits, requests, out, answered } = self;
        out.clear();
        let mut key = ctx.state(conn).and_then(|row| row.key());
        let unsent = ctx.unsent(conn);
        let mut exchange = Exchange { requests, key: &mut key, data, at: 0, unsent, out };
        let mut waits = None;
        let after = serve(&mut exchange, ctx, |ctx, request, out| {
            let (head_only, closes) = (request.method() == "HEAD", !request.head.keeps_alive);
            let mut asking = Asking::new(conn);
            let response = health(request, ctx.is_stopping()).unwrap_or_else(|| {
                service.request(&mut HttpCtx::new(ctx.again(), answered).asking(&mut asking), conn, request)
            });
            if let Some(mode) = asking.closes {
                if response.comes_later().is_none() {
                    response.write(head_only, Some("close"), out);
                }
                return After::Ends(mode);
            }
            if let Some(within) = response.comes_later() {
                // The version is not remembered, and a client of HTTP/1.0 must be told if its connection is kept.
                waits = Some((Asked { head_only, closes: closes || request.head.minor == 0 }, within));
                return After::Later;
            }
            response.write(head_only, request.head.connection(), out);
            if closes { After::Ends(CloseMode::Graceful) } else { After::GoesOn }
        });
        let rest = &data[exchange.at..];
        let Some(row) = ctx.state(conn) else { return after };
        row.set_awaited(waits.map(|(asked, _)| asked));
        row.set_full(after == After::Full);
        row.set_key(key);
        match after {
            After::Awaits { new: true } | After::Full => ctx.set_deadline(conn, Some(limits.request_time)),
            After::Awaits { new: false } => {}
            After::GoesOn | After::Leaves => ctx.set_deadline(conn, limits.kept_time),
            After::Later => ctx.set_deadline(conn, waits.and_then(|(_, within)| within)),
            After::Ends(_) => {
                row.enter(Phase::Over);
                ctx.set_deadline(conn, Some(limits.request_time));
            }
        }
        let holds = matches!(after, After::Later | After::Full);
        if holds && !keep(requests, ctx, conn, rest, limits) { After::Ends(CloseMode::Lingering) } else { after }
    }

    /// Sends what `take` has answered, and does what follows it.
    fn say(&mut self, ctx: &mut Ctx<'_, Conversation<S::State>>, conn: ConnId, after: After) {
        if !self.out.is_empty() {
            ctx.send(conn, &self.out);
        }
        match after {
            After::Full => ctx.pause_until_sent(conn),
            After::Ends(mode) => ctx.close(conn, mode),
            After::GoesOn | After::Awaits { .. } | After::Later | After::Leaves => {}
        }
    }

    /// Connections whose turn has come go on with what they have asked meanwhile.
    fn go_on(&mut self, ctx: &mut Ctx<'_, Conversation<S::State>>) {
        while let Some(conn) = self.answered.pop() {
            let is_open = ctx.is_open(conn);
            let goes_on = |row: &&mut Conversation<_>| is_open && row.phase() == Phase::Http && row.awaited().is_none();
            let Some(row) = ctx.state(conn).filter(goes_on) else { continue };
            let bytes = take_kept(&mut self.requests, row);
            ctx.set_deadline(conn, self.limits.kept_time);
            if bytes.is_empty() {
                continue;
            }
            let after = self.take(ctx, conn, &bytes);
            self.say(ctx, conn, after);
            if after != After::Full {
                ctx.resume_reads(conn);
            }
        }
    }
}

impl<S: HttpService> Service for Http<S> {
    type State = Conversation<S::State>;
    type Message = S::Message;

    const SPOKEN: Spoken = Spoken { http: true, websocket: false, push: false };
    const NAME: &'static str = S::NAME;

    fn longest_send(&self) -> usize {
        longest_send(self.limits.longest_body)
    }

    fn opened(&mut self, ctx: &mut Ctx<'_, Self::State>, conn: ConnId) {
        ctx.set_deadline(conn, Some(self.limits.request_time));
        self.service.connected(&mut HttpCtx::new(ctx.again(), &mut self.answered), conn);
        self.go_on(ctx);
    }

    fn received(&mut self, ctx: &mut Ctx<'_, Self::State>, conn: ConnId, data: &mut [u8]) -> Reply {
        let Some(row) = ctx.state(conn) else { return Reply::Nothing };
        if row.holds() {
            if !keep(&mut self.requests, ctx, conn, data, &self.limits) {
                ctx.close(conn, CloseMode::Lingering);
            }
            return Reply::Nothing;
        }
        let after = self.take(ctx, conn, data);
        if !matches!(after, After::Ends(_) | After::Full) && self.answered.is_empty() {
            return reply(ctx, conn, data, &self.out);
        }
        // These go before what the connection is answered when others go on.
        self.say(ctx, conn, after);
        self.go_on(ctx);
        Reply::Nothing
    }

    fn sent(&mut self, ctx: &mut Ctx<'_, Self::State>, conn: ConnId) {
        if ctx.state(conn).is_some_and(|row| row.is_full()) {
            self.answered.push(conn);
            self.go_on(ctx);
        }
    }

    fn expired(&mut self, ctx: &mut Ctx<'_, Self::State>, conn: ConnId) {
        if ctx.state(conn).is_none_or(|row| row.awaited().is_none()) {
            return expired(&mut self.requests, ctx, conn);
        }
        let mut asking = Asking::new(conn);
        let mut asked = HttpCtx::new(ctx.again(), &mut self.answered).asking(&mut asking);
        let response = self.service.expired(&mut asked, conn);
        let (later, closes) = (response.comes_later(), asking.closes);
        let mut own = HttpCtx::new(ctx.again(), &mut self.answered);
        // It may have been answered within the call.
        let answered = own.answer_and(conn, response, closes);
        match (closes, later) {
            (Some(mode), _) if !answered => own.close(conn, mode),
            (None, Some(within)) => ctx.set_deadline(conn, within),
            _ => {}
        }
        self.go_on(ctx);
    }

    fn stopping(&mut self, ctx: &mut Ctx<'_, Self::State>, conn: ConnId) {
        // A sleeping connection would be woken for that.
        if !ctx.is_asleep(conn) {
            HttpCtx::new(ctx.again(), &mut self.answered).answer(conn, Response::text(503, "the server stops\n"));
        }
    }

    fn closed(&mut self, ctx: &mut Ctx<'_, Self::State>, conn: ConnId, reason: CloseReason) {
        if let Some(row) = ctx.state(conn) {
            let mut key = row.key();
            row.set_key(None);
            row.set_awaited(None);
            row.enter(Phase::Over);
            self.requests.free(&mut key);
        }
        self.service.closed(&mut HttpCtx::new(ctx.again(), &mut self.answered), conn, reason);
        self.go_on(ctx);
    }

    fn hand_over(&mut self, ctx: &mut Ctx<'_, Self::State>, conn: ConnId, state: &mut Vec<u8>) {
        let Some(row) = ctx.state(conn) else { return };
        let kept = self.requests.carry(row);
        Carried::of(row, &kept).write(state);
        self.service.hand_over(&mut HttpCtx::new(ctx.again(), &mut self.answered), conn, state);
        self.go_on(ctx);
    }

    fn taken_over(&mut self, ctx: &mut Ctx<'_, Self::State>, conn: ConnId, state: &[u8]) {
        let (Some(carried), Some(row)) = (Carried::read(state), ctx.state(conn)) else {
            return ctx.close(conn, CloseMode::Abort);
        };
        if carried.bring(row, |kept| self.requests.bring(kept)) {
            self.service.taken_over(&mut HttpCtx::new(ctx.again(), &mut self.answered), conn, carried.inner);
            self.go_on(ctx);
        } else {
            ctx.close(conn, CloseMode::Abort);
        }
    }

    fn hand_over_shard(&mut self, ctx: &mut Ctx<'_, Self::State>, state: &mut Vec<u8>) {
        self.service.hand_over_shard(&mut HttpCtx::new(ctx.again(), &mut self.answered), state);
        self.go_on(ctx);
    }

    fn taken_over_shard(&mut self, ctx: &mut Ctx<'_, Self::State>, state: &[u8]) {
        self.service.taken_over_shard(&mut HttpCtx::new(ctx.again(), &mut self.answered), state);
        self.go_on(ctx);
    }

    fn message(&mut self, ctx: &mut Ctx<'_, Self::State>, message: S::Message) {
        self.service.message(&mut HttpCtx::new(ctx.again(), &mut self.answered), message);
        self.go_on(ctx);
    }

    fn tick(&mut self, ctx: &mut Ctx<'_, Self::State>) {
        self.service.tick(&mut HttpCtx::new(ctx.again(), &mut self.answered));
        self.go_on(ctx);
    }

    fn interval(&self) -> Option<Duration> {
        self.service.interval()
    }
}

/// Bytes that are sent at once where an answer has a body of this length: it may come behind many others.
pub(super) fn longest_send(body: usize) -> usize {
    body.saturating_add(ANSWERS_AT_ONCE + LONGEST_HEAD)
}

/// Keeps bytes that came before the turn of what they ask. `false` if they are too many: the connection is over.
pub(super) fn keep<T: Default>(
    requests: &mut Requests,
    ctx: &mut Ctx<'_, Conversation<T>>,
    conn: ConnId,
    data: &[u8],
    limits: &HttpLimits,
) -> bool {
    let Some(row) = ctx.state(conn) else { return true };
    // What follows the last request of a connection means nothing.
    if data.is_empty() || row.awaited().is_some_and(|asked| asked.closes) {
        return true;
    }
    let mut key = row.key();
    let kept = requests.keep(&mut key, data);
    row.set_key(key);
    let Err(fault) = kept else { return true };
    row.enter(Phase::Over);
    fault.count(ctx.counters());
    ctx.set_deadline(conn, Some(limits.request_time));
    false
}

/// Takes what `keep` has kept, as its turn has come.
pub(super) fn take_kept<T>(requests: &mut Requests, row: &mut Conversation<T>) -> Vec<u8> {
    let key = row.key();
    row.set_key(None);
    row.set_full(false);
    requests.taken(key)
}

/// Sends what one receive is answered with: in its own buffer if it fits.
pub(super) fn reply<S: Default>(ctx: &mut Ctx<'_, S>, conn: ConnId, data: &mut [u8], out: &[u8]) -> Reply {
    match data.get_mut(..out.len()) {
        _ if out.is_empty() => Reply::Nothing,
        Some(fits) => {
            fits.copy_from_slice(out);
            Reply::Back(0..out.len())
        }
        None => {
            ctx.send(conn, out);
            Reply::Nothing
        }
    }
}

/// Closes a connection behind an answer that was its last.
pub(super) fn close_after<S: Default>(ctx: &mut Ctx<'_, S>, conn: ConnId, after: After) {
    if let After::Ends(mode) = after {
        ctx.close(conn, mode);
    }
}

/// The deadline of a connection that speaks HTTP, or says nothing more, has passed.
pub(super) fn expired<T: Default>(requests: &mut Requests, ctx: &mut Ctx<'_, Conversation<T>>, conn: ConnId) {
    let Some(row) = ctx.state(conn) else { return };
    let mut key = row.key();
    // Whole requests that wait for their turn are not late.
    let is_late = row.phase() == Phase::Http && key.is_some() && !row.is_full();
    if row.phase() == Phase::Http {
        row.set_key(None);
        requests.free(&mut key);
    }
    row.enter(Phase::Over);
    if is_late {
        Fault::Late.count(ctx.counters());
    }
    let mode = ctx.late_close_mode(conn, if is_late { CloseMode::Lingering } else { CloseMode::Graceful });
    if mode == CloseMode::Lingering {
        let mut answer = Vec::new();
        Fault::Late.response().write(false, Some("close"), &mut answer);
        ctx.send(conn, &answer);
        // A peer that does not read it must not wait for ever.
        ctx.set_deadline(conn, Some(LAST_WORD));
    }
    ctx.close(conn, mode);
}

/// How long a peer has to read the last thing that is said to it.
pub(super) const LAST_WORD: Duration = Duration::from_secs(5);
