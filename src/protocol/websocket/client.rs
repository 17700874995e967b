//! `websocket`, the client's dialect. The opening handshake is checked in full. A Ping with a token, or a text with one
//! that an echo service sends back, proves a connection.

use std::ops::RangeInclusive;

use super::frames::Frames;
use super::talk;
use super::{
    Accept, Close, CloseCode, Header, Key, LONGEST_CONTROL, LONGEST_HEADER, Opcode, Refusal, check_response, mask,
    write_request_fields,
};
use crate::failure::{Cause, HandshakeFault};
use crate::protocol::http::{RequestTemplate, ResponseHead, whole_head};
use crate::protocol::{
    Dialect, Exchange, Heard, Position, Publication, Purpose, RequestError, Scratch, SettingError, Settings, Strength,
    Template, Verdict, echo, fill, mix,
};

/// What the payload of our pings begins with. The token follows.
const PING_MARK: &[u8] = b"c1m:";

/// Bytes of a ping.
const PING_LENGTHS: RangeInclusive<usize> = PING_MARK.len() + size_of::<u64>()..=LONGEST_CONTROL;

/// Fields that the handshake has of its own (RFC 6455, 4.1), and those of a body, which it has not.
const OWN_FIELDS: [&str; 8] = [
    "upgrade",
    "connection",
    "sec-websocket-key",
    "sec-websocket-version",
    "sec-websocket-protocol",
    "sec-websocket-extensions",
    "content-length",
    "transfer-encoding",
];

/// What proves a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Proof {
    /// The Pong to a Ping, which every server sends (RFC 6455, 5.5.2).
    Ping,
    /// A message that comes back.
    Echo,
}

/// A server of WebSocket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebSocket {
    request: RequestTemplate,
    subprotocols: Vec<String>,
    proof: Proof,
    /// Texts with which the connection subscribes, between the handshake and the first proof.
    subscribe: Vec<Template>,
    /// What stands before and behind the payload of a publication, if the connection publishes.
    publish: Option<(Template, Template)>,
    /// The type of our messages.
    opcode: Opcode,
    /// Bytes of a message of traffic.
    payload: usize,
}

/// What a connection awaits of the frames that come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Awaits {
    /// Nothing.
    Nothing,
    /// A Pong with the payload in `Scratch::expected`.
    Pong,
    /// A message with the content in `Scratch::expected`.
    Echo,
    /// A Close.
    Close,
}

impl WebSocket {
    fn key(exchange: Exchange) -> Key {
        let (token, other) = (exchange.token(), mix(exchange.token()));
        Key::new(((u128::from(token) << 64) | u128::from(other)).to_be_bytes())
    }

    fn awaits(&self, exchange: Option<Exchange>) -> Awaits {
        match (exchange.map(|exchange| exchange.purpose), self.proof) {
            (None, _) => Awaits::Nothing,
            (Some(Purpose::Goodbye), _) => Awaits::Close,
            (Some(Purpose::Open(1)), _) if !self.subscribe.is_empty() => Awaits::Pong,
            (Some(Purpose::Keepalive), _) | (Some(_), Proof::Ping) => Awaits::Pong,
            (Some(_), Proof::Echo) => Awaits::Echo,
        }
    }

    /// Appends the content of an exchange's message to `into`.
    fn compose(&self, exchange: Exchange, into: &mut Vec<u8>) {
        if self.awaits(Some(exchange)) != Awaits::Pong {
            return echo::write(exchange, self.payload, into);
        }
        let (token, start) = (exchange.token(), into.len());
        into.extend_from_slice(PING_MARK);
        into.extend_from_slice(&token.to_be_bytes());
        // Of audits and keepalives the token is all.
        let end = if exchange.purpose == Purpose::Message { start + self.payload } else { into.len() };
        fill(token, end, into);
    }

    fn hear_handshake(&self, exchange: Exchange, bytes: &[u8], scratch: &mut Scratch) -> Heard {
        let all = |verdict| Heard { used: bytes.len(), verdict };
        let (head, used) = match whole_head(&mut scratch.kept, bytes) {
            Ok(Some(whole)) => whole,
            Ok(None) => return all(Verdict::Part),
            Err(malformed) => return all(Verdict::Wrong(malformed.into())),
        };
        let verdict = match ResponseHead::read(head) {
            Ok(Some((head, _))) => self.judge(&head, WebSocket::key(exchange).accept()),
            Ok(None) => Verdict::Wrong(Cause::Malformed),
            Err(malformed) => Verdict::Wrong(malformed.into()),
        };
        scratch.kept.clear();
        Heard { used, verdict }
    }

