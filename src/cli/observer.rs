//! How the commands watch a client run: its events, each with a method of its own that does nothing by default. An observer
//! that passes all of them on to another one overrides [`Observer::take`] instead.

use std::time::Duration;

use crate::client::{Event, Interval, Phase, Planned, Workload};
use crate::error::Result;
use crate::results::{AuditResult, Summary};
use crate::stats::{ProgressSnapshot, WakeCounts};

/// Watches a client run. The methods are told what [`Event`] tells; an error of one of them ends the run.
pub trait Observer {
    fn planned(&mut self, _plan: &Planned, _workload: &Workload) {}
    fn victims_started(&mut self, _pid: u32) {}
    fn began(&mut self, _phase: Phase, _workload: &Workload) {}
    fn progress(&mut self, _phase: Phase, _elapsed: Duration, _shards: &[ProgressSnapshot], _ended: bool) {}
    /// Told before `progress`.
    fn woke(&mut self, _wakes: &[WakeCounts]) {}
    fn suspended(&mut self, _time: Duration) {}
    fn measured(&mut self, _interval: &Interval) -> Result<()> {
        Ok(())
    }
    fn audited(&mut self, _result: &AuditResult) -> Result<()> {
        Ok(())
    }
    fn reported(&mut self, _summary: &Summary) -> Result<()> {
        Ok(())
    }

    /// Takes an event.
    fn take(&mut self, event: &Event, workload: &Workload) -> Result<()> {
        match event {
            Event::Planned(plan) => self.planned(plan, workload),
            Event::VictimsStarted(pid) => self.victims_started(*pid),
            Event::Began(phase) => self.began(*phase, workload),
            Event::Progress { phase, elapsed, shards, wakes, ended } => {
                self.woke(wakes);
                self.progress(*phase, *elapsed, shards, *ended);
            }
            Event::Suspended(time) => self.suspended(*time),
            Event::Measured(interval) => return self.measured(interval),
            Event::Audited(result) => return self.audited(result),
            Event::Reported(summary) => return self.reported(summary),
        }
        Ok(())
    }
}
