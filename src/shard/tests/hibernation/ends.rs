//! Sleeping connections that end: many at once, at a pace, and for silence.

use super::*;
use crate::connections::LONGEST_IDLE;
use crate::error::Errno;

/// Connections that sleep.
const MANY: usize = 4_000;

/// When all of them sleep.
const NIGHT: Duration = Duration::from_secs(2);

/// No echo of a connection that is awake takes longer while sleepers get FINs and RSTs: a pass takes their segments for 25 us,
/// and each answer takes 7.5 us.
const WAIT_IN_STORM: Duration = Duration::from_micros(150);

/// No echo takes longer while many connections fall asleep: a pass spends 100 us on them, and then closes their sockets.
const WAIT_AT_NIGHTFALL: Duration = Duration::from_micros(300);

/// So many connections sleep at `NIGHT`, and a few others talk from then on.
fn asleep(seed: u64, many: usize) -> (Night, std::ops::Range<usize>, Talk) {
    const TALKERS: usize = 10;
    let mut night = Night::new(seed, MANY as u32, 2 * MANY as u32, Catcher::default());
    let sleepers = night.come(many, Duration::ZERO, Duration::from_micros(100));
    let talkers = night.come(TALKERS, NIGHT - MILLI, Duration::from_micros(10));
    let mut said = Vec::new();
    for peer in talkers.clone() {
        let mut at = NIGHT + night.chance.time(MILLI);
        let mut times = Vec::new();
        while at < NIGHT + 2 * SECOND {
            night.say(at, peer, 1);
            times.push(at);
            at += MILLI;
        }
        said.push(times);
    }
    (night, sleepers, Talk { peers: talkers, said })
}

/// FINs and RSTs of sleepers are answered without a slot, and delay no message.
#[test]
fn a_mass_disconnect_of_sleepers_takes_no_slots() {
    with_seeds(2, |seed| {
        for resets in [false, true] {
            let (mut night, sleepers, talk) = asleep(seed, MANY);
            let storm = NIGHT + SECOND / 2;
            for peer in sleepers.clone() {
                let at = storm + night.chance.time(10 * MILLI);
                night.machine.at(at, move |kernel| if resets { kernel.reset(peer) } else { kernel.fin(peer) });
            }
            let (machine, seen) = night.run(NIGHT + 5 * SECOND);
            assert_eq!(seen.most_asleep, MANY as u64);
            assert_eq!(seen.counters.woken_by_peer, 0, "a FIN or a RST woke a connection");
            assert_eq!(seen.ended_by(storm), 0);
            assert_eq!(seen.ended_by(storm + 400 * MILLI), MANY, "places are not given up at once");
            let reason = if resets { CloseReason::PeerReset } else { CloseReason::PeerClosed };
            assert!(seen.ended[..MANY].iter().all(|(.., why)| *why == reason));
            for peer in sleepers {
                let ended = machine.kernel(|kernel| kernel.sockets[peer].ended.map(|(how, _)| how));
                assert_eq!(ended, (!resets).then_some(Ending::Fin), "peer {peer}");
            }
            let wait = talk.longest_wait(&machine);
            assert!(wait < WAIT_IN_STORM, "an echo took {wait:?}");
        }
    });
}

/// Connections that fall asleep together delay no message.
#[test]
fn connections_that_fall_asleep_together_delay_no_message() {
    with_seeds(2, |seed| {
        let night = Night::new(seed, 2 * MANY as u32, 2 * MANY as u32, Catcher::default());
        night.come(MANY, Duration::ZERO, Duration::from_nanos(100));
        let talker = night.come(1, Duration::ZERO, MILLI).start;
        let times: Vec<_> = (50..1_000).map(|at| at * MILLI).collect();
        times.iter().for_each(|at| night.say(*at, talker, 1));
        let (machine, seen) = night.run(SECOND);
        assert_eq!(seen.most_asleep, MANY as u64);
        let wait = Talk { peers: talker..talker + 1, said: vec![times] }.longest_wait(&machine);
        assert!(wait < WAIT_AT_NIGHTFALL, "an echo took {wait:?}");
    });
}

