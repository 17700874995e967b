//! How a connection falls asleep: it is drowsy first, while segments may still be on their way to its socket. Once a grace
//! period has passed its state is taken, and the socket is given up.

use std::mem;
use std::os::fd::OwnedFd;

use super::entries::Whereabouts;
use super::stamps::ROWS_PER_PASS;
use super::{Around, Hibernation};
use crate::connections::acceptor::Acceptor;
use crate::connections::endings::tear_down_disconnected;
use crate::connections::idle;
use crate::connections::slots::Slots;
use crate::error::{Errno, Error, Result};
use crate::ring::RingOps;
use crate::token::ConnId;

/// Connections whose state is taken in one pass at most, some 10 us each. They are as many as segments can wake in one pass
/// (`ARRIVALS_PER_PASS`): otherwise, while slots are short, more would wake than fall asleep. While slots are plenty and
/// connections have messages, time ends it earlier (`HIBERNATION_TIME`).
const CHECKPOINTS_PER_PASS: usize = 32;

/// Connections that one pass makes drowsy at most. While slots are short, a message may have to wait for all of them.
const DROWSY_PER_PASS: usize = 2 * CHECKPOINTS_PER_PASS;

/// The share of a shard's slots, as a fraction, that is taken when slots are short. The rest lets new connections open
/// and sleepers wake until the next silent ones sleep.
const SHORT_OF_SLOTS: (u64, u64) = (7, 8);

/// A connection that is being put to sleep.
pub(super) struct Drowsy {
    /// Its name, its entry and its slot.
    pub name: ConnId,
    pub index: u32,
    pub conn: ConnId,
    /// Its socket once more; `None` once the connection ended.
    pub socket: Option<OwnedFd>,
    /// The grace period that it waits for; `None` until one was asked for.
    pub grace: Option<u64>,
}

impl<S: Default> Hibernation<S> {
    /// Looks at some rows for connections that have been silent for long, and makes them drowsy.
    pub(super) fn look_for_silent<R: RingOps>(
        &mut self,
        around: &mut Around<'_, S, R>,
        is_short: bool,
        stops: impl Fn() -> bool,
    ) -> Result<()> {
        let now = around.clock.now();
        let counters = around.parts.counters;
        if counters.live.get() <= counters.asleep.get() {
            self.stamps.rest();
            return Ok(());
        }
        if !self.stamps.look(now, is_short) {
            return Ok(());
        }
        let before = self.drowsy.len();
        for _ in 0..ROWS_PER_PASS {
            if !self.may_make_drowsy() {
                break;
            }
            let Some(cursor) = &mut self.stamps.cursor else { break };
            let Some((conn, row)) = around.parts.slots.next(cursor) else {
                self.stamps.cursor = None;
                break;
            };
            if !row.lifecycle.may_sleep() || !self.stamps.is_ripe(conn) {
                continue;
            }
            if !self.make_drowsy(around, conn)? {
                self.stamps.pause(conn, now);
                break;
            }
            if stops() || self.drowsy.len() >= before + DROWSY_PER_PASS {
                break;
            }
        }
        if self.drowsy.len() > before {
            let grace = self.host.request_grace();
            self.drowsy.range_mut(before..).for_each(|drowsy| drowsy.grace = Some(grace));
        }
        Ok(())
    }

    /// Whether few slots are left beside those that accepts want, and connections may need more than there are.
    pub(super) fn is_short_of_slots<R: RingOps>(&self, slots: &Slots<S, R>, acceptor: &Acceptor) -> bool {
        let count = slots.count() as u64;
        let connections = u64::from(self.entries.most()).saturating_sub(count);
        let places = count.saturating_sub(acceptor.wanted() as u64);
        let taken = slots.in_use().saturating_sub(acceptor.in_flight() as u64);
        connections > places && taken * SHORT_OF_SLOTS.1 >= places * SHORT_OF_SLOTS.0
    }

