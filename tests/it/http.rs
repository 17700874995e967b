//! HTTP at the server: `c1m server --protocol http`, and the requests that a WebSocket server answers.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

use c1m::http::{Http, HttpCtx, HttpLimits, HttpService, Request, Response};
use c1m::internal::protocol::http::{Body, ResponseHead};
use c1m::{CloseMode, ConnId, Cores, Ports};

use crate::support::{Server, connected, eventually, free_ports, has_server_names_and, number};

mod answers;

/// A client of bytes.
pub struct Client {
    stream: TcpStream,
    /// What came behind the last answer.
    rest: Vec<u8>,
}

impl Client {
    pub fn connect(port: u16) -> Client {
        let stream = connected(port);
        stream.set_nodelay(true).unwrap();
        Client { stream, rest: Vec::new() }
    }

    pub fn say(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).unwrap();
    }

    /// The next answer: its status, its head, its body, and whether the connection goes on. `has_body` is false for the
    /// answer to HEAD.
    pub fn answer(&mut self, has_body: bool) -> (u16, String, Vec<u8>, bool) {
        loop {
            if let Some((head, length)) = ResponseHead::read(&self.rest).unwrap() {
                let (status, keeps_alive) = (head.status, head.keeps_alive);
                let Body::Length(body) = head.body else { panic!("{head:?}") };
                let text = String::from_utf8(self.rest[..length].to_vec()).unwrap();
                let end = length + if has_body { body as usize } else { 0 };
                while self.rest.len() < end {
                    self.more();
                }
                let body = self.rest[length..end].to_vec();
                self.rest.drain(..end);
                return (status, text, body, keeps_alive);
            }
            self.more();
        }
    }

    fn more(&mut self) {
        let mut some = [0; 4_096];
        let count = self.stream.read(&mut some).unwrap();
        assert!(count > 0, "the end behind {:?}", String::from_utf8_lossy(&self.rest));
        self.rest.extend_from_slice(&some[..count]);
    }

    /// Sends a request and awaits this status, on a connection that goes on or not.
    fn asks(&mut self, request: &str, status: u16, goes_on: bool) -> Vec<u8> {
        self.say(request);
        let (got, head, body, keeps_alive) = self.answer(!request.starts_with("HEAD"));
        assert_eq!((got, keeps_alive), (status, goes_on), "{:?}: {head}", request.get(..60));
        body
    }

    fn ends(&mut self) {
        self.stream.read_to_end(&mut self.rest).unwrap();
        assert_eq!(self.rest, b"");
    }
}

