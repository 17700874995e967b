//! The part of HTTP/1 that reading the metrics takes. Bytes of a client go in, and the reply comes out. The module
//! has no socket and no clock, so that a test can give it any input.

use std::time::SystemTime;

use httparse::Header;
use httpdate::fmt_http_date;

use crate::protocol::http::{LONGEST_HEAD, MOST_FIELDS, names_a_version};

/// The path of the metrics. There is nothing at any other path.
pub const PATH: &str = "/metrics";

/// The status of a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// The metrics follow.
    Ok,
    /// The input is not an HTTP request.
    BadRequest,
    /// There is nothing at this path.
    NotFound,
    /// The method does not read.
    MethodNotAllowed,
    /// The request did not come in time.
    Timeout,
    /// The request announces a body.
    BodyTooLarge,
    /// The first line is too long.
    TargetTooLong,
    /// The header fields are too long, or too many.
    HeadTooLarge,
    /// The metrics could not be written.
    Internal,
    /// The method or the transfer coding is not known.
    NotImplemented,
    /// The version is neither HTTP/1.0 nor HTTP/1.1.
    UnknownVersion,
}

impl Status {
    /// Number and reason of the status line, and a line of text for people.
    fn words(self) -> (&'static str, &'static str) {
        match self {
            Status::Ok => ("200 OK", ""),
            Status::BadRequest => ("400 Bad Request", "this is no HTTP request\n"),
            Status::NotFound => ("404 Not Found", "the metrics are at /metrics\n"),
            Status::MethodNotAllowed => ("405 Method Not Allowed", "the metrics can only be read\n"),
            Status::Timeout => ("408 Request Timeout", "the request did not come in time\n"),
            Status::BodyTooLarge => ("413 Content Too Large", "a request for the metrics has no body\n"),
            Status::TargetTooLong => ("414 URI Too Long", "the first line of the request is too long\n"),
            Status::HeadTooLarge => ("431 Request Header Fields Too Large", "the header fields are too long\n"),
            Status::Internal => ("500 Internal Server Error", "the metrics could not be written\n"),
            Status::NotImplemented => ("501 Not Implemented", "no such method or transfer coding\n"),
            Status::UnknownVersion => ("505 HTTP Version Not Supported", "only HTTP/1.1 and HTTP/1.0\n"),
        }
    }
}

/// The format of the metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Prometheus' text format, which every scraper reads.
    Prometheus,
    /// OpenMetrics text, for scrapers that ask for it.
    OpenMetrics,
}

impl Format {
    /// The value of `Content-Type`.
    pub fn content_type(self) -> &'static str {
        match self {
            Format::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Format::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// The reply to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reply {
    /// The status.
    pub status: Status,
    /// The format of the metrics.
    pub format: Format,
    /// Whether only the head is sent, as `HEAD` asks for.
    pub head_only: bool,
    /// Whether the connection is closed after the reply.
    pub closes: bool,
}

impl Reply {
    /// A refusal. The connection is closed after it, as further input cannot be understood.
    pub fn refusal(status: Status) -> Reply {
        Reply { status, format: Format::Prometheus, head_only: false, closes: true }
    }

