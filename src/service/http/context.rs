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
}

impl<'a, S: Default> HttpCtx<'a, S> {
    pub(super) fn new(ctx: Ctx<'a, Conversation<S>>, answered: &'a mut Vec<ConnId>) -> HttpCtx<'a, S> {
        HttpCtx { ctx, answered }
    }

    /// What [`HttpService::request`](super::HttpService::request) returns if the answer comes later, as of a long poll:
    /// [`answer`](HttpCtx::answer) gives it then. If it has not come `within` this time,
    /// [`HttpService::expired`](super::HttpService::expired) is asked for one.
    ///
    /// A connection that waits takes no more memory than an idle one, and may sleep. What it asks meanwhile waits for the
    /// answer; there may be as much of it as one request may have, and beyond that the connection is closed. With HTTP/1.0
    /// the answer is the connection's last.
    pub fn later(&self, within: Option<Duration>) -> Response<'static> {
        Response::later(within)
    }

    /// Answers the request of a connection that waits. `false` if it waits for none: it is gone, or was answered.
    pub fn answer(&mut self, conn: ConnId, response: Response<'_>) -> bool {
        let Some(row) = self.ctx.state(conn) else { return false };
        let (Some(asked), None) = (row.awaited(), response.comes_later()) else { return false };
        row.set_awaited(None);
        let closes = asked.closes || self.ctx.is_stopping();
        let mut bytes = Vec::new();
        response.write(asked.head_only, closes.then_some("close"), &mut bytes);
        self.ctx.send(conn, &bytes);
        if closes {
            if let Some(row) = self.ctx.state(conn) {
                row.enter(Phase::Over);
            }
            self.ctx.set_deadline(conn, Some(LAST_WORD));
            self.ctx.close(conn, CloseMode::Graceful);
        } else {
            self.answered.push(conn);
        }
        true
    }

    /// Whether a connection waits for an answer.
    pub fn is_waiting(&mut self, conn: ConnId) -> bool {
        self.ctx.state(conn).is_some_and(|row| row.awaited().is_some())
    }

    /// Closes a connection, as [`Ctx::close`].
    pub fn close(&mut self, conn: ConnId, mode: CloseMode) {
        self.ctx.close(conn, mode);
    }
}

shared_calls!(HttpCtx);
