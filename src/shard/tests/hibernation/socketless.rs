//! Short messages of sleeping connections, which need no socket.

use super::*;

impl Night {
    /// The same, in which short messages need no socket.
    pub fn without_sockets(mut self) -> Night {
        self.config.hibernation.as_mut().expect("they sleep").socketless = true;
        self
    }

    /// What was kept for the first connection, which is the one of `peer`, is on its way when the sleepers are handed over
    /// after a second.
    fn pushes_as_it_leaves(&self, peer: usize) {
        self.machine.at(SECOND - MILLI, move |kernel| kernel.delay(peer, 100 * MILLI));
        self.command(SECOND, Command::Push(1));
        self.command(SECOND + 10 * MILLI, Command::HandOver);
        self.machine.at(SECOND + 20 * MILLI, move |kernel| kernel.delay(peer, Duration::ZERO));
    }
}

/// A night of one peer. Short messages need no socket.
fn one(seed: u64, catcher: Catcher) -> (Night, usize) {
    let night = Night::new(seed, 3, 40, catcher).without_sockets();
    let peer = night.come(1, Duration::ZERO, MILLI).start;
    (night, peer)
}

/// A night of so many peers, all of which may be awake at once. Short messages need no socket.
fn crowd(seed: u64, peers: usize, catcher: Catcher) -> (Night, std::ops::Range<usize>) {
    let night = Night::new(seed, peers as u32, peers as u32 + ACCEPTS as u32, catcher).without_sockets();
    let peers = night.come(peers, Duration::ZERO, MILLI / 10);
    (night, peers)
}

/// No connection can be woken, and each is answered and can be sent to.
#[test]
fn short_messages_of_sleepers_need_no_socket() {
    const PEERS: u64 = 50;
    with_seeds(4, |seed| {
        let mut catcher = Catcher::default();
        catcher.faults.restore = 1;
        let (night, peers) = crowd(seed, PEERS as usize, catcher);
        for round in 0..3 {
            for peer in peers.clone() {
                night.say(SECOND * (1 + round), peer, 20);
            }
        }
        night.command(SECOND * 4, Command::Collect);
        for peer in peers.clone() {
            night.say(SECOND * 5, peer, 1);
        }
        night.command(SECOND * 6, Command::PushAll);
        let (machine, seen) = night.run(7 * SECOND);
        assert_eq!(peers.map(|peer| missing(&machine, peer)).sum::<usize>(), 0, "{:?}", seen.counters);
        let Snapshot { woken_by_peer, woken_by_send, woken_without_socket, segments_dropped, messages, .. } =
            seen.counters;
        assert_eq!((woken_by_peer, woken_by_send, woken_without_socket), (4 * PEERS, PEERS, 5 * PEERS));
        assert_eq!((messages, segments_dropped), (4 * PEERS, 0));
        assert_eq!((seen.counters.bytes_in, seen.counters.bytes_out), (61 * PEERS, 61 * PEERS));
    });
}

/// A peer that says more within the silence after which connections sleep is one that talks: it gets a socket.
#[test]
fn the_second_message_in_a_short_time_wakes() {
    with_seeds(4, |seed| {
        let (night, peer) = one(seed, Catcher::default());
        for at in [SECOND, SECOND + AFTER / 2, 3 * SECOND] {
            night.say(at, peer, 10);
        }
        let (machine, seen) = night.run(4 * SECOND);
        assert_eq!((seen.counters.woken_by_peer, seen.counters.woken_without_socket), (3, 2));
        assert_eq!(missing(&machine, peer), 0);
    });
}

/// What one segment cannot carry wakes the connection, and nothing of it is lost.
#[test]
fn long_messages_wake() {
    with_seeds(4, |seed| {
        for (bytes, without) in [(400, 1), (1_181, 0), (20_000, 0)] {
            let (night, peer) = one(seed, Catcher::default());
            night.say(SECOND, peer, bytes);
            let (machine, seen) = night.run(3 * SECOND);
            assert_eq!(missing(&machine, peer), 0, "{bytes} bytes");
            let Snapshot { woken_by_peer, woken_by_send, woken_without_socket, .. } = seen.counters;
            assert!(woken_by_peer >= 1 && woken_by_send == 0, "{bytes} bytes: {:?}", seen.counters);
            assert_eq!(woken_without_socket, without, "{bytes} bytes");
        }
    });
}

