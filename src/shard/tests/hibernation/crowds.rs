//! Many connections that sleep and wake.

use std::collections::HashSet;

use super::*;

/// Peers talk again about when they are put to sleep, all of them, many times.
fn restless(seed: u64, grace: Option<Duration>) -> (usize, Kept) {
    const PEERS: usize = 300;
    let mut catcher = Catcher::default();
    catcher.grace = grace;
    let mut night = Night::new(seed, PEERS as u32, PEERS as u32, catcher);
    // One after the other: others would take the time in which segments arrive.
    night.config.hibernation.as_mut().expect("they sleep").most_drowsy = 1;
    let peers = night.come(PEERS, Duration::ZERO, Duration::from_micros(10));
    let end = 5 * SECOND;
    for peer in peers.clone() {
        let mut at = MILLI;
        while at < end - SECOND {
            let bytes = 1 + night.chance.below(20);
            night.say(at, peer, bytes);
            // It is put to sleep after three quarters of the time at least, and after all of it at most.
            at += 3 * AFTER / 4 + night.chance.time(AFTER / 4);
        }
    }
    let (machine, seen) = night.run(end);
    (peers.map(|peer| missing(&machine, peer)).filter(|missing| *missing > 0).count(), seen)
}

/// A segment that passed the filter before its connection was in the table reaches the socket later. It is lost if the
/// socket's state was taken before and the socket is given up after. A grace period between the two lets it arrive.
#[test]
fn a_grace_period_lets_segments_arrive_that_passed_the_filter_before() {
    let all = std::env::var_os("C1M_SIM_SEED").is_none();
    let lost = Cell::new(0);
    with_seeds(8, |seed| {
        let (none, seen) = restless(seed, Some(3 * MILLI));
        assert!(seen.slept > 1_000 && seen.woke > 500, "they do not sleep: {:?}", (seen.slept, seen.woke));
        assert_eq!(none, 0, "connections lost bytes");
        lost.set(lost.get() + restless(seed, None).0);
    });
    assert!(!all || lost.get() > 0, "nothing is lost without a grace period either: this shows nothing");
}

/// Anything happens to many connections, at any time until `BUSY`. Those that stand at `END` lose nothing. Returns how many
/// these are.
fn anything(seed: u64) -> (usize, Kept) {
    const PEERS: usize = 60;
    const BUSY: Duration = Duration::from_secs(7);
    /// By then everything that was lost or refused has been tried again often enough.
    const END: Duration = Duration::from_secs(27);
    let mut chance = Chance(mixed(!seed));
    let mut catcher = Catcher::default();
    let mut rare = || if chance.one_in(2) { 0 } else { 5 + chance.below(60) };
    catcher.faults = Faults {
        unfit: rare(),
        copy: rare(),
        insert: rare(),
        checkpoint: rare(),
        restore: rare(),
        restore_for_good: if seed.is_multiple_of(4) { 40 } else { 0 },
        send: rare(),
        same_hash: rare(),
    };
    catcher.network = Network { lost: rare(), twice: rare(), jitter: MILLI * (seed % 3) as u32, never_closes: false };
    catcher.records = [3, 30, 4_096][chance.below(3)];
    let slots = [10, PEERS as u32][chance.below(2)];
    // With few places and few slots those that are awake would keep their slots for ever.
    catcher.places = if slots == 10 { usize::MAX } else { [20, usize::MAX][chance.below(2)] };
    let mut night = Night::new(seed, slots, PEERS as u32 + ACCEPTS as u32, catcher);
    night.meddles = chance.one_in(2);
    night.config.hibernation.as_mut().expect("they sleep").socketless = chance.one_in(2);
    night.config.idle_timeout = chance.one_in(4).then_some(5 * SECOND);
    night.how.0 = [CloseMode::Graceful, CloseMode::Lingering, CloseMode::Immediate, CloseMode::Abort][chance.below(4)];
    let peers = night.come(PEERS, Duration::ZERO, 20 * MILLI);
    let mut loyal = HashSet::new();
    for peer in peers.clone() {
        let leaves = chance.one_in(2);
        if !leaves {
            loyal.insert(peer);
        }
        let mut at = chance.time(SECOND);
        while at < BUSY {
            let most = if chance.one_in(10) { 9_000 } else { 50 };
            let bytes = 1 + chance.below(most);
            match chance.below(40) {
                0 if leaves => night.machine.at(at, move |kernel| kernel.fin(peer)),
                1 if leaves => night.machine.at(at, move |kernel| kernel.reset(peer)),
                2..=3 => night.machine.at(at, move |kernel| kernel.probe(peer)),
                4..=5 => night.machine.at(at, move |kernel| kernel.forge(peer)),
                6..=9 => night.command(at, Command::Collect),
                10..=13 => night.command(at, Command::Echo),
                14 => night.command(at, Command::PushAll),
                15..=20 => night.command(at, Command::Push(1 + chance.below(PEERS) as u32)),
                _ => night.say(at, peer, bytes),
            }
            at += chance.time(2 * AFTER);
        }
    }
    night.command(BUSY, Command::Settle);
    let (machine, seen) = night.run(END);
    let ended: HashSet<_> = seen.ended[..seen.ended_by(END)].iter().map(|(_, number, _)| *number as usize).collect();
    let mut stand = 0;
    for (peer, number) in peers.zip(1..) {
        let missing = missing(&machine, peer);
        if loyal.contains(&peer) && !ended.contains(&number) {
            assert_eq!(missing, 0, "bytes that peer {peer} did not hear");
            stand += 1;
        }
    }
    (stand, seen)
}

