//! Plain descriptors of connections that have a slot: made when they are needed, or, before Linux 6.8, kept from the
//! beginning.

use std::os::fd::{AsFd, OwnedFd};

use super::{Around, Hibernation};
use crate::error::Result;
use crate::ring::RingOps;
use crate::token::{ConnId, Operation};

impl<S: Default> Hibernation<S> {
    /// A file descriptor of a slot's socket.
    pub(super) fn descriptor<R: RingOps>(
        &mut self,
        around: &mut Around<'_, S, R>,
        conn: ConnId,
    ) -> Result<std::io::Result<OwnedFd>> {
        match self.kept(conn) {
            Some(kept) => Ok(kept),
            None => around.parts.slots.ring(conn).copy_descriptor(conn.token(Operation::CopyDescriptor)),
        }
    }

    /// The socket of a slot's occupant, before it goes into the slot: keeps a descriptor of it where that is needed.
    /// Without one, because no more is left, the connection cannot sleep.
    pub fn keep(&mut self, conn: ConnId, socket: &impl AsFd) {
        if let Some(kept) = &mut self.kept
            && let Ok(socket) = socket.as_fd().try_clone_to_owned()
        {
            kept.insert((conn.ring(), conn.slot()), socket);
        }
    }

    /// A copy of the descriptor that is kept of a slot's socket; `None` where none is kept of any.
    pub fn kept(&self, conn: ConnId) -> Option<std::io::Result<OwnedFd>> {
        let kept = self.kept.as_ref()?.get(&(conn.ring(), conn.slot()));
        Some(kept.map_or(Err(std::io::ErrorKind::NotFound.into()), OwnedFd::try_clone))
    }

    /// Closes the descriptor that is kept of a slot's socket, if there is one.
    pub fn drop_descriptor(&mut self, ring: usize, slot: u32) {
        if let Some(kept) = &mut self.kept {
            kept.remove(&(ring, slot));
        }
    }
}
