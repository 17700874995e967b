//! Protocols on the command line: `send-expect` against servers that speak lines, whole and cut into bytes, right and
//! wrong ones; templates that are none; storms in which it is spoken.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::storm::storm;
use crate::support::*;

/// Serves a connection: the greeting, and an answer to each line, in pieces of so many bytes. `answer` gets the line without
/// its end, and `None` closes the connection.
fn serve(mut stream: TcpStream, greeting: &[u8], piece: usize, mut answer: impl FnMut(&str) -> Option<Vec<u8>>) {
    stream.set_nodelay(true).unwrap();
    let lines = BufReader::new(stream.try_clone().unwrap()).lines();
    let mut say = |bytes: &[u8]| bytes.chunks(piece).try_for_each(|piece| stream.write_all(piece));
    let mut answered = say(greeting);
    for line in lines.map_while(Result::ok) {
        let Some(bytes) = answer(&line) else { return };
        answered = answered.and_then(|()| say(&bytes));
        if answered.is_err() {
            return;
        }
    }
}

/// A server that answers each line.
fn answering(piece: usize, answer: impl Fn(&str) -> Option<Vec<u8>> + Send + Sync + 'static) -> Peer {
    Peer::with_threads(move |stream| serve(stream, b"", piece, &answer))
}

/// The same answer to each line.
fn always(answer: &'static [u8]) -> Peer {
    answering(usize::MAX, |_| Some(answer.to_vec()))
}

type Store = Arc<Mutex<BTreeMap<String, String>>>;

/// A server with the inline commands of Redis, and its keys.
fn redis(piece: usize) -> (Peer, Store) {
    let store = Store::default();
    let keys = store.clone();
    let peer = answering(piece, move |line| {
        let mut words = line.split_whitespace();
        let mut next = || words.next().unwrap_or_default().to_owned();
        Some(match (&*next(), next()) {
            ("PING", _) => b"+PONG\r\n".to_vec(),
            ("SET", key) => {
                keys.lock().unwrap().insert(key, next());
                b"+OK\r\n".to_vec()
            }
            ("GET", key) => match keys.lock().unwrap().get(&key) {
                Some(value) => format!("${}\r\n{value}\r\n", value.len()).into_bytes(),
                None => b"$-1\r\n".to_vec(),
            },
            _ => b"-ERR unknown command\r\n".to_vec(),
        })
    });
    (peer, store)
}

const PING: &str = r"--protocol send-expect --send PING\r\n --expect +PONG\r\n";

/// Writes a token under the connection's own key, and reads it back.
const SET_GET: &str =
    r"--protocol send-expect --send SET\x20k{n}\x20{token}\r\nGET\x20k{n}\r\n --expect +OK\r\n$16\r\n{token}\r\n";

/// A line that an echo server sends back.
const ECHO: &str = r"--protocol send-expect --send {{{n}\t{round}\t{token}}}\n --expect {{{n}\t{round}\t{token}}}\n";

#[test]
fn an_echo_server_is_asked_and_answers() {
    let server = Server::start(4, "--json -");
    let run = client(&format!("{} --connections 300 --interval 100ms --hold 1s {ECHO}", server.at()));
    run.held(300);
    assert_eq!((&run.json["protocol"], &run.json["proof"]), (&"send-expect".into(), &"end-to-end".into()));
    assert_eq!(run.json["echo_source"], "messages");
    let line = "protocol send-expect, proof end-to-end: each answer held what its connection alone was sent";
    assert!(run.finished.out.lines().any(|said| said == line), "{}", run.finished.out);
    assert!(number(&server.stop().last_document(), "messages") > 3 * 300);
    let server = Server::start(2, "");
    let run = client(&format!("{} --connections 5", server.at()));
    assert_eq!((&run.json["protocol"], &run.json["proof"]), (&"raw".into(), &"end-to-end".into()));
}

#[test]
fn a_redis_like_server_is_alive() {
    let (peer, _) = redis(usize::MAX);
    let run = client(&format!("{} --connections 40 --interval 50ms --hold 300ms {PING}", peer.at()));
    run.held(40);
    assert_eq!(run.json["proof"], "liveness");
    assert!(number(&run.json["echo_latency_us"], "count") > 0, "{}", run.json);
}

/// Each of two answers comes in single bytes, and must hold the token.
#[test]
fn a_redis_like_server_proves_itself_by_tokens() {
    for piece in [usize::MAX, 1] {
        let (peer, store) = redis(piece);
        let words = "--connections 30 --first-number 1000 --interval 50ms --hold 300ms";
        let run = client(&format!("{} {words} {SET_GET}", peer.at()));
        run.held(30);
        assert_eq!(run.json["proof"], "end-to-end");
        let keys: Vec<String> = store.lock().unwrap().keys().cloned().collect();
        assert_eq!(keys, (1_000..1_030).map(|number| format!("k{number}")).collect::<Vec<_>>());
    }
}

