//! The command line: arguments are turned into plain options, and the commands run them. Only this module prints.

pub(crate) mod args;
mod blocking;
mod client;
pub(crate) mod demo;
mod diagnostics;
mod display;
mod doctor;
mod files;
mod hibernation;
mod live;
mod numbers;
mod observer;
mod out;
mod report;
mod server;
pub(crate) mod steer;
mod tune;
mod unhurried;

use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::error::{ContextKind, ContextValue};
use clap::{CommandFactory, FromArgMatches};
use terminal_size::terminal_size;

use crate::command_error::{CommandError, Result};
use crate::error::{Errno, Error, HostError, HostReason};
use crate::host::{Cores, Host, start_thread};
use crate::memory_model::{End, Process};
use crate::{format, output, sys};
use args::{Arguments, Command, ReportCommand};
use blocking::Blocking;
use out::Target;

pub use out::complain;

/// The end of a command that did not fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// All requested connections held.
    Well,
    /// The run came to its end, but some connections did not hold; the report says which.
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

/// Hides the memory of a process that is about to hold secrets.
fn hide_memory() -> Result<()> {
    Ok(sys::hide_memory().map_err(|error| Error::unexpected("hide", "the memory of this process", &error))?)
}

/// Runs the command of the process's arguments. Wrong arguments end the process with code 2, as clap does.
pub fn run() -> Result<Ended> {
    sys::end_at_panics_without_memory();
    have_stack()?;
    run_command()
}

/// The same on a stack that is large enough. The frame of this function has room for the arguments of every command, 10 KB,
/// so it must not be a part of its caller's.
#[inline(never)]
fn run_command() -> Result<Ended> {
    survive_harmless_signals()?;
    let command = match parse() {
        Ok(arguments) => arguments.command,
        Err(instead) => return say_instead(without_password(numbers::explained(instead))),
    };
    let words = command.words();
    let ended = match command {
        Command::Server(arguments) => server::run(&arguments),
        Command::Client(arguments) => client::run(&arguments),
        Command::Storm(arguments) => client::storm(&arguments),
        Command::Fanout(arguments) => client::fanout(&arguments),
        Command::Demo(arguments) => demo::run(&arguments),
        Command::Doctor(arguments) => doctor::run(&arguments),
        Command::Tune(arguments) => tune::run(&arguments),
        Command::Report(ReportCommand::Merge(arguments)) => report::merge(&arguments),
        Command::Report(ReportCommand::Html(arguments)) => report::html(&arguments),
        Command::Report(ReportCommand::Compare(arguments)) => report::compare(&arguments),
    };
    out::settle();
    ended.map_err(|error| error.in_words(words))
}

/// Columns of what is no terminal, for clap.
const COLUMNS: usize = 100;

/// The arguments of this process. Where COLUMNS is 0, as in a job that has no terminal, clap would print one word of its help
/// on each line.
fn parse() -> std::result::Result<Arguments, clap::Error> {
    let mut line = Arguments::command();
    if std::env::var("COLUMNS").is_ok_and(|columns| columns.parse() == Ok(0)) && terminal_size().is_none() {
        line = line.term_width(COLUMNS);
    }
    let mut matches = line.try_get_matches_from_mut(std::env::args_os())?;
    Arguments::from_arg_matches_mut(&mut matches).map_err(|error| error.format(&mut line))
}

/// Prints what clap prints instead of a run: an error, or the help that was asked for. clap itself would leave the rest out
/// where a stream is full and does not block.
fn say_instead(instead: clap::Error) -> Result<Ended> {
    let text = instead.render().to_string();
    if instead.use_stderr() {
        if !io::stderr().is_terminal() {
            complain(&text);
            std::process::exit(instead.exit_code());
        }
    } else if !io::stdout().is_terminal() {
        return Target::Stdout.write(text.as_bytes()).map(|()| Ended::Well);
    }
    // On a terminal clap has colours.
    instead.exit()
}

/// clap repeats a value that it refuses. What is refused of a URL may be the name and the password in it, which no log is to
/// have.
fn without_password(mut error: clap::Error) -> clap::Error {
    if let Some(ContextValue::String(value)) = error.get(ContextKind::InvalidValue)
        && let Some((_, server)) = value.rsplit_once('@')
    {
        let shown = ContextValue::String(format!("…@{server}"));
        error.insert(ContextKind::InvalidValue, shown);
    }
    error
}

/// How long further signals are the same wish as the first one. timeout(1) signals the process and then its group, and
/// programs that start others pass on what the terminal has sent to all of them.
const ONE_WISH: Duration = Duration::from_millis(300);

/// Watches the signals that end a run. The first signal calls `first`; a further SIGINT, SIGTERM or SIGQUIT that comes later
/// than `ONE_WISH` ends the process at once. Others do nothing more: when a terminal goes away, the kernel and the shell may
/// each send SIGHUP, the kernel sends SIGXCPU every second from the limit on processor time on, and a timer may repeat
/// itself.
fn on_signal(first: impl FnOnce() + Send + 'static) -> Result<()> {
    watch_signals(sys::ending_signals(), |_| true, first)
}

