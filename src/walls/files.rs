//! Walls of files and rings: descriptors, open files, io_uring, locked memory.

use super::{Finding, Setting, Wall, with_room};
use crate::error::{Diagnostic, Errno, Error};
use crate::failure::Cause;
use crate::format::{bytes, count};
use crate::host::{Capability, Host};
use crate::plan::{EXECUTOR_LOCKED_BYTES, GLOMMIO_MEMLOCK, Goal, Needs, RING_LOCKED_BYTES, largest};
use crate::ring::{self, OLDEST_KERNEL};
use crate::sys::{self, Resource};

/// The wall of `RLIMIT_NOFILE`.
pub const DESCRIPTORS: Wall = Wall {
    name: "descriptors",
    symptom: "socket or accept fails with EMFILE (\"Too many open files\"), in most programs at 1,024 connections",
    evidence: "/proc/self/limits, \"Max open files\"; the errno EMFILE",
    cure: "for c1m none: a connection is a direct descriptor, which `nofile` does not count (where connections sleep before Linux 6.8, each that is awake has a plain one too); for other programs ulimit -n, LimitNOFILE= in a systemd unit (limits.d is read by PAM alone), --ulimit in a container; none of these goes above fs.nr_open",
    judge: descriptors,
    blame: |evidence| {
        let failed = evidence.failures(Cause::Errno(Errno::EMFILE))?;
        Some(Diagnostic {
            saw: format!("{} sockets met EMFILE", count(failed)),
            means: "this process may open no more file descriptors".to_owned(),
            cure: "raise the hard limit (ulimit -Hn, LimitNOFILE=), or lower --concurrency".to_owned(),
        })
    },
};

/// The wall of `fs.file-max`.
pub const OPEN_FILES: Wall = Wall {
    name: "open files",
    symptom: "socket or accept fails with ENFILE; the kernel logs \"VFS: file-max limit N reached\"",
    evidence: "/proc/sys/fs/file-nr, field 1 against fs.file-max; direct descriptors count; CAP_SYS_ADMIN may exceed it",
    cure: "sysctl -w fs.file-max=N; systemd raises it to practically no limit",
    judge: open_files,
    blame: |evidence| {
        let failed = evidence.failures(Cause::Errno(Errno::ENFILE))?;
        Some(Diagnostic {
            saw: format!("{} sockets met ENFILE", count(failed)),
            means: "this host may open no more files (fs.file-max)".to_owned(),
            cure: "raise it: sysctl -w fs.file-max=N".to_owned(),
        })
    },
};

/// The wall of a kernel or a container without io_uring.
pub const IO_URING: Wall = Wall {
    name: "io_uring",
    symptom: "io_uring_setup fails with EPERM (sysctl, seccomp), ENOSYS (no io_uring, or podman's seccomp profile) or EINVAL (kernel before 6.1)",
    evidence: "a ring set up and probed; kernel.io_uring_disabled; \"Seccomp: 2\" in /proc/self/status",
    cure: "sysctl -w kernel.io_uring_disabled=0; a seccomp profile that allows io_uring_setup, io_uring_enter and io_uring_register; Linux 6.1 or newer",
    judge: io_uring,
    blame: super::never,
};

/// File descriptors that a program with a plain descriptor for each connection has beside them: stdio, an epoll
/// instance, listeners. It has none of c1m's own, such as those of the metrics.
const DESCRIPTORS_OF_PLAIN_PROGRAMS: u64 = 16;

/// The wall of `RLIMIT_MEMLOCK`.
pub const LOCKED_MEMORY: Wall = Wall {
    name: "locked memory",
    symptom: "io_uring_setup fails with ENOMEM",
    evidence: "/proc/self/limits, \"Max locked memory\"; newer kernels charge an ordinary user's rings to it",
    cure: "ulimit -Hl, LimitMEMLOCK= in a systemd unit, --ulimit memlock= in a container",
    judge: locked_memory,
    blame: super::never,
};

fn descriptors(host: &Host, goal: &Goal) -> Finding {
    let Ok(limit) = Resource::Files.read() else {
        return Finding::unknown("the limit on descriptors", "");
    };
    let ceiling = host.sysctl("fs.nr_open").map_or(String::new(), |most| format!(", at most {}", count(most)));
    let open = host.descriptors_open(limit.hard);
    let fits = |connections| goal.needs(connections, limit.hard).fit(limit.hard.saturating_sub(open));
    let holds = largest(u32::MAX.into(), fits);
    let needs = goal.needs(goal.connections, limit.hard);
    let taken = if open > 0 { format!(", {} open already", count(open)) } else { String::new() };
    let have = format!("nofile {} soft, {} hard{ceiling}{taken}", count(limit.soft), count(limit.hard));
    let plain = limit.hard.saturating_sub(DESCRIPTORS_OF_PLAIN_PROGRAMS);
    let kept = match needs.kept {
        0 => String::new(),
        kept => format!(" and {} plain ones of connections awake, before Linux 6.8", count(kept)),
    };
    let need = format!(
        "{} for {} rings of direct descriptors{kept}; with plain ones a program would end at about {}",
        count(needs.descriptors()),
        needs.all_rings(),
        count(plain)
    );
    let roomy = with_room(goal.connections);
    let suffices = |limit: u64| goal.needs(roomy, limit).fit(limit.saturating_sub(open));
    let wanted = largest(1 << 20, |more| !suffices(more)) + 1;
    Finding::counted(have, need, holds, goal.connections).advise(
        host.may(Capability::SysResource),
        format!("ulimit -Hn {wanted} (LimitNOFILE= in a unit, --ulimit in a container)"),
    )
}

