//! The entries against a plain map.

use std::collections::{BTreeMap, HashSet};

use proptest::prelude::*;

use std::os::fd::AsFd;
use std::time::Duration;

use super::*;
use crate::hibernation::round_trip::RoundTrip;

/// What the map has of a connection.
#[derive(Debug, Clone)]
struct Known {
    name: ConnId,
    /// A name that the driver has forgotten.
    renamed: bool,
    whereabouts: Whereabouts,
    place: (usize, u32),
    ends: Option<(Tuple, Negotiated)>,
    progress: Option<(Progress, u16)>,
    round_trip: RoundTrip,
}

/// Something that happens to one connection, or to a new one.
#[derive(Debug, Clone)]
enum Step {
    Claim {
        ring: usize,
        slot: u32,
    },
    Identify(Tuple, Negotiated),
    /// It is being put to sleep, and has something to do again.
    Doze {
        again: bool,
    },
    Sleep(Progress, u16),
    Progress(Progress),
    /// Something is on its way to its peer, or was acknowledged.
    Send,
    Wake {
        ring: usize,
        slot: u32,
    },
    End,
    Rename,
    Release,
}

fn tuples() -> impl Strategy<Value = Tuple> {
    let tuple = |remote: IpAddr, local: IpAddr, ports: (u16, u16)| Tuple {
        remote: SocketAddr::new(remote, ports.0),
        local: SocketAddr::new(local, ports.1),
    };
    let of_interface = |(remote, local, ports, scope): ([u8; 16], [u8; 16], (u16, u16), u32)| {
        let end = |ip: [u8; 16], port| SocketAddrV6::new(Ipv6Addr::from(ip), port, 0, scope).into();
        Tuple { remote: end(remote, ports.0), local: end(local, ports.1) }
    };
    prop_oneof![
        any::<([u8; 4], [u8; 4], (u16, u16))>().prop_map(move |(remote, local, ports)| tuple(
            remote.into(),
            local.into(),
            ports
        )),
        any::<([u8; 16], [u8; 16], (u16, u16), u32)>().prop_map(of_interface),
    ]
}

fn negotiated() -> impl Strategy<Value = Negotiated> {
    let scales = prop::option::of((0..=14u8, 0..=14u8).prop_map(|(send, receive)| Scales { send, receive }));
    (any::<u16>(), scales, any::<bool>(), any::<Option<u32>>())
        .prop_map(|(mss, scales, sack, timestamp_offset)| Negotiated { mss, scales, sack, timestamp_offset })
}

fn progress() -> impl Strategy<Value = Progress> {
    let windows = || prop_oneof![0..100_000u32, 0..=65_535u32 << 14, any::<u32>()];
    (any::<(u32, u32)>(), windows(), windows(), windows(), prop::option::of(0..400_000u32)).prop_map(
        |((received, sent), send_window, receive_window, largest_window, micros)| Progress {
            received,
            sent,
            send_window,
            receive_window,
            largest_window,
            round_trip: micros.map(|micros| Duration::from_micros(micros.into())),
        },
    )
}

fn steps() -> impl Strategy<Value = Vec<(usize, Step)>> {
    let place = || (0..16usize, 0..1u32 << SLOT_BITS);
    let step = prop_oneof![
        4 => place().prop_map(|(ring, slot)| Step::Claim { ring, slot }),
        4 => (tuples(), negotiated()).prop_map(|(tuple, negotiated)| Step::Identify(tuple, negotiated)),
        2 => any::<bool>().prop_map(|again| Step::Doze { again }),
        3 => (progress(), any::<u16>()).prop_map(|(progress, heard)| Step::Sleep(progress, heard)),
        1 => progress().prop_map(Step::Progress),
        1 => Just(Step::Send),
        2 => place().prop_map(|(ring, slot)| Step::Wake { ring, slot }),
        1 => Just(Step::End),
        1 => Just(Step::Rename),
        2 => Just(Step::Release),
    ];
    prop::collection::vec((any::<prop::sample::Index>().prop_map(|pick| pick.index(64)), step), 1..200)
}

/// A window as an entry keeps it: in whole units, 65,535 of them at most.
fn kept(window: u32, shift: u8) -> u32 {
    (window >> shift).min(65_535) << shift
}

/// The largest window as an entry keeps it: in eights of those units, and not below the present window.
fn kept_largest(progress: &Progress, shift: u8) -> u32 {
    let eights = (progress.largest_window >> shift).min(65_535) / 8;
    ((eights * 8) << shift).max(kept(progress.send_window, shift))
}

fn kept_of(progress: &Progress, round_trip: RoundTrip, negotiated: &Negotiated) -> Progress {
    let (send, receive) = negotiated.scales.map_or((0, 0), |scales| (scales.send, scales.receive));
    Progress {
        send_window: kept(progress.send_window, send),
        receive_window: kept(progress.receive_window, receive),
        largest_window: kept_largest(progress, send),
        round_trip: round_trip.time(),
        ..*progress
    }
}

