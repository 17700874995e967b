//! How a client shard dials: each connection from a source port of its own, or from another one if another socket of
//! this host has that port.

use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::time::Instant;

use socket2::{Domain, Protocol, Socket, Type};

use super::{ClientConnections, ClientDriver, ConnState};
use crate::addresses::Address;
use crate::client::ports::{Choice, Way, lacks_address};
use crate::client::window::{Awaited, Due, Probe};
use crate::clock::Mark;
use crate::connections::CloseReason;
use crate::error::{Errno, Result};
use crate::failure::Cause;
use crate::sys;
use crate::token::ConnId;

/// Messages above this many bytes are several segments. The last one must not wait for an acknowledgement of the
/// others.
const ONE_SEGMENT: usize = 1_000;

/// Receive buffer of a peer that shall be slow (SO_RCVBUF, which the kernel doubles), in bytes.
const SLOW_READER_BUFFER: usize = 4_096;

/// An attempt to dial a connection, perhaps not the first one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Attempt {
    /// The connection's number within the shard.
    index: u32,
    /// When the connect should have started.
    intended: Instant,
    /// When the first attempt started.
    started: Instant,
    /// The same on the shard's own clock, by which it becomes late.
    since: Mark,
    /// No port was tried yet.
    untried: bool,
}

impl Attempt {
    /// The attempt after it has waited for a port of this host: the wait is no latency of the server.
    fn after_wait(self, now: Instant, since: Mark) -> Attempt {
        let waited = now.saturating_duration_since(self.started);
        Attempt { intended: self.intended + waited, started: now, since, untried: false, ..self }
    }
}

/// What came of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Dialed {
    /// The connection is dialed, or counted as failed.
    Yes,
    /// There is no slot for it yet.
    NoSlot,
    /// There is no port for it yet.
    NoPort,
}

impl ClientDriver {
    /// Dials a connection. `false` if there is no slot for it yet, or no port. One that comes back in place of another waits
    /// for its port while others are dialed.
    pub(super) fn dial(
        &mut self,
        connections: &mut ClientConnections,
        index: u32,
        intended: Option<Instant>,
    ) -> Result<bool> {
        let number = self.number(index);
        let started = Instant::now();
        // A connection that comes back has its predecessor's number, whose port may still be in use.
        let is_anew = self.is_anew(index);
        let ports = &self.config.ports;
        let port = if is_anew { ports.anew(number, started) } else { ports.first(number, started) };
        let since = connections.clock().now();
        let attempt = Attempt { index, intended: intended.unwrap_or(started), started, since, untried: false };
        let outcome = self.dial_from(connections, attempt, port)?;
        let waits = is_anew && outcome == Dialed::NoPort;
        if waits {
            self.again.push_back(Attempt { untried: true, ..attempt });
        }
        let dialed = waits || outcome == Dialed::Yes;
        self.config.progress.tried.add(u64::from(dialed));
        match port {
            Choice::Port(port) if !dialed && is_anew => self.config.ports.give_back(number, port, started),
            Choice::Port(port) if !dialed => self.config.ports.not_tried(number, port, started),
            _ => {}
        }
        Ok(dialed)
    }

    /// Dials connections that wait for another source port, `most` of them and each once. Returns how many were dialed;
    /// `None` if there is no slot for one of them.
    pub(super) fn dial_waiting(&mut self, connections: &mut ClientConnections, most: usize) -> Result<Option<usize>> {
        let mut dialed = 0;
        for _ in 0..self.again.len().min(most) {
            let Some(attempt) = self.again.pop_front() else { break };
            match self.dial_again(connections, attempt)? {
                Dialed::Yes => dialed += 1,
                // The ports of one route rest, and others have some.
                Dialed::NoPort => self.again.push_back(attempt),
                Dialed::NoSlot => {
                    self.again.push_front(attempt);
                    return Ok(None);
                }
            }
        }
        Ok(Some(dialed))
    }

    /// Dials a connection from another source port. It fails when it has found none within the time for a connect: ports
    /// that rested are tried again, and so there is always one to try.
    fn dial_again(&mut self, connections: &mut ClientConnections, attempt: Attempt) -> Result<Dialed> {
        let number = self.number(attempt.index);
        let (now, mark) = (Instant::now(), connections.clock().now());
        if mark.since(attempt.since) >= self.config.workload.connect_timeout {
            return Ok(self.not_dialed(attempt.index, Errno::EADDRNOTAVAIL));
        }
        let ports = &self.config.ports;
        let port = if self.is_anew(attempt.index) { ports.anew(number, now) } else { ports.another(number, now) };
        let attempt = match port {
            Choice::Port(_) if attempt.untried => attempt.after_wait(now, mark),
            _ => attempt,
        };
        let outcome = self.dial_from(connections, attempt, port)?;
        if let (Choice::Port(port), Dialed::NoSlot) = (port, outcome) {
            self.config.ports.give_back(number, port, now);
        }
        Ok(outcome)
    }

    /// Whether a connection comes back in place of one that is over.
    fn is_anew(&self, index: u32) -> bool {
        self.storm.as_ref().is_some_and(|storm| storm.is_anew(index))
    }

