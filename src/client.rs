//! The client: plan, ramp, then audits and messages as its course says, close, summary. This file
//! leads the shards through the phases; `client/driver.rs` is what one shard does.

mod course;
mod driver;
pub(crate) mod message;
mod ports;
mod sampler;
mod self_connect;
mod victims;
mod window;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use crate::clock::Clock;
use crate::connections::{CloseMode, ConnectionsConfig};
use crate::constants::{MAX_PAYLOAD_BYTES, THREADS_PER_SHARD};
use crate::error::{ConfigError, Error, Result, ShardsOf};
use crate::failure::Causes;
use crate::host::{Cores, Host, NetCounters, Raised, SourcePorts, check_threads, raise_limits};
use crate::plan::{self, Routes, share};
use crate::results::{About, AuditResult, ShardSummary, StageCost, StormSummary, Summary};
use crate::ring;
use crate::shard::{self, ShardHandle, ShardThread};
use crate::stats::{Progress, ProgressSnapshot};
use crate::walls::{self, Evidence, EvidenceRecorder};

use driver::ShardConfig;
use ports::{Ports, Way};
use sampler::{INTERVAL, Sampler};
use victims::Victims;

pub use course::{Audit, Course, Phase, Scenario, Storm};
pub use sampler::Interval;
pub use victims::VictimsCommand;

/// What a client shall do.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where to, and from where.
    pub routes: Routes,
    /// Connections to open.
    pub connections: u64,
    /// Cores to use, one shard each.
    pub cores: Cores,
    /// Connects started per second, in all; `None` is as fast as `concurrency` allows.
    pub rate: Option<f64>,
    /// Connects, and messages of an audit, in flight in all.
    pub concurrency: u32,
    /// How long a connect may take.
    pub connect_timeout: Duration,
    /// How long an echo may take.
    pub reply_timeout: Duration,
    /// What to do with the connections.
    pub course: Course,
    /// How often each connection sends a message while held; `None` is never.
    pub interval: Option<Duration>,
    /// Bytes of such a message.
    pub payload: usize,
    /// What proves a connection.
    pub audit: Audit,
    /// How to close in the end.
    pub close: CloseMode,
    /// Connections closed per second, in all; `None` is as fast as it goes.
    pub close_rate: Option<f64>,
    /// Sent on each new connection, `{}` replaced by its number; empty sends nothing.
    pub hello: String,
    /// The server's process, if it is on this host: its memory and processor time are reported.
    pub server_pid: Option<u32>,
    /// How to start the process of a killed storm's victims; no other course has one.
    pub victims: Option<VictimsCommand>,
}

impl Options {
    /// Connections that another process opens, to be killed in the storm.
    fn elsewhere(&self) -> u64 {
        self.course.storm().filter(|storm| storm.scenario.is_killed()).map_or(0, |storm| storm.victims)
    }

    /// Connections that the shards of this process open.
    fn own_connections(&self) -> u64 {
        self.connections.saturating_sub(self.elsewhere())
    }
}

/// Something a running client tells its owner, or the owner the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notice {
    /// A shard has done its part of a phase; the process of a killed storm's victims counts as the shard after the
    /// last.
    Done(usize, Phase),
    /// A shard's thread ended, or that process.
    ShardEnded(usize),
    /// Sent by the owner of a steered client: an audit, after what was sent for before.
    Audit,
    /// Sent by the owner of a steered client: tell what was measured so far, after what was sent for
    /// before.
    Report,
    /// Sent by the owner of a steered client: close, after what was sent for before. It has then
    /// done all that was asked.
    Close,
    /// Sent by the owner: stop early, close, and report what was.
    Stop,
}

