//! Requests out of bytes that are cut anywhere. A request that lies whole in the receive buffer stays there; what has
//! come of any other is kept in a bounded table, and its connection has an entry only for that long.

use super::message::{Request, Response};
use crate::protocol::http::{Body, ChunkFault, Chunks, LONGEST_HEAD, Malformed, Piece, RequestHead};
use crate::service::conversation::Conversation;
use crate::service::slab::{Holds, NoRoom, Slab};
use crate::stats::Counters;

/// Why a request is refused. The connection is closed after the answer: where the next request would begin is not
/// certain, or the client is not to go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Its head cannot be read.
    Malformed(Malformed),
    /// Its body is longer than allowed.
    BodyTooLong,
    /// It expects something that is not known here.
    Expectation,
    /// It asks for a tunnel (CONNECT). An answer like others would tell its client that there is one (RFC 9110, 9.3.6).
    Tunnel,
    /// It did not come in time.
    Late,
    /// There is no room for one more request that is incomplete.
    NoRoom,
}

impl From<Malformed> for Fault {
    fn from(malformed: Malformed) -> Fault {
        Fault::Malformed(malformed)
    }
}

impl From<NoRoom> for Fault {
    fn from(_: NoRoom) -> Fault {
        Fault::NoRoom
    }
}

impl From<ChunkFault> for Fault {
    fn from(fault: ChunkFault) -> Fault {
        match fault {
            ChunkFault::Syntax => Malformed::Chunks.into(),
            ChunkFault::Size => Fault::BodyTooLong,
            // Extensions and trailers are of the kind of fields.
            ChunkFault::Beside => Malformed::TooLong.into(),
        }
    }
}

impl Fault {
    /// What is answered.
    pub fn response(self) -> Response<'static> {
        match self {
            Fault::Malformed(malformed) => {
                let status = match malformed {
                    Malformed::Version => 505,
                    Malformed::TooLong => 431,
                    Malformed::Coding => 501,
                    Malformed::Syntax | Malformed::Length | Malformed::Chunks | Malformed::Host => 400,
                };
                Response::text(status, format!("{malformed}\n"))
            }
            Fault::BodyTooLong => Response::text(413, "the body is too long\n"),
            Fault::Expectation => Response::text(417, "only 100-continue can be expected\n"),
            Fault::Tunnel => Response::text(501, "no tunnels are made\n"),
            Fault::Late => Response::text(408, "the request did not come in time\n"),
            Fault::NoRoom => Response::text(503, "too many requests are incomplete\n"),
        }
    }

    /// Counts it.
    pub fn count(self, counters: &Counters) {
        let counter = match self {
            Fault::Malformed(Malformed::TooLong) | Fault::BodyTooLong => &counters.requests_too_long,
            Fault::Malformed(_) | Fault::Expectation | Fault::Tunnel => &counters.requests_malformed,
            Fault::Late => &counters.requests_late,
            Fault::NoRoom => &counters.requests_without_room,
        };
        counter.add(1);
    }
}

/// What has come of a request that is not whole.
#[derive(Debug, Default)]
struct Part {
    /// Its head, and its body without what is around chunks.
    bytes: Vec<u8>,
    rest: Rest,
}

/// What is to come of a request.
#[derive(Debug, Clone, Copy, Default)]
enum Rest {
    /// The end of its head.
    #[default]
    Head,
    /// All until there are so many bytes.
    Until(usize),
    /// Chunks. The head has so many bytes.
    Chunks(usize, Chunks),
}

/// What is carried of a part: the bytes that have come; the same of a body in chunks, with how far they have come; and
/// bytes that are not to be read yet.
const COME: u8 = 0;
const CHUNKS: u8 = 2;
const HELD: u8 = 4;

impl Holds for Part {
    fn bytes(&self) -> usize {
        self.bytes.capacity()
    }
}

/// What comes next on a connection.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "a request is on the stack while it is answered, and nowhere else")]
pub enum Next<'a> {
    /// Nothing whole. All bytes are used. If `waits`, the client sends the body when it is told to go on.
    More { waits: bool },
    /// A whole request.
    Whole(Request<'a>),
}