/// An answer that is lost is sent again by a socket, which is made for that.
#[test]
fn answers_that_are_lost_come_again() {
    const PEERS: usize = 200;
    with_seeds(4, |seed| {
        let mut catcher = Catcher::default();
        catcher.network.lost = 4;
        let (night, peers) = crowd(seed, PEERS, catcher);
        for (nth, peer) in peers.clone().enumerate() {
            night.say(SECOND + MILLI * nth as u32, peer, 10);
        }
        // In the ordinary course an answer takes less than a millisecond, and one of four segments is lost.
        let (machine, seen) = night.run(60 * SECOND);
        assert_eq!(peers.map(|peer| missing(&machine, peer)).sum::<usize>(), 0, "{:?}", seen.counters);
        assert!(seen.counters.woken_by_send > 0, "none was sent again: {:?}", seen.counters);
    });
}

/// A driver that closes a connection with what it answers, in whatever way, sends the answer before the end. Only a reset
/// drops it.
#[test]
fn what_was_sent_goes_before_the_end() {
    with_seeds(8, |seed| {
        for mode in [CloseMode::Graceful, CloseMode::Lingering, CloseMode::Immediate] {
            for after in [0, 1, 50, 400] {
                let mut catcher = Catcher::default();
                catcher.network.lost = [0, 3][seed as usize % 2];
                let (night, peer) = one(seed, catcher);
                night.command(2 * MILLI, Command::Collect);
                night.say(SECOND, peer, 10);
                night.command(30 * SECOND, Command::Push(1));
                night.command(30 * SECOND + MILLI / 10 * after, Command::Close(1, mode));
                let (machine, seen) = night.run(90 * SECOND);
                assert_eq!(missing(&machine, peer), 0, "{mode:?}, {after}: {:?}", (&seen.ended, seen.counters));
                assert_eq!(seen.ended.len(), 1);
            }
        }
    });
}

/// How the end of a connection comes about: by its peer, or by a close.
const ENDS: [Option<CloseMode>; 5] =
    [None, Some(CloseMode::Graceful), Some(CloseMode::Lingering), Some(CloseMode::Immediate), Some(CloseMode::Abort)];

/// An acknowledgement that comes after its message was recalled counts, and is not taken for a forged one. A connection that
/// cannot be woken ends with the right number, as soon as its peer is known to have all.
#[test]
fn an_acknowledgement_that_comes_late_counts() {
    const SENT: Duration = SECOND;
    /// By now the message is recalled. The acknowledgement comes at `COMES`.
    const RECALLED: Duration = Duration::from_millis(2_200);
    const COMES: Duration = Duration::from_millis(2_500);
    with_seeds(4, |seed| {
        for (how, before) in ENDS.into_iter().flat_map(|how| [(how, true), (how, false)]) {
            let mut catcher = Catcher::default();
            catcher.faults.restore = 1;
            let (night, peer) = one(seed, catcher);
            night.command(2 * MILLI, Command::Collect);
            night.say(10 * MILLI, peer, 10);
            night.machine.at(SENT - MILLI, move |kernel| kernel.delay(peer, COMES - SENT));
            night.command(SENT, Command::Push(1));
            night.machine.at(SENT + MILLI, move |kernel| kernel.delay(peer, Duration::ZERO));
            let ends = if before { RECALLED } else { COMES + 500 * MILLI };
            match how {
                Some(mode) => night.command(ends, Command::Close(1, mode)),
                None => night.machine.at(ends, move |kernel| kernel.fin(peer)),
            }
            let (machine, seen) = night.run(4 * SECOND);
            let told = format!("{how:?} {before}: {:?}", (&seen.ended, seen.counters));
            assert_eq!((seen.counters.segments_outside, missing(&machine, peer)), (0, 0), "{told}");
            assert_eq!((seen.counters.woken_by_send, seen.counters.woken_without_socket), (1, 1), "{told}");
            assert_eq!(seen.counters.bytes_out, 10, "{told}");
            let [(at, _, reason)] = seen.ended[..] else { panic!("{told}") };
            assert_eq!(reason, if how.is_none() { CloseReason::PeerClosed } else { CloseReason::Local }, "{told}");
            // A close in order waits for the acknowledgement, which the FIN of the peer brings along.
            let waits = before && how.is_some_and(|mode| mode != CloseMode::Abort);
            let due = if waits { COMES } else { ends };
            assert!((due..due + 50 * MILLI).contains(&at), "{told}");
            let (ending, at) =
                machine.kernel(|kernel| (kernel.sockets[peer].ended.map(|(how, _)| how), kernel.ended(peer)));
            let expected = if how == Some(CloseMode::Abort) { Ending::Reset } else { Ending::Fin };
            assert_eq!(ending, Some(expected), "{told}");
            assert!(at.is_some_and(|at| (due..due + 50 * MILLI).contains(&at)), "at {at:?}, {told}");
            // Where it goes on, its driver is told that all was sent.
            assert_eq!(seen.sent, u64::from(!before), "{told}");
        }
    });
}

