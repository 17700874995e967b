//! No client of the metrics' address can harm the server: its connections, its memory, its threads, the next
//! scrape, or its end.

use std::collections::HashSet;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use c1m::internal::metrics::METRICS_CONNECTIONS;
use c1m::internal::sys::Resource;
use socket2::SockRef;

use crate::support::*;

/// A server that holds connections. All of them must echo at the end of a test.
struct Held {
    server: Server,
    address: String,
    peers: Vec<TcpStream>,
}

/// The whole answer to a scrape at this address.
pub fn scrape(address: SocketAddr) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nConnection: close\r\n\r\n").unwrap();
    all(&mut stream)
}

impl Held {
    fn start(preparation: &str) -> Held {
        Held::start_as(c1m_after(preparation))
    }

    fn start_as(command: std::process::Command) -> Held {
        let server = Server::start_as(command, 2, "--cores 1 --max-connections 1000 --metrics 127.0.0.1:0");
        let out = server.running.out();
        let url = out.lines().find_map(|line| line.strip_prefix("metrics: http://")).unwrap();
        let address = url.strip_suffix("/metrics").unwrap().to_owned();
        let peers = (0..50).map(|_| connected(server.port)).collect();
        let mut held = Held { server, address, peers };
        held.echo();
        held
    }

    fn echo(&mut self) {
        self.peers.iter_mut().for_each(echoes);
    }

