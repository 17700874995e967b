//! A server's metrics for Prometheus. A thread of its own reads the shards' counters whenever a client asks; the
//! shards only count.
//!
//! Whatever clients do, the endpoint takes one thread, at most `METRICS_CONNECTIONS` sockets, and a bounded number
//! of bytes and seconds for each. A panic in any thread ends the whole process (`panic = "abort"`). A shard's panic
//! must do so, as an unwinding shard would free memory that the kernel still writes to. Code of this module
//! therefore must not panic at all, and the lints below forbid everything that could.
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
mod families;
pub mod http;

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::nice;

use crate::clock::{Clock, Mark};
use crate::error::{ConfigError, Errno, Error, HostError, HostReason, Result};
use crate::host::start_thread;
use crate::plan::{DESCRIPTORS_OF_METRICS, Ports};
use crate::shard::ShardHandle;
use crate::stats::OwnMetrics;
use crate::sys::Doorbell;
use connection::{Connection, Next};
pub use families::Also;
use families::Metrics;
use http::{PATH, Reply, Status};

/// Connections at most that read a server's metrics at once; a further one takes the place of one that is idle.
pub const METRICS_CONNECTIONS: usize = 8;

const _: () = assert!(METRICS_CONNECTIONS as u64 + 5 <= DESCRIPTORS_OF_METRICS, "the plan counts their descriptors");

/// Connections accepted between two passes over the accepted ones. The limit keeps a flood of new connections from
/// pushing one out before its request was read.
const ACCEPTS_PER_TURN: usize = METRICS_CONNECTIONS / 2;

/// How long nothing is accepted after the kernel refused for lack of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The longest sleep while a client is connected. Deadlines are on a clock that counts little more than the sleep that
/// was meant, so a pause of the process ends no request.
const LONGEST_SLEEP: Duration = Duration::from_secs(1);

/// How long clients that were accepted before the end have for their requests and answers. After a takeover another
/// process accepts at the same listener, so a scrape that came here would otherwise be the only thing that is lost.
const LAST_ANSWERS: Duration = Duration::from_secs(2);

/// The lowest port that needs no privilege by default (`net.ipv4.ip_unprivileged_port_start`).
const FIRST_UNPRIVILEGED_PORT: u16 = 1024;

/// The nice value by which this thread ranks below a shard. Where both want one core, a scrape waits and an echo
/// does not.
const NICE: i32 = 10;

/// The endpoint of the metrics. It answers until it is dropped, which waits for the answers to clients that were accepted
/// before.
pub struct Exporter {
    address: SocketAddr,
    /// The listener once more, for a later process.
    listener: TcpListener,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// The state that the owner shares with the endpoint's thread.
struct Shared {
    /// Rung when one of the following fields changed.
    doorbell: Doorbell,
    stop: AtomicBool,
    metrics: OnceLock<Metrics>,
}

impl Exporter {
    /// Listens on `address`, on a thread of its own; port 0 stands for a free port that is not one of the `served`
    /// ports. Clients that connect before `serve` wait until then. Returns a `ConfigError` if the address cannot be
    /// listened on, and a `HostError` if no thread can be started. `inherited` is the listener of an earlier process,
    /// which serves if it has that address.
    pub fn listen(address: SocketAddr, served: Ports, inherited: Option<TcpListener>) -> Result<Exporter> {
        let refused = |error: std::io::Error| -> Error {
            match Errno::of(&error) {
                errno @ (Errno::EMFILE | Errno::ENFILE) => {
                    HostError::new("listen for metrics on", address.to_string(), errno, HostReason::NoDescriptor).into()
                }
                errno @ (Errno::EPERM | Errno::ENOSYS) => {
                    HostError::new("listen for metrics on", address.to_string(), errno, HostReason::Filtered).into()
                }
                errno => ConfigError::Metrics { address, errno }.into(),
            }
        };
        let inherited = inherited.filter(|listener| listener.local_addr().is_ok_and(|at| at == address));
        let listener = inherited.map_or_else(|| bind(address, served), Ok).map_err(refused)?;
        listener.set_nonblocking(true).map_err(refused)?;
        let address = listener.local_addr().map_err(refused)?;
        let shared =
            Arc::new(Shared { doorbell: Doorbell::new()?, stop: AtomicBool::new(false), metrics: OnceLock::new() });
        let theirs = shared.clone();
        // Taken here, before shards and clients can use up the descriptors: without it the endpoint might never have one.
        let spare = listener.try_clone().ok();
        let copy = listener.try_clone().map_err(refused)?;
        let answer = move || Endpoint::new(listener, spare).answer(&theirs);
        let thread = start_thread("c1m-metrics", answer)?;
        Ok(Exporter { address, listener: copy, shared, thread: Some(thread) })
    }

