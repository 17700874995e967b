//! What protocols can be told, and why a protocol may refuse it.

use std::fmt;
use std::ops::RangeInclusive;

use super::mqtt::MqttSettings;
use super::{Authority, Dialect, Protocol, Role, Template, TemplateError};

/// Bytes of a message of traffic where nothing else is asked for. Every protocol that has messages of any length takes it.
pub(super) const USUAL_PAYLOAD: usize = 64;

/// What stands for a secret where it is shown to people.
pub const HIDDEN: &str = "***";

/// Whether the field of a request of this name holds a secret, as far as the name tells.
pub fn is_secret_field(name: &str) -> bool {
    /// Names of such fields, or parts of them.
    const SECRET: [&str; 6] = ["auth", "cookie", "token", "secret", "password", "key"];
    let name = name.to_ascii_lowercase();
    SECRET.iter().any(|secret| name.contains(secret))
}

/// What a protocol can be told. A dialect refuses what it does not take.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Settings {
    /// The first message of `raw`, with `{}` for the connection's number; at most 4,096 bytes. Empty sends nothing.
    pub hello: Option<String>,
    /// Bytes of a message of `raw`, 1 to 65,536; of a ping of `websocket`, 12 to 125, or of its text, 25 to 65,535;
    /// of `mqtt` and `nats`, 16 to 60,000.
    pub payload: Option<usize>,
    /// The message of `send-expect`, a template.
    pub send: Option<String>,
    /// The answer to it, a pattern.
    pub expect: Option<String>,
    /// What the server of `send-expect` says before anything is sent, a pattern.
    pub greeting: Option<String>,
    /// What `send-expect` says before it closes, a template. No answer is awaited.
    pub goodbye: Option<String>,
    /// The path that is asked for, with its query, a template: `/` by default.
    pub path: Option<String>,
    /// Further fields of the request, each `Name: value`, whose value is a template.
    pub headers: Vec<String>,
    /// The subprotocols that `websocket` offers, separated by commas.
    pub subprotocol: Option<String>,
    /// The type of a message of `websocket`: `text`, the default, or `binary`.
    pub message_type: Option<String>,
    /// What proves a connection. `websocket`: `ping`, the default, or `echo`. `http`: `status`, the default, or `token`.
    /// `mqtt` and `nats`: `publish`, the default, or `ping`.
    pub proof: Option<String>,
    /// The method of `http`: `GET`, the default, or `POST`.
    pub method: Option<String>,
    /// The body of a request of `http`, a template.
    pub body: Option<String>,
    /// The status that an answer of `http` has: 200 by default.
    pub status: Option<u16>,
    /// What a connection says to subscribe. `websocket`: the texts that it sends after the handshake, templates; a Ping
    /// behind the last one shows that the server has read them. `mqtt`: further topic filters, in which `{topic}` makes several
    /// of one. `nats`: further subjects.
    pub subscribe: Vec<String>,
    /// What a publisher says. `websocket`: a message, a template with one `{payload}`, which is the whole message by
    /// default. `mqtt`: the topic that it publishes to. `nats`: the subject.
    pub publish: Option<String>,
    /// The path that publishers of `websocket` ask for, a template. It is `/publish` by default, or `path` where
    /// `publish` is given.
    pub publish_path: Option<String>,
    /// What the connections are for. It is no setting of its own: every protocol takes it.
    pub role: Role,
    /// The user's name of `mqtt` and `nats`, a template.
    pub user: Option<String>,
    /// The user's password, a template. Without a user it is the token of `nats`.
    pub password: Option<String>,
    /// The connection's own topic, a template with `{n}` in it: `c1m/{n}` of `mqtt` by default, and `c1m.{n}` of `nats`,
    /// which calls it a subject.
    pub topic: Option<String>,
    /// What `mqtt` can be told besides.
    pub mqtt: MqttSettings,
    /// Where the connections go, for the field `Host` of requests. It is no setting of its own: every protocol takes it.
    pub server: Option<Authority>,
}

