//! Pure arithmetic from a goal to cores, ports, rings, slots and routes. Nothing here asks the host.

mod awake;
mod client;
mod goal;
mod idle;
mod needs;
mod ports;
mod reserve;
mod routes;
mod shards;
mod target;

use std::ops::Range;

pub use awake::{FEWEST_AWAKE, MOST_AWAKE, awake, awake_within, caught_bytes, check_connections, check_hibernation};
pub use client::ClientGoal;
pub use goal::{Goal, Layers, Role};
pub use idle::IdleBackend;
pub use needs::{
    DESCRIPTORS_OF_METRICS, EXECUTOR_LOCKED_BYTES, FEWEST_DROWSY, GLOMMIO_MEMLOCK, Needs, RING_LOCKED_BYTES, needs,
};
pub use ports::{PortSharing, Ports};
pub use reserve::Reserve;
pub use routes::Routes;
use shards::slots_each;
pub use shards::{SLOTS_PER_RING, ServerGoal, ShardPlan, rings, server, server_needs};
pub use target::{Scheme, Target, TargetHost};

/// Part `index` of `total` things split into `parts` contiguous runs whose sizes differ by at most
/// one, the larger first.
pub fn share(total: u64, parts: u64, index: u64) -> Range<u64> {
    let (each, extra) = (total / parts, total % parts);
    let start = index * each + index.min(extra);
    start..start + each + u64::from(index < extra)
}

/// The largest number up to `most` that fits, where every smaller one does too; 0 if none does.
pub fn largest(most: u64, fits: impl Fn(u64) -> bool) -> u64 {
    let (mut good, mut bad) = (0, most.saturating_add(1));
    while bad - good > 1 {
        let middle = good + (bad - good) / 2;
        if fits(middle) { good = middle } else { bad = middle }
    }
    good
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn shares_are_contiguous_and_balanced(total in 0u64..100_000, parts in 1u64..300) {
            let all: Vec<_> = (0..parts).map(|i| share(total, parts, i)).collect();
            prop_assert_eq!(all[0].start, 0);
            prop_assert_eq!(all.last().unwrap().end, total);
            for pair in all.windows(2) {
                prop_assert_eq!(pair[0].end, pair[1].start);
                prop_assert!(pair[0].end - pair[0].start - (pair[1].end - pair[1].start) <= 1);
            }
        }

        /// What is said to be possible is, and one more is not.
        #[test]
        fn the_largest_that_fits_is_found(limit in 0u64..1_000, most in 0u64..1_000) {
            prop_assert_eq!(largest(most, |n| n <= limit), limit.min(most));
        }
    }
}
