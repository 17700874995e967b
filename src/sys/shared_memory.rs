//! Memory that outlives its process: a file without a name (memfd_create(2)). A process that has its descriptor can map
//! it.
//!
//! It is sealed against shrinking: a page that another process took away would end this one with SIGBUS.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, fstat, ftruncate, memfd_create};

use super::bpf::Mapping;

/// Memory that can be handed to another process.
#[derive(Debug)]
pub struct SharedMemory {
    file: OwnedFd,
    bytes: usize,
}

impl SharedMemory {
    /// Memory without a byte. The name is for people, in /proc/PID/maps.
    pub fn new(name: &str) -> io::Result<SharedMemory> {
        let file = memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        fcntl_add_seals(&file, SealFlags::SHRINK)?;
        Ok(SharedMemory { file, bytes: 0 })
    }

    /// Memory of another process, or of an earlier one. Fails with `InvalidData` for a file that may shrink.
    pub fn adopt(file: OwnedFd) -> io::Result<SharedMemory> {
        let sealed = fcntl_get_seals(&file).is_ok_and(|seals| seals.contains(SealFlags::SHRINK));
        if !sealed {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "memory that may shrink"));
        }
        let mut memory = SharedMemory { file, bytes: 0 };
        memory.look()?;
        Ok(memory)
    }

    /// Looks whether another process has added bytes.
    pub fn look(&mut self) -> io::Result<()> {
        self.bytes = usize::try_from(fstat(&self.file)?.st_size).map_err(io::Error::other)?;
        Ok(())
    }

    /// Bytes that it has.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Adds bytes, which are zero, until it has `bytes`.
    pub fn grow(&mut self, bytes: usize) -> io::Result<()> {
        if bytes > self.bytes {
            ftruncate(&self.file, bytes as u64)?;
            self.bytes = bytes;
        }
        Ok(())
    }

    /// Maps a part of it, which begins at a page.
    pub fn map(&self, at: usize, bytes: usize) -> io::Result<Mapping> {
        if at.saturating_add(bytes) > self.bytes {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a part beyond the end of shared memory"));
        }
        Mapping::new(&self.file, at, bytes, libc::PROT_READ | libc::PROT_WRITE)
    }
}

impl AsFd for SharedMemory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}
