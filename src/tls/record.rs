//! The record layer of TLS 1.3 (RFC 8446, section 5) for a connection that is established: 80 bytes of memory for it,
//! 112 where the suite's hash is SHA-384. TLS 1.2 is in `tls12`: 112 bytes.
//!
//! A [`Session`] has two traffic secrets and two sequence numbers, and nothing else. The key and the IV of a record are
//! derived from the secret when the record comes, which takes about a microsecond, unless the [`KeyCache`] of the shard
//! still has them from a record shortly before. Records are opened and sealed in place, in the buffer of the caller.
//!
//! Nothing here does I/O, knows a clock or allocates memory for a connection. The one exception is a message of the
//! handshake protocol that is cut into several records, whose beginning is kept in [`Messages`] until the rest comes.
//!
//! # What the caller does
//!
//! - It collects whole records, by [`Session::record_length`].
//! - It gives each of them to [`Session::open`], in the order of their arrival. An error is the alert to send by
//!   [`Session::seal_alert`] before the connection is closed. The peer is told nothing else.
//! - It sends what [`Session::seal`] has sealed in the order in which it was sealed.
//! - It asks [`Session::key_update_due`] before it seals data, and after each record that was not data, and then sends
//!   what [`Session::seal_key_update`] gives. A peer may ask for it, and one key must not seal records without end. With
//!   TLS 1.2 it asks [`Session::refusal_due`] instead.
//! - It calls [`Session::forget`] when the connection has ended.
//! - It calls [`Session::carry`] when another process goes on with the connection, and [`Session::of_carried`] there.
//!
//! # Secrets
//!
//! Secrets, derived keys and IVs are overwritten when they are replaced or dropped. No `Debug` and no error shows them.
//! ring builds key schedules and hashes on the stack and leaves copies there, here as in rustls; safe code cannot reach
//! them. A session cannot be cloned, and is used up when it is carried away: two copies would seal two records under one
//! nonce.

mod carried;
#[cfg(any(test, fuzzing))]
#[allow(clippy::unwrap_used, reason = "for tests alone")]
pub(crate) mod forge;
mod keys;
mod messages;
#[cfg(test)]
mod tests;
mod tls12;

use std::fmt;
use std::ops::Range;

use zeroize::Zeroize;

use keys::AeadError;

pub use crate::error::Alert;
pub use keys::KeyCache;
pub use messages::{Messages, Tickets};
pub use tls12::secret as tls12_secret;

/// Bytes before the content of a record: its type, a version that means nothing, and the length of what follows.
pub const HEADER: usize = 5;

/// Bytes behind the content: its real type, and the tag of the AEAD, which has 16 bytes in every suite.
pub const TRAILER: usize = 1 + TAG;

const TAG: usize = 16;

/// The most content of one record (RFC 8446, section 5.1).
pub const LARGEST_CONTENT: usize = 1 << 14;

/// The longest record. RFC 8446, section 5.2, allows 256 bytes beyond the content, for any AEAD. With a tag of 16 bytes a
/// record of more than this holds more than 2^14 + 1 bytes, which section 5.4 forbids: both are a record_overflow.
pub const LARGEST_RECORD: usize = HEADER + LARGEST_CONTENT + TRAILER;

/// The most bytes that a record of any suite has around its content: those of AES-GCM with TLS 1.2, part of whose nonce is
/// in each record.
pub const MOST_AROUND: usize = HEADER + Suite::Tls12Aes128Gcm.explicit_nonce() + TAG;

/// Records that one key seals before a KeyUpdate is due. RFC 8446, section 5.5, allows 2^24.5 with AES-GCM; with ChaCha20
/// there is no bound short of the sequence number's, and one rule for all suites costs nothing.
const RECORDS_PER_KEY: u64 = 1 << 24;

/// Records in a row that bring the application nothing: empty ones, KeyUpdates, pieces of messages. BoringSSL and rustls
/// allow 32 KeyUpdates, BoringSSL as many empty records.
const FUTILE_RECORDS: u8 = 32;

