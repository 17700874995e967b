//! How a server's connections speak TLS.

use super::Server;
use crate::error::{Error, Result};
use crate::host::Host;
use crate::plan::share;
use crate::tls::handshake::{Acceptor, TlsConfig};
use crate::tls::layer::{Endpoint, LayerConfig};

/// What the shards of a server with TLS share.
#[derive(Debug)]
pub(super) struct Secured {
    acceptor: Acceptor,
    /// Handshakes at once over all shards, of which each has one at least.
    handshakes: u32,
    settings: TlsConfig,
}

impl Secured {
    /// Reads the certificates of a server with so many shards.
    pub fn new(settings: &TlsConfig, host: &Host, shards: usize) -> Result<Secured> {
        let most = settings.most_handshakes().unwrap_or_else(|| host.handshakes());
        let handshakes = most.max(u32::try_from(shards).unwrap_or(u32::MAX));
        Ok(Secured { acceptor: Acceptor::new(settings)?, handshakes, settings: settings.clone() })
    }

    /// What one of the shards is told.
    pub fn of_shard(&self, index: usize, shards: usize) -> LayerConfig {
        let part = share(self.handshakes.into(), shards as u64, index as u64);
        let endpoint = Endpoint::Server(self.acceptor.clone());
        LayerConfig { timeout: self.settings.timeout(), ..LayerConfig::new(endpoint, (part.end - part.start) as usize) }
    }
}

impl<M> Server<M> {
    /// Reads the files of the certificates and keys again. Connections that are accepted from now on get the new
    /// certificates; no connection is dropped, and sessions from before can be resumed. If one of the files cannot
    /// be used, this fails, and all the certificates from before stay. Only with the feature `tls`, and with
    /// `ServerBuilder::tls`.
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
}

#[cfg(all(test, feature = "cli"))]
mod tests {
    use super::*;
    use crate::cli::demo::certificate;

    /// No shard is without a place for a handshake, and what is told is what all shards have.
    #[test]
    fn each_shard_has_a_handshake_at_least() {
        let (certificate, key) = certificate::make().unwrap();
        for (wanted, shards, most) in [(1, 3, 3), (3, 3, 3), (7, 3, 7)] {
            let settings = TlsConfig::pem(certificate.clone(), key.clone()).handshakes(wanted);
            let secured = Secured::new(&settings, &Host::here(), shards).unwrap();
            let each: Vec<_> = (0..shards).map(|shard| secured.of_shard(shard, shards).most_handshakes).collect();
            assert_eq!((each.iter().sum::<usize>(), secured.handshakes), (most, most as u32), "{each:?}");
            assert!(each.iter().all(|most| *most > 0), "{each:?}");
        }
    }
}
