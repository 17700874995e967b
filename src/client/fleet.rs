//! Leads the shards of a client through the phases of its course, on a thread of its own.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use super::driver::{FanoutPart, ShardConfig};
use super::fanout::Leading;
use super::hibernation::Hibernation;
use super::ports::{Ports, Way, random_seed};
use super::run::{Event, Notice, Part, Steer, Teller};
use super::sampler::Sampler;
use super::victims::{PATIENCE, Victims};
use super::{Course, Fanout, LONGEST_SEND, Phase, Planned, Scenario, Storm, Workload};
use crate::clock::Clock;
use crate::connections::ConnectionsConfig;
use crate::constants::{THREADS_PER_PROCESS, THREADS_PER_SHARD};
use crate::error::{Error, Result};
use crate::failure::Causes;
use crate::host::{CpuTime, Host, NetCounters, check_threads};
use crate::plan::share;
use crate::results::{About, AuditResult, HibernationDocument, ShardSummary, StageCost, StormSummary, Summary};
use crate::shard::{self, ShardHandle, ShardThread};
use crate::stats::{Progress, ProgressSnapshot};
#[cfg(feature = "tls")]
use crate::tls::layer::{Endpoint, LayerConfig};
use crate::walls::{self, Evidence, EvidenceRecorder};

/// Bytes that a protocol may answer to what it was not asked for, such as pings, while a message waits too.
const REPLIES: usize = 4_096;

/// How often the owner is told of progress, and how often while a hold makes none: each time wakes two threads.
const TICK: Duration = Duration::from_millis(100);
const SELDOM_TICK: Duration = Duration::from_secs(1);

/// Both ends of the channel by which the leader is told what shards have done and what the owner wants.
pub(super) type Notices = (mpsc::Sender<Notice>, mpsc::Receiver<Notice>);

/// Runs a planned workload to its end.
pub(super) fn lead(
    workload: &Workload,
    planned: Planned,
    host: &Host,
    teller: Teller,
    notices: Notices,
) -> Result<Summary> {
    teller.tell(Event::Planned(planned.clone()), &mut Clock::begin(Instant::now()));
    // Only now has the owner started the threads that it needs itself.
    let of_shards = THREADS_PER_SHARD * planned.cores.len() as u64;
    // A thread follows the victims' process, which has as many shards as this one.
    let of_victims = workload.victims.as_ref().map_or(0, |_| 1 + THREADS_PER_PROCESS + of_shards);
    check_threads(of_shards + of_victims)?;
    let evidence = EvidenceRecorder::begin_to(host, &workload.routes);
    let mut fleet = Fleet::launch(workload, &planned, evidence, teller, notices)?;
    if let Some(victims) = &fleet.victims {
        let started = Event::VictimsStarted(victims.pid());
        fleet.tell(started);
    }
    let summary = fleet.lead(workload);
    fleet.command(Phase::Quit);
    let evidence = fleet.evidence.evidence(Causes::new());
    // A shard's own error says more than what its end looked like from here.
    let mut shards = fleet.join()?;
    let mut summary = summary?;
    fleet.take_in_intervals();
    summary.timeline = fleet.sampler.timeline;
    if let Some(victims) = &fleet.victims {
        shards.extend(victims.summary()?);
    }
    conclude(&mut summary, shards, evidence);
    Ok(summary)
}

/// Adds to a summary what its shards measured and what the host went through meanwhile.
fn conclude(summary: &mut Summary, shards: Vec<ShardSummary>, mut evidence: Evidence) {
    summary.shards = shards;
    evidence.causes = summary.causes();
    summary.walls = walls::explain(&evidence);
    summary.counters = evidence.moved;
}

/// What a shard measured so far, and the shard's number.
type Measured = (usize, ShardSummary);

/// A shard that runs: how to command it, how far it is, and its end.
type Runner = (ShardHandle, Arc<Progress>, ShardThread<Result<ShardSummary>>);

fn snapshots(shards: &[Runner]) -> impl Iterator<Item = ProgressSnapshot> + '_ {
    shards.iter().map(|(_, progress, _)| progress.snapshot())
}

