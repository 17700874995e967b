//! Silent peers, a process that is suspended, a clock that jumps, and peers that do anything.

use std::cell::Cell;

use super::*;
use crate::error::Errno;
use crate::simulation::{Kernel, Socket};

/// The timeout, and the longest time to find a silent connection: two windows of 4 s, and a sweep of 4 s.
const FOUND_WITHIN: Duration = Duration::from_secs(12);

/// Connections that are silent for the timeout are closed soon after. Others never are.
#[test]
fn silent_connections_are_closed_and_no_others() {
    const PEERS: usize = 200;
    with_seeds(8, |seed| {
        let mut scene = Scene::new(seed, 400);
        // Also with fractions of a second, which the windows of silence do not have.
        let timeout = match seed {
            0 => Duration::from_millis(8_900),
            _ => Duration::from_millis(5_000 + scene.chance.below(60_000) as u64),
        };
        scene.config.idle_timeout = Some(timeout);
        let end = 6 * timeout + 2 * FOUND_WITHIN;
        let peers = scene.come(PEERS, Duration::ZERO);
        let mut last_heard = Vec::new();
        for peer in peers.clone() {
            // The peer talks with gaps shorter than the timeout, and falls silent at some time, or never.
            let silent_from = scene.chance.time(2 * end);
            let mut at = 10 * MILLI;
            let mut last = at;
            while at < silent_from.min(end) {
                scene.machine.at(at, move |kernel| kernel.say(peer, b"!"));
                last = at;
                at += scene.chance.time(timeout) + MILLI;
            }
            last_heard.push(last);
        }
        let (machine, seen) = scene.run(end);
        let mut closed = 0;
        for (peer, last) in peers.zip(last_heard) {
            let ended = machine.kernel(|kernel| kernel.ended(peer)).expect("all are closed in the end");
            if ended >= end {
                assert!(last + timeout + FOUND_WITHIN > end, "peer {peer}, silent from {last:?} on, was not closed");
                continue;
            }
            closed += 1;
            let silence = ended - last;
            assert!(silence >= timeout, "peer {peer} was closed after a silence of {silence:?} of {timeout:?}");
            assert!(silence <= timeout + FOUND_WITHIN, "peer {peer} was closed after {silence:?} of {timeout:?}");
        }
        assert_eq!(seen.counters.silent, closed);
    });
}

/// More connections are silent than one step closes: the next step goes on, and no message is delayed.
#[test]
fn many_silent_connections_are_closed_without_delaying_others() {
    const PEERS: usize = 3_000;
    with_seeds(2, |seed| {
        let mut scene = Scene::new(seed, 4_000);
        scene.config.idle_timeout = Some(8 * SECOND);
        let talkers = scene.come(10, Duration::ZERO);
        scene.come(PEERS, MILLI);
        let talk = scene.talk(talkers, 10 * MILLI, 100 * MILLI, 25 * SECOND);
        let (machine, seen) = scene.run(26 * SECOND);
        assert_eq!(seen.counters.silent, PEERS as u64);
        let wait = talk.longest_wait(&machine);
        assert!(wait < 2 * MILLI, "an echo took {wait:?}");
    });
}

/// While the process is suspended nothing is received, which says nothing about its peers.
#[test]
fn a_process_that_stands_still_closes_no_connection_for_silence() {
    with_seeds(4, |seed| {
        for waits in [false, true] {
            for still in [5 * SECOND, 3_600 * SECOND] {
                let mut scene = Scene::new(seed, 400);
                scene.config.idle_timeout = Some(8 * SECOND);
                let peers = scene.come(50, Duration::ZERO);
                let stops = 3 * SECOND + scene.chance.time(SECOND);
                let to = stops + still + 20 * SECOND;
                // The peers are suspended too, unless the process waits for a core all that time.
                if waits {
                    scene.talk(peers, 2 * SECOND, MILLI, to);
                } else {
                    scene.talk(peers.clone(), 2 * SECOND, MILLI, stops);
                    scene.talk(peers, 2 * SECOND, stops + still, to);
                }
                scene.machine.stand_still(stops, still, waits);
                let (_, seen) = scene.run(to);
                assert_eq!(seen.counters.silent, 0, "closed after standing still for {still:?}");
                let times = u64::from(!waits);
                assert_eq!(seen.suspended.times, times, "waits: {waits}");
                let counted = still.as_secs_f64() * times as f64;
                assert!((seen.suspended.time.as_secs_f64() - counted).abs() < 1.0, "{:?}", seen.suspended);
            }
        }
    });
}

