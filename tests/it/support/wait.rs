//! Waiting for a condition.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// The most time that a condition may take before its test fails. It is generous, because machines are shared.
pub const PATIENCE: Duration = Duration::from_secs(180);

/// Waits until `condition` holds. Fails the test with `what` if it does not hold within `PATIENCE`.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Tries with longer and longer times, in seconds, until there is a result: how much happens in a time depends on what else
/// the machine does. Fails the test with `what` if the longest is too short.
pub fn in_ever_longer_times<T>(what: &str, attempt: impl FnMut(u64) -> Option<T>) -> T {
    const SECONDS: [u64; 3] = [2, 8, 32];
    SECONDS.into_iter().find_map(attempt).unwrap_or_else(|| panic!("not within any of {SECONDS:?} s: {what}"))
}

/// Sets its flag when it is dropped, and so when its test fails too.
pub struct SetAtEnd<'a>(pub &'a AtomicBool);

impl Drop for SetAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}
