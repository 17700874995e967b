//! Answers and unasked frames that are incomplete: how far each has come. Most connections have none at any time, so
//! their rows have no place for it.

use std::collections::HashMap;

use crate::protocol::{Position, Scratch};

/// Connections of a shard that have one at most, in flight or not. Each takes some 50 bytes, and what is kept of its frame.
const MOST: usize = 131_072;

/// Bytes of frames and heads that are kept at most in all.
const MOST_KEPT_IN_ALL: usize = 16 << 20;

/// Connections for which the table keeps its memory.
const FEW: usize = 1_024;

/// What is known of an incomplete answer or frame.
#[derive(Debug, Default)]
struct Incomplete {
    position: Position,
    kept: Vec<u8>,
}

/// The incomplete answers and frames of a shard, by the number of their connection within it.
#[derive(Debug, Default)]
pub struct IncompleteTable {
    all: HashMap<u32, Incomplete>,
    /// Bytes that are kept in all.
    kept: usize,
}

impl IncompleteTable {
    /// Takes out what is known of a connection: its position, and into `scratch` the bytes that were kept.
    pub fn take(&mut self, index: u32, scratch: &mut Scratch) -> Position {
        scratch.kept.clear();
        let Some(found) = self.remove(index) else { return Position::default() };
        scratch.kept = found.kept;
        found.position
    }

    /// Keeps the position of a connection, and the bytes that `scratch` keeps of it. `false` if there is no room.
    pub fn put(&mut self, index: u32, position: Position, scratch: &mut Scratch) -> bool {
        if position == Position::default() && scratch.kept.is_empty() {
            return true;
        }
        let has_room = self.all.len() < MOST && self.kept + scratch.kept.len() <= MOST_KEPT_IN_ALL;
        if has_room {
            self.kept += scratch.kept.len();
            self.all.insert(index, Incomplete { position, kept: std::mem::take(&mut scratch.kept) });
        }
        has_room
    }

    /// Forgets a connection.
    pub fn forget(&mut self, index: u32) {
        self.remove(index);
    }

    fn remove(&mut self, index: u32) -> Option<Incomplete> {
        // While there are none, which is most of the time, nothing is looked up.
        if self.all.is_empty() {
            return None;
        }
        let found = self.all.remove(&index)?;
        self.kept -= found.kept.len();
        if self.all.is_empty() {
            // A crowd of them is over.
            self.all.shrink_to(FEW);
        }
        Some(found)
    }
}
