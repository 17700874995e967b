//! How many connections may be awake at once, where the others sleep.

use std::time::Duration;

use crate::error::{ConfigError, Result};

/// The shortest silence after which a connection sleeps. To put it to sleep and to wake it takes the kernel some
/// 0.03 ms; a shorter silence would be spent on that.
const SHORTEST_SILENCE: Duration = Duration::from_millis(1);

/// The longest: as long as a connection's row remembers when its peer was last heard.
const LONGEST_SILENCE: Duration = Duration::from_secs(36 * 3600);

/// Connections awake at once at most, unless more are asked for. Whoever opens 50,000 connections a second and puts them
/// to sleep after 5 s has 250,000 awake; more of them would make rings and tables of slots that are seldom used.
pub const MOST_AWAKE: u64 = 262_144;

/// Connections awake at once at least, however little memory is left: a server that has no slot free accepts nothing.
/// Its memory reserve refuses connections before they take memory that is not there.
pub const FEWEST_AWAKE: u64 = 1_024;

/// How many of `connections` may be awake at once where memory has room for `room` of them.
pub fn awake(connections: u64, room: u64) -> u64 {
    room.clamp(FEWEST_AWAKE, MOST_AWAKE).min(connections)
}

/// Bytes of a shard's ring buffer for caught segments, for each connection: a quarter of a small record. Where more come
/// at once, their peers send them again.
const CAUGHT_BYTES_PER_CONNECTION: u64 = 64;

/// The fewest and the most bytes of a ring buffer. The least holds 4,000 small segments, or 15 that GRO made.
const CAUGHT_BYTES: (u64, u64) = (1 << 20, 16 << 20);

/// Bytes of the ring buffer of each shard for segments of sleeping connections.
pub fn caught_bytes(connections: u64, shards: u64) -> u32 {
    let each = (connections / shards.max(1)).saturating_mul(CAUGHT_BYTES_PER_CONNECTION);
    each.clamp(CAUGHT_BYTES.0, CAUGHT_BYTES.1) as u32
}

/// Checks after which silence connections sleep, and how many may be awake at once.
///
/// Fails with `ConfigError::Hibernate`, `ConfigError::Awake` or `ConfigError::AwakeWithoutSleep`.
pub fn check_hibernation(after: Option<Duration>, awake: Option<u64>) -> Result<()> {
    if let Some(asked) = after.filter(|time| *time < SHORTEST_SILENCE || *time > LONGEST_SILENCE) {
        return Err(ConfigError::Hibernate { asked, shortest: SHORTEST_SILENCE, longest: LONGEST_SILENCE }.into());
    }
    match (after, awake) {
        (None, Some(asked)) => Err(ConfigError::AwakeWithoutSleep { asked }.into()),
        (_, Some(asked)) if asked == 0 || asked > u32::MAX.into() => {
            Err(ConfigError::Awake { asked, most: u32::MAX.into() }.into())
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// There is always a slot, never one too many, and more memory never means fewer of them.
        #[test]
        fn a_connection_can_always_be_awake(connections in 1u64..200_000_000, room: u64, more: u64) {
            let planned = awake(connections, room);
            prop_assert!((1..=connections.min(MOST_AWAKE)).contains(&planned));
            prop_assert!(planned >= connections.min(FEWEST_AWAKE));
            prop_assert!(awake(connections, room.saturating_add(more)) >= planned);
        }
    }
}
