//! `nats`: a client of a NATS server. Each connection has a subject of its own; what it publishes there must come back to
//! it.
//!
//! Lines are kept until they are whole, 4,096 bytes at most. INFO, which may be longer, is passed over as it comes, and so
//! are the payloads of messages: the awaited one is compared, and in others a publication is looked for.

mod lines;
mod settings;
#[cfg(test)]
mod tests;

use super::payload::Payload;
use super::publication::Search;
use super::{
    Dialect, Exchange, Heard, Position, Publication, Purpose, Scratch, SettingError, Settings, Strength, Template,
    Verdict,
};
use crate::failure::{Cause, NatsError};
use lines::{Connect, END, LONGEST_LINE, Line};

/// An exchange, by the answer that it awaits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Nothing is said: the server's INFO comes first.
    Info,
    /// CONNECT, a SUB for each subscription, and a PING: its PONG comes when the server has taken all of them.
    Connect,
    /// A PUB to the own subject awaits its message.
    Publish,
    /// PING awaits PONG.
    Ping,
}

/// A client of a NATS server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nats {
    user: Option<Template>,
    /// The user's password, or a token if there is no user.
    password: Option<Template>,
    /// What audits and messages are: a PUB to this subject, or a PING if there is none.
    own: Option<Template>,
    /// Further subjects that each connection subscribes to.
    further: Vec<Template>,
    /// Where a publisher publishes.
    publishes_to: Option<Template>,
    /// Bytes that a message of traffic holds; those of opening and of audits hold a token alone.
    payload: usize,
    /// How a connection is opened.
    steps: Vec<Step>,
}

/// The number of the subscription to the own subject. Those to further subjects follow.
const OWN: usize = 1;

/// Bytes of an INFO at most. That of a server alone has some 400, and each server of its cluster adds an address or more.
const LONGEST_INFO: u32 = 64 << 10;

/// Bytes of a message at most: the highest `max_payload` that nats-server allows.
const LONGEST_MESSAGE: u32 = 64 << 20;

// What `Position::part` tells; 0 is a line, whose bytes so far are in `Scratch::kept`.

/// An INFO, of which `Position::bytes` have come; `Position::at` is 1 if the last one was a carriage return.
const INFO: u16 = 1;
/// The payload of the awaited message; `Position::bytes` of it and its end are to come.
const TOKEN: u16 = 2;
/// The same of another message, in which a publication is looked for: the search is in `Scratch::kept`.
const OTHER: u16 = 3;

impl Nats {
    /// What an exchange sends, and thereby what it awaits.
    fn step(&self, exchange: Exchange) -> Step {
        match (exchange.purpose, &self.own) {
            (Purpose::Open(step), _) => self.steps.get(usize::from(step)).copied().unwrap_or(Step::Ping),
            (Purpose::Audit | Purpose::Message, Some(_)) => Step::Publish,
            _ => Step::Ping,
        }
    }

    /// The payload that an exchange awaits, if it awaits one.
    fn awaited(&self, exchange: Option<Exchange>) -> Option<Payload> {
        let published = exchange.filter(|exchange| self.step(*exchange) == Step::Publish)?;
        Some(Payload::of(published, self.payload))
    }

    /// Appends what a step says to `into`.
    fn say(&self, step: Step, exchange: Exchange, into: &mut Vec<u8>) {
        match (step, &self.own) {
            (Step::Info, _) => {}
            (Step::Connect, own) => {
                self.connect(exchange.number, into);
                let further = self.further.iter().zip(OWN + 1..);
                for (subject, subscription) in own.iter().map(|own| (own, OWN)).chain(further) {
                    lines::subscribe(|into| subject.write(exchange, into), subscription, into);
                }
                lines::ping(into);
            }
            (Step::Publish, Some(own)) => {
                let payload = Payload::of(exchange, self.payload);
                lines::publish(|into| own.write(exchange, into), payload.length, |into| payload.write(into), into);
            }
            (Step::Publish | Step::Ping, _) => lines::ping(into),
        }
    }

    fn connect(&self, number: u64, into: &mut Vec<u8>) {
        let exchange = Exchange::opening(number, 0);
        let written = |template: &Template| {
            let mut text = Vec::new();
            template.write(exchange, &mut text);
            String::from_utf8_lossy(&text).into_owned()
        };
        let (user, password) = (self.user.as_ref().map(written), self.password.as_ref().map(written));
        Connect::new(&format!("c1m{number}"), user.as_deref(), password.as_deref()).write(into);
    }

