//! Connections that were to go to another process, and stay as it is gone; or that end before.

use super::*;
use crate::connections::ReadinessToLeave;

/// Bytes that each connection is sent once it has said something.
const ANSWER: usize = 1_000;

/// What happens to a connection that is to leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// It is closed before the other process is gone.
    Closed(CloseMode),
    /// It is closed when what the kernel did for it has ended: it had to send something still. The shard finds out as the
    /// other process is gone, or before.
    ClosedWhenQuiet { as_gone: bool },
    /// It is to close once all is sent, and stays when what the kernel did for it has ended.
    ClosesWhenSent,
    /// It stays, while the kernel has not ended what it does for it.
    Stays,
}

/// Answers, and has each connection leave a while after that.
struct Leaving {
    turns: Turns,
    fate: Fate,
    answered: Vec<ConnId>,
    leaving: Vec<ConnId>,
}

/// When the connections are to leave.
const LEAVE: Duration = Duration::from_millis(20);

type Simulated = Connections<(), Machine>;

impl Leaving {
    fn has_leave(&mut self, connections: &mut Simulated) -> Result<()> {
        for conn in std::mem::take(&mut self.answered) {
            if self.fate == Fate::ClosesWhenSent {
                connections.close(conn, CloseMode::Graceful, CloseReason::Local)?;
            }
            connections.prepare_to_leave(conn)?;
            match self.fate {
                Fate::Closed(mode) => connections.close(conn, mode, CloseReason::Local)?,
                Fate::Stays => {
                    // What the driver wishes meanwhile holds afterwards.
                    let stops = conn.slot() % 2 == 0;
                    connections.pause_reads(conn)?;
                    if !stops {
                        connections.resume_reads(conn)?;
                    }
                    assert_eq!(connections.has_paused_reads(conn), stops);
                }
                Fate::ClosedWhenQuiet { .. } | Fate::ClosesWhenSent => {
                    self.leaving.push(conn);
                    continue;
                }
            }
            connections.stays(conn)?;
            assert_eq!(connections.is_live(conn), self.fate == Fate::Stays);
            assert_eq!(connections.has_paused_reads(conn), self.fate == Fate::Stays && conn.slot() % 2 == 0);
            connections.resume_reads(conn)?;
            assert!(!connections.has_paused_reads(conn));
        }
        for conn in std::mem::take(&mut self.leaving) {
            if connections.readiness_to_leave(conn)? == ReadinessToLeave::NotYet {
                self.leaving.push(conn);
                continue;
            }
            if self.fate == Fate::ClosesWhenSent {
                connections.stays(conn)?;
                continue;
            }
            assert!(connections.pending_bytes(conn) < ANSWER, "the kernel does not send any more");
            connections.close(conn, CloseMode::Immediate, CloseReason::Local)?;
            if self.fate == (Fate::ClosedWhenQuiet { as_gone: true }) {
                connections.stays(conn)?;
            } else {
                assert_eq!(connections.readiness_to_leave(conn)?, ReadinessToLeave::Gone);
            }
        }
        Ok(())
    }
}

impl Driver<Machine> for Leaving {
    type State = ();

    fn opened(&mut self, _: &mut Simulated, _: ConnId) -> Result<()> {
        self.turns.seen().opened.push(self.turns.time());
        Ok(())
    }

    fn received(&mut self, connections: &mut Simulated, conn: ConnId, _: &mut [u8]) -> Result<Reply> {
        connections.send(conn, &[7; ANSWER])?;
        self.answered.push(conn);
        Ok(Reply::Nothing)
    }

    fn ended(&mut self, _: &mut Simulated, _: ConnId, reason: CloseReason) -> Result<()> {
        self.turns.seen().ended.push((self.turns.time(), reason));
        Ok(())
    }

    fn turn(&mut self, connections: &mut Simulated, now: Instant, _: u32) -> Result<Schedule> {
        if self.turns.time() >= LEAVE {
            self.has_leave(connections)?;
        }
        let schedule = self.turns.turn(connections, now)?;
        Ok(if self.leaving.is_empty() { schedule } else { Schedule::Now })
    }
}

/// Has a connection leave whose reads are paused, and resumes them.
struct Resuming {
    turns: Turns,
    conn: Option<ConnId>,
}

impl Driver<Machine> for Resuming {
    type State = ();

