//! A client run as it goes: for people, and as events for programs.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use super::out::{event, say, warn};
use crate::client::{Course, Observer, Options, Phase, Planned};
use crate::error::Result;
use crate::report::{AuditResult, text};
use crate::stats::ProgressSnapshot;
use crate::sys;
use crate::words;

/// Tells when another second of a phase has begun.
#[derive(Debug, Default)]
struct Seconds(Option<u64>);

impl Seconds {
    fn is_new(&mut self, elapsed: Duration) -> bool {
        self.0.replace(elapsed.as_secs()) != Some(elapsed.as_secs())
    }
}

/// Warns of what the plan could not give.
fn warn_of(plan: &Planned, options: &Options) {
    if plan.concurrency < options.concurrency {
        warn(format!(
            "--concurrency {} lowered to {}: the file descriptor limit is {}",
            options.concurrency, plan.concurrency, plan.raised.files.1.soft
        ));
    }
}

/// Shows the phases to a person: bars on a terminal, a line a second elsewhere.
pub struct Display {
    quiet: bool,
    bar: Option<ProgressBar>,
    seconds: Seconds,
    goal: u64,
    /// Connections may be closed by a storm.
    storm: bool,
    /// Echoes that came before the current phase.
    echoes_before: u64,
    echoes: u64,
}

impl Display {
    /// A display; a quiet one shows nothing but warnings.
    pub fn new(quiet: bool) -> Display {
        Display { quiet, bar: None, seconds: Seconds::default(), goal: 0, storm: false, echoes_before: 0, echoes: 0 }
    }

    fn finish_bar(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }

    fn line(&self, phase: Phase, elapsed: Duration, p: &ProgressSnapshot) -> String {
        let goal = self.goal + p.redialed;
        let left = goal.saturating_sub(p.live + p.failed + p.dropped);
        let dropped =
            if self.storm { format!(" + {} closed by the storm", words::count(p.dropped)) } else { String::new() };
        let detail = match phase {
            Phase::Ramp => {
                format!("{} connects/s", words::count((p.live as f64 / elapsed.as_secs_f64().max(1e-3)) as u64))
            }
            Phase::Audit(_) => format!("{} proved", words::count(p.audited)),
            Phase::Close => format!("{} closed", words::count(p.closed)),
            _ => format!("{} echoes", words::count(p.echoes - self.echoes_before)),
        };
        format!(
            "{:<8} {:>5.1}s  {} = {} live + {} failed{dropped} + {} to go  {detail}",
            phase.name(),
            elapsed.as_secs_f64(),
            words::count(goal),
            words::count(p.live),
            words::count(p.failed),
            words::count(left),
        )
    }
}

impl Observer for Display {
    fn planned(&mut self, plan: &Planned, options: &Options) {
        (self.goal, self.storm) = (options.connections, options.course.storm().is_some());
        warn_of(plan, options);
        if self.quiet {
            return;
        }
        let targets: Vec<String> = options.routes.targets.iter().map(ToString::to_string).collect();
        say(format!(
            "c1m client: {} connections to {} ports {}-{}, {} cores, {} at once, {} source ports for each of {} routes",
            words::count(options.connections),
            targets.join(","),
            options.routes.ports.first(),
            options.routes.ports.last(),
            plan.cores.len(),
            words::count(plan.concurrency.into()),
            words::count(plan.ephemeral),
            words::count(options.routes.tuples()),
        ));
    }

    fn began(&mut self, phase: Phase, options: &Options) {
        self.finish_bar();
        self.seconds = Seconds::default();
        self.echoes_before = self.echoes;
        if self.quiet || !std::io::stdout().is_terminal() {
            return;
        }
        let length = match (phase, options.course) {
            (Phase::Hold, Course::Fixed(hold)) => hold.as_millis() as u64,
            // Nobody knows its end: the bar runs full.
            (Phase::Hold, Course::Steered) => 0,
            (Phase::Calm, Course::Storm(storm)) => storm.calm.as_millis() as u64,
            (Phase::After, Course::Storm(storm)) => storm.after.as_millis() as u64,
            (Phase::Storm, Course::Storm(storm)) => storm.victims,
            _ => options.connections,
        };
        let bar = ProgressBar::new(length);
        // A template that does not parse would only cost the bar its looks.
        if let Ok(style) = ProgressStyle::with_template("{bar:14} {wide_msg}") {
            bar.set_style(style);
        }
        self.bar = Some(bar);
    }

    fn progress(&mut self, phase: Phase, elapsed: Duration, progress: &ProgressSnapshot, ended: bool) {
        if self.quiet {
            return;
        }
        self.echoes = progress.echoes;
        let line = self.line(phase, elapsed, progress);
        if let Some(bar) = &self.bar {
            bar.set_position(match phase {
                Phase::Ramp => progress.live + progress.failed,
                Phase::Hold | Phase::Calm | Phase::After => elapsed.as_millis() as u64,
                Phase::Storm => progress.dropped,
                Phase::Close => progress.closed,
                _ => progress.audited + progress.lost,
            });
            bar.set_message(line.clone());
        }
        if ended {
            self.finish_bar();
            say(line);
        } else if self.bar.is_none() && self.seconds.is_new(elapsed) {
            say(line);
        }
    }

    fn audited(&mut self, result: &AuditResult) -> Result<()> {
        if !self.quiet {
            say(text::audit(result));
        }
        Ok(())
    }
}

/// Tells the phases to a program: each event is one line of JSON with its name in `event`. Progress
/// comes once a second and at the end of each phase.
pub struct Events {
    seconds: Seconds,
    goal: u64,
}

impl Events {
    /// Events of a client that is not planned yet.
    pub fn new() -> Events {
        Events { seconds: Seconds::default(), goal: 0 }
    }
}

impl Observer for Events {
    fn planned(&mut self, plan: &Planned, options: &Options) {
        self.goal = options.connections;
        warn_of(plan, options);
        event(&json!({
            "event": "planned", "pid": std::process::id(), "kernel": sys::kernel_release(),
            "nofile": plan.raised.files.1.soft, "connections": options.connections, "targets": options.routes.targets,
            "port": options.routes.ports.first(), "ports": options.routes.ports.count(), "cores": plan.cores,
            "concurrency": plan.concurrency, "ephemeral": plan.ephemeral,
        }));
    }

    fn began(&mut self, _phase: Phase, _options: &Options) {
        self.seconds = Seconds::default();
    }

    fn progress(&mut self, phase: Phase, elapsed: Duration, progress: &ProgressSnapshot, ended: bool) {
        if !ended && !self.seconds.is_new(elapsed) {
            return;
        }
        let gone = progress.live + progress.failed + progress.dropped;
        let to_go = (self.goal + progress.redialed).saturating_sub(gone);
        event(&json!({
            "event": "progress", "phase": phase.kind(), "round": phase.round(), "ended": ended,
            "seconds": elapsed.as_secs_f64(), "live": progress.live, "failed": progress.failed,
            "dropped": progress.dropped, "redialed": progress.redialed, "to_go": to_go, "audited": progress.audited,
            "echoes": progress.echoes, "closed": progress.closed,
        }));
    }

    fn audited(&mut self, result: &AuditResult) -> Result<()> {
        let AuditResult { round, live, lost, wrong } = result;
        event(&json!({ "event": "audit", "round": round, "live": live, "lost": lost, "wrong": wrong }));
        Ok(())
    }
}
