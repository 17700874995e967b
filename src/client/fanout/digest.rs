//! The latencies of a fan-out over all shards. Of a publication that all shards have closed, its figures are kept alone.

use std::collections::BTreeMap;
use std::sync::mpsc;

use crate::error::Result;
use crate::latency::{Latency, Percentiles};

/// A shard has closed a publication.
#[derive(Debug)]
pub struct Closed {
    /// Which one.
    pub number: u32,
    /// The latencies of its subscribers' receipts, if there were any.
    pub latency: Option<Latency>,
}

/// Merges what shards hand over.
#[derive(Debug)]
pub struct Digest {
    shards: usize,
    handed_over: mpsc::Receiver<Closed>,
    /// Publications that some shards have closed, and how many.
    partial: BTreeMap<u32, (usize, Option<Latency>)>,
    /// The percentiles of all others, in microseconds.
    figures: BTreeMap<u32, Percentiles>,
    all: Latency,
}

impl Digest {
    /// A digest of so many shards, and where they hand over what they have closed.
    pub fn begin(shards: usize) -> Result<(mpsc::Sender<Closed>, Digest)> {
        let (sender, handed_over) = mpsc::channel();
        let (partial, figures, all) = (BTreeMap::new(), BTreeMap::new(), Latency::new()?);
        Ok((sender, Digest { shards, handed_over, partial, figures, all }))
    }

    /// Takes what was handed over. Returns the latencies of the publications that all shards have closed by that.
    pub fn look(&mut self) -> Result<Vec<(u32, Latency)>> {
        let mut whole = Vec::new();
        while let Ok(Closed { number, latency }) = self.handed_over.try_recv() {
            let (shards, merged) = self.partial.entry(number).or_default();
            *shards += 1;
            match (&mut *merged, latency) {
                (Some(merged), Some(latency)) => merged.merge(&latency)?,
                (none, Some(latency)) => *none = Some(latency),
                (_, None) => {}
            }
            if *shards == self.shards {
                let merged = merged.take();
                self.partial.remove(&number);
                let Some(latency) = merged else { continue };
                self.all.merge(&latency)?;
                self.figures.insert(number, latency.percentiles());
                whole.push((number, latency));
            }
        }
        Ok(whole)
    }

    /// The percentiles of each publication that a subscriber received, and all latencies together. Of a publication that not
    /// every shard has closed, as in a run that was stopped, it has what the others have handed over.
    pub fn so_far(&self) -> Result<(BTreeMap<u32, Percentiles>, Latency)> {
        let (mut figures, mut all) = (self.figures.clone(), self.all.clone());
        for (number, (_, latency)) in &self.partial {
            let Some(latency) = latency else { continue };
            all.merge(latency)?;
            figures.insert(*number, latency.percentiles());
        }
        Ok((figures, all))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn latency(us: &[u64]) -> Option<Latency> {
        let mut latency = Latency::new().unwrap();
        us.iter().for_each(|us| latency.record(Duration::from_micros(*us)));
        Some(latency)
    }

    #[test]
    fn publications_are_merged_over_shards_and_then_forgotten() {
        let (sender, mut digest) = Digest::begin(2).unwrap();
        let parts = [(1, latency(&[5])), (0, latency(&[1, 2])), (0, latency(&[900])), (2, None), (2, None)];
        for (number, latency) in parts {
            sender.send(Closed { number, latency }).unwrap();
        }
        let whole: Vec<(u32, u64)> =
            digest.look().unwrap().into_iter().map(|(number, latency)| (number, latency.count())).collect();
        assert_eq!(whole, [(0, 3)]);
        assert_eq!(digest.partial.keys().collect::<Vec<_>>(), [&1]);
        let (figures, all) = digest.so_far().unwrap();
        assert_eq!(figures.keys().collect::<Vec<_>>(), [&0, &1]);
        assert_eq!((figures[&0][0], figures[&0][4], figures[&1][2]), (2, 900, 5));
        assert_eq!((all.count(), all.max()), (4, 900));
    }
}
