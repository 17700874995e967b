//! TLS at both ends: a foreign client against our server, our client against a foreign server, and both of ours.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustls::server::WebPkiClientVerifier;
use rustls::{HandshakeKind, ServerConfig, ServerConnection};

use crate::hibernation::all_asleep;
use crate::support::*;

/// Bytes that differ from one place to the next.
pub fn bytes(count: usize) -> Vec<u8> {
    (0..count).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

/// Checks that the peer echoes bytes, which are written on another thread meanwhile.
pub fn echoes_securely(stream: &mut Secure, sent: &[u8]) {
    let mut back = vec![0; sent.len()];
    // Less than both sockets hold is written before anything is read.
    for (sent, back) in sent.chunks(32 * 1024).zip(back.chunks_mut(32 * 1024)) {
        stream.write_all(sent).unwrap();
        stream.read_exact(back).unwrap();
    }
    assert!(back == sent, "{} bytes came back changed", sent.len());
}

/// A server with a certificate for `localhost`, and the authority that signed it.
pub fn server(arguments: &str) -> (Server, Authority) {
    let authority = Authority::new();
    let signed = authority.sign("server", &["localhost"]);
    (Server::start(1, &format!("{} --json - {arguments}", signed.server())), authority)
}

/// The TLS part of a server's final document.
pub fn totals(server: Server) -> serde_json::Value {
    server.stop().last_document()["tls"].clone()
}

/// Checks that 600 records come back that were sent in one piece, and then cut.
pub fn echoes_in_pieces(server: &Server, config: rustls::ClientConfig) -> Secure {
    let mut stream = secure(server.port, &Arc::new(config), "localhost").unwrap();
    stream.sock.set_nodelay(true).unwrap();
    let sent: Vec<Vec<u8>> = (0..300).map(|count| bytes(count * 7 % 500 + 1)).collect();
    // All records in as few segments as they fit into, and then each cut into three pieces.
    for cut in [false, true] {
        let mut records = Vec::new();
        for content in &sent {
            stream.conn.writer().write_all(content).unwrap();
            while stream.conn.wants_write() {
                stream.conn.write_tls(&mut records).unwrap();
            }
        }
        let piece = if cut { 97 } else { records.len() };
        records.chunks(piece).for_each(|piece| stream.sock.write_all(piece).unwrap());
        let mut back = vec![0; sent.iter().map(Vec::len).sum()];
        stream.read_exact(&mut back).unwrap();
        assert!(back == sent.concat(), "cut: {cut}");
    }
    stream
}

/// Checks that a record of which a byte was changed has its alert.
pub fn is_refused_a_changed_record(stream: &mut Secure) {
    stream.conn.writer().write_all(b"hello").unwrap();
    let mut record = Vec::new();
    stream.conn.write_tls(&mut record).unwrap();
    *record.last_mut().unwrap() ^= 1;
    stream.sock.write_all(&record).unwrap();
    let error = stream.read(&mut [0; 8]).unwrap_err();
    assert!(error.to_string().contains("BadRecordMac"), "{error}");
}

// ---- a foreign client ------------------------------------------------------------------------------

#[test]
fn a_foreign_client_gets_back_what_it_sends_in_every_suite() {
    let (server, authority) = server("");
    for suite in ["AES_128_GCM", "AES_256_GCM", "CHACHA20"] {
        let mut stream = secure(server.port, &Arc::new(authority.client(Some(suite))), "localhost").unwrap();
        for count in [1, 64, 4_074, 4_075, 4_096, 16_384, 16_385, 200_000] {
            echoes_securely(&mut stream, &bytes(count));
        }
    }
    let totals = totals(server);
    assert_eq!((number(&totals, "handshakes_full"), number(&totals, "alerts_sent")), (3, 0), "{totals}");
}

#[test]
fn records_that_come_together_or_cut_anywhere_are_answered_in_order() {
    let (server, authority) = server("");
    drop(echoes_in_pieces(&server, authority.client(None)));
    let totals = totals(server);
    assert_eq!(number(&totals, "records_opened"), 600, "{totals}");
}

#[test]
fn keys_are_updated_by_either_end() {
    let (server, authority) = server("");
    let mut stream = authority.connected(server.port);
    for round in 0..5 {
        // It asks for an update in return.
        stream.conn.refresh_traffic_keys().unwrap();
        echoes_securely(&mut stream, &bytes(1_000 + round));
    }
    drop(stream);
    let totals = totals(server);
    assert_eq!(number(&totals, "key_updates"), 5, "{totals}");
}

#[test]
fn a_close_notify_is_answered_by_one() {
    let (server, authority) = server("");
    let mut stream = authority.connected(server.port);
    echoes_securely(&mut stream, b"hello");
    stream.conn.send_close_notify();
    stream.flush().unwrap();
    // rustls says UnexpectedEof where the end of the connection comes without a close_notify.
    assert_eq!(stream.read(&mut [0; 8]).unwrap(), 0);
    drop(stream);
    drop(server.stop());
}

#[test]
fn a_server_that_stops_says_close_notify() {
    let (server, authority) = server("");
    let mut stream = authority.connected(server.port);
    echoes_securely(&mut stream, b"hello");
    server.running.signal(libc::SIGTERM);
    assert_eq!(stream.read(&mut [0; 8]).unwrap(), 0);
    drop(server);
}

#[test]
fn a_session_is_resumed_and_a_protocol_negotiated() {
    let (server, authority) = server("--alpn http/1.1,mqtt");
    let mut config = authority.client(None);
    config.alpn_protocols = vec![b"mqtt".to_vec(), b"http/1.1".to_vec()];
    let config = Arc::new(config);
    for kind in [HandshakeKind::Full, HandshakeKind::Resumed, HandshakeKind::Resumed] {
        let mut stream = secure(server.port, &config, "localhost").unwrap();
        // The tickets come before the echo.
        echoes_securely(&mut stream, b"hello");
        assert_eq!(stream.conn.handshake_kind(), Some(kind));
        assert_eq!(stream.conn.alpn_protocol(), Some(&b"http/1.1"[..]));
    }
    let mut other = authority.client(None);
    other.alpn_protocols = vec![b"h2".to_vec()];
    let refused = secure(server.port, &Arc::new(other), "localhost").unwrap_err();
    assert!(refused.to_string().contains("NoApplicationProtocol"), "{refused}");
    let totals = totals(server);
    let counted = ["handshakes_full", "handshakes_resumed", "handshakes_refused"].map(|name| number(&totals, name));
    assert_eq!(counted, [1, 2, 1], "{totals}");
}

/// The server's certificate.
fn certificate_of(stream: &Secure) -> Vec<u8> {
    stream.conn.peer_certificates().unwrap()[0].to_vec()
}

#[test]
fn each_name_has_its_certificate_and_sighup_reads_them_again() {
    let authority = Authority::new();
    let (first, second) = (authority.sign("first", &["a.example"]), authority.sign("second", &["*.b.example"]));
    let arguments = format!("{} {} --json -", first.server(), second.server());
    let mut server = Server::start(1, &arguments);
    let config = || Arc::new(authority.client(None));
    let mut old = secure(server.port, &config(), "a.example").unwrap();
    let before = certificate_of(&old);
    let other = certificate_of(&secure(server.port, &config(), "x.b.example").unwrap());
    assert_ne!(before, other);
    let wrong = secure(server.port, &config(), "c.example").unwrap_err();
    assert!(wrong.to_string().contains("not valid for name"), "{wrong}");
    // A file that is no certificate changes nothing.
    std::fs::write(&second.chain, "nothing").unwrap();
    server.running.signal(libc::SIGHUP);
    eventually("the server says why", || server.running.err().contains("stay: "));
    assert!(server.running.err().contains("no certificates in PEM"), "{}", server.running.err());
    assert_eq!(certificate_of(&secure(server.port, &config(), "x.b.example").unwrap()), other);
    authority.sign("first", &["a.example"]);
    authority.sign("second", &["*.b.example"]);
    server.running.signal(libc::SIGHUP);
    server.running.until("the certificates are read again", |out| out.contains(r#""event":"reloaded""#));
    let new = secure(server.port, &config(), "a.example").unwrap();
    assert_ne!(certificate_of(&new), before);
    // What was open before is open still.
    echoes_securely(&mut old, b"still here");
    drop((old, new));
    server.stop();
}

// ---- hostile peers ---------------------------------------------------------------------------------

/// Reads to the end of a connection. A reset is an end too: a connection without a session is closed with bytes unread.
fn read_to_end(stream: &mut TcpStream) -> Vec<u8> {
    let mut all = Vec::new();
    match stream.read_to_end(&mut all) {
        Ok(_) => {}
        Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}"),
    }
    all
}

#[test]
fn what_is_no_handshake_is_refused_with_an_alert() {
    let (server, authority) = server("");
    let garbage: [&[u8]; 4] = [
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        // Data before the handshake, and a record that is too long.
        &[23, 3, 3, 0, 1, 0],
        &[22, 3, 1, 0xff, 0xff, 1],
        &[0; 64],
    ];
    for sent in garbage {
        let mut stream = connected(server.port);
        stream.write_all(sent).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        assert!(matches!(answer[..], [21, 3, _, 0, 2, 2, _]), "{answer:?} to {sent:?}");
    }
    let mut stream = authority.connected(server.port);
    echoes_securely(&mut stream, b"hello");
    drop(stream);
    let totals = totals(server);
    assert_eq!((number(&totals, "handshakes_refused"), number(&totals, "handshakes_full")), (4, 1), "{totals}");
}

#[test]
fn a_changed_record_ends_its_connection_with_bad_record_mac() {
    let (server, authority) = server("");
    let mut stream = authority.connected(server.port);
    echoes_securely(&mut stream, b"hello");
    is_refused_a_changed_record(&mut stream);
    let totals = totals(server);
    assert_eq!(number(&totals, "alerts_sent"), 1, "{totals}");
}

/// Half-open handshakes hold both places, and then two more of them. A client that comes behind them all waits longer than
/// a handshake may take, and is served.
#[test]
fn slow_handshakes_are_ended_and_others_go_on() {
    let (server, authority) = server("--cores 1 --handshakes 2 --handshake-timeout 4s");
    let slow: Vec<TcpStream> = (0..6)
        .map(|at| {
            let mut stream = connected(server.port);
            // The beginning of a hello, or nothing at all.
            stream.write_all(&[22, 3, 1, 2, 0, 1, 0][..if at < 4 { 7 } else { 0 }]).unwrap();
            stream
        })
        .collect();
    let mut stream = authority.connected(server.port);
    echoes_securely(&mut stream, b"hello");
    for mut stream in slow {
        assert_eq!(read_to_end(&mut stream), b"");
    }
    echoes_securely(&mut stream, b"hello");
    drop(stream);
    let totals = totals(server);
    assert_eq!((number(&totals, "handshakes_timed_out"), number(&totals, "handshakes_full")), (6, 1), "{totals}");
}

#[test]
fn a_peer_that_goes_away_within_its_handshake_leaves_nothing() {
    let (server, authority) = server("--cores 1 --handshakes 1");
    for _ in 0..5 {
        let mut stream = connected(server.port);
        stream.write_all(&[22, 3, 1, 2, 0, 1, 0]).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_to_end(&mut stream), b"");
    }
    let mut stream = authority.connected(server.port);
    echoes_securely(&mut stream, b"hello");
    drop(stream);
    let totals = totals(server);
    assert_eq!((number(&totals, "handshakes_abandoned"), number(&totals, "handshakes_full")), (5, 1), "{totals}");
}

#[test]
fn empty_records_without_end_end_the_connection() {
    let (server, authority) = server("");
    let mut stream = authority.connected(server.port);
    echoes_securely(&mut stream, b"hello");
    // KeyUpdates bring nothing either, and rustls makes no empty records.
    for _ in 0..40 {
        stream.conn.refresh_traffic_keys().unwrap();
    }
    let mut records = Vec::new();
    while stream.conn.wants_write() {
        stream.conn.write_tls(&mut records).unwrap();
    }
    stream.sock.write_all(&records).unwrap();
    let error = loop {
        if let Err(error) = stream.read(&mut [0; 8]) {
            break error;
        }
    };
    assert!(error.to_string().contains("UnexpectedMessage"), "{error}");
    drop(stream);
    server.stop();
}

#[test]
fn wrong_settings_are_refused_in_a_line() {
    let authority = Authority::new();
    let (one, other) = (authority.sign("one", &["localhost"]), authority.sign("other", &["localhost"]));
    let (chain, key, strange) = (one.chain.display(), one.key.display(), other.key.display());
    let client = "client --target-ip 127.0.0.1 --tls";
    let wrong = [
        (format!("server --tls-cert /nowhere --tls-key {key}"), "read certificates from /nowhere: No such file"),
        (format!("server --tls-cert {key} --tls-key {key}"), "no certificates in PEM"),
        (format!("server --tls-cert {chain} --tls-key {chain}"), "no private key in PEM"),
        (format!("server --tls-cert {chain} --tls-key {strange}"), "not the one of the first certificate"),
        (format!("server {} --tls-cert {chain}", one.server()), "2 --tls-cert and 1 --tls-key"),
        (format!("server {} --handshakes 0", one.server()), "--handshakes 1000"),
        (
            format!("server {} --handshake-timeout 0s", one.server()),
            "--handshake-timeout 0s: a TLS handshake may take 1 ms at least",
        ),
        ("client --target-ip 127.0.0.1 --resume".to_owned(), "add --tls"),
        (format!("{client} --ca {key}"), "no certificate authorities in PEM"),
        (format!("{client} --insecure --sni -x-"), "neither a DNS name nor an IP address"),
        (format!("{client} --insecure --cert {chain} --key {strange}"), "not the one of the first certificate"),
        (format!("{client} --insecure --alpn ,"), "1 to 255 bytes"),
    ];
    for (arguments, words) in wrong {
        run(&arguments.replace("--sni -x-", "--sni=-x-")).fails_with(2, &[words]);
    }
}

#[test]
fn a_doctor_reckons_with_tls() {
    let need = |words: &str| {
        let finished = run(&format!("doctor --connections 1000 --role both {words}"));
        let line = finished.out.lines().skip_while(|line| !line.starts_with("memory ")).nth(1);
        line.unwrap_or_else(|| panic!("no need of memory in\n{}", finished.out)).to_owned()
    };
    let bytes = |need: &str| -> u64 {
        let words: Vec<&str> = need.split_whitespace().collect();
        let at = words.iter().position(|word| *word == "bytes").unwrap();
        words[at - 1].parse().unwrap()
    };
    let (with, without) = (need("--tls"), need(""));
    assert!(with.contains("with TLS") && !without.contains("TLS"), "{with}\n{without}");
    // The bytes of a connection are shown without fractions.
    assert!((159..=161).contains(&(bytes(&with) - bytes(&without))), "{with}\n{without}");
    let old = need("--tls --tls-min 1.2");
    assert!(old.contains("with TLS 1.2") && (223..=225).contains(&(bytes(&old) - bytes(&without))), "{old}\n{without}");
}

// ---- our client ------------------------------------------------------------------------------------

/// A foreign server with a certificate for `localhost` and 127.0.0.1, and the authority that signed it. It begins
/// each connection with one more in `began`.
fn foreign(change: impl Fn(&mut ServerConnection) + Clone + Send + 'static) -> (Peer, Authority, Arc<AtomicUsize>) {
    let authority = Authority::new();
    let config = authority.sign("server", &["localhost", "127.0.0.1"]).foreign_server();
    let (peer, began) = serves(config, change);
    (peer, authority, began)
}

/// A foreign server with this configuration.
pub fn serves(
    config: ServerConfig,
    change: impl Fn(&mut ServerConnection) + Clone + Send + 'static,
) -> (Peer, Arc<AtomicUsize>) {
    let (config, began) = (Arc::new(config), Arc::<AtomicUsize>::default());
    let counts = began.clone();
    let peer = Peer::start(move |stream| {
        counts.fetch_add(1, Ordering::Relaxed);
        echo_securely(stream, &config, change.clone());
        false
    });
    (peer, began)
}

#[test]
fn a_client_proves_connections_to_a_foreign_server() {
    let (peer, authority, _) = foreign(|_| {});
    let arguments = format!("{} --tls --ca {} --concurrency 10", peer.at(), authority.file());
    let run = client(&format!("{arguments} --connections 100 --interval 100ms --hold 1s --payload 20000"));
    run.held(100);
    let [full, resumed] = run.handshakes();
    assert!(full + resumed == 100 && full >= 1 && resumed >= 50, "{}", run.json["tls"]);
    assert!(
        run.finished.out.contains(&format!("TLS handshakes: {full} full, {resumed} resumed")),
        "{}",
        run.finished.out
    );
    let run = client(&format!("{arguments} --connections 20 --sni localhost --no-resumption"));
    run.held(20);
    assert_eq!(run.handshakes(), [20, 0], "{}", run.json);
}

#[test]
fn a_client_gives_the_certificate_that_a_server_asks_for() {
    let authority = Authority::new();
    let signed = authority.sign("server", &["127.0.0.1"]);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(authority.roots()), provider).build().unwrap();
    let (peer, _) = serves(signed.foreign_server_asking(verifier), |_| {});
    let arguments = format!("{} --tls --ca {} --connections 10", peer.at(), authority.file());
    let own = authority.sign_with("own", &["client.example"], |params| {
        params.extended_key_usages.push(rcgen::ExtendedKeyUsagePurpose::ClientAuth);
    });
    client(&format!("{arguments} --cert {} --key {}", own.chain.display(), own.key.display())).held(10);
    client(&arguments).failed("tls_peer_sent_certificate_required", 10, "--cert");
    // One that another authority has signed.
    let stranger = Authority::new();
    let strange = stranger.sign("strange", &["client.example"]);
    let strange = format!("--cert {} --key {}", strange.chain.display(), strange.key.display());
    let run = client(&format!("{arguments} {strange}"));
    assert_eq!((run.number("failed"), run.finished.code()), (10, 1), "{}", run.json);
}

