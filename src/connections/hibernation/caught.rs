//! Segments that were caught for sleeping connections.

use super::entries::Whereabouts;
use super::wake::Wake;
use super::{Around, Caught, Hibernation};
use crate::connections::close_reason::CloseReason;
use crate::constants::BUFFER_BYTES;
use crate::error::Result;
use crate::hibernation::answer::{Answer, LONGEST};
use crate::hibernation::judge::{Reason, Verdict, judge, same};
use crate::hibernation::segment::{Segment, checksum_is_right};
use crate::hibernation::{Checkpoint, Progress};
use crate::ring::RingOps;
use crate::stats::Counters;
use crate::sys::CaughtAt;
use crate::token::{ConnId, Operation};

/// What came of a caught segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// The segment has gone its way, or was answered.
    Settled,
    /// A connection is awake again, and its socket gets the segment. It is to be parked.
    Woke(ConnId),
    /// A connection is awake again, and the segment's payload is for its driver.
    Delivered(ConnId),
    /// The segment's payload is for the driver of the connection with this name, which sleeps on.
    Heard(ConnId),
}

/// The payload of the segment that woke a connection, and what its acknowledgement needs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Delivery {
    checkpoint: Checkpoint,
    segment: Segment,
    caught: CaughtAt,
}

/// Whether a segment with this verdict was one that its connection expects, whose acknowledgement counts.
fn is_accepted(verdict: &Verdict) -> bool {
    matches!(verdict, Verdict::Deliver(_) | Verdict::Reinject(_) | Verdict::PeerEnds(_) | Verdict::Update(_))
}

impl<S, R> Around<'_, S, R> {
    /// As `Engine::is_opened`.
    fn is_opened(&self, _name: ConnId) -> bool {
        #[cfg(feature = "tls")]
        return self.tls.is_none_or(|tls| tls.has_session(_name));
        #[cfg(not(feature = "tls"))]
        true
    }
}

impl<S: Default> Hibernation<S> {
    /// Whether a segment was caught that may be taken.
    pub fn has_caught(&mut self) -> bool {
        !self.given.freezes() && self.host.has_caught()
    }

    /// Takes the next segment that was caught. `None` if there is none.
    pub fn next_arrival<R: RingOps>(&mut self, around: &mut Around<'_, S, R>) -> Result<Option<Arrival>> {
        if self.given.freezes() {
            return Ok(None);
        }
        let Some(caught) = self.host.next_caught(&mut self.bytes) else { return Ok(None) };
        let counters = around.parts.counters;
        counters.segments_caught.add(1);
        let Caught { index, tuple, whole_len, .. } = caught;
        let ours = self.entries.tuple(index).is_some_and(|ends| same(&ends, &tuple));
        let whereabouts = if ours { self.entries.whereabouts(index) } else { Whereabouts::Free };
        // What is let go gets a new checksum, so a damaged segment must not be.
        let segment = Segment::parse(&self.bytes, whole_len);
        let Some(segment) = segment.filter(|_| checksum_is_right(&tuple, &self.bytes, whole_len)) else {
            counters.segments_malformed.add(1);
            return Ok(Some(Arrival::Settled));
        };
        match whereabouts {
            Whereabouts::Asleep | Whereabouts::Sending => return self.judge(around, &caught, segment).map(Some),
            Whereabouts::Ending => self.heard_while_ending(around, &caught, &segment),
            Whereabouts::Drowsy => {
                // It has something to do again. From here on its segments go straight to its socket.
                self.entries.move_to(index, Whereabouts::Roused);
                self.leave_table(index);
                self.let_go(&caught);
            }
            // It was caught before the connection woke, or is of other ends with the same tag.
            Whereabouts::Awake | Whereabouts::Roused | Whereabouts::Away | Whereabouts::Free | Whereabouts::Over => {
                if !ours && self.host.exempt(&tuple).is_err() {
                    self.unanswered += 1;
                }
                self.let_go(&caught)
            }
        }
        Ok(Some(Arrival::Settled))
    }

