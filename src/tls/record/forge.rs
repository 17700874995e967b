//! Records that no honest peer would send, for tests and the fuzz target.

use super::keys::{self, RecordKey};
use super::{APPLICATION_DATA, HEADER, Suite, TAG, tls12};

/// One direction of a connection, at the end that seals. It keeps no rule.
pub(crate) struct Forge<const SECRET: usize> {
    suite: Suite,
    secret: [u8; SECRET],
    key: RecordKey,
    sequence: u64,
}

impl<const SECRET: usize> Forge<SECRET> {
    pub(crate) fn new(suite: Suite, secret: &[u8], sequence: u64) -> Self {
        let secret = secret.try_into().unwrap();
        Self { suite, secret, key: RecordKey::derive(suite, &secret).unwrap(), sequence }
    }

    /// A record with this content of this type, and zeros behind it, which TLS 1.2 has not.
    pub(crate) fn record(&mut self, kind: u8, content: &[u8], padding: usize) -> Vec<u8> {
        if self.suite.is_tls12() {
            return self.old_record(kind, content);
        }
        self.encrypt(&[content, &[kind], &vec![0; padding]].concat())
    }

    /// A record with these bytes where content, type and padding should be.
    pub(crate) fn encrypt(&mut self, inner: &[u8]) -> Vec<u8> {
        let mut record = [&[APPLICATION_DATA, 3, 3][..], &(inner.len() as u16 + 16).to_be_bytes(), inner].concat();
        let (header, body) = record.split_at_mut(HEADER);
        let tag = self.key.seal(self.key.nonce(self.sequence), header, body).unwrap();
        self.sequence += 1;
        record.extend_from_slice(tag.as_ref());
        record
    }

    fn old_record(&mut self, kind: u8, content: &[u8]) -> Vec<u8> {
        let before = self.suite.explicit_nonce();
        let [high, low] = ((before + content.len() + TAG) as u16).to_be_bytes();
        let header = [kind, 3, 3, high, low];
        // Any nonce that was not used will do.
        let explicit = &(!self.sequence).to_be_bytes()[..before];
        let mut body = content.to_vec();
        let protected = tls12::additional_data(self.sequence, &header, content.len());
        let nonce = tls12::nonce(&self.key, self.sequence, explicit);
        let tag = self.key.seal(nonce, &protected, &mut body).unwrap();
        self.sequence += 1;
        [&header[..], explicit, &body, tag.as_ref()].concat()
    }

    /// Leaves a sequence number out.
    #[cfg(test)]
    pub(crate) fn skip(&mut self) {
        self.sequence += 1;
    }

    /// Goes on with the next secret, as after a KeyUpdate.
    pub(crate) fn update(&mut self) {
        keys::update(self.suite, &mut self.secret).unwrap();
        self.key = RecordKey::derive(self.suite, &self.secret).unwrap();
        self.sequence = 0;
    }
}
