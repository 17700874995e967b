//! What protocols can be told, and why a protocol may refuse it.

use std::fmt;

use super::send_expect::TemplateError;
use super::{Dialect, Protocol};

/// What a protocol can be told. A dialect refuses what it does not take.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Settings {
    /// The first message of `raw`, with `{}` for the connection's number; at most 4,096 bytes. Empty sends nothing.
    pub hello: Option<String>,
    /// Bytes of a message of `raw`, 1 to 65,536.
    pub payload: Option<usize>,
    /// The message of `send-expect`, a template.
    pub send: Option<String>,
    /// The answer to it, a pattern.
    pub expect: Option<String>,
    /// What the server of `send-expect` says before anything is sent, a pattern.
    pub greeting: Option<String>,
    /// What `send-expect` says before it closes, a template. No answer is awaited.
    pub goodbye: Option<String>,
}

impl Settings {
    /// The names of those that are given.
    fn given(&self) -> impl Iterator<Item = &'static str> {
        let Settings { hello, payload, send, expect, greeting, goodbye } = self;
        let all = [
            ("hello", hello.is_some()),
            ("payload", payload.is_some()),
            ("send", send.is_some()),
            ("expect", expect.is_some()),
            ("greeting", greeting.is_some()),
            ("goodbye", goodbye.is_some()),
        ];
        all.into_iter().filter(|(_, given)| *given).map(|(name, _)| name)
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
    /// A message has no bytes or too many.
    Payload {
        /// Bytes that were asked for, at least 1.
        asked: usize,
        /// The most that it may have.
        most: usize,
    },
    /// The first message is too long.
    Hello {
        /// Its bytes.
        asked: usize,
        /// The most that it may have.
        most: usize,
    },
}

impl SettingError {
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
            SettingError::Payload { asked, most } => [
                format!("{} {asked}", named("payload")),
                format!("a message has between 1 and {most} bytes"),
                format!("try {} 64", named("payload")),
            ],
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
