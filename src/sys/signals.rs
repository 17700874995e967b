//! The meaning of signals to a run. A signal that ends the process by default ends the run in order, or does nothing.

/// Signals that would end the process at once by default, and that must not: SIGUSR1 and SIGUSR2, at which other programs
/// print figures (dd) or open their logs again (nginx); and SIGXFSZ, without which a write beyond the limit on file sizes
/// (ulimit -f) is an error.
pub const HARMLESS_SIGNALS: [libc::c_int; 3] = [libc::SIGUSR1, libc::SIGUSR2, libc::SIGXFSZ];

/// The signals at which a run ends in order: SIGINT and SIGTERM, and all others whose default is to end the process, unless
/// this process was started with them ignored, as nohup(1) does with SIGHUP, or a shell that starts a process in the
/// background. Not among them are SIGKILL, the harmless ones, SIGPIPE, which Rust ignores, and those that a fault of the
/// process causes, such as SIGSEGV and SIGABRT.
pub fn ending_signals() -> impl Iterator<Item = libc::c_int> {
    /// A terminal that goes away, Ctrl-\, `ulimit -t`, timers, a failing power supply, and two that no program uses.
    const OTHERS: [libc::c_int; 9] = [
        libc::SIGHUP,
        libc::SIGQUIT,
        libc::SIGXCPU,
        libc::SIGALRM,
        libc::SIGVTALRM,
        libc::SIGPROF,
        libc::SIGPWR,
        libc::SIGIO,
        libc::SIGSTKFLT,
    ];
    let others = OTHERS.into_iter().chain(libc::SIGRTMIN()..=libc::SIGRTMAX());
    [libc::SIGINT, libc::SIGTERM].into_iter().chain(others.filter(|signal| !is_ignored(*signal)))
}

fn is_ignored(signal: libc::c_int) -> bool {
    let mut action = std::mem::MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: no new action is given; the kernel writes the present action, and its memory outlives the call. If the
    // kernel writes nothing, zeroes are a valid sigaction too.
    let action = unsafe {
        libc::sigaction(signal, std::ptr::null(), action.as_mut_ptr());
        action.assume_init()
    };
    action.sa_sigaction == libc::SIG_IGN
}
