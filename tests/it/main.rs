//! Behaviour through the real thing: real sockets, real processes, real kernel limits.

mod bad_input;
mod connections;
mod demo;
mod doctor;
mod firewall;
mod hosts;
mod idle;
mod limits;
mod lossy;
mod memory;
mod metrics;
mod options;
mod pages;
mod parking;
mod report;
mod source_ports;
mod steer;
mod storm;
mod support;
mod terminal;
mod tune;
mod tuning;
mod walls;
