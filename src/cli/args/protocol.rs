//! What a client is told of the protocol that it speaks.

use clap::Args;
use clap::builder::PossibleValuesParser;

use super::mqtt::MqttArguments;
use crate::addresses::Address;
use crate::command_error::{CommandError, Result};
use crate::plan::{Ports, Target};
use crate::protocol::{Authority, Protocol, Role, SettingError, Settings};

#[derive(Debug, Args)]
pub struct ProtocolArguments {
    /// What is said on the connections: `raw`, the default, for servers that send back every byte; `send-expect`, for any
    /// server of which one message and its answer can be typed (--send and --expect); `websocket`; `http`; `mqtt`, version 3.1.1 or
    /// 5; `nats`; `push`, the frames of `c1m server --service push` over plain bytes, which is also what `raw` means to
    /// `fanout`.
    #[arg(long, value_name = "NAME", value_parser = PossibleValuesParser::new(Protocol::NAMES))]
    protocol: Option<String>,
    /// raw: sent on each new connection, its number in place of {}; "Hello Server: client --> {}" by default. Empty
    /// sends nothing.
    #[arg(long, value_name = "TEXT")]
    hello: Option<String>,
    /// raw, websocket, mqtt, nats: bytes of a message of --interval, and of a publication of `fanout`, which has 64 to 60000;
    /// 64 by default.
    #[arg(long, value_name = "BYTES")]
    pub payload: Option<usize>,
    /// send-expect: the message, sent on each new connection, in audits and by --interval. Within braces, n stands for
    /// the connection's number, round for the round, and token for 16 lower-case hexadecimal digits that belong to both;
    /// \r \n \t \\ \xHH are bytes; {{ and }} are braces.
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
    /// websocket, http: the path that is asked for, with its query, as --send; / by default.
    #[arg(long, value_name = "TEMPLATE")]
    path: Option<String>,
    /// websocket, http: a further field of the request, its value as --send; may be given several times.
    #[arg(long, value_name = "NAME: TEMPLATE")]
    header: Vec<String>,
    /// websocket: the subprotocols to offer, separated by commas.
    #[arg(long, value_name = "NAMES")]
    subprotocol: Option<String>,
    /// websocket: the type of our messages, `text` (the default) or `binary`.
    #[arg(long, value_name = "TYPE")]
    message_type: Option<String>,
    /// What proves a connection. websocket: `ping` (the default), a Pong with the token, which every server and gateway
    /// sends; `echo`, the service behind it sends a message back. http: `status` (the default); `token`, the body of
    /// the answer has the {token} of the request in it. mqtt, nats: `publish` (the default), each message goes to
    /// the connection's own topic and must come back; `ping`, a PINGREQ or PING is answered.
    #[arg(long, value_name = "PROOF")]
    proof: Option<String>,
    /// http: the method, `GET` (the default) or `POST`.
    #[arg(long, value_name = "METHOD")]
    method: Option<String>,
    /// http: the body of a POST, as --send.
    #[arg(long, value_name = "TEMPLATE")]
    body: Option<String>,
    /// http: the status that each answer must have; 200 by default.
    #[arg(long, value_name = "STATUS")]
    status: Option<u16>,
    /// What each connection says to subscribe; may be given more than once. websocket: a text that it sends after the
    /// handshake. mqtt, nats: a topic filter, or a subject, that it subscribes to beside its own.
    #[arg(long, value_name = "TEMPLATE")]
    subscribe: Vec<String>,
    /// mqtt, nats: the user's name.
    #[arg(long, value_name = "TEMPLATE")]
    user: Option<String>,
    /// mqtt, nats: the user's password; without --user the token of nats. Other users of this host can see it in the list
    /// of processes.
    #[arg(long, value_name = "TEMPLATE")]
    password: Option<String>,
    /// mqtt, nats: the connection's own topic, or subject; by default `c1m/`, or `c1m.`, and the connection's number.
    #[arg(long, value_name = "TEMPLATE")]
    topic: Option<String>,
    #[command(flatten)]
    mqtt: MqttArguments,
    /// Number of the first connection. Where a protocol uses the numbers, as in the keys of a store, give each client
    /// machine numbers of its own.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub first_number: u64,
}

/// The protocol where none is named.
const DEFAULT: &str = "raw";

/// The port that requests of HTTP do not name.
const HTTP_PORT: u16 = 80;

impl ProtocolArguments {
    /// The protocol with its settings, for connections to this target, or else to these addresses, and to these ports.
    pub fn protocol(&self, target: Option<&Target>, at: (&[Address], Ports)) -> Result<Protocol> {
        made(self.name(target)?, &self.settings(target, at)?, target)
    }

