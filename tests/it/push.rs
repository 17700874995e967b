//! `c1m server --service push`: what publishers send reaches every subscriber of every shard, and publishers are told.

mod bounds;

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::time::{Duration, Instant};

use c1m::internal::protocol::push::{FRAME_HEADER, Frame, Kind, PUBLISH_PATH, Receipt};
use c1m::push::{Push, PushLimits};
use c1m::{Cores, Ports};
use tungstenite::protocol::Role;
use tungstenite::{Message, WebSocket};

use crate::support::{PATIENCE, Server, connected, free_ports, has_server_names_and, last_words, number, write_unread};

fn websocket(port: u16, path: &str) -> WebSocket<TcpStream> {
    tungstenite::client(format!("ws://127.0.0.1:{port}{path}"), connected(port)).unwrap().0
}

#[test]
fn a_publication_over_websocket_reaches_each_subscriber_once_and_its_publisher_hears_of_how_many() {
    const SUBSCRIBERS: u64 = 40;
    let server = Server::start(1, "--protocol websocket --service push --port-sharing all --json -");
    // The kernel spreads them over the shards.
    let mut subscribers: Vec<_> = (0..SUBSCRIBERS).map(|_| websocket(server.port, "/news")).collect();
    let mut publishers: Vec<_> = (0..3).map(|_| websocket(server.port, PUBLISH_PATH)).collect();
    let messages = [Message::text("good morning"), Message::binary(vec![0, 255, 7]), Message::text("x".repeat(60_000))];
    for (publisher, message) in publishers.iter_mut().zip(&messages) {
        publisher.send(message.clone()).unwrap();
        publisher.send(message.clone()).unwrap();
        for number in 1..=2 {
            let Message::Text(text) = publisher.read().unwrap() else { panic!("a receipt is a text") };
            let receipt = Receipt::read(text.as_bytes());
            assert_eq!(receipt, Some(Receipt { number, subscribers: SUBSCRIBERS, missed: 0 }));
        }
    }
    // Publishers are no subscribers, and what a subscriber says is no publication.
    subscribers[0].send(Message::text("hello?")).unwrap();
    let mut poster = connected(server.port);
    poster
        .write_all(b"POST /publish HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\nConnection: close\r\n\r\nposted")
        .unwrap();
    let mut answer = String::new();
    poster.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 202 "), "{answer}");
    for subscriber in &mut subscribers {
        for message in messages.iter().flat_map(|message| [message, message]) {
            assert_eq!(subscriber.read().unwrap(), *message);
        }
        assert_eq!(subscriber.read().unwrap(), Message::text("posted"));
    }
    // One that has gone counts no more.
    subscribers.pop().unwrap().close(None).unwrap();
    let mut subscribers_told = SUBSCRIBERS;
    let mut number_told = 2;
    while subscribers_told == SUBSCRIBERS {
        publishers[0].send(Message::text("again")).unwrap();
        let Message::Text(text) = publishers[0].read().unwrap() else { panic!("a receipt is a text") };
        let receipt = Receipt::read(text.as_bytes()).unwrap();
        number_told += 1;
        assert_eq!((receipt.number, receipt.missed), (number_told, 0));
        subscribers_told = receipt.subscribers;
    }
    assert_eq!(subscribers_told, SUBSCRIBERS - 1);
    let document = server.stop().last_document();
    has_server_names_and(&document, &["http", "websocket", "push"]);
    assert_eq!(number(&document["push"], "publications"), 5 + number_told, "{document}");
    assert_eq!(number(&document["push"], "missed"), 0, "{document}");
}

/// A connection that posts and then subscribes is a subscriber as any other: what it says is no publication, and it gets no
/// receipts.
#[test]
fn who_posts_does_not_become_a_publisher() {
    let server = Server::start(1, "--protocol websocket --service push --core-list 0");
    let mut stream = connected(server.port);
    let post = "POST /publish HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n\r\nposted";
    let upgrade = "GET /news HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    // It has subscribed before its publication goes out.
    stream.write_all([post, upgrade].concat().as_bytes()).unwrap();
    let mut answers = Vec::new();
    while !(answers.ends_with(b"\r\n\r\n") && answers.windows(4).any(|word| word == b" 101")) {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        answers.extend(byte);
    }
    assert!(answers.starts_with(b"HTTP/1.1 202 "), "{}", String::from_utf8_lossy(&answers));
    let mut poster = WebSocket::from_raw_socket(stream, Role::Client, None);
    assert_eq!(poster.read().unwrap(), Message::text("posted"));
    poster.send(Message::text("hello?")).unwrap();
    poster.send(Message::Ping("heard?".into())).unwrap();
    assert_eq!(poster.read().unwrap(), Message::Pong("heard?".into()));
    let mut publisher = websocket(server.port, PUBLISH_PATH);
    publisher.send(Message::text("after")).unwrap();
    assert_eq!(poster.read().unwrap(), Message::text("after"));
    server.stop();
}

