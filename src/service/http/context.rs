//! What a service of HTTP requests is given in each call.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::{LAST_WORD, Response};
use crate::connections::CloseMode;
use crate::service::conversation::{Conversation, Phase};
use crate::service::shared_calls::shared_calls;
use crate::service::{CounterId, Ctx};
use crate::token::ConnId;

/// The shard as a service of HTTP requests sees it in one call. It is a [`Ctx`] that sends nothing but answers.
pub struct HttpCtx<'a, S> {
    ctx: Ctx<'a, Conversation<S>>,
    /// Connections that go on, as what they were waiting for was answered.
    answered: &'a mut Vec<ConnId>,
    asking: Option<&'a mut Asking>,
}

/// A connection whose request is answered by what a call of the service returns.
pub(super) struct Asking {
    conn: ConnId,
    /// How the service has closed the connection within that call: it is carried out behind the answer.
    pub closes: Option<CloseMode>,
}

impl Asking {
    pub fn new(conn: ConnId) -> Asking {
        Asking { conn, closes: None }
    }
}

impl<'a, S: Default> HttpCtx<'a, S> {
    pub(super) fn new(ctx: Ctx<'a, Conversation<S>>, answered: &'a mut Vec<ConnId>) -> HttpCtx<'a, S> {
        HttpCtx { ctx, answered, asking: None }
    }

    /// The same for a call that returns an answer.
    pub(super) fn asking(self, asking: &'a mut Asking) -> HttpCtx<'a, S> {
        HttpCtx { asking: Some(asking), ..self }
    }

    /// What [`HttpService::request`](super::HttpService::request) returns if the answer comes later, as of a long poll:
    /// [`answer`](HttpCtx::answer) gives it then. If it has not come `within` this time,
    /// [`HttpService::expired`](super::HttpService::expired) is asked for one. With `None` it waits without limit.
    ///
    /// A connection that waits takes no more memory than an idle one, and may sleep. What it asks meanwhile waits for the
    /// answer; there may be as much of it as one request may have, and beyond that the connection is closed. With HTTP/1.0
    /// the answer is the connection's last.
    pub fn later(&self, within: Option<Duration>) -> Response<'static> {
        Response::later(within)
    }

    /// Answers the request of a connection that waits. `false` if it waits for none: it is gone, or was answered.
    pub fn answer(&mut self, conn: ConnId, response: Response<'_>) -> bool {
        self.answer_and(conn, response, None)
    }

    /// Answers as `answer` does, and closes the connection if that is wanted.
    pub(super) fn answer_and(&mut self, conn: ConnId, response: Response<'_>, closes: Option<CloseMode>) -> bool {
        let Some(row) = self.ctx.state(conn) else { return false };
        let (Some(asked), None) = (row.awaited(), response.comes_later()) else { return false };
        row.set_awaited(None);
        let ends = asked.closes || self.ctx.is_stopping();
        let closes = closes.or(ends.then_some(CloseMode::Graceful));
        let mut bytes = Vec::new();
        response.write(asked.head_only, closes.map(|_| "close"), &mut bytes);
        self.ctx.send(conn, &bytes);
        match closes {
            Some(mode) => {
                self.ctx.set_deadline(conn, Some(LAST_WORD));
                self.end(conn, mode);
            }
            None => self.answered.push(conn),
        }
        true
    }

    /// As [`Ctx::is_open`].
    pub fn is_open(&mut self, conn: ConnId) -> bool {
        self.ctx.is_open(conn)
    }

    /// Whether a connection waits for an answer.
    pub fn is_waiting(&mut self, conn: ConnId) -> bool {
        self.ctx.state(conn).is_some_and(|row| row.awaited().is_some())
    }

    /// Closes a connection, as [`Ctx::close`]. What it has asked and was not answered is answered no more. Within
    /// [`HttpService::request`](super::HttpService::request) and [`HttpService::expired`](super::HttpService::expired) of the
    /// same connection, the answer that they return goes first.
    pub fn close(&mut self, conn: ConnId, mode: CloseMode) {
        match &mut self.asking {
            Some(asking) if asking.conn == conn => asking.closes = Some(mode),
            _ => self.end(conn, mode),
        }
    }

    /// As [`Ctx::pending`]. An answer that [`HttpService::request`](super::HttpService::request) returned counts only
    /// after the last request of the same receive: answers to requests that came together are sent together.
    pub fn pending(&mut self, conn: ConnId) -> usize {
        self.ctx.pending(conn)
    }

    /// Closes a connection now: nothing more is said on it.
    fn end(&mut self, conn: ConnId, mode: CloseMode) {
        if let Some(row) = self.ctx.state(conn) {
            row.enter(Phase::Over);
        }
        self.ctx.close(conn, mode);
    }
}

shared_calls!(HttpCtx);