#[test]
fn whatever_happens_each_sleeper_is_its_own() {
    let (sum, standing) = (RefCell::new(Snapshot::default()), Cell::new(0));
    with_seeds(60, |seed| {
        let (stand, seen) = anything(seed);
        let before = *sum.borrow();
        *sum.borrow_mut() = before + seen.counters;
        standing.set(standing.get() + stand);
    });
    let Snapshot { woken_by_peer, woken_by_send, stayed_awake, segments_answered, segments_dropped, .. } =
        sum.into_inner();
    let rare = [woken_by_peer, woken_by_send, stayed_awake, segments_answered, segments_dropped, standing.get() as u64];
    let all = std::env::var_os("C1M_SIM_SEED").is_none();
    assert!(!all || rare.iter().all(|times| *times > 0), "too little happens: {rare:?}");
}

/// Segments of a connection that has the hash of a sleeper are caught for that one. They go on to where they belong: the
/// whole ends are compared, and not the hash.
#[test]
fn segments_with_the_hash_of_a_sleeper_go_their_own_way() {
    const PEERS: usize = 100;
    with_seeds(3, |seed| {
        let mut catcher = Catcher::default();
        catcher.faults.same_hash = 1;
        let mut night = Night::new(seed, PEERS as u32, PEERS as u32 + ACCEPTS as u32, catcher);
        let peers = night.come(PEERS, Duration::ZERO, MILLI);
        for peer in peers.clone() {
            let mut at = SECOND / 2;
            while at < 3 * SECOND {
                at += AFTER / 2 + night.chance.time(AFTER);
                night.say(at, peer, 10);
            }
        }
        let (machine, seen) = night.run(5 * SECOND);
        let Snapshot { segments_caught, segments_outside, woken_by_peer, .. } = seen.counters;
        // Each sleeper's end takes two segments of its peer.
        assert!(segments_caught > woken_by_peer + 2 * PEERS as u64, "none collides: {:?}", seen.counters);
        assert_eq!(segments_outside, 0, "what belongs to another connection was refused");
        assert_eq!(peers.map(|peer| missing(&machine, peer)).sum::<usize>(), 0);
    });
}

/// Bytes for more sleepers than there are slots reach all of them: slots become free as others fall asleep again.
#[test]
fn bytes_for_more_sleepers_than_slots_reach_all() {
    const PEERS: usize = 400;
    const SLOTS: u32 = 40;
    with_seeds(3, |seed| {
        let night = Night::new(seed, SLOTS, PEERS as u32 + ACCEPTS as u32, Catcher::default());
        // So many that those that came before sleep.
        let peers = night.come(PEERS, Duration::ZERO, 20 * MILLI);
        night.command(Duration::ZERO, Command::Collect);
        for (nth, peer) in peers.clone().enumerate() {
            night.say(20 * MILLI * nth as u32 + MILLI, peer, 10);
        }
        let sent = 9 * SECOND;
        night.command(sent, Command::PushAll);
        let (machine, seen) = night.run(sent + 10 * SECOND);
        assert!(seen.most_asleep as usize > PEERS - SLOTS as usize, "they do not sleep");
        assert_eq!(peers.map(|peer| missing(&machine, peer)).sum::<usize>(), 0);
        assert_eq!(seen.counters.slow_readers, 0);
    });
}

