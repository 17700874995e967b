//! Opening a ring, and asking the host beforehand whether it lets us.

use std::io;
use std::time::Instant;

use io_uring::{IoUring, Probe, opcode};

use super::Queues;
use super::quirks::{Quirks, TaskWork, quirks};
use crate::constants::{AFTERLIFE, LOOK_AGAIN, OLDEST_KERNEL};
use crate::error::{Errno, Error, Result};
use crate::sys::{self, Resource};

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
            Err(error) => return Err(refused("io_uring_setup", &error)),
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
pub fn probe() -> Result<Quirks> {
    let quirks = quirks()?;
    let uring = open(Queues { submissions: 8, completions: 16 }, quirks.work)?;
    let mut probe = Probe::new();
    uring.submitter().register_probe(&mut probe).map_err(|error| refused("io_uring_register", &error))?;
    let missing: Vec<&str> =
        REQUIRED.iter().filter(|(code, _)| !probe.is_supported(*code)).map(|(_, name)| *name).collect();
    if missing.is_empty() { Ok(quirks) } else { Err(too_old(&format!("it lacks {}", missing.join(", ")))) }
}

fn too_old(what: &str) -> Error {
    Error::host(
        format!("io_uring of kernel {}: {what}", sys::kernel_release()),
        format!("c1m needs Linux {}.{} or newer", OLDEST_KERNEL.0, OLDEST_KERNEL.1),
        "run it on a newer kernel",
    )
}

/// Why the kernel refuses a ring; `what` was tried.
pub fn refused(what: &str, error: &io::Error) -> Error {
    let saw = format!("{what}: {}", Errno::of(error));
    match error.raw_os_error() {
        Some(libc::EINVAL) => too_old("it knows no IORING_SETUP_DEFER_TASKRUN"),
        Some(libc::ENOMEM) => {
            let limits = Resource::memory_limits();
            let also = limits.first().map_or(String::new(), |(name, most)| format!(", or {name} ({most} bytes) is"));
            Error::host(
                saw,
                format!(
                    "the kernel has no memory for the ring, or the memlock limit is used up, by this user's other processes too{also}"
                ),
                "raise the limit (ulimit -Hl, LimitMEMLOCK=), ask for fewer connections, or free memory",
            )
        }
        Some(libc::EMFILE | libc::ENFILE) => {
            Error::host(saw, "each ring is one file descriptor, and none is left", "raise the limit (ulimit -n)")
        }
        Some(libc::EAGAIN) => Error::host(
            saw,
            "the kernel is short of memory or of threads for the ring",
            "try again, or raise the limit of processes (ulimit -u, TasksMax=)",
        ),
        _ => forbidden(saw, error),
    }
}

/// The kernel that brought io_uring: a newer one has no other reason than a filter to deny that it knows the
/// system call, or was built without.
const FIRST_WITH_IO_URING: (u32, u32) = (5, 1);

/// This process may not use io_uring at all: by whose will.
fn forbidden(saw: String, error: &io::Error) -> Error {
    let release = sys::kernel_release();
    let (filtered, disabled) =
        (sys::seccomp_filters(), sys::read_or("/proc/sys/kernel/io_uring_disabled", "not there"));
    let unknown = Errno::of(error) == Errno::ENOSYS;
    if unknown && sys::kernel_version(&release) < FIRST_WITH_IO_URING {
        return too_old("it has no io_uring");
    }
    if filtered && (unknown || disabled == "0") {
        let whose = match sys::container() {
            Some(file) => format!("of a container ({file} is there)"),
            None => "of a container or a systemd unit".to_owned(),
        };
        return Error::host(
            saw,
            format!("seccomp is on, and a seccomp filter {whose} forbids io_uring, which kernel {release} has"),
            "run with a seccomp profile that allows io_uring_setup, io_uring_enter and io_uring_register (podman and docker: --security-opt seccomp=FILE or seccomp=unconfined; systemd: SystemCallFilter=)",
        );
    }
    if unknown {
        return Error::host(
            saw,
            format!("this kernel, {release}, was built without io_uring (CONFIG_IO_URING)"),
            "run it on a kernel with io_uring",
        );
    }
    Error::host(
        saw,
        format!(
            "this process may not use io_uring: kernel.io_uring_disabled is {disabled}, seccomp is {}",
            if filtered { "on, as in most containers" } else { "off" }
        ),
        "set kernel.io_uring_disabled=0, or allow the io_uring system calls in the container's seccomp profile",
    )
}