/// What protects the records of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Suite {
    /// TLS_AES_128_GCM_SHA256.
    Aes128Gcm,
    /// TLS_AES_256_GCM_SHA384. Its secrets have 48 bytes.
    Aes256Gcm,
    /// TLS_CHACHA20_POLY1305_SHA256.
    ChaCha20Poly1305,
    /// Those of TLS 1.2 with AES-128-GCM, whatever their key exchange and signature are.
    Tls12Aes128Gcm,
    /// The same with AES-256-GCM.
    Tls12Aes256Gcm,
    /// The same with ChaCha20-Poly1305.
    Tls12ChaCha20Poly1305,
}

impl Suite {
    /// Bytes of a traffic secret: the length of the suite's hash. Key and IV of TLS 1.2 have 44 bytes, with 4 of zeros
    /// behind them.
    pub const fn secret_bytes(self) -> usize {
        match self {
            Suite::Aes128Gcm | Suite::ChaCha20Poly1305 => 32,
            Suite::Aes256Gcm | Suite::Tls12Aes128Gcm | Suite::Tls12Aes256Gcm | Suite::Tls12ChaCha20Poly1305 => 48,
        }
    }

    /// Bytes that a record has before its content, and behind it.
    pub const fn around(self) -> (usize, usize) {
        if self.is_tls12() { (HEADER + self.explicit_nonce(), TAG) } else { (HEADER, TRAILER) }
    }
}

/// The end of a connection that a session is at. Only a client takes tickets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// This end sent the ClientHello.
    Client,
    /// This end answered it.
    Server,
}

/// The secret of one direction, and the sequence number of its next record.
pub struct Traffic<const SECRET: usize> {
    secret: [u8; SECRET],
    /// The sequence number in the low 56 bits, marks in the high 8.
    word: u64,
}

/// The secrets and sequence numbers of an established connection, with the suite and a few marks in their unused bits.
/// `SECRET` is 32 or 48, the length of the suite's hash: [`Suite::secret_bytes`].
pub struct Session<const SECRET: usize> {
    read: Traffic<SECRET>,
    write: Traffic<SECRET>,
}

const _: () =
    assert!(size_of::<Session<32>>() == 80 && size_of::<Session<48>>() == 112, "what an idle connection may take");

/// What a record was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Opened {
    /// Data for the application, at this place in the record. It is never empty.
    Data(Range<usize>),
    /// Nothing for the application or for the caller: an empty record, or a piece of a message.
    Nothing,
    /// The peer goes on with its next key, and so does the session.
    KeyUpdate,
    /// One or more whole NewSessionTicket messages. [`Messages::tickets`] gives them from this place in the record, before
    /// the next record is opened. Only a client gets them.
    Tickets(Range<usize>),
    /// The peer's alert. After close_notify it sends nothing more, but may still read. After any other the connection has
    /// failed, and nothing must be sent.
    Alert(Alert),
}

/// Why nothing was sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unsealed {
    /// The caller must seal a KeyUpdate first.
    #[error("a KeyUpdate is due before more data is sealed")]
    KeyUpdateDue,
    /// An alert was sealed, or the peer's fatal alert came.
    #[error("the TLS connection is closed for sending")]
    Closed,
    /// The buffer has no room for what is around the content, or the content is longer than 16,384 bytes.
    #[error("a TLS record has at most {LARGEST_CONTENT} bytes of content, and up to {MOST_AROUND} bytes around it")]
    Size,
    /// A key of TLS 1.2 has sealed as many records as it may. An alert may still be sealed.
    #[error("the connection's key has sealed as many records as it may")]
    UsedUp,
    /// The AEAD refused, or the sequence numbers are used up: neither can happen.
    #[error("the AEAD refused to seal a record")]
    Aead,
}

