//! The meaning of signals to a run. A signal that ends the process by default ends the run in order, or does nothing.

#[cfg(feature = "cli")]
use std::io::{self, PipeReader, Read};
#[cfg(feature = "cli")]
use std::sync::Arc;
#[cfg(feature = "cli")]
use std::sync::atomic::{AtomicBool, Ordering};

#[cfg(feature = "cli")]
use rustix::fs::{OFlags, fcntl_setfl};

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

/// Signals that were caught, in the order in which they came. One that comes again before it was taken counts once.
///
/// signal-hook has such an iterator too. Its handler calls send(2), and its reader recv(2) and panics where that fails. A
/// filter of system calls may forbid these to a program that needs no socket of its own; no filter forbids read(2) and
/// write(2).
#[cfg(feature = "cli")]
#[derive(Debug)]
pub struct Signals {
    numbers: PipeReader,
    waiting: Arc<Waiting>,
}

/// Whether a signal is in the pipe, by its number.
#[cfg(feature = "cli")]
type Waiting = [AtomicBool; MOST_SIGNALS];

/// The kernel's signals have numbers up to 64.
#[cfg(feature = "cli")]
const MOST_SIGNALS: usize = 65;

#[cfg(feature = "cli")]
impl Signals {
    /// Catches these signals from now on, as long as the process lives.
    ///
    /// Fails where no pipe can be had.
    pub fn catch(which: impl Iterator<Item = libc::c_int>) -> io::Result<Signals> {
        let (numbers, write) = io::pipe()?;
        // A handler must not wait. The pipe has room for all signals once.
        fcntl_setfl(&write, OFlags::NONBLOCK)?;
        let (write, waiting) = (Arc::new(write), Arc::new([const { AtomicBool::new(false) }; MOST_SIGNALS]));
        for signal in which {
            let (write, theirs, number) = (write.clone(), waiting.clone(), signal as u8);
            let tell = move || {
                if !theirs[usize::from(number)].swap(true, Ordering::SeqCst) {
                    let _ = rustix::io::write(&*write, &[number]);
                }
            };
            // SAFETY: the action is async-signal-safe: it makes one system call at most, takes no lock, and allocates
            // nothing. A signal's number is below `MOST_SIGNALS`, so it does not panic either.
            unsafe { signal_hook::low_level::register(signal, tell) }?;
            let_come(signal);
        }
        Ok(Signals { numbers, waiting })
    }
}

#[cfg(feature = "cli")]
impl Iterator for Signals {
    type Item = libc::c_int;

    /// Waits for the next signal.
    fn next(&mut self) -> Option<libc::c_int> {
        let mut number = [0];
        self.numbers.read_exact(&mut number).ok()?;
        self.waiting[usize::from(number[0])].store(false, Ordering::SeqCst);
        Some(number[0].into())
    }
}

/// Unblocks a signal for this thread, and so for the process: it is delivered to any thread that does not block it. What
/// starts this process may have blocked it, and a block is inherited.
#[cfg(feature = "cli")]
fn let_come(signal: libc::c_int) {
    let mut set = std::mem::MaybeUninit::<libc::sigset_t>::zeroed();
    // SAFETY: the set is emptied before it is used, and outlives the calls; none of them keeps it. A call fails only for a
    // number that is no signal's.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        libc::sigaddset(set.as_mut_ptr(), signal);
        libc::pthread_sigmask(libc::SIG_UNBLOCK, set.as_ptr(), std::ptr::null_mut());
    }
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
