//! `websocket` against streams of frames that are cut anywhere.

use super::*;
use crate::failure::HandshakeFault;
use crate::protocol::http::RequestHead;
use crate::protocol::websocket::{Header, LONGEST_CONTROL, Opcode, Role, check_request, mask, write_accept};

fn dialect(proof: &str) -> WebSocket {
    let settings = Settings { proof: Some(proof.to_owned()), payload: Some(100), ..Settings::default() };
    WebSocket::new(&settings).unwrap()
}

fn exchange(purpose: Purpose, round: u32) -> Exchange {
    Exchange { number: 7, round, purpose }
}

/// A server's frame.
fn frame(opcode: Opcode, last: bool, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    Header { opcode, last, mask: None, length: payload.len() as u64 }.append(&mut bytes);
    bytes.extend_from_slice(payload);
    bytes
}

/// The frames that a client said: opcodes and payloads.
fn said(mut bytes: &[u8]) -> Vec<(Opcode, Vec<u8>)> {
    let mut frames = Vec::new();
    while !bytes.is_empty() {
        let (header, length) = Header::read(bytes, Role::Client).unwrap().unwrap();
        let end = length + header.length as usize;
        let mut payload = bytes[length..end].to_vec();
        mask(header.mask.unwrap(), 0, &mut payload);
        frames.push((header.opcode, payload));
        bytes = &bytes[end..];
    }
    frames
}

/// What a server must answer to an exchange, its frame cut into fragments of so many bytes.
fn answer(dialect: &WebSocket, exchange: Exchange, each: usize) -> Vec<u8> {
    let mut asked = Vec::new();
    match exchange.purpose {
        Purpose::Open(step) => assert!(dialect.open(exchange.number, step, &mut asked)),
        Purpose::Goodbye => dialect.goodbye(exchange.number, &mut asked),
        _ => dialect.ask(exchange, &mut asked),
    }
    if exchange.purpose == Purpose::Open(0) {
        let key = check_request(&RequestHead::read(&asked).unwrap().unwrap().0).unwrap();
        let mut answer = Vec::new();
        write_accept(key.accept(), None, &mut answer);
        return answer;
    }
    let [(opcode, payload)] = &said(&asked)[..] else { panic!("{asked:?}") };
    match opcode {
        Opcode::Ping => frame(Opcode::Pong, true, payload),
        Opcode::Close => frame(Opcode::Close, true, payload),
        _ => fragments(*opcode, payload, each, b""),
    }
}

/// A message in fragments of so many bytes, with these bytes between them.
fn fragments(opcode: Opcode, payload: &[u8], each: usize, between: &[u8]) -> Vec<u8> {
    let pieces: Vec<&[u8]> = payload.chunks(each.max(1)).collect();
    let mut bytes = Vec::new();
    for (index, piece) in pieces.iter().enumerate() {
        let opcode = if index == 0 { opcode } else { Opcode::Continuation };
        bytes.extend(frame(opcode, index + 1 == pieces.len(), piece));
        bytes.extend_from_slice(if index + 1 < pieces.len() { between } else { b"" });
    }
    bytes
}

fn publication(number: u64, length: usize) -> Publication {
    Publication { run: number, number: length as u32, instant: !number, length: length.max(publication::LENGTH) as u32 }
}

fn payload(publication: Publication) -> Vec<u8> {
    let mut payload = Vec::new();
    publication.write(&mut payload);
    payload
}

/// Bytes to fill payloads with, mostly those of texts.
fn filling() -> impl Strategy<Value = Vec<u8>> {
    let text = "\\PC{1,3}".prop_map(String::into_bytes);
    prop_oneof![3 => text, 1 => prop::collection::vec(any::<u8>(), 1..4)]
}

