//! `--protocol http` against a small server of the test's own and against c1m's; targets that are none.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::*;

/// A request as the test's server read it.
#[derive(Debug, Clone, Default)]
struct Request {
    /// The first line.
    line: String,
    fields: Vec<String>,
    body: String,
}

fn read(stream: &mut BufReader<TcpStream>) -> Option<Request> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).ok()? == 0 {
            return None;
        }
        match line.strip_suffix("\r\n")? {
            "" => break,
            line => lines.push(line.to_owned()),
        }
    }
    let length = lines.iter().find_map(|line| line.strip_prefix("Content-Length: ")?.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    stream.read_exact(&mut body).ok()?;
    let line = lines.remove(0);
    Some(Request { line, fields: lines, body: String::from_utf8(body).unwrap() })
}

/// A server that answers each request, in pieces of so many bytes. Without an answer it closes the connection.
fn answering(piece: usize, answer: impl Fn(&Request) -> Option<String> + Send + Sync + 'static) -> Peer {
    Peer::with_threads(move |mut stream| {
        stream.set_nodelay(true).unwrap();
        let mut requests = BufReader::new(stream.try_clone().unwrap());
        while let Some(said) = read(&mut requests).and_then(|request| answer(&request)) {
            if said.as_bytes().chunks(piece).any(|piece| stream.write_all(piece).is_err()) {
                return;
            }
        }
    })
}

fn ok(body: &str) -> Option<String> {
    Some(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()))
}

fn chunked(body: &str) -> Option<String> {
    let chunks = body.as_bytes().chunks(5).map(|chunk| String::from_utf8_lossy(chunk).into_owned());
    let chunks: String = chunks.map(|chunk| format!("{:x}\r\n{chunk}\r\n", chunk.len())).collect();
    Some(format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}0\r\n\r\n"))
}

#[test]
fn a_server_that_answers_is_alive() {
    let requests = Arc::new(Mutex::new(Vec::new()));
    let seen = requests.clone();
    let peer = answering(usize::MAX, move |request| {
        seen.lock().unwrap().push(request.clone());
        ok("hello")
    });
    let words = "--protocol http --connections 20 --interval 100ms --hold 300ms --header X-Client:{n}";
    let run = client(&format!("{} {words}", peer.at()));
    run.held(20);
    assert_eq!((&run.json["protocol"], &run.json["proof"]), (&"http".into(), &"liveness".into()));
    assert!(number(&run.json["echo_latency_us"], "count") >= 20, "{}", run.json);
    let port = peer.port();
    for request in &*requests.lock().unwrap() {
        assert_eq!(request.line, "GET / HTTP/1.1");
        assert_eq!(request.fields[0], format!("Host: 127.0.0.1:{port}"));
        assert!(request.fields[1].starts_with("X-Client: "), "{request:?}");
    }
}

/// Where there are several addresses, the field Host has the one that the connection goes to.
#[test]
fn each_request_names_the_address_that_it_goes_to() {
    let peer = Peer::start_at(Ipv4Addr::UNSPECIFIED, |stream| {
        let mut stream = stream.try_clone().unwrap();
        thread::spawn(move || {
            let own = format!("Host: {}", stream.local_addr().unwrap());
            let mut requests = BufReader::new(stream.try_clone().unwrap());
            while let Some(request) = read(&mut requests) {
                let status = if request.fields[0] == own { "200 OK" } else { "421 Misdirected Request" };
                let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n");
                if stream.write_all(answer.as_bytes()).is_err() {
                    return;
                }
            }
        });
        false
    });
    let words = "--target-ip 127.0.0.1,127.0.0.2 --protocol http --connections 8 --first-number 3";
    client(&format!("{} {words}", peer.at())).held(8);
}

