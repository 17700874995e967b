//! `c1m client`, `c1m storm` and `c1m fanout`: the run, the report, the files.

use std::sync::{Arc, Mutex, PoisonError};

use super::args::{ClientArguments, ConnectionArguments, FanoutArguments, StormArguments};
use super::display::{Display, Events};
use super::files::Files;
use super::observer::Observer;
use super::out::{Target, say};
use super::{Ended, hide_memory, on_signal, steer, warn_of_little_memory};
use crate::client::{Course, Run, Steering, Workload};
use crate::command_error::{Blame, CommandError, Result};
use crate::format::count;
use crate::memory_model::End;
use crate::render::{hgrm, text};
use crate::results::Summary;
use crate::results::document::ClientDocument;

/// Runs a client to its end.
pub fn run(arguments: &ClientArguments) -> Result<Ended> {
    let workload = arguments.workload()?;
    let ConnectionArguments { files, tls, .. } = &arguments.connection;
    let files = Files::open(files, &[("--histogram", arguments.histogram.as_deref())], &tls.inputs())?;
    let histogram = arguments.histogram.as_deref().map(Target::open).transpose()?;
    let (summary, written) = report(workload, files, arguments.connection.files.quiet)?;
    // One file that cannot be written keeps no other from being written.
    let drawn = histogram.map_or(Ok(()), |target| write_histogram(&summary, &target));
    written.and(drawn).and_then(|()| ended(&summary, arguments.connection.tls.resume))
}

/// Runs a storm to its end.
pub fn storm(arguments: &StormArguments) -> Result<Ended> {
    lead_to_files(arguments.workload()?, &arguments.connection)
}

/// Runs a fan-out to its end.
pub fn fanout(arguments: &FanoutArguments) -> Result<Ended> {
    lead_to_files(arguments.workload()?, &arguments.connection)
}

fn lead_to_files(workload: Workload, arguments: &ConnectionArguments) -> Result<Ended> {
    let files = Files::open(&arguments.files, &[], &arguments.tls.inputs())?;
    let (summary, written) = report(workload, files, arguments.files.quiet)?;
    written.and_then(|()| ended(&summary, arguments.tls.resume))
}

/// What a run came to. Fails if a session should have been resumed, and none was.
fn ended(summary: &Summary, must_resume: bool) -> Result<Ended> {
    if must_resume {
        let handshakes = || summary.shards.iter().filter_map(|shard| shard.handshakes.as_ref());
        let full: u64 = handshakes().map(|one| one.full.count()).sum();
        // Where no handshake succeeded, the report says why.
        if full > 0 && handshakes().all(|one| one.resumed.count() == 0) {
            return Err(CommandError::new(
                Blame::Peer,
                format!("--resume: {} full TLS handshakes, and none that resumed a session", count(full)),
                "the server gives no tickets or takes none, or all handshakes began before the first ticket came",
                "look at the server's session tickets, or lower --concurrency",
            ));
        }
    }
    Ok(if summary.complete() { Ended::Well } else { Ended::Short })
}

/// Runs a client, and writes its result as text, and into the files that are wanted. Tells too whether
/// all of them were written.
fn report(workload: Workload, mut files: Files, quiet: bool) -> Result<(Summary, Result<()>)> {
    let mut observer: Box<dyn Observer> = if files.is_for_programs() {
        Box::new(Events::new(quiet))
    } else {
        Box::new(Display::new(quiet || files.are_printed()))
    };
    warn_of_little_memory(End::Client, &workload.cores);
    let summary = lead(workload, &mut files.logging(observer.as_mut()), None)?;
    let document = ClientDocument::of(&summary)?;
    if !files.are_printed() {
        say(text::client(&document)?.trim_end());
    }
    let written = files.json.as_ref().map_or(Ok(()), |target| target.write_last(&document));
    let written = written.and(files.finish(&document, None));
    Ok((summary, written))
}

/// The signals that end a run in order, from before it begins.
pub struct Signals(Arc<Mutex<Watched>>);

#[derive(Default)]
struct Watched {
    came: bool,
    run: Option<Steering>,
}

impl Signals {
    /// Watches them from now on.
    pub fn watch() -> Result<Signals> {
        let watched = Arc::<Mutex<Watched>>::default();
        let theirs = watched.clone();
        on_signal(move || {
            let mut watched = theirs.lock().unwrap_or_else(PoisonError::into_inner);
            watched.came = true;
            watched.run.iter().for_each(Steering::stop);
        })?;
        Ok(Signals(watched))
    }

    /// Has them stop this run: at once, if one came before.
    fn stop(&self, run: Steering) {
        let mut watched = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if watched.came {
            run.stop();
        }
        watched.run = Some(run);
    }
}

/// Runs a client that a signal stops early, and that standard input steers if its course says so. `signals` are those that
/// are watched already, if they are.
pub fn lead(workload: Workload, observer: &mut dyn Observer, signals: Option<Signals>) -> Result<Summary> {
    if workload.tls.is_some() {
        hide_memory()?;
    }
    let run = Run::start(workload.clone())?;
    signals.map_or_else(Signals::watch, Ok)?.stop(run.steering());
    if workload.course == Course::Steered {
        steer::follow(run.steering())?;
    }
    let mut seen = Ok(());
    for event in run.events() {
        // The first error ends the run, and is what it came to.
        let taken = observer.take(&event, &workload);
        if seen.is_ok() && taken.is_err() {
            run.steering().stop();
            seen = taken;
        }
    }
    let summary = run.join()?;
    Ok(seen.map(|()| summary)?)
}

fn write_histogram(summary: &Summary, target: &Target) -> Result<()> {
    let connect = summary.merged(|shard| &shard.connect)?;
    let mut text = Vec::new();
    hgrm::write(&connect, &mut text).map_err(|e| CommandError::bug(format!("write a histogram into memory: {e}")))?;
    target.write(&text)
}