/// The length of the record of TLS 1.3 that begins with these bytes, its header included. `None`: less than a header is
/// there.
///
/// # Errors
///
/// The alert to send: unexpected_message for a record that is not encrypted (a plain alert, or a ChangeCipherSpec, which
/// has no place after the handshake), record_overflow for one that is too long.
pub fn record_length(bytes: &[u8]) -> Result<Option<usize>, Alert> {
    let Some(&kind) = bytes.first() else { return Ok(None) };
    if kind != APPLICATION_DATA {
        return Err(Alert::UNEXPECTED_MESSAGE);
    }
    // The version in between is to be ignored (RFC 8446, section 5.2).
    let Some(&[.., high, low]) = bytes.first_chunk::<HEADER>() else { return Ok(None) };
    let length = HEADER + usize::from(u16::from_be_bytes([high, low]));
    if length > LARGEST_RECORD { Err(Alert::RECORD_OVERFLOW) } else { Ok(Some(length)) }
}

// The types of content (RFC 8446, section 5.1).
const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const APPLICATION_DATA: u8 = 23;

/// The bits of `Traffic::word` that hold the sequence number. A connection of a million records a second would use them
/// up in two thousand years.
const SEQUENCE: u64 = (1 << 56) - 1;

// Marks in the word of the reading direction. The six bits from `FUTILE` on count records in a row that brought nothing.
const FUTILE: u64 = 1 << 56;
const FUTILE_MASK: u64 = 0x3f << 56;
/// The beginning of a message is in `Messages`.
const INCOMPLETE: u64 = 1 << 62;

// Marks in the word of the writing direction. The three lowest bits are the suite.
const SUITE: u64 = 1 << 56;
const SUITE_MASK: u64 = 0x7 << 56;
const IS_CLIENT: u64 = 1 << 59;
/// The peer has asked for a KeyUpdate, or for a renegotiation.
const ASKED: u64 = 1 << 60;
/// The session is a connection's, and no vacant place in a table.
const PRESENT: u64 = 1 << 61;

/// In both directions: no record is opened, or sealed, any more.
const OVER: u64 = 1 << 63;

impl<const SECRET: usize> Traffic<SECRET> {
    /// The secret of a direction, and the sequence number that its next record has. The secret is that of KeyLog's
    /// CLIENT_TRAFFIC_SECRET_0 or SERVER_TRAFFIC_SECRET_0, or [`tls12_secret`]. `None` if it has another length, or if the
    /// number has more than 56 bits.
    pub fn new(secret: &[u8], sequence: u64) -> Option<Self> {
        let secret = secret.try_into().ok()?;
        (sequence <= SEQUENCE).then_some(Self { secret, word: sequence })
    }

    fn sequence(&self) -> u64 {
        self.word & SEQUENCE
    }

    fn is(&self, mark: u64) -> bool {
        self.word & mark != 0
    }

    fn set(&mut self, mark: u64, on: bool) {
        self.word = if on { self.word | mark } else { self.word & !mark };
    }

    /// The sequence number of this record. It is used up, whatever becomes of the record.
    fn next_sequence(&mut self) -> Option<u64> {
        let sequence = self.sequence();
        (sequence < SEQUENCE).then(|| {
            self.word += 1;
            sequence
        })
    }

    /// Goes on with the next secret, whose records count from 0 (RFC 8446, section 7.2).
    fn update(&mut self, suite: Suite, keys: &mut KeyCache) -> Result<(), AeadError> {
        keys.forget(suite, &self.secret);
        keys::update(suite, &mut self.secret)?;
        self.word &= !SEQUENCE;
        Ok(())
    }
}

impl<const SECRET: usize> Drop for Traffic<SECRET> {
    fn drop(&mut self) {
        self.secret.zeroize();
    }
}

