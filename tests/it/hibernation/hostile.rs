//! Segments to sleeping connections that their peers would not send.

use c1m::internal::hibernation::{Tuple, segment};
use c1m::internal::sys::RawSender;

use super::*;

/// What a peer and its server say next on a connection: the sequence numbers of both, as the peer's kernel has them.
fn numbers(stream: &TcpStream) -> (u32, u32) {
    const QUEUE: libc::c_int = 20;
    const SEQUENCE: libc::c_int = 21;
    const OFF_SILENTLY: libc::c_int = -1;
    let mut value: libc::c_int = 0;
    let mut size = size_of_val(&value) as libc::socklen_t;
    let set = |name: libc::c_int, value: libc::c_int| {
        let size = size_of_val(&value) as libc::socklen_t;
        let value = std::ptr::from_ref(&value).cast();
        // SAFETY: the kernel reads an integer, which outlives the call.
        let set = unsafe { libc::setsockopt(stream.as_raw_fd(), libc::IPPROTO_TCP, name, value, size) };
        assert_eq!(set, 0, "{}", std::io::Error::last_os_error());
    };
    set(TCP_REPAIR, 1);
    let numbers = [2, 1].map(|queue| {
        set(QUEUE, queue);
        let into = (&raw mut value).cast();
        // SAFETY: the kernel writes an integer, which outlives the call.
        let got = unsafe { libc::getsockopt(stream.as_raw_fd(), libc::IPPROTO_TCP, SEQUENCE, into, &raw mut size) };
        assert_eq!(got, 0, "{}", std::io::Error::last_os_error());
        value.cast_unsigned()
    });
    set(TCP_REPAIR, OFF_SILENTLY);
    (numbers[0], numbers[1])
}

/// Somebody who knows both ends of a connection, and more than an attacker can know, sends segments in the name of the peer.
struct Forger {
    raw: RawSender,
    tuple: Tuple,
    sequence: u32,
    acknowledgement: u32,
}

impl Forger {
    fn of(stream: &TcpStream) -> Forger {
        let (sequence, acknowledgement) = numbers(stream);
        let tuple = Tuple { remote: stream.local_addr().unwrap(), local: stream.peer_addr().unwrap() };
        Forger { raw: RawSender::without_mark().unwrap(), tuple, sequence, acknowledgement }
    }

    /// Sends a segment so far from what the peer would say, many times; its checksum is right, or off by something.
    fn send(&self, times: usize, flags: u8, (sequence, acknowledgement): (i32, i32), payload: usize, off: u16) {
        let mut bytes = Vec::new();
        bytes.extend(self.tuple.remote.port().to_be_bytes());
        bytes.extend(self.tuple.local.port().to_be_bytes());
        bytes.extend(self.sequence.wrapping_add_signed(sequence).to_be_bytes());
        bytes.extend(self.acknowledgement.wrapping_add_signed(acknowledgement).to_be_bytes());
        bytes.extend([5 << 4, flags, 1, 0, 0, 0, 0, 0]);
        bytes.resize(bytes.len() + payload, b'!');
        let sum = segment::checksum(&self.tuple, &bytes, &[]).wrapping_add(off);
        bytes[segment::CHECKSUM].copy_from_slice(&sum.to_be_bytes());
        for _ in 0..times {
            self.raw.send(self.tuple.remote.ip(), self.tuple.local.ip(), &bytes).unwrap();
        }
    }
}

