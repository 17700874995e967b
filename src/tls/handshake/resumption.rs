//! What both ends have in common: the suites, and the sessions that a client can resume.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustls::client::{ClientSessionStore, Tls12ClientSessionValue, Tls13ClientSessionValue};
use rustls::crypto::CryptoProvider;
use rustls::crypto::ring::cipher_suite as suites;
use rustls::pki_types::ServerName;
use rustls::{NamedGroup, SupportedProtocolVersion, version};

use crate::tls_version::TlsVersion;

/// ring's algorithms. The suites of TLS 1.3 with secrets of 32 bytes come first: each connection takes 32 bytes less with
/// them.
pub(super) fn provider(lowest: TlsVersion) -> Arc<CryptoProvider> {
    let mut cipher_suites = vec![
        suites::TLS13_AES_128_GCM_SHA256,
        suites::TLS13_CHACHA20_POLY1305_SHA256,
        suites::TLS13_AES_256_GCM_SHA384,
    ];
    if lowest == TlsVersion::Tls12 {
        cipher_suites.extend([
            suites::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
            suites::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
            suites::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
            suites::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
            suites::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
            suites::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
        ]);
    }
    Arc::new(CryptoProvider { cipher_suites, ..rustls::crypto::ring::default_provider() })
}

/// The versions that are spoken.
pub(super) fn versions(lowest: TlsVersion, highest: TlsVersion) -> &'static [&'static SupportedProtocolVersion] {
    static ALL: [&SupportedProtocolVersion; 2] = [&version::TLS13, &version::TLS12];
    let first = if highest == TlsVersion::Tls13 { 0 } else { 1 };
    let end = if lowest == TlsVersion::Tls12 { 2 } else { 1 };
    &ALL[first..end]
}

/// Sessions that a shard of a client keeps. A ticket serves one handshake (RFC 8446, appendix C.4), which brings one
/// or two new ones; so as many as there are handshakes at once suffice for any number of connections. Each takes some
/// 1.6 kB, most of it the server's certificates. Those of TLS 1.2 are among them.
const SESSIONS: usize = 1_024;

/// The sessions that a shard of a client can resume. The lock is never contended: only that shard has it.
#[derive(Default)]
pub(super) struct Store(Mutex<Sessions>);

#[derive(Default)]
struct Sessions {
    by_name: HashMap<ServerName<'static>, VecDeque<Tls13ClientSessionValue>>,
    /// The group of each server's keys; of as many servers as there may be sessions.
    groups: HashMap<ServerName<'static>, NamedGroup>,
    /// Sessions in `by_name`.
    count: usize,
    /// Sessions of TLS 1.2, each of which serves any number of handshakes.
    tls12: HashMap<ServerName<'static>, Tls12ClientSessionValue>,
}

impl Sessions {
    fn is_full(&self) -> bool {
        self.count + self.tls12.len() >= SESSIONS
    }
}

impl Store {
    fn sessions(&self) -> MutexGuard<'_, Sessions> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it needs no more sessions.
    pub fn is_full(&self) -> bool {
        self.sessions().is_full()
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Store")
    }
}

impl ClientSessionStore for Store {
    fn set_kx_hint(&self, server_name: ServerName<'static>, group: NamedGroup) {
        let mut sessions = self.sessions();
        if sessions.groups.len() < SESSIONS {
            sessions.groups.insert(server_name, group);
        }
    }

    fn kx_hint(&self, server_name: &ServerName<'_>) -> Option<NamedGroup> {
        self.sessions().groups.get(&server_name.to_owned()).copied()
    }

    fn set_tls12_session(&self, server_name: ServerName<'static>, value: Tls12ClientSessionValue) {
        let mut sessions = self.sessions();
        if !sessions.is_full() || sessions.tls12.contains_key(&server_name) {
            sessions.tls12.insert(server_name, value);
        }
    }

    fn tls12_session(&self, server_name: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.sessions().tls12.get(&server_name.to_owned()).cloned()
    }

    fn remove_tls12_session(&self, server_name: &ServerName<'static>) {
        self.sessions().tls12.remove(server_name);
    }

    fn insert_tls13_ticket(&self, server_name: ServerName<'static>, value: Tls13ClientSessionValue) {
        let mut sessions = self.sessions();
        if !sessions.is_full() {
            sessions.count += 1;
            sessions.by_name.entry(server_name).or_default().push_back(value);
        }
    }

    fn take_tls13_ticket(&self, server_name: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        let mut sessions = self.sessions();
        // The newest one lives longest.
        let value = sessions.by_name.get_mut(server_name)?.pop_back()?;
        sessions.count -= 1;
        Some(value)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{old_ends, shake};
    use super::*;

    /// Sessions of both versions are counted together.
    #[test]
    fn a_store_that_is_full_keeps_no_session_of_tls12() {
        for (others, kept) in [(SESSIONS, 0), (SESSIONS - 1, 1)] {
            let (mut acceptor, connector) = old_ends();
            let store = connector.store().unwrap();
            store.sessions().count = others;
            shake((&mut acceptor, &connector), usize::MAX, |_, _| {}).ok().unwrap();
            assert_eq!(store.sessions().tls12.len(), kept);
            assert!(store.is_full());
        }
    }
}
