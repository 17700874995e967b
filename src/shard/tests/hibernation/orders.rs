//! What may happen to a connection, in every order, and to many at random.

use proptest::prelude::*;

use super::*;

/// What happens to a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Its peer says something, which is answered.
    Say,
    /// Its peer says something, which is kept.
    SayToKeep,
    /// What was kept is sent back.
    Push,
    /// Its peer asks whether it still exists.
    Probe,
    /// A segment comes that its peer did not send.
    Forge,
    Fin,
    Reset,
    Close(CloseMode),
    /// Nothing, until it sleeps.
    Rest,
    /// Others take all free slots.
    FillSlots,
}

const STEPS: [Step; 12] = [
    Step::Say,
    Step::SayToKeep,
    Step::Push,
    Step::Probe,
    Step::Forge,
    Step::Fin,
    Step::Reset,
    Step::Close(CloseMode::Graceful),
    Step::Close(CloseMode::Immediate),
    Step::Close(CloseMode::Abort),
    Step::Rest,
    Step::FillSlots,
];

/// Has steps happen to the first connection, each a gap after the one before.
fn one_connection(seed: u64, catcher: Catcher, steps: &[(Step, Duration)]) -> Kept {
    const OTHERS: u32 = 3;
    // A full ring buffer and a host without memory lose segments too.
    let loses = catcher.network.lost > 0 || catcher.records < 16 || catcher.faults.send > 0;
    let comes_again = loses || catcher.faults.restore > 0;
    // Where the table has no place for the others, they keep their slots for ever.
    let slots = if catcher.places == 1 { 40 } else { OTHERS };
    let night = Night::new(seed, slots, 40, catcher);
    let peer = night.come(1, Duration::ZERO, MILLI).start;
    let mut at = MILLI;
    let mut pushed = true;
    let mut spoken = Vec::new();
    for (step, gap) in steps {
        at += *gap;
        match *step {
            Step::Say => {
                night.command(at, Command::Echo);
                night.say(at + MILLI / 10, peer, 3);
                pushed = true;
            }
            Step::SayToKeep => {
                night.command(at, Command::Collect);
                night.say(at + MILLI / 10, peer, 3);
                pushed = false;
            }
            Step::Push => {
                night.command(at, Command::Push(1));
                pushed = true;
            }
            Step::Probe => night.machine.at(at, move |kernel| kernel.probe(peer)),
            Step::Forge => night.machine.at(at, move |kernel| kernel.forge(peer)),
            Step::Fin => night.machine.at(at, move |kernel| kernel.fin(peer)),
            Step::Reset => night.machine.at(at, move |kernel| kernel.reset(peer)),
            Step::Close(mode) => night.command(at, Command::Close(1, mode)),
            Step::Rest => at += ASLEEP,
            Step::FillSlots => spoken.extend(night.come(OTHERS as usize, at, MILLI / 100)),
        }
    }
    // What was kept last is pushed last; everything is heard by the end. A segment that gets lost, or that finds no
    // memory for its connection to wake, comes again after 2 s at most. That happens to one in three, and not to 30 in a
    // row.
    let end = at + SECOND * if comes_again { 60 } else { 5 };
    night.command(at + SECOND, Command::Echo);
    night.command(at + SECOND + MILLI, Command::PushAll);
    let (machine, seen) = night.run(end);
    let left = missing(&machine, peer);
    let ended = seen.ended.iter().find(|(at, number, _)| *number == 1 && *at < end).map(|(.., reason)| *reason);
    let closes = steps.iter().any(|(step, _)| matches!(step, Step::Fin | Step::Reset | Step::Close(_)));
    // A reset may be lost. What its peer had said then is not sent again.
    let may_be_gone = loses && steps.iter().any(|(step, _)| *step == Step::Reset);
    assert!(ended.is_some() == closes || closes && loses, "{ended:?}");
    assert!(left == 0 || ended.is_some() || may_be_gone, "{left} bytes are lost (pushed {pushed})");
    seen
}

