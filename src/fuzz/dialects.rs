//! What servers say to clients: any bytes, as the client's dialects judge them; and what is typed as a target.

use super::Input;
use crate::plan::Target;
use crate::protocol::push::FRAME_HEADER;
use crate::protocol::websocket::{self, Header, mask};
use crate::protocol::{
    Exchange, MOST_KEPT, Position, Protocol, Publication, Purpose, Role, Scratch, Settings, Verdict,
};

/// The verdicts on a stream that comes in pieces of so many bytes, up to the end of the connection, and what was replied.
fn heard(protocol: &Protocol, mut asked: Option<Exchange>, stream: &[u8], each: usize) -> (Vec<Verdict>, Vec<u8>) {
    let (mut verdicts, mut replied) = (Vec::new(), Vec::new());
    let (mut position, mut scratch) = (Position::default(), Scratch::default());
    for piece in stream.chunks(each) {
        let mut rest = piece;
        while !rest.is_empty() {
            let heard = protocol.hear(asked, &mut position, rest, &mut scratch);
            assert!((1..=rest.len()).contains(&heard.used) && scratch.kept.len() <= MOST_KEPT);
            rest = &rest[heard.used..];
            replied.append(&mut scratch.reply);
            match heard.verdict {
                Verdict::Part => assert!(rest.is_empty()),
                verdict => verdicts.push(verdict),
            }
            match heard.verdict {
                Verdict::Proof => asked = None,
                Verdict::Ended(_) | Verdict::Wrong(_) => return (verdicts, replied),
                _ => {}
            }
        }
    }
    (verdicts, replied)
}

/// The verdicts do not depend on how a stream is cut. Returns the replies.
fn judged(protocol: &Protocol, asked: Option<Exchange>, stream: &[u8], each: usize) -> Vec<u8> {
    let whole = heard(protocol, asked, stream, stream.len().max(1));
    assert_eq!(heard(protocol, asked, stream, each), whole);
    assert_eq!(heard(protocol, asked, stream, 1), whole);
    whole.1
}

/// Any exchange, for what a dialect says where nothing is awaited.
const AUDIT: Exchange = Exchange { number: 7, round: 3, purpose: Purpose::Audit };

/// What is awaited, if anything is, and in pieces of how many bytes the answer comes.
fn exchange(input: &mut Input<'_>) -> (Option<Exchange>, usize) {
    let purposes =
        [Purpose::Open(0), Purpose::Open(1), Purpose::Audit, Purpose::Message, Purpose::Keepalive, Purpose::Goodbye];
    let purpose = purposes.get(usize::from(input.byte()) % 7).copied();
    let (number, round, each) = (u64::from(input.byte()), input.byte().into(), usize::from(input.byte()).max(1));
    (purpose.map(|purpose| Exchange { number, round, purpose }), each)
}

/// The stream in which each byte 1 stands for bytes that none would find, such as a token.
fn with(bytes: &[u8], token: &[u8]) -> Vec<u8> {
    bytes.iter().flat_map(|byte| if *byte == 1 { token } else { std::slice::from_ref(byte) }).copied().collect()
}

/// Bytes of a stream with publications at most: 29 publications. More of them only take longer.
const LONGEST_PUBLISHING: usize = 2048;

/// As `with`; each byte 2 stands for a publication.
fn publishing(bytes: &[u8], token: &[u8]) -> Vec<u8> {
    let mut published = Vec::new();
    Publication { run: 1, number: 2, instant: 3, length: 70 }.write(&mut published);
    let stream = with(bytes, token);
    let stream = stream.iter().flat_map(|byte| if *byte == 2 { &published[..] } else { std::slice::from_ref(byte) });
    stream.copied().take(LONGEST_PUBLISHING).collect()
}

