//! `c1m client`: the phases as they go, the report, the files.

use std::io::IsTerminal;
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use super::args::ClientArguments;
use super::out::{Target, say, warn};
use super::{Ended, on_signal};
use crate::client::{self, Notice, Observer, Options, Phase, Planned};
use crate::error::{Error, Result};
use crate::report::{AuditResult, Summary, hgrm, json, text};
use crate::stats::ProgressSnapshot;

/// Runs a client to its end.
pub fn run(arguments: &ClientArguments) -> Result<Ended> {
    let options = arguments.options()?;
    let json = arguments.json.as_deref().map(Target::open).transpose()?;
    let histogram = arguments.histogram.as_deref().map(Target::open).transpose()?;
    let quiet = json.as_ref().is_some_and(Target::is_stdout);
    let mut display = Display::new(quiet);
    let summary = lead(&options, &mut display)?;
    let document = json::client(&summary)?;
    if !quiet {
        say(text::client(&document)?.trim_end());
    }
    if let Some(mut target) = json {
        target.write_json(&document)?;
    }
    if let Some(mut target) = histogram {
        write_histogram(&summary, &mut target, arguments.histogram.as_deref())?;
    }
    Ok(if summary.complete() { Ended::Well } else { Ended::Short })
}

/// Runs a client that a signal stops early.
pub fn lead(options: &Options, observer: &mut dyn Observer) -> Result<Summary> {
    let (sender, notices) = mpsc::channel();
    let from_signal = sender.clone();
    on_signal(move || {
        let _ = from_signal.send(Notice::Stop);
    })?;
    client::run(options, observer, (sender, notices))
}

fn write_histogram(summary: &Summary, target: &mut Target, path: Option<&Path>) -> Result<()> {
    let connect = summary.merged(|shard| &shard.connect)?;
    target.write_with(|into| {
        hgrm::write(&connect, into).map_err(|e| {
            let name = path.map(|path| path.display().to_string()).unwrap_or_default();
            Error::host(
                format!("write {name}: {e}"),
                "the histogram is incomplete",
                "free disk space or choose another file",
            )
        })
    })
}

/// Shows the phases: bars on a terminal, a line a second elsewhere.
pub struct Display {
    quiet: bool,
    bar: Option<ProgressBar>,
    said: Option<u64>,
    goal: u64,
    /// Echoes that came before the current phase.
    echoes_before: u64,
    echoes: u64,
}

impl Display {
    /// A display; a quiet one shows nothing but warnings.
    pub fn new(quiet: bool) -> Display {
        Display { quiet, bar: None, said: None, goal: 0, echoes_before: 0, echoes: 0 }
    }

    fn finish_bar(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }

    fn line(&self, phase: Phase, elapsed: Duration, p: &ProgressSnapshot) -> String {
        let left = self.goal.saturating_sub(p.live + p.failed);
        let detail = match phase {
            Phase::Ramp => {
                format!("{} connects/s", text::count((p.live as f64 / elapsed.as_secs_f64().max(1e-3)) as u64))
            }
            Phase::FirstAudit | Phase::SecondAudit => format!("{} proved", text::count(p.audited)),
            Phase::Close => format!("{} closed", text::count(p.closed)),
            _ => format!("{} echoes", text::count(p.echoes - self.echoes_before)),
        };
        format!(
            "{:<8} {:>5.1}s  {} = {} live + {} failed + {} to go  {detail}",
            phase.name(),
            elapsed.as_secs_f64(),
            text::count(self.goal),
            text::count(p.live),
            text::count(p.failed),
            text::count(left),
        )
    }
}

impl Observer for Display {
    fn planned(&mut self, plan: &Planned, options: &Options) {
        self.goal = options.connections;
        if plan.concurrency < options.concurrency {
            warn(format!(
                "--concurrency {} lowered to {}: the file descriptor limit is {}",
                options.concurrency, plan.concurrency, plan.raised.files.1.soft
            ));
        }
        if self.quiet {
            return;
        }
        let targets: Vec<String> = options.routes.targets.iter().map(ToString::to_string).collect();
        say(format!(
            "c1m client: {} connections to {} ports {}-{}, {} cores, {} at once, {} source ports for each of {} routes",
            text::count(options.connections),
            targets.join(","),
            options.routes.ports.first(),
            options.routes.ports.last(),
            plan.cores.len(),
            text::count(plan.concurrency.into()),
            text::count(plan.ephemeral),
            text::count(options.routes.tuples()),
        ));
    }

    fn began(&mut self, phase: Phase, options: &Options) {
        self.finish_bar();
        self.said = None;
        self.echoes_before = self.echoes;
        if self.quiet || !std::io::stdout().is_terminal() {
            return;
        }
        let length = if phase == Phase::Hold { options.hold.as_millis() as u64 } else { options.connections };
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
                Phase::Hold => elapsed.as_millis() as u64,
                Phase::Close => progress.closed,
                _ => progress.audited + progress.lost,
            });
            bar.set_message(line.clone());
        }
        if ended {
            self.finish_bar();
            say(line);
        } else if self.bar.is_none() && self.said != Some(elapsed.as_secs()) {
            self.said = Some(elapsed.as_secs());
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
