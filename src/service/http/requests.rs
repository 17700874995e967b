//! Requests out of bytes that are cut anywhere. A request that lies whole in the receive buffer stays there; what has
//! come of any other is kept in a bounded table, and its connection has an entry only for that long.

use super::message::{Request, Response};
use crate::protocol::http::{Body, LONGEST_HEAD, Malformed, RequestHead};
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
    /// The length of its body is not announced.
    NoLength,
    /// It expects something that is not known here.
    Expectation,
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

impl Fault {
    /// What is answered.
    pub fn response(self) -> Response<'static> {
        match self {
            Fault::Malformed(malformed) => {
                let status = match malformed {
                    Malformed::Version => 505,
                    Malformed::TooLong => 431,
                    Malformed::Syntax | Malformed::Length | Malformed::Host => 400,
                };
                Response::text(status, format!("{malformed}\n"))
            }
            Fault::BodyTooLong => Response::text(413, "the body is too long\n"),
            Fault::NoLength => Response::text(411, "a body needs a Content-Length\n"),
            Fault::Expectation => Response::text(417, "only 100-continue can be expected\n"),
            Fault::Late => Response::text(408, "the request did not come in time\n"),
            Fault::NoRoom => Response::text(503, "too many requests are incomplete\n"),
        }
    }

    /// Counts it.
    pub fn count(self, counters: &Counters) {
        let counter = match self {
            Fault::Malformed(Malformed::TooLong) | Fault::BodyTooLong => &counters.requests_too_long,
            Fault::Malformed(_) | Fault::NoLength | Fault::Expectation => &counters.requests_malformed,
            Fault::Late => &counters.requests_late,
            Fault::NoRoom => &counters.requests_without_room,
        };
        counter.add(1);
    }
}

/// What has come of a request that is not whole.
#[derive(Debug, Default)]
struct Part {
    bytes: Vec<u8>,
    /// Bytes of its head and body together, once the head is whole.
    whole: Option<usize>,
    /// Of a request that is refused: bytes of its body that have not come, and are passed over.
    left: u64,
}