/// A server with the commands of memcached, whose values come on lines of their own.
#[test]
fn a_memcached_like_server_proves_itself_by_tokens() {
    let store = Store::default();
    let peer = Peer::with_threads(move |stream| {
        let mut set = None;
        serve(stream, b"", 5, |line| {
            let mut store = store.lock().unwrap();
            if let Some(key) = set.take() {
                store.insert(key, line.to_owned());
                return Some(b"STORED\r\n".to_vec());
            }
            let words: Vec<&str> = line.split_whitespace().collect();
            match words[..] {
                ["set", key, "0", "60", "16"] => {
                    set = Some(key.to_owned());
                    Some(Vec::new())
                }
                ["get", key] => Some(format!("VALUE {key} 0 16\r\n{}\r\nEND\r\n", store[key]).into_bytes()),
                _ => None,
            }
        });
    });
    let send = r"--send set\x20k{n}\x200\x2060\x2016\r\n{token}\r\nget\x20k{n}\r\n";
    let expect = r"--expect STORED\r\nVALUE\x20k{n}\x200\x2016\r\n{token}\r\nEND\r\n";
    let run = client(&format!("{} --connections 30 --protocol send-expect {send} {expect}", peer.at()));
    run.held(30);
    assert_eq!(run.json["proof"], "end-to-end");
}

/// A server that mixes up its connections is found out, and so is one that answers with old bytes.
#[test]
fn an_answer_for_another_connection_or_round_is_wrong() {
    let last = Mutex::new(String::new());
    let mixed_up = answering(usize::MAX, move |line| {
        let before = std::mem::replace(&mut *last.lock().unwrap(), line.to_owned());
        Some(format!("{before}\n").into_bytes())
    });
    let words = r"--protocol send-expect --send {token}\n --expect {token}\n";
    let run = client(&format!("{} --connections 20 {words}", mixed_up.at()));
    run.failed("wrong_answer", 20, "what --expect says");
    // The first answer of each connection is right; it is repeated in the first audit.
    let repeating = Peer::with_threads(|stream| {
        let mut first = None;
        serve(stream, b"", usize::MAX, |line| {
            Some(format!("{}\n", first.get_or_insert_with(|| line.to_owned())).into_bytes())
        });
    });
    let run = client(&format!("{} --connections 20 {words}", repeating.at()));
    run.failed("wrong_answer", 20, "mixes up connections");
    let audit = &run.json["audits"][0];
    assert_eq!(["live", "lost", "wrong"].map(|name| number(audit, name)), [0, 0, 20], "{}", run.json);
}

/// A server of lines that speaks first, closes at QUIT, and refuses clients that do not wait for its greeting.
fn mail_server(quits: Arc<AtomicU64>) -> Peer {
    Peer::with_threads(move |stream| {
        stream.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let early = stream.peek(&mut [0]);
        stream.set_read_timeout(None).unwrap();
        let is_polite = early.is_err_and(|e| matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut));
        let greeting: &[u8] = if is_polite { b"220-mail.test\r\n220 ESMTP ready\r\n" } else { b"554 go away\r\n" };
        serve(stream, greeting, 3, |line| match line.trim_end() {
            "QUIT" => {
                quits.fetch_add(1, Ordering::AcqRel);
                None
            }
            other => Some(format!("250-heard\r\n250 {other}, OK\r\n").into_bytes()),
        });
    })
}

#[test]
fn a_server_that_greets_is_heard_out() {
    let quits = Arc::new(AtomicU64::new(0));
    let peer = mail_server(quits.clone());
    let words = r"--protocol send-expect --send NOOP\x20{token}\r\n --expect 250*\n250\x20*{token}*\n";
    let at = format!("{} --connections 10", peer.at());
    let run = client(&format!(r"{at} {words} --greeting *220\x20*\n --goodbye QUIT\r\n"));
    run.held(10);
    assert_eq!(run.json["proof"], "end-to-end");
    eventually("every connection said goodbye", || quits.load(Ordering::Acquire) == 10);
    // A client that does not wait is told so, and that is no answer.
    client(&format!("{at} {words}")).failed("wrong_answer", 10, "look at one answer");
}

/// The greeting is a part of the first answer where a pattern begins with a star, and unasked bytes otherwise.
#[test]
fn unasked_bytes_are_judged_by_the_pattern() {
    let greeter = || {
        Peer::with_threads(|stream| {
            serve(stream, b"welcome\n", usize::MAX, |line| Some(format!("{line}\nand more\n").into_bytes()));
        })
    };
    let (peer, send) = (greeter(), r"--protocol send-expect --send {token}\n");
    client(&format!("{} --connections 10 {send} --expect *{{token}}\\n", peer.at())).held(10);
    let run = client(&format!("{} --connections 10 {send} --expect {{token}}\\n --greeting welcome\\n", peer.at()));
    run.failed("unasked", 10, "allows that");
    let run = client(&format!("{} --connections 10 {send} --expect {{token}}*", peer.at()));
    run.failed("wrong_answer", 10, "look at one answer");
    client(&format!("{} --connections 10 {send} --expect *{{token}}* --greeting *", peer.at())).held(10);
}

