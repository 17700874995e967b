//! Records of TLS 1.2 (RFC 5246, section 6.2.3.3) with the AEADs of RFC 5288 and RFC 7905. There is no secret that keys
//! could be derived from anew: a session has the key and the IV of each direction in the place of its secret.
//!
//! What differs from TLS 1.3: the type of a record is in its header, before 8 bytes of each AES-GCM record's nonce;
//! there is no KeyUpdate; and the peer may ask for another handshake, which is refused.

use std::ops::Range;

use zeroize::Zeroizing;

use super::keys::{KeyCache, LONGEST_SECRET, RecordKey};
use super::{
    ALERT, APPLICATION_DATA, ASKED, Alert, HANDSHAKE, HEADER, LARGEST_CONTENT, Opened, RECORDS_PER_KEY, Session, Side,
    Suite, TAG, Unsealed,
};

/// Where the IV is in what a session has in the place of a secret. The key before it has 32 bytes at most.
pub(super) const IV: usize = 32;

/// Bytes of a nonce.
const NONCE: usize = 12;

/// Bytes of an AES-GCM nonce that are in the record. The other four are the beginning of the IV (RFC 5288, section 3).
const EXPLICIT_NONCE: usize = 8;

// Types of messages (RFC 5246, section 7.4).
const HELLO_REQUEST: u8 = 0;
const CLIENT_HELLO: u8 = 1;

/// What a session keeps for a direction in the place of a secret. `None` if the parts have other lengths than a suite's.
pub fn secret(key: &[u8], iv: &[u8]) -> Option<Zeroizing<[u8; LONGEST_SECRET]>> {
    let mut secret = Zeroizing::new([0; LONGEST_SECRET]);
    secret[..IV].get_mut(..key.len())?.copy_from_slice(key);
    let iv: &[u8; NONCE] = iv.try_into().ok()?;
    secret[IV..IV + NONCE].copy_from_slice(iv);
    Some(secret)
}

impl Suite {
    /// Whether it is one of TLS 1.2.
    pub const fn is_tls12(self) -> bool {
        matches!(self, Suite::Tls12Aes128Gcm | Suite::Tls12Aes256Gcm | Suite::Tls12ChaCha20Poly1305)
    }

    /// Bytes of the nonce in each record.
    pub(super) const fn explicit_nonce(self) -> usize {
        match self {
            Suite::Tls12Aes128Gcm | Suite::Tls12Aes256Gcm => EXPLICIT_NONCE,
            _ => 0,
        }
    }

    /// As [`super::record_length`], of TLS 1.2.
    pub(super) fn record_length(self, bytes: &[u8]) -> Result<Option<usize>, Alert> {
        let Some(&kind) = bytes.first() else { return Ok(None) };
        if !(ALERT..=APPLICATION_DATA).contains(&kind) {
            return Err(Alert::UNEXPECTED_MESSAGE);
        }
        let Some(&[.., high, low]) = bytes.first_chunk::<HEADER>() else { return Ok(None) };
        let length = HEADER + usize::from(u16::from_be_bytes([high, low]));
        // RFC 5246 allows 2,048 bytes beyond the content, of which these suites use 24: more is content that is too long.
        let largest = HEADER + self.explicit_nonce() + LARGEST_CONTENT + TAG;
        if length > largest { Err(Alert::RECORD_OVERFLOW) } else { Ok(Some(length)) }
    }
}

/// What the tag of a record protects beside its content (RFC 5246, section 6.2.3.3).
pub(super) fn additional_data(sequence: u64, header: &[u8; HEADER], content: usize) -> [u8; 13] {
    let mut data = [0; 13];
    data[..8].copy_from_slice(&sequence.to_be_bytes());
    data[8..11].copy_from_slice(&header[..3]);
    data[11..].copy_from_slice(&(content as u16).to_be_bytes());
    data
}

/// The nonce that a record brings, or the one that follows from its number where it brings none.
pub(super) fn nonce(key: &RecordKey, sequence: u64, explicit: &[u8]) -> [u8; NONCE] {
    let mut nonce = key.nonce(sequence);
    nonce[NONCE - explicit.len()..].copy_from_slice(explicit);
    nonce
}

