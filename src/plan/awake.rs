//! How many connections there may be, and how many of them may be awake at once where the others sleep.

use std::time::Duration;

use super::{Needs, largest};
use crate::error::{ConfigError, Result};

/// The shortest silence after which a connection sleeps. To put it to sleep and to wake it takes the kernel some
/// 0.03 ms; a shorter silence would be spent on that.
const SHORTEST_SILENCE: Duration = Duration::from_millis(1);

/// The longest: as long as a connection's row remembers when its peer was last heard.
const LONGEST_SILENCE: Duration = Duration::from_secs(36 * 3600);

/// Connections awake at once at most, unless more are asked for. A process that opens 50,000 connections a second and
/// puts them to sleep after 5 s has 250,000 awake; more of them would make rings and tables of slots that are seldom
/// used.
pub const MOST_AWAKE: u64 = 262_144;

/// Connections awake at once at least, however little memory is left: a server that has no slot free accepts nothing.
/// Its memory reserve refuses connections before they take memory that is not there.
pub const FEWEST_AWAKE: u64 = 1_024;

/// How many of `connections` may be awake at once where memory has room for `room` of them.
pub fn awake(connections: u64, room: u64) -> u64 {
    room.clamp(FEWEST_AWAKE, MOST_AWAKE).min(connections)
}

/// Where file descriptors are kept of connections that are awake, one is left for every so many of them: for connections
/// that are being put to sleep or woken, and for connects in flight.
const AWAKE_PER_SPARE_DESCRIPTOR: u64 = 8;

/// How many of `planned` connections may be awake at once where a file descriptor is kept of each (`keeps_descriptors`), and
/// `room` descriptors are left: one at least. `needs` tells what so many need. Otherwise all of them may.
pub fn awake_within(planned: u64, keeps_descriptors: bool, room: u64, needs: impl Fn(u64) -> Needs) -> u64 {
    if !keeps_descriptors {
        return planned;
    }
    largest(planned, |awake| needs(awake).fit(room.saturating_sub(awake / AWAKE_PER_SPARE_DESCRIPTOR))).max(1)
}

/// Bytes of a shard's ring buffer for caught segments, for each connection: a quarter of a small record. Where more come
/// at once, their peers send them again.
const CAUGHT_BYTES_PER_CONNECTION: u64 = 64;

/// The fewest and the most bytes of a ring buffer. The least holds 4,000 small segments, or 15 that GRO made.
const CAUGHT_BYTES: (u64, u64) = (1 << 20, 16 << 20);

/// The part of the memory left that all ring buffers may take, as a divisor: on a host of 256 MiB two of them take
/// 8 MiB at most. 32 MiB would take the room of 450,000 more sleepers.
const CAUGHT_PART: u64 = 32;

/// Bytes of the ring buffer of each shard for segments of sleeping connections, where `left` bytes of memory are left: a
/// power of two.
pub fn caught_bytes(connections: u64, shards: u64, left: u64) -> u32 {
    let shards = shards.max(1);
    let each = (connections / shards).saturating_mul(CAUGHT_BYTES_PER_CONNECTION);
    1 << each.min(left / CAUGHT_PART / shards).clamp(CAUGHT_BYTES.0, CAUGHT_BYTES.1).ilog2()
}

/// Checks that there can be so many connections: 1 to 4,294,967,295.
///
/// Fails with `ConfigError::Connections`.
pub fn check_connections(asked: u64) -> Result<()> {
    let most = u32::MAX.into();
    if (1..=most).contains(&asked) { Ok(()) } else { Err(ConfigError::Connections { asked, most }.into()) }
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

        /// Every shard has a ring buffer, and all of them take a small part of the memory that is left.
        #[test]
        fn ring_buffers_leave_room_for_sleepers(connections in 1u64..200_000_000, shards in 1u64..64, left: u64) {
            let bytes = u64::from(caught_bytes(connections, shards, left));
            prop_assert!((CAUGHT_BYTES.0..=CAUGHT_BYTES.1).contains(&bytes));
            prop_assert!(bytes == CAUGHT_BYTES.0 || bytes * shards <= left / CAUGHT_PART);
        }
    }
}
