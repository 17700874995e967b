//! Differential tests: rustls does a whole handshake with itself, one end is taken over by our record layer, and the
//! other end goes on as it would with anybody.

use std::io::Read;
use std::sync::{Arc, LazyLock, Mutex};

use ::rustls::crypto::ring::default_provider;
use ::rustls::pki_types::PrivateKeyDer;
use ::rustls::version::{TLS12, TLS13};
use ::rustls::{
    CipherSuite, ClientConfig, ClientConnection, Connection, Error, KeyLog, RootCertStore, ServerConfig,
    ServerConnection,
};
use proptest::prelude::*;

use super::*;

/// The traffic secrets of a handshake: the client's, the server's.
#[derive(Debug, Default)]
pub(super) struct Secrets(Mutex<[Vec<u8>; 2]>);

impl KeyLog for Secrets {
    fn log(&self, label: &str, _client_random: &[u8], secret: &[u8]) {
        let labels = ["CLIENT_TRAFFIC_SECRET_0", "SERVER_TRAFFIC_SECRET_0"];
        if let Some(at) = labels.iter().position(|known| *known == label) {
            self.0.lock().unwrap()[at] = secret.to_vec();
        }
    }
}

static CERTIFICATE: LazyLock<rcgen::CertifiedKey<rcgen::KeyPair>> =
    LazyLock::new(|| rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap());

/// The other end.
pub(super) struct Oracle(pub(super) Connection);

impl Oracle {
    /// Gives it bytes from the network. What it read comes back.
    pub(super) fn hear(&mut self, mut bytes: &[u8]) -> Result<Vec<u8>, Error> {
        let mut content = Vec::new();
        while !bytes.is_empty() {
            self.0.read_tls(&mut bytes).unwrap();
            let state = self.0.process_new_packets()?;
            let start = content.len();
            content.resize(start + state.plaintext_bytes_to_read(), 0);
            self.0.reader().read_exact(&mut content[start..]).unwrap();
        }
        Ok(content)
    }

    /// The bytes that it has for the network.
    pub(super) fn says(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        while self.0.wants_write() {
            self.0.write_tls(&mut bytes).unwrap();
        }
        bytes
    }

    pub(super) fn send(&mut self, content: &[u8]) -> Vec<u8> {
        std::io::Write::write_all(&mut self.0.writer(), content).unwrap();
        self.says()
    }
}

/// An established connection.
struct Established {
    oracle: Oracle,
    suite: Suite,
    /// Our side.
    side: Side,
    /// What the oracle seals with, and the number of its next record.
    down: (Vec<u8>, u64),
    /// What it opens, likewise.
    up: (Vec<u8>, u64),
    /// What it has said after the handshake: the tickets of a server.
    said: Vec<u8>,
}

impl Established {
    /// Our end of it.
    fn ours<const SECRET: usize>(&self) -> End<SECRET> {
        End::new(self.side, self.suite, (&self.down.0, self.down.1), (&self.up.0, self.up.1))
    }

    /// Our end in the place of the oracle, which reads what the oracle reads.
    fn in_place_of_the_oracle<const SECRET: usize>(&self) -> End<SECRET> {
        let other = if self.side == Side::Client { Side::Server } else { Side::Client };
        End::new(other, self.suite, (&self.up.0, self.up.1), (&self.down.0, self.down.1))
    }

    fn forge<const SECRET: usize>(&self) -> Forge<SECRET> {
        Forge::new(self.suite, &self.up.0, self.up.1)
    }
}

