//! A million TCP connections on two cores: a thread-per-core server that holds them, and a client
//! that opens, proves and measures them.
//!
//! Each core runs an isolated glommio executor, a *shard*, which owns its listening sockets, its
//! io_urings and its connection table. A connection is a direct descriptor in a ring's table, not
//! a file descriptor, and costs 12 bytes of user memory while it is idle, and nothing of the kernel but
//! its socket. Nothing on the data path is locked or shared.
//!
//! # The house
//!
//! A room imports only rooms of lower layers (`tests/tidy.rs` holds that, the crates' rooms and
//! the fence around unsafe code).
//!
//! ```text
//!  5  main  cli                           what was typed; the only place that prints
//!  4  server  client                      plan → shards → drain; plan → ramp → audits → summary
//!     doctor  tune                        host × goal, judged wall by wall; knobs turned, and back
//!     render                              results as text, JSON, HTML, .hgrm
//!  3  results                             what a run came to, as data; read back, merged, compared
//!     metrics                             counters for Prometheus, on a thread of their own
//!  2  shard ── net      listener          one core: executor and pump ── its connections; sockets
//!     knobs ── host                       every wall: need, evidence, cure ── /proc, cgroups, limits
//!  1  ring  sys                           the only unsafe: typed operations and completions;
//!                                         rlimits, eventfd, TCP_INFO, a filter of sockets
//!     table  service  latency  pace       rows and generations; bytes in, bytes out; HDR
//!     plan  stats  causes                 histograms; intended instants; arithmetic; counters;
//!     footprint  output                   why connections fail; what memory they take; files that
//!                                         are whole or not there
//!  0  limits  error  token  words  clock  every constant; errors by whose fault; `user_data`;
//!                                         how numbers are written; time in which one looked
//! ```
//!
//! Server and client are two [`reactor::Driver`]s of the same [`connections::Connections`].
//!
//! # Writing a service
//!
//! ```no_run
//! use c1m::server::{Options, Server};
//! use c1m::service::{Outbox, Reply, Service};
//! use c1m::token::ConnId;
//!
//! /// Answers every message with the number of bytes this connection has sent so far.
//! struct Count;
//!
//! impl Service for Count {
//!     type State = u64;
//!
//!     fn received(&mut self, conn: ConnId, seen: &mut u64, data: &mut [u8], out: &mut Outbox) -> Reply {
//!         *seen += data.len() as u64;
//!         out.send(conn, format!("{seen}\n").as_bytes());
//!         Reply::Nothing
//!     }
//! }
//!
//! # fn main() -> c1m::error::Result<()> {
//! let (notices, ended) = std::sync::mpsc::channel();
//! let server = Server::start(&Options::default(), |_shard| Count, &notices)?;
//! // … until `ended` tells that a shard died, or it is time to stop:
//! # drop(ended);
//! server.stop();
//! server.join()?;
//! # Ok(())
//! # }
//! ```
#![deny(unsafe_code)]
#![warn(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod addresses;
#[cfg(feature = "cli")]
pub mod cli;
pub mod client;
pub mod clock;
#[cfg(feature = "cli")]
pub mod command_error;
pub mod connections;
pub mod constants;
#[cfg(feature = "cli")]
pub mod doctor;
pub mod error;
pub mod failure;
pub mod format;
#[cfg(all(any(test, fuzzing), feature = "cli"))]
#[allow(clippy::unwrap_used, clippy::panic, reason = "a property that does not hold ends its test")]
pub mod fuzz;
pub mod host;
pub mod latency;
pub mod listener;
pub mod memory_model;
#[cfg(feature = "metrics")]
pub mod metrics;
#[cfg(feature = "cli")]
pub mod output;
pub mod pace;
pub mod plan;
pub mod reactor;
#[cfg(feature = "cli")]
pub mod render;
pub mod results;
#[allow(unsafe_code, reason = "hands the kernel pointers to memory that the ring owns")]
pub mod ring;
pub mod server;
pub mod service;
pub mod shard;
pub mod stats;
#[allow(unsafe_code, reason = "system calls that std does not offer")]
pub mod sys;
pub mod token;
#[cfg(feature = "cli")]
pub mod tune;
pub mod walls;
