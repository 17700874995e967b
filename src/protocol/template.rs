//! Messages as they are typed: text with placeholders and escapes.

use std::fmt;
use std::io::Write;

use crate::protocol::{Exchange, HIDDEN, LONGEST_TYPED, SettingError, digits, is_secret_field};

/// A part of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Part {
    /// Bytes as they are.
    Literal(Vec<u8>),
    /// `{n}`: the connection's number, in decimal.
    Number,
    /// `{round}`: the round, in decimal.
    Round,
    /// `{token}`: 16 lower-case hexadecimal digits that follow from the connection's number and the round.
    Token,
    /// `*`: anything. Only in patterns.
    Anything,
}

impl Part {
    /// Bytes that it makes at most.
    fn longest(&self) -> usize {
        match self {
            Part::Literal(bytes) => bytes.len(),
            Part::Number => u64::MAX.ilog10() as usize + 1,
            Part::Round => u32::MAX.ilog10() as usize + 1,
            Part::Token => 16,
            Part::Anything => 0,
        }
    }
}

/// A message with its placeholders.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Template {
    parts: Vec<Part>,
}

/// Why a template is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TemplateError {
    /// The character at which it is wrong, from 1 on.
    pub at: usize,
    /// What is there.
    pub found: String,
    /// What is wrong.
    fault: Fault,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Placeholder,
    Unclosed,
    ClosingBrace,
    Escape,
    Hex,
    TooLong,
}

impl TemplateError {
    /// Where it is wrong, on one line.
    pub fn place(&self) -> String {
        format!("character {}, {:?}", self.at, self.found)
    }

    /// What is wrong.
    pub fn means(&self) -> String {
        match self.fault {
            Fault::Placeholder => "this is no placeholder".to_owned(),
            Fault::Unclosed => "no } closes this brace".to_owned(),
            Fault::ClosingBrace => "no { opens this brace".to_owned(),
            Fault::Escape => "this is no escape".to_owned(),
            Fault::Hex => r"\x takes two hexadecimal digits".to_owned(),
            Fault::TooLong => format!("what stands before it may make {LONGEST_TYPED} bytes, which is the most"),
        }
    }

    /// What to do.
    pub fn cure(&self) -> &'static str {
        match self.fault {
            Fault::Placeholder => "use {n}, {round} or {token}, or write {{ for a brace",
            Fault::Unclosed => "close it, or write {{ for a brace",
            Fault::ClosingBrace => "write }} for a brace",
            Fault::Escape => r"use \r, \n, \t, \\, \* or \xHH",
            Fault::Hex => r"write \x0a, say",
            Fault::TooLong => "shorten it",
        }
    }
}

impl fmt::Display for TemplateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; {}", self.place(), self.means(), self.cure())
    }
}

impl std::error::Error for TemplateError {}

/// Characters that an error shows of what it found.
const SHOWN: usize = 12;

/// Reads text: with `stars` a `*` stands for anything, without for itself.
pub(super) fn parse(text: &str, stars: bool) -> Result<Vec<Part>, TemplateError> {
    let mut parts: Vec<Part> = Vec::new();
    let mut longest = 0;
    let (mut rest, mut at) = (text, 1);
    while !rest.is_empty() {
        let (part, length) = next(rest, stars).map_err(|fault| {
            let found = rest.chars().take(SHOWN).collect();
            TemplateError { at, found, fault }
        })?;
        longest += part.longest();
        if longest > LONGEST_TYPED {
            return Err(TemplateError { at, found: rest.chars().take(SHOWN).collect(), fault: Fault::TooLong });
        }
        match (parts.last_mut(), part) {
            (Some(Part::Literal(before)), Part::Literal(bytes)) => before.extend(bytes),
            (Some(Part::Anything), Part::Anything) => {}
            (_, part) => parts.push(part),
        }
        at += rest[..length].chars().count();
        rest = &rest[length..];
    }
    Ok(parts)
}