/// A RST that finds no room in the ring buffer is not sent again: the peers of sleepers are asked whether they are there,
/// and those that are stay.
#[test]
fn no_reset_of_a_sleeper_is_missed_for_good() {
    const SLEEPERS: usize = 1_000;
    with_seeds(2, |seed| {
        let mut catcher = Catcher::default();
        catcher.records = 48;
        let mut night = Night::new(seed, MANY as u32, 2 * MANY as u32, catcher);
        let sleepers = night.come(SLEEPERS, Duration::ZERO, Duration::from_micros(100));
        let reset = sleepers.start..sleepers.end - 100;
        for peer in reset.clone() {
            let at = NIGHT + night.chance.time(MILLI / 10);
            night.machine.at(at, move |kernel| kernel.reset(peer));
        }
        let end = NIGHT + 20 * SECOND;
        let (_, seen) = night.run(end);
        assert!(seen.counters.segments_dropped > 0, "the ring buffer had room for all");
        assert_eq!(seen.ended_by(end - SECOND), reset.len());
        assert!(seen.ended[..reset.len()].iter().all(|(.., why)| *why == CloseReason::PeerReset));
        assert_eq!(seen.counters.woken_by_peer, 0, "a RST or an answer woke a connection");
    });
}

/// Sleepers that are closed at a pace get a FIN each, by single segments, and leave nothing behind.
#[test]
fn sleepers_are_drained_at_a_pace() {
    const SLEEPERS: usize = 1_000;
    with_seeds(2, |seed| {
        for mode in [CloseMode::Graceful, CloseMode::Abort] {
            let (mut night, sleepers, _) = asleep(seed, SLEEPERS);
            let end = NIGHT + 2 * SECOND;
            night.how = (mode, Some(2_000.0));
            let (machine, seen) = night.run(end);
            for peer in sleepers {
                let (how, _) = machine.kernel(|kernel| kernel.sockets[peer].ended).expect("it was closed");
                assert_eq!(how, if mode == CloseMode::Abort { Ending::Reset } else { Ending::Fin });
            }
            for (nth, (at, ..)) in seen.ended.iter().enumerate() {
                let due = 2_000.0 * (*at - end).as_secs_f64();
                assert!(nth as f64 <= due + 1.0, "{nth} were closed within {:?}", *at - end);
            }
            assert_eq!(seen.counters.woken_by_send + seen.counters.woken_by_peer, 0);
            assert_eq!(seen.in_use.last().map(|(_, in_use)| *in_use), Some(0));
        }
    });
}

/// Sleepers that are silent for too long are closed, a few in each pass, so that closing delays no message.
#[test]
fn silent_sleepers_are_closed_without_delaying_others() {
    const SLEEPERS: usize = 16_000;
    with_seeds(1, |seed| {
        let mut night = Night::new(seed, SLEEPERS as u32, 2 * SLEEPERS as u32, Catcher::default());
        night.config.idle_timeout = Some(8 * SECOND);
        let sleepers = night.come(SLEEPERS, Duration::ZERO, Duration::from_micros(10));
        let talker = night.come(1, SECOND, MILLI).start;
        let end = 24 * SECOND;
        let mut times = Vec::new();
        let mut at = 2 * SECOND;
        while at < end - SECOND {
            night.say(at, talker, 1);
            times.push(at);
            at += 3 * MILLI;
        }
        let talk = Talk { peers: talker..talker + 1, said: vec![times] };
        let (machine, seen) = night.run(end);
        assert_eq!(seen.counters.silent, SLEEPERS as u64);
        for peer in sleepers {
            let (how, at) =
                machine.kernel(|kernel| (kernel.sockets[peer].ended.map(|(how, _)| how), kernel.ended(peer)));
            assert_eq!(how, Some(Ending::Fin), "peer {peer}");
            assert!(at.is_some_and(|at| at >= 8 * SECOND && at < end), "peer {peer} was closed at {at:?}");
        }
        let wait = talk.longest_wait(&machine);
        assert!(wait < MILLI, "an echo took {wait:?}");
    });
}

