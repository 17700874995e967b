//! What one client shard measures, handed over to the leader about once a second.

use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::client::{INTERVAL, Interval};
use crate::error::Result;
use crate::latency::log::Measure;
use crate::latency::{Latency, Recorder};
use crate::results::HandshakeLatencies;

/// The histograms of a shard.
pub struct Measures {
    /// Connects from the intended start.
    pub connect: Recorder,
    /// The same from the actual start.
    pub connect_service: Latency,
    /// Connects with a SYN or ACK sent again.
    pub retransmitted: Recorder,
    /// TLS handshakes, from the end of the connect: those with a certificate, and those that resumed a session. `None`
    /// without TLS.
    pub handshakes: Option<Box<(Recorder, Recorder)>>,
    /// Messages from the intended start, with those that were left out, as they wait for the same answer.
    pub echo: Recorder,
    /// Those that were sent, from the actual start.
    pub echo_service: Latency,
    /// Answers of audits.
    pub audit: Recorder,
    /// When the current interval began.
    since: Instant,
    shard: usize,
    intervals: mpsc::Sender<Interval>,
}

impl Measures {
    /// Those of a shard that has measured nothing. Its intervals go to `intervals`.
    pub fn new(shard: usize, intervals: mpsc::Sender<Interval>) -> Result<Measures> {
        Ok(Measures {
            connect: Recorder::new()?,
            connect_service: Latency::new()?,
            retransmitted: Recorder::new()?,
            handshakes: None,
            echo: Recorder::new()?,
            echo_service: Latency::new()?,
            audit: Recorder::new()?,
            since: Instant::now(),
            shard,
            intervals,
        })
    }

    /// A connect succeeded: `latency` counts from its intended start, `service` from its actual one.
    pub fn connected(&mut self, latency: Duration, service: Duration, again: bool) {
        if again {
            self.retransmitted.record(latency);
        } else {
            self.connect.record(latency);
            self.connect_service.record(service);
        }
    }

    /// Measures TLS handshakes too.
    pub fn measure_handshakes(&mut self) -> Result<()> {
        self.handshakes = Some(Box::new((Recorder::new()?, Recorder::new()?)));
        Ok(())
    }

    /// A TLS handshake took so long.
    #[cfg(feature = "tls")]
    pub fn secured(&mut self, took: Duration, resumed: bool) {
        if let Some((full, resumption)) = self.handshakes.as_deref_mut() {
            if resumed { resumption } else { full }.record(took);
        }
    }

    /// How long TLS handshakes took; `None` without TLS.
    pub fn handshakes(&self) -> Result<Option<HandshakeLatencies>> {
        let Some((full, resumed)) = self.handshakes.as_deref() else { return Ok(None) };
        Ok(Some(HandshakeLatencies { full: full.all()?, resumed: resumed.all()? }))
    }

    /// Ends the interval if it has lasted long enough.
    pub fn look(&mut self, now: Instant) -> Result<()> {
        if now.duration_since(self.since) < INTERVAL { Ok(()) } else { self.cut(now) }
    }

    /// Ends the interval, and hands over what was measured in it, if anything was.
    pub fn cut(&mut self, now: Instant) -> Result<()> {
        let from = std::mem::replace(&mut self.since, now);
        let handshakes = self.handshakes.iter_mut().flat_map(|both| {
            let (full, resumed) = both.as_mut();
            [(Measure::Handshake, full), (Measure::Resumption, resumed)]
        });
        let recorders = [
            (Measure::Connect, &mut self.connect),
            (Measure::Retransmitted, &mut self.retransmitted),
            (Measure::Audit, &mut self.audit),
            (Measure::Echo, &mut self.echo),
        ];
        let mut pieces = Vec::new();
        for (measure, recorder) in recorders.into_iter().chain(handshakes) {
            pieces.extend(recorder.cut()?.map(|latency| (measure, latency)));
        }
        if !pieces.is_empty() {
            // The leader is gone if the run has failed elsewhere.
            let _ = self.intervals.send(Interval { number: self.shard, from, to: now, pieces });
        }
        Ok(())
    }
}
