//! `--protocol websocket` against a server by tungstenite, against c1m's own, and against servers that break off.

use std::net::TcpStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use tungstenite::handshake::server::{Request, Response};
use tungstenite::protocol::CloseFrame;
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::{Message, WebSocket};

use crate::support::*;

/// What a server saw.
#[derive(Debug, Default)]
struct Seen {
    pings: AtomicU64,
    /// Closes with the code 1000.
    closes: AtomicU64,
    requests: Mutex<Vec<String>>,
}

/// A server by tungstenite, which answers pings itself. `serve` is called for each message, and ends the connection with
/// `false`.
fn tungstenite(
    serve: impl Fn(&mut WebSocket<TcpStream>, &Message) -> bool + Send + Sync + 'static,
) -> (Peer, Arc<Seen>) {
    let seen = Arc::<Seen>::default();
    let shared = seen.clone();
    let peer = Peer::with_threads(move |stream| {
        #[allow(clippy::result_large_err, reason = "tungstenite's own")]
        let keep = |request: &Request, response: Response| {
            shared.requests.lock().unwrap().push(format!("{} {:?}", request.uri(), request.headers()));
            Ok(response)
        };
        let Ok(mut socket) = tungstenite::accept_hdr(stream, keep) else { return };
        while let Ok(message) = socket.read() {
            match &message {
                Message::Ping(_) => _ = shared.pings.fetch_add(1, Ordering::AcqRel),
                Message::Close(Some(CloseFrame { code: CloseCode::Normal, .. })) => {
                    shared.closes.fetch_add(1, Ordering::AcqRel);
                }
                _ => {}
            }
            if !serve(&mut socket, &message) {
                return;
            }
        }
    });
    (peer, seen)
}

/// Sends back texts and binary messages.
fn echoes(socket: &mut WebSocket<TcpStream>, message: &Message) -> bool {
    !matches!(message, Message::Text(_) | Message::Binary(_)) || socket.send(message.clone()).is_ok()
}

#[test]
fn every_connection_proves_itself_by_a_pong_and_says_goodbye() {
    let (peer, seen) = tungstenite(|_, _| true);
    let words = "--protocol websocket --connections 40 --interval 100ms --hold 500ms";
    let run = client(&format!("{} {words}", peer.at()));
    run.held(40);
    assert_eq!((&run.json["protocol"], &run.json["proof"]), (&"websocket".into(), &"gateway".into()));
    assert!(number(&run.json["echo_latency_us"], "count") > 0, "{}", run.json);
    assert_eq!(seen.closes.load(Ordering::Acquire), 40, "a close was answered before the connection was closed");
    assert_eq!((seen.requests.lock().unwrap().len(), run.number("goodbyes")), (40, 40));
}

#[test]
fn a_service_that_echoes_is_proved_end_to_end() {
    let (peer, seen) = tungstenite(echoes);
    for words in ["--payload 70", "--payload 65535 --message-type binary", "--payload 25"] {
        let words = format!("--protocol websocket --proof echo {words} --interval 100ms --hold 1s");
        let run = client(&format!("{} --connections 20 {words}", peer.at()));
        run.held(20);
        assert_eq!(run.json["proof"], "end-to-end");
        assert!(number(&run.json["echo_latency_us"], "count") > 0, "{}", run.json);
    }
    assert_eq!(seen.pings.load(Ordering::Acquire), 0);
}

/// The server fragments, pings, and sends messages of its own between the answers.
#[test]
fn unasked_frames_of_a_server_are_answered_or_passed_over() {
    let pongs = Arc::new(AtomicU64::new(0));
    let counted = pongs.clone();
    let (peer, _) = tungstenite(move |socket, message| {
        if let Message::Pong(payload) = message {
            assert_eq!(&payload[..], b"are you there");
            counted.fetch_add(1, Ordering::AcqRel);
            return true;
        }
        let said = [
            Message::text("welcome".repeat(2_000)),
            Message::Ping("are you there".into()),
            Message::binary(vec![0; 99]),
        ];
        said.into_iter().all(|said| socket.send(said).is_ok()) && echoes(socket, message)
    });
    let arguments = format!("{} --connections 20 --protocol websocket --proof echo --interval 100ms", peer.at());
    // Those of step 1, of an audit, and of messages.
    client_until("pongs", || pongs.load(Ordering::Acquire) >= 3 * 20, &arguments).held(20);
}

#[test]
fn an_echo_for_another_connection_is_wrong() {
    let last = Mutex::new(Message::text("c1m echo of nobody"));
    let (peer, _) = tungstenite(move |socket, message| {
        if !matches!(message, Message::Text(_)) {
            return true;
        }
        let before = std::mem::replace(&mut *last.lock().unwrap(), message.clone());
        socket.send(before).is_ok()
    });
    let run = client(&format!("{} --connections 10 --protocol websocket --proof echo", peer.at()));
    run.failed("wrong_answer", 10, "mixes up connections");
}

