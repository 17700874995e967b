//! A fan-out that is proved: what each shard knows of the publications under way, and what all shards know together.
//!
//! | part | what it knows |
//! |---|---|
//! | `ledger` | of one shard: which of its subscribers got which publication, how often and when |
//! | `board` | of the run: which publications were said, and when |
//! | `digest` | of the leader: the latencies of all shards, one publication after the other |

mod board;
mod digest;
mod ledger;

pub use board::{Board, Said};
pub use digest::Closed;
pub use ledger::Ledger;

use std::sync::mpsc;
use std::time::Duration;

use super::Interval;
use super::course::Fanout;
use crate::error::Result;
use crate::latency::Latency;
use crate::latency::log::Measure;
use crate::results::FanoutSummary;
use digest::Digest;

/// Bytes that publications under way may take in all, with a bit for each subscriber and a histogram in each shard. At
/// least `FEWEST_UNDER_WAY` may be under way.
const UNDER_WAY_BYTES: u64 = 256 << 20;
const FEWEST_UNDER_WAY: u64 = 16;

/// What the leader of the shards knows of a fan-out.
#[derive(Debug)]
pub struct Leading {
    config: Fanout,
    subscribers: u64,
    /// What all shards know together.
    pub board: std::sync::Arc<Board>,
    /// Where shards hand over what they have closed.
    pub closed: mpsc::Sender<Closed>,
    digest: Digest,
}

impl Leading {
    /// A fan-out that is yet to begin, of that identity.
    pub fn begin(config: Fanout, connections: u64, shards: usize, run: u64) -> Result<Leading> {
        let subscribers = connections.saturating_sub(config.publishers);
        let each = subscribers / 8 + shards as u64 * Latency::BYTES;
        let most = (UNDER_WAY_BYTES / each).max(FEWEST_UNDER_WAY);
        let board = Board::new(run, config.publications, shards, u32::try_from(most).unwrap_or(u32::MAX));
        let (closed, digest) = Digest::begin(shards)?;
        Ok(Leading { config, subscribers, board: board.into(), closed, digest })
    }

    /// Connections that publish.
    pub fn publishers(&self) -> u64 {
        self.config.publishers
    }

    /// Takes in what shards have closed. Returns the receipts of each publication that all have closed: from the instant at
    /// which it was due to its last receipt.
    pub fn look(&mut self) -> Result<Vec<Interval>> {
        let interval = |(number, latency): (u32, Latency)| {
            let Said::At(published) = self.board.said(number) else { return None };
            let from = self.board.origin_if_known()? + published.intended;
            let to = from + Duration::from_micros(latency.max());
            Some(Interval { number: number as usize, from, to, pieces: vec![(Measure::Receipt, latency)] })
        };
        Ok(self.digest.look()?.into_iter().filter_map(interval).collect())
    }

    /// What it came to so far; the shards tell the counts.
    pub fn summary(&self) -> Result<FanoutSummary> {
        let (figures, latency) = self.digest.so_far()?;
        let said = |number| match self.board.said(number) {
            Said::At(published) => Some(published),
            Said::NotYet | Said::Never => None,
        };
        let Fanout { publishers, publications, period, wait, payload } = self.config;
        let published = (0..publications).map(said).collect();
        Ok(FanoutSummary {
            subscribers: self.subscribers,
            publishers,
            period,
            wait,
            payload,
            published,
            figures,
            latency,
        })
    }
}
