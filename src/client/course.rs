//! What a client does from its ramp to its close: its course, and the phases it is made of.

use std::collections::VecDeque;
use std::time::Duration;

use crate::results::Stage;

/// What proves that a connection is live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Audit {
    /// Every connection gets the answer that its protocol expects; with `raw` that is exactly what it sent.
    Answer,
    /// No FIN and no RST came; for servers that answer nothing.
    State,
    /// Nothing is asked.
    Off,
}

/// What a client does between its ramp and its close.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Course {
    /// An audit, a hold of this length, 366 days at most, and a second audit.
    Fixed(Duration),
    /// Holds until its owner asks for an audit, a report or the end, by [`Steering`](super::Steering).
    Steered,
    /// An audit, a calm, a storm, what comes after it, and a second audit of those that are left.
    /// Messages go on from the calm to the end of what comes after.
    Storm(Storm),
    /// An audit, publications to subscribers, and a second audit. Its answers come behind all that was sent to a
    /// connection before, so nothing is on its way any more after it.
    Fanout(Fanout),
}

/// A fan-out: the last connections publish, and every other one shall get each publication exactly once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fanout {
    /// Connections that publish in turn, at least 1 and fewer than all.
    pub publishers: u64,
    /// Publications, 1 to 100,000.
    pub publications: u32,
    /// The time between two of them, 1 ns to 366 days.
    pub period: Duration,
    /// The longest that a receipt may take to count, 1 ms to 366 days. The time begins when the publication is handed to its
    /// publisher's connection.
    pub wait: Duration,
    /// Bytes of a publication, 64 to 60,000.
    pub payload: u32,
}

/// A storm: what happens to some connections while the others, its survivors, send messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Storm {
    /// What happens.
    pub scenario: Scenario,
    /// To how many connections, at least 1 but in `Churn`; the others survive.
    pub victims: u64,
    /// How long messages are sent before it, 366 days at most.
    pub calm: Duration,
    /// How long messages are sent after it, 366 days at most.
    pub after: Duration,
}

/// What happens in a storm. A time is 366 days at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Scenario {
    /// The victims are closed.
    Disconnect,
    /// The victims are closed, and as many connections dialed anew.
    Reconnect,
    /// For this time connections are dialed, proved and closed, beside those that are open. No victims.
    Churn(Duration),
    /// For this time the victims send messages and read no answer; then they are closed.
    SlowReaders(Duration),
    /// For this time the victims send nothing; then they are closed.
    Silent(Duration),
    /// The process that holds the victims is killed, and its kernel closes them. The storm lasts for this time,
    /// because nothing tells when the last victim is closed.
    Killed(Duration),
}

impl Scenario {
    /// Its name on the command line and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Scenario::Disconnect => "disconnect",
            Scenario::Reconnect => "reconnect",
            Scenario::Churn(_) => "churn",
            Scenario::SlowReaders(_) => "slow-readers",
            Scenario::Silent(_) => "silent",
            Scenario::Killed(_) => "killed",
        }
    }

    /// How long it lasts; `None` if it lasts until it is done.
    pub(crate) fn lasts(self) -> Option<Duration> {
        match self {
            Scenario::Disconnect | Scenario::Reconnect => None,
            Scenario::Churn(time) | Scenario::SlowReaders(time) | Scenario::Silent(time) | Scenario::Killed(time) => {
                Some(time)
            }
        }
    }

    /// Whether the victims are in a process of their own, to be killed.
    pub fn is_killed(self) -> bool {
        matches!(self, Scenario::Killed(_))
    }

    /// Whether it strikes some of the connections. Churn dials others beside them.
    pub fn has_victims(self) -> bool {
        !matches!(self, Scenario::Churn(_))
    }

    /// Whether the server may close victims, without that being a failure.
    pub fn server_may_close(self) -> bool {
        matches!(self, Scenario::SlowReaders(_) | Scenario::Silent(_))
    }
}

impl Course {
    /// The storm, if it is one.
    pub fn storm(&self) -> Option<&Storm> {
        match self {
            Course::Storm(storm) => Some(storm),
            _ => None,
        }
    }

    /// The fan-out, if it is one.
    pub fn fanout(&self) -> Option<&Fanout> {
        match self {
            Course::Fanout(fanout) => Some(fanout),
            _ => None,
        }
    }