#[test]
fn a_server_that_reflects_the_token_is_proved_end_to_end() {
    for (piece, chunks) in [(usize::MAX, false), (1, false), (3, true), (usize::MAX, true)] {
        let peer = answering(piece, move |request| {
            let said = format!("<p>you said {} {}</p>", request.line, request.body);
            if chunks { chunked(&said) } else { ok(&said) }
        });
        for words in ["--path /a?token={token}", r#"--method POST --body {{"token":"{token}"}}"#] {
            let words = format!("--protocol http --proof token {words} --interval 100ms --hold 300ms");
            let run = client(&format!("{} --connections 10 {words}", peer.at()));
            run.held(10);
            assert_eq!(run.json["proof"], "end-to-end");
        }
    }
    let last = Mutex::new(String::new());
    let mixed_up =
        answering(usize::MAX, move |request| ok(&std::mem::replace(&mut *last.lock().unwrap(), request.line.clone())));
    let run = client(&format!("{} --connections 10 --protocol http --proof token --path /{{token}}", mixed_up.at()));
    run.failed("wrong_answer", 10, "mixes up connections");
}

#[test]
fn a_long_poll_may_take_its_time() {
    let peer = answering(usize::MAX, |_| {
        thread::sleep(Duration::from_millis(1_200));
        ok("news")
    });
    let run = client(&format!("{} --connections 8 --protocol http --reply-timeout 30s", peer.at()));
    run.held(8);
    assert!(number(&run.json["echo_latency_us"], "min") > 1_000_000, "{}", run.json);
    // However slow the client is, an answer comes only once it has given up.
    let over = Arc::new(AtomicBool::new(false));
    let seen = over.clone();
    let peer = answering(usize::MAX, move |_| {
        while !seen.load(Ordering::Relaxed) {
            thread::sleep(Duration::from_millis(10));
        }
        None
    });
    let _ends = SetAtEnd(&over);
    let run = client(&format!("{} --connections 8 --protocol http --reply-timeout 500ms", peer.at()));
    run.failed("silent", 8, "does not answer");
}

#[test]
fn answers_that_are_no_proof_are_told_apart() {
    let cases = [
        ("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok", "not_kept", "Connection: close"),
        ("HTTP/1.0 200 OK\r\n\r\nok", "not_kept", "keepalive_requests"),
        ("HTTP/1.1 429 Too Many Requests\r\nContent-Length: 0\r\n\r\n", "http_429", "more slowly"),
        ("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n", "http_503", "no room"),
        ("HTTP/1.1 302 Found\r\nLocation: /b\r\nContent-Length: 0\r\n\r\n", "http_302", "elsewhere"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "malformed", "rules"),
        ("SSH-2.0-OpenSSH_9.9\r\n", "malformed", "check the protocol"),
    ];
    for (answer, cause, words) in cases {
        let peer = answering(usize::MAX, move |_| Some(answer.to_owned()));
        client(&format!("{} --connections 5 --protocol http", peer.at())).failed(cause, 5, words);
    }
    // A server that keeps each connection for three requests, as nginx does with keepalive_requests.
    let peer = Peer::with_threads(|mut stream| {
        let mut requests = BufReader::new(stream.try_clone().unwrap());
        for last in [false, false, true] {
            let close = if last { "Connection: close\r\n" } else { "" };
            let answer = format!("HTTP/1.1 200 OK\r\n{close}Content-Length: 0\r\n\r\n");
            if read(&mut requests).is_none() || stream.write_all(answer.as_bytes()).is_err() {
                return;
            }
        }
    });
    let words = "--connections 5 --protocol http --interval 50ms --hold 500ms";
    client(&format!("{} {words}", peer.at())).failed("not_kept", 5, "keepalive_requests");
    // Another status is a right answer, if it is the one that is wanted.
    let peer = answering(usize::MAX, |_| Some("HTTP/1.1 204 No Content\r\n\r\n".to_owned()));
    client(&format!("{} --connections 5 --protocol http --status 204", peer.at())).held(5);
}

#[test]
fn keepalives_are_requests() {
    let requests = Arc::new(AtomicU64::new(0));
    let counted = requests.clone();
    let peer = answering(usize::MAX, move |_| {
        counted.fetch_add(1, Ordering::AcqRel);
        ok("")
    });
    let arguments = format!("{} --protocol http --connections 10 --keepalive-interval 1s", peer.at());
    let requests = || requests.load(Ordering::Acquire);
    let begun = Instant::now();
    // An opening, an audit, and two keepalives each.
    client_until("keepalives", || requests() >= 4 * 10, &arguments).held(10);
    let requests = requests();
    // An opening, two audits, and a keepalive each second, however long the run takes.
    let most = 10 * (3 + begun.elapsed().as_secs() + 2);
    assert!((50..=most).contains(&requests), "two keepalives each, or more: {requests}, at most {most}");
}