    /// Does what a segment for a sleeping connection calls for.
    fn judge<R: RingOps>(
        &mut self,
        around: &mut Around<'_, S, R>,
        caught: &Caught,
        segment: Segment,
    ) -> Result<Arrival> {
        let (counters, index) = (around.parts.counters, caught.index);
        let Some((checkpoint, verdict)) = self.verdict(around, caught, &segment) else { return Ok(Arrival::Settled) };
        let verdict = match verdict {
            // Its peer can still receive, and our FIN comes behind what is kept for it.
            Verdict::PeerEnds(progress) if self.has_unsent(self.entries.name_of(index)) => Verdict::Reinject(progress),
            verdict => verdict,
        };
        let acknowledgement = Answer::acknowledgement(&checkpoint.progress);
        // A step of a handshake waits in the socket for its turn, as those of connections that are awake do.
        let is_whole = segment.payload <= BUFFER_BYTES && self.bytes.len() == caught.whole_len;
        let delivers = is_whole && around.is_opened(self.entries.name_of(index));
        match verdict {
            Verdict::Deliver(progress) if delivers => {
                let checkpoint = Checkpoint { progress, ..checkpoint };
                let delivery = Delivery { checkpoint, segment, caught: caught.at };
                if let Some(name) = self.hear_asleep(around, index, &checkpoint) {
                    self.delivery = Some(delivery);
                    return Ok(Arrival::Heard(name));
                }
                if let Some(conn) = self.wake_by_peer(around, caught, &checkpoint, segment.echo())? {
                    self.delivery = Some(delivery);
                    return Ok(Arrival::Delivered(conn));
                }
            }
            Verdict::Deliver(progress) | Verdict::Reinject(progress) => {
                let progress = Progress { received: checkpoint.progress.received, ..progress };
                // The socket sees the segment's timestamp when it gets the segment. Before that an older segment may come.
                if let Some(conn) = self.wake_by_peer(around, caught, &Checkpoint { progress, ..checkpoint }, 0)? {
                    self.let_go(caught);
                    self.woke_for(caught.at);
                    return Ok(Arrival::Woke(conn));
                }
            }
            Verdict::PeerEnds(progress) => {
                self.entries.progressed(index, &progress);
                self.gone(around, index, CloseReason::PeerClosed);
                self.answer_fin(around, &Checkpoint { progress, ..checkpoint }, index, segment.echo());
            }
            Verdict::PeerReset => {
                self.leave_table(index);
                self.gone(around, index, CloseReason::PeerReset);
            }
            Verdict::Acknowledge => self.answer(counters, &checkpoint, acknowledgement, segment.echo()),
            Verdict::Challenge(reason) => {
                counters.segments_outside.add((reason != Reason::Syn).into());
                self.challenge(counters, &checkpoint, acknowledgement, segment.echo());
            }
            Verdict::Update(progress) => self.entries.progressed(index, &progress),
            Verdict::Refuse(_) => counters.segments_outside.add(1),
        }
        Ok(Arrival::Settled)
    }

    /// The verdict on a segment for a sleeping connection, and the state from which the connection goes on. What the segment
    /// acknowledges has arrived: where that was what the end of the connection waited for, it has ended, and nothing is left
    /// to do.
    fn verdict<R: RingOps>(
        &mut self,
        around: &mut Around<'_, S, R>,
        caught: &Caught,
        segment: &Segment,
    ) -> Option<(Checkpoint, Verdict)> {
        let index = caught.index;
        let checkpoint = self.checkpoint(index)?;
        let verdict = judge(&checkpoint, &caught.tuple, segment);
        if !matches!(verdict, Verdict::Refuse(_) | Verdict::Challenge(_)) {
            self.keepalive.forget(index);
        }
        if !is_accepted(&verdict) || self.unacknowledged(index) == 0 {
            return Some((checkpoint, verdict));
        }
        self.acknowledged(around, index, segment.acknowledgement);
        if self.entries.whereabouts(index) == Whereabouts::Ending {
            self.heard_while_ending(around, caught, segment);
            return None;
        }
        if !matches!(verdict, Verdict::Update(_)) {
            // If the peer sends more before it has what is on its way to it, its socket shall send that.
            self.recall(self.entries.name_of(index));
        }
        let checkpoint = self.entries.checkpoint(index)?;
        Some((checkpoint, judge(&checkpoint, &caught.tuple, segment)))
    }

