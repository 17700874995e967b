//! Whether bytes that come in pieces are UTF-8. Whole runs are checked by simdutf8. Of a character that is cut it is kept
//! which bytes may follow, and it is refused as soon as no byte could complete it.

/// Bytes are no UTF-8 (RFC 3629), and none that follow could make them so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotUtf8;

/// The text that these bytes are.
#[inline]
pub fn text(bytes: &[u8]) -> Result<&str, NotUtf8> {
    simdutf8::basic::from_utf8(bytes).map_err(|_| NotUtf8)
}

/// How far a text has come: which bytes may follow (the table of RFC 3629, section 4). It has 8 values, so a client finds
/// room for it among the bits of a position.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Utf8 {
    /// No character is cut.
    #[default]
    Whole,
    /// One more byte of a character.
    One,
    /// Two more bytes.
    Two,
    /// Three more bytes.
    Three,
    /// Two more bytes after E0, whose character must need three in all.
    AfterE0,
    /// Two more bytes after ED, whose character must be no surrogate.
    AfterEd,
    /// Three more bytes after F0, whose character must need four in all.
    AfterF0,
    /// Three more bytes after F4, whose character must be at most U+10FFFF.
    AfterF4,
}

impl Utf8 {
    /// Takes the next bytes of the text.
    #[inline]
    pub fn feed(&mut self, bytes: &[u8]) -> Result<(), NotUtf8> {
        let rest = if self.is_whole() { bytes } else { self.complete(bytes)? };
        match simdutf8::compat::from_utf8(rest) {
            Ok(_) => Ok(()),
            Err(error) if error.error_len().is_some() => Err(NotUtf8),
            Err(error) => rest[error.valid_up_to()..].iter().try_for_each(|byte| self.step(*byte)),
        }
    }

    /// Whether the text may end here: no character is cut.
    pub fn is_whole(self) -> bool {
        self == Utf8::Whole
    }

    /// Its number, below 8.
    pub fn number(self) -> u16 {
        self as u16
    }

    /// The one of this number, modulo 8.
    pub fn of_number(number: u16) -> Utf8 {
        let all = [
            Utf8::Whole,
            Utf8::One,
            Utf8::Two,
            Utf8::Three,
            Utf8::AfterE0,
            Utf8::AfterEd,
            Utf8::AfterF0,
            Utf8::AfterF4,
        ];
        all[usize::from(number % 8)]
    }

    /// Goes on with the character that is cut, and returns what follows it.
    fn complete<'a>(&mut self, bytes: &'a [u8]) -> Result<&'a [u8], NotUtf8> {
        let mut rest = bytes;
        while !self.is_whole()
            && let Some((byte, behind)) = rest.split_first()
        {
            self.step(*byte)?;
            rest = behind;
        }
        Ok(rest)
    }

    /// Takes one byte.
    fn step(&mut self, byte: u8) -> Result<(), NotUtf8> {
        let (may_be, next) = match self {
            Utf8::Whole => {
                *self = Utf8::lead(byte)?;
                return Ok(());
            }
            Utf8::One => (0x80..=0xbf, Utf8::Whole),
            Utf8::Two => (0x80..=0xbf, Utf8::One),
            Utf8::Three => (0x80..=0xbf, Utf8::Two),
            Utf8::AfterE0 => (0xa0..=0xbf, Utf8::One),
            Utf8::AfterEd => (0x80..=0x9f, Utf8::One),
            Utf8::AfterF0 => (0x90..=0xbf, Utf8::Two),
            Utf8::AfterF4 => (0x80..=0x8f, Utf8::Two),
        };
        *self = next;
        if may_be.contains(&byte) { Ok(()) } else { Err(NotUtf8) }
    }

    /// What follows the first byte of a character.
    fn lead(byte: u8) -> Result<Utf8, NotUtf8> {
        Ok(match byte {
            ..=0x7f => Utf8::Whole,
            0xc2..=0xdf => Utf8::One,
            0xe0 => Utf8::AfterE0,
            0xed => Utf8::AfterEd,
            0xe1..=0xef => Utf8::Two,
            0xf0 => Utf8::AfterF0,
            0xf1..=0xf3 => Utf8::Three,
            0xf4 => Utf8::AfterF4,
            _ => return Err(NotUtf8),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Text, bytes, and text with some bytes changed.
    fn bytes() -> impl Strategy<Value = Vec<u8>> {
        let text = prop::collection::vec(any::<char>(), 0..60).prop_map(|chars| String::from_iter(chars).into_bytes());
        let spoiled = (text.clone(), any::<(prop::sample::Index, u8)>()).prop_map(|(mut bytes, (at, byte))| {
            if !bytes.is_empty() {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            bytes
        });
        prop_oneof![text, spoiled, prop::collection::vec(any::<u8>(), 0..12)]
    }

    proptest! {
        /// The standard library's verdict on the whole, at the first byte at which it is certain, however it is cut.
        #[test]
        fn a_text_is_judged_as_the_standard_library_does_however_it_is_cut(
            bytes in bytes(), cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..5)
        ) {
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let mut text = Utf8::default();
            for piece in cuts.windows(2) {
                let so_far = std::str::from_utf8(&bytes[..piece[1]]);
                let verdict = text.feed(&bytes[piece[0]..piece[1]]);
                prop_assert_eq!(verdict.is_err(), so_far.is_err_and(|error| error.error_len().is_some()));
                if verdict.is_err() {
                    return Ok(());
                }
                prop_assert_eq!(text.is_whole(), so_far.is_ok());
                prop_assert_eq!(Utf8::of_number(text.number()), text);
            }
        }
    }
}
