//! WebSocket at the server: `c1m server --protocol websocket` with clients of tungstenite and of bytes, and a service of
//! one's own in this process.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use c1m::internal::protocol::websocket::{Header, Opcode, Role, mask};
use c1m::websocket::{
    Answer, Close, CloseCode, Ending, Fault, Request, Response, Upgrade, Violation, WebSocket, WebSocketCtx,
    WebSocketLimits, WebSocketService,
};
use c1m::{CloseReason, ConnId, Cores, Ports};
use tungstenite::protocol::CloseFrame;
use tungstenite::{Error, Message};

use crate::support::{PATIENCE, Server, connected, free_ports, has_server_names_and, number, reset};

mod answers;
mod late;
mod pauses;

/// What a client sends to ask for an upgrade.
const REQUEST: &[u8] = b"GET /any?thing HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/// The end of the answer that agrees.
const AGREED: &[u8] = b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

const KEY: [u8; 4] = [0xa5, 0x5a, 0x3c, 0xc3];

/// A masked frame.
fn frame(opcode: Opcode, last: bool, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    Header { opcode, last, mask: Some(KEY), length: payload.len() as u64 }.append(&mut bytes);
    let from = bytes.len();
    bytes.extend_from_slice(payload);
    mask(KEY, 0, &mut bytes[from..]);
    bytes
}

/// A client of bytes.
struct Bare(TcpStream);

impl Bare {
    fn connect(port: u16) -> Bare {
        let stream = connected(port);
        stream.set_nodelay(true).unwrap();
        Bare(stream)
    }

    fn open(port: u16) -> Bare {
        let mut bare = Bare::connect(port);
        bare.say(REQUEST);
        bare.agreed();
        bare
    }

    fn say(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).unwrap();
    }

    /// Reads a head.
    fn head(&mut self) -> String {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            self.0.read_exact(&mut byte).unwrap();
            head.extend(byte);
        }
        String::from_utf8(head).unwrap()
    }

    fn agreed(&mut self) {
        let head = self.head();
        assert!(head.starts_with("HTTP/1.1 101 ") && head.as_bytes().ends_with(AGREED), "{head}");
    }

    /// Reads a frame.
    fn hear(&mut self) -> (Opcode, Vec<u8>) {
        let mut bytes = Vec::new();
        loop {
            let mut byte = [0];
            self.0.read_exact(&mut byte).unwrap();
            bytes.extend(byte);
            if let Some((header, _)) = Header::read(&bytes, Role::Server).unwrap() {
                assert!(header.last);
                let mut payload = vec![0; header.length as usize];
                self.0.read_exact(&mut payload).unwrap();
                return (header.opcode, payload);
            }
        }
    }

    /// Reads a close with this code, and the end.
    fn closed(&mut self, code: u16) {
        let (opcode, payload) = self.hear();
        let text = String::from_utf8_lossy(&payload);
        assert_eq!((opcode, payload.get(..2)), (Opcode::Close, Some(&code.to_be_bytes()[..])), "{text}");
        self.ends();
    }

    fn ends(&mut self) {
        let mut rest = Vec::new();
        // A reset is an end too: what it sent last may not have been read.
        let end = self.0.read_to_end(&mut rest).map_err(|error| error.kind());
        assert!(matches!(end, Ok(0) | Err(ErrorKind::ConnectionReset)), "{end:?}, {rest:?}");
    }
}

fn websocket(port: u16, path: &str) -> tungstenite::WebSocket<TcpStream> {
    let (socket, answer) = tungstenite::client(format!("ws://127.0.0.1:{port}{path}"), connected(port)).unwrap();
    assert_eq!(answer.status(), 101);
    socket
}

