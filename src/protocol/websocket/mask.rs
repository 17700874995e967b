//! Masking (RFC 6455, 5.3): byte *i* of a payload is combined with byte *i* modulo 4 of the key. Doing it again undoes
//! it.

/// Masks or unmasks the part of a payload that begins `from` bytes into it.
#[inline]
pub fn mask(key: [u8; 4], from: u64, bytes: &mut [u8]) {
    let key = u32::from_le_bytes(key).rotate_right((from % 4) as u32 * 8);
    let word = u64::from(key) << 32 | u64::from(key);
    let (words, rest) = bytes.as_chunks_mut::<8>();
    for bytes in words {
        *bytes = (u64::from_le_bytes(*bytes) ^ word).to_le_bytes();
    }
    for (byte, key) in rest.iter_mut().zip(word.to_le_bytes()) {
        *byte ^= key;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// As the RFC writes it, a byte at a time, and however the payload is cut.
        #[test]
        fn a_payload_is_masked_byte_by_byte_however_it_is_cut(
            key: [u8; 4], payload in prop::collection::vec(any::<u8>(), 0..200), cut: prop::sample::Index
        ) {
            let expected: Vec<u8> = payload.iter().enumerate().map(|(index, byte)| byte ^ key[index % 4]).collect();
            let mut masked = payload.clone();
            let cut = cut.index(payload.len() + 1);
            let (before, behind) = masked.split_at_mut(cut);
            mask(key, 0, before);
            mask(key, cut as u64, behind);
            prop_assert_eq!(&masked, &expected);
            mask(key, 0, &mut masked);
            prop_assert_eq!(masked, payload);
        }
    }
}
