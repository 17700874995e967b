//! `c1m client` and `c1m storm`: the run, the report, the files.

use std::path::Path;
use std::sync::mpsc;

use super::args::{ClientArguments, StormArguments};
use super::display::{Display, Events};
use super::files::Files;
use super::out::{Target, event, say};
use super::{Ended, on_signal, steer};
use crate::client::{self, Course, Notice, Observer, Options};
use crate::error::{Error, Result};
use crate::render::{hgrm, text};
use crate::results::Summary;
use crate::results::document::ClientDocument;

/// Runs a client to its end.
pub fn run(arguments: &ClientArguments) -> Result<Ended> {
    let options = arguments.options()?;
    let files = Files::open(&arguments.connection.files)?;
    let histogram = arguments.histogram.as_deref().map(Target::open).transpose()?;
    let summary = report(&options, files, arguments.connection.files.quiet)?;
    if let Some(mut target) = histogram {
        write_histogram(&summary, &mut target, arguments.histogram.as_deref())?;
    }
    Ok(ended(&summary))
}

/// Runs a storm to its end.
pub fn storm(arguments: &StormArguments) -> Result<Ended> {
    let options = arguments.options()?;
    let files = Files::open(&arguments.connection.files)?;
    report(&options, files, arguments.connection.files.quiet).map(|summary| ended(&summary))
}

fn ended(summary: &Summary) -> Ended {
    if summary.complete() { Ended::Well } else { Ended::Short }
}

/// Runs a client, and writes its result as text, and into the files that are wanted.
fn report(options: &Options, mut files: Files, quiet: bool) -> Result<Summary> {
    let mut observer: Box<dyn Observer> =
        if files.is_for_programs() { Box::new(Events::new()) } else { Box::new(Display::new(quiet)) };
    let summary = lead(options, &mut files.logging(observer.as_mut()))?;
    let document = ClientDocument::of(&summary)?;
    files.write_page(&document, None)?;
    match files.json {
        // Behind events on lines of their own, the document is one line too.
        Some(Target::Stdout) => event(&document),
        other => {
            say(text::client(&document)?.trim_end());
            other.map(|mut file| file.write_json(&document)).transpose()?;
        }
    }
    Ok(summary)
}

/// Runs a client that a signal stops early, and that standard input steers if its course says so.
pub fn lead(options: &Options, observer: &mut dyn Observer) -> Result<Summary> {
    let (sender, notices) = mpsc::channel();
    let from_signal = sender.clone();
    on_signal(move || {
        let _ = from_signal.send(Notice::Stop);
    })?;
    if options.course == Course::Steered {
        steer::follow(sender.clone());
    }
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
