//! The keys of records: how they follow from a traffic secret, and the few that are kept.

use std::hint;
use std::ops::Range;

use ::ring::aead::{self, LessSafeKey, Nonce, Tag, UnboundKey};
use ::ring::hkdf;
use zeroize::{Zeroize, Zeroizing};

use super::{Suite, tls12};

/// The AEAD or HKDF refused. It says no more, so that an attacker learns no more.
pub(super) use ::ring::error::Unspecified as AeadError;

/// The longest traffic secret, that of SHA-384.
pub(super) const LONGEST_SECRET: usize = 48;

impl Suite {
    fn aead(self) -> &'static aead::Algorithm {
        match self {
            Suite::Aes128Gcm | Suite::Tls12Aes128Gcm => &aead::AES_128_GCM,
            Suite::Aes256Gcm | Suite::Tls12Aes256Gcm => &aead::AES_256_GCM,
            Suite::ChaCha20Poly1305 | Suite::Tls12ChaCha20Poly1305 => &aead::CHACHA20_POLY1305,
        }
    }

    /// What derives keys, in TLS 1.3.
    fn hkdf(self) -> hkdf::Algorithm {
        match self.secret_bytes() {
            32 => hkdf::HKDF_SHA256,
            _ => hkdf::HKDF_SHA384,
        }
    }
}

/// The length of what HKDF shall give.
struct Length(usize);

impl hkdf::KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

/// HKDF-Expand-Label with an empty context (RFC 8446, section 7.1). The label begins with `tls13 `.
fn expand_label(secret: &hkdf::Prk, label: &[u8], into: &mut [u8]) -> Result<(), AeadError> {
    let length = (into.len() as u16).to_be_bytes();
    let info = [&length[..], &[label.len() as u8], label, &[0]];
    secret.expand(&info, Length(into.len()))?.fill(into)
}

/// Replaces a traffic secret by the one that follows it.
pub(super) fn update<const SECRET: usize>(suite: Suite, secret: &mut [u8; SECRET]) -> Result<(), AeadError> {
    let mut next = Zeroizing::new([0; SECRET]);
    expand_label(&hkdf::Prk::new_less_safe(suite.hkdf(), secret), b"tls13 traffic upd", &mut next[..])?;
    secret.copy_from_slice(&next[..]);
    Ok(())
}

/// The key and the IV of one direction, until its next KeyUpdate.
pub(super) struct RecordKey {
    key: LessSafeKey,
    iv: [u8; aead::NONCE_LEN],
}

impl RecordKey {
    /// Derives them from the traffic secret (RFC 8446, section 7.3), or takes them out of what is in its place with TLS
    /// 1.2.
    pub(super) fn derive(suite: Suite, secret: &[u8]) -> Result<Self, AeadError> {
        let (key, iv) = Self::parts(suite, secret)?;
        Ok(Self { key, iv })
    }

    /// Goes over to another secret of the same suite. The new schedule takes the very bytes of the old one.
    fn replace(&mut self, suite: Suite, secret: &[u8]) -> Result<(), AeadError> {
        (self.key, self.iv) = Self::parts(suite, secret)?;
        Ok(())
    }

    fn parts(suite: Suite, secret: &[u8]) -> Result<(LessSafeKey, [u8; aead::NONCE_LEN]), AeadError> {
        if suite.is_tls12() {
            let (key, rest) = secret.split_at_checked(tls12::IV).ok_or(AeadError)?;
            let iv = rest.first_chunk().ok_or(AeadError)?;
            let key = UnboundKey::new(suite.aead(), &key[..suite.aead().key_len()])?;
            return Ok((LessSafeKey::new(key), *iv));
        }
        let secret = hkdf::Prk::new_less_safe(suite.hkdf(), secret);
        // 32 bytes are the longest key of all suites.
        let mut key = Zeroizing::new([0; 32]);
        let key = &mut key[..suite.aead().key_len()];
        expand_label(&secret, b"tls13 key", key)?;
        let mut iv = [0; aead::NONCE_LEN];
        expand_label(&secret, b"tls13 iv", &mut iv)?;
        Ok((LessSafeKey::new(UnboundKey::new(suite.aead(), key)?), iv))
    }

    /// The IV with the sequence number in its last 8 bytes (RFC 8446, section 5.3).
    pub(super) fn nonce(&self, sequence: u64) -> [u8; aead::NONCE_LEN] {
        let mut nonce = self.iv;
        nonce.iter_mut().rev().zip(sequence.to_le_bytes()).for_each(|(byte, number)| *byte ^= number);
        nonce
    }

    /// Decrypts in place. The tag is the end of the body.
    pub(super) fn open<'a>(
        &self,
        nonce: [u8; aead::NONCE_LEN],
        protected: &[u8],
        body: &'a mut [u8],
    ) -> Result<&'a [u8], AeadError> {
        let nonce = Nonce::assume_unique_for_key(nonce);
        self.key.open_in_place(nonce, aead::Aad::from(protected), body).map(|inner| &*inner)
    }

    /// Encrypts in place, and gives the tag.
    pub(super) fn seal(
        &self,
        nonce: [u8; aead::NONCE_LEN],
        protected: &[u8],
        inner: &mut [u8],
    ) -> Result<Tag, AeadError> {
        let nonce = Nonce::assume_unique_for_key(nonce);
        self.key.seal_in_place_separate_tag(nonce, aead::Aad::from(protected), inner)
    }
}