/// What has come of a request with some more bytes.
#[derive(Debug, Clone, Copy)]
enum Come {
    Whole,
    /// If `waits`, the client sends the body when it is told to go on: its head is whole now.
    Part {
        waits: bool,
    },
}

/// The requests of a shard's connections that are incomplete.
#[derive(Debug)]
pub struct Requests {
    parts: Slab<Part>,
    longest_body: usize,
}

impl Requests {
    /// Requests with bodies of at most `longest_body` bytes, of which at most `most` bytes are incomplete at once.
    pub fn new(longest_body: usize, most: usize) -> Requests {
        Requests { parts: Slab::new(most), longest_body }
    }

    /// Takes what comes next in `data`, from `at` on, which moves behind it. `key` is that of the connection's
    /// request, if a part of it has come. A whole request may have a key: `free` it when the request is answered.
    pub fn next<'a>(&'a mut self, key: &mut Option<u32>, data: &'a [u8], at: &mut usize) -> Result<Next<'a>, Fault> {
        if key.is_some() {
            return match self.go_on(key, data, at) {
                Ok(Come::Whole) => self.kept(*key),
                Ok(Come::Part { waits }) => Ok(Next::More { waits }),
                Err(fault) => {
                    self.free(key);
                    Err(fault)
                }
            };
        }
        // Empty lines before a request are passed over (RFC 9112, 2.2).
        *at += data[*at..].iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
        let rest = &data[*at..];
        *at = data.len();
        let (part, waits) = match RequestHead::read(rest)? {
            None if rest.is_empty() => return Ok(Next::More { waits: false }),
            None => (Part { bytes: rest.to_vec(), rest: Rest::Head }, false),
            Some((head, length)) => match self.rest_of(&head, length)? {
                Rest::Until(end) if end <= rest.len() => {
                    *at = data.len() - rest.len() + end;
                    return Ok(Next::Whole(Request { head, body: &rest[length..end] }));
                }
                chunks @ Rest::Chunks(..) if length < rest.len() => {
                    let begun = Part { bytes: rest[..length].to_vec(), rest: chunks };
                    *at = data.len() - rest.len() + length;
                    *key = Some(self.parts.put(None, begun)?);
                    return self.next(key, data, at);
                }
                to_come => (Part { bytes: rest.to_vec(), rest: to_come }, waits(&head)),
            },
        };
        *key = Some(self.parts.put(None, part)?);
        Ok(Next::More { waits })
    }

    /// Keeps bytes that are not to be read yet, behind those that are kept: as many as one request may have, and what one more
    /// receive brings.
    pub fn keep(&mut self, key: &mut Option<u32>, data: &[u8]) -> Result<(), Fault> {
        let mut part = self.parts.take(*key);
        if part.bytes.len() + data.len() > self.most_held() {
            self.free(key);
            return Err(Fault::BodyTooLong);
        }
        part.bytes.extend_from_slice(data);
        let kept = self.parts.put(*key, part);
        // Without room the key is free already.
        *key = kept.ok();
        Ok(kept.map(drop)?)
    }

    /// Bytes at most that are kept of a connection before their turn.
    fn most_held(&self) -> usize {
        /// A receive may be under way when reads are paused. It brings a record of TLS at most.
        const LAST_RECEIVE: usize = 16 * 1024;
        (LONGEST_HEAD + LAST_RECEIVE).saturating_add(self.longest_body)
    }

    /// Takes such bytes out. Their key is free then.
    pub fn taken(&mut self, key: Option<u32>) -> Vec<u8> {
        let part = self.parts.take(key);
        self.parts.free(key);
        part.bytes
    }

    /// The request that had this key is answered, or is not awaited any more.
    pub fn free(&mut self, key: &mut Option<u32>) {
        self.parts.free(key.take());
    }

    /// Takes out what has come of a connection's request, for another process that goes on with it; empty if nothing is
    /// kept.
    pub fn carry<T>(&mut self, row: &mut Conversation<T>) -> Vec<u8> {
        let key = row.key();
        row.set_key(None);
        let Part { bytes, rest } = self.parts.take(key);
        self.parts.free(key);
        match rest {
            _ if key.is_none() => Vec::new(),
            Rest::Head if row.holds() => [&[HELD], &bytes[..]].concat(),
            Rest::Head | Rest::Until(_) => [&[COME], &bytes[..]].concat(),
            Rest::Chunks(_, chunks) => [&[CHUNKS], &chunks.to_bytes()[..], &bytes].concat(),
        }
    }