    /// Takes bytes of the next part of what the server says off `rest`. A verdict, if a part that has one ends.
    fn next(
        &self,
        exchange: Option<Exchange>,
        position: &mut Position,
        rest: &mut &[u8],
        scratch: &mut Scratch,
    ) -> Result<Option<Verdict>, Cause> {
        match position.part {
            INFO => info(position, rest).map(|is_whole| {
                let is_awaited = exchange.is_some_and(|exchange| self.step(exchange) == Step::Info);
                is_whole.then_some(if is_awaited { Verdict::Proof } else { Verdict::Aside })
            }),
            TOKEN | OTHER => self.payload(exchange, position, rest, scratch),
            _ => self.line(exchange, position, rest, scratch),
        }
    }

    /// Takes bytes of a line. Those of one that is not whole are kept.
    fn line(
        &self,
        exchange: Option<Exchange>,
        position: &mut Position,
        rest: &mut &[u8],
        scratch: &mut Scratch,
    ) -> Result<Option<Verdict>, Cause> {
        let end = rest.iter().position(|byte| *byte == b'\n');
        let (piece, later) = rest.split_at(end.map_or(rest.len(), |end| end + 1));
        let kept = &mut scratch.kept;
        let mut head = *b"INFO ";
        let known = head.iter_mut().zip(kept.iter().chain(piece)).map(|(to, byte)| *to = *byte).count();
        if !lines::may_begin(&head[..known]) {
            return Err(Cause::Malformed);
        }
        if lines::is_info(&head[..known]) {
            // No more than the word is kept by now.
            *position = Position { part: INFO, at: 0, bytes: kept.len() as u32 };
            kept.clear();
            return Ok(None);
        }
        if kept.len() + piece.len() > LONGEST_LINE + END.len() {
            return Err(Cause::AnswerTooLong);
        }
        *rest = later;
        if end.is_none() || !kept.is_empty() {
            kept.extend_from_slice(piece);
        }
        if end.is_none() {
            return Ok(None);
        }
        let line = Line::read(if kept.is_empty() { piece } else { &kept[..] }).ok_or(Cause::Malformed)?;
        let verdict = self.judge(exchange, line, position, &mut scratch.reply)?;
        kept.clear();
        if position.part == OTHER {
            Search::begin(kept);
        }
        Ok(verdict)
    }

    /// Judges a line. Without a verdict the payload of a message follows.
    fn judge(
        &self,
        exchange: Option<Exchange>,
        line: Line<'_>,
        position: &mut Position,
        reply: &mut Vec<u8>,
    ) -> Result<Option<Verdict>, Cause> {
        let step = exchange.map(|exchange| self.step(exchange));
        let not_this = if step.is_some() { Cause::WrongAnswer } else { Cause::Unasked };
        match line {
            Line::Error(text) => Ok(Some(Verdict::Ended(Cause::Nats(NatsError::of_text(text))))),
            // A server says nothing else before its INFO.
            _ if step == Some(Step::Info) => Err(Cause::Malformed),
            Line::Ping => {
                reply.extend_from_slice(lines::PONG);
                Ok(Some(Verdict::Aside))
            }
            Line::Pong if matches!(step, Some(Step::Connect | Step::Ping)) => Ok(Some(Verdict::Proof)),
            Line::Pong => Err(not_this),
            Line::Ok => Ok(Some(Verdict::Aside)),
            Line::Message { length, .. } if length > LONGEST_MESSAGE => Err(Cause::AnswerTooLong),
            Line::Message { subscription, length } => {
                let is_further = (OWN + 1..=OWN + self.further.len()).contains(&subscription);
                let is_awaited = self.awaited(exchange).is_some_and(|payload| payload.length == length as usize);
                let part = match subscription {
                    _ if is_further => OTHER,
                    OWN if is_awaited => TOKEN,
                    _ => return Err(not_this),
                };
                *position = Position { part, at: 0, bytes: length + END.len() as u32 };
                Ok(None)
            }
        }
    }