/// The part at the beginning of a text that is not empty, and its length there.
fn next(text: &str, stars: bool) -> Result<(Part, usize), Fault> {
    let literal = |byte: u8, length| Ok((Part::Literal(vec![byte]), length));
    let mut chars = text.chars();
    match (chars.next().unwrap_or_default(), chars.next()) {
        ('{', Some('{')) => literal(b'{', 2),
        ('}', Some('}')) => literal(b'}', 2),
        ('}', _) => Err(Fault::ClosingBrace),
        ('{', _) => {
            let end = text.find('}').ok_or(Fault::Unclosed)?;
            let part = match &text[1..end] {
                "n" => Part::Number,
                "round" => Part::Round,
                "token" => Part::Token,
                _ => return Err(Fault::Placeholder),
            };
            Ok((part, end + 1))
        }
        ('\\', Some(escaped)) => match escaped {
            'r' => literal(b'\r', 2),
            'n' => literal(b'\n', 2),
            't' => literal(b'\t', 2),
            '\\' => literal(b'\\', 2),
            '*' => literal(b'*', 2),
            'x' => {
                let digits = text.get(2..4).filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()));
                let byte = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
                literal(byte.ok_or(Fault::Hex)?, 4)
            }
            _ => Err(Fault::Escape),
        },
        ('\\', None) => Err(Fault::Escape),
        ('*', _) if stars => Ok((Part::Anything, 1)),
        (other, _) => {
            let mut bytes = [0; 4];
            let bytes = other.encode_utf8(&mut bytes).as_bytes();
            Ok((Part::Literal(bytes.to_vec()), bytes.len()))
        }
    }
}

impl Template {
    /// Reads what was typed: `{n}`, `{round}`, `{token}`; `{{` and `}}` for braces; `\r`, `\n`, `\t`, `\\`, `\*` and
    /// `\xHH` for bytes. It may make 4,096 bytes at most, whatever the numbers are.
    pub fn parse(text: &str) -> Result<Template, TemplateError> {
        parse(text, false).map(Template::of)
    }

    /// Reads what a setting says. An error shows nothing of a secret.
    pub(super) fn of_setting(setting: &'static str, text: &str) -> Result<Template, SettingError> {
        Template::of_part(setting, setting == "password", 0, text)
    }

    /// The same of a setting that may be left out.
    pub(super) fn of_optional(setting: &'static str, text: Option<&str>) -> Result<Option<Template>, SettingError> {
        text.map(|text| Template::of_setting(setting, text)).transpose()
    }

    /// Reads the value of a field of this name, before which so many characters were typed.
    pub(super) fn of_header(name: &str, before: usize, value: &str) -> Result<Template, SettingError> {
        Template::of_part("header", is_secret_field(name), before, value)
    }

    /// Reads a part of a setting, before which so many characters were typed.
    fn of_part(setting: &'static str, is_secret: bool, before: usize, text: &str) -> Result<Template, SettingError> {
        Template::parse(text).map_err(|TemplateError { at, found, fault }| {
            let found = if is_secret { HIDDEN.to_owned() } else { found };
            SettingError::Template { setting, error: TemplateError { at: before + at, found, fault } }
        })
    }

    pub(super) fn of(parts: Vec<Part>) -> Template {
        Template { parts }
    }

    /// Appends the message of an exchange to `into`.
    pub fn write(&self, exchange: Exchange, into: &mut Vec<u8>) {
        for part in &self.parts {
            // Writing to memory cannot fail.
            let _ = match part {
                Part::Literal(bytes) => into.write_all(bytes),
                Part::Number => write!(into, "{}", exchange.number),
                Part::Round => write!(into, "{}", exchange.round),
                Part::Token => into.write_all(&digits(exchange.token())),
                Part::Anything => Ok(()),
            };
        }
    }

    /// What it makes for one connection. Placeholders make letters and digits, whatever the number is.
    pub(super) fn sample(&self) -> Vec<u8> {
        let mut written = Vec::new();
        self.write(Exchange::opening(0, 0), &mut written);
        written
    }

    /// Bytes that it makes at most.
    pub fn longest(&self) -> usize {
        self.parts.iter().map(Part::longest).sum()
    }