/// The bytes of a frame.
pub fn frame(kind: Kind, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    Frame::append(kind, payload, &mut bytes);
    bytes
}

/// A client of frames over plain bytes.
pub struct Framed(pub TcpStream);

impl Framed {
    pub fn say(&mut self, kind: Kind, payload: &[u8]) {
        self.0.write_all(&frame(kind, payload)).unwrap();
    }

    pub fn hear(&mut self) -> (Kind, Vec<u8>) {
        let mut header = [0; FRAME_HEADER];
        self.0.read_exact(&mut header).unwrap();
        let frame = Frame::read(&header).unwrap().unwrap();
        let mut payload = vec![0; frame.length];
        self.0.read_exact(&mut payload).unwrap();
        (frame.kind, payload)
    }
}

#[test]
fn a_publication_over_plain_bytes_is_carried_unchanged() {
    let server = Server::start(1, "--service push --port-sharing all --max-message 9000 --json -");
    let connect = || Framed(connected(server.port));
    let mut subscribers: Vec<_> = (0..20).map(|_| connect()).collect();
    for subscriber in &mut subscribers {
        subscriber.say(Kind::Subscribe, b"");
        assert_eq!(subscriber.hear(), (Kind::Subscribe, Vec::new()));
    }
    let mut publisher = connect();
    publisher.0.set_nodelay(true).unwrap();
    let mut publications: Vec<Vec<u8>> = vec![Vec::new(), b"short".to_vec(), vec![7; 9_000]];
    publications.extend((0..300u32).map(|number| number.to_be_bytes().to_vec()));
    for publication in &publications {
        publisher.say(Kind::Publish, publication);
    }
    for number in 1..=publications.len() as u64 {
        let (kind, text) = publisher.hear();
        assert_eq!(kind, Kind::Receipt);
        assert_eq!(Receipt::read(&text), Some(Receipt { number, subscribers: 20, missed: 0 }));
    }
    for subscriber in &mut subscribers {
        for publication in &publications {
            assert_eq!(subscriber.hear(), (Kind::Publish, publication.clone()));
        }
        // It may ask for a proof in between.
        subscriber.say(Kind::Echo, b"token");
        assert_eq!(subscriber.hear(), (Kind::Echo, b"token".to_vec()));
    }
    // Cut anywhere.
    let mut bytes = Vec::new();
    Frame::append(Kind::Echo, b"one", &mut bytes);
    Frame::append(Kind::Echo, b"two", &mut bytes);
    for byte in &bytes {
        publisher.0.write_all(&[*byte]).unwrap();
    }
    assert_eq!([publisher.hear(), publisher.hear()].map(|(_, payload)| payload), [b"one", b"two"]);
    for wrong in [&[0, 0, 0, 0][..], &[0, 0, 0, 1, b'?'], &[0, 0, 0, 2, b'R', 0], &[0, 1, 0, 0, b'P']] {
        let mut stranger = connect();
        stranger.0.write_all(wrong).unwrap();
        assert_eq!(last_words(&mut stranger.0), b"");
    }
    let document = server.stop().last_document();
    has_server_names_and(&document, &["push"]);
    let push = &document["push"];
    assert_eq!([number(push, "publications"), number(push, "pushes")], [303, 303 * 20], "{document}");
    assert_eq!(number(push, "refused"), 4, "{document}");
}

/// The longest publication reaches those that read, and its copies that are echoed come back with others behind them.
#[test]
fn the_longest_frame_goes_both_ways_with_the_limits_as_they_are() {
    let (server, port) = here(PushLimits::default());
    let cli = Server::start(1, "--service push --core-list 0");
    let long: Vec<u8> = (0..65_536).map(|at| at as u8).collect();
    for port in [port, cli.port] {
        let [mut subscriber, mut publisher] = [(); 2].map(|()| Framed(connected(port)));
        subscriber.say(Kind::Subscribe, b"");
        subscriber.hear();
        for number in 1..=5 {
            publisher.say(Kind::Publish, &long);
            let (kind, text) = publisher.hear();
            assert_eq!(kind, Kind::Receipt);
            assert_eq!(Receipt::read(&text), Some(Receipt { number, subscribers: 1, missed: 0 }));
            assert!(subscriber.hear() == (Kind::Publish, long.clone()), "{number}");
            let echoes = [frame(Kind::Echo, &long), frame(Kind::Echo, &[7; 2_000])];
            publisher.0.write_all(&echoes.concat()).unwrap();
            assert!([publisher.hear().1, publisher.hear().1] == [long.clone(), vec![7; 2_000]], "{number}");
        }
    }
    cli.stop();
    server.stop();
    server.join().unwrap();
}

