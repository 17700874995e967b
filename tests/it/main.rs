//! Tests of behaviour with real sockets, real processes and real kernel limits.
//!
//! `#[test]` is the attribute of tests/needs. `#[test(Network)]` says that the test needs a network namespace;
//! needs.rs skips the test, with the reason, where that need is not met.

// The macro `test` of this crate replaces the standard attribute in all modules.
#[macro_use]
extern crate test_needs;

mod addresses;
mod bad_input;
mod certificates;
mod client_http;
mod client_websocket;
mod connections;
mod demo;
mod doctor;
mod examples;
mod fanout;
mod faults;
mod filter;
mod firewall;
mod hibernation;
mod hostile;
mod hosts;
mod http;
mod idle;
mod itself;
mod killed;
mod last_word;
mod limits;
mod lossy;
mod memory;
mod metrics;
mod mqtt;
mod named;
mod nats;
mod needs;
mod network;
mod options;
mod outputs;
mod pages;
mod parking;
mod persist;
mod protocols;
mod push;
mod report;
mod scrapes;
mod secrets;
mod service;
mod signals;
mod skips;
mod source_ports;
mod steer;
mod stopped;
mod storm;
mod storm_protocols;
mod streams;
mod support;
mod takeover;
mod terminal;
mod times;
mod tls;
mod tls_records;
mod tls_versions;
mod tune;
mod tuning;
mod unread;
mod walls;
mod websocket;
mod websocket_asleep;
mod wire;

use std::process::ExitCode;

fn main() -> ExitCode {
    // A test of walls runs this executable as a program that it observes.
    if let Some(port) = std::env::var_os("C1M_TEST_PLAIN_PROGRAM") {
        walls::plain_program(port.to_str().unwrap().parse().unwrap());
        return ExitCode::SUCCESS;
    }
    // Tests of takeovers run it as a successor.
    if let Some(told) = std::env::var_os(takeover::halfway::SUCCESSOR) {
        takeover::halfway::stand_still(told.to_str().unwrap());
        return ExitCode::SUCCESS;
    }
    // A test of limits runs it as what leaves files open in the program that it starts.
    if let Some(number) = std::env::var_os(hostile::LEAKS) {
        return hostile::leak_and_run(number.to_str().unwrap().parse().unwrap());
    }
    // Under nohup(1) this process ignores SIGHUP, and in the background of a script it ignores SIGINT and SIGQUIT. The
    // processes that tests start would inherit that.
    for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT] {
        // SAFETY: no memory, and no other thread runs yet.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    support::claim_ports();
    needs::run_all()
}
