//! `WebSocket<S>`: a service of WebSocket messages (RFC 6455), and of plain HTTP requests on the same ports.

mod context;
mod hold;
mod speaker;

use std::borrow::Cow;
use std::time::Duration;

pub use context::{Frame, WebSocketCtx};
pub use speaker::WebSocket;

use super::http::HttpLimits;
pub use super::http::{Request, Response};
use crate::connections::CloseReason;
pub use crate::protocol::websocket::{Close, CloseCode, Violation};
use crate::stats::Counters;
use crate::token::ConnId;

/// What a server does with WebSocket messages. `WebSocket` makes a `Service` of it.
///
/// Each call runs on its shard's thread, as those of [`Service`](super::Service) do, and must not block.
///
/// The order of calls for one connection: `connected` once, then for each request in turn `upgrade` if it asks for one,
/// or `request`. The first `upgrade` that accepts is followed by `opened` once, then by messages, and by `closed` once.
/// In a takeover `taken_over` stands for `opened`, and `hand_over` for `closed`. A connection that was not `opened`
/// ends without a call: keep nothing of it outside its state.
///
/// When the server stops, each peer whose connection is open for messages and not asleep is sent a close with 1001.
pub trait WebSocketService: 'static {
    /// Kept in each connection's row, as [`Service::State`](super::Service::State).
    type State: Default + 'static;

    /// What the server's mailbox carries, as [`Service::Message`](super::Service::Message).
    type Message: Send + 'static;

    /// Whether it counts publications, for the metrics.
    #[doc(hidden)]
    const PUSHES: bool = false;

    /// As in [`Service`](super::Service).
    #[doc(hidden)]
    const NAME: &'static str = "a service of its own";

    /// A connection was accepted; no request has come yet. With TLS its handshake is over, and [`WebSocketCtx::tls`] tells
    /// here what it has agreed on.
    fn connected(&mut self, _ctx: &mut WebSocketCtx<'_, Self::State>, _conn: ConnId) {}

    /// A client asks for an upgrade, by a request that is right. The default accepts it without a subprotocol. Browsers
    /// send the page's origin in the field `Origin`: where pages of others must not connect, check it here.
    fn upgrade(&mut self, _ctx: &mut WebSocketCtx<'_, Self::State>, _conn: ConnId, _request: &Request<'_>) -> Upgrade {
        Upgrade::accept()
    }

    /// The connection is open for messages.
    fn opened(&mut self, _ctx: &mut WebSocketCtx<'_, Self::State>, _conn: ConnId, _request: &Request<'_>) {}

    /// A text came.
    fn text(&mut self, ctx: &mut WebSocketCtx<'_, Self::State>, conn: ConnId, text: &str) -> Answer;

    /// A binary message came. It may be changed in place before it is sent back.
    fn binary(&mut self, ctx: &mut WebSocketCtx<'_, Self::State>, conn: ConnId, bytes: &mut [u8]) -> Answer;

    /// A pong came, asked for by [`WebSocketCtx::ping`] or not. Pings of the peer are answered by c1m.
    fn pong(&mut self, _ctx: &mut WebSocketCtx<'_, Self::State>, _conn: ConnId, _payload: &[u8]) {}

    /// A request came that asks for no upgrade. The default answers that one is required, with 426. Requests that
    /// cannot be read are answered by c1m, and so are upgrades that are asked for in a wrong way. So is every request
    /// for the path `/healthz`: `GET` and `HEAD` with 200, or 503 once the server stops, and other methods with 405.
    fn request<'r>(
        &mut self,
        _ctx: &mut WebSocketCtx<'_, Self::State>,
        _conn: ConnId,
        _request: &'r Request<'r>,
    ) -> Response<'r> {
        upgrade_required("this is a WebSocket server\n")
    }

    /// The kernel has taken all bytes that had to wait, as in [`Service::sent`](super::Service::sent).
    fn sent(&mut self, _ctx: &mut WebSocketCtx<'_, Self::State>, _conn: ConnId) {}

    /// The deadline that [`WebSocketCtx::set_deadline`] set has passed. The default closes the connection, with the code
    /// 1008.
    fn expired(&mut self, ctx: &mut WebSocketCtx<'_, Self::State>, conn: ConnId) {
        ctx.close(conn, CloseCode::POLICY, "too slow");
    }

    /// No more messages come, and none can be sent. The state can be read for the last time.
    fn closed(&mut self, _ctx: &mut WebSocketCtx<'_, Self::State>, _conn: ConnId, _ending: Ending<'_>) {}

    /// As [`Service::may_divide`](super::Service::may_divide).
    fn may_divide(&mut self, _ctx: &mut WebSocketCtx<'_, Self::State>) -> bool {
        true
    }

    /// As [`Service::united`](super::Service::united).
    fn united(&mut self, _ctx: &mut WebSocketCtx<'_, Self::State>) {}

    /// A connection that is open for messages goes to another process, as in [`Service::hand_over`](super::Service::hand_over). c1m hands
    /// over what has come of a message.
    fn hand_over(&mut self, _ctx: &mut WebSocketCtx<'_, Self::State>, _conn: ConnId, _state: &mut Vec<u8>) {}

    /// The same connection in the other process, with what `hand_over` wrote there.
    fn taken_over(&mut self, _ctx: &mut WebSocketCtx<'_, Self::State>, _conn: ConnId, _state: &[u8]) {}

    /// As [`Service::hand_over_shard`](super::Service::hand_over_shard).
    fn hand_over_shard(&mut self, _ctx: &mut WebSocketCtx<'_, Self::State>, _state: &mut Vec<u8>) {}

    /// As [`Service::taken_over_shard`](super::Service::taken_over_shard).
    fn taken_over_shard(&mut self, _ctx: &mut WebSocketCtx<'_, Self::State>, _state: &[u8]) {}

    /// A message came through the mailbox, as in [`Service::message`](super::Service::message).
    fn message(&mut self, _ctx: &mut WebSocketCtx<'_, Self::State>, _message: Self::Message) {}

    /// As [`Service::tick`](super::Service::tick).
    fn tick(&mut self, _ctx: &mut WebSocketCtx<'_, Self::State>) {}

    /// As [`Service::interval`](super::Service::interval).
    fn interval(&self) -> Option<Duration> {
        None
    }
}

/// What is done about a request for an upgrade.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Upgrade {
    /// It is accepted, with one of the subprotocols that the client offers, or with none. One that the client does not
    /// offer is left out.
    Accept(Option<Cow<'static, str>>),
    /// It is answered with this and not accepted, such as 401 or 404.
    Refuse(Response<'static>),
}

impl Upgrade {
    /// Accepts without a subprotocol.
    pub fn accept() -> Upgrade {
        Upgrade::Accept(None)
    }
}

/// What follows a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Answer {
    /// Nothing.
    Nothing,
    /// The message is sent back: straight from the receive buffer if it lies there whole.
    Back,
    /// The connection is closed with this code, as [`WebSocketCtx::close`] does.
    Close(CloseCode),
}

/// How a connection came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Ending<'a> {
    /// The peer closed it.
    Peer(Close<'a>),
    /// The service closed it.
    Local {
        /// Whether the peer answered the close in time.
        answered: bool,
    },
    /// c1m closed it for this fault of the peer.
    Failed(Fault),
    /// The connection ended before a close of the peer came, which is the code 1006 elsewhere. With
    /// `CloseReason::Stopping` the server has stopped; it has sent the peer a close with 1001, unless the connection
    /// was asleep or had been sent another close.
    Lost(CloseReason),
}

/// Why c1m closes a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// The peer did what the protocol forbids, or sent a message that is too long.
    Violation(Violation),
    /// A message was not complete in time.
    Late,
    /// The messages that are incomplete take all the memory that they may.
    NoRoom,
}

impl Fault {
    /// The code with which the connection is closed.
    pub fn code(self) -> CloseCode {
        match self {
            Fault::Violation(violation) => violation.code(),
            Fault::Late => CloseCode::POLICY,
            Fault::NoRoom => CloseCode::TOO_LONG,
        }
    }

    fn reason(self) -> Cow<'static, str> {
        match self {
            Fault::Violation(violation) => violation.to_string().into(),
            Fault::Late => "the message did not come in time".into(),
            Fault::NoRoom => "too many messages are incomplete".into(),
        }
    }

    fn count(self, counters: &Counters) {
        let counter = match self {
            Fault::Violation(violation) if violation.code() == CloseCode::INVALID_DATA => &counters.texts_invalid,
            Fault::Violation(Violation::TooLong) => &counters.messages_too_long,
            Fault::Violation(_) => &counters.protocol_errors,
            Fault::Late => &counters.messages_late,
            Fault::NoRoom => &counters.messages_without_room,
        };
        counter.add(1);
    }
}

/// What a shard takes of peers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct WebSocketLimits {
    /// Bytes of a message at most; 64 KiB by default. Beyond it the connection is closed with the code 1009.
    /// `ServerBuilder::max_pending` is raised so that a message of this length can be sent back.
    pub longest_message: usize,
    /// Bytes of all messages of a shard together that are incomplete; 64 MiB by default. At most 65,536 are incomplete
    /// at once, whatever their size. The connection whose message would need more is closed with the code 1009.
    pub incomplete: usize,
    /// How long a message may take from the receive that began it to the one that completes it; 60 s by default. Beyond
    /// it the connection is closed with the code 1008. On a connection with a deadline of the service's own the time is
    /// not watched. While its reads are paused, or bytes wait for the peer to read, nothing is received from it and the
    /// time stands still; afterwards the message has its whole time again.
    pub message_time: Duration,
    /// How long the peer has to answer a close; 5 s by default.
    pub close_time: Duration,
    /// Of the requests before the upgrade. `kept_time` is 60 s by default: a connection without an upgrade is of no use
    /// here.
    pub http: HttpLimits,
}

impl Default for WebSocketLimits {
    fn default() -> WebSocketLimits {
        WebSocketLimits {
            longest_message: 64 * 1024,
            incomplete: 64 << 20,
            message_time: Duration::from_secs(60),
            close_time: Duration::from_secs(5),
            http: HttpLimits { kept_time: Some(Duration::from_secs(60)), ..HttpLimits::default() },
        }
    }
}

/// The answer to a request without the upgrade that is needed: it must name that (RFC 9110, 15.5.22).
fn upgrade_required(why: impl Into<Cow<'static, str>>) -> Response<'static> {
    Response::text(426, why).field("Upgrade", "websocket").field("Connection", "Upgrade")
}