/// A connection that is silent for days, asleep or awake, does not seem to be heard again.
#[test]
fn days_of_silence_are_told_as_the_longest_one() {
    const WINDOW: Duration = Duration::from_secs(4);
    let mut catcher = Catcher::default();
    catcher.places = 1;
    let mut night = Night::new(1, 10, 10, catcher);
    night.config.hibernation.as_mut().expect("they sleep").after = 3_600 * SECOND;
    night.come(2, Duration::ZERO, MILLI);
    let (_, seen) = night.run(70_000 * WINDOW);
    assert_eq!((seen.most_asleep, seen.silences), (1, vec![LONGEST_IDLE; 2]));
}

/// What is sent to a silent peer is no sign of life, whether the connection wakes for it or not.
#[test]
fn a_push_does_not_make_a_peer_heard() {
    with_seeds(4, |seed| {
        let mut night = Night::new(seed, 10, 10, Catcher::default());
        night.config.idle_timeout = Some(8 * SECOND);
        let peer = night.come(1, Duration::ZERO, MILLI).start;
        night.command(Duration::ZERO, Command::Collect);
        night.say(MILLI, peer, 20);
        for nth in 0..40 {
            night.command(SECOND * nth + SECOND / 2, Command::PushOne(1));
        }
        let (machine, seen) = night.run(40 * SECOND);
        assert!(seen.counters.woken_by_send > 8, "it does not sleep: {:?}", seen.counters);
        assert_eq!(seen.counters.silent, 1);
        let ended = machine.kernel(|kernel| kernel.ended(peer)).expect("it was closed");
        assert!(ended < 8 * SECOND + 16 * SECOND, "it was closed at {ended:?}");
    });
}

/// Ends that are under way hold names, but no new connection is refused for them.
#[test]
fn ends_under_way_make_room_for_new_connections() {
    const PEERS: usize = 100;
    with_seeds(3, |seed| {
        let mut catcher = Catcher::default();
        catcher.network.never_closes = true;
        let night = Night::new(seed, PEERS as u32, PEERS as u32, catcher);
        let first = night.come(PEERS, Duration::ZERO, MILLI / 10);
        let closed = SECOND;
        for number in 1..=PEERS as u32 {
            night.command(closed, Command::Close(number, CloseMode::Graceful));
        }
        let second = night.come(PEERS, closed + SECOND, MILLI / 10);
        for peer in second.clone() {
            night.say(closed + 2 * SECOND, peer, 5);
        }
        let (machine, seen) = night.run(closed + 4 * SECOND);
        assert_eq!(seen.most_asleep, PEERS as u64);
        assert_eq!((seen.opened, seen.counters.refused), (2 * PEERS as u32, 0));
        assert_eq!(second.map(|peer| missing(&machine, peer)).sum::<usize>(), 0);
        for peer in first {
            assert_eq!(machine.kernel(|kernel| kernel.sockets[peer].ended.map(|(how, _)| how)), Some(Ending::Fin));
        }
    });
}

/// A peer that goes on sending to a connection that ends takes no memory for that.
#[test]
fn a_peer_that_does_not_stop_sets_no_timers_without_end() {
    let mut catcher = Catcher::default();
    catcher.network.never_closes = true;
    let night = Night::new(1, 10, 10, catcher);
    let peer = night.come(1, Duration::ZERO, MILLI).start;
    night.command(SECOND, Command::Close(1, CloseMode::Graceful));
    for nth in 0..5_000 {
        night.machine.at(2 * SECOND + MILLI * nth, move |kernel| kernel.probe(peer));
    }
    let (_, seen) = night.run(8 * SECOND);
    assert!(seen.counters.segments_caught > 5_000, "they are not caught: {:?}", seen.counters);
    assert!(seen.most_timers < 5, "{} timers for one end", seen.most_timers);
}

