//! Handshakes in memory: both ends of ours against each other, with the bytes cut anywhere and changed anywhere.

use proptest::prelude::*;
use rcgen::{CertificateParams, DnType, KeyPair};

use super::*;
use crate::error::{Alert, CertificateProblem};
use crate::tls::record::HEADER;

/// A certificate for a name with its key, in PEM. `by` is the name of its authority, which it is itself.
fn pair(name: &str, by: &str) -> (Vec<u8>, Vec<u8>) {
    let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    params.distinguished_name.push(DnType::CommonName, by);
    let key = KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap();
    (pem("CERTIFICATE", certificate.der()), pem("PRIVATE KEY", &key.serialize_der()))
}

fn pem(label: &str, der: &[u8]) -> Vec<u8> {
    use base64::Engine;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    format!("-----BEGIN {label}-----\n{text}\n-----END {label}-----\n").into_bytes()
}

/// A server with a certificate for `localhost`, and a client that trusts it.
pub(crate) fn ends() -> (Acceptor, Connector) {
    let (certificate, key) = pair("localhost", "one");
    let acceptor = Acceptor::new(&TlsConfig::pem(certificate.clone(), key)).unwrap();
    (acceptor, Connector::new(&trusting(certificate)).unwrap())
}

/// The same where the server speaks TLS 1.2 alone, and the client does too.
pub(crate) fn old_ends() -> (Acceptor, Connector) {
    let (certificate, key) = pair("localhost", "one");
    let acceptor = Acceptor::new(&TlsConfig::pem(certificate.clone(), key).only_tls12()).unwrap();
    let settings = ClientTls { lowest_version: TlsVersion::Tls12, ..trusting(certificate) };
    (acceptor, Connector::new(&settings).unwrap())
}

fn trusting(certificate: Vec<u8>) -> ClientTls {
    let trust = Trust::Authorities(Pem::Memory(certificate));
    ClientTls { trust, server_name: Some("localhost".to_owned()), ..ClientTls::default() }
}

/// One end of a connection in memory.
pub(super) struct End {
    handshake: Box<dyn Handshake>,
    incoming: Vec<u8>,
    outgoing: Vec<u8>,
    established: Option<Established>,
}

impl End {
    fn new(handshake: Box<dyn Handshake>) -> End {
        End { handshake, incoming: Vec::new(), outgoing: Vec::new(), established: None }
    }

    fn hear(&mut self, bytes: &[u8]) -> std::result::Result<(), TlsFailure> {
        self.incoming.extend_from_slice(bytes);
        if self.established.is_none() {
            self.established = self.handshake.advance(&mut self.incoming, &mut self.outgoing)?;
        }
        Ok(())
    }
}

/// Leads both ends through a handshake, with pieces of so many bytes, each of which `change` may change. Returns the ends,
/// and the first failure with whether it was the server's.
pub(super) fn shake(
    (acceptor, connector): (&mut Acceptor, &Connector),
    piece: usize,
    mut change: impl FnMut(bool, &mut [u8]),
) -> std::result::Result<(End, End), (bool, TlsFailure)> {
    let mut server = End::new(acceptor.begin().unwrap());
    let mut client = End::new(connector.begin([127, 0, 0, 1].into()).unwrap());
    client.hear(b"").map_err(|failure| (false, failure))?;
    loop {
        let (to_server, to_client) = (std::mem::take(&mut client.outgoing), std::mem::take(&mut server.outgoing));
        if to_server.is_empty() && to_client.is_empty() {
            return Ok((server, client));
        }
        for (is_server, end, mut bytes) in [(true, &mut server, to_server), (false, &mut client, to_client)] {
            change(is_server, &mut bytes);
            bytes.chunks(piece).try_for_each(|piece| end.hear(piece)).map_err(|failure| (is_server, failure))?;
        }
    }
}