/// No connection is closed because others have much to be sent too, as long as the host has memory.
#[test]
fn many_bytes_for_more_sleepers_than_slots_reach_all() {
    const PEERS: usize = 320;
    const SLOTS: u32 = 20;
    /// As many as may be kept for one connection.
    const BYTES: usize = 60_000;
    const { assert!(PEERS * BYTES > 17 << 20) };
    let night = Night::new(1, SLOTS, PEERS as u32 + ACCEPTS as u32, Catcher::default());
    // So many that those that came before sleep.
    let peers = night.come(PEERS, Duration::ZERO, 80 * MILLI);
    night.command(Duration::ZERO, Command::Collect);
    for (nth, peer) in peers.clone().enumerate() {
        night.say(80 * MILLI * nth as u32 + MILLI, peer, BYTES);
    }
    let sent = 40 * SECOND;
    night.command(sent, Command::PushAll);
    let (machine, seen) = night.run(sent + 100 * SECOND);
    assert!(seen.most_asleep as usize > PEERS - SLOTS as usize, "they do not sleep: {}", seen.most_asleep);
    assert_eq!(seen.counters.slow_readers, 0);
    assert_eq!(peers.map(|peer| missing(&machine, peer)).sum::<usize>(), 0);
}

/// While a process stands still nothing is heard: that is no silence of its peers.
#[test]
fn a_process_that_stood_still_puts_no_connection_to_sleep_for_that() {
    with_seeds(4, |seed| {
        for still in [SECOND, 3_600 * SECOND] {
            let mut night = Night::new(seed, 50, 50, Catcher::default());
            let peers = night.come(50, Duration::ZERO, MILLI / 100);
            let stops = SECOND + night.chance.time(AFTER);
            let to = stops + still + SECOND;
            for peer in peers.clone() {
                // They are never silent for long enough, but for the time in which the shard does not look.
                let mut at = MILLI + night.chance.time(AFTER / 4);
                while at < to {
                    if at < stops || at > stops + still - AFTER / 4 {
                        night.say(at, peer, 1);
                    }
                    at += AFTER / 4;
                }
            }
            night.machine.stand_still(stops, still, seed % 2 == 0);
            let (machine, seen) = night.run(to);
            assert_eq!(seen.counters.hibernated, 0, "after standing still for {still:?}");
            assert_eq!(peers.map(|peer| missing(&machine, peer)).sum::<usize>(), 0);
        }
    });
}

/// A clock of the host that jumps, ahead or back, loses nothing, and connections go on to sleep and wake.
#[test]
fn a_clock_that_jumps_loses_no_sleeper() {
    with_seeds(6, |seed| {
        let mut night = Night::new(seed, 50, 50, Catcher::default());
        night.config.idle_timeout = Some(8 * SECOND);
        let peers = night.come(50, Duration::ZERO, MILLI / 100);
        let to = 30 * SECOND;
        for peer in peers.clone() {
            let mut at = night.chance.time(SECOND);
            while at < to - 4 * SECOND {
                night.say(at, peer, 3);
                at += SECOND;
            }
        }
        for _ in 0..10 {
            let (at, by) = (night.chance.time(to), night.chance.time(20 * SECOND));
            if seed % 2 == 0 {
                night.machine.at(at, move |kernel| kernel.clock_jumps_ahead(by));
            } else {
                night.machine.at(at, move |kernel| kernel.clock_goes_back(by));
            }
        }
        let (machine, seen) = night.run(to);
        assert_eq!(seen.counters.silent, 0);
        assert!(seen.slept > 200, "they do not sleep: {}", seen.slept);
        assert_eq!(peers.map(|peer| missing(&machine, peer)).sum::<usize>(), 0);
    });
}

/// Connections that linger give their slots to sleepers that wake: no segment is dropped for want of a slot.
#[test]
fn sleepers_that_wake_get_the_slots_of_connections_that_linger() {
    const SLOTS: usize = 40;
    const SLEEPERS: usize = 100;
    with_seeds(3, |seed| {
        let mut catcher = Catcher::default();
        // Nobody ends a connection that the shard has ended.
        catcher.network.never_closes = true;
        let most = (SLEEPERS + SLOTS) as u32 + ACCEPTS as u32;
        let night = Night::new(seed, SLOTS as u32, most, catcher);
        // So many that those that came before sleep.
        let sleepers = night.come(SLEEPERS, Duration::ZERO, 20 * MILLI);
        let closed = 3 * SECOND;
        let lingering = night.come(SLOTS - 2, closed - 10 * MILLI, MILLI / 100).len();
        for number in SLEEPERS + 1..=SLEEPERS + lingering {
            night.command(closed, Command::Close(number as u32, CloseMode::Lingering));
        }
        let peers = sleepers.start..sleepers.start + SLOTS - 4;
        for peer in peers.clone() {
            night.say(closed + 10 * MILLI, peer, 5);
        }
        let (machine, seen) = night.run(closed + SECOND);
        assert_eq!((seen.most_asleep, seen.most_lingering), (SLEEPERS as u64, lingering as u64));
        assert_eq!((seen.counters.woken_by_peer, seen.counters.segments_dropped), (peers.len() as u64, 0));
        assert_eq!(peers.map(|peer| missing(&machine, peer)).sum::<usize>(), 0);
    });
}

