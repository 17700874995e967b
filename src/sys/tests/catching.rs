//! What the catcher catches, and what it lets pass.

use std::collections::HashMap;
use std::os::fd::{BorrowedFd, FromRawFd};

use rustix::event::{Timespec, epoll};

use super::*;
use crate::hibernation::answer::{Answer, LONGEST};
use crate::hibernation::segment;
use crate::sys::repair::timestamp_clock;
use crate::sys::{Filter, NoPlace, Notification, Patience, RawAddress, RawSender, set_option};

#[test]
fn segments_of_an_established_socket_are_caught_only_in_a_transit() {
    on_loopbacks(|mut scene| {
        let (mut theirs, mut ours) = scene.connection();
        let tuple = tuple_of(&ours);
        scene.catcher.insert(&tuple, 0, 9).unwrap();
        exchange(&mut theirs, &mut ours);
        assert!(!scene.caught.any());
        // Trap 10: from here on the socket gets nothing, although it is there.
        scene.catcher.begin_transit();
        theirs.write_all(b"caught").unwrap();
        let kept = scene.next_caught();
        assert_eq!((kept.index, kept.payload()), (9, &b"caught"[..]));
        // Another connection pays a look into the table, and passes.
        let (mut other_theirs, mut other) = scene.connection();
        exchange(&mut other_theirs, &mut other);
        // Segments with our mark pass.
        scene.reinject(&kept);
        hear(&mut ours, b"caught");
        scene.catcher.wake(&tuple, 0, 9);
        exchange(&mut theirs, &mut ours);
        scene.catcher.remove(&tuple, 0, 9);
        exchange(&mut theirs, &mut ours);
        scene.catcher.end_transit();
        assert!(!scene.caught.any());
    });
}

/// A softirq may have looked a segment up to the listener before the woken connection had its socket. If nothing
/// caught the segment then, the listener would reset the connection.
#[test]
fn a_listener_catches_segments_of_a_woken_connection_until_it_is_removed() {
    on_loopback(|mut scene| {
        let (mut theirs, ours) = scene.connection();
        let checkpoint = scene.put_to_sleep(ours, 4);
        scene.catcher.wake(&checkpoint.tuple, 0, 4);
        theirs.write_all(b"late").unwrap();
        let kept = scene.next_caught();
        assert_eq!((kept.index, kept.payload()), (4, &b"late"[..]));
        // The same connection sleeps again, in the same place.
        assert_eq!(scene.catcher.insert(&checkpoint.tuple, 0, 4), Ok(()));
        assert_eq!(scene.catcher.insert(&checkpoint.tuple, 0, 4), Err(NoPlace::Collides));
        let mut ours = scene.wake(&checkpoint, 4);
        scene.reinject(&kept);
        hear(&mut ours, b"late");
        exchange(&mut theirs, &mut ours);
        scene.catcher.remove(&checkpoint.tuple, 0, 4);
        exchange(&mut theirs, &mut ours);
    });
}

/// What one process has taken, the next one does not take again. The peer sends it again, as it was not acknowledged.
#[test]
fn a_successor_goes_on_behind_what_was_taken() {
    on_loopback(|mut scene| {
        let (mut theirs, ours) = scene.connection();
        scene.put_to_sleep(ours, 4);
        // It is ready before the other one stops.
        let maps: HashMap<_, _> = scene.catcher.maps().into_iter().collect();
        let copy = |name: &str| maps.get(name).map(|map| map.try_clone_to_owned().unwrap());
        let mut successor = Catcher::adopt(&scene.catcher.terms(), copy).unwrap().caught(0).unwrap();
        let mut last = None;
        for payload in [b"one", b"two"] {
            theirs.write_all(payload).unwrap();
            until("it is caught", || {
                last = scene.take_caught();
                last.as_ref().is_some_and(|kept| kept.payload().ends_with(payload))
            });
        }
        scene.caught.release();
        successor.catch_up();
        let (last, mut next) = (last.unwrap().at, None);
        until("the peer sends it again", || {
            next = successor.next_segment().map(|segment| segment.at);
            next.is_some()
        });
        assert!(next.unwrap().0.wrapping_sub(last.0).cast_signed() > 0, "{next:?} was caught before {last:?}");
    });
}

