//! How many TLS handshakes a server may have under way on this host.

use super::Host;
use crate::memory_model::HANDSHAKE_BYTES;

/// Handshakes at once at least: fewer would make a server wait for single slow clients.
const FEWEST: u64 = 64;

/// Handshakes at once at most. A core does some thousand a second, so with a round trip of 100 ms some hundred are under
/// way; the rest is room for slow clients.
const MOST: u64 = 2_048;

/// The part of the memory left that handshakes may take: one byte of each so many.
const SHARE: u64 = 16;

impl Host {
    /// How many TLS handshakes may be under way at once, over all shards: what a sixteenth of the memory that every limit
    /// has left now has room for, between 64 and 2,048.
    pub fn handshakes(&self) -> u32 {
        let room = self.memory_left().into_iter().map(|limit| limit.left / SHARE / HANDSHAKE_BYTES).min();
        room.unwrap_or(MOST).clamp(FEWEST, MOST) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::host;

    #[test]
    fn handshakes_take_a_part_of_the_memory_left() {
        let handshakes = |mib: u64| {
            let meminfo = format!("MemTotal: {} kB\nMemFree: {} kB\n", mib << 10, mib << 10);
            host(&[("proc/meminfo", &meminfo)]).1.handshakes()
        };
        assert_eq!((handshakes(64 << 10), handshakes(1)), (2_048, 64));
        let some = handshakes(128);
        assert!((300..1_000).contains(&some), "{some}");
    }
}
