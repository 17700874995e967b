//! The kernel's error numbers, by name.

use std::fmt;

/// A kernel error number, kept as it came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Errno(pub i32);

macro_rules! errnos {
    ($($name:ident = $number:literal,)*) => {
        /// The numbers a socket can meet (asm-generic/errno.h).
        impl Errno {
            $(#[doc = stringify!($name)] pub const $name: Errno = Errno($number);)*

            /// The name as the kernel spells it, or `errno N` for one not listed here.
            pub fn name(self) -> String {
                match self.0 {
                    $($number => stringify!($name).to_owned(),)*
                    other => format!("errno {other}"),
                }
            }

            /// The number of which `name` gives this name.
            pub fn named(name: &str) -> Option<Errno> {
                match name {
                    $(stringify!($name) => Some(Errno::$name),)*
                    other => other.strip_prefix("errno ")?.parse().ok().map(Errno),
                }
            }
        }
    };
}

errnos! {
    EPERM = 1,
    ENOENT = 2,
    ESRCH = 3,
    EINTR = 4,
    EIO = 5,
    ENXIO = 6,
    EBADF = 9,
    EAGAIN = 11,
    ENOMEM = 12,
    EACCES = 13,
    EBUSY = 16,
    EXDEV = 18,
    ENOTDIR = 20,
    EISDIR = 21,
    EINVAL = 22,
    ENFILE = 23,
    EMFILE = 24,
    ETXTBSY = 26,
    EFBIG = 27,
    ENOSPC = 28,
    EROFS = 30,
    EPIPE = 32,
    ENAMETOOLONG = 36,
    ENOSYS = 38,
    ELOOP = 40,
    ETIME = 62,
    EPROTO = 71,
    ENOTSOCK = 88,
    EPROTOTYPE = 91,
    ENOPROTOOPT = 92,
    EOPNOTSUPP = 95,
    EAFNOSUPPORT = 97,
    EADDRINUSE = 98,
    EADDRNOTAVAIL = 99,
    ENETDOWN = 100,
    ENETUNREACH = 101,
    ECONNABORTED = 103,
    ECONNRESET = 104,
    ENOBUFS = 105,
    ENOTCONN = 107,
    ETIMEDOUT = 110,
    ECONNREFUSED = 111,
    EHOSTDOWN = 112,
    EHOSTUNREACH = 113,
    EALREADY = 114,
    EDQUOT = 122,
    ECANCELED = 125,
}

impl Errno {
    /// The number in an `io::Error`, or EIO for one that did not come from the kernel.
    pub fn of(error: &std::io::Error) -> Errno {
        error.raw_os_error().map_or(Errno::EIO, Errno)
    }

    /// Whether the kernel has no descriptor or no memory for this now, and may have some later.
    pub fn is_shortage(self) -> bool {
        matches!(self, Errno::EMFILE | Errno::ENFILE | Errno::ENOMEM | Errno::ENOBUFS)
    }

    /// Whether the host has no route to the other end now, or lacks its own address or link, and may have them again later.
    pub fn lacks_route(self) -> bool {
        matches!(self, Errno::ENETUNREACH | Errno::EHOSTUNREACH | Errno::ENETDOWN | Errno::EADDRNOTAVAIL)
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = std::io::Error::from_raw_os_error(self.0).to_string();
        let text = text.split(" (os error").next().unwrap_or_default();
        write!(f, "{text} ({})", self.name())
    }
}

impl std::error::Error for Errno {}
