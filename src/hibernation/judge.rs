//! What is to be done about a segment of a sleeper: the tests of RFC 9293, 3.10.7.4, with those of RFC 5961 against
//! blind attacks, for a connection that is established and has nothing in flight.
//!
//! A wake costs a socket, so attackers must not cause wakes. A segment wakes a sleeper only if an attacker who does not
//! see the connection could hardly have made it: its sequence number must be in the window, and it must acknowledge
//! what the peer may acknowledge.
//!
//! Two tests of the kernel are missing, because a checkpoint lacks what they need. The protection against wrapped
//! sequence numbers (PAWS, RFC 7323, 5) needs the peer's last timestamp: a duplicate that was under way while 4 GiB
//! were received would be taken. The kernel also knows how many bytes were acknowledged at all (`bytes_acked`), and
//! thus does not accept the acknowledgement of a byte from before the connection.

use super::segment::{ACK, FIN, RST, SYN, Segment, URG};
use super::{Checkpoint, Progress, Tuple};

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Verdict {
    /// The payload is what comes next, and nothing else is in the segment. The service may have it straight from the
    /// record; the checkpoint then has this progress. The peer still lacks an acknowledgement.
    Deliver(Progress),
    /// The connection must wake, and its socket must get the segment: payload out of order, payload that was received
    /// in part, payload with a FIN, or urgent payload. The checkpoint then has this progress, in which the peer's window may
    /// have changed.
    Reinject(Progress),
    /// The peer has no more to send, and nothing is missing. The checkpoint then has this progress, in which the FIN is
    /// received. See [`Closing::answer`](super::closing::Closing::answer).
    PeerEnds(Progress),
    /// The peer reset the connection: it is to be forgotten, without an answer.
    PeerReset,
    /// The peer wants to know whether the connection still exists, or sends again what was received: it needs an
    /// acknowledgement. Only a peer that knows the connection's numbers gets this verdict, and two ends cannot give it
    /// to each other's answers. So these answers need no limit.
    Acknowledge,
    /// An acknowledgement is needed, with which a true peer proves itself or finds its way back. A forger gets this
    /// verdict with ease, so these answers must be limited (RFC 5961, 7): [`challenge`](super::challenge).
    Challenge(Reason),
    /// A bare acknowledgement: the checkpoint then has this progress, in which the peer's window may have changed.
    Update(Progress),
    /// Nothing.
    Refuse(Reason),
}

/// Why a segment was not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// It holds no whole header. `judge` never says that: there is no `Segment` then.
    Malformed,
    /// Its checksum is wrong. `judge` never says that: see `checksum_is_right`.
    Checksum,
    /// It belongs to another connection.
    OtherTuple,
    /// Its sequence number is outside of the window.
    OutsideWindow,
    /// It acknowledges nothing, or what was never sent, or what was acknowledged long ago.
    Acknowledgement,
    /// A SYN. A peer that lost its memory answers the challenge with a RST and may then connect anew.
    Syn,
    /// A RST that is in the window and not at its beginning.
    Reset,
}

/// Judges a segment whose checksum is right. `tuple` is the segment's, see `Segment::tuple`.
pub fn judge(checkpoint: &Checkpoint, tuple: &Tuple, segment: &Segment) -> Verdict {
    let progress = &checkpoint.progress;
    if !same(&checkpoint.tuple, tuple) {
        return Verdict::Refuse(Reason::OtherTuple);
    }
    if let Some(verdict) = reset_or_syn(progress, segment) {
        return verdict;
    }
    if !segment.has(ACK) {
        return Verdict::Refuse(Reason::Acknowledgement);
    }
    let place = Place::of(progress, segment);
    let recent = is_recent(progress, progress.sent, segment.acknowledgement);
    match place.kind {
        Kind::Beyond => return Verdict::Challenge(Reason::OutsideWindow),
        Kind::Old if !recent => return Verdict::Challenge(Reason::OutsideWindow),
        Kind::Inside if !recent => return Verdict::Challenge(Reason::Acknowledgement),
        Kind::Old => return Verdict::Acknowledge,
        Kind::Inside => {}
    }
    let updated = with_window(checkpoint, segment);
    let received = progress.received.wrapping_add(segment.payload as u32);
    match (segment.payload, segment.has(FIN)) {
        _ if segment.has(URG) => Verdict::Reinject(updated),
        (0, false) => Verdict::Update(updated),
        (0, true) if place.start == 0 => Verdict::PeerEnds(Progress { received: received.wrapping_add(1), ..updated }),
        (_, false) if place.start == 0 && place.end <= place.window => {
            // The window moves on, as the service takes the payload at once.
            Verdict::Deliver(Progress { received, ..updated })
        }
        _ => Verdict::Reinject(updated),
    }
}