/// The same, but SIGHUP calls `reload` each time, and ends nothing. A process that was started with SIGHUP ignored, as
/// nohup(1) does, heeds it too.
fn on_signal_or_hangup(reload: impl Fn() + Send + 'static, first: impl FnOnce() + Send + 'static) -> Result<()> {
    let hangup = signal_hook::consts::SIGHUP;
    let others = sys::ending_signals().filter(|signal| *signal != hangup);
    let ends = move |signal: i32| {
        if signal == hangup {
            reload();
        }
        signal != hangup
    };
    watch_signals(others.chain([hangup]), ends, first)
}

/// Watches some signals. Those for which `ends` is false are over with that call.
fn watch_signals(
    which: impl Iterator<Item = i32>,
    ends: impl Fn(i32) -> bool + Send + 'static,
    first: impl FnOnce() + Send + 'static,
) -> Result<()> {
    let signals = sys::Signals::catch(which)
        .map_err(|e| HostError::new("watch", "signals", Errno::of(&e), HostReason::NoDescriptor))?;
    let wait = move || {
        let mut coming = signals.filter(|signal| ends(*signal));
        if coming.next().is_none() {
            return;
        }
        first();
        let came = Instant::now();
        let insists = [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM, signal_hook::consts::SIGQUIT];
        if let Some(second) = coming.find(|signal| insists.contains(signal) && came.elapsed() >= ONE_WISH) {
            output::abandon();
            std::process::exit(128 + second);
        }
    };
    start_thread("c1m-signals", wait)?;
    Ok(())
}

/// Says so where a process with a shard on each of these cores may take more memory than is left before it has any
/// connection: the kernel then kills it without a reason.
fn warn_of_little_memory(end: End, cores: &Cores) {
    let host = Host::here();
    // Cores that cannot be used are refused where the run is planned.
    let Ok(cores) = host.choose_cores(cores) else { return };
    let shards = cores.len() as u64;
    let process = Process { shards, rings: shards, ..Process::default() };
    let needed = process.bytes(end, host.kernel_version()) as u64;
    if let Some(limit) = host.memory_left().into_iter().find(|limit| limit.left < needed) {
        out::warn(format!(
            "{}: {} left of {}: the kernel may kill this process, which takes {} before its first connection; free memory, raise the limit (MemoryMax=, MemoryHigh=, --memory of a container), or use fewer --cores",
            limit.name,
            format::bytes(limit.left),
            format::bytes(limit.total),
            format::bytes(needed)
        ));
    }
}

/// The file of this program, for a command that starts it a second time.
pub(crate) fn this_program() -> Result<PathBuf> {
    std::env::current_exe().map_err(|_| {
        CommandError::host(
            "/proc/self/exe cannot be read",
            "it leads to this program's file, which this command starts a second time",
            "mount /proc (mount -t proc proc /proc)",
        )
    })
}

/// Makes signals harmless that are not meant to end a run. It installs handlers: a process that this one starts would
/// inherit an ignored signal, and does not inherit a handler.
pub fn survive_harmless_signals() -> Result<()> {
    for signal in sys::HARMLESS_SIGNALS {
        let caught = signal_hook::flag::register(signal, Arc::default());
        caught.map_err(|e| CommandError::bug(format!("watch signal {signal}: {e}")))?;
    }
    Ok(())
}

/// Bytes of the main thread's stack. A release build was seen to do with 128 KiB, for results that are nested as deep as is
/// read, and a debug build not with 512 KiB.
const STACK: u64 = if cfg!(debug_assertions) { 1 << 20 } else { 256 << 10 };

/// Raises the limit on this thread's stack if it is too low: the kernel lets the stack grow up to the limit that is in force
/// at that moment (`acct_stack_growth`). Without this, a deep call would end the process by SIGSEGV. For the other threads,
/// the standard library takes the size from `RUST_MIN_STACK`, 2 MiB if that is no number.
fn have_stack() -> Result<()> {
    let others = std::env::var("RUST_MIN_STACK").ok().and_then(|bytes| bytes.parse::<u64>().ok());
    if let Some(bytes) = others.filter(|bytes| *bytes < STACK) {
        return Err(CommandError::usage(
            format!("RUST_MIN_STACK={bytes}"),
            format!("this program's threads need {STACK} bytes of stack"),
            "unset it",
        ));
    }
    let limit = sys::Resource::Stack.read()?;
    if limit.soft >= STACK || sys::Resource::Stack.raise_to(STACK)?.1.soft >= STACK {
        return Ok(());
    }
    Err(CommandError::host(
        format!("stack limit {} bytes", limit.hard),
        format!("this program's main thread needs {STACK}"),
        "raise the hard limit (ulimit -Hs, LimitSTACK=)",
    ))
}
