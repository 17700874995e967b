//! The system interfaces that std does not offer: limits, timer slack, an eventfd that wakes a shard, TCP_INFO, raw
//! socket addresses, and a socket filter that announces data.

mod affinity;
mod allocator;
mod bpf;
mod catcher;
mod closed_output;
mod filter;
mod grace;
mod nameless;
mod network;
mod raw;
pub mod repair;
mod rights;
pub mod round_trip;
mod shared_memory;
mod signals;
#[cfg(test)]
pub(crate) mod skips;
mod start_memory;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::error::{Errno, HostError, HostReason, Result};

pub use affinity::{cores_allowed, pin_thread};
pub use allocator::{Allocator, end_at_panics_without_memory};
pub use bpf::Mapping;
pub use catcher::{Catcher, CatcherTerms, Caught, CaughtAt, CaughtSegment, MARK, NoPlace, Patience, Steering};
pub use closed_output::began_without_stdout;
pub use filter::{Filter, Notification};
pub use grace::GracePeriods;
pub use nameless::{give_name, open_nameless, path_of};
pub use network::OwnNetwork;
pub use raw::RawSender;
pub use rights::{
    MOST_RIGHTS, OtherProcess, connect_without_waiting, file_of, given_descriptors, is_our_user, listen_in_own_name,
    receive_rights, send_rights, tell_datagram, unix_socket_at,
};
pub use shared_memory::SharedMemory;
#[cfg(feature = "cli")]
pub use signals::Signals;
pub use signals::{HARMLESS_SIGNALS, ending_signals};
pub use start_memory::release_start_memory;

/// A resource limit: the value in force, and the value that it may be raised to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// The limit in force.
    pub soft: u64,
    /// The ceiling for a process without CAP_SYS_RESOURCE.
    pub hard: u64,
}

/// A resource limit that this program reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resource {
    /// File descriptors (`RLIMIT_NOFILE`).
    Files,
    /// Bytes of locked memory (`RLIMIT_MEMLOCK`).
    LockedMemory,
    /// Processes and threads of the user (`RLIMIT_NPROC`).
    Processes,
    /// Bytes of address space (`RLIMIT_AS`).
    AddressSpace,
    /// Bytes of data (`RLIMIT_DATA`).
    Data,
    /// Bytes of the main thread's stack (`RLIMIT_STACK`).
    Stack,
}

impl Resource {
    /// The lowest limit in force on this process's own memory, in bytes, with the command that raises it. `None` if none is
    /// set.
    pub fn memory_limit() -> Option<(&'static str, u64)> {
        let limit = |(name, resource): (&'static str, Resource)| Some((name, resource.read().ok()?.soft));
        let all = [("ulimit -v", Resource::AddressSpace), ("ulimit -d", Resource::Data)];
        let set = all.into_iter().filter_map(limit).filter(|(_, most)| *most != u64::MAX);
        set.min_by_key(|(_, most)| *most)
    }

    fn number(self) -> libc::__rlimit_resource_t {
        match self {
            Resource::Files => libc::RLIMIT_NOFILE,
            Resource::LockedMemory => libc::RLIMIT_MEMLOCK,
            Resource::Processes => libc::RLIMIT_NPROC,
            Resource::AddressSpace => libc::RLIMIT_AS,
            Resource::Data => libc::RLIMIT_DATA,
            Resource::Stack => libc::RLIMIT_STACK,
        }
    }

    /// Reads the limit.
    pub fn read(self) -> Result<Limit> {
        let mut raw = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: the kernel writes one rlimit into `raw`, which outlives the call.
        let done = unsafe { libc::getrlimit(self.number(), &raw mut raw) };
        if done != 0 {
            let errno = Errno::of(&io::Error::last_os_error());
            return Err(HostError::new("getrlimit", format!("{self:?}"), errno, HostReason::Filtered).into());
        }
        Ok(Limit { soft: raw.rlim_cur, hard: raw.rlim_max })
    }

    /// Raises the soft limit to the hard one, which needs no privilege. Returns the limits before and after.
    pub fn raise(self) -> Result<(Limit, Limit)> {
        self.raise_to(u64::MAX)
    }

    /// The same, but no further than to `most`.
    pub fn raise_to(self, most: u64) -> Result<(Limit, Limit)> {
        let before = self.read()?;
        let wanted = most.min(before.hard);
        if before.soft < wanted {
            let raw = libc::rlimit { rlim_cur: wanted, rlim_max: before.hard };
            // SAFETY: the kernel reads one rlimit from `raw`, which outlives the call. A refusal
            // leaves the limit as it was, which the read below shows.
            let _ = unsafe { libc::setrlimit(self.number(), &raw const raw) };
        }
        Ok((before, self.read()?))
    }
}

/// CLOCK_MONOTONIC. All processes of a host have that clock, unlike an `Instant`, which says nothing to another one.
pub fn monotonic_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel writes a time to `time`, which outlives the call. It cannot fail for this clock.
    let _ = unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs() as u32)
}

