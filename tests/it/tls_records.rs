//! Records that an honest peer never makes, or makes and does not finish.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

use ring::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use rustls::{ClientConfig, ConnectionTrafficSecrets};

use crate::support::*;
use crate::tls::{echoes_securely, server, totals};

/// Types of content (RFC 8446, section 5.1).
const ALERT: u8 = 21;
const DATA: u8 = 23;

/// One direction of an established connection, with the key that rustls had.
struct Direction {
    key: LessSafeKey,
    iv: [u8; 12],
    number: u64,
}

impl Direction {
    fn of((number, secrets): (u64, ConnectionTrafficSecrets)) -> Direction {
        let ConnectionTrafficSecrets::Aes128Gcm { key, iv } = secrets else { panic!("another suite") };
        let key = LessSafeKey::new(UnboundKey::new(&AES_128_GCM, key.as_ref()).unwrap());
        Direction { key, iv: iv.as_ref().try_into().unwrap(), number }
    }

    fn nonce(&mut self) -> Nonce {
        let mut nonce = self.iv;
        nonce[4..].iter_mut().zip(self.number.to_be_bytes()).for_each(|(byte, number)| *byte ^= number);
        self.number += 1;
        Nonce::assume_unique_for_key(nonce)
    }

    fn seal(&mut self, kind: u8, content: &[u8]) -> Vec<u8> {
        let mut sealed = [content, &[kind]].concat();
        let [high, low] = u16::try_from(sealed.len() + 16).unwrap().to_be_bytes();
        let header = [DATA, 3, 3, high, low];
        let nonce = self.nonce();
        self.key.seal_in_place_append_tag(nonce, Aad::from(header), &mut sealed).unwrap();
        [&header[..], &sealed].concat()
    }

    /// Reads the next record. Returns the type and the content.
    fn open(&mut self, stream: &mut TcpStream) -> (u8, Vec<u8>) {
        let mut header = [0; 5];
        stream.read_exact(&mut header).unwrap();
        let mut sealed = vec![0; u16::from_be_bytes([header[3], header[4]]).into()];
        stream.read_exact(&mut sealed).unwrap();
        let nonce = self.nonce();
        let mut content = self.key.open_in_place(nonce, Aad::from(header), &mut sealed).unwrap().to_vec();
        (content.pop().unwrap(), content)
    }
}

/// A connection whose records the test makes itself.
fn bare(port: u16, mut config: ClientConfig) -> (TcpStream, Direction, Direction) {
    config.enable_secret_extraction = true;
    let mut stream = secure(port, &Arc::new(config), "localhost").unwrap();
    // The tickets come before the echo.
    echoes_securely(&mut stream, b"hello");
    let (connection, socket) = stream.into_parts();
    let secrets = connection.dangerous_extract_secrets().unwrap();
    (socket, Direction::of(secrets.rx), Direction::of(secrets.tx))
}

#[test]
fn empty_records_bring_nothing_and_too_many_in_a_row_end_the_connection() {
    let (server, authority) = server("");
    let (mut stream, mut rx, mut tx) = bare(server.port, authority.client(Some("AES_128_GCM")));
    for word in [&b"one"[..], b"two"] {
        for _ in 0..32 {
            stream.write_all(&tx.seal(DATA, b"")).unwrap();
        }
        stream.write_all(&tx.seal(DATA, word)).unwrap();
        assert_eq!(rx.open(&mut stream), (DATA, word.to_vec()));
    }
    for _ in 0..33 {
        stream.write_all(&tx.seal(DATA, b"")).unwrap();
    }
    // unexpected_message, and fatal.
    assert_eq!(rx.open(&mut stream), (ALERT, vec![2, 10]));
    drop(stream);
    let totals = totals(server);
    assert_eq!(number(&totals, "alerts_sent"), 1, "{totals}");
}

/// The record of some content, of which the peer has nothing yet.
pub fn record(stream: &mut Secure, content: &[u8]) -> Vec<u8> {
    let mut record = Vec::new();
    stream.conn.writer().write_all(content).unwrap();
    stream.conn.write_tls(&mut record).unwrap();
    record
}