proptest! {
    /// The whole life of a connection in one stream, with pings, pushes and other messages between the answers.
    #[test]
    fn frames_of_a_server_may_be_cut_anywhere(
        proof in prop::sample::select(vec!["ping", "echo"]), each in 1usize..150, length in 0usize..5_000, number: u64,
        cuts in prop_oneof![
            prop::collection::vec(1usize..7, 0..400), prop::collection::vec(1usize..2_000, 0..20), Just(vec![1; 40_000]),
        ],
    ) {
        let dialect = dialect(proof);
        let mut asked = vec![exchange(Purpose::Open(0), 0)];
        asked.extend(Some(exchange(Purpose::Open(1), 0)).filter(|_| proof == "echo"));
        asked.extend([(Purpose::Audit, 1), (Purpose::Message, 9), (Purpose::Keepalive, 4), (Purpose::Goodbye, 0)].map(|(p, r)| exchange(p, r)));
        let ping = frame(Opcode::Ping, true, b"are you there");
        let noise = [
            ping.clone(),
            // A push of which the first frame is whole, so that its number is seen, and pings are between its fragments.
            fragments(Opcode::Binary, &payload(publication(number, length)), 1_000, &frame(Opcode::Ping, true, b"")),
            fragments(Opcode::Text, b"c1m is a word here", 5, &frame(Opcode::Pong, true, b"unasked")),
            frame(Opcode::Text, true, b""),
        ].concat();
        let pings = 1 + payload(publication(number, length)).len().div_ceil(1_000) - 1;
        let noise_verdicts = |verdicts: &mut Vec<Verdict>| {
            verdicts.extend(std::iter::repeat_n(Verdict::Aside, pings));
            verdicts.push(Verdict::Push(publication(number, length)));
            // Three pongs, and two messages.
            verdicts.extend(std::iter::repeat_n(Verdict::Aside, 3 + 2));
        };
        let (mut stream, mut verdicts) = (Vec::new(), Vec::new());
        for exchange in &asked {
            stream.extend(answer(&dialect, *exchange, each));
            verdicts.push(Verdict::Proof);
            if exchange.purpose != Purpose::Goodbye {
                stream.extend_from_slice(&noise);
                noise_verdicts(&mut verdicts);
            }
        }
        let exchanges: Vec<_> = asked.iter().copied().map(Some).collect();
        let (heard, replied) = follow(&dialect, &exchanges, &stream, cuts.into_iter());
        prop_assert_eq!(heard, verdicts);
        // All pings but those after the goodbye was said are answered.
        let pongs = said(&replied);
        prop_assert!(pongs.iter().all(|(opcode, _)| *opcode == Opcode::Pong));
        prop_assert_eq!(pongs.len(), pings * (asked.len() - 2));
        prop_assert_eq!(pongs.iter().filter(|(_, payload)| payload == b"are you there").count(), asked.len() - 2);
    }

    /// A text that is passed over is right if the standard library takes it, however it is cut into fragments and pieces;
    /// of a binary message nothing is asked.
    #[test]
    fn a_text_that_is_passed_over_must_be_utf8(
        said in prop::collection::vec(filling(), 1..30).prop_map(|pieces| pieces.concat()), each in 1usize..40,
        proof in prop::sample::select(vec!["ping", "echo"]), asks: bool, cuts in prop::collection::vec(1usize..9, 0..60),
    ) {
        let (dialect, asked) = (dialect(proof), asks.then_some(exchange(Purpose::Audit, 3)));
        let verdict = |opcode| {
            let stream = fragments(opcode, &said, each, &frame(Opcode::Pong, true, b""));
            let verdicts = follow(&dialect, &[asked], &stream, cuts.iter().copied()).0;
            *verdicts.last().unwrap()
        };
        let right = if std::str::from_utf8(&said).is_ok() { Verdict::Aside } else { Verdict::Wrong(Cause::Malformed) };
        prop_assert_eq!((verdict(Opcode::Text), verdict(Opcode::Binary)), (right, Verdict::Aside));
    }

    /// Whatever comes, its verdicts do not depend on how it is cut, and nothing is kept beyond the bound.
    #[test]
    fn any_bytes_have_the_same_verdicts_however_they_are_cut(
        frames in prop::collection::vec((any::<u8>(), 0usize..140, filling(), 0usize..40), 0..8),
        tail in prop::collection::vec(any::<u8>(), 0..20),
        purpose in prop::sample::select(vec![Purpose::Audit, Purpose::Keepalive, Purpose::Goodbye]),
        proof in prop::sample::select(vec!["ping", "echo"]), asks: bool,
        cuts in prop::collection::vec(1usize..40, 0..60),
    ) {
        let dialect = dialect(proof);
        let asked = exchange(purpose, 3);
        let mut own = Vec::new();
        dialect.ask(exchange(Purpose::Audit, 3), &mut own);
        let own = said(&own)[0].1.clone();
        let mut stream = Vec::new();
        for (first, length, fill, ours) in frames {
            // Mostly frames, some of which begin as our own answer.
            let mut payload: Vec<u8> = fill.into_iter().cycle().take(length).collect();
            let ours = ours.min(own.len()).min(length);
            payload[..ours].copy_from_slice(&own[..ours]);
            let opcodes = [Opcode::Text, Opcode::Binary, Opcode::Continuation, Opcode::Ping, Opcode::Pong, Opcode::Close];
            let opcode = opcodes[usize::from(first) % 6];
            if opcode.is_control() {
                payload.truncate(LONGEST_CONTROL);
            }
            stream.extend(frame(opcode, first & 0x80 != 0 || opcode.is_control(), &payload));
        }
        stream.extend(tail);
        let exchanges = [asks.then_some(asked)];
        let whole = follow(&dialect, &exchanges, &stream, std::iter::empty());
        prop_assert_eq!(&follow(&dialect, &exchanges, &stream, cuts.into_iter()), &whole);
        prop_assert_eq!(&follow(&dialect, &exchanges, &stream, std::iter::repeat(1)), &whole);
    }
}

