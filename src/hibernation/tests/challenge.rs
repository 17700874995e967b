use std::collections::BTreeSet;
use std::hash::RandomState;

use super::super::challenge::ChallengeLimit;
use super::*;

fn tuple(number: u32) -> Tuple {
    let mut tuple = plain().tuple;
    tuple.remote.set_ip(IpAddr::from(number.to_be_bytes()));
    tuple
}

#[test]
fn a_connection_gets_one_challenge_in_half_a_second() {
    let mut limit = ChallengeLimit::new(RandomState::new());
    for start in [0, 500, 1_000_000, u32::MAX - u32::MAX % 500 - 500] {
        assert!(limit.allows(&tuple(1), start));
        assert!(!limit.allows(&tuple(1), start));
        assert!(!limit.allows(&tuple(1), start + 499));
    }
}

/// The time in milliseconds wraps after 50 days.
#[test]
fn challenges_go_on_when_the_time_wraps() {
    let mut limit = ChallengeLimit::new(RandomState::new());
    assert!(limit.allows(&tuple(1), u32::MAX));
    assert!(limit.allows(&tuple(1), 0));
}

/// A flood from many connections is bounded, and by how much cannot be told in advance.
#[test]
fn all_connections_together_get_a_bounded_and_unforeseeable_number() {
    let mut limit = ChallengeLimit::new(RandomState::new());
    let counts: BTreeSet<usize> = (0..40)
        .map(|period| (0..20_000).filter(|number| limit.allows(&tuple(*number), period * 500 + 7)).count())
        .collect();
    assert!(counts.iter().all(|count| (250..750).contains(count)), "{counts:?}");
    assert!(counts.len() > 1, "{counts:?}");
}

/// Which connections stand in each other's way changes with every period.
#[test]
fn no_connection_is_shut_out_by_others_for_long() {
    let mut limit = ChallengeLimit::new(RandomState::new());
    let had = (0..64).filter(|period| {
        for number in 0..200 {
            limit.allows(&tuple(number), period * 500);
        }
        limit.allows(&tuple(1_000), period * 500)
    });
    // The odds of a shared bit are one in forty.
    assert!(had.count() > 32);
}