    /// The settings of the protocol, for the same.
    pub fn settings(&self, target: Option<&Target>, (addresses, ports): (&[Address], Ports)) -> Result<Settings> {
        let path = match (target.and_then(|target| target.path.as_ref()), &self.path) {
            (Some(path), Some(other)) => {
                return Err(CommandError::usage(
                    format!("--target with the path {path}, and --path {other}"),
                    "a connection asks for one path",
                    "leave one of them out",
                ));
            }
            (path, other) => path.or(other.as_ref()).cloned(),
        };
        let scheme = target.and_then(|target| target.scheme);
        let hosts = match target {
            Some(target) => vec![target.url_host()],
            None => addresses.iter().map(|address| address.url_host()).collect(),
        };
        let server = Some(Authority {
            hosts,
            first_port: ports.first(),
            ports: ports.count() as u16,
            default_port: scheme.map_or(HTTP_PORT, |scheme| scheme.default_port()),
        });
        Ok(Settings {
            hello: self.hello.clone(),
            payload: self.payload,
            send: self.send.clone(),
            expect: self.expect.clone(),
            greeting: self.greeting.clone(),
            goodbye: self.goodbye.clone(),
            path,
            headers: self.header.clone(),
            subprotocol: self.subprotocol.clone(),
            message_type: self.message_type.clone(),
            proof: self.proof.clone(),
            method: self.method.clone(),
            body: self.body.clone(),
            status: self.status,
            subscribe: self.subscribe.clone(),
            user: self.user.clone(),
            password: self.password.clone(),
            topic: self.topic.clone(),
            mqtt: self.mqtt.settings(),
            server,
            ..Settings::default()
        })
    }

    /// The name of the protocol: that of the URL, or the one that was typed.
    pub fn name<'a>(&'a self, target: Option<&'a Target>) -> Result<&'a str> {
        let Some((target, scheme)) = target.and_then(|target| Some((target, target.scheme?))) else {
            return Ok(self.protocol.as_deref().unwrap_or(DEFAULT));
        };
        if let Some(typed) = self.protocol.as_deref().filter(|typed| *typed != scheme.protocol()) {
            return Err(CommandError::usage(
                format!("--target {target} with --protocol {typed}"),
                format!("{}:// is spoken as {}", scheme.name(), scheme.protocol()),
                "leave out --protocol, or give the target as HOST:PORT",
            ));
        }
        Ok(scheme.protocol())
    }

    /// The words that choose the same protocol, with connections of other numbers.
    pub fn words(&self, first_number: u64) -> Vec<String> {
        let texts = [
            ("protocol", &self.protocol),
            ("hello", &self.hello),
            ("send", &self.send),
            ("expect", &self.expect),
            ("greeting", &self.greeting),
            ("goodbye", &self.goodbye),
            ("path", &self.path),
            ("subprotocol", &self.subprotocol),
            ("message-type", &self.message_type),
            ("proof", &self.proof),
            ("method", &self.method),
            ("body", &self.body),
            ("user", &self.user),
            ("password", &self.password),
            ("topic", &self.topic),
        ];
        let mut words = vec![format!("--first-number={first_number}")];
        words.extend(texts.iter().filter_map(|(name, text)| Some(format!("--{name}={}", text.as_ref()?))));
        words.extend(self.header.iter().map(|field| format!("--header={field}")));
        words.extend(self.payload.map(|bytes| format!("--payload={bytes}")));
        words.extend(self.status.map(|status| format!("--status={status}")));
        words.extend(self.subscribe.iter().map(|text| format!("--subscribe={text}")));
        words.extend(self.mqtt.words());
        words
    }
}

/// The protocol of a name with its settings, which were typed, as perhaps this target was.
pub fn made(name: &str, settings: &Settings, target: Option<&Target>) -> Result<Protocol> {
    let has_scheme = target.is_some_and(|target| target.scheme.is_some());
    let has_path = target.is_some_and(|target| target.path.is_some());
    let named = |setting: &str| match setting {
        "protocol" if has_scheme => "a --target of protocol".to_owned(),
        // There it may have been typed as another one, or not at all.
        "protocol" if settings.role != Role::default() => "the protocol".to_owned(),
        "path" if has_path => "the path of --target".to_owned(),
        setting => format!("--{setting}"),
    };
    Protocol::new(name, settings).map_err(|error| {
        let [saw, means, cure] = error.parts(named);
        // The protocols that would take it publish nothing, or have another name in a fan-out.
        let stays = matches!(error, SettingError::Foreign { .. }) && settings.role != Role::default();
        CommandError::usage(saw, means, if stays { "leave it out".to_owned() } else { cure })
    })
}
