//! Sleep and wake of real connections, and the traps in them.

use super::*;
use crate::hibernation::Progress;
use crate::sys::repair::{Keepalive, blank, checkpoint, identify, restore};

/// Segments that an end has received.
fn segments_in(stream: &TcpStream) -> u32 {
    whole_info(stream).tcpi_segs_in
}

/// Families of both ends, and a listener that takes both.
fn places() -> [IpAddr; 3] {
    [LOOPBACKS[0], LOOPBACKS[1], Ipv6Addr::UNSPECIFIED.into()]
}

#[test]
fn a_sleeping_connection_is_silent_and_wakes_by_a_segment() {
    at(&places(), |mut scene| {
        let (mut theirs, ours) = scene.connection();
        let expected = tuple_of(&ours);
        let is_v6 = scene.listener.local_addr().unwrap().ip() == LOOPBACKS[1];
        assert_eq!(expected.local.is_ipv6(), is_v6);
        let before = (segments_in(&theirs), whole_info(&ours).tcpi_segs_in);
        let checkpoint = scene.put_to_sleep(ours, 7);
        assert_eq!(checkpoint.tuple, expected);
        assert_eq!(segments_in(&theirs), before.0, "a segment was sent for the sleep");
        let written = CaughtAt::now();
        theirs.write_all(b"ping").unwrap();
        let kept = scene.next_caught();
        let (came, taken) = (kept.at.0.wrapping_sub(written.0), CaughtAt::now().0.wrapping_sub(written.0));
        assert!(came <= taken, "it came {came} after it was written, and was taken {taken} after");
        assert_eq!((kept.index, kept.tuple, kept.payload()), (7, expected, &b"ping"[..]));
        assert_eq!(kept.whole_len, kept.bytes.len());
        assert_eq!((kept.sequence(), segments_in(&theirs)), (checkpoint.progress.received, before.0));
        let mut ours = scene.wake(&checkpoint, 7);
        assert_eq!(segments_in(&theirs), before.0, "a segment was sent for the wake");
        scene.reinject(&kept);
        hear(&mut ours, b"ping");
        ours.write_all(b"pong").unwrap();
        hear(&mut theirs, b"pong");
        for _ in 0..3 {
            exchange(&mut theirs, &mut ours);
        }
        assert_eq!(tuple_of(&ours), expected);
    });
}

/// The payload is handed over without the kernel, and the next segment acknowledges it.
#[test]
fn payload_can_be_taken_from_the_caught_segment() {
    on_loopbacks(|mut scene| {
        let (mut theirs, ours) = scene.connection();
        let mut checkpoint = scene.put_to_sleep(ours, 0);
        theirs.write_all(b"taken").unwrap();
        let kept = scene.next_caught();
        checkpoint.progress.received += kept.payload().len() as u32;
        let mut ours = scene.wake(&checkpoint, 0);
        ours.write_all(b"answer").unwrap();
        hear(&mut theirs, b"answer");
        until("the answer acknowledges the payload", || info(&theirs).unacknowledged == 0);
        exchange(&mut theirs, &mut ours);
    });
}

#[test]
fn a_connection_with_something_in_flight_stays_as_it_is() {
    on_loopback(|scene| {
        let (mut theirs, mut ours) = scene.connection();
        theirs.write_all(b"unread").unwrap();
        until("the peer's bytes arrive", || info(&theirs).unacknowledged == 0);
        assert_eq!(checkpoint(&ours).unwrap(), None);
        hear(&mut ours, b"unread");
        exchange(&mut theirs, &mut ours);
        // A peer that has closed its direction.
        theirs.shutdown(std::net::Shutdown::Write).unwrap();
        until("the FIN arrives", || whole_info(&ours).tcpi_state != 1);
        assert_eq!((checkpoint(&ours).unwrap(), identify(&ours).unwrap()), (None, None));
        ours.write_all(b"late").unwrap();
        hear(&mut theirs, b"late");
        // Its port can be listened on again: SO_REUSEADDR is set.
        rebind(scene.listener);
    });
}

/// Closes a listener and listens on its port again.
fn rebind(listener: TcpListener) {
    let address = listener.local_addr().unwrap();
    // A close alone is not enough: a process that another test starts has a copy of the descriptor until its program runs.
    crate::listener::stop_listening(&listener).unwrap();
    drop(listener);
    TcpListener::bind(address).unwrap();
}