#[test]
fn servers_that_are_silent_or_do_not_end_are_told_apart() {
    let sink = Server::start(2, "--service sink");
    let run = client(&format!("{} --connections 20 --reply-timeout 1s {PING}", sink.at()));
    run.failed("silent", 20, "another protocol");
    // Nothing is asked of it but to stay.
    let run = client(&format!("{} --connections 20 --audit state {PING}", sink.at()));
    run.held(20);
    assert_eq!(run.json["proof"], "state");
    static ENDLESS: [u8; 70_000] = [b'x'; 70_000];
    let peer = always(&ENDLESS);
    let words = r"--protocol send-expect --send a\n --expect *\n";
    client(&format!("{} --connections 5 {words}", peer.at())).failed("answer_too_long", 5, "64 KiB");
    let peer = always(b"+PON");
    let run = client(&format!("{} --connections 5 --reply-timeout 1s {PING}", peer.at()));
    run.failed("silent", 5, "or not to the end");
}

// ---- storms -------------------------------------------------------------------------------------

#[test]
fn slow_readers_ask_in_any_protocol() {
    const VICTIMS: u64 = 40;
    let server = Server::start(4, "--json -");
    let run = storm(&server, &format!("slow-readers --connections 200 --share {VICTIMS} --for 1s {ECHO}"));
    assert_eq!(run.finished.code(), 0, "{}{}", run.finished.out, run.finished.err);
    assert_eq!(run.of_storm("closed"), VICTIMS, "{}", run.json);
    let totals = server.stop().last_document();
    // A slow machine lets them ask less in that second. What all say but that is some 50 KiB.
    assert!(number(&totals, "bytes") > VICTIMS * 4 * 1024, "they did ask: {totals}");
}

/// The process of the victims speaks the same protocol under numbers of its own: both write into one store, and each
/// connection finds what it wrote itself.
#[test]
fn victims_in_another_process_speak_the_same_protocol() {
    let (peer, store) = redis(usize::MAX);
    let words = "--target-ip 127.0.0.1 --for 300ms --calm 300ms --after 300ms --interval 100ms --cores 1";
    let finished = run(&format!("storm killed {} --connections 60 --share 20 --json - {words} {SET_GET}", peer.at()));
    assert_eq!(finished.code(), 0, "{}{}", finished.out, finished.err);
    let document = finished.last_document();
    assert_eq!((number(&document, "live"), number(&document["storm"], "closed")), (40, 20), "{document}");
    assert_eq!(store.lock().unwrap().len(), 60);
}

// ---- what is typed ------------------------------------------------------------------------------

#[test]
fn a_template_that_is_none_is_refused_with_its_place() {
    let at = at(free_ports(1), 1);
    let cases: [(&str, &[&str]); 15] = [
        (r"--send a{m} --expect b", &["--send, character 2, \"{m}\"", "no placeholder", "{n}, {round} or {token}"]),
        (r"--send a --expect b{token", &["--expect, character 2, \"{token\"", "no } closes"]),
        (r"--send a}b --expect b", &["--send, character 2", "no { opens", "write }}"]),
        (r"--send \q --expect b", &["--send, character 1, \"\\\\q\"", "no escape", r"\xHH"]),
        (r"--send a --expect \x4", &["--expect, character 1", "two hexadecimal digits"]),
        (r"--send a --expect b --greeting c\", &["--greeting, character 2", "no escape"]),
        (r"--send a --expect b --goodbye {}", &["--goodbye, character 1", "no placeholder"]),
        (r"--send a --expect {token}", &["--expect with {token}", "no server can know it"]),
        (r"--send {token} --expect {token} --greeting {token}", &["--greeting with {token}", "cannot know it"]),
        (r"--send a", &["without --expect", "+PONG"]),
        (r"--send a --expect=", &["without --expect"]),
        (r"--expect a", &["without --send"]),
        (r"--send a --expect b --hello c", &["--hello with --protocol send-expect", "one message", "--protocol raw"]),
        (r"--send a --expect b --first-number 1099511627777", &["--first-number", "at most"]),
        (
            r"--send a --expect b --payload 5",
            &["--payload with --protocol send-expect", "one message", "--protocol raw"],
        ),
    ];
    for (words, named) in cases {
        let finished = run(&format!("client --target-ip 127.0.0.1 {at} --protocol send-expect {words}"));
        finished.fails_with(2, named);
    }
}

#[test]
fn options_of_another_protocol_are_refused() {
    let at = at(free_ports(1), 1);
    for option in ["--send", "--expect", "--greeting", "--goodbye"] {
        let finished = run(&format!("storm disconnect --target-ip 127.0.0.1 {at} {option} x"));
        finished.fails_with(2, &[option, "with --protocol raw", "--protocol send-expect"]);
    }
    assert_eq!(run(&format!("client --target-ip 127.0.0.1 {at} --protocol gopher")).code(), 2);
    let greeted = r"--protocol send-expect --send a --expect b --greeting c --audit state";
    run(&format!("client --target-ip 127.0.0.1 {at} {greeted}")).fails_with(2, &["--audit", "await", "--greeting"]);
}
