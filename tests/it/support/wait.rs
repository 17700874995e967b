//! Waiting for a condition.

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