#[test]
fn messages_of_every_size_come_back_to_an_independent_client() {
    let server = Server::start(1, "--protocol websocket --max-message 200000 --port-sharing all --json -");
    let mut socket = websocket(server.port, "/chat?room=7");
    let sizes = [0, 1, 125, 126, 127, 4_082, 4_083, 4_090, 4_096, 4_097, 65_535, 65_536, 70_000, 200_000];
    for size in sizes {
        let text: String = "grüße, "
            .chars()
            .cycle()
            .scan(0, |bytes, c| {
                *bytes += c.len_utf8();
                (*bytes <= size).then_some(c)
            })
            .collect();
        for message in [Message::text(text), Message::binary((0..size).map(|n| n as u8).collect::<Vec<_>>())] {
            socket.send(message.clone()).unwrap();
            assert_eq!(socket.read().unwrap(), message);
        }
    }
    // Many before the first is read: answers in their order.
    let many: Vec<_> = (0..300).map(|number| Message::text(format!("message {number}"))).collect();
    many.iter().for_each(|message| socket.write(message.clone()).unwrap());
    socket.write(Message::Ping("there?".into())).unwrap();
    socket.flush().unwrap();
    many.iter().for_each(|message| assert_eq!(socket.read().unwrap(), *message));
    assert_eq!(socket.read().unwrap(), Message::Pong("there?".into()));
    let close = CloseFrame { code: 4001.into(), reason: "enough".into() };
    socket.close(Some(close)).unwrap();
    let answer = socket.read().unwrap();
    assert!(matches!(&answer, Message::Close(Some(close)) if u16::from(close.code) == 4001), "{answer:?}");
    assert!(matches!(socket.read(), Err(Error::ConnectionClosed)));
    let document = server.stop().last_document();
    has_server_names_and(&document, &["http", "websocket"]);
    let websocket = &document["websocket"];
    assert_eq!([number(websocket, "upgrades"), number(websocket, "messages")], [1, 2 * sizes.len() as u64 + 300]);
    assert_eq!([number(websocket, "protocol_errors"), number(websocket, "not_utf8")], [0, 0], "{document}");
}

#[test]
fn frames_cut_anywhere_and_fragments_with_pings_between_them_are_understood() {
    let server = Server::start(1, "--protocol websocket");
    let said = [
        frame(Opcode::Text, false, "grü".as_bytes()),
        frame(Opcode::Ping, true, b"1"),
        frame(Opcode::Continuation, false, b""),
        frame(Opcode::Ping, true, b"2"),
        frame(Opcode::Continuation, true, "ße".as_bytes()),
        frame(Opcode::Binary, true, b"whole"),
        frame(Opcode::Pong, true, b"unasked"),
        frame(Opcode::Text, true, b""),
    ]
    .concat();
    let heard = [
        (Opcode::Pong, b"1".to_vec()),
        (Opcode::Pong, b"2".to_vec()),
        (Opcode::Text, "grüße".as_bytes().to_vec()),
        (Opcode::Binary, b"whole".to_vec()),
        (Opcode::Text, Vec::new()),
    ];
    let whole = [REQUEST, &said].concat();
    // All at once, byte by byte, and in two pieces that are cut at each place.
    let mut ways = vec![vec![whole.len()], vec![1; whole.len()]];
    ways.extend((1..said.len()).map(|cut| vec![REQUEST.len(), cut, said.len() - cut]));
    for way in ways {
        let (mut bare, mut at) = (Bare::connect(server.port), 0);
        for length in way {
            bare.say(&whole[at..at + length]);
            at += length;
        }
        bare.agreed();
        for expected in &heard {
            assert_eq!(bare.hear(), *expected);
        }
        bare.say(&frame(Opcode::Close, true, &1000u16.to_be_bytes()));
        bare.closed(1000);
    }
    server.stop();
}

