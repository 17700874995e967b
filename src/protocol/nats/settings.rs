//! Which settings `nats` cannot have.

use super::lines::{END, LONGEST_LINE};
use super::{Nats, Step};
use crate::protocol::{Role, SettingError, Settings, Template, payload};

/// The connection's own subject.
const SUBJECT: &str = "c1m.{n}";

/// Bytes that a subject makes at most: its SUB and PUB have the numbers of 32 bits behind it, and stay below the longest line.
const LONGEST_SUBJECT: usize = 4_000;

/// Reads the settings of `nats`.
pub(super) fn read(settings: &Settings) -> Result<Nats, SettingError> {
    let pings = Settings::choice("proof", &settings.proof, &["publish", "ping"])? == "ping";
    let own = settings.own_topic(pings, SUBJECT, |setting, text| subject(setting, text, false))?;
    let further = settings.subscribe.iter().filter(|_| settings.role != Role::Publisher);
    let further = further.map(|text| {
        let made = subject("subscribe", text, true)?;
        made.is_subscribed_once("subscribe", text)?;
        Ok(made)
    });
    let steps = [Some(Step::Info), Some(Step::Connect), own.is_some().then_some(Step::Publish)];
    let made = Nats {
        user: secret("user", settings.user.as_deref())?,
        password: secret("password", settings.password.as_deref())?,
        own,
        further: further.collect::<Result<_, SettingError>>()?,
        publishes_to: settings.publishes_to(|setting, text| subject(setting, text, false))?,
        payload: settings.payload_within(payload::LENGTHS)?,
        steps: steps.into_iter().flatten().collect(),
    };
    let mut connect = Vec::new();
    made.connect(u64::MAX, &mut connect);
    if connect.len() > LONGEST_LINE + END.len() {
        let setting = if made.user.is_some() { "user" } else { "password" };
        let seen = format_args!("that makes a CONNECT of {} bytes", connect.len());
        return Err(SettingError::value(setting, seen, "servers take 4,096 bytes in a line", "shorten it"));
    }
    Ok(made)
}

/// A template whose text goes into CONNECT.
fn secret(setting: &'static str, text: Option<&str>) -> Result<Option<Template>, SettingError> {
    let made = Template::of_optional(setting, text)?;
    if made.as_ref().is_some_and(|made| std::str::from_utf8(&made.sample()).is_err()) {
        // It may be a password, so it is not shown.
        let means = "CONNECT is JSON, whose texts are UTF-8";
        return Err(SettingError::value(setting, "with other bytes than UTF-8", means, "leave those bytes out"));
    }
    Ok(made)
}

/// A subject: words with dots between. `*` stands for a whole word, and `>` for all words at the end, where there may be
/// wildcards.
fn subject(setting: &'static str, text: &str, may_have_wildcards: bool) -> Result<Template, SettingError> {
    let made = Template::of_setting(setting, text)?;
    let wrong = |means, cure| Err(SettingError::value(setting, format_args!("{text:?}"), means, cure));
    let written = made.sample();
    if made.longest() > LONGEST_SUBJECT {
        return wrong("a line with it would be longer than the 4,096 bytes that servers take", "shorten it");
    }
    if written.iter().any(|byte| *byte <= b' ' || *byte == 0x7f) {
        return wrong("a subject ends where a blank or another control character is", "leave those out");
    }
    let words: Vec<&[u8]> = written.split(|byte| *byte == b'.').collect();
    if words.iter().any(|word| word.is_empty()) {
        return wrong("a subject is words with dots between, and none of them is empty", "try 'news.today'");
    }
    let is_wild = |word: &&[u8]| matches!(**word, [b'*'] | [b'>']);
    if !may_have_wildcards && words.iter().any(is_wild) {
        return wrong("nothing can be published to a wildcard", "leave * and > out");
    }
    match words.split_last() {
        Some((_, before)) if before.contains(&&b">"[..]) => {
            wrong("> stands for all words at the end of a subject", "try 'news.>'")
        }
        _ => Ok(made),
    }
}
