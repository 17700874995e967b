//! Answers as they are typed: a template in which `*` stands for anything. They are matched as their bytes come, and
//! no byte is kept.

use crate::failure::Cause;
use crate::protocol::search::search;
use crate::protocol::template::{Part, Template, TemplateError, parse};
use crate::protocol::{Exchange, Heard, Position, Scratch, Verdict};

/// Bytes of an answer at most, those that a `*` stands for included. A longer answer fails the connection, so that a
/// server that talks without end does not keep it in flight.
pub const LONGEST_ANSWER: usize = 64 * 1024;

/// The answer that a message must get.
///
/// A `*` stands for any bytes up to where the literal after it first occurs. At the end of a pattern it stands for
/// everything that comes until the next message is sent: the answer is right as soon as all before the `*` has come,
/// and a pattern that is only `*` is satisfied by any byte. `\*` is a star itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    /// Literals, none of them empty. The position counts through them.
    pieces: Vec<Piece>,
    /// A star is at the end.
    open_end: bool,
}

/// A literal with its placeholders.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Piece {
    /// A star is before it.
    after_anything: bool,
    literal: Template,
}

impl Pattern {
    /// Reads what was typed, as `Template::parse` does.
    pub fn parse(text: &str) -> Result<Pattern, TemplateError> {
        let parts = parse(text, true)?;
        let open_end = parts.last() == Some(&Part::Anything);
        let begins = parts.first() == Some(&Part::Anything);
        let runs = parts.split(|part| *part == Part::Anything).filter(|run| !run.is_empty());
        let pieces = runs
            .enumerate()
            .map(|(index, run)| Piece { after_anything: index > 0 || begins, literal: Template::of(run.to_vec()) });
        Ok(Pattern { pieces: pieces.collect(), open_end })
    }

    /// Whether the token is in it.
    pub fn has_token(&self) -> bool {
        self.pieces.iter().any(|piece| piece.literal.has_token())
    }

    /// Whether bytes may come while nothing was asked: a star at the beginning stands for what comes before an
    /// answer, one at the end for what comes after it.
    pub fn allows_unasked(&self) -> bool {
        self.open_end || self.pieces.first().is_some_and(|piece| piece.after_anything)
    }

    /// Judges the next bytes of the answer. Each byte is looked at twice at most; each call costs as much as writing
    /// the literals that it meets once.
    pub fn hear(&self, exchange: Exchange, position: &mut Position, bytes: &[u8], scratch: &mut Scratch) -> Heard {
        let room = LONGEST_ANSWER - (position.bytes as usize).min(LONGEST_ANSWER);
        let within = &bytes[..bytes.len().min(room)];
        let mut used = 0;
        while let Some(piece) = self.pieces.get(usize::from(position.part)) {
            scratch.expected.clear();
            piece.literal.write(exchange, &mut scratch.expected);
            let rest = &within[used..];
            let taken = match piece.after_anything {
                true => Some(search(scratch, &mut position.at, rest)),
                false => compare(&scratch.expected, &mut position.at, rest),
            };
            let Some(taken) = taken else {
                return Heard { used: bytes.len(), verdict: Verdict::Wrong(Cause::WrongAnswer) };
            };
            used += taken;
            if usize::from(position.at) < scratch.expected.len() {
                return self.incomplete(position, within, bytes);
            }
            (position.part, position.at) = (position.part + 1, 0);
        }
        *position = Position::default();
        // A star at the end stands for the rest too. The next message may be sent before that would be heard. Of a pattern that is
        // empty each byte is an answer.
        let used = if self.open_end { bytes.len() } else { used.max(1) };
        Heard { used, verdict: Verdict::Proof }
    }

    /// All bytes within the bound were used, and the answer is not complete.
    fn incomplete(&self, position: &mut Position, within: &[u8], bytes: &[u8]) -> Heard {
        position.bytes += within.len() as u32;
        let verdict = if within.len() < bytes.len() { Verdict::Wrong(Cause::AnswerTooLong) } else { Verdict::Part };
        Heard { used: bytes.len(), verdict }
    }
}

