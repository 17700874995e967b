//! The smallest services, over each protocol.

use super::http::{HttpCtx, HttpService, Request, Response};
use super::websocket::{Answer, WebSocketCtx, WebSocketService};
use super::{Ctx, Reply, Service};
use crate::token::ConnId;

/// Sends back what came, straight from the receive buffer: bytes, or messages of [`WebSocket`](super::websocket::WebSocket).
///
/// As an [`HttpService`] it answers with the body of the request, or, where that is empty, with its target. A field
/// `X-Token` is sent back too.
#[derive(Debug, Default, Clone, Copy)]
pub struct Echo;

/// The field of a request that `Echo` sends back.
const TOKEN: &str = "X-Token";

impl Service for Echo {
    type State = ();
    type Message = ();

    const NAME: &'static str = "echo";

    fn received(&mut self, _: &mut Ctx<'_, ()>, _: ConnId, data: &mut [u8]) -> Reply {
        Reply::Back(0..data.len())
    }
}

impl WebSocketService for Echo {
    type State = ();
    type Message = ();

    const NAME: &'static str = "echo";

    fn text(&mut self, _: &mut WebSocketCtx<'_, ()>, _: ConnId, _: &str) -> Answer {
        Answer::Back
    }

    fn binary(&mut self, _: &mut WebSocketCtx<'_, ()>, _: ConnId, _: &mut [u8]) -> Answer {
        Answer::Back
    }
}

impl HttpService for Echo {
    type State = ();
    type Message = ();

    const NAME: &'static str = "echo";

    fn request<'r>(&mut self, _: &mut HttpCtx<'_, ()>, _: ConnId, request: &'r Request<'r>) -> Response<'r> {
        let body = if request.body().is_empty() { request.target().as_bytes() } else { request.body() };
        let response = Response::new(200).body(body);
        match request.field(TOKEN) {
            Some(token) => response.field(TOKEN, token),
            None => response,
        }
    }
}

/// Discards what came. The shard counts it.
///
/// As an [`HttpService`] it answers each request with 204.
#[derive(Debug, Default, Clone, Copy)]
pub struct Sink;

impl Service for Sink {
    type State = ();
    type Message = ();

    const NAME: &'static str = "sink";

    fn received(&mut self, _: &mut Ctx<'_, ()>, _: ConnId, _: &mut [u8]) -> Reply {
        Reply::Nothing
    }
}

impl WebSocketService for Sink {
    type State = ();
    type Message = ();

    const NAME: &'static str = "sink";

    fn text(&mut self, _: &mut WebSocketCtx<'_, ()>, _: ConnId, _: &str) -> Answer {
        Answer::Nothing
    }

    fn binary(&mut self, _: &mut WebSocketCtx<'_, ()>, _: ConnId, _: &mut [u8]) -> Answer {
        Answer::Nothing
    }
}

impl HttpService for Sink {
    type State = ();
    type Message = ();

    const NAME: &'static str = "sink";

    fn request<'r>(&mut self, _: &mut HttpCtx<'_, ()>, _: ConnId, _: &'r Request<'r>) -> Response<'r> {
        Response::new(204)
    }
}