/// Lets this thread's sleeps end on time. By default the kernel adds up to 50 us (`PR_SET_TIMERSLACK`), so that it
/// can wake several sleepers at once.
pub fn sleep_precisely() {
    // SAFETY: the kernel takes a number. The call cannot fail for the calling thread.
    let _ = unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1 as libc::c_ulong) };
}

/// Puts this thread, and all that it starts later, under `SCHED_BATCH`: a thread that wakes up interrupts no other
/// thread, and runs on its core for up to `slice`. The kernel honours 0.1 to 100 ms from Linux 6.12 on; older
/// kernels choose the slice themselves. Fails with the error of sched_setattr(2).
pub fn use_batch_scheduling(slice: Duration) -> io::Result<()> {
    let size = size_of::<libc::sched_attr>() as libc::c_uint;
    // SAFETY: all fields of sched_attr are numbers, for which 0 is valid.
    let mut attributes: libc::sched_attr = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes at most `size` bytes to `attributes`, which outlives the call.
    let read = unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attributes, size, 0) };
    if read != 0 {
        return Err(io::Error::last_os_error());
    }
    // The thread's nice value is read above and kept: lowering it needs a privilege.
    attributes.size = size;
    attributes.sched_policy = libc::SCHED_BATCH as u32;
    attributes.sched_runtime = u64::try_from(slice.as_nanos()).unwrap_or(u64::MAX);
    // SAFETY: the kernel reads `size` bytes of `attributes`, which outlives the call.
    let set = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) };
    if set == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Has the kernel kill the started process when the thread that started it ends, for whatever reason.
pub fn dying_with_parent(command: &mut Command) -> &mut Command {
    let ask = || {
        // SAFETY: the kernel takes two numbers and no pointer.
        let done = unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as libc::c_ulong) };
        if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    };
    // SAFETY: between fork and exec the closure makes one system call, allocates nothing and takes no lock.
    unsafe { command.pre_exec(ask) }
}

/// Locks a file for its opener alone, and waits while another one has it (flock(2)). Closing it unlocks it.
pub fn lock(file: &File) -> io::Result<()> {
    Ok(rustix::io::retry_on_intr(|| rustix::fs::flock(file, rustix::fs::FlockOperation::LockExclusive))?)
}

/// Sends SIGINT to a process, which ends it in order. Returns whether the process exists.
pub fn interrupt(pid: u32) -> bool {
    // SAFETY: the kernel takes two numbers and no pointer.
    libc::pid_t::try_from(pid).is_ok_and(|pid| unsafe { libc::kill(pid, libc::SIGINT) } == 0)
}

/// An eventfd that wakes a shard. The kernel signals it when a ring has completions, and any thread may.
#[derive(Debug, Clone)]
pub struct Doorbell(Arc<OwnedFd>);

impl Doorbell {
    /// A doorbell that has not been rung.
    pub fn new() -> Result<Doorbell> {
        // SAFETY: no pointers; the result is checked before it is owned.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) };
        if fd < 0 {
            let errno = Errno::of(&io::Error::last_os_error());
            return Err(HostError::new("eventfd", "", errno, HostReason::NoDescriptor).into());
        }
        // SAFETY: `fd` was just made and nothing else has it.
        Ok(Doorbell(Arc::new(unsafe { OwnedFd::from_raw_fd(fd) })))
    }

