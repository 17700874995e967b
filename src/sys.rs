//! What std does not offer of the kernel: limits, timer slack, an eventfd that wakes a shard, TCP_INFO, raw socket addresses, and a filter of sockets.

mod filter;
mod network;

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use crate::error::{Errno, Error, HostError, HostReason, Result};

pub use filter::{Filter, Notification};
pub use network::OwnNetwork;

/// A resource limit: what is in force, and what it may be raised to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// In force.
    pub soft: u64,
    /// The ceiling without CAP_SYS_RESOURCE.
    pub hard: u64,
}

/// A limit this program cares for.
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
}

impl Resource {
    /// The limits on this process's own memory that are in force, in bytes, each with the command that
    /// raises it.
    pub fn memory_limits() -> Vec<(&'static str, u64)> {
        let limit = |(name, resource): (&'static str, Resource)| Some((name, resource.read().ok()?.soft));
        let all = [("ulimit -v", Resource::AddressSpace), ("ulimit -d", Resource::Data)];
        all.into_iter().filter_map(limit).filter(|(_, most)| *most != u64::MAX).collect()
    }

    fn number(self) -> libc::__rlimit_resource_t {
        match self {
            Resource::Files => libc::RLIMIT_NOFILE,
            Resource::LockedMemory => libc::RLIMIT_MEMLOCK,
            Resource::Processes => libc::RLIMIT_NPROC,
            Resource::AddressSpace => libc::RLIMIT_AS,
            Resource::Data => libc::RLIMIT_DATA,
        }
    }

    /// Reads the limit.
    pub fn read(self) -> Result<Limit> {
        let mut raw = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: the kernel writes one rlimit into `raw`, which outlives the call.
        let done = unsafe { libc::getrlimit(self.number(), &raw mut raw) };
        if done != 0 {
            return Err(Error::bug(format!("getrlimit {self:?}: {}", Errno::of(&io::Error::last_os_error()))));
        }
        Ok(Limit { soft: raw.rlim_cur, hard: raw.rlim_max })
    }

    /// Raises the soft limit to the hard one, which needs no privilege. Returns what was and what
    /// is in force.
    pub fn raise(self) -> Result<(Limit, Limit)> {
        let before = self.read()?;
        if before.soft < before.hard {
            let raw = libc::rlimit { rlim_cur: before.hard, rlim_max: before.hard };
            // SAFETY: the kernel reads one rlimit from `raw`, which outlives the call. A refusal
            // leaves the limit as it was, which the read below shows.
            let _ = unsafe { libc::setrlimit(self.number(), &raw const raw) };
        }
        Ok((before, self.read()?))
    }
}

/// The signals that end a run in order. SIGHUP is one unless this process was started with it ignored, as
/// by nohup(1).
pub fn ending_signals() -> impl Iterator<Item = libc::c_int> {
    let mut action = std::mem::MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: no new action is given; the kernel writes the present one, which outlives the call. Zeroes
    // are a valid sigaction too, if it writes nothing.
    let action = unsafe {
        libc::sigaction(libc::SIGHUP, std::ptr::null(), action.as_mut_ptr());
        action.assume_init()
    };
    let hangup = (action.sa_sigaction != libc::SIG_IGN).then_some(libc::SIGHUP);
    [libc::SIGINT, libc::SIGTERM].into_iter().chain(hangup)
}

/// Lets this thread's sleeps end when they are due: unless told, the kernel adds up to 50 us
/// (`PR_SET_TIMERSLACK`), to wake several sleepers at once.
pub fn sleep_precisely() {
    // SAFETY: the kernel takes a number. It cannot refuse one of the calling thread.
    let _ = unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1 as libc::c_ulong) };
}

