//! Network and mount namespaces that belong to one test, and mounts in them.

use std::ffi::CString;

use crate::network;

/// Runs `body` in a new network namespace, in which only loopback is up. The namespace is gone when `body` returns. The
/// test must say `#[test(Network)]`.
pub fn in_own_network<R: Send>(body: impl FnOnce() -> R + Send) -> R {
    in_own(libc::CLONE_NEWNET, || {
        network::up(c"lo");
        body()
    })
}

/// Runs `body` in a new mount namespace. Its mounts are visible only there, and are gone when `body` returns. The test
/// must say `#[test(Mounts)]`.
pub fn in_own_mounts<R: Send>(body: impl FnOnce() -> R + Send) -> R {
    in_own(libc::CLONE_NEWNS, || {
        mount("none", "/", "", libc::MS_REC | libc::MS_PRIVATE, "");
        body()
    })
}

/// Runs `body` on a thread whose first child process is the first process of a new PID namespace. It may start no other one,
/// and no thread. The test must say `#[test(Network)]`.
pub fn in_own_processes<R: Send>(body: impl FnOnce() -> R + Send) -> R {
    in_own(libc::CLONE_NEWPID, body)
}

/// Runs `body` in a new namespace.
fn in_own<R: Send>(namespace: libc::c_int, body: impl FnOnce() -> R + Send) -> R {
    // A namespace belongs to a thread, so the thread must not run other tests too.
    let own = || {
        // SAFETY: no memory.
        assert_eq!(unsafe { libc::unshare(namespace) }, 0, "{}", std::io::Error::last_os_error());
        body()
    };
    let name = std::thread::current().name().unwrap_or_default().to_owned();
    let ended =
        std::thread::scope(|scope| std::thread::Builder::new().name(name).spawn_scoped(scope, own).unwrap().join());
    ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Calls mount(2) in the calling thread's mount namespace.
pub fn mount(source: &str, target: &str, kind: &str, flags: libc::c_ulong, options: &str) {
    let [from, to, kind, options] = [source, target, kind, options].map(|text| CString::new(text).unwrap());
    // SAFETY: the kernel reads four strings, which outlive the call.
    let done = unsafe { libc::mount(from.as_ptr(), to.as_ptr(), kind.as_ptr(), flags, options.as_ptr().cast()) };
    assert_eq!(done, 0, "mount {source} on {target}: {}", std::io::Error::last_os_error());
}

/// Removes the last mount on `target`. A process that another test starts may have a file of it open until its program
/// runs; the mount is gone for all paths nevertheless.
pub fn unmount(target: &str) {
    let path = CString::new(target).unwrap();
    // SAFETY: the kernel reads a string, which outlives the call.
    let done = unsafe { libc::umount2(path.as_ptr(), libc::MNT_DETACH) };
    assert_eq!(done, 0, "{target}: {}", std::io::Error::last_os_error());
}