    /// Makes a connection drowsy, if it can sleep. `false` if the kernel has no descriptor or no memory for that: then none
    /// can become drowsy now.
    fn make_drowsy<R: RingOps>(&mut self, around: &mut Around<'_, S, R>, conn: ConnId) -> Result<bool> {
        let counters = around.parts.counters;
        let Some(index) = self.index_at(conn).filter(|index| self.entries.whereabouts(*index) == Whereabouts::Awake)
        else {
            return Ok(true);
        };
        counters.enters.add(1);
        let socket = match self.descriptor(around, conn)? {
            Ok(socket) => socket,
            Err(error) => {
                counters.stayed_awake.add(1);
                let short = Errno::of(&error).is_shortage();
                if !short {
                    self.stamps.used(conn);
                }
                return Ok(!short);
            }
        };
        self.stamps.used(conn);
        let known = self.entries.is_known(index) || self.identify(index, &socket);
        let Some(tuple) = self.entries.tuple(index).filter(|_| known && self.host.prepare(&socket).is_ok()) else {
            counters.stayed_awake.add(1);
            return Ok(true);
        };
        self.host.begin_transit();
        if !self.host.insert(&tuple, index) {
            self.host.end_transit();
            counters.stayed_awake.add(1);
            return Ok(true);
        }
        self.entries.move_to(index, Whereabouts::Drowsy);
        let name = self.entries.name_of(index);
        self.drowsy.push_back(Drowsy { name, index, conn, socket: Some(socket), grace: None });
        Ok(true)
    }

    /// Asks the kernel for the ends of a connection, and keeps them. `false` if it cannot sleep.
    fn identify(&mut self, index: u32, socket: &OwnedFd) -> bool {
        let Ok(Some((tuple, negotiated))) = self.host.identify(socket) else { return false };
        self.entries.identify(index, &tuple, &negotiated);
        true
    }

    /// Takes the state of some drowsy connections whose grace period has passed.
    pub(super) fn settle<R: RingOps>(&mut self, around: &mut Around<'_, S, R>, stops: impl Fn() -> bool) -> Result<()> {
        for _ in 0..CHECKPOINTS_PER_PASS {
            if !self.grace_is_over() {
                break;
            }
            let Some(drowsy) = self.drowsy.pop_front() else { break };
            self.fall_asleep(around, drowsy)?;
            if stops() {
                break;
            }
        }
        Ok(())
    }

    /// Takes the state of a drowsy connection, and gives its socket up, unless it has something to do.
    fn fall_asleep<R: RingOps>(&mut self, around: &mut Around<'_, S, R>, drowsy: Drowsy) -> Result<()> {
        let Drowsy { name, index, conn, socket, .. } = drowsy;
        let (Some(socket), Some(_)) = (socket, self.entries.find(name)) else {
            // It ended meanwhile, and is in the table no more.
            self.host.end_transit();
            return Ok(());
        };
        let counters = around.parts.counters;
        let rests = around.parts.slots.row(conn).is_some_and(|row| row.lifecycle.may_sleep());
        let drowsy = self.entries.whereabouts(index) == Whereabouts::Drowsy;
        let state = if drowsy && rests { self.host.checkpoint(&socket).ok().flatten() } else { None };
        let (Some(progress), Some(tuple)) = (state, self.entries.tuple(index)) else {
            if drowsy {
                self.leave_table(index);
            }
            self.host.end_transit();
            self.entries.woke(index, conn);
            self.stamps.used(conn);
            counters.stayed_awake.add(1);
            return Ok(());
        };
        if let Some(row) = around.parts.slots.row(conn) {
            // Before the socket goes. It is in repair mode: should this process be killed now, the kernel closes the
            // socket without a segment, and the connection sleeps.
            self.entries.fell_asleep(index, &progress, idle::window_of(row.link));
        }
        let retired = self.host.retire(socket, &tuple);
        self.host.end_transit();
        retired.map_err(|error| Error::bug(format!("socket of a sleeping connection: {}", Errno::of(&error))))?;
        if let Some(row) = around.parts.slots.row(conn) {
            self.states.reach(index as usize);
            if let Some(state) = self.states.get_mut(index as usize) {
                *state = mem::take(&mut row.state);
            }
        }
        self.leave_slot(conn.ring(), conn.slot());
        tear_down_disconnected(&mut around.parts, conn)?;
        counters.asleep.add(1);
        counters.hibernated.add(1);
        self.moved.push_back((name, false));
        Ok(())
    }
}
