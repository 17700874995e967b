//! Memory that only the start of the program has needed.

use std::ffi::c_void;

/// Gives back what only the start has needed, some 3 MiB of resident memory: pages of the program and its libraries, and
/// what the allocator has free.
///
/// Every page of code and constants is given back. What goes on being used is mapped again by page faults, from the page
/// cache. Options, plans, help, certificates and the linker's tables stay away. Breakpoints that a debugger has set in the
/// code before are lost.
pub fn release_start_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: the call gives back memory that is free, and locks the allocator meanwhile.
    unsafe {
        libc::malloc_trim(0);
    }
    // It is sound to drop these pages: the segments are mapped from files, are not writable and hold no relocations, so
    // each page is the file's, and a later access reads the same bytes again.
    advise_program(libc::MADV_DONTNEED);
}

/// Gives the kernel this advice on all segments that are not writable. Should the kernel refuse, they stay as they are.
fn advise_program(mut advice: libc::c_int) {
    let advice: *mut libc::c_int = &raw mut advice;
    // SAFETY: the dynamic linker calls the function for each loaded object and passes it the advice, which outlives
    // the call.
    unsafe { libc::dl_iterate_phdr(Some(advise_object), advice.cast()) };
}

/// Gives advice on the segments of one loaded object.
unsafe extern "C" fn advise_object(object: *mut libc::dl_phdr_info, _: usize, advice: *mut c_void) -> libc::c_int {
    // SAFETY: `dl_iterate_phdr` passes a valid object, and the advice of `advise_program`.
    let (object, advice) = unsafe { (&*object, *advice.cast::<libc::c_int>()) };
    if object.dlpi_phdr.is_null() {
        return 0;
    }
    // SAFETY: the object's headers are an array of that length.
    let headers = unsafe { std::slice::from_raw_parts(object.dlpi_phdr, object.dlpi_phnum.into()) };
    let base = object.dlpi_addr;
    let read_only = |header: &&libc::Elf64_Phdr| header.p_type == libc::PT_LOAD && header.p_flags & libc::PF_W == 0;
    // SAFETY: the call reads a number.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) }.max(1) as u64;
    for header in headers.iter().filter(read_only) {
        let begin = (base + header.p_vaddr) / page * page;
        let length = base + header.p_vaddr + header.p_memsz - begin;
        // SAFETY: the segment is mapped. The callers of `advise_program` say why their advice is sound on it.
        unsafe { libc::madvise(begin as *mut c_void, length as usize, advice) };
    }
    0
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::{advise_program, release_start_memory};

    /// Bytes that this process has mapped of files.
    fn resident_of_files() -> u64 {
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("RssFile:")).unwrap();
        line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() * 1_024
    }

    /// Other tests run meanwhile and map pages of theirs again.
    #[test]
    fn what_the_start_needed_is_given_back_and_the_program_goes_on() {
        advise_program(libc::MADV_POPULATE_READ);
        let before = resident_of_files();
        release_start_memory();
        let after = resident_of_files();
        assert!(after < before / 4 * 3, "{before} bytes, {after} after");
    }
}
