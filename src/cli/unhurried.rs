//! Writing to a reader that may stop reading: a pager, a terminal after Ctrl-S, a pipe that nobody empties.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use crate::sys;

/// Bytes that are written at a time. A pipe that takes anything without waiting takes as many (PIPE_BUF of pipe(7)).
const PIECE: usize = 4_096;

/// A stream that tells whether it takes anything without waiting.
pub trait Ready: Write {
    /// Waits for that, `most` at most.
    fn is_ready(&self, most: Duration) -> bool;
}

/// A stream whose reader holds up nobody: what he does not take at once waits here, and is written with what comes next.
#[derive(Debug)]
pub struct Unhurried<S> {
    to: S,
    waiting: VecDeque<u8>,
    most: usize,
}

impl<S: Ready> Unhurried<S> {
    /// A stream behind which up to `most` bytes may wait, and what is written at once.
    pub fn new(to: S, most: usize) -> Unhurried<S> {
        Unhurried { to, waiting: VecDeque::new(), most }
    }

    /// Whether the reader has not taken everything yet.
    pub fn lags(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Whether the reader takes everything at once, also what has waited for him so far.
    pub fn is_read(&mut self) -> bool {
        self.catch_up(Duration::ZERO).is_ok() && !self.lags() && self.to.is_ready(Duration::ZERO)
    }

    /// Writes all of it, however long the reader takes.
    pub fn write_all_waiting(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.waiting.extend(bytes);
        self.flush()
    }

    /// Writes what the reader takes within this time; the rest goes on waiting. If writing fails, all that waits is dropped.
    pub fn catch_up(&mut self, patience: Duration) -> io::Result<()> {
        let until = Instant::now().checked_add(patience);
        while self.lags() {
            let left = until.map_or(Duration::MAX, |until| until.saturating_duration_since(Instant::now()));
            if !self.to.is_ready(left) {
                break;
            }
            let piece = self.waiting.as_slices().0;
            match self.to.write(&piece[..piece.len().min(PIECE)]) {
                Ok(written) => drop(self.waiting.drain(..written)),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // Another process was faster.
                Err(error) if error.kind() == ErrorKind::WouldBlock && !left.is_zero() => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => {
                    self.waiting.clear();
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// The stream, when its reader has taken everything.
    pub fn finish(mut self) -> io::Result<S> {
        self.flush()?;
        Ok(self.to)
    }
}

impl<S: Ready> Write for Unhurried<S> {
    /// Takes all of the bytes, or none: the error is `WouldBlock` while too many wait for the reader.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.catch_up(Duration::ZERO)?;
        if self.waiting.len() >= self.most {
            return Err(ErrorKind::WouldBlock.into());
        }
        self.waiting.extend(bytes);
        self.catch_up(Duration::ZERO)?;
        Ok(bytes.len())
    }

    /// Waits until the reader has taken everything.
    fn flush(&mut self) -> io::Result<()> {
        self.catch_up(Duration::MAX)?;
        self.to.flush()
    }
}

/// A standard stream, without a buffer.
#[derive(Debug)]
pub enum Standard {
    Out(io::Stdout),
    Err(io::Stderr),
    /// The terminal that the stream is, in an open file of our own that does not block. Ctrl-S may stop a terminal at any
    /// instant, and one that is nearly full takes less than a line.
    Terminal(std::fs::File),
}

impl Standard {
    /// Standard output.
    pub fn output() -> Standard {
        Standard::of(Standard::Out(io::stdout()))
    }

    /// Standard error.
    pub fn error() -> Standard {
        Standard::of(Standard::Err(io::stderr()))
    }

    fn of(stream: Standard) -> Standard {
        let terminal = stream.as_fd().is_terminal().then(|| sys::open_terminal(&stream));
        // A terminal of another user cannot be opened.
        terminal.and_then(Result::ok).map_or(stream, Standard::Terminal)
    }
}

impl AsFd for Standard {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Standard::Out(stream) => stream.as_fd(),
            Standard::Err(stream) => stream.as_fd(),
            Standard::Terminal(file) => file.as_fd(),
        }
    }
}

impl Ready for Standard {
    fn is_ready(&self, most: Duration) -> bool {
        sys::is_writable(self, most)
    }
}

impl Write for Standard {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        sys::write(self, bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    impl Ready for io::PipeWriter {
        fn is_ready(&self, most: Duration) -> bool {
            sys::is_writable(self, most)
        }
    }

    /// Nothing of what was taken is lost, and what is too much is refused whole.
    #[test]
    fn what_a_reader_does_not_take_waits_for_him() {
        const MOST: usize = 100_000;
        let (mut reader, writer) = io::pipe().unwrap();
        let mut stream = Unhurried::new(writer, MOST);
        let line = [b'x'; 7_000];
        let mut taken = 0;
        let refused = loop {
            match stream.write(&line) {
                Ok(written) => taken += written,
                Err(error) => break error,
            }
        };
        assert_eq!(refused.kind(), ErrorKind::WouldBlock);
        assert!(stream.lags() && taken >= MOST && taken % line.len() == 0, "{taken}");
        let reader = std::thread::spawn(move || {
            let mut all = Vec::new();
            reader.read_to_end(&mut all).unwrap();
            all.len()
        });
        stream.write_all_waiting(&line).unwrap();
        assert!(!stream.lags());
        drop(stream.finish().unwrap());
        assert_eq!(reader.join().unwrap(), taken + line.len());
    }

    #[test]
    fn a_reader_who_reads_on_gets_what_waited() {
        let (mut reader, writer) = io::pipe().unwrap();
        let mut stream = Unhurried::new(writer, 1 << 20);
        let mut taken = 0;
        while stream.is_read() {
            taken += stream.write(&[b'x'; 7_000]).unwrap();
        }
        taken += stream.write(b"the last line").unwrap();
        let mut all = vec![0; taken];
        let reader = std::thread::spawn(move || reader.read_exact(&mut all).map(|()| all));
        while !stream.is_read() {}
        assert!(reader.join().unwrap().unwrap().ends_with(b"the last line"));
    }

    #[test]
    fn without_a_reader_nothing_waits() {
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        let mut stream = Unhurried::new(writer, 100);
        assert_eq!(stream.write(b"line").unwrap_err().kind(), ErrorKind::BrokenPipe);
        assert!(!stream.lags());
    }
}