/// A wake lasts until the driver has the payload. `run` compares.
#[test]
fn a_wake_lasts_until_the_driver_has_the_payload() {
    let mut night = Night::new(1, 10, 10, Catcher::default());
    night.ponders = 3 * MILLI;
    let peer = night.come(1, Duration::ZERO, MILLI).start;
    night.say(SECOND, peer, 5);
    let (machine, seen) = night.run(2 * SECOND);
    assert_eq!((seen.counters.woken_by_peer, missing(&machine, peer)), (1, 0));
}

/// A payload to which nothing is answered is acknowledged at once, also when something is sent to another connection for
/// it: the peer need not send it again.
#[test]
fn a_payload_that_goes_on_to_others_is_acknowledged() {
    with_seeds(2, |seed| {
        let night = Night::new(seed, 10, 10, Catcher::default());
        let peers = night.come(2, Duration::ZERO, MILLI);
        let (from, to) = (peers.start, peers.start + 1);
        night.command(10 * MILLI, Command::Collect);
        night.say(20 * MILLI, to, 5);
        night.command(SECOND - MILLI, Command::PushAtNext(2));
        night.say(SECOND, from, 5);
        night.machine.at(SECOND + 50 * MILLI, move |kernel| {
            let in_flight = kernel.link(from).map(|link| link.peer.in_flight());
            assert_eq!((in_flight, kernel.sockets[to].heard.len()), (Some(0), 5), "it is not acknowledged");
        });
        night.command(2 * SECOND, Command::PushAll);
        let (machine, seen) = night.run(3 * SECOND);
        assert_eq!(seen.counters.woken_by_peer, 1);
        assert_eq!(peers.map(|peer| missing(&machine, peer)).sum::<usize>(), 0);
    });
}

/// A sleeping connection that ends while the others are given away ends as ever; what was given away comes back whole.
#[test]
fn a_sleeper_may_end_while_others_are_given_away() {
    with_seeds(2, |seed| {
        let night = Night::new(seed, 10, 10, Catcher::default());
        let peers = night.come(5, Duration::ZERO, MILLI);
        night.command(SECOND, Command::GiveAllBut(3));
        night.command(SECOND + 10 * MILLI, Command::TakeBack);
        for peer in peers.clone() {
            night.say(2 * SECOND, peer, 5);
        }
        let (machine, seen) = night.run(3 * SECOND);
        assert_eq!((seen.ended_by(2 * SECOND), seen.counters.woken_by_peer), (1, 4));
        let others = peers.clone().filter(|peer| *peer != peers.start + 2);
        assert_eq!(others.map(|peer| missing(&machine, peer)).sum::<usize>(), 0);
    });
}

/// Where no descriptor is left none can be put to sleep. That is tried now and then, not with each that is silent, and all
/// sleep as soon as there are descriptors.
#[test]
fn a_shortage_of_descriptors_takes_no_time() {
    const SILENT: usize = 200;
    const SHORT: Duration = Duration::from_secs(10);
    with_seeds(2, |seed| {
        let mut catcher = Catcher::default();
        catcher.faults.copy = 1;
        let night = Night::new(seed, SILENT as u32, 2 * SILENT as u32, catcher);
        night.come(SILENT, Duration::ZERO, MILLI);
        night.machine.at(SHORT, |kernel| kernel.catcher.as_mut().expect("they sleep").faults.copy = 0);
        let (_, seen) = night.run(SHORT + SECOND);
        let tried = seen.counters.stayed_awake;
        assert!((50..=110).contains(&tried), "it was tried {tried} times in {SHORT:?}");
        assert!(seen.turns < 10 * SILENT as u64, "{} turns", seen.turns);
        assert_eq!(seen.most_asleep, SILENT as u64);
    });
}