/// Watches a client run.
pub trait Observer {
    /// The client is about to start, with this on its host.
    fn planned(&mut self, _plan: &Planned, _options: &Options) {}
    /// Another process opens the victims of a storm that will kill it.
    fn victims_started(&mut self, _pid: u32) {}
    /// A phase begins.
    fn began(&mut self, _phase: Phase, _options: &Options) {}
    /// About ten times a second, and at the end of each phase: how far each shard is.
    fn progress(&mut self, _phase: Phase, _elapsed: Duration, _shards: &[ProgressSnapshot], _ended: bool) {}
    /// An audit is complete, and every connection still stands. An error ends the run.
    fn audited(&mut self, _result: &AuditResult) -> Result<()> {
        Ok(())
    }
    /// The process was suspended for so long, and goes on.
    fn suspended(&mut self, _time: Duration) {}
    /// A shard measured something, about a second long. An error ends the run.
    fn measured(&mut self, _interval: &Interval) -> Result<()> {
        Ok(())
    }
    /// What the run came to so far, as the owner of a steered client asked; nothing is closed yet.
    /// An error ends the run.
    fn reported(&mut self, _summary: &Summary) -> Result<()> {
        Ok(())
    }
}

/// What was found and decided before the first connect.
#[derive(Debug, Clone)]
pub struct Planned {
    /// Cores, one shard each.
    pub cores: Vec<usize>,
    /// Limits found and raised.
    pub raised: Raised,
    /// Connects in flight in all, as far as the descriptor limit allows.
    pub concurrency: u32,
    /// Source ports of each (source, target, port).
    pub source_ports: SourcePorts,
}

/// How often the observer sees progress.
const TICK: Duration = Duration::from_millis(100);

