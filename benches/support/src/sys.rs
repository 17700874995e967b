//! The system calls of the reference and of the comparison, made safe to call.
#![allow(unsafe_code, reason = "system calls; each block says why it is sound")]

use std::io;
use std::mem;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

/// What every connection is watched for: readable or half-closed, reported once per change.
pub const READ: u32 = (libc::EPOLLIN | libc::EPOLLRDHUP | libc::EPOLLET) as u32;
/// `READ`, and also room to write.
pub const READ_WRITE: u32 = READ | libc::EPOLLOUT as u32;
/// The connection has ended, or its peer has sent a FIN: another read must follow a short one.
pub const ENDING: u32 = (libc::EPOLLRDHUP | libc::EPOLLHUP | libc::EPOLLERR) as u32;

/// Events taken in one `epoll_wait`.
pub const EVENTS: usize = 512;

/// One event: what happened, and the number under which the descriptor was registered.
pub type Event = libc::epoll_event;

/// An epoll instance.
pub struct Epoll(OwnedFd);

impl Epoll {
    pub fn new() -> io::Result<Epoll> {
        // SAFETY: takes no pointer.
        let fd = check(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
        // SAFETY: the kernel just made this descriptor, and no other code knows it.
        Ok(Epoll(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    pub fn add(&self, fd: RawFd, interest: u32, number: u64) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, fd, interest, number)
    }

    /// Changes the interest. epoll reports again what is already true.
    pub fn change(&self, fd: RawFd, interest: u32, number: u64) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_MOD, fd, interest, number)
    }

    fn control(&self, operation: i32, fd: RawFd, interest: u32, number: u64) -> io::Result<()> {
        let mut event = Event { events: interest, u64: number };
        // SAFETY: the event outlives the call, which copies it.
        check(unsafe { libc::epoll_ctl(self.0.as_raw_fd(), operation, fd, &mut event) }).map(drop)
    }

    /// Waits for events, `timeout` milliseconds at most or for ever if negative. Returns how many came.
    pub fn wait(&self, events: &mut [Event; EVENTS], timeout: i32) -> io::Result<usize> {
        loop {
            // SAFETY: the kernel writes at most `EVENTS` events into an array of that length.
            let came = unsafe { libc::epoll_wait(self.0.as_raw_fd(), events.as_mut_ptr(), EVENTS as i32, timeout) };
            match check(came) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                came => return came.map(|came| came as usize),
            }
        }
    }
}

/// An array for `Epoll::wait`.
pub fn no_events() -> [Event; EVENTS] {
    [Event { events: 0, u64: 0 }; EVENTS]
}

/// Takes the next connection from a listener. The caller closes it.
pub fn accept(listener: RawFd) -> io::Result<RawFd> {
    let flags = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: null pointers say that the peer's address is not wanted.
    check(unsafe { libc::accept4(listener, std::ptr::null_mut(), std::ptr::null_mut(), flags) })
}

/// Receives what is there, up to the buffer's length. `recv` and `send` rather than `read` and
/// `write`: those take the way through the VFS, and the echo bench then loses about 3 %.
pub fn receive(fd: RawFd, buffer: &mut [u8]) -> io::Result<usize> {
    // SAFETY: the kernel writes at most `len` bytes into a buffer of that length.
    let count = unsafe { libc::recv(fd, buffer.as_mut_ptr().cast(), buffer.len(), 0) };
    usize::try_from(count).map_err(|_| io::Error::last_os_error())
}

/// Sends as much as there is room for.
pub fn send(fd: RawFd, bytes: &[u8]) -> io::Result<usize> {
    // SAFETY: the kernel reads at most `len` bytes from a slice of that length.
    let count = unsafe { libc::send(fd, bytes.as_ptr().cast(), bytes.len(), libc::MSG_NOSIGNAL) };
    usize::try_from(count).map_err(|_| io::Error::last_os_error())
}

/// Closes a descriptor that came from `accept`.
pub fn close(fd: RawFd) {
    // SAFETY: takes no pointer. Nothing can be done about an error: the descriptor is gone anyway.
    unsafe { libc::close(fd) };
}

/// Keeps the calling thread on one core.
pub fn pin(core: usize) -> io::Result<()> {
    // SAFETY: a cpu_set_t is plain bits, for which all zeros is the empty set.
    let mut set: libc::cpu_set_t = unsafe { mem::zeroed() };
    // SAFETY: CPU_SET checks the index against the set's size.
    unsafe { libc::CPU_SET(core, &mut set) };
    // SAFETY: the set lives through the call, and its true size is given.
    check(unsafe { libc::sched_setaffinity(0, size_of_val(&set), &set) }).map(drop)
}

/// Raises the soft limit of open files to the hard one, and returns it.
pub fn raise_open_files() -> usize {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the kernel fills the structure, which lives through the call.
    check(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) }).expect("the limit of open files can be read");
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: the kernel reads the structure, which lives through the call.
    let raised = check(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) });
    raised.expect("the limit of open files can be raised to the hard limit");
    usize::try_from(limit.rlim_cur).unwrap_or(usize::MAX)
}

/// Has the kernel kill what the command starts when the thread that starts it ends, however that ends: a server
/// left behind would share its ports with the next one (SO_REUSEPORT) and spoil its figures.
pub fn dying_with_us(command: &mut Command) -> &mut Command {
    // SAFETY: PR_SET_PDEATHSIG takes a number and no pointer.
    let die_with_parent = || check(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) }).map(drop);
    // SAFETY: the closure makes one system call, allocates nothing and takes no lock.
    unsafe { command.pre_exec(die_with_parent) }
}

/// Kills every process of a group, if it has any.
pub fn kill_group(leader: u32) {
    let Ok(group) = i32::try_from(leader) else { return };
    // SAFETY: takes no pointer. It fails only if no process of the group is left.
    unsafe { libc::kill(-group, libc::SIGKILL) };
}

fn check(result: i32) -> io::Result<i32> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
