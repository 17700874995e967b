//! Behaviour through the real thing: real sockets, real processes, real kernel limits.
//!
//! `#[test]` is that of tests/needs: `#[test(Network)]` also says what a test needs, and needs.rs skips it,
//! with the reason, where that is not to be had.

// Its `test` takes the place of the standard one in all modules.
#[macro_use]
extern crate test_needs;

mod addresses;
mod bad_input;
mod connections;
mod demo;
mod doctor;
mod filter;
mod firewall;
mod hostile;
mod hosts;
mod idle;
mod itself;
mod killed;
mod limits;
mod lossy;
mod memory;
mod metrics;
mod needs;
mod network;
mod options;
mod outputs;
mod pages;
mod parking;
mod persist;
mod report;
mod scrapes;
mod skips;
mod source_ports;
mod steer;
mod stopped;
mod storm;
mod support;
mod terminal;
mod tune;
mod tuning;
mod walls;

use std::process::ExitCode;

fn main() -> ExitCode {
    // A program that a test of walls runs.
    if let Some(port) = std::env::var_os("C1M_TEST_PLAIN_PROGRAM") {
        walls::plain_program(port.to_str().unwrap().parse().unwrap());
        return ExitCode::SUCCESS;
    }
    // Under nohup(1) the processes that tests start would ignore SIGHUP, as they inherit that.
    // SAFETY: no memory, and no other thread runs yet.
    unsafe { libc::signal(libc::SIGHUP, libc::SIG_DFL) };
    needs::run_all()
}
