//! Records of TLS 1.2: rustls does a handshake with itself, and our record layer takes one end over, as in
//! `beside_rustls`. Faults and bounds have their alerts.

use std::collections::HashSet;

use ::rustls::ConnectionTrafficSecrets;
use proptest::prelude::*;

use super::beside_rustls::{Oracle, two_ends};
use super::*;

const SUITES: [Suite; 3] = [Suite::Tls12Aes128Gcm, Suite::Tls12Aes256Gcm, Suite::Tls12ChaCha20Poly1305];

/// Our end of a connection whose other end is rustls'.
struct Talk {
    ours: End<48>,
    oracle: Oracle,
    /// Seals, under what the oracle seals with.
    forge: Forge<48>,
}

fn kept(secrets: &ConnectionTrafficSecrets) -> Vec<u8> {
    let (ConnectionTrafficSecrets::Aes128Gcm { key, iv }
    | ConnectionTrafficSecrets::Aes256Gcm { key, iv }
    | ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv }) = secrets
    else {
        panic!("another suite")
    };
    tls12_secret(key.as_ref(), iv.as_ref()).unwrap().to_vec()
}

/// A handshake, after which our record layer goes on at a side.
fn established(suite: Suite, side: Side) -> Talk {
    let (mut client, mut server, _) = two_ends(suite, None);
    for _ in 0..3 {
        server.hear(&client.says()).unwrap();
        client.hear(&server.says()).unwrap();
    }
    assert!(!client.0.is_handshaking() && !server.0.is_handshaking());
    let (taken, oracle) = if side == Side::Client { (client, server) } else { (server, client) };
    let numbers = taken.0.dangerous_extract_secrets().unwrap();
    let (read, write) = (kept(&numbers.rx.1), kept(&numbers.tx.1));
    let ours = End::new(side, suite, (&read, numbers.rx.0), (&write, numbers.tx.0));
    Talk { ours, oracle, forge: Forge::new(suite, &read, numbers.rx.0) }
}

impl End<48> {
    fn seal_old(&mut self, content: &[u8]) -> Vec<u8> {
        let (before, behind) = self.session.suite().around();
        let mut record = [&vec![0; before][..], content, &vec![0; behind]].concat();
        self.session.seal(&mut self.keys, &mut record).unwrap();
        record
    }

    /// Opens the records in a stream, and returns their data.
    fn open_stream(&mut self, mut stream: &[u8]) -> Vec<u8> {
        let mut content = Vec::new();
        while let Some(length) = self.session.record_length(stream).unwrap() {
            let (record, later) = stream.split_at(length);
            content.extend(self.open(record).unwrap().1);
            stream = later;
        }
        assert!(stream.is_empty());
        content
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]

    #[test]
    fn what_one_seals_the_other_opens(
        lengths in prop::collection::vec(prop_oneof![3 => 0..300_usize, 1 => 0..40_000_usize], 1..8),
        cut in 1..5_000_usize,
    ) {
        for (suite, side) in SUITES.into_iter().flat_map(|suite| [(suite, Side::Client), (suite, Side::Server)]) {
            let Talk { mut ours, mut oracle, .. } = established(suite, side);
            for (at, length) in lengths.iter().enumerate() {
                let content: Vec<u8> = (0..*length).map(|byte| (byte + at) as u8).collect();
                let sealed: Vec<u8> = content.chunks(LARGEST_CONTENT).flat_map(|part| ours.seal_old(part)).collect();
                let heard: Vec<u8> = sealed.chunks(cut).flat_map(|piece| oracle.hear(piece).unwrap()).collect();
                prop_assert!(heard == content);
                let said = oracle.send(&content);
                prop_assert!(ours.open_stream(&said) == content);
            }
        }
    }

    /// The nonces of a connection's AES-GCM records, which stand in them, are all different, whatever the cache keeps.
    #[test]
    fn no_nonce_is_used_twice(turns in prop::collection::vec((0..6_usize, 0..4_u8), 0..120)) {
        for suite in [Suite::Tls12Aes128Gcm, Suite::Tls12Aes256Gcm] {
            let (mut keys, mut messages) = (KeyCache::new(4), Messages::new());
            let mut sessions: Vec<Session<48>> = (0..6).map(|at| {
                let secrets = [2 * at, 2 * at + 1].map(secret::<48>);
                let [read, write] = secrets.map(|secret| Traffic::new(&secret, 1).unwrap());
                Session::new(Side::Server, suite, read, write).unwrap()
            }).collect();
            let mut seen = HashSet::new();
            for (at, step) in &turns {
                let session = &mut sessions[*at];
                let sealed = match step {
                    0 => session.seal_refusal(&mut keys).ok(),
                    1 => { session.forget(&mut keys, &mut messages); None }
                    2 => { assert!(session.seal(&mut keys, &mut [0; HEADER]).is_err()); None }
                    _ => session.seal_short(&mut keys, APPLICATION_DATA, b"").ok(),
                };
                if let Some(record) = sealed {
                    prop_assert!(seen.insert((*at, record[HEADER..HEADER + 8].to_vec())));
                }
            }
        }
    }
}

