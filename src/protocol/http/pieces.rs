//! A head of a response that comes in pieces: its bytes are kept until it is whole.

use super::{LONGEST_HEAD, Malformed};

/// What a response begins with, of the versions that are spoken.
const BEGINNING: &[u8] = b"HTTP/1.";

/// Finds the end of a head in `bytes`, of which `kept` came before. Returns the whole head, and how many of `bytes` belong
/// to it; `None` if it is not whole, and then `kept` has all of it. The caller empties `kept` once it has read the head.
pub fn whole_head<'a>(kept: &'a mut Vec<u8>, bytes: &'a [u8]) -> Result<Option<(&'a [u8], usize)>, Malformed> {
    let end = end_of_head(kept, bytes);
    let used = end.unwrap_or(bytes.len());
    if kept.len() + used > LONGEST_HEAD {
        return Err(Malformed::TooLong);
    }
    // What is no HTTP may never have an end.
    let is_begun = |head: &[u8]| head.iter().zip(BEGINNING).all(|(byte, expected)| byte == expected);
    if kept.is_empty() && end.is_some() {
        return if is_begun(bytes) { Ok(Some((&bytes[..used], used))) } else { Err(Malformed::Syntax) };
    }
    kept.extend_from_slice(&bytes[..used]);
    match (is_begun(kept), end) {
        (false, _) => Err(Malformed::Syntax),
        (true, None) => Ok(None),
        (true, Some(_)) => Ok(Some((kept, used))),
    }
}

/// Where the empty line that ends a head ends in `bytes`, which follow `before`. Each byte is looked at once, however the
/// head is cut. A line ends with a line feed, as httparse has it.
fn end_of_head(before: &[u8], bytes: &[u8]) -> Option<usize> {
    #[derive(Clone, Copy, PartialEq)]
    enum At {
        Line,
        Begin,
        Return,
    }
    let mut at = match before {
        [.., b'\n'] => At::Begin,
        [.., b'\n', b'\r'] => At::Return,
        _ => At::Line,
    };
    for (index, byte) in bytes.iter().enumerate() {
        at = match (at, byte) {
            (At::Begin | At::Return, b'\n') => return Some(index + 1),
            (At::Line, b'\n') => At::Begin,
            (At::Begin, b'\r') => At::Return,
            _ => At::Line,
        };
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// A head is whole at its empty line, and not before, however it is cut.
        #[test]
        fn a_head_is_whole_at_its_empty_line(
            lines in prop::collection::vec("[ -~]{1,20}\r?", 0..5), ends in prop::collection::vec(any::<bool>(), 8),
            behind in "[ -~]{0,9}", cuts in prop::collection::vec(1usize..9, 0..80),
        ) {
            let mut head = b"HTTP/1.1 200 OK\r\n".to_vec();
            for (line, end) in lines.iter().zip(&ends) {
                let line = line.trim_end_matches('\r');
                head.extend(line.bytes().chain(if *end { &b"\r\n"[..] } else { b"\n" }.iter().copied()));
            }
            head.extend(if ends[7] { &b"\r\n"[..] } else { b"\n" });
            let stream = [&head[..], behind.as_bytes()].concat();
            let (mut kept, mut from, mut cuts) = (Vec::new(), 0, cuts.into_iter());
            loop {
                let end = stream.len().min(from + cuts.next().unwrap_or(usize::MAX - 99));
                match whole_head(&mut kept, &stream[from..end]).unwrap() {
                    Some((whole, used)) => {
                        prop_assert_eq!((whole, from + used), (&head[..], head.len()));
                        break;
                    }
                    None => from = end,
                }
            }
        }
    }

    #[test]
    fn what_is_no_http_is_refused_at_once_and_a_head_has_its_bound() {
        assert_eq!(whole_head(&mut Vec::new(), b"SSH"), Err(Malformed::Syntax));
        let mut kept = b"HTT".to_vec();
        assert_eq!(whole_head(&mut kept, b"X"), Err(Malformed::Syntax));
        let mut kept = [b"HTTP/1.1 200 OK\r\na: ".to_vec(), vec![b'x'; LONGEST_HEAD - 21]].concat();
        assert_eq!(whole_head(&mut kept, b"x"), Ok(None));
        assert_eq!(whole_head(&mut kept, b"x"), Err(Malformed::TooLong));
    }
}