/// Trap 1. Its cure is `even` in `set_timestamp`.
#[test]
fn timestamps_go_on_in_milliseconds_and_never_go_back() {
    on_loopback(|mut scene| {
        let (mut theirs, ours) = scene.connection();
        let (_, first) = identify(&ours).unwrap().unwrap();
        let mut ours = Some(ours);
        let mut newest = 0u32;
        for round in 0..30u32 {
            let mut checkpoint = scene.put_to_sleep(ours.take().unwrap(), 0);
            let drift = checkpoint.negotiated.timestamp_offset.unwrap().wrapping_sub(first.timestamp_offset.unwrap());
            // What was found out at first serves for ever.
            checkpoint.negotiated = first;
            // In every other millisecond an offset is found to be 1 more than it is: perhaps the first one was.
            assert!((-1..=3).contains(&drift.cast_signed()), "{} ms after {round} rounds", drift.cast_signed());
            theirs.write_all(b"x").unwrap();
            let kept = scene.next_caught();
            // The peer echoes the last timestamp that it has taken: kind 8, of 10 bytes, after two that fill.
            let echo = u32::from_be_bytes(kept.bytes[28..32].try_into().unwrap());
            assert_eq!(kept.bytes[22..24], [8, 10]);
            assert!(round == 0 || echo.wrapping_sub(newest).cast_signed() >= 0, "{echo} after {newest}");
            newest = echo;
            let mut awake = scene.wake(&checkpoint, 0);
            assert_eq!(whole_info(&awake).tcpi_options & 64, 0, "timestamps in microseconds");
            scene.reinject(&kept);
            hear(&mut awake, b"x");
            awake.write_all(b"y").unwrap();
            hear(&mut theirs, b"y");
            ours = Some(awake);
        }
    });
}

/// Trap 2. Its cure is the place in the table until the socket is complete, and the filter on the socket before
/// connect().
#[test]
fn a_segment_in_the_middle_of_a_wake_is_caught_and_not_answered() {
    on_loopbacks(|mut scene| {
        let (mut theirs, ours) = scene.connection();
        let checkpoint = scene.put_to_sleep(ours, 3);
        let before = segments_in(&theirs);
        scene.catcher.begin_transit();
        let blank = repair::new_socket(&checkpoint.tuple, &scene.wish()).unwrap();
        let socket = repair::connected(&checkpoint, blank).unwrap();
        theirs.write_all(b"early").unwrap();
        let kept = scene.next_caught();
        assert_eq!(segments_in(&theirs), before, "the incomplete socket answered");
        repair::complete(&socket, &checkpoint).unwrap();
        let mut ours = scene.awake(&checkpoint, 3, socket);
        scene.reinject(&kept);
        hear(&mut ours, b"early");
        exchange(&mut theirs, &mut ours);
    });
}

