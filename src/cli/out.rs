//! Standard output that may be closed at any time, and files opened before a long run.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::Path;

use serde::Serialize;

use crate::error::{Errno, Error, Result};
use crate::render::json;

/// Prints a line. Once nobody reads standard output any more, silence is success.
pub fn say(line: impl AsRef<str>) {
    match writeln!(std::io::stdout().lock(), "{}", line.as_ref()) {
        Ok(()) => {}
        Err(e) if e.kind() == ErrorKind::BrokenPipe => {}
        // A full disk behind a redirection is told where it can still be read.
        Err(e) => warn(format!("standard output: {e}")),
    }
}

/// Prints an event, or the document that ends a run's events, as one line of JSON.
pub fn event(event: &impl Serialize) {
    // A value made of plain fields always serializes.
    say(serde_json::to_string(event).unwrap_or_default());
}

/// Prints a line to standard error.
pub fn warn(line: impl AsRef<str>) {
    // There is nowhere left to complain to.
    let _ = writeln!(std::io::stderr().lock(), "c1m: {}", line.as_ref());
}

/// Where a document goes: a file that was opened before the run, or standard output.
#[derive(Debug)]
pub enum Target {
    File(File),
    Stdout,
}

impl Target {
    /// Opens the file, so that a wrong path is told before a long run and not after; `-` is
    /// standard output.
    pub fn open(path: &Path) -> Result<Target> {
        if path.as_os_str() == "-" {
            return Ok(Target::Stdout);
        }
        File::create(path).map(Target::File).map_err(|e| {
            let name = path.display();
            Error::usage(
                format!("open {name}: {}", Errno::of(&e)),
                "the result could not be written there",
                "choose another file",
            )
        })
    }

    /// Writes a JSON document.
    pub fn write_json(&mut self, document: &impl Serialize) -> Result<()> {
        self.write_with(|into| json::write(document, into))
    }

    /// Writes with a writer.
    pub fn write_with(&mut self, write: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<()> {
        match self {
            Target::File(file) => write(file),
            Target::Stdout => {
                let mut text = Vec::new();
                write(&mut text)?;
                say(String::from_utf8_lossy(&text).trim_end());
                Ok(())
            }
        }
    }

    /// What writes there, piece by piece.
    pub fn into_writer(self) -> Box<dyn Write> {
        match self {
            Target::File(file) => Box::new(file),
            Target::Stdout => Box::new(std::io::stdout()),
        }
    }

    /// Whether it is standard output.
    pub fn is_stdout(&self) -> bool {
        matches!(self, Target::Stdout)
    }
}
