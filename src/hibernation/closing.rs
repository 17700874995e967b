//! A sleeper that ends without a socket: the states of RFC 9293, 3.3.2, from a FIN on, for a connection that no program
//! reads any more (an orphan, in the kernel's words).
//!
//! ```text
//!   answer ──▶ LAST_ACK ──────────────ACK of our FIN─────────────────▶ gone
//!
//!   begin ──▶ FIN_WAIT_1 ──ACK of our FIN──▶ FIN_WAIT_2 ──60 s──▶ gone
//!                  │                            │
//!                 FIN                          FIN
//!                  ▼                            ▼
//!               CLOSING ──ACK of our FIN──▶ TIME_WAIT ──4 s──▶ gone
//! ```
//!
//! Besides, a RST ends each of these states, and so does a FIN of ours that is never acknowledged. Payload that comes
//! before the peer's FIN is answered with a RST.

use super::answer::Answer;
use super::judge::{Kind, Place, is_recent, same};
use super::segment::{ACK, FIN, RST, SYN, Segment};
use super::{Checkpoint, Progress, Tuple};

/// The pause before a FIN is sent for the second time; each further pause is twice as long. It is the one for a path
/// whose round trip is not known (RFC 6298, 2.1).
const FIRST_PAUSE_MS: u32 = 1_000;

/// How often a FIN is sent again: after 1, 3, 7, 15, 31 and 63 s. After 127 s it is given up. RFC 9293 (3.8.3) asks for
/// at least 100 s. The kernel sends the FIN of an orphan 8 times again at most (`tcp_orphan_retries`), which takes as
/// long where its first pause is 200 ms.
const RETRIES: u8 = 6;

/// How long the peer has for its FIN after it acknowledged ours: `net.ipv4.tcp_fin_timeout`.
const FIN_WAIT_2_MS: u32 = 60_000;

/// How long a FIN that the peer sends again is acknowledged. Its first two repetitions come within 3 s if its first
/// pause is that of RFC 6298. A later one is answered by the kernel with a RST, as the connection is not known any more;
/// the peer has closed by then and notices nothing. The full two minutes of RFC 9293 protect a new connection of the
/// same two ends from old segments of this one. Here the kernel's clocks do that: initial sequence numbers grow with
/// time (RFC 6528), and so do timestamps. So a place in the table is not held for longer.
const TIME_WAIT_MS: u32 = 4_000;

/// How far a sleeper's end has come. It is kept beside the checkpoint. There, `progress.sent` remains the number of our
/// FIN until the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Closing {
    state: State,
    /// How often our FIN was sent again.
    retries: u8,
    /// When something is to be done without a segment.
    due_ms: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    LastAck,
    FinWait1,
    FinWait2,
    Closing,
    TimeWait,
}

/// What is to be done next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Step {
    /// Nothing.
    Wait,
    /// Send this.
    Send(Answer),
    /// Send this if the limit on challenges allows.
    Challenge(Answer),
    /// Forget the connection, and send this if there is something.
    Gone(Option<Answer>),
    /// Forget the connection, and re-inject the segment: it is a SYN that opens a new one between the same two ends.
    Reopen,
}

impl Closing {
    /// Answers the FIN of a peer with ours: the peer's is already in the checkpoint (`Verdict::PeerEnds`). Times are
    /// CLOCK_MONOTONIC in milliseconds, modulo 2^32.
    pub fn answer(checkpoint: &Checkpoint, now_ms: u32) -> (Closing, Answer) {
        Closing::in_state(State::LastAck, checkpoint, now_ms)
    }

    /// Ends a connection whose peer has not ended it.
    pub fn begin(checkpoint: &Checkpoint, now_ms: u32) -> (Closing, Answer) {
        Closing::in_state(State::FinWait1, checkpoint, now_ms)
    }

    fn in_state(state: State, checkpoint: &Checkpoint, now_ms: u32) -> (Closing, Answer) {
        let due_ms = now_ms.wrapping_add(FIRST_PAUSE_MS);
        (Closing { state, retries: 0, due_ms }, Answer::finish(&checkpoint.progress))
    }

    /// As two numbers, for another process. CLOCK_MONOTONIC is the same there.
    pub fn to_numbers(self) -> [u32; 2] {
        [self.state as u32 | u32::from(self.retries) << 8, self.due_ms]
    }

    /// What `to_numbers` has made numbers of; `None` for any other numbers.
    pub fn of_numbers([first, due_ms]: [u32; 2]) -> Option<Closing> {
        let [state, retries, ..] = first.to_le_bytes();
        let all = [State::LastAck, State::FinWait1, State::FinWait2, State::Closing, State::TimeWait];
        let state = *all.get(usize::from(state))?;
        (first < 1 << 16 && retries <= RETRIES).then_some(Closing { state, retries, due_ms })
    }

    /// In how many milliseconds `expired` is to be called; 0 if it should have been.
    pub fn due_in_ms(&self, now_ms: u32) -> u32 {
        u32::try_from(self.due_ms.wrapping_sub(now_ms).cast_signed()).unwrap_or(0)
    }