    /// Wakes a connection because of its peer's segment; for `seen` see `wake`. `None` if it still sleeps, and the peer sends
    /// the segment again, or is gone.
    fn wake_by_peer<R: RingOps>(
        &mut self,
        around: &mut Around<'_, S, R>,
        caught: &Caught,
        checkpoint: &Checkpoint,
        seen: u32,
    ) -> Result<Option<ConnId>> {
        Ok(match self.wake(around, caught.index, checkpoint, seen)? {
            Wake::Awake(conn) => {
                around.parts.counters.woken_by_peer.add(1);
                Some(conn)
            }
            Wake::Later | Wake::NoRoute(_) => {
                self.unanswered += 1;
                None
            }
            Wake::Gone => None,
        })
    }

    /// Lets the caught segment go the way that it would have gone.
    pub(super) fn let_go(&mut self, caught: &Caught) {
        if self.host.reinject(&caught.tuple, &mut self.bytes, caught.whole_len).is_err() {
            // The kernel has no memory for it, or its route is gone. The peer sends it again, unless it was a RST: that is lost,
            // as on the network.
            self.unanswered += 1;
        }
    }

    /// Copies the payload that was delivered last, to a woken connection or to one that sleeps on, and counts how long
    /// that took. Returns the bytes copied: at most what `into` holds.
    pub fn copy_payload(&self, into: &mut [u8]) -> usize {
        let Some(Delivery { segment, caught, .. }) = &self.delivery else { return 0 };
        let payload = self.bytes.get(segment.payload()).unwrap_or_default();
        let len = payload.len().min(into.len());
        into[..len].copy_from_slice(&payload[..len]);
        self.woke_for(*caught);
        len
    }

    /// Counts how long a wake took: from the catch of its segment until now, when the payload is with the driver or the
    /// segment is on its way to the socket.
    fn woke_for(&self, caught: CaughtAt) {
        self.wakes.count(self.host.since(caught));
    }

    /// What an answer to the segment that came last with payload for a driver echoes.
    pub(super) fn echo_of_delivery(&self) -> u32 {
        self.delivery.as_ref().map_or(0, |delivery| delivery.segment.echo())
    }

    /// Acknowledges the segment that woke a connection last, as nothing is sent that does so.
    pub fn acknowledge_delivery(&mut self, counters: &Counters) {
        if let Some(Delivery { checkpoint, segment, .. }) = self.delivery {
            self.answer(counters, &checkpoint, Answer::acknowledgement(&checkpoint.progress), segment.echo());
        }
    }

    /// Sends a segment for a connection without a socket.
    pub(super) fn answer(&mut self, counters: &Counters, checkpoint: &Checkpoint, answer: Answer, echo: u32) {
        let mut buffer = [0; LONGEST];
        let segment = answer.write(checkpoint, self.host.timestamp_clock(), echo, &mut buffer);
        match self.host.send(&checkpoint.tuple, segment) {
            Ok(()) => counters.segments_answered.add(1),
            Err(_) => self.unanswered += 1,
        }
    }

    /// Sends an acknowledgement that anybody can make us send, if there were not too many of them lately.
    pub(super) fn challenge(&mut self, counters: &Counters, checkpoint: &Checkpoint, answer: Answer, echo: u32) {
        if self.challenges.allows(&checkpoint.tuple, self.host.timestamp_clock()) {
            self.answer(counters, checkpoint, answer, echo);
        }
    }

    /// Has a ring poll the ring buffer, unless it does: a caught segment then completes there.
    pub fn poll_segments(&mut self, ring: &mut impl RingOps) -> Result<()> {
        if !self.polled && !self.given.freezes() {
            self.polled = true;
            ring.poll_wake(self.host.wake_fd(), Operation::CatcherWake, false)?;
        }
        Ok(())
    }

    /// The poll on the ring buffer has ended.
    pub fn catcher_woke(&mut self) {
        self.polled = false;
    }
}
