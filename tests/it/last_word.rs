//! The last that a server says to a client arrives in order although the client is still sending: a RST could overtake it.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;

use crate::support::*;
use crate::tls::server;

/// Waits until the server has sent its FIN to a socket, without reading what came before.
fn until_ended(socket: RawFd) {
    eventually("the server ends what it sends", || {
        let mut poll = libc::pollfd { fd: socket, events: libc::POLLRDHUP, revents: 0 };
        // SAFETY: one entry, which lives longer than the call.
        unsafe { libc::poll(&raw mut poll, 1, 0) == 1 }
    });
}

/// Says something, says much more once the server has ended, and reads all of the answer, to the end in order.
fn says_on(stream: TcpStream, said: &[u8]) -> Vec<u8> {
    stream.set_nodelay(true).unwrap();
    let socket = stream.as_raw_fd();
    goes_on(stream, socket, said)
}

/// The same over TLS: the end is a close_notify.
fn says_on_securely(stream: Secure, said: &[u8]) -> Vec<u8> {
    let socket = stream.sock.as_raw_fd();
    goes_on(stream, socket, said)
}

fn goes_on(mut stream: impl Read + Write, socket: RawFd, said: &[u8]) -> Vec<u8> {
    stream.write_all(said).unwrap();
    until_ended(socket);
    // To a connection that is reset the second part could not be written.
    (0..300).for_each(|_| stream.write_all(&[b'x'; 1_000]).unwrap());
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    answer
}

/// Requests that are refused before all of them has come, and the statuses.
const REFUSED: [(&str, &str); 4] = [
    ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nno chunk\r\n", "400"),
    ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", "501"),
    ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nfffff\r\nhello", "413"),
    ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\nhello", "413"),
];

#[test]
fn why_a_request_is_refused_arrives_while_its_body_is_sent() {
    for protocol in ["http --service sink", "websocket"] {
        let plain = Server::start(1, &format!("--protocol {protocol} --max-message 1000 --json -"));
        let (secured, authority) = server(&format!("--protocol {protocol} --max-message 1000"));
        let config = Arc::new(authority.client(None));
        for (request, status) in REFUSED {
            let answers = [
                says_on(connected(plain.port), request.as_bytes()),
                says_on_securely(secure(secured.port, &config, "localhost").unwrap(), request.as_bytes()),
            ];
            for answer in answers {
                let answer = String::from_utf8(answer).unwrap();
                assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
            }
        }
        for server in [plain, secured] {
            let document = server.stop().last_document();
            assert_eq!((number(&document, "live"), number(&document["http"], "too_long")), (0, 2), "{document}");
        }
    }
}

#[test]
fn why_a_websocket_is_closed_arrives_while_its_client_sends() {
    const UPGRADE: &str = "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    let server = Server::start(1, "--protocol websocket --max-message 1000 --json -");
    // A frame without a mask, a text that is no UTF-8, and the beginning of a message that is too long.
    let wrong: [(&[u8], u16); 3] =
        [(b"\x82\x05hello", 1002), (b"\x81\x81\0\0\0\0\xff", 1007), (b"\x82\xff\0\0\0\0\0\x10\0\0\0\0\0\0", 1009)];
    for (frame, code) in wrong {
        let answer = says_on(connected(server.port), &[UPGRADE.as_bytes(), frame].concat());
        let close = answer.windows(4).position(|end| end == b"\r\n\r\n").map(|at| &answer[at + 4..]).unwrap();
        assert_eq!((close[0], &close[2..4]), (0x88, &code.to_be_bytes()[..]), "{close:?}");
        assert_eq!(close.len(), 2 + usize::from(close[1]), "{close:?}");
    }
    let document = server.stop().last_document();
    assert_eq!(number(&document, "live"), 0, "{document}");
}

#[test]
fn an_alert_arrives_while_its_peer_sends() {
    let (server, authority) = server("");
    let garbage: [&[u8]; 2] = [b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", &[22, 3, 1, 0xff, 0xff, 1]];
    for said in garbage {
        let answer = says_on(connected(server.port), said);
        assert!(matches!(answer[..], [21, 3, _, 0, 2, 2, _]), "{answer:?} to {said:?}");
    }
    // A record that does not decrypt, after a handshake.
    let mut stream = authority.connected(server.port);
    let record = [&[23, 3, 3, 0, 32][..], &[7; 32]].concat();
    stream.sock.write_all(&record).unwrap();
    until_ended(stream.sock.as_raw_fd());
    (0..300).for_each(|_| stream.sock.write_all(&[b'x'; 1_000]).unwrap());
    let error = stream.read(&mut [0; 8]).unwrap_err();
    assert!(error.to_string().contains("BadRecordMac"), "{error}");
    assert_eq!(stream.sock.read(&mut [0; 8]).unwrap(), 0, "the end in order, and no reset");
    let totals = crate::tls::totals(server);
    assert_eq!((number(&totals, "alerts_sent"), number(&totals, "handshakes_refused")), (1, 2), "{totals}");
}
