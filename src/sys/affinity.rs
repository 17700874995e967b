//! The cores that a thread may run on, however many a host has: `cpu_set_t` of libc has room for 1,024.

use std::io;

use libc::c_ulong;

/// Cores in one word of a mask.
const CORES_PER_WORD: usize = c_ulong::BITS as usize;

/// Words of the smallest mask, that of `cpu_set_t`.
const FEWEST_WORDS: usize = size_of::<libc::cpu_set_t>() / size_of::<c_ulong>();

/// Words of the largest mask, for 131,072 cores: no kernel is built for more than 8,192 (`NR_CPUS`).
const MOST_WORDS: usize = FEWEST_WORDS << 7;

/// The cores that the calling thread may run on, lowest number first, as cpusets and taskset allow.
pub fn cores_allowed() -> io::Result<Vec<usize>> {
    read(|mask| {
        // SAFETY: the kernel writes into the mask, which outlives the call, and no more than its size.
        let done = unsafe { libc::sched_getaffinity(0, size_of_val(mask), mask.as_mut_ptr().cast()) };
        if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    })
}

/// Reads a mask. The kernel answers EINVAL to one in which not all cores have room that the host may ever have.
fn read(mut ask: impl FnMut(&mut [c_ulong]) -> io::Result<()>) -> io::Result<Vec<usize>> {
    let mut words = FEWEST_WORDS;
    loop {
        let mut mask = vec![0; words];
        match ask(&mut mask) {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) && words < MOST_WORDS => words *= 2,
            done => {
                let is_set = |core: &usize| mask[core / CORES_PER_WORD] >> (core % CORES_PER_WORD) & 1 == 1;
                return done.map(|()| (0..words * CORES_PER_WORD).filter(is_set).collect());
            }
        }
    }
}

/// Lets the calling thread run on this core alone.
pub fn pin_thread(core: usize) -> io::Result<()> {
    // The kernel takes the cores beyond a mask as not set.
    let mut mask: Vec<c_ulong> = vec![0; FEWEST_WORDS.max(core / CORES_PER_WORD + 1)];
    mask[core / CORES_PER_WORD] = 1 << (core % CORES_PER_WORD);
    // SAFETY: the kernel reads the mask, which outlives the call, and no more than its size.
    let done = unsafe { libc::sched_setaffinity(0, size_of_val(&mask[..]), mask.as_ptr().cast()) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_runs_on_the_core_to_which_it_is_pinned() {
        let all = cores_allowed().unwrap();
        let last = *all.last().unwrap();
        let pinned = move || {
            pin_thread(last).unwrap();
            cores_allowed().unwrap()
        };
        assert_eq!(std::thread::spawn(pinned).join().unwrap(), [last]);
        assert_eq!(cores_allowed().unwrap(), all);
        assert_eq!(pin_thread(1 << 16).unwrap_err().raw_os_error(), Some(libc::EINVAL));
    }

    /// No host at hand has so many cores.
    #[test]
    fn more_cores_than_a_set_of_libc_has_are_read() {
        let kernel = |mask: &mut [c_ulong]| {
            if mask.len() * CORES_PER_WORD < 8_192 {
                return Err(io::Error::from_raw_os_error(libc::EINVAL));
            }
            [3, 1_023, 1_024, 8_191]
                .into_iter()
                .for_each(|core| mask[core / CORES_PER_WORD] |= 1 << (core % CORES_PER_WORD));
            Ok(())
        };
        assert_eq!(read(kernel).unwrap(), [3, 1_023, 1_024, 8_191]);
        let refuses = |answer| read(|_| Err(io::Error::from_raw_os_error(answer))).unwrap_err().raw_os_error();
        assert_eq!([libc::EINVAL, libc::EPERM].map(refuses), [libc::EINVAL, libc::EPERM].map(Some));
    }
}
