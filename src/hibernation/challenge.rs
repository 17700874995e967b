//! The limit on challenge acknowledgements (RFC 5961, 7).

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;

use super::Tuple;

/// A connection gets at most one challenge in this time, in milliseconds: `net.ipv4.tcp_invalid_ratelimit`.
const PERIOD_MS: u32 = 500;

/// The fewest challenges in a period, and by how many it may be more. Together they are 1,000 a second on average, which
/// was the kernel's limit for a host (`net.ipv4.tcp_challenge_ack_limit`) until 6.1 took it away.
const FEWEST: u64 = 250;
const SPREAD: u64 = 500;

/// The words of 64 bits of the map. With 750 of its 8,192 bits set, one connection in eleven finds the bit that it
/// needs taken by another one, and gets its challenge in the next period.
const WORDS: usize = 128;

/// Limits the challenges of a shard in 1 KiB, without memory for each connection: to one in half a second for each
/// connection, and to about 1,000 a second (at least 500, at most 1,500) for all.
///
/// A limit that connections share tells an attacker with a connection of its own whether a forged segment made another
/// connection use it up (CVE-2016-5696). So neither the limit of a period nor which connections share a bit can be
/// predicted: both are chosen anew for each period. The kernel did the same for its limit (`tcp_send_challenge_ack`,
/// 4.7 to 6.0).
#[derive(Debug)]
pub struct ChallengeLimit {
    random: RandomState,
    period: u32,
    left: u64,
    /// Which connections had a challenge in this period.
    had: [u64; WORDS],
}

impl ChallengeLimit {
    /// A limit with nothing used up. `random` must not be known outside.
    pub fn new(random: RandomState) -> ChallengeLimit {
        let mut limit = ChallengeLimit { random, period: 0, left: 0, had: [0; WORDS] };
        limit.begin(0);
        limit
    }

    /// Whether a challenge to this connection may be sent now; if so, it counts as sent. `now_ms` is CLOCK_MONOTONIC in
    /// milliseconds, modulo 2^32.
    pub fn allows(&mut self, tuple: &Tuple, now_ms: u32) -> bool {
        let period = now_ms / PERIOD_MS;
        if period != self.period {
            self.begin(period);
        }
        if self.left == 0 {
            return false;
        }
        let bit = self.random.hash_one((self.period, tuple)) as usize % (WORDS * 64);
        let (word, mask) = (&mut self.had[bit / 64], 1 << (bit % 64));
        let first = *word & mask == 0;
        *word |= mask;
        self.left -= u64::from(first);
        first
    }

    fn begin(&mut self, period: u32) {
        self.left = FEWEST + self.random.hash_one(period) % SPREAD;
        (self.period, self.had) = (period, [0; WORDS]);
    }
}