#[test]
fn resumption_can_be_required() {
    let (peer, authority, _) = foreign(|_| {});
    let arguments = format!("--tls --ca {} --connections 40 --concurrency 4", authority.file());
    client(&format!("{} {arguments} --resume", peer.at())).held(40);
    let mut config = authority.sign("silent", &["127.0.0.1"]).foreign_server();
    config.send_tls13_tickets = 0;
    let (peer, _) = serves(config, |_| {});
    // All of them hold, and still it is not what was asked for.
    let finished = run(&format!("client --target-ip 127.0.0.1 {} {arguments} --resume", peer.at()));
    assert_eq!(finished.code(), 1, "{}", finished.err);
    assert!(finished.err.contains("--resume: 40 full TLS handshakes, and none"), "{}", finished.err);
}

#[test]
fn a_client_follows_a_servers_new_keys() {
    let (peer, authority, _) = foreign(|connection| connection.refresh_traffic_keys().unwrap());
    let arguments = format!("{} --tls --ca {} --connections 20", peer.at(), authority.file());
    let run = client(&format!("{arguments} --interval 50ms --hold 1s"));
    run.held(20);
    assert!(number(&run.json["echo_latency_us"], "count") > 100, "{}", run.json);
}

#[test]
fn a_server_that_is_not_trusted_fails_by_its_cause() {
    let (peer, authority, _) = foreign(|_| {});
    let connections = format!("{} --tls --connections 3", peer.at());
    let strange = Authority::new();
    client(&format!("{connections} --ca {}", strange.file())).failed("tls_certificate_unknown_issuer", 3, "--ca");
    client(&format!("{connections} --ca {}", authority.namesake())).failed("tls_certificate_unknown_issuer", 3, "--ca");
    let named = format!("{connections} --ca {} --sni other.example", authority.file());
    client(&named).failed("tls_certificate_wrong_name", 3, "--sni");
    client(&format!("{connections} --insecure --sni other.example")).held(3);
    let expired = authority.sign_with("old", &["127.0.0.1"], |params| {
        params.not_before = rcgen::date_time_ymd(2001, 1, 1);
        params.not_after = rcgen::date_time_ymd(2002, 1, 1);
    });
    let server = Server::start(1, &format!("{} --json -", expired.server()));
    let run = client(&format!("{} --tls --connections 3 --ca {}", server.at(), authority.file()));
    run.failed("tls_certificate_expired", 3, "expired");
    let totals = totals(server);
    assert_eq!(number(&totals, "handshakes_alerted"), 3, "{totals}");
    let its_own = authority.sign_with("ca", &["127.0.0.1"], |params| {
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    });
    let server = Server::start(1, &format!("{} --json -", its_own.server()));
    let run = client(&format!("{} --tls --connections 3 --ca {}", server.at(), authority.file()));
    run.failed("tls_certificate_wrong_purpose", 3, "CA:FALSE");
    server.stop();
}

