//! A peer that is no kernel: it writes its segments itself, and so can shake hands without the options that a kernel
//! would offer. Segments to it are caught by a catcher of its own.

use super::round_trip::TOLD;
use super::*;
use crate::hibernation::segment::Segment;
use crate::sys::repair::{identify, restore};
use crate::sys::set_option;

const SYN: u8 = 0x02;
const ACK: u8 = 0x10;
const PSH: u8 = 0x08;

/// The peer.
struct Puppet {
    /// It accepts nothing: its filter catches what comes to the puppet.
    scene: Scene,
    raw: RawSender,
    /// The puppet's end is the local one.
    tuple: Tuple,
    sequence: u32,
    acknowledged: u32,
    /// The window that it announces.
    window: u16,
}

impl Puppet {
    /// Shakes hands with a server, with these options in its SYN. Returns the accepted socket.
    fn dial(server: &Scene, options: &[u8]) -> (Puppet, TcpStream) {
        let remote = server.listener.local_addr().unwrap();
        let scene = Scene::new(remote.ip());
        let tuple = Tuple { remote, local: scene.listener.local_addr().unwrap() };
        scene.catcher.insert(&tuple, 0, 0).unwrap();
        let mut puppet = Puppet {
            scene,
            raw: RawSender::without_mark().unwrap(),
            tuple,
            sequence: 1_000_000,
            acknowledged: 0,
            window: 30_000,
        };
        puppet.send(SYN, options, &[]);
        let answer = puppet.scene.next_caught();
        assert_eq!(answer.bytes[13], SYN | ACK);
        puppet.sequence += 1;
        puppet.acknowledged = answer.sequence().wrapping_add(1);
        puppet.send(ACK, &[], &[]);
        let (ours, _) = server.listener.accept().unwrap();
        ours.set_read_timeout(Some(PATIENCE)).unwrap();
        (puppet, ours)
    }

    fn send(&mut self, flags: u8, options: &[u8], payload: &[u8]) {
        let mut segment = Vec::new();
        segment.extend(self.tuple.local.port().to_be_bytes());
        segment.extend(self.tuple.remote.port().to_be_bytes());
        segment.extend(self.sequence.to_be_bytes());
        segment.extend(self.acknowledged.to_be_bytes());
        segment.extend([(((20 + options.len()) / 4) << 4) as u8, flags]);
        segment.extend(self.window.to_be_bytes());
        segment.extend([0; 4]);
        segment.extend(options);
        segment.extend(payload);
        let length = segment.len();
        // The segment's sender is the puppet.
        let way = Tuple { remote: self.tuple.local, local: self.tuple.remote };
        self.raw.reinject(&way, &mut segment, length).unwrap();
    }

    /// Says something, which the next segment acknowledges.
    fn say(&mut self, payload: &[u8]) {
        self.send(ACK | PSH, &[], payload);
        self.sequence += payload.len() as u32;
    }

    /// Hears this, and acknowledges it. Returns the last segment of it.
    fn hear(&mut self, expected: &[u8]) -> Kept {
        let mut heard = Vec::new();
        loop {
            let segment = self.scene.next_caught();
            if segment.sequence() == self.acknowledged {
                heard.extend_from_slice(segment.payload());
                self.acknowledged = self.acknowledged.wrapping_add(segment.payload().len() as u32);
            }
            self.send(ACK, &[], &[]);
            if heard.len() >= expected.len() {
                assert_eq!(heard, expected);
                return segment;
            }
        }
    }

    fn window_in(segment: &Kept) -> u16 {
        u16::from_be_bytes([segment.bytes[14], segment.bytes[15]])
    }
}

