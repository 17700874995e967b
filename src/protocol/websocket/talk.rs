//! What a client says beyond the handshake, as it was typed: to subscribe, and around the payload of a publication.

use super::Opcode;
use crate::protocol::push::PUBLISH_PATH;
use crate::protocol::{Role, SettingError, Settings, Template};

/// What stands for the payload of a publication.
const PLACEHOLDER: &str = "{payload}";

/// The path that is asked for.
pub(super) fn path(settings: &Settings) -> Option<String> {
    let own = match (&settings.publish_path, &settings.publish) {
        (Some(path), _) => Some(path.clone()),
        (None, Some(_)) => None,
        (None, None) => Some(PUBLISH_PATH.to_owned()),
    };
    own.filter(|_| settings.role == Role::Publisher).or(settings.path.clone())
}

/// The messages with which a connection subscribes. A publisher does not.
pub(super) fn subscribe(settings: &Settings, opcode: Opcode) -> Result<Vec<Template>, SettingError> {
    let typed = settings.subscribe.iter().filter(|_| settings.role != Role::Publisher);
    typed.map(|text| message("subscribe", text, opcode)).collect()
}

/// What stands before and behind the payload of a publisher's publications; `None` for another connection.
pub(super) fn publish(settings: &Settings, opcode: Opcode) -> Result<Option<(Template, Template)>, SettingError> {
    if settings.role != Role::Publisher {
        return Ok(None);
    }
    let text = settings.publish.as_deref().unwrap_or(PLACEHOLDER);
    let Some((before, behind)) = around_payload(text) else {
        let means = "a subscriber knows a publication by its payload";
        return Err(SettingError::value("publish", format_args!("{text:?}"), means, "put {payload} into it, once"));
    };
    Ok(Some((message("publish", before, opcode)?, message("publish", behind, opcode)?)))
}

/// What stands before and behind the first placeholder. `{{` is a brace, and begins none.
fn around_payload(text: &str) -> Option<(&str, &str)> {
    let mut at = 0;
    loop {
        at += text[at..].find('{')?;
        if let Some(behind) = text[at..].strip_prefix(PLACEHOLDER) {
            return Some((&text[..at], behind));
        }
        at += if text[at..].starts_with("{{") { 2 } else { 1 };
    }
}

/// A template of a message, or of a part of it.
fn message(setting: &'static str, text: &str, opcode: Opcode) -> Result<Template, SettingError> {
    let made = Template::of_setting(setting, text)?;
    let literals: Vec<u8> = made.literals().collect();
    if opcode == Opcode::Text && std::str::from_utf8(&literals).is_err() {
        let (means, cure) = ("a text of WebSocket is UTF-8", "leave those bytes out, or say message-type binary");
        return Err(SettingError::value(setting, format_args!("{text:?}"), means, cure));
    }
    Ok(made)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_stands_between_what_was_typed() {
        assert_eq!(around_payload("{payload}"), Some(("", "")));
        assert_eq!(around_payload("{{a:\"{payload}\"}}"), Some(("{{a:\"", "\"}}")));
        assert_eq!(around_payload("{{payload}}"), None);
        assert_eq!(around_payload("é{n}{payload}"), Some(("é{n}", "")));
        assert_eq!(around_payload("{"), None);
    }

    #[test]
    fn publishers_have_a_path_of_their_own() {
        let text = |text: &str| Some(text.to_owned());
        let settings = |role, publish: Option<String>, publish_path: Option<String>| Settings {
            role,
            publish,
            publish_path,
            path: text("/feed"),
            ..Settings::default()
        };
        assert_eq!(path(&settings(Role::Subscriber, None, text("/in"))), text("/feed"));
        assert_eq!(path(&settings(Role::Publisher, None, text("/in"))), text("/in"));
        assert_eq!(path(&settings(Role::Publisher, None, None)), text("/publish"));
        assert_eq!(path(&settings(Role::Publisher, text("{payload}"), None)), text("/feed"));
    }
}