#[test]
fn our_own_server_speaks_with_our_own_client() {
    let server = Server::start(4, "--protocol http");
    let words = "--protocol http --proof token --path /{token} --interval 200ms --hold 600ms --keepalive-interval 1s";
    client(&format!("{} --connections 400 {words}", server.at())).held(400);
    server.stop();
}

/// The process of the victims goes to the same addresses, and asks for the same path with numbers of its own.
#[test]
fn victims_in_another_process_go_to_the_same_target() {
    let requests = Arc::new(Mutex::new(std::collections::BTreeSet::new()));
    let seen = requests.clone();
    let peer = answering(usize::MAX, move |request| {
        seen.lock().unwrap().insert((request.line.clone(), request.fields.clone()));
        ok("")
    });
    let port = peer.port();
    let words =
        "--for 300ms --calm 300ms --after 300ms --interval 100ms --cores 1 --connections 30 --share 10 --json -";
    let target = format!("--target http://localhost:{port}/n/{{n}} --source-ip 127.0.0.1 --header a:b");
    let finished = run(&format!("storm killed {target} {words}"));
    assert_eq!(finished.code(), 0, "{}{}", finished.out, finished.err);
    let document = finished.last_document();
    assert_eq!((number(&document, "live"), number(&document["storm"], "closed")), (20, 10), "{document}");
    let fields = vec![format!("Host: localhost:{port}"), "a: b".to_owned()];
    let expected = (0..30).map(|number| (format!("GET /n/{number} HTTP/1.1"), fields.clone())).collect();
    assert_eq!(*requests.lock().unwrap(), expected);
}

#[test]
fn a_target_that_is_none_is_refused() {
    // What the command line refuses by itself has a line on its usage below it.
    let misread: [(&str, &[&str]); 8] = [
        ("localhost", &["'localhost' has no port", "ws://example.org"]),
        ("ftp://localhost", &["'ftp://'", "ws, wss, mqtt, mqtts, http, https, nats"]),
        ("ws://u:p@localhost/", &["'…@localhost/'", "a name and a password apart"]),
        ("ws://u:p#w@localhost/", &["'…@localhost/'", "a name and a password apart"]),
        ("ws://localhost/#a", &["what follows #"]),
        ("[fe80::1%nowhere]:80", &["no interface nowhere is here; see ip link"]),
        ("localhost:1 --target-ip 127.0.0.1", &["--target-ip", "cannot be used with"]),
        ("localhost:1 --port 5", &["--port", "cannot be used with"]),
    ];
    for (words, named) in misread {
        let finished = run(&format!("client --target {words}"));
        assert_eq!(finished.code(), 2, "{}", finished.err);
        assert!(named.iter().all(|word| finished.err.contains(word)), "{}", finished.err);
        assert!(!["u:p", "p#w"].iter().any(|secret| finished.err.contains(secret)), "{}", finished.err);
    }
    let refused: [(&str, i32, &[&str]); 6] = [
        ("localhost:1 --insecure", 2, &["--insecure", "it is for TLS", "add --tls"]),
        ("ws://localhost --protocol raw", 2, &["--target ws://localhost:80 with --protocol raw", "as websocket"]),
        ("ws://localhost/a --path /b", 2, &["the path /a, and --path /b"]),
        ("ws://localhost/{m}", 2, &["the path of --target, character 2", "{n}, {round} or {token}"]),
        ("no-such-host.invalid:1", 3, &["resolve no-such-host.invalid", "getent"]),
        ("localhost:1 --keepalive-interval 10ms", 2, &["--keepalive-interval 10ms", "1 s apart"]),
    ];
    for (words, code, named) in refused {
        run(&format!("client --target {words}")).fails_with(code, named);
    }
    let finished = run("client --target-ip 127.0.0.1 --protocol websocket --audit state");
    finished.fails_with(2, &["--audit state or off, and --protocol websocket", "--audit echo"]);
}
