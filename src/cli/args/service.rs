//! What a server does with what comes, and how it is framed.

use clap::{Args, ValueEnum};

use crate::command_error::{CommandError, Result};
use crate::plan::Layers;
use crate::protocol::{Protocol, Settings};
use crate::tls_version::TlsVersion;

/// --max-message by default.
const MAX_MESSAGE: usize = 65_536;

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

    /// Bytes of the longest message.
    pub fn max_message(&self) -> usize {
        self.max_message.unwrap_or(MAX_MESSAGE)
    }

    /// Whether anything but bytes is spoken.
    fn has_messages(&self) -> bool {
        self.protocol != ServerProtocol::Raw || self.service == ServiceName::Push
    }

    /// Bytes that must be kept for a peer so that the longest message can be sent to it, with its frame or head. `None`
    /// where nothing but bytes is spoken.
    pub fn pending(&self) -> Option<usize> {
        /// More than the header of a frame, and than what c1m writes into the head of a response.
        const BESIDE: usize = 1_024;
        self.has_messages().then(|| self.max_message() + BESIDE)
    }
}