#[test]
fn a_server_without_tls_fails_by_its_cause() {
    let plain = Server::start(1, "--json -");
    let run = client(&format!("{} --tls --insecure --connections 3", plain.at()));
    assert_eq!((run.number("failed"), run.finished.code()), (3, 1), "{}", run.json);
    assert!(run.json["errors"].to_string().contains("tls_sent_"), "{}", run.json);
    // One that says nothing.
    let silent = Server::start(1, "--service sink --json -");
    let run = client(&format!("{} --tls --insecure --connections 3 --handshake-timeout 1s", silent.at()));
    run.failed("tls_handshake_timeout", 3, "--handshake-timeout");
}

// ---- both ends -------------------------------------------------------------------------------------

#[test]
fn both_ends_prove_each_other_and_resume() {
    let dir = tempfile::tempdir().unwrap();
    let json = dir.path().join("json");
    let to = at(free_ports(4), 4);
    let page = dir.path().join("page.html");
    let files = format!("--json {} --report {}", json.display(), page.display());
    let finished = run(&format!("demo --tls --connections 600 --hold 1s {to} {files}"));
    assert_eq!(finished.code(), 0, "{}{}", finished.out, finished.err);
    let page = std::fs::read_to_string(page).unwrap();
    for title in ["TLS handshakes", "TLS handshakes of the server", "TLS records of the server"] {
        assert!(page.contains(&format!(">{title}</h")), "no {title} in the page");
    }
    let document: serde_json::Value = document(json);
    let server = &document["server"]["tls"];
    let [full, resumed] = ["handshakes_full", "handshakes_resumed"].map(|name| number(server, name));
    let of_client = |kind: &str| number(&document["client"]["tls"][format!("{kind}_handshake_latency_us")], "count");
    assert_eq!([full, resumed], [of_client("full"), of_client("resumed")], "{server}");
    assert!(full + resumed == 600 && resumed > 0, "{server}");
    assert_eq!(number(&document["client"], "live"), 600);
}

