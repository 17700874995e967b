//! Waking a sleeping connection: it gets a slot and a socket again.

use std::mem;
use std::os::fd::OwnedFd;

use super::entries::Whereabouts;
use super::{Around, Hibernation};
use crate::connections::close_reason::CloseReason;
use crate::connections::idle;
use crate::error::{Errno, Result};
use crate::hibernation::Checkpoint;
use crate::ring::RingOps;
use crate::token::ConnId;

/// Bytes kept at most for sleeping connections that wait for a free slot, over all of a shard.
const MOST_UNSENT: usize = 16 << 20;

/// What came of waking a connection, or of looking for one to which something is to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::connections) enum Wake {
    /// It is awake, in this slot.
    Awake(ConnId),
    /// No slot is free, or the kernel has no memory or no descriptor: it still sleeps.
    Later,
    /// It is gone: it ended, or could not be restored.
    Gone,
}

impl<S: Default> Hibernation<S> {
    /// Wakes a sleeping connection, from the state that is kept of it and as changed by `from`. `seen` is the peer's last
    /// timestamp, or 0 where that is not known.
    pub(super) fn wake<R: RingOps>(
        &mut self,
        around: &mut Around<'_, S, R>,
        index: u32,
        from: &Checkpoint,
        seen: u32,
    ) -> Result<Wake> {
        let Some(conn) = around.parts.slots.claim(0) else { return Ok(Wake::Later) };
        self.host.begin_transit();
        // First: should this process be killed meanwhile, the connection is lost, and must not be taken for asleep.
        self.entries.move_to(index, Whereabouts::Awake);
        let restored = self.host.restore(from, seen);
        if restored.is_ok() {
            // Last: until here its segments are caught, as the socket is not complete before.
            self.host.woke(&from.tuple, index);
        }
        self.host.end_transit();
        let socket = match restored {
            Ok(socket) => socket,
            Err(error) => {
                self.entries.move_to(index, Whereabouts::Asleep);
                around.parts.slots.release(conn);
                let errno = Errno::of(&error);
                if errno.is_shortage() {
                    return Ok(Wake::Later);
                }
                self.leave_table(index);
                self.gone(around, index, CloseReason::Failed(errno));
                return Ok(Wake::Gone);
            }
        };
        self.keepalive.forget(index);
        self.settle_in(index, conn);
        self.install(around, index, conn, socket)?;
        around.parts.counters.asleep.sub(1);
        self.moved.push_back((self.entries.name_of(index), true));
        Ok(Wake::Awake(conn))
    }

    /// Puts the socket of a woken connection into its slot.
    fn install<R: RingOps>(
        &mut self,
        around: &mut Around<'_, S, R>,
        index: u32,
        conn: ConnId,
        socket: OwnedFd,
    ) -> Result<()> {
        let heard = idle::link_of(self.entries.heard(index));
        if let Some(row) = around.parts.slots.row(conn) {
            row.lifecycle.establish();
            row.link = heard;
            if let Some(state) = self.states.get_mut(index as usize) {
                row.state = mem::take(state);
            }
        }
        self.keep(conn, &socket);
        around.readiness.install_woken(around.parts.slots, conn, socket)
    }

    /// Wakes a connection because something is to be sent to it. `None` if it does not sleep.
    pub fn wake_to_send<R: RingOps>(&mut self, around: &mut Around<'_, S, R>, name: ConnId) -> Result<Option<Wake>> {
        let Some(index) = self.asleep(name) else { return Ok(None) };
        let Some(checkpoint) = self.entries.checkpoint(index) else { return Ok(None) };
        let wake = self.wake(around, index, &checkpoint, 0)?;
        if let Wake::Awake(_) = wake {
            around.parts.counters.woken_by_send.add(1);
        }
        Ok(Some(wake))
    }

    /// Keeps bytes for a connection that still sleeps as no slot is free, or for which bytes are kept already. `false`
    /// if more than `most` would be kept: the connection is then to be closed.
    pub fn keep_unsent(&mut self, name: ConnId, bytes: &[u8], most: usize) -> bool {
        let fits = self.unsent(name) + bytes.len() <= most && self.unsent_total + bytes.len() <= MOST_UNSENT;
        if fits && !bytes.is_empty() {
            let kept = self.unsent_bytes.entry(name).or_default();
            if kept.is_empty() {
                self.unsent.push_back(name);
            }
            kept.extend_from_slice(bytes);
            self.unsent_total += bytes.len();
        }
        fits
    }

    /// Whether bytes are kept for a connection of this process.
    pub fn has_unsent(&self, name: ConnId) -> bool {
        let is_given = |name| self.entries.find(name).is_some_and(|index| self.is_given(index));
        !self.unsent_bytes.is_empty() && self.unsent_bytes.contains_key(&name) && !is_given(name)
    }

    /// Bytes that are kept for a connection.
    pub fn unsent(&self, name: ConnId) -> usize {
        self.unsent_bytes.get(&name).map_or(0, Vec::len)
    }

    /// The connection for which bytes are kept the longest.
    pub fn first_unsent(&mut self) -> Option<ConnId> {
        // The bytes of some have gone, as they woke by themselves.
        while self.unsent.front().is_some_and(|name| !self.unsent_bytes.contains_key(name)) {
            self.unsent.pop_front();
        }
        self.unsent.front().copied()
    }

    /// Takes the bytes that are kept for a connection.
    pub fn take_unsent_of(&mut self, name: ConnId) -> Option<Vec<u8>> {
        let bytes = self.unsent_bytes.remove(&name)?;
        self.unsent_total -= bytes.len();
        Some(bytes)
    }
}
