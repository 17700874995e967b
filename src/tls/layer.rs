//! TLS of a shard's connections without their I/O: handshakes, sessions, and what is kept of records that are not whole.
//! The owner of the sockets gives it what came, and sends what it appends to a buffer.

#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::time::Duration;

use super::carried::Carried;
use super::handshake::{Acceptor, Connector, HANDSHAKE_TIMEOUT, Handshake, TakesTickets, TlsAgreed};
use super::record::{HEADER, LARGEST_CONTENT, MOST_AROUND, Side};
use super::sessions::Sessions;
use crate::clock::Mark;
use crate::constants::INCOMPLETE_RECORDS_BYTES;
use crate::error::{Alert, TlsFailure};
use crate::token::ConnId;
use crate::wiped::Wiped;

/// What begins the handshakes of a shard.
#[derive(Debug, Clone)]
pub enum Endpoint {
    /// The connections of a server.
    Server(Acceptor),
    /// The connections of a client.
    Client(Connector),
}

/// What a shard's TLS is told.
#[derive(Debug, Clone)]
pub struct LayerConfig {
    /// What begins handshakes.
    pub endpoint: Endpoint,
    /// Handshakes at once at most.
    pub most_handshakes: usize,
    /// Bytes of incomplete records at most.
    pub most_incomplete: usize,
    /// How long a connection may take to be established, and an incomplete record to become whole.
    pub timeout: Duration,
}

/// What an incomplete record takes beside its bytes: its places in the table and in the order of deadlines, and the
/// allocator's share.
const INCOMPLETE_OVERHEAD: usize = 160;

/// What the longest record takes while it is incomplete.
pub const LONGEST_INCOMPLETE: usize = LARGEST_CONTENT + MOST_AROUND + INCOMPLETE_OVERHEAD;

/// Connections of a client that wait for a ticket at once at most, some 1.5 kB each. A server that never sends anything
/// keeps them waiting for ever, so there must be a bound; those beyond it resume no session of their own.
const MOST_AWAITING_TICKETS: usize = 1_024;

impl LayerConfig {
    /// A configuration with so many handshakes at once at most.
    pub fn new(endpoint: Endpoint, most_handshakes: usize) -> LayerConfig {
        let most_incomplete = INCOMPLETE_RECORDS_BYTES;
        LayerConfig { endpoint, most_handshakes, most_incomplete, timeout: HANDSHAKE_TIMEOUT }
    }
}

/// A handshake under way, and the bytes of the peer that it has not taken.
struct Shaking {
    handshake: Box<dyn Handshake>,
    incoming: Vec<u8>,
    /// When it must be over, if that was postponed.
    until: Option<Mark>,
}

impl Shaking {
    fn new(handshake: Box<dyn Handshake>) -> Shaking {
        Shaking { handshake, incoming: Vec::new(), until: None }
    }
}

/// The beginning of a record.
struct Incomplete {
    bytes: Vec<u8>,
    /// When the record must be whole.
    until: Mark,
}

impl Incomplete {
    fn takes(&self) -> usize {
        self.bytes.capacity() + INCOMPLETE_OVERHEAD
    }
}

/// A handshake that is over.
#[derive(Debug)]
pub struct Shaken {
    /// What was agreed on.
    pub agreed: TlsAgreed,
    /// What came behind it.
    pub rest: Vec<u8>,
}

/// What became of bytes behind an incomplete record.
#[derive(Debug)]
pub enum Joined {
    /// No record of this connection was incomplete.
    None,
    /// The record is whole now, and so many of the bytes belong to it.
    Whole(Vec<u8>, usize),
    /// All bytes belong to the record, which is still incomplete.
    Part,
}

/// See the module.
pub struct Layer {
    endpoint: Endpoint,
    most_handshakes: usize,
    handshakes: HashMap<ConnId, Box<Shaking>>,
    /// Of clients: what takes the tickets that have not come yet.
    tickets: HashMap<ConnId, Box<dyn TakesTickets>>,
    incomplete: HashMap<ConnId, Incomplete>,
    /// The connections in `incomplete`, by the instants when their records must be whole.
    deadlines: BTreeSet<(Mark, ConnId)>,
    /// What both take.
    incomplete_bytes: usize,
    most_incomplete: usize,
    /// The sessions of established connections.
    pub sessions: Sessions,
}

