//! How a server's connections speak TLS.

use super::Server;
use crate::error::{Error, Result};
use crate::host::Host;
use crate::plan::share;
use crate::tls::handshake::{Acceptor, TlsConfig};
use crate::tls::layer::{Endpoint, LONGEST_INCOMPLETE, LayerConfig};

/// What the shards of a server with TLS share.
#[derive(Debug)]
pub(super) struct Secured {
    acceptor: Acceptor,
    /// Handshakes at once over all shards, of which each has one at least.
    handshakes: u32,
    /// Bytes of incomplete records over all shards, each of which has room for one record at least.
    incomplete: u64,
    settings: TlsConfig,
}

impl Secured {
    /// Reads the certificates of a server with so many shards.
    pub fn new(settings: &TlsConfig, host: &Host, shards: usize) -> Result<Secured> {
        let most = settings.most_handshakes().unwrap_or_else(|| host.handshakes());
        let handshakes = most.max(u32::try_from(shards).unwrap_or(u32::MAX));
        let incomplete = settings.most_incomplete().unwrap_or_else(|| host.incomplete_records());
        let incomplete = incomplete.max((shards * LONGEST_INCOMPLETE) as u64);
        Ok(Secured { acceptor: Acceptor::new(settings)?, handshakes, incomplete, settings: settings.clone() })
    }

    /// What one of the shards is told.
    pub fn of_shard(&self, index: usize, shards: usize) -> LayerConfig {
        let part = |all: u64| {
            let part = share(all, shards as u64, index as u64);
            (part.end - part.start) as usize
        };
        let endpoint = Endpoint::Server(self.acceptor.clone());
        LayerConfig {
            timeout: self.settings.timeout(),
            most_incomplete: part(self.incomplete),
            ..LayerConfig::new(endpoint, part(self.handshakes.into()))
        }
    }
}

impl<M> Server<M> {
    /// Reads the files of the certificates and keys again, on the calling thread. Handshakes that begin from now on use
    /// them, no connection is closed, and earlier sessions can be resumed. If one of the files cannot be used, this
    /// fails with [`ConfigError::Tls`](crate::error::ConfigError::Tls) and all earlier certificates stay. Without
    /// `ServerBuilder::tls` it fails with `Error::Bug`. Only with the feature `tls`.
    pub fn reload_certificates(&self) -> Result<()> {
        match &self.tls {
            Some(tls) => tls.acceptor.reload(),
            None => Err(Error::bug("a reload of certificates by a server without TLS")),
        }
    }

    /// Handshakes at once at most, over all shards; `None` without TLS.
    #[doc(hidden)]
    pub fn handshakes(&self) -> Option<u32> {
        self.tls.as_ref().map(|tls| tls.handshakes)
    }

    /// Bytes of incomplete records that are kept at most, over all shards; `None` without TLS.
    #[doc(hidden)]
    pub fn incomplete_records(&self) -> Option<u64> {
        self.tls.as_ref().map(|tls| tls.incomplete)
    }
}

#[cfg(all(test, feature = "cli"))]
mod tests {
    use super::*;
    use crate::cli::demo::certificate;

    /// No shard is without a place for a handshake and for an incomplete record, and what is told is what all shards have.
    #[test]
    fn each_shard_has_room_for_a_handshake_and_a_record_at_least() {
        let (certificate, key) = certificate::make().unwrap();
        for (wanted, shards, most) in [(1, 3, 3), (3, 3, 3), (7, 3, 7)] {
            let records = |count: usize| (count * LONGEST_INCOMPLETE) as u64;
            let settings = TlsConfig::pem(certificate.clone(), key.clone()).handshakes(wanted);
            let settings = settings.incomplete_records(records(wanted as usize));
            let secured = Secured::new(&settings, &Host::here(), shards).unwrap();
            let each: Vec<_> = (0..shards).map(|shard| secured.of_shard(shard, shards)).collect();
            let handshakes: usize = each.iter().map(|layer| layer.most_handshakes).sum();
            assert_eq!((handshakes, secured.handshakes), (most, most as u32), "{each:?}");
            let incomplete: usize = each.iter().map(|layer| layer.most_incomplete).sum();
            assert_eq!((incomplete as u64, secured.incomplete), (records(most), records(most)), "{each:?}");
            let has_room =
                |layer: &LayerConfig| layer.most_handshakes > 0 && layer.most_incomplete >= LONGEST_INCOMPLETE;
            assert!(each.iter().all(has_room), "{each:?}");
        }
    }
}
