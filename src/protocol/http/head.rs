//! Heads, read by httparse, and what their fields mean for the bytes that follow.

use std::fmt;

use crate::failure::Cause;

/// Bytes of a head at most.
pub const LONGEST_HEAD: usize = 16 * 1024;

/// Fields of a head at most.
pub const MOST_FIELDS: usize = 64;

/// Why bytes are no head that is taken here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Malformed {
    /// It is not HTTP.
    Syntax,
    /// It is HTTP of another version than 1.0 or 1.1.
    Version,
    /// It has more than 64 fields, or more than 16 KiB.
    TooLong,
    /// It has a `Content-Length` that is no number, or two that differ, or one beside a `Transfer-Encoding`; or `chunked`
    /// is not the last coding, or comes with HTTP/1.0: where the body ends is not certain (RFC 9112, 6.1 and 6.3).
    Length,
    /// A `Transfer-Encoding` that is not understood: another one than `chunked` (RFC 9112, 6.1).
    Coding,
    /// The chunks of a body are not right (RFC 9112, 7.1).
    Chunks,
    /// A request of HTTP/1.1 has no `Host`, or several, or one that is none (RFC 9112, 3.2).
    Host,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Malformed::Syntax => "this is not HTTP",
            Malformed::Version => "only HTTP/1.0 and HTTP/1.1 are spoken",
            Malformed::TooLong => "the head is too long or has too many fields",
            Malformed::Length => "where the body ends is not certain",
            Malformed::Coding => "chunked is the only transfer coding that is understood",
            Malformed::Chunks => "the chunks of the body are not right",
            Malformed::Host => "there must be one Host, a name or an address",
        })
    }
}

impl std::error::Error for Malformed {}

impl From<Malformed> for Cause {
    fn from(malformed: Malformed) -> Cause {
        if malformed == Malformed::TooLong { Cause::AnswerTooLong } else { Cause::Malformed }
    }
}

impl From<httparse::Error> for Malformed {
    fn from(error: httparse::Error) -> Malformed {
        match error {
            httparse::Error::Version => Malformed::Version,
            httparse::Error::TooManyHeaders => Malformed::TooLong,
            _ => Malformed::Syntax,
        }
    }
}

/// The body that follows a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Body {
    /// So many bytes, which may be none.
    Length(u64),
    /// Chunks, the last of which is empty.
    Chunked,
    /// All bytes until the connection ends. Never of a request.
    UntilEnd,
}

/// The fields of a head, in their order.
#[derive(Clone)]
pub struct Fields<'a> {
    all: [httparse::Header<'a>; MOST_FIELDS],
    len: usize,
}

impl fmt::Debug for Fields<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lossy = |value| String::from_utf8_lossy(value);
        f.debug_map().entries(self.iter().map(|(name, value)| (name, lossy(value)))).finish()
    }
}