/// A bare acknowledgement may wait for the next segment, which wakes the reader although it has not read all.
#[test]
fn acknowledgements_that_may_wait_wake_nobody() {
    on_loopbacks(|mut scene| {
        let (mut theirs, ours) = scene.connection();
        let checkpoint = scene.put_to_sleep(ours, 4);
        let poll = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
        let flags = epoll::EventFlags::IN | epoll::EventFlags::ET;
        // SAFETY: the descriptor is open as long as `scene.caught` lives, which is longer than this use.
        let ring = unsafe { BorrowedFd::borrow_raw(scene.caught.fd()) };
        epoll::add(&poll, ring, epoll::EventData::new_u64(0), flags).unwrap();
        let woke = |patience: Timespec| {
            let mut events = Vec::with_capacity(1);
            epoll::wait(&poll, rustix::buffer::spare_capacity(&mut events), Some(&patience)).unwrap() > 0
        };
        let (none, long) = (Timespec { tv_sec: 0, tv_nsec: 0 }, Timespec { tv_sec: 60, tv_nsec: 0 });
        let sender = RawSender::without_mark().unwrap();
        for (patience, round) in [(Patience::None, 1), (Patience::Asleep, 2), (Patience::None, 3)] {
            scene.caught.set_patience(patience);
            // The peer acknowledges a probe, but not two within half a second (`tcp_oow_rate_limited`).
            until("an acknowledgement is caught", || {
                let (mut buffer, Tuple { local, remote }) = ([0; LONGEST], checkpoint.tuple);
                let probe = Answer::probe(&checkpoint.progress).write(&checkpoint, timestamp_clock(), 0, &mut buffer);
                sender.answer(local.ip(), remote.ip(), probe).unwrap();
                scene.caught.any()
            });
            if patience != Patience::None {
                assert!(!woke(none), "an acknowledgement woke its reader in round {round}");
                theirs.write_all(b"!").unwrap();
            }
            assert!(woke(long), "nothing woke the reader in round {round}");
            while scene.take_caught().is_some() {}
            scene.caught.release();
        }
    });
}

/// Trap 10: a segment arrives in the middle of a connection's way to sleep.
#[test]
fn a_segment_in_the_middle_of_a_sleep_is_not_lost() {
    on_loopbacks(|mut scene| {
        let (mut theirs, ours) = scene.connection();
        let (checkpoint, socket) = scene.checkpoint(ours, 5);
        theirs.write_all(b"late").unwrap();
        let kept = scene.next_caught();
        assert_eq!(info(&theirs).unacknowledged, 1, "the socket that goes has acknowledged it");
        drop(socket);
        scene.catcher.end_transit();
        let mut ours = scene.wake(&checkpoint, 5);
        scene.reinject(&kept);
        hear(&mut ours, b"late");
        exchange(&mut theirs, &mut ours);
    });
}

