//! `session`, the dialect that docs/guide/protocols.md explains. The guide quotes all above the tests word by word, which
//! `tests/documents.rs` holds.

use super::{Dialect, Exchange, Heard, Position, Purpose, Scratch, SettingError, Settings, Strength, Verdict};
use crate::failure::Cause;

/// Bytes that the server's greeting may have, with its line feed.
const LONGEST_LINE: u16 = 200;

/// The server's question whether the client is there, and the answer: a byte each.
const ENQ: u8 = 0x05;
const ACK: u8 = 0x06;

/// A server of lines, with a login.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session;

impl Dialect for Session {
    const NAME: &'static str = "session";
    const SETTINGS: &'static [&'static str] = &[];
    const SAYS: &'static str = "logs in, and sends lines with a token";

    fn new(_settings: &Settings) -> Result<Session, SettingError> {
        Ok(Session)
    }

    /// The service must read the token to write it back.
    fn strength(&self) -> Strength {
        Strength::EndToEnd
    }

    fn longest_message(&self) -> usize {
        "ECHO 0123456789abcdef\n".len()
    }

    /// Step 0 logs in. Step 1 proves that the service behind the login answers.
    fn steps(&self) -> u8 {
        2
    }

    fn ask(&self, exchange: Exchange, into: &mut Vec<u8>) {
        let line = match exchange.purpose {
            Purpose::Open(0) => format!("LOGIN user{}\n", exchange.number),
            _ => format!("ECHO {:016x}\n", exchange.token()),
        };
        into.extend_from_slice(line.as_bytes());
    }

    /// `position.at` counts the bytes of the line that have come.
    fn hear(&self, exchange: Option<Exchange>, position: &mut Position, bytes: &[u8], scratch: &mut Scratch) -> Heard {
        // The server may ask between two lines, while an answer is awaited and while none is.
        if position.at == 0 && bytes.first() == Some(&ENQ) {
            scratch.reply.push(ACK);
            return Heard { used: 1, verdict: Verdict::Aside };
        }
        let Some(exchange) = exchange else {
            return Heard { used: bytes.len(), verdict: Verdict::Wrong(Cause::Unasked) };
        };
        scratch.expected.clear();
        match exchange.purpose {
            // The server's words behind it vary, and nothing that is said later depends on them.
            Purpose::Open(0) => scratch.expected.extend_from_slice(b"WELCOME "),
            // The answer is the message.
            _ => self.ask(exchange, &mut scratch.expected),
        }
        for (index, byte) in bytes.iter().enumerate() {
            let expected = scratch.expected.get(usize::from(position.at));
            let wrong = match expected {
                Some(expected) if expected != byte => Some(Cause::WrongAnswer),
                None if position.at >= LONGEST_LINE => Some(Cause::AnswerTooLong),
                _ => None,
            };
            if let Some(cause) = wrong {
                return Heard { used: index + 1, verdict: Verdict::Wrong(cause) };
            }
            position.at += 1;
            if *byte == b'\n' {
                // The next line begins.
                *position = Position::default();
                return Heard { used: index + 1, verdict: Verdict::Proof };
            }
        }
        Heard { used: bytes.len(), verdict: Verdict::Part }
    }

    fn goodbye(&self, _number: u64, into: &mut Vec<u8>) {
        into.extend_from_slice(b"BYE\n");
    }
}

#[cfg(test)]
mod tests {
    use super::super::follow;
    use super::*;
    use proptest::prelude::*;

    fn exchange(purpose: Purpose, round: u32) -> Exchange {
        Exchange { number: 7, round, purpose }
    }

    fn echo(exchange: Exchange) -> Vec<u8> {
        let mut line = Vec::new();
        Session.ask(exchange, &mut line);
        line
    }

    proptest! {
        /// The whole life of a connection in one stream, cut anywhere.
        #[test]
        fn a_login_and_its_answers_may_be_cut_anywhere(cuts in prop::collection::vec(1usize..9, 0..60)) {
            let (first, audit) = (exchange(Purpose::Open(1), 0), exchange(Purpose::Audit, 3));
            let asked = [Some(exchange(Purpose::Open(0), 0)), Some(first), Some(audit), None];
            let stream = [&b"\x05WELCOME to shop 3\n\x05"[..], &echo(first), &echo(audit), b"\x05\x05"].concat();
            let (verdicts, replied) = follow(&Session, &asked, &stream, cuts.into_iter());
            use Verdict::{Aside, Proof};
            prop_assert_eq!(verdicts, [Aside, Proof, Aside, Proof, Proof, Aside, Aside]);
            prop_assert_eq!(replied, [ACK; 4]);
        }
    }

    #[test]
    fn a_login_has_two_steps() {
        let mut said = Vec::new();
        let steps = (0..4).take_while(|step| Session.open(7, *step, &mut said)).count();
        assert_eq!(steps, 2);
        let login = [&b"LOGIN user7\n"[..], &echo(exchange(Purpose::Open(1), 0))].concat();
        assert_eq!(said, login);
    }

    #[test]
    fn what_the_server_should_not_say_is_wrong() {
        let login = Some(exchange(Purpose::Open(0), 0));
        let audit = Some(exchange(Purpose::Audit, 3));
        let stale = echo(exchange(Purpose::Audit, 2));
        let long = [b"WELCOME ".to_vec(), vec![b'x'; 300]].concat();
        for (asked, said, cause) in [
            (login, &b"DENIED\n"[..], Cause::WrongAnswer),
            (login, &long, Cause::AnswerTooLong),
            (audit, &stale, Cause::WrongAnswer),
            (None, b"ECHO\n", Cause::Unasked),
        ] {
            let heard = Session.hear(asked, &mut Position::default(), said, &mut Scratch::default());
            assert_eq!(heard.verdict, Verdict::Wrong(cause), "{}", String::from_utf8_lossy(said));
            assert!((1..=said.len()).contains(&heard.used));
        }
    }
}