/// The same where the connection was handed over in between, and comes back.
#[test]
fn an_acknowledgement_that_comes_after_a_handover_counts() {
    with_seeds(4, |seed| {
        let mut catcher = Catcher::default();
        catcher.faults.restore = 1;
        let (mut night, peer) = one(seed, catcher);
        night.share_entries();
        night.command(2 * MILLI, Command::Collect);
        night.say(10 * MILLI, peer, 10);
        night.pushes_as_it_leaves(peer);
        night.command(2 * SECOND, Command::Inherit);
        night.machine.at(3 * SECOND, move |kernel| kernel.fin(peer));
        let (machine, seen) = night.run(4 * SECOND);
        let Snapshot { segments_outside, lost_in_takeover, .. } = seen.counters;
        assert_eq!((segments_outside, lost_in_takeover, missing(&machine, peer)), (0, 0, 0));
        assert_eq!((seen.sent, seen.ended_by(3 * SECOND + 50 * MILLI)), (1, 1), "{:?}", seen.ended);
    });
}

/// While a connection is closed at once, and waits for what its peer was sent, it is given up soon if the shard is to end.
#[test]
fn the_end_of_a_shard_does_not_wait_long_for_an_acknowledgement() {
    with_seeds(2, |seed| {
        let mut catcher = Catcher::default();
        catcher.faults.restore = 1;
        let (night, peer) = one(seed, catcher);
        night.command(2 * MILLI, Command::Collect);
        night.say(10 * MILLI, peer, 10);
        night.machine.at(SECOND - MILLI, move |kernel| kernel.cut(peer));
        night.command(SECOND, Command::Push(1));
        let (_, seen) = night.run(3 * SECOND);
        let [(at, ..)] = seen.ended[..] else { panic!("{:?}", seen.ended) };
        assert!((10 * SECOND..12 * SECOND).contains(&at), "it ended at {at:?}");
    });
}

/// What a driver sends in answer to a message of a sleeper is pending, and it is told when all of that was sent: without a
/// socket, with one that is made for it, and once a slot is free.
#[test]
fn a_driver_is_told_when_its_answer_was_sent() {
    with_seeds(4, |seed| {
        for (bytes, free) in [100, 101, 1_300, 1_301].into_iter().flat_map(|bytes| [(bytes, true), (bytes, false)]) {
            let mut catcher = Catcher::default();
            catcher.faults.restore = usize::from(!free);
            let (night, peer) = one(seed, catcher);
            night.command(MILLI, Command::Watch);
            night.say(SECOND, peer, bytes);
            night.machine.at(2 * SECOND, |kernel| kernel.catcher.as_mut().expect("they sleep").faults.restore = 0);
            let (machine, seen) = night.run(4 * SECOND);
            let told = format!("{bytes} bytes, {free}: {:?}", seen.counters);
            assert_eq!((seen.sent, missing(&machine, peer)), (1, 0), "{told}");
            let without = u64::from(bytes < 1_000);
            assert_eq!((seen.counters.woken_by_peer, seen.counters.woken_without_socket), (1, without), "{told}");
        }
    });
}