/// Runs a client from plan to close. `notices` is the receiving end of `sender`; through a clone of
/// it the owner may send `Notice::Stop`, and steer a client whose course is `Course::Steered` with
/// `Notice::Audit`, `Notice::Report` and `Notice::Close`, all from the start on.
pub fn run(
    options: &Options,
    observer: &mut dyn Observer,
    (sender, notices): (mpsc::Sender<Notice>, mpsc::Receiver<Notice>),
) -> Result<Summary> {
    let host = Host::here();
    let planned = plan(options, &host)?;
    ring::probe()?;
    check_threads(THREADS_PER_SHARD * planned.cores.len() as u64)?;
    observer.planned(&planned, options);
    let watch = EvidenceRecorder::begin_to(&host, &options.routes.targets);
    let mut fleet = Fleet::launch(options, &planned, watch, &sender, notices)?;
    fleet.victims.iter().for_each(|victims| observer.victims_started(victims.pid()));
    let summary = fleet.lead(options, observer);
    fleet.command(Phase::Quit);
    let evidence = fleet.watch.evidence(Causes::new());
    // A shard's own error says more than what its end looked like from here.
    let mut shards = fleet.join()?;
    let mut summary = summary?;
    fleet.sampler.take_in(observer)?;
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

fn check(options: &Options) -> Result<()> {
    if options.connections == 0 || options.connections > u64::from(u32::MAX) {
        return Err(ConfigError::Connections { asked: options.connections, most: u32::MAX.into() }.into());
    }
    if options.payload == 0 || options.payload > MAX_PAYLOAD_BYTES {
        return Err(ConfigError::Payload { asked: options.payload, most: MAX_PAYLOAD_BYTES }.into());
    }
    if options.concurrency == 0 {
        return Err(ConfigError::Concurrency.into());
    }
    if options.course == Course::Steered && options.audit == Audit::Off {
        return Err(ConfigError::SteeredWithoutAudit.into());
    }
    check_storm(options)?;
    options.routes.check()
}

fn check_storm(options: &Options) -> Result<()> {
    let Some(storm) = options.course.storm() else { return Ok(()) };
    if options.audit != Audit::Echo {
        return Err(ConfigError::StormWithoutEcho.into());
    }
    if storm.victims >= options.connections {
        let (victims, connections) = (storm.victims, options.connections);
        return Err(ConfigError::NoSurvivor { victims, connections }.into());
    }
    if storm.scenario.is_killed() && storm.victims == 0 {
        return Err(ConfigError::NoVictim { connections: options.connections }.into());
    }
    if storm.scenario.is_killed() != options.victims.is_some() {
        return Err(Error::bug("a storm that kills a process and no command for that, or the other way round"));
    }
    Ok(())
}

/// What a client will need of this host, or why the host cannot give it.
pub fn plan(options: &Options, host: &Host) -> Result<Planned> {
    check(options)?;
    let cores = host.choose_cores(&options.cores)?;
    let raised = raise_limits()?;
    let source_ports = host.source_ports().unwrap_or(SourcePorts::DEFAULT);
    options.routes.fit(options.connections, source_ports.count())?;
    let nofile = raised.files.1.soft;
    let shards = cores.len() as u64;
    let needs = |connections: u64| plan::client_needs(connections, shards, options.concurrency, nofile);
    let own = options.own_connections();
    let need = needs(own);
    if !need.fit(nofile) {
        let lockable = host.lockable(raised.memory.1.soft);
        let possible = plan::largest(own, |n| needs(n).fit(nofile) && needs(n).locked_bytes() <= lockable);
        return Err(need.refusal(own, possible, nofile, ShardsOf::Client));
    }
    host.check_locked_memory(raised.memory.1.soft, options.connections, needs)?;
    let room = nofile - need.descriptors() + shards;
    let concurrency = u64::from(options.concurrency).min(room) as u32;
    Ok(Planned { cores, raised, concurrency, source_ports })
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
    watch: EvidenceRecorder,
    sampler: Sampler,
    /// The leader's own, which tells when the process was suspended.
    clock: Clock,
    notices: mpsc::Receiver<Notice>,
    course: Course,
    /// The phases to come after this one.
    ahead: VecDeque<Phase>,
    /// Audits that the owner has sent for.
    rounds: u32,
    stopping: bool,
    /// Both ends of what shards measured so far.
    measured: (mpsc::Sender<Measured>, mpsc::Receiver<Measured>),
}

impl Fleet {
    fn launch(
        options: &Options,
        planned: &Planned,
        watch: EvidenceRecorder,
        sender: &mpsc::Sender<Notice>,
        notices: mpsc::Receiver<Notice>,
    ) -> Result<Fleet> {
        let (course, ahead) = (options.course, options.course.phases(options.audit));
        let mut fleet = Fleet {
            shards: Vec::new(),
            victims: None,
            watch,
            sampler: Sampler::begin(options.server_pid),
            clock: Clock::begin(Instant::now()),
            notices,
            course,
            ahead,
            rounds: 0,
            stopping: false,
            measured: mpsc::channel(),
        };
        match fleet.start(options, planned, sender) {
            Ok(()) => Ok(fleet),
            Err(error) => {
                // A shard that failed says more than what its end looked like from here.
                fleet.command(Phase::Quit);
                Err(fleet.join().err().unwrap_or(error))
            }
        }
    }

    fn start(&mut self, options: &Options, planned: &Planned, sender: &mpsc::Sender<Notice>) -> Result<()> {
        let options = Arc::new(options.clone());
        let shards = planned.cores.len() as u64;
        let ports = Arc::new(Ports::new(&planned.source_ports, &options.routes, options.connections, Way::here()));
        for (index, core) in planned.cores.iter().enumerate() {
            let numbers = share(options.own_connections(), shards, index as u64);
            let window = share(u64::from(planned.concurrency), shards, index as u64);
            let progress = Arc::new(Progress::default());
            let shard_config = ShardConfig {
                index,
                core: *core,
                shards,
                numbers,
                concurrency: (window.end - window.start).max(1) as usize,
                options: options.clone(),
                ports: ports.clone(),
                progress: progress.clone(),
                notices: sender.clone(),
                measured: self.measured.0.clone(),
                intervals: self.sampler.sender(),
            };
            let remote = ShardHandle::new()?;
            let rings = plan::client_rings(
                options.own_connections(),
                shards,
                index as u64,
                options.concurrency,
                planned.raised.files.1.soft,
            );
            let net = ConnectionsConfig {
                drain_after_reset: true,
                max_pending: MAX_PAYLOAD_BYTES,
                ..ConnectionsConfig::new(rings, u64::MAX)
            };
            let name = format!("c1m-client-{index}");
            let running = shard::spawn(
                &name,
                *core,
                remote.clone(),
                net,
                move |net| shard_config.begin(net),
                |dialing| dialing.measured(),
            )?;
            self.shards.push((remote, progress, running));
        }
        if let Some(command) = &options.victims {
            self.victims = Some(Victims::start(command, options.elsewhere(), self.shards.len(), sender.clone())?);
        }
        Ok(())
    }

    fn command(&self, phase: Phase) {
        for (remote, ..) in &self.shards {
            remote.command(phase.command());
        }
    }

    fn progress(&self) -> Vec<ProgressSnapshot> {
        snapshots(&self.shards).chain(self.victims.as_ref().map(Victims::progress)).collect()
    }

    /// Looks at what happens while a phase goes on.
    fn look(&mut self, observer: &mut dyn Observer) -> Result<()> {
        self.watch.look();
        self.sampler.look(self.progress().into_iter());
        self.sampler.take_in(observer)
    }

    /// Shows the observer what came of the run so far: every shard has just told.
    fn report(&mut self, summary: &mut Summary, observer: &mut dyn Observer) -> Result<()> {
        let mut parts: Vec<_> = self.measured.1.try_iter().collect();
        parts.sort_by_key(|(shard, _)| *shard);
        let shards = parts.into_iter().map(|(_, measured)| measured).collect();
        self.sampler.take_in(observer)?;
        summary.suspended = self.clock.suspended();
        summary.timeline = self.sampler.timeline.clone();
        conclude(summary, shards, self.watch.evidence(Causes::new()));
        observer.reported(summary)
    }

    fn join(&mut self) -> Result<Vec<ShardSummary>> {
        let shards = std::mem::take(&mut self.shards);
        // All of them end, whichever failed.
        let joined: Vec<_> = shards.into_iter().map(|(.., running)| running.join()).collect();
        joined.into_iter().map(|joined| joined.and_then(|summary| summary)).collect()
    }

    /// Takes the shards through all phases; shards' results are filled in later.
    fn lead(&mut self, options: &Options, observer: &mut dyn Observer) -> Result<Summary> {
        let mut summary = Summary {
            requested: options.connections,
            shards: Vec::new(),
            audits: Vec::new(),
            counters: NetCounters::new(),
            walls: Vec::new(),
            ramp: Duration::ZERO,
            ramped: 0,
            close: Duration::ZERO,
            paced: options.rate.is_some(),
            stopped: false,
            suspended: self.clock.suspended(),
            storm: options.course.storm().map(storm_summary),
            timeline: self.sampler.timeline.clone(),
            about: About::here(),
        };
        let (ramp, after_ramp) = self.phase(Phase::Ramp, options, observer)?;
        summary.ramp = ramp;
        summary.ramped = after_ramp.live;
        if summary.ramped == 0 {
            self.close_next();
        }
        let mut failed = Ok(());
        loop {
            let phase = self.ahead.pop_front().unwrap_or(Phase::Hold);
            if phase == Phase::Close {
                break;
            }
            if let (Phase::Storm, Some(victims)) = (phase, &mut self.victims) {
                victims.report()?;
            }
            let spent = server_cpu(options);
            let (elapsed, progress) = self.phase(phase, options, observer)?;
            if let (Some(storm), Some(stage)) = (&mut summary.storm, phase.stage()) {
                // Less than before is another process under the same number.
                let since = |(before, now): ((f64, f64), (f64, f64))| (now.0 - before.0, now.1 - before.1);
                let server_cpu =
                    spent.zip(server_cpu(options)).map(since).filter(|(user, system)| *user >= 0.0 && *system >= 0.0);
                storm.costs[stage as usize] = StageCost { seconds: elapsed.as_secs_f64(), server_cpu };
            }
            match phase {
                _ if self.stopping => {}
                Phase::Audit(round) => {
                    let ProgressSnapshot { audited: live, lost, wrong, .. } = progress;
                    let result = AuditResult { round, live, lost, wrong };
                    summary.audits.push(result);
                    failed = observer.audited(&result);
                }
                Phase::Report => failed = self.report(&mut summary, observer),
                _ => {}
            }
            if failed.is_err() {
                self.close_next();
            }
        }
        summary.stopped = self.stopping;
        self.watch.dialed();
        summary.close = self.phase(Phase::Close, options, observer)?.0;
        summary.suspended = self.clock.suspended();
        failed.map(|()| summary)
    }

    /// Whatever was ahead is not any more.
    fn close_next(&mut self) {
        self.ahead = VecDeque::from([Phase::Close]);
    }

    /// What the owner sent for comes after what is ahead. A fixed course keeps to its phases.
    fn steer(&mut self, phase: Phase) {
        if self.course == Course::Steered {
            self.ahead.push_back(phase);
        }
    }

    /// How much longer to hold after having held for so long.
    fn hold_left(&self, elapsed: Duration) -> Duration {
        match self.course {
            Course::Fixed(hold) => hold.saturating_sub(elapsed),
            Course::Steered if self.ahead.is_empty() => Duration::MAX,
            Course::Steered | Course::Storm(_) => Duration::ZERO,
        }
    }

    /// Waits for a notice, and tells the observer if the process was suspended meanwhile.
    fn hear(
        &mut self,
        patience: Duration,
        observer: &mut dyn Observer,
    ) -> std::result::Result<Notice, RecvTimeoutError> {
        let (before, now) = (self.clock.suspended().time, Instant::now());
        self.clock.look(now);
        self.clock.sleep(Some(now + patience));
        let heard = self.notices.recv_timeout(patience);
        self.clock.look(Instant::now());
        // Whoever reads what the observer writes may keep it waiting.
        self.clock.sleep(None);
        let time = self.clock.suspended().time.saturating_sub(before);
        if !time.is_zero() {
            observer.suspended(time);
        }
        heard
    }

    /// One phase on every shard. Returns how long it took and the counts at its end.
    fn phase(
        &mut self,
        phase: Phase,
        options: &Options,
        observer: &mut dyn Observer,
    ) -> Result<(Duration, ProgressSnapshot)> {
        let start = Instant::now();
        let begun = self.clock.start(start);
        observer.began(phase, options);
        self.command(phase);
        // What the shards do now; a hold ends with another command.
        let (mut asked, mut waiting) = (phase, self.shards.len());
        let mut victims_due = self.victims.as_mut().is_some_and(|victims| victims.begin(phase));
        while waiting > 0 || victims_due {
            let mut patience = TICK;
            if asked == Phase::Hold {
                patience = self.hold_left(self.clock.begun(begun).elapsed()).min(TICK);
                if patience.is_zero() {
                    asked = Phase::Settle;
                    self.command(asked);
                }
            }
            match self.hear(patience, observer) {
                Ok(Notice::Done(index, done)) if index == self.shards.len() => victims_due &= done != phase,
                Ok(Notice::ShardEnded(index)) if index == self.shards.len() => {
                    self.victims.as_mut().map_or(Ok(()), |victims| victims.ended(phase))?;
                    victims_due = false;
                }
                Ok(Notice::Done(_, done)) if done == asked => waiting -= 1,
                Ok(Notice::Done(..)) => {}
                Ok(Notice::ShardEnded(index)) => {
                    return Err(Error::bug(format!("client shard {index} ended in the {} phase", phase.name())));
                }
                Ok(Notice::Audit) => {
                    self.rounds += 1;
                    self.steer(Phase::Audit(self.rounds));
                }
                Ok(Notice::Report) => self.steer(Phase::Report),
                Ok(Notice::Close) => self.steer(Phase::Close),
                Ok(Notice::Stop) => {
                    self.stopping = true;
                    self.close_next();
                    if phase != Phase::Close {
                        break;
                    }
                }
                // A hold is over, and its end is shown in a moment.
                Err(RecvTimeoutError::Timeout) if patience < TICK => {}
                Err(RecvTimeoutError::Timeout) => {
                    self.look(observer)?;
                    observer.progress(phase, start.elapsed(), &self.progress(), false);
                }
                Err(RecvTimeoutError::Disconnected) => return Err(Error::bug("every client shard is gone")),
            }
        }
        let (elapsed, shards) = (start.elapsed(), self.progress());
        self.sampler.ended(phase, start, shards.iter().copied());
        observer.progress(phase, elapsed, &shards, true);
        Ok((elapsed, shards.into_iter().sum()))
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

/// Processor time that the server of a storm has spent so far, in seconds, user and system; `None`
/// if it is not known, or has ended.
fn server_cpu(options: &Options) -> Option<(f64, f64)> {
    let pid = options.server_pid?;
    let spent = Host::here().cpu_seconds(pid);
    (spent != (0.0, 0.0)).then_some(spent)
}