impl Settings {
    /// The names of those that are given.
    fn given(&self) -> impl Iterator<Item = &'static str> {
        let all = [
            ("hello", self.hello.is_some()),
            ("payload", self.payload.is_some()),
            ("send", self.send.is_some()),
            ("expect", self.expect.is_some()),
            ("greeting", self.greeting.is_some()),
            ("goodbye", self.goodbye.is_some()),
            ("path", self.path.is_some()),
            ("header", !self.headers.is_empty()),
            ("subprotocol", self.subprotocol.is_some()),
            ("message-type", self.message_type.is_some()),
            ("proof", self.proof.is_some()),
            ("method", self.method.is_some()),
            ("body", self.body.is_some()),
            ("status", self.status.is_some()),
            ("subscribe", !self.subscribe.is_empty()),
            ("publish", self.publish.is_some()),
            ("publish-path", self.publish_path.is_some()),
            ("user", self.user.is_some()),
            ("password", self.password.is_some()),
            ("topic", self.topic.is_some()),
        ];
        all.into_iter().chain(self.mqtt.given()).filter(|(_, given)| *given).map(|(name, _)| name)
    }

    /// Which of the words that a setting may be was given; the first one where none was.
    pub(super) fn choice(
        setting: &'static str,
        given: &Option<String>,
        words: &'static [&'static str],
    ) -> Result<&'static str, SettingError> {
        let Some(asked) = given else { return Ok(words.first().copied().unwrap_or_default()) };
        let found = words.iter().find(|word| word == &asked);
        found.copied().ok_or_else(|| SettingError::Choice { setting, asked: asked.clone(), words })
    }

    /// Bytes of a message of traffic, which may have so many.
    pub(super) fn payload_within(&self, lengths: RangeInclusive<usize>) -> Result<usize, SettingError> {
        let asked = self.payload.unwrap_or(USUAL_PAYLOAD);
        if lengths.contains(&asked) {
            return Ok(asked);
        }
        Err(SettingError::Payload { asked, least: *lengths.start(), most: *lengths.end() })
    }

    /// The topic of a connection's own, which `named` reads; none if connections are proved by pings.
    pub(super) fn own_topic(
        &self,
        pings: bool,
        usual: &str,
        named: impl Fn(&'static str, &str) -> Result<Template, SettingError>,
    ) -> Result<Option<Template>, SettingError> {
        if pings {
            let given = [("topic", self.topic.is_some()), ("payload", self.payload.is_some())];
            return match given.into_iter().find(|(_, is_given)| *is_given) {
                None => Ok(None),
                Some((setting, _)) => {
                    let means = "a ping has neither topic nor content";
                    Err(SettingError::Excludes { setting, other: "proof", chosen: "ping", means })
                }
            };
        }
        let text = self.topic.as_deref().unwrap_or(usual);
        let made = named("topic", text)?;
        if !made.has_number() {
            let means = "each connection would get what all others publish";
            return Err(SettingError::value("topic", format_args!("{text:?}"), means, "put {n} into it"));
        }
        made.is_subscribed_once("topic", text)?;
        Ok(Some(made))
    }

    /// The topic to which a publisher publishes, which `named` reads; none if the connection is no publisher.
    pub(super) fn publishes_to(
        &self,
        named: impl Fn(&'static str, &str) -> Result<Template, SettingError>,
    ) -> Result<Option<Template>, SettingError> {
        let Some(text) = self.publish.as_ref().filter(|_| self.role == Role::Publisher) else { return Ok(None) };
        let made = named("publish", text)?;
        made.is_subscribed_once("publish", text)?;
        if made.has_number() && self.subscribe.contains(text) {
            let means = "each connection has another number, so no subscriber would get what a publisher publishes";
            return Err(SettingError::value("publish", format_args!("{text:?}"), means, "leave {n} out"));
        }
        Ok(Some(made))
    }

    /// Fails if one is given that the dialect does not take.
    pub(super) fn suit<D: Dialect>(&self) -> Result<(), SettingError> {
        match self.given().find(|name| !D::SETTINGS.contains(name)) {
            None => Ok(()),
            Some(setting) => Err(SettingError::Foreign { protocol: D::NAME, says: D::SAYS, setting }),
        }
    }
}

/// Why there is no protocol with such settings. Its text is one line: what was seen, what that means, what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum SettingError {
    /// There is no protocol of this name.
    Unknown(String),
    /// The protocol does not take this setting.
    Foreign {
        /// The protocol.
        protocol: &'static str,
        /// What it says instead.
        says: &'static str,
        /// The setting.
        setting: &'static str,
    },
    /// The protocol needs this setting, and it is missing or empty.
    Missing {
        /// The protocol.
        protocol: &'static str,
        /// The setting.
        setting: &'static str,
    },
    /// A template or pattern cannot be read.
    Template {
        /// The setting.
        setting: &'static str,
        /// Where it is wrong, and why.
        error: TemplateError,
    },
    /// The pattern of this setting wants a token that was never sent.
    UnknowableToken {
        /// The setting.
        setting: &'static str,
    },
    /// A message has too few bytes or too many.
    Payload {
        /// Bytes that were asked for.
        asked: usize,
        /// The least that it may have.
        least: usize,
        /// The most that it may have.
        most: usize,
    },
    /// A setting is one of a few words, and none of them was given.
    Choice {
        /// The setting.
        setting: &'static str,
        /// What was given.
        asked: String,
        /// What may be.
        words: &'static [&'static str],
    },
    /// A setting has a value that cannot be.
    Value {
        /// The setting.
        setting: &'static str,
        /// The value.
        seen: String,
        /// Why it cannot be.
        means: &'static str,
        /// What to do.
        cure: &'static str,
    },
    /// A setting means nothing without another one.
    Needs {
        /// The setting.
        setting: &'static str,
        /// The other one.
        other: &'static str,
        /// Why.
        means: &'static str,
    },
    /// A setting means nothing with what another one has chosen.
    Excludes {
        /// The setting.
        setting: &'static str,
        /// The other one.
        other: &'static str,
        /// What that one has chosen.
        chosen: &'static str,
        /// Why.
        means: &'static str,
    },
    /// No request can be made of these settings.
    Request(RequestError),
    /// The first message is too long.
    Hello {
        /// Its bytes.
        asked: usize,
        /// The most that it may have.
        most: usize,
    },
}

