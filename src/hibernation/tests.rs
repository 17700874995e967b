//! Checkpoints and segments for the tests of this room, written by code that shares nothing with it.

use core::net::{IpAddr, SocketAddr};

use proptest::prelude::*;

use super::segment::{ACK, Segment};
use super::{Checkpoint, Negotiated, Progress, Scales, Tuple};

mod answer;
mod challenge;
mod closing;
mod judge;
mod round_trip;
mod segment;

/// The ends of a connection, IPv4 or IPv6.
fn tuples() -> impl Strategy<Value = Tuple> {
    let tuple = |remote: IpAddr, local: IpAddr, ports: (u16, u16)| Tuple {
        remote: SocketAddr::new(remote, ports.0),
        local: SocketAddr::new(local, ports.1),
    };
    prop_oneof![
        any::<([u8; 4], [u8; 4], (u16, u16))>().prop_map(move |(a, b, ports)| tuple(a.into(), b.into(), ports)),
        any::<([u8; 16], [u8; 16], (u16, u16))>()
            .prop_map(move |(a, b, ports)| tuple(
                IpAddr::from(a).to_canonical(),
                IpAddr::from(a.map(|byte| !byte & b[0])).to_canonical(),
                ports
            ))
            .prop_filter("both ends are of one family", |tuple| tuple.remote.is_ipv4() == tuple.local.is_ipv4()),
    ]
}

fn negotiated() -> impl Strategy<Value = Negotiated> {
    let scales = prop::option::of((0..=14u8, 0..=14u8).prop_map(|(send, receive)| Scales { send, receive }));
    (any::<u16>(), scales, any::<bool>(), any::<Option<u32>>())
        .prop_map(|(mss, scales, sack, timestamp_offset)| Negotiated { mss, scales, sack, timestamp_offset })
}

/// Windows of all sizes, and often small ones.
fn windows() -> impl Strategy<Value = u32> {
    prop_oneof![0..100u32, 0..=65_535u32, 0..=65_535u32 << 14]
}

/// A connection like any other, with sequence numbers of 32 bits that may be about to wrap.
fn checkpoints() -> impl Strategy<Value = Checkpoint> {
    let numbers = || prop_oneof![any::<u32>(), 0..100u32, u32::MAX - 100..=u32::MAX];
    let progress = (numbers(), numbers(), windows(), windows(), windows()).prop_map(
        |(received, sent, send_window, receive_window, largest_window)| Progress {
            received,
            sent,
            send_window,
            receive_window,
            largest_window: largest_window.max(send_window),
            round_trip: None,
        },
    );
    (tuples(), negotiated(), progress).prop_map(|(tuple, negotiated, progress)| Checkpoint {
        tuple,
        negotiated,
        progress,
    })
}

/// A connection of two addresses, in the middle of nothing special.
fn plain() -> Checkpoint {
    Checkpoint {
        tuple: Tuple { remote: "192.0.2.1:40000".parse().unwrap(), local: "198.51.100.2:443".parse().unwrap() },
        negotiated: Negotiated { mss: 1460, scales: None, sack: true, timestamp_offset: None },
        progress: Progress {
            received: 1_000,
            sent: 5_000,
            send_window: 2_000,
            receive_window: 100,
            largest_window: 2_000,
            round_trip: None,
        },
    }
}

/// What a peer writes.
#[derive(Debug, Clone, Default)]
struct Written {
    sequence: u32,
    acknowledgement: u32,
    flags: u8,
    window: u16,
    options: Vec<u8>,
    payload: Vec<u8>,
}

impl Written {
    /// The bare acknowledgement of a peer that has received all that was sent.
    fn by_peer_of(checkpoint: &Checkpoint) -> Written {
        let Progress { received, sent, .. } = checkpoint.progress;
        Written { sequence: received, acknowledgement: sent, flags: ACK, window: 500, ..Written::default() }
    }

    /// The bytes from the peer to us, with a right checksum.
    fn bytes(&self, tuple: &Tuple) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut options = self.options.clone();
        options.resize(options.len().next_multiple_of(4), 0);
        bytes.extend(tuple.remote.port().to_be_bytes());
        bytes.extend(tuple.local.port().to_be_bytes());
        bytes.extend(self.sequence.to_be_bytes());
        bytes.extend(self.acknowledgement.to_be_bytes());
        bytes.push(((5 + options.len() / 4) * 16) as u8);
        bytes.push(self.flags);
        bytes.extend(self.window.to_be_bytes());
        bytes.extend([0; 4]);
        bytes.extend(options);
        bytes.extend(&self.payload);
        let checksum = naive_checksum(tuple, &bytes, bytes.len());
        bytes[16..18].copy_from_slice(&checksum.to_be_bytes());
        bytes
    }

    fn parse(&self, tuple: &Tuple) -> Segment {
        let bytes = self.bytes(tuple);
        Segment::parse(&bytes, bytes.len()).unwrap()
    }
}

/// The sum of the pseudo header of a segment of `whole` bytes, word by word as RFC 1071 has it.
fn naive_pseudo_sum(tuple: &Tuple, whole: usize) -> u16 {
    let mut pseudo = Vec::new();
    for end in [tuple.remote, tuple.local] {
        match end.ip() {
            IpAddr::V4(address) => pseudo.extend(address.octets()),
            IpAddr::V6(address) => pseudo.extend(address.octets()),
        }
    }
    pseudo.extend((whole as u32).to_be_bytes());
    pseudo.extend(6u32.to_be_bytes());
    naive_sum(0, &pseudo)
}

fn naive_sum(start: u16, bytes: &[u8]) -> u16 {
    bytes.chunks(2).fold(start, |sum, word| {
        let word = u16::from(word[0]) << 8 | word.get(1).map_or(0, |low| u16::from(*low));
        let (sum, carry) = sum.overflowing_add(word);
        sum + u16::from(carry)
    })
}

/// What belongs into the checksum field, which must be 0 in `bytes`.
fn naive_checksum(tuple: &Tuple, bytes: &[u8], whole: usize) -> u16 {
    !naive_sum(naive_pseudo_sum(tuple, whole), bytes)
}