    /// The descriptor to register with a ring.
    pub fn raw(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    /// Wakes the shard.
    pub fn ring(&self) {
        let one = 1u64;
        // SAFETY: 8 bytes are read from `one`. The counter cannot get full: each wake-up resets it.
        let _ = unsafe { libc::write(self.raw(), (&raw const one).cast(), 8) };
    }

    /// Waits at most `most` for a ring, and clears it. Returns whether the doorbell was rung.
    pub fn rings_within(&self, most: Duration) -> bool {
        let mut poll = libc::pollfd { fd: self.raw(), events: libc::POLLIN, revents: 0 };
        let timeout = libc::timespec {
            tv_sec: most.as_secs().try_into().unwrap_or(libc::time_t::MAX),
            tv_nsec: most.subsec_nanos().into(),
        };
        // SAFETY: the kernel reads and writes one entry and reads the time; both outlive the call.
        let rung = unsafe { libc::ppoll(&raw mut poll, 1, &raw const timeout, std::ptr::null()) } == 1;
        rung && self.clear()
    }

    /// Clears a ring. Returns whether there was one: a task that `listen`s may have cleared it before.
    pub fn clear(&self) -> bool {
        let mut rings = 0u64;
        let into = libc::iovec { iov_base: (&raw mut rings).cast(), iov_len: 8 };
        // SAFETY: 8 bytes are written to `rings`, which outlives the call. It does not block.
        unsafe { libc::preadv2(self.raw(), &raw const into, 1, -1, libc::RWF_NOWAIT) == 8 }
    }

    /// The same eventfd as a file of the executor's type: a read of 8 bytes waits until the doorbell is rung.
    pub fn listen<F: FromRawFd>(&self) -> Result<F> {
        let copy = self
            .0
            .try_clone()
            .map_err(|e| HostError::new("dup of", "an eventfd", Errno::of(&e), HostReason::NoDescriptor))?;
        // SAFETY: `copy` gives up its descriptor, so the file is its only owner.
        Ok(unsafe { F::from_raw_fd(copy.into_raw_fd()) })
    }
}

impl AsFd for Doorbell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A socket address in the kernel's layout.
#[derive(Clone, Copy)]
pub struct RawAddress {
    /// Room for an IPv4 or IPv6 address. A `sockaddr_storage` is four times as large, and a ring keeps one address
    /// for each submission.
    storage: libc::sockaddr_in6,
    len: libc::socklen_t,
}

impl RawAddress {
    /// AF_UNSPEC: connecting to it disconnects a socket.
    pub fn unspecified() -> RawAddress {
        // SAFETY: sockaddr_in6 is plain integers, for which zero is valid (AF_UNSPEC is 0).
        let storage = unsafe { std::mem::zeroed::<libc::sockaddr_in6>() };
        RawAddress { storage, len: size_of::<libc::sockaddr>() as libc::socklen_t }
    }

    /// Room for an address that the kernel is to write, and its length.
    pub fn to_be_written() -> RawAddress {
        RawAddress { len: size_of::<libc::sockaddr_in6>() as libc::socklen_t, ..RawAddress::unspecified() }
    }

    /// Where the kernel writes an address and its length. Both stay valid as long as `self` does not move.
    pub fn as_mut_ptrs(&mut self) -> (*mut libc::sockaddr, *mut libc::socklen_t) {
        ((&raw mut self.storage).cast(), &raw mut self.len)
    }

    /// The address; `None` if it is of another family than IPv4 and IPv6.
    pub fn socket_addr(&self) -> Option<SocketAddr> {
        match libc::c_int::from(self.storage.sin6_family) {
            libc::AF_INET => {
                // SAFETY: a sockaddr_in is shorter than the storage and not stricter aligned (both asserted in
                // `write`), and plain integers.
                let v4 = unsafe { self.as_ptr().cast::<libc::sockaddr_in>().read() };
                let ip = std::net::Ipv4Addr::from(v4.sin_addr.s_addr.to_ne_bytes());
                Some(SocketAddr::from((ip, u16::from_be(v4.sin_port))))
            }
            libc::AF_INET6 => {
                let v6 = &self.storage;
                let (port, ip) = (u16::from_be(v6.sin6_port), v6.sin6_addr.s6_addr.into());
                Some(std::net::SocketAddrV6::new(ip, port, v6.sin6_flowinfo, v6.sin6_scope_id).into())
            }
            _ => None,
        }
    }

