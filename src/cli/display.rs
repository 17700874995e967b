//! The display of a client's run: lines for people, or events for programs.

use std::time::{Duration, Instant};

use serde_json::json;

use super::hibernation::{DELAYED_ACKNOWLEDGEMENT, TOO_SOON, asleep_after};
use super::live::{Live, wakes_p99};
use super::observer::Observer;
use super::out::{event, show, warn};
use crate::client::{Course, Interval, Phase, Planned, Workload};
use crate::error::Result;
use crate::format;
use crate::latency::log::Measure;
use crate::render::text;
use crate::results::document::ClientDocument;
use crate::results::{AuditResult, Summary};
use crate::stats::{ProgressSnapshot, WakeCounts};
use crate::sys;

/// Detects the first call in each second of a phase.
#[derive(Debug, Default)]
struct Seconds(Option<u64>);

impl Seconds {
    fn is_new(&mut self, elapsed: Duration) -> bool {
        self.0.replace(elapsed.as_secs()) != Some(elapsed.as_secs())
    }
}

/// Warns of what the plan could not give.
fn warn_of(plan: &Planned, workload: &Workload) {
    if plan.concurrency < workload.concurrency {
        warn(format!(
            "--concurrency {} lowered to {}: the file descriptor limit is {}{}",
            workload.concurrency,
            plan.concurrency,
            plan.raised.files.1.soft,
            if plan.raised.open > 0 { format!(", and {} are open already", plan.raised.open) } else { String::new() }
        ));
    }
    if workload.hibernate.is_some_and(|silence| silence < DELAYED_ACKNOWLEDGEMENT) {
        warn(TOO_SOON);
    }
}

/// The warning after the process was suspended.
fn suspension(time: Duration) -> String {
    format!(
        "the client did not run for {:.1} s: it was stopped, or its machine was; schedules and holds are put off by that time; the latencies of operations in flight contain it, and so do the seconds and rates of phases",
        time.as_secs_f64()
    )
}

/// Shows the phases to a person: on a terminal a bar and a line for each shard, elsewhere a line per second.
pub struct Display {
    quiet: bool,
    live: Option<Live>,
    /// The values last written to the shards' lines.
    shown: Shown,
    seconds: Seconds,
    goal: u64,
    /// Whether a storm may close connections.
    storm: bool,
    /// Whether connections may sleep.
    sleeps: bool,
    /// How long the wakes of each shard's connections took so far; empty where none sleeps.
    wakes: Vec<WakeCounts>,
    /// Whether the storm's victims are in another process, whose line follows the shards' lines.
    victims: bool,
    /// Echoes received before the current phase.
    echoes_before: u64,
    echoes: u64,
}

impl Display {
    /// A display. A quiet one shows only warnings.
    pub fn new(quiet: bool) -> Display {
        Display {
            quiet,
            live: None,
            shown: Shown { at: Instant::now(), done: Vec::new(), p99: Vec::new(), wakes: Vec::new() },
            seconds: Seconds::default(),
            goal: 0,
            storm: false,
            sleeps: false,
            wakes: Vec::new(),
            victims: false,
            echoes_before: 0,
            echoes: 0,
        }
    }

    /// Rewrites the shards' lines, once a second at most.
    fn show_shards(&mut self, phase: Phase, shards: &[ProgressSnapshot]) {
        let Some(live) = &mut self.live else { return };
        let now = Instant::now();
        let first = self.shown.done.is_empty();
        self.shown.done.resize(shards.len(), 0);
        let seconds = now.duration_since(self.shown.at);
        if !first && seconds < SHARDS_EVERY {
            return;
        }
        self.shown.at = now;
        for (shard, (progress, before)) in shards.iter().zip(&mut self.shown.done).enumerate() {
            let done = done(phase, progress);
            let since = done.saturating_sub(std::mem::replace(before, done));
            let rate = if first { 0 } else { (since as f64 / seconds.as_secs_f64()) as u64 };
            let p99 = self.shown.p99.get(shard).copied().flatten().map_or_else(|| "-".to_owned(), format::time);
            let (held, per_second) = (format::count(progress.live), format::count(rate));
            let asleep = asleep(self.sleeps, progress);
            let wakes = self.wakes.get(shard).map(|now| {
                let before = self.shown.wakes.get(shard);
                wakes_p99(&before.map_or_else(|| now.clone(), |before| now.since(before)))
            });
            let wakes = wakes.unwrap_or_default();
            live.shard(shard, &format!("{held:>9} live{asleep}  {per_second:>9}/s  p99 {p99:>6}{wakes}"), rate);
        }
        self.shown.wakes.clone_from(&self.wakes);
    }

