//! Bodies in chunks (RFC 9112, section 7.1), out of bytes that are cut anywhere. What has to be known between two pieces
//! are a step and a size.
//!
//! Lines end with CR LF and with nothing else, though other lines of HTTP may end with LF alone: two programs in a row
//! that do not agree where a chunk begins take the body of one request for another one.

#[cfg(any(test, fuzzing))]
pub(crate) mod naive;

/// Why bytes are no chunks that are taken here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChunkFault {
    /// They are no chunks.
    Syntax,
    /// A chunk has more bytes than a number of 32 bits.
    Size,
    /// Extensions, trailers and zeros before sizes have more than 8 KiB.
    Beside,
}

/// Bytes of extensions, of trailers and of zeros before sizes that a body may have, all together. None of them mean
/// anything here.
pub const MOST_BESIDE: u16 = 8 * 1024;

/// What comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(u8)]
enum Step {
    /// The first digit of a size.
    #[default]
    Size,
    /// Another digit, or what ends the size.
    Digits,
    /// The rest of that line.
    Extension,
    /// The line feed that ends it.
    SizeEnd,
    /// Content.
    Content,
    /// The carriage return and the line feed behind a chunk.
    ContentReturn,
    ContentEnd,
    /// A line behind the last chunk, which is a trailer or is empty.
    Trailer,
    /// The rest of a trailer, and its line feed.
    TrailerRest,
    TrailerEnd,
    /// The line feed of the empty line.
    End,
}

impl Step {
    /// All of them, by their numbers.
    const ALL: [Step; 11] = [
        Step::Size,
        Step::Digits,
        Step::Extension,
        Step::SizeEnd,
        Step::Content,
        Step::ContentReturn,
        Step::ContentEnd,
        Step::Trailer,
        Step::TrailerRest,
        Step::TrailerEnd,
        Step::End,
    ];
}

/// How far a body has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Chunks {
    /// What comes next.
    step: Step,
    /// The size of the chunk as far as it was read, or what is to come of its content.
    pub size: u32,
    /// Bytes so far that mean nothing.
    beside: u16,
}

/// What some bytes of a body were.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Piece<'a> {
    /// Nothing but what is around content.
    Framing,
    /// They end with this content.
    Content(&'a [u8]),
    /// They end with the body.
    End,
}

impl Chunks {
    /// As bytes, for the code that goes on with the body: a client with its next piece, or another process.
    pub fn to_bytes(self) -> [u8; 7] {
        let ([a, b, c, d], [high, low]) = (self.size.to_be_bytes(), self.beside.to_be_bytes());
        [self.step as u8, a, b, c, d, high, low]
    }

    /// What `to_bytes` has written; `None` for anything else.
    pub fn of_bytes([step, a, b, c, d, high, low]: [u8; 7]) -> Option<Chunks> {
        let step = *Step::ALL.get(usize::from(step))?;
        let (size, beside) = (u32::from_be_bytes([a, b, c, d]), u16::from_be_bytes([high, low]));
        let is_one = beside <= MOST_BESIDE && (step != Step::Content || size > 0);
        is_one.then_some(Chunks { step, size, beside })
    }

    /// Takes the next bytes of a body, up to the end of some content or of the body. Returns how many, and what they were.
    pub fn next<'a>(&mut self, bytes: &'a [u8]) -> Result<(usize, Piece<'a>), ChunkFault> {
        for (at, byte) in bytes.iter().enumerate() {
            if self.step == Step::Content {
                let here = (bytes.len() - at).min(self.size as usize);
                self.size -= here as u32;
                if self.size == 0 {
                    self.step = Step::ContentReturn;
                }
                return Ok((at + here, Piece::Content(&bytes[at..at + here])));
            }
            if (self.step, *byte) == (Step::End, b'\n') {
                *self = Chunks::default();
                return Ok((at + 1, Piece::End));
            }
            self.step = self.framing(*byte)?;
        }
        Ok((bytes.len(), Piece::Framing))
    }

    /// A byte around content. Returns the step that follows it.
    fn framing(&mut self, byte: u8) -> Result<Step, ChunkFault> {
        let is_text = byte == b'\t' || !byte.is_ascii_control();
        let step = match (self.step, byte) {
            (Step::Digits, b'\r') | (Step::Extension, b'\r') => return Ok(Step::SizeEnd),
            (Step::SizeEnd, b'\n') if self.size == 0 => return Ok(Step::Trailer),
            (Step::SizeEnd, b'\n') => return Ok(Step::Content),
            (Step::ContentReturn, b'\r') => return Ok(Step::ContentEnd),
            (Step::ContentEnd, b'\n') => return Ok(Step::Size),
            (Step::Trailer, b'\r') => return Ok(Step::End),
            (Step::TrailerRest, b'\r') => return Ok(Step::TrailerEnd),
            (Step::TrailerEnd, b'\n') => return Ok(Step::Trailer),
            (Step::Digits, b';' | b' ' | b'\t') => Step::Extension,
            (Step::Extension, _) if is_text => Step::Extension,
            (Step::Trailer | Step::TrailerRest, _) if is_text => Step::TrailerRest,
            (Step::Size | Step::Digits, _) => {
                let digit = char::from(byte).to_digit(16).ok_or(ChunkFault::Syntax)?;
                self.size = self.size.checked_mul(16).ok_or(ChunkFault::Size)? | digit;
                if self.size > 0 {
                    return Ok(Step::Digits);
                }
                Step::Digits
            }
            _ => return Err(ChunkFault::Syntax),
        };
        self.beside += 1;
        if self.beside > MOST_BESIDE { Err(ChunkFault::Beside) } else { Ok(step) }
    }
}