impl Layer {
    /// Without connections.
    pub fn new(config: LayerConfig) -> Layer {
        let LayerConfig { endpoint, most_handshakes, most_incomplete, .. } = config;
        Layer {
            endpoint,
            most_handshakes,
            handshakes: HashMap::new(),
            tickets: HashMap::new(),
            incomplete: HashMap::new(),
            deadlines: BTreeSet::new(),
            incomplete_bytes: 0,
            most_incomplete,
            sessions: Sessions::default(),
        }
    }

    /// Whether this is a server's end.
    pub fn is_server(&self) -> bool {
        matches!(self.endpoint, Endpoint::Server(_))
    }

    // ---- handshakes ----------------------------------------------------------------------------

    /// Handshakes that may begin beside those that are under way.
    pub fn room(&self) -> usize {
        self.most_handshakes.saturating_sub(self.handshakes.len())
    }

    /// Handshakes that are under way.
    pub fn handshakes(&self) -> usize {
        self.handshakes.len()
    }

    /// Whether the handshake of a connection is under way: at a server, since its first bytes came.
    pub fn is_shaking(&self, name: ConnId) -> bool {
        self.handshakes.contains_key(&name)
    }

    /// A handshake that is under way may last until an instant.
    pub fn postpone(&mut self, name: ConnId, until: Mark) {
        if let Some(shaking) = self.handshakes.get_mut(&name) {
            shaking.until = Some(until);
        }
    }

    /// Whether the handshake of a connection has not begun yet, or may last no longer.
    pub fn is_overdue(&self, name: ConnId, now: Mark) -> bool {
        self.handshakes.get(&name).and_then(|shaking| shaking.until).is_none_or(|until| until <= now)
    }

    /// Begins the handshake of a connection to a server at an address.
    pub fn begin(&mut self, name: ConnId, to: IpAddr, outgoing: &mut Vec<u8>) -> Result<(), TlsFailure> {
        let Endpoint::Client(connector) = &self.endpoint else {
            return Err(TlsFailure::OwnAlert(Alert::INTERNAL_ERROR));
        };
        let mut shaking = Box::new(Shaking::new(connector.begin(to)?));
        shaking.handshake.advance(&mut shaking.incoming, outgoing)?;
        self.handshakes.insert(name, shaking);
        Ok(())
    }

    /// Takes in bytes of a connection without a session. Returns its handshake once that is over.
    pub fn shake(&mut self, name: ConnId, bytes: &[u8], outgoing: &mut Vec<u8>) -> Result<Option<Shaken>, TlsFailure> {
        let mut shaking = match (self.handshakes.remove(&name), &mut self.endpoint) {
            (Some(shaking), _) => shaking,
            (None, Endpoint::Server(acceptor)) => Box::new(Shaking::new(acceptor.begin()?)),
            (None, Endpoint::Client(_)) => return Err(TlsFailure::OwnAlert(Alert::INTERNAL_ERROR)),
        };
        // Only the hello of a hostile client is long, and must not take twice as much.
        shaking.incoming.reserve_exact(bytes.len());
        shaking.incoming.extend_from_slice(bytes);
        let Some(established) = shaking.handshake.advance(&mut shaking.incoming, outgoing)? else {
            self.handshakes.insert(name, shaking);
            return Ok(None);
        };
        let kept = self.sessions.put(name, &established);
        kept.ok_or(TlsFailure::OwnAlert(Alert::INTERNAL_ERROR))?;
        if let Some(tickets) = established.tickets
            && self.tickets.len() < MOST_AWAITING_TICKETS
        {
            self.tickets.insert(name, tickets);
        }
        Ok(Some(Shaken { agreed: established.agreed, rest: shaking.incoming }))
    }

    /// Takes the tickets at a place in a record that was just opened.
    pub fn take_tickets(&mut self, name: ConnId, bytes: &[u8]) {
        if let Some(takes) = self.tickets.get_mut(&name) {
            // A ticket that cannot be read is one session less to resume.
            self.sessions.tickets(bytes).for_each(|ticket| _ = takes.take(ticket));
        }
    }

    /// Data came: a server that sends tickets has sent them before.
    #[inline]
    pub fn await_no_tickets(&mut self, name: ConnId) {
        if !self.tickets.is_empty() {
            self.tickets.remove(&name);
        }
    }

    // ---- incomplete records --------------------------------------------------------------------

