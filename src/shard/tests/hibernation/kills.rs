//! Processes that are killed while something is to be sent to sleeping connections that only they have. Such a connection
//! must not go on in the next process: its peer would miss bytes in the middle of what it hears. It is lost, and its peer is
//! told so.

use super::*;

/// When a process is killed.
const KILLED: Duration = Duration::from_secs(2);

/// What is said after a connection was lost is answered by a RST, and by nothing else. This is said late enough.
const LATER: Duration = Duration::from_secs(4);

/// A night with so many peers, whose bytes the driver keeps, and in which no connection can be woken from `KILLED` on, if it
/// could before.
fn night(seed: u64, peers: usize, restore: usize) -> (Night, std::ops::Range<usize>) {
    let mut catcher = Catcher::default();
    catcher.faults.restore = restore;
    let mut night = Night::new(seed, 10, 40, catcher);
    night.share_entries();
    let peers = night.come(peers, Duration::ZERO, MILLI);
    night.command(10 * MILLI, Command::Collect);
    for peer in peers.clone() {
        night.say(20 * MILLI, peer, 3);
    }
    night.machine.at(KILLED, |kernel| kernel.catcher.as_mut().expect("they sleep").faults.restore = 1);
    (night, peers)
}

/// Runs a night in which the connection of a peer is lost at `KILLED`. Returns how many of its bytes the peer has not heard.
fn lost(night: Night, peer: usize) -> usize {
    let (machine, seen) = night.run(LATER + SECOND);
    let Snapshot { lost_in_takeover, .. } = seen.counters;
    assert_eq!(lost_in_takeover, 1, "{:?}", (&seen.ended, seen.counters));
    let ended = machine.kernel(|kernel| kernel.sockets[peer].ended.map(|(how, _)| how).zip(kernel.ended(peer)));
    let (how, at) = ended.expect("its peer does not know");
    assert!(how == Ending::Reset && at < KILLED + SECOND, "{how:?} at {at:?}");
    missing(&machine, peer)
}

/// Bytes that waited for a slot are gone with the process, and so is a close behind them.
#[test]
fn a_connection_does_not_go_on_without_what_waited_for_it() {
    with_seeds(4, |seed| {
        for closes in [None, Some(CloseMode::Graceful), Some(CloseMode::Lingering)] {
            let (night, peers) = night(seed, 1, 1);
            night.command(SECOND, Command::Push(1));
            if let Some(mode) = closes {
                night.command(SECOND, Command::Close(1, mode));
            }
            night.command(KILLED, Command::Restart);
            assert_eq!(lost(night, peers.start), 3, "{closes:?}");
        }
    });
}

/// What is on its way as the connections are being handed over can be sent again only by the process that hands over.
#[test]
fn a_connection_does_not_go_on_without_what_is_on_its_way() {
    with_seeds(8, |seed| {
        let (night, peers) = night(seed, 1, 0);
        let night = night.without_sockets();
        // The acknowledgement comes to the next process.
        night.machine.at(KILLED - 20 * MILLI, move |kernel| kernel.delay(peers.start, 100 * MILLI));
        night.command(KILLED - 10 * MILLI, Command::Push(1));
        night.command(KILLED, Command::Restart);
        // It has come before the RST.
        assert_eq!(lost(night, peers.start), 0);
    });
}

/// The same where the handing over was given up, and the process is killed after that.
#[test]
fn a_connection_that_was_given_in_vain_does_not_go_on_without_what_is_on_its_way() {
    with_seeds(4, |seed| {
        let (night, peers) = night(seed, 2, 1);
        let night = night.without_sockets();
        // The acknowledgement does not come before the end.
        night.machine.at(SECOND - MILLI, move |kernel| kernel.delay(peers.start, 10 * SECOND));
        night.command(SECOND, Command::Push(1));
        night.command(SECOND + 10 * MILLI, Command::GiveAllBut(2));
        night.command(SECOND + 100 * MILLI, Command::TakeBack);
        night.machine.at(KILLED - MILLI, move |kernel| kernel.delay(peers.start, Duration::ZERO));
        night.command(KILLED, Command::Restart);
        assert_eq!(lost(night, peers.start), 0);
    });
}

/// One to which nothing was on its way any more goes on.
#[test]
fn a_connection_that_has_sent_all_goes_on() {
    with_seeds(4, |seed| {
        let (night, peers) = night(seed, 1, 0);
        let night = night.without_sockets();
        night.command(KILLED - 100 * MILLI, Command::Push(1));
        night.command(KILLED, Command::Restart);
        night.command(KILLED + MILLI, Command::Echo);
        night.say(LATER, peers.start, 5);
        let (machine, seen) = night.run(LATER + SECOND);
        assert_eq!((seen.counters.lost_in_takeover, missing(&machine, peers.start)), (0, 0));
    });
}

/// Peers talk, the driver answers at once or later, wakes fail, and the process is killed again and again. Each peer hears all
/// that it said, or a beginning of that and then a RST.
#[test]
fn no_kill_leaves_a_gap() {
    const PEERS: usize = 30;
    const BUSY: Duration = Duration::from_secs(10);
    const END: Duration = Duration::from_secs(40);
    let lost = Cell::new(0);
    with_seeds(40, |seed| {
        let mut chance = Chance(mixed(!seed));
        let mut catcher = Catcher::default();
        catcher.faults.restore = [1, 2, 5][chance.below(3)];
        catcher.network.jitter = MILLI * (seed % 3) as u32;
        let slots = [10, PEERS as u32][chance.below(2)];
        let mut night = Night::new(seed, slots, PEERS as u32 + ACCEPTS as u32, catcher);
        night.config.hibernation.as_mut().expect("they sleep").socketless = chance.one_in(2);
        night.share_entries();
        let peers = night.come(PEERS, Duration::ZERO, 20 * MILLI);
        for peer in peers.clone() {
            let mut at = chance.time(SECOND);
            while at < BUSY {
                let most = if chance.one_in(10) { 3_000 } else { 50 };
                let bytes = 1 + chance.below(most);
                match chance.below(20) {
                    0..=1 => night.command(at, Command::Collect),
                    2..=3 => night.command(at, Command::Echo),
                    4..=9 => night.command(at, Command::Push(1 + chance.below(PEERS) as u32)),
                    _ => night.say(at, peer, bytes),
                }
                at += chance.time(4 * AFTER);
            }
        }
        for second in 1..9 {
            night.command(second * SECOND + chance.time(SECOND), Command::Restart);
        }
        night.machine.at(BUSY, |kernel| kernel.catcher.as_mut().expect("they sleep").faults.restore = 0);
        night.command(BUSY, Command::Echo);
        night.command(BUSY + MILLI, Command::PushAll);
        let (machine, seen) = night.run(END);
        lost.set(lost.get() + seen.counters.lost_in_takeover);
        for peer in peers {
            let ended = machine.kernel(|kernel| kernel.ended(peer)).is_some_and(|at| at < END);
            assert!(missing(&machine, peer) == 0 || ended, "peer {peer}: {:?}", seen.counters);
        }
    });
    assert!(std::env::var_os("C1M_SIM_SEED").is_some() || lost.get() > 10, "few were lost: {}", lost.get());
}