impl<const SECRET: usize> Session<SECRET> {
    /// The type of a record, and the place of its content.
    pub(super) fn decrypt_tls12(
        &mut self,
        keys: &mut KeyCache,
        record: &mut [u8],
    ) -> Result<(u8, Range<usize>), Alert> {
        let suite = self.suite();
        if suite.record_length(record)? != Some(record.len()) {
            return Err(Alert::INTERNAL_ERROR);
        }
        let (header, rest) = record.split_first_chunk_mut::<HEADER>().ok_or(Alert::INTERNAL_ERROR)?;
        let before = suite.explicit_nonce();
        let content = rest.len().checked_sub(before + TAG).ok_or(Alert::BAD_RECORD_MAC)?;
        let (explicit, body) = rest.split_at_mut(before);
        let sequence = self.read.next_sequence().ok_or(Alert::INTERNAL_ERROR)?;
        let key = keys.key(suite, &self.read.secret).map_err(|_| Alert::INTERNAL_ERROR)?;
        let protected = additional_data(sequence, header, content);
        key.open(nonce(key, sequence, explicit), &protected, body).map_err(|_| Alert::BAD_RECORD_MAC)?;
        Ok((header[0], HEADER + before..HEADER + before + content))
    }

    /// Seals content in place, with what is around it in the suite.
    pub(super) fn encrypt_tls12(&mut self, keys: &mut KeyCache, kind: u8, buffer: &mut [u8]) -> Result<(), Unsealed> {
        let suite = self.suite();
        let before = suite.explicit_nonce();
        let content = buffer.len().checked_sub(HEADER + before + TAG).ok_or(Unsealed::Size)?;
        if content > LARGEST_CONTENT {
            return Err(Unsealed::Size);
        }
        let (header, rest) = buffer.split_first_chunk_mut::<HEADER>().ok_or(Unsealed::Size)?;
        let [high, low] = (rest.len() as u16).to_be_bytes();
        *header = [kind, 3, 3, high, low];
        let (explicit, body) = rest.split_at_mut(before);
        let (inner, tag) = body.split_at_mut(content);
        let sequence = self.write.next_sequence().ok_or(Unsealed::Aead)?;
        let key = keys.key(suite, &self.write.secret).map_err(|_| Unsealed::Aead)?;
        // rustls has sealed the last of the handshake by the same rule, so no nonce repeats.
        let nonce = key.nonce(sequence);
        explicit.copy_from_slice(&nonce[NONCE - before..]);
        let protected = additional_data(sequence, header, content);
        tag.copy_from_slice(key.seal(nonce, &protected, inner).map_err(|_| Unsealed::Aead)?.as_ref());
        Ok(())
    }

    /// A message of the handshake protocol: the peer asks for another handshake. That is to be refused, and the connection
    /// goes on as it is (RFC 5246, section 7.2.2). No other message may come.
    pub(super) fn renegotiation(&mut self, content: &[u8]) -> Result<Opened, Alert> {
        let asks = if self.side() == Side::Server { CLIENT_HELLO } else { HELLO_REQUEST };
        if content.first() != Some(&asks) {
            return Err(Alert::UNEXPECTED_MESSAGE);
        }
        self.write.set(ASKED, true);
        self.futile(Opened::Nothing)
    }

    /// Whether the refusal of a renegotiation must be sealed ([`Session::seal_refusal`]). One answers all that came
    /// meanwhile.
    pub fn refusal_due(&self) -> bool {
        self.suite().is_tls12() && self.is_writable() && self.write.is(ASKED)
    }

    /// The record that refuses a renegotiation: the warning no_renegotiation.
    ///
    /// # Errors
    ///
    /// An alert was sealed that ended the connection, or the peer's fatal alert came.
    pub fn seal_refusal(&mut self, keys: &mut KeyCache) -> Result<Vec<u8>, Unsealed> {
        let alert = Alert::NO_RENEGOTIATION;
        let record = self.seal_short(keys, ALERT, &[alert.level(), alert.0])?;
        self.write.set(ASKED, false);
        Ok(record)
    }

    /// Whether the key of TLS 1.2 has sealed as many records as it may. There is no KeyUpdate, and renegotiation is not
    /// done, so the connection has to end (RFC 9325, section 4.4).
    pub(super) fn is_used_up(&self) -> bool {
        let suite = self.suite();
        suite.is_tls12() && suite != Suite::Tls12ChaCha20Poly1305 && self.write.sequence() >= RECORDS_PER_KEY
    }
}

const _: () = assert!(HANDSHAKE > ALERT && HANDSHAKE < APPLICATION_DATA, "record_length takes all types in between");
