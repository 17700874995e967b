//! What a client is told of the protocol that it speaks.

use clap::Args;
use clap::builder::PossibleValuesParser;

use crate::command_error::{CommandError, Result};
use crate::protocol::{Protocol, Settings};

#[derive(Debug, Args)]
pub struct ProtocolArguments {
    /// What is said on the connections: `raw`, for servers that send back every byte; `send-expect`, for any server
    /// of which one message and its answer can be typed (--send and --expect).
    #[arg(long, value_name = "NAME", default_value = "raw", value_parser = PossibleValuesParser::new(Protocol::NAMES))]
    protocol: String,
    /// raw: sent on each new connection, its number in place of {}; "Hello Server: client --> {}" by default. Empty
    /// sends nothing.
    #[arg(long, value_name = "TEXT")]
    hello: Option<String>,
    /// raw: bytes of a message of --interval; 64 by default.
    #[arg(long, value_name = "BYTES")]
    payload: Option<usize>,
    /// send-expect: the message, sent on each new connection, in audits and by --interval. {n} is the connection's
    /// number, {round} the round, {token} 16 hexadecimal digits that belong to both; \r \n \t \\ \xHH are bytes; {{
    /// and }} are braces.
    #[arg(long, value_name = "TEMPLATE")]
    send: Option<String>,
    /// send-expect: its answer, in the same way. * stands for anything up to what follows it, at the end for
    /// anything up to the next message; \* is a star.
    #[arg(long, value_name = "TEMPLATE")]
    expect: Option<String>,
    /// send-expect: what the server says first, as --expect; nothing is sent before that.
    #[arg(long, value_name = "TEMPLATE")]
    greeting: Option<String>,
    /// send-expect: sent before the connections are closed in the end, as --send; no answer is awaited.
    #[arg(long, value_name = "TEMPLATE")]
    goodbye: Option<String>,
    /// Number of the first connection. Where a protocol uses the numbers, as in the keys of a store, give each client
    /// machine numbers of its own.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub first_number: u64,
}

impl ProtocolArguments {
    /// The protocol with its settings.
    pub fn protocol(&self) -> Result<Protocol> {
        let settings = Settings {
            hello: self.hello.clone(),
            payload: self.payload,
            send: self.send.clone(),
            expect: self.expect.clone(),
            greeting: self.greeting.clone(),
            goodbye: self.goodbye.clone(),
        };
        Protocol::new(&self.protocol, &settings).map_err(|error| {
            let [saw, means, cure] = error.parts(|setting| format!("--{setting}"));
            CommandError::usage(saw, means, cure)
        })
    }

    /// The words that choose the same protocol, with connections of other numbers.
    pub fn words(&self, first_number: u64) -> Vec<String> {
        let texts = [
            ("hello", &self.hello),
            ("send", &self.send),
            ("expect", &self.expect),
            ("greeting", &self.greeting),
            ("goodbye", &self.goodbye),
        ];
        let mut words = vec![format!("--protocol={}", self.protocol), format!("--first-number={first_number}")];
        words.extend(texts.iter().filter_map(|(name, text)| Some(format!("--{name}={}", text.as_ref()?))));
        words.extend(self.payload.map(|bytes| format!("--payload={bytes}")));
        words
    }
}
