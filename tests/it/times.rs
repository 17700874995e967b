//! What the tests of this run took: the slowest, and the processor time of all.

use std::sync::Mutex;
use std::time::Duration;

/// Tests that are listed as the slowest.
const LISTED: usize = 10;

/// The time of each test that ran.
#[derive(Default)]
pub struct Times(Mutex<Vec<(Duration, &'static str)>>);

impl Times {
    pub fn add(&self, test: &'static str, time: Duration) {
        self.0.lock().unwrap().push((time, test));
    }

    /// Prints the slowest tests, each with its time from begin to end, and the processor time of the tests with
    /// all programs that they ran. `C1M_TEST_TIMES=1` lists every test.
    pub fn print(&self) {
        let mut times = self.0.lock().unwrap().clone();
        times.sort_unstable_by(|one, other| other.cmp(one));
        let listed = if std::env::var_os("C1M_TEST_TIMES").is_some() { times.len() } else { LISTED };
        // A run of a few tests needs no list.
        if times.len() <= LISTED && listed == LISTED {
            return;
        }
        for (time, test) in times.iter().take(listed) {
            println!("slow: {:6.1} s  {test}", time.as_secs_f64());
        }
        let processor = [libc::RUSAGE_SELF, libc::RUSAGE_CHILDREN].map(processor_time).iter().sum::<Duration>();
        println!(
            "slow: {:6.1} s of processor time in {} tests and their programs\n",
            processor.as_secs_f64(),
            times.len()
        );
    }
}

/// The processor time of this process, or of its children that have ended.
fn processor_time(whose: libc::c_int) -> Duration {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: the kernel writes a rusage, which outlives the call; a zeroed one is valid.
    let usage = unsafe {
        libc::getrusage(whose, usage.as_mut_ptr());
        usage.assume_init()
    };
    let time = |part: libc::timeval| Duration::new(part.tv_sec as u64, part.tv_usec as u32 * 1_000);
    time(usage.ru_utime) + time(usage.ru_stime)
}
