//! The sessions of a shard's connections, by name: a row of 80 bytes for each, or one of 112 where the suite's hash is
//! SHA-384, and with TLS 1.2. Rows of a kind take memory once a connection of that kind has come.

use super::handshake::Established;
use super::record::{KeyCache, LARGEST_CONTENT, Messages, Opened, Session, Side, Tickets, Traffic, Unsealed};
use crate::chunks::Chunks;
use crate::error::Alert;
use crate::token::ConnId;
use crate::wiped::Wiped;

/// Keys that a shard keeps: those of 256 connections that talk. Each takes some 700 bytes.
const KEYS: usize = 512;

/// The kinds of sessions on their way between processes: with secrets of 32 bytes, and of 48.
const SHORT: u8 = 0;
const LONG: u8 = 1;

/// Rows with secrets of one length, by the place that a connection's name has.
struct Rows<const SECRET: usize>(Vec<Chunks<Session<SECRET>>>);

impl<const SECRET: usize> Rows<SECRET> {
    fn get(&self, name: ConnId) -> Option<&Session<SECRET>> {
        let row = self.0.get(name.ring())?.get(name.slot() as usize)?;
        (!row.is_vacant()).then_some(row)
    }

    #[inline]
    fn get_mut(&mut self, name: ConnId) -> Option<&mut Session<SECRET>> {
        let row = self.0.get_mut(name.ring())?.get_mut(name.slot() as usize)?;
        (!row.is_vacant()).then_some(row)
    }

    fn put(&mut self, name: ConnId, session: Session<SECRET>) {
        if self.0.len() <= name.ring() {
            self.0.resize_with(name.ring() + 1, Chunks::default);
        }
        let rows = &mut self.0[name.ring()];
        rows.reach(name.slot() as usize);
        if let Some(row) = rows.get_mut(name.slot() as usize) {
            *row = session;
        }
    }
}

/// What goes before more data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// The sender goes on with its next key: the peer asked for it, or the key has sealed enough.
    KeyUpdate,
    /// The peer wants another handshake of TLS 1.2, and does not get it.
    NoRenegotiation,
}

/// The records that some bytes were sealed in.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Sealed {
    /// Those with the bytes.
    pub records: u64,
    /// Those before them that go on with the next key.
    pub key_updates: u64,
}

/// The sessions of a shard, and what they share.
pub struct Sessions {
    short: Rows<32>,
    long: Rows<48>,
    keys: KeyCache,
    messages: Messages,
}

/// Evaluates an expression with the session of a name, if it has one.
macro_rules! with {
    ($sessions:ident, $name:expr, |$session:ident| $body:expr) => {
        if let Some($session) = $sessions.short.get_mut($name) {
            Some($body)
        } else if let Some($session) = $sessions.long.get_mut($name) {
            Some($body)
        } else {
            None
        }
    };
}

impl Default for Sessions {
    fn default() -> Sessions {
        let (short, long) = (Rows(Vec::new()), Rows(Vec::new()));
        Sessions { short, long, keys: KeyCache::new(KEYS), messages: Messages::new() }
    }
}

impl Sessions {
    /// Keeps the session of a connection whose handshake is over. `None` if its secrets do not suit its suite.
    pub fn put(&mut self, name: ConnId, established: &Established) -> Option<()> {
        let Established { side, suite, read, write, .. } = established;
        if suite.secret_bytes() == 32 {
            let read = Traffic::new(read.0.bytes(), read.1)?;
            self.short.put(name, Session::new(*side, *suite, read, Traffic::new(write.0.bytes(), write.1)?)?);
        } else {
            let read = Traffic::new(read.0.bytes(), read.1)?;
            self.long.put(name, Session::new(*side, *suite, read, Traffic::new(write.0.bytes(), write.1)?)?);
        }
        Some(())
    }

    /// Whether a connection has a session. The name of an earlier connection must not be asked for.
    #[inline]
    pub fn has(&self, name: ConnId) -> bool {
        self.short.get(name).is_some() || self.long.get(name).is_some()
    }

    /// Whether a connection has a session whose peer has neither said close_notify nor failed.
    pub fn is_readable(&mut self, name: ConnId) -> bool {
        with!(self, name, |session| session.is_readable()).unwrap_or(false)
    }

    /// Forgets the session of a connection that is over, if it has one. Its secrets are overwritten.
    pub fn remove(&mut self, name: ConnId) {
        let Sessions { short, long, keys, messages } = self;
        if let Some(session) = short.get_mut(name) {
            session.forget(keys, messages);
            *session = Session::default();
        } else if let Some(session) = long.get_mut(name) {
            session.forget(keys, messages);
            *session = Session::default();
        }
    }

