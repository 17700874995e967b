//! Steering a client by lines on standard input.

use std::io::{BufRead, Read};
use std::sync::mpsc;

use super::out::warn;
use crate::client::Notice;

/// Bytes of a line at most; what is longer is no word of ours, and is answered piece by piece.
const LONGEST_LINE: u64 = 256;

/// Hands the words of standard input to a steered client, on a thread of its own, until one closes
/// it. The end of the input closes it too: nobody is left to say it.
pub fn follow(notices: mpsc::Sender<Notice>) {
    std::thread::spawn(move || {
        let mut input = std::io::stdin().lock();
        let mut next = || {
            let mut line = Vec::new();
            let read = input.by_ref().take(LONGEST_LINE).read_until(b'\n', &mut line);
            read.is_ok_and(|bytes| bytes > 0).then_some(line)
        };
        while let Some(line) = next() {
            match line.trim_ascii() {
                b"audit" => drop(notices.send(Notice::Audit)),
                b"report" => drop(notices.send(Notice::Report)),
                b"close" => break,
                other => warn(format!(
                    "standard input: {:?} is no word that a steered client knows; the words are audit, report and close",
                    String::from_utf8_lossy(other)
                )),
            }
        }
        // A run that has ended needs to be told nothing.
        let _ = notices.send(Notice::Close);
    });
}