    /// The listener, for a later process.
    pub fn listener(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }

    /// Answers from now on, with the counters of these shards and those of their service; with those of what the server
    /// does `also`, too.
    pub fn serve(&self, shards: Vec<ShardHandle>, own: OwnMetrics, also: Also) {
        // Only the first call counts: a second set of shards would belong to another server.
        let _ = self.shared.metrics.set(Metrics::new(shards, own, also));
        self.shared.doorbell.ring();
    }

    /// The address of the metrics.
    pub fn url(&self) -> String {
        format!("http://{}{PATH}", self.address)
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        self.shared.doorbell.ring();
        if let Some(thread) = self.thread.take() {
            // The thread waits only for sockets and the doorbell, and its code cannot panic.
            let _ = thread.join();
        }
    }
}

/// Binds to an address. For port 0 the kernel may choose one of the served ports, as the server has not bound them yet.
/// The first free port beside them is taken then.
fn bind(address: SocketAddr, served: Ports) -> std::io::Result<TcpListener> {
    let listener = TcpListener::bind(address)?;
    if address.port() != 0 || !served.contains(listener.local_addr()?.port()) {
        return Ok(listener);
    }
    let at = |port| {
        let mut address = address;
        address.set_port(port);
        TcpListener::bind(address).ok()
    };
    let mut beside = (served.last()..=u16::MAX).skip(1).chain(FIRST_UNPRIVILEGED_PORT..served.first());
    beside.find_map(at).ok_or_else(|| std::io::Error::from_raw_os_error(Errno::EADDRINUSE.0))
}

/// The listener and its accepted connections, on the thread that answers them.
struct Endpoint {
    listener: TcpListener,
    connections: Vec<(Connection, Next)>,
    /// A descriptor kept in reserve for the moment when the process has no other.
    spare: Option<TcpListener>,
    /// The time until which nothing is accepted; `None` if connections may be accepted now.
    accepts_at: Option<Mark>,
    /// The time in which this thread looked at its sockets.
    clock: Clock,
}

impl Endpoint {
    fn new(listener: TcpListener, spare: Option<TcpListener>) -> Endpoint {
        let clock = Clock::begin(Instant::now());
        Endpoint { listener, connections: Vec::new(), spare, accepts_at: None, clock }
    }

