//! The client: opens connections, proves each of them by an answer of its own, and measures.
//!
//! A [`Workload`] says what is to be done, and [`Run::start`] does it:
//!
//! ```no_run
//! use c1m::client::{Event, Run, Workload};
//!
//! # fn main() -> c1m::Result<()> {
//! let mut workload = Workload::default();
//! workload.connections = 10_000;
//! let run = Run::start(workload)?;
//! for event in run.events() {
//!     if let Event::Audited(audit) = event {
//!         println!("{} of 10000 connections answered", audit.live);
//!     }
//! }
//! let summary = run.join()?;
//! println!("{} connects a second", summary.connects_per_second());
//! # Ok(())
//! # }
//! ```
//!
//! [`Run::steering`] stops a run early, and asks one on [`Course::Steered`] for audits and reports.
//!
//! The [`Protocol`] decides what is said on the connections.

mod course;
mod driver;
mod fanout;
mod fleet;
mod hibernation;
mod incomplete;
mod ports;
mod run;
mod sampler;
mod self_connect;
mod victims;
mod window;
mod workload;

pub use course::{Audit, Course, Fanout, Phase, Scenario, Storm};
#[cfg(feature = "cli")]
pub(crate) use ports::random_seed;
pub use run::{Event, Run, Steering};
pub use sampler::Interval;
pub use victims::VictimsCommand;
pub use workload::{DEFAULT_CONNECTIONS, HIGHEST_FIRST_NUMBER, Planned, Workload};

pub use crate::failure::{Cause, Causes};
pub use crate::plan::{Routes, Scheme, Target, TargetHost};
pub use crate::protocol::{Authority, MqttSettings, Protocol, SettingError, Settings};
pub use crate::results::{AuditResult, Summary};
pub use crate::stats::{ProgressSnapshot, WakeCounts};

#[cfg(feature = "tls")]
pub use crate::tls::handshake::{ClientTls, Pem, Trust};

use sampler::INTERVAL;

/// Bytes that may wait for a server that does not read them, on one connection: the longest message.
const LONGEST_SEND: usize = crate::protocol::LONGEST_PAYLOAD;
