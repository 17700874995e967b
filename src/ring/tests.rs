//! One ring against the real kernel, with queues so small that they fill.

use super::*;
use crate::hibernation::Checkpoint;
use crate::sys::repair::{self, Wish};
use crate::sys::{Catcher, Doorbell, skips};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::time::Duration;

const TINY: Queues = Queues { submissions: 8, completions: 16 };

fn token(slot: u32) -> Token {
    Token { slot, generation: 0, operation: Operation::Close }
}

/// A ring with `count` accepted connections in its first slots, and their peers.
fn connected(count: u32, queues: Queues) -> (Ring, Vec<TcpStream>) {
    connected_to(&Doorbell::new().unwrap(), count, queues, quirks().unwrap())
}

/// The same, with a doorbell to listen to, and for a kernel of certain habits.
fn connected_to(doorbell: &Doorbell, count: u32, queues: Queues, quirks: Quirks) -> (Ring, Vec<TcpStream>) {
    let mut ring = Ring::new(count, queues, doorbell.raw(), quirks, Accepts::Direct).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut peers = Vec::new();
    for slot in 0..count {
        peers.push(TcpStream::connect(listener.local_addr().unwrap()).unwrap());
        ring.accept(listener.as_raw_fd(), token(slot)).unwrap();
        let done = gather(&mut ring, 1);
        assert!(matches!(done[0].outcome, Outcome::Accepted(None)), "{done:?}");
    }
    (ring, peers)
}

/// Enters and reaps until `count` completions came.
fn gather(ring: &mut Ring, count: usize) -> Vec<Completion> {
    let mut done = Vec::new();
    while done.len() < count {
        ring.enter().unwrap();
        ring.reap(&mut done).unwrap();
    }
    done
}

/// More completions than the queue holds, none reaped in between: the kernel keeps them back,
/// and not one is lost. The submission queue, full again and again, is submitted early.
#[test]
fn an_overflowing_completion_queue_loses_nothing() {
    const COUNT: u32 = 100;
    let (mut ring, mut peers) = connected(COUNT, TINY);
    for (slot, peer) in peers.iter_mut().enumerate() {
        peer.write_all(&[slot as u8]).unwrap();
    }
    let mut buffers = Buffers::default();
    for slot in 0..COUNT {
        ring.receive(token(slot), buffers.take()).unwrap();
    }
    assert!(ring.enter().unwrap(), "100 completions must overflow a queue of 16");
    let done = gather(&mut ring, COUNT as usize);
    assert!(!ring.uring.submission().cq_overflow());
    let mut seen = vec![false; COUNT as usize];
    for completion in done {
        let Outcome::Received { mut buffer, len: 1, .. } = completion.outcome else { panic!("{completion:?}") };
        assert_eq!(u32::from(buffer.bytes()[0]), completion.token.slot, "another connection's bytes");
        seen[completion.token.slot as usize] = true;
    }
    assert!(seen.iter().all(|seen| *seen));
}

/// While completions are kept back, a send is not taken for done: its short result may be
/// among them.
#[test]
fn sends_are_not_done_while_completions_are_kept_back() {
    const COUNT: u32 = 40;
    let (mut ring, mut peers) = connected(COUNT, TINY);
    let mut buffers = Buffers::default();
    for slot in 0..COUNT {
        ring.receive(token(slot), buffers.take()).unwrap();
        ring.send(token(slot), buffers.take(), 0..10).unwrap();
    }
    assert!(ring.enter().unwrap());
    let mut sent = Vec::new();
    ring.finish_sends(&mut buffers, &mut sent);
    assert!(sent.is_empty(), "{sent:?}");
    let done = gather(&mut ring, COUNT as usize);
    assert!(done.iter().all(|one| matches!(one.outcome, Outcome::Empty(_))));
    ring.finish_sends(&mut buffers, &mut sent);
    assert_eq!(sent.len(), COUNT as usize);
    for peer in &mut peers {
        peer.read_exact(&mut [0; 10]).unwrap();
    }
}