impl<const SECRET: usize> Session<SECRET> {
    /// The session of a connection whose handshake is complete. `None` if the suite's secrets have another length.
    pub fn new(side: Side, suite: Suite, read: Traffic<SECRET>, mut write: Traffic<SECRET>) -> Option<Self> {
        let number = match suite {
            Suite::Aes128Gcm => 0,
            Suite::Aes256Gcm => 1,
            Suite::ChaCha20Poly1305 => 2,
            Suite::Tls12Aes128Gcm => 3,
            Suite::Tls12Aes256Gcm => 4,
            Suite::Tls12ChaCha20Poly1305 => 5,
        };
        write.word |= (number * SUITE) | PRESENT;
        write.set(IS_CLIENT, side == Side::Client);
        (suite.secret_bytes() == SECRET).then_some(Self { read, write })
    }

    /// Whether this is no connection's session, but the default: a vacant place in a table, which opens and seals nothing.
    pub fn is_vacant(&self) -> bool {
        !self.write.is(PRESENT)
    }

    /// The suite.
    pub fn suite(&self) -> Suite {
        match (self.write.word & SUITE_MASK) / SUITE {
            0 => Suite::Aes128Gcm,
            1 => Suite::Aes256Gcm,
            2 => Suite::ChaCha20Poly1305,
            3 => Suite::Tls12Aes128Gcm,
            4 => Suite::Tls12Aes256Gcm,
            _ => Suite::Tls12ChaCha20Poly1305,
        }
    }

    /// The end that this is.
    pub fn side(&self) -> Side {
        if self.write.is(IS_CLIENT) { Side::Client } else { Side::Server }
    }

    /// The length of the record that begins with these bytes, as [`record_length`] has it for TLS 1.3.
    ///
    /// # Errors
    ///
    /// The alert to send.
    #[inline]
    pub fn record_length(&self, bytes: &[u8]) -> Result<Option<usize>, Alert> {
        let suite = self.suite();
        if suite.is_tls12() { suite.record_length(bytes) } else { record_length(bytes) }
    }

    /// Decrypts a record in place, and says what it was. After the peer's close_notify, or a fault, records are passed over
    /// as [`Opened::Nothing`].
    ///
    /// # Errors
    ///
    /// The alert to send before the connection is closed.
    pub fn open(&mut self, keys: &mut KeyCache, messages: &mut Messages, record: &mut [u8]) -> Result<Opened, Alert> {
        if self.read.is(OVER) {
            return Ok(Opened::Nothing);
        }
        let opened = self.decrypt(keys, record).and_then(|(kind, content)| match kind {
            APPLICATION_DATA => self.data(content),
            HANDSHAKE if self.suite().is_tls12() => self.renegotiation(&record[content]),
            HANDSHAKE => self.handshake(keys, messages, record, content),
            ALERT => self.alert(&record[content]),
            // A ChangeCipherSpec is never encrypted, and there are no other types.
            _ => Err(Alert::UNEXPECTED_MESSAGE),
        });
        if opened.is_err() {
            self.read.set(OVER, true);
        }
        opened
    }

    /// The type of a record, and the place of its content.
    fn decrypt(&mut self, keys: &mut KeyCache, record: &mut [u8]) -> Result<(u8, Range<usize>), Alert> {
        if self.suite().is_tls12() {
            return self.decrypt_tls12(keys, record);
        }
        if record_length(record)? != Some(record.len()) {
            return Err(Alert::INTERNAL_ERROR);
        }
        let (header, body) = record.split_at_mut(HEADER);
        let sequence = self.read.next_sequence().ok_or(Alert::INTERNAL_ERROR)?;
        let key = keys.key(self.suite(), &self.read.secret).map_err(|_| Alert::INTERNAL_ERROR)?;
        let inner = key.open(key.nonce(sequence), header, body).map_err(|_| Alert::BAD_RECORD_MAC)?;
        // Zeros are padding. The last byte before them is the type.
        let last = inner.iter().rposition(|byte| *byte != 0).ok_or(Alert::UNEXPECTED_MESSAGE)?;
        Ok((inner[last], HEADER..HEADER + last))
    }

