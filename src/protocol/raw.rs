//! `raw`: the server sends back every byte that it gets. The first message is the hello, audits send a line with a
//! token, and traffic is bytes that look random.

use std::io::Write;

use super::settings::USUAL_PAYLOAD;
use super::{
    Dialect, Exchange, Heard, LONGEST_TYPED, Position, Purpose, Scratch, SettingError, Settings, Strength, Verdict, mix,
};
use crate::failure::Cause;

/// Bytes of a message at most: the latency of a longer one would be that of a transfer.
pub const LONGEST_PAYLOAD: usize = 64 * 1024;

/// The article's first message.
const HELLO: &str = "Hello Server: client --> {}";

/// The protocol of an echo server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Raw {
    /// The template of the first message.
    hello: String,
    /// Bytes of a message of traffic.
    payload: usize,
}

impl Default for Raw {
    fn default() -> Raw {
        Raw { hello: HELLO.to_owned(), payload: USUAL_PAYLOAD }
    }
}

impl Raw {
    /// Appends the message of an exchange to `into`.
    fn compose(&self, exchange: Exchange, into: &mut Vec<u8>) {
        let Exchange { number, round, purpose } = exchange;
        match purpose {
            Purpose::Open(_) => into.extend_from_slice(self.hello.replace("{}", &number.to_string()).as_bytes()),
            Purpose::Audit => {
                let mark = mix(number ^ u64::from(round) << 48);
                // Writing to memory cannot fail.
                let _ = writeln!(into, "c1m audit {round} of {number}: {mark:016x}");
            }
            Purpose::Keepalive => {
                let _ = writeln!(into, "c1m keepalive {round} of {number}: {:016x}", exchange.token());
            }
            // An echo server has no goodbye, and publishes nothing.
            Purpose::Goodbye | Purpose::Publish => {}
            Purpose::Message => {
                let end = into.len() + self.payload;
                let mut word = mix(number ^ u64::from(round) << 40);
                while into.len() < end {
                    into.extend_from_slice(&word.to_le_bytes());
                    word = mix(word);
                }
                into.truncate(end);
            }
        }
    }
}

impl Dialect for Raw {
    const NAME: &'static str = "raw";
    const SETTINGS: &'static [&'static str] = &["hello", "payload"];
    const SAYS: &'static str = "sends a hello, tokens and bytes that look random, and wants all of them back";

    fn new(settings: &Settings) -> Result<Raw, SettingError> {
        let payload = settings.payload_within(1..=LONGEST_PAYLOAD)?;
        let hello = settings.hello.clone().unwrap_or_else(|| HELLO.to_owned());
        if hello.len() > LONGEST_TYPED {
            return Err(SettingError::Hello { asked: hello.len(), most: LONGEST_TYPED });
        }
        Ok(Raw { hello, payload })
    }

    fn strength(&self) -> Strength {
        Strength::EndToEnd
    }

    fn longest_message(&self) -> usize {
        self.payload
    }

    fn steps(&self) -> u8 {
        u8::from(!self.hello.is_empty())
    }

    fn ask(&self, exchange: Exchange, into: &mut Vec<u8>) {
        self.compose(exchange, into);
    }

    /// The answer must be the message, byte by byte. Whatever comes behind it in the same receive makes it wrong, as
    /// does whatever comes unasked: an echo server says nothing of its own.
    fn hear(&self, exchange: Option<Exchange>, position: &mut Position, bytes: &[u8], scratch: &mut Scratch) -> Heard {
        let heard = |verdict| Heard { used: bytes.len(), verdict };
        let Some(exchange) = exchange else { return heard(Verdict::Wrong(Cause::WrongEcho)) };
        scratch.expected.clear();
        self.compose(exchange, &mut scratch.expected);
        let from = position.bytes as usize;
        let end = from.saturating_add(bytes.len());
        if scratch.expected.get(from..end) != Some(bytes) {
            return heard(Verdict::Wrong(Cause::WrongEcho));
        }
        if end == scratch.expected.len() {
            *position = Position::default();
            return heard(Verdict::Proof);
        }
        // No message is longer than a hello of 4 KiB with numbers in it, or 64 KiB.
        position.bytes = end as u32;
        heard(Verdict::Part)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn made(purpose: Purpose, number: u64, round: u32, payload: usize) -> Vec<u8> {
        let mut bytes = vec![1, 2, 3];
        Raw { payload, ..Raw::default() }.ask(Exchange { number, round, purpose }, &mut bytes);
        bytes.split_off(3)
    }

    proptest! {
        /// No connection can pass an audit with the answer of another, or with one of another round.
        #[test]
        fn tokens_are_ones_own(a in 0u64..1 << 32, b in 0u64..1 << 32, rounds in 1u32..100) {
            prop_assert_eq!(made(Purpose::Audit, a, 1, 1) == made(Purpose::Audit, b, 1, 1), a == b);
            prop_assert_ne!(made(Purpose::Audit, a, rounds, 1), made(Purpose::Audit, a, rounds + 1, 1));
        }

        #[test]
        fn a_message_has_its_size(number in 0u64..1 << 32, round: u32, payload in 1usize..5_000) {
            prop_assert_eq!(made(Purpose::Message, number, round, payload).len(), payload);
        }
    }

    #[test]
    fn the_hello_is_the_articles() {
        assert_eq!(made(Purpose::Open(0), 42, 0, 1), b"Hello Server: client --> 42");
    }

    /// The bytes are an interface: other programs may check them.
    #[test]
    fn the_bytes_stay_what_they_are() {
        assert_eq!(made(Purpose::Audit, 42, 2, 1), b"c1m audit 2 of 42: f6eb93662602e0cd\n");
        assert_eq!(made(Purpose::Message, 42, 7, 11), [39, 107, 228, 23, 47, 116, 195, 232, 254, 213, 118]);
    }
}
