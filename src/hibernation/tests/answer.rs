use proptest::prelude::*;

use super::super::answer::{Answer, LONGEST};
use super::super::judge::{Verdict, judge};
use super::super::segment::{ACK, FIN, RST, Segment, Timestamps, checksum_is_right};
use super::*;

/// The other end of a connection, which has the same view of it.
fn peer_of(checkpoint: &Checkpoint) -> Checkpoint {
    let Checkpoint { tuple, negotiated, progress } = *checkpoint;
    Checkpoint {
        tuple: Tuple { remote: tuple.local, local: tuple.remote },
        negotiated: Negotiated {
            scales: negotiated.scales.map(|scales| Scales { send: scales.receive, receive: scales.send }),
            ..negotiated
        },
        progress: Progress {
            received: progress.sent,
            sent: progress.received,
            send_window: progress.receive_window,
            receive_window: progress.send_window,
            largest_window: progress.receive_window.max(1),
            ..progress
        },
    }
}

fn written(answer: Answer, checkpoint: &Checkpoint) -> Segment {
    let mut buffer = [0xa5; LONGEST];
    let bytes = answer.write(checkpoint, 1, 2, &mut buffer);
    Segment::parse(bytes, bytes.len()).unwrap()
}

proptest! {
    #[test]
    fn an_answer_reads_as_it_was_meant(
        checkpoint in checkpoints(), flags: u8, sequence: u32, now_ms: u32, echo: u32, garbage: u8,
    ) {
        let mut buffer = [garbage; LONGEST];
        let bytes = Answer { flags, sequence }.write(&checkpoint, now_ms, echo, &mut buffer);
        let Checkpoint { tuple, negotiated, progress } = checkpoint;
        let shift = negotiated.scales.map_or(0, |scales| scales.receive);
        let expected = Segment {
            source: tuple.local.port(),
            destination: tuple.remote.port(),
            sequence,
            acknowledgement: progress.received,
            flags,
            window: (progress.receive_window >> shift).min(65_535) as u16,
            timestamps: negotiated
                .timestamp_offset
                .map(|offset| Timestamps { value: now_ms.wrapping_add(offset), echo }),
            header: if negotiated.timestamp_offset.is_some() { 32 } else { 20 },
            payload: 0,
        };
        prop_assert_eq!(Segment::parse(bytes, bytes.len()), Some(expected));
        prop_assert_eq!(&bytes[18..20], &[0, 0], "the urgent pointer");
        prop_assert!(checksum_is_right(&tuple, bytes, bytes.len()));
        let (mut zeroed, checksum) = (bytes.to_vec(), u16::from_be_bytes([bytes[16], bytes[17]]));
        zeroed[16..18].fill(0);
        prop_assert_eq!(checksum, naive_checksum(&tuple, &zeroed, zeroed.len()));
    }

    /// Each kind of answer has for the peer, if it sleeps too, the effect that it is meant to have.
    #[test]
    fn a_peer_that_sleeps_understands_each_answer(checkpoint in checkpoints()) {
        let (peer, progress) = (peer_of(&checkpoint), checkpoint.progress);
        let judged = |answer| judge(&peer, &peer.tuple, &written(answer, &checkpoint));
        prop_assert!(matches!(judged(Answer::acknowledgement(&progress)), Verdict::Update(_)));
        prop_assert!(matches!(judged(Answer::finish(&progress)), Verdict::PeerEnds(_)));
        prop_assert_eq!(judged(Answer::probe(&progress)), Verdict::Acknowledge);
        prop_assert_eq!(judged(Answer::reset(&progress)), Verdict::PeerReset);
    }

    /// Two ends that disagree about the connection, by however little, must not answer each other for ever.
    #[test]
    fn answers_without_a_limit_are_not_answered_without_a_limit(
        checkpoint in checkpoints(), received in -3..=3i32, sent in -3..=3i32, window in 0..10u32,
    ) {
        let mut peer = peer_of(&checkpoint);
        peer.progress.received = peer.progress.received.wrapping_add_signed(received);
        peer.progress.sent = peer.progress.sent.wrapping_add_signed(sent);
        peer.progress.largest_window = window;
        let answer = |of: &Checkpoint| written(Answer::acknowledgement(&of.progress), of);
        let peers = judge(&peer, &peer.tuple, &answer(&checkpoint));
        let ours = judge(&checkpoint, &checkpoint.tuple, &answer(&peer));
        prop_assert!(!(peers == Verdict::Acknowledge && ours == Verdict::Acknowledge));
    }
}

#[test]
fn answers_have_the_flags_of_their_kind() {
    let progress = plain().progress;
    assert_eq!(Answer::acknowledgement(&progress), Answer { flags: ACK, sequence: 5_000 });
    assert_eq!(Answer::finish(&progress), Answer { flags: ACK | FIN, sequence: 5_000 });
    assert_eq!(Answer::probe(&progress), Answer { flags: ACK, sequence: 4_999 });
    assert_eq!(Answer::reset(&progress), Answer { flags: ACK | RST, sequence: 5_000 });
}
