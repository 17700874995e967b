//! A c1m server on ports of its own.

use std::process::Command;

use super::ports::free_ports;
use super::process::{Finished, Running};
use super::program::c1m;

/// A c1m server that is ready, on ports of its own.
pub struct Server {
    pub running: Running,
    pub port: u16,
    ports: u16,
}

impl Server {
    /// Starts a server on `ports` ports, with the words of `arguments`, and waits until it is ready.
    pub fn start(ports: u16, arguments: &str) -> Server {
        Server::start_as(c1m(), ports, arguments)
    }

    /// Starts a server by a prepared command.
    pub fn start_as(command: Command, ports: u16, arguments: &str) -> Server {
        Server::start_as_at(command, free_ports(ports), ports, arguments)
    }

    /// Starts a server by a prepared command on `ports` ports from `port` on, for a test with its own network namespace.
    pub fn start_as_at(mut command: Command, port: u16, ports: u16, arguments: &str) -> Server {
        command.args(server_arguments(port, ports, arguments).split_whitespace());
        let mut running = Running::start(command);
        running.until_ready();
        Server { running, port, ports }
    }

    /// A server that was started and is ready.
    pub fn of(running: Running, port: u16, ports: u16) -> Server {
        Server { running, port, ports }
    }

    /// The arguments that lead a client to the server.
    pub fn at(&self) -> String {
        at(self.port, self.ports)
    }

    /// Ends the server in order, and checks that it succeeded.
    pub fn stop(self) -> Finished {
        self.running.signal(libc::SIGTERM);
        let finished = self.running.wait();
        assert_eq!(finished.code(), 0, "{}{}", finished.out, finished.err);
        finished
    }
}

/// The arguments that start a server on the given ports.
pub fn server_arguments(port: u16, ports: u16, arguments: &str) -> String {
    format!("server {} {arguments}", at(port, ports))
}

/// The arguments that name ports, for a server and for a client.
pub fn at(port: u16, ports: u16) -> String {
    format!("--port {port} --ports {ports}")
}
