//! The echo server: one pinned thread per core with its own epoll and its own listeners, so that
//! cores share nothing but the process's descriptor table.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::net::TcpListener;
use std::os::fd::{AsRawFd, RawFd};
use std::thread;

use crate::contract::{self, Contract};
use crate::sys::{self, ENDING, Epoll, Event, READ, READ_WRITE};

/// Set in an event's number when the descriptor is a listener.
const LISTENER: u64 = 1 << 32;

/// Does what the contract says, each core with its own share of the ports; calls `ready` once all of them listen. Runs until
/// the process is killed.
pub fn run(contract: &Contract, ready: impl FnOnce()) {
    sys::raise_open_files();
    let start = |(place, &core): (usize, &usize)| {
        let listeners = contract.listen_on(contract.ports_of(place));
        thread::spawn(move || {
            contract::pin(core);
            Shard::new(listeners).serve();
        })
    };
    let threads: Vec<_> = contract.cores.iter().enumerate().map(start).collect();
    ready();
    for thread in threads {
        thread.join().expect("a server thread runs until the process is killed");
    }
}

/// The server of one core. A connection is its descriptor and nothing else; its event's number is the descriptor.
struct Shard {
    epoll: Epoll,
    _listeners: Vec<TcpListener>,
    buffer: Vec<u8>,
    /// Bytes that slow readers have not taken yet. While they wait, nothing more is read from those connections.
    unsent: HashMap<RawFd, Vec<u8>>,
}

impl Shard {
    fn new(listeners: Vec<TcpListener>) -> Shard {
        let epoll = Epoll::new().expect("the process has a descriptor left for epoll");
        for listener in &listeners {
            let fd = listener.as_raw_fd();
            epoll.add(fd, READ, LISTENER | fd as u64).expect("a listener can be watched");
        }
        Shard { epoll, _listeners: listeners, buffer: vec![0; 16 * 1024], unsent: HashMap::new() }
    }

    fn serve(mut self) {
        let mut events = sys::no_events();
        loop {
            let came = self.epoll.wait(&mut events, -1).expect("epoll_wait fails only on a wrong argument");
            for &Event { events: flags, u64: number } in &events[..came] {
                let fd = number as u32 as RawFd;
                if number & LISTENER != 0 {
                    self.accept_all(fd);
                } else if self.unsent.is_empty() || self.flush(fd) {
                    self.echo(fd, flags);
                }
            }
        }
    }

    /// Edge-triggered: the queue must be emptied, because epoll does not report again what is left.
    fn accept_all(&self, listener: RawFd) {
        loop {
            match sys::accept(listener) {
                Ok(fd) => self.epoll.add(fd, READ, fd as u64).expect("an accepted socket can be watched"),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                // The peer gave up while it waited in the queue.
                Err(error) if matches!(error.kind(), ErrorKind::ConnectionAborted | ErrorKind::Interrupted) => {}
                Err(error) => panic!("accepting: {error}; this server takes no more connections than nofile allows"),
            }
        }
    }

    /// Sends back what has come, until a short read shows that there is no more.
    fn echo(&mut self, fd: RawFd, flags: u32) {
        loop {
            let count = match sys::receive(fd, &mut self.buffer) {
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(_) => 0,
            };
            if count == 0 {
                return sys::close(fd);
            }
            match sys::send(fd, &self.buffer[..count]) {
                Ok(sent) if sent == count => {}
                Ok(sent) => return self.keep(fd, sent..count),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return self.keep(fd, 0..count),
                Err(_) => return sys::close(fd),
            }
            if count < self.buffer.len() && flags & ENDING == 0 {
                return;
            }
        }
    }

    /// Keeps bytes that a slow reader has no room for, and waits until its socket is writable.
    fn keep(&mut self, fd: RawFd, rest: std::ops::Range<usize>) {
        self.unsent.insert(fd, self.buffer[rest].to_vec());
        self.epoll.change(fd, READ_WRITE, fd as u64).expect("a watched socket can be watched differently");
    }

    /// Sends what was kept for this connection. Returns whether it may be read from again.
    fn flush(&mut self, fd: RawFd) -> bool {
        let Some(rest) = self.unsent.get_mut(&fd) else { return true };
        match sys::send(fd, rest) {
            Ok(sent) if sent < rest.len() => {
                rest.drain(..sent);
                false
            }
            Ok(_) => {
                self.unsent.remove(&fd);
                // After this change epoll reports again what came meanwhile, with its own flags; so it is not read now.
                self.epoll.change(fd, READ, fd as u64).expect("a watched socket can be watched differently");
                false
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => false,
            Err(_) => {
                self.unsent.remove(&fd);
                sys::close(fd);
                false
            }
        }
    }
}
