//! `c1m server --service push`: what publishers send reaches every subscriber of every shard, and publishers are told.

use std::io::{Read, Write};
use std::net::TcpStream;

use c1m::internal::protocol::push::{FRAME_HEADER, Frame, Kind, PUBLISH_PATH, Receipt};
use tungstenite::{Message, WebSocket};

use crate::support::{Server, connected, has_server_names_and, number};

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
        assert_eq!(stranger.0.read_to_end(&mut Vec::new()).unwrap_or(0), 0);
    }
    let document = server.stop().last_document();
    has_server_names_and(&document, &["push"]);
    let push = &document["push"];
    assert_eq!([number(push, "publications"), number(push, "pushes")], [303, 303 * 20], "{document}");
}

/// More publications than can be under way: the publisher is closed, and the server goes on.
#[test]
fn a_publisher_that_waits_for_no_receipt_is_bounded() {
    let server = Server::start(1, "--service push --core-list 0");
    let mut flood = Framed(connected(server.port));
    let mut subscriber = Framed(connected(server.port));
    subscriber.say(Kind::Subscribe, b"");
    subscriber.hear();
    let mut bytes = Vec::new();
    (0..20_000).for_each(|_| Frame::append(Kind::Publish, b"", &mut bytes));
    // It is closed while it sends, or its publisher reads no receipts: both are bounded.
    let _ = flood.0.write_all(&bytes);
    subscriber.say(Kind::Echo, b"there?");
    while subscriber.hear() != (Kind::Echo, b"there?".to_vec()) {}
    server.stop();
}