/// Closes with a code, in the middle of audits, and a server that dies without one.
#[test]
fn the_code_of_a_close_is_the_cause() {
    for (code, words) in [(1001, "goes away"), (1008, "policy"), (1013, "overloaded"), (4321, "a code of its own")] {
        let (peer, seen) = tungstenite(move |socket, message| {
            if matches!(message, Message::Ping(_)) {
                let frame = CloseFrame { code: code.into(), reason: "enough".into() };
                return socket.close(Some(frame)).is_ok();
            }
            true
        });
        let run = client(&format!("{} --connections 5 --protocol websocket", peer.at()));
        run.failed(&format!("close_{code}"), 5, words);
        assert_eq!(seen.closes.load(Ordering::Acquire), 0);
    }
    let (peer, _) = tungstenite(|_, message| !matches!(message, Message::Ping(_)));
    let run = client(&format!("{} --connections 5 --protocol websocket", peer.at()));
    run.failed("close_1006", 5, "without a Close");
}

#[test]
fn a_refused_handshake_is_told_by_its_status() {
    let refusing = |answer: &'static str| {
        Peer::start(move |stream| {
            use std::io::{Read, Write};
            let mut request = [0; 4_096];
            let _ = stream.read(&mut request).and_then(|_| stream.write_all(answer.as_bytes()));
            true
        })
    };
    let busy = refusing("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 5\r\n\r\nbusy\n");
    client(&format!("{} --connections 5 --protocol websocket", busy.at())).failed("http_503", 5, "no room");
    let limited = refusing("HTTP/1.1 429 Too Many Requests\r\nRetry-After: 1\r\n\r\n");
    client(&format!("{} --connections 5 --protocol websocket", limited.at())).failed("http_429", 5, "more slowly");
    let other =
        refusing("HTTP/1.1 101 x\r\nUpgrade: websocket\r\nConnection: upgrade\r\nSec-WebSocket-Accept: x\r\n\r\n");
    client(&format!("{} --connections 5 --protocol websocket", other.at())).failed("handshake_accept", 5, "our key");
    let none = refusing("HTTP/1.1 101 x\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\n");
    client(&format!("{} --connections 5 --protocol websocket", none.at())).failed("handshake", 5, "RFC 6455");
    let mail = refusing("220 mail.test ESMTP\r\n");
    client(&format!("{} --connections 5 --protocol websocket", mail.at())).failed("malformed", 5, "check the protocol");
}

/// Silent connections are kept alive, evenly, in every phase; the answers are no messages.
#[test]
fn keepalives_are_sent_whatever_the_run_does() {
    let (peer, seen) = tungstenite(echoes);
    let arguments = format!("{} --connections 30 --protocol websocket --proof echo --keepalive-interval 1s", peer.at());
    let pings = || seen.pings.load(Ordering::Acquire);
    let begun = Instant::now();
    let run = client_until("two keepalives each", || pings() >= 2 * 30, &arguments);
    run.held(30);
    let pings = pings();
    // Each connection has its turn once a second, however long the run takes.
    let most = 30 * (begun.elapsed().as_secs() + 2);
    assert!((2 * 30..=most).contains(&pings) && run.number("keepalives") >= 2 * 30, "{pings} pings: {}", run.json);
    assert_eq!(number(&run.json["echo_latency_us"], "count"), 60, "two audits: {}", run.json);
    // A server that answers none is given up.
    let (peer, _) = tungstenite(move |_, message| {
        if matches!(message, Message::Ping(_)) {
            thread::sleep(Duration::from_secs(60));
        }
        true
    });
    let words = "--protocol websocket --proof echo --audit echo --keepalive-interval 1s --reply-timeout 1s --hold 60s";
    let mut run = Client::start(&format!("{} --connections 1 {words}", peer.at()));
    run.running.until("the connection failed", |out| out.contains(" 0 live + 1 failed"));
    run.running.signal(libc::SIGINT);
    assert_eq!(run.finish().number("failed"), 1);
}

#[test]
fn a_url_says_where_and_what() {
    let (peer, seen) = tungstenite(|_, _| true);
    let port = peer.port();
    let words = "--header Authorization:\\x20Bearer-{n} --subprotocol chat --first-number 7";
    let run =
        client(&format!("--target ws://localhost:{port}/room/{{n}}?a=b --source-ip 127.0.0.1 --connections 3 {words}"));
    run.held(3);
    let mut requests = seen.requests.lock().unwrap().clone();
    requests.sort();
    for (number, request) in (7..10).zip(&requests) {
        let host = format!("\"host\": \"localhost:{port}\"");
        let words = [&format!("/room/{number}?a=b "), &host, &format!("Bearer-{number}"), "\"chat\""];
        assert!(words.iter().all(|word| request.contains(word)), "{request}");
    }
    let target = format!("localhost (127.0.0.1) ports {port}-{port}");
    assert_eq!(run.json["target"], *target);
    assert!(run.finished.out.contains(&format!("connections to {target}")), "{}", run.finished.out);
}

#[test]
fn our_own_server_speaks_with_our_own_client() {
    let server = Server::start(4, "--protocol websocket");
    let words =
        "--protocol websocket --proof echo --connections 400 --interval 200ms --hold 600ms --keepalive-interval 1s";
    let run = client(&format!("{} {words}", server.at()));
    run.held(400);
    server.stop();
}
