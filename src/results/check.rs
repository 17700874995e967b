//! What no run can have measured: counts of a result that do not add up, and times that cannot be. A result that was read
//! from a file is checked before anything is made of it.

use super::document::{ClientDocument, ServerDocument};
use super::{AuditResult, HibernationDocument, Timeline, TlsDocument};
use crate::failure::Cause;

/// Why a result cannot be that of a run: in words that name the number.
pub type Checked = Result<(), String>;

/// A count that a whole and each of its parts have: its name, and how it is read.
pub type CountOf<Part> = (&'static str, fn(&Part) -> u64);

/// The longest time that a run can have measured: 31 years.
const LONGEST_SECONDS: f64 = 1e9;

/// The most processor time: 16,384 cores for 31 years.
const MOST_CPU_SECONDS: f64 = LONGEST_SECONDS * 16_384.0;

/// How far a rate may be from its count by its time, as floating-point numbers are rounded.
const ROUNDING: f64 = 1e-9;

/// A count that follows from others is what follows. Without a sum the others add up to more than can be counted.
pub fn same(name: &str, count: u64, others: &str, sum: Option<u64>) -> Checked {
    match sum {
        Some(sum) if sum == count => Ok(()),
        Some(sum) => Err(format!("its numbers do not add up: {name} is {count}, and {others} {sum}")),
        None => Err(format!("its numbers do not add up: {others} more than {}", u64::MAX)),
    }
}

/// A count of some of others is no more than these.
pub fn at_most(name: &str, count: u64, others: &str, most: u64) -> Checked {
    if count <= most {
        return Ok(());
    }
    Err(format!("its numbers do not add up: {name} is {count}, and {others} {most}"))
}

/// A time that was measured.
pub fn seconds(name: &str, seconds: f64) -> Checked {
    within(name, seconds, LONGEST_SECONDS)
}

/// A processor time that was measured.
pub fn cpu_seconds(name: &str, seconds: f64) -> Checked {
    within(name, seconds, MOST_CPU_SECONDS)
}

/// A number that is not negative, and not beyond what can be.
pub fn within(name: &str, number: f64, most: f64) -> Checked {
    if (0.0..=most).contains(&number) {
        return Ok(());
    }
    Err(format!("{name} is {number:?}, and can only be between 0 and {most:e}"))
}

/// The sum of counts from a file, which may have any value.
pub fn sum(counts: impl IntoIterator<Item = u64>) -> Option<u64> {
    counts.into_iter().try_fold(0, u64::checked_add)
}

impl ClientDocument {
    /// Checks that the numbers add up, and that the figures are those of the histograms.
    pub(super) fn check(&self) -> Checked {
        self.check_connections()?;
        self.check_times()?;
        self.latencies.check()?;
        self.storm.as_ref().map_or(Ok(()), |storm| storm.check(self.requested))?;
        self.fanout.as_ref().map_or(Ok(()), |fanout| fanout.check(self.requested))?;
        self.timeline.as_ref().map_or(Ok(()), Timeline::check)?;
        self.tls.as_ref().map_or(Ok(()), TlsDocument::check)?;
        self.hibernation.as_ref().map_or(Ok(()), HibernationDocument::check)?;
        self.check_shards()?;
        self.check_machines()
    }

    fn check_connections(&self) -> Checked {
        let (redialed, closed) = self.storm.as_ref().map_or((0, 0), |storm| (storm.redialed, storm.closed));
        let asked_for = sum([self.requested, redialed])
            .ok_or_else(|| format!("its numbers do not add up: requested is {}", self.requested))?;
        let parts = sum([self.live, self.failed, self.not_tried, closed]);
        let (asked, became) = match &self.storm {
            Some(_) => ("requested + storm.redialed", "live + failed + storm.closed + not_tried are"),
            None => ("requested", "live + failed + not_tried are"),
        };
        same(asked, asked_for, became, parts)?;
        same("failed", self.failed, "the errors are", sum(self.errors.values().copied()))?;
        let ghosts = self.errors.get(&Cause::Ghost).copied().unwrap_or(0);
        same("ghosts", self.ghosts, "the errors have", Some(ghosts))?;
        let latencies = self.latencies.retransmitted.count;
        same("retransmitted", self.retransmitted, "retransmitted_latency_us has", Some(latencies))?;
        at_most("ramped", self.ramped, "requested is", self.requested)?;
        if self.complete {
            at_most("not_tried of a complete run", self.not_tried, "can only be", 0)?;
            at_most("failed of a complete run", self.failed, "can only be", 0)?;
        }
        self.audits.iter().try_for_each(|AuditResult { round, live, lost, wrong, drawn_from }| {
            let drawn_from = drawn_from.as_ref().map(|from| ("drawn_from", from));
            let mut counts = [("live", live), ("lost", lost), ("wrong", wrong)].into_iter().chain(drawn_from);
            counts.try_for_each(|(name, count)| {
                at_most(&format!("{name} of audit {round}"), *count, &format!("{asked} is"), asked_for)
            })
        })
    }

    fn check_times(&self) -> Checked {
        seconds("ramp_seconds", self.ramp_seconds)?;
        seconds("close_seconds", self.close_seconds)?;
        seconds("suspended_seconds", self.suspended_seconds)?;
        let (rate, ramped) = (self.connects_per_second, self.ramped as f64);
        let follows = if self.ramp_seconds > 0.0 { ramped / self.ramp_seconds } else { 0.0 };
        if (rate - follows).abs() <= follows * ROUNDING {
            return Ok(());
        }
        Err(format!("its numbers do not add up: connects_per_second is {rate}, and ramped / ramp_seconds is {follows}"))
    }

    /// The counts of shards are those of the whole. Of connections that were never tried a shard may tell nothing.
    fn check_shards(&self) -> Checked {
        if self.shards.is_empty() {
            return Ok(());
        }
        let live = sum(self.shards.iter().map(|shard| shard.live));
        same("live", self.live, "its shards have", live)?;
        let failed = sum(self.shards.iter().map(|shard| shard.failed));
        same("failed", self.failed, "its shards have", failed)?;
        self.shards.iter().try_for_each(|shard| shard.latencies.check())
    }

    /// The counts of machines are those of the whole: one that was taken out could count again beside it.
    fn check_machines(&self) -> Checked {
        if self.machines.is_empty() {
            return Ok(());
        }
        self.machines.iter().try_for_each(|machine| machine.result.check())?;
        let counts: [CountOf<ClientDocument>; 5] = [
            ("requested", |one| one.requested),
            ("live", |one| one.live),
            ("failed", |one| one.failed),
            ("not_tried", |one| one.not_tried),
            ("ramped", |one| one.ramped),
        ];
        counts.into_iter().try_for_each(|(name, count)| {
            let all = sum(self.machines.iter().map(|machine| count(&machine.result)));
            same(name, count(self), "its machines have", all)
        })
    }
}

impl ServerDocument {
    /// Checks that the numbers add up.
    pub(super) fn check(&self) -> Checked {
        at_most("refused_for_memory", self.refused_for_memory, "refused is", self.refused)?;
        let accepted = sum(self.shards.iter().map(|shard| shard.accepted));
        same("accepted", self.accepted, "its shards have", accepted)?;
        let live = sum(self.shards.iter().map(|shard| shard.live));
        same("live", self.live, "its shards have", live)?;
        cpu_seconds("cpu_user_seconds", self.cpu_user_seconds)?;
        cpu_seconds("cpu_system_seconds", self.cpu_system_seconds)
    }
}
