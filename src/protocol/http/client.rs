//! `http`, the client's dialect: a request and its response, again and again on a kept connection. A response with the
//! token of the request in its body proves the service behind the server; the status alone, that something answers.

use super::{Body, ChunkFault, Chunks, Malformed, Piece, RequestTemplate, ResponseHead, has_no_body, whole_head};
use crate::failure::Cause;
use crate::protocol::search::search;
use crate::protocol::{
    Dialect, Exchange, Heard, Position, RequestError, Scratch, SettingError, Settings, Strength, Verdict, digits,
};

/// Fields that tell where a request's body ends, and whether the connection goes on, as it must.
const OWN_FIELDS: [&str; 3] = ["content-length", "transfer-encoding", "connection"];

/// A server of HTTP/1.1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Http {
    request: RequestTemplate,
    /// The status of a right answer.
    status: u16,
    /// The token must be in the body of the answer.
    wants_token: bool,
}

/// The part of a response that comes next. `Position::part` has its number, and `FOUND` beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    /// The head, of which `Scratch::kept` may have a part.
    Head,
    /// A body, of which `Position::bytes` are to come.
    Body,
    /// A body in chunks. How far it has come is in `Scratch::kept`, which is empty at its beginning.
    Chunks,
}

/// Bits of `Position::part` that hold what comes next.
const NEXT: u16 = 0xff;
/// The token was in the body.
const FOUND: u16 = 0x100;

impl Position {
    fn next(self) -> Next {
        // The driver hands back what `go_on` wrote.
        match self.part & NEXT {
            0 => Next::Head,
            1 => Next::Body,
            _ => Next::Chunks,
        }
    }

    fn go_on(&mut self, next: Next) {
        self.part = self.part & !NEXT | next as u16;
    }
}

impl From<ChunkFault> for Cause {
    fn from(fault: ChunkFault) -> Cause {
        match fault {
            ChunkFault::Syntax => Cause::Malformed,
            ChunkFault::Size | ChunkFault::Beside => Cause::AnswerTooLong,
        }
    }
}

impl Http {
    /// The head of a response has come: the verdict, if it is one already.
    fn judge(&self, head: &ResponseHead<'_>, position: &mut Position) -> Option<Verdict> {
        if head.status != 101 && head.status < 200 {
            // An interim answer (RFC 9110, 15.2): the next head follows.
            return None;
        }
        if head.status != self.status {
            return Some(Verdict::Ended(Cause::HttpStatus(head.status)));
        }
        if !head.keeps_alive {
            return Some(Verdict::Ended(Cause::NotKept));
        }
        match head.body {
            Body::Length(0) => return Some(self.whole(position)),
            Body::Length(length) => match u32::try_from(length) {
                Ok(length) => {
                    position.bytes = length;
                    position.go_on(Next::Body);
                }
                Err(_) => return Some(Verdict::Wrong(Cause::AnswerTooLong)),
            },
            Body::Chunked | Body::UntilEnd => position.go_on(Next::Chunks),
        }
        None
    }

    /// The response is complete.
    fn whole(&self, position: &mut Position) -> Verdict {
        let found = position.part & FOUND != 0;
        *position = Position::default();
        if self.wants_token && !found { Verdict::Wrong(Cause::WrongAnswer) } else { Verdict::Proof }
    }

    /// Bytes of the body: looks for the token in them.
    fn content(&self, position: &mut Position, bytes: &[u8], exchange: Exchange, scratch: &mut Scratch) {
        if !self.wants_token || position.part & FOUND != 0 {
            return;
        }
        scratch.expected.clear();
        scratch.expected.extend_from_slice(&digits(exchange.token()));
        search(scratch, &mut position.at, bytes);
        if usize::from(position.at) == scratch.expected.len() {
            position.part |= FOUND;
        }
    }

    /// Bytes of a body in chunks: how many were used, and the verdict if the response is complete.
    fn chunks(
        &self,
        position: &mut Position,
        bytes: &[u8],
        exchange: Exchange,
        scratch: &mut Scratch,
    ) -> Result<(usize, Option<Verdict>), Cause> {
        let come = scratch.kept.first_chunk();
        let mut chunks = come.and_then(|come| Chunks::of_bytes(*come)).unwrap_or_default();
        let (used, piece) = chunks.next(bytes)?;
        scratch.kept.clear();
        if piece != Piece::End {
            scratch.kept.extend(chunks.to_bytes());
        }
        match piece {
            Piece::Framing => Ok((used, None)),
            Piece::Content(content) => {
                self.content(position, content, exchange, scratch);
                Ok((used, None))
            }
            Piece::End => Ok((used, Some(self.whole(position)))),
        }
    }