/// The peers of sleepers are asked whether they are there, without a wake. Those that do not answer three times are given
/// up, and the others stay. Between two probes the keepalive's time passes, however few or many sleep.
#[test]
fn sleepers_are_asked_and_the_unreachable_ones_are_given_up() {
    with_seeds(2, |seed| {
        for count in [1usize, 4, 400] {
            let unreachable = count.div_ceil(4);
            let mut night = Night::new(seed, count as u32, 2 * count as u32 + ACCEPTS as u32, Catcher::default());
            night.config.hibernation.as_mut().expect("they sleep").keepalive = Some(8 * SECOND);
            let sleepers = night.come(count, Duration::ZERO, Duration::from_micros(100));
            for peer in sleepers.clone().take(unreachable) {
                night.machine.at(NIGHT, move |kernel| kernel.cut(peer));
            }
            let end = 100 * SECOND;
            let (machine, seen) = night.run(end);
            assert_eq!(seen.counters.woken_by_peer + seen.counters.woken_by_send, 0, "a probe woke a connection");
            assert_eq!(seen.ended_by(3 * 8 * SECOND), 0, "three probes take longer");
            // The first question comes in the round in which the peer has been silent for long enough.
            assert_eq!(seen.ended_by(NIGHT + 6 * 8 * SECOND), unreachable, "rounds take longer");
            let why = CloseReason::Failed(Errno::ETIMEDOUT);
            assert!(seen.ended[..unreachable].iter().all(|(.., reason)| *reason == why), "{:?}", seen.ended[0]);
            for peer in sleepers.skip(unreachable) {
                assert!(machine.kernel(|kernel| kernel.ended(peer)).is_some_and(|at| at >= end), "peer {peer}");
            }
        }
    });
}

/// While the process is suspended, and its peers with it, the peers of sleepers are not heard. That says nothing about them:
/// none is closed for silence, and none is given up because a probe was not answered.
#[test]
fn a_process_that_stands_still_closes_no_sleeper() {
    const SLEEPERS: usize = 50;
    with_seeds(2, |seed| {
        for (still, asks) in [(60, false), (60, true), (3_600, false), (3_600, true)] {
            let still = still * SECOND;
            let mut night = Night::new(seed, SLEEPERS as u32, 4 * SLEEPERS as u32, Catcher::default());
            let hibernation = night.config.hibernation.as_mut().expect("they sleep");
            (hibernation.keepalive, night.config.idle_timeout) =
                if asks { (Some(8 * SECOND), None) } else { (None, Some(12 * SECOND)) };
            let sleepers = night.come(SLEEPERS, Duration::ZERO, MILLI);
            let stops = 30 * SECOND + night.chance.time(8 * SECOND);
            let end = stops + still + 40 * SECOND;
            for peer in sleepers.filter(|_| !asks) {
                // It says something after every 5 s in which it runs.
                let mut ran = SECOND + night.chance.time(SECOND);
                while ran < end - still {
                    night.say(if ran <= stops { ran } else { ran + still }, peer, 1);
                    ran += 5 * SECOND;
                }
            }
            night.machine.stand_still(stops, still, false);
            let (_, seen) = night.run(end);
            let ended = seen.ended_by(end - MILLI);
            assert_eq!((ended, seen.counters.silent), (0, 0), "still for {still:?}, asks: {asks}");
            assert_eq!(seen.most_asleep, SLEEPERS as u64);
        }
    });
}

/// What a peer has not answered counts no more once the sleepers were another process's: the entry may have another
/// connection since.
#[test]
fn peers_are_asked_afresh_after_they_were_handed_over_in_vain() {
    const EVERY: Duration = Duration::from_secs(8);
    let given_up = |handed: Option<Duration>| {
        let mut night = Night::new(1, 4, 8 + ACCEPTS as u32, Catcher::default());
        night.config.hibernation.as_mut().expect("they sleep").keepalive = Some(EVERY);
        night.share_entries();
        let peer = night.come(4, Duration::ZERO, MILLI).start;
        night.machine.at(NIGHT, move |kernel| kernel.cut(peer));
        if let Some(at) = handed {
            night.command(at, Command::HandOver);
            night.command(at, Command::Inherit);
        }
        let (_, seen) = night.run(100 * SECOND);
        let (at, number, why) = seen.ended[0];
        assert_eq!((number, why), (1, CloseReason::Failed(Errno::ETIMEDOUT)));
        at
    };
    let at = given_up(None);
    let later = given_up(Some(at - SECOND));
    assert!(later > at + 2 * EVERY, "it was given up at {at:?}, and after a handing over at {later:?}");
}