/// A handshake without timestamps, window scaling and selective acknowledgements, with segments of 536 bytes: what a
/// peer gets that offers nothing (RFC 9293, 3.7.1). IPv6 has 1,220 bytes.
#[test]
fn a_connection_without_any_option_sleeps_and_wakes() {
    on_loopbacks(|mut server| {
        let mss = if server.listener.local_addr().unwrap().is_ipv4() { 536 } else { 1_220 };
        let (mut puppet, mut ours) = Puppet::dial(&server, &[]);
        puppet.say(b"hello");
        hear(&mut ours, b"hello");
        ours.write_all(b"welcome").unwrap();
        let window = Puppet::window_in(&puppet.hear(b"welcome"));
        assert!(window > 20_000, "{window}");
        let (_, negotiated) = identify(&ours).unwrap().unwrap();
        assert_eq!((negotiated.mss, negotiated.scales), (mss, None));
        assert_eq!((negotiated.sack, negotiated.timestamp_offset), (false, None));
        for round in 0..3 {
            let mut checkpoint = server.put_to_sleep(ours, 0);
            // A restored socket has scales of 0, which mean the same.
            checkpoint.negotiated = negotiated;
            puppet.say(b"wake");
            let kept = server.next_caught();
            let mut woken = server.wake(&checkpoint, 0);
            server.reinject(&kept);
            hear(&mut woken, b"wake");
            woken.write_all(b"awake").unwrap();
            let answer = puppet.hear(b"awake");
            assert_eq!(answer.header(), 20, "options that were not agreed on, in round {round}");
            // Without the cure the window is shifted by what the kernel would have offered.
            let now = Puppet::window_in(&answer);
            assert!(now > 20_000, "a window of {now} in round {round}");
            let long = vec![b'x'; 10_000];
            woken.write_all(&long).unwrap();
            puppet.hear(&long);
            assert!(whole_info(&woken).tcpi_snd_mss <= u32::from(mss));
            ours = woken;
        }
    });
}

/// Every choice of options is found and restored.
#[test]
fn what_was_agreed_on_is_restored() {
    if !may_sleep() {
        return;
    }
    const MSS: [u8; 4] = [2, 4, 0x05, 0xb4];
    const SCALES: [u8; 4] = [1, 3, 3, 9];
    const SACK: [u8; 4] = [1, 1, 4, 2];
    for choice in 0..8 {
        let mut server = Scene::new(LOOPBACKS[0]);
        let [has_mss, has_scales, has_sack] = [1, 2, 4].map(|bit| choice & bit != 0);
        let options = [(has_mss, MSS), (has_scales, SCALES), (has_sack, SACK)];
        let options: Vec<u8> = options.iter().filter(|(has, _)| *has).flat_map(|(_, option)| *option).collect();
        let (mut puppet, ours) = Puppet::dial(&server, &options);
        let (_, negotiated) = identify(&ours).unwrap().unwrap();
        assert_eq!(negotiated.mss, if has_mss { 1_460 } else { 536 });
        assert_eq!(negotiated.scales.map(|scales| scales.send), has_scales.then_some(9));
        assert_eq!((negotiated.sack, negotiated.timestamp_offset), (has_sack, None));
        let checkpoint = server.put_to_sleep(ours, 0);
        let mut ours = server.wake(&checkpoint, 0);
        puppet.say(b"?");
        hear(&mut ours, b"?");
        ours.write_all(b"!").unwrap();
        puppet.hear(b"!");
        let (_, again) = identify(&ours).unwrap().unwrap();
        assert_eq!((again.mss, again.sack, again.timestamp_offset), (negotiated.mss, has_sack, None));
        assert_eq!(again.scales.unwrap_or(crate::hibernation::Scales { send: 0, receive: 0 }), {
            negotiated.scales.unwrap_or(crate::hibernation::Scales { send: 0, receive: 0 })
        });
    }
}

/// With its first segment a woken socket echoes the timestamp of the segment that woke its connection, whose payload it
/// never got.
#[test]
fn a_woken_connection_echoes_the_peers_timestamp() {
    let timestamps = |value: u32| [[1, 1, 8, 10].as_slice(), &value.to_be_bytes(), &[0; 4]].concat();
    on_loopbacks(|mut server| {
        let (mut puppet, ours) = Puppet::dial(&server, &timestamps(70_000));
        let mut checkpoint = server.put_to_sleep(ours, 0);
        checkpoint.progress.round_trip = Some(TOLD);
        puppet.send(ACK | PSH, &timestamps(70_123), b"wake");
        puppet.sequence += 4;
        let kept = server.next_caught();
        let seen = Segment::parse(&kept.bytes, kept.whole_len).unwrap().echo();
        checkpoint.progress.received = checkpoint.progress.received.wrapping_add(4);
        let (mut woken, told) = server.wake_from_afar(&checkpoint, 0, seen, &server.raw);
        assert!(told);
        woken.write_all(b"awake").unwrap();
        let answer = puppet.hear(b"awake");
        let echoed = Segment::parse(&answer.bytes, answer.whole_len).unwrap().timestamps.map(|pair| pair.echo);
        assert_eq!((seen, echoed), (70_123, Some(70_123)));
    });
}

