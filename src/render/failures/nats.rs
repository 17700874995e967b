//! For each error of a NATS server one sentence for people.

use crate::failure::NatsError;

/// What the error usually means, and what to do.
pub fn sentence(error: NatsError) -> &'static str {
    match error {
        NatsError::SubscriptionForbidden => {
            "the server does not let the client subscribe to one of its subjects; check the user's permissions, --topic and --subscribe"
        }
        NatsError::PublishForbidden => {
            "the server does not let the client publish to its subject; check the user's permissions, and the subject"
        }
        NatsError::AuthorizationViolation => {
            "the server does not know this user with this password, or this token; check --user and --password"
        }
        NatsError::AuthenticationTimeout => {
            "the client's CONNECT came later than the server waits for it (its authorization timeout); lower --concurrency, or raise that time"
        }
        NatsError::AuthenticationExpired => "the user's rights at the server have expired; give it new ones",
        NatsError::TooManyConnections => {
            "the server, or the user's account, has as many connections as it may have; raise its max_connections"
        }
        NatsError::TooManySubscriptions => {
            "the server allows a connection fewer subscriptions; give fewer --subscribe, or raise its max_subscriptions"
        }
        NatsError::Throttled => {
            "the server takes only so many TLS connections a second (connection_rate_limit); connect more slowly, or raise it"
        }
        NatsError::TlsRequired => "the server wants TLS; give --tls, and have its handshake_first set",
        NatsError::StaleConnection => {
            "the server's pings were not answered in time: the client or the way to it is held up, or its ping_interval is short"
        }
        NatsError::SlowConsumer => {
            "the client reads more slowly than the server sends; publish less often, or use more client machines"
        }
        NatsError::PayloadTooLong => {
            "a message is longer than the server takes; lower --payload or raise its max_payload"
        }
        NatsError::Other => "the server told an error and says more in its log",
    }
}