/// A URL says protocol, port, path and TLS, and its name is the one that the certificate must have.
#[test]
fn protocols_are_spoken_over_tls() {
    let websocket = "--proof echo --payload 9000 --interval 100ms --hold 1s";
    let http = "--proof token --method POST --body {token}";
    for (protocol, scheme, said) in [("websocket", "wss", websocket), ("http", "https", http)] {
        let (server, authority) = server(&format!("--protocol {protocol}"));
        let url = format!("{scheme}://localhost:{}/a", server.port);
        let run = client(&format!("--target {url} --ca {} --connections 100 {said}", authority.file()));
        run.held(100);
        assert_eq!(run.handshakes().iter().sum::<u64>(), 100, "{}", run.json["tls"]);
        assert_eq!(run.json["proof"], "end-to-end");
        let totals = totals(server);
        assert_eq!((number(&totals, "alerts_sent"), number(&totals, "alerts_received")), (0, 0), "{totals}");
    }
}

#[test(Hibernation)]
fn a_connection_sleeps_and_wakes_with_its_session() {
    let (server, authority) = server("--hibernate 100ms --stats-interval 20ms");
    let mut stream = authority.connected(server.port);
    for round in 0..3 {
        echoes_securely(&mut stream, &bytes(500 + round));
        all_asleep(&server, 1);
    }
    stream.conn.refresh_traffic_keys().unwrap();
    echoes_securely(&mut stream, b"awake");
    stream.conn.send_close_notify();
    stream.flush().unwrap();
    assert_eq!(stream.read(&mut [0; 8]).unwrap(), 0);
    drop(stream);
    server.stop();
}

/// Where no handshake was made, its missing ticket is not the reason.
#[test]
fn a_run_without_a_handshake_says_nothing_of_tickets() {
    let run = client(&format!("{} --connections 3 --cores 1 --tls --insecure --resume", at(free_ports(1), 1)));
    run.failed("ECONNREFUSED", 3, "nothing listens there");
    assert_eq!(run.finished.err, "");
}
