//! Memory that the kernel reads while it takes submissions.

use std::os::fd::RawFd;

use crate::sys::RawAddress;

/// Memory that the kernel reads when it takes a submission: one place per submission entry, as long as there is such a
/// submission.
pub(super) struct Arguments {
    places: Vec<(RawAddress, RawFd)>,
    /// Submission entries.
    most: usize,
}

impl Arguments {
    pub fn new(submissions: u32) -> Arguments {
        Arguments { places: Vec::new(), most: submissions as usize }
    }

    pub fn is_full(&self) -> bool {
        self.places.len() == self.most
    }

    /// Stores one address and descriptor where they stay until the kernel has taken every submission. So the entries that
    /// have them must be queued before the kernel is entered.
    pub fn place(&mut self, address: RawAddress, fd: RawFd) -> (*const libc::sockaddr, libc::socklen_t, *const RawFd) {
        // The vector must not move the places that the kernel is to read.
        assert!(!self.is_full(), "more addresses than submissions");
        if self.places.is_empty() {
            self.places.reserve_exact(self.most);
        }
        self.places.push((address, fd));
        let (address, fd) = &self.places[self.places.len() - 1];
        (address.as_ptr(), address.length(), fd)
    }

    /// Places that are taken.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// The kernel has read all places. They are freed: each of many rings needs them at another time.
    pub fn clear(&mut self) {
        self.places = Vec::new();
    }
}
