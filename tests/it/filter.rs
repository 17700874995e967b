//! The filter's notifications of real segments, and the segments that it does not announce.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use c1m::internal::sys::{Filter, Notification};
use socket2::SockRef;

use crate::support::PATIENCE;

/// A filter, and connections in some of its places, with both ends of each.
struct Scene {
    filter: Filter,
    ends: Vec<(TcpStream, TcpStream)>,
}

fn scene(connections: u32, places: u32) -> Scene {
    let filter = Filter::new(places, None).unwrap();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    filter.attach(&listener).unwrap();
    let connect = |nth| {
        let theirs = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (ours, _) = listener.accept().unwrap();
        filter.set_place(&ours, place(nth, connections, places)).unwrap();
        (ours, theirs)
    };
    let ends = (0..connections).map(connect).collect();
    Scene { filter, ends }
}

/// The place of connection number `nth`. The places are spread over all, and include the first and the last.
fn place(nth: u32, connections: u32, places: u32) -> u32 {
    if connections == 1 {
        places - 1
    } else {
        (u64::from(places - 1) * u64::from(nth) / u64::from(connections - 1)) as u32
    }
}

impl Scene {
    /// Sends a message on a connection. It has arrived when this returns.
    fn say(&mut self, nth: usize) {
        let (ours, theirs) = &mut self.ends[nth];
        theirs.write_all(b"!").unwrap();
        ours.read_exact(&mut [0]).unwrap();
    }

    /// Takes the places with notifications of segments. Checks that there is none of a RST or a FIN.
    fn taken(&mut self) -> Vec<u32> {
        assert_eq!(self.filter.next_notification(Notification::Reset), None);
        assert_eq!(self.filter.next_notification(Notification::Fin), None);
        std::iter::from_fn(|| self.filter.next_notification(Notification::Segment)).collect()
    }

    /// Whether the filter makes its wake-up descriptor readable within a number of milliseconds.
    fn wakes(&self, within: libc::c_int) -> bool {
        let mut poll = libc::pollfd { fd: self.filter.wake_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: the kernel reads and writes one entry, which outlives the call.
        unsafe { libc::poll(&raw mut poll, 1, within) == 1 }
    }
}

#[test(SocketFilter)]
fn a_segment_is_announced_once_until_its_notification_is_taken() {
    const CONNECTIONS: u32 = 100;
    for places in [CONNECTIONS, 4_096, 500_000] {
        let mut scene = scene(CONNECTIONS, places);
        let place = |nth| place(nth, CONNECTIONS, places);
        assert!(!scene.filter.has_notifications());
        for nth in [99, 0, 0, 63, 1] {
            scene.say(nth);
        }
        assert!(scene.filter.has_notifications());
        assert_eq!(scene.taken(), [0, 1, 63, 99].map(place));
        assert!(!scene.filter.has_notifications());
        scene.say(63);
        assert_eq!(scene.filter.next_notification(Notification::Segment), Some(place(63)));
        scene.say(63);
        assert!(scene.filter.has_notifications());
        assert_eq!(scene.taken(), [place(63)]);
        for nth in 0..CONNECTIONS {
            scene.say(nth as usize);
        }
        assert_eq!(scene.taken(), (0..CONNECTIONS).map(place).collect::<Vec<_>>());
    }
}

#[test(SocketFilter)]
fn ends_are_announced_and_acknowledgements_are_not() {
    let mut scene = scene(3, 3);
    let (ours, theirs) = &mut scene.ends[0];
    ours.write_all(b"?").unwrap();
    theirs.read_exact(&mut [0]).unwrap();
    assert!(scene.taken().is_empty(), "an acknowledgement was announced");
    scene.ends[0].1.shutdown(Shutdown::Write).unwrap();
    assert_eq!(scene.ends[0].0.read(&mut [0]).unwrap(), 0);
    // A FIN without payload may wait. Once a scan has found it, it is no reason to stay awake.
    assert!(scene.filter.has_notifications() && scene.filter.has_ends());
    assert_eq!(
        [Notification::Segment, Notification::Reset].map(|kind| scene.filter.next_notification(kind)),
        [None, None]
    );
    assert!(!scene.filter.has_notifications() && scene.filter.has_fins() && scene.filter.has_ends());
    assert_eq!(scene.filter.next_notification(Notification::Fin), Some(0));
    assert!(scene.taken().is_empty());
    assert!(!scene.filter.has_fins() && !scene.filter.has_ends());
    let (mut ours, theirs) = scene.ends.pop().unwrap();
    SockRef::from(&theirs).set_linger(Some(Duration::ZERO)).unwrap();
    drop(theirs);
    assert!(ours.read(&mut [0]).is_err());
    scene.say(1);
    assert_eq!(scene.filter.next_notification(Notification::Reset), Some(2));
    assert_eq!(scene.taken(), [1]);
    assert!(!scene.filter.has_notifications());
}

#[test(SocketFilter)]
fn only_a_sleeping_shard_is_woken() {
    let mut scene = scene(1, 70_000);
    scene.say(0);
    assert!(!scene.wakes(0), "no shard slept");
    scene.filter.sleep();
    assert!(scene.filter.has_notifications(), "a shard with notifications must not sleep");
    assert_eq!(scene.taken(), [69_999]);
    for round in 0..1_000 {
        scene.filter.sleep();
        assert!(!scene.filter.has_notifications() && !scene.wakes(0), "woken without a segment in round {round}");
        let mut theirs = scene.ends[0].1.try_clone().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(move || theirs.write_all(b"!").unwrap());
            assert!(scene.wakes(10_000), "sleeps on in round {round}");
        });
        scene.filter.wake();
        scene.ends[0].0.read_exact(&mut [0]).unwrap();
        assert_eq!(scene.taken(), [69_999]);
    }
}

