//! Many connections that sleep and wake.

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

/// Bytes for more sleepers than there are slots reach all of them: slots become free as others fall asleep again.
#[test]
fn bytes_for_more_sleepers_than_slots_reach_all() {
    const PEERS: usize = 400;
    const SLOTS: u32 = 40;
    with_seeds(3, |seed| {
        let night = Night::new(seed, SLOTS, PEERS as u32 + ACCEPTS as u32, Catcher::default());
        // So many that those who came before sleep.
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

/// While a process stands still nothing is heard: that is no silence of its peers.
#[test]
fn a_process_that_stood_still_puts_nobody_to_sleep_for_that() {
    with_seeds(4, |seed| {
        for still in [SECOND, 3_600 * SECOND] {
            let mut night = Night::new(seed, 50, 50, Catcher::default());
            let peers = night.come(50, Duration::ZERO, MILLI / 100);
            let stops = SECOND + night.chance.time(AFTER);
            let to = stops + still + SECOND;
            for peer in peers.clone() {
                // They are never silent for long enough, but for the time in which nobody looks.
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
