//! Compared with tungstenite, an independent WebSocket: what one writes the other reads, and both judge the same bytes
//! in the same way.

use std::io::{self, Cursor, Read, Write};

use proptest::prelude::*;
use proptest::sample::Index;
use tungstenite::protocol::frame::CloseFrame;
use tungstenite::protocol::{Role as TheirRole, WebSocketConfig};
use tungstenite::{Error, Message, WebSocket};

use super::*;

/// What one end has written to the other.
struct Wire {
    read: Cursor<Vec<u8>>,
    written: Vec<u8>,
}

impl Wire {
    fn of(bytes: &[u8]) -> Wire {
        Wire { read: Cursor::new(bytes.to_vec()), written: Vec::new() }
    }
}

impl Read for Wire {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.read.read(into)
    }
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.written.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

const LONGEST: usize = 4_000;

fn theirs(role: TheirRole, bytes: &[u8]) -> WebSocket<Wire> {
    let config = WebSocketConfig::default().max_message_size(Some(LONGEST)).max_frame_size(Some(LONGEST));
    WebSocket::from_raw_socket(Wire::of(bytes), role, Some(config))
}

/// What a stream says, up to its first close, violation or end.
#[derive(Debug, PartialEq)]
struct Heard {
    said: Vec<(Opcode, Vec<u8>)>,
    violated: bool,
}

/// What tungstenite hears as a server.
fn heard_by_them(bytes: &[u8]) -> Heard {
    let (mut socket, mut said) = (theirs(TheirRole::Server, bytes), Vec::new());
    loop {
        let event = match socket.read() {
            Ok(Message::Text(text)) => (Opcode::Text, text.as_bytes().to_vec()),
            Ok(Message::Binary(bytes)) => (Opcode::Binary, bytes.to_vec()),
            Ok(Message::Ping(bytes)) => (Opcode::Ping, bytes.to_vec()),
            Ok(Message::Pong(bytes)) => (Opcode::Pong, bytes.to_vec()),
            // What it makes of a code that must not be sent.
            Ok(Message::Close(Some(close))) if close.reason == "Protocol violation" => {
                return Heard { said, violated: true };
            }
            Ok(Message::Close(close)) => {
                let mut payload = Vec::new();
                if let Some(CloseFrame { code, reason }) = close {
                    payload.extend(u16::from(code).to_be_bytes());
                    payload.extend(reason.as_bytes());
                }
                said.push((Opcode::Close, payload));
                return Heard { said, violated: false };
            }
            Ok(Message::Frame(_)) => unreachable!("it is only written"),
            // The stream ends.
            Err(Error::Io(_) | Error::ConnectionClosed) => return Heard { said, violated: false },
            Err(Error::Protocol(tungstenite::error::ProtocolError::ResetWithoutClosingHandshake)) => {
                return Heard { said, violated: false };
            }
            Err(_) => return Heard { said, violated: true },
        };
        said.push(event);
    }
}

/// What we hear as a server.
fn heard_by_us(bytes: &[u8]) -> Heard {
    let (mut assembly, mut said) = (Assembly::default(), Vec::new());
    let rules = Rules { from: Role::Client, longest: LONGEST };
    let (mut bytes, mut at) = (bytes.to_vec(), 0);
    loop {
        let (opcode, payload) = match assembly.next(rules, &mut bytes, &mut at) {
            Ok(None) => return Heard { said, violated: false },
            Ok(Some(Event::Here(opcode, range))) => (opcode, bytes[range].to_vec()),
            Ok(Some(Event::Assembled(opcode))) => (opcode, assembly.payload(opcode).to_vec()),
            Err(_) => return Heard { said, violated: true },
        };
        let wrong = match opcode {
            Opcode::Text => text(&payload).is_err(),
            Opcode::Close => Close::read(&payload).is_err(),
            _ => false,
        };
        if wrong {
            return Heard { said, violated: true };
        }
        said.push((opcode, payload));
        if opcode == Opcode::Close {
            return Heard { said, violated: false };
        }
    }
}

fn append(into: &mut Vec<u8>, opcode: Opcode, last: bool, mask_key: Option<[u8; 4]>, payload: &[u8]) {
    Header { opcode, last, mask: mask_key, length: payload.len() as u64 }.append(into);
    let from = into.len();
    into.extend_from_slice(payload);
    if let Some(key) = mask_key {
        mask(key, 0, &mut into[from..]);
    }
}

const OPCODES: [Opcode; 6] =
    [Opcode::Continuation, Opcode::Text, Opcode::Binary, Opcode::Close, Opcode::Ping, Opcode::Pong];

