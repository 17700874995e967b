//! Telling a restored socket how long a round trip takes.
//!
//! A socket that was just restored knows no round-trip time, and the kernel has no option that sets one. As long as it
//! knows none, the kernel waits 1 s for the acknowledgement of what it has sent, and 3 s without selective acknowledgements
//! or once it has sent it again (`TCP_TIMEOUT_INIT` and `TCP_TIMEOUT_FALLBACK`, include/net/tcp.h). With a short round trip it
//! waits 0.2 s. So a segment that is lost right after a wake would stall the connection for longer than one that is lost
//! later. Only a peer's address on which an earlier connection was closed in order is known to the kernel (tcp_metrics).
//!
//! The kernel measures a round trip when something is acknowledged, by the timestamp that the acknowledgement echoes (RFC
//! 7323, 4). So the last byte that was sent counts as not acknowledged in the restored socket, and this process acknowledges
//! it in the peer's place: by a segment that it sends to its own host, and that echoes a timestamp of one round trip ago.

use std::io;
use std::os::fd::OwnedFd;

use super::RawSender;
use super::repair::{self, Blank, Wish, abandon, restore_unacknowledged, tcp_info, timestamp_clock};
use crate::hibernation::answer::LONGEST;
use crate::hibernation::round_trip::peers_acknowledgement;
use crate::hibernation::{Checkpoint, Tuple};

/// A restored socket.
#[derive(Debug)]
pub struct Restored {
    pub socket: OwnedFd,
    /// Whether the socket knows the round-trip time. `None` if it was not to be told.
    pub told: Option<bool>,
}

/// Makes a socket of a connection as `repair::restore` does, and tells it the round-trip time, if that is known and the
/// peer is on another host: within a host nothing is lost. `seen` is the peer's last timestamp, or 0 where that is not
/// known. `sender` has the catcher's mark.
///
/// The connection's segments must be caught until this returns, and so must those for sockets: one that came in between
/// could acknowledge the byte with a timestamp from before the sleep. Fails like `repair::restore`, and not because the
/// time cannot be told.
pub fn restore(
    checkpoint: &Checkpoint,
    wish: &Wish<'_>,
    blank: Option<Blank>,
    sender: &RawSender,
    seen: u32,
) -> io::Result<Restored> {
    let Checkpoint { tuple, negotiated, progress } = checkpoint;
    let can_be_told = progress.round_trip.is_some() && negotiated.timestamp_offset.is_some();
    if !can_be_told || is_within_host(tuple) {
        return Ok(Restored { socket: repair::restore(checkpoint, wish, blank)?, told: None });
    }
    restore_and_tell(checkpoint, wish, blank, sender, seen)
}

/// The same for a connection whose socket can be told a time.
pub(super) fn restore_and_tell(
    checkpoint: &Checkpoint,
    wish: &Wish<'_>,
    blank: Option<Blank>,
    sender: &RawSender,
    seen: u32,
) -> io::Result<Restored> {
    if let Ok(socket) = restore_unacknowledged(checkpoint, wish, blank) {
        if tell(&socket, checkpoint, sender, seen) {
            return Ok(Restored { socket, told: Some(true) });
        }
        abandon(&socket)?;
    }
    Ok(Restored { socket: repair::restore(checkpoint, wish, None)?, told: Some(false) })
}

/// Acknowledges the last byte in the peer's place. Whether the socket has got that. It has when the call returns, unless
/// another processor is to handle the segment (RPS), a thread of the kernel does so later (as Linux before 6.5 may do under
/// load), a rule of the firewall drops it, or no route leads from the host to itself.
fn tell(socket: &OwnedFd, checkpoint: &Checkpoint, sender: &RawSender, seen: u32) -> bool {
    let mut buffer = [0; LONGEST];
    // Only now, as the time from here to the segment's arrival is measured too.
    let Some(segment) = peers_acknowledgement(checkpoint, timestamp_clock(), seen, &mut buffer) else { return false };
    let Tuple { remote, local } = checkpoint.tuple;
    let sent = sender.send(remote.ip(), local.ip(), segment);
    sent.is_ok() && tcp_info(socket).is_ok_and(|info| info.tcpi_unacked == 0)
}

/// Whether segments of a connection never leave the host, as far as its addresses show.
fn is_within_host(tuple: &Tuple) -> bool {
    let [remote, local] = [tuple.remote, tuple.local].map(|end| end.ip());
    remote == local || remote.is_loopback()
}