/// A driver that closes a connection when it is told of the wake gets nothing of what woke it.
#[test]
fn what_woke_a_connection_that_is_closed_is_dropped() {
    with_seeds(4, |seed| {
        for mode in [CloseMode::Graceful, CloseMode::Lingering, CloseMode::Immediate, CloseMode::Abort] {
            let (night, peer) = one(seed, Catcher::default());
            night.command(MILLI, Command::CloseAtWake(mode));
            night.say(SECOND, peer, 10);
            let (_, seen) = night.run(3 * SECOND);
            let Snapshot { messages, bytes_in, woken_by_peer, woken_without_socket, .. } = seen.counters;
            assert_eq!((messages, bytes_in, woken_by_peer, woken_without_socket), (0, 0, 1, 1), "{mode:?}");
            assert_eq!(seen.ended_by(SECOND + 10 * MILLI), 1, "{mode:?}");
        }
    });
}

/// While every slot is taken, a sleeper that talks has its messages without a socket too.
#[test]
fn while_no_slot_is_free_the_second_message_needs_none() {
    with_seeds(4, |seed| {
        let night = Night::new(seed, 1, 2, Catcher::default()).without_sockets();
        let [talker, sleeper] = [Duration::ZERO, MILLI].map(|at| night.come(1, at, Duration::ZERO).start);
        for nth in 0..200 {
            night.say(10 * MILLI * (nth + 1), talker, 1);
        }
        for nth in 0..4 {
            night.say(SECOND + AFTER / 4 * nth, sleeper, 10);
        }
        night.command(SECOND + AFTER, Command::Collect);
        night.say(SECOND + AFTER + MILLI, sleeper, 2);
        for nth in 0..2 {
            night.command(SECOND + AFTER + 20 * MILLI * (nth + 1), Command::PushOne(2));
        }
        let (machine, seen) = night.run(2 * SECOND);
        assert_eq!(missing(&machine, sleeper), 0);
        let last = machine.kernel(|kernel| *kernel.heard(sleeper).last().expect("it hears something"));
        assert!(last < SECOND + AFTER + 45 * MILLI, "it waits until {last:?}");
        let Snapshot { segments_dropped, woken_by_peer, woken_by_send, woken_without_socket, .. } = seen.counters;
        assert_eq!((segments_dropped, woken_by_peer, woken_by_send, woken_without_socket), (0, 5, 2, 7));
    });
}

/// A process that has given its sleepers away says nothing any more of what wakes the one that has them. `inherit` compares.
#[test]
fn a_process_without_sleepers_does_not_say_what_wakes() {
    with_seeds(2, |seed| {
        let (mut night, peer) = one(seed, Catcher::default());
        night.share_entries();
        night.command(2 * MILLI, Command::Collect);
        night.say(10 * MILLI, peer, 10);
        night.pushes_as_it_leaves(peer);
        night.command(2 * SECOND, Command::Inherit);
        let (machine, _) = night.run(4 * SECOND);
        assert_eq!(missing(&machine, peer), 0);
    });
}