#[test]
fn a_token_comes_back_from_the_path_a_field_or_the_body_on_a_connection_that_is_kept() {
    let server = Server::start(1, "--protocol http --max-message 10000 --json -");
    let mut client = Client::connect(server.port);
    for round in 0..3 {
        assert_eq!(
            client.asks(&format!("GET /echo/{round}?q HTTP/1.1\r\nHost: a\r\n\r\n"), 200, true),
            format!("/echo/{round}?q").as_bytes()
        );
        client.say(&format!("HEAD /x HTTP/1.1\r\nHost: a\r\nX-Token: {round:x}\r\n\r\n"));
        let (status, head, body, _) = client.answer(false);
        assert!(status == 200 && body.is_empty() && head.contains(&format!("\r\nX-Token: {round:x}\r\n")), "{head}");
        assert!(head.contains("\r\nContent-Length: 2\r\n"), "{head}");
        let long = "x".repeat(4_000 * round + 1);
        let post = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{long}", long.len());
        assert_eq!(client.asks(&post, 200, true), long.as_bytes());
    }
    // Byte by byte.
    for byte in "PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc".chars() {
        client.say(&byte.to_string());
    }
    assert_eq!(client.answer(true).2, b"abc");
    // In chunks, which are cut anywhere, with a request behind them.
    let chunked = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3;a=b\r\nin \r\n6\r\nchunks\r\n0\r\nA: b\r\n\r\n";
    assert_eq!(client.asks(chunked, 200, true), b"in chunks");
    let (first, second) = chunked.split_at(75);
    client.say(first);
    client.say(&format!("{second}GET /behind HTTP/1.1\r\nHost: a\r\n\r\n"));
    assert_eq!((client.answer(true).2, client.answer(true).2), (b"in chunks".to_vec(), b"/behind".to_vec()));
    // Many before the first answer is read.
    let many: String = (0..100).map(|number| format!("GET /{number} HTTP/1.1\r\nHost: a\r\n\r\n")).collect();
    client.say(&many);
    (0..100).for_each(|number| assert_eq!(client.answer(true).2, format!("/{number}").as_bytes()));
    // The client waits with the body until it is asked for it.
    client.say("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n");
    assert_eq!(client.answer(false).0, 100);
    assert_eq!(client.asks("body", 200, true), b"body");
    // So does one whose head comes in pieces.
    client.say("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nExpect: 100-");
    client.say("continue\r\n\r\n");
    assert_eq!(client.answer(false).0, 100);
    assert_eq!(client.asks("body", 200, true), b"body");
    assert_eq!(client.asks("GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n", 200, true), b"ok\n");
    client.asks("GET /last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", 200, false);
    client.ends();
    let mut old = Client::connect(server.port);
    // Only by this field it knows that its connection is kept.
    old.say("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n");
    let (status, head, body, goes_on) = old.answer(true);
    assert!(status == 200 && goes_on && head.contains("\r\nConnection: keep-alive\r\n"), "{head}");
    assert_eq!(body, b"/");
    old.asks("GET / HTTP/1.0\r\n\r\n", 200, false);
    old.ends();
    let document = server.stop().last_document();
    has_server_names_and(&document, &["http"]);
    assert_eq!(number(&document["http"], "requests"), 119, "{document}");
}

