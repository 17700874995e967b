//! A request as a service sees it, and what it answers.

use std::borrow::Cow;
use std::io::Write;
use std::time::Duration;

use super::date::write_date;
use crate::protocol::http::RequestHead;

/// A whole request of a client.
#[derive(Debug)]
pub struct Request<'a> {
    pub(crate) head: RequestHead<'a>,
    pub(crate) body: &'a [u8],
}

impl<'a> Request<'a> {
    /// Its method, such as `GET`, as it was sent.
    pub fn method(&self) -> &'a str {
        self.head.method
    }

    /// What it asks for, as it was sent: a path, perhaps with a query behind a question mark. Nothing in it is decoded.
    pub fn target(&self) -> &'a str {
        self.head.target
    }

    /// The target without the query.
    pub fn path(&self) -> &'a str {
        self.head.path()
    }

    /// The value of the first field of a name, whose letters may be small or large.
    pub fn field(&self, name: &str) -> Option<&'a [u8]> {
        self.head.fields.get(name)
    }

    /// The names and values of all fields.
    pub fn fields(&self) -> impl Iterator<Item = (&'a str, &'a [u8])> {
        self.head.fields.iter()
    }

    /// The members of a list, which may be spread over several fields, such as those of `Sec-WebSocket-Protocol`.
    pub fn list(&self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        self.head.fields.list(name)
    }

    /// The subprotocols that a client of WebSocket offers, the one that it likes most first.
    pub fn subprotocols(&self) -> impl Iterator<Item = &'a [u8]> {
        self.list("sec-websocket-protocol")
    }

    /// Its body, which is empty where it has none.
    pub fn body(&self) -> &'a [u8] {
        self.body
    }

    /// Whether the method only reads: `GET` or `HEAD`.
    pub fn reads(&self) -> bool {
        matches!(self.method(), "GET" | "HEAD")
    }
}

/// An answer to a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response<'a> {
    status: u16,
    /// The fields as they are sent.
    fields: Vec<u8>,
    body: Cow<'a, [u8]>,
    /// This is no answer: one comes later, within this time if there is one.
    later: Option<Option<Duration>>,
}

impl<'a> Response<'a> {
    /// An answer with this status, such as 200, and without a body. The status is not checked; use 200 to 599.
    pub fn new(status: u16) -> Response<'a> {
        Response { status, fields: Vec::new(), body: Cow::Borrowed(&[]), later: None }
    }

    /// No answer yet.
    pub(super) fn later(within: Option<Duration>) -> Response<'a> {
        Response { later: Some(within), ..Response::new(500) }
    }

    /// In what time the answer comes, if it comes later.
    pub(super) fn comes_later(&self) -> Option<Option<Duration>> {
        self.later
    }

    /// An answer of text.
    pub fn text(status: u16, text: impl Into<Cow<'a, str>>) -> Response<'a> {
        let body = match text.into() {
            Cow::Borrowed(text) => Cow::Borrowed(text.as_bytes()),
            Cow::Owned(text) => Cow::Owned(text.into_bytes()),
        };
        Response { body, ..Response::new(status) }.field("Content-Type", "text/plain; charset=utf-8")
    }

    /// With this body. A borrowed one, such as the request's own, is not copied but once.
    ///
    /// It must fit into `ServerBuilder::max_pending` with 32 KiB beside it, for its head and for the answers before it. One as long
    /// as [`HttpLimits::longest_body`](super::HttpLimits::longest_body) always does. For a longer one the connection is
    /// reset, and counted as a slow reader.
    pub fn body(mut self, body: impl Into<Cow<'a, [u8]>>) -> Response<'a> {
        self.body = body.into();
        self
    }

    /// With this field. The name is sent as it is: never take it from a client. A line break or a NUL in the value
    /// becomes a space. c1m writes `Date`, `Content-Length` and `Connection` itself: do not add them.
    pub fn field(mut self, name: &str, value: impl AsRef<[u8]>) -> Response<'a> {
        self.fields.extend_from_slice(name.as_bytes());
        self.fields.extend_from_slice(b": ");
        let clean = |byte: &u8| if matches!(byte, b'\r' | b'\n' | 0) { b' ' } else { *byte };
        self.fields.extend(value.as_ref().iter().map(clean));
        self.fields.extend_from_slice(b"\r\n");
        self
    }

    /// Its status.
    pub fn status(&self) -> u16 {
        self.status
    }

    /// The same answer, with nothing borrowed.
    pub fn into_owned(self) -> Response<'static> {
        let Response { status, fields, body, later } = self;
        Response { status, fields, body: Cow::Owned(body.into_owned()), later }
    }

    /// Appends it to `into`. The body is left out in answer to `HEAD`. `connection` is what is said of the connection, if
    /// something has to be said: `close` or `keep-alive`.
    pub(crate) fn write(&self, head_only: bool, connection: Option<&str>, into: &mut Vec<u8>) {
        // Writing to memory cannot fail.
        let _ = write!(into, "HTTP/1.1 {} {}\r\n", self.status, reason(self.status));
        write_date(into);
        into.extend_from_slice(&self.fields);
        // Neither may have a length, and that of a 304 is the one that a 200 would have (RFC 9110, 8.6).
        let has_length = match self.status {
            100..200 | 204 => false,
            304 => !self.body.is_empty(),
            _ => true,
        };
        if has_length {
            let _ = write!(into, "Content-Length: {}\r\n", self.body.len());
        }
        if let Some(connection) = connection {
            let _ = write!(into, "Connection: {connection}\r\n");
        }
        into.extend_from_slice(b"\r\n");
        if !head_only && !matches!(self.status, 100..200 | 204 | 304) {
            into.extend_from_slice(&self.body);
        }
    }
}

/// The words of a status (RFC 9110, 15).
fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        204 => "No Content",
        301 => "Moved Permanently",
        302 => "Found",
        304 => "Not Modified",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        409 => "Conflict",
        411 => "Length Required",
        413 => "Content Too Large",
        417 => "Expectation Failed",
        426 => "Upgrade Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        503 => "Service Unavailable",
        505 => "HTTP Version Not Supported",
        // It may be empty (RFC 9112, 4).
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::http::{Body, ResponseHead};
    use proptest::prelude::*;

    proptest! {
        /// An answer is read back as it was meant, whatever a service puts into it.
        #[test]
        fn an_answer_is_framed_whatever_is_in_it(
            status in 200u16..600, value in prop::collection::vec(prop_oneof![Just(b'\r'), Just(b'\n'), b' '..=b'~'], 0..20),
            body in prop::collection::vec(any::<u8>(), 0..50), head_only: bool, closes: bool
        ) {
            let mut bytes = Vec::new();
            let connection = closes.then_some("close");
            Response::new(status).field("X-Value", &value).body(&body[..]).write(head_only, connection, &mut bytes);
            let (head, length) = ResponseHead::read(&bytes).unwrap().unwrap();
            prop_assert_eq!((head.status, head.keeps_alive), (status, !closes));
            let has_body = !matches!(status, 204 | 304);
            let announced = if has_body { body.len() as u64 } else { 0 };
            prop_assert_eq!(head.body, Body::Length(announced));
            let sent: &[u8] = if has_body && !head_only { &body } else { &[] };
            prop_assert_eq!(&bytes[length..], sent);
            prop_assert!(head.fields.get("x-value").is_some() && head.fields.get("date").is_some());
            prop_assert!(status != 304 || body.is_empty() == head.fields.get("content-length").is_none());
            prop_assert!(head.fields.iter().count() <= 4);
        }
    }
}