    fn data(&mut self, content: Range<usize>) -> Result<Opened, Alert> {
        if self.read.is(INCOMPLETE) {
            return Err(Alert::UNEXPECTED_MESSAGE);
        }
        if content.is_empty() {
            return self.futile(Opened::Nothing);
        }
        self.read.word &= !FUTILE_MASK;
        Ok(Opened::Data(content))
    }

    /// Counts a record that brought nothing to the application.
    fn futile(&mut self, opened: Opened) -> Result<Opened, Alert> {
        let before = (self.read.word & FUTILE_MASK) / FUTILE;
        if before >= FUTILE_RECORDS.into() {
            return Err(Alert::UNEXPECTED_MESSAGE);
        }
        self.read.word += FUTILE;
        Ok(opened)
    }

    fn alert(&mut self, content: &[u8]) -> Result<Opened, Alert> {
        let (level, alert) = match content {
            [] => return Err(Alert::UNEXPECTED_MESSAGE),
            &[level, description] => (level, Alert(description)),
            _ => return Err(Alert::DECODE_ERROR),
        };
        // The level means something before TLS 1.3 alone (RFC 8446, section 6).
        let warns = self.suite().is_tls12() && level == Alert::WARNING && alert != Alert::CLOSE_NOTIFY;
        if warns || alert == Alert::USER_CANCELED {
            return self.futile(Opened::Nothing);
        }
        self.read.set(OVER, true);
        if alert != Alert::CLOSE_NOTIFY {
            self.write.set(OVER, true);
        }
        Ok(Opened::Alert(alert))
    }

    fn handshake(
        &mut self,
        keys: &mut KeyCache,
        messages: &mut Messages,
        record: &[u8],
        content: Range<usize>,
    ) -> Result<Opened, Alert> {
        if content.is_empty() {
            return Err(Alert::UNEXPECTED_MESSAGE);
        }
        let beginning = self.read.is(INCOMPLETE);
        let taken = messages.take(self.side(), &self.read.secret, beginning, &record[content.clone()])?;
        self.read.set(INCOMPLETE, taken.is_incomplete);
        if let Some(is_asked) = taken.key_update {
            self.read.update(self.suite(), keys).map_err(|_| Alert::INTERNAL_ERROR)?;
            if is_asked {
                self.write.set(ASKED, true);
            }
        }
        if let Some(tickets) = taken.tickets {
            self.read.word &= !FUTILE_MASK;
            return Ok(Opened::Tickets(content.start + tickets.start..content.start + tickets.end));
        }
        self.futile(if taken.key_update.is_some() { Opened::KeyUpdate } else { Opened::Nothing })
    }

    /// Seals application data in place. The buffer has the content with room [around](Suite::around) it; it is a record
    /// afterwards. The content may be empty.
    ///
    /// # Errors
    ///
    /// Nothing is sealed, for the reason given. The buffer must not be sent.
    pub fn seal(&mut self, keys: &mut KeyCache, buffer: &mut [u8]) -> Result<(), Unsealed> {
        if self.key_update_due() {
            return Err(Unsealed::KeyUpdateDue);
        }
        if self.is_used_up() {
            return Err(Unsealed::UsedUp);
        }
        self.encrypt(keys, APPLICATION_DATA, buffer)
    }

    fn encrypt(&mut self, keys: &mut KeyCache, kind: u8, buffer: &mut [u8]) -> Result<(), Unsealed> {
        if self.write.is(OVER) {
            return Err(Unsealed::Closed);
        }
        if self.suite().is_tls12() {
            return self.encrypt_tls12(keys, kind, buffer);
        }
        let content = buffer.len().checked_sub(HEADER + TRAILER).ok_or(Unsealed::Size)?;
        if content > LARGEST_CONTENT {
            return Err(Unsealed::Size);
        }
        let (header, body) = buffer.split_at_mut(HEADER);
        let [high, low] = ((content + TRAILER) as u16).to_be_bytes();
        header.copy_from_slice(&[APPLICATION_DATA, 3, 3, high, low]);
        let (inner, tag) = body.split_at_mut(content + 1);
        inner[content] = kind;
        let sequence = self.write.next_sequence().ok_or(Unsealed::Aead)?;
        let key = keys.key(self.suite(), &self.write.secret).map_err(|_| Unsealed::Aead)?;
        tag.copy_from_slice(key.seal(key.nonce(sequence), header, inner).map_err(|_| Unsealed::Aead)?.as_ref());
        Ok(())
    }