/// The rest of an answer may come after a goodbye was said.
#[test]
fn an_answer_that_was_cut_by_a_goodbye_is_passed_over() {
    let dialect = dialect("echo");
    let (audit, goodbye) = (exchange(Purpose::Audit, 3), exchange(Purpose::Goodbye, 0));
    let echo = answer(&dialect, audit, usize::MAX);
    for cut in 1..echo.len() {
        let (mut position, mut scratch) = (Position::default(), Scratch::default());
        let mut hear =
            |exchange, bytes: &[u8]| dialect.hear(Some(exchange), &mut position, bytes, &mut scratch).verdict;
        assert_eq!(hear(audit, &echo[..cut]), Verdict::Part);
        assert_eq!(hear(goodbye, &echo[cut..]), Verdict::Aside, "cut at {cut}");
        assert_eq!(hear(goodbye, &answer(&dialect, goodbye, 0)), Verdict::Proof);
    }
}

#[test]
fn what_a_server_must_not_say_is_wrong() {
    let [pings, echoes] = ["ping", "echo"].map(dialect);
    let audit = exchange(Purpose::Audit, 3);
    let verdict = |dialect: &WebSocket, asked: Option<Exchange>, bytes: &[u8]| {
        *follow(dialect, &[asked], bytes, std::iter::repeat(3)).0.last().unwrap()
    };
    let stale = |dialect| answer(dialect, exchange(Purpose::Audit, 2), 999);
    let other = |dialect| answer(dialect, Exchange { number: 8, ..audit }, 7);
    use Cause::{AnswerTooLong, CloseCode, HttpStatus, Malformed, Unasked, WrongAnswer};
    for dialect in [&pings, &echoes] {
        for bytes in [stale(dialect), other(dialect)] {
            assert_eq!(verdict(dialect, Some(audit), &bytes), Verdict::Wrong(WrongAnswer));
            assert_eq!(verdict(dialect, None, &bytes), Verdict::Wrong(Unasked));
            assert_eq!(verdict(dialect, Some(exchange(Purpose::Goodbye, 0)), &bytes), Verdict::Aside);
        }
        // A close is answered, and its code is the cause.
        let close = frame(Opcode::Close, true, b"\x03\xf5again");
        let (verdicts, replied) = follow(dialect, &[Some(audit)], &close, std::iter::repeat(2));
        assert_eq!(verdicts, [Verdict::Ended(CloseCode(1013))]);
        assert_eq!(said(&replied), [(Opcode::Close, b"\x03\xf5".to_vec())]);
        assert_eq!(verdict(dialect, None, &frame(Opcode::Close, true, b"")), Verdict::Ended(CloseCode(1005)));
        for malformed in [
            &b"\xc1"[..],
            b"\x83\x00",
            b"\x81\x80",
            b"\x89\x7e\x00\x7e",
            b"\x80\x00",
            b"\x01\x01a\x81\x01b",
            b"\x88\x01a",
            b"\x81\x01\xff",
            b"\x81\x02a\xc3",
            b"\x01\x01\xc3\x80\x01a",
        ] {
            assert_eq!(verdict(dialect, Some(audit), malformed), Verdict::Wrong(Malformed), "{malformed:?}");
        }
        assert_eq!(verdict(dialect, None, b"\x82\x7f\0\0\0\x01\0\0\0\0"), Verdict::Wrong(AnswerTooLong));
        let open = Some(exchange(Purpose::Open(0), 0));
        let refused = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 4\r\n\r\nbusy";
        assert_eq!(verdict(dialect, open, refused), Verdict::Ended(HttpStatus(503)));
        let accepted =
            b"HTTP/1.1 101 x\r\nupgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-accept: x\r\n\r\n";
        assert_eq!(verdict(dialect, open, accepted), Verdict::Wrong(Cause::Handshake(HandshakeFault::Accept)));
        let right = String::from_utf8(answer(dialect, exchange(Purpose::Open(0), 0), 999)).unwrap();
        for (from, to, cause) in [
            ("websocket", "h2c", Cause::Handshake(HandshakeFault::Upgrade)),
            (
                "\r\n\r\n",
                "\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n",
                Cause::Handshake(HandshakeFault::Extension),
            ),
            ("\r\n\r\n", "\r\nSec-WebSocket-Protocol: chat\r\n\r\n", Cause::Handshake(HandshakeFault::Subprotocol)),
        ] {
            assert_eq!(verdict(dialect, open, right.replace(from, to).as_bytes()), Verdict::Wrong(cause));
        }
        assert_eq!(verdict(dialect, open, b"SSH-2.0-x\r\n"), Verdict::Wrong(Malformed));
    }
    // A shorter echo of ours is no echo; a message that has not our mark is none of our business.
    let mut echo = answer(&echoes, audit, 999);
    echo.pop();
    echo[1] -= 1;
    assert_eq!(verdict(&echoes, Some(audit), &echo), Verdict::Wrong(WrongAnswer));
    assert_eq!(verdict(&echoes, Some(audit), &frame(Opcode::Text, true, b"c1m ech")), Verdict::Aside);
}