/// Frames of a server of WebSocket, and the answer to the handshake: what is replied are whole frames of a client.
pub fn server_frames(bytes: &[u8]) {
    let mut input = Input(bytes);
    let proof = if input.byte() % 2 == 0 { "ping" } else { "echo" };
    let (asked, each) = exchange(&mut input);
    let settings = Settings { proof: Some(proof.to_owned()), ..Settings::default() };
    let protocol = Protocol::new("websocket", &settings).unwrap();
    let mut own = Vec::new();
    // The handshake is no frame.
    let framed = asked.filter(|exchange| exchange.purpose != Purpose::Open(0));
    protocol.ask(framed.unwrap_or(AUDIT), &mut own);
    let (header, length) = Header::read(&own, websocket::Role::Client).unwrap().unwrap();
    mask(header.mask.unwrap(), 0, &mut own[length..]);
    let replied = judged(&protocol, asked, &with(input.0, &own[length..]), each);
    let mut rest = &replied[..];
    while !rest.is_empty() {
        let (header, length) = Header::read(rest, websocket::Role::Client).unwrap().unwrap();
        rest = &rest[length + header.length as usize..];
    }
}

/// Frames of the push service over plain bytes. None of them is answered.
pub fn pushes(bytes: &[u8]) {
    let mut input = Input(bytes);
    let role = if input.byte() % 2 == 0 { Role::Subscriber } else { Role::Publisher };
    let (asked, each) = exchange(&mut input);
    let protocol = Protocol::new("push", &Settings { role, ..Settings::default() }).unwrap();
    let mut own = Vec::new();
    protocol.ask(asked.unwrap_or(AUDIT), &mut own);
    assert!(judged(&protocol, asked, &publishing(input.0, &own[FRAME_HEADER..]), each).is_empty());
}

/// Lines and messages of a NATS server. Each PING of the server is answered by a PONG, and nothing else is.
pub fn nats(bytes: &[u8]) {
    let mut input = Input(bytes);
    let pings = (input.byte() % 2 == 1).then(|| "ping".to_owned());
    let (asked, each) = exchange(&mut input);
    let settings = Settings { proof: pings, subscribe: vec!["further.>".to_owned()], ..Settings::default() };
    let protocol = Protocol::new("nats", &settings).unwrap();
    let mut own = Vec::new();
    protocol.ask(asked.unwrap_or(AUDIT), &mut own);
    // Of what is published, the payload and its end: the last line.
    let payload = own.split_inclusive(|byte| *byte == b'\n').next_back().unwrap_or_default();
    let replied = judged(&protocol, asked, &publishing(input.0, payload), each);
    assert!(replied.chunks(6).all(|pong| pong == b"PONG\r\n"), "{replied:?}");
}

/// Responses of a server of HTTP. None of them is answered.
pub fn responses(bytes: &[u8]) {
    let mut input = Input(bytes);
    let text = |text: &str| Some(text.to_owned());
    let proof = if input.byte() % 2 == 0 { "status" } else { "token" };
    let (asked, each) = exchange(&mut input);
    let settings = Settings { path: text("/{token}"), proof: text(proof), ..Settings::default() };
    let protocol = Protocol::new("http", &settings).unwrap();
    let mut request = Vec::new();
    protocol.ask(asked.unwrap_or(AUDIT), &mut request);
    let token = &request["GET /".len()..][..16];
    assert!(judged(&protocol, asked, &with(input.0, token), each).is_empty());
}

/// A target is read as it is written, or refused in a line that shows no password.
pub fn target(bytes: &[u8]) {
    let typed = String::from_utf8_lossy(bytes);
    match typed.parse::<Target>() {
        Ok(target) => {
            assert_eq!(target.to_string().parse(), Ok(target.clone()));
            assert!(target.path.as_deref().is_none_or(|path| path.starts_with('/')));
            assert!(!target.url_host().is_empty());
        }
        Err(error) => {
            assert!(!error.is_empty() && !error.contains(char::is_control), "{error:?}");
            // Whatever may be a password leaves no trace.
            let server = typed.rsplit_once('@').map(|(_, server)| format!("@{server}"));
            assert!(
                server.is_none_or(|server| server.parse::<Target>() == Err(error)),
                "the error tells of a password"
            );
        }
    }
}
