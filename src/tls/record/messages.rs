//! Messages of the handshake protocol that come after the handshake: NewSessionTicket and KeyUpdate (RFC 8446, section
//! 4.6). Several may be in one record, and one may be cut into several records.

use std::collections::HashMap;
use std::ops::Range;

use super::{Alert, Side};

/// The type and length before each message.
const HEADER: usize = 4;

// The types of messages (RFC 8446, section 4).
const NEW_SESSION_TICKET: u8 = 4;
const KEY_UPDATE: u8 = 24;

/// The longest message that is taken. rustls and Go have the same bound; tickets have some hundred bytes.
const LONGEST_MESSAGE: usize = HEADER + 0xffff;

/// What the beginnings of messages of all connections of a shard may take. Servers that cut tickets are rare, and then
/// the rest follows at once. So only peers that mean harm come near it.
const KEPT_BYTES: usize = 1 << 20;

/// What a beginning takes beside its bytes: its place in the table, which is at most half empty, and the allocator's share.
const KEPT_OVERHEAD: usize = 128;

/// A connection, by the first half of its reading secret of 32 bytes or more. No other connection has the same, and the
/// messages of a connection do not span a change of that secret.
type Name = [u8; 16];

fn name(secret: &[u8]) -> Name {
    secret.first_chunk().copied().unwrap_or_default()
}

/// A KeyUpdate, which may ask for one in return.
pub(super) fn key_update(ask: bool) -> [u8; HEADER + 1] {
    [KEY_UPDATE, 0, 0, 1, ask.into()]
}

/// The beginnings of messages whose rest has not come yet, of all connections of a shard.
#[derive(Default)]
pub struct Messages {
    beginnings: HashMap<Name, Vec<u8>>,
    /// What `beginnings` takes.
    bytes: usize,
    /// A ticket that has become whole with the last record.
    joined: Vec<u8>,
}

/// What a record with messages held.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Taken {
    /// The place in the record of whole tickets. It is empty if the only one began in an earlier record.
    pub(super) tickets: Option<Range<usize>>,
    /// There was a KeyUpdate, and it asked for one in return or did not.
    pub(super) key_update: Option<bool>,
    /// The last message is not whole.
    pub(super) is_incomplete: bool,
}

impl Messages {
    /// Nothing kept.
    pub fn new() -> Self {
        Self::default()
    }

    /// The bytes that are kept for all connections, some overhead for each included.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The tickets of the record that was opened last: `bytes` is the place that [`super::Opened::Tickets`] gave. Each is
    /// the body of a NewSessionTicket message, which is not looked into here.
    pub fn tickets<'a>(&'a self, bytes: &'a [u8]) -> Tickets<'a> {
        Tickets { joined: &self.joined, bytes }
    }

    /// Takes the messages in the content of a record, which is not empty. `has_beginning`: the record before it ended
    /// within a message.
    pub(super) fn take(
        &mut self,
        side: Side,
        secret: &[u8],
        has_beginning: bool,
        content: &[u8],
    ) -> Result<Taken, Alert> {
        let mut taken = Taken::default();
        let mut rest = content;
        self.joined = Vec::new();
        if has_beginning {
            let mut message = self.forget(secret).ok_or(Alert::INTERNAL_ERROR)?;
            if !join(&mut message, &mut rest, side)? {
                self.keep(secret, message)?;
                return Ok(Taken { is_incomplete: true, ..taken });
            }
            taken.key_update = asked(&message, rest)?;
            if taken.key_update.is_none() {
                taken.tickets = Some(0..0);
                self.joined = message;
            }
        }
        let start = content.len() - rest.len();
        while let Some(length) = message_length(rest, side)?.filter(|length| *length <= rest.len()) {
            let (message, later) = rest.split_at(length);
            rest = later;
            taken.key_update = asked(message, rest)?;
            if taken.key_update.is_none() {
                taken.tickets = Some(start..content.len() - rest.len());
            }
        }
        if !rest.is_empty() {
            self.keep(secret, rest.to_vec())?;
            taken.is_incomplete = true;
        }
        Ok(taken)
    }