/// Connections that come to a full shard while its process is suspended get the places of those that close meanwhile.
#[test]
fn a_process_that_stands_still_refuses_no_connection_for_which_a_place_is_free() {
    const PEERS: usize = 100;
    with_seeds(4, |seed| {
        let mut scene = Scene::new(seed, 300);
        scene.config.capacity = PEERS as u64;
        let first = scene.come(PEERS, Duration::ZERO);
        scene.machine.stand_still(SECOND, 5 * SECOND, seed % 2 == 0);
        // The new connections come before the resets that make room for them.
        let second = scene.come(20, SECOND - MILLI / 2);
        for peer in first.clone().take(20) {
            let at = 2 * SECOND + scene.chance.time(SECOND);
            scene.machine.at(at, move |kernel| kernel.reset(peer));
        }
        let (machine, seen) = scene.run(8 * SECOND);
        assert_eq!(seen.counters.refused_when_full, 0);
        assert_eq!(seen.opened.len(), PEERS + 20);
        for peer in second {
            assert!(machine.kernel(|kernel| kernel.ended(peer)).is_none_or(|ended| ended >= 8 * SECOND));
        }
    });
}

/// A connection for which no place becomes free is refused: not at once, and not late.
#[test]
fn a_connection_waits_for_a_place_as_long_as_it_should() {
    with_seeds(4, |seed| {
        let mut scene = Scene::new(seed, 300);
        scene.config.capacity = 100;
        scene.come(100, Duration::ZERO);
        let late = scene.come(10, SECOND);
        let (machine, seen) = scene.run(3 * SECOND);
        assert_eq!(seen.counters.refused_when_full, 10);
        for peer in late {
            let ended = machine.kernel(|kernel| kernel.ended(peer)).expect("it is refused");
            let waited = ended - SECOND;
            assert!(waited >= 100 * MILLI && waited < 110 * MILLI, "it waited for {waited:?}");
        }
    });
}

/// A clock of the host that jumps, ahead as after a virtual machine's pause, or even back, ends no connection, and every
/// peer is answered.
#[test]
fn a_clock_that_jumps_harms_no_connection() {
    with_seeds(6, |seed| {
        let mut scene = Scene::new(seed, 400);
        scene.config.idle_timeout = Some(8 * SECOND);
        let peers = scene.come(50, Duration::ZERO);
        let to = 30 * SECOND;
        let talk = scene.talk(peers, SECOND, MILLI, to);
        for _ in 0..10 {
            let (at, by) = (scene.chance.time(to), scene.chance.time(20 * SECOND));
            if seed % 2 == 0 {
                scene.machine.at(at, move |kernel| kernel.clock_jumps_ahead(by));
            } else {
                scene.machine.at(at, move |kernel| kernel.clock_goes_back(by));
            }
        }
        let (machine, seen) = scene.run(to + SECOND);
        assert_eq!(seen.counters.silent, 0);
        talk.longest_wait(&machine);
    });
}

/// For a peer that answers at once the shard spins, for one that takes long it sleeps.
#[test]
fn the_shard_looks_for_work_where_that_pays() {
    const MESSAGES: u32 = 1_000;
    let sleeps = |pause: Duration| {
        let mut scene = Scene::new(0, 100);
        let peer = scene.come(1, Duration::ZERO);
        let talk = scene.talk(peer, pause, 10 * MILLI, 10 * MILLI + pause * MESSAGES);
        let (machine, seen) = scene.run(20 * MILLI + pause * MESSAGES);
        (talk.longest_wait(&machine), seen.counters.sleeps)
    };
    let (_, sleeps_of_a_quick_one) = sleeps(Duration::from_micros(30));
    assert!(sleeps_of_a_quick_one < 100, "{sleeps_of_a_quick_one} sleeps");
    let (wait, sleeps_of_a_slow_one) = sleeps(2 * MILLI);
    assert!(sleeps_of_a_slow_one >= MESSAGES.into(), "{sleeps_of_a_slow_one} sleeps");
    assert!(wait < MILLI / 10, "an echo took {wait:?}");
}

