//! One server in the place of another, while its connections go on. A successor asks the server that runs, over a Unix
//! socket, and gets everything from it: listeners, sleeping connections, and those that are awake, a few at a time.
//!
//! ```text
//!   successor                                   server that runs
//!     hello: format ─────────────────────────────▶
//!     ◀──────────────── terms and descriptors, or a refusal
//!     begin ─────────────────────────────────────▶
//!   and each shard with its own, over a channel of the two:
//!     ◀────── what is known of some sleeping connections     again and again
//!     taken ─────────────────────────────────────▶
//!     ◀──────────────────── all sleeping connections
//!     taken ─────────────────────────────────────▶
//!     serving ───────────────────────────────────▶
//!     ◀─────────────── some connections that are awake     again and again
//!     taken ─────────────────────────────────────▶
//!     ◀────────────────────────────────────── done
//!     taken ─────────────────────────────────────▶
//!   and at last the two:
//!     succeeded ─────────────────────────────────▶
//! ```
//!
//! A message says `taken` before its connections are served. So there is no moment at which two processes serve one:
//! as long as a server has not read that, its connections are its own.
//!
//! The server before ends only when it reads `succeeded`: by then the service manager knows which process is the service
//! now. If the successor is gone before, the server before serves on.
//!
//! The same descriptors are left with the service manager, which gives them to the next process if this one is killed
//! (`store.rs`). Then no process is there to be asked, and what lies in them must suffice.

mod channel;
pub mod format;
mod store;
mod terms;

pub use channel::{Channel, Kind, Message};
pub use store::{Store, left_descriptors, store, tell_ready};
pub use terms::{FORMAT, Hello, Misfit, ShardTerms, Speaks, StateFile, Terms, TermsText, of_bytes, to_bytes};
