//! No two records are sealed with the same key and nonce, whatever a cache has kept, and a kept key is the derived one.

use std::collections::HashSet;

use proptest::prelude::*;

use super::*;

/// What may happen on one of the connections of a shard.
#[derive(Debug, Clone)]
enum Step {
    Seal,
    /// Sealing that is refused for its size.
    Refused,
    KeyUpdate,
    /// The peer asks for a KeyUpdate.
    Asked,
    Alert,
    /// The connection is forgotten, as at its end, but goes on.
    Forgotten,
}

/// A connection, and what its records must be sealed with: the secret and the sequence number.
struct Connection<const SECRET: usize> {
    session: Session<SECRET>,
    peer: Forge<SECRET>,
    secret: [u8; SECRET],
    sequence: u64,
    is_over: bool,
}

const CONNECTIONS: u8 = 7;

impl<const SECRET: usize> Connection<SECRET> {
    fn new(suite: Suite, number: u8, start: u64) -> Self {
        let (read, write) = (secret::<SECRET>(2 * number), secret::<SECRET>(2 * number + 1));
        let halves = (Traffic::new(&read, 0).unwrap(), Traffic::new(&write, start).unwrap());
        let session = Session::new(Side::Server, suite, halves.0, halves.1).unwrap();
        Self { session, peer: Forge::new(suite, &read, 0), secret: write, sequence: start, is_over: false }
    }

    /// The record that the step sealed, if it has sealed one.
    fn step(&mut self, keys: &mut KeyCache, messages: &mut Messages, step: &Step) -> Option<Vec<u8>> {
        let is_due = !self.is_over && self.session.key_update_due();
        match step {
            Step::Seal => {
                let mut record = room_around(b"");
                let sealed = self.session.seal(keys, &mut record);
                assert_eq!(sealed.is_err(), is_due || self.is_over);
                sealed.ok().map(|()| record)
            }
            Step::Refused => {
                assert!(self.session.seal(keys, &mut [0; HEADER]).is_err());
                None
            }
            Step::KeyUpdate => self.session.seal_key_update(keys, true).ok(),
            Step::Asked => {
                let mut record = self.peer.record(22, &messages::key_update(true), 0);
                self.peer.update();
                // The peer may have gone too far.
                let opened = self.session.open(keys, messages, &mut record);
                assert!(matches!(opened, Ok(Opened::KeyUpdate | Opened::Nothing) | Err(Alert::UNEXPECTED_MESSAGE)));
                None
            }
            Step::Alert => {
                let record = self.session.seal_alert(keys, Alert::CLOSE_NOTIFY).ok();
                self.is_over = true;
                record
            }
            Step::Forgotten => {
                self.session.forget(keys, messages);
                None
            }
        }
    }

    /// Opens a record with a key that is derived for it alone.
    fn check(&mut self, record: &[u8]) {
        let suite = self.session.suite();
        let mut record = record.to_vec();
        let (header, body) = record.split_at_mut(HEADER);
        let derived = keys::RecordKey::derive(suite, &self.secret).unwrap();
        let inner = derived.open(derived.nonce(self.sequence), header, body).unwrap().to_vec();
        self.sequence += 1;
        if inner.last() == Some(&HANDSHAKE) {
            keys::update(suite, &mut self.secret).unwrap();
            self.sequence = 0;
        }
    }
}

fn nonces_never_repeat<const SECRET: usize>(suite: Suite, start: u64, kept: usize, steps: &[(u8, Step)]) {
    let (mut keys, mut messages) = (KeyCache::new(kept), Messages::new());
    let mut connections: Vec<_> = (0..CONNECTIONS).map(|at| Connection::<SECRET>::new(suite, at, start)).collect();
    // Records of one content: equal keys and nonces would seal it to equal bytes.
    let mut sealed = HashSet::new();
    for (number, step) in steps {
        let connection = &mut connections[usize::from(*number)];
        if let Some(record) = connection.step(&mut keys, &mut messages, step) {
            connection.check(&record);
            assert!(sealed.insert(record), "the same record twice, after {step:?} on {number}");
        }
    }
}