/// The shards of a running client, and where they are led.
struct Fleet {
    shards: Vec<Runner>,
    /// The process of the victims, if the storm kills one.
    victims: Option<Victims>,
    evidence: EvidenceRecorder,
    sampler: Sampler,
    /// The leader's own clock, which tells when the process was suspended.
    clock: Clock,
    /// How much time of suspensions the owner was told of.
    suspensions_told: Duration,
    teller: Teller,
    notices: mpsc::Receiver<Notice>,
    course: Course,
    /// Commands that the shards were given.
    commands: u32,
    /// The phases to come after this one.
    ahead: VecDeque<Phase>,
    /// Audits that the owner has asked for.
    rounds: u32,
    stopping: bool,
    /// What all shards of a fan-out know together.
    fanout: Option<Leading>,
    /// How connections sleep; it must live as long as they do.
    hibernation: Option<Hibernation>,
    /// Both ends of the channel by which shards tell what they measured so far.
    measured: (mpsc::Sender<Measured>, mpsc::Receiver<Measured>),
}

impl Fleet {
    fn launch(
        workload: &Workload,
        planned: &Planned,
        evidence: EvidenceRecorder,
        teller: Teller,
        (sender, notices): Notices,
    ) -> Result<Fleet> {
        let (course, ahead) = (workload.course, workload.course.phases(workload.audit));
        let mut fleet = Fleet {
            shards: Vec::new(),
            victims: None,
            evidence,
            sampler: Sampler::begin(workload.server_pid),
            clock: Clock::begin(Instant::now()),
            suspensions_told: Duration::ZERO,
            teller,
            notices,
            course,
            commands: 0,
            ahead,
            rounds: 0,
            stopping: false,
            fanout: None,
            hibernation: None,
            measured: mpsc::channel(),
        };
        match fleet.start(workload, planned, &sender) {
            Ok(()) => Ok(fleet),
            Err(error) => {
                // A shard that failed says more than what its end looked like from here.
                fleet.command(Phase::Quit);
                Err(fleet.join().err().unwrap_or(error))
            }
        }
    }

    fn start(&mut self, workload: &Workload, planned: &Planned, sender: &mpsc::Sender<Notice>) -> Result<()> {
        // What a start takes, such as the memory of a table, is no suspension.
        self.clock.sleep(None);
        let workload = Arc::new(workload.clone());
        let shards = planned.cores.len() as u64;
        let (first, seed) = (workload.first_number, workload.source_port_seed.unwrap_or_else(random_seed));
        let numbers = first..first + workload.connections;
        let ports = Arc::new(Ports::new(&planned.source_ports, &workload.routes, numbers, seed, Way::here()));
        self.hibernation = Hibernation::of(&workload, planned)?;
        let begin = |fanout: &Fanout| Leading::begin(*fanout, workload.connections, planned.cores.len(), random_seed());
        self.fanout = workload.course.fanout().map(begin).transpose()?;
        #[cfg(feature = "tls")]
        let most_incomplete = (Host::here().incomplete_records() / shards) as usize;
        for (index, core) in planned.cores.iter().enumerate() {
            let part = share(workload.own_connections(), shards, index as u64);
            let window = share(u64::from(planned.concurrency), shards, index as u64);
            let progress = Arc::new(Progress::default());
            let shard_config = ShardConfig {
                index,
                core: *core,
                shards,
                numbers: first + part.start..first + part.end,
                concurrency: (window.end - window.start).max(1) as usize,
                workload: workload.clone(),
                fanout: self.fanout.as_ref().map(|fanout| FanoutPart::new(&workload, (index as u64, shards), fanout)),
                ports: ports.clone(),
                progress: progress.clone(),
                notices: sender.clone(),
                measured: self.measured.0.clone(),
                intervals: self.sampler.sender(),
            };
            let handle = ShardHandle::new()?;
            let rings = planned.goal(&workload).rings(workload.own_connections(), index as u64);
            let hibernation = self.hibernation.as_ref();
            let hibernation = hibernation.map(|sleep| sleep.of_shard(&handle, index, part.end - part.start, &rings));
            let connections = ConnectionsConfig {
                hibernation: hibernation.transpose()?,
                drain_after_reset: true,
                max_pending: LONGEST_SEND.max(workload.protocol.longest_send()) + REPLIES,
                #[cfg(feature = "tls")]
                tls: workload.tls.as_ref().zip(planned.connector.as_ref()).map(|(tls, connector)| LayerConfig {
                    timeout: tls.handshake_timeout,
                    most_incomplete,
                    // The connects in flight are bounded, and their handshakes with them.
                    ..LayerConfig::new(Endpoint::Client(connector.for_shard()), usize::MAX)
                }),
                ..ConnectionsConfig::new(rings, u64::MAX)
            };
            let name = format!("c1m-client-{index}");
            let running = shard::spawn(
                &name,
                *core,
                handle.clone(),
                connections,
                move |connections| shard_config.begin(connections),
                |driver| driver.measured(),
            )?;
            self.shards.push((handle, progress, running));
        }
        if let Some(command) = &workload.victims {
            self.victims = Some(Victims::start(command, workload.elsewhere(), sender.clone())?);
        }
        Ok(())
    }

