//! A histogram that is handed over interval by interval, and whole in the end. Recording costs what
//! it costs in one histogram: only a cut touches both.

use std::time::Duration;

use super::Latency;
use crate::error::Result;

/// What was recorded since the last cut, and all before it.
#[derive(Debug)]
pub struct Recorder {
    before: Latency,
    since: Latency,
}

impl Recorder {
    /// An empty one; twice what a histogram takes.
    pub fn new() -> Result<Recorder> {
        Ok(Recorder { before: Latency::new()?, since: Latency::new()? })
    }

    /// Records one latency.
    pub fn record(&mut self, latency: Duration) {
        self.since.record(latency);
    }

    /// As `Latency::record_with_omitted`.
    pub fn record_with_omitted(&mut self, latency: Duration, service: Duration, interval: Duration) {
        self.since.record_with_omitted(latency, service, interval);
    }

    /// What was recorded since the last cut; `None` if nothing was.
    pub fn cut(&mut self) -> Result<Option<Latency>> {
        if self.since.count() == 0 {
            return Ok(None);
        }
        let piece = std::mem::replace(&mut self.since, Latency::new()?);
        self.before.merge(&piece)?;
        Ok(Some(piece))
    }

    /// Everything that was recorded.
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
        /// However it is cut, the pieces hold everything once, and so does the whole.
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
