//! Whether the process was started without standard output.
//!
//! std opens /dev/null for each standard descriptor that is closed, before it calls `main`. From then on nothing tells a
//! closed standard output from one that its user led to /dev/null, so this looks earlier.

use std::sync::atomic::{AtomicBool, Ordering};

static CLOSED: AtomicBool = AtomicBool::new(false);

/// The C library calls each function of this section before the start of a program's own code.
// SAFETY: the section holds pointers to functions of this type. The function makes one system call and sets a static that
// needs no initialisation, so it may run before everything else.
#[used]
#[unsafe(link_section = ".init_array")]
static AT_START: extern "C" fn() = look;

extern "C" fn look() {
    // SAFETY: the call reads a descriptor's flags, and fails with EBADF if there is no such descriptor.
    let closed = unsafe { libc::fcntl(libc::STDOUT_FILENO, libc::F_GETFD) } < 0;
    CLOSED.store(closed, Ordering::Relaxed);
}

/// Whether standard output was closed when the process began.
pub fn began_without_stdout() -> bool {
    CLOSED.load(Ordering::Relaxed)
}
