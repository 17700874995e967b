//! The end of the program when the system has no memory: one line that names the limit. The standard library would end the
//! process with SIGABRT and name no limit.

use std::alloc::{GlobalAlloc, Layout, System};
use std::fmt;
use std::io::{Cursor, Write};
use std::sync::atomic::{AtomicBool, Ordering};

/// The system's allocator, which ends the process with exit code 3 and one line if there is no memory.
#[derive(Debug, Clone, Copy)]
pub struct Allocator;

// SAFETY: every call goes to the system's allocator, and its answer is returned unless it is a null pointer.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: `System` asks of the caller what this method asks.
        given(unsafe { System.alloc(layout) }, layout.size())
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as in `alloc`.
        given(unsafe { System.alloc_zeroed(layout) }, layout.size())
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: as in `alloc`; the memory came from `System`.
        given(unsafe { System.realloc(memory, layout, size) }, size)
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: as in `realloc`.
        unsafe { System.dealloc(memory, layout) }
    }
}

fn given(memory: *mut u8, size: usize) -> *mut u8 {
    if memory.is_null() {
        refused(size)
    }
    memory
}

#[cold]
fn refused(size: usize) -> ! {
    end_without_memory(format_args!("allocate {size} bytes: Cannot allocate memory (ENOMEM)"))
}

/// Bytes that a process must still get for a panic not to be for want of memory. A library may have asked for more than
/// the panic's own message needs.
const WANTED_AFTER_A_PANIC: usize = 1 << 20;

/// Has a panic for want of memory end the process as a refused allocation does. Libraries panic then, and the standard
/// library where a new thread gets no stack for signals (`make_handler` in std/src/sys/pal/unix/stack_overflow.rs). Not
/// all of them say why: glommio takes a `malloc` that failed for an old kernel.
pub fn end_at_panics_without_memory() {
    let others = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let payload = panic.payload();
        let text = payload.downcast_ref::<String>().map(String::as_str).or(payload.downcast_ref::<&str>().copied());
        match text.filter(|text| text.contains("Cannot allocate memory")) {
            Some(text) => end_without_memory(format_args!("{text}")),
            None if !gives_memory(WANTED_AFTER_A_PANIC) => refused(WANTED_AFTER_A_PANIC),
            None => others(panic),
        }
    }));
}

/// Whether the kernel gives this process further memory. What it gives is returned at once.
fn gives_memory(bytes: usize) -> bool {
    let (access, kind) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    // SAFETY: the kernel chooses the place of a new mapping, to which nothing refers. It is unmapped as it was mapped.
    unsafe {
        let mapped = libc::mmap(std::ptr::null_mut(), bytes, access, kind, -1, 0);
        mapped != libc::MAP_FAILED && libc::munmap(mapped, bytes) == 0
    }
}

/// Ends the process with one line: what was seen, and the limit that is met. Allocates nothing.
fn end_without_memory(saw: fmt::Arguments<'_>) -> ! {
    static TOLD: AtomicBool = AtomicBool::new(false);
    // If another thread was refused first, that thread ends the process.
    while TOLD.swap(true, Ordering::Relaxed) {
        // SAFETY: the call takes no memory; it waits for a signal.
        unsafe { libc::pause() };
    }
    let mut text = [0; 512];
    let mut line = Cursor::new(&mut text[..]);
    let soft = |limit| {
        let mut found = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
        // SAFETY: the kernel writes one rlimit, which outlives the call.
        unsafe { libc::getrlimit(limit, &raw mut found) };
        (found.rlim_cur != libc::RLIM_INFINITY).then_some(found.rlim_cur)
    };
    let limits = [(libc::RLIMIT_AS, "ulimit -v"), (libc::RLIMIT_DATA, "ulimit -d")];
    let lowest = limits.into_iter().filter_map(|(limit, name)| Some((soft(limit)?, name))).min();
    // A line that does not fit is cut off.
    let _ = match lowest {
        Some((most, name)) => {
            writeln!(line, "c1m: {saw}: {name} allows {most} bytes; raise it ({name} unlimited), or use fewer cores")
        }
        None => writeln!(line, "c1m: {saw}: the host has none left; free some, or ask for fewer connections"),
    };
    let length = line.position() as usize;
    // SAFETY: the kernel reads `length` bytes of `text`, which outlives the call. If standard error is closed, the
    // write fails, and the process ends all the same.
    unsafe {
        libc::write(libc::STDERR_FILENO, text.as_ptr().cast(), length);
        libc::_exit(HOST_REFUSES)
    }
}

/// The exit code of a host that lacks something.
const HOST_REFUSES: libc::c_int = 3;
