//! `send-expect`: any protocol of which one message and its answer can be typed. It covers Redis, SMTP, memcached and
//! protocols of one's own; docs/guide/protocols.md explains the templates.

mod pattern;

use super::{
    Dialect, Exchange, Heard, Position, Purpose, Scratch, SettingError, Settings, Strength, Template, Verdict,
};
use crate::failure::Cause;

pub use pattern::Pattern;

/// A message, its answer, and what comes before and after them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SendExpect {
    /// What the server says first.
    greeting: Option<Pattern>,
    /// The message. It is sent on each new connection, in audits, and as traffic.
    send: Template,
    /// Its answer.
    expect: Pattern,
    /// What is said before the connection is closed.
    goodbye: Option<Template>,
}

impl SendExpect {
    /// The pattern of the bytes that a connection awaits in an exchange.
    fn awaited(&self, exchange: Exchange) -> &Pattern {
        match &self.greeting {
            Some(greeting) if exchange.purpose == Purpose::Open(0) => greeting,
            _ => &self.expect,
        }
    }
}

impl Dialect for SendExpect {
    const NAME: &'static str = "send-expect";
    const SETTINGS: &'static [&'static str] = &["send", "expect", "greeting", "goodbye"];
    const SAYS: &'static str = "sends one message, on a new connection, in audits and as traffic";

    fn new(settings: &Settings) -> Result<SendExpect, SettingError> {
        let needed = |setting, text: &Option<String>| {
            let text = text.clone().filter(|text| !text.is_empty());
            text.ok_or(SettingError::Missing { protocol: SendExpect::NAME, setting })
        };
        let wrong = |setting| move |error| SettingError::Template { setting, error };
        let send = Template::of_setting("send", &needed("send", &settings.send)?)?;
        let expect = Pattern::parse(&needed("expect", &settings.expect)?).map_err(wrong("expect"))?;
        let greeting = settings.greeting.as_deref().filter(|text| !text.is_empty());
        let greeting = greeting.map(Pattern::parse).transpose().map_err(wrong("greeting"))?;
        let goodbye = Template::of_optional("goodbye", settings.goodbye.as_deref())?;
        if expect.has_token() && !send.has_token() {
            return Err(SettingError::UnknowableToken { setting: "expect" });
        }
        if greeting.as_ref().is_some_and(Pattern::has_token) {
            return Err(SettingError::UnknowableToken { setting: "greeting" });
        }
        Ok(SendExpect { greeting, send, expect, goodbye })
    }

    fn strength(&self) -> Strength {
        Strength::of_service(self.expect.has_token())
    }

    fn longest_message(&self) -> usize {
        self.send.longest()
    }

    fn steps(&self) -> u8 {
        1 + u8::from(self.greeting.is_some())
    }

    /// While a greeting is awaited nothing is sent.
    fn ask(&self, exchange: Exchange, into: &mut Vec<u8>) {
        if self.greeting.is_none() || exchange.purpose != Purpose::Open(0) {
            self.send.write(exchange, into);
        }
    }

    /// Unasked bytes are passed over if a pattern allows anything at the beginning or the end of an answer, and are
    /// a fault otherwise.
    fn hear(&self, exchange: Option<Exchange>, position: &mut Position, bytes: &[u8], scratch: &mut Scratch) -> Heard {
        match exchange {
            Some(exchange) => self.awaited(exchange).hear(exchange, position, bytes, scratch),
            None if self.expect.allows_unasked() => Heard { used: bytes.len(), verdict: Verdict::Aside },
            None => Heard { used: bytes.len(), verdict: Verdict::Wrong(Cause::Unasked) },
        }
    }

    fn goodbye(&self, number: u64, into: &mut Vec<u8>) {
        if let Some(goodbye) = &self.goodbye {
            goodbye.write(Exchange { number, round: 0, purpose: Purpose::Message }, into);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(send: &str, expect: &str, greeting: &str) -> Result<SendExpect, SettingError> {
        let text = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
        let (send, expect, greeting) = (text(send), text(expect), text(greeting));
        SendExpect::new(&Settings { send, expect, greeting, ..Settings::default() })
    }

    #[test]
    fn a_token_that_no_server_can_know_is_refused() {
        for (send, expect, greeting) in [("PING", "{token}", ""), ("{token}", "{token}", "220 {token}")] {
            let error = made(send, expect, greeting).unwrap_err().to_string();
            assert!(error.contains("with {token}: ") && error.contains("know it; "), "{error}");
        }
        assert!(made("{token}", "{token}", "220 *\\n").is_ok());
    }

    #[test]
    fn an_answer_with_the_token_is_end_to_end() {
        assert_eq!(made("{token}", "*{token}", "").unwrap().strength(), Strength::EndToEnd);
        assert_eq!(made("{token}{n}", "{n}{round}*", "").unwrap().strength(), Strength::Liveness);
    }

    #[test]
    fn unasked_bytes_are_allowed_by_a_star_at_either_end() {
        for (expect, allowed) in [("+PONG", false), ("*+PONG", true), ("+PONG*", true), ("*", true), ("a*b", false)] {
            let dialect = made("PING", expect, "").unwrap();
            let heard = dialect.hear(None, &mut Position::default(), b"hello", &mut Scratch::default());
            assert_eq!(heard.verdict == Verdict::Aside, allowed, "{expect}");
            assert!(heard.used == 5 && (allowed || heard.verdict == Verdict::Wrong(Cause::Unasked)), "{expect}");
        }
    }

    #[test]
    fn a_greeting_is_awaited_before_anything_is_sent() {
        let (greeted, not) = (made("EHLO", "250*\\n", "220*\\n").unwrap(), made("EHLO", "250*\\n", "").unwrap());
        let steps = |dialect: &SendExpect| {
            let mut said = Vec::new();
            let steps = (0..3).map(|step| (dialect.open(7, step, &mut said), std::mem::take(&mut said)));
            steps.take_while(|(awaits, _)| *awaits).map(|(_, said)| said).collect::<Vec<_>>()
        };
        assert_eq!(steps(&greeted), [b"".to_vec(), b"EHLO".to_vec()]);
        assert_eq!(steps(&not), [b"EHLO".to_vec()]);
    }
}