#[test]
fn what_cannot_be_answered_is_refused_with_its_status_and_counted() {
    let server = Server::start(1, "--protocol http --service sink --max-message 1000 --json -");
    let long = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(17_000));
    let many = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "a: b\r\n".repeat(70));
    let chunked = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3e9\r\n".to_owned();
    let chunked = format!("{chunked}{}\r\n0\r\n\r\n", "x".repeat(1_001));
    let posted = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1001\r\n\r\n{}", "x".repeat(1_001));
    let refused = [
        (400, "nonsense\r\n\r\n"),
        (400, "\x16\x03\x01\x02\x00\x01\x00"),
        (400, "GET / HTTP/1.1\r\n\r\n"),
        (400, "GET / HTTP/1.1\r\nHost: a b\r\n\r\n"),
        // A space in the target, and another protocol, are no other version of HTTP.
        (400, "GET /a b HTTP/1.1\r\nHost: a\r\n\r\n"),
        (400, "PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"),
        // What follows the answer would be taken for a tunnel.
        (501, "CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n"),
        (400, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\n"),
        (400, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n"),
        (400, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n"),
        (400, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, gzip\r\n\r\n"),
        (400, "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        (400, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\nx\n0\n\n"),
        (413, &chunked),
        (501, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n"),
        (413, &posted),
        (417, "POST / HTTP/1.1\r\nHost: a\r\nExpect: tea\r\n\r\n"),
        (431, &long),
        (431, &many),
        (505, "GET / HTTP/2.0\r\nHost: a\r\n\r\n"),
    ];
    for (status, request) in refused {
        let mut client = Client::connect(server.port);
        client.asks("GET /first HTTP/1.1\r\nHost: a\r\n\r\n", 204, true);
        client.asks(request, status, false);
        client.ends();
    }
    let mut client = Client::connect(server.port);
    client.say("POST /healthz HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n");
    let (status, head, ..) = client.answer(true);
    assert!(status == 405 && head.contains("\r\nAllow: GET, HEAD\r\n"), "{head}");
    let document = server.stop().last_document();
    let counted = ["requests", "malformed", "too_long"].map(|name| number(&document["http"], name));
    assert_eq!(counted, [21, 16, 4], "{document}");
}

#[test]
fn a_websocket_server_answers_requests_that_ask_for_no_upgrade() {
    let server = Server::start(1, "--protocol websocket");
    let mut client = Client::connect(server.port);
    assert_eq!(client.asks("GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n", 200, true), b"ok\n");
    client.say("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let (status, head, _, goes_on) = client.answer(true);
    assert!(status == 426 && goes_on && head.contains("\r\nUpgrade: websocket\r\n"), "{head}");
    let upgrade = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n";
    client.asks(&format!("GET / HTTP/1.1\r\nHost: a\r\n{upgrade}Sec-WebSocket-Key: short\r\n\r\n"), 400, true);
    client.say(&format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", upgrade.replace("13", "8")));
    let (status, head, _, goes_on) = client.answer(true);
    let names_both =
        ["\r\nUpgrade: websocket\r\n", "\r\nSec-WebSocket-Version: 13\r\n"].iter().all(|line| head.contains(line));
    assert!(status == 426 && goes_on && names_both, "{head}");
    client.asks(&format!("POST / HTTP/1.1\r\nHost: a\r\n{upgrade}Content-Length: 0\r\n\r\n"), 400, true);
    let key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    client.say(&format!("GET / HTTP/1.1\r\nHost: a\r\n{upgrade}{key}\r\n"));
    assert_eq!(client.answer(false).0, 101);
    server.stop();
}

/// Counts the requests of each connection.
struct Counting;

impl HttpService for Counting {
    type State = u32;
    type Message = ();

    fn request<'r>(&mut self, ctx: &mut HttpCtx<'_, u32>, conn: ConnId, request: &'r Request<'r>) -> Response<'r> {
        let Some(count) = ctx.state(conn) else { return Response::new(500) };
        *count += 1;
        let count = *count;
        match request.path() {
            "/count" => Response::text(200, count.to_string()),
            _ => Response::text(404, "only /count"),
        }
    }
}

#[test]
fn a_request_that_is_never_complete_and_a_connection_without_one_are_ended() {
    let mut limits = HttpLimits::default();
    // So long that a request which comes at once is in time, on a busy machine too.
    (limits.request_time, limits.kept_time) = (Duration::from_secs(5), Some(Duration::from_secs(5)));
    let (server, port) = serving(|| Counting, limits);
    let [silent, mut empty, mut slow, mut kept] = [(); 4].map(|()| Client::connect(port));
    // Empty lines are no request.
    empty.say("\r\n\r\n");
    let count = "GET /count HTTP/1.1\r\nHost: a\r\n\r\n";
    assert_eq!(slow.asks(count, 200, true), b"1");
    assert_eq!(kept.asks(count, 200, true), b"1");
    assert_eq!(kept.asks("GET /other HTTP/1.1\r\nHost: a\r\n\r\n", 404, true), b"only /count");
    // An empty line behind a request is none.
    kept.say("\r\n");
    assert_eq!(kept.asks(count, 200, true), b"3");
    slow.asks(&count[..20], 408, false);
    [silent, empty, slow].iter_mut().for_each(Client::ends);
    // Kept for a while, and then no longer.
    kept.ends();
    let counters = &server.counters()[0];
    assert_eq!((counters.requests, counters.requests_late), (4, 1));
    server.stop();
    server.join().unwrap();
}

/// Answers what waits once somebody speaks. Anybody else is answered at once.
#[derive(Default)]
struct Waiting(Vec<ConnId>);

impl HttpService for Waiting {
    type State = ();
    type Message = ();

    fn request<'r>(&mut self, ctx: &mut HttpCtx<'_, ()>, conn: ConnId, request: &'r Request<'r>) -> Response<'r> {
        match request.path() {
            "/wait" => {
                assert!(!ctx.answer(conn, Response::new(500)), "an answer before it is awaited");
                self.0.push(conn);
                ctx.later(None)
            }
            "/briefly" => ctx.later(Some(Duration::from_millis(250))),
            "/say" => {
                let answer = |conn| ctx.answer(conn, Response::new(200).body(request.body()));
                let answered = self.0.drain(..).map(answer).filter(|answered| *answered).count();
                Response::text(200, answered.to_string())
            }
            path => Response::text(200, path),
        }
    }

    fn expired(&mut self, _: &mut HttpCtx<'_, ()>, _: ConnId) -> Response<'static> {
        Response::new(204)
    }
}

/// A server of this service, and its port.
fn serving<S: HttpService<Message = ()>>(service: fn() -> S, limits: HttpLimits) -> (c1m::Server<()>, u16) {
    let port = free_ports(1);
    let builder = c1m::Server::builder().bind(Ipv4Addr::LOCALHOST).ports(Ports::new(port, 1).unwrap());
    let builder = builder.cores(Cores::Count(1)).max_connections(100);
    (builder.start(move |_| Http::with(service(), limits)).unwrap(), port)
}

fn say(port: u16, text: &str) -> Vec<u8> {
    let length = text.len();
    Client::connect(port).asks(
        &format!("POST /say HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n{text}"),
        200,
        true,
    )
}

/// Waits until the server has taken so many requests.
fn until_asked(server: &c1m::Server<()>, requests: u64) {
    eventually("the requests are taken", || server.counters()[0].requests >= requests);
}

#[test]
fn an_answer_that_comes_later_keeps_the_order_of_requests() {
    let (server, port) = serving(Waiting::default, HttpLimits::default());
    let get = |path: &str, more: &str| format!("GET {path} HTTP/1.1\r\nHost: a\r\n{more}\r\n");
    let mut client = Client::connect(port);
    // Before it, behind it, and once more behind that.
    client.say(&[get("/one", ""), get("/wait", ""), get("/two", ""), get("/wait", ""), get("/three", "")].concat());
    assert_eq!(client.answer(true).2, b"/one");
    let mut head = Client::connect(port);
    head.say(&get("/wait", "").replace("GET", "HEAD"));
    let mut last = Client::connect(port);
    last.say(&get("/wait", "Connection: close\r\n"));
    until_asked(&server, 4);
    // A request whose rest comes while another one waits.
    client.say(&get("/four", "")[..20]);
    assert_eq!(say(port, "hello"), b"3");
    assert_eq!((client.answer(true).2, client.answer(true).2), (b"hello".to_vec(), b"/two".to_vec()));
    assert!(head.answer(false).1.contains("\r\nContent-Length: 5\r\n"));
    let (_, _, body, goes_on) = last.answer(true);
    assert_eq!((body, goes_on), (b"hello".to_vec(), false));
    last.ends();
    client.say(&get("/four", "")[20..]);
    assert_eq!(say(port, "again"), b"1");
    for expected in ["again", "/three", "/four"] {
        assert_eq!(client.answer(true).2, expected.as_bytes());
    }
    // A client that goes is forgotten.
    let mut gone = Client::connect(port);
    gone.say(&get("/wait", ""));
    until_asked(&server, 11);
    drop(gone);
    eventually("the server knows that it is gone", || server.counters()[0].live == 2);
    assert_eq!(say(port, "who?"), b"0");
    // In time, or without an answer of the service.
    client.say(&get("/briefly", ""));
    assert_eq!(client.answer(true).0, 204);
    // The server's end is an answer too.
    client.say(&get("/wait", ""));
    until_asked(&server, 14);
    server.stop();
    let (status, _, _, goes_on) = client.answer(true);
    assert_eq!((status, goes_on), (503, false));
    client.ends();
    server.join().unwrap();
}

#[test]
fn what_is_asked_behind_an_answer_that_is_awaited_has_its_bound() {
    let mut limits = HttpLimits::default();
    limits.longest_body = 1_000;
    let (server, port) = serving(Waiting::default, limits);
    let mut client = Client::connect(port);
    client.say("GET /wait HTTP/1.1\r\nHost: a\r\n\r\n");
    until_asked(&server, 1);
    // The server closes the connection while this is on its way.
    client.say(&"x".repeat(40_000));
    client.ends();
    assert_eq!(say(port, "nobody"), b"0");
    assert_eq!(server.counters()[0].requests_too_long, 1);
    server.stop();
    server.join().unwrap();
}

/// Closes connections within the call that answers them.
#[derive(Default)]
struct Closing {
    waits: Option<ConnId>,
}

impl Closing {
    /// An answer of as many bytes as the path says, on a connection that is closed.
    fn last(ctx: &mut HttpCtx<'_, ()>, conn: ConnId, path: &str) -> Response<'static> {
        let mut words = path.trim_start_matches('/').split('/');
        let (mode, bytes) = (words.next().unwrap(), words.next().unwrap().parse().unwrap());
        let mode = match mode {
            "graceful" => CloseMode::Graceful,
            "lingering" => CloseMode::Lingering,
            "abort" => CloseMode::Abort,
            other => panic!("{other}"),
        };
        ctx.close(conn, mode);
        Response::new(200).body(vec![b'x'; bytes])
    }
}

impl HttpService for Closing {
    type State = ();
    type Message = ();

    fn request<'r>(&mut self, ctx: &mut HttpCtx<'_, ()>, conn: ConnId, request: &'r Request<'r>) -> Response<'r> {
        match request.path() {
            "/goes/on" => Response::new(204),
            "/late" => ctx.later(Some(Duration::from_millis(250))),
            "/wait" => {
                self.waits = Some(conn);
                ctx.later(None)
            }
            "/end" => {
                let conn = self.waits.take().unwrap();
                assert!(ctx.answer(conn, Response::text(200, "the last")));
                ctx.close(conn, CloseMode::Graceful);
                Response::new(204)
            }
            "/silent" => {
                ctx.close(conn, CloseMode::Graceful);
                ctx.later(None)
            }
            path => Closing::last(ctx, conn, path),
        }
    }

    fn expired(&mut self, ctx: &mut HttpCtx<'_, ()>, conn: ConnId) -> Response<'static> {
        Closing::last(ctx, conn, "/graceful/10000")
    }
}

/// However long the answer is, it arrives, and nothing that was asked behind it is handed on.
#[test]
fn a_connection_that_is_closed_within_a_request_is_answered_first() {
    let (server, port) = serving(Closing::default, HttpLimits::default());
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n");
    let mut asked = 0;
    for mode in ["graceful", "lingering"] {
        for bytes in [0, 10, 10_000] {
            let mut client = Client::connect(port);
            client.say(&[get("/goes/on"), get(&format!("/{mode}/{bytes}")), get("/goes/on")].concat());
            assert_eq!(client.answer(true).0, 204);
            let (status, head, body, goes_on) = client.answer(true);
            assert_eq!((status, body.len(), goes_on), (200, bytes, false), "{head}");
            client.ends();
            asked += 2;
        }
    }
    for (path, answered) in [("/late", true), ("/silent", false)] {
        let mut client = Client::connect(port);
        client.say(&[get(path), get("/goes/on")].concat());
        if answered {
            let (_, head, body, goes_on) = client.answer(true);
            assert_eq!((body.len(), goes_on), (10_000, false), "{head}");
        }
        client.ends();
        asked += 1;
    }
    // One that waits is answered and closed by the request of another one.
    let mut client = Client::connect(port);
    client.say(&[get("/wait"), get("/goes/on")].concat());
    asked += 1;
    until_asked(&server, asked);
    Client::connect(port).asks(&get("/end"), 204, true);
    assert_eq!(client.answer(true).2, b"the last");
    client.ends();
    let mut client = Client::connect(port);
    client.say(&[get("/abort/10"), get("/goes/on")].concat());
    assert!(client.stream.read(&mut [0]).is_err(), "a reset");
    assert_eq!(server.counters()[0].requests, asked + 2);
    server.stop();
    server.join().unwrap();
}
