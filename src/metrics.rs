//! What a server shows to Prometheus: the counters of its shards, read from a thread of its own
//! whenever somebody asks. The shards do nothing for it but count.
//!
//! Whatever clients do, this is one thread, at most `METRICS_CONNECTIONS` sockets, and a bounded number of bytes
//! and seconds for each. A panic in any thread ends the whole process (`panic = "abort"`), as a shard's must: an
//! unwinding shard would free memory that the kernel still writes to. So this room may not panic at all; the lints
//! below forbid whatever could.
#![deny(
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::string_slice,
    clippy::unreachable,
    clippy::unwrap_used
)]

mod connection;
pub mod http;
mod shown;

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::nice;

use crate::constants::METRICS_CONNECTIONS;
use crate::error::{ConfigError, Errno, Result};
use crate::host::start_thread;
use crate::shard::ShardHandle;
use crate::sys::Doorbell;
use connection::{Connection, Fate};
use http::{PATH, Reply, Status};
use shown::Metrics;

/// Connections accepted between two looks at those that stand, so that a flood of new ones does not push one
/// out before its request was read.
const ACCEPTS_PER_TURN: usize = METRICS_CONNECTIONS / 2;

/// How long nothing is accepted after the kernel refused to, for want of files or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How much less than a shard this thread is worth where both want a core: a scrape waits, and no echo.
const NICE: i32 = 10;

/// The endpoint of the metrics, until it is dropped.
pub struct Exporter {
    address: SocketAddr,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// What the owner tells the thread.
struct Shared {
    /// Rung when one of the following changed.
    bell: Doorbell,
    stop: AtomicBool,
    metrics: OnceLock<Metrics>,
}

impl Exporter {
    /// Listens on `address`, a free port if it names port 0, on a thread of its own. Whoever asks waits until
    /// `serve`.
    pub fn listen(address: SocketAddr) -> Result<Exporter> {
        let refused = |error: std::io::Error| ConfigError::Metrics { address, errno: Errno::of(&error) };
        let listener = TcpListener::bind(address).map_err(refused)?;
        listener.set_nonblocking(true).map_err(refused)?;
        let address = listener.local_addr().map_err(refused)?;
        let shared =
            Arc::new(Shared { bell: Doorbell::new()?, stop: AtomicBool::new(false), metrics: OnceLock::new() });
        let theirs = shared.clone();
        let answer = move || Desk::new(listener).answer(&theirs);
        let thread = start_thread("c1m-metrics", answer)?;
        Ok(Exporter { address, shared, thread: Some(thread) })
    }

    /// Answers from now on, with what these shards have counted.
    pub fn serve(&self, shards: Vec<ShardHandle>) {
        // Set once: a second set of shards would be another server's.
        let _ = self.shared.metrics.set(Metrics::new(shards));
        self.shared.bell.ring();
    }

    /// Where the metrics are.
    pub fn url(&self) -> String {
        format!("http://{}{PATH}", self.address)
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        self.shared.bell.ring();
        if let Some(thread) = self.thread.take() {
            // It waits for nobody but the bell, and has no panic to tell of.
            let _ = thread.join();
        }
    }
}

/// The listener and those that it has accepted, on the thread that answers them.
struct Desk {
    listener: TcpListener,
    connections: Vec<(Connection, Fate)>,
    /// A descriptor kept for the moment when the process has no other.
    spare: Option<TcpListener>,
    /// Until when nothing is accepted.
    accepts_at: Option<Instant>,
}

impl Desk {
    fn new(listener: TcpListener) -> Desk {
        Desk { spare: listener.try_clone().ok(), listener, connections: Vec::new(), accepts_at: None }
    }

    /// Answers until it is told to stop.
    fn answer(&mut self, shared: &Shared) {
        // Refused to nobody; without it a scrape would only be less patient.
        let _ = nice(NICE);
        while !shared.stop.load(Ordering::Acquire) {
            let metrics = shared.metrics.get();
            let before = Instant::now();
            let Some(ready) = self.wait(shared, metrics.is_some(), before) else {
                std::thread::sleep(ACCEPT_PAUSE);
                continue;
            };
            if ready.bell {
                shared.bell.rings_within(Duration::ZERO);
            }
            let Some(metrics) = metrics else { continue };
            let render = |reply: &mut Reply| {
                metrics.render(reply.format).unwrap_or_else(|_| {
                    reply.status = Status::Internal;
                    String::new()
                })
            };
            self.serve(&ready, before, &render);
            if ready.listener {
                self.accept();
            }
        }
    }

