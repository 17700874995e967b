//! `http` against responses that are cut anywhere.

use super::*;

fn dialect(proof: &str, status: u16) -> Http {
    let text = |text: &str| Some(text.to_owned());
    Http::new(&Settings { proof: text(proof), status: Some(status), path: text("/{token}"), ..Settings::default() })
        .unwrap()
}

fn exchange(purpose: Purpose, round: u32) -> Exchange {
    Exchange { number: 7, round, purpose }
}

/// A body as it is sent: by its length, or in chunks of so many bytes.
fn sent(body: &[u8], each: Option<usize>, trailers: &str) -> Vec<u8> {
    let Some(each) = each else { return [format!("Content-Length: {}\r\n\r\n", body.len()).as_bytes(), body].concat() };
    let mut bytes = b"Transfer-Encoding: chunked\r\n\r\n".to_vec();
    for (index, chunk) in body.chunks(each).enumerate() {
        let extension = if index % 2 == 0 { "" } else { ";a=b" };
        bytes.extend_from_slice(format!("{:X}{extension}\r\n", chunk.len()).as_bytes());
        bytes.extend_from_slice(chunk);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(format!("000\r\n{trailers}\r\n").as_bytes());
    bytes
}

fn token(exchange: Exchange) -> Vec<u8> {
    digits(exchange.token()).to_vec()
}

proptest! {
    /// Responses behind each other, of which each has its token, the one of another, or none.
    #[test]
    fn responses_may_be_cut_anywhere(
        bodies in prop::collection::vec(
            (0usize..200, prop::option::of(1usize..50), 0usize..200, prop::sample::select(vec!["", "X-Sum: 1\r\n", "a:b\r\nc:\r\n"])),
            1..5,
        ),
        proof in prop::sample::select(vec!["status", "token"]), spoil in prop::option::of(0usize..5), interim: bool,
        cuts in prop_oneof![prop::collection::vec(1usize..30, 0..200), Just(vec![1; 9_000])],
    ) {
        let dialect = dialect(proof, 200);
        let (mut stream, mut asked, mut expected) = (Vec::new(), Vec::new(), Vec::new());
        for (index, (filling, each, at, trailers)) in bodies.into_iter().enumerate() {
            let exchange = exchange(if index == 0 { Purpose::Open(0) } else { Purpose::Audit }, index as u32);
            asked.push(Some(exchange));
            let is_spoiled = spoil == Some(index);
            let of = Exchange { number: if is_spoiled { 8 } else { 7 }, ..exchange };
            // Digits before the token may look like its beginning.
            let mut body: Vec<u8> = token(exchange)[..5].iter().copied().cycle().take(filling).collect();
            let at = at.min(body.len());
            body.splice(at..at, token(of));
            if interim {
                stream.extend_from_slice(b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n");
            }
            stream.extend_from_slice(b"HTTP/1.1 200 OK\r\nServer: x\r\n");
            stream.extend(sent(&body, each, trailers));
            let wrong = is_spoiled && proof == "token";
            expected.push(if wrong { Verdict::Wrong(Cause::WrongAnswer) } else { Verdict::Proof });
            if wrong {
                break;
            }
        }
        let (verdicts, replied) = follow(&dialect, &asked, &stream, cuts.into_iter());
        prop_assert_eq!(verdicts, expected);
        prop_assert!(replied.is_empty());
    }

    #[test]
    fn any_bytes_have_the_same_verdicts_however_they_are_cut(
        head in prop::sample::select(vec![
            "", "HTTP/1.1 200 OK\r\n\r\n", "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", "HTTP/1.1 503 x\r\n",
        ]),
        body in "([0-9a-f;\r\n :]|\r\n){0,40}", asks: bool, cuts in prop::collection::vec(1usize..9, 0..60),
    ) {
        let dialect = dialect("token", 200);
        let stream = [head.as_bytes(), body.as_bytes()].concat();
        let exchanges = [asks.then_some(exchange(Purpose::Audit, 3))];
        let whole = follow(&dialect, &exchanges, &stream, std::iter::empty());
        prop_assert_eq!(&follow(&dialect, &exchanges, &stream, cuts.into_iter()), &whole);
        prop_assert_eq!(&follow(&dialect, &exchanges, &stream, std::iter::repeat(1)), &whole);
    }
}

#[test]
fn answers_that_are_none_are_told_apart() {
    use Cause::{AnswerTooLong, HttpStatus, Malformed, NotKept, Unasked};
    let dialect = dialect("status", 204);
    let verdict = |asked: Option<Exchange>, text: &str| {
        follow(&dialect, &[asked], text.as_bytes(), std::iter::repeat(7)).0.last().copied()
    };
    let audit = Some(exchange(Purpose::Audit, 3));
    for (text, expected) in [
        ("HTTP/1.1 204 No Content\r\n\r\n", Verdict::Proof),
        ("HTTP/1.1 204 x\r\nconnection: close\r\n\r\n", Verdict::Ended(NotKept)),
        ("HTTP/1.0 204 x\r\n\r\n", Verdict::Ended(NotKept)),
        ("HTTP/1.1 429 x\r\nretry-after: 1\r\n\r\n", Verdict::Ended(HttpStatus(429))),
        ("HTTP/1.1 101 x\r\n\r\n", Verdict::Ended(HttpStatus(101))),
        ("HTTP/2 204\r\n\r\n", Verdict::Wrong(Malformed)),
        ("220 mail ready\r\n", Verdict::Wrong(Malformed)),
    ] {
        assert_eq!(verdict(audit, text), Some(expected), "{text}");
    }
    let dialect = self::dialect("status", 200);
    let verdict = |asked: Option<Exchange>, text: &str| {
        follow(&dialect, &[asked], text.as_bytes(), std::iter::repeat(7)).0.last().copied()
    };
    let chunked = "HTTP/1.1 200 x\r\ntransfer-encoding: chunked\r\n\r\n";
    for (text, expected) in [
        ("HTTP/1.1 200 x\r\n\r\nuntil the end", Verdict::Ended(NotKept)),
        ("HTTP/1.1 200 x\r\ncontent-length: 4294967296\r\n\r\n", Verdict::Wrong(AnswerTooLong)),
        (&format!("{chunked}100000000\r\n"), Verdict::Wrong(AnswerTooLong)),
        (&format!("{chunked}\r\n"), Verdict::Wrong(Malformed)),
        (&format!("{chunked}-1\r\n"), Verdict::Wrong(Malformed)),
        (&format!("{chunked}1\r\nab"), Verdict::Wrong(Malformed)),
        (&format!("{chunked}0\r\n\r\n"), Verdict::Proof),
        // What is beside content has one bound, in however many pieces it comes.
        (&format!("{chunked}0\r\nx: {}\r\n\r\n", "x".repeat(9_000)), Verdict::Wrong(AnswerTooLong)),
    ] {
        assert_eq!(verdict(audit, text), Some(expected), "{text}");
    }
    // What comes while nothing is asked ends the connection, with the reason that it gives.
    assert_eq!(verdict(None, "HTTP/1.1 408 x\r\nconnection: close\r\n\r\n"), Some(Verdict::Ended(HttpStatus(408))));
    // A second answer to one request is no reason.
    for text in ["hello", "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", "HTTP/1.1 100 Continue\r\n\r\n"] {
        assert_eq!(verdict(None, text), Some(Verdict::Wrong(Unasked)), "{text}");
    }
}

#[test]
fn requests_are_written_as_they_are_typed() {
    let text = |text: &str| Some(text.to_owned());
    let settings = Settings {
        method: text("POST"),
        path: text("/a?n={n}"),
        body: text("{{\"token\":\"{token}\"}}"),
        headers: vec!["Host: other".to_owned(), "X-Round: {round}".to_owned()],
        ..Settings::default()
    };
    let exchange = exchange(Purpose::Audit, 3);
    let written = |settings: &Settings| {
        let (dialect, mut request) = (Http::new(settings).unwrap(), b"before".to_vec());
        dialect.ask(exchange, &mut request);
        assert!(request.len() - 6 <= dialect.longest_message());
        String::from_utf8(request.split_off(6)).unwrap()
    };
    let body = format!("{{\"token\":\"{:016x}\"}}", exchange.token());
    let expected =
        format!("POST /a?n=7 HTTP/1.1\r\nHost: other\r\nX-Round: 3\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    assert_eq!(written(&settings), expected);
    assert_eq!(written(&Settings::default()), "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let empty = Settings { method: text("POST"), ..Settings::default() };
    assert_eq!(written(&empty), "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n");
    for (settings, words) in [
        (Settings { body: text("a"), ..Settings::default() }, "a GET has no body"),
        (Settings { proof: text("token"), ..Settings::default() }, "`path`, `header` or `body`"),
        (Settings { status: Some(101), ..Settings::default() }, "between 200 and 599"),
        (Settings { method: text("PUT"), ..Settings::default() }, "choose GET or POST"),
        (Settings { headers: vec!["Content-Length: 1".to_owned()], ..Settings::default() }, "itself"),
        (Settings { headers: vec!["connection: close".to_owned()], ..Settings::default() }, "itself"),
        (Settings { headers: vec!["Host: a".to_owned(), "HOST: b".to_owned()], ..Settings::default() }, "one Host"),
        (Settings { path: text("/a#b"), ..Settings::default() }, "neither spaces nor #"),
        (
            Settings { path: text("/{token}"), proof: text("token"), status: Some(204), ..Settings::default() },
            "no body",
        ),
        (Settings { headers: vec!["Content-Length: 1".to_owned()], ..Settings::default() }, "leave it out"),
        (Settings { headers: vec!["X-\u{e9}".to_owned()], ..Settings::default() }, "write it as in"),
        (Settings { headers: vec!["X: \u{e9}{m}".to_owned()], ..Settings::default() }, "character 5, \"{m}\""),
    ] {
        let error = Http::new(&settings).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
}

/// What was typed stands in an error, unless it is a secret or may be one.
#[test]
fn no_error_shows_a_secret() {
    for header in [
        "Authorization: Bearer se{cret",
        "Authorization: Bearer se}cret",
        "Authorization: Bearer secret\nX",
        "Authorization : Bearer secret",
        "Authorization Bearer secret",
        "X-Api-Key: se\\cret",
    ] {
        let settings = Settings { headers: vec![header.to_owned()], ..Settings::default() };
        let error = Http::new(&settings).unwrap_err().to_string();
        assert!(error.contains("***") && !error.contains("cret"), "{error}");
    }
    for password in ["se{cret}", "se}cret", "se\\cret"] {
        let settings =
            Settings { user: Some("me".to_owned()), password: Some(password.to_owned()), ..Settings::default() };
        for error in [Mqtt::new(&settings).unwrap_err(), Nats::new(&settings).unwrap_err()] {
            let error = error.to_string();
            assert!(error.contains("character 3, \"***\"") && !error.contains("cret"), "{error}");
        }
    }
}

/// Connections go to the ports of the first address in turn, then to those of the next, as `Routes` has it.
#[test]
fn each_request_names_the_address_that_it_goes_to() {
    let hosts = ["10.0.0.1", "[::1]"].map(str::to_owned).to_vec();
    let authority = Authority { hosts, first_port: 80, ports: 2, default_port: 80 };
    let written = |number| {
        let mut host = Vec::new();
        authority.write(number, &mut host);
        String::from_utf8(host).unwrap()
    };
    assert_eq!([0, 1, 2, 3, 4].map(written), ["10.0.0.1", "10.0.0.1:81", "[::1]", "[::1]:81", "10.0.0.1"]);
}