    fn command(&mut self, phase: Phase) {
        self.commands = self.commands.wrapping_add(1);
        for (handle, ..) in &self.shards {
            handle.command(phase.command(self.commands));
        }
    }

    fn progress(&self) -> Vec<ProgressSnapshot> {
        snapshots(&self.shards).chain(self.victims.as_ref().map(Victims::progress)).collect()
    }

    /// Looks at what happens while a phase goes on. `is_quiet`: the shards' progress is that of the last look.
    fn look(&mut self, progress: &[ProgressSnapshot], is_quiet: bool) -> Result<()> {
        self.evidence.look(is_quiet);
        self.sampler.look(progress.iter().copied());
        self.take_in_intervals();
        self.take_in_receipts()
    }

    /// Takes in the publications of a fan-out that all shards have closed, and tells the owner.
    fn take_in_receipts(&mut self) -> Result<()> {
        // The receipts of a million subscribers take their time, which is no suspension.
        self.clock.sleep(None);
        for interval in self.fanout.as_mut().map_or_else(|| Ok(Vec::new()), Leading::look)? {
            self.tell(Event::Measured(interval));
        }
        Ok(())
    }

    /// Takes in what shards have measured in their last intervals, and tells the owner.
    fn take_in_intervals(&mut self) {
        while let Some(interval) = self.sampler.next_interval() {
            self.tell(Event::Measured(interval));
        }
    }

    /// Tells the owner what came of the run so far: every shard has just told.
    fn report(&mut self, summary: &mut Summary) -> Result<()> {
        let mut parts: Vec<_> = self.measured.1.try_iter().collect();
        parts.sort_by_key(|(shard, _)| *shard);
        let shards = parts.into_iter().map(|(_, measured)| measured).collect();
        self.take_in_intervals();
        summary.suspended = self.clock.suspended();
        summary.timeline = self.sampler.timeline.clone();
        summary.hibernation = self.hibernation()?;
        let mut so_far = summary.clone();
        conclude(&mut so_far, shards, self.evidence.evidence(Causes::new()));
        self.tell(Event::Reported(Box::new(so_far)));
        Ok(())
    }

    /// What became of sleeping connections so far; `None` where none may sleep.
    fn hibernation(&self) -> Result<Option<HibernationDocument>> {
        let handles = || self.shards.iter().map(|(handle, ..)| handle);
        let counted = || HibernationDocument::of(&handles().map(|handle| handle.counters().snapshot()).sum());
        let told = || counted().with_wakes(handles().map(|handle| handle.wakes().read()));
        self.hibernation.is_some().then(told).transpose()
    }

    fn join(&mut self) -> Result<Vec<ShardSummary>> {
        let shards = std::mem::take(&mut self.shards);
        // All of them end, whichever failed.
        let joined: Vec<_> = shards.into_iter().map(|(.., running)| running.join()).collect();
        joined.into_iter().map(|joined| joined.and_then(|summary| summary)).collect()
    }