    /// The address of its bytes, for the kernel.
    pub fn as_ptr(&self) -> *const libc::sockaddr {
        (&raw const self.storage).cast()
    }

    /// Length of the address in bytes.
    pub fn length(&self) -> libc::socklen_t {
        self.len
    }

    fn write<T>(address: T) -> RawAddress {
        const { assert!(size_of::<T>() <= size_of::<libc::sockaddr_in6>()) };
        const { assert!(align_of::<T>() <= align_of::<libc::sockaddr_in6>()) };
        let mut raw = RawAddress { len: size_of::<T>() as libc::socklen_t, ..RawAddress::unspecified() };
        // SAFETY: the storage is large enough and aligned for a `T`; both are asserted above.
        unsafe { (&raw mut raw.storage).cast::<T>().write(address) };
        raw
    }
}

impl std::fmt::Debug for RawAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("RawAddress").field(&self.socket_addr()).finish()
    }
}

impl From<SocketAddr> for RawAddress {
    fn from(address: SocketAddr) -> RawAddress {
        match address {
            SocketAddr::V4(v4) => RawAddress::write(libc::sockaddr_in {
                sin_family: libc::AF_INET as libc::sa_family_t,
                sin_port: v4.port().to_be(),
                sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(v4.ip().octets()) },
                sin_zero: [0; 8],
            }),
            SocketAddr::V6(v6) => RawAddress::write(libc::sockaddr_in6 {
                sin6_family: libc::AF_INET6 as libc::sa_family_t,
                sin6_port: v6.port().to_be(),
                sin6_flowinfo: v6.flowinfo(),
                sin6_addr: libc::in6_addr { s6_addr: v6.ip().octets() },
                sin6_scope_id: v6.scope_id(),
            }),
        }
    }
}

/// TCP's state of a connection, from the kernel's TCP_INFO (tcp(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TcpInfo {
    /// Segments retransmitted since the connection began, the SYN included (`tcpi_total_retrans`).
    pub retransmissions: u32,
    /// Segments sent that the peer has not acknowledged (`tcpi_unacked`). At a listener these are the connections in its
    /// accept queue.
    pub unacknowledged: u32,
    /// Segments received without data (`tcpi_segs_in` less `tcpi_data_segs_in`). A connection that its client has
    /// just opened has received one; a connection between two dialing clients has received two.
    pub received_empty: u32,
}

/// Reads TCP_INFO of a socket; `None` if the kernel refuses.
pub fn tcp_info(socket: &impl AsRawFd) -> Option<TcpInfo> {
    // SAFETY: tcp_info is plain integers, for which zero is valid.
    let mut info = unsafe { std::mem::zeroed::<libc::tcp_info>() };
    let mut len = size_of::<libc::tcp_info>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes into `info`; both outlive the call.
    let done = unsafe {
        libc::getsockopt(socket.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, (&raw mut info).cast(), &raw mut len)
    };
    (done == 0).then_some(TcpInfo {
        retransmissions: info.tcpi_total_retrans,
        unacknowledged: info.tcpi_unacked,
        received_empty: info.tcpi_segs_in.saturating_sub(info.tcpi_data_segs_in),
    })
}

/// What the kernel dropped at a socket, modulo 2^32. At a listener these are connections and SYNs for which a queue had no
/// room (`tcp_listendrop`), segments that its program dropped, and stray segments.
pub fn drops(socket: &impl AsRawFd) -> io::Result<u32> {
    /// The place of the drops in what SO_MEMINFO tells (`SK_MEMINFO_DROPS`, include/uapi/linux/sock_diag.h).
    const DROPS: usize = 8;
    repair::memory_info(socket).map(|memory| memory[DROPS])
}

