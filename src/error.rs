//! Errors as values, by whose fault they are. One line each: what was seen, what it means,
//! what to do next. Rendered once, in `main.rs`.

use std::fmt;

/// What a user needs to know of a failure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// What was tried and what was seen ("bind 0.0.0.0:80: Permission denied (EACCES)").
    pub saw: String,
    /// What that means.
    pub means: String,
    /// What to do next.
    pub cure: String,
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; {}", self.saw, self.means, self.cure)
    }
}

/// A failure, by whose fault it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The command line asks for something that cannot be.
    #[error("{0}")]
    Usage(Diagnostic),
    /// The host refuses or lacks something.
    #[error("{0}")]
    Host(Diagnostic),
    /// The other end does not do what it should.
    #[error("{0}")]
    Peer(Diagnostic),
    /// We are wrong.
    #[error("{0}")]
    Bug(Diagnostic),
}

/// The result of everything that can fail in this library.
pub type Result<T> = std::result::Result<T, Error>;

fn diagnostic(saw: impl Into<String>, means: impl Into<String>, cure: impl Into<String>) -> Diagnostic {
    Diagnostic { saw: saw.into(), means: means.into(), cure: cure.into() }
}

impl Error {
    /// The command line asks for something that cannot be.
    pub fn usage(saw: impl Into<String>, means: impl Into<String>, cure: impl Into<String>) -> Error {
        Error::Usage(diagnostic(saw, means, cure))
    }

    /// The host refuses or lacks something.
    pub fn host(saw: impl Into<String>, means: impl Into<String>, cure: impl Into<String>) -> Error {
        Error::Host(diagnostic(saw, means, cure))
    }

    /// The other end does not do what it should.
    pub fn peer(saw: impl Into<String>, means: impl Into<String>, cure: impl Into<String>) -> Error {
        Error::Peer(diagnostic(saw, means, cure))
    }

    /// We are wrong.
    pub fn bug(saw: impl Into<String>) -> Error {
        Error::Bug(diagnostic(saw, "c1m is wrong here", "please report this line"))
    }

    /// The process's exit code: 1 not everything that was asked for held, 2 bad usage, 3 the host
    /// refuses, 70 a bug (`EX_SOFTWARE` of sysexits.h).
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::Peer(_) => 1,
            Error::Usage(_) => 2,
            Error::Host(_) => 3,
            Error::Bug(_) => 70,
        }
    }
}

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
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = std::io::Error::from_raw_os_error(self.0).to_string();
        let text = text.split(" (os error").next().unwrap_or_default();
        write!(f, "{text} ({})", self.name())
    }
}
