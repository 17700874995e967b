//! Places: the slots of all rings in order, for those who walk over the connections a part at a time.

use super::Connections;
use crate::token::ConnId;

/// A slot among those of all rings, whoever has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Place {
    /// The ring.
    pub ring: usize,
    /// The slot in it.
    pub slot: u32,
}

impl Place {
    /// Where a connection is.
    pub fn of(conn: ConnId) -> Place {
        Place { ring: conn.ring(), slot: conn.slot() }
    }

    /// The next slot of the same ring.
    pub fn after(self) -> Place {
        Place { slot: self.slot + 1, ..self }
    }
}

impl<S: Default> Connections<S> {
    /// The connection that stands in a place.
    pub fn live_at(&self, place: Place) -> Option<ConnId> {
        let ring = self.rings.get(place.ring)?;
        if place.slot < ring.table.used() { ring.live(place.ring, place.slot) } else { None }
    }

    /// The first connection that stands at `from` or after it. Looks at as many slots as `slots` says at most, and
    /// takes those it looked at off that; `from` is then where to go on. `None` with slots left means that there is
    /// none.
    pub fn next_live_within(&self, from: &mut Place, slots: &mut usize) -> Option<ConnId> {
        while let Some(ring) = self.rings.get(from.ring) {
            while from.slot < ring.table.used() {
                if *slots == 0 {
                    return None;
                }
                *slots -= 1;
                if let Some(conn) = ring.live(from.ring, from.slot) {
                    return Some(conn);
                }
                from.slot += 1;
            }
            *from = Place { ring: from.ring + 1, slot: 0 };
        }
        None
    }

    /// All connections that stand, with the driver's state of each.
    pub fn live(&self) -> impl Iterator<Item = (ConnId, &S)> {
        self.rings.iter().enumerate().flat_map(|(index, ring)| {
            let live = move |slot| ring.live(index, slot).map(|conn| (conn, &ring.table.row(slot).state));
            (0..ring.table.used()).filter_map(live)
        })
    }

    /// The driver's state of a connection that is not gone.
    pub fn peek(&self, conn: ConnId) -> Option<&S> {
        let table = &self.rings.get(conn.ring())?.table;
        let row = (conn.slot() < table.used()).then(|| table.row(conn.slot()))?;
        (row.generation == conn.generation() && !row.lifecycle.is_free()).then_some(&row.state)
    }
}
