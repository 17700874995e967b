//! Standard output, which may be closed at any time or have a reader that stops reading, and files that are opened before
//! a long run.

use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde::Serialize;

use super::Blocking;
use crate::command_error::{CommandError, Result};
use crate::error::{self, Errno};
use crate::output::{self, Output, Stream};
use crate::render::json;
use crate::sys;

/// How long a run waits for a reader of its lines. Then lines are left out until he reads again.
const PATIENCE: Duration = Duration::from_secs(1);

/// Prints a line. If standard output has no reader any more, this succeeds silently. If the line cannot be written
/// for another reason, such as a full disk behind a redirection, one warning goes to standard error.
pub fn say(line: impl AsRef<str>) {
    static WARNED: Once = Once::new();
    if let Err(error) = print(line.as_ref()) {
        WARNED.call_once(|| {
            let errno = Errno::of(&error);
            warn(format!("standard output: {errno}: what is printed is incomplete; {}", output::cure(errno)));
        });
    }
}

/// Prints a line. A missing reader is no error: a pipe was closed, or a terminal is gone (EIO).
fn print(line: &str) -> io::Result<()> {
    let mut stdout = Blocking(io::stdout().lock());
    match writeln!(stdout, "{line}").and_then(|()| stdout.flush()) {
        Err(e) if e.kind() == ErrorKind::BrokenPipe => Ok(()),
        Err(e) if e.raw_os_error() == Some(Errno::EIO.0) && !output::prints_to_file() => Ok(()),
        done => done,
    }
}

/// Prints a line about a run that goes on, unless its reader is gone: a reader that stops must not stop the run.
pub fn show(line: impl AsRef<str>) {
    static STOPPED: AtomicBool = AtomicBool::new(false);
    static WARNED: Once = Once::new();
    if is_read(&io::stdout(), &STOPPED) {
        return say(line);
    }
    WARNED.call_once(|| {
        warn("standard output: its reader has stopped reading: lines are left out meanwhile; read on, or print to a file");
    });
}

/// Prints an event as one line of JSON, as `show` does.
pub fn event(event: &impl Serialize) {
    // A value made of plain fields always serializes.
    show(serde_json::to_string(event).unwrap_or_default());
}

/// Prints a line to standard error, as `show` does.
pub fn warn(line: impl AsRef<str>) {
    static STOPPED: AtomicBool = AtomicBool::new(false);
    if is_read(&io::stderr(), &STOPPED) {
        // If standard error fails too, there is no place left for the warning.
        let _ = Blocking(io::stderr().lock()).write_all(format!("c1m: {}\n", line.as_ref()).as_bytes());
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

/// Whether a line can be written without waiting, for `PATIENCE` at most. `stopped` says whether the line before had to be
/// left out, after which there is no patience.
fn is_read(stream: &impl AsFd, stopped: &AtomicBool) -> bool {
    let patience = if stopped.load(Ordering::Relaxed) { Duration::ZERO } else { PATIENCE };
    let read = sys::is_writable(stream, patience);
    stopped.store(!read, Ordering::Relaxed);
    read
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
            Target::Stdout => Ok(TargetStream::Stdout(Blocking(io::stdout()))),
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
    Stdout(Blocking<io::Stdout>),
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
