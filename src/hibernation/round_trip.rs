//! How long a round trip takes, for the socket of a connection that wakes (`sys/round_trip.rs`).

use core::time::Duration;

use super::answer::{Answer, LONGEST};
use super::{Checkpoint, Negotiated};

/// The upper bound of the first class.
const FIRST_BOUND: Duration = Duration::from_millis(4);

/// Classes of known times.
const CLASSES: u8 = 7;

/// The kernel measures up to 2 ms more than it is told, as two clocks count whole milliseconds. So the time that is told is
/// 2 ms below the bound of its class, and is measured as the same class.
const ERROR: Duration = Duration::from_millis(2);

/// The round-trip time that the kernel measured on a connection (its smoothed time, RFC 6298), as one of seven classes:
/// at most 4 ms, 8 ms, and so on up to 256 ms. A time that is longer, or was never measured, is unknown: what the kernel
/// assumes of a new connection fits it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RoundTrip(u8);

impl RoundTrip {
    /// No time is known.
    pub const UNKNOWN: RoundTrip = RoundTrip(0);

    /// Bits that hold any class.
    pub const BITS: u32 = 3;

    /// The class of a measured time. Zero is no measurement.
    pub fn of(measured: Duration) -> RoundTrip {
        if measured.is_zero() {
            return RoundTrip::UNKNOWN;
        }
        let class = (0..CLASSES).find(|class| measured <= FIRST_BOUND * (1u32 << class));
        class.map_or(RoundTrip::UNKNOWN, |class| RoundTrip(class + 1))
    }

    /// The class as a number of `BITS` bits.
    pub fn bits(self) -> u16 {
        self.0.into()
    }

    /// The class of a number that `bits` gave. Higher bits are ignored.
    pub fn of_bits(bits: u16) -> RoundTrip {
        RoundTrip((bits & ((1 << RoundTrip::BITS) - 1)) as u8)
    }

    /// The class that follows this one, where the socket was told `time` and has smoothed it to `measured` since. The kernel
    /// takes an eighth of each new time (RFC 6298, 2). So soon after a wake the smoothed time may still be within the class
    /// although the new times are far below it: then the class is one lower.
    pub fn after(self, measured: Duration) -> RoundTrip {
        let class = RoundTrip::of(measured);
        let Some(told) = self.time().filter(|_| class == self && self.0 > 1) else { return class };
        // What the kernel makes of one measured time that is half the bound of the class.
        let mixed = told * 7 / 8 + (told + ERROR) / 16;
        if measured < mixed { RoundTrip(self.0 - 1) } else { class }
    }

    /// The time that stands for the class, which is hardly shorter than any of it: with a shorter one the kernel would
    /// resend too early, and take longer round trips for a queue (HyStart, net/ipv4/tcp_cubic.c).
    pub fn time(self) -> Option<Duration> {
        let class = self.0.checked_sub(1)?;
        Some(FIRST_BOUND * (1u32 << class) - ERROR)
    }
}

const _: () = assert!(CLASSES < 1 << RoundTrip::BITS, "a class needs more bits");

/// Writes the segment with which the peer of a connection would acknowledge all that was sent, one round trip after it
/// had got it. `None` if the round-trip time is unknown, or the connection has no timestamps: nothing else tells the
/// kernel a time.
///
/// `now_ms` is CLOCK_MONOTONIC in milliseconds, modulo 2^32. `seen` is the peer's last timestamp, or 0 if it is not
/// known: the kernel takes a 0 from any peer (`tcp_paws_check`).
pub fn peers_acknowledgement<'a>(
    checkpoint: &Checkpoint,
    now_ms: u32,
    seen: u32,
    buffer: &'a mut [u8; LONGEST],
) -> Option<&'a [u8]> {
    let time = checkpoint.progress.round_trip?;
    let left = now_ms.wrapping_sub(time.as_millis() as u32);
    let echo = left.wrapping_add(checkpoint.negotiated.timestamp_offset?);
    let mut peer = checkpoint.mirrored();
    peer.negotiated = Negotiated { timestamp_offset: Some(0), ..peer.negotiated };
    Some(Answer::acknowledgement(&peer.progress).write(&peer, seen, echo, buffer))
}
