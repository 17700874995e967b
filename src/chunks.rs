//! A vector that grows by chunks. It never moves what it holds, so that it never needs twice the memory for a moment.

/// Items of a chunk.
const CHUNK: usize = 1 << 14;

/// A vector in chunks.
#[derive(Debug)]
pub struct Chunks<T> {
    chunks: Vec<Vec<T>>,
    len: usize,
}

impl<T> Default for Chunks<T> {
    fn default() -> Chunks<T> {
        Chunks { chunks: Vec::new(), len: 0 }
    }
}

impl<T: Default> Chunks<T> {
    /// Adds an item, and returns its index.
    pub fn push(&mut self, item: T) -> usize {
        if self.len.is_multiple_of(CHUNK) {
            self.chunks.push(Vec::with_capacity(CHUNK));
        }
        if let Some(last) = self.chunks.last_mut() {
            last.push(item);
        }
        self.len += 1;
        self.len - 1
    }

    /// The item at an index.
    #[inline]
    pub fn get(&self, index: usize) -> Option<&T> {
        self.chunks.get(index / CHUNK)?.get(index % CHUNK)
    }

    /// The item at an index.
    #[inline]
    pub fn get_mut(&mut self, index: usize) -> Option<&mut T> {
        self.chunks.get_mut(index / CHUNK)?.get_mut(index % CHUNK)
    }

    /// Adds default items until there is one at an index.
    pub fn reach(&mut self, index: usize) {
        while self.len <= index {
            self.push(T::default());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_keep_their_index_over_chunks() {
        let mut chunks = Chunks::default();
        chunks.reach(CHUNK + 1);
        assert_eq!(chunks.push(7), CHUNK + 2);
        *chunks.get_mut(CHUNK).unwrap() = 5;
        assert_eq!((chunks.get(CHUNK), chunks.get(CHUNK + 2)), (Some(&5), Some(&7)));
        assert_eq!((chunks.get(0), chunks.get(CHUNK + 3)), (Some(&0), None));
    }
}