#[test]
fn what_the_protocol_forbids_closes_the_connection_with_its_code_and_is_counted() {
    let server = Server::start(1, "--protocol websocket --max-message 1000 --json -");
    let violations: [(u16, Vec<u8>); 16] = [
        (1002, vec![0xc1, 0x80, 1, 2, 3, 4]),
        (1002, vec![0x83, 0x80, 1, 2, 3, 4]),
        (1002, vec![0x81, 0x00]),
        (1002, vec![0x81, 0xfe, 0, 1]),
        (1002, frame(Opcode::Ping, false, b"")),
        (1002, vec![0x89, 0xfe, 1, 0]),
        (1002, frame(Opcode::Continuation, true, b"")),
        (1002, [frame(Opcode::Text, false, b"a"), frame(Opcode::Text, true, b"b")].concat()),
        (1002, frame(Opcode::Close, true, b"\x03")),
        (1002, frame(Opcode::Close, true, &1005u16.to_be_bytes())),
        (1007, frame(Opcode::Close, true, b"\x03\xe8\xff")),
        (1007, frame(Opcode::Text, true, b"\xff")),
        // Refused before the frame is whole.
        (1007, frame(Opcode::Text, true, &[&b"\xff"[..], &[b'a'; 900]].concat())[..20].to_vec()),
        (1009, frame(Opcode::Binary, true, &[0; 1001])[..8].to_vec()),
        (1009, [frame(Opcode::Binary, false, &[0; 600]), frame(Opcode::Continuation, true, &[0; 600])].concat()),
        (1009, vec![0x82, 0xff, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 2, 3, 4]),
    ];
    for (code, bytes) in &violations {
        let mut bare = Bare::open(server.port);
        // What came before it is answered.
        bare.say(&[frame(Opcode::Text, true, b"before"), bytes.clone(), frame(Opcode::Text, true, b"behind")].concat());
        assert_eq!(bare.hear(), (Opcode::Text, b"before".to_vec()));
        if *code == 1009 {
            // The server awaits the rest of the message and a close, or the end.
            bare.0.shutdown(Shutdown::Write).unwrap();
        }
        bare.closed(*code);
    }
    // A close without a code is answered by one.
    let mut bare = Bare::open(server.port);
    bare.say(&frame(Opcode::Close, true, b""));
    assert_eq!(bare.hear(), (Opcode::Close, Vec::new()));
    bare.ends();
    let document = server.stop().last_document();
    let counted = ["protocol_errors", "not_utf8", "too_long"].map(|name| number(&document["websocket"], name));
    assert_eq!(counted, [10, 3, 3], "{document}");
}

/// A peer that sends on and on behind a violation still hears why it is closed.
#[test]
fn the_close_arrives_behind_whatever_the_peer_has_sent() {
    let server = Server::start(1, "--protocol websocket");
    for _ in 0..20 {
        let mut bare = Bare::open(server.port);
        let mut flood = frame(Opcode::Continuation, true, b"");
        flood.resize(60_000, 7);
        bare.say(&flood);
        let (opcode, payload) = bare.hear();
        assert_eq!((opcode, &payload[..2]), (Opcode::Close, &1002u16.to_be_bytes()[..]));
    }
    server.stop();
}

/// A peer that is in the middle of a message that is too long hears why it is closed, and can send the rest: a reset would
/// reach it before the close does.
#[test]
fn the_close_of_a_message_that_is_too_long_arrives_while_it_is_sent() {
    let server = Server::start(1, "--protocol websocket --max-message 1000");
    let mut bare = Bare::open(server.port);
    let long = frame(Opcode::Binary, true, &[7; 300_000]);
    bare.say(&long[..2_000]);
    let (opcode, payload) = bare.hear();
    assert_eq!((opcode, &payload[..2]), (Opcode::Close, &1009u16.to_be_bytes()[..]));
    // To a connection that is reset the second part could not be written.
    long[2_000..].chunks(1_000).for_each(|part| bare.say(part));
    bare.say(&[frame(Opcode::Text, true, b"later"), frame(Opcode::Close, true, b"\x03\xf1")].concat());
    assert_eq!(bare.0.read(&mut [0]).unwrap(), 0, "the end in order, and no reset");
    server.stop();
}

/// What the service was told.
#[derive(Debug, PartialEq)]
enum Told {
    Opened(ConnId),
    Pong(Vec<u8>),
    Peer(Option<u16>, String),
    Local(bool),
    Failed(Fault),
    Lost(CloseReason),
}

/// Does what its peers say, and tells what it was told.
struct Teller(Sender<Told>);

impl Teller {
    fn tell(&self, told: Told) {
        // The test has ended by then, perhaps.
        let _ = self.0.send(told);
    }
}

