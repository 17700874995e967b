//! Sleeping connections that end: many at once, at a pace, and for silence.

use super::*;

/// Connections that sleep.
const MANY: usize = 4_000;

/// When all of them sleep.
const NIGHT: Duration = Duration::from_secs(2);

/// No echo of a connection that is awake takes longer, however many sleepers end at once: a pass takes 32 segments,
/// each of which may be answered in 7.5 us, and 64 timers.
const LONGEST_WAIT: Duration = Duration::from_millis(2);

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

/// FINs and RSTs of sleepers are answered without a slot, and delay nobody.
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
            assert!(wait < LONGEST_WAIT, "an echo took {wait:?}");
        }
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
