//! Why a server cannot take another one's place.

/// Why a server cannot take another one's place, or cannot let another one take its own.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum TakeoverReason {
    /// The server that runs hands nothing over, and says why.
    Refused(String),
    /// What it hands over does not fit: why.
    Misfit(String),
    /// What an earlier process has left with the service manager cannot be used: why.
    Left(String),
    /// What an earlier process has left with the service manager is not all: it kept `there` of `all` descriptors.
    Incomplete {
        /// Those that are there.
        there: usize,
        /// Those that the process has left.
        all: usize,
    },
    /// The process that listens at the path is another user's.
    OtherUser,
    /// The process that listens at the path did not answer as a server does, or not in time.
    NoAnswer,
    /// The path cannot be listened at.
    Path,
    /// The kernel cannot give a connection that is awake to another process: it is older than 6.8.
    Kernel {
        /// Its release.
        release: String,
    },
    /// The kernel has no memory that outlives a process, or no descriptor is left for it.
    Memory,
}

impl TakeoverReason {
    pub(super) fn means(&self) -> String {
        match self {
            TakeoverReason::Refused(why) => format!("the server that runs hands nothing over: {why}"),
            TakeoverReason::Misfit(why) => format!("the server that runs cannot be taken over: {why}"),
            TakeoverReason::Left(why) => format!("what an earlier process has left cannot be taken over: {why}"),
            TakeoverReason::Incomplete { there, all } => {
                format!(
                    "of what an earlier process has left, {there} of {all} descriptors are there: the service manager kept no more"
                )
            }
            TakeoverReason::OtherUser => "the process that listens there is another user's".to_owned(),
            TakeoverReason::NoAnswer => {
                "the process that listens there does not answer as a server does, or not in time".to_owned()
            }
            TakeoverReason::Path => "a later server could not ask there to take over".to_owned(),
            TakeoverReason::Kernel { release } => {
                format!(
                    "kernel {release} cannot give a connection that is awake to another process (IORING_OP_FIXED_FD_INSTALL, Linux 6.8)"
                )
            }
            TakeoverReason::Memory => {
                "this process gets no descriptor or memory for what goes from one server to the next".to_owned()
            }
        }
    }

    pub(crate) fn cure(&self) -> String {
        match self {
            TakeoverReason::Refused(_) => "it serves on; try again later, or end it and start anew".to_owned(),
            TakeoverReason::NoAnswer => {
                "if it still runs it serves on; try again later, or end it and start anew".to_owned()
            }
            TakeoverReason::Misfit(_) => {
                "it serves on; start in the same namespaces, with the same address, ports, cores, limits, protocol, service and TLS, or end it first"
                    .to_owned()
            }
            TakeoverReason::Left(_) => {
                "start with the options of that process, or drop what it left (systemctl clean --what=fdstore UNIT)"
                    .to_owned()
            }
            TakeoverReason::Incomplete { .. } => {
                "raise FileDescriptorStoreMax=, and drop what it left (systemctl clean --what=fdstore UNIT)".to_owned()
            }
            TakeoverReason::OtherUser => "name another path, or run as that user".to_owned(),
            TakeoverReason::Path => {
                "name a path of 107 bytes at most where nothing else is, in a folder of this user, such as below /run"
                    .to_owned()
            }
            TakeoverReason::Kernel { .. } => "run it on Linux 6.8 or newer, or let connections sleep".to_owned(),
            TakeoverReason::Memory => "free memory, or raise the limit on file descriptors (ulimit -Hn)".to_owned(),
        }
    }
}
