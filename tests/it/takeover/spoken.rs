//! What is said on connections goes on where it was when their server is replaced: records of TLS, frames of WebSocket,
//! requests of HTTP, and publications.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use c1m::internal::protocol::push::{Kind, PUBLISH_PATH, Receipt};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};
use tungstenite::protocol::frame::Frame;
use tungstenite::protocol::frame::coding::{Data, OpCode};
use tungstenite::{Message, WebSocket};

use super::*;
use crate::push::{Framed, frame};

impl House {
    /// The next server takes the place of the one before. Returns how many connections went.
    fn replace(&self, server: &mut Server) -> u64 {
        let next = self.server("--stats-interval 20ms");
        let said = ready(&next.running);
        let gave = handed_over(std::mem::replace(server, next));
        assert_eq!((number(&said, "taken_over"), number(&said, "lost_in_takeover")), (gave, 0), "{said}");
        gave
    }

    /// A TLS connection to one of the ports, whose handshake is over.
    pub fn secure(&self, number: usize, config: &Arc<ClientConfig>) -> Secure {
        shaken(self.connect(number), config)
    }

    /// A WebSocket connection to one of the ports.
    fn websocket(&self, number: usize, path: &str) -> WebSocket<TcpStream> {
        tungstenite::client(format!("ws://127.0.0.1{path}"), self.connect(number)).unwrap().0
    }
}

/// Does the handshake of an unmodified client of rustls.
fn shaken(socket: TcpStream, config: &Arc<ClientConfig>) -> Secure {
    let name = ServerName::try_from("localhost").unwrap();
    let mut stream = StreamOwned::new(ClientConnection::new(config.clone(), name).unwrap(), socket);
    while stream.conn.is_handshaking() {
        stream.conn.complete_io(&mut stream.sock).unwrap();
    }
    stream
}

/// Says something on a TLS connection, and wants exactly that back.
pub fn says(stream: &mut Secure, text: &str) {
    stream.write_all(text.as_bytes()).unwrap();
    let mut back = vec![0; text.len()];
    stream.read_exact(&mut back).unwrap_or_else(|error| panic!("{text}: {error}"));
    assert_eq!(String::from_utf8_lossy(&back), text);
}

/// The record of a text.
fn record(stream: &mut Secure, text: &str) -> Vec<u8> {
    stream.conn.writer().write_all(text.as_bytes()).unwrap();
    let mut record = Vec::new();
    stream.conn.write_tls(&mut record).unwrap();
    record
}

/// Three servers of TLS take each other's place, while some connections talk without a pause and change their keys, others
/// say nothing, and one is within a record. Every byte is checked, and every record is by rustls. With `is_old` all speak TLS 1.2,
/// which has no change of keys.
fn tls_in_turn(arguments: &str, is_old: bool) {
    let authority = Authority::new();
    let signed = authority.sign("server", &["localhost"]);
    let house = House::new(Ipv4Addr::LOCALHOST.into(), &format!("{} {arguments}", signed.server()));
    let configs = ["AES_128_GCM", "AES_256_GCM", "CHACHA20"]
        .map(|suite| Arc::new(if is_old { authority.old_client(Some(suite)) } else { authority.client(Some(suite)) }));
    let mut server = house.server("--stats-interval 20ms");
    let crowd = |count: usize| (0..count).map(|number| house.secure(number, &configs[number % 3])).collect::<Vec<_>>();
    let (mut silent, mut talking) = (crowd(30), crowd(18));
    silent.iter_mut().enumerate().for_each(|(number, stream)| says(stream, &format!("hello {number}")));
    let mut within = crowd(6);
    // Those that come while servers change, one in each turn.
    let mut kept = Vec::new();
    if arguments.contains("--hibernate") {
        eventually("the silent ones sleep", || counts(&server.running).1 >= 30);
    }
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _ends = SetAtEnd(&over);
        let talk = scope.spawn(|| {
            let mut round = 0;
            while !over.load(Ordering::Relaxed) {
                for (number, stream) in talking.iter_mut().enumerate() {
                    if (round + number) % 5 == 0 && !is_old {
                        stream.conn.refresh_traffic_keys().unwrap();
                    }
                    says(stream, &format!("round {round} of {number}"));
                }
                round += 1;
            }
            round
        });
        for (turn, config) in configs.iter().enumerate().take(2) {
            let cut: Vec<_> = within
                .iter_mut()
                .enumerate()
                .map(|(number, stream)| {
                    let record = record(stream, &format!("record {turn}"));
                    // Within the header, or behind it.
                    let at = if number % 2 == 0 { 3 } else { 20 };
                    stream.sock.write_all(&record[..at]).unwrap();
                    record[at..].to_vec()
                })
                .collect();
            // It has said nothing yet: its handshake is with the next server.
            let fresh = house.connect(turn);
            // Within a handshake: it is ended, as one that takes too long.
            let mut shaking = house.connect(turn);
            shaking.write_all(&[22, 3, 1, 2, 0, 1, 0]).unwrap();
            eventually("both are accepted", || counts(&server.running).0 == 56 + turn as u64);
            let gave = house.replace(&mut server);
            assert_eq!(gave, 55 + turn as u64, "turn {turn}");
            assert_eq!(shaking.read(&mut [0; 8]).unwrap(), 0);
            let mut fresh = shaken(fresh, config);
            says(&mut fresh, "and hello");
            kept.push(fresh);
            within.iter_mut().zip(cut).for_each(|(stream, rest)| {
                stream.sock.write_all(&rest).unwrap();
                let mut back = [0; 8];
                stream.read_exact(&mut back).unwrap();
                assert_eq!(back, *format!("record {turn}").as_bytes());
            });
        }
        over.store(true, Ordering::Relaxed);
        assert!(talk.join().unwrap() > 0);
    });
    silent.iter_mut().chain(&mut kept).for_each(|stream| says(stream, "good morning"));
    server.stop();
}

