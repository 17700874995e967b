//! Certificates and keys in PEM.

use super::{Input, is_one_line};
use crate::error::Error;
use crate::tls::handshake::{Acceptor, ClientTls, Connector, Pem, TlsConfig, Trust};

/// Bytes of a key of which none stands in an error.
const PIECE: usize = 24;

/// A chain of certificates, a private key and authorities, with a zero byte between them: a server and a client take them,
/// or refuse them in a line that shows nothing of the key. The first byte says what the client is given.
pub fn pem(bytes: &[u8]) {
    let mut input = Input(bytes);
    let choices = input.byte();
    let mut parts = input.0.split(|byte| *byte == 0).map(<[u8]>::to_vec);
    let [chain, key, authorities] = [(); 3].map(|()| parts.next().unwrap_or_default());
    let served = Acceptor::new(&TlsConfig::pem(chain.clone(), key.clone())).map(drop);
    let is = |bit: u8| choices >> bit & 1 == 1;
    let trust = if is(0) { Trust::Authorities(Pem::Memory(authorities)) } else { Trust::Anyone };
    let identity = is(1).then(|| (Pem::Memory(chain), Pem::Memory(key.clone())));
    let dialed = Connector::new(&ClientTls { trust, identity, ..ClientTls::default() }).map(drop);
    for error in [served, dialed].into_iter().filter_map(Result::err) {
        assert!(matches!(error, Error::Config(_)), "{error}");
        is_one_line(&error);
        let shown = error.to_string();
        let is_data = |piece: &&[u8]| {
            let is_base64 = |byte: &u8| byte.is_ascii_alphanumeric() || b"+/=".contains(byte);
            piece.iter().all(is_base64) && piece.iter().any(u8::is_ascii_lowercase)
        };
        let pieces = key.windows(PIECE).filter(is_data).map(String::from_utf8_lossy);
        pieces.for_each(|piece| assert!(!shown.contains(&*piece), "a part of the key is shown: {shown}"));
    }
}
