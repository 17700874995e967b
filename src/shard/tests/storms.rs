//! Many connections that end at once.

use super::*;
use crate::error::Errno;

/// Connections that survive, and talk.
const SURVIVORS: usize = 20;

/// No echo of a survivor takes longer than this, however many connections end at once: a nap, a batch, and a pass over
/// all rings.
const LONGEST_WAIT: Duration = Duration::from_micros(1_500);

/// The slots in use when all but the survivors are gone.
const CALM: u64 = SURVIVORS as u64 + ACCEPTS;

/// When storms begin.
const STORM: Duration = Duration::from_millis(200);

/// Connections of a storm: more than the reset reaper's `FEW`, below which it takes shorter rests.
const MANY: usize = 5_000;

/// `MANY` connections and the survivors are open before the storm, in more slots than they need.
fn before_the_storm(seed: u64) -> (Scene, std::ops::Range<usize>, std::ops::Range<usize>) {
    let scene = Scene::new(seed, MANY as u32 + 1_000);
    let survivors = scene.come(SURVIVORS, Duration::ZERO);
    let others = scene.come(MANY, MILLI);
    (scene, survivors, others)
}

/// All of these peers reset their connections within a moment, in any order.
fn resets(scene: &mut Scene, peers: std::ops::Range<usize>) {
    for peer in peers {
        let at = STORM + scene.chance.time(10 * MILLI);
        scene.machine.at(at, move |kernel| kernel.reset(peer));
    }
}

/// Reset connections give up their places at once and are dismantled in batches. The rests in between leave the time to
/// the survivors.
#[test]
fn survivors_are_answered_in_a_storm_and_dismantling_takes_a_small_part_of_the_time() {
    with_seeds(3, |seed| {
        let (mut scene, survivors, others) = before_the_storm(seed);
        let talk = scene.talk(survivors, MILLI, STORM / 2, STORM + SECOND);
        resets(&mut scene, others);
        let (machine, seen) = scene.run(STORM + 2 * SECOND);
        let wait = talk.longest_wait(&machine);
        assert!(wait < LONGEST_WAIT, "an echo took {wait:?}");
        assert_eq!(seen.ended_by(STORM + 60 * MILLI), MANY, "places are not given up at once");
        // The first ones are asked for their error, as long as it is no storm.
        let asked = seen.ended[..MANY].iter().filter(|(_, reason)| *reason == CloseReason::Failed(Errno::ECONNRESET));
        let taken = seen.ended[..MANY].iter().filter(|(_, reason)| *reason == CloseReason::PeerReset);
        let (asked, taken) = (asked.count(), taken.count());
        assert!(asked > 0 && asked < MANY / 5 && asked + taken == MANY, "{asked} were asked, {taken} were not");
        // Some 2,700 of them with rests of 32 times the 3 us that a close takes, 2,000 with rests of 4 times.
        let took = seen.freed(CALM, STORM) - STORM;
        assert!(took > 250 * MILLI && took < 700 * MILLI, "dismantling took {took:?}");
    });
}

/// There are no rests if no connection has messages, or if new connections need the memory.
#[test]
fn dismantling_rests_only_where_a_connection_gains_by_it() {
    with_seeds(2, |seed| {
        for talks in [false, true] {
            let (mut scene, survivors, others) = before_the_storm(seed);
            if talks {
                let gate = AdmissionGate::default();
                scene.config.gate = gate.clone();
                scene.machine.at(STORM - MILLI, move |_| gate.set(AdmissionState::Refusing));
                scene.talk(survivors, MILLI, STORM / 2, STORM + SECOND);
            }
            resets(&mut scene, others);
            let (_, seen) = scene.run(STORM + 2 * SECOND);
            let took = seen.freed(CALM, STORM) - STORM;
            assert!(took < 150 * MILLI, "talks: {talks}: dismantling took {took:?}");
        }
    });
}

/// There are no rests as long as new connections wait for slots.
#[test]
fn dismantling_does_not_rest_while_new_connections_need_the_slots() {
    const NEWCOMERS: usize = MANY / 2;
    with_seeds(2, |seed| {
        let (mut scene, survivors, others) = before_the_storm(seed);
        scene.config.rings = vec![(MANY + SURVIVORS) as u32 + ACCEPTS as u32 - 1];
        scene.talk(survivors, MILLI, STORM / 2, STORM + SECOND);
        resets(&mut scene, others);
        scene.come(NEWCOMERS, STORM);
        let (_, seen) = scene.run(STORM + 2 * SECOND);
        let took = seen.opened[SURVIVORS + MANY + NEWCOMERS - 1] - STORM;
        // The last one comes after 25 ms. With rests, half of them would wait for 125 ms at least.
        assert!(took < 100 * MILLI, "new connections waited until {took:?}");
    });
}

