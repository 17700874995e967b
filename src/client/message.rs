//! The bytes a client sends and must get back. They follow from the connection's number and the
//! round alone, so nothing is stored per connection to check an echo.

use std::io::Write;

/// What a message is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The first on a connection.
    Hello,
    /// The token of an audit.
    Token,
    /// Traffic while the connections are held.
    Message,
}

/// Writes the message of connection `number` in `round` into `into`, replacing what is there.
/// `hello` is the template of a hello, `payload` the size in bytes of a message.
pub fn compose(into: &mut Vec<u8>, kind: Kind, number: u64, round: u32, hello: &str, payload: usize) {
    into.clear();
    match kind {
        Kind::Hello => into.extend_from_slice(hello.replace("{}", &number.to_string()).as_bytes()),
        Kind::Token => {
            let mark = mix(number ^ u64::from(round) << 48);
            // Writing to memory cannot fail.
            let _ = writeln!(into, "c1m audit {round} of {number}: {mark:016x}");
        }
        Kind::Message => {
            let mut word = mix(number ^ u64::from(round) << 40);
            while into.len() < payload {
                into.extend_from_slice(&word.to_le_bytes());
                word = mix(word);
            }
            into.truncate(payload);
        }
    }
}

/// What the bytes that came make of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EchoMatch {
    /// It is right so far, and more must come.
    Part,
    /// It is right, and at its end.
    Whole,
    /// It is not what was asked for.
    Wrong,
}

/// Compares the next bytes of an answer with the message it must be; `got` counts those that were right.
pub fn verify_echo(message: &[u8], got: &mut usize, bytes: &[u8]) -> EchoMatch {
    let end = got.saturating_add(bytes.len());
    if message.get(*got..end) != Some(bytes) {
        return EchoMatch::Wrong;
    }
    *got = end;
    if end == message.len() { EchoMatch::Whole } else { EchoMatch::Part }
}

/// A number that looks random and differs for each input (the finalizer of SplitMix64, Steele,
/// Lea and Flood 2014).
fn mix(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn made(kind: Kind, number: u64, round: u32, payload: usize) -> Vec<u8> {
        let mut bytes = vec![1, 2, 3];
        compose(&mut bytes, kind, number, round, "Hello Server: client --> {}", payload);
        bytes
    }

    proptest! {
        /// Nobody can pass an audit with another's answer, or with one from another round.
        #[test]
        fn tokens_are_ones_own(a in 0u64..1 << 32, b in 0u64..1 << 32, rounds in 1u32..100) {
            prop_assert_eq!(made(Kind::Token, a, 1, 0) == made(Kind::Token, b, 1, 0), a == b);
            prop_assert_ne!(made(Kind::Token, a, rounds, 0), made(Kind::Token, a, rounds + 1, 0));
        }

        #[test]
        fn a_message_has_its_size(number in 0u64..1 << 32, round: u32, payload in 1usize..5_000) {
            prop_assert_eq!(made(Kind::Message, number, round, payload).len(), payload);
        }
    }

    #[test]
    fn the_hello_is_the_articles() {
        assert_eq!(made(Kind::Hello, 42, 0, 0), b"Hello Server: client --> 42");
    }
}
