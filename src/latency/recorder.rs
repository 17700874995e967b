//! A histogram that can be taken interval by interval, and as a whole in the end. Recording touches one histogram;
//! only a cut touches both.

use std::time::Duration;

use super::Latency;
use crate::error::Result;

/// The latencies recorded since the last cut, and all latencies before it.
#[derive(Debug)]
pub struct Recorder {
    before: Latency,
    since: Latency,
}

impl Recorder {
    /// An empty recorder. It takes twice the memory of a histogram.
    pub fn new() -> Result<Recorder> {
        Ok(Recorder { before: Latency::new()?, since: Latency::new()? })
    }

    /// Records one latency.
    pub fn record(&mut self, latency: Duration) {
        self.since.record(latency);
    }

    /// Takes the latencies recorded since the last cut; `None` if there are none.
    pub fn cut(&mut self) -> Result<Option<Latency>> {
        if self.since.count() == 0 {
            return Ok(None);
        }
        let piece = std::mem::replace(&mut self.since, Latency::new()?);
        self.before.merge(&piece)?;
        Ok(Some(piece))
    }

    /// All recorded latencies.
    pub fn all(&self) -> Result<Latency> {
        let mut all = self.before.clone();
        all.merge(&self.since)?;
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// However often the recorder is cut, the pieces together hold each latency once, and so does the whole.
        #[test]
        fn pieces_make_the_whole(runs in prop::collection::vec(prop::collection::vec(1u64..1_000_000, 0..20), 0..6)) {
            let mut recorder = Recorder::new().unwrap();
            let (mut together, mut pieces) = (Latency::new().unwrap(), Latency::new().unwrap());
            for run in &runs {
                for us in run {
                    recorder.record(Duration::from_micros(*us));
                    together.record(Duration::from_micros(*us));
                }
                prop_assert_eq!(&recorder.all().unwrap().0, &together.0);
                match recorder.cut().unwrap() {
                    Some(piece) => pieces.merge(&piece).unwrap(),
                    None => prop_assert!(run.is_empty()),
                }
            }
            prop_assert_eq!(&pieces.0, &together.0);
            prop_assert_eq!(&recorder.all().unwrap().0, &together.0);
        }
    }
}
