//! Opening a ring, and asking the host beforehand whether it lets us.

use std::io;
use std::time::Instant;

use io_uring::{IoUring, Probe, opcode};

use super::Queues;
use super::habits::{Habits, TaskWork, habits};
use crate::error::{Errno, Error, Result};
use crate::limits::{AFTERLIFE, LOOK_AGAIN, OLDEST_KERNEL};
use crate::sys;

/// Every kernel operation in use, probed at start-up.
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

/// Opens an io_uring the way a shard needs it, or says why the host refuses.
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
            Err(error) => return Err(refused(error)),
        }
    };
    let params = uring.params();
    if !(params.is_feature_nodrop() && params.is_feature_skip_cqe_on_success()) {
        return Err(too_old("it lacks IORING_FEAT_NODROP or IORING_FEAT_CQE_SKIP"));
    }
    Ok(uring)
}

/// Checks that this host lets this process use io_uring with every operation in `REQUIRED`,
/// and tells what rings do here.
pub fn probe() -> Result<Habits> {
    let habits = habits()?;
    let uring = open(Queues { submissions: 8, completions: 16 }, habits.work)?;
    let mut probe = Probe::new();
    uring.submitter().register_probe(&mut probe).map_err(refused)?;
    let missing: Vec<&str> =
        REQUIRED.iter().filter(|(code, _)| !probe.is_supported(*code)).map(|(_, name)| *name).collect();
    if missing.is_empty() { Ok(habits) } else { Err(too_old(&format!("it lacks {}", missing.join(", ")))) }
}

fn too_old(what: &str) -> Error {
    Error::host(
        format!("io_uring of kernel {}: {what}", sys::kernel_release()),
        format!("c1m needs Linux {}.{} or newer", OLDEST_KERNEL.0, OLDEST_KERNEL.1),
        "run it on a newer kernel",
    )
}

fn refused(error: io::Error) -> Error {
    let saw = format!("io_uring_setup: {}", Errno::of(&error));
    match error.raw_os_error() {
        Some(libc::EINVAL) => too_old("it knows no IORING_SETUP_DEFER_TASKRUN"),
        Some(libc::ENOMEM) => Error::host(
            saw,
            "the kernel has no memory for the ring, or the memlock limit is used up",
            "free memory or raise the limit (ulimit -l)",
        ),
        Some(libc::EMFILE | libc::ENFILE) => {
            Error::host(saw, "each ring is one file descriptor, and none is left", "raise the limit (ulimit -n)")
        }
        _ => Error::host(
            saw,
            format!(
                "this process may not use io_uring: kernel.io_uring_disabled is {}, seccomp is {}",
                sys::read_or("/proc/sys/kernel/io_uring_disabled", "not there"),
                if sys::seccomp_filters() { "on, as in most containers" } else { "off" }
            ),
            "set kernel.io_uring_disabled=0, or allow the io_uring system calls in the container's seccomp profile",
        ),
    }
}
