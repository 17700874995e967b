//! Errors as values, by whose fault they are: the options, this host, the other end, or c1m itself.
//!
//! A library knows no command line, so no text here names one of its flags. The program says the same
//! errors in its own words: `cli/diagnostics.rs`.

mod alert;
mod config;
mod errno;
mod fanout;
mod host;
mod schedule;
mod timeout;
mod tls;
mod tls_file;

use std::fmt;

use crate::format::Escaped;

pub use alert::Alert;
#[cfg(feature = "cli")]
pub(crate) use config::last_port;
pub use config::{AddressProblem, AddressUse, ConfigError, CounterProblem, DocumentProblem};
pub use errno::Errno;
pub use fanout::FanoutProblem;
pub use host::{
    FilterReason, HibernationReason, HostError, HostReason, ListenReason, MissingCapabilities, RaiseThreads,
    RingReason, ShardsOf, TakeoverReason, ThreadReason,
};
#[cfg(feature = "cli")]
pub(crate) use host::{RAISE_DESCRIPTORS, RAISE_LOCKED_MEMORY};
#[cfg(feature = "cli")]
pub(crate) use schedule::SHORTEST_INTERVAL;
pub use schedule::{Lasting, Rated};
pub use timeout::Timeout;
#[cfg(feature = "cli")]
pub(crate) use timeout::{LONGEST_TIME, days};
pub use tls::{CertificateProblem, TlsFailure};
pub use tls_file::{NotPem, TlsFile, TlsProblem};

/// Why something failed, by whose fault it is.
///
/// Its text is one line: what was seen, what that means and, for the host's, what to do. For a [`HostError`],
/// [`ConfigError::NotThisHost`] and [`ConfigError::Metrics`], [`source`](std::error::Error::source) has the kernel's
/// error number if there is one; the line always contains it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The options ask for something that cannot be. The same call fails again.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The host refuses or lacks something. The same call may succeed once its cause is gone.
    #[error(transparent)]
    Host(#[from] HostError),
    /// The other end does not do what it should.
    #[error(transparent)]
    Peer(#[from] PeerError),
    /// c1m is wrong: what was seen. Please report it.
    #[error("{0}: {BUG_MEANS}; {REPORT}")]
    Bug(String),
}

/// What a bug means, and what to do about it.
pub(crate) const BUG_MEANS: &str = "c1m is wrong here";
pub(crate) const REPORT: &str = "please report this line";

/// The other end does not do what it should.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PeerError {
    /// Client and server count different numbers of live connections after an audit.
    #[error("audit {round}: the client proved {proved} connections, the server counts {counted}: one of them is wrong")]
    Counts {
        /// The number of the audit, from 1 on.
        round: u32,
        /// Connections that the client proved live.
        proved: u64,
        /// Connections that the server counts.
        counted: u64,
    },
}

/// The result of calls that fail with an [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// c1m is wrong; `saw` is what was seen.
    pub fn bug(saw: impl Into<String>) -> Error {
        Error::Bug(saw.into())
    }

    /// A call failed that the kernel grants to every process. Either a filter of system calls forbids it, which EPERM and
    /// ENOSYS show, or c1m is wrong.
    pub(crate) fn unexpected(operation: &'static str, subject: &str, error: &std::io::Error) -> Error {
        match Errno::of(error) {
            errno @ (Errno::EPERM | Errno::ENOSYS) => {
                HostError::new(operation, subject, errno, HostReason::Filtered).into()
            }
            errno => Error::bug(format!("{operation} {subject}: {errno}")),
        }
    }
}

/// The three parts of a line that tells of a failure.
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
        // Each may quote a path or a word from outside.
        write!(f, "{}: {}; {}", Escaped(&self.saw), Escaped(&self.means), Escaped(&self.cure))
    }
}