#[test]
fn both_ends_come_to_the_same_secrets() {
    let (mut acceptor, connector) = ends();
    for piece in [1, 7, 1_000, usize::MAX] {
        let (server, client) = shake((&mut acceptor, &connector), piece, |_, _| {}).unwrap();
        let (server, mut ours) = (server.established.unwrap(), client.established.unwrap());
        assert_eq!((server.side, ours.side), (Side::Server, Side::Client));
        assert_eq!((server.suite, ours.suite), (Suite::Aes128Gcm, Suite::Aes128Gcm));
        assert_eq!(server.read.0.bytes(), ours.write.0.bytes());
        assert_eq!(server.write.0.bytes(), ours.read.0.bytes());
        assert_ne!(server.write.0.bytes(), server.read.0.bytes());
        // The server has sealed its tickets, which the client has not opened: the record layer does.
        assert_eq!((server.read.1, ours.write.1, ours.read.1), (0, 0, 0));
        assert_eq!(server.write.1, 1);
        assert!(!client.incoming.is_empty() && ours.tickets.is_some() && server.tickets.is_none());
        assert!(!ours.tickets.as_mut().unwrap().take(b"no ticket"));
    }
}

#[test]
fn both_ends_agree_on_tls12_only_where_they_may() {
    let (certificate, key) = pair("localhost", "one");
    let server = || TlsConfig::pem(certificate.clone(), key.clone());
    let version = |mut acceptor: Acceptor, connector: Connector| {
        let shaken = shake((&mut acceptor, &connector), 50, |_, _| {});
        shaken.map(|(server, client)| {
            let (server, client) = (server.established.unwrap(), client.established.unwrap());
            assert_eq!(server.agreed.server_name.as_deref(), Some("localhost"));
            assert_eq!(TlsAgreed { server_name: None, ..server.agreed.clone() }, client.agreed);
            assert_eq!(server.read.0.bytes(), client.write.0.bytes());
            assert_eq!(server.write.0.bytes(), client.read.0.bytes());
            assert!(server.suite.is_tls12() == (server.agreed.version == TlsVersion::Tls12));
            // The Finished of each end was the first record with its key, and the tickets came before it.
            let numbers = [client.read.1, client.write.1, server.read.1, server.write.1];
            assert!(client.agreed.version == TlsVersion::Tls13 || numbers == [1; 4]);
            assert!(client.agreed.version == TlsVersion::Tls13 || client.tickets.is_none());
            client.agreed
        })
    };
    let acceptor = |config: TlsConfig| Acceptor::new(&config).unwrap();
    let (old, new) = (trusting(certificate.clone()), trusting(certificate.clone()));
    let both = ClientTls { lowest_version: TlsVersion::Tls12, ..new.clone() };
    let old = Connector::only_tls12(old).unwrap();
    let [new, both] = [new, both].map(|settings| Connector::new(&settings).unwrap());
    let lowest = server().lowest_version(TlsVersion::Tls12);
    let agreed = |version, resumed| Ok(TlsAgreed { version, resumed, ..TlsAgreed::default() });
    // The highest that both speak, and sessions are resumed.
    let accepts_both = acceptor(lowest.clone());
    assert_eq!(version(accepts_both.clone(), old.clone()), agreed(TlsVersion::Tls12, false));
    assert_eq!(version(accepts_both.clone(), old.clone()), agreed(TlsVersion::Tls12, true));
    assert_eq!(version(accepts_both.clone(), new), agreed(TlsVersion::Tls13, false));
    assert_eq!(version(accepts_both, both.clone()), agreed(TlsVersion::Tls13, false));
    assert_eq!(version(acceptor(server().only_tls12()), both), agreed(TlsVersion::Tls12, false));
    // None in common. The server says so: protocol_version.
    let none = Err((true, TlsFailure::OwnAlert(Alert(70))));
    assert_eq!(version(acceptor(server()), old), none);
    let new = Connector::new(&trusting(certificate.clone())).unwrap();
    assert_eq!(version(acceptor(server().only_tls12()), new), none);
}

#[test]
fn a_server_is_trusted_for_its_name_and_by_its_authority_alone() {
    let (certificate, key) = pair("localhost", "one");
    let mut acceptor = Acceptor::new(&TlsConfig::pem(certificate.clone(), key)).unwrap();
    let mut failure = |settings: ClientTls| {
        let connector = Connector::new(&settings).unwrap();
        shake((&mut acceptor, &connector), usize::MAX, |_, _| {}).err()
    };
    let refused = |problem| Some((false, TlsFailure::Certificate(problem)));
    assert_eq!(failure(trusting(certificate.clone())), None);
    let other = Some("other.example".to_owned());
    let wrong_name = ClientTls { server_name: other.clone(), ..trusting(certificate.clone()) };
    assert_eq!(failure(wrong_name), refused(CertificateProblem::WrongName));
    assert_eq!(
        failure(ClientTls { server_name: None, ..trusting(certificate) }),
        refused(CertificateProblem::WrongName)
    );
    assert_eq!(failure(trusting(pair("localhost", "another").0)), refused(CertificateProblem::UnknownIssuer));
    assert_eq!(failure(ClientTls { trust: Trust::Anyone, server_name: other, ..ClientTls::default() }), None);
}

