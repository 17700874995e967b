//! Certificates as they are found on servers, and which of them a client and a server take.

use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::{TLS12, TLS13};

use crate::support::*;
use crate::tls::serves;

/// A certificate of X.509 version 1 for CN=localhost, as `openssl x509 -req` makes them where it is given no extensions.
const VERSION_1: &str = "-----BEGIN CERTIFICATE-----
MIIBJDCBywIUBOFlcmsIjDsTsXz3n0bQKmFncyowCgYIKoZIzj0EAwIwFDESMBAG
A1UEAwwJbG9jYWxob3N0MCAXDTI2MTEyOTIyMzExNFoYDzIxMjYxMTA1MjIzMTE0
WjAUMRIwEAYDVQQDDAlsb2NhbGhvc3QwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNC
AAQZXL8DY3xELwJuY1WPxf/mcbSTApk2zbbqJotDDymCYR/HwJ9nbDzLhL3fnVs1
3qQ8WUp2Sx7qUMaAsHUdHm5RMAoGCCqGSM49BAMCA0gAMEUCIQDhLYl+MvOv69Ib
apxw0T1qx6clb9TJ15SffDRsG0MtfwIgVr4KeRdMkDD41rN7/hfoJI97lJjx6bp9
QRvCFYFWg/M=
-----END CERTIFICATE-----
";

/// Many servers have one, and it has no names but a CN. Who trusts anyone can talk to them.
#[test]
fn a_certificate_of_version_1_is_refused_by_its_cause_and_taken_from_anyone() {
    let authority = Authority::new();
    for version in [&TLS13, &TLS12] {
        let certificate = CertificateDer::from_pem_slice(VERSION_1.as_bytes()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let key = rustls::pki_types::PrivateKeyDer::from_pem_file(authority.sign("any", &[]).key).unwrap();
        let key = provider.key_provider.load_private_key(key).unwrap();
        let pair = SingleCertAndKey::from(CertifiedKey::new(vec![certificate], key));
        let config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[version])
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(pair));
        let (peer, _) = serves(config, |_| {});
        let words = format!("{} --tls --tls-min 1.2 --connections 3", peer.at());
        client(&format!("{words} --insecure")).held(3);
        let run = client(&format!("{words} --ca {}", authority.file()));
        run.failed("tls_certificate_old_version", 3, "version 1");
    }
}

#[test]
fn a_server_says_that_its_certificate_is_of_version_1() {
    let authority = Authority::new();
    let signed = authority.sign("server", &["localhost"]);
    std::fs::write(&signed.chain, VERSION_1).unwrap();
    run(&format!("server {}", signed.server())).fails_with(2, &["of X.509 version 1", "-extfile"]);
}

/// A CN is no name of a server any more (RFC 9525).
#[test]
fn a_certificate_without_a_subject_alternative_name_is_for_no_name() {
    let authority = Authority::new();
    let unnamed = authority.sign_with("unnamed", &[], |params| {
        params.distinguished_name.push(rcgen::DnType::CommonName, "localhost");
    });
    let (peer, _) = serves(unnamed.foreign_server(), |_| {});
    let run = client(&format!("{} --tls --sni localhost --connections 3 --ca {}", peer.at(), authority.file()));
    run.failed("tls_certificate_wrong_name", 3, "no CN");
}

/// A server may be gone before it has the alert that tells it why. What was found of its certificate is the cause all the
/// same.
#[test]
fn the_cause_of_a_failed_handshake_is_not_what_became_of_the_alert() {
    let authority = Authority::new();
    let config = Arc::new(authority.sign("server", &["127.0.0.1"]).foreign_server());
    let peer = Peer::with_threads(move |mut stream| {
        let mut connection = rustls::ServerConnection::new(config.clone()).unwrap();
        while connection.wants_read() && !connection.wants_write() {
            connection.read_tls(&mut stream).unwrap();
            connection.process_new_packets().unwrap();
        }
        while connection.wants_write() {
            connection.write_tls(&mut stream).unwrap();
        }
        reset(stream);
    });
    let stranger = Authority::new();
    let run = client(&format!("{} --tls --connections 40 --ca {}", peer.at(), stranger.file()));
    run.failed("tls_certificate_unknown_issuer", 40, "--ca");
}