/// One thread sends on all connections, another takes the notifications. No message is missed.
#[test(SocketFilter)]
fn notifications_taken_while_others_arrive_miss_no_message() {
    const CONNECTIONS: u32 = 130;
    const MESSAGES: usize = 20_000;
    let mut scene = scene(CONNECTIONS, 9_000);
    let mut theirs: Vec<_> = scene.ends.iter().map(|(_, theirs)| theirs.try_clone().unwrap()).collect();
    let mut received = 0;
    std::thread::scope(|scope| {
        scope.spawn(move || {
            for message in 0..MESSAGES {
                let at = message * 31 % theirs.len();
                theirs[at].write_all(b"!").unwrap();
            }
        });
        for (ours, _) in &scene.ends {
            ours.set_nonblocking(true).unwrap();
        }
        let nth = |taken| (0..CONNECTIONS).find(|nth| place(*nth, CONNECTIONS, 9_000) == taken).unwrap();
        let mut progress = Instant::now();
        let mut pending = BTreeSet::new();
        while received < MESSAGES {
            assert!(progress.elapsed() < PATIENCE, "{received} of {MESSAGES} messages were announced");
            pending.extend(std::iter::from_fn(|| scene.filter.next_notification(Notification::Segment)).map(nth));
            // If the message is not queued yet, it is received in a later round, as with a poll. All that a connection is
            // ever sent fits into one read.
            pending.retain(|nth| match scene.ends[*nth as usize].0.read(&mut [0; 1_024]) {
                Ok(bytes) => {
                    received += bytes;
                    progress = Instant::now();
                    false
                }
                Err(_) => true,
            });
        }
    });
    assert_eq!(received, MESSAGES);
}

/// A segment with both payload and FIN is a message.
#[test(SocketFilter)]
fn a_fin_with_payload_is_announced_as_a_message() {
    let mut scene = scene(1, 1);
    let (ours, theirs) = &mut scene.ends[0];
    // With TCP_CORK the message waits for the FIN, and both go in one segment.
    SockRef::from(&*theirs).set_tcp_cork(true).unwrap();
    theirs.write_all(b"!").unwrap();
    theirs.shutdown(Shutdown::Write).unwrap();
    assert_eq!(ours.read(&mut [0; 2]).unwrap(), 1);
    assert_eq!(ours.read(&mut [0; 2]).unwrap(), 0);
    assert_eq!(scene.taken(), [0]);
}