    /// Keeps what `carry` has written in another process. Returns its key; `None` if that is no part of a request, or
    /// where there is no room for it.
    pub fn bring(&mut self, carried: &[u8]) -> Option<u32> {
        let part = match carried.split_first()? {
            (&COME, bytes) => {
                // What is no head is found when the head would be whole.
                let rest = match RequestHead::read(bytes) {
                    Ok(Some((head, length))) => self.rest_of(&head, length).ok()?,
                    Ok(None) | Err(_) => Rest::Head,
                };
                let most = match rest {
                    Rest::Until(whole) => whole,
                    Rest::Head => LONGEST_HEAD + 1,
                    _ => return None,
                };
                (bytes.len() < most).then(|| Part { bytes: bytes.to_vec(), rest })?
            }
            (&CHUNKS, carried) => {
                let (chunks, bytes) = carried.split_first_chunk()?;
                let (head, length) = RequestHead::read(bytes).ok()??;
                let is_chunked = head.body == Body::Chunked && bytes.len() - length <= self.longest_body;
                let rest = Rest::Chunks(length, Chunks::of_bytes(*chunks)?);
                is_chunked.then(|| Part { bytes: bytes.to_vec(), rest })?
            }
            (&HELD, bytes) if bytes.len() <= self.most_held() => Part { bytes: bytes.to_vec(), rest: Rest::Head },
            _ => return None,
        };
        self.parts.put(None, part).ok()
    }

    /// Goes on with a request of which a part has come.
    fn go_on(&mut self, key: &mut Option<u32>, data: &[u8], at: &mut usize) -> Result<Come, Fault> {
        let mut part = self.parts.take(*key);
        let come = self.extend(&mut part, data, at)?;
        let kept = self.parts.put(*key, part);
        // Without room the key is free already.
        *key = kept.ok();
        Ok(kept.map(|_| come)?)
    }

    /// Adds to a part what belongs to it.
    fn extend(&self, part: &mut Part, data: &[u8], at: &mut usize) -> Result<Come, Fault> {
        let mut waits = false;
        if matches!(part.rest, Rest::Head) {
            let had = part.bytes.len();
            part.bytes.extend_from_slice(&data[*at..]);
            *at = data.len();
            let is_read = has_empty_line(&part.bytes[had.saturating_sub(2)..]);
            let Some((head, length)) = is_read.then(|| RequestHead::read(&part.bytes)).transpose()?.flatten() else {
                let is_too_long = part.bytes.len() > LONGEST_HEAD;
                return if is_too_long { Err(Malformed::TooLong.into()) } else { Ok(Come::Part { waits }) };
            };
            (part.rest, waits) = (self.rest_of(&head, length)?, self::waits(&head));
            // What follows the head was appended while its end was not known.
            *at -= part.bytes.len() - length;
            part.bytes.truncate(length);
        }
        match &mut part.rest {
            Rest::Head => Ok(Come::Part { waits }),
            Rest::Until(whole) => {
                let more = (data.len() - *at).min(*whole - part.bytes.len());
                part.bytes.extend_from_slice(&data[*at..*at + more]);
                *at += more;
                Ok(if part.bytes.len() == *whole { Come::Whole } else { Come::Part { waits } })
            }
            Rest::Chunks(head, chunks) => {
                let most = *head + self.longest_body;
                while *at < data.len() {
                    let (used, piece) = chunks.next(&data[*at..])?;
                    *at += used;
                    match piece {
                        Piece::End => return Ok(Come::Whole),
                        Piece::Content(content) => part.bytes.extend_from_slice(content),
                        Piece::Framing => {}
                    }
                    // What a chunk announces counts before it comes.
                    if part.bytes.len() + chunks.size as usize > most {
                        return Err(Fault::BodyTooLong);
                    }
                }
                Ok(Come::Part { waits })
            }
        }
    }

