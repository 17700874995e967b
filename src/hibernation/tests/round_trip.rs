use core::time::Duration;

use proptest::prelude::*;

use super::super::answer::LONGEST;
use super::super::judge::{Verdict, judge};
use super::super::round_trip::{RoundTrip, peers_acknowledgement};
use super::super::segment::{Segment, Timestamps, checksum_is_right};
use super::*;

/// Each class from its number.
fn classes() -> impl Iterator<Item = RoundTrip> {
    (0..8).map(RoundTrip::of_bits)
}

#[test]
fn classes_double_from_4_ms_to_256_ms() {
    let told = |millis: u64| RoundTrip::of(Duration::from_millis(millis)).time().map(|time| time.as_millis());
    assert_eq!([1, 4, 5, 8, 9, 256].map(told), [2, 2, 6, 6, 14, 254].map(Some));
    assert_eq!([0, 257].map(told), [None; 2]);
    assert_eq!(RoundTrip::of(Duration::from_micros(1)).time(), Some(Duration::from_millis(2)));
    assert_eq!(RoundTrip::default(), RoundTrip::UNKNOWN);
}

/// A time that the kernel was told is measured with an error of 2 ms at most, by clocks that count milliseconds.
#[test]
fn a_class_that_was_told_is_measured_as_itself() {
    for class in classes() {
        assert_eq!(RoundTrip::of_bits(class.bits()), class);
        let Some(time) = class.time() else { continue };
        for error in 0..=2 {
            assert_eq!(RoundTrip::of(time + Duration::from_millis(error)), class, "{class:?}");
        }
    }
}

/// What the kernel makes of a time that it was told and of such a time that it measures, so many times.
fn smoothed(told: Duration, measured: Duration, times: usize) -> Duration {
    (0..times).fold(told, |smoothed, _| (smoothed * 7 + measured) / 8)
}

/// A connection on which a message is answered in each of its wakes comes near the class of its round trips, from any other one.
/// What is told may stay below them by some ms, which is little beside the 200 ms that the kernel waits in any case.
#[test]
fn a_class_follows_the_round_trips_down_and_up() {
    for millis in [1, 3, 7, 20, 100, 250, 400] {
        let measured = Duration::from_millis(millis);
        for mut class in classes() {
            for _ in 0..200 {
                let told = class.time().unwrap_or(measured);
                class = class.after(smoothed(told, measured, 1));
            }
            let is_right = match RoundTrip::of(measured) {
                right if right == RoundTrip::UNKNOWN => class == right,
                right => class.bits().abs_diff(right.bits()) <= 2,
            };
            assert!(is_right, "{class:?} for {measured:?}");
        }
    }
}

proptest! {
    /// What is kept stays what it is when it is written again.
    #[test]
    fn a_class_is_as_it_was_after_its_own_time(bits in 1..8u16) {
        let class = RoundTrip::of_bits(bits);
        prop_assert_eq!(class.after(class.time().unwrap()), class);
    }

    /// What is told for a time is less than twice as long, and 2 ms shorter at most.
    #[test]
    fn a_class_fits_its_times(micros in 4_001..=256_000u64) {
        let measured = Duration::from_micros(micros);
        let told = RoundTrip::of(measured).time().unwrap();
        prop_assert!(told + Duration::from_millis(2) >= measured && told < measured * 2, "{told:?} for {measured:?}");
    }

    /// The peer's acknowledgement is what a peer would write that got all a round trip ago: it acknowledges all, says the
    /// window that the peer said last, and changes nothing else.
    #[test]
    fn the_peers_acknowledgement_is_as_the_peer_would_write_it(
        checkpoint in checkpoints(), bits in 0..8u16, now_ms: u32, seen: u32, garbage: u8,
    ) {
        let mut checkpoint = checkpoint;
        let (send_shift, receive_shift) = checkpoint.negotiated.scales.map_or((0, 0), |scales| (scales.send, scales.receive));
        let progress = &mut checkpoint.progress;
        progress.round_trip = RoundTrip::of_bits(bits).time();
        // A window that a segment can announce.
        progress.send_window = (progress.send_window >> send_shift).min(65_535) << send_shift;
        progress.receive_window = progress.receive_window >> receive_shift << receive_shift;
        let Checkpoint { tuple, negotiated, progress } = checkpoint;
        let mut buffer = [garbage; LONGEST];
        let written = peers_acknowledgement(&checkpoint, now_ms, seen, &mut buffer);
        let expected = progress.round_trip.zip(negotiated.timestamp_offset);
        prop_assert_eq!(written.is_some(), expected.is_some());
        let (Some(bytes), Some((time, offset))) = (written, expected) else { return Ok(()) };
        prop_assert!(checksum_is_right(&tuple, bytes, bytes.len()));
        let segment = Segment::parse(bytes, bytes.len()).unwrap();
        let echo = now_ms.wrapping_add(offset).wrapping_sub(time.as_millis() as u32);
        prop_assert_eq!(segment.timestamps, Some(Timestamps { value: seen, echo }));
        prop_assert_eq!((segment.source, segment.destination), (tuple.remote.port(), tuple.local.port()));
        prop_assert_eq!(judge(&checkpoint, &tuple, &segment), Verdict::Update(progress));
    }
}