    /// Dials a connection from a source port, or counts it as failed if there is none.
    fn dial_from(&mut self, connections: &mut ClientConnections, attempt: Attempt, port: Choice) -> Result<Dialed> {
        let Attempt { index, intended, started, since, .. } = attempt;
        let number = self.number(index);
        let (source, to) = self.config.workload.routes.of(number);
        let port = match port {
            Choice::Port(port) => port,
            Choice::Soon => return Ok(Dialed::NoPort),
            Choice::Exhausted => return Ok(self.not_dialed(index, Errno::EADDRNOTAVAIL)),
        };
        let receive_buffer = self.storm.as_ref().filter(|storm| storm.reads_slowly(index)).map(|_| SLOW_READER_BUFFER);
        let from = (source, port, self.config.ports.way);
        let longest = match &self.fanout {
            // A publication must not wait for an acknowledgement of the one before.
            Some(fanout) if fanout.is_publisher(index) => usize::MAX,
            _ => self.config.workload.protocol.longest_message(),
        };
        let socket = match plain_socket(from, to, longest, receive_buffer) {
            Ok(socket) => socket,
            Err(error) if is_taken(Errno::of(&error)) && !lacks_address(source, to) => {
                self.pass_over(attempt, port);
                return Ok(Dialed::Yes);
            }
            Err(error) => return Ok(self.not_dialed(index, Errno::of(&error))),
        };
        let Some(conn) = connections.dial(socket.as_raw_fd(), to)? else { return Ok(Dialed::NoSlot) };
        connections.keep_dialed(conn, &socket);
        let awaited = Awaited::Connect { socket, given_up: false, attempted: since };
        let key = self.window.add(Probe {
            conn,
            awaited,
            due: Due::at(intended),
            started,
            since: connections.clock().now(),
            round: 0,
            next: None,
        });
        if let Some(state) = connections.state(conn) {
            *state = ConnState::dialed(index, key, port);
        }
        Ok(Dialed::Yes)
    }

    /// Counts a connection that could not be dialed at all.
    fn not_dialed(&mut self, index: u32, errno: Errno) -> Dialed {
        self.config.progress.failed.add(1);
        self.never_stood(index);
        *self.causes.entry(Cause::Errno(errno)).or_default() += 1;
        Dialed::Yes
    }

    /// Another socket of this host has the source port that a connection was to have: dial from another port later.
    fn pass_over(&mut self, attempt: Attempt, port: u16) {
        self.config.progress.passed_over.add(1);
        self.config.ports.rest(self.number(attempt.index), port, Instant::now());
        self.again.push_back(attempt);
    }

    /// A connection is over, and its source port may serve another one. Returns whether the connection never opened
    /// because another socket has the port; it is then dialed again.
    pub(super) fn port_is_free_again(
        &mut self,
        connections: &mut ClientConnections,
        conn: ConnId,
        reason: CloseReason,
    ) -> bool {
        let Some(state) = connections.state(conn).copied() else { return false };
        let (index, port) = (state.index, state.port);
        let number = self.number(index);
        let (source, to) = self.config.workload.routes.of(number);
        if !matches!(reason, CloseReason::NotOpened(errno) if is_taken(errno)) || lacks_address(source, to) {
            self.config.ports.give_back(number, port, Instant::now());
            return false;
        }
        let Some(Probe { due, started, awaited: Awaited::Connect { attempted, .. }, .. }) =
            self.window.remove(state.key())
        else {
            return false;
        };
        self.pass_over(Attempt { index, intended: due.intended, started, since: attempted, untried: false }, port);
        true
    }
}

/// Whether this is the kernel's error for a source port that another socket has.
fn is_taken(errno: Errno) -> bool {
    matches!(errno, Errno::EADDRNOTAVAIL | Errno::EADDRINUSE)
}

/// A socket for one dial, with its source port, and bound to its source address if it has one.
fn plain_socket(
    (source, port, way): (Option<Address>, u16, Way),
    to: SocketAddr,
    longest_message: usize,
    receive_buffer: Option<usize>,
) -> std::io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
    if longest_message > ONE_SEGMENT {
        socket.set_tcp_nodelay(true)?;
    }
    if let Some(bytes) = receive_buffer {
        socket.set_recv_buffer_size(bytes)?;
    }
    match (way, source) {
        (Way::Range, None) => sys::set_source_ports(&socket, port)?,
        (Way::Range, Some(source)) => {
            sys::set_source_ports(&socket, port)?;
            sys::bind_without_port(&socket)?;
            socket.bind(&source.at(0).into())?;
        }
        (Way::Bind, source) => {
            // Without this a port could be bound only once, however many targets there are.
            socket.set_reuse_address(true)?;
            socket.bind(&source.unwrap_or_else(|| Address::any(to)).at(port).into())?;
        }
    }
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// What the attempt was late by before it waited for a port stays.
    #[test]
    fn the_wait_for_a_port_is_no_latency() {
        let (intended, wait) = (Instant::now(), Duration::from_secs(50));
        for late in [0, 3].map(Duration::from_secs) {
            let started = intended + late;
            let (began, later) = (Mark::default(), Mark::default().after(wait));
            let attempt = Attempt { index: 0, intended, started, since: began, untried: true };
            let attempt = attempt.after_wait(started + wait, later);
            assert_eq!((attempt.started, attempt.since, attempt.untried), (started + wait, later, false));
            assert_eq!(attempt.started - attempt.intended, late);
        }
    }
}
