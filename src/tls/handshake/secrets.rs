//! How the traffic secrets of a handshake are had: rustls gives them to a key log, which is meant for files that packet
//! analysers read. Ours keeps them for the caller, on its thread, and nowhere else.

use std::cell::RefCell;
use std::fmt;

use rustls::KeyLog;
use zeroize::Zeroize;

/// Bytes of the longest traffic secret, that of SHA-384.
const LONGEST: usize = 48;

/// A traffic secret, overwritten when it is dropped.
pub struct Secret {
    bytes: [u8; LONGEST],
    len: usize,
}

impl Secret {
    /// `None` if it is longer than any suite's.
    pub(super) fn new(secret: &[u8]) -> Option<Secret> {
        let mut bytes = [0; LONGEST];
        bytes.get_mut(..secret.len())?.copy_from_slice(secret);
        Some(Secret { bytes, len: secret.len() })
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        self.bytes.zeroize();
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// The first traffic secrets of a connection, as far as they are known.
#[derive(Debug, Default)]
pub(super) struct Secrets {
    pub client: Option<Secret>,
    pub server: Option<Secret>,
}

impl Secrets {
    /// Adds what was caught since the last call.
    pub fn take_caught(&mut self) {
        CAUGHT.with_borrow_mut(|caught| {
            self.client = caught.client.take().or(self.client.take());
            self.server = caught.server.take().or(self.server.take());
        });
    }
}

thread_local! {
    /// The secrets of the handshake that this thread has in hand. Between two calls of rustls there are none.
    static CAUGHT: RefCell<Secrets> = const { RefCell::new(Secrets { client: None, server: None }) };
}

/// The key log that catches the secrets. rustls calls it within the call that derives them.
#[derive(Debug)]
pub(super) struct Catch;

impl KeyLog for Catch {
    fn log(&self, label: &str, _client_random: &[u8], secret: &[u8]) {
        CAUGHT.with_borrow_mut(|caught| match label {
            "CLIENT_TRAFFIC_SECRET_0" => caught.client = Secret::new(secret),
            "SERVER_TRAFFIC_SECRET_0" => caught.server = Secret::new(secret),
            _ => {}
        });
    }
}