/// Defers the choice of a source port from bind to connect (`IP_BIND_ADDRESS_NO_PORT`, ip(7)). Many connections of
/// one source address can then share a source port as long as their destinations differ.
pub fn bind_without_port(socket: &impl AsRawFd) -> io::Result<()> {
    set_option(socket, libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT, 1)
}

/// Restricts connect(2) to one source port (`IP_LOCAL_PORT_RANGE`, ip(7), with a range of one port; kernel 6.3 or
/// later). IPv6 sockets have the same option.
pub fn set_source_ports(socket: &impl AsRawFd, port: u16) -> io::Result<()> {
    /// Not in libc (include/uapi/linux/in.h).
    const IP_LOCAL_PORT_RANGE: libc::c_int = 51;
    // The lower 16 bits hold the lowest port, the upper 16 bits the highest.
    let range = u32::from(port) << 16 | u32::from(port);
    set_option(socket, libc::IPPROTO_IP, IP_LOCAL_PORT_RANGE, range.cast_signed())
}

/// Attaches a BPF program to a socket (SO_ATTACH_BPF, socket(7)). Sockets that it accepts later inherit the program.
pub fn attach_program(socket: &impl AsRawFd, program: BorrowedFd<'_>) -> io::Result<()> {
    set_option(socket, libc::SOL_SOCKET, libc::SO_ATTACH_BPF, program.as_raw_fd())
}

/// Takes the BPF program off a socket (SO_DETACH_FILTER, socket(7)), if it has one.
pub fn detach_program(socket: &impl AsRawFd) -> io::Result<()> {
    match set_option(socket, libc::SOL_SOCKET, libc::SO_DETACH_FILTER, 0) {
        Err(error) if Errno::of(&error) == Errno::ENOENT => Ok(()),
        done => done,
    }
}

/// Sets a socket option whose value is an int.
fn set_option(socket: &impl AsRawFd, level: libc::c_int, name: libc::c_int, value: libc::c_int) -> io::Result<()> {
    let len = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the kernel reads one int from `value`, which outlives the call.
    let done = unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const value).cast(), len) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Whether a process runs, of whichever user. Signal 0 checks that a process exists and is not delivered.
pub fn process_runs(pid: u32) -> bool {
    let Some(pid) = libc::pid_t::try_from(pid).ok().filter(|pid| *pid > 0) else { return false };
    // SAFETY: no memory; signal 0 changes nothing.
    let done = unsafe { libc::kill(pid, 0) };
    done == 0 || Errno::of(&io::Error::last_os_error()) == Errno::EPERM
}

/// Whether the loopback device of this network namespace is up; `None` if the kernel does not answer.
pub fn loopback_is_up() -> Option<bool> {
    let socket = std::net::UdpSocket::bind((std::net::Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    // SAFETY: ifreq is plain integers, for which zero is valid.
    let mut request = unsafe { std::mem::zeroed::<libc::ifreq>() };
    request.ifr_name[0] = b'l' as libc::c_char;
    request.ifr_name[1] = b'o' as libc::c_char;
    // SAFETY: the kernel reads the name in the request and writes the flags into it; it outlives the call.
    let done = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFFLAGS, &raw mut request) };
    // SAFETY: the call succeeded, and has filled this member of the union.
    (done == 0).then(|| unsafe { libc::c_int::from(request.ifr_ifru.ifru_flags) } & libc::IFF_UP != 0)
}

/// The number of a network interface of this namespace, given its name or its number; `None` if there is none.
pub fn interface(name: &str) -> Option<u32> {
    if let Ok(number) = name.parse::<u32>() {
        let mut buffer = [0; libc::IF_NAMESIZE];
        // SAFETY: the kernel's name of an interface, its end included, fits into the buffer of that size.
        let known = unsafe { libc::if_indextoname(number, buffer.as_mut_ptr()) };
        return (!known.is_null()).then_some(number);
    }
    let name = std::ffi::CString::new(name).ok()?;
    // SAFETY: the name is read up to its end, and outlives the call.
    let number = unsafe { libc::if_nametoindex(name.as_ptr()) };
    (number > 0).then_some(number)
}