    /// A record of its own with some bytes.
    fn seal_short(&mut self, keys: &mut KeyCache, kind: u8, content: &[u8]) -> Result<Vec<u8>, Unsealed> {
        let (before, behind) = self.suite().around();
        let mut record = vec![0; before + content.len() + behind];
        record[before..before + content.len()].copy_from_slice(content);
        self.encrypt(keys, kind, &mut record)?;
        Ok(record)
    }

    /// The record of an alert. Nothing can be sealed after it.
    ///
    /// # Errors
    ///
    /// An alert was sealed before, or the peer's fatal alert came.
    pub fn seal_alert(&mut self, keys: &mut KeyCache, alert: Alert) -> Result<Vec<u8>, Unsealed> {
        let record = self.seal_short(keys, ALERT, &[alert.level(), alert.0])?;
        self.write.set(OVER, true);
        Ok(record)
    }

    /// Whether a KeyUpdate must be sealed before more data: the peer has asked for one, or the key has sealed 2^24
    /// records. It stays so until then: one KeyUpdate answers all that the peer has asked for meanwhile.
    pub fn key_update_due(&self) -> bool {
        !self.write.is(OVER)
            && !self.suite().is_tls12()
            && (self.write.is(ASKED) || self.write.sequence() >= RECORDS_PER_KEY)
    }

    /// The record of a KeyUpdate. What is sealed after it has the next key, so it must be sent. `ask` asks the peer for a
    /// KeyUpdate too. An answer must not ask, and does not.
    ///
    /// # Errors
    ///
    /// An alert was sealed before, or the peer's fatal alert came.
    pub fn seal_key_update(&mut self, keys: &mut KeyCache, ask: bool) -> Result<Vec<u8>, Unsealed> {
        let ask = ask && !self.write.is(ASKED);
        let record = self.seal_short(keys, HANDSHAKE, &messages::key_update(ask))?;
        self.write.set(ASKED, false);
        if self.write.update(self.suite(), keys).is_err() {
            self.write.set(OVER, true);
            return Err(Unsealed::Aead);
        }
        Ok(record)
    }

    /// Whether records are still opened: neither the peer's close_notify came, nor a fault.
    pub fn is_readable(&self) -> bool {
        !self.read.is(OVER)
    }

    /// Whether the peer may still be sent something: no alert was sealed, and no fatal one came.
    pub fn is_writable(&self) -> bool {
        !self.write.is(OVER)
    }

    /// Overwrites what the shard keeps for this connection: keys, and the beginning of a message. For a connection that has
    /// ended.
    pub fn forget(&self, keys: &mut KeyCache, messages: &mut Messages) {
        keys.forget(self.suite(), &self.read.secret);
        keys.forget(self.suite(), &self.write.secret);
        if self.read.is(INCOMPLETE) {
            messages.forget(&self.read.secret);
        }
    }
}

impl<const SECRET: usize> Default for Session<SECRET> {
    fn default() -> Self {
        let nothing = || Traffic { secret: [0; SECRET], word: OVER };
        Session { read: nothing(), write: nothing() }
    }
}

impl<const SECRET: usize> fmt::Debug for Session<SECRET> {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.debug_struct("Session")
            .field("side", &self.side())
            .field("suite", &self.suite())
            .field("read", &self.read.sequence())
            .field("write", &self.write.sequence())
            .finish_non_exhaustive()
    }
}