    /// The bytes that stand in it as they are. Placeholders make letters and digits.
    pub fn literals(&self) -> impl Iterator<Item = u8> {
        let literals = self.parts.iter().filter_map(|part| match part {
            Part::Literal(bytes) => Some(bytes),
            _ => None,
        });
        literals.flatten().copied()
    }

    /// Whether the token is in it.
    pub fn has_token(&self) -> bool {
        self.parts.contains(&Part::Token)
    }

    /// Whether the connection's number is in it, so that each connection has another text.
    pub fn has_number(&self) -> bool {
        self.parts.contains(&Part::Number)
    }

    /// Fails if it is a topic that changes while the subscription to it stays. `text` is what was typed.
    pub(super) fn is_subscribed_once(&self, setting: &'static str, text: &str) -> Result<(), SettingError> {
        if !self.parts.iter().any(|part| matches!(part, Part::Round | Part::Token)) {
            return Ok(());
        }
        let means = "a connection subscribes once, and rounds change";
        Err(SettingError::value(setting, format_args!("{text:?}"), means, "leave {round} and {token} out"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Purpose;
    use proptest::prelude::*;

    fn written(text: &str, number: u64, round: u32) -> Vec<u8> {
        let mut bytes = Vec::new();
        Template::parse(text).unwrap().write(Exchange { number, round, purpose: Purpose::Audit }, &mut bytes);
        bytes
    }

    #[test]
    fn what_is_typed_is_sent() {
        assert_eq!(written(r"SET k{n} {round}\r\n", 7, 3), b"SET k7 3\r\n");
        assert_eq!(written(r"{{\x00\xfF\t\\}}*\*é", 7, 3), b"{\0\xff\t\\}**\xc3\xa9");
        let token = String::from_utf8(written("{token}", 7, 3)).unwrap();
        assert!(token.len() == 16 && token.bytes().all(|digit| digit.is_ascii_hexdigit()), "{token}");
        assert_eq!(written("{token}", 7, 3), written("{token}", 7, 3));
    }

    #[test]
    fn what_is_wrong_is_shown_with_its_place() {
        let wrong = |text: &str| {
            let error = Template::parse(text).unwrap_err();
            (error.at, error.fault)
        };
        assert_eq!(wrong("é{m}"), (2, Fault::Placeholder));
        assert_eq!(wrong("{{{"), (3, Fault::Unclosed));
        assert_eq!(wrong("{n"), (1, Fault::Unclosed));
        assert_eq!(wrong("a}b"), (2, Fault::ClosingBrace));
        assert_eq!(wrong(r"ab\q"), (3, Fault::Escape));
        assert_eq!(wrong("ab\\"), (3, Fault::Escape));
        for text in [r"\x", r"\x0", r"\xg0", r"\x+1", r"\x0é"] {
            assert_eq!(wrong(text), (1, Fault::Hex), "{text}");
        }
        assert_eq!(wrong(&"a".repeat(LONGEST_TYPED + 1)), (LONGEST_TYPED + 1, Fault::TooLong));
        assert_eq!(wrong(&"{n}".repeat(205)), (613, Fault::TooLong));
        assert!(Template::parse(&"a".repeat(LONGEST_TYPED)).is_ok());
    }

    proptest! {
        /// A token is that of one connection, round and purpose.
        #[test]
        fn tokens_differ(a in 0u64..1 << 40, b in 0u64..1 << 40, r: u32, s: u32) {
            prop_assert_eq!(written("{token}", a, r) == written("{token}", b, s), (a, r) == (b, s));
            prop_assert_eq!(written("{token}", a, r) == written("{token}", b, r), a == b);
            prop_assert_eq!(written("{token}", a, r) == written("{token}", a, s), r == s);
        }

        /// No text makes more than it says.
        #[test]
        fn a_message_is_as_long_as_was_said(text in r"([a-z{}*\\é]|\{n\}|\{round\}|\{token\}){0,20}", n: u64, r: u32) {
            if let Ok(template) = Template::parse(&text) {
                prop_assert!(written(&text, n, r).len() <= template.longest());
            }
        }
    }
}