/// Trap 6: a segment as large as GRO or a loopback device makes it is caught whole.
#[test]
fn segments_of_64_kib_are_caught_whole_and_arrive() {
    on_loopbacks(|mut scene| {
        let (mut theirs, mut ours) = scene.connection();
        // Much that was read makes the window large, and with it the segments.
        std::thread::scope(|scope| {
            scope.spawn(|| theirs.write_all(&vec![0; 4 << 20]).unwrap());
            hear(&mut ours, &vec![0; 4 << 20]);
        });
        let checkpoint = scene.put_to_sleep(ours, 0);
        let sent: Vec<u8> = (0..120_000u32).map(|at| at.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect();
        theirs.write_all(&sent).unwrap();
        let first = scene.next_caught();
        assert!(first.whole_len > 60_000, "{}", first.whole_len);
        assert_eq!(first.bytes.len(), first.whole_len);
        assert_eq!(first.payload(), &sent[..first.payload().len()]);
        let mut ours = scene.wake(&checkpoint, 0);
        scene.reinject(&first);
        scene.reinject_all();
        hear(&mut ours, &sent);
        exchange(&mut theirs, &mut ours);
    });
}

/// A record that begins at the end of the ring buffer and goes on at its beginning is read whole, of whatever length.
#[test]
fn segments_over_the_end_of_the_ring_buffer_are_whole() {
    if !may_sleep() {
        return;
    }
    for ip in LOOPBACKS {
        let mut scene = Scene::new(ip);
        let tuple = Tuple { remote: SocketAddr::new(ip, 1), local: scene.listener.local_addr().unwrap() };
        scene.catcher.insert(&tuple, 0, 7).unwrap();
        let peer = RawSender::without_mark().unwrap();
        let noise: Vec<u8> = (0..1 << 16).map(|at: u32| at.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect();
        // The ring buffer has 256 KiB and a round writes some 130, so that records go over the end at ever other places.
        for (round, length) in (0..40u32).flat_map(|round| [65_400, 20, 1_400, 30_000].map(|length| (round, length))) {
            let mut segment = noise[..length].to_vec();
            segment[..2].copy_from_slice(&tuple.remote.port().to_be_bytes());
            segment[2..4].copy_from_slice(&tuple.local.port().to_be_bytes());
            segment[4..8].copy_from_slice(&round.to_be_bytes());
            // Five words of header, and the flag ACK.
            segment[12..14].copy_from_slice(&[5 << 4, 1 << 4]);
            segment::restore(&tuple, &mut segment, length);
            peer.send(tuple.remote.ip(), tuple.local.ip(), &segment).unwrap();
            let kept = scene.next_caught();
            assert!(kept.index == 7 && kept.bytes == segment, "round {round}, {length} bytes");
        }
    }
}

#[test]
fn a_full_ring_buffer_drops_and_counts_and_the_peer_sends_again() {
    on_loopback(|mut scene| {
        let (mut theirs, ours) = scene.connection();
        let checkpoint = scene.put_to_sleep(ours, 0);
        let sent: Vec<u8> = (0..1 << 20).map(|at: u32| at.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect();
        std::thread::scope(|scope| {
            scope.spawn(|| theirs.write_all(&sent).unwrap());
            until("the ring buffer is full", || scene.caught.dropped() > 0);
            assert!(scene.caught.any());
            let mut ours = scene.wake(&checkpoint, 0);
            scene.reinject_all();
            hear(&mut ours, &sent);
        });
        assert!(info(&theirs).retransmissions > 0);
    });
}

/// A peer sends no RST again, so those that were dropped are counted apart.
#[test]
fn resets_that_find_no_room_are_counted_apart() {
    if !may_sleep() {
        return;
    }
    for ip in LOOPBACKS {
        let scene = Scene::new(ip);
        let tuple = Tuple { remote: SocketAddr::new(ip, 1), local: scene.listener.local_addr().unwrap() };
        scene.catcher.insert(&tuple, 0, 7).unwrap();
        let peer = RawSender::without_mark().unwrap();
        let send = |flags: u8, payload: usize| {
            let mut segment = [tuple.remote.port().to_be_bytes(), tuple.local.port().to_be_bytes()].concat();
            segment.resize(12, 0);
            segment.extend([5 << 4, flags]);
            segment.resize(20 + payload, 0);
            let length = segment.len();
            segment::restore(&tuple, &mut segment, length);
            peer.send(tuple.remote.ip(), tuple.local.ip(), &segment).unwrap();
        };
        // Large ones leave a rest, which small ones fill.
        for payload in [60_000, 0] {
            let before = scene.caught.dropped();
            while scene.caught.dropped() == before {
                send(segment::ACK, payload);
            }
        }
        let dropped = scene.caught.dropped();
        assert_eq!(scene.caught.dropped_resets(), 0);
        for flags in [segment::RST, segment::FIN | segment::ACK, segment::RST | segment::ACK] {
            send(flags, 0);
        }
        assert_eq!((scene.caught.dropped() - dropped, scene.caught.dropped_resets()), (3, 2));
    }
}

#[test]
fn a_shard_gets_the_segments_of_its_own_connections() {
    if !may_sleep() {
        return;
    }
    let catcher = Catcher::new(3, 100, 0).unwrap();
    let mut readers: Vec<Caught> = (0..3).map(|shard| catcher.caught(shard).unwrap()).collect();
    assert_eq!(catcher.caught(0).err().and_then(|error| error.raw_os_error()), Some(libc::EBUSY));
    assert_eq!(catcher.caught(3).err().and_then(|error| error.raw_os_error()), Some(libc::EINVAL));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    catcher.attach(&listener).unwrap();
    let ends: Vec<_> = (0..3)
        .map(|shard: usize| {
            let theirs = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (ours, _) = listener.accept().unwrap();
            let tuple = tuple_of(&ours);
            catcher.insert(&tuple, shard, 1_000_000 + shard as u32).unwrap();
            (theirs, ours, tuple)
        })
        .collect();
    assert!(catcher.insert(&ends[0].2, 3, 0).is_err(), "there is no such shard");
    catcher.begin_transit();
    for (shard, (theirs, _, tuple)) in ends.iter().enumerate() {
        let mut poll = libc::pollfd { fd: readers[shard].fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: the kernel reads and writes one entry, which outlives the call.
        assert_eq!(unsafe { libc::poll(&raw mut poll, 1, 0) }, 0, "nothing was caught for shard {shard}");
        (&*theirs).write_all(b"hello").unwrap();
        let patience = PATIENCE.as_millis() as libc::c_int;
        // SAFETY: as above.
        assert_eq!(unsafe { libc::poll(&raw mut poll, 1, patience) }, 1);
        until("the segment is committed", || readers[shard].any());
        let segment = readers[shard].next_segment().unwrap();
        assert_eq!((segment.index, segment.tuple), (1_000_000 + shard as u32, *tuple));
        assert!(readers[shard].next_segment().is_none());
    }
}

/// A listener's one program: it catches for those that sleep, and announces for those that are awake.
#[test]
fn a_filter_with_a_catcher_catches_and_announces() {
    on_loopback(|mut scene| {
        let mut filter = Filter::new(10, Some(&scene.catcher)).unwrap();
        filter.attach(&scene.listener).unwrap();
        let (mut theirs, mut ours) = scene.connection();
        filter.set_place(&ours, 8).unwrap();
        exchange(&mut theirs, &mut ours);
        assert_eq!(filter.next_notification(Notification::Segment), Some(8));
        let checkpoint = scene.put_to_sleep(ours, 1);
        assert_eq!(filter.next_notification(Notification::Segment), None);
        let (mut other_theirs, mut other) = scene.connection();
        filter.set_place(&other, 2).unwrap();
        theirs.write_all(b"wake").unwrap();
        let kept = scene.next_caught();
        exchange(&mut other_theirs, &mut other);
        assert_eq!(filter.next_notification(Notification::Segment), Some(2));
        scene.catcher.begin_transit();
        let wish = Wish { program: filter.program(), ..scene.wish() };
        let socket = repair::restore(&checkpoint, &wish, None).unwrap();
        filter.set_place(&socket, 3).unwrap();
        let mut ours = scene.awake(&checkpoint, 1, socket);
        assert_eq!(filter.next_notification(Notification::Segment), None);
        scene.reinject(&kept);
        hear(&mut ours, b"wake");
        assert_eq!(filter.next_notification(Notification::Segment), Some(3));
    });
}

/// Dials from an address of its own, whose ports no other test has. With `flags` for the socket.
fn dial(from: SocketAddr, to: SocketAddr, flags: libc::c_int) -> OwnedFd {
    // SAFETY: no pointers; the result is checked before it is owned.
    let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_CLOEXEC | flags, 0) };
    assert!(fd >= 0);
    // SAFETY: `fd` was just made and nothing else has it.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    set_option(&socket, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1).unwrap();
    let [from, to] = [from, to].map(RawAddress::from);
    // SAFETY: the kernel reads the address, which outlives the call.
    let bound = unsafe { libc::bind(socket.as_raw_fd(), from.as_ptr(), from.length()) };
    assert_eq!(bound, 0, "{}", std::io::Error::last_os_error());
    // SAFETY: as above.
    let connected = unsafe { libc::connect(socket.as_raw_fd(), to.as_ptr(), to.length()) };
    assert!(connected == 0 || flags & libc::SOCK_NONBLOCK != 0, "{}", std::io::Error::last_os_error());
    socket
}

/// A SYN with the ends of a sleeping connection reaches no listener.
#[test]
fn a_peer_that_dials_anew_is_caught() {
    if !may_sleep() {
        return;
    }
    const OWN: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 9);
    let mut scene = Scene::new(LOOPBACKS[0]);
    let theirs = dial((OWN, 0).into(), scene.listener.local_addr().unwrap(), 0);
    let (ours, _) = scene.listener.accept().unwrap();
    let checkpoint = scene.put_to_sleep(ours, 6);
    // In repair mode a socket goes without a word. The peer has forgotten the connection, and dials from the same port.
    assert!(repair::checkpoint(&theirs).unwrap().is_some());
    drop(repair::blank(theirs, &checkpoint.tuple).unwrap());
    let _again = dial(checkpoint.tuple.remote, checkpoint.tuple.local, libc::SOCK_NONBLOCK);
    let syn = scene.next_caught();
    assert_eq!((syn.index, syn.tuple, syn.bytes[13] & 2), (6, checkpoint.tuple, 2));
}
