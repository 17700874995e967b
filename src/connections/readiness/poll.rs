//! Waiting in a poll. A poll is armed when nothing is left to receive, and ends when it fires. A lasting (multishot)
//! poll need not be armed for each message. But each close must find it among the ring's polls and remove it, which
//! took more than half of the time of a mass disconnect. So only connections that are parked often get a lasting poll.

use crate::connections::idle::parked_often;
use crate::connections::slots::Slots;
use crate::error::Result;
use crate::ring::RingOps;
use crate::token::{ConnId, Operation};

/// A connection that is parked this often within one window of `idle.rs` is busy, and gets a lasting poll.
const POLLS_BEFORE_MULTISHOT: u16 = 16;

/// Parks a connection in a poll: in a lasting one if it is busy.
pub fn park<S: Default, R: RingOps>(slots: &mut Slots<S, R>, conn: ConnId) -> Result<()> {
    let Some(row) = slots.row(conn) else { return Ok(()) };
    let lasting = parked_often(&mut row.link, POLLS_BEFORE_MULTISHOT);
    poll(slots, conn, lasting)
}

/// Arms a poll for a connection.
pub fn poll<S: Default, R: RingOps>(slots: &mut Slots<S, R>, conn: ConnId, lasting: bool) -> Result<()> {
    slots.update(conn, |state| state.park(lasting));
    slots.ring(conn).poll(conn.token(Operation::Poll), lasting)
}