    /// Bytes that answer no request. A server that closes a connection for its silence may say so: with 408, say.
    fn unasked(&self, bytes: &[u8], scratch: &mut Scratch) -> Heard {
        let is_farewell = |status| status >= 400 && status != self.status;
        let judge = |head: &ResponseHead<'_>| is_farewell(head.status).then_some(Cause::HttpStatus(head.status));
        let (used, judged) = read_head(bytes, scratch, |head| Some(judge(head)));
        let verdict = match judged {
            Ok(None) => Verdict::Part,
            Ok(Some(Some(status))) => Verdict::Ended(status),
            Ok(Some(None)) | Err(_) => Verdict::Wrong(Cause::Unasked),
        };
        Heard { used, verdict }
    }

    /// The next bytes of a response, at least one: how many of them were used, and the verdict if there is one.
    fn step(
        &self,
        exchange: Exchange,
        position: &mut Position,
        bytes: &[u8],
        scratch: &mut Scratch,
    ) -> (usize, Option<Verdict>) {
        match position.next() {
            Next::Head => {
                let (used, judged) = read_head(bytes, scratch, |head| self.judge(head, position));
                (used, judged.unwrap_or_else(|cause| Some(Verdict::Wrong(cause))))
            }
            Next::Body => {
                let here = bytes.len().min(position.bytes as usize);
                self.content(position, &bytes[..here], exchange, scratch);
                position.bytes -= here as u32;
                (here, (position.bytes == 0).then(|| self.whole(position)))
            }
            Next::Chunks => self
                .chunks(position, bytes, exchange, scratch)
                .unwrap_or_else(|cause| (bytes.len(), Some(Verdict::Wrong(cause)))),
        }
    }
}

/// Reads a head that may come in pieces, and has it judged when it is whole. Returns how many bytes were used too.
fn read_head<T>(
    bytes: &[u8],
    scratch: &mut Scratch,
    judge: impl FnOnce(&ResponseHead<'_>) -> Option<T>,
) -> (usize, Result<Option<T>, Cause>) {
    let (head, used) = match whole_head(&mut scratch.kept, bytes) {
        Ok(Some(whole)) => whole,
        Ok(None) => return (bytes.len(), Ok(None)),
        Err(malformed) => return (bytes.len(), Err(malformed.into())),
    };
    let judged = match ResponseHead::read(head) {
        Ok(Some((head, _))) => Ok(judge(&head)),
        Ok(None) => Err(Malformed::Syntax.into()),
        Err(malformed) => Err(malformed.into()),
    };
    scratch.kept.clear();
    (used, judged)
}

impl Dialect for Http {
    const NAME: &'static str = "http";
    const SETTINGS: &'static [&'static str] = &["method", "path", "header", "body", "status", "proof"];
    const SAYS: &'static str = "sends one request again and again on each connection";

    fn new(settings: &Settings) -> Result<Http, SettingError> {
        let method = Settings::choice("method", &settings.method, &["GET", "POST"])?;
        if method == "GET" && settings.body.is_some() {
            return Err(RequestError::BodyOfGet.into());
        }
        let body = settings.body.clone().or((method == "POST").then(String::new));
        let request = RequestTemplate::new(&Settings { body, ..settings.clone() }, method, &OWN_FIELDS)?;
        let wants_token = Settings::choice("proof", &settings.proof, &["status", "token"])? == "token";
        if wants_token && !request.has_token() {
            return Err(RequestError::NoTokenSent.into());
        }
        let status = settings.status.unwrap_or(200);
        if !(200..600).contains(&status) {
            return Err(RequestError::Status { asked: status }.into());
        }
        if wants_token && has_no_body(status) {
            return Err(RequestError::NoBody { status }.into());
        }
        Ok(Http { request, status, wants_token })
    }

    fn strength(&self) -> Strength {
        Strength::of_service(self.wants_token)
    }

    fn longest_message(&self) -> usize {
        self.request.longest(0)
    }

    fn steps(&self) -> u8 {
        1
    }

    fn ask(&self, exchange: Exchange, into: &mut Vec<u8>) {
        self.request.write(exchange, |_| {}, into);
    }

    fn hear(&self, exchange: Option<Exchange>, position: &mut Position, bytes: &[u8], scratch: &mut Scratch) -> Heard {
        let Some(exchange) = exchange else { return self.unasked(bytes, scratch) };
        let mut used = 0;
        while used < bytes.len() {
            let (taken, verdict) = self.step(exchange, position, &bytes[used..], scratch);
            used += taken;
            if let Some(verdict) = verdict {
                return Heard { used, verdict };
            }
        }
        Heard { used, verdict: Verdict::Part }
    }

    fn must_hear(&self) -> bool {
        true
    }
}
