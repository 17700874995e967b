//! One HTTP connection: what came and is not answered yet, what is to be sent, and until when each may take.
//! At most one answer is kept, and nothing is read while it waits to be sent, so a client that does not read
//! has no memory of ours but that.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use rustix::event::PollFlags;

use super::http::{self, LONGEST_HEAD, Reply, Status};
use crate::clock::Mark;

/// How long a request may take from its first byte to its last, and an answer to be read: Prometheus itself
/// gives a scrape up after 10 s.
const REQUEST_TIME: Duration = Duration::from_secs(10);
const ANSWER_TIME: Duration = Duration::from_secs(10);

/// How long a connection may be idle before its next request. A scraper that comes less often connects anew.
const IDLE_TIME: Duration = Duration::from_secs(20);

/// Requests on one connection; then it is closed.
const MOST_REQUESTS: u32 = 100;

/// How long, and for how many bytes, a client that still sends is listened to behind the last answer. Were its
/// socket closed at once, the kernel would answer what comes with a reset, and the answer might be lost.
const LINGER_TIME: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 1 << 20;

/// Bytes read in one call.
const PIECE: usize = 4 * 1024;

/// What a connection is doing. The order is that in which connections make room for new ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum State {
    /// The last answer is sent; what still comes is thrown away.
    Lingering,
    /// Nothing of a request has come.
    Idle,
    /// A part of a request has come.
    Reading,
    /// An answer is being sent.
    Writing,
}

/// What became of a connection in its turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It goes on when its socket is ready.
    Waits,
    /// It has more to do at once.
    GoesOn,
    /// It is over.
    Ends,
}

/// A connection of a client that wants the metrics.
pub struct Connection {
    stream: TcpStream,
    state: State,
    /// When it came into this state, and until when it may stay there.
    since: Mark,
    deadline: Mark,
    input: Vec<u8>,
    output: Vec<u8>,
    sent: usize,
    /// Whether it ends behind the answer that is being sent.
    closes: bool,
    /// Whether the client has said that it sends nothing more.
    ended: bool,
    answers: u32,
    thrown_away: usize,
}

impl Connection {
    /// A connection that was just accepted.
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
            thrown_away: 0,
        })
    }

    /// The socket, and what it is to be polled for.
    pub fn interest(&self) -> (&TcpStream, PollFlags) {
        let flags = if self.state == State::Writing { PollFlags::OUT } else { PollFlags::IN };
        (&self.stream, flags)
    }

    /// Until when it may stay as it is.
    pub fn deadline(&self) -> Mark {
        self.deadline
    }

    /// Where it stands among those that make room for a new connection: the smallest goes.
    pub fn standing(&self) -> impl Ord + use<> {
        (self.state, self.since)
    }

    /// Does what its socket is ready for: reads one head at most, and does one answer and one write. `render` writes the
    /// metrics in the format that a reply names.
    pub fn turn(&mut self, now: Mark, render: &dyn Fn(&mut Reply) -> String) -> Fate {
        let done = match self.state {
            State::Idle | State::Reading => self.read(now, render),
            State::Writing => self.write(now),
            State::Lingering => self.throw_away(),
        };
        match done {
            Ok(fate) => fate,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Fate::Waits,
            Err(_) => Fate::Ends,
        }
    }

    /// Its time is up. A client in the middle of a request is told so.
    pub fn expire(&mut self, now: Mark) -> Fate {
        if self.state != State::Reading {
            return Fate::Ends;
        }
        self.answer(&Reply::refusal(Status::Timeout), "", now);
        match self.write(now) {
            Ok(Fate::Ends) | Err(_) => Fate::Ends,
            Ok(fate) => fate,
        }
    }

    fn read(&mut self, now: Mark, render: &dyn Fn(&mut Reply) -> String) -> io::Result<Fate> {
        // What follows an answered request may be a whole one already. All that has come is read before anything is
        // judged by its time; a head has `LONGEST_HEAD` bytes at most.
        while !self.take_request(now, render) {
            if self.ended {
                return Ok(Fate::Ends);
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

    /// Begins to answer the first request of the input, if it is whole.
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
        (self.output, self.sent, self.closes) = (reply.response(metrics), 0, reply.closes);
        self.enter(State::Writing, now, ANSWER_TIME);
    }

    fn write(&mut self, now: Mark) -> io::Result<Fate> {
        let rest = self.output.get(self.sent..).unwrap_or_default();
        if !rest.is_empty() {
            self.sent = self.sent.saturating_add(self.stream.write(rest)?);
        }
        if self.sent < self.output.len() {
            return Ok(Fate::Waits);
        }
        self.output = Vec::new();
        if self.closes {
            if self.ended {
                return Ok(Fate::Ends);
            }
            self.input = Vec::new();
            self.stream.shutdown(Shutdown::Write)?;
            self.enter(State::Lingering, now, LINGER_TIME);
            return Ok(Fate::Waits);
        }
        if self.input.is_empty() && !self.ended {
            self.input = Vec::new();
            self.enter(State::Idle, now, IDLE_TIME);
            return Ok(Fate::Waits);
        }
        self.enter(State::Reading, now, REQUEST_TIME);
        Ok(Fate::GoesOn)
    }

    fn throw_away(&mut self) -> io::Result<Fate> {
        let read = self.stream.read(&mut [0; LONGEST_HEAD])?;
        self.thrown_away = self.thrown_away.saturating_add(read);
        Ok(if read == 0 || self.thrown_away > LINGER_BYTES { Fate::Ends } else { Fate::Waits })
    }

    fn enter(&mut self, state: State, now: Mark, time: Duration) {
        (self.state, self.since, self.deadline) = (state, now, now.after(time));
    }
}