/// Another thread that wants the core gets it again and again, even while the shard always has work.
#[test]
fn a_thread_that_wants_the_core_gets_it() {
    let mut scene = Scene::new(0, 1_000);
    let turn = MILLI / 10;
    scene.machine.kernel(|kernel| kernel.core_wanted = turn);
    let peers = scene.come(500, Duration::ZERO);
    scene.talk(peers, 5 * MILLI, 10 * MILLI, SECOND);
    let (machine, _) = scene.run(SECOND);
    let turns = machine.kernel(|kernel| kernel.yields);
    // That thread has 100 of each 125 us: the shard's slices are then 25 us.
    assert!(turns > 4_000, "{turns} turns in a second");
}

/// Bytes that came before a RST are received where they are asked for, and then its error. Elsewhere they are void, and the
/// error is asked for alone.
#[test]
fn a_connection_that_was_reset_gives_its_last_bytes_where_they_are_asked_for() {
    with_seeds(4, |seed| {
        for (asked, fin) in [(true, false), (true, true), (false, false)] {
            let mut scene = Scene::new(seed, 100);
            scene.config.drain_after_reset = asked;
            let peer = scene.come(1, Duration::ZERO).start;
            // All of it comes before the shard looks again.
            scene.machine.stand_still(SECOND, 2 * MILLI, false);
            scene.machine.at(SECOND + MILLI, move |kernel| {
                kernel.say(peer, &[7; 10]);
                if fin {
                    kernel.fin(peer);
                }
                kernel.reset(peer);
            });
            let (_, seen) = scene.run(2 * SECOND);
            let reasons: Vec<_> = seen.ended.iter().map(|(_, reason)| *reason).collect();
            // The send of the echo is told of the RST.
            let (came, reason) = match (asked, fin) {
                (true, false) => (10, CloseReason::Failed(Errno::ECONNRESET)),
                (true, true) => (10, CloseReason::Failed(Errno::EPIPE)),
                (false, _) => (0, CloseReason::Failed(Errno::ECONNRESET)),
            };
            assert_eq!((seen.counters.bytes_in, reasons), (came, vec![reason]), "asked: {asked}, FIN: {fin}");
        }
    });
}

/// Peers that do anything, until the time `BUSY`. At `END` everything is closed, and until then those whose connections
/// stand are to have all that they said.
const BUSY: Duration = Duration::from_millis(400);
const END: Duration = Duration::from_millis(600);

