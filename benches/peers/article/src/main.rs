//! The design of the articles on a million connections: one thread, one level-triggered epoll, 100
//! ports so that a client has enough address pairs, one accept or one read per event, whatever there is
//! read into one buffer and sent back at once. A client that does not read is dropped.

use std::collections::HashSet;
use std::io::ErrorKind;
use std::os::fd::{AsRawFd, RawFd};

use bench_support::contract::{self, BUFFER_BYTES, Contract};
use bench_support::sys::{self, Epoll, Event};

/// Readable, told again as long as it is so.
const LEVEL: u32 = libc::EPOLLIN as u32;

fn main() {
    let contract = Contract::from_command_line();
    let listeners = contract.listen_on(contract.all_ports());
    let epoll = Epoll::new().expect("the process has a descriptor left for epoll");
    for listener in &listeners {
        watch(&epoll, listener.as_raw_fd());
    }
    contract::ready();
    let listening: HashSet<RawFd> = listeners.iter().map(AsRawFd::as_raw_fd).collect();
    let mut buffer = [0; BUFFER_BYTES];
    let mut events = sys::no_events();
    loop {
        let came = epoll.wait(&mut events, -1).expect("epoll_wait fails only on a wrong argument");
        for &Event { u64: fd, .. } in &events[..came] {
            let fd = fd as RawFd;
            if listening.contains(&fd) {
                match sys::accept(fd) {
                    Ok(accepted) => watch(&epoll, accepted),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                    Err(error) => eprintln!("accepting: {error}"),
                }
            } else if !echo(fd, &mut buffer) {
                sys::close(fd);
            }
        }
    }
}

fn watch(epoll: &Epoll, fd: RawFd) {
    epoll.add(fd, LEVEL, fd as u64).expect("a socket can be watched");
}

/// Sends back what is there; tells whether the connection goes on.
fn echo(fd: RawFd, buffer: &mut [u8]) -> bool {
    match sys::receive(fd, buffer) {
        Ok(0) => false,
        Ok(count) => sys::send(fd, &buffer[..count]).is_ok_and(|sent| sent == count),
        Err(error) => matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted),
    }
}
