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

/// What came of waking a connection, or of looking for one to which something is to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::connections) enum Wake {
    /// It is awake, in this slot.
    Awake(ConnId),
    /// No slot is free, or the kernel has no memory or no descriptor: it still sleeps.
    Later,
    /// The kernel has no route to its peer, or its address is away, with this error: it still sleeps.
    NoRoute(Errno),
    /// It is gone: it ended, or could not be restored.
    Gone,
}

impl<S: Default> Hibernation<S> {
    /// Wakes a sleeping connection from the checkpoint `from`: what is kept of it, with what a caught segment may have
    /// changed. `seen` is the peer's last timestamp, or 0 where that is not known.
    pub(super) fn wake<R: RingOps>(
        &mut self,
        around: &mut Around<'_, S, R>,
        index: u32,
        from: &Checkpoint,
        seen: u32,
    ) -> Result<Wake> {
        let Some(conn) = around.parts.slots.claim(0) else { return Ok(Wake::Later) };
        let before = self.entries.whereabouts(index);
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
                self.entries.move_to(index, before);
                around.parts.slots.release(conn);
                let errno = Errno::of(&error);
                if errno.is_shortage() {
                    return Ok(Wake::Later);
                }
                if errno.lacks_route() {
                    return Ok(Wake::NoRoute(errno));
                }
                self.leave_table(index);
                self.gone(around, index, CloseReason::Failed(errno));
                return Ok(Wake::Gone);
            }
        };
        self.keepalive.forget(index);
        self.settle_in(index, conn);
        self.install(around, index, conn, socket)?;
        if self.socketless.tells(index) {
            around.parts.outgoing.tell_when_sent(conn);
        }
        around.parts.counters.asleep.sub(1);
        // For the driver one whose message it has is awake already.
        if !self.socketless.is_current(index) {
            self.moved.push_back((self.entries.name_of(index), true));
        }
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
        if let Wake::Awake(_) = wake
            && !self.socketless.is_current(index)
        {
            around.parts.counters.woken_by_send.add(1);
        }
        Ok(Some(wake))
    }
}