impl WebSocketService for Teller {
    type State = u32;
    type Message = (ConnId, &'static str);

    fn upgrade(&mut self, _: &mut WebSocketCtx<'_, u32>, _: ConnId, request: &Request<'_>) -> Upgrade {
        match request.path() {
            "/private" if request.field("authorization") != Some(b"Bearer of good news") => {
                Upgrade::Refuse(Response::text(401, "who are you?").field("WWW-Authenticate", "Bearer"))
            }
            "/chosen" => Upgrade::Accept(Some("second".into())),
            "/foreign" => Upgrade::Accept(Some("never offered".into())),
            _ => Upgrade::accept(),
        }
    }

    fn opened(&mut self, ctx: &mut WebSocketCtx<'_, u32>, conn: ConnId, request: &Request<'_>) {
        if request.path() == "/greeted" {
            ctx.send_text(conn, "welcome");
        }
        self.tell(Told::Opened(conn));
    }

    fn text(&mut self, ctx: &mut WebSocketCtx<'_, u32>, conn: ConnId, text: &str) -> Answer {
        let Some(said) = ctx.state(conn) else { return Answer::Nothing };
        *said += 1;
        let count = *said;
        match text {
            "count" => ctx.send_text(conn, &count.to_string()),
            "around" => {
                // Sent within the call: before the message itself.
                ctx.send_text(conn, "before");
                return Answer::Back;
            }
            "bytes" => ctx.send_binary(conn, b"\0\xff"),
            "ping" => ctx.ping(conn, b"are you there?"),
            "close" => return Answer::Close(CloseCode::RESTART),
            "adieu" => {
                ctx.send_text(conn, "adieu");
                return Answer::Close(CloseCode::RESTART);
            }
            "goodbye" => {
                ctx.close(conn, CloseCode::NORMAL, "as you wish");
                ctx.send_text(conn, "nothing is sent behind a close");
                return Answer::Back;
            }
            "deadline" => ctx.set_deadline(conn, Some(Duration::from_millis(250))),
            "in an hour" => ctx.set_deadline(conn, Some(Duration::from_secs(3_600))),
            "abort" => ctx.abort(conn),
            _ => return Answer::Back,
        }
        Answer::Nothing
    }

    fn binary(&mut self, _: &mut WebSocketCtx<'_, u32>, _: ConnId, bytes: &mut [u8]) -> Answer {
        bytes.reverse();
        Answer::Back
    }

    fn pong(&mut self, _: &mut WebSocketCtx<'_, u32>, _: ConnId, payload: &[u8]) {
        self.tell(Told::Pong(payload.to_vec()));
    }

    fn request<'r>(&mut self, ctx: &mut WebSocketCtx<'_, u32>, conn: ConnId, request: &'r Request<'r>) -> Response<'r> {
        if request.path() == "/abort" {
            ctx.abort(conn);
        }
        Response::text(404, request.target())
    }

    fn closed(&mut self, _: &mut WebSocketCtx<'_, u32>, _: ConnId, ending: Ending<'_>) {
        self.tell(match ending {
            Ending::Peer(Close { code, reason }) => Told::Peer(code.map(CloseCode::number), reason.to_owned()),
            Ending::Local { answered } => Told::Local(answered),
            Ending::Failed(fault) => Told::Failed(fault),
            Ending::Lost(reason) => Told::Lost(reason),
            other => panic!("{other:?}"),
        });
    }

    fn message(&mut self, ctx: &mut WebSocketCtx<'_, u32>, (conn, text): (ConnId, &'static str)) {
        match text {
            "pause" => assert!(ctx.pause_reads(conn)),
            "resume" => ctx.resume_reads(conn),
            "close" => ctx.close(conn, CloseCode::NORMAL, ""),
            "whenever" => ctx.set_deadline(conn, None),
            _ => ctx.send_text(conn, text),
        }
    }
}

/// A server in this process.
struct Here {
    server: Option<c1m::Server<(ConnId, &'static str)>>,
    told: Receiver<Told>,
    port: u16,
}

impl Here {
    fn start(limits: WebSocketLimits) -> Here {
        let (sender, told) = channel();
        let port = free_ports(1);
        let builder = c1m::Server::builder().bind(Ipv4Addr::LOCALHOST).ports(Ports::new(port, 1).unwrap());
        let builder = builder.cores(Cores::Count(1)).max_connections(1_000);
        let server = builder.start(move |_| WebSocket::with(Teller(sender.clone()), limits)).unwrap();
        Here { server: Some(server), told, port }
    }

    fn next(&self) -> Told {
        self.told.recv_timeout(PATIENCE).unwrap()
    }