#[test]
fn the_longest_and_the_empty_record_are_taken() {
    for suite in SUITES {
        let Talk { mut ours, mut oracle, mut forge } = established(suite, Side::Server);
        let longest = ours.seal_old(&vec![7; LARGEST_CONTENT]);
        assert!(longest.len() <= LARGEST_CONTENT + MOST_AROUND);
        assert_eq!(oracle.hear(&longest).unwrap(), vec![7; LARGEST_CONTENT]);
        assert_eq!(ours.open(&forge.record(23, &vec![7; LARGEST_CONTENT], 0)).unwrap().1, vec![7; LARGEST_CONTENT]);
        assert_eq!(ours.open(&forge.record(23, b"", 0)).unwrap().0, Opened::Nothing);
        // Bytes beyond what a record may have are refused by its header.
        let mut header = forge.record(23, &vec![7; LARGEST_CONTENT + 1], 0);
        header.truncate(HEADER);
        assert_eq!(ours.session.record_length(&header), Err(Alert::RECORD_OVERFLOW));
        let (before, behind) = suite.around();
        for length in [0, before + behind - 1, before + LARGEST_CONTENT + 1 + behind] {
            assert_eq!(ours.session.seal(&mut ours.keys, &mut vec![0; length]), Err(Unsealed::Size));
        }
    }
}