fn open_files(host: &Host, goal: &Goal) -> Finding {
    let ends = goal.role.ends();
    let sockets = goal.sockets(goal.connections);
    let wanted = sockets * ends;
    let (Some(open), Some(most)) = (host.sysctl("fs.file-nr"), host.sysctl("fs.file-max")) else {
        return Finding::unknown("fs.file-nr, fs.file-max", format!("{} more", count(wanted)));
    };
    let have = format!("fs.file-max {}, {} open", count(most), count(open));
    let need = format!("{} more, {ends} a connection", count(wanted));
    let left = most.saturating_sub(open) / ends;
    // Connections asleep are no files: room for all that may be awake is room for every connection.
    let left = if goal.sockets(u64::MAX) <= left { u32::MAX.into() } else { left };
    let finding = if host.may(Capability::SysAdmin) {
        // Other processes of this host meet the limit all the same.
        Finding::fine(format!("{have}; does not bind CAP_SYS_ADMIN"), need).tight_if(left < goal.connections)
    } else {
        Finding::counted(have, need, left, goal.connections)
    };
    let roomy = open.saturating_add((sockets + sockets.div_ceil(AT_LEAST_FREE)) * ends);
    finding.set(Setting::raise(
        host,
        "fs.file-max",
        &[roomy],
        format!("each end of a connection is an open file, direct descriptors included: {} of them", count(wanted)),
    ))
}

/// Room for one more file per four connections, for the rest of the host.
const AT_LEAST_FREE: u64 = 4;

fn io_uring(host: &Host, _goal: &Goal) -> Finding {
    let disabled = host.sysctl("kernel.io_uring_disabled");
    let have = format!(
        "kernel {}, io_uring_disabled {}, seccomp {}",
        sys::kernel_release(),
        disabled.map_or("absent".to_owned(), |value| value.to_string()),
        if sys::seccomp_filters() { "on" } else { "off" }
    );
    let need = format!("Linux {}.{}, {} operations", OLDEST_KERNEL.0, OLDEST_KERNEL.1, ring::REQUIRED.len());
    match ring::probe() {
        Ok(quirks) => Finding::fine(format!("{have}; probed, {}", quirks.work), need),
        Err(Error::Host(refused)) => {
            let why = refused.parts();
            Finding::fine(format!("{have}; {}: {}", why.saw, why.means), need)
                .blocking_if(true)
                .advise(host.may_write_sysctl("kernel.io_uring_disabled") && disabled.is_some_and(|v| v > 0), why.cure)
        }
        Err(other) => Finding::fine(format!("{have}; {other}"), need).blocking_if(true),
    }
}

fn locked_memory(host: &Host, goal: &Goal) -> Finding {
    let (Ok(memory), Ok(files)) = (Resource::LockedMemory.read(), Resource::Files.read()) else {
        return Finding::unknown("the limit on locked memory", "");
    };
    let exempt = host.may(Capability::IpcLock);
    let charged = host.charges_rings();
    let locked = |connections| if charged { goal.locked_bytes(connections, files.hard) } else { GLOMMIO_MEMLOCK };
    let have = match memory.hard {
        u64::MAX => "memlock unlimited".to_owned(),
        hard => format!("memlock {} hard", bytes(hard)),
    };
    let have = match (exempt, charged) {
        (true, _) => format!("{have}; CAP_IPC_LOCK is charged nothing for rings"),
        (false, true) => have,
        (false, false) => format!("{have}; this kernel charges nothing for rings"),
    };
    let holds = largest(u32::MAX.into(), |connections| locked(connections) <= memory.hard);
    let need = locked(goal.connections);
    let processes = goal.processes(goal.connections, files.hard);
    let rings: u64 = processes.iter().map(Needs::all_rings).sum();
    let executors: usize = processes.iter().map(|process| process.rings.len()).sum();
    let parts = format!(
        ": {rings} rings of {} and {executors} executors of {}, the user's processes together",
        bytes(RING_LOCKED_BYTES),
        bytes(EXECUTOR_LOCKED_BYTES)
    );
    let text = format!("{}{}", bytes(need), if charged { parts.as_str() } else { "" });
    let roomy = locked(with_room(goal.connections)).div_ceil(1024);
    Finding::counted(have, text, holds, goal.connections)
        .advise(host.may(Capability::SysResource), format!("ulimit -Hl {roomy} (LimitMEMLOCK=)"))
}