    fn keep(&mut self, secret: &[u8], message: Vec<u8>) -> Result<(), Alert> {
        self.bytes += message.capacity() + KEPT_OVERHEAD;
        self.beginnings.insert(name(secret), message);
        if self.bytes > KEPT_BYTES {
            self.forget(secret);
            return Err(Alert::INTERNAL_ERROR);
        }
        Ok(())
    }

    /// Keeps the beginning of a message that came in another process. `None` for bytes with which no message begins, and
    /// where no more may be kept.
    pub(super) fn bring(&mut self, side: Side, secret: &[u8], beginning: &[u8]) -> Option<()> {
        let length = message_length(beginning, side).ok()?.unwrap_or(HEADER);
        let is_part = !beginning.is_empty() && beginning.len() < length;
        is_part.then(|| self.keep(secret, beginning.to_vec()).ok()).flatten()
    }

    /// Takes out what is kept for a connection.
    pub(super) fn forget(&mut self, secret: &[u8]) -> Option<Vec<u8>> {
        let message = self.beginnings.remove(&name(secret))?;
        self.bytes -= message.capacity() + KEPT_OVERHEAD;
        Some(message)
    }
}

/// Moves bytes of `rest` to a message until it is whole. False: the rest was too short.
fn join(message: &mut Vec<u8>, rest: &mut &[u8], side: Side) -> Result<bool, Alert> {
    loop {
        let length = message_length(message, side)?;
        if length == Some(message.len()) {
            return Ok(true);
        }
        if rest.is_empty() {
            return Ok(false);
        }
        let missing = length.unwrap_or(HEADER) - message.len();
        let (now, later) = rest.split_at(missing.min(rest.len()));
        message.reserve_exact(now.len());
        message.extend_from_slice(now);
        *rest = later;
    }
}

/// The length of the message that begins with these bytes, its header included. `None`: less than a header is there. A
/// message that has no place here is refused as early as its first bytes tell.
fn message_length(bytes: &[u8], side: Side) -> Result<Option<usize>, Alert> {
    let Some(&kind) = bytes.first() else { return Ok(None) };
    if kind != KEY_UPDATE && (kind != NEW_SESSION_TICKET || side == Side::Server) {
        return Err(Alert::UNEXPECTED_MESSAGE);
    }
    let Some(&[_, high, middle, low]) = bytes.first_chunk::<HEADER>() else { return Ok(None) };
    let length = HEADER + u32::from_be_bytes([0, high, middle, low]) as usize;
    if kind == KEY_UPDATE && length != HEADER + 1 {
        return Err(Alert::DECODE_ERROR);
    }
    if length > LONGEST_MESSAGE { Err(Alert::INTERNAL_ERROR) } else { Ok(Some(length)) }
}

/// Whether a KeyUpdate asks for one in return. `None`: the message is another one. What follows a KeyUpdate has the next
/// key, so `rest` of its record must be empty (RFC 8446, section 5.1).
fn asked(message: &[u8], rest: &[u8]) -> Result<Option<bool>, Alert> {
    match message {
        [KEY_UPDATE, ..] if !rest.is_empty() => Err(Alert::UNEXPECTED_MESSAGE),
        [KEY_UPDATE, _, _, _, 0] => Ok(Some(false)),
        [KEY_UPDATE, _, _, _, 1] => Ok(Some(true)),
        [KEY_UPDATE, ..] => Err(Alert::ILLEGAL_PARAMETER),
        _ => Ok(None),
    }
}

/// The bodies of whole NewSessionTicket messages.
pub struct Tickets<'a> {
    /// A message that began in an earlier record.
    joined: &'a [u8],
    bytes: &'a [u8],
}

impl<'a> Iterator for Tickets<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        if !self.joined.is_empty() {
            return std::mem::take(&mut self.joined).get(HEADER..);
        }
        let length = message_length(self.bytes, Side::Client).ok()??;
        let (message, later) = self.bytes.split_at_checked(length)?;
        self.bytes = later;
        message.get(HEADER..)
    }
}
