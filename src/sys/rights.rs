//! Descriptors from one process to another: over a Unix socket (SCM_RIGHTS, unix(7)), or from the one that started this
//! process (LISTEN_FDS, sd_listen_fds(3)).

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType, connect, recvmsg, sendmsg, socket_with,
};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// Descriptors of one message at most (`SCM_MAX_FD` in include/net/scm.h).
pub const MOST_RIGHTS: usize = 253;

/// Room for the descriptors of one message.
const SPACE: usize = rustix::cmsg_space!(ScmRights(MOST_RIGHTS));

/// Sends bytes with descriptors, `MOST_RIGHTS` at most, and returns how many bytes the kernel took: one at least, and all
/// of the descriptors with it. Fails with ETOOMANYREFS if more descriptors are on their way between processes of this
/// user than RLIMIT_NOFILE (`too_many_unix_fds` in net/core/scm.c).
pub fn send_rights(socket: &impl AsFd, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); SPACE];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "too many descriptors in one message"));
    }
    loop {
        match sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL) {
            Err(rustix::io::Errno::INTR) => {}
            sent => return Ok(sent?),
        }
    }
}

/// Receives bytes, and the descriptors that came with them. Returns how many bytes; 0 at the end. Fails with EMFILE if
/// this process had no room for all of the descriptors; those are lost.
pub fn receive_rights(socket: &impl AsFd, bytes: &mut [u8], into: &mut Vec<OwnedFd>) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); SPACE];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = loop {
        match recvmsg(socket, &mut [IoSliceMut::new(bytes)], &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(rustix::io::Errno::INTR) => {}
            received => break received?,
        }
    };
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(descriptors) = message {
            into.extend(descriptors);
        }
    }
    if received.flags.contains(ReturnFlags::CTRUNC) {
        return Err(io::Error::from_raw_os_error(libc::EMFILE));
    }
    Ok(received.bytes)
}

/// Makes this process the one that others see at the other end of an inherited listener when they connect to it: they
/// see the one that called listen(2) last (`unix_listen` in net/unix/af_unix.c).
pub fn listen_in_own_name(listener: &UnixListener) -> io::Result<()> {
    /// As std has it.
    const BACKLOG: i32 = 128;
    Ok(rustix::net::listen(listener, BACKLOG)?)
}

/// Connects to a Unix socket and closes the connection. Fails with EAGAIN if its queue is full.
pub fn connect_without_waiting(path: &Path) -> io::Result<()> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    Ok(connect(&socket, &SocketAddrUnix::new(path)?)?)
}

/// The process at the other end of a socket, as it was when it connected or listened. rustix cannot tell of one that has no
/// number here, which is 0.
fn peer(socket: &UnixStream) -> io::Result<libc::ucred> {
    let mut peer = libc::ucred { pid: 0, uid: libc::uid_t::MAX, gid: libc::gid_t::MAX };
    let mut size = size_of_val(&peer) as libc::socklen_t;
    let into = (&raw mut peer).cast();
    // SAFETY: the kernel writes so many bytes at most, and their number; both outlive the call.
    let told =
        unsafe { libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_PEERCRED, into, &raw mut size) };
    if told == 0 { Ok(peer) } else { Err(io::Error::last_os_error()) }
}

/// Whether the process at the other end of a socket was this process's user, or root, when it connected or listened.
pub fn is_our_user(socket: &UnixStream) -> io::Result<bool> {
    let user = peer(socket)?.uid;
    Ok(user == 0 || user == rustix::process::geteuid().as_raw())
}

/// The process at the other end of a socket.
#[derive(Debug)]
pub struct OtherProcess {
    descriptor: OwnedFd,
    id: u32,
}

impl OtherProcess {
    /// The one that connected, or listened, at the other end. It must be running, and in a PID namespace that this one sees:
    /// `None` otherwise.
    pub fn at(socket: &UnixStream) -> io::Result<Option<OtherProcess>> {
        let Some(pid) = Pid::from_raw(peer(socket)?.pid) else { return Ok(None) };
        let id = pid.as_raw_nonzero().get().unsigned_abs();
        Ok(Some(OtherProcess { descriptor: pidfd_open(pid, PidfdFlags::empty())?, id }))
    }

    /// The number of the process.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Waits at most `most` for its end. Returns whether it has ended.
    pub fn ends_within(&self, most: Duration) -> bool {
        let until = Instant::now() + most;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
            match poll(&mut [PollFd::new(&self.descriptor, PollFlags::IN)], Some(&timeout)) {
                Err(rustix::io::Errno::INTR) => {}
                polled => return polled.is_ok_and(|ready| ready > 0),
            }
        }
    }
}

/// The Unix socket that a path names, by device and inode. The inode is no other socket's while a process has this one
/// open.
pub fn unix_socket_at(path: &Path) -> Option<(u64, u64)> {
    use std::os::unix::fs::{FileTypeExt, MetadataExt};
    let file = std::fs::symlink_metadata(path).ok()?;
    file.file_type().is_socket().then(|| (file.dev(), file.ino()))
}

/// The file of a descriptor, by device and inode. Sockets and files in memory have one each, and all BPF maps have the same.
pub fn file_of(descriptor: impl AsFd) -> io::Result<(u64, u64)> {
    let stat = rustix::fs::fstat(descriptor)?;
    Ok((stat.st_dev, stat.st_ino))
}

/// Sends one datagram with descriptors to a Unix socket, by its path or, behind an `@`, by its abstract name.
pub fn tell_datagram(to: &str, text: &str, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::SocketAddr;
    /// How long a receiver that takes nothing may delay this process.
    const PATIENCE: Duration = Duration::from_secs(5);
    let socket = UnixDatagram::unbound()?;
    socket.set_write_timeout(Some(PATIENCE))?;
    match to.strip_prefix('@') {
        Some(name) => socket.connect_addr(&SocketAddr::from_abstract_name(name)?)?,
        None => socket.connect(to)?,
    }
    send_rights(&socket, text.as_bytes(), descriptors).map(drop)
}

/// The descriptors that this process was given by the one that started it (sd_listen_fds_with_names(3)), with their
/// names: those whose names begin so. They are this process's own after the first call; a later one finds none.
pub fn given_descriptors(prefix: &str) -> Vec<(String, OwnedFd)> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    /// The number of the first one (`SD_LISTEN_FDS_START`).
    const FIRST: RawFd = 3;
    let variable = |name: &str| std::env::var(name).ok();
    let is_ours = variable("LISTEN_PID").and_then(|pid| pid.parse().ok()) == Some(std::process::id())
        && !TAKEN.swap(true, Ordering::SeqCst);
    let count = variable("LISTEN_FDS").and_then(|count| count.parse::<RawFd>().ok()).filter(|_| is_ours).unwrap_or(0);
    let names = variable("LISTEN_FDNAMES").unwrap_or_default();
    let mut names = names.split(':').map(str::to_owned);
    let mut own = |number: RawFd| {
        let name = names.next().filter(|name| name.starts_with(prefix))?;
        // SAFETY: the kernel takes two numbers. Descriptors without a file are left out.
        let is_open = unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) } == 0;
        // SAFETY: open, and given to this process for it to own; nothing else in it knows of it, as there is one first
        // call.
        is_open.then(|| (name, unsafe { OwnedFd::from_raw_fd(number) }))
    };
    (FIRST..FIRST.saturating_add(count)).filter_map(&mut own).collect()
}