    /// A summary of a run that has only begun.
    fn summary(&self, workload: &Workload) -> Summary {
        Summary {
            requested: workload.connections,
            protocol: workload.protocol.name(),
            proof: workload.proof(),
            target: workload.target(),
            shards: Vec::new(),
            audits: Vec::new(),
            counters: NetCounters::new(),
            walls: Vec::new(),
            ramp: Duration::ZERO,
            ramped: 0,
            close: Duration::ZERO,
            paced: workload.rate.is_some(),
            stopped: false,
            suspended: self.clock.suspended(),
            storm: workload.course.storm().map(storm_summary),
            fanout: None,
            hibernation: None,
            timeline: self.sampler.timeline.clone(),
            about: About::here(),
        }
    }

    /// Takes the shards through all phases; shards' results are filled in later.
    fn lead(&mut self, workload: &Workload) -> Result<Summary> {
        let mut summary = self.summary(workload);
        let (ramp, after_ramp) = self.phase(Phase::Ramp)?;
        summary.ramp = ramp;
        summary.ramped = after_ramp.live;
        if summary.ramped == 0 {
            self.close_next();
        }
        loop {
            let phase = self.ahead.pop_front().unwrap_or(Phase::Hold);
            if phase == Phase::Close {
                break;
            }
            if let (Phase::Storm, Some(victims)) = (phase, &mut self.victims) {
                // The answer of another process may take as long as it does.
                self.clock.sleep(None);
                victims.report(PATIENCE)?;
            }
            let spent = server_cpu(workload);
            let live = self.progress().iter().map(|shard| shard.live).sum();
            let (elapsed, progress) = self.phase(phase)?;
            if let (Some(storm), Some(stage)) = (&mut summary.storm, phase.stage()) {
                let server_cpu = spent.zip(server_cpu(workload)).and_then(|(before, now)| now.since(before));
                storm.costs[stage as usize] = StageCost { seconds: elapsed.as_secs_f64(), server_cpu };
            }
            match phase {
                _ if self.stopping => {}
                Phase::Audit(round) => {
                    let ProgressSnapshot { audited, lost, wrong, .. } = progress;
                    let drawn_from = workload.audit_sample.map(|_| live);
                    let result = AuditResult { round, live: audited, lost, wrong, drawn_from };
                    summary.audits.push(result);
                    self.tell(Event::Audited(result));
                }
                Phase::Report => self.report(&mut summary)?,
                _ => {}
            }
        }
        summary.stopped = self.stopping;
        self.evidence.dialed();
        summary.hibernation = self.hibernation()?;
        summary.close = self.phase(Phase::Close)?.0;
        // By now every shard has handed over what was still under way.
        self.take_in_receipts()?;
        summary.fanout = self.fanout.as_ref().map(Leading::summary).transpose()?;
        self.tell_suspensions();
        summary.suspended = self.clock.suspended();
        Ok(summary)
    }

    /// Whatever was ahead is not any more.
    fn close_next(&mut self) {
        self.ahead = VecDeque::from([Phase::Close]);
    }

    /// The owner asks for something. A steered course obeys after what is ahead; the others keep to their phases,
    /// unless they are to stop.
    fn steer(&mut self, word: Steer) {
        let phase = match word {
            Steer::Audit => {
                self.rounds += 1;
                Phase::Audit(self.rounds)
            }
            Steer::Report => Phase::Report,
            Steer::Close => Phase::Close,
            Steer::Stop => {
                self.stopping = true;
                return self.close_next();
            }
        };
        if self.course == Course::Steered {
            self.ahead.push_back(phase);
        }
    }

    /// How much longer to hold after a hold of `elapsed`.
    fn hold_left(&self, elapsed: Duration) -> Duration {
        match self.course {
            Course::Fixed(hold) => hold.saturating_sub(elapsed),
            Course::Steered if self.ahead.is_empty() => Duration::MAX,
            Course::Steered | Course::Storm(_) | Course::Fanout(_) => Duration::ZERO,
        }
    }

    /// Waits until the owner takes the event.
    fn tell(&mut self, event: Event) {
        self.teller.tell(event, &mut self.clock);
    }

    /// Waits for a notice, and tells the owner if the process was suspended since the last one.
    fn hear(&mut self, patience: Duration) -> std::result::Result<Notice, RecvTimeoutError> {
        let heard = self.clock.wait(patience, || self.notices.recv_timeout(patience));
        self.tell_suspensions();
        heard
    }

