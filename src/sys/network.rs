//! A network namespace for this process alone, with a larger table of established connections.

use std::ffi::{c_char, c_int, c_short};
use std::io::{self, Error};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

/// The properties of a network namespace that this process makes for itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OwnNetwork {
    /// Buckets of its table of established connections, at most `MOST_BUCKETS`.
    pub buckets: u64,
    /// First and last of the ports that no outgoing connection may take.
    pub reserved: (u16, u16),
    /// A process that may not have one gets a user namespace around it, in which it then has no privilege.
    pub may_drop_privilege: bool,
}

impl OwnNetwork {
    /// The most buckets that the kernel accepts, 2^24 (`tcp_plimit` of `net.ipv4.tcp_child_ehash_entries`).
    pub const MOST_BUCKETS: u64 = 1 << 24;

    /// Checks that this process may have such a namespace. A child process enters one and ends.
    pub fn try_out(self) -> io::Result<()> {
        let mut child = Command::new(std::env::current_exe()?);
        child.arg("--version").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        // SAFETY: between fork and exec only the forking thread lives on. `demo` calls this before it starts any
        // other thread, so no thread that is gone holds a lock of the allocator or of std.
        unsafe { child.pre_exec(move || self.enter()) };
        child.status().map(drop)
    }

    /// Moves this thread, and those that it starts later, into a new network namespace with loopback up.
    ///
    /// Call it while the process has one thread. After an error the process may be in a half-made namespace, so
    /// call `try_out` first.
    pub fn enter(self) -> io::Result<()> {
        let in_users_namespace = match unshare(libc::CLONE_NEWNET) {
            Err(error) if error.raw_os_error() == Some(libc::EPERM) && self.may_drop_privilege => {
                enter_user_namespace()?;
                true
            }
            other => other.map(|()| false)?,
        };
        // The parent's setting decides how large a new namespace's table is (`tcp_set_hashinfo`).
        set("tcp_child_ehash_entries", &self.buckets.to_string())?;
        unshare(libc::CLONE_NEWNET)?;
        raise_loopback()?;
        let (first, last) = self.reserved;
        set("ip_local_reserved_ports", &format!("{first}-{last}"))?;
        set("ip_local_port_range", "1024 65535")?;
        // Some kernels hide this setting from namespaces of ordinary users; the kernel's default then
        // stays.
        let _ = std::fs::write("/proc/sys/net/core/somaxconn", "65535");
        if in_users_namespace { drop_capabilities() } else { Ok(()) }
    }
}

fn set(name: &str, value: &str) -> io::Result<()> {
    std::fs::write(format!("/proc/sys/net/ipv4/{name}"), value)
}

fn unshare(what: c_int) -> io::Result<()> {
    // SAFETY: no memory.
    if unsafe { libc::unshare(what) } == 0 { Ok(()) } else { Err(Error::last_os_error()) }
}

/// Enters a new user namespace, in which this user and group keep their numbers, and a network namespace that belongs
/// to it.
fn enter_user_namespace() -> io::Result<()> {
    // SAFETY: no arguments, no memory; they cannot fail.
    let (user, group) = unsafe { (libc::geteuid(), libc::getegid()) };
    unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNET)?;
    std::fs::write("/proc/self/setgroups", "deny")?;
    std::fs::write("/proc/self/uid_map", format!("{user} {user} 1"))?;
    std::fs::write("/proc/self/gid_map", format!("{group} {group} 1"))
}

/// Sets the interface `lo` up.
fn raise_loopback() -> io::Result<()> {
    // SAFETY: no pointers; the result is checked before it is owned.
    let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(Error::last_os_error());
    }
    // SAFETY: `fd` was just made and nothing else has it.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: ifreq is plain integers, for which zero is valid.
    let mut request = unsafe { std::mem::zeroed::<libc::ifreq>() };
    request.ifr_name[0] = b'l' as c_char;
    request.ifr_name[1] = b'o' as c_char;
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as c_short;
    // SAFETY: the kernel reads one ifreq from `request`, which outlives the call.
    let done = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) };
    if done == 0 { Ok(()) } else { Err(Error::last_os_error()) }
}

/// Gives up all capabilities: those of a user namespace are none where the kernel asks for the host's.
fn drop_capabilities() -> io::Result<()> {
    /// `_LINUX_CAPABILITY_VERSION_3`, and the calling thread (linux/capability.h).
    const HEADER: [u32; 2] = [0x2008_0522, 0];
    /// Effective, permitted and inheritable, twice 32 bits of each.
    const NONE: [u32; 6] = [0; 6];
    // SAFETY: the kernel reads a header of 8 bytes and 24 bytes behind the second pointer; both are constants.
    let done = unsafe { libc::syscall(libc::SYS_capset, HEADER.as_ptr(), NONE.as_ptr()) };
    if done == 0 { Ok(()) } else { Err(Error::last_os_error()) }
}