impl<'a> Fields<'a> {
    fn empty() -> Fields<'a> {
        Fields { all: [httparse::EMPTY_HEADER; MOST_FIELDS], len: MOST_FIELDS }
    }

    /// Names and values.
    pub fn iter(&self) -> impl Iterator<Item = (&'a str, &'a [u8])> {
        self.all[..self.len].iter().map(|field| (field.name, field.value))
    }

    /// The values of all fields of a name, whose letters may be small or large.
    pub fn all(&self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        self.iter().filter(move |(given, _)| given.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// The value of the first field of a name.
    pub fn get(&self, name: &str) -> Option<&'a [u8]> {
        self.all(name).next()
    }

    /// The members of a list, which may be spread over several fields (RFC 9110, 5.6.1), without the empty ones.
    pub fn list(&self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        let members = self.all(name).flat_map(|value| value.split(|byte| *byte == b','));
        members.map(<[u8]>::trim_ascii).filter(|member| !member.is_empty())
    }

    /// Whether a list has a member, whose letters may be small or large.
    pub fn has(&self, name: &str, member: &str) -> bool {
        self.list(name).any(|given| given.eq_ignore_ascii_case(member.as_bytes()))
    }

    /// The one value of a field. `None` if there are several, or none.
    pub fn single(&self, name: &str) -> Option<&'a [u8]> {
        let mut values = self.all(name);
        let first = values.next();
        if values.next().is_some() { None } else { first }
    }

    /// Whether the connection goes on after this message, as far as its sender decides (RFC 9112, 9.3).
    fn keeps_alive(&self, minor: u8) -> bool {
        !self.has("connection", "close") && (minor >= 1 || self.has("connection", "keep-alive"))
    }

    /// Whether a body comes in chunks.
    fn is_chunked(&self, minor: u8) -> Result<bool, Malformed> {
        if self.get("transfer-encoding").is_none() {
            return Ok(false);
        }
        // Each coding, whether it is `chunked`.
        let codings = self.list("transfer-encoding").map(|coding| coding.eq_ignore_ascii_case(b"chunked"));
        match codings.collect::<Vec<_>>().split_last() {
            Some((true, [])) if minor >= 1 => Ok(true),
            Some((true, before)) if minor >= 1 && !before.contains(&true) => Err(Malformed::Coding),
            _ => Err(Malformed::Length),
        }
    }

    /// The length that the fields give to a body, and whether it comes in chunks.
    fn length(&self, minor: u8) -> Result<(Option<u64>, bool), Malformed> {
        let mut length = None;
        // The same length several times is one length (RFC 9110, 8.6).
        for value in self.all("content-length").flat_map(|value| value.split(|byte| *byte == b',')) {
            let value = value.trim_ascii();
            let digits = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
            let number = std::str::from_utf8(value).ok().filter(|_| digits).and_then(|digits| digits.parse().ok());
            let number: u64 = number.ok_or(Malformed::Length)?;
            if length.is_some_and(|before| before != number) {
                return Err(Malformed::Length);
            }
            length = Some(number);
        }
        let chunked = self.is_chunked(minor)?;
        if chunked && length.is_some() { Err(Malformed::Length) } else { Ok((length, chunked)) }
    }
}

/// The length of a head in `bytes`, if it is complete.
fn length(parsed: httparse::Status<usize>, bytes: &[u8]) -> Result<Option<usize>, Malformed> {
    let length = match parsed {
        httparse::Status::Complete(length) => Some(length),
        httparse::Status::Partial => None,
    };
    if length.unwrap_or(bytes.len()) > LONGEST_HEAD { Err(Malformed::TooLong) } else { Ok(length) }
}

/// Whether the third word of a request's first line is a version of HTTP.
pub fn names_a_version(head: &[u8]) -> bool {
    let line = head.trim_ascii_start().split(|byte| *byte == b'\n').next().unwrap_or_default();
    line.split(|byte| *byte == b' ').nth(2).is_some_and(|word| word.starts_with(b"HTTP/"))
}

/// Whether a field `Host` may have this value: a name or an address and perhaps a port, or nothing (RFC 9110, 7.2).
fn is_host(value: &[u8]) -> bool {
    let may_be = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=:[]".contains(byte);
    value.iter().all(may_be)
}

/// The head of a request.
#[derive(Debug, Clone)]
pub struct RequestHead<'a> {
    /// The method, such as `GET`.
    pub method: &'a str,
    /// What is asked for, as it stands in the first line: a path, perhaps with a query.
    pub target: &'a str,
    /// The version is HTTP/1.`minor`.
    pub minor: u8,
    /// The fields.
    pub fields: Fields<'a>,
    /// The body that follows.
    pub body: Body,
    /// Whether the client wants to go on with the connection.
    pub keeps_alive: bool,
}

impl<'a> RequestHead<'a> {
    /// Reads the head at the beginning of `bytes`, and its length. `None` if it is not complete.
    pub fn read(bytes: &'a [u8]) -> Result<Option<(RequestHead<'a>, usize)>, Malformed> {
        let mut fields = Fields::empty();
        let mut request = httparse::Request::new(&mut fields.all);
        let parsed = request.parse(bytes).map_err(|error| match error {
            // Something else stands in the version's place, such as the rest of a target with a space in it.
            httparse::Error::Version if !names_a_version(bytes) => Malformed::Syntax,
            error => error.into(),
        })?;
        let Some(length) = length(parsed, bytes)? else { return Ok(None) };
        let (Some(method), Some(target), Some(minor)) = (request.method, request.path, request.version) else {
            return Err(Malformed::Syntax);
        };
        fields.len = request.headers.len();
        let hosts = fields.all("host").count();
        if hosts > 1 || hosts == 0 && minor >= 1 || !fields.all("host").all(is_host) {
            return Err(Malformed::Host);
        }
        let body = match fields.length(minor)? {
            (_, true) => Body::Chunked,
            (length, false) => Body::Length(length.unwrap_or(0)),
        };
        let keeps_alive = fields.keeps_alive(minor);
        Ok(Some((RequestHead { method, target, minor, fields, body, keeps_alive }, length)))
    }