/// Why there is no request with such settings.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum RequestError {
    /// A path that no request may have.
    Path {
        /// What was given.
        asked: String,
    },
    /// A field that no request may have.
    Header {
        /// What was given. `HIDDEN` stands for the value of a field that holds a secret.
        asked: String,
        /// What is wrong with it.
        why: &'static str,
        /// What to do.
        cure: &'static str,
    },
    /// A subprotocol whose name is none (RFC 6455, 4.1).
    Subprotocol {
        /// What was given.
        asked: String,
    },
    /// A proof by a token that no part of the request has.
    NoTokenSent,
    /// A proof by a token in answers that have no body.
    NoBody {
        /// Their status.
        status: u16,
    },
    /// A body of a request whose method has none.
    BodyOfGet,
    /// A status that no answer has.
    Status {
        /// What was given.
        asked: u16,
    },
}

impl From<RequestError> for SettingError {
    fn from(error: RequestError) -> SettingError {
        SettingError::Request(error)
    }
}

impl RequestError {
    fn parts(&self, named: impl Fn(&str) -> String) -> [String; 3] {
        match self {
            RequestError::Path { asked } => [
                format!("{} {asked:?}", named("path")),
                "a path begins with / and has neither spaces nor # nor letters beyond ASCII".to_owned(),
                "write it percent-encoded, as in /a%20b".to_owned(),
            ],
            RequestError::Header { asked, why, cure } => {
                [format!("{} {asked:?}", named("header")), (*why).to_owned(), (*cure).to_owned()]
            }
            RequestError::Subprotocol { asked } => [
                format!("{} {asked:?}", named("subprotocol")),
                "names have letters, digits and !#$%&'*+-.^_`|~, each stands there once, and commas are between them"
                    .to_owned(),
                "write it as in chat,superchat".to_owned(),
            ],
            RequestError::NoTokenSent => [
                format!("{} token without {{token}}", named("proof")),
                "a server that was sent no token cannot answer with it".to_owned(),
                format!("put {{token}} into {}, {} or {}", named("path"), named("header"), named("body")),
            ],
            RequestError::NoBody { status } => [
                format!("{} token with {} {status}", named("proof"), named("status")),
                "an answer with this status has no body, so no token can be in it".to_owned(),
                format!("choose {} status", named("proof")),
            ],
            RequestError::BodyOfGet => [
                format!("{} with {} GET", named("body"), named("method")),
                "a GET has no body".to_owned(),
                format!("choose {} POST", named("method")),
            ],
            RequestError::Status { asked } => [
                format!("{} {asked}", named("status")),
                "the status of an answer is between 200 and 599".to_owned(),
                format!("try {} 200", named("status")),
            ],
        }
    }
}