    fn ask(&self) -> TcpStream {
        let stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// The whole answer to `request`, up to the end of the connection.
    fn answer(&self, request: &str) -> String {
        let mut stream = self.ask();
        stream.write_all(request.as_bytes()).unwrap();
        all(&mut stream)
    }

    fn scrape(&self) {
        let text = self.answer("GET /metrics HTTP/1.1\r\nConnection: close\r\n\r\n");
        assert!(text.starts_with("HTTP/1.1 200 OK\r\n") && text.contains("\nc1m_connections{"), "{text}");
    }

    fn status(&self, field: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.server.running.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    }

    /// Checks that the server still answers, its connections still echo, and it ends in order.
    fn survives(mut self) {
        self.scrape();
        self.echo();
        let finished = self.server.stop();
        assert!(finished.out.contains("accepted 50, "), "{}", finished.out);
    }
}

/// Reads to the end of the connection. After some bytes a reset counts as an end too.
fn all(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    match stream.read_to_end(&mut bytes) {
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        Err(error) => panic!("{error} behind {}", String::from_utf8_lossy(&bytes)),
    }
    String::from_utf8(bytes).unwrap()
}

#[test]
fn a_body_of_any_size_is_refused_and_neither_stored_nor_awaited() {
    let held = Held::start("true");
    let sizes = ["1", "1000000000000000", "9223372036854775807", "18446744073709551615"];
    let heads = sizes.map(|size| format!("Content-Length: {size}\r\n"));
    for head in heads.iter().map(String::as_str).chain(["Transfer-Encoding: chunked\r\n"]) {
        for (method, code) in [("POST", 405), ("PUT", 405), ("GET", 413), ("HEAD", 413)] {
            for expect in ["", "Expect: 100-continue\r\n"] {
                let text = held.answer(&format!("{method} /metrics HTTP/1.1\r\nHost: a\r\n{head}{expect}\r\n"));
                assert!(text.starts_with(&format!("HTTP/1.1 {code} ")), "{method} {head}: {text}");
            }
        }
    }
    for size in ["18446744073709551616", "-1", "+1", "1e9", "0x10", "", "1\r\nContent-Length: 1", "1, 1"] {
        let text = held.answer(&format!("GET /metrics HTTP/1.1\r\nContent-Length: {size}\r\n\r\n"));
        assert!(text.starts_with("HTTP/1.1 400 "), "{size}: {text}");
    }
    held.survives();
}

#[test]
fn a_client_that_resets_ends_only_its_own_connection() {
    let held = Held::start("true");
    let cut = "GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n";
    for round in 0..200 {
        let mut stream = held.ask();
        stream.write_all(&cut.as_bytes()[..cut.len() - (round % 3) * 10]).unwrap();
        reset(stream);
    }
    // After this scrape all clients above are off the accept queue, whose 128 places those below need.
    held.scrape();
    // While the server is stopped, each client resets before its request is read.
    held.server.running.pause();
    for _ in 0..100 {
        let mut stream = held.ask();
        stream.write_all(cut.as_bytes()).unwrap();
        reset(stream);
    }
    let mut waits = held.ask();
    waits.write_all(b"GET /metrics HTTP/1.1\r\nConnection: close\r\n\r\n").unwrap();
    held.server.running.signal(libc::SIGCONT);
    assert!(all(&mut waits).starts_with("HTTP/1.1 200 "));
    held.survives();
}

#[test]
fn idle_clients_take_no_descriptor_from_the_next_scrape() {
    let held = Held::start("ulimit -n 200");
    let idle: Vec<TcpStream> = (0..150).map(|_| held.ask()).collect();
    held.scrape();
    let descriptors = std::fs::read_dir(format!("/proc/{}/fd", held.server.running.pid())).unwrap().count();
    assert!(descriptors < 150, "{descriptors}");
    drop(idle);
    held.survives();
}

#[test]
fn a_process_without_a_descriptor_left_still_answers() {
    let held = Held::start("true");
    // The limit is the lowest free number, so every further descriptor is refused with EMFILE.
    let open = std::fs::read_dir(format!("/proc/{}/fd", held.server.running.pid())).unwrap();
    let open: HashSet<u64> = open.map(|fd| fd.unwrap().file_name().to_str().unwrap().parse().unwrap()).collect();
    let free = (0..).find(|number| !open.contains(number)).unwrap();
    let limit = format!("--nofile={free}:{free}");
    let pid = held.server.running.pid().to_string();
    assert!(std::process::Command::new("prlimit").args(["--pid", &pid, &limit]).status().unwrap().success());
    let idle: Vec<TcpStream> = (0..20).map(|_| held.ask()).collect();
    for _ in 0..3 {
        let text = held.answer("GET /metrics HTTP/1.1\r\nConnection: close\r\n\r\n");
        assert!(text.starts_with("HTTP/1.1 200 OK\r\n") && text.contains("\nc1m_connections{"), "{text}");
    }
    // A value that cannot be read is left out, not shown as 0.
    drop(idle);
    held.survives();
}

#[test]
fn two_thousand_idle_clients_take_no_threads_and_no_memory() {
    Resource::Files.raise().unwrap();
    let held = Held::start("true");
    let (threads, memory) = (held.status("Threads:"), held.status("VmRSS:"));
    let idle: Vec<TcpStream> = (0..2_000).map(|_| held.ask()).collect();
    held.scrape();
    assert_eq!(held.status("Threads:"), threads);
    let grown = held.status("VmRSS:").saturating_sub(memory);
    // The program's own code, which was given back when the server was ready, is read again.
    assert!(grown < 7 * 1024, "{grown} kB");
    // The server closes all connections but a handful.
    eventually("they are sent away", || {
        let stands = |stream: &&TcpStream| {
            stream.set_nonblocking(true).unwrap();
            matches!(stream.peek(&mut [0]), Err(error) if error.kind() == ErrorKind::WouldBlock)
        };
        idle.iter().filter(stands).count() <= METRICS_CONNECTIONS
    });
    held.survives();
}

/// The user may have fewer threads than there are clients.
#[test(Users)]
fn idle_clients_need_no_thread() {
    let dir = tempfile::tempdir().unwrap();
    let held = Held::start_as(c1m_limited(&dir, &[(libc::RLIMIT_NPROC, 40)]));
    let idle: Vec<TcpStream> = (0..60).map(|_| held.ask()).collect();
    held.scrape();
    drop(idle);
    held.survives();
}

/// The user may have no second process or thread, and the server names that limit.
#[test(Users)]
fn a_thread_that_cannot_be_made_is_reported_in_one_line() {
    let dir = tempfile::tempdir().unwrap();
    let port = free_ports(1);
    let command = c1m_limited(&dir, &[(libc::RLIMIT_NPROC, 1)]);
    let finished = run_as(command, &format!("server --port {port} --ports 1 --metrics 127.0.0.1:0"));
    finished.fails_with(3, &["thread", "RLIMIT_NPROC", "ulimit -u"]);
}

#[test]
fn a_client_that_sends_no_body_holds_up_neither_scrapes_nor_the_end() {
    let held = Held::start("true");
    let mut unfinished: Vec<TcpStream> = (0..5).map(|_| held.ask()).collect();
    for (stream, method) in unfinished.iter_mut().zip(["POST", "GET", "PUT", "POST", "GET"]) {
        write!(stream, "{method} /metrics HTTP/1.1\r\nContent-Length: 100\r\n\r\nbegun").unwrap();
    }
    // One more client stops in the middle of its head.
    let mut begun = held.ask();
    begun.write_all(b"GET /metrics HT").unwrap();
    (0..5).for_each(|_| held.scrape());
    held.survives();
    // These clients were still connected when the server ended.
    drop((unfinished, begun));
}

#[test]
fn requests_whose_answers_are_not_read_hold_up_nothing() {
    let held = Held::start("true");
    let mut stream = held.ask();
    SockRef::from(&stream).set_recv_buffer_size(4_096).unwrap();
    stream.set_nonblocking(true).unwrap();
    let requests = "GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n".repeat(20_000);
    let mut sent = 0;
    // The server takes no more requests while an answer waits to be read.
    while let Ok(more) = stream.write(&requests.as_bytes()[sent..]) {
        sent += more;
        if sent == requests.len() {
            break;
        }
    }
    assert!(sent > 1_000, "{sent}");
    let memory = held.status("VmHWM:");
    (0..5).for_each(|_| held.scrape());
    assert!(held.status("VmHWM:").saturating_sub(memory) < 4 * 1024);
    held.survives();
    drop(stream);
}

#[test]
fn a_client_gets_every_answer_to_pipelined_requests() {
    let held = Held::start("true");
    let mut stream = held.ask();
    let request = "GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n";
    stream.write_all(request.repeat(9).as_bytes()).unwrap();
    stream.write_all(b"HEAD /metrics HTTP/1.1\r\nConnection: close\r\n\r\n").unwrap();
    assert_eq!(all(&mut stream).matches("HTTP/1.1 200 OK\r\n").count(), 10);
    // After 100 requests the server closes the connection, and the last answer is complete.
    let mut stream = held.ask();
    stream.write_all(request.repeat(150).as_bytes()).unwrap();
    let text = all(&mut stream);
    assert_eq!(text.matches("HTTP/1.1 200 OK\r\n").count(), 100);
    assert_eq!(text.matches("Connection: close\r\n").count(), 1);
    held.survives();
}

#[test]
fn a_head_of_any_length_takes_no_memory() {
    let held = Held::start("true");
    let memory = held.status("VmHWM:");
    let piece = vec![b'a'; 1 << 20];
    for first in ["GET /metrics HTTP/1.1\r\nX: ", "GET /"] {
        let mut stream = held.ask();
        stream.write_all(first.as_bytes()).unwrap();
        // The server answers long before the end of the head, and then takes no more bytes.
        let written = (0..300).take_while(|_| stream.write_all(&piece).is_ok()).count();
        assert!(written < 300, "{written} MiB were taken");
    }
    let many = format!("GET /metrics HTTP/1.1\r\n{}", "A: b\r\n".repeat(3_000));
    assert!(held.answer(&many).starts_with("HTTP/1.1 431 "));
    assert!(held.answer(&format!("GET /{}", "a".repeat(20_000))).starts_with("HTTP/1.1 414 "));
    assert!(held.status("VmHWM:").saturating_sub(memory) < 4 * 1024);
    held.survives();
}

#[test]
fn every_form_of_a_request_is_answered() {
    let held = Held::start("true");
    let close = "Connection: close\r\n";
    for (request, code) in [
        (format!("GET http://{}/metrics HTTP/1.1\r\n{close}\r\n", held.address), 200),
        (format!("GET HTTP://any.host:80/metrics?a=b HTTP/1.1\r\n{close}\r\n"), 200),
        (format!("GET http://{}/other HTTP/1.1\r\n{close}\r\n", held.address), 404),
        ("GET /metrics HTTP/1.1\nConnection: close\n\n".to_owned(), 200),
        ("\n\r\nGET /metrics HTTP/1.1\nConnection: close\n\r\n".to_owned(), 200),
        (format!("HEAD /metrics HTTP/1.1\r\n{close}\r\n"), 200),
        (format!("GET /metrics?name[]=x HTTP/1.1\r\n{close}\r\n"), 200),
        ("GET /metrics HTTP/1.0\r\n\r\n".to_owned(), 200),
        (format!("DELETE /metrics HTTP/1.1\r\n{close}\r\n"), 405),
        (format!("BREW /metrics HTTP/1.1\r\n{close}\r\n"), 501),
        ("GET /metrics HTTP/3.0\r\n\r\n".to_owned(), 505),
        ("\u{16}\u{3}\u{1}".to_owned(), 400),
        ("nonsense\r\n\r\n".to_owned(), 400),
    ] {
        let text = held.answer(&request);
        assert!(text.starts_with(&format!("HTTP/1.1 {code} ")), "{request:?}: {text}");
        assert_eq!(request.starts_with("HEAD"), text.ends_with("\r\n\r\n"), "{request:?}: {text}");
    }
    // A client that has sent a FIN after its request still gets the answer.
    let mut stream = held.ask();
    stream.write_all(b"GET /metrics HTTP/1.1\r\n\r\n").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert!(all(&mut stream).starts_with("HTTP/1.1 200 "));
    // A request may arrive one byte at a time.
    let mut stream = held.ask();
    stream.set_nodelay(true).unwrap();
    for byte in b"GET /metrics HTTP/1.1\r\nConnection: close\r\n\r\n" {
        stream.write_all(&[*byte]).unwrap();
    }
    assert!(all(&mut stream).starts_with("HTTP/1.1 200 "));
    held.survives();
}

#[test]
fn a_client_that_does_not_finish_its_request_gets_a_timeout() {
    let held = Held::start("true");
    let mut slow = held.ask();
    slow.write_all(b"GET /metrics HTTP/1.1\r\nX: ").unwrap();
    slow.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    let mut text = String::new();
    // Single bytes now and then do not extend the deadline.
    eventually("it is told", || {
        let _ = slow.write_all(b"a");
        let mut piece = [0; 512];
        if let Ok(read) = slow.read(&mut piece) {
            text.push_str(std::str::from_utf8(&piece[..read]).unwrap());
        }
        text.starts_with("HTTP/1.1 408 ")
    });
    held.survives();
}

/// A pause of the process does not count towards a request's deadline: the rest of the request is still read.
#[test]
fn a_request_that_a_pause_interrupts_is_answered() {
    let held = Held::start("true");
    let mut stream = held.ask();
    let half = "y".repeat(9_000);
    stream.write_all(format!("GET /metrics HTTP/1.1\r\nConnection: close\r\nX: {half}").as_bytes()).unwrap();
    // When another client has its answer, the server has read the first half.
    held.scrape();
    held.server.running.pause();
    // This is longer than a request may take.
    std::thread::sleep(Duration::from_secs(11));
    held.server.running.signal(libc::SIGCONT);
    held.scrape();
    stream.write_all(b"and the rest\r\n\r\n").unwrap();
    let answer = all(&mut stream);
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    held.survives();
}
