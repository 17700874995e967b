//! One HTTP connection: its unanswered input, its output, and its deadlines. It keeps at most one answer, and reads
//! nothing while that waits to be sent. A client that does not read therefore occupies no more memory than one
//! answer.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, SystemTime};

use rustix::event::PollFlags;

use super::http::{self, Reply, Status};
use crate::clock::Mark;
use crate::protocol::http::LONGEST_HEAD;

/// The most time a request may take from its first byte to its last, and an answer may take to be read. Prometheus
/// itself gives up a scrape after 10 s.
const REQUEST_TIME: Duration = Duration::from_secs(10);
const ANSWER_TIME: Duration = Duration::from_secs(10);

/// How long a connection may be idle between requests. A scraper that comes less often connects anew.
const IDLE_TIME: Duration = Duration::from_secs(20);

/// Requests answered on one connection before it is closed.
const MOST_REQUESTS: u32 = 100;

/// Time and bytes for which the connection still reads after its last answer, if the client goes on sending. If the
/// socket were closed at once, the kernel would answer further data with a reset, and the answer might be lost.
const LINGER_TIME: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 1 << 20;

/// Bytes read in one call.
const PIECE: usize = 4 * 1024;

/// The state of a connection. New connections replace old ones in the order of these states.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum State {
    /// The last answer is sent. Further input is discarded.
    Lingering,
    /// No byte of a request has arrived.
    Idle,
    /// Part of a request has arrived.
    Reading,
    /// An answer is being sent.
    Writing,
}

/// What a connection does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// It waits until its socket is ready.
    Wait,
    /// It has more to do at once.
    Continue,
    /// It ends.
    End,
}

/// A connection of a client that reads the metrics.
pub struct Connection {
    stream: TcpStream,
    state: State,
    /// The time at which the connection entered its state, and the time until which it may stay there.
    since: Mark,
    deadline: Mark,
    input: Vec<u8>,
    output: Vec<u8>,
    sent: usize,
    /// Whether the connection ends after the answer that is being sent.
    closes: bool,
    /// Whether the client has sent a FIN.
    ended: bool,
    answers: u32,
    discarded: usize,
}

impl Connection {
    /// A connection that was just accepted. Fails if the socket cannot be made non-blocking.
    pub fn new(stream: TcpStream, now: Mark) -> io::Result<Connection> {
        stream.set_nonblocking(true)?;
        Ok(Connection {
            stream,
            state: State::Idle,
            since: now,
            deadline: now.after(IDLE_TIME),
            input: Vec::new(),
            output: Vec::new(),
            sent: 0,
            closes: false,
            ended: false,
            answers: 0,
            discarded: 0,
        })
    }

    /// The socket, and the events to poll it for.
    pub fn interest(&self) -> (&TcpStream, PollFlags) {
        let flags = if self.state == State::Writing { PollFlags::OUT } else { PollFlags::IN };
        (&self.stream, flags)
    }

    /// The time at which the connection must leave its state.
    pub fn deadline(&self) -> Mark {
        self.deadline
    }

    /// Whether an answer is due, is being sent, or may not have arrived yet.
    pub fn is_owed(&self) -> bool {
        self.state != State::Idle || self.answers == 0
    }

    /// The rank among connections that make room for a new one: the connection with the lowest rank ends.
    pub fn eviction_rank(&self) -> impl Ord + use<> {
        (self.state, self.since)
    }

    /// Advances a connection whose socket is ready, by at most one head read, one answer and one write. `render` writes
    /// the metrics in the format that a reply names.
    pub fn advance(&mut self, now: Mark, render: &dyn Fn(&mut Reply) -> String) -> Next {
        let done = match self.state {
            State::Idle | State::Reading => self.read(now, render),
            State::Writing => self.write(now),
            State::Lingering => self.discard(),
        };
        match done {
            Ok(next) => next,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Next::Wait,
            Err(_) => Next::End,
        }
    }

    /// Ends a connection whose deadline has passed. A client in the middle of a request receives a refusal first.
    pub fn expire(&mut self, now: Mark) -> Next {
        if self.state != State::Reading {
            return Next::End;
        }
        self.answer(&Reply::refusal(Status::Timeout), "", now);
        match self.write(now) {
            Ok(Next::End) | Err(_) => Next::End,
            Ok(next) => next,
        }
    }

    fn read(&mut self, now: Mark, render: &dyn Fn(&mut Reply) -> String) -> io::Result<Next> {
        // The input behind an answered request may already be a whole request. All that has arrived is read before the
        // deadline is looked at; a head has at most `LONGEST_HEAD` bytes.
        while !self.take_request(now, render) {
            if self.ended {
                return Ok(Next::End);
            }
            let mut piece = [0; PIECE];
            let read = self.stream.read(&mut piece)?;
            self.ended = read == 0;
            self.input.extend_from_slice(piece.get(..read).unwrap_or_default());
            if self.state == State::Idle && !self.input.is_empty() {
                self.enter(State::Reading, now, REQUEST_TIME);
            }
        }
        self.write(now)
    }

    /// Begins to answer the first request of the input, if it is complete.
    fn take_request(&mut self, now: Mark, render: &dyn Fn(&mut Reply) -> String) -> bool {
        let Some((length, mut reply)) = http::read(&self.input) else { return false };
        self.input.drain(..length.min(self.input.len()));
        self.answers = self.answers.saturating_add(1);
        let last = self.answers >= MOST_REQUESTS || (self.ended && self.input.is_empty());
        reply.closes |= last;
        let metrics = if reply.status == Status::Ok { render(&mut reply) } else { String::new() };
        self.answer(&reply, &metrics, now);
        true
    }

    fn answer(&mut self, reply: &Reply, metrics: &str, now: Mark) {
        (self.output, self.sent, self.closes) = (reply.response(metrics, SystemTime::now()), 0, reply.closes);
        self.enter(State::Writing, now, ANSWER_TIME);
    }

    fn write(&mut self, now: Mark) -> io::Result<Next> {
        let rest = self.output.get(self.sent..).unwrap_or_default();
        if !rest.is_empty() {
            self.sent = self.sent.saturating_add(self.stream.write(rest)?);
        }
        if self.sent < self.output.len() {
            return Ok(Next::Wait);
        }
        self.output = Vec::new();
        if self.closes {
            if self.ended {
                return Ok(Next::End);
            }
            self.input = Vec::new();
            self.stream.shutdown(Shutdown::Write)?;
            self.enter(State::Lingering, now, LINGER_TIME);
            return Ok(Next::Wait);
        }
        if self.input.is_empty() && !self.ended {
            self.input = Vec::new();
            self.enter(State::Idle, now, IDLE_TIME);
            return Ok(Next::Wait);
        }
        self.enter(State::Reading, now, REQUEST_TIME);
        Ok(Next::Continue)
    }

    fn discard(&mut self) -> io::Result<Next> {
        let read = self.stream.read(&mut [0; LONGEST_HEAD])?;
        self.discarded = self.discarded.saturating_add(read);
        Ok(if read == 0 || self.discarded > LINGER_BYTES { Next::End } else { Next::Wait })
    }

    fn enter(&mut self, state: State, now: Mark, time: Duration) {
        (self.state, self.since, self.deadline) = (state, now, now.after(time));
    }
}
