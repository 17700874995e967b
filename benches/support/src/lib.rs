//! What the benches, their peers and the lab share.
//!
//! ```text
//!  contract     what a peer is told on its command line, and what it does before it is ready
//!  compare      server processes, alternating rounds, a quiet machine between them, medians
//!  samples      what runs gave, as tables: medians, ranges, ratios to ours
//!  memory       bytes of a server's processes and of the kernel
//!  peers        which servers are compared, and their programs
//!  questions    five questions that a comparison answers, as one table
//!  reference    an echo server and a client on plain edge-triggered epoll
//!  sys          their system calls, and the only unsafe code
//! ```
//!
//! Nothing here depends on c1m: a mistake in one cannot hide in the other.
#![deny(unsafe_code)]

pub mod compare;
pub mod contract;
pub mod memory;
pub mod peers;
pub mod questions;
pub mod reference;
pub mod samples;
pub mod sys;