    fn opened(&mut self, connections: &mut Simulated, conn: ConnId) -> Result<()> {
        self.conn = Some(conn);
        connections.pause_reads(conn).map(drop)
    }

    fn received(&mut self, _: &mut Simulated, _: ConnId, _: &mut [u8]) -> Result<Reply> {
        Ok(Reply::Nothing)
    }

    fn ended(&mut self, _: &mut Simulated, _: ConnId, _: CloseReason) -> Result<()> {
        Ok(())
    }

    fn turn(&mut self, connections: &mut Simulated, now: Instant, _: u32) -> Result<Schedule> {
        if let Some(conn) = self.conn.filter(|_| self.turns.time() >= SILENT) {
            self.conn = None;
            connections.prepare_to_leave(conn)?;
            assert!(connections.silence(conn) > Some(SILENT / 2));
            connections.resume_reads(conn)?;
            assert_eq!(connections.silence(conn), Some(Duration::ZERO));
            connections.stays(conn)?;
            self.turns.seen().opened.push(self.turns.time());
        }
        self.turns.turn(connections, now)
    }
}

/// How long reads are paused.
const SILENT: Duration = Duration::from_secs(60);

/// The silence of a connection begins anew when its reads are resumed, also while it is to leave.
#[test]
fn a_connection_that_is_to_leave_is_not_silent_after_a_pause() {
    let scene = Scene::new(1, 200);
    scene.come(1, Duration::ZERO);
    scene.machine.at(SILENT, |kernel| kernel.ring_doorbell());
    let (_, seen) = scene.run_driver(2 * SILENT, |turns| Resuming { turns, conn: None });
    assert_eq!(seen.opened.len(), 1, "it was resumed");
}

/// Peers that have room for so many bytes at first, and for all of them in the end.
fn leave(seed: u64, fate: Fate, room: usize) -> Vec<usize> {
    const PEERS: usize = 10;
    let scene = Scene::new(seed, 200);
    let peers = scene.come(PEERS, Duration::ZERO);
    for peer in peers.clone() {
        scene.machine.kernel(|kernel| kernel.sockets[peer].window = room);
        scene.machine.at(10 * MILLI, move |kernel| kernel.say(peer, b"!"));
        scene.machine.at(2 * LEAVE, move |kernel| kernel.take(peer, ANSWER));
    }
    scene.machine.at(LEAVE, |kernel| kernel.ring_doorbell());
    let end = 4 * LEAVE;
    let (machine, seen) =
        scene.run_driver(end, |turns| Leaving { turns, fate, answered: Vec::new(), leaving: Vec::new() });
    let Snapshot { live, opened, closed, lingering, .. } = seen.counters;
    assert_eq!((live, opened, closed, lingering), (0, PEERS as u64, PEERS as u64, 0), "{fate:?}");
    assert!(seen.ended.iter().all(|(at, why)| *why == CloseReason::Local && (fate == Fate::Stays) == (*at >= end)));
    peers.map(|peer| machine.kernel(|kernel| kernel.sockets[peer].heard.len())).collect()
}

/// A connection that has ended while it was to leave stays ended, and its slot becomes free.
#[test]
fn what_has_ended_while_it_was_to_leave_stays_ended() {
    with_seeds(2, |seed| {
        for mode in [CloseMode::Graceful, CloseMode::Lingering, CloseMode::Immediate, CloseMode::Abort] {
            leave(seed, Fate::Closed(mode), usize::MAX);
        }
    });
}

/// The same for one whose peer does not read: what it was still to be sent goes with it.
#[test]
fn what_a_connection_had_to_send_holds_no_slot_once_it_has_ended() {
    with_seeds(2, |seed| {
        for as_gone in [false, true] {
            let heard = leave(seed, Fate::ClosedWhenQuiet { as_gone }, 100);
            assert!(heard.iter().all(|heard| *heard == 100), "{heard:?}");
        }
    });
}

/// A connection that stays loses nothing of what it was being sent, whatever the kernel has ended for it by then.
#[test]
fn a_connection_that_stays_is_sent_all() {
    with_seeds(2, |seed| {
        for room in [0, 100] {
            for fate in [Fate::Stays, Fate::ClosesWhenSent] {
                let heard = leave(seed, fate, room);
                assert!(heard.iter().all(|heard| *heard == ANSWER), "{fate:?}: {heard:?} with room for {room}");
            }
        }
    });
}
