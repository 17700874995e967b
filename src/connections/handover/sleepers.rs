//! What a driver does with sleeping connections that go to another process, or come from one (`hibernation/handover.rs`).

use super::Connections;
use crate::connections::engine::Engine;
use crate::connections::hibernation::Surrendered;
use crate::connections::platform::Platform;
use crate::error::Result;
use crate::token::ConnId;
use crate::wiped::Wiped;

/// Which process had the sleeping connections that come to this one.
#[derive(Debug)]
pub enum SleepersFrom {
    /// One that runs, which has given them away at this window of time.
    Predecessor(Surrendered, u16),
    /// One that was killed, which has told nothing.
    Nobody,
    /// One that was killed, to which this one had given them: what it was told then.
    Successor(Surrendered),
}

impl<S: Default, P: Platform> Connections<S, P> {
    /// Whether the driver has been told of all that happened to sleeping connections, so that they may be given away.
    pub fn may_surrender(&self) -> bool {
        self.engine.hibernation.as_ref().is_none_or(|hibernation| hibernation.may_surrender())
    }

    /// Begins to give the sleeping connections to another process, if `may_surrender`. From now on none falls asleep, and
    /// none is woken by its peer.
    pub fn begin_to_give(&mut self) {
        if let Some(hibernation) = &mut self.engine.hibernation {
            hibernation.begin_to_give();
        }
    }

    /// Gives away the next sleeping connection and returns its name. Its state can be read until `give`. Looks at
    /// `rows` entries at most, and subtracts those that it looked at from `rows`. While connections are being given
    /// away, `None` with `rows` above 0 means that all are given away.
    pub fn next_to_give(&mut self, rows: &mut usize) -> Option<ConnId> {
        self.engine.hibernation.as_mut()?.next_to_give(rows)
    }

    /// Finishes giving away the connection that `next_to_give` named. Returns its sequence numbers (`Entries::said`)
    /// and its TLS session, which is taken out.
    pub fn give(&mut self, name: ConnId) -> (u64, Option<Wiped>) {
        let said = self.engine.hibernation.as_mut().map_or(0, |hibernation| hibernation.give(name));
        (said, self.engine.carry_tls(name))
    }

    /// Takes back the connections that were given away, as long as not all were: until then no other process has had
    /// them. Returns their names.
    pub fn stop_giving(&mut self) -> Vec<ConnId> {
        let names = self.engine.hibernation.as_mut().map(|hibernation| hibernation.stop_giving()).unwrap_or_default();
        self.engine.await_handshakes_of_sleepers();
        names
    }

    /// Forgets the TLS session that has come for a connection which is not here.
    pub fn forget_tls(&mut self, name: ConnId) {
        drop(self.engine.carry_tls(name));
    }

    /// Whether connections speak TLS.
    pub fn speak_tls(&self) -> bool {
        #[cfg(feature = "tls")]
        return self.engine.tls.is_some();
        #[cfg(not(feature = "tls"))]
        false
    }

    /// The TLS session of a sleeping connection comes from another process, or comes back. `false` if it cannot be kept.
    pub fn bring_tls(&mut self, name: ConnId, carried: &Wiped) -> bool {
        self.engine.bring_tls(name, Some(carried))
    }

    /// Gives all sleeping connections to another process, if `may_surrender`.
    pub fn surrender_sleepers(&mut self) -> Surrendered {
        match self.engine.sleepers() {
            Some((hibernation, mut around)) => hibernation.surrender(&mut around),
            None => Surrendered::default(),
        }
    }

    /// Whether nothing of an earlier sleep is unfinished, so that connections that are awake may leave.
    pub fn sleepers_are_settled(&self) -> bool {
        self.engine.hibernation.as_ref().is_none_or(|hibernation| hibernation.is_settled())
    }

    /// The process is gone that handed over, before it had handed over all: those of its connections that were awake are
    /// lost.
    pub fn lose_those_away(&mut self) {
        if let Some((hibernation, around)) = self.engine.sleepers() {
            hibernation.lose_those_away(&around);
        }
    }

    /// Whether the sleeping connections are another process's, and the names for new ones with them.
    pub fn gave_sleepers(&self) -> bool {
        self.engine.hibernation.as_ref().is_some_and(|hibernation| hibernation.gave_all())
    }

    /// The sleeping connections are another process's until `take_over_sleepers`: their segments are not for this one,
    /// although it could read them.
    pub fn await_sleepers(&mut self) {
        if let Some(hibernation) = &mut self.engine.hibernation {
            hibernation.await_take_over();
        }
    }

    /// Takes sleeping connections over. `keeps` gets the name and the sequence numbers of each, and returns whether all
    /// that it needs is in this process. The others are reset, and counted as lost.
    pub fn take_over_sleepers(&mut self, from: SleepersFrom, keeps: &dyn Fn(ConnId, u64) -> bool) -> Result<()> {
        let Engine { hibernation, idle, .. } = &mut self.engine;
        let noted = hibernation.as_ref().map(|hibernation| hibernation.noted_window());
        let (surrendered, is_handed_over) = match from {
            SleepersFrom::Predecessor(surrendered, window) => {
                idle.go_on_from(window);
                (surrendered, true)
            }
            SleepersFrom::Nobody => {
                noted.into_iter().for_each(|window| idle.go_on_from(window));
                (Surrendered::default(), false)
            }
            SleepersFrom::Successor(surrendered) => {
                noted.into_iter().for_each(|window| idle.catch_up_with(window));
                (surrendered, false)
            }
        };
        let Some((hibernation, mut around)) = self.engine.sleepers() else { return Ok(()) };
        hibernation.take_over(&mut around, surrendered, is_handed_over, keeps)?;
        if is_handed_over {
            self.engine.await_handshakes_of_sleepers();
        }
        Ok(())
    }

    /// The present window of time.
    pub fn window(&self) -> u16 {
        self.engine.idle.window()
    }

    /// Entries of connections that ended here since the sleeping ones were given away.
    pub fn take_ended_away(&mut self) -> Vec<u32> {
        self.engine.hibernation.as_mut().map(|hibernation| hibernation.take_ended_away()).unwrap_or_default()
    }

    /// Connections of these entries have ended in the process that hands over.
    pub fn ended_away(&mut self, entries: &[u32]) {
        if let Some(hibernation) = &mut self.engine.hibernation {
            hibernation.ended_away(entries);
        }
    }
}