#[test]
fn settings_are_checked() {
    let made = |change: &dyn Fn(&mut Settings)| {
        let mut settings = Settings::default();
        change(&mut settings);
        Protocol::new("websocket", &settings).map_err(|error| error.to_string())
    };
    let text = |text: &str| Some(text.to_owned());
    let refused = |change: &dyn Fn(&mut Settings), words: &[&str]| {
        let error = made(change).unwrap_err();
        assert!(words.iter().all(|word| error.contains(word)) && !error.contains('\n'), "{error}");
    };
    refused(&|s| s.payload = Some(126), &["`payload` 126", "between 12 and 125"]);
    refused(&|s| (s.proof, s.payload) = (text("echo"), Some(24)), &["between 25 and 65535"]);
    refused(&|s| s.proof = text("token"), &["`proof` \"token\"", "choose ping or echo"]);
    refused(&|s| s.message_type = text("blob"), &["choose text or binary"]);
    refused(&|s| s.path = text("a"), &["`path` \"a\"", "begins with /"]);
    refused(&|s| s.path = text("/a b"), &["percent-encoded"]);
    refused(&|s| s.path = text("/{m}"), &["`path`, character 2", "{n}, {round} or {token}"]);
    refused(&|s| s.headers = vec!["x".to_owned()], &["`header` \"x\"", "no colon"]);
    refused(&|s| s.headers = vec!["a b: c".to_owned()], &["a name has"]);
    refused(&|s| s.headers = vec!["Upgrade: c".to_owned()], &["writes this one itself"]);
    refused(&|s| s.headers = vec![r"a: b\r\nc: d".to_owned()], &["no line breaks"]);
    for names in ["a, b c", "", ",", "a,a", "a,b, a"] {
        refused(&|s| s.subprotocol = text(names), &["`subprotocol`", "commas"]);
    }
    refused(&|s| s.body = text("a"), &["`body` with `protocol` websocket"]);
    let made = made(&|s| {
        (s.path, s.subprotocol) = (text("/room/{n}?t={token}"), text("chat, v2"));
        s.headers = vec!["Authorization: Bearer {n}".to_owned()];
        s.server = Some(Authority { hosts: vec!["h".to_owned()], first_port: 8_000, ports: 10, default_port: 80 });
    });
    let mut request = Vec::new();
    assert!(made.unwrap().open(13, 0, &mut request));
    let request = String::from_utf8(request).unwrap();
    assert!(
        request.starts_with("GET /room/13?t=") && request.ends_with("\r\nAuthorization: Bearer 13\r\n\r\n"),
        "{request}"
    );
    assert!(request.contains("\r\nHost: h:8003\r\n") && request.contains("-Protocol: chat, v2\r\n"), "{request}");
}

