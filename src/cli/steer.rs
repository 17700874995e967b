//! Steering a client by lines on standard input.

use std::io::{BufRead, Read};
use std::sync::mpsc;

use super::out::warn;
use crate::client::Notice;
use crate::command_error::Result;
use crate::host::start_thread;

/// Bytes of a line at most; what is longer is no word of ours, and is answered piece by piece.
pub(crate) const LONGEST_LINE: u64 = 256;

/// What a line says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Word {
    Audit,
    Report,
    /// So does the end of the input: nobody is left to say it.
    Close,
    /// No word of ours.
    Other(String),
}

impl Word {
    /// Reads the next line.
    pub fn read(input: &mut impl BufRead) -> Word {
        let mut line = Vec::new();
        let read = input.take(LONGEST_LINE).read_until(b'\n', &mut line);
        match line.trim_ascii() {
            _ if !read.is_ok_and(|bytes| bytes > 0) => Word::Close,
            b"audit" => Word::Audit,
            b"report" => Word::Report,
            b"close" => Word::Close,
            other => Word::Other(String::from_utf8_lossy(other).into_owned()),
        }
    }
}

/// Hands the words of standard input to a steered client, on a thread of its own, until one closes
/// it.
pub fn follow(notices: mpsc::Sender<Notice>) -> Result<()> {
    let obey = move || {
        let mut input = std::io::stdin().lock();
        loop {
            match Word::read(&mut input) {
                Word::Audit => drop(notices.send(Notice::Audit)),
                Word::Report => drop(notices.send(Notice::Report)),
                Word::Close => break,
                Word::Other(other) => warn(format!(
                    "standard input: {other:?} is no word that a steered client knows; the words are audit, report and close"
                )),
            }
        }
        // A run that has ended needs to be told nothing.
        let _ = notices.send(Notice::Close);
    };
    start_thread("c1m-steer", obey)?;
    Ok(())
}