/// If more connections come and go all the time than are dismantled with rests, the rests end.
#[test]
fn connections_that_come_and_go_faster_than_rests_allow_do_not_pile_up() {
    const A_SECOND: u32 = 12_000;
    const SECONDS: u64 = 8;
    with_seeds(1, |seed| {
        let mut scene = Scene::new(seed, 60_000);
        let survivors = scene.come(SURVIVORS, Duration::ZERO);
        let to = SECOND * SECONDS as u32;
        let talk = scene.talk(survivors, 5 * MILLI, MILLI, to);
        // It begins with a storm: fewer connections would be dismantled with shorter rests, and the queue would not
        // grow.
        let storm = scene.come(MANY, MILLI);
        resets(&mut scene, storm);
        let first = scene.machine.kernel(|kernel| kernel.expect((A_SECOND * SECONDS as u32) as usize));
        for nth in 0..A_SECOND * SECONDS as u32 {
            let (peer, at) = (first + nth as usize, SECOND / A_SECOND * nth);
            scene.machine.at(at, move |kernel| kernel.connect(peer));
            scene.machine.at(at + 20 * MILLI, move |kernel| kernel.reset(peer));
        }
        let (machine, seen) = scene.run(to + SECOND);
        let wait = talk.longest_wait(&machine);
        assert!(wait < 3 * LONGEST_WAIT, "an echo took {wait:?}");
        let most = seen.in_use.iter().map(|(_, in_use)| *in_use).max().unwrap();
        assert!(most > 4_000, "only {most} piled up: that is too little to end the rests");
        let last = seen.in_use.iter().rfind(|(at, _)| *at < to - 100 * MILLI).unwrap().1;
        assert!(last < 3_000, "{last} slots are in use in the end, {most} at most");
    });
}

/// FINs of a killed process: while others talk a bounded number is received in a second. Bytes before a FIN are
/// answered, and every peer gets a FIN back.
#[test]
fn fins_that_come_at_once_are_taken_at_a_bounded_rate() {
    with_seeds(3, |seed| {
        let (mut scene, survivors, others) = before_the_storm(seed);
        let talk = scene.talk(survivors, MILLI, STORM / 2, STORM + SECOND);
        // The kernel completes polls in the order in which they fired. So a message waits for as many FINs as are
        // received at once: those of a tenth of a second, 2 us each.
        let longest_wait = LONGEST_WAIT + Duration::from_micros(2) * 3_200;
        for peer in others.clone() {
            let at = STORM + scene.chance.time(MILLI);
            let speaks = scene.chance.one_in(2);
            scene.machine.at(at, move |kernel| {
                if speaks {
                    kernel.say(peer, b"?");
                }
                kernel.fin(peer);
            });
        }
        let (machine, seen) = scene.run(STORM + 2 * SECOND);
        let wait = talk.longest_wait(&machine);
        assert!(wait < longest_wait, "an echo took {wait:?}");
        // The token bucket may hold the FINs of a tenth of a second.
        for (nth, (at, reason)) in seen.ended[..MANY].iter().enumerate() {
            assert_eq!(*reason, CloseReason::PeerClosed);
            let most = 32_000.0 * (0.1 + at.saturating_sub(STORM).as_secs_f64());
            assert!(nth as f64 <= most + 1.0, "{nth} had ended {:?} after the storm began", *at - STORM);
        }
        for peer in others {
            machine.kernel(|kernel| {
                let socket = &kernel.sockets[peer];
                assert_eq!(socket.ended.map(|(how, _)| how), Some(Ending::Fin), "peer {peer}");
                assert!(socket.inbox.is_empty(), "peer {peer} was not heard");
                assert_eq!(socket.heard.len(), socket.said, "peer {peer} was not answered");
            });
        }
    });
}

/// A single FIN or reset is answered without delay, while others talk.
#[test]
fn a_single_end_is_not_delayed() {
    with_seeds(3, |seed| {
        let mut scene = Scene::new(seed, 1_000);
        let survivors = scene.come(SURVIVORS, Duration::ZERO);
        let others = scene.come(2, MILLI);
        scene.talk(survivors, MILLI, STORM / 2, STORM + SECOND);
        let (fin, reset) = (others.start, others.start + 1);
        scene.machine.at(STORM, move |kernel| kernel.fin(fin));
        scene.machine.at(STORM, move |kernel| kernel.reset(reset));
        let (_, seen) = scene.run(STORM + 2 * SECOND);
        let took = seen.freed(CALM, STORM) - STORM;
        assert!(took < 2 * MILLI, "it took {took:?}");
    });
}
