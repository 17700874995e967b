//! Opens rings, and probes beforehand whether this host lets the process open one.

use std::io;
use std::time::Instant;

use io_uring::{IoUring, Probe, opcode};

use super::Queues;
use super::quirks::{Quirks, TaskWork, quirks};
use crate::constants::{AFTERLIFE, LOOK_AGAIN};
use crate::error::{Errno, Error, HostError, Result, RingReason};
use crate::sys::{self, Resource};

/// The oldest kernel with every operation in use (`IORING_SETUP_DEFER_TASKRUN`).
pub const OLDEST_KERNEL: (u32, u32) = (6, 1);

/// The kernel operations that a ring cannot do without, probed at start-up. Two others are not probed: every kernel
/// with `Shutdown` (Linux 5.11) has `Timeout` (5.4), and `FixedFdInstall` (6.8) is optional.
pub const REQUIRED: [(u8, &str); 10] = [
    (opcode::Accept::CODE, "ACCEPT"),
    (opcode::FilesUpdate::CODE, "FILES_UPDATE"),
    (opcode::Connect::CODE, "CONNECT"),
    (opcode::PollAdd::CODE, "POLL_ADD"),
    (opcode::PollRemove::CODE, "POLL_REMOVE"),
    (opcode::Recv::CODE, "RECV"),
    (opcode::Send::CODE, "SEND"),
    (opcode::AsyncCancel::CODE, "ASYNC_CANCEL"),
    (opcode::Close::CODE, "CLOSE"),
    (opcode::Shutdown::CODE, "SHUTDOWN"),
];

/// Opens an io_uring as a shard needs it. Fails with the reason for which the host refuses.
pub(super) fn open(queues: Queues, work: TaskWork) -> Result<IoUring> {
    let mut builder = IoUring::builder();
    builder.setup_single_issuer().setup_taskrun_flag().setup_submit_all().setup_cqsize(queues.completions);
    match work {
        TaskWork::Deferred => builder.setup_defer_taskrun(),
        TaskWork::Cooperative => builder.setup_coop_taskrun(),
    };
    let deadline = Instant::now() + AFTERLIFE;
    let uring = loop {
        match builder.build(queues.submissions) {
            Ok(uring) => break uring,
            // The rings of a process that just ended may still be charged to this user.
            Err(error) if Errno::of(&error) == Errno::ENOMEM && Instant::now() < deadline => {
                std::thread::sleep(LOOK_AGAIN);
            }
            Err(error) => return Err(refused("io_uring_setup", "", &error)),
        }
    };
    let params = uring.params();
    if !(params.is_feature_nodrop() && params.is_feature_skip_cqe_on_success()) {
        return Err(too_old("IORING_FEAT_NODROP or IORING_FEAT_CQE_SKIP"));
    }
    Ok(uring)
}

/// Checks that this process may use io_uring here, with every operation in `REQUIRED`. Returns the kernel's quirks.
///
/// The kernel ends a dropped ring later, and interrupts the thread that opened it for that: a blocking read with a timeout
/// fails with EINTR. So a thread of its own opens the rings of the probe. Where the host allows no further thread, the caller's
/// does, and the check of threads that follows says so.
pub fn probe() -> Result<Quirks> {
    std::thread::scope(|scope| {
        let helper = std::thread::Builder::new().name("c1m-probe".to_owned()).spawn_scoped(scope, try_rings);
        match helper.map(std::thread::ScopedJoinHandle::join) {
            Ok(Ok(found)) => found,
            Ok(Err(panic)) => std::panic::resume_unwind(panic),
            Err(_no_thread) => try_rings(),
        }
    })
}

/// The probe itself, with rings that this thread opens.
fn try_rings() -> Result<Quirks> {
    let quirks = quirks()?;
    let uring = open(Queues { submissions: 8, completions: 16 }, quirks.work)?;
    let mut probe = Probe::new();
    uring.submitter().register_probe(&mut probe).map_err(|error| refused("io_uring_register", "", &error))?;
    let missing: Vec<&str> =
        REQUIRED.iter().filter(|(code, _)| !probe.is_supported(*code)).map(|(_, name)| *name).collect();
    if missing.is_empty() { Ok(quirks) } else { Err(too_old(&missing.join(", "))) }
}

fn too_old(lacks: &str) -> Error {
    let reason =
        RingReason::KernelTooOld { release: sys::kernel_release(), lacks: lacks.to_owned(), oldest: OLDEST_KERNEL };
    HostError::new("set up", "io_uring", None, reason).into()
}

/// The error for an `operation` on `subject` that the kernel refused with `error`.
pub fn refused(operation: &'static str, subject: impl Into<String>, error: &io::Error) -> Error {
    let errno = Errno::of(error);
    let reason = match errno {
        Errno::EINVAL => return too_old("IORING_SETUP_DEFER_TASKRUN"),
        Errno::ENOMEM => RingReason::Memory { limit: Resource::memory_limit() },
        Errno::EMFILE | Errno::ENFILE => RingReason::NoDescriptor,
        Errno::EAGAIN => RingReason::Busy,
        _ => match forbidden(errno) {
            Some(reason) => reason,
            None => return too_old("io_uring"),
        },
    };
    HostError::new(operation, subject, errno, reason).into()
}

/// The first kernel with io_uring. A newer one answers ENOSYS for two reasons only: a seccomp filter hides the system
/// call, or the kernel was built without it.
const FIRST_WITH_IO_URING: (u32, u32) = (5, 1);

/// Why this process may not use io_uring at all. `None` if the kernel is too old to have it.
fn forbidden(errno: Errno) -> Option<RingReason> {
    let release = sys::kernel_release();
    let (filtered, disabled) =
        (sys::seccomp_filters(), sys::read_or("/proc/sys/kernel/io_uring_disabled", "not there"));
    let unknown = errno == Errno::ENOSYS;
    Some(match (unknown, filtered) {
        (true, _) if sys::kernel_version(&release) < FIRST_WITH_IO_URING => return None,
        (true, true) => RingReason::Filtered { release, container: sys::container() },
        (true, false) => RingReason::NotBuilt { release },
        (false, true) if disabled == "0" => RingReason::Filtered { release, container: sys::container() },
        (false, _) => RingReason::Forbidden { disabled, filtered },
    })
}