    /// What the answer has to say of the connection in the field of that name. A client of HTTP/1.0 takes a connection for
    /// closed unless it is told that it is kept (RFC 9112, 9.3).
    pub fn connection(&self) -> Option<&'static str> {
        match (self.keeps_alive, self.minor) {
            (false, _) => Some("close"),
            (true, 0) => Some("keep-alive"),
            (true, _) => None,
        }
    }

    /// The path of the target, without the query. A target may be a whole URL (RFC 9112, 3.2.2).
    pub fn path(&self) -> &'a str {
        let target = self.target.split('?').next().unwrap_or_default();
        match target.split_once("://") {
            Some((_, rest)) if !target.starts_with('/') => rest.find('/').map_or("/", |at| &rest[at..]),
            _ => target,
        }
    }
}

/// Whether an answer with this status never has a body (RFC 9112, 6.3).
pub fn has_no_body(status: u16) -> bool {
    matches!(status, 100..200 | 204 | 304)
}

/// The head of a response.
#[derive(Debug, Clone)]
pub struct ResponseHead<'a> {
    /// The status, such as 200.
    pub status: u16,
    /// The version is HTTP/1.`minor`.
    pub minor: u8,
    /// The fields.
    pub fields: Fields<'a>,
    /// The body that follows, if it is the response to a `GET` or `POST`.
    pub body: Body,
    /// Whether the server wants to go on with the connection.
    pub keeps_alive: bool,
}