/// The verdict on a segment with RST or SYN.
fn reset_or_syn(progress: &Progress, segment: &Segment) -> Option<Verdict> {
    if segment.has(RST) {
        let place = Place::of(progress, segment);
        return Some(match place.kind {
            // RFC 5961, 3.2: only the number that is expected next resets at once.
            _ if segment.sequence == progress.received => Verdict::PeerReset,
            Kind::Inside if place.start > 0 => Verdict::Challenge(Reason::Reset),
            _ => Verdict::Refuse(Reason::OutsideWindow),
        });
    }
    // RFC 5961, 4.2: whatever its sequence number.
    segment.has(SYN).then_some(Verdict::Challenge(Reason::Syn))
}

/// Whether both are the same connection. Flow labels and scopes of IPv6 are not compared: a segment has no scope.
pub fn same(one: &Tuple, other: &Tuple) -> bool {
    let ends = |tuple: &Tuple| [tuple.remote, tuple.local].map(|end| (end.ip(), end.port()));
    ends(one) == ends(other)
}

/// Whether a number is one that the peer may acknowledge, where `next` is the number that we send next: at most the
/// largest window ago (RFC 5961, 5.2).
pub(super) fn is_recent(progress: &Progress, next: u32, acknowledgement: u32) -> bool {
    let ago = next.wrapping_sub(acknowledgement).cast_signed();
    u32::try_from(ago).is_ok_and(|ago| ago <= progress.largest_window)
}

/// The progress with the window that the segment announces. An older segment, which acknowledges less than was
/// acknowledged before, changes nothing (RFC 9293, 3.10.7.4).
fn with_window(checkpoint: &Checkpoint, segment: &Segment) -> Progress {
    let progress = checkpoint.progress;
    if segment.acknowledgement != progress.sent {
        return progress;
    }
    let send_window = u32::from(segment.window) << checkpoint.negotiated.send_shift();
    Progress { send_window, largest_window: progress.largest_window.max(send_window), ..progress }
}

/// Where a segment lies, counted from the number that is expected next.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    /// Its first number.
    pub start: i64,
    /// One past its last number, the FIN's included.
    pub end: i64,
    /// One past the last number that the window allows.
    pub window: i64,
    pub kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// All of it was received before.
    Old,
    /// Some of it is new and within the window.
    Inside,
    /// It is new, and none of it is within the window.
    Beyond,
}

impl Place {
    /// The test of RFC 9293, 3.4, and three cases in which the kernel accepts more (`tcp_sequence`): an empty segment at
    /// the very end of the window, a FIN that comes next although the window is closed, and payload that begins before
    /// the window and ends after it.
    pub fn of(progress: &Progress, segment: &Segment) -> Place {
        let start = i64::from(segment.sequence.wrapping_sub(progress.received).cast_signed());
        let length = segment.payload as i64 + i64::from(segment.has(FIN));
        let (end, window) = (start + length, i64::from(progress.receive_window));
        let fits = match length {
            0 => start <= window,
            _ => segment.payload == 0 && start == 0 || start.max(0) < window,
        };
        let kind = match fits {
            _ if start < 0 && end <= 0 => Kind::Old,
            true => Kind::Inside,
            false => Kind::Beyond,
        };
        Place { start, end, window, kind }
    }
}
