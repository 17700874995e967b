//! The files that a run writes beside what it prints: opened before it begins, so that a wrong path is
//! told before a long run and not after.

use std::io::{LineWriter, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use super::args::FileArguments;
use super::out::Target;
use crate::client::{Interval, Observer, Options, Phase, Planned};
use crate::error::{Error, Result};
use crate::latency::log::{Log, Series};
use crate::render::html;
use crate::results::document::{ClientDocument, ServerDocument};
use crate::results::{AuditResult, Summary};
use crate::stats::ProgressSnapshot;

/// The files of a run.
pub struct Files {
    /// Its result.
    pub json: Option<Target>,
    log: Option<IntervalLog>,
    page: Option<Target>,
}

impl Files {
    /// Opens those that were asked for.
    pub fn open(arguments: &FileArguments) -> Result<Files> {
        let open = |path: &Option<PathBuf>| path.as_deref().map(Target::open).transpose();
        Ok(Files {
            json: open(&arguments.json)?,
            log: arguments.hlog.as_deref().map(IntervalLog::open).transpose()?,
            page: open(&arguments.report)?,
        })
    }

    /// Whether the result goes to standard output, which then is not for people.
    pub fn is_for_programs(&self) -> bool {
        self.json.as_ref().is_some_and(Target::is_stdout)
    }

    /// An observer that keeps the interval log and shows everything to another one.
    pub fn logging<'a>(&'a mut self, shown: &'a mut dyn Observer) -> Logging<'a> {
        Logging { shown, log: self.log.as_mut() }
    }

    /// Writes the page of a run, and what its server came to where that is known.
    pub fn write_page(&mut self, client: &ClientDocument, server: Option<&ServerDocument>) -> Result<()> {
        let Some(target) = &mut self.page else { return Ok(()) };
        write_text(target, &html::page(&html::Run { client, server, notes: &[] })?)
    }
}

/// Writes a page or another text.
pub fn write_text(target: &mut Target, text: &str) -> Result<()> {
    target.write_with(|into| into.write_all(text.as_bytes()).and_then(|()| into.flush()).map_err(|e| incomplete(&e)))
}

fn incomplete(error: &std::io::Error) -> Error {
    let cure = "free disk space or choose another file";
    Error::host(format!("write a report: {error}"), "it is incomplete", cure)
}

/// The interval log of a run, written as it goes.
struct IntervalLog {
    log: Log<LineWriter<Box<dyn Write>>>,
    began: Instant,
    name: String,
}

impl IntervalLog {
    fn open(path: &Path) -> Result<IntervalLog> {
        let (name, into) = (path.display().to_string(), Target::open(path)?.into_writer());
        let made_by = format!("c1m {}", env!("CARGO_PKG_VERSION"));
        let log =
            Log::begin(LineWriter::new(into), SystemTime::now(), &made_by).map_err(|e| incomplete_log(&name, &e))?;
        Ok(IntervalLog { log, began: Instant::now(), name })
    }

    fn write(&mut self, interval: &Interval) -> Result<()> {
        let since = |from: Instant, to: Instant| to.saturating_duration_since(from);
        let (from, length): (Duration, _) = (since(self.began, interval.from), since(interval.from, interval.to));
        for (measure, latency) in &interval.pieces {
            let series = Series { measure: *measure, shard: interval.shard };
            self.log.write(series, latency, from, length).map_err(|e| incomplete_log(&self.name, &e))?;
        }
        Ok(())
    }
}

fn incomplete_log(name: &str, error: &std::io::Error) -> Error {
    let cure = "free disk space or choose another --hlog file";
    Error::host(format!("write {name}: {error}"), "the interval log is incomplete", cure)
}

/// Shows a run to an observer, and keeps its interval log.
pub struct Logging<'a> {
    shown: &'a mut dyn Observer,
    log: Option<&'a mut IntervalLog>,
}

impl Observer for Logging<'_> {
    fn planned(&mut self, plan: &Planned, options: &Options) {
        self.shown.planned(plan, options);
    }

    fn began(&mut self, phase: Phase, options: &Options) {
        self.shown.began(phase, options);
    }

    fn progress(&mut self, phase: Phase, elapsed: Duration, shards: &[ProgressSnapshot], ended: bool) {
        self.shown.progress(phase, elapsed, shards, ended);
    }

    fn measured(&mut self, interval: &Interval) -> Result<()> {
        self.shown.measured(interval)?;
        self.log.as_mut().map_or(Ok(()), |log| log.write(interval))
    }

    fn audited(&mut self, result: &AuditResult) -> Result<()> {
        self.shown.audited(result)
    }

    fn reported(&mut self, summary: &Summary) -> Result<()> {
        self.shown.reported(summary)
    }
}