    /// The time has come. Nothing happens if it has not.
    pub fn expired(&mut self, checkpoint: &Checkpoint, now_ms: u32) -> Step {
        if self.due_in_ms(now_ms) > 0 {
            return Step::Wait;
        }
        if self.is_acknowledged() || self.retries == RETRIES {
            return Step::Gone(None);
        }
        self.retries += 1;
        self.due_ms = now_ms.wrapping_add(FIRST_PAUSE_MS << self.retries);
        Step::Send(Answer::finish(&checkpoint.progress))
    }

    /// A segment came whose checksum is right. `tuple` is the segment's, see `Segment::tuple`.
    pub fn heard(&mut self, checkpoint: &mut Checkpoint, tuple: &Tuple, segment: &Segment, now_ms: u32) -> Step {
        let progress = &mut checkpoint.progress;
        if !same(&checkpoint.tuple, tuple) {
            return Step::Wait;
        }
        let place = Place::of(progress, segment);
        let next = progress.sent.wrapping_add(1);
        let acknowledgement = Answer { sequence: next, ..Answer::acknowledgement(progress) };
        if segment.has(RST) {
            return match place.start {
                0 => Step::Gone(None),
                // Some peers reset right after their FIN, with the number of the FIN (`tcp_reset_check`).
                -1 if self.peer_ended() => Step::Gone(None),
                _ if place.kind == Kind::Inside && place.start > 0 => Step::Challenge(acknowledgement),
                _ => Step::Wait,
            };
        }
        if segment.has(SYN) {
            // A new connection begins later than this one ended (RFC 9293, 3.6.1, and `tcp_timewait_state_process`).
            let anew = self.state == State::TimeWait && place.start > 0 && !segment.has(ACK);
            return if anew { Step::Reopen } else { Step::Challenge(acknowledgement) };
        }
        if !segment.has(ACK) {
            return Step::Wait;
        }
        let again = self.peer_ended() && segment.has(FIN) && place.end == 0;
        let recent = is_recent(progress, next, segment.acknowledgement);
        match place.kind {
            _ if !recent => return Step::Challenge(acknowledgement),
            Kind::Beyond => return Step::Challenge(acknowledgement),
            Kind::Old if !again => return Step::Send(acknowledgement),
            Kind::Old | Kind::Inside => {}
        }
        self.accepted(progress, segment, place, again, now_ms)
    }

    /// A segment came that the peer may have sent. `again` says that it holds the peer's FIN once more.
    fn accepted(&mut self, progress: &mut Progress, segment: &Segment, place: Place, again: bool, now_ms: u32) -> Step {
        let next = progress.sent.wrapping_add(1);
        let fin = i64::from(segment.has(FIN));
        let ends = fin == 1 && place.end == 1;
        if !self.peer_ended() && place.start < place.end && place.end - fin > 0 {
            // No program reads it any more. The kernel resets an orphan for that as well (`tcp_rcv_state_process`, RFC
            // 9293, 3.6.1). The number is the one that the peer expects.
            return Step::Gone(Some(Answer { sequence: segment.acknowledgement, ..Answer::reset(progress) }));
        }
        if segment.acknowledgement == next {
            match self.state {
                State::LastAck => return Step::Gone(None),
                State::FinWait1 => self.enter(State::FinWait2, now_ms.wrapping_add(FIN_WAIT_2_MS)),
                State::Closing => self.enter(State::TimeWait, now_ms.wrapping_add(TIME_WAIT_MS)),
                State::FinWait2 | State::TimeWait => {}
            }
        }
        if ends && !self.peer_ended() {
            progress.received = progress.received.wrapping_add(1);
            match self.state {
                State::FinWait1 => self.enter(State::Closing, self.due_ms),
                _ => self.enter(State::TimeWait, now_ms.wrapping_add(TIME_WAIT_MS)),
            }
        } else if !again {
            return Step::Wait;
        }
        match self.state {
            // The peer lacks our FIN, or its acknowledgement of it is on its way.
            State::LastAck => Step::Send(Answer::finish(progress)),
            State::TimeWait => {
                self.due_ms = now_ms.wrapping_add(TIME_WAIT_MS);
                Step::Send(Answer { sequence: next, ..Answer::acknowledgement(progress) })
            }
            _ => Step::Send(Answer { sequence: next, ..Answer::acknowledgement(progress) }),
        }
    }

    fn enter(&mut self, state: State, due_ms: u32) {
        (self.state, self.due_ms) = (state, due_ms);
    }

    /// How often our FIN was sent again.
    pub fn retries(&self) -> u8 {
        self.retries
    }

    /// Whether the peer has acknowledged our FIN.
    pub fn is_acknowledged(&self) -> bool {
        matches!(self.state, State::FinWait2 | State::TimeWait)
    }

    /// Whether the peer's FIN was received.
    fn peer_ended(&self) -> bool {
        matches!(self.state, State::LastAck | State::Closing | State::TimeWait)
    }
}
