//! Hibernation: an idle TCP connection without a socket. A connection that has nothing in flight is described by its
//! two ends, by what was agreed on in the handshake, and by how far both directions have come (`Checkpoint`). The
//! kernel gives its socket up without a segment (TCP_REPAIR, tcp(7)), and makes an equal one later. Meanwhile a filter
//! of the listener catches the segments of the peer (`sys/catcher.rs`), and this module judges them.
//!
//! This module knows segments and states, and neither socket nor ring. It is used by both roles.
//!
//! - [`segment`]: a caught segment, and whether its checksum is right.
//! - [`judge`](mod@judge): what is to be done about a segment of a sleeper.
//! - [`answer`]: segments that are sent for a connection without a socket.
//! - [`closing`]: a sleeper that ends without a socket.
//! - [`challenge`]: the limit on answers to segments that may be forged.
//! - [`round_trip`]: how long a round trip takes, which a woken connection must know.

pub mod answer;
pub mod challenge;
pub mod closing;
pub mod judge;
pub mod round_trip;
pub mod segment;

use core::net::{IpAddr, SocketAddr};
use core::time::Duration;

/// The two ends of a connection. An IPv4-mapped IPv6 address is written here as the IPv4 address that is in the
/// packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Tuple {
    /// The peer's end.
    pub remote: SocketAddr,
    /// Our end.
    pub local: SocketAddr,
}

/// The 16 octets of an address; of an IPv4 address those of the IPv6 address to which it is mapped.
pub fn octets(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    }
}

/// What the handshake agreed on. It never changes in the life of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Negotiated {
    /// The largest segment that may be sent, in bytes of payload.
    pub mss: u16,
    /// Window scaling (RFC 7323): by how many bits the peer's windows are shifted, and ours. `None` if it was not
    /// agreed on.
    pub scales: Option<Scales>,
    /// Selective acknowledgements (RFC 2018) are allowed.
    pub sack: bool,
    /// With timestamps (RFC 7323): what is added to CLOCK_MONOTONIC in milliseconds, modulo 2^32.
    pub timestamp_offset: Option<u32>,
}

/// The largest shift of window scaling: a larger one that was announced counts as this (RFC 7323, 2.3).
const LARGEST_SHIFT: u8 = 14;

/// The shifts of window scaling.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scales {
    /// Of windows that the peer announces.
    pub send: u8,
    /// Of windows that we announce.
    pub receive: u8,
}

impl Negotiated {
    /// By how many bits the peer's windows are shifted, 14 at most.
    fn send_shift(&self) -> u8 {
        self.scales.map_or(0, |scales| scales.send.min(LARGEST_SHIFT))
    }

    /// By how many bits our windows are shifted, 14 at most.
    fn receive_shift(&self) -> u8 {
        self.scales.map_or(0, |scales| scales.receive.min(LARGEST_SHIFT))
    }
}

/// How far a connection has come that has nothing in flight. Names in brackets are those of the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// The sequence number that is expected from the peer next (`rcv_nxt`).
    pub received: u32,
    /// The sequence number that we send next (`snd_nxt`, which is `snd_una` too).
    pub sent: u32,
    /// The window that the peer announced last, in bytes (`snd_wnd`).
    pub send_window: u32,
    /// The window that we announced last, in bytes (`rcv_wnd`).
    pub receive_window: u32,
    /// The largest window that the peer ever announced, in bytes (`max_window`).
    pub largest_window: u32,
    /// The time from a segment to its acknowledgement (`srtt_us`), if one was measured since the socket was made. Of a sleeping
    /// connection it is the time that its class stands for ([`round_trip::RoundTrip`]).
    pub round_trip: Option<Duration>,
}

/// All that is kept of a sleeping connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checkpoint {
    /// Its ends.
    pub tuple: Tuple,
    /// What was agreed on.
    pub negotiated: Negotiated,
    /// How far it has come.
    pub progress: Progress,
}

impl Checkpoint {
    /// The same connection as its other end has it, but for that end's timestamps and largest window, which are not known:
    /// the timestamps are ours, and the window is the present one.
    fn mirrored(&self) -> Checkpoint {
        let Checkpoint { tuple, negotiated, progress } = *self;
        Checkpoint {
            tuple: Tuple { remote: tuple.local, local: tuple.remote },
            negotiated: Negotiated {
                scales: negotiated.scales.map(|scales| Scales { send: scales.receive, receive: scales.send }),
                ..negotiated
            },
            progress: Progress {
                received: progress.sent,
                sent: progress.received,
                send_window: progress.receive_window,
                receive_window: progress.send_window,
                largest_window: progress.receive_window,
                ..progress
            },
        }
    }
}

#[cfg(test)]
mod tests;
