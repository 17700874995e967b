//! Bytes that may be secrets: nothing of them stays in this process's memory once they are not needed.

use std::fmt;
use std::io::{self, Read};
use std::ops::{Deref, DerefMut};

use zeroize::Zeroize;

/// Bytes that are overwritten when they are dropped, and where they lay before they grew. No `Debug` shows them.
#[derive(Default, PartialEq, Eq)]
pub struct Wiped(Vec<u8>);

/// Bytes by which what is received grows at first: a length that is announced takes no memory before the bytes come.
const FIRST_PART: usize = 16 * 1024;

impl Wiped {
    /// Reads so many bytes. Fails with `UnexpectedEof` where there are fewer.
    pub fn read(from: &mut impl Read, length: u64) -> io::Result<Wiped> {
        let mut read = Wiped::default();
        let mut left = length;
        while left > 0 {
            let start = read.len();
            let part = start.max(FIRST_PART).min(usize::try_from(left).unwrap_or(usize::MAX));
            read.reserve(part);
            read.0.resize(start + part, 0);
            from.read_exact(&mut read.0[start..])?;
            left -= part as u64;
        }
        Ok(read)
    }

    /// Appends bytes.
    pub fn extend(&mut self, bytes: &[u8]) {
        self.reserve(bytes.len());
        self.0.extend_from_slice(bytes);
    }

    fn reserve(&mut self, more: usize) {
        let needed = self.0.len() + more;
        if needed > self.0.capacity() {
            let mut larger = Vec::with_capacity(needed.max(self.0.capacity() * 2));
            larger.extend_from_slice(&self.0);
            self.0[..].zeroize();
            self.0 = larger;
        }
    }
}

impl From<&[u8]> for Wiped {
    fn from(bytes: &[u8]) -> Wiped {
        Wiped(bytes.to_vec())
    }
}

impl Deref for Wiped {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl DerefMut for Wiped {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}

impl Drop for Wiped {
    fn drop(&mut self) {
        self.0[..].zeroize();
    }
}

impl fmt::Debug for Wiped {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "{} bytes", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_grow_and_are_read_whole_or_not_at_all() {
        let all: Vec<u8> = (0..100_000u32).map(|at| at as u8).collect();
        let mut grown = Wiped::default();
        all.chunks(77).for_each(|part| grown.extend(part));
        assert_eq!(grown[..], all);
        assert_eq!(Wiped::read(&mut &all[..], 100_000).unwrap(), grown);
        assert_eq!(Wiped::read(&mut &all[..], 5).unwrap(), Wiped::from(&all[..5]));
        let short = Wiped::read(&mut &all[..], u64::MAX).unwrap_err();
        assert_eq!(short.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn debug_output_has_no_bytes_of_a_secret() {
        assert_eq!(format!("{:?}", Wiped::from(&b"secret"[..])), "6 bytes");
    }
}