/// Two rustls ends before their handshake, with one suite. A server's records have at most `fragment` bytes of content.
pub(super) fn two_ends(suite: Suite, fragment: Option<usize>) -> (Oracle, Oracle, Arc<Secrets>) {
    let mut provider = default_provider();
    let versions = if suite.is_tls12() { &[&TLS12] } else { &[&TLS13] };
    let suite = match suite {
        Suite::Aes128Gcm => CipherSuite::TLS13_AES_128_GCM_SHA256,
        Suite::Aes256Gcm => CipherSuite::TLS13_AES_256_GCM_SHA384,
        Suite::ChaCha20Poly1305 => CipherSuite::TLS13_CHACHA20_POLY1305_SHA256,
        Suite::Tls12Aes128Gcm => CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
        Suite::Tls12Aes256Gcm => CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
        Suite::Tls12ChaCha20Poly1305 => CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
    };
    provider.cipher_suites.retain(|known| known.suite() == suite);
    let provider = Arc::new(provider);
    let secrets = Arc::new(Secrets::default());
    let certificate = CERTIFICATE.cert.der().clone();
    let key = PrivateKeyDer::try_from(CERTIFICATE.signing_key.serialize_der()).unwrap();
    let server = ServerConfig::builder_with_provider(provider.clone()).with_protocol_versions(versions).unwrap();
    let mut server = server.with_no_client_auth().with_single_cert(vec![certificate.clone()], key).unwrap();
    server.enable_secret_extraction = true;
    server.key_log = secrets.clone();
    server.max_fragment_size = fragment;
    server.send_tls13_tickets = 3;
    let mut roots = RootCertStore::empty();
    roots.add(certificate).unwrap();
    let client = ClientConfig::builder_with_provider(provider).with_protocol_versions(versions).unwrap();
    let mut client = client.with_root_certificates(roots).with_no_client_auth();
    client.enable_secret_extraction = true;
    let client = ClientConnection::new(Arc::new(client), "localhost".try_into().unwrap()).unwrap();
    let server = ServerConnection::new(Arc::new(server)).unwrap();
    (Oracle(client.into()), Oracle(server.into()), secrets)
}

/// A handshake, after which our record layer may go on at a side.
fn established(suite: Suite, side: Side, fragment: Option<usize>) -> Established {
    let (mut client, mut server, secrets) = two_ends(suite, fragment);
    server.hear(&client.says()).unwrap();
    client.hear(&server.says()).unwrap();
    assert!(!client.0.is_handshaking());
    server.hear(&client.says()).unwrap();
    assert!(!server.0.is_handshaking());
    let [up, down] = secrets.0.lock().unwrap().clone();
    let said = server.says();
    // The end that we take over ends here: it tells how many records it has sealed and opened.
    if side == Side::Client {
        let numbers = client.0.dangerous_extract_secrets().unwrap();
        Established { oracle: server, suite, side, down: (down, numbers.rx.0), up: (up, numbers.tx.0), said }
    } else {
        client.hear(&said).unwrap();
        let numbers = server.0.dangerous_extract_secrets().unwrap();
        let (down, up) = ((up, numbers.rx.0), (down, numbers.tx.0));
        Established { oracle: client, suite, side, down, up, said: Vec::new() }
    }
}

/// What happens on an established connection.
#[derive(Debug, Clone)]
enum Step {
    WeSend(usize),
    WeUpdate { ask: bool },
    TheySend(usize),
    TheyUpdate,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let length = || prop_oneof![0..200_usize, Just(LARGEST_CONTENT), 0..=LARGEST_CONTENT];
    let step = prop_oneof![
        4 => length().prop_map(Step::WeSend),
        1 => any::<bool>().prop_map(|ask| Step::WeUpdate { ask }),
        4 => length().prop_map(Step::TheySend),
        1 => Just(Step::TheyUpdate),
    ];
    prop::collection::vec(step, 0..30)
}

/// Both ends talk. What one has sent before the other opens it is cut into pieces of these lengths, in turn.
fn talk<const SECRET: usize>(suite: Suite, side: Side, steps: &[Step], cuts: &[usize]) {
    let mut connection = established(suite, side, Some(700));
    let mut ours = connection.ours::<SECRET>();
    let oracle = &mut connection.oracle;
    let (mut to_us, mut to_them) = (std::mem::take(&mut connection.said), Vec::new());
    let (mut sent, mut got, mut said, mut heard) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut tickets = 0;
    for (step, cut) in steps.iter().zip(cuts.iter().cycle()) {
        match *step {
            Step::WeSend(length) => {
                let content = vec![sent.len() as u8; length];
                if ours.session.key_update_due() {
                    to_them.extend(ours.session.seal_key_update(&mut ours.keys, false).unwrap());
                }
                to_them.extend(ours.seal(&content));
                sent.extend(content);
            }
            Step::WeUpdate { ask } => to_them.extend(ours.session.seal_key_update(&mut ours.keys, ask).unwrap()),
            Step::TheySend(length) => {
                let content = vec![said.len() as u8; length];
                to_us.extend(oracle.send(&content));
                said.extend(content);
            }
            Step::TheyUpdate => {
                oracle.0.refresh_traffic_keys().unwrap();
                to_us.extend(oracle.says());
            }
        }
        // A piece of what is on its way arrives at both ends.
        let piece: Vec<u8> = to_them.drain(..to_them.len().min(*cut)).collect();
        got.extend(oracle.hear(&piece).unwrap());
        to_us.extend(oracle.says());
        for _ in 0..cut / 100 + 1 {
            let Some(length) = record_length(&to_us).unwrap().filter(|length| *length <= to_us.len()) else { break };
            tickets += hear(&mut ours, &mut to_us, length, &mut heard);
        }
    }
    got.extend(oracle.hear(&to_them).unwrap());
    to_us.extend(oracle.says());
    while let Some(length) = record_length(&to_us).unwrap() {
        tickets += hear(&mut ours, &mut to_us, length, &mut heard);
    }
    assert!(
        got == sent && heard == said && to_us.is_empty(),
        "{} {} {} {}",
        got.len(),
        sent.len(),
        heard.len(),
        said.len()
    );
    assert_eq!(tickets, if side == Side::Client { 3 } else { 0 });
}

