//! Accepting: the listening sockets, the accepts in flight on each, and who waits for a place. An accept
//! owns a free slot before it begins, so a full ring never loses a connection.

use std::net::TcpListener;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{AdmissionState, Connections, SharedLimit};
use crate::clock::Mark;
use crate::constants::{ACCEPT_PAUSE_MS, ADMISSION_WAIT, ADMISSION_WAIT_WHILE_READING};
use crate::error::{Errno, Error, Result};
use crate::listener;
use crate::token::ConnId;

/// A listening socket and the accepts in flight on it.
#[derive(Debug)]
pub(super) struct Listener {
    socket: Arc<TcpListener>,
    in_flight: usize,
    wanted: usize,
}

/// Whether one more connection may stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Admission {
    /// It may, and its place is taken.
    Granted,
    /// As many stand as may.
    AtCapacity,
    /// The host is short of memory.
    LowMemory,
}

impl<S: Default> Connections<S> {
    /// Takes a place for one more connection, if there is one.
    pub(crate) fn admission(&self) -> Admission {
        if self.gate.level() != AdmissionState::Open {
            return Admission::LowMemory;
        }
        let full = self.counters.live.get() >= self.capacity;
        let taken = !full && self.shared_limit.as_ref().is_none_or(SharedLimit::enter);
        if taken { Admission::Granted } else { Admission::AtCapacity }
    }

    /// A connection was accepted: whether it may stand. `None` while it waits at the door, since a place may
    /// become free: `next_admission` tells.
    pub(crate) fn try_admit(&mut self, conn: ConnId) -> Option<Admission> {
        let admission = if self.admission_queue.is_empty() { self.admission() } else { Admission::AtCapacity };
        if admission == Admission::AtCapacity {
            self.admission_queue.push_back((conn, self.clock.now().after(ADMISSION_WAIT)));
            return None;
        }
        Some(admission)
    }

    /// The first at the door, if there is room for it by now, or it has waited long enough and all that came is
    /// heard, or too many have come after it and nothing is known that will make room.
    pub(crate) fn next_admission(&mut self) -> Option<(ConnId, Admission)> {
        let &(conn, until) = self.admission_queue.front()?;
        let admission = self.admission();
        if admission == Admission::AtCapacity && self.keeps_waiting(until) {
            return None;
        }
        self.admission_queue.pop_front();
        Some((conn, admission))
    }

    /// Whether the connection that waits first goes on waiting: `until` its time is over, and while the shard has unread
    /// work, which may tell of a free place, for `ADMISSION_WAIT_WHILE_READING` more at most.
    fn keeps_waiting(&mut self, until: Mark) -> bool {
        let now = self.clock.now();
        let in_time = now < until || now < until.after(ADMISSION_WAIT_WHILE_READING) && self.has_work();
        in_time && (self.admission_queue.len() <= self.admission_queue_places || self.has_ends())
    }

    /// Accepts on these sockets from now on, `each` accepts in flight on every one.
    pub fn listen(&mut self, sockets: Vec<Arc<TcpListener>>, each: usize) -> Result<()> {
        self.listeners = sockets.into_iter().map(|socket| Listener { socket, in_flight: 0, wanted: each }).collect();
        self.refill_listeners(Instant::now())
    }

    /// Accepts nothing more: the sockets listen no more, which fails the accepts in flight; they close with `self`.
    /// Cancelling those instead would miss one that the kernel was just trying again and that would wait anew.
    pub fn stop_listening(&mut self) -> Result<()> {
        for Listener { socket, wanted, .. } in &mut self.listeners {
            *wanted = 0;
            listener::stop_listening(socket)
                .map_err(|error| Error::bug(format!("stop listening: {}", Errno::of(&error))))?;
        }
        Ok(())
    }

    /// An accept of `listener` ended, one way or the other.
    pub(crate) fn accept_ended(&mut self, conn: ConnId) {
        let listener = self.row(conn).map(|row| row.link as usize);
        if let Some(listener) = listener.and_then(|index| self.listeners.get_mut(index)) {
            listener.in_flight -= 1;
            self.needs_refill |= listener.in_flight < listener.wanted;
        }
    }

    /// The kernel has no memory or files for accepts: wait a little.
    pub(crate) fn pause_accepts(&mut self, now: Instant) {
        // Listeners that were shut down fail what was in flight, as they should.
        let listening = self.gate.level() != AdmissionState::NotListening
            && self.listeners.iter().any(|listener| listener.wanted > 0);
        self.counters.accept_errors.add(u64::from(listening));
        self.paused = Some(now + Duration::from_millis(ACCEPT_PAUSE_MS));
    }

    /// When the first at the door has waited long enough.
    pub(super) fn admission_due(&self) -> Option<Instant> {
        self.admission_queue.front().map(|&(_, until)| self.clock.due(until))
    }

    /// Queues accepts wherever one is wanted and a slot is free.
    pub(crate) fn replenish(&mut self, now: Instant) -> Result<()> {
        if self.paused.is_some_and(|until| now < until) {
            return Ok(());
        }
        self.paused = None;
        if self.needs_refill && self.gate.level() == AdmissionState::NotListening {
            self.paused = Some(now + Duration::from_millis(ACCEPT_PAUSE_MS));
            return Ok(());
        }
        if self.needs_refill { self.refill_listeners(now) } else { Ok(()) }
    }

    /// Each listener gets the accepts it wants; one with none comes before one with some.
    fn refill_listeners(&mut self, now: Instant) -> Result<()> {
        self.needs_refill = false;
        let most = self.listeners.iter().map(|listener| listener.wanted).max().unwrap_or(0);
        for level in 1..=most {
            for index in 0..self.listeners.len() {
                while self.listeners[index].in_flight < level.min(self.listeners[index].wanted) {
                    if let Some(due) = self.accept_budget.as_mut().and_then(|budget| budget.spend(now).err()) {
                        (self.needs_refill, self.paused) = (true, Some(due));
                        return Ok(());
                    }
                    let Some(conn) = self.claim(index as u32) else {
                        self.needs_refill = true;
                        return Ok(());
                    };
                    let listener = &mut self.listeners[index];
                    listener.in_flight += 1;
                    let socket = listener.socket.as_raw_fd();
                    self.accept(socket, conn)?;
                }
            }
        }
        Ok(())
    }
}
