//! Whether the shard has messages. While it has, deferrable work is done in small parts with rests in between.

use std::time::{Duration, Instant};

use crate::stats::Counters;

/// A shard that received no message for this long has no traffic: work without rests delays no message.
pub(super) const QUIET_TIME: Duration = Duration::from_millis(100);

/// The messages of a shard over time.
#[derive(Debug, Default)]
pub(super) struct Traffic {
    /// The count of received messages when this was last asked.
    messages: u64,
    /// When the count had last grown.
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