impl Known {
    /// It sleeps or ends, and has come so far. What was not measured is as it was.
    fn has_come(&mut self, progress: Progress, heard: u16) {
        if let Some(measured) = progress.round_trip {
            self.round_trip = self.round_trip.after(measured);
        }
        self.progress = Some((progress, heard));
    }
}

/// Does a step, with the entries and in the map.
fn take(entries: &mut Entries, map: &mut BTreeMap<u32, Known>, former: &mut HashSet<ConnId>, pick: usize, step: Step) {
    if let Step::Claim { ring, slot } = step {
        let claimed = entries.claim(ConnId::new(ring, slot, 7));
        assert_eq!(claimed.is_none(), map.len() as u32 == entries.most, "there is room, or there is none");
        let Some(index) = claimed else { return };
        let (name, place) = (entries.name_of(index), (ring, slot));
        assert!(!former.contains(&name), "a former connection's name");
        let (whereabouts, ends, progress) = (Whereabouts::Awake, None, None);
        let known = Known { name, renamed: false, whereabouts, place, ends, progress, round_trip: RoundTrip::UNKNOWN };
        let former = map.insert(index, known);
        assert!(former.is_none(), "an entry that is taken");
        return;
    }
    let Some(index) = map.keys().copied().nth(pick % map.len().max(1)) else { return };
    let Some(known) = map.get_mut(&index) else { return };
    let asleep = known.whereabouts.is_kept();
    match step {
        Step::Claim { .. } => {}
        Step::Identify(tuple, negotiated) if known.ends.is_none() => {
            entries.identify(index, &tuple, &negotiated);
            known.ends = Some((tuple, negotiated));
        }
        Step::Doze { again } if !asleep => {
            known.whereabouts = if again { Whereabouts::Roused } else { Whereabouts::Drowsy };
            entries.move_to(index, known.whereabouts);
        }
        Step::Sleep(progress, heard) if !asleep && known.ends.is_some() => {
            entries.fell_asleep(index, &progress, heard);
            known.whereabouts = Whereabouts::Asleep;
            known.has_come(progress, heard);
        }
        Step::Progress(progress) if asleep => {
            entries.progressed(index, &progress);
            let heard = known.progress.map_or(0, |(_, heard)| heard);
            known.has_come(progress, heard);
        }
        Step::Send if known.whereabouts.is_asleep() => {
            let sends = known.whereabouts == Whereabouts::Asleep;
            known.whereabouts = if sends { Whereabouts::Sending } else { Whereabouts::Asleep };
            entries.move_to(index, known.whereabouts);
        }
        Step::Wake { ring, slot } if known.whereabouts.is_asleep() => {
            entries.woke(index, ConnId::new(ring, slot, 9));
            (known.whereabouts, known.place, known.progress) = (Whereabouts::Awake, (ring, slot), None);
        }
        Step::End if known.whereabouts.is_asleep() => {
            entries.move_to(index, Whereabouts::Ending);
            known.whereabouts = Whereabouts::Ending;
        }
        Step::Rename if known.whereabouts == Whereabouts::Ending && !known.renamed => {
            entries.rename(index);
            former.insert(known.name);
            known.renamed = true;
        }
        Step::Release => {
            entries.release(index);
            former.insert(known.name);
            map.remove(&index);
        }
        _ => {}
    }
}

/// The entries say the same as the map.
fn agree(entries: &Entries, map: &BTreeMap<u32, Known>, former: &HashSet<ConnId>) {
    for (index, known) in map {
        if !known.renamed {
            assert_eq!((entries.name_of(*index), entries.find(known.name)), (known.name, Some(*index)));
        }
        assert_eq!(entries.whereabouts(*index), known.whereabouts);
        assert_eq!(entries.is_known(*index), known.ends.is_some());
        assert_eq!(entries.tuple(*index), known.ends.map(|(tuple, _)| tuple));
        assert_eq!(entries.negotiated(*index), known.ends.map(|(_, negotiated)| negotiated));
        let asleep = known.whereabouts.is_kept();
        assert_eq!(entries.place(*index), (!asleep).then_some(known.place));
        let checkpoint =
            known.ends.zip(known.progress).filter(|_| asleep).map(|((tuple, negotiated), (progress, _))| Checkpoint {
                tuple,
                negotiated,
                progress: kept_of(&progress, known.round_trip, &negotiated),
            });
        assert_eq!(entries.checkpoint(*index), checkpoint);
        if let Some((_, heard)) = known.progress {
            assert_eq!(entries.heard(*index), heard);
        }
    }
    for name in former {
        assert_eq!(entries.find(*name), None, "a former connection is known");
    }
    for index in (0..entries.len()).filter(|index| !map.contains_key(index)) {
        assert_eq!(entries.whereabouts(index), Whereabouts::Free);
        assert_eq!((entries.place(index), entries.tuple(index), entries.checkpoint(index)), (None, None, None));
    }
}

