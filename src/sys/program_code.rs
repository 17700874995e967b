//! Pages of the program's code that only its start has needed.

use std::ffi::c_void;

/// Gives back every page of program code that this process has mapped: of the program itself and of its libraries. The
/// code that goes on running is mapped again by page faults, from the page cache. What only the start has run stays
/// away: options, plans, help, certificates. That is some 2.5 MiB of resident memory. Breakpoints that a debugger has set
/// in the code before are lost.
pub fn release_program_code() {
    // SAFETY of what the kernel does: the segments are mapped from files, are not writable and hold no relocations. Each
    // of their pages is the file's, and a later access reads the same bytes again.
    advise_program_code(libc::MADV_DONTNEED);
}

/// Gives the kernel this advice on all executable segments. Should the kernel refuse, they stay as they are.
fn advise_program_code(mut advice: libc::c_int) {
    let advice: *mut libc::c_int = &raw mut advice;
    // SAFETY: the dynamic linker calls the function for each loaded object and passes it the advice, which outlives
    // the call.
    unsafe { libc::dl_iterate_phdr(Some(advise_object), advice.cast()) };
}

/// Gives advice on the executable segments of one loaded object.
unsafe extern "C" fn advise_object(object: *mut libc::dl_phdr_info, _: usize, advice: *mut c_void) -> libc::c_int {
    // SAFETY: `dl_iterate_phdr` passes a valid object, and the advice of `advise_program_code`.
    let (object, advice) = unsafe { (&*object, *advice.cast::<libc::c_int>()) };
    if object.dlpi_phdr.is_null() {
        return 0;
    }
    // SAFETY: the object's headers are an array of that length.
    let headers = unsafe { std::slice::from_raw_parts(object.dlpi_phdr, object.dlpi_phnum.into()) };
    let base = object.dlpi_addr;
    let executable = |header: &&libc::Elf64_Phdr| {
        header.p_type == libc::PT_LOAD && header.p_flags & libc::PF_X != 0 && header.p_flags & libc::PF_W == 0
    };
    // SAFETY: the call reads a number.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) }.max(1) as u64;
    for header in headers.iter().filter(executable) {
        let begin = (base + header.p_vaddr) / page * page;
        let length = base + header.p_vaddr + header.p_memsz - begin;
        // SAFETY: the callers of `advise_program_code` say why their advice is sound on such a segment.
        unsafe { libc::madvise(begin as *mut c_void, length as usize, advice) };
    }
    0
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::{advise_program_code, release_program_code};

    /// Bytes that this process has mapped of files.
    fn resident_of_files() -> u64 {
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("RssFile:")).unwrap();
        line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() * 1_024
    }

    /// Other tests run meanwhile and map pages of theirs again.
    #[test]
    fn code_is_given_back_and_still_runs() {
        advise_program_code(libc::MADV_POPULATE_READ);
        let before = resident_of_files();
        release_program_code();
        let after = resident_of_files();
        assert!(after < before / 4 * 3, "{before} bytes, {after} after");
    }
}