/// Segments in the name of the peer that it would not send wake no connection, whatever they are. They are counted by their
/// kind, and those that need an answer get few. Longer ones reach the filter before the kernel has looked at their checksum.
#[test(Network, Hibernation)]
fn hostile_segments_wake_no_connection_and_are_counted() {
    use segment::{ACK, RST, SYN};
    const EACH: usize = 20;
    const BEYOND: i32 = 1 << 30;
    for ip in [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()] {
        in_own_network(|| {
            let server = Server::start(1, &format!("--bind {ip} {SLEEP}"));
            let scene = Scene { server: &server, to: SocketAddr::new(ip, server.port), is_apart: false };
            let mut stream = scene.connected();
            exchanges(&mut stream, b"before");
            scene.all_asleep(1);
            let woken = scene.count("woken_by_peer");
            let forger = Forger::of(&stream);
            // In order, but changed on its way.
            forger.send(EACH, ACK, (0, 0), 100, 1);
            forger.send(1, ACK, (0, 0), 65_000, 1);
            // Acknowledged what was never sent; beyond the window; without an acknowledgement.
            forger.send(EACH, ACK, (0, BEYOND), 100, 0);
            forger.send(EACH, ACK, (BEYOND, 0), 100, 0);
            forger.send(EACH, 0, (0, 0), 100, 0);
            // A RST within the window, and one that is not.
            forger.send(EACH, RST, (1, 0), 0, 0);
            forger.send(EACH, RST, (BEYOND, 0), 0, 0);
            forger.send(10 * EACH, SYN, (0, 0), 0, 0);
            let (malformed, outside, all) = (EACH as u64 + 1, 5 * EACH as u64, 16 * EACH as u64 + 1);
            eventually("all are caught", || scene.count("segments_caught") >= all);
            let counted = ["segments_malformed", "segments_outside", "segments_dropped", "woken_by_peer", "asleep"];
            assert_eq!(counted.map(|name| scene.count(name)), [malformed, outside, 0, woken, 1]);
            // One in half a second for a connection, of 260 that ask for one.
            assert!(scene.count("segments_answered") < EACH as u64, "{}", scene.count("segments_answered"));
            assert!(is_silent(&stream));
            exchanges(&mut stream, b"and after");
            server.stop();
        });
    }
}

/// The ring buffer of caught segments is full, as somebody sends more than the server takes: the RSTs of peers find no room
/// in it, and no peer sends one again. The server asks each peer whether it is there, and so knows in the end who is.
#[test(Network, Hibernation)]
fn whoever_is_reset_while_segments_are_dropped_is_found() {
    use segment::ACK;
    const SLEEPERS: usize = 40;
    const RESETS: usize = 20;
    // A server of so few connections has the smallest ring buffer, of 1 MiB. A long segment takes 65,592 bytes of it, a
    // middle one 1,600 and a short one 256: 15 long ones fit, and behind them 2 and 240 of the others. 56 bytes are left, and
    // a RST takes 120. The kernel itself would drop still shorter ones, as their checksum is wrong.
    const FORGED: [(usize, usize); 3] = [(16, 65_000), (2, 1_000), (300, 100)];
    in_own_network(|| {
        let server = Server::start(1, &format!("--bind 127.0.0.1 {SLEEP}"));
        let to = (Ipv4Addr::LOCALHOST, server.port).into();
        let scene = Scene { server: &server, to, is_apart: false };
        let mut streams: Vec<TcpStream> = (0..SLEEPERS).map(|_| scene.connected()).collect();
        streams.iter_mut().for_each(|stream| exchanges(stream, b"before"));
        scene.all_asleep(SLEEPERS as u64);
        let forger = Forger::of(&streams[0]);
        server.running.pause();
        let mut come = segments();
        let mut until_come = |count: usize| {
            come += count as u64;
            eventually("they have come to the filter", || segments() >= come);
        };
        for (times, payload) in FORGED {
            forger.send(times, ACK, (0, 0), payload, 1);
            until_come(times);
        }
        streams.drain(SLEEPERS - RESETS..).for_each(reset);
        until_come(RESETS);
        server.running.signal(libc::SIGCONT);
        scene.all_asleep((SLEEPERS - RESETS) as u64);
        let forged: usize = FORGED.iter().map(|(times, _)| times).sum();
        let lost = forged as u64 - scene.count("segments_malformed");
        assert_eq!(
            (lost > 0, scene.count("segments_dropped") - lost),
            (true, RESETS as u64),
            "not all RSTs are dropped"
        );
        streams.iter_mut().for_each(|stream| exchanges(stream, b"and after"));
        scene.all_asleep((SLEEPERS - RESETS) as u64);
        server.stop();
    });
}