    /// The bytes of the response at a time from 1970 to 9999. `metrics` is the body if the status is `Ok`.
    pub fn response(&self, metrics: &str, now: SystemTime) -> Vec<u8> {
        let (status, line) = self.status.words();
        let (kind, body) = match self.status {
            Status::Ok => (self.format.content_type(), metrics),
            _ => ("text/plain; charset=utf-8", line),
        };
        let mut response = format!(
            "HTTP/1.1 {status}\r\nDate: {}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n",
            fmt_http_date(now),
            body.len()
        );
        if self.status == Status::MethodNotAllowed {
            response.push_str("Allow: GET, HEAD\r\n");
        }
        if self.closes {
            response.push_str("Connection: close\r\n");
        }
        response.push_str("\r\n");
        if !self.head_only {
            response.push_str(body);
        }
        response.into_bytes()
    }
}

/// Reads the first request in `input`. Returns its length in bytes and the reply. `None` while more bytes are
/// needed, which is never so from `LONGEST_HEAD` bytes on.
pub fn read(input: &[u8]) -> Option<(usize, Reply)> {
    let within = input.get(..LONGEST_HEAD).unwrap_or(input);
    // A method begins with a letter. Other input is not HTTP, and may never contain an end of line.
    let first = within.iter().find(|byte| !matches!(byte, b'\r' | b'\n'));
    if first.is_some_and(|byte| !byte.is_ascii_graphic()) {
        return Some((input.len(), Reply::refusal(Status::BadRequest)));
    }
    let Some(head) = head(within) else {
        let first_line = within.iter().skip_while(|byte| matches!(byte, b'\r' | b'\n')).any(|byte| *byte == b'\n');
        let too_long = if first_line { Status::HeadTooLarge } else { Status::TargetTooLong };
        return (input.len() >= LONGEST_HEAD).then(|| (input.len(), Reply::refusal(too_long)));
    };
    Some((head.len(), judge(head)))
}

/// The head of a request, up to and including its empty line. Lines end with CRLF or with a bare LF. Empty lines
/// before the first line are skipped (RFC 9112, 2.2).
fn head(input: &[u8]) -> Option<&[u8]> {
    let mut begun = false;
    let mut length = 0_usize;
    for line in input.split_inclusive(|byte| *byte == b'\n') {
        length = length.saturating_add(line.len());
        let empty = matches!(line, b"\n" | b"\r\n");
        if empty && begun {
            return input.get(..length);
        }
        begun |= !empty;
    }
    None
}

/// The reply to a complete head.
fn judge(head: &[u8]) -> Reply {
    let mut fields = [httparse::EMPTY_HEADER; MOST_FIELDS];
    let mut request = httparse::Request::new(&mut fields);
    match request.parse(head) {
        Ok(httparse::Status::Complete(_)) => {}
        Ok(httparse::Status::Partial) => return Reply::refusal(Status::BadRequest),
        Err(httparse::Error::TooManyHeaders) => return Reply::refusal(Status::HeadTooLarge),
        Err(httparse::Error::Version) if names_a_version(head) => return Reply::refusal(Status::UnknownVersion),
        Err(_) => return Reply::refusal(Status::BadRequest),
    }
    let method = request.method.unwrap_or_default();
    let body = Body::of(request.headers, request.version == Some(1));
    let status = match (body, method, path(request.path.unwrap_or_default())) {
        (Body::Invalid, ..) => Status::BadRequest,
        (Body::UnknownCoding, ..) => Status::NotImplemented,
        (_, "CONNECT", _) | (_, "OPTIONS", "*") => Status::MethodNotAllowed,
        (_, "GET" | "HEAD" | "POST" | "PUT" | "DELETE" | "PATCH" | "OPTIONS" | "TRACE", path) if path != PATH => {
            Status::NotFound
        }
        (Body::None, "GET" | "HEAD", _) => Status::Ok,
        (_, "GET" | "HEAD", _) => Status::BodyTooLarge,
        (_, "POST" | "PUT" | "DELETE" | "PATCH" | "OPTIONS" | "TRACE", _) => Status::MethodNotAllowed,
        _ => Status::NotImplemented,
    };
    // A body is not read, so the input behind it cannot be understood.
    let closes = body != Body::None || request.version != Some(1) || asks_to_close(request.headers);
    Reply { status, format: format(request.headers), head_only: method == "HEAD", closes }
}

/// The path in a request's target, which may be an absolute URI (RFC 9112, 3.2.2).
fn path(target: &str) -> &str {
    let target = target.split(['?', '#']).next().unwrap_or_default();
    match target.split_once("://") {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https") => {
            rest.find('/').and_then(|at| rest.get(at..)).unwrap_or("/")
        }
        _ => target,
    }
}

/// The body that a request announces after its head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Body {
    None,
    Some,
    /// The coding is not known here.
    UnknownCoding,
    /// The announcement contradicts itself, or its length is not a number.
    Invalid,
}

impl Body {
    fn of(fields: &[Header], is_1_1: bool) -> Body {
        let mut lengths = values(fields, "content-length");
        let mut codings = values(fields, "transfer-encoding").peekable();
        if codings.peek().is_some() {
            // Both fields at once, or a coding in HTTP/1.0, are means of request smuggling (RFC 9112, 6.1).
            return match lengths.next().is_some() || !is_1_1 {
                true => Body::Invalid,
                false if codings.all(|coding| coding.eq_ignore_ascii_case(b"chunked")) => Body::Some,
                false => Body::UnknownCoding,
            };
        }
        match (lengths.next(), lengths.next()) {
            (None, _) => Body::None,
            (Some(length), None) => match number(length) {
                Some(0) => Body::None,
                Some(_) => Body::Some,
                None => Body::Invalid,
            },
            _ => Body::Invalid,
        }
    }
}

/// A number of decimal digits only.
fn number(text: &[u8]) -> Option<u64> {
    let digits = text.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(text).ok().filter(|_| digits)?.parse().ok()
}

/// The values of all fields of this name.
fn values<'a>(fields: &'a [Header], name: &'a str) -> impl Iterator<Item = &'a [u8]> {
    fields.iter().filter(move |field| field.name.eq_ignore_ascii_case(name)).map(|field| field.value)
}

/// The items of the lists in all fields of this name.
fn items<'a>(fields: &'a [Header], name: &'a str) -> impl Iterator<Item = &'a [u8]> {
    values(fields, name).flat_map(|value| value.split(|byte| *byte == b',')).map(<[u8]>::trim_ascii)
}

fn asks_to_close(fields: &[Header]) -> bool {
    items(fields, "connection").any(|item| item.eq_ignore_ascii_case(b"close"))
}

/// The format that `Accept` prefers: OpenMetrics if its weight is positive and not below that of plain text.
fn format(fields: &[Header]) -> Format {
    let weight = |kind: &str| {
        let of_kind = items(fields, "accept").filter_map(|item| {
            let mut parts = std::str::from_utf8(item).ok()?.split(';').map(str::trim);
            parts.next().filter(|name| name.eq_ignore_ascii_case(kind))?;
            let quality = parts.find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")));
            quality.map_or(Some(1.0), |quality| quality.trim().parse::<f32>().ok())
        });
        of_kind.fold(0.0, f32::max)
    };
    let open_metrics = weight("application/openmetrics-text");
    match open_metrics > 0.0 && open_metrics >= weight("text/plain") {
        true => Format::OpenMetrics,
        false => Format::Prometheus,
    }
}

#[cfg(test)]
#[allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::string_slice,
    clippy::unwrap_used,
    reason = "a test that fails may panic"
)]
mod tests;
