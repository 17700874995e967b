//! Standard output, which may be closed at any time or have a reader that stops reading, and files that are opened before
//! a long run.

use std::io::{self, ErrorKind, Write};
use std::path::Path;
use std::sync::{LazyLock, Mutex, MutexGuard, Once, PoisonError};
use std::time::Duration;

use serde::Serialize;

use super::unhurried::{Ready, Standard, Unhurried};
use crate::command_error::{CommandError, Result};
use crate::error::{self, Errno};
use crate::output::{self, Output, Stream};
use crate::render::json;
use crate::sys;

/// Bytes that wait for a reader that does not read. Beyond them lines are left out until the reader catches up.
const MOST_WAITING: usize = 64 << 10;

/// How long the end of a command waits for a reader of its lines.
const PATIENCE: Duration = Duration::from_secs(1);

/// A standard stream.
pub struct Printed(LazyLock<Mutex<Unhurried<Standard>>>);

pub static STDOUT: Printed = Printed(LazyLock::new(|| Mutex::new(Unhurried::new(Standard::output(), MOST_WAITING))));
pub static STDERR: Printed = Printed(LazyLock::new(|| Mutex::new(Unhurried::new(Standard::error(), MOST_WAITING))));

impl Printed {
    /// The stream, for the one who prints.
    pub fn lock(&self) -> MutexGuard<'_, Unhurried<Standard>> {
        // A thread that panicked has left whole lines behind.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Prints a line, however long its reader takes. If standard output has no reader any more, this succeeds silently. If the
/// line cannot be written for another reason, such as a full disk behind a redirection, one warning goes to standard error.
pub fn say(line: impl AsRef<str>) {
    if let Err(error) = print(line.as_ref()) {
        warn_of_output(&error);
    }
}

fn warn_of_output(error: &io::Error) {
    static WARNED: Once = Once::new();
    WARNED.call_once(|| {
        let errno = Errno::of(error);
        warn(format!("standard output: {errno}: what is printed is incomplete; {}", output::cure(errno)));
    });
}

/// Prints a line.
fn print(line: &str) -> io::Result<()> {
    forgiven(STDOUT.lock().write_all_waiting(format!("{line}\n").as_bytes()))
}

/// What came of printing. A missing reader is no error: a pipe was closed, or a terminal is gone (EIO).
fn forgiven(printed: io::Result<()>) -> io::Result<()> {
    match printed {
        Err(e) if e.kind() == ErrorKind::BrokenPipe => Ok(()),
        Err(e) if e.raw_os_error() == Some(Errno::EIO.0) && !output::prints_to_file() => Ok(()),
        done => done,
    }
}

/// Prints a line about a run that goes on, unless its reader is too far behind: a reader that stops must not stop the run.
pub fn show(line: impl AsRef<str>) {
    static WARNED: Once = Once::new();
    let shown = STDOUT.lock().write_all(format!("{}\n", line.as_ref()).as_bytes());
    match forgiven(shown) {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::WouldBlock => WARNED.call_once(|| {
            warn("standard output: its reader has stopped reading: lines are left out meanwhile; read on, or print to a file");
        }),
        Err(error) => warn_of_output(&error),
    }
}

/// Prints an event as one line of JSON, as `show` does.
pub fn event(event: &impl Serialize) {
    // A value made of plain fields always serializes.
    show(serde_json::to_string(event).unwrap_or_default());
}

/// Prints to standard error, however long its reader takes. If it is gone, there is no place left for the text.
pub fn complain(text: &str) {
    let _ = STDERR.lock().write_all_waiting(text.as_bytes());
}

/// Prints a line to standard error, as `show` does.
pub fn warn(line: impl AsRef<str>) {
    // If standard error fails too, there is no place left for the warning.
    let _ = STDERR.lock().write_all(format!("c1m: {}\n", line.as_ref()).as_bytes());
}

/// Writes what still waits of the lines about a run, as far as their readers take it in time.
pub fn settle() {
    for printed in [&STDOUT, &STDERR] {
        // What waits has a slow reader, and where he has gone nobody misses it.
        let _ = printed.lock().catch_up(PATIENCE);
    }
}

/// Says that standard input cannot be read, and what follows from that. Of a terminal that is gone (EIO) nothing is said: its
/// input has ended.
pub fn warn_of_input(error: &io::Error, follows: &str) {
    match Errno::of(error) {
        Errno::EIO => {}
        errno => warn(format!("standard input: {errno}: {follows}")),
    }
}

/// The destination of a document: a file that was checked before the run, or standard output.
#[derive(Debug)]
pub enum Target {
    File(Output),
    Stdout,
}

impl Target {
    /// Checks the file, so that a wrong path is an error before a long run and not after it. `-` and /dev/stdout
    /// are standard output.
    pub fn open(path: &Path) -> Result<Target> {
        if !output::is_stdout(path) {
            return Output::open(path).map(Target::File);
        }
        if sys::began_without_stdout() {
            return Err(CommandError::usage(
                "standard output is closed",
                "the result could not be written there",
                "open it (>FILE), or choose a file",
            ));
        }
        Ok(Target::Stdout)
    }