/// What is on its way when the sleepers are handed over goes along, and what the other process has not sent comes back.
#[test]
fn a_handover_loses_nothing_that_is_on_its_way() {
    const PEERS: usize = 40;
    with_seeds(8, |seed| {
        let mut catcher = Catcher::default();
        catcher.network.lost = 3;
        let (mut night, peers) = crowd(seed, PEERS, catcher);
        night.share_entries();
        night.command(10 * MILLI, Command::Collect);
        for peer in peers.clone() {
            night.say(10 * SECOND, peer, 10);
        }
        night.command(40 * SECOND, Command::PushAll);
        // Some answers are acknowledged, some are on their way, and some are lost.
        night.command(40 * SECOND + 2 * MILLI + MILLI / 10 * (seed % 8) as u32, Command::GiveAllBut(1));
        night.command(41 * SECOND, Command::TakeBack);
        let (machine, seen) = night.run(100 * SECOND);
        let first = peers.start;
        assert_eq!(peers.filter(|peer| *peer != first).map(|peer| missing(&machine, peer)).sum::<usize>(), 0);
        assert!(seen.counters.woken_without_socket > 0, "{:?}", seen.counters);
    });
}

/// Peers talk seldom or often, a little or much, over a network that loses, doubles and delays segments, and that the
/// kernel has no memory for. The driver answers at once or later, whole or in parts. Each peer hears all that it said.
fn conversation(seed: u64) -> Kept {
    const PEERS: usize = 40;
    const END: Duration = Duration::from_secs(12);
    let mut chance = Chance(mixed(!seed));
    let mut rare = || if chance.one_in(2) { 0 } else { 5 + chance.below(60) };
    let mut catcher = Catcher::default();
    catcher.faults = Faults {
        copy: rare(),
        insert: rare(),
        checkpoint: rare(),
        restore: rare(),
        send: rare(),
        same_hash: rare(),
        ..Faults::default()
    };
    catcher.network = Network { lost: rare(), twice: rare(), jitter: MILLI * (seed % 3) as u32, never_closes: false };
    catcher.records = [30, 4_096][chance.below(2)];
    let slots = [10, PEERS as u32][chance.below(2)];
    let night = Night::new(seed, slots, PEERS as u32 + ACCEPTS as u32, catcher).without_sockets();
    let peers = night.come(PEERS, Duration::ZERO, 20 * MILLI);
    for peer in peers.clone() {
        let mut at = chance.time(SECOND);
        while at < END {
            let most = if chance.one_in(10) { 9_000 } else { 50 };
            let bytes = 1 + chance.below(most);
            match chance.below(40) {
                0..=1 => night.machine.at(at, move |kernel| kernel.probe(peer)),
                2..=3 => night.machine.at(at, move |kernel| kernel.forge(peer)),
                4..=7 => night.command(at, Command::Collect),
                8..=11 => night.command(at, Command::Echo),
                12 => night.command(at, Command::PushAll),
                13..=18 => night.command(at, Command::Push(1 + chance.below(PEERS) as u32)),
                19 => night.command(at, Command::Pause(1 + chance.below(PEERS) as u32)),
                _ => night.say(at, peer, bytes),
            }
            at += chance.time(8 * AFTER);
        }
    }
    night.command(END, Command::Echo);
    night.command(END + MILLI, Command::PushAll);
    // A segment that is lost several times in a row comes again late.
    let end = END + 60 * SECOND;
    let (machine, seen) = night.run(end);
    assert!(seen.ended.iter().all(|(at, ..)| *at >= end), "{:?}", seen.ended);
    for peer in peers {
        assert_eq!(missing(&machine, peer), 0, "peer {peer}: {:?}", seen.counters);
    }
    seen
}

#[test]
fn whatever_is_said_in_a_sleep_is_heard() {
    let sum = RefCell::new(Snapshot::default());
    with_seeds(60, |seed| {
        let seen = conversation(seed);
        let before = *sum.borrow();
        *sum.borrow_mut() = before + seen.counters;
    });
    let Snapshot { woken_by_peer, woken_by_send, woken_without_socket, .. } = sum.into_inner();
    let all = std::env::var_os("C1M_SIM_SEED").is_none();
    let with_socket = woken_by_peer + woken_by_send - woken_without_socket;
    assert!(
        !all || with_socket.min(woken_without_socket) > 500,
        "too little happens: {with_socket} {woken_without_socket}"
    );
}