    /// The whole request that has a key.
    fn kept(&mut self, key: Option<u32>) -> Result<Next<'_>, Fault> {
        let part = key.and_then(|key| self.parts.get_mut(key)).ok_or(Fault::NoRoom)?;
        let (head, length) = RequestHead::read(&part.bytes)?.ok_or(Malformed::Syntax)?;
        Ok(Next::Whole(Request { head, body: &part.bytes[length..] }))
    }

    /// What is to come behind a head of `length` bytes.
    fn rest_of(&self, head: &RequestHead<'_>, length: usize) -> Result<Rest, Fault> {
        if head.fields.list("expect").any(|expected| !expected.eq_ignore_ascii_case(b"100-continue")) {
            return Err(Fault::Expectation);
        }
        if head.method == "CONNECT" {
            return Err(Fault::Tunnel);
        }
        match head.body {
            Body::Length(body) if body > self.longest_body as u64 => Err(Fault::BodyTooLong),
            Body::Length(body) => Ok(Rest::Until(length + body as usize)),
            // A request's body never ends with its connection.
            Body::Chunked | Body::UntilEnd => Ok(Rest::Chunks(length, Chunks::default())),
        }
    }
}

/// Whether the client sends the body only once it is told to go on (RFC 9110, 10.1.1).
fn waits(head: &RequestHead<'_>) -> bool {
    head.minor >= 1 && head.fields.has("expect", "100-continue")
}