    /// Writes a JSON document.
    pub fn write_json(&self, document: &impl Serialize) -> Result<()> {
        self.write(json::text(document)?.as_bytes())
    }

    /// Writes a JSON document after a run's events. On standard output it is one line, as the events are.
    pub fn write_last(&self, document: &impl Serialize) -> Result<()> {
        match self {
            Target::File(_) => self.write_json(document),
            // A value made of plain fields always serializes.
            Target::Stdout => self.write(serde_json::to_string(document).unwrap_or_default().as_bytes()),
        }
    }

    /// Writes a whole document.
    pub fn write(&self, document: &[u8]) -> Result<()> {
        match self {
            Target::File(output) => output.write(document),
            Target::Stdout => print(String::from_utf8_lossy(document).trim_end()).map_err(|e| self.failed(&e)),
        }
    }

    /// Begins a document that is written piece by piece.
    pub fn stream(&self) -> io::Result<TargetStream> {
        match self {
            Target::File(output) => output.stream().map(TargetStream::File),
            Target::Stdout => Ok(TargetStream::Stdout(Standard::output())),
        }
    }

    /// The error for a document that could not be written there.
    pub fn failed(&self, error: &io::Error) -> CommandError {
        match self {
            Target::File(output) => output.failed(error),
            Target::Stdout => CommandError::host(
                format!("write standard output: {}", Errno::of(error)),
                "what came there is incomplete",
                output::cure(Errno::of(error)),
            ),
        }
    }

    /// Whether it is standard output.
    pub fn is_stdout(&self) -> bool {
        matches!(self, Target::Stdout)
    }
}

/// Prints a text for people, unless one of these documents goes to standard output, where it is alone.
pub fn print_beside<'a>(
    documents: impl IntoIterator<Item = &'a Target>,
    text: impl FnOnce() -> error::Result<String>,
) -> Result<()> {
    if documents.into_iter().any(Target::is_stdout) { Ok(()) } else { Target::Stdout.write(text()?.as_bytes()) }
}

/// A document that is written piece by piece.
#[derive(Debug)]
pub enum TargetStream {
    File(Stream),
    Stdout(Standard),
}

impl Ready for TargetStream {
    fn is_ready(&self, most: Duration) -> bool {
        match self {
            TargetStream::File(stream) => stream.device().is_none_or(|device| sys::is_writable(device, most)),
            TargetStream::Stdout(stdout) => stdout.is_ready(most),
        }
    }
}

impl Write for TargetStream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            TargetStream::File(stream) => stream.write(bytes),
            TargetStream::Stdout(stdout) => stdout.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            TargetStream::File(stream) => stream.flush(),
            TargetStream::Stdout(stdout) => stdout.flush(),
        }
    }
}

impl TargetStream {
    /// Ends the document. Only then does a file get its name.
    pub fn finish(self) -> io::Result<()> {
        match self {
            TargetStream::File(stream) => stream.finish(),
            TargetStream::Stdout(mut stdout) => stdout.flush(),
        }
    }
}
