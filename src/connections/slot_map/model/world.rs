//! Many occupants of the slots of several rings, and what comes for them by their tokens.

use std::collections::{BTreeMap, VecDeque};

use proptest::prelude::*;

use super::events::{Event, all_events};
use super::{Occupant, SlotMap};
use crate::token::{ConnId, Operation, Token};

/// Several rings' rows beside what should be in them.
struct World {
    tables: Vec<SlotMap<u64>>,
    occupants: BTreeMap<ConnId, (u64, Occupant)>,
    /// The last generation of each slot that had a occupant.
    generations: BTreeMap<(usize, u32), u32>,
    former: VecDeque<ConnId>,
    claimed: u64,
    events: Vec<Event>,
}

/// Former occupants whose completions may still come.
const FORMER: usize = 32;

impl World {
    fn new(rings: &[u32]) -> World {
        World {
            tables: rings.iter().map(|slots| SlotMap::new(*slots)).collect(),
            occupants: BTreeMap::new(),
            generations: BTreeMap::new(),
            former: VecDeque::new(),
            claimed: 0,
            events: all_events(),
        }
    }

    fn step(&mut self, kind: u8, who: u32, what: u32) {
        match kind {
            0..=31 => self.claim(),
            32..=63 => self.stale(who, what),
            _ => self.event(who, what),
        }
        let free: u32 = self.tables.iter().map(SlotMap::free).sum();
        let slots: u32 = self.tables.iter().map(SlotMap::slots).sum();
        assert_eq!(free as usize + self.occupants.len(), slots as usize, "slots are lost");
    }

    /// A new occupant, in the first ring that has room.
    fn claim(&mut self) {
        let claimed = self.tables.iter_mut().enumerate().find_map(|(ring, table)| Some((ring, table.claim(0)?)));
        let Some((ring, slot)) = claimed else {
            assert!(self.tables.iter().all(|table| table.free() == 0));
            return;
        };
        let row = self.tables[ring].row_mut(slot);
        let generation = row.generation;
        let before = self.generations.insert((ring, slot), generation);
        assert!(before.is_none_or(|before| before < generation), "a former occupant's name");
        self.claimed += 1;
        row.state = self.claimed;
        let conn = ConnId::new(ring, slot, generation);
        assert!(self.occupants.insert(conn, (self.claimed, Occupant::new())).is_none(), "two occupants of a slot");
    }

    /// Something happens to a occupant, and comes by its token.
    fn event(&mut self, who: u32, what: u32) {
        let Some(at) = (who as usize).checked_rem(self.occupants.len()) else { return };
        let Some((conn, (number, occupant))) = self.occupants.iter_mut().nth(at) else { return };
        let may: Vec<Event> = self.events.iter().copied().filter(|event| occupant.may(*event)).collect();
        let token = Token::unpack(conn.token(Operation::Poll).pack()).unwrap();
        let row = self.tables[conn.ring()].occupant(token.slot, token.generation).unwrap();
        assert_eq!(row.state, *number, "another's row");
        if !occupant.happen(&mut row.lifecycle, may[what as usize % may.len()]) {
            return occupant.check(row.lifecycle);
        }
        occupant.check_released();
        let conn = *conn;
        self.tables[conn.ring()].release(conn.slot());
        self.occupants.remove(&conn);
        self.former.push_back(conn);
        if self.former.len() > FORMER {
            self.former.pop_front();
        }
    }

    /// A completion of a former occupant finds no connection, even if its slot has a new one.
    fn stale(&mut self, who: u32, what: u32) {
        let Some(at) = (who as usize).checked_rem(self.former.len()) else { return };
        let conn = self.former[at];
        let operation = [Operation::Poll, Operation::Receive, Operation::Send, Operation::Close][what as usize % 4];
        let token = Token::unpack(conn.token(operation).pack()).unwrap();
        assert!(self.tables[conn.ring()].occupant(token.slot, token.generation).is_none(), "told a new occupant");
    }
}

proptest! {
    /// Few slots, so that they are reused all the time and rings are full now and then.
    #[test]
    fn tenants_of_many_slots_live_as_they_should(
        rings in prop::collection::vec(1u32..6, 1..4),
        steps in prop::collection::vec(any::<(u8, u32, u32)>(), 0..2_000),
    ) {
        let mut world = World::new(&rings);
        for (kind, who, what) in steps {
            world.step(kind, who, what);
        }
    }
}
