//! How an idle connection waits for bytes: in a poll of its own, or behind a filter that watches all connections of the
//! shard.

mod filter;
mod poll;

use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Instant;

use super::config::{FilterConfig, Timing};
use super::slots::Slots;
use crate::clock::{Clock, Mark};
use crate::connections::lifecycle::Action;
use crate::error::{Error, Result};
use crate::ring::RingOps;
use crate::sys::Notification;
use crate::token::{ConnId, Operation};
pub(super) use filter::{FilterReadiness, NOTIFICATIONS_PER_PASS, RESETS_PER_PASS};
pub(super) use poll::poll;

/// How the idle connections of a shard wait.
pub(super) enum Readiness {
    /// Each in a poll.
    Poll,
    /// Behind a filter, with nothing in the kernel but their sockets.
    Filter(Box<FilterReadiness>),
}

impl Readiness {
    /// The way that the configuration asks for, for rings of these slots.
    pub fn new(filter: Option<FilterConfig>, rings: &[u32], timing: &Timing, now: Mark) -> Readiness {
        match filter {
            None => Readiness::Poll,
            Some(filter) => Readiness::Filter(Box::new(FilterReadiness::new(filter, rings, timing, now))),
        }
    }

    /// Parks a connection that has nothing to receive. Returns what is to be done for it first.
    pub fn park<S: Default, R: RingOps>(&mut self, slots: &mut Slots<S, R>, conn: ConnId) -> Result<Action> {
        match self {
            Readiness::Poll => poll::park(slots, conn).map(|()| Action::Rest),
            Readiness::Filter(filter) => Ok(filter.watch(slots, conn)),
        }
    }

    /// Parks a connection anew after its poll was removed for that. Returns what is to be done for it first.
    pub fn park_anew<S: Default, R: RingOps>(&mut self, slots: &mut Slots<S, R>, conn: ConnId) -> Result<Action> {
        match self {
            Readiness::Poll => poll(slots, conn, false).map(|()| Action::Rest),
            Readiness::Filter(filter) => Ok(filter.watch(slots, conn)),
        }
    }

    /// Makes the filter, if there is one, watch the socket of a dial. A descriptor that is no socket is ignored here:
    /// the ring refuses it.
    pub fn attach_dialed(&self, conn: ConnId, socket: &impl AsRawFd) -> Result<()> {
        match self {
            Readiness::Poll => Ok(()),
            Readiness::Filter(filter) => filter.attach_dialed(conn, socket),
        }
    }

    /// Takes an accepted connection out of its plain descriptor into its slot, where a filter knows it by its place.
    /// `false` if the kernel refuses that.
    pub fn install_accepted<S: Default, R: RingOps>(
        &self,
        slots: &mut Slots<S, R>,
        conn: ConnId,
        socket: OwnedFd,
    ) -> Result<bool> {
        match self {
            Readiness::Poll => {
                slots.ring(conn).install_accepted(socket, conn.token(Operation::InstallAccepted)).map(|()| true)
            }
            Readiness::Filter(filter) => filter.install_accepted(slots, conn, socket),
        }
    }

    /// Puts the plain socket of a connection that slept into its slot.
    pub fn install_woken<S: Default, R: RingOps>(
        &self,
        slots: &mut Slots<S, R>,
        conn: ConnId,
        socket: OwnedFd,
    ) -> Result<()> {
        match self.install_accepted(slots, conn, socket)? {
            true => Ok(()),
            false => Err(Error::bug("a socket that slept cannot have an owner")),
        }
    }

    /// Puts the socket of another process's connection into a slot. It has that process's program.
    pub fn install_handed<S: Default, R: RingOps>(
        &self,
        slots: &mut Slots<S, R>,
        conn: ConnId,
        socket: OwnedFd,
    ) -> Result<()> {
        match self {
            // No shard reads what its program announces. Where connections sleep, it is given another one before it
            // does.
            Readiness::Poll => {}
            Readiness::Filter(filter) => filter.attach(&socket)?,
        }
        self.install_woken(slots, conn, socket)
    }

    /// Gives a socket that an inherited listener has accepted the program of this process: it may have an earlier one's.
    pub fn adopt(&self, socket: &OwnedFd) -> Result<()> {
        match self {
            Readiness::Poll => Ok(()),
            Readiness::Filter(filter) => filter.attach(socket),
        }
    }

    /// Whether the filter has notifications that must not wait.
    pub fn has_notifications(&self) -> bool {
        matches!(self, Readiness::Filter(filter) if filter.has_notifications())
    }

    /// Whether the filter has notifications of FINs that wait.
    pub fn has_fins(&mut self) -> bool {
        match self {
            Readiness::Poll => false,
            Readiness::Filter(filter) => filter.has_fins(),
        }
    }

    /// Whether the filter has notifications of resets or FINs.
    pub fn has_ends(&self) -> bool {
        matches!(self, Readiness::Filter(filter) if filter.has_ends())
    }

    /// Takes the filter's next notification of a kind. `None` if there is none; otherwise the connection with what is
    /// to be done for it, unless the notification was for an earlier connection.
    pub fn next_notification<S: Default, R: RingOps>(
        &mut self,
        slots: &mut Slots<S, R>,
        kind: Notification,
    ) -> Option<Option<(ConnId, Action)>> {
        match self {
            Readiness::Poll => None,
            Readiness::Filter(filter) => filter.next_notification(slots, kind),
        }
    }

    /// The poll on the filter's wake-up descriptor has fired. If it is `armed`, it is a lasting one and still waits.
    pub fn filter_woke(&mut self, armed: bool) {
        if let Readiness::Filter(filter) = self {
            filter.filter_woke(armed);
        }
    }

    /// When a connection behind the filter is to be checked although nothing was announced.
    pub fn due(&self, clock: &Clock) -> Option<Instant> {
        match self {
            Readiness::Poll => None,
            Readiness::Filter(filter) => Some(clock.due(filter.due(clock.now()))),
        }
    }

    /// Lets announcements of the filter wake the shard, or not.
    pub fn wake_on_notification(&mut self, wake: bool) {
        match self {
            Readiness::Poll => {}
            Readiness::Filter(filter) => filter.wake_on_notification(wake),
        }
    }

    /// Has a ring poll the filter's wake-up descriptor, unless it does.
    pub fn poll_filter(&mut self, ring: &mut impl RingOps) -> Result<()> {
        match self {
            Readiness::Poll => Ok(()),
            Readiness::Filter(filter) => filter.poll_in(ring),
        }
    }
}
