//! Chunks decoded once more and plainly, for a property and the fuzz target.
#![allow(clippy::unwrap_used, reason = "for tests alone")]

use super::{Chunks, Piece};

/// The content of a body, and the bytes behind it; `None` if it is not whole.
pub(crate) type Decoded<'a> = Result<Option<(Vec<u8>, &'a [u8])>, ()>;

/// A line without its end, and what is behind it.
type Line<'a> = (&'a [u8], &'a [u8]);

/// Decodes as the RFC's pseudo code does (section 7.1.3), line by line, of bytes that are all there.
pub(crate) fn naive(mut rest: &[u8]) -> Decoded<'_> {
    fn line(bytes: &[u8]) -> Result<Option<Line<'_>>, ()> {
        for (at, byte) in bytes.iter().enumerate() {
            match (byte, bytes.get(at + 1)) {
                (b'\r', Some(b'\n')) => return Ok(Some((&bytes[..at], &bytes[at + 2..]))),
                (b'\r', None) => return Ok(None),
                (b'\t', _) | (b' '..=b'~', _) | (0x80.., _) => {}
                _ => return Err(()),
            }
        }
        Ok(None)
    }
    fn number(digits: &[u8]) -> Result<usize, ()> {
        let digits = std::str::from_utf8(digits).map_err(drop)?;
        u32::from_str_radix(digits, 16).map(|number| number as usize).map_err(drop)
    }
    let mut content = Vec::new();
    loop {
        let is_size_begun = rest.first().is_none_or(u8::is_ascii_hexdigit);
        let Some((size, behind)) = line(rest).and_then(|line| if is_size_begun { Ok(line) } else { Err(()) })? else {
            let digits = rest.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
            let is_ended = matches!(rest.get(digits), None | Some(b'\r' | b';' | b' ' | b'\t'));
            let fits = digits == 0 || number(&rest[..digits]).is_ok();
            return if is_ended && fits { Ok(None) } else { Err(()) };
        };
        let digits = size.split(|byte| b"; \t".contains(byte)).next().unwrap();
        let number = number(digits)?;
        rest = behind;
        if number == 0 {
            break;
        }
        if rest.len() < number {
            return Ok(None);
        }
        content.extend(&rest[..number]);
        let end = &rest[number..];
        match end {
            [b'\r', b'\n', ..] => rest = &end[2..],
            [] | [b'\r'] => return Ok(None),
            _ => return Err(()),
        }
    }
    loop {
        let Some((trailer, behind)) = line(rest)? else { return Ok(None) };
        rest = behind;
        if trailer.is_empty() {
            return Ok(Some((content, rest)));
        }
    }
}

/// The same by `Chunks`, in pieces.
pub(crate) fn decoded<'a>(bytes: &'a [u8], cuts: &[usize]) -> Decoded<'a> {
    let (mut chunks, mut content) = (Chunks::default(), Vec::new());
    for cut in cuts.windows(2) {
        let mut at = cut[0];
        while at < cut[1] {
            let (used, piece) = chunks.next(&bytes[at..cut[1]]).map_err(drop)?;
            assert!(used > 0);
            at += used;
            match piece {
                Piece::Content(more) => content.extend(more),
                Piece::End => return Ok(Some((content, &bytes[at..]))),
                Piece::Framing => assert_eq!(at, cut[1]),
            }
        }
    }
    Ok(None)
}