#[test(Network)]
fn tls_connections_go_from_server_to_server() {
    in_own_network(|| tls_in_turn("", false));
}

#[test(Network)]
fn connections_of_tls_1_2_go_from_server_to_server() {
    in_own_network(|| tls_in_turn("--tls-min 1.2", true));
}

#[test(Network, Hibernation)]
fn sleeping_connections_of_tls_1_2_go_from_server_to_server() {
    in_own_network(|| tls_in_turn("--tls-min 1.2 --hibernate 200ms", true));
}

#[test(Network, Hibernation)]
fn tls_connections_that_sleep_go_from_server_to_server() {
    in_own_network(|| tls_in_turn("--hibernate 200ms", false));
}

/// The secrets of sleeping connections were in the process that was killed, and so was what a message had come to: they
/// are reset at once, and counted.
#[test(Network, Hibernation)]
fn what_cannot_go_on_after_a_kill_is_reset() {
    in_own_network(|| {
        let authority = Authority::new();
        let signed = authority.sign("server", &["localhost"]);
        let config = Arc::new(authority.client(None));
        for arguments in [signed.server(), "--protocol websocket".to_owned()] {
            let house = House::new(Ipv4Addr::LOCALHOST.into(), &format!("--hibernate 200ms {arguments}"));
            let mut manager = Manager::new();
            let arguments = house.arguments("--stats-interval 20ms");
            let server = manager.start(&house, &arguments);
            let mut silent: Vec<TcpStream> = if arguments.contains("--tls-cert") {
                (0..20).map(|number| house.secure(number, &config).sock).collect()
            } else {
                (0..20).map(|number| house.websocket(number, "/").get_ref().try_clone().unwrap()).collect()
            };
            eventually("all sleep", || counts(&server.running) == (20, 20));
            server.running.signal(libc::SIGKILL);
            server.running.wait();
            let server = manager.start(&house, &arguments);
            let said = ready(&server.running);
            assert_eq!((number(&said, "taken_over"), number(&said, "lost_in_takeover")), (0, 20), "{said}");
            for stream in &mut silent {
                let ended = loop {
                    // Tickets may have come before.
                    match stream.read(&mut [0; 4096]) {
                        Ok(1..) => {}
                        ended => break ended,
                    }
                };
                assert_eq!(ended.unwrap_err().kind(), ErrorKind::ConnectionReset);
            }
            eventually("none is left", || counts(&server.running) == (0, 0));
            if arguments.contains("--tls-cert") {
                says(&mut house.secure(0, &config), "afresh");
            } else {
                house.websocket(0, "/").send(Message::text("afresh")).unwrap();
            }
            server.stop();
        }
    });
}

/// A piece of a text message.
fn piece(socket: &mut WebSocket<TcpStream>, payload: &'static str, opcode: Data, last: bool) {
    socket.send(Message::Frame(Frame::message(payload, OpCode::Data(opcode), last))).unwrap();
}

