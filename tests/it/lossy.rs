//! Lost packets. A socket filter on the listener drops some packets, as a full accept queue or a core's full
//! backlog would.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;

use rustls::ServerConnection;
use socket2::{Domain, SockFilter, SockRef, Socket, Type};

use crate::support::{Authority, Peer, at, client, echo, free_ports};

/// The byte of the TCP header that holds its flags, and the flag of a SYN (RFC 9293, 3.1).
const FLAGS: u32 = 13;
const SYN: u32 = 2;
/// Loads a random number in a filter (SKF_AD_OFF + SKF_AD_RANDOM of linux/filter.h).
const RANDOM: u32 = (-0x1000i32 + 56) as u32;
/// The instructions that pass a packet, and that drop it.
const PASS: SockFilter = op(libc::BPF_RET | libc::BPF_K, 0, 0, u32::MAX);
const DROP: SockFilter = op(libc::BPF_RET | libc::BPF_K, 0, 0, 0);

const fn op(code: u32, yes: u8, no: u8, k: u32) -> SockFilter {
    SockFilter::new(code as u16, yes, no, k)
}

/// A listener that receives only the packets that `filter` passes.
fn filtered(filter: &[SockFilter]) -> (TcpListener, String) {
    let port = free_ports(1);
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    // Connections of an earlier run of the tests may be in TIME_WAIT.
    socket.set_reuse_address(true).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], port)).into()).unwrap();
    socket.attach_filter(filter).unwrap();
    socket.listen(1_000).unwrap();
    (socket.into(), at(port, 1))
}

/// The last ACK of each handshake is dropped. The connections are established for the client, and the server never
/// accepts them.
#[test(ClassicFilter)]
fn connections_that_the_server_never_accepted_are_ghosts() {
    let only_syns = [
        op(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, 0, 0, FLAGS),
        op(libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K, 0, 1, SYN),
        PASS,
        DROP,
    ];
    let (listener, at) = filtered(&only_syns);
    let run = client(&format!("{at} --connections 20 --reply-timeout 1s"));
    run.failed("ghost", 20, "never accepted it");
    assert_eq!(run.number("ghosts"), 20, "{}", run.json);
    assert_eq!(run.json["connect_latency_us"]["count"], 20, "connect itself succeeded: {}", run.json);
    drop(listener);
}

/// Nothing reaches this end of a connection any more, as if its host had lost its power.
fn vanish(stream: &TcpStream) {
    SockRef::from(stream).attach_filter(&[DROP]).unwrap();
}

/// A server that vanishes after its first answer acknowledges nothing more, and had accepted the connection.
#[test(ClassicFilter)]
fn a_server_that_vanishes_while_a_connection_is_opened_has_accepted_it() {
    // It acknowledges the CONNECT, and never has the SUBSCRIBE.
    const CONNACK: [u8; 4] = [0x20, 2, 0, 0];
    let broker = Peer::start(|stream| {
        assert!(stream.read(&mut [0; 1_024]).unwrap() > 0);
        vanish(stream);
        stream.write_all(&CONNACK).unwrap();
        true
    });
    let words = "--protocol mqtt --mqtt-version 3.1.1 --reply-timeout 1s";
    let run = client(&format!("{} --connections 5 {words}", broker.at()));
    run.failed("silent", 5, "does not answer, or not to the end");
    assert_eq!(run.number("ghosts"), 0, "{}", run.json);
    // In TLS 1.2 the client speaks twice before the handshake is over.
    let authority = Authority::new();
    let config = Arc::new(authority.sign("server", &["127.0.0.1"]).old_foreign_server());
    let server = Peer::start(move |stream| {
        let mut tls = ServerConnection::new(config.clone()).unwrap();
        while !tls.wants_write() {
            assert!(tls.read_tls(stream).unwrap() > 0);
            tls.process_new_packets().unwrap();
        }
        vanish(stream);
        while tls.wants_write() {
            tls.write_tls(stream).unwrap();
        }
        true
    });
    let words = format!("--tls --ca {} --tls-min 1.2 --handshake-timeout 1s", authority.file());
    let run = client(&format!("{} --connections 5 {words}", server.at()));
    run.failed("tls_handshake_timeout", 5, "--handshake-timeout");
    assert_eq!(run.number("ghosts"), 0, "{}", run.json);
}

/// One SYN in eight is dropped, until half of the connections are open: then none has to come again and again. Connects
/// with a retransmitted SYN are shown separately.
#[test(ClassicFilter)]
fn retransmitted_connects_are_shown_apart_from_clean_ones() {
    const CONNECTIONS: u64 = 320;
    let some_syns = [
        op(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, 0, 0, FLAGS),
        op(libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K, 0, 2, SYN),
        op(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, RANDOM),
        op(libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K, 0, 1, 7),
        PASS,
        DROP,
    ];
    let (listener, at) = filtered(&some_syns);
    thread::spawn(move || {
        for (stream, before) in listener.incoming().map_while(Result::ok).zip(0..) {
            if before == CONNECTIONS / 2 {
                SockRef::from(&listener).detach_filter().unwrap();
            }
            thread::spawn(move || echo(stream, || {}));
        }
    });
    let run = client(&format!("{at} --connections {CONNECTIONS} --connect-timeout 60s"));
    run.held(CONNECTIONS);
    let again = run.number("retransmitted");
    assert!(again > 0, "none of {CONNECTIONS} SYNs was dropped: {}", run.json);
    assert_eq!(run.json["connect_latency_us"]["count"], CONNECTIONS - again, "{}", run.json);
    assert_eq!(run.json["retransmitted_latency_us"]["count"], again, "{}", run.json);
    assert!(run.json["counters"]["TCPSynRetrans"].as_u64().unwrap() >= again, "{}", run.json);
    assert!(run.finished.out.contains("needed a retransmission"), "{}", run.finished.out);
}