/// What the host drops while the sleepers are another process's is that process's, and is not counted here. Nothing is lost.
#[test]
fn segments_that_another_process_dropped_are_not_counted() {
    const SLEEPERS: usize = 100;
    with_seeds(2, |seed| {
        let mut catcher = Catcher::default();
        catcher.records = 48;
        let mut night = Night::new(seed, 2 * SLEEPERS as u32, 4 * SLEEPERS as u32, catcher);
        night.share_entries();
        let sleepers = night.come(SLEEPERS, Duration::ZERO, MILLI);
        night.command(NIGHT, Command::HandOver);
        for peer in sleepers.clone() {
            night.say(NIGHT + SECOND / 10, peer, 10);
        }
        let theirs = Rc::new(Cell::new(0));
        let noted = theirs.clone();
        night.machine.at(NIGHT + SECOND, move |kernel| noted.set(kernel.dropped_by_catcher()));
        night.command(NIGHT + SECOND, Command::Inherit);
        let (machine, seen) = night.run(NIGHT + 60 * SECOND);
        assert!(theirs.get() > 0, "the ring buffer had room for all");
        let all = machine.kernel(|kernel| kernel.dropped_by_catcher());
        assert_eq!(seen.counters.segments_dropped, all - theirs.get());
        sleepers.for_each(|peer| assert_eq!(missing(&machine, peer), 0, "of peer {peer}"));
    });
}

/// A process to which sleepers were given writes down which window of time it is, by a clock of its own, and is killed. What
/// was heard here meanwhile was heard lately.
#[test]
fn connections_that_were_heard_while_sleepers_were_away_are_not_silent() {
    with_seeds(2, |seed| {
        let mut night = Night::new(seed, 8, 8 + ACCEPTS as u32, Catcher::default());
        night.config.idle_timeout = Some(60 * SECOND);
        night.config.hibernation.as_mut().expect("they sleep").after = 1_000 * SECOND;
        night.share_entries();
        let peers = night.come(8, Duration::ZERO, MILLI);
        night.command(SECOND, Command::HandOver);
        for (peer, second) in peers.clone().flat_map(|peer| (1..20).map(move |second| (peer, second))) {
            night.say(second * SECOND, peer, 10);
        }
        night.command(20 * SECOND, Command::Inherit);
        let (machine, seen) = night.run(40 * SECOND);
        assert_eq!((seen.counters.silent, seen.ended_by(40 * SECOND - MILLI)), (0, 0), "{:?}", seen.ended);
        peers.for_each(|peer| assert_eq!(missing(&machine, peer), 0, "of peer {peer}"));
    });
}

/// Sleepers count against the limit on connections: newcomers are refused, and sleepers stay.
#[test]
fn sleepers_count_against_the_limit() {
    const MOST: usize = 20;
    with_seeds(2, |seed| {
        let slots = 2 * MOST as u32;
        let mut night = Night::new(seed, slots, slots + ACCEPTS as u32, Catcher::default());
        night.config.capacity = MOST as u64;
        let sleepers = night.come(MOST, Duration::ZERO, MILLI);
        let late = night.come(5, SECOND, MILLI);
        for peer in sleepers.clone() {
            night.say(2 * SECOND, peer, 10);
        }
        let (machine, seen) = night.run(3 * SECOND);
        assert_eq!(seen.most_asleep, MOST as u64);
        assert_eq!((seen.opened as usize, seen.counters.refused_when_full as usize), (MOST, late.len()));
        assert_eq!(sleepers.map(|peer| missing(&machine, peer)).sum::<usize>(), 0);
        for peer in late {
            assert_eq!(machine.kernel(|kernel| kernel.sockets[peer].ended.map(|(how, _)| how)), Some(Ending::Reset));
        }
    });
}