/// Messages that are cut by takeovers: between fragments, within a header, a mask, a payload and a character; and a request
/// within its head.
fn messages_are_cut(arguments: &str) {
    const MORNING: &str = "guten Morgen, schöner 日";
    let house = House::new(Ipv4Addr::LOCALHOST.into(), &format!("--protocol websocket {arguments}"));
    let sleeps = arguments.contains("--hibernate");
    let mut server = house.server("--stats-interval 20ms");
    let mut frame = vec![0x81, 0x80 | MORNING.len() as u8, 1, 2, 3, 4];
    frame.extend(MORNING.bytes().zip([1, 2, 3, 4].into_iter().cycle()).map(|(byte, mask)| byte ^ mask));
    let cuts: Vec<usize> = (1..frame.len()).collect();
    let mut cut: Vec<_> = cuts.iter().map(|number| house.websocket(*number, "/")).collect();
    let mut fragmented = house.websocket(0, "/");
    let mut asking = house.connect(1);
    piece(&mut fragmented, "one, ", Data::Text, false);
    asking.write_all(b"GET /healthz HT").unwrap();
    cut.iter_mut().zip(&cuts).for_each(|(socket, at)| socket.get_mut().write_all(&frame[..*at]).unwrap());
    let all = cut.len() as u64 + 2;
    let rests = || eventually("all have come", || counts(&server.running) == (all, if sleeps { all } else { 0 }));
    rests();
    assert_eq!(house.replace(&mut server), all);
    piece(&mut fragmented, "two, ", Data::Continue, false);
    asking.write_all(b"TP/1.1\r\nHost: a\r\n").unwrap();
    fragmented.send(Message::Ping("between".into())).unwrap();
    assert_eq!(fragmented.read().unwrap(), Message::Pong("between".into()));
    assert_eq!(house.replace(&mut server), all);
    piece(&mut fragmented, "three", Data::Continue, true);
    assert_eq!(fragmented.read().unwrap(), Message::text("one, two, three"));
    cut.iter_mut().zip(&cuts).for_each(|(socket, at)| {
        socket.get_mut().write_all(&frame[*at..]).unwrap();
        assert_eq!(socket.read().unwrap(), Message::text(MORNING), "cut at {at}");
    });
    asking.write_all(b"Connection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    asking.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    // Nothing was broken by it, nor is a close.
    cut[0].close(None).unwrap();
    while cut[0].read().is_ok() {}
    server.stop();
}

#[test(Network)]
fn messages_go_on_in_the_next_server() {
    in_own_network(|| messages_are_cut(""));
}

#[test(Network, Hibernation)]
fn messages_of_sleepers_go_on_in_the_next_server() {
    in_own_network(|| messages_are_cut("--hibernate 100ms"));
}

/// A request that is cut within its body by a takeover.
#[test(Network)]
fn a_request_goes_on_in_the_next_server() {
    in_own_network(|| {
        let house = House::new(Ipv4Addr::LOCALHOST.into(), "--protocol http");
        let mut server = house.server("--stats-interval 20ms");
        let mut kept = house.connect(0);
        for text in ["good morning", "good night"] {
            let (first, second) = text.split_at(6);
            write!(kept, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{first}", text.len()).unwrap();
            eventually("it has come", || counts(&server.running).0 == 1);
            assert_eq!(house.replace(&mut server), 1);
            kept.write_all(second.as_bytes()).unwrap();
            let answer = read_until(&mut kept, text.as_bytes());
            assert!(answer.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&answer));
        }
        server.stop();
    });
}

/// Publications without a pause while three servers take each other's place: each subscriber of each shard gets each of them
/// once and in order, and the publishers are told so, also of one that waited.
fn publications_reach_everybody_once(arguments: &str) {
    const SUBSCRIBERS: u64 = 30;
    let house = House::new(Ipv4Addr::LOCALHOST.into(), &format!("--protocol websocket --service push {arguments}"));
    let mut server = house.server("--stats-interval 20ms");
    let mut subscribers: Vec<_> = (0..SUBSCRIBERS).map(|number| house.websocket(number as usize, "/news")).collect();
    let publishers: Vec<_> = (0..2).map(|number| house.websocket(number, PUBLISH_PATH)).collect();
    eventually("all have come", || counts(&server.running).0 == SUBSCRIBERS + 2);
    let (over, published) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let _ends = SetAtEnd(&over);
        let publish = |mut publisher: WebSocket<TcpStream>, name: usize| {
            let mut number = 0;
            while !over.load(Ordering::Relaxed) {
                number += 1;
                publisher.send(Message::text(format!("{name} {number}"))).unwrap();
                published.fetch_add(1, Ordering::Relaxed);
                let Message::Text(text) = publisher.read().unwrap() else { panic!("a receipt is a text") };
                let receipt = Receipt::read(text.as_bytes());
                assert_eq!(receipt, Some(Receipt { number, subscribers: SUBSCRIBERS, missed: 0 }));
            }
            number
        };
        let threads: Vec<_> =
            publishers.into_iter().enumerate().map(|(name, one)| scope.spawn(move || publish(one, name))).collect();
        let count = || published.load(Ordering::Relaxed);
        for _ in 0..2 {
            let before = count();
            eventually("news come", || count() > before + 20);
            assert_eq!(house.replace(&mut server), SUBSCRIBERS + 2);
        }
        let before = count();
        eventually("news come", || count() > before + 20);
        over.store(true, Ordering::Relaxed);
        let last: Vec<u64> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
        for (at, subscriber) in subscribers.iter_mut().enumerate() {
            let mut heard = [0, 0];
            while heard[..] != last[..] {
                let Message::Text(text) = subscriber.read().unwrap() else { panic!("news are texts") };
                let (name, number) = text.split_once(' ').unwrap();
                let heard = &mut heard[name.parse::<usize>().unwrap()];
                *heard += 1;
                assert_eq!(number.parse(), Ok(*heard), "subscriber {at}");
            }
        }
    });
    server.stop();
}