/// Opens the record at the front. The number of tickets in it.
fn hear<const SECRET: usize>(
    ours: &mut End<SECRET>,
    stream: &mut Vec<u8>,
    length: usize,
    heard: &mut Vec<u8>,
) -> usize {
    let mut record: Vec<u8> = stream.drain(..length).collect();
    match ours.session.open(&mut ours.keys, &mut ours.messages, &mut record).unwrap() {
        Opened::Data(place) => heard.extend(&record[place]),
        Opened::Tickets(place) => return ours.messages.tickets(&record[place]).count(),
        Opened::Nothing | Opened::KeyUpdate => {}
        other @ Opened::Alert(_) => panic!("{other:?}"),
    }
    0
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn what_one_seals_the_other_opens(
        steps in steps(),
        cuts in prop::collection::vec(prop_oneof![1..40_usize, 1..20_000_usize], 1..8),
    ) {
        for side in [Side::Client, Side::Server] {
            talk::<32>(Suite::Aes128Gcm, side, &steps, &cuts);
            talk::<48>(Suite::Aes256Gcm, side, &steps, &cuts);
            talk::<32>(Suite::ChaCha20Poly1305, side, &steps, &cuts);
        }
    }
}

/// The fields of a NewSessionTicket (RFC 8446, section 4.6.1) fill its body.
fn assert_is_a_ticket(body: &[u8]) {
    let (fixed, rest) = body.split_at(8);
    assert_eq!(fixed[..4], (24 * 60 * 60_u32).to_be_bytes(), "rustls' lifetime of a ticket");
    let (nonce, rest) = rest[1..].split_at(rest[0].into());
    let (ticket, rest) = rest[2..].split_at(u16::from_be_bytes([rest[0], rest[1]]).into());
    assert_eq!((nonce.len(), ticket.len()), (32, 32));
    assert_eq!(rest, [0, 0], "no extensions");
}

fn tickets_come_whole<const SECRET: usize>(suite: Suite) {
    for fragment in [None, Some(33), Some(64), Some(200)] {
        let connection = established(suite, Side::Client, fragment);
        let mut ours = connection.ours::<SECRET>();
        let mut tickets = 0;
        for mut record in records(&connection.said) {
            if let Opened::Tickets(place) = ours.session.open(&mut ours.keys, &mut ours.messages, &mut record).unwrap()
            {
                ours.messages.tickets(&record[place]).for_each(|body| {
                    assert_is_a_ticket(body);
                    tickets += 1;
                });
            }
        }
        assert_eq!((tickets, ours.messages.bytes()), (3, 0), "records of {fragment:?}");
    }
}

#[test]
fn tickets_of_rustls_come_whole_from_records_of_any_length() {
    each_suite!(tickets_come_whole);
}

fn both_close<const SECRET: usize>(suite: Suite) {
    for side in [Side::Client, Side::Server] {
        let mut connection = established(suite, side, None);
        let mut ours = connection.ours::<SECRET>();
        records(&connection.said).iter().for_each(|record| drop(ours.open(record).unwrap()));
        let close = ours.session.seal_alert(&mut ours.keys, Alert::CLOSE_NOTIFY).unwrap();
        connection.oracle.0.read_tls(&mut &close[..]).unwrap();
        assert!(connection.oracle.0.process_new_packets().unwrap().peer_has_closed());
        let rest = connection.oracle.send(b"the rest");
        assert_eq!(ours.open(&rest).unwrap().1, b"the rest");
        connection.oracle.0.send_close_notify();
        assert_eq!(ours.open(&connection.oracle.says()).unwrap().0, Opened::Alert(Alert::CLOSE_NOTIFY));
    }
}

#[test]
fn both_ends_close_in_order() {
    each_suite!(both_close);
}

/// What one end made of a record.
#[derive(Debug, PartialEq)]
enum Made {
    Content(Vec<u8>),
    Alert(Alert),
    /// An error, of which the peer is told nothing.
    Silence,
}

