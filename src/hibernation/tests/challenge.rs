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

/// A flood from one connection uses up nothing but its own challenge.
#[test]
fn one_connection_takes_nothing_from_others() {
    let mut limit = ChallengeLimit::new(RandomState::new());
    assert_eq!((0..10_000).filter(|_| limit.allows(&tuple(0), 0)).count(), 1);
    // One of them may share a bit with it.
    assert!((1..20).filter(|number| limit.allows(&tuple(*number), 0)).count() > 9);
}

/// So an attacker cannot find out a pair by one test and use it in the next.
#[test]
fn which_connections_share_a_bit_changes_with_every_period() {
    let mut limit = ChallengeLimit::new(RandomState::new());
    let refused: BTreeSet<Vec<u32>> = (0..40)
        .map(|period| (0..200).filter(|number| !limit.allows(&tuple(*number), period * 500)).collect())
        .collect();
    // Of 200 connections two or three share a bit with an earlier one.
    assert!(refused.len() > 1, "{refused:?}");
    assert!(refused.iter().all(|refused| refused.len() < 100), "{refused:?}");
}