/// Whether a line ends here and is followed by an empty one. Until then a head need not be read again.
fn has_empty_line(bytes: &[u8]) -> bool {
    bytes.windows(2).any(|pair| pair == b"\n\n") || bytes.windows(3).any(|three| three == b"\n\r\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use proptest::sample::Index;

    /// Method, target and body of each request, the fault that ended them, and whether nothing was left behind.
    type Taken = (Vec<(String, String, Vec<u8>)>, Option<Fault>, bool);

    /// What a stream of requests is that comes in pieces.
    fn taken(stream: &[u8], cuts: &[usize]) -> Taken {
        let (mut requests, mut key, mut all) = (Requests::new(100, 1 << 20), None, Vec::new());
        for piece in cuts.windows(2) {
            let (data, mut at) = (&stream[piece[0]..piece[1]], 0);
            while at < data.len() {
                match requests.next(&mut key, data, &mut at) {
                    Ok(Next::Whole(request)) => {
                        all.push((request.method().to_owned(), request.target().to_owned(), request.body().to_vec()));
                        requests.free(&mut key);
                    }
                    Ok(Next::More { .. }) => assert_eq!(at, data.len(), "what is left would be lost"),
                    Err(fault) => {
                        assert!(key.is_none(), "a refused request has no key");
                        return (all, Some(fault), false);
                    }
                }
            }
        }
        (all, None, key.is_none())
    }

    fn request() -> impl Strategy<Value = (String, bool)> {
        let fields = prop::collection::vec("[A-Za-z]{1,8}: [ -~]{0,20}", 0..5);
        // How many bytes a chunk of the body has, if it comes in chunks.
        let chunk = prop::option::of(1usize..50);
        let parts = (any::<bool>(), "/[a-z?=]{0,20}", fields, "[ -~]{0,120}", "(\r\n){0,2}", any::<bool>(), chunk);
        parts.prop_map(|(posts, target, fields, body, before, bare, chunk)| {
            let is_too_long = posts && body.len() > 100;
            let (method, length) = match chunk {
                _ if !posts => ("GET", String::new()),
                Some(_) => ("PUT", "Transfer-Encoding: chunked\r\n".to_owned()),
                None => ("POST", format!("Content-Length: {}\r\n", body.len())),
            };
            let body = chunk.map_or(body.clone(), |most| in_chunks(&body, most));
            let fields: String = fields.iter().map(|field| format!("X-{field}\r\n")).collect();
            let head = format!("{before}{method} {target} HTTP/1.1\r\nHost: a\r\n{fields}{length}\r\n");
            let head = if bare { head.replace("\r\n", "\n") } else { head };
            (if posts { head + &body } else { head }, is_too_long)
        })
    }

    /// Text in chunks, with an extension and a trailer.
    fn in_chunks(text: &str, most: usize) -> String {
        let chunks = text.as_bytes().chunks(most).map(|chunk| {
            let content = std::str::from_utf8(chunk).unwrap();
            format!("{:x};a=b\r\n{content}\r\n", chunk.len())
        });
        chunks.collect::<String>() + "0\r\nX-Sum: 1\r\n\r\n"
    }

    proptest! {
        /// Requests one after the other are the same however they are cut, and so is the one that is refused.
        #[test]
        fn requests_are_the_same_however_they_are_cut(
            all in prop::collection::vec(request(), 0..5), cuts in prop::collection::vec(any::<Index>(), 0..8)
        ) {
            let stream: String = all.iter().map(|(text, _)| text.as_str()).collect();
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
            cuts.extend([0, stream.len()]);
            cuts.sort_unstable();
            let whole = taken(stream.as_bytes(), &[0, stream.len()]);
            let too_long = all.iter().position(|(_, too_long)| *too_long);
            prop_assert_eq!(whole.0.len(), too_long.unwrap_or(all.len()));
            prop_assert_eq!(whole.1, too_long.map(|_| Fault::BodyTooLong));
            prop_assert_eq!(&taken(stream.as_bytes(), &cuts), &whole);
            prop_assert_eq!(&taken(stream.as_bytes(), &(0..=stream.len()).collect::<Vec<_>>()), &whole);
        }
    }

    #[test]
    fn what_is_refused() {
        let fault = |text: &str| taken(text.as_bytes(), &[0, text.len()]).1.unwrap();
        let chunked = |body: &str| format!("PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{body}");
        assert_eq!(fault(&chunked("65\r\n")), Fault::BodyTooLong);
        assert_eq!(fault(&chunked("1\nx\n0\n\n")), Fault::Malformed(Malformed::Chunks));
        assert_eq!(fault(&chunked(&"1;a\r\nx\r\n".repeat(5_000))), Fault::BodyTooLong);
        assert_eq!(fault(&chunked(&format!("0\r\nx: {}", "x".repeat(9_000)))), Fault::Malformed(Malformed::TooLong));
        assert_eq!(fault("GET / HTTP/1.1\r\nHost: a\r\nExpect: tea\r\n\r\n"), Fault::Expectation);
        assert_eq!(fault("CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n"), Fault::Tunnel);
        assert_eq!(fault("\u{16}\u{3}\u{1}"), Fault::Malformed(Malformed::Syntax));
        let long = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}", "x".repeat(LONGEST_HEAD));
        let each: Vec<usize> = (0..=long.len()).collect();
        assert_eq!(taken(long.as_bytes(), &each).1, Some(Fault::Malformed(Malformed::TooLong)));
    }

    #[test]
    fn the_body_of_a_request_in_chunks_is_what_they_hold() {
        let head = "PUT /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
        let stream =
            format!("{head}{}{head}0\r\n\r\nGET /b HTTP/1.1\r\nHost: a\r\n\r\n", in_chunks("four and more", 4));
        let (all, fault, is_done) = taken(stream.as_bytes(), &[0, stream.len()]);
        let expected = [("PUT", "/a", "four and more"), ("PUT", "/a", ""), ("GET", "/b", "")];
        assert_eq!(all, expected.map(|(method, path, body)| (method.into(), path.into(), body.into())));
        assert_eq!((fault, is_done), (None, true));
    }

    #[test]
    fn a_client_that_waits_is_told_to_go_on_once() {
        let (mut requests, mut key, mut at) = (Requests::new(100, 1 << 20), None, 0);
        let head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nExpect: 100-Continue\r\n\r\n";
        let next = requests.next(&mut key, head, &mut at).unwrap();
        assert!(matches!(next, Next::More { waits: true }));
        at = 0;
        assert!(matches!(requests.next(&mut key, b"a", &mut at).unwrap(), Next::More { waits: false }));
        at = 0;
        assert!(
            matches!(requests.next(&mut key, b"bc", &mut at).unwrap(), Next::Whole(request) if request.body() == b"ab")
        );
        assert_eq!(at, 1);
        requests.free(&mut key);
        // The head may come in pieces.
        for cut in 1..head.len() {
            for (piece, told) in [(&head[..cut], false), (&head[cut..], true), (b"ab", false)] {
                at = 0;
                let next = requests.next(&mut key, piece, &mut at).unwrap();
                assert_eq!(matches!(next, Next::More { waits: true }), told, "{cut}");
            }
            requests.free(&mut key);
        }
    }
}