type Fault = (&'static str, fn(&mut Forge<48>) -> Vec<u8>, Alert);

const FAULTS: [Fault; 12] = [
    ("a changed byte", |forge| changed(forge, 20), Alert::BAD_RECORD_MAC),
    ("a changed type", |forge| changed(forge, 0), Alert::BAD_RECORD_MAC),
    ("a changed version", |forge| changed(forge, 2), Alert::BAD_RECORD_MAC),
    ("a record without a tag", |_| vec![23, 3, 3, 0, 3, 1, 2, 3], Alert::BAD_RECORD_MAC),
    ("a plain alert", |_| vec![21, 3, 3, 0, 2, 2, 40], Alert::BAD_RECORD_MAC),
    (
        "a record of another time",
        |forge| {
            forge.skip();
            forge.record(23, b"abc", 0)
        },
        Alert::BAD_RECORD_MAC,
    ),
    ("a ChangeCipherSpec", |_| vec![20, 3, 3, 0, 1, 1], Alert::UNEXPECTED_MESSAGE),
    ("a type that is not known", |_| vec![24, 3, 3, 0, 1, 1], Alert::UNEXPECTED_MESSAGE),
    ("a Finished", |forge| forge.record(22, &[20, 0, 0, 12], 0), Alert::UNEXPECTED_MESSAGE),
    ("a KeyUpdate", |forge| forge.record(22, &[24, 0, 0, 1, 0], 0), Alert::UNEXPECTED_MESSAGE),
    ("an empty handshake record", |forge| forge.record(22, &[], 0), Alert::UNEXPECTED_MESSAGE),
    ("half an alert", |forge| forge.record(21, &[2], 0), Alert::DECODE_ERROR),
];

fn changed(forge: &mut Forge<48>, at: usize) -> Vec<u8> {
    let mut record = forge.record(23, b"a message", 0);
    record[at] ^= if at == 0 { 23 ^ 21 } else { 1 };
    record
}

#[test]
fn faults_have_their_alerts() {
    for (suite, side) in SUITES.into_iter().flat_map(|suite| [(suite, Side::Client), (suite, Side::Server)]) {
        for (fault, record, alert) in FAULTS {
            let Talk { mut ours, mut oracle, mut forge } = established(suite, side);
            let record = record(&mut forge);
            let judged = ours.session.record_length(&record).and_then(|_| ours.open(&record));
            assert_eq!(judged, Err(alert), "{fault}, {suite:?}, {side:?}");
            // The peer understands what it is told, and hears nothing more.
            let record = ours.session.seal_alert(&mut ours.keys, alert).unwrap();
            oracle.hear(&record).unwrap_err();
            assert!(!ours.session.is_writable());
        }
    }
}

#[test]
fn a_renegotiation_is_refused_and_the_connection_goes_on() {
    for suite in SUITES {
        for (side, request) in [(Side::Server, &[1, 0, 0, 2, 3, 3][..]), (Side::Client, &[0, 0, 0, 0])] {
            let Talk { mut ours, mut oracle, mut forge } = established(suite, side);
            assert!(!ours.session.refusal_due());
            for _ in 0..2 {
                assert_eq!(ours.open(&forge.record(22, request, 0)).unwrap().0, Opened::Nothing);
            }
            assert!(ours.session.refusal_due() && !ours.session.key_update_due());
            let refusal = ours.session.seal_refusal(&mut ours.keys).unwrap();
            assert!(!ours.session.refusal_due());
            // A warning: rustls, which asks for no renegotiation, passes it over.
            assert_eq!(oracle.hear(&refusal).unwrap(), b"");
            assert_eq!(oracle.hear(&ours.seal_old(b"still here")).unwrap(), b"still here");
            assert_eq!(ours.open(&forge.record(23, b"here too", 0)).unwrap().1, b"here too");
            // A peer that does nothing else is told to go.
            let flood = (0..40).find_map(|_| ours.open(&forge.record(22, request, 0)).err());
            assert_eq!(flood, Some(Alert::UNEXPECTED_MESSAGE));
            assert!(ours.session.seal_alert(&mut ours.keys, Alert::UNEXPECTED_MESSAGE).is_ok());
            assert!(!ours.session.refusal_due());
        }
    }
}

#[test]
fn both_ends_close_in_order_and_warnings_are_passed_over() {
    for (suite, side) in SUITES.into_iter().flat_map(|suite| [(suite, Side::Client), (suite, Side::Server)]) {
        let Talk { mut ours, mut oracle, mut forge } = established(suite, side);
        assert_eq!(ours.open(&forge.record(21, &[1, 90], 0)).unwrap().0, Opened::Nothing);
        assert_eq!(ours.open(&forge.record(21, &[1, 100], 0)).unwrap().0, Opened::Nothing);
        let close = ours.session.seal_alert(&mut ours.keys, Alert::CLOSE_NOTIFY).unwrap();
        oracle.0.read_tls(&mut &close[..]).unwrap();
        assert!(oracle.0.process_new_packets().unwrap().peer_has_closed());
        assert_eq!(ours.open(&forge.record(21, &[1, 0], 0)).unwrap().0, Opened::Alert(Alert::CLOSE_NOTIFY));
        let Talk { mut ours, mut oracle, .. } = established(suite, side);
        oracle.0.send_close_notify();
        assert_eq!(ours.open(&oracle.says()).unwrap().0, Opened::Alert(Alert::CLOSE_NOTIFY));
        let Talk { mut ours, mut forge, .. } = established(suite, side);
        assert_eq!(ours.open(&forge.record(21, &[2, 46], 0)).unwrap().0, Opened::Alert(Alert(46)));
        assert!(!ours.session.is_writable());
    }
}

#[test]
fn a_connection_goes_on_in_another_process() {
    for (suite, side, request) in SUITES.map(|suite| (suite, Side::Server, [1, 0, 0, 0])) {
        let Talk { mut ours, mut oracle, mut forge } = established(suite, side);
        assert_eq!(ours.open(&forge.record(22, &request, 0)).unwrap().0, Opened::Nothing);
        let mut ours = ours.moved();
        assert!(ours.session.refusal_due() && ours.session.suite() == suite);
        let refusal = ours.session.seal_refusal(&mut ours.keys).unwrap();
        assert_eq!(oracle.hear(&refusal).unwrap(), b"");
        assert_eq!(oracle.hear(&ours.seal_old(b"later")).unwrap(), b"later");
        assert_eq!(ours.open(&forge.record(23, b"and back", 0)).unwrap().1, b"and back");
    }
}

#[test]
fn a_key_seals_no_more_than_it_may() {
    for suite in SUITES {
        let halves = [3, 4].map(secret::<48>).map(|secret| Traffic::new(&secret, RECORDS_PER_KEY).unwrap());
        let [read, write] = halves;
        let mut session = Session::<48>::new(Side::Server, suite, read, write).unwrap();
        let mut keys = KeyCache::new(4);
        let (before, behind) = suite.around();
        let sealed = session.seal(&mut keys, &mut vec![0; before + behind]);
        // ChaCha20-Poly1305 has no such bound (RFC 9325, section 4.4).
        let bounded = suite != Suite::Tls12ChaCha20Poly1305;
        assert_eq!(sealed, if bounded { Err(Unsealed::UsedUp) } else { Ok(()) });
        assert!(!session.key_update_due());
        assert!(session.seal_alert(&mut keys, Alert::CLOSE_NOTIFY).is_ok());
        assert!(session.seal(&mut keys, &mut vec![0; before + behind]).is_err());
    }
}