/// Every order of three steps. The connection sleeps before the first one, and may sleep between them.
#[test]
fn a_few_steps_in_every_order_lose_nothing() {
    let mut moved = (0, 0);
    let gaps = [MILLI, ASLEEP];
    for first in STEPS {
        for second in STEPS {
            for third in STEPS {
                for ways in 0..4 {
                    let steps = [(first, ASLEEP), (second, gaps[ways & 1]), (third, gaps[ways >> 1])];
                    let seed = ways as u64;
                    let seen = std::panic::catch_unwind(|| one_connection(seed, Catcher::default(), &steps));
                    let seen = seen.unwrap_or_else(|_| panic!("these steps: {steps:?}"));
                    moved = (moved.0 + seen.slept, moved.1 + seen.woke);
                }
            }
        }
    }
    assert!(moved.0 > 1_000 && moved.1 > 1_000, "too little happens: {moved:?}");
}

fn steps() -> impl Strategy<Value = Vec<(Step, Duration)>> {
    // Around the time at which it is put to sleep every microsecond may matter.
    let gap = prop_oneof![
        (0..3_000u64).prop_map(Duration::from_micros),
        (190_000..290_000u64).prop_map(Duration::from_micros),
        Just(ASLEEP),
    ];
    prop::collection::vec((prop::sample::select(STEPS.to_vec()), gap), 1..14)
}

/// A network and a host with any faults that lose nothing for good.
fn catchers() -> impl Strategy<Value = Catcher> {
    let rare = || prop_oneof![3 => Just(0usize), 1 => 3..12usize];
    let network = (rare(), rare(), 0..2_000u64);
    let faults = (rare(), rare(), rare(), rare(), rare(), rare());
    (network, faults, 0..3usize, 1..40usize, 0..30u64).prop_map(|(network, faults, places, records, grace)| {
        let mut catcher = Catcher::default();
        let (lost, twice, jitter) = (network.0, network.1, Duration::from_micros(network.2));
        catcher.network = Network { lost, twice, jitter, ..Network::default() };
        catcher.faults = Faults {
            copy: faults.0,
            insert: faults.1,
            checkpoint: faults.2,
            restore: faults.3,
            send: faults.4,
            same_hash: faults.5,
            ..Faults::default()
        };
        catcher.places = if places == 0 { 1 } else { usize::MAX };
        (catcher.records, catcher.grace) = (records, Some(Duration::from_millis(grace)));
        catcher
    })
}

proptest! {
    /// Many steps at any times, while segments are lost, doubled and overtaken, and the host refuses this and that.
    #[test]
    fn many_steps_lose_nothing(seed: u64, steps in steps(), catcher in catchers()) {
        one_connection(seed, catcher, &steps);
    }
}

/// The last bytes of a peer that then resets its connection may be lost on the host's own way to the socket. The RST behind
/// that gap is challenged, and comes again.
#[test]
fn a_reset_behind_lost_bytes_ends_the_connection() {
    with_seeds(200, |seed| {
        let mut catcher = Catcher::default();
        (catcher.places, catcher.grace) = (1, Some(Duration::ZERO));
        catcher.network.jitter = MILLI / 4;
        catcher.faults.send = 2;
        let gap = Duration::from_micros(198_000 + 10 * (seed % 200));
        one_connection(seed, catcher, &[(Step::Say, gap), (Step::Reset, MILLI / 4)]);
    });
}

/// Where the descriptors of closed slots are released late, a close begins with a shutdown. That of a sleeper's slot does
/// not: its socket may serve another connection later. The simulated kernel watches that.
#[test]
fn the_socket_of_a_sleeper_is_not_shut_down() {
    let night = Night::new(1, 3, 40, Catcher::default());
    night.machine.kernel(|kernel| kernel.releases_slots_late = true);
    let peer = night.come(1, Duration::ZERO, MILLI).start;
    night.say(SECOND, peer, 3);
    let (machine, seen) = night.run(2 * SECOND);
    assert_eq!((seen.slept, seen.woke, missing(&machine, peer)), (2, 1, 0));
}