impl<'a> ResponseHead<'a> {
    /// Reads the head at the beginning of `bytes`, and its length. `None` if it is not complete.
    pub fn read(bytes: &'a [u8]) -> Result<Option<(ResponseHead<'a>, usize)>, Malformed> {
        let mut fields = Fields::empty();
        let mut response = httparse::Response::new(&mut fields.all);
        let Some(length) = length(response.parse(bytes)?, bytes)? else { return Ok(None) };
        let (Some(status), Some(minor)) = (response.code, response.version) else { return Err(Malformed::Syntax) };
        fields.len = response.headers.len();
        let body = match fields.length(minor)? {
            _ if has_no_body(status) => Body::Length(0),
            (_, true) => Body::Chunked,
            (Some(length), false) => Body::Length(length),
            (None, false) => Body::UntilEnd,
        };
        let keeps_alive = fields.keeps_alive(minor) && body != Body::UntilEnd;
        Ok(Some((ResponseHead { status, minor, fields, body, keeps_alive }, length)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(text: &str) -> Result<RequestHead<'_>, Malformed> {
        RequestHead::read(text.as_bytes()).map(|read| read.unwrap().0)
    }

    #[test]
    fn a_request_is_read_with_its_fields_and_its_body() {
        let text = "POST /a?b=c HTTP/1.1\r\nhost: x\r\nCONTENT-LENGTH: 3, 3\r\nConnection: Upgrade\r\nconnection:a , CLOSE\r\n\r\nabc";
        let (head, length) = RequestHead::read(text.as_bytes()).unwrap().unwrap();
        assert_eq!(&text[length..], "abc");
        assert_eq!((head.method, head.target, head.path(), head.minor), ("POST", "/a?b=c", "/a", 1));
        assert_eq!((head.body, head.keeps_alive), (Body::Length(3), false));
        let path = |target: &str| {
            request(&format!("GET {target} HTTP/1.1\r\nhost: a\r\n\r\n")).map(|head| head.path().to_owned()).unwrap()
        };
        let targets = ["http://a:1/b?c=http://d/", "https://a", "https://a?b", "/http://a/b", "*", "a:1"];
        assert_eq!(targets.map(path), ["/b", "/", "/", "/http://a/b", "*", "a:1"]);
        assert!(head.fields.has("connection", "upgrade") && head.fields.has("Connection", "A"));
        assert_eq!((head.fields.single("host"), head.fields.single("connection")), (Some(&b"x"[..]), None));
        for cut in 0..length {
            assert!(RequestHead::read(&text.as_bytes()[..cut]).unwrap().is_none(), "{cut}");
        }
    }

    #[test]
    fn what_a_request_must_not_be() {
        let error = |text: &str| request(text).unwrap_err();
        assert_eq!(error("GET /\r\n\r\n"), Malformed::Syntax);
        assert_eq!(error("GET / HTTP/2.0\r\n\r\n"), Malformed::Version);
        assert_eq!(error("GET /a b HTTP/1.1\r\nhost: a\r\n\r\n"), Malformed::Syntax);
        assert_eq!(error("PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\n"), Malformed::Syntax);
        for host in ["a b", "a/b", "u@a", "\"a\"", "a\\b", "h\u{e9}"] {
            assert_eq!(error(&format!("GET / HTTP/1.1\r\nhost: {host}\r\n\r\n")), Malformed::Host, "{host}");
        }
        for host in ["", "a_b.example:80", "[::1]:80", "10.0.0.1", "xn--h-bga.example."] {
            assert!(request(&format!("GET / HTTP/1.1\r\nhost: {host}\r\n\r\n")).is_ok(), "{host}");
        }
        assert_eq!(error("GET / HTTP/1.1\r\n\r\n"), Malformed::Host);
        assert_eq!(error("GET / HTTP/1.1\r\nhost: a\r\nhost: a\r\n\r\n"), Malformed::Host);
        assert_eq!(error("GET / HTTP/1.1\r\nhost : a\r\n\r\n"), Malformed::Syntax);
        assert_eq!(error("GET / HTTP/1.1\r\nhost: a\r\n b\r\n\r\n"), Malformed::Syntax);
        let many = "a: b\r\n".repeat(MOST_FIELDS);
        assert_eq!(error(&format!("GET / HTTP/1.1\r\nhost: a\r\n{many}\r\n")), Malformed::TooLong);
        for fields in [
            "content-length: 1, 2",
            "content-length: -1",
            "content-length: +1",
            "content-length:",
            "content-length: 99999999999999999999",
            "content-length: 1\r\ncontent-length: 2",
            "content-length: 1\r\ntransfer-encoding: chunked",
            "transfer-encoding: chunked\r\ncontent-length: 1",
            "transfer-encoding: chunked\r\ntransfer-encoding: chunked",
            "transfer-encoding: chunked, gzip",
            "transfer-encoding: identity",
            "transfer-encoding: gzip",
            "transfer-encoding: xchunked",
            "transfer-encoding:",
        ] {
            assert_eq!(error(&format!("GET / HTTP/1.1\r\nhost: a\r\n{fields}\r\n\r\n")), Malformed::Length);
            let response = format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\n");
            assert_eq!(ResponseHead::read(response.as_bytes()).unwrap_err(), Malformed::Length, "{fields}");
        }
        assert_eq!(error("PUT / HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n"), Malformed::Length);
        let coded = |value: &str| {
            let text = format!("PUT / HTTP/1.1\r\nhost: a\r\nTransfer-Encoding: {value}\r\n\r\n");
            request(&text).map(|head| head.body)
        };
        assert_eq!(coded("gzip, chunked"), Err(Malformed::Coding));
        assert_eq!(coded(" , ChunKed"), Ok(Body::Chunked));
    }

    #[test]
    fn an_old_request_ends_its_connection_unless_it_asks_otherwise() {
        assert!(!request("GET / HTTP/1.0\r\n\r\n").unwrap().keeps_alive);
        assert!(request("GET / HTTP/1.0\r\nconnection: Keep-Alive\r\n\r\n").unwrap().keeps_alive);
    }

    #[test]
    fn where_the_body_of_a_response_ends() {
        let read = |text: &str| {
            let (head, _) = ResponseHead::read(text.as_bytes()).unwrap().unwrap();
            (head.status, head.body, head.keeps_alive)
        };
        assert_eq!(read("HTTP/1.1 101 Switching\r\n\r\n"), (101, Body::Length(0), true));
        assert_eq!(read("HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\n"), (200, Body::Length(7), true));
        assert_eq!(read("HTTP/1.1 200 OK\r\ntransfer-encoding:, Chunked\r\n\r\n"), (200, Body::Chunked, true));
        assert_eq!(read("HTTP/1.1 200 OK\r\n\r\n"), (200, Body::UntilEnd, false));
        assert_eq!(read("HTTP/1.1 204\r\nconnection: close\r\n\r\n"), (204, Body::Length(0), false));
    }
}