impl SettingError {
    /// A value that cannot be.
    pub(super) fn value(
        setting: &'static str,
        seen: impl ToString,
        means: &'static str,
        cure: &'static str,
    ) -> SettingError {
        SettingError::Value { setting, seen: seen.to_string(), means, cure }
    }

    /// What was seen, what that means, what to do. `named` says what a setting is called where the text is read.
    pub fn parts(&self, named: impl Fn(&str) -> String) -> [String; 3] {
        match self {
            SettingError::Unknown(name) => [
                format!("{} {name:?}", named("protocol")),
                "there is no such protocol".to_owned(),
                format!("choose one of {}", Protocol::NAMES.join(", ")),
            ],
            SettingError::Foreign { protocol, says, setting } => [
                format!("{} with {} {protocol}", named(setting), named("protocol")),
                format!("{protocol} {says}"),
                format!("leave it out, or choose {} {}", named("protocol"), Protocol::taking(setting).join(" or ")),
            ],
            SettingError::Missing { protocol, setting } => [
                format!("{} {protocol} without {}", named("protocol"), named(setting)),
                "a connection is proved by a message and its answer".to_owned(),
                format!(r"try {} 'PING\r\n' and {} '+PONG\r\n'", named("send"), named("expect")),
            ],
            SettingError::Template { setting, error } => {
                [format!("{}, {}", named(setting), error.place()), error.means(), error.cure().to_owned()]
            }
            SettingError::UnknowableToken { setting } => [
                format!("{} with {{token}}", named(setting)),
                match *setting {
                    "greeting" => "a server that was sent nothing cannot know it".to_owned(),
                    _ => format!("{} has none, so no server can know it", named("send")),
                },
                format!("put {{token}} into {}, or use * for what varies", named("send")),
            ],
            SettingError::Payload { asked, least, most } => [
                format!("{} {asked}", named("payload")),
                format!("a message has between {least} and {most} bytes"),
                format!("try {} {USUAL_PAYLOAD}", named("payload")),
            ],
            SettingError::Choice { setting, asked, words } => [
                format!("{} {asked:?}", named(setting)),
                "this is none of the words that it may be".to_owned(),
                format!("choose {}", words.join(" or ")),
            ],
            SettingError::Value { setting, seen, means, cure } => {
                [format!("{} {seen}", named(setting)), (*means).to_owned(), (*cure).to_owned()]
            }
            SettingError::Needs { setting, other, means } => [
                format!("{} without {}", named(setting), named(other)),
                (*means).to_owned(),
                "give both or none".to_owned(),
            ],
            SettingError::Excludes { setting, other, chosen, means } => [
                format!("{} with {} {chosen}", named(setting), named(other)),
                (*means).to_owned(),
                format!("leave {} out", named(setting)),
            ],
            SettingError::Request(error) => error.parts(named),
            SettingError::Hello { asked, most } => [
                format!("{} of {asked} bytes", named("hello")),
                format!("at most {most} are sent"),
                "shorten it".to_owned(),
            ],
        }
    }
}

impl fmt::Display for SettingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [saw, means, cure] = self.parts(|setting| format!("`{setting}`"));
        write!(f, "{saw}: {means}; {cure}")
    }
}

impl std::error::Error for SettingError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            SettingError::Template { error, .. } => Some(error),
            _ => None,
        }
    }
}