    /// Answers until `stop` is set, and then those that were accepted before.
    fn answer(&mut self, shared: &Shared) {
        // Raising the nice value needs no privilege; without it a scrape would only be served sooner.
        let _ = nice(NICE);
        let mut end = None;
        loop {
            let metrics = shared.metrics.get();
            let before = self.clock.now();
            if shared.stop.load(Ordering::Acquire) {
                let end = *end.get_or_insert_with(|| before.after(LAST_ANSWERS));
                self.connections.retain(|(connection, _)| connection.is_owed());
                if self.connections.is_empty() || end <= before {
                    return;
                }
            }
            let Some(ready) = self.wait(shared, metrics.is_some() && end.is_none(), end) else {
                std::thread::sleep(ACCEPT_PAUSE);
                continue;
            };
            if ready.doorbell {
                shared.doorbell.rings_within(Duration::ZERO);
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

    /// Waits until a socket is ready, a deadline passes or the `end` comes. `None` if poll(2) fails.
    fn wait(&mut self, shared: &Shared, listens: bool, end: Option<Mark>) -> Option<Ready> {
        let now = self.clock.now();
        let accepts = listens && self.accepts_at.is_none_or(|at| at <= now);
        let mut polls = vec![PollFd::new(&shared.doorbell, PollFlags::IN)];
        polls.extend(self.connections.iter().map(|(connection, _)| {
            let (stream, flags) = connection.interest();
            PollFd::new(stream, flags)
        }));
        if accepts {
            polls.push(PollFd::new(&self.listener, PollFlags::IN));
        }
        let goes_on = self.connections.iter().any(|(_, next)| *next == Next::Continue);
        let deadlines = self.connections.iter().map(|(connection, _)| connection.deadline());
        let due = deadlines.chain(self.accepts_at.filter(|_| listens && !accepts)).chain(end).min();
        let timeout = match (goes_on, due) {
            (true, _) => Some(Duration::ZERO),
            // Rounded up, so that the deadline has passed when the wait is over.
            (false, Some(due)) => Some(due.since(now).saturating_add(Duration::from_millis(1)).min(LONGEST_SLEEP)),
            (false, None) => None,
        };
        self.clock.sleep(Some(self.clock.due(now.after(timeout.unwrap_or_default()))));
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        match poll(&mut polls, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(_) => return None,
        }
        self.clock.look(Instant::now());
        let mut is_ready = polls.iter().map(|poll| !poll.revents().is_empty());
        let doorbell = is_ready.next().unwrap_or(false);
        let connections = is_ready.by_ref().take(self.connections.len()).collect();
        Some(Ready { doorbell, connections, listener: is_ready.next().unwrap_or(false) })
    }

    /// Advances each connection that is ready or has more to do. A connection ends if its deadline passed `before`
    /// its socket was polled and found without data. After a pause of the process, data that arrived meanwhile is
    /// therefore read first.
    fn serve(&mut self, ready: &Ready, before: Mark, render: &dyn Fn(&mut Reply) -> String) {
        let now = self.clock.now();
        for ((connection, next), ready) in self.connections.iter_mut().zip(&ready.connections) {
            if *ready || *next == Next::Continue {
                *next = connection.advance(now, render);
            } else if connection.deadline() <= before {
                *next = connection.expire(now);
            }
            // A client that keeps sending stays ready, but its deadline holds all the same.
            if *ready && *next == Next::Wait && connection.deadline() <= before {
                *next = connection.expire(now);
            }
        }
        self.connections.retain(|(_, next)| *next != Next::End);
        if self.connections.is_empty() && self.spare.is_none() {
            self.spare = self.listener.try_clone().ok();
        }
    }

    /// Accepts a few of the waiting clients.
    fn accept(&mut self) {
        self.accepts_at = None;
        for _ in 0..ACCEPTS_PER_TURN {
            match self.listener.accept() {
                Ok((stream, _)) => self.add(stream),
                Err(error) => match Errno::of(&error) {
                    Errno::EAGAIN => return,
                    // The client closed the connection, or a signal came.
                    Errno::ECONNABORTED | Errno::EINTR => {}
                    // The kernel looks for a descriptor before it looks for a client, so there may be no client.
                    Errno::EMFILE | Errno::ENFILE if !self.has_waiting_client() => return,
                    Errno::EMFILE | Errno::ENFILE if self.free_a_descriptor() => {}
                    _ => {
                        self.accepts_at = Some(self.clock.now().after(ACCEPT_PAUSE));
                        return;
                    }
                },
            }
        }
    }

    /// Whether a client waits to be accepted.
    fn has_waiting_client(&self) -> bool {
        let mut listener = [PollFd::new(&self.listener, PollFlags::IN)];
        poll(&mut listener, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
    }

    fn add(&mut self, stream: TcpStream) {
        if self.connections.len() >= METRICS_CONNECTIONS {
            self.end_one();
        }
        if let Ok(connection) = Connection::new(stream, self.clock.now()) {
            self.connections.push((connection, Next::Continue));
        }
    }

    /// Ends the connection that loses the least by it. Returns whether there was a connection.
    fn end_one(&mut self) -> bool {
        let least = self.connections.iter().enumerate().min_by_key(|(_, (connection, _))| connection.eviction_rank());
        let place = least.map(|(place, _)| place);
        place.is_some_and(|place| {
            // Keeps the order: of connections that came at one time the first goes first.
            self.connections.remove(place);
            true
        })
    }

    /// Makes room when the process may open no further file: ends a connection, or gives up the spare descriptor.
    /// Returns whether there is room now.
    fn free_a_descriptor(&mut self) -> bool {
        self.end_one() || self.spare.take().is_some()
    }
}

/// The sockets that poll(2) reported as ready; the connections are in their order.
struct Ready {
    doorbell: bool,
    connections: Vec<bool>,
    listener: bool,
}
