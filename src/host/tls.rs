//! What TLS may take of the memory of this host: handshakes, and records that are incomplete.

use super::Host;
use crate::constants::INCOMPLETE_RECORDS_BYTES;
use crate::memory_model::HANDSHAKE_BYTES;

/// Handshakes at once at least: fewer would make a server wait for single slow clients.
const FEWEST: u64 = 64;

/// Handshakes at once at most. A core does some thousand a second, so with a round trip of 100 ms some hundred are under
/// way; the rest is room for slow clients.
const MOST: u64 = 2_048;

/// The part of the memory left that handshakes may take, and incomplete records too: one byte of each so many.
const SHARE: u64 = 16;

impl Host {
    /// How many TLS handshakes may be under way at once, over all shards: what a sixteenth of the memory that every limit
    /// has left now has room for, between 64 and 2,048.
    pub fn handshakes(&self) -> u32 {
        self.share_left().map_or(MOST, |share| share / HANDSHAKE_BYTES).clamp(FEWEST, MOST) as u32
    }

    /// Bytes that may be kept of incomplete TLS records, over all shards: a sixteenth of the memory that every limit has left
    /// now, and 16 MiB at least.
    pub fn incomplete_records(&self) -> u64 {
        self.share_left().unwrap_or(0).max(INCOMPLETE_RECORDS_BYTES as u64)
    }

    /// Bytes of that part of the memory left; `None` where no limit is known.
    fn share_left(&self) -> Option<u64> {
        self.memory_left().into_iter().map(|limit| limit.left / SHARE).min()
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::host;
    use super::*;

    /// Asks a host with so many MiB of memory.
    fn with<T>(mib: u64, ask: impl FnOnce(&Host) -> T) -> T {
        let meminfo = format!("MemTotal: {} kB\nMemFree: {} kB\n", mib << 10, mib << 10);
        ask(&host(&[("proc/meminfo", &meminfo)]).1)
    }

    #[test]
    fn handshakes_take_a_part_of_the_memory_left() {
        let handshakes = |mib| with(mib, Host::handshakes);
        assert_eq!((handshakes(64 << 10), handshakes(1)), (2_048, 64));
        let some = handshakes(128);
        assert!((300..1_000).contains(&some), "{some}");
    }

    #[test]
    fn incomplete_records_take_a_part_of_the_memory_left() {
        let incomplete = |mib| with(mib, Host::incomplete_records);
        assert_eq!((incomplete(1), incomplete(256)), (16 << 20, 16 << 20));
        let some = incomplete(16 << 10);
        assert!((900 << 20..=1 << 30).contains(&some), "{some}");
    }
}
