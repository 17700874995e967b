//! A standard stream whose reads wait, whatever another process has made of it.

use std::io::{self, ErrorKind, Read};
use std::os::fd::AsFd;

use crate::sys;

/// A standard stream whose reads wait.
///
/// Processes that got a terminal or a pipe from one parent share its flags. One of them may have made it non-blocking, as
/// Node.js and ssh do: then each read that would have to wait fails with EAGAIN in all of them.
#[derive(Debug)]
pub struct Blocking<S>(pub S);

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