/// Has this thread, and all that it starts from now on, work in long turns where several share a core
/// (`SCHED_BATCH`): it interrupts nobody when it wakes up, and stays on its core for up to `turn` (0.1 to 100 ms,
/// from Linux 6.12 on; older kernels keep their own time).
pub fn take_long_turns(turn: Duration) -> io::Result<()> {
    let size = size_of::<libc::sched_attr>() as libc::c_uint;
    // SAFETY: all its fields are numbers, for which 0 is a value.
    let mut how: libc::sched_attr = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes at most `size` bytes to `how`, which outlives the call.
    let read = unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut how, size, 0) };
    if read != 0 {
        return Err(io::Error::last_os_error());
    }
    // Its nice value stays: lowering it needs a right.
    how.size = size;
    how.sched_policy = libc::SCHED_BATCH as u32;
    how.sched_runtime = u64::try_from(turn.as_nanos()).unwrap_or(u64::MAX);
    // SAFETY: the kernel reads `size` bytes of `how`, which outlives the call.
    let set = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const how, 0) };
    if set == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Has the kernel kill what the command starts when the thread that starts it ends, however that is.
pub fn dying_with_parent(command: &mut Command) -> &mut Command {
    let ask = || {
        // SAFETY: the kernel takes two numbers and no pointer.
        let done = unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as libc::c_ulong) };
        if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    };
    // SAFETY: between fork and exec the closure makes one system call, allocates nothing and takes no lock.
    unsafe { command.pre_exec(ask) }
}

/// Asks a process to end in order, by SIGINT. Tells whether there is such a process.
pub fn interrupt(pid: u32) -> bool {
    // SAFETY: the kernel takes two numbers and no pointer.
    libc::pid_t::try_from(pid).is_ok_and(|pid| unsafe { libc::kill(pid, libc::SIGINT) } == 0)
}

/// An eventfd that wakes a shard: rung by the kernel when a ring has work, or by any thread.
#[derive(Debug, Clone)]
pub struct Doorbell(Arc<OwnedFd>);

