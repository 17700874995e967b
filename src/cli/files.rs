//! The files that a run writes beside its printed lines. They are checked before the run, so that a wrong path is
//! an error before a long run and not after it.

use std::io::{self, ErrorKind, LineWriter};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use super::args::FileArguments;
use super::observer::Observer;
use super::out::{Target, TargetStream};
use super::unhurried::Unhurried;
use crate::client::{Event, Interval, Workload};
use crate::command_error::{CommandError, Result};
use crate::error;
use crate::format;
use crate::latency::log::{Log, Series};
use crate::output;
use crate::render::html;
use crate::results::document::{ClientDocument, ServerDocument};
use crate::results::run_id;

/// The files of a run.
pub struct Files {
    /// The file of the result.
    pub json: Option<Target>,
    log: Option<IntervalLog>,
    page: Option<Target>,
    /// Whether one of the files is standard output.
    printed: bool,
}

impl Files {
    /// Checks the requested files, which must all be different places, and none of them an input. `more` has further files
    /// of the same run.
    pub fn open(arguments: &FileArguments, more: &[(&str, Option<&Path>)], inputs: &[&Path]) -> Result<Files> {
        let FileArguments { json, report, hlog, .. } = arguments;
        let ours = [("--json", json), ("--report", report), ("--hlog", hlog)];
        let ours = ours.map(|(flag, path)| (flag, path.as_deref()));
        let all = [&ours, more].concat();
        output::differ(&all)?;
        output::keep_inputs(inputs, &all)?;
        let printed = all.iter().any(|(_, path)| path.is_some_and(output::is_stdout));
        let open = |path: &Option<PathBuf>| path.as_deref().map(Target::open).transpose();
        Ok(Files { json: open(json)?, log: open(hlog)?.map(IntervalLog::of), page: open(report)?, printed })
    }

    /// Whether one of the files is standard output. No lines for people are printed then, as they would be part of
    /// the document.
    pub fn are_printed(&self) -> bool {
        self.printed
    }

    /// Whether the result goes to standard output, and the events with it.
    pub fn is_for_programs(&self) -> bool {
        self.json.as_ref().is_some_and(Target::is_stdout)
    }

    /// An observer that writes the interval log and passes everything on to another observer.
    pub fn logging<'a>(&'a mut self, shown: &'a mut dyn Observer) -> Logging<'a> {
        Logging { shown, log: self.log.as_mut() }
    }

    /// Ends the interval log, and writes the page of the run, with the server's result if it is known. If one file
    /// cannot be written, the others are written all the same.
    pub fn finish(&mut self, client: &ClientDocument, server: Option<&ServerDocument>) -> Result<()> {
        let logged = self.log.take().map_or(Ok(()), IntervalLog::finish);
        let draw = |target: &Target| target.write(html::page(&html::Run { client, server, notes: &[] })?.as_bytes());
        self.page.as_ref().map_or(Ok(()), draw).and(logged)
    }
}

/// Bytes of the interval log that may wait for a reader who does not read: those of an hour, of most runs.
const MOST_WAITING: usize = 16 << 20;

/// An interval log on its way to its reader, line by line.
type Lines = Log<LineWriter<Unhurried<TargetStream>>>;

/// The interval log of a run, written while it runs. A reader who does not read does not hold up the run.
struct IntervalLog {
    target: Target,
    /// Bytes of it that may wait for their reader.
    most_waiting: usize,
    started: SystemTime,
    began: Instant,
    /// The log, from the first interval on.
    log: Option<Lines>,
    /// The error for which the log was given up. The run goes on.
    failed: Option<CommandError>,
}

impl IntervalLog {
    fn of(target: Target) -> IntervalLog {
        let (started, began) = (SystemTime::now(), Instant::now());
        IntervalLog { target, most_waiting: MOST_WAITING, started, began, log: None, failed: None }
    }

    fn write(&mut self, interval: &Interval) {
        if self.failed.is_some() {
            return;
        }
        if let Err(error) = self.try_write(interval) {
            (self.failed, self.log) = (Some(self.error(&error)), None);
        }
    }

    fn error(&self, error: &io::Error) -> CommandError {
        if error.kind() != ErrorKind::WouldBlock {
            return self.target.failed(error);
        }
        let behind = format::bytes(self.most_waiting as u64);
        CommandError::host(
            format!("--hlog: {behind} wait for a reader that has stopped reading"),
            "the log was given up there, as it must not hold up the run",
            "keep its reader reading, or log into a file",
        )
    }

    fn try_write(&mut self, interval: &Interval) -> io::Result<()> {
        let since = |from: Instant, to: Instant| to.saturating_duration_since(from);
        let (from, length): (Duration, _) = (since(self.began, interval.from), since(interval.from, interval.to));
        let log = self.begun()?;
        for (measure, latency) in &interval.pieces {
            log.write(Series { measure: *measure, number: interval.number }, latency, from, length)?;
        }
        Ok(())
    }

    fn begun(&mut self) -> io::Result<&mut Lines> {
        let log = match self.log.take() {
            Some(log) => log,
            None => {
                let made_by = format!("c1m {}", env!("CARGO_PKG_VERSION"));
                let lines = LineWriter::new(Unhurried::new(self.target.stream()?, self.most_waiting));
                Log::begin(lines, self.started, &made_by, run_id())?
            }
        };
        Ok(self.log.insert(log))
    }

    fn finish(mut self) -> Result<()> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        let ended = self.begun().map(drop).and_then(|()| {
            let lines = self.log.take().map(Log::end).transpose()?;
            let stream = lines.map(|lines| lines.into_inner().map_err(|e| e.into_error())).transpose()?;
            stream.map_or(Ok(()), |stream| stream.finish()?.finish())
        });
        ended.map_err(|error| self.error(&error))
    }
}

/// Passes a run's events on to an observer, and writes the interval log.
pub struct Logging<'a> {
    shown: &'a mut dyn Observer,
    log: Option<&'a mut IntervalLog>,
}

impl Observer for Logging<'_> {
    fn take(&mut self, event: &Event, workload: &Workload) -> error::Result<()> {
        self.shown.take(event, workload)?;
        if let (Event::Measured(interval), Some(log)) = (event, &mut self.log) {
            log.write(interval);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use super::*;
    use crate::latency::Latency;
    use crate::latency::log::Measure;

    /// A reader who never reads costs a bounded memory, and what he missed is told.
    #[test]
    fn a_log_is_given_up_when_too_much_waits_for_its_reader() {
        let (reader, writer) = io::pipe().unwrap();
        let pipe = format!("/proc/self/fd/{}", writer.as_raw_fd());
        let mut log = IntervalLog { most_waiting: 100_000, ..IntervalLog::of(Target::open(Path::new(&pipe)).unwrap()) };
        let now = Instant::now();
        let mut written = 0;
        while log.failed.is_none() {
            let mut latency = Latency::new().unwrap();
            (1..1_000).for_each(|us| latency.record(Duration::from_micros(us * us)));
            log.write(&Interval { number: 0, from: now, to: now, pieces: vec![(Measure::Echo, latency)] });
            written += 1;
            assert!(written < 100_000, "it waits without a bound");
        }
        let error = log.finish().unwrap_err();
        assert_eq!(error.exit_code(), 3);
        assert!(error.to_string().starts_with("--hlog: ") && error.to_string().contains("stopped reading"), "{error}");
        drop(reader);
    }
}
