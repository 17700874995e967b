//! The program under test as a command: plain, after a shell's preparation, without privileges, under limits.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use tempfile::TempDir;

use super::ports::{SHARES, our_share};

/// The program under test.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_c1m");

/// A command that runs the program under test.
pub fn c1m() -> Command {
    Command::new(PROGRAM)
}

/// A command that runs the program under test from a shell, after the shell has run `preparation`.
pub fn c1m_after(preparation: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", &format!("{preparation} && exec \"$0\" \"$@\""), PROGRAM]);
    command
}

/// A command that runs the program under test as root without CAP_SYS_ADMIN.
pub fn c1m_without_sys_admin() -> Command {
    const CAP_SYS_ADMIN: libc::c_ulong = 21;
    let mut command = c1m();
    // SAFETY: prctl is async-signal-safe. A program that root runs has the capabilities that this leaves.
    unsafe {
        command.pre_exec(|| match libc::prctl(libc::PR_CAPBSET_DROP, CAP_SYS_ADMIN, 0, 0, 0) {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        });
    }
    command
}

/// A command that runs a copy of the program under test, in `dir`, as a user without any privilege. That user may be
/// unable to read the folder in which cargo builds.
pub fn c1m_unprivileged(dir: &TempDir) -> Command {
    unprivileged(Path::new(PROGRAM), dir, NOBODY)
}

/// A command that runs the program under test under limits, as a user of its own. The kernel therefore counts no other
/// process against these limits, nor what it still holds of one that has ended, such as locked memory. The test must say
/// `#[test(Users)]`.
pub fn c1m_limited(dir: &TempDir, limits: &[(Limit, u64)]) -> Command {
    /// The first of so many users that no host has by itself.
    const USERS: std::ops::Range<u32> = 61_000..65_000;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let ours = (USERS.end - USERS.start) / u32::from(SHARES);
    let next = NEXT.fetch_add(1, Ordering::Relaxed) % ours;
    let mut command = unprivileged(Path::new(PROGRAM), dir, USERS.start + u32::from(our_share()) * ours + next);
    let limits = limits.to_vec();
    // SAFETY: setrlimit is async-signal-safe, and reads what was moved into the closure.
    unsafe {
        command.pre_exec(move || {
            for (limit, most) in &limits {
                let both = libc::rlimit { rlim_cur: *most, rlim_max: *most };
                if libc::setrlimit(*limit, &raw const both) != 0 {
                    return Err(std::io::Error::last_os_error());
                }
            }
            Ok(())
        });
    }
    command
}

/// A resource of setrlimit(2).
pub type Limit = libc::__rlimit_resource_t;

/// A user without any privilege.
pub const NOBODY: u32 = 65_534;

/// A command that runs a copy of any program, in `dir`, as `user`. If the tests do not run as root, it runs the program
/// itself as their user.
pub fn unprivileged(program: &Path, dir: &TempDir, user: u32) -> Command {
    use std::os::unix::fs::PermissionsExt;
    // SAFETY: no arguments, no memory.
    if unsafe { libc::geteuid() } != 0 {
        return Command::new(program);
    }
    let copy = dir.path().join(program.file_name().unwrap());
    // Another process writes the copy. If this process did, a child that another test forks meanwhile would inherit
    // the open file, and executing the copy would fail with ETXTBSY.
    assert!(Command::new("install").args(["-m", "755"]).arg(program).arg(&copy).status().unwrap().success());
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = Command::new(copy);
    // This drops the groups and capabilities too.
    command.uid(user).gid(user);
    command
}
