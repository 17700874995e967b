//! What is looked for in small steps over all rows: connections behind the filter that may have missed something, and
//! silent ones.

use std::time::Instant;

use super::close_reason::CloseReason;
use super::engine::Engine;
use super::platform::Platform;
use super::readiness::Readiness;
use crate::connections::lifecycle::CloseMode;
use crate::error::Result;

impl<S: Default, P: Platform> Engine<S, P> {
    /// Looks at some connections behind the filter that may have missed something, and has some others receive
    /// speculatively.
    pub(super) fn check_filtered(&mut self) -> Result<()> {
        let now = self.clock.now();
        let Readiness::Filter(filter) = &mut self.readiness else { return Ok(()) };
        let speculates = filter.begin_speculative_step(&self.slots, now);
        if filter.begin_sweep_step(now) {
            while let Readiness::Filter(filter) = &mut self.readiness
                && let Some((conn, next)) = filter.next_look(&mut self.slots, now)
            {
                self.perform(conn, next)?;
            }
        }
        while speculates
            && let Readiness::Filter(filter) = &mut self.readiness
            && let Some((conn, next)) = filter.next_speculative(&mut self.slots)?
        {
            self.perform(conn, next)?;
        }
        Ok(())
    }

    /// Keeps the silence of some connections from becoming ambiguous, if that is due.
    pub(super) fn pin_silent(&mut self) {
        if self.idle.pin_some(&mut self.slots, self.clock.now())
            && let Some(hibernation) = &mut self.hibernation
        {
            hibernation.pin_silent(&self.idle);
        }
    }

    /// Closes some connections that have been silent for long, if they are to be closed.
    pub(super) fn close_silent(&mut self, now: Instant) -> Result<()> {
        if !self.idle.begin_step(&self.slots, now) {
            return Ok(());
        }
        while let Some(conn) = self.idle.next_silent(&self.slots, now) {
            self.counters.silent.add(1);
            #[cfg(feature = "tls")]
            self.notify_close(self.name_of(conn), CloseMode::Immediate)?;
            self.close(conn, CloseMode::Immediate, CloseReason::IdleTimeout)?;
        }
        Ok(())
    }
}