/// A night in which one of two wakes fails at random, with a sleeper for which bytes can wait. Returns the sleeper's peer too.
fn wakes_fail(seed: u64) -> (Night, usize) {
    let mut catcher = Catcher::default();
    catcher.faults.restore = 2;
    let night = Night::new(seed, 3, 40, catcher);
    let peer = night.come(1, Duration::ZERO, MILLI).start;
    night.command(MILLI, Command::Collect);
    night.say(2 * MILLI, peer, 3);
    (night, peer)
}

/// Bytes for a sleeper that cannot be woken go to it soon, also where nothing else happens on the shard.
#[test]
fn bytes_that_had_to_wait_need_no_other_event() {
    with_seeds(20, |seed| {
        let (night, peer) = wakes_fail(seed);
        night.command(SECOND, Command::Push(1));
        let (machine, seen) = night.run(10 * SECOND);
        assert_eq!(missing(&machine, peer), 0, "{:?}", seen.counters);
    });
}

/// What ends a connection for which bytes wait, in order.
const ENDS: [Step; 3] = [Step::Fin, Step::Close(CloseMode::Graceful), Step::Close(CloseMode::Lingering)];

/// Bytes for a sleeper that cannot be woken at once go before its end, whichever side ends it.
#[test]
fn bytes_that_had_to_wait_go_before_the_end() {
    with_seeds(20, |seed| {
        for end in ENDS {
            let (night, peer) = wakes_fail(seed);
            night.command(SECOND, Command::PushOne(1));
            night.command(SECOND, Command::PushOne(1));
            match end {
                Step::Close(mode) => {
                    night.command(SECOND, Command::Close(1, mode));
                    // It was closed before.
                    night.command(SECOND, Command::PushOne(1));
                    night.command(SECOND + MILLI, Command::Close(1, CloseMode::Graceful));
                }
                _ => night.machine.at(SECOND, move |kernel| kernel.fin(peer)),
            }
            let (machine, seen) = night.run(60 * SECOND);
            assert_eq!(missing(&machine, peer), 1, "{end:?}: {:?}", (&seen.ended, seen.counters));
            let reason = if end == Step::Fin { CloseReason::PeerClosed } else { CloseReason::Local };
            assert_eq!(seen.ended.iter().map(|(.., reason)| *reason).collect::<Vec<_>>(), [reason], "{end:?}");
        }
    });
}

/// Bytes for a sleeper that cannot be woken, and its close behind them, come back with it from a process that was killed.
#[test]
fn bytes_that_had_to_wait_come_back() {
    with_seeds(4, |seed| {
        let mut catcher = Catcher::default();
        catcher.faults.restore = 1;
        let mut night = Night::new(seed, 3, 40, catcher);
        night.share_entries();
        let peer = night.come(1, Duration::ZERO, MILLI).start;
        night.command(MILLI, Command::Collect);
        night.say(2 * MILLI, peer, 3);
        night.command(SECOND, Command::Push(1));
        night.command(SECOND, Command::Close(1, CloseMode::Lingering));
        night.command(2 * SECOND, Command::HandOver);
        night.machine.at(3 * SECOND, |kernel| kernel.catcher.as_mut().expect("they sleep").faults.restore = 0);
        night.command(3 * SECOND, Command::Inherit);
        let (machine, seen) = night.run(60 * SECOND);
        assert_eq!(missing(&machine, peer), 0, "{:?}", seen.counters);
        assert_eq!((seen.ended_by(3 * SECOND), seen.ended_by(10 * SECOND)), (0, 1), "{:?}", seen.ended);
    });
}

/// One that is to be closed once its bytes are sent is closed at once where that is wanted later, and its driver is told
/// of the first reason.
#[test]
fn a_close_at_once_does_not_wait_for_the_bytes() {
    for mode in [CloseMode::Immediate, CloseMode::Abort] {
        let mut catcher = Catcher::default();
        catcher.faults.restore = 1;
        let night = Night::new(1, 3, 40, catcher);
        let peer = night.come(1, Duration::ZERO, MILLI).start;
        night.command(MILLI, Command::Collect);
        night.say(2 * MILLI, peer, 3);
        for command in [Command::Push(1), Command::Close(1, CloseMode::Graceful)] {
            night.command(SECOND, command);
        }
        night.command(2 * SECOND, Command::Close(1, mode));
        let (machine, seen) = night.run(5 * SECOND);
        assert_eq!((seen.ended_by(2 * SECOND - MILLI), seen.ended_by(2 * SECOND + 10 * MILLI)), (0, 1), "{mode:?}");
        assert_eq!(missing(&machine, peer), 3);
    }
}