    /// Takes bytes of a message's payload, or of its end.
    fn payload(
        &self,
        exchange: Option<Exchange>,
        position: &mut Position,
        rest: &mut &[u8],
        scratch: &mut Scratch,
    ) -> Result<Option<Verdict>, Cause> {
        let left = position.bytes as usize;
        let content = left.saturating_sub(END.len());
        let (piece, later) = rest.split_at(rest.len().min(if content > 0 { content } else { left }));
        match position.part {
            _ if content == 0 && !END[END.len() - left..].starts_with(piece) => return Err(Cause::Malformed),
            _ if content == 0 => {}
            TOKEN => {
                let payload = self.awaited(exchange).ok_or(Cause::Unasked)?;
                let offset = payload.length.checked_sub(content).ok_or(Cause::WrongAnswer)?;
                if !payload.has(offset, piece) {
                    return Err(Cause::WrongAnswer);
                }
            }
            _ => Search::go_on(&mut scratch.kept, piece),
        }
        *rest = later;
        // No more than was to come.
        position.bytes -= piece.len() as u32;
        if position.bytes > 0 {
            return Ok(None);
        }
        let found = Search::load(&scratch.kept).end().filter(|_| position.part == OTHER);
        let verdict = if position.part == TOKEN { Verdict::Proof } else { Verdict::Aside };
        *position = Position::default();
        scratch.kept.clear();
        Ok(Some(found.map_or(verdict, Verdict::of_publication)))
    }
}

/// Takes bytes of an INFO, which is passed over. Whether it is whole.
fn info(position: &mut Position, rest: &mut &[u8]) -> Result<bool, Cause> {
    let end = rest.iter().position(|byte| *byte == b'\n');
    let (piece, later) = rest.split_at(end.map_or(rest.len(), |end| end + 1));
    let before = if position.at == 1 { END[0] } else { 0 };
    let has_return = piece.len().checked_sub(2).map_or(before, |at| piece[at]) == END[0];
    position.bytes = position.bytes.saturating_add(piece.len() as u32);
    *rest = later;
    match end {
        _ if position.bytes > LONGEST_INFO => Err(Cause::AnswerTooLong),
        Some(_) if !has_return => Err(Cause::Malformed),
        Some(_) => {
            *position = Position::default();
            Ok(true)
        }
        None => {
            position.at = u16::from(piece.last() == Some(&END[0]));
            Ok(false)
        }
    }
}

impl Dialect for Nats {
    const NAME: &'static str = "nats";
    const SETTINGS: &'static [&'static str] =
        &["user", "password", "topic", "subscribe", "publish", "payload", "proof"];
    const SAYS: &'static str = "publishes to a subject of each connection's own, or pings";

    fn new(settings: &Settings) -> Result<Nats, SettingError> {
        settings::read(settings)
    }

    /// The server must have routed the token to the connection. A PONG says no more than that it is there.
    fn strength(&self) -> Strength {
        Strength::of_service(self.own.is_some())
    }

    fn longest_message(&self) -> usize {
        let mut message = Vec::new();
        self.ask(Exchange { number: u64::MAX, round: 0, purpose: Purpose::Message }, &mut message);
        message.len()
    }

    fn steps(&self) -> u8 {
        self.steps.len() as u8
    }

    fn ask(&self, exchange: Exchange, into: &mut Vec<u8>) {
        self.say(self.step(exchange), exchange, into);
    }

    fn hear(&self, exchange: Option<Exchange>, position: &mut Position, bytes: &[u8], scratch: &mut Scratch) -> Heard {
        let mut rest = bytes;
        let verdict = Verdict::first_of(&mut rest, |rest| self.next(exchange, position, rest, scratch));
        // A fault may lie in bytes that were not taken.
        Heard { used: (bytes.len() - rest.len()).max(1), verdict }
    }

    fn publish(&self, number: u64, publication: &Publication, into: &mut Vec<u8>) -> bool {
        let Some(subject) = &self.publishes_to else { return false };
        // Rounds and tokens are in no subject.
        let exchange = Exchange { number, round: publication.number, purpose: Purpose::Publish };
        let subject = |into: &mut Vec<u8>| subject.write(exchange, into);
        lines::publish(subject, publication.length as usize, |into| publication.write(into), into);
        true
    }

    /// A connection without INFO is none of NATS.
    fn must_hear(&self) -> bool {
        true
    }
}
