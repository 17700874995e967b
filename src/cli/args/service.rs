//! What a server does with what comes, and how it is framed.

use clap::{Args, ValueEnum};

use crate::command_error::{CommandError, Result};
use crate::plan::Layers;
use crate::protocol::{Protocol, Settings};
use crate::service::http::HttpLimits;
use crate::service::push::PushLimits;
use crate::service::websocket::WebSocketLimits;
use crate::tls_version::TlsVersion;

/// --max-message by default.
const MAX_MESSAGE: usize = 65_536;

/// Longest messages of a shard that may be incomplete at once, where that is more than the default allows.
const MOST_INCOMPLETE: usize = 4;

/// The most that --max-message can be: a message is assembled in memory.
const LONGEST_MESSAGE: usize = 1 << 30;

#[derive(Debug, Args)]
pub struct ServiceArguments {
    /// What to do with what comes: `echo` sends it back; `sink` counts and discards it; `push` sends what a publisher
    /// says to all subscribers (docs/guide/services.md).
    #[arg(long, value_enum, default_value_t = ServiceName::Echo)]
    pub service: ServiceName,
    /// What is spoken on the connections: `raw` bytes; `websocket` messages, after an upgrade at any path; `http`
    /// requests on kept connections. With the last two, GET /healthz answers 200.
    #[arg(long, value_enum, default_value_t = ServerProtocol::Raw)]
    pub protocol: ServerProtocol,
    /// Longest message of `websocket`, body of `http`, or publication of `push`, 1 to 1 GiB. A longer one is refused
    /// (1009, or 413), and its connection closed; 65536 by default. --max-pending is raised to hold a message.
    #[arg(long, value_name = "BYTES")]
    max_message: Option<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ServiceName {
    Echo,
    Sink,
    Push,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ServerProtocol {
    Raw,
    #[value(name = "websocket")]
    WebSocket,
    Http,
}

impl ServiceName {
    /// As it is typed.
    pub fn name(self) -> &'static str {
        match self {
            ServiceName::Echo => "echo",
            ServiceName::Sink => "sink",
            ServiceName::Push => "push",
        }
    }
}

impl ServerProtocol {
    /// As it is typed.
    pub fn name(self) -> &'static str {
        match self {
            ServerProtocol::Raw => "raw",
            ServerProtocol::WebSocket => "websocket",
            ServerProtocol::Http => "http",
        }
    }
}

impl ServerProtocol {
    /// What must be kept of each connection for it, with TLS of this version at least or without TLS.
    pub fn layers(self, tls: Option<TlsVersion>) -> Layers {
        Layers { conversation: self != ServerProtocol::Raw, tls }
    }

    /// The client's protocol in which each message has a token that `echo` sends back.
    pub fn echoed(self) -> Result<Protocol> {
        let proof = |word: &str| Some(word.to_owned());
        let settings = match self {
            ServerProtocol::Raw => Settings::default(),
            ServerProtocol::WebSocket => Settings { proof: proof("echo"), ..Settings::default() },
            ServerProtocol::Http => {
                Settings { proof: proof("token"), path: Some("/{token}".to_owned()), ..Settings::default() }
            }
        };
        Protocol::new(self.name(), &settings).map_err(|error| CommandError::bug(error.to_string()))
    }
}

impl ServiceArguments {
    /// Refuses what cannot be.
    pub fn check(&self) -> Result<()> {
        if (self.service, self.protocol) == (ServiceName::Push, ServerProtocol::Http) {
            return Err(CommandError::usage(
                "--service push --protocol http",
                "a subscriber over HTTP would miss what is published between two of its requests",
                "choose --protocol websocket, where a publication can be posted by HTTP",
            ));
        }
        if self.max_message.is_some() && !self.has_messages() {
            return Err(CommandError::usage(
                format!("--max-message with --service {} --protocol raw", self.service.name()),
                "bytes are taken as they come: there are no messages, and none is too long",
                "leave it out, or choose --protocol websocket or http, or --service push",
            ));
        }
        if !(1..=LONGEST_MESSAGE).contains(&self.max_message()) {
            return Err(CommandError::usage(
                format!("--max-message {}", self.max_message()),
                format!("a message has between 1 and {LONGEST_MESSAGE} bytes"),
                "try 65536",
            ));
        }
        Ok(())
    }

    /// What `push` takes over plain bytes.
    pub fn push_limits(&self) -> PushLimits {
        let defaults = PushLimits::default();
        PushLimits { longest_frame: self.max_message(), incomplete: self.incomplete(defaults.incomplete), ..defaults }
    }

    /// What is taken over WebSocket.
    pub fn websocket_limits(&self) -> WebSocketLimits {
        let defaults = WebSocketLimits::default();
        let HttpLimits { incomplete, .. } = defaults.http;
        let http =
            HttpLimits { longest_body: self.max_message(), incomplete: self.incomplete(incomplete), ..defaults.http };
        let incomplete = self.incomplete(defaults.incomplete);
        WebSocketLimits { longest_message: self.max_message(), incomplete, http, ..defaults }
    }

    /// What is taken over HTTP.
    pub fn http_limits(&self) -> HttpLimits {
        let defaults = HttpLimits::default();
        HttpLimits { longest_body: self.max_message(), incomplete: self.incomplete(defaults.incomplete), ..defaults }
    }

    /// Bytes of a shard's messages that may be incomplete at once: so many by default, and room for some of the longest in any
    /// case.
    fn incomplete(&self, default: usize) -> usize {
        default.max(MOST_INCOMPLETE * self.max_message())
    }

    /// Bytes of the longest message.
    fn max_message(&self) -> usize {
        self.max_message.unwrap_or(MAX_MESSAGE)
    }

    /// Whether anything but bytes is spoken.
    fn has_messages(&self) -> bool {
        self.protocol != ServerProtocol::Raw || self.service == ServiceName::Push
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_of_the_longest_messages_may_be_incomplete_at_once_whatever_is_spoken() {
        let (service, protocol) = (ServiceName::Push, ServerProtocol::Raw);
        for longest in [1, 65_536, 100 << 20] {
            let arguments = ServiceArguments { service, protocol, max_message: Some(longest) };
            let (push, websocket, http) =
                (arguments.push_limits(), arguments.websocket_limits(), arguments.http_limits());
            assert_eq!([push.longest_frame, websocket.longest_message, http.longest_body], [longest; 3]);
            // The body of a publication that is posted may be as long as a message.
            let most = [push.incomplete, websocket.incomplete, http.incomplete, websocket.http.incomplete];
            assert!(most.iter().all(|most| *most >= 4 * longest), "{longest}: {most:?}");
        }
    }
}