fn steps() -> impl Strategy<Value = Vec<(u8, Step)>> {
    let step = prop_oneof![
        10 => Just(Step::Seal),
        1 => Just(Step::Refused),
        3 => Just(Step::KeyUpdate),
        2 => Just(Step::Asked),
        1 => Just(Step::Alert),
        1 => Just(Step::Forgotten),
    ];
    prop::collection::vec((0..CONNECTIONS, step), 0..200)
}

proptest! {
    #[test]
    fn no_nonce_is_used_twice(
        before_due in prop_oneof![Just(RECORDS_PER_KEY), 0..20_u64],
        kept in prop_oneof![Just(4_usize), Just(16), Just(64)],
        steps in steps(),
    ) {
        let start = RECORDS_PER_KEY - before_due;
        nonces_never_repeat::<32>(Suite::Aes128Gcm, start, kept, &steps);
        nonces_never_repeat::<48>(Suite::Aes256Gcm, start, kept, &steps);
        nonces_never_repeat::<32>(Suite::ChaCha20Poly1305, start, kept, &steps);
    }
}

proptest! {
    /// In one set of places, where keys of all suites take each other's.
    #[test]
    fn a_kept_key_is_the_derived_one(uses in prop::collection::vec((0..3_usize, 0..8_u8, prop::bool::weighted(0.1)), 0..60)) {
        let mut keys = KeyCache::new(4);
        for (suite, seed, is_forgotten) in uses {
            let suite = [Suite::Aes128Gcm, Suite::Aes256Gcm, Suite::ChaCha20Poly1305][suite];
            let secret = &secret::<48>(seed)[..suite.secret_bytes()];
            if is_forgotten {
                keys.forget(suite, secret);
            }
            let derived = keys::RecordKey::derive(suite, secret).unwrap();
            let kept = keys.key(suite, secret).unwrap();
            prop_assert_eq!(kept.nonce(7), derived.nonce(7));
            let tags = [kept, &derived].map(|key| key.seal(key.nonce(7), b"header", &mut b"content".to_vec()).unwrap().as_ref().to_vec());
            prop_assert_eq!(&tags[0], &tags[1]);
        }
        prop_assert!(keys.len() <= 4);
    }
}

/// Two secrets that begin alike have the same place in the cache, and suites are told apart.
#[test]
fn keys_are_told_apart_by_the_whole_secret_and_the_suite() {
    let mut keys = KeyCache::new(4);
    let seal = |keys: &mut KeyCache, suite, secret: &[u8]| {
        let mut inner = *b"the same bytes";
        let tag = keys.key(suite, secret).and_then(|key| key.seal(key.nonce(0), b"header", &mut inner)).unwrap();
        (inner, tag.as_ref().to_vec())
    };
    let long: [u8; 48] = secret(5);
    let mut other: [u8; 32] = secret(5);
    other[31] ^= 1;
    let all = [
        (Suite::Aes128Gcm, &long[..32]),
        (Suite::Aes128Gcm, &other),
        (Suite::ChaCha20Poly1305, &long[..32]),
        (Suite::Aes256Gcm, &long),
    ];
    let first: Vec<_> = all.iter().map(|(suite, secret)| seal(&mut keys, *suite, secret)).collect();
    let again: Vec<_> = all.iter().map(|(suite, secret)| seal(&mut keys, *suite, secret)).collect();
    assert_eq!(first, again);
    assert_eq!(first.iter().collect::<HashSet<_>>().len(), 4);
}

/// What a connection used is overwritten at its end, and what others use is left.
#[test]
fn an_ended_connection_leaves_no_key() {
    let (mut client, mut server) = client_and_server::<32>(Suite::Aes128Gcm);
    let mut other = Connection::<32>::new(Suite::Aes128Gcm, 9, 0);
    other.step(&mut client.keys, &mut client.messages, &Step::Seal);
    assert_eq!(client.keys.len(), 1);
    client.open(&server.seal(b"abc")).unwrap();
    client.seal(b"def");
    assert_eq!(client.keys.len(), 3);
    // A KeyUpdate takes the old key along.
    client.session.seal_key_update(&mut client.keys, false).unwrap();
    assert_eq!(client.keys.len(), 2);
    client.session.forget(&mut client.keys, &mut client.messages);
    assert_eq!(client.keys.len(), 1);
}
