//! Reads lines from standard input that steer a client.

use std::io::{self, BufRead, BufReader, Read};

use super::Blocking;
use super::out::{warn, warn_of_input};
use crate::client::Steering;
use crate::command_error::Result;
use crate::host::start_thread;

/// The most bytes of a line that are kept. A longer line is no known word, and its rest is passed over.
pub(crate) const LONGEST_LINE: u64 = 256;

/// A word on a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Word {
    Audit,
    Report,
    /// The end of the input closes too, as no further word can come.
    Close,
    /// Any other line.
    Other(String),
}

impl Word {
    /// Reads the next line.
    pub fn read(input: &mut impl BufRead) -> io::Result<Word> {
        let mut line = Vec::new();
        let read = input.by_ref().take(LONGEST_LINE).read_until(b'\n', &mut line)?;
        let is_cut = line.len() as u64 == LONGEST_LINE && !line.ends_with(b"\n");
        if is_cut {
            // Where the rest cannot be read, neither can the next line.
            let _ = input.skip_until(b'\n');
        }
        Ok(match line.trim_ascii() {
            _ if read == 0 => Word::Close,
            start if is_cut => Word::Other(format!("{}…", String::from_utf8_lossy(start))),
            b"audit" => Word::Audit,
            b"report" => Word::Report,
            b"close" => Word::Close,
            other => Word::Other(String::from_utf8_lossy(other).into_owned()),
        })
    }
}

/// Hands the words of standard input to a steered client, on a thread of its own, until one closes
/// it.
pub fn follow(steering: Steering) -> Result<()> {
    let obey = move || {
        let mut input = BufReader::new(Blocking(io::stdin()));
        let unreadable = |error: io::Error| {
            warn_of_input(&error, "no word can come, so the client closes; give it a pipe or a file");
            Word::Close
        };
        loop {
            match Word::read(&mut input).unwrap_or_else(unreadable) {
                Word::Audit => steering.audit(),
                Word::Report => steering.report(),
                Word::Close => break,
                Word::Other(other) => warn(format!(
                    "standard input: {other:?} is no word that a steered client knows; the words are audit, report and close"
                )),
            }
        }
        steering.close();
    };
    start_thread("c1m-steer", obey)?;
    Ok(())
}
