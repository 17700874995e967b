//! What a TLS handshake agrees on: the version, TLS 1.2 among them, and what a service is told of it.

use std::io::{Read, Write};
use std::sync::Arc;

use rustls::HandshakeKind;

use crate::support::*;
use crate::tls::{bytes, echoes_in_pieces, echoes_securely, is_refused_a_changed_record, server, serves, totals};

/// Tells each connection what its handshake has agreed on.
struct Telling;

/// The same in words.
fn told(agreed: Option<&c1m::TlsAgreed>) -> String {
    agreed.map_or("nothing".to_owned(), |agreed| {
        let alpn = agreed.alpn.as_deref().map(String::from_utf8_lossy);
        format!("{:?} {} {alpn:?} {:?}", agreed.version, agreed.resumed, agreed.server_name)
    })
}

impl c1m::Service for Telling {
    type State = String;
    type Message = ();

    fn opened(&mut self, ctx: &mut c1m::Ctx<'_, String>, conn: c1m::ConnId) {
        let told = told(ctx.tls(conn));
        *ctx.state(conn).unwrap() = told;
    }

    fn received(&mut self, ctx: &mut c1m::Ctx<'_, String>, conn: c1m::ConnId, _: &mut [u8]) -> c1m::Reply {
        let now = told(ctx.tls(conn));
        let told = std::mem::take(ctx.state(conn).unwrap());
        ctx.send(conn, format!("{told}, {now}\n").as_bytes());
        c1m::Reply::Nothing
    }
}

impl c1m::http::HttpService for Telling {
    type State = String;
    type Message = ();

    fn connected(&mut self, ctx: &mut c1m::http::HttpCtx<'_, String>, conn: c1m::ConnId) {
        let told = told(ctx.tls(conn));
        *ctx.state(conn).unwrap() = told;
    }

    fn request<'r>(
        &mut self,
        ctx: &mut c1m::http::HttpCtx<'_, String>,
        conn: c1m::ConnId,
        _: &'r c1m::http::Request<'r>,
    ) -> c1m::http::Response<'r> {
        c1m::http::Response::text(200, ctx.state(conn).unwrap().clone())
    }
}

#[test]
fn a_service_is_told_what_a_handshake_has_agreed_on() {
    let authority = Authority::new();
    let signed = authority.sign("server", &["localhost"]);
    let tls = c1m::TlsConfig::files(&signed.chain, &signed.key).alpn(["http/1.1", "mqtt"]);
    let tls = tls.lowest_version(c1m::TlsVersion::Tls12);
    let port = free_ports(2);
    let builder = || {
        let builder = c1m::Server::builder().bind(std::net::Ipv4Addr::LOCALHOST).cores(c1m::Cores::Count(1));
        builder.max_connections(100).tls(tls.clone())
    };
    let raw = builder().ports(c1m::Ports::new(port, 1).unwrap()).start(|_| Telling).unwrap();
    let http = builder().ports(c1m::Ports::new(port + 1, 1).unwrap());
    let http = http.start(|_| c1m::http::Http::new(Telling)).unwrap();
    let asks = |port, config: &Arc<rustls::ClientConfig>, said: &[u8], end: &str| {
        let mut stream = secure(port, config, "localhost").unwrap();
        stream.write_all(said).unwrap();
        String::from_utf8(read_until(&mut stream, end.as_bytes())).unwrap()
    };
    let mut new = authority.client(None);
    new.alpn_protocols = vec![b"mqtt".to_vec()];
    let (new, old) = (Arc::new(new), Arc::new(authority.old_client(None)));
    let expected = |version: &str, resumed: bool, alpn: &str| format!("{version} {resumed} {alpn} Some(\"localhost\")");
    assert_eq!(asks(port, &new, b"?", "\n"), expected("Tls13", false, "Some(\"mqtt\")") + ", nothing\n");
    assert_eq!(asks(port, &new, b"?", "\n"), expected("Tls13", true, "Some(\"mqtt\")") + ", nothing\n");
    assert_eq!(asks(port, &old, b"?", "\n"), expected("Tls12", false, "None") + ", nothing\n");
    let answer = asks(port + 1, &old, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", "\"localhost\")");
    // The ticket was another server's.
    assert!(answer.ends_with(&expected("Tls12", false, "None")), "{answer}");
    for server in [raw, http] {
        server.stop();
        server.join().unwrap();
    }
}

/// Tells why each connection ended.
struct Ends(std::sync::mpsc::Sender<c1m::CloseReason>);

impl c1m::Service for Ends {
    type State = ();
    type Message = ();

    fn received(&mut self, _: &mut c1m::Ctx<'_, ()>, _: c1m::ConnId, data: &mut [u8]) -> c1m::Reply {
        c1m::Reply::Back(0..data.len())
    }

    fn closed(&mut self, _: &mut c1m::Ctx<'_, ()>, _: c1m::ConnId, reason: c1m::CloseReason) {
        self.0.send(reason).unwrap();
    }
}

