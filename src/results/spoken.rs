//! What was said on the connections of a server that speaks more than bytes.

use serde::{Deserialize, Serialize};

use crate::stats::{Snapshot, Spoken};

macro_rules! said {
    ($(#[$what:meta])* $document:ident { $($(#[$doc:meta])* $field:ident = $counter:ident: $name:literal,)* }) => {
        $(#[$what])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
        // Results of before a count was there can be read still.
        #[serde(default)]
        pub struct $document { $($(#[$doc])* pub $field: u64,)* }

        impl $document {
            fn of(counted: &Snapshot) -> $document {
                $document { $($field: counted.$counter,)* }
            }

            /// Each count with its name, in the order in which they are shown.
            pub fn named(&self) -> Vec<(&'static str, u64)> {
                vec![$(($name, self.$field),)*]
            }
        }
    };
}

said! {
    /// HTTP requests.
    HttpDocument {
    /// Answered, those for an upgrade included.
    requests = requests: "answered",
    /// Refused because they could not be read.
    malformed = requests_malformed: "malformed",
    /// Refused because their head or body was too long.
    too_long = requests_too_long: "too long",
    /// Refused because they were not complete in time.
    late = requests_late: "late",
    /// Refused because those that were incomplete took all the memory that they may.
    no_room = requests_without_room: "without room",
    }
}

said! {
    /// WebSocket connections and their messages.
    WebSocketDocument {
    /// Connections upgraded.
    upgrades = upgrades: "upgraded",
    /// Messages that came whole.
    messages = messages_whole: "messages",
    /// Connections closed because their peer did what the protocol forbids.
    protocol_errors = protocol_errors: "protocol errors",
    /// Connections closed because a text was not UTF-8.
    not_utf8 = texts_invalid: "not UTF-8",
    /// Connections closed because a message was too long.
    too_long = messages_too_long: "too long",
    /// Connections closed because a message was not complete in time.
    late = messages_late: "late",
    /// Connections closed because incomplete messages took all the memory that they may.
    no_room = messages_without_room: "without room",
    /// Connections whose peer did not answer a close in time.
    closes_unanswered = closes_unanswered: "closes unanswered",
    }
}

said! {
    /// Publications of a broadcaster.
    PushDocument {
    /// That came from publishers.
    publications = publications: "publications",
    /// Begun to be sent, once for each subscriber.
    pushes = pushes: "pushes",
    /// That a shard with too much to do did not send to its subscribers.
    missed = pushes_missed: "missed",
    /// Connections over plain bytes closed because of what their peer sent, or did not send in time, or for lack of room.
    refused = frames_refused: "refused",
    }
}

/// What was said on a server's connections: a part for each protocol that it speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SpokenDocument {
    /// HTTP requests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpDocument>,
    /// WebSocket messages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub websocket: Option<WebSocketDocument>,
    /// Publications.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub push: Option<PushDocument>,
}

impl SpokenDocument {
    /// What was counted.
    pub fn of(spoken: Spoken, counted: &Snapshot) -> SpokenDocument {
        SpokenDocument {
            http: spoken.http.then(|| HttpDocument::of(counted)),
            websocket: spoken.websocket.then(|| WebSocketDocument::of(counted)),
            push: spoken.push.then(|| PushDocument::of(counted)),
        }
    }

    /// Each part with its name and its counts, in the order in which they are shown.
    pub fn named(&self) -> impl Iterator<Item = (&'static str, Vec<(&'static str, u64)>)> {
        let parts = [
            ("HTTP requests", self.http.map(|part| part.named())),
            ("WebSocket", self.websocket.map(|part| part.named())),
            ("push", self.push.map(|part| part.named())),
        ];
        parts.into_iter().filter_map(|(name, counts)| Some((name, counts?)))
    }
}