    fn line(&self, phase: Phase, elapsed: Duration, p: &ProgressSnapshot) -> String {
        let goal = self.goal + p.redialed;
        let left = goal.saturating_sub(p.live + p.failed + p.dropped);
        let dropped =
            if self.storm { format!(" + {} closed by the storm", format::count(p.dropped)) } else { String::new() };
        let detail = match phase {
            Phase::Ramp => {
                format!("{} connects/s", format::count((p.live as f64 / elapsed.as_secs_f64().max(1e-3)) as u64))
            }
            Phase::Audit(_) => format!("{} proved", format::count(p.audited)),
            Phase::Close => format!("{} closed", format::count(p.closed)),
            Phase::Publish => {
                format!("{} published, {} receipts", format::count(p.published), format::count(p.pushed))
            }
            _ => format!("{} echoes", format::count(p.echoes.saturating_sub(self.echoes_before))),
        };
        format!(
            "{:<8} {:>5.1}s  {} = {} live{} + {} failed{dropped} + {} to go  {detail}",
            phase.name(),
            elapsed.as_secs_f64(),
            format::count(goal),
            format::count(p.live),
            asleep(self.sleeps, p),
            format::count(p.failed),
            format::count(left),
        )
    }
}

/// How many of the live ones are asleep, where connections may sleep.
fn asleep(sleeps: bool, progress: &ProgressSnapshot) -> String {
    if sleeps { format!(" ({} asleep)", format::count(progress.asleep)) } else { String::new() }
}

/// The interval between changes of the shards' lines. Rates over a shorter time would flicker.
const SHARDS_EVERY: Duration = Duration::from_secs(1);

/// The values last written to the shards' lines.
struct Shown {
    at: Instant,
    /// The work of each shard in the current phase; empty when the phase begins.
    done: Vec<u64>,
    /// The p99 latency that each shard measured last, in microseconds.
    p99: Vec<Option<u64>>,
    /// The wakes of each shard until then.
    wakes: Vec<WakeCounts>,
}

/// The work of a shard in a phase, so far.
fn done(phase: Phase, progress: &ProgressSnapshot) -> u64 {
    match phase {
        Phase::Ramp => progress.stood,
        Phase::Audit(_) => progress.audited,
        Phase::Close => progress.closed,
        Phase::Publish => progress.pushed,
        _ => progress.echoes,
    }
}

impl Observer for Display {
    fn planned(&mut self, plan: &Planned, workload: &Workload) {
        (self.goal, self.storm) = (workload.connections, workload.course.storm().is_some());
        (self.victims, self.sleeps) = (workload.victims.is_some(), workload.hibernate.is_some());
        self.shown.p99 = vec![None; plan.cores.len() + usize::from(self.victims)];
        warn_of(plan, workload);
        if self.quiet {
            return;
        }
        show(format!(
            "c1m client: {} connections to {}, {} cores, {} at once, {} source ports for each of {} routes",
            format::count(workload.connections),
            workload.target(),
            plan.cores.len(),
            format::count(plan.concurrency.into()),
            format::count(plan.source_ports.count()),
            format::count(workload.routes.tuples()),
        ));
        if let (Some(silence), Some(awake)) = (workload.hibernate, plan.awake) {
            show(asleep_after(silence, awake));
        }
    }

    fn victims_started(&mut self, pid: u32) {
        if !self.quiet {
            show(format!("the victims are in process {pid}, which the storm kills"));
        }
    }

    fn began(&mut self, phase: Phase, workload: &Workload) {
        self.live = None;
        self.seconds = Seconds::default();
        self.echoes_before = self.echoes;
        if self.quiet {
            return;
        }
        let goal = match (phase, workload.course) {
            (Phase::Hold, Course::Fixed(hold)) => Some(hold.as_millis() as u64),
            // A steered hold has no known end.
            (Phase::Hold, Course::Steered) => None,
            (Phase::Audit(_), _) => Some(workload.audit_sample.unwrap_or(u64::MAX).min(workload.connections)),
            (Phase::Calm, Course::Storm(storm)) => Some(storm.calm.as_millis() as u64),
            (Phase::After, Course::Storm(storm)) => Some(storm.after.as_millis() as u64),
            (Phase::Storm, Course::Storm(storm)) => Some(storm.victims),
            (Phase::Publish, Course::Fanout(fanout)) => Some(fanout.publications.into()),
            _ => Some(workload.connections),
        };
        self.live = Live::open(goal, self.shown.p99.len());
        if let Some(live) = self.live.as_ref().filter(|_| self.victims) {
            live.name_last("victims");
        }
        self.shown.done.clear();
        self.shown.p99.fill(None);
    }