/// Trap 3. Its cure is TCP_MAXSEG before connect().
#[test]
fn a_woken_connection_sends_full_segments() {
    on_loopbacks(|mut scene| {
        let (mut theirs, ours) = scene.connection();
        let checkpoint = scene.put_to_sleep(ours, 0);
        assert!(checkpoint.negotiated.mss > 60_000, "{checkpoint:?}");
        let mut ours = scene.wake(&checkpoint, 0);
        assert!(whole_info(&ours).tcpi_snd_mss > 32_000, "{}", whole_info(&ours).tcpi_snd_mss);
        let sent: Vec<u8> = (0..3 << 20).map(|at: u32| at.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect();
        std::thread::scope(|scope| {
            scope.spawn(|| ours.write_all(&sent).unwrap());
            let mut heard = vec![0; sent.len()];
            theirs.read_exact(&mut heard).unwrap();
            assert!(heard == sent);
        });
        assert!(whole_info(&ours).tcpi_data_segs_out < 400, "{}", whole_info(&ours).tcpi_data_segs_out);
        // Once more: what was agreed on is found again in the restored socket.
        let again = scene.put_to_sleep(ours, 0);
        let expected = checkpoint.negotiated;
        assert_eq!((again.negotiated.mss, again.negotiated.scales), (expected.mss, expected.scales));
        assert_eq!(again.negotiated.sack, expected.sack);
    });
}

/// The window that was announced before the sleep may be larger than the memory of a new socket.
#[test]
fn a_woken_connection_receives_much() {
    on_loopbacks(|mut scene| {
        let (mut theirs, mut ours) = scene.connection();
        let sent: Vec<u8> = (0..8 << 20).map(|at: u32| at.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect();
        // How fast the kernel lets the window grow depends on how fast this thread reads.
        until("the window is large", || {
            std::thread::scope(|scope| {
                scope.spawn(|| theirs.write_all(&sent).unwrap());
                hear(&mut ours, &sent);
            });
            whole_info(&ours).tcpi_rcv_ssthresh > 3 << 19
        });
        let checkpoint = scene.put_to_sleep(ours, 0);
        assert!(checkpoint.progress.receive_window > 1 << 20, "{checkpoint:?}");
        theirs.write_all(b"wake").unwrap();
        let kept = scene.next_caught();
        let mut ours = scene.wake(&checkpoint, 0);
        scene.reinject(&kept);
        hear(&mut ours, b"wake");
        std::thread::scope(|scope| {
            scope.spawn(|| theirs.write_all(&sent).unwrap());
            hear(&mut ours, &sent);
        });
        exchange(&mut theirs, &mut ours);
    });
}

/// Trap 4. Its cure is SO_REUSEADDR in `leave`.
#[test]
fn a_port_can_be_listened_on_again_while_a_woken_connection_lives() {
    on_loopbacks(|mut scene| {
        let (mut theirs, ours) = scene.connection();
        let checkpoint = scene.put_to_sleep(ours, 0);
        let mut ours = scene.wake(&checkpoint, 0);
        exchange(&mut theirs, &mut ours);
        rebind(scene.listener);
    });
}

#[test]
fn a_blank_socket_serves_other_connections() {
    at(&places(), |mut scene| {
        let (mut theirs, ours) = scene.connection();
        let before = segments_in(&theirs);
        let (first, socket) = scene.checkpoint(ours, 1);
        let mut socket = Some(blank(socket, &first.tuple).unwrap());
        scene.catcher.end_transit();
        let (_other_theirs, other) = scene.connection();
        let second = scene.put_to_sleep(other, 2);
        let elsewhere = SocketAddr::new(first.tuple.local.ip(), 1);
        for (checkpoint, index) in [(&second, 2), (&first, 1), (&second, 2)] {
            wait_for_grace(&scene.grace);
            assert!(socket.as_ref().unwrap().fits(checkpoint.tuple.local));
            scene.catcher.begin_transit();
            let woken = restore(checkpoint, &scene.wish(), socket.take()).unwrap();
            let woken = scene.awake(checkpoint, index, woken);
            assert_eq!(tuple_of(&woken), checkpoint.tuple);
            assert!(whole_info(&woken).tcpi_snd_mss > 32_000);
            assert!(woken.nodelay().unwrap());
            // Nothing is said, so that the checkpoint stays valid: it sleeps again at once.
            let (again, woken) = scene.checkpoint(woken, index);
            // No segment has gone, so no round trip was measured.
            let round_trip = checkpoint.progress.round_trip;
            assert_eq!(Progress { round_trip, ..again.progress }, checkpoint.progress);
            let emptied = blank(woken, &checkpoint.tuple).unwrap();
            scene.catcher.end_transit();
            assert!(!emptied.fits(elsewhere), "it is bound");
            socket = Some(emptied);
        }
        assert_eq!(segments_in(&theirs), before, "a segment was sent");
        theirs.write_all(b"wake").unwrap();
        let kept = scene.next_caught();
        wait_for_grace(&scene.grace);
        scene.catcher.begin_transit();
        let woken = restore(&first, &scene.wish(), socket).unwrap();
        let mut ours = scene.awake(&first, 1, woken);
        scene.reinject(&kept);
        hear(&mut ours, b"wake");
        exchange(&mut theirs, &mut ours);
    });
}

#[test]
fn wishes_are_fulfilled() {
    on_loopback(|mut scene| {
        let (_theirs, ours) = scene.connection();
        let checkpoint = scene.put_to_sleep(ours, 0);
        let time = Duration::from_secs(77);
        let keepalive = Some(Keepalive { time, interval: time, probes: 3 });
        scene.catcher.begin_transit();
        let socket = restore(&checkpoint, &Wish { keepalive, no_delay: false, ..scene.wish() }, None).unwrap();
        let ours = scene.awake(&checkpoint, 0, socket);
        let tcp = |name| repair::get(&ours, name).unwrap();
        let found = [libc::TCP_KEEPIDLE, libc::TCP_KEEPINTVL, libc::TCP_KEEPCNT, libc::TCP_NODELAY].map(tcp);
        assert_eq!(found, [77, 77, 3, 0]);
        let alive: libc::c_int = repair::get_option(&ours, libc::SOL_SOCKET, libc::SO_KEEPALIVE).unwrap();
        assert_eq!(alive, 1);
    });
}

/// A connection that has a socket cannot be restored, and the checkpoint is not used up by the attempt.
#[test]
fn a_restore_that_fails_is_an_error_and_sends_nothing() {
    on_loopback(|mut scene| {
        let (mut theirs, ours) = scene.connection();
        let checkpoint = scene.put_to_sleep(ours, 0);
        let mut ours = scene.wake(&checkpoint, 0);
        let error = restore(&checkpoint, &scene.wish(), None).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EADDRNOTAVAIL));
        exchange(&mut theirs, &mut ours);
    });
}