/// Any machine on the way can send a FIN, and only the peer a close_notify.
#[test]
fn a_service_is_told_whether_its_peer_has_ended_the_connection_itself() {
    let authority = Authority::new();
    let signed = authority.sign("server", &["localhost"]);
    let tls = c1m::TlsConfig::files(&signed.chain, &signed.key).lowest_version(c1m::TlsVersion::Tls12);
    let (port, (tell, told)) = (free_ports(1), std::sync::mpsc::channel());
    let builder = c1m::Server::builder().bind(std::net::Ipv4Addr::LOCALHOST).ports(c1m::Ports::new(port, 1).unwrap());
    let builder = builder.cores(c1m::Cores::Count(1)).max_connections(100).tls(tls);
    let server = builder.start(move |_| Ends(tell.clone())).unwrap();
    for config in [authority.client(None), authority.old_client(None)].map(Arc::new) {
        for (says_so, reason) in [(true, c1m::CloseReason::PeerClosed), (false, c1m::CloseReason::PeerCutOff)] {
            let mut stream = secure(port, &config, "localhost").unwrap();
            stream.write_all(b"?").unwrap();
            assert_eq!(read_until(&mut stream, b"?"), b"?");
            if says_so {
                stream.conn.send_close_notify();
                stream.flush().unwrap();
            }
            stream.sock.shutdown(std::net::Shutdown::Write).unwrap();
            assert_eq!(told.recv().unwrap(), reason);
        }
    }
    server.stop();
    server.join().unwrap();
}

#[test]
fn a_client_of_tls12_is_served_where_it_may_be() {
    let (server, authority) = server("--tls-min 1.2 --alpn http/1.1");
    for suite in ["WITH_AES_128_GCM", "WITH_AES_256_GCM", "WITH_CHACHA20"] {
        let mut config = authority.old_client(Some(suite));
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let config = Arc::new(config);
        for kind in [HandshakeKind::Full, HandshakeKind::Resumed] {
            let mut stream = secure(server.port, &config, "localhost").unwrap();
            assert_eq!(stream.conn.handshake_kind(), Some(kind));
            assert_eq!(stream.conn.alpn_protocol(), Some(&b"http/1.1"[..]));
            for count in [1, 64, 4_067, 4_068, 4_096, 16_384, 16_385, 100_000] {
                echoes_securely(&mut stream, &bytes(count));
            }
            stream.conn.send_close_notify();
            stream.flush().unwrap();
            assert_eq!(stream.read(&mut [0; 8]).unwrap(), 0);
        }
    }
    drop(echoes_in_pieces(&server, authority.old_client(None)));
    // Whoever speaks 1.3 has it.
    let mut new = authority.connected(server.port);
    echoes_securely(&mut new, b"hello");
    // A changed record has its alert.
    let mut stream = secure(server.port, &Arc::new(authority.old_client(None)), "localhost").unwrap();
    is_refused_a_changed_record(&mut stream);
    let totals = totals(server);
    let counted = ["full", "resumed", "tls12", "refused"].map(|name| number(&totals, &format!("handshakes_{name}")));
    assert_eq!((counted, number(&totals, "alerts_sent")), ([6, 3, 8, 0], 1), "{totals}");
}

#[test]
fn a_client_of_tls12_is_refused_by_default() {
    let (server, authority) = server("");
    let refused = secure(server.port, &Arc::new(authority.old_client(None)), "localhost").unwrap_err();
    assert!(refused.to_string().contains("ProtocolVersion"), "{refused}");
    let totals = totals(server);
    assert_eq!((number(&totals, "handshakes_refused"), number(&totals, "handshakes_tls12")), (1, 0), "{totals}");
}

#[test]
fn our_client_speaks_tls12_with_a_server_that_speaks_nothing_else() {
    let authority = Authority::new();
    let config = authority.sign("server", &["localhost", "127.0.0.1"]).old_foreign_server();
    let (peer, _) = serves(config, |_| {});
    let arguments = format!("{} --tls --ca {} --concurrency 10", peer.at(), authority.file());
    let run = client(&format!("{arguments} --tls-min 1.2 --connections 60"));
    run.held(60);
    let [full, resumed] = run.handshakes();
    assert!(full + resumed == 60 && full >= 1 && resumed >= 1, "{}", run.json["tls"]);
    client(&format!("{arguments} --connections 3")).failed("tls_peer_sent_protocol_version", 3, "--tls-min 1.2");
}

#[test]
fn a_server_says_which_versions_it_speaks_and_what_a_connection_takes() {
    let authority = Authority::new();
    let signed = authority.sign("server", &["localhost"]);
    let both = "TLS 1.3, 80 bytes a connection, and TLS 1.2, 112 bytes; ";
    for (lowest, words) in [("", "TLS 1.3, 80 bytes a connection; "), ("--tls-min 1.2", both)] {
        let server = Server::start(1, &format!("{} {lowest}", signed.server()));
        assert!(server.running.out().contains(words), "{}", server.running.out());
        server.stop();
    }
}