#[cfg(test)]
mod tests {
    use super::naive::{decoded, naive};
    use super::*;
    use proptest::prelude::*;
    use proptest::sample::Index;

    /// Bytes that are chunks, or nearly so.
    fn body() -> impl Strategy<Value = Vec<u8>> {
        let chunk = (prop::collection::vec(any::<u8>(), 1..40), "(00)?", "( ?;[a-z=\"]{0,9})?").prop_map(
            |(content, zeros, extension)| {
                [format!("{zeros}{:X}{extension}\r\n", content.len()).as_bytes(), &content, b"\r\n"].concat()
            },
        );
        let chunks = prop::collection::vec(chunk, 0..5).prop_map(|chunks| chunks.concat());
        let change = prop::option::of((any::<Index>(), prop_oneof![Just(b'\r'), Just(b'\n'), Just(b'0'), any::<u8>()]));
        (chunks, "(0|000|0;x)\r\n([A-Z]: [ -~]{0,9}\r\n){0,2}\r\n[ -~]{0,9}", change).prop_map(
            |(chunks, end, change)| {
                let mut bytes = [&chunks[..], end.as_bytes()].concat();
                if let Some((at, byte)) = change {
                    *at.get_mut(&mut bytes) = byte;
                }
                bytes
            },
        )
    }

    proptest! {
        /// Chunks come to the same as in a naive decoder of the whole, however they are cut, and whatever is wrong.
        #[test]
        fn chunks_are_those_of_a_naive_decoder(body in body(), cuts in prop::collection::vec(any::<Index>(), 0..9)) {
            let whole = naive(&body);
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(body.len() + 1)).collect();
            cuts.extend([0, body.len()]);
            cuts.sort_unstable();
            prop_assert_eq!(&decoded(&body, &cuts), &whole);
            prop_assert_eq!(&decoded(&body, &(0..=body.len()).collect::<Vec<_>>()), &whole);
            // A piece of a body tells nothing that the whole takes back.
            for end in 0..body.len() {
                let part = decoded(&body[..end], &[0, end]);
                prop_assert!(part == Ok(None) || part.is_err() == whole.is_err());
            }
        }
    }

    #[test]
    fn what_is_beside_content_has_its_bound() {
        let fault = |bytes: &[u8]| {
            let mut chunks = Chunks::default();
            let mut at = 0;
            loop {
                match chunks.next(&bytes[at..]) {
                    Ok((used, _)) if used > 0 => at += used,
                    Ok(_) => return None,
                    Err(fault) => return Some(fault),
                }
            }
        };
        let long = "x".repeat(MOST_BESIDE.into());
        assert_eq!(fault(format!("1;{long}").as_bytes()), Some(ChunkFault::Beside));
        assert_eq!(fault(format!("0\r\na: {long}").as_bytes()), Some(ChunkFault::Beside));
        assert_eq!(fault("0".repeat(9_000).as_bytes()), Some(ChunkFault::Beside));
        assert_eq!(fault("1;a\r\nx\r\n".repeat(5_000).as_bytes()), Some(ChunkFault::Beside));
        assert_eq!(fault("1\r\nx\r\n".repeat(50_000).as_bytes()), None);
        assert_eq!(fault(b"ffffffff\r\nx"), None);
        assert_eq!(fault(b"100000000\r\nx"), Some(ChunkFault::Size));
        for wrong in
            ["\r\n", "g\r\n", "-1\r\n", "0x1\r\n", "1\n", "1\r\nxy", "1\r\nx\n", "0\r\n\n", "0\n\r\n", "1;a\nx\r\n"]
        {
            assert_eq!(fault(wrong.as_bytes()), Some(ChunkFault::Syntax), "{wrong:?}");
        }
    }
}