/// Segments that came out of order are in no queue that can be asked for, and their peer believes them to be safe.
#[test]
fn segments_out_of_order_keep_a_connection_awake() {
    on_loopback(|server| {
        let (mut puppet, mut ours) = Puppet::dial(&server, &[1, 1, 4, 2]);
        puppet.sequence += 5;
        puppet.say(b"later");
        until("the kernel has the segment", || whole_info(&ours).tcpi_segs_in >= 2);
        assert_eq!(repair::checkpoint(&ours).unwrap(), None);
        puppet.sequence -= 10;
        puppet.say(b"first");
        hear(&mut ours, b"firstlater");
    });
}

/// What was read and not yet acknowledged would be sent again.
#[test]
fn a_delayed_acknowledgement_keeps_a_connection_awake() {
    on_loopback(|mut server| {
        let mut delayed = None;
        until("an acknowledgement is still to come", || {
            let (mut theirs, mut ours) = server.connection();
            set_option(&ours, libc::IPPROTO_TCP, libc::TCP_QUICKACK, 0).unwrap();
            theirs.write_all(b"?").unwrap();
            hear(&mut ours, b"?");
            // It is delayed by 40 ms and more. If this thread stood still for that long, it has come.
            let kept_awake = repair::checkpoint(&ours).unwrap().is_none();
            assert!(kept_awake || info(&theirs).unacknowledged == 0, "what the peer sends again would be lost");
            delayed = kept_awake.then_some((theirs, ours));
            delayed.is_some()
        });
        let (mut theirs, ours) = delayed.unwrap();
        until("the acknowledgement comes", || info(&theirs).unacknowledged == 0);
        let checkpoint = server.put_to_sleep(ours, 0);
        let mut ours = server.wake(&checkpoint, 0);
        exchange(&mut theirs, &mut ours);
    });
}

/// A peer's window of zero is no error, and neither is one that is smaller than the largest ever.
#[test]
fn windows_that_the_kernel_would_refuse_are_avoided() {
    on_loopback(|mut server| {
        let (_theirs, ours) = server.connection();
        let mut checkpoint = server.put_to_sleep(ours, 0);
        for (send_window, largest_window, receive_window) in [(0, 0, 0), (50_000, 10, 1), (u32::MAX, 0, 1 << 30)] {
            checkpoint.progress.send_window = send_window;
            checkpoint.progress.largest_window = largest_window;
            checkpoint.progress.receive_window = receive_window;
            for received in [0, 1, u32::MAX] {
                checkpoint.progress.received = received;
                server.catcher.begin_transit();
                let socket = restore(&checkpoint, &server.wish(), None).unwrap();
                assert!(repair::checkpoint(&socket).unwrap().is_some());
                server.catcher.end_transit();
            }
        }
    });
}

/// What a peer announces with the segment that wakes its connection is believed, also where it is less than before. The cure
/// is a window that was updated by an older segment.
#[test]
fn a_window_that_shrank_is_believed_after_a_wake() {
    on_loopback(|mut server| {
        let (mut puppet, mut ours) = Puppet::dial(&server, &[]);
        puppet.say(b"?");
        hear(&mut ours, b"?");
        let checkpoint = server.put_to_sleep(ours, 0);
        assert_eq!(checkpoint.progress.send_window, 30_000);
        puppet.window = 2 * 536;
        puppet.say(b"wake");
        let kept = server.next_caught();
        let mut woken = server.wake(&checkpoint, 0);
        server.reinject(&kept);
        hear(&mut woken, b"wake");
        woken.write_all(&[b'x'; 4 * 536]).unwrap();
        assert_eq!(info(&woken).unacknowledged, 2, "segments beyond the window");
    });
}

/// A peer that takes less than the kernel can set stays awake.
#[test]
fn a_peer_of_tiny_segments_stays_awake() {
    if !may_sleep() {
        return;
    }
    for (mss, sleeps) in [(87u16, false), (88, true)] {
        let server = Scene::new(LOOPBACKS[0]);
        let [high, low] = mss.to_be_bytes();
        let (mut puppet, mut ours) = Puppet::dial(&server, &[2, 4, high, low]);
        assert_eq!(identify(&ours).unwrap().is_some(), sleeps, "{mss}");
        puppet.say(b"?");
        hear(&mut ours, b"?");
    }
}