#[test]
fn a_record_that_is_not_whole_in_time_ends_its_connection_alone() {
    let (server, authority) = server("--handshake-timeout 5s");
    let config = Arc::new(authority.client(None));
    let [mut slow, mut other] = [(); 2].map(|()| secure(server.port, &config, "localhost").unwrap());
    echoes_securely(&mut slow, b"hello");
    let record = record(&mut slow, &[7; 5_000]);
    slow.sock.write_all(&record[..record.len() - 1]).unwrap();
    let mut rest = Vec::new();
    slow.sock.read_to_end(&mut rest).unwrap();
    assert_eq!(rest, b"");
    echoes_securely(&mut other, b"hello");
    drop((slow, other));
    let totals = totals(server);
    assert_eq!((number(&totals, "records_timed_out"), number(&totals, "records_refused")), (1, 0), "{totals}");
}

/// So many connections, each of which has sent a record of the longest kind but for its last byte.
fn all_but_whole(server: &Server, authority: &Authority, count: usize) -> Vec<(Secure, u8)> {
    let config = Arc::new(authority.client(None));
    let begin = |_| {
        let mut stream = secure(server.port, &config, "localhost").unwrap();
        let record = record(&mut stream, &[7; 16_384]);
        let (last, most) = record.split_last().unwrap();
        stream.sock.write_all(most).unwrap();
        (stream, *last)
    };
    (0..count).map(begin).collect()
}

/// Sends the last byte of a record. Its content comes back.
fn becomes_whole((stream, last): &mut (Secure, u8)) {
    stream.sock.write_all(&[*last]).unwrap();
    let mut back = vec![0; 16_384];
    stream.read_exact(&mut back).unwrap();
    assert_eq!(back, [7; 16_384]);
}

/// In 1 MiB there is room for 63 of the longest records.
#[test]
fn a_record_without_room_ends_its_connection_and_others_stay() {
    let (server, authority) = server("--cores 1 --handshake-timeout 10m --incomplete-records 1048576");
    let ready = server.running.last_event("ready").unwrap();
    assert_eq!(number(&ready, "incomplete_records_bytes"), 1 << 20);
    let mut all = all_but_whole(&server, &authority, 80);
    let (latest, _) = all.last_mut().unwrap();
    let error = latest.read(&mut [0; 8]).unwrap_err();
    assert!(error.to_string().contains("InternalError"), "{error}");
    becomes_whole(&mut all[0]);
    drop(all);
    let totals = totals(server);
    let refused = number(&totals, "records_refused");
    assert!((1..=20).contains(&refused), "{totals}");
}

#[test]
fn as_many_records_may_be_incomplete_as_the_server_is_told() {
    let (server, authority) = server("--cores 1 --handshake-timeout 10m --incomplete-records 2097152");
    all_but_whole(&server, &authority, 80).iter_mut().for_each(becomes_whole);
    let totals = totals(server);
    assert_eq!(number(&totals, "records_refused"), 0, "{totals}");
}

/// Tells how many bytes each call brings.
struct Lengths(std::sync::mpsc::Sender<usize>);

impl c1m::Service for Lengths {
    type State = ();
    type Message = ();

    fn received(&mut self, _: &mut c1m::Ctx<'_, ()>, _: c1m::ConnId, data: &mut [u8]) -> c1m::Reply {
        self.0.send(data.len()).unwrap();
        c1m::Reply::Back(0..data.len())
    }
}

/// A service is given what one record holds at once: more than one receive brings.
#[test]
fn a_service_is_given_a_whole_record() {
    let authority = Authority::new();
    let signed = authority.sign("server", &["localhost"]);
    let port = free_ports(1);
    let builder = c1m::Server::builder().bind(std::net::Ipv4Addr::LOCALHOST).ports(c1m::Ports::new(port, 1).unwrap());
    let builder = builder.cores(c1m::Cores::Count(1)).max_connections(100);
    let builder = builder.tls(c1m::TlsConfig::files(&signed.chain, &signed.key));
    let (sender, lengths) = std::sync::mpsc::channel();
    let server = builder.start(move |_| Lengths(sender.clone())).unwrap();
    let mut stream = authority.connected(port);
    for length in [1, 5_000, 16_384] {
        echoes_securely(&mut stream, &vec![7; length]);
        assert_eq!(lengths.recv_timeout(PATIENCE), Ok(length));
    }
    server.stop();
    server.join().unwrap();
}