#[test(Network)]
fn publications_reach_everybody_once_while_servers_change() {
    in_own_network(|| publications_reach_everybody_once(""));
}

#[test(Network, Hibernation)]
fn publications_reach_everybody_once_while_servers_with_sleepers_change() {
    in_own_network(|| publications_reach_everybody_once("--hibernate 100ms"));
}

/// Publications over plain bytes, of which one is cut by a takeover, and a subscriber's bytes too.
#[test(Network)]
fn publications_over_plain_bytes_go_on_in_the_next_server() {
    in_own_network(|| {
        let house = House::new(Ipv4Addr::LOCALHOST.into(), "--service push");
        let mut server = house.server("--stats-interval 20ms");
        let mut subscribers = [house.connect(0), house.connect(1)].map(Framed);
        for subscriber in &mut subscribers {
            subscriber.say(Kind::Subscribe, b"");
            assert_eq!(subscriber.hear(), (Kind::Subscribe, Vec::new()));
        }
        let mut publisher = Framed(house.connect(0));
        for number in 1..=3 {
            let text = format!("news {number}").into_bytes();
            let news = frame(Kind::Publish, &text);
            publisher.0.write_all(&news[..7]).unwrap();
            eventually("it has come", || counts(&server.running).0 == 3);
            assert_eq!(house.replace(&mut server), 3);
            publisher.0.write_all(&news[7..]).unwrap();
            for subscriber in &mut subscribers {
                assert_eq!(subscriber.hear(), (Kind::Publish, text.clone()));
            }
            let receipt = Receipt { number, subscribers: 2, missed: 0 };
            assert_eq!(publisher.hear(), (Kind::Receipt, receipt.to_string().into_bytes()));
        }
        server.stop();
    });
}

/// A server with other words on its connections takes nothing over.
#[test(Network)]
fn a_server_that_speaks_otherwise_takes_nothing_over() {
    in_own_network(|| {
        let authority = Authority::new();
        let tls = authority.sign("server", &["localhost"]).server();
        let house = House::new(Ipv4Addr::LOCALHOST.into(), "");
        let server = house.server("");
        let mut crowd = house.crowd(3);
        let cases = [
            (tls.as_str(), "do not speak TLS, and those of this one shall"),
            ("--protocol websocket", "speak raw, and those of this one shall speak websocket"),
            ("--service sink", "its service is echo, and this one's shall be sink"),
            ("--service push", "its service is echo, and this one's shall be push"),
        ];
        for (more, words) in cases {
            let ended = run(&server_arguments(house.port, house.ports, &house.arguments(more)));
            ended.fails_with(3, &["cannot be taken over", words, "it serves on"]);
        }
        audit(&mut crowd, "still there");
        server.stop();
    });
}