/// Memory that outlives a process, and descriptors with which a later one takes it over.
fn memory() -> (EntryMemory, EntryMemory) {
    let one = |name| {
        let memory = SharedMemory::new(name).unwrap();
        let copy = SharedMemory::adopt(memory.as_fd().try_clone_to_owned().unwrap()).unwrap();
        (memory, copy)
    };
    let ((entries, entries_copy), (addresses, addresses_copy)) = (one("entries"), one("addresses"));
    (EntryMemory { entries, addresses }, EntryMemory { entries: entries_copy, addresses: addresses_copy })
}

proptest! {
    /// A process that is killed after any steps leaves to the next one exactly the connections that slept or ended, as
    /// they were, also which of them had sent something; those that were awake are lost, and every other entry can be used.
    #[test]
    fn what_a_killed_process_leaves_is_what_slept(most in 1u32..12, steps in steps()) {
        let (ours, theirs) = memory();
        let mut entries = Entries::in_memory(ours, most).unwrap();
        let (mut map, mut former) = (BTreeMap::new(), HashSet::new());
        for (pick, step) in steps {
            take(&mut entries, &mut map, &mut former, pick, step);
        }
        let mut next = Entries::in_memory(theirs, most).unwrap();
        next.catch_up().unwrap();
        let found = next.take_stock(|_| false);
        let is_kept = |known: &Known| known.whereabouts.is_kept();
        let kept: BTreeMap<u32, Known> =
            map.iter().filter(|(_, known)| is_kept(known)).map(|(index, known)| (*index, known.clone())).collect();
        prop_assert_eq!(found.asleep as usize + found.ending.len(), kept.len());
        prop_assert_eq!(found.lost as usize, map.len() - kept.len());
        agree(&next, &kept, &HashSet::new());
        let fresh: HashSet<u32> = std::iter::from_fn(|| next.claim(ConnId::new(0, 1, 2))).collect();
        prop_assert_eq!(fresh.len() + kept.len(), most as usize);
        prop_assert!(fresh.iter().all(|index| !kept.contains_key(index)), "an entry that is taken");
    }

    /// Connections that are awake stay with the process that hands over, until they arrive or end; the others are the
    /// successor's at once. If that is gone they come back.
    #[test]
    fn entries_change_hands(
        most in 1u32..12, steps in steps(), arrive in any::<u64>(), early in any::<u64>(), returns in any::<bool>()
    ) {
        let (ours, theirs) = memory();
        let mut entries = Entries::in_memory(ours, most).unwrap();
        let (mut map, mut former) = (BTreeMap::new(), HashSet::new());
        for (pick, step) in steps {
            take(&mut entries, &mut map, &mut former, pick, step);
        }
        entries.surrender();
        let awake: Vec<u32> =
            map.iter().filter(|(_, known)| !known.whereabouts.is_kept()).map(|(index, _)| *index).collect();
        for index in &awake {
            prop_assert_eq!(entries.place(*index), Some(map[index].place), "it has its slot here");
        }
        // Some end before the successor looks. It hears of them only afterwards.
        let is_early = |at: usize| !returns && early >> (at % 64) & 1 == 1;
        for (at, index) in awake.iter().enumerate().filter(|(at, _)| is_early(*at)) {
            entries.release(*index);
            map.remove(index);
            prop_assert_eq!(entries.place(*index), None, "{} has ended", at);
        }
        let mut next = Entries::in_memory(theirs, most).unwrap();
        next.catch_up().unwrap();
        let found = next.take_stock(|_| true);
        let ended = (0..awake.len()).filter(|at| is_early(*at)).count();
        prop_assert_eq!((found.lost, found.asleep as usize + found.ending.len()), (0, map.len() + ended - awake.len()));
        for (at, index) in awake.iter().enumerate() {
            prop_assert_eq!(next.place(*index), None, "its slot is elsewhere");
            if is_early(at) {
                next.ended_away(*index);
            } else if arrive >> (at % 64) & 1 == 1 {
                // At no instant the slot that it gets there looks like one of this process.
                let conn = ConnId::new(3, 9, 0);
                let words = next.entries.get(*index as usize).unwrap();
                let before = Entry::load(words);
                let mut arrived = before;
                arrived.received = place_of(conn);
                arrived.move_to(Whereabouts::Awake);
                for (at, word) in arrived.changes(&before) {
                    words[at].store(word, Ordering::Relaxed);
                    let place = entries.place(*index);
                    prop_assert!(place.is_none_or(|place| place == map[index].place), "{:?}", place);
                }
                next.woke(*index, conn);
                prop_assert_eq!(next.place(*index), Some((3, 9)));
                prop_assert_eq!(entries.place(*index), None);
            } else if !returns {
                entries.release(*index);
                next.ended_away(*index);
                map.remove(index);
            }
        }
        if returns {
            // The successor is gone, with those that it had.
            entries.catch_up().unwrap();
            let here: HashSet<u32> = (0..).zip(&awake).filter(|(at, _)| arrive >> (at % 64) & 1 == 0).map(|(_, index)| *index).collect();
            let found = entries.take_stock(|index| here.contains(&index));
            prop_assert_eq!(found.lost as usize, awake.len() - here.len());
            prop_assert!(here.iter().all(|index| entries.place(*index) == Some(map[index].place)));
        } else {
            let fresh: Vec<u32> = std::iter::from_fn(|| next.claim(ConnId::new(0, 1, 2))).take(most as usize + 1).collect();
            let different: HashSet<u32> = fresh.iter().copied().collect();
            prop_assert_eq!(fresh.len(), different.len(), "an entry is given out twice");
            prop_assert_eq!(fresh.len() + map.len(), most as usize);
            prop_assert!(!map.keys().any(|index| different.contains(index)), "an entry that is taken");
        }
    }

    /// Whatever lies in memory that another process wrote, what is taken over can be asked for, and nothing is given out
    /// twice.
    #[test]
    fn any_memory_can_be_taken_over(words in prop::collection::vec(any::<(u8, u64)>(), 0..200), most in 1u32..40) {
        let (ours, theirs) = memory();
        let mut first = Entries::in_memory(ours, 64).unwrap();
        prop_assert!((0..40u32).all(|_| first.claim(ConnId::new(0, 0, 0)).is_some()));
        for (at, value) in words {
            if let Some(words) = first.entries.get(usize::from(at) / WORDS) {
                words[usize::from(at) % WORDS].store(value, Ordering::Relaxed);
            }
        }
        let mut next = Entries::in_memory(theirs, most).unwrap();
        next.catch_up().unwrap();
        let found = next.take_stock(|_| true);
        for index in 0..next.len() {
            let _ = (next.tuple(index), next.negotiated(index), next.checkpoint(index), next.place(index), next.heard(index));
        }
        prop_assert!(found.ending.iter().all(|index| next.checkpoint(*index).is_some()));
        let mut given = HashSet::new();
        for _ in 0..100 {
            let Some(index) = next.claim(ConnId::new(0, 1, 2)) else { break };
            prop_assert!(given.insert(index), "an entry is given out twice");
        }
    }

    /// Names are unique and former ones unknown; what is kept of a connection is what was given, windows in the units
    /// of its scales; places and memory of connections that are gone are used again.
    #[test]
    fn entries_are_a_map(most in 1u32..12, steps in steps()) {
        let (mut entries, mut map, mut former) = (Entries::new(most), BTreeMap::new(), HashSet::new());
        let mut most_v6 = 0;
        for (pick, step) in steps {
            take(&mut entries, &mut map, &mut former, pick, step);
            agree(&entries, &map, &former);
            let is_v6 = |known: &&Known| known.ends.is_some_and(|(tuple, _)| tuple.remote.is_ipv6());
            most_v6 = most_v6.max(map.values().filter(is_v6).count());
            prop_assert_eq!(entries.addresses.len(), most_v6, "addresses are not used again");
        }
    }

    /// Each index has one cursor, and the order of cursors is that of indexes. What is no place is behind the last one.
    #[test]
    fn cursors_name_entries(index in any::<u32>(), ring in any::<usize>(), slot in any::<u32>()) {
        let entries = Entries::new(0);
        let cursor = Entries::cursor_before(index);
        prop_assert_eq!((cursor.ring as u64) << SLOT_BITS | u64::from(cursor.slot), u64::from(index));
        prop_assert_eq!(entries.index_behind(Cursor { ring, slot }), 0);
        prop_assert_eq!(entries.index_behind(Cursor::END), 0);
    }
}

/// The end of a walk is behind the last entry, with as many entries as one ring has slots, and more.
#[test]
fn the_end_is_behind_all_entries() {
    for count in [1, (1 << SLOT_BITS) - 1, 1 << SLOT_BITS, (1 << SLOT_BITS) + 3] {
        let mut entries = Entries::new(u32::MAX);
        assert!((0..count).all(|_| entries.claim(ConnId::new(0, 0, 0)).is_some()));
        assert_eq!(entries.index_behind(Cursor::END), count);
        assert_eq!(entries.index_behind(Entries::cursor_before(count - 1)), count - 1);
        assert_eq!(entries.index_behind(Entries::cursor_before(count - 1).after()), count);
    }
}
