//! Sessions that go from process to process, as bytes: both words and both secrets, and the beginning of a message.

use zeroize::Zeroize;

use super::{
    ASKED, INCOMPLETE, IS_CLIENT, KeyCache, Messages, OVER, PRESENT, SEQUENCE, SUITE, SUITE_MASK, Session, Traffic,
};
use crate::wiped::Wiped;

/// Marks of a writing direction. All bits of a reading direction's word mean something.
const WRITE_MARKS: u64 = SEQUENCE | SUITE_MASK | IS_CLIENT | ASKED | PRESENT | OVER;

/// The number of the last suite.
const LAST_SUITE: u64 = 5;

/// Bytes of a word.
const WORD: usize = size_of::<u64>();

impl<const SECRET: usize> Traffic<SECRET> {
    fn write(&self, into: &mut Wiped) {
        into.extend(&self.word.to_le_bytes());
        into.extend(&self.secret);
    }

    /// The direction at the beginning of bytes, which move behind it.
    fn read(bytes: &mut &[u8]) -> Option<Self> {
        let (word, rest) = bytes.split_first_chunk::<WORD>()?;
        let (secret, rest) = rest.split_first_chunk::<SECRET>()?;
        *bytes = rest;
        Some(Traffic { secret: *secret, word: u64::from_le_bytes(*word) })
    }
}

impl<const SECRET: usize> Session<SECRET> {
    /// Appends the session to `into`, for another process that goes on with it. Nothing of it is left here.
    pub fn carry(self, keys: &mut KeyCache, messages: &mut Messages, into: &mut Wiped) {
        self.read.write(into);
        self.write.write(into);
        if self.read.is(INCOMPLETE) {
            let mut beginning = messages.forget(&self.read.secret).unwrap_or_default();
            into.extend(&beginning);
            beginning[..].zeroize();
        }
        self.forget(keys, messages);
    }

    /// The session that `carry` has written in another process. `None` for other bytes, and where no more beginnings of
    /// messages may be kept.
    pub fn of_carried(mut bytes: &[u8], messages: &mut Messages) -> Option<Self> {
        let (read, write) = (Traffic::read(&mut bytes)?, Traffic::read(&mut bytes)?);
        let session = Session { read, write };
        let marks = session.write.word;
        // The suite has three bits, of which two values mean nothing.
        let is_ours = marks & !WRITE_MARKS == 0 && marks & PRESENT != 0 && (marks & SUITE_MASK) / SUITE <= LAST_SUITE;
        if !is_ours || session.suite().secret_bytes() != SECRET {
            return None;
        }
        if session.read.is(INCOMPLETE) {
            messages.bring(session.side(), &session.read.secret, bytes)?;
        } else if !bytes.is_empty() {
            return None;
        }
        Some(session)
    }
}
