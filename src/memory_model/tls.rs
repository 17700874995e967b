//! The memory that TLS takes of a process, beside its sockets. The kernel has no part in it.

use super::End;

/// Bytes of a TLS handshake under way: rustls' state, what has come of the peer, and this end's flight.
pub const HANDSHAKE_BYTES: u64 = 12 * 1024;

/// Bytes of a process: the certificates, and the pages of rustls' and ring's code.
const PROCESS_BYTES: u64 = 1 << 20;

/// Bytes of a shard's keys of connections that talked lately: 256 with two keys each (`tls/sessions.rs`).
const KEYS_BYTES: u64 = 512 * 700;

/// Bytes of the sessions that a shard of a client can resume: 1,024 with their certificates, and the groups of as many
/// servers (`tls/handshake/resumption.rs`).
const RESUMABLE_BYTES: u64 = 1_024 * 1_600;

/// Bytes of the TLS of a process that do not depend on the number of its connections, with so many handshakes at once.
pub(super) fn fixed(end: End, shards: u64, handshakes: u64) -> u64 {
    let resumable = if end == End::Client { RESUMABLE_BYTES } else { 0 };
    PROCESS_BYTES + shards * (KEYS_BYTES + resumable) + handshakes * HANDSHAKE_BYTES
}

#[cfg(test)]
mod tests {
    use super::super::tests::{kernel, load};
    use super::super::{By, Footprint, Load, Process};
    use super::*;
    use crate::plan::Layers;
    use crate::tls_version::TlsVersion;

    /// Release builds of both ends on 6.18, 200,000 connections on two shards: TLS took 88 bytes a connection at the
    /// server and 113 at the client, fixed costs within.
    #[test]
    fn predictions_cover_what_was_measured() {
        let process = Process { shards: 2, rings: 12, slots: 210_000, listeners: 50 };
        let bytes = |end: End, tls: Option<TlsVersion>| {
            let (server, client) = match end {
                End::Server => (Some(process), None),
                End::Client => (None, Some(process)),
            };
            let load = Load { server, client, layers: Layers { tls, ..Layers::default() }, ..load(process) };
            load.of(&kernel((6, 18), true), 200_000, By::Host).total
        };
        for (end, measured) in [(End::Server, 88.0), (End::Client, 113.0)] {
            let more = (bytes(end, Some(TlsVersion::Tls13)) - bytes(end, None)) / 200_000.0;
            assert!((measured..measured + 40.0).contains(&more), "{end:?}: {more} bytes a connection");
        }
    }

    #[test]
    fn a_million_connections_take_less_than_a_hundred_bytes_each_and_end() {
        let process = Process { shards: 2, rings: 60, slots: 1_050_000, listeners: 100 };
        let footprint = |tls: Option<TlsVersion>, awake| -> Footprint {
            let load = Load { layers: Layers { tls, ..Layers::default() }, awake, ..load(process) };
            load.of(&kernel((6, 18), true), 1_000_000, By::Host)
        };
        for awake in [None, Some(100_000)] {
            let (with, without) = (footprint(Some(TlsVersion::Tls13), awake), footprint(None, awake));
            assert_eq!((with.per_connection - without.per_connection).round(), 160.0);
            assert!(with.total - without.total < 200e6, "{}", with.total - without.total);
        }
    }
}