    /// Tells the owner for how long the process was suspended, as far as the owner does not know it.
    fn tell_suspensions(&mut self) {
        let suspended = self.clock.suspended().time;
        let time = suspended.saturating_sub(std::mem::replace(&mut self.suspensions_told, suspended));
        if !time.is_zero() {
            self.tell(Event::Suspended(time));
        }
    }

    /// One phase on every shard. Returns how long it took and the counts at its end. Neither the time that the owner takes
    /// for its beginning nor the time that this thread takes to hear of its end is part of it.
    fn phase(&mut self, phase: Phase) -> Result<(Duration, ProgressSnapshot)> {
        self.tell(Event::Began(phase));
        let start = Instant::now();
        // The process may have been suspended before.
        self.clock.look(start);
        let begun = self.clock.start(start);
        self.command(phase);
        // What the shards do now; a hold ends with another command.
        let (mut asked, mut waiting, mut ended) = (phase, self.shards.len(), start);
        let mut victims_due = self.victims.as_mut().is_some_and(|victims| victims.begin(phase));
        let (mut told, mut is_quiet) = (Vec::new(), false);
        while waiting > 0 || victims_due {
            let tick = if is_quiet && asked == Phase::Hold { SELDOM_TICK } else { TICK };
            let mut patience = tick;
            if asked == Phase::Hold {
                patience = self.hold_left(self.clock.begun(begun).elapsed()).min(tick);
                if patience.is_zero() {
                    asked = Phase::Settle;
                    self.command(asked);
                }
            }
            match self.hear(patience) {
                Ok(Notice::Done(Part::Victims, done, at)) => {
                    victims_due &= done != phase;
                    ended = ended.max(at);
                }
                Ok(Notice::Ended(Part::Victims)) => {
                    self.victims.as_mut().map_or(Ok(()), |victims| victims.ended(phase))?;
                    (victims_due, ended) = (false, Instant::now());
                }
                Ok(Notice::Done(_, done, at)) if done == asked => (waiting, ended) = (waiting - 1, ended.max(at)),
                Ok(Notice::Done(..)) => {}
                Ok(Notice::Ended(Part::Shard(index))) => {
                    return Err(Error::bug(format!("client shard {index} ended in the {} phase", phase.name())));
                }
                Ok(Notice::Steer(word)) => {
                    self.steer(word);
                    if word == Steer::Stop && phase != Phase::Close {
                        ended = Instant::now();
                        break;
                    }
                }
                // A hold is over, and its end is shown in a moment.
                Err(RecvTimeoutError::Timeout) if patience < tick => {}
                Err(RecvTimeoutError::Timeout) => {
                    let now = self.progress();
                    is_quiet = now == told;
                    self.look(&now, is_quiet)?;
                    told.clone_from(&now);
                    self.tell_progress(phase, start.elapsed(), now, false);
                }
                Err(RecvTimeoutError::Disconnected) => return Err(Error::bug("every client shard is gone")),
            }
        }
        let (elapsed, shards) = (ended.saturating_duration_since(start), self.progress());
        self.sampler.ended(phase, (start, ended), shards.iter().copied());
        let sum = shards.iter().copied().sum();
        self.tell_progress(phase, elapsed, shards, true);
        Ok((elapsed, sum))
    }

    fn tell_progress(&mut self, phase: Phase, elapsed: Duration, shards: Vec<ProgressSnapshot>, ended: bool) {
        let sleepers = self.shards.iter().filter(|_| self.hibernation.is_some());
        let wakes = sleepers.map(|(handle, ..)| handle.wakes().read()).collect();
        self.tell(Event::Progress { phase, elapsed, shards, wakes, ended });
    }
}

fn storm_summary(storm: &Storm) -> StormSummary {
    StormSummary {
        scenario: storm.scenario.name(),
        victims: storm.victims,
        is_closing: matches!(storm.scenario, Scenario::Disconnect | Scenario::Reconnect),
        costs: Default::default(),
    }
}

/// Processor time that the server of a storm has spent so far; `None` if it is not known, or has ended.
fn server_cpu(workload: &Workload) -> Option<CpuTime> {
    Host::here().cpu_time(workload.server_pid?)
}