    /// Joins bytes that came to the connection's incomplete record, if it has one. An error is the alert to send.
    pub fn join(&mut self, name: ConnId, bytes: &[u8]) -> Result<Joined, Alert> {
        if self.incomplete.is_empty() {
            return Ok(Joined::None);
        }
        let Some(Incomplete { bytes: mut record, until }) = self.take_incomplete(name) else {
            return Ok(Joined::None);
        };
        let mut used = 0;
        loop {
            let length = self.sessions.record_length(name, &record)?;
            if length == Some(record.len()) {
                return Ok(Joined::Whole(record, used));
            }
            if used == bytes.len() {
                self.keep(name, record, until)?;
                return Ok(Joined::Part);
            }
            let missing = length.unwrap_or(HEADER) - record.len();
            let now = missing.min(bytes.len() - used);
            // A header alone must not take the memory of a whole record.
            record.reserve_exact(now);
            record.extend_from_slice(&bytes[used..used + now]);
            used += now;
        }
    }

    /// Keeps the beginning of a record until its rest comes, which must be here at an instant. An error, internal_error,
    /// tells that no more may be kept.
    pub fn keep(&mut self, name: ConnId, bytes: Vec<u8>, until: Mark) -> Result<(), Alert> {
        let record = Incomplete { bytes, until };
        if self.incomplete_bytes + record.takes() > self.most_incomplete {
            return Err(Alert::INTERNAL_ERROR);
        }
        self.incomplete_bytes += record.takes();
        self.incomplete.insert(name, record);
        self.deadlines.insert((until, name));
        Ok(())
    }

    fn take_incomplete(&mut self, name: ConnId) -> Option<Incomplete> {
        let record = self.incomplete.remove(&name)?;
        self.incomplete_bytes -= record.takes();
        self.deadlines.remove(&(record.until, name));
        Some(record)
    }

    /// When the first incomplete record must be whole.
    pub fn record_due(&self) -> Option<Mark> {
        self.deadlines.first().map(|(until, _)| *until)
    }

    /// The connection whose record is the first that was not whole in time.
    pub fn overdue(&self, now: Mark) -> Option<ConnId> {
        self.deadlines.first().filter(|(until, _)| *until <= now).map(|(_, name)| *name)
    }

    /// Drops the incomplete record of a connection.
    pub fn drop_incomplete(&mut self, name: ConnId) {
        self.take_incomplete(name);
    }

    /// The incomplete record of a connection need not be whole before an instant.
    pub fn postpone_record(&mut self, name: ConnId, until: Mark) {
        if let Some(record) = self.incomplete.get_mut(&name) {
            self.deadlines.remove(&(record.until, name));
            record.until = until;
            self.deadlines.insert((until, name));
        }
    }

    // ---- from process to process ---------------------------------------------------------------

    /// The connections whose handshakes are under way.
    pub fn shaking(&self) -> impl Iterator<Item = ConnId> {
        self.handshakes.keys().copied()
    }

    /// Takes out all that is known of an established connection, for another process that goes on with it. `None` if it
    /// has no session.
    pub fn carry(&mut self, name: ConnId, now: Mark) -> Option<Wiped> {
        let mut session = Wiped::default();
        if !self.sessions.carry(name, &mut session) {
            return None;
        }
        let incomplete = self.take_incomplete(name);
        let record = incomplete.as_ref().map(|record| (record.until.since(now), &record.bytes[..]));
        Some(Carried { session: &session, record }.write())
    }

    /// Takes a connection over of which another process has written this. `None` if that cannot be read, or if no more
    /// may be kept of incomplete records.
    pub fn bring(&mut self, name: ConnId, carried: &[u8], now: Mark) -> Option<()> {
        let Carried { session, record } = Carried::read(carried)?;
        let side = if self.is_server() { Side::Server } else { Side::Client };
        self.sessions.bring(name, side, session)?;
        let Some((left, bytes)) = record else { return Some(()) };
        let is_kept = self.is_part(name, bytes) && self.keep(name, bytes.to_vec(), now.after(left)).is_ok();
        if !is_kept {
            self.forget(name);
        }
        is_kept.then_some(())
    }

    /// Whether bytes are the beginning of a record of a connection, and not all of it.
    fn is_part(&mut self, name: ConnId, bytes: &[u8]) -> bool {
        let length = self.sessions.record_length(name, bytes);
        length.is_ok_and(|length| length.is_none_or(|length| bytes.len() < length))
    }

    // ---- the end -------------------------------------------------------------------------------

    /// A connection is over: forgets all of it.
    pub fn forget(&mut self, name: ConnId) {
        self.handshakes.remove(&name);
        self.await_no_tickets(name);
        self.take_incomplete(name);
        self.sessions.remove(name);
    }
}
