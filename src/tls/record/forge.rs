//! Records that no honest peer would send, for tests and the fuzz target.

use super::keys::{self, RecordKey};
use super::{APPLICATION_DATA, HEADER, Suite};

/// One direction of a connection, at the end that seals. It keeps no rule.
pub(crate) struct Forge<const SECRET: usize> {
    suite: Suite,
    secret: [u8; SECRET],
    sequence: u64,
}

impl<const SECRET: usize> Forge<SECRET> {
    pub(crate) fn new(suite: Suite, secret: &[u8], sequence: u64) -> Self {
        Self { suite, secret: secret.try_into().unwrap(), sequence }
    }

    /// A record with this content of this type, and zeros behind it.
    pub(crate) fn record(&mut self, kind: u8, content: &[u8], padding: usize) -> Vec<u8> {
        self.encrypt(&[content, &[kind], &vec![0; padding]].concat())
    }

    /// A record with these bytes where content, type and padding should be.
    pub(crate) fn encrypt(&mut self, inner: &[u8]) -> Vec<u8> {
        let mut record = [&[APPLICATION_DATA, 3, 3][..], &(inner.len() as u16 + 16).to_be_bytes(), inner].concat();
        let (header, body) = record.split_at_mut(HEADER);
        let key = RecordKey::derive(self.suite, &self.secret).unwrap();
        let tag = key.seal(self.sequence, header, body).unwrap();
        self.sequence += 1;
        record.extend_from_slice(tag.as_ref());
        record
    }

    /// Goes on with the next secret, as after a KeyUpdate.
    pub(crate) fn update(&mut self) {
        keys::update(self.suite, &mut self.secret).unwrap();
        self.sequence = 0;
    }
}
