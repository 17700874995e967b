//! What a peer says over HTTP and WebSocket.

use super::Input;
use crate::protocol::http::chunks::MOST_BESIDE;
use crate::protocol::http::chunks::naive::{decoded, naive};
use crate::protocol::http::{Body, LONGEST_HEAD, MOST_FIELDS, RequestHead, ResponseHead};
use crate::protocol::push::{Frame, Receipt};
use crate::protocol::websocket::{
    Assembly, Close, Event, Key, LONGEST_CONTROL, Opcode, Role, Rules, check_request, check_response, text,
    write_accept, write_request_fields,
};
use crate::service::http::{Next, Requests};

/// Splits an input: the first bytes say where the rest is cut.
fn pieces(bytes: &[u8]) -> (Vec<usize>, &[u8]) {
    let (cuts, stream) = bytes.split_at(bytes.len().min(4));
    let mut input = Input(cuts);
    let mut at: Vec<usize> = (0..4).map(|_| usize::from(input.byte()) * stream.len() / 255).collect();
    at.extend([0, stream.len()]);
    at.sort_unstable();
    (at, stream)
}

/// What a stream of frames comes to.
#[derive(Debug, Default, PartialEq)]
struct Heard {
    /// Messages and control frames.
    events: Vec<(Opcode, Vec<u8>)>,
    /// Whether the stream breaks the protocol.
    is_broken: bool,
}

/// Hears a stream of frames that comes in pieces. What is kept never exceeds twice what a message may have.
fn heard(stream: &[u8], cuts: &[usize], from: Role) -> Heard {
    let rules = Rules { from, longest: 1_000 };
    let (mut assembly, mut heard) = (Assembly::default(), Heard::default());
    for piece in cuts.windows(2) {
        let (mut bytes, mut at) = (stream[piece[0]..piece[1]].to_vec(), 0);
        loop {
            let before = at;
            let (opcode, payload) = match assembly.next(rules, &mut bytes, &mut at) {
                Err(_) => return Heard { is_broken: true, ..heard },
                Ok(None) => break,
                Ok(Some(Event::Here(opcode, range))) => (opcode, bytes[range].to_vec()),
                Ok(Some(Event::Assembled(opcode))) => (opcode, assembly.payload(opcode).to_vec()),
            };
            assert!(at > before, "an event used nothing");
            assert!(payload.len() <= if opcode.is_control() { LONGEST_CONTROL } else { rules.longest });
            let wrong = match opcode {
                Opcode::Text => text(&payload).is_err(),
                Opcode::Close => Close::read(&payload).is_err(),
                _ => false,
            };
            if wrong {
                return Heard { is_broken: true, ..heard };
            }
            heard.events.push((opcode, payload));
        }
        assert_eq!(at, bytes.len(), "what is left would be lost");
        assert!(assembly.bytes() <= 2 * rules.longest + 2 * LONGEST_CONTROL + 64, "{}", assembly.bytes());
    }
    heard
}

/// Frames of a client or a server: the same events and the same end however they are cut.
pub fn frames(bytes: &[u8]) {
    let (cuts, stream) = pieces(bytes);
    for from in [Role::Client, Role::Server] {
        let whole = heard(stream, &[0, stream.len()], from);
        assert_eq!(heard(stream, &cuts, from), whole);
        assert_eq!(heard(stream, &(0..=stream.len()).collect::<Vec<_>>(), from), whole);
    }
}

/// The heads of an upgrade, from either end. What is taken for a request has an answer that is taken in turn; what is
/// taken for an answer follows from the key.
pub fn upgrade(bytes: &[u8]) {
    let key = Key::new(Input(bytes).next());
    if let Ok(Some((head, length))) = RequestHead::read(bytes) {
        assert!(length <= bytes.len().min(LONGEST_HEAD) && head.fields.iter().count() <= MOST_FIELDS);
        assert!(head.body != Body::UntilEnd, "a request ends by itself");
        assert!(head.target.contains(head.path()) || head.path() == "/");
        let (again, same) = RequestHead::read(&bytes[..length]).unwrap().unwrap();
        assert_eq!((again.method, again.target, same), (head.method, head.target, length));
        if let Ok(key) = check_request(&head) {
            let mut answer = Vec::new();
            write_accept(key.accept(), None, &mut answer);
            let (answer, _) = ResponseHead::read(&answer).unwrap().unwrap();
            check_response(&answer, key.accept(), &[]).unwrap();
        }
    }
    if let Ok(Some((head, length))) = ResponseHead::read(bytes) {
        assert!(length <= bytes.len());
        if check_response(&head, key.accept(), &["chat"]).is_ok() {
            assert_eq!(head.fields.get("sec-websocket-accept"), Some(key.accept().as_bytes()));
        }
    }
    let mut request = b"GET / HTTP/1.1\r\nHost: a\r\n".to_vec();
    write_request_fields(&key, &[], &mut request);
    request.extend_from_slice(b"\r\n");
    assert_eq!(check_request(&RequestHead::read(&request).unwrap().unwrap().0), Ok(key));
}

/// The requests of a stream that comes in pieces, each with its body, and whether one was refused.
fn asked(stream: &[u8], cuts: &[usize]) -> (Vec<(String, Vec<u8>)>, bool) {
    let (mut requests, mut key, mut all) = (Requests::new(1_000, 1 << 20), None, Vec::new());
    for piece in cuts.windows(2) {
        let (data, mut at) = (&stream[piece[0]..piece[1]], 0);
        while at < data.len() {
            let before = at;
            match requests.next(&mut key, data, &mut at) {
                Err(_) => return (all, true),
                Ok(Next::More { .. }) => assert_eq!(at, data.len(), "what is left would be lost"),
                Ok(Next::Whole(request)) => {
                    assert!(request.body().len() <= 1_000);
                    all.push((format!("{} {}", request.method(), request.target()), request.body().to_vec()));
                    requests.free(&mut key);
                    assert!(at > before, "a request used nothing");
                }
            }
        }
    }
    (all, false)
}

/// Requests of a client: the same ones however they are cut. A stream that is refused may be refused later where it is
/// cut, as a head is read again only once it may be complete.
pub fn requests(bytes: &[u8]) {
    let (cuts, stream) = pieces(bytes);
    let (whole, refused) = asked(stream, &[0, stream.len()]);
    for cuts in [cuts, (0..=stream.len()).collect()] {
        let (cut, cut_refused) = asked(stream, &cuts);
        assert_eq!(cut, whole);
        assert!(refused || !cut_refused);
    }
}

/// Bodies in chunks: the same as a naive decoder makes of the whole, however they are cut.
pub fn chunks(bytes: &[u8]) {
    let (cuts, stream) = pieces(&bytes[..bytes.len().min(MOST_BESIDE.into())]);
    let whole = naive(stream);
    assert_eq!(decoded(stream, &cuts), whole);
    assert_eq!(decoded(stream, &(0..=stream.len()).collect::<Vec<_>>()), whole);
}

/// Frames and receipts of a push server: each has one form.
pub fn publication(bytes: &[u8]) {
    if let Ok(Some(Frame { kind, length })) = Frame::read(bytes) {
        let mut again = Vec::new();
        if let Some(payload) = bytes.get(5..).and_then(|rest| rest.get(..length)) {
            Frame::append(kind, payload, &mut again);
            assert!(bytes.starts_with(&again));
        }
    }
    if let Some(receipt) = Receipt::read(bytes) {
        assert_eq!(receipt.to_string().as_bytes(), bytes);
    }
}
