//! A TCP server that holds a million connections on two cores, and a client that opens, proves and measures them.
//!
//! A server has one *shard* for each core: a thread of its own, with its own listening sockets, io_urings and
//! connections. Shards share nothing, so no call of a service waits for another core. An idle connection takes some 14
//! bytes of the process beside the service's `State`. Beside its socket and file it takes 32 bytes of the kernel where
//! it waits behind a BPF filter (as root), and 288 bytes where it waits in a poll; before Linux 6.13 these are 0 and
//! 256 (the node of a registered file, io_uring/rsrc.c).
//!
//! c1m runs on Linux 6.1 or newer. Connections are direct descriptors of a ring, which `ulimit -n` does not count.
//!
//! # A service
//!
//! A [`Service`] says what a server does with the bytes of its connections. Each shard has a service of its own.
//!
//! ```no_run
//! use c1m::{ConnId, Ctx, Reply, Server, Service};
//!
//! /// Answers every message with the number of bytes that its connection has sent so far.
//! struct Count;
//!
//! impl Service for Count {
//!     type State = u64;
//!     type Message = ();
//!
//!     fn received(&mut self, ctx: &mut Ctx<'_, u64>, conn: ConnId, data: &mut [u8]) -> Reply {
//!         let Some(seen) = ctx.state(conn) else { return Reply::Nothing };
//!         *seen += data.len() as u64;
//!         let line = format!("{seen}\n");
//!         ctx.send(conn, line.as_bytes());
//!         Reply::Nothing
//!     }
//! }
//!
//! # fn main() -> c1m::Result<()> {
//! let server = Server::builder().start(|_shard| Count)?;
//! // Serves until a shard fails.
//! server.wait(drop);
//! server.stop();
//! server.join()?;
//! # Ok(())
//! # }
//! ```
//!
//! `docs/guide/services.md` tells the rest: deadlines, the [`Mailbox`] between shards, [`Broadcast`], counters of one's
//! own, limits. Programs to copy from are in `examples/`.
//!
//! # A client
//!
//! [`client`] opens connections to any server, proves each of them by an answer of its own, and measures.
//!
//! # Errors
//!
//! Starting, joining and a client's run give an [`Error`], by whose fault it is: the options' ([`ConfigError`]), the
//! host's ([`HostError`]), the other end's ([`error::PeerError`]) or c1m's own (`Error::Bug`). A mailbox gives a
//! [`MailboxError`], and `Ctx::peer_addr` an `io::Error`.
//!
//! # Panics
//!
//! Build your program with `panic = "abort"` in `[profile.release]` and in `[profile.dev]`. A panic of a service then
//! ends the process. If it unwound, the shard would free memory to which the kernel still writes.
//!
//! # Features
//!
//! - `cli`, the default: the program `c1m`. A library turns it off with `default-features = false`, and then brings
//!   no command line, no charts, no metrics and no TLS.
//! - `metrics`: a server's counters over HTTP, for Prometheus. `cli` implies it.
//! - `tls`: TLS at both ends. `cli` implies it.
#![deny(unsafe_code)]
#![warn(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod client;
pub mod error;

pub use error::{ConfigError, Error, HostError, Result};
pub use internal::addresses::Address;
pub use internal::connections::{CloseMode, CloseReason};
pub use internal::host::Cores;
pub use internal::mailbox::{Mailbox, MailboxError};
pub use internal::plan::{PortSharing, Ports, Reserve};
pub use internal::server::{IdlePolicy, Server, ServerBuilder, ServerEvent, ShardCounters, ShardInfo};
pub use internal::service::{Broadcast, Conversation, CounterId, Ctx, Echo, Members, Reply, Service, Sink};
pub use internal::service::{http, push, websocket};
pub use internal::stats::Snapshot;
#[cfg(feature = "tls")]
pub use internal::tls::handshake::{TlsAgreed, TlsConfig};
pub use internal::tls_version::TlsVersion;
pub use internal::token::ConnId;

/// What the program, its tests, benches and fuzz targets use. It is no part of the library's interface: all of it may
/// change in any release.
#[doc(hidden)]
#[path = "."]
pub mod internal {
    pub mod addresses;
    pub mod chunks;
    #[cfg(feature = "cli")]
    pub mod cli;
    pub mod clock;
    #[cfg(feature = "cli")]
    pub mod command_error;
    pub mod connections;
    pub mod constants;
    #[cfg(feature = "cli")]
    pub mod doctor;
    pub mod failure;
    pub mod format;
    #[cfg(all(any(test, fuzzing), feature = "cli"))]
    #[allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        reason = "a property that does not hold ends its test"
    )]
    pub mod fuzz;
    pub mod hibernation;
    pub mod host;
    pub mod latency;
    pub mod listener;
    pub mod mailbox;
    pub mod memory_model;
    #[cfg(feature = "metrics")]
    pub mod metrics;
    #[cfg(feature = "cli")]
    pub mod output;
    pub mod pace;
    pub mod plan;
    pub mod protocol;
    pub mod reactor;
    #[cfg(feature = "cli")]
    pub mod render;
    pub mod reply;
    pub mod results;
    #[allow(unsafe_code, reason = "hands the kernel pointers to memory that the ring owns")]
    pub mod ring;
    pub mod server;
    pub mod service;
    pub mod shard;
    #[cfg(test)]
    pub(crate) mod simulation;
    pub mod stats;
    #[allow(unsafe_code, reason = "system calls that std does not offer")]
    pub mod sys;
    pub mod takeover;
    #[cfg(feature = "tls")]
    pub mod tls;
    pub mod tls_version;
    pub mod token;
    #[cfg(feature = "cli")]
    pub mod tune;
    pub mod walls;
    pub mod wiped;
}

// Inside the crate every module is reached as `crate::NAME`.
#[cfg(feature = "metrics")]
#[allow(unused_imports, reason = "whether another module names it depends on the features")]
use internal::metrics;
#[cfg(test)]
use internal::simulation;
#[cfg(feature = "tls")]
use internal::tls;
#[allow(unused_imports, reason = "which of them another module names depends on the features")]
use internal::{
    addresses, chunks, clock, connections, constants, failure, format, hibernation, host, latency, listener, mailbox,
    memory_model, pace, plan, protocol, reactor, reply, results, ring, server, service, shard, stats, sys, takeover,
    tls_version, token, walls, wiped,
};
#[cfg(feature = "cli")]
use internal::{cli, command_error, doctor, output, render, tune};

/// The guide's snippets are compiled with the documentation's.
#[cfg(doctest)]
#[doc = include_str!("../docs/guide/services.md")]
mod services_guide {}

/// The same for the guides on hibernation and on takeovers.
#[cfg(doctest)]
#[doc = include_str!("../docs/guide/hibernation.md")]
mod hibernation_guide {}

#[cfg(doctest)]
#[doc = include_str!("../docs/guide/takeover.md")]
mod takeover_guide {}

/// The same for the guide on protocols. Its dialect is compiled as a test of `protocol`.
#[cfg(doctest)]
#[doc = include_str!("../docs/guide/protocols.md")]
mod protocols_guide {}

// The library's example in README.md compiles.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