/// What is carried of a part: the bytes that have come, or how many of a refused request have not.
const COME: u8 = 0;
const LEFT: u8 = 1;

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
    /// The rest of a request that was refused.
    PassedOver,
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

    /// Takes what comes next in `data`, from `at` on, which moves behind it. `place` is the connection's, if a part of
    /// its request has come. A whole request may lie there: `free` the place when it is answered. A body that is too long
    /// has a place until it has come: to close the connection sooner would be a RST, which could overtake the answer.
    pub fn next<'a>(&'a mut self, place: &mut Option<u32>, data: &'a [u8], at: &mut usize) -> Result<Next<'a>, Fault> {
        if self.passes_over(*place) {
            return Ok(self.pass_over(place, data, at));
        }
        if place.is_some() {
            return match self.go_on(place, data, at) {
                Ok(true) => self.kept(*place),
                Ok(false) => Ok(Next::More { waits: false }),
                Err(Fault::BodyTooLong) => Err(Fault::BodyTooLong),
                Err(fault) => {
                    self.free(place);
                    Err(fault)
                }
            };
        }
        // Empty lines before a request are passed over (RFC 9112, 2.2).
        *at += data[*at..].iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
        let rest = &data[*at..];
        *at = data.len();
        let (whole, waits) = match RequestHead::read(rest)? {
            Some((head, length)) => {
                let body = self.body_of(&head);
                if body == Err(Fault::BodyTooLong) {
                    *place = self.keep_rest(None, &head, rest.len() - length);
                }
                let end = length + body?;
                if let Some(body) = rest.get(length..end) {
                    *at = data.len() - rest.len() + end;
                    return Ok(Next::Whole(Request { head, body }));
                }
                (Some(end), waits(&head))
            }
            None if rest.is_empty() => return Ok(Next::More { waits: false }),
            None => (None, false),
        };
        *place = Some(self.parts.put(None, Part { bytes: rest.to_vec(), whole, left: 0 })?);
        Ok(Next::More { waits })
    }

    /// The request that a connection had in its place is answered, or is not awaited any more.
    pub fn free(&mut self, place: &mut Option<u32>) {
        self.parts.free(place.take());
    }

    /// Takes out what has come of a connection's request, or how much of a refused one has not, for another process that
    /// goes on with it; empty if nothing is kept.
    pub fn carry<T>(&mut self, row: &mut Conversation<T>) -> Vec<u8> {
        let place = row.place();
        row.set_place(None);
        let Part { bytes, left, .. } = self.parts.take(place);
        self.parts.free(place);
        match (place, left) {
            (None, _) => Vec::new(),
            (Some(_), 0) => [&[COME], &bytes[..]].concat(),
            (Some(_), left) => [&[LEFT], &left.to_le_bytes()[..]].concat(),
        }
    }

    /// Keeps what `carry` has written in another process. Returns its place; `None` if that is no part of a request, or
    /// where there is no room for it.
    pub fn bring(&mut self, carried: &[u8]) -> Option<u32> {
        let part = match carried.split_first()? {
            (&COME, bytes) => {
                // What is no head is found when the head would be whole.
                let whole = match RequestHead::read(bytes) {
                    Ok(Some((head, length))) => Some(length + self.body_of(&head).ok()?),
                    Ok(None) | Err(_) => None,
                };
                let is_part = bytes.len() < whole.unwrap_or(LONGEST_HEAD + 1);
                is_part.then(|| Part { bytes: bytes.to_vec(), whole, left: 0 })?
            }
            (&LEFT, left) => Part { left: u64::from_le_bytes(left.try_into().ok()?), ..Part::default() },
            _ => return None,
        };
        self.parts.put(None, part).ok()
    }

    /// Whether a place is that of a request which was refused, and of which more is to come.
    pub fn passes_over(&mut self, place: Option<u32>) -> bool {
        place.and_then(|place| self.parts.get_mut(place)).is_some_and(|part| part.left > 0)
    }

    /// Passes over what comes of a request that was refused.
    fn pass_over(&mut self, place: &mut Option<u32>, data: &[u8], at: &mut usize) -> Next<'static> {
        let mut part = self.parts.take(*place);
        let passed = part.left.min((data.len() - *at) as u64);
        part.left -= passed;
        *at += passed as usize;
        if part.left == 0 {
            self.free(place);
            return Next::PassedOver;
        }
        *place = self.parts.put(*place, part).ok();
        Next::More { waits: false }
    }

    /// Gives a request whose body is too long a place, if more of it is to come. `come` bytes of the body have.
    fn keep_rest(&mut self, place: Option<u32>, head: &RequestHead<'_>, come: usize) -> Option<u32> {
        let left = match head.body {
            // The client that waits is not told to go on.
            Body::Length(length) if !waits(head) => length.saturating_sub(come as u64),
            _ => 0,
        };
        if left == 0 {
            self.parts.free(place);
            return None;
        }
        self.parts.put(place, Part { left, ..Part::default() }).ok()
    }

    /// Goes on with a request of which a part has come. Tells whether it is whole.
    fn go_on(&mut self, place: &mut Option<u32>, data: &[u8], at: &mut usize) -> Result<bool, Fault> {
        let mut part = self.parts.take(*place);
        let had = part.bytes.len();
        let rest = &data[*at..];
        let more = part.whole.map_or(rest.len(), |whole| rest.len().min(whole - had));
        part.bytes.extend_from_slice(&rest[..more]);
        *at += more;
        if part.whole.is_none()
            && has_empty_line(&part.bytes[had.saturating_sub(2)..])
            && let Some((head, length)) = RequestHead::read(&part.bytes)?
        {
            let body = self.body_of(&head);
            if body == Err(Fault::BodyTooLong) {
                *place = self.keep_rest(*place, &head, part.bytes.len() - length);
            }
            part.whole = Some(length + body?);
        }
        let whole = match part.whole {
            Some(whole) => {
                // What follows the request was appended while its end was not known.
                let beyond = part.bytes.len().saturating_sub(whole);
                part.bytes.truncate(whole);
                *at -= beyond;
                part.bytes.len() == whole
            }
            None if part.bytes.len() > LONGEST_HEAD => return Err(Malformed::TooLong.into()),
            None => false,
        };
        let kept = self.parts.put(*place, part);
        // Without room the place is free already.
        *place = kept.ok();
        Ok(kept.map(|_| whole)?)
    }

    /// The whole request in a place.
    fn kept(&mut self, place: Option<u32>) -> Result<Next<'_>, Fault> {
        let part = place.and_then(|place| self.parts.get_mut(place)).ok_or(Fault::NoRoom)?;
        let (head, length) = RequestHead::read(&part.bytes)?.ok_or(Malformed::Syntax)?;
        Ok(Next::Whole(Request { head, body: &part.bytes[length..] }))
    }

    /// Bytes of the body that follows a head.
    fn body_of(&self, head: &RequestHead<'_>) -> Result<usize, Fault> {
        if head.fields.list("expect").any(|expected| !expected.eq_ignore_ascii_case(b"100-continue")) {
            return Err(Fault::Expectation);
        }
        match head.body {
            Body::Length(length) if length > self.longest_body as u64 => Err(Fault::BodyTooLong),
            Body::Length(length) => Ok(length as usize),
            Body::Chunked | Body::UntilEnd => Err(Fault::NoLength),
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
        let (mut requests, mut place, mut all) = (Requests::new(100, 1 << 20), None, Vec::new());
        for piece in cuts.windows(2) {
            let (data, mut at) = (&stream[piece[0]..piece[1]], 0);
            while at < data.len() {
                match requests.next(&mut place, data, &mut at) {
                    Ok(Next::Whole(request)) => {
                        all.push((request.method().to_owned(), request.target().to_owned(), request.body().to_vec()));
                        requests.free(&mut place);
                    }
                    Ok(Next::More { .. }) => assert_eq!(at, data.len(), "what is left would be lost"),
                    Ok(Next::PassedOver) => unreachable!("nothing is refused before"),
                    Err(fault) => {
                        assert!(place.is_none() || fault == Fault::BodyTooLong, "a refused request has no place");
                        return (all, Some(fault), false);
                    }
                }
            }
        }
        (all, None, place.is_none())
    }

    fn request() -> impl Strategy<Value = (String, bool)> {
        let fields = prop::collection::vec("[A-Za-z]{1,8}: [ -~]{0,20}", 0..5);
        let parts = (any::<bool>(), "/[a-z?=]{0,20}", fields, "[ -~]{0,120}", "(\r\n){0,2}", any::<bool>());
        parts.prop_map(|(posts, target, fields, body, before, bare)| {
            let (method, length) =
                if posts { ("POST", format!("Content-Length: {}\r\n", body.len())) } else { ("GET", String::new()) };
            let fields: String = fields.iter().map(|field| format!("X-{field}\r\n")).collect();
            let head = format!("{before}{method} {target} HTTP/1.1\r\nHost: a\r\n{fields}{length}\r\n");
            let head = if bare { head.replace("\r\n", "\n") } else { head };
            (if posts { head + &body } else { head }, posts && body.len() > 100)
        })
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
        assert_eq!(fault("GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"), Fault::NoLength);
        assert_eq!(fault("GET / HTTP/1.1\r\nHost: a\r\nExpect: tea\r\n\r\n"), Fault::Expectation);
        assert_eq!(fault("\u{16}\u{3}\u{1}"), Fault::Malformed(Malformed::Syntax));
        let long = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}", "x".repeat(LONGEST_HEAD));
        let each: Vec<usize> = (0..=long.len()).collect();
        assert_eq!(taken(long.as_bytes(), &each).1, Some(Fault::Malformed(Malformed::TooLong)));
    }

    /// However it is cut, and no byte more.
    #[test]
    fn the_rest_of_a_body_that_is_too_long_is_passed_over() {
        let request = format!("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 10000\r\n\r\n{}", "x".repeat(10_000));
        let stream = format!("{request}GET");
        for each in [1, 7, 4_096] {
            let (mut requests, mut place) = (Requests::new(100, 1 << 20), None);
            let (mut fault, mut used) = (None, 0);
            for piece in stream.as_bytes().chunks(each) {
                let mut at = 0;
                let next = requests.next(&mut place, piece, &mut at);
                used += at;
                match next {
                    Ok(Next::PassedOver) => break,
                    Ok(Next::More { .. }) => assert_eq!(at, piece.len()),
                    Ok(Next::Whole(request)) => panic!("{request:?}"),
                    Err(refused) => assert_eq!(fault.replace(refused), None, "it is refused once"),
                }
                assert_eq!(requests.passes_over(place), fault.is_some());
            }
            assert_eq!(
                (fault, place, used),
                (Some(Fault::BodyTooLong), None, request.len()),
                "in pieces of {each} bytes"
            );
        }
        // Nothing more is to come.
        let waits = "PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 10000\r\nExpect: 100-continue\r\n\r\n";
        for text in [&request, waits] {
            let (mut requests, mut place) = (Requests::new(100, 1 << 20), None);
            assert_eq!(requests.next(&mut place, text.as_bytes(), &mut 0).unwrap_err(), Fault::BodyTooLong);
            assert_eq!(place, None);
        }
    }

    #[test]
    fn a_client_that_waits_is_told_to_go_on_once() {
        let (mut requests, mut place, mut at) = (Requests::new(100, 1 << 20), None, 0);
        let head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nExpect: 100-Continue\r\n\r\n";
        let next = requests.next(&mut place, head, &mut at).unwrap();
        assert!(matches!(next, Next::More { waits: true }));
        at = 0;
        assert!(matches!(requests.next(&mut place, b"a", &mut at).unwrap(), Next::More { waits: false }));
        at = 0;
        assert!(
            matches!(requests.next(&mut place, b"bc", &mut at).unwrap(), Next::Whole(request) if request.body() == b"ab")
        );
        assert_eq!(at, 1);
    }
}