    fn progress(&mut self, phase: Phase, elapsed: Duration, shards: &[ProgressSnapshot], ended: bool) {
        if self.quiet {
            return;
        }
        let progress: ProgressSnapshot = shards.iter().copied().sum();
        self.echoes = progress.echoes;
        let line = self.line(phase, elapsed, &progress);
        if let Some(live) = &self.live {
            let position = match phase {
                Phase::Ramp => progress.live + progress.failed,
                Phase::Hold | Phase::Calm | Phase::After => elapsed.as_millis() as u64,
                Phase::Storm => progress.dropped,
                Phase::Publish => progress.published,
                Phase::Close => progress.closed,
                _ => progress.audited + progress.lost,
            };
            live.head(position, line.clone());
            self.show_shards(phase, shards);
        }
        if ended {
            self.live = None;
            show(line);
        } else if self.live.is_none() && self.seconds.is_new(elapsed) {
            show(line);
        }
    }

    fn woke(&mut self, wakes: &[WakeCounts]) {
        if self.live.is_some() {
            self.wakes = wakes.to_vec();
        }
    }

    fn suspended(&mut self, time: Duration) {
        match &self.live {
            Some(live) => live.warn(&suspension(time)),
            None => warn(suspension(time)),
        }
    }

    fn measured(&mut self, interval: &Interval) -> Result<()> {
        let is_shown = |measure| !matches!(measure, Measure::Retransmitted | Measure::Receipt);
        let shown = interval.pieces.iter().rfind(|(measure, _)| is_shown(*measure));
        if let (Some((_, latency)), Some(p99)) = (shown, self.shown.p99.get_mut(interval.number)) {
            *p99 = Some(latency.percentile(99.0));
        }
        Ok(())
    }

    fn audited(&mut self, result: &AuditResult) -> Result<()> {
        if !self.quiet {
            show(text::audit(result));
        }
        Ok(())
    }

    fn reported(&mut self, summary: &Summary) -> Result<()> {
        if !self.quiet {
            show(text::client(&ClientDocument::of(summary)?)?.trim_end());
        }
        Ok(())
    }
}

/// Prints the phases for a program: each event is one line of JSON with its name in `event`. Progress is printed
/// once a second and at the end of each phase.
pub struct Events {
    quiet: bool,
    seconds: Seconds,
    goal: u64,
    /// Whether connections may sleep.
    sleeps: bool,
}

impl Events {
    /// Events of a client that has no plan yet. Quiet ones tell no progress.
    pub fn new(quiet: bool) -> Events {
        Events { quiet, seconds: Seconds::default(), goal: 0, sleeps: false }
    }
}

impl Observer for Events {
    fn planned(&mut self, plan: &Planned, workload: &Workload) {
        (self.goal, self.sleeps) = (workload.connections, workload.hibernate.is_some());
        warn_of(plan, workload);
        let mut planned = json!({
            "event": "planned", "pid": std::process::id(), "kernel": sys::kernel_release(),
            "nofile": plan.raised.files.1.soft, "connections": workload.connections, "targets": workload.routes.targets,
            "port": workload.routes.ports.first(), "ports": workload.routes.ports.count(), "cores": plan.cores,
            "concurrency": plan.concurrency, "ephemeral": plan.source_ports.count(),
        });
        if let (Some(silence), Some(awake)) = (workload.hibernate, plan.awake) {
            planned["hibernate_seconds"] = silence.as_secs_f64().into();
            planned["awake"] = awake.into();
        }
        event(&planned);
    }

    fn victims_started(&mut self, pid: u32) {
        event(&json!({ "event": "victims", "pid": pid }));
    }

    fn began(&mut self, _phase: Phase, _workload: &Workload) {
        self.seconds = Seconds::default();
    }

    fn progress(&mut self, phase: Phase, elapsed: Duration, shards: &[ProgressSnapshot], ended: bool) {
        if self.quiet || !ended && !self.seconds.is_new(elapsed) {
            return;
        }
        let progress: ProgressSnapshot = shards.iter().copied().sum();
        let gone = progress.live + progress.failed + progress.dropped;
        let to_go = (self.goal + progress.redialed).saturating_sub(gone);
        let mut told = json!({
            "event": "progress", "phase": phase.kind(), "round": phase.round(), "ended": ended,
            "seconds": elapsed.as_secs_f64(), "live": progress.live, "failed": progress.failed,
            "dropped": progress.dropped, "redialed": progress.redialed, "to_go": to_go, "audited": progress.audited,
            "echoes": progress.echoes, "closed": progress.closed, "published": progress.published,
            "pushed": progress.pushed,
        });
        if self.sleeps {
            told["asleep"] = progress.asleep.into();
        }
        event(&told);
    }

    fn suspended(&mut self, time: Duration) {
        warn(suspension(time));
        event(&json!({ "event": "suspended", "seconds": time.as_secs_f64() }));
    }

    fn audited(&mut self, result: &AuditResult) -> Result<()> {
        let mut told = json!(result);
        told["event"] = "audit".into();
        event(&told);
        Ok(())
    }

    fn reported(&mut self, summary: &Summary) -> Result<()> {
        event(&json!({ "event": "report", "result": ClientDocument::of(summary)? }));
        Ok(())
    }
}
