//! Records of some words each, in chunks that never move, in memory of this process alone or in memory that outlives it.
//!
//! What lies in shared memory can be read by another process at any time, and is what remains of this process when it
//! is killed. So words are atomics, and the code that changes a record chooses the order of its words.

use std::io;
use std::sync::atomic::AtomicU64;

use crate::sys::{Mapping, SharedMemory};

/// Records of a chunk.
const CHUNK: usize = 1 << 14;

/// A vector of records of so many words.
#[derive(Debug, Default)]
pub(super) struct Records<const WORDS: usize> {
    chunks: Vec<Chunk>,
    len: usize,
    /// Where they lie; `None` for memory of this process alone.
    memory: Option<SharedMemory>,
}

#[derive(Debug)]
enum Chunk {
    Own(Box<[AtomicU64]>),
    Shared(Mapping),
}

impl Chunk {
    fn words(&self) -> &[AtomicU64] {
        match self {
            Chunk::Own(words) => words,
            Chunk::Shared(mapping) => mapping.words(),
        }
    }
}

impl<const WORDS: usize> Records<WORDS> {
    const CHUNK_WORDS: usize = CHUNK * WORDS;
    const CHUNK_BYTES: usize = Self::CHUNK_WORDS * size_of::<u64>();

    /// Records in shared memory: all that are there, of which the last ones of a chunk may never have been used.
    pub fn in_memory(memory: SharedMemory) -> io::Result<Records<WORDS>> {
        let mut records = Records { memory: Some(memory), ..Records::default() };
        records.catch_up()?;
        Ok(records)
    }

    /// Maps what another process has added.
    pub fn catch_up(&mut self) -> io::Result<()> {
        let Some(memory) = &mut self.memory else { return Ok(()) };
        memory.look()?;
        while (self.chunks.len() + 1) * Self::CHUNK_BYTES <= memory.bytes() {
            let mapping = memory.map(self.chunks.len() * Self::CHUNK_BYTES, Self::CHUNK_BYTES)?;
            self.chunks.push(Chunk::Shared(mapping));
        }
        self.len = self.chunks.len() * CHUNK;
        Ok(())
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Forgets those from an index on, which were never used.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Adds one, all of whose words are 0, and returns its index. `None` where the kernel gives no memory for it.
    pub fn push(&mut self) -> Option<usize> {
        if self.len == self.chunks.len() * CHUNK {
            let chunk = self.new_chunk()?;
            self.chunks.push(chunk);
        }
        self.len += 1;
        Some(self.len - 1)
    }

    fn new_chunk(&mut self) -> Option<Chunk> {
        let Some(memory) = &mut self.memory else {
            return Some(Chunk::Own((0..Self::CHUNK_WORDS).map(|_| AtomicU64::new(0)).collect()));
        };
        let at = self.chunks.len() * Self::CHUNK_BYTES;
        memory.grow(at + Self::CHUNK_BYTES).and_then(|()| memory.map(at, Self::CHUNK_BYTES)).ok().map(Chunk::Shared)
    }

    /// The words of one.
    #[inline]
    pub fn get(&self, index: usize) -> Option<&[AtomicU64; WORDS]> {
        if index >= self.len {
            return None;
        }
        let at = index % CHUNK * WORDS;
        self.chunks.get(index / CHUNK)?.words().get(at..at + WORDS)?.first_chunk()
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::sync::atomic::Ordering;

    use super::*;

    /// Records keep their index over chunks, and what one process writes another one reads, also what comes later.
    #[test]
    fn records_in_shared_memory_are_the_same_for_both() {
        let memory = SharedMemory::new("records").unwrap();
        let copy = memory.as_fd().try_clone_to_owned().unwrap();
        let mut ours = Records::<3>::in_memory(memory).unwrap();
        assert_eq!((ours.len(), ours.get(0).is_none()), (0, true));
        for index in 0..=CHUNK {
            assert_eq!(ours.push(), Some(index));
            ours.get(index).unwrap()[2].store(index as u64, Ordering::Relaxed);
        }
        let theirs = Records::<3>::in_memory(SharedMemory::adopt(copy).unwrap()).unwrap();
        assert_eq!(theirs.len(), 2 * CHUNK);
        let word = |index: usize| theirs.get(index).map(|words| words[2].load(Ordering::Relaxed));
        assert_eq!(
            (word(5), word(CHUNK), word(CHUNK + 1), word(2 * CHUNK)),
            (Some(5), Some(CHUNK as u64), Some(0), None)
        );
    }

    #[test]
    fn records_of_this_process_alone_begin_empty() {
        let mut records = Records::<4>::default();
        assert_eq!((records.push(), records.push()), (Some(0), Some(1)));
        assert!(records.get(1).unwrap().iter().all(|word| word.load(Ordering::Relaxed) == 0));
        assert!(records.get(2).is_none());
    }
}