/// A full socket takes part of a send; what is left is told exactly, and a parked send brings
/// the rest once the peer reads.
#[test]
fn a_short_send_tells_what_is_left() {
    let (mut ring, mut peers) = connected(1, TINY);
    let mut buffers = Buffers::default();
    let mut taken = 0;
    let rest = loop {
        let mut buffer = buffers.take();
        buffer.bytes().fill(7);
        let len = buffer.bytes().len();
        ring.send(token(0), buffer, 0..len).unwrap();
        ring.enter().unwrap();
        let mut done = Vec::new();
        ring.reap(&mut done).unwrap();
        match done.pop().map(|one| one.outcome) {
            None => taken += len,
            Some(Outcome::SentShort(_, rest)) => break (taken += rest.start, len - rest.start).1,
            other => panic!("{other:?}"),
        }
        ring.finish_sends(&mut buffers, &mut Vec::new());
    };
    assert!(rest > 0);
    ring.park_send(token(0), vec![9; 100_000].into(), 0..100_000).unwrap();
    ring.enter().unwrap();
    assert!(ring.has_parked_send(token(0)));
    let mut peer = peers.remove(0);
    let reader = std::thread::spawn(move || {
        let mut all = vec![0; taken + 100_000];
        peer.read_exact(&mut all).unwrap();
        all.iter().filter(|byte| **byte == 9).count()
    });
    let done = gather(&mut ring, 1);
    assert!(matches!(done[0].outcome, Outcome::ParkedSent), "{done:?}");
    assert_eq!(reader.join().unwrap(), 100_000);
}