/// What rustls makes of records, of which only the last may have a fault.
fn rustls_makes<const SECRET: usize>(connection: &mut Established, records: &[Vec<u8>]) -> Made {
    let mut ours = connection.ours::<SECRET>();
    super::records(&connection.said).iter().for_each(|record| drop(ours.open(record).unwrap()));
    let heard = connection.oracle.hear(&records.concat());
    let mut said = super::records(&connection.oracle.says());
    match heard {
        Ok(content) => Made::Content(content),
        Err(_) => said.pop().map_or(Made::Silence, |record| match ours.open(&record).unwrap().0 {
            Opened::Alert(alert) => Made::Alert(alert),
            other => panic!("{other:?}"),
        }),
    }
}

fn we_make<const SECRET: usize>(connection: &Established, records: &[Vec<u8>]) -> Made {
    let mut end = connection.in_place_of_the_oracle::<SECRET>();
    let mut content = Vec::new();
    for record in records {
        match end.open(record) {
            Ok((_, more)) => content.extend(more),
            Err(alert) => return Made::Alert(alert),
        }
    }
    Made::Content(content)
}

/// Faults of which rustls makes something else than RFC 8446 says, and we say.
const RUSTLS_DIFFERS: [(&str, Made); 12] = [
    // An unexpected type of record is an unexpected_message (section 5). rustls decrypts it all the same.
    ("a plain alert", Made::Alert(Alert::BAD_RECORD_MAC)),
    ("a plain handshake record", Made::Alert(Alert::BAD_RECORD_MAC)),
    // The version is to be ignored (section 5.1), but it is part of what the tag protects (section 5.2).
    ("a changed version", Made::Alert(Alert::DECODE_ERROR)),
    // Section 5.4 wants an unexpected_message. rustls returns an error and sends nothing.
    ("no type", Made::Silence),
    ("nothing but a tag", Made::Silence),
    // Section 5.1 forbids empty ones; section 5 wants an unexpected_message for a type that is not known.
    ("an empty alert", Made::Alert(Alert::DECODE_ERROR)),
    ("an empty handshake record", Made::Content(Vec::new())),
    ("a type that is not known", Made::Alert(Alert::DECODE_ERROR)),
    // A message with no place here is an unexpected_message (section 4). rustls awaits its end, and reads it first.
    ("a ClientHello", Made::Alert(Alert::DECODE_ERROR)),
    ("a HelloRequest", Made::Content(Vec::new())),
    ("a request for a certificate", Made::Content(Vec::new())),
    // No other record may come within a message (section 5.1). rustls returns an error and sends nothing.
    ("data within a message", Made::Silence),
];

fn faults_are_judged_alike<const SECRET: usize>(suite: Suite) {
    for side in [Side::Client, Side::Server] {
        for (fault, records, alert) in faults::faults::<SECRET>() {
            let mut connection = established(suite, side, None);
            let records = records(&mut connection.forge());
            assert_eq!(we_make::<SECRET>(&connection, &records), Made::Alert(alert), "{fault}");
            let theirs = rustls_makes::<SECRET>(&mut connection, &records);
            match RUSTLS_DIFFERS.iter().find(|(known, _)| *known == fault) {
                None => assert_eq!(theirs, Made::Alert(alert), "{fault}"),
                Some((_, made)) => assert_eq!(theirs, *made, "{fault}"),
            }
        }
    }
}

#[test]
fn rustls_sends_the_same_alerts_but_for_known_cases() {
    each_suite!(faults_are_judged_alike);
}

fn padding_is_passed_over<const SECRET: usize>(suite: Suite) {
    for side in [Side::Client, Side::Server] {
        let mut connection = established(suite, side, None);
        let mut forge = connection.forge::<SECRET>();
        let sizes = [(5, 0), (0, 0), (0, 9), (1, 1), (300, 1_000), (1, LARGEST_CONTENT - 1), (LARGEST_CONTENT, 0)];
        let records: Vec<_> = sizes.map(|(length, padding)| forge.record(23, &vec![3; length], padding)).into();
        let ours = we_make::<SECRET>(&connection, &records);
        assert_eq!(ours, Made::Content(vec![3; 5 + 1 + 300 + 1 + LARGEST_CONTENT]));
        assert_eq!(rustls_makes::<SECRET>(&mut connection, &records), ours);
    }
}

#[test]
fn padding_and_empty_records_are_passed_over() {
    each_suite!(padding_is_passed_over);
}
