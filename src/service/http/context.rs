//! What a service of HTTP requests is given in each call.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::connections::CloseMode;
use crate::service::conversation::Conversation;
use crate::service::shared_calls::shared_calls;
use crate::service::{CounterId, Ctx};
use crate::token::ConnId;

/// The shard as a service of HTTP requests sees it in one call. It is a [`Ctx`] that sends nothing but answers.
pub struct HttpCtx<'a, S> {
    ctx: Ctx<'a, Conversation<S>>,
}

impl<'a, S: Default> HttpCtx<'a, S> {
    pub(super) fn new(ctx: Ctx<'a, Conversation<S>>) -> HttpCtx<'a, S> {
        HttpCtx { ctx }
    }

    /// Closes a connection, as [`Ctx::close`].
    pub fn close(&mut self, conn: ConnId, mode: CloseMode) {
        self.ctx.close(conn, mode);
    }
}

shared_calls!(HttpCtx);