/// Closing with reset sends an RST and ends the poll by itself, which closing in order does
/// not.
#[test]
fn a_reset_ends_the_poll() {
    let (mut ring, mut peers) = connected(1, TINY);
    ring.poll(token(0), false).unwrap();
    ring.enter().unwrap();
    ring.reset(token(0)).unwrap();
    ring.close(token(0)).unwrap();
    let done = gather(&mut ring, 2);
    assert!(done.iter().any(|one| matches!(one.outcome, Outcome::Ready { armed: false, .. })), "{done:?}");
    assert!(done.iter().any(|one| matches!(one.outcome, Outcome::Closed)), "{done:?}");
    let error = peers[0].read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

/// A reset alone ends the connection and its poll, and leaves the descriptor to be closed later.
#[test]
fn what_is_reset_can_be_closed_later() {
    let (mut ring, mut peers) = connected(1, TINY);
    ring.poll(token(0), false).unwrap();
    ring.reset(token(0)).unwrap();
    let done = gather(&mut ring, 1);
    assert!(matches!(done[..], [Completion { outcome: Outcome::Ready { armed: false, .. }, .. }]), "{done:?}");
    let error = peers[0].read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    ring.close(token(0)).unwrap();
    let done = gather(&mut ring, 1);
    assert!(matches!(done[..], [Completion { outcome: Outcome::Closed, .. }]), "{done:?}");
}

/// A service resets more connections at once than the submission queue holds. Each address stays where the kernel reads it
/// until the kernel has taken its reset.
#[test]
fn a_queue_full_of_resets_keeps_their_addresses() {
    const COUNT: u32 = TINY.submissions;
    let (mut ring, mut peers) = connected(COUNT + 1, TINY);
    for slot in 0..COUNT {
        ring.reset(token(slot)).unwrap();
        assert_eq!((ring.queued, ring.arguments.len()), (slot + 1, slot as usize + 1));
    }
    // The queue is full: it is submitted, and this one waits with its own address.
    ring.reset(token(COUNT)).unwrap();
    assert_eq!((ring.queued, ring.arguments.len()), (1, 1));
    ring.enter().unwrap();
    assert_eq!((ring.queued, ring.arguments.len()), (0, 0));
    for peer in &mut peers {
        assert_eq!(peer.read(&mut [0]).unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    }
}

/// What goes on in another descriptor of the socket is not shut down with the slot, whatever the kernel's habits.
#[test]
fn a_slot_that_is_closed_alone_leaves_the_socket_as_it_is() {
    for releases_slots_late in [false, true] {
        let quirks = Quirks { releases_slots_late, ..quirks().unwrap() };
        let (mut ring, mut peers) = connected_to(&Doorbell::new().unwrap(), 1, TINY, quirks);
        let Ok(copy) = ring.copy_descriptor(token(0)).unwrap() else { return };
        ring.close_ours(token(0)).unwrap();
        let done = gather(&mut ring, 1);
        assert!(matches!(done[..], [Completion { outcome: Outcome::Closed, .. }]), "{done:?}");
        let mut copy = TcpStream::from(copy);
        peers[0].write_all(b"?").unwrap();
        copy.read_exact(&mut [0]).unwrap();
        copy.write_all(b"!").unwrap();
        peers[0].read_exact(&mut [0]).unwrap();
    }
}

/// A sleeper's socket is emptied and its slot closed. Then another sleeper wakes in that socket. Closing the slot with a
/// shutdown, as kernels before 6.13 otherwise need, would have ended that one.
#[test]
fn the_socket_of_a_closed_slot_serves_another_connection() {
    let catcher = Catcher::new(1, 10, 0);
    if !skips::may("no sleeping connections", catcher.as_ref()) {
        return;
    }
    let quirks = Quirks { releases_slots_late: true, ..quirks().unwrap() };
    let (mut ring, mut peers) = connected_to(&Doorbell::new().unwrap(), 2, TINY, quirks);
    let mut asleep = Vec::new();
    for slot in 0..2 {
        let Ok(copy) = ring.copy_descriptor(token(slot)).unwrap() else { return };
        let (tuple, negotiated) = repair::identify(&copy).unwrap().unwrap();
        let progress = repair::checkpoint(&copy).unwrap().unwrap();
        let blank = repair::blank(copy, &tuple).unwrap();
        ring.close_ours(token(slot)).unwrap();
        gather(&mut ring, 1);
        asleep.push((Checkpoint { tuple, negotiated, progress }, blank));
    }
    let (_, blank) = asleep.remove(0);
    let (checkpoint, _) = asleep.remove(0);
    let wish = Wish { program: catcher.as_ref().unwrap().program(), no_delay: true, keepalive: None };
    let mut woken = TcpStream::from(repair::restore(&checkpoint, &wish, Some(blank)).unwrap());
    peers[1].write_all(b"?").unwrap();
    woken.read_exact(&mut [0]).unwrap();
    woken.write_all(b"!").unwrap();
    peers[1].read_exact(&mut [0]).unwrap();
}

#[test]
fn a_removed_poll_lets_a_close_send_its_fin() {
    let (mut ring, mut peers) = connected(1, TINY);
    ring.poll(token(0), false).unwrap();
    ring.enter().unwrap();
    ring.remove_poll(token(0)).unwrap();
    ring.close(token(0)).unwrap();
    gather(&mut ring, 2);
    assert_eq!(peers[0].read(&mut [0]).unwrap(), 0);
}

/// A lasting poll fires for each arrival and stays armed; removing it ends it.
#[test]
fn a_lasting_poll_stays_until_it_is_removed() {
    let (mut ring, mut peers) = connected(1, TINY);
    ring.poll(token(0), true).unwrap();
    for _ in 0..3 {
        peers[0].write_all(b"x").unwrap();
        let done = gather(&mut ring, 1);
        assert!(matches!(done[0].outcome, Outcome::Ready { armed: true, .. }), "{done:?}");
    }
    ring.remove_poll(token(0)).unwrap();
    let done = gather(&mut ring, 1);
    assert!(matches!(done[0].outcome, Outcome::Ready { armed: false, .. }), "{done:?}");
}

/// A shard that sleeps is woken not only once, neither as this kernel wants its rings opened nor as
/// others do.
#[test]
fn every_wake_up_rings() {
    let found = quirks().unwrap();
    for work in [found.work, TaskWork::Cooperative] {
        let doorbell = Doorbell::new().unwrap();
        let (mut ring, mut peers) = connected_to(&doorbell, 1, TINY, Quirks { work, ..found });
        for round in 0..3 {
            ring.poll(token(0), false).unwrap();
            ring.enter().unwrap();
            ring.wake_on_completion(true);
            assert!(!ring.has_work(), "{work:?}, round {round}");
            peers[0].write_all(b"x").unwrap();
            assert!(doorbell.rings_within(Duration::from_secs(20)), "{work:?}, round {round}: silence");
            assert!(ring.has_work(), "{work:?}, round {round}: rung for nothing");
            ring.wake_on_completion(false);
            ring.receive(token(0), Buffers::default().take()).unwrap();
            gather(&mut ring, 2);
        }
    }
}

/// Connections that came before the accepts, and those that come after, are accepted, whether or not the accepts wait
/// first.
#[test]
fn accepts_bring_connections_that_came_before_and_after_them() {
    let found = quirks().unwrap();
    for accepts_wait_first in [found.accepts_wait_first, false] {
        let doorbell = Doorbell::new().unwrap();
        let quirks = Quirks { accepts_wait_first, ..found };
        let mut ring = Ring::new(6, TINY, doorbell.raw(), quirks, Accepts::Direct).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let dial = || TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let mut peers = vec![dial(), dial()];
        for slot in 0..4 {
            ring.accept(listener.as_raw_fd(), token(slot)).unwrap();
        }
        let mut done = gather(&mut ring, 2);
        peers.extend([dial(), dial(), dial(), dial()]);
        done.extend(gather(&mut ring, 2));
        assert!(!ring.has_work(), "{accepts_wait_first}: {done:?}");
        ring.accept(listener.as_raw_fd(), token(4)).unwrap();
        ring.accept(listener.as_raw_fd(), token(5)).unwrap();
        done.extend(gather(&mut ring, 2));
        let mut slots: Vec<_> = done.iter().map(|completion| completion.token.slot).collect();
        slots.sort_unstable();
        assert_eq!(slots, [0, 1, 2, 3, 4, 5], "{accepts_wait_first}: {done:?}");
        assert!(done.iter().all(|completion| matches!(completion.outcome, Outcome::Accepted(None))), "{done:?}");
    }
}

/// Whether or not the kernel keeps the descriptor of a closed slot while a poll waits, it lets go
/// once that is removed.
#[test]
fn a_removed_poll_lets_closed_descriptors_go() {
    let doorbell = Doorbell::new().unwrap();
    let mut ring = Ring::new(2, TINY, doorbell.raw(), quirks().unwrap(), Accepts::Direct).unwrap();
    let (idle, _its_writer) = std::io::pipe().unwrap();
    let (closed, writer) = std::io::pipe().unwrap();
    ring.put(0, &idle).unwrap();
    ring.put(1, &closed).unwrap();
    drop(closed);
    ring.poll(token(0), false).unwrap();
    ring.close(token(1)).unwrap();
    let mut done = Vec::new();
    while !done.iter().any(|one: &Completion| matches!(one.outcome, Outcome::Closed)) {
        done.extend(gather(&mut ring, 1));
    }
    ring.remove_poll(token(0)).unwrap();
    let done = gather(&mut ring, 1);
    assert!(matches!(done[..], [Completion { outcome: Outcome::Ready { armed: false, .. }, .. }]), "{done:?}");
    let mut broken = libc::pollfd { fd: writer.as_raw_fd(), events: 0, revents: 0 };
    // SAFETY: one entry, which outlives the call.
    let woken = unsafe { libc::poll(&raw mut broken, 1, 20_000) };
    assert_eq!((woken, broken.revents), (1, libc::POLLERR), "the descriptor is still open");
}

/// A socket that cannot be installed ends its dial with one completion, not with two, nor with none.
#[test]
fn a_failed_install_is_all_that_comes_of_a_dial() {
    let doorbell = Doorbell::new().unwrap();
    let mut ring = Ring::new(4, TINY, doorbell.raw(), quirks().unwrap(), Accepts::Direct).unwrap();
    ring.dial(1_000_000, "127.0.0.1:9".parse().unwrap(), token(0)).unwrap();
    ring.poll(token(1), false).unwrap();
    // The poll of an empty slot fails behind it: whatever came of the dial is there by then.
    let done = gather(&mut ring, 2);
    ring.enter().unwrap();
    let mut more = Vec::new();
    ring.reap(&mut more).unwrap();
    let of_dial = done.iter().chain(&more).filter(|one| one.token.slot == 0).collect::<Vec<_>>();
    assert!(
        matches!(of_dial[..], [Completion { outcome: Outcome::InstallFailed(Errno::EBADF), .. }]),
        "{done:?} {more:?}"
    );
}

/// What is to clear the kernel's flag makes task work, and leaves nothing behind: neither the flag nor a completion that
/// a driver must handle.
#[test]
fn task_work_that_the_ring_makes_settles() {
    let (mut ring, _peers) = connected(1, TINY);
    ring.make_task_work().unwrap();
    let done = gather(&mut ring, 1);
    assert!(matches!(done[..], [Completion { outcome: Outcome::Settled, .. }]), "{done:?}");
    assert!(!ring.has_work());
}

/// A flag that stays set although enters find nothing is cleared by task work of the ring's own.
#[test]
fn a_flag_that_is_set_in_vain_is_cleared() {
    let (mut ring, _peers) = connected(1, TINY);
    ring.futile_enters = FUTILE_ENTERS;
    // Without the flag there is nothing to clear.
    ring.enter().unwrap();
    assert_eq!((ring.futile_enters, ring.has_work()), (0, false));
}

#[test]
fn this_host_has_every_operation() {
    probe().unwrap();
}

/// The kernel ends a ring behind the back of the thread that opened it, and interrupts that thread for it. An embedder's own
/// thread starts a server, and its reads must not fail for that.
#[test]
fn a_probe_interrupts_no_read_of_its_caller() {
    let (mut reader, _writer) = std::os::unix::net::UnixStream::pair().unwrap();
    reader.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    for round in 0..20 {
        probe().unwrap();
        assert_eq!(reader.read(&mut [0]).unwrap_err().kind(), std::io::ErrorKind::WouldBlock, "round {round}");
    }
}
