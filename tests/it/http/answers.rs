//! Answers that are many or long: a client that reads gets all of them, and one that does not is reset in time.

use super::*;
use crate::support::{Authority, read_until};

/// Answers with as many bytes as the path says; `/wait` is answered once somebody else asks.
#[derive(Default)]
struct Long(Vec<ConnId>);

impl HttpService for Long {
    type State = ();
    type Message = ();

    fn request<'r>(&mut self, ctx: &mut HttpCtx<'_, ()>, conn: ConnId, request: &'r Request<'r>) -> Response<'r> {
        if request.path() == "/wait" {
            self.0.push(conn);
            return ctx.later(None);
        }
        for waiting in self.0.drain(..) {
            assert!(ctx.answer(waiting, Response::new(204)));
        }
        Response::new(200).body(vec![b'x'; request.path()[1..].parse().unwrap()])
    }
}

fn get(path: impl std::fmt::Display) -> String {
    format!("GET /{path} HTTP/1.1\r\nHost: a\r\n\r\n")
}

/// Many requests come in each receive, and their answers together are more than may be kept for a client.
#[test]
fn a_client_that_reads_gets_the_answers_to_all_that_it_has_asked() {
    let (server, port) = serving(Long::default, HttpLimits::default());
    let mut client = Client::connect(port);
    for (bytes, count) in [(1_000, 150), (40_000, 20)] {
        client.say(&get(bytes).repeat(count));
        (0..count).for_each(|_| assert_eq!(client.answer(true).2.len(), bytes));
    }
    // So are those behind an answer that comes later, which are kept until then.
    client.say(&(get("wait") + &get(1_000).repeat(2_000)));
    until_asked(&server, 171);
    let mut other = Client::connect(port);
    other.asks(&get(1), 200, true);
    assert_eq!(client.answer(true).0, 204);
    (0..2_000).for_each(|_| assert_eq!(client.answer(true).2.len(), 1_000));
    // Of answers that are awaited the order stays, and the last request ends the connection.
    let last = get(3).replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n");
    client.say(&[get(30_000), get("wait"), get(30_000), get(2), last].concat());
    assert_eq!(client.answer(true).2.len(), 30_000);
    until_asked(&server, 2_174);
    other.asks(&get(1), 200, true);
    assert_eq!(client.answer(true).0, 204);
    assert_eq!([(); 3].map(|()| client.answer(true).2.len()), [30_000, 2, 3]);
    client.ends();
    assert_eq!(server.counters()[0].slow_readers, 0);
    server.stop();
    server.join().unwrap();
}

/// What it has asked behind the answers does not keep its connection for ever.
#[test]
fn a_client_that_does_not_read_is_reset_in_time() {
    let mut limits = HttpLimits::default();
    limits.request_time = Duration::from_secs(1);
    let (server, port) = serving(Long::default, limits);
    let mut client = Client::connect(port);
    // Together more than the sockets of both ends hold.
    client.say(&get(60_000).repeat(400));
    eventually("it is reset", || server.counters()[0].live == 0 && server.counters()[0].closed == 1);
    let counters = &server.counters()[0];
    assert_eq!((counters.requests_late, counters.slow_readers), (0, 0));
    assert!(client.stream.read_to_end(&mut Vec::new()).is_err(), "a reset");
    server.stop();
    server.join().unwrap();
}

#[test]
fn the_longest_body_comes_back_from_a_server_however_many_requests_follow_it() {
    let server = Server::start(1, "--protocol http");
    let mut client = Client::connect(server.port);
    let long = "x".repeat(65_536);
    let post = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{long}", long.len());
    for _ in 0..10 {
        client.say(&(get("before").repeat(20) + &post + &get("behind").repeat(80)));
        (0..20).for_each(|_| assert_eq!(client.answer(true).2, b"/before"));
        assert_eq!(client.answer(true).2, long.as_bytes());
        (0..80).for_each(|_| assert_eq!(client.answer(true).2, b"/behind"));
    }
    server.stop();
}

/// Plain requests to a WebSocket server, and then an upgrade and a message behind them.
#[test]
fn a_websocket_server_answers_many_requests_before_an_upgrade() {
    let server = Server::start(1, "--protocol websocket");
    let mut client = Client::connect(server.port);
    let upgrade = "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    client.say(&(get("").repeat(1_000) + upgrade));
    // A text, masked with zeros.
    client.stream.write_all(b"\x81\x85\0\0\0\0hello").unwrap();
    (0..1_000).for_each(|_| assert_eq!(client.answer(true).0, 426));
    assert_eq!(client.answer(false).0, 101);
    let mut echo = std::mem::take(&mut client.rest);
    while echo.len() < 7 {
        client.more();
        echo.append(&mut client.rest);
    }
    assert_eq!(echo, b"\x81\x05hello");
    server.stop();
}

/// Answers nothing before its time, and then all that wait.
#[derive(Default)]
struct Together(Vec<ConnId>);

impl HttpService for Together {
    type State = ();
    type Message = ();

    fn request<'r>(&mut self, ctx: &mut HttpCtx<'_, ()>, conn: ConnId, _: &'r Request<'r>) -> Response<'r> {
        self.0.push(conn);
        ctx.later(Some(Duration::from_secs(1)))
    }

    fn expired(&mut self, ctx: &mut HttpCtx<'_, ()>, conn: ConnId) -> Response<'static> {
        for other in self.0.drain(..).filter(|other| *other != conn) {
            ctx.answer(other, Response::new(200));
        }
        Response::new(204)
    }
}

/// The time of both passes in one sweep. The answer to the one that is told first answers the other too, which goes on.
#[test]
fn the_time_of_a_request_that_was_answered_meanwhile_has_not_passed() {
    let (server, port) = serving(Together::default, HttpLimits::default());
    let mut clients = [(); 2].map(|()| Client::connect(port));
    for _ in 0..2 {
        clients.iter_mut().for_each(|client| client.say(&get("wait")));
        let mut answers = clients.each_mut().map(|client| client.answer(true).0);
        answers.sort_unstable();
        assert_eq!(answers, [200, 204]);
    }
    server.stop();
    server.join().unwrap();
}

/// One receive brings many records of TLS, and the service is given each by itself.
#[test]
fn requests_in_records_of_their_own_are_answered_too() {
    const REQUESTS: usize = 50;
    let authority = Authority::new();
    let signed = authority.sign("server", &["localhost"]);
    let port = free_ports(1);
    let builder = c1m::Server::builder().bind(Ipv4Addr::LOCALHOST).ports(Ports::new(port, 1).unwrap());
    let builder = builder.cores(Cores::Count(1)).max_connections(100);
    let builder = builder.tls(c1m::TlsConfig::files(&signed.chain, &signed.key));
    let server = builder.start(|_| Http::new(Long::default())).unwrap();
    let mut client = authority.connected(port);
    let mut records = Vec::new();
    for _ in 0..REQUESTS {
        client.conn.writer().write_all(get(40_000).as_bytes()).unwrap();
        while client.conn.wants_write() {
            client.conn.write_tls(&mut records).unwrap();
        }
    }
    client.sock.write_all(&records).unwrap();
    for _ in 0..REQUESTS {
        assert!(read_until(&mut client, b"\r\n\r\n").starts_with(b"HTTP/1.1 200 "));
        let mut body = vec![0; 40_000];
        client.read_exact(&mut body).unwrap();
        assert!(body.iter().all(|byte| *byte == b'x'));
    }
    server.stop();
    server.join().unwrap();
}