/// The record of a decode_error that is not encrypted.
const DECODE_ERROR: [u8; 7] = [21, 3, 3, 0, 2, 2, 50];

/// A client is told that its hello is too long, whatever is too long in it.
#[test]
fn a_server_takes_no_hello_without_end() {
    let (mut acceptor, _) = ends();
    let mut refused = |piece: &dyn Fn(usize) -> Vec<u8>| {
        let mut server = End::new(acceptor.begin().unwrap());
        let failure = (0..10_000).find_map(|at| server.hear(&piece(at)).err());
        assert_eq!(failure, Some(TlsFailure::OwnAlert(Alert::DECODE_ERROR)));
        assert_eq!(server.outgoing, DECODE_ERROR);
        server.incoming.len()
    };
    // A message of 16 MiB, in records that are full.
    refused(&|_| [&[22, 3, 1, 0x40, 0, 1, 0xff, 0xff, 0xff][..], &[0; 16_380]].concat());
    // The longest message that rustls takes, four bytes at a time.
    let taken = refused(&|at| [&[22, 3, 1, 0, 4][..], if at == 0 { &[1, 0, 0xff, 0xff] } else { &[0; 4] }].concat());
    assert!(taken < 20_000, "{taken}");
    // A record that is too long, of which nothing but the header comes.
    refused(&|_| vec![22, 3, 1, 0x41, 0]);
}

/// An end that has keys for it seals its alert.
#[test]
fn a_client_takes_no_flight_without_end() {
    let (mut acceptor, connector) = ends();
    let (mut server, mut client) =
        (End::new(acceptor.begin().unwrap()), End::new(connector.begin([127, 0, 0, 1].into()).unwrap()));
    client.hear(b"").unwrap();
    server.hear(&std::mem::take(&mut client.outgoing)).unwrap();
    // The ServerHello, and a record that is too long.
    let hello = HEADER + usize::from(u16::from_be_bytes([server.outgoing[3], server.outgoing[4]]));
    client.hear(&server.outgoing[..hello]).unwrap();
    client.outgoing.clear();
    assert_eq!(client.hear(&[23, 3, 3, 0x41, 0]), Err(TlsFailure::OwnAlert(Alert::DECODE_ERROR)));
    let alert = client.outgoing.strip_prefix(&[20, 3, 3, 0, 1, 1]).unwrap_or(&client.outgoing);
    assert!(matches!(alert, [23, 3, 3, 0, 19, sealed @ ..] if sealed.len() == 19), "{alert:?}");
}

#[test]
fn secrets_are_not_shown() {
    let (mut acceptor, connector) = ends();
    let (server, _) = shake((&mut acceptor, &connector), usize::MAX, |_, _| {}).unwrap();
    assert_eq!(format!("{:?}", server.established.unwrap().read.0), "Secret");
    let (certificate, key) = pair("localhost", "one");
    let shown = format!("{:?} {acceptor:?}", TlsConfig::pem(certificate, key.clone()));
    assert!(!shown.contains("PRIVATE") && !shown.contains(&format!("{:?}", &key[30..40])), "{shown}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever is changed on the way, an end fails with a value, and no end is established with other secrets.
    #[test]
    fn a_changed_byte_never_goes_unseen(
        at in 0usize..3_000, by in 1u8.., is_server: bool, piece in 1usize..2_000, old: bool,
    ) {
        let (mut acceptor, connector) = if old { old_ends() } else { ends() };
        let mut changed = false;
        let mut passed = 0;
        let shaken = shake((&mut acceptor, &connector), piece, |server, bytes| {
            if server == is_server {
                if let Some(byte) = at.checked_sub(passed).and_then(|at| bytes.get_mut(at)) {
                    *byte ^= by;
                    changed = true;
                }
                passed += bytes.len();
            }
        });
        if let Ok((server, client)) = shaken
            && let (Some(server), Some(client)) = (server.established, client.established)
        {
            prop_assert_eq!(server.read.0.bytes(), client.write.0.bytes());
            prop_assert_eq!(server.write.0.bytes(), client.read.0.bytes());
        }
    }
}