/// Frames in any order, most of them in one that is allowed.
fn frames() -> impl Strategy<Value = Vec<(Opcode, bool, Vec<u8>)>> {
    let payload = prop_oneof![
        "\\PC{0,40}".prop_map(String::into_bytes),
        prop::collection::vec(any::<u8>(), 0..130),
        Just(vec![b'a'; 3_000]),
    ];
    let frame = (0usize..12, prop::bool::weighted(0.8), payload).prop_map(|(kind, last, payload)| {
        let opcode = OPCODES.get(kind).copied().unwrap_or(Opcode::Text);
        let payload = if opcode.is_control() { payload[..payload.len().min(125)].to_vec() } else { payload };
        (opcode, last || opcode.is_control(), payload)
    });
    prop::collection::vec(frame, 0..8)
}

proptest! {
    /// Any frames, and frames with some bytes changed: the same messages, and a violation at the same place.
    #[test]
    fn both_hear_the_same(
        frames in frames(), key: [u8; 4], spoiled in prop::collection::vec(any::<(Index, u8)>(), 0..3)
    ) {
        let mut bytes = Vec::new();
        frames.iter().for_each(|(opcode, last, payload)| append(&mut bytes, *opcode, *last, Some(key), payload));
        for (at, byte) in spoiled.iter().filter(|_| !bytes.is_empty()).collect::<Vec<_>>() {
            let at = at.index(bytes.len());
            bytes[at] = *byte;
        }
        // We refuse a frame as soon as its header shows that, and they when it is whole: so each becomes whole.
        if !spoiled.is_empty() {
            bytes.resize(bytes.len() + LONGEST + LONGEST_HEADER, 0);
        }
        prop_assert_eq!(heard_by_us(&bytes), heard_by_them(&bytes));
    }

    /// What tungstenite says as a client, we hear.
    #[test]
    fn what_they_say_is_heard(said in prop::collection::vec(("\\PC{0,60}", any::<bool>()), 0..6), number in 1000u16..5000) {
        let mut socket = theirs(TheirRole::Client, &[]);
        let mut expected = Vec::new();
        for (text, is_text) in said {
            let bytes = text.clone().into_bytes();
            expected.push((if is_text { Opcode::Text } else { Opcode::Binary }, bytes.clone()));
            socket.send(if is_text { Message::text(text) } else { Message::binary(bytes) }).unwrap();
        }
        if let Some(code) = CloseCode::new(number) {
            socket.close(Some(CloseFrame { code: number.into(), reason: "bye".into() })).unwrap();
            let payload = [&code.number().to_be_bytes()[..], b"bye"].concat();
            expected.push((Opcode::Close, payload));
        }
        prop_assert_eq!(heard_by_us(&socket.get_ref().written), Heard { said: expected, violated: false });
    }

    /// What we say as a server, tungstenite hears as a client.
    #[test]
    fn what_we_say_is_heard(payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..400), 0..6)) {
        let mut bytes = Vec::new();
        payloads.iter().for_each(|payload| append(&mut bytes, Opcode::Binary, true, None, payload));
        let mut socket = theirs(TheirRole::Client, &bytes);
        for payload in payloads {
            prop_assert_eq!(socket.read().unwrap(), Message::binary(payload));
        }
    }
}

/// Their request for an upgrade is answered by ours, and the other way round.
#[test]
fn the_handshakes_agree() {
    use crate::protocol::http::{RequestHead, ResponseHead};
    let key = Key::new(*b"sixteen bytes!!!");
    let derived = tungstenite::handshake::derive_accept_key(key.as_bytes());
    assert_eq!(key.accept().as_bytes(), derived.as_bytes());
    let mut request = b"GET /path HTTP/1.1\r\nHost: example:8888\r\n".to_vec();
    write_request_fields(&key, &[], &mut request);
    request.extend_from_slice(b"\r\n");
    let accepted = tungstenite::accept(Wire::of(&request)).unwrap();
    let (answer, _) = ResponseHead::read(&accepted.get_ref().written).unwrap().unwrap();
    check_response(&answer, key.accept(), &[]).unwrap();
    let theirs = tungstenite::handshake::client::generate_key();
    let text = format!(
        "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {theirs}\r\n\r\n"
    );
    let (head, _) = RequestHead::read(text.as_bytes()).unwrap().unwrap();
    let key = check_request(&head).unwrap();
    assert_eq!(key.accept().as_bytes(), tungstenite::handshake::derive_accept_key(theirs.as_bytes()).as_bytes());
}