    /// Appends the session of a connection to `into`, for another process that goes on with it; it is forgotten here.
    /// `false` if there is none.
    pub fn carry(&mut self, name: ConnId, into: &mut Wiped) -> bool {
        let Sessions { short, long, keys, messages } = self;
        if let Some(session) = short.get_mut(name) {
            into.extend(&[SHORT]);
            std::mem::take(session).carry(keys, messages, into);
        } else if let Some(session) = long.get_mut(name) {
            into.extend(&[LONG]);
            std::mem::take(session).carry(keys, messages, into);
        } else {
            return false;
        }
        true
    }

    /// Keeps a session that `carry` has written in another process, at this side. `None` if it cannot be read.
    pub fn bring(&mut self, name: ConnId, side: Side, carried: &[u8]) -> Option<()> {
        let (kind, bytes) = carried.split_first()?;
        let Sessions { short, long, messages, .. } = self;
        match *kind {
            SHORT => short.put(name, Session::of_carried(bytes, messages).filter(|session| session.side() == side)?),
            LONG => long.put(name, Session::of_carried(bytes, messages).filter(|session| session.side() == side)?),
            _ => return None,
        }
        Some(())
    }

    /// The length of the record that begins with these bytes. See `Session::record_length`.
    #[inline]
    pub fn record_length(&mut self, name: ConnId, bytes: &[u8]) -> Result<Option<usize>, Alert> {
        with!(self, name, |session| session.record_length(bytes)).unwrap_or(Err(Alert::INTERNAL_ERROR))
    }

    /// Bytes that a record has before its content, and behind it.
    #[inline]
    pub fn around(&mut self, name: ConnId) -> (usize, usize) {
        with!(self, name, |session| session.suite().around()).unwrap_or_default()
    }

    /// Opens a record in place. See `Session::open`.
    #[inline]
    pub fn open(&mut self, name: ConnId, record: &mut [u8]) -> Result<Opened, Alert> {
        with!(self, name, |session| session.open(&mut self.keys, &mut self.messages, record))
            .unwrap_or(Err(Alert::INTERNAL_ERROR))
    }

    /// The tickets of the record that was opened last, from the place in it that `open` gave.
    pub fn tickets<'a>(&'a self, bytes: &'a [u8]) -> Tickets<'a> {
        self.messages.tickets(bytes)
    }

    /// Seals a record in place, whose content has room around it. A KeyUpdate must not be due.
    #[inline]
    pub fn seal_in_place(&mut self, name: ConnId, buffer: &mut [u8]) -> Result<(), Unsealed> {
        with!(self, name, |session| session.seal(&mut self.keys, buffer)).unwrap_or(Err(Unsealed::Closed))
    }

    /// Appends the record that must go before more data to `into`, if one is due.
    #[inline]
    pub fn answer(&mut self, name: ConnId, into: &mut Vec<u8>) -> Result<Option<Answer>, Unsealed> {
        let sealed = with!(self, name, |session| {
            if session.key_update_due() {
                Some((Answer::KeyUpdate, session.seal_key_update(&mut self.keys, false)))
            } else {
                session.refusal_due().then(|| (Answer::NoRenegotiation, session.seal_refusal(&mut self.keys)))
            }
        });
        let Some((answer, record)) = sealed.flatten() else { return Ok(None) };
        into.extend_from_slice(&record?);
        Ok(Some(answer))
    }

    /// Appends the records of some bytes to `into`. Returns how many. An error leaves some of them out:
    /// what is in `into` may be sent, and no more data.
    pub fn seal(&mut self, name: ConnId, bytes: &[u8], into: &mut Vec<u8>) -> Result<Sealed, Unsealed> {
        let (before, behind) = self.around(name);
        let mut sealed = Sealed::default();
        for content in bytes.chunks(LARGEST_CONTENT) {
            sealed.key_updates += u64::from(self.answer(name, into)? == Some(Answer::KeyUpdate));
            let start = into.len();
            into.reserve(before + content.len() + behind);
            into.resize(start + before, 0);
            into.extend_from_slice(content);
            into.resize(start + before + content.len() + behind, 0);
            if let Err(unsealed) = self.seal_in_place(name, &mut into[start..]) {
                into.truncate(start);
                return Err(unsealed);
            }
            sealed.records += 1;
        }
        Ok(sealed)
    }

    /// The record of an alert, after which nothing is sealed. `None` if nothing may be sent any more.
    pub fn alert(&mut self, name: ConnId, alert: Alert) -> Option<Vec<u8>> {
        with!(self, name, |session| session.seal_alert(&mut self.keys, alert)).and_then(Result::ok)
    }
}
