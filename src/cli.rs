//! The command line: what was typed, turned at once into plain options, and the commands that run
//! them. The only place that prints.

pub(crate) mod args;
mod client;
mod demo;
mod display;
mod doctor;
mod files;
mod live;
mod out;
mod report;
mod server;
pub(crate) mod steer;
mod tune;

use clap::{CommandFactory, Parser};

use crate::error::Result;
use args::{Arguments, Command, ReportCommand};

/// How a command that did not fail ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Everything that was asked for held.
    Well,
    /// The run came to its end, but not everything held; the report says what.
    Short,
}

impl Ended {
    /// The exit code: 0, or 1.
    pub fn exit_code(self) -> u8 {
        match self {
            Ended::Well => 0,
            Ended::Short => 1,
        }
    }
}

/// The definition of the command line, from which manual pages and shell completions are made.
#[doc(hidden)]
pub fn command() -> clap::Command {
    Arguments::command()
}

/// Runs the command that was typed. Wrong words end the process with code 2, as clap does.
pub fn run() -> Result<Ended> {
    match Arguments::parse().command {
        Command::Server(arguments) => server::run(&arguments),
        Command::Client(arguments) => client::run(&arguments),
        Command::Storm(arguments) => client::storm(&arguments),
        Command::Demo(arguments) => demo::run(&arguments),
        Command::Doctor(arguments) => doctor::run(&arguments),
        Command::Tune(arguments) => tune::run(&arguments),
        Command::Report(ReportCommand::Merge(arguments)) => report::merge(&arguments),
        Command::Report(ReportCommand::Html(arguments)) => report::html(&arguments),
        Command::Report(ReportCommand::Compare(arguments)) => report::compare(&arguments),
    }
}

/// Watches SIGINT and SIGTERM: the first calls `first`, the second ends the process at once.
fn on_signal(first: impl FnOnce() + Send + 'static) -> Result<()> {
    use signal_hook::consts::{SIGINT, SIGTERM};
    let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM])
        .map_err(|e| crate::error::Error::bug(format!("watching signals: {e}")))?;
    std::thread::spawn(move || {
        let mut coming = signals.forever();
        if coming.next().is_some() {
            first();
        }
        if let Some(second) = coming.next() {
            std::process::exit(128 + second);
        }
    });
    Ok(())
}
