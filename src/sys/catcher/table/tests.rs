//! The table alone, without segments. It needs the right to make maps.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::*;
use crate::sys::skips;

/// Whether this user may have a table; otherwise the test is skipped.
fn may_have_one() -> bool {
    skips::may("no table of sleeping connections", Table::new(1, 1).map(drop))
}

/// One of many connections to a server: 60,000 ports of each client's address.
fn connection(nth: u32) -> Tuple {
    let remote = Ipv4Addr::from(0x0a00_0001 + nth / 60_000);
    Tuple {
        remote: (remote, (1_024 + nth % 60_000) as u16).into(),
        local: (Ipv4Addr::new(192, 168, 0, 1), 8_888).into(),
    }
}

fn v6(tuple: Tuple) -> Tuple {
    let mapped = |end: SocketAddr| match end.ip() {
        IpAddr::V4(ip) => {
            SocketAddr::new(Ipv6Addr::from(u128::from(u32::from(ip)) << 64 | 0xfd << 120).into(), end.port())
        }
        IpAddr::V6(_) => end,
    };
    Tuple { remote: mapped(tuple.remote), local: mapped(tuple.local) }
}

impl Table {
    /// The tag of a connection.
    pub fn tag(&self, tuple: &Tuple) -> u32 {
        self.places(tuple).tag
    }

    /// The value of a connection.
    fn value_of(&self, tuple: &Tuple) -> Option<u32> {
        let mut cells = self.tagged(self.places(tuple)).map(|cell| (cell.load(Ordering::SeqCst) >> 32) as u32);
        let value = cells.next();
        assert_eq!(cells.next(), None, "two cells of one tag");
        value
    }
}

#[test]
fn values_hold_shard_and_index() {
    for (shards, bits) in [(1, 31), (2, 30), (3, 29), (4, 29), (64, 25), (65, 24)] {
        let division = Division::of(shards);
        assert_eq!(division.index_bits, bits);
        let most = (1u32 << bits) - 1;
        for shard in [0, shards - 1] {
            for index in [0, 1, most] {
                let value = division.value(shard, index).unwrap();
                assert_eq!((value & AWAKE, division.index(value), value >> bits), (0, index, shard as u32));
            }
        }
        assert_eq!(division.value(division.shards, 0), None);
        assert!(bits == 31 || division.value(0, most + 1).is_none());
    }
}

#[test]
fn all_that_the_table_is_made_for_find_a_place() {
    if !may_have_one() {
        return;
    }
    for to in [(|tuple| tuple) as fn(Tuple) -> Tuple, v6] {
        const CONNECTIONS: u32 = 30_000;
        let table = Table::new(4, CONNECTIONS.into()).unwrap();
        assert!(table.bytes() as u32 / CONNECTIONS < 12);
        let refused: Vec<u32> = (0..CONNECTIONS)
            .filter(|nth| table.insert(&to(connection(*nth)), *nth as usize % 4, *nth).is_err())
            .collect();
        // The first overflow is expected at a load of 0.71, and the table is filled to 0.70.
        assert!(refused.len() < 5, "{} found no place", refused.len());
        for nth in (0..CONNECTIONS).filter(|nth| !refused.contains(nth)) {
            let tuple = to(connection(nth));
            let value = table.value_of(&tuple).unwrap();
            assert_eq!((table.division.index(value), value >> table.division.index_bits), (nth, nth % 4));
            table.remove(&tuple, nth as usize % 4, nth + 1);
            assert!(table.value_of(&tuple).is_some(), "another's removal");
            table.remove(&tuple, nth as usize % 4, nth);
            assert_eq!(table.value_of(&tuple), None);
        }
    }
}