/// Whether an address is a broadcast address of one of this host's networks. The kernel refuses to connect a
/// datagram socket to a broadcast address unless SO_BROADCAST is set. The attempt sends nothing.
pub fn is_broadcast(ip: std::net::Ipv4Addr) -> bool {
    let socket = std::net::UdpSocket::bind((std::net::Ipv4Addr::UNSPECIFIED, 0));
    let connected = socket.and_then(|socket| socket.connect((ip, 9)));
    connected.is_err_and(|error| Errno::of(&error) == Errno::EACCES)
}

/// Waits at most `most` until something can be written to a file without waiting: to a pipe, up to 4,096 bytes (PIPE_BUF
/// of pipe(7)). Where writing fails that is so at once.
pub fn is_writable(file: &impl AsFd, most: Duration) -> bool {
    is_ready(file, PollFlags::OUT, most)
}

/// Writes to a file, beside whatever buffer a stream of it has.
pub fn write(file: &impl AsFd, bytes: &[u8]) -> io::Result<usize> {
    Ok(rustix::io::write(file, bytes)?)
}

/// Opens a terminal once more, so that writing to this open file does not block. The flags of the given one are shared with
/// other processes.
pub fn open_terminal(terminal: &impl AsFd) -> io::Result<File> {
    File::options().write(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path_of(terminal))
}

/// Waits until something can be read from a file without waiting, or it has ended.
pub fn wait_until_readable(file: &impl AsFd) {
    is_ready(file, PollFlags::IN, Duration::MAX);
}

fn is_ready(file: &impl AsFd, what: PollFlags, most: Duration) -> bool {
    let until = Instant::now().checked_add(most);
    loop {
        let left = until.map(|until| until.saturating_duration_since(Instant::now()));
        let timeout = left.map(|left| Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() });
        match poll(&mut [PollFd::new(file, what)], timeout.as_ref()) {
            Err(rustix::io::Errno::INTR) => {}
            // What cannot be polled is read or written.
            polled => return polled.map_or(true, |ready| ready > 0),
        }
    }
}

/// Opens a file for reading. A pipe is not waited for, and a read of it fails with `WouldBlock` while nothing is in it.
pub fn open_without_waiting(path: &std::path::Path) -> io::Result<std::fs::File> {
    use std::os::unix::fs::OpenOptionsExt;
    std::fs::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)
}

/// The effective capabilities of the calling thread (capget(2)), a bit for each number.
pub fn capabilities() -> io::Result<u64> {
    Ok(rustix::thread::capabilities(None)?.effective.bits())
}

/// Keeps this process's memory out of core dumps, and from other processes of its user: for one that holds secrets. Root
/// can read it all the same.
pub fn hide_memory() -> std::io::Result<()> {
    Ok(rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)?)
}

/// A /proc file's trimmed content, or `otherwise` when it cannot be read.
pub fn read_or(path: &str, otherwise: &str) -> String {
    std::fs::read_to_string(path).map_or_else(|_| otherwise.to_owned(), |text| text.trim().to_owned())
}

/// The running kernel's release, such as "6.1.0-18-amd64".
pub fn kernel_release() -> String {
    read_or("/proc/sys/kernel/osrelease", "unknown")
}

/// Major and minor version in a kernel's release; (0, 0) when there is none.
pub fn kernel_version(release: &str) -> (u32, u32) {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|word| word.parse().ok());
    match (numbers.next().flatten(), numbers.next().flatten()) {
        (Some(major), Some(minor)) => (major, minor),
        _ => (0, 0),
    }
}

/// The file with which podman or docker mark a container; `None` outside a container.
pub fn container() -> Option<&'static str> {
    ["/run/.containerenv", "/.dockerenv"].into_iter().find(|file| std::path::Path::new(file).exists())
}

/// Whether a seccomp filter restricts this process.
pub fn seccomp_filters() -> bool {
    read_or("/proc/self/status", "")
        .lines()
        .any(|line| line.strip_prefix("Seccomp:").is_some_and(|mode| mode.trim() == "2"))
}
