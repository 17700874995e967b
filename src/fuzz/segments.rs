//! Segments for connections that sleep or close.

use std::net::{IpAddr, SocketAddr};

use super::Input;
use crate::hibernation::answer::{Answer, LONGEST};
use crate::hibernation::closing::{Closing, Step};
use crate::hibernation::judge::{Reason, Verdict, judge};
use crate::hibernation::segment::{ACK, CHECKSUM, FIN, RST, SYN, Segment, URG, checksum, checksum_is_right};
use crate::hibernation::{Checkpoint, Negotiated, Progress, Scales, Tuple};

/// Any segments for any connection, also for one that cannot be. None wakes it that its peer could not have sent, what
/// is delivered comes next, and each answer can be read. The first byte says whether the connection sleeps or closes.
pub fn segments(bytes: &[u8]) {
    let mut input = Input(bytes);
    let kind = input.byte();
    let mut checkpoint = checkpoint(&mut input, kind & 1 != 0);
    if kind & 2 == 0 {
        return sleeping(&checkpoint, &mut input);
    }
    let mut now = input.word();
    let begin = if kind & 4 == 0 { Closing::begin } else { Closing::answer };
    let (mut closing, answer) = begin(&checkpoint, now);
    is_readable(answer, &checkpoint);
    while !input.0.is_empty() {
        now = now.wrapping_add(input.short() as u32);
        if !goes_on(&mut closing, &mut checkpoint, &mut input, now) {
            return;
        }
    }
}

fn checkpoint(input: &mut Input<'_>, v6: bool) -> Checkpoint {
    let mut end = || {
        let address = if v6 { IpAddr::from(input.next::<16>()) } else { IpAddr::from(input.next::<4>()) };
        SocketAddr::new(address.to_canonical(), u16::from_le_bytes(input.next()))
    };
    let tuple = Tuple { remote: end(), local: end() };
    let ([send, receive], offset) = (input.next(), input.word());
    let negotiated = Negotiated {
        mss: 1_460,
        scales: (send < 128).then_some(Scales { send, receive }),
        sack: true,
        timestamp_offset: (offset != 0).then_some(offset),
    };
    let progress = Progress {
        received: input.word(),
        sent: input.word(),
        send_window: input.word(),
        receive_window: input.word(),
        largest_window: input.word(),
        round_trip: None,
    };
    Checkpoint { tuple, negotiated, progress }
}

/// The captured bytes of a segment, and how long it was. A byte of the input says which of its fields are made to fit
/// the connection, as chance would hardly find them.
fn caught(input: &mut Input<'_>, checkpoint: &Checkpoint) -> (Vec<u8>, usize) {
    let Checkpoint { tuple, progress, .. } = checkpoint;
    let (plan, missing, payload, near) = (input.byte(), input.byte(), input.short() % 1_500, input.byte());
    let near = i32::from(near.cast_signed());
    let mut bytes = input.next::<20>().to_vec();
    let (now, later) = input.0.split_at(payload.min(input.0.len()));
    bytes.extend(now);
    input.0 = later;
    let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
    if plan & 1 != 0 {
        put(0, &tuple.remote.port().to_be_bytes());
        put(2, &tuple.local.port().to_be_bytes());
    }
    let edge = if plan & 2 != 0 { progress.receive_window } else { 0 };
    if plan & 4 != 0 {
        put(4, &progress.received.wrapping_add(edge).wrapping_add_signed(near).to_be_bytes());
    }
    if plan & 8 != 0 {
        put(8, &progress.sent.to_be_bytes());
    }
    if plan & 16 != 0 {
        put(8, &progress.sent.wrapping_add(1).to_be_bytes());
    }
    if plan & 32 != 0 {
        put(12, &[5 << 4]);
    }
    if plan & 64 != 0 {
        let flags = bytes[13] & !(RST | SYN | URG) | ACK;
        bytes[13] = flags;
    }
    // Most segments are captured whole.
    let whole = bytes.len() + usize::from(missing.saturating_sub(200));
    if plan & 128 != 0 {
        bytes[CHECKSUM].fill(0);
        let checksum = checksum(tuple, &bytes[..20], &bytes[20..]);
        bytes[CHECKSUM].copy_from_slice(&checksum.to_be_bytes());
        assert!(checksum_is_right(tuple, &bytes, bytes.len()));
    }
    (bytes, whole)
}