#[test]
fn a_full_table_refuses_and_takes_again_what_was_removed() {
    if !may_have_one() {
        return;
    }
    let table = Table::new(1, 1).unwrap();
    assert_eq!(table.buckets, 1);
    let all: Vec<Tuple> = (0..9).map(connection).collect();
    for (index, tuple) in (0..).zip(&all[..8]) {
        assert_eq!(table.insert(tuple, 0, index), Ok(()));
    }
    assert_eq!(table.insert(&all[8], 0, 8), Err(NoPlace::Full));
    table.remove(&all[3], 0, 3);
    assert_eq!(table.insert(&all[8], 0, 8), Ok(()));
    assert_eq!(table.value_of(&all[8]), Some(8));
}

/// Connections with the same tag have both buckets in common, or none. So a look-up of one cannot find the other.
#[test]
fn a_tag_and_a_bucket_in_common_are_both_buckets_in_common() {
    if !may_have_one() {
        return;
    }
    let table = Table::new(1, 50).unwrap();
    assert_eq!(table.buckets, 9);
    let mut tags = HashMap::<u32, Places>::new();
    let mut twins = 0;
    for places in (0..300_000).map(|nth| table.places(&connection(nth))) {
        if let Some(other) = tags.insert(places.tag, places) {
            let [first, second] = places.buckets;
            assert_eq!(other.buckets.contains(&first), other.buckets.contains(&second));
            twins += 1;
        }
    }
    assert!(twins > 0);
}

/// Trap 7: two connections that the programs could not tell apart.
#[test]
fn a_connection_with_a_tag_that_is_there_is_refused() {
    if !may_have_one() {
        return;
    }
    let table = Table::new(1, 1).unwrap();
    let mut tags = HashMap::new();
    // Of n connections some n^2 / 2^32 pairs have the same tag.
    let twins = (0..1_000_000).find_map(|nth| {
        let tag = table.places(&connection(nth)).tag;
        tags.insert(tag, nth).map(|other| (other, nth))
    });
    let (first, second) = twins.unwrap();
    let (first, second) = (connection(first), connection(second));
    assert_eq!(table.insert(&first, 0, 1), Ok(()));
    assert_eq!(table.insert(&second, 0, 2), Err(NoPlace::Collides));
    assert_eq!(table.value_of(&first), Some(1));
    table.wake(&first, 0, 1);
    assert_eq!(table.insert(&second, 0, 2), Err(NoPlace::Collides));
    table.remove(&first, 0, 1);
    assert_eq!(table.insert(&second, 0, 2), Ok(()));
}

#[test]
fn threads_that_insert_and_remove_together_lose_nothing() {
    if !may_have_one() {
        return;
    }
    const EACH: u32 = 4_000;
    let table = Table::new(2, 100).unwrap();
    // Buckets are few, so that the threads meet in them all the time.
    for round in 0..5 {
        std::thread::scope(|scope| {
            for shard in 0..2u32 {
                let table = &table;
                scope.spawn(move || {
                    for nth in (0..EACH).map(|nth| (round * EACH + nth) * 2 + shard) {
                        let tuple = connection(nth);
                        if table.insert(&tuple, shard as usize, nth).is_ok() {
                            let value = table.value_of(&tuple).unwrap();
                            assert_eq!(table.division.index(value), nth);
                            // Every fourth stays for a while.
                            if nth % 8 > 1 || nth % 1_000 > 20 {
                                table.remove(&tuple, shard as usize, nth);
                            }
                        }
                    }
                });
            }
        });
        for nth in 0..(round + 1) * EACH * 2 {
            table.remove(&connection(nth), (nth % 2) as usize, nth);
        }
        let left = (0..table.bytes() / 8).filter(|at| table.cells.word(*at).load(Ordering::SeqCst) != 0).count();
        assert_eq!(left, 0, "round {round}");
    }
}

/// An attacker cannot know which connections collide: each table has keys of its own.
#[test]
fn no_two_tables_have_the_same_keys() {
    if !may_have_one() {
        return;
    }
    let [(_, one), (_, other)] = [(); 2].map(|()| Table::new(1, 100).unwrap().terms());
    assert_ne!(one, other);
}
