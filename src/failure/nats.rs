//! What a NATS server says by -ERR, each with its name.

/// An error that a NATS server tells a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum NatsError {
    /// It does not let the client subscribe to a subject.
    SubscriptionForbidden,
    /// It does not let the client publish to a subject.
    PublishForbidden,
    /// It does not know the user, the password or the token.
    AuthorizationViolation,
    /// CONNECT came too late.
    AuthenticationTimeout,
    /// The user or its account is valid no more.
    AuthenticationExpired,
    /// It has as many connections as it may have.
    TooManyConnections,
    /// The connection has as many subscriptions as it may have.
    TooManySubscriptions,
    /// It takes connections more slowly than they come.
    Throttled,
    /// It wants TLS.
    TlsRequired,
    /// The client did not answer its pings.
    StaleConnection,
    /// The client reads more slowly than messages come for it.
    SlowConsumer,
    /// A message is longer than it takes.
    PayloadTooLong,
    /// Another one.
    Other,
}

/// Names begin with it.
const PREFIX: &str = "nats_";

/// Each error, its name, and what stands in the text of nats-server (client.go, server.go and errors.go of its folder
/// `server`, versions 2.9 to 2.15) in small letters. All but the last have a blank in them, and no subject has one. So a
/// subject that the text names is taken for none of them.
const ERRORS: [(NatsError, &str, &str); 13] = [
    (NatsError::SubscriptionForbidden, "subscription_forbidden", "permissions violation for subscription"),
    (NatsError::PublishForbidden, "publish_forbidden", "permissions violation for publish"),
    (NatsError::AuthorizationViolation, "authorization_violation", "authorization violation"),
    (NatsError::AuthenticationTimeout, "authentication_timeout", "authentication timeout"),
    (NatsError::AuthenticationExpired, "authentication_expired", "authentication expired"),
    (NatsError::TooManyConnections, "too_many_connections", "connections exceeded"),
    (NatsError::TooManySubscriptions, "too_many_subscriptions", "subscriptions exceeded"),
    (NatsError::Throttled, "throttled", "connection throttling"),
    (NatsError::TlsRequired, "tls_required", "tls required"),
    (NatsError::StaleConnection, "stale_connection", "stale connection"),
    (NatsError::SlowConsumer, "slow_consumer", "slow consumer"),
    (NatsError::PayloadTooLong, "payload_too_long", "maximum payload"),
    (NatsError::Other, "error", ""),
];

impl NatsError {
    /// The error that a server means by this text.
    pub fn of_text(text: &[u8]) -> NatsError {
        let text = String::from_utf8_lossy(text).to_ascii_lowercase();
        let found = ERRORS.iter().find(|(.., part)| text.contains(part));
        found.map_or(NatsError::Other, |(error, ..)| *error)
    }

    /// The name under which reports count it, such as `nats_slow_consumer`.
    pub fn name(self) -> String {
        let name = ERRORS.iter().find(|(error, ..)| *error == self).map_or("", |(_, name, _)| *name);
        format!("{PREFIX}{name}")
    }

    /// The error of this name.
    pub fn named(name: &str) -> Option<NatsError> {
        let name = name.strip_prefix(PREFIX)?;
        ERRORS.iter().find(|(_, known, _)| *known == name).map(|(error, ..)| *error)
    }

    /// All of them.
    #[cfg(test)]
    pub fn all() -> impl Iterator<Item = NatsError> {
        ERRORS.into_iter().map(|(error, ..)| error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As nats-server writes them.
    #[test]
    fn texts_of_servers_are_known() {
        for (text, error) in [
            (r#"Permissions Violation for Subscription to "stale.connection""#, NatsError::SubscriptionForbidden),
            (r#"Permissions Violation for Publish to "no""#, NatsError::PublishForbidden),
            ("Authorization Violation", NatsError::AuthorizationViolation),
            ("Authentication Timeout", NatsError::AuthenticationTimeout),
            ("User Authentication Expired", NatsError::AuthenticationExpired),
            ("maximum connections exceeded", NatsError::TooManyConnections),
            ("maximum account active connections exceeded", NatsError::TooManyConnections),
            ("maximum subscriptions exceeded", NatsError::TooManySubscriptions),
            ("Connection throttling is active. Please try again later.", NatsError::Throttled),
            ("Secure Connection - TLS Required", NatsError::TlsRequired),
            ("Stale Connection", NatsError::StaleConnection),
            ("Slow Consumer", NatsError::SlowConsumer),
            ("Maximum Payload Violation", NatsError::PayloadTooLong),
            ("Unknown Protocol Operation", NatsError::Other),
            ("", NatsError::Other),
        ] {
            assert_eq!(NatsError::of_text(text.as_bytes()), error, "{text}");
        }
    }
}
