//! A service that receives nothing from a connection for a while.

use std::io::ErrorKind;
use std::sync::atomic::{AtomicUsize, Ordering};

use c1m::TlsConfig;

use super::*;
use crate::support::{Authority, Secure, in_own_network, secure};
use crate::tls::echoes_securely;
use crate::tls_records::record;

impl Here {
    /// Has the service pause the reads of a connection. Returns whether it could.
    fn pause(&self, conn: ConnId) -> bool {
        self.order(0, move |teller, ctx| {
            let paused = ctx.pause_reads(conn);
            assert_eq!(ctx.has_paused_reads(conn), paused);
            teller.tell(Told::Paused(paused));
        });
        match self.next() {
            Told::Paused(paused) => paused,
            other => panic!("{other:?}"),
        }
    }

    fn resume(&self, conn: ConnId) {
        self.order(0, move |_, ctx| {
            ctx.resume_reads(conn);
            assert!(!ctx.has_paused_reads(conn));
        });
    }
}

/// Checks that nothing has come.
fn hears_nothing(stream: &mut TcpStream) {
    stream.set_nonblocking(true).unwrap();
    assert_eq!(stream.read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
    stream.set_nonblocking(false).unwrap();
}

fn bytes_wait(policy: IdlePolicy) {
    let here = Here::start(1, |builder| builder.idle_policy(policy));
    let (mut one, mut other) = (here.connect(), here.connect());
    let [conn, _] = [(); 2].map(|()| here.opened().0);
    ask(&mut one, b"hello");
    // A resume without a pause is none, and a second pause is the same.
    here.resume(conn);
    ask(&mut one, b"hello");
    assert!(here.pause(conn) && here.pause(conn));
    // A receive that was under way has found nothing by then.
    ask(&mut other, b"hello");
    one.write_all(b"later").unwrap();
    for _ in 0..50 {
        ask(&mut other, b"hello");
    }
    hears_nothing(&mut one);
    here.resume(conn);
    hears(&mut one, &["later"]);
    ask(&mut one, b"hello");
    // The end comes behind the bytes before it.
    assert!(here.pause(conn));
    ask(&mut other, b"hello");
    one.write_all(b"last words").unwrap();
    one.shutdown(std::net::Shutdown::Write).unwrap();
    for _ in 0..50 {
        ask(&mut other, b"hello");
    }
    hears_nothing(&mut one);
    here.resume(conn);
    let mut said = Vec::new();
    one.read_to_end(&mut said).unwrap();
    assert_eq!(said, b"last words");
    assert_eq!(here.next(), Told::Closed(conn, CloseReason::PeerClosed));
    assert!(!here.pause(conn), "it is gone");
}

#[test]
fn bytes_of_a_paused_connection_wait_in_polls() {
    bytes_wait(IdlePolicy::Poll);
}

#[test(SocketFilter)]
fn bytes_of_a_paused_connection_wait_behind_a_filter() {
    bytes_wait(IdlePolicy::Filter);
}

/// Sends what comes on the one connection to the other, at the speed of the slower one.
struct Relay {
    ends: Vec<ConnId>,
    opened: Sender<()>,
    paused: Sender<bool>,
    most: Arc<AtomicUsize>,
}

impl Relay {
    fn other(&self, conn: ConnId) -> Option<ConnId> {
        self.ends.iter().copied().find(|end| *end != conn)
    }
}

impl Service for Relay {
    type State = ();
    type Message = ();

    fn opened(&mut self, _: &mut Ctx<'_, ()>, conn: ConnId) {
        self.ends.push(conn);
        let _ = self.opened.send(());
    }

    fn received(&mut self, ctx: &mut Ctx<'_, ()>, conn: ConnId, data: &mut [u8]) -> Reply {
        let Some(other) = self.other(conn) else { return Reply::Close };
        ctx.send(other, data);
        let pending = ctx.pending(other);
        self.most.fetch_max(pending, Ordering::Relaxed);
        if pending > 8 * 1024 {
            let _ = self.paused.send(ctx.pause_reads(conn));
        }
        Reply::Nothing
    }

    fn sent(&mut self, ctx: &mut Ctx<'_, ()>, conn: ConnId) {
        if let Some(other) = self.other(conn) {
            ctx.resume_reads(other);
        }
    }
}

fn relays(policy: IdlePolicy) {
    const BYTES: usize = 2 * FLOOD;
    let byte = |at: usize| (at / 7 + at / 4_001) as u8;
    let (opened, told) = channel();
    let (paused, pauses) = channel();
    let most = Arc::new(AtomicUsize::new(0));
    let port = free_ports(1);
    let builder = Server::builder().bind(Ipv4Addr::LOCALHOST).ports(Ports::new(port, 1).unwrap());
    let builder = builder.cores(Cores::Count(1)).max_connections(10).idle_policy(policy);
    let kept = most.clone();
    let make = move |_| {
        let (opened, paused, most) = (opened.clone(), paused.clone(), kept.clone());
        Relay { ends: Vec::new(), opened, paused, most }
    };
    let server = builder.start(make).unwrap();
    let connect = || {
        let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        told.recv_timeout(PATIENCE).unwrap();
        stream
    };
    let (mut writer, mut reader) = (connect(), connect());
    let writes = std::thread::spawn(move || {
        let bytes: Vec<u8> = (0..BYTES).map(byte).collect();
        writer.write_all(&bytes).unwrap();
        writer
    });
    // Nothing is read before the service has had to stop.
    assert!(pauses.recv_timeout(PATIENCE).unwrap());
    let mut heard = vec![0; BYTES];
    reader.read_exact(&mut heard).unwrap();
    assert!(heard.iter().enumerate().all(|(at, heard)| *heard == byte(at)), "other bytes");
    assert!(most.load(Ordering::Relaxed) <= 12 * 1024, "{most:?} bytes pending");
    let mut writer = writes.join().unwrap();
    // And back, of which nothing has to wait.
    reader.write_all(b"thanks").unwrap();
    hears(&mut writer, &["thanks"]);
    server.stop();
    server.join().unwrap();
}

#[test]
fn a_relay_goes_at_the_speed_of_the_slower_end_in_polls() {
    relays(IdlePolicy::Poll);
}

#[test(SocketFilter)]
fn a_relay_goes_at_the_speed_of_the_slower_end_behind_a_filter() {
    relays(IdlePolicy::Filter);
}

/// A peer that is not listened to is not silent, and is again from the resume on.
#[test]
fn a_paused_connection_is_not_closed_for_silence() {
    let here = Here::start(1, |builder| builder.idle_timeout(Duration::from_secs(1)));
    let paused = here.connect();
    let (first, _) = here.opened();
    assert!(here.pause(first));
    let silent = here.connect();
    let (second, _) = here.opened();
    assert_eq!(here.next(), Told::Closed(second, CloseReason::IdleTimeout));
    here.resume(first);
    assert_eq!(here.next(), Told::Closed(first, CloseReason::IdleTimeout));
    drop((paused, silent));
}

/// A resume without a pause is none: a peer that says nothing is silent all the same.
#[test]
fn a_connection_that_was_not_paused_is_closed_for_silence_whatever_is_resumed() {
    let here = Here::start(1, |builder| builder.idle_timeout(Duration::from_secs(1)));
    let silent = here.connect();
    let (conn, _) = here.opened();
    eventually("it is closed for silence", || {
        here.resume(conn);
        here.server().counters()[0].closed == 1
    });
    assert_eq!(here.next(), Told::Closed(conn, CloseReason::IdleTimeout));
    drop(silent);
}

/// A pause wakes a sleeper, which then stays awake: its bytes wait in its socket.
#[test(Network, Hibernation)]
fn a_sleeper_can_be_paused() {
    in_own_network(|| {
        let here = Here::start(1, |builder| builder.hibernate(Duration::from_millis(100)));
        let (mut one, mut other) = (here.connect(), here.connect());
        let [conn, _] = [(); 2].map(|()| here.opened().0);
        let asleep = |count: u64| eventually("they sleep", || here.server().counters()[0].asleep == count);
        asleep(2);
        assert!(here.pause(conn));
        // A receive that was under way has found nothing by then. The first message needs no ring, and the others do.
        for _ in 0..50 {
            ask(&mut other, b"hello");
        }
        one.write_all(b"later").unwrap();
        for _ in 0..3 {
            // The other one sleeps again, and this one does not.
            ask(&mut other, b"hello");
            asleep(1);
        }
        hears_nothing(&mut one);
        here.resume(conn);
        hears(&mut one, &["later"]);
        asleep(2);
    });
}

/// A record need not be whole while nothing is received that would make it so.
#[test]
fn a_part_of_a_record_waits_as_long_as_reads_are_paused() {
    let authority = Authority::new();
    let signed = authority.sign("server", &["localhost"]);
    let tls = TlsConfig::files(&signed.chain, &signed.key).handshake_timeout(Duration::from_secs(5));
    let here = Here::start(1, |builder| builder.tls(tls));
    let config = Arc::new(authority.client(None));
    let [mut paused, mut late] = [(); 2].map(|()| secure(here.port, &config, "localhost").unwrap());
    let [first, second] = [(); 2].map(|()| here.opened().0);
    let content = [7; 3_000];
    echoes_securely(&mut paused, b"hello");
    let one = record(&mut paused, &content);
    paused.sock.write_all(&one[..one.len() - 1]).unwrap();
    for _ in 0..20 {
        // The part has been received by then.
        echoes_securely(&mut late, b"hello");
    }
    assert!(here.pause(first));
    let other = record(&mut late, &content);
    late.sock.write_all(&other[..other.len() - 1]).unwrap();
    assert_eq!(here.next(), Told::Closed(second, CloseReason::Tls(c1m::error::TlsFailure::RecordTimeout)));
    here.resume(first);
    paused.sock.write_all(&one[one.len() - 1..]).unwrap();
    let mut back = [0; 3_000];
    paused.read_exact(&mut back).unwrap();
    assert_eq!(back, content);
}

/// With TLS the records of one receive are handed on one by one, also those behind the one at which the service pauses.
#[test]
fn records_that_came_together_come_after_a_pause_too() {
    let authority = Authority::new();
    let signed = authority.sign("server", &["localhost"]);
    let here = Here::start(1, |builder| builder.tls(TlsConfig::files(&signed.chain, &signed.key)));
    let config = Arc::new(authority.client(None));
    let [mut one, mut other] = [(); 2].map(|()| secure(here.port, &config, "localhost").unwrap());
    let [conn, _] = [(); 2].map(|()| here.opened().0);
    let hears = |stream: &mut Secure, words: &[u8]| {
        let mut back = vec![0; words.len()];
        stream.read_exact(&mut back).unwrap();
        assert_eq!(back, words);
    };
    let records: Vec<u8> =
        ["pause", "two", "three"].iter().flat_map(|word| record(&mut one, word.as_bytes())).collect();
    one.sock.write_all(&records).unwrap();
    hears(&mut one, b"pausetwothree");
    assert_eq!(here.next(), Told::Paused(true));
    let later = record(&mut one, b"later");
    one.sock.write_all(&later).unwrap();
    for _ in 0..50 {
        echoes_securely(&mut other, b"hello");
    }
    hears_nothing(&mut one.sock);
    here.resume(conn);
    hears(&mut one, b"later");
}

/// A service that asked whether bytes are pending is told when they are not, also where the kernel takes them at once.
#[test]
fn sent_follows_pending_bytes_that_were_asked_for() {
    let here = Here::start(1, |builder| builder);
    let mut stream = here.connect();
    let (conn, _) = here.opened();
    here.order(0, move |_, ctx| {
        ctx.send(conn, b"one ");
        // This one is kept until the kernel has taken the one before.
        ctx.send(conn, b"other");
        assert_eq!(ctx.pending(conn), 5);
    });
    assert_eq!(here.next(), Told::Sent(conn, 0));
    hears(&mut stream, &["one other"]);
    ask(&mut stream, b"hello");
    drop(stream);
    assert_eq!(here.next(), Told::Closed(conn, CloseReason::PeerClosed));
}