/// What is sent while a receive is under way that finds the peer's FIN goes before ours.
#[test]
fn bytes_that_are_sent_as_a_fin_comes_go_before_the_end() {
    with_seeds(40, |seed| {
        let night = Night::new(seed, 3, 40, Catcher::default());
        let peers = night.come(2, Duration::ZERO, MILLI / 100);
        let (to, from) = (peers.start, peers.start + 1);
        night.command(MILLI, Command::Collect);
        night.say(10 * MILLI, to, 3);
        night.command(20 * MILLI, Command::PushAtNext(1));
        night.say(30 * MILLI, from, 3);
        night.machine.at(30 * MILLI, move |kernel| kernel.fin(to));
        night.command(100 * MILLI, Command::Push(2));
        let (machine, seen) = night.run(SECOND);
        let (_, number, reason) = seen.ended[0];
        // The FIN may be received before.
        assert_eq!((number, reason, missing(&machine, to)), (1, CloseReason::PeerClosed, seen.unsent));
    });
}

/// Bytes that wait for a slot go before those that are sent once a pause of reads has woken their connection, also where
/// others have waited for longer.
#[test]
fn bytes_that_had_to_wait_go_with_a_wake_by_a_pause() {
    const ROUNDS: u32 = 20;
    with_seeds(8, |seed| {
        let mut catcher = Catcher::default();
        catcher.faults.restore = 2;
        let night = Night::new(seed, 3, 40, catcher);
        let peers = night.come(2, Duration::ZERO, MILLI);
        for nth in 0..ROUNDS {
            let at = 10 * MILLI + (SECOND + ASLEEP) * nth;
            night.command(at, Command::Collect);
            for peer in peers.clone() {
                night.say(at, peer, 3);
            }
            let asleep = at + SECOND;
            for command in [Command::Echo, Command::Push(1), Command::Push(2), Command::Pause(2)] {
                night.command(asleep, command);
            }
            night.say(asleep, peers.end - 1, 2);
        }
        // A segment that is dropped several times in a row comes again late.
        let (machine, seen) = night.run((SECOND + ASLEEP) * ROUNDS + 60 * SECOND);
        assert_eq!(peers.map(|peer| missing(&machine, peer)).sum::<usize>(), 0, "{:?}", seen.counters);
    });
}

/// Bytes for a sleeper that cannot be woken are kept, and go before those that are sent once its peer has woken it.
#[test]
fn bytes_that_had_to_wait_go_first() {
    const ROUNDS: u32 = 20;
    with_seeds(4, |seed| {
        for bytes in [3, 2 * BUFFER_BYTES] {
            let mut catcher = Catcher::default();
            catcher.faults.restore = 2;
            let night = Night::new(seed, 3, 40, catcher);
            let peer = night.come(1, Duration::ZERO, MILLI).start;
            let round = SECOND + ASLEEP;
            for nth in 0..ROUNDS {
                let at = MILLI + round * nth;
                night.command(at, Command::Collect);
                night.say(at, peer, bytes);
                let asleep = at + SECOND;
                night.command(asleep, Command::Echo);
                night.command(asleep, Command::Push(1));
                night.say(asleep, peer, 2);
            }
            let (machine, seen) = night.run(round * ROUNDS + 5 * SECOND);
            let Snapshot { woken_by_peer, woken_by_send, segments_dropped, .. } = seen.counters;
            assert!(
                woken_by_peer.min(woken_by_send).min(segments_dropped) > 0,
                "too little happens: {:?}",
                seen.counters
            );
            assert_eq!(missing(&machine, peer), 0, "{:?}", (&seen.ended, seen.counters));
        }
    });
}
