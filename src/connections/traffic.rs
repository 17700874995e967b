//! Whether the shard has messages. While it has, what can wait is done in small parts with rests between them.

use std::time::{Duration, Instant};

use crate::stats::Counters;

/// A shard that received no message for this long has no traffic: work without rests delays nobody.
pub(super) const QUIET_TIME: Duration = Duration::from_millis(100);

/// The messages of a shard over time.
#[derive(Debug, Default)]
pub(super) struct Traffic {
    /// Messages received when it was last asked.
    messages: u64,
    /// When it was last asked and found new ones.
    latest: Option<Instant>,
}

impl Traffic {
    /// Whether a message was received within `QUIET_TIME`.
    pub fn flows(&mut self, counters: &Counters, now: Instant) -> bool {
        let messages = counters.messages.get();
        if messages != self.messages {
            (self.messages, self.latest) = (messages, Some(now));
        }
        self.latest.is_some_and(|latest| now.saturating_duration_since(latest) < QUIET_TIME)
    }
}
