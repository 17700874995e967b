//! The arguments of `c1m storm`.

use std::time::Duration;

use clap::{Args, ValueEnum};

use super::client::{CloseName, ConnectionArguments, LoadArguments};
use super::{SLOWEST, duration};
use crate::cli::this_program;
use crate::client::{Audit, Course, Scenario, Storm, VictimsCommand, Workload, random_seed};
use crate::command_error::{CommandError, Result};
use crate::connections::CloseMode;
use crate::error::SHORTEST_INTERVAL;

/// Messages a second that a storm's survivors send in all by default: enough for a p99.9 of each second, and a small
/// part of what one core echoes.
const STORM_MESSAGES_PER_SECOND: u64 = 20_000;

#[derive(Debug, Args)]
pub struct StormArguments {
    /// The kind of storm.
    #[arg(value_enum, value_name = "SCENARIO")]
    pub scenario: ScenarioName,
    #[command(flatten)]
    pub load: LoadArguments,
    #[command(flatten)]
    pub connection: ConnectionArguments,
    /// How many of the connections are the storm's victims, in percent or as a number: at least one, and not
    /// all; 34% by default. `churn` has no victims.
    #[arg(long, value_name = "PERCENT|N", value_parser = share)]
    pub share: Option<Share>,
    /// How long `churn`, `slow-readers`, `silent` and `killed` last; 10 s by default. The other storms last until
    /// their work is done.
    #[arg(long = "for", value_name = "TIME", value_parser = duration)]
    pub lasting: Option<Duration>,
    /// How long to send messages before the storm.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration)]
    pub calm: Duration,
    /// How long to send messages after the storm.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration)]
    pub after: Duration,
    /// Close by FIN rather than RST, in the storm and at the end. The side that closes first by FIN keeps the
    /// source port in TIME_WAIT for a minute, with 256 bytes of kernel memory, up to net.ipv4.tcp_max_tw_buckets of
    /// them. Many such closes leave few ports to dial from.
    #[arg(long)]
    pub fin: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ScenarioName {
    /// The victims are closed, as fast as possible or at --close-rate.
    Disconnect,
    /// The victims are closed, and as many connections dialed anew, as fast as --concurrency or --rate allow.
    Reconnect,
    /// Beside the held connections, further connections are dialed, proved and closed, as fast as --concurrency or
    /// --rate allow.
    Churn,
    /// Some after the others they send 256 KiB each, in messages of the protocol (--payload), and read no answer.
    /// Then they are closed, 5,000 a second or at --close-rate.
    SlowReaders,
    /// The victims stay silent. Those that the server closes meanwhile are counted, and are no failures.
    Silent,
    /// The victims are in a process of their own, which is killed (SIGKILL). Its kernel closes all of them by FIN.
    Killed,
}

/// A part of all connections.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Share {
    Percent(f64),
    Count(u64),
}

impl Share {
    fn of(self, connections: u64) -> u64 {
        match self {
            Share::Percent(percent) => (connections as f64 * percent / 100.0).round() as u64,
            Share::Count(count) => count,
        }
    }
}

/// A share such as 34% or 340000.
fn share(text: &str) -> std::result::Result<Share, String> {
    let share = match text.strip_suffix('%') {
        Some(percent) => percent.trim().parse().ok().filter(|p| (0.0..100.0).contains(p)).map(Share::Percent),
        None => text.parse().ok().map(Share::Count),
    };
    share.ok_or(format!("'{text}' is no share; try 34% or a number of connections"))
}

/// The default share of the victims.
const SHARE: Share = Share::Percent(34.0);

/// The default duration of scenarios that have no end of their own.
const LASTING: Duration = Duration::from_secs(10);

impl StormArguments {
    pub fn workload(&self) -> Result<Workload> {
        let lasting = self.lasting.unwrap_or(LASTING);
        let scenario = match self.scenario {
            ScenarioName::Disconnect => Scenario::Disconnect,
            ScenarioName::Reconnect => Scenario::Reconnect,
            ScenarioName::Churn => Scenario::Churn(lasting),
            ScenarioName::SlowReaders => Scenario::SlowReaders(lasting),
            ScenarioName::Silent => Scenario::Silent(lasting),
            ScenarioName::Killed => Scenario::Killed(lasting),
        };
        if scenario.lasts().is_none() && self.lasting.is_some() {
            let saw = format!("--for with {}", scenario.name());
            return Err(CommandError::usage(saw, "it lasts until it is done", "pace it with --close-rate or --rate"));
        }
        if !scenario.has_victims() && self.share.is_some() {
            let saw = format!("--share with {}", scenario.name());
            let means = "it has no victims: it dials further connections beside those that are held";
            return Err(CommandError::usage(saw, means, "leave it out, or choose another storm"));
        }
        let connections = self.load.connections;
        let victims = if scenario.has_victims() { self.share.unwrap_or(SHARE).of(connections) } else { 0 };
        let storm = Storm { scenario, victims, calm: self.calm, after: self.after };
        let close = if self.fin { CloseMode::Immediate } else { CloseMode::Abort };
        let mut workload = self.connection.workload(&self.load, Course::Storm(storm), Audit::Answer, close)?;
        let talkers = connections.saturating_sub(victims);
        let each = Duration::from_secs_f64(talkers as f64 / STORM_MESSAGES_PER_SECOND as f64);
        workload.interval = workload.interval.or(Some(each.max(SHORTEST_INTERVAL)));
        if scenario.is_killed() {
            self.share_with_victims(&mut workload, victims)?;
        }
        Ok(workload)
    }

    /// Has another process open the victims, with their part of what may be in flight and started at a time.
    fn share_with_victims(&self, workload: &mut Workload, victims: u64) -> Result<()> {
        let part = victims as f64 / workload.connections.max(1) as f64;
        let theirs = ((f64::from(workload.concurrency) * part).round() as u32).max(1);
        let rate = workload.rate.map(|rate| (rate * part).max(SLOWEST));
        let close = if self.fin { CloseName::Fin } else { CloseName::Rst };
        // Their numbers come after those of the survivors, and so do their source ports.
        let numbers = (workload.first_number + workload.connections.saturating_sub(victims), victims);
        let seed = *workload.source_port_seed.get_or_insert_with(random_seed);
        let words = self.connection.steered_words(&workload.routes.targets, numbers, seed, theirs, rate, close);
        workload.victims =
            Some(VictimsCommand { program: this_program()?, arguments: words.into_iter().map(Into::into).collect() });
        workload.concurrency = workload.concurrency.saturating_sub(theirs).max(u32::from(workload.concurrency > 0));
        workload.rate = workload.rate.map(|rate| rate * (1.0 - part));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_understood() {
        assert_eq!(share("34%").unwrap().of(1_000_000), 340_000);
        assert_eq!(share("0.5 %").unwrap().of(1_000), 5);
        assert_eq!(share("7").unwrap().of(1_000), 7);
        for text in ["100%", "-1%", "nan%", "inf%", "-1", "1.5", "%", ""] {
            assert!(share(text).is_err(), "{text}");
        }
    }
}
