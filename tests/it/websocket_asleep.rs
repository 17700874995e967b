//! WebSocket connections that sleep: at both ends with keepalives, in the middle of a message, and as subscribers.

use std::io::{Read, Write};

use c1m::internal::protocol::push::PUBLISH_PATH;
use tungstenite::protocol::frame::Frame;
use tungstenite::protocol::frame::coding::{Data, OpCode};
use tungstenite::{Error, Message, WebSocket};

use crate::hibernation::{all_asleep, asleep_in_a_demo};
use crate::support::*;

/// Sleep soon, and tell often how many do.
const SLEEP: &str =
    "--protocol websocket --cores 1 --max-connections 1000 --hibernate 100ms --stats-interval 20ms --json -";

fn websocket(server: &Server, path: &str) -> WebSocket<std::net::TcpStream> {
    tungstenite::client(format!("ws://127.0.0.1:{}{path}", server.port), connected(server.port)).unwrap().0
}

#[test(Network, Hibernation)]
fn a_demo_of_each_protocol_proves_sleepers_at_both_ends() {
    in_own_network(|| {
        for protocol in ["websocket", "http"] {
            asleep_in_a_demo(&format!("--protocol {protocol}"), 1_000);
        }
    });
}

/// The sweep wakes each connection at both ends, hears its pong, and lets it sleep again; so do messages. All of them say
/// goodbye in the end.
#[test(Network, Hibernation)]
fn keepalives_wake_sleepers_which_then_sleep_again() {
    const CONNECTIONS: u64 = 300;
    in_own_network(|| {
        for proof in ["ping", "echo"] {
            in_ever_longer_times("each falls asleep between keepalives, twice or more", |seconds| {
                let server = Server::start(4, SLEEP);
                let words =
                    format!("--protocol websocket --hibernate 100ms --keepalive-interval 1s --hold {}s", 2 * seconds);
                let run = client(&format!("{} {words} --connections {CONNECTIONS} --proof {proof}", server.at()));
                run.held(CONNECTIONS);
                for audit in run.json["audits"].as_array().unwrap() {
                    assert_eq!((number(audit, "live"), number(audit, "wrong")), (CONNECTIONS, 0), "{audit}");
                }
                assert_eq!(run.number("goodbyes"), CONNECTIONS, "{}", run.json);
                let document = server.stop().last_document();
                let (here, there) = (&run.json["hibernation"], &document["hibernation"]);
                let counts = [
                    run.number("keepalives"),
                    number(here, "hibernated"),
                    number(there, "hibernated"),
                    number(here, "woken_by_send"),
                    number(there, "woken_by_peer"),
                ];
                counts.iter().all(|count| *count >= 2 * CONNECTIONS).then_some(())
            });
        }
    });
}

/// What has come of a message is kept while its connection sleeps, and so is the order of fragments.
#[test(Network, Hibernation)]
fn a_message_goes_on_after_a_sleep() {
    in_own_network(|| {
        let server = Server::start(1, SLEEP);
        let mut socket = websocket(&server, "/");
        let mut piece = |payload: &'static str, opcode, last| {
            socket.send(Message::Frame(Frame::message(payload, OpCode::Data(opcode), last))).unwrap();
            all_asleep(&server, 1);
        };
        piece("good ", Data::Text, false);
        piece("night, ", Data::Continue, false);
        piece("and good morning", Data::Continue, true);
        assert_eq!(socket.read().unwrap(), Message::text("good night, and good morning"));
        // The answer to the ping of a sleeper, and the bytes of a frame that is cut in its header.
        all_asleep(&server, 1);
        socket.send(Message::Ping("are you there".into())).unwrap();
        assert_eq!(socket.read().unwrap(), Message::Pong("are you there".into()));
        let stream = socket.get_mut();
        for cut in [&[0x89][..], &[0x80 | 3, 1, 2], &[3, 4, b'a' ^ 1, b'b' ^ 2], &[b'c' ^ 3]] {
            stream.write_all(cut).unwrap();
            all_asleep(&server, 1);
        }
        assert_eq!(socket.read().unwrap(), Message::Pong("abc".into()));
        // A sleeper that breaks the protocol is told so.
        socket.send(Message::Frame(Frame::message("x", OpCode::Data(Data::Continue), true))).unwrap();
        let Message::Close(Some(close)) = socket.read().unwrap() else { panic!("a close is due") };
        assert_eq!(u16::from(close.code), 1002);
        assert!(matches!(socket.read(), Err(Error::ConnectionClosed)));
        let document = server.stop().last_document();
        assert!(number(&document["hibernation"], "woken_by_peer") >= 7, "{document}");
    });
}

#[test(Network, Hibernation)]
fn a_publication_wakes_each_sleeping_subscriber() {
    const SUBSCRIBERS: u64 = 60;
    in_own_network(|| {
        let server = Server::start(1, &format!("{SLEEP} --service push"));
        let mut subscribers: Vec<_> = (0..SUBSCRIBERS).map(|_| websocket(&server, "/news")).collect();
        for text in ["good morning", "good night"] {
            all_asleep(&server, SUBSCRIBERS);
            let mut poster = connected(server.port);
            let length = text.len();
            let request = format!("POST {PUBLISH_PATH} HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n");
            write!(poster, "{request}Connection: close\r\n\r\n{text}").unwrap();
            let mut answer = String::new();
            poster.read_to_string(&mut answer).unwrap();
            assert!(answer.starts_with("HTTP/1.1 202 "), "{answer}");
            for subscriber in &mut subscribers {
                assert_eq!(subscriber.read().unwrap(), Message::text(text));
            }
        }
        // Nothing else came.
        all_asleep(&server, SUBSCRIBERS);
        for subscriber in &mut subscribers {
            subscriber.send(Message::Ping("b".into())).unwrap();
            assert_eq!(subscriber.read().unwrap(), Message::Pong("b".into()));
        }
        let document = server.stop().last_document();
        assert!(number(&document["hibernation"], "woken_by_send") >= 2 * SUBSCRIBERS, "{document}");
    });
}