impl Drop for RecordKey {
    fn drop(&mut self) {
        self.iv.zeroize();
        // The key schedule is ring's, which has no way to overwrite it. The schedule of another key of the same AEAD
        // fills the same bytes.
        if let Ok(zero) = UnboundKey::new(self.key.algorithm(), &[0; 32][..self.key.algorithm().key_len()]) {
            self.key = LessSafeKey::new(zero);
        }
        hint::black_box(&self.key);
    }
}

/// A key that is kept, with the secret that it follows from.
struct Kept {
    suite: Suite,
    /// Zeros follow a secret of 32 bytes.
    secret: Zeroizing<[u8; LONGEST_SECRET]>,
    key: RecordKey,
}

impl Kept {
    fn derive(suite: Suite, secret: &[u8]) -> Result<Self, AeadError> {
        Ok(Self { suite, secret: padded(secret)?, key: RecordKey::derive(suite, secret)? })
    }

    /// Makes room for another key of the same suite, whose schedule then needs no overwriting of its own.
    fn replace(&mut self, secret: &[u8]) -> Result<(), AeadError> {
        let padded = padded(secret)?;
        self.key.replace(self.suite, secret)?;
        self.secret = padded;
        Ok(())
    }

    fn is_of(&self, suite: Suite, secret: &[u8]) -> bool {
        self.suite == suite && self.secret.starts_with(secret)
    }
}

/// A secret with zeros behind it.
fn padded(secret: &[u8]) -> Result<Zeroizing<[u8; LONGEST_SECRET]>, AeadError> {
    let mut padded = Zeroizing::new([0; LONGEST_SECRET]);
    padded.get_mut(..secret.len()).ok_or(AeadError)?.copy_from_slice(secret);
    Ok(padded)
}

/// Keys that one set of the cache holds.
const WAYS: usize = 4;

/// The keys that a shard's connections have used lately.
///
/// A key is found by the secret that it follows from, compared whole. So a key that is found equals the key that would be
/// derived, whatever has become of its connection, and a KeyUpdate cannot find the key before it.
pub struct KeyCache {
    /// The first 8 bytes of each kept secret, in sets of `WAYS`. Most secrets are told apart here, without a look at the
    /// keys, of which each fills ten cache lines.
    marks: Vec<u64>,
    kept: Vec<Option<Kept>>,
    /// Which key of a full set goes next. Keys that are used in turn by more connections than fit would all miss, if the
    /// oldest went.
    turn: usize,
}

impl KeyCache {
    /// Keeps as many keys as this, rounded up to a power of two of at least 4. A connection that both receives and sends
    /// uses two. Each takes about 700 bytes.
    pub fn new(keys: usize) -> Self {
        let keys = keys.max(WAYS).next_power_of_two();
        Self { marks: vec![0; keys], kept: (0..keys).map(|_| None).collect(), turn: 0 }
    }

    /// How many keys are kept now.
    pub fn len(&self) -> usize {
        self.kept.iter().flatten().count()
    }

    /// Whether none is kept now.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The key of a secret, kept or derived.
    pub(super) fn key(&mut self, suite: Suite, secret: &[u8]) -> Result<&RecordKey, AeadError> {
        if let Some(place) = self.find(suite, secret) {
            return self.kept[place].as_ref().map(|kept| &kept.key).ok_or(AeadError);
        }
        let place = self.place_for(secret);
        match &mut self.kept[place] {
            Some(kept) if kept.suite == suite => kept.replace(secret)?,
            free => *free = Some(Kept::derive(suite, secret)?),
        }
        self.marks[place] = mark(secret);
        self.kept[place].as_ref().map(|kept| &kept.key).ok_or(AeadError)
    }

    /// The places where the key of a secret may be.
    fn ways(&self, secret: &[u8]) -> Range<usize> {
        // Secrets are random, so their bits are as good as a hash. The number of sets is a power of two.
        let sets = self.marks.len() / WAYS;
        let first = (mark(secret) as usize & (sets - 1)) * WAYS;
        first..first + WAYS
    }

    fn find(&self, suite: Suite, secret: &[u8]) -> Option<usize> {
        let is_here = |place: &usize| {
            self.marks[*place] == mark(secret)
                && self.kept[*place].as_ref().is_some_and(|kept| kept.is_of(suite, secret))
        };
        self.ways(secret).find(is_here)
    }

    /// A place that is free, or whose key goes now.
    fn place_for(&mut self, secret: &[u8]) -> usize {
        let mut ways = self.ways(secret);
        self.turn = self.turn.wrapping_add(1);
        let next = ways.start + self.turn % WAYS;
        ways.find(|place| self.kept[*place].is_none()).unwrap_or(next)
    }

    /// Overwrites the key of a secret, if it is kept.
    pub(super) fn forget(&mut self, suite: Suite, secret: &[u8]) {
        if let Some(place) = self.find(suite, secret) {
            self.marks[place] = 0;
            self.kept[place] = None;
        }
    }
}

/// The beginning of a secret, as a number.
fn mark(secret: &[u8]) -> u64 {
    secret.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}