    /// What the answer to the request for an upgrade says.
    fn judge(&self, head: &ResponseHead<'_>, accept: Accept) -> Verdict {
        let subprotocols: Vec<&str> = self.subprotocols.iter().map(String::as_str).collect();
        let fault = match check_response(head, accept, &subprotocols) {
            Ok(()) => return Verdict::Proof,
            // An interim answer, such as 103, says nothing about the request (RFC 9110, 15.2).
            Err(Refusal::Status(100..=199)) => return Verdict::Aside,
            Err(Refusal::Status(status)) => return Verdict::Ended(Cause::HttpStatus(status)),
            Err(Refusal::Accept) => HandshakeFault::Accept,
            Err(Refusal::Extension) => HandshakeFault::Extension,
            Err(Refusal::Subprotocol) => HandshakeFault::Subprotocol,
            Err(_) => HandshakeFault::Upgrade,
        };
        Verdict::Wrong(Cause::Handshake(fault))
    }

    /// Judges a whole close, ping or pong.
    fn control(awaits: Awaits, opcode: Opcode, payload: &[u8], scratch: &mut Scratch) -> Verdict {
        match opcode {
            Opcode::Ping => {
                // A Close was said: nothing may follow it (RFC 6455, 5.5.1).
                if awaits != Awaits::Close {
                    append_frame(Opcode::Pong, mask_of(payload), &mut scratch.reply, |reply| {
                        reply.extend_from_slice(payload);
                    });
                }
                Verdict::Aside
            }
            Opcode::Pong if awaits == Awaits::Pong && payload == scratch.expected => Verdict::Proof,
            // Whose pong it is, its token would say.
            Opcode::Pong if payload.starts_with(PING_MARK) && awaits == Awaits::Pong => {
                Verdict::Wrong(Cause::WrongAnswer)
            }
            Opcode::Pong if payload.starts_with(PING_MARK) && awaits != Awaits::Close => Verdict::Wrong(Cause::Unasked),
            Opcode::Close => {
                let Ok(close) = Close::read(payload) else { return Verdict::Wrong(Cause::Malformed) };
                if awaits == Awaits::Close {
                    return Verdict::Proof;
                }
                let code = close.code.map_or(NO_CODE, CloseCode::number);
                append_frame(Opcode::Close, mask_of(payload), &mut scratch.reply, |reply| {
                    Close { code: close.code, reason: "" }.append(reply);
                });
                Verdict::Ended(Cause::CloseCode(code))
            }
            _ => Verdict::Aside,
        }
    }
}

/// The number that stands for a close without a code (RFC 6455, 7.4.1).
const NO_CODE: u16 = 1005;

/// A key to mask a frame with. It need not be secret here: that matters where a page of somebody else chooses the
/// content (RFC 6455, 10.3).
fn mask_of(content: &[u8]) -> [u8; 4] {
    let sum = content.iter().fold(content.len() as u64, |sum, byte| sum.rotate_left(8) ^ u64::from(*byte));
    (mix(sum) as u32).to_be_bytes()
}

/// Appends a frame that is a whole message, masked; `content` appends its payload.
fn append_frame(opcode: Opcode, key: [u8; 4], into: &mut Vec<u8>, content: impl FnOnce(&mut Vec<u8>)) {
    let at = into.len();
    content(into);
    let length = into.len() - at;
    mask(key, 0, &mut into[at..]);
    // The header has the length, and stands before the payload.
    Header::whole(opcode, length as u64, Some(key)).append(into);
    into[at..].rotate_left(length);
}

