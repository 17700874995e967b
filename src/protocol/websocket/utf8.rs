//! Whether bytes that come in pieces are UTF-8. Whole runs are checked by simdutf8. Of a character that is cut, its bytes
//! so far are kept, and it is refused as soon as no byte could complete it.

/// Bytes are no UTF-8 (RFC 3629), and none that follow could make them so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotUtf8;

/// The text that these bytes are.
#[inline]
pub fn text(bytes: &[u8]) -> Result<&str, NotUtf8> {
    simdutf8::basic::from_utf8(bytes).map_err(|_| NotUtf8)
}

/// How far a text has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Utf8 {
    /// The bytes of a character that is cut.
    cut: [u8; 4],
    /// How many there are.
    len: u8,
}

impl Utf8 {
    /// Takes the next bytes of the text.
    #[inline]
    pub fn feed(&mut self, bytes: &[u8]) -> Result<(), NotUtf8> {
        let rest = if self.len == 0 { bytes } else { self.complete(bytes)? };
        match simdutf8::compat::from_utf8(rest) {
            Ok(_) => Ok(()),
            Err(error) if error.error_len().is_some() => Err(NotUtf8),
            Err(error) => {
                let cut = &rest[error.valid_up_to()..];
                self.cut[..cut.len()].copy_from_slice(cut);
                self.len = cut.len() as u8;
                Ok(())
            }
        }
    }

    /// Whether the text may end here: no character is cut.
    pub fn is_whole(&self) -> bool {
        self.len == 0
    }

    /// Goes on with the character that is cut, and returns what follows it.
    fn complete<'a>(&mut self, bytes: &'a [u8]) -> Result<&'a [u8], NotUtf8> {
        let mut rest = bytes;
        while self.len > 0
            && let Some((byte, behind)) = rest.split_first()
        {
            self.cut[usize::from(self.len)] = *byte;
            self.len += 1;
            rest = behind;
            match std::str::from_utf8(&self.cut[..usize::from(self.len)]) {
                Ok(_) => self.len = 0,
                Err(error) if error.error_len().is_some() => return Err(NotUtf8),
                Err(_) => {}
            }
        }
        Ok(rest)
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
            }
        }
    }
}