/// Compares the next bytes with the rest of a literal, of which `at` bytes have come. Returns how many bytes were
/// used; `None` if one of them is wrong.
fn compare(literal: &[u8], at: &mut u16, bytes: &[u8]) -> Option<usize> {
    let rest = &literal[usize::from(*at)..];
    let taken = rest.len().min(bytes.len());
    if rest[..taken] != bytes[..taken] {
        return None;
    }
    // A literal has LONGEST_TYPED bytes at most.
    *at += taken as u16;
    Some(taken)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Purpose;
    use proptest::prelude::*;

    const EXCHANGE: Exchange = Exchange { number: 7, round: 3, purpose: Purpose::Audit };

    /// The verdict on a stream that comes in pieces of these lengths, and the bytes used up to it.
    fn heard(pattern: &Pattern, stream: &[u8], mut cuts: impl Iterator<Item = usize>) -> (Verdict, usize) {
        let (mut position, mut scratch, mut from) = (Position::default(), Scratch::default(), 0);
        while from < stream.len() {
            let length = cuts.next().unwrap_or(usize::MAX).clamp(1, stream.len() - from);
            let Heard { used, verdict } =
                pattern.hear(EXCHANGE, &mut position, &stream[from..from + length], &mut scratch);
            match verdict {
                Verdict::Part => assert_eq!(used, length),
                // `used` of a fault says nothing about its place.
                Verdict::Wrong(_) => return (verdict, 0),
                // A star at the end takes what came with the proof, and that depends on the cuts.
                _ if pattern.open_end => return (verdict, 0),
                _ => return (verdict, from + used),
            }
            from += length;
        }
        (Verdict::Part, from)
    }

    fn whole(pattern: &str, stream: &[u8]) -> (Verdict, usize) {
        heard(&Pattern::parse(pattern).unwrap(), stream, std::iter::empty())
    }

    /// What `hear` should find, said plainly: the earliest end of the pattern in the stream.
    fn plain(pattern: &Pattern, stream: &[u8]) -> (Verdict, usize) {
        let mut at = 0;
        for piece in &pattern.pieces {
            let mut literal = Vec::new();
            piece.literal.write(EXCHANGE, &mut literal);
            let rest = &stream[at..];
            let found = match piece.after_anything {
                true => rest.windows(literal.len()).position(|window| window == literal),
                false if rest.starts_with(&literal) => Some(0),
                false if literal.starts_with(rest) => None,
                false => return (Verdict::Wrong(Cause::WrongAnswer), 0),
            };
            let Some(found) = found else { return (Verdict::Part, stream.len()) };
            at += found + literal.len();
        }
        match (pattern.pieces.is_empty(), stream.len()) {
            (true, 0) => (Verdict::Part, 0),
            _ => (Verdict::Proof, if pattern.open_end { 0 } else { at }),
        }
    }

    #[test]
    fn a_star_reaches_to_the_first_occurrence_of_what_follows() {
        assert_eq!(whole(r"250*\r\n", b"250 one\r\n250 two\r\n"), (Verdict::Proof, 9));
        assert_eq!(whole("*aab", b"aaaab"), (Verdict::Proof, 5));
        assert_eq!(whole("*aab", b"aaaa"), (Verdict::Part, 4));
        assert_eq!(whole("a*b*c", b"a..b.b.c"), (Verdict::Proof, 8));
        assert_eq!(whole("a*b", b"xab"), (Verdict::Wrong(Cause::WrongAnswer), 0));
        assert_eq!(whole(r"a\*b", b"a*b"), (Verdict::Proof, 3));
        assert_eq!(whole(r"a\*b", b"axb"), (Verdict::Wrong(Cause::WrongAnswer), 0));
    }

    #[test]
    fn a_star_at_the_end_is_satisfied_at_once() {
        for (pattern, stream) in [("+OK*", &b"+OK 5\r\n"[..]), ("*", b"x"), ("**", b"xyz"), ("a*b*", b"a..b..")] {
            let (mut position, mut scratch) = (Position::default(), Scratch::default());
            let heard = Pattern::parse(pattern).unwrap().hear(EXCHANGE, &mut position, stream, &mut scratch);
            // Nothing is left that would be held against the answer to the next message.
            assert_eq!((heard.verdict, heard.used), (Verdict::Proof, stream.len()), "{pattern}");
        }
    }

    #[test]
    fn several_answers_may_come_at_once() {
        assert_eq!(whole(r"+PONG\r\n", b"+PONG\r\n+PONG\r\n"), (Verdict::Proof, 7));
    }

    #[test]
    fn an_answer_that_does_not_end_is_too_long() {
        let pattern = Pattern::parse(r"*\n").unwrap();
        let mut stream = vec![b'x'; LONGEST_ANSWER];
        for cut in [1, 4_095, usize::MAX] {
            assert_eq!(heard(&pattern, &stream, std::iter::repeat(cut)).0, Verdict::Part);
        }
        stream[LONGEST_ANSWER - 1] = b'\n';
        assert_eq!(heard(&pattern, &stream, std::iter::repeat(9_999)), (Verdict::Proof, LONGEST_ANSWER));
        stream[LONGEST_ANSWER - 1] = b'x';
        stream.push(b'\n');
        for cut in [1, 4_096, usize::MAX] {
            let verdict = heard(&pattern, &stream, std::iter::repeat(cut)).0;
            assert_eq!(verdict, Verdict::Wrong(Cause::AnswerTooLong), "{cut}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        /// However a stream is cut, its verdict is the plain one.
        #[test]
        fn any_cut_gives_the_same_verdict(
            pattern in "(\\*|a|b|ab|aab|[{]n[}]){1,8}",
            stream in "(a|b|7|aab|c){0,24}",
            cuts in prop::collection::vec(1usize..5, 0..24),
        ) {
            let pattern = Pattern::parse(&pattern).unwrap();
            let stream = stream.as_bytes();
            let expected = plain(&pattern, stream);
            prop_assert_eq!(heard(&pattern, stream, std::iter::empty()), expected);
            prop_assert_eq!(heard(&pattern, stream, std::iter::repeat(1)), expected);
            prop_assert_eq!(heard(&pattern, stream, cuts.into_iter()), expected);
        }

        /// The answer of another connection, or of another round, is never a proof, wherever the token is.
        #[test]
        fn anothers_token_is_no_proof(
            pattern in "(a|\\*){0,2}[{]token[}](\\*|b|\\*b){0,2}",
            other in (0u64..1 << 33, any::<u32>(), prop_oneof![Just(Purpose::Audit), Just(Purpose::Message)]),
        ) {
            let (number, round, purpose) = other;
            let other = Exchange { number, round, purpose };
            prop_assume!(other != EXCHANGE);
            let pattern = Pattern::parse(&pattern).unwrap();
            let answer = |exchange: Exchange| format!("a{:016x}bb", exchange.token()).into_bytes();
            let verdict = |answer: &[u8]| heard(&pattern, answer, std::iter::repeat(3)).0;
            prop_assert!(verdict(&answer(other)) != Verdict::Proof);
            let both = [answer(other), answer(EXCHANGE)].concat();
            // What a star passes over may be anything; without one the first token decides.
            if !pattern.pieces[0].after_anything && pattern.pieces[0].literal.has_token() {
                prop_assert_eq!(verdict(&both), Verdict::Wrong(Cause::WrongAnswer));
            }
        }
    }
}
