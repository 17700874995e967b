//! A bounded table for what is incomplete: a connection has an entry only while part of a message or a head has come.
//! Entries and the bytes that they hold are counted, and have a limit each.

/// Most entries. Each takes some 130 bytes beside what has come; a connection is incomplete for as long as its peer is
/// slow, so many at once are an attack or a very bad network.
const MOST_ENTRIES: usize = 65_536;

/// What holds memory beside itself.
pub(super) trait Holds: Default {
    /// Bytes that it holds.
    fn bytes(&self) -> usize;
}

/// There is no room for what is incomplete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NoRoom;

/// A table of `T`, each under a key. An entry is taken out to be worked with, and put back.
#[derive(Debug)]
pub(super) struct Slab<T> {
    entries: Vec<(T, usize)>,
    free: Vec<u32>,
    /// Bytes that all entries hold, and the most that they may.
    bytes: usize,
    most: usize,
}

impl<T: Holds> Slab<T> {
    /// A table whose entries hold `most` bytes together.
    pub fn new(most: usize) -> Slab<T> {
        Slab { entries: Vec::new(), free: Vec::new(), bytes: 0, most }
    }

    /// Takes the entry of a key, which stays its own. Without a key it is a new entry.
    pub fn take(&mut self, key: Option<u32>) -> T {
        let Some((entry, bytes)) = key.and_then(|key| self.entries.get_mut(key as usize)) else {
            return T::default();
        };
        self.bytes -= std::mem::take(bytes);
        std::mem::take(entry)
    }

    /// Puts an entry back under its key, or under a new one, which is returned. Without room for it, it is dropped and its
    /// key is free.
    pub fn put(&mut self, key: Option<u32>, entry: T) -> Result<u32, NoRoom> {
        let bytes = entry.bytes();
        if self.bytes + bytes > self.most {
            self.free(key);
            return Err(NoRoom);
        }
        let key = match key.or_else(|| self.free.pop()) {
            Some(key) => key,
            None if self.entries.len() < MOST_ENTRIES => {
                self.entries.push((T::default(), 0));
                self.entries.len() as u32 - 1
            }
            None => return Err(NoRoom),
        };
        let Some(slot) = self.entries.get_mut(key as usize) else { return Err(NoRoom) };
        *slot = (entry, bytes);
        self.bytes += bytes;
        Ok(key)
    }

    /// Frees a key, whose entry is dropped.
    pub fn free(&mut self, key: Option<u32>) {
        if let Some(key) = key {
            drop(self.take(Some(key)));
            self.free.push(key);
        }
    }

    /// The entry of a key.
    pub fn get_mut(&mut self, key: u32) -> Option<&mut T> {
        self.entries.get_mut(key as usize).map(|(entry, _)| entry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Holds for Vec<u8> {
        fn bytes(&self) -> usize {
            self.len()
        }
    }

    #[test]
    fn entries_and_their_bytes_are_bounded_and_a_key_is_used_again() {
        let mut slab = Slab::<Vec<u8>>::new(10);
        let first = slab.put(None, vec![1; 4]).unwrap();
        let second = slab.put(None, vec![2; 6]).unwrap();
        assert_ne!(first, second);
        assert_eq!(slab.put(None, vec![3]), Err(NoRoom));
        let mut entry = slab.take(Some(first));
        assert_eq!(entry, [1; 4]);
        entry.push(1);
        // It has grown beyond the room: it is dropped, and its key is free.
        assert_eq!(slab.put(Some(first), entry), Err(NoRoom));
        assert_eq!(slab.put(None, vec![4; 4]), Ok(first));
        slab.free(Some(second));
        assert_eq!((slab.bytes, slab.put(None, vec![5; 6])), (4, Ok(second)));
        assert!(slab.take(None).is_empty());
    }
}
