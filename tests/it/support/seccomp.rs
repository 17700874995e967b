//! System calls that a seccomp filter refuses, as the profile of a container does.

use std::ops::RangeInclusive;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Has the process that `command` starts get `answer` from these system calls, or only from those whose third argument has
/// one of the bits `flags`.
pub fn refuse(command: &mut Command, calls: RangeInclusive<libc::c_long>, flags: Option<u32>, answer: libc::c_int) {
    let rule = |code: u32, (yes, no), k: u32| libc::sock_filter { code: code as u16, jt: yes, jf: no, k };
    let load = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    let jump = |kind: u32| libc::BPF_JMP | libc::BPF_K | kind;
    let end = libc::BPF_RET | libc::BPF_K;
    // struct seccomp_data has the number of the call at 0, and the lower half of the third argument at 32.
    let program = [
        rule(load, (0, 0), 0),
        rule(jump(libc::BPF_JGE), (0, 4), *calls.start() as u32),
        rule(jump(libc::BPF_JGT), (3, 0), *calls.end() as u32),
        rule(load, (0, 0), 32),
        flags.map_or(rule(jump(libc::BPF_JGE), (0, 1), 0), |bits| rule(jump(libc::BPF_JSET), (0, 1), bits)),
        rule(end, (0, 0), libc::SECCOMP_RET_ERRNO | answer as u32),
        rule(end, (0, 0), libc::SECCOMP_RET_ALLOW),
    ];
    // SAFETY: prctl is async-signal-safe, and reads the program, which is moved into the closure.
    unsafe {
        command.pre_exec(move || {
            let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_ptr().cast_mut() };
            // Without the first call the filter would need CAP_SYS_ADMIN.
            let done = libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
                && libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const filter) == 0;
            if done { Ok(()) } else { Err(std::io::Error::last_os_error()) }
        });
    }
}