impl Doorbell {
    /// A silent doorbell.
    pub fn new() -> Result<Doorbell> {
        // SAFETY: no pointers; the result is checked before it is owned.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) };
        if fd < 0 {
            let errno = Errno::of(&io::Error::last_os_error());
            return Err(HostError::new("eventfd", "", errno, HostReason::NoDescriptor).into());
        }
        // SAFETY: `fd` was just made and nobody else has it.
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

    /// Waits until it is rung, so long at most, and silences it. Tells whether it was.
    pub fn rings_within(&self, most: Duration) -> bool {
        let mut poll = libc::pollfd { fd: self.raw(), events: libc::POLLIN, revents: 0 };
        let timeout = libc::timespec {
            tv_sec: most.as_secs().try_into().unwrap_or(libc::time_t::MAX),
            tv_nsec: most.subsec_nanos().into(),
        };
        // SAFETY: the kernel reads and writes one entry and reads the time; both outlive the call.
        let rung = unsafe { libc::ppoll(&raw mut poll, 1, &raw const timeout, std::ptr::null()) } == 1;
        let mut rings = 0u64;
        let into = libc::iovec { iov_base: (&raw mut rings).cast(), iov_len: 8 };
        // Whoever `listen`s may have silenced it before us, so this must not wait.
        // SAFETY: 8 bytes are written to `rings`, which outlives the call.
        rung && unsafe { libc::preadv2(self.raw(), &raw const into, 1, -1, libc::RWF_NOWAIT) } == 8
    }

    /// The same doorbell as a file of the executor's kind: reading its 8 bytes waits until it was rung.
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

/// A socket address as the kernel reads it.
#[derive(Clone, Copy)]
pub struct RawAddress {
    /// Room for an IPv4 or IPv6 address; a `sockaddr_storage` would be four times as large, and each
    /// ring has one per submission.
    storage: libc::sockaddr_in6,
    len: libc::socklen_t,
}

impl RawAddress {
    /// AF_UNSPEC, which disconnects.
    pub fn unspecified() -> RawAddress {
        // SAFETY: sockaddr_in6 is plain integers, for which zero is valid (AF_UNSPEC is 0).
        let storage = unsafe { std::mem::zeroed::<libc::sockaddr_in6>() };
        RawAddress { storage, len: size_of::<libc::sockaddr>() as libc::socklen_t }
    }

    /// Where it lies.
    pub fn as_ptr(&self) -> *const libc::sockaddr {
        (&raw const self.storage).cast()
    }

    /// How many bytes of it count.
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

/// What TCP says of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TcpInfo {
    /// Segments sent again since the connection began, the SYN included (`tcpi_total_retrans`).
    pub retransmissions: u32,
    /// Segments sent that the peer has not acknowledged (`tcpi_unacked`).
    pub unacknowledged: u32,
    /// Segments received without data (`tcpi_segs_in` less `tcpi_data_segs_in`): of a connection that its client just
    /// opened it is one, and two where both ends were opened by clients.
    pub received_empty: u32,
}

/// Asks TCP about a socket; `None` if it does not answer.
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

/// Lets many connections of one source address share a source port as long as their destinations
/// differ: the port is chosen at connect, not at bind (`IP_BIND_ADDRESS_NO_PORT`, ip(7)).
pub fn bind_without_port(socket: &impl AsRawFd) -> io::Result<()> {
    set_option(socket, libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT, 1)
}

/// Has connect(2) take one source port, and search no other (`IP_LOCAL_PORT_RANGE`, ip(7), of one port; kernel
/// 6.3). IPv6 sockets have the same option.
pub fn set_source_ports(socket: &impl AsRawFd, port: u16) -> io::Result<()> {
    /// Not in libc (include/uapi/linux/in.h).
    const IP_LOCAL_PORT_RANGE: libc::c_int = 51;
    // The lowest port in the lower half, the highest in the upper one; the kernel reads 32 bits.
    let range = u32::from(port) << 16 | u32::from(port);
    set_option(socket, libc::IPPROTO_IP, IP_LOCAL_PORT_RANGE, range.cast_signed())
}

/// Sets an option of a socket that is an int.
fn set_option(socket: &impl AsRawFd, level: libc::c_int, name: libc::c_int, value: libc::c_int) -> io::Result<()> {
    let len = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the kernel reads one int from `value`, which outlives the call.
    let done = unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const value).cast(), len) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Whether a process runs, whoever's it is. Signal 0 is delivered to nobody.
pub fn process_runs(pid: u32) -> bool {
    let Some(pid) = libc::pid_t::try_from(pid).ok().filter(|pid| *pid > 0) else { return false };
    // SAFETY: no memory; signal 0 asks and does nothing.
    let done = unsafe { libc::kill(pid, 0) };
    done == 0 || Errno::of(&io::Error::last_os_error()) == Errno::EPERM
}

/// Whether the loopback device of this network namespace is up; `None` if it cannot be asked.
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

/// The number of a network interface of this namespace, from its name or its number; `None` if there is none.
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

/// Whether an address is a broadcast address of some network of this host. Connecting a datagram socket asks
/// the kernel, which refuses that unless SO_BROADCAST is set, and sends nothing.
pub fn is_broadcast(ip: std::net::Ipv4Addr) -> bool {
    let socket = std::net::UdpSocket::bind((std::net::Ipv4Addr::UNSPECIFIED, 0));
    let connected = socket.and_then(|socket| socket.connect((ip, 9)));
    connected.is_err_and(|error| Errno::of(&error) == Errno::EACCES)
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

/// The file by which podman or docker mark a container; `None` outside of one.
pub fn container() -> Option<&'static str> {
    ["/run/.containerenv", "/.dockerenv"].into_iter().find(|file| std::path::Path::new(file).exists())
}

/// Whether a seccomp filter is on this process.
pub fn seccomp_filters() -> bool {
    read_or("/proc/self/status", "")
        .lines()
        .any(|line| line.strip_prefix("Seccomp:").is_some_and(|mode| mode.trim() == "2"))
}