/// The result of one run of peers that do anything: what the driver saw, what each peer heard, and how many still stood in
/// the end.
fn anything(seed: u64) -> (Seen, Vec<Vec<u8>>, usize) {
    const PEERS: usize = 150;
    let mut scene = Scene::new(seed, 160);
    scene.meddles = true;
    scene.config.max_pending = 2 * BUFFER_BYTES;
    scene.config.capacity = 60 + scene.chance.below(40) as u64;
    scene.config.timing.resets_per_batch = 1 + scene.chance.below(4);
    scene.config.drain_after_reset = scene.chance.one_in(4);
    scene.config.accept_rate = scene.chance.one_in(4).then_some(2_000.0);
    let (completions, short_sends) = (8 + scene.chance.below(100), scene.chance.below(5));
    let late = scene.chance.one_in(2);
    scene.machine.kernel(|kernel| {
        (kernel.completions, kernel.short_sends, kernel.releases_slots_late) = (completions, short_sends, late);
    });
    let first = scene.machine.kernel(|kernel| kernel.expect(PEERS));
    for peer in first..first + PEERS {
        let mut at = scene.chance.time(BUSY / 2);
        let (said, window) = (scene.chance.one_in(4), scene.chance.below(30_000));
        scene.machine.at(at, move |kernel| {
            kernel.connect(peer);
            if said {
                kernel.sockets[peer].window = window;
            }
        });
        for _ in 0..scene.chance.below(30) {
            let before = at;
            at += scene.chance.time(BUSY / 40);
            if before < BUSY && at >= BUSY {
                // The others act on while everything is closed.
                at += END - BUSY;
            }
            match scene.chance.below(40) {
                0 => scene.machine.at(at, move |kernel| kernel.fin(peer)),
                1 => scene.machine.at(at, move |kernel| kernel.reset(peer)),
                2..=8 => {
                    let bytes = scene.chance.below(20_000);
                    scene.machine.at(at, move |kernel| kernel.take(peer, bytes));
                }
                kind => {
                    let bytes = scene.chance.below(if kind < 12 { 20_000 } else { 200 });
                    scene.machine.at(at, move |kernel| kernel.say_next(peer, bytes));
                }
            }
        }
    }
    scene.machine.at(BUSY, move |kernel| (first..first + PEERS).for_each(|peer| kernel.take(peer, usize::MAX)));
    let stand = Rc::new(Cell::new(0));
    let standing = stand.clone();
    scene.machine.at(END, move |kernel| {
        for peer in first..first + PEERS {
            let Socket { said, heard, fin, reset, ended, .. } = &kernel.sockets[peer];
            if !*fin && !*reset && ended.is_none() {
                assert_eq!(heard.len(), *said, "peer {} did not hear all that it said", peer - first);
                standing.set(standing.get() + 1);
            }
        }
    });
    let (machine, seen) = scene.run(END);
    let heard = machine.kernel(|kernel| {
        let all = first..first + PEERS;
        all.map(|peer| std::mem::take(&mut kernel.sockets[peer].heard)).collect::<Vec<_>>()
    });
    for (nth, heard) in heard.iter().enumerate() {
        let wrong = heard.iter().enumerate().find(|(at, byte)| **byte != Kernel::byte(first + nth, *at));
        assert!(wrong.is_none(), "peer {nth} heard something else than it said: {wrong:?}");
    }
    let Snapshot { live, opened, closed, .. } = seen.counters;
    assert_eq!((live, opened), (0, closed));
    assert_eq!((seen.opened.len(), seen.ended.len()), (opened as usize, closed as usize));
    (seen, heard, stand.get())
}

/// Whatever peers, driver and kernel do, each echo is of its own connection and in its order, none is missing, and nothing is left.
#[test]
fn whatever_happens_each_connection_is_its_own() {
    let (sum, standing) = (RefCell::new(Snapshot::default()), Cell::new(0));
    with_seeds(40, |seed| {
        let (seen, _, stand) = anything(seed);
        let before = *sum.borrow();
        *sum.borrow_mut() = before + seen.counters;
        standing.set(standing.get() + stand);
    });
    let Snapshot { parked, overflows, slow_readers, refused_when_full, .. } = sum.into_inner();
    let rare = [parked, overflows, slow_readers, refused_when_full, standing.get() as u64];
    // A single seed need not reach every case.
    let all = std::env::var_os("C1M_SIM_SEED").is_none();
    assert!(!all || rare.iter().all(|times| *times > 0), "too little happens: {rare:?}");
}

/// The same seed gives the same run.
#[test]
fn a_run_can_be_repeated() {
    with_seeds(3, |seed| assert_eq!(anything(seed), anything(seed)));
}

/// A shard that is spoken to now and then waits in its first ring, whichever ring a connection is in. Only the first
/// message after a long silence finds it in the executor.
#[test]
fn messages_wake_a_shard_out_of_its_first_ring() {
    const PEERS: usize = 300;
    with_seeds(8, |seed| {
        // The first ring has room for 168 connections beside its accepts.
        let mut scene = Scene::new(seed, 400);
        let peers = scene.come(PEERS, Duration::ZERO);
        let (from, to) = (SECOND, 3 * SECOND);
        let talk = scene.talk(peers, SECOND, from, to);
        let sleeps = Rc::new(Cell::new(0));
        for at in [from + 50 * MILLI, to] {
            let sleeps = sleeps.clone();
            scene.machine.at(at, move |kernel| sleeps.set(kernel.sleeps_at_doorbell - sleeps.get()));
        }
        let (machine, _) = scene.run(to + SECOND);
        let wait = talk.longest_wait(&machine);
        assert!(wait < MILLI, "an echo took {wait:?}");
        assert_eq!(sleeps.get(), 0, "sleeps in the executor");
        assert!(machine.kernel(|kernel| kernel.sleeps_at_doorbell) > 0, "it does sleep there when nobody talks");
    });
}