fn sleeping(checkpoint: &Checkpoint, input: &mut Input<'_>) {
    let (bytes, whole) = caught(input, checkpoint);
    let Checkpoint { tuple: ours, progress: old, .. } = checkpoint;
    let _ = checksum_is_right(ours, &bytes, whole);
    let Some(segment) = Segment::parse(&bytes, whole) else { return };
    assert_eq!(segment.payload().end, bytes.len());
    let tuple = segment.tuple(ours.remote.ip(), ours.local.ip());
    let verdict = judge(checkpoint, &tuple, &segment);
    assert_eq!(tuple != *ours, verdict == Verdict::Refuse(Reason::OtherTuple));
    // Numbers from the one that is expected next on, modulo 2^32.
    let from = segment.sequence.wrapping_sub(old.received);
    let length = segment.payload as u32 + u32::from(segment.has(FIN));
    let recent = segment.has(ACK) && old.sent.wrapping_sub(segment.acknowledgement) <= old.largest_window;
    let plain = segment.flags & (RST | SYN | URG) == 0;
    let moved_by = |new: Progress, by: u32| {
        assert_eq!(new.received, old.received.wrapping_add(by));
        assert_eq!((new.sent, new.receive_window), (old.sent, old.receive_window));
        assert!(new.largest_window >= old.largest_window && recent && plain && from == 0);
    };
    match verdict {
        Verdict::Deliver(new) => {
            moved_by(new, segment.payload as u32);
            assert!(segment.payload > 0 && !segment.has(FIN) && segment.payload as u32 <= old.receive_window);
        }
        Verdict::PeerEnds(new) => {
            moved_by(new, 1);
            assert!(segment.payload == 0 && segment.has(FIN));
        }
        Verdict::Update(new) => {
            assert_eq!(new.received, old.received);
            assert!(recent && plain && length == 0 && from <= old.receive_window);
        }
        Verdict::Reinject(new) => {
            assert_eq!((new.received, new.sent), (old.received, old.sent));
            assert!(recent && !segment.has(RST) && !segment.has(SYN));
            let inside = (0..length.max(1)).any(|number| from.wrapping_add(number) < old.receive_window);
            assert!(inside || segment.has(URG) && segment.payload == 0 && (from == 0 || from == old.receive_window));
        }
        Verdict::PeerReset => assert!(segment.has(RST) && from == 0),
        Verdict::Acknowledge => assert!(recent && from.cast_signed() < 0),
        Verdict::Challenge(_) | Verdict::Refuse(_) => {}
    }
    for answer in [Answer::acknowledgement, Answer::finish, Answer::probe, Answer::reset] {
        is_readable(answer(old), checkpoint);
    }
}

/// One event of a connection that closes; whether it is not gone.
fn goes_on(closing: &mut Closing, checkpoint: &mut Checkpoint, input: &mut Input<'_>, now: u32) -> bool {
    let (before, old) = (*closing, checkpoint.progress);
    let step = if input.byte() & 3 == 0 {
        closing.expired(checkpoint, now)
    } else {
        let (bytes, whole) = caught(input, checkpoint);
        let Some(segment) = Segment::parse(&bytes, whole) else { return true };
        let tuple = segment.tuple(checkpoint.tuple.remote.ip(), checkpoint.tuple.local.ip());
        let step = closing.heard(checkpoint, &tuple, &segment, now);
        let ago = old.sent.wrapping_add(1).wrapping_sub(segment.acknowledgement);
        let recent = segment.has(ACK) && ago <= old.largest_window;
        if tuple != checkpoint.tuple || !recent && !segment.has(RST) && !segment.has(SYN) {
            assert_eq!((before, old), (*closing, checkpoint.progress));
            assert!(matches!(step, Step::Wait | Step::Challenge(_)));
        }
        let ended = checkpoint.progress.received.wrapping_sub(old.received);
        assert!(ended == 0 || ended == 1 && segment.has(FIN));
        step
    };
    assert_eq!(Progress { received: old.received, ..checkpoint.progress }, old);
    assert!(closing.due_in_ms(now) <= 64_000);
    match step {
        Step::Wait => true,
        Step::Send(answer) | Step::Challenge(answer) => {
            is_readable(answer, checkpoint);
            let after_fin = u32::from(answer.flags & FIN == 0);
            assert_eq!((answer.sequence, answer.flags & RST), (old.sent.wrapping_add(after_fin), 0));
            true
        }
        Step::Gone(answer) => {
            answer.into_iter().for_each(|answer| is_readable(answer, checkpoint));
            false
        }
        Step::Reopen => false,
    }
}

fn is_readable(answer: Answer, checkpoint: &Checkpoint) {
    let mut buffer = [0xff; LONGEST];
    let bytes = answer.write(checkpoint, 7, 9, &mut buffer);
    assert!(checksum_is_right(&checkpoint.tuple, bytes, bytes.len()));
    let segment = Segment::parse(bytes, bytes.len()).unwrap();
    assert_eq!((segment.sequence, segment.flags, segment.payload), (answer.sequence, answer.flags, 0));
    assert_eq!(segment.acknowledgement, checkpoint.progress.received);
    assert_eq!(segment.timestamps.is_some(), checkpoint.negotiated.timestamp_offset.is_some());
}
