//! Receiving. A receive goes to the kernel when there may be bytes and a buffer may be used for them; else its
//! connection waits for its turn.

use std::collections::VecDeque;

use super::slots::Slots;
use crate::connections::lifecycle::SlotState;
use crate::error::Result;
use crate::ring::{Buffers, RingOps};
use crate::token::{ConnId, Operation};

/// Buffers that one ring's receives and sends in flight hold at most. Beyond it readable connections wait for their
/// turn. Behind an overflowing completion queue there could be one buffer for each slot.
const BUFFERS_PER_RING: usize = 512;

/// Connections that receive in one pass what an earlier receive of theirs left in the socket, or that had to wait for
/// a buffer. A peer that sends without end has a turn of one buffer after all peers that send a little.
pub(crate) const RESUMED_PER_PASS: usize = 8;

/// Readable connections that wait for a receive.
#[derive(Debug, Default)]
pub(super) struct Incoming {
    waiting: VecDeque<ConnId>,
}

impl Incoming {
    /// Whether no connection waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// How many connections that wait may receive in this pass.
    pub fn turns(&self) -> usize {
        self.waiting.len().min(RESUMED_PER_PASS)
    }

    /// The connection whose turn it is.
    pub fn next_turn(&mut self) -> Option<ConnId> {
        self.waiting.pop_front()
    }

    /// Has a connection wait for its turn.
    pub fn wait<S: Default, R: RingOps>(&mut self, slots: &mut Slots<S, R>, conn: ConnId) {
        slots.update(conn, SlotState::wait);
        self.waiting.push_back(conn);
    }

    /// Receives what may be there, or waits until a buffer may be used for that.
    pub fn receive<S: Default, R: RingOps>(
        &mut self,
        slots: &mut Slots<S, R>,
        buffers: &mut Buffers,
        conn: ConnId,
    ) -> Result<()> {
        if slots.ring(conn).buffers_held() >= BUFFERS_PER_RING {
            self.wait(slots, conn);
            return Ok(());
        }
        slots.update(conn, SlotState::receive);
        slots.ring(conn).receive(conn.token(Operation::Receive), buffers.take())
    }
}
