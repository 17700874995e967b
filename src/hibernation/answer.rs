//! Segments that are sent for a connection without a socket.

use super::segment::{
    ACK, CHECKSUM, FIN, FLAGS, HEADER, NO_OPERATION, PSH, RST, TIMESTAMPS, TIMESTAMPS_BYTES, checksum,
};
use super::{Checkpoint, Negotiated, Progress};

/// The most bytes of an answer without payload: a header with timestamps.
pub const LONGEST: usize = HEADER + OPTIONS.len();

/// The timestamps option behind two options that fill up, as RFC 7323 (appendix A) lays it out, with both timestamps 0.
const OPTIONS: [u8; 12] = [NO_OPERATION, NO_OPERATION, TIMESTAMPS, TIMESTAMPS_BYTES, 0, 0, 0, 0, 0, 0, 0, 0];

/// Bytes of payload that one segment to a peer may have now, as the handshake and the peer's window allow.
pub fn room(checkpoint: &Checkpoint) -> usize {
    let Checkpoint { negotiated, progress, .. } = checkpoint;
    let options = header_length(negotiated) - HEADER;
    usize::from(negotiated.mss).saturating_sub(options).min(progress.send_window as usize)
}

/// Bytes of the header of each segment of a connection.
fn header_length(negotiated: &Negotiated) -> usize {
    if negotiated.timestamp_offset.is_some() { LONGEST } else { HEADER }
}

/// A segment to be sent to a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub struct Answer {
    /// `ACK`, with `FIN`, `RST` or `PSH` or alone.
    pub flags: u8,
    /// Its sequence number.
    pub sequence: u32,
}

impl Answer {
    /// Tells the peer what was received and what we send next.
    pub fn acknowledgement(progress: &Progress) -> Answer {
        Answer { flags: ACK, sequence: progress.sent }
    }

    /// Tells the peer that we have no more to send.
    pub fn finish(progress: &Progress) -> Answer {
        Answer { flags: ACK | FIN, sequence: progress.sent }
    }

    /// Asks the peer whether the connection still exists: a number that it has received makes it answer (RFC 9293,
    /// 3.8.4, and `tcp_xmit_probe_skb`).
    pub fn probe(progress: &Progress) -> Answer {
        Answer { flags: ACK, sequence: progress.sent.wrapping_sub(1) }
    }

    /// Makes the peer forget the connection.
    pub fn reset(progress: &Progress) -> Answer {
        Answer { flags: ACK | RST, sequence: progress.sent }
    }

    /// Carries a message, all of it.
    pub fn message(progress: &Progress) -> Answer {
        Answer { flags: ACK | PSH, sequence: progress.sent }
    }

    /// Writes the whole TCP segment, without payload. `now_ms` is CLOCK_MONOTONIC in milliseconds, modulo 2^32. `echo` is the
    /// timestamp of the segment that is answered (`Segment::echo`), or 0 if none is.
    pub fn write<'a>(
        &self,
        checkpoint: &Checkpoint,
        now_ms: u32,
        echo: u32,
        buffer: &'a mut [u8; LONGEST],
    ) -> &'a [u8] {
        let length = self.write_header(checkpoint, now_ms, echo, &[], buffer);
        &buffer[..length]
    }

    /// The same with payload, into `segment` in place of what is in it.
    pub fn write_with(&self, checkpoint: &Checkpoint, now_ms: u32, echo: u32, payload: &[u8], segment: &mut Vec<u8>) {
        let mut header = [0; LONGEST];
        let length = self.write_header(checkpoint, now_ms, echo, payload, &mut header);
        segment.clear();
        segment.extend_from_slice(&header[..length]);
        segment.extend_from_slice(payload);
    }

    /// Writes the header of a segment with this payload. Returns how long it is.
    fn write_header(
        &self,
        checkpoint: &Checkpoint,
        now_ms: u32,
        echo: u32,
        payload: &[u8],
        buffer: &mut [u8; LONGEST],
    ) -> usize {
        let Checkpoint { tuple, negotiated, progress } = checkpoint;
        // A window is announced in whole units, rounded down.
        let window = u16::try_from(progress.receive_window >> negotiated.receive_shift()).unwrap_or(u16::MAX);
        let length = header_length(negotiated);
        let (header, options) = buffer.split_at_mut(HEADER);
        header.fill(0);
        header[0..2].copy_from_slice(&tuple.local.port().to_be_bytes());
        header[2..4].copy_from_slice(&tuple.remote.port().to_be_bytes());
        header[4..8].copy_from_slice(&self.sequence.to_be_bytes());
        header[8..12].copy_from_slice(&progress.received.to_be_bytes());
        // The length of the header, in units of 4 bytes, is in the upper half.
        header[12] = ((length / 4) << 4) as u8;
        header[FLAGS] = self.flags;
        header[14..16].copy_from_slice(&window.to_be_bytes());
        options.copy_from_slice(&OPTIONS);
        let value = now_ms.wrapping_add(negotiated.timestamp_offset.unwrap_or_default());
        options[4..8].copy_from_slice(&value.to_be_bytes());
        options[8..12].copy_from_slice(&echo.to_be_bytes());
        let segment = &mut buffer[..length];
        let checksum = checksum(tuple, segment, payload);
        segment[CHECKSUM].copy_from_slice(&checksum.to_be_bytes());
        length
    }
}
