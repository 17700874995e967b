//! A client that runs: its events, how to steer it, and what it came to.

use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, SendTimeoutError, Sender};

use super::fleet;
use super::{Interval, Phase, Planned, Workload};
use crate::clock::Clock;
use crate::error::{Error, Result};
use crate::host::{Host, start_thread};
use crate::results::{AuditResult, Summary};
use crate::ring;
use crate::stats::{ProgressSnapshot, WakeCounts};

/// What happens while a client runs.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event {
    /// What was decided for this host. Nothing is started before this event is taken.
    Planned(Planned),
    /// Another process, of this id, opens the victims of a storm that will kill it.
    VictimsStarted(u32),
    /// A phase begins.
    Began(Phase),
    /// How far the client is: about ten times a second, and at the end of each phase.
    Progress {
        /// The phase.
        phase: Phase,
        /// How long it has lasted.
        elapsed: Duration,
        /// How far each shard is. The process of a storm's victims comes last, as a shard.
        shards: Vec<ProgressSnapshot>,
        /// How long the wakes of each shard's connections took so far; empty where none may sleep.
        wakes: Vec<WakeCounts>,
        /// Whether the phase has ended.
        ended: bool,
    },
    /// The process was suspended for this time, and goes on.
    Suspended(Duration),
    /// A shard's measurements of about a second.
    Measured(Interval),
    /// An audit is complete. Every connection that it proved is still open, until the next event is taken.
    Audited(AuditResult),
    /// What the run came to so far, because [`Steering::report`] asked for it. Nothing is closed yet.
    Reported(Box<Summary>),
}

/// A part of a run that has its own course through the phases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// The shard of this number.
    Shard(usize),
    /// The process of a killed storm's victims.
    Victims,
}

/// What the leader of the shards is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Notice {
    /// A part has done what is its own of a phase, and when.
    Done(Part, Phase, Instant),
    /// A part has ended: a shard's thread, or that process.
    Ended(Part),
    /// The owner's request.
    Steer(Steer),
}

/// What the owner of a run may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Steer {
    Audit,
    Report,
    Close,
    Stop,
}

/// Steers a run, from any thread. A run that has ended takes no notice.
#[derive(Debug, Clone)]
pub struct Steering(mpsc::Sender<Notice>);

impl Steering {
    /// Asks for an audit, after what was asked for before. Only a workload on [`Course::Steered`] obeys.
    ///
    /// [`Course::Steered`]: super::Course::Steered
    pub fn audit(&self) {
        self.say(Steer::Audit);
    }

    /// Asks for a report of what was measured so far, as `audit` does.
    pub fn report(&self) {
        self.say(Steer::Report);
    }

    /// Closes the connections, as `audit` does. The run has then done all that was asked of it.
    pub fn close(&self) {
        self.say(Steer::Close);
    }

    /// Stops the run early, on whatever course: it closes its connections and tells what it came to.
    pub fn stop(&self) {
        self.say(Steer::Stop);
    }

    fn say(&self, word: Steer) {
        // The leader is gone when the run has ended.
        let _ = self.0.send(Notice::Steer(word));
    }
}

/// A client that runs on threads of its own.
///
/// The owner takes its events, and the run waits for that: it never is more than one event ahead. So a phase does
/// not begin before the owner has dealt with the result of the last one, and an owner that takes no event holds the
/// run up. Without interest in them, call [`Run::join`] at once.
///
/// Dropping a run stops it, closes its connections, and waits for that.
#[derive(Debug)]
pub struct Run {
    steering: Steering,
    events: Receiver<Event>,
    leader: Option<JoinHandle<Result<Summary>>>,
}

impl Run {
    /// Plans a workload and starts it: nothing is opened before the first event is taken. Fails if the workload
    /// cannot be, or this host lacks what it needs.
    pub fn start(workload: Workload) -> Result<Run> {
        let host = Host::here();
        let planned = workload.plan(&host)?;
        ring::probe()?;
        let (sender, notices) = mpsc::channel();
        let (teller, events) = crossbeam_channel::bounded(0);
        let steering = Steering(sender.clone());
        let lead = move || fleet::lead(&workload, planned, &host, Teller(teller), (sender, notices));
        let leader = Some(start_thread("c1m-client", lead)?);
        Ok(Run { steering, events, leader })
    }

    /// The events, as they happen; the last one is followed by the end of the run.
    pub fn events(&self) -> impl Iterator<Item = Event> + '_ {
        self.events.iter()
    }

    /// A handle that steers the run.
    pub fn steering(&self) -> Steering {
        self.steering.clone()
    }

    /// Waits for the end of the run, and tells what it came to. Events that were not taken are dropped.
    ///
    /// Fails if the host refused something in the middle of the run, or a shard ended by a bug of ours.
    pub fn join(mut self) -> Result<Summary> {
        self.end().unwrap_or_else(|| Err(Error::bug("a run was waited for twice")))
    }

    /// Waits for the leader's thread, if it was not joined before.
    fn end(&mut self) -> Option<Result<Summary>> {
        // Without a receiver the leader does not wait for its events to be taken.
        drop(std::mem::replace(&mut self.events, crossbeam_channel::never()));
        let joined = self.leader.take()?.join();
        Some(joined.unwrap_or_else(|_| Err(Error::bug("the thread that leads a client's shards panicked"))))
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        self.steering.stop();
        // The owner has no interest in the result.
        let _ = self.end();
    }
}

/// How long the leader waits for its owner before it looks at its clock again.
const TELLING: Duration = Duration::from_millis(100);

/// Tells the owner of a run what happens.
#[derive(Debug)]
pub(super) struct Teller(Sender<Event>);

impl Teller {
    /// Waits until the owner takes the event, or has no more interest in events. The leader's clock looks meanwhile: an
    /// owner that is late suspends nothing, and a process that is stopped while its leader waits here was suspended.
    pub fn tell(&self, mut event: Event, clock: &mut Clock) {
        let untaken = |event| match self.0.send_timeout(event, TELLING) {
            Err(SendTimeoutError::Timeout(event)) => Some(event),
            Ok(()) | Err(SendTimeoutError::Disconnected(_)) => None,
        };
        while let Some(again) = clock.wait(TELLING, || untaken(event)) {
            event = again;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The owner of a run is longer with an event than a suspension lasts at least.
    #[test]
    fn an_owner_that_is_late_suspends_nothing() {
        let (sender, events) = crossbeam_channel::bounded(0);
        let mut clock = Clock::begin(Instant::now());
        std::thread::scope(|scope| {
            scope.spawn(|| {
                // The time itself is under test: nothing happens in it that the test could wait for.
                std::thread::sleep(Duration::from_millis(1_500));
                assert!(matches!(events.recv(), Ok(Event::VictimsStarted(1))));
            });
            Teller(sender).tell(Event::VictimsStarted(1), &mut clock);
        });
        assert_eq!(clock.suspended().times, 0);
    }
}
