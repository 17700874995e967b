//! What is said of sleeping connections before a run.

use std::time::Duration;

use crate::format;

/// The kernel may owe an acknowledgement for so long (`TCP_DELACK_MIN` in include/net/tcp.h is 40 ms, and a tick or two
/// comes to it). A connection does not sleep before.
pub const DELAYED_ACKNOWLEDGEMENT: Duration = Duration::from_millis(50);

/// The warning for a shorter silence.
pub const TOO_SOON: &str =
    "--hibernate below 50 ms: an acknowledgement may still be outstanding; such a connection cannot sleep yet";

/// The line on start.
pub fn asleep_after(silence: Duration, awake: u64) -> String {
    format!(
        "connections sleep after {} of silence, and then have no socket; at most {} are awake at once",
        humantime::format_duration(silence),
        format::count(awake)
    )
}
