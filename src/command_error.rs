//! What a command of the program fails with: one line, and by whose fault.
//!
//! Errors of the library become such a line in `cli/diagnostics.rs`, which knows the flags; what the program
//! itself finds wrong (files, words that were typed, settings) is said where it is found.

use std::fmt;

use crate::error::{BUG_MEANS, Diagnostic, Error, REPORT};

/// Why a command failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{told}")]
pub struct CommandError {
    /// By whose fault.
    pub blame: Blame,
    /// What to tell of it.
    pub told: Diagnostic,
    /// The library's error that this tells of, if it is one.
    pub library: Option<Box<Error>>,
}

/// Whose fault a failure is, from the least to the worst.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Blame {
    /// The other end does not do what it should.
    Peer,
    /// The command line asks for something that cannot be.
    Usage,
    /// The host refuses or lacks something.
    Host,
    /// c1m is wrong.
    Bug,
}

/// The result of a command, or of a part of it.
pub type Result<T, E = CommandError> = std::result::Result<T, E>;

impl CommandError {
    /// A failure by somebody's fault: what was seen, what it means, and what to do.
    pub fn new(
        blame: Blame,
        saw: impl fmt::Display,
        means: impl Into<String>,
        cure: impl Into<String>,
    ) -> CommandError {
        let told = Diagnostic { saw: saw.to_string(), means: means.into(), cure: cure.into() };
        CommandError { blame, told, library: None }
    }

    /// The command line asks for something that cannot be.
    pub fn usage(saw: impl fmt::Display, means: impl Into<String>, cure: impl Into<String>) -> CommandError {
        CommandError::new(Blame::Usage, saw, means, cure)
    }

    /// The host refuses or lacks something.
    pub fn host(saw: impl fmt::Display, means: impl Into<String>, cure: impl Into<String>) -> CommandError {
        CommandError::new(Blame::Host, saw, means, cure)
    }

    /// c1m is wrong.
    pub fn bug(saw: impl fmt::Display) -> CommandError {
        CommandError::new(Blame::Bug, saw, BUG_MEANS, REPORT)
    }

    /// The process's exit code: 1 not everything that was asked for held, 2 bad usage, 3 the host
    /// refuses, 70 a bug (`EX_SOFTWARE` of sysexits.h).
    pub fn exit_code(&self) -> u8 {
        match self.blame {
            Blame::Peer => 1,
            Blame::Usage => 2,
            Blame::Host => 3,
            Blame::Bug => 70,
        }
    }
}