    fn open(&self) -> (Bare, ConnId) {
        let bare = Bare::open(self.port);
        match self.next() {
            Told::Opened(conn) => (bare, conn),
            other => panic!("{other:?}"),
        }
    }
}

impl Drop for Here {
    fn drop(&mut self) {
        if let Some(server) = self.server.take() {
            server.stop();
            let ended = server.join();
            // A second panic would end the process, and the tests after this one.
            assert!(std::thread::panicking() || ended.is_ok(), "{ended:?}");
        }
    }
}

fn text(text: &str) -> Vec<u8> {
    frame(Opcode::Text, true, text.as_bytes())
}

#[test]
fn a_service_sends_answers_and_is_told_how_each_connection_ends() {
    let here = Here::start(WebSocketLimits::default());
    let (mut bare, conn) = here.open();
    // Answers that lie in the buffer, sends of the service and pongs keep their order.
    bare.say(&[text("one"), frame(Opcode::Binary, true, b"abc"), text("around"), text("count"), text("two")].concat());
    let expected = ["one", "cba", "before", "around", "3", "two"];
    let heard: Vec<_> = expected.iter().map(|_| String::from_utf8(bare.hear().1).unwrap()).collect();
    assert_eq!(heard, expected);
    bare.say(&text("bytes"));
    assert_eq!(bare.hear(), (Opcode::Binary, b"\0\xff".to_vec()));
    bare.say(&text("ping"));
    assert_eq!(bare.hear(), (Opcode::Ping, b"are you there?".to_vec()));
    bare.say(&frame(Opcode::Pong, true, b"are you there?"));
    assert_eq!(here.next(), Told::Pong(b"are you there?".to_vec()));
    here.server.as_ref().unwrap().mailbox().send(0, (conn, "from elsewhere")).unwrap();
    assert_eq!(bare.hear(), (Opcode::Text, b"from elsewhere".to_vec()));
    bare.say(&frame(Opcode::Close, true, &[&4000u16.to_be_bytes()[..], b"why not"].concat()));
    bare.closed(4000);
    assert_eq!(here.next(), Told::Peer(Some(4000), "why not".to_owned()));

    // What is sent within a call that closes goes out once, behind the answers before.
    let (mut bare, _) = here.open();
    bare.say(&[text("one"), frame(Opcode::Ping, true, b"two"), text("adieu")].concat());
    assert_eq!([(); 3].map(|()| bare.hear().1), ["one", "two", "adieu"].map(Vec::from));
    let close = 1012u16.to_be_bytes();
    assert_eq!(bare.hear(), (Opcode::Close, close.to_vec()));
    bare.say(&frame(Opcode::Close, true, &close));
    bare.ends();
    assert_eq!(here.next(), Told::Local(true));

    // The service closes, and the peer answers; messages behind the close are dropped.
    let (mut bare, _) = here.open();
    bare.say(&[text("goodbye"), text("more")].concat());
    assert_eq!(bare.hear(), (Opcode::Close, [&1000u16.to_be_bytes()[..], b"as you wish"].concat()));
    bare.say(&frame(Opcode::Close, true, &1000u16.to_be_bytes()));
    bare.ends();
    assert_eq!(here.next(), Told::Local(true));

    // It ends without a close, by either end.
    let (bare, _) = here.open();
    drop(bare);
    assert_eq!(here.next(), Told::Lost(CloseReason::PeerClosed));
    let (bare, _) = here.open();
    reset(bare.0);
    assert_eq!(here.next(), Told::Lost(CloseReason::PeerReset));
    let (mut bare, _) = here.open();
    bare.say(&text("abort"));
    assert_eq!(here.next(), Told::Lost(CloseReason::Local));
    let (mut bare, _) = here.open();
    bare.say(&frame(Opcode::Continuation, true, b""));
    assert_eq!(here.next(), Told::Failed(Fault::Violation(Violation::NothingToContinue)));
    bare.closed(1002);
}

#[test]
fn an_upgrade_is_refused_or_gets_one_of_the_subprotocols_that_were_offered() {
    let here = Here::start(WebSocketLimits::default());
    let ask = |path: &str, field: &str| {
        let mut bare = Bare::connect(here.port);
        let request = String::from_utf8(REQUEST.to_vec()).unwrap();
        bare.say(request.replace("/any?thing", path).replace("Host: a", &format!("Host: a\r\n{field}")).as_bytes());
        (bare.head(), bare)
    };
    let (head, mut bare) = ask("/private", "X: y");
    assert!(head.starts_with("HTTP/1.1 401 ") && head.contains("WWW-Authenticate: Bearer\r\n"), "{head}");
    // The connection is kept, and the client may ask better.
    let mut body = [0; 12];
    bare.0.read_exact(&mut body).unwrap();
    bare.say(REQUEST);
    bare.agreed();
    let (head, _bare) = ask("/private", "Authorization: Bearer of good news");
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    let (head, _bare) = ask("/chosen", "Sec-WebSocket-Protocol: first, second");
    assert!(head.contains("\r\nSec-WebSocket-Protocol: second\r\n"), "{head}");
    let (head, _bare) = ask("/foreign", "Sec-WebSocket-Protocol: first, second");
    assert!(head.starts_with("HTTP/1.1 101 ") && !head.contains("Sec-WebSocket-Protocol"), "{head}");
    let (head, _bare) = ask("/x", "Sec-WebSocket-Version: 8");
    assert!(head.starts_with("HTTP/1.1 426 ") && head.contains("Sec-WebSocket-Version: 13\r\n"), "{head}");
    let (head, mut bare) = ask("/greeted", "X: y");
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    assert_eq!(bare.hear(), (Opcode::Text, b"welcome".to_vec()));
}

#[test]
fn a_server_that_stops_says_so() {
    let here = Here::start(WebSocketLimits::default());
    let mut peers: Vec<Bare> = (0..20).map(|_| here.open().0).collect();
    here.server.as_ref().unwrap().stop();
    for peer in &mut peers {
        peer.closed(1001);
        assert_eq!(here.next(), Told::Lost(CloseReason::Stopping));
    }
}

/// Also those from which it is just receiving.
#[test]
fn a_server_that_stops_says_so_to_those_who_talk() {
    let here = Here::start(WebSocketLimits::default());
    let mut peers: Vec<Bare> = (0..30).map(|_| here.open().0).collect();
    let talkers: Vec<TcpStream> = peers.iter().map(|peer| peer.0.try_clone().unwrap()).collect();
    let hello = text("hello");
    std::thread::scope(|scope| {
        // So few bytes that neither end needs to read meanwhile.
        let talk = || (0..500).for_each(|_| talkers.iter().for_each(|mut talker| _ = talker.write_all(&hello)));
        scope.spawn(talk);
        peers[0].hear();
        here.server.as_ref().unwrap().stop();
        for peer in &mut peers {
            let last = std::iter::repeat_with(|| peer.hear()).find(|(opcode, _)| *opcode != Opcode::Text).unwrap();
            assert_eq!((last.0, &last.1[..2]), (Opcode::Close, &1001u16.to_be_bytes()[..]));
        }
    });
}

#[test]
fn incomplete_messages_have_a_bound_in_all() {
    let mut limits = WebSocketLimits::default();
    (limits.longest_message, limits.incomplete) = (1 << 20, 1 << 20);
    let here = Here::start(limits);
    // Each keeps some 300 kB that never becomes whole.
    let mut peers: Vec<Bare> = (0..8).map(|_| here.open().0).collect();
    let most = frame(Opcode::Binary, true, &vec![7; 400_000]);
    for peer in &mut peers {
        // Those that are closed meanwhile do not take it all.
        let _ = peer.0.write_all(&most[..300_000]);
    }
    let mut refused = 0;
    while here.server.as_ref().unwrap().counters()[0].messages_without_room < 4 {
        if let Ok(told) = here.told.recv_timeout(Duration::from_millis(5)) {
            assert_eq!(told, Told::Failed(Fault::NoRoom));
            refused += 1;
        }
    }
    assert!(refused < 8);
    // A small message needs no place, and those that were refused made room.
    let (mut other, _) = loop {
        let bare = Bare::open(here.port);
        match here.next() {
            Told::Opened(conn) => break (bare, conn),
            told => assert_eq!(told, Told::Failed(Fault::NoRoom)),
        }
    };
    other.say(&text("hello"));
    assert_eq!(other.hear(), (Opcode::Text, b"hello".to_vec()));
}
