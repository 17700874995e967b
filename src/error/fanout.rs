//! Fan-outs that are asked for and cannot be.

/// Why a fan-out cannot be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum FanoutProblem {
    /// Its connections do not prove themselves by answers.
    NoAnswers,
    /// No publisher, or no subscriber beside them.
    Publishers {
        /// How many were asked for: 0, or all the connections there are.
        asked: u64,
        /// Connections in all.
        connections: u64,
    },
    /// No publication, or more than are followed.
    Publications {
        /// How many were asked for: 0, or more than `most`.
        asked: u64,
        /// How many there can be at most.
        most: u64,
    },
    /// A publication that has no room for its identity, or is too long.
    Payload {
        /// Bytes that were asked for.
        asked: u64,
        /// Bytes that it has at least.
        least: u64,
        /// Bytes that it has at most.
        most: u64,
    },
    /// A protocol that publishes nothing.
    Protocol {
        /// The protocol.
        protocol: &'static str,
    },
    /// Connections may sleep: a sleeping subscriber would be woken by each publication.
    Sleep,
}

impl FanoutProblem {
    /// What was asked for.
    pub(super) fn saw(self) -> String {
        match self {
            FanoutProblem::NoAnswers => "a fan-out without echoes".to_owned(),
            FanoutProblem::Publishers { asked, connections } => {
                format!("{asked} of {connections} connections publish")
            }
            FanoutProblem::Publications { asked, .. } => format!("{asked} publications"),
            FanoutProblem::Payload { asked, .. } => format!("publications of {asked} bytes"),
            FanoutProblem::Protocol { protocol } => format!("a fan-out over {protocol}"),
            FanoutProblem::Sleep => "a fan-out with connections that sleep".to_owned(),
        }
    }

    /// What that means.
    pub(super) fn means(self) -> String {
        match self {
            FanoutProblem::NoAnswers => "a last audit shows that no more publications are on their way".to_owned(),
            FanoutProblem::Publishers { .. } => "there is one publisher at least, and one subscriber".to_owned(),
            FanoutProblem::Publications { most, .. } => format!("a run has 1 to {most}, each with figures of its own"),
            FanoutProblem::Payload { least, most, .. } => {
                format!("a publication has {least} bytes, which say which one it is, to {most}")
            }
            FanoutProblem::Protocol { protocol } => format!("{protocol} publishes nothing as it was told"),
            FanoutProblem::Sleep => "each publication would wake every subscriber".to_owned(),
        }
    }
}