impl Dialect for WebSocket {
    const NAME: &'static str = "websocket";
    const SETTINGS: &'static [&'static str] =
        &["path", "header", "subprotocol", "message-type", "proof", "payload", "subscribe", "publish", "publish-path"];
    const SAYS: &'static str = "asks for an upgrade, and sends pings or texts with a token";

    fn new(settings: &Settings) -> Result<WebSocket, SettingError> {
        let path = talk::path(settings);
        let request = RequestTemplate::new(&Settings { path, ..settings.clone() }, "GET", &OWN_FIELDS)?;
        let proof = match Settings::choice("proof", &settings.proof, &["ping", "echo"])? {
            "echo" => Proof::Echo,
            _ => Proof::Ping,
        };
        let opcode = match Settings::choice("message-type", &settings.message_type, &["text", "binary"])? {
            "binary" => Opcode::Binary,
            _ => Opcode::Text,
        };
        let payload = settings.payload_within(match proof {
            Proof::Ping => PING_LENGTHS,
            Proof::Echo => echo::LENGTHS,
        })?;
        let mut subprotocols: Vec<String> = Vec::new();
        for typed in settings.subprotocol.iter() {
            for name in typed.split(',').map(str::trim) {
                // Each is named once (RFC 6455, 4.1, 10).
                if !RequestTemplate::is_token(name) || subprotocols.iter().any(|before| before == name) {
                    return Err(RequestError::Subprotocol { asked: typed.clone() }.into());
                }
                subprotocols.push(name.to_owned());
            }
        }
        let (subscribe, publish) = (talk::subscribe(settings, opcode)?, talk::publish(settings, opcode)?);
        Ok(WebSocket { request, subprotocols, proof, subscribe, publish, opcode, payload })
    }

    fn strength(&self) -> Strength {
        match self.proof {
            Proof::Ping => Strength::Gateway,
            Proof::Echo => Strength::EndToEnd,
        }
    }

    fn longest_message(&self) -> usize {
        LONGEST_HEADER + self.payload
    }

    /// The first step is the handshake. The next one subscribes, if that takes a message. Where messages prove a connection,
    /// the last step is the first one of them.
    fn steps(&self) -> u8 {
        1 + u8::from(!self.subscribe.is_empty()) + u8::from(self.proof == Proof::Echo)
    }

    fn ask(&self, exchange: Exchange, into: &mut Vec<u8>) {
        match exchange.purpose {
            Purpose::Open(0) => {
                let key = WebSocket::key(exchange);
                let fields = |into: &mut Vec<u8>| write_request_fields(&key, &self.subprotocols, into);
                return self.request.write(exchange, fields, into);
            }
            // The pong to the ping behind them comes after the server has read them.
            Purpose::Open(1) => {
                for text in &self.subscribe {
                    append_frame(self.opcode, mask_of(&[1]), into, |into| text.write(exchange, into));
                }
            }
            _ => {}
        }
        let opcode = if self.awaits(Some(exchange)) == Awaits::Pong { Opcode::Ping } else { self.opcode };
        let key = (mix(exchange.token()) as u32).to_be_bytes();
        append_frame(opcode, key, into, |into| self.compose(exchange, into));
    }

    fn hear(&self, exchange: Option<Exchange>, position: &mut Position, bytes: &[u8], scratch: &mut Scratch) -> Heard {
        if let Some(exchange @ Exchange { purpose: Purpose::Open(0), .. }) = exchange {
            return self.hear_handshake(exchange, bytes, scratch);
        }
        let awaits = self.awaits(exchange);
        scratch.expected.clear();
        match exchange {
            Some(exchange) if awaits != Awaits::Close => self.compose(exchange, &mut scratch.expected),
            _ => {}
        }
        // Of an echo that nothing asked for, the mark is enough to know it.
        if awaits == Awaits::Nothing && self.proof == Proof::Echo {
            scratch.expected.extend_from_slice(echo::MARK);
        }
        Frames { awaits, bytes }.hear(position, scratch, WebSocket::control)
    }

    fn publish(&self, number: u64, publication: &Publication, into: &mut Vec<u8>) -> bool {
        let Some((before, behind)) = &self.publish else { return false };
        let exchange = Exchange { number, round: publication.number, purpose: Purpose::Message };
        let key = (mix(exchange.token()) as u32).to_be_bytes();
        append_frame(self.opcode, key, into, |into| {
            before.write(exchange, into);
            publication.write(into);
            behind.write(exchange, into);
        });
        true
    }

    fn goodbye(&self, number: u64, into: &mut Vec<u8>) {
        let key = (mix(number) as u32).to_be_bytes();
        let close = Close { code: Some(CloseCode::NORMAL), reason: "" };
        append_frame(Opcode::Close, key, into, |into| close.append(into));
    }

    fn awaits_goodbye(&self) -> bool {
        true
    }

    fn must_hear(&self) -> bool {
        true
    }

    /// An end without a Close has this code in every program's log (RFC 6455, 7.1.5).
    fn cut_off(&self) -> Cause {
        Cause::CloseCode(1006)
    }
}