/// A subscriber says its texts and then pings; a publisher says what stands around the payload, and subscribes to nothing.
#[test]
fn subscribers_and_publishers_say_what_was_typed() {
    let text = |text: &str| text.to_owned();
    let settings = |role| Settings {
        role,
        path: Some(text("/feed")),
        subscribe: vec![text("join {n}"), text("{{}}")],
        publish: Some(text("say {n} {payload}!")),
        ..Settings::default()
    };
    let made = |role| WebSocket::new(&settings(role)).unwrap();
    let (subscriber, publisher) = (made(crate::protocol::Role::Subscriber), made(crate::protocol::Role::Publisher));
    let mut bytes = Vec::new();
    assert!(subscriber.open(7, 1, &mut bytes) && !subscriber.open(7, 2, &mut Vec::new()));
    let mut frames = said(&bytes);
    let (opcode, token) = frames.pop().unwrap();
    assert_eq!(opcode, Opcode::Ping);
    assert_eq!(frames, [(Opcode::Text, b"join 7".to_vec()), (Opcode::Text, b"{}".to_vec())]);
    // The pong to it ends the step, whatever else comes before.
    let open = exchange(Purpose::Open(1), 0);
    let stream = [frame(Opcode::Text, true, b"joined"), frame(Opcode::Pong, true, &token)].concat();
    let (verdicts, _) = follow(&subscriber, &[Some(open)], &stream, std::iter::repeat(1));
    assert_eq!(verdicts, [Verdict::Aside, Verdict::Proof]);

    assert!(!publisher.open(7, 1, &mut Vec::new()) && !subscriber.publish(7, &publication(1, 80), &mut Vec::new()));
    let mut bytes = Vec::new();
    assert!(publisher.publish(7, &publication(1, 80), &mut bytes));
    let message = [b"say 7 ", &payload(publication(1, 80))[..], b"!"].concat();
    assert_eq!(said(&bytes), [(Opcode::Text, message.clone())]);
    let (verdicts, _) = follow(&subscriber, &[None], &frame(Opcode::Text, true, &message), std::iter::repeat(3));
    assert_eq!(verdicts, [Verdict::Push(publication(1, 80))]);
    let wrong = [
        (
            Settings { publish: Some(text("{{payload}}")), ..settings(crate::protocol::Role::Publisher) },
            "put {payload} into it",
        ),
        (Settings { subscribe: vec![text(r"\xff")], ..settings(crate::protocol::Role::Subscriber) }, "UTF-8"),
    ];
    for (settings, words) in wrong {
        let error = WebSocket::new(&settings).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
}