#[test]
fn the_longest_message_and_the_longest_body_reach_a_subscriber_over_websocket() {
    let port = free_ports(1);
    let builder = c1m::Server::builder().bind(Ipv4Addr::LOCALHOST).ports(Ports::new(port, 1).unwrap());
    let builder = builder.cores(Cores::Count(1)).max_connections(100);
    let server = builder.start(|shard| c1m::websocket::WebSocket::new(Push::new(shard.mailbox()))).unwrap();
    let [mut subscriber, mut publisher] = ["/news", PUBLISH_PATH].map(|path| websocket(port, path));
    let long = "x".repeat(65_536);
    publisher.send(Message::text(&long)).unwrap();
    assert_eq!(subscriber.read().unwrap(), Message::text(&long));
    let mut poster = connected(port);
    write!(poster, "POST /publish HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{long}", long.len()).unwrap();
    assert_eq!(subscriber.read().unwrap(), Message::text(&long));
    server.stop();
    server.join().unwrap();
}

/// A server of frames over plain bytes in this process, on one shard.
fn here(limits: PushLimits) -> (c1m::Server<c1m::push::PushMessage>, u16) {
    let port = free_ports(1);
    let builder = c1m::Server::builder().bind(Ipv4Addr::LOCALHOST).ports(Ports::new(port, 1).unwrap());
    let builder = builder.cores(Cores::Count(1)).max_connections(100);
    (builder.start(move |shard| Push::with(shard.mailbox(), limits)).unwrap(), port)
}

/// A frame that is never whole holds its memory for a while only, and then others have it. A peer whose frames are all whole in
/// time is not ended, also if each receive ends within one.
#[test]
fn a_frame_that_is_never_whole_gives_its_room_back() {
    let mut limits = PushLimits::default();
    // For one such frame, of which up to twice the bytes are kept, and not for two.
    (limits.incomplete, limits.frame_time) = (64_200, Duration::from_secs(5));
    let (server, port) = here(limits);
    let [mut stream, mut late] = [(); 2].map(|()| Framed(connected(port)));
    let echo = frame(Kind::Echo, b"one of many");
    let half = echo.len() / 2;
    stream.0.write_all(&echo[..half]).unwrap();
    late.0.write_all(&frame(Kind::Echo, &[0; 32_000])[..30_000]).unwrap();
    late.0.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    let began = Instant::now();
    let seam = [&echo[half..], &echo[..half]].concat();
    let mut go_on = || {
        stream.0.write_all(&seam).unwrap();
        assert_eq!(stream.hear(), (Kind::Echo, b"one of many".to_vec()));
    };
    loop {
        go_on();
        match late.0.read(&mut [0]) {
            Ok(0) => break,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                assert!(began.elapsed() < PATIENCE, "it is late");
            }
            other => panic!("{other:?}"),
        }
    }
    go_on();
    let long = frame(Kind::Echo, &[7; 32_000]);
    let mut other = Framed(connected(port));
    other.0.write_all(&long[..30_000]).unwrap();
    go_on();
    other.0.write_all(&long[30_000..]).unwrap();
    assert_eq!(other.hear(), (Kind::Echo, vec![7; 32_000]));
    assert_eq!(server.counters()[0].frames_refused, 1);
    server.stop();
    server.join().unwrap();
}

/// A peer that reads no answers is not received from, so the rest of a frame of its is not late.
#[test]
fn a_frame_is_not_late_while_answers_wait_for_its_peer() {
    let mut limits = PushLimits::default();
    limits.frame_time = Duration::from_secs(5);
    let (server, port) = here(limits);
    let [mut slow, mut late] = [(); 2].map(|()| Framed(connected(port)));
    let echo = || frame(Kind::Echo, &[7; 50_000]);
    let (echoes, rest) = write_unread(&mut slow.0, echo, || server.counters().remove(0));
    // Its time ends after that of the other one.
    late.0.write_all(&echo()[..9]).unwrap();
    assert_eq!(late.0.read(&mut [0]).unwrap(), 0);
    let mut writer = slow.0.try_clone().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || writer.write_all(&rest).unwrap());
        for _ in 0..echoes {
            assert_eq!(slow.hear(), (Kind::Echo, vec![7; 50_000]));
        }
    });
    assert_eq!(server.counters()[0].frames_refused, 1);
    server.stop();
    server.join().unwrap();
}

/// What came before a frame that is refused is answered, also if its peer sends on.
#[test]
fn what_comes_before_a_refused_frame_is_answered() {
    let mut limits = PushLimits::default();
    (limits.incomplete, limits.longest_frame) = (1_000, 2_000);
    let (server, port) = here(limits);
    for refused in [frame(Kind::Receipt, b""), frame(Kind::Echo, &[0; 2_001]), frame(Kind::Echo, &[0; 1_900])] {
        let mut framed = Framed(connected(port));
        framed
            .0
            .write_all(&[frame(Kind::Echo, b"before"), refused[..refused.len().min(1_800)].to_vec()].concat())
            .unwrap();
        assert_eq!(framed.hear(), (Kind::Echo, b"before".to_vec()));
        assert_eq!(framed.0.read_to_end(&mut Vec::new()).unwrap(), 0, "the end in order");
    }
    assert_eq!(server.counters()[0].frames_refused, 3);
    server.stop();
    server.join().unwrap();
}
