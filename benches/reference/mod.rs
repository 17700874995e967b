//! The reference that the benches hold c1m against: an echo server and a client on plain
//! edge-triggered epoll, written the way a careful engineer without io_uring would write them.
//! It shares no code with c1m, so a mistake in one cannot hide in the other.

#![allow(dead_code, reason = "each bench uses its own part of this module")]

pub mod client;
pub mod server;
pub mod sys;