/// A shard that has nothing to do for long does not wake to go from its first ring to the executor.
#[test]
fn an_idle_shard_wakes_once_for_each_ring_of_its_doorbell() {
    const RINGS: u32 = 5;
    with_seeds(3, |seed| {
        let scene = Scene::new(seed, 100);
        let sleeps = Rc::new(Cell::new(0));
        for at in [SECOND, 2 * SECOND] {
            let sleeps = sleeps.clone();
            scene.machine.at(at, move |kernel| sleeps.set(kernel.sleeps - sleeps.get()));
        }
        for ring in 1..=2 * RINGS {
            scene.machine.at(ring * SECOND / RINGS - MILLI, Kernel::ring_doorbell);
        }
        scene.run(3 * SECOND);
        assert_eq!(sleeps.get(), u64::from(RINGS));
    });
}

/// Another thread wakes a shard wherever it sleeps.
#[test]
fn the_doorbell_wakes_a_shard_wherever_it_sleeps() {
    with_seeds(8, |seed| {
        let scene = Scene::new(seed, 100);
        // Soon after the connections came it waits in its ring, and later in the executor.
        scene.come(10, Duration::ZERO);
        for at in [20 * MILLI, 30 * MILLI, 900 * MILLI, 950 * MILLI] {
            scene.machine.at(at, Kernel::ring_doorbell);
            scene.machine.at(at + MILLI, move |kernel| assert!(!kernel.is_ringing(), "at {at:?} it slept on"));
        }
        scene.run(2 * SECOND);
    });
}

/// The kernel has no files for accepts. New connections wait in the backlog until the shard tries again, 100 ms later.
/// Meanwhile established connections are answered, and the shard begins no further accepts.
#[test]
fn accepts_that_fail_for_want_of_files_are_tried_again_later() {
    const SHORT: Duration = Duration::from_millis(50);
    const PEERS: usize = 10;
    with_seeds(2, |seed| {
        for errno in [libc::ENFILE, libc::EMFILE, libc::ENOMEM, libc::ENOBUFS] {
            let mut scene = Scene::new(seed, 400);
            let old = scene.come(PEERS, Duration::ZERO);
            let talk = scene.talk(old, MILLI, 20 * MILLI, 200 * MILLI);
            scene.machine.at(SHORT, move |kernel| kernel.fail_accepts(errno));
            scene.come(PEERS, SHORT + MILLI);
            let (machine, seen) = scene.run(300 * MILLI);
            assert!(talk.longest_wait(&machine) < 2 * MILLI, "established connections wait");
            assert_eq!(seen.opened.len(), 2 * PEERS);
            let waited = seen.opened[PEERS] - SHORT;
            assert!((99 * MILLI..110 * MILLI).contains(&waited), "accepts went on after {waited:?}");
            assert_eq!(seen.counters.accept_errors, ACCEPTS, "each accept fails once");
        }
    });
}

/// An accept whose connection broke before it was taken is no shortage: the shard accepts on at once.
#[test]
fn accepts_that_fail_for_their_connection_are_no_reason_to_wait() {
    const BROKEN: Duration = Duration::from_millis(50);
    with_seeds(2, |seed| {
        for errno in [libc::ECONNABORTED, libc::EPERM, libc::EPROTO] {
            let scene = Scene::new(seed, 400);
            scene.machine.at(BROKEN, move |kernel| kernel.fail_accepts(errno));
            scene.come(1, BROKEN + MILLI);
            let (_, seen) = scene.run(300 * MILLI);
            let waited = seen.opened[0] - BROKEN;
            assert!(waited < 5 * MILLI, "accepts went on after {waited:?}");
            assert_eq!(seen.counters.accept_errors, 0);
        }
    });
}