    /// Waits until a socket is ready or a time is up. `None` if the kernel refuses to.
    fn wait(&self, shared: &Shared, listens: bool, now: Instant) -> Option<Ready> {
        let accepts = listens && self.accepts_at.is_none_or(|at| at <= now);
        let mut polls = vec![PollFd::new(&shared.bell, PollFlags::IN)];
        polls.extend(self.connections.iter().map(|(connection, _)| {
            let (stream, flags) = connection.interest();
            PollFd::new(stream, flags)
        }));
        if accepts {
            polls.push(PollFd::new(&self.listener, PollFlags::IN));
        }
        let goes_on = self.connections.iter().any(|(_, fate)| *fate == Fate::GoesOn);
        let deadlines = self.connections.iter().map(|(connection, _)| connection.deadline());
        let due = deadlines.chain(self.accepts_at.filter(|_| listens && !accepts)).min();
        let timeout = match (goes_on, due) {
            (true, _) => Some(Duration::ZERO),
            // Rounded up, so that it is due when the wait is over.
            (false, Some(due)) => Some(due.saturating_duration_since(now).saturating_add(Duration::from_millis(1))),
            (false, None) => None,
        };
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        match poll(&mut polls, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(_) => return None,
        }
        let mut is_ready = polls.iter().map(|poll| !poll.revents().is_empty());
        let bell = is_ready.next().unwrap_or(false);
        let connections = is_ready.by_ref().take(self.connections.len()).collect();
        Some(Ready { bell, connections, listener: is_ready.next().unwrap_or(false) })
    }

    /// Gives each connection its turn that is ready or has more to do. One whose time was up `before` its
    /// socket was looked at, and found silent, ends: after a pause of the process what came meanwhile is read
    /// first.
    fn serve(&mut self, ready: &Ready, before: Instant, render: &dyn Fn(&mut Reply) -> String) {
        let now = Instant::now();
        for ((connection, fate), ready) in self.connections.iter_mut().zip(&ready.connections) {
            if *ready || *fate == Fate::GoesOn {
                *fate = connection.turn(now, render);
            } else if connection.deadline() <= before {
                *fate = connection.expire(now);
            }
            // One that keeps sending stays ready, and its time is up all the same.
            if *ready && *fate == Fate::Waits && connection.deadline() <= before {
                *fate = connection.expire(now);
            }
        }
        self.connections.retain(|(_, fate)| *fate != Fate::Ends);
        if self.connections.is_empty() && self.spare.is_none() {
            self.spare = self.listener.try_clone().ok();
        }
    }

    /// Accepts a few of those who wait.
    fn accept(&mut self) {
        self.accepts_at = None;
        for _ in 0..ACCEPTS_PER_TURN {
            match self.listener.accept() {
                Ok((stream, _)) => self.seat(stream),
                Err(error) => match Errno::of(&error) {
                    Errno::EAGAIN => return,
                    // The client has gone again, or a signal came.
                    Errno::ECONNABORTED | Errno::EINTR => {}
                    // The kernel looks for a descriptor before it looks for a client: there need not be one.
                    Errno::EMFILE | Errno::ENFILE if !self.is_awaited() => return,
                    Errno::EMFILE | Errno::ENFILE if self.free_a_descriptor() => {}
                    _ => {
                        self.accepts_at = Instant::now().checked_add(ACCEPT_PAUSE);
                        return;
                    }
                },
            }
        }
    }

    /// Whether a client waits to be accepted.
    fn is_awaited(&self) -> bool {
        let mut listener = [PollFd::new(&self.listener, PollFlags::IN)];
        poll(&mut listener, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
    }

    fn seat(&mut self, stream: TcpStream) {
        if self.connections.len() >= METRICS_CONNECTIONS {
            self.end_one();
        }
        let now = Instant::now();
        if let Ok(connection) = Connection::new(stream, now) {
            self.connections.push((connection, Fate::GoesOn));
        }
    }

    /// Ends the connection that has the least to lose. Tells whether there was one.
    fn end_one(&mut self) -> bool {
        let least = self.connections.iter().enumerate().min_by_key(|(_, (connection, _))| connection.standing());
        let place = least.map(|(place, _)| place);
        place.is_some_and(|place| {
            self.connections.swap_remove(place);
            true
        })
    }

    /// The process may open no further file: an idle connection makes room for a new one, or the spare
    /// descriptor does.
    fn free_a_descriptor(&mut self) -> bool {
        self.end_one() || self.spare.take().is_some()
    }
}

/// What the kernel says is ready, the connections in their order.
struct Ready {
    bell: bool,
    connections: Vec<bool>,
    listener: bool,
}
