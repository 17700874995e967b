//! c1m
#![deny(unsafe_code)]
pub mod causes;
pub mod cli;
pub mod client;
pub mod error;
pub mod host;
pub mod latency;
pub mod limits;
pub mod listener;
pub mod net;
pub mod pace;
pub mod plan;
pub mod report;
#[allow(unsafe_code)]
pub mod ring;
pub mod server;
pub mod service;
pub mod shard;
pub mod stats;
#[allow(unsafe_code)]
pub mod sys;
pub mod table;
pub mod token;