    /// The phases that are known before the ramp; a client that has run out of them holds.
    pub(super) fn phases(self, audit: Audit) -> VecDeque<Phase> {
        use Phase::{After, Calm, Close, Hold};
        match (self, audit) {
            (Course::Steered, _) => VecDeque::new(),
            (Course::Fixed(_), Audit::Off) => VecDeque::from([Hold, Close]),
            (Course::Fixed(_), _) => VecDeque::from([Phase::Audit(1), Hold, Phase::Audit(2), Close]),
            (Course::Storm(_), _) => {
                VecDeque::from([Phase::Audit(1), Calm, Phase::Storm, After, Phase::Audit(2), Close])
            }
            (Course::Fanout(_), _) => VecDeque::from([Phase::Audit(1), Phase::Publish, Phase::Audit(2), Close]),
        }
    }
}

/// What all shards do at one time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Waiting for the others.
    Ready,
    /// Opening connections.
    Ramp,
    /// The audit of this number, from 1 on.
    Audit(u32),
    /// Holding, and sending messages.
    Hold,
    /// The end of a hold: sending nothing more, until what was sent is answered or given up.
    Settle,
    /// Sending messages, for comparison with those in a storm.
    Calm,
    /// A storm, and messages meanwhile.
    Storm,
    /// Messages after a storm, and waiting for their answers.
    After,
    /// Publishing, until each publication was received by all, or its time is over.
    Publish,
    /// Telling what was measured so far.
    Report,
    /// Closing.
    Close,
    /// Ending the shard.
    Quit,
}

/// The phases whose number is fixed; audits have the numbers after these. A shard's handle carries a command, in which the
/// number lies above a bit that tells a phase from an equal one before it. The handle of a new shard carries 0.
const FIXED: [Phase; 11] = [
    Phase::Ready,
    Phase::Ramp,
    Phase::Hold,
    Phase::Settle,
    Phase::Calm,
    Phase::Storm,
    Phase::After,
    Phase::Publish,
    Phase::Report,
    Phase::Close,
    Phase::Quit,
];

impl Phase {
    /// What a shard's handle carries as its `nth` command. Two commands that follow one another differ, also where both
    /// are for the same phase: two reports, say.
    pub(super) fn command(self, nth: u32) -> u32 {
        let audits = FIXED.len() as u32;
        let number = match self {
            Phase::Audit(round) => round.saturating_add(audits),
            other => FIXED.iter().position(|phase| *phase == other).map_or(audits, |at| at as u32),
        };
        (number << 1) | (nth & 1)
    }

    pub(super) fn of_command(command: u32) -> Phase {
        let number = command >> 1;
        FIXED.get(number as usize).copied().unwrap_or(Phase::Audit(number.saturating_sub(FIXED.len() as u32)))
    }

    /// What kind of phase it is, in one word.
    pub fn kind(self) -> &'static str {
        match self {
            Phase::Ready => "ready",
            Phase::Ramp => "ramp",
            Phase::Audit(_) => "audit",
            Phase::Hold => "hold",
            Phase::Settle => "settle",
            Phase::Calm => "calm",
            Phase::Storm => "storm",
            Phase::After => "after",
            Phase::Publish => "publish",
            Phase::Report => "report",
            Phase::Close => "close",
            Phase::Quit => "quit",
        }
    }

    /// The number of the audit this is, if it is one.
    pub fn round(self) -> Option<u32> {
        match self {
            Phase::Audit(round) => Some(round),
            _ => None,
        }
    }

    /// The stage of a storm's course this is, if it is one.
    pub fn stage(self) -> Option<Stage> {
        match self {
            Phase::Calm => Some(Stage::Before),
            Phase::Storm => Some(Stage::During),
            Phase::After => Some(Stage::After),
            _ => None,
        }
    }

    /// What a person calls it.
    pub fn name(self) -> String {
        let number = self.round().map(|round| format!(" {round}")).unwrap_or_default();
        format!("{}{number}", self.kind())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// A phase reaches the shards as what it is.
        #[test]
        fn a_command_is_its_phase(round in 1..(u32::MAX >> 1) - FIXED.len() as u32, nth in 0..u32::MAX) {
            for phase in FIXED.into_iter().chain([Phase::Audit(round)]) {
                prop_assert_eq!(Phase::of_command(phase.command(nth)), phase);
                prop_assert_ne!(phase.command(nth), phase.command(nth + 1));
            }
        }
    }

    #[test]
    fn a_shard_that_was_given_no_command_is_ready() {
        assert_eq!(Phase::of_command(0), Phase::Ready);
    }
}
