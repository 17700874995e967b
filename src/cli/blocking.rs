//! Standard streams that wait, whatever another process has made of them.

use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsFd;

use crate::sys;

/// A standard stream whose reads and writes wait.
///
/// Processes that got a terminal or a pipe from one parent share its flags. One of them may have made it non-blocking, as
/// Node.js and ssh do: then each read or write that would have to wait fails with EAGAIN in all of them.
#[derive(Debug)]
pub struct Blocking<S>(pub S);

impl<S: Write + AsFd> Write for Blocking<S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match self.0.write(bytes) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => sys::wait_until_writable(&self.0),
                done => return done,
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        loop {
            match self.0.flush() {
                Err(error) if error.kind() == ErrorKind::WouldBlock => sys::wait_until_writable(&self.0),
                done => return done,
            }
        }
    }
}

impl<S: Read + AsFd> Read for Blocking<S> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.0.read(into) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => sys::wait_until_readable(&self.0),
                done => return done,
            }
        }
    }
}
